"""Servers of Redis that belong together: a master and its replica, watched by Sentinels; the nodes of a Cluster."""

from collections.abc import Generator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import Any, NamedTuple

from tests import servers
from tests.patience import wait_until

__all__ = [
    "SERVICE",
    "Watched",
    "is_master",
    "is_up",
    "join",
    "look_at",
    "replication_of",
    "start_cluster",
    "start_node",
    "start_watched",
]

SERVICE = "shop"
"""The name by which Sentinels know the master."""

# Until one that does not answer counts as down. On a busy machine a shorter one takes those that live for dead.
_DOWN_AFTER = 1000

# A master does not wait for further replicas before it sends the first one what it has.
_AT_ONCE = ("--repl-diskless-sync-delay", "0")


class Watched(NamedTuple):
    """A master and a replica, and the Sentinels that watch them."""

    nodes: list[servers.Server]
    sentinels: list[servers.Server]


def look_at(server: servers.Server) -> Any:
    """Return a client to look at a server with."""
    import redis

    return redis.Redis(port=server.port, protocol=2, decode_responses=True)


def replication_of(server: servers.Server) -> dict[str, Any]:
    """Return what it says of whom it copies; nothing for one that does not answer."""
    import redis

    with look_at(server) as client, suppress(redis.RedisError):
        answer: dict[str, Any] = client.info("replication")
        return answer
    return {}


def is_master(server: servers.Server) -> bool:
    """Whether it takes writes."""
    return replication_of(server).get("role") == "master"


def is_up(replica: servers.Server) -> bool:
    """Whether it is a replica, and has what its master has."""
    return replication_of(replica).get("master_link_status") == "up"


@contextmanager
def start_watched() -> Generator[Watched]:
    """Start a master, its replica, and three Sentinels of which two decide."""
    with ExitStack() as stack:
        nodes = [stack.enter_context(servers.start_redis(*_AT_ONCE)) for _ in range(2)]
        master, replica = nodes
        with look_at(replica) as client:
            client.replicaof("127.0.0.1", master.port)
        wait_until(lambda: is_up(replica))
        sentinels = [
            stack.enter_context(
                servers.start_sentinel(
                    f"monitor {SERVICE} 127.0.0.1 {master.port} 2",
                    f"down-after-milliseconds {SERVICE} {_DOWN_AFTER}",
                    f"failover-timeout {SERVICE} 3000",
                )
            )
            for _ in range(3)
        ]
        for sentinel in sentinels:
            with look_at(sentinel) as client:
                wait_until(lambda client=client: _knows_all(client.sentinel_master(SERVICE)))
        yield Watched(nodes, sentinels)


def _knows_all(state: Any) -> bool:
    return state["num-slaves"] == 1 and state["num-other-sentinels"] == 2


def start_node(*options: str) -> servers.Server:
    """Start a node of a Cluster, which knows no other and has no slots."""
    # By default the port of the bus is 10,000 above the other, where there may be none.
    bus = ("--cluster-port", str(servers.free_port()))
    return servers.start_redis("--cluster-enabled", "yes", *bus, *options)


def join(nodes: Sequence[servers.Server], slots: Sequence[tuple[int, int]]) -> None:
    """Make a Cluster of nodes: of these slots, from the first to the last, each; what is left over are replicas."""
    with ExitStack() as stack:
        clients = [stack.enter_context(look_at(node)) for node in nodes]
        for number, (client, (first, last)) in enumerate(zip(clients, slots, strict=False), 1):
            client.execute_command("CLUSTER", "ADDSLOTSRANGE", first, last)
            # Else all begin with the same, and who of two has a slot is disputed for a while.
            client.execute_command("CLUSTER", "SET-CONFIG-EPOCH", number)
        for node, client in zip(nodes[1:], clients[1:], strict=True):
            bus = client.config_get("cluster-port")["cluster-port"]
            clients[0].execute_command("CLUSTER", "MEET", "127.0.0.1", node.port, bus)
        wait_until(lambda: all(_is_joined(client, len(nodes)) for client in clients))
        names = [client.cluster("MYID") for client in clients]
        for client, name in zip(clients[len(slots) :], names, strict=False):
            client.execute_command("CLUSTER", "REPLICATE", name)
        wait_until(lambda: all(is_up(replica) for replica in nodes[len(slots) :]))


def _is_joined(client: Any, nodes: int) -> bool:
    info = client.cluster("INFO")
    return info["cluster_state"] == "ok" and int(info["cluster_known_nodes"]) == nodes


@contextmanager
def start_cluster(replicas: int = 0) -> Generator[list[servers.Server]]:
    """Start three nodes, each with a third of the slots, and so many replicas, one of each at most."""
    with ExitStack() as stack:
        # One that is soon missed, and by whatever replica there is.
        options = ("--cluster-node-timeout", str(_DOWN_AFTER), "--cluster-replica-validity-factor", "0", *_AT_ONCE)
        nodes = [stack.enter_context(start_node(*(options if replicas else ()))) for _ in range(3 + replicas)]
        join(nodes, [(0, 5000), (5001, 11000), (11001, 16383)])
        yield nodes

"""The ways to a server, for a client of each kind or for a URL: of callers that block, and of those that await."""

import re
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Final, TypeAlias
from urllib.parse import urlencode

import redis
import redis.asyncio
from redis.exceptions import ReadOnlyError, RedisError, ResponseError, SlotNotCoveredError

from server_session._colour import settled
from server_session._settings import seconds_of
from server_session.exceptions import ConfigurationError
from server_session.stores._clients import ClientOfEachLoop, ClientOfProcess
from server_session.stores._parameters import parameters_of, refusal_of, with_plain_scheme
from server_session.stores._waits import AT_ONCE, in_time, left
from server_session.stores.redis._connections import Connections
from server_session.stores.redis._pipeline import Pipeline
from server_session.stores.redis._resp import packed

__all__ = ["NODES", "ON_ANOTHER_LOOP", "Client", "ways_of"]

Client: TypeAlias = redis.Redis | redis.RedisCluster | redis.asyncio.Redis | redis.asyncio.RedisCluster
"""The clients that a store can be given. What a Sentinel's `master_for` returns is a `Redis`."""

_Way: TypeAlias = Callable[[bytes | str, tuple[bytes, ...]], Awaitable[Any]]
"""Sends a command to the server of a key, or to a Cluster's node of a name, which is text; and returns its answer.

It sends no command twice whose answer was lost, as the clients' own `execute_command` does.
"""

NODES: Final = ""
"""In the place of a key or of a node's name: asks for the names of a Cluster's nodes."""

# What is not of this form redis-py reads in part, without a word: a password with a reserved character in it, a path
# that is no number, a socket whose path is not absolute.
_WHOLE: Final = re.compile(r"(rediss?://[^/?#]*(/\d*)?|unix://([^/?#]*@)?/[^?#]*)(\?[^#@]*)?")

# redis-py takes these as objects, and looks at them when it connects.
_OBJECTS: Final = ("retry", "credential_provider", "redis_connect_func", "socket_keepalive_options", "socket_type")

# Connections of a store made from a URL, for all threads that block; `?max_connections=` in the URL wins.
_CONNECTIONS: Final = 50

_ELSEWHERE: Final = (
    "redis-py's asynchronous client runs on asyncio's event loop alone: under trio make the store of a URL with "
    "`blocking=True`, or of a blocking client, which is then called in worker threads"
)
ON_ANOTHER_LOOP: Final = (
    "redis-py's asynchronous client of a Cluster serves one event loop, and this one was used on another: "
    "give each loop a store and a client of its own, or take a blocking client"
)


def ways_of(client: Client | str, limit: float, blocking: bool) -> tuple[_Way | None, _Way | None]:
    """Return the ways by a client, for callers that block and for those that await, `None` where it has none.

    By those of a URL, which are made here, only the way that blocks if so asked.

    Raises:
        ConfigurationError: It is no client of redis-py, it decodes its answers, or the URL cannot be read.
    """
    encoding: Any = client
    ways: tuple[_Way | None, _Way | None]
    match client:
        case str():
            encoding = _pool(redis.ConnectionPool, client, limit, max_connections=_CONNECTIONS)
            connections = ClientOfProcess(lambda: Connections(encoding), lambda _: None)
            pool = None if blocking else _pool(redis.asyncio.ConnectionPool, client, limit)
            ways = partial(_ask_in_turn, connections), pool and _by_pipeline(pool, limit)
        case redis.Redis():
            ways = partial(_ask, client.connection_pool), None
        case redis.RedisCluster():
            ways = partial(_ask_cluster, client), None
        case redis.asyncio.Redis():
            ways = None, _by_pipeline(client.connection_pool, limit)
        case redis.asyncio.RedisCluster():
            clients = ClientOfEachLoop(lambda: client, None, _ELSEWHERE, ON_ANOTHER_LOOP)
            ways = None, partial(_ask_cluster_awaiting, clients)
        case _:
            raise ConfigurationError(
                f"{type(client).__name__} is no client of redis-py: give a URL, or a Redis or RedisCluster "
                "of `redis` or `redis.asyncio`"
            )
    if encoding.get_encoder().decode_responses:
        raise ConfigurationError(
            "the client decodes its answers, and a session's fields are bytes: make it without decode_responses=True"
        )
    return ways


async def _ask_in_turn(
    connections: ClientOfProcess[Connections], _name: bytes | str, command: tuple[bytes, ...]
) -> Any:
    return connections.get().call(command)


async def _ask(pool: Any, _name: bytes | str, command: tuple[bytes, ...]) -> Any:
    connection = pool.get_connection()
    try:
        connection.send_packed_command([packed(command)])
        return connection.read_response()
    except ResponseError as error:
        # It was the master, as in `Connections`.
        if isinstance(error, ReadOnlyError):
            connection.disconnect()
        raise
    except BaseException:
        # A signal's handler may raise, and an answer that nobody read is not to reach the next caller.
        connection.disconnect()
        raise
    finally:
        pool.release(connection)


async def _ask_cluster(client: Any, name: bytes | str, command: tuple[bytes, ...]) -> Any:
    if name == NODES:
        return [node.name for node in client.get_primaries()]
    try:
        node = client.get_node(node_name=name) if isinstance(name, str) else client.get_node_from_key(name)
    except SlotNotCoveredError:
        # The client itself looks anew only when a node has answered, and here there is none to ask.
        await settled(client.nodes_manager.initialize())
        node = client.get_node_from_key(name)
    try:
        # Where it is told the node it follows a slot that has moved, but sends nothing again whose answer was lost.
        return await settled(client.execute_command(command[0].decode(), *command[1:], target_nodes=node))
    except (AttributeError, TypeError, RuntimeError) as error:
        if "loop" in str(error):
            raise
        # Others change the client's nodes while it goes through them, and end connections that are in use.
        raise redis.ConnectionError("the nodes changed meanwhile") from error


async def _ask_cluster_awaiting(clients: Any, name: bytes | str, command: tuple[bytes, ...]) -> Any:
    client = clients.get()
    async with in_time(left()):
        return await _ask_cluster(await client.initialize(), name, command)


def _by_pipeline(pool: Any, limit: float) -> _Way:
    pipelines = ClientOfEachLoop(lambda: Pipeline(pool.make_connection(), limit), Pipeline.close, _ELSEWHERE)
    return partial(_ask_pipeline, pipelines, limit)


def _ask_pipeline(
    pipelines: ClientOfEachLoop[Pipeline], limit: float, _name: bytes | str, command: tuple[bytes, ...]
) -> Awaitable[Any]:
    call, seconds = pipelines.get().call(command), left()
    # Most calls have their whole limit, which the connection keeps with one timer for many.
    return call if seconds > limit - AT_ONCE else _within(seconds, call)


async def _within(seconds: float, call: Awaitable[Any]) -> Any:
    async with in_time(seconds):
        return await call


def _pool(kind: Any, url: str, limit: float, **options: Any) -> Any:
    # RESP2 says all that is said here.
    limits = {"protocol": 2, "socket_timeout": limit, "socket_connect_timeout": limit}
    parameters = parameters_of(url)
    url = with_plain_scheme(url)
    whole = _WHOLE.fullmatch(url)
    names = [*(("db",) if whole and whole[2] and whole[2] != "/" else ()), *(name for name, _ in parameters)]
    for name in names:
        if names.count(name) > 1:
            raise refusal_of(name, "is given twice")
        if name in _OBJECTS:
            raise refusal_of(name, "cannot be given as text: make a client of redis-py with it")
    try:
        if not whole:
            raise ValueError  # noqa: TRY301 - it cannot be read, as what redis-py refuses
        pool = _made(kind, url, **limits, **options)
    except (TypeError, AttributeError, ValueError, LookupError, RedisError):
        # What Python and redis-py say of it may quote the password.
        for name, value in parameters:
            try:
                _made(kind, f"{url.partition(':')[0]}:///?{urlencode({name: value})}")
            except (TypeError, AttributeError):
                raise refusal_of(name, "is none that redis-py takes in a URL") from None
            except (ValueError, LookupError, RedisError):
                raise refusal_of(name, "has a value that redis-py does not take") from None
        raise ConfigurationError(
            "the URL cannot be read: give redis://[user:password@]host[:port][/number][?option=value], the same with "
            "rediss:// for TLS, or unix:///path; in a user and password write reserved characters as %XX"
        ) from None
    for name in ("socket_timeout", "socket_connect_timeout"):
        seconds_of(name, pool.connection_kwargs[name])
    return pool


def _made(kind: Any, url: str, **options: Any) -> Any:
    pool = kind.from_url(url, **options)
    # Made, but not connected: what else the URL asks for is only looked at here.
    pool.connection_class(**pool.connection_kwargs)
    pool.get_encoder().encode("")
    return pool

import asyncio
import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, ClassVar

import pytest
import redis
import redis.asyncio
import redis.asyncio.sentinel
import redis.sentinel
from redis.asyncio import RedisCluster as AwaitingCluster

from server_session._colour import Colour, drive, run_awaiting, run_blocking
from server_session.exceptions import ColourError, ConfigurationError, RecordError, StoreError
from server_session.stores._base import APPLIED, CONFLICT, MISSING, Lifetime
from server_session.stores.redis import RedisSessionStore
from server_session.testing import StoreContract
from tests import servers

LONG = Lifetime(1800, 86400)
KEY = "k" * 24


class Wire:
    """Stands between clients and a server, notes the commands that clients send, and can lose answers."""

    def __init__(self, target: int | None = None) -> None:
        self.target = target
        self.sent: list[str] = []
        self.loses_answers = False
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=200)
        self.port: int = self._listener.getsockname()[1]
        self._open: list[socket.socket] = [self._listener]
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client = self._listener.accept()[0]
                server = socket.create_connection(("127.0.0.1", self.target))
                self._open += [client, server]
                threading.Thread(target=self._ask, args=(client, server), daemon=True).start()
                threading.Thread(target=self._answer, args=(client, server), daemon=True).start()

    def _ask(self, client: socket.socket, server: socket.socket) -> None:
        with contextlib.suppress(OSError), client.makefile("rb") as reader:
            while head := reader.readline():
                lines = [head]
                for _ in range(int(head[1:])):
                    size = reader.readline()
                    lines += [size, reader.read(int(size[1:]) + 2)]
                self.sent.append(lines[2].decode().strip())
                server.sendall(b"".join(lines))
        self._hang_up(client, server)

    def _answer(self, client: socket.socket, server: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := server.recv(65536):
                if self.loses_answers:
                    break
                client.sendall(data)
        self._hang_up(client, server)

    def _hang_up(self, *connections: socket.socket) -> None:
        for connection in connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._hang_up(*self._open)
        for connection in self._open:
            connection.close()


@pytest.fixture
def wire(redis_server: servers.Server) -> Iterator[Wire]:
    wire = Wire(redis_server.port)
    yield wire
    wire.close()


@pytest.fixture
def own_server() -> Iterator[servers.Server]:
    with servers.start_redis() as server:
        yield server


@pytest.fixture(scope="session")
def cluster(redis_server: servers.Server) -> Iterator[list[servers.Server]]:
    """Three nodes, each with a third of the slots."""
    with contextlib.ExitStack() as stack:
        nodes = [stack.enter_context(start_node()) for _ in range(3)]
        join(nodes, [(0, 5000), (5001, 11000), (11001, 16383)])
        yield nodes


def start_node(*options: str) -> servers.Server:
    # By default the port of the bus is 10,000 above the other, where there may be none.
    bus = servers.free_port()
    return servers.start_redis("--cluster-enabled", "yes", "--cluster-port", str(bus), *options)


def join(nodes: list[servers.Server], slots: list[tuple[int, int]]) -> None:
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(plain(node)) for node in nodes]
        for client, (first, last) in zip(clients, slots, strict=True):
            client.execute_command("CLUSTER", "ADDSLOTSRANGE", first, last)
        for node, client in zip(nodes[1:], clients[1:], strict=True):
            bus = client.config_get("cluster-port")["cluster-port"]
            clients[0].execute_command("CLUSTER", "MEET", "127.0.0.1", node.port, bus)
        wait_until(
            lambda: all(
                int(info["cluster_known_nodes"]) == len(nodes) and info["cluster_state"] == "ok"
                for info in (client.cluster("INFO") for client in clients)
            )
        )


def plain(server: servers.Server) -> redis.Redis:
    """A client to look at a server with."""
    return redis.Redis(port=server.port, protocol=2, decode_responses=True)


def wait_until(holds: Callable[[], object], seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "it did not come true"
        time.sleep(0.02)


def start_again(server: servers.Server) -> None:
    with (server.folder / "log").open("ab") as log:
        server.process = subprocess.Popen(server.process.args, cwd=server.folder, stdout=log, stderr=log)

    def answers() -> bool:
        with plain(server) as client, contextlib.suppress(redis.ConnectionError):
            return bool(client.ping())
        return False

    wait_until(answers)


# How a store is made of each kind of client, and what its client is closed by.
def of_blocking_client(port: int, **options: Any) -> RedisSessionStore:
    return RedisSessionStore(redis.Redis(port=port, **options))


def of_awaiting_client(port: int, **options: Any) -> RedisSessionStore:
    return RedisSessionStore(redis.asyncio.Redis(port=port, **options))


def of_blocking_cluster(port: int, **options: Any) -> RedisSessionStore:
    return RedisSessionStore(redis.RedisCluster(host="127.0.0.1", port=port, **options))


def of_awaiting_cluster(port: int, **options: Any) -> RedisSessionStore:
    return RedisSessionStore(AwaitingCluster(host="127.0.0.1", port=port, **options))



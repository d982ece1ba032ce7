import asyncio
import contextlib
import gc
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
import redis
import redis.asyncio
import redis.asyncio.retry
import redis.asyncio.sentinel
import redis.backoff
import redis.retry
import redis.sentinel

from server_session._colour import Colour, drive, pause, run_awaiting, run_blocking
from server_session.exceptions import ColourError, ConfigurationError, RecordError, StoreDownError, StoreError
from server_session.stores import _waits
from server_session.stores._base import APPLIED, CONFLICT, MISSING, Lifetime
from server_session.stores._waits import OneLimit
from server_session.stores.redis import RedisSessionStore
from server_session.testing import StoreContract
from tests import servers
from tests.faults.proxy import Proxy, Weather
from tests.forks import in_all_processes
from tests.parts import ALL
from tests.patience import LIMIT, PATIENCE, wait_until
from tests.redis_sets import SERVICE, join, look_at, start_cluster, start_node, start_watched
from tests.stores.listings import Listings

# What a server or a signal does is the same on every Python.
pytestmark = pytest.mark.once

LONG = Lifetime(1800, 86400)
KEY = "k" * 24
SECRET = b"the-secret"


class Wire:
    """Stands between clients and a server, notes the commands that clients send, and can lose answers."""

    def __init__(self, target: int | None = None) -> None:
        self.target = target
        self.sent: list[str] = []
        self.loses_answers_to: str | None = None
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=200)
        self.port: int = self._listener.getsockname()[1]
        self._open: list[socket.socket] = [self._listener]
        self._lost: set[socket.socket] = set()
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
                name = lines[2].decode().strip()
                self.sent.append(name)
                if name == self.loses_answers_to:
                    self._lost.add(client)
                server.sendall(b"".join(lines))
        self._hang_up(client, server)

    def _answer(self, client: socket.socket, server: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := server.recv(65536):
                if client in self._lost:
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
    with start_cluster() as nodes:
        yield nodes


def restart(server: servers.Server) -> None:
    server.kill()
    with (server.folder / "log").open("ab") as log:
        server.process = subprocess.Popen(server.process.args, cwd=server.folder, stdout=log, stderr=log)
    with look_at(server) as client:
        wait_until(lambda: answers(client))


def answers(client: redis.Redis) -> bool:
    with contextlib.suppress(redis.ConnectionError):
        return bool(client.ping())
    return False


def close(store: RedisSessionStore) -> None:
    """Close the connections of the blocking callers of a store that was made from a URL."""
    for connection in store._blocking.args[0].get().places.clear():
        connection.disconnect()


async def let_the_loop_run() -> None:
    """Let a loop hear of connections that have ended."""
    for _ in range(5):
        await pause(0)


KINDS: dict[str, Callable[..., Any]] = {
    "blocking": redis.Redis,
    "awaiting": redis.asyncio.Redis,
    "blocking cluster": redis.RedisCluster,
    "awaiting cluster": redis.asyncio.RedisCluster,
}
SINGLE = pytest.mark.parametrize("kind", ["blocking", "awaiting"])
EACH = pytest.mark.parametrize("kind", list(KINDS))


def play(kind: str, port: int, body: Callable[[RedisSessionStore], Coroutine[Any, Any, None]], **options: Any) -> None:
    """Run `body` with a store over a client of this kind, as its colour has it, and close the client."""

    async def whole() -> None:
        async with asyncio.timeout(PATIENCE), KINDS[kind](host="127.0.0.1", port=port, **options) as client:
            await body(RedisSessionStore(client))

    if "awaiting" in kind:
        asyncio.run(whole())
    else:
        with KINDS[kind](host="127.0.0.1", port=port, **options) as client:
            drive(body(RedisSessionStore(client)))


class OverAServer(Listings, StoreContract):
    second = 0.05
    kind: ClassVar[str]
    options: ClassVar[dict[str, Any]]

    @pytest.fixture(autouse=True)
    def _find_server(self, redis_server):
        self.port = redis_server.port

    def make_store(self):
        client = KINDS[self.kind](host="127.0.0.1", port=self.port, **self.options)
        store = RedisSessionStore(client)
        store.client = client
        return store

    def second_client(self, store):
        return self.make_store()

    def close_store(self, store):
        return store.client.aclose() if store.colour is Colour.AWAITS else store.client.close()


class OverACluster(OverAServer):
    @pytest.fixture(autouse=True)
    def _find_server(self, cluster):
        self.port = cluster[0].port


@pytest.mark.again
class TestBlockingClient(OverAServer):
    kind, options = "blocking", {"protocol": 2}


@pytest.mark.again
class TestBlockingClientByRESP3(OverAServer):
    kind, options = "blocking", {"protocol": 3}


@pytest.mark.again
class TestAwaitingClient(OverAServer):
    kind, options = "awaiting", {"protocol": 2}


class TestAwaitingClientByRESP3(OverAServer):
    kind, options = "awaiting", {"protocol": 3}


@pytest.mark.again
class TestBlockingCluster(OverACluster):
    kind, options = "blocking cluster", {"protocol": 3}


class TestAwaitingCluster(OverACluster):
    kind, options = "awaiting cluster", {"protocol": 2}


class TestURLForBlockingCallers(OverAServer):
    kind = "blocking"

    def make_store(self):
        return RedisSessionStore(f"redis://127.0.0.1:{self.port}/0")

    def close_store(self, store):
        close(store)


@pytest.mark.again
class TestURLOnALoop(TestURLForBlockingCallers):
    def make_store(self):
        store = super().make_store()
        store.colour = Colour.AWAITS
        return store


class TestRoundTrips:
    CALLS: ClassVar[dict[str, Callable[[RedisSessionStore], Coroutine[Any, Any, Any]]]] = {
        "get": lambda store: store.get(KEY, {"a": b"1"}),
        "get without a touch": lambda store: store.get(KEY, {}, touch=False),
        "merge": lambda store: store.merge(KEY, {"b": b"2"}, ["c"], {"a": b"1"}, LONG),
        "replace": lambda store: store.set(KEY, {"a": b"1"}, LONG, {}),
        "create": lambda store: store.set(store.id(), {"a": b"1"}, LONG),
    }

    @SINGLE
    def test_each_call_is_one_command(self, kind, wire):
        async def body(store):
            await store.destroy(KEY)
            await store.set(KEY, {"a": b"1"}, LONG)
            for name, call in self.CALLS.items():
                wire.sent.clear()
                assert await call(store) not in (MISSING, CONFLICT)
                assert wire.sent == ["EVALSHA"], name
            wire.sent.clear()
            assert await store.destroy(KEY)
            assert wire.sent == ["UNLINK"]

        play(kind, wire.port, body)

    @SINGLE
    def test_a_lost_script_costs_one_more(self, kind, wire, redis_server):
        async def body(store):
            await store.set(KEY, {"a": b"1"}, LONG, {})
            for call in self.CALLS.values():
                with look_at(redis_server) as client:
                    client.script_flush()
                wire.sent.clear()
                await call(store)
                await store.get(KEY, {})
                assert wire.sent == ["EVALSHA", "EVAL", "EVALSHA"]

        play(kind, wire.port, body)

    def test_a_lost_script_is_brought_to_each_node_of_a_cluster(self, cluster):
        async def body(store):
            for node in cluster:
                with look_at(node) as client:
                    client.script_flush()
            for _ in range(20):
                assert await store.set(store.id(), {"a": b"1"}, LONG) is APPLIED

        for kind in ("blocking cluster", "awaiting cluster"):
            play(kind, cluster[0].port, body)


class TestRecords:
    def test_a_record_is_a_readable_hash_that_expires(self, redis_server):
        key = "A-_" * 8

        async def body(store):
            await store.set(key, {"cart": b'{"apples":3}', "user": b'"ada"'}, Lifetime(600.5, 3600))

        with look_at(redis_server) as client:
            client.delete(f"session:{key}")
            play("blocking", redis_server.port, body)
            record = client.hgetall(f"session:{key}")
            own = record.pop("")
            assert record == {"cart": '{"apples":3}', "user": '"ada"'}
            assert re.fullmatch(r"600500 \d{13}", own)
            assert 590_000 < client.pttl(f"session:{key}") <= 600_500

    def test_the_prefix_stands_before_each_key(self, redis_server):
        with redis.Redis(port=redis_server.port) as client:
            one, other = (RedisSessionStore(client, prefix=prefix) for prefix in ("shop:é:", ""))
            key = one.id()
            assert drive(one.set(key, {"a": b"1"}, LONG)) is APPLIED
            assert drive(other.get(key, {})) is MISSING
            assert drive(other.get(f"shop:é:{key}", {})) == {"a": b"1"}

    def test_it_lists_the_records_of_its_prefix_alone_and_names_what_it_cannot_read(self, redis_server):
        with redis.Redis(port=redis_server.port) as client:
            one, other, longer = (
                RedisSessionStore(client, prefix=prefix) for prefix in ("s[*]?\\:", "s*", "s[*]?\\:t:")
            )
            key, foreign, text = (one.id() for _ in range(3))
            for store in (one, other, longer):
                assert drive(store.set(key, {"a": b"1"}, LONG)) is APPLIED
            client.hset(f"s[*]?\\:{foreign}", "a", "1")
            client.set(f"s[*]?\\:{text}", "1")
            batch = drive(one.list_records("", 100_000))
            assert [kept.key for kept in batch.records] == [key]
            assert set(batch.unreadable) == {foreign, text}
            with pytest.raises(RecordError):
                drive(one.read_record(foreign))

    @EACH
    def test_thousands_of_fields_go_in_one_call(self, kind, cluster, redis_server):
        async def body(store):
            key = store.id()
            many = {f"f{n}": b"%d" % n for n in range(9001)}
            assert await store.set(key, {"a": b"1", **many}, LONG) is APPLIED
            assert await store.get(key, dict(many)) == {"a": b"1", **many}
            assert await store.set(key, {"a": b"1"}, LONG, dict(many)) is APPLIED
            assert await store.merge(key, many, [], dict.fromkeys(many)) is APPLIED
            assert await store.merge(key, {}, list(many), many) is APPLIED
            assert await store.get(key, {}) == {"a": b"1"}

        play(kind, (cluster[0] if "cluster" in kind else redis_server).port, body)

    def test_a_touch_never_moves_the_expiry_back(self, redis_server):
        async def body(store):
            assert await store.merge(KEY, {"b": b"2"}, [], {}) is APPLIED
            assert await store.get(KEY, {}) == {"a": b"1", "b": b"2"}

        with look_at(redis_server) as client:
            client.delete(f"session:{KEY}")
            # As it is when the server's clock was set back: the expiry is further away than the idle time.
            client.hset(f"session:{KEY}", mapping={"": "1000", "a": "1"})
            client.pexpire(f"session:{KEY}", 60_000)
            play("blocking", redis_server.port, body)
            assert client.pttl(f"session:{KEY}") > 30_000

    @pytest.mark.parametrize("lifetime", [Lifetime(1800, 0), Lifetime(1800, -5), Lifetime(0), Lifetime(-5)])
    def test_a_lifetime_that_is_over_leaves_no_record(self, lifetime, redis_server):
        async def body(store):
            key = store.id()
            assert await store.set(key, {"a": b"1"}, lifetime) is APPLIED
            assert await store.get(key, {}) is MISSING
            assert await store.set(key, {"a": b"1"}, LONG) is APPLIED
            assert await store.merge(key, {}, [], {}, lifetime) is APPLIED
            assert await store.get(key, {}) is MISSING

        play("blocking", redis_server.port, body)

    @pytest.mark.parametrize("lifetime", [Lifetime(1e300), Lifetime(float("inf"), float("inf"))])
    def test_a_lifetime_beyond_all_bounds_is_a_long_one(self, lifetime, redis_server):
        async def body(store):
            key = store.id()
            assert await store.set(key, {"a": b"1"}, lifetime) is APPLIED
            assert await store.merge(key, {"a": b"2"}, [], {}, lifetime) is APPLIED
            assert await store.get(key, {}) == {"a": b"2"}

        play("blocking", redis_server.port, body)

    @SINGLE
    def test_what_another_program_wrote_is_a_record_error(self, kind, redis_server):
        async def body(store):
            name = f"session:{KEY}"
            with look_at(redis_server) as client:
                for write in (
                    lambda: client.set(name, "text"),
                    lambda: client.hset(name, "a", "1"),
                    lambda: client.hset(name, mapping={"": "soon", "a": "1"}),
                ):
                    client.delete(name)
                    write()
                    for call in (
                        store.get(KEY, {}),
                        store.merge(KEY, {"a": b"2"}, [], {}),
                        store.set(KEY, {}, LONG, {}),
                    ):
                        with pytest.raises(RecordError, match="another program"):
                            await call
                client.delete(name)
                client.hset(name, mapping={"": "1800000", b"\xff": "1"})
                with pytest.raises(RecordError, match="UTF-8"):
                    await store.get(KEY, {})
                assert await store.destroy(KEY)

        play(kind, redis_server.port, body)


class TestRefusals:
    @SINGLE
    def test_a_full_memory_refuses_writes_and_leaves_the_record_whole(self, kind, own_server):
        async def body(store):
            key = store.id()
            record = {"a": b"1", "b": b"2"}
            assert await store.set(key, record, LONG) is APPLIED
            with look_at(own_server) as client:
                client.config_set("maxmemory", 1)
                for call in (
                    store.set(store.id(), {"a": b"1"}, LONG),
                    store.set(key, {"c": b"3"}, LONG, {}),
                    store.merge(key, {"c": b"3"}, ["a"], {}),
                    store.merge(key, {}, ["a"], {}, LONG),
                ):
                    with pytest.raises(StoreError, match="refused the call: OutOfMemoryError") as failure:
                        await call
                    assert isinstance(failure.value.__cause__, redis.RedisError)
                assert await store.get(key, {}) == record
                assert await store.destroy(key)
                client.config_set("maxmemory", 0)

        play(kind, own_server.port, body)

    @pytest.mark.parametrize("made", ["url", "client"])
    @pytest.mark.parametrize("kind", ["blocking", "awaiting"])
    def test_a_master_that_has_become_a_replica_is_left_for_who_has_its_name_now(
        self, kind, made, own_server, redis_server
    ):
        wire = Wire(own_server.port)

        async def body(store):
            key = store.id()
            assert await store.set(key, {"a": b"1"}, LONG) is APPLIED
            with look_at(own_server) as client:
                client.replicaof("127.0.0.1", redis_server.port)
            wire.target = redis_server.port
            with pytest.raises(StoreError, match="replica"):
                await store.merge(key, {"a": b"2"}, [], {})
            assert await store.set(store.id(), {"a": b"1"}, LONG) is APPLIED

        if made == "client":
            play(kind, wire.port, body)
        elif kind == "blocking":
            store = RedisSessionStore(wire.url)
            drive(body(store))
            close(store)
        else:
            asyncio.run(body(RedisSessionStore(wire.url)))
        wire.close()

    @SINGLE
    def test_a_replica_refuses_writes(self, kind, own_server):
        async def body(store):
            with look_at(own_server) as client:
                client.replicaof("127.0.0.1", servers.free_port())
                with pytest.raises(StoreError, match="refused the call: ReadOnlyError: this is a replica"):
                    await store.set(store.id(), {"a": b"1"}, LONG)
                client.replicaof("NO", "ONE")
            assert await store.set(store.id(), {"a": b"1"}, LONG) is APPLIED

        play(kind, own_server.port, body)

    @SINGLE
    def test_a_master_with_too_few_replicas_refuses_writes_and_leaves_the_record_whole(self, kind, own_server):
        async def body(store):
            assert await store.set(KEY, {"a": b"1", "b": b"2"}, LONG) is APPLIED
            with look_at(own_server) as client:
                client.config_set("min-replicas-to-write", "1")
                for call in (
                    store.set(KEY, {"c": b"3"}, LONG, {}),
                    store.merge(KEY, {"c": b"3"}, ["a"], {}, LONG),
                    store.merge(KEY, {}, ["a"], {}),
                    store.destroy(KEY),
                ):
                    with pytest.raises(StoreError, match=r"fewer replicas than min-replicas-to-write .*NOREPLICAS"):
                        await call
                assert await store.get(KEY, {}, False) == {"a": b"1", "b": b"2"}
                client.config_set("min-replicas-to-write", "0")
            assert await store.destroy(KEY)

        play(kind, own_server.port, body)

    @SINGLE
    def test_a_server_that_another_clients_script_keeps_is_told(self, kind, own_server):
        async def body(store):
            with look_at(own_server) as client, look_at(own_server) as other:
                client.config_set("busy-reply-threshold", "1")
                thread = threading.Thread(target=hold, args=(other,))
                thread.start()
                wait_until(lambda: is_busy(client))
                try:
                    with pytest.raises(StoreError, match=r"another client's script .*SCRIPT KILL"):
                        await store.get(KEY, {})
                finally:
                    client.script_kill()
                    thread.join(PATIENCE)
            assert await store.get(KEY, {}) is MISSING

        def hold(client):
            with pytest.raises(redis.ResponseError):
                client.eval("while true do end", 0)

        def is_busy(client):
            try:
                client.ping()
            except redis.ResponseError:
                return True
            return False

        play(kind, own_server.port, body)

    @pytest.mark.parametrize("denied", ["@scripting", "hdel", "unlink", "pexpireat"])
    @SINGLE
    def test_a_user_who_lacks_a_right_is_told_at_the_first_call_and_nothing_is_written(self, kind, denied, own_server):
        with look_at(own_server) as client:
            client.execute_command("ACL", "SETUSER", "shop", "on", "nopass", "~session:*", "+@all", f"-{denied}")

            async def body(store):
                with pytest.raises(StoreError, match=r"its user needs \+eval .*\+unlink .*docs/stores.md") as failure:
                    await store.set(KEY, {"a": b"1"}, LONG)
                assert ("evalsha" if denied == "@scripting" else denied) in str(failure.value)
                client.execute_command("ACL", "SETUSER", "shop", f"+{denied}")
                assert await store.set(KEY, {"a": b"1"}, LONG) is APPLIED

            play(kind, own_server.port, body, username="shop", password="x")

    @SINGLE
    def test_rights_are_looked_at_once(self, kind, wire):
        async def body(store):
            for _ in range(3):
                await store.destroy(KEY)
            asked = [command for command in wire.sent if command in ("EVALSHA", "EVAL", "UNLINK")]
            # Once more where the server did not have the script.
            assert asked[-3:] == ["UNLINK"] * 3
            assert asked[:-3] in (["EVALSHA"], ["EVALSHA", "EVAL"])

        play(kind, wire.port, body)

    @SINGLE
    def test_keys_that_the_user_may_not_touch_are_told(self, kind, own_server):
        with look_at(own_server) as client:
            client.execute_command("ACL", "SETUSER", "shop", "on", "nopass", "~other:*", "+@all")

        async def body(store):
            with pytest.raises(StoreError, match=r"NoPermissionError: its user needs .* on the store's prefix"):
                await store.get(KEY, {})

        play(kind, own_server.port, body, username="shop", password="x")

    @SINGLE
    def test_credentials_that_are_wrong_or_missing_are_told_and_not_shown(self, kind, own_server):
        async def body(store):
            with pytest.raises(StoreError, match="look at user and password") as failure:
                await store.get(KEY, {})
            assert "s3cret" not in "".join(traceback.format_exception(failure.value))

        play(kind, own_server.port, body, username="nobody", password="s3cret", retry=None)
        with look_at(own_server) as client:
            client.config_set("requirepass", "other")
            play(kind, own_server.port, body, retry=None)

    @SINGLE
    def test_a_node_of_a_cluster_is_told_from_a_server(self, kind, cluster):
        async def body(store):
            said = set()
            for _ in range(20):
                try:
                    await store.get(store.id(), {})
                except StoreError as failure:
                    said.add(str(failure))
            assert said
            for text in said:
                assert re.search("MovedError: this is a node of a Cluster: give the store a RedisCluster", text)
                assert "127.0.0.1" not in text

        play(kind, cluster[0].port, body)

    @SINGLE
    def test_a_disk_that_cannot_be_written_is_told(self, kind, own_server):
        async def body(store):
            with look_at(own_server) as client:
                shutil.rmtree(own_server.folder)
                client.config_set("save", "1 1")
                client.bgsave()
                wait_until(lambda: client.info("persistence")["rdb_last_bgsave_status"] == "err")
                with pytest.raises(StoreError, match=r"cannot write to its disk.*MISCONF"):
                    await store.set(KEY, {"a": b"1"}, LONG)
                # It does not end while it has to save before.
                client.config_set("save", "")

        play(kind, own_server.port, body)

    @pytest.mark.parametrize("command", ["EVALSHA", "UNLINK"])
    @SINGLE
    def test_a_server_without_a_command_is_told_and_no_argument_is_shown(self, kind, command):
        async def body(store):
            with pytest.raises(StoreError, match="older than Redis 5, or the command was renamed") as failure:
                await store.set(KEY, {"name": SECRET}, LONG)
            shown = "".join(traceback.format_exception(failure.value))
            assert KEY not in shown
            assert SECRET.decode() not in shown

        with servers.start_redis("--rename-command", command, "") as server:
            play(kind, server.port, body)

    def test_the_commands_that_the_documentation_names_are_enough(self, own_server):
        named = re.search(r"these commands on the prefix: `(.*?)`", RedisSessionStore.__doc__, re.DOTALL)
        with look_at(own_server) as client:
            rules = named[1].split()
            client.execute_command("ACL", "SETUSER", "shop", "on", ">secret", "~session:*", "-@all", *rules)
        store = RedisSessionStore(f"redis://shop:secret@127.0.0.1:{own_server.port}?protocol=2", blocking=True)

        async def body():
            key = store.id()
            assert await store.set(key, {"a": b"1"}, LONG) is APPLIED
            assert await store.set(key, {"a": b"1", "b": b"2"}, LONG, {"a": b"1", "c": None}) is APPLIED
            assert await store.merge(key, {"c": b"3"}, ["b"], {"a": b"1"}) is APPLIED
            assert await store.get(key, {}) == {"a": b"1", "c": b"3"}
            assert await store.destroy(key)

        drive(body())
        elsewhere = RedisSessionStore(
            f"redis://shop:secret@127.0.0.1:{own_server.port}?protocol=2", blocking=True, prefix="other:"
        )
        with pytest.raises(StoreError, match="refused the call: NoPermissionError"):
            drive(elsewhere.get(KEY, {}))


class TestLostAnswers:
    @EACH
    def test_a_write_whose_answer_is_lost_is_not_sent_again(self, kind):
        wire = Wire()
        with contextlib.ExitStack() as stack:
            stack.callback(wire.close)
            if "cluster" in kind:
                # Clients of a Cluster go where the nodes say that they are.
                server = stack.enter_context(start_node("--cluster-announce-port", str(wire.port)))
                join([server], [(0, 16383)])
            else:
                server = stack.enter_context(servers.start_redis())
            wire.target = server.port

            async def body(store):
                key = store.id()
                assert await store.set(key, {"n": b"0"}, LONG) is APPLIED
                wire.sent.clear()
                wire.loses_answers_to = "EVALSHA"
                with pytest.raises(StoreError) as failure:
                    await store.merge(key, {"n": b"1"}, [], {"n": b"0"})
                wire.loses_answers_to = None
                assert isinstance(failure.value.__cause__, redis.ConnectionError)
                assert wire.sent.count("EVALSHA") == 1
                assert "EVAL" not in wire.sent
                assert await store.get(key, {}) == {"n": b"1"}

            play(kind, wire.port, body)

    def test_an_answer_that_a_signal_kept_from_being_read_goes_to_nobody(self, own_server, monkeypatch):
        class BrokeInError(Exception):
            pass

        client = redis.Redis(port=own_server.port)
        store = RedisSessionStore(client)
        keys = [store.id(), store.id()]
        for key in keys:
            assert drive(store.set(key, {"key": key.encode()}, LONG)) is APPLIED
        sending = redis.Connection.send_packed_command

        def break_in(*arguments, **options):
            monkeypatch.undo()
            sending(*arguments, **options)
            raise BrokeInError

        with look_at(own_server) as other:
            other.client_pause(300)
        monkeypatch.setattr(redis.Connection, "send_packed_command", break_in)
        with pytest.raises(BrokeInError):
            drive(store.get(keys[0], {}))
        assert drive(store.get(keys[1], {})) == {"key": keys[1].encode()}
        client.close()

    @SINGLE
    def test_a_server_that_hangs_is_a_store_error(self, kind, own_server):
        async def body(store):
            key = store.id()
            assert await store.set(key, {"a": b"1"}, LONG) is APPLIED
            os.kill(own_server.pid, signal.SIGSTOP)
            try:
                with pytest.raises(StoreError, match="no answer from Redis: TimeoutError"):
                    await store.merge(key, {"a": b"2"}, [], {})
            finally:
                os.kill(own_server.pid, signal.SIGCONT)
            # The answer that came too late is nobody's.
            assert await store.destroy(key)
            assert await store.get(key, {}) is MISSING

        play(kind, own_server.port, body, socket_timeout=LIMIT)

    def test_a_store_made_from_a_url_gives_up_at_its_timeout(self, own_server):
        os.kill(own_server.pid, signal.SIGSTOP)
        try:
            store = RedisSessionStore(own_server.url, timeout=0.2)
            for call in (lambda: drive(store.get(KEY, {})), lambda: asyncio.run(store.get(KEY, {}))):
                with pytest.raises(StoreError, match="no answer from Redis: TimeoutError"):
                    call()
        finally:
            os.kill(own_server.pid, signal.SIGCONT)

    # The pieces come so slowly that the whole takes longer than any machine is slow, or each at once.
    @pytest.mark.parametrize(
        "colour, size, pause_seconds",
        [("blocking", 1, LIMIT / 2), ("awaiting", 1, LIMIT / 2), ("blocking", 1_000_000, 0)],
    )
    def test_a_server_whose_answer_trickles_in_is_a_store_error_within_the_limit(
        self, colour, size, pause_seconds, redis_server
    ):
        with Proxy(redis_server.port) as proxy:
            # With a database to choose, the making of a connection has answers too.
            store = RedisSessionStore(f"redis://127.0.0.1:{proxy.port}/1", timeout=LIMIT)

            async def body():
                key = store.id()
                assert await store.set(key, {"a": bytes(size)}, LONG) is APPLIED
                proxy.weather, proxy.pause = Weather.TRICKLE, pause_seconds
                # Over the connection that there is and, where the answers to its making last, over a new one.
                for _ in range(2 if pause_seconds else 1):
                    began = time.monotonic()
                    with pytest.raises(StoreDownError, match="no answer from Redis: TimeoutError"):
                        await store.get(key, {})
                    assert time.monotonic() - began < PATIENCE
                proxy.weather = Weather.FAIR
                assert await store.get(key, {}) == {"a": bytes(size)}

            asyncio.run(body()) if colour == "awaiting" else drive(body())
            close(store)

    def test_a_server_that_hangs_after_a_rest_longer_than_its_health_check_interval_is_a_store_error(self, own_server):
        store = RedisSessionStore(f"{own_server.url}?health_check_interval=1&retry_on_timeout=true", timeout=0.2)
        assert drive(store.get(KEY, {})) is MISSING
        connection = store._blocking.args[0].get().places._free[-1]
        connection._used_at -= 2
        os.kill(own_server.pid, signal.SIGSTOP)
        try:
            with pytest.raises(StoreDownError, match="no answer from Redis: TimeoutError"):
                drive(store.get(KEY, {}))
        finally:
            os.kill(own_server.pid, signal.SIGCONT)
        assert drive(store.get(KEY, {})) is MISSING
        close(store)

    async def test_an_awaiting_client_of_any_patience_is_given_up_at_the_timeout(self, own_server):
        async with (
            asyncio.timeout(PATIENCE),
            redis.asyncio.Redis(port=own_server.port, socket_timeout=None) as client,
        ):
            patient = RedisSessionStore(client)
            assert await patient.set(patient.id(), {"a": b"1"}, LONG) is APPLIED
            os.kill(own_server.pid, signal.SIGSTOP)
            try:
                with pytest.raises(StoreError):
                    await RedisSessionStore(client, timeout=0.2).get(KEY, {})
            finally:
                os.kill(own_server.pid, signal.SIGCONT)
            assert await patient.get(KEY, {}) is MISSING

    @SINGLE
    def test_the_first_call_after_a_restart_is_answered(self, kind, own_server):
        async def body(store):
            for _ in range(2):
                assert await store.set(store.id(), {"a": b"1"}, LONG) is APPLIED
                restart(own_server)
                await let_the_loop_run()

        play(kind, own_server.port, body)

    def test_the_first_call_after_a_restart_is_answered_by_a_store_made_from_a_url(self, own_server):
        store = RedisSessionStore(own_server.url)

        async def on_a_loop():
            for _ in range(2):
                assert await store.set(store.id(), {"a": b"1"}, LONG) is APPLIED
                restart(own_server)
                await let_the_loop_run()

        asyncio.run(on_a_loop())
        drive(on_a_loop())
        close(store)

    @EACH
    def test_a_read_does_not_mind_a_connection_that_has_ended(self, kind, own_server):
        server = own_server if "cluster" not in kind else start_node()
        with server, look_at(server) as client:
            if "cluster" in kind:
                join([server], [(0, 16383)])

            async def body(store):
                key = store.id()
                assert await store.set(key, {"a": b"1"}, LONG) is APPLIED
                client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
                await let_the_loop_run()
                assert await store.get(key, {}) == {"a": b"1"}
                assert await store.merge(key, {"a": b"2"}, [], {"a": b"1"}) is APPLIED

            play(kind, server.port, body)

    @SINGLE
    def test_a_server_that_is_not_there_is_a_store_error_that_names_no_host(self, kind, free_port):
        async def body(store):
            for call in (
                store.get(KEY, {}),
                store.set(KEY, {"a": b"1"}, LONG),
                store.merge(KEY, {}, [], {}),
                store.destroy(KEY),
            ):
                mend = "ConnectionError: does it run, there[?]"
                with pytest.raises(StoreError, match=f"no answer from Redis: {mend}") as failure:
                    await call
                assert "127.0.0.1" not in str(failure.value)
                assert isinstance(failure.value.__cause__, redis.ConnectionError)

        no_retry = {"blocking": redis.retry.Retry, "awaiting": redis.asyncio.retry.Retry}[kind]
        play(kind, free_port, body, retry=no_retry(redis.backoff.NoBackoff(), 0))


class TestClusters:
    def test_a_slot_that_moved_is_followed(self):
        with contextlib.ExitStack() as stack:
            nodes = [stack.enter_context(start_node()) for _ in range(2)]
            join(nodes, [(0, 8191), (8192, 16383)])
            sources = [stack.enter_context(look_at(node)) for node in nodes]
            names = [client.cluster("MYID") for client in sources]

            async def body(store):
                key = store.id()
                assert await store.set(key, {"a": b"1"}, LONG) is APPLIED
                slot = sources[0].cluster("KEYSLOT", f"session:{key}")
                here = 0 if slot < 8192 else 1
                there = 1 - here
                sources[there].cluster("SETSLOT", slot, "IMPORTING", names[here])
                sources[here].cluster("SETSLOT", slot, "MIGRATING", names[there])
                assert await store.get(key, {}) == {"a": b"1"}
                sources[here].migrate("127.0.0.1", nodes[there].port, f"session:{key}", 0, 5000)
                # The key is asked for where the slot is going, and then the slot is there.
                assert await store.merge(key, {"b": b"2"}, [], {"a": b"1"}) is APPLIED
                for client in sources:
                    client.cluster("SETSLOT", slot, "NODE", names[there])
                assert await store.get(key, {}) == {"a": b"1", "b": b"2"}
                for client in sources:
                    client.cluster("SETSLOT", slot, "NODE", names[there])

            for kind in ("blocking cluster", "awaiting cluster"):
                play(kind, nodes[0].port, body)

    @pytest.mark.parametrize("kind", ["blocking cluster", "awaiting cluster"])
    def test_a_slot_that_the_client_does_not_know_is_looked_for(self, kind, cluster):
        async def body(store):
            key = store.id()
            assert await store.set(key, {"a": b"1"}, LONG) is APPLIED
            way = (store._blocking or store._awaiting).args[0]
            (way if store._blocking else way.get()).nodes_manager.slots_cache.clear()
            assert await store.get(key, {}) == {"a": b"1"}

        play(kind, cluster[1].port, body)

    def test_a_client_that_ends_connections_which_are_in_use_costs_these_calls_a_store_error(self, cluster):
        # So redis-py's asynchronous client does at every fifth slot that has moved.
        async def body(store):
            nodes = store._awaiting.args[0].get().get_nodes()
            for turns in range(8):
                assert await store.get(KEY, {}) is MISSING
                ends = [asyncio.ensure_future(node.disconnect()) for node in nodes]
                for _ in range(turns):
                    await asyncio.sleep(0)
                (answer,) = await asyncio.gather(store.merge(KEY, {"a": b"1"}, [], {}), return_exceptions=True)
                assert answer is MISSING or isinstance(answer, StoreError), answer
                await asyncio.gather(*ends)

        play("awaiting cluster", cluster[0].port, body, socket_timeout=PATIENCE)

    def test_nodes_that_other_threads_change_cost_a_write_a_store_error_and_a_read_nothing(self, cluster, monkeypatch):
        async def body(store):
            client = store._blocking.args[0]
            ask, first = client.execute_command, iter((True,))

            def change(*command, **options):
                if next(first, False):
                    raise RuntimeError("dictionary keys changed during iteration")
                return ask(*command, **options)

            assert await store.get(KEY, {}) is MISSING
            monkeypatch.setattr(client, "execute_command", change)
            assert await store.get(KEY, {}) is MISSING
            first = iter((True,))
            with pytest.raises(StoreDownError, match="nodes changed"):
                await store.merge(KEY, {"a": b"1"}, [], {})

        play("blocking cluster", cluster[0].port, body)

    @pytest.mark.parametrize("prefix", ["{shop}:session:", "shop:{}:", "shop{", "}shop{1}{2}:"])
    def test_braces_in_a_prefix_choose_the_slot(self, prefix, cluster):
        async def use(store):
            keys = [store.id() for _ in range(12)]
            for key in keys:
                assert await store.set(key, {"a": b"1"}, LONG) is APPLIED
                assert await store.merge(key, {"b": b"2"}, (), {"a": b"1"}) is APPLIED
                assert await store.get(key, {}) == {"a": b"1", "b": b"2"}
            return keys

        async def use_awaiting():
            async with redis.asyncio.RedisCluster(host="127.0.0.1", port=cluster[0].port) as client:
                return await use(RedisSessionStore(client, prefix=prefix))

        with redis.RedisCluster(host="127.0.0.1", port=cluster[0].port) as client:
            keys = [*drive(use(RedisSessionStore(client, prefix=prefix))), *asyncio.run(use_awaiting())]
            slots = {client.keyslot(prefix + key) for key in keys}
            nodes = {client.get_node_from_key(prefix + key).name for key in keys}
            assert all(client.unlink(prefix + key) for key in keys)
        is_tagged = prefix.partition("{")[2].find("}") > 0
        assert len(slots) == 1 if is_tagged else len(nodes) == len(cluster)


class TestForks:
    @pytest.mark.parametrize("made", ["by url", "by url on a loop", *KINDS])
    def test_forked_processes_take_no_answer_of_each_other(self, made, cluster, redis_server):
        server = cluster[0] if "cluster" in made else redis_server
        client = None if "url" in made else KINDS[made](host="127.0.0.1", port=server.port)
        store = RedisSessionStore(client or server.url)
        keys = [store.id() for _ in range(4)]

        async def found():
            for key in keys:
                assert await store.set(key, {"own": key.encode()}, LONG) is APPLIED
            await end()

        async def look():
            for key in keys * 25:
                assert await store.get(key, {}) == {"own": key.encode()}
            await end()

        async def end():
            if made == "awaiting cluster":
                # Its connections belong to the loop.
                await client.aclose()

        ask = asyncio.run if "awaiting" in made or "loop" in made else drive
        ask(found())
        in_all_processes(lambda: ask(look()), lambda: ask(look()))
        if "url" in made:
            close(store)
        elif "awaiting" not in made:
            client.close()


class Taken:
    """Places of which none comes free; those who ask wait for nothing."""

    def __init__(self, waited: list[float]) -> None:
        self.waited = waited

    def take(self, seconds: float) -> None:
        self.waited.append(seconds)
        raise TimeoutError


class TestManyAtOnce:
    @pytest.mark.parametrize("made", ["from a URL", "from a client", "from a client with a small pool"])
    async def test_200_calls_at_once_wait_for_a_connection(self, made, redis_server):
        async with contextlib.AsyncExitStack() as stack:
            if made == "from a URL":
                store = RedisSessionStore(redis_server.url)
            else:
                limit = {"max_connections": 3} if "small" in made else {}
                client = await stack.enter_async_context(redis.asyncio.Redis(port=redis_server.port, **limit))
                store = RedisSessionStore(client)
            key = store.id()
            assert await store.set(key, {"a": b"1"}, LONG) is APPLIED
            merged = await asyncio.gather(*(store.merge(key, {f"f{n}": b""}, [], {}) for n in range(200)))
            assert Counter(merged) == {APPLIED: 200}
            assert len(await store.get(key, {})) == 201

    async def test_a_given_client_keeps_its_pool_to_itself(self, redis_server):
        async with redis.asyncio.Redis(port=redis_server.port, max_connections=1) as client:
            assert await RedisSessionStore(client).get(KEY, {}) is MISSING
            assert await client.ping()

    async def test_cancelled_calls_lose_no_connection(self, redis_server):
        async with redis.asyncio.Redis(port=redis_server.port, max_connections=3) as client:
            store = RedisSessionStore(client)
            key = store.id()
            await store.set(key, {"a": b"1"}, LONG)
            for steps in range(40):
                tasks = [asyncio.create_task(store.get(key, {})) for _ in range(6)]
                for _ in range(steps):
                    await asyncio.sleep(0)
                for task in tasks[::2]:
                    task.cancel()
                for answer in await asyncio.gather(*tasks, return_exceptions=True):
                    assert isinstance(answer, asyncio.CancelledError) or answer == {"a": b"1"}
            assert await asyncio.gather(*(store.get(key, {}) for _ in range(9))) == [{"a": b"1"}] * 9

    def test_a_read_waits_no_longer_for_a_connection_than_a_write_and_either_within_the_limit(self, redis_server):
        store = RedisSessionStore(redis_server.url, timeout=LIMIT)
        assert drive(store.get(KEY, {})) is MISSING
        connections = store._blocking.args[0].get()
        waited = []
        free, connections.places = connections.places, Taken(waited)
        for call in (lambda: store.get(KEY, {}), lambda: store.merge(KEY, {"a": b"1"}, [], {})):
            with pytest.raises(StoreError, match="more calls at once than connections"):
                drive(call())
        assert len(waited) == 2
        assert max(waited) <= LIMIT
        connections.places = free
        assert drive(store.get(KEY, {})) is MISSING

    def test_threads_wait_for_a_connection_of_a_store_made_from_a_url(self, redis_server):
        store = RedisSessionStore(f"{redis_server.url}?max_connections=2")
        key = store.id()
        assert drive(store.set(key, {"a": b"1"}, LONG)) is APPLIED
        answers = []
        threads = [
            threading.Thread(target=lambda n=n: answers.append(drive(store.merge(key, {f"f{n}": b""}, [], {}))))
            for n in range(20)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE)
        assert answers == [APPLIED] * 20
        close(store)


class TestCallsThatShareAConnection:
    """Over one connection answers come in the order of the calls; each must reach the caller whose it is."""

    SIZES = (1, 100, 1_000, 40_000, 10, 200_000)

    async def found(self, store: RedisSessionStore, number: int) -> dict[str, bytes]:
        """Make records that differ; return what each holds under its key."""
        records = {store.id(): b"%d:" % n + b"x" * self.SIZES[n % len(self.SIZES)] for n in range(number)}
        made = await asyncio.gather(*(store.set(key, {"a": value}, LONG) for key, value in records.items()))
        assert made == [APPLIED] * number
        return records

    async def storm(self, store: RedisSessionStore, chance: random.Random, disturb: Callable[[], object]) -> int:
        """Call, cancel and disturb at random; return how many calls were answered, and rightly."""
        async with asyncio.timeout(PATIENCE):
            return await self.weather(store, chance, disturb)

    async def weather(self, store: RedisSessionStore, chance: random.Random, disturb: Callable[[], object]) -> int:
        records = await self.found(store, 12)
        tries = dict.fromkeys(records, 0)
        wins = dict.fromkeys(records, 0)
        answered = 0

        async def visit(key: str) -> None:
            nonlocal answered
            for _ in range(chance.randrange(1, 4)):
                for _ in range(chance.randrange(4)):
                    await asyncio.sleep(0)
                with contextlib.suppress(StoreError):
                    if chance.random() < 0.7:
                        assert (await store.get(key, {}))["a"] == records[key]
                    else:
                        tries[key] += 1
                        assert await store.merge(key, {f"f{tries[key]}": b""}, [], {"a": records[key]}) is APPLIED
                        wins[key] += 1
                    answered += 1

        for _ in range(20):
            tasks = [asyncio.create_task(visit(key)) for key in records for _ in range(2)]
            for _ in range(chance.randrange(30)):
                await asyncio.sleep(0)
                if chance.random() < 0.4:
                    chance.choice(tasks).cancel()
            disturb()
            for task in chance.sample(tasks, chance.randrange(len(tasks))):
                task.cancel()
            for ended in await asyncio.gather(*tasks, return_exceptions=True):
                if isinstance(ended, BaseException) and not isinstance(ended, asyncio.CancelledError):
                    raise ended
        for key, value in records.items():
            record = await store.get(key, {})
            assert record.pop("a") == value
            assert wins[key] <= len(record) <= tries[key]
        return answered

    @pytest.mark.parametrize("seed", range(3))
    @pytest.mark.parametrize("made", ["from a URL", "from a client"])
    def test_no_answer_goes_to_another_caller_however_calls_are_cancelled(self, made, seed, redis_server):
        async def body():
            async with redis.asyncio.Redis(port=redis_server.port) as client:
                store = RedisSessionStore(redis_server.url if made == "from a URL" else client)
                assert await self.storm(store, random.Random(seed), lambda: None) > 50

        asyncio.run(body())

    @pytest.mark.parametrize("seed", range(3))
    def test_nor_when_the_connection_is_lost_at_any_moment(self, seed, own_server):
        async def body():
            store = RedisSessionStore(own_server.url)
            with look_at(own_server) as client:

                def disturb():
                    client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")

                assert await self.storm(store, random.Random(seed), disturb) > 50

        asyncio.run(body())

    def test_a_connection_that_ends_as_soon_as_it_is_made_fails_its_calls_at_once(self):
        async def greet_and_close(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"LIB-VER")
            writer.write(b"+OK\r\n+OK\r\n")
            writer.close()

        async def body():
            async with await asyncio.start_server(greet_and_close, "127.0.0.1") as server:
                port = server.sockets[0].getsockname()[1]
                store = RedisSessionStore(f"redis://127.0.0.1:{port}", timeout=PATIENCE)
                with pytest.raises(StoreDownError, match="the server ended the connection"):
                    await store.get(store.id(), {})

        asyncio.run(body())

    def test_calls_of_one_turn_go_in_one_piece_over_one_connection(self, own_server):
        async def body():
            store = RedisSessionStore(own_server.url)
            key = store.id()
            assert await store.set(key, {"a": b"1"}, LONG) is APPLIED
            with look_at(own_server) as client:
                before = client.info("stats")["total_reads_processed"]
                assert await asyncio.gather(*(store.get(key, {}) for _ in range(32))) == [{"a": b"1"}] * 32
                # One for the first of them, one for the others, and this client's own.
                assert client.info("stats")["total_reads_processed"] - before <= 3
                assert len(client.client_list()) == 2

        asyncio.run(body())

    def test_a_server_that_hangs_fails_those_who_were_sent_and_nobody_later(self, own_server):
        async def body():
            store = RedisSessionStore(own_server.url, timeout=LIMIT)
            records = await self.found(store, 8)
            os.kill(own_server.pid, signal.SIGSTOP)
            try:
                lost = await asyncio.gather(
                    *(store.merge(key, {"b": b""}, [], {}) for key in records),
                    *(store.get(key, {}) for key in records),
                    return_exceptions=True,
                )
            finally:
                os.kill(own_server.pid, signal.SIGCONT)
            assert {str(error) for error in lost} == {"no answer from Redis: TimeoutError"}
            read = await asyncio.gather(*(store.get(key, {}) for key in records))
            assert [record["a"] for record in read] == list(records.values())

        asyncio.run(body())

    def test_who_calls_again_the_moment_its_call_is_given_up_disturbs_nobody(self, own_server):
        async def body():
            store = RedisSessionStore(own_server.url, timeout=LIMIT)
            records = await self.found(store, 8)

            async def insist(key: str) -> dict[str, bytes]:
                for _ in range(20):
                    with contextlib.suppress(StoreDownError):
                        return await store.get(key, {})
                raise AssertionError("it never came back")

            os.kill(own_server.pid, signal.SIGSTOP)
            visits = [asyncio.create_task(insist(key)) for key in records for _ in range(2)]
            await asyncio.sleep(2.5 * LIMIT)
            os.kill(own_server.pid, signal.SIGCONT)
            assert [record["a"] for record in await asyncio.gather(*visits)] == [
                value for value in records.values() for _ in range(2)
            ]
            with look_at(own_server) as client:
                assert len(client.client_list()) == 2

        asyncio.run(body())

    def test_a_server_that_takes_no_more_is_given_up_with_all_that_was_not_sent(self, own_server):
        async def body():
            store = RedisSessionStore(own_server.url, timeout=LIMIT)
            records = await self.found(store, 2)
            os.kill(own_server.pid, signal.SIGSTOP)
            try:
                # More than the kernel keeps for a server that does not read.
                calls = [store.merge(key, {"b": bytes(30_000_000)}, [], {}) for key in records]
                lost = await asyncio.gather(*calls, return_exceptions=True)
            finally:
                os.kill(own_server.pid, signal.SIGCONT)
            assert {str(error) for error in lost} == {"no answer from Redis: TimeoutError"}
            read = await asyncio.gather(*(store.get(key, {}) for key in records))
            assert read == [{"a": value} for value in records.values()]

        asyncio.run(body())

    def test_a_server_that_dies_fails_what_it_owed_and_serves_again_when_it_is_back(self, own_server):
        async def body():
            store = RedisSessionStore(own_server.url)
            keys = await self.found(store, 8)
            os.kill(own_server.pid, signal.SIGSTOP)
            calls = [asyncio.create_task(store.merge(key, {"b": b""}, [], {})) for key in keys]
            await let_the_loop_run()
            restart(own_server)
            lost = await asyncio.gather(*calls, return_exceptions=True)
            assert {type(error) for error in lost} == {StoreDownError}
            assert await asyncio.gather(*(store.get(key, {}) for key in keys)) == [MISSING] * 8

        asyncio.run(body())

    @pytest.mark.parametrize("waited", [0, LIMIT / 4])
    def test_a_loop_that_was_kept_from_looking_takes_the_answers_that_came_in_time(self, own_server, waited):
        async def body():
            store = OneLimit(RedisSessionStore(own_server.url, timeout=LIMIT))
            records = await self.found(store, 2)
            # What a request has waited for before leaves its next call a limit of its own.
            store._whole_at = time.monotonic() + waited
            calls = [asyncio.create_task(store.get(key, {})) for key in records for _ in range(4)]
            await asyncio.sleep(0)
            time.sleep(2 * LIMIT)  # noqa: ASYNC251 - as code does that computes long
            assert [record["a"] for record in await asyncio.gather(*calls)] == [
                value for value in records.values() for _ in range(4)
            ]
            assert [await store.get(key, {}) for key in records] == [{"a": value} for value in records.values()]

        asyncio.run(body())

    def test_what_waits_for_a_connection_to_be_made_fails_with_it_and_a_later_call_tries_anew(self, own_server):
        async def body():
            store = RedisSessionStore(own_server.url)
            own_server.kill()
            lost = await asyncio.gather(*(store.get(KEY, {}) for _ in range(5)), return_exceptions=True)
            assert len(lost) == 5
            assert all(str(error).startswith("no answer from Redis: ConnectionError: does it run") for error in lost)
            restart(own_server)
            assert await asyncio.gather(*(store.get(KEY, {}) for _ in range(5))) == [MISSING] * 5

        asyncio.run(body())

    @pytest.mark.parametrize("is_connected", [True, False])
    def test_calls_that_fail_together_show_nothing_of_each_other(self, is_connected, own_server):
        async def body():
            store = RedisSessionStore(own_server.url)
            assert await store.get(KEY, {}) is MISSING
            pipeline = store._awaiting.args[0].get()
            if is_connected:
                os.kill(own_server.pid, signal.SIGSTOP)
            else:
                pipeline._line.end(redis.ConnectionError())
                own_server.kill()
            secrets = [b"alice's", b"bob's", b"carol's"]
            calls = [asyncio.ensure_future(store.set(store.id(), {"a": secret}, LONG)) for secret in secrets]
            await let_the_loop_run()
            if is_connected:
                pipeline._line.end(redis.ConnectionError("the server ended the connection"))
                os.kill(own_server.pid, signal.SIGCONT)
            failures = await asyncio.gather(*calls, return_exceptions=True)
            for failure, secret in zip(failures, secrets, strict=True):
                assert isinstance(failure, StoreDownError)
                shown = traceback.TracebackException.from_exception(failure, capture_locals=True)
                lines = "".join(shown.format())
                assert [one for one in secrets if one.decode() in lines] == [secret]

        asyncio.run(body())

    def test_a_connection_that_has_rested_longer_than_its_health_check_interval_is_made_anew(self, own_server):
        async def body():
            store = RedisSessionStore(f"{own_server.url}?health_check_interval=1")
            lines = []
            for rested in (0.5, 2):
                assert await store.get(KEY, {}) is MISSING
                line = store._awaiting.args[0].get()._line
                line._sent_at -= rested
                lines.append(line)
            assert await store.get(KEY, {}) is MISSING
            first, second = lines
            assert first is second
            assert store._awaiting.args[0].get()._line is not first

        asyncio.run(body())

    def test_a_connection_has_rested_while_something_kept_its_loop(self, own_server, monkeypatch):
        async def body():
            store = RedisSessionStore(f"{own_server.url}?health_check_interval=60")
            assert await store.get(KEY, {}) is MISSING
            line = store._awaiting.args[0].get()._line
            # As for a process that was stopped.
            monkeypatch.setattr(asyncio.get_running_loop(), "time", lambda: time.monotonic() + 61)
            monkeypatch.setattr(_waits, "monotonic", lambda: time.monotonic() + 61)
            assert await store.get(KEY, {}) is MISSING
            assert store._awaiting.args[0].get()._line is not line

        asyncio.run(body())

    @pytest.mark.parametrize(
        "unasked, stays",
        [
            (b">2\r\n+moving\r\n+soon\r\n", True),
            (b"+OK\r\n", False),
            (b"$0\r\n", False),
            (b"nonsense\r\n", False),
        ],
    )
    def test_what_comes_unasked_is_nobody_s_answer(self, unasked, stays, redis_server):
        async def body():
            store = RedisSessionStore(f"{redis_server.url}?protocol=3")
            key = store.id()
            assert await store.set(key, {"a": b"1"}, LONG) is APPLIED
            line = store._awaiting.args[0].get()._line
            line.data_received(unasked)
            assert await store.get(key, {}) == {"a": b"1"}
            assert (store._awaiting.args[0].get()._line is line) == stays

        asyncio.run(body())

    def test_a_blocking_connection_that_has_rested_longer_than_its_health_check_interval_is_made_anew(self, own_server):
        store = RedisSessionStore(f"{own_server.url}?health_check_interval=1")
        sockets = []
        for rested in (0.5, 2, 0):
            assert drive(store.get(KEY, {})) is MISSING
            connection = store._blocking.args[0].get().places._free[-1]
            connection._used_at -= rested
            sockets.append(connection._sock)
        first, second, third = sockets
        assert first is second
        assert third is not second
        close(store)

    @pytest.mark.parametrize("unasked", [b">2\r\n+moving\r\n+soon\r\n", b"+OK\r\n", b"$0\r\n", b"nonsense\r\n"])
    def test_what_comes_unasked_is_no_answer_of_a_blocking_call_either(self, unasked, redis_server):
        store = RedisSessionStore(f"{redis_server.url}?protocol=3")
        key = store.id()
        assert drive(store.set(key, {"a": b"1"}, LONG)) is APPLIED
        connection = store._blocking.args[0].get().places._free[-1]
        connection._answers.feed(unasked)
        assert drive(store.get(key, {})) == {"a": b"1"}
        close(store)

    def test_a_store_that_nobody_has_any_more_closes_its_connection_without_a_word(self, own_server):
        async def body():
            store = RedisSessionStore(own_server.url)
            store.itself = store
            assert await store.get(KEY, {}) is MISSING
            with look_at(own_server) as client:
                assert len(client.client_list()) == 2
                del store
                gc.collect()
                await let_the_loop_run()
                wait_until(lambda: len(client.client_list()) == 1)

        asyncio.run(body())
        gc.collect()

    def test_who_is_cancelled_as_its_connection_ends_leaves_nothing_that_asyncio_logs(self, redis_server, caplog):
        async def body():
            store = RedisSessionStore(redis_server.url)
            assert await store.get(KEY, {}) is MISSING
            call = asyncio.create_task(store.get(KEY, {}))
            await asyncio.sleep(0)
            store._awaiting.args[0].get()._line.end(redis.ConnectionError("lost"))
            call.cancel()
            await asyncio.wait([call])
            del call
            gc.collect()

        asyncio.run(body())
        assert not caplog.records

    def test_a_call_that_is_made_while_the_loop_ends_is_answered_where_the_connecting_had_not_begun(self, redis_server):
        store = RedisSessionStore(redis_server.url)
        key = store.id()

        async def visit():
            # In the turn in which the loop is stopped.
            await asyncio.sleep(0)
            try:
                await store.get(key, {})
            finally:
                assert await store.set(key, {"a": b"1"}, LONG) is APPLIED

        visits = []

        async def body():
            visits.append(asyncio.create_task(visit()))
            await asyncio.sleep(0)

        asyncio.run(body())
        assert asyncio.run(store.get(key, {})) == {"a": b"1"}

    def test_a_call_that_is_made_while_the_loop_ends_is_answered(self, redis_server):
        store = RedisSessionStore(redis_server.url)
        key = store.id()
        begun = asyncio.Event()

        async def visit():
            assert await store.set(key, {"a": b"1"}, LONG) is APPLIED
            begun.set()
            try:
                await asyncio.sleep(60)
            finally:
                assert await store.merge(key, {"b": b"2"}, [], {}) is APPLIED

        visits = []

        async def body():
            visits.append(asyncio.create_task(visit()))
            await begun.wait()

        asyncio.run(body())
        assert asyncio.run(store.get(key, {})) == {"a": b"1", "b": b"2"}


class TestColours:
    def test_a_client_gives_the_store_its_colour(self, cluster):
        def colour(client):
            return RedisSessionStore(client).colour

        assert colour(redis.Redis()) is Colour.BLOCKS
        assert colour(redis.asyncio.Redis()) is Colour.AWAITS
        with redis.RedisCluster(host="127.0.0.1", port=cluster[0].port) as client:
            assert colour(client) is Colour.BLOCKS
        assert colour(redis.asyncio.RedisCluster(host="127.0.0.1", port=cluster[0].port)) is Colour.AWAITS
        assert colour(redis.sentinel.Sentinel([("127.0.0.1", 1)]).master_for("shop")) is Colour.BLOCKS
        assert colour(redis.asyncio.sentinel.Sentinel([("127.0.0.1", 1)]).master_for("shop")) is Colour.AWAITS
        assert colour("redis://127.0.0.1") is Colour.EITHER
        assert RedisSessionStore("redis://127.0.0.1", blocking=True).colour is Colour.BLOCKS

    def test_a_store_made_from_a_url_serves_loops_and_blocking_callers_alike(self, redis_server):
        store = RedisSessionStore(redis_server.url)
        key = store.id()

        async def write():
            return await run_awaiting(store.colour, store.set(key, {"a": b"1"}, LONG))

        def read():
            return run_blocking(store.colour, None, lambda: store.get(key, {}))

        async def read_in_a_thread():
            return await asyncio.to_thread(read)

        assert asyncio.run(write()) is APPLIED
        assert read() == asyncio.run(read_in_a_thread()) == {"a": b"1"}
        close(store)

    def test_connections_of_a_loop_are_closed_with_it(self, own_server):
        store = RedisSessionStore(own_server.url)

        async def five():
            return await asyncio.gather(*(store.get(KEY, {}) for _ in range(5)))

        with look_at(own_server) as client:
            for _ in range(3):
                assert asyncio.run(five()) == [MISSING] * 5
                assert not store._awaiting.args[0]._kept
                wait_until(lambda: len(client.client_list()) == 1)

    def test_loops_at_once_have_connections_of_their_own(self, redis_server):
        store = RedisSessionStore(redis_server.url)
        key = store.id()
        assert asyncio.run(store.set(key, {"a": b"1"}, LONG)) is APPLIED

        async def many(first):
            return await asyncio.gather(*(store.merge(key, {f"f{first + n}": b""}, [], {}) for n in range(50)))

        answers = []
        threads = [threading.Thread(target=lambda n=n: answers.extend(asyncio.run(many(n * 50)))) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE)
        assert answers == [APPLIED] * 200
        assert len(asyncio.run(store.get(key, {}))) == 201

    @pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
    def test_a_loop_that_was_closed_without_its_end_is_forgotten(self, redis_server):
        store = RedisSessionStore(redis_server.url)
        for _ in range(3):
            loop = asyncio.new_event_loop()
            assert loop.run_until_complete(store.get(KEY, {})) is MISSING
            loop.close()
            assert len(store._awaiting.args[0]._kept) == 1
        assert asyncio.run(store.get(KEY, {})) is MISSING
        assert not store._awaiting.args[0]._kept
        gc.collect()

    def test_an_error_of_long_ago_keeps_no_connection_open_when_nobody_has_its_store_any_more(self, own_server):
        store = RedisSessionStore(own_server.url)
        gc.disable()
        try:
            with look_at(own_server) as watch:
                watch.script_flush()
                assert drive(store.get(KEY, {})) is MISSING
                assert len(watch.client_list()) == 2
                del store
                wait_until(lambda: len(watch.client_list()) == 1)
        finally:
            gc.enable()

    def test_an_awaiting_client_serves_one_loop_after_the_other(self, own_server):
        client = redis.asyncio.Redis(port=own_server.port)
        store = RedisSessionStore(client)
        key = store.id()
        assert asyncio.run(store.set(key, {"a": b"1"}, LONG)) is APPLIED
        with look_at(own_server) as watch:
            wait_until(lambda: len(watch.client_list()) == 1)
            assert asyncio.run(store.get(key, {})) == {"a": b"1"}
            wait_until(lambda: len(watch.client_list()) == 1)
        assert not client.connection_pool._in_use_connections

    def test_an_awaiting_client_of_a_cluster_says_that_it_serves_one_loop(self, cluster):
        async def body():
            async with redis.asyncio.RedisCluster(host="127.0.0.1", port=cluster[0].port) as client:
                store = RedisSessionStore(client)

                async def found() -> None:
                    for _ in range(10):
                        assert await store.set(store.id(), {"a": b"1"}, LONG) is APPLIED

                await found()
                with pytest.raises(ColourError, match="was used on another"):
                    await asyncio.to_thread(lambda: asyncio.run(found()))
                with pytest.raises(ColourError, match="`blocking=True`"):
                    await asyncio.to_thread(pytest.importorskip("trio").run, found)
                await found()

        asyncio.run(body())

    @pytest.mark.parametrize("made", ["from a URL", "from a client"])
    def test_trio_is_told_what_to_do_and_that_works(self, made, redis_server):
        trio = pytest.importorskip("trio")
        store = RedisSessionStore(redis_server.url if made == "from a URL" else redis.asyncio.Redis())

        async def call(store):
            return await run_awaiting(store.colour, store.get(KEY, {}))

        with pytest.raises(ColourError, match="`blocking=True`"):
            trio.run(call, store)
        store = RedisSessionStore(redis_server.url, blocking=True)
        assert trio.run(call, store) is MISSING
        assert asyncio.run(call(store)) is MISSING
        close(store)


class TestSettings:
    def test_max_age_is_the_stores_to_say(self):
        assert RedisSessionStore("redis://127.0.0.1", max_age=600).max_age == 600
        assert RedisSessionStore("redis://127.0.0.1").max_age is None

    def test_a_client_that_decodes_is_refused(self, cluster):
        port = cluster[0].port
        with redis.RedisCluster(host="127.0.0.1", port=port, decode_responses=True) as blocking_cluster:
            for client in (
                redis.Redis(decode_responses=True),
                redis.asyncio.Redis(decode_responses=True),
                blocking_cluster,
                redis.asyncio.RedisCluster(host="127.0.0.1", port=port, decode_responses=True),
                "redis://127.0.0.1?decode_responses=true",
            ):
                with pytest.raises(ConfigurationError, match="without decode_responses"):
                    RedisSessionStore(client)

    @pytest.mark.parametrize(
        "url",
        [
            "http://127.0.0.1",
            "127.0.0.1:6379",
            "",
            "redis://:se#cret@127.0.0.1:6379",
            "redis://127.0.0.1:secret",
            "redis://shop:pass?secret@127.0.0.1",
            # redis-py takes these for database 0, for database 12, and for /redis.sock.
            "redis://127.0.0.1/secret",
            "redis://127.0.0.1/1/2",
            "unix://run/redis.sock",
            "redis://127.0.0.1/1#secret",
        ],
    )
    @pytest.mark.parametrize("blocking", [False, True])
    def test_a_url_that_cannot_be_read_is_refused_and_not_quoted(self, url, blocking):
        with pytest.raises(ConfigurationError, match="redis://") as refusal:
            RedisSessionStore(url, blocking=blocking)
        assert "se" not in str(refusal.value).split()
        assert "secret" not in str(refusal.value)
        assert refusal.value.__suppress_context__

    @pytest.mark.parametrize(
        "url, name",
        [
            ("redis://127.0.0.1?socket_timeout=secret", "socket_timeout"),
            ("redis://127.0.0.1?health_check_interval=1&protocol=9", "protocol"),
            ("rediss://127.0.0.1?ssl_cert_reqs=secret", "ssl_cert_reqs"),
            ("unix:///run/redis.sock?db=secret", "db"),
            ("redis://127.0.0.1?db=", "db"),
            ("redis://127.0.0.1?db", "db"),
            ("redis://127.0.0.1?db=1&db=2", "db"),
            ("redis://127.0.0.1/1?db=2", "db"),
            ("redis://127.0.0.1?retry=secret", "retry"),
            ("redis://127.0.0.1?credential_provider=secret", "credential_provider"),
            ("redis://127.0.0.1?socket_type=1", "socket_type"),
            ("redis://127.0.0.1?connection_class=secret", "connection_class"),
            ("redis://127.0.0.1?maint_notifications_config=secret", "maint_notifications_config"),
            ("redis://127.0.0.1?encoding=secret", "encoding"),
        ],
    )
    @pytest.mark.parametrize("blocking", [False, True])
    def test_an_option_of_a_url_that_cannot_be_taken_is_named(self, url, name, blocking):
        with pytest.raises(ConfigurationError, match=f"'{name}'") as refusal:
            RedisSessionStore(url, blocking=blocking)
        assert "secret" not in "".join(traceback.format_exception(refusal.value)).partition("ConfigurationError")[2]

    @pytest.mark.parametrize("limit", ["-1", "0", "nan", "inf"])
    @pytest.mark.parametrize("name", ["socket_timeout", "socket_connect_timeout"])
    def test_a_limit_in_a_url_that_is_none_is_refused(self, name, limit):
        with pytest.raises(ConfigurationError, match=name):
            RedisSessionStore(f"redis://127.0.0.1?{name}={limit}")

    def test_an_unknown_option_of_a_url_is_named(self):
        with pytest.raises(ConfigurationError, match="'colour'"):
            RedisSessionStore("redis://127.0.0.1?colour=red")

    async def test_options_of_a_url_reach_the_client(self, redis_server):
        store = RedisSessionStore(f"redis://127.0.0.1:{redis_server.port}/3?client_name=shop&protocol=3")
        key = store.id()
        assert drive(store.set(key, {"a": b"1"}, LONG)) is APPLIED

        assert await store.get(key, {}) == {"a": b"1"}
        with look_at(redis_server) as client:
            ours = [one for one in client.client_list() if one["name"] == "shop"]
            assert [(one["db"], one["resp"]) for one in ours] == [("3", "3")] * 2
        close(store)

    def test_a_unix_socket_will_do(self, tmp_path_factory):
        with servers.start_redis("--unixsocket", "socket") as server:
            store = RedisSessionStore(f"unix://{server.folder}/socket")
            key = store.id()
            assert asyncio.run(store.set(key, {"a": b"1"}, LONG)) is APPLIED
            assert drive(store.get(key, {})) == {"a": b"1"}
            close(store)

    def test_what_is_no_client_is_refused(self):
        for wrong in (None, object(), redis, b"redis://127.0.0.1", redis.asyncio.ConnectionPool()):
            with pytest.raises(ConfigurationError, match=f"{type(wrong).__name__} is no client of redis-py"):
                RedisSessionStore(wrong)

    def test_settings_that_cannot_work_are_refused(self):
        for timeout in (0, -1, float("nan")):
            with pytest.raises(ConfigurationError, match="timeout"):
                RedisSessionStore("redis://127.0.0.1", timeout=timeout)
        with pytest.raises(ConfigurationError, match="belongs to a URL"):
            RedisSessionStore(redis.Redis(), blocking=True)


@pytest.mark.skipif(not ALL, reason="takes long: SERVER_SESSION_ALL=1 runs it")
@pytest.mark.parametrize("colour", ["blocking", "awaiting"])
def test_a_store_behind_sentinel_comes_back_after_a_fail_over(colour):
    with contextlib.ExitStack() as stack:
        (master, _), sentinels = stack.enter_context(start_watched())
        addresses = [("127.0.0.1", sentinel.port) for sentinel in sentinels]

        async def body(store):
            key = store.id()
            assert await store.set(key, {"a": b"1"}, LONG) is APPLIED
            with look_at(master) as client:
                assert client.wait(1, 5000) == 1
            master.kill()
            end = time.monotonic() + PATIENCE
            failures = 0
            while True:
                assert time.monotonic() < end, "no call was answered after the fail-over"
                try:
                    record = await store.get(key, {})
                except StoreError:
                    failures += 1
                    await pause(0.1)
                    continue
                break
            assert record == {"a": b"1"}
            assert await store.merge(key, {"b": b"2"}, [], {"a": b"1"}) is APPLIED
            assert failures > 0

        quick = {"socket_timeout": 0.5, "protocol": 2}
        if colour == "blocking":
            with redis.sentinel.Sentinel(addresses, **quick).master_for(SERVICE, **quick) as client:
                drive(body(RedisSessionStore(client)))
        else:

            async def whole():
                sentinel = redis.asyncio.sentinel.Sentinel(addresses, **quick)
                async with asyncio.timeout(PATIENCE), sentinel.master_for(SERVICE, **quick) as client:
                    await body(RedisSessionStore(client))
                for one in sentinel.sentinels:
                    await one.aclose()

            asyncio.run(whole())


@contextlib.contextmanager
def start(program: str, settings: str) -> Iterator[int]:
    """Start a server of the family with a file of settings; give its port."""
    with tempfile.TemporaryDirectory(prefix="session-") as folder:
        file = Path(folder, "settings")
        port = servers.free_port()
        file.write_text(f"bind 127.0.0.1\nport {port}\ndir {folder}\n{settings}")
        process = subprocess.Popen([program, file], stdout=subprocess.DEVNULL)
        try:
            with redis.Redis(port=port) as client:
                wait_until(lambda: answers(client))
            yield port
        finally:
            process.kill()
            process.wait(PATIENCE)


@pytest.fixture(scope="module")
def valkey_port() -> Iterator[int]:
    if shutil.which("valkey-server") is None:
        pytest.skip("valkey-server is not on this machine; Debian has it from version 13 on")
    with start("valkey-server", 'save ""\n') as port:
        yield port


class TestValkey(OverAServer):
    kind, options = "blocking", {}

    @pytest.fixture(autouse=True)
    def _find_server(self, valkey_port):
        self.port = valkey_port

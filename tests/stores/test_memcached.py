import asyncio
import contextlib
import contextvars
import multiprocessing
import os
import select
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Self
from urllib.parse import quote

import msgspec
import pytest
from pymemcache.client.base import Client, PooledClient
from pymemcache.client.hash import HashClient

from server_session._colour import Colour, drive, run_awaiting, run_blocking
from server_session._urls import open_store
from server_session.exceptions import (
    ColourError,
    ConfigurationError,
    LimitError,
    RecordError,
    StoreDownError,
    StoreError,
    StoreFullError,
)
from server_session.stores import memcached
from server_session.stores._base import APPLIED, CONFLICT, MISSING, Lifetime
from server_session.stores.memcached import MemcachedSessionStore
from server_session.testing import StoreContract, YieldingStore
from tests import servers
from tests.parts import PARTS
from tests.patience import PATIENCE, wait_until

# What a server or a signal does is the same on every Python.
pytestmark = pytest.mark.once

LONG = Lifetime(1800, 86400)
KEY = "k" * 24
NAME = f"session:{KEY}"
DAY = 86400.0


class Clock:
    """The present as a test has it, from now on."""

    def __init__(self) -> None:
        self.now = time.time()

    def __call__(self) -> float:
        return self.now


class OverAServer(StoreContract):
    clock_steps_back = True

    @pytest.fixture(autouse=True)
    def _find_server(self, memcached_server):
        self.server = memcached_server

    def make_store(self):
        self.clock = Clock()
        return self.second_client(None)

    def second_client(self, store):
        return MemcachedSessionStore(self.server.url, clock=self.clock)

    def close_store(self, store):
        store.close()

    def advance(self, seconds):
        self.clock.now += seconds


class TestURL(OverAServer):
    pass


@pytest.mark.again
class TestClient(OverAServer):
    def second_client(self, store):
        client = PooledClient(
            ("127.0.0.1", self.server.port), timeout=PATIENCE, connect_timeout=PATIENCE, key_prefix=b"shop:"
        )
        return MemcachedSessionStore(client, clock=self.clock)


class TestOnALoop(OverAServer):
    def second_client(self, store):
        return YieldingStore(super().second_client(store))

    def close_store(self, store):
        store.store.close()


@pytest.mark.again
class TestOnALoopOfTrio(TestOnALoop):
    library = "trio"


class TestOverTheServersOwnExpiry(StoreContract):
    second = 0.5

    @pytest.fixture(autouse=True)
    def _find_server(self, memcached_server):
        self.server = memcached_server

    def make_store(self):
        return MemcachedSessionStore(self.server.url)

    def close_store(self, store):
        store.close()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(memcached_server, clock) -> Iterator[MemcachedSessionStore]:
    store = MemcachedSessionStore(memcached_server.url, clock=clock)
    drive(store.destroy(KEY))
    yield store
    store.close()


@pytest.fixture
def plain(memcached_server) -> Iterator[Client]:
    """A client to look at the server with."""
    with looking_at(memcached_server) as client:
        yield client


@contextlib.contextmanager
def looking_at(server: servers.Server) -> Iterator[Client]:
    client = Client(("127.0.0.1", server.port), timeout=PATIENCE, connect_timeout=PATIENCE, default_noreply=False)
    yield client
    client.close()


@contextlib.contextmanager
def over(server: servers.Server, **settings: object) -> Iterator[MemcachedSessionStore]:
    store = MemcachedSessionStore(server.url, **settings)
    yield store
    store.close()


class Mute:
    """Listens, takes connections, and says what it is told to say to whatever it is asked."""

    def __init__(self, answer: bytes | None = None) -> None:
        self._answer = answer
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._open = [self._listener]
        self.url = f"memcached://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection = self._listener.accept()[0]
                self._open.append(connection)
                connection.recv(65536)
                if self._answer is not None:
                    connection.sendall(self._answer)
                if self._answer == b"":
                    connection.shutdown(socket.SHUT_RDWR)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for one in self._open:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()


def seconds_left(client: Client, name: str) -> int:
    """What memcached says is left of an item's time; -1 for no end."""
    return int(client.raw_command(f"mg {name} t").split(b" t")[1].split()[0])


class TestRoundTrips:
    CALLS = (
        ("a new session", 1, lambda store: store.set(KEY, {"a": b"1"}, LONG)),
        ("a read", 1, lambda store: store.get(KEY, {"a": b"1"})),
        ("a merge", 2, lambda store: store.merge(KEY, {"b": b"2"}, [], {"a": b"1"})),
        ("a session written anew", 2, lambda store: store.set(KEY, {"a": b"1"}, LONG, {})),
        ("a write that is refused", 1, lambda store: store.merge(KEY, {"b": b"2"}, [], {"a": b"9"})),
        ("an end", 2, lambda store: store.destroy(KEY)),
    )

    def test_a_read_is_one_and_a_write_two(self, store, plain):
        for what, trips, call in self.CALLS:
            before = commands(plain)
            drive(call(store))
            assert commands(plain) - before == trips, what


def commands(client: Client) -> int:
    stats = client.stats()
    return sum(stats[name] for name in (b"cmd_get", b"cmd_set", b"delete_hits", b"delete_misses"))


class TestTouches:
    def test_a_read_writes_only_what_is_worth_more_than_a_tenth_of_the_idle_time(self, store, clock, plain):
        drive(store.set(KEY, {"a": b"1"}, Lifetime(100)))
        first = plain.get(NAME)
        clock.now += 9.9
        drive(store.get(KEY, {}))
        assert plain.get(NAME) == first
        clock.now += 0.2
        drive(store.get(KEY, {}))
        assert plain.get(NAME) != first
        clock.now += 99.9
        assert drive(store.get(KEY, {})) == {"a": b"1"}

    def test_a_merge_restarts_the_clock_to_the_full(self, store, clock):
        drive(store.set(KEY, {"a": b"1"}, Lifetime(100)))
        clock.now += 1
        drive(store.merge(KEY, {}, [], {}))
        clock.now += 99.9
        assert drive(store.get(KEY, {})) == {"a": b"1"}

    def test_a_read_near_the_deadline_writes_nothing_more(self, store, clock, plain):
        drive(store.set(KEY, {"a": b"1"}, Lifetime(100, 110)))
        clock.now += 50
        drive(store.get(KEY, {}))
        touched = plain.get(NAME)
        clock.now += 50
        drive(store.get(KEY, {}))
        assert plain.get(NAME) == touched

    def test_a_read_that_meets_a_write_at_its_touch_reads_again(self, store, clock):
        drive(store.set(KEY, {"a": b"1"}, Lifetime(100)))
        clock.now += 50
        interfere(store, lambda other: drive(other.merge(KEY, {"a": b"2"}, [], {})))
        assert drive(store.get(KEY, {})) == {"a": b"2"}

    def test_a_read_that_meets_an_end_at_its_touch_brings_nothing_back(self, store, clock):
        drive(store.set(KEY, {"a": b"1"}, Lifetime(100)))
        clock.now += 50
        interfere(store, lambda other: drive(other.destroy(KEY)))
        assert drive(store.get(KEY, {})) is MISSING
        assert drive(store.get(KEY, {})) is MISSING


def interfere(store: MemcachedSessionStore, act, times: int = 1) -> None:
    """Let `act` run between the store's next reads and what it writes after them."""
    other = MemcachedSessionStore.__new__(MemcachedSessionStore)
    other.__dict__.update(store.__dict__)
    write = MemcachedSessionStore._write
    left = [times]

    def late(*arguments):
        if left[0]:
            left[0] -= 1
            # As others do, whose calls are counted by themselves.
            contextvars.copy_context().run(act, other)
        return write(store, *arguments)

    store._write = late


class TestSwaps:
    def test_a_write_that_meets_another_looks_again_at_what_it_expects(self, store):
        for expect, outcome, fields in (
            ({}, APPLIED, {"a": b"2", "b": b"1"}),
            ({"a": b"1"}, CONFLICT, {"a": b"2"}),
        ):
            drive(store.destroy(KEY))
            drive(store.set(KEY, {"a": b"1"}, LONG))
            interfere(store, lambda other: drive(other.merge(KEY, {"a": b"2"}, [], {})))
            assert drive(store.merge(KEY, {"b": b"1"}, [], expect)) is outcome
            assert drive(store.get(KEY, {})) == fields

    def test_a_new_session_that_meets_another_is_refused(self, store):
        interfere(store, lambda other: drive(other.set(KEY, {"a": b"2"}, LONG)))
        assert drive(store.set(KEY, {"a": b"1"}, LONG)) is CONFLICT
        assert drive(store.get(KEY, {})) == {"a": b"2"}

    def test_a_new_session_takes_the_place_of_one_that_has_expired_and_is_still_there(self, store, clock, plain):
        drive(store.set(KEY, {"a": b"1"}, Lifetime(100)))
        clock.now += 101
        assert plain.get(NAME) is not None
        assert drive(store.destroy(KEY)) is False
        assert drive(store.set(KEY, {"a": b"2"}, LONG, {})) is MISSING
        assert drive(store.set(KEY, {"a": b"2"}, LONG)) is APPLIED
        assert drive(store.get(KEY, {})) == {"a": b"2"}

    def test_a_new_session_in_the_place_of_an_expired_one_meets_another(self, store, clock):
        drive(store.set(KEY, {"a": b"1"}, Lifetime(100)))
        clock.now += 101
        # The second write is the one over the expired record: the first finds it and adds nothing.
        interfere(store, lambda other: drive(other.set(KEY, {"a": b"3"}, LONG)), times=2)
        assert drive(store.set(KEY, {"a": b"2"}, LONG)) is CONFLICT
        assert drive(store.get(KEY, {})) == {"a": b"3"}

    def test_a_write_that_always_meets_others_gives_up_and_says_so(self, memcached_server):
        # The limit of a client that is given is its own: the store's counts the tries.
        client = PooledClient(("127.0.0.1", memcached_server.port), timeout=PATIENCE, connect_timeout=PATIENCE)
        with contextlib.closing(MemcachedSessionStore(client, timeout=0.05)) as store:
            drive(store.set(KEY, {"a": b"0"}, LONG, {}))
            drive(store.set(KEY, {"a": b"0"}, LONG))
            interfere(store, lambda other: drive(other.merge(KEY, {"a": os.urandom(4)}, [], {})), times=10_000)
            with pytest.raises(StoreError, match=r"for 0\.05 seconds; nothing was written"):
                drive(store.merge(KEY, {"b": b"1"}, [], {}))
            assert "b" not in drive(store.get(KEY, {}))

    def test_a_record_has_a_field_at_least(self, store):
        with pytest.raises(ValueError, match="no fields"):
            drive(store.set(KEY, {}, LONG))
        drive(store.set(KEY, {"a": b"1"}, LONG))
        with pytest.raises(ValueError, match="without fields"):
            drive(store.merge(KEY, {}, ["a"], {}))

    def test_a_server_without_compare_and_swap_is_refused(self):
        with servers.start_memcached("-C") as server, over(server) as store:
            assert drive(store.set(KEY, {"a": b"1"}, LONG)) is APPLIED
            with pytest.raises(StoreError, match="start it without -C"):
                drive(store.merge(KEY, {"a": b"2"}, [], {}))
            assert drive(store.get(KEY, {})) == {"a": b"1"}


class TestExpiry:
    @pytest.mark.parametrize("days", [1, 29, 29.99999, 30, 30.00001, 31, 400])
    def test_a_lifetime_on_either_side_of_30_days_is_the_servers_too(self, days, store, plain):
        seconds = days * DAY
        drive(store.set(KEY, {"a": b"1"}, Lifetime(seconds)))
        assert drive(store.get(KEY, {})) == {"a": b"1"}
        assert seconds - 100 < seconds_left(plain, NAME) <= seconds + 6

    @pytest.mark.parametrize("seconds", [100 * 365 * DAY, 1e12, 1e300, float("inf")])
    def test_a_lifetime_past_the_servers_numbers_is_the_records_own(self, seconds, store, plain):
        drive(store.set(KEY, {"a": b"1"}, Lifetime(seconds, seconds)))
        assert drive(store.get(KEY, {})) == {"a": b"1"}
        assert seconds_left(plain, NAME) == -1

    def test_the_servers_expiry_follows_touches_and_lifetimes(self, store, clock, plain):
        drive(store.set(KEY, {"a": b"1"}, Lifetime(1000, 40 * DAY)))
        assert 900 < seconds_left(plain, NAME) <= 1005
        drive(store.merge(KEY, {}, [], {}, Lifetime(31 * DAY)))
        assert seconds_left(plain, NAME) > 31 * DAY - 100
        drive(store.merge(KEY, {}, [], {}, Lifetime(500)))
        assert 400 < seconds_left(plain, NAME) <= 505

    def test_the_server_never_drops_a_record_before_its_end(self):
        for now in (0.0, 0.001, 0.5, 0.999, 1e9, 1.7e9 + 0.4):
            for seconds in (0.001, 0.5, 1, 1.5, 100, 30 * DAY - 1, 30 * DAY, 30 * DAY + 0.1, 31 * DAY):
                expiry = memcached._expiry(now + seconds, now)
                assert expiry > 0
                end = expiry if expiry > 30 * DAY else now + expiry
                assert now + seconds + 1.9 <= end <= now + seconds + 3.1

    def test_a_value_goes_from_the_server_after_its_end(self, memcached_server, plain):
        with over(memcached_server) as store:
            key = store.id()
            drive(store.set(key, {"a": b"1"}, Lifetime(0.2)))
            wait_until(lambda: plain.get(f"session:{key}") is None)


class TestLimits:
    def test_a_session_larger_than_an_item_is_a_clear_error_and_the_old_one_stays(self):
        with servers.start_memcached("-I", "1m") as server, over(server) as store:
            drive(store.set(KEY, {"a": b"1"}, LONG))
            for call in (
                store.merge(KEY, {"b": b"x" * (1 << 20)}, [], {}),
                store.set(KEY, {"b": b"x" * (1 << 21)}, LONG, {}),
                store.set(store.id(), {"b": b"x" * (1 << 20)}, LONG),
            ):
                with pytest.raises(LimitError, match="larger -I"):
                    drive(call)
                assert drive(store.get(KEY, {})) == {"a": b"1"}
            assert drive(store.merge(KEY, {"b": b"x" * 900_000}, [], {})) is APPLIED

    def test_memcached_that_may_not_evict_refuses_new_sessions_and_keeps_the_old(self):
        with servers.start_memcached("-I", "1m", "-m", "2", "-M") as server, over(server) as store:
            kept = []
            with contextlib.suppress(StoreFullError):
                for key in [store.id() for _ in range(3000)]:
                    drive(store.set(key, {"a": b"x" * 10_000}, LONG))
                    kept.append(key)
            assert 20 < len(kept) < 3000
            with pytest.raises(StoreFullError, match="without -M"):
                drive(store.set(store.id(), {"a": b"x" * 10_000}, LONG))
            with pytest.raises(StoreFullError):
                drive(store.set(kept[0], {"a": b"y" * 10_000}, LONG, {}))
            assert all(drive(store.get(key, {}, touch=False)) == {"a": b"x" * 10_000} for key in kept)

    def test_an_evicted_session_is_missing_and_nothing_else_happens(self):
        with (
            servers.start_memcached("-I", "1m", "-m", "2") as server,
            over(server) as store,
            looking_at(server) as plain,
        ):
            keys = [store.id() for _ in range(1500)]
            for key in keys:
                assert drive(store.set(key, {"a": b"x" * 10_000}, LONG)) is APPLIED
            assert plain.stats()[b"evictions"] > 0
            gone = [key for key in keys if drive(store.get(key, {}, touch=False)) is MISSING]
            assert 0 < len(gone) < len(keys)
            for key in gone[:20]:
                assert drive(store.get(key, {})) is MISSING
                assert drive(store.merge(key, {"a": b"1"}, [], {})) is MISSING
                assert drive(store.set(key, {"a": b"1"}, LONG, {})) is MISSING
                assert drive(store.destroy(key)) is False
            assert drive(store.get(keys[-1], {})) == {"a": b"x" * 10_000}

    def test_a_session_evicted_before_it_is_swapped_is_missing(self, store, plain):
        drive(store.set(KEY, {"a": b"1"}, LONG))
        interfere(store, lambda _: plain.delete(NAME))
        assert drive(store.merge(KEY, {"a": b"2"}, [], {})) is MISSING
        assert plain.get(NAME) is None

    def test_it_serves_no_owners(self):
        assert MemcachedSessionStore.evicts


def each_call(store: MemcachedSessionStore):
    yield store.get(KEY, {})
    yield store.set(KEY, {"a": b"1"}, LONG)
    yield store.set(KEY, {"a": b"1"}, LONG, {})
    yield store.merge(KEY, {"a": b"1"}, [], {})
    yield store.destroy(KEY)


class TestFailure:
    def test_a_server_that_is_down_is_an_error_and_no_absent_session(self, free_port):
        store = MemcachedSessionStore(f"memcached://127.0.0.1:{free_port}")
        for call in each_call(store):
            with pytest.raises(
                StoreError, match=r"no answer from memcached: ConnectionRefusedError \(Connection refused\)"
            ):
                drive(call)

    def test_a_server_that_is_silent_is_an_error_within_the_limit(self):
        with Mute() as mute:
            store = MemcachedSessionStore(mute.url, timeout=0.05)
            for call in each_call(store):
                with pytest.raises(StoreError, match="no answer"):
                    drive(call)

    @pytest.mark.parametrize(
        "answer",
        [
            b"",
            b"ERROR\r\n",
            b"SERVER_ERROR busy\r\n",
            b"HTTP/1.1 400 Bad Request\r\n\r\n",
            b"VALUE \r\n",
            b"VALUE x 0 1 1",
        ],
    )
    def test_what_is_no_answer_is_an_error(self, answer):
        with Mute(answer) as mute:
            store = MemcachedSessionStore(mute.url, timeout=0.2)
            for call in each_call(store):
                with pytest.raises(StoreError):
                    drive(call)

    def test_an_error_of_the_server_is_told_in_its_words(self):
        with Mute(b"SERVER_ERROR busy\r\n") as mute:
            store = MemcachedSessionStore(mute.url)
            for call in each_call(store):
                with pytest.raises(StoreError, match="memcached refused the call: busy"):
                    drive(call)

    @pytest.mark.parametrize(
        "answer, kind, said",
        [
            (b"", StoreDownError, "no answer from memcached: MemcacheUnexpectedCloseError"),
            (b"ERROR\r\n", StoreError, "knows no such command"),
            (b"CLIENT_ERROR bad data chunk\r\n", StoreError, "refused the call: bad data chunk"),
            (b"SERVER_ERROR busy\r\n", StoreError, "refused the call: busy"),
        ],
    )
    def test_who_hangs_up_is_down_and_who_answers_anything_is_not(self, answer, kind, said):
        with Mute(answer) as mute:
            store = MemcachedSessionStore(mute.url)
            for call in each_call(store):
                with pytest.raises(kind, match=said) as failure:
                    drive(call)
                assert type(failure.value) is kind

    @pytest.mark.parametrize(
        "answer, mend",
        [
            (b"CLIENT_ERROR unauthenticated\r\n", "start it without -Y"),
            (b"ERROR Too many open connections\r\n", "a larger -c"),
        ],
    )
    def test_who_lets_nobody_in_is_told_from_who_is_no_memcached(self, answer, mend):
        with Mute(answer) as mute:
            store = MemcachedSessionStore(mute.url)
            for call in each_call(store):
                with pytest.raises(StoreError, match=mend):
                    drive(call)

    def test_another_sessions_answer_is_an_error(self):
        with Mute(b"VALUE session:another 0 1 7\r\nx\r\nEND\r\n") as mute:
            store = MemcachedSessionStore(mute.url)
            with pytest.raises(StoreError, match="not memcached's"):
                drive(store.get(KEY, {}))

    def test_after_a_restart_the_first_call_works_whatever_it_is(self):
        with servers.start_memcached() as server, over(server) as store:
            for make in (
                lambda: store.get(KEY, {}),
                lambda: store.set(KEY, {"a": b"1"}, LONG),
                lambda: store.merge(KEY, {"a": b"2"}, [], {}),
                lambda: store.destroy(KEY),
            ):
                assert drive(store.set(store.id(), {"a": b"1"}, LONG)) is APPLIED
                hang_up(store)
                assert drive(make()) is not None

    def test_a_connection_that_holds_an_answer_nobody_asked_for_is_not_used(self, store):
        drive(store.set(KEY, {"a": b"1"}, LONG))
        (connection,) = store._pool.get().free
        connection.sock.sendall(b"get session:other\r\n")
        select.select([connection.sock], [], [], 20)
        assert drive(store.get(KEY, {})) == {"a": b"1"}

    def test_a_call_that_breaks_off_leaves_no_connection_behind(self, store):
        drive(store.set(KEY, {"a": b"1"}, LONG))

        def break_off(_):
            raise KeyboardInterrupt

        interfere(store, break_off)
        with pytest.raises(KeyboardInterrupt):
            drive(store.merge(KEY, {"a": b"2"}, [], {}))
        pool = store._pool.get()
        assert not pool.used
        assert all(connection.sock is None for connection in pool.free)
        assert drive(store.get(KEY, {})) == {"a": b"1"}

    @pytest.mark.parametrize(
        "value",
        [
            b"",
            b"1",
            b"text",
            b"\x93\x01\x02\x03",
            msgspec.msgpack.encode([2, 1.0, 1e12, 1e12, {"a": b""}]),
            msgspec.msgpack.encode([1.0, 1e12, 1e12, {"a": b""}]),
        ],
    )
    def test_what_another_program_wrote_is_no_session(self, value, store, plain):
        plain.set(NAME, value)
        for call in each_call(store):
            with pytest.raises(RecordError, match="another program"):
                drive(call)
        assert plain.get(NAME) == value
        plain.delete(NAME)

    def test_a_client_that_gives_back_something_else_than_bytes_is_noticed(self, memcached_server, plain):
        plain.set(NAME, b"1")
        address = ("127.0.0.1", memcached_server.port)
        client = PooledClient(address, timeout=PATIENCE, connect_timeout=PATIENCE, deserializer=lambda *_: object())
        with pytest.raises(RecordError, match="serde"):
            drive(MemcachedSessionStore(client).get(KEY, {}))
        client.close()
        plain.delete(NAME)


def hang_up(store: MemcachedSessionStore) -> None:
    """End the store's idle connections from the server's side, as far as they can tell."""
    for connection in store._pool.get().free:
        connection.sock.shutdown(socket.SHUT_RD)


class TestConnections:
    def test_threads_have_a_connection_each_and_they_are_used_again(self, store):
        drive(store.set(KEY, {"a": b"1"}, LONG))
        answers = []
        threads = [
            threading.Thread(target=lambda n=n: answers.append(drive(store.merge(KEY, {f"f{n}": b""}, [], {}))))
            for n in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE)
        assert answers == [APPLIED] * 8
        assert len(drive(store.get(KEY, {}))) == 9
        pool = store._pool.get()
        assert not pool.used
        assert 1 <= len(pool.free) <= 8

    def test_a_clients_pool_that_is_too_small_says_so(self, memcached_server):
        limits = {"timeout": PATIENCE, "connect_timeout": PATIENCE}
        client = PooledClient(("127.0.0.1", memcached_server.port), max_pool_size=1, **limits)
        store = MemcachedSessionStore(client)
        with store._connection(), pytest.raises(StoreError, match="max_pool_size"):
            drive(store.get(KEY, {}))
        assert drive(store.get(store.id(), {})) is MISSING
        client.close()

    @pytest.mark.filterwarnings("ignore::DeprecationWarning")
    def test_a_process_that_forks_shares_no_connection(self, store):
        drive(store.set(KEY, {"a": b"1"}, LONG))
        (parents,) = store._pool.get().free
        place = parents.sock.getsockname()
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            with contextlib.suppress(BaseException):
                drive(store.get(KEY, {}))
                (own,) = store._pool.get().free
                os.write(writer, repr(own.sock.getsockname()).encode())
            os._exit(0)
        os.close(writer)
        with os.fdopen(reader, "rb") as answer:
            told = answer.read().decode()
        os.waitpid(child, 0)
        assert told not in ("", repr(place))
        assert drive(store.get(KEY, {})) == {"a": b"1"}
        assert store._pool.get().free == (parents,)

    def test_a_connection_in_use_while_the_store_is_closed_is_closed_after(self, store):
        drive(store.set(KEY, {"a": b"1"}, LONG))
        with store._connection() as connection:
            store.close()
            assert connection.gets(NAME)[0] is not None
            assert connection.sock is not None
        assert connection.sock is None
        assert not store._pool.get().free

    def test_a_closed_store_can_be_used_on(self, store):
        drive(store.set(KEY, {"a": b"1"}, LONG))
        store.close()
        assert drive(store.get(KEY, {})) == {"a": b"1"}

    @pytest.mark.needs("memcached")
    def test_a_unix_socket_will_do(self):
        with tempfile.TemporaryDirectory(prefix="session-") as folder:
            path = Path(folder, "a socket")
            process = subprocess.Popen([str(PARTS["memcached"].find()), "-s", path, "-u", "root"])
            try:
                wait_until(path.exists)
                store = open_store(f"memcached://{quote(str(path))}")
                assert drive(store.set(KEY, {"a": b"1"}, LONG)) is APPLIED
                assert drive(store.get(KEY, {})) == {"a": b"1"}
                store.close()
            finally:
                process.kill()
                process.wait(PATIENCE)


class TestColours:
    def test_it_blocks_and_runs_under_either_library(self, store):
        trio = pytest.importorskip("trio")
        assert store.colour is Colour.BLOCKS

        async def write():
            return await run_awaiting(store.colour, store.set(KEY, {"a": b"1"}, LONG))

        async def read():
            return await run_awaiting(store.colour, store.get(KEY, {}))

        async def refused():
            with pytest.raises(ColourError, match="would stall it"):
                run_blocking(store.colour, None, lambda: store.get(KEY, {}))

        assert asyncio.run(write()) is APPLIED
        assert trio.run(read) == {"a": b"1"}
        assert run_blocking(store.colour, None, lambda: store.get(KEY, {})) == {"a": b"1"}
        asyncio.run(refused())

    async def test_a_call_that_is_cancelled_mixes_up_no_answers(self, store):
        drive(store.set(KEY, {"a": b"1"}, LONG))
        other = store.id()
        drive(store.set(other, {"b": b"2"}, LONG))

        async def ask() -> None:
            await run_awaiting(store.colour, store.get(KEY, {}))

        for steps in range(30):
            task = asyncio.create_task(ask())
            for _ in range(steps % 6):
                await asyncio.sleep(0)
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
            assert await run_awaiting(store.colour, store.get(other, {})) == {"b": b"2"}


class TestSettings:
    def test_a_url_makes_one(self, memcached_server):
        store = open_store(memcached_server.url)
        assert isinstance(store, MemcachedSessionStore)
        assert drive(store.get(store.id(), {})) is MISSING
        store.close()

    def test_a_url_without_a_port_means_11211(self):
        def server(url):
            return memcached._client(url, 2.0).server

        assert server("memcached://10.0.0.1") == ("10.0.0.1", 11211)
        assert server("memcached://10.0.0.1/") == ("10.0.0.1", 11211)
        assert server("memcached://[::1]:7") == ("::1", 7)
        assert server("memcached:///run/a%20b.sock") == "/run/a b.sock"

    @pytest.mark.parametrize(
        "url",
        [
            "",
            "memcached:",
            "memcached:127.0.0.1:11211",
            "memcached://",
            "memcached:///",
            "memcached://:11211",
            "memcached://127.0.0.1:secret",
            "memcached://127.0.0.1:99999",
            "memcached://[127.0.0.1",
            "memcached://ada:secret@127.0.0.1",
            "memcached://127.0.0.1/secret",
            "memcached://127.0.0.1?timeout=secret",
            "memcached://127.0.0.1#secret",
            "memcached+tls://127.0.0.1",
            "http://127.0.0.1",
            "127.0.0.1:11211",
        ],
    )
    def test_a_url_that_cannot_be_read_is_refused_and_not_quoted(self, url):
        with pytest.raises(ConfigurationError, match="memcached://host:port") as refusal:
            MemcachedSessionStore(url)
        assert "secret" not in str(refusal.value)
        assert refusal.value.__context__ is None

    def test_a_parameter_in_a_url_is_named(self):
        with pytest.raises(ConfigurationError, match=r"'timeout' .*PooledClient"):
            MemcachedSessionStore("memcached://127.0.0.1?timeout=1")

    def test_max_age_is_the_stores_to_say(self):
        assert MemcachedSessionStore("memcached://127.0.0.1", max_age=600).max_age == 600
        assert MemcachedSessionStore("memcached://127.0.0.1").max_age is None

    def test_prefixes_keep_stores_apart(self, memcached_server, store, plain):
        drive(store.set(KEY, {"a": b"1"}, LONG))
        with over(memcached_server, prefix="p" * 226) as other:
            assert drive(other.set(KEY, {"a": b"2"}, LONG, {})) is MISSING
            assert drive(other.set(KEY, {"a": b"2"}, LONG)) is APPLIED
            assert drive(store.get(KEY, {})) == {"a": b"1"}
            assert plain.get("p" * 226 + KEY) is not None
            drive(other.destroy(KEY))

    @pytest.mark.parametrize("prefix", ["a b", "a\n", "a\0", "\x7f", "\N{NO-BREAK SPACE}", "\u00e9", "p" * 227])
    def test_a_prefix_that_cannot_begin_a_key_is_refused(self, prefix):
        with pytest.raises(ConfigurationError, match="up to 226 visible characters"):
            MemcachedSessionStore("memcached://127.0.0.1", prefix=prefix)

    def test_a_clients_own_prefix_counts(self):
        client = PooledClient("127.0.0.1", timeout=PATIENCE, connect_timeout=PATIENCE, key_prefix=b"x" * 200)
        with pytest.raises(ConfigurationError, match="up to 26 visible characters"):
            MemcachedSessionStore(client, prefix="p" * 27)
        MemcachedSessionStore(client, prefix="p" * 26)

    def test_a_client_that_would_hide_errors_or_wait_forever_is_refused(self):
        limits = {"timeout": PATIENCE, "connect_timeout": PATIENCE}
        with pytest.raises(ConfigurationError, match="ignore_exc"):
            MemcachedSessionStore(PooledClient("127.0.0.1", ignore_exc=True, **limits))
        for name in limits:
            with pytest.raises(ConfigurationError, match="wait forever"):
                MemcachedSessionStore(PooledClient("127.0.0.1", **{**limits, name: None}))

    def test_what_cannot_carry_sessions_is_refused(self):
        for wrong in (None, object(), Client("127.0.0.1"), HashClient(["127.0.0.1"], use_pooling=True), b"memcached:"):
            with pytest.raises(ConfigurationError, match=f"{type(wrong).__name__} cannot carry sessions"):
                MemcachedSessionStore(wrong)

    def test_settings_that_cannot_work_are_refused(self):
        for timeout in (0, -1, float("nan")):
            with pytest.raises(ConfigurationError, match="timeout"):
                MemcachedSessionStore("memcached://127.0.0.1", timeout=timeout)


def merge_own_keys(url: str, key: str, number: int, keys: int) -> int:
    with contextlib.closing(MemcachedSessionStore(url, timeout=PATIENCE)) as store:
        return sum(drive(store.merge(key, {f"{number} {n}": b"1"}, [], {})) is APPLIED for n in range(keys))


def count(url: str, key: str, steps: int) -> int:
    with contextlib.closing(MemcachedSessionStore(url, timeout=PATIENCE)) as store:
        done = 0
        for _ in range(10_000):
            value = drive(store.get(key, {}))["n"]
            done += drive(store.merge(key, {"n": b"%d" % (int(value) + 1)}, [], {"n": value})) is APPLIED
            if done == steps:
                break
        return done


def pluck(url: str, keys: list[str]) -> list[bool]:
    with contextlib.closing(MemcachedSessionStore(url, timeout=PATIENCE)) as store:
        return [drive(store.merge(key, {}, ["once"], {"once": b"1"})) is APPLIED for key in keys]


@pytest.fixture(scope="module")
def pool() -> Iterator[ProcessPoolExecutor]:
    with ProcessPoolExecutor(4, multiprocessing.get_context("spawn")) as pool:
        yield pool


class TestProcesses:
    def test_no_merge_of_four_is_lost(self, pool, memcached_server, store):
        key = store.id()
        drive(store.set(key, {"keep": b"k"}, LONG))
        calls = [pool.submit(merge_own_keys, memcached_server.url, key, number, 50) for number in range(4)]
        assert [call.result(PATIENCE) for call in calls] == [50] * 4
        assert len(drive(store.get(key, {}))) == 201

    def test_no_step_of_a_counter_of_four_is_lost(self, pool, memcached_server, store):
        key = store.id()
        drive(store.set(key, {"n": b"0"}, LONG))
        calls = [pool.submit(count, memcached_server.url, key, 50) for _ in range(4)]
        assert [call.result(PATIENCE) for call in calls] == [50] * 4
        assert drive(store.get(key, {})) == {"n": b"200"}

    def test_of_four_who_pluck_exactly_one_gets_it(self, pool, memcached_server, store):
        keys = [store.id() for _ in range(100)]
        for key in keys:
            drive(store.set(key, {"once": b"1", "keep": b"k"}, LONG))
        calls = [pool.submit(pluck, memcached_server.url, keys) for _ in range(4)]
        got = zip(*(call.result(PATIENCE) for call in calls), strict=True)
        assert [sum(one) for one in got] == [1] * 100

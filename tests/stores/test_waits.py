"""What the calls of one request wait for their store is, all together, the limit of one."""

import asyncio
import math
import socket
import time
from contextlib import nullcontext
from contextvars import Context
from types import SimpleNamespace
from typing import Any

import pytest
import redis
from starlette.responses import Response

from server_session import MemorySessionStore, Sessions, StoreDownError, StoreError
from server_session._colour import Colour, drive
from server_session.stores import _packed, _waits
from server_session.stores._base import APPLIED, MISSING, Lifetime
from server_session.stores._circuit import CircuitStore
from server_session.stores._files import Files
from server_session.stores._over import StoreOver
from server_session.stores._packed import next_try, step_back
from server_session.stores._waits import AT_ONCE, OneLimit, _ClockOfLoop, begin_call, left, next_wait
from server_session.stores.file import FileSessionStore
from server_session.stores.memcached import MemcachedSessionStore
from server_session.stores.redis import RedisSessionStore
from server_session.stores.redis._pipeline import Pipeline
from server_session.testing import StoreContract, YieldingStore
from tests.asgi_client import scope_of
from tests.trials.worker import Awaiting, Blocking
from tests.visitors import Clock

KEY = "k" * 24
LIMIT = 20.0


@pytest.fixture
def moment(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """What clocks of loops and threads are made of."""
    moment = Clock()
    monkeypatch.setattr(_waits, "monotonic", moment)
    return moment


@pytest.fixture
def clock(moment: Clock, monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The clock by which it is counted what calls have left."""
    # Who sets it ahead stands for a server that takes its time, and not for code that keeps the loop.
    monkeypatch.setattr(_waits, "clock_here", _waits.Clock)
    return moment


class Slow(StoreOver):
    """A store whose server takes its time: a call is answered after that, or given up where it has less left."""

    colour = Colour.BLOCKS

    def __init__(self, clock: Clock, seconds: float = 0.0) -> None:
        super().__init__(MemorySessionStore())
        self.colour = type(self).colour
        self.clock = clock
        self.seconds = seconds
        self.asked = 0

    async def _ask(self, call: Any, key: str, *arguments: Any, **options: Any) -> Any:
        begin_call(LIMIT)
        self.asked += 1
        self.clock.advance(min(self.seconds, left()))
        if left() < AT_ONCE:
            raise StoreDownError("no answer")
        return await call(key, *arguments, **options)


class SlowAwaiting(Slow):
    colour = Colour.AWAITS


class TestOneLimitContract(StoreContract):
    clock_steps_back = True

    def make_store(self):
        self.clock = Clock()
        return OneLimit(YieldingStore(MemorySessionStore(clock=self.clock)))

    def advance(self, seconds):
        self.clock.advance(seconds)


def read(store: OneLimit) -> object:
    return drive(store.get(KEY, {}))


def test_calls_that_are_slow_and_answered_leave_the_next_one_less(clock):
    beneath = Slow(clock, LIMIT / 3)
    store, begun = OneLimit(beneath), clock()
    assert [read(store), read(store)] == [MISSING] * 2
    beneath.seconds = LIMIT
    with pytest.raises(StoreDownError, match="no answer"):
        read(store)
    # Of each that was answered, what comes at once counts for nothing.
    assert clock() - begun <= LIMIT + 2 * AT_ONCE + 0.01


def test_a_store_that_is_a_little_slow_serves_a_request_of_many_calls(clock):
    store = OneLimit(Slow(clock, AT_ONCE * 1.2))
    assert [read(store) for _ in range(500)] == [MISSING] * 500


def test_a_call_that_asked_nobody_for_a_limit_has_waited_for_none(clock):
    class Near(StoreOver):
        """A store that answers what it knows itself, and takes its time for it."""

        async def _ask(self, call: Any, key: str, *arguments: Any, **options: Any) -> Any:
            if key == KEY:
                clock.advance(1.0)
                return MISSING
            return await call(key, *arguments, **options)

    store = OneLimit(Near(Slow(clock)))
    for _ in range(40):
        assert read(store) is MISSING
        assert drive(store.get("o" * 24, {})) is MISSING


def test_who_has_waited_for_it_all_is_turned_away_at_once(clock):
    beneath = Slow(clock, LIMIT)
    store = OneLimit(beneath)
    with pytest.raises(StoreDownError, match="no answer"):
        read(store)
    asked, now = beneath.asked, clock()
    with pytest.raises(StoreDownError, match=r"not asked, for calls of the same request have waited 20\.0 s"):
        read(store)
    assert (beneath.asked, clock()) == (asked, now)


def test_it_says_nothing_of_the_store_to_others(clock):
    beneath = Slow(clock, LIMIT)
    circuit = CircuitStore(beneath, clock)
    store = OneLimit(circuit)
    with pytest.raises(StoreDownError, match="no answer"):
        read(store)
    failed = circuit.failed
    with pytest.raises(StoreDownError, match="not asked"):
        drive(store.get("o" * 24, {}))
    assert circuit.failed == failed


def test_another_request_has_a_limit_of_its_own(clock):
    beneath = Slow(clock, LIMIT)
    with pytest.raises(StoreDownError):
        read(OneLimit(beneath))
    beneath.seconds = LIMIT / 2
    assert read(OneLimit(beneath)) is MISSING


def test_a_call_of_no_request_has_the_whole_limit(clock):
    beneath = Slow(clock, LIMIT / 3)
    store = OneLimit(beneath)
    assert [read(store), read(store)] == [MISSING] * 2
    begin_call(LIMIT)
    assert left() == pytest.approx(LIMIT)


def test_answers_that_come_at_once_cost_nothing_however_many_they_are(clock):
    beneath = Slow(clock, AT_ONCE / 2)
    store = OneLimit(beneath)
    assert {read(store) for _ in range(1000)} == {MISSING}
    beneath.seconds = 0.9 * LIMIT
    assert read(store) is MISSING


def test_what_was_waited_is_given_back_with_the_time(clock):
    beneath = Slow(clock, LIMIT)
    store = OneLimit(beneath)
    with pytest.raises(StoreDownError):
        read(store)
    clock.advance(LIMIT)
    beneath.seconds = 0.9 * LIMIT
    assert read(store) is MISSING


async def test_calls_that_wait_side_by_side_wait_once(clock):
    gate = asyncio.Event()

    class Gated(YieldingStore):
        async def get(self, key, expect, touch=True):
            begin_call(LIMIT)
            if not gate.is_set():
                await gate.wait()
            return await super().get(key, expect, touch)

    store = OneLimit(Gated(MemorySessionStore()))
    calls = [asyncio.ensure_future(store.get(KEY, {})) for _ in range(5)]
    await asyncio.sleep(0)
    clock.advance(LIMIT / 2)
    gate.set()
    assert await asyncio.gather(*calls) == [MISSING] * 5
    assert await store.get(KEY, {}) is MISSING
    assert left() == pytest.approx(LIMIT / 2 + AT_ONCE)


async def test_a_short_wait_that_ends_last_takes_nothing_from_what_a_long_one_has_used(clock):
    gates = {"a" * 24: asyncio.Event(), "b" * 24: asyncio.Event()}

    class Gated(YieldingStore):
        async def get(self, key, expect, touch=True):
            begin_call(LIMIT)
            await gates[key].wait()
            return MISSING

    store = OneLimit(Gated(MemorySessionStore()))
    calls = []
    for key, seconds in zip(gates, (LIMIT / 2, 1.0), strict=True):
        calls.append(asyncio.ensure_future(store.get(key, {})))
        await asyncio.sleep(0)
        clock.advance(seconds)
    for gate, call in zip(gates.values(), calls, strict=True):
        gate.set()
        assert await call is MISSING
    whole_at = store._whole_at
    assert whole_at - clock() == pytest.approx(LIMIT / 2 + 1.0 - AT_ONCE)


# --- requests

STEPS = {
    "reads": lambda call, request: [lambda: call.get_session_data(request)] * 4,
    "renewal": lambda call, request: [
        lambda: call.is_alive(request),
        lambda: call.get_session_data(request),
        lambda: call.renew_session(request),
    ],
    "update": lambda call, request: [
        lambda: call.update_session_data(request, lambda data: data.update(n=1)),
        lambda: call.get_session_data(request),
    ],
    "log-in": lambda call, request: [lambda: call.log_in(request, "anna", {"n": 1})],
}


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("kind", [Slow, SlowAwaiting])
async def test_a_request_of_several_slow_calls_is_a_503_within_the_limit(kind, steps, clock):
    store = kind(clock)
    sessions = Sessions(session_store=store, max_sessions=3)
    front = Awaiting(sessions)

    async def found(request):
        await sessions.log_in(request, "anna", {"n": 0})

    _, [cookie] = await front.serve(None, found)
    cookie = cookie.partition(";")[0].partition("=")[2]
    begun, store.seconds = clock(), 0.45 * LIMIT

    async def body(request):
        for step in STEPS[steps](sessions, request):
            await step()

    status, _ = await front.serve(cookie, body)
    assert status == 503
    assert clock() - begun <= LIMIT + 0.1
    store.seconds = 0.0
    clock.advance(60)
    assert (await front.serve(cookie, body))[0] == 200


def test_so_it_is_for_requests_that_block(clock):
    store = Slow(clock)
    sessions = Sessions(session_store=store)
    front = Blocking(sessions)

    async def found(request):
        sessions.sync.log_in(request, "anna", {"n": 0})

    async def body(request):
        for _ in range(4):
            sessions.sync.get_session_data(request)

    _, [cookie] = drive(front.serve(None, found))
    cookie = cookie.partition(";")[0].partition("=")[2]
    begun, store.seconds = clock(), 0.45 * LIMIT
    assert drive(front.serve(cookie, body))[0] == 503
    assert clock() - begun <= LIMIT + 0.1


OF_AN_OWNER = {
    "listed": lambda call: call.sessions_of("anna", data=True),
    "changed": lambda call: call.update_sessions_of("anna", lambda data: data.update(role="guest")),
    "ended": lambda call: call.destroy_sessions_of("anna"),
}


@pytest.mark.parametrize("what", OF_AN_OWNER)
@pytest.mark.parametrize("kind", [Slow, SlowAwaiting])
async def test_of_an_owners_sessions_each_has_its_limit_however_many_there_are(kind, what, clock):
    store = kind(clock)
    sessions = Sessions(session_store=store)
    for _ in range(20):
        await sessions.log_in(scope_of(), Response(), "anna", {"role": "editor"})
    store.seconds = 0.2 * LIMIT
    done = await OF_AN_OWNER[what](sessions)
    assert (len(done) if what == "listed" else done) == 20
    store.seconds, begun = LIMIT, clock()
    with pytest.raises(StoreDownError):
        await OF_AN_OWNER[what](sessions)
    assert clock() - begun <= LIMIT + 0.1


def test_a_call_with_a_long_limit_is_tried_for_as_long(monkeypatch):
    paused = []

    async def pause(seconds: float) -> None:
        paused.append(seconds)

    monkeypatch.setattr(_packed, "pause", pause)
    for tries in range(5000):
        drive(step_back(tries))
    assert max(paused) <= 0.05


def test_a_call_that_others_are_faster_than_is_tried_to_its_end_and_then_says_so(clock):
    begin_call(LIMIT)
    drive(next_try(0, LIMIT))
    clock.advance(LIMIT - 1)
    drive(next_try(1, LIMIT))
    clock.advance(1)
    with pytest.raises(StoreError, match=r"for 20 seconds; nothing was written") as caught:
        drive(next_try(2, LIMIT))
    # Who answered, if only with another's write, is not down.
    assert not isinstance(caught.value, StoreDownError)


def test_a_call_whose_time_is_over_looks_once_more_and_no_piece_is_waited_for_after_that(clock):
    begin_call(LIMIT)
    assert next_wait() == pytest.approx(LIMIT)
    clock.advance(LIMIT)
    assert next_wait() == pytest.approx(0.001)
    with pytest.raises(TimeoutError):
        next_wait()
    begin_call(LIMIT)
    assert next_wait() == pytest.approx(LIMIT)


def test_a_limit_is_one_that_sockets_and_drivers_take(clock):
    # Outside calls there is no end, as while connections are closed.
    assert Context().run(left) == Context().run(next_wait) == 86400
    begin_call(LIMIT)
    clock.advance(LIMIT + 1)
    assert left() > 0


def test_who_was_kept_from_looking_takes_what_has_come_by_now_and_what_follows_at_once(clock):
    begin_call(LIMIT)
    clock.advance(LIMIT + 1)
    assert next_wait() == pytest.approx(AT_ONCE)
    clock.advance(AT_ONCE / 2)
    assert next_wait() == pytest.approx(AT_ONCE / 2)
    clock.advance(AT_ONCE / 2)
    assert next_wait() == pytest.approx(0.001)
    with pytest.raises(TimeoutError):
        next_wait()


@pytest.mark.parametrize("looks", [0, 1, 2])
def test_who_was_kept_from_looking_has_not_waited_for_the_store(looks, clock):
    class Kept(Slow):
        async def _ask(self, call: Any, key: str, *arguments: Any, **options: Any) -> Any:
            begin_call(LIMIT)
            next_wait()
            self.clock.advance(self.seconds)
            for _ in range(looks):
                self.clock.advance(min(0.01, next_wait()))
            return await call(key, *arguments, **options)

    store = OneLimit(Kept(clock, LIMIT + 1))
    assert [read(store) for _ in range(5)] == [MISSING] * 5


@pytest.mark.parametrize("seconds, fails", [(LIMIT / 2, False), (LIMIT + 1, True)])
def test_who_looked_in_time_or_was_not_answered_has_waited_for_the_store(seconds, fails, clock):
    class Looking(Slow):
        async def _ask(self, call: Any, key: str, *arguments: Any, **options: Any) -> Any:
            begin_call(LIMIT)
            next_wait()
            self.clock.advance(self.seconds)
            if fails:
                raise StoreDownError("no answer")
            return await call(key, *arguments, **options)

    store = OneLimit(Looking(clock, seconds))
    for _ in range(1 if fails else 2):
        with pytest.raises(StoreDownError, match="no answer") if fails else nullcontext():
            read(store)
    with pytest.raises(StoreDownError, match="not asked"):
        read(store)


def test_what_a_client_with_longer_limits_of_its_own_was_answered_late_has_been_waited_for(clock):
    class Patient(Slow):
        async def _ask(self, call: Any, key: str, *arguments: Any, **options: Any) -> Any:
            begin_call(LIMIT)
            self.clock.advance(self.seconds)
            return await call(key, *arguments, **options)

    store = OneLimit(Patient(clock, LIMIT + 1))
    assert read(store) is MISSING
    with pytest.raises(StoreDownError, match="not asked"):
        read(store)


# --- loops that something else keeps from looking


def test_the_clock_of_a_loop_stands_while_it_is_kept_from_looking_and_goes_on_while_it_waits(moment):
    async def body() -> None:
        clock = _ClockOfLoop()
        begun = clock.now()
        clock.run_until(begun + LIMIT)
        # A call that begins meanwhile begins no other tick.
        moment.advance(AT_ONCE / 2)
        clock.run_until(begun + LIMIT)
        moment.advance(60)
        # Who looks before the tick knows it too.
        for tick in (lambda: None, clock._tick, lambda: None):
            tick()
            assert clock.now() - begun == pytest.approx(2 * AT_ONCE)
        for ticks in range(3, 11):
            moment.advance(AT_ONCE)
            clock._tick()
            assert clock.now() - begun == pytest.approx(ticks * AT_ONCE)

    asyncio.run(body())


def test_the_clock_of_a_loop_never_goes_back(moment):
    async def body() -> None:
        clock = _ClockOfLoop()
        clock.run_until(clock.now() + LIMIT)
        seen = []
        for _ in range(10):
            moment.advance(AT_ONCE / 2)
            seen.append(clock.now())
        assert seen == sorted(seen)

    asyncio.run(body())


def test_the_clock_of_a_loop_ticks_for_as_long_as_calls_may_wait(moment):
    async def body() -> None:
        clock = _ClockOfLoop()
        clock.run_until(clock.now() + AT_ONCE * 2.5)
        clock.run_until(clock.now() + AT_ONCE)
        ticks = 0
        while clock._due != math.inf:
            moment.advance(AT_ONCE)
            clock._tick()
            ticks += 1
        assert ticks == 3
        # Nobody counts on it now.
        now = clock.now()
        moment.advance(60)
        assert clock.now() == now + 60

    asyncio.run(body())


def test_no_clock_of_a_loop_that_was_closed_is_kept_for_long():
    async def body() -> None:
        assert _waits.clock_here() is _waits.clock_here()

    for _ in range(3):
        asyncio.run(body())
    assert sum(loop.is_closed() for loop in _waits._OF_LOOPS) <= 1


# --- stores, whose call is several waits


class Transport(asyncio.Transport):
    """Sends nothing, and nothing comes."""

    def is_closing(self) -> bool:
        return False

    def get_protocol(self) -> asyncio.BaseProtocol:
        return asyncio.Protocol()

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        pass

    def write(self, data: object) -> None:
        pass

    def abort(self) -> None:
        pass


class Connection:
    """To a server that takes its time to be connected to, and never answers."""

    socket_timeout = None
    health_check_interval = 0
    connected_at: float

    async def connect(self) -> None:
        self.connected_at = time.monotonic()
        await asyncio.sleep(0.01)
        self._reader, self._writer = asyncio.StreamReader(), SimpleNamespace(transport=Transport())

    async def disconnect(self, nowait: bool = False) -> None:
        pass


async def test_an_answer_of_redis_is_due_a_limit_after_the_connecting_for_it_began(monkeypatch):
    loop, looks = asyncio.get_running_loop(), {}
    call_later = loop.call_later

    def note(seconds: float, look: Any, *given: Any, **options: Any) -> asyncio.TimerHandle:
        looks[look] = seconds
        return call_later(seconds, look, *given, **options)

    monkeypatch.setattr(loop, "call_later", note)
    connection = Connection()
    pipeline = Pipeline(connection, LIMIT)
    call = pipeline.call((b"PING",))
    await pipeline._connecting
    await asyncio.sleep(0)
    due, _ = pipeline._line.owed[0]
    assert due <= connection.connected_at + LIMIT
    assert looks[pipeline._line._watch] < LIMIT
    await pipeline.close()
    with pytest.raises(redis.ConnectionError):
        await call


async def test_a_call_to_redis_that_has_less_left_than_others_is_given_up_alone(monkeypatch, redis_server):
    monkeypatch.setattr(_waits, "_NEARLY_ALL", 1.0)
    store = RedisSessionStore(redis_server.url, timeout=LIMIT)
    assert await store.get(KEY, {}) is MISSING
    store._awaiting.args[0].get()._line._transport.pause_reading()
    patient = asyncio.ensure_future(store.get(KEY, {}))
    await asyncio.sleep(0)
    impatient = OneLimit(store)
    impatient._whole_at = time.monotonic() + LIMIT - 0.01
    with pytest.raises(StoreDownError, match="TimeoutError"):
        await impatient.get(KEY, {})
    assert not patient.done()
    patient.cancel()
    await asyncio.wait([patient])


def test_a_blocking_call_to_redis_waits_for_the_answer_what_the_connecting_has_left(clock, monkeypatch, redis_server):
    waits = []
    connect, receive = redis.Connection._connect, socket.socket.recv

    def connect_slowly(connection: Any) -> Any:
        waits.append(connection.socket_connect_timeout)
        clock.advance(LIMIT / 2)
        return connect(connection)

    def note(wire: Any, size: int) -> bytes:
        waits.append(wire.gettimeout())
        return receive(wire, size)

    monkeypatch.setattr(redis.Connection, "_connect", connect_slowly)
    monkeypatch.setattr(socket.socket, "recv", note)
    store = RedisSessionStore(redis_server.url, timeout=LIMIT)
    assert drive(store.get(KEY, {})) is MISSING
    first, *others = waits
    assert first == pytest.approx(LIMIT)
    assert max(others) <= LIMIT / 2
    (connection,) = store._blocking.args[0].get().places.clear()
    connection.disconnect()


def test_a_call_to_memcached_waits_for_each_answer_what_the_waits_before_have_left(
    clock, monkeypatch, memcached_server
):
    waits = []

    def slow(method: Any) -> Any:
        def call(wire: Any, *given: Any) -> Any:
            waits.append(wire.gettimeout())
            answer = method(wire, *given)
            clock.advance(LIMIT / 8)
            return answer

        return call

    for name in ("connect", "sendall", "recv"):
        monkeypatch.setattr(socket.socket, name, slow(getattr(socket.socket, name)))
    store = MemcachedSessionStore(memcached_server.url, timeout=LIMIT)
    drive(store.set(KEY, {"a": b"1"}, Lifetime(60)))
    store.close()
    waits.clear()
    assert drive(store.merge(KEY, {"a": b"2"}, (), {})) is APPLIED
    assert waits == pytest.approx([LIMIT * part / 8 for part in (8, 7, 6, 5, 4)])
    drive(store.destroy(KEY))
    store.close()


def test_a_call_to_the_files_waits_for_others_as_long_as_one_may_be_it_to_read_and_then_to_write(
    clock, monkeypatch, tmp_path
):
    waits = []
    read, held = Files.read, Files.held

    def read_slowly(files: Any, file: str, seconds: float) -> Any:
        waits.append(seconds)
        clock.advance(LIMIT / 2)
        return read(files, file, seconds)

    def hold(files: Any, file: str, seconds: float) -> Any:
        waits.append(seconds)
        return held(files, file, seconds)

    now = Clock()
    store = FileSessionStore(tmp_path, timeout=LIMIT, clock=now)
    drive(store.set(KEY, {"a": b"1"}, Lifetime(60)))
    now.advance(30)
    monkeypatch.setattr(Files, "read", read_slowly)
    monkeypatch.setattr(Files, "held", hold)
    # Now and then a call looks for what has expired.
    monkeypatch.setattr(store, "_sweep", lambda: None)
    assert drive(store.get(KEY, {})) == {"a": b"1"}
    assert waits == pytest.approx([LIMIT, LIMIT / 2])

"""A store that is down fails its callers at once, and serves them as soon as it is back."""

import asyncio
import gc
import traceback
import weakref

import pytest

from server_session import MemorySessionStore, StoreDownError, StoreError, StoreFullError
from server_session._colour import Colour, drive
from server_session._sessions import Sessions
from server_session.stores._base import MISSING, Lifetime
from server_session.stores._circuit import CircuitStore
from server_session.stores._over import StoreOver
from server_session.testing import StoreContract, YieldingStore
from tests.visitors import Clock

KEY = "k" * 24
LONG = Lifetime(1800, 86400)


class Patient(StoreOver):
    """A store whose server can be down: a call then waits for its limit, and fails."""

    def __init__(self) -> None:
        super().__init__(MemorySessionStore())
        self.colour = Colour.BLOCKS
        self.now = 1000.0
        self.asked = 0
        self.fails: StoreError | None = None
        self.limit = 2.0

    async def get(self, key, expect, touch=True):
        self.asked += 1
        if self.fails is not None:
            self.now += self.limit
            raise self.fails
        return await super().get(key, expect, touch)

    def clock(self) -> float:
        return self.now


@pytest.fixture
def beneath() -> Patient:
    return Patient()


@pytest.fixture
def store(beneath: Patient) -> CircuitStore:
    return CircuitStore(beneath, beneath.clock)


def read(store: CircuitStore) -> object:
    return drive(store.get(store.id(), {}))


async def hang(*_: object) -> None:
    await asyncio.Event().wait()


def fail(store: CircuitStore, times: int = 1) -> str:
    for _ in range(times):
        with pytest.raises(StoreDownError) as failure:
            read(store)
    return str(failure.value)


class TestCircuitContract(StoreContract):
    clock_steps_back = True

    def make_store(self):
        self.clock = Clock()
        return CircuitStore(YieldingStore(MemorySessionStore(clock=self.clock)))

    def advance(self, seconds):
        self.clock.advance(seconds)


def test_one_failure_turns_nobody_else_away(store, beneath):
    beneath.fails = StoreDownError("no answer")
    fail(store)
    beneath.fails = None
    assert read(store) is MISSING


def test_one_session_that_gets_no_answer_turns_no_other_away(store, beneath):
    real = beneath.get

    async def get(key, *arguments):
        if key == KEY:
            beneath.now += 0.1
            raise StoreDownError("others held a lock to the end of the time")
        return await real(key, *arguments)

    beneath.get = get
    for _ in range(100):
        with pytest.raises(StoreDownError, match="a lock"):
            drive(store.get(KEY, {}))
    assert read(store) is MISSING


def test_calls_that_fail_together_when_a_server_starts_anew_turn_nobody_away(store, beneath):
    beneath.fails, beneath.limit = StoreDownError("no answer"), 0.001
    fail(store, 100)
    beneath.fails = None
    assert read(store) is MISSING


def test_a_store_that_is_down_is_asked_twice_a_second_and_the_others_fail_at_once(store, beneath):
    beneath.fails = StoreDownError("no answer")
    fail(store, 3)
    beneath.now += 0.1
    asked, now = beneath.asked, beneath.now
    beneath.limit = 0.0
    fail(store, 50)
    assert (beneath.asked - asked, beneath.now) == (1, now)
    beneath.now += 0.51
    fail(store, 50)
    assert beneath.asked - asked == 2


def test_the_error_says_since_when_and_why(store, beneath):
    beneath.fails = StoreDownError("no answer from Redis: TimeoutError")
    fail(store, 3)
    beneath.limit = 0.0
    fail(store)
    text = fail(store)
    assert text == "not asked, for the store has not answered for 4 s: no answer from Redis: TimeoutError"


def test_the_error_keeps_and_shows_nothing_of_the_call_that_failed(store, beneath):
    beneath.fails = StoreDownError("no answer")
    fail(store, 3)
    beneath.limit = 0.0
    fail(store)

    class Fields(dict[str, bytes]):
        """What a visitor would have stored."""

    async def time_out(*_):
        raise StoreDownError("no answer")

    beneath.set = time_out
    beneath.now += 0.5
    fields = Fields(card=b"4111")
    kept = weakref.ref(fields)
    with pytest.raises(StoreDownError, match=r"^no answer$"):
        drive(store.set(KEY, fields, LONG))
    del fields
    gc.collect()
    assert kept() is None
    with pytest.raises(StoreDownError, match="not asked") as other:
        read(store)
    assert "time_out" not in "".join(traceback.format_exception(other.value))


def test_a_probe_that_waits_keeps_no_later_one_back(store, beneath):
    beneath.fails = StoreDownError("no answer")
    fail(store, 2)
    asked = beneath.asked
    # Each of them waits its 2 seconds, and the next is due meanwhile.
    fail(store, 3)
    assert beneath.asked - asked == 3


def test_the_first_answer_lets_all_through_again(store, beneath):
    beneath.fails = StoreDownError("no answer")
    fail(store, 3)
    beneath.fails = None
    beneath.now += 0.5
    asked = beneath.asked
    assert [read(store) for _ in range(20)] == [MISSING] * 20
    assert beneath.asked - asked == 20


@pytest.mark.parametrize("refusal", [StoreFullError("full"), StoreError("READONLY")])
def test_a_store_that_refuses_is_there(refusal, store, beneath):
    beneath.fails = refusal
    for _ in range(20):
        with pytest.raises(type(refusal), match=str(refusal)):
            read(store)
    assert beneath.asked == 20
    beneath.fails = StoreDownError("no answer")
    fail(store, 3)
    # A refusal comes at once.
    beneath.fails, beneath.limit = refusal, 0.0
    beneath.now += 0.5
    for _ in range(2):
        with pytest.raises(type(refusal), match=str(refusal)):
            read(store)


def test_failures_far_apart_are_not_one(store, beneath):
    beneath.fails, beneath.limit = StoreDownError("no answer"), 0.0
    for _ in range(3):
        beneath.now += 600
        fail(store, 3)
    assert beneath.asked == 9
    beneath.now += 600
    beneath.fails = None
    assert [read(store), read(store)] == [MISSING, MISSING]


def test_a_failure_of_long_ago_turns_nobody_away_who_asks_beside_the_first_call_since(store, beneath):
    beneath.fails = StoreDownError("no answer")
    fail(store, 3)
    beneath.fails = None
    beneath.now += 600

    async def answer_meanwhile(*_):
        del beneath.get
        return await store.get(KEY, {})

    beneath.get = answer_meanwhile
    assert read(store) is MISSING


async def test_probes_that_wait_for_longer_than_failures_count_let_nobody_else_through(store, beneath):
    beneath.fails = StoreDownError("no answer")
    fail(store, 3)

    beneath.get = hang
    probes = []
    for _ in range(25):
        beneath.now += 0.5
        probes.append(asyncio.create_task(store.get(KEY, {})))
        await asyncio.sleep(0)
    one_more = asyncio.create_task(store.get(KEY, {}))
    await asyncio.sleep(0)
    assert [probe for probe in probes if probe.done()] == []
    for call in (one_more, *probes):
        call.cancel()
    await asyncio.wait(probes)
    with pytest.raises(StoreDownError, match="not asked"):
        await one_more


async def test_a_probe_that_is_cancelled_leaves_nothing_behind(store, beneath):
    beneath.fails = StoreDownError("no answer")
    fail(store, 3)

    beneath.get = hang
    probe = asyncio.create_task(store.get(KEY, {}))
    await asyncio.sleep(0)
    probe.cancel()
    await asyncio.wait([probe])
    del beneath.get
    beneath.fails = None
    beneath.now += 0.5
    assert await store.get(KEY, {}) is MISSING
    assert len(asyncio.all_tasks()) == 1


def test_the_other_calls_go_through_it_as_well(store, beneath):
    beneath.fails = StoreDownError("no answer")
    fail(store, 3)
    beneath.limit = 0.0
    fail(store)
    for call in (
        lambda: store.set(KEY, {"a": b"1"}, LONG),
        lambda: store.merge(KEY, {}, [], {}),
        lambda: store.destroy(KEY),
    ):
        with pytest.raises(StoreDownError, match="not asked"):
            drive(call())


def test_sessions_put_it_before_what_may_wait_and_not_before_what_never_does(beneath):
    assert isinstance(Sessions(session_store=beneath).policy.store, CircuitStore)
    memory = MemorySessionStore()
    assert Sessions(session_store=memory).policy.store is memory

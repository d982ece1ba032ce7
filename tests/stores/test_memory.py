"""What MemorySessionStore promises beyond the contract that all stores share."""

import gc
import math
import subprocess
import sys
from datetime import timedelta

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule

from server_session._colour import Colour, drive
from server_session.exceptions import ConfigurationError, StoreFullError
from server_session.stores import memory
from server_session.stores._base import APPLIED, CONFLICT, MISSING, Lifetime
from server_session.stores.memory import MemorySessionStore, MemoryStats
from server_session.testing import StoreContract
from tests.parts import ALL
from tests.patience import PATIENCE
from tests.stores.listings import Listings

DAY = 86_400.0
HOUR = Lifetime(3600.0)


class Clock:
    """A clock that stands until it is moved."""

    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


def fill(store, number, lifetime=HOUR, size=300):
    keys = [store.id() for _ in range(number)]
    for key in keys:
        assert drive(store.set(key, {"data": bytes(size)}, lifetime)) is APPLIED
    return keys


def call(store, times=1):
    for _ in range(times):
        assert drive(store.get("A" * 24, {})) is MISSING


def fields_of(store, key):
    return drive(store.get(key, {}, touch=False))


class TestMemoryStoreContract(Listings, StoreContract):
    clock_steps_back = True

    def make_store(self):
        self.clock = Clock()
        return MemorySessionStore(clock=self.clock)

    def advance(self, seconds):
        self.clock.now += seconds


class TestMemoryStoreContractWithinBounds(TestMemoryStoreContract):
    def make_store(self):
        self.clock = Clock()
        return MemorySessionStore(clock=self.clock, max_sessions=10_000, max_bytes=1 << 30, when_full="evict")


# ---------------------------------------------------------------------------------------------------- settings


def test_it_never_waits():
    assert MemorySessionStore.colour is Colour.INSTANT


@pytest.mark.parametrize(
    "max_age,seconds", [(None, None), (600, 600.0), (0.5, 0.5), (timedelta(days=2, seconds=1), 172_801.0)]
)
def test_max_age_is_kept_in_seconds(max_age, seconds):
    assert MemorySessionStore(max_age=max_age).max_age == seconds


@pytest.mark.parametrize("max_age", [0, -1, math.nan, math.inf, timedelta(0), timedelta(seconds=-1), "600", True])
def test_a_max_age_that_is_no_time_is_refused(max_age):
    with pytest.raises(ConfigurationError, match="max_age"):
        MemorySessionStore(max_age=max_age)


@pytest.mark.parametrize("name", ["max_sessions", "max_bytes"])
@pytest.mark.parametrize("bound", [0, -1, 1.5, "9", True])
def test_a_bound_that_is_no_number_above_zero_is_refused(name, bound):
    with pytest.raises(ConfigurationError, match=name):
        MemorySessionStore(**{name: bound})


@pytest.mark.parametrize("settings", [{"when_full": "drop", "max_sessions": 1}, {"when_full": "evict"}])
def test_a_when_full_that_cannot_work_is_refused(settings):
    with pytest.raises(ConfigurationError, match="when_full"):
        MemorySessionStore(**settings)


# ------------------------------------------------------------------------------------------- records and lifetimes


def test_set_without_fields_is_an_error(clock):
    with pytest.raises(ValueError, match="no fields"):
        drive(MemorySessionStore(clock=clock).set("A" * 24, {}, HOUR))


def test_a_merge_that_would_leave_no_fields_is_an_error_and_changes_nothing(clock):
    store = MemorySessionStore(clock=clock)
    (key,) = fill(store, 1)
    before = fields_of(store, key)
    with pytest.raises(ValueError, match="without fields"):
        drive(store.merge(key, {}, ["data"], {}))
    assert fields_of(store, key) == before


@pytest.mark.parametrize("idle", [0.05, 1800.0, 30 * DAY, 3650 * DAY])
@pytest.mark.parametrize("remaining", [None, 0.05, 30 * DAY, 3650 * DAY])
def test_a_session_of_any_lifetime_lives_to_its_end_and_is_swept_after_it(clock, idle, remaining):
    store = MemorySessionStore(clock=clock)
    (key,) = fill(store, 1, Lifetime(idle, remaining))
    lives = idle if remaining is None else min(idle, remaining)
    clock.now += lives * 0.999
    assert fields_of(store, key) != MISSING
    assert store.stats().sessions == 1
    clock.now += lives * 0.002
    call(store)
    assert store.stats().sessions == 0


def test_a_session_that_never_expires_is_kept_and_can_be_evicted(clock):
    store = MemorySessionStore(clock=clock, max_sessions=1, when_full="evict")
    fill(store, 1, Lifetime(math.inf))
    (key,) = fill(store, 1, Lifetime(math.inf))
    clock.now += 3650 * DAY
    call(store, 10)
    assert fields_of(store, key) != MISSING
    assert store.stats().sessions == 1


def test_a_session_given_a_shorter_lifetime_is_swept_at_its_end(clock):
    store = MemorySessionStore(clock=clock)
    (key,) = fill(store, 1)
    clock.now += 1
    assert drive(store.merge(key, {}, [], {}, Lifetime(60.0))) is APPLIED
    clock.now += 61
    call(store)
    assert store.stats().sessions == 0


def test_a_session_is_swept_at_a_deadline_that_is_a_whole_number(clock):
    store = MemorySessionStore(clock=lambda: int(clock.now))
    fill(store, 3, Lifetime(60, 50))
    clock.now += 1000
    call(store, 10)
    assert store.stats().sessions == 0


def test_a_session_that_is_touched_outlives_the_sweeps(clock):
    store = MemorySessionStore(clock=clock)
    kept, *_ = fill(store, 40)
    for _ in range(10):
        clock.now += 3000
        assert drive(store.get(kept, {})) != MISSING
        call(store, 10)
    assert store.stats().sessions == 1


def test_values_that_hold_another_sessions_key_or_a_copy_of_the_memory_confuse_nothing(clock):
    store = MemorySessionStore(clock=clock)
    keys = fill(store, 20)
    for key, other in zip(keys, reversed(keys), strict=True):
        content = b"".join(packed for shard in store._shards.values() for packed in shard.values())[:4096]
        assert drive(store.merge(key, {"other": other.encode(), "copy": content}, [], {})) is APPLIED
    assert [fields_of(store, key)["other"].decode() for key in keys] == keys[::-1]


# -------------------------------------------------------------------------------------------------------- bounds


def test_a_full_store_refuses_a_new_session_and_serves_those_it_has(clock):
    store = MemorySessionStore(clock=clock, max_sessions=3)
    keys = fill(store, 3)
    with pytest.raises(StoreFullError, match=r"max_sessions=3, max_bytes=None\)"):
        fill(store, 1)
    assert store.stats().sessions == 3
    assert drive(store.merge(keys[0], {"more": bytes(5000)}, [], {})) is APPLIED
    assert drive(store.set(keys[1], {"new": b"1"}, HOUR, {})) is APPLIED
    assert drive(store.set(keys[2], {"new": b"1"}, HOUR)) is CONFLICT


def test_a_destroyed_session_leaves_room(clock):
    store = MemorySessionStore(clock=clock, max_sessions=3)
    keys = fill(store, 3)
    drive(store.destroy(keys[1]))
    fill(store, 1)
    assert fields_of(store, keys[0]) != MISSING


@pytest.mark.parametrize("when_full", ["refuse", "evict"])
def test_an_expired_session_leaves_room_before_a_living_one_is_refused_or_evicted(clock, when_full):
    store = MemorySessionStore(clock=clock, max_sessions=500, when_full=when_full)
    living = fill(store, 499)
    (expired,) = fill(store, 1, Lifetime(60.0))
    clock.now += 61
    fill(store, 1)
    assert fields_of(store, expired) is MISSING
    assert all(fields_of(store, key) != MISSING for key in living)


def test_a_store_full_of_bytes_refuses_new_sessions_and_growth_and_writes_nothing(clock):
    store = MemorySessionStore(clock=clock, max_bytes=20_000)
    keys = []
    with pytest.raises(StoreFullError, match="max_bytes=20000"):  # noqa: PT012
        while True:
            keys += fill(store, 1)
    before = store.stats()
    assert 30 < before.sessions == len(keys)
    assert 19_000 < before.bytes <= 20_000
    with pytest.raises(StoreFullError):
        drive(store.merge(keys[0], {"more": bytes(1000)}, ["data"], {}, Lifetime(5.0)))
    with pytest.raises(StoreFullError):
        drive(store.set(keys[0], {"more": bytes(1000)}, HOUR, {}))
    clock.now += 6
    assert fields_of(store, keys[0]) == {"data": bytes(300)}
    assert store.stats() == before


def test_a_store_full_of_bytes_takes_what_does_not_grow(clock):
    store = MemorySessionStore(clock=clock, max_bytes=20_000)
    with pytest.raises(StoreFullError):  # noqa: PT012
        keys = []
        while True:
            keys += fill(store, 1)
    assert drive(store.merge(keys[0], {"data": b"\1" * 300}, [], {})) is APPLIED
    assert drive(store.merge(keys[0], {"data": b"less"}, [], {})) is APPLIED
    assert drive(store.destroy(keys[1])) is True
    fill(store, 1)


def test_a_store_that_evicts_drops_the_session_nearest_to_its_expiry(clock):
    store = MemorySessionStore(clock=clock, max_sessions=4, when_full="evict")
    first, second, third = fill(store, 3)
    (short,) = fill(store, 1, Lifetime(600.0))
    clock.now += 1
    drive(store.get(first, {}))
    drive(store.get(third, {}))
    new = fill(store, 2)
    living = [key for key in (first, second, third, short, *new) if fields_of(store, key) != MISSING]
    assert living == [first, third, *new]
    assert store.stats().sessions == 4


def test_of_a_thousand_sessions_the_nearest_to_its_expiry_is_evicted(clock):
    store = MemorySessionStore(clock=clock, max_sessions=1000, when_full="evict")
    keys = []
    for _ in range(1000):
        clock.now += 1
        keys += fill(store, 1)
    for gone in keys[:200]:
        assert fields_of(store, gone) != MISSING
        fill(store, 1)
        assert fields_of(store, gone) is MISSING


def test_a_store_that_evicts_stays_within_its_bytes_whatever_comes(clock):
    store = MemorySessionStore(clock=clock, max_bytes=100_000, when_full="evict")
    for size in (10, 300, 5000, 60_000, 100, 10, 30_000, 1) * 30:
        (key,) = fill(store, 1, size=size)
        assert len(fields_of(store, key)["data"]) == size
        assert store.stats().bytes <= 100_000
        if drive(store.merge(key, {"more": bytes(size // 2)}, [], {})) is APPLIED:
            assert len(fields_of(store, key)) == 2
            assert store.stats().bytes <= 100_000


@pytest.mark.parametrize("idle", [5.0, 7200.0])
def test_a_session_that_grows_evicts_others_and_not_itself(clock, idle):
    store = MemorySessionStore(clock=clock, max_bytes=20_000, when_full="evict")
    fill(store, 100)
    (key,) = fill(store, 1, Lifetime(idle))
    assert drive(store.merge(key, {"more": bytes(10_000)}, [], {})) is APPLIED
    assert set(fields_of(store, key)) == {"data", "more"}
    assert drive(store.merge(key, {"more": bytes(300), "third": b"1"}, [], {})) is APPLIED
    assert set(fields_of(store, key)) == {"data", "more", "third"}
    clock.now += idle
    assert fields_of(store, key) is MISSING


def test_the_bound_of_bytes_holds_at_every_size(clock):
    for bound in range(6400, 7100, 7):
        store = MemorySessionStore(clock=clock, max_bytes=bound)
        with pytest.raises(StoreFullError):
            fill(store, 100)
        assert bound - 700 < store.stats().bytes <= bound


def test_a_session_larger_than_the_whole_store_is_refused_and_evicts_nobody(clock):
    store = MemorySessionStore(clock=clock, max_bytes=20_000, when_full="evict")
    keys = fill(store, 20)
    with pytest.raises(StoreFullError):
        fill(store, 1, size=20_000)
    with pytest.raises(StoreFullError):
        drive(store.merge(keys[0], {"more": bytes(20_000)}, [], {}))
    assert all(set(fields_of(store, key)) == {"data"} for key in keys)


def test_a_system_without_memory_is_a_store_that_is_full(clock, monkeypatch):
    store = MemorySessionStore(clock=clock)
    (key,) = fill(store, 1)

    def refuse(*_args):
        raise MemoryError

    monkeypatch.setattr(memory, "_pack_into", refuse)
    with pytest.raises(StoreFullError, match="no more memory"):
        drive(store.merge(key, {"more": bytes(5000)}, [], {}))
    with pytest.raises(StoreFullError, match="no more memory"):
        fill(store, 1, size=5000)
    assert fields_of(store, key) == {"data": bytes(300)}
    assert store.stats().sessions == 1


# ------------------------------------------------------------------------------------------------ sweep and memory


@pytest.mark.parametrize("sessions,most", [(3000, 16 + 16), (30_000, 16 + 48)])
def test_a_call_sweeps_few_of_many_that_have_expired(clock, sessions, most):
    store = MemorySessionStore(clock=clock)
    fill(store, sessions, size=10)
    clock.now += 3601
    while before := store.stats().sessions:
        call(store)
        assert before - store.stats().sessions <= most


def test_as_many_that_come_and_expire_do_not_add_up(clock):
    store = MemorySessionStore(clock=clock)
    for _ in range(30_000):
        clock.now += 1
        fill(store, 1, size=10)
        assert store.stats().sessions < 3600 * 1.1 + 32


def test_one_that_ends_long_before_the_others_is_swept_in_its_time(clock):
    store = MemorySessionStore(clock=clock)
    fill(store, 5000, Lifetime(30 * DAY))
    (short,) = fill(store, 1, Lifetime(5.0))
    (ended,) = fill(store, 1)
    assert drive(store.merge(ended, {"mark": b"1"}, ["data"], {}, Lifetime(60.0, 60.0))) is APPLIED
    clock.now += 5
    call(store)
    assert store.stats().sessions == 5001
    assert fields_of(store, short) is MISSING
    clock.now += 55
    call(store, 2)
    assert store.stats().sessions == 5000


def test_calls_sweep_all_that_has_expired_and_the_memory_goes_back(clock):
    store = MemorySessionStore(clock=clock)
    empty = store.stats()
    assert empty.sessions == 0
    keys = fill(store, 3000)
    full = store.stats()
    assert full.sessions == 3000
    assert 3000 * 300 < full.bytes < 3000 * 650
    clock.now += 3601
    call(store, 2000)
    assert store.stats() == empty
    assert all(fields_of(store, key) is MISSING for key in keys[::100])


def test_an_idle_store_keeps_what_it_has_and_shows_none_of_it(clock):
    store = MemorySessionStore(clock=clock)
    keys = fill(store, 1000)
    clock.now += 3601
    assert store.stats().sessions == 1000
    assert fields_of(store, keys[0]) is MISSING
    assert drive(store.destroy(keys[1])) is False
    assert drive(store.merge(keys[2], {"a": b"1"}, [], {})) is MISSING
    assert drive(store.set(keys[3], {"a": b"1"}, HOUR)) is APPLIED
    assert drive(store.set(keys[4], {"a": b"1"}, HOUR, {})) is MISSING
    assert fields_of(store, keys[3]) == {"a": b"1"}


def test_a_session_in_the_place_of_one_that_has_expired_and_is_not_swept_is_counted_alone(clock):
    store, fresh = MemorySessionStore(clock=clock), MemorySessionStore(clock=clock)
    keys = [f"AA{number:022}" for number in range(40)]
    for key in (*keys, "B" * 24):
        assert drive(store.set(key, {"a": b"expired"}, Lifetime(10.0))) is APPLIED
    clock.now += 11
    # It sweeps all the 40 of one shard, so the next call sweeps none.
    call(store)
    assert store.stats().sessions == 1
    for one in (store, fresh):
        assert drive(one.set("B" * 24, {"b": b"1"}, HOUR)) is APPLIED
    assert store.stats() == fresh.stats()


def test_of_the_sessions_of_one_shard_each_is_swept_in_its_time(clock):
    store = MemorySessionStore(clock=clock)
    for number, idle in enumerate((5.0, 10.0, 30 * DAY)):
        assert drive(store.set(f"BB{number:022}", {"a": b"1"}, Lifetime(idle))) is APPLIED
    for left in (2, 1):
        clock.now += 5
        call(store)
        assert store.stats().sessions == left


def test_calls_that_sweep_one_each_save_up_no_sweep_of_many(clock):
    store = MemorySessionStore(clock=clock)
    for _ in range(500):
        fill(store, 1, Lifetime(1.0), size=10)
        clock.now += 1
        call(store)
    fill(store, 3000, size=10)
    clock.now += 3601
    call(store)
    assert 3000 - store.stats().sessions <= 16 + 16


def test_a_session_whose_end_was_before_the_clock_s_begin_is_swept():
    clock = Clock()
    clock.now = 1.0
    store = MemorySessionStore(clock=clock)
    fill(store, 1, Lifetime(60.0, -5.0))
    call(store)
    assert store.stats().sessions == 0


def test_sessions_that_come_and_go_leave_nothing_behind(clock):
    store = MemorySessionStore(clock=clock)
    fill(store, 1, Lifetime(3650 * DAY))
    for _ in range(20_000):
        (key,) = fill(store, 1, Lifetime(30 * DAY), size=10)
        assert drive(store.destroy(key)) is True
    assert len(store._heap) < 2000
    assert len(store._shards) == len(store._dues) == 1


def test_the_names_of_fields_are_kept_once_and_no_more_than_a_few(clock):
    store = MemorySessionStore(clock=clock)
    keys = [store.id() for _ in range(1000)]
    for place, key in enumerate(keys):
        assert drive(store.set(key, {f"name {place}": b"1", "same": b"2"}, HOUR)) is APPLIED
    many = store.id()
    assert drive(store.set(many, {f"name {place}": b"" for place in range(1000)}, HOUR)) is APPLIED
    assert len(store._names) == 256
    assert [fields_of(store, key) for key in keys] == [{f"name {n}": b"1", "same": b"2"} for n in range(1000)]
    assert list(fields_of(store, many)) == [f"name {place}" for place in range(1000)]


def test_the_garbage_collector_has_nothing_to_do_with_sessions(clock):
    store = MemorySessionStore(clock=clock)

    def visited():
        """Count what a full collection visits: the referents of what it tracks."""
        gc.collect()
        return sum(len(gc.get_referents(tracked)) for tracked in gc.get_objects())

    # What holds the sessions it does visit: there is a bounded number of that.
    fill(store, 20_000)
    before = visited()
    keys = fill(store, 20_000)
    assert visited() - before < len(keys) + 500


@pytest.mark.skipif(sys.platform == "win32", reason="no fork")
def test_after_a_fork_each_process_has_sessions_of_its_own():
    program = """
import os
from server_session._colour import drive
from server_session.stores._base import Lifetime
from server_session.stores.memory import MemorySessionStore
store = MemorySessionStore()
key = store.id()
drive(store.set(key, {"a": b"parent"}, Lifetime(60.0)))
child = os.fork()
if not child:
    drive(store.merge(key, {"a": b"child!"}, [], {}))
    os._exit(0)
os.waitpid(child, 0)
print(drive(store.get(key, {})))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=PATIENCE, check=True)
    assert done.stdout == "{'a': b'parent'}\n"


# --------------------------------------------------------------------------------------------------- the model

NAMES = st.sampled_from(["a", "b", "\0digest", "n" * 255, "\N{SNOWMAN}"])
VALUES = st.one_of(st.binary(max_size=40), st.integers(0, 5000).map(bytes))
LIFETIMES = st.builds(
    Lifetime,
    st.sampled_from([0.05, 1.0, 60.0, 1800.0, 30 * DAY, 3650 * DAY]),
    st.sampled_from([None, None, 0.05, 30.0, 7200.0, 30 * DAY, 3650 * DAY]),
)


class Model(RuleBasedStateMachine):
    """The store beside a dict of fields, idle, deadline and expiry."""

    keys = Bundle("keys")

    def __init__(self):
        super().__init__()
        self.clock = Clock()
        self.store = MemorySessionStore(clock=self.clock)
        self.records = {}

    def live(self, key):
        record = self.records.get(key)
        return record if record is not None and record["expires"] > self.clock.now else None

    def write(self, key, fields, lifetime):
        deadline = math.inf if lifetime.remaining is None else self.clock.now + lifetime.remaining
        expires = min(self.clock.now + lifetime.idle, deadline)
        self.records[key] = {"fields": dict(fields), "idle": lifetime.idle, "deadline": deadline, "expires": expires}

    def touch(self, record):
        moved = min(self.clock.now + record["idle"], record["deadline"])
        record["expires"] = max(record["expires"], moved)

    def holds(self, record, expect):
        return all(record["fields"].get(name) == value for name, value in expect.items())

    def expectation(self, data, record):
        """Draw what holds, now and then what doesn't."""
        expect = {} if record is None else dict(data.draw(st.sets(st.sampled_from(list(record["fields"].items())))))
        return expect | data.draw(st.dictionaries(NAMES, st.one_of(st.none(), VALUES), max_size=1))

    @rule(target=keys)
    def make(self):
        return self.store.id()

    @rule(number=st.integers(1, 300), lifetime=LIFETIMES)
    def crowd(self, number, lifetime):
        """Make the table grow, and shrink when they expire."""
        for _ in range(number):
            key = self.store.id()
            assert drive(self.store.set(key, {"a": key.encode()}, lifetime)) is APPLIED
            self.write(key, {"a": key.encode()}, lifetime)

    @rule(seconds=st.sampled_from([0.01, 0.05, 1.0, 29.0, 59.0, 60.0, 1799.0, DAY, 29 * DAY, 365 * DAY]))
    def wait(self, seconds):
        self.clock.now += seconds

    @rule(key=keys, fields=st.dictionaries(NAMES, VALUES, min_size=1), lifetime=LIFETIMES, new=st.booleans())
    def set(self, key, fields, lifetime, new):
        want = APPLIED if new == (self.live(key) is None) else CONFLICT if new else MISSING
        assert drive(self.store.set(key, fields, lifetime, None if new else {})) is want
        if want is APPLIED:
            self.write(key, fields, lifetime)

    @rule(key=keys, fields=st.dictionaries(NAMES, VALUES, min_size=1), lifetime=LIFETIMES, data=st.data())
    def set_as_expected(self, key, fields, lifetime, data):
        record = self.live(key)
        expect = self.expectation(data, record)
        want = MISSING if record is None else APPLIED if self.holds(record, expect) else CONFLICT
        assert drive(self.store.set(key, fields, lifetime, expect)) is want
        if want is APPLIED:
            self.write(key, fields, lifetime)

    @rule(key=keys, touch=st.booleans(), data=st.data())
    def get(self, key, touch, data):
        record = self.live(key)
        expect = self.expectation(data, record)
        got = drive(self.store.get(key, expect, touch))
        if record is None:
            assert got is MISSING
        elif not self.holds(record, expect):
            assert got is CONFLICT
        else:
            assert got == record["fields"]
            if touch:
                self.touch(record)

    @rule(
        key=keys,
        changed=st.dictionaries(NAMES, VALUES),
        removed=st.sets(NAMES),
        lifetime=st.one_of(st.none(), LIFETIMES),
        data=st.data(),
    )
    def merge(self, key, changed, removed, lifetime, data):
        record = self.live(key)
        expect = self.expectation(data, record)
        removed -= changed.keys()
        if record is None or not self.holds(record, expect):
            want = MISSING if record is None else CONFLICT
            assert drive(self.store.merge(key, changed, removed, expect, lifetime)) is want
            return
        fields = {name: value for name, value in (record["fields"] | changed).items() if name not in removed}
        if not fields:
            with pytest.raises(ValueError, match="without fields"):
                drive(self.store.merge(key, changed, removed, expect, lifetime))
            return
        assert drive(self.store.merge(key, changed, removed, expect, lifetime)) is APPLIED
        if lifetime is None:
            record["fields"] = fields
            self.touch(record)
        else:
            self.write(key, fields, lifetime)

    @rule(key=keys)
    def destroy(self, key):
        assert drive(self.store.destroy(key)) is (self.live(key) is not None)
        self.records.pop(key, None)

    @rule()
    def look_at_all(self):
        for key in self.records:
            record = self.live(key)
            assert fields_of(self.store, key) == (MISSING if record is None else record["fields"])

    @invariant()
    def holds_at_least_the_living(self):
        living = sum(self.live(key) is not None for key in self.records)
        stats = self.store.stats()
        assert isinstance(stats, MemoryStats)
        assert living <= stats.sessions <= len(self.records)
        assert stats.bytes >= sum(len(v) for k in self.records if (r := self.live(k)) for v in r["fields"].values())


TestAgainstAModel = Model.TestCase
TestAgainstAModel.settings = settings(deadline=None, max_examples=400 if ALL else 15, stateful_step_count=40)

"""The store contract as a suite of tests, for whoever writes a store.

Subclass `StoreContract`, say how a store is made, and let pytest (or any runner of plain methods) collect it.
`server_session.stores._base` is the contract; each method here holds one of its sentences.
"""

import asyncio
import inspect
import string
import sys
import threading
import time
import types
from collections.abc import (
    Awaitable,
    Callable,
    Collection,
    Coroutine,
    ItemsView,
    Iterable,
    Iterator,
    KeysView,
    Mapping,
    Sequence,
    ValuesView,
)
from concurrent.futures import ThreadPoolExecutor, wait
from functools import partial
from typing import Any, Literal, TypeAlias, TypeVar, cast

from server_session._colour import Colour, drive, pause, run_awaiting, running_library
from server_session.stores._base import APPLIED, CONFLICT, MISSING, Expect, Fields, Lifetime, Outcome, SessionStore

__all__ = ["StoreContract", "YieldingStore"]

T = TypeVar("T")

LONG = Lifetime(3600.0, 86400.0)

# Every pair is two names, or two values: a store that takes them for one fails.
LOOKALIKES: tuple[tuple[str, str], ...] = (
    ("a", "A"),
    ("a", "a "),
    ("a", " a"),
    ("a", "a\0"),
    ("a", "a\n"),
    ("a", "a\t"),
    ("a", "ab"),
    ("a", "\uff41"),
    ("a", "\u00e5"),
    ("1", "01"),
    ("1", "1.0"),
    ("1", "+1"),
    ("10", "1e1"),
    ("0", "-0"),
    ("\u00e9", "e\u0301"),
    ("\u00df", "ss"),
    ("i", "\u0131"),
    ("\u03c3", "\u03c2"),
    ("x", "x\u200b"),
    ("null", "NULL"),
    ("true", "True"),
)

HOSTILE_NAMES: tuple[str, ...] = (
    *dict.fromkeys(name for pair in LOOKALIKES for name in pair),
    *(" ", "  ", "\0", "\0\0", "\0a", "a\0b", "\n", "\r\n", "\t", "\x1a", "\x1b[0m", "\x7f", "\ufeff", "\uffff"),
    *("'", '"', "`", "''", "\\", "\\0", "\\x00", "\\'", "%", "_", "%s", "%(name)s", "?", "$1", ":name", "{}", "{0}"),
    *("'; DROP TABLE sessions; --", '" OR ""="', "/* */", "); --", "a,b", "a:b", "a|b", "a=b", "a;b", "a/b", "a.b"),
    *("*", "[a-z]", "{tag}", "}{", "*1\r\n$7\r\nFLUSHDB\r\n", "$-1", "\r\nget x\r\n", "noreply", "EX", "nx", "END"),
    *(".", "..", "../../a", "/", "~", "con", "nul.txt", "-", "--", "-rf", "#", "<a>", "&amp;", "$", "@", "^"),
    *("id", "key", "name", "value", "data", "fields", "idle", "ttl", "expire", "expires", "expiry", "expires_at"),
    *("deadline", "remaining", "lifetime", "touched", "version", "cas", "\0idle", "\0deadline", "\0expires", "_idle"),
    *("__class__", "__init__", "__proto__", "constructor", "self", "None", "nan", "inf", "[]", "[1]", '{"a": 1}'),
    *("\u4f60\u597d", "\u05d0\u202e", "\U0001f600", "\U0001f468\u200d\U0001f469", "\U0010ffff", "\u0660"),
    *("n" * 255, "n" * 254, "n" * 254 + "m", "\u00e9" * 127 + "x", "\U0001f600" * 63 + "abc", " " * 255, "\0" * 255),
)

HOSTILE_VALUES: tuple[bytes, ...] = (
    b"",
    bytes(range(256)),
    bytes(range(255, -1, -1)),
    b"\xff\xfe",
    b"\xc3(",
    b"\xed\xa0\x80",
    b"\x80\x04N.",
    b'{"a": 1}',
    b"\x00" * 300,
    *(name.encode() for name in HOSTILE_NAMES),
)

Body: TypeAlias = "Callable[[Any, SessionStore], Coroutine[Any, Any, None]]"
Call: TypeAlias = Callable[[], Coroutine[Any, Any, T]]


def shown(value: object) -> str:
    """Return a value's text, short enough for a message."""
    if isinstance(value, Outcome):
        return value.name
    text = repr(value)
    return text if len(text) <= 120 else f"{text[:80]}… ({len(text)} characters)"


def check(holds: object, what: str) -> None:
    """Raise `AssertionError` with this text unless it holds."""
    __tracebackhide__ = True
    if not holds:
        raise AssertionError(what)


def check_equal(got: object, want: object, what: str) -> None:
    """Raise `AssertionError` unless the two are equal; of two records, name the fields in which they differ."""
    __tracebackhide__ = True
    if got == want:
        return
    check(isinstance(got, dict) and isinstance(want, dict), f"{what}: got {shown(got)}, want {shown(want)}")
    got, want = cast("Fields", got), cast("Fields", want)
    faults = [f"no field {shown(name)}" for name in want if name not in got]
    faults += [f"field {shown(name)} should not be there" for name in got if name not in want]
    faults += [
        f"field {shown(name)} is {shown(got[name])}, want {shown(want[name])}"
        for name in want
        if name in got and got[name] != want[name]
    ]
    more = f"; and {len(faults) - 5} more" if len(faults) > 5 else ""
    raise AssertionError(f"{what}: {'; '.join(faults[:5])}{more}")


async def settled(value: T | Awaitable[T]) -> T:
    """Return what a hook gave, awaited if it is awaitable."""
    if inspect.isawaitable(value):
        awaited: T = await value
        return awaited
    return value


class Unhurried(dict[str, Any]):
    """A mapping that lets other threads run whenever it is read, between a store's check and its write too."""

    def _wait(self) -> None:
        if running_library() is None:
            time.sleep(0.0002)

    def __iter__(self) -> Iterator[str]:
        for name in super().__iter__():
            self._wait()
            yield name
        self._wait()

    def __getitem__(self, name: str) -> Any:
        self._wait()
        return super().__getitem__(name)

    def get(self, name: str, default: Any = None) -> Any:
        self._wait()
        return super().get(name, default)

    def keys(self) -> Any:
        return KeysView(self)

    def items(self) -> Any:
        return ItemsView(self)

    def values(self) -> Any:
        return ValuesView(self)


def scenario(body: Body) -> "Callable[[StoreContract], None]":
    """Make a plain test method of a coroutine that is given a fresh store."""

    def test(self: "StoreContract") -> None:
        __tracebackhide__ = True
        self._run(body)

    # Not functools.wraps: pytest would follow `__wrapped__` and look for a fixture called `store`.
    test.__name__, test.__qualname__, test.__doc__ = body.__name__, body.__qualname__, body.__doc__
    return test


def timed(body: Body) -> "Callable[[StoreContract], None]":
    """Make a test method whose checks hold only if the machine did not stall between its steps."""

    def test(self: "StoreContract") -> None:
        __tracebackhide__ = True
        for attempt in range(5):
            self._advanced = 0.0
            begun = time.monotonic()
            try:
                self._run(body)
            except AssertionError:
                # No check comes nearer than one `second` to a border, so a shorter delay explains nothing.
                if attempt == 4 or time.monotonic() - begun - self._advanced < self.second:
                    raise
            else:
                return

    test.__name__, test.__qualname__, test.__doc__ = body.__name__, body.__qualname__, body.__doc__
    return test


class StoreContract:
    """The store contract. A store whose subclass of this passes can carry sessions.

    ```python
    from server_session.testing import StoreContract
    from shop.sessions import ShopStore


    class TestShopStore(StoreContract):
        second = 0.2

        def make_store(self) -> ShopStore:
            return ShopStore("shop://127.0.0.1:7000")

        def second_client(self, store: ShopStore) -> ShopStore:
            return ShopStore("shop://127.0.0.1:7000")

        async def close_store(self, store: ShopStore) -> None:
            await store.close()
    ```

    A store whose clock can be given runs in no time at all:

    ```python
    class TestShopStoreInNoTime(StoreContract):
        def make_store(self) -> ShopStore:
            self.now = 0.0
            return ShopStore("shop:", clock=lambda: self.now)

        def advance(self, seconds: float) -> None:
            self.now += seconds
    ```

    Each test makes a store of its own and writes under fresh keys alone, so the data behind it need not be empty.
    A store whose `colour` is `AWAITS` is made and used on an event loop. One that is `INSTANT` or `BLOCKS` must never
    suspend, and its races are run by threads. The hooks, `make_store`, `second_client`, `close_store` and `advance`,
    may each be `async def`.

    The tests are plain methods that raise `AssertionError`. No test runner is needed, and pytest finds them. What a
    store need not bear passes without a word: cancellation where nothing awaits, a clock that steps back unless
    `clock_steps_back`.
    """

    second: float = 1.0
    """The unit of the suite's lifetimes, in seconds. No check comes nearer to an expiry than one unit, so over a real
    clock it is the time by which a slow server and a busy machine may be late: 0.2 does for most. A server that keeps
    whole seconds needs 1 or 2. With a clock that `advance` moves leave it as it is."""

    max_value: int = 1 << 20
    """Bytes in the longest value that is tried. The contract asks for 1 MiB."""

    contenders: int = 8
    """How many calls meet in a race."""

    rounds: int = 4
    """How often each race is run."""

    patience: float = 30.0
    """Seconds, beside what the clock takes, after which a test whose store does not return is given up."""

    library: Literal["asyncio", "trio"] = "asyncio"
    """The event loop for a store that awaits. To test one under trio too, subclass its suite and set this."""

    clock_steps_back: bool = False
    """Whether `advance` takes negative seconds: for a store whose clock may be set back, as a server's wall clock."""

    _advanced: float = 0.0

    # ------------------------------------------------------------------------------------------------ the hooks

    def make_store(self) -> SessionStore | Awaitable[SessionStore]:
        """Return a fresh store. Called once a test, always on a running event loop: only the store tells its colour.

        One that does not await is used, and closed, after that loop has ended.
        """
        raise NotImplementedError(f"define make_store() on {type(self).__name__}: it returns the store to be tested")

    def second_client(self, store: Any) -> SessionStore | Awaitable[SessionStore]:
        """Return another client of the same data, as another process would be; by default the same store."""
        same: SessionStore = store
        return same

    def close_store(self, store: Any) -> Awaitable[None] | None:
        """Close what `make_store` or `second_client` made. Called at the end of each test for each of them."""
        return None

    def advance(self, seconds: float) -> Awaitable[None] | None:
        """Let this many seconds pass by the store's clock; by default, sleep."""
        time.sleep(seconds)
        return None

    # ------------------------------------------------------------------------------------------------ the stage

    def _run(self, body: Body) -> None:
        __tracebackhide__ = True

        async def on_the_loop() -> SessionStore | None:
            store = await settled(self.make_store())
            if store.colour is not Colour.AWAITS:
                return store
            await self._play(body, store)
            return None

        # The sleeps of the longest test over a real clock are 16 units.
        limit = self.patience + 32 * self.second

        async def within_the_limit() -> SessionStore | None:
            if self.library == "trio":
                import trio

                with trio.move_on_after(limit):
                    return await on_the_loop()
            else:
                bound = asyncio.timeout(limit)
                try:
                    async with bound:
                        return await on_the_loop()
                except TimeoutError:
                    if not bound.expired():
                        raise
            raise AssertionError(f"the test did not end within {limit:g} s: a call to the store never returned")

        try:
            if self.library == "trio":
                import trio

                left = trio.run(within_the_limit)
            else:
                left = asyncio.run(within_the_limit())
        except BaseExceptionGroup as group:
            # Of contenders that failed together the first tells it.
            raise group.exceptions[0] from None
        if left is not None:
            drive(self._play(body, left))

    async def _play(self, body: Body, store: SessionStore) -> None:
        __tracebackhide__ = True
        self._others: list[SessionStore] = []
        try:
            await body(self, store)
        finally:
            for client in (*self._others, store):
                await settled(self.close_store(client))

    async def _advance(self, units: float) -> None:
        seconds = units * self.second
        await settled(self.advance(seconds))
        self._advanced += seconds

    def _life(self, idle: float, remaining: float | None = None) -> Lifetime:
        return Lifetime(idle * self.second, None if remaining is None else remaining * self.second)

    async def _new(self, store: SessionStore, fields: Fields, lifetime: Lifetime = LONG) -> str:
        key = store.id()
        check_equal(await store.set(key, fields, lifetime), APPLIED, "set of a fresh key")
        return key

    async def _check_record(self, store: SessionStore, key: str, want: object, what: str) -> None:
        __tracebackhide__ = True
        check_equal(await store.get(key, {}, touch=False), want, what)

    async def _together(self, calls: Sequence[Call[T]], stagger: int = 0) -> list[T]:
        """Run the calls at once, in threads or as tasks, and return what each returned."""
        library = running_library()
        if library is None:
            return self._in_threads(calls)
        results: dict[int, T] = {}

        async def run(place: int, call: Call[T]) -> None:
            for _ in range(place * stagger % 7):
                await pause(0)
            results[place] = await call()

        if library == "trio":
            import trio

            async with trio.open_nursery() as nursery:
                for place, call in enumerate(calls):
                    nursery.start_soon(run, place, call)
        else:
            async with asyncio.TaskGroup() as group:
                for place, call in enumerate(calls):
                    group.create_task(run(place, call))
        return [results[place] for place in range(len(calls))]

    def _in_threads(self, calls: Sequence[Call[T]]) -> list[T]:
        start = threading.Barrier(len(calls), timeout=self.patience)

        def run(call: Call[T]) -> T:
            start.wait()
            return drive(call())

        interval = sys.getswitchinterval()
        sys.setswitchinterval(1e-6)
        pool = ThreadPoolExecutor(len(calls))
        try:
            futures = [pool.submit(run, call) for call in calls]
            late = wait(futures, self.patience).not_done
            check(not late, f"{len(late)} of {len(calls)} calls at once did not return within {self.patience} s")
            return [future.result() for future in futures]
        finally:
            sys.setswitchinterval(interval)
            pool.shutdown(wait=False, cancel_futures=True)

    async def _cancelled(self, call: Call[object], steps: int, seconds: float) -> None:
        """Start the call, cancel it after so many steps of the loop and so many seconds, and await its end."""
        if running_library() == "trio":
            import trio

            async def run() -> None:
                await call()

            async with trio.open_nursery() as nursery:
                nursery.start_soon(run)
                for _ in range(steps):
                    await pause(0)
                if seconds:
                    await pause(seconds)
                nursery.cancel_scope.cancel()
            return
        task = asyncio.ensure_future(call())
        for _ in range(steps):
            await pause(0)
        if seconds:
            await pause(seconds)
        task.cancel()
        await asyncio.wait({task})
        if not task.cancelled():
            task.result()

    async def _another(self, store: SessionStore) -> SessionStore:
        other = await settled(self.second_client(store))
        if other is not store:
            self._others.append(other)
        return other

    @staticmethod
    def _the_one(outcomes: Sequence[Outcome], others: Outcome, what: str) -> int:
        """Return the place of the only call that applied."""
        __tracebackhide__ = True
        applied = [place for place, outcome in enumerate(outcomes) if outcome is APPLIED]
        check_equal(len(applied), 1, f"how many of {len(outcomes)} calls at once applied ({what})")
        check_equal(outcomes.count(others), len(outcomes) - 1, f"how many of the others met {others.name} ({what})")
        return applied[0]

    # ------------------------------------------------------------------------------------------- what a store says

    @scenario
    async def test_colour_and_max_age_are_what_the_core_can_read(self, store: SessionStore) -> None:
        check(isinstance(store.colour, Colour), f"colour is {shown(store.colour)}, want a Colour")
        good = store.max_age is None or store.max_age > 0
        check(good, f"max_age is {shown(store.max_age)}, want idle seconds or None")

    @scenario
    async def test_ids_are_24_characters_of_base64url(self, store: SessionStore) -> None:
        alphabet = frozenset(string.ascii_letters + string.digits + "-_")
        for _ in range(100):
            key = store.id()
            check(type(key) is str and len(key) == 24 and alphabet.issuperset(key), f"id() gave {shown(key)}")

    @scenario
    async def test_ids_are_distinct(self, store: SessionStore) -> None:
        check_equal(len({store.id() for _ in range(1000)}), 1000, "different ids among 1,000")

    # ------------------------------------------------------------------------------------------------------- get

    @scenario
    async def test_get_gives_missing_where_there_is_no_record(self, store: SessionStore) -> None:
        for expect in ({}, {"a": b"1"}, {"a": None}):
            check_equal(await store.get(store.id(), expect), MISSING, f"get of no record, expect={expect}")

    @scenario
    async def test_get_gives_all_fields_as_text_and_bytes(self, store: SessionStore) -> None:
        key = await self._new(store, {"a": b"1", "b": b"", "c": b"\xff"})
        got = await store.get(key, {})
        check_equal(got, {"a": b"1", "b": b"", "c": b"\xff"}, "get")
        fields = cast("Fields", got)
        check(type(fields) is dict, f"get gave a {type(fields).__name__}, want a dict")
        for name, value in fields.items():
            check(type(name) is str and type(value) is bytes, f"field {name!r} is a {type(value).__name__}")

    @scenario
    async def test_get_gives_a_dict_that_is_the_callers_own(self, store: SessionStore) -> None:
        key = await self._new(store, {"a": b"1", "b": b"2"})
        mine = cast("Fields", await store.get(key, {}))
        mine["a"] = b"changed"
        mine["c"] = b"new"
        del mine["b"]
        await self._check_record(store, key, {"a": b"1", "b": b"2"}, "the record, after a dict that get gave changed")

    @scenario
    async def test_get_holds_the_record_to_what_is_expected(self, store: SessionStore) -> None:
        fields = {"a": b"1", "b": b"2"}
        key = await self._new(store, fields)
        for expect in self._that_hold():
            for touch in (True, False):
                check_equal(await store.get(key, expect, touch=touch), fields, f"get, expect={expect}")
        for expect in self._that_fail():
            for touch in (True, False):
                check_equal(await store.get(key, expect, touch=touch), CONFLICT, f"get, expect={expect}")

    @staticmethod
    def _that_hold() -> list[Expect]:
        """Return expectations that hold for the fields a=1, b=2."""
        return [{}, {"a": b"1"}, {"a": b"1", "b": b"2"}, {"c": None}, {"b": b"2", "c": None, "d": None}]

    @staticmethod
    def _that_fail() -> list[Expect]:
        """Return expectations that do not hold for the fields a=1, b=2."""
        return [
            {"a": b"2"},
            {"a": None},
            {"c": b"1"},
            {"c": b""},
            {"a": b""},
            {"a": b"1", "b": b"1"},
            {"a": b"2", "b": b"2"},
            {"a": b"1", "c": b"3"},
            {"a": b"1", "b": None},
            {"c": None, "b": b"1"},
            {"a": b"1", "b": b"2", "c": b"3"},
        ]

    # ------------------------------------------------------------------------------------------------------- set

    @scenario
    async def test_set_with_no_expectation_makes_a_record_where_there_is_none(self, store: SessionStore) -> None:
        key = store.id()
        check_equal(await store.set(key, {"a": b"1"}, LONG), APPLIED, "set of a fresh key")
        await self._check_record(store, key, {"a": b"1"}, "the new record")
        key = store.id()
        made = await store.set(key, {"a": b"1"}, Lifetime(3600.0), expect=None)
        check_equal(made, APPLIED, "set of a fresh key, expect=None, no deadline")
        await self._check_record(store, key, {"a": b"1"}, "the new record")

    @scenario
    async def test_set_with_no_expectation_never_writes_over_a_record(self, store: SessionStore) -> None:
        key = await self._new(store, {"a": b"1"})
        check_equal(await store.set(key, {"a": b"2", "b": b"2"}, LONG), CONFLICT, "set over a record, expect=None")
        check_equal(await store.set(key, {"a": b"1"}, LONG), CONFLICT, "set of the same again, expect=None")
        await self._check_record(store, key, {"a": b"1"}, "the record, after a set that was refused")

    @scenario
    async def test_set_with_an_expectation_never_makes_a_record(self, store: SessionStore) -> None:
        for expect in ({}, {"a": b"1"}, {"a": None}):
            key = store.id()
            check_equal(await store.set(key, {"a": b"1"}, LONG, expect), MISSING, f"set of no record, expect={expect}")
            await self._check_record(store, key, MISSING, f"the record, after a set with expect={expect}")

    @scenario
    async def test_set_holds_the_record_to_what_is_expected(self, store: SessionStore) -> None:
        for expect in self._that_hold():
            key = await self._new(store, {"a": b"1", "b": b"2"})
            check_equal(await store.set(key, {"n": b"new"}, LONG, expect), APPLIED, f"set, expect={expect}")
            await self._check_record(store, key, {"n": b"new"}, f"the record, after a set with expect={expect}")
        for expect in self._that_fail():
            key = await self._new(store, {"a": b"1", "b": b"2"})
            check_equal(await store.set(key, {"n": b"new"}, LONG, expect), CONFLICT, f"set, expect={expect}")
            await self._check_record(store, key, {"a": b"1", "b": b"2"}, f"the record, after expect={expect} failed")

    @scenario
    async def test_set_replaces_all_fields(self, store: SessionStore) -> None:
        key = await self._new(store, {"a": b"1", "b": b"2", "c": b"3"})
        check_equal(await store.set(key, {"b": b"new", "d": b"4"}, LONG, {}), APPLIED, "set over a record, expect={}")
        await self._check_record(store, key, {"b": b"new", "d": b"4"}, "the record, written anew")

    @scenario
    async def test_what_the_caller_gave_remains_the_callers_own(self, store: SessionStore) -> None:
        given = {"a": b"1"}
        key = await self._new(store, given)
        given["a"] = b"changed"
        await self._check_record(store, key, {"a": b"1"}, "the record, after the dict given to set changed")
        changed, expect, removed = {"b": b"2"}, {"a": b"1"}, ["a"]
        check_equal(await store.merge(key, changed, removed, expect), APPLIED, "merge")
        check_equal((changed, expect, removed), ({"b": b"2"}, {"a": b"1"}, ["a"]), "what was given to merge")
        changed["b"] = b"changed"
        await self._check_record(store, key, {"b": b"2"}, "the record, after the dict given to merge changed")

    # ----------------------------------------------------------------------------------------------------- merge

    @scenario
    async def test_merge_writes_changed_drops_removed_and_leaves_the_rest(self, store: SessionStore) -> None:
        key = await self._new(store, {"a": b"1", "b": b"2", "c": b"3", "d": b"4"})
        check_equal(await store.merge(key, {"a": b"new", "e": b"5"}, ["c"], {}), APPLIED, "merge")
        await self._check_record(store, key, {"a": b"new", "b": b"2", "d": b"4", "e": b"5"}, "the merged record")
        check_equal(await store.merge(key, {"f": b""}, (), {}), APPLIED, "merge of a change alone")
        check_equal(await store.merge(key, {}, ("b", "d"), {}), APPLIED, "merge of removals alone")
        await self._check_record(store, key, {"a": b"new", "e": b"5", "f": b""}, "the record, merged three times")

    @scenario
    async def test_merge_of_nothing_applies_and_changes_nothing(self, store: SessionStore) -> None:
        key = await self._new(store, {"a": b"1"})
        check_equal(await store.merge(key, {}, (), {}), APPLIED, "merge of nothing")
        check_equal(
            await store.merge(key, {}, (), {"a": b"2"}), CONFLICT, "merge of nothing that expects another value"
        )
        check_equal(await store.merge(store.id(), {}, (), {}), MISSING, "merge of nothing into no record")
        await self._check_record(store, key, {"a": b"1"}, "the record, after merges of nothing")

    @scenario
    async def test_merge_may_remove_what_is_not_there(self, store: SessionStore) -> None:
        key = await self._new(store, {"a": b"1"})
        check_equal(
            await store.merge(key, {"b": b"2"}, ["x", "y"], {}), APPLIED, "removal of fields that are not there"
        )
        check_equal(await store.merge(key, {}, ["x"], {"x": None}), APPLIED, "removal of a field expected to be absent")
        await self._check_record(store, key, {"a": b"1", "b": b"2"}, "the record, after removals of nothing")

    @scenario
    async def test_a_removed_field_can_be_written_again(self, store: SessionStore) -> None:
        key = await self._new(store, {"a": b"1", "b": b"2"})
        for value in (b"3", b"4"):
            check_equal(await store.merge(key, {}, ["b"], {}), APPLIED, "merge that removes")
            check_equal(await store.merge(key, {"b": value}, [], {"b": None}), APPLIED, "merge that writes it again")
            await self._check_record(store, key, {"a": b"1", "b": value}, "the record")

    @scenario
    async def test_merge_never_makes_a_record(self, store: SessionStore) -> None:
        for expect in ({}, {"a": b"1"}, {"a": None}):
            for lifetime in (None, LONG):
                key = store.id()
                got = await store.merge(key, {"a": b"1"}, ["b"], expect, lifetime)
                check_equal(got, MISSING, f"merge into no record, expect={expect}, lifetime={lifetime}")
                await self._check_record(store, key, MISSING, "the record, after a merge into none")

    @scenario
    async def test_merge_holds_the_record_to_what_is_expected(self, store: SessionStore) -> None:
        for expect in self._that_hold():
            key = await self._new(store, {"a": b"1", "b": b"2"})
            check_equal(await store.merge(key, {"n": b"new"}, ["a"], expect), APPLIED, f"merge, expect={expect}")
            await self._check_record(store, key, {"b": b"2", "n": b"new"}, f"the record, after expect={expect}")
        for expect in self._that_fail():
            for lifetime in (None, LONG):
                key = await self._new(store, {"a": b"1", "b": b"2"})
                got = await store.merge(key, {"n": b"new", "a": b"9"}, ["b"], expect, lifetime)
                check_equal(got, CONFLICT, f"merge, expect={expect}, lifetime={lifetime}")
                await self._check_record(
                    store, key, {"a": b"1", "b": b"2"}, f"the record, after expect={expect} failed"
                )

    @scenario
    async def test_merge_checks_the_record_as_it_was_before_the_merge(self, store: SessionStore) -> None:
        key = await self._new(store, {"secret": b"old", "once": b"1"})
        check_equal(
            await store.merge(key, {"secret": b"new"}, [], {"secret": b"new"}), CONFLICT, "swap, expects its own"
        )
        check_equal(await store.merge(key, {"secret": b"new"}, [], {"secret": b"old"}), APPLIED, "swap")
        check_equal(await store.merge(key, {}, ["once"], {"once": None}), CONFLICT, "removal that expects it gone")
        check_equal(await store.merge(key, {}, ["once"], {"once": b"1"}), APPLIED, "removal that expects the value")
        await self._check_record(store, key, {"secret": b"new"}, "the record, after a swap and a removal")

    @scenario
    async def test_any_mapping_and_any_collection_will_do(self, store: SessionStore) -> None:
        key = await self._new(store, {"keep": b"k", "a": b"1", "b": b"2", "c": b"3", "d": b"4", "e": b"5"})
        changed, expect = types.MappingProxyType({"n": b"new"}), types.MappingProxyType({"keep": b"k", "x": None})
        for removed in (["a"], ("b",), {"c"}, frozenset({"d"}), {"e": None}.keys()):
            check_equal(await store.merge(key, changed, removed, expect), APPLIED, f"merge, removed={removed!r}")
        want = {"keep": b"k", "n": b"new"}
        check_equal(await store.get(key, expect), want, "get that expects a read-only mapping")
        check_equal(await store.set(key, want, LONG, expect), APPLIED, "set that expects a read-only mapping")

    @scenario
    async def test_arguments_go_by_their_names(self, store: SessionStore) -> None:
        key = store.id()
        made = await store.set(key=key, fields={"a": b"1"}, lifetime=LONG, expect=None)
        check_equal(made, APPLIED, "set by names")
        merged = await store.merge(key=key, changed={"b": b"2"}, removed=(), expect={"a": b"1"}, lifetime=LONG)
        check_equal(merged, APPLIED, "merge by names")
        check_equal(await store.get(key=key, expect={}, touch=True), {"a": b"1", "b": b"2"}, "get by names")
        check_equal(await store.destroy(key=key), True, "destroy by name")

    # --------------------------------------------------------------------------------------------------- destroy

    @scenario
    async def test_destroy_says_whether_there_was_a_record(self, store: SessionStore) -> None:
        key = await self._new(store, {"a": b"1"})
        check(await store.destroy(key) is True, "destroy of a record must return True")
        check(await store.destroy(key) is False, "destroy of a record destroyed before must return False")
        check(await store.destroy(store.id()) is False, "destroy of no record must return False")

    @scenario
    async def test_a_destroyed_record_is_no_record(self, store: SessionStore) -> None:
        key = await self._new(store, {"a": b"1", "b": b"2"})
        await store.destroy(key)
        check_equal(await store.get(key, {}), MISSING, "get after destroy")
        check_equal(await store.merge(key, {"a": b"2"}, [], {}), MISSING, "merge after destroy")
        check_equal(await store.set(key, {"a": b"2"}, LONG, {}), MISSING, "set with expect={} after destroy")
        check_equal(await store.set(key, {"c": b"3"}, LONG), APPLIED, "set with expect=None after destroy")
        await self._check_record(store, key, {"c": b"3"}, "the record made after destroy")

    @scenario
    async def test_records_do_not_meet(self, store: SessionStore) -> None:
        records = {store.id(): {"a": str(n).encode()} for n in range(20)}
        key = next(key for key in iter(store.id, "") if key.swapcase() != key)
        # Keys that a file system, a collation or a pattern takes for one.
        records |= {
            k: {"a": k.encode()} for k in (key, key.swapcase(), "-" * 24, "_" * 24, "-" + key[1:], "_" + key[1:])
        }
        for k in records:
            await store.destroy(k)
        for k, fields in records.items():
            check_equal(await store.set(k, dict(fields), LONG), APPLIED, f"set of {k!r}, different from all others")
        for k in records:
            check_equal(await store.merge(k, {"b": k.encode()}, [], {}), APPLIED, f"merge of {k!r}")
        for k, fields in records.items():
            await self._check_record(store, k, {**fields, "b": k.encode()}, f"the record {k!r}")
            check_equal(await store.destroy(k), True, f"destroy of {k!r}")

    # ------------------------------------------------------------------------------------------ bytes and names

    @scenario
    async def test_values_of_all_bytes_come_back_as_they_were(self, store: SessionStore) -> None:
        fields = {f"v{n}": value for n, value in enumerate(HOSTILE_VALUES)}
        fields |= {f"byte {n}": bytes([n]) for n in range(256)}
        key = await self._new(store, fields)
        check_equal(await store.get(key, fields), fields, "get that expects every value")
        merged = await self._new(store, {"keep": b"k"})
        check_equal(await store.merge(merged, fields, [], {}), APPLIED, "merge of all bytes")
        await self._check_record(store, merged, {**fields, "keep": b"k"}, "the merged record")

    @scenario
    async def test_names_of_all_kinds_come_back_as_they_were(self, store: SessionStore) -> None:
        fields = {name: b"%d" % n for n, name in enumerate(HOSTILE_NAMES)}
        key = await self._new(store, fields)
        check_equal(await store.get(key, fields), fields, "get that expects every field")
        merged = await self._new(store, {"keep": b"k"})
        check_equal(await store.merge(merged, fields, [], dict.fromkeys(fields)), APPLIED, "merge of all names")
        await self._check_record(store, merged, {**fields, "keep": b"k"}, "the merged record")
        check_equal(await store.merge(merged, {}, list(fields), fields), APPLIED, "merge that removes all names")
        await self._check_record(store, merged, {"keep": b"k"}, "the record, after all names were removed")

    @scenario
    async def test_each_name_works_alone(self, store: SessionStore) -> None:
        key = await self._new(store, {"keep of all": b"k"})
        for name in HOSTILE_NAMES:
            what = f"the field named {shown(name)}"
            check_equal(await store.merge(key, {name: b"1"}, [], {name: None}), APPLIED, f"{what}: merge")
            check_equal(await store.get(key, {name: b"2"}), CONFLICT, f"{what}: get that expects another value")
            check_equal(await store.get(key, {name: b"1"}), {name: b"1", "keep of all": b"k"}, f"{what}: get")
            check_equal(await store.merge(key, {}, [name], {name: b"1"}), APPLIED, f"{what}: removal")
        await self._check_record(store, key, {"keep of all": b"k"}, "the record, after all fields came and went")

    @scenario
    async def test_names_are_compared_as_bytes(self, store: SessionStore) -> None:
        for pair in LOOKALIKES:
            for one, other in (pair, pair[::-1]):
                what = f"a record with the field {one!r}, not {other!r}"
                key = await self._new(store, {one: b"1", "keep": b"k"})
                check_equal(await store.get(key, {other: b"1"}), CONFLICT, f"{what}: get that expects the other")
                check_equal(
                    await store.merge(key, {}, [other], {other: None}), APPLIED, f"{what}: removal of the other"
                )
                check_equal(
                    await store.merge(key, {other: b"2"}, [], {one: b"1"}), APPLIED, f"{what}: merge of the other"
                )
                await self._check_record(store, key, {one: b"1", other: b"2", "keep": b"k"}, "a record with both")
                check_equal(await store.merge(key, {}, [one], {}), APPLIED, f"{what}: removal of the one")
                await self._check_record(store, key, {other: b"2", "keep": b"k"}, "a record with the other alone")

    @scenario
    async def test_values_are_compared_as_bytes(self, store: SessionStore) -> None:
        pairs = [(one.encode(), other.encode()) for one, other in LOOKALIKES]
        pairs += [
            (b"", b"\0"),
            (b"", b" "),
            (b"abc", b"abcd"),
            (b"\xff", b"\xfe"),
            (b"\xff", b"\xc3\xbf"),
            (b"\x00a", b"\x00b"),
        ]
        pairs += [(b"%", b"x"), (b"_", b"x"), (b"*", b"x"), (b"x" * 300 + b"a", b"x" * 300 + b"b")]
        for pair in pairs:
            for one, other in (pair, pair[::-1]):
                what = f"the value {shown(one)}, expected to be {shown(other)}"
                key = await self._new(store, {"a": one})
                check_equal(await store.get(key, {"a": other}), CONFLICT, f"{what}: get")
                check_equal(await store.merge(key, {"b": b"2"}, [], {"a": other}), CONFLICT, f"{what}: merge")
                check_equal(await store.set(key, {"b": b"2"}, LONG, {"a": other}), CONFLICT, f"{what}: set")
                check_equal(await store.get(key, {"a": one}), {"a": one}, f"{what}: get that expects it as it is")

    @scenario
    async def test_an_empty_value_is_not_an_absent_field(self, store: SessionStore) -> None:
        key = await self._new(store, {"a": b"", "b": b"2"})
        check_equal(await store.get(key, {"a": None}), CONFLICT, "an empty value, expected to be absent")
        check_equal(await store.get(key, {"c": b""}), CONFLICT, "an absent field, expected to be empty")
        check_equal(await store.merge(key, {"b": b""}, [], {"a": b"", "c": None}), APPLIED, "merge of an empty value")
        await self._check_record(store, key, {"a": b"", "b": b""}, "a record of empty values")

    @scenario
    async def test_a_value_of_the_greatest_length_is_kept_whole(self, store: SessionStore) -> None:
        size = self.max_value
        one = (bytes(range(256)) * (size // 256 + 1))[:size]
        other = one[:-1] + b"?"
        key = await self._new(store, {"a": one})
        check_equal(await store.get(key, {"a": other}), CONFLICT, "get that expects another last byte")
        check_equal(await store.get(key, {"a": one[:-1]}), CONFLICT, "get that expects one byte fewer")
        check_equal(await store.merge(key, {"a": other}, [], {"a": one}), APPLIED, "merge of the greatest value")
        check_equal(await store.get(key, {"a": other}), {"a": other}, "get that expects the greatest value")

    # ------------------------------------------------------------------------------------------------- lifetimes

    @timed
    async def test_a_record_expires_at_its_idle_time_and_not_before(self, store: SessionStore) -> None:
        key = await self._new(store, {"a": b"1"}, self._life(3))
        soon = await self._new(store, {"a": b"1"}, self._life(9, 3))
        await self._advance(2)
        for k in (key, soon):
            check_equal(await store.get(k, {}, touch=False), {"a": b"1"}, "get before the expiry")
        await self._advance(2)
        check_equal(await store.get(key, {}), MISSING, "get after the idle time; the reads had touch=False")
        check_equal(await store.get(soon, {}), MISSING, "get after a deadline that comes before the idle time")

    @timed
    async def test_a_read_restarts_the_idle_clock(self, store: SessionStore) -> None:
        key = await self._new(store, {"a": b"1"}, self._life(3))
        expected = await self._new(store, {"a": b"1"}, self._life(3, 90))
        for _ in range(3):
            await self._advance(2)
            check_equal(await store.get(key, {}), {"a": b"1"}, "get of a record touched before its idle time was over")
            check_equal(await store.get(expected, {"a": b"1"}), {"a": b"1"}, "the same with expect and a deadline")
        await self._advance(4)
        check_equal(await store.get(key, {}), MISSING, "get after the idle time since the last touch")
        check_equal(await store.get(expected, {}), MISSING, "the same with expect and a deadline")

    @timed
    async def test_a_merge_restarts_the_idle_clock(self, store: SessionStore) -> None:
        keys = [await self._new(store, {"a": b"1", "x": b"0"}, self._life(3)) for _ in range(3)]
        for n in range(3):
            await self._advance(2)
            check_equal(await store.merge(keys[0], {"a": b"%d" % n}, [], {}), APPLIED, "merge of a change, in time")
            check_equal(await store.merge(keys[1], {}, ["x"], {}), APPLIED, "merge of a removal, in time")
            check_equal(await store.merge(keys[2], {}, [], {}), APPLIED, "merge of nothing, in time")
            for key in keys:
                alive = await store.get(key, {}, touch=False) is not MISSING
                check(alive, "a record was gone within the idle time since the last merge")
        await self._advance(4)
        for key in keys:
            check_equal(await store.get(key, {}), MISSING, "get after the idle time since the last merge")

    @timed
    async def test_what_does_not_hold_touches_nothing(self, store: SessionStore) -> None:
        fields = {"a": b"1"}
        keys = [await self._new(store, dict(fields), self._life(3)) for _ in range(5)]
        await self._advance(2)
        wrong = {"a": b"2"}
        check_equal(await store.get(keys[0], wrong), CONFLICT, "get that expects another value")
        check_equal(await store.merge(keys[1], {"b": b"2"}, [], wrong), CONFLICT, "merge that expects another value")
        check_equal(
            await store.merge(keys[2], {"b": b"2"}, [], wrong, self._life(9)),
            CONFLICT,
            "merge with a lifetime, the same",
        )
        check_equal(await store.set(keys[3], {"b": b"2"}, self._life(9), wrong), CONFLICT, "set, the same")
        check_equal(
            await store.set(keys[4], {"b": b"2"}, self._life(9)), CONFLICT, "set with expect=None over a record"
        )
        await self._advance(2)
        for key, call in zip(keys, ("get", "merge", "merge with a lifetime", "set", "set, expect=None"), strict=True):
            await self._check_record(store, key, MISSING, f"the record, not touched by a {call} that met CONFLICT")

    @timed
    async def test_no_touch_moves_the_deadline(self, store: SessionStore) -> None:
        read = await self._new(store, {"a": b"1"}, self._life(3, 5))
        merged = await self._new(store, {"a": b"1"}, self._life(3, 5))
        for _ in range(2):
            await self._advance(2)
            check_equal(await store.get(read, {}), {"a": b"1"}, "get before the deadline")
            check_equal(await store.merge(merged, {"a": b"1"}, [], {}), APPLIED, "merge before the deadline")
        await self._advance(2)
        check_equal(await store.get(read, {}), MISSING, "get after the deadline of a record that was read")
        check_equal(await store.merge(merged, {}, [], {}), MISSING, "merge after the deadline of one that was merged")

    @timed
    async def test_no_touch_moves_the_expiry_back(self, store: SessionStore) -> None:
        read = await self._new(store, {"a": b"1"}, self._life(3, 90))
        merged = await self._new(store, {"a": b"1"}, self._life(3))
        for _ in range(3):
            check_equal(await store.get(read, {}), {"a": b"1"}, "get")
            check_equal(await store.merge(merged, {"a": b"1"}, [], {}), APPLIED, "merge")
        await self._advance(2)
        await self._check_record(store, read, {"a": b"1"}, "a record read several times, before its idle time is over")
        await self._check_record(store, merged, {"a": b"1"}, "one merged several times, before its idle time is over")

    @timed
    async def test_no_touch_moves_the_expiry_back_when_the_clock_steps_back(self, store: SessionStore) -> None:
        if not self.clock_steps_back:
            return
        await self._advance(10)
        read = await self._new(store, {"a": b"1"}, self._life(3))
        merged = await self._new(store, {"a": b"1"}, self._life(3, 90))
        await self._advance(-2)
        check_equal(await store.get(read, {}), {"a": b"1"}, "get after the clock was set back")
        check_equal(await store.merge(merged, {"a": b"1"}, [], {}), APPLIED, "merge after the clock was set back")
        await self._advance(4)
        await self._check_record(store, read, {"a": b"1"}, "a record read while the clock was back")
        await self._check_record(store, merged, {"a": b"1"}, "a record merged while the clock was back")

    @timed
    async def test_a_merge_without_a_lifetime_keeps_idle_time_and_deadline(self, store: SessionStore) -> None:
        short = await self._new(store, {"a": b"1"}, self._life(3, 90))
        bound = await self._new(store, {"a": b"1"}, self._life(90, 3))
        for key in (short, bound):
            check_equal(await store.merge(key, {"b": b"2"}, [], {}, None), APPLIED, "merge, lifetime=None")
        await self._advance(2)
        check_equal(await store.get(short, {}), {"a": b"1", "b": b"2"}, "get before the idle time is over")
        await self._advance(2)
        check_equal(await store.get(short, {}), {"a": b"1", "b": b"2"}, "get after a touch, within the idle time")
        check_equal(await store.get(bound, {}), MISSING, "get after the deadline")
        await self._advance(4)
        check_equal(await store.get(short, {}), MISSING, "get after the idle time")

    @timed
    async def test_a_lifetime_given_to_a_merge_replaces_the_records(self, store: SessionStore) -> None:
        await self._replaced(store, lambda key, lifetime: store.merge(key, {"a": b"1"}, [], {"a": b"1"}, lifetime))

    @timed
    async def test_a_lifetime_given_to_a_set_replaces_the_records(self, store: SessionStore) -> None:
        await self._replaced(store, lambda key, lifetime: store.set(key, {"a": b"1"}, lifetime, {"a": b"1"}))

    async def _replaced(self, store: SessionStore, give: Callable[[str, Lifetime], Awaitable[Outcome]]) -> None:
        # former lifetime, the one given, and whether the record lives 4 units later; a touch stands in between.
        table: list[tuple[str, Lifetime, Lifetime, bool]] = [
            ("a shorter idle time", self._life(90), self._life(1), False),
            ("a longer idle time", self._life(3), self._life(90), True),
            ("a nearer deadline", self._life(90, 90), self._life(90, 3), False),
            ("a first deadline", self._life(90), self._life(90, 3), False),
            ("a later deadline", self._life(90, 3), self._life(90, 90), True),
            ("no deadline", self._life(90, 3), self._life(90), True),
        ]
        keys = []
        for what, former, given, _ in table:
            key = await self._new(store, {"a": b"1"}, former)
            check_equal(await give(key, given), APPLIED, f"{what} given")
            keys.append(key)
        later = await self._new(store, {"a": b"1"}, self._life(90))
        check_equal(await give(later, self._life(3)), APPLIED, "a shorter idle time given")
        await self._advance(2)
        for key in (*keys[1:], later):
            check_equal(await store.get(key, {}), {"a": b"1"}, "get before any expiry")
        await self._advance(2)
        for key, (what, _, _, lives) in zip(keys, table, strict=True):
            await self._check_record(store, key, {"a": b"1"} if lives else MISSING, f"the record that was given {what}")
        await self._check_record(store, later, {"a": b"1"}, "the record touched within the idle time it was given")
        await self._advance(2)
        await self._check_record(store, later, MISSING, "the same record, touched, after the idle time it was given")

    @timed
    async def test_an_expired_record_is_no_record(self, store: SessionStore) -> None:
        keys = [await self._new(store, {"a": b"1", "b": b"2"}, self._life(*life)) for life in ((1,), (9, 1)) * 2]
        await self._advance(2)
        for key in keys[:2]:
            check_equal(await store.get(key, {}), MISSING, "get of an expired record")
            check_equal(await store.get(key, {"a": b"2"}), MISSING, "get of an expired record, other values expected")
            for lifetime in (None, LONG):
                check_equal(
                    await store.merge(key, {"c": b"3"}, [], {}, lifetime), MISSING, "merge into an expired record"
                )
                check_equal(
                    await store.merge(key, {}, [], {"a": b"1"}, lifetime), MISSING, "merge, the former values expected"
                )
            check_equal(await store.set(key, {"c": b"3"}, LONG, {}), MISSING, "set over an expired record, expect={}")
            check_equal(
                await store.set(key, {"c": b"3"}, LONG, {"a": b"1"}), MISSING, "the same, former values expected"
            )
            check_equal(await store.get(key, {}), MISSING, "get after all that")
        for key in keys[2:]:
            check(await store.destroy(key) is False, "destroy of an expired record must return False")

    @timed
    async def test_nothing_of_an_expired_record_passes_to_the_next(self, store: SessionStore) -> None:
        keys = [await self._new(store, {"a": b"1", "b": b"2"}, self._life(*life)) for life in ((1,), (9, 1))]
        await self._advance(2)
        for key in keys:
            check_equal(await store.set(key, {"c": b"3"}, self._life(3)), APPLIED, "set after the expiry, expect=None")
        for _ in range(2):
            await self._advance(2)
            for key in keys:
                check_equal(await store.get(key, {}), {"c": b"3"}, "the next record, with a lifetime of its own")
        await self._advance(4)
        for key in keys:
            check_equal(await store.get(key, {}), MISSING, "the next record, after its idle time")

    @scenario
    async def test_lifetimes_may_be_long_and_fractional(self, store: SessionStore) -> None:
        day = 86400.0
        for lifetime in (
            Lifetime(31 * day),
            Lifetime(31 * day, 365 * day),
            Lifetime(3650 * day, 3650 * day),
            Lifetime(1800.25, 86400.123456789),
            Lifetime(3600, 7200),
        ):
            key = await self._new(store, {"a": b"1"}, lifetime)
            check_equal(await store.get(key, {}), {"a": b"1"}, f"get of a record with {lifetime}")
            check_equal(await store.merge(key, {"b": b"2"}, [], {}), APPLIED, f"merge into a record with {lifetime}")
            check_equal(await store.merge(key, {}, ["b"], {}, lifetime), APPLIED, f"merge that gives {lifetime}")
            await self._check_record(store, key, {"a": b"1"}, f"a record with {lifetime}")

    # --------------------------------------------------------------------------------------------------- clients

    @scenario
    async def test_two_clients_see_one_record(self, store: SessionStore) -> None:
        one, other = store, await self._another(store)
        key = await self._new(one, {"a": b"1"})
        check_equal(await other.get(key, {}), {"a": b"1"}, "get by the second client of what the first wrote")
        check_equal(await other.merge(key, {"b": b"2"}, [], {"a": b"1"}), APPLIED, "merge by the second client")
        check_equal(await one.get(key, {"b": b"2"}), {"a": b"1", "b": b"2"}, "get by the first client")
        check_equal(await other.set(key, {"c": b"3"}, LONG), CONFLICT, "set with expect=None by the second client")
        check_equal(await other.destroy(key), True, "destroy by the second client")
        check_equal(await one.get(key, {}), MISSING, "get by the first client of what the second destroyed")
        check_equal(await one.merge(key, {"a": b"1"}, [], {}), MISSING, "merge by the first client")

    # ----------------------------------------------------------------------------------------------------- races

    async def _clients(self, store: SessionStore) -> list[SessionStore]:
        """Return a client for each contender, half of them the second client."""
        both = (store, await self._another(store))
        return [both[n % 2] for n in range(self.contenders)]

    @scenario
    async def test_overlapping_merges_of_different_fields_all_hold(self, store: SessionStore) -> None:
        clients = await self._clients(store)
        for stagger in range(self.rounds):
            old = {f"old {n}": b"0" for n in range(len(clients))}
            key = await self._new(store, {"keep": b"k", **old})

            def add(client: SessionStore, n: int, key: str = key) -> Coroutine[Any, Any, Outcome]:
                expect = Unhurried({f"old {n}": b"0"})
                return client.merge(key, Unhurried({f"new {n}": b"%d" % n}), [f"old {n}"], expect)

            got = await self._together([partial(add, client, n) for n, client in enumerate(clients)], stagger)
            check_equal(got, [APPLIED] * len(clients), "what merges of different fields returned")
            want = {"keep": b"k", **{f"new {n}": b"%d" % n for n in range(len(clients))}}
            await self._check_record(store, key, want, "the record, after overlapping merges")

    @scenario
    async def test_overlapping_reads_undo_no_merge(self, store: SessionStore) -> None:
        clients = await self._clients(store)
        for stagger in range(self.rounds):
            key = await self._new(store, {"keep": b"k"})

            async def act(client: SessionStore, n: int, key: str = key) -> bool:
                if n % 2:
                    return isinstance(await client.get(key, Unhurried({"keep": b"k"})), dict)
                return await client.merge(key, Unhurried({f"new {n}": b"1"}), [], {}) is APPLIED

            got = await self._together([partial(act, client, n // 2) for n, client in enumerate(clients)], stagger)
            check(all(got), f"of {len(got)} touches and merges at once {got.count(False)} failed")
            places = {n // 2 for n in range(len(clients))}
            want = {"keep": b"k", **{f"new {n}": b"1" for n in places if n % 2 == 0}}
            await self._check_record(store, key, want, "the record, after merges among touches")

    @scenario
    async def test_a_record_is_never_seen_half_written(self, store: SessionStore) -> None:
        clients = await self._clients(store)
        key = await self._new(store, {"a": b"0", "b": b"0", "c": b"0"})
        torn: list[object] = []

        async def act(client: SessionStore, n: int) -> None:
            for turn in range(10):
                value = b"%d.%d" % (n, turn)
                if n % 4 == 0:
                    await client.merge(key, Unhurried({"a": value, "b": value, "c": value}), [], {})
                elif n % 4 == 1:
                    await client.set(key, {"a": value, "b": value, "c": value}, LONG, {})
                else:
                    seen = await client.get(key, {}, touch=turn % 2 == 0)
                    if not isinstance(seen, dict) or sorted(seen) != ["a", "b", "c"] or len(set(seen.values())) != 1:
                        torn.append(seen)

        await self._together([partial(act, client, n) for n, client in enumerate(clients)], 1)
        check(not torn, f"a reader saw a record that nobody wrote: {shown(torn[:1])}")

    @scenario
    async def test_of_all_who_set_a_fresh_key_exactly_one_does(self, store: SessionStore) -> None:
        clients = await self._clients(store)
        for stagger in range(self.rounds):
            key = store.id()

            def make(client: SessionStore, n: int, key: str = key) -> Coroutine[Any, Any, Outcome]:
                return client.set(key, Unhurried({"by": b"%d" % n, f"field {n}": b"1"}), LONG)

            got = await self._together([partial(make, client, n) for n, client in enumerate(clients)], stagger)
            winner = self._the_one(got, CONFLICT, "set with expect=None of one key")
            await self._check_record(store, key, {"by": b"%d" % winner, f"field {winner}": b"1"}, "the winner's record")

    @scenario
    async def test_of_all_who_pluck_a_field_exactly_one_gets_it(self, store: SessionStore) -> None:
        clients = await self._clients(store)
        for stagger in range(self.rounds):
            key = await self._new(store, {"keep": b"k", "flash": b"once"})

            async def pluck(client: SessionStore, key: str = key) -> Outcome:
                await client.get(key, {})
                return await client.merge(key, {}, ["flash"], Unhurried({"flash": b"once"}))

            got = await self._together([partial(pluck, client) for client in clients], stagger)
            self._the_one(got, CONFLICT, "removal that expects the value")
            await self._check_record(store, key, {"keep": b"k"}, "the record, after the pluck")

    @scenario
    async def test_of_all_who_renew_exactly_one_does(self, store: SessionStore) -> None:
        clients = await self._clients(store)
        for stagger in range(self.rounds):
            key = await self._new(store, {"digest": b"old", "keep": b"k"})

            def swap(client: SessionStore, n: int, key: str = key) -> Coroutine[Any, Any, Outcome]:
                changed = Unhurried({"digest": b"new %d" % n, "former": b"old"})
                return client.merge(key, changed, [], Unhurried({"digest": b"old"}), LONG)

            got = await self._together([partial(swap, client, n) for n, client in enumerate(clients)], stagger)
            winner = self._the_one(got, CONFLICT, "swap of a field that expects the old value")
            want = {"digest": b"new %d" % winner, "former": b"old", "keep": b"k"}
            await self._check_record(store, key, want, "the record, after the swap")

    @scenario
    async def test_of_all_who_destroy_a_record_exactly_one_did(self, store: SessionStore) -> None:
        clients = await self._clients(store)
        for stagger in range(self.rounds):
            key = await self._new(store, {"a": b"1"})
            got = await self._together([partial(client.destroy, key) for client in clients], stagger)
            check_equal(got.count(True), 1, f"how many of {len(got)} calls of destroy at once returned True")
            await self._check_record(store, key, MISSING, "the record, destroyed")

    @scenario
    async def test_a_counter_kept_by_expectation_loses_no_step(self, store: SessionStore) -> None:
        clients = await self._clients(store)
        key = await self._new(store, {"n": b"0", "keep": b"k"})
        steps = 5

        async def count(client: SessionStore) -> int:
            done = 0
            for _ in range(200 * self.contenders):
                seen = await client.get(key, {})
                check(isinstance(seen, dict), f"get of the counter: got {shown(seen)}")
                value = cast("Fields", seen)["n"]
                changed = Unhurried({"n": b"%d" % (int(value) + 1)})
                done += await client.merge(key, changed, [], Unhurried({"n": value})) is APPLIED
                if done == steps:
                    break
            return done

        done = await self._together([partial(count, client) for client in clients], 1)
        check_equal(done, [steps] * len(clients), "steps that each contender made")
        await self._check_record(store, key, {"n": b"%d" % (steps * len(clients)), "keep": b"k"}, "the counter")

    @scenario
    async def test_no_late_write_brings_a_destroyed_record_back(self, store: SessionStore) -> None:
        clients = await self._clients(store)
        for turn in range(self.rounds):
            key = await self._new(store, {"digest": b"d"})
            expect = Unhurried({"digest": b"d"})
            calls: list[Call[object]] = [
                (
                    partial(client.get, key, expect),
                    partial(client.set, key, {"digest": b"d", "late": b"1"}, LONG, expect),
                    partial(client.merge, key, Unhurried({f"late {n}": b"1"}), [], expect),
                )[n % 3]
                for n, client in enumerate(clients)
            ]
            ended, got = await self._end_among(calls, partial(store.destroy, key), turn)
            check(ended is True, "destroy among late calls must return True")
            check_equal({refusal for _, refusal in got}, {MISSING}, "what late calls came to after destroy")
            await self._check_record(store, key, MISSING, "the record, destroyed among late calls")

    @scenario
    async def test_no_late_write_undoes_the_mark_of_an_end(self, store: SessionStore) -> None:
        clients = await self._clients(store)
        for turn in range(self.rounds):
            key = await self._new(store, {"digest": b"d", "cart": b"[]"})
            expect = Unhurried({"digest": b"d"})
            calls: list[Call[object]] = [
                (
                    partial(client.get, key, expect),
                    partial(client.merge, key, {}, ["cart"], expect, LONG),
                    partial(client.merge, key, Unhurried({f"late {n}": b"1"}), [], expect),
                )[n % 3]
                for n, client in enumerate(clients)
            ]
            mark = partial(store.set, key, {"ended": b"1"}, Lifetime(60.0, 60.0), expect)
            ended, got = await self._end_among(calls, mark, turn)
            check_equal(ended, APPLIED, "set of the end's mark among late calls")
            check_equal({refusal for _, refusal in got}, {CONFLICT}, "what late calls came to after the end")
            await self._check_record(store, key, {"ended": b"1"}, "the mark of an end, after late calls")

    @scenario
    async def test_a_write_meets_a_renewal_before_it_or_not_at_all(self, store: SessionStore) -> None:
        clients = await self._clients(store)
        for turn in range(self.rounds):
            key = await self._new(store, {"digest": b"old"})
            expect = Unhurried({"digest": b"old"})
            calls: list[Call[object]] = [
                partial(client.merge, key, Unhurried({f"field {n}": b"1"}), [], expect)
                for n, client in enumerate(clients)
            ]
            swap = partial(store.merge, key, {"digest": b"new"}, [], expect, LONG)
            swapped, got = await self._end_among(calls, swap, turn)
            check_equal(swapped, APPLIED, "the renewal")
            check_equal({refusal for _, refusal in got}, {CONFLICT}, "what writes came to after the renewal")
            want = {f"field {n}": b"1" for n, (times, _) in enumerate(got) if times}
            await self._check_record(
                store, key, {"digest": b"new", **want}, "the record, with just the writes that held"
            )

    async def _end_among(
        self, calls: Sequence[Call[object]], end: Call[object], turn: int
    ) -> tuple[object, list[tuple[int, object]]]:
        """Repeat the calls until one other call among them, the end, has returned, and then once more.

        Returned are what the end returned and, for each call, how many times it succeeded and what refused it at last.
        """
        over = threading.Event()
        give_up = time.monotonic() + self.patience

        async def finish() -> tuple[int, object]:
            try:
                return 1, await end()
            finally:
                over.set()

        async def repeat(call: Call[object]) -> tuple[int, object]:
            times = 0
            refusal: object = None
            while time.monotonic() < give_up:
                late = over.is_set()
                outcome = await call()
                if outcome is MISSING or outcome is CONFLICT:
                    refusal = outcome
                elif late or refusal is not None:
                    return times, f"a success after {'the end' if late else shown(refusal)}"
                else:
                    times += 1
                if late:
                    return times, refusal
            return times, "no end"

        contenders: list[Call[tuple[int, object]]] = [partial(repeat, call) for call in calls]
        place = turn * 3 % len(calls)
        contenders.insert(place, finish)
        got = await self._together(contenders, turn)
        return got.pop(place)[1], got

    @timed
    async def test_no_touch_revives_what_has_expired(self, store: SessionStore) -> None:
        clients = await self._clients(store)
        key = await self._new(store, {"a": b"1"}, self._life(1))
        await self._advance(2)

        async def act(client: SessionStore, n: int) -> object:
            if n % 2:
                return await client.get(key, {})
            return await client.merge(key, Unhurried({"a": b"2"}), [], {}, LONG if n % 4 else None)

        got = await self._together([partial(act, client, n) for n, client in enumerate(clients)], 1)
        check_equal(got, [MISSING] * len(clients), "touches and merges at once of an expired record")
        await self._check_record(store, key, MISSING, "the expired record")

    @timed
    async def test_no_touch_at_once_with_others_passes_the_deadline(self, store: SessionStore) -> None:
        clients = await self._clients(store)
        key = await self._new(store, {"a": b"1"}, self._life(9, 3))

        async def act(client: SessionStore, n: int) -> object:
            if n % 2:
                return await client.get(key, {}) != MISSING
            return await client.merge(key, Unhurried({f"field {n}": b"1"}), [], {}) is APPLIED

        for _ in range(2):
            got = await self._together([partial(act, client, n) for n, client in enumerate(clients)], 1)
            check(all(got), "a touch or a merge before the deadline failed")
        await self._advance(4)
        await self._check_record(store, key, MISSING, "the record, after its deadline")

    @timed
    async def test_no_touch_undoes_a_shorter_lifetime(self, store: SessionStore) -> None:
        clients = await self._clients(store)
        keys = [await self._new(store, {"a": b"1"}, self._life(90)) for _ in range(2 * self.rounds)]
        for turn, key in enumerate(keys):

            async def act(client: SessionStore, n: int, key: str = key, turn: int = turn) -> object:
                if n == (turn * 3) % self.contenders:
                    if turn % 2:
                        return await client.set(key, {"a": b"1"}, self._life(1), Unhurried({"a": b"1"}))
                    return await client.merge(key, {}, [], Unhurried({"a": b"1"}), self._life(1))
                if n % 2:
                    return await client.get(key, Unhurried({"a": b"1"}))
                return await client.merge(key, {"a": b"1"}, [], Unhurried({"a": b"1"}))

            await self._together([partial(act, client, n) for n, client in enumerate(clients)], turn)
        await self._advance(2)
        for turn, key in enumerate(keys):
            what = "set" if turn % 2 else "merge"
            await self._check_record(store, key, MISSING, f"a record shortened by a {what}, touched at the same time")

    # ---------------------------------------------------------------------------------------------- cancellation

    @scenario
    async def test_a_cancelled_call_was_made_or_not_made(self, store: SessionStore) -> None:
        if running_library() is None:
            return
        old, new = {"a": b"old", "b": b"old", "gone": b"old"}, {"a": b"new", "b": b"new"}
        for steps, seconds in [*((n, 0.0) for n in range(12)), *((0, n * 0.0003) for n in range(1, 9))]:
            when = f"cancelled after {steps} steps of the loop and {seconds * 1000:.1f} ms"
            key = await self._new(store, dict(old))
            await self._cancelled(partial(store.merge, key, new, ["gone"], {"a": b"old"}), steps, seconds)
            got = await store.get(key, {})
            check(got in (old, new), f"a merge {when} left {shown(got)}")
            key = await self._new(store, dict(old))
            await self._cancelled(partial(store.set, key, dict(new), LONG, {"a": b"old"}), steps, seconds)
            got = await store.get(key, {})
            check(got in (old, new), f"a set {when} left {shown(got)}")
            key = store.id()
            await self._cancelled(partial(store.set, key, dict(new), LONG), steps, seconds)
            got = await store.get(key, {})
            check(got in (MISSING, new), f"a set with expect=None {when} left {shown(got)}")
            key = await self._new(store, dict(old))
            await self._cancelled(partial(store.destroy, key), steps, seconds)
            got = await store.get(key, {})
            check(got in (MISSING, old), f"a destroy {when} left {shown(got)}")

    @scenario
    async def test_after_cancelled_calls_the_store_works_on(self, store: SessionStore) -> None:
        if running_library() is None:
            return
        key = await self._new(store, {"a": b"1"})
        others = [await self._new(store, {"n": b"%d" % n}) for n in range(8)]
        # More than the connections of a usual pool, at each of the steps that a call may be at.
        for n in range(144):
            steps, seconds = (n % 6, 0.0) if n < 72 else (0, 0.0001 * (n % 6))
            await self._cancelled(partial(store.get, key, {}), steps, seconds)
            await self._cancelled(partial(store.merge, key, {"a": b"1"}, [], {}), steps, seconds)
            # An answer that a cancelled call left unread must not reach the next one.
            await self._check_record(
                store, others[n % 8], {"n": b"%d" % (n % 8)}, "another record, after a cancelled call"
            )
        for n in range(self.contenders):
            check_equal(
                await store.merge(key, {f"b{n}": b"2"}, [], {"a": b"1"}), APPLIED, "merge after cancelled calls"
            )
        want = {"a": b"1", **{f"b{n}": b"2" for n in range(self.contenders)}}
        await self._check_record(store, key, want, "the record, after cancelled calls")


class YieldingStore(SessionStore):
    """A tool for tests: a store that awaits, made of any other, suspending before and after each of its calls.

    Over a memory store nothing ever overlaps, for none of its calls suspends. Over this one every task that shares
    the store runs between any two calls of another, as over a network.

    Args:
        store: the store that does the work, of any colour; one that blocks is called in a worker thread.
        order: how many times to suspend, at each such place in turn, so that a schedule can be chosen and repeated
            (`random.Random(7).choices(range(4), k=1000)`); once everywhere by default and after its end.
    """

    colour = Colour.AWAITS

    def __init__(self, store: SessionStore, order: Iterable[int] | None = None) -> None:
        self.store = store
        self.max_age = store.max_age
        self._order = iter(() if order is None else order)

    async def _suspend(self) -> None:
        for _ in range(next(self._order, 1)):
            await pause(0)

    async def _call(self, call: Coroutine[Any, Any, T]) -> T:
        try:
            await self._suspend()
        except BaseException:
            call.close()
            raise
        result = await run_awaiting(self.store.colour, call)
        await self._suspend()
        return result

    def id(self) -> str:
        """Return a fresh key, of the inner store's making."""
        return self.store.id()

    async def get(
        self, key: str, expect: Expect, touch: bool = True
    ) -> Fields | Literal[Outcome.MISSING, Outcome.CONFLICT]:
        """Suspend, call the inner store's `get`, suspend."""
        return await self._call(self.store.get(key, expect, touch))

    async def set(self, key: str, fields: Fields, lifetime: Lifetime, expect: Expect | None = None) -> Outcome:
        """Suspend, call the inner store's `set`, suspend."""
        return await self._call(self.store.set(key, fields, lifetime, expect))

    async def merge(
        self,
        key: str,
        changed: Mapping[str, bytes],
        removed: Collection[str],
        expect: Expect,
        lifetime: Lifetime | None = None,
    ) -> Outcome:
        """Suspend, call the inner store's `merge`, suspend."""
        return await self._call(self.store.merge(key, changed, removed, expect, lifetime))

    async def destroy(self, key: str) -> bool:
        """Suspend, call the inner store's `destroy`, suspend."""
        return await self._call(self.store.destroy(key))

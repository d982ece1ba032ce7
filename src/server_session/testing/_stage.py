"""Where a test of the suite takes place: a store made for it, used in its own colour, and closed."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Literal, TypeAlias, TypeVar

from server_session._colour import Colour, drive, settled
from server_session.stores._base import APPLIED, Fields, Lifetime, SessionStore
from server_session.testing._checks import check_equal

__all__ = ["LONG", "Body", "Call", "Stage"]

T = TypeVar("T")

LONG = Lifetime(3600.0, 86400.0)

Body: TypeAlias = "Callable[[Any, SessionStore], Coroutine[Any, Any, None]]"
Call: TypeAlias = Callable[[], Coroutine[Any, Any, T]]


class Stage:
    """What the tests of the suite stand on: the settings, the hooks, and the store while a test runs."""

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

    async def _another(self, store: SessionStore) -> SessionStore:
        other = await settled(self.second_client(store))
        if other is not store:
            self._others.append(other)
        return other

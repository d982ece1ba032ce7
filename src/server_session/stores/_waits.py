"""How long a call may wait for its server: of the store's limit, what the calls before it in its request have left."""

import math
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from contextvars import ContextVar
from time import monotonic
from typing import Any, Final, NamedTuple

from server_session.exceptions import StoreDownError
from server_session.stores._base import SessionStore
from server_session.stores._over import Call, P, R, StoreOver

__all__ = ["AT_ONCE", "OneLimit", "SpentError", "begin_call", "clock_here", "in_time", "is_over", "left", "next_wait"]

AT_ONCE: Final = 0.05
"""Seconds within which an answer has come at once: they count for nothing, and a request may have thousands of such."""

# No driver takes 0 for a limit, and no socket infinity, which is left outside calls, while connections are closed.
_LEAST: Final = 0.001
_MOST: Final = 86400.0
# A request that has waited for more than this part of the limit is refused: its next call would hardly be answered.
_NEARLY_ALL: Final = 0.9


class SpentError(StoreDownError):
    """The request has waited for as long as it may. This says nothing of the store."""


class Clock:
    """The clock of a thread that blocks, in seconds."""

    def now(self) -> float:
        """Return the present."""
        return monotonic()

    def run_until(self, end: float) -> None:
        """Run at least until then."""


class _ClockOfLoop(Clock):
    """The clock of a loop of asyncio: it stands while something else keeps the loop from looking at what has come.

    It ticks while calls may wait; a tick that is late tells for how long the loop was kept.
    """

    def __init__(self) -> None:
        self._kept = self._until = 0.0
        # When it ticks next, if it runs.
        self._due = math.inf

    def now(self) -> float:
        moment = monotonic()
        late = moment - self._due - AT_ONCE
        # No max(): each call comes by here.
        return moment - self._kept - (late if late > 0 else 0.0)

    def run_until(self, end: float) -> None:
        if end > self._until:  # noqa: PLR1730 - each call comes by here
            self._until = end
        if self._due == math.inf:
            self._go_on()

    def _go_on(self) -> None:
        self._due = monotonic() + AT_ONCE
        sys.modules["asyncio"].get_running_loop().call_later(AT_ONCE, self._tick)

    def _tick(self) -> None:
        # Within that a loop may be busy, and looks all the same.
        self._kept += max(0.0, monotonic() - self._due - AT_ONCE)
        self._due = math.inf
        if self.now() < self._until:
            self._go_on()


_OF_THREAD: Final = Clock()
_OF_LOOPS: Final[dict[Any, Clock]] = {}


class _Call(NamedTuple):
    """A call under way."""

    clock: Clock = _OF_THREAD
    begun: float = 0.0
    end: float = math.inf
    is_limited: bool = False
    """Whether its waits end with it: a client that was given has limits of its own."""
    was_kept: bool = False
    """Whether its end was over when it could look again: what follows at once is taken all the same."""


_NO_CALL: Final = _Call()
_call: ContextVar[_Call] = ContextVar("call", default=_NO_CALL)
_waited: ContextVar[float] = ContextVar("waited", default=0.0)


def clock_here() -> Clock:
    """Return the clock of the loop of asyncio that runs in this thread, or of the thread."""
    asyncio = sys.modules.get("asyncio")
    loop = None if asyncio is None else asyncio._get_running_loop()  # noqa: SLF001 - the other one raises without
    if loop is None:
        return _OF_THREAD
    if loop not in _OF_LOOPS:
        for ended in [other for other in list(_OF_LOOPS) if other.is_closed()]:
            _OF_LOOPS.pop(ended, None)
        _OF_LOOPS[loop] = _ClockOfLoop()
    return _OF_LOOPS[loop]


def begin_call(limit: float) -> None:
    """Begin a call to a store, which is to be over within these seconds, less those that its request has waited before.

    Raises `SpentError` where its request has waited for nearly all of them.
    """
    waited = _waited.get()
    if waited > _NEARLY_ALL * limit:
        raise SpentError(f"not asked, for calls of the same request have waited {waited:.1f} s for the store")
    clock = clock_here()
    begun = clock.now()
    end = begun + limit - waited
    _call.set(_Call(clock, begun, end))
    clock.run_until(end)


def left() -> float:
    """Return the seconds that the call under way has left, for whatever it waits."""
    call = _call.get()
    return max(_LEAST, min(_MOST, call.end - call.clock.now()))


@asynccontextmanager
async def in_time(seconds: float) -> AsyncGenerator[None]:
    """Break off what lasts longer, on a loop of asyncio, and raise `TimeoutError`."""
    # Not imported here: the loop that runs has been.
    asyncio = sys.modules["asyncio"]
    loop, clock = asyncio.get_running_loop(), clock_here()
    end = clock.now() + seconds
    clock.run_until(end)
    timer: Any = None

    def look() -> None:
        nonlocal timer
        if (more := end - clock.now()) > 0:
            timer = loop.call_later(more, look)
        else:
            limit.reschedule(loop.time())

    async with asyncio.timeout(None) as limit:
        timer = loop.call_later(seconds, look)
        try:
            yield
        finally:
            timer.cancel()


def next_wait() -> float:
    """Return the seconds that the next of several waits for one answer may take.

    Who was kept from looking takes what has come by now, and what follows at once. Raises `TimeoutError` where none are
    left.
    """
    clock, begun, end, _, was_kept = _call.get()
    now = clock.now()
    if AT_ONCE < now - end < math.inf:
        end, was_kept = now + AT_ONCE, True
    if end == -math.inf:
        raise TimeoutError("the server did not answer in time")
    seconds = end - now
    if seconds <= _LEAST:
        # Once, for pieces may come for ever.
        seconds, end = _LEAST, -math.inf
    _call.set(_Call(clock, begun, end, True, was_kept))
    return min(_MOST, seconds)


def is_over() -> bool:
    """Tell whether the call under way has no time left."""
    return left() <= _LEAST


class OneLimit(StoreOver):
    """A store as one request asks it: calls that wait, one after the other, have together the limit of one.

    While no call waits, what was used of the limit comes back, a second each second: a socket may live for days.
    """

    def __init__(self, store: SessionStore) -> None:
        super().__init__(store)
        # When the request has its whole limit again.
        self._whole_at = 0.0

    async def _ask(self, call: Call[P, R], key: str, *arguments: P.args, **options: P.kwargs) -> R:
        begun = monotonic()
        waited = max(0.0, self._whole_at - begun)
        _waited.set(waited)
        _call.set(_NO_CALL)
        is_answered = False
        try:
            answer = await call(key, *arguments, **options)
            is_answered = True
            return answer
        finally:
            _waited.set(0.0)
            if monotonic() - begun > AT_ONCE and _call.get() is not _NO_CALL:
                self._note(waited, is_answered=is_answered)

    def _note(self, waited: float, *, is_answered: bool) -> None:
        """Note that the call that is over was slow, and what the request had waited before."""
        clock, begun, end, is_limited, was_kept = _call.get()
        now = clock.now()
        # What was answered after its end was there before, and something else kept its thread.
        was_kept = was_kept or (is_limited and now > end)
        if now - begun > AT_ONCE and not (is_answered and was_kept):
            self._whole_at = max(self._whole_at, monotonic() + waited + now - begun - AT_ONCE)

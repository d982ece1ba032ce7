"""How long a call may wait for its server: of the store's limit, what the calls before it in its request have left."""

import math
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from contextvars import ContextVar
from time import monotonic
from typing import Final

from server_session.exceptions import StoreDownError
from server_session.stores._base import SessionStore
from server_session.stores._over import Call, P, R, StoreOver

__all__ = ["AT_ONCE", "OneLimit", "SpentError", "begin_call", "in_time", "is_over", "left", "next_wait"]

AT_ONCE: Final = 0.05
"""Seconds within which an answer has come at once: they count for nothing, and a request may have thousands of such."""

# No driver takes 0 for a limit, and no socket infinity, which is left outside calls, while connections are closed.
_LEAST: Final = 0.001
_MOST: Final = 86400.0
# A request that has waited for more than this part of the limit is refused: its next call would hardly be answered.
_NEARLY_ALL: Final = 0.9

_end: ContextVar[float] = ContextVar("end", default=math.inf)
_waited: ContextVar[float] = ContextVar("waited", default=0.0)


class SpentError(StoreDownError):
    """The request has waited for as long as it may. This says nothing of the store."""


def begin_call(limit: float) -> None:
    """Begin a call to a store, which is to be over within these seconds, less those that its request has waited before.

    Raises `SpentError` where its request has waited for nearly all of them.
    """
    waited = _waited.get()
    if waited > _NEARLY_ALL * limit:
        raise SpentError(f"not asked, for calls of the same request have waited {waited:.1f} s for the store")
    _end.set(monotonic() + limit - waited)


def left() -> float:
    """Return the seconds that the call under way has left, for whatever it waits."""
    return max(_LEAST, min(_MOST, _end.get() - monotonic()))


@asynccontextmanager
async def in_time(seconds: float) -> AsyncGenerator[None]:
    """Break off what lasts longer, on a loop of asyncio, and raise `TimeoutError`."""
    # Not imported here: the loop that runs has been.
    asyncio = sys.modules["asyncio"]
    loop = asyncio.get_running_loop()
    due = loop.time() + seconds

    def end() -> None:
        now = loop.time()
        # A loop that was busy looks late: what has come by now, and leads to no wait, is taken.
        limit.reschedule(now + AT_ONCE if now > due + AT_ONCE else now)

    async with asyncio.timeout(None) as limit:
        timer = loop.call_at(due, end)
        try:
            yield
        finally:
            timer.cancel()


def next_wait() -> float:
    """Return the seconds that the next of several waits for one answer may take.

    Who was kept from looking takes what has come by now; but once, for pieces may come for ever. Raises `TimeoutError`
    where none are left.
    """
    end = _end.get()
    seconds = end - monotonic()
    if seconds > _LEAST:
        return min(_MOST, seconds)
    if end == -math.inf:
        raise TimeoutError("the server did not answer in time")
    _end.set(-math.inf)
    return _LEAST


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
        was_late = False
        try:
            answer = await call(key, *arguments, **options)
            # What was answered after its end was there before: something else kept its loop, or its thread.
            was_late = monotonic() > _end.get()
            return answer
        finally:
            _waited.set(0.0)
            ended = monotonic()
            if ended - begun > AT_ONCE and not was_late:
                self._whole_at = max(self._whole_at, ended + waited + ended - begun - AT_ONCE)

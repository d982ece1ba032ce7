"""A store over another that is down: most calls fail at once, and one now and then asks whether it is back."""

import time
from collections.abc import Callable
from typing import Final

from server_session.exceptions import StoreDownError, StoreError
from server_session.stores._base import SessionStore
from server_session.stores._over import Call, P, R, StoreOver
from server_session.stores._waits import SpentError

__all__ = ["CircuitOpenError", "CircuitStore"]

# Of failures with no answer among them, until the store counts as down: a server that starts anew is mostly faster.
_DOWN_AFTER: Final = 1.0
# Failures further apart tell nothing of what was between them; nor, once nobody has asked for so long, of now.
_APART: Final = 10.0
# From one probe to the next, whether that one has been answered or not.
_BETWEEN_PROBES: Final = 0.5


class CircuitOpenError(StoreDownError):
    """The store was not asked: it has not answered anybody for a while."""


class CircuitStore(StoreOver):
    """Fails at once what would wait for a server that has not answered anybody for a second.

    Whatever answers ends that, and one session alone does not begin it: it may have met a lock of its own. Twice a
    second one call goes through, and is the probe; it waits as it always would, and nothing else does: no thread, no
    task. Threads need no lock: at worst two are probes.
    """

    def __init__(self, store: SessionStore, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(store)
        self._clock = clock
        # No error itself: its traceback has what a visitor was about to store, and would be shown with another's.
        self.failed: tuple[float, float, str, str | None] | None = None
        """Of the failures since the last answer: the first and the last moment, what the last one said, and the key, if
        that was the same each time."""
        self._next_probe = 0.0

    async def _ask(self, call: Call[P, R], key: str, *arguments: P.args, **options: P.kwargs) -> R:
        # Read once: another thread may set it to `None` in between.
        if (failed := self.failed) is not None:
            self._admit(*failed)
        try:
            answer = await call(key, *arguments, **options)
        except StoreDownError as error:
            if not isinstance(error, SpentError):
                self._note(key, str(error))
            raise
        except StoreError:
            # It refused, so it is there.
            self.failed = None
            raise
        self.failed = None
        return answer

    def _admit(self, first: float, last: float, why: str, only: str | None) -> None:
        """Let a call through that is a probe, or meets no store that is down; else raise `CircuitOpenError`."""
        now = self._clock()
        if only is not None or last - first < _DOWN_AFTER or now - max(last, self._next_probe) > _APART:
            return
        if now < self._next_probe:
            raise CircuitOpenError(f"not asked, for the store has not answered for {now - first:.0f} s: {why}")
        self._next_probe = now + _BETWEEN_PROBES

    def _note(self, key: str, why: str) -> None:
        """Note that the store did not answer."""
        failed, now = self.failed, self._clock()
        if failed is None or now - failed[1] > _APART:
            self.failed = (now, now, why, key)
        else:
            self.failed = (failed[0], now, why, key if failed[3] == key else None)

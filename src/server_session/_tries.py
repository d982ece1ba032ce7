"""Trying again, where other writers were faster: for how long."""

from collections.abc import Collection
from typing import Final

from server_session.exceptions import ConflictError
from server_session.stores._packed import step_back
from server_session.stores._waits import clock_here

UPDATE_SECONDS: Final = 2.0


class Tries:
    """The tries of a write that meets other writers: pauses between them, and an end."""

    def __init__(self, function: str, end: str = "nothing was written") -> None:
        self._function = function
        self._end = end
        self._number = 0
        self._over_at = 0.0

    async def next(self, names: Collection[str]) -> None:
        """Wait a little before the next try; raises `ConflictError` when the time is over."""
        clock = clock_here()
        if not self._number:
            self._over_at = clock.now() + UPDATE_SECONDS
            clock.run_until(self._over_at)
        elif clock.now() > self._over_at:
            raise ConflictError(
                f"{self._function} met other writers of {sorted(names)} for {UPDATE_SECONDS:g} s; "
                f"{self._end}, calling again is safe"
            )
        self._number += 1
        await step_back(self._number)

"""Trying again, where other writers were faster: for how long."""

import time
from collections.abc import Collection
from typing import Final

from server_session.exceptions import ConflictError
from server_session.stores._packed import step_back

UPDATE_SECONDS: Final = 2.0


class Tries:
    """The tries of a write that meets other writers: pauses between them, and an end."""

    def __init__(self, function: str, end: str = "nothing was written") -> None:
        self._function = function
        self._end = end
        self._started = time.monotonic()
        self._number = 0

    async def next(self, names: Collection[str]) -> None:
        """Wait a little before the next try; raises `ConflictError` when the time is over."""
        if time.monotonic() - self._started > UPDATE_SECONDS:
            raise ConflictError(
                f"{self._function} met other writers of {sorted(names)} for {UPDATE_SECONDS:g} s; "
                f"{self._end}, calling again is safe"
            )
        self._number += 1
        await step_back(self._number)

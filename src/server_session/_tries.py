"""Trying again, where other writers were faster: for how long, and with which pauses."""

import os
import time
from collections.abc import Collection
from typing import Final

from server_session._colour import pause
from server_session.exceptions import ConflictError

UPDATE_SECONDS: Final = 2.0
_FIRST_PAUSE: Final = 0.001
_LONGEST_PAUSE: Final = 0.05


class Tries:
    """The tries of a write that meets other writers: pauses between them, and an end."""

    def __init__(self, function: str, end: str = "nothing was written") -> None:
        self._function = function
        self._end = end
        self._started = time.monotonic()
        self._longest = _FIRST_PAUSE

    async def next(self, names: Collection[str]) -> None:
        """Wait a little before the next try; raises `ConflictError` when the time is over."""
        if time.monotonic() - self._started > UPDATE_SECONDS:
            raise ConflictError(
                f"{self._function} met other writers of {sorted(names)} for {UPDATE_SECONDS:g} s; "
                f"{self._end}, calling again is safe"
            )
        await pause(self._longest * ord(os.urandom(1)) / 256)
        self._longest = min(2 * self._longest, _LONGEST_PAUSE)

"""A clock of the day that can be set. Imported before all else, it is what `time.time` is from then on."""

import time
from typing import Final

__all__ = ["clock"]


class _Clock:
    def __init__(self) -> None:
        self.ahead = 0.0
        """Seconds."""
        self._machines = time.time

    def __call__(self) -> float:
        return self._machines() + self.ahead


clock: Final = _Clock()
time.time = clock

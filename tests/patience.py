"""How long tests wait for what must come: so long that no load of the machine reaches it.

It is a bound on what hangs, and nothing is asserted of it. A test of a limit gives a limit of its own, to a server
that never answers or a lock that is never let go: `LIMIT`, where something else is to come in time over the same store.
"""

import time
from collections.abc import Callable
from typing import Final

__all__ = ["LIMIT", "PATIENCE", "wait_until"]

PATIENCE: Final = 120.0
# What comes at once comes within it on a busy machine too, and a test can wait for its end.
LIMIT: Final = 2.0


def wait_until(holds: Callable[[], object]) -> None:
    """Return as soon as it holds; what never does fails the test."""
    end = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < end, "it did not come true"
        time.sleep(0.02)

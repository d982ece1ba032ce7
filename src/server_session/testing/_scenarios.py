"""Test methods made of coroutines."""

import time
from collections.abc import Callable

from server_session.testing._stage import Body, Stage

__all__ = ["scenario", "timed"]


def scenario(body: Body) -> Callable[[Stage], None]:
    """Make a plain test method of a coroutine that is given a fresh store."""

    def test(self: Stage) -> None:
        __tracebackhide__ = True
        self._run(body)

    # Not functools.wraps: pytest would follow `__wrapped__` and look for a fixture called `store`.
    test.__name__, test.__qualname__, test.__doc__ = body.__name__, body.__qualname__, body.__doc__
    return test


def timed(body: Body) -> Callable[[Stage], None]:
    """Make a test method whose checks hold only if the machine did not stall between its steps."""

    def test(self: Stage) -> None:
        __tracebackhide__ = True
        for attempt in range(5):
            self._advanced = 0.0
            begun = time.monotonic()
            try:
                self._run(body)
            except AssertionError:
                late = time.monotonic() - begun - self._advanced
                # No check comes nearer than one `second` to a border, so a shorter delay explains nothing.
                if attempt == 4 or late < self.second:
                    raise
                # It may stall again, and for as long.
                self.second = 2 * late
            else:
                return

    test.__name__, test.__qualname__, test.__doc__ = body.__name__, body.__qualname__, body.__doc__
    return test

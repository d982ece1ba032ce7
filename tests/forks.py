"""Forks of the test's own process."""

import os
import signal
import traceback
import warnings
from collections.abc import Callable

from tests.patience import PATIENCE

__all__ = ["fork", "in_all_processes"]


def in_all_processes(body: Callable[[], object], parents: Callable[[], object]) -> None:
    """Run it in two children at once, and `parents` here meanwhile; what fails in a child fails here."""
    children = [fork(body) for _ in range(2)]
    try:
        parents()
    finally:
        statuses = [os.waitpid(child, 0)[1] for child in children]
    assert statuses == [0, 0]


def fork(body: Callable[[], object]) -> int:
    """Run it in a child, which ends with it; return the child's id."""
    with warnings.catch_warnings():
        # Pytest's watch for tests that hang is a thread, of which Python warns from 3.15 on.
        warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)
        child = os.fork()
    if child == 0:
        status = 1
        signal.alarm(int(PATIENCE))
        try:
            body()
            status = 0
        except BaseException:  # noqa: BLE001 - whatever it is, nothing of pytest may run on in the child
            traceback.print_exc()
        finally:
            os._exit(status)
    return child

"""Dicts that the garbage collector leaves alone, for stores that keep very many sessions in them."""

import sys
from collections.abc import Callable
from functools import cache
from typing import Any

__all__ = ["untracked"]


def untracked() -> dict[str, bytes]:
    """Return an empty dict for text and bytes, in which no cycle can be, so that no collection need look into it."""
    empty: dict[str, bytes] = {}
    _untrack()(empty)
    return empty


@cache
def _untrack() -> Callable[[object], Any]:
    # CPython before 3.14 does so by itself, and a full collection there visits nothing of a million sessions; later
    # ones visit each, for 50 ms and more.
    if sys.version_info < (3, 14) or sys.implementation.name != "cpython":
        return id
    try:
        import ctypes
    except ImportError:
        return id
    untrack = ctypes.pythonapi.PyObject_GC_UnTrack
    untrack.argtypes, untrack.restype = (ctypes.py_object,), None
    return untrack

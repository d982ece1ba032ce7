"""Dicts that the garbage collector leaves alone, for stores that keep very many sessions in them."""

import sys
from collections.abc import Callable
from typing import Any

__all__ = ["maker_of_untracked"]


def maker_of_untracked() -> Callable[[], dict[str, bytes]]:
    """Return what makes dicts for text and bytes, in which no cycle can be, so that no collection looks into them."""
    # CPython before 3.14 does so by itself, and a full collection there visits nothing of a million sessions; later
    # ones visit each, for 50 ms and more.
    if sys.version_info < (3, 14) or sys.implementation.name != "cpython":
        return dict
    try:
        import ctypes
    except ImportError:
        return dict
    untrack: Any = ctypes.pythonapi.PyObject_GC_UnTrack
    untrack.argtypes, untrack.restype = (ctypes.py_object,), None

    def make() -> dict[str, bytes]:
        empty: dict[str, bytes] = {}
        untrack(empty)
        return empty

    return make

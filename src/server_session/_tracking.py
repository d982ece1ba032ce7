"""The dict that `update_session_data` hands out: it remembers what its result depends on."""

from collections.abc import Mapping
from typing import Any

from server_session._observed import ObservedDict

__all__ = ["ReadTracking"]


class ReadTracking(ObservedDict):
    """A dict that records the keys that were read, and whether all of them were."""

    def __init__(self, data: Mapping[str, Any]) -> None:
        super().__init__(data)
        self.read: set[object] = set()
        self.read_all = False

    def _on_read(self, key: object) -> None:
        self.read.add(key)

    def _on_read_names(self) -> None:
        self.read_all = True

    _on_read_values = _on_read_names

    # What a write returns, or refuses for, it has read.

    def setdefault(self, key: str, default: Any = None, /) -> Any:
        """Return the key's value, after setting it to `default` if it is absent."""
        self._on_read(key)
        return super().setdefault(key, default)

    def pop(self, key: str, *default: Any) -> Any:
        """Remove the key and return its value, or the default; `KeyError` if neither is there."""
        self._on_read(key)
        return super().pop(key, *default)

    def __delitem__(self, key: str) -> None:
        self._on_read(key)
        super().__delitem__(key)

    def popitem(self) -> tuple[str, Any]:
        """Remove and return the key that was set last, with its value."""
        self._on_read_names()
        return super().popitem()

    def clear(self) -> None:
        """Drop every key."""
        self._on_read_names()
        super().clear()

"""Dicts whose readers are noticed."""

import copy
from collections.abc import ItemsView, Iterator, KeysView, Mapping, ValuesView
from typing import Any, Final, Self, SupportsIndex

__all__ = ["ObservedDict", "ReadTracking"]

_ABSENT: Final[Any] = object()


class ObservedDict(dict[str, Any]):
    """A `dict` that notes which of its keys, names and values are read, by whichever of a dict's ways.

    What looks past a dict's methods (orjson, C code) sees the data all the same, unnoticed.
    """

    accessed = False
    """Whether anything was read or written; the response then varies on the cookie."""
    read_names = False
    """Whether it was asked which keys there are, or how many."""
    read_values = False
    """Whether all values were handed out."""

    read: set[Any]
    """The keys that were looked up."""

    def _list(self) -> None:
        self.accessed = self.read_names = True

    def _show(self) -> None:
        self.accessed = self.read_names = self.read_values = True

    def plain(self) -> dict[str, Any]:
        """Return the content as a plain dict, unnoticed."""
        return dict(dict.items(self))

    def __getitem__(self, key: str) -> Any:
        self.accessed = True
        self.read.add(key)
        return dict.__getitem__(self, key)

    def get(self, key: str, default: Any = None, /) -> Any:
        """Return the key's value, or `default`."""
        self.accessed = True
        self.read.add(key)
        return dict.get(self, key, default)

    def __contains__(self, key: object) -> bool:
        self.accessed = True
        self.read.add(key)
        return dict.__contains__(self, key)

    def __iter__(self) -> Iterator[str]:
        self._list()
        return super().__iter__()

    def __reversed__(self) -> Iterator[str]:
        self._list()
        return super().__reversed__()

    def __len__(self) -> int:
        self._list()
        return super().__len__()

    def keys(self) -> KeysView[str]:  # type: ignore[override]
        """Return a view of the keys."""
        self._list()
        return super().keys()

    def values(self) -> ValuesView[Any]:  # type: ignore[override]
        """Return a view of the values."""
        self._show()
        return super().values()

    def items(self) -> ItemsView[str, Any]:  # type: ignore[override]
        """Return a view of the keys with their values."""
        self._show()
        return super().items()

    def copy(self) -> dict[str, Any]:
        """Return a plain dict of the same keys and values."""
        self._show()
        return self.plain()

    def __copy__(self) -> dict[str, Any]:
        return self.copy()

    def __deepcopy__(self, memo: dict[int, Any]) -> dict[str, Any]:
        return copy.deepcopy(self.copy(), memo)

    def __reduce_ex__(self, protocol: SupportsIndex) -> Any:
        # A pickle holds the data, and nothing of who watches it.
        return dict, (self.copy(),)

    def __eq__(self, other: object) -> bool:
        self._list()
        return super().__eq__(other)

    def __ne__(self, other: object) -> bool:
        return not self == other

    __hash__ = None

    def __or__(self, other: Any) -> dict[str, Any]:  # type: ignore[override]
        merged: dict[str, Any] = self.copy() | other
        return merged

    def __ror__(self, other: Any) -> dict[str, Any]:  # type: ignore[override]
        merged: dict[str, Any] = other | self.copy()
        return merged

    def __repr__(self) -> str:
        self._list()
        return super().__repr__()

    # Writes that return what they find are reads, and then a simple write.

    def pop(self, key: str, default: Any = _ABSENT, /) -> Any:
        """Remove the key and return its value, or `default`; `KeyError` if neither is there."""
        if key not in self and default is not _ABSENT:
            return default
        value = self[key]
        del self[key]
        return value

    def popitem(self) -> tuple[str, Any]:
        """Remove and return the key that was set last, with its value; `KeyError` if there is none."""
        if not self:
            raise KeyError("popitem(): dictionary is empty")
        key = next(reversed(self))
        return key, self.pop(key)

    def setdefault(self, key: str, default: Any = None, /) -> Any:
        """Return the key's value, after setting it to `default` if it is absent."""
        if key not in self:
            self[key] = default
        return self[key]

    def __ior__(self, other: Any, /) -> Self:  # type: ignore[override]
        self.update(other)
        return self


class ReadTracking(ObservedDict):
    """The dict that `update_session_data` hands out: it notes what its result depends on."""

    def __init__(self, data: Mapping[str, Any]) -> None:
        super().__init__(data)
        self.read = set()

    @property
    def read_all(self) -> bool:
        """Whether it was asked for all of the keys or values."""
        return self.read_names

    # What a write returns, or refuses for, it has read.

    def __delitem__(self, key: str) -> None:
        self.read.add(key)
        super().__delitem__(key)

    def clear(self) -> None:
        """Drop every key."""
        self._list()
        super().clear()

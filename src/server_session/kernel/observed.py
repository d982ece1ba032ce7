"""Dicts whose readers are noticed."""

import copy
from collections.abc import Callable, MutableMapping
from functools import wraps
from typing import Any, Final, Self, SupportsIndex, TypeVar, cast

__all__ = ["ObservedDict"]

F = TypeVar("F", bound=Callable[..., Any])


def _noticed(read: F, *, shows: bool = False) -> F:
    """Make a dict's method note that it asks which keys there are, and with `shows` that it hands out all values."""

    @wraps(read)
    def noticed(observed: "ObservedDict", *args: Any) -> Any:
        observed.accessed = observed.read_names = True
        observed.read_values |= shows
        return read(observed, *args)

    return cast("F", noticed)


_ABSENT: Final[Any] = object()


class _Dict(dict[str, Any]):
    """What is observed: its methods have the types of its keys and values."""


class ObservedDict(_Dict):
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

    __iter__ = _noticed(_Dict.__iter__)
    __reversed__ = _noticed(_Dict.__reversed__)
    __len__ = _noticed(_Dict.__len__)
    __repr__ = _noticed(_Dict.__repr__)
    __eq__ = _noticed(_Dict.__eq__)
    __hash__ = None  # type: ignore[assignment]
    keys = _noticed(_Dict.keys)
    values = _noticed(_Dict.values, shows=True)
    items = _noticed(_Dict.items, shows=True)
    copy = __copy__ = _noticed(plain, shows=True)

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __deepcopy__(self, memo: dict[int, Any]) -> dict[str, Any]:
        return copy.deepcopy(self.copy(), memo)

    def __reduce_ex__(self, protocol: SupportsIndex) -> Any:
        # A pickle holds the data, and nothing of who watches it.
        return dict, (self.copy(),)

    def __or__(self, other: Any) -> dict[str, Any]:  # type: ignore[override]
        merged: dict[str, Any] = self.copy() | other
        return merged

    def __ror__(self, other: Any) -> dict[str, Any]:  # type: ignore[override]
        merged: dict[str, Any] = other | self.copy()
        return merged

    # Writes that return what they find are reads, and then a simple write.

    setdefault: Any = MutableMapping.setdefault

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

    def __ior__(self, other: Any, /) -> Self:  # type: ignore[override]
        self.update(other)
        return self

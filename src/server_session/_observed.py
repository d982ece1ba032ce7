"""A dict whose readers are noticed."""

import copy
from abc import abstractmethod
from collections.abc import ItemsView, Iterator, KeysView, ValuesView
from typing import Any, SupportsIndex

__all__ = ["ObservedDict"]


class ObservedDict(dict[str, Any]):
    """A `dict` that says which of its keys, names and values are read, by whichever of a dict's ways.

    What looks past a dict's methods (orjson, C code) sees the data all the same, unnoticed.
    """

    @abstractmethod
    def _on_read(self, key: object) -> None:
        """Note that one key was looked up."""
        raise NotImplementedError

    @abstractmethod
    def _on_read_names(self) -> None:
        """Note that it was asked which keys there are, or how many."""
        raise NotImplementedError

    @abstractmethod
    def _on_read_values(self) -> None:
        """Note that all values were handed out."""
        raise NotImplementedError

    def plain(self) -> dict[str, Any]:
        """Return the content as a plain dict, unnoticed."""
        return dict(dict.items(self))

    def __getitem__(self, key: str) -> Any:
        self._on_read(key)
        return super().__getitem__(key)

    def get(self, key: str, default: Any = None, /) -> Any:
        """Return the key's value, or `default`."""
        self._on_read(key)
        return super().get(key, default)

    def __contains__(self, key: object) -> bool:
        self._on_read(key)
        return super().__contains__(key)

    def __iter__(self) -> Iterator[str]:
        self._on_read_names()
        return super().__iter__()

    def __reversed__(self) -> Iterator[str]:
        self._on_read_names()
        return super().__reversed__()

    def __len__(self) -> int:
        self._on_read_names()
        return super().__len__()

    def keys(self) -> KeysView[str]:  # type: ignore[override]
        """Return a view of the keys."""
        self._on_read_names()
        return super().keys()

    def values(self) -> ValuesView[Any]:  # type: ignore[override]
        """Return a view of the values."""
        self._on_read_values()
        return super().values()

    def items(self) -> ItemsView[str, Any]:  # type: ignore[override]
        """Return a view of the keys with their values."""
        self._on_read_values()
        return super().items()

    def copy(self) -> dict[str, Any]:
        """Return a plain dict of the same keys and values."""
        self._on_read_values()
        return self.plain()

    def __copy__(self) -> dict[str, Any]:
        return self.copy()

    def __deepcopy__(self, memo: dict[int, Any]) -> dict[str, Any]:
        return copy.deepcopy(self.copy(), memo)

    def __reduce_ex__(self, protocol: SupportsIndex) -> Any:
        # A pickle holds the data, and nothing of who watches it.
        return dict, (self.copy(),)

    def __eq__(self, other: object) -> bool:
        self._on_read_names()
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
        self._on_read_names()
        return super().__repr__()

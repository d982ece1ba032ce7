"""The dict that `update_session_data` hands out: it remembers what its result depends on."""

from collections.abc import Iterator, Mapping
from typing import Any, SupportsIndex

__all__ = ["ReadTracking"]


class ReadTracking(dict[str, Any]):
    """A dict that records the keys that were read, and whether all of them were."""

    def __init__(self, data: Mapping[str, Any]) -> None:
        super().__init__(data)
        self.read: set[str] = set()
        self.read_all = False

    def plain(self) -> dict[str, Any]:
        """Return the content as a plain dict, without recording a read."""
        return dict(dict.items(self))

    def _all(self) -> None:
        self.read_all = True

    def __getitem__(self, key: str) -> Any:
        self.read.add(key)
        return super().__getitem__(key)

    def __contains__(self, key: object) -> bool:
        if isinstance(key, str):
            self.read.add(key)
        return super().__contains__(key)

    def get(self, key: str, default: Any = None, /) -> Any:
        self.read.add(key)
        return super().get(key, default)

    def setdefault(self, key: str, default: Any = None, /) -> Any:
        self.read.add(key)
        return super().setdefault(key, default)

    def pop(self, key: str, *default: Any) -> Any:
        self.read.add(key)
        return super().pop(key, *default)

    def __delitem__(self, key: str) -> None:
        self.read.add(key)
        super().__delitem__(key)

    def popitem(self) -> tuple[str, Any]:
        self._all()
        return super().popitem()

    def clear(self) -> None:
        self._all()
        super().clear()

    def __iter__(self) -> Iterator[str]:
        self._all()
        return super().__iter__()

    def __reversed__(self) -> Iterator[str]:
        self._all()
        return super().__reversed__()

    def __len__(self) -> int:
        self._all()
        return super().__len__()

    def keys(self) -> Any:
        self._all()
        return super().keys()

    def values(self) -> Any:
        self._all()
        return super().values()

    def items(self) -> Any:
        self._all()
        return super().items()

    def copy(self) -> dict[str, Any]:
        self._all()
        return self.plain()

    def __copy__(self) -> dict[str, Any]:
        return self.copy()

    def __deepcopy__(self, memo: dict[int, Any]) -> dict[str, Any]:
        import copy

        return copy.deepcopy(self.copy(), memo)

    def __reduce_ex__(self, protocol: SupportsIndex) -> Any:
        return dict, (self.copy(),)

    def __eq__(self, other: object) -> bool:
        self._all()
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
        self._all()
        return super().__repr__()

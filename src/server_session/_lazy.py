"""The mapping of a blocking application: loaded at its first touch."""

from collections.abc import Callable, Iterator, MutableMapping
from typing import Any, Self

from server_session._session import Session

__all__ = ["LazySession"]


class LazySession(MutableMapping[str, Any]):
    """A session that asks the store when it is first looked at, and never before.

    It is no `dict`, so that C code that looks past a dict's methods gets an error and not an empty session.
    """

    def __init__(self, load: Callable[[], Session]) -> None:
        self._load = load
        self._session: Session | None = None

    def loaded(self) -> Session:
        """Return the session itself, a whole `dict`, loading it if need be."""
        if self._session is None:
            self._session = self._load()
        return self._session

    def __getitem__(self, key: str) -> Any:
        return self.loaded()[key]

    def __setitem__(self, key: str, value: Any) -> None:
        self.loaded()[key] = value

    def __delitem__(self, key: str) -> None:
        del self.loaded()[key]

    def __contains__(self, key: object) -> bool:
        return key in self.loaded()

    def __iter__(self) -> Iterator[str]:
        return iter(self.loaded())

    def __len__(self) -> int:
        return len(self.loaded())

    def __reversed__(self) -> Iterator[str]:
        return reversed(self.loaded())

    def __eq__(self, other: object) -> bool:
        return self.loaded() == (other.loaded() if isinstance(other, LazySession) else other)

    __hash__ = None  # type: ignore[assignment]

    def clear(self) -> None:
        """Drop every field, seen or not."""
        self.loaded().clear()

    def copy(self) -> dict[str, Any]:
        """Return a plain dict of the same keys and values."""
        return self.loaded().copy()

    __copy__ = copy

    def __or__(self, other: Any) -> dict[str, Any]:
        return self.loaded().copy() | other  # type: ignore[no-any-return]

    def __ror__(self, other: Any) -> dict[str, Any]:
        return other | self.loaded().copy()  # type: ignore[no-any-return]

    def __ior__(self, other: Any) -> Self:
        self.loaded().update(other)
        return self

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {'not loaded' if self._session is None else repr(self._session)}>"

    @property
    def accessed(self) -> bool:
        """Whether anything was read or written."""
        return self._session is not None and self._session.accessed

    @property
    def modified(self) -> bool:
        """Whether there is anything to store. Setting it has no effect: changes are seen, inside values too."""
        return self._session is not None and self._session.modified

    @modified.setter
    def modified(self, value: bool) -> None:
        self.loaded().modified = value

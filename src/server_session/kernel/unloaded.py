"""What stands for a mapping that was not loaded yet: one loads when it is awaited, the other when it is touched."""

from collections.abc import Callable, Coroutine, Iterator, MutableMapping
from typing import Any, Self

from server_session.exceptions import SessionNotLoadedError
from server_session.kernel.mapping import Session

__all__ = ["LazySession", "UnloadedSession"]


class UnloadedSession:
    """Stands for a session that was not asked for yet (`autoload=False`). It is no dict, and never looks empty."""

    __slots__ = ("_load",)

    def __init__(self, load: Callable[[], Coroutine[Any, Any, Session]]) -> None:
        self._load = load

    async def load(self) -> Session:
        """Load the session, put it in this object's place, and return it."""
        return await self._load()

    def _refuse(self, *_: object) -> Any:
        raise SessionNotLoadedError(
            "this session is not loaded (autoload=False): write `session = await request.session.load()`, "
            "or use the functions, such as `await get_session_data(request)`"
        )

    __getitem__ = __setitem__ = __delitem__ = __contains__ = __iter__ = __len__ = __bool__ = __eq__ = __or__ = _refuse

    def __getattr__(self, name: str) -> Any:
        if name in dir(dict):
            self._refuse()
        raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")


class LazySession(MutableMapping[str, Any]):
    """A session that asks the store when it is first looked at, and never before.

    It is no `dict`, so that C code that looks past a dict's methods gets an error and not an empty session.
    """

    __slots__ = ("_load", "_session")

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

    def __iter__(self) -> Iterator[str]:
        return iter(self.loaded())

    def __len__(self) -> int:
        return len(self.loaded())

    def __reversed__(self) -> Iterator[str]:
        return reversed(self.loaded())

    def clear(self) -> None:
        """Drop every field, seen or not."""
        self.loaded().clear()

    def copy(self) -> dict[str, Any]:
        """Return a plain dict of the same keys and values."""
        return self.loaded().copy()

    __copy__ = copy
    # A dict's, which takes the key that was set last: that of MutableMapping takes the first.
    popitem: Any = Session.popitem
    __deepcopy__: Any = Session.__deepcopy__
    __or__: Any = Session.__or__
    __ror__: Any = Session.__ror__

    def __ior__(self, other: Any) -> Self:  # type: ignore[misc]
        self.loaded().update(other)
        return self

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {'not loaded' if self._session is None else repr(self._session)}>"

    @property
    def accessed(self) -> bool:
        """Whether anything was read or written. Setting it has no effect: a look is seen by itself."""
        return self._session is not None and self._session.accessed

    @accessed.setter
    def accessed(self, value: bool) -> None:
        # Flask sets it where somebody names `flask.session`, which need not be a look at it.
        pass

    @property
    def modified(self) -> bool:
        """Whether there is anything to store. Setting it has no effect: changes are seen, inside values too."""
        return self._session is not None and self._session.modified

    @modified.setter
    def modified(self, value: bool) -> None:
        self.loaded().modified = value

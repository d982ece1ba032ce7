"""The request's mapping: a dict that records what is done to it."""

from collections.abc import Callable, Coroutine, Iterable, Mapping
from typing import Any, NamedTuple, Self

from server_session._codec import decode_fields, encode_fields
from server_session._observed import ObservedDict
from server_session._record import is_same
from server_session.exceptions import SessionNotLoadedError

__all__ = ["Changes", "Session", "UnloadedSession"]

_ABSENT: Any = object()


class Changes(NamedTuple):
    """What a commit has to store."""

    changed: dict[str, bytes]
    removed: frozenset[str]
    cleared: bool
    """Every field goes, seen or not; `changed` is all that there is afterwards."""
    assigned: frozenset[str]
    """The changed names to which a value was assigned, as opposed to a change inside the value that stands."""


class Session(ObservedDict):
    """The session of one request: a whole `dict` that records every kind of write.

    Only the fields that were changed or removed are stored, at the commit; a change inside a value
    (`session["cart"].append(…)`) counts.
    """

    accessed: bool
    """Whether anything was read or written; the response then varies on the cookie."""

    def __init__(self, fields: Mapping[str, bytes] | None = None) -> None:
        self._stored: dict[str, bytes] = dict(fields or {})
        self._assigned: set[str] = set()
        self._removed: set[str] = set()
        self._cleared = False
        # Names whose values were handed out: only these can have changed inside.
        self._shown: set[object] = set()
        self._all_shown = False
        self._save: Callable[[], Coroutine[Any, Any, bool]] | None = None
        self._ask: Callable[[], Coroutine[Any, Any, bool]] | None = None
        self.accessed = False
        super().__init__(decode_fields(self._stored) if self._stored else {})

    # --- what a request does to its session

    async def save(self) -> bool:
        """Store what has changed, now; return False if the session ended meanwhile.

        Without it the mapping is stored before the response starts and again when the application returns.
        Raises `StoreError`, `SerializationError`, and `ResponseStartedError` where a new cookie comes too late.
        """
        if self._save is None:
            raise SessionNotLoadedError("this session belongs to no request: there is nowhere to save it")
        return await self._save()

    async def is_alive(self) -> bool:
        """Ask the store whether the session still lives: not destroyed, not renewed elsewhere, not expired.

        For whoever holds it long: a WebSocket, a stream. The question does not restart the idle clock.
        """
        return self._ask is not None and await self._ask()

    def mark_modified(self) -> None:
        """Note that the session was written to, as Starlette's own session does; what changed is seen by itself."""
        self.accessed = True

    def mark_accessed(self) -> None:
        """Note that the session was looked at, as Starlette's `request.session` does."""
        self.accessed = True

    @property
    def modified(self) -> bool:
        """Whether there is anything to store. Setting it has no effect: changes are seen, inside values too."""
        return self.changes() is not None

    @modified.setter
    def modified(self, value: bool) -> None:  # noqa: ARG002 - what it is set to changes nothing
        self.accessed = True

    # --- what the lifecycle asks of it

    def bind(self, save: Callable[[], Coroutine[Any, Any, bool]], ask: Callable[[], Coroutine[Any, Any, bool]]) -> None:
        """Say how to store this session, and how to ask whether it lives."""
        self._save = save
        self._ask = ask

    def changes(self) -> Changes | None:
        """Return what is not yet stored, or `None`.

        Raises `SerializationError` for a value that would not come out as it went in.
        """
        if not self.accessed:
            return None
        if self._cleared:
            return Changes(encode_fields(self.plain()), frozenset(), True, frozenset(dict.keys(self)))
        candidates = self._assigned | {
            # Only a container can have changed inside, and only JSON's containers are stored as one.
            name
            for name, stored in self._stored.items()
            if stored[:1] in b"[{" and (self._all_shown or name in self._shown) and dict.__contains__(self, name)
        }
        if not candidates and not self._removed:
            return None
        encoded = encode_fields({name: value for name, value in dict.items(self) if name in candidates})
        changed = {name: value for name, value in encoded.items() if not is_same(name, self._stored.get(name), value)}
        # To assign what is stored already is no assignment; what then changes inside it is a change inside.
        self._assigned &= changed.keys()
        if not changed and not self._removed:
            return None
        return Changes(changed, frozenset(self._removed), False, frozenset(self._assigned))

    def settle(self, changes: Changes) -> None:
        """Note that these changes are stored (or were refused for good)."""
        if changes.cleared:
            self._cleared = False
            self._stored = {}
        self._stored.update(changes.changed)
        for name in changes.removed:
            self._stored.pop(name, None)
        # What was written while the store was at work is not stored yet.
        self._assigned -= {name for name, value in changes.changed.items() if self._holds(name, value)}
        self._removed = {name for name in self._stored if not dict.__contains__(self, name)}

    def absorb(self, fields: Mapping[str, bytes]) -> None:
        """Bring in what the store holds now, beneath what is not yet stored.

        A value whose bytes did not change stays the object that it is, so that references to it hold.
        """
        if self._cleared:
            return
        pending = self.changes()
        own = pending.changed.keys() | pending.removed if pending else frozenset[str]()
        news = {
            name: value
            for name, value in fields.items()
            if name not in own and not (self._stored.get(name) == value and dict.__contains__(self, name))
        }
        gone = [name for name in self._stored if name not in fields]
        dict.update(self, decode_fields(news))
        for name in gone:
            if name not in own:
                dict.pop(self, name, None)
            self._removed.discard(name)
        self._stored = dict(fields)
        self._assigned -= news.keys()

    def accept(self, changed: Mapping[str, bytes], removed: Iterable[str] = ()) -> None:
        """Bring in what a function of this request has just stored; it supersedes what was not yet stored."""
        news = {name: value for name, value in changed.items() if not self._holds(name, value)}
        dict.update(self, decode_fields(news))
        self._stored.update(changed)
        self._assigned -= changed.keys()
        self._removed -= changed.keys()
        for name in removed:
            dict.pop(self, name, None)
            self._stored.pop(name, None)
            self._assigned.discard(name)
            self._removed.discard(name)

    def restart(self, fields: Mapping[str, bytes]) -> None:
        """Become the mapping of a session with just these fields, all stored."""
        dict.clear(self)
        dict.update(self, decode_fields(fields))
        self._stored = dict(fields)
        self._assigned.clear()
        self._removed.clear()
        self._cleared = False

    def overlay(self, fields: Mapping[str, bytes]) -> dict[str, bytes]:
        """Return the fields as this request sees them: the store's, under what is not yet stored."""
        pending = self.changes()
        if pending is None:
            return dict(fields)
        if pending.cleared:
            return pending.changed
        return {name: value for name, value in fields.items() if name not in pending.removed} | pending.changed

    def _holds(self, name: str, value: bytes) -> bool:
        if not dict.__contains__(self, name):
            return False
        return encode_fields({name: dict.__getitem__(self, name)})[name] == value

    def _wrote(self, name: str) -> None:
        # Who assigned the value may hold it and change it after it was stored.
        self._shown.add(name)
        self.accessed = True
        self._assigned.add(name)
        self._removed.discard(name)

    def _dropped(self, name: str) -> None:
        self._assigned.discard(name)
        if name in self._stored:
            self._removed.add(name)

    # --- dict's writes

    def __setitem__(self, key: str, value: Any) -> None:
        super().__setitem__(key, value)
        self._wrote(key)

    def __delitem__(self, key: str) -> None:
        self.accessed = True
        super().__delitem__(key)
        self._dropped(key)

    def pop(self, key: str, default: Any = _ABSENT, /) -> Any:
        """Remove the key and return its value, or `default`; `KeyError` if neither is there."""
        self.accessed = True
        if key not in self:
            if default is _ABSENT:
                raise KeyError(key)
            return default
        value = super().pop(key)
        self._dropped(key)
        return value

    def popitem(self) -> tuple[str, Any]:
        """Remove and return the key that was set last, with its value; `KeyError` if there is none."""
        self.accessed = True
        key, value = super().popitem()
        self._dropped(key)
        return key, value

    def clear(self) -> None:
        """Drop every field, seen or not.

        Left empty at the commit the session is destroyed; written to again it is founded anew, under a new cookie.
        """
        self.accessed = True
        self._cleared = True
        self._assigned.clear()
        self._removed.clear()
        super().clear()

    def setdefault(self, key: str, default: Any = None, /) -> Any:
        """Return the key's value, after setting it to `default` if it is absent."""
        self.accessed = True
        if key not in self:
            self[key] = default
        return self[key]

    def update(self, *args: Any, **kwargs: Any) -> None:
        """Set many keys, as `dict.update` does."""
        for key, value in dict(*args, **kwargs).items():
            self[key] = value

    def __ior__(self, other: Any, /) -> Self:  # type: ignore[override]
        self.update(other)
        return self

    # --- dict's reads: each of them makes the response vary on the cookie

    def _on_read(self, key: object) -> None:
        self.accessed = True
        self._shown.add(key)

    def _on_read_names(self) -> None:
        self.accessed = True

    def _on_read_values(self) -> None:
        self.accessed = self._all_shown = True


class UnloadedSession:
    """Stands for a session that was not asked for yet (`autoload=False`). It is no dict, and never looks empty."""

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
    __ior__ = __reversed__ = _refuse
    __hash__ = None  # type: ignore[assignment]

    def __getattr__(self, name: str) -> Any:
        if name in _DICT_NAMES:
            self._refuse()
        raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")


_DICT_NAMES = frozenset(name for name in dir(dict) if not name.startswith("_"))

"""The request's mapping: a dict that notes what is read of it and what is done to it."""

import copy
import logging
from collections.abc import Callable, Collection, Mapping, MutableMapping
from functools import wraps
from typing import Any, Final, Protocol, Self, SupportsIndex, TypeVar, cast

import msgspec

from server_session._codec import decode_fields, decode_value, encode_fields, encode_value
from server_session._record import user_fields
from server_session.exceptions import SerializationError, SessionNotLoadedError

__all__ = ["NO_CHANGES", "Changes", "Session"]

F = TypeVar("F", bound=Callable[..., Any])

_LOG: Final = logging.getLogger("server_session")
_ABSENT: Final[Any] = object()
# What the text of a dict or list begins with: another writer may put JSON's white space before the bracket.
_CONTAINER_STARTS: Final = b"[{ \t\r\n"


class Changes(msgspec.Struct, frozen=True):
    """What a commit has to store."""

    changed: dict[str, bytes]
    removed: Collection[str]
    cleared: bool
    """Every field goes, seen or not; `changed` is all that there is afterwards."""
    assigned: Collection[str]
    """The changed names to which a value was assigned, as opposed to a change inside the value that stands."""
    moment: int
    """How many assignments and removals there had been: what came later is not in here."""


NO_CHANGES: Final = Changes({}, (), False, (), 0)


class _Stored(Protocol):
    """The stored session that a mapping is of."""

    is_left: bool

    async def commit(self) -> bool: ...

    async def is_alive(self) -> bool: ...


def _noticed(read: F, *, shows: bool = False) -> F:
    """Make a dict's method note that it asks which keys there are, and with `shows` that it hands out all values."""

    @wraps(read)
    def noticed(session: "Session", *args: Any) -> Any:
        session.accessed = session.read_names = True
        session.read_values |= shows
        return read(session, *args)

    return cast("F", noticed)


class _Dict(dict[str, Any]):
    """A dict with a session's types of keys and values, for the methods that `Session` takes from it."""

    __slots__ = ()


class Session(_Dict):
    """The session of one request: a whole `dict` that notes every kind of read, and every kind of write.

    Only the fields that were changed or removed are stored, at the commit; a change inside a value
    (`session["cart"].append(…)`) counts. What looks past a dict's methods (orjson, C code) sees the data, unnoticed.
    """

    # An attribute of another library's session that is not here is an error, and no setting lost in silence.
    __slots__ = (
        *("accessed", "is_left", "read", "read_names", "read_values"),
        *("_backing", "_cleared", "_moment", "_since", "_stored", "_written"),
    )

    def __init__(self, fields: Mapping[str, bytes] | None = None, stored: _Stored | None = None) -> None:
        # What the store holds of the user's fields, as this mapping last heard.
        self._stored = user_fields(fields) if fields else {}
        super().__init__(decode_fields(self._stored) if fields else ())
        self.accessed = False
        """Whether anything was read or written; the response then varies on the cookie."""
        self.read_names = False
        """Whether it was asked which keys there are, or how many."""
        self.read_values = False
        """Whether all values were handed out."""
        self.read: set[Any] = set()
        """The keys that were looked up, or whose values were once written: whoever has one may change it inside."""
        self._backing = stored
        self.is_left = stored is not None and stored.is_left
        # By name, the moment of its last assignment or removal that is not yet stored.
        self._written: dict[str, int] = {}
        # How many assignments and removals there were; the moment of the last `clear` that is not yet stored, 0 where
        # there is none; that of the last `restart`: changes from before it belong to a session that has ended.
        self._moment = self._cleared = self._since = 0

    # --- what a request does to its session

    async def save(self) -> bool:
        """Store what has changed, now; return False if the session ended meanwhile.

        Without it the mapping is stored before the response starts and again when the application returns.
        Raises `StoreError`, `SerializationError`, and `ResponseStartedError` where a new cookie comes too late.
        """
        if self._backing is None:
            raise SessionNotLoadedError("this session belongs to no request: there is nowhere to save it")
        return await self._backing.commit()

    async def is_alive(self) -> bool:
        """Ask the store whether the session still lives: not destroyed, not renewed elsewhere, not expired.

        For whoever holds it long: a WebSocket, a stream. The question does not restart the idle clock.
        """
        return self._backing is not None and await self._backing.is_alive()

    def leave(self, *, is_answered: bool) -> None:
        """Note that the request is over, and log what is lost; without an answer no commit looked for changes."""
        self.is_left = True
        try:
            is_stored = (is_answered and not self._written and not self._cleared) or self.changes() is None
        except SerializationError:
            is_stored = False
        if not is_stored:
            self._say_lost()

    def _say_lost(self) -> None:
        self.is_left = False
        _LOG.warning(
            "what was written to a session is not stored: its request failed, or is over. After its end call "
            "`await session.save()`, or one of the functions"
        )

    def mark_accessed(self) -> None:
        """Note that the session was looked at, as Starlette's own does; what changed is seen by itself."""
        self.accessed = True

    mark_modified = mark_accessed

    @property
    def modified(self) -> bool:
        """Whether there is anything to store. Setting it has no effect: changes are seen, inside values too."""
        return self.changes() is not None

    @modified.setter
    def modified(self, value: bool) -> None:  # noqa: ARG002 - what it is set to changes nothing
        self.accessed = True

    def become(self, given: Mapping[str, Any] | None) -> None:
        """Hold what another mapping holds, and nothing else; `None` ends the session, as `clear` does."""
        if given is None:
            self.clear()
            return
        for name in self.plain().keys() - given.keys():
            del self[name]
        self.update(given)

    # --- what a commit asks of it

    @property
    def may_differ(self) -> bool:
        """Whether anything was written, or handed out that can have changed inside."""
        if self._written or self._cleared:
            return True
        stored = self._stored
        for name in stored if self.read_values else self.read:  # no any(): each request comes by here
            if name in stored and stored[name][0] in _CONTAINER_STARTS:
                return True
        return False

    def changes(self) -> Changes | None:
        """Return what is not yet stored, or `None`.

        Raises `SerializationError` for a value that would not come out as it went in.
        """
        if self._cleared:
            return Changes(encode_fields(self.plain()), (), True, frozenset(dict.keys(self)), self._moment)
        stored, written = self._stored, self._written
        changed: dict[str, bytes] = {}
        removed: list[str] = []
        if written:
            values = {name: value for name, value in dict.items(self) if name in written}
            for name, value in encode_fields(values).items():
                # To assign what is stored already is no assignment; what then changes inside it is a change inside.
                if name in stored and stored[name] == value:
                    del written[name]
                    self.read.add(name)
                else:
                    changed[name] = value
            for name in written:
                if name in stored and name not in changed:
                    removed += [name]
        assigned = {*changed}
        for name in stored if self.read_values else self.read:
            # Only a container can have changed inside, and only JSON's containers are stored as one.
            if name not in stored or stored[name][0] not in _CONTAINER_STARTS or name in written:
                continue
            # A function may have removed here what a commit that was under way then noted as stored.
            if dict.__contains__(self, name):
                value = encode_value(name, dict.__getitem__(self, name))
                # Another writer may spell the same value otherwise; that is no change.
                if value != stored[name] and value != encode_value(name, decode_value(name, stored[name])):
                    changed[name] = value
        if not changed and not removed:
            return None
        return Changes(changed, removed, False, assigned, self._moment)

    def settle(self, changes: Changes) -> None:
        """Note that these changes are stored (or were refused for good)."""
        if changes.moment < self._since:
            return
        if changes.cleared:
            self._stored = {}
        self._stored.update(changes.changed)
        for name in changes.removed:
            self._stored.pop(name, None)
        # Who assigned a value may hold it and change it after it was stored.
        self.read.update(self._written)
        # What was written while the store was at work is not stored yet.
        if self._moment == changes.moment:
            self._written = {}
            self._cleared = 0
        else:
            self._written = {name: moment for name, moment in self._written.items() if moment > changes.moment}
            if self._cleared <= changes.moment:
                self._cleared = 0

    def doubt(self, changes: Changes) -> None:
        """Note that these changes are stored or not, so that to take one back is a change too."""
        # No value's text: whatever the mapping holds then differs from it.
        self._stored |= dict.fromkeys([*changes.assigned, *changes.removed], b"?")

    # --- what the functions of the request ask of it

    def absorb(self, fields: Mapping[str, bytes]) -> dict[str, bytes]:
        """Bring in what the store holds now, beneath what is not yet stored; return both as this request sees them.

        A value whose bytes did not change stays the object that it is, so that references to it hold.
        """
        pending = self.changes() or NO_CHANGES
        if pending.cleared:
            return pending.changed
        own = pending.changed.keys() | pending.removed
        news = {name: value for name, value in fields.items() if name not in own and self._stored.get(name) != value}
        gone = self._stored.keys() - fields.keys()
        self._bring(news, gone - pending.changed.keys())
        # A change inside a value is found by comparison: keep the text from before it.
        inside = {name: self._stored[name] for name in pending.changed.keys() - pending.assigned}
        self._stored = {**fields, **inside}
        return {name: value for name, value in fields.items() if name not in pending.removed} | pending.changed

    def accept(self, changed: Mapping[str, bytes], removed: Collection[str] = ()) -> None:
        """Bring in what a function of this request has just stored; it supersedes what was not yet stored."""
        # A value that has not changed stays the object that it is.
        self._bring({name: value for name, value in changed.items() if not self._holds(name, value)}, removed)
        self._stored.update(changed)
        for name in changed:
            if self._written.pop(name, None) is not None:
                self.read.add(name)

    def restart(self, fields: Mapping[str, bytes]) -> None:
        """Become the mapping of a session with just these fields, all stored."""
        self._cleared = 0
        self._moment += 1
        self._since = self._moment
        self.accept(fields, (dict.keys(self) | self._stored.keys()) - fields.keys())

    def _bring(self, news: Mapping[str, bytes], gone: Collection[str]) -> None:
        """Hold these fields as they are stored, and no longer those that are gone."""
        dict.update(self, decode_fields(news))
        for name in gone:
            dict.pop(self, name, None)
            self._stored.pop(name, None)

    def _holds(self, name: str, value: bytes) -> bool:
        if not dict.__contains__(self, name):
            return False
        # What was never handed out cannot have changed inside.
        if not self.read_values and name not in self.read and name not in self._written:
            return self._stored.get(name) == value
        try:
            return encode_value(name, dict.__getitem__(self, name)) == value
        except SerializationError:
            # It could not be stored, and is not: what was stored supersedes it.
            return False

    # --- dict's reads

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
    __ne__ = _noticed(_Dict.__ne__)
    __hash__ = None  # type: ignore[assignment]
    keys = _noticed(_Dict.keys)
    values = _noticed(_Dict.values, shows=True)
    items = _noticed(_Dict.items, shows=True)
    copy = __copy__ = _noticed(plain, shows=True)

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

    # --- dict's writes

    def _note_write(self) -> None:
        self.accessed = True
        self._moment += 1
        if self.is_left:
            self._say_lost()

    def __setitem__(self, key: str, value: Any) -> None:
        dict.__setitem__(self, key, value)
        self._note_write()
        self._written[key] = self._moment

    def __delitem__(self, key: str) -> None:
        # A KeyError tells that the key is absent: that is a read.
        self.accessed = True
        self.read.add(key)
        super().__delitem__(key)
        self._note_write()
        self._written[key] = self._moment

    def clear(self) -> None:
        """Drop every field, seen or not.

        Left empty at the commit the session is destroyed; written to again it is founded anew, under a new cookie.
        """
        self._note_write()
        self._cleared = self._moment
        # The keys are dropped unseen, so the result depends on which there are.
        self.read_names = True
        super().clear()

    def update(self, *args: Any, **kwargs: Any) -> None:
        """Set many keys, as `dict.update` does."""
        news = dict(*args, **kwargs)
        dict.update(self, news)
        self._note_write()
        self._written.update(dict.fromkeys(news, self._moment))

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

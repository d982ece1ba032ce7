"""The request's mapping: a dict that records what is read of it and what is done to it."""

import logging
from collections.abc import Collection, Iterable, Mapping
from typing import Any, Final, Protocol

import msgspec

from server_session._codec import decode_fields, encode_fields, encode_value
from server_session._record import is_same, user_fields
from server_session.exceptions import SerializationError, SessionNotLoadedError
from server_session.kernel.observed import ObservedDict

__all__ = ["Changes", "Session"]

_LOG: Final = logging.getLogger("server_session")


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


_NO_CHANGES: Final = Changes({}, (), False, (), 0)


class _Stored(Protocol):
    """The stored session that a mapping is of."""

    is_left: bool

    async def commit(self) -> bool: ...

    async def is_alive(self) -> bool: ...


class Session(ObservedDict):
    """The session of one request: a whole `dict` that records every kind of write.

    Only the fields that were changed or removed are stored, at the commit; a change inside a value
    (`session["cart"].append(…)`) counts.
    """

    _moment = 0
    _cleared = False

    def __init__(self, fields: Mapping[str, bytes] | None = None, stored: _Stored | None = None) -> None:
        # What the store holds of the user's fields, as this mapping last heard.
        self._stored = user_fields(fields) if fields else {}
        super().__init__(decode_fields(self._stored) if fields else ())
        self.read = set()
        self._of = stored
        self._is_left = stored is not None and stored.is_left
        # By name, the moment of its last assignment.
        self._assigned: dict[str, int] = {}
        self._removed: set[str] = set()

    # --- what a request does to its session

    async def save(self) -> bool:
        """Store what has changed, now; return False if the session ended meanwhile.

        Without it the mapping is stored before the response starts and again when the application returns.
        Raises `StoreError`, `SerializationError`, and `ResponseStartedError` where a new cookie comes too late.
        """
        if self._of is None:
            raise SessionNotLoadedError("this session belongs to no request: there is nowhere to save it")
        return await self._of.commit()

    async def is_alive(self) -> bool:
        """Ask the store whether the session still lives: not destroyed, not renewed elsewhere, not expired.

        For whoever holds it long: a WebSocket, a stream. The question does not restart the idle clock.
        """
        return self._of is not None and await self._of.is_alive()

    def leave(self, *, is_answered: bool) -> None:
        """Note that the request is over; without an answer nobody has looked what there is to store."""
        self._is_left = True
        try:
            is_written = self._assigned or self._removed or self._cleared
            is_stored = not is_written and (is_answered or self.changes() is None)
        except SerializationError:
            is_stored = False
        if not is_stored:
            self._say_lost()

    def _say_lost(self) -> None:
        self._is_left = False
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
        if self._assigned or self._removed or self._cleared:
            return True
        stored = self._stored
        for name in stored if self.read_values else self.read:  # noqa: SIM110 - each request comes by here
            if name in stored and stored[name][0] in b"[{":
                return True
        return False

    def changes(self) -> Changes | None:
        """Return what is not yet stored, or `None`.

        Raises `SerializationError` for a value that would not come out as it went in.
        """
        if not self.accessed:
            return None
        if self._cleared:
            return Changes(encode_fields(self.plain()), (), True, frozenset(dict.keys(self)), self._moment)
        stored, assigned = self._stored, self._assigned
        changed: dict[str, bytes] = {}
        if assigned:
            for name, value in encode_fields(
                {name: value for name, value in dict.items(self) if name in assigned}
            ).items():
                # To assign what is stored already is no assignment; what then changes inside it is a change inside.
                if name in stored and stored[name] == value:
                    del assigned[name]
                else:
                    changed[name] = value
        for name in stored if self.read_values else self.read:
            # Only a container can have changed inside, and only JSON's containers are stored as one.
            if name in stored and stored[name][0] in b"[{" and name not in assigned and name not in self._removed:
                value = encode_value(name, dict.__getitem__(self, name))
                if value != stored[name] and not is_same(name, stored[name], value):
                    changed[name] = value
        if not changed and not self._removed:
            return None
        return Changes(changed, {*self._removed}, False, {*assigned}, self._moment)

    def settle(self, changes: Changes) -> None:
        """Note that these changes are stored (or were refused for good)."""
        if changes.cleared:
            self._cleared = False
            self._stored = {}
        self._stored.update(changes.changed)
        for name in changes.removed:
            self._stored.pop(name, None)
        # What was written while the store was at work is not stored yet.
        if self._moment == changes.moment:
            self._assigned.clear()
            if self._removed:
                self._removed.clear()
        else:
            self._assigned = {name: moment for name, moment in self._assigned.items() if moment > changes.moment}
            self._removed = self._stored.keys() - dict.keys(self)

    # --- what the functions of the request ask of it

    def absorb(self, fields: Mapping[str, bytes]) -> dict[str, bytes]:
        """Bring in what the store holds now, beneath what is not yet stored; return both as this request sees them.

        A value whose bytes did not change stays the object that it is, so that references to it hold.
        """
        pending = self.changes() or _NO_CHANGES
        if pending.cleared:
            return pending.changed
        own = pending.changed.keys() | pending.removed
        news = {name: value for name, value in fields.items() if name not in own and self._stored.get(name) != value}
        gone = self._stored.keys() - fields.keys()
        self._bring(news, gone - own)
        self._stored = dict(fields)
        self._removed -= gone
        return {name: value for name, value in fields.items() if name not in pending.removed} | pending.changed

    def accept(self, changed: Mapping[str, bytes], removed: Iterable[str] = ()) -> None:
        """Bring in what a function of this request has just stored; it supersedes what was not yet stored."""
        # A value that has not changed stays the object that it is.
        self._bring({name: value for name, value in changed.items() if not self._holds(name, value)}, removed)
        self._stored.update(changed)
        for name in changed:
            self._assigned.pop(name, None)

    def restart(self, fields: Mapping[str, bytes]) -> None:
        """Become the mapping of a session with just these fields, all stored."""
        dict.clear(self)
        dict.update(self, decode_fields(fields))
        self._stored = dict(fields)
        self._assigned.clear()
        self._removed.clear()
        self._cleared = False

    def _bring(self, news: Mapping[str, bytes], gone: Iterable[str]) -> None:
        """Hold these fields as they are stored, and no longer those that are gone."""
        dict.update(self, decode_fields(news))
        for name in gone:
            dict.pop(self, name, None)
            self._stored.pop(name, None)
        for name in (*news, *gone):
            self._assigned.pop(name, None)
            self._removed.discard(name)

    def _holds(self, name: str, value: bytes) -> bool:
        if not dict.__contains__(self, name):
            return False
        # What was never handed out cannot have changed inside.
        if not self.read_values and name not in self.read:
            return self._stored.get(name) == value
        return encode_value(name, dict.__getitem__(self, name)) == value

    # --- dict's writes

    def _note_write(self) -> None:
        self.accessed = True
        self._moment += 1
        if self._is_left:
            self._say_lost()

    def __setitem__(self, key: str, value: Any) -> None:
        dict.__setitem__(self, key, value)
        self._note_write()
        # Who assigned the value may hold it and change it after it was stored.
        self.read.add(key)
        self._assigned[key] = self._moment
        if self._removed:
            self._removed.discard(key)

    def __delitem__(self, key: str) -> None:
        # To hear that there is none is to have read.
        self.accessed = True
        super().__delitem__(key)
        self._note_write()
        self._assigned.pop(key, None)
        if key in self._stored:
            self._removed.add(key)

    def clear(self) -> None:
        """Drop every field, seen or not.

        Left empty at the commit the session is destroyed; written to again it is founded anew, under a new cookie.
        """
        self._note_write()
        self._cleared = True
        self._assigned.clear()
        self._removed.clear()
        super().clear()

    def update(self, *args: Any, **kwargs: Any) -> None:
        """Set many keys, as `dict.update` does."""
        news = dict(*args, **kwargs)
        dict.update(self, news)
        self._note_write()
        self.read.update(news)
        self._assigned.update(dict.fromkeys(news, self._moment))
        if self._removed:
            self._removed.difference_update(news)

"""The request's mapping beside the store: how it is loaded, brought up to date, and committed.

The third of the five layers of a `StoredSession`.
"""

from collections.abc import Collection, Mapping
from typing import Any

from server_session._codec import decode_value
from server_session._record import AUTHENTICATED, user_fields
from server_session.kernel.mapping import Changes, Session
from server_session.kernel.states import NONE, REFUSED
from server_session.kernel.writing import Writing
from server_session.stores._base import Fields

__all__ = ["Mapped"]


class Mapped(Writing):
    """The mapping of one request's session.

    `owes_session` says that the commit has to found a session where there is none, for a token was given of it, and
    `is_left` that the request is over: no commit will come.
    """

    owes_session = is_left = False

    async def load(self) -> Session:
        """Load the request's mapping, once."""
        if self.session is None:
            fields = await self._look()
            if self.session is None:
                self.session = Session(fields, self)
        return self.session

    def mapping(self, fields: Fields | None = None) -> Session:
        """Return the mapping; where none was loaded one of these fields, or an empty one, without asking the store."""
        if self.session is None:
            self.session = Session(fields, self)
        return self.session

    def abandon(self) -> None:
        """Give up what the mapping has not stored."""
        self.accessed |= self.session is not None and self.session.accessed
        self.session = None
        self.owes_session = False

    async def commit(self, known: Changes | None = None) -> bool:
        """Store what the mapping has not stored yet, and the session that a token was promised of.

        `known` is what the mapping has just said that it is.
        """
        session = self.session
        changes = known or (None if session is None else session.changes())
        if self.was_interrupted:
            await self._recover()
        applied = True
        if session is not None and changes is not None:
            applied = await self._commit(changes)
            session.settle(changes)
        if self.owes_session:
            self.owes_session = False
            if self.state is NONE or self.state is REFUSED:
                await self._found({})
        return applied

    async def _commit(self, changes: Changes) -> bool:
        changed, assigned = changes.changed, changes.assigned
        if changes.cleared:
            if changed:
                return await self._found_anew(changed, keep_mapping=True)
            await self.destroy()
            return True
        if self._policy.renew_on.isdisjoint(assigned):
            return await self._merge(changed, changes.removed, assigned)
        own = {AUTHENTICATED: self._now()} if self._policy.is_log_in(changed, assigned) else {}
        if self._changes_cookie(changes):
            return await self._renew(changed, changes.removed, own)
        return await self._merge({**changed, **own}, changes.removed, assigned)

    def _logs_in(self) -> bool:
        """Tell whether the mapping holds a log-in that is not stored yet, with which the cookie changes."""
        changes = None if self.session is None else self.session.changes()
        return changes is not None and self._changes_cookie(changes)

    def _changes_cookie(self, changes: Changes) -> bool:
        # A key that means log-in was set: whoever planted the cookie before it must not share what follows.
        return changes.cleared or (not self._policy.renew_on.isdisjoint(changes.assigned) and not self._is_unheard)

    def seen_value(self, name: str) -> Any:
        """Return a field's value as this request last saw or wrote the record; `None` where it did not."""
        seen = self._seen
        return None if seen is None or name not in seen else decode_value(name, seen[name])

    def _accept(self, changed: Mapping[str, bytes], removed: Collection[str] = ()) -> bool:
        """Bring what a function has just stored into the mapping."""
        if self.session is not None:
            self.session.accept(changed, removed)
        return True

    def _seen_by_request(self, fields: Fields | None) -> Fields:
        """Return the user's fields of a record as this request sees them, and bring them into the mapping."""
        stored = user_fields(fields or {})
        return stored if self.session is None else self.session.absorb(stored)

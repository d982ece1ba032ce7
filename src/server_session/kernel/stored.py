"""The session of one request, as the store has it: its mapping, what the functions do with it, the tokens of its forms.

The uppermost of three layers. Beneath it are how a session is founded, written to and ended (`writing`), and what is
known of it (`presence`).
"""

from collections.abc import Callable, Collection, Coroutine, Mapping
from typing import Any, Final

from server_session import _record as record
from server_session._base64url import base64url
from server_session._codec import decode_fields, decode_value, encode_fields, encode_value, is_key
from server_session._record import AS_CONFIGURED, AUTHENTICATED, OUTSTANDING, STAMP, Life, user_fields
from server_session._tokens import Token, TokenState, issue_token, junk_token, read_token
from server_session.exceptions import ColourError, NotFreshError
from server_session.kernel.mapping import NO_CHANGES, Changes, Session
from server_session.kernel.states import LIVE, NONE, OVER, REFUSED, UNASKED
from server_session.kernel.writing import Draft, Writing
from server_session.stores._base import Fields
from server_session.stores._packed import step_back

__all__ = ["StoredSession"]

_OUTSTANDING_AT_MOST: Final = 64
# What names a nonce among 64 of one session; its tag is what proves it.
_NAME_BYTES: Final = 9


class StoredSession(Writing):
    """One request's dealings with its session. What writes returns False if the session ended meanwhile.

    `owes_session` says that the commit has to found a session where there is none, for a token was given of it,
    `is_left` that the request is over, so that no commit will come, and `token_given` that the response bears a token.

    Args:
        policy: the settings that its life depends on.
        presented: the credentials that the request brought.
        response: whether a cookie can reach the browser.
        request: where another library's cookies are looked for.
        is_withheld: tells whether the browser may have a session's cookie that it did not send with this request.

    """

    owes_session = is_left = token_given = _is_committing = False
    # The token that has let this request pass.
    _passed: str | None = None

    # --- the mapping

    async def load(self) -> Session:
        """Load the request's mapping, once."""
        return self.mapping(await self._look() if self.session is None else None)

    def mapping(self, fields: Fields | None = None) -> Session:
        """Return the mapping, without asking the store: if there is none yet, one of these fields, or an empty one."""
        if self.session is None:
            self.session = Session(fields, self)
        return self.session

    def abandon(self) -> None:
        """Give up what the mapping has not stored; what is written to it from now on is logged as lost."""
        if self.session is not None:
            self.accessed |= self.session.accessed
            self.session.is_left = True
        self.session = None
        self.owes_session = False

    async def commit(self, known: Changes | None = None) -> bool:
        """Store what the mapping has not stored yet, and the session that a token was promised of.

        `known` are the mapping's changes, where the caller has just asked for them.
        """
        waits = 0
        # One after the other: of two at once nobody would know which the store makes last, and whose write is undone.
        while self._is_committing:
            known = None
            await step_back(waits)
            waits += 1
        session = self.session
        changes = known or (None if session is None else session.changes())
        self._is_committing = True
        try:
            if self.was_interrupted:
                await self._recover()
            applied = True
            if session is not None and changes is not None:
                try:
                    applied = await self._commit(changes)
                except BaseException:
                    session.doubt(changes)
                    raise
                session.settle(changes)
            if self.owes_session:
                if self.state is NONE or self.state is REFUSED:
                    await self._found({})
                self.owes_session = False
        finally:
            self._is_committing = False
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
        if self._policy.is_log_in(changed, assigned):
            changed = {**changed, AUTHENTICATED: self._now()}
        if self._changes_cookie(changes):
            return await self._renew(changed, changes.removed)
        return await self._merge(changed, changes.removed, assigned)

    def _changes_cookie(self, changes: Changes) -> bool:
        # A key that means log-in was set: whoever planted the cookie before it must not share what follows.
        return changes.cleared or (not self._policy.renew_on.isdisjoint(changes.assigned) and not self._is_unsent)

    def _logs_in(self) -> bool:
        """Tell whether the mapping holds a log-in that is not stored yet, with which the cookie changes."""
        changes = None if self.session is None else self.session.changes()
        return changes is not None and self._changes_cookie(changes)

    def _accept(self, changed: Mapping[str, bytes], removed: Collection[str] = ()) -> bool:
        """Bring what a function has just stored into the mapping."""
        if self.session is not None:
            self.session.accept(changed, removed)
        return True

    def _seen_by_request(self, fields: Fields | None) -> Fields:
        """Return the user's fields of a record as this request sees them, and bring them into the mapping."""
        stored = user_fields(fields or {})
        return stored if self.session is None else self.session.absorb(stored)

    # --- reads

    def seen_value(self, name: str) -> Any:
        """Return a field's value as this request last saw or wrote the record; `None` where it did not."""
        seen = self._seen
        return None if seen is None or name not in seen else decode_value(name, seen[name])

    async def get(self, *, touch: bool = True) -> dict[str, Any]:
        """Return the session's data as this request sees it; without `touch` the idle clock goes on."""
        self.accessed = True
        return decode_fields(self._seen_by_request(await self._look(touch=touch)))

    async def require_fresh(self, seconds: float) -> None:
        """Raise `NotFreshError` unless the user proved who they are within so many seconds."""
        self.accessed = True
        fields = await self._look()
        if fields is None or AUTHENTICATED not in fields:
            raise NotFreshError(
                f"nobody has logged in with this session{'' if fields else ', for there is none'}: let the user log "
                "in, and call log_in (or, where the user has given the password again, "
                "renew_session with authenticated=True)"
            )
        age = self._policy.now() - record.time_of(fields, AUTHENTICATED)
        if age > seconds:
            raise NotFreshError(
                f"the user logged in {age:.0f} seconds ago, and what is asked for allows {seconds:g}: ask for the "
                "password again, and then call renew_session with authenticated=True, or log_in"
            )

    # --- writes

    async def merge(self, data: Mapping[str, object]) -> bool:
        """Write some fields."""
        self.accessed = True
        changed = encode_fields(data)
        return await self._merge(changed) and self._accept(changed)

    async def replace(self, data: Mapping[str, object], owner: str | None = None, *, in_place: bool = False) -> bool:
        """Write all fields anew; except in place, in a session founded anew."""
        self.accessed = True
        changed = encode_fields(data)
        if not in_place:
            return await self._found_anew(changed, owner)

        def decide(fields: Fields | None) -> Draft:
            known = fields or {}
            # The stamp: no field may have come meanwhile that would outlive the replacement.
            return Draft(changed, user_fields(known).keys() - changed.keys(), {STAMP: known.get(STAMP)})

        if not await self._write_if_still_so("replace_session_data(in_place=True)", decide):
            return False
        if self.session is not None:
            self.session.restart(changed)
        return True

    async def update(self, change: Callable[[dict[str, Any]], object]) -> bool:
        """Change the data by a function of the data, if what the function read is still so; else again."""
        self.accessed = True
        changed: Mapping[str, bytes] = {}
        removed: Collection[str] = ()

        def decide(fields: Fields | None) -> Draft | None:
            nonlocal changed, removed
            seen = self._seen_by_request(fields)
            data = Session(seen)
            if (returned := change(data)) is not None:
                if isinstance(returned, Coroutine):
                    returned.close()
                raise TypeError(
                    "the change given to update_session_data must be a plain def (not async) that alters the dict that "
                    "it is given and returns None; what it returns would be lost"
                )
            changes = data.changes() or NO_CHANGES
            changed = changes.changed
            removed = seen.keys() - changed.keys() if changes.cleared else changes.removed
            # What is removed where there is no session was never stored.
            if not changed and (fields is None or not removed):
                return None
            stored = fields or {}
            expect: dict[str, bytes | None] = {name: stored.get(name) for name in data.read if is_key(name)}
            if data.read_names:
                expect[STAMP] = stored.get(STAMP)
            return Draft(changed, removed, expect, changes.assigned)

        return await self._write_if_still_so("update_session_data", decide) and self._accept(changed, removed)

    async def pluck(self, name: str) -> Any:
        """Remove one field and return its value, or `None`; of several callers exactly one gets it."""
        self.accessed = True
        value: bytes | None = None

        def decide(fields: Fields | None) -> Draft | None:
            nonlocal value
            value = self._seen_by_request(fields).get(name)
            if value is None or fields is None or name not in fields:
                return None
            return Draft({}, {name}, {name: fields[name]})

        if not await self._write_if_still_so("pluck_session_property", decide) or value is None:
            return None
        self._accept({}, {name})
        return decode_value(name, value)

    async def renew(
        self, data: Mapping[str, object] | None = None, life: Life = AS_CONFIGURED, *, authenticated: bool = False
    ) -> bool:
        """Give the session a new cookie, and write some fields in the same step.

        `life` is what is asked of its life from now on; `authenticated` says that the user has just proved who they
        are.
        """
        self.accessed = True
        changed = encode_fields(data or {})
        own = {AUTHENTICATED: self._now()} if authenticated else {}
        return await self._renew({**changed, **own}, (), life, data is not None) and self._accept(changed)

    # --- tokens of forms

    def csrf_token_now(self, scope: str) -> str:
        """Return a fresh token without asking the store; where there is no session, one that the commit founds.

        Raises `ColourError` where the store has to be asked: the session was not looked up yet, a log-in is not yet
        stored, or tokens pass once and each is noted.
        """
        if self.state is UNASKED or self._policy.single_use or self._logs_in():
            raise ColourError(
                "this CSRF token cannot be had without asking the store: `await get_csrf_token(request)` where the "
                "page is made, and give it to the template"
            )
        self.accessed = self.token_given = True
        if self.state is OVER:
            return junk_token()
        credential = self._credential if self.state is LIVE else None
        if credential is None:
            credential = self._to_found()
            self.owes_session = True
        return issue_token(credential, scope, self._policy.now())

    async def csrf_token(self, scope: str) -> str:
        """Return a fresh token; found a session if there is none."""
        self.accessed = self.token_given = True
        # A log-in that the mapping holds kills the tokens of before: it comes first, or the page gets a dead one.
        if self._logs_in():
            await self.commit()
        await self._look()
        if self.state is NONE or self.state is REFUSED:
            await self._found({})
        if (credential := self.credential) is not None:
            text = issue_token(credential, scope, self._policy.now())
            if not self._policy.single_use or await self._register(text):
                return text
        # No session to bind it to: a token all the same, for the page to render, which will not validate.
        return junk_token()

    async def has_csrf_token(self, given: object, scope: str) -> bool:
        """Tell whether this token was issued to the session, and the session lives; one that passes once is used."""
        return isinstance(given, str) and await self._token_state(given, (scope,)) is TokenState.VALID

    async def admit(self, text: str | None, scopes: Collection[str]) -> TokenState:
        """Say what is known of the token that came with the request; one that passes once is used by this.

        A token of any of these `scopes` is good.
        """
        state = TokenState.MISSING if not text else await self._token_state(text, scopes, load_mapping=True)
        if state is TokenState.VALID:
            self._passed = text
        return state

    async def _token_state(self, text: str, scopes: Collection[str], *, load_mapping: bool = False) -> TokenState:
        self.accessed = True
        token = read_token(text)
        if token is None:
            return TokenState.INVALID
        if self._is_ambiguous:
            await self._choose()
        credential = self.credential
        # The tag first: what does not verify costs a call to the store only to say why.
        if credential is None or not any(token.is_of(credential, scope) for scope in scopes):
            # A session's token, where an endpoint asks for its own, is not stale: no fresh one would pass either.
            if credential is not None and token.is_of(credential, ""):
                return TokenState.INVALID
            fields = await self._look(touch=False)
            is_late = fields is None or token.time <= record.secret_since(fields)
            return TokenState.STALE if is_late else TokenState.INVALID
        fields = await self._look()
        if fields is None or self._credential is not credential:
            return TokenState.STALE
        if load_mapping:
            self.mapping(fields)
        age = self._policy.token_age
        if age is not None and self._policy.now() - token.time > age:
            return TokenState.STALE
        # What has let this very request pass is good throughout the request.
        if self._policy.single_use and text != self._passed and not await self._use(token, fields):
            return TokenState.USED
        return TokenState.VALID

    # Tokens that pass once are listed in the record when they are given out, and leave the list when they are used.

    async def _register(self, text: str) -> bool:
        """List a token that passes once; return False if the session ended meanwhile."""
        token = read_token(text)
        assert token is not None  # noqa: S101 - it was issued here
        name = _name(token.nonce)

        def add(fields: Fields | None) -> Draft | None:
            # The oldest of 64 makes room.
            known = fields or {}
            return _draft(known, [*record.outstanding_of(known), name][-_OUTSTANDING_AT_MOST:])

        return await self._write_if_still_so("get_csrf_token", add, names={"csrf token"})

    async def _use(self, token: Token, fields: Fields) -> bool:
        """Use up a token that passes once; of several requests exactly one can."""
        name = _name(token.nonce)
        is_listed = False

        def remove(known: Fields | None) -> Draft | None:
            nonlocal is_listed
            names = [] if known is None else record.outstanding_of(known)
            is_listed = name in names
            return _draft(known or {}, [one for one in names if one != name]) if is_listed else None

        applied = await self._write_if_still_so("validate_csrf_token", remove, fields=fields, names={"csrf token"})
        return applied and is_listed


def _draft(fields: Fields, names: list[str]) -> Draft:
    return Draft({OUTSTANDING: encode_value("csrf token", names)}, (), {OUTSTANDING: fields.get(OUTSTANDING)})


def _name(nonce: bytes) -> str:
    return base64url(nonce[-_NAME_BYTES:]).decode("ascii")

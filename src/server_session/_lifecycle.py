"""The life of a session, as one request takes part in it.

Everything that moves a request from one of the five states to another is in this file.

    NONE      there is no session
    UNASKED   a cookie that was not yet looked up
    LIVE      the store holds the session, and the cookie's verifier holds
    REFUSED   the store holds a record, and the cookie's verifier does not hold
    OVER      it ended, or its cookie was swapped, within the minute; or it went after this request saw it live

    UNASKED → LIVE       a call to the store applied
    UNASKED → NONE       no record; or several cookies, of which not exactly one lives
    UNASKED → REFUSED    a record, and neither its digest nor one swapped out within the minute is ours
    UNASKED → OVER       the mark of an ended session, or a digest swapped out within the minute
    LIVE    → OVER       no record, or not as expected: it went after this request saw it live
    LIVE    → NONE       this request destroyed it, or asked for an age that it has passed
    NONE, REFUSED → LIVE by a write, which founds a session with a selector and verifier of its own
    any     → LIVE       by what founds anew: log-in, replace; renewal with data, unless seen live and now over
"""

import enum
from collections.abc import Callable, Collection, Coroutine, Iterable, Mapping
from contextlib import suppress
from types import MappingProxyType
from typing import Any, Final, NamedTuple

from server_session import _record as record
from server_session._bounds import after, excess_of, is_large, require_bounds
from server_session._codec import decode_fields, decode_value, encode_fields, encode_value, is_key
from server_session._cookies import Header, RequestFacts
from server_session._outstanding import is_noted, with_nonce, without_nonce
from server_session._policy import Policy
from server_session._record import (
    AS_CONFIGURED,
    AUTHENTICATED,
    CREATED,
    DEVICE,
    DIGEST,
    ENDED,
    FORMER,
    LIFE,
    OUTSTANDING,
    OWNER,
    STAMP,
    Life,
)
from server_session._session import Changes, Session
from server_session._tokens import Credential, Token, TokenState, issue_token, junk_token, read_token, short_digest
from server_session._tracking import ReadTracking
from server_session._tries import Tries
from server_session.exceptions import (
    CookieWithheldError,
    NoResponseError,
    NotFreshError,
    RecordError,
    ResponseStartedError,
    StoreError,
)
from server_session.stores._base import APPLIED, CONFLICT, MISSING, Expect, Fields, Outcome

__all__ = ["Answer", "CookieChange", "State", "Visit"]

_SEEN_SECONDS: Final = 60.0
_DEVICE_LENGTH: Final = 256


class State(enum.Enum):
    """What one request knows of its session."""

    NONE = "none"
    UNASKED = "unasked"
    LIVE = "live"
    REFUSED = "refused"
    OVER = "over"


class Answer(enum.Enum):
    """Whether a cookie can still reach the browser."""

    OPEN = "open"
    ABSENT = "absent"
    STARTED = "started"


class CookieChange(NamedTuple):
    """What the response must do to the cookie: set it to a credential's value, or expire it."""

    value: str | None

    def __repr__(self) -> str:
        # As a credential, it shows nothing of it.
        return "<cookie set>" if self.value else "<cookie expired>"


class Visit:
    """One request's dealings with its session: its state, its cookie, its mapping."""

    def __init__(
        self,
        policy: Policy,
        presented: Iterable[Credential],
        answer: Answer = Answer.ABSENT,
        request: RequestFacts | None = None,
    ) -> None:
        self._policy = policy
        self._request = request
        self._store = policy.store
        self._presented = list(presented)
        self._credential: Credential | None = self._presented[0] if self._presented else None
        self._state = State.UNASKED if self._presented else State.NONE
        self._seen_live = False
        # The record of the credential, as this request last saw or wrote it. Its life changes with its digest alone.
        self._seen: Fields | None = None
        self._dropped = False
        # Credentials that a call under way, or one that was cancelled, may have written to the store.
        self._founding: Credential | None = None
        self._swapping: dict[bytes, Credential] = {}
        self._interrupted = False
        self._passed: set[str] = set()
        self.is_withheld: Callable[[], bool] | None = None
        self.answer = answer
        self.session: Session | None = None
        self.cookie: CookieChange | None = None
        self.accessed = False
        self.token_given = False
        self._cookie_seconds: float | None = None
        self.cookies_added: list[Header] = []
        self.is_answered_by_caller = False

    @property
    def state(self) -> State:
        """What this request knows of its session."""
        return self._state

    @property
    def credential(self) -> Credential | None:
        """The credential of the session, or the one that is not yet looked up; `None` where there is no session."""
        return self._credential if self._state in (State.UNASKED, State.LIVE) else None

    @property
    def cookie_seconds(self) -> float | None:
        """For how many seconds the browser keeps the cookie; 0 is until it closes, `None` as the transport has it."""
        life = record.life_of(self._seen or {})
        if self._seen is None or life.persistent is None:
            return self._cookie_seconds
        idle, remaining = self._policy.lifetime_of(life, self._age(self._seen))
        # To the deadline, so that it need not be sent again while the session slides.
        return (idle if remaining is None else max(remaining, 1.0)) if life.persistent else 0.0

    @cookie_seconds.setter
    def cookie_seconds(self, seconds: float | None) -> None:
        # What a renewal asked for this very session comes before what a framework has for all.
        self._cookie_seconds = seconds

    @property
    def has_cookie(self) -> bool:
        """Whether the request brought a well-formed cookie."""
        return bool(self._presented)

    @property
    def has_several_cookies(self) -> bool:
        """Whether the request brought several different cookies of the name."""
        return len(self._presented) > 1

    # --- reads

    async def load(self) -> Session:
        """Load the request's mapping, once."""
        if self.session is None:
            fields = await self._look()
            if self.session is None:
                return self._map(fields or {})
        return self.session

    def _map(self, fields: Fields) -> Session:
        self.session = Session(record.user_fields(fields))
        self.session.bind(self.commit, self.is_alive)
        return self.session

    async def get(self) -> dict[str, Any]:
        """Return the session's data as this request sees it."""
        self.accessed = True
        fields = record.user_fields(await self._look() or {})
        return decode_fields(self._seen_by_request(fields))

    async def is_alive(self) -> bool:
        """Ask the store whether the session lives, without a touch."""
        self.accessed = True
        return await self._look(touch=False) is not None

    async def living_selector(self) -> str | None:
        """Return the selector of the session, if it lives."""
        self.accessed = True
        return None if await self._look() is None or self._credential is None else self._credential.selector

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

    # --- writes; each returns False if the session ended meanwhile

    async def merge(self, data: Mapping[str, object]) -> bool:
        """Write some fields."""
        self.accessed = True
        changed = encode_fields(data)
        if not await self._merge(changed, ()):
            return False
        if self.session is not None:
            self.session.accept(changed)
        return True

    async def replace(self, data: Mapping[str, object], owner: str | None = None, *, in_place: bool = False) -> bool:
        """Write all fields anew; except in place, in a session founded anew."""
        changed = encode_fields(data)
        if in_place:
            return await self._replace_in_place(changed)
        return await self._found_anew(changed, owner)

    async def update(self, change: Callable[[dict[str, Any]], object]) -> bool:
        """Change the data by a function of the data, if what the function read is still so; else again."""
        self.accessed = True
        tries = Tries("update_session_data")
        while True:
            fields = await self._look(to_write=True)
            if self._state is State.OVER:
                return self._drop()
            stored = fields or {}
            seen = self._seen_by_request(record.user_fields(stored))
            data = ReadTracking(decode_fields(seen))
            if (returned := change(data)) is not None:
                if isinstance(returned, Coroutine):
                    returned.close()
                raise TypeError(
                    "the change given to update_session_data must be a plain def (not async) that alters the dict that "
                    "it is given and returns None; what it returns would be lost"
                )
            changed, removed = _difference(seen, data.plain())
            if not changed and not removed:
                await self._only_read(fields)
                return True
            if fields is None:
                # What is removed here was never stored.
                if not changed or await self._found(changed):
                    break
                continue
            expect: dict[str, bytes | None] = {name: stored.get(name) for name in data.read if is_key(name)}
            if data.read_all:
                expect[STAMP] = stored.get(STAMP)
            require_bounds(self._policy, stored, changed, removed)
            if await self._write(changed, removed, expect) is APPLIED:
                break
            await tries.next(changed.keys() | removed)
        if self.session is not None:
            self.session.accept(changed, removed)
        return True

    async def pluck(self, name: str) -> Any:
        """Remove one field and return its value, or `None`; of several callers exactly one gets it."""
        self.accessed = True
        tries = Tries("pluck_session_property")
        while True:
            fields = await self._look(to_write=True)
            stored = record.user_fields(fields or {})
            seen = self._seen_by_request(stored)
            if name not in seen:
                await self._only_read(fields)
                return None
            if name not in stored or await self._write({}, {name}, {name: stored[name]}) is APPLIED:
                break
            if self._state is State.OVER:
                self._drop()
                return None
            await tries.next({name})
        if self.session is not None:
            self.session.accept({}, {name})
        return decode_value(name, seen[name])

    async def renew(
        self, data: Mapping[str, object] | None = None, life: Life = AS_CONFIGURED, *, authenticated: bool = False
    ) -> bool:
        """Give the session a new cookie, and write some fields in the same step.

        `life` is what is asked of its life from now on; `authenticated` says that the user has just proved who they
        are.
        """
        self.accessed = True
        changed = None if data is None else encode_fields(data)
        own = {AUTHENTICATED: self._now()} if authenticated else {}
        if not await self._renew(changed, (), own, life):
            return False
        if self.session is not None and changed:
            self.session.accept(changed)
        return True

    async def destroy(self) -> bool:
        """End the session; return whether there was one that this request was entitled to end."""
        self.accessed = True
        if self._interrupted:
            await self._recover()
        if self.session is not None:
            self.session.restart({})
        while (credential := await self._to_ask()) is not None:
            outcome = await self._mark(credential, {DIGEST: credential.digest()})
            if outcome is APPLIED:
                return self._ended(credential)
            if self._credential is credential:
                await self._fall(credential, outcome)
        # Who logs out while another request renews still logs out.
        credential = self._credential
        if self._state is State.OVER and credential is not None and await self._end_successor(credential):
            return self._ended(credential)
        if self._state is State.NONE and self._presented and self._credential is not None:
            self._change_cookie(CookieChange(None))
        return False

    async def commit(self) -> bool:
        """Store what the mapping has not stored yet."""
        if self._interrupted:
            await self._recover()
        session = self.session
        changes = None if session is None else session.changes()
        if session is None or changes is None:
            return True
        applied = await self._commit(changes)
        session.settle(changes)
        return applied

    async def _commit(self, changes: Changes) -> bool:
        if changes.cleared:
            if changes.changed:
                return await self._found_anew(changes.changed, keep_mapping=True)
            await self.destroy()
            return True
        changed, removed = changes.changed, changes.removed
        own: dict[str, bytes] = {}
        if self._is_log_in(changed, changes.assigned):
            own = {AUTHENTICATED: self._now()}
        elif self._policy.renew_on & (changes.assigned | removed):
            # The user was taken out: whoever comes next has proved nothing.
            removed |= {AUTHENTICATED}
        if self._changes_cookie(changes):
            return await self._renew(changed, removed, own)
        return await self._merge({**changed, **own}, removed)

    def _is_log_in(self, changed: Mapping[str, bytes], assigned: Collection[str]) -> bool:
        return any(changed.get(name, b"null") != b"null" for name in self._policy.renew_on.intersection(assigned))

    def _changes_cookie(self, changes: Changes) -> bool:
        # A key that means log-in was set: whoever planted the cookie before it must not share what follows.
        return changes.cleared or (bool(self._policy.renew_on & changes.assigned) and not self._is_unheard)

    # --- CSRF tokens

    async def csrf_token(self, scope: str) -> str:
        """Return a fresh token; found a session if there is none."""
        self.accessed = self.token_given = True
        # A log-in that the mapping holds kills the tokens of before: it comes first, or the page gets a dead one.
        if self.session is not None and (changes := self.session.changes()) and self._changes_cookie(changes):
            await self.commit()
        await self._look()
        if self._state in (State.NONE, State.REFUSED):
            await self._found({})
        if self._state is State.OVER or self._credential is None:
            # No session to bind it to: a token all the same, for the page to render, which will not validate.
            return junk_token()
        text = issue_token(self._credential, scope, self._policy.now())
        if self._policy.single_use and not await self._register(text):
            return junk_token()
        return text

    async def has_csrf_token(self, text: str, scope: str) -> bool:
        """Tell whether this token was issued to the session, and the session lives; one that passes once is used."""
        return await self._token_state(text, (scope,)) is TokenState.VALID

    async def admit(self, text: str | None, scopes: Collection[str]) -> TokenState:
        """Say what is known of the token that came with the request; one that passes once is used by this.

        `scopes` are those of which it may be any.
        """
        state = TokenState.MISSING if not text else await self._token_state(text, scopes, keep=True)
        if text and state is TokenState.VALID:
            self._passed.add(text)
        return state

    async def _token_state(self, text: str, scopes: Collection[str], *, keep: bool = False) -> TokenState:
        self.accessed = True
        token = read_token(text)
        if token is None:
            return TokenState.INVALID
        credential = await self._to_ask()
        # The tag first: what does not verify costs a call to the store only to say why.
        if credential is None or not any(token.is_of(credential, scope) for scope in scopes):
            # The session's own, where one form's is asked for, is not made good by a fresh one.
            is_wide = credential is not None and token.is_of(credential, "")
            return TokenState.INVALID if is_wide else await self._why_refused(token)
        fields = await self._look()
        if fields is None or self._credential is not credential:
            return TokenState.STALE
        if keep and self.session is None:
            self._map(fields)
        age = self._policy.token_age
        if age is not None and self._policy.now() - token.time > age:
            return TokenState.STALE
        # What has let this very request pass is good throughout the request.
        if self._policy.single_use and text not in self._passed and not await self._use(token, fields):
            return TokenState.USED
        return TokenState.VALID

    async def _why_refused(self, token: Token) -> TokenState:
        fields = await self._look(touch=False)
        if fields is None or token.time <= record.secret_since(fields):
            return TokenState.STALE
        return TokenState.INVALID

    async def _register(self, text: str) -> bool:
        """Note a token that passes once; return False if the session ended meanwhile."""
        token = read_token(text)
        assert token is not None  # noqa: S101 - it was issued here
        tries = Tries("get_csrf_token")
        while (fields := await self._look()) is not None:
            more = with_nonce(fields, token.nonce)
            if await self._write({OUTSTANDING: more}, (), {OUTSTANDING: fields.get(OUTSTANDING)}) is APPLIED:
                return True
            await tries.next({"csrf token"})
        return False

    async def _use(self, token: Token, fields: Fields) -> bool:
        """Use up a token that passes once; of several requests exactly one can."""
        tries = Tries("validate_csrf_token")
        known: Fields | None = fields
        while known is not None and is_noted(known, token.nonce):
            rest = without_nonce(known, token.nonce)
            if await self._write({OUTSTANDING: rest}, (), {OUTSTANDING: known.get(OUTSTANDING)}) is APPLIED:
                return True
            await tries.next({"csrf token"})
            known = await self._look()
        return False

    # --- the transitions

    async def _to_ask(self) -> Credential | None:
        """Return the credential to ask the store about, or `None` where nothing more can be learnt."""
        await self._settle()
        return self.credential

    @property
    def _is_unheard(self) -> bool:
        """Whether the credential is this request's own, which no browser has yet.

        To renew it again would shield nobody, and forget the digest by which late writes of before are told.
        """
        return self.answer is not Answer.STARTED and self._credential not in self._presented

    async def _look(self, *, touch: bool = True, to_write: bool = False) -> Fields | None:
        while (credential := await self._to_ask()) is not None:
            answer = await self._store.get(credential.selector, {DIGEST: credential.digest()}, touch)
            if not isinstance(answer, Outcome):
                self._is_live()
                if self._credential is credential:
                    self._seen = answer
                return await self._tell_seen(credential, answer) if touch and not to_write else answer
            if self._credential is credential:
                await self._fall(credential, answer)
        return None

    async def _only_read(self, fields: Fields | None) -> None:
        """Note that what was looked at to be written was not written: the session was seen all the same."""
        if fields is not None and self._credential is not None:
            await self._tell_seen(self._credential, fields)

    async def _tell_seen(self, credential: Credential, fields: Fields) -> Fields:
        """Renew the stamp of an owner's session after a read, once a minute: it tells when the session was seen."""
        if OWNER not in fields:
            return fields
        seen, now = record.stamped_at(fields), self._policy.now()
        if seen is not None and abs(now - seen) <= _SEEN_SECONDS:
            return fields
        stamp = {STAMP: record.fresh_stamp(now)}
        expect = {STAMP: fields.get(STAMP), DIGEST: credential.digest()}
        try:
            outcome = await self._store.merge(credential.selector, stamp, (), expect)
        except StoreError:
            # The read is what was asked for, and it was made.
            return fields
        return {**fields, **stamp} if outcome is APPLIED else fields

    async def _write(self, changed: Mapping[str, bytes], removed: Collection[str], expect: Expect) -> Outcome:
        credential = self._credential
        if credential is None:
            return MISSING
        stamped = {**changed, STAMP: record.fresh_stamp(self._policy.now())}
        if self._policy.renew_on.intersection(removed):
            # The user was taken out: whoever comes next has proved nothing.
            removed = {*removed, AUTHENTICATED}
        outcome = await self._store.merge(
            credential.selector, stamped, removed, {**expect, DIGEST: credential.digest()}
        )
        if outcome is APPLIED:
            self._is_live()
            if self._credential is credential and self._seen is not None:
                self._seen = after(self._seen, stamped, removed)
        elif outcome is MISSING and self._credential is credential:
            await self._fall(credential, outcome)
        return outcome

    async def _merge(self, changed: Mapping[str, bytes], removed: Collection[str]) -> bool:
        await self._settle()
        await self._require_room(changed, removed)
        while True:
            await self._settle()
            if self._state is State.OVER:
                return self._drop()
            if self._state in (State.NONE, State.REFUSED):
                # Nothing to write founds nothing: a visitor who stores no data has no session.
                if not changed or await self._found(changed):
                    return True
                continue
            credential = self._credential
            outcome = await self._write(changed, removed, {})
            if outcome is APPLIED:
                return True
            if credential is not None and self._credential is credential and outcome is CONFLICT:
                await self._fall(credential, outcome)

    async def _require_room(self, changed: Mapping[str, bytes], removed: Collection[str]) -> None:
        """Hold the session to its bounds, as far as it is known; before a large write it is looked at."""
        if self.credential is None:
            return
        # Of a session that was seen others may have taken out something since.
        seen, policy = self._seen, self._policy
        if is_large(policy, changed) if seen is None else excess_of(policy, seen, changed, removed):
            require_bounds(policy, await self._look(touch=False) or {}, changed, removed)

    async def _renew(
        self,
        changed: Mapping[str, bytes] | None,
        removed: Collection[str],
        own: Mapping[str, bytes] = MappingProxyType({}),
        asked: Life = AS_CONFIGURED,
    ) -> bool:
        while True:
            await self._settle()
            credential = self._credential
            # A browser that lost the answer of its first log-in comes with the cookie from before it.
            unseen = self._state is State.OVER and not self._seen_live
            if self._state in (State.NONE, State.REFUSED) or (unseen and changed is not None):
                if changed is None:
                    return False
                if await self._found(changed, own, asked):
                    return True
                continue
            if self._state is State.OVER or credential is None:
                return self._drop()
            self._require_answer()
            if (seen := self._seen) is None:
                # How long the browser keeps the new cookie, the session knows.
                await self._look(touch=False)
                continue
            await self._require_room(changed or {}, removed)
            life = record.life_of(seen).then(asked)
            # A renewal that asks for no other lifetime leaves the one that the store holds.
            asks = asked.idle is not None or asked.absolute is not None
            lifetime = self._policy.lifetime_of(life, self._age(seen)) if asks else None
            if lifetime is not None and lifetime.remaining is not None and lifetime.remaining <= 0:
                await self.destroy()
                return False
            if asked.absolute is not None and OWNER in seen:
                await self._policy.owners.outlive(record.owner_of(seen), asked.absolute)
            fresh = Credential.found(credential.selector)
            self._swapping[fresh.digest()] = fresh
            swap = {
                **(changed or {}),
                **own,
                STAMP: record.fresh_stamp(self._policy.now()),
                DIGEST: fresh.digest(),
            }
            if asked != AS_CONFIGURED:
                swap[LIFE] = life.field()
            if not self._is_unheard:
                swap[FORMER] = record.former_of(credential.digest(), self._policy.now())
            expect = {DIGEST: credential.digest()}
            try:
                outcome = await self._store.merge(credential.selector, swap, removed, expect, lifetime)
            except BaseException:
                self._interrupted = True
                raise
            self._swapping.pop(fresh.digest(), None)
            if outcome is APPLIED:
                # Another call of this request may have gone on from here: renewed again, logged in, logged out.
                if self._credential is credential:
                    self._adopt(fresh, after(seen, swap, removed))
                self._signal("renewed", fresh)
                return True
            if self._credential is credential:
                await self._fall(credential, outcome)

    async def _replace_in_place(self, changed: Mapping[str, bytes]) -> bool:
        self.accessed = True
        tries = Tries("replace_session_data(in_place=True)")
        while True:
            fields = await self._look(to_write=True)
            if self._state is State.OVER:
                return self._drop()
            if fields is None:
                if await self._found(changed):
                    break
                continue
            # The stamp: no field may have come meanwhile that would outlive the replacement.
            removed = record.user_fields(fields).keys() - changed.keys()
            require_bounds(self._policy, fields, changed, removed)
            if await self._write(changed, removed, {STAMP: fields.get(STAMP)}) is APPLIED:
                break
            await tries.next(changed.keys() | removed)
        if self.session is not None:
            self.session.restart(changed)
        return True

    async def _found(
        self,
        changed: Mapping[str, bytes],
        own: Mapping[str, bytes] = MappingProxyType({}),
        asked: Life = AS_CONFIGURED,
    ) -> bool:
        """Found a session; return False where another write of this request founded it first."""
        self._require_answer()
        self._require_own_site()
        require_bounds(self._policy, {}, changed)
        # Chosen before the first wait, so that two first writes of one request found one session.
        if self._founding is None:
            self._founding = self._fresh_credential()
        credential = self._founding
        fields = self._first_fields(
            credential, changed, own if asked == AS_CONFIGURED else {**own, LIFE: asked.field()}
        )
        try:
            outcome = await self._store.set(credential.selector, fields, self._policy.lifetime_of(asked), None)
        except StoreError:
            self._founding = None
            raise
        except BaseException:
            self._interrupted = True
            raise
        if outcome is not APPLIED and self._credential is not credential:
            await self._require_own(credential)
        if self._founding is credential:
            self._adopt(credential, fields if outcome is APPLIED else None)
            self._signal("created", credential)
        elif outcome is APPLIED and self._credential is credential:
            self._seen = self._seen or fields
        # A log-in of this request may have founded another meanwhile; what was written here belongs there.
        current = self._credential
        return outcome is APPLIED and current is not None and current.selector == credential.selector

    async def _found_anew(
        self, changed: Mapping[str, bytes], owner: str | None = None, *, keep_mapping: bool = False
    ) -> bool:
        """Found a session under a new selector, and then end the one before it.

        Return False where all sessions of the owner were ended meanwhile, this one before it lived.
        """
        self._require_answer()
        self._require_own_site()
        require_bounds(self._policy, {}, changed)
        await self._settle()
        is_bounded = owner is not None and self._policy.max_sessions is not None
        # A session makes room for the log-in that ends it, if the cookie is entitled to end it.
        makes_room = is_bounded and await self._is_entitled()
        before = None if self._state in (State.NONE, State.REFUSED) else self._credential
        credential = self._fresh_credential()
        own: dict[str, bytes] = {}
        if owner is not None or self._is_log_in(changed, changed):
            own[AUTHENTICATED] = self._now()
        if owner is not None:
            own |= {OWNER: encode_value("owner", owner), **self._device()}
            replaced = before.selector if makes_room and before is not None else None
            pause = Tries("log_in", "nobody was logged in").next
            for ended in await self._policy.owners.enter(owner, credential.selector, pause, replaced):
                self._policy.signals.send("destroyed", short_digest(ended))
        fields = self._first_fields(credential, changed, own)
        if await self._store.set(credential.selector, fields, self._policy.lifetime, None) is not APPLIED:
            if ENDED in (await self._inspect(credential) or {}):
                return self._drop()
            await self._require_own(credential)
        # In this order: who hangs up between the two leaves a spare row, not a lost log-in.
        self._adopt(credential, fields)
        self._signal("created", credential)
        if self.session is not None and not keep_mapping:
            self.session.restart(changed)
        # One that cannot be read is nobody's session, and stands in no log-in's way.
        with suppress(RecordError):
            if before is not None and await self._end(before):
                self._signal("destroyed", before)
        return True

    async def _is_entitled(self) -> bool:
        """Tell whether the cookie of this request may end the session that it names."""
        if await self._look(touch=False) is not None:
            return True
        credential = self._credential
        fields = None if credential is None else await self._inspect(credential)
        return credential is not None and fields is not None and self._is_former(credential, fields)

    async def _end(self, credential: Credential) -> bool:
        outcome = await self._mark(credential, {DIGEST: credential.digest()})
        return outcome is APPLIED or (outcome is CONFLICT and await self._end_successor(credential))

    async def _end_successor(self, credential: Credential) -> bool:
        """End the session whose cookie was swapped out from under this one within the minute."""
        fields = await self._inspect(credential)
        if fields is None or not self._is_former(credential, fields):
            return False
        expect = {DIGEST: fields[DIGEST], FORMER: fields[FORMER]}
        return await self._mark(credential, expect) is APPLIED

    async def _mark(self, credential: Credential, expect: Expect) -> Outcome:
        mark = record.mark_of(self._policy.now())
        return await self._store.set(credential.selector, mark, record.MARK_LIFETIME, expect)

    async def _fall(self, credential: Credential, outcome: Outcome) -> None:
        """Find out what it means that the session is not as expected."""
        was_live = self._state is State.LIVE
        fields = None if outcome is MISSING else await self._inspect(credential)
        if self._credential is not credential:
            return
        if fields is not None and fields.get(DIGEST) in self._swapping:
            # A renewal of this very request, applied and not yet heard of.
            self._adopt(self._swapping[fields[DIGEST]], fields)
        elif fields is not None and fields.get(DIGEST) == credential.digest():
            raise StoreError("the store said CONFLICT to an expectation that its record meets")
        elif was_live or (fields is not None and self._ended_lately(credential, fields)):
            self._state = State.OVER
            self._seen = None
            if fields is None:
                self._signal("expired", credential)
        elif fields is None:
            self._state = State.NONE
            self._signal("unknown", credential)
        else:
            self._state = State.REFUSED
            self._signal("refused", credential)

    async def _inspect(self, credential: Credential) -> Fields | None:
        """Look at a record that is not as expected, without a touch."""
        answer = await self._store.get(credential.selector, {}, False)
        return None if isinstance(answer, Outcome) else answer

    def _is_former(self, credential: Credential, fields: Fields) -> bool:
        return DIGEST in fields and record.was_former(fields, credential.digest(), self._policy.now())

    def _ended_lately(self, credential: Credential, fields: Fields) -> bool:
        return ENDED in fields or self._is_former(credential, fields)

    async def _settle(self) -> None:
        """Choose among several cookies of the name: the one that lives, if exactly one does."""
        if self._state is not State.UNASKED or not self.has_several_cookies or self._seen_live:
            return
        self._signal("several_cookies", self._presented[0])
        living = []
        over = None
        for credential in self._presented:
            answer = await self._store.get(credential.selector, {DIGEST: credential.digest()}, False)
            if not isinstance(answer, Outcome):
                living.append(credential)
            elif answer is CONFLICT:
                fields = await self._inspect(credential)
                if fields is not None and self._ended_lately(credential, fields):
                    over = credential
        if self._state is not State.UNASKED or self._seen_live:
            return
        if len(living) == 1:
            self._credential = living[0]
            self._is_live()
        elif not living and over is not None:
            self._credential = over
            self._state = State.OVER
        else:
            self._state = State.NONE

    async def _recover(self) -> None:
        """Learn what a cancelled call of this request did, so that the browser gets the cookie that holds."""
        founding, self._founding = self._founding, None
        if founding is not None and self._credential is not founding:
            answer = await self._store.get(founding.selector, {DIGEST: founding.digest()}, False)
            if not isinstance(answer, Outcome):
                self._adopt(founding, answer)
        if self._swapping:
            await self._look(touch=False)
        self._swapping.clear()
        self._interrupted = False

    async def _require_own(self, credential: Credential) -> None:
        answer = await self._store.get(credential.selector, {DIGEST: credential.digest()}, False)
        if isinstance(answer, Outcome):
            raise StoreError("the store's id() returned a key that is in use: it must return fresh random ones")

    def _is_live(self) -> None:
        if self._state is State.UNASKED:
            self._state = State.LIVE
        self._seen_live = True

    def _adopt(self, credential: Credential, fields: Fields | None) -> None:
        self._swapping.pop(credential.digest(), None)
        self._founding = None
        self._credential = credential
        self._seen = fields
        self._state = State.LIVE
        self._seen_live = True
        self._dropped = False
        self._change_cookie(CookieChange(credential.value))

    def _ended(self, credential: Credential) -> bool:
        if self._credential is credential:
            self._state = State.NONE
            self._credential = None
            self._seen = None
            self._change_cookie(CookieChange(None))
        self._signal("destroyed", credential)
        return True

    def _drop(self) -> bool:
        if not self._dropped and self._credential is not None:
            self._dropped = True
            self._signal("write_dropped", self._credential)
        return False

    def send_cookie_again(self, seconds: float | None) -> None:
        """Set the cookie that the browser has once more, if it is known to hold, for this many seconds.

        0 is until the browser closes, `None` as the transport has it.
        """
        self.cookie_seconds = seconds
        # One of several stays as it is, for what is set goes to one place and there may be two.
        if self.cookie is None and self._state is State.LIVE and self._credential and not self.has_several_cookies:
            self._change_cookie(CookieChange(self._credential.value))

    def _change_cookie(self, change: CookieChange) -> None:
        self.accessed = True
        self.cookie = change

    def _require_answer(self) -> None:
        if self.answer is Answer.STARTED:
            raise ResponseStartedError(
                "this write needs a new cookie, and the response has started: write before the first byte is sent "
                "(in a WebSocket: before accept)"
            )
        if self.answer is Answer.ABSENT:
            raise NoResponseError(
                "this write needs a cookie, and there is no response to set it on: "
                "pass the response after the request, or let the application serve sessions "
                "(SessionMiddleware; in Flask ServerSession(app); in Django its line in MIDDLEWARE)"
            )

    def _require_own_site(self) -> None:
        # The browser may hold the cookie of a log-in, which a session founded now would push out.
        if self.is_withheld is not None and self.is_withheld():
            raise CookieWithheldError(
                "another site sent this request, so the browser withheld the session's cookie; a session founded now "
                "would replace the log-in that it may have. Answer with a redirect (303) to a GET of your own, and "
                "write there"
            )

    def _fresh_credential(self) -> Credential:
        try:
            return Credential.found(self._store.id())
        except ValueError as error:
            raise StoreError(str(error)) from None

    def _first_fields(
        self, credential: Credential, changed: Mapping[str, bytes], own: Mapping[str, bytes]
    ) -> dict[str, bytes]:
        return {
            **changed,
            **own,
            DIGEST: credential.digest(),
            CREATED: self._now(),
            STAMP: record.fresh_stamp(self._policy.now()),
        }

    def _device(self) -> dict[str, bytes]:
        if self._request is None or not self._policy.device_details:
            return {}
        agents = self._request.header_values(b"user-agent")
        agent = agents[0].decode("utf-8", "replace")[:_DEVICE_LENGTH] if agents else None
        address = (self._request.client_address or "")[:_DEVICE_LENGTH] or None
        return {DEVICE: encode_value("device", [agent, address])}

    def _now(self) -> bytes:
        return record.number(self._policy.now())

    def _age(self, fields: Fields) -> float:
        created = record.time_of(fields, CREATED)
        # It was rounded, and a clock may be set back: no deadline comes to lie further off by that.
        return max(0.0, self._policy.now() - created)

    def _seen_by_request(self, fields: dict[str, bytes]) -> dict[str, bytes]:
        if self.session is None:
            return fields
        self.session.absorb(fields)
        return self.session.overlay(fields)

    def _signal(self, event: Any, credential: Credential) -> None:
        self._policy.signals.send(event, short_digest(credential.selector))


def _difference(before: Mapping[str, bytes], after: Mapping[str, Any]) -> tuple[dict[str, bytes], set[str]]:
    encoded = encode_fields(after)
    changed = {name: value for name, value in encoded.items() if not record.is_same(name, before.get(name), value)}
    return changed, set(before.keys() - after.keys())

"""How a request founds its session, writes to it, swaps its cookie, and ends it.

The second of the three layers of a `StoredSession`. Each is one conditional call; to end is to leave a mark.
"""

from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from typing import Final, NamedTuple

from server_session import _record as record
from server_session._codec import encode_value
from server_session._owners import OwnerIndex
from server_session._record import AS_CONFIGURED, AUTHENTICATED, DIGEST, FORMER, OWNER, STAMP, Life
from server_session._tokens import Credential
from server_session._tries import Tries
from server_session.exceptions import CookieWithheldError, RecordError, StoreError
from server_session.kernel.presence import Presence, ResponseState
from server_session.kernel.states import NONE, OVER, REFUSED, UNASKED, Finding
from server_session.stores._base import APPLIED, CONFLICT, MISSING, Expect, Fields, Lifetime, Outcome

__all__ = ["Draft", "Writing"]

_NULL: Final = b"null"


class Draft(NamedTuple):
    """A write that is to be made only if the record is as expected."""

    changed: Mapping[str, bytes]
    removed: Collection[str]
    expect: Expect
    assigned: Collection[str] | None = None
    """Those of the changed whose value is another one, and not the old one changed inside; `None` for all."""


class Writing(Presence):
    """What one request does to its session; each write returns False if the session ended meanwhile."""

    # --- founding

    async def _found(self, changed: Mapping[str, bytes], asked: Life = AS_CONFIGURED) -> bool:
        """Found a session; return False where another write of this request founded it first."""
        # Chosen before the first wait, so that two first writes of one request found one session.
        credential = self._to_found()
        self._policy.require_bounds({}, changed)
        try:
            fields = await self._set_first(credential, changed, asked)
        except StoreError:
            self._founding = None
            raise
        except BaseException:
            self.was_interrupted = True
            raise
        if fields is None and self._founding is credential:
            await self._find_own(credential)
        if self._founding is credential:
            self._go_on_with(credential, fields, Finding.FOUNDED)
        elif fields is not None and self._credential is credential:
            self._seen = self._seen or fields
        # A log-in of this request may have founded another meanwhile; what was written here belongs there.
        current = self._credential
        return fields is not None and current is not None and current.selector == credential.selector

    def _to_found(self) -> Credential:
        """Return the credential under which this request founds a session, the same one until it is founded."""
        self.require_new_cookie()
        if self._founding is None:
            self._founding = Credential.found(self._store.id())
        return self._founding

    async def _found_anew(
        self, changed: Mapping[str, bytes], owner: str | None = None, *, keep_mapping: bool = False
    ) -> bool:
        """Found a session under a new selector, and then end the one before it.

        Return False where it was ended before it lived: with all of its owner's, or for a log-in that took its place.
        """
        self.require_new_cookie()
        self._policy.require_bounds({}, changed)
        if self._is_ambiguous:
            await self._choose()
        elif self._other_readers and self.state is UNASKED:
            # First take over another library's session: so it ends too, with the one that took its place.
            await self._look(touch=False)
        before = None if self.state in (NONE, REFUSED) else self._credential
        credential = Credential.found(self._store.id())
        own: dict[str, bytes] = {}
        index, replaced = None, None
        if owner is not None or self._policy.is_log_in(changed, changed):
            own[AUTHENTICATED] = self._now()
        if owner is not None:
            own[OWNER] = encode_value("owner", owner)
            if before is not None and self._policy.max_sessions is not None:
                # A session makes room for the log-in that ends it, if the cookie is entitled to end it.
                with suppress(RecordError):
                    finding, _ = await self._find(before)
                    replaced = before.selector if finding in (Finding.HELD, Finding.SWAPPED) else None
            index = OwnerIndex(self._policy, owner)
            await index.enter(credential.selector, replaced)
        fields = await self._set_first(credential, {**changed, **own})
        if fields is None and await self._find_own(credential) is Finding.ENDED:
            return self._drop()
        # In this order: who hangs up between the two leaves a spare row, not a lost log-in.
        self._go_on_with(credential, fields, Finding.FOUNDED)
        if self.session is not None and not keep_mapping:
            self.session.restart(changed)
        # One that cannot be read is nobody's session, and stands in no log-in's way.
        with suppress(RecordError):
            if before is not None and await self._end(before):
                self._signal("destroyed", before)
            elif index is not None and replaced is not None:
                # It made room, and was renewed meanwhile: the owner's list is entitled to end it, if it is in there.
                await index.destroy(only=replaced)
        return True

    async def _set_first(
        self, credential: Credential, changed: Mapping[str, bytes], asked: Life = AS_CONFIGURED
    ) -> Fields | None:
        """Write the first record of a credential, and return it; `None` where there is one already."""
        fields = {**changed, **record.first_of(credential.digest(), self._policy.now(), asked)}
        lifetime = self._policy.lifetime_of(asked, written=fields)
        outcome = await self._store.set(credential.selector, fields, lifetime, None)
        return fields if outcome is APPLIED else None

    async def _find_own(self, credential: Credential) -> Finding:
        """Find what stands where this request's own credential was to be founded; raise if it is another's record."""
        finding, _ = await self._find(credential)
        # Where another call of this request founded it, a third may have renewed it meanwhile.
        is_own = self._credential is not None and self._credential.selector == credential.selector
        if finding is not Finding.HELD and finding is not Finding.ENDED and not is_own:
            raise StoreError("the store's id() returned a key that is in use: it must return fresh random ones")
        return finding

    def require_new_cookie(self) -> None:
        """Raise where no session may be founded: no cookie can be set, or it might replace one that was withheld."""
        if self.response is not ResponseState.OPEN:
            self._require_response()
        # The browser may hold the cookie of a log-in, which a session founded now would push out.
        if self._is_withheld is not None and self._is_withheld():
            raise CookieWithheldError(
                "another site sent this request, so the browser withheld the session's cookie; a session founded now "
                "would replace the log-in that it may have. Answer with a redirect (303) to a GET of your own, and "
                "write there. (If it was your own page: a proxy changes the Host, configure origin=)"
            )

    # --- writing

    async def _write(
        self,
        changed: Mapping[str, bytes],
        removed: Collection[str],
        expect: Expect,
        assigned: Collection[str] | None = None,
        lifetime: Lifetime | None = None,
    ) -> bool:
        """Write and remove some fields if the record is as expected, and still this credential's."""
        credential, policy = self._credential, self._policy
        if credential is None:
            return False
        stamped = {**changed, STAMP: record.fresh_stamp(policy.now())}
        removed = self._all_removed(changed, removed, assigned)
        seen = self._seen
        if policy.wish is not None and lifetime is None and seen is not None and policy.is_wish(changed, removed):
            # A lifetime is written from now: the age keeps the deadline where it was.
            lifetime = policy.lifetime_of(record.life_of(seen), self._age(seen), changed)
        expected = {**expect, **credential.expect()}
        outcome = await self._store.merge(credential.selector, stamped, removed, expected, lifetime)
        if outcome is APPLIED:
            self._writes += 1
            if self.state is UNASKED:
                self._move(Finding.HELD)
            if self._credential is credential and self._seen is not None:
                after = {**self._seen, **stamped}
                for name in removed:
                    after.pop(name, None)
                self._seen = after
            return True
        if outcome is MISSING or not expect:
            await self._learn(credential, outcome)
        return False

    def _all_removed(
        self, changed: Mapping[str, bytes], removed: Collection[str], assigned: Collection[str] | None
    ) -> Collection[str]:
        """Return what a write removes: the time of the log-in too, where it writes another user, or none."""
        keys = self._policy.renew_on
        names = changed if assigned is None else assigned
        if AUTHENTICATED in changed or (keys.isdisjoint(names) and (not removed or keys.isdisjoint(removed))):
            return removed
        # Whoever comes next has proved nothing.
        goes = not keys.isdisjoint(removed)
        for name in keys.intersection(names):
            was = _NULL if self._seen is None else self._seen.get(name, _NULL)
            goes = goes or changed[name] == _NULL or was not in (_NULL, changed[name])
        return {*removed, AUTHENTICATED} if goes else removed

    async def _merge(
        self, changed: Mapping[str, bytes], removed: Collection[str] = (), assigned: Collection[str] | None = None
    ) -> bool:
        """Write and remove some fields, whatever the others are; found a session where there is none."""
        policy = self._policy
        # The record tells whether a key that means log-in gets another value, and where the deadline is.
        needs_record = not policy.renew_on.isdisjoint(changed) or (
            policy.wish is not None and policy.is_wish(changed, removed)
        )
        if self._is_ambiguous:
            await self._choose()
        await self._require_room(changed, removed)
        while True:
            if self.state is OVER:
                return self._drop()
            if self.state is NONE or self.state is REFUSED:
                # Nothing to write founds nothing: a visitor who stores no data has no session.
                if not changed or await self._found(changed):
                    return True
            elif needs_record and self._seen is None:
                await self._look(touch=False)
            elif await self._write(changed, removed, {}, assigned):
                return True

    async def _require_room(self, changed: Mapping[str, bytes], removed: Collection[str]) -> None:
        """Hold a write to the session's bounds, as far as these are known; a large one looks at what is there."""
        seen, policy = self._seen, self._policy
        if seen is None:
            may_exceed = self._credential is not None and policy.is_large(changed)
        else:
            may_exceed = policy.excess_of(seen, changed, removed) is not None
        if may_exceed:
            # Read anew: others may have removed fields since the session was seen.
            policy.require_bounds(await self._look(touch=False) or {}, changed, removed)

    async def _write_if_still_so(
        self,
        function: str,
        decide: Callable[[Fields | None], Draft | None],
        *,
        fields: Fields | None = None,
        names: Collection[str] = (),
    ) -> bool:
        """Read, decide, write if what was read is still so; else pause, and do so again.

        `decide` gets the record, `None` where there is no session, and returns what to write, `None` for nothing. It is
        not asked where the session ended: there False is returned. `fields` were read already; `names`
        are what the error of `function` tells of, by default the fields.
        """
        tries = Tries(function)
        while True:
            if fields is None:
                fields = await self._look(to_write=True)
            if self.state is OVER:
                return self._drop()
            draft = decide(fields)
            if draft is None:
                # The read left the stamp to the write, and there is none: the session was seen all the same.
                if fields is not None and self._credential is not None and OWNER in fields:
                    await self._note_read(self._credential, fields)
                return True
            if fields is None:
                if await self._found(draft.changed):
                    return True
                continue
            self._policy.require_bounds(fields, draft.changed, draft.removed)
            if await self._write(*draft):
                return True
            await tries.next(names or draft.changed.keys() | draft.removed)
            fields = None

    # --- swapping the cookie

    async def _renew(
        self, changed: Mapping[str, bytes], removed: Collection[str], asked: Life = AS_CONFIGURED, founds: bool = True
    ) -> bool:
        """Swap the cookie, and write some fields in the same step. Without a session it `founds` one, or nothing."""
        if self._is_ambiguous:
            await self._choose()
        while True:
            credential, seen = self._credential, self._seen
            # A browser that lost the answer of its first log-in comes with the cookie from before it.
            is_unseen = self.state is OVER and not self._seen_live
            if self.state in (NONE, REFUSED) or (is_unseen and founds):
                if not founds:
                    return False
                if await self._found(changed, asked):
                    return True
                continue
            if self.state is OVER or credential is None:
                return self._drop()
            self._require_response()
            if seen is None:
                # The record says how long the browser is to keep the new cookie.
                await self._look(touch=False)
                continue
            await self._require_room(changed, removed)
            life = record.life_of(seen).then(asked)
            lifetime = None
            # A renewal that asks for no other lifetime leaves the one that the store holds.
            if asked.idle is not None or asked.absolute is not None:
                lifetime = self._policy.lifetime_of(life, self._age(seen))
                if lifetime.remaining is not None and lifetime.remaining <= 0:
                    await self.destroy()
                    return False
            if asked.absolute is not None and OWNER in seen:
                await OwnerIndex(self._policy, record.owner_of(seen)).outlive(asked.absolute)
            if self._credential is not credential:
                # Another call of this request has gone on meanwhile.
                continue
            fresh = Credential.found(credential.selector)
            swap = {**changed, DIGEST: fresh.digest()}
            if asked != AS_CONFIGURED:
                swap[record.LIFE] = life.field()
            if not self._is_unsent:
                swap[FORMER] = record.former_of(credential.digest(), self._policy.now())
            self._swapping[fresh.digest()] = fresh
            try:
                is_swapped = await self._write(swap, removed, {}, None, lifetime)
            except BaseException:
                self.was_interrupted = True
                raise
            self._swapping.pop(fresh.digest(), None)
            if not is_swapped:
                continue
            if self._credential is credential:
                self._go_on_with(fresh, self._seen, Finding.RENEWED)
            else:
                # Another call of this request has gone on from here: renewed again, logged in, logged out.
                self._signal("renewed", fresh)
            return True

    # --- ending

    async def destroy(self) -> bool:
        """End the session; return whether there was one that this request was entitled to end."""
        self.accessed = True
        if self.was_interrupted:
            await self._recover()
        if self.session is not None:
            self.session.restart({})
        if self._is_ambiguous:
            await self._choose()
        while (credential := self.credential) is not None:
            outcome = await self._mark(credential, credential.expect())
            if outcome is APPLIED:
                return self._has_ended(credential)
            await self._learn(credential, outcome)
        # Who logs out while another request renews still logs out.
        credential = self._credential
        if self.state is OVER and credential is not None and await self._end_successor(credential):
            return self._has_ended(credential)
        if self.state is NONE and self._credential is not None:
            # The cookie names no session: it is expired too.
            self._credential = None
            self.changes_cookie = True
        return False

    async def _end(self, credential: Credential) -> bool:
        outcome = await self._mark(credential, credential.expect())
        return outcome is APPLIED or (outcome is CONFLICT and await self._end_successor(credential))

    async def _end_successor(self, credential: Credential) -> bool:
        """End the session if this credential was swapped out of it within the minute."""
        finding, fields = await self._find(credential)
        if finding is not Finding.SWAPPED:
            return False
        expect = {DIGEST: fields[DIGEST], FORMER: fields[FORMER]}
        return await self._mark(credential, expect) is APPLIED

    async def _mark(self, credential: Credential, expect: Expect) -> Outcome:
        mark = record.mark_of(self._policy.now())
        return await self._store.set(credential.selector, mark, record.MARK_LIFETIME, expect)

    def _has_ended(self, credential: Credential) -> bool:
        """Note that this request ended the session of a credential."""
        if self._credential is credential:
            self._move(Finding.DESTROYED)
            self._credential = self._seen = None
            self.created = False
            self.changes_cookie = True
        self._signal("destroyed", credential)
        return True

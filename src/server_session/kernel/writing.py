"""What a request writes to a session that is there, and how it swaps the cookie.

The third of the six layers of a `StoredSession`. Each write is one conditional call, and its answer is a finding.
"""

from collections.abc import Callable, Collection, Mapping
from types import MappingProxyType
from typing import Final, NamedTuple

from server_session import _record as record
from server_session._bounds import excess_of, is_large, require_bounds
from server_session._record import (
    AS_CONFIGURED,
    AUTHENTICATED,
    DIGEST,
    FORMER,
    LIFE,
    OWNER,
    STAMP,
    Life,
)
from server_session._tokens import Credential
from server_session._tries import Tries
from server_session.kernel.founding import Founding
from server_session.kernel.states import NONE, OVER, REFUSED, Finding
from server_session.stores._base import APPLIED, MISSING, Expect, Fields, Lifetime

__all__ = ["Draft", "Writing"]

_NULL: Final = b"null"
_NOTHING: Final[Mapping[str, bytes]] = MappingProxyType({})


class Draft(NamedTuple):
    """A write that is to be made only if the record is as expected."""

    changed: Mapping[str, bytes]
    removed: Collection[str]
    expect: Expect
    assigned: Collection[str] | None = None
    """Those of the changed whose value is another one, and not the old one changed inside; `None` for all."""


class Writing(Founding):
    """The writes of one request to its session; each returns False if the session ended meanwhile."""

    async def _write(
        self,
        changed: Mapping[str, bytes],
        removed: Collection[str],
        expect: Expect,
        assigned: Collection[str] | None = None,
    ) -> bool:
        """Write and remove some fields if the record is as expected, and still this credential's."""
        credential, policy = self._credential, self._policy
        if credential is None:
            return False
        stamped = {**changed, STAMP: record.fresh_stamp(policy.now())}
        removed = self._with_log_in_mark(changed, removed, assigned)
        lifetime = None if policy.wish is None else self._wished_lifetime(changed, removed)
        own = {**expect, DIGEST: credential.digest()}
        outcome = await self._store.merge(credential.selector, stamped, removed, own, lifetime)
        if outcome is APPLIED:
            self._is_live()
            if self._credential is credential and self._seen is not None:
                self._seen = _after(self._seen, stamped, removed)
            return True
        if outcome is MISSING or not expect:
            await self._learn(credential, outcome)
        return False

    def _wished_lifetime(self, changed: Mapping[str, bytes], removed: Collection[str]) -> Lifetime | None:
        """Return the lifetime that a write brings with it, `None` where it brings none; the deadline stays."""
        policy, seen = self._policy, self._seen
        if seen is None or not policy.is_wish(changed, removed):
            return None
        return policy.lifetime_with(changed, record.life_of(seen), self._age(seen))

    def _with_log_in_mark(
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
        # Whether it is the same user once more, and when the session ends at the latest, the record says.
        needs_record = not policy.renew_on.isdisjoint(changed) or (
            policy.wish is not None and policy.is_wish(changed, removed)
        )
        if self._is_ambiguous:
            await self._choose()
        if self._may_exceed(changed, removed):
            await self._require_room(changed, removed)
        while True:
            if self._state is OVER:
                return self._drop()
            if self._state is NONE or self._state is REFUSED:
                # Nothing to write founds nothing: a visitor who stores no data has no session.
                if not changed or await self._found(changed):
                    return True
            elif needs_record and self._seen is None:
                await self._look(touch=False)
            elif await self._write(changed, removed, {}, assigned):
                return True

    def _may_exceed(self, changed: Mapping[str, bytes], removed: Collection[str]) -> bool:
        """Tell whether a write may exceed the session's bounds, as far as it is known; a large one may."""
        seen, policy = self._seen, self._policy
        if seen is not None:
            return excess_of(policy, seen, changed, removed) is not None
        return self._credential is not None and is_large(policy, changed)

    async def _require_room(self, changed: Mapping[str, bytes], removed: Collection[str]) -> None:
        """Hold the session to its bounds, as it is now: of one that was seen others may have taken out something."""
        require_bounds(self._policy, await self._look(touch=False) or {}, changed, removed)

    async def _write_if_still_so(
        self,
        function: str,
        decide: Callable[[Fields | None], Draft | None],
        *,
        first: Fields | None = None,
        names: Collection[str] = (),
    ) -> bool:
        """Read, decide, write if what was read is still so; else pause, and do so again.

        `decide` gets the record, `None` where there is no session, and returns what to write, `None` for nothing. It is
        not asked where the session ended: there False is returned. `first` is a record that was read already; `names`
        are what the error of `function` tells of, by default the fields.
        """
        tries = Tries(function)
        fields = first
        while True:
            if fields is None:
                fields = await self._look(to_write=True)
            if self._state is OVER:
                return self._drop()
            draft = decide(fields)
            if draft is None:
                await self._only_read(fields)
                return True
            if fields is None:
                if await self._found(draft.changed):
                    return True
                continue
            require_bounds(self._policy, fields, draft.changed, draft.removed)
            if await self._write(*draft):
                return True
            await tries.next(names or draft.changed.keys() | draft.removed)
            fields = None

    async def _only_read(self, fields: Fields | None) -> None:
        """Note that what was looked at to be written was not written: the session was seen all the same."""
        if fields is not None and self._credential is not None and OWNER in fields:
            await self._note_read(self._credential, fields)

    # --- swapping the cookie

    async def _renew(
        self,
        changed: Mapping[str, bytes] | None,
        removed: Collection[str] = (),
        own: Mapping[str, bytes] = _NOTHING,
        asked: Life = AS_CONFIGURED,
    ) -> bool:
        """Swap the cookie, and write some fields in the same step; `None` founds nothing where there is no session."""
        if self._is_ambiguous:
            await self._choose()
        while True:
            credential = self._credential
            # A browser that lost the answer of its first log-in comes with the cookie from before it.
            is_unseen = self._state is OVER and not self._seen_live
            if self._state in (NONE, REFUSED) or (is_unseen and changed is not None):
                if changed is None:
                    return False
                if await self._found(changed, own, asked):
                    return True
                continue
            if self._state is OVER or credential is None:
                return self._drop()
            self._require_response()
            if (seen := self._seen) is None:
                # How long the browser keeps the new cookie, the session knows.
                await self._look(touch=False)
                continue
            if self._may_exceed(changed or {}, removed):
                await self._require_room(changed or {}, removed)
            life = record.life_of(seen).then(asked)
            # A renewal that asks for no other lifetime leaves the one that the store holds.
            asks = asked.idle is not None or asked.absolute is not None
            lifetime = self._policy.lifetime_of(life, self._age(seen)) if asks else None
            if lifetime is None and changed is not None:
                lifetime = self._wished_lifetime(changed, removed)
            if lifetime is not None and lifetime.remaining is not None and lifetime.remaining <= 0:
                await self.destroy()
                return False
            if asked.absolute is not None and OWNER in seen:
                await self._policy.owners.outlive(record.owner_of(seen), asked.absolute)
            fresh = Credential.found(credential.selector)
            now = self._policy.now()
            swap = {**(changed or {}), **own, STAMP: record.fresh_stamp(now), DIGEST: fresh.digest()}
            if asked != AS_CONFIGURED:
                swap[LIFE] = life.field()
            if not self._is_unheard:
                swap[FORMER] = record.former_of(credential.digest(), now)
            self._swapping = {**self._swapping, fresh.digest(): fresh}
            expect = {DIGEST: credential.digest()}
            try:
                gone = self._with_log_in_mark(swap, removed, None)
                outcome = await self._store.merge(credential.selector, swap, gone, expect, lifetime)
            except BaseException:
                self.was_interrupted = True
                raise
            self._heard_of(fresh)
            if outcome is APPLIED:
                if self._credential is credential:
                    self._have(fresh, _after(seen, swap, gone), Finding.RENEWED)
                else:
                    # Another call of this request has gone on from here: renewed again, logged in, logged out.
                    self._signal("renewed", fresh)
                return True
            await self._learn(credential, outcome)


def _after(fields: Fields, changed: Mapping[str, bytes], removed: Collection[str]) -> Fields:
    after = {**fields, **changed}
    for name in removed:
        after.pop(name, None)
    return after

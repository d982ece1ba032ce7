"""How a request founds a session, and how it ends one.

The second of the six layers of a `StoredSession`. To found is one conditional write, and so is to end: by a mark.
"""

from collections.abc import Mapping
from contextlib import suppress
from types import MappingProxyType
from typing import Final

from server_session import _record as record
from server_session._bounds import require_bounds
from server_session._codec import encode_value
from server_session._record import (
    AS_CONFIGURED,
    AUTHENTICATED,
    CREATED,
    DEVICE,
    DIGEST,
    ENDED,
    FORMER,
    LIFE,
    OWNER,
    STAMP,
    Life,
)
from server_session._tokens import Credential, short_digest
from server_session._tries import Tries
from server_session.exceptions import CookieWithheldError, RecordError, StoreError
from server_session.kernel.presence import CookieChange, Presence, ResponseState
from server_session.kernel.states import NONE, OVER, REFUSED, Finding
from server_session.stores._base import APPLIED, CONFLICT, Expect, Fields, Outcome

__all__ = ["Founding"]

_DEVICE_LENGTH: Final = 256
_NOTHING: Final[Mapping[str, bytes]] = MappingProxyType({})


class Founding(Presence):
    """To found the session of one request, and to end it."""

    async def _found(
        self, changed: Mapping[str, bytes], own: Mapping[str, bytes] = _NOTHING, asked: Life = AS_CONFIGURED
    ) -> bool:
        """Found a session; return False where another write of this request founded it first."""
        # Chosen before the first wait, so that two first writes of one request found one session.
        credential = self._to_found()
        require_bounds(self._policy, {}, changed)
        fields = self._first_fields(credential, {**changed, **own})
        if asked != AS_CONFIGURED:
            fields[LIFE] = asked.field()
        try:
            outcome = await self._store.set(
                credential.selector, fields, self._policy.lifetime_with(fields, asked), None
            )
        except StoreError:
            self._founding = None
            raise
        except BaseException:
            self.was_interrupted = True
            raise
        if outcome is not APPLIED and self._credential is not credential:
            await self._require_own(credential)
        if self._founding is credential:
            self._have(credential, fields if outcome is APPLIED else None, Finding.FOUNDED)
        elif outcome is APPLIED and self._credential is credential:
            self._seen = self._seen or fields
        # A log-in of this request may have founded another meanwhile; what was written here belongs there.
        current = self._credential
        return outcome is APPLIED and current is not None and current.selector == credential.selector

    def _to_found(self) -> Credential:
        """Return the credential under which this request founds a session, the same one until it is founded."""
        if self.response is not ResponseState.OPEN:
            self._require_response()
        self._require_own_site()
        if self._founding is None:
            self._founding = self._fresh_credential()
        return self._founding

    async def _found_anew(
        self, changed: Mapping[str, bytes], owner: str | None = None, *, keep_mapping: bool = False
    ) -> bool:
        """Found a session under a new selector, and then end the one before it.

        Return False where all sessions of the owner were ended meanwhile, this one before it lived.
        """
        self._require_response()
        self._require_own_site()
        require_bounds(self._policy, {}, changed)
        if self._is_ambiguous:
            await self._choose()
        is_bounded = owner is not None and self._policy.max_sessions is not None
        # A session makes room for the log-in that ends it, if the cookie is entitled to end it.
        makes_room = is_bounded and await self._is_entitled()
        before = None if self._state in (NONE, REFUSED) else self._credential
        credential = self._fresh_credential()
        own: dict[str, bytes] = {}
        if owner is not None or self._policy.is_log_in(changed, changed):
            own[AUTHENTICATED] = self._now()
        if owner is not None:
            own |= {OWNER: encode_value("owner", owner), **self._device()}
            await self._enter(owner, credential, before if makes_room else None)
        fields = self._first_fields(credential, {**changed, **own})
        if await self._store.set(credential.selector, fields, self._policy.lifetime_with(fields), None) is not APPLIED:
            if ENDED in (await self._inspect(credential) or {}):
                return self._drop()
            await self._require_own(credential)
        # In this order: who hangs up between the two leaves a spare row, not a lost log-in.
        self._have(credential, fields, Finding.FOUNDED)
        if self.session is not None and not keep_mapping:
            self.session.restart(changed)
        # One that cannot be read is nobody's session, and stands in no log-in's way.
        with suppress(RecordError):
            if before is not None and await self._end(before):
                self._signal("destroyed", before)
        return True

    async def _enter(self, owner: str, credential: Credential, replaced: Credential | None) -> None:
        """List the session that is about to live as the owner's; those that made room for it are signalled."""
        pause = Tries("log_in", "nobody was logged in").next
        selector = None if replaced is None else replaced.selector
        for ended in await self._policy.owners.enter(owner, credential.selector, pause, selector):
            self._policy.signals.send("destroyed", short_digest(ended))

    def _fresh_credential(self) -> Credential:
        try:
            return Credential.found(self._store.id())
        except ValueError as error:
            raise StoreError(str(error)) from None

    def _first_fields(self, credential: Credential, changed: Mapping[str, bytes]) -> Fields:
        now = self._policy.now()
        return {
            **changed,
            DIGEST: credential.digest(),
            CREATED: record.number(now),
            STAMP: record.fresh_stamp(now),
        }

    def _device(self) -> dict[str, bytes]:
        if self._request is None or not self._policy.device_details:
            return {}
        agents = self._request.header_values(b"user-agent")
        agent = agents[0].decode("utf-8", "replace")[:_DEVICE_LENGTH] if agents else None
        address = (self._request.client_address or "")[:_DEVICE_LENGTH] or None
        return {DEVICE: encode_value("device", [agent, address])}

    async def _require_own(self, credential: Credential) -> None:
        if await self._inspect(credential, holds=True) is None:
            raise StoreError("the store's id() returned a key that is in use: it must return fresh random ones")

    def _require_own_site(self) -> None:
        # The browser may hold the cookie of a log-in, which a session founded now would push out.
        if self._is_withheld is not None and self._is_withheld():
            raise CookieWithheldError(
                "another site sent this request, so the browser withheld the session's cookie; a session founded now "
                "would replace the log-in that it may have. Answer with a redirect (303) to a GET of your own, and "
                "write there"
            )

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
            outcome = await self._mark(credential, {DIGEST: credential.digest()})
            if outcome is APPLIED:
                return self._has_ended(credential)
            await self._learn(credential, outcome)
        # Who logs out while another request renews still logs out.
        credential = self._credential
        if self._state is OVER and credential is not None and await self._end_successor(credential):
            return self._has_ended(credential)
        if self._state is NONE and self._presented and self._credential is not None:
            self._change_cookie(CookieChange(None))
        return False

    async def _is_entitled(self) -> bool:
        """Tell whether the cookie of this request may end the session that it names."""
        if await self._look(touch=False) is not None:
            return True
        credential = self._credential
        fields = None if credential is None else await self._inspect(credential)
        return credential is not None and fields is not None and self._was_swapped(credential, fields)

    async def _end(self, credential: Credential) -> bool:
        outcome = await self._mark(credential, {DIGEST: credential.digest()})
        return outcome is APPLIED or (outcome is CONFLICT and await self._end_successor(credential))

    async def _end_successor(self, credential: Credential) -> bool:
        """End the session whose cookie was swapped out from under this one within the minute."""
        fields = await self._inspect(credential)
        if fields is None or not self._was_swapped(credential, fields):
            return False
        expect = {DIGEST: fields[DIGEST], FORMER: fields[FORMER]}
        return await self._mark(credential, expect) is APPLIED

    async def _mark(self, credential: Credential, expect: Expect) -> Outcome:
        mark = record.mark_of(self._policy.now())
        return await self._store.set(credential.selector, mark, record.MARK_LIFETIME, expect)

    def _now(self) -> bytes:
        return record.number(self._policy.now())

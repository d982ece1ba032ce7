"""Whose sessions are which: a record for each owner, in the same store, that lists the selectors of the sessions.

It rests on the store's contract alone, so every store has it, and one key a call keeps it fit for a cluster.
"""

import base64
import hashlib
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final, NamedTuple

from server_session import _record as record
from server_session._codec import decode_value, encode_value
from server_session._record import CREATED, ENDED, OWNER, STAMP
from server_session.exceptions import ConfigurationError
from server_session.stores._base import APPLIED, MISSING, Expect, Fields, Lifetime, Outcome, SessionStore

__all__ = ["OwnedSession", "OwnerIndex"]

# Browsers keep no cookie for longer (RFC 6265bis, 5.5): the age of an index where sessions have no deadline.
_LONGEST: Final = 400 * 24 * 60 * 60.0
_SOON: Final = Lifetime(record.MARK_SECONDS, None)
# One log-in in sixteen, told by its random selector, looks after the entries of sessions that are gone.
_TIDIES: Final = frozenset("AQgw")
_TIDIED_AT_MOST: Final = 64


class OwnedSession(NamedTuple):
    """A live session of an owner."""

    id: str
    """Names the session to `destroy_sessions_of`. It opens nothing: the cookie has a secret besides."""
    created: datetime
    """When it was founded, in UTC."""
    is_current: bool = False
    """Whether it is the session of the request that was given as `current`."""


class OwnerIndex:
    """The sessions of each owner.

    `longest` is the age in seconds that no session outlives, or `None`; `now` the time in seconds since the epoch.
    """

    def __init__(self, store: SessionStore, longest: float | None, now: Callable[[], float]) -> None:
        if getattr(store, "evicts", False):
            raise ConfigurationError(
                f"{type(store).__name__} may drop what it holds, so it cannot say which sessions an owner has: "
                "log_in and destroy_sessions_of need a store that keeps what it is given"
            )
        self._store = store
        # No touch reaches an index, so it lives for as long as the session listed last can.
        self._lifetime = Lifetime(longest or _LONGEST, None)
        self._now = now

    async def enter(self, owner: str, selector: str) -> None:
        """List a session that is about to live: whoever ends all sessions of the owner now ends this one too."""
        key = _key_of(owner)
        entry = {selector: record.number(self._now()), STAMP: record.fresh_stamp()}
        while True:
            if await self._store.merge(key, entry, (), {}, self._lifetime) is APPLIED:
                break
            head = {OWNER: encode_value("owner", owner)}
            if await self._store.set(key, {**entry, **head}, self._lifetime, None) is APPLIED:
                break
        if selector[-1] in _TIDIES:
            await self._tidy(owner)

    async def sessions(self, owner: str, current: str | None = None) -> list[OwnedSession]:
        """Return the owner's sessions that live, the oldest first; `current` is the selector of the asker's."""
        living, gone = await self._look(owner, None)
        await self._unlist(owner, gone)
        return [one._replace(is_current=one.id == current) for one in living]

    async def destroy(self, owner: str, *, only: str | None = None, but: str | None = None) -> int:
        """End the owner's sessions: one of them, all, or all but one. Return how many were ended."""
        index = await self._index(owner)
        selectors = [one for one in record.user_fields(index) if one != but and only in (None, one)]
        expect = {OWNER: encode_value("owner", owner)}
        ended = 0
        for selector in selectors:
            ended += await self._end(selector, expect)
        await self._unlist(owner, selectors)
        return ended

    async def _end(self, selector: str, expect: Expect) -> bool:
        mark = record.mark_of(self._now())
        while await self._store.set(selector, mark, record.MARK_LIFETIME, expect) is not APPLIED:
            # Listed and not there: gone, or about to live. The mark is what its founding then meets.
            outcome = await self._store.set(selector, mark, record.MARK_LIFETIME, None)
            if outcome is APPLIED or not await self._is_owned(selector, expect):
                return False
        return True

    async def _is_owned(self, selector: str, expect: Expect) -> bool:
        return not isinstance(await self._store.get(selector, expect, False), Outcome)

    async def _tidy(self, owner: str) -> None:
        _, gone = await self._look(owner, _TIDIED_AT_MOST)
        await self._unlist(owner, gone)

    async def _look(self, owner: str, most: int | None) -> tuple[list[OwnedSession], list[str]]:
        index = await self._index(owner)
        expect = {OWNER: encode_value("owner", owner), ENDED: None}
        living: list[OwnedSession] = []
        gone: list[str] = []
        listed = sorted((float(since), selector) for selector, since in record.user_fields(index).items())
        for since, selector in listed[:most]:
            fields = await self._store.get(selector, expect, False)
            if not isinstance(fields, Outcome):
                created = decode_value(CREATED, fields[CREATED])
                living.append(OwnedSession(selector, datetime.fromtimestamp(created, UTC)))
            elif self._now() - since > record.MARK_SECONDS:
                # One listed within the minute may be about to live.
                gone.append(selector)
        return living, gone

    async def _index(self, owner: str) -> Fields:
        answer = await self._store.get(_key_of(owner), {}, False)
        return {} if isinstance(answer, Outcome) else answer

    async def _unlist(self, owner: str, selectors: list[str]) -> None:
        if not selectors:
            return
        key, stamp = _key_of(owner), record.fresh_stamp()
        if await self._store.merge(key, {STAMP: stamp}, selectors, {}) is MISSING:
            return
        index = await self._index(owner)
        if not record.user_fields(index) and index.get(STAMP) == stamp:
            # An index of nothing goes soon; the stamp, for a log-in may be adding to it.
            await self._store.set(key, index, _SOON, {STAMP: stamp})


def _key_of(owner: str) -> str:
    digest = hashlib.sha256(b"server-session owner\0" + owner.encode("utf-8", "surrogatepass")).digest()
    return base64.urlsafe_b64encode(digest[: SessionStore.key_bytes]).decode("ascii")

"""Whose sessions are which: a record for each owner, in the same store, that lists the selectors of the sessions.

It rests on the store's contract alone, so every store has it, and one key a call keeps it fit for a cluster.
"""

import hashlib
from collections.abc import Awaitable, Callable, Collection
from contextlib import suppress
from datetime import UTC, datetime
from typing import Final, NamedTuple

from server_session import _record as record
from server_session._base64url import base64url
from server_session._codec import encode_value
from server_session._record import CREATED, ENDED, LONGEST, OWNER, STAMP
from server_session.exceptions import ConfigurationError, RecordError, TooManySessionsError
from server_session.stores._base import APPLIED, CONFLICT, MISSING, Expect, Fields, Lifetime, Outcome, SessionStore

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
    last_seen: datetime
    """When it was last written to or read, in UTC; true to about a minute."""
    is_current: bool = False
    """Whether it is the session of the request that was given as `current`."""
    user_agent: str | None = None
    """What the browser that logged in said that it is, if `device_details` is set; to 256 characters."""
    address: str | None = None
    """The address that logged in, if `device_details` is set: the client's as the server knows it."""


class OwnerIndex:
    """The sessions of each owner.

    `longest` is the age in seconds that no session outlives, or `None`; `now` the time in seconds since the epoch.
    `most` is how many may live at a time, or `None`; `refuses` says whether a log-in beyond that is refused, or ends
    the oldest.
    """

    def __init__(
        self,
        store: SessionStore,
        longest: float | None,
        now: Callable[[], float],
        most: int | None = None,
        *,
        refuses: bool = False,
    ) -> None:
        if getattr(store, "evicts", False):
            raise ConfigurationError(
                f"{type(store).__name__} may drop what it holds, so it cannot say which sessions an owner has: "
                "log_in and destroy_sessions_of need a store that keeps what it is given"
            )
        self._store = store
        # No touch reaches an index, so it lives for as long as the session listed last can.
        self._longest = longest or _LONGEST
        self._now = now
        self._most = most
        self._refuses = refuses

    async def enter(
        self,
        owner: str,
        selector: str,
        pause: Callable[[Collection[str]], Awaitable[None]],
        replaced: str | None = None,
    ) -> list[str]:
        """List a session that is about to live: whoever ends all sessions of the owner now ends this one too.

        `replaced` is the selector of the session that ends for it, and so does not count; `pause` waits before another
        try. Return the selectors of those that were ended to make room. Raises `TooManySessionsError`.
        """
        if self._most is not None:
            return await self._insert(owner, selector, pause, replaced)
        if not await self._append(owner, selector):
            await self._insert(owner, selector, pause, replaced)
        if selector[-1] in _TIDIES:
            await self._tidy(owner)
        return []

    async def outlive(self, owner: str, age: float) -> None:
        """Keep the owner's list for as long as a session in it that may reach this age, in seconds."""
        key = _key_of(owner)
        while age > self._longest and (index := await self._index(owner)) and age > _longest_of(index):
            changed = {LONGEST: record.number(age), STAMP: self._stamp()}
            if await self._store.merge(key, changed, (), {STAMP: index.get(STAMP)}, Lifetime(age)) is APPLIED:
                break

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

    async def _append(self, owner: str, selector: str) -> bool:
        """List a session without a look at the others; return False where the list must live longer than it would."""
        key, lifetime = _key_of(owner), Lifetime(self._longest)
        longest = record.number(self._longest)
        entry = {selector: record.number(self._now()), STAMP: self._stamp()}
        while True:
            outcome = await self._store.merge(key, entry, (), {LONGEST: longest}, lifetime)
            if outcome is not MISSING:
                return outcome is APPLIED
            head = {OWNER: encode_value("owner", owner), LONGEST: longest}
            if await self._store.set(key, {**entry, **head}, lifetime, None) is APPLIED:
                return True

    async def _insert(
        self,
        owner: str,
        selector: str,
        pause: Callable[[Collection[str]], Awaitable[None]],
        replaced: str | None,
    ) -> list[str]:
        """List a session if the list is still as it was when room was made in it; else look again."""
        key = _key_of(owner)
        is_gone: dict[str, bool] = {}
        ended: list[str] = []
        while True:
            index = await self._index(owner)
            ended += await self._make_room(owner, index, replaced, is_gone)
            longest = max(self._longest, _longest_of(index))
            entry = {
                selector: record.number(self._now()),
                LONGEST: record.number(longest),
                STAMP: self._stamp(),
            }
            if index:
                gone = [one for one in record.user_fields(index) if is_gone.get(one)]
                expect = {STAMP: index.get(STAMP)}
                outcome = await self._store.merge(key, entry, gone, expect, Lifetime(longest))
            else:
                head = {OWNER: encode_value("owner", owner)}
                outcome = await self._store.set(key, {**entry, **head}, Lifetime(longest), None)
            if outcome is APPLIED:
                return ended
            await pause({"the owner's sessions"})

    async def _make_room(self, owner: str, index: Fields, replaced: str | None, is_gone: dict[str, bool]) -> list[str]:
        if self._most is None:
            return []
        own = {OWNER: encode_value("owner", owner)}
        living: list[str] = []
        for since, selector in _listed(index):
            if selector not in is_gone:
                answer = await self._ask(selector, own)
                # What is not there and was listed within the minute may be about to live.
                is_gone[selector] = answer is CONFLICT or (answer is MISSING and self._is_past(since))
                if answer is None:
                    # It takes nobody's place, and stays in the list: it may be read again, or ended.
                    continue
            if not is_gone[selector] and selector != replaced:
                living.append(selector)
        excess = living[: max(0, len(living) + 1 - self._most)]
        if excess and self._refuses:
            raise TooManySessionsError(
                f"the owner has {len(living)} sessions, and max_sessions={self._most}: nothing was written. Let the "
                "user end one (sessions_of, and destroy_sessions_of with only=…), or set at_max_sessions='end_oldest'"
            )
        # Ended before they leave the list: who hangs up between the two leaves none that lives and is not listed.
        for selector in excess:
            await self._end(selector, own)
            is_gone[selector] = True
        return excess

    def _is_past(self, since: float) -> bool:
        return self._now() - since > record.MARK_SECONDS

    def _stamp(self) -> bytes:
        return record.fresh_stamp(self._now())

    async def _ask(self, selector: str, own: Expect) -> Fields | Outcome | None:
        """Look for a session of the owner's that lives, without a touch; `None` is a record that cannot be read."""
        try:
            return await self._store.get(selector, {**own, ENDED: None}, False)
        except RecordError:
            return None

    async def _end(self, selector: str, expect: Expect) -> bool:
        try:
            return await self._end_readable(selector, expect)
        except RecordError:
            # One that is damaged must not keep the others alive; whose it was the list says.
            return await self._store.destroy(selector)

    async def _end_readable(self, selector: str, expect: Expect) -> bool:
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
        own = {OWNER: encode_value("owner", owner)}
        living: list[OwnedSession] = []
        gone: list[str] = []
        for since, selector in _listed(index)[:most]:
            fields = await self._ask(selector, own)
            if isinstance(fields, dict):
                with suppress(RecordError):
                    living.append(_owned(selector, fields))
            elif fields is not None and self._is_past(since):
                # One listed within the minute may be about to live.
                gone.append(selector)
        return living, gone

    async def _index(self, owner: str) -> Fields:
        answer = await self._store.get(_key_of(owner), {}, False)
        return {} if isinstance(answer, Outcome) else answer

    async def _unlist(self, owner: str, selectors: list[str]) -> None:
        if not selectors:
            return
        key, stamp = _key_of(owner), self._stamp()
        if await self._store.merge(key, {STAMP: stamp}, selectors, {}) is MISSING:
            return
        index = await self._index(owner)
        if not record.user_fields(index) and index.get(STAMP) == stamp:
            # An index of nothing goes soon; the stamp, for a log-in may be adding to it.
            head = {**index, LONGEST: record.number(self._longest)}
            await self._store.set(key, head, _SOON, {STAMP: stamp})


def _owned(selector: str, fields: Fields) -> OwnedSession:
    created = record.time_of(fields, CREATED)
    # A stamp of another form tells nothing, and one of whole seconds may be just before the founding.
    seen = max(created, record.stamped_at(fields) or created)
    user_agent, address = record.device_of(fields)
    return OwnedSession(
        selector,
        datetime.fromtimestamp(created, UTC),
        datetime.fromtimestamp(seen, UTC),
        user_agent=user_agent,
        address=address,
    )


def _listed(index: Fields) -> list[tuple[float, str]]:
    """Return since when which session is listed, the oldest first."""
    return sorted((_number_in(index, selector), selector) for selector in record.user_fields(index))


def _longest_of(index: Fields) -> float:
    return _number_in(index, LONGEST)


def _number_in(index: Fields, name: str) -> float:
    # An entry with nonsense in it still names a session that can be ended.
    try:
        return record.time_of(index, name) if name in index else 0.0
    except RecordError:
        return 0.0


def _key_of(owner: str) -> str:
    digest = hashlib.sha256(b"server-session owner\0" + owner.encode("utf-8", "surrogatepass")).digest()
    return base64url(digest[: SessionStore.key_bytes]).decode("ascii")

"""Whose sessions are which: a record for each owner, in the same store, that lists the selectors of the sessions.

It rests on the store's contract alone, so every store has it, and one key a call keeps it fit for a cluster.
"""

from collections.abc import Collection
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple, TypeAlias

from server_session import _record as record
from server_session._codec import decode_fields, encode_value
from server_session._cookies import LONGEST_KEPT
from server_session._policy import Policy
from server_session._record import CREATED, ENDED, LONGEST, OWNER, STAMP
from server_session._tokens import short_digest
from server_session._tries import Tries
from server_session.exceptions import ConfigurationError, RecordError
from server_session.stores._base import APPLIED, CONFLICT, MISSING, Fields, Lifetime, Outcome, SessionStore

_MOST_LISTED: Final = 1000
"""How many sessions an owner's list keeps where no bound is set: so many a log-in at the most has to write again."""

_SOON: Final = Lifetime(record.MARK_SECONDS, None)
# One log-in in sixteen, whose random selector ends with one of these, looks at `_LOOKED_AT` entries of the list.
_LOOKS: Final = frozenset("AQgw")
_LOOKED_AT: Final = 64

_Answer: TypeAlias = Fields | Outcome | None
"""What became of a session that is listed: its record if it lives, `MISSING` if it may be about to, `CONFLICT` if it is
gone, `None` if it cannot be read."""


class OwnedSession(NamedTuple):
    """A live session of an owner."""

    id: str
    """Names the session to `destroy_sessions_of` and `open_session`. It is no cookie, which has a secret besides."""
    created: datetime
    """When it was founded, in UTC."""
    last_seen: datetime
    """When it was last written to or read, in UTC; true to about a minute."""
    is_current: bool = False
    """Whether it is the session of the request that was given as `current`."""
    data: dict[str, Any] | None = None
    """What the session holds, where it was asked for and can be read."""


def require_owners(store: SessionStore) -> None:
    """Raise `ConfigurationError` for a store that can have no owners."""
    if getattr(store, "evicts", False):
        named = getattr(store, "named", type(store).__name__)
        raise ConfigurationError(
            f"{named} may drop what it holds, so it cannot say which sessions an owner has: "
            "log_in and destroy_sessions_of need a store that keeps what it is given"
        )


class OwnerIndex:
    """The sessions of one owner.

    Where their number has no bound a log-in ends the oldest of a list that is found longer than `_MOST_LISTED`.
    """

    def __init__(self, policy: Policy, owner: str) -> None:
        require_owners(policy.store)
        self._key = _key_of(owner)
        self._own = {OWNER: encode_value("owner", owner)}
        self._store = policy.store
        self._signals = policy.signals
        # No touch reaches an index, so it lives for as long as the session listed last can.
        self._longest = policy.absolute or LONGEST_KEPT
        self._now = policy.now
        self._is_bounded = policy.max_sessions is not None
        self._most = policy.max_sessions or _MOST_LISTED

    async def enter(self, selector: str, replaced: str | None = None) -> None:
        """List a session that is about to live: whoever ends all sessions of the owner now ends this one too.

        Those that must make room are ended, the oldest first; `replaced`, the selector of one that ends for this one
        all the same, does not count. Raises `ConflictError` where others change the list all the time.
        """
        outcome, tries = CONFLICT, Tries("log_in", "nobody was logged in")
        if not self._is_bounded and selector[-1] not in _LOOKS:
            # Without reading the list, as if it stood there with the lifetime that lists mostly have.
            outcome = await self._list(selector, {LONGEST: record.number(self._longest)}, ())
        answers: dict[str, _Answer] = {}
        while outcome is not APPLIED:
            index = {} if outcome is MISSING else await self._index()
            listed = _listed(index)
            doubtful = self._doubtful(listed, selector)
            answers |= await self._look([entry for entry in doubtful if entry[1] not in answers])
            # One that cannot be read takes nobody's place, and stays in the list: it may be read again, or ended.
            taken = [one for _, one in listed if one != replaced and answers.get(one, MISSING) not in (CONFLICT, None)]
            excess = max(0, len(taken) + 1 - self._most)
            # Ended before they leave the list: who hangs up between the two leaves none that lives and is not listed.
            most_ended = excess if self._is_bounded else min(excess, _LOOKED_AT)
            for one in taken[:most_ended]:
                await self._end(one)
                answers[one] = CONFLICT
            gone = [one for _, one in listed if answers.get(one) is CONFLICT]
            outcome = await self._list(selector, index, gone)
            if outcome is not APPLIED:
                await tries.next({"the owner's sessions"})

    async def outlive(self, age: float) -> None:
        """Let the owner's list live as long as a listed session that may reach this age, in seconds."""
        while age > self._longest and (index := await self._index()) and age > _number_in(index, LONGEST):
            changed = {LONGEST: record.number(age), STAMP: record.fresh_stamp(self._now())}
            if await self._store.merge(self._key, changed, (), {STAMP: index.get(STAMP)}, Lifetime(age)) is APPLIED:
                break

    async def sessions(self, current: str | None = None, *, data: bool = False) -> list[OwnedSession]:
        """Return the owner's sessions that live, the oldest first, and their data if it is asked for.

        `current` is the selector of the asker's.
        """
        answers = await self._look(_listed(await self._index()))
        await self._unlist([selector for selector, answer in answers.items() if answer is CONFLICT])
        living: list[OwnedSession] = []
        for selector, fields in answers.items():
            if isinstance(fields, dict):
                held = None
                with suppress(RecordError):
                    held = decode_fields(record.user_fields(fields)) if data else None
                with suppress(RecordError):
                    living.append(_owned(selector, fields, is_current=selector == current)._replace(data=held))
        return living

    async def destroy(self, *, only: str | None = None, but: str | None = None) -> int:
        """End the owner's sessions: one of them, all, or all but one. Return how many were ended."""
        listed = record.user_fields(await self._index())
        selectors = [one for one in listed if one != but and only in (None, one)]
        ended = sum([await self._end(selector) for selector in selectors])
        await self._unlist(selectors)
        return ended

    def _doubtful(self, listed: list[tuple[float, str]], selector: str) -> list[tuple[float, str]]:
        """Return the entries that are worth a look: all where room is scarce, else now and then a few."""
        if self._is_bounded and len(listed) >= self._most:
            return listed
        if selector[-1] not in _LOOKS:
            return []
        # Begun at the new selector, which is random: so each entry has its turn, and not the oldest alone.
        return sorted(listed, key=lambda entry: (entry[1] < selector, entry[1]))[:_LOOKED_AT]

    async def _list(self, selector: str, index: Fields, gone: Collection[str]) -> Outcome:
        """List a session, and no longer those that are gone, if the list is still what it was."""
        now, longest = self._now(), max(self._longest, _number_in(index, LONGEST))
        entry = {selector: record.number(now), LONGEST: record.number(longest), STAMP: record.fresh_stamp(now)}
        if not index:
            return await self._store.set(self._key, {**entry, **self._own}, Lifetime(longest), None)
        # In a bounded list, which was counted, nothing may have changed since; in any other only its lifetime counts.
        guard = STAMP if self._is_bounded else LONGEST
        return await self._store.merge(self._key, entry, gone, {guard: index.get(guard)}, Lifetime(longest))

    async def _look(self, entries: list[tuple[float, str]]) -> dict[str, _Answer]:
        """Ask what became of these, without a touch."""
        own = {**self._own, ENDED: None}
        answers: dict[str, _Answer] = {}
        for since, selector in entries:
            answer: _Answer = None
            with suppress(RecordError):
                answer = await self._store.get(selector, own, False)
            # What is not there and was listed within the minute may be about to live.
            is_past = self._now() - since >= record.MARK_SECONDS
            answers[selector] = CONFLICT if answer is MISSING and is_past else answer
        return answers

    async def _end(self, selector: str) -> bool:
        """End a session of the owner's, and signal it; return whether there was one."""
        if is_ended := await self._mark(selector):
            self._signals.send("destroyed", short_digest(selector))
        return is_ended

    async def _mark(self, selector: str) -> bool:
        mark = record.mark_of(self._now())
        try:
            while await self._store.set(selector, mark, record.MARK_LIFETIME, self._own) is not APPLIED:
                # Listed and not there: gone, or about to live. The mark is what its founding then meets.
                if await self._store.set(selector, mark, record.MARK_LIFETIME, None) is APPLIED:
                    return False
                if isinstance(await self._store.get(selector, self._own, False), Outcome):
                    return False
        except RecordError:
            # One that is damaged must not keep the others alive; whose it was the list says.
            return await self._store.destroy(selector)
        return True

    async def _index(self) -> Fields:
        answer = await self._store.get(self._key, {}, False)
        return {} if isinstance(answer, Outcome) else answer

    async def _unlist(self, selectors: list[str]) -> None:
        if not selectors:
            return
        stamp = record.fresh_stamp(self._now())
        if await self._store.merge(self._key, {STAMP: stamp}, selectors, {}) is MISSING:
            return
        index = await self._index()
        if not record.user_fields(index) and index.get(STAMP) == stamp:
            # An empty list goes soon, unless a log-in has added to it: that changes the stamp.
            head = {**index, LONGEST: record.number(self._longest)}
            await self._store.set(self._key, head, _SOON, {STAMP: stamp})


def _owned(selector: str, fields: Fields, *, is_current: bool) -> OwnedSession:
    created = record.time_of(fields, CREATED)
    # A stamp of another form tells nothing, and one of whole seconds may be just before the founding.
    seen = max(created, record.stamped_at(fields) or created)
    founded, last_seen = (datetime.fromtimestamp(moment, UTC) for moment in (created, seen))
    return OwnedSession(selector, founded, last_seen, is_current)


def _listed(index: Fields) -> list[tuple[float, str]]:
    """Return since when which session is listed, the oldest first."""
    return sorted((_number_in(index, selector), selector) for selector in record.user_fields(index))


def _number_in(index: Fields, name: str) -> float:
    # An entry with nonsense in it still names a session that can be ended.
    try:
        return record.time_of(index, name) if name in index else 0.0
    except RecordError:
        return 0.0


def _key_of(owner: str) -> str:
    return record.key_of(b"server-session owner\0", owner)

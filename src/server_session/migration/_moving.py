"""Two stores as one: sessions move from the old one to the new one.

How one record moves, even if several movers move it at once; each step is one conditional call:

1. To the new store, where there is nothing: a copy, with a fresh token in it that hides it.
2. To the old store, where the record is what was copied: the token alone. Nothing else is left of it.
3. To the new store, where that token is: the copy without it. It is the session now.
4. To the old store, where that token is: nothing more; the record expires at once.

Before 2 the old store's record is the session; a mover that finds a copy of an earlier state of it copies anew. After 2
every call and every mover that meets the record takes the steps that are left. Only a copy whose token was written to
the old store is ever shown, and 2 fails for a copy that was read before another's token was written: so a mover that
was stopped, and goes on when the session has long ended, brings nothing back.

A mover back to the old store finishes a move that is past 2, and takes no hidden copy for the session. A record moves
in one direction at a time: of two movers in opposite directions, one could take it from the other.
"""

import os
from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import Any, Final, TypeAlias, TypeVar, cast

from server_session._base64url import base64url
from server_session._codec import RESERVED
from server_session._colour import Colour
from server_session._record import ENDED, LONGEST, STAMP
from server_session._settings import flag_of
from server_session._urls import open_store
from server_session.exceptions import ConfigurationError, RecordError, StoreError
from server_session.stores._base import (
    APPLIED,
    CONFLICT,
    MISSING,
    Expect,
    Fields,
    Kept,
    Lifetime,
    Listing,
    Outcome,
    Refusal,
    SessionStore,
    close_store,
)
from server_session.stores._packed import holds, step_back

__all__ = ["MovingStore", "listing"]

A = TypeVar("A", bound=Fields | Outcome)

_Call: TypeAlias = Callable[[SessionStore, Expect], Awaitable[A]]

_ARRIVING: Final = RESERVED + "arriving"
"""In the new store: hides a copy that is not the session yet."""
_LEAVING: Final = RESERVED + "leaving"
"""In the old store: names the copy that is the session now. It stands alone, or, briefly, bars a record to writers."""
_OPEN: Final[Expect] = {_ARRIVING: None, _LEAVING: None}
"""What holds of the session itself, in either store."""

_TOKEN_BYTES: Final = 12
_GOES_NOW: Final = Lifetime(0.001, 0.001)

# A try fails only where somebody else has made a step.
_TRIES: Final = 100


class MovingStore(SessionStore):
    """Two stores as one, of which the sessions move from the old one to the new one as they are asked for.

    Processes that use the old store alone may not write to it while others move: they would not see what has gone. So
    deploy `moves=False` first, and when no process is left that knows the old store alone, deploy `moves=True`.

    Args:
        old: The store that the sessions are in, or its URL.
        new: The store that they are to be in, or its URL.
        moves: Whether to move, and to found in the new store. If not, the old store is used as ever, but for what is in
            the new one already.

    Raises:
        ConfigurationError: One of them awaits and the other blocks, or cannot show a record with its lifetime.

    """

    def __init__(self, old: SessionStore | str, new: SessionStore | str, *, moves: bool = True) -> None:
        self.old, self.new = _opened(old), _opened(new)
        self._moves = flag_of("MovingStore's moves", moves)
        self.colour = _colour_of(self.old.colour, self.new.colour)
        founds = self.new if moves else self.old
        self.max_age, self.evicts = founds.max_age, getattr(founds, "evicts", False)

    async def get(self, key: str, expect: Expect, touch: bool = True) -> Fields | Refusal:
        """Return all fields of the record, and restart its idle clock; see `SessionStore.get`."""
        answer: Any = await self._ask(key, expect, lambda store, expect: store.get(key, expect, touch))
        return cast("Fields | Refusal", answer)

    async def set(self, key: str, fields: Fields, lifetime: Lifetime, expect: Expect | None = None) -> Outcome:
        """Write the whole record anew; see `SessionStore.set`."""
        if expect is None:
            return await (self._found if self._moves else self._found_in_old)(key, fields, lifetime)
        return await self._ask(key, expect, lambda store, expect: store.set(key, fields, lifetime, expect))

    async def merge(
        self,
        key: str,
        changed: Mapping[str, bytes],
        removed: Collection[str],
        expect: Expect,
        lifetime: Lifetime | None = None,
    ) -> Outcome:
        """Write some fields and drop others, and touch the record; see `SessionStore.merge`."""
        return await self._ask(key, expect, lambda store, expect: store.merge(key, changed, removed, expect, lifetime))

    async def destroy(self, key: str) -> bool:
        """Drop the record; return whether there was one. See `SessionStore.destroy`."""
        # In this order: a mover that has copied it meanwhile cannot write its token to the old store.
        return await self.old.destroy(key) | await self.new.destroy(key)

    async def close(self) -> None:
        """Close the connections of both, if they have any."""
        for store in (self.old, self.new):
            await close_store(store)

    async def move(self, key: str) -> bool:
        """Move a record, or finish a move that others began; return whether there was one to move."""
        for tries in range(_TRIES):
            there = await listing(self.old).read_record(key)
            if there is MISSING:
                return False
            if not there.fields:
                raise RecordError("a record has no fields: it is damaged, or of another program")
            if there.fields.keys() == {_LEAVING}:
                return await self._show(key, there.fields[_LEAVING])
            if _ARRIVING in there.fields:
                if not await self._finish(key) and await self._is_hidden(key, there.fields[_ARRIVING]):
                    return False
            elif await self._move(there):
                return True
            await step_back(tries)
        raise _contended()

    async def _finish(self, key: str) -> bool:
        """Do what is left to do of a move in the other direction; return whether there was one."""
        here = await self.new.get(key, {}, False)
        if isinstance(here, Outcome) or here.keys() != {_LEAVING}:
            return False
        token = here[_LEAVING]
        await self.old.merge(key, {}, (_ARRIVING,), {_ARRIVING: token})
        await self.new.set(key, {_LEAVING: token}, _GOES_NOW, {_LEAVING: token})
        return True

    async def _is_hidden(self, key: str, token: bytes) -> bool:
        return not isinstance(await self.old.get(key, {_ARRIVING: token}, False), Outcome)

    async def _move(self, there: Kept) -> bool:
        """Try to move a record as it was read; return `False` where one of the stores has something else by now."""
        key, token = there.key, _fresh_token()
        if await self.new.set(key, _hidden(there, token), there.lifetime, None) is not APPLIED:
            # In this order: what is read of the old store is then no older than the copy that is here.
            here = await listing(self.new).read_record(key)
            again = await listing(self.old).read_record(key)
            if here is MISSING or again is MISSING or again.fields.keys() == {_LEAVING}:
                return False
            there = again
            if here.fields.keys() == {_LEAVING}:
                await self._finish(key)
                return False
            if _ARRIVING not in here.fields:
                return await self._join(there, here)
            theirs = here.fields[_ARRIVING]
            if _hidden(there, theirs) == here.fields:
                token = theirs
            elif await self.new.set(key, _hidden(there, token), there.lifetime, {_ARRIVING: theirs}) is not APPLIED:
                return False
        if await self.old.set(key, {_LEAVING: token}, there.lifetime, there.fields) is not APPLIED:
            return False
        await self._show(key, token)
        return True

    async def _show(self, key: str, token: bytes) -> bool:
        """Make a copy the session, if it is there and hidden by this token."""
        was_hidden = await self._uncover(key, token)
        await self.old.set(key, {_LEAVING: token}, _GOES_NOW, {_LEAVING: token})
        return was_hidden

    async def _uncover(self, key: str, token: bytes) -> bool:
        return await self.new.merge(key, {}, (_ARRIVING,), {_ARRIVING: token}) is APPLIED

    async def _join(self, there: Kept, here: Kept) -> bool:
        """Try to join a record of the old store to another record that the new store has under its key."""
        key, token = there.key, _fresh_token()
        if await self.old.merge(key, {_LEAVING: token}, (), {_LEAVING: None, **there.fields}) is not APPLIED:
            return False
        if await _has(self.new, key, _LEAVING):
            await self.old.merge(key, {}, (_LEAVING,), {_LEAVING: token})
            raise ConfigurationError("the old store and the new one are the same: nothing was moved")
        theirs = dict(there.fields)
        theirs.pop(_LEAVING, None)
        outcome = APPLIED
        if LONGEST in theirs and LONGEST in here.fields:
            # Lists of one owner, founded in both stores at once. An entry too many only names a session that is gone.
            longer = max(here, there, key=lambda kept: kept.lifetime.idle)
            entries = {name: value for name, value in theirs.items() if name not in here.fields}
            own = {LONGEST: longer.fields[LONGEST], STAMP: theirs.get(STAMP, b"")}
            outcome = await self.new.merge(key, {**entries, **own}, (), here.fields, longer.lifetime)
        elif ENDED in theirs and ENDED not in here.fields:
            outcome = await self.new.set(key, theirs, there.lifetime, here.fields)
        if outcome is not APPLIED:
            return False
        await self.old.set(key, {_LEAVING: token}, _GOES_NOW, {_LEAVING: token})
        return True

    async def _ask(self, key: str, expect: Expect, call: _Call[A]) -> A | Outcome:
        """Make a call to the store that the record is in: the new one where it is there, or can move there."""
        is_gone = False
        for tries in range(_TRIES):
            answer = await _ask_one(self.new, key, expect, call)
            if answer is not None and (answer is not MISSING or is_gone):
                return answer
            if answer is None and await self._finish(key):
                await step_back(tries)
                continue
            if answer is None and is_gone:
                return MISSING
            there: A | Outcome | None = None
            if not self._moves:
                there = await _ask_one(self.old, key, expect, call)
                if there is not None and there is not MISSING:
                    return there
            # What has left the old store may have come to the new one after that was asked: it is asked once more.
            is_gone = (there is MISSING and answer is MISSING) or not await self.move(key)
            await step_back(tries)
        raise _contended()

    async def _found(self, key: str, fields: Fields, lifetime: Lifetime) -> Outcome:
        """Found a record in the new store: hidden, until it is known that the old store has none."""
        expect: Expect | None = None
        for tries in range(_TRIES):
            token = _fresh_token()
            outcome = await self.new.set(key, {**fields, _ARRIVING: token}, lifetime, expect)
            if outcome is APPLIED:
                if not await self.move(key) and await self._uncover(key, token):
                    return APPLIED
            else:
                here = await self.new.get(key, {}, False)
                if isinstance(here, dict) and holds(here, _OPEN):
                    return CONFLICT
                # A hidden copy of which the old store then has nothing is never shown: this record replaces it.
                expect = None
                if isinstance(here, dict) and not await self.move(key):
                    expect = {name: here.get(name) for name in _OPEN}
            await step_back(tries)
        raise _contended()

    async def _found_in_old(self, key: str, fields: Fields, lifetime: Lifetime) -> Outcome:
        """Found a record in the old store."""
        for tries in range(_TRIES):
            if not isinstance(await self.new.get(key, _OPEN, False), Outcome):
                return CONFLICT
            outcome = await self.old.set(key, fields, lifetime, None)
            if outcome is APPLIED:
                # Others may found it in the new store meanwhile. Both write first and then look at the other's store.
                if await self.new.get(key, {}, False) is MISSING:
                    return APPLIED
                await self.move(key)
                return await self._outcome_of(key, fields)
            if not await _has(self.old, key, _LEAVING):
                return CONFLICT
            await self.move(key)
            await step_back(tries)
        raise _contended()

    async def _outcome_of(self, key: str, fields: Fields) -> Outcome:
        """Return what became of a record that others founded in the other store: a mark stands, whoever wrote it."""
        return CONFLICT if ENDED not in fields and await _has(self.new, key, ENDED) else APPLIED


def _opened(store: SessionStore | str) -> SessionStore:
    opened = open_store(store) if isinstance(store, str) else store
    if not callable(getattr(opened, "read_record", None)):
        raise ConfigurationError(
            f"a {type(opened).__name__} cannot show a record with its lifetime (read_record), so none can be moved"
        )
    return opened


def listing(store: SessionStore) -> Listing:
    """Return a store that `MovingStore` has accepted, typed as one that shows its records."""
    return cast("Listing", store)


def _colour_of(*colours: Colour) -> Colour:
    """Return the colour of a coroutine that calls stores of these colours."""
    if Colour.BLOCKS in colours and Colour.AWAITS in colours:
        raise ConfigurationError(
            "of the old store and the new one the one awaits and the other blocks: take drivers of one kind "
            "(a URL of Redis serves both)"
        )
    for colour in (Colour.BLOCKS, Colour.AWAITS, Colour.EITHER):
        if colour in colours:
            return colour
    return Colour.INSTANT


async def _ask_one(store: SessionStore, key: str, expect: Expect, call: _Call[A]) -> A | Outcome | None:
    """Make a call to a record that is not being moved; return `None` where it is."""
    for _ in range(_TRIES):
        answer = await call(store, {**expect, **_OPEN})
        if answer is not CONFLICT:
            return answer
        found = await store.get(key, {}, False)
        if isinstance(found, dict):
            if not holds(found, _OPEN):
                return None
            if not holds(found, expect):
                return CONFLICT
        # A token barred the record when the call was made, and does not any more.
    raise _contended()


async def _has(store: SessionStore, key: str, name: str) -> bool:
    answer: Any = await store.get(key, {}, False)
    return isinstance(answer, dict) and name in answer


def _fresh_token() -> bytes:
    return base64url(os.urandom(_TOKEN_BYTES))


def _hidden(there: Kept, token: bytes) -> Fields:
    """Return the fields of a copy that is hidden by a token."""
    copy = {**there.fields, _ARRIVING: token}
    copy.pop(_LEAVING, None)
    return copy


def _contended() -> StoreError:
    return StoreError(f"a record was changed by others {_TRIES} times while it was being moved: nothing was lost")

"""A store whose records are written whole: the contract's rules, made of one method that reads, decides and writes."""

import enum
import math
import random
from collections.abc import Callable, Collection, Mapping
from typing import ClassVar, Final, Literal, TypeAlias, TypeGuard, TypeVar, final

import msgspec

from server_session._colour import pause
from server_session.exceptions import RecordError, StoreError
from server_session.stores._base import (
    APPLIED,
    CONFLICT,
    MISSING,
    Expect,
    Fields,
    Kept,
    Lifetime,
    Outcome,
    Refusal,
    SessionStore,
)
from server_session.stores._waits import is_over

__all__ = ["TENTH", "Change", "Likely", "PackedStore", "Record", "holds", "is_write", "next_try", "step_back"]

TENTH: Final = 0.1
"""The part of the idle time that a touch must be worth, for stores to which a touch costs a write."""


def holds(fields: Mapping[str, bytes], expect: Expect) -> bool:
    """Tell whether these fields are as expected."""
    # Twice as fast as `all` over a generator, and each call comes by here.
    for name in expect:  # noqa: SIM110
        if (fields[name] if name in fields else None) != expect[name]:  # noqa: SIM401
            return False
    return True


@final
class Record(msgspec.Struct, frozen=True, array_like=True, tag=1, gc=False):
    """A record: its fields, and its times by the store's own clock."""

    idle: float
    """Seconds without a touch after which it expires."""
    deadline: float
    """The moment that no touch moves, in seconds; infinite where there is none."""
    expires: float
    """The moment it expires, in seconds."""
    fields: Fields

    @staticmethod
    def begin(fields: Fields, lifetime: Lifetime, now: float) -> "Record":
        """Return a record of these fields that begins its lifetime now."""
        idle, remaining = lifetime
        idle = float(idle)
        deadline = math.inf if remaining is None else float(now + remaining)
        expires = now + idle
        return Record(idle, deadline, expires if expires < deadline else deadline, fields)  # noqa: FURB136 - as below

    def touch(self, now: float, part: float = 0.0) -> "Record":
        """Return the record with its idle clock restarted: of the very same fields, and never expiring earlier.

        It is the record itself where that would gain nothing, or less than this part of the idle time.
        """
        expires = now + self.idle
        # No call of `min`, for each read comes by here.
        if expires > self.deadline:  # noqa: PLR1730
            expires = self.deadline
        gain = expires - self.expires
        if not gain > 0 or gain < self.idle * part:
            return self
        return Record(self.idle, self.deadline, expires, self.fields)

    def kept(self, key: str, now: float) -> Kept:
        """Return the record as others than its store may know it."""
        remaining = None if self.deadline == math.inf else self.deadline - now
        return Kept(key, self.fields, Lifetime(self.idle, remaining), self.expires - now)

    def pack(self) -> bytes:
        """Return the record as bytes, for `unpack`."""
        return _pack(self)

    @staticmethod
    def unpack(packed: bytes) -> "Record":
        """Return the record that was packed. Raises `RecordError` where it was not."""
        try:
            return _unpack(packed)
        except msgspec.MsgspecError as error:
            raise RecordError("a record of the store cannot be read: it is damaged, or of another program") from error


_pack: Final = msgspec.msgpack.Encoder().encode
_unpack: Final = msgspec.msgpack.Decoder(Record).decode


# By name, for the annotations of a function that is made at each call are evaluated at each call.
_Found: TypeAlias = Record | None
_Decision: TypeAlias = Record | Refusal
_Drop: TypeAlias = Literal[Outcome.MISSING] | None

T = TypeVar("T", bound=Record | Outcome | None)

Change: TypeAlias = Callable[[_Found, float], T]
"""What becomes of a record, given it (`None` if there is none, or it has expired) and the present in seconds.

A `Record` is to be written, unless it is the given one itself; one with the given one's very `fields` was touched, and
nothing else; `None`: the record is to be dropped; `MISSING` or `CONFLICT`: nothing is to be written.
"""


def is_write(decision: Record | Outcome | None, record: Record | None) -> TypeGuard[Record | None]:
    """Tell whether what a `Change` decided is to be written over the record that it was given."""
    return decision is not record and not isinstance(decision, Outcome)


async def step_back(tries: int) -> None:
    """Wait a little before a further try, by chance, so that those who met do not meet again."""
    await pause(random.uniform(0, min(0.001 * 2 ** min(tries, 6), 0.05)) if tries else 0)  # noqa: S311 - no secret


async def next_try(tries: int, limit: float) -> None:
    """Step back before a further try of a call that others were faster than.

    Raises `StoreError` where the call, whose limit that is, has no time left.
    """
    if is_over():
        raise StoreError(
            f"others wrote the same session without a pause for {limit:g} seconds; nothing was written: "
            "try again, or give the store a longer timeout"
        )
    await step_back(tries)


class Likely(enum.Enum):
    """What a change will most likely do. It decides nothing: a store may save a trip by it."""

    LOOKS = "looks"
    """Write nothing."""
    WRITES = "writes"
    """Write over a record that is there."""
    FOUNDS = "founds"
    """Write a record where there is none."""


class PackedStore(SessionStore):
    """A store that writes its records whole. Subclass it and define `swap`: `get`, `set`, `merge` and `destroy` follow.

    All else that `SessionStore` says of a store holds for `swap`: what is atomic, what fails, and how.
    """

    least_touch: ClassVar[float] = 0.0
    """The part of the idle time that a read's touch must be worth, else it is left out. A merge always touches."""

    async def swap(self, key: str, change: Change[T], likely: Likely) -> T:
        """Read the record, let `change` say what becomes of it, and write that if nobody wrote meanwhile; else again.

        Returned is what `change` said in the end. What it raises is raised, and then nothing was written.
        """
        raise NotImplementedError

    async def get(self, key: str, expect: Expect, touch: bool = True) -> Fields | Refusal:
        """Return all fields of the record, and restart its idle clock; see `SessionStore.get`."""

        def look(record: _Found, now: float) -> _Decision:
            if record is None:
                return MISSING
            if not holds(record.fields, expect):
                return CONFLICT
            return record.touch(now, self.least_touch) if touch else record

        found = await self.swap(key, look, Likely.LOOKS)
        return found.fields if type(found) is Record else found

    async def set(self, key: str, fields: Fields, lifetime: Lifetime, expect: Expect | None = None) -> Outcome:
        """Write the whole record anew; see `SessionStore.set`."""
        if not fields:
            raise ValueError("set was given no fields: a record has at least one")

        def write(record: _Found, now: float) -> _Decision:
            if expect is None:
                if record is not None:
                    return CONFLICT
            elif record is None:
                return MISSING
            elif not holds(record.fields, expect):
                return CONFLICT
            return Record.begin(fields, lifetime, now)

        written = await self.swap(key, write, Likely.FOUNDS if expect is None else Likely.WRITES)
        return APPLIED if type(written) is Record else written

    async def merge(
        self,
        key: str,
        changed: Mapping[str, bytes],
        removed: Collection[str],
        expect: Expect,
        lifetime: Lifetime | None = None,
    ) -> Outcome:
        """Write some fields and drop others, and touch the record; see `SessionStore.merge`."""

        def write(record: _Found, now: float) -> _Decision:
            if record is None:
                return MISSING
            if not holds(record.fields, expect):
                return CONFLICT
            touched = record.touch(now)
            if lifetime is None and not changed and not removed:
                return touched
            fields = {**record.fields, **changed}
            for name in removed:
                fields.pop(name, None)
            if not fields:
                raise ValueError("merge would leave a record without fields: destroy it, or leave a field in it")
            if lifetime is not None:
                return Record.begin(fields, lifetime, now)
            return Record(touched.idle, touched.deadline, touched.expires, fields)

        written = await self.swap(key, write, Likely.WRITES)
        return APPLIED if type(written) is Record else written

    async def destroy(self, key: str) -> bool:
        """Drop the record; return whether there was one. See `SessionStore.destroy`."""

        def drop(record: _Found, _now: float) -> _Drop:
            return MISSING if record is None else None

        return await self.swap(key, drop, Likely.WRITES) is None

    async def read_record(self, key: str) -> Kept | Literal[Outcome.MISSING]:
        """Return the record with its lifetime, without a touch; see `Listing.read_record`."""
        moment = 0.0

        def look(record: _Found, now: float) -> Record | Literal[Outcome.MISSING]:
            nonlocal moment
            moment = now
            return MISSING if record is None else record

        found = await self.swap(key, look, Likely.LOOKS)
        return found.kept(key, moment) if isinstance(found, Record) else found

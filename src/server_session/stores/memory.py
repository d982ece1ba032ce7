"""Sessions in the memory of this process, and of no other: for development, tests and applications of one process."""

import hashlib
import itertools
import math
import mmap
import os
import struct
import sys
import threading
import time
from array import array
from collections.abc import Callable, Collection, Mapping
from datetime import timedelta
from typing import Final, Literal, NamedTuple

import msgspec

from server_session._durations import seconds_of
from server_session.exceptions import ConfigurationError, StoreFullError
from server_session.stores._base import (
    APPLIED,
    CONFLICT,
    MISSING,
    Colour,
    Expect,
    Fields,
    Lifetime,
    Outcome,
    SessionStore,
)

__all__ = ["MemorySessionStore", "MemoryStats"]

# An entry of the index: the digest of a key (its first 8 bytes also choose the bucket), the moment of expiry, and where
# the cell with the rest is: slab and offset.
_ENTRY: Final = struct.Struct("<Q8xdLL")
_DIGEST_BYTES: Final = 16
_EXPIRES: Final = struct.Struct("<d")
_EXPIRES_AT: Final = 16
_PLACE: Final = struct.Struct("<LL")
_PLACE_AT: Final = 24

# A cell: the size of the fields, the idle time and the deadline; then the fields, as a MessagePack map.
_HEAD: Final = struct.Struct("<Ldd")

_pack = msgspec.msgpack.Encoder().encode
_unpack = msgspec.msgpack.Decoder(dict[str, bytes]).decode

# What one call does at most beside its own work. Each bound keeps the longest call short, whatever the store holds.
_BUCKETS_LOOKED_AT: Final = 4
_SESSIONS_SWEPT: Final = 16
_BUCKETS_MERGED: Final = 2

# Sessions a bucket, on average: above the one the index grows, below the other it shrinks.
_MOST_SESSIONS: Final = 16
_FEWEST_SESSIONS: Final = 6

_BUCKETS_A_SEGMENT: Final = 64
_BUCKETS_COMPARED: Final = 64
_ROUNDS_COMPARED: Final = 8

_SLAB_BYTES: Final = 1 << 20
_SMALLEST_STEP: Final = 32

# A slab with less than half of its cells in use is emptied into others, if that is worth it.
_SPARSE_PART: Final = 2
_SPARSE_BYTES: Final = 1 << 16

_BUCKET_OVERHEAD: Final = 104
"""Bytes that a bucket takes beside its entries: the object, the allocator's header and rounding, its two slots."""


class MemoryStats(NamedTuple):
    """How much a `MemorySessionStore` holds."""

    sessions: int
    """Sessions in memory, with those that have expired and that no call has swept yet."""
    bytes: int
    """Bytes that they take, keys, lifetimes and the table's own overhead included; not what is kept to spare for the
    next sessions, which where many have just ended may be as much again."""


class _Record(NamedTuple):
    """Where a record is, until the next write to the table, and when it expires."""

    bucket: int
    at: int
    expires: float
    slab: int
    cell: int


class _Content(NamedTuple):
    """What is in a record's cell."""

    fields: Fields
    idle: float
    deadline: float


class _Slab:
    """One mapping of memory, cut into cells of one size."""

    __slots__ = ("cell_bytes", "fresh", "memory", "spare", "used")

    def __init__(self, cell_bytes: int) -> None:
        self.cell_bytes = cell_bytes
        self.memory = _mapping(max(_SLAB_BYTES, cell_bytes))
        self.spare = array("L")
        self.fresh = 0
        self.used = 0

    def is_full(self) -> bool:
        return not self.spare and self.fresh + self.cell_bytes > len(self.memory)

    def is_sparse(self) -> bool:
        return self.fresh > _SPARSE_BYTES and self.used * self.cell_bytes < self.fresh // _SPARSE_PART

    def take(self) -> int:
        self.used += 1
        if self.spare:
            return self.spare.pop()
        cell = self.fresh
        self.fresh += self.cell_bytes
        return cell


class _Slabs:
    """Memory for cells, taken from the system and given back by the slab.

    The allocator beneath Python's own objects seldom gives back what sessions leave behind. A mapping goes at once.
    """

    def __init__(self) -> None:
        self._slabs: dict[int, _Slab] = {}
        # By cell size, those with room; the first is filled before the next, so that others may run empty.
        self._open: dict[int, dict[int, None]] = {}
        self._next = 0
        # Sparse ones, of which nothing is taken any more and whose cells are to be moved out.
        self.condemned: set[int] = set()
        self.taken = 0

    def take(self, size: int) -> tuple[int, int]:
        cell_bytes = _cell_bytes(size)
        numbers = self._open.setdefault(cell_bytes, {})
        if not numbers:
            self._slabs[self._next] = _Slab(cell_bytes)
            numbers[self._next] = None
            self._next += 1
        number = next(iter(numbers))
        slab = self._slabs[number]
        cell = slab.take()
        if slab.is_full():
            del numbers[number]
        self.taken += cell_bytes
        return number, cell

    def release(self, number: int, cell: int) -> None:
        slab = self._slabs[number]
        slab.used -= 1
        slab.spare.append(cell)
        self.taken -= slab.cell_bytes
        numbers = self._open[slab.cell_bytes]
        if number not in self.condemned:
            numbers[number] = None
            if slab.is_sparse():
                del numbers[number]
                self.condemned.add(number)
        if not slab.used:
            numbers.pop(number, None)
            self.condemned.discard(number)
            del self._slabs[number]
            slab.memory.close()

    def cell_bytes(self, number: int) -> int:
        return self._slabs[number].cell_bytes

    def memory(self, number: int) -> mmap.mmap:
        return self._slabs[number].memory


class _Table:
    """Records by the digest of their key: an index of buckets, by linear hashing, over cells in slabs.

    The index grows and shrinks by one bucket at a time, so no call pays for a resize of the whole.
    """

    def __init__(self) -> None:
        # The digest's key stays in here, so that nobody can choose keys that meet in one bucket; and what is found of
        # a digest's 16 bytes in a bucket is the begin of an entry, not a chance.
        self._hasher = hashlib.blake2b(key=os.urandom(_DIGEST_BYTES), digest_size=_DIGEST_BYTES)
        # A full garbage collection visits each slot of a list and of a dict, but none of a tuple of bytearrays: so
        # it meets one slot to 64 buckets, and few slabs.
        self._segments = [_segment()]
        # No session of a bucket expires before this; a touch leaves it as it is, so it may be too early.
        self._earliest = array("d", [math.inf])
        self._mask = 0
        self._hand = 0
        self._slabs = _Slabs()
        self.sessions = 0

    def bytes_with(self, new: int = 0, growth: int = 0) -> int:
        """Return the bytes taken if there were so many new sessions, and cells grew by so much."""
        sessions = self.sessions + new
        buckets = max(len(self._earliest), -(-sessions // _MOST_SESSIONS))
        return self._slabs.taken + growth + sessions * _ENTRY.size + buckets * _BUCKET_OVERHEAD

    def bytes_alone(self, body: bytes) -> int:
        """Return the bytes taken by one session of this body, if all others were dropped."""
        return _cell_bytes(_HEAD.size + len(body)) + _ENTRY.size + len(self._earliest) * _BUCKET_OVERHEAD

    def growth(self, record: _Record | None, body: bytes) -> int:
        """Return the bytes by which cells grow where the record (or none) gets this body."""
        former = 0 if record is None else self._slabs.cell_bytes(record.slab)
        return _cell_bytes(_HEAD.size + len(body)) - former

    def digest(self, key: str) -> bytes:
        hasher = self._hasher.copy()
        hasher.update(key.encode())
        return hasher.digest()

    def find(self, digest: bytes) -> _Record | None:
        number = self._number(int.from_bytes(digest[:8], "little"))
        bucket = self._bucket(number)
        at = bucket.find(digest)
        if at < 0:
            return None
        _, expires, slab, cell = _ENTRY.unpack_from(bucket, at)
        return _Record(number, at, expires, slab, cell)

    def read(self, record: _Record) -> _Content:
        memory = self._slabs.memory(record.slab)
        size, idle, deadline = _HEAD.unpack_from(memory, record.cell)
        start = record.cell + _HEAD.size
        return _Content(_unpack(memory[start : start + size]), idle, deadline)

    def touch(self, record: _Record, expires: float) -> None:
        _EXPIRES.pack_into(self._bucket(record.bucket), record.at + _EXPIRES_AT, expires)

    def add(self, digest: bytes, expires: float, idle: float, deadline: float, body: bytes) -> None:
        content = _HEAD.pack(len(body), idle, deadline) + body
        slab, cell = self._slabs.take(len(content))
        self._slabs.memory(slab)[cell : cell + len(content)] = content
        number = self._number(int.from_bytes(digest[:8], "little"))
        bucket = self._bucket(number)
        at = len(bucket)
        bucket += bytes(_ENTRY.size)
        _ENTRY.pack_into(bucket, at, 0, expires, slab, cell)
        bucket[at : at + _DIGEST_BYTES] = digest
        self._earliest[number] = min(self._earliest[number], expires)
        self.sessions += 1
        if self.sessions > len(self._earliest) * _MOST_SESSIONS:
            self._split()

    def rewrite(self, record: _Record, expires: float, idle: float, deadline: float, body: bytes) -> None:
        content = _HEAD.pack(len(body), idle, deadline) + body
        if _cell_bytes(len(content)) == self._slabs.cell_bytes(record.slab):
            self._slabs.memory(record.slab)[record.cell : record.cell + len(content)] = content
        else:
            self._place(record, content)
        self.touch(record, expires)
        self._earliest[record.bucket] = min(self._earliest[record.bucket], expires)

    def drop(self, record: _Record) -> None:
        bucket = self._bucket(record.bucket)
        del bucket[record.at : record.at + _ENTRY.size]
        self._slabs.release(record.slab, record.cell)
        self.sessions -= 1

    def sweep(self, now: float) -> None:
        """Drop a bounded few of those that have expired, and move a few out of sparse slabs.

        The hand goes round all buckets, call by call.
        """
        earliest = self._earliest
        for _ in range(_BUCKETS_LOOKED_AT):
            self._hand += 1
            if self._hand >= len(earliest):
                self._hand = 0
            due = earliest[self._hand] <= now
            if due:
                self._drop_expired(self._hand, now)
            if self._slabs.condemned:
                self._move_out(self._hand)
            if due or self._slabs.condemned:
                break
        for _ in range(_BUCKETS_MERGED):
            if self.sessions >= (len(earliest) - 1) * _FEWEST_SESSIONS:
                break
            self._merge_last()

    def nearest(self) -> _Record | None:
        """Return the record nearest to its expiry, of about 1,000 from the hand on; `None` if the table is empty.

        Where most of these were touched since the hand last came by, it is one of the nearest.
        """
        buckets = len(self._earliest)
        first = max(0, min(self._hand, buckets - _BUCKETS_COMPARED))
        for start in itertools.chain(range(first, buckets, _BUCKETS_COMPARED), range(0, first, _BUCKETS_COMPARED)):
            found = self._nearest_of(start)
            if found is not None:
                return found
        return None

    def _nearest_of(self, start: int) -> _Record | None:
        window = self._earliest[start : start + _BUCKETS_COMPARED]
        found: _Record | None = None
        rounds = 0
        while rounds < _ROUNDS_COMPARED and (bound := min(window)) < (math.inf if found is None else found.expires):
            place = window.index(bound)
            first = min(self._records(start + place), key=_expires, default=None)
            window[place] = self._earliest[start + place] = math.inf if first is None else first.expires
            if first is not None:
                rounds += 1
                found = first if found is None else min(found, first, key=_expires)
        return found

    def _number(self, place: int) -> int:
        number = place & self._mask
        return number if number < len(self._earliest) else number & (self._mask >> 1)

    def _bucket(self, number: int) -> bytearray:
        return self._segments[number // _BUCKETS_A_SEGMENT][number % _BUCKETS_A_SEGMENT]

    def _records(self, number: int) -> list[_Record]:
        return [
            _Record(number, position * _ENTRY.size, expires, slab, cell)
            for position, (_, expires, slab, cell) in enumerate(_ENTRY.iter_unpack(self._bucket(number)))
        ]

    def _drop_expired(self, number: int, now: float) -> None:
        records = self._records(number)
        expired = [record for record in records if record.expires <= now][:_SESSIONS_SWEPT]
        for record in reversed(expired):
            self.drop(record)
        self._bound(number)

    def _move_out(self, number: int) -> None:
        for record in self._records(number):
            if record.slab in self._slabs.condemned:
                cell_bytes = self._slabs.cell_bytes(record.slab)
                content = self._slabs.memory(record.slab)[record.cell : record.cell + cell_bytes]
                self._place(record, content)

    def _place(self, record: _Record, content: bytes) -> None:
        slab, cell = self._slabs.take(len(content))
        self._slabs.memory(slab)[cell : cell + len(content)] = content
        _PLACE.pack_into(self._bucket(record.bucket), record.at + _PLACE_AT, slab, cell)
        self._slabs.release(record.slab, record.cell)

    def _bound(self, number: int) -> None:
        self._earliest[number] = min(map(_expires, self._records(number)), default=math.inf)

    def _split(self) -> None:
        last = len(self._earliest)
        if last % _BUCKETS_A_SEGMENT == 0:
            self._segments.append(_segment())
        self._earliest.append(math.inf)
        self._mask = (1 << last.bit_length()) - 1
        number = last & (self._mask >> 1)
        bucket = self._bucket(number)
        stay, move = bytearray(), bytearray()
        for position, (place, *_) in enumerate(_ENTRY.iter_unpack(bucket)):
            half = move if self._number(place) == last else stay
            half += bucket[position * _ENTRY.size : (position + 1) * _ENTRY.size]
        # A bytearray that shrinks in place may keep as much again to spare; filled from empty it is exact.
        bucket.clear()
        bucket += stay
        self._bucket(last).extend(move)
        self._bound(number)
        self._bound(last)

    def _merge_last(self) -> None:
        last = len(self._earliest) - 1
        into = last & (self._mask >> 1)
        bucket = self._bucket(last)
        self._bucket(into).extend(bucket)
        bucket.clear()
        self._earliest[into] = min(self._earliest[into], self._earliest.pop())
        self._mask = (1 << (last - 1).bit_length()) - 1
        if last % _BUCKETS_A_SEGMENT == 0:
            self._segments.pop()


def _segment() -> tuple[bytearray, ...]:
    return tuple(bytearray() for _ in range(_BUCKETS_A_SEGMENT))


def _cell_bytes(size: int) -> int:
    # Sixteen sizes to each doubling: a cell is at most a sixteenth larger than what is in it, from 512 bytes on.
    step = max(_SMALLEST_STEP, 1 << max(0, size.bit_length() - 5))
    return -(-size // step) * step


def _mapping(size: int) -> mmap.mmap:
    try:
        if sys.platform == "win32":
            return mmap.mmap(-1, size)
        # Private: a process that forks must not share with its child what only a lock of its own protects.
        return mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except OSError as error:
        raise StoreFullError(f"the memory store got no more memory from the system: {error}") from error


def _expires(record: _Record) -> float:
    return record.expires


def _holds(fields: Fields, expect: Expect) -> bool:
    # Twice as fast as `all` over a generator, and each call comes by here.
    for name, value in expect.items():  # noqa: SIM110
        if fields.get(name) != value:
            return False
    return True


class MemorySessionStore(SessionStore):
    """Keep sessions in this process's memory; they end with it, and no other process sees them.

    There is no thread and no timer: each call sweeps at most 16 expired sessions, so an idle store keeps what it has
    until it is called again. Threads may share a store. It follows the store contract to the letter: every touch is
    made, every expiry is exact.

    Arguments:
        max_age: idle seconds (or a timedelta) after which a session of this store expires, where `configure` says
            nothing; `None` for no opinion.
        max_sessions: the most sessions it holds; `None` for no bound.
        max_bytes: the most bytes it holds, by the count that `stats()` gives; `None` for no bound.
        when_full: `"refuse"` raises `StoreFullError` before anything is written, for a new session and for one that
            would grow. `"evict"` drops the session nearest to its expiry, whoever owns it, until there is room: the
            nearest of all in a store of up to about 1,000, the nearest of about 1,000 in a larger one.
        clock: returns the present in seconds, and never goes back.

    Raises:
        ConfigurationError: a setting that cannot work.
    """

    colour = Colour.INSTANT

    def __init__(
        self,
        *,
        max_age: float | timedelta | None = None,
        max_sessions: int | None = None,
        max_bytes: int | None = None,
        when_full: Literal["refuse", "evict"] = "refuse",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.max_age = None if max_age is None else seconds_of("max_age", max_age)
        self._max_sessions = _bound("max_sessions", max_sessions)
        self._max_bytes = _bound("max_bytes", max_bytes)
        if when_full not in ("refuse", "evict"):
            raise ConfigurationError(f'when_full must be "refuse" or "evict", not {when_full!r}')
        if when_full == "evict" and max_sessions is None and max_bytes is None:
            raise ConfigurationError('when_full="evict" needs a bound: set max_sessions or max_bytes')
        self._evicts = self.evicts = when_full == "evict"
        self._clock = clock
        self._table = _Table()
        # Held for the microseconds of one call, and never across an await.
        self._lock = threading.Lock()

    def stats(self) -> MemoryStats:
        """Return how many sessions the store holds and how many bytes they take. It costs next to nothing."""
        with self._lock:
            return MemoryStats(self._table.sessions, self._table.bytes_with())

    async def get(
        self, key: str, expect: Expect, touch: bool = True
    ) -> Fields | Literal[Outcome.MISSING, Outcome.CONFLICT]:
        with self._lock:
            now = self._begin()
            record = self._live(self._table.digest(key), now)
            if record is None:
                return MISSING
            content = self._table.read(record)
            if not _holds(content.fields, expect):
                return CONFLICT
            if touch:
                self._table.touch(record, _touched(record, content, now))
            return content.fields

    async def set(self, key: str, fields: Fields, lifetime: Lifetime, expect: Expect | None = None) -> Outcome:
        if not fields:
            raise ValueError("set was given no fields: a record has at least one")
        body = _pack(fields)
        with self._lock:
            now = self._begin()
            digest = self._table.digest(key)
            record = self._live(digest, now)
            if expect is None:
                if record is not None:
                    return CONFLICT
            elif record is None:
                return MISSING
            elif not _holds(self._table.read(record).fields, expect):
                return CONFLICT
            self._write(digest, record, now, *_times(lifetime, now), body)
            return APPLIED

    async def merge(
        self,
        key: str,
        changed: Mapping[str, bytes],
        removed: Collection[str],
        expect: Expect,
        lifetime: Lifetime | None = None,
    ) -> Outcome:
        with self._lock:
            now = self._begin()
            digest = self._table.digest(key)
            record = self._live(digest, now)
            if record is None:
                return MISSING
            content = self._table.read(record)
            fields = content.fields
            if not _holds(fields, expect):
                return CONFLICT
            fields.update(changed)
            for name in removed:
                fields.pop(name, None)
            if not fields:
                raise ValueError("merge would leave a record without fields: destroy it, or leave a field in it")
            if lifetime is None:
                times = _touched(record, content, now), content.idle, content.deadline
            else:
                times = _times(lifetime, now)
            self._write(digest, record, now, *times, _pack(fields))
            return APPLIED

    async def destroy(self, key: str) -> bool:
        with self._lock:
            record = self._live(self._table.digest(key), self._begin())
            if record is None:
                return False
            self._table.drop(record)
            return True

    def _begin(self) -> float:
        now = self._clock()
        self._table.sweep(now)
        return now

    def _live(self, digest: bytes, now: float) -> _Record | None:
        record = self._table.find(digest)
        if record is not None and record.expires <= now:
            self._table.drop(record)
            return None
        return record

    def _write(
        self,
        digest: bytes,
        record: _Record | None,
        now: float,
        expires: float,
        idle: float,
        deadline: float,
        body: bytes,
    ) -> None:
        if not self._has_room(record, body):
            record = self._make_room(digest, record, now, body)
        if record is None:
            self._table.add(digest, expires, idle, deadline, body)
        else:
            self._table.rewrite(record, expires, idle, deadline, body)

    def _has_room(self, record: _Record | None, body: bytes) -> bool:
        if record is None and self._max_sessions is not None and self._table.sessions >= self._max_sessions:
            return False
        if self._max_bytes is None:
            return True
        return self._table.bytes_with(record is None, self._table.growth(record, body)) <= self._max_bytes

    def _make_room(self, digest: bytes, record: _Record | None, now: float, body: bytes) -> _Record | None:
        """Drop others until there is room, and return the record where it is then; else raise `StoreFullError`."""
        table = self._table
        if self._evicts and self._fits_alone(body):
            # The session that is written is no candidate: it is out of the table while the others are compared.
            if record is not None:
                table.drop(record)
            while not self._has_room(None, body) and (nearest := table.nearest()) is not None:
                table.drop(nearest)
            return None
        while (nearest := table.nearest()) is not None and nearest.expires <= now:
            table.drop(nearest)
            record = table.find(digest)
            if self._has_room(record, body):
                return record
        bounds = [f"max_sessions={self._max_sessions}"] if self._max_sessions is not None else []
        bounds += [f"max_bytes={self._max_bytes}"] if self._max_bytes is not None else []
        raise StoreFullError(
            f"the memory store is full ({table.sessions} sessions, {table.bytes_with()} bytes; {', '.join(bounds)}): "
            "raise the bound, shorten the lifetimes, or let it evict"
        )

    def _fits_alone(self, body: bytes) -> bool:
        return self._max_bytes is None or self._table.bytes_alone(body) <= self._max_bytes


def _times(lifetime: Lifetime, now: float) -> tuple[float, float, float]:
    idle, remaining = lifetime
    # No expiry is infinite: in the index that stands for a bucket in which nothing expires.
    deadline = sys.float_info.max if remaining is None else now + remaining
    return min(now + idle, deadline), idle, deadline


def _touched(record: _Record, content: _Content, now: float) -> float:
    return max(record.expires, min(now + content.idle, content.deadline))


def _bound(name: str, bound: int | None) -> int | None:
    if bound is not None and (isinstance(bound, bool) or not isinstance(bound, int) or bound < 1):
        raise ConfigurationError(f"{name} must be a whole number above 0, or None for no bound, not {bound!r}")
    return bound

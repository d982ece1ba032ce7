"""Sessions in the memory of this process, and of no other: for development, tests and applications of one process.

A session is one `bytes` in one of 4,096 dicts, none of them large. It begins with its expiry: the least expires first.
"""

import math
import struct
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from datetime import timedelta
from heapq import heappop, heappush
from typing import Any, Final, Literal, NamedTuple

import msgspec

from server_session._settings import count_of, require, seconds_if_given
from server_session.exceptions import ConfigurationError, StoreFullError
from server_session.stores._base import Batch, Colour, Kept, Outcome
from server_session.stores._packed import Change, Likely, PackedStore, Record, T
from server_session.stores._parameters import refuse_parameters
from server_session.stores._untracked import maker_of_untracked

__all__ = ["MemorySessionStore", "MemoryStats"]

# A record as it is kept: its expiry, idle time, deadline, its fields' names or the number of these, and their values.
_pack_into = msgspec.msgpack.Encoder().encode_into
_unpack = msgspec.msgpack.Decoder(tuple[float, float, float, Any, list[bytes]]).decode

# How MessagePack begins a record: an array of five, then a float. The bytes of floats from 0 are ordered as these are.
_ARRAY: Final = b"\x95\xcb"
_HEAD: Final = struct.Struct(">2sd")

# The first characters of a key name the dict it is in.
_PREFIX: Final = 2

# The records that are looked at for each call, to sweep those that have expired; and at most to make room.
_SWEPT: Final = 16
_COMPARED: Final = 1000

# Sessions of one application mostly have the same names. So many sets of so many are kept once, and numbered.
_NUMBERED: Final = 256
_NAMES: Final = 32

_OVERHEAD: Final = 80 + 32 + 41
"""Bytes that a session takes beside its record: its key, its part of a dict, and what an object has of its own."""


class MemoryStats(NamedTuple):
    """How much a `MemorySessionStore` holds."""

    sessions: int
    """Sessions in memory, with those that have expired and that no call has swept yet."""
    bytes: int
    """Bytes that they take, with their keys; not what Python keeps to spare for the next ones."""


class MemorySessionStore(PackedStore):
    """Keep sessions in this process's memory; they end with it, and no other process sees them.

    There is no thread and no timer: each call sweeps a few sessions that have expired, so an idle store keeps what it
    has until it is called again. Threads may share a store. Every touch is made, every expiry is exact.

    Arguments:
        max_age: idle seconds, or a timedelta, for its sessions, where `configure` says nothing; `None`: no opinion.
        max_sessions: the most sessions it holds; `None` for no bound.
        max_bytes: the most bytes it holds, by the count that `stats()` gives; `None` for no bound.
        when_full: `"refuse"` raises `StoreFullError` before anything is written, for a new session and for one that
            would grow. `"evict"` drops the session nearest to its expiry, whoever owns it, until there is room: the
            nearest of all in a store of up to about 1,000, the nearest of about 1,000 in a larger one.
        clock: returns the present in seconds, from 0, and never goes back.

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
        self.max_age = seconds_if_given("max_age", max_age)
        self._most_sessions = math.inf if max_sessions is None else count_of("max_sessions", max_sessions)
        self._most_bytes = math.inf if max_bytes is None else count_of("max_bytes", max_bytes)
        self._is_bounded = max_sessions is not None or max_bytes is not None
        self._bounds = f"max_sessions={max_sessions}, max_bytes={max_bytes}"
        require(when_full in ("refuse", "evict"), "when_full", '"refuse" or "evict"', when_full)
        if when_full == "evict" and not self._is_bounded:
            raise ConfigurationError('when_full="evict" needs a bound: set max_sessions or max_bytes')
        self.evicts = when_full == "evict"
        self._clock = clock
        # Held for the microseconds of one call, and never across an await.
        self._lock = threading.Lock()
        self._shards: defaultdict[str, dict[str, bytes]] = defaultdict(maker_of_untracked())
        self._sessions = self._bytes = 0
        # By shard, a moment before which none of its sessions expires; no touch moves it. The heap has these moments,
        # and former ones, which are passed over.
        self._dues: dict[str, float] = {}
        self._heap: list[tuple[float, str]] = []
        self._looked_at = 0
        self._buffer = bytearray()
        self._numbers: dict[tuple[str, ...], int] = {}
        self._names: list[tuple[str, ...]] = []

    @classmethod
    def from_url(cls, url: str) -> "MemorySessionStore":
        """Return a store, for the URL `memory:`; raises `ConfigurationError` where it says more."""
        refuse_parameters(url, "settings go to MemorySessionStore(…)", is_alone=True)
        return cls()

    def stats(self) -> MemoryStats:
        """Return how many sessions the store holds and how many bytes they take. It costs next to nothing."""
        with self._lock:
            return MemoryStats(self._sessions, self._bytes)

    async def list_records(self, after: str = "", most: int = 500) -> Batch:
        """Return some of the records that live; see `Listing.list_records`."""
        found: list[Kept] = []
        with self._lock:
            prefixes = sorted(prefix for prefix in self._shards if prefix >= after[:_PREFIX])
        for prefix in prefixes:
            with self._lock:
                keys = sorted(key for key in self._shards.get(prefix, ()) if key > after)
            found += [kept for key in keys if isinstance(kept := await self.read_record(key), Kept)]
            if len(found) >= most:
                return Batch(found, [], found[-1].key)
        return Batch(found, [], None)

    async def swap(self, key: str, change: Change[T], likely: Likely) -> T:  # noqa: ARG002
        """Let `change` say what becomes of the record; see `PackedStore.swap`."""
        with self._lock:
            now = self._clock()
            if self._heap and now >= self._heap[0][0]:
                self._sweep(now)
            shard = self._shards[key[:_PREFIX]]
            record = packed = None
            if key in shard:
                packed = shard[key]
                expires, idle, deadline, number, values = _unpack(packed)
                if expires > now:
                    names = self._names[number] if type(number) is int else number
                    record = Record(idle, deadline, expires, dict(zip(names, values, strict=True)))
                else:
                    self._drop(key)
                    packed = None
            changed: Record | Outcome | None = (decision := change(record, now))
            if changed is record or type(changed) is Outcome:
                return decision
            if type(changed) is not Record:
                self._drop(key)
            elif packed is not None and record is not None and changed.fields is record.fields:
                shard[key] = _HEAD.pack(_ARRAY, changed.expires) + packed[_HEAD.size :]
            else:
                self._write(key, packed, changed, now)
            return decision

    def _write(self, key: str, former: bytes | None, record: Record, now: float) -> None:
        names = (*record.fields,)
        if names not in self._numbers and len(self._names) < _NUMBERED and len(names) <= _NAMES:
            self._numbers[names] = len(self._names)
            self._names.append(names)
        number = self._numbers[names] if names in self._numbers else names  # noqa: SIM401 - each write comes by here
        expires = record.expires if record.expires > 0 else 0.0
        try:
            _pack_into((expires, record.idle, record.deadline, number, [*record.fields.values()]), self._buffer)
            # A copy takes what it needs; what the encoder returns takes the 512 bytes that it began with.
            packed = bytes(self._buffer)
        except MemoryError as error:
            raise StoreFullError("the memory store got no more memory from the system") from error
        if self._is_bounded:
            former = self._make_room(key, former, packed, now)
        prefix = key[:_PREFIX]
        self._shards[prefix][key] = packed
        self._bytes += len(packed) + (_OVERHEAD if former is None else -len(former))
        self._sessions += former is None
        if prefix not in self._dues or expires < self._dues[prefix]:
            self._schedule(prefix, packed)

    def _drop(self, key: str) -> None:
        prefix = key[:_PREFIX]
        shard = self._shards[prefix]
        self._bytes -= _OVERHEAD + len(shard.pop(key))
        self._sessions -= 1
        if not shard:
            del self._shards[prefix], self._dues[prefix]

    def _schedule(self, prefix: str, packed: bytes) -> None:
        """Let a shard be looked at when this record expires, which is the first of it to do so."""
        _, due = _HEAD.unpack_from(packed)
        self._dues[prefix] = due
        heappush(self._heap, (due, prefix))
        if len(self._heap) > 2 * len(self._dues) + _COMPARED:
            self._heap = sorted((moment, shard) for shard, moment in self._dues.items())

    def _next_due(self) -> str | None:
        """Return the shard whose turn is next."""
        while self._heap and self._dues.get(self._heap[0][1]) != self._heap[0][0]:
            heappop(self._heap)
        return self._heap[0][1] if self._heap else None

    def _sweep(self, now: float) -> None:
        """Drop what has expired in the shards that are due."""
        expired = _HEAD.pack(_ARRAY, now) + b"\xff"
        # A shard is looked at whole: after a large one so many calls look at none that each looks at 16 on average.
        self._looked_at = max(0, self._looked_at - _SWEPT)
        while self._looked_at < _SWEPT and (prefix := self._next_due()) is not None and self._dues[prefix] <= now:
            shard = self._shards[prefix]
            self._looked_at += len(shard)
            for key in [key for key, packed in shard.items() if packed <= expired]:
                self._drop(key)
            if shard:
                self._schedule(prefix, min(shard.values()))

    def _nearest(self) -> tuple[float, str] | None:
        """Return when the session nearest to its expiry expires, of all or of about 1,000, and its key."""
        found: tuple[float, str] | None = None
        looked_at = 0
        while looked_at < _COMPARED and (prefix := self._next_due()) and not (found and found[0] <= self._dues[prefix]):
            shard = self._shards[prefix]
            looked_at += len(shard)
            key = min(shard, key=shard.__getitem__)
            self._schedule(prefix, shard[key])
            found = min(found or (math.inf, key), (self._dues[prefix], key))
        return found

    def _make_room(self, key: str, former: bytes | None, packed: bytes, now: float) -> bytes | None:
        """Drop others until there is room, and return what then stands under the key; else raise `StoreFullError`."""
        evicts = self.evicts and _OVERHEAD + len(packed) <= self._most_bytes
        if evicts and former is not None:
            # The session that is written is no candidate: it is out of the way while the others are compared.
            self._drop(key)
            former = None
        most_sessions = self._most_sessions - (former is None)
        most_bytes = self._most_bytes - len(packed) - (_OVERHEAD if former is None else -len(former))
        while self._sessions > most_sessions or self._bytes > most_bytes:
            nearest = self._nearest()
            if nearest is None or not (evicts or nearest[0] <= now):
                raise StoreFullError(
                    f"the memory store is full ({self._sessions} sessions, {self._bytes} bytes; {self._bounds}): "
                    "raise the bound, shorten the lifetimes, or let it evict"
                )
            self._drop(nearest[1])
        return former

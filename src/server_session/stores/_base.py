"""The contract between the core and a store.

A record is a mapping of field names to bytes, with a lifetime. The store knows nothing of what they mean.
Every rule of sessions (renewal, log-out, single use, read-modify-write) follows from `expect`, in the core.
"""

import enum
import os
from collections.abc import Collection, Mapping
from typing import Any, ClassVar, Final, Literal, NamedTuple, Protocol, TypeAlias

from server_session._base64url import base64url
from server_session._colour import Colour, settled

__all__ = [
    "APPLIED",
    "CONFLICT",
    "MISSING",
    "Batch",
    "Colour",
    "Expect",
    "Fields",
    "Kept",
    "Lifetime",
    "Listing",
    "Outcome",
    "Refusal",
    "SessionStore",
    "close_store",
]


class Outcome(enum.Enum):
    """What became of a call to a store."""

    APPLIED = "applied"
    """The write was made, whole."""
    MISSING = "missing"
    """There is no record under the key (or it has expired). Nothing was written."""
    CONFLICT = "conflict"
    """There is a record, and it is not as expected. Nothing was written."""


APPLIED: Final = Outcome.APPLIED
MISSING: Final = Outcome.MISSING
CONFLICT: Final = Outcome.CONFLICT

Refusal: TypeAlias = Literal[Outcome.MISSING, Outcome.CONFLICT]

Fields: TypeAlias = dict[str, bytes]
"""A record's fields. Names are text of 1 to 255 bytes in UTF-8, without lone surrogates, NUL included;
values are any bytes, empty too, to 1 MiB each."""

Expect: TypeAlias = Mapping[str, bytes | None]
"""What must be so for a call to take place: a field and its bytes, or `None` where the field must be absent.
`{}` holds for any record."""


class Lifetime(NamedTuple):
    """How long a record lives, as two durations in seconds from now."""

    idle: float
    """Seconds without a touch after which the record expires."""
    remaining: float | None = None
    """Seconds to the deadline that no touch moves, or `None` for no deadline."""


class SessionStore:
    """What a store must do. Subclass it and define `get`, `set`, `merge` and `destroy`.

    **Records.** A record holds its fields, its idle time, its deadline and the moment it expires, all three by the
    store's own clock. `set` writes them; a `merge` with a `lifetime` writes them anew, without one it leaves idle time
    and deadline as they are. A *touch* moves the expiry to the earlier of now + idle and the deadline, and never
    moves it back. (A `lifetime` given may bring it forward: that is its purpose.) An expired record is no record.

    **Atomic.** Each call takes place whole or not at all, at one moment, among all the calls of all the processes that
    share the store. To read, and then to write if it was still so, is not atomic.

    **Expectations.** Names and values are compared as bytes. Where `expect` does not hold nothing is written and the
    record is not touched: who does not know a session's secret cannot keep it alive.

    **Failure.** What the server does not answer within a limit (2 seconds by default) raises `StoreError`; it never
    looks like an absent record. A call that is cancelled was made or not made, never half.

    All methods but `id` are coroutines. Over an instant or a blocking client they never suspend; `colour` says
    which kind a store is. Keys reach a store as 24 characters of base64url.
    """

    colour: Colour = Colour.AWAITS
    """Whether the store's client never waits, blocks or awaits. The safe answer is the default."""

    max_age: float | None = None
    """Idle seconds for sessions of this store, where `configure` says nothing; `None` for no opinion."""

    evicts: bool = False
    """Whether the store may drop records before they expire, to make room. It then serves no owners."""

    key_bytes: ClassVar[int] = 18

    def id(self) -> str:
        """Return a fresh key: 24 characters of base64url, 144 bits from the system's source of randomness."""
        return base64url(os.urandom(self.key_bytes)).decode("ascii")

    async def get(self, key: str, expect: Expect, touch: bool = True) -> Fields | Refusal:
        """Return all fields of the record, and restart its idle clock if `expect` holds and `touch` says so.

        `MISSING` if there is no record, `CONFLICT` if `expect` does not hold. The dict is the caller's own.
        """
        raise NotImplementedError

    async def set(self, key: str, fields: Fields, lifetime: Lifetime, expect: Expect | None = None) -> Outcome:
        """Write the whole record anew: these fields and no others, and this lifetime.

        With `expect=None` only if there is no record (`CONFLICT` if there is one); else only if there is one
        (`MISSING` if not) and `expect` holds (`CONFLICT` if not). `fields` is never empty.
        """
        raise NotImplementedError

    async def merge(
        self,
        key: str,
        changed: Mapping[str, bytes],
        removed: Collection[str],
        expect: Expect,
        lifetime: Lifetime | None = None,
    ) -> Outcome:
        """Write the `changed` fields, drop the `removed` ones, leave all others as they are, and touch the record.

        `MISSING` if there is no record, `CONFLICT` if `expect` does not hold. To remove a field that is not there
        is no error. `changed` and `removed` share no name; both may be empty. The caller never removes the last field.
        """
        raise NotImplementedError

    async def destroy(self, key: str) -> bool:
        """Drop the record; return whether there was one. To drop what is not there is no error."""
        raise NotImplementedError


class Kept(NamedTuple):
    """A record as a store keeps it, for who copies or counts records."""

    key: str
    fields: Fields
    lifetime: Lifetime
    """Its idle time, and what is left to its deadline, in seconds."""
    left: float
    """Seconds until it expires, if nobody touches it."""


class Batch(NamedTuple):
    """Some of a store's records, and where the next ones begin."""

    records: list[Kept]
    unreadable: list[str]
    """The keys of those that cannot be read."""
    after: str | None
    """For the next call of `list_records`; `None` where there are no more."""


class Listing(Protocol):
    """What a store may have beyond the contract, so that its sessions can be counted, and moved to another store.

    Neither touches a record. Look for them with `hasattr`: a store over another passes them on.
    """

    async def read_record(self, key: str) -> Kept | Literal[Outcome.MISSING]:
        """Return a record with its lifetime, `MISSING` if there is none."""
        ...

    async def list_records(self, after: str = "", most: int = 500) -> Batch:
        """Return about so many of the records that live, from the first, or from where the batch before ended.

        All batches together have each record that was there from the first call to the last, once or more often, and
        any of those that came or went meanwhile.
        """
        ...


async def close_store(store: Any) -> None:
    """Close the connections of a store that has any; its `close` may be a coroutine, or done at once."""
    await settled(store.close() if hasattr(store, "close") else None)

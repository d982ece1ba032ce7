"""The settings that a session's life depends on."""

import time
from collections.abc import Callable, Collection, Mapping
from typing import Final, Literal, NamedTuple, TypeAlias

from server_session._owners import OwnerIndex
from server_session._record import AS_CONFIGURED, Life
from server_session._signals import Signals
from server_session.stores._base import Lifetime, SessionStore
from server_session.stores._waits import OneLimit

__all__ = ["MAX_BYTES", "MAX_FIELDS", "AtMaxSessions", "Policy", "Wish"]

AtMaxSessions: TypeAlias = Literal["end_oldest", "refuse"]
"""What becomes of a log-in whose owner has as many sessions as are allowed."""

MAX_BYTES: Final = 1 << 20
MAX_FIELDS: Final = 1000


class Wish(NamedTuple):
    """A key of the application's data whose value says how long its session lives, in a framework's own words."""

    name: str
    lifetime: Callable[[bytes | None, Lifetime], Lifetime]
    """Given the value as stored, `None` where it was taken out, and the usual lifetime: of no later deadline."""


class Policy(NamedTuple):
    """The settings that a session's life depends on. Times in seconds.

    `max_bytes` and `max_fields` bound the keys and values of the application, as they are stored. A write that would
    exceed them is refused wherever the whole session is known, and a `set_session_data` or renewal of more than a
    sixteenth of a bound looks at the rest first; so only many small writes can exceed it, to the first write that knows
    the whole. One that makes a session smaller is never refused.
    """

    store: SessionStore
    idle: float
    absolute: float | None
    renew_on: frozenset[str] = frozenset()
    signals: Signals = Signals()
    now: Callable[[], float] = time.time
    max_sessions: int | None = None
    at_max_sessions: AtMaxSessions = "end_oldest"
    device_details: bool = False
    max_bytes: int = MAX_BYTES
    max_fields: int = MAX_FIELDS
    token_age: float | None = None
    single_use: bool = False
    wish: Wish | None = None

    def lifetime_of(self, life: Life = AS_CONFIGURED, age: float = 0.0) -> Lifetime:
        """Return the lifetime of a session of this age, of which renewals have asked this."""
        absolute = self.absolute if life.absolute is None else life.absolute
        idle = self.idle if life.idle is None else life.idle
        return Lifetime(idle, None if absolute is None else absolute - age)

    def lifetime_with(self, fields: Mapping[str, bytes], life: Life = AS_CONFIGURED, age: float = 0.0) -> Lifetime:
        """Return what `lifetime_of` does, as the application's own data wishes it where a write brings these fields."""
        lifetime = self.lifetime_of(life, age)
        return lifetime if self.wish is None else self.wish.lifetime(fields.get(self.wish.name), lifetime)

    def is_wish(self, changed: Collection[str], removed: Collection[str]) -> bool:
        """Tell whether a write brings a wish for another lifetime, or takes one back."""
        return self.wish is not None and (self.wish.name in changed or self.wish.name in removed)

    def is_log_in(self, changed: Mapping[str, bytes], assigned: Collection[str]) -> bool:
        """Tell whether one of the assigned keys means log-in, and has a value now."""
        return any(changed.get(name, b"null") != b"null" for name in self.renew_on.intersection(assigned))

    def with_one_limit(self) -> "Policy":
        """Return these for one request, whose calls to the store have together the limit of one."""
        return self._replace(store=OneLimit(self.store))

    @property
    def owners(self) -> OwnerIndex:
        """The sessions of each owner."""
        refuses = self.at_max_sessions == "refuse"
        return OwnerIndex(self.store, self.absolute, self.now, self.max_sessions, refuses=refuses)

"""The settings that a session's life depends on, and how large it may be."""

import time
from collections.abc import Callable, Collection, Mapping
from typing import Final, NamedTuple

from server_session._codec import MAX_NAME_BYTES
from server_session._readers import Reader
from server_session._record import AS_CONFIGURED, Life, user_fields
from server_session._signals import Signals
from server_session.exceptions import LimitError
from server_session.stores._base import Fields, Lifetime, SessionStore
from server_session.stores._waits import OneLimit

MAX_BYTES: Final = 1 << 20
MAX_FIELDS: Final = 1000
# A write smaller than this part of a bound is not worth a look at what is there.
_LARGE: Final = 1 / 16
_NAMED_AT_MOST: Final = 5
_NAME_LENGTH: Final = 100


class Wish(NamedTuple):
    """A key of the application's data whose value says how long its session lives, in a framework's own words."""

    name: str
    lifetime: Callable[[bytes | None, Lifetime], Lifetime]
    """Makes a lifetime, of no later deadline, of the stored value, `None` if it was removed, and the usual lifetime."""


class Policy(NamedTuple):
    """The settings that a session's life depends on. Times in seconds.

    A write is held to the bounds wherever the whole session is known, and a `set_session_data` or renewal of more than
    a sixteenth of a bound looks at the rest first: so only many small writes can exceed one.
    """

    store: SessionStore
    idle: float
    absolute: float | None
    renew_on: frozenset[str] = frozenset()
    signals: Signals = Signals()
    now: Callable[[], float] = time.time
    max_sessions: int | None = None
    max_bytes: int = MAX_BYTES
    max_fields: int = MAX_FIELDS
    token_age: float | None = None
    single_use: bool = False
    wish: Wish | None = None
    adopt: tuple[Reader, ...] = ()

    def lifetime_of(
        self, life: Life = AS_CONFIGURED, age: float = 0.0, written: Mapping[str, bytes] | None = None
    ) -> Lifetime:
        """Return the lifetime of a session of this age; `life` is what renewals asked of it.

        `written` are the fields of a write: the application's wish for a lifetime is taken from these alone.
        """
        absolute = self.absolute if life.absolute is None else life.absolute
        idle = self.idle if life.idle is None else life.idle
        lifetime = Lifetime(idle, None if absolute is None else absolute - age)
        if written is None or self.wish is None:
            return lifetime
        return self.wish.lifetime(written.get(self.wish.name), lifetime)

    def is_wish(self, changed: Collection[str], removed: Collection[str]) -> bool:
        """Tell whether a write brings a wish for another lifetime, or takes one back."""
        return self.wish is not None and (self.wish.name in changed or self.wish.name in removed)

    def is_log_in(self, changed: Mapping[str, bytes], assigned: Collection[str]) -> bool:
        """Tell whether one of the assigned keys means log-in, and has a value now."""
        return any(changed.get(name, b"null") != b"null" for name in self.renew_on.intersection(assigned))

    def with_one_limit(self) -> "Policy":
        """Return the policy of one request, whose calls to the store share the time limit of a single call."""
        return Policy(OneLimit(self.store), *self[1:])

    def is_large(self, changed: Mapping[str, bytes]) -> bool:
        """Tell whether a write is so large that the size of the whole session must be looked up."""
        return len(changed) > self.max_fields * _LARGE or _bytes_of(changed) > self.max_bytes * _LARGE

    def require_bounds(self, before: Fields, changed: Mapping[str, bytes], removed: Collection[str] = ()) -> None:
        """Raise `LimitError` if these changes would make a session grow beyond its bounds."""
        if excess := self.excess_of(before, changed, removed):
            raise LimitError(f"{excess}; nothing was written. Keep it elsewhere and its id here, or raise the bound")

    def excess_of(self, before: Fields, changed: Mapping[str, bytes], removed: Collection[str]) -> str | None:
        """Say by what these changes would make a session grow beyond its bounds; `before` is what is known of it."""
        # A quick upper bound clears most: nothing removed or written over, all names long, the core's own counted.
        count = len(before) + len(changed)
        size = count * MAX_NAME_BYTES + sum(map(len, before.values())) + sum(map(len, changed.values()))
        if count <= self.max_fields and size <= self.max_bytes:
            return None
        news, was = user_fields(changed), user_fields(before)
        will_be = {name: value for name, value in was.items() if name not in removed} | news
        fields, size = len(will_be), _bytes_of(will_be)
        # To make a session smaller is allowed, however large it is still.
        if fields > self.max_fields and fields > len(was):
            fresh = _named(news.keys() - was.keys(), news)
            return f"{fresh}: the session would have {fields} keys, above max_fields={self.max_fields}"
        if size > self.max_bytes and size > _bytes_of(was):
            return f"{_named(news, news)}: the session would take {size} bytes, above max_bytes={self.max_bytes}"
        return None


def _named(names: Collection[str], fields: Mapping[str, bytes]) -> str:
    sizes = sorted(((_bytes_of({name: fields[name]}), name) for name in names), reverse=True)
    named = ", ".join(f"{name[:_NAME_LENGTH]!r} ({size} bytes)" for size, name in sizes[:_NAMED_AT_MOST])
    more = len(sizes) - _NAMED_AT_MOST
    return f"session key{'s' if len(sizes) > 1 else ''} {named}{f' and {more} more' if more > 0 else ''}"


def _bytes_of(fields: Mapping[str, bytes]) -> int:
    return len("".join(fields).encode()) + sum(map(len, fields.values()))

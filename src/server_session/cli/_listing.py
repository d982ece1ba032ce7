"""The records of a store, one after the other."""

from collections.abc import AsyncIterator
from typing import Any, Final, NamedTuple

from server_session._sessions import Sessions
from server_session.cli._opening import opened
from server_session.exceptions import ConfigurationError, RecordError
from server_session.stores._base import Fields

__all__ = ["Listed", "each_record"]

_A_BATCH: Final = 500


class Listed(NamedTuple):
    """A record, by its key."""

    key: str
    fields: Fields | None
    """`None` where it cannot be read."""
    size: int = 0
    """The bytes of its fields, as they are stored."""


async def each_record(sessions: Sessions) -> AsyncIterator[Listed]:
    """Yield each living record. One that came or went meanwhile may be among them, and one may be yielded twice.

    Raises `ConfigurationError` for a store that cannot list what it holds.
    """
    store: Any = sessions.policy.store
    if not hasattr(store, "list_records"):
        named = getattr(sessions.store, "named", type(sessions.store).__name__)
        raise ConfigurationError(f"a {named} cannot list what it holds")
    after: str | None = ""
    while after is not None:
        batch = await store.list_records(after, _A_BATCH)
        for kept in batch.records:
            size = sum(len(name.encode()) + len(value) for name, value in kept.fields.items())
            try:
                yield Listed(kept.key, opened(store, kept.key, kept.fields), size)
            except RecordError:
                yield Listed(kept.key, None, size)
        for key in batch.unreadable:
            yield Listed(key, None)
        after = batch.after

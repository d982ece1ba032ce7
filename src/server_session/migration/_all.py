"""Moving all that a store holds, while applications use it."""

import asyncio
from collections.abc import Callable
from typing import NamedTuple

from server_session._colour import run_awaiting
from server_session._record import ENDED, LONGEST
from server_session._settings import count_of, flag_of
from server_session._tokens import is_selector
from server_session.exceptions import ConfigurationError, LimitError, RecordError
from server_session.migration._moving import MovingStore, listing
from server_session.stores._base import Kept, SessionStore, close_store

__all__ = ["Migrated", "migrate"]


class Migrated(NamedTuple):
    """What `migrate` found, and did."""

    sessions: int = 0
    """Sessions that were moved, or are to be; what is noted of another library's (`adopt`) counts as one."""
    owners: int = 0
    """Owners' lists of sessions, likewise."""
    marks: int = 0
    """The marks of sessions that ended within the minute, likewise."""
    unreadable: int = 0
    """Records that cannot be read, and stay where they are."""
    refused: int = 0
    """Records that the new store does not take: an owner's list where it evicts, or what is too large for it."""


async def migrate(
    old: SessionStore | str,
    new: SessionStore | str,
    *,
    dry_run: bool = False,
    at_once: int = 16,
    tell: Callable[[Migrated], None] | None = None,
) -> Migrated:
    """Move all sessions from one store to another, while applications use both by a `MovingStore`.

    It may be stopped at any moment, run again, and run several times at once. It ends when there is nothing left in the
    old store that could move. A session's idle clock starts anew as it moves; its deadline stays.

    Args:
        old: The store that the sessions are in, or its URL.
        new: The store that they are to be in, or its URL.
        dry_run: Only count. Nothing is written.
        at_once: How many records to move at a time.
        tell: Called with the counts so far, after each batch.

    Returns:
        The counts.

    Raises:
        ConfigurationError: The old store cannot list what it holds, the two cannot be used together or are one, or
            `at_once` is no whole number above 0.
        StoreError: One of them did not answer. What was moved until then is moved.

    """
    count_of("migrate's at_once", at_once)
    flag_of("migrate's dry_run", dry_run)
    moving = MovingStore(old, new)
    try:
        return await _migrated(moving, at_once, tell, dry_run=dry_run)
    finally:
        # A store that was given may be in use elsewhere; one that was opened by its URL is used here alone.
        for given, store in ((old, moving.old), (new, moving.new)):
            if isinstance(given, str):
                await close_store(store)


async def _migrated(
    moving: MovingStore, at_once: int, tell: Callable[[Migrated], None] | None, *, dry_run: bool
) -> Migrated:
    if not callable(getattr(moving.old, "list_records", None)):
        raise ConfigurationError(f"a {type(moving.old).__name__} cannot list what it holds, so nothing can be moved")
    counts = Migrated()
    has_moved = True
    while has_moved:
        has_moved = False
        counts = counts._replace(unreadable=0, refused=0)
        after: str | None = ""
        while after is not None:
            batch = await run_awaiting(moving.old.colour, listing(moving.old).list_records(after))
            done = [name for name in await _moved(moving, batch.records, at_once, dry_run=dry_run) if name]
            has_moved |= not dry_run and not set(done) <= {"unreadable", "refused"}
            for name in (*done, *["unreadable"] * len(batch.unreadable)):
                counts = counts._replace(**{name: getattr(counts, name) + 1})
            if tell is not None:
                tell(counts)
            after = batch.after
    return counts


async def _moved(moving: MovingStore, records: list[Kept], at_once: int, *, dry_run: bool) -> list[str | None]:
    """Move some records; return for each the count that it belongs to, `None` where it had gone already."""
    free = asyncio.Semaphore(at_once)

    async def move(kept: Kept) -> str | None:
        if not is_selector(kept.key):
            return "unreadable"
        kind = "marks" if ENDED in kept.fields else "owners" if LONGEST in kept.fields else "sessions"
        if kind == "owners" and moving.evicts:
            return "refused"
        if dry_run:
            return kind
        async with free:
            try:
                return kind if await run_awaiting(moving.colour, moving.move(kept.key)) else None
            except RecordError:
                return "unreadable"
            except LimitError:
                return "refused"

    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(move(kept)) for kept in records]
    except BaseExceptionGroup as failed:
        # A single error is promised, and no group; mostly all fail for the same reason.
        raise failed.exceptions[0] from None
    return [task.result() for task in tasks]

"""`server-session migrate`: move all sessions from one store to another."""

import asyncio
from typing import Any

import click

from server_session.cli._commands import FINDINGS, Command, place_options
from server_session.cli._opening import open_bare, places_of
from server_session.cli._output import Answer, plain, progress, shown_url
from server_session.migration import Migrated, migrate
from server_session.stores._base import close_store

__all__ = ["command"]


@click.command(cls=Command)
@click.argument("source", envvar="SERVER_SESSION_SOURCE")
@click.argument("target", envvar="SERVER_SESSION_TARGET")
@click.option("--dry-run", is_flag=True, help="Count, say what cannot move, and write nothing.")
@click.option("--at-once", type=click.IntRange(min=1), default=16, show_default=True, help="Records at a time.")
@place_options
def command(
    source: str,
    target: str,
    dry_run: bool,
    at_once: int,
    prefix: str | None,
    table: str | None,
    timeout: float,
) -> Answer:
    """Move all sessions from the store at SOURCE to the one at TARGET, while applications use both.

    They do so by a MovingStore: deploy that first (docs/moving-stores.md). It may be stopped and run again. --prefix
    and --table are those of whichever of the two has them.
    """
    places = places_of((source, target), prefix, table, timeout)

    async def whole() -> Migrated:
        old, new = map(open_bare, places)
        try:
            found = await migrate(old, new, dry_run=True)
            if dry_run:
                return found
            with progress("moving") as bar:
                task = bar.add_task("moving", total=_movable(found))
                return await migrate(
                    old, new, at_once=at_once, tell=lambda counts: bar.update(task, completed=_movable(counts))
                )
        finally:
            for store in (old, new):
                await close_store(store)

    counts = asyncio.run(whole())
    data: dict[str, Any] = {"source": shown_url(source), "target": shown_url(target), "dry_run": dry_run}
    said = "would move" if dry_run else "moved"
    shown = [f"{counts.sessions:,} sessions, {counts.owners:,} owners' lists and {counts.marks:,} marks {said}"]
    if counts.refused:
        shown.append(f"{counts.refused:,} stay: an owner's list in a store that evicts, or too large for the target")
    if counts.unreadable:
        shown.append(f"{counts.unreadable:,} stay: they cannot be read")
    stays = counts.refused or counts.unreadable
    return Answer({**data, **counts._asdict()}, plain("\n".join(shown)), FINDINGS if stays else 0)


def _movable(counts: Migrated) -> int:
    return counts.sessions + counts.owners + counts.marks

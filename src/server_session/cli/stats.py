"""`server-session stats`: how many sessions there are, of whom, how large and how old."""

import time
from typing import Any, Final

import click
from rich.console import Group, RenderableType
from rich.table import Table

from server_session import _record as record
from server_session._sessions import Sessions
from server_session.cli._commands import Command, on_store
from server_session.cli._listing import each_record
from server_session.cli._output import Answer, plain, progress, size_of, span_of
from server_session.exceptions import RecordError

__all__ = ["command"]

_AGES: Final = (60, 600, 3600, 6 * 3600, 86_400, 7 * 86_400, 30 * 86_400)
_WIDTH: Final = 40


@click.command(cls=Command)
@click.option(
    "--limit", type=click.IntRange(min=1), default=100_000, show_default=True, help="Look at so many records."
)
@on_store
async def command(sessions: Sessions, limit: int) -> Answer:
    """Count sessions, their bytes and their owners, and show how old they are, without keeping them alive."""
    told: dict[str, Any] = {"sessions": 0, "with_owner": 0, "owners": 0, "bytes": 0, "ended": 0, "unreadable": 0}
    owners, ages, looked_at, is_sample = set[str](), [0] * (len(_AGES) + 1), 0, False
    with progress("counting") as bar:
        task = bar.add_task("counting", total=None)
        async for listed in each_record(sessions):
            if looked_at == limit:
                is_sample = True
                break
            looked_at += 1
            bar.advance(task)
            fields = listed.fields or {}
            if record.DIGEST in fields:
                try:
                    age = time.time() - record.time_of(fields, record.CREATED)
                    owner = record.owner_of(fields) if record.OWNER in fields else None
                except RecordError:
                    told["unreadable"] += 1
                    continue
                told["sessions"] += 1
                told["bytes"] += listed.size
                ages[sum(age >= bound for bound in _AGES)] += 1
                if owner is not None:
                    told["with_owner"] += 1
                    owners.add(owner)
            elif listed.fields is None:
                told["unreadable"] += 1
            elif record.ENDED in fields:
                told["ended"] += 1
    told["owners"] = len(owners)
    bounds = [*map(float, _AGES), None]
    told["ages"] = [{"below_seconds": bound, "sessions": count} for bound, count in zip(bounds, ages, strict=True)]
    told |= {"records_looked_at": looked_at, "is_sample": is_sample}
    return Answer(told, _shown(told))


def _shown(told: dict[str, Any]) -> RenderableType:
    figures = Table(box=None, pad_edge=False, show_header=False)
    mean = told["bytes"] / told["sessions"] if told["sessions"] else 0
    rows = {
        "sessions": f"{told['sessions']:,}",
        "owners": f"{told['owners']:,} of {told['with_owner']:,} sessions",
        "bytes": f"{size_of(told['bytes'])}, {size_of(mean)} a session",
        "ended within the minute": f"{told['ended']:,}",
    }
    if told["unreadable"]:
        rows["cannot be read"] = f"{told['unreadable']:,}"
    for name, figure in rows.items():
        figures.add_row(name, figure)
    ages = Table(box=None, pad_edge=False, show_header=False)
    ages.add_column(justify="right")
    ages.add_column(justify="right")
    ages.add_column()
    most = max(one["sessions"] for one in told["ages"]) or 1
    for one in told["ages"]:
        bound = one["below_seconds"]
        name = f"below {span_of(bound)}" if bound else "older"
        ages.add_row(name, f"{one['sessions']:,}", "█" * round(_WIDTH * one["sessions"] / most))
    sample = f"a sample: the first {told['records_looked_at']:,} records (--limit)"
    return Group(*([plain(sample, "yellow")] if told["is_sample"] else []), figures, "", plain("ages", "bold"), ages)

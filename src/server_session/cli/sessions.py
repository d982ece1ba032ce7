"""`server-session sessions`: the sessions of an owner."""

import json
from typing import Any

import click
from rich.console import Group
from rich.table import Table

from server_session._owners import OwnedSession
from server_session._record import user_fields
from server_session._sessions import Sessions
from server_session.cli._commands import FINDINGS, Command, on_store
from server_session.cli._output import Answer, plain
from server_session.exceptions import RecordError

__all__ = ["command"]


@click.command(cls=Command)
@click.argument("owner")
@click.option("--values", "with_values", is_flag=True, help="Show what the sessions hold, too.")
@on_store
async def command(sessions: Sessions, owner: str, with_values: bool) -> Answer:
    """List the sessions of an OWNER that live, the oldest first, without keeping them alive.

    An id names a session to `end`, and opens nothing: a visitor's cookie has a secret besides. What sessions hold is
    shown with --values alone.
    """
    found: list[dict[str, Any]] = []
    for one in await sessions.sessions_of(owner):
        told: dict[str, Any] = {
            "id": one.id,
            "created": one.created.isoformat(),
            "last_seen": one.last_seen.isoformat(),
        }
        if with_values:
            told["values"] = await _values_of(sessions, one)
        found.append(told)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("id", "created", "last seen", *(["values"] if with_values else [])):
        table.add_column(column, overflow="fold", no_wrap=column == "id")
    for told in found:
        seen = [told["id"], *(told[name][:16].replace("T", " ") for name in ("created", "last_seen"))]
        values = [json.dumps(told["values"])] if with_values else []
        table.add_row(*map(plain, [*seen, *values]))
    shown = table if found else plain(f"no session of {owner} lives")
    return Answer({"owner": owner, "sessions": found}, Group(shown), 0 if found else FINDINGS)


async def _values_of(sessions: Sessions, one: OwnedSession) -> dict[str, Any]:
    fields = await sessions.policy.store.get(one.id, {}, False)
    try:
        return {
            name: json.loads(text) for name, text in user_fields(fields if isinstance(fields, dict) else {}).items()
        }
    except ValueError as error:
        raise RecordError(f"a session of the owner cannot be read: {error}") from error

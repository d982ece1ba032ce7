"""`server-session end`: log out an owner, a session, or everybody."""

import time

import click

from server_session import _record as record
from server_session._sessions import Sessions
from server_session.cli._commands import FINDINGS, Command, on_store
from server_session.cli._listing import each_record
from server_session.cli._output import Answer, plain, progress
from server_session.stores._base import APPLIED

__all__ = ["command"]


@click.command(cls=Command)
@click.argument("owner", required=False)
@click.option("--only", metavar="ID", help="End this one of the owner's sessions.")
@click.option("--all", "everybody", is_flag=True, help="End every session of the store, in the place of an OWNER.")
@click.option("--yes", is_flag=True, help="Do not ask before all are ended.")
@on_store
async def command(sessions: Sessions, owner: str | None, only: str | None, everybody: bool, yes: bool) -> Answer:
    """End all sessions of an OWNER, one of them, or every session of the store.

    What has ended stays so: a late write of a request under way is dropped. With --all sessions that are founded
    meanwhile may stay.
    """
    if (owner is None) is not everybody:
        raise click.UsageError("name an OWNER, or say --all")
    if owner is not None:
        ended = await sessions.destroy_sessions_of(owner, only=only)
    elif only is not None:
        raise click.UsageError("--only ID belongs to an OWNER")
    else:
        ended = await _end_all(sessions) if yes or _is_meant() else 0
    shown = plain(f"{ended:,} session{'s' * (ended != 1)} ended")
    return Answer({"owner": owner, "ended": ended}, shown, 0 if ended else FINDINGS)


def _is_meant() -> bool:
    try:
        return click.confirm("End every session of this store?", err=True)
    except click.Abort:
        return False


async def _end_all(sessions: Sessions) -> int:
    store, ended = sessions.policy.store, 0
    with progress("ending") as bar:
        task = bar.add_task("ending", total=None)
        async for listed in each_record(sessions):
            bar.advance(task)
            if listed.fields is None:
                # A record that cannot be read may be a session, and must not outlive the others.
                ended += await store.destroy(listed.key)
            elif record.DIGEST in listed.fields:
                mark = record.mark_of(time.time())
                ended += await store.set(listed.key, mark, record.MARK_LIFETIME, {}) is APPLIED
    return ended

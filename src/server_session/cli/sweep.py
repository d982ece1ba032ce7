"""`server-session sweep`: delete what has expired, where the server does not."""

from typing import Any, Final

import click

from server_session._sessions import Sessions
from server_session.cli._commands import Command, on_store
from server_session.cli._output import Answer, plain, progress

__all__ = ["command"]

_AT_ONCE: Final = 1000


@click.command(cls=Command)
@click.option("--limit", type=click.IntRange(min=1), default=100_000, show_default=True, help="Delete so many at most.")
@on_store
async def command(sessions: Sessions, limit: int) -> Answer:
    """Delete sessions that have expired from a database or a directory.

    Redis and memcached do so by themselves.
    """
    store: Any = sessions.store
    deleted, said = 0, "nothing to do: the server drops by itself what has expired"
    if hasattr(store, "delete_expired"):
        with progress("sweeping") as bar:
            task = bar.add_task("sweeping", total=limit)
            while deleted < limit:
                asked = min(_AT_ONCE, limit - deleted)
                gone = await store.delete_expired(asked)
                deleted += gone
                bar.advance(task, gone)
                if gone < asked:
                    break
        said = f"{deleted:,} deleted" + ("" if deleted < limit else "; there may be more, for that was the limit")
    return Answer({"deleted": deleted, "is_whole": deleted < limit}, plain(said))

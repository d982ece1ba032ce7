"""The commands, each found by its module's name, and what all those that ask a store have in common."""

import asyncio
import importlib
import pkgutil
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, Final

import click

from server_session.cli._opening import open_place, places_of
from server_session.cli._output import Answer, show, show_failure
from server_session.exceptions import SessionError, StoreError
from server_session.stores._base import close_store

__all__ = ["FINDINGS", "UNREACHABLE", "USAGE", "Command", "Commands", "on_store", "place_options"]

FINDINGS: Final = 1
"""The exit code where something was found, or there was nothing to do."""
USAGE: Final = 2
"""The exit code of what cannot be asked for: click's own."""
UNREACHABLE: Final = 3
"""The exit code where the store did not answer, or not as it must."""


class Command(click.Command):
    """A command that returns an `Answer`, shown as text or as JSON."""

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self.params.append(click.Option(["--json", "as_json"], is_flag=True, help="Print one JSON object."))

    def make_context(self, info_name: str | None, args: list[str], *rest: Any, **settings: Any) -> click.Context:
        """Read the arguments; what is wrong with them is said as all else is."""
        as_json = "--json" in args
        try:
            return super().make_context(info_name, args, *rest, **settings)
        except click.UsageError as error:
            if not as_json:
                raise
            show_failure("usage", error.format_message(), as_json=True)
            raise click.exceptions.Exit(USAGE) from None

    def invoke(self, ctx: click.Context) -> None:
        """Run it, show what it says, and leave with its exit code."""
        as_json = ctx.params.pop("as_json")
        try:
            answer: Answer = super().invoke(ctx)
        except StoreError as error:
            show_failure("store", str(error), as_json=as_json)
            ctx.exit(UNREACHABLE)
        except (SessionError, click.UsageError) as error:
            show_failure("usage", str(error), as_json=as_json)
            ctx.exit(USAGE)
        show(answer, as_json=as_json)
        ctx.exit(answer.code)


class Commands(click.Group):
    """Look at server-side sessions, and keep them in order.

    A store is named by its URL, in --store or in the environment variable SERVER_SESSION_STORE. Exit codes: 0 all is
    well, 1 something was found or nothing was there to do, 2 it cannot be asked for, 3 the store did not answer.
    """

    def __init__(self) -> None:
        super().__init__(help=type(self).__doc__)

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        """Return the names of the public modules beside this one."""
        beside = pkgutil.iter_modules([str(Path(__file__).parent)])
        return sorted(found.name for found in beside if not found.name.startswith("_"))

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return what the module of this name has as its `command`."""
        if cmd_name not in self.list_commands(ctx):
            return None
        command: click.Command = importlib.import_module(f"{__package__}.{cmd_name}").command
        return command


_PLACE: Final = (
    click.option("--prefix", help="What the keys begin with, on Redis and memcached.  [default: session:]"),
    click.option("--table", help="The table's name, in SQL.  [default: server_sessions]"),
    click.option(
        "--timeout",
        type=click.FloatRange(min=0, min_open=True),
        default=10.0,
        show_default=True,
        help="Seconds for the store to answer.",
    ),
)


def place_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options that say where in a store its sessions are."""
    for option in reversed(_PLACE):
        function = option(function)
    return function


def on_store(function: Callable[..., Coroutine[Any, Any, Answer]]) -> Callable[..., Any]:
    """Make a command of a coroutine function over the sessions of the store that the options name.

    Each runs on an event loop of its own, which a blocking store may stall: nobody else waits on it.
    """

    def run(
        store: str, prefix: str | None, table: str | None, timeout: float, key_file: str | None, **rest: Any
    ) -> Answer:
        (place,) = places_of((store,), prefix, table, timeout)

        async def whole() -> Answer:
            sessions = open_place(place, key_file)
            try:
                return await function(sessions, **rest)
            finally:
                await close_store(sessions.store)

        return asyncio.run(whole())

    run.__doc__, run.__name__ = function.__doc__, function.__name__
    # click keeps here what the decorators of options have given.
    vars(run).update(vars(function))
    run = place_options(run)
    run = click.option(
        "--key-file",
        type=click.Path(exists=True, dir_okay=False),
        help="Of encrypted sessions: a file with a key a line, the newest last. Or the variable SERVER_SESSION_KEYS.",
    )(run)
    return click.option("--store", envvar="SERVER_SESSION_STORE", required=True, show_envvar=True, help="The URL.")(run)

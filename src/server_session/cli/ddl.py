"""`server-session ddl`: the statements that make the table of sessions."""

import click

from server_session.cli._commands import Command
from server_session.cli._output import Answer

__all__ = ["command"]


@click.command(cls=Command)
@click.option("--dialect", type=click.Choice(["postgresql", "mysql", "mariadb", "sqlite"]), required=True)
@click.option("--table", default="server_sessions", show_default=True, help="The table's name.")
def command(dialect: str, table: str) -> Answer:
    """Print the statements that make the table of sessions, without connecting anywhere."""
    try:
        from server_session.stores.sql import ddl
    except ModuleNotFoundError as error:
        raise click.UsageError(f"needs {error.name!r}: it comes with the extra [sql] of server-session") from error
    text = ddl(dialect, table)
    return Answer({"dialect": dialect, "table": table, "ddl": text}, text)

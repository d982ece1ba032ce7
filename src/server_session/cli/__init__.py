"""The command `server-session`: each module here that is public is a command of its name."""

import sys
from typing import Final

__all__ = ["main"]

_NEEDED: Final = ("click", "rich")


def main() -> None:
    """Run the command line, and leave with its exit code."""
    try:
        from server_session.cli._commands import Commands
    except ModuleNotFoundError as error:
        if error.name not in _NEEDED:
            raise
        sys.stderr.write(
            f"server-session needs {error.name!r}, which is not installed: it comes with the extra [cli] "
            "(pip install 'server-session[cli]')\n"
        )
        sys.exit(2)
    Commands()(prog_name="server-session")

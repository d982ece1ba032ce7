"""What can be wrong with a directory of sessions."""

from pathlib import Path
from typing import Any, Final

from server_session.cli._opening import require_owner
from server_session.cli.doctor._disk import look_at_kind, look_at_rights, look_at_room
from server_session.cli.doctor._findings import Report

__all__ = ["OTHERWISE", "look"]

OTHERWISE: Final = ("directory", "give a directory that this user may make, read and write to")
"""The code and the mend of whatever the system refuses there."""


async def look(store: Any, report: Report) -> None:
    """Look at the directory, and at the disk that it is on."""
    directory = Path(store._files.directory)
    require_owner(store._files.directory)
    report.facts["durable"] = store._files._durable
    look_at_rights(directory, report)
    look_at_room(directory, report)
    look_at_kind(directory, report)

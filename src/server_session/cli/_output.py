"""What the commands print: text for people, one JSON object for programs, and nothing that opens a session."""

import json
import re
import sys
from typing import Any, NamedTuple

from rich.console import Console, Group, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.text import Text

__all__ = ["Answer", "plain", "progress", "show", "show_failure", "shown_url", "size_of", "span_of"]

_MINUTE, _HOUR, _DAY = 60, 3600, 86400


class Answer(NamedTuple):
    """What a command found."""

    data: dict[str, Any]
    """The JSON object, for programs."""
    shown: RenderableType
    """The text for people; a `str` is written without any formatting."""
    code: int = 0
    """The exit code."""


def show(answer: Answer, *, as_json: bool) -> None:
    """Print an answer."""
    if as_json:
        # json.dumps writes ASCII, and escapes what would command a terminal.
        sys.stdout.write(json.dumps(answer.data, indent=2) + "\n")
    elif isinstance(answer.shown, str):
        sys.stdout.write(answer.shown)
    else:
        _console().print(answer.shown)


def show_failure(code: str, why: str, *, as_json: bool) -> None:
    """Print why there is no answer: as JSON where an answer would be, else where errors are."""
    if as_json:
        sys.stdout.write(json.dumps({"error": {"code": code, "what": why}}, indent=2) + "\n")
    else:
        _console(stderr=True).print(Group(plain(f"server-session: {why}")))


def plain(text: str, style: str = "") -> Text:
    """Return text that cannot command a terminal: an owner's name, say, may contain any characters."""
    return Text(
        "".join(one if one.isprintable() or one == "\n" else "\N{REPLACEMENT CHARACTER}" for one in text), style
    )


def shown_url(url: str) -> str:
    """Return what may be shown of a URL: no user, no password, no parameter."""
    scheme, _, rest = url.partition(":")
    where = re.split("[?#]", rest)[0]
    if "@" in rest[len(where) :]:
        # A password with a ? or # that was not escaped: nobody can tell where it ends.
        return f"{scheme}:…"
    return f"{scheme}://{where.rpartition('@')[2]}" if where.startswith("//") and "@" in where else f"{scheme}:{where}"


def progress(what: str) -> Progress:
    """Return a bar that is shown on a terminal alone, where errors are."""
    console = _console(stderr=True)
    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    # Up to Rich 14.2 a bar that is not shown ends with an empty line.
    console.quiet = not console.is_terminal
    return Progress(*columns, console=console, transient=True, disable=console.quiet)


def span_of(seconds: float) -> str:
    """Return a span of time as people say it."""
    for size, name in ((_DAY, "d"), (_HOUR, "h"), (_MINUTE, "min")):
        if seconds >= size:
            return f"{seconds / size:g} {name}"
    return f"{seconds:g} s"


def size_of(count: float) -> str:
    """Return a number of bytes as people say it."""
    for name in ("B", "KiB", "MiB"):
        if count < 1024:  # noqa: PLR2004 - as IEC 80000-13 has it
            return f"{count:.0f} {name}" if name == "B" else f"{count:.1f} {name}"
        count /= 1024
    return f"{count:.1f} GiB"


def _console(*, stderr: bool = False) -> Console:
    return Console(stderr=stderr, highlight=False, markup=False, emoji=False)

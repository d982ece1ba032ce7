"""`server-session doctor`: what is wrong with a store or an application, and what mends it."""

import asyncio
import re
from typing import Any, Final

import click
from rich.console import Group, RenderableType
from rich.padding import Padding

from server_session._urls import kind_of
from server_session.cli._commands import FINDINGS, UNREACHABLE, Command, place_options
from server_session.cli._opening import places_of
from server_session.cli._output import Answer, plain
from server_session.cli.doctor._application import examine_application
from server_session.cli.doctor._findings import Report, Severity
from server_session.cli.doctor._store import examine_place
from server_session.exceptions import ConfigurationError

__all__ = ["command"]

_APPLICATION: Final = re.compile(r"[A-Za-z_][\w.]*(:[A-Za-z_][\w.]*)?")
_STYLES: Final = {Severity.ERROR: "bold red", Severity.WARNING: "yellow", Severity.NOTE: "cyan"}


@click.command(cls=Command)
@click.argument("targets", nargs=-1, required=True, envvar="SERVER_SESSION_STORE", metavar="URL_OR_APP…")
@place_options
def command(targets: tuple[str, ...], prefix: str | None, table: str | None, timeout: float) -> Answer:
    """Look for what is wrong with stores and applications, and say what mends it.

    Each is a store's URL, or an application as servers name it, module:attribute. A store is read, and written to under
    a name of the doctor's own, which is gone afterwards. Notes alone leave the exit code 0.
    """
    urls = [target for target in targets if not _is_application(target)]
    places = {place.url: place for place in places_of(urls, prefix, table, timeout)}

    async def examine_all() -> list[Report]:
        return [
            await examine_place(places[target]) if target in places else await examine_application(target)
            for target in targets
        ]

    reports = asyncio.run(examine_all())
    found = [finding for report in reports for finding in report.findings]
    matters = any(finding.severity is not Severity.NOTE for finding in found)
    code = UNREACHABLE if any(report.is_unreachable for report in reports) else FINDINGS if matters else 0
    return Answer({"reports": [_data_of(report) for report in reports]}, Group(*map(_shown, reports)), code)


def _is_application(target: str) -> bool:
    if not _APPLICATION.fullmatch(target):
        return False
    try:
        kind_of(target)
    except ConfigurationError:
        return True
    return False


def _data_of(report: Report) -> dict[str, Any]:
    findings = [{**finding._asdict(), "severity": finding.severity.value} for finding in report.findings]
    return {"subject": report.subject, "facts": report.facts, "findings": findings}


def _shown(report: Report) -> RenderableType:
    facts = " · ".join(f"{name.replace('_', ' ')} {value}" for name, value in report.facts.items() if value)
    parts: list[RenderableType] = [plain(report.subject, "bold")]
    parts += [_indented(2, facts, "dim")] if facts else []
    for finding in report.findings:
        head = f"{finding.severity.value} {finding.code}"
        parts += ["", _indented(2, head, _STYLES[finding.severity]), _indented(4, finding.what)]
        parts += [_indented(4, f"mend: {finding.mend}")] if finding.mend else []
    parts += ["", _indented(2, "nothing was found", "green")] if not report.findings else []
    return Group(*parts, "")


def _indented(by: int, text: str, style: str = "") -> Padding:
    return Padding(plain(text, style), (0, 0, 0, by), expand=False)

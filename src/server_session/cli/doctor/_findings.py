"""What a doctor finds: each by a stable code, with what is wrong and what mends it."""

import enum
import time
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from server_session.exceptions import StoreDownError, StoreError

__all__ = ["Finding", "Report", "Severity"]

# Seconds between two clocks: expiries, and the marks that ended sessions leave for a minute, depend on both.
_APART: Final = 2.0
_FAR_APART: Final = 30.0


class Severity(enum.Enum):
    """How much it matters."""

    ERROR = "error"
    """Calls fail, or sessions are lost, or can be had by others."""
    WARNING = "warning"
    """It is well until something happens."""
    NOTE = "note"
    """It may be meant."""


class Finding(NamedTuple):
    """One thing that is wrong."""

    code: str
    severity: Severity
    what: str
    mend: str


class Report:
    """What was found about one store or application."""

    def __init__(self, subject: str, known: Mapping[str, str] | None = None) -> None:
        self.subject = subject
        self.known = known or {}
        """The mends that the texts of the store's errors contain, by the code of the finding."""
        self.otherwise = ("refused", "look for the reason in the server's own log")
        """The code and the mend of an error that is not known."""
        self.facts: dict[str, Any] = {}
        self.findings: list[Finding] = []
        self.is_unreachable = False

    def find(self, code: str, severity: Severity, what: str, mend: str) -> None:
        """Note a finding, unless there is one with its code."""
        if all(found.code != code for found in self.findings):
            self.findings.append(Finding(code, severity, what, mend))

    def find_error(self, error: StoreError) -> None:
        """Note what a store's own error says."""
        text, _, said = str(error).partition(" (it said: ")
        code = next((code for code, mend in self.known.items() if mend in text), None)
        what, _, mend = text.rpartition(": ")
        if isinstance(error, StoreDownError):
            self.is_unreachable = True
        if code is None:
            down = ("unreachable", "does it run, there? Look at host and port, and at its log")
            what, (code, mend) = text, down if self.is_unreachable else self.otherwise
        self.find(code, Severity.ERROR, what + (f" (it said: {said}" if said else ""), mend)

    def compare_clocks(self, there: float, before: float, resolution: float = 0.0) -> None:
        """Compare a server's clock with this machine's, which said `before` when it was asked."""
        after = time.time()
        apart = there - (before + after) / 2
        self.facts["clock_apart_seconds"] = round(apart, 3)
        # How long the answer took is no difference of clocks.
        surely = abs(apart) - (after - before) / 2 - resolution
        if surely > _APART:
            self.find(
                "clock_skew",
                Severity.ERROR if surely > _FAR_APART else Severity.WARNING,
                f"the server's clock and this machine's are {abs(apart):.1f} s apart: sessions expire, and what has "
                "ended is forgotten, by one of them, and ages are told by the other",
                "keep all clocks in step by NTP (chrony, systemd-timesyncd)",
            )

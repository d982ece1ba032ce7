"""What can be wrong with a memcached."""

import time
from typing import Any

from server_session.cli.doctor._findings import Report, Severity
from server_session.stores._waits import begin_call

__all__ = ["look"]


async def look(store: Any, report: Report) -> None:
    """Ask the server what it does with what it is given."""
    report.facts["prefix"] = store._prefix.decode()
    begin_call(store._timeout)
    with store._connection() as connection:
        before = time.time()
        said = _read(store._ask(connection.stats))
        # memcached tells whole seconds, by a clock that it sets once a second.
        report.compare_clocks(float(said["time"]), before, resolution=2.0)
        settings = _read(store._ask(connection.stats, "settings"))
    report.facts["server"] = said.get("version", "")
    evicted = int(said.get("evictions", 0))
    report.find(
        "evicts",
        Severity.ERROR if evicted else Severity.WARNING,
        "memcached is a cache: when its memory is full it drops sessions that live, and a restart drops all"
        + (f"; {evicted:,} went already" if evicted else ""),
        "give it memory enough (-m) and watch `evictions`, or choose another store",
    )
    if settings.get("cas_enabled", "yes") in ("no", "False", "0"):
        report.find(
            "no_cas",
            Severity.ERROR,
            "memcached runs without compare-and-swap, and would lose writes",
            "start it without -C",
        )


def _read(said: Any) -> dict[str, str]:
    return {_text(name): _text(value) for name, value in said.items()}


def _text(part: Any) -> str:
    return part.decode(errors="replace") if isinstance(part, bytes) else str(part)

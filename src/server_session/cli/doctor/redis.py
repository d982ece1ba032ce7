"""What can be wrong with a Redis or a Valkey."""

import time
from contextlib import suppress
from typing import Any

from server_session.cli.doctor._findings import Report, Severity
from server_session.exceptions import StoreDownError, StoreError
from server_session.stores.redis._errors import MENDS

__all__ = ["MENDS", "look"]


async def look(store: Any, report: Report) -> None:
    """Ask the server what it does with what it is given."""
    report.facts["prefix"] = store._prefix.decode(errors="replace")
    if not store._prefix:
        report.find(
            "no_prefix",
            Severity.WARNING,
            "sessions have no prefix of their own among the keys of this database",
            'give the store one, as in prefix="session:"',
        )
    before = time.time()
    seconds, microseconds = await _ask(store, b"TIME")
    report.compare_clocks(int(seconds) + int(microseconds) / 1e6, before)
    try:
        said = _read(await _ask(store, b"INFO"))
    except StoreDownError:
        raise
    except StoreError:
        report.find(
            "unseen",
            Severity.NOTE,
            "this user may not ask INFO: eviction, persistence and replication were not looked at",
            "let the doctor come as a user that has +info and +config|get too",
        )
        return
    report.facts["server"] = said.get("redis_version", "")
    _look_at_memory(said, report)
    _look_at_role(said, report)
    schedule = None
    with suppress(StoreError):
        schedule = _text_of(await _ask(store, b"CONFIG", b"GET", b"save"))
    _look_at_disk(said, schedule, report)


def _look_at_memory(said: dict[str, str], report: Report) -> None:
    policy, most = said.get("maxmemory_policy", "noeviction"), int(said.get("maxmemory", 0))
    evicted = int(said.get("evicted_keys", 0))
    report.facts["eviction"] = policy
    if policy != "noeviction":
        when = f"when it holds {most:,} bytes" if most else "as soon as a maxmemory is set"
        already = f"; {evicted:,} keys went already" if evicted else ""
        report.find(
            "evicts",
            Severity.ERROR if most else Severity.WARNING,
            f"maxmemory-policy is {policy}: {when} Redis drops sessions that live, and log-outs' marks{already}",
            "CONFIG SET maxmemory-policy noeviction, then CONFIG REWRITE; and watch its memory",
        )


def _look_at_role(said: dict[str, str], report: Report) -> None:
    if said.get("role") == "slave":
        what, _, mend = MENDS["replica"].partition(": ")
        report.find("replica", Severity.ERROR, what, mend)


def _look_at_disk(said: dict[str, str], schedule: str | None, report: Report) -> None:
    has_log = said.get("aof_enabled") == "1"
    if "err" in (said.get("rdb_last_bgsave_status"), said.get("aof_last_write_status")):
        report.find("cannot_save", Severity.ERROR, "its last attempt to write to its disk failed", MENDS["disk_full"])
    report.facts["persistence"] = "log" if has_log else "unknown" if schedule is None else "snapshots"
    if has_log or schedule is None:
        return
    mend = "CONFIG SET appendonly yes, then CONFIG REWRITE"
    if schedule:
        report.find(
            "snapshots_only",
            Severity.NOTE,
            f"Redis keeps snapshots alone ({schedule}): after a crash it has the sessions of the last one, those that "
            "were ended since too",
            mend,
        )
    else:
        report.facts["persistence"] = "none"
        report.find(
            "not_persistent",
            Severity.WARNING,
            "Redis writes nothing to its disk: when it starts anew everybody is logged out",
            mend,
        )


async def _ask(store: Any, *words: bytes) -> Any:
    return await store._send(store._begin("doctor"), *words)


def _text_of(setting: Any) -> str:
    """Return the one value that CONFIG GET says, as a list or, by a newer protocol, as a mapping."""
    value = next(iter(setting.values())) if isinstance(setting, dict) else setting[1]
    return value.decode() if isinstance(value, bytes) else str(value)


def _read(said: Any) -> dict[str, str]:
    """Return what INFO says; a Cluster's client has read it already."""
    if isinstance(said, dict):
        return {str(name): str(value) for name, value in said.items()}
    pairs = (line.partition(":") for line in said.decode(errors="replace").splitlines())
    return {name: value for name, colon, value in pairs if colon}

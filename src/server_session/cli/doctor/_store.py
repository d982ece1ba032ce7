"""A store, asked and written to as an application would."""

import importlib
import ipaddress
import time
from typing import Final
from urllib.parse import urlsplit

from server_session._urls import kind_of
from server_session.cli._opening import Place, open_bare
from server_session.cli._output import shown_url
from server_session.cli.doctor._findings import Report, Severity
from server_session.cli.doctor.file import OTHERWISE
from server_session.exceptions import ConfigurationError, StoreDownError, StoreError
from server_session.stores._base import APPLIED, Lifetime, SessionStore, close_store

__all__ = ["examine", "examine_place"]

_STORES: Final = "server_session.stores."
_LOOKED_INTO: Final = ("file", "memcached", "redis", "sql")
_READS: Final = 5
_SLOW: Final = 0.25
_BRIEFLY: Final = Lifetime(10.0, 10.0)
# Schemes and drivers' parameters that ask for TLS, or need none. ssl=prefer does not ask: it may go without.
_TLS_SCHEMES: Final = ("rediss", "unix", "file", "sqlite")
_TLS_PARAMETERS: Final = (
    *("sslmode=require", "sslmode=verify", "ssl=require", "ssl=verify"),
    *("ssl_ca", "unix_socket=", "host=/"),
)


async def examine_place(place: Place) -> Report:
    """Return what is wrong with the store that a URL names. Raises `ConfigurationError` where it names none."""
    kind, _ = kind_of(place.url)
    report = Report(shown_url(place.url))
    _look_at_way(place.url, report)
    try:
        store = open_bare(place)
    except StoreDownError as error:
        report.is_unreachable = True
        what, _, mend = str(error).partition(". ")
        report.find("nothing_there", Severity.ERROR, what, mend)
        return report
    except ConfigurationError as error:
        if kind != "file":
            raise
        report.is_unreachable = True
        code, mend = OTHERWISE
        report.find(code, Severity.ERROR, str(error), mend)
        return report
    try:
        await examine(store, report)
    finally:
        await close_store(store)
    return report


async def examine(store: SessionStore, report: Report) -> None:
    """Look at a store."""
    module, looks = type(store).__module__, None
    kind = module.removeprefix(_STORES).partition(".")[0] if module.startswith(_STORES) else type(store).__name__
    report.facts["store"] = kind
    if kind in _LOOKED_INTO:
        looks = importlib.import_module(f"{__package__}.{kind}")
        report.known, report.otherwise = getattr(looks, "MENDS", {}), getattr(looks, "OTHERWISE", report.otherwise)
    steps = [_read, *(() if looks is None else (looks.look,))]
    # A store with `fit` has another library's layout, which has no place for the doctor's own record.
    steps += [] if hasattr(store, "fit") else [_write]
    for step in steps:
        try:
            await step(store, report)
        except StoreError as error:
            report.find_error(error)
            if report.is_unreachable:
                break


async def _read(store: SessionStore, report: Report) -> None:
    """Ask for what is not there, and how long that takes."""
    taken: list[float] = []
    for _ in range(_READS):
        begun = time.perf_counter()
        await store.get(store.id(), {}, False)
        taken.append(time.perf_counter() - begun)
    report.facts["answer_milliseconds"] = round(min(taken) * 1000, 3)
    if min(taken) > _SLOW:
        report.find(
            "slow",
            Severity.WARNING,
            f"the fastest of {_READS} answers took {min(taken):.2f} s, and every request waits for one",
            "bring the store nearer to the application, or look at what else keeps it busy",
        )


async def _write(store: SessionStore, report: Report) -> None:
    """Write a record, change it and read it back; it is gone afterwards."""
    key = store.id()
    first, then = {"doctor": b"1"}, {"doctor": b"2"}
    try:
        outcomes = (
            await store.set(key, first, _BRIEFLY, None),
            await store.merge(key, then, (), first),
            await store.set(key, then, _BRIEFLY, then),
        )
        read = await store.get(key, then, False)
    finally:
        await store.destroy(key)
    if any(outcome is not APPLIED for outcome in outcomes) or read != then:
        report.find(
            "wrong_answers",
            Severity.ERROR,
            "what was written to the store did not come back as it was written",
            "look for who else changes its records; a store of your own is tried by server_session.testing",
        )


def _look_at_way(url: str, report: Report) -> None:
    """Look at whether what goes to the store can be read on its way."""
    try:
        scheme, _, _, query, _ = parts = urlsplit(url)
        host = parts.hostname
    except ValueError:
        return
    is_safe = scheme.lower() in _TLS_SCHEMES or any(each in query for each in _TLS_PARAMETERS)
    if not is_safe and host is not None and not _is_loopback(host):
        report.find(
            "no_tls",
            Severity.WARNING,
            f"sessions go to {host} without TLS, for anybody on the way to read and to change",
            "take rediss://, or the driver's parameter for TLS (docs/stores.md), unless the network itself encrypts",
        )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")

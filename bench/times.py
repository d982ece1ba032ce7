"""What requests take without a server between: the applications of a group in turn, again and again."""

import statistics
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from typing import Any, NamedTuple

from bench.asking import TITLES, Kind
from bench.driving import WrongAnswerError
from bench.field import Group, Subject
from bench.processes import Places, Process, ready
from bench.scale import Scale

Say = Callable[[str], None]
Figures = dict[str, Any]
MOST_REQUESTS = 2000


class Batch(NamedTuple):
    """So many requests are timed together, in so many rounds."""

    requests: int
    rounds: int

    def takes_part(self, number: int, rounds: int) -> bool:
        """Return whether they are made in this round of as many as others make."""
        return number * self.rounds // rounds != (number - 1) * self.rounds // rounds


class GroupRun:
    """One group being measured."""

    def __init__(self, group: Group, scale: Scale, say: Say) -> None:
        self._group = group
        self._scale = scale
        self._say = say
        self.unmeasured: dict[str, str] = {}
        self.failures: dict[str, str] = {}
        """What was asked and not answered as it should be, by the subject's name and what it was."""

    def measure(self, places: Places) -> Figures:
        """Return the figures of each subject: `{name: {"times": {at once: {kind: …}}, "calls": {kind: …}}}`."""
        with ExitStack() as stack:
            processes = self._opened(places, stack)
            figures: Figures = {process.subject.name: {"times": {}, "calls": {}} for process in processes}
            for at_once in self._group.at_once:
                for kind in Kind:
                    asked = [process for process in processes if kind in process.subject.kinds]
                    if not any(not process.subject.is_bare for process in asked):
                        continue
                    taken = self._taken(asked, kind, at_once)
                    for name, microseconds in taken.items():
                        figures[name]["times"].setdefault(str(at_once), {})[kind] = summary(microseconds)
                    self._tell(kind, at_once, taken)
            if self._group.counted:
                for process in processes:
                    if not process.subject.is_node:
                        figures[process.subject.name]["calls"] = self._calls(process)
            return figures

    def _opened(self, places: Places, stack: ExitStack) -> list[Process]:
        return ready(
            self._group.subjects,
            lambda subject: Process(subject, places.url(subject.place)),
            stack,
            self.unmeasured,
            lambda subject, error: self._fail(subject, "", error),
        )

    def _taken(self, processes: Iterable[Process], kind: Kind, at_once: int) -> dict[str, list[float]]:
        """Return the microseconds of a request in each round, for each subject that answers it."""
        batches: dict[Process, Batch] = {}
        for process in processes:
            try:
                batches[process] = self._batch(process, kind, at_once)
            except WrongAnswerError as error:
                self._fail(process.subject, f"{TITLES[kind]}, {at_once} at once", error)
        taken: dict[str, list[float]] = {process.subject.name: [] for process in batches}
        rounds = max((batch.rounds for batch in batches.values()), default=0)
        for number in range(rounds):
            turn = [process for process, batch in batches.items() if batch.takes_part(number, rounds)]
            first = number % max(1, len(turn))
            for process in (*turn[first:], *turn[:first]):
                requests = batches[process].requests
                try:
                    seconds = process.time(kind, requests, at_once)
                except WrongAnswerError as error:
                    self._fail(process.subject, f"{TITLES[kind]}, {at_once} at once", error)
                    del batches[process], taken[process.subject.name]
                    continue
                taken[process.subject.name].append(seconds / requests * 1e6)
        return taken

    def _batch(self, process: Process, kind: Kind, at_once: int) -> "Batch":
        """Return how many requests are timed together, and how often."""
        scale = self._scale
        least = max(scale.least_requests, at_once)
        seconds = process.time(kind, least, at_once)
        if scale.rounds > 1:
            # The first are slower than those to come.
            seconds = process.time(kind, least, at_once)
        wanted = min(MOST_REQUESTS, max(least, int(scale.batch_seconds / seconds * least)))
        requests = wanted - wanted % at_once
        rounds = int(scale.figure_seconds / (seconds / least * requests))
        return Batch(requests, min(scale.rounds, max(scale.least_rounds, rounds)))

    def _calls(self, process: Process) -> dict[str, int]:
        calls = {}
        for kind in process.subject.kinds:
            try:
                calls[kind.value] = process.calls(kind)
            except WrongAnswerError as error:
                self._fail(process.subject, f"{TITLES[kind]}, counted", error)
        return calls

    def _fail(self, subject: Subject, what: str, error: WrongAnswerError) -> None:
        name = f"{subject.name}, {what}" if what else subject.name
        self.failures[name] = str(error)
        self._say(f"    {name}: {error}")

    def _tell(self, kind: Kind, at_once: int, taken: dict[str, list[float]]) -> None:
        told = ", ".join(f"{name} {statistics.median(times):.0f}" for name, times in taken.items() if times)
        self._say(f"    {kind}, {at_once} at once, µs: {told}")


def summary(microseconds: list[float]) -> dict[str, float]:
    """Return the median and the quartiles."""
    if len(microseconds) == 1:
        low = high = microseconds[0]
    else:
        low, _, high = statistics.quantiles(microseconds, n=4, method="inclusive")
    return {"us": round(statistics.median(microseconds), 1), "low": round(low, 1), "high": round(high, 1)}

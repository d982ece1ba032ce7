"""What visitors were told, and what may be found of it: read from the diaries of all processes."""

import enum
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.faults.worker import SLOTS

__all__ = ["Answers", "Loss", "Model", "Visitor", "read_diaries"]


class Loss(enum.Enum):
    """What a server may lose by its own word."""

    ALL = "whatever it has"
    LAST = "what it has acknowledged meanwhile, in any part: writes, sessions founded, and that sessions have ended"
    SIGHT = "whatever it has, and some of that for a while"


@dataclass
class Visitor:
    """One visitor, their cookie, and what may be found with it."""

    name: str
    cookie: str | None = None
    ended: list[str] = field(default_factory=list)
    """Cookies that were told to have ended, or were once found so."""
    may_return: set[str] = field(default_factory=set)
    """Those of them of which the server may not know."""
    may_be_gone: bool = False
    """Whether a log-out or a renewal was asked for, and nobody heard what became of it."""
    may_be_forgotten: bool = False
    """Whether the server may have lost the session since it began."""
    slots: dict[str, set[int | None]] = field(default_factory=dict)
    least: int = 0
    most: int = 0

    def begin(self, cookie: str) -> None:
        self.cookie, self.may_be_gone, self.may_be_forgotten = cookie, False, False
        self.slots = {f"slot{number}": {None} for number in range(SLOTS)}
        self.least = self.most = 0

    def end(self, then: str | None = None, *, may_return: bool = False) -> None:
        if self.cookie is not None:
            self.ended.append(self.cookie)
            self.may_return |= {self.cookie} if may_return else set()
        self.cookie = then

    def faults(self, found: dict[str, Any], *, may_be_lost: bool = False) -> str | None:
        """Say what is wrong with the data that was found with the cookie, if anything: "mixed" or "lost"."""
        if found.get("me", self.name) != self.name:
            return "mixed"
        count = found.get("count", 0)
        if not self.least <= count <= self.most:
            return "lost"
        self.least = self.least if may_be_lost else count
        return "lost" if any(found.get(name) not in may for name, may in self.slots.items()) else None


@dataclass
class Answers:
    """What came of the requests of a time."""

    requests: int = 0
    ok: int = 0
    unavailable: int = 0
    other: int = 0
    left: int = 0
    """Visitors who hung up, and those of a process that was killed."""
    forgotten: int = 0
    """Sessions that a server lost, and ends of sessions, where it says so itself."""
    lost: int = 0
    mixed: int = 0
    back: int = 0
    slowest: float = 0.0
    """Seconds of the slowest 503."""
    unavailable_at: list[float] = field(default_factory=list)
    words: list[str] = field(default_factory=list)


class Model:
    """Follows each visitor through the diaries."""

    def __init__(self) -> None:
        self.visitors: dict[str, Visitor] = {}

    def follow(
        self, begun: dict[str, Any], ended: dict[str, Any] | None, answers: Answers, loss: Loss | None = None
    ) -> None:
        """Take a request into account: what was asked, and what was answered, if anything was.

        `loss` is what the server may lose meanwhile.
        """
        if loss in (Loss.ALL, Loss.SIGHT):
            for visitor in self.visitors.values():
                visitor.may_be_forgotten = True
        visitor = self.visitors.setdefault(begun["who"], Visitor(begun["who"]))
        step, *arguments = begun["step"]
        answers.requests += 1
        status = "killed" if ended is None else ended["status"]
        if status != 200:
            if status == 503:
                assert ended is not None
                answers.unavailable += 1
                answers.slowest = max(answers.slowest, ended["seconds"])
                answers.unavailable_at.append(ended["at"])
            elif status in ("left", "killed"):
                answers.left += 1
            else:
                answers.other += 1
                answers.words.append(f"{step} came to {status}")
            if begun["cookie"] == visitor.cookie:
                self._doubt(visitor, step, arguments)
            return
        assert ended is not None
        answers.ok += 1
        self._take(visitor, begun["cookie"], step, arguments, ended, answers, loss)

    def _doubt(self, visitor: Visitor, step: str, arguments: list[Any]) -> None:
        """It was done or it was not."""
        if step == "set":
            for name in visitor.slots.keys() & arguments[0].keys():
                visitor.slots[name].add(arguments[0][name])
        elif step == "add":
            visitor.most += 1
        elif step in ("renew", "destroy"):
            visitor.may_be_gone = True

    def _take(
        self,
        visitor: Visitor,
        cookie: str | None,
        step: str,
        arguments: list[Any],
        ended: dict[str, Any],
        to: Answers,
        loss: Loss | None,
    ) -> None:
        answer, given = ended["answer"], ended["given"]
        if cookie is not None and cookie != visitor.cookie:
            if answer != {}:
                self._return(visitor, cookie, answer, to)
        elif step in ("log_in", "replace"):
            if answer is True:
                self._begin(visitor, given, loss)
        elif answer in ({}, False):
            self._miss(visitor, step, to, loss)
        elif step == "get":
            self.look(visitor, answer, to, loss)
        elif step in ("set", "add"):
            if given is not None:
                # Nobody knew the cookie any more, and the write founded another session.
                self._miss(visitor, step, to, loss)
                self._begin(visitor, given, loss)
            if loss is Loss.LAST:
                self._doubt(visitor, step, arguments)
            else:
                self._write(visitor, step, arguments)
        elif step == "renew":
            visitor.end(given, may_return=loss is Loss.LAST)
            visitor.may_be_forgotten |= loss is Loss.LAST
        elif step == "destroy":
            visitor.end(may_return=loss is Loss.LAST)

    def _begin(self, visitor: Visitor, cookie: str, loss: Loss | None) -> None:
        visitor.begin(cookie)
        visitor.may_be_forgotten = loss is not None

    def _write(self, visitor: Visitor, step: str, arguments: list[Any]) -> None:
        if step == "add":
            visitor.least, visitor.most = visitor.least + 1, visitor.most + 1
            return
        for name in visitor.slots.keys() & arguments[0].keys():
            visitor.slots[name] = {arguments[0][name]}

    def look(self, visitor: Visitor, found: dict[str, Any], to: Answers, loss: Loss | None = None) -> None:
        """Compare what was found with the visitor's cookie with what may be found."""
        wrong = visitor.faults(found, may_be_lost=loss is Loss.LAST)
        if wrong is not None:
            to.words.append(f"{wrong}: {visitor} found {found}")
            to.mixed += wrong == "mixed"
            to.lost += wrong == "lost"

    def _return(self, visitor: Visitor, cookie: str, found: dict[str, Any], to: Answers) -> None:
        is_mixed = found.get("me", visitor.name) != visitor.name
        if cookie in visitor.may_return and not is_mixed:
            to.forgotten += 1
            return
        to.mixed += is_mixed
        to.back += 1
        to.words.append(f"with a cookie that had ended {visitor.name} found {found}")

    def _miss(self, visitor: Visitor, step: str, to: Answers, loss: Loss | None) -> None:
        if visitor.may_be_forgotten:
            to.forgotten += 1
        elif not visitor.may_be_gone:
            to.lost += 1
            to.words.append(f"{step}: the session of {visitor} is gone")
        visitor.end(may_return=loss in (Loss.LAST, Loss.SIGHT))


def read_diaries(paths: Iterable[Path]) -> list[tuple[dict[str, Any], dict[str, Any] | None]]:
    """Return the requests of all processes by the time they began: two lines, or the first alone."""
    begun: dict[tuple[str, int], dict[str, Any]] = {}
    ended: dict[tuple[str, int], dict[str, Any]] = {}
    for path in paths:
        for line in path.read_text().splitlines():
            note = json.loads(line)
            (begun if "step" in note else ended)[note["who"], note["number"]] = note
    return [(note, ended.get(key)) for key, note in sorted(begun.items(), key=lambda each: each[1]["at"])]

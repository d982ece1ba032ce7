"""A process with one application, which makes requests of it when it is told to, and says what they took.

`python -m bench.worker starlette:ours memory:`. Orders come as lines of JSON, and an answer to each goes back:

- `{"verify": ["read", …]}`: make each kind of request once, and see that what comes back is right;
- `{"time": "read", "requests": 320, "at_once": 32}`: the `seconds` that so many requests took together;
- `{"calls": "read"}`: the `calls` of one.

What goes wrong is an `error`, in words.
"""

import json
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from bench.asking import KEY, VALUES, Answer, Kind, Visitor, ask_of
from bench.driving import Driver, WrongAnswerError
from bench.subjects import opened

VISITORS = 32
WARM_UP = 20
COUNTED = 300


class Worker:
    """An application, and those who visit it."""

    def __init__(self, application: str, place: str) -> None:
        self._driver: Driver = opened(application, place)
        self._is_bare = application.endswith(":bare")
        self._is_ours = application.endswith(":ours")
        self._visitors: dict[bool, list[Visitor]] = {False: [], True: []}

    def verify(self, kind: Kind) -> None:
        """Make a request, and raise a `WrongAnswerError` unless it did what it is measured for."""
        visitor = self._visitor(with_token=kind is Kind.CHECK)
        answer = self._ask(kind, visitor)
        after = visitor.after(answer)
        if self._is_bare:
            return
        if kind is Kind.READ:
            _expect(answer.body == VALUES[KEY], "what is read is not what was written")
        elif kind is Kind.WRITE:
            _expect(len(answer.body) == len(VALUES[KEY]), "what is written has another length")
            _expect(self._ask(Kind.READ, after).body == answer.body, "what was written is not read")
        elif kind is Kind.FIRST:
            _expect(bool(answer.cookies()), "a first write makes no session")
            _expect(self._ask(Kind.READ, after).body == VALUES[KEY], "a new session cannot be read")
        elif kind is Kind.TOKEN:
            self._ask(Kind.CHECK, replace(after, token=answer.body))
        elif kind is Kind.CHECK:
            refused = self._driver.ask(ask_of(kind, replace(visitor, token="w" * len(visitor.token))))
            _expect(refused.status == 403, f"a wrong token is answered with {refused.status}")
        elif kind is Kind.NO_COOKIE and self._is_ours:
            _expect(not answer.cookies(), "nobody's request sets a cookie")

    def time(self, kind: Kind, requests: int, at_once: int) -> float:
        """Return the seconds that so many requests take together, those of many visitors in turn."""
        visitors = self._visitors_of(min(VISITORS, requests), with_token=kind is Kind.CHECK)
        asks = [ask_of(kind, visitor) for visitor in visitors]
        return self._driver.time([asks[n % len(asks)] for n in range(requests)], at_once)

    def calls(self, kind: Kind) -> float:
        """Return the calls of one request."""
        asks = [ask_of(kind, self._visitors_of(1, with_token=kind is Kind.CHECK)[0])]
        self._driver.time(asks * WARM_UP)
        return self._driver.count(asks * COUNTED).calls

    def _visitors_of(self, number: int, *, with_token: bool) -> list[Visitor]:
        visitors = self._visitors[with_token]
        while len(visitors) < number:
            visitors.append(self._visitor(with_token=with_token))
        return visitors[:number]

    def _visitor(self, *, with_token: bool) -> Visitor:
        """Return a visitor with ten keys in the session."""
        visitor = Visitor()
        if self._is_bare:
            return visitor
        visitor = visitor.after(self._ask(Kind.FIRST, visitor))
        if with_token:
            answer = self._ask(Kind.TOKEN, visitor)
            visitor = replace(visitor.after(answer), token=answer.body)
        return visitor

    def _ask(self, kind: Kind, visitor: Visitor) -> Answer:
        answer = self._driver.ask(ask_of(kind, visitor))
        _expect(answer.status == 200, f"{kind} is answered with {answer.status}: {answer.body[:200]}")
        return answer


def _expect(passes: bool, what: str) -> None:
    if not passes:
        raise WrongAnswerError(what)


def obey(worker: Worker, order: dict[str, Any]) -> dict[str, Any]:
    """Do what is told; return the answer."""
    if "verify" in order:
        for kind in order["verify"]:
            worker.verify(Kind(kind))
        return {}
    if "time" in order:
        return {"seconds": worker.time(Kind(order["time"]), order["requests"], order["at_once"])}
    return {"calls": worker.calls(Kind(order["calls"]))}


def answered(do: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Return the answer, or what went wrong."""
    try:
        return do()
    except Exception as error:  # noqa: BLE001 - whatever it is, it is told
        return {"error": f"{type(error).__name__}: {error}"}


def main() -> None:
    application, place = sys.argv[1:3]
    # What libraries print must not come between the answers.
    with os.fdopen(os.dup(1), "w") as answers:
        os.dup2(2, 1)

        def say(answer: dict[str, Any]) -> None:
            answers.write(f"{json.dumps(answer)}\n")
            answers.flush()

        opening: list[Worker] = []

        def open_it() -> dict[str, Any]:
            opening.append(Worker(application, place))
            return {}

        # The answer to no order: whether it is open.
        say(answered(open_it))
        for line in sys.stdin:
            order = json.loads(line)
            say(answered(lambda: obey(opening[0], order)))  # noqa: B023 - it is called at once


if __name__ == "__main__":
    main()

"""Two actors on one session: this library and a package of Node.js, each in either part, by one table of scenarios."""

import asyncio
import itertools
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from server_session import Sessions
from server_session.stores.next_server_session import NextServerSessionRedisStore
from server_session.stores.redis import RedisSessionStore
from tests.node import build
from tests.patience import PATIENCE
from tests.scenarios.actors import Actor, NodeActor, PythonActor, Visit
from tests.servers import Server

# What the processes do is the same on every Python.
pytestmark = [pytest.mark.once, pytest.mark.long]

TABLES = {"ours": "shared.json", "next-server-session": "next_server_session.json"}
PAIRS = [("python", "node"), ("node", "python")]
if os.environ.get("SERVER_SESSION_ALL"):
    # Each alone holds the table too.
    PAIRS += [("node", "node"), ("python", "python")]
SCENARIOS = {
    form: {scenario["name"]: scenario["steps"] for scenario in json.loads((Path(__file__).parent / name).read_text())}
    for form, name in TABLES.items()
}


@pytest.fixture(scope="module", autouse=True)
def built(redis_server: Server) -> None:
    build()


@pytest.fixture(scope="module")
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    with asyncio.Runner() as runner:
        yield runner.get_loop()


@pytest.fixture(scope="module")
def actors(form: str, loop: asyncio.AbstractEventLoop, redis_server: Server) -> Iterator[dict[str, Actor]]:
    started = NodeActor.started(form, redis_server.url)
    node = loop.run_until_complete(started.__aenter__())
    kept = NextServerSessionRedisStore if form == "next-server-session" else RedisSessionStore
    python = PythonActor(Sessions(session_store=kept(redis_server.url, timeout=PATIENCE)))
    yield {"python": python, "node": node, "theirs": node}
    loop.run_until_complete(started.__aexit__(None, None, None))


class Play:
    """One scenario under way: the cookie that the browser holds, and what steps have saved."""

    numbers = itertools.count()

    def __init__(self, actors: dict[str, Actor]) -> None:
        self._actors = actors
        self._number = next(self.numbers)
        self._cookie = ""
        self._saved: dict[str, Any] = {}
        self._heard: dict[str, list[str]] = {}

    async def run(self, steps: list[dict[str, Any]]) -> None:
        for step in steps:
            if "at once" not in step:
                await self.take(step)
                continue
            together = [self.take(one) for one in step["at once"] * step["times"]]
            given = await asyncio.gather(*together)
            if "give in all" in step:
                assert [one for one in given if one is not None] == step["give in all"]

    async def take(self, step: dict[str, Any]) -> Any:
        before = self._cookie
        request = f"{self._number} {step.get('request', next(self.numbers))}"
        cookie = self._recalled(step.get("cookies", before))
        visit = Visit(request, cookie, step.get("method", "GET"), step.get("headers", {}), step.get("is alone", False))
        arguments = [self._recalled(one) for one in step.get("with", ())]
        outcome = await self._actors[step["by"]].take(visit, step["do"], arguments)
        assert outcome.raises == step.get("raises"), (step, outcome)
        if "gives" in step:
            assert outcome.gives == self._recalled(step["gives"]), step
        kind = self._hear(request, before, outcome.cookies)
        assert step.get("cookie", kind) == kind, (step, outcome)
        if "saves" in step:
            self._saved[step["saves"]] = outcome.gives
        if "saves cookie" in step:
            self._saved[step["saves cookie"]] = self._cookie
        return outcome.gives

    def _hear(self, request: str, before: str, cookies: list[str]) -> str:
        """Let the browser hear of the cookies of a response, and say what they do."""
        if cookies == self._heard.get(request, []):
            return "same"
        self._heard[request] = cookies
        pair, _, attributes = cookies[-1].partition(";")
        self._cookie = "" if pair.endswith("=") else pair
        kept = ", kept" if "Max-Age" in attributes else ""
        return "gone" if not self._cookie else "same" if self._cookie == before else f"new{kept}"

    def _recalled(self, value: Any) -> Any:
        """Return a step's value, with what was saved in the place of its name: `$name`, or `$name.forged`."""
        if not isinstance(value, str):
            return value
        if value.removeprefix("$") in self._saved:
            return self._saved[value[1:]]
        for name, saved in self._saved.items():
            if isinstance(saved, str):
                value = value.replace(f"${name}.forged", saved[:-40] + 40 * "A").replace(f"${name}", saved)
        return value


@pytest.mark.parametrize("form, name", [(form, name) for form in TABLES for name in SCENARIOS[form]], scope="module")
@pytest.mark.parametrize("one, other", PAIRS)
def test_it_goes_as_the_table_says(
    name: str, one: str, other: str, form: str, actors: dict[str, Actor], loop: asyncio.AbstractEventLoop
) -> None:
    play = Play({**actors, "one": actors[one], "other": actors[other]})
    loop.run_until_complete(play.run(SCENARIOS[form][name]))

"""A process of an application whose sessions move: it knows what it was told is written, and which sessions ended.

It is told what to do a line at a time, and answers each with a line of JSON.
"""

import asyncio
import json
import os
import random
import sys
import time
from collections import Counter
from typing import Any

from server_session._owners import OwnerIndex
from server_session._tokens import Credential
from server_session.exceptions import StoreError
from server_session.migration import MovingStore
from server_session.stores._base import SessionStore
from server_session.stores.redis import RedisSessionStore
from server_session.stores.sql import SQLSessionStore
from tests.patience import PATIENCE
from tests.visitors import Browser, Site

# Of each process; each with sessions of its own, so that it knows what becomes of them.
VISITORS = 4
OWNERS = 50
# Between two requests of a visitor, in seconds: the load is to meet all sessions, not to fill the machine.
PAUSE = 0.1 if os.environ.get("SERVER_SESSION_ALL") == "1" else 0.005


def store_at(url: str) -> SessionStore:
    if url.startswith("redis:"):
        return RedisSessionStore(url, timeout=PATIENCE)
    return SQLSessionStore(url, create_table=True, timeout=PATIENCE)


class Known(Browser):
    """A browser whose session's data are known."""

    def __init__(self, site: Site) -> None:
        super().__init__(site)
        self.data: dict[str, Any] = {}
        self.owner: str | None = None


class Worker:
    def __init__(self, number: int, sessions: int) -> None:
        self.number, self.sessions = number, sessions
        self.chance = random.Random(number)
        self.living: list[list[Known]] = [[] for _ in range(VISITORS)]
        # Cookies of sessions that have ended, by a log-out, a log-in, or a log-out everywhere.
        self.ended: list[str] = []
        self.counts: Counter[str] = Counter()
        self.wrong: list[str] = []
        self.runs = False

    def use(self, store: SessionStore) -> None:
        self.site = Site(store, time.time, idle=7200.0)  # type: ignore[arg-type]
        for browser in [one for some in self.living for one in some]:
            browser.site = self.site

    def owner_of(self, visitor: int) -> str:
        return f"owner {self.number} {visitor} {self.chance.randrange(OWNERS)}"

    async def found(self) -> None:
        async def some(visitor: int) -> None:
            for place in range(self.sessions // VISITORS):
                browser = Known(self.site)
                if place % 10:
                    await self.write(browser)
                else:
                    await self.log_in(browser, visitor)
                self.living[visitor].append(browser)

        await asyncio.gather(*map(some, range(VISITORS)))

    async def write(self, browser: Known) -> None:
        changed = {self.chance.choice("abc"): self.chance.randrange(1_000_000)}
        visit = browser.request()
        assert await visit.merge(changed)
        browser.receive(visit)
        browser.data |= changed

    async def log_in(self, browser: Known, visitor: int) -> None:
        owner, data, before = self.owner_of(visitor), {"user": self.chance.randrange(1_000_000)}, browser.cookie
        visit = browser.request()
        assert await visit.replace(data, owner)
        browser.receive(visit)
        browser.data, browser.owner = data, owner
        if before is not None:
            self.ended.append(before)

    async def look(self, browser: Known) -> None:
        found = await browser.request().get()
        if found != browser.data:
            self.wrong.append(f"lost: {found} in the place of {browser.data}")

    async def look_back(self, cookie: str) -> None:
        if await Browser(self.site, cookie).request().get():
            self.wrong.append("back: a session that had ended lives")

    async def visit(self, visitor: int) -> None:
        mine = self.living[visitor]
        while self.runs and mine:
            await asyncio.sleep(PAUSE)
            place = self.chance.randrange(len(mine))
            browser = mine[place]
            what = self.chance.choices(
                ("read", "write", "log in", "log out", "log out everywhere", "look back"), (45, 35, 6, 6, 1, 7)
            )[0]
            self.counts[what] += 1
            match what:
                case "read":
                    await self.look(browser)
                case "write":
                    await self.write(browser)
                case "log in":
                    await self.log_in(browser, visitor)
                case "log out":
                    visit = browser.request()
                    assert await visit.destroy()
                    self.drop(mine, [place])
                case "log out everywhere":
                    owner = self.owner_of(visitor)
                    theirs = [place for place, one in enumerate(mine) if one.owner == owner]
                    ended = await OwnerIndex(self.site.policy, owner).destroy()
                    if ended != len(theirs):
                        self.wrong.append(f"{ended} sessions of an owner ended, and there were {len(theirs)}")
                    self.drop(mine, theirs)
                case _:
                    if self.ended:
                        await self.look_back(self.chance.choice(self.ended))

    def drop(self, mine: list[Known], places: list[int]) -> None:
        for place in reversed(places):
            cookie = mine[place].cookie
            assert cookie is not None
            self.ended.append(cookie)
            mine[place] = mine[-1]
            mine.pop()

    async def check(self) -> None:
        """Look at every session that there was."""

        async def some(visitor: int) -> None:
            for browser in self.living[visitor]:
                await self.look(browser)
            for cookie in self.ended[visitor::VISITORS]:
                await self.look_back(cookie)
            listed: dict[str, set[str]] = {}
            for browser in self.living[visitor]:
                if browser.owner is not None and browser.cookie is not None:
                    parsed = Credential.parse(browser.cookie)
                    assert parsed is not None
                    listed.setdefault(browser.owner, set()).add(parsed.selector)
            for owner, selectors in listed.items():
                if {one.id for one in await OwnerIndex(self.site.policy, owner).sessions()} != selectors:
                    self.wrong.append("lost: an owner's list is another")

        await asyncio.gather(*map(some, range(VISITORS)))

    def told(self) -> dict[str, Any]:
        return {
            "counts": dict(self.counts),
            "wrong": self.wrong,
            "living": sum(map(len, self.living)),
            "ended": len(self.ended),
        }


async def main() -> None:
    worker = Worker(int(sys.argv[1]), int(sys.argv[2]))
    running: list[asyncio.Task[None]] = []
    while line := await asyncio.to_thread(sys.stdin.readline):
        what, *urls = line.split()
        match what:
            case "found":
                worker.use(store_at(*urls))
                await worker.found()
            case "run":
                worker.use(MovingStore(*map(store_at, urls)))
                worker.runs = True
                running = [asyncio.create_task(worker.visit(visitor)) for visitor in range(VISITORS)]
            case "stop":
                worker.runs = False
                for ended in await asyncio.gather(*running, return_exceptions=True):
                    if isinstance(ended, (StoreError, AssertionError)):
                        worker.wrong.append(f"failed: {ended!r}")
                    elif ended is not None:
                        raise ended
            case "check":
                worker.use(store_at(*urls))
                await worker.check()
        sys.stdout.write(json.dumps(worker.told()) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(main())

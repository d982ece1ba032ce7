"""One process of an application under load: visitors who browse until they are told to stop.

It is told by lines of JSON: what to open, and then `"stop"`, or how many of its visitors hang up, or by how much its
clock is ahead. It keeps a diary: a line of JSON when a request begins and one when it ends, so that of a process that
is killed it is known what it had begun, and what its visitors were told.
"""

import asyncio
import json
import logging
import os
import random
import sys
import threading
import time
import traceback
from importlib import import_module
from typing import Any

from server_session import FileSessionStore, Sessions
from server_session._colour import drive, pause
from server_session.stores._base import SessionStore
from server_session.stores._clients import ClientOfProcess
from tests.faults.clock import clock
from tests.redis_sets import SERVICE
from tests.trials.worker import STEPS, Awaiting, Blocking, settled

__all__ = ["SLOTS", "close_store", "main", "open_store"]

SLOTS = 16
"""Keys that a visitor writes in turn: a write that comes late, after its client gave it up, meets no newer one."""

PAUSE = 0.03


def open_store(place: str, limit: float) -> SessionStore:
    """Open a store whose waits have this limit."""
    match place.partition(":")[0].partition("+")[0]:
        case "redis":
            from server_session.stores.redis import RedisSessionStore

            return RedisSessionStore(place, timeout=limit)
        case "sentinel" | "cluster":
            from server_session.stores.redis import RedisSessionStore

            return RedisSessionStore(redis_client(place, limit), timeout=limit)
        case "memcached":
            from server_session.stores.memcached import MemcachedSessionStore

            return MemcachedSessionStore(place, timeout=limit)
        case "file":
            return FileSessionStore(place.removeprefix("file:"), timeout=limit)
        case _:
            from server_session.stores.sql import SQLSessionStore

            return SQLSessionStore(place, create_table=True, timeout=limit)


def redis_client(place: str, limit: float) -> Any:
    """Return a client of the Sentinels, or of the nodes of a Cluster, that listen on these ports."""
    kind, _, ports = place.partition(":")
    name, _, colour = kind.partition("+")
    from redis.backoff import NoBackoff

    # Sentinel and Cluster have modules of the same names in both colours.
    module = import_module(f"redis.{colour}.{name}" if colour else f"redis.{name}")
    once = import_module(f"redis.{colour}.retry" if colour else "redis.retry").Retry(NoBackoff(), 0)
    limits = {"socket_timeout": limit, "socket_connect_timeout": limit, "retry": once, "protocol": 2}
    addresses = [("127.0.0.1", int(port)) for port in ports.split(",")]
    if name == "sentinel":
        return module.Sentinel(addresses, **limits).master_for(SERVICE, **limits)
    return module.RedisCluster(startup_nodes=[module.ClusterNode(*address) for address in addresses], **limits)


def close_store(store: Any) -> None:
    """Close the connections of a store that blocks."""
    end = getattr(store, "close", None)
    if end is not None and (closing := end()) is not None:
        drive(closing)
    clients = getattr(getattr(store, "_blocking", None), "args", (None,))[0]
    if isinstance(clients, ClientOfProcess):
        for connection in clients.get().places.clear():
            connection.disconnect()


class Diary:
    def __init__(self, path: str) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def note(self, **what: Any) -> None:
        # In one call: what is written so stays, whatever becomes of the process.
        os.write(self._file, json.dumps({"at": time.monotonic(), **what}).encode() + b"\n")


class Worker:
    def __init__(self, told: dict[str, Any]) -> None:
        self.told = told
        self.diary = Diary(told["diary"])
        self.stopped = threading.Event()
        self.hangs_up = 0.0

    def listen(self) -> None:
        for line in sys.stdin:
            told = json.loads(line)
            if told == "stop":
                break
            self.hangs_up = told.get("hangs_up", self.hangs_up)
            clock.ahead = told.get("ahead", clock.ahead)
        self.stopped.set()

    async def visit(self, front: Any, name: str) -> None:
        chance = random.Random(name)
        cookie: str | None = None
        ended: list[str] = []
        for number in range(1_000_000):
            if self.stopped.is_set():
                return
            shown, step = self.next_step(chance, cookie, ended, name, number)
            self.diary.note(who=name, number=number, step=step, cookie=shown)
            begun = time.monotonic()
            status, answer, given = await self.ask(front, shown, step, chance)
            told = {"status": status, "answer": answer, "given": given, "seconds": time.monotonic() - begun}
            self.diary.note(who=name, number=number, **told)
            if status == 200 and shown == cookie:
                was = cookie
                cookie = given or (None if step[0] == "destroy" or answer in ({}, False) else cookie)
                ended += [was] if was is not None and was != cookie else []
            await pause(chance.uniform(0, 2 * PAUSE))

    def next_step(
        self, chance: random.Random, cookie: str | None, ended: list[str], name: str, number: int
    ) -> tuple[str | None, list[Any]]:
        if ended and chance.random() < 0.05:
            return chance.choice(ended), ["get"]
        if cookie is None:
            data = {"me": name, "count": 0}
            return None, ["log_in", name, data] if self.told["has_owners"] else ["replace", data]
        kind = chance.choices(("get", "set", "add", "renew", "destroy"), (8, 6, 3, 1, 1))[0]
        arguments = {"set": [{"me": name, f"slot{number % SLOTS}": number}], "add": ["count"]}
        return cookie, [kind, *arguments.get(kind, [])]

    async def ask(
        self, front: Any, cookie: str | None, step: list[Any], chance: random.Random
    ) -> tuple[Any, Any, str | None]:
        answers: list[Any] = []

        async def body(request: Any) -> None:
            answers.append(await settled(STEPS[step[0]](front, request, *step[1:])))

        try:
            if chance.random() < self.hangs_up and isinstance(front, Awaiting):
                visit = asyncio.ensure_future(front.serve(cookie, body))
                await asyncio.wait({visit}, timeout=chance.uniform(0, 0.004))
                if visit.cancel():
                    await asyncio.wait({visit})
                    return "left", None, None
                status, cookies = visit.result()
            else:
                status, cookies = await front.serve(cookie, body)
        except Exception:  # noqa: BLE001 - whatever it is, no visitor may meet it, and it is counted
            return traceback.format_exc(-1)[-1000:], None, None
        values = [one.partition(";")[0].partition("=")[2] for one in cookies]
        return status, answers[0] if answers else None, values[0] if values and values[0] else None

    def run(self) -> None:
        sessions = Sessions(session_store=open_store(self.told["place"], self.told["limit"]))
        names = [f"{self.told['name']} {number}" for number in range(self.told["visitors"])]
        threading.Thread(target=self.listen, daemon=True).start()
        if self.told["calls"] == "gather":
            asyncio.run(self.all(Awaiting(sessions), names))
            return
        front = Blocking(sessions)
        threads = [threading.Thread(target=lambda name=name: drive(self.visit(front, name))) for name in names]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    async def all(self, front: Awaiting, names: list[str]) -> None:
        await asyncio.gather(*(self.visit(front, name) for name in names))


def main() -> None:
    """Serve what the first line tells."""
    # Of each 503 it says so, and here they are counted. What anybody else logs is a fault.
    logging.getLogger("server_session").setLevel(logging.CRITICAL)
    Worker(json.loads(sys.stdin.readline())).run()

"""What is left of sessions when nine of ten have expired: in the server's memory, in the table, in files, in the index.

Run `python -m bench.expiry [sessions] [--store NAME …]`. Each store is filled by log-ins, each owner having 50
sessions of which five live on. Then the others expire; then the living make requests, as visitors would; then each
owner's list of sessions is asked for once; then as many log in again, in the room that was left. Each store has a
process of its own, and a server of its own where it needs one.
"""

import argparse
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from server_session import FileSessionStore, MemorySessionStore, Sessions
from server_session import _owners as owners
from server_session._colour import drive
from server_session._record import user_fields
from server_session.stores._base import Outcome, SessionStore
from tests.trials.crew import ROOT
from tests.trials.drivers import STARTS
from tests.trials.worker import Blocking

SESSIONS_OF_AN_OWNER = 50
LIVING = 5
THREADS = 4
BATCH = 1000
DAY = 86_400.0

Figures = dict[str, int]


class Clock:
    """The present, and as much later as it is told."""

    ahead = 0.0

    def __call__(self) -> float:
        return time.time() + self.ahead


@dataclass(frozen=True)
class Yard:
    """A store, and how to look at what it takes."""

    place: str
    open: Callable[[str, Clock], SessionStore]
    look: Callable[[Any, str], Figures]
    has_clock: bool = True
    has_owners: bool = True
    tidy: Callable[[Any, str], None] | None = None
    """What an administrator, or the server by itself at another time, does besides."""
    tidying: str = ""
    """What that is called."""


def resident(process: int | str = "self") -> int:
    return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def look_at_memory(store: MemorySessionStore, _: str) -> Figures:
    stats = store.stats()
    return {"records": stats.sessions, "stats().bytes": stats.bytes, "RSS of the process": resident()}


def look_at_files(_: FileSessionStore, place: str) -> Figures:
    files = [entry for folder in os.scandir(place) for entry in os.scandir(folder) if entry.name.endswith(".session")]
    blocks = sum(entry.stat().st_blocks for entry in files) * 512
    return {"records": len(files), "bytes on disk": blocks}


def look_at_redis(_: object, place: str) -> Figures:
    import redis

    with redis.Redis.from_url(place) as client:
        memory = client.info("memory")
        return {
            "records": client.dbsize(),
            "used_memory": memory["used_memory"],
            "RSS of the server": memory["used_memory_rss"],
        }


def ask_memcached(place: str, question: str, end: bytes) -> str:
    with socket.create_connection(("127.0.0.1", int(place.rpartition(":")[2])), timeout=5) as connection:
        connection.sendall(f"{question}\r\n".encode())
        answer = b""
        while not answer.endswith(end):
            answer += connection.recv(65536)
    return answer.decode()


def look_at_memcached(_: object, place: str) -> Figures:
    stats = dict(re.findall(r"STAT (\S+) (\S+)", ask_memcached(place, "stats", b"END\r\n")))
    return {
        "records": int(stats["curr_items"]),
        "bytes of items": int(stats["bytes"]),
        "evictions": int(stats["evictions"]),
        "RSS of the server": resident(stats["pid"]),
    }


def crawl_memcached(_: object, place: str) -> None:
    ask_memcached(place, "lru_crawler crawl all", b"\r\n")
    time.sleep(3)


SIZES = {
    "sqlite": "SELECT page_count * page_size FROM pragma_page_count, pragma_page_size",
    "postgresql": "SELECT pg_total_relation_size('server_sessions')",
    "mysql": "SELECT data_length + index_length FROM information_schema.tables WHERE table_name = 'server_sessions'",
}


def look_at_sql(store: Any, _: str) -> Figures:
    from sqlalchemy import text

    engine = store._source.get().engine  # noqa: SLF001 - its own engine is the one at hand
    with engine.connect() as connection:
        if engine.dialect.name == "mysql":
            # Its figure is as old as the last look of its statistics.
            connection.execute(text("ANALYZE TABLE server_sessions"))
        rows = connection.execute(text("SELECT count(*) FROM server_sessions")).scalar()
        size = connection.execute(text(SIZES[engine.dialect.name])).scalar()
    return {"records": int(rows), "bytes of the table": int(size)}


def delete_expired(store: Any, _: str) -> None:
    while drive(store.delete_expired()):
        pass


def delete_expired_and_vacuum(store: Any, place: str) -> None:
    from sqlalchemy import text

    delete_expired(store, place)
    with store._source.get().engine.connect() as connection:  # noqa: SLF001 - its connections are in autocommit
        connection.execute(text("VACUUM server_sessions"))


def open_sql(scheme: str) -> Callable[[str, Clock], SessionStore]:
    def open_it(place: str, clock: Clock) -> SessionStore:
        from server_session.stores.sql import SQLSessionStore

        store = SQLSessionStore(f"{scheme}:{place.partition(':')[2]}", create_table=True, timeout=20, clock=clock)
        drive(store.create_table())
        return store

    return open_it


def open_redis(place: str, _: Clock) -> SessionStore:
    from server_session.stores.redis import RedisSessionStore

    return RedisSessionStore(place, blocking=True)


def open_memcached(place: str, _: Clock) -> SessionStore:
    from server_session.stores.memcached import MemcachedSessionStore

    return MemcachedSessionStore(place)


YARDS = {
    "memory": Yard("memory", lambda _, clock: MemorySessionStore(clock=clock), look_at_memory),
    "file": Yard("directory", lambda place, clock: FileSessionStore(place, clock=clock), look_at_files),
    "Redis": Yard("redis", open_redis, look_at_redis, has_clock=False),
    "memcached": Yard(
        "memcached",
        open_memcached,
        look_at_memcached,
        has_clock=False,
        has_owners=False,
        tidy=crawl_memcached,
        tidying="`lru_crawler crawl all`",
    ),
    "SQLite": Yard("sqlite", open_sql("sqlite+pysqlite"), look_at_sql, tidy=delete_expired, tidying="`delete_expired`"),
    "PostgreSQL": Yard(
        "postgresql",
        open_sql("postgresql+psycopg"),
        look_at_sql,
        tidy=delete_expired_and_vacuum,
        tidying="`delete_expired` and a `VACUUM`, which autovacuum does every minute",
    ),
    "MariaDB": Yard("mariadb", open_sql("mysql+pymysql"), look_at_sql, tidy=delete_expired, tidying="`delete_expired`"),
}


class Measurement:
    """One store filled, left and looked at."""

    def __init__(self, name: str, number: int, place: str) -> None:
        self._name = name
        self._yard = YARDS[name]
        self._number = number
        self._place = place
        self._clock = Clock()
        self._store = self._yard.open(place, self._clock)
        self._cookies: list[str] = []
        # Where the clock is the server's, time for the log-ins, in which none may expire.
        self._life = 1800.0 if self._yard.has_clock else 10 + number * 0.0015

    def run(self) -> None:
        self._print("empty")
        begun = time.time()
        self._fill(begun + self._life)
        self._print(f"{self._number:,} sessions, by log-ins")
        if self._yard.has_clock:
            self._clock.ahead += self._life + 1
        else:
            left = begun + self._life + 1 - time.time()
            assert left > 0, "some expired before all had come: give them more time"
            time.sleep(left)
        self._print("nine of ten have expired, nobody has called")
        requests = self._visit()
        self._print(f"after {requests:,} requests of the living")
        if self._yard.tidy is not None:
            self._yard.tidy(self._store, self._place)
            self._print(f"after {self._yard.tidying}")
        if self._yard.has_owners:
            # Entries of the last minute may be of log-ins that are under way.
            self._clock.ahead += 61
            sessions = self._sessions(DAY)
            for owner in self._owners():
                assert len(sessions.sync.sessions_of(owner)) == LIVING
            self._print("after each owner's list was asked for")
        self._fill(time.time() + self._life)
        self._print(f"{self._number:,} more")

    def _owners(self) -> Iterator[str]:
        return (f"owner {number}" for number in range(self._number // SESSIONS_OF_AN_OWNER))

    def _sessions(self, max_age: float) -> Sessions:
        return Sessions(session_store=self._store, max_age=max_age, clock=self._clock)

    def _fill(self, end: float) -> None:
        with ThreadPoolExecutor(THREADS) as pool:
            for first in range(0, self._number, BATCH):
                short = Blocking(self._sessions(end - time.time()))
                long = Blocking(self._sessions(DAY))
                numbers = range(first, min(first + BATCH, self._number))
                fronts = [long if self._lives(number) else short for number in numbers]
                cookies = pool.map(self._log_in, fronts, numbers)
                self._cookies += [
                    cookie for number, cookie in zip(numbers, cookies, strict=True) if self._lives(number)
                ]

    def _lives(self, number: int) -> bool:
        # The sessions of an owner come one after the other.
        return number % (SESSIONS_OF_AN_OWNER // LIVING) == 0

    def _log_in(self, front: Blocking, number: int) -> str:
        async def body(request: Any) -> None:
            data = {"user": number, "cart": ["leaf " * 40], "theme": "dark"}
            if self._yard.has_owners:
                assert front.call.log_in(request, f"owner {number // SESSIONS_OF_AN_OWNER}", data)
            else:
                assert front.call.replace_session_data(request, data)

        status, cookies = drive(front.serve(None, body))
        assert status == 200
        return cookies[0].partition(";")[0].partition("=")[2]

    def _visit(self) -> int:
        """Have the living read and write, until what has expired is gone or stays; return how many requests it took."""
        front = Blocking(self._sessions(DAY))

        async def body(request: Any) -> None:
            front.call.update_session_data(request, lambda data: data.update(visits=data.get("visits", 0) + 1))

        requests = 0
        held = self._records()
        still = 0
        while still < 3 and requests < self._number:
            for place in range(BATCH):
                drive(front.serve(self._cookies[(requests + place) % len(self._cookies)], body))
            requests += BATCH
            now = self._records()
            still = still + 1 if now >= held else 0
            held = now
        return requests

    def _records(self) -> int:
        return self._yard.look(self._store, self._place)["records"]

    def _entries(self) -> int:
        answers = (drive(self._store.get(owners._key_of(owner), {}, False)) for owner in self._owners())  # noqa: SLF001
        return sum(len(user_fields(answer)) for answer in answers if not isinstance(answer, Outcome))

    def _print(self, phase: str) -> None:
        figures = self._yard.look(self._store, self._place)
        cells = [f"{figures.pop('records'):,}"]
        cells.append(f"{self._entries():,}" if self._yard.has_owners else "none")
        cells.append("; ".join(f"{what} {shown(what, value)}" for what, value in figures.items()))
        print(f"| {self._name} | {phase} | {' | '.join(cells)} |", flush=True)


def shown(what: str, value: int) -> str:
    return f"{value:,}" if what == "evictions" else f"{value / 1e6:,.1f} MB"


def measure_one_owner() -> None:
    """Print how long the list of an owner gets who logs in every minute for a week, with sessions of half an hour."""
    clock = Clock()
    store = MemorySessionStore(clock=clock)
    front = Blocking(Sessions(session_store=store, clock=clock))

    async def body(request: Any) -> None:
        front.call.log_in(request, "ada")

    longest = 0
    log_ins = 7 * 24 * 60
    for _ in range(log_ins):
        clock.ahead += 60
        drive(front.serve(None, body))
        index = drive(store.get(owners._key_of("ada"), {}, False))  # noqa: SLF001
        assert not isinstance(index, Outcome)
        longest = max(longest, len(user_fields(index)))
    print(f"One owner, {log_ins:,} log-ins a minute apart, 30 sessions alive at a time: at most {longest} entries.")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sessions", type=int, nargs="?", default=100_000)
    parser.add_argument("--store", choices=YARDS, action="append")
    parser.add_argument("--place", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.place is not None:
        Measurement(arguments.store[0], arguments.sessions, arguments.place).run()
        return
    print(f"Python {sys.version.split()[0]}, {os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f}\n")
    print("| store | when | records | entries in owners' lists | size |\n| --- | --- | ---: | ---: | --- |", flush=True)
    for name in arguments.store or YARDS:
        with STARTS[YARDS[name].place]() as place:
            command = [sys.executable, "-m", "bench.expiry", str(arguments.sessions), "--store", name, "--place", place]
            subprocess.run(command, cwd=ROOT, check=True)
    print()
    measure_one_owner()


if __name__ == "__main__":
    main()

"""What a million sessions cost in MemorySessionStore: bytes, microseconds, and the longest call.

Run `python bench/memory.py [sessions]`. Each part runs in a process of its own, garbage collector on, with a full
collection every 50,000 calls. Sessions carry 300 bytes of data, in 1 or 10 fields, beside the core's own three fields.
A longest call is given by the clock on the wall and by the time that the thread itself ran: on a busy machine the
former holds the time of others too, which is what the empty loop shows.
"""

import argparse
import base64
import gc
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from server_session._colour import drive
from server_session.stores._base import APPLIED, Lifetime
from server_session.stores.memory import MemorySessionStore

LIFETIME = Lifetime(1800.0, 30 * 86_400.0)
COLLECT_EVERY = 50_000
KEY_BYTES = 24
UNKNOWN = "A" * KEY_BYTES


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


class Stopwatch:
    """Times each of many calls, and full collections between them, and keeps the longest."""

    def __init__(self) -> None:
        self.calls = 0
        self.wall = self.ran = self.collection = self.collection_ran = 0

    def time(self, call: Coroutine[Any, Any, Any]) -> Any:
        ran, wall = time.thread_time_ns(), time.perf_counter_ns()
        result = drive(call)
        wall, ran = time.perf_counter_ns() - wall, time.thread_time_ns() - ran
        self.wall, self.ran = max(self.wall, wall), max(self.ran, ran)
        self.calls += 1
        if self.calls % COLLECT_EVERY == 0:
            self.collect()
        return result

    def collect(self) -> None:
        ran, wall = time.thread_time_ns(), time.perf_counter_ns()
        gc.collect()
        self.collection = max(self.collection, time.perf_counter_ns() - wall)
        self.collection_ran = max(self.collection_ran, time.thread_time_ns() - ran)

    def __str__(self) -> str:
        return (
            f"longest call {self.wall / 1e6:6.2f} ms ({self.ran / 1e6:5.2f} of its own), "
            f"longest gc.collect() {self.collection / 1e6:6.2f} ms ({self.collection_ran / 1e6:5.2f})"
        )


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


class Keys:
    """The keys of all sessions in one block, so that they do not count."""

    def __init__(self, number: int) -> None:
        self._block = base64.urlsafe_b64encode(os.urandom(number * 18))
        self._number = number

    def __getitem__(self, place: int) -> str:
        return self._block[place * KEY_BYTES : (place + 1) * KEY_BYTES].decode()

    def any(self) -> str:
        return self[random.randrange(self._number)]


def fields(count: int) -> dict[str, bytes]:
    data = {f"field{n}": os.urandom(150 // count).hex().encode() for n in range(count)}
    return {
        "\0digest": b'"' + base64.urlsafe_b64encode(os.urandom(33))[:43] + b'"',
        "\0created": b"1800000000.123456789",
        "\0stamp": b'"' + os.urandom(5).hex().encode() + b'"',
        **data,
    }


async def nothing() -> None:
    pass


def bench_empty(sessions: int) -> None:
    """Print what the machine itself does to an empty loop, as long as the longest part."""
    watch = Stopwatch()
    for _ in range(3 * sessions):
        watch.time(nothing())
    watch.collect()
    print(f"empty loop                 {watch}")


def bench_store(sessions: int, count: int) -> None:
    """Print what sessions cost as they come, are read and written, come and expire, and expire all."""
    clock, keys, new = Clock(), Keys(sessions), Keys(sessions)
    store = MemorySessionStore(clock=clock)
    drive(store.get(UNKNOWN, {}))
    gc.collect()
    before = resident()

    def held() -> str:
        stats = store.stats()
        grown = resident() - before
        text = f"{stats.sessions:>9,} sessions, RSS {grown / 1e6:6.1f} MB, stats() {stats.bytes / 1e6:6.1f} MB"
        if not stats.sessions:
            return text
        return f"{text}, {grown / stats.sessions:.0f} RSS and {stats.bytes / stats.sessions:.0f} stats() bytes each"

    print(f"{sessions:,} sessions of 300 bytes in {count} field(s)")
    watch = Stopwatch()
    for n in range(sessions):
        clock.now += 1500 / sessions
        assert watch.time(store.set(keys[n], fields(count), LIFETIME)) is APPLIED
    print(f"  come                     {watch}\n    {held()}")

    watch = Stopwatch()
    for _ in range(sessions // 2):
        clock.now += 200 / sessions
        key = keys.any()
        record = watch.time(store.get(key, {}))
        assert watch.time(store.merge(key, {"field0": record["field0"] + b"+"}, (), {})) is APPLIED
    print(f"  read and grow by a byte  {watch}\n    {held()}")

    # As many again come, in the time that the first expire in: what is swept in time does not add up.
    watch, most = Stopwatch(), 0
    clock.now += 100
    for n in range(sessions):
        clock.now += 1800 / sessions
        watch.time(store.set(new[n], fields(count), LIFETIME))
        most = max(most, store.stats().sessions)
    print(f"  come while others expire {watch}\n    {held()}, at most {most:,} at once")

    # Nine of ten expire, everywhere in memory, as calls go on; then the last.
    watch = Stopwatch()
    for n in range(0, sessions, 10):
        drive(store.merge(new[n], {}, (), {}, Lifetime(86_400.0)))
    clock.now += 2000
    print(f"  idle since all but a tenth have expired\n    {held()}")
    while store.stats().sessions > sessions // 10:
        watch.time(store.get(UNKNOWN, {}))
    print(f"  swept                    {watch}\n    {held()} after {watch.calls:,} calls")
    for _ in range(sessions // 5):
        watch.time(store.get(UNKNOWN, {}))
    print(f"  gathered                 {watch}\n    {held()} after {watch.calls:,} calls")
    clock.now += 90_000
    watch = Stopwatch()
    while store.stats().sessions:
        watch.time(store.get(UNKNOWN, {}))
    print(f"  the last expire          {watch}\n    {held()} after {watch.calls:,} calls")


class PlainStore:
    """What the packed store is measured against: a dict of dicts, a lock, the same coroutines and nothing else."""

    def __init__(self) -> None:
        self._records: dict[str, dict[str, Any]] = {}
        self._lock = threading.Lock()

    async def set(self, key: str, fields: dict[str, bytes], lifetime: Lifetime) -> object:
        with self._lock:
            now = time.monotonic()
            self._records[key] = {"fields": dict(fields), "idle": lifetime.idle, "expires": now + lifetime.idle}
            return APPLIED

    async def get(self, key: str, expect: dict[str, bytes]) -> object:
        with self._lock:
            now = time.monotonic()
            record = self._records.get(key)
            if record is None or record["expires"] <= now:
                return None
            if any(record["fields"].get(name) != value for name, value in expect.items()):
                return None
            record["expires"] = now + record["idle"]
            return dict(record["fields"])

    async def merge(self, key: str, changed: dict[str, bytes], removed: tuple[str], expect: dict[str, bytes]) -> object:
        with self._lock:
            now = time.monotonic()
            record = self._records.get(key)
            if record is None or record["expires"] <= now:
                return None
            if any(record["fields"].get(name) != value for name, value in expect.items()):
                return None
            record["fields"].update(changed)
            for name in removed:
                record["fields"].pop(name, None)
            record["expires"] = now + record["idle"]
            return APPLIED


def bench_speed(sessions: int, count: int) -> None:
    """Print the microseconds of a call, beside those of the plain store."""
    number = min(sessions, 100_000)
    keys = Keys(number)
    order = [random.randrange(number) for _ in range(number)]
    records = [fields(count) for _ in range(1000)]
    expects = [{"\0digest": record["\0digest"]} for record in records]
    value = {"field0": b"v" * (300 // count)}

    def measure(name: str, store: Any) -> None:
        def mean(call: Callable[[int], Coroutine[Any, Any, Any]]) -> float:
            begun = time.thread_time_ns()
            for n in range(number):
                drive(call(n))
            return (time.thread_time_ns() - begun) / number / 1e3

        before = resident()
        new = mean(lambda n: store.set(keys[n], {**records[n % 1000]}, LIFETIME))
        each = (resident() - before) / number
        read = mean(lambda n: store.get(keys[order[n]], expects[order[n] % 1000]))
        write = mean(lambda n: store.merge(keys[order[n]], value, (), {}))
        empty = mean(lambda _: nothing())
        print(
            f"{name:18} {count:2} field(s): set {new:4.1f} µs, get {read:4.1f}, merge {write:4.1f} of the thread's own "
            f"(an empty coroutine {empty:.1f}), {each:.0f} bytes each"
        )

    measure("MemorySessionStore", MemorySessionStore())
    measure("dict of dicts", PlainStore())


PARTS: dict[str, Callable[[int], None]] = {
    "empty": bench_empty,
    "one": lambda sessions: bench_store(sessions, 1),
    "ten": lambda sessions: bench_store(sessions, 10),
    "speed-one": lambda sessions: bench_speed(sessions, 1),
    "speed-ten": lambda sessions: bench_speed(sessions, 10),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sessions", type=int, nargs="?", default=1_000_000)
    parser.add_argument("--part", choices=PARTS)
    arguments = parser.parse_args()
    if arguments.part:
        PARTS[arguments.part](arguments.sessions)
        return
    print(f"Python {sys.version.split()[0]}, {os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f}")
    for part in PARTS:
        subprocess.run([sys.executable, __file__, str(arguments.sessions), "--part", part], check=True)


if __name__ == "__main__":
    main()

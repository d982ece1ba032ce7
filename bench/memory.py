"""What sessions cost in MemorySessionStore: bytes, microseconds, and the longest call, at each number of sessions.

`python -m bench.memory [SESSIONS …]`. Each number has a process of its own, with the garbage collector on and a full
collection every 50,000 calls. Sessions carry 300 bytes of data in ten fields, beside the core's own three. A longest
call is given by the time that the thread itself ran, and by the clock on the wall, which on a busy machine holds the
time of others too: the empty coroutine shows how much. Beside it stands a plain dict of dicts under a lock.
"""

import argparse
import base64
import gc
import json
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Coroutine, Mapping
from pathlib import Path
from typing import Any

from bench.processes import ROOT, environment
from server_session import APPLIED, Lifetime, MemorySessionStore

Figures = dict[str, Any]

LIFETIME = Lifetime(1800.0, 30 * 86_400.0)
COLLECT_EVERY = 50_000
KEY_BYTES = 24
UNKNOWN = "A" * KEY_BYTES
FIELDS = 10
DATA_BYTES = 300
MOST_CALLS = 200_000
MOST_PLAIN = 100_000


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def driven(call: Coroutine[Any, Any, Any]) -> Any:
    """Return what a coroutine returns that never waits."""
    try:
        call.send(None)
    except StopIteration as end:
        return end.value
    raise AssertionError("the memory store waited for something")


class Stopwatch:
    """Times each of many calls, and full collections between them; keeps the sum and the longest."""

    def __init__(self) -> None:
        self.calls = 0
        self.wall = self.ran = self.sum = self.collection = 0

    def time(self, call: Coroutine[Any, Any, Any]) -> Any:
        wall, ran = time.perf_counter_ns(), time.thread_time_ns()
        result = driven(call)
        ran, wall = time.thread_time_ns() - ran, time.perf_counter_ns() - wall
        self.wall, self.ran = max(self.wall, wall), max(self.ran, ran)
        self.sum += ran
        self.calls += 1
        if self.calls % COLLECT_EVERY == 0:
            self.collect()
        return result

    def collect(self) -> None:
        ran = time.thread_time_ns()
        gc.collect()
        self.collection = max(self.collection, time.thread_time_ns() - ran)

    def mean_us(self, empty: "Stopwatch") -> float:
        """Return the microseconds of a call, as the thread itself ran, less those of timing it."""
        return round((self.sum / self.calls - empty.sum / empty.calls) / 1e3, 1)

    def longest(self) -> Figures:
        """Return the longest call, in milliseconds."""
        return {"own_ms": round(self.ran / 1e6, 2), "wall_ms": round(self.wall / 1e6, 2)}


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


def fields() -> dict[str, bytes]:
    data = {f"field{n}": os.urandom(DATA_BYTES // FIELDS // 2).hex().encode() for n in range(FIELDS)}
    return {
        "\0digest": b'"' + base64.urlsafe_b64encode(os.urandom(33))[:43] + b'"',
        "\0created": b"1800000000.123456789",
        "\0stamp": b'"' + os.urandom(5).hex().encode() + b'"',
        **data,
    }


async def nothing() -> None:
    pass


class PlainStore:
    """What the memory store is measured against: a dict of dicts, a lock, the same coroutines and nothing else."""

    def __init__(self) -> None:
        self._records: dict[str, dict[str, Any]] = {}
        self._lock = threading.Lock()

    async def set(self, key: str, fields: Mapping[str, bytes], lifetime: Lifetime) -> object:
        with self._lock:
            now = time.monotonic()
            self._records[key] = {"fields": dict(fields), "idle": lifetime.idle, "expires": now + lifetime.idle}
            return APPLIED

    async def get(self, key: str, expect: Mapping[str, bytes]) -> object:
        with self._lock:
            record = self._found(key, expect)
            return None if record is None else dict(record["fields"])

    async def merge(
        self, key: str, changed: Mapping[str, bytes], removed: tuple[str, ...], expect: Mapping[str, bytes]
    ) -> object:
        with self._lock:
            record = self._found(key, expect)
            if record is None:
                return None
            record["fields"].update(changed)
            for name in removed:
                record["fields"].pop(name, None)
            return APPLIED

    def _found(self, key: str, expect: Mapping[str, bytes]) -> dict[str, Any] | None:
        now = time.monotonic()
        record = self._records.get(key)
        if record is None or record["expires"] <= now:
            return None
        if any(record["fields"].get(name) != value for name, value in expect.items()):
            return None
        record["expires"] = now + record["idle"]
        return record


def bench_empty(calls: int) -> Stopwatch:
    """Return what timing costs, and what the machine does to a loop of nothing."""
    watch = Stopwatch()
    for _ in range(calls):
        watch.time(nothing())
    return watch


def bench_store(number: int) -> Figures:
    """Return the figures of the memory store: as sessions come, are read and grow, and as all have expired at once."""
    clock, keys, records = Clock(), Keys(number), [fields() for _ in range(1000)]
    expects = [{"\0digest": record["\0digest"]} for record in records]
    calls = min(number, MOST_CALLS)
    empty = bench_empty(calls)
    store = MemorySessionStore(clock=clock)
    driven(store.get(UNKNOWN, {}))
    gc.collect()
    before = resident()
    come = Stopwatch()
    for n in range(number):
        clock.now += 1500 / number
        assert come.time(store.set(keys[n], records[n % 1000], LIFETIME)) is APPLIED
    grown, stats = resident() - before, store.stats()
    assert stats.sessions == number
    read, write = Stopwatch(), Stopwatch()
    for _ in range(calls):
        n = random.randrange(number)
        record = read.time(store.get(keys[n], expects[n % 1000]))
        # By a byte longer.
        assert write.time(store.merge(keys[n], {"field0": record["field0"] + b"+"}, (), {})) is APPLIED
    # As many come as expire.
    clock.now = max(clock.now, LIFETIME.idle)
    new, beside = Keys(calls), Stopwatch()
    for n in range(calls):
        clock.now += 1500 / number
        beside.time(store.set(new[n], records[n % 1000], LIFETIME))
    clock.now += 2000
    expired = Stopwatch()
    while store.stats().sessions and expired.calls < MOST_CALLS:
        expired.time(store.get(UNKNOWN, {}))
    return {
        "set_us": come.mean_us(empty),
        "get_us": read.mean_us(empty),
        "merge_us": write.mean_us(empty),
        "rss_bytes": round(grown / number),
        "stats_bytes": round(stats.bytes / number),
        "longest": {
            "set": come.longest(),
            "get": read.longest(),
            "merge": write.longest(),
            "set while others expire": beside.longest(),
            "get while all expire": expired.longest(),
            "nothing": empty.longest(),
        },
        "expired": {"calls": expired.calls, "left": store.stats().sessions, "rss_left": resident() - before},
    }


def bench_plain(number: int) -> Figures:
    """Return the figures of a plain dict of dicts."""
    keys, records, store = Keys(number), [fields() for _ in range(1000)], PlainStore()
    calls = min(number, MOST_CALLS)
    empty, come, read, write = bench_empty(calls), Stopwatch(), Stopwatch(), Stopwatch()
    before = resident()
    for n in range(number):
        # Each has bytes of its own.
        record = {name: bytes(bytearray(value)) for name, value in records[n % 1000].items()}
        come.time(store.set(keys[n], record, LIFETIME))
    grown = resident() - before
    for _ in range(calls):
        n = random.randrange(number)
        record = read.time(store.get(keys[n], {"\0digest": records[n % 1000]["\0digest"]}))
        write.time(store.merge(keys[n], {"field0": record["field0"] + b"+"}, (), {}))
    return {
        "set_us": come.mean_us(empty),
        "get_us": read.mean_us(empty),
        "merge_us": write.mean_us(empty),
        "rss_bytes": round(grown / number),
    }


PARTS: dict[str, Callable[[int], Figures]] = {"store": bench_store, "plain": bench_plain}


def measure(sizes: tuple[int, ...], most_seconds: float, say: Callable[[str], None]) -> Figures:
    """Return the figures for each number of sessions; one that would take longer than that is named with a reason."""
    measured: Figures = {}
    seconds = 0.0
    last = 1
    for size in sizes:
        if (expected := seconds * size / last) > most_seconds:
            measured[str(size)] = {"left_out": f"left out, for it would have taken about {expected / 60:.0f} minutes"}
            continue
        begun = time.monotonic()
        figures = _in_a_process("store", size)
        seconds, last = time.monotonic() - begun, size
        measured[str(size)] = {"store": figures}
        if size <= MOST_PLAIN:
            measured[str(size)]["plain"] = _in_a_process("plain", size)
        say(f"    {size:,} sessions: {figures['rss_bytes']} bytes each, get {figures['get_us']} µs, {seconds:.0f} s")
    return measured


def _in_a_process(part: str, size: int) -> Figures:
    command = [sys.executable, "-m", "bench.memory", str(size), "--part", part]
    done = subprocess.run(command, cwd=ROOT, env=environment(), stdout=subprocess.PIPE, check=True)
    figures: Figures = json.loads(done.stdout)
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sessions", type=int, nargs="*", default=[1_000_000])
    parser.add_argument("--part", choices=PARTS)
    arguments = parser.parse_args()
    if arguments.part:
        print(json.dumps(PARTS[arguments.part](arguments.sessions[0])))
        return
    print(f"Python {sys.version.split()[0]}, {os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f}")
    print(json.dumps(measure(tuple(arguments.sessions), 3600, lambda _: None), indent=2))


if __name__ == "__main__":
    main()

"""Processes that write through a FileSessionStore and are killed (SIGKILL) at random moments.

A writer makes the calls of `calls(seed)`, one after another, and after each that returned writes a byte to a pipe:
the acknowledgement. The test makes the same calls on a plain dict.
"""

import os
import random
import signal
import time
from itertools import islice

import pytest

from server_session._colour import drive
from server_session.stores._base import APPLIED, CONFLICT, MISSING, Lifetime
from server_session.stores.file import FileSessionStore
from tests.forks import fork
from tests.parts import ALL

# What a server or a signal does is the same on every Python.
pytestmark = [pytest.mark.once, pytest.mark.long]

KILLS = 200 if ALL else 8

# The first two share a shard, and with it a lock.
KEYS = ["AAAA" + "a" * 20, "AAAA" + "b" * 20, "Bcde" + "c" * 20, "wxyz" + "d" * 20]
LIFETIME = Lifetime(7 * 86400.0, 30 * 86400.0)


def calls(seed):
    """Yield calls without end: (name of the method, key, fields or changed, removed)."""
    chance = random.Random(seed)
    number = 0
    while True:
        number += 1
        key = chance.choice(KEYS)
        fields = {
            f"field-{chance.randrange(6)}": b"%d-%d " % (seed, number) * chance.choice([1, 10, 1000, 20000])
            for _ in range(chance.randrange(1, 4))
        }
        name = chance.choices(["merge", "found", "set", "destroy", "touch"], [10, 3, 2, 1, 2])[0]
        removed = [f"field-{chance.randrange(6)}"] if chance.random() < 0.5 else []
        yield name, key, fields, [field for field in removed if field not in fields]


def call(store, name, key, fields, removed):
    if name == "merge":
        return drive(store.merge(key, fields, removed, {}))
    if name == "found":
        return drive(store.set(key, fields, LIFETIME))
    if name == "set":
        return drive(store.set(key, fields, LIFETIME, expect={}))
    if name == "touch":
        return drive(store.merge(key, {}, [], {}))
    return drive(store.destroy(key))


def call_on_dict(records, name, key, fields, removed):
    present = key in records
    if name == "destroy":
        records.pop(key, None)
        return present
    if present is (name == "found"):
        return CONFLICT if present else MISSING
    if name == "merge":
        kept = {field: value for field, value in records[key].items() if field not in removed}
        records[key] = kept | fields
    elif name != "touch":
        records[key] = dict(fields)
    return APPLIED


def write(directory, seed, acknowledge, *, durable):
    store = FileSessionStore(directory, durable=durable)
    for each in calls(seed):
        call(store, *each)
        os.write(acknowledge, b".")


def read_all(store):
    found = {key: drive(store.get(key, {}, touch=False)) for key in KEYS}
    return {key: fields for key, fields in found.items() if fields is not MISSING}


def kill_a_writer(directory, seed, *, durable):
    """Start a writer, kill it at a random moment, and return how many calls it acknowledged."""
    acknowledged, acknowledge = os.pipe()
    writer = fork(lambda: write(directory, seed, acknowledge, durable=durable))
    os.close(acknowledge)
    with os.fdopen(acknowledged, "rb", buffering=0) as pipe:
        first = pipe.read(1)
        assert first == b"."
        # Between two calls and within each step of one: a call takes some tenths of a millisecond.
        time.sleep(random.Random(seed).uniform(0, 0.02))
        os.kill(writer, signal.SIGKILL)
        os.waitpid(writer, 0)
        return len(first) + len(pipe.read())


@pytest.mark.parametrize("durable", [False, True])
def test_a_killed_writer_leaves_every_file_readable_and_every_acknowledged_write(tmp_path, durable):
    records = {}
    acknowledged = in_flight = 0
    unfinished = set()
    for seed in range(KILLS):
        count = kill_a_writer(tmp_path, seed, durable=durable)
        acknowledged += count
        unfinished.update(tmp_path.glob("*/*.new"))
        made = list(islice(calls(seed), count + 1))
        for each in made[:count]:
            call_on_dict(records, *each)
        found = read_all(FileSessionStore(tmp_path))
        if found != records:
            # The call that was cut short was made whole, or was not made.
            call_on_dict(records, *made[count])
            in_flight += 1
        assert found == records, f"after the kill of writer {seed}, which had acknowledged {count} calls"
    store = FileSessionStore(tmp_path)
    assert len(drive(store.list_records()).records) == len(records)
    for file in tmp_path.glob("*/*.new"):
        os.utime(file, (0, 0))
    for _ in range(3000):
        drive(store.get(KEYS[0], {}))
    assert not list(tmp_path.glob("*/*.new"))
    print(  # noqa: T201  (the figures that the documentation quotes; pytest shows them with -rP)
        f"{KILLS} kills, durable={durable}: {acknowledged} acknowledged calls, none lost; "
        f"{in_flight} calls cut short had been made whole; {len(unfinished)} unfinished files left and swept"
    )


def test_a_writer_that_is_killed_takes_no_lock_with_it(tmp_path):
    survivor = FileSessionStore(tmp_path)
    drive(survivor.set("AAAA" + "s" * 20, {"count": b"0"}, LIFETIME))
    for seed in range(3):
        kill_a_writer(tmp_path, 1000 + seed, durable=False)
        assert drive(survivor.merge("AAAA" + "s" * 20, {f"{seed}": b"x"}, [], {})) is APPLIED

"""Sessions move from store to store while both are in use: none is lost, and none comes back."""

import asyncio
import os
import textwrap
from base64 import urlsafe_b64decode
from contextlib import suppress
from functools import partial
from itertools import product
from pathlib import Path

import pytest

import server_session
from server_session._colour import Colour, drive
from server_session._owners import OwnerIndex
from server_session._record import ENDED, LONGEST, STAMP
from server_session._signals import Signals
from server_session.exceptions import ConfigurationError, StoreDownError, StoreError
from server_session.migration import Migrated, MovingStore, _moving, migrate
from server_session.stores._base import APPLIED, CONFLICT, MISSING, Outcome
from server_session.stores._packed import Likely, Record
from server_session.stores._sealed import EncryptedCodec, SealedStore
from server_session.stores.file import FileSessionStore
from server_session.stores.memory import MemorySessionStore
from server_session.stores.sql import SQLSessionStore
from server_session.testing import StoreContract, YieldingStore
from tests.documents import code_of
from tests.interleavings import HOUR, Play, Shelf, Stage, explore, stroll
from tests.patience import PATIENCE
from tests.visitors import Browser, Clock, Site

PAGE = Path(__file__).parents[1] / "docs" / "moving-stores.md"
KEY = "k" * 24
ALL_OF_THEM = os.environ.get("SERVER_SESSION_ALL") == "1"
TAKES_LONG = pytest.mark.skipif(not ALL_OF_THEM, reason="takes long: SERVER_SESSION_ALL=1 runs it")
SECRET = {"d": b"secret"}
SESSION = {**SECRET, STAMP: b"first", "n": b"0"}
MARK_LIFE = HOUR._replace(idle=60.0, remaining=60.0)


@pytest.fixture(autouse=True)
def _no_chance(monkeypatch: pytest.MonkeyPatch) -> None:

    async def at_once(tries: int) -> None:
        pass

    monkeypatch.setattr(_moving, "step_back", at_once)
    monkeypatch.setattr(_moving, "_fresh_token", Stage.token)


def old_with(fields: dict[str, bytes]) -> Shelf:
    old = Shelf()
    assert drive(old.set(KEY, fields, HOUR)) is APPLIED
    return old


def mover(old, new):
    return MovingStore(old, new).move(KEY)


def write(moves):
    async def play(old, new):
        store = MovingStore(old, new, moves=moves)
        return await store.merge(KEY, {"write": b"1", STAMP: b"write"}, (), SECRET)

    return play


def count(moves):
    """Read and write what follows from it, until nobody wrote in between."""

    async def play(old, new):
        store = MovingStore(old, new, moves=moves)
        while True:
            fields = await store.get(KEY, SECRET)
            if isinstance(fields, Outcome):
                return fields
            more = b"%d" % (int(fields["n"]) + 1)
            outcome = await store.merge(KEY, {"n": more, STAMP: b"n" + more}, (), {**SECRET, STAMP: fields[STAMP]})
            if outcome is not CONFLICT:
                return outcome

    return play


def log_out(moves):
    async def play(old, new):
        return await MovingStore(old, new, moves=moves).set(KEY, {ENDED: b"0"}, MARK_LIFE, SECRET)

    return play


async def minute(old, new):
    """Let the marks of sessions that have ended go."""
    await new.get("clock", {}, False)
    for store in (old._store, new._store):
        store.now += 61.0


def seen_by(stage: Stage, moves: bool, *, back: bool = False):
    """Return what a process that comes now, and then again after a minute, finds in the place of the session.

    With `back` it is one that goes back to the old store.
    """
    stage.tokens["late"] = 0
    Stage.acting = stage, "late"
    old, new = stage.old.copy(), stage.new.copy()
    for _ in range(2):
        yield drive((MovingStore(new, old, moves=moves) if back else MovingStore(old, new, moves=moves)).get(KEY, {}))
        old.now += 61.0
        new.now += 61.0


def check_session(stage: Stage, *directions: bool, is_ended: bool = False) -> None:
    """Check that nothing is lost and nothing back, whoever stops here for ever, and whoever stops here for a minute."""
    is_over = is_ended or stage.results.get("log out") is APPLIED
    may_be_over = is_ended or bool(stage.heard.get("log out"))
    for moves, back in product((True, False), directions or (False,)):
        for fields in seen_by(stage, moves, back=back):
            if is_over or (may_be_over and (isinstance(fields, Outcome) or ENDED in fields)):
                assert fields is MISSING or ENDED in fields
                continue
            assert isinstance(fields, dict)
            assert fields.keys() <= SESSION.keys() | {"write"}
            for name in ("write", "count"):
                if stage.results.get(name) is APPLIED:
                    assert fields["n" if name == "count" else name] == b"1"
    for name in ("write", "count", "log out"):
        assert is_ended or stage.results.get(name, APPLIED) is APPLIED or (may_be_over and name != "log out")


NOW, BEFORE = True, False
"""Of an actor: whether its process moves, or is of the deployment before that one."""

PAIRS: list[dict[str, Play]] = [
    {"mover": mover, "other": mover},
    *({"mover": mover, "write": write(moves)} for moves in (NOW, BEFORE)),
    {"mover": mover, "count": count(BEFORE)},
    *({"mover": mover, "log out": log_out(moves)} for moves in (NOW, BEFORE)),
    {"mover": mover, "log out": log_out(BEFORE), "minute": minute},
    {"write": write(NOW), "log out": log_out(BEFORE)},
    {"write": write(BEFORE), "log out": log_out(NOW)},
]
MORE: list[dict[str, Play]] = [
    {"mover": mover, "other": mover, "write": write(BEFORE)},
    {"mover": mover, "other": mover, "log out": log_out(NOW)},
    {"mover": mover, "log out": log_out(NOW), "minute": minute},
    {"mover": mover, "count": count(BEFORE), "log out": log_out(NOW)},
    {"mover": mover, "write": write(NOW), "log out": log_out(BEFORE)},
    {"mover": mover, "count": count(BEFORE), "write": write(NOW)},
]
ALL: dict[str, Play] = {
    "mover": mover,
    "other": mover,
    "count": count(BEFORE),
    "write": write(NOW),
    "log out": log_out(NOW),
    "minute": minute,
}


@pytest.mark.once
@pytest.mark.parametrize("plays", PAIRS, ids=" ".join)
def test_whatever_the_order_nothing_is_lost_and_nothing_comes_back(plays):
    assert explore(old_with(SESSION), Shelf(), plays, check_session) > 100


@pytest.mark.once
@TAKES_LONG
@pytest.mark.parametrize("plays", MORE, ids=" ".join)
def test_nor_is_it_with_a_third(plays):
    assert explore(old_with(SESSION), Shelf(), plays, check_session) > 1000


@pytest.mark.once
def test_nor_is_it_with_six_in_orders_by_chance():
    for seed in range(5_000 if ALL_OF_THEM else 60):
        stroll(old_with(SESSION), Shelf(), ALL, check_session, seed)


# --- the way back


def back(play):
    """Return an actor that goes the other way: to it the new store is the old one."""
    return lambda old, new: play(new, old)


@pytest.mark.once
@pytest.mark.parametrize(
    "plays",
    [
        {"mover": mover, "write": back(write(BEFORE))},
        {"mover": mover, "log out": back(log_out(BEFORE)), "minute": minute},
        pytest.param({"mover": mover, "other": mover, "write": back(write(BEFORE))}, marks=TAKES_LONG),
    ],
    ids=" ".join,
)
def test_whoever_is_deployed_to_go_back_knows_what_others_still_move(plays):
    assert explore(old_with(SESSION), Shelf(), plays, lambda stage: check_session(stage, False, True)) > 60


def left_behind():
    """Return what movers leave in both stores who stop for ever, with a log-out beside them, and whether it ended."""
    found: dict[object, tuple[Shelf, Shelf, bool]] = {}

    def keep(stage):
        ended = stage.results.get("log out") is APPLIED
        found[stage.old.state(), stage.new.state(), ended] = stage.old.copy(), stage.new.copy(), ended

    explore(old_with(SESSION), Shelf(), {"gone": mover, "log out": log_out(BEFORE)}, keep)
    return found.values()


@pytest.mark.once
@pytest.mark.parametrize(
    "plays",
    [{"mover": mover}, {"log out": log_out(BEFORE)}, *(pytest.param(plays, marks=TAKES_LONG) for plays in PAIRS)],
    ids=" ".join,
)
def test_what_others_have_left_half_moved_moves_back(plays):
    for old, new, is_ended in left_behind():
        explore(new, old, plays, partial(check_session, is_ended=is_ended))


@pytest.mark.parametrize("moves", [NOW, BEFORE])
def test_where_all_else_of_a_move_has_gone_a_record_is_founded_on_the_way_back(moves, monkeypatch):
    monkeypatch.undo()
    old, new = MemorySessionStore(), MemorySessionStore()
    drive(old.set(KEY, {"\0leaving": b"t"}, HOUR, None))
    store = MovingStore(new, old, moves=moves)
    assert drive(store.merge(KEY, {"a": b"1"}, (), {})) is MISSING
    drive(old.set(KEY, {"\0leaving": b"t"}, HOUR, None))
    assert drive(store.set(KEY, LIST, HOUR, None)) is APPLIED
    assert drive(store.get(KEY, {})) == LIST


# --- an owner's list, and the marks of sessions that are about to live

LIST = {LONGEST: b"9", STAMP: b"first", "first": b"1"}


def log_in(entry, moves):
    async def play(old, new):
        store = MovingStore(old, new, moves=moves)
        mine = {entry: b"1", LONGEST: b"9", STAMP: entry.encode()}
        while True:
            outcome = await store.merge(KEY, mine, (), {LONGEST: b"9"})
            if outcome is MISSING:
                outcome = await store.set(KEY, mine, HOUR, None)
            if outcome is APPLIED:
                return outcome

    return play


def found(moves):
    async def play(old, new):
        with suppress(StoreError):
            return await MovingStore(old, new, moves=moves).set(KEY, SESSION, HOUR, None)

    return play


def end(moves):
    async def play(old, new):
        with suppress(StoreError):
            return await MovingStore(old, new, moves=moves).set(KEY, {ENDED: b"0"}, MARK_LIFE, None)

    return play


@pytest.mark.once
@pytest.mark.parametrize(
    "old, other",
    [
        pytest.param(Shelf(), BEFORE, id="none, before"),
        pytest.param(old_with(LIST), BEFORE, id="one, before"),
        pytest.param(old_with(LIST), NOW, id="one, now"),
        pytest.param(Shelf(), NOW, id="none, now", marks=TAKES_LONG),
    ],
)
def test_a_list_founded_in_both_stores_at_once_is_one_list(old, other):
    def check(stage):
        for moves in (NOW, BEFORE):
            for fields in seen_by(stage, moves):
                listed = set() if fields is MISSING else fields.keys() - {LONGEST, STAMP}
                assert listed >= (stage.results.keys() - {"mover"}) | (LIST.keys() if old.kept else set()) - {
                    LONGEST,
                    STAMP,
                }

    # Nobody moves what the store before may still found but who has met it in the new one.
    plays = {"a": log_in("a", BEFORE), "b": log_in("b", other)}
    assert explore(old, Shelf(), plays, check) > 5


@pytest.mark.once
@pytest.mark.parametrize(
    "founder, ender",
    [
        (NOW, NOW),
        (BEFORE, BEFORE),
        pytest.param(NOW, BEFORE, marks=TAKES_LONG),
        pytest.param(BEFORE, NOW, marks=TAKES_LONG),
    ],
)
def test_a_session_that_is_ended_as_it_is_founded_does_not_live(founder, ender, monkeypatch):
    # Two who found in turn could go on so for ever, if no chance parted them.
    monkeypatch.setattr(_moving, "_TRIES", 3)

    def check(stage):
        if stage.results.get("end") is APPLIED and "found" in stage.results:
            for moves in (NOW, BEFORE):
                for fields in seen_by(stage, moves):
                    assert fields is MISSING or ENDED in fields

    explore(Shelf(), Shelf(), {"found": found(founder), "end": end(ender)}, check)


# --- the contract, and what is refused


class TestContractWhileAllMoves(StoreContract):
    moves = True

    def make_store(self):
        self.clock = Clock()
        return MovingStore(MemorySessionStore(clock=self.clock), MemorySessionStore(clock=self.clock), moves=self.moves)

    def advance(self, seconds):
        self.clock.advance(seconds)


class TestContractBeforeAnythingMoves(TestContractWhileAllMoves):
    moves = False


class TestContractOverWhatOldProcessesLeft(TestContractWhileAllMoves):
    """Each record is founded in the old store, by a process that knows no other."""

    # To move starts the idle clock, whoever asked for the record.
    test_a_record_expires_at_its_idle_time_and_not_before = None
    test_what_does_not_hold_touches_nothing = None

    def make_store(self):
        store = super().make_store()

        class Founded(MovingStore):
            async def set(self, key, fields, lifetime, expect=None):
                if expect is not None or not isinstance(await self.new.get(key, {}, False), Outcome):
                    return await super().set(key, fields, lifetime, expect)
                return await self.old.set(key, fields, lifetime, None)

        return Founded(store.old, store.new)


def test_a_store_that_is_to_move_to_itself_is_refused_and_loses_nothing():
    store = old_with(SESSION)
    with pytest.raises(ConfigurationError, match="the same"):
        drive(MovingStore(store, store).move(KEY))
    assert drive(store.get(KEY, {})) == SESSION


def test_stores_of_colours_that_do_not_go_together_are_refused(tmp_path):
    with pytest.raises(ConfigurationError, match="awaits and the other blocks"):
        MovingStore(FileSessionStore(tmp_path), SQLSessionStore("sqlite+aiosqlite:///file.db"))
    assert MovingStore("memory:", f"file:{tmp_path}").colour is Colour.BLOCKS
    assert MovingStore("memory:", "memory:").colour is Colour.INSTANT


def test_a_store_that_shows_no_lifetimes_is_refused():
    with pytest.raises(ConfigurationError, match="read_record"):
        MovingStore(YieldingStore(MemorySessionStore()), "memory:")


# --- the whole store


def test_migrate_moves_sessions_owners_and_lifetimes():
    clock = Clock()
    old, new = MemorySessionStore(clock=clock), MemorySessionStore(clock=clock)
    kept = {old.id(): HOUR._replace(remaining=1000.0 + number) for number in range(1200)}
    for key, lifetime in kept.items():
        drive(old.set(key, {"a": key.encode()}, lifetime))
    told = []
    assert asyncio.run(migrate(old, new, dry_run=True)) == Migrated(sessions=1200)
    assert (old.stats().sessions, new.stats().sessions) == (1200, 0)
    assert asyncio.run(migrate(old, new, tell=told.append)) == Migrated(sessions=1200)
    assert told[0].sessions < 1200
    clock.advance(1)
    assert not drive(old.list_records()).records
    for key, lifetime in kept.items():
        there = drive(new.read_record(key))
        assert there.fields == {"a": key.encode()}
        assert there.lifetime == lifetime._replace(remaining=lifetime.remaining - 1)
    assert asyncio.run(migrate(old, new)) == Migrated()


def test_sealed_sessions_move_as_they_are_and_owners_with_them():
    codec, clock = EncryptedCodec([EncryptedCodec.generate_key()]), Clock()
    old, new = MemorySessionStore(clock=clock), MemorySessionStore(clock=clock)
    before, after = (Site(SealedStore(store, codec, Signals().unreadable), clock) for store in (old, new))
    browser = Browser(before)

    async def log_in():
        visit = browser.request()
        assert await visit.replace({"cart": [1]}, "ada")
        browser.receive(visit)

    async def look():
        return await Browser(after, browser.cookie).request().get(), await OwnerIndex(after.policy, "ada").sessions()

    drive(log_in())
    assert asyncio.run(migrate(old, new)) == Migrated(sessions=1, owners=1)
    data, sessions = drive(look())
    assert data == {"cart": [1]}
    assert len(sessions) == 1


def test_an_evicting_store_takes_no_owners_lists_and_what_cannot_be_read_stays(tmp_path):
    old, new = FileSessionStore(tmp_path), MemorySessionStore(max_sessions=9, when_full="evict")
    keys = [old.id() for _ in range(3)]
    for key, fields in zip(keys, (SESSION, LIST, SESSION), strict=True):
        drive(old.set(key, fields, HOUR))
    *_, damaged = [file for file in tmp_path.rglob("*.session") if urlsafe_b64decode(keys[2]).hex() in file.name]
    damaged.write_bytes(b"")
    assert asyncio.run(migrate(old, new)) == Migrated(sessions=1, unreadable=1, refused=1)
    assert drive(old.get(keys[1], {})) == LIST


def test_what_no_session_looks_like_stays_and_keeps_nobody_else(tmp_path):
    old, new = MemorySessionStore(), FileSessionStore(tmp_path)
    drive(old.set(old.id(), SESSION, HOUR))
    drive(old.set("../../shop", SESSION, HOUR))
    drive(old.swap(KEY, lambda _, now: Record.begin({}, HOUR, now), Likely.FOUNDS))
    assert asyncio.run(migrate(old, new)) == Migrated(sessions=1, unreadable=2)
    assert len(drive(new.list_records()).records) == 1


def test_both_are_closed_be_it_awaited_or_not(tmp_path):
    # Neither has been asked for anything, and memcached's is closed at once.
    blocking = MovingStore("memcached://127.0.0.1:1", f"sqlite:///{tmp_path}/sessions.db")
    assert drive(blocking.close()) is None
    assert drive(MovingStore("memory:", FileSessionStore(tmp_path)).close()) is None


def test_a_store_that_fails_is_one_error_and_so_are_two_that_are_one():
    class Down(MemorySessionStore):
        async def set(self, *_):
            raise StoreDownError("down")

    old = MemorySessionStore()
    for _ in range(3):
        drive(old.set(old.id(), SESSION, HOUR, None))
    with pytest.raises(StoreDownError, match="down"):
        asyncio.run(migrate(old, Down()))
    with pytest.raises(ConfigurationError, match="the same"):
        asyncio.run(migrate(old, old))


def test_a_store_that_cannot_list_is_no_source():
    with pytest.raises(ConfigurationError, match="cannot list"):
        asyncio.run(migrate("memcached://127.0.0.1:1", "memory:"))


def test_the_documented_line_works(tmp_path, monkeypatch):
    monkeypatch.setattr(server_session._sessions, "_configured", None)
    code = textwrap.dedent(code_of(PAGE, "before")).replace("/var/lib/shop", str(tmp_path))
    exec(compile(code, str(PAGE), "exec"), {})  # noqa: S102 - our own
    assert server_session._sessions.configured().store.colour is Colour.BLOCKS


@pytest.mark.parametrize("settings", [{"at_once": 0}, {"at_once": True}, {"dry_run": "false"}])
def test_a_setting_of_migrate_that_cannot_work_is_refused_before_anything_is_done(settings):
    old = MemorySessionStore()
    drive(old.set(KEY, {"n": b"1"}, HOUR))
    with pytest.raises(ConfigurationError, match=next(iter(settings))):
        asyncio.run(asyncio.wait_for(migrate(old, MemorySessionStore(), **settings), PATIENCE))
    assert drive(old.get(KEY, {})) == {"n": b"1"}


def test_whether_to_move_is_no_text():
    with pytest.raises(ConfigurationError, match="moves is True or False"):
        MovingStore(MemorySessionStore(), MemorySessionStore(), moves="false")


def test_migrate_closes_the_stores_that_it_opened_and_no_others(monkeypatch):
    closed = []

    class Closing(MemorySessionStore):
        def close(self) -> None:
            closed.append(self)

    opened, given = Closing(), Closing()
    monkeypatch.setattr(_moving, "open_store", lambda _: opened)
    asyncio.run(migrate("memory:", given))
    assert closed == [opened]

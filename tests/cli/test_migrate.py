from typing import Any

import pytest

from server_session._colour import drive
from server_session._record import LONGEST
from server_session.stores._base import APPLIED, Kept, Lifetime, close_store
from server_session.stores.file import FileSessionStore
from server_session.stores.sql import SQLSessionStore

LIFE = Lifetime(3600.0, 86400.0)


def kept_at(url: str) -> list[Kept]:
    """Return what a table holds; it is made if it is not there."""

    async def look() -> list[Kept]:
        store = SQLSessionStore(url, create_table=True)
        try:
            return (await store.list_records()).records
        finally:
            await close_store(store)

    return drive(look())


@pytest.fixture
def places(tmp_path: Any) -> tuple[FileSessionStore, str, str]:
    url = f"sqlite:///{tmp_path}/sessions.db"
    assert kept_at(url) == []
    store = FileSessionStore(tmp_path / "sessions")
    for number in range(3):
        assert drive(store.set(store.id(), {"a": b"%d" % number}, LIFE)) is APPLIED
    assert drive(store.set(store.id(), {LONGEST: b"9"}, LIFE)) is APPLIED
    return store, f"file:{tmp_path}/sessions", url


def test_a_dry_run_counts_and_writes_nothing(run, places):
    store, source, target = places
    ran = run("migrate", source, target, "--dry-run", "--json")
    assert ran.code == 0
    assert {name: ran.data[name] for name in ("sessions", "owners", "marks", "refused", "unreadable", "dry_run")} == {
        "sessions": 3,
        "owners": 1,
        "marks": 0,
        "refused": 0,
        "unreadable": 0,
        "dry_run": True,
    }
    assert len(drive(store.list_records()).records) == 4
    assert not kept_at(target)


def test_it_moves_all_and_a_second_run_finds_nothing(run, places):
    store, source, target = places
    ran = run("migrate", source, target)
    assert (ran.code, ran.out) == (0, "3 sessions, 1 owners' lists and 0 marks moved\n")
    assert not drive(store.list_records()).records
    assert len(kept_at(target)) == 4
    assert run("migrate", source, target, "--json").data["sessions"] == 0


def test_the_stores_are_named_by_the_environment_too(run, places, monkeypatch):
    store, source, target = places
    monkeypatch.setenv("SERVER_SESSION_SOURCE", source)
    monkeypatch.setenv("SERVER_SESSION_TARGET", target)
    assert run("migrate", "--json").data["sessions"] == 3
    assert not drive(store.list_records()).records


def test_what_stays_is_said_and_is_a_finding(run, places, tmp_path):
    _, source, target = places
    next(tmp_path.rglob("*.session")).write_bytes(b"")
    ran = run("migrate", source, target)
    assert ran.code == 1
    assert "1 stay: they cannot be read" in ran.out


def test_two_that_cannot_go_together_are_refused(run, places, tmp_path):
    _, source, _ = places
    ran = run("migrate", source, f"sqlite+aiosqlite:///{tmp_path}/sessions.db")
    assert ran.code == 2
    assert "awaits and the other blocks" in ran.err


def test_an_option_that_neither_store_has_is_refused(run, places):
    _, source, target = places
    ran = run("migrate", source, target, "--prefix", "shop:", "--json")
    assert ran.code == 2
    assert "--prefix is nothing that a store named here has" in ran.data["error"]["what"]
    assert kept_at(target) == []

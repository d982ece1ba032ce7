"""Sessions are counted, listed, ended and swept, on every store by its URL; and nothing is told that opens one."""

import asyncio
import os
import re
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import server_session
from server_session import EncryptedCodec, FileSessionStore, MemorySessionStore
from server_session._colour import drive, run_awaiting
from server_session._urls import open_store
from server_session.cli import _listing, _output
from server_session.stores._base import APPLIED, Lifetime, close_store
from server_session.stores.sql import ddl
from tests.cli.conftest import Run
from tests.cli.shop import Shop
from tests.servers import Server

KEY = EncryptedCodec.generate_key()


@pytest.fixture(params=["file", "sqlite", "redis"])
def shop(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Shop]:
    match request.param:
        case "file":
            yield Shop(f"file:{tmp_path}/kept")
        case "sqlite":
            yield Shop(f"sqlite:///{tmp_path}/kept.db")
        case _:
            server: Server = request.getfixturevalue("redis_server")
            # A database of its own.
            yield Shop(server.url.removesuffix("/0") + "/7")
            import redis

            with redis.Redis(port=server.port, db=7) as client:
                client.flushdb()


def test_sessions_are_counted_with_their_owners_and_ages(run: Run, shop: Shop) -> None:
    shop.visit("ada", "ada", "grace", None)
    ran = run("stats", "--store", shop.url, "--json")
    assert ran.code == 0
    told = ran.data
    assert (told["sessions"], told["owners"], told["with_owner"]) == (4, 2, 3)
    assert told["bytes"] > 4 * len("secret")
    assert sum(age["sessions"] for age in told["ages"]) == 4
    assert told["is_sample"] is False
    shown = run("stats", "--store", shop.url).out
    assert "sessions" in shown
    assert "█" in shown


def test_what_is_counted_is_bounded_and_said_to_be_a_sample(
    run: Run, shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_listing, "_A_BATCH", 1)
    shop.visit(*[None] * 5)
    told = run("stats", "--store", shop.url, "--limit", "2", "--json").data
    assert (told["sessions"], told["is_sample"]) == (2, True)
    assert "sample" in run("stats", "--store", shop.url, "--limit", "2").out


def test_the_sessions_of_an_owner_are_listed_and_one_is_ended(run: Run, shop: Shop) -> None:
    shop.visit("ada", "ada", "grace")
    ran = run("sessions", "ada", "--store", shop.url, "--json")
    assert ran.code == 0
    one, other = ran.data["sessions"]
    assert list(one) == ["id", "created", "last_seen"]
    ended = run("end", "ada", "--only", one["id"], "--store", shop.url, "--json")
    assert (ended.code, ended.data["ended"]) == (0, 1)
    assert [left["id"] for left in run("sessions", "ada", "--store", shop.url, "--json").data["sessions"]] == [
        other["id"]
    ]
    assert run("end", "ada", "--only", one["id"], "--store", shop.url).code == 1
    assert len(run("sessions", "grace", "--store", shop.url, "--json").data["sessions"]) == 1


def test_an_owner_is_logged_out_everywhere(run: Run, shop: Shop) -> None:
    shop.visit("ada", "ada", "grace")
    ran = run("end", "ada", "--store", shop.url)
    assert (ran.code, ran.out) == (0, "2 sessions ended\n")
    assert run("sessions", "ada", "--store", shop.url).code == 1
    assert run("stats", "--store", shop.url, "--json").data["ended"] == 2
    assert run("end", "ada", "--store", shop.url, "--json").data == {"owner": "ada", "ended": 0}


def test_every_session_is_ended_only_when_it_was_meant(run: Run, shop: Shop) -> None:
    shop.visit("ada", "grace", None)
    for answer in ("n\n", ""):
        refused = run("end", "--all", "--store", shop.url, "--json", answer=answer)
        assert (refused.code, refused.data["ended"]) == (1, 0)
    assert run("stats", "--store", shop.url, "--json").data["sessions"] == 3
    ran = run("end", "--all", "--store", shop.url, "--json", "--yes")
    assert (ran.code, ran.data["ended"]) == (0, 3)
    told = run("stats", "--store", shop.url, "--json").data
    # What has ended stays so, for a minute's mark meets who comes late.
    assert (told["sessions"], told["ended"]) == (0, 3)
    assert run("end", "--all", "--store", shop.url, "--yes").code == 1


@pytest.mark.parametrize(
    "arguments", [["end"], ["end", "ada", "--all"], ["end", "--all", "--only", "x", "--yes"], ["sessions"], ["ended"]]
)
def test_what_cannot_be_meant_is_refused(run: Run, tmp_path: Path, arguments: list[str]) -> None:
    FileSessionStore(tmp_path / "kept")
    assert run(*arguments, "--store", f"file:{tmp_path}/kept").code == 2


@pytest.mark.parametrize(
    "arguments", [["sessions"], ["sessions", "ada", "--nope"], ["sessions", "\udcff"], ["stats", "--key-file"]]
)
def test_what_is_refused_is_said_to_programs_too_and_is_no_finding(
    run: Run, tmp_path: Path, arguments: list[str]
) -> None:
    FileSessionStore(tmp_path / "kept")
    keys = tmp_path / "keys"
    keys.write_bytes(b"\xff")
    words = [*arguments, str(keys)] if "--key-file" in arguments else arguments
    ran = run(*words, "--store", f"file:{tmp_path}/kept", "--json")
    assert (ran.code, ran.data["error"]["code"]) == (2, "usage")


def test_a_value_that_cannot_be_read_is_an_error_of_the_store(run: Run, shop: Shop) -> None:
    shop.visit("ada")
    (one,) = run("sessions", "ada", "--store", shop.url, "--json").data["sessions"]

    async def damage() -> None:
        store = open_store(shop.url)
        await run_awaiting(store.colour, store.merge(one["id"], {"secret": b"{"}, (), {}))
        await close_store(store)

    asyncio.run(damage())
    ran = run("sessions", "ada", "--values", "--store", shop.url, "--json")
    assert (ran.code, ran.data["error"]["code"]) == (3, "store")


def test_to_show_values_asks_the_store_no_more_often(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shop = Shop(f"file:{tmp_path}/kept")
    shop.visit("ada", "ada")
    get, asked = FileSessionStore.get, list[str]()

    async def counted(store: FileSessionStore, key: str, *rest: Any) -> Any:
        asked.append(key)
        return await get(store, key, *rest)

    monkeypatch.setattr(FileSessionStore, "get", counted)
    for words in ([], ["--values"]):
        asked.clear()
        assert run("sessions", "ada", *words, "--store", shop.url).code == 0
        # The owner's list, and each session.
        assert len(asked) == len({*asked}) == 3


def test_the_store_is_named_by_the_environment_too(run: Run, shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run("stats").code == 2
    shop.visit("ada")
    monkeypatch.setenv("SERVER_SESSION_STORE", shop.url)
    assert run("stats", "--json").data["sessions"] == 1


def test_nothing_that_is_printed_opens_a_session_or_is_in_it(run: Run, shop: Shop) -> None:
    cookies = shop.visit("ada", "ada")
    asked = (["stats"], ["sessions", "ada"], ["sessions", "ada", "--json"])
    every = [*(run(*words, "--store", shop.url) for words in asked), run("doctor", shop.url)]
    said = "".join(ran.out + ran.err for ran in every)
    for cookie in cookies:
        assert len(cookie) == 64
        # The first part is the session's id, which `end` needs; the rest is the secret.
        assert cookie[24:] not in said
        assert cookie[:24] in said
    assert "of-the-shop" not in said
    values = run("sessions", "ada", "--values", "--store", shop.url, "--json").data["sessions"]
    assert [one["values"] for one in values] == [{"secret": "of-the-shop"}] * 2
    assert "of-the-shop" in run("sessions", "ada", "--values", "--store", shop.url).out


def test_encrypted_sessions_are_looked_at_with_their_key(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop = Shop(f"file:{tmp_path}/kept", key=KEY)
    shop.visit("ada", "grace")
    for words in (["stats"], ["sessions", "ada"], ["end", "ada"], ["end", "--all", "--yes"]):
        ran = run(*words, "--store", shop.url)
        assert ran.code == 2
        assert "--key-file" in ran.err
    keys = tmp_path / "keys"
    keys.write_text(f"{EncryptedCodec.generate_key()}\n{KEY}\n")
    told = run("stats", "--store", shop.url, "--key-file", str(keys), "--json").data
    assert (told["sessions"], told["owners"], told["unreadable"]) == (2, 2, 0)
    monkeypatch.setenv("SERVER_SESSION_KEYS", KEY)
    (one,) = run("sessions", "ada", "--values", "--store", shop.url, "--json").data["sessions"]
    assert one["values"] == {"secret": "of-the-shop"}
    assert run("end", "ada", "--store", shop.url, "--json").data["ended"] == 1
    assert run("end", "--all", "--yes", "--store", shop.url, "--json").data["ended"] == 1
    monkeypatch.setenv("SERVER_SESSION_KEYS", EncryptedCodec.generate_key())
    assert run("stats", "--store", shop.url, "--json").data["unreadable"] > 0


def test_no_option_takes_a_key_or_a_password(run: Run) -> None:
    for name in ("doctor", "stats", "sessions", "end", "sweep"):
        assert not re.search(r"--(key|password|secret) ", run(name, "--help").out)


def test_what_a_visitor_sends_commands_no_terminal(run: Run, shop: Shop) -> None:
    shop.visit("ada", secret="\x1b[2J\x9b31mevil [bold]")
    listed = ["sessions", "ada", "--values"]
    for words in (listed, [*listed, "--json"], ["sessions", "\x1b[2Jnobody"]):
        out = run(*words, "--store", shop.url).out
        assert "\x1b" not in out
        assert "\x9b" not in out
    assert "[bold]" in run(*listed, "--store", shop.url).out


def test_what_has_expired_is_swept_from_a_directory(run: Run, tmp_path: Path) -> None:
    shop = Shop(f"file:{tmp_path}/kept")
    shop.visit("ada")
    # By the store's own clock they live, so that none goes before the command comes.
    store = FileSessionStore(tmp_path / "kept", clock=lambda: 0.0)
    for _ in range(6):
        assert drive(store.set(store.id(), {"a": b"1"}, Lifetime(60, 60))) is APPLIED
    sweep: Callable[..., Any] = lambda *more: run("sweep", "--store", shop.url, "--json", *more).data
    first = sweep("--limit", "1")
    assert first == {"deleted": 1, "is_whole": False}
    assert sweep()["is_whole"]
    assert sweep() == {"deleted": 0, "is_whole": True}
    assert run("stats", "--store", shop.url, "--json").data["sessions"] == 1


def test_what_has_expired_is_swept_from_a_database(run: Run, tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "kept.db") as connection:
        connection.executescript(ddl("sqlite"))
        connection.executemany(
            "INSERT INTO server_sessions (id, data, stamp, idle, expires) VALUES (?, x'80', 1, 1, 1)",
            [(f"{number:024}",) for number in range(2500)],
        )
    connection.close()
    url = f"sqlite:///{tmp_path}/kept.db"
    assert run("sweep", "--store", url, "--limit", "2400", "--json").data == {"deleted": 2400, "is_whole": False}
    ran = run("sweep", "--store", url)
    assert (ran.code, ran.out) == (0, "100 deleted\n")


def test_where_the_server_sweeps_there_is_nothing_to_do(run: Run, redis_server: Server) -> None:
    ran = run("sweep", "--store", redis_server.url)
    assert ran.code == 0
    assert "by itself" in ran.out


def test_memcached_cannot_list_what_it_holds(run: Run, memcached_server: Server) -> None:
    for words in (["stats"], ["sessions", "ada"], ["end", "--all", "--yes"]):
        ran = run(*words, "--store", memcached_server.url, "--json")
        assert ran.code == 2
        assert ran.data["error"]["what"].removeprefix("a ").startswith("MemcachedSessionStore ")


@pytest.mark.parametrize("words", [["stats"], ["sessions", "ada"], ["end", "ada"], ["sweep"]])
def test_a_store_that_is_not_there_is_told_by_the_exit_code(
    run: Run, tmp_path: Path, free_port: int, words: list[str]
) -> None:
    for url in (f"file:{tmp_path}/typo", f"sqlite:///{tmp_path}/typo.db"):
        ran = run(*words, "--store", url, "--json")
        assert (ran.code, ran.data["error"]["code"]) == (3, "store")
        assert not list(tmp_path.iterdir())
    if words != ["sweep"]:
        ran = run(*words, "--store", f"redis://shop:tea@127.0.0.1:{free_port}/0")
        assert ran.code == 3
        assert "tea" not in ran.err


@pytest.mark.parametrize("dialect", ["postgresql", "mysql", "mariadb", "sqlite"])
def test_the_statements_that_make_the_table_are_printed_as_they_are(run: Run, dialect: str) -> None:
    ran = run("ddl", "--dialect", dialect, "--table", "kept")
    assert (ran.code, ran.out) == (0, ddl(dialect, "kept"))
    assert run("ddl", "--dialect", dialect, "--json").data == {
        "dialect": dialect,
        "table": "server_sessions",
        "ddl": ddl(dialect),
    }


@pytest.mark.parametrize(
    "url, shown",
    [
        ("redis://shop:tea@db:6379/0?ssl_password=tea", "redis://db:6379/0"),
        ("redis://:te@a@db/0", "redis://db/0"),
        ("redis://shop:te/a@db/0", "redis://db/0"),
        ("redis://shop:te?a@db/0", "redis:…"),
        ("redis://shop:te#a@db/0", "redis:…"),
        ("postgresql+psycopg://shop:tea@/shop?host=/run", "postgresql+psycopg:///shop"),
        ("file:/var/lib/shop", "file:/var/lib/shop"),
        ("sqlite:///shop.db?uri=true", "sqlite:///shop.db"),
        ("memcached://db:11211", "memcached://db:11211"),
    ],
)
def test_of_a_url_nothing_secret_is_shown(url: str, shown: str) -> None:
    assert _output.shown_url(url) == shown


@pytest.mark.parametrize("url", ["sqlite:/srv/shop.db", "sqlite:shop.db", "sqlite://127.0.0.1:port/shop.db"])
def test_a_url_of_sqlite_that_cannot_be_read_is_refused_as_others_are(run: Run, url: str) -> None:
    for words in (["doctor", url], ["stats", "--store", url], ["migrate", url, url]):
        ran = run(*words, "--json")
        assert ran.code == 2
        assert "cannot be read" in ran.data["error"]["what"]


def test_a_bar_is_shown_on_a_terminal_alone(run: Run, tmp_path: Path) -> None:
    FileSessionStore(tmp_path / "kept")
    assert run("stats", "--store", f"file:{tmp_path}/kept").err == ""


def test_a_store_of_memory_is_its_process_s_alone(run: Run) -> None:
    assert MemorySessionStore()
    assert run("stats", "--store", "memory:").code == 2


@pytest.mark.parametrize("command", ["sessions", "end"])
def test_an_owner_without_a_name_is_an_error_that_says_so(run: Run, tmp_path: Path, command: str) -> None:
    FileSessionStore(tmp_path / "kept")
    ended = run(command, "", "--store", f"file:{tmp_path}/kept")
    assert (ended.code, "not empty text" in ended.err) == (2, True)


def test_a_file_of_keys_without_a_key_is_an_error(run: Run, tmp_path: Path) -> None:
    FileSessionStore(tmp_path / "kept")
    (tmp_path / "keys").write_text("\n")
    ended = run("stats", "--store", f"file:{tmp_path}/kept", "--key-file", str(tmp_path / "keys"))
    assert (ended.code, "needs at least one key" in ended.err) == (2, True)


@pytest.mark.parametrize("missing", ["click", "rich"])
def test_without_the_extra_the_command_says_which_one(tmp_path: Path, missing: str) -> None:
    (tmp_path / f"{missing}.py").write_text(f"raise ModuleNotFoundError('no', name={missing!r})\n")
    places = os.pathsep.join([str(tmp_path), str(Path(server_session.__file__).parents[1])])
    ended = subprocess.run(
        [sys.executable, "-c", "from server_session.cli import main; main()", "stats"],
        env={**os.environ, "PYTHONPATH": places},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ended.returncode == 2
    assert "server-session[cli]" in ended.stderr
    assert "Traceback" not in ended.stderr

"""Stores that are set up wrongly, for real: the doctor names what is wrong, and what mends it."""

import json
import os
import shutil
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
import sqlalchemy

from server_session import FileSessionStore
from server_session.cli.doctor import _disk, _findings, _store
from server_session.cli.doctor._findings import Report
from server_session.stores.memcached import MemcachedSessionStore
from server_session.stores.redis._errors import MENDS as REDIS_MENDS
from server_session.stores.sql import ddl
from server_session.stores.sql._errors import MENDS as SQL_MENDS
from tests import servers
from tests.cli.conftest import Ran, Run


@pytest.fixture(autouse=True)
def quick_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    # On a busy machine each answer may be slow, and so may clocks seem.
    monkeypatch.setattr(_store, "_SLOW", 1e9)


def found(ran: Ran) -> dict[str, dict[str, str]]:
    return {one["code"]: one for report in ran.data["reports"] for one in report["findings"]}


def assert_found(ran: Ran, code: str, mend: str, severity: str = "error", exit_code: int = 1) -> None:
    """The finding is there by its stable code, with its mend, and so is it for people."""
    assert code in found(ran), ran.out
    assert found(ran)[code]["severity"] == severity
    assert mend in found(ran)[code]["mend"]
    assert ran.code == exit_code


def tell(url: str, *statements: str) -> None:
    """Say something to a database, and leave."""
    engine = sqlalchemy.create_engine(url)
    with engine.begin() as connection:
        for statement in statements:
            connection.execute(sqlalchemy.text(statement))
    engine.dispose()


@pytest.fixture(scope="module")
def database(redis_server: servers.Server) -> Iterator["redis.Redis"]:
    with redis.Redis(port=redis_server.port) as client:
        kept = {name: client.config_get(name)[name] for name in ("maxmemory", "maxmemory-policy", "save", "appendonly")}
        yield client
        for name, value in kept.items():
            client.config_set(name, value)


def test_redis_that_drops_sessions_when_it_is_full(run: Run, redis_server: servers.Server, database: Any) -> None:
    database.config_set("maxmemory-policy", "allkeys-lru")
    try:
        assert_found(run("doctor", redis_server.url, "--json"), "evicts", "maxmemory-policy noeviction", "warning")
        database.config_set("maxmemory", "100mb")
        assert_found(run("doctor", redis_server.url, "--json"), "evicts", "maxmemory-policy noeviction")
    finally:
        database.config_set("maxmemory", "0")
        database.config_set("maxmemory-policy", "noeviction")


def test_redis_that_forgets_all_when_it_starts_anew(run: Run, redis_server: servers.Server) -> None:
    assert_found(run("doctor", redis_server.url, "--json"), "not_persistent", "appendonly yes", "warning")


def test_redis_whose_snapshots_bring_back_what_has_ended(run: Run, redis_server: servers.Server, database: Any) -> None:
    database.config_set("save", "3600 1")
    try:
        assert_found(run("doctor", redis_server.url, "--json"), "snapshots_only", "appendonly yes", "note", 0)
    finally:
        database.config_set("save", "")


def test_redis_as_it_should_be(run: Run, redis_server: servers.Server, database: Any) -> None:
    before = {*database.keys("session:*")}
    database.config_set("appendonly", "yes")
    try:
        ran = run("doctor", redis_server.url, "--json")
        assert not found(ran)
        assert ran.code == 0
        assert "nothing was found" in run("doctor", redis_server.url).out
    finally:
        database.config_set("appendonly", "no")
    assert {*database.keys("session:*")} <= before


def test_a_user_of_redis_who_may_call_no_script(run: Run, redis_server: servers.Server, database: Any) -> None:
    database.execute_command("ACL", "SETUSER", "shop", "on", ">tea-and-cake", "~session:*", "+@all", "-@scripting")
    url = f"redis://shop:tea-and-cake@127.0.0.1:{redis_server.port}/0"
    ran = run("doctor", url, "--json")
    assert_found(ran, "rights", "+eval +evalsha")
    assert found(ran)["rights"]["mend"] in REDIS_MENDS["rights"]
    assert "tea-and-cake" not in ran.out + ran.err


def test_a_user_of_redis_who_lacks_one_command(run: Run, redis_server: servers.Server, database: Any) -> None:
    database.execute_command("ACL", "SETUSER", "till", "on", ">tea", "~session:*", "+@all", "-hdel")
    assert_found(run("doctor", f"redis://till:tea@127.0.0.1:{redis_server.port}/0", "--json"), "rights", "+hdel")


def test_a_user_of_redis_who_may_only_what_a_store_needs(run: Run, redis_server: servers.Server, database: Any) -> None:
    needed = "+eval +evalsha +time +hget +hgetall +hset +hdel +hexists +exists +del +unlink +pttl +pexpireat"
    database.execute_command("ACL", "SETUSER", "least", "on", ">tea", "~session:*", *needed.split())
    ran = run("doctor", f"redis://least:tea@127.0.0.1:{redis_server.port}/0", "--json")
    assert_found(ran, "unseen", "+info", "note", 0)
    assert set(found(ran)) == {"unseen"}


def test_a_wrong_password_of_redis(run: Run, redis_server: servers.Server) -> None:
    ran = run("doctor", f"redis://nobody:cake@127.0.0.1:{redis_server.port}/0", "--json")
    assert_found(ran, "password", "look at user and password", exit_code=ran.code)
    assert ran.code == 3
    assert "cake" not in ran.out


def test_a_replica_of_redis(run: Run, redis_server: servers.Server) -> None:
    with servers.start_redis("--replicaof", "127.0.0.1", str(redis_server.port)) as replica:
        assert_found(run("doctor", replica.url, "--json"), "replica", "name the master")


def test_an_option_is_for_those_of_several_stores_that_have_it(
    run: Run, redis_server: servers.Server, tmp_path: Path
) -> None:
    with sqlite3.connect(tmp_path / "sessions.db") as connection:
        connection.executescript(ddl("sqlite", "own"))
    connection.close()
    url = f"sqlite:///{tmp_path}/sessions.db"
    ran = run("doctor", redis_server.url, url, "--prefix", "shop:", "--table", "own", "--json")
    facts = [report["facts"] for report in ran.data["reports"]]
    assert [(one.get("prefix"), one.get("table")) for one in facts] == [("shop:", None), (None, "own")]


def test_an_option_that_none_of_the_stores_has_is_refused(run: Run, tmp_path: Path) -> None:
    FileSessionStore(tmp_path)
    ran = run("doctor", f"file:{tmp_path}", "--prefix", "shop:", "--json")
    assert (ran.code, ran.data["error"]["code"]) == (2, "usage")


def test_redis_without_a_prefix(run: Run, redis_server: servers.Server) -> None:
    assert_found(run("doctor", redis_server.url, "--prefix", "", "--json"), "no_prefix", "prefix=", "warning")


def test_a_server_that_is_not_there(run: Run, free_port: int) -> None:
    ran = run("doctor", f"redis://127.0.0.1:{free_port}/0", "--json")
    assert_found(ran, "unreachable", "does it run", exit_code=3)


@pytest.mark.parametrize("apart, severity", [(10.0, "warning"), (-90.0, "error")])
def test_clocks_that_differ(
    run: Run, redis_server: servers.Server, monkeypatch: pytest.MonkeyPatch, apart: float, severity: str
) -> None:
    monkeypatch.setattr(_findings.time, "time", lambda now=time.time: now() + apart)
    assert_found(run("doctor", redis_server.url, "--json"), "clock_skew", "NTP", severity)


def test_a_database_without_the_table_which_the_doctor_does_not_make(
    run: Run, postgresql_server: servers.Server
) -> None:
    url = postgresql_server.url_for("postgresql+psycopg")
    for _ in range(2):
        ran = run("doctor", url, "--table", "nowhere", "--json")
        assert_found(ran, "no_table", "create_table()")
        assert SQL_MENDS["no_table"].endswith(found(ran)["no_table"]["mend"])


def test_a_table_of_another_version(run: Run, postgresql_server: servers.Server) -> None:
    url = postgresql_server.url_for("postgresql+psycopg")
    tell(url, "CREATE TABLE olden (id VARCHAR(64) PRIMARY KEY, data BYTEA)")
    assert_found(run("doctor", url, "--table", "olden", "--json"), "table_version", "stores.sql.ddl")


def test_a_table_without_its_index_and_without_a_log(run: Run, postgresql_server: servers.Server) -> None:
    url = postgresql_server.url_for("postgresql+psycopg")
    make = ddl("postgresql", "bare").partition(";")[0].replace("CREATE TABLE", "CREATE UNLOGGED TABLE")
    tell(url, make)
    ran = run("doctor", url, "--table", "bare", "--json")
    assert_found(ran, "no_index", "CREATE INDEX bare_expires", "warning")
    assert_found(ran, "unlogged", "SET LOGGED", "warning")
    # The tests' own server does not wait for its disk.
    assert_found(ran, "not_durable", "fsync = on", "warning")


def test_a_user_of_postgresql_who_may_not_write(run: Run, postgresql_server: servers.Server) -> None:
    url = postgresql_server.url_for("postgresql+psycopg")
    make = ddl("postgresql", "guarded").partition(";")[0]
    tell(url, make, "CREATE ROLE reader LOGIN", "GRANT SELECT ON guarded TO reader")
    ran = run("doctor", url.replace("session@", "reader@"), "--table", "guarded", "--json")
    assert_found(ran, "rights", "grant SELECT, INSERT")


def test_postgresql_through_a_driver_that_awaits(run: Run, postgresql_server: servers.Server) -> None:
    url = postgresql_server.url_for("postgresql+asyncpg")
    assert_found(run("doctor", url, "--table", "nowhere", "--json"), "no_table", "create_table()")


@pytest.mark.again
def test_postgresql_that_may_forget_its_last_moments(run: Run) -> None:
    with servers.start_postgresql("fsync=on") as server:
        url = server.url_for("postgresql+psycopg")
        tell(url, ddl("postgresql"))
        assert_found(run("doctor", url, "--json"), "not_durable", "synchronous_commit = on", "note", 0)
        tell(url, "ALTER DATABASE session SET synchronous_commit = on")
        assert not found(run("doctor", url, "--json"))


@pytest.mark.again
def test_mariadb_and_what_may_be_wrong_with_it(run: Run, mariadb_server: servers.Server) -> None:
    url = mariadb_server.url_for("mysql+pymysql")
    root = url.replace("session:session@", "root@")
    own = ("doctor", url, "--table", "doctored", "--json")
    assert_found(run(*own), "no_table", "create_table()")
    make = ddl("mariadb", "doctored").partition(";")[0]
    tell(url, make.replace("LONGBLOB", "VARBINARY(2000)").replace("InnoDB", "MEMORY"))
    ran = run(*own)
    assert ran.data["reports"][0]["facts"]["server"].startswith("mariadb 1")
    assert_found(ran, "no_index", "CREATE INDEX doctored_expires", "warning")
    assert_found(ran, "engine", "ENGINE=InnoDB", "warning")
    tell(url, *(found(ran)[code]["mend"] for code in ("no_index", "engine")))
    # The tests' own server does not wait for its disk.
    assert_found(run(*own), "not_durable", "innodb_flush_log_at_trx_commit = 1", "note", 0)
    tell(root, "SET GLOBAL innodb_flush_log_at_trx_commit = 1")
    try:
        ran = run(*own)
        assert (ran.code, found(ran)) == (0, {})
        tell(root, "SET GLOBAL read_only = ON")
        assert_found(run(*own), "replica", "name the one that takes writes")
    finally:
        tell(root, "SET GLOBAL read_only = OFF", "SET GLOBAL innodb_flush_log_at_trx_commit = 0")
    tell(root, "CREATE USER reader@'127.0.0.1'", "GRANT SELECT ON session.doctored TO reader@'127.0.0.1'")
    reader = url.replace("session:session@", "reader@")
    assert_found(run("doctor", reader, "--table", "doctored", "--json"), "rights", "grant SELECT, INSERT")
    tell(url, "ALTER TABLE doctored DROP COLUMN stamp")
    assert_found(run(*own), "table_version", "stores.sql.ddl")
    wrong = url.replace(":session@", ":cake@")
    assert_found(run("doctor", wrong, "--json"), "password", "look at user and password", exit_code=3)
    nowhere = f"{root.rpartition('/')[0]}/nowhere"
    assert_found(run("doctor", nowhere, "--json"), "no_database", "create it", exit_code=3)


@pytest.mark.again
def test_a_cluster_of_mariadb_whose_nodes_read_what_is_past(run: Run) -> None:
    with servers.start_mariadb("--wsrep-on=ON", "--binlog-format=ROW") as server:
        url = server.url_for("mysql+pymysql")
        tell(url, *filter(str.strip, ddl("mariadb").split(";")))
        assert_found(run("doctor", url, "--json"), "stale_reads", "wsrep_sync_wait = 1", "warning")
        tell(url.replace("session:session@", "root@"), "SET GLOBAL wsrep_sync_wait = 1")
        assert "stale_reads" not in found(run("doctor", url, "--json"))


def sqlite_at(path: Path, *, journal: str = "wal") -> str:
    with sqlite3.connect(path) as connection:
        connection.execute(f"PRAGMA journal_mode={journal}")
        connection.executescript(ddl("sqlite"))
    connection.close()
    return f"sqlite:///{path}"


def test_sqlite_whose_readers_wait(run: Run, tmp_path: Path) -> None:
    url = sqlite_at(tmp_path / "shop.db", journal="delete")
    assert_found(run("doctor", url, "--json"), "journal", "journal_mode=WAL", "warning")
    assert not found(run("doctor", sqlite_at(tmp_path / "other.db"), "--json"))


def test_a_file_of_sqlite_that_others_may_read(run: Run, tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir(0o700)
    url = sqlite_at(tmp_path / "kept/shop.db")
    (tmp_path / "kept/shop.db").chmod(0o644)
    assert not found(run("doctor", url, "--json"))
    (tmp_path / "kept").chmod(0o755)
    assert_found(run("doctor", url, "--json"), "open_to_others", "chmod 600", "warning")
    (tmp_path / "kept/shop.db").chmod(0o600)
    assert not found(run("doctor", url, "--json"))


def test_a_file_of_sqlite_that_is_not_there_is_not_made(run: Run, tmp_path: Path) -> None:
    ran = run("doctor", f"sqlite:///{tmp_path}/typo.db", "--json")
    assert_found(ran, "nothing_there", "Look at the URL", exit_code=3)
    assert not (tmp_path / "typo.db").exists()


def test_a_file_of_sqlite_that_is_named_by_a_uri(run: Run, tmp_path: Path) -> None:
    sqlite_at(tmp_path / "shop.db")
    assert set(found(run("doctor", f"sqlite:///file:{tmp_path}/shop.db?uri=true", "--json"))) <= {"journal"}


@pytest.mark.parametrize("name", ["shop #1.db", "shop%25.db", "a%20shop.db"])
def test_a_file_of_sqlite_with_signs_in_its_name_is_the_one_that_the_store_opens(
    run: Run, tmp_path: Path, name: str
) -> None:
    url = f"sqlite:///{tmp_path}/{name}"
    tell(url, "PRAGMA journal_mode=WAL", *filter(str.strip, ddl("sqlite").split(";")))
    assert not found(run("doctor", url, "--json"))


def test_a_database_with_rows_that_nobody_sweeps(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from server_session.cli.doctor import sql

    monkeypatch.setattr(sql, "_MANY", 3)
    url = sqlite_at(tmp_path / "shop.db")
    with sqlite3.connect(tmp_path / "shop.db") as connection:
        connection.executemany(
            "INSERT INTO server_sessions (id, data, stamp, idle, expires) VALUES (?, x'80', 1, 1, 1)",
            [(str(number),) for number in range(3)],
        )
    connection.close()
    assert_found(run("doctor", url, "--json"), "unswept", "server-session sweep", "note", 0)


def test_a_directory_that_is_not_there_is_not_made(run: Run, tmp_path: Path) -> None:
    ran = run("doctor", f"file:{tmp_path}/typo", "--json")
    assert_found(ran, "nothing_there", "Look at the URL", exit_code=3)
    assert not (tmp_path / "typo").exists()


def test_a_directory_that_cannot_be_written_to(run: Run, tmp_path: Path) -> None:
    FileSessionStore(tmp_path / "sessions")
    # For root too, whom no mode keeps out: a file stands where a folder would.
    for first in range(256):
        (tmp_path / "sessions" / f"{first:02x}").touch()
    assert_found(run("doctor", f"file:{tmp_path}/sessions", "--json"), "directory", "may make, read and write")


def test_a_directory_that_others_may_look_into(run: Run, tmp_path: Path) -> None:
    FileSessionStore(tmp_path / "sessions")
    url = f"file:{tmp_path}/sessions"
    assert not found(run("doctor", url, "--json"))
    (tmp_path / "sessions").chmod(0o755)
    assert_found(run("doctor", url, "--json"), "open_to_others", "chmod 700", "warning")


def test_a_directory_that_another_user_s_processes_keep_is_not_written_to(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    FileSessionStore(tmp_path / "sessions")
    url = f"file:{tmp_path}/sessions"
    program = f"from server_session import FileSessionStore\nstore = FileSessionStore({url[5:]!r})"
    (tmp_path / "market.py").write_text(program)
    monkeypatch.syspath_prepend(tmp_path)
    user = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: user + 1)
    assert_found(run("doctor", url, "--json"), "directory", "that this user may make", exit_code=3)
    for words in (["doctor", "market:store"], ["stats", "--store", url], ["end", "--all", "--yes", "--store", url]):
        ran = run(*words, "--json")
        assert ran.code == 2
        assert f"sudo -u '#{user}'" in ran.data["error"]["what"]
    assert [each.name for each in (tmp_path / "sessions").iterdir()] == ["store"]


def test_a_disk_that_is_almost_full(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    FileSessionStore(tmp_path / "sessions")
    monkeypatch.setattr(_disk, "_LEAST_ROOM", shutil.disk_usage(tmp_path).free * 2)
    assert_found(run("doctor", f"file:{tmp_path}/sessions", "--json"), "disk_low", "make room")


@pytest.mark.parametrize("name", ["share", "my share", "tab\t", r"back\slash\040"])
def test_a_disk_over_a_network(tmp_path: Path, name: str) -> None:
    mounts = tmp_path / "mounts"
    written = f"{tmp_path}/{name}".replace("\\", r"\134").replace(" ", r"\040").replace("\t", r"\011")
    mounts.write_text(f"disk / ext4 rw 0 0\nfiler:/x {written} nfs4 rw 0 0\n")
    report = Report("a directory")
    _disk.look_at_kind(tmp_path / name / "sessions", report, mounts)
    assert [finding.code for finding in report.findings] == ["network_disk"]
    assert "local disk" in report.findings[0].mend


def test_memcached_which_is_a_cache(run: Run, memcached_server: servers.Server) -> None:
    assert_found(run("doctor", memcached_server.url, "--json"), "evicts", "-m", "warning")


def test_memcached_without_compare_and_swap(run: Run) -> None:
    with servers.start_memcached("-C") as server:
        assert_found(run("doctor", server.url, "--json"), "no_cas", "start it without -C")


@pytest.mark.parametrize(
    "url, is_open",
    [
        ("redis://10.0.0.5:6379/0", True),
        ("rediss://10.0.0.5:6379/0", False),
        ("redis://127.0.0.1:6379/0", False),
        ("redis://localhost", False),
        ("postgresql+psycopg://shop@db.example/shop", True),
        ("postgresql+psycopg://shop@db.example/shop?sslmode=verify-full", False),
        ("postgresql+psycopg://shop@/shop?host=/run/postgresql", False),
        ("postgresql+asyncpg://shop@db.example/shop?ssl=verify-full", False),
        ("postgresql+asyncpg://shop@db.example/shop?ssl=disable", True),
        ("postgresql+asyncpg://shop@db.example/shop?ssl=prefer", True),
        ("mysql+pymysql://shop:ssl_ca@db.example/shop", True),
        ("mysql+pymysql://shop@db.example/shop?ssl_ca=/a.pem", False),
        ("sqlite:///shop.db", False),
        ("file:/var/lib/shop", False),
    ],
)
def test_sessions_that_go_over_a_network_in_the_open(url: str, is_open: bool) -> None:
    report = Report(url)
    _store._look_at_way(url, report)
    assert [finding.code for finding in report.findings] == ["no_tls"] * is_open


def test_each_mend_of_a_store_is_told_from_the_others() -> None:
    for mends in (REDIS_MENDS, SQL_MENDS):
        texts = mends.values()
        assert all(sum(other in text for other in texts) == 1 for text in texts)


def test_several_are_looked_at_at_once_and_the_worst_tells(run: Run, tmp_path: Path, free_port: int) -> None:
    FileSessionStore(tmp_path / "sessions")
    ran = run("doctor", f"file:{tmp_path}/sessions", f"redis://127.0.0.1:{free_port}/0", "--json")
    assert [report["subject"].partition(":")[0] for report in ran.data["reports"]] == ["file", "redis"]
    assert ran.code == 3


def test_what_names_no_store_cannot_be_asked_for(run: Run) -> None:
    ran = run("doctor", "mongodb://shop:tea@db/shop")
    assert ran.code == 2
    assert "no store is known" in ran.err
    assert "tea" not in ran.err
    assert json.loads(run("doctor", "memory:", "--json").out)["error"]["code"] == "usage"


def test_a_store_of_memcached_is_left_as_it_was(run: Run, memcached_server: servers.Server) -> None:
    store = MemcachedSessionStore(memcached_server.url)
    with store._connection() as connection:
        before = connection.stats()[b"curr_items"]
        run("doctor", memcached_server.url)
        assert connection.stats()[b"curr_items"] == before
    store.close()


def test_the_doctor_leaves_no_row(run: Run, tmp_path: Path) -> None:
    url = sqlite_at(tmp_path / "shop.db")
    run("doctor", url)
    with sqlite3.connect(tmp_path / "shop.db") as connection:
        assert connection.execute("SELECT count(*) FROM server_sessions").fetchone() == (0,)
    connection.close()

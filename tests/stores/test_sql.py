import asyncio
import gc
import os
import re
import signal
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

import anyio
import asyncpg
import pymysql
import pytest
import trio
from sqlalchemy import Engine, MetaData, create_engine, event, inspect, make_url, text
from sqlalchemy.exc import OperationalError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool

from server_session._colour import Colour, drive
from server_session.exceptions import ColourError, ConfigurationError, RecordError, StoreDownError, StoreError
from server_session.stores._base import APPLIED, CONFLICT, MISSING, Lifetime
from server_session.stores._packed import Likely, Record
from server_session.stores._waits import left
from server_session.stores.sql import SQLSessionStore, ddl, session_table
from server_session.stores.sql._sources import Given
from server_session.testing import StoreContract
from tests import servers
from tests.documents import DOCS, code_of
from tests.faults.proxy import Proxy, Weather
from tests.forks import in_all_processes
from tests.parts import ALL
from tests.patience import LIMIT, PATIENCE, wait_until
from tests.stores.listings import Listings

# What a server or a signal does is the same on every Python.
pytestmark = pytest.mark.once

LIFE = Lifetime(1000.0)


class SQLContract(Listings, StoreContract):
    """The contract over a URL, with a clock of the test's own."""

    clock_steps_back = True
    contenders = 6
    url: str

    def make_store(self) -> SQLSessionStore:
        self.now = 1_700_000_000.0
        return self.second_client()

    def second_client(self, store: object = None) -> SQLSessionStore:
        return SQLSessionStore(self.engine(), create_table=True, clock=lambda: self.now)

    def engine(self) -> Any:
        return self.url

    async def close_store(self, store: SQLSessionStore) -> None:
        await store.close()

    def advance(self, seconds: float) -> None:
        self.now += seconds


class OnPostgreSQL:
    driver: str

    @pytest.fixture(autouse=True)
    def _at_the_server(self, postgresql_server: servers.Server) -> None:
        self.url = postgresql_server.url_for(f"postgresql+{self.driver}")


class ThroughPgBouncer:
    """In transaction mode, with three connections behind it."""

    driver: str

    @pytest.fixture(autouse=True)
    def _at_the_pooler(self, pgbouncer_server: servers.Server) -> None:
        self.url = pgbouncer_server.url_for(f"postgresql+{self.driver}") + "?pgbouncer=true"


class OnMariaDB:
    driver: str

    @pytest.fixture(autouse=True)
    def _at_the_server(self, mariadb_server: servers.Server) -> None:
        self.url = mariadb_server.url_for(f"mysql+{self.driver}")


class OnSQLite:
    driver: str

    @pytest.fixture(autouse=True)
    def _in_a_file(self, tmp_path: Path) -> None:
        self.url = f"sqlite+{self.driver}:///{tmp_path}/sessions.db"


class TestSQLiteContract(OnSQLite, SQLContract):
    driver = "pysqlite"


@pytest.mark.again
class TestAiosqliteContract(OnSQLite, SQLContract):
    driver = "aiosqlite"


@pytest.mark.again
class TestPsycopgContract(OnPostgreSQL, SQLContract):
    driver = "psycopg"


@pytest.mark.again
class TestPsycopgAsyncContract(OnPostgreSQL, SQLContract):
    driver = "psycopg_async"


class TestAsyncpgContract(OnPostgreSQL, SQLContract):
    driver = "asyncpg"


class TestPsycopgContractThroughPgBouncer(ThroughPgBouncer, SQLContract):
    driver = "psycopg"


@pytest.mark.again
class TestPsycopgAsyncContractThroughPgBouncer(ThroughPgBouncer, SQLContract):
    driver = "psycopg_async"


@pytest.mark.again
class TestPyMySQLContract(OnMariaDB, SQLContract):
    driver = "pymysql"


class TestAsyncmyContract(OnMariaDB, SQLContract):
    driver = "asyncmy"


@pytest.mark.again
class TestContractOverAnEngineWhoseListenerBegins(OnSQLite, SQLContract):
    """An `Engine` that is given, with the listener that SQLAlchemy's own documents tell applications to write."""

    driver = "pysqlite"

    @pytest.fixture(autouse=True)
    def _engine(self, _in_a_file: None) -> Iterator[None]:
        self.given = create_engine(self.url)
        event.listen(self.given, "connect", lambda connection, _: setattr(connection, "isolation_level", None))
        event.listen(self.given, "begin", lambda connection: connection.exec_driver_sql("BEGIN"))
        yield
        self.given.dispose()

    def engine(self) -> Engine:
        return self.given


@pytest.mark.again
class TestContractOverAnAsyncEngine(OnPostgreSQL, SQLContract):
    driver = "asyncpg"

    def make_store(self) -> SQLSessionStore:
        self.given = create_async_engine(self.url, isolation_level="SERIALIZABLE")
        return super().make_store()

    def engine(self) -> AsyncEngine:
        return self.given

    async def close_store(self, store: SQLSessionStore) -> None:
        await self.given.dispose()


DRIVERS = (
    "sqlite+pysqlite",
    "sqlite+aiosqlite",
    "postgresql+psycopg",
    "postgresql+psycopg_async",
    "postgresql+asyncpg",
    "mysql+pymysql",
    "mysql+asyncmy",
)
BLOCKING = ("sqlite+pysqlite", "postgresql+psycopg", "mysql+pymysql")
AWAITING = tuple(driver for driver in DRIVERS if driver not in BLOCKING)
POOLED = ("postgresql+psycopg", "postgresql+psycopg_async")
NETWORKED = tuple(driver for driver in DRIVERS if not driver.startswith("sqlite"))


def url_of(driver: str, request: pytest.FixtureRequest) -> str:
    if driver.startswith("sqlite"):
        return f"{driver}:///{request.getfixturevalue('tmp_path')}/sessions.db"
    name = "postgresql_server" if driver.startswith("postgresql") else "mariadb_server"
    server: servers.Server = request.getfixturevalue(name)
    return server.url_for(driver)


@pytest.fixture(params=DRIVERS)
def url(request: pytest.FixtureRequest) -> str:
    return url_of(request.param, request)


@pytest.fixture(params=BLOCKING)
def blocking_url(request: pytest.FixtureRequest) -> str:
    return url_of(request.param, request)


def run(store: SQLSessionStore, body: Callable[[SQLSessionStore], Coroutine[Any, Any, Any]]) -> Any:
    async def whole() -> Any:
        try:
            return await body(store)
        finally:
            await store.close()

    return asyncio.run(whole()) if store.colour is Colour.AWAITS else drive(whole())


# ---------------------------------------------------------------------------------------------------------- the table


def test_a_missing_table_is_an_error_that_says_how_to_make_it(url: str) -> None:
    async def body(store: SQLSessionStore) -> None:
        for call in (store.get("k", {}), store.set("k", {"a": b"1"}, LIFE), store.merge("k", {}, (), {})):
            with pytest.raises(StoreError, match=r"no table .*create_table.*nowhere"):
                await call

    run(SQLSessionStore(url, table="nowhere"), body)


def test_create_table_makes_it_once_and_may_be_called_again(blocking_url: str) -> None:
    table = f"made_{time.monotonic_ns()}"

    async def body(store: SQLSessionStore) -> None:
        await store.create_table()
        key = store.id()
        assert await store.set(key, {"a": b"1"}, LIFE) is APPLIED
        await store.create_table()
        assert await store.get(key, {}) == {"a": b"1"}

    run(SQLSessionStore(blocking_url, table=table), body)


def test_create_table_makes_the_index_before_which_another_was_cut_off(blocking_url: str) -> None:
    table = f"cut_off_{time.monotonic_ns()}"
    engine = create_engine(blocking_url)
    with engine.begin() as connection:
        connection.execute(text(ddl(engine.dialect.name, table).partition(";\n")[0]))
    run(SQLSessionStore(blocking_url, table=table), SQLSessionStore.create_table)
    names = [index["name"] for index in inspect(engine).get_indexes(table)]
    engine.dispose()
    assert names == [f"{table}_expires"]


@pytest.mark.parametrize("driver", AWAITING)
def test_several_who_make_the_table_at_once_all_find_it(driver: str, request: pytest.FixtureRequest) -> None:
    url, table = url_of(driver, request), f"raced_{time.monotonic_ns()}"

    async def body(store: SQLSessionStore) -> None:
        await asyncio.gather(*(store.create_table() for _ in range(6)))
        assert await store.get(store.id(), {}) is MISSING

    run(SQLSessionStore(url, table=table), body)


def test_the_documented_statements_make_a_table_that_works(blocking_url: str) -> None:
    table = f"by_hand_{time.monotonic_ns()}"
    engine = create_engine(blocking_url)
    with engine.begin() as connection:
        for statement in ddl(engine.dialect.name, table).split(";\n"):
            if statement.strip():
                connection.execute(text(statement))
    names = {index["name"] for index in inspect(engine).get_indexes(table)}
    engine.dispose()
    assert names == {f"{table}_expires"}

    async def body(store: SQLSessionStore) -> None:
        key = store.id()
        assert await store.set(key, {"a": b"1"}, LIFE) is APPLIED
        assert await store.get(key, {"a": b"1"}) == {"a": b"1"}

    run(SQLSessionStore(blocking_url, table=table), body)


@pytest.mark.parametrize("dialect", ["sqlite", "postgresql", "mysql", "mariadb"])
def test_ddl_speaks_each_dialect(dialect: str) -> None:
    statements = ddl(dialect)
    assert statements.count("CREATE TABLE server_sessions") == 1
    assert statements.count("CREATE INDEX server_sessions_expires") == 1
    assert {"mysql": "LONGBLOB", "mariadb": "LONGBLOB", "postgresql": "BYTEA", "sqlite": "BLOB"}[dialect] in statements


def test_the_page_prints_what_ddl_returns() -> None:
    assert code_of(DOCS / "stores.md", "ddl") == ddl("postgresql").replace("\t", "    ").replace(", \n", ",\n")


def test_migrations_see_the_table_in_their_own_metadata() -> None:
    metadata = MetaData()
    assert session_table(metadata, "visits") is metadata.tables["visits"]


# --------------------------------------------------------------------------------------------------- expired rows, time


def rows(url: str, table: str) -> int:
    engine = create_engine(url)
    with engine.connect() as connection:
        count: int = connection.scalar(text(f"SELECT count(*) FROM {table}"))  # noqa: S608 - a name of the test's own
    engine.dispose()
    return count


def test_expired_rows_go_in_batches(blocking_url: str) -> None:
    table, now = f"batches_{time.monotonic_ns()}", 1000.0

    async def body(store: SQLSessionStore) -> None:
        nonlocal now
        keys = [store.id() for _ in range(7)]
        for key in keys[:5]:
            await store.set(key, {"a": b"1"}, Lifetime(10))
        for key in keys[5:]:
            await store.set(key, {"a": b"1"}, Lifetime(30))
        assert await store.delete_expired() == 0
        now += 20
        assert [await store.delete_expired(3) for _ in range(3)] == [3, 2, 0]
        assert rows(blocking_url, table) == 2
        assert await store.get(keys[6], {}) == {"a": b"1"}

    run(SQLSessionStore(blocking_url, table=table, create_table=True, clock=lambda: now), body)


@pytest.mark.parametrize("limit", [0, -1, 10_001])
def test_a_batch_that_no_database_would_take_is_refused(limit: int, tmp_path: Path) -> None:
    store = SQLSessionStore(f"sqlite:///{tmp_path}/sessions.db")
    with pytest.raises(ConfigurationError, match="limit"):
        drive(store.delete_expired(limit))


def test_writes_keep_the_table_from_growing(tmp_path: Path) -> None:
    url, now = f"sqlite:///{tmp_path}/sessions.db", 0.0

    async def body(store: SQLSessionStore) -> None:
        nonlocal now
        for _ in range(400):
            await store.set(store.id(), {"a": b"1"}, Lifetime(10))
            now += 1

    run(SQLSessionStore(url, create_table=True, clock=lambda: now), body)
    # Ten live ones, and what came since the last sweep.
    assert rows(url, "server_sessions") <= 10 + 50 + 1


def test_a_read_writes_only_what_moves_the_expiry_by_over_a_tenth(tmp_path: Path) -> None:
    now, sent = 0.0, []
    engine = create_engine(f"sqlite:///{tmp_path}/sessions.db")
    event.listen(engine, "before_cursor_execute", lambda *a: sent.append(a[2].split()[0]))

    async def body(store: SQLSessionStore) -> None:
        nonlocal now
        key = store.id()
        await store.set(key, {"a": b"1"}, Lifetime(100))
        for at, words in ((9.9, ["SELECT"]), (10.1, ["SELECT", "UPDATE"]), (20.0, ["SELECT"])):
            now = at
            sent.clear()
            await store.get(key, {})
            assert sent == words
        sent.clear()
        await store.get(key, {"a": b"2"})
        await store.get(key, {}, touch=False)
        now = 110.0
        assert await store.get(key, {}, touch=False) == {"a": b"1"}
        now = 110.2
        assert await store.get(key, {}) is MISSING
        assert sent == ["SELECT"] * 4

    run(SQLSessionStore(engine, create_table=True, clock=lambda: now), body)
    engine.dispose()


def test_a_read_is_one_statement_and_a_write_two(blocking_url: str) -> None:
    sent: list[str] = []
    engine = create_engine(blocking_url, isolation_level="AUTOCOMMIT", skip_autocommit_rollback=True)

    async def body(store: SQLSessionStore) -> None:
        key = store.id()
        await store.create_table()
        event.listen(engine, "before_cursor_execute", lambda *a: sent.append(a[2].split()[0]))
        await store.set(key, {"a": b"1"}, LIFE)
        await store.get(key, {"a": b"1"})
        await store.merge(key, {"a": b"2"}, [], {"a": b"1"})
        await store.destroy(key)

    store = SQLSessionStore(engine, table=f"counted_{time.monotonic_ns()}")
    # Not the one write in fifty that sweeps.
    store._writes = iter(range(1, 50))
    run(store, body)
    engine.dispose()
    assert sent == ["INSERT", "SELECT", "SELECT", "UPDATE", "DELETE"]


def test_times_are_the_databases(blocking_url: str) -> None:
    table = f"clock_{time.monotonic_ns()}"

    async def body(store: SQLSessionStore) -> None:
        await store.set(store.id(), {"a": b"1"}, Lifetime(500, 200))

    before = time.time()
    run(SQLSessionStore(blocking_url, table=table, create_table=True), body)
    engine = create_engine(blocking_url)
    with engine.connect() as connection:
        row = connection.execute(text(f"SELECT idle, deadline, expires FROM {table}")).one()  # noqa: S608
    engine.dispose()
    assert row.idle == 500
    assert row.deadline == row.expires
    assert before + 200 - 60 < row.expires < time.time() + 200 + 60


# --------------------------------------------------------------------------------------------------------------- races

WORKER = """
import asyncio, sys
from concurrent.futures import ThreadPoolExecutor
from server_session._colour import Colour, drive, pause
from server_session.stores._base import APPLIED
from server_session.stores.sql import SQLSessionStore
from tests.parts import ALL
from tests.patience import LIMIT, PATIENCE, wait_until

url, key, first, last = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
store = SQLSessionStore(url, timeout=120)

async def one(n):
    assert await store.merge(key, {f"own {n}": b"1"}, [f"old {n}"], {"keep": b"k"}) is APPLIED
    while True:
        seen = await store.get(key, {})
        step = {"n": b"%d" % (int(seen["n"]) + 1)}
        if await store.merge(key, step, [], {"n": seen["n"]}) is APPLIED:
            return
        await pause(0.002)

async def everyone():
    await asyncio.gather(*(one(n) for n in range(first, last)))

print("ready", flush=True)
sys.stdin.readline()
if store.colour is Colour.AWAITS:
    asyncio.run(everyone())
else:
    with ThreadPoolExecutor(last - first) as pool:
        list(pool.map(lambda n: drive(one(n)), range(first, last)))
print("done", flush=True)
"""


# In brief, over each driver too, by processes that are started once: tests/trials.
@pytest.mark.skipif(not ALL, reason="takes long: SERVER_SESSION_ALL=1 runs it")
def test_fifty_writers_of_four_processes_lose_nothing(url: str) -> None:
    write_from_four_processes(url)


@pytest.mark.long
@pytest.mark.skipif(not ALL, reason="a long form: scripts/test --all")
@pytest.mark.parametrize("driver", POOLED)
def test_nor_do_they_through_pgbouncer(driver: str, pgbouncer_server: servers.Server) -> None:
    write_from_four_processes(pgbouncer_server.url_for(driver) + "?pgbouncer=true")


def write_from_four_processes(url: str) -> None:
    key = SQLSessionStore(url).id()

    async def found(store: SQLSessionStore) -> None:
        fields = {"keep": b"k", "n": b"0", **{f"old {n}": b"0" for n in range(50)}}
        assert await store.set(key, fields, LIFE) is APPLIED

    run(SQLSessionStore(url, create_table=True), found)
    shares = ((0, 13), (13, 26), (26, 38), (38, 50))
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", WORKER, url, key, str(first), str(last)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for first, last in shares
    ]
    try:
        for process in processes:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        for process in processes:
            assert process.stdin is not None
            process.stdin.write("\n")
            process.stdin.flush()
        assert [process.communicate(timeout=PATIENCE)[0] for process in processes] == ["done\n"] * 4
    finally:
        for process in processes:
            process.kill()
            process.communicate()

    async def look(store: SQLSessionStore) -> object:
        return await store.get(key, {})

    want = {"keep": b"k", "n": b"50", **{f"own {n}": b"1" for n in range(50)}}
    assert run(SQLSessionStore(url), look) == want


def test_a_forked_process_makes_connections_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def body(store: SQLSessionStore) -> None:
        parents = store._source.get()
        assert store._source.get() is parents
        monkeypatch.setattr(os, "getpid", lambda: 0)
        assert store._source.get() is not parents
        parents.engine.dispose()

    run(SQLSessionStore(f"sqlite:///{tmp_path}/sessions.db"), body)


@pytest.mark.parametrize("is_given", [False, True])
@pytest.mark.parametrize("driver", NETWORKED)
def test_forked_processes_take_no_answer_of_each_other(
    driver: str, is_given: bool, request: pytest.FixtureRequest
) -> None:
    url, engine = url_of(driver, request), None
    if is_given:
        engine = create_engine(url) if driver in BLOCKING else create_async_engine(url)
    store = SQLSessionStore(engine or url, create_table=True)
    keys = [store.id() for _ in range(4)]

    async def found() -> None:
        for key in keys:
            assert await store.set(key, {"own": key.encode()}, LIFE) is APPLIED

    async def look() -> None:
        for key in keys * 25:
            assert await store.get(key, {}) == {"own": key.encode()}

    if store.colour is not Colour.AWAITS:
        drive(found())
        in_all_processes(lambda: drive(look()), lambda: drive(look()))
        drive(store.close())
        if isinstance(engine, Engine):
            engine.dispose()
        return
    with asyncio.Runner() as runner:
        runner.run(found())
        in_all_processes(lambda: asyncio.run(look()), lambda: runner.run(look()))
        runner.run(engine.dispose() if engine else store.close())


def test_each_loop_has_an_engine_that_ends_with_it(postgresql_server: servers.Server) -> None:
    store = SQLSessionStore(postgresql_server.url_for("postgresql+asyncpg"), create_table=True)

    async def ask() -> object:
        return await store.get(store.id(), {})

    for _ in range(2):
        assert asyncio.run(ask()) is MISSING
        assert store._source.get()._engines._kept == {}


def test_an_engine_that_awaits_serves_no_second_loop_while_one_runs_but_without_a_pool(tmp_path: Path) -> None:
    url = f"sqlite+aiosqlite:///{tmp_path}/sessions.db"
    pooled, unpooled = create_async_engine(url), create_async_engine(url, poolclass=NullPool)
    key = "k" * 24

    async def on_two(engine: AsyncEngine) -> None:
        store = SQLSessionStore(engine, create_table=True)
        assert await store.get(key, {}) is MISSING
        try:
            assert await asyncio.to_thread(asyncio.run, store.get(key, {})) is MISSING
        finally:
            assert await store.get(key, {}) is MISSING
            await engine.dispose()

    with pytest.raises(ColourError, match=r"serves one event loop.*poolclass=NullPool"):
        asyncio.run(on_two(pooled))
    asyncio.run(on_two(unpooled))


# ------------------------------------------------------------------------------------------------------ what goes wrong


@pytest.mark.parametrize("is_given", [False, True])
@pytest.mark.parametrize("driver", NETWORKED)
def test_a_dead_connection_of_the_pool_is_replaced(driver: str, is_given: bool, request: pytest.FixtureRequest) -> None:
    url = doomed(driver, request).url_for(driver)
    engine = engine_of(url) if is_given else url

    async def body(store: SQLSessionStore) -> None:
        key = store.id()
        await store.set(key, {"a": b"1"}, LIFE)
        for call in (
            lambda: store.get(key, {}),
            lambda: store.merge(key, {"b": b"2"}, [], {}),
            lambda: store.set(store.id(), {"a": b"1"}, LIFE),
            lambda: store.destroy(key),
        ):
            end_sessions(make_url(url))
            assert await call() not in (MISSING, CONFLICT, False)
        if isinstance(engine, AsyncEngine):
            await engine.dispose()

    run(SQLSessionStore(engine, create_table=True), body)
    if isinstance(engine, Engine):
        engine.dispose()


def engine_of(url: str) -> Engine | AsyncEngine:
    """Return an engine as an application would give it."""
    return create_async_engine(url) if make_url(url).get_dialect().is_async else create_engine(url)


def test_what_was_written_is_not_told_as_an_ended_session_where_the_end_of_its_call_is_lost(
    mariadb_server: servers.Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = create_engine(mariadb_server.url_for("mysql+pymysql"))
    store = SQLSessionStore(engine, create_table=True)
    key = store.id()
    lost = []

    def commit(connection: Any) -> None:
        if not lost:
            lost.append(connection)
            connection._sock.shutdown(socket.SHUT_RDWR)
        end(connection)

    drive(store.set(key, {"a": b"1"}, LIFE))
    end = pymysql.Connection.commit
    monkeypatch.setattr(pymysql.Connection, "commit", commit)
    for call, answer in (
        (lambda: store.merge(key, {"a": b"2"}, [], {}), APPLIED),
        (lambda: store.set(key, {"a": b"3"}, LIFE, {"a": b"2"}), APPLIED),
        (lambda: store.merge(key, {"a": b"4"}, [], {"a": b"2"}), CONFLICT),
        (lambda: store.get(key, {}), {"a": b"3"}),
    ):
        lost.clear()
        assert drive(call()) == answer  # type: ignore[no-untyped-call]
        assert lost
    engine.dispose()


@pytest.mark.parametrize("is_given", [False, True])
@pytest.mark.parametrize("driver", ["mysql+pymysql", "mysql+asyncmy"])
def test_what_a_visitor_typed_is_never_sql_whatever_a_backslash_means_there(
    driver: str, is_given: bool, request: pytest.FixtureRequest
) -> None:
    url = url_of(driver, request) + "?sql_mode=NO_BACKSLASH_ESCAPES"
    typed = rb"""a\'b"c', idle = 7 -- """

    async def body(store: SQLSessionStore) -> None:
        key = store.id()
        assert await store.set(key, {"name": typed}, LIFE) is APPLIED
        assert await store.merge(key, {"again": typed}, [], {"name": typed}) is APPLIED
        kept = await store.read_record(key)
        assert kept is not MISSING
        assert kept.fields == {"name": typed, "again": typed}
        assert kept.lifetime == LIFE
        if isinstance(engine, AsyncEngine):
            await engine.dispose()

    engine = engine_of(url) if is_given else url
    run(SQLSessionStore(engine, create_table=True), body)
    if isinstance(engine, Engine):
        engine.dispose()


def test_a_write_that_met_another_is_committed_whatever_else_the_server_has_a_commit_do(
    mariadb_server: servers.Server,
) -> None:
    url = mariadb_server.url_for("mysql+pymysql")
    administer(url, "SET GLOBAL completion_type = CHAIN")
    store, other = SQLSessionStore(url, create_table=True), SQLSessionStore(url)
    key, met = store.id(), []

    def change(record: Record | None, _now: float) -> Record:
        if not met:
            met.append(drive(other.merge(key, {"b": b"2"}, [], {})))
        assert record is not None
        return Record(record.idle, record.deadline, record.expires, {**record.fields, "c": b"3"})

    try:
        drive(store.set(key, {"a": b"1"}, LIFE))
        drive(store.swap(key, change, Likely.WRITES))
        assert drive(store.merge(key, {"d": b"4"}, [], {})) is APPLIED
        assert drive(other.get(key, {})) == {"a": b"1", "b": b"2", "c": b"3", "d": b"4"}
    finally:
        administer(url, "SET GLOBAL completion_type = DEFAULT")
        drive(store.close())
        drive(other.close())


@pytest.mark.parametrize("driver", ["psycopg", "psycopg_async", "asyncpg"])
def test_a_database_of_no_encoding_will_do(driver: str, postgresql_server: servers.Server) -> None:
    name = f"plain_{time.monotonic_ns()}"
    administer(postgresql_server.url, f"CREATE DATABASE {name} ENCODING 'SQL_ASCII' LOCALE 'C' TEMPLATE template0")

    async def body(store: SQLSessionStore) -> None:
        key, fields = store.id(), {"größe": b"\xff"}
        assert await store.set(key, fields, LIFE) is APPLIED
        assert [kept.key for kept in (await store.list_records()).records] == [key]
        assert await store.get(key, {}) == fields

    url = make_url(postgresql_server.url_for(f"postgresql+{driver}")).set(database=name)
    run(SQLSessionStore(url, create_table=True), body)


class BrokeInError(Exception):
    """What a signal's handler raises, in the middle of anything."""


@pytest.mark.parametrize("is_given", [False, True])
@pytest.mark.parametrize("driver", ["postgresql+psycopg", "mysql+pymysql"])
def test_the_answer_to_a_call_into_which_a_signal_broke_goes_to_nobody(
    driver: str, is_given: bool, request: pytest.FixtureRequest
) -> None:
    url = url_of(driver, request)
    store = SQLSessionStore(engine_of(url) if is_given else url, create_table=True)
    keys = [store.id() for _ in range(3)]
    for key in keys:
        drive(store.set(key, {"key": key.encode()}, LIFE))

    def break_in(*_: object) -> None:
        raise BrokeInError

    before = signal.signal(signal.SIGALRM, break_in)
    other = create_engine(url)
    try:
        with other.connect() as holder:
            holder.execute(text("UPDATE server_sessions SET stamp = stamp + 1 WHERE id = :key"), {"key": keys[0]})
            with pytest.raises(BrokeInError):  # noqa: PT012 - the signal may come before the call
                signal.setitimer(signal.ITIMER_REAL, 0.3)
                drive(store.merge(keys[0], {"key": b"another"}, [], {}))
            holder.rollback()
    finally:
        signal.signal(signal.SIGALRM, before)
    for key in keys:
        assert drive(store.get(key, {})) in ({"key": key.encode()}, {"key": b"another"} if key == keys[0] else None)
    other.dispose()
    drive(store.close())
    if isinstance(given := store._source.get(), Given):
        given.engine.dispose()


def end_sessions(url: Any) -> None:
    """Have the server end every connection but the one that asks it to."""
    engine = create_engine(
        url.set(drivername="postgresql+psycopg" if url.drivername.startswith("postgresql") else "mysql+pymysql"),
        isolation_level="AUTOCOMMIT",
    )
    with engine.connect() as connection:
        if engine.dialect.name == "postgresql":
            others = "FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
            connection.exec_driver_sql(f"SELECT pg_terminate_backend(pid) {others}")
        else:
            others = "FROM information_schema.processlist WHERE user = 'session' AND id <> connection_id()"
            for (number,) in connection.exec_driver_sql(f"SELECT id {others}").all():
                connection.exec_driver_sql(f"KILL {number}")
    engine.dispose()


@pytest.fixture(scope="module")
def doomed_postgresql(request: pytest.FixtureRequest) -> Iterator[servers.Server]:
    request.getfixturevalue("postgresql_server")
    with servers.start_postgresql() as server:
        yield server


@pytest.fixture(scope="module")
def doomed_mariadb(request: pytest.FixtureRequest) -> Iterator[servers.Server]:
    request.getfixturevalue("mariadb_server")
    with servers.start_mariadb("--max-allowed-packet=2M") as server:
        yield server


def doomed(driver: str, request: pytest.FixtureRequest) -> servers.Server:
    server: servers.Server = request.getfixturevalue(
        "doomed_postgresql" if driver.startswith("postgresql") else "doomed_mariadb"
    )
    return server


@pytest.mark.parametrize("driver", ["mysql+pymysql", "mysql+asyncmy"])
def test_a_session_over_mysqls_packet_is_a_clear_error(driver: str, request: pytest.FixtureRequest) -> None:
    async def body(store: SQLSessionStore) -> None:
        key = store.id()
        await store.set(key, {"a": b"1"}, LIFE)
        for call in (
            store.merge(key, {"big": bytes(3_000_000)}, [], {}),
            store.set(store.id(), {"big": bytes(3_000_000)}, LIFE),
        ):
            with pytest.raises(StoreError, match="max_allowed_packet"):
                await call
        assert await store.get(key, {}) == {"a": b"1"}

    run(SQLSessionStore(doomed(driver, request).url_for(driver), create_table=True), body)


@pytest.mark.parametrize("driver", NETWORKED)
def test_a_server_that_stands_still_is_an_error_within_the_limit(driver: str, request: pytest.FixtureRequest) -> None:
    server = doomed(driver, request)

    async def body(store: SQLSessionStore) -> None:
        key = store.id()
        await store.set(key, {"a": b"1"}, LIFE)
        pids = family(server.pid)
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        try:
            wait_until_stopped(pids)
            for call in (store.get(key, {}), store.merge(key, {"b": b"2"}, [], {})):
                with pytest.raises(StoreError):
                    await call
        finally:
            for pid in pids:
                # PostgreSQL's helpers come and go.
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)

    run(SQLSessionStore(server.url_for(driver), create_table=True, timeout=LIMIT), body)


# The pieces come so slowly that the whole takes longer than any machine is slow, or each at once.
@pytest.mark.parametrize(
    "driver, size, pause",
    [*((driver, 1, LIMIT / 2) for driver in NETWORKED), *((driver, 1_000_000, 0) for driver in BLOCKING[1:])],
)
def test_a_server_whose_answer_trickles_in_is_an_error_within_the_limit(
    driver: str, size: int, pause: float, request: pytest.FixtureRequest
) -> None:
    url = make_url(url_of(driver, request))
    with Proxy(url.port or 0) as proxy:
        url = url.set(port=proxy.port)
        store = SQLSessionStore(url, create_table=True, timeout=LIMIT)

        async def body(store: SQLSessionStore) -> None:
            key = store.id()
            assert await store.set(key, {"a": bytes(size)}, LIFE) is APPLIED
            proxy.weather, proxy.pause = Weather.TRICKLE, pause
            # Over the connection that there is and, where the answers to its making last, over a new one.
            for _ in range(2 if pause else 1):
                began = time.monotonic()
                with pytest.raises(StoreError, match="in time"):
                    await store.get(key, {})
                assert time.monotonic() - began < PATIENCE
            proxy.weather = Weather.FAIR
            assert await store.get(key, {}) == {"a": bytes(size)}

        run(store, body)


@pytest.mark.parametrize("driver", [driver for driver in AWAITING if driver in NETWORKED])
def test_a_loop_that_was_kept_from_looking_takes_the_answer_that_came_in_time(
    driver: str, request: pytest.FixtureRequest
) -> None:
    async def body(store: SQLSessionStore) -> None:
        key = store.id()
        await store.set(key, {"a": b"1"}, LIFE)
        # Each once before: a statement that asyncpg has only begun to prepare meets PostgreSQL's own limit.
        assert await store.get(key, {}) == {"a": b"1"}
        assert await store.merge(key, {"b": b"2"}, [], {}) is APPLIED
        calls: tuple[Coroutine[Any, Any, Any], ...] = (store.get(key, {}), store.merge(key, {"b": b"3"}, [], {}))
        for call, expected in zip(calls, ({"a": b"1", "b": b"2"}, APPLIED), strict=True):
            answer = asyncio.create_task(call)
            await asyncio.sleep(0.01)
            time.sleep(2 * LIMIT)  # noqa: ASYNC251 - as code does that computes long
            assert await answer == expected

    run(SQLSessionStore(url_of(driver, request), create_table=True, timeout=LIMIT), body)


def family(pid: int) -> list[int]:
    children = (Path(f"/proc/{pid}/task/{pid}/children")).read_text().split()
    return [pid, *map(int, children)]


def wait_until_stopped(pids: list[int]) -> None:
    def is_stopped(task: Path) -> bool:
        # A helper that had ended by then is buried by its parent only when that runs on.
        return any(state in (task / "status").read_text() for state in (" (stopped)", " (zombie)"))

    wait_until(lambda: all(is_stopped(task) for pid in pids for task in Path(f"/proc/{pid}/task").iterdir()))


@pytest.mark.parametrize("driver", NETWORKED)
def test_a_server_that_has_gone_is_an_error(driver: str, request: pytest.FixtureRequest) -> None:
    server = doomed(driver, request)

    async def body(store: SQLSessionStore) -> None:
        if server.process.poll() is None:
            await store.set(store.id(), {"a": b"1"}, LIFE)
            server.kill()
        for _ in range(2):
            for call in (
                store.get("k", {}),
                store.set("k", {"a": b"1"}, LIFE),
                store.merge("k", {}, (), {}),
                store.destroy("k"),
            ):
                with pytest.raises(StoreError):
                    await call

    run(SQLSessionStore(server.url_for(driver), create_table=True), body)


@pytest.mark.parametrize("driver", NETWORKED)
def test_a_database_that_refuses_the_connection_is_an_error(driver: str, request: pytest.FixtureRequest) -> None:
    async def body(store: SQLSessionStore) -> None:
        with pytest.raises(StoreError):
            await store.get("k", {})

    run(SQLSessionStore(url_of(driver, request).removesuffix("session") + "no_such_database"), body)


# ------------------------------------------------------------------------------------------------------------- poolers


@pytest.mark.parametrize("driver", [*POOLED, "postgresql+asyncpg"])
def test_a_pooler_that_was_not_announced_is_named_and_so_is_the_mend(
    driver: str, pgbouncer_server: servers.Server
) -> None:
    async def body(store: SQLSessionStore) -> None:
        with pytest.raises(StoreError, match=r"pooler .*\?pgbouncer=true .*psycopg.*unsupported startup parameter"):
            await store.get(store.id(), {})

    run(SQLSessionStore(pgbouncer_server.url_for(driver)), body)


@pytest.mark.parametrize("driver", ["postgresql+psycopg_async", "postgresql+asyncpg"])
def test_so_it_is_where_it_lets_settings_pass_and_keeps_no_statements(
    driver: str, postgresql_server: servers.Server, pgbouncer_server: servers.Server
) -> None:
    async def body(store: SQLSessionStore) -> None:
        await store.create_table()

        async def ask() -> None:
            for _ in range(30):
                await store.get(store.id(), {})

        said = await asyncio.gather(*(ask() for _ in range(12)), return_exceptions=True)
        assert any("pgbouncer=true" in str(error) for error in said)
        assert all(isinstance(error, StoreError) for error in said if error)

    # Newer ones keep statements of themselves.
    keeps_none = ["max_prepared_statements=0"] if servers.version_of_pgbouncer() >= (1, 21) else []
    lets_pass = "ignore_startup_parameters=options,lock_timeout,statement_timeout"
    with servers.start_pgbouncer(postgresql_server, lets_pass, *keeps_none) as pooler:
        run(SQLSessionStore(pooler.url_for(driver)), body)


@pytest.mark.parametrize("url", ["postgresql+asyncpg://u@127.0.0.1/s", "mysql+pymysql://u@127.0.0.1/s"])
def test_a_driver_that_cannot_go_through_a_pooler_is_refused(url: str) -> None:
    with pytest.raises(ConfigurationError, match=r"take postgresql\+psycopg"):
        SQLSessionStore(f"{url}?pgbouncer=true")


async def test_who_is_cancelled_while_a_connection_is_made_waits_for_nothing():
    reached, left = asyncio.Event(), asyncio.Event()

    async def be_silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        reached.set()
        await reader.read()
        writer.close()
        await writer.wait_closed()
        left.set()

    async with await asyncio.start_server(be_silent, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        store = SQLSessionStore(f"postgresql+psycopg_async://u@127.0.0.1:{port}/session", timeout=10 * PATIENCE)
        call = asyncio.ensure_future(store.get(store.id(), {}))
        await asyncio.wait_for(reached.wait(), PATIENCE)
        call.cancel()
        done, _ = await asyncio.wait([call], timeout=PATIENCE)
        assert done
        assert call.cancelled()
        # The error of a cancelled task keeps what it was about.
        del call, done
        gc.collect()
        await asyncio.wait_for(left.wait(), PATIENCE)
        await store.close()


@pytest.mark.parametrize("driver", AWAITING)
def test_who_is_cancelled_in_the_middle_of_a_write_waits_for_its_answer_however_often_that_is(
    driver: str, request: pytest.FixtureRequest
) -> None:
    url = url_of(driver, request)
    blocking = url.replace(driver, {"p": "postgresql+psycopg", "m": "mysql+pymysql", "s": "sqlite"}[driver[0]], 1)
    other = create_engine(blocking)

    async def body(store: SQLSessionStore) -> None:
        key = store.id()
        await store.set(key, {"a": b"1"}, LIFE)
        with other.connect() as holder:
            holder.execute(text("UPDATE server_sessions SET stamp = stamp + 1 WHERE id = :key"), {"key": key})
            asyncio.get_running_loop().call_later(0.6, holder.rollback)
            with anyio.move_on_after(0.3):
                async with asyncio.timeout(0.2):
                    await store.merge(key, {"a": b"2"}, [], {})
            assert await store.get(key, {}) == {"a": b"2"}

    run(SQLSessionStore(url, create_table=True), body)
    other.dispose()


@pytest.mark.parametrize("driver", POOLED)
def test_a_wait_for_a_row_ends_at_the_server_through_a_pooler_too(
    driver: str, postgresql_server: servers.Server, pgbouncer_server: servers.Server
) -> None:
    table = f"locked_{time.monotonic_ns()}"
    engine = create_engine(postgresql_server.url_for("postgresql+psycopg"), isolation_level="READ COMMITTED")
    watch = create_engine(postgresql_server.url_for("postgresql+psycopg"), isolation_level="AUTOCOMMIT")
    waiting = text(f"SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query ~ '{table}'")  # noqa: S608 - its own name

    async def body(store: SQLSessionStore) -> None:
        key = store.id()
        await store.set(key, {"a": b"1"}, LIFE)
        with engine.connect() as holder, watch.connect() as watcher:
            holder.execute(text(f"SELECT id FROM {table} FOR UPDATE"))  # noqa: S608 - a name of the test's own
            for call in (store.merge(key, {"a": b"2"}, [], {}), store.destroy(key)):
                with pytest.raises(StoreError):
                    await call
            wait_until(lambda: watcher.scalar(waiting) == 0)
        assert await store.merge(key, {"a": b"2"}, [], {}) is APPLIED

    run(
        SQLSessionStore(
            pgbouncer_server.url_for(driver) + "?pgbouncer=true", table=table, create_table=True, timeout=LIMIT
        ),
        body,
    )
    engine.dispose()
    watch.dispose()


def test_a_wait_for_a_row_ends_over_an_engine_that_would_wait_for_ever(postgresql_server: servers.Server) -> None:
    table, engine = f"locked_{time.monotonic_ns()}", create_engine(postgresql_server.url_for("postgresql+psycopg"))

    async def body(store: SQLSessionStore) -> None:
        key = store.id()
        await store.set(key, {"a": b"1"}, LIFE)
        with engine.connect() as holder:
            holder.execute(text(f"SELECT id FROM {table} FOR UPDATE"))  # noqa: S608 - a name of the test's own
            for call in (store.merge(key, {"a": b"2"}, [], {}), store.destroy(key)):
                with pytest.raises(StoreError, match="held a lock"):
                    await call
        assert await store.merge(key, {"a": b"2"}, [], {}) is APPLIED

    run(SQLSessionStore(engine, table=table, create_table=True, timeout=LIMIT), body)
    engine.dispose()


def test_a_wait_of_a_blocking_call_takes_no_longer_than_what_the_call_has_left(blocking_url: str) -> None:
    given: list[float] = []
    limit, pause = PATIENCE, 0.3

    def look(connection: Any, cursor: object, statement: str, *_: object) -> None:
        driver = connection.connection.driver_connection
        if statement.startswith("UPDATE"):
            if "sqlite" in blocking_url:
                given.append(driver.execute("PRAGMA busy_timeout").fetchone()[0] / 1000)
            else:
                given.append(driver._sock.gettimeout() if "pymysql" in blocking_url else left())

    async def body(store: SQLSessionStore) -> None:
        key = store.id()
        await store.set(key, {"a": b"1"}, LIFE)
        event.listen(store._source.get().engine, "after_cursor_execute", look)

        def change(record: Any, now: float) -> Any:
            time.sleep(pause)
            return Record.begin({"a": b"2"}, LIFE, now)

        await store.swap(key, change, Likely.WRITES)

    run(SQLSessionStore(blocking_url, table=f"left_{time.monotonic_ns()}", create_table=True, timeout=limit), body)
    assert 0 < given[0] <= limit - pause + 0.01


def test_a_blocking_call_waits_no_longer_for_a_place_than_for_all_else(tmp_path: Path) -> None:
    store = SQLSessionStore(f"sqlite:///{tmp_path}/sessions.db", create_table=True, timeout=LIMIT)
    places = store._source.get().places
    with suppress(TimeoutError):
        while True:
            places.take(0)
    with pytest.raises(StoreDownError, match="no connection of the pool came free"):
        drive(store.get(store.id(), {}))
    places.give_back(None)
    assert drive(store.get(store.id(), {})) is MISSING
    drive(store.close())


def test_a_connection_that_failed_and_cannot_be_closed_either_is_used_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = SQLSessionStore(f"sqlite:///{tmp_path}/sessions.db", create_table=True)
    source: Any = store._source.get()
    failed = []

    def fail(connection: Any) -> None:
        failed.append(connection)
        monkeypatch.setattr(connection, "close", lambda: connection.execute(text("no statement")))
        connection.execute(text("no statement"))

    with pytest.raises(SQLAlchemyError):
        drive(source.run(fail))
    assert drive(source.run(lambda connection: connection)) is not failed[0]
    monkeypatch.undo()
    failed[0].close()
    drive(store.close())


@pytest.mark.parametrize("driver", NETWORKED)
def test_a_deadlock_is_tried_again(driver: str, request: pytest.FixtureRequest) -> None:
    url, table, now = url_of(driver, request), f"deadlocked_{time.monotonic_ns()}", 1000.0
    is_postgresql = driver.startswith("postgresql")
    waiting = text(
        f"SELECT count(*) FROM pg_locks JOIN pg_stat_activity USING (pid) WHERE NOT granted AND query ~ '{table}'"  # noqa: S608 - a name of the test's own
        if is_postgresql
        else f"SELECT count(*) FROM information_schema.processlist WHERE info LIKE 'DELETE FROM {table} %'"  # noqa: S608 - likewise
    )
    place = make_url(url).set(drivername="postgresql+psycopg" if is_postgresql else "mysql+pymysql")
    engine = create_engine(place, isolation_level="READ COMMITTED")
    watch = create_engine(place, isolation_level="AUTOCOMMIT")

    async def body(store: SQLSessionStore) -> None:
        for key in (store.id() for _ in range(40)):
            await store.set(key, {"a": b"1"}, Lifetime(1e9))
        with engine.connect() as rival, watch.connect() as watcher, ThreadPoolExecutor(1) as pool:
            while not await meet(store, rival, watcher, pool):
                pass

    async def meet(store: SQLSessionStore, rival: Any, watcher: Any, pool: ThreadPoolExecutor) -> bool:
        """Let the store and a rival wait for each other; return whether it was the store whose statement was ended."""
        nonlocal now
        keys = sorted(store.id() for _ in range(2))
        for key in keys:
            await store.set(key, {"a": b"1"}, LIFE)
        now += 2 * LIFE.idle

        def lock(key: str) -> None:
            rival.execute(text(f"SELECT id FROM {table} WHERE id = :key FOR UPDATE"), {"key": key}).one()  # noqa: S608 - likewise

        def lock_the_other() -> bool:
            wait_until(lambda: watcher.scalar(waiting))
            try:
                lock(keys[0])
            except OperationalError:
                return False
            finally:
                rival.rollback()
            return True

        # PostgreSQL ends who looks first, and MariaDB who has written less.
        if is_postgresql:
            rival.execute(text("SET LOCAL deadlock_timeout = '5s'"))
        rival.execute(text(f"UPDATE {table} SET stamp = 1 - stamp WHERE expires > {now}"))  # noqa: S608 - likewise
        lock(keys[1])
        has_met = pool.submit(lock_the_other)
        assert await store.delete_expired() == 2
        return has_met.result()

    run(SQLSessionStore(url, table=table, create_table=True, clock=lambda: now), body)
    engine.dispose()
    watch.dispose()


# --------------------------------------------------------------------------------------------------- what errors say


def test_a_lock_that_is_held_too_long_is_an_error(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/sessions.db"
    engine = create_engine(url, isolation_level="AUTOCOMMIT")

    async def body(store: SQLSessionStore) -> None:
        key = store.id()
        await store.set(key, {"a": b"1"}, LIFE)
        with engine.connect() as connection:
            connection.exec_driver_sql("BEGIN EXCLUSIVE")
            with pytest.raises(StoreError):
                await store.merge(key, {"a": b"2"}, [], {})
            connection.exec_driver_sql("ROLLBACK")
        assert await store.merge(key, {"a": b"2"}, [], {}) is APPLIED

    run(SQLSessionStore(url, create_table=True, timeout=LIMIT), body)
    engine.dispose()


def administer(url: str, *statements: str) -> None:
    """Say this to the server as who may say anything there."""
    place = make_url(url)
    if place.drivername.startswith("postgresql"):
        place = place.set(drivername="postgresql+psycopg")
    elif place.drivername.startswith("mysql"):
        place = place.set(drivername="mysql+pymysql", username="root", password="")
    else:
        place = place.set(drivername="sqlite+pysqlite")
    engine = create_engine(place, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        for statement in statements:
            connection.exec_driver_sql(statement)
    engine.dispose()


def make_table(url: str, name: str, *further: str) -> None:
    statements = [statement for statement in ddl(make_url(url).get_backend_name(), name).split(";\n") if statement]
    administer(url, *statements, *further)


SELECTOR, SECRET = "the-selector", b"the-secret"


def explanation_of(url: str, **settings: Any) -> str:
    """Return what the store says of a session that it cannot write, and see that nothing of it is shown."""

    async def body(store: SQLSessionStore) -> str:
        with pytest.raises(StoreError) as caught:
            await store.set(SELECTOR, {"name": SECRET}, LIFE)
        shown = "".join(traceback.format_exception(caught.value))
        for hidden in (SELECTOR, SELECTOR[:8], SECRET.decode(), SECRET.hex(), "s3cret"):
            assert hidden not in shown
        return str(caught.value)

    said: str = run(SQLSessionStore(url, **settings), body)
    assert said.count("(it said: ") == 1
    return said


def with_user(url: str, name: str) -> str:
    return make_url(url).set(username=name, password="s3cret").render_as_string(hide_password=False)


@pytest.mark.parametrize("driver", NETWORKED)
def test_an_error_says_that_nobody_listens_there(driver: str, free_port: int) -> None:
    assert "cannot be reached" in explanation_of(f"{driver}://session:s3cret@127.0.0.1:{free_port}/session")


@pytest.mark.parametrize("driver", NETWORKED)
def test_an_error_says_that_the_user_is_not_let_in(driver: str, request: pytest.FixtureRequest) -> None:
    assert "look at user and password" in explanation_of(with_user(url_of(driver, request), "nobody"))


@pytest.mark.parametrize("driver", NETWORKED)
def test_an_error_says_that_there_is_no_such_database(driver: str, request: pytest.FixtureRequest) -> None:
    said = explanation_of(url_of(driver, request).removesuffix("session") + "elsewhere")
    # To who has no right to look there, MariaDB tells no more.
    assert "no such database" in said or ("lacks a right" in said and "1044" in said)
    assert "elsewhere" in said


def test_what_asyncpg_itself_says_when_it_connects_is_an_error_of_the_store() -> None:
    engine = create_async_engine("postgresql+asyncpg://127.0.0.1/session")

    # As under SQLAlchemy before 2.1, which wraps what a statement raises and not this.
    def refuse(*_: object) -> NoReturn:
        raise asyncpg.TooManyConnectionsError("sorry, too many clients already")

    event.listen(engine.sync_engine, "do_connect", refuse)
    with pytest.raises(StoreDownError, match="takes no more connections"):
        asyncio.run(SQLSessionStore(engine).get("k" * 24, {}))


@pytest.mark.parametrize("driver", NETWORKED)
def test_an_error_says_that_the_server_takes_no_more_connections(driver: str, request: pytest.FixtureRequest) -> None:
    url, name = url_of(driver, request), f"few_{time.monotonic_ns()}"
    if driver.startswith("postgresql"):
        administer(url, f"CREATE ROLE {name} LOGIN CONNECTION LIMIT 0")
        assert "takes no more connections" in explanation_of(with_user(url, name))
        return
    rights = f"GRANT ALL ON session.* TO {name}@'127.0.0.1' IDENTIFIED BY 's3cret' WITH MAX_USER_CONNECTIONS 1"
    administer(url, rights)
    engine = create_engine(make_url(with_user(url, name)).set(drivername="mysql+pymysql"))
    with engine.connect():
        assert "takes no more connections" in explanation_of(with_user(url, name))
    engine.dispose()


@pytest.mark.parametrize("driver", NETWORKED)
def test_an_error_says_that_the_user_lacks_a_right(driver: str, request: pytest.FixtureRequest) -> None:
    url, name = url_of(driver, request), f"poor_{time.monotonic_ns()}"
    if driver.startswith("postgresql"):
        make_table(url, name, f"CREATE ROLE {name} LOGIN", f"GRANT SELECT ON {name} TO {name}")
    else:
        make_table(url, name, f"GRANT SELECT ON session.{name} TO {name}@'127.0.0.1' IDENTIFIED BY 's3cret'")
    said = explanation_of(with_user(url, name), table=name)
    assert "grant SELECT, INSERT, UPDATE and DELETE" in said
    assert name in said


@pytest.mark.parametrize(
    "difference", ["ADD COLUMN extra INTEGER NOT NULL {}", "DROP COLUMN deadline", "RENAME COLUMN stamp TO version"]
)
def test_an_error_says_that_the_table_is_of_another_version(difference: str, url: str) -> None:
    table = f"other_{time.monotonic_ns()}"
    # SQLite adds no column that is never null without a default.
    is_sqlite = url.startswith("sqlite")
    make_table(
        url, table, f"ALTER TABLE {table} {difference.format('DEFAULT 0 CHECK (extra > 0)' if is_sqlite else '')}"
    )
    assert "of another version" in explanation_of(url, table=table)


@pytest.mark.parametrize("driver", NETWORKED)
def test_an_error_says_that_the_database_is_read_only(driver: str, request: pytest.FixtureRequest) -> None:
    url, name = url_of(driver, request), f"ro_{time.monotonic_ns()}"
    if driver.startswith("postgresql"):
        read_only = f"ALTER ROLE {name} SET default_transaction_read_only = on"
        make_table(url, name, f"CREATE ROLE {name} LOGIN SUPERUSER", read_only)
        assert "read-only" in explanation_of(with_user(url, name), table=name)
        return
    make_table(url, name, "SET GLOBAL read_only = 1")
    try:
        assert "read-only" in explanation_of(url, table=name)
    finally:
        administer(url, "SET GLOBAL read_only = 0")


@pytest.mark.parametrize("driver", NETWORKED)
def test_a_primary_that_has_become_a_replica_is_left_for_who_has_its_name_now(
    driver: str, request: pytest.FixtureRequest
) -> None:
    url, name = url_of(driver, request), f"was_primary_{time.monotonic_ns()}"
    is_postgresql = driver.startswith("postgresql")
    make_table(url, name)
    number = "SELECT pg_backend_pid()" if is_postgresql else "SELECT connection_id()"
    # What a replica says there, for this connection alone.
    becoming = "SET default_transaction_read_only = on" if is_postgresql else "SET SESSION TRANSACTION READ ONLY"

    async def body(store: SQLSessionStore) -> None:
        source: Any = store._source.get()

        def become(connection: Any) -> int:
            connection.exec_driver_sql(becoming)
            return int(connection.exec_driver_sql(number).scalar_one())

        before = await source.run(become)
        with pytest.raises(StoreError, match="read-only"):
            await store.set(store.id(), {"a": b"1"}, LIFE)
        assert await store.set(store.id(), {"a": b"1"}, LIFE) is APPLIED
        assert await source.run(lambda connection: connection.exec_driver_sql(number).scalar_one()) != before

    run(SQLSessionStore(url, table=name), body)


@pytest.mark.parametrize("driver", ["pysqlite", "aiosqlite"])
def test_an_error_says_that_the_file_is_read_only(driver: str, tmp_path: Path) -> None:
    make_table(f"sqlite:///{tmp_path}/sessions.db", "server_sessions")
    assert "read-only" in explanation_of(f"sqlite+{driver}:///file:{tmp_path}/sessions.db?mode=ro&uri=true")


def test_an_error_says_that_the_file_cannot_be_opened(tmp_path: Path) -> None:
    # Not aiosqlite, whose thread may tell a loop that has ended of it.
    assert "cannot be opened" in explanation_of(f"sqlite+pysqlite:///{tmp_path}/nowhere/sessions.db")


@pytest.mark.parametrize("driver", ["sqlite+pysqlite", *NETWORKED])
def test_an_error_says_that_others_hold_a_lock(driver: str, request: pytest.FixtureRequest) -> None:
    url, table = url_of(driver, request), f"held_{time.monotonic_ns()}"
    make_table(url, table)
    blocking = {"postgresql": "postgresql+psycopg", "mysql": "mysql+pymysql", "sqlite": "sqlite"}
    engine = create_engine(make_url(url).set(drivername=blocking[driver.partition("+")[0]]))

    async def body(store: SQLSessionStore) -> None:
        key = store.id()
        await store.set(key, {"a": b"1"}, LIFE)
        with engine.connect() as holder:
            holder.execute(text(f"UPDATE {table} SET stamp = stamp"))  # noqa: S608 - a name of the test's own
            # Whichever of the two limits comes first, the server's or the driver's.
            with pytest.raises(StoreError, match=r"held a lock|did not answer in time"):
                await store.merge(key, {"a": b"2"}, [], {})

    # MariaDB waits for whole seconds: for fewer than the driver does.
    run(SQLSessionStore(url, table=table, timeout=LIMIT + 0.5), body)
    engine.dispose()


@pytest.mark.parametrize("driver", NETWORKED)
@pytest.mark.parametrize(
    "state, number, what",
    [
        ("53100", 1021, "disk is full"),
        ("55P03", 1205, "held a lock"),
        ("P0001", 1644, "did not do as asked .it said: bad value … .(P0001|1644)"),
    ],
)
def test_an_error_says_what_a_code_means_and_shows_no_value(
    driver: str, state: str, number: int, what: str, request: pytest.FixtureRequest
) -> None:
    # The server and the driver are real, the cause is staged: a trigger raises the error.
    url, table = url_of(driver, request), f"staged_{time.monotonic_ns()}"
    says_value = what.startswith("did")
    if driver.startswith("postgresql"):
        said = """'bad value "%%"', NEW.id""" if says_value else "'staged'"
        raises = f"BEGIN RAISE EXCEPTION {said} USING ERRCODE = '{state}', DETAIL = NEW.id; END"
        function = f"CREATE FUNCTION {table}() RETURNS trigger LANGUAGE plpgsql AS $$ {raises} $$"
        fires = f"FOR EACH ROW EXECUTE FUNCTION {table}()"
        make_table(url, table, function, f"CREATE TRIGGER raises BEFORE INSERT ON {table} {fires}")
    else:
        said = """CONCAT('bad value "', NEW.id, '"')""" if says_value else "'staged'"
        signal_ = f"SET @said = {said}; SIGNAL SQLSTATE '45000' SET MYSQL_ERRNO = {number}, MESSAGE_TEXT = @said"
        make_table(url, table, f"CREATE TRIGGER {table} BEFORE INSERT ON {table} FOR EACH ROW BEGIN {signal_}; END")
    assert re.search(what, explanation_of(url, table=table))


def test_an_error_says_that_the_disk_is_full(tmp_path: Path) -> None:
    engine = create_engine(f"sqlite:///{tmp_path}/sessions.db")
    event.listen(engine, "connect", lambda connection, _: connection.execute("PRAGMA max_page_count = 4"))

    async def body(store: SQLSessionStore) -> None:
        with pytest.raises(StoreError, match="disk is full"):
            await store.set(store.id(), {"a": bytes(100_000)}, LIFE)

    run(SQLSessionStore(engine, create_table=True), body)
    engine.dispose()


def test_an_error_says_that_the_pool_is_exhausted(tmp_path: Path) -> None:
    engine = create_engine(f"sqlite:///{tmp_path}/sessions.db", pool_size=1, max_overflow=0, pool_timeout=0.1)

    async def body(store: SQLSessionStore) -> None:
        with engine.connect(), pytest.raises(StoreError, match=r"no connection of the pool.*pool_size"):
            await store.get(store.id(), {})

    run(SQLSessionStore(engine), body)
    engine.dispose()


@pytest.mark.parametrize(
    "damage", ["data = x'ff00'", "data = 'text'", "idle = 'long'", "deadline = 'soon'", "expires = 'soon'"]
)
def test_a_damaged_row_is_an_error_and_no_absent_session(damage: str, tmp_path: Path) -> None:
    engine = create_engine(f"sqlite:///{tmp_path}/sessions.db")

    async def body(store: SQLSessionStore) -> None:
        key = store.id()
        await store.set(key, {"a": b"1"}, LIFE)
        with engine.begin() as connection:
            connection.execute(text(f"UPDATE server_sessions SET {damage}"))  # noqa: S608 - the test's own
        for call in (store.get(key, {}), store.merge(key, {}, (), {})):
            with pytest.raises(RecordError):
                await call
        assert (await store.list_records()).unreadable == [key]
        assert await store.destroy(key)

    run(SQLSessionStore(engine, create_table=True), body)
    engine.dispose()


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///:memory:", "sqlite+aiosqlite://"])
def test_sqlite_in_memory_is_refused(url: str) -> None:
    with pytest.raises(ConfigurationError, match="MemorySessionStore"):
        SQLSessionStore(url)


@pytest.mark.parametrize("driver", ["psycopg", "asyncpg"])
def test_a_url_whose_password_has_reserved_characters_is_refused_and_nothing_of_it_shown(driver: str) -> None:
    with pytest.raises(ConfigurationError, match="write reserved characters as %XX") as refused:
        SQLSessionStore(f"postgresql+{driver}://shop:p@ss:w0rd@db/shop")
    shown = "".join(traceback.format_exception(refused.value)).partition("ConfigurationError")[2]
    assert "w0rd" not in shown
    assert "ss:" not in shown
    assert refused.value.__suppress_context__


def test_an_awaiting_driver_without_greenlet_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "greenlet", None)
    with pytest.raises(ConfigurationError, match=r"not installed .*greenlet"):
        SQLSessionStore(f"sqlite+aiosqlite:///{tmp_path}/sessions.db")


@pytest.mark.parametrize(
    "url, what",
    [
        ("postgres://session@127.0.0.1/session", r"postgresql\+asyncpg"),
        ("no url", r"postgresql\+asyncpg"),
        ("postgresql+nothing://127.0.0.1/session", r"postgresql\+asyncpg"),
        ("mssql+pyodbc://127.0.0.1/session", "'mssql'"),
        ("postgresql+pg8000://127.0.0.1/session", r"not installed \(pg8000\): install it, or .*postgresql\+psycopg"),
        ("mysql://127.0.0.1/session", r"not installed \(MySQLdb\): install it, or .*mysql\+pymysql"),
        ("postgresql+asyncpg://session@127.0.0.1:99999/session", r"postgresql\+asyncpg"),
    ],
)
def test_a_url_that_cannot_work_is_refused(url: str, what: str) -> None:
    with pytest.raises(ConfigurationError, match=what):
        SQLSessionStore(url)


@pytest.mark.parametrize(
    "url, name, why",
    [
        ("postgresql+psycopg://127.0.0.1/session?pgbouncer=1", "pgbouncer", "neither true nor false"),
        ("postgresql+psycopg://127.0.0.1/session?pgbouncer=true&pgbouncer=true", "pgbouncer", "neither true nor false"),
        ("postgresql+psycopg://127.0.0.1/session?pgbouncer", "pgbouncer", "no value"),
        *((f"{driver}://127.0.0.1/session?colour=red", "colour", "not known") for driver in NETWORKED),
        *((f"sqlite+{driver}:////sessions.db?mode=ro", "mode", "not known") for driver in ("pysqlite", "aiosqlite")),
        # SQLAlchemy hands on the text, and any text is true.
        ("mysql+pymysql://127.0.0.1/session?ssl_disabled=false", "ssl_disabled", "can be true"),
        # What the store's own limits would take the place of.
        ("postgresql+psycopg://127.0.0.1/session?options=-csearch_path%3Dshop", "options", "the store's to set"),
        ("postgresql+psycopg_async://127.0.0.1/session?connect_timeout=9", "connect_timeout", "the store's to set"),
        ("postgresql+asyncpg://127.0.0.1/session?command_timeout=9", "command_timeout", "the store's to set"),
        ("mysql+pymysql://127.0.0.1/session?init_command=secret", "init_command", "the store's to set"),
        ("sqlite:////sessions.db?timeout=9", "timeout", "the store's to set"),
        ("mysql+asyncmy://127.0.0.1/session?charset=utf8mb4&local_infile=secret", "local_infile", "cannot be read"),
        ("postgresql+asyncpg://127.0.0.1/session?prepared_statement_cache_size=secret", "cache_size", "cannot be read"),
    ],
)
def test_a_parameter_of_a_url_that_would_be_dropped_is_refused_by_name(url: str, name: str, why: str) -> None:
    with pytest.raises(ConfigurationError, match=f"{name}' .*{why}") as refused:
        SQLSessionStore(url)
    assert "secret" not in "".join(traceback.format_exception(refused.value)).partition("ConfigurationError")[2]


@pytest.mark.parametrize("parameter", ["statement_cache_size=0", "ssl=secret", "port=99999", "loop=secret"])
def test_a_parameter_that_the_driver_looks_at_late_is_named_then(parameter: str) -> None:
    async def body(store: SQLSessionStore) -> None:
        with pytest.raises((ConfigurationError, StoreError), match=parameter.partition("=")[0]):
            await store.get(store.id(), {})

    run(SQLSessionStore(f"postgresql+asyncpg://session@127.0.0.1:1/session?{parameter}"), body)


def test_parameters_of_a_url_reach_the_driver(tmp_path: Path, postgresql_server: servers.Server) -> None:
    async def found(store: SQLSessionStore) -> None:
        assert await store.set(store.id(), {"a": b"1"}, LIFE) is APPLIED

    async def refused(store: SQLSessionStore) -> None:
        with pytest.raises(StoreError, match="read-only"):
            await store.set(store.id(), {"a": b"1"}, LIFE)

    run(SQLSessionStore(f"sqlite:///{tmp_path}/sessions.db", create_table=True), found)
    run(SQLSessionStore(f"sqlite:///file:{tmp_path}/sessions.db?uri=true&mode=ro"), refused)
    store = SQLSessionStore(postgresql_server.url_for("postgresql+psycopg") + "?application_name=shop")
    with store._source.get().engine.connect() as connection:
        assert connection.execute(text("SHOW application_name")).scalar() == "shop"
    drive(store.close())


@pytest.mark.parametrize("settings", [{"timeout": 0}, {"timeout": float("nan")}, {"max_age": 0}, {"max_age": -1}])
def test_settings_that_cannot_work_are_refused(settings: dict[str, float], tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=next(iter(settings))):
        SQLSessionStore(f"sqlite:///{tmp_path}/sessions.db", **settings)


def test_an_awaiting_engine_under_trio_is_refused(tmp_path: Path) -> None:
    store = SQLSessionStore(f"sqlite+aiosqlite:///{tmp_path}/sessions.db")
    with pytest.raises(ColourError, match="asyncio"):
        trio.run(store.get, "k", {})

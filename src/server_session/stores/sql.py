"""Sessions in a SQL database, by SQLAlchemy Core: SQLite, PostgreSQL, MySQL and MariaDB.

A session is a row, and its fields are packed in one column. So a read is one statement; a write is two, the row is read
and then written back if its stamp is still the same, each a transaction of its own. Nothing is locked in between, and
whoever loses such a race takes the row's lock for a second try.
"""

import asyncio
import itertools
import math
import os
import random
import secrets
import time
from collections.abc import AsyncGenerator, Callable, Collection, Generator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Any, Final, Literal, TypeAlias, TypeVar, cast

import msgspec
from sqlalchemy import (
    BigInteger,
    Column,
    ColumnElement,
    Connection,
    Double,
    Engine,
    Executable,
    Index,
    Insert,
    LargeBinary,
    MetaData,
    String,
    Table,
    bindparam,
    create_engine,
    delete,
    event,
    literal_column,
    select,
    update,
)
from sqlalchemy.dialects import mysql, postgresql, sqlite
from sqlalchemy.engine import URL, make_url
from sqlalchemy.engine.default import DefaultDialect
from sqlalchemy.exc import ArgumentError, DBAPIError, SQLAlchemyError, StatementError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import Pool, SingletonThreadPool, StaticPool
from sqlalchemy.schema import CreateIndex, CreateTable, ExecutableDDLElement

from server_session._colour import pause, running_library
from server_session.exceptions import ColourError, ConfigurationError, RecordError, StoreError
from server_session.stores._base import (
    APPLIED,
    CONFLICT,
    MISSING,
    Colour,
    Expect,
    Fields,
    Lifetime,
    Outcome,
    SessionStore,
)

__all__ = ["SQLSessionStore", "ddl", "session_table"]

T = TypeVar("T")

TABLE: Final = "server_sessions"

_pack = msgspec.msgpack.Encoder().encode
_unpack = msgspec.msgpack.Decoder(dict[str, bytes]).decode

_WRITES_A_SWEEP: Final = 50
_ROWS_A_SWEEP: Final = 100
# Databases bound the number of a statement's parameters.
_MOST_ROWS_A_SWEEP: Final = 10_000

# Of several tries in one call; the time-out may end them sooner.
_MOST_TRIES: Final = 30
_LONGEST_PAUSE: Final = 0.1

# Of an engine made from a URL: those of a process, or of a loop. Other calls wait for one of them.
_CONNECTIONS: Final = 10
# SQLite lets one write at a time, and whoever waits looks again now and then: few get through more than many.
_CONNECTIONS_TO_A_FILE: Final = 2

_SERVER_TIME: Final = {
    "sqlite": "(julianday('now') - 2440587.5) * 86400.0",
    "postgresql": "CAST(extract(epoch FROM statement_timestamp()) AS double precision)",
    # UTC, for the local time of a session occurs twice when summer time ends.
    "mysql": "timestampdiff(MICROSECOND, '1970-01-01', utc_timestamp(6)) / 1e6",
}

_BEGIN: Final = {
    # The write lock at once: a transaction that has read cannot wait for it, it fails.
    "sqlite": "BEGIN IMMEDIATE",
    # Whoever waited for a row's lock sees the row as it then is.
    "postgresql": "BEGIN ISOLATION LEVEL READ COMMITTED",
    "mysql": "START TRANSACTION",
}

# A deadlock, a serialization failure, a lock that cannot be waited for: nothing was written, and it may be tried again.
_PASSING: Final = frozenset(
    {
        *("40001", "40P01"),
        *(1213, 1020),
        # SQLITE_BUSY and SQLITE_LOCKED, plain and extended.
        *(5, 261, 517, 773, 6, 262),
    }
)
_NO_TABLE: Final = frozenset({"42P01", 1146})
_TOO_LARGE: Final = 1153


def _libpq_limits(seconds: float) -> dict[str, Any]:
    milliseconds = math.ceil(seconds * 1000)
    return {
        # libpq takes whole seconds, and no fewer than two.
        "connect_timeout": max(2, math.ceil(seconds)),
        "tcp_user_timeout": milliseconds,
        "options": f"-c statement_timeout={milliseconds} -c lock_timeout={milliseconds}",
    }


def _asyncpg_limits(seconds: float) -> dict[str, Any]:
    milliseconds = str(math.ceil(seconds * 1000))
    settings = {"statement_timeout": milliseconds, "lock_timeout": milliseconds}
    return {"timeout": seconds, "command_timeout": seconds, "server_settings": settings}


def _mysql_limits(seconds: float) -> dict[str, Any]:
    # InnoDB takes whole seconds.
    wait = f"SET SESSION innodb_lock_wait_timeout = {max(1, math.floor(seconds))}"
    return {"connect_timeout": math.ceil(seconds), "init_command": wait}


def _pymysql_limits(seconds: float) -> dict[str, Any]:
    return {**_mysql_limits(seconds), "read_timeout": seconds, "write_timeout": seconds}


def _sqlite_limits(seconds: float) -> dict[str, Any]:
    return {"timeout": seconds}


# What each driver calls the limits of its waits.
_LIMITS: Final[Mapping[str, Callable[[float], dict[str, Any]]]] = {
    "psycopg": _libpq_limits,
    "psycopg_async": _libpq_limits,
    "psycopg2": _libpq_limits,
    "asyncpg": _asyncpg_limits,
    "pymysql": _pymysql_limits,
    "aiomysql": _mysql_limits,
    "asyncmy": _mysql_limits,
    "mysqldb": _mysql_limits,
    "pysqlite": _sqlite_limits,
    "aiosqlite": _sqlite_limits,
}


def session_table(metadata: MetaData, name: str = TABLE) -> Table:
    """Describe the table of sessions in this `MetaData`, for migrations that Alembic writes.

    Args:
        metadata: What the migrations look at.
        name: The table's name, as the store has it.

    Returns:
        The table. `id` is the session's key; `data` holds the fields, a MessagePack map of text to bytes; `stamp` is
        a random number that each write renews; `idle` is in seconds; `deadline` (or NULL) and `expires` are seconds
        since 1970.
    """
    # Compared byte by byte, whatever the database's own collation is.
    key = (
        String(64)
        .with_variant(postgresql.VARCHAR(64, collation="C"), "postgresql")
        .with_variant(mysql.VARCHAR(64, charset="ascii", collation="ascii_bin"), "mysql", "mariadb")
    )
    return Table(
        name,
        metadata,
        Column("id", key, primary_key=True),
        Column("data", LargeBinary().with_variant(mysql.LONGBLOB(), "mysql", "mariadb"), nullable=False),
        Column("stamp", BigInteger, nullable=False, autoincrement=False),
        Column("idle", Double, nullable=False),
        Column("deadline", Double, nullable=True),
        Column("expires", Double, nullable=False),
        Index(f"{name}_expires", "expires"),
        mysql_engine="InnoDB",
        mariadb_engine="InnoDB",
    )


def ddl(dialect: str, table: str = TABLE) -> str:
    """Return the statements that make the table of sessions, for migrations written by hand.

    Args:
        dialect: `"sqlite"`, `"postgresql"`, `"mysql"` or `"mariadb"`.
        table: The table's name, as the store has it.

    Raises:
        ConfigurationError: The dialect is another one.
    """
    _family(dialect)
    speaker = URL.create(dialect).get_dialect()()
    described = session_table(MetaData(), table)
    statements: list[ExecutableDDLElement] = [
        CreateTable(described),
        *(CreateIndex(index) for index in described.indexes),
    ]
    return "\n\n".join(f"{str(statement.compile(dialect=speaker)).strip()};" for statement in statements) + "\n"


@dataclass(frozen=True, slots=True)
class _Seen:
    """A row as it was read."""

    stamp: int
    idle: float
    deadline: float | None
    expires: float
    now: float
    data: bytes

    @property
    def is_over(self) -> bool:
        return self.expires <= self.now

    @property
    def touched(self) -> float:
        """When it would expire if it were touched now."""
        soonest = self.now + self.idle
        return max(self.expires, soonest if self.deadline is None else min(soonest, self.deadline))

    def fields(self) -> Fields:
        try:
            return _unpack(self.data)
        except msgspec.MsgspecError as error:
            raise RecordError(
                "the row of a session cannot be read: its data was damaged, or written by something else"
            ) from error


class _Statements:
    """What is said to the database: made once, and compiled once by SQLAlchemy."""

    def __init__(self, table: Table, family: str, clock: Callable[[], float] | None) -> None:
        now: ColumnElement[float] = (
            literal_column(_SERVER_TIME[family], Double)
            if clock is None
            else bindparam("now", callable_=clock, type_=Double)
        )
        column = table.c
        is_key = column.id == bindparam("key")
        # The stamp is the lock of a write; the clock is asked again, so that none revives what expired in between.
        as_seen = (is_key, column.stamp == bindparam("seen"), column.expires > now)
        self.begin = _BEGIN[family]
        self.read = select(
            column.stamp, column.idle, column.deadline, column.expires, now.label("now"), column.data
        ).where(is_key)
        # SQLite has no lock of a row, and SQLAlchemy leaves the words out there.
        self.read_and_lock = self.read.with_for_update()
        self.add = _insert_unless_there(table, family).values(
            id=bindparam("key"),
            data=bindparam("packed"),
            stamp=bindparam("fresh"),
            idle=bindparam("seconds"),
            deadline=now + bindparam("remaining", type_=Double),
            expires=now + bindparam("lasts", type_=Double),
        )
        self.write = (
            update(table)
            .where(*as_seen)
            .values(
                data=bindparam("packed"),
                stamp=bindparam("fresh"),
                idle=bindparam("seconds"),
                deadline=bindparam("ends"),
                expires=bindparam("until"),
            )
        )
        self.touch = update(table).where(*as_seen).values(stamp=bindparam("fresh"), expires=bindparam("until"))
        self.drop = delete(table).where(is_key, column.expires > now)
        self.drop_expired = delete(table).where(is_key, column.expires <= now)
        self.list_expired = (
            select(column.id).where(column.expires <= now).order_by(column.expires).limit(bindparam("most"))
        )
        self.sweep = delete(table).where(column.id.in_(bindparam("keys", expanding=True)), column.expires <= now)


def _insert_unless_there(table: Table, family: str) -> Insert:
    """Insert a row, and count one; or, if the key is taken, count none or two."""
    match family:
        case "postgresql":
            adding: Insert = postgresql.insert(table).on_conflict_do_nothing(index_elements=["id"])
        case "sqlite":
            adding = sqlite.insert(table).on_conflict_do_nothing(index_elements=["id"])
        case _:
            # MySQL counts a row that an upsert leaves as it was like one that it made, but two for one that it changed;
            # and to change a stamp is to change nothing. (IGNORE would warn, and a driver would log the key.)
            adding = mysql.insert(table).on_duplicate_key_update(stamp=table.c.stamp.bitwise_xor(1))
    return adding.execution_options(preserve_rowcount=True)


Work: TypeAlias = Callable[[Connection, Executable], T | None]
"""One try of a call: given a connection and the statement that reads a row. `None` for a race that was lost."""


class SQLSessionStore(SessionStore):
    """Keeps sessions in a table of SQLite, PostgreSQL, MySQL (8 or newer) or MariaDB.

    ```python
    SQLSessionStore("postgresql+asyncpg://shop@db/shop")  # awaits; so do psycopg_async, asyncmy, aiosqlite
    SQLSessionStore("mysql+pymysql://shop@db/shop")       # blocks; so do psycopg, pysqlite
    SQLSessionStore(engine)                               # an Engine blocks, an AsyncEngine awaits
    ```

    **Table.** It must be there: run `await store.create_table()` once, or what `ddl` returns, or let Alembic see
    `session_table`; or say `create_table=True`, and it is made when it is found missing.

    **Atomic.** Each statement is a transaction of its own, and correct at READ COMMITTED and above. A read is one round
    trip. A write reads the row and writes it back on condition that nobody has written since; where somebody has, it
    locks the row and does so again. Deadlocks, serialization failures and SQLite's "database is locked" are tried
    again, until the time is over. A write whose answer is lost is not sent again: that is a `StoreError`, and it was
    made or not made.

    **Touch.** A read writes only if that moves the expiry by more than a tenth of the idle time. So a session may
    expire up to a tenth of its idle time early: one of 30 minutes after between 27 and 30 minutes without a request.

    **Clock.** Times are the database's, so that hosts whose clocks differ agree. That clock must not be set back.

    **Expired rows.** Every 50th write deletes at most 100 of them, by their keys. Where almost nobody writes call
    `delete_expired` now and then.

    **Limits of time.** An awaiting call ends within `timeout` seconds whatever the database does. A blocking call of a
    store made from a URL waits at most so long for a connection of the pool, to connect, and for each answer; where the
    store was given an `Engine`, its own arguments say how long, and without `connect_args` psycopg and PyMySQL wait for
    ever. An awaiting call that is cancelled lets a statement that has begun finish, within the same limit, so its
    connection goes back to the pool whole.

    **Settings.** Given an engine, the store uses its connections in autocommit. MySQL's drivers make more round trips
    to switch to it and back, unless the engine was made with `isolation_level="AUTOCOMMIT"` and
    `skip_autocommit_rollback=True`, as those made from a URL are; these have 10 connections, or 2 to a file of SQLite.
    There, `PRAGMA journal_mode=WAL` keeps readers from waiting for a writer. A whole session must fit into MySQL's
    `max_allowed_packet`.

    Args:
        engine: SQLAlchemy's `Engine` or `AsyncEngine`, or a URL, whose driver says whether calls block or await. From a
            URL with an awaiting driver each event loop gets an engine of its own, which is closed with the loop.
        table: The table's name.
        max_age: Idle seconds, or a timedelta, for sessions of this store; `None` for no opinion.
        create_table: Whether to make the table when it is found missing.
        timeout: Seconds, see above.
        clock: For tests: seconds since any moment, instead of the database's clock.

    Raises:
        ConfigurationError: The URL cannot be read, its driver is not installed, the database is another one, or it
            is SQLite in memory, where each thread would see sessions of its own.
    """

    def __init__(
        self,
        engine: Engine | AsyncEngine | URL | str,
        *,
        table: str = TABLE,
        max_age: float | timedelta | None = None,
        create_table: bool = False,
        timeout: float = 2.0,
        clock: Callable[[], float] | None = None,
    ) -> None:
        self.max_age = _seconds("max_age", max_age)
        if not timeout > 0:
            raise ConfigurationError(f"timeout={timeout!r}: give the seconds after which a call is given up")
        self._timeout = timeout
        self._makes_table = create_table
        self._table = session_table(MetaData(), table)
        self._source: _Source
        if isinstance(engine, AsyncEngine):
            self._source = _GivenAwaiting(engine)
        elif isinstance(engine, Engine):
            self._source = _GivenBlocking(engine)
        else:
            self._source = _from_url(engine, timeout)
        self.colour = self._source.colour
        self._statements = _Statements(self._table, _family(self._source.dialect), clock)
        # Its start is left to chance, so that hosts do not sweep at once.
        self._writes = itertools.count(random.randrange(_WRITES_A_SWEEP))  # noqa: S311 - no secret

    async def get(
        self, key: str, expect: Expect, touch: bool = True
    ) -> Fields | Literal[Outcome.MISSING, Outcome.CONFLICT]:
        """Return all fields of the record, and restart its idle clock; see `SessionStore.get`."""
        say = self._statements

        def work(
            connection: Connection, read: Executable
        ) -> Fields | Literal[Outcome.MISSING, Outcome.CONFLICT] | None:
            row = _look(connection, read, key)
            if row is None or row.is_over:
                return MISSING
            fields = row.fields()
            if not _holds(expect, fields):
                return CONFLICT
            if touch and row.touched - row.expires > row.idle / 10:
                moved = {"key": key, "seen": row.stamp, "fresh": _stamp(), "until": row.touched}
                return fields if _send(connection, say.touch, moved) else None
            return fields

        return await self._run(work)

    async def set(self, key: str, fields: Fields, lifetime: Lifetime, expect: Expect | None = None) -> Outcome:
        """Write the whole record anew; see `SessionStore.set`."""
        if expect is None:
            return await self._found(key, _pack(fields), lifetime)
        return await self._rewrite(key, expect, lambda _: fields, lifetime)

    async def merge(
        self,
        key: str,
        changed: Mapping[str, bytes],
        removed: Collection[str],
        expect: Expect,
        lifetime: Lifetime | None = None,
    ) -> Outcome:
        """Write the `changed` fields, drop the `removed` ones, and touch the record; see `SessionStore.merge`."""

        def change(fields: Fields) -> Fields:
            fields.update(changed)
            for name in removed:
                fields.pop(name, None)
            return fields

        return await self._rewrite(key, expect, change, lifetime)

    async def destroy(self, key: str) -> bool:
        """Drop the record; see `SessionStore.destroy`."""

        def work(connection: Connection, _: Executable) -> bool:
            return connection.execute(self._statements.drop, {"key": key}).rowcount > 0

        return await self._run(work)

    async def delete_expired(self, limit: int = 1000) -> int:
        """Delete rows that have expired, at most so many, and return how many there were.

        They go by their keys and in one statement, so no lock is wider than these rows or longer than that.

        Args:
            limit: From 1 to 10,000.
        """
        if not 0 < limit <= _MOST_ROWS_A_SWEEP:
            raise ConfigurationError(f"limit={limit!r}: give the rows to delete at once, 1 to {_MOST_ROWS_A_SWEEP:,}")
        say = self._statements

        def work(connection: Connection, _: Executable) -> int:
            # In one order everywhere, so that two who sweep do not wait for each other crosswise.
            keys = sorted(connection.scalars(say.list_expired, {"most": limit}))
            return connection.execute(say.sweep, {"keys": keys}).rowcount if keys else 0

        return await self._run(work)

    async def create_table(self) -> None:
        """Make the table and its index where they are not there yet."""

        def work(connection: Connection, _: Executable) -> bool | None:
            try:
                self._table.create(connection, checkfirst=True)
            except DBAPIError as error:
                # Somebody makes it at the same moment: then it is there at the next look.
                if error.connection_invalidated or _code(error) in _PASSING:
                    raise
                if connection.dialect.has_table(connection, self._table.name):
                    return None
                raise
            return True

        await self._run(work, in_transaction=False)

    async def close(self) -> None:
        """Close the connections of a store that was made from a URL: those of this loop, if it awaits."""
        await self._source.close()

    # A record founded where there is none.
    async def _found(self, key: str, packed: bytes, lifetime: Lifetime) -> Outcome:
        say = self._statements
        fresh = _stamp()
        lasts = lifetime.idle if lifetime.remaining is None else min(lifetime.idle, lifetime.remaining)
        row = {"packed": packed, "fresh": fresh, "seconds": lifetime.idle, "remaining": lifetime.remaining}

        def work(connection: Connection, read: Executable) -> Outcome | None:
            if connection.execute(say.add, {"key": key, "lasts": lasts, **row}).rowcount == 1:
                return APPLIED
            there = _look(connection, read, key)
            if there is None:
                return None
            # The row of an earlier try, whose answer was lost.
            if there.stamp == fresh:
                return APPLIED
            if not there.is_over:
                return CONFLICT
            connection.execute(say.drop_expired, {"key": key})
            return None

        return await self._run_write(work)

    # A record that is there, read and written back.
    async def _rewrite(
        self, key: str, expect: Expect, change: Callable[[Fields], Fields], lifetime: Lifetime | None
    ) -> Outcome:
        say = self._statements

        def work(connection: Connection, read: Executable) -> Outcome | None:
            row = _look(connection, read, key)
            if row is None or row.is_over:
                return MISSING
            fields = row.fields()
            if not _holds(expect, fields):
                return CONFLICT
            written = {"packed": _pack(change(fields)), "key": key, "seen": row.stamp, "fresh": _stamp()}
            if lifetime is None:
                times = {"seconds": row.idle, "ends": row.deadline, "until": row.touched}
            else:
                ends = None if lifetime.remaining is None else row.now + lifetime.remaining
                soonest = row.now + lifetime.idle
                until = soonest if ends is None else min(soonest, ends)
                times = {"seconds": lifetime.idle, "ends": ends, "until": until}
            return APPLIED if _send(connection, say.write, {**written, **times}) else None

        return await self._run_write(work)

    async def _run_write(self, work: Work[Outcome]) -> Outcome:
        outcome = await self._run(work)
        if outcome is APPLIED and next(self._writes) % _WRITES_A_SWEEP == 0:
            # The write was made, and that is what the caller asked for.
            with suppress(StoreError):
                await self.delete_expired(_ROWS_A_SWEEP)
        return outcome

    async def _run(self, work: Work[T], *, in_transaction: bool = True) -> T:
        try:
            return await self._try(work, may_lock=in_transaction)
        except (SQLAlchemyError, OSError) as error:
            if isinstance(error, StatementError):
                # Its text shows the parameters, which are what visitors entrusted to the application.
                error.hide_parameters = True
            raise StoreError(self._explain(error)) from error

    async def _try(self, work: Work[T], *, may_lock: bool) -> T:
        end = time.monotonic() + self._timeout
        may_make_table = self._makes_table
        may_lose = True
        locks = False
        for attempt in range(_MOST_TRIES):
            try:
                answer = await self._source.run(partial(self._step, work=work, locks=locks), end)
            except DBAPIError as error:
                if may_make_table and _lacks_table(error):
                    may_make_table = False
                    await self.create_table()
                    continue
                if time.monotonic() >= end or not (_is_passing(error) or (error.connection_invalidated and may_lose)):
                    raise
                # With one dead connection the pool drops them all, so the next one is new.
                may_lose = may_lose and not error.connection_invalidated
                locks = may_lock and not error.connection_invalidated
            else:
                if answer is not None:
                    return answer
                locks = may_lock
                if time.monotonic() >= end:
                    break
            # Contention is met with the lock first, and with time after that.
            if attempt:
                await pause(random.uniform(0, min(_LONGEST_PAUSE, 0.002 * 2**attempt)))  # noqa: S311 - no secret
        raise StoreError(f"a session was written by others for {self._timeout:g} s: nothing was written by this call")

    def _step(self, connection: Connection, *, work: Work[T], locks: bool) -> T | None:
        say = self._statements
        if not locks:
            answer = work(connection, say.read)
            self._source.finish(connection)
            return answer
        try:
            _begin(connection, say.begin)
            answer = work(connection, say.read_and_lock)
            _send(connection, "COMMIT", None)
        except BaseException:
            # Whatever it was, no connection goes back to the pool with a transaction open.
            connection.invalidate()
            raise
        return answer

    def _explain(self, error: SQLAlchemyError | OSError) -> str:
        if isinstance(error, DBAPIError):
            if _lacks_table(error):
                return (
                    f"there is no table {self._table.name!r}: call `await store.create_table()` once, "
                    "run what `server_session.stores.sql.ddl` returns, or say create_table=True"
                )
            if _code(error) == _TOO_LARGE:
                return (
                    "the session is larger than the server takes, and nothing was written: "
                    "raise its max_allowed_packet, or keep less in the session"
                )
            if error.connection_invalidated:
                return f"the connection to the database was lost{_hint(self._source.dialect, error)}"
            number = _code(error)
            return f"the database did not do as asked: {type(error.orig).__name__}{f' {number}' if number else ''}"
        if isinstance(error, PoolTimeoutError):
            return f"no connection of the pool came free within its limit: {error}"
        if isinstance(error, TimeoutError):
            return f"the database did not answer within {self._timeout:g} s"
        return f"the database could not be asked: {error}"


def _seconds(name: str, given: float | timedelta | None) -> float | None:
    if given is None:
        return None
    seconds = given.total_seconds() if isinstance(given, timedelta) else given
    if not seconds > 0:
        raise ConfigurationError(f"{name} must be seconds above 0 or a timedelta, not {given!r}")
    return seconds


def _family(dialect: str) -> str:
    family = "mysql" if dialect == "mariadb" else dialect
    if family not in _BEGIN:
        raise ConfigurationError(
            f"sessions cannot be kept in {dialect!r}: the databases are sqlite, postgresql, mysql and mariadb"
        )
    return family


def _stamp() -> int:
    # Not from `random`: forked processes would draw the same numbers, and take each other's writes for their own.
    return secrets.randbits(63)


def _look(connection: Connection, read: Executable, key: str) -> _Seen | None:
    row = connection.execute(read, {"key": key}).one_or_none()
    return None if row is None else _Seen(*row)


def _holds(expect: Expect, fields: Fields) -> bool:
    return all(fields.get(name) == value for name, value in expect.items())


def _send(connection: Connection, statement: Executable | str, parameters: Mapping[str, object] | None) -> bool:
    """Send what must not be sent twice, and tell whether it wrote."""
    try:
        if isinstance(statement, str):
            return connection.exec_driver_sql(statement).rowcount > 0
        return connection.execute(statement, parameters).rowcount > 0
    except DBAPIError as error:
        if not error.connection_invalidated:
            raise
        error.hide_parameters = True
        raise StoreError(
            "the connection to the database was lost while a write was under way, "
            f"which was made or not made{_hint(connection.dialect.name, error)}"
        ) from error


def _hint(dialect: str, error: DBAPIError) -> str:
    if _family(dialect) != "mysql" or (error.statement or "").startswith("SELECT"):
        return ""
    return " (MySQL's servers close it on what is larger than their max_allowed_packet)"


def _begin(connection: Connection, statement: str) -> None:
    # On SQLite a listener of the application's may have sent a BEGIN already.
    connection.begin()
    if not getattr(connection.connection.driver_connection, "in_transaction", False):
        connection.exec_driver_sql(statement)


def _code(error: DBAPIError) -> object:
    """Return the database's own number for an error: MySQL's, an SQLSTATE, or SQLite's."""
    orig = error.orig
    # MySQL's drivers put theirs first, and some have an SQLSTATE too, which says less.
    if orig is not None and orig.args and isinstance(orig.args[0], int):
        return orig.args[0]
    codes = (getattr(orig, name, None) for name in ("sqlstate", "pgcode", "sqlite_errorcode"))
    return next((code for code in codes if code is not None), None)


def _is_passing(error: DBAPIError) -> bool:
    return _code(error) in _PASSING


def _lacks_table(error: DBAPIError) -> bool:
    # SQLite has no number for it.
    return _code(error) in _NO_TABLE or str(error.orig).startswith("no such table")


class _Source:
    """Where connections come from."""

    colour: Colour
    dialect: str

    async def run(self, step: Callable[[Connection], T], end: float) -> T:
        """Run the step over a connection; if it awaits, by this moment of the monotonic clock."""
        raise NotImplementedError

    def finish(self, connection: Connection) -> None:
        """End what one statement may have left open."""
        # An application's listener may have begun a transaction, autocommit notwithstanding.
        connection.commit()

    async def close(self) -> None:
        """Close the connections; an engine that was given is its owner's to close."""


class _Blocking(_Source):
    colour = Colour.BLOCKS

    def engine(self) -> Engine:
        raise NotImplementedError

    async def run(self, step: Callable[[Connection], T], end: float) -> T:  # noqa: ARG002 - the driver has the limits
        with self.engine().connect() as connection:
            return step(connection)


class _Awaiting(_Source):
    colour = Colour.AWAITS

    async def engine(self) -> AsyncEngine:
        raise NotImplementedError

    async def run(self, step: Callable[[Connection], T], end: float) -> T:
        if running_library() == "trio":
            raise ColourError(
                "SQLAlchemy's awaiting engines run under asyncio alone: "
                "under trio give the store a blocking engine, or a URL with a blocking driver"
            )
        engine = await self.engine()
        has_begun = False

        async def whole() -> T:
            nonlocal has_begun
            async with asyncio.timeout(end - time.monotonic()), engine.connect() as connection:
                has_begun = True
                return await connection.run_sync(step)

        # A statement that is broken off costs its connection, and some drivers leave its lock behind. So who is
        # cancelled in the middle of one waits for its answer, which is near, and who has not begun does not begin.
        task = asyncio.ensure_future(whole())
        task.add_done_callback(_take)
        try:
            done, _ = await asyncio.wait({task}, timeout=end - time.monotonic())
        except asyncio.CancelledError:
            if not has_begun:
                task.cancel()
            await asyncio.wait({task}, timeout=end - time.monotonic())
            raise
        if not done:
            # The task has the same limit; what its driver then does to close the connection may take longer.
            raise TimeoutError
        return task.result()


def _take(task: "asyncio.Future[Any]") -> None:
    # So that asyncio does not report a failure that nobody is left to hear of.
    if not task.cancelled():
        task.exception()


class _GivenBlocking(_Blocking):
    def __init__(self, engine: Engine) -> None:
        _refuse_memory(type(engine.pool))
        self.dialect = engine.dialect.name
        self._engine = engine.execution_options(isolation_level="AUTOCOMMIT")

    def engine(self) -> Engine:
        return self._engine


class _GivenAwaiting(_Awaiting):
    def __init__(self, engine: AsyncEngine) -> None:
        _refuse_memory(type(engine.pool))
        self.dialect = engine.dialect.name
        self._engine = engine.execution_options(isolation_level="AUTOCOMMIT")

    async def engine(self) -> AsyncEngine:
        return self._engine


class _Made(_Source):
    def __init__(self, url: URL, dialect: str, settings: dict[str, Any]) -> None:
        self.dialect = dialect
        self._url = url
        self._settings = settings

    def finish(self, connection: Connection) -> None:
        # In autocommit nothing is open, and MySQL's drivers would ask the server all the same.
        pass


class _MadeBlocking(_Made, _Blocking):
    def __init__(self, url: URL, dialect: str, settings: dict[str, Any]) -> None:
        super().__init__(url, dialect, settings)
        self._make()

    def _make(self) -> None:
        self._engine = create_engine(self._url, **self._settings)
        self._process = os.getpid()
        if self._engine.driver == "psycopg":
            event.listen(self._engine, "do_connect", _connect_with_limit(self._settings["pool_timeout"]))

    def engine(self) -> Engine:
        # A forked process must not speak through its parent's connections.
        if self._process != os.getpid():
            self._engine.dispose(close=False)
            self._make()
        return self._engine

    async def close(self) -> None:
        self._engine.dispose()


class _MadeAwaiting(_Made, _Awaiting):
    def __init__(self, url: URL, dialect: str, settings: dict[str, Any]) -> None:
        super().__init__(url, dialect, settings)
        self._leases: dict[asyncio.AbstractEventLoop, tuple[AsyncEngine, AsyncGenerator[AsyncEngine, None]]] = {}
        # Made and dropped, so that a driver that is not there is missed now.
        create_async_engine(url, **settings)

    async def engine(self) -> AsyncEngine:
        loop = asyncio.get_running_loop()
        held = self._leases.get(loop)
        if held is None:
            for closed in [other for other in self._leases if other.is_closed()]:
                self._leases.pop(closed, None)
            lease = self._lease(loop)
            held = self._leases[loop] = (await anext(lease), lease)
        return held[0]

    async def _lease(self, loop: asyncio.AbstractEventLoop) -> AsyncGenerator[AsyncEngine, None]:
        # A loop ends its generators before it is closed, and this one its connections.
        engine = create_async_engine(self._url, **self._settings)
        try:
            yield engine
        finally:
            self._leases.pop(loop, None)
            await engine.dispose()

    async def close(self) -> None:
        held = self._leases.get(asyncio.get_running_loop())
        if held is not None:
            await held[1].aclose()


def _connect_with_limit(seconds: float) -> Callable[..., Any]:
    """Return how to connect by psycopg so that no answer is waited for longer; of itself it waits for ever."""
    import psycopg

    class LimitedConnection(psycopg.Connection[Any]):
        def wait(self, gen: Generator[Any, Any, T], *args: Any, **kwargs: Any) -> T:
            return super().wait(self._limited(gen), *args, **kwargs)

        # psycopg resumes the generator of a command at every event, and with none several times a second.
        def _limited(self, gen: Generator[Any, Any, T]) -> Generator[Any, Any, T]:
            end = time.monotonic() + seconds
            try:
                waits_for = next(gen)
                while True:
                    ready = yield waits_for
                    if not ready and time.monotonic() >= end:
                        gen.close()
                        self.pgconn.finish()
                        raise psycopg.OperationalError(f"the server did not answer within {seconds:g} s")
                    waits_for = gen.send(ready)
            except StopIteration as stop:
                answer: T = stop.value
                return answer

    def connect(_dialect: object, _record: object, arguments: Any, settings: Any) -> Any:
        return LimitedConnection.connect(*arguments, **settings)

    return connect


def _from_url(given: URL | str, timeout: float) -> _Source:
    try:
        url = make_url(given)
        spoken = cast("type[DefaultDialect]", url.get_dialect())
        _family(spoken.name)
        _refuse_memory(spoken.get_pool_class(url))
        limits = _LIMITS.get(spoken.driver)
        settings: dict[str, Any] = {
            "isolation_level": "AUTOCOMMIT",
            "skip_autocommit_rollback": True,
            "hide_parameters": True,
            # Without an overflow, whose connections are made and closed again at each call of a rush.
            "pool_size": _CONNECTIONS_TO_A_FILE if spoken.name == "sqlite" else _CONNECTIONS,
            "max_overflow": 0,
            "pool_timeout": timeout,
            "connect_args": limits(timeout) if limits else {},
        }
        return (_MadeAwaiting if spoken.is_async else _MadeBlocking)(url, spoken.name, settings)
    except ArgumentError as error:
        raise ConfigurationError(
            "the URL of the session database cannot be read: it looks like postgresql+asyncpg://user@host/database, "
            "mysql+pymysql://user:password@host/database or sqlite:///file.db"
        ) from error
    except ModuleNotFoundError as error:
        raise ConfigurationError(f"the driver that the URL asks for is not installed: {error}") from error


def _refuse_memory(pool: type[Pool]) -> None:
    if issubclass(pool, SingletonThreadPool | StaticPool):
        raise ConfigurationError(
            "SQLite in memory has one connection, which calls cannot share, or one for each thread: "
            "use MemorySessionStore, or a file (sqlite:///sessions.db)"
        )

"""The store over its table: each call tried until it was made, refused, or its time is over."""

import itertools
import random
import time
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from datetime import timedelta
from functools import partial
from typing import Final, Literal, TypeAlias, TypeVar

from sqlalchemy import Connection, Engine, Executable, MetaData
from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError, SQLAlchemyError, StatementError
from sqlalchemy.ext.asyncio import AsyncEngine

from server_session._colour import pause
from server_session._durations import seconds_of
from server_session.exceptions import ConfigurationError, StoreError
from server_session.stores._base import (
    APPLIED,
    CONFLICT,
    MISSING,
    Expect,
    Fields,
    Lifetime,
    Outcome,
    SessionStore,
)
from server_session.stores.sql._dialects import family_of
from server_session.stores.sql._errors import explain, is_passing, lacks_table
from server_session.stores.sql._rows import fresh_stamp, holds, pack
from server_session.stores.sql._sources import source_of
from server_session.stores.sql._statements import Statements, begin, look, send
from server_session.stores.sql._table import TABLE, session_table

__all__ = ["SQLSessionStore"]

T = TypeVar("T")

_WRITES_A_SWEEP: Final = 50
_ROWS_A_SWEEP: Final = 100
# Databases bound the number of a statement's parameters.
_MOST_ROWS_A_SWEEP: Final = 10_000

# Of several tries in one call; the time-out may end them sooner.
_MOST_TRIES: Final = 30
_LONGEST_PAUSE: Final = 0.1

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
        self.max_age = None if max_age is None else seconds_of("max_age", max_age)
        if not timeout > 0:
            raise ConfigurationError(f"timeout={timeout!r}: give the seconds after which a call is given up")
        self._timeout = timeout
        self._makes_table = create_table
        self._table = session_table(MetaData(), table)
        self._source = source_of(engine, timeout)
        self.colour = self._source.colour
        self._statements = Statements(self._table, family_of(self._source.dialect), clock)
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
            row = look(connection, read, key)
            if row is None or row.is_over:
                return MISSING
            fields = row.fields()
            if not holds(expect, fields):
                return CONFLICT
            if touch and row.touched - row.expires > row.idle / 10:
                moved = {"key": key, "seen": row.stamp, "fresh": fresh_stamp(), "until": row.touched}
                return fields if send(connection, say.touch, moved) else None
            return fields

        return await self._run(work)

    async def set(self, key: str, fields: Fields, lifetime: Lifetime, expect: Expect | None = None) -> Outcome:
        """Write the whole record anew; see `SessionStore.set`."""
        if expect is None:
            return await self._found(key, pack(fields), lifetime)
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
                if error.connection_invalidated or is_passing(error):
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
        fresh = fresh_stamp()
        lasts = lifetime.idle if lifetime.remaining is None else min(lifetime.idle, lifetime.remaining)
        row = {"packed": packed, "fresh": fresh, "seconds": lifetime.idle, "remaining": lifetime.remaining}

        def work(connection: Connection, read: Executable) -> Outcome | None:
            if connection.execute(say.add, {"key": key, "lasts": lasts, **row}).rowcount == 1:
                return APPLIED
            there = look(connection, read, key)
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
            row = look(connection, read, key)
            if row is None or row.is_over:
                return MISSING
            fields = row.fields()
            if not holds(expect, fields):
                return CONFLICT
            written = {"packed": pack(change(fields)), "key": key, "seen": row.stamp, "fresh": fresh_stamp()}
            if lifetime is None:
                times = {"seconds": row.idle, "ends": row.deadline, "until": row.touched}
            else:
                ends = None if lifetime.remaining is None else row.now + lifetime.remaining
                soonest = row.now + lifetime.idle
                until = soonest if ends is None else min(soonest, ends)
                times = {"seconds": lifetime.idle, "ends": ends, "until": until}
            return APPLIED if send(connection, say.write, {**written, **times}) else None

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
            explained = explain(error, table=self._table.name, dialect=self._source.dialect, timeout=self._timeout)
            raise StoreError(explained) from error

    async def _try(self, work: Work[T], *, may_lock: bool) -> T:
        end = time.monotonic() + self._timeout
        may_make_table = self._makes_table
        may_lose = True
        locks = False
        for attempt in range(_MOST_TRIES):
            try:
                answer = await self._source.run(partial(self._step, work=work, locks=locks), end)
            except DBAPIError as error:
                if may_make_table and lacks_table(error):
                    may_make_table = False
                    await self.create_table()
                    continue
                if time.monotonic() >= end or not (is_passing(error) or (error.connection_invalidated and may_lose)):
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
            begin(connection, say.begin)
            answer = work(connection, say.read_and_lock)
            send(connection, "COMMIT", None)
        except BaseException:
            # Whatever it was, no connection goes back to the pool with a transaction open.
            connection.invalidate()
            raise
        return answer

"""The store over its table: each call tried until it was made, refused, or its time is over."""

import itertools
import math
import random
import secrets
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from functools import partial
from typing import Any, Final, TypeAlias, TypeVar

from sqlalchemy import Connection, Engine, Executable, MetaData
from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine

from server_session._settings import flag_of, seconds_if_given, seconds_of
from server_session.exceptions import ConfigurationError, RecordError, StoreDownError, StoreError
from server_session.stores._base import Batch, Kept, close_store
from server_session.stores._packed import TENTH, Change, Likely, PackedStore, Record, T, is_write, next_try
from server_session.stores._waits import begin_call, is_over
from server_session.stores.sql._errors import explain, is_down, is_passing, means
from server_session.stores.sql._sources import source_of
from server_session.stores.sql._statements import Row, Statements, row_of, send
from server_session.stores.sql._table import TABLE, session_table

__all__ = ["SQLSessionStore"]

R = TypeVar("R")

_WRITES_A_SWEEP: Final = 50
_ROWS_A_SWEEP: Final = 100
# Databases bound the number of a statement's parameters.
_MOST_ROWS_A_SWEEP: Final = 10_000

Work: TypeAlias = Callable[[Connection, Executable], R | None]
"""One try of a call: given a connection and the statement that reads a row. `None` for a race that was lost."""


class SQLSessionStore(PackedStore):
    """Keeps sessions in a table of SQLite, PostgreSQL, MySQL (8 or newer) or MariaDB.

    ```python
    SQLSessionStore("postgresql+asyncpg://shop@db/shop")  # awaits; so do psycopg_async, asyncmy, aiosqlite
    SQLSessionStore("mysql+pymysql://shop@db/shop")       # blocks; so do psycopg, pysqlite
    SQLSessionStore(engine)                               # an Engine blocks, an AsyncEngine awaits
    ```

    The table must be there: make it by `create_table`, by what `ddl` returns, or by Alembic, which is shown it by
    `session_table`; or say `create_table=True`, and it is made when it is found missing.

    A session is a row. A read is one statement, and writes only if that moves the expiry by more than a tenth of the
    idle time: so a session of 30 minutes may expire after 27. A write reads the row and writes it back on condition
    that nobody has written since; where somebody has, it locks the row and does so again. Each statement is a
    transaction of its own, and correct at READ COMMITTED and above. What was not written, for a deadlock or a database
    that is locked, is tried again until the time is over. A write whose answer is lost is a `StoreError`, and it was
    made or not made.

    Times are the database's, so that hosts whose clocks differ agree; that clock must not be set back. Every 50th write
    deletes at most 100 expired rows. What is to be known of engines, limits and poolers is in docs/stores.md.

    Args:
        engine: SQLAlchemy's `Engine` or `AsyncEngine`, or a URL, whose driver says whether calls block or await. From a
            URL with an awaiting driver each event loop gets an engine of its own, which is closed with the loop.
        table: The table's name.
        max_age: Idle seconds, or a timedelta, for sessions of this store; `None` for no opinion.
        create_table: Whether to make the table when it is found missing.
        timeout: Seconds within which a call ends, the wait for a place in the pool included.
        clock: For tests: seconds since any moment, instead of the database's clock.

    Raises:
        ConfigurationError: The URL cannot be read, its driver is not installed, the database is another one, or it
            is SQLite in memory, where each thread would see sessions of its own.
    """

    least_touch = TENTH

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
        self.max_age = seconds_if_given("max_age", max_age)
        self._timeout = seconds_of("timeout", timeout)
        self._makes_table = flag_of("create_table", create_table)
        self._table = session_table(MetaData(), table)
        family, self._source = source_of(engine, self._timeout)
        self.colour = self._source.get().colour
        self._statements = Statements(self._table, family, clock, self._timeout)
        # Its start is left to chance, so that hosts do not sweep at once.
        self._writes = itertools.count(random.randrange(_WRITES_A_SWEEP))  # noqa: S311 - no secret

    @classmethod
    def from_url(cls, url: str, *, create_table: bool = True, **settings: Any) -> "SQLSessionStore":
        """Return the store of a URL, which makes its table: who gives a URL has asked for a store in one line."""
        return cls(url, create_table=create_table, **settings)

    async def swap(self, key: str, change: Change[T], likely: Likely) -> T:
        """Let `change` say what becomes of the record; see `PackedStore.swap`."""
        begin_call(self._timeout)
        # Not from `random`: forked processes would draw the same numbers, and take each other's writes for their own.
        fresh = secrets.randbits(63)
        decision: Any = None

        def work(connection: Connection, read: Executable) -> tuple[T] | None:
            nonlocal decision
            # A new session needs no look first: to add it fails where there is one.
            is_new = likely is Likely.FOUNDS and read is self._statements.read
            found = None if is_new else connection.execute(read, {"key": key}).one_or_none()
            row = None if found is None else row_of(found)
            if row is not None and row.stamp == fresh:
                # What an earlier try of this call decided is written; its answer, or its end, was lost.
                return (decision,)
            # The database's time is not known where nothing was read. Here it is 0, and the row begins at its own.
            record, now = (None, 0.0) if row is None else (row.record, row.now)
            decision = changed = change(record, now)
            if not is_write(changed, record) or self._put(connection, key, row, changed, fresh):
                return (decision,)
            return None

        (decided,) = await self._run(work)
        if isinstance(decided, Record) and likely is not Likely.LOOKS and next(self._writes) % _WRITES_A_SWEEP == 0:
            # The write was made, and that is what the caller asked for.
            with suppress(StoreError):
                await self._run(partial(self._sweep, _ROWS_A_SWEEP))
        return decided

    async def destroy(self, key: str) -> bool:
        """Drop the record; see `SessionStore.destroy`."""
        begin_call(self._timeout)

        def work(connection: Connection, _: Executable) -> bool:
            return connection.execute(self._statements.drop, {"key": key}).rowcount > 0

        return await self._run(work)

    async def delete_expired(self, limit: int = 1000) -> int:
        """Delete rows that have expired, at most so many (from 1 to 10,000), and return how many there were."""
        if not 0 < limit <= _MOST_ROWS_A_SWEEP:
            raise ConfigurationError(f"limit={limit!r}: give the rows to delete at once, 1 to {_MOST_ROWS_A_SWEEP:,}")
        begin_call(self._timeout)
        return await self._run(partial(self._sweep, limit))

    def _sweep(self, limit: int, connection: Connection, _: Executable) -> int:
        # By their keys, so no lock is wider; in one order, so two who sweep do not wait for each other crosswise.
        keys = sorted(connection.scalars(self._statements.list_expired, {"most": limit}))
        return connection.execute(self._statements.sweep, {"keys": keys}).rowcount if keys else 0

    async def list_records(self, after: str = "", most: int = 500) -> Batch:
        """Return some of the records that live, in the order of their keys; see `Listing.list_records`."""
        begin_call(self._timeout)

        def work(connection: Connection, _: Executable) -> Batch:
            found: list[Kept] = []
            unreadable: list[str] = []
            key = None
            for key, *rest in connection.execute(self._statements.list, {"after": after, "most": most}):
                try:
                    row = row_of(rest)
                except RecordError:
                    unreadable.append(key)
                else:
                    found.append(row.record.kept(key, row.now))
            return Batch(found, unreadable, key)

        return await self._run(work)

    async def create_table(self) -> None:
        """Make the table and its index where they are not there yet."""
        begin_call(self._timeout)
        await self._run(self._make_table)

    def _make_table(self, connection: Connection, _: Executable) -> bool:
        try:
            self._table.create(connection, checkfirst=True)
            # A step of its own: who made the table may have been cut off before it.
            for index in self._table.indexes:
                index.create(connection, checkfirst=True)
        except DBAPIError as error:
            # Somebody may have made it at the same moment.
            if error.connection_invalidated or not connection.dialect.has_table(connection, self._table.name):
                raise
        return True

    async def close(self) -> None:
        """Close the connections of a store that was made from a URL: those of this loop, if it awaits."""
        await close_store(self._source.get())

    def _put(self, connection: Connection, key: str, row: Row | None, changed: Record | None, fresh: int) -> bool:
        """Write what became of the record; `False` where somebody has written meanwhile."""
        say = self._statements
        if changed is None:
            # What somebody wrote meanwhile is dropped with it.
            return send(connection, say.drop, {"key": key})
        moved = {"key": key, "fresh": fresh, "until": changed.expires}
        if row is not None and changed.fields is row.record.fields:
            return send(connection, say.touch, {**moved, "seen": row.stamp})
        ends = None if changed.deadline == math.inf else changed.deadline
        whole = {**moved, "packed": self._statements.pack(changed.fields), "seconds": changed.idle, "ends": ends}
        if row is not None:
            return send(connection, say.write, {**whole, "seen": row.stamp})
        if connection.execute(say.add, whole).rowcount == 1:
            return True
        # Somebody was faster, or what stands there has expired.
        connection.execute(say.sweep, {"keys": [key]})
        return False

    async def _run(self, work: Work[R]) -> R:
        """Try this until it was done, refused, or the call's time is over."""
        may_make_table, may_lose, locks, attempt = self._makes_table, True, False, 0
        while True:
            try:
                answer = await self._source.get().run(partial(self._step, work=work, locks=locks))
            except (SQLAlchemyError, OSError) as error:
                if may_make_table and means(error, "no_table"):
                    may_make_table = False
                    await self._run(self._make_table)
                    continue
                has_lost = getattr(error, "connection_invalidated", False)
                if is_over() or not (is_passing(error) or (has_lost and may_lose)):
                    # What a driver says of a statement shows rows and values, which visitors entrusted to the site.
                    cause = None if getattr(error, "statement", None) else error
                    raise (StoreDownError if is_down(error) else StoreError)(explain(error)) from cause
                # With one dead connection the pool drops them all, so the next one is new.
                may_lose = may_lose and not has_lost
                locks = not has_lost
            else:
                if answer is not None:
                    return answer
                locks = True
            # Contention is met with the lock first, and with time after that.
            await next_try(attempt, self._timeout)
            attempt += 1

    def _step(self, connection: Connection, *, work: Work[R], locks: bool) -> R | None:
        say = self._statements
        try:
            if not locks:
                return work(connection, say.read)
            connection.begin()
            # On SQLite a listener of the application's may have sent a BEGIN already.
            if not getattr(connection.connection.driver_connection, "in_transaction", False):
                connection.exec_driver_sql(say.begin)
            answer = work(connection, say.read_and_lock)
            send(connection, say.commit, {})
        except BaseException as error:
            # Whatever it was, no connection goes back to the pool with a transaction open. Nor does one of a replica:
            # it was the primary perhaps, and another connection may find who is now.
            if locks or (isinstance(error, DBAPIError) and means(error, "replica")):
                connection.invalidate()
            raise
        return answer

"""What is said to the database, and how it is sent."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple

import msgspec
from sqlalchemy import (
    ColumnElement,
    Connection,
    Double,
    Executable,
    Insert,
    Table,
    and_,
    bindparam,
    delete,
    func,
    literal_column,
    select,
    text,
    update,
)
from sqlalchemy.dialects import mysql, postgresql, sqlite
from sqlalchemy.exc import DBAPIError

from server_session.exceptions import RecordError, StoreError
from server_session.stores._base import Fields
from server_session.stores._packed import Record
from server_session.stores.sql._errors import explain

__all__ = ["SERVER_TIME", "Row", "Statements", "pack", "row_of", "send"]

pack = msgspec.msgpack.Encoder().encode
_unpack = msgspec.msgpack.Decoder(Fields).decode


SERVER_TIME: Final = {
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
# MySQL's completion_type may have a COMMIT begin another transaction, or end the connection.
_COMMIT: Final = {"mysql": "COMMIT AND NO CHAIN NO RELEASE"}


class Row(NamedTuple):
    """A row as it was read."""

    stamp: int
    now: float
    record: Record


class Statements:
    """The statements of a store: made once, and compiled once by SQLAlchemy.

    Those that may wait for a row tell PostgreSQL for how many seconds: poolers pass no settings on.
    """

    def __init__(self, table: Table, family: str, clock: Callable[[], float] | None, lock_limit: float) -> None:
        now: ColumnElement[float] = (
            literal_column(SERVER_TIME[family], Double)
            if clock is None
            else bindparam("now", callable_=clock, type_=Double)
        )
        column = table.c
        is_key = column.id == bindparam("key")
        limits = []
        if family == "postgresql":
            # A condition that is always true, and holds for the present transaction.
            limits = [text(f"set_config('lock_timeout', '{math.ceil(lock_limit * 1000)}', true) IS NOT NULL")]
        is_mine = and_(is_key, *limits)
        has_expired, is_live = column.expires <= now, column.expires > now
        # The stamp is the lock of a write; the clock is asked again, so that none revives what expired in between.
        as_seen = (is_mine, column.stamp == bindparam("seen"), is_live)
        self.begin, self.commit = _BEGIN[family], text(_COMMIT.get(family, "COMMIT"))
        self.read = select(
            column.stamp, column.idle, column.deadline, column.expires, now.label("now"), column.data
        ).where(is_key, is_live)
        # SQLite has no lock of a row, and SQLAlchemy leaves the words out there.
        self.read_and_lock = self.read.where(*limits).with_for_update()
        self.pack: Callable[[Fields], bytes | str] = pack
        packed: Any = bindparam("packed")
        if family == "mysql":
            # Its drivers write values into the statement, and where the server's sql_mode has NO_BACKSLASH_ESCAPES
            # asyncmy ends bytes at a quote that a visitor typed: what follows would be SQL. Digits have no quote.
            self.pack, packed = lambda fields: pack(fields).hex(), func.unhex(packed)
        whole: dict[str, Any] = {"data": packed, "stamp": bindparam("fresh"), "idle": bindparam("seconds")}
        ends, until = bindparam("ends", type_=Double), bindparam("until", type_=Double)
        self.add = _insert_unless_there(table, family).values(
            id=bindparam("key"), **whole, deadline=now + ends, expires=now + until
        )
        self.write = update(table).where(*as_seen).values(**whole, deadline=ends, expires=until)
        self.touch = update(table).where(*as_seen).values(stamp=bindparam("fresh"), expires=until)
        self.drop = delete(table).where(is_mine, is_live)
        self.list = (
            select(column.id, *self.read.selected_columns)
            .where(column.id > bindparam("after"), is_live)
            .order_by(column.id)
            .limit(bindparam("most"))
        )
        self.list_expired = select(column.id).where(has_expired).order_by(column.expires).limit(bindparam("most"))
        self.sweep = delete(table).where(column.id.in_(bindparam("keys", expanding=True)), has_expired, *limits)


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


def row_of(row: Sequence[Any]) -> Row:
    """Return a row as the statement gave it, read. Raises `RecordError` if it cannot be."""
    stamp, idle, deadline, expires, now, data = row
    try:
        # In SQLite a column takes values of any type.
        ends = math.inf if deadline is None else float(deadline)
        record = Record(float(idle), ends, float(expires), _unpack(data))
    except (msgspec.MsgspecError, TypeError, ValueError) as error:
        raise RecordError(
            "the row of a session cannot be read: its data was damaged, or written by something else"
        ) from error
    return Row(stamp, now, record)


def send(connection: Connection, statement: Executable, parameters: Mapping[str, object]) -> bool:
    """Send what must not be sent twice, and tell whether it wrote."""
    try:
        return connection.execute(statement, parameters).rowcount > 0
    except DBAPIError as error:
        if not error.connection_invalidated:
            raise
        raise StoreError(f"a write was under way, which was made or not made: {explain(error)}") from None

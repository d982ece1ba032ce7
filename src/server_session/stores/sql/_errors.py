"""What the errors of databases and their drivers mean, and what mends them."""

import re
from typing import Final

from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

__all__ = ["MENDS", "explain", "is_down", "is_passing", "means"]

# A deadlock, a serialization failure, a lock that cannot be waited for: nothing was written, and it may be tried again.
# PostgreSQL's and MySQL's, and SQLite's BUSY and LOCKED.
_SQLITE_BUSY: Final = frozenset({"5", "6"})
_PASSING: Final = frozenset({"40001", "40P01", "1213", "1020"}) | _SQLITE_BUSY
# SQLite's for anything, the one by which PgBouncer says all that it says, and MySQL's for any end of a connection.
_VAGUE: Final = frozenset({"1", "08P01", "2013"})

# What is wrong, in a word, by its code (PostgreSQL's, MySQL's, SQLite's primary one) or, where there is none, by words.
_MARKS: Final = {
    "no_table": r"42P01|1146|no such table.*",
    "table_version": r"42703|42804|42883|42P10|22001|23502|1054|1364|1406|19|.*(no such|has no) column.*|ON CONFL.*",
    "pooler": r"42P05|26000|.*(unsupported startup parameter|prepared statement).*",
    "replica": r"25006|1290|1792|1836|8",
    "locked": r"55P03|57014|1205|1969|3024|5|6",
    "disk_full": r"53100|1021|1114|13",
    "connections": r"53300|1040|1203|1226|.*(too many|connection slots|no more connections).*",
    "pool": r"QueuePool limit .*",
    "rights": r"42501|1044|1142",
    "password": r"28P01|28000|1045|1698|.*(authentication|password|pg_hba|no such user|role .* does not exist).*",
    "no_database": r"3D000|1049|.*(no such database|database .* does not exist).*",
    "starting": r"57P0[1-3]|1047|.*(starting up|shutting down|login has been failing).*",
    "unreachable": r"2003|.*(refused|Connect call failed|resolve|not known).*",
    "certificate": r".*(certificate|No such file).*",
    "no_file": r"14",
    "too_large": r"1153|2006|Lost connection.*",
    "late": r"TimeoutError|.*(did not answer|timeout expired).*",
}
# What these say of a statement names tables, columns and rights, and no values.
MENDS: Final = {
    "no_table": "there is no table of sessions: call `await store.create_table()` once, run what "
    "`server_session.stores.sql.ddl` returns, or say create_table=True",
    "table_version": "the table is of another version, or another program's: compare it with what "
    "`server_session.stores.sql.ddl` returns",
    "pooler": "a pooler stands before the database: end the URL with ?pgbouncer=true and take psycopg "
    "(postgresql+psycopg, or postgresql+psycopg_async to await), not asyncpg",
    "replica": "the database is read-only, a replica perhaps: name the one that takes writes",
    "locked": "others held a lock to the end of the time: look for a transaction that was left open",
    "disk_full": "the database's disk is full: make room there",
    "connections": "the database takes no more connections: let it take more, run fewer processes, or give the store "
    "an engine with a smaller pool_size",
    "pool": "no connection of the pool came free: give an engine with a larger pool_size, or more time",
    "rights": "the user lacks a right: grant SELECT, INSERT, UPDATE and DELETE on the table, and CREATE to who makes "
    "it",
    "password": "the database does not let this user in: look at user and password, and at whether it asks for TLS",
    "no_database": "there is no such database: create it, or name it",
    "starting": "the database is starting, stopping or down",
    "unreachable": "the database cannot be reached: does it run, there?",
    "certificate": "a file that the URL names (a socket, an authority) is not there, or the database's certificate is "
    "by another authority",
    "no_file": "the file cannot be opened: is its directory there, and may this process write to it?",
    "too_large": "the connection was lost, or the session is larger than the server's max_allowed_packet: raise that, "
    "or keep less in the session",
    "late": "the database did not answer in time, or no connection of the pool came free",
}
_LONGEST: Final = 300


def explain(error: SQLAlchemyError | OSError) -> str:
    """Say what went wrong, what mends it, and what the server said, and nothing of what the session holds."""
    code, said = _told(error)
    known = next((mend for kind, mend in MENDS.items() if means(error, kind)), None)
    if getattr(error, "statement", None) and not (known and code):
        # What else is said of a statement may quote its values.
        said = re.sub(r"['\"`].*", "…", said, flags=re.DOTALL)
    # The lines after the first may show the row.
    line = said.partition("\n")[0][:_LONGEST]
    return f"{known or 'the database did not do as asked'} (it said: {line}{code and f' [{code}]'})"


def _told(error: SQLAlchemyError | OSError) -> tuple[str, str]:
    """Return the database's own number for an error, or "" where it says nothing, and the words."""
    orig = getattr(error, "orig", None)
    said = (orig or error).args or (type(error).__name__,)
    # MySQL's drivers put their number first, and some have an SQLSTATE too, which says less.
    code = said[0] if orig and isinstance(said[0], int) else getattr(orig, "sqlite_errorcode", 0) & 0xFF
    code = str(code or getattr(orig, "sqlstate", None) or getattr(orig, "pgcode", None) or "")
    return "" if code in _VAGUE else code, str(said[-1])


def is_down(error: SQLAlchemyError | OSError) -> bool:
    """Whether the database could not be asked, or did not answer: another call will most likely fare no better."""
    if isinstance(error, DBAPIError):
        # Where there was no statement yet nobody could connect; and SQLite has one lock for all.
        return error.connection_invalidated or error.statement is None or _told(error)[0] in _SQLITE_BUSY
    return isinstance(error, PoolTimeoutError | OSError)


def is_passing(error: SQLAlchemyError | OSError) -> bool:
    """Whether nothing was written, and the same may be tried again."""
    return _told(error)[0] in _PASSING


def means(error: SQLAlchemyError | OSError, kind: str) -> bool:
    """Whether the error is of this kind, one of `MENDS`."""
    code, said = _told(error)
    return re.fullmatch(_MARKS[kind], code or said, re.DOTALL) is not None

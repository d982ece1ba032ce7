"""What the errors of databases and their drivers mean."""

from typing import Final

from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from server_session.stores.sql._table import family_of

__all__ = ["explain", "hint_of", "is_passing", "lacks_table"]

# A deadlock, a serialization failure, a lock that cannot be waited for: nothing was written, and it may be tried again.
# PostgreSQL's, MySQL's, then SQLite's BUSY and LOCKED, plain and extended.
_PASSING: Final = frozenset({"40001", "40P01", 1213, 1020, 5, 261, 517, 773, 6, 262})
_NO_TABLE: Final = frozenset({"42P01", 1146})
_TOO_LARGE: Final = 1153


def explain(error: SQLAlchemyError | OSError, *, table: str, dialect: str, timeout: float) -> str:
    """Say what went wrong and what to do about it, and nothing of what the session holds."""
    if isinstance(error, DBAPIError):
        if lacks_table(error):
            return (
                f"there is no table {table!r}: call `await store.create_table()` once, "
                "run what `server_session.stores.sql.ddl` returns, or say create_table=True"
            )
        if _code(error) == _TOO_LARGE:
            return (
                "the session is larger than the server takes, and nothing was written: "
                "raise its max_allowed_packet, or keep less in the session"
            )
        if error.connection_invalidated:
            return f"the connection to the database was lost{hint_of(dialect, error)}"
        number = _code(error)
        return f"the database did not do as asked: {type(error.orig).__name__}{f' {number}' if number else ''}"
    if isinstance(error, PoolTimeoutError):
        return f"no connection of the pool came free within its limit: {error}"
    if isinstance(error, TimeoutError):
        return f"the database did not answer within {timeout:g} s"
    return f"the database could not be asked: {error}"


def hint_of(dialect: str, error: DBAPIError) -> str:
    """Say what else a lost connection may mean, if anything."""
    if family_of(dialect) != "mysql" or (error.statement or "").startswith("SELECT"):
        return ""
    return " (MySQL's servers close it on what is larger than their max_allowed_packet)"


def _code(error: DBAPIError) -> object:
    """Return the database's own number for an error: MySQL's, an SQLSTATE, or SQLite's."""
    orig = error.orig
    # MySQL's drivers put theirs first, and some have an SQLSTATE too, which says less.
    if orig is not None and orig.args and isinstance(orig.args[0], int):
        return orig.args[0]
    codes = (getattr(orig, name, None) for name in ("sqlstate", "pgcode", "sqlite_errorcode"))
    return next((code for code in codes if code is not None), None)


def is_passing(error: DBAPIError) -> bool:
    """Whether nothing was written, and the same may be tried again."""
    return _code(error) in _PASSING


def lacks_table(error: DBAPIError) -> bool:
    """Whether the table is not there."""
    # SQLite has no number for it.
    return _code(error) in _NO_TABLE or str(error.orig).startswith("no such table")

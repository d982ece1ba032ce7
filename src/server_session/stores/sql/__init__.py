"""Sessions in a SQL database, by SQLAlchemy Core: SQLite, PostgreSQL, MySQL and MariaDB.

A session is a row, its fields packed in one column. A read is one statement; a write is two, the row is read and then
written back if its stamp is still the same. Whoever loses such a race takes the row's lock for a second try.
"""

from server_session.stores.sql._store import SQLSessionStore
from server_session.stores.sql._table import ddl, session_table

__all__ = ["SQLSessionStore", "ddl", "session_table"]

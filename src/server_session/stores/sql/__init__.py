"""Sessions in a SQL database, by SQLAlchemy Core: SQLite, PostgreSQL, MySQL and MariaDB."""

from server_session.stores.sql._store import SQLSessionStore
from server_session.stores.sql._table import ddl, session_table

__all__ = ["SQLSessionStore", "ddl", "session_table"]

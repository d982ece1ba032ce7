"""What can be wrong with a database, and with the table of sessions in it."""

import time
from pathlib import Path
from typing import Any, Final

from sqlalchemy import Connection, Double, Executable, func, inspect, literal_column, select, text

from server_session.cli.doctor._disk import look_at_rights, look_at_room
from server_session.cli.doctor._findings import Report, Severity
from server_session.stores._waits import begin_call
from server_session.stores.sql._errors import MENDS
from server_session.stores.sql._statements import SERVER_TIME
from server_session.stores.sql._table import family_of

__all__ = ["MENDS", "look"]

_MANY: Final = 10_000


async def look(store: Any, report: Report) -> None:
    """Ask the database about its clock, its table and its disk."""
    begin_call(store._timeout)
    table = store._table

    def work(connection: Connection, _: Executable) -> bool:
        family = family_of(connection.dialect.name)
        report.facts |= {"server": _server(connection), "table": table.name}
        before = time.time()
        there = connection.scalar(select(literal_column(SERVER_TIME[family], Double)))
        report.compare_clocks(float(there or 0.0), before)
        if table.name not in inspect(connection).get_table_names():
            return True
        _look_at_table(connection, table, report)
        if family == "postgresql":
            _look_at_postgresql(connection, table, report)
        elif family == "mysql":
            _look_at_mysql(connection, table, report)
        else:
            _look_at_sqlite(connection, report)
        return True

    await store._run(work)


def _look_at_table(connection: Connection, table: Any, report: Report) -> None:
    looked_at = inspect(connection)
    there = {column["name"] for column in looked_at.get_columns(table.name)}
    if missing := {column.name for column in table.columns} - there:
        what, _, mend = MENDS["table_version"].partition(": ")
        report.find("table_version", Severity.ERROR, f"{what}: it has no {', '.join(sorted(missing))}", mend)
        return
    if not any(index["column_names"][:1] == ["expires"] for index in looked_at.get_indexes(table.name)):
        report.find(
            "no_index",
            Severity.WARNING,
            "the table has no index on expires: each look for expired rows reads all of it",
            f"CREATE INDEX {table.name}_expires ON {table.name} (expires)",
        )
    now = literal_column(SERVER_TIME[family_of(connection.dialect.name)], Double)
    expired = select(table.c.id).where(table.c.expires <= now).limit(_MANY).subquery()
    if (connection.scalar(select(func.count()).select_from(expired)) or 0) >= _MANY:
        report.find(
            "unswept",
            Severity.NOTE,
            f"{_MANY:,} rows or more have expired and are still there, for almost nobody writes",
            "run server-session sweep now and then",
        )


def _look_at_postgresql(connection: Connection, table: Any, report: Report) -> None:
    if connection.scalar(text("SHOW fsync")) == "off":
        report.find(
            "not_durable",
            Severity.WARNING,
            "fsync is off: a loss of power can damage the whole database",
            "set fsync = on in postgresql.conf",
        )
    elif connection.scalar(text("SHOW synchronous_commit")) == "off":
        report.find(
            "not_durable",
            Severity.NOTE,
            "synchronous_commit is off: after a crash the writes of the last moments may be missing, log-outs too",
            "set synchronous_commit = on in postgresql.conf",
        )
    asked = text("SELECT relpersistence FROM pg_class WHERE oid = CAST(:name AS regclass)")
    if connection.scalar(asked, {"name": connection.dialect.identifier_preparer.quote(table.name)}) in ("u", b"u"):
        report.find(
            "unlogged",
            Severity.WARNING,
            "the table is UNLOGGED: after a crash it is empty, and everybody is logged out",
            f"ALTER TABLE {table.name} SET LOGGED",
        )


def _look_at_mysql(connection: Connection, table: Any, report: Report) -> None:
    engine = inspect(connection).get_table_options(table.name).get("mysql_engine")
    if engine != "InnoDB":
        report.find(
            "engine",
            Severity.WARNING,
            f"the table's engine is {engine}, and not InnoDB: after a crash it may be damaged, or empty",
            f"ALTER TABLE {table.name} ENGINE=InnoDB",
        )
    elif (flush := connection.scalar(text("SELECT @@innodb_flush_log_at_trx_commit"))) != 1:
        report.find(
            "not_durable",
            Severity.NOTE,
            f"innodb_flush_log_at_trx_commit is {flush}: after a crash the writes of the last second may be missing, "
            "log-outs too",
            "set innodb_flush_log_at_trx_commit = 1 in the server's settings",
        )
    settings: dict[str, str] = dict(connection.execute(text("SHOW VARIABLES LIKE 'wsrep_%'")).all())
    # Of its bits the first is for reads.
    if settings.get("wsrep_on") == "ON" and not int(settings["wsrep_sync_wait"]) & 1:
        report.find(
            "stale_reads",
            Severity.WARNING,
            "it is a node of a Galera cluster, and wsrep_sync_wait is off: for a moment another node still has a "
            "session that was ended here",
            "set wsrep_sync_wait = 1 in the settings of each node, or let all processes use one node",
        )


def _look_at_sqlite(connection: Connection, report: Report) -> None:
    mode = connection.scalar(text("PRAGMA journal_mode"))
    report.facts["journal"] = mode
    if mode != "wal":
        report.find(
            "journal",
            Severity.WARNING,
            f"journal_mode is {mode}: who reads waits for who writes",
            "PRAGMA journal_mode=WAL, once; it stays with the file",
        )
    # Asked, for the URL may have a URI of SQLite in the place of a path.
    if file := connection.scalar(text("SELECT file FROM pragma_database_list WHERE name = 'main'")):
        look_at_rights(Path(file), report)
        look_at_room(Path(file), report)


def _server(connection: Connection) -> str:
    dialect = connection.dialect
    # One dialect serves both.
    name = "mariadb" if getattr(dialect, "is_mariadb", False) else dialect.name
    return f"{name} {'.'.join(map(str, dialect.server_version_info or ()))}"

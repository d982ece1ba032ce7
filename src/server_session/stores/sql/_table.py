"""The table of sessions, and the databases that it can be in."""

from typing import Final

from sqlalchemy import BigInteger, Column, Double, Index, LargeBinary, MetaData, String, Table
from sqlalchemy.dialects import mysql, postgresql
from sqlalchemy.engine import URL
from sqlalchemy.schema import CreateIndex, CreateTable, ExecutableDDLElement

from server_session.exceptions import ConfigurationError

__all__ = ["TABLE", "ddl", "family_of", "session_table"]

TABLE: Final = "server_sessions"


def family_of(dialect: str) -> str:
    """Return the dialect whose SQL this one takes: MySQL's for MariaDB; else its own."""
    family = "mysql" if dialect == "mariadb" else dialect
    if family not in ("sqlite", "postgresql", "mysql"):
        raise ConfigurationError(
            f"sessions cannot be kept in {dialect!r}: the databases are sqlite, postgresql, mysql and mariadb"
        )
    return family


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
    family_of(dialect)
    speaker = URL.create(dialect).get_dialect()()
    described = session_table(MetaData(), table)
    statements: list[ExecutableDDLElement] = [CreateTable(described), *map(CreateIndex, described.indexes)]
    return "\n\n".join(f"{str(statement.compile(dialect=speaker)).strip()};" for statement in statements) + "\n"

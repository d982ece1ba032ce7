"""What the databases call the same things."""

from typing import Final

from server_session.exceptions import ConfigurationError

__all__ = ["BEGIN", "SERVER_TIME", "family_of"]

SERVER_TIME: Final = {
    "sqlite": "(julianday('now') - 2440587.5) * 86400.0",
    "postgresql": "CAST(extract(epoch FROM statement_timestamp()) AS double precision)",
    # UTC, for the local time of a session occurs twice when summer time ends.
    "mysql": "timestampdiff(MICROSECOND, '1970-01-01', utc_timestamp(6)) / 1e6",
}

BEGIN: Final = {
    # The write lock at once: a transaction that has read cannot wait for it, it fails.
    "sqlite": "BEGIN IMMEDIATE",
    # Whoever waited for a row's lock sees the row as it then is.
    "postgresql": "BEGIN ISOLATION LEVEL READ COMMITTED",
    "mysql": "START TRANSACTION",
}


def family_of(dialect: str) -> str:
    """Return the dialect whose words this one speaks."""
    family = "mysql" if dialect == "mariadb" else dialect
    if family not in BEGIN:
        raise ConfigurationError(
            f"sessions cannot be kept in {dialect!r}: the databases are sqlite, postgresql, mysql and mariadb"
        )
    return family

"""What a URL may ask of a driver: what it does not know, or would not see, is refused by name."""

import inspect
from collections.abc import Callable, Collection
from importlib import import_module
from typing import Any, Final

from sqlalchemy.engine import URL
from sqlalchemy.engine.default import DefaultDialect
from sqlalchemy.exc import ArgumentError

from server_session.exceptions import ConfigurationError
from server_session.stores._parameters import refusal_of

__all__ = ["check_parameters", "connect_clearly", "unreadable"]


def _of_libpq(_url: URL) -> Collection[str]:
    return [option.keyword.decode() for option in import_module("psycopg.pq").Conninfo.get_defaults()]


def _of_signature(module: str, *further: str) -> Callable[[URL], Collection[str]]:
    return lambda _url: {*inspect.signature(import_module(module).connect).parameters, *further}


def _of_sqlite(url: URL) -> Collection[str]:
    # SQLAlchemy and SQLite drop what they do not know.
    known = ("uri", "isolation_level", "detect_types", "check_same_thread", "cached_statements")
    is_uri = str(url.query.get("uri")).lower() in ("true", "yes", "on", "y", "t", "1")
    return (*known, "vfs", "mode", "cache", "psow", "nolock", "immutable") if is_uri else known


# What SQLAlchemy itself takes out of a URL.
_OF_TLS: Final = ("ssl_ca", "ssl_key", "ssl_cert", "ssl_capath", "ssl_cipher", "ssl_check_hostname")

_KNOWN: Final = {
    **dict.fromkeys(("psycopg", "psycopg_async"), _of_libpq),
    "asyncpg": _of_signature("asyncpg", "prepared_statement_cache_size"),
    "pymysql": _of_signature("pymysql", *_OF_TLS),
    "asyncmy": _of_signature("asyncmy", *_OF_TLS),
    **dict.fromkeys(("pysqlite", "aiosqlite"), _of_sqlite),
}


def check_parameters(spoken: type[DefaultDialect], url: URL, own: Collection[str]) -> None:
    """Refuse by name what the driver does not know, or would not see, as it is the store's `own`."""
    known = _KNOWN.get(spoken.driver)
    for name in url.query:
        if name in own:
            raise refusal_of(name, "is the store's to set: give it a `timeout`, or an engine of your own")
        if known is not None and name not in known(url):
            raise refusal_of(name, f"is not known to {spoken.driver}")
        # PyMySQL gets it as text, and any text switches TLS off.
        if name == "ssl_disabled" and url.query[name] != "true":
            raise refusal_of(name, "can be true, or left out")


def unreadable(spoken: type[DefaultDialect], url: URL) -> ConfigurationError | None:
    """Return the refusal of the parameter that cannot be read; `None` where it is another part of the URL."""
    for name, value in url.query.items():
        try:
            spoken().create_connect_args(URL.create(url.drivername, query={name: value}))
        except (ArgumentError, ValueError):
            return refusal_of(name, "has a value that cannot be read")
    return None


def connect_clearly(names: Collection[str]) -> Callable[..., Any]:
    """Return how to connect so that a value which the driver only then looks at is a fault of the URL."""

    def connect(dialect: DefaultDialect, _record: object, arguments: Any, settings: Any) -> Any:
        try:
            return dialect.connect(*arguments, **settings)
        except (TypeError, ValueError, AttributeError, ArithmeticError) as error:
            # A certificate that is not trusted is a ValueError as well as an OSError.
            if not names or isinstance(error, OSError):
                raise
            raise ConfigurationError(
                f"the driver cannot connect with what the URL asks for ({', '.join(names)}): {error}"
            ) from error

    return connect

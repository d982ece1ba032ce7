"""What is known of each driver: how it is told the limits of its waits, and what a URL may ask of it."""

import inspect
import math
from collections.abc import Callable, Collection, Generator
from importlib import import_module
from typing import Any, Final, NamedTuple, TypeAlias, TypeVar

from sqlalchemy import Engine, event
from sqlalchemy.engine import URL
from sqlalchemy.engine.default import DefaultDialect
from sqlalchemy.exc import ArgumentError

from server_session.exceptions import ConfigurationError
from server_session.stores._parameters import refusal_of
from server_session.stores._waits import AT_ONCE, is_over, left, next_wait

__all__ = ["connect_by_url", "limits_of"]

T = TypeVar("T")
Limits: TypeAlias = Callable[[float], dict[str, Any]]


def _libpq_limits(seconds: float) -> dict[str, Any]:
    milliseconds = math.ceil(seconds * 1000)
    return {
        # libpq takes whole seconds, and no fewer than two.
        "connect_timeout": max(2, math.ceil(seconds)),
        "tcp_user_timeout": milliseconds,
        # Of a database in SQL_ASCII psycopg would take text for bytes, and SQLAlchemy does not get past the version.
        "options": f"-c statement_timeout={milliseconds} -c client_encoding=utf8",
    }


def _pooled_limits(seconds: float) -> dict[str, Any]:
    # A pooler passes no settings on, and in transaction mode keeps no statement for its next use.
    return {**_libpq_limits(seconds), "options": "", "client_encoding": "utf8", "prepare_threshold": None}


def _asyncpg_limits(seconds: float) -> dict[str, Any]:
    settings = {"statement_timeout": str(math.ceil(seconds * 1000))}
    return {"timeout": seconds, "command_timeout": seconds, "server_settings": settings}


def _mysql_limits(seconds: float) -> dict[str, Any]:
    # InnoDB takes whole seconds.
    wait = f"SET SESSION innodb_lock_wait_timeout = {max(1, math.floor(seconds))}"
    return {"connect_timeout": math.ceil(seconds), "init_command": wait}


def _pymysql_limits(seconds: float) -> dict[str, Any]:
    return {**_mysql_limits(seconds), "connect_timeout": seconds, "read_timeout": seconds, "write_timeout": seconds}


def _of_libpq(_url: URL) -> Collection[str]:
    return [option.keyword.decode() for option in import_module("psycopg.pq").Conninfo.get_defaults()]


def _of_signature(module: str, *further: str) -> Callable[[URL], Collection[str]]:
    return lambda _url: {*inspect.signature(import_module(module).connect).parameters, *further}


def _of_sqlite(url: URL) -> Collection[str]:
    # SQLAlchemy and SQLite drop what they do not know.
    known = ("uri", "isolation_level", "detect_types", "check_same_thread", "cached_statements")
    is_uri = str(url.query.get("uri")).lower() in ("true", "yes", "on", "y", "t", "1")
    return (*known, "vfs", "mode", "cache", "psow", "nolock", "immutable") if is_uri else known


def limits_of(spoken: type[DefaultDialect], url: URL, seconds: float, has_pooler: bool) -> dict[str, Any]:
    """Return what to connect with, so that no wait takes longer.

    Raises:
        ConfigurationError: The driver cannot go through a pooler; or a parameter of the URL, by name, is one that it
            does not know or cannot read, or would not see, as it is among the limits.
    """
    driver = _DRIVERS.get(spoken.driver, _Driver())
    limits_in = driver.limits_through_pooler if has_pooler else driver.limits
    if limits_in is None:
        raise ConfigurationError(
            "pgbouncer=true in the URL is for psycopg: take postgresql+psycopg, or postgresql+psycopg_async to await; "
            "asyncpg cannot go through a pooler in transaction mode"
        )
    limits = limits_in(seconds)
    for name, value in url.query.items():
        if name in limits:
            raise refusal_of(name, "is the store's to set: give it a `timeout`, or an engine of your own")
        if driver.known is not None and name not in driver.known(url):
            raise refusal_of(name, f"is not known to {spoken.driver}")
        # PyMySQL gets it as text, and any text switches TLS off.
        if name == "ssl_disabled" and value != "true":
            raise refusal_of(name, "can be true, or left out")
        # SQLite takes some beside `uri` alone.
        beside = {key: url.query[key] for key in url.query.keys() & {name, "uri"}}
        try:
            spoken().create_connect_args(url.set(query=beside))
        except (ArgumentError, ValueError):
            raise refusal_of(name, "has a value that cannot be read") from None
    return limits


def connect_by_url(engine: Engine, names: Collection[str]) -> None:
    """Let an engine connect as its URL and the limits of a call ask.

    Where its driver blocks and has a way each wait takes no longer than what its call has left. A parameter of the URL,
    of which these are the names, may have a value at which the driver only looks when it connects: then that is told.
    """
    limited = _DRIVERS.get(engine.driver, _Driver()).limited
    connect = engine.dialect.connect if limited is None or engine.dialect.is_async else limited()
    if engine.driver == "pysqlite":
        event.listen(engine, "before_cursor_execute", _limit_sqlite)

    def connect_clearly(_dialect: object, _record: object, arguments: Any, settings: Any) -> Any:
        try:
            return connect(*arguments, **settings)
        except (TypeError, ValueError, AttributeError, ArithmeticError) as error:
            # A certificate that is not trusted is a ValueError as well as an OSError.
            if not names or isinstance(error, OSError):
                raise
            raise ConfigurationError(
                f"the driver cannot connect with what the URL asks for ({', '.join(names)}): {error}"
            ) from error

    event.listen(engine, "do_connect", connect_clearly)


def _limit_sqlite(connection: Any, *_: object) -> None:
    driver, seconds = connection.connection, left()
    # To say it costs as much as to read a row, and most calls have their whole limit.
    if abs(seconds - driver.info.get("limit", math.inf)) > AT_ONCE:
        driver.driver_connection.execute(f"PRAGMA busy_timeout = {math.ceil(seconds * 1000)}")
        driver.info["limit"] = seconds


def _limited_pymysql() -> Callable[..., Any]:
    """Return how to connect by PyMySQL so that nothing is waited for longer; of itself it counts anew at each piece."""
    from pymysql.connections import Connection
    from pymysql.constants.CR import CR_SERVER_LOST
    from pymysql.err import OperationalError

    # It has no public words for its waits.
    base: Any = Connection

    class LimitedConnection(base):  # type: ignore[misc]
        def _read_bytes(self, num_bytes: int) -> bytes:
            read = b""
            try:
                while missing := num_bytes - len(read):
                    self._sock.settimeout(next_wait())
                    piece = self._rfile.read1(missing)
                    if not piece:
                        raise ConnectionResetError
                    read += piece
            except OSError as error:
                self._force_close()
                is_late = isinstance(error, TimeoutError)
                said = "the server did not answer in time" if is_late else f"Lost connection to the server ({error})"
                raise OperationalError(CR_SERVER_LOST, said) from error
            return read

        def _write_bytes(self, data: bytes) -> None:
            self._write_timeout = left()
            super()._write_bytes(data)

    def connect(*arguments: Any, **settings: Any) -> Any:
        return LimitedConnection(*arguments, **settings | {"connect_timeout": left()})

    return connect


def _limited_psycopg() -> Callable[..., Any]:
    """Return how to connect by psycopg so that nothing is waited for longer; of itself it waits for ever."""
    import psycopg

    class LimitedConnection(psycopg.Connection[Any]):
        @classmethod
        def _connect_gen(cls, *args: Any, **kwargs: Any) -> Any:
            return _limited(super()._connect_gen(*args, **kwargs), lambda: None)

        def wait(self, gen: Generator[Any, Any, T], *args: Any, **kwargs: Any) -> T:
            return super().wait(_limited(gen, self.pgconn.finish), *args, **kwargs)

    # psycopg resumes a generator at every event, and with none several times a second.
    def _limited(gen: Generator[Any, Any, T], finish: Callable[[], object]) -> Generator[Any, Any, T]:
        try:
            waits_for = next(gen)
            while True:
                ready = yield waits_for
                if not ready and is_over():
                    raise TimeoutError  # noqa: TRY301 - as one that came too late
                next_wait()
                waits_for = gen.send(ready)
        except StopIteration as stop:
            answer: T = stop.value
            return answer
        except TimeoutError as error:
            gen.close()
            finish()
            raise psycopg.OperationalError("the server did not answer in time") from error

    return LimitedConnection.connect


class _Driver(NamedTuple):
    limits: Limits = lambda _: {}
    known: Callable[[URL], Collection[str]] | None = None
    """The parameters that it knows; `None` where that cannot be told."""
    limits_through_pooler: Limits | None = None
    limited: Callable[[], Callable[..., Any]] | None = None
    """Returns how to connect by it, where it blocks, so that nothing is waited for longer."""


# What SQLAlchemy itself takes out of a URL.
_OF_TLS: Final = ("ssl_ca", "ssl_key", "ssl_cert", "ssl_capath", "ssl_cipher", "ssl_check_hostname")

_DRIVERS: Final = {
    "psycopg": _Driver(_libpq_limits, _of_libpq, _pooled_limits, _limited_psycopg),
    "psycopg2": _Driver(_libpq_limits),
    "asyncpg": _Driver(_asyncpg_limits, _of_signature("asyncpg", "prepared_statement_cache_size")),
    "pymysql": _Driver(_pymysql_limits, _of_signature("pymysql", *_OF_TLS), limited=_limited_pymysql),
    "asyncmy": _Driver(_mysql_limits, _of_signature("asyncmy", *_OF_TLS)),
    "mysqldb": _Driver(_mysql_limits),
    **dict.fromkeys(("pysqlite", "aiosqlite"), _Driver(lambda seconds: {"timeout": seconds}, _of_sqlite)),
}

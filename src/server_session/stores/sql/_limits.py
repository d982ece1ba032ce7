"""How long a driver may wait for the database, be a pooler between or not."""

import math
from collections.abc import Callable, Generator, Mapping
from typing import Any, Final, TypeAlias, TypeVar

from sqlalchemy import ColumnElement, Engine, event, func

from server_session.stores._waits import AT_ONCE, is_over, left

__all__ = ["LIMITS", "LIMITS_THROUGH_POOLER", "keep_to_the_end", "lock_limit"]

T = TypeVar("T")
Limits: TypeAlias = Mapping[str, Callable[[float], dict[str, Any]]]


def _libpq_limits(seconds: float) -> dict[str, Any]:
    milliseconds = math.ceil(seconds * 1000)
    return {
        # libpq takes whole seconds, and no fewer than two.
        "connect_timeout": max(2, math.ceil(seconds)),
        "tcp_user_timeout": milliseconds,
        "options": f"-c statement_timeout={milliseconds} -c lock_timeout={milliseconds}",
    }


def _pooled_limits(seconds: float) -> dict[str, Any]:
    # A pooler passes no settings on, and in transaction mode keeps no statement for its next use.
    return {**_libpq_limits(seconds), "options": "", "prepare_threshold": None}


def _asyncpg_limits(seconds: float) -> dict[str, Any]:
    milliseconds = str(math.ceil(seconds * 1000))
    settings = {"statement_timeout": milliseconds, "lock_timeout": milliseconds}
    return {"timeout": seconds, "command_timeout": seconds, "server_settings": settings}


def _mysql_limits(seconds: float) -> dict[str, Any]:
    # InnoDB takes whole seconds.
    wait = f"SET SESSION innodb_lock_wait_timeout = {max(1, math.floor(seconds))}"
    return {"connect_timeout": math.ceil(seconds), "init_command": wait}


def _pymysql_limits(seconds: float) -> dict[str, Any]:
    return {**_mysql_limits(seconds), "connect_timeout": seconds, "read_timeout": seconds, "write_timeout": seconds}


# What each driver calls the limits of its waits.
LIMITS: Final[Limits] = {
    **dict.fromkeys(("psycopg", "psycopg_async", "psycopg2"), _libpq_limits),
    "asyncpg": _asyncpg_limits,
    "pymysql": _pymysql_limits,
    **dict.fromkeys(("aiomysql", "asyncmy", "mysqldb"), _mysql_limits),
    **dict.fromkeys(("pysqlite", "aiosqlite"), lambda seconds: {"timeout": seconds}),
}
LIMITS_THROUGH_POOLER: Final[Limits] = dict.fromkeys(("psycopg", "psycopg_async"), _pooled_limits)


def lock_limit(seconds: float) -> ColumnElement[bool]:
    """Return a condition, always true, that limits the waits for rows in the present transaction of PostgreSQL."""
    return func.set_config("lock_timeout", str(math.ceil(seconds * 1000)), True).is_not(None)


def keep_to_the_end(engine: Engine) -> None:
    """Let each wait of a blocking engine take no longer than what its call has left, where the driver has a way."""
    if engine.driver == "psycopg":
        event.listen(engine, "do_connect", _connect_psycopg())
    elif engine.driver == "pymysql":
        event.listen(engine, "do_connect", _limit_connecting)
        event.listen(engine, "before_cursor_execute", _limit_pymysql)
    elif engine.driver == "pysqlite":
        event.listen(engine, "before_cursor_execute", _limit_sqlite)


def _limit_connecting(_dialect: object, _record: object, _arguments: object, settings: dict[str, Any]) -> None:
    settings |= {"connect_timeout": left(), "read_timeout": left(), "write_timeout": left()}


def _limit_pymysql(connection: Any, *_: object) -> None:
    # It has no public word for it, once it is connected.
    driver: Any = connection.connection.driver_connection
    driver._read_timeout = driver._write_timeout = left()  # noqa: SLF001


def _limit_sqlite(connection: Any, *_: object) -> None:
    driver, seconds = connection.connection, left()
    # To say it costs as much as to read a row, and most calls have their whole limit.
    if abs(seconds - driver.info.get("limit", math.inf)) > AT_ONCE:
        driver.driver_connection.execute(f"PRAGMA busy_timeout = {math.ceil(seconds * 1000)}")
        driver.info["limit"] = seconds


def _connect_psycopg() -> Callable[..., Any]:
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
        is_late = False
        try:
            waits_for = next(gen)
            while True:
                ready = yield waits_for
                # Who was kept from looking takes what has come by now; but no more, for pieces may come for ever.
                was_late, is_late = is_late, is_over()
                if is_late and (was_late or not ready):
                    gen.close()
                    finish()
                    raise psycopg.OperationalError("the server did not answer in time")
                waits_for = gen.send(ready)
        except StopIteration as stop:
            answer: T = stop.value
            return answer

    def connect(_dialect: object, _record: object, arguments: Any, settings: Any) -> Any:
        return LimitedConnection.connect(*arguments, **settings)

    return connect

"""How long a driver may wait for the database, be a pooler between or not."""

import math
import time
from collections.abc import Callable, Generator, Mapping
from typing import Any, Final, TypeAlias, TypeVar

from sqlalchemy import ColumnElement, func

__all__ = ["LIMITS", "LIMITS_THROUGH_POOLER", "connect_with_limit", "lock_limit"]

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
    return {**_mysql_limits(seconds), "read_timeout": seconds, "write_timeout": seconds}


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


def connect_with_limit(seconds: float) -> Callable[..., Any]:
    """Return how to connect by psycopg so that no answer is waited for longer; of itself it waits for ever."""
    import psycopg

    class LimitedConnection(psycopg.Connection[Any]):
        def wait(self, gen: Generator[Any, Any, T], *args: Any, **kwargs: Any) -> T:
            return super().wait(self._limited(gen), *args, **kwargs)

        # psycopg resumes the generator of a command at every event, and with none several times a second.
        def _limited(self, gen: Generator[Any, Any, T]) -> Generator[Any, Any, T]:
            end = time.monotonic() + seconds
            try:
                waits_for = next(gen)
                while True:
                    ready = yield waits_for
                    if not ready and time.monotonic() >= end:
                        gen.close()
                        self.pgconn.finish()
                        raise psycopg.OperationalError(f"the server did not answer within {seconds:g} s")
                    waits_for = gen.send(ready)
            except StopIteration as stop:
                answer: T = stop.value
                return answer

    def connect(_dialect: object, _record: object, arguments: Any, settings: Any) -> Any:
        return LimitedConnection.connect(*arguments, **settings)

    return connect

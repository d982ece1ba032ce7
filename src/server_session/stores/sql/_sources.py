"""Where a store's connections come from: the engine it was given, or those it makes from a URL."""

import asyncio
import importlib
import threading
import time
from collections.abc import Callable
from typing import Any, Final, TypeAlias, TypeVar, cast

from sqlalchemy import ColumnElement, Connection, Engine, create_engine
from sqlalchemy.engine import URL, make_url
from sqlalchemy.engine.default import DefaultDialect
from sqlalchemy.exc import ArgumentError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import Pool, SingletonThreadPool, StaticPool

from server_session._colour import running_library
from server_session.exceptions import ColourError, ConfigurationError
from server_session.stores._base import Colour
from server_session.stores._clients import ClientOfEachLoop, ClientOfProcess
from server_session.stores.sql._limits import LIMITS, LIMITS_THROUGH_POOLER, call, keep_to_the_end, left, lock_limit
from server_session.stores.sql._table import family_of

__all__ = ["source_of"]

T = TypeVar("T")

Conditions: TypeAlias = tuple[ColumnElement[bool], ...]

# Of an engine made from a URL: those of a process, or of a loop. Other calls wait for one of them.
_CONNECTIONS: Final = 10
# SQLite lets one write at a time, and whoever waits looks again now and then: few get through more than many.
_CONNECTIONS_TO_A_FILE: Final = 2


class Blocking:
    """Connections of an engine that blocks."""

    colour = Colour.BLOCKS

    def __init__(self, make: Callable[[], Engine], is_given: bool = False, limits: Conditions = ()) -> None:
        self._own = ClientOfProcess(make, lambda parents: None if is_given else parents.dispose(close=False))
        self.is_given = is_given
        self.limits = limits
        self.dialect = self._own.get().dialect.name

    async def run(self, step: Callable[[Connection], T], end: float) -> T:  # noqa: ARG002 - the driver has the limits
        """Run the step over a connection."""
        with self._own.get().connect() as connection:
            return step(connection)

    async def close(self) -> None:
        """Close the connections; an engine that was given is its owner's to close."""
        if not self.is_given:
            self._own.get().dispose()


class BlockingFromURL(Blocking):
    """Connections of an engine of the store's own, whose every wait ends with the call that waits."""

    def __init__(self, make: Callable[[], Engine], places: int, limits: Conditions) -> None:
        super().__init__(make, limits=limits)
        # SQLAlchemy's pool has one limit for all; so none comes to it who would have to wait.
        self._places = ClientOfProcess(lambda: threading.BoundedSemaphore(places), lambda _: None)

    async def run(self, step: Callable[[Connection], T], end: float) -> T:
        """Run the step over a connection, by this moment of the monotonic clock."""
        call.end = end
        places = self._places.get()
        if not places.acquire(timeout=left()):
            raise TimeoutError
        try:
            return await super().run(step, end)
        finally:
            places.release()


class Awaiting:
    """Connections of an engine that awaits: the one that was given, or one of each loop."""

    colour = Colour.AWAITS

    def __init__(self, make: Callable[[], AsyncEngine], is_given: bool = False, limits: Conditions = ()) -> None:
        # Made, and mostly dropped, so that a driver that is not there is missed now; greenlet SQLAlchemy itself misses
        # at the first call alone.
        made = make()
        importlib.import_module("greenlet")
        self.is_given = is_given
        self.limits = limits
        self.dialect = made.dialect.name
        self._given = made if is_given else None
        self._loops = ClientOfEachLoop(make, AsyncEngine.dispose)

    async def close(self) -> None:
        """Close the connections of the running loop; an engine that was given is its owner's to close."""
        await self._loops.close()

    async def run(self, step: Callable[[Connection], T], end: float) -> T:
        """Run the step over a connection, by this moment of the monotonic clock."""
        if running_library() == "trio":
            raise ColourError(
                "SQLAlchemy's awaiting engines run under asyncio alone: "
                "under trio give the store a blocking engine, or a URL with a blocking driver"
            )
        engine = self._given or await self._loops.get()
        has_begun = False

        async def whole() -> T:
            nonlocal has_begun
            async with asyncio.timeout(end - time.monotonic()), engine.connect() as connection:
                has_begun = True
                return await connection.run_sync(step)

        # A statement that is broken off costs its connection, and some drivers leave its lock behind. So who is
        # cancelled in the middle of one waits for its answer, which is near, and who has not begun does not begin.
        task = asyncio.ensure_future(whole())
        task.add_done_callback(_take)
        try:
            done, _ = await asyncio.wait({task}, timeout=end - time.monotonic())
        except asyncio.CancelledError:
            if not has_begun:
                task.cancel()
            await asyncio.wait({task}, timeout=end - time.monotonic())
            raise
        if not done:
            # The task has the same limit; what its driver then does to close the connection may take longer.
            raise TimeoutError
        return task.result()


def _take(task: "asyncio.Future[Any]") -> None:
    # So that asyncio does not report a failure that nobody is left to hear of.
    if not task.cancelled():
        task.exception()


def source_of(engine: Engine | AsyncEngine | URL | str, timeout: float) -> Blocking | Awaiting:
    """Return the source for what a store was given."""
    if isinstance(engine, AsyncEngine):
        _refuse_memory(type(engine.pool))
        awaiting = engine.execution_options(isolation_level="AUTOCOMMIT")
        return Awaiting(lambda: awaiting, is_given=True)
    if isinstance(engine, Engine):
        _refuse_memory(type(engine.pool))
        blocking = engine.execution_options(isolation_level="AUTOCOMMIT")
        return Blocking(lambda: blocking, is_given=True)
    try:
        return _source_of_url(engine, timeout)
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            f"the driver that the URL asks for is not installed ({error.name}): it comes with the extra [postgresql] "
            "or [mysql] of server-session, SQLite's aiosqlite with none"
        ) from error


# In the place of what SQLAlchemy and Python say of it, which may quote the password.
_UNREADABLE: Final = (
    "the URL of the session database cannot be read: it looks like postgresql+asyncpg://user@host/database, "
    "mysql+pymysql://user:password@host/database or sqlite:///file.db; in a user and password write reserved "
    "characters as %XX"
)


def _source_of_url(engine: URL | str, timeout: float) -> Blocking | Awaiting:
    try:
        url = make_url(engine)
        spoken = cast("type[DefaultDialect]", url.get_dialect())
    except (ArgumentError, ValueError):
        raise ConfigurationError(_UNREADABLE) from None
    family_of(spoken.name)
    if "@" in (url.host or ""):
        # A password had it.
        raise ConfigurationError(_UNREADABLE)
    try:
        spoken().create_connect_args(url)
    except (ArgumentError, ValueError):
        raise ConfigurationError(_UNREADABLE) from None
    _refuse_memory(spoken.get_pool_class(url))
    has_pooler = url.query.get("pgbouncer") == "true"
    url = url.difference_update_query(["pgbouncer"])
    limits = (LIMITS_THROUGH_POOLER if has_pooler else LIMITS).get(spoken.driver)
    if has_pooler and limits is None:
        raise ConfigurationError(
            "pgbouncer=true in the URL is for psycopg: take postgresql+psycopg, or postgresql+psycopg_async to await; "
            "asyncpg cannot go through a pooler in transaction mode"
        )
    settings = _settings(spoken, timeout, limits(timeout) if limits else {})
    with_each = (lock_limit(timeout),) if has_pooler else ()
    if spoken.is_async:
        return Awaiting(lambda: create_async_engine(url, **settings), limits=with_each)
    return BlockingFromURL(lambda: _blocking_engine(url, settings), settings["pool_size"], with_each)


def _settings(spoken: type[DefaultDialect], timeout: float, connect_args: dict[str, Any]) -> dict[str, Any]:
    return {
        "isolation_level": "AUTOCOMMIT",
        "skip_autocommit_rollback": True,
        "hide_parameters": True,
        # Without an overflow, whose connections are made and closed again at each call of a rush.
        "pool_size": _CONNECTIONS_TO_A_FILE if spoken.name == "sqlite" else _CONNECTIONS,
        "max_overflow": 0,
        "pool_timeout": timeout,
        "connect_args": connect_args,
    }


def _blocking_engine(url: URL, settings: dict[str, Any]) -> Engine:
    engine = create_engine(url, **settings)
    keep_to_the_end(engine)
    return engine


def _refuse_memory(pool: type[Pool]) -> None:
    if issubclass(pool, SingletonThreadPool | StaticPool):
        raise ConfigurationError(
            "SQLite in memory has one connection, which calls cannot share, or one for each thread: "
            "use MemorySessionStore, or a file (sqlite:///sessions.db)"
        )

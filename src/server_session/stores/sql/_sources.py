"""Where a store's connections come from: the engine it was given, or those it makes from a URL."""

import asyncio
import os
import time
from collections.abc import AsyncGenerator, Callable
from typing import Any, Final, TypeVar, cast

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.engine import URL, make_url
from sqlalchemy.engine.default import DefaultDialect
from sqlalchemy.exc import ArgumentError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import Pool, SingletonThreadPool, StaticPool

from server_session._colour import running_library
from server_session.exceptions import ColourError, ConfigurationError
from server_session.stores._base import Colour
from server_session.stores.sql._dialects import family_of
from server_session.stores.sql._limits import LIMITS, connect_with_limit

__all__ = ["Source", "source_of"]

T = TypeVar("T")

# Of an engine made from a URL: those of a process, or of a loop. Other calls wait for one of them.
_CONNECTIONS: Final = 10
# SQLite lets one write at a time, and whoever waits looks again now and then: few get through more than many.
_CONNECTIONS_TO_A_FILE: Final = 2


class Source:
    """Where connections come from."""

    colour: Colour
    dialect: str

    async def run(self, step: Callable[[Connection], T], end: float) -> T:
        """Run the step over a connection; if it awaits, by this moment of the monotonic clock."""
        raise NotImplementedError

    def finish(self, connection: Connection) -> None:
        """End what one statement may have left open."""
        # An application's listener may have begun a transaction, autocommit notwithstanding.
        connection.commit()

    async def close(self) -> None:
        """Close the connections; an engine that was given is its owner's to close."""


class _Blocking(Source):
    colour = Colour.BLOCKS

    def engine(self) -> Engine:
        raise NotImplementedError

    async def run(self, step: Callable[[Connection], T], end: float) -> T:  # noqa: ARG002 - the driver has the limits
        with self.engine().connect() as connection:
            return step(connection)


class _Awaiting(Source):
    colour = Colour.AWAITS

    async def engine(self) -> AsyncEngine:
        raise NotImplementedError

    async def run(self, step: Callable[[Connection], T], end: float) -> T:
        if running_library() == "trio":
            raise ColourError(
                "SQLAlchemy's awaiting engines run under asyncio alone: "
                "under trio give the store a blocking engine, or a URL with a blocking driver"
            )
        engine = await self.engine()
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


class _GivenBlocking(_Blocking):
    def __init__(self, engine: Engine) -> None:
        _refuse_memory(type(engine.pool))
        self.dialect = engine.dialect.name
        self._engine = engine.execution_options(isolation_level="AUTOCOMMIT")

    def engine(self) -> Engine:
        return self._engine


class _GivenAwaiting(_Awaiting):
    def __init__(self, engine: AsyncEngine) -> None:
        _refuse_memory(type(engine.pool))
        self.dialect = engine.dialect.name
        self._engine = engine.execution_options(isolation_level="AUTOCOMMIT")

    async def engine(self) -> AsyncEngine:
        return self._engine


class _Made(Source):
    def __init__(self, url: URL, dialect: str, settings: dict[str, Any]) -> None:
        self.dialect = dialect
        self._url = url
        self._settings = settings

    def finish(self, connection: Connection) -> None:
        # In autocommit nothing is open, and MySQL's drivers would ask the server all the same.
        pass


class _MadeBlocking(_Made, _Blocking):
    def __init__(self, url: URL, dialect: str, settings: dict[str, Any]) -> None:
        super().__init__(url, dialect, settings)
        self._make()

    def _make(self) -> None:
        self._engine = create_engine(self._url, **self._settings)
        self._process = os.getpid()
        if self._engine.driver == "psycopg":
            event.listen(self._engine, "do_connect", connect_with_limit(self._settings["pool_timeout"]))

    def engine(self) -> Engine:
        # A forked process must not speak through its parent's connections.
        if self._process != os.getpid():
            self._engine.dispose(close=False)
            self._make()
        return self._engine

    async def close(self) -> None:
        self._engine.dispose()


class _MadeAwaiting(_Made, _Awaiting):
    def __init__(self, url: URL, dialect: str, settings: dict[str, Any]) -> None:
        super().__init__(url, dialect, settings)
        self._leases: dict[asyncio.AbstractEventLoop, tuple[AsyncEngine, AsyncGenerator[AsyncEngine, None]]] = {}
        # Made and dropped, so that a driver that is not there is missed now.
        create_async_engine(url, **settings)

    async def engine(self) -> AsyncEngine:
        loop = asyncio.get_running_loop()
        held = self._leases.get(loop)
        if held is None:
            for closed in [other for other in self._leases if other.is_closed()]:
                self._leases.pop(closed, None)
            lease = self._lease(loop)
            held = self._leases[loop] = (await anext(lease), lease)
        return held[0]

    async def _lease(self, loop: asyncio.AbstractEventLoop) -> AsyncGenerator[AsyncEngine, None]:
        # A loop ends its generators before it is closed, and this one its connections.
        engine = create_async_engine(self._url, **self._settings)
        try:
            yield engine
        finally:
            self._leases.pop(loop, None)
            await engine.dispose()

    async def close(self) -> None:
        held = self._leases.get(asyncio.get_running_loop())
        if held is not None:
            await held[1].aclose()


def source_of(engine: Engine | AsyncEngine | URL | str, timeout: float) -> Source:
    """Return the source for what a store was given."""
    if isinstance(engine, AsyncEngine):
        return _GivenAwaiting(engine)
    if isinstance(engine, Engine):
        return _GivenBlocking(engine)
    return _from_url(engine, timeout)


def _from_url(given: URL | str, timeout: float) -> Source:
    try:
        url = make_url(given)
        spoken = cast("type[DefaultDialect]", url.get_dialect())
        family_of(spoken.name)
        _refuse_memory(spoken.get_pool_class(url))
        limits = LIMITS.get(spoken.driver)
        settings: dict[str, Any] = {
            "isolation_level": "AUTOCOMMIT",
            "skip_autocommit_rollback": True,
            "hide_parameters": True,
            # Without an overflow, whose connections are made and closed again at each call of a rush.
            "pool_size": _CONNECTIONS_TO_A_FILE if spoken.name == "sqlite" else _CONNECTIONS,
            "max_overflow": 0,
            "pool_timeout": timeout,
            "connect_args": limits(timeout) if limits else {},
        }
        return (_MadeAwaiting if spoken.is_async else _MadeBlocking)(url, spoken.name, settings)
    except ArgumentError as error:
        raise ConfigurationError(
            "the URL of the session database cannot be read: it looks like postgresql+asyncpg://user@host/database, "
            "mysql+pymysql://user:password@host/database or sqlite:///file.db"
        ) from error
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            f"the driver that the URL asks for is not installed ({error.name}): it comes with the extra [postgresql] "
            "or [mysql] of server-session, SQLite's aiosqlite with none"
        ) from error


def _refuse_memory(pool: type[Pool]) -> None:
    if issubclass(pool, SingletonThreadPool | StaticPool):
        raise ConfigurationError(
            "SQLite in memory has one connection, which calls cannot share, or one for each thread: "
            "use MemorySessionStore, or a file (sqlite:///sessions.db)"
        )

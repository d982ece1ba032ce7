"""Where a store's connections come from: the engine it was given, or those it makes from a URL."""

import asyncio
import importlib
from collections.abc import Callable
from typing import Any, Final, TypeAlias, TypeVar, cast

from sqlalchemy import Connection, Engine, create_engine
from sqlalchemy.engine import URL, make_url
from sqlalchemy.engine.default import DefaultDialect
from sqlalchemy.exc import ArgumentError, DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.pool import NullPool, Pool, SingletonThreadPool, StaticPool

from server_session._colour import telling
from server_session.exceptions import ConfigurationError, SessionError
from server_session.stores._base import Colour
from server_session.stores._clients import ClientOfEachLoop, ClientOfProcess, Places
from server_session.stores._parameters import parameters_of, refusal_of, with_plain_scheme
from server_session.stores._waits import in_time, is_over, left
from server_session.stores.sql._drivers import connect_by_url, limits_of
from server_session.stores.sql._table import family_of

__all__ = ["source_of"]

T = TypeVar("T")

Source: TypeAlias = "Given | Blocking | Awaiting"

# Of processes that forked. They are kept, for a connection that is dropped may speak over what its process still uses.
_of_parents: list[Source] = []

# Of an engine made from a URL: those of a process, or of a loop. Other calls wait for one of them.
_CONNECTIONS: Final = 10
# SQLite lets one write at a time, and whoever waits looks again now and then: few get through more than many.
_CONNECTIONS_TO_A_FILE: Final = 2

_ELSEWHERE: Final = (
    "SQLAlchemy's awaiting engines run under asyncio alone: "
    "under trio give the store a blocking engine, or a URL with a blocking driver"
)
_ON_ANOTHER_LOOP: Final = (
    "an AsyncEngine serves one event loop, and another one that runs uses this: give the store a URL, which makes an "
    "engine for each loop, or an engine with poolclass=NullPool"
)


class Given:
    """Connections of an engine that was given, and that blocks: its owner closes them."""

    colour = Colour.BLOCKS

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    async def run(self, step: Callable[[Connection], T]) -> T:
        """Run the step over a connection."""
        with self.engine.connect() as connection:
            return _lent(connection, step)


class Blocking:
    """Connections of an engine of the store's own that blocks, whose every wait ends with the call that waits.

    They are kept from call to call: to take one from SQLAlchemy's pool and to give it back costs as much as a read.
    """

    colour = Colour.BLOCKS

    def __init__(self, engine: Engine, places: int) -> None:
        self.engine = engine
        # SQLAlchemy's pool has one limit for all; so no call comes to it that would have to wait there.
        self.places = Places[Connection](places)

    async def run(self, step: Callable[[Connection], T]) -> T:
        """Run the step over a connection, within what the call has left."""
        connection = self.places.take(left())
        try:
            if connection is None:
                connection = self.engine.connect()
            answer = step(connection)
            # Nothing is sent: in autocommit it is SQLAlchemy's word for being done.
            connection.rollback()
            return answer  # noqa: TRY300 - nothing of it can fail
        except BaseException as error:
            if connection is not None:
                # It is kept no more, even where it cannot be closed.
                ended, connection = connection, None
                _drop_if_broken_into(ended, error)
                ended.close()
                # What has ended one connection has mostly ended all, and the pool makes those anew.
                self._close_kept()
            raise
        finally:
            self.places.give_back(connection)

    async def close(self) -> None:
        """Close the connections that nobody uses."""
        self._close_kept()
        self.engine.dispose()

    def _close_kept(self) -> None:
        for connection in self.places.clear():
            connection.close()


def _lent(connection: Connection, step: Callable[[Connection], T]) -> T:
    """Run the step over a connection of an engine that was given."""
    try:
        try:
            connection.execution_options(isolation_level="AUTOCOMMIT")
        except cast("Any", connection.dialect).loaded_dbapi.Error as error:
            # MySQL is asked here, and SQLAlchemy does not look what it means: the server has ended it, and mostly all.
            connection.invalidate()
            connection.engine.dispose()
            raise DBAPIError(None, None, error, connection_invalidated=True) from error
        answer = step(connection)
        # A listener of the application's may have begun a transaction, autocommit notwithstanding.
        connection.commit()
        return answer  # noqa: TRY300 - nothing of it can fail
    except BaseException as error:
        _drop_if_broken_into(connection, error)
        raise


def _drop_if_broken_into(connection: Connection, error: BaseException) -> None:
    """Drop a connection unless the error is the database's or ours: a signal's handler may leave an answer unread.

    The next call over it would be given that answer, and another's session.
    """
    if not isinstance(error, DBAPIError | SessionError):
        connection.invalidate()


class Awaiting:
    """Connections of an engine that awaits: the one that was given, or one of each loop."""

    colour = Colour.AWAITS

    def __init__(self, engines: ClientOfEachLoop[AsyncEngine], *, is_given: bool) -> None:
        self._engines = engines
        self._is_given = is_given

    async def close(self) -> None:
        """Close the connections of the running loop; an engine that was given is its owner's to close."""
        await self._engines.close()

    async def run(self, step: Callable[[Connection], T]) -> T:
        """Run the step over a connection, within what the call has left."""
        engine = self._engines.get()
        has_begun = False

        async def whole() -> T:
            nonlocal has_begun
            try:
                async with in_time(left()), engine.connect() as connection:
                    has_begun = True
                    if self._is_given:
                        return await connection.run_sync(_lent, step)
                    return await connection.run_sync(step)
            except _errors_of_asyncpg(engine) as error:
                raise DBAPIError(None, None, error) from error

        # A statement that is broken off costs its connection, and some drivers leave its lock behind. So who is
        # cancelled in the middle of one waits for its answer, which is near, and who has not begun does not begin.
        task = asyncio.ensure_future(whole())
        # So that asyncio does not report a failure that nobody is left to hear of.
        task.add_done_callback(lambda task: task.cancelled() or task.exception())
        try:
            # What the driver does to close a connection that was broken off may take longer.
            async with in_time(left()):
                await asyncio.wait({task})
        except asyncio.CancelledError as first:
            error: BaseException = first
            if not has_begun:
                task.cancel()
            # A scope of anyio cancels again at each turn of the loop.
            while not task.done() and not is_over():
                try:
                    await asyncio.wait({task}, timeout=left())
                except asyncio.CancelledError as further:
                    error = telling(error, further)
            raise error from None
        return task.result()


def _errors_of_asyncpg(engine: AsyncEngine) -> tuple[type[Exception], ...]:
    """Return the errors of asyncpg that SQLAlchemy before 2.1 lets pass as they are when it connects."""
    asyncpg: Any = getattr(engine.dialect.loaded_dbapi, "asyncpg", None)
    return () if asyncpg is None else (asyncpg.PostgresError, asyncpg.InterfaceError)


# In the place of what SQLAlchemy and Python say of it, which may quote the password.
_UNREADABLE: Final = (
    "the URL of the session database cannot be read: it looks like postgresql+asyncpg://user@host/database, "
    "mysql+pymysql://user:password@host/database or sqlite:///file.db; in a user and password write reserved "
    "characters as %XX"
)


def source_of(engine: Engine | AsyncEngine | URL | str, timeout: float) -> tuple[str, ClientOfProcess[Source]]:
    """Return the family of dialects of what a store was given, and the source."""
    if isinstance(engine, Engine | AsyncEngine):
        family = family_of(engine.dialect.name)
        _refuse_memory(type(engine.pool))
        if isinstance(engine, Engine):
            return family, ClientOfProcess(lambda: Given(engine), lambda _: engine.dispose(close=False))
        # Its pool would give one loop what another is at work with: an error at best, and asyncpg ends the process.
        on_another = None if isinstance(engine.pool, NullPool) else _ON_ANOTHER_LOOP

        def lent() -> Awaiting:
            return Awaiting(ClientOfEachLoop(lambda: engine, None, _ELSEWHERE, on_another), is_given=True)

        return family, ClientOfProcess(lent, lambda _: engine.sync_engine.dispose(close=False))
    if isinstance(engine, str):
        parameters_of(engine)
    try:
        url = with_plain_scheme(engine) if isinstance(engine, str) else engine
        return _source_of_url(make_url(url), timeout)
    except ConfigurationError:
        raise
    except (ArgumentError, ValueError):
        raise ConfigurationError(_UNREADABLE) from None
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            f"the driver that the URL asks for is not installed ({error.name}): install it, or name one that comes "
            "with an extra of server-session: postgresql+psycopg and postgresql+asyncpg with [postgresql], "
            "mysql+pymysql and mysql+asyncmy with [mysql]"
        ) from error


def _source_of_url(url: URL, timeout: float) -> tuple[str, ClientOfProcess[Source]]:
    spoken = cast("type[DefaultDialect]", url.get_dialect())
    family = family_of(spoken.name)
    where = f"{url.host}{'' if family == 'sqlite' else url.database}"
    if "@" in where or (url.port or 0) >= 1 << 16:
        # A password had it; and what is no port some drivers only see when they connect.
        raise ValueError
    pooler = url.query.get("pgbouncer", "false")
    if pooler not in ("true", "false"):
        raise refusal_of("pgbouncer", "is neither true nor false")
    url = url.difference_update_query(["pgbouncer"])
    # What is wrong with the URL, or not installed, is missed now: an engine may be made as late as at the first call.
    spoken.import_dbapi()
    limits = limits_of(spoken, url, timeout, has_pooler=pooler == "true")
    spoken().create_connect_args(url)
    _refuse_memory(spoken.get_pool_class(url))
    places = _CONNECTIONS_TO_A_FILE if family == "sqlite" else _CONNECTIONS
    settings: dict[str, Any] = {
        "url": url,
        "isolation_level": "AUTOCOMMIT",
        "skip_autocommit_rollback": True,
        "hide_parameters": True,
        # Without an overflow, whose connections are made and closed again at each call of a rush.
        "pool_size": places,
        "max_overflow": 0,
        # What awaits is broken off by the call's own clock, which stands while its loop is kept from looking.
        "pool_timeout": None if spoken.is_async else timeout,
        "connect_args": limits,
    }

    def make() -> Engine:
        made = create_engine(**settings)
        connect_by_url(made, url.query)
        return made

    if not spoken.is_async:
        return family, ClientOfProcess(lambda: Blocking(make(), places), _of_parents.append)
    # SQLAlchemy itself misses it at the first call alone.
    importlib.import_module("greenlet")

    def own() -> Awaiting:
        engines = ClientOfEachLoop(lambda: AsyncEngine(make()), AsyncEngine.dispose, _ELSEWHERE)
        return Awaiting(engines, is_given=False)

    return family, ClientOfProcess(own, _of_parents.append)


def _refuse_memory(pool: type[Pool]) -> None:
    if issubclass(pool, SingletonThreadPool | StaticPool):
        raise ConfigurationError(
            "SQLite in memory has one connection, which calls cannot share, or one for each thread: "
            "use MemorySessionStore, or a file (sqlite:///sessions.db)"
        )

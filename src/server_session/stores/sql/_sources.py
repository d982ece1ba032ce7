"""Where a store's connections come from: the engine it was given, or those it makes from a URL."""

import asyncio
import importlib
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Any, Final, NamedTuple, TypeAlias, TypeVar, cast

from sqlalchemy import ColumnElement, Connection, Engine, create_engine, event
from sqlalchemy.engine import URL, make_url
from sqlalchemy.engine.default import DefaultDialect
from sqlalchemy.exc import ArgumentError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import Pool, SingletonThreadPool, StaticPool

from server_session.exceptions import ConfigurationError
from server_session.stores._base import Colour
from server_session.stores._clients import ClientOfEachLoop, ClientOfProcess, free_places
from server_session.stores._parameters import parameters_of, refusal_of
from server_session.stores._waits import left
from server_session.stores.sql._limits import LIMITS, LIMITS_THROUGH_POOLER, keep_to_the_end, lock_limit
from server_session.stores.sql._parameters import check_parameters, connect_clearly, unreadable
from server_session.stores.sql._table import family_of

__all__ = ["source_of"]

T = TypeVar("T")

Conditions: TypeAlias = tuple[ColumnElement[bool], ...]

# Of an engine made from a URL: those of a process, or of a loop. Other calls wait for one of them.
_CONNECTIONS: Final = 10
# SQLite lets one write at a time, and whoever waits looks again now and then: few get through more than many.
_CONNECTIONS_TO_A_FILE: Final = 2

_ELSEWHERE: Final = (
    "SQLAlchemy's awaiting engines run under asyncio alone: "
    "under trio give the store a blocking engine, or a URL with a blocking driver"
)


class Blocking:
    """Connections of an engine that blocks."""

    colour = Colour.BLOCKS

    def __init__(self, make: Callable[[], Engine], is_given: bool = False, limits: Conditions = ()) -> None:
        self._own = ClientOfProcess(make, lambda parents: parents.dispose(close=False))
        self.is_given = is_given
        self.limits = limits
        self.dialect = self._own.get().dialect.name

    async def run(self, step: Callable[[Connection], T]) -> T:
        """Run the step over a connection."""
        with self._own.get().connect() as connection:
            return step(connection)

    async def close(self) -> None:
        """Close the connections; an engine that was given is its owner's to close."""
        if not self.is_given:
            self._own.get().dispose()


class BlockingFromURL(Blocking):
    """Connections of an engine of the store's own, whose every wait ends with the call that waits.

    They are kept from call to call: to take one from SQLAlchemy's pool and to give it back costs as much as a read.
    """

    def __init__(self, make: Callable[[], Engine], places: int, limits: Conditions) -> None:
        super().__init__(make, limits=limits)
        # SQLAlchemy's pool has one limit for all; so none comes to it who would have to wait.
        self._places = ClientOfProcess(lambda: _Places(free_places(places), []), _of_parents.append)

    async def run(self, step: Callable[[Connection], T]) -> T:
        """Run the step over a connection, within what the call has left."""
        places = self._places.get()
        try:
            places.free.get(timeout=left())
        except Empty:
            raise TimeoutError from None
        try:
            connection = places.take() or self._own.get().connect()
            try:
                answer = step(connection)
                # Nothing is sent: in autocommit it is SQLAlchemy's word for being done.
                connection.rollback()
            except BaseException:
                # What has ended one connection has mostly ended all, and the pool makes those anew.
                connection.close()
                places.give_back()
                raise
            places.kept.append(connection)
            return answer
        finally:
            places.free.put(None)

    async def close(self) -> None:
        """Close the connections that nobody uses."""
        self._places.get().give_back()
        await super().close()


class _Places(NamedTuple):
    free: SimpleQueue[None]
    kept: list[Connection]

    def take(self) -> Connection | None:
        # In one step, for other threads take one too.
        try:
            return self.kept.pop()
        except IndexError:
            return None

    def give_back(self) -> None:
        while connection := self.take():
            connection.close()


# Of processes that forked. They are kept, for one that is dropped goes back to its pool, which may speak over it.
_of_parents: list[_Places] = []


class Awaiting:
    """Connections of an engine that awaits: the one that was given, or one of each loop."""

    colour = Colour.AWAITS

    def __init__(self, make: Callable[[], AsyncEngine], is_given: bool = False, limits: Conditions = ()) -> None:
        # Made for the loops' sake too, so that a driver that is not there is missed now; greenlet SQLAlchemy itself
        # misses at the first call alone.
        self._made = ClientOfProcess(make, lambda parents: parents.sync_engine.dispose(close=False))
        importlib.import_module("greenlet")
        self.is_given = is_given
        self.limits = limits
        self.dialect = self._made.get().dialect.name
        self._loops = ClientOfEachLoop(
            self._made.get if is_given else make, None if is_given else AsyncEngine.dispose, _ELSEWHERE
        )

    async def close(self) -> None:
        """Close the connections of the running loop; an engine that was given is its owner's to close."""
        await self._loops.close()

    async def run(self, step: Callable[[Connection], T]) -> T:
        """Run the step over a connection, within what the call has left."""
        engine = self._loops.get()
        has_begun = False

        async def whole() -> T:
            nonlocal has_begun
            async with asyncio.timeout(left()), engine.connect() as connection:
                has_begun = True
                return await connection.run_sync(step)

        # A statement that is broken off costs its connection, and some drivers leave its lock behind. So who is
        # cancelled in the middle of one waits for its answer, which is near, and who has not begun does not begin.
        task = asyncio.ensure_future(whole())
        # So that asyncio does not report a failure that nobody is left to hear of.
        task.add_done_callback(lambda task: task.cancelled() or task.exception())
        try:
            done, _ = await asyncio.wait({task}, timeout=left())
        except asyncio.CancelledError:
            if not has_begun:
                task.cancel()
            await asyncio.wait({task}, timeout=left())
            raise
        if not done:
            # The task has the same limit; what its driver then does to close the connection may take longer.
            raise TimeoutError
        return task.result()


# In the place of what SQLAlchemy and Python say of it, which may quote the password.
_UNREADABLE: Final = (
    "the URL of the session database cannot be read: it looks like postgresql+asyncpg://user@host/database, "
    "mysql+pymysql://user:password@host/database or sqlite:///file.db; in a user and password write reserved "
    "characters as %XX"
)


def source_of(engine: Engine | AsyncEngine | URL | str, timeout: float) -> Blocking | Awaiting:
    """Return the source for what a store was given."""
    if isinstance(engine, Engine | AsyncEngine):
        _refuse_memory(type(engine.pool))
        given: Any = engine.execution_options(isolation_level="AUTOCOMMIT")
        return (Blocking if isinstance(engine, Engine) else Awaiting)(lambda: given, is_given=True)
    if isinstance(engine, str):
        parameters_of(engine)
    try:
        return _source_of_url(make_url(engine), timeout)
    except ConfigurationError:
        raise
    except (ArgumentError, ValueError):
        raise ConfigurationError(_UNREADABLE) from None
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            f"the driver that the URL asks for is not installed ({error.name}): it comes with the extra [postgresql] "
            "or [mysql] of server-session, SQLite's aiosqlite with none"
        ) from error


def _source_of_url(url: URL, timeout: float) -> Blocking | Awaiting:
    spoken = cast("type[DefaultDialect]", url.get_dialect())
    family_of(spoken.name)
    if "@" in (url.host or "") or (url.port or 0) >= 1 << 16:
        # A password had it; and what is no port some drivers only see when they connect.
        raise ValueError
    pooler = url.query.get("pgbouncer", "false")
    if pooler not in ("true", "false"):
        raise refusal_of("pgbouncer", "is neither true nor false")
    has_pooler = pooler == "true"
    url = url.difference_update_query(["pgbouncer"])
    limits = (LIMITS_THROUGH_POOLER if has_pooler else LIMITS).get(spoken.driver)
    if has_pooler and limits is None:
        raise ConfigurationError(
            "pgbouncer=true in the URL is for psycopg: take postgresql+psycopg, or postgresql+psycopg_async to await; "
            "asyncpg cannot go through a pooler in transaction mode"
        )
    connect_args = limits(timeout) if limits else {}
    check_parameters(spoken, url, connect_args)
    try:
        spoken().create_connect_args(url)
    except (ArgumentError, ValueError):
        raise unreadable(spoken, url) or ConfigurationError(_UNREADABLE) from None
    _refuse_memory(spoken.get_pool_class(url))
    places = _CONNECTIONS_TO_A_FILE if spoken.name == "sqlite" else _CONNECTIONS
    settings: dict[str, Any] = {
        "url": url,
        "isolation_level": "AUTOCOMMIT",
        "skip_autocommit_rollback": True,
        "hide_parameters": True,
        # Without an overflow, whose connections are made and closed again at each call of a rush.
        "pool_size": places,
        "max_overflow": 0,
        "pool_timeout": timeout,
        "connect_args": connect_args,
    }
    with_each = (lock_limit(timeout),) if has_pooler else ()
    clearly = connect_clearly(url.query)
    if spoken.is_async:

        def make_awaiting() -> AsyncEngine:
            made = create_async_engine(**settings)
            event.listen(made.sync_engine, "do_connect", clearly)
            return made

        return Awaiting(make_awaiting, limits=with_each)

    def make() -> Engine:
        made = create_engine(**settings)
        keep_to_the_end(made)
        event.listen(made, "do_connect", clearly)
        return made

    return BlockingFromURL(make, places, with_each)


def _refuse_memory(pool: type[Pool]) -> None:
    if issubclass(pool, SingletonThreadPool | StaticPool):
        raise ConfigurationError(
            "SQLite in memory has one connection, which calls cannot share, or one for each thread: "
            "use MemorySessionStore, or a file (sqlite:///sessions.db)"
        )

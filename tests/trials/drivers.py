"""The stores and the drivers that trials run over: how each is opened, and where its server comes from."""

import tempfile
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Mapping
from contextlib import (
    AbstractAsyncContextManager,
    AbstractContextManager,
    asynccontextmanager,
    contextmanager,
)
from dataclasses import dataclass
from functools import partial
from typing import Literal

from server_session import FileSessionStore, MemorySessionStore
from server_session._colour import pause
from server_session.stores._base import Expect, Lifetime, Outcome, SessionStore
from server_session.testing import YieldingStore
from tests import servers
from tests.patience import PATIENCE
from tests.redis_sets import start_cluster

__all__ = ["BROKEN", "DRIVERS", "STARTS", "Driver"]

"""Seconds that a call may take: trials are about order, and run on busy machines."""

Opening = AbstractAsyncContextManager[SessionStore]


@dataclass(frozen=True)
class Driver:
    """One row of the table."""

    store: str
    name: str
    calls: Literal["threads", "gather"]
    """How one process makes several requests at once: in threads, blocking, or awaiting on one event loop."""
    place: str
    """Where the sessions are: a key of `STARTS`."""
    open: Callable[[str], Opening]
    contract: str
    """The tests of the store contract over this driver."""
    processes: int = 4
    has_owners: bool = True

    def __str__(self) -> str:
        return f"{self.store}, {self.name}"


@asynccontextmanager
async def memory(_: str) -> AsyncIterator[SessionStore]:
    yield MemorySessionStore()


@asynccontextmanager
async def memory_that_yields(_: str) -> AsyncIterator[SessionStore]:
    # On one loop a store that never waits lets no two requests meet.
    yield YieldingStore(MemorySessionStore())


class TwoStepStore(MemorySessionStore):
    """A store as none may be: it reads, and then writes if it was still so."""

    async def merge(
        self,
        key: str,
        changed: Mapping[str, bytes],
        removed: Collection[str],
        expect: Expect,
        lifetime: Lifetime | None = None,
    ) -> Outcome:
        found = await self.get(key, expect)
        if isinstance(found, Outcome):
            return found
        await pause(0.001)
        kept = {name: value for name, value in found.items() if name not in removed}
        return await self.set(key, kept | dict(changed), lifetime or Lifetime(1800, 86400), {})


@asynccontextmanager
async def broken(_: str) -> AsyncIterator[SessionStore]:
    yield TwoStepStore()


@asynccontextmanager
async def files(place: str) -> AsyncIterator[SessionStore]:
    yield FileSessionStore(place, timeout=PATIENCE)


@asynccontextmanager
async def redis_by_url(options: str, place: str) -> AsyncIterator[SessionStore]:
    from server_session.stores.redis import RedisSessionStore

    yield RedisSessionStore(place + options, timeout=PATIENCE)


@asynccontextmanager
async def redis_cluster(place: str) -> AsyncIterator[SessionStore]:
    import redis

    from server_session.stores.redis import RedisSessionStore

    with redis.RedisCluster.from_url(place, protocol=3) as client:
        yield RedisSessionStore(client)


@asynccontextmanager
async def redis_cluster_awaiting(place: str) -> AsyncIterator[SessionStore]:
    import redis.asyncio

    from server_session.stores.redis import RedisSessionStore

    async with redis.asyncio.RedisCluster.from_url(place, protocol=2) as client:
        yield RedisSessionStore(client, timeout=PATIENCE)


@asynccontextmanager
async def sql(scheme: str, place: str) -> AsyncIterator[SessionStore]:
    from server_session.stores.sql import SQLSessionStore

    store = SQLSessionStore(f"{scheme}:{place.partition(':')[2]}", create_table=True, timeout=PATIENCE)
    yield store
    await store.close()


@asynccontextmanager
async def memcached(place: str) -> AsyncIterator[SessionStore]:
    from server_session.stores.memcached import MemcachedSessionStore

    store = MemcachedSessionStore(place, timeout=PATIENCE)
    yield store
    store.close()


@contextmanager
def nowhere() -> Iterator[str]:
    yield ""


@contextmanager
def directory() -> Iterator[str]:
    with tempfile.TemporaryDirectory() as folder:
        yield folder


@contextmanager
def database_file() -> Iterator[str]:
    with tempfile.TemporaryDirectory() as folder:
        yield f"sqlite:///{folder}/sessions.db"


@contextmanager
def served(start: Callable[[], servers.Server]) -> Iterator[str]:
    with start() as server:
        yield server.url


@contextmanager
def cluster() -> Iterator[str]:
    with start_cluster() as nodes:
        yield nodes[0].url


STARTS: dict[str, Callable[[], AbstractContextManager[str]]] = {
    "memory": nowhere,
    "directory": directory,
    "sqlite": database_file,
    "redis": partial(served, servers.start_redis),
    "cluster": cluster,
    "memcached": partial(served, servers.start_memcached),
    "postgresql": partial(served, servers.start_postgresql),
    "mariadb": partial(served, servers.start_mariadb),
}

_MEMORY = "tests/stores/test_memory.py::TestMemoryStoreContract"
_FILE = "tests/stores/test_file.py::TestFileStoreContract"
_REDIS = "tests/stores/test_redis.py"
_SQL = "tests/stores/test_sql.py"
_MEMCACHED = "tests/stores/test_memcached.py"


def _redis(protocol: int) -> Callable[[str], Opening]:
    return partial(redis_by_url, f"?protocol={protocol}")


_ROWS = (
    Driver("memory", "blocking", "threads", "memory", memory, _MEMORY, processes=1),
    Driver("memory", "awaiting", "gather", "memory", memory_that_yields, _MEMORY, processes=1),
    Driver("file", "blocking", "threads", "directory", files, _FILE),
    Driver("file", "awaiting", "gather", "directory", files, _FILE),
    Driver("Redis", "redis-py, RESP2", "threads", "redis", _redis(2), f"{_REDIS}::TestBlockingClient"),
    Driver("Redis", "redis-py, RESP3", "threads", "redis", _redis(3), f"{_REDIS}::TestBlockingClientByRESP3"),
    Driver("Redis", "redis-py asyncio, RESP2", "gather", "redis", _redis(2), f"{_REDIS}::TestAwaitingClient"),
    Driver("Redis", "redis-py asyncio, RESP3", "gather", "redis", _redis(3), f"{_REDIS}::TestAwaitingClientByRESP3"),
    Driver("Redis Cluster", "redis-py", "threads", "cluster", redis_cluster, f"{_REDIS}::TestBlockingCluster"),
    Driver(
        "Redis Cluster",
        "redis-py asyncio",
        "gather",
        "cluster",
        redis_cluster_awaiting,
        f"{_REDIS}::TestAwaitingCluster",
    ),
    *(
        Driver(store, name, calls, place, partial(sql, scheme), f"{_SQL}::{suite}")
        for store, name, calls, place, scheme, suite in (
            ("SQLite", "sqlite3", "threads", "sqlite", "sqlite+pysqlite", "TestSQLiteContract"),
            ("SQLite", "aiosqlite", "gather", "sqlite", "sqlite+aiosqlite", "TestAiosqliteContract"),
            ("PostgreSQL", "psycopg", "threads", "postgresql", "postgresql+psycopg", "TestPsycopgContract"),
            (
                "PostgreSQL",
                "psycopg asyncio",
                "gather",
                "postgresql",
                "postgresql+psycopg_async",
                "TestPsycopgAsyncContract",
            ),
            ("PostgreSQL", "asyncpg", "gather", "postgresql", "postgresql+asyncpg", "TestAsyncpgContract"),
            ("MariaDB", "PyMySQL", "threads", "mariadb", "mysql+pymysql", "TestPyMySQLContract"),
            ("MariaDB", "asyncmy", "gather", "mariadb", "mysql+asyncmy", "TestAsyncmyContract"),
        )
    ),
    Driver("memcached", "pymemcache", "threads", "memcached", memcached, f"{_MEMCACHED}::TestURL", has_owners=False),
    Driver(
        "memcached",
        "pymemcache, awaited",
        "gather",
        "memcached",
        memcached,
        f"{_MEMCACHED}::TestOnALoop",
        has_owners=False,
    ),
)

DRIVERS: dict[str, Driver] = {str(row): row for row in _ROWS}

BROKEN = Driver("two steps", "blocking", "threads", "memory", broken, "", processes=1)
"""No row of the table: what trials must find fault with."""

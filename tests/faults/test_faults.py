"""Servers that fail: in a short form; with SERVER_SESSION_ALL in the environment, every fault over every store."""

import asyncio
import gc
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from server_session import Sessions, StoreDownError, StoreError
from server_session._colour import drive
from server_session.stores._base import Lifetime, Outcome
from tests import servers
from tests.faults.proxy import Proxy, Weather
from tests.faults.trial import STORES, try_out
from tests.faults.worker import close_store, open_store
from tests.parts import ALL
from tests.patience import PATIENCE, wait_until

pytestmark = pytest.mark.once

FAULTS = 1000 if ALL else 40
AT_ONCE = 5
LONG = Lifetime(1800, 86400)

SHORT = {
    "Redis": [
        "maxmemory refuses writes",
        "cut before the answer",
        "a process killed",
    ],
    "Redis with AOF": ["killed and started again"],
    "PostgreSQL": ["restarted", "table locked, pool exhausted"],
    "MariaDB": ["cut before the answer", "clients hang up"],
    "memcached": ["connections reset", "killed and started again"],
    "SQLite": ["locked by another process", "disk full"],
    "file": ["disk full", "read-only"],
}


@pytest.mark.long
@pytest.mark.parametrize("name", list(STORES if ALL else SHORT))
def test_through_a_fault_each_request_works_or_is_a_503_and_what_was_acknowledged_stays(name):
    row = STORES[name]
    if ALL:
        cells = try_out(row, list(row.faults), processes=4, visitors=6)
    else:
        cells = try_out(row, SHORT[name], visitors=3, seconds=0.7, after=0.5)
    if len(cells) == 1:
        pytest.skip("no fault of these can befall it here: no file system can be mounted")
    for cell in cells:
        answers = cell.answers
        assert not answers.words, cell.fault
        assert (answers.other, answers.lost, answers.mixed, answers.back) == (0, 0, 0, 0), cell.fault
        assert answers.ok > 0, cell.fault


def test_a_server_that_is_silent_costs_its_limit_to_probes_alone_and_is_found_when_it_is_back(redis_server):
    with Proxy(redis_server.port) as proxy:
        opened = open_store(f"redis://127.0.0.1:{proxy.port}/0", 0.3)
        sessions = Sessions(session_store=opened)
        store = sessions.policy.store
        read = lambda: drive(store.get(store.id(), {}))
        wait_until(sessions.sync.health)
        proxy.weather = Weather.SILENT

        def waits() -> bool:
            begun = time.monotonic()
            with pytest.raises(StoreDownError):
                read()
            time.sleep(0.01)
            return time.monotonic() - begun > 0.25

        wait_until(lambda: not waits())
        assert sum(waits() for _ in range(100)) < 50
        assert not sessions.sync.health()
        proxy.weather = Weather.FAIR
        wait_until(sessions.sync.health)
        close_store(opened)


# --- what a store keeps open


Ask = Callable[[Any], Any]


def count_open() -> dict[str, int]:
    gc.collect()
    return {"descriptors": len(list(Path("/proc/self/fd").iterdir())), "threads": threading.active_count()}


def check_nothing_leaks(before: dict[str, int], after: dict[str, int]) -> None:
    # Each connection has three ends here, two of them the proxy's.
    assert after["descriptors"] <= before["descriptors"] + 3 * AT_ONCE + 5
    assert after["threads"] <= before["threads"] + AT_ONCE + 1


def settled(answers: list[Any]) -> None:
    for answer in answers:
        if isinstance(answer, BaseException) and not isinstance(answer, StoreError):
            raise answer


def calls_of(store: Any) -> list[Ask]:
    key = store.id()
    return [
        lambda: store.get(key, {}),
        lambda: store.set(key, {"a": b"1"}, LONG),
        lambda: store.merge(key, {"b": b"2"}, [], {}),
        lambda: store.get(key, {}),
        lambda: store.destroy(key),
    ]


async def fail_awaiting(store: Any, proxy: Proxy) -> None:
    async def all_at_once() -> list[Any]:
        return await asyncio.gather(*(call() for call in calls_of(store)), return_exceptions=True)

    settled(await all_at_once())
    before, tasks = count_open(), len(asyncio.all_tasks())
    for number in range(FAULTS):
        calls = asyncio.ensure_future(all_at_once())
        await asyncio.sleep(0.0005 * (number % 8))
        await asyncio.to_thread(proxy.hang_up)
        settled(await calls)
    settled(await all_at_once())
    assert all(not isinstance(answer, Exception) for answer in await all_at_once())
    assert len(asyncio.all_tasks()) <= tasks + 1
    check_nothing_leaks(before, count_open())


def fail_blocking(store: Any, proxy: Proxy) -> None:
    def ask(call: Ask) -> Any:
        try:
            return drive(call())
        except StoreError as error:
            return error

    with ThreadPoolExecutor(AT_ONCE) as pool:
        list(pool.map(ask, calls_of(store)))
        before = count_open()
        for number in range(FAULTS):
            calls = [pool.submit(ask, call) for call in calls_of(store)]
            time.sleep(0.0005 * (number % 8))
            proxy.hang_up()
            for call in calls:
                call.result(PATIENCE)
        list(pool.map(ask, calls_of(store)))
        answers = list(pool.map(ask, calls_of(store)))
        assert all(isinstance(answer, Outcome | bool | dict) for answer in answers)
        check_nothing_leaks(before, count_open())


@pytest.mark.parametrize(
    "scheme, server",
    [
        ("redis", "redis_server"),
        ("memcached", "memcached_server"),
        ("postgresql+asyncpg", "postgresql_server"),
        ("postgresql+psycopg", "postgresql_server"),
        ("postgresql+psycopg_async", "postgresql_server"),
        ("mysql+pymysql", "mariadb_server"),
        ("mysql+asyncmy", "mariadb_server"),
    ],
)
def test_calls_that_fail_leave_no_connection_task_thread_or_descriptor_behind(scheme, server, request):
    started: servers.Server = request.getfixturevalue(server)
    with Proxy(started.port) as proxy:
        place = started.url_for(scheme).replace(f":{started.port}", f":{proxy.port}")
        # Each connection of PyMySQL reads all certificate authorities of the machine.
        store = open_store(f"{place}?ssl_disabled=true" if "pymysql" in scheme else place, PATIENCE)
        if scheme in ("redis", "memcached", "postgresql+psycopg", "mysql+pymysql"):
            try:
                fail_blocking(store, proxy)
            finally:
                close_store(store)
        if scheme not in ("memcached", "postgresql+psycopg", "mysql+pymysql"):
            asyncio.run(fail_awaiting(store, proxy))
        # What stays open is the pool's.
        wait_until(lambda: proxy.connections <= 2 * AT_ONCE)

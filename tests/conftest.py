"""Fixtures for every test: free ports, private servers, an application that is served, a browser."""

import asyncio
import inspect
import signal
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import hypothesis
import pytest

from server_session import _sessions, _tries
from server_session.stores.file import FileSessionStore
from server_session.stores.memcached import MemcachedSessionStore
from server_session.stores.next_server_session import NextServerSessionRedisStore
from server_session.stores.redis import RedisSessionStore
from server_session.stores.sql import SQLSessionStore
from server_session.testing import AdapterContract, StoreContract
from tests import servers
from tests.parts import ALL, PARTS, QUICK, need
from tests.patience import PATIENCE

if TYPE_CHECKING:
    from playwright.sync_api import Browser


def pytest_configure() -> None:
    # Told to end, pytest takes its fixtures down, and with them the servers.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    be_patient()
    if QUICK:
        hypothesis.settings.register_profile("quick", max_examples=25)
        hypothesis.settings.load_profile("quick")
    # By itself it fails a case that takes 200 ms, and cases that are slowly drawn.
    drawn_slowly = [hypothesis.HealthCheck.too_slow]
    hypothesis.settings.register_profile("patient", deadline=None, suppress_health_check=drawn_slowly)
    hypothesis.settings.load_profile("patient")


def be_patient() -> None:
    """Let no load of the machine reach a limit: the defaults of stores, of updates and of the contracts.

    A test of a limit gives its own.
    """
    limited = (
        FileSessionStore,
        MemcachedSessionStore,
        NextServerSessionRedisStore,
        RedisSessionStore,
        SQLSessionStore,
    )
    for store in limited:
        store.__init__.__kwdefaults__["timeout"] = PATIENCE
    _tries.UPDATE_SECONDS = PATIENCE
    StoreContract.patience = AdapterContract.patience = PATIENCE


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> Iterator[None]:
    config.hook.pytest_deselected(items=[item for item in items if is_left_out(item)])
    items[:] = [item for item in items if not is_left_out(item)]
    for item in items:
        # What a browser sees, or an attacker sends, does not depend on the Python that serves it.
        if has_browser(item) or "attacks" in item.path.parts:
            item.add_marker(pytest.mark.once)
    yield
    # Once Playwright's browser is open its loop counts as this thread's running one, and no test can call asyncio.run.
    # After pytest has brought together what shares a fixture.
    items.sort(key=has_browser)


def has_browser(item: pytest.Item) -> bool:
    return "chromium" in getattr(item, "fixturenames", ()) or "browser" in item.path.parts


def is_left_out(item: pytest.Item) -> bool:
    """Return whether this run is to do without a test; what shows only while it runs is skipped by `need`."""
    if not ALL and item.get_closest_marker("again"):
        return True
    if not QUICK:
        return False
    fixtures = getattr(item, "fixturenames", ())
    other_programs = any(name == "chromium" or name.endswith("_server") for name in fixtures)
    return other_programs or any(item.get_closest_marker(name) for name in ("needs", "long"))


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run a test that is a coroutine function by asyncio, in a loop of its own."""
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    names = inspect.signature(pyfuncitem.obj).parameters
    asyncio.run(pyfuncitem.obj(**{name: pyfuncitem.funcargs[name] for name in names}))
    return True


def pytest_runtest_setup(item: pytest.Item) -> None:
    for marker in item.iter_markers("needs"):
        for name in marker.args:
            need(name)


@pytest.fixture(autouse=True)
def _unconfigured() -> None:
    # Else what one test configures is the next one's default.
    _sessions._configured = None


@pytest.fixture
def free_port() -> int:
    """A TCP port of 127.0.0.1 that nobody listens on."""
    return servers.free_port()


@pytest.fixture(scope="session")
def redis_server() -> Iterator[servers.Server]:
    with servers.start_redis() as server:
        yield server


@pytest.fixture(scope="session")
def memcached_server() -> Iterator[servers.Server]:
    with servers.start_memcached() as server:
        yield server


@pytest.fixture(scope="session")
def postgresql_server() -> Iterator[servers.Server]:
    with servers.start_postgresql() as server:
        yield server


@pytest.fixture(scope="session")
def pgbouncer_server(postgresql_server: servers.Server) -> Iterator[servers.Server]:
    with servers.start_pgbouncer(postgresql_server) as server:
        yield server


@pytest.fixture(scope="session")
def mariadb_server() -> Iterator[servers.Server]:
    with servers.start_mariadb() as server:
        yield server


class Served(NamedTuple):
    """An application that is being served: where, and how to end it before the test does."""

    url: str
    port: int
    stop: Callable[[], None]


@pytest.fixture
def serve() -> Iterator[Callable[..., Served]]:
    """Serve an ASGI application (or its import string) with uvicorn: `serve(app)`, `serve("examples.demo:app")`.

    Keywords go to `uvicorn.Config`. It runs in a thread of its own until the test ends.
    """
    running: list[Served] = []

    def serve(app: Any, **settings: Any) -> Served:
        served = _serve(app, settings)
        running.append(served)
        return served

    yield serve
    for served in reversed(running):
        served.stop()


def _serve(app: Any, settings: dict[str, Any]) -> Served:
    import uvicorn

    port = settings.pop("port", None) or servers.free_port()
    # Of the parsers that there may be, one that lets pass whatever a browser sends.
    limits = {"timeout_graceful_shutdown": 2, "log_level": "warning", "http": "h11", "loop": "asyncio"}
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=port, **{**limits, **settings}))
    is_up = threading.Event()

    class Thread(threading.Thread):
        failure: BaseException | None = None

        def run(self) -> None:
            try:
                server.run()
            except (Exception, SystemExit) as failure:  # noqa: BLE001 - whatever it is, the test's thread raises it
                self.failure = failure
            finally:
                is_up.set()

    start, shut = server.startup, server.shutdown

    async def startup(*arguments: Any, **keywords: Any) -> None:
        await start(*arguments, **keywords)
        is_up.set()

    async def shutdown(*arguments: Any, **keywords: Any) -> None:
        await shut(*arguments, **keywords)
        # A browser that is busy, or gone, does not say good-bye by TLS in time.
        for connection in list(server.server_state.connections):
            connection.transport.abort()
        await asyncio.sleep(0)

    server.startup, server.shutdown = startup, shutdown  # type: ignore[method-assign]
    thread = Thread(name=f"uvicorn on port {port}", daemon=True)
    thread.start()

    def stop() -> None:
        server.should_exit = True
        thread.join(PATIENCE)
        if thread.is_alive():
            pytest.fail(f"{thread.name} did not end")

    if not is_up.wait(PATIENCE) or not server.started:
        stop()
        raise RuntimeError(f"the application did not start: {thread.failure!r}") from thread.failure
    return Served(f"http://127.0.0.1:{port}", port, stop)


@pytest.fixture(scope="session")
def chromium() -> Iterator["Browser"]:
    """Headless Chromium, driven by Playwright. `chromium.new_context()` is a visitor with cookies of its own."""
    need("chromium")
    from playwright.sync_api import expect, sync_playwright

    milliseconds = PATIENCE * 1000
    expect.set_options(timeout=milliseconds)
    quiet = ("gpu", "quic", "background-networking", "component-update", "sync")
    arguments = ["--no-sandbox", "--no-first-run", *(f"--disable-{name}" for name in quiet)]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=str(PARTS["chromium"].find()), headless=True, args=arguments, timeout=milliseconds
        )
        browser.on("context", lambda context: context.set_default_timeout(milliseconds))
        yield browser
        browser.close()

"""Real servers in this process, each on a free port of loopback, for the time of a suite."""

import asyncio
import json
import os
import socket
import threading
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

from server_session._urls import open_store
from server_session.testing import Site
from server_session.testing._adapters import Client
from server_session.testing._browser import Browser
from tests.parts import ALL
from tests.patience import PATIENCE
from tests.servers import Server

__all__ = [
    "AWAITED",
    "BLOCKING",
    "OverRedis",
    "aiohttp_serves",
    "asked_by",
    "asked_by_webtest",
    "check_a_timedelta_watches",
    "hypercorn_serves",
    "listening",
    "on_a_loop",
    "uvicorn_serves",
    "waitress_serves",
]

# Over which stores a suite runs: in the short form over the one in which most can go wrong.
AWAITED = ("memory", "yielding", "file") if ALL else ("yielding",)
BLOCKING = ("memory", "file") if ALL else ("memory",)


class OverRedis:
    """For the suite of a framework: its real server, with Redis behind."""

    def test_nothing_is_lost_of_overlapping_requests_over_redis(self: Any, redis_server: Server) -> None:
        # Half of them by the mapping, and half by a function.
        site = Site.over(open_store(redis_server.url), blocks=self.blocks)
        with self.serve(self.make_app(site)) as port, ThreadPoolExecutor(50) as pool:
            browser = Browser(port)
            browser.post("/write?kept=yes")
            paths = [f"{path}?{path[1]}{number}=v" for path in ("/write", "/set/none") for number in range(25)]
            assert {answered.status for answered in pool.map(lambda path: browser.copy().post(path), paths)} == {200}
            written = [path.partition("?")[2].partition("=")[0] for path in paths]
            assert json.loads(browser.get("/read").text) == {"kept": "yes", **dict.fromkeys(written, "v")}


def asked_by(client: Any) -> Client:
    """Return the test client of Starlette or Litestar as the suite asks it."""

    def ask(method: str, path: str, headers: dict[str, str]) -> tuple[int, str]:
        response = client.request(method, path, headers=headers)
        return response.status_code, response.text

    return ask


@contextmanager
def asked_by_webtest(app: Any) -> Iterator[Client]:
    """Ask a WSGI application by WebTest, which knows no server."""
    from webtest import TestApp

    client = TestApp(app)

    def ask(method: str, path: str, headers: dict[str, str]) -> tuple[int, str]:
        response = client.request(path, method=method, headers=headers, expect_errors=True)
        return response.status_int, response.text

    yield ask


@contextmanager
def listening() -> Iterator[socket.socket]:
    """Listen on a free port."""
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", 0))
        listener.listen(128)
        listener.setblocking(False)
        yield listener


@contextmanager
def on_a_loop(serve: Callable[[asyncio.Event, Callable[[], None]], Awaitable[None]]) -> Iterator[None]:
    """Run a server on an event loop in a thread: it is given an event that tells it to end, and says that it serves."""
    serving, over = threading.Event(), threading.Event()
    loop = asyncio.new_event_loop()
    end = asyncio.Event()
    failed: list[BaseException] = []

    def run() -> None:
        try:
            with asyncio.Runner(loop_factory=lambda: loop) as runner:
                runner.run(serve(end, serving.set))
        except BaseException as error:  # noqa: BLE001 - the test is told
            failed.append(error)
        finally:
            serving.set()
            over.set()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    assert serving.wait(PATIENCE), "the server does not serve"
    try:
        if not failed:
            yield
    finally:
        if not over.is_set():
            loop.call_soon_threadsafe(end.set)
        thread.join(PATIENCE)
        if failed:
            raise failed[0]
    assert not thread.is_alive(), "the server does not end"


@contextmanager
def uvicorn_serves(app: Any, **options: Any) -> Iterator[int]:
    import uvicorn

    with listening() as listener:
        options = {
            "log_level": "warning",
            "ws": "wsproto",
            "lifespan": "off",
            "timeout_graceful_shutdown": 1,
            **options,
        }
        server = uvicorn.Server(uvicorn.Config(app, **options))

        async def serve(end: asyncio.Event, serving: Callable[[], None]) -> None:
            task = asyncio.ensure_future(server.serve([listener]))
            while not server.started and not task.done():  # noqa: ASYNC110 - it tells by nothing else
                await asyncio.sleep(0.005)
            serving()
            waiting = asyncio.ensure_future(end.wait())
            await asyncio.wait({task, waiting}, return_when=asyncio.FIRST_COMPLETED)
            server.should_exit = True
            await task
            waiting.cancel()

        with on_a_loop(serve):
            yield listener.getsockname()[1]


@contextmanager
def hypercorn_serves(app: Any) -> Iterator[int]:
    """Serve by Hypercorn, HTTP/2 too to whoever begins with it."""
    from hypercorn.asyncio import serve as hypercorn_serve
    from hypercorn.config import Config

    with listening() as listener:
        config = Config()
        config.bind = [f"fd://{os.dup(listener.fileno())}"]
        config.graceful_timeout = config.shutdown_timeout = 1.0
        config.errorlog = None

        async def serve(end: asyncio.Event, serving: Callable[[], None]) -> None:
            # It listens already: who comes now waits.
            serving()
            await hypercorn_serve(app, config, shutdown_trigger=end.wait)

        with on_a_loop(serve):
            yield listener.getsockname()[1]


@contextmanager
def aiohttp_serves(app: Any, **options: Any) -> Iterator[int]:
    """Serve by aiohttp's own server."""
    from aiohttp import web

    with listening() as listener:

        async def serve(end: asyncio.Event, serving: Callable[[], None]) -> None:
            runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1, **options)
            await runner.setup()
            await web.SockSite(runner, listener).start()
            serving()
            await end.wait()
            await runner.cleanup()

        with on_a_loop(serve):
            yield listener.getsockname()[1]


@contextmanager
def waitress_serves(app: Any, *, threads: int = 8) -> Iterator[int]:
    from waitress import create_server, wasyncore

    server = create_server(app, host="127.0.0.1", port=0, threads=threads, clear_untrusted_proxy_headers=True)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        yield server.effective_port
    finally:
        # In its own thread, which else waits for sockets that are closed.
        server.trigger.pull_trigger(lambda: wasyncore.close_all(server._map))
        thread.join(PATIENCE)
        server.task_dispatcher.shutdown()


def check_a_timedelta_watches(suite: Any) -> None:
    """Hold that an adapter's `watch` may be a timedelta, by its suite's test of a WebSocket."""

    class Watching(suite):  # type: ignore[misc]
        stores = ("memory",)

        def make_app(self, site: Site) -> Any:
            site.watch = timedelta(seconds=site.watch)  # type: ignore[assignment]
            return super().make_app(site)

    try:
        Watching().test_websocket_is_closed_when_its_session_ends()
    finally:
        Watching.teardown_class()

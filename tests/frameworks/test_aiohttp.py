"""The adapter for aiohttp keeps the contract of adapters, and what is aiohttp's own goes through it."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from jinja2 import DictLoader, Environment

from server_session.adapters import template_functions
from server_session.aiohttp import get_session, setup
from server_session.testing import AdapterContract, Encoded, Failed, Headed, Here, Page, Redirected, Site, Streamed
from tests.frameworks.serving import listening, on_a_loop

TEMPLATES = Environment(
    loader=DictLoader({"form": "<form>{{ csrf_input() }}</form>"}), autoescape=True, enable_async=True
)
TEMPLATES.globals.update(template_functions())


def view_of(page: Page) -> Any:
    async def view(request: web.Request) -> web.StreamResponse:
        async def form() -> dict[str, Any]:
            return {**await request.post()}

        async def body() -> bytes:
            return b"".join([chunk async for chunk in request.content.iter_any()])

        async def render() -> str:
            await get_session(request)
            return await TEMPLATES.get_template("form").render_async()

        given = web.Response()
        here = Here(lambda: get_session(request), request, request.query, form, body, given, render)
        match await page.body(here):
            case Redirected(path):
                raise web.HTTPSeeOther(path)
            case Failed():
                raise web.HTTPConflict
            case Streamed(chunks):
                streamed = web.StreamResponse()
                await streamed.prepare(request)
                async for chunk in chunks:
                    await streamed.write(chunk)
                return streamed
            case Encoded(value):
                return web.json_response(value)
            case Headed(text, headers):
                return web.Response(text=text, headers=headers)
            case text:
                given.text = str(text)
                return given

    return page.mark(view)


@web.middleware
async def own_pages(request: web.Request, handler: Any) -> web.StreamResponse:
    try:
        return await handler(request)
    except (web.HTTPForbidden, web.HTTPServiceUnavailable) as error:
        return web.Response(text=f"own page of {error.status}", status=error.status)


@contextmanager
def aiohttp_serves(app: web.Application) -> Iterator[int]:
    """Serve the application by aiohttp's own server."""
    with listening() as listener:

        async def serve(end: asyncio.Event, serving: Callable[[], None]) -> None:
            runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
            await runner.setup()
            await web.SockSite(runner, listener).start()
            serving()
            await end.wait()
            await runner.cleanup()

        with on_a_loop(serve):
            yield listener.getsockname()[1]


class TestAiohttp(AdapterContract):
    stores = ("memory", "yielding")

    def make_app(self, site: Site) -> web.Application:
        async def socket(request: web.Request) -> web.WebSocketResponse:
            websocket = web.WebSocketResponse()
            await websocket.prepare(request)
            await websocket.send_str(await site.greeting(get_session(request)))
            await websocket.receive()
            return websocket

        app, inner = web.Application(middlewares=[own_pages]), web.Application()
        setup(app, site.sessions, site.watch)
        for page in site.pages:
            for method in page.methods:
                router, path = (inner.router, page.path[len("/inner") :]) if page.is_inner else (app.router, page.path)
                router.add_route(method, path, view_of(page))
        app.router.add_get("/socket", socket)
        app.add_subapp("/inner", inner)
        return app

    def serve(self, app: web.Application) -> AbstractContextManager[int]:
        return aiohttp_serves(app)

    @contextmanager
    def client(self, app: web.Application) -> Iterator[Any]:
        with asyncio.Runner() as runner:

            async def opened() -> TestClient[Any, Any]:
                client = TestClient(TestServer(app))
                await client.start_server()
                return client

            async def asked(method: str, path: str, headers: dict[str, str]) -> tuple[int, str]:
                response = await client.request(method, path, headers=headers)
                return response.status, await response.text()

            client = runner.run(opened())
            try:
                yield lambda *arguments: runner.run(asked(*arguments))
            finally:
                runner.run(client.close())

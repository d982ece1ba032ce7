"""The adapter for Quart keeps the contract of adapters, and what else Quart's users count on."""

import asyncio
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import pytest
from quart import (
    Blueprint,
    Quart,
    Response,
    abort,
    jsonify,
    redirect,
    render_template_string,
    request,
    session,
    websocket,
)

from server_session.quart import ServerSession
from server_session.testing import AdapterContract, Encoded, Failed, Headed, Here, Page, Redirected, Site, Streamed
from tests.frameworks.serving import hypercorn_serves, over_redis
from tests.servers import Server


def view_of(page: Page) -> Any:
    async def view() -> Any:  # noqa: RET503 - to abort is to raise
        async def body() -> bytes:
            return b"".join([chunk async for chunk in request.body])

        async def form() -> dict[str, Any]:
            return {**(await request.form)}

        def mapping() -> Any:
            # Beyond the view there is no proxy.
            return session._get_current_object()

        given = Response("")
        here = Here(mapping, request, request.args, form, body, given)
        here.render = lambda: render_template_string("<form>{{ csrf_input() }}</form>")
        match await page.body(here):
            case Redirected(path):
                abort(redirect(path, 303))
            case Failed(status):
                abort(status)
            case Streamed(chunks):
                return Response(chunks)
            case Encoded(value):
                # As with cookies of its own: nobody can encode a proxy.
                return jsonify(dict(value))
            case Headed(text, headers):
                return text, headers
            case text:
                given.set_data(text)
                return given

    view.__name__ = page.name
    return page.mark(view)


async def own_page(error: Any) -> tuple[str, int]:
    return f"own page: {error.description}", error.code


class TestQuart(AdapterContract):
    stores = ("memory", "yielding")

    def make_app(self, site: Site) -> Quart:
        app = Quart(__name__)
        app.register_error_handler(403, own_page)
        app.register_error_handler(503, own_page)
        ServerSession(app, site.sessions, watch=site.watch)
        inner = Blueprint("inner", __name__, url_prefix="/inner")
        for page in site.pages:
            where, path = (inner, page.path.removeprefix("/inner")) if page.is_inner else (app, page.path)
            where.add_url_rule(path, page.name, view_of(page), methods=[*page.methods])
        app.register_blueprint(inner)

        @app.websocket("/socket")
        async def socket() -> None:
            await websocket.accept()
            await websocket.send(await site.greeting(session._get_current_object()))
            await websocket.receive()

        return app

    def serve(self, app: Quart) -> AbstractContextManager[int]:
        return hypercorn_serves(app)

    @contextmanager
    def client(self, app: Quart) -> Iterator[Any]:
        with asyncio.Runner() as runner:
            client = app.test_client()

            def ask(method: str, path: str, headers: dict[str, str]) -> tuple[int, str]:
                async def answered() -> tuple[int, str]:
                    response = await client.open(path, method=method, headers=headers)
                    return response.status_code, await response.get_data(as_text=True)

                return runner.run(answered())

            yield ask

    @pytest.mark.needs("redis-server")
    def test_nothing_is_lost_of_overlapping_requests_over_redis(self, redis_server: Server) -> None:
        over_redis(self, redis_server.url)

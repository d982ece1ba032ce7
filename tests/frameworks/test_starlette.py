"""The adapter for Starlette keeps the contract of adapters."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from jinja2 import DictLoader, Environment
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.templating import Jinja2Templates
from starlette.testclient import TestClient
from starlette.websockets import WebSocket

from server_session.adapters import template_functions
from server_session.starlette import SessionMiddleware
from server_session.testing import AdapterContract, Encoded, Failed, Headed, Here, Page, Redirected, Site, Streamed
from tests.frameworks.serving import AWAITED, asked_by, uvicorn_serves

TEMPLATES = Jinja2Templates(
    env=Environment(loader=DictLoader({"form": "<form>{{ csrf_input() }}</form>"}), autoescape=True)
)
TEMPLATES.env.globals.update(template_functions())


def view_of(page: Page) -> Any:
    async def view(request: Request) -> Response:
        async def body() -> bytes:
            return b"".join([chunk async for chunk in request.stream()])

        async def form() -> dict[str, Any]:
            return {**await request.form()}

        def replace(mapping: Any) -> None:
            request.scope["session"] = mapping

        given = Response()
        here = Here(lambda: request.session, request, request.query_params, form, body, given)
        here.render, here.replace = lambda: TEMPLATES.get_template("form").render(), replace
        match await page.body(here):
            case Redirected(path):
                raise HTTPException(303, headers={"Location": path})
            case Failed(status):
                raise HTTPException(status)
            case Streamed(chunks):
                return StreamingResponse(chunks)
            case Encoded(value):
                return JSONResponse(value)
            case Headed(text, headers):
                response = PlainTextResponse(text)
                for name, value in headers:
                    response.headers.append(name, value)
                return response
            case text:
                response = RedirectResponse("/read", 303) if text is None else PlainTextResponse(str(text))
                for cookie in given.headers.getlist("set-cookie"):
                    response.headers.append("set-cookie", cookie)
                return response

    return page.mark(view)


class TestStarlette(AdapterContract):
    stores = AWAITED
    has_own_pages = False
    can_replace = True
    middleware: Any = SessionMiddleware

    def make_app(self, site: Site) -> Starlette:
        async def socket(websocket: WebSocket) -> None:
            await websocket.accept()
            await websocket.send_text(await site.greeting(websocket.session))
            await websocket.receive()

        def routes(inner: bool) -> list[Route]:
            start = len("/inner") if inner else 0
            return [
                Route(page.path[start:], view_of(page), methods=[*page.methods])
                for page in site.pages
                if page.is_inner == inner
            ]

        app = Starlette(
            routes=[*routes(False), Mount("/inner", routes=routes(True)), WebSocketRoute("/socket", socket)],
        )
        app.add_middleware(self.middleware, sessions=site.sessions, watch=site.watch)
        return app

    def serve(self, app: Starlette) -> AbstractContextManager[int]:
        return uvicorn_serves(app)

    @contextmanager
    def client(self, app: Starlette) -> Iterator[Any]:
        yield asked_by(TestClient(app))

"""The adapter for Litestar keeps the contract of adapters, and what else Litestar's users count on."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from jinja2 import DictLoader, Environment
from litestar import HttpMethod, Litestar, MediaType, Request, Response, Router, WebSocket, websocket
from litestar.exceptions import HTTPException
from litestar.handlers import HTTPRouteHandler
from litestar.plugins.jinja import JinjaTemplateEngine
from litestar.response import Redirect, Stream, Template
from litestar.template import TemplateConfig
from litestar.testing import TestClient

from server_session.litestar import ServerSession
from server_session.testing import AdapterContract, Encoded, Failed, Headed, Here, Page, Redirected, Site, Streamed
from tests.frameworks.serving import uvicorn_serves

AnyRequest = Request[Any, Any, Any]


def templates() -> TemplateConfig[Any]:
    engine = Environment(loader=DictLoader({"form": "<form>{{ csrf_field() }}</form>"}), autoescape=True)
    return TemplateConfig(instance=JinjaTemplateEngine.from_environment(engine))


def own_page(_: AnyRequest, error: Exception) -> Response[str]:
    assert isinstance(error, HTTPException)
    return Response(f"own page: {error.detail}", status_code=error.status_code, media_type=MediaType.TEXT)


def text(content: str, **options: Any) -> Response[str]:
    return Response(content, media_type=MediaType.TEXT, status_code=200, **options)


def view_of(page: Page) -> HTTPRouteHandler:
    async def view(request: AnyRequest) -> Response[Any]:
        async def body() -> bytes:
            return b"".join([chunk async for chunk in request.stream()])

        async def form() -> dict[str, Any]:
            return {**await request.form()}

        def render() -> str:
            return "rendered"

        def replace(mapping: Any) -> None:
            if mapping is None:
                request.clear_session()
            else:
                request.set_session(mapping)

        given = text("")
        here = Here(lambda: request.session, request, request.query_params, form, body, given)
        here.render, here.replace = render, replace
        match await page.body(here):
            case Redirected(path):
                return Redirect(path, status_code=303)
            case Failed(status):
                raise HTTPException(status_code=status)
            case Streamed(chunks):
                return Stream(chunks, status_code=200)
            case Encoded(value):
                return Response(value, status_code=200)
            case Headed(said, [(_, cookie), (name, value)]):
                return text(said, headers={"Set-Cookie": cookie, name: value})
            case "rendered":
                return Template("form", media_type=MediaType.HTML)
            case said:
                return text(str(said), cookies=given.cookies)

    methods = [HttpMethod(method) for method in page.methods]
    path = page.path.removeprefix("/inner")
    return HTTPRouteHandler(path, http_method=methods)(page.mark(view))


class TestLitestar(AdapterContract):
    stores = ("memory", "yielding")
    can_replace = True

    def make_app(self, site: Site) -> Litestar:
        @websocket("/socket")
        async def socket(socket: WebSocket[Any, Any, Any]) -> None:
            await socket.accept()
            await socket.send_text(await site.greeting(socket.session))
            await socket.receive()

        inner = Router("/inner", route_handlers=[view_of(page) for page in site.pages if page.is_inner])
        return Litestar(
            [socket, inner, *(view_of(page) for page in site.pages if not page.is_inner)],
            plugins=[ServerSession(site.sessions, watch=site.watch)],
            exception_handlers={403: own_page, 503: own_page},
            template_config=templates(),
            openapi_config=None,
            logging_config=None,
        )

    def serve(self, app: Litestar) -> AbstractContextManager[int]:
        return uvicorn_serves(app)

    @contextmanager
    def client(self, app: Litestar) -> Iterator[Any]:
        with TestClient(app) as client:

            def ask(method: str, path: str, headers: dict[str, str]) -> tuple[int, str]:
                response = client.request(method, path, headers=headers)
                return response.status_code, response.text

            yield ask

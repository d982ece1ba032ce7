"""The adapter for Tornado keeps the contract of adapters, and what is Tornado's own goes through it."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from tornado.httpserver import HTTPServer
from tornado.template import DictLoader
from tornado.testing import AsyncHTTPTestCase
from tornado.web import Application, HTTPError

from server_session.testing import AdapterContract, Encoded, Failed, Headed, Here, Page, Redirected, Site, Streamed
from server_session.tornado import SessionHandler, SessionWebSocketHandler
from tests.frameworks.serving import listening, on_a_loop

TEMPLATES = DictLoader({"form": "<form>{% raw csrf_input() %}</form>"})


class SiteHandler(SessionHandler):
    def write_error(self, status_code: int, **_: Any) -> None:
        self.write(f"own page of {status_code}")


def handler_of(page: Page) -> type[SessionHandler]:
    class Handler(SiteHandler):
        async def answer(self) -> None:
            query = {name: self.get_query_argument(name) for name in self.request.query_arguments}
            here = Here(lambda: self.session, self.request, query, self.form, lambda: self.request.body, self)
            here.render = lambda: self.render_string("form").decode()
            match await page.body(here):
                case Redirected(path):
                    self.redirect(path)
                case Failed(status):
                    raise HTTPError(status)
                case Streamed(chunks):
                    async for chunk in chunks:
                        self.write(chunk)
                        await self.flush()
                case Encoded(value):
                    self.write(value)
                case Headed(text, headers):
                    for name, value in headers:
                        self.add_header(name, value)
                    self.write(text)
                case text:
                    self.finish(str(text))

        def form(self) -> dict[str, str]:
            return {name: self.get_body_argument(name) for name in self.request.body_arguments}

    for method in page.methods:
        setattr(Handler, method.lower(), Handler.answer)
    return page.mark(Handler)


@contextmanager
def tornado_serves(app: Application) -> Iterator[int]:
    """Serve the application by Tornado's own server."""
    with listening() as listener:

        async def serve(end: asyncio.Event, serving: Callable[[], None]) -> None:
            server = HTTPServer(app)
            server.add_sockets([listener])
            serving()
            await end.wait()
            server.stop()
            await server.close_all_connections()

        with on_a_loop(serve):
            yield listener.getsockname()[1]


class TestTornado(AdapterContract):
    stores = ("memory", "yielding")

    def make_app(self, site: Site) -> Application:
        class Socket(SessionWebSocketHandler):
            async def open(self) -> None:
                await self.write_message(await site.greeting(self.session))

        settings: dict[str, Any] = {
            "sessions": site.sessions,
            "session_watch": site.watch,
            "template_loader": TEMPLATES,
        }
        routes = [(page.path, handler_of(page)) for page in site.pages if not page.is_inner]
        inner = Application([(page.path, handler_of(page)) for page in site.pages if page.is_inner], **settings)
        return Application([*routes, ("/socket", Socket), (r"/inner/.*", inner)], **settings)

    def serve(self, app: Application) -> AbstractContextManager[int]:
        return tornado_serves(app)

    @contextmanager
    def client(self, app: Application) -> Iterator[Any]:
        class Case(AsyncHTTPTestCase):
            cookie = ""

            def get_app(self) -> Application:
                return app

            def runTest(self) -> None:  # noqa: N802 - unittest's own name
                pass

            def ask(self, method: str, path: str, headers: dict[str, str]) -> tuple[int, str]:
                body = None if method == "GET" else ""
                response = self.fetch(path, method=method, headers={**headers, "Cookie": self.cookie}, body=body)
                self.cookie = response.headers.get("Set-Cookie", self.cookie).partition(";")[0]
                return response.code, response.body.decode()

        case = Case()
        case.setUp()
        try:
            yield case.ask
        finally:
            case.tearDown()

"""The adapter for Bottle keeps the contract of adapters."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from bottle import Bottle, HTTPError, HTTPResponse, SimpleTemplate, request, response
from webtest import TestApp

from server_session.bottle import ServerSession
from server_session.testing import AdapterContract, Encoded, Failed, Headed, Here, Page, Redirected, Site, Streamed
from tests.frameworks.serving import waitress_serves

FORM = SimpleTemplate("<form>{{!csrf_input()}}</form>")


def view_of(page: Page) -> Any:
    def body() -> bytes:
        # Bottle leaves the temporary file of a large one open.
        with request.body as file:
            return file.read()

    def view() -> Any:
        here = Here(
            lambda: request.session,
            request,
            request.query,
            lambda: dict(request.forms.decode()),
            body,
            response,
            FORM.render,
        )
        match page.run(here):
            case Redirected(path):
                raise HTTPResponse(status=303, Location=path)
            case Failed(status):
                raise HTTPError(status)
            case Streamed(chunks):
                return chunks
            case Encoded(value):
                return value.copy()
            case Headed(text, headers):
                for name, value in headers:
                    response.add_header(name, value)
                return text
            case text:
                return text

    return page.mark(view)


def own_page(error: HTTPError) -> str:
    return f"own page of {error.status_code}"


class TestBottle(AdapterContract):
    blocks = True
    stores = ("memory", "file")
    # Bottle serves none.
    has_websockets = False

    def make_app(self, site: Site) -> Bottle:
        app, inner = Bottle(), Bottle()
        app.install(ServerSession(site.sessions))
        for page in site.pages:
            where, path = (inner, page.path.removeprefix("/inner")) if page.is_inner else (app, page.path)
            where.route(path, [*page.methods], view_of(page))
        app.mount("/inner/", inner)
        for status in (403, 503):
            app.error(status, own_page)
        return app

    def serve(self, app: Bottle) -> AbstractContextManager[int]:
        return waitress_serves(app)

    @contextmanager
    def client(self, app: Bottle) -> Iterator[Any]:
        client = TestApp(app)

        def ask(method: str, path: str, headers: dict[str, str]) -> tuple[int, str]:
            response = client.request(path, method=method, headers=headers, expect_errors=True)
            return response.status_int, response.text

        yield ask

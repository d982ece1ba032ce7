"""The adapter for Flask keeps the contract of adapters."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from flask import (
    Blueprint,
    Flask,
    Response,
    abort,
    jsonify,
    redirect,
    render_template_string,
    request,
    session,
    stream_with_context,
)
from werkzeug.exceptions import HTTPException

from server_session.flask import ServerSession
from server_session.testing import AdapterContract, Encoded, Failed, Headed, Here, Page, Redirected, Site, Streamed
from tests.frameworks.serving import BLOCKING, waitress_serves


def view_of(page: Page) -> Any:
    def view() -> Response:
        response = Response(mimetype="text/plain")
        here = Here(
            lambda: session,
            request,
            request.args,
            request.form.to_dict,
            request.stream.read,
            response,
            lambda: render_template_string("<form>{{ csrf_input() }}</form>"),
        )
        match page.run(here):
            case Redirected(path):
                abort(redirect(path, 303))
            case Failed(status):
                abort(status)
            case Streamed(chunks):
                response.response = stream_with_context(chunks)
            case Encoded(value):
                return jsonify(value.copy())
            case Headed(text, headers):
                response.data = text
                for name, value in headers:
                    response.headers.add(name, value)
            case text:
                response.data = text
        return response

    return page.mark(view)


def own_page(error: HTTPException) -> tuple[str, int]:
    return f"own page of {error.code}", error.code or 500


class TestFlask(AdapterContract):
    blocks = True
    stores = BLOCKING
    # Flask serves none itself.
    has_websockets = False

    def make_app(self, site: Site) -> Flask:
        app, inner = Flask("flask"), Blueprint("inner", "inner", url_prefix="/inner")
        ServerSession(app, sessions=site.sessions)
        for page in site.pages:
            where, path = (inner, page.path.removeprefix("/inner")) if page.is_inner else (app, page.path)
            where.add_url_rule(path, page.name, view_of(page), methods=[*page.methods])
        app.register_blueprint(inner)
        for status in (403, 503):
            app.register_error_handler(status, own_page)
        return app

    def serve(self, app: Flask) -> AbstractContextManager[int]:
        return waitress_serves(app)

    @contextmanager
    def client(self, app: Flask) -> Iterator[Any]:
        client = app.test_client()

        def ask(method: str, path: str, headers: dict[str, str]) -> tuple[int, str]:
            response = client.open(path, method=method, headers=headers)
            return response.status_code, response.text

        yield ask

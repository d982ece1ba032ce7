"""Applications of Falcon's ASGI: without sessions, and with those of this project."""

from typing import Any

from falcon import asgi

from bench.driving import AsgiDriver
from bench.subjects.falcon import PAGES, Resource, untouched
from server_session import get_csrf_token
from server_session.falcon import ServerSession, csrf_protect


class AwaitingResource(Resource):
    """Answers with what a page says, which may wait."""

    async def on_get(self, req: Any, resp: Any) -> None:  # type: ignore[override]
        said = self.page(req)
        resp.text = said if isinstance(said, str) else await said

    on_post = csrf_protect(strict=True)(on_get)


def bare(_: str = "") -> AsgiDriver:
    """Return the application without sessions."""
    app = asgi.App()
    for path in PAGES:
        app.add_route(path, AwaitingResource(untouched))
    return AsgiDriver(app)


def ours(place: str) -> AsgiDriver:
    """Return the application with the sessions of this project."""
    app = asgi.App()
    ServerSession(app, session_store=place)
    for path, page in {**PAGES, "/token": get_csrf_token}.items():
        app.add_route(path, AwaitingResource(page))
    return AsgiDriver(app)

"""Applications of Falcon's WSGI: without sessions, and with those of this project."""

from collections.abc import Callable, Mapping
from typing import Any

import falcon

from bench.asking import KEY, VALUES, next_value
from bench.driving import WsgiDriver
from server_session.falcon import ServerSession, csrf_protect
from server_session.sync import get_csrf_token


def untouched(_: falcon.Request) -> str:
    return "ok"


def read(req: falcon.Request) -> str:
    value: str = req.context.session[KEY]
    return value


def write(req: falcon.Request) -> str:
    value = req.context.session[KEY] = next_value()
    return value


def first(req: falcon.Request) -> str:
    req.context.session.update(VALUES)
    return "ok"


PAGES: Mapping[str, Callable[[falcon.Request], str]] = {
    "/untouched": untouched,
    "/read": read,
    "/write": write,
    "/first": first,
    "/token": get_csrf_token,
    "/check": untouched,
}


class Resource:
    """Answers with what a page says."""

    def __init__(self, page: Callable[[Any], Any]) -> None:
        self.page = page

    def on_get(self, req: Any, resp: Any) -> None:
        resp.text = self.page(req)

    on_post = csrf_protect(strict=True)(on_get)


def bare(_: str = "") -> WsgiDriver:
    """Return the application without sessions."""
    app = falcon.App()
    for path in PAGES:
        app.add_route(path, Resource(untouched))
    return WsgiDriver(app)


def ours(place: str) -> WsgiDriver:
    """Return the application with the sessions of this project."""
    app = falcon.App()
    ServerSession(app, session_store=place)
    for path, page in PAGES.items():
        app.add_route(path, Resource(page))
    return WsgiDriver(app)

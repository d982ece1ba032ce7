"""Applications of Bottle: without sessions, with those of this project, and with Beaker's."""

from collections.abc import Callable, Mapping
from typing import Any

from bottle import Bottle, request

from bench.asking import KEY, VALUES, next_value
from bench.driving import WsgiDriver
from bench.subjects.wsgi import beaker_options
from server_session.bottle import ServerSession, csrf_protect
from server_session.sync import get_csrf_token


def untouched() -> str:
    return "ok"


def pages_over(get: Callable[[], Any], save: Callable[[Any], object] = lambda _: None) -> dict[str, Any]:
    """Return the pages over what gets the session, which is to be saved so."""

    def read() -> str:
        value: str = get()[KEY]
        return value

    def write() -> str:
        value = get()[KEY] = next_value()
        save(get())
        return value

    def first() -> str:
        get().update(VALUES)
        save(get())
        return "ok"

    return {"/untouched": untouched, "/read": read, "/write": write, "/first": first}


@csrf_protect(strict=True)
def check() -> str:
    return "ok"


OURS: Mapping[str, Any] = {**pages_over(lambda: request.session), "/token": get_csrf_token, "/check": check}


def make_app(pages: Mapping[str, Any]) -> Bottle:
    """Return the application of these pages."""
    app = Bottle()
    for path, page in pages.items():
        app.route(path, "POST" if path == "/check" else "GET", page)
    return app


def bare(_: str = "") -> WsgiDriver:
    """Return the application without sessions."""
    return WsgiDriver(make_app(dict.fromkeys(OURS, untouched)))


def ours(place: str) -> WsgiDriver:
    """Return the application with the sessions of this project."""
    app = make_app(OURS)
    app.install(ServerSession(session_store=place))
    return WsgiDriver(app)


def beaker(place: str) -> WsgiDriver:
    """Return the application with Beaker, as Bottle's own pages have it."""
    from beaker.middleware import SessionMiddleware

    pages = pages_over(lambda: request.environ["beaker.session"], lambda session: session.save())
    return WsgiDriver(SessionMiddleware(make_app(pages), beaker_options(place)))

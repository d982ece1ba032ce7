"""Plain WSGI applications: without sessions, with those of this project, and with Beaker's."""

from collections.abc import Callable, Mapping
from typing import Any

from bench.asking import KEY, VALUES, next_value
from bench.driving import WsgiDriver
from server_session import Sessions
from server_session.wsgi import SESSION, SessionMiddleware

Environ = dict[str, Any]
Page = Callable[[Environ], str]


class Application:
    """A WSGI application of a few pages."""

    def __init__(self, pages: Mapping[str, Page]) -> None:
        self._pages = pages

    def __call__(self, environ: Environ, start_response: Any) -> list[bytes]:
        body = self._pages[environ["PATH_INFO"]](environ).encode()
        start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
        return [body]


def untouched(_: Environ) -> str:
    return "ok"


def pages_on(name: str, save: Callable[[Any], object] = lambda _: None) -> dict[str, Page]:
    """Return the pages over a mapping in the environ that is to be saved so."""

    def read(environ: Environ) -> str:
        value: str = environ[name][KEY]
        return value

    def write(environ: Environ) -> str:
        value = environ[name][KEY] = next_value()
        save(environ[name])
        return value

    def first(environ: Environ) -> str:
        environ[name].update(VALUES)
        save(environ[name])
        return "ok"

    return {"/untouched": untouched, "/check": untouched, "/read": read, "/write": write, "/first": first}


def bare(_: str = "") -> WsgiDriver:
    """Return the application without sessions."""
    return WsgiDriver(
        Application(dict.fromkeys(("/untouched", "/read", "/write", "/first", "/token", "/check"), untouched))
    )


def ours(place: str) -> WsgiDriver:
    """Return the application with the sessions of this project."""
    sessions = Sessions(session_store=place)
    pages = pages_on(SESSION)
    pages["/token"] = lambda _: sessions.sync.get_csrf_token()
    return WsgiDriver(SessionMiddleware(Application(pages), sessions))


def beaker(place: str) -> WsgiDriver:
    """Return the application with Beaker."""
    from beaker.middleware import SessionMiddleware

    pages = pages_on("beaker.session", lambda session: session.save())
    return WsgiDriver(SessionMiddleware(Application(pages), beaker_options(place)))


def beaker_options(place: str) -> dict[str, Any]:
    """Return what Beaker is told to keep its sessions in memory, on Redis or in files."""
    if place == "memory:":
        where = {"session.type": "memory"}
    elif place.startswith("redis:"):
        where = {"session.type": "ext:redis", "session.url": place}
    else:
        where = {"session.type": "file", "session.data_dir": place.removeprefix("file:")}
    return {"session.timeout": 1800, **where}

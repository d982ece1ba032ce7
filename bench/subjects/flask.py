"""Applications of Flask: without sessions, and with those of several libraries."""

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from flask import Flask, session

from bench.asking import KEY, VALUES, next_value
from bench.driving import WsgiDriver
from server_session.flask import ServerSession, csrf_protect


def untouched() -> str:
    return "ok"


def read() -> str:
    value: str = session[KEY]
    return value


def write() -> str:
    value = session[KEY] = next_value()
    return value


def first() -> str:
    session.update(VALUES)
    return "ok"


@csrf_protect(strict=True)
def check() -> str:
    return "ok"


ROUTES: Mapping[str, Any] = {"/untouched": untouched, "/read": read, "/write": write, "/first": first}


def make_app(routes: Mapping[str, Any]) -> Flask:
    """Return an application of these views."""
    app = Flask(__name__)
    for path, view in routes.items():
        app.add_url_rule(path, path, view, methods=["POST" if path == "/check" else "GET"])
    return app


def bare(_: str = "") -> WsgiDriver:
    """Return the application without sessions: Flask's own stay closed where there is no key to sign with."""
    return WsgiDriver(make_app(dict.fromkeys((*ROUTES, "/token", "/check"), untouched)))


def ours(place: str) -> WsgiDriver:
    """Return the application with the sessions of this project."""
    app = make_app({**ROUTES, "/check": check})
    extension = ServerSession(app, session_store=place)
    app.add_url_rule("/token", "/token", extension.sessions.sync.get_csrf_token)
    return WsgiDriver(app)


def cookie(_: str) -> WsgiDriver:
    """Return the application with Flask's own sessions, which are in a signed cookie."""
    app = make_app(ROUTES)
    app.secret_key = "k" * 32
    return WsgiDriver(app)


def flask_session(place: str) -> WsgiDriver:
    """Return the application with Flask-Session, on Redis or on cachelib's files."""
    from flask_session import Session

    app = make_app(ROUTES)
    app.permanent_session_lifetime = timedelta(seconds=1800)
    if place.startswith("redis:"):
        from redis import Redis

        app.config.update({"SESSION_TYPE": "redis", "SESSION_REDIS": Redis.from_url(place)})
    else:
        from cachelib.file import FileSystemCache

        # With the default threshold it throws sessions away once there are 500.
        cache = FileSystemCache(place.removeprefix("file:"), threshold=0)
        app.config.update({"SESSION_TYPE": "cachelib", "SESSION_CACHELIB": cache})
    Session(app)
    return WsgiDriver(app)

"""Applications of Quart: without sessions, with those of this project, and with Quart-Session."""

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from quart import Quart, session

from bench.asking import KEY, VALUES, next_value
from bench.driving import AsgiDriver
from server_session import get_csrf_token
from server_session.quart import ServerSession, csrf_protect


async def untouched() -> str:
    return "ok"


async def read() -> str:
    value: str = session[KEY]
    return value


async def write() -> str:
    value = session[KEY] = next_value()
    return value


async def first() -> str:
    session.update(VALUES)
    return "ok"


async def token() -> str:
    return await get_csrf_token()


@csrf_protect(strict=True)
async def check() -> str:
    return "ok"


ROUTES: Mapping[str, Any] = {"/untouched": untouched, "/read": read, "/write": write, "/first": first}
OURS = {**ROUTES, "/token": token, "/check": check}


def make_app(routes: Mapping[str, Any]) -> Quart:
    """Return an application of these views."""
    app = Quart(__name__)
    for path, view in routes.items():
        app.add_url_rule(path, path, view, methods=["POST" if path == "/check" else "GET"])
    return app


def bare(_: str = "") -> AsgiDriver:
    """Return the application without sessions: Quart's own stay closed where there is no key to sign with."""
    return AsgiDriver(make_app(dict.fromkeys(OURS, untouched)))


def ours(place: str) -> AsgiDriver:
    """Return the application with the sessions of this project."""
    app = make_app(OURS)
    ServerSession(app, session_store=place)
    return AsgiDriver(app)


def cookie(_: str) -> AsgiDriver:
    """Return the application with Quart's own sessions, which are in a signed cookie."""
    app = make_app(ROUTES)
    app.secret_key = "k" * 32
    return AsgiDriver(app)


def quart_session(place: str) -> AsgiDriver:
    """Return the application with Quart-Session on Redis."""
    from quart_session import Session
    from redis.asyncio import Redis

    app = make_app(ROUTES)
    app.permanent_session_lifetime = timedelta(seconds=1800)
    app.config.update({"SESSION_TYPE": "redis", "SESSION_REDIS": Redis.from_url(place)})
    Session(app)
    return AsgiDriver(app)

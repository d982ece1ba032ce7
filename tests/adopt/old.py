"""The sessions that visitors have of other libraries, each written by the library itself."""

import asyncio
import json
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, NamedTuple

import flask
import pytest
import redis
import redis.asyncio
from flask_session import Session as FlaskSession
from markupsafe import Markup
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.sessions import SessionMiddleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient
from starsessions import SessionAutoloadMiddleware
from starsessions import SessionMiddleware as StarsessionsMiddleware
from starsessions.stores.redis import RedisStore

from server_session.adopt import (
    FlaskCookie,
    FlaskSessionRedis,
    NextServerSessionRedis,
    Reader,
    StarletteCookie,
    StarsessionsRedis,
)
from tests.asgi_client import call, scope_of

SECRET = "what the other library signs with"
PLAIN = {"user": "ada", "cart": [{"id": 1, "n": 2}], "dark": True, "ratio": 0.5, "none": None}


class Old(NamedTuple):
    """A visitor's session of another library."""

    reader: Reader
    cookie: str
    data: dict[str, Any]
    """What comes along."""
    keeps: Callable[[], bool] | None = None
    """Whether the library's server still has it; `None` where only the cookie does."""


def by_starlette(url: str, data: dict[str, Any] = PLAIN, **more: Any) -> Old:
    return Old(StarletteCookie(SECRET, **more), _starlettes(Middleware(SessionMiddleware, SECRET), data), data)


def by_flask(url: str, data: dict[str, Any] | None = None, **more: Any) -> Old:
    tagged = {
        **PLAIN,
        "pair": (1, "two"),
        "bytes": b"\x00\xff",
        "id": uuid.UUID(int=7),
        "when": datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
        "html": Markup("<b>"),
        "like a tag": {" t": [1]},
        "_permanent": True,
        "_flashes": [("message", "saved")],
    }
    written = tagged if data is None else data
    return Old(FlaskCookie(SECRET, **more), _flasks(_flask_app(), written), written)


def by_flask_session(url: str, data: dict[str, Any] | None = None, form: str = "msgpack", sign: bool = False) -> Old:
    client = redis.Redis.from_url(url)
    app = _flask_app(
        SESSION_TYPE="redis", SESSION_REDIS=client, SESSION_SERIALIZATION_FORMAT=form, SESSION_USE_SIGNER=sign
    )
    if sign:
        with pytest.warns(DeprecationWarning, match="use_signer"):
            FlaskSession(app)
    else:
        FlaskSession(app)
    cookie = _flasks(app, PLAIN if data is None else data)
    client.close()
    sid = cookie.partition("=")[2].partition(".")[0]
    expected = {**PLAIN, "_permanent": True} if data is None else data
    reader = FlaskSessionRedis(url, SECRET if sign else None)
    return Old(reader, cookie, expected, lambda: _has(url, f"session:{sid}"))


def by_starsessions(url: str, data: dict[str, Any] = PLAIN) -> Old:
    cookie = ""

    async def write() -> None:
        # Its client belongs to the loop.
        nonlocal cookie
        connection = redis.asyncio.Redis.from_url(url)
        layers = (
            Middleware(StarsessionsMiddleware, store=RedisStore(connection=connection), lifetime=3600, rolling=True),
            Middleware(SessionAutoloadMiddleware),
        )
        cookie = await _awaited(_starlette_app(layers, data))
        await connection.aclose()

    asyncio.run(write())
    key = f"starsessions.{cookie.partition('=')[2]}"
    return Old(StarsessionsRedis(url), cookie, data, lambda: _has(url, key))


def by_next_server_session(url: str, data: dict[str, Any] = PLAIN) -> Old:
    # As its createRedisSessionStore writes it: SETEX sess_<uuid> <seconds> <JSON>. `test_next` has the package itself.
    key = str(uuid.uuid4())
    with redis.Redis.from_url(url) as client:
        client.set(f"sess_{key}", json.dumps(data, separators=(",", ":")), ex=1800)
    return Old(NextServerSessionRedis(url), f"nextSession={key}", data, lambda: _has(url, f"sess_{key}"))


LIBRARIES: dict[str, Callable[..., Old]] = {
    "starlette": by_starlette,
    "flask": by_flask,
    "flask-session": by_flask_session,
    "starsessions": by_starsessions,
    "next-server-session": by_next_server_session,
}
EVERY_FORM = {
    **LIBRARIES,
    "flask-session json": lambda url: by_flask_session(url, form="json"),
    "flask-session signed": lambda url: by_flask_session(url, sign=True),
}
SIGNED = ("starlette", "flask")


def _starlette_app(layers: Any, data: dict[str, Any]) -> Starlette:
    async def write(request: Request) -> PlainTextResponse:
        request.session.update(data)
        return PlainTextResponse("written")

    return Starlette(routes=[Route("/", write)], middleware=list(layers))


def _starlettes(layer: Middleware, data: dict[str, Any]) -> str:
    client = TestClient(_starlette_app([layer], data), base_url="https://shop.example")
    return _pair(client.get("/").headers["set-cookie"])


async def _awaited(app: Starlette) -> str:
    return _pair((await call(app, scope_of())).all("set-cookie")[0])


def _flask_app(**settings: Any) -> flask.Flask:
    app = flask.Flask(__name__)
    app.secret_key = SECRET
    app.config.update(settings)
    return app


def _flasks(app: flask.Flask, data: dict[str, Any]) -> str:
    @app.get("/")
    def write() -> str:
        flask.session.update(data)
        return "written"

    return _pair(app.test_client().get("/").headers["set-cookie"])


def _has(url: str, key: str) -> bool:
    with redis.Redis.from_url(url) as client:
        return bool(client.exists(key))


def _pair(header: str) -> str:
    return header.partition(";")[0]

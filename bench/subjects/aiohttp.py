"""Applications of aiohttp: without sessions, with those of this project, and with aiohttp-session.

aiohttp has no ASGI: its application is asked over connections of its own server.
"""

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

from aiohttp import web

from bench.asking import KEY, VALUES, next_value
from bench.driving import ServerDriver
from server_session import get_csrf_token
from server_session.aiohttp import csrf_protect, get_session, setup

IDLE_SECONDS = 3600
"""A connection waits for its turn, however long others are asked."""


class AiohttpDriver(ServerDriver):
    """Makes requests of an aiohttp application."""

    def __init__(self, app: web.Application) -> None:
        self._app = app
        super().__init__()

    async def connect(self) -> Callable[[], asyncio.Protocol]:
        runner = web.AppRunner(self._app, access_log=None, keepalive_timeout=IDLE_SECONDS)
        await runner.setup()
        assert runner.server is not None
        return runner.server


async def untouched(_: web.Request) -> web.Response:
    return web.Response(text="ok")


def handlers_over(get: Callable[[web.Request], Any]) -> dict[str, Any]:
    """Return the handlers over what gets a request's session."""

    async def read(request: web.Request) -> web.Response:
        return web.Response(text=(await get(request))[KEY])

    async def write(request: web.Request) -> web.Response:
        value = (await get(request))[KEY] = next_value()
        return web.Response(text=value)

    async def first(request: web.Request) -> web.Response:
        (await get(request)).update(VALUES)
        return web.Response(text="ok")

    return {"/untouched": untouched, "/read": read, "/write": write, "/first": first}


async def token(request: web.Request) -> web.Response:
    return web.Response(text=await get_csrf_token(request))


@csrf_protect(strict=True)
async def check(_: web.Request) -> web.Response:
    return web.Response(text="ok")


OURS: Mapping[str, Any] = {**handlers_over(get_session), "/token": token, "/check": check}


def make_app(handlers: Mapping[str, Any], *middlewares: Any) -> web.Application:
    """Return the application of these handlers."""
    app = web.Application(middlewares=middlewares)
    for path, handler in handlers.items():
        app.router.add_route("POST" if path == "/check" else "GET", path, handler)
    return app


def bare(_: str = "") -> AiohttpDriver:
    """Return the application without sessions."""
    return AiohttpDriver(make_app(dict.fromkeys(OURS, untouched)))


def ours(place: str) -> AiohttpDriver:
    """Return the application with the sessions of this project."""
    app = make_app(OURS)
    setup(app, session_store=place)
    return AiohttpDriver(app)


def aiohttp_session(place: str) -> AiohttpDriver:
    """Return the application with aiohttp-session on Redis, or else in an encrypted cookie."""
    from aiohttp_session import AbstractStorage, get_session, session_middleware
    from aiohttp_session.cookie_storage import EncryptedCookieStorage
    from aiohttp_session.redis_storage import RedisStorage
    from redis.asyncio import Redis

    storage: AbstractStorage = EncryptedCookieStorage(b"k" * 32, max_age=1800)
    if place:
        storage = RedisStorage(Redis.from_url(place), max_age=1800)
    return AiohttpDriver(make_app(handlers_over(get_session), session_middleware(storage)))

"""Applications of Sanic: without sessions, and with those of this project, over connections of Sanic's own server."""

import asyncio
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from sanic import HTTPResponse, Request, Sanic, text
from sanic.server import HttpProtocol

from bench.asking import KEY, VALUES, next_value
from bench.driving import ServerDriver
from server_session import get_csrf_token
from server_session.sanic import ServerSession, csrf_protect

IDLE_SECONDS = 3600
"""A connection waits for its turn, however long others are asked."""


class SanicDriver(ServerDriver):
    """Makes requests of a Sanic application."""

    def __init__(self, app: Sanic[Any, Any]) -> None:
        self._app = app
        super().__init__()

    async def connect(self) -> Callable[[], asyncio.Protocol]:
        # What its server does before it listens has no public name.
        await self._app._startup()  # noqa: SLF001
        return partial(HttpProtocol, loop=asyncio.get_running_loop(), app=self._app)


async def untouched(_: Request) -> HTTPResponse:
    return text("ok")


async def read(request: Request) -> HTTPResponse:
    return text(request.ctx.session[KEY])


async def write(request: Request) -> HTTPResponse:
    value = request.ctx.session[KEY] = next_value()
    return text(value)


async def first(request: Request) -> HTTPResponse:
    request.ctx.session.update(VALUES)
    return text("ok")


async def token(request: Request) -> HTTPResponse:
    return text(await get_csrf_token(request))


@csrf_protect(strict=True)
async def check(_: Request) -> HTTPResponse:
    return text("ok")


OURS: Mapping[str, Any] = {
    "/untouched": untouched,
    "/read": read,
    "/write": write,
    "/first": first,
    "/token": token,
    "/check": check,
}


def make_app(handlers: Mapping[str, Any]) -> Sanic[Any, Any]:
    """Return the application of these handlers."""
    app: Sanic[Any, Any] = Sanic("bench", configure_logging=False)
    app.config.update({"ACCESS_LOG": False, "KEEP_ALIVE_TIMEOUT": IDLE_SECONDS})
    for path, handler in handlers.items():
        app.add_route(handler, path, methods=["POST" if path == "/check" else "GET"], name=path[1:])
    return app


def bare(_: str = "") -> SanicDriver:
    """Return the application without sessions."""
    return SanicDriver(make_app(dict.fromkeys(OURS, untouched)))


def ours(place: str) -> SanicDriver:
    """Return the application with the sessions of this project."""
    app = make_app(OURS)
    ServerSession(app, session_store=place)
    return SanicDriver(app)

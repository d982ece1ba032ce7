"""Applications of aiohttp: without sessions, and with aiohttp-session.

aiohttp has no ASGI: its application is asked by what its own server calls.
"""

from collections.abc import Mapping
from typing import Any

from aiohttp import web
from aiohttp.test_utils import make_mocked_request

from bench.asking import HOST, KEY, VALUES, Answer, Ask, next_value
from bench.driving import AwaitingDriver


class AiohttpDriver(AwaitingDriver):
    """Makes requests of an aiohttp application."""

    def __init__(self, app: web.Application) -> None:
        super().__init__()
        self.app = app
        app.freeze()
        # It takes long to make.
        self._mocked = make_mocked_request("GET", "/", app=app)

    def prepared(self, request: Ask) -> Any:
        headers = {"Host": HOST, **dict(request.headers)}
        if request.cookie:
            headers["Cookie"] = request.cookie
        return self._mocked.clone(method=request.method, rel_url=request.path, headers=headers)

    async def made(self, prepared: Any) -> Any:
        return await self.app._handle(prepared)  # noqa: SLF001 - what its server calls has no public name

    def answer(self, response: Any) -> Answer:
        headers = [*response.headers.items()]
        headers += [("Set-Cookie", morsel.OutputString()) for morsel in response.cookies.values()]
        return Answer(response.status, tuple(headers), response.text)

    def status(self, response: Any) -> int:
        status: int = response.status
        return status


async def untouched(_: web.Request) -> web.Response:
    return web.Response(text="ok")


async def read(request: web.Request) -> web.Response:
    from aiohttp_session import get_session

    return web.Response(text=(await get_session(request))[KEY])


async def write(request: web.Request) -> web.Response:
    from aiohttp_session import get_session

    value = (await get_session(request))[KEY] = next_value()
    return web.Response(text=value)


async def first(request: web.Request) -> web.Response:
    from aiohttp_session import get_session

    (await get_session(request)).update(VALUES)
    return web.Response(text="ok")


HANDLERS: Mapping[str, Any] = {"/untouched": untouched, "/read": read, "/write": write, "/first": first}


def make_app(handlers: Mapping[str, Any], *middlewares: Any) -> AiohttpDriver:
    """Return the application of these handlers."""
    app = web.Application(middlewares=middlewares)
    for path, handler in handlers.items():
        app.router.add_get(path, handler)
    return AiohttpDriver(app)


def bare(_: str = "") -> AiohttpDriver:
    """Return the application without sessions."""
    return make_app(dict.fromkeys(HANDLERS, untouched))


def aiohttp_session(place: str) -> AiohttpDriver:
    """Return the application with aiohttp-session on Redis."""
    from aiohttp_session import session_middleware
    from aiohttp_session.redis_storage import RedisStorage
    from redis.asyncio import Redis

    return make_app(HANDLERS, session_middleware(RedisStorage(Redis.from_url(place), max_age=1800)))

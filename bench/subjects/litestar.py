"""Applications of Litestar: without sessions, with those of this project, and with its own kept on the server."""

from typing import Any

from litestar import Litestar, MediaType, Request, get, post
from litestar.middleware.session.server_side import ServerSideSessionConfig
from litestar.stores.base import Store
from litestar.stores.memory import MemoryStore
from litestar.stores.redis import RedisStore

from bench.asking import KEY, VALUES, next_value
from bench.driving import AsgiDriver
from server_session import get_csrf_token
from server_session.litestar import ServerSession, csrf_protect

AnyRequest = Request[Any, Any, Any]


@get("/untouched", media_type=MediaType.TEXT)
async def untouched() -> str:
    return "ok"


@get("/read", media_type=MediaType.TEXT)
async def read(request: AnyRequest) -> str:
    value: str = request.session[KEY]
    return value


@get("/write", media_type=MediaType.TEXT)
async def write(request: AnyRequest) -> str:
    value = request.session[KEY] = next_value()
    return value


@get("/first", media_type=MediaType.TEXT)
async def first(request: AnyRequest) -> str:
    request.session.update(VALUES)
    return "ok"


@get("/token", media_type=MediaType.TEXT)
async def token(request: AnyRequest) -> str:
    return await get_csrf_token(request)


@post("/check", media_type=MediaType.TEXT, status_code=200)
@csrf_protect(strict=True)
async def check() -> str:
    return "ok"


HANDLERS = [untouched, read, write, first]


def bare(_: str = "") -> AsgiDriver:
    """Return the application without sessions."""

    @get(["/untouched", "/read", "/write", "/first", "/token"], media_type=MediaType.TEXT)
    async def page() -> str:
        return "ok"

    return AsgiDriver(Litestar([page, check], openapi_config=None))


def ours(place: str) -> AsgiDriver:
    """Return the application with the sessions of this project."""
    plugin = ServerSession(session_store=place)
    return AsgiDriver(Litestar([*HANDLERS, token, check], plugins=[plugin], openapi_config=None))


def sessions(place: str) -> AsgiDriver:
    """Return the application with Litestar's sessions, in memory or on Redis."""
    store: Store = MemoryStore() if place == "memory:" else RedisStore.with_client(place)
    config = ServerSideSessionConfig(max_age=1800, renew_on_access=True)
    stores = {"sessions": store}
    return AsgiDriver(Litestar(HANDLERS, middleware=[config.middleware], stores=stores, openapi_config=None))

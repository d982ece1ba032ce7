"""Applications of Litestar: without sessions, and with its own that are kept on the server."""

from typing import Any

from litestar import Litestar, MediaType, Request, get
from litestar.middleware.session.server_side import ServerSideSessionConfig
from litestar.stores.base import Store
from litestar.stores.memory import MemoryStore
from litestar.stores.redis import RedisStore

from bench.asking import KEY, VALUES, next_value
from bench.driving import AsgiDriver

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


def bare(_: str = "") -> AsgiDriver:
    """Return the application without sessions."""

    @get(["/untouched", "/read", "/write", "/first"], media_type=MediaType.TEXT)
    async def page() -> str:
        return "ok"

    return AsgiDriver(Litestar([page], openapi_config=None))


def sessions(place: str) -> AsgiDriver:
    """Return the application with Litestar's sessions, in memory or on Redis."""
    store: Store = MemoryStore() if place == "memory:" else RedisStore.with_client(place)
    config = ServerSideSessionConfig(max_age=1800, renew_on_access=True)
    handlers = [untouched, read, write, first]
    return AsgiDriver(
        Litestar(handlers, middleware=[config.middleware], stores={"sessions": store}, openapi_config=None)
    )

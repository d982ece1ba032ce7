"""Applications of Starlette: without sessions, and with those of several libraries."""

from collections.abc import Mapping
from typing import Any

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from bench.asking import KEY, VALUES, next_value
from bench.driving import AsgiDriver
from server_session import Sessions, get_csrf_token
from server_session.starlette import SessionMiddleware, csrf_protect


async def untouched(_: Request) -> PlainTextResponse:
    return PlainTextResponse("ok")


async def read(request: Request) -> PlainTextResponse:
    return PlainTextResponse(request.session[KEY])


async def write(request: Request) -> PlainTextResponse:
    value = request.session[KEY] = next_value()
    return PlainTextResponse(value)


async def first(request: Request) -> PlainTextResponse:
    request.session.update(VALUES)
    return PlainTextResponse("ok")


async def token(request: Request) -> PlainTextResponse:
    return PlainTextResponse(await get_csrf_token(request))


@csrf_protect(strict=True)
async def check(_: Request) -> PlainTextResponse:
    return PlainTextResponse("ok")


ROUTES: Mapping[str, Any] = {
    "/untouched": untouched,
    "/unloaded": untouched,
    "/read": read,
    "/write": write,
    "/first": first,
}
OURS = {**ROUTES, "/token": token, "/check": check}


def make_app(routes: Mapping[str, Any], *middleware: Middleware) -> Starlette:
    """Return an application of these endpoints."""
    return Starlette(
        routes=[
            Route(path, endpoint, methods=["POST"] if path == "/check" else ["GET"])
            for path, endpoint in routes.items()
        ],
        middleware=middleware,
    )


def driver_of(routes: Mapping[str, Any], *middleware: Middleware) -> AsgiDriver:
    """Return the application of these endpoints, and one for each of them alone."""
    apart = {path: make_app({path: endpoint}, *middleware) for path, endpoint in routes.items()}
    return AsgiDriver(make_app(routes, *middleware), apart)


def bare(_: str = "") -> AsgiDriver:
    """Return the application without sessions."""
    return driver_of(dict.fromkeys(OURS, untouched))


def ours(place: str) -> AsgiDriver:
    """Return the application with the sessions of this project; for `/unloaded` with `autoload=False`."""
    sessions = Sessions(session_store=place)
    driver = driver_of(OURS, Middleware(SessionMiddleware, sessions))
    driver.apart["/unloaded"] = make_app(
        {"/unloaded": untouched}, Middleware(SessionMiddleware, sessions, autoload=False)
    )
    return driver


def cookie(_: str) -> AsgiDriver:
    """Return the application with Starlette's own sessions, which are in a signed cookie."""
    from starlette.middleware.sessions import SessionMiddleware

    return driver_of(ROUTES, Middleware(SessionMiddleware, secret_key="k" * 32))


def starsessions(place: str) -> AsgiDriver:
    """Return the application with starsessions, loaded where it is used, on its store in memory or on Redis."""
    from starsessions import InMemoryStore, SessionMiddleware, load_session
    from starsessions.stores.base import SessionStore

    def loading(endpoint: Any) -> Any:
        async def load_and(request: Request) -> Any:
            await load_session(request)
            return await endpoint(request)

        return load_and

    store: SessionStore = InMemoryStore()
    if place != "memory:":
        from redis.asyncio import Redis
        from starsessions.stores.redis import RedisStore

        store = RedisStore(connection=Redis.from_url(place))
    settings: dict[str, Any] = {"lifetime": 1800, "rolling": True, "cookie_https_only": False}
    routes = {**ROUTES, **{path: loading(ROUTES[path]) for path in ("/read", "/write", "/first")}}
    return driver_of(routes, Middleware(SessionMiddleware, store=store, **settings))

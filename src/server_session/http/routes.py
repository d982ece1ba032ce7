"""Which endpoint will serve a request, found as Starlette's and FastAPI's routers find it, without importing them."""

import sys
from collections.abc import Iterable, Mapping
from typing import Any, Final

__all__ = ["endpoint_in", "routes_of"]

_DEEPEST: Final = 100


def routes_of(application: object) -> Iterable[Any] | None:
    """Return the routes of an application of Starlette's or FastAPI's, `None` where it is none.

    `application` may be what a middleware wraps: the router is looked for behind as many as keep theirs as `.app`.
    """
    # Not scope["app"]: for a middleware around a mounted application it is the outer one.
    for _ in range(_DEEPEST):
        routes: Iterable[Any] | None = getattr(application, "routes", None)
        if routes is not None and all(hasattr(route, "matches") for route in routes):
            return routes
        application = getattr(application, "app", None)
    return None


def endpoint_in(routes: Iterable[Any], scope: Mapping[str, Any]) -> object:
    """Return the endpoint that a router of these routes will choose, `None` where it finds none."""
    # FastAPI keeps an included router as one route that does not tell which endpoint it chooses.
    flatten: Any = getattr(sys.modules.get("fastapi.routing"), "iter_route_contexts", iter)
    for route in flatten(routes):
        match, child = route.matches(scope)
        if match.name == "FULL":
            inner = getattr(route, "routes", None)
            # What is mounted, and is no application of Starlette's, is an endpoint itself.
            return endpoint_in(inner, {**scope, **child}) if inner else child.get("endpoint")
    return None

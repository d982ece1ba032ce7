"""Which endpoint will serve a request, found as Starlette's and FastAPI's routers find it, without importing them."""

import sys
from collections.abc import Iterable, Mapping
from typing import Any

__all__ = ["endpoint_in"]


def endpoint_in(application: object, scope: Mapping[str, Any]) -> object:
    """Return the endpoint that the application's router will choose, or `None` where it has none, or finds none."""
    return _endpoint(getattr(application, "routes", ()), scope)


def _endpoint(routes: Iterable[Any], scope: Mapping[str, Any]) -> object:
    for route in _each(routes):
        match, child = route.matches(scope)
        if match.name == "FULL":
            inner = getattr(route, "routes", None)
            # What is mounted, and is no application of Starlette's, is an endpoint itself.
            return _endpoint(inner, {**scope, **child}) if inner else child.get("endpoint")
    return None


def _each(routes: Iterable[Any]) -> Iterable[Any]:
    # FastAPI keeps an included router as one route that does not tell which endpoint it chooses.
    flatten: Any = getattr(sys.modules.get("fastapi.routing"), "iter_route_contexts", None)
    return routes if flatten is None else flatten(routes)

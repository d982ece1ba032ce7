"""Applications of Pyramid: without sessions, with those of this project, and with Beaker's."""

from collections.abc import Mapping
from typing import Any

from pyramid.config import Configurator
from pyramid.csrf import get_csrf_token
from pyramid.response import Response

from bench.asking import KEY, VALUES, next_value
from bench.driving import WsgiDriver
from bench.subjects.wsgi import beaker_options
from server_session.pyramid import csrf_protect


def untouched(_: Any) -> Response:
    return Response("ok")


def read(request: Any) -> Response:
    return Response(request.session[KEY])


def write(request: Any) -> Response:
    value = request.session[KEY] = next_value()
    return Response(value)


def first(request: Any) -> Response:
    request.session.update(VALUES)
    return Response("ok")


def token(request: Any) -> Response:
    return Response(get_csrf_token(request))


@csrf_protect(strict=True)
def check(_: Any) -> Response:
    return Response("ok")


VIEWS: Mapping[str, Any] = {"/untouched": untouched, "/read": read, "/write": write, "/first": first}
OURS = {**VIEWS, "/token": token, "/check": check}


def driver_of(views: Mapping[str, Any], config: Configurator) -> WsgiDriver:
    """Return the application of these views."""
    for path, view in views.items():
        config.add_route(path, path, request_method="POST" if path == "/check" else "GET")
        config.add_view(view, route_name=path)
    return WsgiDriver(config.make_wsgi_app())


def bare(_: str = "") -> WsgiDriver:
    """Return the application without sessions."""
    return driver_of(dict.fromkeys(OURS, untouched), Configurator())


def ours(place: str) -> WsgiDriver:
    """Return the application with the sessions of this project."""
    config = Configurator(settings={"server_session.session_store": place})
    config.include("server_session.pyramid")
    return driver_of(OURS, config)


def beaker(place: str) -> WsgiDriver:
    """Return the application with Beaker, by pyramid_beaker."""
    config = Configurator(settings=beaker_options(place))
    config.include("pyramid_beaker")
    return driver_of(VIEWS, config)

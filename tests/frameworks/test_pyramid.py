"""The adapter for Pyramid keeps the contract of adapters."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import pyramid_jinja2
from jinja2 import DictLoader
from pyramid.config import Configurator
from pyramid.httpexceptions import (
    HTTPException,
    HTTPForbidden,
    HTTPSeeOther,
    HTTPServiceUnavailable,
    exception_response,
)
from pyramid.renderers import render, render_to_response
from pyramid.response import Response
from pyramid_jinja2 import add_jinja2_renderer, get_jinja2_environment
from webtest import TestApp

from server_session.testing import AdapterContract, Encoded, Failed, Headed, Here, Page, Redirected, Site, Streamed
from tests.frameworks.serving import waitress_serves


def view_of(page: Page) -> Any:
    def view(request: Any) -> Response:
        response = request.response
        response.content_type = "text/plain"
        here = Here(
            lambda: request.session,
            request,
            request.GET,
            lambda: dict(request.POST),
            request.body_file.read,
            response,
            lambda: render("form.jinja2", {}, request),
        )
        match page.run(here):
            case Redirected(path):
                raise HTTPSeeOther(path)
            case Failed(status):
                raise exception_response(status)
            case Streamed(chunks):
                response.app_iter = chunks
            case Encoded(value):
                return render_to_response("json", value, request)
            case Headed(text, headers):
                response.text = text
                response.headerlist.extend(headers)
            case text:
                response.text = text
        return response

    return page.mark(view)


def own_page(error: HTTPException, request: Any) -> Response:
    return Response(f"own page of {error.code}", error.code)


class TestPyramid(AdapterContract):
    blocks = True
    stores = ("memory", "file")
    # Pyramid serves none.
    has_websockets = False

    def make_app(self, site: Site) -> Any:
        config = Configurator(settings={"server_session.sessions": site.sessions})
        config.include("server_session.pyramid")
        # Its includeme looks for templates beside this module, which is in no package.
        add_jinja2_renderer(config, ".jinja2", package=pyramid_jinja2)
        config.commit()
        templates = get_jinja2_environment(config, ".jinja2")
        templates.loader = DictLoader({"form.jinja2": "<form>{{ csrf_input() }}</form>"})

        def add_pages(config: Configurator, is_inner: bool) -> None:
            for page in site.pages:
                if page.is_inner == is_inner:
                    config.add_route(page.name, page.path.removeprefix("/inner"), request_method=tuple(page.methods))
                    config.add_view(view_of(page), route_name=page.name)

        add_pages(config, False)
        config.include(lambda config: add_pages(config, True), route_prefix="/inner")
        for error in (HTTPForbidden, HTTPServiceUnavailable):
            config.add_exception_view(own_page, context=error)
        return config.make_wsgi_app()

    def serve(self, app: Any) -> AbstractContextManager[int]:
        return waitress_serves(app)

    @contextmanager
    def client(self, app: Any) -> Iterator[Any]:
        client = TestApp(app)

        def ask(method: str, path: str, headers: dict[str, str]) -> tuple[int, str]:
            response = client.request(path, method=method, headers=headers, expect_errors=True)
            return response.status_int, response.text

        yield ask

    @pytest.mark.needs("redis-server")
    def test_nothing_is_lost_of_overlapping_requests_over_redis(self, redis_server: Server) -> None:
        over_redis(self, redis_server.url)

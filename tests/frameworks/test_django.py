"""The adapter for Django keeps the contract of adapters, under WSGI."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import pytest
from django.conf import settings
from django.core.exceptions import BadRequest
from django.core.handlers.wsgi import WSGIHandler
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect, JsonResponse, StreamingHttpResponse
from django.template import engines
from django.test import Client, override_settings
from django.urls import include, path

from server_session import _sessions, sync
from server_session.testing import AdapterContract, Encoded, Failed, Headed, Here, Page, Redirected, Site, Streamed
from tests.django_site.project import set_up
from tests.frameworks.serving import waitress_serves

MIDDLEWARE = [
    "server_session.django.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "server_session.django.CsrfViewMiddleware",
]


@pytest.fixture(scope="module", autouse=True)
def project(tmp_path_factory: pytest.TempPathFactory) -> None:
    set_up(tmp_path_factory.mktemp("django"))


class Conflict(BadRequest):
    """An error that an application's `handler400` makes a 409 of: views of Django's can raise no other status."""


def view_of(page: Page) -> Any:
    def view(request: Any) -> HttpResponse | StreamingHttpResponse:
        if request.method not in page.methods and not (request.method == "HEAD" and "GET" in page.methods):
            return HttpResponse(status=405)
        response = HttpResponse(content_type="text/plain")
        here = Here(
            lambda: request.session,
            request,
            request.GET.dict(),
            lambda: request.POST.dict(),  # noqa: PLW0108 - it parses the body
            request.read,
            response,
            lambda: engines["django"].from_string("<form>{% csrf_token %}</form>").render({}, request),
        )
        match page.run(here):
            case Redirected(to):
                return HttpResponseRedirect(to)
            case Failed():
                raise Conflict
            case Streamed(chunks):
                return StreamingHttpResponse(chunks)
            case Encoded(value):
                return JsonResponse({**value})
            case Headed(text, headers):
                response.write(text)
                for name, value in headers:
                    if name == "Set-Cookie":
                        response.set_cookie(*value.partition(";")[0].split("="))
                    else:
                        response[name] = value
            case text:
                response.write(text)
        return response

    return page.mark(view)


def conflict(request: HttpRequest, exception: Exception) -> HttpResponse:
    return HttpResponse(status=409)


class App:
    """A project: what Django has one of in each process."""

    def __init__(self, site: Site) -> None:
        site.functions = sync
        urls: Any = ModuleType("urls")
        urls.handler400 = conflict
        inner = [path(page.path.removeprefix("/inner/"), view_of(page)) for page in site.pages if page.is_inner]
        outer = [path(page.path.removeprefix("/"), view_of(page)) for page in site.pages if not page.is_inner]
        urls.urlpatterns = [*outer, path("inner/", include((inner, "inner")))]
        self._settings: Callable[[], Any] = lambda: override_settings(
            ROOT_URLCONF=urls,
            MIDDLEWARE=MIDDLEWARE,
            SERVER_SESSION={"session_store": site.store},
            TEMPLATES=[
                {
                    "BACKEND": "django.template.backends.django.DjangoTemplates",
                    "OPTIONS": {"context_processors": ["server_session.django.csrf"]},
                }
            ],
        )

    @contextmanager
    def run(self) -> Iterator[None]:
        before = _sessions._configured
        with self._settings():
            _sessions._configured = None
            assert settings.ROOT_URLCONF
            yield
        _sessions._configured = before


class TestDjango(AdapterContract):
    blocks = True
    # Under WSGI.
    has_websockets = False
    # The pages of Django's 403 are those of its CSRF_FAILURE_VIEW, and a 503 has none.
    has_own_pages = False
    can_be_several = False

    def make_app(self, site: Site) -> App:
        return App(site)

    @contextmanager
    def serve(self, app: App) -> Iterator[int]:
        with app.run(), waitress_serves(WSGIHandler()) as port:
            yield port

    @contextmanager
    def client(self, app: App) -> Iterator[Any]:
        client = Client(enforce_csrf_checks=True)

        def ask(method: str, path: str, headers: dict[str, str]) -> tuple[int, str]:
            response = client.generic(method, path, headers=headers)
            return response.status_code, response.content.decode()

        with app.run():
            yield ask

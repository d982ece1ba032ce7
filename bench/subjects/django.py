"""Applications of Django: without sessions, and with those of several engines. One a process: its settings are global.

All with sessions check for CSRF too, as under the settings that `startproject` writes.
"""

import sys
from pathlib import Path
from typing import Any

import django
from django.conf import settings
from django.core.management import call_command
from django.core.wsgi import get_wsgi_application
from django.http import HttpRequest, HttpResponse
from django.urls import path
from django.utils.module_loading import import_string
from django.views.decorators.http import require_GET, require_POST

from bench.asking import KEY, VALUES, next_value
from bench.driving import WsgiDriver

DJANGOS = (
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
)
OURS = ("server_session.django.SessionMiddleware", "server_session.django.CsrfViewMiddleware")
# What those are told whose SQLite is busy.
WAL = {"init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;", "transaction_mode": "IMMEDIATE"}


def untouched(_: HttpRequest) -> HttpResponse:
    return HttpResponse("ok")


@require_GET
def read(request: HttpRequest) -> HttpResponse:
    return HttpResponse(request.session[KEY])


@require_GET
def write(request: HttpRequest) -> HttpResponse:
    value = request.session[KEY] = next_value()
    return HttpResponse(value)


@require_GET
def first(request: HttpRequest) -> HttpResponse:
    request.session.update(VALUES)
    return HttpResponse("ok")


@require_GET
def token(request: HttpRequest) -> HttpResponse:
    return HttpResponse(settings.GET_TOKEN(request))


@require_POST
def check(_: HttpRequest) -> HttpResponse:
    return HttpResponse("ok")


urlpatterns = [
    path("untouched", untouched),
    path("read", read),
    path("write", write),
    path("first", first),
    path("token", token),
    path("check", check),
]


def make_app(*middleware: str, **more: Any) -> WsgiDriver:
    """Return the application under some settings."""
    settings.configure(
        SECRET_KEY="k" * 50,
        ALLOWED_HOSTS=["*"],
        ROOT_URLCONF=sys.modules[__name__],
        INSTALLED_APPS=["django.contrib.sessions"],
        MIDDLEWARE=(*middleware, "django.middleware.common.CommonMiddleware"),
        LOGGING_CONFIG=None,
        **more,
    )
    django.setup()
    if "DATABASES" in more:
        call_command("migrate", verbosity=0)
    return WsgiDriver(get_wsgi_application())


def bare(_: str = "") -> WsgiDriver:
    """Return the application without sessions."""
    urlpatterns[1:] = [path(page, untouched) for page in ("read", "write", "first", "token", "check")]
    return make_app()


def ours(place: str) -> WsgiDriver:
    """Return the application with the sessions of this project."""
    return make_app(
        *OURS,
        SESSION_ENGINE="server_session.django",
        SERVER_SESSION={"session_store": place},
        GET_TOKEN=import_string("server_session.django.get_token"),
    )


def _djangos(engine: str, **more: Any) -> WsgiDriver:
    return make_app(
        *DJANGOS,
        SESSION_ENGINE=f"django.contrib.sessions.backends.{engine}",
        GET_TOKEN=import_string("django.middleware.csrf.get_token"),
        **more,
    )


def _sqlite(place: str, **options: Any) -> dict[str, Any]:
    return {
        "default": {
            "ENGINE": "django.db.backends.sqlite3",
            "NAME": str(Path(place.removeprefix("sqlite:///"))),
            "OPTIONS": options,
        }
    }


# With the default of 300 entries it throws sessions away.
LOCMEM = {"BACKEND": "django.core.cache.backends.locmem.LocMemCache", "OPTIONS": {"MAX_ENTRIES": 10_000_000}}


def cache(place: str) -> WsgiDriver:
    """Return the application with Django's sessions in its cache: that of the process, or Redis."""
    redis = {"BACKEND": "django.core.cache.backends.redis.RedisCache", "LOCATION": place}
    return _djangos("cache", CACHES={"default": redis if place.startswith("redis:") else LOCMEM})


def db(place: str) -> WsgiDriver:
    """Return the application with Django's sessions in SQLite."""
    return _djangos("db", DATABASES=_sqlite(place))


def db_wal(place: str) -> WsgiDriver:
    """Return the application with Django's sessions in SQLite with a write-ahead log."""
    return _djangos("db", DATABASES=_sqlite(place, **WAL))


def cached_db(place: str) -> WsgiDriver:
    """Return the application with Django's sessions in SQLite, behind the cache of the process."""
    return _djangos("cached_db", DATABASES=_sqlite(place), CACHES={"default": LOCMEM})

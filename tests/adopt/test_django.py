"""Moving in within a Django project: its log-in goes on, from whichever of its own engines."""

import asyncio
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from typing import Any

import pytest
from django.conf import settings
from django.core.management import call_command
from django.http import HttpRequest
from django.test import AsyncClient, Client, override_settings

from server_session import MemorySessionStore, _sessions
from server_session.adopt import DjangoSessions
from server_session.stores.redis import RedisSessionStore
from tests.adopt.stage import KINDS
from tests.django_site.project import set_up
from tests.patience import PATIENCE
from tests.test_django import threaded_server

pytestmark = pytest.mark.once

AT_ONCE = 50
ENGINES = ("db", "cache", "cached_db", "signed_cookies")


def path_of(engine: str) -> str:
    return f"django.contrib.sessions.backends.{engine}"


@pytest.fixture(scope="module", autouse=True)
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    set_up(tmp_path_factory.mktemp("django"))
    call_command("migrate", verbosity=0)
    from django.contrib.auth.models import User

    User.objects.get_or_create(username="emmy")
    yield
    from django.db import connections

    connections.close_all()


@pytest.fixture(params=KINDS)
def store(request: pytest.FixtureRequest, redis_server: Any, tmp_path: Any) -> Any:
    if request.param == "memory":
        return MemorySessionStore()
    return RedisSessionStore(redis_server.url, prefix=f"{tmp_path}:")


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest, store: Any, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setattr(_sessions, "_configured", None)
    adopt = [DjangoSessions(path_of(request.param))]
    with override_settings(
        SERVER_SESSION={"session_store": store, "adopt": adopt},
        # Younger than the old cookies were meant to be.
        SESSION_COOKIE_AGE=1800,
        CACHES={"default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache", "LOCATION": str(tmp_path)}},
    ):
        yield request.param


def session_of(engine: str, key: str | None = None) -> Any:
    from importlib import import_module

    return import_module(path_of(engine)).SessionStore(key)


def logged_in(engine: str, **data: Any) -> str:
    """Log in as Django has it with an engine of its own; return the cookie."""
    from django.contrib.auth import login
    from django.contrib.auth.models import User

    request = HttpRequest()
    request.session = session_of(engine)
    login(request, User.objects.get(username="emmy"), backend="django.contrib.auth.backends.ModelBackend")
    request.session.update(data)
    request.session.save()
    return str(request.session.session_key)


def client_with(cookie: str, kind: type[Any] = Client) -> Any:
    client = kind()
    client.cookies["sessionid"] = cookie
    return client


def test_the_log_in_goes_on(engine: str) -> None:
    cookie = logged_in(engine, cart=[1])
    client = client_with(cookie)
    assert client.get("/who").content == b"emmy"
    ours = client.cookies["sessionid"].value
    assert len(ours) == 64
    assert client.get("/data").json()["cart"] == [1]
    assert client.cookies["sessionid"].value == ours
    if engine != "signed_cookies":
        assert not session_of(engine).exists(cookie)


def test_in_async_views_too(engine: str) -> None:
    cookie = logged_in(engine, cart=[1])

    async def ask() -> Any:
        response = await client_with(cookie, AsyncClient).get("/adata")
        return response.json(), response.cookies["sessionid"].value

    data, ours = asyncio.run(ask())
    assert data["cart"] == [1]
    assert client_with(ours).get("/who").content == b"emmy"


def test_log_out_ends_it_for_good(engine: str) -> None:
    cookie = logged_in(engine)
    client = client_with(cookie)
    client.post("/log-out")
    assert client_with(cookie).get("/who").content == b"AnonymousUser"


def test_a_key_is_known_before_an_old_session_is_looked_up(engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # As many a cart does.
    from tests.django_site import views

    def script(request: Any) -> Any:
        if not request.session.session_key:
            request.session.create()
        return dict(request.session.items())

    monkeypatch.setattr(views, "script", script)
    assert client_with(logged_in(engine, cart=[1])).get("/call").json()["cart"] == [1]


def test_an_expired_or_unknown_one_is_nobodys(engine: str) -> None:
    for cookie in ("a" * 32, "x", "eyJ9:abc:def", "a" * 32 + "'"):
        response = client_with(cookie).get("/who")
        assert response.content == b"AnonymousUser"
        assert "sessionid" not in response.cookies


def test_what_set_expiry_was_told_goes_on(engine: str) -> None:
    session = session_of(engine)
    session["n"] = 1
    session.set_expiry(7777)
    session.save()
    response = client_with(str(session.session_key)).get("/data")
    assert response.json()["n"] == 1
    assert response.cookies["sessionid"]["max-age"] == 7777


@pytest.mark.parametrize("server", ["wsgi", "asgi"])
def test_of_fifty_at_once_each_is_logged_in_with_the_one_session(engine: str, server: str, serve: Any) -> None:
    from django.core.asgi import get_asgi_application
    from django.core.wsgi import get_wsgi_application

    cookie = logged_in(engine, cart=[1])
    if server == "asgi":
        answers = at_once(serve(get_asgi_application(), lifespan="off").port, "/adata", cookie)
    else:
        with threaded_server(get_wsgi_application()) as port:
            answers = at_once(port, "/data", cookie)
    assert len({ours for _, ours in answers}) == 1
    assert all(data["cart"] == [1] for data, _ in answers)
    assert client_with(answers[0][1]).get("/who").content == b"emmy"


def at_once(port: int, path: str, cookie: str) -> list[tuple[Any, str]]:
    def ask(_: int) -> tuple[Any, str]:
        connection = HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
        try:
            connection.request("GET", path, headers={"Cookie": f"sessionid={cookie}"})
            response = connection.getresponse()
            header = response.headers["Set-Cookie"]
            return json.loads(response.read()), header.partition("=")[2].partition(";")[0]
        finally:
            connection.close()

    with ThreadPoolExecutor(AT_ONCE) as threads:
        return list(threads.map(ask, range(AT_ONCE)))


def test_a_cache_that_is_down_is_no_anonymous_visitor(monkeypatch: pytest.MonkeyPatch, free_port: int) -> None:
    monkeypatch.setattr(_sessions, "_configured", None)
    cache = {"BACKEND": "django.core.cache.backends.redis.RedisCache", "LOCATION": f"redis://127.0.0.1:{free_port}"}
    adopt = [DjangoSessions(path_of("cache"))]
    given = {"session_store": MemorySessionStore(), "adopt": adopt}
    with override_settings(SERVER_SESSION=given, CACHES={"default": cache}):
        assert client_with("a" * 32).get("/who").status_code == 503
        assert Client().get("/who").content == b"AnonymousUser"


def test_memcached_that_is_down_is_no_anonymous_visitor_and_what_it_would_refuse_names_no_session(
    monkeypatch: pytest.MonkeyPatch, free_port: int
) -> None:
    monkeypatch.setattr(_sessions, "_configured", None)
    cache = {
        "BACKEND": "django.core.cache.backends.memcached.PyMemcacheCache",
        "LOCATION": f"127.0.0.1:{free_port}",
    }
    given = {"session_store": MemorySessionStore(), "adopt": [DjangoSessions(path_of("cache"))]}
    with override_settings(SERVER_SESSION=given, CACHES={"default": cache}):
        assert client_with(f"a:b:{'c' * 300}").get("/who").content == b"AnonymousUser"
        assert client_with("a" * 32).get("/who").status_code == 503


def test_a_database_that_fails_is_no_anonymous_visitor(monkeypatch: pytest.MonkeyPatch) -> None:
    from django.contrib.sessions.models import Session
    from django.db import OperationalError

    def fail(*_: Any, **__: Any) -> Any:
        raise OperationalError("gone")

    monkeypatch.setattr(_sessions, "_configured", None)
    monkeypatch.setattr(Session.objects, "get", fail)
    given = {"session_store": MemorySessionStore(), "adopt": [DjangoSessions()]}
    with override_settings(SERVER_SESSION=given):
        assert client_with("a" * 32).get("/who").status_code == 503


def test_the_setting_is_read_before_the_project_is_set_up() -> None:
    assert DjangoSessions("no.such.engine").key("a" * 32) == "a" * 32
    assert settings.SESSION_ENGINE == "server_session.django"

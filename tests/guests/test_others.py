"""What docs/frameworks/others.md says of frameworks that have no module of their own, run as printed."""

import asyncio
import json
import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from server_session import CarrierError, _sessions, get_session_data, set_session_data
from server_session.testing._browser import Answered, Browser
from tests.documents import code_of
from tests.frameworks.serving import uvicorn_serves, waitress_serves
from tests.patience import wait_until

pytest.importorskip("fasthtml", reason="the group `guests` is not installed: scripts/test --all runs these")

# What others warn of is theirs.
pytestmark = pytest.mark.filterwarnings("ignore")

DOCUMENT = Path(__file__).parents[2] / "docs/frameworks/others.md"


@pytest.fixture(autouse=True)
def unconfigured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_sessions, "_configured", None)


def run(name: str) -> Any:
    """Run the page's block, and return its module."""
    # By a name of its own: decorators look it up.
    module = sys.modules[f"guest_{name}"] = ModuleType(f"guest_{name}")
    exec(compile(code_of(DOCUMENT, name), f"others.md ({name})", "exec"), vars(module))  # noqa: S102 - our own
    return module


def token_in(answered: Answered) -> dict[str, str]:
    found = re.search(r'name="csrf_token" value="([^"]+)"', answered.text)
    assert found, answered.text
    return {"csrf_token": found[1]}


def count_by_a_form(serve: AbstractContextManager[int]) -> None:
    with serve as port:
        browser = Browser(port)
        for expected in range(3):
            page = browser.get("/")
            assert f"<p>{expected}</p>" in page.text
            # A browser that says nothing of its page: the form's token decides.
            assert browser.post("/add", token_in(page), page=None).status in (302, 303)
        assert browser.post("/add", page=None).status == 403
        assert browser.post("/add", page="cross-site").status == 403
        assert "<p>3</p>" in browser.get("/").text


def count_by_queries(serve: AbstractContextManager[int], path: str) -> None:
    def ask(browser: Browser, query: str, page: str = "same-origin") -> Any:
        body = json.dumps({"query": query}).encode()
        answered = browser.ask("POST", path, body, "application/json", page=page)
        return json.loads(answered.body)["data"] if answered.status == 200 else answered.status

    with serve as port:
        browser = Browser(port)
        assert ask(browser, "{count}") == {"count": 0}
        assert [ask(browser, "mutation {add}") for _ in range(2)] == [{"add": 1}, {"add": 2}]
        assert ask(browser, "mutation {add}", page="cross-site") == 403
        assert ask(browser, "{count}") == {"count": 2}


def test_fasthtml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # It writes a secret into the folder that it runs in.
    monkeypatch.chdir(tmp_path)
    count_by_a_form(uvicorn_serves(run("fasthtml").app))


def test_nicegui(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = run("nicegui")
    # It writes what is stored of each user into a file.
    monkeypatch.setattr(type(module.gui.storage), "path", tmp_path)
    with uvicorn_serves(module.app, lifespan="on") as port:
        browser, other = Browser(port), Browser(port)
        for number in (1, 2):
            assert f"seen {number} times" in browser.get("/").text
            assert len(module.gui.storage._users) == 1
        assert "seen 1 times" in other.get("/").text
        assert len(module.gui.storage._users) == 2


def test_nicegui_with_a_secret_of_its_own_says_that_two_sessions_have_one_name(
    caplog: pytest.LogCaptureFixture,
) -> None:
    code = """
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.sessions import SessionMiddleware as Signed
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from server_session import Sessions, set_session_data
from server_session.starlette import SessionMiddleware

async def page(request):
    request.session["theirs"] = 1
    return PlainTextResponse("x")

own = Middleware(SessionMiddleware, sessions=Sessions())
app = Starlette(routes=[Route("/", page)], middleware=[own, Middleware(Signed, secret_key="x")])
"""
    names: dict[str, Any] = {}
    exec(code, names)  # noqa: S102 - our own
    with uvicorn_serves(names["app"]) as port:
        for _ in range(2):
            Browser(port).get("/")
    assert [record.getMessage()[:32] for record in caplog.records] == ["another middleware has put a ses"]


def test_blacksheep() -> None:
    count_by_a_form(uvicorn_serves(run("blacksheep").app, lifespan="on"))


def test_blacksheep_s_task_that_outlives_its_request_gives_the_scope() -> None:
    module, tasks = run("blacksheep"), []

    @module.site.router.post("/later")
    async def later(request: Any) -> None:
        scope = request.scope

        async def write() -> None:
            while request.scope is not None:  # noqa: ASYNC110 - BlackSheep tells by nothing else
                await asyncio.sleep(0)
            with pytest.raises(CarrierError, match="request is over"):
                await get_session_data(request)
            await set_session_data(scope, {"count": 7})

        tasks.append(asyncio.ensure_future(write()))

    with uvicorn_serves(module.app, lifespan="on") as port:
        browser = Browser(port)
        browser.post("/add")
        browser.post("/later")
        wait_until(lambda: "<p>7</p>" in browser.get("/").text)


def test_gradio(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(os.environ, "GRADIO_ANALYTICS_ENABLED", "False")

    def add(browser: Browser, page: str = "same-origin") -> Any:
        path = "/ui/gradio_api/call/add"
        answered = browser.ask("POST", path, b'{"data": []}', "application/json", page=page)
        if answered.status != 200:
            return answered.status
        return browser.get(f"{path}/{json.loads(answered.body)['event_id']}").text

    with uvicorn_serves(run("gradio").app, lifespan="on") as port:
        browser = Browser(port)
        assert browser.post("/log-in").text == "true"
        assert '["1 clicks"]' in add(browser)
        assert '["2 clicks"]' in add(browser)
        assert add(browser, page="cross-site") == 403


def test_dash() -> None:
    said = {
        "output": "count.children",
        "outputs": {"id": "count", "property": "children"},
        "inputs": [{"id": "add", "property": "n_clicks", "value": 1}],
        "changedPropIds": ["add.n_clicks"],
    }
    with waitress_serves(run("dash").server) as port:
        browser = Browser(port)

        def click(page: str = "same-origin") -> Answered:
            body = json.dumps(said).encode()
            return browser.ask("POST", "/_dash-update-component", body, "application/json", page=page)

        assert browser.get("/").status == 200
        counts = [json.loads(click().body)["response"]["count"]["children"] for _ in range(2)]
        assert counts == [1, 2]
        assert click(page="cross-site").status == 403


def test_flask_dance(monkeypatch: pytest.MonkeyPatch) -> None:
    from flask_dance.consumer.requests import OAuth2Session
    from oauthlib.oauth2 import OAuth2Token

    # It sends what the provider gave over https alone.
    monkeypatch.setitem(os.environ, "OAUTHLIB_INSECURE_TRANSPORT", "1")
    token = OAuth2Token({"access_token": "theirs", "token_type": "bearer"})
    monkeypatch.setattr(OAuth2Session, "fetch_token", lambda *_, **__: token)
    with waitress_serves(run("flask-dance").app) as port:
        browser = Browser(port)
        assert browser.get("/").text == "nobody"
        (provider,) = browser.get("/github").all("location")
        before = browser.copy()
        state = parse_qs(urlsplit(provider).query)["state"][0]
        # The provider's page sends him back.
        assert browser.get(f"/github/authorized?code=c&state={state}", page="cross-site").status == 302
        assert [one.get("/").text for one in (browser, before)] == ["logged in", "nobody"]


def test_strawberry() -> None:
    count_by_queries(uvicorn_serves(run("strawberry").app), "/graphql")


def test_ariadne() -> None:
    count_by_queries(uvicorn_serves(run("ariadne").app), "/")


def test_cherrypy() -> None:
    import cherrypy

    cherrypy.config.update({"environment": "embedded", "log.screen": False})
    count_by_a_form(waitress_serves(run("cherrypy").app))


# --- what is built on Django


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., None]]:
    import django
    from django.conf import settings
    from django.core.management import call_command
    from django.http import HttpRequest, HttpResponse
    from django.urls import clear_url_caches, path

    urls: Any = ModuleType("guest_urls")
    sys.modules["guest_urls"] = urls
    settings.configure(
        SECRET_KEY="a test's own",
        ALLOWED_HOSTS=["*"],
        ROOT_URLCONF="guest_urls",
        INSTALLED_APPS=["django.contrib.auth", "django.contrib.contenttypes", "rest_framework"],
        DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": tmp_path_factory.mktemp("db") / "db"}},
        PASSWORD_HASHERS=["django.contrib.auth.hashers.MD5PasswordHasher"],
        SESSION_ENGINE="server_session.django",
        SERVER_SESSION={"session_store": "memory:"},
        MIDDLEWARE=[
            "server_session.django.SessionMiddleware",
            "server_session.django.CsrfViewMiddleware",
            "django.contrib.auth.middleware.AuthenticationMiddleware",
        ],
    )
    django.setup()
    call_command("migrate", verbosity=0)
    from django.contrib.auth import authenticate, login
    from django.contrib.auth.models import User

    User.objects.create_user("ada", password="secret")

    def log_in(request: HttpRequest) -> HttpResponse:
        login(request, authenticate(request, username="ada", password="secret"))
        return HttpResponse("in")

    def serve(*patterns: Any) -> None:
        urls.urlpatterns = [path("log-in", log_in), *patterns]
        clear_url_caches()

    yield serve
    from django.db import connections

    connections.close_all()


def count_for_who_is_logged_in(port: int, path: str) -> None:
    browser = Browser(port)
    assert browser.post(path).status in (401, 403)
    assert browser.post("/log-in").text == "in"
    assert [json.loads(browser.post(path).body)["count"] for _ in range(2)] == [1, 2]
    assert browser.post(path, page="cross-site").status == 403
    assert browser.post(path, page=None).status == 403


def test_rest_framework(project: Callable[..., None]) -> None:
    from django.core.handlers.wsgi import WSGIHandler
    from django.urls import path

    project(path("count", run("rest_framework").count))
    with waitress_serves(WSGIHandler()) as port:
        count_for_who_is_logged_in(port, "/count")


def test_ninja(project: Callable[..., None]) -> None:
    from django.core.handlers.wsgi import WSGIHandler
    from django.urls import path

    project(path("", run("ninja").api.urls))
    with waitress_serves(WSGIHandler()) as port:
        count_for_who_is_logged_in(port, "/count")


def test_channels(project: Callable[..., None]) -> None:
    project()
    with uvicorn_serves(run("channels").application) as port:
        browser = Browser(port)
        assert browser.post("/log-in").text == "in"
        with browser.open_socket("/feed") as socket:
            assert "_auth_user_id" in json.loads(str(socket.receive()))
        for origin in ("http://evil.example", None):
            with browser.open_socket("/feed", origin=origin) as socket:
                assert socket.status == 403

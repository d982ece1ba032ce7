"""The code of docs/moving.md takes over what the libraries wrote, in each framework's own mapping."""

import json
import uuid
from http.cookies import SimpleCookie
from pathlib import Path
from types import ModuleType
from typing import Any

import flask
import flask_login
import pytest
from fastapi import FastAPI, Request, Response
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from server_session import _sessions, get_session_data
from server_session.fastapi import SessionMiddleware
from tests.adopt.old import SECRET, by_next_server_session, by_starlette, by_starsessions
from tests.documents import code_of

DOCUMENT = Path(__file__).parents[2] / "docs" / "moving.md"
PLAIN = {"user": "ada", "cart": [1, {"n": 2}]}

pytestmark = pytest.mark.once


@pytest.fixture(autouse=True)
def unconfigured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_sessions, "_configured", None)


@pytest.fixture
def url(redis_server: Any) -> str:
    return f"{redis_server.url}?client_name={uuid.uuid4()}"


def run(name: str, **given: Any) -> dict[str, Any]:
    """Run the code of a section, with what the application has."""
    module = ModuleType(f"moving_{name}")
    vars(module).update(given)
    exec(compile(code_of(DOCUMENT, name), f"docs/moving.md ({name})", "exec"), module.__dict__)  # noqa: S102 - our own
    return module.__dict__


def test_starlette() -> None:
    app = FastAPI()
    run("starlette", app=app, SECRET_KEY=SECRET)

    @app.get("/")
    def session(request: Request) -> dict[str, Any]:
        return dict(request.session)

    old = by_starlette("", PLAIN)
    client = TestClient(app, base_url="https://shop.example")
    first = client.get("/", headers={"cookie": old.cookie})
    assert first.json() == PLAIN
    assert client.get("/").json() == PLAIN
    assert "set-cookie" not in client.get("/").headers


class User(flask_login.UserMixin):
    id = "7"


def with_login(app: flask.Flask) -> flask.Flask:
    """Give the application Flask-Login, a page that logs in and flashes, and one that shows who is there."""
    manager = flask_login.LoginManager(app)
    manager.user_loader(lambda _: User())

    @app.get("/in")
    def log_in() -> str:
        flask_login.login_user(User())
        flask.session.permanent = True
        flask.flash("welcome")
        return "in"

    @app.get("/who")
    def who() -> dict[str, Any]:
        user, session = flask_login.current_user, flask.session
        data = [user.get_id() if user.is_authenticated else None, session.permanent, session.new]
        return {"data": data, "flashed": flask.get_flashed_messages()}

    return app


def flask_app(**settings: Any) -> flask.Flask:
    app = flask.Flask("shop")
    app.secret_key = SECRET
    app.config.update(settings)
    return app


def assert_goes_on(before: flask.Flask, after: flask.Flask) -> None:
    header = before.test_client().get("/in").headers["set-cookie"]
    client = after.test_client()
    client.set_cookie("session", header.partition("=")[2].partition(";")[0])
    first = client.get("/who")
    assert first.json == {"data": ["7", True, False], "flashed": ["welcome"]}
    # As permanent as it was.
    assert SimpleCookie(first.headers["set-cookie"])["session"]["max-age"]
    assert client.get("/who").json == {"data": ["7", True, False], "flashed": []}


def test_flask() -> None:
    after = with_login(flask_app())
    run("flask", app=after)
    assert_goes_on(with_login(flask_app()), after)


def test_flask_session(url: str) -> None:
    import redis
    from flask_session import Session

    with redis.Redis.from_url(url) as client:
        before = with_login(flask_app(SESSION_TYPE="redis", SESSION_REDIS=client))
        Session(before)
        after = with_login(flask_app())
        run("flask-session", app=after, REDIS_URL=url)
        assert_goes_on(before, after)


def test_starsessions(url: str) -> None:
    async def session(request: Any) -> JSONResponse:
        return JSONResponse(request.session)

    app = Starlette(routes=[Route("/", session)])
    run("starsessions", app=app, REDIS_URL=url)
    old = by_starsessions(url, PLAIN)
    assert TestClient(app, base_url="https://shop.example").get("/", headers={"cookie": old.cookie}).json() == PLAIN


def test_next_server_session(url: str) -> None:
    run("next-server-session", REDIS_URL=url)
    app = FastAPI()

    # Without a middleware.
    @app.get("/")
    async def session(request: Request, response: Response) -> dict[str, Any]:
        return await get_session_data(request, response)

    old = by_next_server_session(url, PLAIN)
    client = TestClient(app, base_url="https://shop.example", headers={"cookie": old.cookie})
    first = client.get("/")
    assert first.json() == PLAIN
    ended, ours = first.headers.get_list("set-cookie")
    assert ended.startswith("nextSession=; ")
    assert client.get("/", headers={"cookie": ours.partition(";")[0]}).json() == PLAIN


def test_django(url: str) -> None:
    given = run("django", REDIS_URL=url)
    # What such settings do tests/adopt/test_django.py shows.
    (reader,) = given["SERVER_SESSION"]["adopt"]
    assert reader.key("a" * 32) == "a" * 32


def test_a_reader_of_ones_own(tmp_path: Path) -> None:
    run("own", FOLDER=tmp_path)
    (tmp_path / ("0" * 32)).write_text(json.dumps(PLAIN))
    app = FastAPI()
    app.add_middleware(SessionMiddleware)

    @app.get("/")
    async def session(request: Request) -> dict[str, Any]:
        return dict(request.session)

    client = TestClient(app, base_url="https://shop.example")
    assert client.get("/", headers={"cookie": f"sid={'1' * 32}"}).json() == {}
    assert client.get("/", headers={"cookie": f"sid={'0' * 32}"}).json() == PLAIN
    assert list(tmp_path.iterdir()) == []

"""The recipes of docs/recipes.md keep what they promise."""

import asyncio
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from fastapi import FastAPI
from flask import Flask
from flask import request as flask_request
from starlette.testclient import TestClient

from server_session import MemorySessionStore, _sessions, configure, get_session_data, log_in, sync
from server_session.flask import ServerSession
from tests.documents import code_of
from tests.visitors import Clock, Watched

DOCUMENT = Path(__file__).parents[1] / "docs" / "recipes.md"


def run(name: str) -> dict[str, Any]:
    """Run the code of a recipe, as the module of an application is run, and return its names."""
    module = ModuleType(f"recipe_{name.replace(' ', '_')}")
    # FastAPI reads an endpoint's annotations there.
    sys.modules[module.__name__] = module
    exec(compile(code_of(DOCUMENT, name), f"docs/recipes.md ({name})", "exec"), module.__dict__)  # noqa: S102 - our own
    return module.__dict__


@pytest.fixture(autouse=True)
def unconfigured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_sessions, "_configured", None)


def client_of(app: FastAPI) -> TestClient:
    return TestClient(app, base_url="https://shop.example", follow_redirects=False)


def test_a_page_for_those_who_are_logged_in_is_for_nobody_else() -> None:
    client = client_of(run("logged in")["app"])
    assert client.get("/orders").status_code == 401
    client.post("/log-in", headers={"Sec-Fetch-Site": "same-origin"})
    assert client.get("/orders").json() == "orders of ada"


def test_a_page_that_asks_by_itself_keeps_no_session_alive() -> None:
    app: FastAPI = run("polling")["app"]

    @app.get("/log-in")
    async def enter() -> bool:
        return await log_in("ada", {"user": "Ada"})

    clock = Clock()
    store = Watched(MemorySessionStore(clock=clock))
    configure(session_store=store, clock=clock)
    client = client_of(app)
    client.get("/log-in")
    store.calls.clear()
    for _ in range(5):
        clock.advance(300)
        assert client.get("/news").json() == {"user": "Ada"}
    assert store.calls == ["look"] * 5
    clock.advance(301)
    assert client.get("/news").json() == {"user": None}


def test_a_view_of_flasks_that_asks_the_functions_alone_does_not_touch_the_session() -> None:
    store = Watched()
    app = Flask(__name__)
    ServerSession(app, sessions=configure(session_store=store))
    app.add_url_rule("/log-in", "enter", lambda: str(sync.log_in("ada", {"user": "Ada"})))
    app.add_url_rule("/news", "news", lambda: sync.get_session_data(flask_request, touch=False))
    client = app.test_client()
    client.get("/log-in")
    store.calls.clear()
    assert client.get("/news").json == {"user": "Ada"}
    assert store.calls == ["look"]


def test_a_job_writes_to_the_session_that_began_it_and_a_change_of_role_reaches_all() -> None:
    names = run("without a request")
    app: FastAPI = names["app"]

    @app.get("/log-in")
    async def enter() -> bool:
        return await log_in("ada", {"user": "ada", "cart": ["tea", "milk"]})

    @app.get("/")
    async def index() -> dict[str, Any]:
        return await get_session_data()

    clients = [client_of(app) for _ in range(2)]
    for client in clients:
        client.get("/log-in")
    assert clients[0].post("/export", headers={"Sec-Fetch-Site": "same-origin"}).status_code == 200
    assert [client.get("/").json().get("export") for client in clients] == ["tea, milk", None]
    assert asyncio.run(names["make_editor"]("ada")) == 2
    assert [client.get("/").json()["role"] for client in clients] == ["editor"] * 2


@pytest.fixture
def shop(monkeypatch: pytest.MonkeyPatch) -> FastAPI:
    """The recipe's application, with a provider that signs nothing."""
    identity: Any = ModuleType("identity")
    identity.address_to_ask = "https://provider.example/?state={}".format
    identity.user_in = lambda form: form["user"]
    monkeypatch.setitem(sys.modules, "identity", identity)
    app: FastAPI = run("form post")["app"]

    @app.get("/")
    async def index() -> dict[str, Any]:
        return await get_session_data()

    return app


def posted(client: TestClient, user: str, state: str) -> Any:
    """Post the provider's answer, with which no cookie of SameSite=Lax comes."""
    lax = client.cookies.get("session")
    del client.cookies["session"]
    reply = client.post("/answer", data={"user": user, "state": state}, headers={"Sec-Fetch-Site": "cross-site"})
    assert "session" not in client.cookies
    client.cookies.set("session", lax, domain="shop.example", path="/")
    return reply


def state_of(client: TestClient) -> str:
    return str(client.get("/log-in").headers["location"]).partition("state=")[2]


def test_a_log_in_that_a_providers_page_posts_passes_once(shop: FastAPI) -> None:
    client = client_of(shop)
    reply = posted(client, "ada", state_of(client))
    assert (reply.status_code, reply.headers["location"]) == (303, "/enter")
    ticket = client.cookies["__Host-ticket"]
    assert client.get("/enter").status_code == 303
    assert client.get("/").json() == {"user": "ada"}
    client.cookies.set("__Host-ticket", ticket, domain="shop.example", path="/")
    assert client.get("/enter").status_code == 403


def test_an_answer_that_this_browser_did_not_ask_for_logs_nobody_in(shop: FastAPI) -> None:
    attacker, victim = client_of(shop), client_of(shop)
    his = state_of(attacker)
    state_of(victim)
    posted(victim, "mallory", his)
    assert victim.get("/enter").status_code == 403
    assert victim.get("/").json() == {}

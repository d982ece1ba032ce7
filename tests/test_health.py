"""`health` tells a load balancer whether the store answers."""

import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import ANY

import pytest
from django.test import Client, override_settings
from starlette.testclient import TestClient

import server_session
from server_session import ConfigurationError, MemorySessionStore, Sessions, StoreDownError, StoreError, sync
from server_session._colour import Colour
from server_session.stores._over import StoreOver
from server_session.testing import YieldingStore
from tests.django_site.project import set_up
from tests.documents import code_of

WATCHING = Path(__file__).resolve().parents[1] / "docs" / "watching.md"


class Down(StoreOver):
    error: StoreError | None = StoreDownError("no answer from Redis: TimeoutError")

    def __init__(self) -> None:
        super().__init__(YieldingStore(MemorySessionStore()))

    async def get(self, key, expect, touch=True):
        if self.error is not None:
            raise self.error
        return await super().get(key, expect, touch)


class BlocksAndIsDown(Down):
    def __init__(self) -> None:
        super().__init__()
        self.colour = Colour.BLOCKS


async def test_a_store_that_answers_is_healthy():
    health = await Sessions(session_store=YieldingStore(MemorySessionStore())).health()
    assert health
    assert (health.answers, health.why) == (True, "")
    assert 0 <= health.seconds < 5


async def test_a_store_that_is_down_is_told_of_and_not_raised():
    health = await Sessions(session_store=Down()).health()
    assert not health
    assert (health.answers, health.why) == (False, "no answer from Redis: TimeoutError")


@pytest.mark.parametrize("driver", ["postgresql+psycopg", "postgresql+asyncpg", "mysql+pymysql", "redis"])
async def test_it_names_no_host(driver, free_port):
    sessions = Sessions(session_store=f"{driver}://shop:s3cret@127.0.0.1:{free_port}")
    health = await sessions.health()
    assert not health
    assert not re.search(r"127\.0\.0\.1|shop|s3cret|\d{4}", health.why)
    assert re.search("cannot be reached|no answer from Redis", health.why)


async def test_an_error_without_a_text_is_told_of_by_its_name():
    store = Down()
    store.error = StoreError()
    assert await Sessions(session_store=store).health() == (False, ANY, "StoreError")


async def test_it_says_so_at_once_while_requests_fail_at_once_and_finds_the_store_when_it_is_back():
    store = Down()
    sessions = Sessions(session_store=store)
    now = 1000.0
    sessions.policy.store._clock = lambda: now
    sessions.policy.store.failed = (now - 3, now, str(store.error), None)
    assert not await sessions.health()
    assert (await sessions.health()).why.startswith("not asked")
    store.error = None
    now += 0.6
    assert await sessions.health()


def test_it_makes_no_record():
    store = MemorySessionStore()
    assert Sessions(session_store=store).sync.health()
    assert store.stats().sessions == 0


async def test_the_module_has_it_in_both_colours():
    with pytest.raises(ConfigurationError, match="configure"):
        await server_session.health()
    server_session.configure()
    assert await server_session.health()
    assert sync.health()
    assert isinstance(sync.health(), server_session.Health)


def documented(framework: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Run the code that the documents show for a framework, as a module."""
    module = ModuleType(f"health_in_{framework}")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    code = compile(code_of(WATCHING, f"health in {framework}"), f"docs/watching.md ({framework})", "exec")
    exec(code, module.__dict__)  # noqa: S102 - our own
    return module


def test_a_load_balancer_asks_fastapi_as_documented(monkeypatch):
    client = TestClient(documented("FastAPI", monkeypatch).app)
    assert client.get("/health").status_code == 200
    server_session.configure(session_store=Down())
    assert client.get("/health").status_code == 503


def test_a_load_balancer_asks_flask_as_documented(monkeypatch):
    client = documented("Flask", monkeypatch).app.test_client()
    assert client.get("/health").status_code == 200
    server_session.configure(session_store=BlocksAndIsDown())
    assert client.get("/health").status_code == 503


def test_a_load_balancer_asks_django_as_documented(monkeypatch, tmp_path_factory):
    set_up(tmp_path_factory.mktemp("django"))
    urls = documented("Django", monkeypatch).__name__
    with override_settings(ROOT_URLCONF=urls, SERVER_SESSION={"session_store": "memory:"}):
        assert Client().get("/health").status_code == 200
    with override_settings(ROOT_URLCONF=urls, SERVER_SESSION={"session_store": BlocksAndIsDown()}):
        assert Client().get("/health").status_code == 503

"""The log-in of docs/recipes.md, which a provider's page posts from another site, in Chromium."""

import hashlib
import hmac
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import urlencode

import pytest
from fastapi import FastAPI
from playwright.sync_api import Page, expect
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse
from starlette.routing import Route

from server_session import get_session_data
from tests.documents import code_of
from tests.patience import PATIENCE

DOCUMENT = Path(__file__).parents[2] / "docs" / "recipes.md"

expect.set_options(timeout=PATIENCE * 1000)


def signature(user: str) -> str:
    return hmac.new(b"the provider's key", user.encode(), hashlib.sha256).hexdigest()


def form_of(action: str, user: str, state: str) -> str:
    """Return a page of the provider's, or one that looks like it, that posts a genuine answer by itself."""
    fields = {"user": user, "signature": signature(user), "state": state}
    inputs = "".join(f'<input type="hidden" name="{name}" value="{value}">' for name, value in fields.items())
    return f'<form method="post" action="{action}/answer">{inputs}</form><script>document.forms[0].submit()</script>'


async def posts(request: Request) -> HTMLResponse:
    return HTMLResponse(form_of(**request.query_params))


@pytest.fixture
def provider(serve: Callable[..., Any]) -> str:
    """A provider on `localhost`: to a browser another site than `127.0.0.1`."""
    return f"http://localhost:{serve(Starlette(routes=[Route('/', posts)])).port}"


@pytest.fixture
def shop(serve: Callable[..., Any], provider: str, monkeypatch: pytest.MonkeyPatch) -> str:
    identity: Any = ModuleType("identity")
    module = ModuleType("recipe_in_a_browser")

    def user_in(form: Any) -> str:
        assert hmac.compare_digest(form["signature"], signature(form["user"]))
        return str(form["user"])

    identity.user_in = user_in
    identity.address_to_ask = lambda state: f"{provider}/?{urlencode({'action': url, 'user': 'Ada', 'state': state})}"
    monkeypatch.setitem(sys.modules, "identity", identity)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    exec(compile(code_of(DOCUMENT, "form post"), "docs/recipes.md (form post)", "exec"), module.__dict__)  # noqa: S102
    app: FastAPI = module.__dict__["app"]

    @app.get("/")
    async def index() -> HTMLResponse:
        return HTMLResponse(f"<p>{(await get_session_data()).get('user', 'nobody')}</p>")

    url: str = serve(app).url
    return url


def test_a_log_in_that_another_site_posts_arrives_and_its_ticket_passes_once(shop: str, page: Page) -> None:
    page.goto(f"{shop}/log-in")
    expect(page.locator("p")).to_have_text("Ada")
    assert page.url.startswith(shop)
    answer = page.goto(f"{shop}/enter")
    assert answer is not None
    assert answer.status == 403
    page.goto(shop)
    expect(page.locator("p")).to_have_text("Ada")


@pytest.mark.parametrize("asked", [False, True])
def test_an_attackers_own_answer_logs_no_visitor_in(shop: str, provider: str, page: Page, asked: bool) -> None:
    if asked:
        # With the visitor's cookies, and not on to the provider.
        assert page.context.request.get(f"{shop}/log-in", max_redirects=0).status in (302, 303, 307)
    page.goto(f"{provider}/?{urlencode({'action': shop, 'user': 'Mallory', 'state': 'his'})}")
    expect(page.locator("body")).to_contain_text("did not ask")
    page.goto(shop)
    expect(page.locator("p")).to_have_text("nobody")

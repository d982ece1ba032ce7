"""Log-in, forged forms and log-out in Chromium, over the real servers of frameworks that are not ASGI's own."""

import importlib
import json
from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Page

from server_session import MemorySessionStore
from server_session.testing import AdapterContract, Site

pytestmark = [pytest.mark.once, pytest.mark.needs("chromium")]

SUBMIT = """([action, token]) => {
    const form = document.body.appendChild(document.createElement("form"));
    Object.assign(form, { action, method: "post" });
    form.innerHTML = token;
    form.submit();
}"""


@pytest.fixture(
    params=["Aiohttp", "Pyramid", *(pytest.param(each, marks=pytest.mark.again) for each in ("Litestar", "Sanic"))]
)
def port(request: pytest.FixtureRequest) -> Iterator[int]:
    # Imported by the tests that are run alone: some frameworks take a second.
    module = importlib.import_module(f"tests.frameworks.test_{request.param.lower()}")
    suite: AdapterContract = getattr(module, f"Test{request.param}")()
    with suite.serve(suite.make_app(Site.over(MemorySessionStore(), blocks=suite.blocks))) as port:
        yield port


def sent(page: Page, origin: str, action: str, path: str = "/form") -> tuple[int, str]:
    """Send a form of this page's there, and return the status and the text of the answer."""
    shown = page.goto(origin + path)
    assert shown is not None
    with page.expect_navigation() as navigation:
        page.evaluate(SUBMIT, [action, shown.text()])
    response = navigation.value
    assert response is not None
    return response.status, page.inner_text("body")


def test_a_visitor_logs_in_by_a_form_and_out_and_another_site_does_neither(port: int, page: Page) -> None:
    own, other = f"http://127.0.0.1:{port}", f"http://localhost:{port}"

    def held() -> Any:
        page.goto(f"{own}/read")
        return json.loads(page.inner_text("body"))

    assert sent(page, own, f"{own}/log-in?user=ada") == (200, "True")
    assert held() == {"user": "ada"}
    # A view that takes nothing but a token of this session's.
    assert sent(page, own, f"{own}/strict?paid=9")[0] == 200
    for action in ("/write?forged=yes", "/destroy", "/log-in?user=mallory"):
        assert sent(page, other, own + action, "/nothing")[0] == 403
    assert held() == {"user": "ada", "paid": "9"}
    assert sent(page, own, f"{own}/destroy") == (200, "True")
    assert held() == {}
    assert page.context.cookies(own) == []

"""The widget of docs/how-to/iframe.md on two other sites, in Chromium."""

from collections.abc import Callable
from typing import Any

import pytest
from playwright.sync_api import Browser, expect
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse
from starlette.routing import Route

from tests.documents import DOCS, code_of
from tests.patience import PATIENCE

expect.set_options(timeout=PATIENCE * 1000)


@pytest.mark.again
def test_an_embedded_page_has_a_session_of_its_own_on_each_site(serve: Callable[..., Any], browser: Browser) -> None:
    code = code_of(DOCS / "how-to" / "iframe.md", "iframe")
    # Browsers take http on loopback for secure, and *.localhost for sites of their own.
    code = code.replace('    origin="https://widget.example",\n', "")
    code = code.replace("https://partner.example", "http://127.0.0.1:* http://partner.localhost:*")
    names: dict[str, Any] = {"__name__": "widget"}
    exec(compile(code, "docs/how-to/iframe.md", "exec"), names)  # noqa: S102 - our own
    widget = f"http://widget.localhost:{serve(names['app']).port}/"

    async def embed(_: Request) -> HTMLResponse:
        return HTMLResponse(
            f'<iframe src="{widget}"></iframe><form method="post" action="{widget}vote"><button>Theirs</button></form>'
        )

    partner = serve(Starlette(routes=[Route("/", embed)])).port
    page = browser.new_context().new_page()
    frame = page.frame_locator("iframe")
    for site, votes in (("127.0.0.1", 2), ("partner.localhost", 1)):
        page.goto(f"http://{site}:{partner}/")
        expect(frame.locator("p")).to_have_text("0")
        for vote in range(votes):
            frame.get_by_role("button").click()
            expect(frame.locator("p")).to_have_text(str(vote + 1))
        page.reload()
        expect(frame.locator("p")).to_have_text(str(votes))
    with page.expect_response("**/vote") as refused:
        page.get_by_role("button", name="Theirs").click()
    assert refused.value.status == 403
    page.goto(widget)
    expect(page.locator("p")).to_have_text("0")

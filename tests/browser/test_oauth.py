"""Authlib's own log-in flow over `request.session`, in Chromium, against a provider on another site."""

from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import pytest
from authlib.integrations.starlette_client import OAuth, OAuthError
from playwright.sync_api import BrowserContext, Page, expect
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.sessions import SessionMiddleware as StarletteSessionMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route

from server_session.starlette import SessionMiddleware
from tests.browser.provider import CLIENT_ID, CLIENT_SECRET, Provider
from tests.patience import PATIENCE

OURS = Middleware(SessionMiddleware, session_store="memory:")
STARLETTES = Middleware(StarletteSessionMiddleware, secret_key="for the tests")

expect.set_options(timeout=PATIENCE * 1000)


def client_app(provider: str, middleware: Middleware) -> Starlette:
    """Return an application that logs in by Authlib, as its documentation has it, and knows nothing of us."""
    oauth = OAuth()
    oauth.register(
        "provider",
        client_id=CLIENT_ID,
        client_secret=CLIENT_SECRET,
        authorize_url=f"{provider}/authorize",
        access_token_url=f"{provider}/token",
        api_base_url=provider,
        client_kwargs={"scope": "profile", "code_challenge_method": "S256"},
    )

    async def index(request: Request) -> Response:
        user = request.session.get("user")
        visits = request.session["visits"] = request.session.get("visits", 0) + 1
        return HTMLResponse(
            f"<p id=user>{user['name'] if user else 'nobody'}</p><p id=visits>{visits}</p>"
            f"<p id=keys>{' '.join(request.session)}</p>"
            f"<p id=site>{request.session.get('site', '')}</p><a href=/log-in>Log in</a> <a href=/log-out>Log out</a>"
        )

    async def log_in(request: Request) -> Response:
        answer: Response = await oauth.provider.authorize_redirect(request, str(request.url_for("callback")))
        return answer

    async def callback(request: Request) -> Response:
        try:
            token = await oauth.provider.authorize_access_token(request)
        except OAuthError as error:
            return PlainTextResponse(error.error, 400)
        answer = await oauth.provider.get("userinfo", token=token)
        request.session["user"] = dict(answer.json())
        request.session["site"] = request.headers["sec-fetch-site"]
        return RedirectResponse("/")

    async def log_out(request: Request) -> Response:
        request.session.pop("user", None)
        return RedirectResponse("/")

    routes = [
        Route("/", index),
        Route("/log-in", log_in),
        Route("/callback", callback, name="callback"),
        Route("/log-out", log_out),
    ]
    return Starlette(routes=routes, middleware=[middleware])


@pytest.fixture
def client(serve: Callable[..., Any]) -> Callable[[Middleware], str]:
    """Serve the provider on `localhost` and the client on `127.0.0.1`: to a browser, two sites."""

    def start(middleware: Middleware) -> str:
        provider = serve(Provider().app)
        url: str = serve(client_app(f"http://localhost:{provider.port}", middleware)).url
        return url

    return start


def log_in(page: Page, client: str) -> None:
    page.goto(client)
    page.click("text=Log in")
    page.fill("[name=name]", "Ada")
    assert urlsplit(page.url).hostname == "localhost"
    page.click("button")


def session_cookie(context: BrowserContext) -> str | None:
    return next((cookie["value"] for cookie in context.cookies() if cookie["name"] == "session"), None)


@pytest.mark.parametrize("middleware", [OURS, STARLETTES], ids=["ours", "starlette's"])
def test_a_log_in_by_authlib_passes_under_either_middleware(client, page, middleware):
    log_in(page, client(middleware))

    expect(page.locator("#user")).to_have_text("Ada")
    expect(page.locator("#site")).to_have_text("cross-site")
    # The session of before the log-in goes on, and Authlib's state has left it.
    expect(page.locator("#visits")).to_have_text("2")
    expect(page.locator("#keys")).to_have_text("visits user site")


def test_the_log_in_renews_the_cookie(client, context, page):
    url = client(OURS)
    page.goto(url)
    before = session_cookie(context)

    log_in(page, url)
    expect(page.locator("#user")).to_have_text("Ada")

    assert before is not None
    assert session_cookie(context) not in (None, before)


def test_a_callback_is_refused_in_a_browser_that_did_not_ask(client, browser, page):
    url = client(OURS)
    page.goto(url)
    page.click("text=Log in")
    page.fill("[name=name]", "Mallory")
    # The provider's answer is kept from this browser, and given to another one.
    page.route("**/callback?*", lambda route: route.abort())
    with page.expect_request("**/callback?*") as asked:
        page.click("button")
    victim = browser.new_context()
    other = victim.new_page()
    other.goto(url)

    answer = other.goto(asked.value.url)

    assert answer.status == 400
    assert "mismatching_state" in other.content()
    other.goto(url)
    expect(other.locator("#user")).to_have_text("nobody")
    victim.close()


def test_logging_out_ends_it(client, page):
    url = client(OURS)
    log_in(page, url)
    expect(page.locator("#user")).to_have_text("Ada")

    page.click("text=Log out")

    expect(page.locator("#user")).to_have_text("nobody")

"""The adapter for Bottle keeps the contract of adapters."""

from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
from bottle import BaseRequest, Bottle, HTTPError, HTTPResponse, SimpleTemplate, request, response
from webtest import TestApp

from server_session import MemorySessionStore, Sessions, _sessions
from server_session.adapters import WsgiRequest
from server_session.bottle import ServerSession, csrf_exempt, csrf_protect
from server_session.testing import AdapterContract, Encoded, Failed, Headed, Here, Page, Redirected, Site, Streamed
from server_session.testing._site import FailingStore
from tests.documents import code_of
from tests.frameworks.serving import BLOCKING, OverRedis, asked_by_webtest, waitress_serves

DOCUMENT = Path(__file__).parents[2] / "docs" / "frameworks" / "bottle.md"
FORM = SimpleTemplate("<form>{{!csrf_input()}}</form>")


def view_of(page: Page) -> Any:
    def body() -> bytes:
        # Bottle leaves the temporary file of a large one open.
        with request.body as file:
            return file.read()

    def view() -> Any:
        here = Here(
            lambda: request.session,
            request,
            request.query,
            lambda: dict(request.forms.decode()),
            body,
            response,
            FORM.render,
        )
        match page.run(here):
            case Redirected(path):
                raise HTTPResponse(status=303, Location=path)
            case Failed(status):
                raise HTTPError(status)
            case Streamed(chunks):
                return chunks
            case Encoded(value):
                return value.copy()
            case Headed(text, headers):
                for name, value in headers:
                    response.add_header(name, value)
                return text
            case text:
                return text

    return page.mark(view)


def own_page(error: HTTPError) -> str:
    return f"own page of {error.status_code}"


class TestBottle(OverRedis, AdapterContract):
    blocks = True
    stores = BLOCKING
    # Bottle serves none.
    has_websockets = False

    def make_app(self, site: Site) -> Bottle:
        app, inner = Bottle(), Bottle()
        app.install(ServerSession(site.sessions))
        for page in site.pages:
            where, path = (inner, page.path.removeprefix("/inner")) if page.is_inner else (app, page.path)
            where.route(path, [*page.methods], view_of(page))
        app.mount("/inner/", inner)
        for status in (403, 503):
            app.error(status, own_page)
        return app

    def serve(self, app: Bottle) -> AbstractContextManager[int]:
        return waitress_serves(app)

    def client(self, app: Bottle) -> AbstractContextManager[Any]:
        return asked_by_webtest(app)


# --- what is Bottle's own


class Shop:
    """An application and a visitor who has a session in it."""

    def __init__(self, app: Bottle, **settings: Any) -> None:
        self.store = FailingStore(MemorySessionStore())
        self.plugin = app.install(ServerSession(session_store=self.store, **settings))
        self.client = TestApp(app)
        self.app = app

        @app.post("/write")
        def write() -> str:
            request.session["kept"] = "yes"
            return "written"

        @app.get("/read")
        def read() -> dict[str, Any]:
            return request.session.copy()

    def enter(self) -> "Shop":
        self.client.post("/write")
        return self

    def ask(self, method: str, path: str, site: str = "", **options: Any) -> Any:
        headers = {**options.pop("headers", {}), **({"Sec-Fetch-Site": site} if site else {})}
        return self.client.request(path, method=method, headers=headers, expect_errors=True, **options)

    def post(self, path: str, site: str = "", **form: str) -> Any:
        kind = "application/x-www-form-urlencoded"
        return self.ask("POST", path, site, body=urlencode(form).encode(), content_type=kind)

    @property
    def data(self) -> dict[str, Any]:
        data: dict[str, Any] = self.client.get("/read").json
        return data


def test_a_route_that_skips_plugins_and_one_of_a_mounted_application_are_checked_and_served() -> None:
    app, child = Bottle(), Bottle()
    shop = Shop(app)
    child.post("/here", callback=lambda: request.session["kept"])
    app.mount("/child/", child)
    app.post("/skipping", callback=lambda: request.session["kept"], skip=True)
    shop.enter()
    for path in ("/skipping", "/child/here"):
        assert shop.post(path, "cross-site").status_int == 403
        assert shop.post(path, "same-origin").text == "yes"


def test_mounts_that_hide_the_callback_leave_the_check_to_whom_knows_it() -> None:
    app, child, foreign = Bottle(), Bottle(), []
    shop = Shop(app)
    child.install(ServerSession(shop.plugin.sessions))
    child.post("/hook", callback=csrf_exempt(lambda: "called"))
    child.post("/form", callback=lambda: "sent")

    def wsgi(environ: Any, start: Any) -> list[bytes]:
        foreign.append(environ["PATH_INFO"])
        start("200 OK", [("Content-Type", "text/plain")])
        return [b"foreign"]

    app.mount("/foreign", wsgi)
    with pytest.warns(DeprecationWarning, match="Unsupported mount options"):
        app.mount("/child/", child, name="child")
    shop.enter()
    assert shop.post("/child/hook", "cross-site").text == "called"
    assert shop.post("/child/form", "cross-site").status_int == 403
    assert shop.post("/child/form", "same-origin").text == "sent"
    assert shop.post("/foreign/x", "cross-site").status_int == 403
    assert foreign == []
    assert shop.post("/foreign/x", "same-origin").text == "foreign"
    assert shop.data == {"kept": "yes"}


@pytest.mark.parametrize("path, status", [("/exempt/", 403), ("/form/", 200)])
def test_a_hook_that_rewrites_the_path_rewrites_what_is_checked(path: str, status: int) -> None:
    # Asked of the router before the hook, each would be taken for the other.
    app = Bottle()
    shop = Shop(app)
    app.post("/exempt", callback=csrf_exempt(lambda: "exempt"))
    app.post("/form", callback=lambda: "form")

    @app.hook("before_request")
    def rewrite() -> None:
        swapped = {"/exempt/": "/form", "/form/": "/exempt"}
        request.environ["PATH_INFO"] = swapped.get(request.path, request.path)

    assert shop.enter().post(path, "cross-site").status_int == status


def test_a_hook_that_reads_the_form_leaves_its_token_to_be_found() -> None:
    app = Bottle()
    shop = Shop(app)
    app.add_hook("before_request", lambda: request.forms.get("name"))
    app.post("/form", callback=lambda: request.forms.name)
    app.get("/token", callback=shop.plugin.sessions.sync.get_csrf_token)
    token = shop.enter().client.get("/token").text
    assert shop.post("/form", name="Ada", csrf_token=token).text == "Ada"
    assert shop.post("/form", name="Ada", csrf_token=token[::-1]).status_int == 403


def test_a_scoped_token_is_good_at_a_path_that_bottle_has_decoded() -> None:
    app = Bottle()
    shop = Shop(app)
    app.post("/grün/日本", callback=csrf_protect(scoped=True, strict=True)(lambda: "sent"))
    app.get("/token", callback=lambda: shop.plugin.sessions.sync.get_csrf_token(scope=("POST", "/grün/日本")))
    token = shop.enter().client.get("/token").text
    assert shop.post("/gr%C3%BCn/%E6%97%A5%E6%9C%AC", csrf_token=token).text == "sent"


def test_a_raised_error_and_a_raised_response_bear_the_cookie() -> None:
    for raised, status in ((HTTPError(418, "tea"), 418), (HTTPResponse(status=303, Location="/read"), 303)):
        app = Bottle()
        shop = Shop(app)

        @app.post("/raises")
        def raises(raised: HTTPResponse = raised) -> str:
            request.session["kept"] = "yes"
            raise raised

        assert shop.post("/raises").status_int == status
        assert shop.data == {"kept": "yes"}


def test_an_error_page_that_looks_at_the_session_varies_on_it_and_keeps_what_it_writes() -> None:
    app = Bottle()
    shop = Shop(app)

    @app.error(404)
    def missing(_: HTTPError) -> str:
        request.session["missed"] = request.path
        return "nothing here"

    shop.enter()
    answered = shop.ask("GET", "/nowhere")
    assert (answered.status_int, answered.text, answered.headers["Vary"]) == (404, "nothing here", "Cookie")
    assert shop.data == {"kept": "yes", "missed": "/nowhere"}


@pytest.mark.parametrize("where", ["view", "hook", "stream", "error page"])
def test_a_store_that_is_down_is_503_on_the_application_s_page(where: str) -> None:
    app = Bottle()
    shop = Shop(app)

    @app.get("/fails")
    def fails() -> Any:
        if where == "error page":
            raise HTTPError(404)
        return (text for text in [request.session["kept"]]) if where == "view" else chunks()

    def chunks() -> Iterator[str]:
        yield str(request.session["kept"])

    if where == "hook":
        app.add_hook("before_request", lambda: shop.store.is_down and request.session.get("kept"))
    app.error(404, lambda _: str(request.session.get("kept")))
    shop.enter().store.is_down = True
    answered = shop.ask("GET", "/fails")
    assert (answered.status_int, "unavailable" in answered.text) == (503, True)
    app.error(503, lambda error: f"own page: {type(error.exception).__name__}")
    assert shop.ask("GET", "/fails").text == "own page: StoreError"
    app.catchall = False
    assert where == "error page" or shop.ask("GET", "/fails").status_int == 503


def test_a_refusal_is_shown_as_a_page_or_by_the_application() -> None:
    shop = Shop(Bottle()).enter()
    assert "<h1>Forbidden</h1>" in shop.post("/write", "cross-site").text
    shop.app.error(403, lambda error: f"own page: {error.rejection.code}")
    answered = shop.post("/write", "cross-site")
    assert (answered.text, answered.headers["CSRF-Rejection"]) == ("own page: csrf_site", "csrf_site")


def test_to_ask_for_a_route_is_not_to_be_served() -> None:
    shop = Shop(Bottle())
    environ = {"REQUEST_METHOD": "POST", "PATH_INFO": "/write", "wsgi.url_scheme": "http", "HTTP_SEC_FETCH_SITE": "x"}
    route, _ = shop.app.match({**environ, "HTTP_SEC_FETCH_SITE": "cross-site", "HTTP_COOKIE": "session=x"})
    assert route.rule == "/write"


def test_an_application_within_another_framework_s_has_the_session_that_is_served_there() -> None:
    shop = Shop(Bottle())
    sessions = shop.plugin.sessions

    def outer(environ: dict[str, Any], start: Any) -> Any:
        exchange = sessions.exchange(WsgiRequest.of(environ))
        exchange.serve()
        try:
            body = [*shop.app(environ, lambda *_: None)]
            response = HTTPResponse(body)
            exchange.answer(response)
        finally:
            exchange.leave()
        start("200 OK", response.headerlist)
        return body

    client = TestApp(outer, lint=False)
    assert client.post("/write").text == "written"
    assert client.get("/read").text == '{"kept":"yes"}'


def test_the_plugin_is_installed_once() -> None:
    shop = Shop(Bottle())
    with pytest.raises(AttributeError, match="Plugin conflict"):
        shop.app.install(ServerSession(shop.plugin.sessions))


def test_functions_set_the_cookie_on_a_response_of_bottle_s_without_the_plugin() -> None:
    sessions, given = Sessions(), HTTPResponse("given")
    environ = {"REQUEST_METHOD": "POST", "PATH_INFO": "/", "wsgi.url_scheme": "http"}
    assert sessions.sync.set_session_data(BaseRequest(environ), given, {"a": 1})
    assert [name for name, _ in given.headerlist].count("Set-Cookie") == 1


def test_the_application_of_the_documentation_runs_as_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_sessions, "_configured", None)
    namespace: dict[str, Any] = {}
    exec(compile(code_of(DOCUMENT, "bottle"), DOCUMENT.name, "exec"), namespace)  # noqa: S102 - our own
    client = TestApp(namespace["app"])
    before = client.get("/").forms[0]
    cookie = {**client.cookies}
    before["user"] = "Ada"
    page = before.submit().follow()
    assert "Hello Ada, visit 1" in page.text
    assert client.cookies != cookie
    assert "csrf_token_missing" in client.post("/log-out", status=403).text
    assert "Log in" in page.forms[0].submit().follow().text


def test_what_cannot_be_stored_is_bottle_s_own_500_and_bears_the_cookie_of_a_renewal() -> None:
    app = Bottle()
    shop = Shop(app).enter()

    @app.post("/unstorable")
    def unstorable() -> str:
        shop.plugin.sessions.sync.renew_session()
        request.session["odd"] = object()
        return "never"

    answered = shop.post("/unstorable", "same-origin")
    assert answered.status_int == 500
    assert "Critical error" in answered.text
    assert shop.data == {"kept": "yes"}

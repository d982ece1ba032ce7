"""The adapter for Falcon keeps the contract of adapters, as a WSGI and as an ASGI application."""

import io
import json
import re
import types
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import falcon
import falcon.asgi
import falcon.testing
import pytest
from falcon import HTTPForbidden, HTTPServiceUnavailable
from jinja2 import DictLoader, Environment

from server_session import CookieHandler, Sessions, _sessions, configure
from server_session._urls import open_store
from server_session.adapters import template_functions
from server_session.exceptions import CarrierError, ConfigurationError
from server_session.falcon import ServerSession, csrf_exempt
from server_session.sync import get_csrf_token
from server_session.testing import AdapterContract, Encoded, Failed, Headed, Here, Page, Redirected, Site, Streamed
from server_session.testing._browser import Browser
from tests.documents import code_of
from tests.frameworks.serving import (
    AWAITED,
    BLOCKING,
    OverRedis,
    check_a_timedelta_watches,
    uvicorn_serves,
    waitress_serves,
)
from tests.visitors import Watched

PAGE = Path(__file__).parents[2] / "docs/frameworks/falcon.md"
TEMPLATES = Environment(loader=DictLoader({"form": "<form>{{ csrf_input() }}</form>"}), autoescape=True)
TEMPLATES.globals.update(template_functions())


def here_of(req: Any, resp: Any) -> Here:
    def replace(mapping: Any) -> None:
        req.context.session = mapping

    here = Here(lambda: req.context.session, req, req.params, None, req.bounded_stream.read, resp)  # type: ignore[arg-type]
    here.render, here.replace = lambda: TEMPLATES.get_template("form").render(), replace
    return here


def respond(resp: Any, answer: Any) -> None:
    match answer:
        case Redirected(path):
            raise falcon.HTTPSeeOther(path)
        case Failed(status):
            raise falcon.HTTPError(status)
        case Streamed(chunks):
            resp.stream = chunks
        case Encoded(value):
            resp.media = value
        case Headed(text, headers):
            resp.text = text
            for name, value in headers:
                resp.append_header(name, value)
        case text:
            resp.text = str(text)


def resource_of(page: Page) -> Any:
    def respond_to(_self: Any, req: Any, resp: Any) -> None:
        def form() -> dict[str, Any]:
            media = req.get_media()
            return {part.name: part.text for part in media} if "multipart" in req.content_type else media

        here = here_of(req, resp)
        here.form = form
        respond(resp, page.run(here))

    responder = page.mark(respond_to)
    return type("Resource", (), {f"on_{method.lower()}": responder for method in page.methods})()


def async_resource_of(page: Page) -> Any:
    async def respond_to(_self: Any, req: Any, resp: Any) -> None:
        async def form() -> dict[str, Any]:
            media = await req.get_media()
            return {part.name: await part.text async for part in media} if "multipart" in req.content_type else media

        here = here_of(req, resp)
        here.form = form
        respond(resp, await page.body(here))

    responder = page.mark(respond_to)
    return type("Resource", (), {f"on_{method.lower()}": responder for method in page.methods})()


def own_page(_req: Any, resp: Any, error: falcon.HTTPError, _params: Any) -> None:
    resp.status, resp.text = error.status, f"own page of {error.status_code}"


async def async_own_page(req: Any, resp: Any, error: falcon.HTTPError, params: Any, ws: Any = None) -> None:
    if ws is not None:
        raise error
    own_page(req, resp, error, params)


class Recorded:
    """A resource whose responders record that they were called."""

    called = 0

    def on_post(self, _req: Any, resp: Any) -> None:
        self.called += 1
        resp.text = "called"

    on_put = on_post

    @csrf_exempt
    def on_post_hook(self, req: Any, resp: Any) -> None:
        self.on_post(req, resp)


def cross_site(app: Any, *paths: str, method: str = "POST") -> list[int]:
    """Return how another site's requests with a session's cookie are answered."""
    client = falcon.testing.TestClient(app)
    headers = {"Sec-Fetch-Site": "cross-site", "Origin": "http://evil.example", "Cookie": "session=any"}
    return [client.simulate_request(method, path, headers=headers).status_code for path in paths]


class TestFalcon(OverRedis, AdapterContract):
    blocks = True
    stores = BLOCKING
    has_websockets = False
    can_replace = True

    def make_app(self, site: Site) -> Any:
        app = falcon.App()
        ServerSession(app, site.sessions)
        for page in site.pages:
            app.add_route(page.path, resource_of(page))
        for error in (HTTPForbidden, HTTPServiceUnavailable):
            app.add_error_handler(error, own_page)
        return app

    def serve(self, app: Any) -> AbstractContextManager[int]:
        return waitress_serves(app)

    @contextmanager
    def client(self, app: Any) -> Iterator[Any]:
        client = falcon.testing.TestClient(app)
        cookies: dict[str, str] = {}

        def ask(method: str, path: str, headers: dict[str, str]) -> tuple[int, str]:
            result = client.simulate_request(method, path, headers=headers, cookies=cookies)
            cookies.update({name: cookie.value for name, cookie in result.cookies.items()})
            return result.status_code, result.text

        yield ask


class TestFalconAsgi(TestFalcon):
    blocks = False
    stores = AWAITED
    has_websockets = True

    def make_app(self, site: Site) -> Any:
        class Socket:
            async def on_websocket(self, req: Any, ws: Any) -> None:
                await ws.accept()
                await ws.send_text(await site.greeting(req.context.session))
                await ws.receive_text()

        app = falcon.asgi.App()
        ServerSession(app, site.sessions, site.watch)
        for page in site.pages:
            app.add_route(page.path, async_resource_of(page))
        app.add_route("/socket", Socket())
        for error in (HTTPForbidden, HTTPServiceUnavailable):
            app.add_error_handler(error, async_own_page)
        return app

    def serve(self, app: Any) -> AbstractContextManager[int]:
        return uvicorn_serves(app)

    def test_stream_whose_client_hangs_up_leaves_the_site_well(self) -> None:
        # Falcon sends all of a stream, whoever has gone: once is long enough.
        self.stores = ("memory",)
        super().test_stream_whose_client_hangs_up_leaves_the_site_well()


def test_each_responder_has_the_marks_of_its_own():
    app, resource = falcon.App(), Recorded()
    ServerSession(app, session_store="memory:")
    app.add_route("/form", resource)
    app.add_route("/hook", resource, suffix="hook")
    assert cross_site(app, "/form", "/hook") == [403, 200]
    assert cross_site(app, "/form", method="PUT") == [403]
    assert resource.called == 1


def test_a_resource_is_marked_as_a_whole():
    app = falcon.App()
    ServerSession(app, session_store="memory:")
    app.add_route("/hook", csrf_exempt(type("Hook", (Recorded,), {}))())
    assert cross_site(app, "/hook") == [200]


def test_a_path_that_a_middleware_rewrites_is_checked_as_the_view_that_serves_it():
    class Rewrite:
        def process_request(self, req: Any, _resp: Any) -> None:
            req.path = "/form" if req.path == "/hook" else "/hook" if req.path == "/form" else req.path

    app, form = falcon.App(), Recorded()
    ServerSession(app, session_store="memory:")
    app.add_middleware(Rewrite())
    app.add_route("/form", form)
    app.add_route("/hook", csrf_exempt(type("Hook", (Recorded,), {}))())
    assert cross_site(app, "/hook", "/form") == [403, 200]
    assert form.called == 0


def test_falcon_s_own_page_of_a_refusal_says_its_code():
    app = falcon.App()
    ServerSession(app, session_store="memory:")
    app.add_route("/form", Recorded())
    headers = {"Sec-Fetch-Site": "cross-site", "Cookie": "session=any"}
    assert falcon.testing.TestClient(app).simulate_post("/form", headers=headers).json["code"] == "csrf_site"


@pytest.mark.parametrize("framework", [falcon.App, falcon.asgi.App])
def test_a_method_that_a_middleware_changes_is_checked_as_the_responder_that_serves_it(framework: Any):
    class Override:
        def process_request(self, req: Any, _resp: Any) -> None:
            req.method = req.params.get("_method", req.method)

        async def process_request_async(self, req: Any, resp: Any) -> None:
            self.process_request(req, resp)

    class AsyncRecorded:
        async def on_post(self, _req: Any, _resp: Any) -> None:
            raise AssertionError

    app = framework()
    ServerSession(app, session_store="memory:")
    app.add_middleware(Override())
    app.add_route("/form", Recorded() if framework is falcon.App else AsyncRecorded())
    assert cross_site(app, "/form?_method=POST", "/nowhere?_method=POST", method="GET") == [403, 403]
    assert cross_site(app, "/form?_method=GET") == [403]


@pytest.mark.parametrize("framework", [falcon.App, falcon.asgi.App])
def test_a_sink_is_checked_by_the_headers(framework: Any):
    called: list[str] = []

    def sink(req: Any, _resp: Any) -> None:
        called.append(req.path)

    async def asink(req: Any, _resp: Any) -> None:
        called.append(req.path)

    app = framework()
    ServerSession(app, session_store="memory:")
    app.add_sink(sink if framework is falcon.App else asink, "/proxy")
    assert cross_site(app, "/proxy/a", "/nowhere") == [403, 403]
    own = {"Sec-Fetch-Site": "same-origin", "Cookie": "session=any"}
    assert falcon.testing.TestClient(app).simulate_post("/proxy/b", headers=own).status_code == 200
    assert called == ["/proxy/b"]


@pytest.mark.parametrize("framework", [falcon.App, falcon.asgi.App])
def test_media_with_the_session_in_it_makes_the_response_vary(framework: Any):
    class Read:
        def on_get(self, req: Any, resp: Any) -> None:
            resp.media = {"session": {**req.context.session}}

    class AsyncRead:
        async def on_get(self, req: Any, resp: Any) -> None:
            resp.media = {"session": req.context.session}

    app = framework()
    ServerSession(app, session_store="memory:")
    app.add_route("/read", Read() if framework is falcon.App else AsyncRead())
    result = falcon.testing.TestClient(app).simulate_get("/read")
    assert (result.json, result.headers["vary"]) == ({"session": {}}, "Cookie")


def test_an_error_in_media_is_answered_as_falcon_does():
    class Bad:
        def on_get(self, req: Any, resp: Any) -> None:
            req.context.session["a"] = 1
            resp.media = object()

    app = falcon.App()
    ServerSession(app, session_store="memory:")
    app.add_route("/bad", Bad())
    assert falcon.testing.TestClient(app).simulate_get("/bad").status_code == 500


def test_a_handler_of_errors_that_raises_still_lets_no_cache_keep_the_page():
    app = falcon.App()
    ServerSession(app, session_store="memory:")
    app.add_route("/form", Recorded())

    def page(_req: Any, _resp: Any, _error: Any, _params: Any) -> None:
        raise falcon.HTTPNotFound

    app.add_error_handler(HTTPForbidden, page)
    headers = {"Sec-Fetch-Site": "cross-site", "Cookie": "session=any"}
    result = falcon.testing.TestClient(app).simulate_post("/form", headers=headers)
    assert (result.status_code, result.headers["cache-control"]) == (404, "private, no-store")


def test_a_request_that_falcon_s_own_middleware_completes_needs_no_session():
    class Complete:
        def process_request(self, _req: Any, resp: Any) -> None:
            resp.complete = True

    app = falcon.App(middleware=[Complete()])
    ServerSession(app, session_store="memory:")
    assert falcon.testing.TestClient(app).simulate_get("/").status_code == 200


def test_server_sent_events_store_what_they_write():
    class Events:
        async def on_get(self, req: Any, resp: Any) -> None:
            async def events() -> Any:
                req.context.session["sent"] = True
                yield falcon.asgi.SSEvent(text="one")

            req.context.session["begun"] = True
            resp.sse = events()

        async def on_post(self, req: Any, resp: Any) -> None:
            resp.media = req.context.session

    app = falcon.asgi.App()
    ServerSession(app, session_store="memory:")
    app.add_route("/events", Events())
    client = falcon.testing.TestClient(app)
    result = client.simulate_get("/events")
    assert "one" in result.text
    own = {"Sec-Fetch-Site": "same-origin"}
    stored = client.simulate_post("/events", headers=own, cookies=result.cookies)
    assert stored.json == {"begun": True, "sent": True}


def test_a_websocket_stores_what_it_changed():
    class Socket:
        async def on_websocket(self, req: Any, ws: Any) -> None:
            req.context.session["socket"] = "was here"
            assert (await site.sessions.get_session_data())["socket"] == "was here"
            await ws.accept()

    site = Site.over(open_store("memory:"), blocks=False)
    app = TestFalconAsgi().make_app(site)
    app.add_route("/own-socket", Socket())
    with uvicorn_serves(app) as port:
        browser = Browser(port)
        browser.post("/write?a=1")
        with browser.open_socket("/own-socket") as socket:
            assert socket.receive() == 1000
        assert json.loads(browser.get("/read").text) == {"a": "1", "socket": "was here"}


def test_cookies_of_the_application_s_own_stay_beside_the_session_s():
    class Both:
        def on_get(self, req: Any, resp: Any) -> None:
            resp.set_cookie("own", "1")
            resp.append_header("Set-Cookie", "other=2")
            sessions.sync.set_session_data(req, resp, {"a": 1})
            # Another credential: what stands in the response for the session is taken back.
            sessions.sync.renew_session(req, resp)

    sessions = Sessions(session_store="memory:")
    app = falcon.App()
    app.add_route("/", Both())
    heard = falcon.testing.StartResponseMock()
    app(falcon.testing.create_environ("/"), heard)
    names = [value.partition("=")[0] for name, value in heard.headers if name.lower() == "set-cookie"]
    assert sorted(names) == ["other", "own", "session"]


def test_what_configure_made_is_served_by_default(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(_sessions, "_configured", None)
    app = falcon.App()
    ServerSession(app)
    app.add_route("/", resource_that(falcon.App, lambda req, _resp: req.context.session.update(a=1)))
    configure(session_store="memory:")
    assert "session" in falcon.testing.TestClient(app).simulate_get("/").cookies


def test_two_kinds_of_sessions_serve_one_application():
    one, other = (
        Sessions(session_store="memory:"),
        Sessions(session_store="memory:", cookie_handler=CookieHandler("other")),
    )

    class Both:
        def on_get(self, req: Any, _resp: Any) -> None:
            one.sync.set_session_data(req, {"a": 1})
            other.sync.set_session_data(req, {"b": 2})

    app = falcon.App()
    ServerSession(app, one)
    ServerSession(app, other)
    app.add_route("/", Both())
    result = falcon.testing.TestClient(app).simulate_get("/")
    assert (result.status_code, {*result.cookies}) == (200, {"session", "other"})


@pytest.mark.parametrize("extensions", [1, 2])
async def test_a_websocket_that_is_exempt_is_so_for_each_of_several_kinds_of_sessions(extensions: int):
    class Open:
        @csrf_exempt
        async def on_websocket(self, _req: Any, ws: Any) -> None:
            served.append("open")
            await ws.accept()
            await ws.close()

    served: list[str] = []
    app = falcon.asgi.App()
    for number in range(extensions):
        ServerSession(app, Sessions(session_store="memory:", cookie_handler=CookieHandler(f"session{number}")))
    app.add_route("/socket", Open())
    app.add_route("/other", Unreached())
    foreign = {"Origin": "https://evil.example", "Sec-Fetch-Site": "cross-site"}
    cookie = f"session0={'A' * 64}; session1={'A' * 64}"
    async with falcon.testing.ASGIConductor(app) as conductor:
        async with conductor.simulate_ws("/socket", headers={**foreign, "Cookie": cookie}):
            assert served == ["open"]
        with pytest.raises(falcon.WebSocketDisconnected) as refused:
            async with conductor.simulate_ws("/other", headers={**foreign, "Cookie": cookie}):
                pass
        assert refused.value.code == 3403


def test_the_page_s_example_counts_and_refuses_what_is_forged():
    module = types.ModuleType("falcon_page")
    exec(code_of(PAGE, "falcon"), module.__dict__)  # noqa: S102 - the page's own
    client = falcon.testing.TestClient(module.app)
    page = client.simulate_get("/")
    found = re.search(r'name="csrf_token" value="([^"]+)"', page.text)
    assert found
    assert "<p>0</p>" in page.text

    def add(token: str) -> int:
        body, kind = f"csrf_token={token}", "application/x-www-form-urlencoded"
        return client.simulate_post("/add", body=body, content_type=kind, cookies=page.cookies).status_code

    assert [add("forged"), add(found[1]), add(found[1])] == [403, 303, 303]
    assert "<p>2</p>" in client.simulate_get("/", cookies=page.cookies).text


def test_how_often_a_socket_is_watched_may_be_a_timedelta_and_nothing_that_is_no_duration():
    for watch in (0, "5"):
        with pytest.raises(ConfigurationError, match="watch must be"):
            ServerSession(falcon.asgi.App(), session_store="memory:", watch=watch)

    check_a_timedelta_watches(TestFalconAsgi)


def resource_that(framework: Any, respond: Any) -> Any:
    """Return a resource of this kind of application that answers each GET and HEAD so."""

    def respond_to(_self: Any, req: Any, resp: Any) -> None:
        respond(req, resp)

    async def await_to(_self: Any, req: Any, resp: Any) -> None:
        respond(req, resp)

    responder = respond_to if framework is falcon.App else await_to
    return type("Resource", (), {"on_get": responder, "on_head": responder})()


class Piece:
    """A stream of one piece, of either colour."""

    def __iter__(self) -> Iterator[bytes]:
        yield b"piece"

    async def __aiter__(self) -> Any:
        yield b"piece"


@pytest.mark.parametrize("framework", [falcon.App, falcon.asgi.App])
@pytest.mark.parametrize(
    "method, status, text",
    [
        ("GET", 200, "whole"),
        ("GET", 200, None),
        ("HEAD", 200, None),
        ("GET", 204, None),
        ("GET", 304, None),
        ("GET", 409, None),
    ],
)
def test_what_is_written_when_all_is_over_is_said_to_be_lost(
    framework: Any, method: str, status: int, text: str | None, caplog: pytest.LogCaptureFixture
):
    kept: list[Any] = []

    def respond(req: Any, resp: Any) -> None:
        session = req.context.session
        kept.append(session if isinstance(session, dict) else session.loaded())
        resp.status, resp.text, resp.stream = status, text, Piece()
        if status == 409:
            raise falcon.HTTPConflict

    app = framework()
    ServerSession(app, session_store="memory:")
    app.add_route("/", resource_that(framework, respond))
    assert falcon.testing.TestClient(app).simulate_request(method, "/").status_code == status
    assert "is not stored" not in caplog.text
    kept[0]["late"] = 1
    assert "is not stored" in caplog.text


@pytest.mark.parametrize("framework", [falcon.App, falcon.asgi.App])
def test_a_file_is_sent_as_it_is_and_may_be_cached(framework: Any):
    class Awaited:
        def __init__(self, content: bytes) -> None:
            self.content = io.BytesIO(content)

        async def read(self, size: int) -> bytes:
            return self.content.read(size)

    def respond(_req: Any, resp: Any) -> None:
        resp.stream = (io.BytesIO if framework is falcon.App else Awaited)(b"one\ntwo\n")

    app = framework()
    ServerSession(app, session_store="memory:")
    app.add_route("/", resource_that(framework, respond))
    result = falcon.testing.TestClient(app).simulate_get("/")
    assert (result.text, result.headers.get("vary")) == ("one\ntwo\n", None)


@pytest.mark.parametrize("framework", [falcon.App, falcon.asgi.App])
@pytest.mark.parametrize("given", ["stream", "sse"])
def test_a_stream_is_not_sent_in_the_place_of_the_page_of_a_refusal(framework: Any, given: str):
    def respond(req: Any, resp: Any) -> None:
        req.context.session["a"] = 1
        setattr(resp, given, Piece())

    store = Watched()
    app = framework()
    ServerSession(app, session_store=store)
    app.add_route("/", resource_that(framework, respond))
    store.fails = ["set"]
    # Of this kind Falcon makes no page.
    result = falcon.testing.TestClient(app).simulate_get("/", headers={"Accept": "image/png"})
    assert (result.status_code, result.text) == (503, "")


class Held(Piece):
    """A stream that must be closed, as Falcon of either kind closes one."""

    closed = 0

    def close(self) -> None:
        self.closed += 1


class AwaitedHeld(Held):
    async def close(self) -> None:  # type: ignore[override] # pyright: ignore[reportIncompatibleMethodOverride]
        self.closed += 1


class HeldIterator(AwaitedHeld):
    """One that is its own iterator."""

    def __aiter__(self) -> Any:
        return self

    async def __anext__(self) -> bytes:
        raise StopAsyncIteration


@pytest.mark.parametrize(
    "framework, kind", [(falcon.App, Held), (falcon.asgi.App, AwaitedHeld), (falcon.asgi.App, HeldIterator)]
)
@pytest.mark.parametrize("fails, status", [(["set"], 503), ([], 200)])
def test_a_stream_is_closed_be_it_sent_or_refused(framework: Any, kind: type[Held], fails: list[str], status: int):
    def respond(req: Any, resp: Any) -> None:
        req.context.session["a"] = 1
        resp.stream = held

    held = kind()
    store = Watched()
    app = framework()
    ServerSession(app, session_store=store)
    app.add_route("/", resource_that(framework, respond))
    store.fails = fails
    assert falcon.testing.TestClient(app).simulate_get("/").status_code == status
    assert held.closed == 1


def test_a_stream_that_fails_before_its_first_piece_is_closed_too():
    class Broken(AwaitedHeld):
        def __aiter__(self) -> Any:
            raise ZeroDivisionError

    def respond(req: Any, resp: Any) -> None:
        resp.stream = broken

    broken = Broken()
    app = falcon.asgi.App()
    ServerSession(app, session_store="memory:")
    app.add_route("/", resource_that(falcon.asgi.App, respond))
    with pytest.raises(ZeroDivisionError):
        falcon.testing.TestClient(app).simulate_get("/")
    assert broken.closed == 1


@pytest.mark.parametrize("fails, status", [(["set"], 503), ([], 200)])
def test_what_gives_events_is_closed_no_more_than_falcon_does_it(fails: list[str], status: int):
    class Hub(AwaitedHeld):
        async def __aiter__(self) -> Any:
            yield falcon.asgi.SSEvent(text="news")

    def respond(req: Any, resp: Any) -> None:
        req.context.session["a"] = 1
        resp.sse = hub

    hub = Hub()
    store = Watched()
    app = falcon.asgi.App()
    ServerSession(app, session_store=store)
    app.add_route("/", resource_that(falcon.asgi.App, respond))
    store.fails = fails
    assert falcon.testing.TestClient(app).simulate_get("/").status_code == status
    assert hub.closed == 0


def test_the_page_where_a_mapping_cannot_take_the_session_s_place_is_kept_by_no_cache():
    def respond(req: Any, resp: Any) -> None:
        req.context.session, resp.text = {"a": 1}, "saved"

    store = Watched()
    app = falcon.App()
    ServerSession(app, session_store=store)
    app.add_route("/", resource_that(falcon.App, respond))
    client = falcon.testing.TestClient(app)
    cookies = client.simulate_get("/").cookies
    store.fails = ["get"]
    result = client.simulate_get("/", cookies=cookies)
    assert (result.status_code, result.headers["cache-control"]) == (503, "private, no-store")


@pytest.mark.parametrize("framework", [falcon.App, falcon.asgi.App])
def test_a_session_that_cannot_be_stored_is_an_error_of_the_application_s_and_leaves_nothing_behind(framework: Any):
    def respond(req: Any, _resp: Any) -> None:
        req.context.session["a"] = object()

    app = framework()
    ServerSession(app, session_store="memory:")
    app.add_route("/", resource_that(framework, respond))
    assert falcon.testing.TestClient(app).simulate_get("/").status_code == 500
    with pytest.raises(CarrierError):
        get_csrf_token()


class Unreached:
    async def on_websocket(self, _req: Any, _ws: Any) -> None:
        raise AssertionError


async def test_a_websocket_whose_store_is_down_is_turned_away():
    store = Watched()
    app = falcon.asgi.App()
    ServerSession(app, session_store=store)
    app.add_route("/socket", Unreached())
    own = {"Origin": "http://falconframework.org", "Cookie": f"session={'A' * 64}"}
    store.fails = ["get"]
    async with falcon.testing.ASGIConductor(app) as conductor:
        with pytest.raises(falcon.WebSocketDisconnected) as refused:
            async with conductor.simulate_ws("/socket", headers=own):
                pass
    assert refused.value.code == 3503


def test_the_body_is_whole_by_the_server_s_own_stream_too():
    class Echo:
        def on_post(self, req: Any, resp: Any) -> None:
            resp.data = req.stream.read(int(req.headers["CONTENT-LENGTH"]))

        on_get = on_post

    app = falcon.App()
    ServerSession(app, session_store="memory:")
    app.add_route("/echo", Echo())
    app.add_route("/token", resource_that(falcon.App, lambda req, resp: setattr(resp, "text", get_csrf_token(req))))
    client = falcon.testing.TestClient(app)
    token = client.simulate_get("/token")
    body, kind = f"csrf_token={token.text}", "application/x-www-form-urlencoded"
    assert client.simulate_post("/echo", body=body, content_type=kind, cookies=token.cookies).text == body


def test_a_sink_of_wsgi_is_passed_by_a_token():
    app = falcon.App()
    ServerSession(app, session_store="memory:")
    app.add_sink(lambda req, resp: setattr(resp, "text", req.get_media()["csrf_token"]), "/sink")
    app.add_route("/token", resource_that(falcon.App, lambda req, resp: setattr(resp, "text", get_csrf_token(req))))
    client = falcon.testing.TestClient(app)
    token = client.simulate_get("/token")
    for given, status in ((token.text, 200), ("forged", 403)):
        body, kind = f"csrf_token={given}", "application/x-www-form-urlencoded"
        result = client.simulate_post("/sink", body=body, content_type=kind, cookies=token.cookies)
        assert (result.status_code, result.text == given) == (status, status == 200)

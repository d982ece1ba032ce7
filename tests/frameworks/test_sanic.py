"""The adapter for Sanic keeps the contract of adapters, on Sanic's own server and under ASGI."""

import asyncio
import gc
import itertools
import re
import types
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest
from jinja2 import DictLoader, Environment
from sanic import Blueprint, HTTPResponse, Request, Sanic, json, redirect, text
from sanic.compat import Header
from sanic.exceptions import Forbidden, SanicException, ServiceUnavailable
from sanic.response import file_stream
from sanic.views import HTTPMethodView

from server_session import CookieHandler, get_csrf_token, get_session_data
from server_session._arguments import scope_of
from server_session._urls import open_store
from server_session.adapters import template_functions
from server_session.asgi import SessionMiddleware
from server_session.exceptions import ConfigurationError, ResponseStartedError
from server_session.http.requests import request_of
from server_session.sanic import ServerSession, csrf_exempt
from server_session.stores.memory import MemorySessionStore
from server_session.testing import AdapterContract, Encoded, Failed, Headed, Here, Page, Redirected, Site, Streamed
from server_session.testing._browser import Answered, Browser
from server_session.testing._site import FailingStore
from server_session.testing._yielding import YieldingStore
from tests.documents import code_of
from tests.frameworks.serving import AWAITED, OverRedis, check_a_timedelta_watches, listening, on_a_loop, uvicorn_serves
from tests.patience import wait_until

# Sanic's own test client, of a year before.
pytestmark = [
    pytest.mark.filterwarnings("ignore:websockets.legacy is deprecated:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*Passing the loop argument:DeprecationWarning"),
]

PAGE = Path(__file__).parents[2] / "docs/frameworks/sanic.md"
TEMPLATES = Environment(
    loader=DictLoader({"form": "<form>{{ csrf_input() }}</form>"}), autoescape=True, enable_async=True
)
TEMPLATES.globals.update(template_functions())
# An application's name can be given once in a process.
numbers = itertools.count()


def view_of(page: Page) -> Any:
    async def view(request: Request) -> HTTPResponse | None:
        async def body() -> bytes:
            return request.body

        async def form() -> dict[str, Any]:
            return {name: request.form.get(name) for name in request.form}

        def replace(mapping: Any) -> None:
            request.ctx.session = mapping

        query = {name: request.args.get(name) for name in request.args}
        given = HTTPResponse()
        here = Here(lambda: request.ctx.session, request, query, form, body, given)
        here.render, here.replace = TEMPLATES.get_template("form").render_async, replace
        match await page.body(here):
            case Redirected(path):
                return redirect(path, status=303)
            case Failed(status):
                raise SanicException("failed", status)
            case Streamed(chunks):
                response = await request.respond(content_type="text/plain")
                async for chunk in chunks:
                    await response.send(chunk)
                return None
            case Encoded(value):
                return json(value)
            case Headed(content, headers):
                response = text(content)
                for name, value in headers:
                    response.headers.add(name, value)
                return response
            case content:
                response = text(str(content))
                for cookie in given.headers.getall("set-cookie", ()):
                    response.headers.add("set-cookie", cookie)
                return response

    view.__name__ = page.name
    return page.mark(view)


def own_page(_request: Request, error: SanicException) -> HTTPResponse:
    return text(f"own page of {error.status_code}", error.status_code)


@contextmanager
def sanic_serves(app: Sanic) -> Iterator[int]:
    """Serve by Sanic's own server, on a loop of a thread."""
    with listening() as listener:

        async def serve(end: asyncio.Event, serving: Callable[[], None]) -> None:
            server = await app.create_server(sock=listener, return_asyncio_server=True, access_log=False)
            await server.startup()
            await server.before_start()
            await server.after_start()
            await server.start_serving()
            serving()
            await end.wait()
            server.close()
            for connection in server.connections:
                connection.close_if_idle()
            app.shutdown_tasks(1)

        with on_a_loop(serve):
            yield listener.getsockname()[1]


class TestSanic(OverRedis, AdapterContract):
    stores = AWAITED
    can_replace = True

    def make_app(self, site: Site) -> Sanic:
        name = f"site{next(numbers)}"
        app, inner = Sanic(name, strict_slashes=True, configure_logging=False), Blueprint("inner", url_prefix="/inner")
        # Its test client begins by taking the routes from each that is registered.
        Sanic.unregister_app(app)
        # Sanic rewrites its own methods at a start: the second of a process would fail.
        app.config.MOTD = app.config.TOUCHUP = False
        ServerSession(app, site.sessions, watch=site.watch)
        for page in site.pages:
            where, path = (inner, page.path.removeprefix("/inner")) if page.is_inner else (app, page.path)
            where.add_route(view_of(page), path, methods=[*page.methods])
        app.blueprint(inner)
        app.error_handler.add(Forbidden, own_page)
        app.error_handler.add(ServiceUnavailable, own_page)

        @app.websocket("/socket")
        async def socket(request: Request, ws: Any) -> None:
            await ws.send(await site.greeting(request.ctx.session))
            await ws.recv()

        return app

    def serve(self, app: Sanic) -> AbstractContextManager[int]:
        return sanic_serves(app)

    @contextmanager
    def client(self, app: Sanic) -> Iterator[Any]:
        cookies: list[str] = []
        Sanic.register_app(app)

        def ask(method: str, path: str, headers: dict[str, str]) -> tuple[int, str]:
            send = getattr(app.test_client, method.lower())
            _, response = send(path, headers={"cookie": "; ".join(cookies), **headers})
            cookies.extend(response.headers.get_list("set-cookie"))
            return response.status_code, response.text

        yield ask
        Sanic.unregister_app(app)


class TestSanicUnderAsgi(TestSanic):
    stores = ("memory",)
    # Sanic's `websocket.close` does nothing there.
    watches = False

    def serve(self, app: Sanic) -> AbstractContextManager[int]:
        return uvicorn_serves(app, lifespan="on")

    def test_websocket_of_another_site_or_of_none_is_turned_away(self) -> None:
        # Sanic answers a handshake by messages of HTTP there, for which the server closes the connection with 500.
        browser = self._serve("memory").visitor()
        for origin in ("http://evil.example", None):
            with browser.open_socket("/socket", origin=origin) as socket:
                assert socket.status == 500


@contextmanager
def sanic_serves_alone(app: Sanic) -> Iterator[int]:
    app.config.MOTD = app.config.TOUCHUP = False
    Sanic.unregister_app(app)
    with sanic_serves(app) as port:
        yield port


def answers(app: Sanic, *asked: tuple[str, str, str]) -> list[Answered]:
    """Return what the application answers to a visitor who asks so, from pages of these sites."""
    with sanic_serves_alone(app) as port:
        browser = Browser(port)
        browser.post("/write")
        return [browser.ask(method, path, page=page) for method, path, page in asked]


def shop(request_class: Any = None, **settings: Any) -> Sanic:
    app = Sanic(f"shop{next(numbers)}", configure_logging=False, request_class=request_class)
    ServerSession(app, **{"session_store": "memory:", **settings})

    @app.post("/write")
    async def write(request: Request) -> HTTPResponse:
        request.ctx.session["a"] = 1
        return text("written")

    @app.get("/read")
    async def read(request: Request) -> HTTPResponse:
        return text(str({**request.ctx.session}))

    return app


def test_a_response_middleware_that_raises_or_replaces_takes_no_cookie_away():
    for raises in (True, False):
        app = shop()

        @app.on_response
        async def spoil(_request: Request, _response: HTTPResponse, raises: bool = raises) -> HTTPResponse:
            if raises:
                raise RuntimeError("Sanic only logs this")
            return text("another")

        (read,) = answers(app, ("GET", "/read", "same-origin"))
        assert read.text == ("{'a': 1}" if raises else "another")


def test_cookies_of_the_application_s_own_go_along(caplog: pytest.LogCaptureFixture):
    app = shop()

    @app.get("/cookies")
    async def cookies(request: Request) -> HTTPResponse:
        request.ctx.session["a"] = 2
        response = text("with cookies")
        response.add_cookie("theme", "dark")
        response.add_cookie("session", "another")
        return response

    (answered,) = answers(app, ("GET", "/cookies", "same-origin"))
    assert answered.status == 200
    assert [one.partition(";")[0] for one in answered.all("set-cookie")] == ["theme=dark", "session=another"]
    assert "cookie that is named session too" in caplog.text


def test_a_response_that_the_application_keeps_is_another_for_each_visitor():
    app, kept = shop(session_store=YieldingStore(MemorySessionStore())), text("kept")
    kept.add_cookie("theme", "dark")

    @app.post("/kept")
    async def write_and_answer(request: Request) -> HTTPResponse:
        request.ctx.session["a"] = 1
        return kept

    @app.get("/kept")
    async def answer(_request: Request) -> HTTPResponse:
        return kept

    with sanic_serves_alone(app) as port, ThreadPoolExecutor(20) as pool:
        answered = [*pool.map(lambda _: Browser(port).post("/kept"), range(20))]
        assert len({cookie for one in answered for cookie in one.all("set-cookie")}) == 21
        assert [one.split("=")[0] for one in Browser(port).get("/kept").all("set-cookie")] == ["theme"]


def test_what_a_response_middleware_writes_is_stored():
    app = shop()

    @app.on_response
    async def count(request: Request, _response: HTTPResponse) -> None:
        request.ctx.session["count"] = request.ctx.session.get("count", 0) + 1

    _, read = answers(app, ("GET", "/read", "same-origin"), ("GET", "/read", "same-origin"))
    assert read.text == "{'a': 1, 'count': 2}"


def test_the_check_comes_before_the_application_s_own_middleware():
    app, seen = shop(), []

    @app.on_request(priority=999)
    async def see(request: Request) -> None:
        seen.append(request.headers["sec-fetch-site"])

    assert [
        one.status for one in answers(app, ("POST", "/write", "cross-site"), ("POST", "/nowhere", "cross-site"))
    ] == [403, 403]
    assert seen == ["same-origin"]


def test_a_trailing_slash_is_served_and_checked_as_the_handler_that_serves_it():
    app = shop()

    @app.post("/hook")
    @csrf_exempt
    async def hook(_request: Request) -> HTTPResponse:
        return text("called")

    asked = [("POST", path, "cross-site") for path in ("/hook", "/hook/", "/write/", "/Hook")]
    assert [one.status for one in answers(app, *asked)] == [200, 200, 403, 403]


def test_marks_of_a_view_class_and_of_a_websocket_are_heard():
    app = shop()

    class Hook(HTTPMethodView):
        @csrf_exempt
        async def post(self, _request: Request) -> HTTPResponse:
            return text("called")

        async def put(self, _request: Request) -> HTTPResponse:
            return text("called")

    @app.websocket("/feed")
    @csrf_exempt
    async def feed(_request: Request, ws: Any) -> None:
        await ws.send("news")

    app.add_route(Hook.as_view(), "/hook")
    with sanic_serves_alone(app) as port:
        browser = Browser(port)
        browser.post("/write")
        assert [browser.ask(method, "/hook", page="cross-site").status for method in ("POST", "PUT")] == [200, 403]
        with browser.open_socket("/feed", origin="http://evil.example") as socket:
            assert socket.receive() == "news"


def test_a_handler_that_streams_its_request_is_given_its_token_in_a_header():
    app = shop()

    @app.get("/token")
    async def token(_request: Request) -> HTTPResponse:
        return text(await get_csrf_token())

    @app.post("/upload", stream=True)
    async def upload(request: Request) -> HTTPResponse:
        return text(str(len(await request.stream.read())))

    with sanic_serves_alone(app) as port:
        browser = Browser(port)
        token_text = browser.get("/token").text
        assert browser.post("/upload", {"csrf_token": token_text}, page=None).status == 403
        assert browser.post("/upload", {"word": "a"}, page=None, X_CSRF_Token=token_text).text == "6"


def test_a_websocket_stores_what_it_changed_and_sets_no_cookie():
    app = shop()

    @app.websocket("/socket")
    async def socket(request: Request, ws: Any) -> None:
        request.ctx.session["socket"] = "was here"
        await ws.send("written")

    with sanic_serves_alone(app) as port:
        browser = Browser(port)
        browser.post("/write")
        with browser.open_socket("/socket") as opened:
            assert opened.receive() == "written"
            assert opened.receive() == 1000
        wait_until(lambda: "socket" in browser.get("/read").text)
        assert browser.get("/read").text == "{'a': 1, 'socket': 'was here'}"


def test_what_fails_at_a_websocket_s_end_is_logged_then_and_not_when_it_is_collected(caplog):
    app = shop()

    @app.websocket("/socket")
    async def socket(request: Request, ws: Any) -> None:
        request.ctx.session["socket"] = "has no cookie"
        await ws.send("written")

    def failed() -> list[str]:
        infos = [record.exc_info for record in caplog.records if record.name == "asyncio"]
        return [type(info[1]).__name__ for info in infos if info]

    gc.disable()
    try:
        with sanic_serves_alone(app) as port, Browser(port).open_socket("/socket") as opened:
            assert opened.receive() == "written"
            wait_until(failed)
    finally:
        gc.enable()
    assert failed() == ["ResponseStartedError"]


def test_a_middleware_that_answers_before_ours_is_heard():
    app = shop()

    @app.on_request(priority=2_000_000)
    async def close(request: Request) -> HTTPResponse | None:
        return text("closed", 503) if request.path == "/read" else None

    (read,) = answers(app, ("GET", "/read", "same-origin"))
    assert (read.status, read.text) == (503, "closed")


def test_a_handshake_sets_no_cookie_and_says_so_and_an_error_page_in_its_place_does():
    app, raised = shop(), list[Exception]()
    functions = app.ctx.server_session.sessions

    @app.on_request
    async def greet(request: Request) -> None:
        if request.path == "/refused":
            request.ctx.session["greeted"] = True
            raise SanicException("not now", 409)
        try:
            await functions.set_session_data({"greeted": True})
        except ResponseStartedError as error:
            raised.append(error)

    async def socket(_request: Request, ws: Any) -> None:
        await ws.send("open")

    app.add_websocket_route(socket, "/socket", name="socket")
    app.add_websocket_route(socket, "/refused", name="refused")
    with sanic_serves_alone(app) as port:
        with Browser(port).open_socket("/socket") as opened:
            assert opened.receive() == "open"
        with Browser(port).open_socket("/refused") as refused:
            assert refused.status == 409
    assert len(raised) == 1


def test_the_functions_know_sanic_s_request_within_another_application_s_middleware():
    app = shop()
    functions = app.ctx.server_session.sessions

    @app.post("/function")
    async def call(_request: Request) -> HTTPResponse:
        await functions.set_session_data({"function": 1})
        return text("called")

    Sanic.unregister_app(app)
    around = SessionMiddleware(app, cookie_handler=CookieHandler("outer"))
    with uvicorn_serves(around, lifespan="on") as port:
        browser = Browser(port)
        assert browser.post("/function").status == 200
        assert browser.get("/read").text == "{'function': 1}"


def test_a_stream_that_cannot_be_stored_is_cut_off(caplog: pytest.LogCaptureFixture):
    store = FailingStore(open_store("memory:"))
    app = shop(session_store=store)

    @app.get("/stream")
    async def stream(request: Request) -> None:
        response = await request.respond(content_type="text/plain")
        await response.send("begun")
        request.ctx.session["late"] = 1
        store.is_down = True

    with sanic_serves_alone(app) as port:
        browser = Browser(port)
        # Without a session it would need a cookie, which comes too late.
        assert browser.get("/stream").is_cut
        assert "ResponseStartedError" in caplog.text
        store.is_down = False
        browser.post("/write")
        assert browser.get("/stream").is_cut
        store.is_down = False
        assert browser.get("/read").text == "{'a': 1}"


def test_what_a_stream_wrote_before_its_client_hung_up_is_stored():
    app = shop()

    @app.get("/stream")
    async def stream(request: Request) -> None:
        response = await request.respond(content_type="text/plain")
        await response.send("begun")
        request.ctx.session["late"] = 1
        while True:
            await response.send("more")
            await asyncio.sleep(0)

    with sanic_serves_alone(app) as port:
        browser = Browser(port)
        browser.post("/write")
        browser.hang_up_on("/stream")
        wait_until(lambda: "late" in browser.get("/read").text)


def test_what_is_written_before_the_first_piece_or_before_the_last_is_stored(caplog: pytest.LogCaptureFixture):
    class Asked(Request):
        async def begin(self) -> Any:
            return await self.respond()

    app = shop(Asked)

    class Events(HTTPResponse):
        async def tell(self, event: str) -> None:
            await self.send(f"data: {event}\n\n")

    @app.get("/stream")
    async def stream(request: Asked) -> None:
        response = await request.begin()
        request.ctx.session["stream"] = "begun"
        await response.send("one", end_stream=True)

    @app.get("/events")
    async def events(request: Request) -> None:
        response = await request.respond(Events(content_type="text/event-stream"))
        await response.tell("one")
        request.ctx.session["events"] = "told"
        await response.eof()

    @app.get("/whole")
    async def whole(request: Request) -> None:
        await request.respond(text("whole"))
        request.ctx.session["whole"] = "given"

    with sanic_serves_alone(app) as port:
        browser = Browser(port)
        told = [browser.get(path) for path in ("/stream", "/events", "/whole")]
        assert [one.text for one in told] == ["one", "data: one\n\n", "whole"]
        # Of the second nobody knows at its beginning what it will look at.
        assert ["Cookie" in one.all("vary") for one in told] == [True, True, True]
        assert browser.get("/read").text == "{'stream': 'begun', 'events': 'told', 'whole': 'given'}"
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


def test_what_is_written_after_the_response_is_said_to_be_lost(caplog: pytest.LogCaptureFixture):
    app, kept = shop(), []

    @app.get("/kept")
    async def keep(request: Request) -> HTTPResponse:
        kept.append(request.ctx.session)
        return text("kept")

    answers(app, ("GET", "/kept", "same-origin"))
    kept[0]["late"] = 1
    assert "is not stored" in caplog.text


def test_a_stream_before_whose_first_piece_the_store_fails_is_503_by_the_application_s_page(
    caplog: pytest.LogCaptureFixture,
):
    store, page = FailingStore(open_store("memory:")), text("own page", 503)
    app = shop(session_store=store)
    app.error_handler.add(ServiceUnavailable, lambda _request, _error: page)

    @app.get("/stream")
    async def stream(request: Request) -> None:
        response = await request.respond(content_type="text/plain")
        request.ctx.session["late"] = 1
        store.is_down = True
        for piece in ("one", "two"):
            await response.send(piece)

    with sanic_serves_alone(app) as port:
        browser = Browser(port)
        browser.post("/write")
        answered = browser.get("/stream")
        assert (answered.status, answered.text, answered.all("cache-control")) == (
            503,
            "own page",
            ["private, no-store"],
        )
        store.is_down = False
        assert browser.get("/read").text == "{'a': 1}"
    assert "cache-control" not in page.headers


def test_what_was_given_up_for_a_refusal_is_not_stored_and_undoes_nothing_of_others():
    store = FailingStore(open_store("memory:"))
    app = shop(session_store=store)
    begun, goes_on = asyncio.Event(), asyncio.Event()

    @app.get("/slow")
    async def write_and_ask(request: Request) -> HTTPResponse:
        request.ctx.session["given up"] = 1
        begun.set()
        await goes_on.wait()
        store.is_down = True
        try:
            return text(str(await get_session_data(request)))
        finally:
            store.is_down = False

    @app.post("/other")
    async def write_meanwhile(request: Request) -> HTTPResponse:
        await begun.wait()
        request.ctx.session["other"] = 1
        return text("written")

    @app.post("/on")
    async def let_go_on(_request: Request) -> HTTPResponse:
        goes_on.set()
        return text("gone on")

    with sanic_serves_alone(app) as port, ThreadPoolExecutor(1) as pool:
        browser = Browser(port)
        browser.post("/write")
        slow = pool.submit(browser.get, "/slow")
        assert [browser.post(path).status for path in ("/other", "/on")] == [200, 200]
        assert slow.result().status == 503
        assert browser.get("/read").text == "{'a': 1, 'other': 1}"


# Where a client that has the whole leaves before Sanic has closed the file, Sanic leaves it open.
@pytest.mark.filterwarnings("ignore:Exception ignored in.*sanic.md:pytest.PytestUnraisableExceptionWarning")
def test_a_file_that_is_streamed_bears_the_cookie_and_one_of_known_length_is_the_same_for_all():
    app = shop()

    @app.get("/whole")
    async def send_whole(_request: Request) -> Any:
        return await file_stream(PAGE, headers={"content-length": f"{PAGE.stat().st_size}"})

    @app.get("/file")
    async def send(request: Request) -> Any:
        request.ctx.session["file"] = "sent"
        return await file_stream(PAGE)

    with sanic_serves_alone(app) as port:
        browser = Browser(port)
        whole = browser.get("/whole")
        assert (whole.text, whole.all("vary")) == (PAGE.read_text(), [])
        assert browser.get("/file").text == PAGE.read_text()
        assert browser.get("/read").text == "{'file': 'sent'}"


def test_an_error_after_a_stream_was_made_and_before_it_began_bears_the_cookie():
    app = shop()

    @app.get("/stream")
    async def stream(request: Request) -> None:
        await request.respond()
        request.ctx.session["late"] = 1
        raise SanicException("failed", 409)

    with sanic_serves_alone(app) as port:
        browser = Browser(port)
        assert browser.get("/stream").status == 409
        assert browser.get("/read").text == "{'late': 1}"


def test_the_page_s_example_counts_and_refuses_what_is_forged():
    module = types.ModuleType("sanic_page")
    exec(code_of(PAGE, "sanic"), module.__dict__)  # noqa: S102 - the page's own
    with sanic_serves_alone(module.app) as port:
        browser = Browser(port)
        page = browser.get("/").text
        found = re.search(r'name="csrf_token" value="([^"]+)"', page)
        assert found
        assert "<p>0</p>" in page
        assert browser.post("/add", {"csrf_token": "forged"}, page=None).text.endswith("(csrf_token_invalid)")
        assert [browser.post("/add", {"csrf_token": found[1]}, page=None).status for _ in range(2)] == [302, 302]
        assert "<p>2</p>" in browser.get("/").text


def test_how_often_a_socket_is_watched_may_be_a_timedelta_and_nothing_that_is_no_duration() -> None:
    for watch in (0, "5"):
        with pytest.raises(ConfigurationError, match="watch must be"):
            ServerSession(Sanic(f"site{next(numbers)}"), session_store="memory:", watch=watch)

    check_a_timedelta_watches(TestSanic)


def test_a_token_for_one_path_is_for_it_however_the_browser_spells_it():
    app = Sanic(f"spelt{next(numbers)}")
    request = Request(b"/caf%C3%A9?x=1", Header({}), "1.1", "POST", types.SimpleNamespace(), app)
    known = request_of(request)
    assert known is not None
    assert scope_of(("POST", request.path)) == scope_of(("POST", "/café")) == f"POST {known.decoded_path}"

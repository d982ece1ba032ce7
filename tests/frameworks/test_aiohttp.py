"""The adapter for aiohttp keeps the contract of adapters, and what is aiohttp's own goes through it."""

import asyncio
import json
import threading
import time
import warnings
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import Payload, web
from aiohttp.test_utils import TestClient, TestServer, make_mocked_request
from jinja2 import DictLoader, Environment

from server_session import MemorySessionStore, Sessions, _sessions, destroy_session, get_csrf_token, set_session_data
from server_session.adapters import template_functions
from server_session.aiohttp import csrf_exempt, csrf_protect, get_session, setup
from server_session.exceptions import CarrierError
from server_session.testing import (
    AdapterContract,
    Encoded,
    Failed,
    Headed,
    Here,
    Page,
    Redirected,
    Site,
    Streamed,
    YieldingStore,
)
from server_session.testing._browser import Browser
from server_session.testing._site import FailingStore
from tests.documents import code_of
from tests.frameworks.serving import AWAITED, OverRedis, aiohttp_serves
from tests.patience import PATIENCE

PAGE = Path(__file__).parents[2] / "docs/frameworks/aiohttp.md"
TEMPLATES = Environment(
    loader=DictLoader({"form": "<form>{{ csrf_input() }}</form>"}), autoescape=True, enable_async=True
)
TEMPLATES.globals.update(template_functions())


def view_of(page: Page) -> Any:
    async def view(request: web.Request) -> web.StreamResponse:
        async def form() -> dict[str, Any]:
            return {**await request.post()}

        async def body() -> bytes:
            return b"".join([chunk async for chunk in request.content.iter_any()])

        async def render() -> str:
            await get_session(request)
            return await TEMPLATES.get_template("form").render_async()

        given = web.Response()
        here = Here(lambda: get_session(request), request, request.query, form, body, given, render)
        match await page.body(here):
            case Redirected(path):
                raise web.HTTPSeeOther(path)
            case Failed():
                raise web.HTTPConflict
            case Streamed(chunks):
                streamed = web.StreamResponse()
                await streamed.prepare(request)
                async for chunk in chunks:
                    await streamed.write(chunk)
                return streamed
            case Encoded(value):
                return web.json_response(value)
            case Headed(text, headers):
                return web.Response(text=text, headers=headers)
            case text:
                given.text = str(text)
                return given

    return page.mark(view)


@web.middleware
async def own_pages(request: web.Request, handler: Any) -> web.StreamResponse:
    try:
        return await handler(request)
    except (web.HTTPForbidden, web.HTTPServiceUnavailable) as error:
        return web.Response(text=f"own page of {error.status}", status=error.status)


class TestAiohttp(OverRedis, AdapterContract):
    stores = AWAITED

    def make_app(self, site: Site) -> web.Application:
        async def socket(request: web.Request) -> web.WebSocketResponse:
            websocket = web.WebSocketResponse()
            await websocket.prepare(request)
            await websocket.send_str(await site.greeting(get_session(request)))
            await websocket.receive()
            return websocket

        app, inner = web.Application(middlewares=[own_pages]), web.Application()
        setup(app, site.sessions, site.watch)
        for page in site.pages:
            for method in page.methods:
                router, path = (inner.router, page.path[len("/inner") :]) if page.is_inner else (app.router, page.path)
                router.add_route(method, path, view_of(page))
        app.router.add_get("/socket", socket)
        app.add_subapp("/inner", inner)
        return app

    def serve(self, app: web.Application) -> AbstractContextManager[int]:
        return aiohttp_serves(app)

    @contextmanager
    def client(self, app: web.Application) -> Iterator[Any]:
        with asyncio.Runner() as runner:

            async def opened() -> "TestClient[Any, Any]":
                client = TestClient(TestServer(app))
                await client.start_server()
                return client

            async def asked(method: str, path: str, headers: dict[str, str]) -> tuple[int, str]:
                response = await client.request(method, path, headers=headers)
                return response.status, await response.text()

            client = runner.run(opened())
            try:
                yield lambda *arguments: runner.run(asked(*arguments))
            finally:
                runner.run(client.close())


# --- what else aiohttp's users count on


@pytest.fixture
def store() -> FailingStore:
    return FailingStore(MemorySessionStore())


@pytest.fixture
def visit(store: FailingStore) -> Iterator[Callable[..., Browser]]:
    """Serve handlers by path, and return the browser of somebody who has a session, with `kept` in it."""
    with ExitStack() as stack:

        def visit(
            routes: dict[str, Any], outside: Sequence[Any] = (), within: Sequence[Any] = (), **settings: Any
        ) -> Browser:
            app = web.Application(middlewares=[own_pages, *outside])
            setup(app, Sessions(session_store=store, **settings), watch=0.02)
            app.middlewares.extend(within)
            for path, handler in {"/write": write, "/read": read, "/token": token, **routes}.items():
                app.router.add_route("*", path, handler)
            browser = Browser(stack.enter_context(aiohttp_serves(app)))
            assert browser.post("/write?kept=yes").status == 200
            return browser

        yield visit


async def write(request: web.Request) -> web.Response:
    (await get_session(request)).update(request.query)
    return web.Response()


async def read(request: web.Request) -> web.Response:
    return web.json_response(await get_session(request))


async def token(request: web.Request) -> web.Response:
    return web.Response(text=await get_csrf_token(request))


def test_a_request_without_setup_is_told_what_is_missing():
    with pytest.raises(CarrierError, match="serves sessions"):
        asyncio.run(get_session(make_mocked_request("GET", "/")))


def test_functions_take_a_request_and_its_response_where_nothing_is_set_up():
    sessions = Sessions()

    async def bare(request: web.Request) -> web.Response:
        response = web.Response()
        assert await sessions.set_session_data(request, response, {"number": 1})
        assert await sessions.set_session_data(request.clone(method="PUT"), response, {"other": 2})
        response.text = json.dumps(await sessions.get_session_data(request))
        return response

    app = web.Application()
    app.router.add_get("/", bare)
    with aiohttp_serves(app) as port:
        answered = Browser(port).get("/")
        assert answered.text == '{"number": 1, "other": 2}'
        assert len(answered.all("set-cookie")) == 1


def test_a_body_of_a_generator_knows_its_request_and_writes_to_the_session(visit):
    async def stream(request: web.Request) -> web.Response:
        session = await get_session(request)

        async def chunks() -> AsyncIterator[bytes]:
            for number in range(3):
                session["sent"] = number
                yield b"x"
            assert await set_session_data({"function": "too"})

        return web.Response(body=chunks())

    browser = visit({"/stream": stream})
    assert browser.get("/stream").body == b"xxx"
    eventually(lambda: json.loads(browser.get("/read").text) == {"kept": "yes", "sent": 2, "function": "too"})


@pytest.mark.parametrize("method, status", [("GET", 200), ("HEAD", 200), ("GET", 204), ("GET", 304)])
def test_what_is_written_when_all_is_over_is_said_to_be_lost(visit, caplog, method, status):
    kept: list[Any] = []

    async def stream(request: web.Request) -> web.Response:
        kept.append(await get_session(request))

        async def chunks() -> AsyncIterator[bytes]:
            yield b"x"

        return web.Response(body=chunks(), status=status)

    assert visit({"/stream": stream}).ask(method, "/stream").status == status
    kept[0]["late"] = 1
    eventually(lambda: "is not stored" in caplog.text)


def test_a_stream_whose_store_fails_at_its_end_is_cut(visit, store):
    async def stream(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b"x")
        (await get_session(request))["late"] = True
        store.is_down = True
        return response

    async def load(request: web.Request) -> web.StreamResponse:
        await get_session(request)
        return await stream(request)

    assert visit({"/stream": load}).get("/stream").is_cut
    store.is_down = False


@pytest.mark.skipif(not hasattr(Payload, "close"), reason="this aiohttp cannot close a payload")
def test_a_file_that_gives_way_to_a_refusal_is_closed(visit, store, tmp_path):
    (tmp_path / "file").write_bytes(b"x")
    file = (tmp_path / "file").open("rb")

    async def send(request: web.Request) -> web.Response:
        (await get_session(request))["a"] = 1
        store.is_down = True
        return web.Response(body=file)

    assert visit({"/file": send}).get("/file").status == 503
    store.is_down = False
    eventually(lambda: file.closed)


@pytest.mark.parametrize("how", ["read", "post"])
def test_a_middleware_may_read_the_form_before_the_check(visit, how):
    @web.middleware
    async def look(request: web.Request, handler: Any) -> web.StreamResponse:
        if request.path == "/form":
            assert "csrf_token" in str(await getattr(request, how)())
        return await handler(request)

    async def form(request: web.Request) -> web.Response:
        return web.Response(text=(await request.post())["word"])

    browser = visit({"/form": form}, outside=[look])
    fields = {"csrf_token": browser.get("/token").text, "word": "tea"}
    assert browser.post("/form", fields, page=None).text == "tea"
    assert browser.post("/form", {"word": "csrf_token"}, page=None).status == 403


def test_of_a_multipart_form_that_a_middleware_has_parsed_the_token_comes_in_the_header_alone(visit):
    @web.middleware
    async def look(request: web.Request, handler: Any) -> web.StreamResponse:
        await request.post()
        return await handler(request)

    browser = visit({}, outside=[look])
    token = browser.get("/token").text
    part = f'--b\r\nContent-Disposition: form-data; name="csrf_token"\r\n\r\n{token}\r\n--b--\r\n'.encode()
    kind = "multipart/form-data; boundary=b"
    assert browser.ask("POST", "/write?a=1", part, kind, page=None).status == 403
    assert browser.ask("POST", "/write?a=1", part, kind, page=None, headers={"X-CSRF-Token": token}).status == 200


def test_a_middleware_within_may_serve_a_clone_of_the_request(visit):
    @web.middleware
    async def override(request: web.Request, handler: Any) -> web.StreamResponse:
        return await handler(request.clone(method=request.headers.get("X-HTTP-Method-Override", request.method)))

    browser = visit({}, within=[override])
    assert browser.post("/write?a=1", X_HTTP_Method_Override="PUT").status == 200
    assert browser.get("/read").text == '{"kept": "yes", "a": "1"}'
    assert browser.post("/write?b=1", page="cross-site", X_HTTP_Method_Override="GET").status == 403


def test_a_page_of_an_outer_middleware_may_bear_a_form(visit):
    form = Environment(autoescape=True).from_string("{{ csrf_input() }}", template_functions())

    @web.middleware
    async def pages(request: web.Request, handler: Any) -> web.StreamResponse:
        try:
            return await handler(request)
        except web.HTTPNotFound:
            return web.Response(text=form.render(), status=404)

    stranger = Browser(visit({}, outside=[pages]).port)
    answered = stranger.get("/nowhere")
    assert answered.status == 404
    sent = answered.text.partition('value="')[2].partition('"')[0]
    assert stranger.post("/write?a=1", {"csrf_token": sent}, page=None).status == 200
    assert stranger.get("/read").text == '{"a": "1"}'


def test_marks_are_heard_of_classes_their_methods_and_handlers_of_objects(visit):
    class Hooks:
        @csrf_exempt
        async def called(self, _: web.Request) -> web.Response:
            return web.Response(text="called")

    class Pay(web.View):
        @csrf_protect(strict=True)
        async def post(self) -> web.Response:
            return web.Response(text="paid")

        @csrf_exempt
        async def put(self) -> web.Response:
            return web.Response(text="put")

    browser = visit({"/hook": Hooks().called, "/pay": Pay})
    assert browser.post("/hook", page="cross-site").text == "called"
    assert browser.post("/pay").status == 403
    assert browser.ask("PUT", "/pay", page="cross-site").text == "put"
    assert browser.post("/pay", X_CSRF_Token=browser.get("/token").text).text == "paid"


def test_the_handler_that_is_marked_is_the_one_that_serves_and_no_other(visit):
    @csrf_exempt
    async def called(_: web.Request) -> web.Response:
        return web.Response()

    browser = visit({"/hook": called}, within=[web.normalize_path_middleware(append_slash=True)])
    assert browser.post("/hook?a=1", page="cross-site").status == 200
    for path in ("/hook/", "//hook", "/Hook", "/hook/.", "/write"):
        assert browser.post(f"{path}?b=1", page="cross-site").status == 403


def test_a_form_of_one_path_passes_whatever_characters_it_has(visit):
    async def own(request: web.Request) -> web.Response:
        return web.Response(text=await get_csrf_token(request, scope=("POST", "/page/grün 1")))

    @csrf_protect(scoped=True, strict=True)
    async def pay(_: web.Request) -> web.Response:
        return web.Response()

    browser = visit({"/own": own, "/page/{id}": pay})
    path = "/page/gr%C3%BCn%201"
    assert browser.post(path, X_CSRF_Token=browser.get("/token").text).status == 403
    assert browser.post(path, X_CSRF_Token=browser.get("/own").text).status == 200


def test_a_handshake_bears_the_cookie_and_a_plain_answer_to_it_too(visit):
    async def socket(request: web.Request) -> web.StreamResponse:
        (await get_session(request))["socket"] = "open"
        if request.query.get("plain"):
            return web.Response(text="plain")
        websocket = web.WebSocketResponse()
        await websocket.prepare(request)
        assert "Set-Cookie" in websocket.headers
        await websocket.send_str("open")
        (await get_session(request))["late"] = True
        await websocket.close()
        return websocket

    port = visit({"/socket": socket}).port
    with Browser(port).open_socket("/socket") as opened:
        assert (opened.status, opened.receive()) == (101, "open")
    with Browser(port).open_socket("/socket?plain=1") as opened:
        assert opened.status == 200


def test_a_socket_that_only_sends_is_closed_when_its_session_ends(visit):
    ended = threading.Event()

    async def socket(request: web.Request) -> web.StreamResponse:
        websocket = web.WebSocketResponse()
        await websocket.prepare(request)
        try:
            while not websocket.closed:
                await websocket.send_str("tick")
                await asyncio.sleep(0.01)
        finally:
            ended.set()
        return websocket

    async def end(_: web.Request) -> web.Response:
        return web.Response(text=str(await destroy_session()))

    browser = visit({"/socket": socket, "/end": end})
    with browser.open_socket("/socket") as opened:
        assert opened.receive() == "tick"
        assert browser.copy().post("/end").text == "True"
        assert ended.wait(PATIENCE)
        while (got := opened.receive()) == "tick":
            pass
        assert got == 1008


def test_what_a_socket_wrote_is_stored_where_its_visitor_s_leaving_cancels_handlers():
    asked: list[web.Request] = []

    class Waiting(YieldingStore):
        async def _suspend(self) -> None:
            # aiohttp cancels the handler in the same moment as it takes the transport away.
            while asked and asked[0].transport is not None:  # noqa: ASYNC110 - it tells by nothing else
                await asyncio.sleep(0)

    async def socket(request: web.Request) -> web.StreamResponse:
        websocket = web.WebSocketResponse()
        await websocket.prepare(request)
        await websocket.send_str("said")
        (await get_session(request))["said"] = True
        asked.append(request)
        return websocket

    app = web.Application()
    setup(app, Sessions(session_store=Waiting(MemorySessionStore())))
    app.add_routes([web.get("/socket", socket), web.post("/write", write), web.get("/read", read)])
    with aiohttp_serves(app, handler_cancellation=True) as port:
        browser = Browser(port)
        browser.post("/write?kept=yes")
        with browser.open_socket("/socket") as opened:
            assert opened.receive() == "said"
        eventually(lambda: browser.get("/read").text == '{"kept": "yes", "said": true}')


def test_what_cannot_be_stored_is_500_and_leaves_the_session(visit):
    async def unstorable(request: web.Request) -> web.Response:
        (await get_session(request)).update(a=1, b=object())
        return web.Response()

    browser = visit({"/unstorable": unstorable})
    answered = browser.get("/unstorable")
    assert (answered.status, answered.is_cut) == (500, False)
    assert browser.get("/read").text == '{"kept": "yes"}'


def test_another_cookie_of_the_session_s_name_is_told_however_it_is_set(visit, caplog):
    async def other(request: web.Request) -> web.Response:
        await get_session(request)
        response = web.Response()
        response.set_cookie("session", "another")
        return response

    visit({"/other": other}).get("/other")
    assert "cookie that is named session too" in caplog.text


def test_aiohttp_session_beside_it_keeps_its_own_cookie(visit):
    @web.middleware
    async def of_another(request: web.Request, handler: Any) -> web.StreamResponse:
        request["AIOHTTP_SESSION"] = {"theirs": True}
        return await handler(request)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", web.NotAppKeyWarning)
        assert visit({}, within=[of_another]).get("/read").text == '{"kept": "yes"}'


def test_the_page_s_application_logs_in_and_refuses_what_is_forged(monkeypatch):
    monkeypatch.setattr(_sessions, "_configured", None)
    printed: dict[str, Any] = {"__name__": "printed"}
    exec(code_of(PAGE, "aiohttp"), printed)  # noqa: S102 - the page's own
    with aiohttp_serves(printed["app"]) as port:
        browser = Browser(port)
        form = browser.get("/").text
        sent = form.partition('name="csrf_token" value="')[2].partition('"')[0]
        assert browser.post("/log-in", {"user": "Ada"}, page="cross-site").status == 403
        assert browser.post("/log-in", {"user": "Ada", "csrf_token": sent}, page=None).status == 303
        assert "Hello Ada" in browser.get("/").text


def eventually(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.01)

"""The adapter for Tornado keeps the contract of adapters, and what is Tornado's own goes through it."""

import asyncio
import gc
import json
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from http.client import HTTPException
from pathlib import Path
from typing import Any

import pytest
import tornado.testing
from tornado.httpserver import HTTPServer
from tornado.template import DictLoader
from tornado.web import Application, HTTPError, RequestHandler, stream_request_body

from server_session import CSRF, MemorySessionStore, Sessions, _sessions, get_csrf_token
from server_session.exceptions import SessionNotLoadedError
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
from server_session.tornado import SessionHandler, SessionWebSocketHandler, csrf_exempt, csrf_protect
from tests.documents import code_of
from tests.frameworks.serving import AWAITED, OverRedis, listening, on_a_loop
from tests.patience import PATIENCE

OURS = CSRF()
PAGE = Path(__file__).parents[2] / "docs/frameworks/tornado.md"

# Tornado keeps one loader for all applications of a folder.
TEMPLATES = DictLoader(
    {
        "form": "<form>{% raw csrf_input() %}</form>",
        "both": "{% module xsrf_form_html() %} {% raw csrf_input() %}",
    }
)


class SiteHandler(SessionHandler):
    def write_error(self, status_code: int, **_: Any) -> None:
        self.write(f"own page of {status_code}")


def handler_of(page: Page) -> type[SessionHandler]:
    class Handler(SiteHandler):
        async def answer(self) -> None:
            query = {name: self.get_query_argument(name) for name in self.request.query_arguments}
            here = Here(lambda: self.session, self.request, query, self.form, lambda: self.request.body, self)
            here.render = lambda: self.render_string("form").decode()
            match await page.body(here):
                case Redirected(path):
                    self.redirect(path)
                case Failed(status):
                    raise HTTPError(status)
                case Streamed(chunks):
                    async for chunk in chunks:
                        self.write(chunk)
                        await self.flush()
                case Encoded(value):
                    self.write(value)
                case Headed(text, headers):
                    for name, value in headers:
                        self.add_header(name, value)
                    self.write(text)
                case text:
                    self.finish(str(text))

        def form(self) -> dict[str, str]:
            return {name: self.get_body_argument(name) for name in self.request.body_arguments}

    for method in page.methods:
        setattr(Handler, method.lower(), Handler.answer)
    return page.mark(Handler)


@contextmanager
def tornado_serves(app: Application) -> Iterator[int]:
    """Serve the application by Tornado's own server."""
    with listening() as listener:

        async def serve(end: asyncio.Event, serving: Callable[[], None]) -> None:
            server = HTTPServer(app)
            server.add_sockets([listener])
            serving()
            await end.wait()
            server.stop()
            await server.close_all_connections()

        with on_a_loop(serve):
            yield listener.getsockname()[1]


class TestTornado(OverRedis, AdapterContract):
    stores = AWAITED

    def make_app(self, site: Site) -> Application:
        class Socket(SessionWebSocketHandler):
            async def open(self) -> None:
                await self.write_message(await site.greeting(self.session))

        settings: dict[str, Any] = {
            "sessions": site.sessions,
            "session_watch": site.watch,
            "template_loader": TEMPLATES,
        }
        routes = [(page.path, handler_of(page)) for page in site.pages if not page.is_inner]
        inner = Application([(page.path, handler_of(page)) for page in site.pages if page.is_inner], **settings)
        return Application([*routes, ("/socket", Socket), (r"/inner/.*", inner)], **settings)

    def serve(self, app: Application) -> AbstractContextManager[int]:
        return tornado_serves(app)

    @contextmanager
    def client(self, app: Application) -> Iterator[Any]:
        class Case(tornado.testing.AsyncHTTPTestCase):
            cookie = ""

            def get_app(self) -> Application:
                return app

            def runTest(self) -> None:  # noqa: N802 - unittest's own name
                pass

            def ask(self, method: str, path: str, headers: dict[str, str]) -> tuple[int, str]:
                body = None if method == "GET" else ""
                response = self.fetch(path, method=method, headers={**headers, "Cookie": self.cookie}, body=body)
                self.cookie = response.headers.get("Set-Cookie", self.cookie).partition(";")[0]
                return response.code, response.body.decode()

        case = Case()
        case.setUp()
        try:
            yield case.ask
        finally:
            case.tearDown()


# --- what else Tornado's users count on


@pytest.fixture
def store() -> FailingStore:
    return FailingStore(MemorySessionStore())


@pytest.fixture
def visit(store: FailingStore) -> Iterator[Callable[..., Browser]]:
    """Serve handlers by path, and return the browser of somebody who has a session, with `kept` in it."""
    with ExitStack() as stack:

        def visit(routes: dict[str, Any], csrf: CSRF | None = OURS, **settings: Any) -> Browser:
            handlers = {"/write": Write, "/read": Read, "/token": Token, **routes}
            settings |= {"sessions": Sessions(session_store=store, csrf=csrf), "session_watch": 0.02}
            browser = Browser(stack.enter_context(tornado_serves(Application([*handlers.items()], **settings))))
            browser.get("/write?kept=yes")
            assert browser.cookies
            return browser

        yield visit


class Write(SessionHandler):
    def get(self) -> None:
        self.session.update({name: self.get_query_argument(name) for name in self.request.query_arguments})

    post = get


class Read(SessionHandler):
    def get(self) -> None:
        self.finish(self.session)


class Token(SessionHandler):
    async def get(self) -> None:
        scope = ("POST", self.get_argument("for")) if "for" in self.request.query_arguments else None
        self.write(await get_csrf_token(self, scope=scope))


def test_a_prepare_of_the_handler_s_own_is_called_after_the_check(visit):
    prepared: list[str] = []

    class Own(Write):
        async def prepare(self) -> None:
            prepared.append(self.session["kept"])

    browser = visit({"/own": Own})
    assert browser.post("/own?a=1", page="cross-site").status == 403
    assert prepared == []
    assert browser.post("/own?a=1").status == 200
    assert prepared == ["yes"]


def test_a_body_that_streams_in_is_not_received_of_another_site(visit):
    received: list[bytes] = []

    @stream_request_body
    class Upload(SessionHandler):
        def data_received(self, chunk: bytes) -> None:
            received.append(chunk)

        def put(self) -> None:
            self.session["size"] = len(b"".join(received))
            self.write("received")

    browser = visit({"/upload": Upload})
    assert browser.ask("PUT", "/upload", b"x" * 200_000, page="cross-site").status == 403
    assert browser.ask("PUT", "/upload", b"x" * 200_000, page=None).status == 403
    assert received == []
    own = {"X-CSRF-Token": browser.get("/token").text}
    assert browser.ask("PUT", "/upload", b"x" * 200_000, page=None, headers=own).text == "received"
    assert json.loads(browser.get("/read").text)["size"] == 200_000


def test_a_response_that_is_ended_in_the_middle_of_a_handler_is_stored_before(visit):
    class Early(SessionHandler):
        def get(self) -> None:
            self.session["early"] = True
            self.finish("whole")

    class Twice(SessionHandler):
        async def get(self) -> None:
            self.session["early"] = True
            await self.finish("whole")
            self.session["after"] = True

    browser = visit({"/early": Early, "/twice": Twice})
    for path, name in (("/early", "early"), ("/twice", "after")):
        assert browser.get(path).text == "whole"
        eventually(lambda name=name: name in browser.get("/read").text)
    stranger = Browser(browser.port)
    stranger.get("/early")
    assert stranger.get("/read").text == '{"early": true}'


@pytest.mark.parametrize("streams", [False, True])
def test_a_visitor_who_has_gone_before_the_answer_fails_nothing_and_what_the_handler_writes_is_stored(
    visit, caplog, streams
):
    waits = threading.Event()

    class Late(SessionHandler):
        def initialize(self) -> None:
            self.gone = asyncio.Event()

        def on_connection_close(self) -> None:
            self.gone.set()

        async def get(self) -> None:
            # Of who has gone before that Tornado tells nobody.
            asyncio.get_running_loop().call_soon(waits.set)
            await self.gone.wait()
            self.session["late"] = True
            self.write("x")
            if streams:
                # As with Tornado's own, nobody need ask what became of it.
                self.flush()
            await asyncio.wait([self.finish()])
            self.session["after"] = True

    browser = visit({"/late": Late})
    with socket.create_connection(("127.0.0.1", browser.port), PATIENCE) as connection:
        connection.sendall(f"GET /late HTTP/1.1\r\nHost: x\r\nCookie: {browser.cookie}\r\n\r\n".encode())
        assert waits.wait(PATIENCE)
    eventually(lambda: browser.get("/read").text == '{"kept": "yes", "late": true, "after": true}')
    gc.collect()
    assert [record.message for record in caplog.records if record.name == "asyncio"] == []


def test_a_stream_that_nobody_waits_for_stays_in_order(visit):
    class Stream(SessionHandler):
        async def get(self) -> None:
            self.session["begun"] = True
            for number in range(5):
                self.write(str(number))
                self.flush()
            await self.flush()
            self.session["ended"] = True

    browser = Browser(visit({"/stream": Stream}).port)
    assert browser.get("/stream").text == "01234"
    assert browser.get("/read").text == '{"begun": true, "ended": true}'


@pytest.mark.parametrize("waits", [True, False])
def test_a_stream_whose_store_fails_is_503_before_it_begins_and_cut_after(visit, store, waits):
    class Stream(SessionHandler):
        async def get(self) -> None:
            self.session["begun"] = self.get_argument("before", "at once")
            store.is_down = bool(self.get_argument("before", ""))
            self.write("x")
            begun = self.flush()
            if waits:
                await begun
            else:
                await asyncio.wait([begun])
                begun.exception()
            store.is_down = True
            self.session["ended"] = True

    browser = visit({"/stream": Stream})
    assert browser.get("/stream").is_cut
    store.is_down = False
    assert browser.get("/stream?before=1").status == 503
    store.is_down = False
    assert json.loads(browser.get("/read").text) == {"kept": "yes", "begun": "at once"}


def test_what_cannot_be_stored_is_500_and_leaves_the_session(visit):
    class Unstorable(SessionHandler):
        def get(self) -> None:
            self.session.update(a=1, b=object())
            self.finish("not so")

    browser = visit({"/unstorable": Unstorable})
    answered = browser.get("/unstorable")
    assert (answered.status, answered.is_cut) == (500, False)
    assert browser.get("/read").text == '{"kept": "yes"}'


def test_tornado_s_own_xsrf_protection_becomes_the_session_s(visit):
    class Form(Write):
        def get(self) -> None:
            self.write(f"{self.xsrf_form_html()} {self.xsrf_token.decode()} {self.render_string('both').decode()}")

    browser = visit({"/form": Form}, xsrf_cookies=True, template_loader=TEMPLATES)
    page = browser.get("/form").text
    tokens = re.findall(r"[\w-]{70}", page)
    assert len(set(tokens)) == 4
    for token in tokens:
        assert browser.post("/form?a=1", {"csrf_token": token}, page=None).status == 200
    assert browser.post("/form?a=1").status == 200
    assert browser.post("/form?a=1", page="cross-site").status == 403
    assert "_xsrf" not in browser.cookies


def test_where_the_session_checks_nothing_tornado_s_own_xsrf_protection_does(visit):
    class Form(Write):
        def get(self) -> None:
            self.write(self.xsrf_form_html() + self.xsrf_token.decode())

    browser = visit({"/form": Form}, csrf=None, xsrf_cookies=True)
    token = re.findall(r'name="_xsrf" value="([^"]+)"', browser.get("/form").text)[0]
    assert browser.post("/form?a=1").status == 403
    assert browser.post("/form?a=1", {"_xsrf": token}).status == 200


def test_marks_are_heard_of_a_handler_and_of_its_method(visit):
    class Hook(Write):
        @csrf_exempt
        def post(self) -> None:
            self.write("called")

        @csrf_protect(strict=True)
        def put(self) -> None:
            self.write("paid")

    browser = visit({"/hook": Hook})
    assert browser.post("/hook", page="cross-site").text == "called"
    assert browser.ask("PUT", "/hook").status == 403
    own = {"X-CSRF-Token": browser.get("/token").text}
    assert browser.ask("PUT", "/hook", headers=own).text == "paid"


def test_a_form_of_one_path_passes_whatever_characters_it_has(visit):
    @csrf_protect(scoped=True, strict=True)
    class Pay(SessionHandler):
        def post(self, name: str) -> None:
            self.write(name)

    browser = visit({"/page/(.*)": Pay})
    path = "/page/gr%C3%BCn%201"
    assert browser.post(path, X_CSRF_Token=browser.get("/token").text).status == 403
    assert browser.post(path, X_CSRF_Token=browser.get(f"/token?for={path}").text).text == "grün 1"


def test_a_handshake_bears_the_cookie_of_what_prepare_wrote(visit, store):
    class Socket(SessionWebSocketHandler):
        def prepare(self) -> None:
            self.session["socket"] = "open"

        def on_message(self, message: str | bytes) -> None:
            raise AssertionError

        async def open(self) -> None:
            self.session["opened"] = True
            await self.session.save()
            await self.write_message("saved")

    browser = visit({"/socket": Socket})
    with socket.create_connection(("127.0.0.1", browser.port), 30) as connection:
        lines = ["GET /socket HTTP/1.1", f"Host: 127.0.0.1:{browser.port}", "Upgrade: websocket", "Connection: Upgrade"]
        lines += ["Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", "Sec-WebSocket-Version: 13", "", ""]
        connection.sendall("\r\n".join(lines).encode())
        head = connection.recv(65536).decode("latin-1")
        assert head.startswith("HTTP/1.1 101")
        browser.cookies = dict([re.findall(r"Set-Cookie: (\w+)=([^;]+)", head)[0]])
    eventually(lambda: browser.get("/read").text == '{"socket": "open", "opened": true}')
    store.is_down = True
    with browser.open_socket("/socket") as opened:
        assert opened.status == 503
    store.is_down = False


@pytest.mark.parametrize("how", ["set", "clear"])
def test_another_cookie_of_the_session_s_name_is_told_however_it_is_set(visit, caplog, how):
    class Other(SessionHandler):
        def get(self) -> None:
            assert self.session
            if how == "set":
                self.set_cookie("session", "another")
            else:
                self.clear_all_cookies()

    visit({"/other": Other}).get("/other")
    assert "cookie that is named session too" in caplog.text


def test_a_request_for_which_nothing_is_configured_does_not_hang(monkeypatch):
    monkeypatch.setattr(_sessions, "_configured", None)
    with tornado_serves(Application([("/", Read)])) as port, pytest.raises((ConnectionError, HTTPException)):
        Browser(port).get("/")


def test_a_store_that_breaks_in_a_way_of_its_own_leaves_no_client_waiting(visit, store, monkeypatch):
    async def broken(*_: Any) -> None:
        raise ZeroDivisionError

    class Late(SessionHandler):
        def get(self) -> None:
            self.session["late"] = self.get_argument("at")
            monkeypatch.setattr(store, "_ask", broken)

    browser = visit({"/late": Late})
    with pytest.raises((ConnectionError, HTTPException)):
        browser.get("/late?at=end")
    assert browser.get("/read").status == 500
    assert browser.post("/write", page=None, X_CSRF_Token="x" * 70).status in (403, 500)


def test_functions_take_a_handler_that_no_session_handler_is():
    sessions = Sessions()

    class Bare(RequestHandler):
        async def get(self) -> None:
            await sessions.set_session_data(self, self, {"number": 1})
            await sessions.set_session_data(self.request, self, {"other": 2})
            self.set_cookie("own", "kept")
            self.write(await sessions.get_session_data(self.request))

    with tornado_serves(Application([("/", Bare)])) as port:
        browser = Browser(port)
        answered = browser.get("/")
        assert answered.text == '{"number": 1, "other": 2}'
        assert sorted(browser.cookies) == ["own", "session"]
        assert len(answered.all("set-cookie")) == 2


def test_nothing_runs_and_nothing_is_written_after_the_end_that_waits_for_its_store(visit):
    ran: list[str] = []

    class Guarded(SessionHandler):
        def prepare(self) -> None:
            self.session["next"] = self.request.uri
            end: Any = {"redirect": self.redirect, "finish": self.finish, "error": lambda _: self.send_error(401)}
            end[self.path_args[0]]("/token")

        def get(self, _how: str) -> None:
            ran.append("get")
            self.write("secret")

    class Goes(SessionHandler):
        def get(self) -> None:
            self.session["next"] = "set"
            self.redirect("/token")
            with pytest.raises(RuntimeError, match="after finish"):
                self.write("secret")

    class Socket(SessionWebSocketHandler):
        def prepare(self) -> None:
            self.session["next"] = "socket"
            self.send_error(401)

        def open(self) -> None:
            ran.append("open")

    browser = visit({"/guarded/(.*)": Guarded, "/goes": Goes, "/socket": Socket})
    for path, status in {"redirect": 302, "finish": 200, "error": 401}.items():
        answered = browser.get(f"/guarded/{path}")
        assert (answered.status, "secret" in answered.text) == (status, False)
        assert json.loads(browser.get("/read").text)["next"] == f"/guarded/{path}"
    assert (browser.get("/goes").status, browser.get("/goes").text) == (302, "")
    with browser.open_socket("/socket") as socket:
        assert socket.status == 401
    assert ran == []


def test_a_handshake_is_answered_where_prepare_looks_into_a_list_of_the_session(visit):
    class Fill(SessionHandler):
        def get(self) -> None:
            self.session["roles"] = ["admin"]

    class Socket(SessionWebSocketHandler):
        def prepare(self) -> None:
            assert self.session["roles"] == ["admin"]

        def get_compression_options(self) -> None:
            self.session["asked"] = True

        async def open(self) -> None:
            await self.write_message("open")

    browser = visit({"/fill": Fill, "/socket": Socket})
    browser.get("/fill")
    with browser.open_socket("/socket") as socket:
        assert (socket.status, socket.receive()) == (101, "open")
    eventually(lambda: "asked" in browser.get("/read").text)


def test_a_form_in_a_stream_that_nobody_waits_for_bears_a_token_that_is_good(visit, store):
    class Form(SessionHandler):
        async def get(self) -> None:
            self.write(self.xsrf_token)
            self.flush()
            await asyncio.sleep(0)
            self.write("")

    port = visit({"/form": Form}).port
    store._store = YieldingStore(store._store)
    browser = Browser(port)
    token = browser.get("/form").text
    assert browser.cookies
    assert browser.post("/write?a=1", page=None, X_CSRF_Token=token).status == 200


def test_a_page_of_an_error_before_prepare_may_say_who_is_logged_in(visit):
    class Own(SessionHandler):
        def post(self) -> None:
            pass

        def write_error(self, status_code: int, **_: Any) -> None:
            self.finish(f"{status_code} {self.session['kept']}")

    browser = visit({"/own": Own})
    assert browser.ask("BREW", "/own").text == "405 yes"
    # Before 6.5 Tornado serves a form that it cannot read.
    if tornado.version_info >= (6, 5):
        assert browser.ask("POST", "/own", b"no form", "multipart/form-data; boundary=x").text == "400 yes"


def test_a_session_that_could_not_be_loaded_is_an_error_with_a_name(visit, store):
    class Own(SessionHandler):
        def get(self) -> None:
            pass

        def write_error(self, status_code: int, **_: Any) -> None:
            with pytest.raises(SessionNotLoadedError, match="before `prepare`"):
                self.finish(self.session)
            self.finish(f"{status_code}, and nobody knows who asks")

    browser = visit({"/own": Own})
    store.is_down = True
    assert browser.get("/own").text == "503, and nobody knows who asks"


def test_a_method_that_prepare_changes_is_checked_as_the_one_that_serves(visit):
    class Override(Write):
        def prepare(self) -> None:
            self.request.method = self.get_argument("_method", self.request.method)

        @csrf_exempt
        def put(self) -> None:
            self.write("put")

    browser = visit({"/override": Override})
    for path, page, status in [("GET", "cross-site", 200), ("POST", "cross-site", 403), ("POST", "same-origin", 200)]:
        assert browser.get(f"/override?_method={path}", page=page).status == status
    assert browser.ask("PUT", "/override?_method=POST", page="cross-site").status == 403
    assert browser.ask("PUT", "/override", page="cross-site").text == "put"


def test_a_page_that_refuses_may_say_who_is_logged_in(visit):
    class Own(SessionHandler):
        def post(self) -> None:
            pass

        def write_error(self, status_code: int, **_: Any) -> None:
            self.finish(f"{status_code} {self.session['kept']}")

    answered = visit({"/own": Own}).post("/own", page="cross-site")
    assert (answered.status, answered.text) == (403, "403 yes")


def test_the_page_s_application_logs_in_and_refuses_what_is_forged(monkeypatch):
    monkeypatch.setattr(_sessions, "_configured", None)
    printed: dict[str, Any] = {"__name__": "printed"}
    exec(code_of(PAGE, "tornado"), printed)  # noqa: S102 - the page's own
    with tornado_serves(printed["make_app"]()) as port:
        browser = Browser(port)
        form = browser.get("/").text
        sent = form.partition('name="csrf_token" value="')[2].partition('"')[0]
        assert browser.post("/log-in", {"user": "Ada"}, page="cross-site").status == 403
        assert browser.post("/log-in", {"user": "Ada", "csrf_token": sent}, page=None).status == 302
        assert "Hello Ada" in browser.get("/").text


def eventually(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.01)

"""The adapters of docs/adapters.md, which a stranger writes with what is public alone, keep what ours promise."""

import io
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlencode
from wsgiref.headers import Headers
from wsgiref.util import setup_testing_defaults
from wsgiref.validate import validator

import pytest

from server_session import Sessions, _sessions, adapters, configure, get_session_data, renew_session, sync
from server_session.adapters import csrf_exempt, csrf_protect, register_response
from server_session.exceptions import ResponseStartedError
from server_session.wsgi import SessionMiddleware
from tests import crumb
from tests.documents import code_of
from tests.visitors import Unanswered, Watched

DOCUMENT = Path(__file__).parents[1] / "docs" / "adapters.md"
BLOCKING = code_of(DOCUMENT, "blocking adapter")
AWAITING = code_of(DOCUMENT, "awaiting adapter")

sys.modules["crumb"] = crumb
_namespace: dict[str, Any] = {}
exec(compile(BLOCKING, "docs/adapters.md (blocking adapter)", "exec"), _namespace)  # noqa: S102 - our own
exec(compile(AWAITING, "docs/adapters.md (awaiting adapter)", "exec"), _namespace)  # noqa: S102 - our own


class Visitor:
    """A browser: it keeps its cookie, and sends forms from the site's own pages or from another's."""

    def __init__(self, app: Any) -> None:
        self.app = app
        self.cookie = ""
        self.status = 0
        self.headers: dict[str, str] = {}

    def get(self, path: str, **headers: str) -> str:
        return self.send("GET", path, b"", headers)

    def post(self, path: str, site: str = "same-origin", **form: str) -> str:
        headers = {"HTTP_SEC_FETCH_SITE": site} if site else {}
        return self.send("POST", path, urlencode(form).encode(), headers)

    def send(self, method: str, path: str, body: bytes, headers: dict[str, str]) -> str:
        environ: dict[str, Any] = {"REQUEST_METHOD": method, "PATH_INFO": path, "SCRIPT_NAME": "", "QUERY_STRING": ""}
        setup_testing_defaults(environ)
        environ["wsgi.input"] = io.BytesIO(body)
        environ |= {"CONTENT_LENGTH": str(len(body)), "CONTENT_TYPE": "application/x-www-form-urlencoded", **headers}
        if self.cookie:
            environ["HTTP_COOKIE"] = self.cookie

        def start(status: str, answered: list[tuple[str, str]], exc_info: Any = None) -> Any:
            self.status = int(status.partition(" ")[0])
            self.headers = {name.lower(): value for name, value in answered}
            if cookie := self.headers.get("set-cookie"):
                self.cookie = "" if "Max-Age=0" in cookie else cookie.partition(";")[0]

        body_sent = validator(self.app)(environ, start)
        try:
            return b"".join(body_sent).decode()
        finally:
            body_sent.close()


@pytest.fixture
def store() -> Watched:
    return Watched()


@pytest.fixture
def sessions(store: Watched, monkeypatch: pytest.MonkeyPatch) -> Sessions:
    monkeypatch.setattr(_sessions, "_configured", None)
    return configure(session_store=store)


@pytest.fixture
def shop(sessions: Sessions) -> crumb.App:
    """A shop that is made with Crumb."""
    app = crumb.App()
    app.pages[403] = lambda _, phrase: crumb.Response(f"<h1>Not so: {phrase}</h1>", "403 Forbidden")
    app.pages[503] = lambda request, _: crumb.Response(f"<h1>Back soon: {request.path}</h1>", "503 Unavailable")
    _namespace["add_sessions"](app, sessions)

    @app.route("/")
    def home(request: Any) -> str:
        return f"Hello {request.session.get('user', 'stranger')}"

    @app.route("/plain")
    def plain(request: Any) -> str:
        return "plain"

    @app.route("/log-in", "POST")
    def log_in(request: crumb.Request) -> str:
        assert sync.log_in(request, "ada", {"user": request.form()["user"]})
        return "in"

    @app.route("/log-out", "POST")
    def log_out(request: crumb.Request) -> str:
        return str(sync.destroy_session())

    @app.route("/cart", "GET", "POST")
    def cart(request: Any) -> str:
        if request.method == "POST":
            request.session.setdefault("cart", []).append(request.form()["item"])
        return " ".join(sync.get_session_data().get("cart", []))

    @app.route("/given", "POST")
    def given(request: crumb.Request) -> crumb.Response:
        response = crumb.Response("given")
        assert sync.set_session_data(request, response, {"cart": ["given"]})
        return response

    @app.route("/form")
    def form(request: crumb.Request) -> str:
        return app.render("<form>{{ csrf_input() }} {{ csrf_token() }}</form>")

    @app.route("/hook", "POST")
    @csrf_exempt
    def hook(request: crumb.Request) -> str:
        return "called"

    @app.route("/pay", "POST")
    @csrf_protect(strict=True)
    def pay(request: crumb.Request) -> str:
        return "paid " + request.form()["sum"]

    @app.route("/stream")
    def stream(request: Any) -> crumb.Response:
        def chunks() -> Iterator[bytes]:
            for number in range(3):
                request.session["sent"] = number
                yield b"x"
            sync.set_session_data({"function": "too"})

        return crumb.Response(chunks())

    @app.route("/late")
    def late(request: crumb.Request) -> crumb.Response:
        def chunks() -> Iterator[bytes]:
            yield b"x"
            sync.renew_session()

        return crumb.Response(chunks())

    return app


@pytest.fixture
def ada(shop: crumb.App) -> Visitor:
    """Someone who has a session in the shop."""
    visitor = Visitor(shop)
    visitor.post("/cart", item="tea")
    assert visitor.cookie
    return visitor


def test_the_adapter_is_under_sixty_lines_and_imports_nothing_private() -> None:
    assert len(BLOCKING.splitlines()) < 60
    for code in (BLOCKING, AWAITING):
        modules = re.findall(r"^(?:from|import) (\S+)", code, re.MULTILINE)
        assert set(modules) <= {"crumb", "server_session.adapters", "server_session.exceptions"}
        names = re.findall(r"^    (\w+),$", code, re.MULTILINE)
        assert set(names) <= set(adapters.__all__)
        assert not re.search(r"\._\w", code)


def test_a_visitor_logs_in_with_another_cookie_and_out_with_none(ada: Visitor) -> None:
    before = ada.cookie
    assert ada.post("/log-in", user="Ada") == "in"
    assert ada.cookie != before
    assert ada.get("/") == "Hello Ada"
    thief = Visitor(ada.app)
    thief.cookie = before
    assert thief.get("/") == "Hello stranger"
    assert ada.post("/log-out") == "True"
    assert ada.cookie == ""
    assert ada.get("/") == "Hello stranger"


def test_the_mapping_and_the_functions_are_one_session(ada: Visitor) -> None:
    assert ada.post("/cart", item="cake") == "tea cake"
    assert ada.get("/cart") == "tea cake"
    assert ada.post("/given") == "given"
    assert ada.get("/cart") == "given"


def test_a_page_that_does_not_ask_costs_no_call_and_no_header(ada: Visitor, store: Watched) -> None:
    store.calls.clear()
    assert ada.get("/plain") == "plain"
    assert store.calls == []
    assert not {"set-cookie", "vary", "cache-control"} & set(ada.headers)
    ada.get("/")
    assert ada.headers["vary"] == "Cookie"


def test_a_forged_request_is_refused_on_the_application_s_own_page(ada: Visitor) -> None:
    for path in ("/cart", "/pay", "/nowhere"):
        assert ada.post(path, site="cross-site", item="forged") == "<h1>Not so: Forbidden</h1>"
        assert ada.status == 403
        assert ada.headers["csrf-rejection"] == "csrf_site"
        assert ada.headers["cache-control"] == "private, no-store"
        assert ada.headers["vary"] == "Cookie, Origin, Sec-Fetch-Site"
    assert ada.get("/cart") == "tea"
    ada.get("/nowhere")
    assert ada.status == 404


def test_an_exempt_view_is_let_through(ada: Visitor) -> None:
    assert ada.post("/hook", site="cross-site") == "called"


def test_a_strict_view_and_a_silent_browser_need_the_token_of_the_template(ada: Visitor) -> None:
    assert ada.post("/cart", site="", item="cake") == "<h1>Not so: Forbidden</h1>"
    assert ada.post("/pay", sum="9") == "<h1>Not so: Forbidden</h1>"
    page = ada.get("/form")
    assert ada.headers["cache-control"] == "private, no-store"
    found = re.fullmatch(r'<form><input type="hidden" name="csrf_token" value="([^"]+)"> (\S+)</form>', page)
    assert found
    assert ada.post("/pay", sum="9", csrf_token=found[1]) == "paid 9"
    assert ada.post("/cart", site="", item="cake", csrf_token=found[2]) == "tea cake"


def test_a_form_founds_the_session_of_its_token(shop: crumb.App) -> None:
    visitor = Visitor(shop)
    found = re.search(r'value="([^"]+)"', visitor.get("/form"))
    assert found
    assert visitor.post("/pay", sum="9", csrf_token=found[1]) == "paid 9"


@pytest.mark.parametrize("path", ["/", "/cart"])
def test_a_store_that_is_down_is_the_application_s_own_page(ada: Visitor, store: Watched, path: str) -> None:
    # By the mapping, and by a function.
    store.fails = ["get"]
    assert ada.get(path) == f"<h1>Back soon: {path}</h1>"
    assert ada.status == 503
    assert ada.headers["cache-control"] == "private, no-store"


def test_a_store_that_fails_at_the_check_or_at_the_commit_is_the_same_page(ada: Visitor, store: Watched) -> None:
    cookie = ada.cookie
    token = ada.get("/form").rpartition("> ")[2].removesuffix("</form>")
    store.fails = ["get", "look"]
    assert ada.post("/pay", csrf_token=token) == "<h1>Back soon: /pay</h1>"
    store.fails = ["set"]
    stranger = Visitor(ada.app)
    assert stranger.post("/cart", item="tea") == "<h1>Back soon: /cart</h1>"
    assert (stranger.status, stranger.cookie, ada.cookie) == (503, "", cookie)


@pytest.mark.parametrize("enter", [sync.renew_session, lambda: crumb.current_request.get().session.update(user="ada")])
def test_a_503_bears_the_cookie_that_a_renewal_which_nobody_answered_has_swapped(
    monkeypatch: pytest.MonkeyPatch, enter: Callable[[], Any]
) -> None:
    monkeypatch.setattr(_sessions, "_configured", None)
    store = Unanswered()
    app = crumb.App()
    _namespace["add_sessions"](app, configure(session_store=store))
    app.route("/begin", "POST")(lambda _: str(sync.set_session_data({"a": 1})))
    app.route("/enter", "POST")(lambda _: str(enter()))
    app.route("/")(lambda _: str(sync.get_session_data()["a"]))
    visitor = Visitor(app)
    visitor.post("/begin")
    before, store.unanswered = visitor.cookie, {"merge"}
    visitor.post("/enter")
    assert (visitor.status, visitor.cookie == before) == (503, False)
    assert visitor.get("/") == "1"


def test_a_body_that_gives_way_to_a_refusal_is_closed(shop: crumb.App, store: Watched) -> None:
    file = io.BytesIO(b"never sent")

    @shop.route("/file")
    def send_file(request: Any) -> crumb.Response:
        request.session["sent"] = True
        return crumb.Response(file)

    store.fails = ["set"]
    assert Visitor(shop).get("/file") == "<h1>Back soon: /file</h1>"
    assert file.closed


def test_what_a_streamed_body_writes_is_saved(ada: Visitor, sessions: Sessions) -> None:
    assert ada.get("/stream") == "xxx"
    assert ada.headers["vary"] == "Cookie"
    environ = {"REQUEST_METHOD": "GET", "wsgi.url_scheme": "http", "HTTP_COOKIE": ada.cookie}
    assert sessions.sync.get_session_data(environ) == {"cart": ["tea"], "sent": 2, "function": "too"}


def test_a_new_cookie_after_the_start_is_an_error(ada: Visitor) -> None:
    with pytest.raises(ResponseStartedError):
        Visitor(ada.app).get("/stream")
    with pytest.raises(ResponseStartedError):
        ada.get("/late")


def test_a_middleware_within_a_request_of_the_framework_s_serves_its_own(ada: Visitor, sessions: Sessions) -> None:
    def inside(environ: Any, start: Any) -> list[bytes]:
        start("200 OK", [("Content-Type", "text/plain")])
        return [str(sync.get_session_data()).encode()]

    @ada.app.route("/mounted")
    def mounted(request: crumb.Request) -> str:
        inner = Visitor(SessionMiddleware(inside, sessions=sessions))
        return f"{inner.get('/')} in {sync.get_session_data()}"

    assert ada.get("/mounted") == "{} in {'cart': ['tea']}"


def test_an_application_within_another_s_request_serves_its_own(shop: crumb.App, sessions: Sessions) -> None:
    inner = Visitor(shop)

    def outside(environ: Any, start: Any) -> list[bytes]:
        sync.set_session_data({"cart": ["outer"]})
        body = [inner.post("/cart", item="inner").encode(), b" / ", " ".join(sync.get_session_data()["cart"]).encode()]
        start("200 OK", [("Content-Type", "text/plain")])
        return body

    outer = Visitor(SessionMiddleware(outside, sessions=sessions))
    assert outer.get("/") == "inner / outer"
    assert outer.cookie != inner.cookie


# --- the awaiting adapter


class Answer:
    """The response of an ASGI framework."""

    def __init__(self, status: int, body: object = None) -> None:
        self.status = status
        self.body = body
        self.headers = Headers([])


register_response(Answer, lambda answer: adapters.MultiDictHeaders(answer.headers, "get_all", "add_header"))


async def serve(sessions: Sessions, respond: Any, *headers: tuple[bytes, bytes], view: object = None) -> Answer:
    async def error_page(request: Any, status: int) -> Answer:
        return Answer(status, "our page")

    method = "GET" if not headers or headers[0][0] == b"cookie" else "POST"
    scope = {"type": "http", "method": method, "path": "/", "headers": [*headers, (b"host", b"shop.example")]}
    request = SimpleNamespace(scope=scope, body=b"", view=view)
    answer: Answer = await _namespace["serve_sessions"](sessions, request, respond, error_page)
    return answer


async def test_the_awaiting_adapter_takes_the_same_steps(sessions: Sessions, store: Watched) -> None:
    async def respond(request: Any) -> Answer:
        request.session["seen"] = request.session.get("seen", 0) + 1
        return Answer(200, await get_session_data())

    answer = await serve(sessions, respond)
    assert answer.body == {"seen": 1}
    cookie = (b"cookie", answer.headers["set-cookie"].partition(";")[0].encode())
    assert (await serve(sessions, respond, cookie)).body == {"seen": 2}
    forged = (b"sec-fetch-site", b"cross-site")
    answer = await serve(sessions, respond, forged, cookie)
    assert (answer.status, answer.body, answer.headers["csrf-rejection"]) == (403, "our page", "csrf_site")
    assert (await serve(sessions, respond, forged, cookie, view=csrf_exempt(lambda: None))).body == {"seen": 3}
    for failing in ("get", "merge"):
        store.fails = [failing]
        answer = await serve(sessions, respond, cookie)
        assert (answer.status, answer.body) == (503, "our page")


@pytest.mark.parametrize("by_function", [True, False])
async def test_a_503_of_the_awaiting_adapter_bears_the_cookie_that_an_unanswered_renewal_swapped(
    monkeypatch: pytest.MonkeyPatch, by_function: bool
) -> None:
    monkeypatch.setattr(_sessions, "_configured", None)
    store = Unanswered()
    sessions = configure(session_store=store)

    async def begin(request: Any) -> Answer:
        request.session["a"] = 1
        return Answer(200)

    async def enter(request: Any) -> Answer:
        if by_function:
            await renew_session()
        request.session["user"] = "ada"
        return Answer(200)

    async def read(_: Any) -> Answer:
        return Answer(200, (await get_session_data())["a"])

    answer = await serve(sessions, begin)
    cookie = (b"cookie", answer.headers["set-cookie"].partition(";")[0].encode())
    store.unanswered = {"merge"}
    answer = await serve(sessions, enter, cookie)
    assert answer.status == 503
    cookie = (b"cookie", answer.headers["set-cookie"].partition(";")[0].encode())
    assert (await serve(sessions, read, cookie)).body == 1

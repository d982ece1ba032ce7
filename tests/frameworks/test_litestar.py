"""The adapter for Litestar keeps the contract of adapters, and what else Litestar's users count on."""

from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

import httpx2
import pytest
from jinja2 import DictLoader, Environment
from litestar import (
    Controller,
    HttpMethod,
    Litestar,
    MediaType,
    Request,
    Response,
    Router,
    WebSocket,
    asgi,
    get,
    patch,
    post,
    websocket,
)
from litestar.background_tasks import BackgroundTask
from litestar.config.csrf import CSRFConfig
from litestar.exceptions import HTTPException, NotAuthorizedException, NotFoundException, PermissionDeniedException
from litestar.handlers import HTTPRouteHandler
from litestar.middleware.authentication import AbstractAuthenticationMiddleware, AuthenticationResult
from litestar.middleware.session.server_side import ServerSideSessionConfig
from litestar.params import FromPath
from litestar.plugins.flash import FlashConfig, FlashPlugin, flash
from litestar.plugins.jinja import JinjaTemplateEngine
from litestar.response import Redirect, Stream, Template
from litestar.security.session_auth import SessionAuth
from litestar.template import TemplateConfig
from litestar.testing import TestClient
from litestar.types import Empty

from server_session import Sessions, _sessions, get_session_data
from server_session.exceptions import ConfigurationError, StoreError, UnavailableError
from server_session.litestar import CsrfRejected, ServerSession, csrf_exempt, csrf_protect
from server_session.testing import AdapterContract, Encoded, Failed, Headed, Here, Page, Redirected, Site, Streamed
from tests.documents import application_of, hidden_in
from tests.frameworks.serving import AWAITED, OverRedis, asked_by, hypercorn_serves, uvicorn_serves
from tests.visitors import Watched

AnyRequest = Request[Any, Any, Any]


def templates() -> TemplateConfig[Any]:
    engine = Environment(loader=DictLoader({"form": "<form>{{ csrf_field() }}</form>"}), autoescape=True)
    return TemplateConfig(instance=JinjaTemplateEngine.from_environment(engine))


def own_page(_: AnyRequest, error: Exception) -> Response[str]:
    assert isinstance(error, HTTPException)
    return Response(f"own page: {error.detail}", status_code=error.status_code, media_type=MediaType.TEXT)


def text(content: str, **options: Any) -> Response[str]:
    return Response(content, media_type=MediaType.TEXT, status_code=200, **options)


def view_of(page: Page) -> HTTPRouteHandler:
    async def view(request: AnyRequest) -> Response[Any]:
        async def body() -> bytes:
            return b"".join([chunk async for chunk in request.stream()])

        async def form() -> dict[str, Any]:
            return {**await request.form()}

        def render() -> str:
            return "rendered"

        def replace(mapping: Any) -> None:
            if mapping is None:
                request.clear_session()
            else:
                request.set_session(mapping)

        given = text("")
        here = Here(lambda: request.session, request, request.query_params, form, body, given)
        here.render, here.replace = render, replace
        match await page.body(here):
            case Redirected(path):
                return Redirect(path, status_code=303)
            case Failed(status):
                raise HTTPException(status_code=status)
            case Streamed(chunks):
                return Stream(chunks, status_code=200)
            case Encoded(value):
                return Response(value, status_code=200)
            case Headed(said, [(_, cookie), (name, value)]):
                return text(said, headers={"Set-Cookie": cookie, name: value})
            case "rendered":
                return Template("form", media_type=MediaType.HTML)
            case said:
                return text(str(said), cookies=given.cookies)

    methods = [HttpMethod(method) for method in page.methods]
    path = page.path.removeprefix("/inner")
    return HTTPRouteHandler(path, http_method=methods)(page.mark(view))


class TestLitestar(OverRedis, AdapterContract):
    stores = AWAITED
    can_replace = True

    def make_app(self, site: Site) -> Litestar:
        @websocket("/socket")
        async def socket(socket: WebSocket[Any, Any, Any]) -> None:
            await socket.accept()
            await socket.send_text(await site.greeting(socket.session))
            await socket.receive()

        inner = Router("/inner", route_handlers=[view_of(page) for page in site.pages if page.is_inner])
        return Litestar(
            [socket, inner, *(view_of(page) for page in site.pages if not page.is_inner)],
            plugins=[ServerSession(site.sessions, watch=site.watch)],
            exception_handlers={403: own_page, 503: own_page},
            template_config=templates(),
            openapi_config=None,
            logging_config=None,
        )

    def serve(self, app: Litestar) -> AbstractContextManager[int]:
        return uvicorn_serves(app)

    @contextmanager
    def client(self, app: Litestar) -> Iterator[Any]:
        with TestClient(app) as client:
            yield asked_by(client)


# --- what else Litestar's users count on


OWN = {"Sec-Fetch-Site": "same-origin"}
FOREIGN = {"Sec-Fetch-Site": "cross-site"}


@post("/write")
async def write(request: AnyRequest) -> str:
    request.session["a"] = 1
    return "written"


@get("/read")
async def read(request: AnyRequest) -> dict[str, Any]:
    return request.session


def site(*handlers: Any, plugin: ServerSession | None = None, **options: Any) -> TestClient[Litestar]:
    plugin = plugin or ServerSession(session_store="memory:")
    return TestClient(Litestar([write, read, *handlers], plugins=[plugin], logging_config=None, **options))


def test_hypercorn_serves_it_by_http_2() -> None:
    # Not by a POST: Hypercorn 0.18 fails where an answer comes before the end of a request's body.
    @get("/begin")
    async def begin(request: AnyRequest) -> str:
        request.session["a"] = 1
        return "begun"

    app = Litestar([begin, read], plugins=[ServerSession(session_store="memory:")], logging_config=None)
    with (
        hypercorn_serves(app) as port,
        httpx2.Client(http1=False, http2=True, base_url=f"http://127.0.0.1:{port}") as ask,
    ):
        assert (ask.get("/begin").http_version, ask.get("/begin").text) == ("HTTP/2", "begun")
        assert ask.get("/read").json() == {"a": 1}
        assert ask.head("/read", headers=FOREIGN).status_code in (403, 405)


def test_a_model_that_is_set_as_the_session_is_stored() -> None:
    @dataclass
    class Visit:
        user: str
        items: list[int]

    @post("/set")
    async def set_model(request: AnyRequest) -> None:
        request.session["old"] = 1
        request.set_session(Visit("ada", [1, 2]))

    with site(set_model) as client:
        client.post("/set", headers=OWN)
        assert client.get("/read").json() == {"user": "ada", "items": [1, 2]}


def test_a_session_that_is_set_to_nothing_ends() -> None:
    @post("/empty")
    async def empty(request: AnyRequest) -> None:
        request.set_session(Empty)

    with site(empty) as client:
        client.post("/write", headers=OWN)
        assert "Max-Age=0" in client.post("/empty", headers=OWN).headers["set-cookie"]
        assert client.get("/read").json() == {}


def test_a_session_that_is_not_loaded_yet_can_be() -> None:
    @get("/load")
    async def load(request: AnyRequest) -> dict[str, Any]:
        loaded: dict[str, Any] = await request.session.load()  # type: ignore[attr-defined]
        return {**loaded}

    with site(load, plugin=ServerSession(session_store="memory:", autoload=False)) as client:
        client.post("/write", headers=OWN)
        assert client.get("/load").json() == {"a": 1}


def test_an_application_beneath_by_asgi_has_the_session() -> None:
    @asgi("/beneath", is_mount=True, copy_scope=True)
    async def beneath(scope: Any, receive: Any, send: Any) -> None:
        await Response(dict(scope["session"])).to_asgi_response(None, Request(scope))(scope, receive, send)

    with site(beneath) as client:
        client.post("/write", headers=OWN)
        assert client.get("/beneath").json() == {"a": 1}


def test_a_session_that_a_handler_returns_makes_the_response_vary_whatever_the_class_of_its_request() -> None:
    class Special(Request[Any, Any, Any]):
        @property
        def special(self) -> str:
            return "special"

    @get("/mine", request_class=Special)
    async def mine(request: Special) -> dict[str, Any]:
        assert request.special == "special"
        return request.session

    with site(mine) as client:
        client.post("/write", headers=OWN)
        for path in ("/mine", "/read"):
            answered = client.get(path)
            assert (answered.json(), answered.headers["vary"]) == ({"a": 1}, "Cookie")


def test_a_session_on_the_application_s_own_page_of_an_error_makes_the_response_vary() -> None:
    @get("/gone")
    async def gone() -> None:
        raise NotFoundException

    def page(request: AnyRequest, _: Exception) -> Response[Any]:
        return Response(request.session, status_code=404)

    with site(gone, exception_handlers={404: page}) as client:
        client.post("/write", headers=OWN)
        answered = client.get("/gone")
        assert (answered.json(), answered.headers["vary"]) == ({"a": 1}, "Cookie")


def test_the_page_for_what_a_middleware_raises_writes_to_the_session() -> None:
    class LogIn(AbstractAuthenticationMiddleware):
        async def authenticate_request(self, connection: Any) -> AuthenticationResult:
            if "user" not in connection.session:
                raise NotAuthorizedException
            return AuthenticationResult(user=connection.session["user"], auth=None)

    def ask(request: AnyRequest, _: Exception) -> Redirect:
        request.session["next"] = request.url.path
        return Redirect("/log-in", status_code=303)

    @get("/own")
    async def own(request: AnyRequest) -> str:
        return str(request.user)

    @get("/log-in", exclude_from_auth=True)
    async def log_in(request: AnyRequest) -> str:
        request.session["user"] = "ada"
        return str(request.session["next"])

    with site(own, log_in, middleware=[LogIn], exception_handlers={401: ask}) as client:
        assert client.get("/own").text == "/own"
        assert client.get("/own").text == "ada"


def test_a_store_that_fails_is_told_to_the_application_s_hooks_once() -> None:
    told: list[Exception] = []

    async def hear(error: Exception, _: Any) -> None:
        told.append(error)

    @get("/ask")
    async def ask() -> dict[str, Any]:
        return await get_session_data()

    store = Watched()
    with site(ask, plugin=ServerSession(session_store=store, autoload=False), after_exception=[hear]) as client:
        client.post("/write", json={"a": 1}, headers=OWN)
        store.fails = ["get"]
        assert client.get("/ask").status_code == 503
        assert [type(error) for error in told] == [StoreError]


def test_a_cached_response_bears_nobody_s_cookie_and_nobody_s_session() -> None:
    calls: list[str] = []

    @get("/hello", cache=60)
    async def hello(request: AnyRequest) -> str:
        calls.append("hello")
        request.session["seen"] = True
        return "hello"

    @get("/same", cache=60)
    async def same() -> str:
        calls.append("same")
        return "same"

    with site(hello, same) as client:
        first = client.get("/hello").headers["set-cookie"]
        client.cookies.clear()
        second = client.get("/hello").headers["set-cookie"]
        assert first != second
        for _ in range(2):
            assert client.get("/same").text == "same"
        assert calls == ["hello", "hello", "same"]


def test_a_cached_stream_that_looks_at_the_session_when_it_has_begun_is_nobody_else_s() -> None:
    calls: list[str] = []

    async def look(request: AnyRequest) -> AsyncIterator[str]:
        yield "begun"
        yield str({**request.session})

    @get("/look", cache=60)
    async def looks(request: AnyRequest) -> Stream:
        return Stream(look(request))

    @get("/same", cache=60)
    async def same() -> Stream:
        calls.append("same")
        return Stream(["same"])

    with site(looks, same) as client:
        client.post("/write", headers=OWN)
        assert client.get("/look").text == "begun{'a': 1}"
        client.cookies.clear()
        assert client.get("/look").text == "begun{}"
        assert [client.get("/same").text for _ in range(2)] == ["same", "same"]
        assert calls == ["same"]


def test_a_handler_that_looks_at_the_session_can_empty_the_cache() -> None:
    calls: list[str] = []

    @get("/same", cache=60)
    async def same() -> str:
        calls.append("same")
        return "same"

    @post("/empty")
    async def empty(request: AnyRequest) -> None:
        request.session["emptied"] = True
        await request.app.response_cache_config.get_store_from_app(request.app).delete_all()

    with site(same, empty) as client:
        client.get("/same")
        client.post("/empty", headers=OWN)
        client.get("/same")
        assert calls == ["same", "same"]
        config = client.app.response_cache_config
        assert config.get_store_from_app(client.app) is client.app.stores.get(config.store)


async def test_a_middleware_within_that_keeps_messages_keeps_nobody_s_cookie() -> None:
    kept: list[Any] = []

    def keeping(app: Any) -> Any:
        async def serve(scope: Any, receive: Any, send: Any) -> None:
            async def keep(message: Any) -> None:
                await send(message)
                kept.append(message)

            await app(scope, receive, keep)

        return serve

    with site(middleware=[keeping]) as client:
        assert "set-cookie" in client.post("/write", headers=OWN).headers
    assert not [name for name, _ in kept[0]["headers"] if name == b"set-cookie"]


def test_litestar_s_own_check_and_ours_do_not_both_ask_for_a_token() -> None:
    own = CSRFConfig(secret="secret")
    with pytest.raises(ConfigurationError, match="csrf_config"):
        site(csrf_config=own)

    @get("/form")
    async def form() -> Template:
        return Template(template_str="{{ csrf_token() }}", media_type=MediaType.TEXT)

    plugin = ServerSession(session_store="memory:", csrf=None)
    with site(form, csrf_config=own, plugin=plugin, template_config=templates()) as client:
        assert client.post("/write").status_code == 403
        token = client.get("/form").text
        assert client.post("/write", headers={"x-csrftoken": token}).status_code == 201
        answered = client.post("/write", headers={"x-csrftoken": client.cookies["csrftoken"]})
        assert answered.status_code == 201
        assert client.get("/read").json() == {"a": 1}


def test_litestar_s_own_session_in_the_place_of_ours_is_an_error() -> None:
    own = ServerSideSessionConfig()

    @get("/other", middleware=[own.middleware])
    async def other() -> None: ...

    @websocket("/socket", middleware=[own.middleware])
    async def socket(socket: WebSocket[Any, Any, Any]) -> None: ...

    async def user(*_: Any) -> None: ...

    for options in (
        {"middleware": [own.middleware]},
        {"route_handlers": [other]},
        {"route_handlers": [socket]},
        {"on_app_init": [SessionAuth(retrieve_user_handler=user, session_backend_config=own).on_app_init]},
    ):
        with pytest.raises(ConfigurationError, match="session of Litestar's own"):
            Litestar(plugins=[ServerSession(session_store="memory:")], **{"route_handlers": [read], **options})


def test_litestar_s_own_flash_messages_take_this_session_for_one() -> None:
    @post("/say")
    async def say(request: AnyRequest) -> None:
        flash(request, "well said", category="info")

    @get("/hear")
    async def hear() -> Template:
        page = "{% for one in get_flashes() %}{{ one.message }}{% endfor %}"
        return Template(template_str=page, media_type=MediaType.TEXT)

    made = templates()
    plugins = [ServerSession(session_store="memory:"), FlashPlugin(FlashConfig(made))]
    with TestClient(Litestar([say, hear], plugins=plugins, template_config=made, logging_config=None)) as client:
        client.post("/say", headers=OWN)
        assert [client.get("/hear").text for _ in range(2)] == ["well said", ""]


def test_marks_are_heard_on_functions_in_threads_on_controllers_and_on_what_a_decorator_made() -> None:
    @post("/thread", sync_to_thread=True)
    @csrf_protect(strict=True)
    def thread() -> str:
        return "done"

    @csrf_protect(strict=True)
    @post("/decorated")
    async def decorated() -> str:
        return "done"

    @csrf_protect(strict=True)
    class Careful(Controller):
        path = "/careful"

        @post("/inherited")
        async def inherited(self) -> str:
            return "done"

    class Mixed(Controller):
        path = "/mixed"

        @post("/strict")
        @csrf_protect(strict=True)
        async def strict(self) -> str:
            return "done"

        @post("/exempt")
        @csrf_exempt
        async def exempt(self) -> str:
            return "done"

    with site(thread, decorated, Careful, Mixed) as client:
        client.post("/write", headers=OWN)
        for path in ("/thread", "/decorated", "/careful/inherited", "/mixed/strict"):
            answered = client.post(path, headers=OWN)
            assert (path, answered.status_code) == (path, 403)
            assert answered.json()["extra"] == {"code": "csrf_token_missing"}
        assert client.post("/mixed/exempt", headers=FOREIGN).status_code == 201
    for unmarkable in (Router("/", route_handlers=[]), Litestar([])):
        with pytest.raises(ConfigurationError, match="mark"):
            csrf_exempt(unmarkable)


def test_the_mark_of_one_handler_does_not_exempt_another_that_serves_the_path() -> None:
    @post("/hook/{name:str}")
    @csrf_exempt
    async def hook(name: FromPath[str]) -> str:
        return f"hook {name}"

    @post("/hook/own")
    async def own() -> str:
        return "own"

    @patch("/hook/{name:str}")
    async def change(name: FromPath[str]) -> str:
        return f"changed {name}"

    with site(hook, own, change) as client:
        client.post("/write", headers=OWN)
        assert client.post("/hook/pay", headers=FOREIGN).text == "hook pay"
        assert client.post("/hook/pay/", headers=FOREIGN).text == "hook pay"
        for path in ("/hook/own", "/hook/own/", "/hook//own", "/write"):
            assert client.post(path, headers=FOREIGN).status_code == 403
        assert client.patch("/hook/pay", headers=FOREIGN).status_code == 403


def test_a_background_task_does_not_run_where_the_session_could_not_be_stored() -> None:
    ran: list[str] = []
    store = Watched()

    @post("/order")
    async def order(request: AnyRequest) -> Response[str]:
        request.session["ordered"] = True
        return Response("thanks", background=BackgroundTask(ran.append, "sent a letter"))

    with site(order, plugin=ServerSession(session_store=store)) as client:
        store.fails = ["set"]
        assert client.post("/order", headers=OWN).status_code == 503
        assert ran == []
        store.fails = []
        assert client.post("/order", headers=OWN).status_code == 201
        assert ran == ["sent a letter"]


@pytest.mark.parametrize("handled", [StoreError, UnavailableError])
def test_the_application_s_own_handler_of_a_store_that_fails_comes_first(handled: type[Exception]) -> None:
    store = Watched()

    @get("/function")
    async def function(request: AnyRequest) -> dict[str, Any]:
        return await get_session_data(request)

    def down(*_: Any) -> Response[str]:
        return Response("down", status_code=507)

    plugin = ServerSession(session_store=store, autoload=False)
    with site(function, plugin=plugin, exception_handlers={handled: down}) as client:
        client.cookies["session"] = "A" * 64
        store.fails = ["get"]
        assert client.get("/function").status_code == 507


async def test_the_functions_set_the_cookie_on_a_response_of_litestar_s_without_a_plugin() -> None:
    sessions = Sessions(session_store="memory:")

    @post("/bare")
    async def bare(request: AnyRequest) -> Response[str]:
        response = Response("bare", headers={"Cache-Control": "public, no-transform", "VARY": "Accept"})
        response.set_cookie("other", "value")
        await sessions.set_session_data(request, response, {"a": 1})
        await sessions.log_in(request, response, "ada", {"user": "ada"})
        return response

    @get("/seen")
    async def seen(request: AnyRequest) -> dict[str, Any]:
        return await sessions.get_session_data(request)

    with TestClient(Litestar([bare, seen], logging_config=None)) as client:
        answered = client.post("/bare")
        assert [one.partition("=")[0] for one in answered.headers.get_list("set-cookie")] == ["other", "session"]
        assert answered.headers["cache-control"] == "private, no-store, no-transform"
        assert answered.headers["vary"] == "Accept, Cookie"
        assert client.get("/seen").json() == {"user": "ada"}


@pytest.mark.parametrize("handled", [403, CsrfRejected, PermissionDeniedException])
def test_a_page_of_a_refusal_can_say_who_is_logged_in(handled: Any) -> None:
    class Special(Request[Any, Any, Any]):
        said = "not so"

    def page(request: Special, _: Exception) -> Response[str]:
        return text(f"{request.said}, {request.session['a']}")

    with site(exception_handlers={handled: page}, request_class=Special) as client:
        client.post("/write", headers=OWN)
        answered = client.post("/write", headers=FOREIGN)
        assert (answered.text, answered.headers["csrf-rejection"]) == ("not so, 1", "csrf_site")


def test_a_route_that_is_added_later_has_the_session() -> None:
    app = Litestar(plugins=[ServerSession(session_store="memory:")], logging_config=None)
    app.register(write)
    app.register(read)
    with TestClient(app) as client:
        client.post("/write", headers=OWN)
        assert client.get("/read").json() == {"a": 1}
        assert client.post("/write", headers=FOREIGN).status_code == 403


def test_autoload_can_ask_which_handler_will_serve() -> None:
    store = Watched()

    @get("/asset", opt={"asset": True})
    async def asset() -> str:
        return "asset"

    plugin = ServerSession(session_store=store, autoload=lambda scope: "asset" not in scope["route_handler"].opt)
    with site(asset, plugin=plugin) as client:
        client.post("/write", headers=OWN)
        store.calls.clear()
        client.get("/asset")
        assert store.calls == []
        assert client.get("/read").json() == {"a": 1}


def test_the_document_s_application_counts_logs_in_and_refuses_what_is_forged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_sessions, "_configured", None)
    with TestClient(application_of("litestar")) as client:
        client.follow_redirects = True
        token = hidden_in(client.get("/").text)
        assert client.post("/add", data={"csrf_token": "forged"}).status_code == 403
        assert "nobody: 1" in client.post("/add", data={"csrf_token": token}).text
        before = client.cookies["session"]
        page = client.post("/log-in", data={"csrf_token": token, "user": "ada"}).text
        assert "ada: 1" in page
        assert client.cookies["session"] != before
        assert client.post("/log-out", data={"csrf_token": token}).status_code == 403
        assert "nobody: 0" in client.post("/log-out", data={"csrf_token": hidden_in(page)}).text

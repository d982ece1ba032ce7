"""Which endpoint a request is for, as the check for forged requests must know it: in Starlette and in FastAPI."""

import asyncio
from typing import Any

import pytest
from fastapi import APIRouter, FastAPI
from starlette.applications import Starlette
from starlette.endpoints import HTTPEndpoint
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Host, Mount, Route, Router, WebSocketRoute

from server_session import ConfigurationError, Sessions, asgi, csrf_exempt, csrf_protect
from server_session.starlette import SessionMiddleware
from tests.asgi_client import Answer, Client, WebSocket, call, scope_of

FORGED = (b"sec-fetch-site", b"cross-site")
OWN = (b"sec-fetch-site", b"same-origin")
WRITES = ["GET", "HEAD", "POST", "PUT"]


async def plain(request: Request) -> PlainTextResponse:
    return PlainTextResponse((await request.body()).decode() or "plain")


@csrf_exempt
async def webhook(request: Request) -> PlainTextResponse:
    return PlainTextResponse("webhook")


@csrf_protect(strict=True)
async def transfer(request: Request) -> PlainTextResponse:
    return PlainTextResponse("transfer")


@csrf_protect(every_method=True)
async def leave(request: Request) -> PlainTextResponse:
    return PlainTextResponse("left")


@csrf_protect(every_method=True, strict=True)
async def close(request: Request) -> PlainTextResponse:
    return PlainTextResponse("closed")


@csrf_protect(anonymous=True)
async def log_in(request: Request) -> PlainTextResponse:
    return PlainTextResponse("in")


@csrf_protect(scoped=True)
async def pay(request: Request) -> PlainTextResponse:
    return PlainTextResponse("paid")


@csrf_exempt
async def named(request: Request) -> PlainTextResponse:
    return PlainTextResponse("named")


class Basket(HTTPEndpoint):
    async def put(self, request: Request) -> PlainTextResponse:
        return PlainTextResponse("put")

    @csrf_exempt
    async def post(self, request: Request) -> PlainTextResponse:
        return PlainTextResponse("posted")


@csrf_exempt
class Hooks(HTTPEndpoint):
    async def post(self, request: Request) -> PlainTextResponse:
        return PlainTextResponse("hooked")


def routes() -> list[Any]:
    return [
        Route("/plain", plain, methods=WRITES),
        Route("/webhook", webhook, methods=["POST"]),
        Route("/webhook/{name}", webhook, methods=["POST"]),
        Route("/transfer", transfer, methods=WRITES),
        Route("/leave", leave, methods=["GET"]),
        Route("/close", close, methods=["GET"]),
        Route("/login", log_in, methods=["POST"]),
        Route("/pay/{id}", pay, methods=["POST"]),
        Route("/named", named, methods=["POST"]),
        Route("/basket", Basket),
        Route("/hooks", Hooks),
    ]


def starlette_app(sessions: Sessions) -> Any:
    inner = Starlette(routes=routes())
    mounted = [*routes(), Mount("/in", app=inner), Mount("/router", app=Router(routes()))]
    return Starlette(
        routes=[*mounted, Host("api.example", app=Router(routes()))],
        middleware=[Middleware(SessionMiddleware, sessions=sessions)],
    )


def fastapi_app(sessions: Sessions) -> Any:
    app = FastAPI()
    for route in routes():
        app.router.routes.append(route)
    included = APIRouter()
    deeper = APIRouter()
    for router in (included, deeper):
        for path, endpoint in (("/webhook", webhook), ("/transfer", transfer), ("/plain", plain), ("/named", named)):
            router.add_api_route(path, endpoint, methods=["POST"], response_model=None)
    included.include_router(deeper, prefix="/deeper")
    app.include_router(included, prefix="/in")
    app.mount("/router", Starlette(routes=routes()))
    app.add_middleware(SessionMiddleware, sessions=sessions)
    return app


@pytest.fixture(params=[starlette_app, fastapi_app], ids=["starlette", "fastapi"])
def visitor(request: pytest.FixtureRequest) -> "Visitor":
    sessions = Sessions()
    return Visitor(sessions, request.param(sessions))


class Visitor:
    """Somebody with a session, whose browser is made to send things."""

    def __init__(self, sessions: Sessions, app: Any) -> None:
        self.sessions = sessions
        self.app = app
        self.client = Client(app)

        async def found() -> None:
            async def founding(scope: Any, receive: Any, send: Any) -> None:
                await sessions.set_session_data(scope, {"user": "ada"})
                await send({"type": "http.response.start", "status": 200, "headers": []})
                await send({"type": "http.response.body", "body": b""})

            self.client.keep(await call(asgi.SessionMiddleware(founding, sessions), scope_of()))

        asyncio.run(found())

    def token(self, scope: tuple[str, str] | None = None) -> bytes:
        return self.sessions.sync.get_csrf_token(scope_of(cookie=self.client.cookie), scope=scope).encode()

    def send(self, path: str, *headers: tuple[bytes, bytes], method: str = "POST", cookie: bool = True) -> Answer:
        scope = scope_of(path, self.client.cookie if cookie else None, method=method)
        scope["headers"] += headers
        return asyncio.run(call(self.app, scope))


def code(answer: Answer) -> str | None:
    return answer.one("csrf-rejection")


PLACES = ("", "/in", "/router")


@pytest.mark.parametrize("place", PLACES)
def test_an_exempt_endpoint_takes_what_other_sites_send(visitor, place):
    assert visitor.send(f"{place}/webhook", FORGED).body == b"webhook"
    assert visitor.send(f"{place}/named", FORGED).body == b"named"


@pytest.mark.parametrize("place", PLACES)
def test_every_other_endpoint_refuses_them(visitor, place):
    assert code(visitor.send(f"{place}/plain", FORGED)) == "csrf_site"
    assert visitor.send(f"{place}/plain", OWN).status == 200


def test_routers_within_routers_are_looked_into():
    sessions = Sessions()
    visitor = Visitor(sessions, fastapi_app(sessions))
    assert visitor.send("/in/deeper/webhook", FORGED).body == b"webhook"
    assert code(visitor.send("/in/deeper/plain", FORGED)) == "csrf_site"
    assert code(visitor.send("/in/deeper/transfer", OWN)) == "csrf_token_missing"


@pytest.mark.parametrize("place", PLACES)
def test_a_strict_endpoint_wants_a_token_of_its_own_site_too(visitor, place):
    assert code(visitor.send(f"{place}/transfer", OWN)) == "csrf_token_missing"
    assert visitor.send(f"{place}/transfer", OWN, (b"x-csrf-token", visitor.token())).status == 200


def test_a_get_that_has_effects_is_checked_like_a_post(visitor):
    assert code(visitor.send("/leave", FORGED, method="GET")) == "csrf_site"
    assert code(visitor.send("/leave", method="GET")) == "csrf_token_missing"
    assert visitor.send("/leave", OWN, method="GET").body == b"left"


@pytest.mark.parametrize("cookie", [True, False])
def test_the_header_of_a_websocket_takes_no_get_past_what_its_endpoint_asks(visitor, cookie):
    upgrade = (b"upgrade", b"websocket")
    foreign, own = (b"origin", b"https://evil.example"), (b"origin", b"http://shop.example")
    for path in ("/leave", "/close"):
        assert code(visitor.send(path, upgrade, foreign, method="GET", cookie=cookie)) == "csrf_origin"
    assert code(visitor.send("/close", upgrade, own, OWN, method="GET", cookie=cookie)) == "csrf_token_missing"
    token = (b"x-csrf-token", visitor.token())
    assert visitor.send("/close", upgrade, own, OWN, token, method="GET").body == b"closed"


def test_a_log_in_excuses_no_missing_cookie(visitor):
    assert code(visitor.send("/login", cookie=False)) == "csrf_token_missing"
    assert visitor.send("/plain", cookie=False).status == 200


def test_a_scoped_endpoint_takes_its_own_token_and_no_other(visitor):
    def pay(scope: tuple[str, str] | None) -> Answer:
        return visitor.send("/pay/7", OWN, (b"x-csrf-token", visitor.token(scope)))

    assert pay(("POST", "/pay/7")).body == b"paid"
    for other in (None, ("POST", "/pay/8"), ("PUT", "/pay/7"), ("POST", "/pay/7/"), ("POST", "/plain")):
        assert pay(other).status == 403, other


def test_a_token_for_one_form_passes_at_that_form_alone(visitor):
    token = visitor.token(("POST", "/plain"))
    assert visitor.send("/plain", (b"x-csrf-token", token)).status == 200
    assert visitor.send("/transfer", (b"x-csrf-token", token)).status == 403


def test_a_method_of_a_class_can_be_exempt_and_a_class_whole(visitor):
    assert visitor.send("/basket", FORGED).body == b"posted"
    assert code(visitor.send("/basket", FORGED, method="PUT")) == "csrf_site"
    assert visitor.send("/hooks", FORGED).body == b"hooked"


@pytest.mark.parametrize(
    "path",
    ["//webhook", "/webhook//", "/./webhook", "/%77ebhook2", "/WEBHOOK", "/webhook;x", "/nowhere", "/plain/../webhook"],
)
def test_another_spelling_of_an_exempt_path_is_not_exempt_unless_it_is_served_by_that_endpoint(visitor, path):
    assert code(visitor.send(path, FORGED)) == "csrf_site"


def test_an_endpoint_that_does_not_take_the_method_exempts_nothing(visitor):
    assert code(visitor.send("/webhook", FORGED, method="DELETE")) == "csrf_site"


def test_a_route_added_later_is_protected_too(visitor):
    late = Route("/late", plain, methods=["POST"])
    visitor.app.router.routes.append(late)
    assert code(visitor.send("/late", FORGED)) == "csrf_site"


def test_an_exempt_websocket_opens_to_other_sites_and_no_other_does():
    async def listen(websocket: Any) -> None:
        await websocket.accept()
        await websocket.close()

    @csrf_exempt
    async def feed(websocket: Any) -> None:
        await listen(websocket)

    sessions = Sessions(origin="http://own.example")
    routes = [WebSocketRoute("/feed", feed), WebSocketRoute("/talk", listen)]
    app = Starlette(routes=routes, middleware=[Middleware(SessionMiddleware, sessions=sessions)])
    outcomes = {}
    for path in ("/feed", "/talk"):
        socket = WebSocket()
        asyncio.run(socket.connect(app, f"session={'x' * 64}", path))
        outcomes[path] = socket.got[0]["type"]
    assert outcomes == {"/feed": "websocket.accept", "/talk": "websocket.close"}


def test_marks_are_honoured_around_an_application_too():
    visitor = Visitor(Sessions(), None)
    visitor.app = SessionMiddleware(Starlette(routes=routes()), visitor.sessions)
    assert code(visitor.send("/transfer", OWN)) == "csrf_token_missing"
    assert visitor.send("/webhook", FORGED).status == 200


def test_the_router_behind_the_middleware_decides_and_not_the_outer_application_s():
    # The outer application exempts the very path that the mounted one guards, and the reverse.
    sessions = Sessions()
    inner = SessionMiddleware(
        Starlette(routes=[Route("/a", plain, methods=["POST"]), Route("/b", webhook, methods=["POST"])]), sessions
    )
    outer = [Route("/a", webhook, methods=["POST"]), Route("/b", plain, methods=["POST"]), Mount("/in", app=inner)]
    visitor = Visitor(sessions, Starlette(routes=outer))
    assert code(visitor.send("/in/a", FORGED)) == "csrf_site"
    assert visitor.send("/in/b", FORGED).body == b"webhook"


@pytest.mark.parametrize("between", [GZipMiddleware, CORSMiddleware])
def test_marks_are_honoured_through_the_middlewares_between(between):
    sessions = Sessions()
    visitor = Visitor(sessions, SessionMiddleware(between(Starlette(routes=routes())), sessions))
    assert code(visitor.send("/transfer", OWN)) == "csrf_token_missing"
    assert visitor.send("/webhook", FORGED).body == b"webhook"


def test_marks_are_honoured_where_the_middleware_is_one_route_s_or_one_router_s():
    sessions = Sessions()
    own = [Middleware(SessionMiddleware, sessions=sessions)]
    single = [
        Route("/webhook", webhook, methods=["POST"], middleware=own),
        Route("/transfer", transfer, methods=["POST"], middleware=own),
        Route("/plain", plain, methods=["POST"], middleware=own),
    ]
    for app in (Starlette(routes=single), Router(routes(), middleware=own)):
        visitor = Visitor(sessions, app)
        assert visitor.send("/webhook", FORGED).body == b"webhook"
        assert code(visitor.send("/transfer", OWN)) == "csrf_token_missing"
        assert code(visitor.send("/plain", FORGED)) == "csrf_site"


def test_an_application_whose_routes_are_of_another_kind_is_guarded_and_has_nothing_exempt():
    class Other:
        routes = ("/somewhere",)

        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            await PlainTextResponse("other")(scope, receive, send)

    sessions = Sessions()
    visitor = Visitor(sessions, SessionMiddleware(Other(), sessions))
    assert visitor.send("/x", OWN).body == b"other"
    assert code(visitor.send("/x", FORGED)) == "csrf_site"


def test_what_is_mounted_and_checks_its_requests_itself_can_be_exempt_here():
    class Bridge:
        """As those of a2wsgi and Starlette, which carry an application of WSGI."""

        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            await PlainTextResponse("within")(scope, receive, send)

    sessions = Sessions()
    app = FastAPI()
    app.mount("/guarded", Bridge())
    app.mount("/exempt", csrf_exempt(Bridge()))
    app.add_middleware(SessionMiddleware, sessions=sessions)
    visitor = Visitor(sessions, app)
    assert code(visitor.send("/guarded/x", FORGED)) == "csrf_site"
    assert visitor.send("/exempt/x", FORGED).body == b"within"


def test_what_stands_for_something_else_in_a_view_is_not_fetched_by_the_check():
    class Proxy:
        def __call__(self) -> None: ...

        def __getattr__(self, name: str) -> Any:
            raise RuntimeError("nothing is bound to it")

    def made(user: Proxy) -> Any:
        async def view(request: Request) -> PlainTextResponse:
            return PlainTextResponse(type(user).__name__)

        return view

    sessions = Sessions()
    routes = [Route("/", made(Proxy()), methods=["POST"]), Route("/transfer", transfer, methods=["POST"])]
    visitor = Visitor(sessions, Starlette(routes=routes, middleware=[Middleware(SessionMiddleware, sessions=sessions)]))
    assert visitor.send("/", OWN).body == b"Proxy"


def test_what_a_view_asks_for_is_heard_beneath_a_decorator_that_hides_it_and_its_exemption_is_not():
    def hiding(view: Any) -> Any:
        async def around(request: Request) -> Any:
            return await view(request)

        return around

    async def view(request: Request) -> PlainTextResponse:
        return PlainTextResponse("seen")

    async def other(request: Request) -> PlainTextResponse:
        return PlainTextResponse("seen")

    sessions = Sessions()
    hidden = [
        Route("/strict", hiding(hiding(csrf_protect(strict=True)(view))), methods=["POST"]),
        Route("/exempt", hiding(csrf_exempt(other)), methods=["POST"]),
    ]
    visitor = Visitor(sessions, Starlette(routes=hidden, middleware=[Middleware(SessionMiddleware, sessions=sessions)]))
    assert code(visitor.send("/strict", OWN)) == "csrf_token_missing"
    assert code(visitor.send("/exempt", FORGED)) == "csrf_site"


def test_a_middleware_that_does_not_know_the_views_says_so_where_any_asks_for_more(caplog):
    async def bare(scope: Any, receive: Any, send: Any) -> None:
        await PlainTextResponse("bare")(scope, receive, send)

    sessions = Sessions()
    visitor = Visitor(sessions, SessionMiddleware(bare, sessions))
    caplog.clear()
    for _ in range(2):
        assert visitor.send("/x", OWN).body == b"bare"
    assert len([record for record in caplog.records if "is not heard" in record.getMessage()]) == 1
    visitor = Visitor(sessions, SessionMiddleware(bare, sessions, endpoint=lambda _: bare))
    caplog.clear()
    assert visitor.send("/x", OWN).body == b"bare"
    assert not caplog.records


def test_an_application_is_not_marked_but_its_endpoints():
    for whole in (Starlette(), FastAPI(), APIRouter(), Router()):
        with pytest.raises(ConfigurationError, match="mark its endpoints"):
            csrf_exempt(whole)


def test_what_is_asked_for_and_exempt_at_once_is_an_error():
    async def torn(request: Request) -> None: ...

    with pytest.raises(ConfigurationError, match="at once"):
        csrf_exempt(csrf_protect(strict=True)(torn))
    with pytest.raises(ConfigurationError, match="asks for nothing"):
        csrf_protect()
    # Without parentheses, as Django's own is written.
    with pytest.raises(ConfigurationError, match="asks for nothing"):
        csrf_protect(torn)

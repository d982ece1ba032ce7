import asyncio
import functools
import json
import logging
import sys
import time
from collections.abc import Callable, Coroutine
from datetime import timedelta
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import trio
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket as StarletteWebSocket

from server_session import (
    CarrierError,
    ColourError,
    ConfigurationError,
    MemorySessionStore,
    NotConfiguredError,
    ResponseStartedError,
    Sessions,
    SessionStore,
    StoreError,
    configure,
    destroy_session,
    get_csrf_token,
    get_session_data,
    log_in,
    set_session_data,
    sync,
    update_session_data,
    validate_csrf_token,
)
from server_session._colour import pause
from server_session.asgi import SessionMiddleware, _Connection
from server_session.http.requests import AsgiRequest, request_of
from server_session.testing import YieldingStore
from tests.asgi_client import Client, WebSocket, scope_of
from tests.patience import PATIENCE
from tests.visitors import EVERY_STORE, Clock, Unanswered, Watched, make_store

Runner = Callable[[Callable[[], Coroutine[Any, Any, Any]]], Any]


def run_asyncio(scenario: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
    return asyncio.run(scenario())


LOOPS = {"asyncio": run_asyncio, "trio": trio.run}


@pytest.fixture(params=LOOPS)
def run(request: pytest.FixtureRequest) -> Runner:
    return LOOPS[request.param]


@pytest.fixture(params=EVERY_STORE)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> SessionStore:
    return make_store(request.param, tmp_path, Clock())


def application(*endpoints: Callable[..., Any]) -> Starlette:
    return Starlette(
        routes=[
            WebSocketRoute(f"/{one.__name__}", one)
            if "websocket" in one.__code__.co_varnames[:1]
            else Route(f"/{one.__name__}", one, methods=["GET", "POST"])
            for one in endpoints
        ]
    )


async def show(request: Request) -> JSONResponse:
    return JSONResponse(request.session)


async def put(request: Request) -> JSONResponse:
    request.session[request.query_params["key"]] = 1
    return JSONResponse({})


async def forget(request: Request) -> JSONResponse:
    request.session.clear()
    return JSONResponse({})


async def untouched(request: Request) -> PlainTextResponse:
    return PlainTextResponse("hello")


def query(text: str) -> dict[str, bytes]:
    return {"query_string": text.encode()}


# --- the mapping


def test_the_mapping_is_kept_between_requests(run, store):
    client = Client(SessionMiddleware(application(show, put), session_store=store))

    async def scenario():
        assert (await client.get("/show")).body == b"{}"
        assert client.cookie is None
        answer = await client.get("/put", **query("key=a"))
        assert answer.all("set-cookie")[0].endswith("; Path=/; HttpOnly; SameSite=Lax")
        assert (await client.get("/show")).body == b'{"a":1}'
        assert (await client.get("/put", **query("key=b"))).all("set-cookie") == []
        assert (await client.get("/show")).body == b'{"a":1,"b":1}'

    run(scenario)


def test_a_reader_never_gets_its_cookie_deleted(run, store):
    client = Client(SessionMiddleware(application(show), session_store=store), cookie="session=" + "A" * 64)

    async def scenario():
        assert (await client.get("/show")).all("set-cookie") == []
        client.cookie = "session=malformed"
        assert (await client.get("/show")).all("set-cookie") == []

    run(scenario)


def test_clearing_the_mapping_expires_the_cookie_and_ends_the_session(run, store):
    client = Client(SessionMiddleware(application(show, put, forget), session_store=store))

    async def scenario():
        await client.get("/put", **query("key=a"))
        thief = Client(client.app, client.cookie)
        assert "Max-Age=0" in (await client.get("/forget")).all("set-cookie")[0]
        assert (await thief.get("/show")).body == b"{}"

    run(scenario)


def test_autoload_can_be_left_to_the_application(run, store):
    async def lazy(request: Request) -> JSONResponse:
        session = await request.session.load()
        assert request.session is session
        session["n"] = session.get("n", 0) + 1
        return JSONResponse(dict(session))

    client = Client(SessionMiddleware(application(lazy, untouched), session_store=store, autoload=False))

    async def scenario():
        with pytest.raises(AttributeError):
            await client.get("/lazy")
        await Client(client.app).get("/untouched")

    # Without a cookie there is nothing to load: the mapping is there at once.
    run(scenario)

    async def with_cookie():
        putter = Client(SessionMiddleware(application(put), sessions=sessions))
        await putter.get("/put", **query("key=a"))
        client = Client(SessionMiddleware(application(lazy, untouched), sessions=sessions, autoload=False))
        client.cookie = putter.cookie
        assert json.loads((await client.get("/lazy")).body) == {"a": 1, "n": 1}
        only_lazy = SessionMiddleware(
            application(show, lazy), sessions=sessions, autoload=lambda scope: scope["path"] == "/show"
        )
        client.app = only_lazy
        assert json.loads((await client.get("/lazy")).body) == {"a": 1, "n": 2}
        assert json.loads((await client.get("/show")).body) == {"a": 1, "n": 2}

    sessions = Sessions(session_store=store)
    run(with_cookie)


# --- what a cache must know


def test_a_response_varies_on_the_cookie_only_if_the_session_was_touched(run, store):
    def contains(request: Request) -> None:
        assert "a" not in request.scope["session"]

    def length(request: Request) -> None:
        assert len(request.scope["session"]) == 0

    def iterate(request: Request) -> None:
        assert list(request.scope["session"]) == []

    touches: list[Callable[[Request], None]] = [contains, length, iterate]

    async def touch(request: Request) -> PlainTextResponse:
        touches[int(request.query_params["n"])](request)
        return PlainTextResponse("", headers={"Vary": "Accept"})

    client = Client(SessionMiddleware(application(touch, untouched), session_store=store))

    async def scenario():
        assert (await client.get("/untouched")).one("vary") is None
        for number in range(len(touches)):
            assert (await client.get("/touch", **query(f"n={number}"))).one("vary") == "Accept, Cookie"

    run(scenario)


@pytest.mark.parametrize(
    "given,kept",
    [
        (None, "private, no-store"),
        ("public, max-age=3600, s-maxage=60", "private, no-store"),
        ("no-cache, must-revalidate", "private, no-store, no-cache, must-revalidate"),
        ('private="x-y", no-transform', "private, no-store, no-transform"),
    ],
)
def test_a_response_that_sets_the_cookie_is_kept_by_no_cache(given, kept, caplog):
    async def cached(request: Request) -> PlainTextResponse:
        request.session["a"] = 1
        headers = {"CDN-Cache-Control": "max-age=60"} | ({"Cache-Control": given} if given else {})
        return PlainTextResponse("", headers=headers)

    client = Client(SessionMiddleware(application(cached), session_store=MemorySessionStore()))
    answer = asyncio.run(client.get("/cached"))
    assert answer.one("cache-control") == kept
    assert answer.one("cdn-cache-control") is None
    assert "shared caches" in caplog.text


def test_a_response_that_only_reads_keeps_its_cache_control(caplog):
    async def cached(request: Request) -> PlainTextResponse:
        request.session.get("a")
        return PlainTextResponse("", headers={"Cache-Control": "max-age=60"})

    answer = asyncio.run(Client(SessionMiddleware(application(cached), sessions=Sessions())).get("/cached"))
    assert answer.one("cache-control") == "max-age=60"


async def test_headers_that_can_be_iterated_once_are_sent_whole():
    for autoload in (True, False):
        sent = []

        async def app(scope, receive, send):
            assert (b"host", b"shop.example") in scope["headers"]
            headers = ((name, b"1") for name in (b"content-length", b"x-own"))
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            await send({"type": "http.response.body", "body": b"a"})

        async def send(message, sent=sent):
            sent.append(message)

        served = SessionMiddleware(app, session_store="memory:", autoload=autoload)
        scope = scope_of(cookie=f"session={'a' * 64}")
        scope["headers"] = iter([iter(header) for header in scope["headers"]])
        await served(scope, None, send)
        assert {(b"content-length", b"1"), (b"x-own", b"1")} <= {*sent[0]["headers"]}


def test_a_scope_put_in_the_others_place_keeps_its_headers_be_they_an_iterator():
    request = AsgiRequest.of(scope_of())
    scope = {**request.slots, "headers": iter([(b"origin", b"https://shop.example")])}
    request.see(scope)
    assert request.header_values(b"origin") == [b"https://shop.example"]
    assert [*scope["headers"]] == [(b"origin", b"https://shop.example")]


async def test_what_a_layer_between_two_middlewares_puts_in_the_scope_s_place_is_what_the_inner_one_serves():
    seen = []

    async def app(scope, receive, send):
        seen.append(request_of(scope))
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    inner = SessionMiddleware(app, session_store="memory:")

    async def layer(scope, receive, send):
        seen.append(request_of(scope))
        assert not seen[0].is_websocket
        headers = [(b"cookie", b"a=2"), (b"upgrade", b"websocket"), (b"origin", b"http://shop.example")]
        await inner({**scope, "path": "/inner", "headers": [*headers, (b"host", b"shop.example")]}, receive, send)

    async def send(message): ...

    await SessionMiddleware(layer, session_store="memory:")(scope_of(cookie="a=1"), None, send)
    request = seen[1]
    assert request is seen[0]
    assert (request.decoded_path, request.cookie_headers, request.is_websocket) == ("/inner", [b"a=2"], True)


async def test_a_response_that_bears_a_token_is_kept_by_no_cache():
    configure()

    async def form(request: Request) -> PlainTextResponse:
        return PlainTextResponse(await get_csrf_token(), headers={"Cache-Control": "public"})

    client = Client(SessionMiddleware(application(form)))

    await client.get("/form")
    answer = await client.get("/form")
    assert answer.all("set-cookie") == []
    assert answer.one("cache-control") == "private, no-store"


def test_the_cookie_is_set_beside_others_and_never_over_them(run, store):
    async def several(request: Request) -> PlainTextResponse:
        request.session["a"] = 1
        response = PlainTextResponse("")
        response.set_cookie("theme", "dark")
        response.set_cookie("lang", "en")
        return response

    answer = run(
        functools.partial(Client(SessionMiddleware(application(several), session_store=store)).get, "/several")
    )
    assert [one.partition("=")[0] for one in answer.all("set-cookie")] == ["theme", "lang", "session"]


# --- when what is saved


@pytest.mark.parametrize("status", [200, 302, 404, 500])
async def test_what_changed_is_saved_before_the_response_starts_whatever_its_status(status):
    store = MemorySessionStore()

    async def change(request: Request) -> PlainTextResponse:
        request.session["status"] = status
        return PlainTextResponse("", status_code=status)

    client = Client(SessionMiddleware(application(change, show), session_store=store))

    await client.get("/change")
    assert json.loads((await client.get("/show")).body) == {"status": status}


def test_an_application_that_raises_before_the_start_saves_nothing(run, store):
    async def fail(request: Request) -> PlainTextResponse:
        request.session["a"] = 1
        raise ZeroDivisionError

    app = application(fail, show, put)
    # Within Starlette's own answer to errors, which is a response like any other.
    app.add_middleware(SessionMiddleware, session_store=store)
    client = Client(app)

    async def scenario():
        await client.get("/put", **query("key=b"))
        with pytest.raises(ZeroDivisionError):
            await client.get("/fail")
        assert (await client.get("/show")).body == b'{"b":1}'

    run(scenario)


def test_what_a_streamed_body_and_a_background_task_change_is_saved_at_the_end(run, store):
    async def stream(request: Request) -> StreamingResponse:
        session = request.session
        session["before"] = 1

        async def body():
            session["streamed"] = 1
            yield b"x"

        async def later() -> None:
            session["later"] = 1

        return StreamingResponse(body(), background=BackgroundTask(later))

    client = Client(SessionMiddleware(application(stream, show), session_store=store))

    async def scenario():
        await client.get("/stream")
        assert json.loads((await client.get("/show")).body) == {"before": 1, "streamed": 1, "later": 1}

    run(scenario)


def test_a_new_cookie_after_the_start_is_an_error_and_writes_nothing(run, store):
    sessions = Sessions(session_store=store)
    failed: list[Exception] = []

    async def stream(request: Request) -> StreamingResponse:
        async def body():
            yield b"x"
            for write in (
                sessions.set_session_data(request, {"a": 1}),
                sessions.log_in(request, "ada"),
                sessions.get_csrf_token(request),
            ):
                try:
                    await write
                except ResponseStartedError as error:
                    failed.append(error)

        return StreamingResponse(body())

    client = Client(SessionMiddleware(application(stream), sessions=sessions))
    answer = run(functools.partial(client.get, "/stream"))
    assert len(failed) == 3
    assert answer.all("set-cookie") == []


def test_saving_at_once_is_one_call(run, store):
    async def saved(request: Request) -> JSONResponse:
        request.session["a"] = 1
        assert await request.session.save() is True
        return JSONResponse(await sessions.get_session_data(request))

    sessions = Sessions(session_store=store)
    client = Client(SessionMiddleware(application(saved), sessions=sessions))
    answer = run(functools.partial(client.get, "/saved"))
    assert answer.body == b'{"a":1}'
    assert len(answer.all("set-cookie")) == 1


# --- WebSockets


def test_a_websocket_gets_its_cookie_at_accept_and_is_saved_at_accept_and_at_close(run, store):
    async def socket(websocket: StarletteWebSocket) -> None:
        websocket.session["before"] = 1
        await websocket.accept(headers=[(b"x-own", b"1")])
        websocket.session["after"] = 1
        await websocket.close()

    client = Client(SessionMiddleware(application(socket, show), session_store=store))
    socket_client = WebSocket()

    async def scenario():
        await socket_client.connect(client.app, path="/socket")
        accept = socket_client.got[0]
        assert accept["type"] == "websocket.accept"
        headers = dict(accept["headers"])
        assert headers[b"x-own"] == b"1"
        client.cookie = headers[b"set-cookie"].decode().partition(";")[0]
        assert json.loads((await client.get("/show")).body) == {"before": 1, "after": 1}

    run(scenario)


def test_a_websocket_notices_that_its_session_was_ended(run, store):
    sessions = Sessions(session_store=store)
    alive: list[bool] = []

    async def socket(websocket: StarletteWebSocket) -> None:
        await websocket.accept()
        alive.append(await websocket.session.is_alive())
        await other.get("/leave")
        alive.append(await websocket.session.is_alive())
        await websocket.close()

    async def leave(request: Request) -> JSONResponse:
        return JSONResponse(await sessions.destroy_session(request))

    other = Client(SessionMiddleware(application(socket, put, leave), sessions=sessions))

    async def scenario():
        await other.get("/put", **query("key=a"))
        await WebSocket().connect(other.app, other.cookie, "/socket")

    run(scenario)
    assert alive == [True, False]


def test_lifespan_passes_through_untouched():
    seen = []

    async def app(scope, receive, send):
        seen.append(scope)

    asyncio.run(SessionMiddleware(app)({"type": "lifespan"}, None, None))
    assert seen == [{"type": "lifespan"}]


# --- a store that is down


def test_a_store_that_is_down_is_a_503_and_never_an_empty_session(run, caplog):
    store = Watched()
    store.fails = ("get", "look", "set", "merge", "destroy")
    client = Client(SessionMiddleware(application(show, put, untouched), session_store=store))

    async def scenario():
        assert (await client.get("/untouched")).status == 200
        assert (await client.get("/put", **query("key=a"))).status == 503
        client.cookie = "session=" + "A" * 64
        answer = await client.get("/show")
        assert (answer.status, answer.starts) == (503, 1)
        assert answer.one("cache-control") == "no-store"
        socket = WebSocket()
        await socket.connect(client.app, client.cookie, "/show")
        assert [message["type"] for message in socket.got] == ["websocket.close"]
        assert socket.got[0]["code"] == 1013

    run(scenario)
    assert caplog.text.count("answered with 503, for the session store failed: the store is down") == 3


def test_a_503_bears_the_cookie_of_what_was_done_before_the_store_failed(run):
    async def swap(request: Request) -> Response:
        await sessions.renew_session(request, data={"kept": 1})
        store.fails = ("merge",)
        request.session["b"] = 1
        return JSONResponse({})

    store = Watched()
    sessions = Sessions(session_store=store)
    client = Client(SessionMiddleware(application(show, put, swap), sessions))

    async def scenario():
        await client.get("/put", **query("key=a"))
        answer = await client.get("/swap")
        assert (answer.status, answer.one("cache-control")) == (503, "private, no-store")
        store.fails = ()
        assert json.loads((await client.get("/show")).body) == {"a": 1, "kept": 1}

    run(scenario)


def test_a_503_bears_the_cookie_that_a_renewal_which_nobody_answered_has_swapped(run):
    async def enter(request: Request) -> Response:
        store.unanswered = {"merge"}
        request.session["user"] = "ann"
        return JSONResponse({})

    store = Unanswered()
    client = Client(SessionMiddleware(application(show, put, enter), session_store=store))

    async def scenario():
        await client.get("/put", **query("key=a"))
        assert (await client.get("/enter")).status == 503
        assert json.loads((await client.get("/show")).body) == {"a": 1, "user": "ann"}

    run(scenario)


def test_a_store_that_fails_after_the_start_is_raised_for_the_response_is_on_its_way(run):
    async def late(request: Request) -> StreamingResponse:
        async def body():
            yield b"x"
            raise StoreError("down")

        return StreamingResponse(body())

    client = Client(SessionMiddleware(application(late), sessions=Sessions()))

    async def scenario():
        with pytest.raises((StoreError, ExceptionGroup)):
            await client.get("/late")

    run(scenario)


# --- the functions


def test_the_functions_need_no_argument_under_the_middleware(run, store):
    configure(session_store=store)

    async def visit(request: Request) -> JSONResponse:
        assert await set_session_data({"a": 1}) is True
        await update_session_data(lambda data: data.update(a=data["a"] + 1))
        token = await get_csrf_token()
        assert await validate_csrf_token(token) is True
        return JSONResponse(await get_session_data())

    client = Client(SessionMiddleware(application(visit)))
    assert run(functools.partial(client.get, "/visit")).body == b'{"a":2}'


def test_blocking_functions_work_in_a_worker_thread_over_every_store(run, store):
    configure(session_store=store)

    def visit(request: Request) -> JSONResponse:
        sync.set_session_data({"a": 1})
        sync.update_session_data(request, lambda data: data.update(a=data["a"] + 1))
        return JSONResponse(sync.get_session_data(request))

    client = Client(SessionMiddleware(application(visit, show)))

    async def scenario():
        assert (await client.get("/visit")).body == b'{"a":2}'
        assert (await client.get("/show")).body == b'{"a":2}'

    run(scenario)


@pytest.mark.parametrize("kind", ["yielding memory", "file"])
def test_a_blocking_function_that_would_stall_the_loop_is_refused_and_says_what_to_call(run, tmp_path, kind):
    configure(session_store=make_store(kind, tmp_path, Clock()))

    async def visit(request: Request) -> JSONResponse:
        sync.set_session_data(request, {"a": 1})
        raise AssertionError

    client = Client(SessionMiddleware(application(visit)))

    async def scenario():
        with pytest.raises(ColourError, match="await"):
            await client.get("/visit")

    run(scenario)


def test_a_blocking_function_over_an_awaiting_store_and_no_loop_is_refused():
    configure(session_store=YieldingStore(MemorySessionStore()))
    with pytest.raises(ColourError, match="blocking client"):
        sync.get_session_data(scope_of(cookie="session=" + "A" * 64))


def test_the_functions_work_with_request_and_response_and_no_middleware(run, store):
    sessions = Sessions(session_store=store)

    async def visit(request: Request) -> JSONResponse:
        response = JSONResponse({})
        response.set_cookie("theme", "dark")
        await sessions.set_session_data(request, response, {"a": 1})
        await sessions.renew_session(request, response)
        return response

    async def read(request: Request) -> JSONResponse:
        return JSONResponse(await sessions.get_session_data(request))

    client = Client(application(visit, read))

    async def scenario():
        answer = await client.get("/visit")
        assert [one.partition("=")[0] for one in answer.all("set-cookie")] == ["theme", "session"]
        assert answer.one("cache-control") == "private, no-store"
        assert (await client.get("/read")).body == b'{"a":1}'

    run(scenario)


def test_two_applications_with_sessions_of_their_own_do_not_mix(run):
    from server_session import CookieHandler

    inner = Sessions(cookie_handler=CookieHandler("inner"))
    outer = Sessions(cookie_handler=CookieHandler("outer"))

    async def both(request: Request) -> JSONResponse:
        await inner.set_session_data(request, {"of": "inner"})
        await outer.set_session_data(request, {"of": "outer"})
        return JSONResponse([await inner.get_session_data(request), await outer.get_session_data(request)])

    app = SessionMiddleware(SessionMiddleware(application(both), sessions=inner), sessions=outer)
    answer = run(functools.partial(Client(app).get, "/both"))
    assert json.loads(answer.body) == [{"of": "inner"}, {"of": "outer"}]
    assert sorted(one.partition("=")[0] for one in answer.all("set-cookie")) == ["inner", "outer"]
    for name, sessions in (("inner", inner), ("outer", outer)):
        (cookie,) = [one.partition(";")[0] for one in answer.all("set-cookie") if one.startswith(name)]
        assert asyncio.run(sessions.get_session_data(scope_of(cookie=cookie))) == {"of": name}


def test_where_configure_was_not_called_the_functions_serve_the_sessions_of_the_middleware(run):

    async def both(request: Request) -> JSONResponse:
        request.session["a"] = 1
        await set_session_data({"b": 2})
        return JSONResponse(await get_session_data(request))

    client = Client(SessionMiddleware(application(both), max_age=60))
    assert run(functools.partial(client.get, "/both")).body == b'{"b":2,"a":1}'


def test_functions_and_a_middleware_over_different_sessions_are_an_error_and_not_two_sessions(run):
    configure()
    told: list[str] = []

    async def apart(request: Request) -> JSONResponse:
        for given in ((), (request,)):
            with pytest.raises(ConfigurationError, match="configure") as caught:
                await get_session_data(*given)
            told.append(str(caught.value))
        return JSONResponse({})

    run(functools.partial(Client(SessionMiddleware(application(apart), max_age=60)).get, "/apart"))
    assert len(told) == 2


# --- overlapping requests


def gather(count: int, one: Callable[[int], Coroutine[Any, Any, Any]]) -> Coroutine[Any, Any, None]:
    async def all_of_them() -> None:
        await asyncio.gather(*(one(number) for number in range(count)))

    return all_of_them()


@pytest.mark.parametrize("autoload", [True, False])
async def test_of_50_overlapping_requests_no_key_and_no_count_is_lost(store, autoload):
    sessions = configure(session_store=store)

    async def own(request: Request) -> JSONResponse:
        session = request.session if autoload else await request.session.load()
        await asyncio.sleep(0.001)
        session["own" + request.query_params["n"]] = 1
        return JSONResponse({})

    async def blind(request: Request) -> JSONResponse:
        return JSONResponse(await set_session_data({"blind" + request.query_params["n"]: 1}))

    async def count(request: Request) -> JSONResponse:
        return JSONResponse(await update_session_data(lambda data: data.update(count=data.get("count", 0) + 1)))

    client = Client(SessionMiddleware(application(own, blind, count, put, show), autoload=autoload))

    await client.get("/put", **query("key=a"))
    for path in ("/own", "/blind", "/count"):
        await gather(50, lambda n, path=path: client.get(path, **query(f"n={n}")))
    data = await sessions.get_session_data(scope_of(cookie=client.cookie))
    assert data.pop("count") == 50
    assert len(data) == 101


def slow_site(store: SessionStore) -> tuple[SessionMiddleware, asyncio.Event, asyncio.Event]:
    """An application with requests that wait in the middle until they are let go."""
    configure(session_store=store)
    inside, go = asyncio.Event(), asyncio.Event()
    waiting = 0

    async def wait() -> None:
        nonlocal waiting
        waiting += 1
        if waiting == 3:
            inside.set()
        await go.wait()

    async def slow_read(request: Request) -> JSONResponse:
        await wait()
        return JSONResponse(dict(request.session))

    async def slow_write(request: Request) -> JSONResponse:
        await wait()
        request.session["late"] = 1
        return JSONResponse({})

    async def slow_set(request: Request) -> JSONResponse:
        await wait()
        return JSONResponse(await set_session_data({"late": 1}))

    async def leave(request: Request) -> JSONResponse:
        return JSONResponse(await destroy_session())

    async def enter(request: Request) -> JSONResponse:
        return JSONResponse(await log_in("ada", {"user": "ada"}))

    app = application(slow_read, slow_write, slow_set, leave, enter, put, show)
    return SessionMiddleware(app), inside, go


@pytest.mark.parametrize("end", ["/leave", "/enter"])
async def test_a_log_out_or_log_in_that_overlaps_slow_requests_stands(store, end):
    app, inside, go = slow_site(store)
    browser = Client(app)
    await browser.get("/put", **query("key=a"))
    before = browser.cookie
    slow = [Client(app, before) for _ in range(3)]
    paths = ("/slow_read", "/slow_write", "/slow_set")
    tasks = [asyncio.ensure_future(one.get(path)) for one, path in zip(slow, paths, strict=True)]
    await inside.wait()
    await browser.get(end)
    go.set()
    for task in tasks:
        answer = await task
        # In the browser, what comes late is what stays.
        browser.keep(answer)
        assert answer.all("set-cookie") == []
    assert json.loads(tasks[2].result().body) is False
    assert json.loads((await browser.get("/show")).body) == ({} if end == "/leave" else {"user": "ada"})
    assert json.loads((await Client(app, before).get("/show")).body) == {}


async def test_a_browser_that_never_got_the_answer_of_its_first_log_in_logs_in_again(store):
    app, _, _ = slow_site(store)
    browser = Client(app)
    await browser.get("/put", **query("key=a"))
    await Client(app, browser.cookie).get("/enter")
    assert (await browser.get("/enter")).body == b"true"
    assert json.loads((await browser.get("/show")).body) == {"user": "ada"}


# --- settings


def test_a_middleware_takes_either_sessions_or_their_settings():
    with pytest.raises(ConfigurationError, match="not both"):
        SessionMiddleware(application(), sessions=Sessions(), max_age=60)
    with pytest.raises(ConfigurationError, match="Sessions"):
        SessionMiddleware(application(), sessions=MemorySessionStore())  # type: ignore[arg-type]


def test_a_middleware_before_configure_is_a_clear_error():
    with pytest.raises(NotConfiguredError, match="configure"):
        asyncio.run(Client(SessionMiddleware(application(show))).get("/show"))


async def test_an_https_origin_makes_the_cookie_secure_and_gives_it_the_prefix():
    client = Client(SessionMiddleware(application(put, show), origin="https://shop.example"), name="__Host-session")

    answer = await client.get("/put", **query("key=a"))
    assert answer.all("set-cookie")[0].endswith("; Path=/; Secure; HttpOnly; SameSite=Lax")
    assert (await client.get("/show")).body == b'{"a":1}'


def test_a_proxy_that_seems_to_end_tls_is_warned_of_once(caplog):
    client = Client(SessionMiddleware(application(put), sessions=Sessions()))
    headers = [(b"host", b"shop.example"), (b"x-forwarded-proto", b"https")]

    async def scenario():
        for key in "ab":
            answer = await Client(client.app).get("/put", headers=headers, **query(f"key={key}"))
            assert "Secure" not in answer.all("set-cookie")[0]

    with caplog.at_level(logging.WARNING):
        asyncio.run(scenario())
    assert caplog.text.count("end TLS") == 1


# --- what ends badly


def served(*routes: Any) -> tuple[Sessions, SessionMiddleware, str]:
    sessions, response = Sessions(), Response()
    sessions.sync.set_session_data(scope_of(), response, {"a": 1})
    cookie = response.headers["set-cookie"].partition(";")[0]
    return sessions, SessionMiddleware(Starlette(routes=list(routes)), sessions=sessions), cookie


def test_what_a_websocket_changed_is_saved_though_it_ends_by_an_error():
    async def listen(websocket: Any) -> None:
        await websocket.accept()
        while True:
            # As FastAPI's own first example does: the end of the connection is an exception.
            websocket.session["last"] = await websocket.receive_text()

    sessions, app, cookie = served(WebSocketRoute("/", listen))
    client = WebSocket()
    client.sent.append({"type": "websocket.receive", "text": "hello"})
    with pytest.raises(Exception, match="1000"):
        asyncio.run(client.connect(app, cookie))
    assert sessions.sync.get_session_data(scope_of(cookie=cookie)) == {"a": 1, "last": "hello"}


def test_what_a_websocket_changed_is_saved_before_the_visitor_hears_of_its_close():
    seen = []

    async def close(websocket: Any) -> None:
        await websocket.accept()
        websocket.session["b"] = 2
        await websocket.close()
        seen.append(await sessions.get_session_data(scope_of(cookie=cookie)))

    sessions, app, cookie = served(WebSocketRoute("/", close))
    asyncio.run(WebSocket().connect(app, cookie))
    assert seen == [{"a": 1, "b": 2}]


def test_what_a_websocket_changed_before_it_was_turned_away_is_saved():
    async def refuse(websocket: Any) -> None:
        websocket.session["tries"] = 1
        await websocket.close(1008)

    sessions, app, cookie = served(WebSocketRoute("/", refuse))
    asyncio.run(WebSocket().connect(app, cookie))
    assert sessions.sync.get_session_data(scope_of(cookie=cookie)) == {"a": 1, "tries": 1}


def test_a_visitor_without_a_session_is_turned_away_though_something_was_written(caplog):
    async def refuse(websocket: Any) -> None:
        websocket.session["tries"] = 1
        await websocket.close(1008)

    _, app, _ = served(WebSocketRoute("/", refuse))
    client = WebSocket()
    asyncio.run(client.connect(app, None))
    assert [message["type"] for message in client.got] == ["websocket.close"]
    assert "is not stored" in caplog.text


def test_what_a_streamed_body_changed_before_it_broke_is_saved_as_under_wsgi():
    async def stream(request: Request) -> StreamingResponse:
        async def body() -> Any:
            yield b"x"
            request.session["seen"] = 1
            raise LookupError("broken")

        return StreamingResponse(body())

    sessions, app, cookie = served(Route("/", stream))
    with pytest.raises(LookupError):
        asyncio.run(Client(app, cookie).get("/"))
    assert sessions.sync.get_session_data(scope_of(cookie=cookie)) == {"a": 1, "seen": 1}


# --- the watch over open WebSockets


async def open_and_end(
    sessions: Sessions, end: Any, refused_code: int | None = None, **watching: Any
) -> list[dict[str, Any]]:
    """Open a socket, end its session, and send what the visitor's page sends; return what the page got.

    The server refuses to close by a `refused_code`, as Daphne does.
    """
    client = Client(SessionMiddleware(founding(sessions), sessions))
    await client.get()
    got: list[dict[str, Any]] = []
    closed = False

    async def receive() -> dict[str, Any]:
        if not got:
            return {"type": "websocket.connect"}
        await end(client.cookie)
        while not closed:
            await pause(0.001)
        return {"type": "websocket.disconnect", "code": 1008}

    async def send(message: Any) -> None:
        nonlocal closed
        if refused_code is not None and message.get("code") == refused_code:
            raise Exception(f"invalid close code {refused_code}")
        got.append(dict(message))
        closed = message["type"] == "websocket.close"

    async def listen(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        await receive()
        await send({"type": "websocket.send", "text": "a secret, too late"})

    app = SessionMiddleware(listen, sessions, **watching)
    scope = scope_of(cookie=client.cookie, type="websocket", scheme="ws")
    scope["headers"].append((b"origin", b"http://shop.example"))
    await app(scope, receive, send)
    return got


def founding(sessions: Sessions) -> Any:
    async def found(scope: Any, receive: Any, send: Any) -> None:
        await sessions.log_in(scope, "ada")
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    return found


@pytest.mark.parametrize("library", LOOPS)
@pytest.mark.parametrize("how", ["log-out", "log-out everywhere", "renewal"])
def test_a_watched_websocket_is_closed_when_its_session_ends(library, how):
    sessions = Sessions()

    async def end(cookie: str) -> None:
        if how == "log-out everywhere":
            await sessions.destroy_sessions_of("ada")
            return
        exchange = sessions.exchange(AsgiRequest.of(scope_of(cookie=cookie)))
        exchange.serve()
        assert await (exchange.stored.destroy() if how == "log-out" else exchange.stored.renew())

    got = LOOPS[library](lambda: open_and_end(sessions, end, watch=0.005))
    assert [message["type"] for message in got] == ["websocket.accept", "websocket.close"]
    assert got[-1]["code"] == 1008


@pytest.mark.parametrize("library", LOOPS)
def test_a_watched_websocket_is_closed_by_a_server_that_takes_no_code_but_1000(library):
    sessions = Sessions()

    async def end(cookie: str) -> None:
        await sessions.destroy_sessions_of("ada")

    got = LOOPS[library](lambda: open_and_end(sessions, end, refused_code=1008, watch=0.005))
    assert (got[-1]["type"], got[-1]["code"]) == ("websocket.close", 1000)


@pytest.mark.parametrize("library", LOOPS)
def test_a_watched_websocket_whose_store_fails_twice_is_closed_for_now(library):
    store = Watched()
    sessions = Sessions(session_store=store)

    async def end(cookie: str) -> None:
        store.fails = {"look"}

    got = LOOPS[library](lambda: open_and_end(sessions, end, watch=timedelta(milliseconds=5)))
    assert [message["type"] for message in got] == ["websocket.accept", "websocket.close"]
    assert got[-1]["code"] == 1013


@pytest.mark.parametrize("library", LOOPS)
def test_a_watch_whose_first_question_fails_goes_on(library):
    class Failing(Watched):
        looks = 0

        async def get(self, key: str, expect: Any, *arguments: Any, **options: Any) -> Any:
            # Of the session; a log-in may look at its owner's list, too, which is read without an expectation.
            self.looks += bool(expect)
            if expect and self.looks == 1:
                raise StoreError("down")
            return await super().get(key, expect, *arguments, **options)

    store = Failing()
    sessions = Sessions(session_store=store)

    async def end(cookie: str) -> None:
        give_up = time.monotonic() + PATIENCE
        while store.looks < 3:
            assert time.monotonic() < give_up, "nobody asked again"
            await pause(0.001)
        await sessions.destroy_sessions_of("ada")

    got = LOOPS[library](lambda: open_and_end(sessions, end, watch=0.005, autoload=False))
    assert (got[-1]["type"], got[-1].get("code")) == ("websocket.close", 1008)


def open_socket(send: Any) -> _Connection:
    sessions = Sessions()
    scope = scope_of(type="websocket", scheme="ws")
    exchange = sessions.exchange(AsgiRequest.of(scope))
    exchange.serve()
    return _Connection(SessionMiddleware(founding(sessions), sessions), exchange, scope, send)


async def test_a_watch_closes_no_websocket_that_the_application_has_closed():
    sent = []

    async def send(message):
        sent.append(message["type"])

    connection = open_socket(send)
    await connection._start({"type": "websocket.close"})
    await connection.close(1008)
    assert sent == ["websocket.close"]


@pytest.mark.parametrize("gone", [OSError, RuntimeError])
async def test_a_watch_closes_a_websocket_whose_visitor_has_left_without_an_error(gone):
    sent = []

    async def send(message):
        sent.append(message["type"])
        raise gone

    connection = open_socket(send)
    await connection.close(1008)
    await connection._start({"type": "websocket.send", "text": "a secret, too late"})
    assert sent == ["websocket.close"]


def test_a_watch_that_cannot_work_is_refused():
    with pytest.raises(ConfigurationError, match="watch"):
        SessionMiddleware(founding(Sessions()), watch=0)


@pytest.mark.parametrize("library", LOOPS)
def test_a_watch_that_fails_closes_the_socket_and_never_leaves_it_unwatched(library):
    class Broken(Watched):
        async def get(self, *arguments: Any, **options: Any) -> Any:
            if self.fails:
                raise ZeroDivisionError("a driver's own")
            return await super().get(*arguments, **options)

    store = Broken()
    sessions = Sessions(session_store=store)

    async def end(cookie: str) -> None:
        store.fails = {"look"}

    got = LOOPS[library](lambda: open_and_end(sessions, end, watch=0.005))
    assert (got[-1]["type"], got[-1]["code"]) == ("websocket.close", 1013)


@pytest.mark.parametrize("library", LOOPS)
@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_what_a_watched_application_raises_comes_out_as_it_is(library, error):
    async def fail(scope: Any, receive: Any, send: Any) -> None:
        raise error("the application's own")

    async def scenario() -> None:
        scope = scope_of(type="websocket", scheme="ws")
        await SessionMiddleware(fail, Sessions(), watch=1)(scope, None, None)

    with pytest.raises(error, match="the application's own") as raised:
        LOOPS[library](scenario)
    assert type(raised.value) is error


def test_a_callback_that_fails_undoes_nothing(caplog):
    def fail(signal: Any) -> None:
        raise ZeroDivisionError

    sessions = Sessions(on_signal=fail)
    client = Client(SessionMiddleware(founding(sessions), sessions))
    assert asyncio.run(client.get()).status == 200
    assert client.cookie is not None
    assert "on_signal failed" in caplog.text


def test_a_request_that_is_over_is_not_taken_for_the_next_one_of_its_connection():
    sessions = Sessions()
    client = Client(SessionMiddleware(founding(sessions), sessions))
    asyncio.run(client.get())
    begun: list[asyncio.Task[None]] = []

    async def beginning(scope: Any, receive: Any, send: Any) -> None:
        # As a server does it that begins the next of several requests while it ends this one.
        begun.append(asyncio.ensure_future(following()))
        await JSONResponse(await sessions.get_session_data())(scope, receive, send)

    async def following() -> None:
        await asyncio.sleep(0.01)
        with pytest.raises(CarrierError):
            await sessions.get_session_data()

    async def scenario() -> None:
        app = SessionMiddleware(beginning, sessions)
        assert (await Client(app, client.cookie).get()).status == 200
        await begun[0]

    asyncio.run(scenario())


def test_the_plain_dict_of_an_older_starlette_s_own_session_is_not_taken_for_ours(monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "starlette.middleware.sessions", ModuleType("starlette.middleware.sessions"))
    sessions = Sessions()
    client = Client(SessionMiddleware(founding(sessions), sessions))
    asyncio.run(client.get())

    async def with_another(scope: Any, receive: Any, send: Any) -> None:
        scope["session"] = {}
        await PlainTextResponse("seen")(scope, receive, send)

    asyncio.run(Client(SessionMiddleware(with_another, sessions), client.cookie).get())
    assert "another middleware has put a session of its own" in caplog.text
    assert asyncio.run(sessions.is_alive(scope_of(cookie=client.cookie)))

import asyncio
import json
from contextlib import suppress
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse
from starlette.routing import Route

from server_session import (
    MemorySessionStore,
    ResponseStartedError,
    Session,
    SessionNotLoadedError,
    Sessions,
    StoreError,
)
from server_session.starlette import SessionMiddleware, load_session
from tests.asgi_client import Client, call, scope_of
from tests.visitors import Watched


async def count(request: Request) -> JSONResponse:
    session = await load_session(request)
    assert type(session) is Session
    session["count"] = session.get("count", 0) + 1
    return JSONResponse(session)


@pytest.mark.parametrize("autoload", [True, False])
async def test_load_session_gives_the_session_whether_it_was_loaded_or_not(autoload):
    app = Starlette(
        routes=[Route("/", count)],
        middleware=[Middleware(SessionMiddleware, session_store=MemorySessionStore(), autoload=autoload)],
    )
    client = Client(app)

    for number in range(1, 4):
        answer = await client.get("/")
        assert json.loads(answer.body) == {"count": number}
        assert answer.one("vary") == "Cookie"


def test_load_session_without_the_middleware_says_what_to_add():
    with pytest.raises(SessionNotLoadedError, match="SessionMiddleware"):
        asyncio.run(Client(Starlette(routes=[Route("/", count)])).get("/"))


def test_starlette_s_own_users_find_the_marks_that_its_session_has():
    async def mark(request: Request) -> JSONResponse:
        request.session.mark_accessed()
        request.session.mark_modified()
        return JSONResponse([request.session.accessed, request.session.modified])

    app = Starlette(
        routes=[Route("/", mark)], middleware=[Middleware(SessionMiddleware, session_store=MemorySessionStore())]
    )
    answer = asyncio.run(Client(app).get("/"))
    assert json.loads(answer.body) == [True, False]
    assert answer.all("set-cookie") == []


@pytest.mark.parametrize("name", ["set", "log in", "token", "renew", "save"])
async def test_a_handler_of_every_exception_gets_an_error_where_no_cookie_can_arrive(name):
    sessions = Sessions(session_store=Watched())
    functions = {
        "set": lambda request: sessions.set_session_data(request, {"a": 1}),
        "log in": lambda request: sessions.log_in(request, "ann", {"user": "ann"}),
        "token": sessions.get_csrf_token,
        "renew": lambda request: sessions.renew_session(request, data={"a": 1}),
        "save": lambda request: request.session.save(),
    }
    errors = []

    async def fail(request):
        request.session["lost"] = True
        raise ZeroDivisionError

    async def say(request, _error):
        try:
            await functions[name](request)
        except ResponseStartedError as error:
            errors.append(error)
        return PlainTextResponse("failed", 500)

    app = Starlette(
        routes=[Route("/", fail)],
        middleware=[Middleware(SessionMiddleware, sessions=sessions)],
        exception_handlers={Exception: say},
    )
    with pytest.raises(ZeroDivisionError):
        await call(app, scope_of())
    assert len(errors) == 1
    assert sessions.store.calls == []


async def test_a_handler_of_every_exception_can_set_a_cookie_on_the_response_that_it_gives():
    sessions = Sessions(session_store=Watched())

    async def fail(_request):
        raise ZeroDivisionError

    async def say(request, _error):
        response = PlainTextResponse("failed", 500)
        await sessions.set_session_data(request, response, {"a": 1})
        answers.append(response)
        return response

    answers: list = []
    app = Starlette(
        routes=[Route("/", fail)],
        middleware=[Middleware(SessionMiddleware, sessions=sessions)],
        exception_handlers={Exception: say},
    )
    with pytest.raises(ZeroDivisionError):
        await call(app, scope_of())
    assert "session=" in answers[0].headers["set-cookie"]


async def test_a_session_that_cannot_be_stored_is_503_whatever_the_application_makes_of_the_error():
    store = Watched()
    store.fails = ["set"]
    ran: list[str] = []

    async def own_page(request: Request, error: Exception) -> PlainTextResponse:
        return PlainTextResponse("down", 507)

    async def hiding(scope: Any, receive: Any, send: Any) -> None:
        scope["session"]["a"] = 1
        with suppress(StoreError):
            await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.start", "status": 500, "headers": []})
        await send({"type": "http.response.body", "body": b"of the application's"})
        ran.append("hiding")

    # Starlette wraps what its handlers see after it began to send.
    wrapping = Starlette(routes=[Route("/", count)], exception_handlers={StoreError: own_page})
    for app in (wrapping, hiding):
        answer = await call(SessionMiddleware(app, session_store=store), scope_of())
        assert (answer.status, answer.starts) == (503, 1)
        assert answer.body.startswith(b"Sessions are unavailable")
    assert ran == ["hiding"]

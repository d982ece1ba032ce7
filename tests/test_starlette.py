import asyncio
import json

import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from server_session import MemorySessionStore, Session, SessionNotLoadedError
from server_session.starlette import SessionMiddleware, load_session
from tests.asgi_client import Client


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

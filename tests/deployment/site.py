"""An application in two forms, `asgi` and `wsgi`, for servers to serve, over the store that `STORE` names."""

import os
import threading
from typing import Any

from flask import Flask, request
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

import server_session
from server_session import Sessions, _tries, sync
from server_session._colour import Colour, drive
from server_session.flask import ServerSession
from server_session.starlette import SessionMiddleware
from tests.patience import PATIENCE

__all__ = ["asgi", "wsgi"]

# Nothing fails because the machine is slow.
_tries.UPDATE_SECONDS = PATIENCE


def open_store(place: str) -> Any:
    if place.startswith("redis"):
        from server_session.stores.redis import RedisSessionStore

        return RedisSessionStore(place, timeout=PATIENCE)
    from server_session.stores.sql import SQLSessionStore

    return SQLSessionStore(place, create_table=True, timeout=PATIENCE)


store = open_store(os.environ["STORE"])
if os.environ.get("IS_USED_AT_ONCE"):
    # As an application that warms up, or looks whether its store is there, before its server forks.
    assert store.colour is not Colour.AWAITS
    drive(store.get(store.id(), {}))

sessions = Sessions(session_store=store)
wsgi = Flask(__name__)
ServerSession(wsgi, sessions)


def add_one(data: dict[str, Any]) -> None:
    data["count"] = data.get("count", 0) + 1


def told(data: dict[str, Any], token: str) -> dict[str, Any]:
    return {**data, "token": token, "process": os.getpid(), "thread": threading.get_ident()}


@wsgi.get("/")
def look() -> Any:
    return told(sync.get_session_data(), sync.get_csrf_token())


@wsgi.post("/log-in")
def log_in() -> Any:
    sync.log_in("ada", {"user": "ada"})
    return {}


@wsgi.post("/add")
def add() -> Any:
    sync.update_session_data(add_one)
    return {"length": len(request.form)}


@wsgi.post("/log-out")
def log_out() -> Any:
    return {"was": sync.destroy_session()}


async def awaited_look(_: Request) -> JSONResponse:
    return JSONResponse(told(await server_session.get_session_data(), await server_session.get_csrf_token()))


async def awaited_log_in(_: Request) -> JSONResponse:
    await server_session.log_in("ada", {"user": "ada"})
    return JSONResponse({})


async def awaited_add(request: Request) -> JSONResponse:
    await server_session.update_session_data(add_one)
    return JSONResponse({"length": len(await request.form())})


async def awaited_log_out(_: Request) -> JSONResponse:
    return JSONResponse({"was": await server_session.destroy_session()})


asgi = Starlette(
    routes=[
        Route("/", awaited_look),
        Route("/log-in", awaited_log_in, methods=["POST"]),
        Route("/add", awaited_add, methods=["POST"]),
        Route("/log-out", awaited_log_out, methods=["POST"]),
    ]
)
asgi.add_middleware(SessionMiddleware, sessions=sessions)

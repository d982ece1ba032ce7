"""The applications of the soak: `uvicorn --factory bench.soaked:starlette`, `gunicorn 'bench.soaked:flask()'`.

`SOAK_PLACE` is where their sessions are, and `SOAK_IDLE` for how many seconds one lives that nobody uses.
"""

import inspect
import os
from collections.abc import Callable
from typing import Any, Final

from server_session import Sessions


def add_one(data: dict[str, Any]) -> None:
    data["count"] += 1


def assign(_: Any, mapping: Any, value: str) -> bool:
    mapping["flash"] = value
    return True


# What a page does with the functions, of either colour, and with the framework's own mapping.
ACTIONS: Final[dict[str, Callable[[Any, Any, str], Any]]] = {
    "log-in": lambda call, _, name: call.log_in(name, {"me": name, "count": 0}),
    "read": lambda call, *_: call.get_session_data(),
    "token": lambda call, *_: call.get_csrf_token(),
    "add": lambda call, *_: call.update_session_data(add_one),
    "set": lambda call, _, value: call.set_session_data({"flash": value}),
    "assign": assign,
    "pluck": lambda call, _, name: call.pluck_session_property(name),
    "renew": lambda call, *_: call.renew_session(),
    "log-out": lambda call, *_: call.destroy_session(),
    "everywhere": lambda call, _, name: call.destroy_sessions_of(name),
}
SAFE: Final = ("read", "token")


def starlette() -> Any:
    """Return the ASGI application."""
    from starlette.applications import Starlette
    from starlette.middleware import Middleware
    from starlette.requests import Request
    from starlette.responses import JSONResponse
    from starlette.routing import Route

    from server_session.starlette import SessionMiddleware

    sessions = opened()

    async def page(request: Request) -> JSONResponse:
        value: str = request.path_params["value"]
        answer = ACTIONS[request.path_params["action"]](sessions, request.session, value)
        return JSONResponse(await answer if inspect.isawaitable(answer) else answer)

    routes = [Route("/{action}/{value}", page, methods=["GET", "POST"])]
    return Starlette(routes=routes, middleware=[Middleware(SessionMiddleware, sessions)])


def flask() -> Any:
    """Return the WSGI application."""
    from flask import Flask, Response, jsonify, session

    from server_session.flask import ServerSession

    sessions, app = opened(), Flask(__name__)
    ServerSession(app, sessions)

    @app.route("/<action>/<value>", methods=["GET", "POST"])
    def page(action: str, value: str) -> Response:
        return jsonify(ACTIONS[action](sessions.sync, session, value))

    return app


def opened() -> Sessions:
    """Return the sessions of this process."""
    return Sessions(session_store=os.environ["SOAK_PLACE"], max_age=float(os.environ["SOAK_IDLE"]))

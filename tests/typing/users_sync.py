"""What a user of the blocking functions writes, for type checkers to read; nobody runs it."""

# A wrong use is marked as one; a mark that either checker does not need is an error.
# pyright: strict, reportUnnecessaryTypeIgnoreComment=true

import dataclasses
from datetime import datetime, timedelta
from typing import Any, TypedDict, assert_type

from django.http import HttpRequest, HttpResponse
from flask import Request, Response

from server_session import Health, MemorySessionStore, OwnedSession, Sessions
from server_session.sync import (
    OpenedSession,
    configure,
    destroy_session,
    destroy_sessions_of,
    get_csrf_token,
    get_session_data,
    health,
    is_alive,
    log_in,
    open_session,
    pluck_session_property,
    renew_session,
    replace_session_data,
    require_fresh,
    sessions_of,
    set_session_data,
    update_session_data,
    update_sessions_of,
    validate_csrf_token,
)
from server_session.wsgi import SessionMiddleware


class Cart(TypedDict):
    items: list[int]


@dataclasses.dataclass
class Profile:
    name: str


class Context:
    def __init__(self, request: Request, response: Response) -> None:
        self.request = request
        self.response = response


def add(data: dict[str, Any]) -> None:
    data["count"] = data.get("count", 0) + 1


def reading(request: Request, response: Response, context: Context) -> None:
    assert_type(get_session_data(), dict[str, Any])
    assert_type(get_session_data(request), dict[str, Any])
    assert_type(get_session_data(request, response), dict[str, Any])
    assert_type(get_session_data(context), dict[str, Any])
    assert_type(get_session_data(as_type=Cart), Cart)
    assert_type(get_session_data(request, touch=False), dict[str, Any])
    assert_type(get_session_data(touch=False, as_type=Cart), Cart)
    assert_type(is_alive(), bool)
    assert_type(is_alive(request, response), bool)
    assert_type(get_session_data(request, as_type=Profile), Profile)
    assert_type(get_session_data(request, response, as_type=Profile), Profile)
    assert_type(get_session_data(request).get("user"), Any | None)


def writing(request: Request, response: Response, context: Context) -> None:
    cart: Cart = {"items": [1]}
    assert_type(set_session_data({"a": 1}), bool)
    assert_type(set_session_data(request, {"a": 1}), bool)
    assert_type(set_session_data(request, response, {"a": [1], "b": None}), bool)
    assert_type(set_session_data(context, cart), bool)
    assert_type(update_session_data(add), bool)
    assert_type(update_session_data(request, add), bool)
    assert_type(update_session_data(request, response, add), bool)
    assert_type(update_session_data(request, lambda data: data.update(a=1)), bool)
    assert_type(replace_session_data({"a": 1}), bool)
    assert_type(replace_session_data(request, {"a": 1}), bool)
    assert_type(replace_session_data(request, response, {"a": 1}), bool)
    assert_type(replace_session_data(request, cart, in_place=True), bool)
    assert_type(log_in("ada"), bool)
    assert_type(log_in("ada", {"a": 1}), bool)
    assert_type(log_in(request, "ada"), bool)
    assert_type(log_in(request, "ada", {"a": 1}), bool)
    assert_type(log_in(request, response, "ada"), bool)
    assert_type(log_in(request, response, "ada", {"a": 1}), bool)


def plucking(request: Request, response: Response) -> None:
    assert_type(pluck_session_property("flash"), Any)
    assert_type(pluck_session_property(request, "flash"), Any)
    assert_type(pluck_session_property(request, response, "flash"), Any)
    assert_type(pluck_session_property("flash", as_type=str), str | None)
    assert_type(pluck_session_property(request, "cart", as_type=Cart), Cart | None)
    assert_type(pluck_session_property(request, response, "me", as_type=Profile), Profile | None)


def ending_and_renewing(request: Request, response: Response, context: Context) -> None:
    assert_type(destroy_session(), bool)
    assert_type(destroy_session(request), bool)
    assert_type(destroy_session(request, response), bool)
    assert_type(renew_session(), bool)
    assert_type(renew_session(context), bool)
    assert_type(renew_session(request, response, data={"user": "ada"}), bool)
    assert_type(renew_session(request, max_age=timedelta(days=30), persistent=True), bool)
    assert_type(renew_session(request, response, absolute_max_age=86400, authenticated=True), bool)
    require_fresh(300)
    require_fresh(request, timedelta(minutes=5))
    require_fresh(request, response, 300.5)
    require_fresh(context, 300)


def tokens(request: Request, response: Response) -> None:
    assert_type(get_csrf_token(), str)
    assert_type(get_csrf_token(request, response), str)
    assert_type(get_csrf_token(request, scope=("POST", "/transfer")), str)
    assert_type(validate_csrf_token("token"), bool)
    assert_type(validate_csrf_token(request, request.headers.get("x-csrf-token")), bool)
    assert_type(validate_csrf_token(request, request.get_json()["token"]), bool)
    assert_type(validate_csrf_token(request, response, None, scope=("POST", "/transfer")), bool)


def owners(request: Request) -> None:
    sessions = sessions_of("ada", current=request)
    assert_type(sessions, list[OwnedSession])
    assert_type(sessions[0].id, str)
    assert_type(sessions[0].created, datetime)
    assert_type(sessions[0].last_seen, datetime)
    assert_type(sessions[0].is_current, bool)
    assert_type(health(), Health)
    assert_type(destroy_sessions_of("ada"), int)
    assert_type(destroy_sessions_of("ada", except_current=True), int)
    assert_type(destroy_sessions_of("ada", except_current=request, only=sessions[0].id), int)
    assert_type((sessions_of("ada", data=True))[0].data, dict[str, Any] | None)
    assert_type(update_sessions_of("ada", add), int)
    assert_type(update_sessions_of("ada", lambda data: data.update(role="editor")), int)


def sessions_without_a_request(session_id: str) -> None:
    opened = open_session(session_id)
    assert_type(opened, OpenedSession)
    assert_type(Sessions().sync.open(session_id), OpenedSession)
    assert_type(opened.get(), dict[str, Any])
    assert_type(opened.set({"a": 1}), bool)
    assert_type(opened.update(add), bool)
    assert_type(opened.pluck("flash"), Any)
    assert_type(opened.destroy(), bool)
    opened.set([1])  # type: ignore[arg-type]
    opened.get("user")  # type: ignore[call-arg]
    open_session(7)  # type: ignore[arg-type]


def settings_and_middlewares() -> None:
    assert_type(configure(max_age=600), Sessions)
    configure(max_age="600")  # type: ignore[arg-type]

    def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        start_response("200 OK", [])
        return [b""]

    SessionMiddleware(application)
    SessionMiddleware(application, max_age=600)
    SessionMiddleware(application, sessions=Sessions(session_store=MemorySessionStore()))
    SessionMiddleware(application, sessions=MemorySessionStore())  # type: ignore[arg-type]


def django_s_requests(request: HttpRequest, response: HttpResponse) -> None:
    assert_type(get_session_data(request), dict[str, Any])
    assert_type(get_session_data(request, as_type=Cart), Cart)
    assert_type(set_session_data(request, response, {"a": 1}), bool)
    assert_type(log_in(request, response, "ada"), bool)


def sessions_of_one_s_own(request: Request, response: Response) -> None:
    blocking = Sessions().sync
    assert_type(blocking.get_session_data(request, as_type=Cart), Cart)
    assert_type(blocking.update_session_data(request, response, add), bool)
    assert_type(blocking.log_in(request, response, "ada", {"a": 1}), bool)
    assert_type(blocking.sessions_of("ada"), list[OwnedSession])


def wrong_calls(request: Request, response: Response) -> None:
    print(get_session_data(request).user)  # type: ignore[attr-defined]
    get_session_data(request, as_type="Cart")  # type: ignore[call-overload]
    set_session_data()  # type: ignore[call-overload]
    set_session_data(response)  # type: ignore[call-overload]
    set_session_data(request, [("a", 1)])  # type: ignore[call-overload]
    set_session_data(request, data={"a": 1})  # type: ignore[call-overload]
    update_session_data(request, {"a": 1})  # type: ignore[call-overload]
    update_session_data(request, lambda: None)  # type: ignore[misc, arg-type]
    replace_session_data(request, {"a": 1}, True)  # type: ignore[call-overload]
    log_in(request, 7)  # type: ignore[call-overload]
    log_in(request, response, {"user": "ada"})  # type: ignore[call-overload]
    pluck_session_property(request, b"flash")  # type: ignore[call-overload]
    renew_session(request, data=[1])  # type: ignore[arg-type]
    renew_session(request, max_age="30 days")  # type: ignore[arg-type]
    renew_session(request, persistent="yes")  # type: ignore[arg-type]
    require_fresh()  # type: ignore[call-overload]
    require_fresh(request, "5 minutes")  # type: ignore[call-overload]
    get_csrf_token(request, scope="POST")  # type: ignore[arg-type]
    validate_csrf_token()  # type: ignore[call-overload]
    sessions_of(7)  # type: ignore[arg-type]
    destroy_sessions_of("ada", True)  # type: ignore[call-arg]
    name: str = get_session_data(request, as_type=Profile)  # type: ignore[assignment]
    print(name)

"""What a user of the awaitable functions writes, for type checkers to read; nobody runs it."""

# A wrong use is marked as one; a mark that either checker does not need is an error.
# pyright: strict, reportUnnecessaryTypeIgnoreComment=true

import dataclasses
from datetime import datetime, timedelta
from typing import Any, TypedDict, assert_type

from starlette.requests import Request
from starlette.responses import Response

from server_session import (
    CookieHandler,
    CookieTransport,
    FileSessionStore,
    Health,
    MemorySessionStore,
    OpenedSession,
    OwnedSession,
    Session,
    Sessions,
    SessionStore,
    Signal,
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
from server_session.asgi import SessionMiddleware


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


def note(signal: Signal) -> None:
    print(signal.event, signal.session)


async def settings(store: SessionStore, handler: CookieTransport) -> None:
    assert_type(configure(), Sessions)
    configure(max_age=600)
    configure(max_age=timedelta(minutes=10), absolute_max_age=None)
    configure(session_store="redis://127.0.0.1:6379/0", origin="https://shop.example")
    configure(session_store=MemorySessionStore(max_age=600), cookie_handler=CookieHandler("sId", path="/basedir"))
    configure(session_store=FileSessionStore("sessions"), origin=["https://shop.example", "https://shop.example.org"])
    configure(session_store=store, cookie_handler=handler, renew_on=("account",), on_signal=note)
    Sessions(session_store=None, cookie_handler=None, max_age=None, origin=None, on_signal=None)


async def wrong_settings() -> None:
    configure(max_age="600")  # type: ignore[arg-type]
    configure(maxage=600)  # type: ignore[call-arg]
    configure(session_store=MemorySessionStore)  # type: ignore[arg-type]
    configure(cookie_handler="sid")  # type: ignore[arg-type]
    Sessions(origin=5)  # type: ignore[arg-type]
    CookieHandler(same_site=None)  # type: ignore[arg-type]
    CookieHandler(httponly=True)  # type: ignore[arg-type]


async def reading(request: Request, response: Response, context: Context) -> None:
    assert_type(await get_session_data(), dict[str, Any])
    assert_type(await get_session_data(request), dict[str, Any])
    assert_type(await get_session_data(request, response), dict[str, Any])
    assert_type(await get_session_data(context), dict[str, Any])
    assert_type(await get_session_data(as_type=Cart), Cart)
    assert_type(await get_session_data(request, touch=False), dict[str, Any])
    assert_type(await get_session_data(touch=False, as_type=Cart), Cart)
    assert_type(await is_alive(), bool)
    assert_type(await is_alive(request, response), bool)
    assert_type(await get_session_data(request, as_type=Profile), Profile)
    assert_type(await get_session_data(request, response, as_type=Profile), Profile)
    assert_type((await get_session_data(request)).get("user"), Any | None)


async def writing(request: Request, response: Response, context: Context) -> None:
    cart: Cart = {"items": [1]}
    assert_type(await set_session_data({"a": 1}), bool)
    assert_type(await set_session_data(request, {"a": 1}), bool)
    assert_type(await set_session_data(request, response, {"a": [1], "b": None}), bool)
    assert_type(await set_session_data(context, cart), bool)
    assert_type(await update_session_data(add), bool)
    assert_type(await update_session_data(request, add), bool)
    assert_type(await update_session_data(request, response, add), bool)
    assert_type(await update_session_data(request, lambda data: data.update(a=1)), bool)
    assert_type(await replace_session_data({"a": 1}), bool)
    assert_type(await replace_session_data(request, {"a": 1}), bool)
    assert_type(await replace_session_data(request, response, {"a": 1}), bool)
    assert_type(await replace_session_data(request, cart, in_place=True), bool)
    assert_type(await log_in("ada"), bool)
    assert_type(await log_in("ada", {"a": 1}), bool)
    assert_type(await log_in(request, "ada"), bool)
    assert_type(await log_in(request, "ada", {"a": 1}), bool)
    assert_type(await log_in(request, response, "ada"), bool)
    assert_type(await log_in(request, response, "ada", {"a": 1}), bool)


async def plucking(request: Request, response: Response) -> None:
    assert_type(await pluck_session_property("flash"), Any)
    assert_type(await pluck_session_property(request, "flash"), Any)
    assert_type(await pluck_session_property(request, response, "flash"), Any)
    assert_type(await pluck_session_property("flash", as_type=str), str | None)
    assert_type(await pluck_session_property(request, "cart", as_type=Cart), Cart | None)
    assert_type(await pluck_session_property(request, response, "me", as_type=Profile), Profile | None)


async def ending_and_renewing(request: Request, response: Response, context: Context) -> None:
    assert_type(await destroy_session(), bool)
    assert_type(await destroy_session(request), bool)
    assert_type(await destroy_session(request, response), bool)
    assert_type(await renew_session(), bool)
    assert_type(await renew_session(context), bool)
    assert_type(await renew_session(request, response, data={"user": "ada"}), bool)
    assert_type(await renew_session(request, max_age=timedelta(days=30), persistent=True), bool)
    assert_type(await renew_session(request, response, absolute_max_age=86400, authenticated=True), bool)
    await require_fresh(300)
    await require_fresh(request, timedelta(minutes=5))
    await require_fresh(request, response, 300.5)
    await require_fresh(context, 300)


async def tokens(request: Request, response: Response) -> None:
    assert_type(await get_csrf_token(), str)
    assert_type(await get_csrf_token(request, response), str)
    assert_type(await get_csrf_token(request, scope=("POST", "/transfer")), str)
    assert_type(await validate_csrf_token("token"), bool)
    assert_type(await validate_csrf_token(request, request.headers.get("x-csrf-token")), bool)
    assert_type(await validate_csrf_token(request, (await request.json())["token"]), bool)
    assert_type(await validate_csrf_token(request, response, None, scope=("POST", "/transfer")), bool)


async def owners(request: Request) -> None:
    sessions = await sessions_of("ada", current=request)
    assert_type(sessions, list[OwnedSession])
    assert_type(sessions[0].id, str)
    assert_type(sessions[0].created, datetime)
    assert_type(sessions[0].last_seen, datetime)
    assert_type(sessions[0].is_current, bool)
    assert_type(await health(), Health)
    assert_type(await destroy_sessions_of("ada"), int)
    assert_type(await destroy_sessions_of("ada", except_current=True), int)
    assert_type(await destroy_sessions_of("ada", except_current=request, only=sessions[0].id), int)
    assert_type((await sessions_of("ada", data=True))[0].data, dict[str, Any] | None)
    assert_type(await update_sessions_of("ada", add), int)
    assert_type(await update_sessions_of("ada", lambda data: data.update(role="editor")), int)


async def sessions_without_a_request(session_id: str) -> None:
    opened = open_session(session_id)
    assert_type(opened, OpenedSession)
    assert_type(Sessions().open(session_id), OpenedSession)
    assert_type(await opened.get(), dict[str, Any])
    assert_type(await opened.set({"a": 1}), bool)
    assert_type(await opened.update(add), bool)
    assert_type(await opened.pluck("flash"), Any)
    assert_type(await opened.destroy(), bool)
    await opened.set([1])  # type: ignore[arg-type]
    await opened.get("user")  # type: ignore[call-arg]
    open_session(7)  # type: ignore[arg-type]


async def sessions_of_one_s_own(request: Request, response: Response) -> None:
    sessions = Sessions(session_store=MemorySessionStore())
    assert_type(await sessions.get_session_data(request, as_type=Cart), Cart)
    assert_type(await sessions.set_session_data(request, response, {"a": 1}), bool)
    assert_type(await sessions.log_in(request, response, "ada", {"a": 1}), bool)
    assert_type(sessions.sync.get_session_data(request, as_type=Cart), Cart)
    assert_type(sessions.sync.set_session_data(request, response, {"a": 1}), bool)
    SessionMiddleware(None, sessions=sessions, autoload=lambda scope: scope["type"] == "http")  # type: ignore[arg-type]


async def the_mapping(session: Session) -> None:
    assert_type(session["user"], Any)
    assert_type(session.get("user"), Any)
    assert_type(session.pop("user"), Any)
    assert_type(session.setdefault("cart", []), Any)
    assert_type(session | {"a": 1}, dict[str, Any])
    assert_type(session.copy(), dict[str, Any])
    session |= {"a": 1}
    assert_type(session, Session)
    session.update({"a": 1}, b=2)
    assert_type(await session.save(), bool)
    assert_type(await session.is_alive(), bool)
    plain: dict[str, Any] = session
    print(plain)


async def wrong_calls(request: Request, response: Response) -> None:
    get_session_data(request)["user"]  # type: ignore[index]
    await get_session_data(request, as_type="Cart")  # type: ignore[call-overload]
    await set_session_data()  # type: ignore[call-overload]
    await set_session_data(response)  # type: ignore[call-overload]
    await set_session_data(request, [("a", 1)])  # type: ignore[call-overload]
    await set_session_data(request, data={"a": 1})  # type: ignore[call-overload]
    await update_session_data(request, {"a": 1})  # type: ignore[call-overload]
    await update_session_data(request, lambda: None)  # type: ignore[misc, arg-type]
    await replace_session_data(request, {"a": 1}, True)  # type: ignore[call-overload]
    await log_in(request, 7)  # type: ignore[call-overload]
    await log_in(request, response, {"user": "ada"})  # type: ignore[call-overload]
    await pluck_session_property(request, b"flash")  # type: ignore[call-overload]
    await renew_session(request, data=[1])  # type: ignore[arg-type]
    await renew_session(request, max_age="30 days")  # type: ignore[arg-type]
    await renew_session(request, persistent="yes")  # type: ignore[arg-type]
    await require_fresh()  # type: ignore[call-overload]
    await require_fresh(request, "5 minutes")  # type: ignore[call-overload]
    await get_csrf_token(request, scope="POST")  # type: ignore[arg-type]
    await validate_csrf_token()  # type: ignore[call-overload]
    await sessions_of(7)  # type: ignore[arg-type]
    await destroy_sessions_of("ada", True)  # type: ignore[call-arg]
    name: str = await get_session_data(request, as_type=Profile)  # type: ignore[arg-type]
    print(name)

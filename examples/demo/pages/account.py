"""Log-in, log-out, and the account: whatever changes what a visitor may do changes the cookie."""

import hmac
from typing import Annotated

from fastapi import APIRouter, Request, Response
from fastapi import Form as Field

from examples.demo.view import go_to, render
from examples.demo.visitor import Form, cookie_digest, visitor_of
from server_session import (
    ConfigurationError,
    OwnedSession,
    destroy_session,
    destroy_sessions_of,
    log_in,
    pluck_session_property,
    renew_session,
    replace_session_data,
    sessions_of,
    set_session_data,
)

# One for all, shown on the page: this shop has nothing to guard.
PASSWORD = "oolong"

router = APIRouter()


@router.get("/log-in")
async def ask_name(request: Request) -> Response:
    form = await pluck_session_property(request, "log_in_form", as_type=Form)
    return await render(request, "log-in.html", with_forms=True, password=PASSWORD, form=form)


@router.post("/log-in")
async def enter(
    request: Request, name: Annotated[str, Field()] = "", password: Annotated[str, Field()] = ""
) -> Response:
    name = name.strip()[:40]
    errors = {} if name else {"name": "Please tell us a name; any will do."}
    if not is_password(password):
        errors["password"] = "That is not the password."
    if errors:
        await set_session_data(request, {"log_in_form": Form(fields={"name": name}, errors=errors)})
        return go_to("/log-in")
    visitor = await visitor_of(request)
    # A log-in keeps nothing of before but what is taken along.
    kept = {key: value for key, value in visitor.items() if key in ("cart", "wishes", "referral")}
    await found_session(request, name, {**kept, "user": name, "before": cookie_digest(request) or "none"})
    return go_to("/account")


@router.post("/log-out")
async def leave(request: Request) -> Response:
    await destroy_session(request)
    # After one's own log-out a further write founds a new session: nobody's, with a good-bye in it.
    await set_session_data(request, {"notice": "You are logged out. Good-bye!"})
    return go_to("/")


@router.get("/account")
async def account(request: Request) -> Response:
    visitor = await visitor_of(request)
    if "user" not in visitor:
        return go_to("/log-in")
    error = await pluck_session_property(request, "unlock_error", as_type=str)
    devices = await devices_of(request, visitor["user"])
    return await render(request, "account.html", error=error, password=PASSWORD, devices=devices)


@router.post("/account/unlock")
async def unlock(request: Request, password: Annotated[str, Field()] = "") -> Response:
    if not is_password(password):
        await set_session_data(request, {"unlock_error": "That is not the password."})
    else:
        # Whoever has seen the cookie of before must not have what it opens now.
        await renew_session(request, data={"unlocked": True, "before": cookie_digest(request)})
    return go_to("/account")


@router.post("/account/devices/end")
async def end_device(request: Request, device: Annotated[str, Field()]) -> Response:
    if user := (await visitor_of(request)).get("user"):
        await destroy_sessions_of(user, only=device)
    return go_to("/account")


@router.post("/account/devices/end-others")
async def end_other_devices(request: Request) -> Response:
    if user := (await visitor_of(request)).get("user"):
        ended = await destroy_sessions_of(user, except_current=request)
        await set_session_data(request, {"notice": f"Logged out on {ended} other device{'' if ended == 1 else 's'}."})
    return go_to("/account")


def is_password(given: str) -> bool:
    return hmac.compare_digest(given.encode(), PASSWORD.encode())


async def found_session(request: Request, user: str, data: dict[str, object]) -> None:
    try:
        await log_in(request, user, data)
    except ConfigurationError:
        # A store that may drop what it holds keeps no list of a user's sessions.
        await replace_session_data(request, data)


async def devices_of(request: Request, user: str) -> list[OwnedSession] | None:
    try:
        return await sessions_of(user, current=request)
    except ConfigurationError:
        return None

"""Log-in, log-out, and the account: whatever changes what a visitor may do changes the cookie."""

import hmac
from datetime import timedelta
from typing import Annotated

from fastapi import APIRouter, Request, Response
from fastapi import Form as Field

from examples.demo.view import go_to, render
from examples.demo.visitor import Form, cookie_digest, visitor_of
from server_session import (
    ConfigurationError,
    csrf_protect,
    destroy_session,
    log_in,
    pluck_session_property,
    renew_session,
    replace_session_data,
    set_session_data,
)

# One for all, shown on the page: this shop has nothing to guard.
PASSWORD = "oolong"

KEPT = timedelta(days=30)

router = APIRouter()


@router.get("/log-in")
async def ask_name(request: Request) -> Response:
    form = await pluck_session_property(request, "log_in_form", as_type=Form)
    return await render(request, "log-in.html", with_forms=True, password=PASSWORD, form=form)


@router.post("/log-in")
@csrf_protect(anonymous=True)
async def enter(
    request: Request,
    name: Annotated[str, Field()] = "",
    password: Annotated[str, Field()] = "",
    keep: Annotated[str, Field()] = "",
    csrf_token: Annotated[str, Field(max_length=100)] = "",
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
    before = cookie_digest(request) or "none"
    # By the last the owner will know this device.
    new = {
        "user": name,
        "before": before,
        "old_token": csrf_token,
        "device": request.headers.get("user-agent", "")[:256],
    }
    await found_session(request, name, {**kept, **new})
    if keep:
        await renew_session(request, max_age=KEPT, persistent=True)
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
    return await render(request, "account.html", error=error, password=PASSWORD)


@router.post("/account/unlock")
async def unlock(request: Request, password: Annotated[str, Field()] = "") -> Response:
    if not is_password(password):
        await set_session_data(request, {"unlock_error": "That is not the password."})
    else:
        # Whoever has seen the cookie of before must not have what it opens now.
        await renew_session(request, data={"unlocked": True, "before": cookie_digest(request)})
    return go_to("/account")


def is_password(given: str) -> bool:
    return hmac.compare_digest(given.encode(), PASSWORD.encode())


async def found_session(request: Request, user: str, data: dict[str, object]) -> None:
    try:
        await log_in(request, user, data)
    except ConfigurationError:
        # A store that may drop what it holds keeps no list of a user's sessions.
        await replace_session_data(request, data)

"""Where a person is logged in: to see it, and to end it, which takes a log-in that is fresh or the password again."""

from datetime import timedelta
from typing import Annotated
from urllib.parse import urlencode

from fastapi import APIRouter, Request, Response, WebSocket, status
from fastapi import Form as Field

from examples.demo.pages.account import PASSWORD, is_password
from examples.demo.view import go_to, render
from examples.demo.visitor import cookie_digest, visitor_of
from server_session import (
    ConfigurationError,
    NotFreshError,
    OwnedSession,
    destroy_session,
    destroy_sessions_of,
    pluck_session_property,
    renew_session,
    require_fresh,
    sessions_of,
    set_session_data,
)

FRESH = timedelta(minutes=5)

router = APIRouter(prefix="/devices")


@router.get("")
async def show(request: Request) -> Response:
    user = (await visitor_of(request)).get("user")
    if user is None:
        return go_to("/log-in")
    return await render(request, "devices.html", devices=await devices_of(request, user))


@router.post("/end")
async def end(
    request: Request, device: Annotated[str, Field()], password: Annotated[str | None, Field()] = None
) -> Response:
    """End one device by its id, the `others`, or all of them: `everywhere`."""
    user = (await visitor_of(request)).get("user")
    if user is None:
        return go_to("/log-in")
    ask = go_to(f"/devices/password?{urlencode({'device': device})}")
    if password is not None:
        if not is_password(password):
            await set_session_data(request, {"password_error": "That is not the password."})
            return ask
        await renew_session(request, data={"before": cookie_digest(request)}, authenticated=True)
    try:
        # Who finds the browser open must not be able to shut its owner out everywhere else.
        await require_fresh(request, FRESH)
    except NotFreshError:
        return ask
    return go_to(await end_sessions(request, user, device))


@router.get("/password")
async def ask_password(request: Request, device: str) -> Response:
    if "user" not in await visitor_of(request):
        return go_to("/log-in")
    error = await pluck_session_property(request, "password_error", as_type=str)
    return await render(request, "password.html", device=device, error=error, password=PASSWORD)


@router.websocket("/live")
async def live(socket: WebSocket) -> None:
    """Stay open for as long as the session lives: the middleware closes it when that has ended."""
    user = (await visitor_of(socket)).get("user")
    if user is None:
        await socket.close(status.WS_1008_POLICY_VIOLATION)
        return
    await socket.accept()
    await socket.send_json({"user": user})
    async for _ in socket.iter_text():
        pass


async def end_sessions(request: Request, user: str, device: str) -> str:
    """End them, and return the page to go on with."""
    if device not in ("others", "everywhere"):
        ended = await destroy_sessions_of(user, only=device)
        told = "That device is logged out." if ended else "That device was logged out already."
    else:
        ended = await destroy_sessions_of(user, except_current=request)
        told = f"Logged out on {ended} other device{'' if ended == 1 else 's'}."
    if device == "everywhere":
        await destroy_session(request)
        told += " And on this one. Good-bye!"
    await set_session_data(request, {"notice": told})
    return "/" if device == "everywhere" else "/devices"


async def devices_of(request: Request, user: str) -> list[OwnedSession] | None:
    try:
        return await sessions_of(user, current=request, data=True)
    except ConfigurationError:
        # A store that may drop what it holds keeps no list of a user's sessions.
        return None

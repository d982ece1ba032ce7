"""No request that could change something passes without a CSRF token of the visitor's own session."""

from datetime import UTC, datetime
from http import HTTPStatus
from typing import NamedTuple

from fastapi import Request, Response
from fastapi.responses import JSONResponse

from examples.demo.view import render
from examples.demo.visitor import COOKIE
from server_session import validate_csrf_token


class Refusal(NamedTuple):
    """A request that was refused, and what the browser told of it."""

    at: datetime
    request: str
    reason: str
    origin: str
    site: str
    has_cookie: bool
    is_own: bool


class RefusedError(Exception):
    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.reason)
        self.refusal = refusal


async def require_csrf_token(request: Request) -> None:
    if request.method in ("GET", "HEAD", "OPTIONS"):
        return
    token = request.headers.get("x-csrf-token") or (await request.form()).get("csrf_token")
    if await validate_csrf_token(request, token):
        return
    site = request.headers.get("sec-fetch-site", "not said")
    refusal = Refusal(
        at=datetime.now(UTC),
        request=f"{request.method} {request.url.path}",
        reason="its CSRF token is not of this session" if token else "it has no CSRF token",
        origin=request.headers.get("origin", "not said"),
        site=site,
        has_cookie=COOKIE in request.cookies,
        is_own=site == "same-origin",
    )
    request.app.state.refusals.append(refusal)
    raise RefusedError(refusal)


async def answer_refused(request: Request, error: Exception) -> Response:
    if not isinstance(error, RefusedError):
        raise error
    if request.url.path.startswith("/api/"):
        return JSONResponse({"error": error.refusal.reason}, HTTPStatus.FORBIDDEN)
    # Without forms, for a token would found a session here, and its cookie replace the visitor's log-in.
    return await render(request, "refused.html", status_code=HTTPStatus.FORBIDDEN, refusal=error.refusal)

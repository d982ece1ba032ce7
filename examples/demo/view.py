"""Pages: a template, and what every page shows of the visitor."""

import os
from datetime import datetime
from decimal import Decimal
from http import HTTPStatus
from pathlib import Path

from fastapi import Request
from fastapi.responses import RedirectResponse, Response
from fastapi.templating import Jinja2Templates

from examples.demo.devices import device_of
from examples.demo.visitor import cookie_digest, visitor_of
from server_session import csrf_input, csrf_meta, csrf_script, get_csrf_token, pluck_session_property

HERE = Path(__file__).parent

templates = Jinja2Templates(HERE / "templates")


def euros(amount: Decimal) -> str:
    return f"€ {amount:.2f}"


def moment(at: datetime) -> str:
    return f"{at.day} {at:%B, %H:%M} UTC"


templates.env.filters.update(euros=euros, moment=moment, device=device_of)
templates.env.globals.update(csrf_input=csrf_input, csrf_meta=csrf_meta, csrf_script=csrf_script)


async def render(
    request: Request, template: str, *, with_forms: bool = False, status_code: int = HTTPStatus.OK, **values: object
) -> Response:
    visitor = await visitor_of(request)
    # Shown once: of two tabs that load at the same time, one shows it.
    notice = await pluck_session_property(request, "notice") if "notice" in visitor else None
    # A token founds a session where there is none, so it is asked for only where a form will bear it.
    # Who is logged in has the form to log out on every page.
    csrf_token = await get_csrf_token(request) if with_forms or "user" in visitor else None
    return templates.TemplateResponse(
        request,
        template,
        {
            "visitor": visitor,
            "notice": notice,
            "csrf_token": csrf_token,
            "digest": cookie_digest(request),
            "process": os.getpid(),
            "demo": request.app.state,
            **values,
        },
        status_code,
    )


def go_to(path: str) -> RedirectResponse:
    """Answer a form with another page, so that reloading it sends no form again."""
    return RedirectResponse(path, HTTPStatus.SEE_OTHER)

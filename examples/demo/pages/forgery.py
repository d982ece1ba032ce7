"""What other pages try in a visitor's name, each attack beside what the guard has answered to it."""

from http import HTTPStatus

from fastapi import APIRouter, HTTPException, Request, Response

from examples.demo.attacks import ATTACKS, Attack
from examples.demo.view import render, templates
from examples.demo.visitor import visitor_of
from server_session import get_csrf_token

router = APIRouter(prefix="/forgery")


@router.get("")
async def show(request: Request) -> Response:
    verdicts = {name: request.app.state.verdicts.of(name) for name in ATTACKS}
    return await render(request, "forgery.html", attacks=ATTACKS, verdicts_of=verdicts)


@router.get("/verdicts/{name}")
async def show_verdicts(request: Request, name: str) -> Response:
    """Return what of the page has changed."""
    values = {"verdicts": request.app.state.verdicts.of(known(name).name), "visitor": await visitor_of(request)}
    return templates.TemplateResponse(request, "forgery/verdicts.html", values)


@router.get("/own/{name}")
async def show_own(request: Request, name: str) -> Response:
    """Show a page of the shop's own, from which a request comes that the headers alone do not clear."""
    attack = known(name)
    if attack.site != "own":
        raise HTTPException(HTTPStatus.NOT_FOUND)
    token = await token_for(request, attack)
    response = await render(
        request, f"forgery/{attack.means}.html", with_forms=attack.means == "stale", attack=attack, token=token
    )
    if attack.hides_origin:
        response.headers["Referrer-Policy"] = "no-referrer"
    return response


async def token_for(request: Request, attack: Attack) -> str | None:
    if attack.token == "none":
        return None
    if attack.token == "own":
        return await get_csrf_token(request)
    # Who asks the shop without a cookie, and is given a session of their own.
    stranger = Request({"type": "http", "method": "GET", "path": "/", "query_string": b"", "headers": []})
    return await get_csrf_token(stranger, Response())


def known(name: str) -> Attack:
    if name not in ATTACKS:
        raise HTTPException(HTTPStatus.NOT_FOUND)
    return ATTACKS[name]

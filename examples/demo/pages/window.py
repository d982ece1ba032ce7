"""The shop window, which costs a visitor no session; and the visitor whom another site has sent."""

from http import HTTPStatus

from fastapi import APIRouter, HTTPException, Request, Response

from examples.demo.goods import TEAS
from examples.demo.view import go_to, render
from server_session import set_session_data

router = APIRouter()


@router.get("/")
async def window(request: Request, ref: str | None = None) -> Response:
    if ref is None:
        return await render(request, "window.html", teas=TEAS.values())
    # Kept until an order plucks it. Then away from the address that bears it: a reload is no second visit.
    await set_session_data(
        request, {"referral": ref[:40], "notice": f"{ref[:40]} sends you: 10 % off your first order."}
    )
    return go_to("/")


@router.get("/teas/{slug}")
async def tea(request: Request, slug: str) -> Response:
    if slug not in TEAS:
        raise HTTPException(HTTPStatus.NOT_FOUND)
    return await render(request, "tea.html", with_forms=True, tea=TEAS[slug])

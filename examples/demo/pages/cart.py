"""The cart: its new contents depend on the old, so it is changed by `update_session_data`."""

from typing import Annotated, Any

from fastapi import APIRouter, Form, Request, Response

from examples.demo.goods import TEAS, lines_of, total_of
from examples.demo.view import go_to, render
from examples.demo.visitor import visitor_of
from server_session import csrf_protect, update_session_data

MOST = 20

router = APIRouter()


@router.get("/cart")
async def show(request: Request) -> Response:
    visitor = await visitor_of(request)
    lines = lines_of(visitor.get("cart", {}))
    discounted = "referral" in visitor
    return await render(
        request,
        "cart.html",
        with_forms=bool(lines),
        lines=lines,
        total=total_of(lines, discounted=discounted),
        most=MOST,
    )


@router.post("/cart/add")
async def add(request: Request, tea: Annotated[str, Form()]) -> Response:
    def put_in(data: dict[str, Any]) -> None:
        cart = data.setdefault("cart", {})
        cart[tea] = min(cart.get(tea, 0) + 1, MOST)

    if tea in TEAS:
        await update_session_data(request, put_in)
    return go_to("/cart")


@router.get("/cart/one-more")
@csrf_protect(every_method=True)
async def add_one_more(request: Request, tea: str) -> Response:
    return await add(request, tea)


@router.post("/cart/change")
async def change(
    request: Request, tea: Annotated[str, Form()], number: Annotated[int, Form(ge=0, le=MOST)]
) -> Response:
    def set_number(data: dict[str, Any]) -> None:
        cart = data.get("cart", {})
        if number:
            cart[tea] = number
        else:
            cart.pop(tea, None)

    if tea in TEAS:
        await update_session_data(request, set_number)
    return go_to("/cart")

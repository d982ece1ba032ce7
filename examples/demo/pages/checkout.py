"""The check-out: three steps, each a key of its own, so that going back and two tabs do no harm."""

import secrets
from typing import Annotated

from fastapi import APIRouter, Request, Response
from fastapi import Form as Field

from examples.demo.goods import DELIVERIES, lines_of, total_of
from examples.demo.view import go_to, render
from examples.demo.visitor import Form, Order, visitor_of
from server_session import csrf_protect, pluck_session_property, replace_session_data, set_session_data

LONGEST = 80

router = APIRouter(prefix="/checkout")


@router.get("/address")
async def ask_address(request: Request) -> Response:
    visitor = await visitor_of(request)
    # Plucked: errors are shown once, and a reload shows the form as it stands.
    form = await pluck_session_property(request, "address_form", as_type=Form)
    values = form["fields"] if form else visitor.get("address", {})
    return await render(
        request, "address.html", with_forms=True, step=1, values=values, errors=form["errors"] if form else {}
    )


@router.post("/address")
async def take_address(
    request: Request,
    name: Annotated[str, Field()] = "",
    street: Annotated[str, Field()] = "",
    town: Annotated[str, Field()] = "",
) -> Response:
    address = {"name": name.strip()[:LONGEST], "street": street.strip()[:LONGEST], "town": town.strip()[:LONGEST]}
    if errors := {field: f"Please tell us the {field}." for field, value in address.items() if not value}:
        await set_session_data(request, {"address_form": Form(fields=address, errors=errors)})
        return go_to("/checkout/address")
    await set_session_data(request, {"address": address})
    return go_to("/checkout/delivery")


@router.get("/delivery")
async def ask_delivery(request: Request) -> Response:
    if "address" not in await visitor_of(request):
        return go_to("/checkout/address")
    error = await pluck_session_property(request, "delivery_error", as_type=str)
    return await render(request, "delivery.html", with_forms=True, step=2, deliveries=DELIVERIES, error=error)


@router.post("/delivery")
async def take_delivery(request: Request, delivery: Annotated[str, Field()] = "") -> Response:
    if delivery not in DELIVERIES:
        await set_session_data(request, {"delivery_error": "Please choose how it shall come to you."})
        return go_to("/checkout/delivery")
    await set_session_data(request, {"delivery": delivery})
    return go_to("/checkout/confirm")


@router.get("/confirm")
async def ask_confirmation(request: Request) -> Response:
    visitor = await visitor_of(request)
    if "address" not in visitor or "delivery" not in visitor:
        return go_to("/checkout/address" if "address" not in visitor else "/checkout/delivery")
    if not (lines := lines_of(visitor.get("cart", {}))):
        return go_to("/cart")
    delivery = DELIVERIES[visitor["delivery"]]
    total = total_of(lines, discounted="referral" in visitor) + delivery.price
    return await render(request, "confirm.html", with_forms=True, step=3, lines=lines, delivery=delivery, total=total)


@router.post("/confirm")
@csrf_protect(strict=True)
async def place_order(request: Request) -> Response:
    visitor = await visitor_of(request)
    if "address" not in visitor or "delivery" not in visitor:
        return go_to("/checkout/address")
    # Of two clicks, in one tab or in two, exactly one gets the cart: it is ordered once.
    cart = await pluck_session_property(request, "cart", as_type=dict[str, int])
    if not cart:
        return go_to("/checkout/thanks")
    referral = await pluck_session_property(request, "referral", as_type=str)
    order = Order(
        number=secrets.token_hex(3).upper(),
        cart=cart,
        address=visitor["address"],
        delivery=visitor["delivery"],
        referral=referral,
        total=total_of(lines_of(cart), discounted=referral is not None) + DELIVERIES[visitor["delivery"]].price,
    )
    await set_session_data(request, {"order": order})
    return go_to("/checkout/thanks")


@router.get("/thanks")
async def thank(request: Request) -> Response:
    order = (await visitor_of(request)).get("order")
    if order is None:
        return go_to("/cart")
    return await render(
        request, "thanks.html", order=order, lines=lines_of(order["cart"]), delivery=DELIVERIES[order["delivery"]]
    )


@router.post("/restart")
async def restart(request: Request) -> Response:
    steps = {"address", "delivery"}
    kept = {key: value for key, value in (await visitor_of(request)).items() if key not in steps}
    # In place: who is logged in stays so, and the forms in other tabs stay valid.
    await replace_session_data(request, kept, in_place=True)
    return go_to("/checkout/address")

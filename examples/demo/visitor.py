"""What the shop keeps of a visitor in the session."""

import hashlib
from decimal import Decimal
from typing import TypedDict

from starlette.requests import HTTPConnection

from server_session import get_session_data

COOKIE = "kettle"
"""The cookie's name; one of its own, for other applications on this machine may have theirs."""


class Address(TypedDict):
    name: str
    street: str
    town: str


class Form(TypedDict):
    """A form that was not filled in as it should be: shown once more, with what is wrong."""

    fields: dict[str, str]
    errors: dict[str, str]


class Order(TypedDict):
    number: str
    cart: dict[str, int]
    address: Address
    delivery: str
    referral: str | None
    total: Decimal


class Visitor(TypedDict, total=False):
    user: str
    cart: dict[str, int]
    wishes: list[str]
    referral: str
    address: Address
    delivery: str
    order: Order
    notice: str
    device: str
    before: str
    unlocked: bool
    old_token: str
    """The CSRF token of the form that logged in: of the session of before, and so of no use."""


async def visitor_of(request: HTTPConnection) -> Visitor:
    return await get_session_data(request, as_type=Visitor)


def cookie_digest(request: HTTPConnection) -> str | None:
    """Return a few characters that change when the cookie does, and tell nothing of it."""
    cookie = request.cookies.get(COOKIE)
    return None if cookie is None else hashlib.sha256(cookie.encode()).hexdigest()[:8]

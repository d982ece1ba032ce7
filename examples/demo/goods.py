"""What the shop sells."""

from collections.abc import Mapping
from decimal import Decimal
from typing import NamedTuple


class Tea(NamedTuple):
    slug: str
    name: str
    origin: str
    taste: str
    price: Decimal
    colour: str


class Delivery(NamedTuple):
    name: str
    when: str
    price: Decimal


class Line(NamedTuple):
    """One line of a cart or an order."""

    tea: Tea
    number: int

    @property
    def price(self) -> Decimal:
        return self.tea.price * self.number


_TEAS = (
    Tea(
        "sencha", "Sencha Asatsuyu", "Kagoshima, Japan", "Fresh grass, sweet pea, sea air", Decimal("11.50"), "#9aa63a"
    ),
    Tea("darjeeling", "First Flush", "Darjeeling, India", "Muscatel, spring flowers", Decimal("14.20"), "#d59a3c"),
    Tea("oolong", "Iron Goddess", "Anxi, China", "Orchid, warm milk, stone", Decimal("16.00"), "#c2b04b"),
    Tea("assam", "Breakfast Assam", "Jorhat, India", "Malt, honey, dark bread", Decimal("8.40"), "#a4502a"),
    Tea("puerh", "Old Tree Pu-erh", "Yunnan, China", "Forest floor, date, leather", Decimal("22.00"), "#6e3b26"),
    Tea(
        "rooibos", "Cape Rooibos", "Cederberg, South Africa", "Vanilla, orange, no caffeine", Decimal("6.90"), "#c0562f"
    ),
)
TEAS = {tea.slug: tea for tea in _TEAS}

DELIVERIES = {
    "post": Delivery("By post", "in three days", Decimal("3.50")),
    "bicycle": Delivery("By bicycle", "this evening", Decimal("6.00")),
    "collect": Delivery("I collect it", "from tomorrow", Decimal(0)),
}

DISCOUNT = Decimal("0.10")
"""For whom another site has sent, once."""


def lines_of(cart: Mapping[str, int]) -> list[Line]:
    return [Line(TEAS[slug], number) for slug, number in cart.items() if slug in TEAS]


def total_of(lines: list[Line], *, discounted: bool) -> Decimal:
    total = sum((line.price for line in lines), Decimal(0))
    return (total * (1 - DISCOUNT)).quantize(Decimal("0.01")) if discounted else total

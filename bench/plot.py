"""The picture of docs/performance.md: what a read, a write and a first write take, beside each peer's."""

import math
from collections.abc import Sequence
from html import escape
from typing import NamedTuple

WIDTH = 860
LEFT = 300
RIGHT = 30
TOP = 84
ROW = 30
LEAST, MOST = 0.1, 10.0
TICKS = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
# Of a form each, for whoever does not tell the colours apart.
MARKS = {
    "read": ("#0072b2", '<circle cx="{x:.1f}" cy="{y:.1f}" r="6" fill="{colour}"/>'),
    "write": ("#d55e00", '<rect x="{left:.1f}" y="{top:.1f}" width="11" height="11" fill="{colour}"/>'),
    "first": (
        "#009e73",
        '<path d="M{x:.1f} {top:.1f} l7 11.5 h-14 z" fill="{colour}"/>',
    ),
}
NAMES = {"read": "read", "write": "one of ten keys changed", "first": "first write"}


class Row(NamedTuple):
    """A peer, and our share of its time for each kind of request."""

    label: str
    shares: dict[str, float]


def draw(title: str, rows: Sequence[Row]) -> str:
    """Return the picture as SVG."""
    bottom = TOP + ROW * len(rows)
    height = bottom + 54
    style = "font-family: system-ui, sans-serif; font-size: 13px"
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img" style="{style}">',
        f"<title>{escape(title)}</title>",
        f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>',
        f'<text x="16" y="26" font-size="16" font-weight="600" fill="#1a1a1a">{escape(title)}</text>',
        *_legend(),
        f'<rect x="{LEFT}" y="{TOP}" width="{_x(1.0) - LEFT:.1f}" height="{ROW * len(rows)}" fill="#eef6ee"/>',
    ]
    for tick in TICKS:
        weight = 'stroke="#1a1a1a" stroke-width="1.5"' if tick == 1.0 else 'stroke="#d0d0d0"'
        x = _x(tick)
        parts.append(f'<line x1="{x:.1f}" y1="{TOP}" x2="{x:.1f}" y2="{bottom}" {weight}/>')
        parts.append(f'<text x="{x:.1f}" y="{bottom + 18}" text-anchor="middle" fill="#444444">{tick:g}</text>')
    middle = (LEFT + WIDTH - RIGHT) / 2
    told = "← lighter than the peer · share of its time, log scale · heavier →"
    parts.append(f'<text x="{middle:.0f}" y="{bottom + 40}" text-anchor="middle" fill="#444444">{told}</text>')
    for number, row in enumerate(rows):
        y = TOP + ROW * (number + 0.5)
        parts.append(
            f'<text x="{LEFT - 12}" y="{y + 4:.1f}" text-anchor="end" fill="#1a1a1a">{escape(row.label)}</text>'
        )
        parts += [_mark(kind, _x(share), y) for kind, share in row.shares.items()]
    return "\n".join([*parts, "</svg>", ""])


def _legend() -> list[str]:
    parts, x = [], 300.0
    for kind, name in NAMES.items():
        parts.append(_mark(kind, x, 54))
        parts.append(f'<text x="{x + 12:.0f}" y="58" fill="#1a1a1a">{name}</text>')
        x += 34 + 7.2 * len(name)
    return parts


def _mark(kind: str, x: float, y: float) -> str:
    colour, shape = MARKS[kind]
    return shape.format(x=x, y=y, left=x - 5.5, top=y - (5.5 if kind == "write" else 7), colour=colour)


def _x(share: float) -> float:
    """Return where a share is: what is beyond the scale stands at its end."""
    place = math.log(min(MOST, max(LEAST, share)) / LEAST) / math.log(MOST / LEAST)
    return LEFT + place * (WIDTH - RIGHT - LEFT)

"""The core's own fields in a record, by name.

They share the mapping with the user's fields, under a prefix that the codec refuses to users, as JSON text.
"""

import base64
import os
from collections.abc import Mapping
from typing import Final

from server_session._codec import RESERVED, decode_value, encode_value
from server_session.stores._base import Lifetime

__all__ = [
    "CREATED",
    "DIGEST",
    "ENDED",
    "FORMER",
    "MARK_LIFETIME",
    "MARK_SECONDS",
    "OWNER",
    "STAMP",
    "former_of",
    "fresh_stamp",
    "is_same",
    "mark_of",
    "number",
    "user_fields",
    "was_former",
]

DIGEST: Final = RESERVED + "digest"
"""The digest of the credential that holds. An ended session's mark has none."""
FORMER: Final = RESERVED + "former"
"""The digest that the last renewal swapped out, and when: `["…", seconds]`."""
CREATED: Final = RESERVED + "created"
"""When the session was founded, in seconds since the epoch."""
OWNER: Final = RESERVED + "owner"
"""Whose session it is, as `log_in` was told."""
STAMP: Final = RESERVED + "stamp"
"""Random text that each write renews, for readers whose result depends on all fields."""
ENDED: Final = RESERVED + "ended"
"""When the session was ended, in seconds since the epoch. It stands alone in the mark."""

MARK_SECONDS: Final = 60.0
"""For how long an ended session leaves its mark, and a swapped-out digest is known again."""


MARK_LIFETIME: Final = Lifetime(MARK_SECONDS, MARK_SECONDS)


def mark_of(now: float) -> dict[str, bytes]:
    """Return the record that an ended session leaves."""
    # No bare delete: the mark is what a late write meets, and what tells ended from unknown.
    return {ENDED: number(now)}


def user_fields(fields: Mapping[str, bytes]) -> dict[str, bytes]:
    """Return the fields that are the user's."""
    return {name: value for name, value in fields.items() if not name.startswith(RESERVED)}


def number(value: float) -> bytes:
    """Return a time in seconds as JSON text, to the millisecond."""
    return repr(round(value, 3)).encode("ascii")


def is_same(name: str, stored: bytes | None, encoded: bytes) -> bool:
    """Tell whether a stored field holds the value that this encoding holds."""
    if stored is None or stored == encoded:
        return stored is not None
    # Another writer may spell the same value otherwise; that is no change.
    return encode_value(name, decode_value(name, stored)) == encoded


def fresh_stamp() -> bytes:
    """Return a stamp that no earlier write had."""
    return b'"' + base64.urlsafe_b64encode(os.urandom(6)) + b'"'


def former_of(digest: bytes, now: float) -> bytes:
    """Return the field that remembers a digest swapped out now."""
    return b"[" + digest + b"," + number(now) + b"]"


def was_former(fields: Mapping[str, bytes], digest: bytes, now: float) -> bool:
    """Tell whether this digest was swapped out of the record within the last minute."""
    former = fields.get(FORMER, b"")
    if not former.startswith(b"[" + digest + b","):
        return False
    try:
        since = float(former[len(digest) + 2 : -1])
    except ValueError:
        return False
    return now - since < MARK_SECONDS

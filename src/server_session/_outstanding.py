"""Tokens that pass once: the record's list of those that were given out and not yet used."""

import base64
from collections.abc import Mapping
from typing import Final

from server_session._record import outstanding_of

__all__ = ["is_noted", "with_nonce", "without_nonce"]

_AT_MOST: Final = 64
# What names a nonce among 64 of one session; its tag is what proves it.
_NAME_BYTES: Final = 9


def with_nonce(fields: Mapping[str, bytes], nonce: bytes) -> bytes:
    """Return the field with one more nonce, the last of them; the oldest of 64 makes room."""
    return _field([*_names(fields), _name(nonce)][-_AT_MOST:])


def without_nonce(fields: Mapping[str, bytes], nonce: bytes) -> bytes:
    """Return the field without this nonce."""
    return _field([name for name in _names(fields) if name != _name(nonce)])


def is_noted(fields: Mapping[str, bytes], nonce: bytes) -> bool:
    """Tell whether the nonce was given out by this record's session, and not yet used."""
    return _name(nonce) in _names(fields)


def _names(fields: Mapping[str, bytes]) -> list[str]:
    return outstanding_of(fields)


def _name(nonce: bytes) -> str:
    return base64.urlsafe_b64encode(nonce[-_NAME_BYTES:]).decode("ascii")


def _field(names: list[str]) -> bytes:
    # The names are base64url: nothing in them needs an escape.
    return b"[" + b",".join(b'"%s"' % name.encode("ascii") for name in names) + b"]"

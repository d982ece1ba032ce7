"""Bytes as text that fits into a cookie, a header and a URL."""

import binascii
from typing import Final

__all__ = ["base64url"]

_TO_URL: Final = bytes.maketrans(b"+/", b"-_")


def base64url(raw: bytes) -> bytes:
    """Return bytes as base64url without padding (RFC 4648, 5)."""
    return binascii.b2a_base64(raw, newline=False).translate(_TO_URL, b"=")

"""Where an application lives in public: its origins, as browsers write them (RFC 6454, 6.2)."""

import re
from collections.abc import Collection
from typing import Final

from server_session.exceptions import ConfigurationError

__all__ = ["origins_of"]

# As a browser sends it, in lower case and in its ASCII form: what is compared must not need to be understood.
_ORIGIN: Final = re.compile(
    r"https?://(?:[a-z0-9_](?:[a-z0-9_.-]*[a-z0-9_])?|\[[0-9a-f:.]+\])(?::(?P<port>[1-9][0-9]{0,4}))?"
)
_HIGHEST_PORT: Final = 65535


def origins_of(given: str | Collection[str] | None) -> tuple[str, ...]:
    """Return the origins that a setting gives: one, several or none.

    Raises `ConfigurationError` for what no browser would send, and for https beside http.
    """
    if given is None:
        return ()
    if isinstance(given, bytes) or not isinstance(given, str | Collection):
        raise ConfigurationError(f"origin {given!r}: give text, as in 'https://shop.example', or several of these")
    origins = (given,) if isinstance(given, str) else tuple(given)
    for origin in origins:
        _check(origin)
    if len({origin.startswith("https:") for origin in origins}) > 1:
        raise ConfigurationError(f"origins {origins!r}: all https or all http, for they share one cookie")
    return origins


def _check(origin: object) -> None:
    if not isinstance(origin, str):
        raise ConfigurationError(f"origin {origin!r}: give text, as in 'https://shop.example'")
    # Late, for every import of the library would pay for it.
    from urllib.parse import urlsplit

    try:
        parts = urlsplit(origin)
    except ValueError as error:
        raise ConfigurationError(f"origin {origin!r}: {error}") from None
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise ConfigurationError(f"origin {origin!r}: write a scheme and a host, as in 'https://shop.example'")
    if parts.path or parts.username is not None or "?" in origin or "#" in origin:
        raise ConfigurationError(f"origin {origin!r}: an origin has no path, query or user (and no slash at its end)")
    matched = _ORIGIN.fullmatch(origin)
    if matched is None or int(matched["port"] or 1) > _HIGHEST_PORT:
        raise ConfigurationError(
            f"origin {origin!r}: write it as browsers do, in lower case and ASCII (xn--…), without blanks"
        )

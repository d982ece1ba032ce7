"""Origins: those that an application's settings name, and those that a browser sends (RFC 6454, 6.2 and 7)."""

import re
from collections.abc import Collection
from typing import Final

from server_session.exceptions import ConfigurationError, shown

__all__ = ["NULL", "is_at", "origin_in_header", "origin_of_url", "origins_of", "trusted_origins_of"]

NULL: Final = "null"
"""What a browser sends where it will not say: a sandboxed frame, `Referrer-Policy: no-referrer`, a `data:` page."""

# As a browser sends it, in its ASCII form: what is compared must not need to be understood.
_SCHEME: Final = r"(?P<scheme>[a-z][a-z0-9+.-]*)"
_AUTHORITY: Final = r"(?P<host>[a-z0-9_](?:[a-z0-9_.-]*[a-z0-9_])?\.?|\[[0-9a-f:.]+\])(?::(?P<port>[1-9][0-9]{0,4}))?"
_ORIGIN: Final = re.compile(f"{_SCHEME}://{_AUTHORITY}")
_HOST: Final = re.compile(_AUTHORITY)
_URL: Final = re.compile(rf"(?P<origin>{_SCHEME}://[^/?#]*)(?P<rest>.*)", re.IGNORECASE | re.DOTALL)
# The end of a long one is not shown, and may have the @.
_PASSWORD: Final = re.compile(r":(?!//).*[@…]")
_HIGHEST_PORT: Final = 65535
_DEFAULT_PORTS: Final = {"http": "80", "https": "443"}


def origins_of(given: str | Collection[str] | None) -> tuple[str, ...]:
    """Return the origins that the setting `origin` gives: one, several or none.

    Raises `ConfigurationError` for what no browser would send, and for https beside http.
    """
    origins = _each("origin", given, ("http", "https"))
    if len({origin.startswith("https:") for origin in origins}) > 1:
        raise ConfigurationError(f"origins {origins!r}: all https or all http, for they share one cookie")
    return origins


def trusted_origins_of(given: str | Collection[str] | None) -> tuple[str, ...]:
    """Return those that `trusted_origins` gives, of any scheme; raises likewise for what no browser would send."""
    return _each("trusted origin", given, None)


def origin_in_header(value: bytes) -> str | None:
    """Return the origin that an `Origin` header's value is, `"null"` for that, or `None` for what is no origin."""
    text = value.strip(b" \t").decode("latin-1")
    if text == NULL:
        return NULL
    return _normal(text.lower())


def origin_of_url(value: bytes) -> str | None:
    """Return the origin of a `Referer` header's URL, or `None` where it has none."""
    text = value.strip(b" \t").decode("latin-1")
    matched = _URL.fullmatch(text)
    return None if matched is None else _normal(matched["origin"].lower())


def is_at(origin: str, host: str | None) -> bool:
    """Tell whether the `Host` header says what this origin does; it may name the scheme's own port."""
    text = (host or "").strip(" \t")
    matched = _HOST.fullmatch(text.lower()) if text.isascii() else None
    scheme, _, authority = origin.partition("://")
    return matched is not None and _without_default_port(scheme, matched) == authority


def _each(setting: str, given: object, schemes: Collection[str] | None) -> tuple[str, ...]:
    if given is None:
        return ()
    several = given if isinstance(given, Collection) and not isinstance(given, str | bytes) else (given,)
    return tuple(_checked(setting, origin, schemes) for origin in several)


def _checked(setting: str, origin: object, schemes: Collection[str] | None) -> str:
    url = _URL.fullmatch(origin) if isinstance(origin, str) else None
    if not isinstance(origin, str):
        mend = "give text, as in 'https://shop.example', or several of these"
    elif url is None or url["origin"].endswith("://") or (schemes and url["scheme"].lower() not in schemes):
        mend = "write a scheme and a host without blanks, as in 'https://shop.example'"
    elif url["rest"] or "@" in origin:
        mend = "an origin has no path, query or user (and no slash at its end)"
    elif "*" in origin:
        mend = "no pattern is trusted; name each origin"
    elif (normal := _normal(origin)) is not None:
        return normal
    else:
        mend = "write it as browsers do, in lower case and ASCII (xn--…), without blanks; IPv6 is in brackets"
    said = shown(origin)
    raise ConfigurationError(f"{setting} {'with a password in it' if _PASSWORD.search(said) else said}: {mend}")


def _normal(origin: str) -> str | None:
    """Return an origin in lower case as a browser writes it, without its scheme's own port; `None` if it is none."""
    matched = _ORIGIN.fullmatch(origin)
    if matched is None or int(matched["port"] or 0) > _HIGHEST_PORT:
        return None
    return f"{matched['scheme']}://{_without_default_port(matched['scheme'], matched)}"


def _without_default_port(scheme: str, matched: re.Match[str]) -> str:
    host, port = matched["host"], matched["port"]
    return host if port in (None, _DEFAULT_PORTS.get(scheme)) else f"{host}:{port}"

"""What browsers keep of a cookie (RFC 6265bis): its attributes, checked as settings give them, and its places."""

import re
from collections.abc import Iterator
from itertools import islice, takewhile
from typing import Final

from server_session.exceptions import ConfigurationError, shown

__all__ = ["HINTS", "OPTIONS", "domain", "name", "path", "places_of", "same_site"]

OPTIONS: Final = ("name", "path", "domain", "secure", "http_only", "same_site", "max_age", "partitioned")

_CREDENTIAL_LENGTH: Final = 64
# Browsers keep 4,096 bytes of name and value.
_NAME_BYTES: Final = 4096 - _CREDENTIAL_LENGTH
# A browser ignores a longer attribute, and would then take another path than the one meant.
_PATH_BYTES: Final = 1024
_DOMAIN_BYTES: Final = 253

_NAME: Final = re.compile(rf"[A-Za-z0-9!#$%&'*+.^_`|~-]{{1,{_NAME_BYTES}}}")
_PATH: Final = re.compile(rf"/[!-:<-~]{{0,{_PATH_BYTES - 1}}}")
_LABEL: Final = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_DOMAIN: Final = re.compile(rf"(?!.{{{_DOMAIN_BYTES + 1}}}){_LABEL}(?:\.{_LABEL})*")
_PORT: Final = re.compile(r":[0-9]*\Z")
# How many are named of the places from which a request's cookies may have come.
_MOST_DOMAINS: Final = 8
_MOST_PATHS: Final = 8

HINTS: Final = {
    "encode": "the value is base64url and needs no encoding",
    "decode": "the value is base64url and needs no decoding",
    "expires": "a fixed date would pass while the application runs; give `max_age`",
    "key": "it is spelt `name`",
    "maxage": "it is spelt `max_age`, in seconds or as a timedelta",
    "priority": "Priority is one browser's own and in no standard",
}


def name(given: object) -> str:
    """Return a cookie's name."""
    if not isinstance(given, str) or not _NAME.fullmatch(given):
        raise ConfigurationError(
            f"a cookie cannot be named {shown(given)}: use letters, digits and !#$%&'*+-.^_`|~ (an RFC 6265 token), "
            f"and no more than {_NAME_BYTES}, for browsers keep no cookie that is too long"
        )
    return given


def path(given: object) -> str:
    """Return a cookie's path."""
    if not isinstance(given, str) or not _PATH.fullmatch(given):
        raise ConfigurationError(
            f'the cookie\'s path cannot be {shown(given)}: it begins with "/" and is printable ASCII without blanks '
            f'and ";" (write what else it holds as %XX, as browsers do); browsers ignore one beyond {_PATH_BYTES} bytes'
        )
    return given


def domain(given: object) -> str:
    """Return a cookie's domain, in lower case and without a leading dot."""
    lowered = given.lower().removeprefix(".") if isinstance(given, str) and given.isascii() else ""
    if not _DOMAIN.fullmatch(lowered):
        raise ConfigurationError(
            f"the cookie's domain cannot be {shown(given)}: it is a name like shop.example, without scheme, port, path "
            "and trailing dot, in its ASCII form (xn--…); leave `domain` out for this host alone"
        )
    return lowered


def same_site(given: object) -> str:
    """Return a cookie's `SameSite` in lower case."""
    lowered = given.lower() if isinstance(given, str) else ""
    if lowered not in ("lax", "strict", "none"):
        raise ConfigurationError(
            f'the cookie\'s same_site cannot be {shown(given)}: say "lax", "strict" or "none" (it is always said, '
            "for browsers differ where it is not)"
        )
    return lowered


def places_of(host: str | None, path: str) -> Iterator[tuple[str | None, str]]:
    """Give the domains and paths from which a browser may have sent a request's cookies; `None` is the host alone."""
    name = _PORT.sub("", (host or "")[: _DOMAIN_BYTES + 6]).lower()
    labels = name.split(".")
    # No top-level domain begins with a digit; an IPv6 address is no domain by its colons.
    is_domain = _DOMAIN.fullmatch(name) is not None and not labels[-1][0].isdigit()
    domains = [".".join(labels[start:]) for start in range(len(labels) - 1)] if is_domain else []
    slashes = [place for place, character in enumerate(path[:_PATH_BYTES]) if character == "/" and place]
    # To a browser `/a` and `/a/` are two cookies' paths, and both match `/a/b`.
    ends = [end for slash in slashes[:_MOST_PATHS] for end in (slash, slash + 1)]
    prefixes = dict.fromkeys(["/", *(path[:end] for end in ends), path])
    # A decoded path can hold what no header may; no cookie path can be told beyond that.
    paths = islice(takewhile(_PATH.fullmatch, prefixes), _MOST_PATHS)
    return ((domain, prefix) for prefix in paths for domain in (None, *domains[:_MOST_DOMAINS]))

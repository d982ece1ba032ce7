"""A cookie's attributes, as settings give them: what no browser would keep is refused (RFC 6265bis)."""

import re
from typing import Final

from server_session.exceptions import ConfigurationError

__all__ = [
    "DOMAIN",
    "DOMAIN_BYTES",
    "PATH",
    "PATH_BYTES",
    "SAME_SITE",
    "checked_domain",
    "checked_flag",
    "checked_name",
    "checked_path",
    "checked_same_site",
    "unknown_option",
]

_TOKEN: Final = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
PATH: Final = re.compile(r"/[!-:<-~]*")
_LABEL: Final = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
DOMAIN: Final = re.compile(rf"{_LABEL}(?:\.{_LABEL})*")
_PAIR_BYTES: Final = 4096
_CREDENTIAL_LENGTH: Final = 64
# A browser ignores a longer attribute, and would then take another path than the one meant.
PATH_BYTES: Final = 1024
DOMAIN_BYTES: Final = 253
SAME_SITE: Final = {"lax": "Lax", "strict": "Strict", "none": "None"}

_HINTS: Final = {
    "domain": "it is spelt `domain`",
    "encode": "the value is base64url and needs no encoding",
    "decode": "the value is base64url and needs no decoding",
    "expires": "a fixed date would pass while the application runs; give `max_age`, and Expires is written from it",
    "httponly": "it is spelt `http_only`",
    "key": "it is spelt `name`",
    "maxage": "it is spelt `max_age`, in seconds or as a timedelta",
    "name": "it is spelt `name`",
    "partitioned": "it is spelt `partitioned`",
    "path": "it is spelt `path`",
    "priority": "Priority is one browser's own and in no standard",
    "samesite": "it is spelt `same_site`",
    "secure": "it is spelt `secure`",
}


def unknown_option(keyword: str) -> str:
    hint = _HINTS.get(keyword.replace("_", "").lower())
    if hint is None:
        hint = "it takes name, path, domain, secure, http_only, same_site, max_age and partitioned"
    return f"CookieHandler has no option {keyword!r}: {hint}"


def checked_name(name: object) -> str:
    if not isinstance(name, str) or not _TOKEN.fullmatch(name):
        raise ConfigurationError(
            f"a cookie cannot be named {name!r}: use letters, digits and !#$%&'*+-.^_`|~ (an RFC 6265 token)"
        )
    if len(name) + _CREDENTIAL_LENGTH > _PAIR_BYTES:
        raise ConfigurationError(
            f"a cookie's name of {len(name)} bytes is too long: browsers keep {_PAIR_BYTES} bytes of name and value, "
            f"and the value takes {_CREDENTIAL_LENGTH}"
        )
    return name


def checked_path(path: object) -> str:
    if not isinstance(path, str) or not PATH.fullmatch(path):
        raise ConfigurationError(
            f'the cookie\'s path cannot be {path!r}: it begins with "/" and is printable ASCII without blanks and ";" '
            "(write what else it holds as %XX, as the browser does)"
        )
    if len(path) > PATH_BYTES:
        raise ConfigurationError(f"the cookie's path has {len(path)} bytes: browsers ignore one beyond {PATH_BYTES}")
    return path


def checked_domain(domain: object) -> str:
    lowered = domain.lower().removeprefix(".") if isinstance(domain, str) and domain.isascii() else ""
    if len(lowered) > DOMAIN_BYTES or not DOMAIN.fullmatch(lowered):
        raise ConfigurationError(
            f"the cookie's domain cannot be {domain!r}: it is a name like shop.example, without scheme, port, path "
            "and trailing dot, in its ASCII form (xn--…); leave `domain` out for this host alone"
        )
    return lowered


def checked_flag(option: str, value: object) -> bool:
    # A text from the environment is true even if it says "false".
    if not isinstance(value, bool):
        raise ConfigurationError(f"the cookie's `{option}` is True or False, not {value!r}")
    return value


def checked_same_site(same_site: object) -> str:
    lowered = same_site.lower() if isinstance(same_site, str) else ""
    if lowered not in SAME_SITE:
        raise ConfigurationError(
            f'the cookie\'s same_site cannot be {same_site!r}: say "lax", "strict" or "none" (it is always said, '
            "for browsers differ where it is not)"
        )
    return lowered

"""The policy by which requests are refused because another site may have forged them."""

import copy
import re
from collections.abc import Callable, Collection
from datetime import timedelta
from typing import Any, Final, Literal, Never, TypeAlias

from server_session._durations import seconds_of
from server_session._origins import trusted_origins_of
from server_session.exceptions import ConfigurationError

__all__ = ["CSRF", "SAFE_METHODS", "Mode"]

Mode: TypeAlias = Literal["layered", "strict", "report"]

# RFC 9110, 9.2.1, and the registry of methods.
_CAN_BE_SAFE: Final = frozenset({"GET", "HEAD", "OPTIONS", "QUERY", "TRACE", "PROPFIND", "REPORT", "SEARCH"})
SAFE_METHODS: Final = ("GET", "HEAD", "OPTIONS")
_NAME: Final = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
# What a browser lets any site set, or sets itself.
_TAKEN: Final = frozenset(
    {
        *("accept", "accept-language", "authorization", "content-language", "content-length", "content-type"),
        *("cookie", "host", "origin", "range", "referer"),
    }
)
BODY_LIMIT: Final = 1 << 20


class CSRF:
    """Which requests are refused because another site may have forged them.

    Args:
        mode: `"layered"`: the browser's own word (`Sec-Fetch-Site`, `Origin`) decides, and a token where it does not
            say enough. `"strict"`: every request that is not safe needs a valid token, also one without a cookie.
            `"report"`: refuse nothing, log and signal what `"layered"` would refuse.
        trusted_origins: other origins that may send requests, `https://pay.example`; the application's own are the
            setting `origin`.
        safe_methods: methods that are let through because they change nothing. `"QUERY"` by choice.
        single_use: whether a token passes once; it needs `mode="strict"`, which it implies. Each form costs a write to
            the store, and the oldest of 64 unused tokens is dropped.
        token_age: seconds or a timedelta after which a token is stale; `None` for as long as its session's cookie.
        field: the name of the form, multipart or JSON field that bears the token.
        header: the name of the header that bears it.
        exempt: endpoints (the view functions or classes themselves) that are not checked: what other servers call.
        protect_anonymous: endpoints, or True for all, to which a missing cookie is no excuse: log-in.
        body_limit: how many bytes of a body are read, at most, in search of the token.
        page: called with the code of a rejection, returns the HTML of the page that says so. (Flask and Django have
            ways of their own.)

    Raises:
        ConfigurationError: a policy that cannot work.

    """

    def __init__(
        self,
        mode: Mode | None = None,
        *,
        trusted_origins: str | Collection[str] = (),
        safe_methods: Collection[str] = SAFE_METHODS,
        single_use: bool = False,
        token_age: float | timedelta | None = None,
        field: str = "csrf_token",
        header: str = "X-CSRF-Token",
        exempt: Collection[Callable[..., Any]] = (),
        protect_anonymous: bool | Collection[Callable[..., Any]] = False,
        body_limit: int = BODY_LIMIT,
        page: Callable[[str], str] | None = None,
        **unknown: Never,
    ) -> None:
        for keyword in unknown:
            raise ConfigurationError(_unknown(keyword))
        if mode not in (None, "layered", "strict", "report"):
            raise ConfigurationError(f"CSRF's mode is 'layered', 'strict' or 'report', not {mode!r}")
        if not isinstance(single_use, bool):
            raise ConfigurationError(f"CSRF's single_use is True or False, not {single_use!r}")
        if single_use and mode not in (None, "strict"):
            raise ConfigurationError(
                f"CSRF(single_use=True) with mode={mode!r}: a token that passes once must be asked of every request, "
                "which is mode='strict'; leave either out"
            )
        self.mode: Final[Mode] = mode or ("strict" if single_use else "layered")
        self.trusted_origins: Final = trusted_origins_of(trusted_origins)
        self.safe_methods: Final = _checked_methods(safe_methods)
        self.lets_get: Final = "GET" in self.safe_methods
        self.single_use: Final = single_use
        self.token_age: Final = None if token_age is None else seconds_of("CSRF's token_age", token_age)
        if not isinstance(field, str) or not field:
            raise ConfigurationError(f"CSRF's field is the name of a form field, not {field!r}")
        self.field: Final = field
        if not isinstance(header, str) or not _NAME.fullmatch(header) or header.lower() in _TAKEN:
            raise ConfigurationError(f"CSRF's header is the name of a header of its own, not {header!r}")
        self.header: Final = header
        self.exempt: Final = _checked_endpoints("exempt", exempt)
        self.protect_anonymous: Final = (
            protect_anonymous
            if isinstance(protect_anonymous, bool)
            else _checked_endpoints("protect_anonymous", protect_anonymous)
        )
        if isinstance(body_limit, bool) or not isinstance(body_limit, int) or body_limit < 0:
            raise ConfigurationError(f"CSRF's body_limit is a number of bytes, not {body_limit!r}")
        self.body_limit: Final = body_limit
        if page is not None and not callable(page):
            raise ConfigurationError(f"CSRF's page is a function of a rejection's code, not {page!r}")
        self.page: Final = page

    def trusting(self, origins: Collection[str]) -> "CSRF":
        """Return this policy with more trusted origins; raises `ConfigurationError` as the constructor does."""
        policy = copy.copy(self)
        vars(policy)["trusted_origins"] = (*self.trusted_origins, *trusted_origins_of(origins))
        return policy

    def __repr__(self) -> str:
        return f"CSRF(mode={self.mode!r}, trusted_origins={self.trusted_origins!r}, single_use={self.single_use!r})"


def _checked_methods(methods: object) -> frozenset[str]:
    if isinstance(methods, str) or not isinstance(methods, Collection):
        raise ConfigurationError(f"CSRF's safe_methods is a collection, as in ('GET', 'HEAD'), not {methods!r}")
    for method in methods:
        if not isinstance(method, str) or method not in _CAN_BE_SAFE:
            raise ConfigurationError(
                f"CSRF's safe_methods has {method!r}: only methods that change nothing can be let through "
                f"({', '.join(sorted(_CAN_BE_SAFE))}, in this case). To let one endpoint through, exempt it"
            )
    return frozenset(methods)


def _checked_endpoints(setting: str, endpoints: object) -> tuple[Callable[..., Any], ...]:
    if isinstance(endpoints, str) or not isinstance(endpoints, Collection):
        raise ConfigurationError(f"CSRF's {setting} is a collection of endpoints, not {endpoints!r}")
    for endpoint in endpoints:
        if isinstance(endpoint, str):
            raise ConfigurationError(
                f"CSRF's {setting} has {endpoint!r}: name the endpoint itself (the view function or class). A path is "
                "spelt in many ways, and each layer reads it in its own"
            )
        if not callable(endpoint):
            raise ConfigurationError(f"CSRF's {setting} has {endpoint!r}, which is no endpoint")
    return tuple(endpoints)


_HINTS: Final = {
    "origin": "the application's own are the setting `origin` of configure(); others are `trusted_origins`",
    "origins": "the application's own are the setting `origin` of configure(); others are `trusted_origins`",
    "trusted": "it is spelt `trusted_origins`",
    "max_age": "it is spelt `token_age`",
    "secret": "tokens are made from the session's own secret: leave it out",
    "secret_key": "tokens are made from the session's own secret: leave it out",
    "exempt_urls": "name endpoints in `exempt`, not paths, which each layer reads in its own way",
    "exempt_paths": "name endpoints in `exempt`, not paths, which each layer reads in its own way",
    "header_name": "it is spelt `header`",
    "field_name": "it is spelt `field`",
}


def _unknown(keyword: str) -> str:
    hint = _HINTS.get(
        keyword,
        "it takes mode, trusted_origins, safe_methods, single_use, token_age, field, header, exempt, "
        "protect_anonymous, body_limit and page",
    )
    return f"CSRF has no option {keyword!r}: {hint}"

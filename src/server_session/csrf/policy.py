"""The policy by which requests are refused because another site may have forged them."""

import copy
import re
from collections.abc import Callable, Collection
from datetime import timedelta
from typing import Final, Literal, Never, TypeAlias

from server_session._origins import trusted_origins_of
from server_session._settings import flag_of, require, seconds_if_given, unknown_option
from server_session.exceptions import ConfigurationError

__all__ = ["CSRF", "SAFE_METHODS", "Mode"]

Mode: TypeAlias = Literal["layered", "strict", "report"]

# RFC 9110, 9.2.1. The others that change nothing by their definition (QUERY, PROPFIND) are left to handlers that write.
SAFE_METHODS: Final = frozenset({"GET", "HEAD", "OPTIONS"})
_NAME: Final = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
# What a browser lets any site set, or sets itself.
_TAKEN: Final = frozenset(
    {
        *("accept", "accept-language", "authorization", "content-language", "content-length", "content-type"),
        *("cookie", "host", "origin", "range", "referer"),
    }
)
# By the names that other libraries have for these.
_HINTS: Final = {
    "origin": "the application's own are the setting `origin` of configure(); others are `trusted_origins`",
    "origins": "the application's own are the setting `origin` of configure(); others are `trusted_origins`",
    "trusted": "it is spelt `trusted_origins`",
    "max_age": "it is spelt `token_age`",
    "secret": "tokens are made from the session's own secret: leave it out",
    "secret_key": "tokens are made from the session's own secret: leave it out",
    "exempt_urls": "mark endpoints with @csrf_exempt: paths are read by each layer in its own way",
    "exempt_paths": "mark endpoints with @csrf_exempt: paths are read by each layer in its own way",
    "header_name": "it is spelt `header`",
    "field_name": "it is spelt `field`",
}


class CSRF:
    """Which requests are refused because another site may have forged them.

    Args:
        mode: `"layered"`: the browser's own word (`Sec-Fetch-Site`, `Origin`) decides, and a token where it does not
            say enough. `"strict"`: every request that is not safe needs a valid token, also one without a cookie.
            `"report"`: refuse nothing, log and signal what `"layered"` would refuse.
        trusted_origins: other origins that may send requests, `https://pay.example`; the application's own are the
            setting `origin`.
        single_use: whether a token passes once; it needs `mode="strict"`, which it implies. Each form costs a write to
            the store, and the oldest of 64 unused tokens is dropped.
        token_age: seconds or a timedelta after which a token is stale; `None` for as long as its session's cookie.
        field: the name of the form, multipart or JSON field that bears the token.
        header: the name of the header that bears it.
        protect_anonymous: whether a missing cookie is an excuse nowhere; `csrf_protect(anonymous=True)` says it of one
            endpoint, a log-in.
        body_limit: how many bytes of a body are read, at most, in search of the token.
        page: called with the code of a rejection, returns the HTML of the page that says so. A framework's own page
            for 403 comes first.

    Raises:
        ConfigurationError: a policy that cannot work.

    """

    def __init__(
        self,
        mode: Mode | None = None,
        *,
        trusted_origins: str | Collection[str] = (),
        single_use: bool = False,
        token_age: float | timedelta | None = None,
        field: str = "csrf_token",
        header: str = "X-CSRF-Token",
        protect_anonymous: bool = False,
        body_limit: int = 1 << 20,
        page: Callable[[str], str] | None = None,
        **others: Never,
    ) -> None:
        for keyword in others:
            raise unknown_option("CSRF", keyword, ("mode", *(CSRF.__init__.__kwdefaults__ or ())), _HINTS)
        require(mode in (None, "layered", "strict", "report"), "CSRF's mode", "'layered', 'strict' or 'report'", mode)
        self.single_use: Final = flag_of("CSRF's single_use", single_use)
        if single_use and mode not in (None, "strict"):
            raise ConfigurationError(
                f"CSRF(single_use=True) with mode={mode!r}: a token that passes once must be asked of every request, "
                "which is mode='strict'; leave either out"
            )
        require(isinstance(field, str) and field != "", "CSRF's field", "the name of a form field", field)
        is_free = isinstance(header, str) and _NAME.fullmatch(header) is not None and header.lower() not in _TAKEN
        require(is_free, "CSRF's header", "the name of a header of its own", header)
        is_count = isinstance(body_limit, int) and not isinstance(body_limit, bool) and body_limit >= 0
        require(is_count, "CSRF's body_limit", "a number of bytes", body_limit)
        require(page is None or callable(page), "CSRF's page", "a function of a rejection's code", page)
        self.mode: Final[Mode] = mode or ("strict" if single_use else "layered")
        self.trusted_origins: tuple[str, ...] = trusted_origins_of(trusted_origins)
        self.token_age: Final = seconds_if_given("CSRF's token_age", token_age)
        self.field: Final = field
        self.header: Final = header
        self.protect_anonymous: Final = flag_of("CSRF's protect_anonymous", protect_anonymous)
        self.body_limit: Final = body_limit
        self.page: Final = page

    def trusting(self, origins: Collection[str]) -> "CSRF":
        """Return this policy with more trusted origins; raises `ConfigurationError` as the constructor does."""
        policy = copy.copy(self)
        policy.trusted_origins += trusted_origins_of(origins)
        return policy

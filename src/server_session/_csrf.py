"""The check of requests that another site may have forged (CSRF): the policy, and the verdict.

`check` is pure: it decides from what a request says of itself and from what is known of its token, and from nothing
else. Standards: RFC 6454 (Origin), W3C Fetch Metadata, RFC 9110 (safe methods); OWASP ASVS 5.0, 3.5.1-3.5.3 and 4.4.2.
"""

import re
from collections.abc import Callable, Collection, Sequence
from datetime import timedelta
from typing import Any, Final, Literal, NamedTuple, Never, TypeAlias

from server_session._durations import seconds_of
from server_session._origins import (
    NULL,
    authority_of,
    host_for,
    origin_in_header,
    origin_of_url,
    trusted_origins_of,
)
from server_session._tokens import TokenState
from server_session.exceptions import ConfigurationError

__all__ = ["CSRF", "Demand", "Facts", "Mode", "Rejection", "check", "is_cross_site"]

Mode: TypeAlias = Literal["layered", "strict", "report"]

# RFC 9110, 9.2.1, and the registry of methods.
_CAN_BE_SAFE: Final = frozenset({"GET", "HEAD", "OPTIONS", "QUERY", "TRACE", "PROPFIND", "REPORT", "SEARCH"})
_SAFE: Final = ("GET", "HEAD", "OPTIONS")
_NAME: Final = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
# What a browser lets any site set, or sets itself.
_TAKEN: Final = frozenset(
    {
        *("accept", "accept-language", "authorization", "content-language", "content-length", "content-type"),
        *("cookie", "host", "origin", "range", "referer"),
    }
)
# Schemes whose credentials a browser sends by itself, to whichever site asks (RFC 7617, 7616, 4559).
_BY_THE_BROWSER: Final = (b"basic", b"digest", b"negotiate", b"ntlm")

_SITES: Final = (b"cross-site", b"same-site", b"same-origin", b"none")

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
        safe_methods: Collection[str] = _SAFE,
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

    def __repr__(self) -> str:
        return f"CSRF(mode={self.mode!r}, trusted_origins={self.trusted_origins!r}, single_use={self.single_use!r})"


class Demand(NamedTuple):
    """What an endpoint asks beyond, or instead of, the application's policy."""

    exempt: bool = False
    strict: bool = False
    """A valid token, whatever the headers say."""
    every_method: bool = False
    """Safe methods are checked too: a GET that has effects."""
    anonymous: bool = False
    """A missing cookie is no excuse."""
    scoped: bool = False
    """A token that was issued for this very method and path."""


NOTHING_MORE: Final = Demand()


class Facts(NamedTuple):
    """What a request says of itself. Header values are raw, one for each line that came."""

    method: str
    """As it came on the wire, in its case."""
    seen_method: str
    """As the endpoint sees it."""
    origin: Sequence[bytes] = ()
    site: Sequence[bytes] = ()
    """`Sec-Fetch-Site`."""
    fetch_mode: Sequence[bytes] = ()
    """`Sec-Fetch-Mode`."""
    fetch_dest: Sequence[bytes] = ()
    """`Sec-Fetch-Dest`."""
    referer: Sequence[bytes] = ()
    host: str | None = None
    is_secure: bool = False
    """Whether it came over TLS, as far as the application knows."""
    authorization: Sequence[bytes] = ()
    has_cookie: bool = False
    """Whether there is a cookie of the session's name, whatever its value."""
    is_handshake: bool = False
    """Whether this opens a WebSocket."""


class Rejection(NamedTuple):
    """Why a request is refused."""

    code: str
    """Stable, and safe to show."""
    reason: str
    """For the log."""
    needs_token: bool = False
    """Whether a valid token would have let it pass, and none was looked for yet."""


class _Undecided(NamedTuple):
    """The headers neither clear the request nor convict it."""

    reason: str
    excusable: bool = True
    """Whether a missing cookie excuses it."""


def check(
    facts: Facts,
    policy: CSRF,
    origins: Collection[str] = (),
    demand: Demand = NOTHING_MORE,
    token: TokenState = TokenState.UNREAD,
) -> Rejection | None:
    """Return why the request is refused, or `None` where it may pass.

    `origins` are the application's own, `()` where they are not configured and the `Host` header decides; `token` is
    what is known of the token that came. Where a token decides and `UNREAD` is given, the rejection `needs_token`.
    The mode `"report"` is checked like `"layered"`: not to refuse is up to the caller.
    """
    if demand.exempt:
        return None
    if facts.is_handshake:
        return _check_handshake(facts, policy, origins, demand)
    if not demand.every_method and facts.method in policy.safe_methods and facts.seen_method in policy.safe_methods:
        # Handlers take a HEAD for what is not a GET, and write: one that another site sent is for nobody's good.
        verdict = _verdict(facts, policy, origins) if "HEAD" in (facts.method, facts.seen_method) else None
        return verdict if isinstance(verdict, Rejection) else None
    verdict = _verdict(facts, policy, origins)
    if isinstance(verdict, Rejection):
        return verdict
    if policy.mode == "strict" or demand.strict or demand.scoped:
        return _check_token(token, "every request needs a token here", policy)
    if verdict is None or (verdict.excusable and not facts.has_cookie and not demand.anonymous):
        return None
    return _check_token(token, verdict.reason, policy)


def is_cross_site(facts: Facts, origins: Collection[str] = ()) -> bool:
    """Tell whether another site sent this unsafe request, with which no `SameSite=Lax` cookie comes."""
    if facts.method in _SAFE:
        return False
    said = b",".join(facts.site)
    if any(site in said for site in _SITES):
        return b"cross-site" in said
    for value in facts.origin:
        origin = origin_in_header(value)
        if origin == NULL:
            return True
        if origin is not None and origin not in origins:
            return bool(origins) or not _is_host(origin, facts)
    return False


def _verdict(facts: Facts, policy: CSRF, origins: Collection[str]) -> Rejection | _Undecided | None:
    """Return the verdict of the headers; `None` is "allowed"."""
    # A comma is how a WSGI server shows two lines.
    for name, values in (("Origin", facts.origin), ("Sec-Fetch-Site", facts.site)):
        if len(values) > 1 or any(b"," in value for value in values):
            return Rejection("csrf_header", f"several {name} headers")
    origin = origin_in_header(facts.origin[0]) if facts.origin else ""
    if origin is None:
        return Rejection("csrf_header", "an Origin header that is no origin")
    if origin in policy.trusted_origins:
        return None
    site = facts.site[0].strip(b" \t") if facts.site else b""
    if site in (b"cross-site", b"same-site"):
        # A sibling domain is another site, and may be another's: whom to trust is said by name.
        return Rejection("csrf_site", f"Sec-Fetch-Site: {site.decode()}")
    # Basic authorization and its like come by themselves too, so the missing cookie says nothing.
    excusable = origin != NULL and not _is_authorized_by_browser(facts.authorization)
    if site in (b"same-origin", b"none") and origins and origin and origin != NULL and origin not in origins:
        return Rejection("csrf_origin", f"Origin {origin} is none of the application's")
    if site == b"same-origin":
        return _verdict_of_same_origin(facts, origin, origins, excusable=excusable)
    if site == b"none":
        return _Undecided("Sec-Fetch-Site: none", excusable)
    return _verdict_without_site(facts, policy, origin, origins, excusable=excusable)


def _verdict_of_same_origin(
    facts: Facts, origin: str, origins: Collection[str], *, excusable: bool
) -> Rejection | _Undecided | None:
    if origin == NULL:
        return _Undecided("Origin: null", excusable)
    mode, dest = _one(facts.fetch_mode), _one(facts.fetch_dest)
    if mode == b"same-origin" or (mode == b"navigate" and dest in (b"", b"empty")) or b"," in mode + dest:
        # A service worker that passes requests on makes a sibling's form look like this, with our own Origin.
        return _Undecided("it may come through a service worker", excusable=False)
    if origin and not origins and not _is_host(origin, facts):
        # A proxy may have changed Host.
        return _Undecided(f"Origin {origin} is not the Host", excusable)
    return None


def _verdict_without_site(
    facts: Facts, policy: CSRF, origin: str, origins: Collection[str], *, excusable: bool
) -> Rejection | _Undecided | None:
    if origin == NULL:
        return _Undecided("Origin: null, and no Sec-Fetch-Site", excusable)
    if origin in origins:
        return None
    if origin:
        if origins or not _is_host(origin, facts):
            return Rejection("csrf_origin", f"Origin {origin} is none of the application's")
        return _Undecided("Origin equals the Host alone", excusable)
    for value in facts.referer:
        # What says that there is none (RFC 9110, 10.1.3).
        if value.strip(b" \t") in (b"", b"about:blank"):
            continue
        referer = origin_of_url(value)
        known = referer is not None and (
            referer in origins or referer in policy.trusted_origins or (not origins and _is_host(referer, facts))
        )
        if not known:
            return Rejection("csrf_origin", f"Referer of {referer or 'no origin'} is none of the application's")
    return _Undecided("neither Origin nor Sec-Fetch-Site", excusable)


def _check_handshake(facts: Facts, policy: CSRF, origins: Collection[str], demand: Demand) -> Rejection | None:
    """Check the opening of a WebSocket, which no browser keeps to its own origin (OWASP ASVS 5.0, 4.4.2)."""
    if not (facts.has_cookie or demand.anonymous or _is_authorized_by_browser(facts.authorization)):
        return None
    if len(facts.origin) != 1 or b"," in facts.origin[0]:
        return Rejection("csrf_origin", "a WebSocket's handshake needs one Origin")
    origin = origin_in_header(facts.origin[0])
    if origin is None or origin == NULL:
        return Rejection("csrf_origin", "a WebSocket's handshake with an Origin that is none")
    if origin in policy.trusted_origins:
        return None
    # Behind a proxy that ended TLS the Host alone does not tell http from https; the browser does.
    if any(site in b",".join(facts.site) for site in (b"cross-site", b"same-site")):
        return Rejection("csrf_site", "a WebSocket's handshake from another site")
    if origin in origins or (not origins and _is_host(origin, facts)):
        return None
    return Rejection("csrf_origin", f"a WebSocket's handshake from {origin}, which is none of the application's")


def _check_token(token: TokenState, reason: str, policy: CSRF) -> Rejection | None:
    match token:
        case TokenState.VALID:
            return None
        case TokenState.UNREAD:
            return Rejection("csrf_token_missing", reason, needs_token=True)
        case TokenState.MISSING:
            places = f"the header {policy.header}, nor in the field {policy.field} of the body's first bytes"
            return Rejection("csrf_token_missing", f"{reason}, and no token is in {places} ({policy.body_limit})")
        case TokenState.STALE:
            return Rejection("csrf_stale", f"{reason}, and its token is from before the log-in or too old")
        case TokenState.USED:
            return Rejection("csrf_token_used", f"{reason}, and its token was used before")
        case TokenState.INVALID:
            return Rejection(
                "csrf_token_invalid", f"{reason}, and its token is not one of this session's, or of this form"
            )


def _is_host(origin: str, facts: Facts) -> bool:
    # The reverse is no sign of anything: a proxy may have ended TLS.
    if facts.is_secure and not origin.startswith("https:"):
        return False
    return authority_of(origin) == host_for(origin, facts.host)


def _is_authorized_by_browser(values: Sequence[bytes]) -> bool:
    return any(value.strip(b" \t").lower().startswith(_BY_THE_BROWSER) for value in values)


def _one(values: Sequence[bytes]) -> bytes:
    return b",".join(values).strip(b" \t")


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

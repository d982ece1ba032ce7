"""The verdict on a request that another site may have forged: pure, from what it says of itself, and of its token.

Standards: RFC 6454 (Origin), W3C Fetch Metadata, RFC 9110 (safe methods); OWASP ASVS 5.0, 3.5.1-3.5.3 and 4.4.2.
"""

from collections.abc import Collection
from typing import Final, NamedTuple

from server_session._origins import NULL, is_at, origin_in_header, origin_of_url
from server_session._tokens import TokenState
from server_session.csrf.policy import CSRF, SAFE_METHODS
from server_session.http.requests import Request

__all__ = ["Protection", "Rejection", "check", "check_token", "is_cross_site"]

# Schemes whose credentials a browser sends by itself, to whichever site asks (RFC 7617, 7616, 4559).
_BY_THE_BROWSER: Final = (b"basic", b"digest", b"negotiate", b"ntlm")

_NO_PASS: Final = {
    TokenState.STALE: ("csrf_stale", "is from before the log-in or too old"),
    TokenState.USED: ("csrf_token_used", "was used before"),
    TokenState.INVALID: ("csrf_token_invalid", "is not this session's, or not this form's"),
}

_SITES: Final = (b"cross-site", b"same-site", b"same-origin", b"none")


class Protection(NamedTuple):
    """What an endpoint asks beyond, or instead of, the application's policy; `csrf_protect` says what each means."""

    exempt: bool = False
    strict: bool = False
    every_method: bool = False
    anonymous: bool = False
    scoped: bool = False

    def is_met_by(self, other: "Protection") -> bool:
        """Tell whether a request that passed what the other asks has passed all that is asked here."""
        return not other.exempt and all(theirs or not own for own, theirs in zip(self, other, strict=True))


class Rejection(NamedTuple):
    """Why a request is refused."""

    code: str
    """Stable, and safe to show."""
    reason: str
    """For the log."""
    needs_token: bool = False
    """Whether a valid token lets it pass: it was not looked for yet, and `check_token` says what becomes of it."""


class _Undecided(NamedTuple):
    """The headers neither clear the request nor convict it."""

    reason: str
    excusable: bool = True
    """Whether a missing cookie excuses it."""


def check(
    request: Request,
    method: str,
    policy: CSRF,
    origins: Collection[str],
    asked: Protection,
    *,
    has_cookie: bool,
) -> Rejection | None:
    """Return why the request is refused, or `None` where it may pass.

    `method` is as the endpoint sees it, `origins` are the application's own, `()` where the `Host` header decides, and
    `has_cookie` is whether the session's cookie is there, whatever its value. The mode `"report"` is checked like
    `"layered"`: not to refuse is up to the caller.
    """
    if asked.exempt:
        return None
    # A handshake is checked as such, and then as what it is beside: by no header does a request choose the weaker.
    if request.is_websocket and (has_cookie or asked.anonymous or _is_authorized_by_browser(request)):
        rejection = _check_handshake(request, policy, origins)
        if rejection is not None:
            return rejection
    methods = {request.wire_method, method}
    is_safe = not asked.every_method and methods <= SAFE_METHODS
    # Handlers take a HEAD for what is not a GET, and write: so the headers decide whether another site sent it.
    if is_safe and "HEAD" not in methods:
        return None
    verdict = _verdict(request, policy, origins)
    if isinstance(verdict, Rejection):
        return verdict
    # No browser can send a token with a WebSocket: where that is served, and no HTTP, its Origin has decided.
    if is_safe or not request.is_http:
        return None
    if policy.mode == "strict" or asked.strict or asked.scoped:
        return _needs_token("every request needs a token here")
    if verdict is None or (verdict.excusable and not has_cookie and not asked.anonymous):
        return None
    return _needs_token(verdict.reason)


def check_token(rejection: Rejection, token: TokenState, policy: CSRF) -> Rejection | None:
    """Return why a request that needs a token is refused, or `None` where this one lets it pass."""
    if token is TokenState.VALID:
        return None
    if token is TokenState.MISSING:
        where = f"the header {policy.header} or the field {policy.field} of the body's first {policy.body_limit} bytes"
        why = f"{rejection.reason}, and no token in {where}, none of which are read where no session's cookie came"
        return Rejection("csrf_token_missing", f"{why}; a form of your own needs csrf_input(), a client the header")
    code, why = _NO_PASS[token]
    return Rejection(code, f"{rejection.reason}, and its token {why}")


def is_cross_site(request: Request, origins: Collection[str]) -> bool:
    """Tell whether another site sent this unsafe request, with which no `SameSite=Lax` cookie comes."""
    if request.wire_method in SAFE_METHODS:
        return False
    said = b",".join(request.header_values(b"sec-fetch-site"))
    if any(site in said for site in _SITES):
        return b"cross-site" in said
    named = map(origin_in_header, request.header_values(b"origin"))
    return any(origin is not None and not _is_own(origin, request, origins) for origin in named)


def _verdict(request: Request, policy: CSRF, origins: Collection[str]) -> Rejection | _Undecided | None:
    """Return the verdict of the headers; `None` is "allowed"."""
    values = request.header_values
    named, sites = values(b"origin"), values(b"sec-fetch-site")
    # A comma is how a WSGI server shows two lines.
    for name, lines in (("Origin", named), ("Sec-Fetch-Site", sites)):
        if len(lines) > 1 or any(b"," in line for line in lines):
            return Rejection("csrf_header", f"several {name} headers")
    origin = origin_in_header(named[0]) if named else ""
    if origin is None:
        return Rejection("csrf_header", "an Origin header that is no origin")
    if origin in policy.trusted_origins:
        return None
    site = sites[0].strip(b" \t") if sites else b""
    if site in (b"cross-site", b"same-site"):
        # A sibling domain is another site, and may be another's: whom to trust is said by name.
        whose = f", of Origin {origin}" if origin else ""
        return Rejection("csrf_site", f"Sec-Fetch-Site: {site.decode()}{whose}; {_IF_YOURS}")
    is_foreign = origin not in ("", NULL) and not _is_own(origin, request, origins)
    # Against the browser's own word the Host proves nothing: a proxy may have changed it.
    if is_foreign and (origins or site not in (b"same-origin", b"none")):
        return _foreign(f"Origin {origin}", origins)
    # Basic authorization and its like come by themselves too, so the missing cookie says nothing.
    excusable = origin != NULL and not _is_authorized_by_browser(request)
    if site == b"none":
        return _Undecided("Sec-Fetch-Site: none", excusable)
    if origin == NULL:
        return _Undecided("Origin: null", excusable)
    if site == b"same-origin":
        mode, dest = (b",".join(values(name)).strip(b" \t") for name in (b"sec-fetch-mode", b"sec-fetch-dest"))
        if mode == b"same-origin" or (mode == b"navigate" and dest in (b"", b"empty")) or b"," in mode + dest:
            # A service worker that passes requests on makes a sibling's form look like this, with our own Origin.
            return _Undecided("it may come through a service worker", excusable=False)
        if not is_foreign:
            return None
        return _Undecided(f"Origin {origin} is not the Host (configure origin= for a proxy)", excusable)
    if origin:
        return None if origins else _Undecided("Origin equals the Host alone", excusable)
    for value in values(b"referer"):
        # What says that there is none (RFC 9110, 10.1.3).
        if value.strip(b" \t") in (b"", b"about:blank"):
            continue
        referer = origin_of_url(value)
        if referer is None or not (referer in policy.trusted_origins or _is_own(referer, request, origins)):
            return _foreign(f"Referer of {referer or 'no origin'}", origins)
    return _Undecided("neither Origin nor Sec-Fetch-Site", excusable)


def _check_handshake(request: Request, policy: CSRF, origins: Collection[str]) -> Rejection | None:
    """Check the opening of a WebSocket, which no browser keeps to its own origin (OWASP ASVS 5.0, 4.4.2)."""
    named = request.header_values(b"origin")
    origin = origin_in_header(named[0]) if len(named) == 1 else None
    if origin is None or origin == NULL:
        return Rejection("csrf_origin", "a WebSocket's handshake needs one Origin")
    if origin in policy.trusted_origins:
        return None
    # Behind a proxy that ended TLS the Host alone does not tell http from https; the browser does.
    sites = b",".join(request.header_values(b"sec-fetch-site"))
    if b"cross-site" in sites or b"same-site" in sites:
        return Rejection("csrf_site", "a WebSocket's handshake from another site")
    if _is_own(origin, request, origins):
        return None
    return _foreign(f"the Origin {origin} of a WebSocket's handshake", origins)


_IF_YOURS: Final = "if that is a site of yours, name it in origin= or CSRF(trusted_origins=)"


def _foreign(what: str, origins: Collection[str]) -> Rejection:
    if origins:
        return Rejection("csrf_origin", f"{what} is none of the application's; {_IF_YOURS}")
    hint = "where a proxy changes that, configure origin="
    return Rejection("csrf_origin", f"{what} is none of the application's, as far as the Host tells: {hint}")


def _needs_token(reason: str) -> Rejection:
    return Rejection("csrf_token_missing", reason, needs_token=True)


def _is_own(origin: str, request: Request, origins: Collection[str]) -> bool:
    if origins:
        return origin in origins
    # The reverse is no sign of anything: a proxy may have ended TLS.
    if request.scheme.lower() in ("https", "wss") and not origin.startswith("https:"):
        return False
    return is_at(origin, request.host)


def _is_authorized_by_browser(request: Request) -> bool:
    values = request.header_values(b"authorization")
    return any(value.strip(b" \t").lower().startswith(_BY_THE_BROWSER) for value in values)

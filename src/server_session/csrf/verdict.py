"""The verdict on a request that another site may have forged: pure, from what it says of itself and of its token.

Standards: RFC 6454 (Origin), W3C Fetch Metadata, RFC 9110 (safe methods); OWASP ASVS 5.0, 3.5.1-3.5.3 and 4.4.2.
"""

from collections.abc import Collection, Sequence
from typing import Final, NamedTuple

from server_session._origins import NULL, authority_of, host_for, origin_in_header, origin_of_url
from server_session._tokens import TokenState
from server_session.csrf.policy import CSRF, SAFE_METHODS

__all__ = ["NOTHING_MORE", "Demand", "Facts", "Rejection", "check", "is_cross_site"]

# Schemes whose credentials a browser sends by itself, to whichever site asks (RFC 7617, 7616, 4559).
_BY_THE_BROWSER: Final = (b"basic", b"digest", b"negotiate", b"ntlm")

_SITES: Final = (b"cross-site", b"same-site", b"same-origin", b"none")


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

    def is_met_by(self, other: "Demand") -> bool:
        """Tell whether a request that passed what the other asks has passed all that is asked here."""
        return not other.exempt and all(theirs or not own for own, theirs in zip(self, other, strict=True))


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
    if facts.method in SAFE_METHODS:
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

"""The cookie: how a credential reaches the application, and how it is put into a browser.

Standards: RFC 6265bis, and draft-ietf-httpbis-layered-cookies where it adds to that (the `__Http-` prefixes).
"""

import copy
import math
import re
from abc import abstractmethod
from collections.abc import Iterable, Sequence
from datetime import timedelta
from typing import Any, Final, Never, Protocol, TypeAlias

from server_session import _cookie_attributes as attributes
from server_session._settings import flag_of, seconds_if_given, unknown_option
from server_session.exceptions import ConfigurationError

__all__ = ["CREDENTIAL", "LONGEST_KEPT", "CookieHandler", "CookieTransport", "Header", "RequestFacts", "cookie_values"]

Header: TypeAlias = tuple[bytes, bytes]
"""A response header: its name in lower case, and its value."""

_BLANK: Final = b" \t"
CREDENTIAL: Final = re.compile(r"[A-Za-z0-9_-]{64}")
_READ_AT_MOST: Final = 4
LONGEST_KEPT: Final = 400 * 24 * 60 * 60.0
"""For how many seconds a browser keeps a cookie at the most (RFC 6265bis, 5.5)."""
# Many proxies refuse a response with more than 4 KiB of headers: cookies that a sibling domain sets must not cause it.
_ELSEWHERE_BYTES: Final = 2048
# No Expires: a browser that has Max-Age ignores it (RFC 6265bis, 5.7), and all have.
_PAST: Final = "; Max-Age=0"


def cookie_values(headers: Iterable[bytes], name: bytes) -> list[bytes]:
    """Return the values of every cookie of this name, in the order in which they came.

    `headers` are the raw values of the `Cookie` headers. Nothing is decoded and nothing unquoted; it never raises.
    """
    # A browser sends bytes and checks a name's prefix on bytes. Whoever reads more leniently than it did (other
    # blanks trimmed, other separators, quotes, %-escapes, another case) reads names that it never allowed.
    values: list[bytes] = []
    for header in headers:
        for pair in header.split(b";") if name in header else ():
            key, equals, value = pair.partition(b"=")
            if equals and key.strip(_BLANK) == name:
                values.append(value.strip(_BLANK))
    return values


class RequestFacts(Protocol):
    """What a transport may know of a request."""

    @property
    def cookie_headers(self) -> Sequence[bytes]:
        """The raw values of the `Cookie` headers, in order."""
        ...

    @property
    def scheme(self) -> str:
        """`http`, `https`, `ws` or `wss`."""
        ...

    @property
    def host(self) -> str | None:
        """The `Host` header, with its port if it has one."""
        ...

    @property
    def path(self) -> str:
        """The path that the browser asked for, without the query."""
        ...

    def header_values(self, name: bytes) -> Sequence[bytes]:
        """Return the raw values of a header, in order; `name` in lower case."""
        ...


class CookieTransport(Protocol):
    """How a session's credential comes with a request and goes out with a response.

    `CookieHandler` is the one to use. To carry the credential otherwise (a header of one's own, a signed cookie),
    subclass this and define `read`, `write` and `destroy`. A credential is 64 characters of base64url.
    """

    @abstractmethod
    def read(self, request: RequestFacts) -> list[str]:
        """Return the credentials that the request presents, the most specific first; never raise."""

    @abstractmethod
    def write(self, request: RequestFacts, value: str, lifetime: float | None) -> list[Header]:
        """Return the headers to add to the response so that the browser presents `value` from now on.

        `lifetime` is in seconds, 0 for until the browser closes, `None` to leave it to the transport.
        """

    @abstractmethod
    def destroy(self, request: RequestFacts) -> list[Header]:
        """Return the headers to add to the response so that the browser presents nothing from now on."""

    name: str = ""
    """The cookie's name, where it is one."""

    place: tuple[str, str | None, str] | None = None
    """What tells a cookie from others in a browser, where it is one: its name, its domain and its path."""

    withheld_cross_site: bool = False
    """Whether browsers leave it out of a POST that another site makes (RFC 6265bis, 5.2, `Lax` and `Strict`)."""

    def is_present(self, request: RequestFacts) -> bool:
        """Tell whether the request presents anything in the credential's place, be it well-formed or not."""
        return bool(self.read(request))

    def expire_elsewhere(self, request: RequestFacts) -> list[Header]:  # noqa: ARG002
        """Return the headers that remove rivals of the credential; to be added before those of `write`."""
        return []

    def bind(self, origin_is_https: bool) -> "CookieTransport":  # noqa: ARG002
        """Return the transport for an application whose public origin is configured."""
        return self


class CookieHandler(CookieTransport):
    """The session's cookie: its name and its attributes (RFC 6265bis).

    Args:
        name: a token. By default `session`; with an https origin configured `__Host-session`, or
            `__Secure-session` where `path` or `domain` rules the former out.
        path: the path below which the browser sends it.
        domain: the domain that shares it with all its subdomains; `None` for this host alone.
        secure: whether only https carries it. `None` is by the configured origin, or else by the request's scheme;
            what cannot be without it (a prefixed name, `same_site="none"`, `partitioned`) implies it.
        http_only: whether it is hidden from scripts.
        same_site: `"lax"`, `"strict"` or `"none"`.
        max_age: seconds, or a timedelta, that the browser keeps it; `None` for until it closes. Browsers keep none
            for more than 400 days.
        partitioned: whether an embedded application gets a cookie of its own under each embedding site.

    Raises:
        ConfigurationError: an attribute, or two together, with which no browser would keep the cookie.

    """

    def __init__(
        self,
        name: str | None = None,
        *,
        path: str = "/",
        domain: str | None = None,
        secure: bool | None = None,
        http_only: bool = True,
        same_site: str = "lax",
        max_age: float | timedelta | None = None,
        partitioned: bool = False,
        **others: Never,
    ) -> None:
        for keyword in others:
            raise unknown_option("CookieHandler", keyword, attributes.OPTIONS, attributes.HINTS)
        self.name = attributes.name("session" if name is None else name)
        self.path: Final = attributes.path(path)
        self.domain: Final = None if domain is None else attributes.domain(domain)
        self.http_only: Final = flag_of("the cookie's `http_only`", http_only)
        self.same_site: Final = attributes.same_site(same_site)
        self.withheld_cross_site = self.same_site != "none"
        self.max_age: Final = seconds_if_given("the cookie's max_age", max_age)
        self.partitioned: Final = flag_of("the cookie's `partitioned`", partitioned)
        self.is_named: Final = name is not None
        self._given_secure: Final = None if secure is None else flag_of("the cookie's `secure`", secure)

        # Browsers compare the prefix without regard to case; that `__Host-Http-` is a `__Host-` too is meant.
        lowered = self.name.lower()
        self._is_host_locked: Final = lowered.startswith("__host-")
        demands_secure = {
            "the prefix of its name": lowered.startswith(("__secure-", "__host-", "__http-")),
            'same_site="none"': self.same_site == "none",
            "`partitioned`": self.partitioned,
        }
        self._secure_because: Final = next((reason for reason, holds in demands_secure.items() if holds), None)
        is_script_locked = lowered.startswith(("__http-", "__host-http-"))
        no_browser_keeps = (
            (self._is_host_locked and path != "/", f'`__Host-` needs path="/", not {path!r}'),
            (self._is_host_locked and domain is not None, "`__Host-` allows no domain; leave `domain` out"),
            (is_script_locked and not http_only, "this prefix needs http_only=True"),
            (self._secure_because and secure is False, f"{self._secure_because} needs Secure; leave `secure` out"),
        )
        for holds, contradiction in no_browser_keeps:
            if holds:
                raise ConfigurationError(f"the cookie {self.name!r}: {contradiction}")
        self.secure: Final = True if self._secure_because else self._given_secure
        self._wire_name: Final = self.name.encode("ascii")
        # It finds what `cookie_values` does, credentials alone. `read` puts a semicolon before the first cookie too.
        self._credentials_in: Final = re.compile(
            rf";[ \t]*{re.escape(self.name)}[ \t]*=[ \t]*({CREDENTIAL.pattern})[ \t]*(?![^;])"
        ).findall
        self.place = self.name, self.domain, self.path
        self._where: Final = _where(self.domain, self.path)
        partition = "; Partitioned" if self.partitioned else ""
        self._end: Final = f"{'; HttpOnly' if http_only else ''}; SameSite={self.same_site.title()}{partition}"

    def bind(self, origin_is_https: bool) -> "CookieHandler":
        """Return the handler for this origin; raises `ConfigurationError` where the two cannot go together."""
        if origin_is_https and self._given_secure is False:
            raise ConfigurationError(f"the cookie {self.name!r}: secure=False and the origin is https: leave it out")
        # Browsers keep a Secure cookie from plain http only where it is loopback: who means that says secure=True.
        if not origin_is_https and self._secure_because and self._given_secure is None:
            raise ConfigurationError(
                f"the cookie {self.name!r}: {self._secure_because} needs Secure and the origin is http; configure "
                "an https origin, or set secure=True if the origin is loopback"
            )
        name = self.name if self.is_named else None
        if name is None and origin_is_https:
            name = "__Host-session" if self.path == "/" and self.domain is None else "__Secure-session"
        return self.replace(name=name, secure=origin_is_https if self._given_secure is None else self._given_secure)

    def replace(self, **given: Any) -> "CookieHandler":
        """Return a handler with some attributes in place of this one's; what was left open here stays open."""
        stands = {option: getattr(self, option) for option in attributes.OPTIONS}
        stands |= {"name": self.name if self.is_named else None, "secure": self._given_secure}
        # Of the same class, with what an application's own subclass has besides.
        other = copy.copy(self)
        CookieHandler.__init__(other, **{**stands, **given})
        return other

    def read(self, request: RequestFacts) -> list[str]:
        """Return up to four well-formed credentials, in the order in which they came; never raise."""
        found: list[str] = []
        for header in request.cookie_headers:
            found += self._credentials_in(";" + header.decode("latin-1"))
        # The same credential twice is still one visitor.
        return list(dict.fromkeys(found))[:_READ_AT_MOST] if found[1:] else found

    def is_present(self, request: RequestFacts) -> bool:
        """Tell whether the request has a cookie of this name, whatever its value and however many there are."""
        return bool(cookie_values(request.cookie_headers, self._wire_name))

    def write(self, request: RequestFacts, value: str, lifetime: float | None) -> list[Header]:
        """Return the `Set-Cookie` header; `lifetime` is by default `max_age`. Raises `ValueError` for no credential."""
        # The value stays out of the message: whoever reads the log could use it.
        if CREDENTIAL.fullmatch(value) is None:
            raise ValueError("a session's cookie holds 64 characters of base64url, and nothing else")
        age = ""
        if seconds := self.max_age if lifetime is None else lifetime:
            # Rounded up, for Max-Age=0 would delete the cookie.
            age = f"; Max-Age={math.ceil(min(max(seconds, 0), LONGEST_KEPT))}"
        return [self._header(request, value, self._where, age)]

    def destroy(self, request: RequestFacts) -> list[Header]:
        """Return the `Set-Cookie` header that removes the cookie."""
        return [self._header(request, "", self._where, _PAST)]

    def expire_elsewhere(self, request: RequestFacts) -> list[Header]:
        """Return `Set-Cookie` headers that remove rivals: cookies of this name on other domains and paths.

        Empty unless the request presents several. Every place from which a browser could have sent one is named, to
        8 domains, 8 paths and 2,048 bytes.
        """
        # A cookie with the prefix can be nowhere else, and a browser would refuse these headers.
        headers = request.cookie_headers
        if self._is_host_locked or not headers or len(cookie_values(headers, self._wire_name)) <= 1:
            return []
        rivals: list[Header] = []
        size = 0
        for domain, path in attributes.places_of(request.host, request.path):
            if (domain, path) != (self.domain, self.path):
                header = self._header(request, "", _where(domain, path), _PAST)
                size += len(header[0]) + len(header[1])
                if size > _ELSEWHERE_BYTES:
                    break
                rivals.append(header)
        return rivals

    def _header(self, request: RequestFacts, value: str, where: str, age: str) -> Header:
        secure = request.scheme.lower() in ("https", "wss") if self.secure is None else self.secure
        text = f"{self.name}={value}{where}{age}{'; Secure' if secure else ''}{self._end}"
        return (b"set-cookie", text.encode("ascii"))


def _where(domain: str | None, path: str) -> str:
    return f"{f'; Domain={domain}' if domain else ''}; Path={path}"

"""The cookie: how a credential reaches the application, and how it is put into a browser.

Standards: RFC 6265bis, and draft-ietf-httpbis-layered-cookies where it adds to that (the `__Http-` prefixes).
"""

import math
import re
import time
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import timedelta
from typing import Any, Final, Never, Protocol, TypeAlias

from server_session._cookie_attributes import (
    DOMAIN,
    DOMAIN_BYTES,
    PATH,
    PATH_BYTES,
    SAME_SITE,
    checked_domain,
    checked_flag,
    checked_name,
    checked_path,
    checked_same_site,
    unknown_option,
)
from server_session._durations import seconds_of
from server_session.exceptions import ConfigurationError

__all__ = ["CookieHandler", "CookieTransport", "Header", "RequestFacts", "cookie_values"]


Header: TypeAlias = tuple[bytes, bytes]
"""A response header: its name in lower case, and its value."""

_BLANK: Final = b" \t"
_CREDENTIAL: Final = re.compile(r"[A-Za-z0-9_-]{64}", re.ASCII)
_PORT: Final = re.compile(r":[0-9]*\Z")

_READ_AT_MOST: Final = 4
# A browser keeps no cookie for longer (RFC 6265bis, 5.5).
_LONGEST: Final = 400 * 24 * 60 * 60

_ELSEWHERE_DOMAINS: Final = 8
_ELSEWHERE_PATHS: Final = 8
# Many proxies refuse a response with more than 4 KiB of headers: who tosses cookies must not bring that about.
_ELSEWHERE_BYTES: Final = 2048


_DAYS: Final = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS: Final = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


def cookie_values(headers: Iterable[bytes], name: bytes) -> list[bytes]:
    """Return the values of every cookie of this name, in the order in which they came.

    `headers` are the raw values of the `Cookie` headers. Nothing is decoded and nothing unquoted; it never raises.
    """
    # A browser sends bytes and checks a name's prefix on bytes. Whoever reads more leniently than it did (other
    # blanks trimmed, other separators, quotes, %-escapes, another case) reads names that it never allowed.
    values: list[bytes] = []
    for header in headers:
        if name not in header:
            continue
        for pair in header.split(b";"):
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

    @property
    def client_address(self) -> str | None:
        """The address of the client's end of the connection, as the server knows it; `None` where it does not."""
        return None

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
        raise NotImplementedError

    @abstractmethod
    def write(self, request: RequestFacts, value: str, lifetime: float | None) -> list[Header]:
        """Return the headers to add to the response so that the browser presents `value` from now on.

        `lifetime` is in seconds, 0 for until the browser closes, `None` to leave it to the transport.
        """
        raise NotImplementedError

    @abstractmethod
    def destroy(self, request: RequestFacts) -> list[Header]:
        """Return the headers to add to the response so that the browser presents nothing from now on."""
        raise NotImplementedError

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
        clock: the time in seconds since 1970, from which Expires is written.

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
        clock: Callable[[], float] = time.time,
        **unknown: Never,
    ) -> None:
        for keyword in unknown:
            raise ConfigurationError(unknown_option(keyword))
        self.name: Final = checked_name("session" if name is None else name)
        self.path: Final = checked_path(path)
        self.domain: Final = None if domain is None else checked_domain(domain)
        self.http_only: Final = checked_flag("http_only", http_only)
        self.same_site: Final = checked_same_site(same_site)
        self.withheld_cross_site = self.same_site != "none"
        self.max_age: Final = None if max_age is None else seconds_of("the cookie's max_age", max_age)
        self.partitioned: Final = checked_flag("partitioned", partitioned)
        self._clock: Final = clock
        self._given_name: Final = name
        self._given_secure: Final = secure if secure is None else checked_flag("secure", secure)

        # Browsers compare the prefix without regard to case; that `__Host-Http-` is a `__Host-` too is meant.
        lowered = self.name.lower()
        self._is_host_locked: Final = lowered.startswith("__host-")
        if self._is_host_locked and self.path != "/":
            raise ConfigurationError(f'the cookie {self.name!r}: `__Host-` needs path="/", not {self.path!r}')
        if self._is_host_locked and self.domain is not None:
            raise ConfigurationError(f"the cookie {self.name!r}: `__Host-` allows no domain; leave `domain` out")
        if lowered.startswith(("__http-", "__host-http-")) and not self.http_only:
            raise ConfigurationError(f"the cookie {self.name!r}: this prefix needs http_only=True")

        self._secure_because: Final = self._demand_of_secure(lowered)
        if self._secure_because and secure is False:
            raise ConfigurationError(
                f"the cookie {self.name!r}: {self._secure_because} needs Secure; leave `secure` out, or set it to True"
            )
        self.secure: Final = True if self._secure_because else self._given_secure
        self._wire_name: Final = self.name.encode("ascii")
        # What `cookie_values` finds, where it is a credential.
        self._well_formed: Final = re.compile(
            rb"(?:\A|;)[ \t]*%b[ \t]*=[ \t]*([A-Za-z0-9_-]{64})[ \t]*(?=;|\Z)" % re.escape(self._wire_name)
        ).findall

    def _demand_of_secure(self, lowered: str) -> str | None:
        if lowered.startswith(("__secure-", "__host-", "__http-")):
            return "the prefix of its name"
        if self.same_site == "none":
            return 'same_site="none"'
        if self.partitioned:
            return "`partitioned`"
        return None

    @property
    def is_named(self) -> bool:
        """Whether a name was given, as opposed to one that follows from the origin."""
        return self._given_name is not None

    def __repr__(self) -> str:
        return (
            f"CookieHandler({self.name!r}, path={self.path!r}, domain={self.domain!r}, secure={self.secure!r}, "
            f"http_only={self.http_only!r}, same_site={self.same_site!r}, max_age={self.max_age!r}, "
            f"partitioned={self.partitioned!r})"
        )

    def bind(self, origin_is_https: bool) -> "CookieHandler":
        """Return this handler for an application whose public origin is configured.

        Raises:
            ConfigurationError: the origin and the cookie cannot go together.

        """
        if origin_is_https and self._given_secure is False:
            raise ConfigurationError(
                f"the cookie {self.name!r} has secure=False and the origin is https: leave `secure` out"
            )
        # Browsers keep a Secure cookie from plain http only where it is loopback: who means that says secure=True.
        if not origin_is_https and self._secure_because and self._given_secure is None:
            raise ConfigurationError(
                f"the cookie {self.name!r}: {self._secure_because} needs Secure and the origin is http; configure "
                "an https origin, or set secure=True if the origin is loopback"
            )
        name = self._given_name
        if name is None and origin_is_https:
            name = "__Host-session" if self.path == "/" and self.domain is None else "__Secure-session"
        return self.replace(name=name, secure=origin_is_https if self._given_secure is None else self._given_secure)

    def replace(self, **attributes: Any) -> "CookieHandler":
        """Return a handler with some attributes in place of this one's; what was left open here stays open.

        Raises:
            ConfigurationError: an attribute, or two together, with which no browser would keep the cookie.

        """
        given: dict[str, Any] = {
            "name": self._given_name,
            "path": self.path,
            "domain": self.domain,
            "secure": self._given_secure,
            "http_only": self.http_only,
            "same_site": self.same_site,
            "max_age": self.max_age,
            "partitioned": self.partitioned,
            "clock": self._clock,
        }
        return CookieHandler(**{**given, **attributes})

    def read(self, request: RequestFacts) -> list[str]:
        """Return up to four well-formed credentials, in the order in which they came; never raise."""
        found: list[bytes] = []
        for header in request.cookie_headers:
            if self._wire_name in header:
                found += self._well_formed(header)
        if not found[1:]:
            return [found[0].decode("ascii")] if found else []
        # The same credential twice is still one visitor.
        return [value.decode("ascii") for value in list(dict.fromkeys(found))[:_READ_AT_MOST]]

    def is_present(self, request: RequestFacts) -> bool:
        """Tell whether the request has a cookie of this name, whatever its value and however many there are."""
        return bool(cookie_values(request.cookie_headers, self._wire_name))

    def write(self, request: RequestFacts, value: str, lifetime: float | None) -> list[Header]:
        """Return the `Set-Cookie` header for a credential.

        `lifetime` is in seconds; 0 is until the browser closes, `None` the handler's own `max_age`.

        Raises:
            ValueError: `value` is not 64 characters of base64url.

        """
        # The value stays out of the message: whoever reads the log could use it.
        if _CREDENTIAL.fullmatch(value) is None:
            raise ValueError("a session's cookie holds 64 characters of base64url, and nothing else")
        seconds = self.max_age if lifetime is None else lifetime
        if not seconds:
            return [self._header(request, value, self.domain, self.path, "")]
        # Rounded up, for Max-Age=0 would delete the cookie.
        whole = math.ceil(min(max(seconds, 0), _LONGEST))
        age = f"; Max-Age={whole}; Expires={_http_date(self._clock() + whole)}"
        return [self._header(request, value, self.domain, self.path, age)]

    def destroy(self, request: RequestFacts) -> list[Header]:
        """Return the `Set-Cookie` header that removes the cookie."""
        return [self._header(request, "", self.domain, self.path, f"; Max-Age=0; Expires={_http_date(0)}")]

    def expire_elsewhere(self, request: RequestFacts) -> list[Header]:
        """Return `Set-Cookie` headers that remove rivals: cookies of this name on other domains and paths.

        Empty unless the request presents several. They are to be added before the header that sets the cookie.
        Every place from which a browser could have sent one is named, to 8 domains, 8 paths and 2,048 bytes.
        """
        # A cookie with the prefix can be nowhere else, and a browser would refuse these headers.
        headers = request.cookie_headers
        if self._is_host_locked or not headers or len(cookie_values(headers, self._wire_name)) <= 1:
            return []
        domains = [None, *_domains_of(request.host)][: _ELSEWHERE_DOMAINS + 1]
        rivals: list[Header] = []
        size = 0
        for path in _paths_to(request.path):
            for domain in domains:
                if (domain, path) == (self.domain, self.path):
                    continue
                header = self._header(request, "", domain, path, "; Max-Age=0")
                size += len(header[0]) + len(header[1])
                if size > _ELSEWHERE_BYTES:
                    return rivals
                rivals.append(header)
        return rivals

    def _header(self, request: RequestFacts, value: str, domain: str | None, path: str, age: str) -> Header:
        secure = request.scheme.lower() in ("https", "wss") if self.secure is None else self.secure
        text = (
            f"{self.name}={value}"
            f"{f'; Domain={domain}' if domain else ''}; Path={path}{age}"
            f"{'; Secure' if secure else ''}{'; HttpOnly' if self.http_only else ''}"
            f"; SameSite={SAME_SITE[self.same_site]}{'; Partitioned' if self.partitioned else ''}"
        )
        return (b"set-cookie", text.encode("ascii"))


def _domains_of(host: str | None) -> list[str]:
    """Return the domains whose cookies reach this host, itself first; none for an address or a single label."""
    name = _PORT.sub("", (host or "")[: DOMAIN_BYTES + 6]).lower()
    labels = name.split(".")
    # No top-level domain begins with a digit; an IPv6 address is no domain by its colons.
    if len(name) > DOMAIN_BYTES or not DOMAIN.fullmatch(name) or labels[-1][0].isdigit():
        return []
    return [".".join(labels[start:]) for start in range(len(labels) - 1)]


def _paths_to(path: str) -> list[str]:
    """Return the cookie paths that match this path, the shortest first."""
    paths: list[str] = []
    for prefix in _prefixes_of(path):
        # A decoded path can hold what no header may; no cookie path can be told beyond that.
        if not PATH.fullmatch(prefix) or len(prefix) > PATH_BYTES or len(paths) == _ELSEWHERE_PATHS:
            break
        if prefix not in paths:
            paths.append(prefix)
    return paths


def _prefixes_of(path: str) -> Iterator[str]:
    yield "/"
    slash = path.find("/", 1)
    while slash != -1:
        # To a browser `/a` and `/a/` are two cookies' paths, and both match `/a/b`.
        yield path[:slash]
        yield path[: slash + 1]
        slash = path.find("/", slash + 1)
    yield path


def _http_date(timestamp: float) -> str:
    """Return the time as an IMF-fixdate (RFC 9110, 5.6.7)."""
    # Not strftime, which speaks the process's locale.
    now = time.gmtime(timestamp)
    clock = f"{now.tm_hour:02}:{now.tm_min:02}:{now.tm_sec:02}"
    return f"{_DAYS[now.tm_wday]}, {now.tm_mday:02} {_MONTHS[now.tm_mon - 1]} {now.tm_year:04} {clock} GMT"

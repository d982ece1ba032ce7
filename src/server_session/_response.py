"""What a session asks of a response's headers: its cookie, beside others', and that no cache mixes visitors up."""

import logging
from collections.abc import Callable, Iterable
from typing import Any, Final, Protocol

from server_session._cookies import Header
from server_session.exceptions import CarrierError

__all__ = [
    "AsgiHeaders",
    "ResponseHeaders",
    "WsgiHeaders",
    "add_cookies",
    "headers_of",
    "never_store",
    "vary_on_cookie",
]

_LOG: Final = logging.getLogger("server_session")

# Directives by which a shared cache, or one CDN or another, would keep what belongs to one visitor (RFC 9111, 5.2.2).
_PUBLIC: Final = frozenset({"public", "s-maxage", "proxy-revalidate", "stale-while-revalidate", "stale-if-error"})
_KEPT: Final = frozenset({"must-revalidate", "no-transform", "no-cache"})
_CDN_HEADERS: Final = (
    "cdn-cache-control",
    "surrogate-control",
    "cloudflare-cdn-cache-control",
    "vercel-cdn-cache-control",
    "netlify-cdn-cache-control",
    "akamai-cache-control",
    "edge-control",
    "x-accel-expires",
)


class ResponseHeaders(Protocol):
    """A response's headers, as far as a session changes them. Names in lower case."""

    def all(self, name: str) -> list[str]:
        """Return the values of a header, in order."""
        ...

    def add(self, name: str, value: str) -> None:
        """Add a header beside others of its name."""
        ...

    def drop(self, name: str) -> None:
        """Remove every header of this name."""
        ...


class AsgiHeaders(ResponseHeaders):
    """The `headers` of an ASGI message."""

    def __init__(self, headers: Iterable[tuple[bytes, bytes]]) -> None:
        self.raw: list[tuple[bytes, bytes]] = [(name, value) for name, value in headers]

    def all(self, name: str) -> list[str]:
        """Return the values of a header."""
        wanted = name.encode("latin-1")
        return [value.decode("latin-1") for key, value in self.raw if key.lower() == wanted]

    def add(self, name: str, value: str) -> None:
        """Add a header."""
        self.raw.append((name.encode("latin-1"), value.encode("latin-1")))

    def drop(self, name: str) -> None:
        """Remove every header of this name."""
        wanted = name.encode("latin-1")
        self.raw = [(key, value) for key, value in self.raw if key.lower() != wanted]


class WsgiHeaders(ResponseHeaders):
    """The header list that a WSGI application gives to `start_response`."""

    def __init__(self, headers: Iterable[tuple[str, str]]) -> None:
        self.raw = list(headers)

    def all(self, name: str) -> list[str]:
        """Return the values of a header."""
        return [value for key, value in self.raw if key.lower() == name]

    def add(self, name: str, value: str) -> None:
        """Add a header."""
        self.raw.append(("-".join(part.capitalize() for part in name.split("-")), value))

    def drop(self, name: str) -> None:
        """Remove every header of this name."""
        self.raw = [(key, value) for key, value in self.raw if key.lower() != name]


class _MultiDictHeaders(ResponseHeaders):
    """The `headers` of a response object that can hold a name several times."""

    def __init__(self, headers: Any, several: str, add: str) -> None:
        self._headers = headers
        self._several: Callable[[str], Iterable[str] | None] = getattr(headers, several)
        self._add: Callable[[str, str], object] = getattr(headers, add)

    def all(self, name: str) -> list[str]:
        """Return the values of a header."""
        try:
            return list(self._several(name) or ())
        except KeyError:
            return []

    def add(self, name: str, value: str) -> None:
        """Add a header."""
        self._add(name, value)

    def drop(self, name: str) -> None:
        """Remove every header of this name."""
        if name in self._headers:
            del self._headers[name]


class _DjangoHeaders(ResponseHeaders):
    """Django's response: its cookies stand apart from its headers."""

    def __init__(self, response: Any) -> None:
        self._response = response

    def all(self, name: str) -> list[str]:
        """Return the values of a header."""
        if name == "set-cookie":
            return [morsel.OutputString() for morsel in self._response.cookies.values()]
        value = self._response.headers.get(name)
        return [] if value is None else [str(value)]

    def add(self, name: str, value: str) -> None:
        """Add a header."""
        if name != "set-cookie":
            self._response.headers[name] = value
            return
        # Late, for http.cookies is a part of every import's cost and only Django has cookies of its kind.
        from server_session._morsel import RawMorsel

        morsel = RawMorsel(value)
        # Several cookies of one name, on other domains and paths, need keys of their own.
        key = morsel.key
        while key in self._response.cookies:
            key += ";"
        dict.__setitem__(self._response.cookies, key, morsel)

    def drop(self, name: str) -> None:
        """Remove every header of this name."""
        if name == "set-cookie":
            self._response.cookies.clear()
        elif name in self._response.headers:
            del self._response.headers[name]


def headers_of(response: Any) -> ResponseHeaders:
    """Return the headers of a framework's response object; raises `CarrierError` if it has none that can be set."""
    headers = getattr(response, "headers", None)
    if hasattr(response, "cookies") and hasattr(response, "set_signed_cookie"):
        return _DjangoHeaders(response)
    if headers is not None:
        for several in ("getall", "getlist", "get_list", "get_all"):
            for add in ("append", "add", "add_header"):
                if callable(getattr(headers, several, None)) and callable(getattr(headers, add, None)):
                    return _MultiDictHeaders(headers, several, add)
    raise CarrierError(
        f"{type(response).__name__} has no headers that a cookie can be added to: "
        "give the framework's response object after the request"
    )


def add_cookies(headers: ResponseHeaders, cookies: Iterable[Header], before: Iterable[Header] = ()) -> None:
    """Add Set-Cookie headers beside others', in the place of those that this session added `before`."""
    old = {(name, value) for name, value in before}
    if old:
        _take_back(headers, old)
    for name, value in cookies:
        headers.add(name.decode("latin-1"), value.decode("latin-1"))


def _take_back(headers: ResponseHeaders, old: set[Header]) -> None:
    for name in {name.decode("latin-1") for name, _ in old}:
        values = headers.all(name)
        kept = [value for value in values if (name.encode("latin-1"), value.encode("latin-1")) not in old]
        if len(kept) != len(values):
            headers.drop(name)
            for value in kept:
                headers.add(name, value)


def vary_on_cookie(headers: ResponseHeaders) -> None:
    """Say that the response depends on the cookie (RFC 9110, 12.5.5)."""
    values = headers.all("vary")
    names = [name.strip() for value in values for name in value.split(",") if name.strip()]
    if "*" in names or any(name.lower() == "cookie" for name in names):
        return
    headers.drop("vary")
    headers.add("vary", ", ".join([*names, "Cookie"]))


def never_store(headers: ResponseHeaders) -> None:
    """Say that no cache may keep the response (RFC 9111, 5.2.2.5): it carries a cookie or a token of one visitor."""
    directives = [
        directive.strip()
        for value in headers.all("cache-control")
        for directive in value.split(",")
        if directive.strip()
    ]
    names = {directive.partition("=")[0].strip().lower() for directive in directives}
    cdn = [name for name in _CDN_HEADERS if headers.all(name)]
    if (public := names & _PUBLIC) or cdn:
        _LOG.warning(
            "a response that carries a session's cookie or token was marked for shared caches (%s): taken out",
            ", ".join(sorted(public) + cdn),
        )
    for name in cdn:
        headers.drop(name)
    kept = [directive for directive in directives if directive.partition("=")[0].strip().lower() in _KEPT]
    headers.drop("cache-control")
    headers.add("cache-control", ", ".join(["private", "no-store", *kept]))

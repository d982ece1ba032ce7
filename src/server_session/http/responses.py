"""What a session asks of a response's headers: its cookie, beside others', and that no cache mixes visitors up."""

import logging
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, Final, Protocol

from server_session._cookies import Header
from server_session.exceptions import CarrierError

__all__ = [
    "AsgiHeaders",
    "MultiDictHeaders",
    "ResponseHeaders",
    "WsgiHeaders",
    "add_cookies",
    "headers_of",
    "is_response",
    "never_store",
    "register_response",
    "vary_on",
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


_WIRE_NAMES: Final = {name: name.encode("ascii") for name in ("set-cookie", "cache-control", "vary")}


class ResponseHeaders(Protocol):
    """A response's headers, as far as a session changes them. Names in lower case."""

    def names(self) -> Collection[str]:
        """Return the names of the headers that are there."""
        ...

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
        self.raw: list[tuple[bytes, bytes]] = list(map(tuple, headers))  # type: ignore[arg-type]
        self._names: list[str] | None = None

    def names(self) -> Collection[str]:
        """Return the names of the headers that are there."""
        if self._names is None:
            self._names = b"\n".join(dict(self.raw)).decode("latin-1").lower().split("\n")
        return self._names

    def all(self, name: str) -> list[str]:
        """Return the values of a header."""
        wanted = name.encode("latin-1")
        return [value.decode("latin-1") for key, value in self.raw if key.lower() == wanted]

    def add(self, name: str, value: str) -> None:
        """Add a header."""
        wire = _WIRE_NAMES[name] if name in _WIRE_NAMES else name.encode("latin-1")
        self.raw += [(wire, value.encode("latin-1"))]
        if self._names is not None:
            self._names += [name]

    def drop(self, name: str) -> None:
        """Remove every header of this name."""
        wanted = name.encode("latin-1")
        self.raw = [(key, value) for key, value in self.raw if key.lower() != wanted]
        self._names = None


class WsgiHeaders(ResponseHeaders):
    """The header list that a WSGI application gives to `start_response`."""

    def __init__(self, headers: Iterable[tuple[str, str]]) -> None:
        self.raw = list(headers)

    def names(self) -> Collection[str]:
        """Return the names of the headers that are there."""
        return "\n".join([name for name, _ in self.raw]).lower().split("\n")

    def all(self, name: str) -> list[str]:
        """Return the values of a header."""
        return [value for key, value in self.raw if key.lower() == name]

    def add(self, name: str, value: str) -> None:
        """Add a header."""
        self.raw.append(("-".join(part.capitalize() for part in name.split("-")), value))

    def drop(self, name: str) -> None:
        """Remove every header of this name."""
        self.raw = [(key, value) for key, value in self.raw if key.lower() != name]


class MultiDictHeaders(ResponseHeaders):
    """The `headers` of a response object that can hold a name several times.

    Args:
        headers: the mapping.
        several: the name of its method that returns all values of a name.
        add: the name of its method that adds a value beside others.

    """

    def __init__(self, headers: Any, several: str, add: str) -> None:
        self._headers = headers
        self._several: Callable[[str], Iterable[str] | None] = getattr(headers, several)
        self._add: Callable[[str, str], object] = getattr(headers, add)

    def names(self) -> Collection[str]:
        """Return the names of the headers that are there."""
        return [name.lower() for name in self._headers.keys()]  # noqa: SIM118 - not all of them are mappings

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


class DjangoHeaders(ResponseHeaders):
    """Django's response: its cookies stand apart from its headers."""

    def __init__(self, response: Any) -> None:
        self._response = response

    def names(self) -> Collection[str]:
        """Return the names of the headers that are there."""
        return [name.lower() for name in self._response.headers]

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
        from server_session.http.morsel import RawMorsel

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


def _multi_dict(several: str, add: str) -> Callable[[Any], ResponseHeaders]:
    return lambda response: MultiDictHeaders(response.headers, several, add)


# By name, for none of these is imported before its framework is; a subclass is known by its base.
_KNOWN: Final[Mapping[str, Callable[[Any], ResponseHeaders]]] = {
    "starlette.responses.Response": _multi_dict("getlist", "append"),
    "werkzeug.sansio.response.Response": _multi_dict("getlist", "add"),
    "django.http.response.HttpResponseBase": DjangoHeaders,
    "aiohttp.web_response.StreamResponse": _multi_dict("getall", "add"),
    "sanic.response.types.BaseHTTPResponse": _multi_dict("getall", "add"),
    "webob.response.Response": _multi_dict("getall", "add"),
}

_makers: dict[type, Callable[[Any], ResponseHeaders] | None] = {}


def register_response(kind: type, headers: Callable[[Any], ResponseHeaders]) -> None:
    """Say how the headers of a framework's response objects of this type, and of its subclasses, are set.

    Args:
        kind: the type.
        headers: returns the headers of a response, as a `ResponseHeaders`; `MultiDictHeaders` is one over most.

    """
    for known in [one for one in _makers if issubclass(one, kind)]:
        del _makers[known]
    _registered[kind] = headers


_registered: dict[type, Callable[[Any], ResponseHeaders]] = {}


def _maker_of(kind: type) -> Callable[[Any], ResponseHeaders] | None:
    if kind not in _makers:
        found = (_registered.get(base) or _KNOWN.get(f"{base.__module__}.{base.__qualname__}") for base in kind.__mro__)
        _makers[kind] = next((one for one in found if one is not None), None)
    return _makers[kind]


def is_response(given: Any) -> bool:
    """Tell whether this is a response whose headers can be set."""
    return _maker_of(given.__class__) is not None


def headers_of(response: Any) -> ResponseHeaders:
    """Return the headers of a framework's response object; raises `CarrierError` if it has none that can be set."""
    make = _maker_of(response.__class__)
    if make is None:
        raise CarrierError(
            f"{type(response).__name__} has no headers that a cookie can be added to: "
            "give the framework's response object after the request "
            "(server_session.adapters.register_response says how those of another framework are set)"
        )
    return make(response)


def add_cookies(headers: ResponseHeaders, cookies: Iterable[Header], before: Collection[Header] = ()) -> None:
    """Add Set-Cookie headers beside others', in the place of those that this session added `before`."""
    if before:
        _take_back(headers, set(before))
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


def vary_on(headers: ResponseHeaders, *names: str) -> None:
    """Say that the response depends on these headers of the request (RFC 9110, 12.5.5)."""
    if "vary" not in headers.names():
        headers.add("vary", ", ".join(names) if names[1:] else names[0])
        return
    there = [name.strip() for value in headers.all("vary") for name in value.split(",") if name.strip()]
    known = {name.lower() for name in there}
    more = [name for name in names if name.lower() not in known]
    if more and "*" not in known:
        headers.drop("vary")
        headers.add("vary", ", ".join([*there, *more]))


def never_store(headers: ResponseHeaders) -> None:
    """Say that no cache may keep the response (RFC 9111, 5.2.2.5): it carries a cookie or a token of one visitor."""
    there = headers.names()
    cdn = [name for name in _CDN_HEADERS if name in there]
    if "cache-control" not in there and not cdn:
        headers.add("cache-control", "private, no-store")
        return
    directives = [
        directive.strip()
        for value in headers.all("cache-control")
        for directive in value.split(",")
        if directive.strip()
    ]
    names = {directive.partition("=")[0].strip().lower() for directive in directives}
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

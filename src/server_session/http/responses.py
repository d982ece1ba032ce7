"""What a session asks of a response's headers: its cookie, beside others', and that no cache mixes visitors up."""

import logging
from collections.abc import Callable, Collection, Iterable
from copy import copy
from functools import lru_cache
from typing import Any, Final, Protocol

from server_session._cookies import Header
from server_session.exceptions import CarrierError
from server_session.http.kinds import Kinds

__all__ = [
    "RESPONSES",
    "AsgiHeaders",
    "ResponseHeaders",
    "WsgiHeaders",
    "headers_of",
    "never_store",
    "own_copy",
    "register_response",
    "vary_on",
    "write_answer",
]

_LOG: Final = logging.getLogger("server_session")

# Directives by which a shared cache, or one CDN or another, would keep what belongs to one visitor (RFC 9111, 5.2.2).
_PUBLIC: Final = frozenset({"public", "s-maxage", "proxy-revalidate", "stale-while-revalidate", "stale-if-error"})
_KEPT: Final = frozenset({"must-revalidate", "no-transform", "no-cache"})
_CDN_HEADERS: Final = (
    *("cdn-cache-control", "surrogate-control", "cloudflare-cdn-cache-control", "vercel-cdn-cache-control"),
    *("netlify-cdn-cache-control", "akamai-cache-control", "edge-control", "x-accel-expires"),
)
_FOR_CACHES: Final = frozenset({"cache-control", *_CDN_HEADERS})


class ResponseHeaders(Protocol):
    """A response's headers, as far as a session changes them. Names are in lower case.

    `names` returns those that are there, `all` the values of one, in order; `add` adds one beside others of its name,
    and `drop` removes every one of this name. A subclass defines these four; `extend` adds several, in bytes.
    """

    def names(self) -> Collection[str]: ...
    def all(self, name: str) -> list[str]: ...
    def add(self, name: str, value: str) -> None: ...
    def drop(self, name: str) -> None: ...

    def extend(self, headers: Iterable[Header]) -> None:
        for name, value in headers:
            self.add(name.decode("latin-1"), value.decode("latin-1"))


@lru_cache(maxsize=256)
def _name_of(wire: bytes) -> str:
    return wire.decode("latin-1").lower()


class AsgiHeaders(ResponseHeaders):
    """The `headers` of an ASGI message; `raw` is those of the message to send."""

    def __init__(self, headers: Iterable[Header]) -> None:
        self.raw = [*headers]

    def names(self) -> Collection[str]:
        return [_name_of(name) for name, _ in self.raw]

    def all(self, name: str) -> list[str]:
        return [value.decode("latin-1") for key, value in self.raw if _name_of(key) == name]

    def add(self, name: str, value: str) -> None:
        self.raw.append((name.encode("latin-1"), value.encode("latin-1")))

    def extend(self, headers: Iterable[Header]) -> None:
        self.raw += headers

    def drop(self, name: str) -> None:
        self.raw = [(key, value) for key, value in self.raw if _name_of(key) != name]


class WsgiHeaders(ResponseHeaders):
    """The header list that a WSGI application gives to `start_response`; `raw` is the one to give on."""

    def __init__(self, headers: Iterable[tuple[str, str]]) -> None:
        self.raw = [*headers]

    def names(self) -> Collection[str]:
        return [name.lower() for name, _ in self.raw]

    def all(self, name: str) -> list[str]:
        return [value for key, value in self.raw if key.lower() == name]

    def add(self, name: str, value: str) -> None:
        self.raw.append((name.title(), value))

    def drop(self, name: str) -> None:
        self.raw = [(key, value) for key, value in self.raw if key.lower() != name]


# --- which objects are responses

RESPONSES: Final = Kinds[Callable[[Any], ResponseHeaders]]()
register_response: Final = RESPONSES.register
register_response(ResponseHeaders, lambda headers: headers)


def headers_of(response: Any) -> ResponseHeaders:
    """Return the headers of a framework's response object; raises `CarrierError` if it has none that can be set."""
    make = RESPONSES[response.__class__]
    if make is None:
        raise CarrierError(
            f"{type(response).__name__} has no headers that a cookie can be added to: "
            "give the framework's response object after the request "
            "(server_session.adapters.register_response says how those of another framework are set)"
        )
    return make(response)


def own_copy(response: Any) -> Any:
    """Return a response that is one request's alone: whoever made it may answer others with it, at the same time."""
    own = copy(response)
    own.headers = response.headers.copy()
    return own


# --- what a session asks


def write_answer(
    headers: ResponseHeaders,
    cookies: Collection[Header] = (),
    before: Collection[Header] = (),
    *,
    name: str = "",
    vary: bytes = b"Cookie",
    is_private: bool = False,
) -> bool:
    """Write what a session asks of a response, by one look at its headers: most have none that matters.

    Its cookies take the place of those that it added `before`. `vary` and `is_private` say what `vary_on` and
    `never_store` do. Return whether somebody else sets a cookie of this name.
    """
    if before:
        _take_back(headers, {*before})
    there = headers.names()
    has_rival = "set-cookie" in there and any(one.partition("=")[0] == name for one in headers.all("set-cookie"))
    more = [*cookies]
    if is_private and _FOR_CACHES.isdisjoint(there):
        more += [(b"cache-control", b"private, no-store")]
    elif is_private:
        never_store(headers)
    if "vary" in there:
        vary_on(headers, vary.decode())
    else:
        more += [(b"vary", vary)]
    headers.extend(more)
    return has_rival


def _take_back(headers: ResponseHeaders, old: set[Header]) -> None:
    for name in {name.decode("latin-1") for name, _ in old}:
        values = headers.all(name)
        kept = [value for value in values if (name.encode("latin-1"), value.encode("latin-1")) not in old]
        if len(kept) != len(values):
            headers.drop(name)
            for value in kept:
                headers.add(name, value)


def vary_on(headers: ResponseHeaders, names: str) -> None:
    """Say that the response depends on these headers of the request, a list as in `Vary` (RFC 9110, 12.5.5)."""
    there = _listed(headers.all("vary"))
    known = {name.lower() for name in there}
    more = [name for name in _listed([names]) if name.lower() not in known]
    if more and "*" not in known:
        headers.drop("vary")
        headers.add("vary", ", ".join([*there, *more]))


def never_store(headers: ResponseHeaders) -> None:
    """Say that no cache may keep the response (RFC 9111, 5.2.2.5): it carries a cookie or a token of one visitor."""
    there = headers.names()
    cdn = [name for name in _CDN_HEADERS if name in there]
    # Without their arguments: that of `no-cache` may have commas, and only weakens it.
    directives = [one.partition("=")[0].strip().lower() for one in _listed(headers.all("cache-control"))]
    if (public := _PUBLIC.intersection(directives)) or cdn:
        _LOG.warning(
            "a response that carries a session's cookie or token was marked for shared caches (%s): taken out",
            ", ".join(sorted(public) + cdn),
        )
    for name in ("cache-control", *cdn):
        headers.drop(name)
    kept = [name for name in directives if name in _KEPT]
    headers.add("cache-control", ", ".join(["private", "no-store", *kept]))


def _listed(values: Iterable[str]) -> list[str]:
    """Return the members of a header that is a list (RFC 9110, 5.6.1)."""
    return [member.strip() for value in values for member in value.split(",") if member.strip()]

"""The carrier: whatever a caller has in hand of the request, and what can be read from and set on it."""

import weakref
from collections.abc import MutableMapping
from contextvars import ContextVar
from typing import Any, Final, NamedTuple, TypeAlias

from server_session._colour import Home
from server_session._csrf import Facts
from server_session._request import AsgiRequest, HeadersRequest, WsgiRequest, is_environ, is_scope
from server_session._response import ResponseHeaders, headers_of
from server_session.exceptions import CarrierError

__all__ = ["Carrier", "Request", "RequestState", "current", "facts_of", "is_carrier", "resolve", "serving", "state_of"]

Request: TypeAlias = AsgiRequest | WsgiRequest | HeadersRequest

# With a dot: what a WSGI environ holds under a name without one must be text (PEP 3333).
_SLOT: Final = "server_session.state"

current: ContextVar[Request | None] = ContextVar("server_session_request", default=None)
"""The request that a middleware is serving now."""

_states: weakref.WeakKeyDictionary[Any, "RequestState"] = weakref.WeakKeyDictionary()


class RequestState:
    """What this library keeps with a request: one visit for each `Sessions`, and the application's loop."""

    def __init__(self) -> None:
        self.visits: dict[Any, Any] = {}
        self.served: list[Any] = []
        """The `Sessions` of the middlewares that serve the request."""
        self.home: Home | None = None
        self.wire_method: str | None = None
        """The method as the first guard saw it, which an override further in has not changed."""


class Carrier(NamedTuple):
    """A request, and the response's headers where a response was given."""

    request: Request
    response: ResponseHeaders | None = None


def resolve(given: tuple[object, ...]) -> Carrier:
    """Return the carrier that the positional arguments make: none, a request, a request and a response, a context.

    Raises `CarrierError`, which says what was given and what can be.
    """
    match given:
        case ():
            return Carrier(_current())
        case (one,):
            return _from_one(one)
        case (request, response):
            return Carrier(_request(request), headers_of(response))
        case _:
            raise CarrierError(f"{len(given)} arguments for a request: {_WHAT_CAN_BE}")


def _current() -> Request:
    request = current.get()
    if request is None:
        raise CarrierError(
            "no request is being served here: give the request, or let the application serve sessions "
            "(SessionMiddleware; in Flask ServerSession(app); in Django its line in MIDDLEWARE)"
        )
    return request


def _from_one(one: Any) -> Carrier:
    for request_name, response_name in (("req", "res"), ("request", "response")):
        if hasattr(one, request_name) and hasattr(one, response_name):
            response = getattr(one, response_name)
            return Carrier(_request(getattr(one, request_name)), None if response is None else headers_of(response))
    return Carrier(_request(one))


def serving() -> Request | None:
    """Return the request that a middleware is serving now, if there is one."""
    return current.get()


def is_carrier(value: object) -> bool:
    """Tell whether this could be a request, a response or a context, and not data, a name or a token."""
    if value is None or isinstance(value, str | bytes | int | float | list | tuple):
        return False
    if isinstance(value, dict):
        return is_scope(value) or is_environ(value)
    return any(hasattr(value, name) for name in ("scope", "environ", "env", "META", "headers", "req", "request"))


def state_of(request: Request) -> RequestState:
    """Return what this library keeps with the request; the same at each call."""
    state = request.slots.get(_SLOT)
    if not isinstance(state, RequestState):
        state = request.slots[_SLOT] = RequestState()
    return state


def facts_of(request: Request, method: str, seen_method: str, *, has_cookie: bool) -> Facts:
    """Return what a request says of itself to whoever asks whether it was forged."""
    values = request.header_values
    return Facts(
        method=method,
        seen_method=seen_method,
        origin=values(b"origin"),
        site=values(b"sec-fetch-site"),
        fetch_mode=values(b"sec-fetch-mode"),
        fetch_dest=values(b"sec-fetch-dest"),
        referer=values(b"referer"),
        host=request.host,
        is_secure=request.scheme.lower() in ("https", "wss"),
        authorization=values(b"authorization"),
        has_cookie=has_cookie,
        is_handshake=request.is_websocket,
    )


_WHAT_CAN_BE: Final = (
    "give nothing (under SessionMiddleware), a request, a request and a response, or a context with "
    ".req/.res or .request/.response; a request is an ASGI scope, a WSGI environ, or a framework's request object"
)


def _request(given: Any) -> Request:
    if is_scope(given):
        return AsgiRequest(given)
    if is_environ(given):
        return WsgiRequest(given)
    for name in ("scope", "environ", "env", "META"):
        inner: Any = getattr(given, name, None)
        if is_scope(inner):
            return AsgiRequest(inner)
        if is_environ(inner):
            return WsgiRequest(inner)
    if hasattr(getattr(given, "headers", None), "get") and not hasattr(given, "set_cookie"):
        return HeadersRequest(given, _slots_of(given))
    raise CarrierError(f"{type(given).__name__!r} is no request that can be read: {_WHAT_CAN_BE}")


def _slots_of(request: Any) -> MutableMapping[Any, Any]:
    if isinstance(request, MutableMapping):
        return request
    attributes: MutableMapping[Any, Any] | None = getattr(request, "__dict__", None)
    if attributes is not None:
        return attributes
    try:
        return {_SLOT: _states.setdefault(request, RequestState())}
    except TypeError:
        raise CarrierError(
            f"nothing can be kept with a {type(request).__name__!r}: it takes neither attributes nor weak references"
        ) from None

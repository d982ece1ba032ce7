"""The carrier: whatever a caller has in hand of the request, and what can be read from and set on it."""

import sys
import threading
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any, Final, NamedTuple

from server_session.exceptions import CarrierError
from server_session.http.requests import REQUESTS, Request, WsgiRequest, reader_of, request_of
from server_session.http.responses import RESPONSES, ResponseHeaders, headers_of

__all__ = ["THREADS_INHERIT", "Carrier", "Serving", "current", "find_request_by", "is_carrier", "resolve", "serving"]

current: ContextVar[Request | None] = ContextVar("server_session_request", default=None)
"""The request that a middleware is serving now."""

_finders: Final[list[Callable[[], Any]]] = []

THREADS_INHERIT: Final = bool(getattr(sys.flags, "thread_inherit_context", False))
"""Whether a thread begins with a copy of its starter's context: in the free-threaded Python, elsewhere by an option.

One of a pool works for other requests too, and would take each for the one in which it was started.
"""
_mark: ContextVar[object] = ContextVar("server_session_mark")

_CONTEXTS: Final = (("req", "res"), ("request", "response"))
_WHAT_TO_GIVE: Final = (
    "give nothing (under SessionMiddleware), a request, a request and a response, or a context with "
    ".req/.res or .request/.response; a request is an ASGI scope, a WSGI environ, or a framework's request object "
    "(server_session.adapters.register_request says how those of another framework are read)"
)


def find_request_by(find: Callable[[], Any]) -> None:
    """Say how a framework that knows by itself which request it is serving tells it, `None` outside of any.

    `find` returns the framework's own request, of a kind that is registered. It counts where we serve it, and where no
    middleware serves another request inside it: `Request.within` is what was served when this one's serving began.
    """
    _finders.append(find)


class Serving:
    """Lets the functions know a request without being given it, while this is entered."""

    __slots__ = ("_request", "_token")

    def __init__(self, request: Request) -> None:
        self._request = request

    def __enter__(self) -> None:
        self._token = current.set(self._request)

    def __exit__(self, *_: object) -> None:
        current.reset(self._token)


def serving() -> Request | None:
    """Return the request that is being served here, `None` where there is none."""
    innermost = current.get()
    for find in _finders:
        given = find()
        read = REQUESTS[given.__class__]
        request = None if read is None else read(given)
        if request is not None and request.served and request.within is innermost:
            # Flask puts a copy of its context into a thread's own, which looks inherited: its word is taken.
            return None if not isinstance(request, WsgiRequest) and _is_inherited(request) else request
    # A server may begin the next request of a connection in the context of the one before.
    return innermost if innermost is not None and innermost.serving and not _is_inherited(innermost) else None


def _is_inherited(request: Request) -> bool:
    """Tell whether this thread knows the request only because it was started while that was served."""
    if not THREADS_INHERIT or request.thread == threading.get_ident():
        return False
    begun_with = getattr(threading.current_thread(), "_context", None)
    mark = object()
    token = _mark.set(mark)
    try:
        # A function that was given a context to run in, as by `asyncio.to_thread`, sets nothing in the thread's own.
        return begun_with is not None and begun_with.get(_mark) is mark
    finally:
        _mark.reset(token)


class Carrier(NamedTuple):
    """A request, and the response's headers where a response was given."""

    request: Request
    response: ResponseHeaders | None = None


def resolve(given: tuple[Any, ...]) -> Carrier:
    """Return the carrier that the positional arguments make: none, a request, a request and a response, a context.

    Raises `CarrierError`, which says what was given and what can be.
    """
    match given:
        case ():
            if (request := serving()) is None:
                raise CarrierError(
                    "no request is being served here: give the request, or let the application serve sessions "
                    "(SessionMiddleware; in Flask ServerSession(app); in Django its line in MIDDLEWARE)"
                )
            return Carrier(request)
        case (one,):
            return _from_one(one)
        case (request, response):
            return Carrier(_request(request), headers_of(response))
        case _:
            raise CarrierError(f"{len(given)} arguments for a request: {_WHAT_TO_GIVE}")


def _from_one(one: Any) -> Carrier:
    if (read := reader_of(one)) is not None:
        return Carrier(read(one))
    for request_name, response_name in _CONTEXTS:
        if hasattr(one, request_name) and hasattr(one, response_name):
            response = getattr(one, response_name)
            return Carrier(_request(getattr(one, request_name)), None if response is None else headers_of(response))
    return Carrier(_request(one))


def _request(given: Any) -> Request:
    request = request_of(given)
    if request is None:
        raise CarrierError(f"{type(given).__name__!r} is no request that can be read: {_WHAT_TO_GIVE}")
    return request


def is_carrier(value: Any) -> bool:
    """Tell whether this could be a request, a response or a context, and not data, a name or a token."""
    if reader_of(value) is not None or RESPONSES[value.__class__] is not None:
        return True
    return any(hasattr(value, request) for request, _ in _CONTEXTS)

"""What single endpoints ask of the check for forged requests: less than the application's policy, or more."""

import logging
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from typing import Any, Final, Never, TypeVar

from server_session._settings import flag_of
from server_session.csrf.policy import CSRF
from server_session.csrf.verdict import Protection
from server_session.exceptions import ConfigurationError

__all__ = ["csrf_exempt", "csrf_protect", "marked_every_method", "note_unheard", "protection_of"]

_LOG: Final = logging.getLogger("server_session")

E = TypeVar("E", bound=Callable[..., Any])

_MARK: Final = "__server_session_csrf__"
# How many decorators may hide a mark.
_DEEPEST: Final = 4

# The endpoints that want their GET to be checked: while there is none, no GET's endpoint is looked for. They are of any
# application in this process, for which one serves an endpoint is not known before it is routed.
marked_every_method: Final[list[object]] = []
# Those that ask for more than the policy.
_protected: Final[list[object]] = []


def csrf_exempt(endpoint: E) -> E:
    """Mark an endpoint (a view function or class) that is not checked: one that other servers call.

    It must then prove by other means who calls, a signature for instance. Of an endpoint's decorators it stands
    outermost, below only that of the route.
    """
    return _mark(endpoint, Protection(exempt=True))


def csrf_protect(
    *_: Never, strict: bool = False, every_method: bool = False, anonymous: bool = False, scoped: bool = False
) -> Callable[[E], E]:
    """Mark an endpoint that asks for more than the application's policy.

    Of an endpoint's decorators it stands outermost, below only that of the route. The adapters for frameworks honour
    it, and a `SessionMiddleware` of ASGI or WSGI that is told the `endpoint`.

    Args:
        strict: it needs a valid token, whatever the browser's headers say.
        every_method: GET and its like are checked as a POST is: they have effects here.
        anonymous: a request without the session's cookie is checked like one with it: a log-in.
        scoped: it needs a token issued for this very method and path,
            `get_csrf_token(request, scope=("POST", "/transfer"))`.

    """
    asked = Protection(strict=strict, every_method=every_method, anonymous=anonymous, scoped=scoped)
    for name, value in asked._asdict().items():
        flag_of(f"csrf_protect's {name}", value)
    if not any(asked):
        raise ConfigurationError("csrf_protect() asks for nothing: give strict, every_method, anonymous or scoped")
    return partial(_mark, asked=asked)


def note_unheard() -> bool:
    """Warn that what endpoints ask is not heard where it is not known which will serve; return whether any asks."""
    if _protected:
        _LOG.warning(
            "endpoints of this process are marked with @csrf_protect, and what they ask for is not heard by a "
            "SessionMiddleware that does not know which of them will serve a request: give it endpoint=…, or take the "
            "adapter for the framework"
        )
    return bool(_protected)


def protection_of(endpoint: object, method: str, policy: CSRF) -> Protection:
    """Return what the endpoint that will serve a request of this method asks; `None` is an endpoint not known.

    A tuple is the endpoint, and what it is grouped in: Flask's blueprints, a class of which one method was chosen.
    """
    first, *groups = endpoint if isinstance(endpoint, tuple) else (endpoint,)
    # What a group has under a method's name may be another endpoint.
    faces = [*_faces(first, method.lower()), *(face for one in groups for face in _faces(one, ""))]
    marks = [mark for face in faces if isinstance(mark := getattr(face, _MARK, None), Protection)]
    if _protected:
        marks += [mark for face in faces for mark in _hidden(face, _DEEPEST)]
    asked = _together(Protection(), *marks)
    # Where one mark asks for more and another exempts, the one that asks for more holds.
    if asked == Protection(exempt=True):
        return asked
    return asked._replace(exempt=False, anonymous=asked.anonymous or policy.protect_anonymous)


def _faces(endpoint: object, verb: str) -> Iterator[object]:
    """Yield the endpoint, and what stands behind it: the class of a class's view, and its method."""
    while endpoint is not None:
        yield endpoint
        for view in (endpoint, getattr(endpoint, "view_class", None), getattr(endpoint, "cls", None)):
            if isinstance(view, type):
                yield view
                # A HEAD is served by the GET of a class that has no other.
                yield getattr(view, verb, None) or (getattr(view, "get", None) if verb == "head" else None)
        endpoint = endpoint.func if isinstance(endpoint, partial) else getattr(endpoint, "__func__", None)


def _hidden(endpoint: object, depth: int) -> Iterator[Protection]:
    """Yield what functions ask that other decorators have hidden in their closures; an exemption is not heard there."""
    for cell in getattr(endpoint, "__closure__", None) or ():
        with suppress(ValueError):
            # A proxy, as Flask's `request`, would look for its target, and there is none outside a request.
            if callable(inner := cell.cell_contents) and depth and not hasattr(type(inner), "__getattr__"):
                mark = getattr(inner, _MARK, None)
                if isinstance(mark, Protection) and not mark.exempt:
                    yield mark
                yield from _hidden(inner, depth - 1)


def _together(*asked: Protection) -> Protection:
    return Protection(*map(any, zip(*asked, strict=True)))


def _mark(endpoint: E, asked: Protection) -> E:
    together = _together(asked, getattr(endpoint, _MARK, asked))
    if together.exempt and together != Protection(exempt=True):
        raise ConfigurationError(f"{endpoint!r} is csrf_exempt and csrf_protect at once: leave one out")
    if hasattr(endpoint, "router") or (hasattr(endpoint, "routes") and hasattr(endpoint, "lifespan_context")):
        raise ConfigurationError(f"{endpoint!r} is an application or a router: mark its endpoints")
    try:
        setattr(endpoint, _MARK, together)
    except (AttributeError, TypeError):
        raise ConfigurationError(
            f"{endpoint!r} cannot be marked: mark the function or the class, as its outermost decorator"
        ) from None
    if not asked.exempt:
        _protected.append(endpoint)
    if asked.every_method:
        marked_every_method.append(endpoint)
    return endpoint

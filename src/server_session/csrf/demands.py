"""What single endpoints ask of the check for forged requests: less than the application's policy, or more."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Final, TypeVar

from server_session.csrf.policy import CSRF
from server_session.csrf.verdict import NOTHING_MORE, Demand
from server_session.exceptions import ConfigurationError

__all__ = ["csrf_exempt", "csrf_protect", "demand_of", "marked_every_method"]

E = TypeVar("E", bound=Callable[..., Any])

_MARK: Final = "__server_session_csrf__"

marked_every_method: Final[list[object]] = []
"""The endpoints that want their GET to be checked: while there is none, no GET's endpoint is looked for."""


def csrf_exempt(endpoint: E) -> E:
    """Mark an endpoint (a view function or class) that is not checked: one that other servers call.

    It must then prove by other means who calls, a signature for instance. Of an endpoint's decorators it stands
    outermost, below only that of the route.
    """
    return _mark(endpoint, Demand(exempt=True))


def csrf_protect(
    *, strict: bool = False, every_method: bool = False, anonymous: bool = False, scoped: bool = False
) -> Callable[[E], E]:
    """Mark an endpoint that asks for more than the application's policy.

    Of an endpoint's decorators it stands outermost, below only that of the route. The middlewares of
    `server_session.starlette` and `fastapi`, Flask's extension and Django's middleware honour it.

    Args:
        strict: it needs a valid token, whatever the browser's headers say.
        every_method: GET and its like are checked as a POST is: they have effects here.
        anonymous: a request without the session's cookie is checked like one with it: a log-in.
        scoped: it needs a token issued for this very method and path,
            `get_csrf_token(request, scope=("POST", "/transfer"))`.

    """
    demand = Demand(strict=strict, every_method=every_method, anonymous=anonymous, scoped=scoped)
    if demand == NOTHING_MORE:
        raise ConfigurationError("csrf_protect() asks for nothing: give strict, every_method, anonymous or scoped")
    return partial(_mark, demand=demand)


def demand_of(endpoint: object, method: str, policy: CSRF) -> Demand:
    """Return what the endpoint that will serve a request of this method asks; `None` is an endpoint not known.

    A tuple is the endpoint, and what it is grouped in: Flask's blueprints.
    """
    faces = list(_faces(endpoint, method.lower()))
    marks: list[Demand] = [mark for face in faces if isinstance(mark := getattr(face, _MARK, None), Demand)]
    named = policy.protect_anonymous
    asked = Demand(
        strict=any(mark.strict for mark in marks),
        every_method=any(mark.every_method for mark in marks),
        anonymous=(not isinstance(named, bool) and _is_among(faces, named)) or any(mark.anonymous for mark in marks),
        scoped=any(mark.scoped for mark in marks),
    )
    # Who asks for more in one place and for less in another is given more.
    if asked == NOTHING_MORE and (any(mark.exempt for mark in marks) or _is_among(faces, policy.exempt)):
        return Demand(exempt=True)
    return asked._replace(anonymous=True) if named is True else asked


def _faces(endpoint: object, verb: str) -> Iterator[object]:
    """Yield the endpoint, and what stands behind it: the class of a class's view, and its method."""
    if isinstance(endpoint, tuple):
        for one in endpoint:
            yield from _faces(one, verb)
        return
    while endpoint is not None:
        yield endpoint
        for name in ("view_class", "cls"):
            behind = getattr(endpoint, name, None)
            if isinstance(behind, type):
                yield behind
                yield _verb_of(behind, verb)
        if isinstance(endpoint, type):
            yield _verb_of(endpoint, verb)
        endpoint = endpoint.func if isinstance(endpoint, partial) else getattr(endpoint, "__func__", None)


def _verb_of(view: type, verb: str) -> object:
    # A HEAD is served by the GET of a class that has no other.
    return getattr(view, verb, None) or (getattr(view, "get", None) if verb == "head" else None)


def _is_among(faces: list[object], endpoints: tuple[Callable[..., Any], ...]) -> bool:
    return any(face is endpoint for face in faces for endpoint in endpoints)


def _mark(endpoint: E, demand: Demand) -> E:
    known: Demand = getattr(endpoint, _MARK, NOTHING_MORE)
    together = Demand(*(one or other for one, other in zip(known, demand, strict=True)))
    if together.exempt and together != Demand(exempt=True):
        raise ConfigurationError(f"{endpoint!r} is csrf_exempt and csrf_protect at once: leave one out")
    if hasattr(endpoint, "router") or (hasattr(endpoint, "routes") and hasattr(endpoint, "lifespan_context")):
        raise ConfigurationError(f"{endpoint!r} is an application or a router: mark its endpoints")
    try:
        setattr(endpoint, _MARK, together)
    except AttributeError:
        raise ConfigurationError(
            f"{endpoint!r} cannot be marked: mark the function or the class, as its outermost decorator"
        ) from None
    if demand.every_method:
        marked_every_method.append(endpoint)
    return endpoint

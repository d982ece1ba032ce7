"""How the arguments of the functions are read."""

from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any, Final, TypeAlias, TypeVar
from uuid import UUID

from server_session.exceptions import CarrierError, shown
from server_session.http.carrier import Carrier, is_carrier, resolve

T = TypeVar("T")

Change: TypeAlias = Callable[[dict[str, Any]], None]
Data: TypeAlias = Mapping[str, object]
Duration: TypeAlias = float | timedelta
TokenScope: TypeAlias = tuple[str, str]


def parted(
    function: str, given: tuple[Any, ...], last: str | None = None, then: str | None = None
) -> tuple[Carrier, tuple[Any, ...]]:
    """Part the positional arguments of a function into the carrier and the rest.

    `last` names the argument after the carrier, `None` if there is none, and `then` one that may follow it. Raises
    `CarrierError` where the rest is missing or of a wrong type, or a carrier stands in its place.
    """
    rest: tuple[Any, ...] = ()
    if last is None:
        carrier = given
    elif not given:
        raise CarrierError(f"{function} needs its {last} as the last argument")
    # A token may be any JSON value, even one that looks like an ASGI scope; a real scope has bytes, which JSON lacks.
    elif is_carrier(given[-1]) and not (last == "token" and _is_json(given[-1])):
        raise CarrierError(
            f"{function} takes its {last} after the request; "
            f"the last argument is {type(given[-1]).__name__!r}, which is a request, a response or a context"
        )
    else:
        # No request and no response is text: text before the last argument is `last`, and the last one is `then`.
        both = then is not None and len(given) > 1 and isinstance(given[-2], str)
        carrier, rest = (given[:-2], given[-2:]) if both else (given[:-1], given[-1:])
    for one in carrier:
        if isinstance(one, _VALUES):
            after = "".join(f", then its {each}" for each in (last, then) if each)
            raise CarrierError(
                f"{function} takes a request (or nothing, or a request and a response){after}"
                f"{' (the owner as text, str(user.id))' if then else ''}; {type(one).__name__!r} is none of these. "
                "A request is an ASGI scope, a WSGI environ, or a framework's object"
            )
    resolved = resolve(carrier)
    if last is not None and last in _ARGUMENTS:
        checked(function, last, rest[0])
    return resolved, rest


_VALUES: Final = (str, bytes, int, float, list, tuple, set, type(None), UUID)


def _is_json(value: object) -> bool:
    return isinstance(value, dict) and all(isinstance(one, _JSON) for one in value.values())


_JSON: Final = (str, int, float, list, dict, type(None))


# --- checks of arguments, for callers without a type checker

_ARGUMENTS: Mapping[str, tuple[Any, str]] = {
    "change": (Callable, "a function of the data"),
    # `dict` first: isinstance of the abstract Mapping costs more calls.
    "data": ((dict, Mapping), "the data as a dict"),
    "id": (str, "a session's id as sessions_of tells it"),
    "name": (str, "the name of a key"),
    "owner": (str, "the owner's name or id as text"),
}


def checked(function: str, argument: str, given: T) -> T:
    """Return an argument of a function as it was given; raises `CarrierError` for what cannot be one."""
    kind, named = _ARGUMENTS[argument]
    if not isinstance(given, kind) or (argument == "owner" and not given):
        what = "empty text" if isinstance(given, kind) else repr(type(given).__name__)
        raise CarrierError(f"{function} takes {named}, not {what}")
    return given


def checked_flag(function: str, name: str, given: object) -> bool:
    if not isinstance(given, bool):
        raise CarrierError(f"{function} takes {name} as True or False, not {type(given).__name__!r}")
    return given


def scope_of(scope: TokenScope | None) -> str:
    if scope is None:
        return ""
    if not isinstance(scope, tuple) or list(map(type, scope)) != [str, str]:
        raise CarrierError(f"a token's scope is a method and a path, as in ('POST', '/transfer'), not {shown(scope)}")
    # Late, for every import of the library would pay for it.
    from urllib.parse import unquote

    # As the check of a request will see it: the path is decoded there (%20), and the method is in capitals.
    return f"{scope[0].upper()} {unquote(scope[1])}"

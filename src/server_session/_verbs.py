"""What the functions are made of: how a call's arguments are read, and the two colours of a call."""

from collections.abc import Callable, Coroutine, Mapping
from functools import partial, wraps
from typing import Any, Concatenate, Final, ParamSpec, TypeAlias, TypeVar, cast
from uuid import UUID

from server_session._colour import drive, run
from server_session.exceptions import CarrierError
from server_session.http.carrier import Carrier, is_carrier, resolve
from server_session.kernel.stored import StoredSession

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")

Function: TypeAlias = Callable[P, Coroutine[Any, Any, R]]
Change: TypeAlias = Callable[[dict[str, Any]], None]
Data: TypeAlias = Mapping[str, object]
TokenScope: TypeAlias = tuple[str, str]


def verb(
    last: str | None = None, then: str | None = None
) -> Callable[[Function[Concatenate[StoredSession, P], R]], Function[P, R]]:
    """Make a method of `Functions` of a body, which is called with the session and what followed the carrier.

    `last` is what the last positional argument is, `None` where the carrier is all, and `then` what may follow it. A
    type checker sees the function that users call.
    """

    def method_of(body: Any) -> Any:
        @wraps(body)
        async def call(functions: Any, /, *arguments: Any, **options: Any) -> Any:
            carrier, rest = _split(body.__name__, last, then, arguments)
            sessions = functions.sessions_for(carrier)
            exchange = sessions.exchange(carrier.request)
            stored = exchange.begin_call(carrier.response)
            try:
                start = partial(body, stored, *rest, **options)
                return await run(sessions.store.colour, carrier.request.home, start, blocks=functions.blocks)
            finally:
                exchange.end_call(carrier.response)

        return call

    return method_of


def blocking(function: Callable[P, Coroutine[Any, Any, R]]) -> Callable[P, R]:
    """Make the blocking twin of an awaitable function, of `Functions` that block: it drives that to its end."""

    @wraps(function)
    def call(*arguments: P.args, **options: P.kwargs) -> R:
        return drive(function(*arguments, **options))

    name = function.__qualname__.removeprefix("Functions.")
    call.__doc__ = f"Do what `server_session.{name}` does, and block until it is done."
    return cast("Callable[P, R]", call)


def _split(
    function: str, last: str | None, then: str | None, given: tuple[object, ...]
) -> tuple[Carrier, tuple[object, ...]]:
    """Part the positional arguments into the carrier and the rest.

    Raises `CarrierError` where the rest is missing, or a carrier stands in its place.
    """
    rest: tuple[object, ...] = ()
    if last is None:
        carrier = given
    elif not given:
        raise CarrierError(f"{function} needs its {last} as the last argument")
    # A token may be any JSON value, one that looks like a scope too; a scope's query string is bytes.
    elif is_carrier(given[-1]) and not (last == "token" and _is_json(given[-1])):
        raise CarrierError(
            f"{function} takes its {last} after the request; "
            f"the last argument is {type(given[-1]).__name__!r}, which is a request, a response or a context"
        )
    else:
        # No request and no response is text, so a name followed by data is found wherever it stands.
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
    return resolve(carrier), rest


_VALUES: Final = (str, bytes, int, float, list, tuple, set, type(None), UUID)


def _is_json(value: object) -> bool:
    return isinstance(value, dict) and all(isinstance(one, _JSON) for one in value.values())


_JSON: Final = (str, int, float, list, dict, type(None))


# --- what is looked for in arguments, for callers without a type checker

_ARGUMENTS: Mapping[str, tuple[Any, str]] = {
    "change": (Callable, "a function of the data"),
    # A dict is asked for by itself: any other mapping costs a look through the abstract classes.
    "data": ((dict, Mapping), "the data as a dict"),
    "id": (str, "a session's id as sessions_of tells it"),
    "name": (str, "the name of a key"),
    "owner": (str, "the owner's name or id as text"),
}


def checked(function: str, argument: str, given: T) -> T:
    """Return an argument of a function as it was given; raises `TypeError` for what cannot be one."""
    kind, named = _ARGUMENTS[argument]
    if not isinstance(given, kind) or (argument == "owner" and not given):
        raise TypeError(f"{function} takes {named}, not {type(given).__name__!r}")
    return given


def flag_of(function: str, name: str, given: object) -> bool:
    if not isinstance(given, bool):
        raise TypeError(f"{function} takes {name} as True or False, not {type(given).__name__!r}")
    return given


def scope_of(scope: TokenScope | None) -> str:
    if scope is None:
        return ""
    if not isinstance(scope, tuple) or list(map(type, scope)) != [str, str]:
        raise TypeError(f"a token's scope is a method and a path, as in ('POST', '/transfer'), not {scope!r}")
    # Late, for every import of the library would pay for it.
    from urllib.parse import unquote

    # As the guard will see it: a link's %20 is decoded there, and the method is on the wire in capitals.
    return f"{scope[0].upper()} {unquote(scope[1])}"

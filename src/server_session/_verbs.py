"""What the functions are made of: bodies that know no colour, and how a call's arguments are read."""

from collections.abc import Callable, Coroutine, Mapping
from typing import Any, Concatenate, Final, NamedTuple, ParamSpec, TypeAlias, TypeVar, cast
from uuid import UUID

from server_session._policy import Policy
from server_session.exceptions import CarrierError
from server_session.http.carrier import Carrier, is_carrier, resolve
from server_session.kernel.stored import StoredSession

P = ParamSpec("P")
R = TypeVar("R")

Body: TypeAlias = Callable[..., Coroutine[Any, Any, Any]]
Function: TypeAlias = Callable[P, Coroutine[Any, Any, R]]
Change: TypeAlias = Callable[[dict[str, Any]], None]
TokenScope: TypeAlias = tuple[str, str]


class Verb(NamedTuple):
    """One of the functions."""

    body: Body
    """Called with the session and what followed the carrier; about an owner, with what is `Asked` and all arguments."""
    last: str | None = None
    """What the last positional argument is; `None` where the carrier is all."""
    then: str | None = None
    """What may follow it."""
    current: str | None = None
    """Where there is no carrier: the keyword that names a caller's request, or `""` where none is of any matter."""

    def split(self, given: tuple[object, ...]) -> tuple[Carrier, tuple[object, ...]]:
        """Part the positional arguments into the carrier and the rest.

        Raises `CarrierError` where the rest is missing, or a carrier stands in its place.
        """
        function, last = self.body.__name__, self.last
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
            both = self.then is not None and len(given) > 1 and isinstance(given[-2], str)
            carrier, rest = (given[:-2], given[-2:]) if both else (given[:-1], given[-1:])
        for one in carrier:
            if isinstance(one, _VALUES):
                after = "".join(f", then its {each}" for each in (last, self.then) if each)
                raise CarrierError(
                    f"{function} takes a request (or nothing, or a request and a response){after}"
                    f"{' (the owner as text)' if self.then else ''}; {type(one).__name__!r} is none of these. "
                    "A request is an ASGI scope, a WSGI environ, or a framework's object"
                )
        return resolve(carrier), rest


_VALUES: Final = (str, bytes, int, float, list, tuple, set, type(None), UUID)


def _is_json(value: object) -> bool:
    return isinstance(value, dict) and all(isinstance(one, _JSON) for one in value.values())


_JSON: Final = (str, int, float, list, dict, type(None))


class Asked(NamedTuple):
    """What is at hand of a function that is about no request, but may spare that of a caller."""

    policy: Policy
    current: StoredSession | None

    async def selector(self) -> str | None:
        """Return the selector of the caller's own session, if it has one that lives."""
        return None if self.current is None else await self.current.living_selector()


def verb(
    last: str | None = None, then: str | None = None, *, current: str | None = None
) -> Callable[[Function[Concatenate[Any, P], R]], Function[P, R]]:
    """Make a `Verb` of a body; a type checker sees the function that it will be, without what a `Verb` gives it."""
    return lambda body: cast("Any", Verb(cast("Body", body), last, then, current))


def by_id(name: str) -> Callable[[Function[Concatenate[StoredSession, P], R]], Function[P, R]]:
    """Make a `Verb` of a body that takes a session which was opened by its id: a method, of this name."""

    def verb_of(body: Any) -> Any:
        body.__name__, body.__qualname__ = name, f"OpenedSession.{name}"
        return Verb(body, current="")

    return verb_of


# --- what is looked for in arguments, for callers without a type checker


def owner_of(function: str, owner: object) -> str:
    if not isinstance(owner, str) or not owner:
        raise TypeError(f"{function} takes the owner's name or id as text, not {type(owner).__name__!r}")
    return owner


def id_of(function: str, session_id: object) -> str:
    if not isinstance(session_id, str):
        raise TypeError(f"{function} takes a session's id as sessions_of tells it, not {type(session_id).__name__!r}")
    return session_id


def change_of(function: str, change: Change) -> Change:
    if not callable(change):
        raise TypeError(f"{function} takes a function of the data, not {type(change).__name__!r}")
    return change


def name_of(function: str, name: object) -> str:
    if not isinstance(name, str):
        raise TypeError(f"{function} takes the name of a key, not {type(name).__name__!r}")
    return name


def flag_of(function: str, name: str, given: object) -> bool:
    if not isinstance(given, bool):
        raise TypeError(f"{function} takes {name} as True or False, not {type(given).__name__!r}")
    return given


def data_of(function: str, data: object) -> Mapping[str, object]:
    # A dict is asked for by itself: any other mapping costs a look through the abstract classes.
    if not isinstance(data, (dict, Mapping)):
        raise TypeError(f"{function} takes the data as a dict, not {type(data).__name__!r}")
    return data


def scope_of(scope: TokenScope | None) -> str:
    if scope is None:
        return ""
    if not isinstance(scope, tuple) or list(map(type, scope)) != [str, str]:
        raise TypeError(f"a token's scope is a method and a path, as in ('POST', '/transfer'), not {scope!r}")
    # Late, for every import of the library would pay for it.
    from urllib.parse import unquote

    # As the guard will see it: a link's %20 is decoded there, and the method is on the wire in capitals.
    return f"{scope[0].upper()} {unquote(scope[1])}"

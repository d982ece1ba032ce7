"""The functions' bodies, once for both colours: what each does with a request's visit."""

from collections.abc import Callable, Coroutine, Mapping
from typing import Any, Final, Generic, NamedTuple, TypeVar
from uuid import UUID

from server_session._carrier import is_carrier
from server_session._codec import convert
from server_session._durations import seconds_of
from server_session._lifecycle import Visit
from server_session._owners import OwnedSession
from server_session._policy import Policy
from server_session._record import Life
from server_session.exceptions import CarrierError

__all__ = [
    "DESTROY",
    "GET",
    "GET_TOKEN",
    "LOG_IN",
    "PLUCK",
    "RENEW",
    "REPLACE",
    "REQUIRE_FRESH",
    "SET",
    "UPDATE",
    "VALIDATE_TOKEN",
    "Step",
]

R = TypeVar("R")


class Step(NamedTuple, Generic[R]):
    """One of the functions: what its positional arguments after the carrier are, and its body."""

    function: str
    body: Callable[..., Coroutine[Any, Any, R]]
    last: str | None = None
    """What the last positional argument is; `None` where the carrier is all."""
    then: str | None = None
    """What may follow it."""

    @property
    def _usage(self) -> str:
        after = "".join(f", then its {one}" for one in (self.last, self.then) if one)
        return (
            f"a request (or nothing, or a request and a response){after}{' (the owner as text)' if self.then else ''}"
        )

    def split(self, given: tuple[object, ...]) -> tuple[tuple[object, ...], tuple[object, ...]]:
        """Part the positional arguments into the carrier and the rest.

        Raises `CarrierError` where the rest is missing, or a carrier stands in its place.
        """
        for one in given[: None if self.last is None else -1]:
            if isinstance(one, _VALUES) and not (self.then and isinstance(one, str)):
                raise CarrierError(
                    f"{self.function} takes {self._usage}; {type(one).__name__!r} is none of these. "
                    "A request is an ASGI scope, a WSGI environ, or a framework's object"
                )
        if self.last is None:
            return given, ()
        # No request and no response is text, so a name followed by data is found wherever it stands.
        if self.then and len(given) > 1 and isinstance(given[-2], str) and not is_carrier(given[-1]):
            return given[:-2], given[-2:]
        if not given:
            raise CarrierError(f"{self.function} needs its {self.last} as the last argument")
        # A token may be any JSON value, one that looks like a scope too; a scope's query string is bytes.
        if is_carrier(given[-1]) and not (self.last == "token" and _is_json(given[-1])):
            raise CarrierError(
                f"{self.function} takes its {self.last} after the request; "
                f"the last argument is {type(given[-1]).__name__!r}, which is a request, a response or a context"
            )
        return given[:-1], given[-1:]


_VALUES: Final = (str, bytes, int, float, list, tuple, set, type(None), UUID)


def _is_json(value: object) -> bool:
    return isinstance(value, dict) and all(isinstance(one, _JSON) for one in value.values())


_JSON: Final = (str, int, float, list, dict, type(None))


async def get(visit: Visit, as_type: Any = None) -> Any:
    """`get_session_data`."""
    data = await visit.get()
    return data if as_type is None else convert(data, as_type)


async def merge(visit: Visit, data: Mapping[str, object]) -> bool:
    """`set_session_data`."""
    return await visit.merge(_mapping("set_session_data", data))


async def update(visit: Visit, change: Callable[[dict[str, Any]], object]) -> bool:
    """`update_session_data`."""
    if not callable(change):
        raise TypeError(f"update_session_data takes a function of the data, not {type(change).__name__!r}")
    return await visit.update(change)


async def replace(visit: Visit, data: Mapping[str, object], *, in_place: bool) -> bool:
    """`replace_session_data`."""
    return await visit.replace(_mapping("replace_session_data", data), in_place=in_place)


async def log_in(visit: Visit, owner: object, data: Mapping[str, object] | None = None) -> bool:
    """`log_in`."""
    return await visit.replace(_mapping("log_in", data or {}), _owner("log_in", owner))


async def pluck(visit: Visit, name: str, as_type: Any = None) -> Any:
    """`pluck_session_property`."""
    if not isinstance(name, str):
        raise TypeError(f"pluck_session_property takes the name of a key, not {type(name).__name__!r}")
    value = await visit.pluck(name)
    return value if as_type is None or value is None else convert(value, as_type, name)


async def destroy(visit: Visit) -> bool:
    """`destroy_session`."""
    return await visit.destroy()


async def renew(
    visit: Visit,
    data: Mapping[str, object] | None,
    *,
    max_age: object = None,
    absolute_max_age: object = None,
    persistent: object = None,
    authenticated: object = False,
) -> bool:
    """`renew_session`."""
    life = Life(
        idle=None if max_age is None else seconds_of("max_age", max_age),
        absolute=None if absolute_max_age is None else seconds_of("absolute_max_age", absolute_max_age),
        persistent=None if persistent is None else _flag("persistent", persistent),
    )
    given = _mapping("renew_session", data) if data else None
    return await visit.renew(given, life, authenticated=_flag("authenticated", authenticated))


async def require_fresh(visit: Visit, max_age: object) -> None:
    """`require_fresh`."""
    await visit.require_fresh(seconds_of("max_age", max_age))


async def get_token(visit: Visit, scope: tuple[str, str] | None) -> str:
    """`get_csrf_token`."""
    return await visit.csrf_token(_scope(scope))


async def validate_token(visit: Visit, token: object, scope: tuple[str, str] | None) -> bool:
    """`validate_csrf_token`."""
    # Whatever a client may send as JSON is an answer, and the answer is no.
    return isinstance(token, str) and await visit.has_csrf_token(token, _scope(scope))


GET: Final[Step[Any]] = Step("get_session_data", get)
SET: Final[Step[bool]] = Step("set_session_data", merge, "data")
UPDATE: Final[Step[bool]] = Step("update_session_data", update, "change")
REPLACE: Final[Step[bool]] = Step("replace_session_data", replace, "data")
LOG_IN: Final[Step[bool]] = Step("log_in", log_in, "owner", "data")
PLUCK: Final[Step[Any]] = Step("pluck_session_property", pluck, "name")
DESTROY: Final[Step[bool]] = Step("destroy_session", destroy)
RENEW: Final[Step[bool]] = Step("renew_session", renew)
REQUIRE_FRESH: Final[Step[None]] = Step("require_fresh", require_fresh, "max_age")
GET_TOKEN: Final[Step[str]] = Step("get_csrf_token", get_token)
VALIDATE_TOKEN: Final[Step[bool]] = Step("validate_csrf_token", validate_token, "token")


async def sessions_of(policy: Policy, owner: str, current: Visit | None) -> list[OwnedSession]:
    """`sessions_of`."""
    selector = None if current is None else await current.living_selector()
    return await policy.owners.sessions(_owner("sessions_of", owner), selector)


async def destroy_sessions_of(policy: Policy, owner: str, only: str | None, but: Visit | None) -> int:
    """`destroy_sessions_of`."""
    kept = None if but is None else await but.living_selector()
    return await policy.owners.destroy(_owner("destroy_sessions_of", owner), only=only, but=kept)


def _owner(function: str, owner: object) -> str:
    if not isinstance(owner, str) or not owner:
        raise TypeError(f"{function} takes the owner's name or id as text, not {type(owner).__name__!r}")
    return owner


def _flag(name: str, given: object) -> bool:
    if not isinstance(given, bool):
        raise TypeError(f"renew_session takes {name} as True or False, not {type(given).__name__!r}")
    return given


def _mapping(function: str, data: object) -> Mapping[str, object]:
    if not isinstance(data, Mapping):
        raise TypeError(f"{function} takes the data as a dict, not {type(data).__name__!r}")
    return data


def _scope(scope: tuple[str, str] | None) -> str:
    if scope is None:
        return ""
    if not isinstance(scope, tuple) or list(map(type, scope)) != [str, str]:
        raise TypeError(f"a token's scope is a method and a path, as in ('POST', '/transfer'), not {scope!r}")
    # Late, for every import of the library would pay for it.
    from urllib.parse import unquote

    # As the guard will see it: a link's %20 is decoded there, and the method is on the wire in capitals.
    return f"{scope[0].upper()} {unquote(scope[1])}"

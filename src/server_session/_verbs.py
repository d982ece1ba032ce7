"""The functions' bodies, once for both colours: what each does with a request's visit."""

from collections.abc import Callable, Coroutine, Mapping
from typing import Any, Final, Generic, NamedTuple, TypeAlias, TypeVar
from uuid import UUID

from server_session._convert import convert
from server_session._durations import seconds_of
from server_session._owners import OwnedSession
from server_session._policy import Policy
from server_session._record import Life
from server_session.exceptions import CarrierError
from server_session.http.carrier import Carrier, is_carrier, resolve
from server_session.kernel.stored import StoredSession

__all__ = [
    "Verb",
    "destroy_session",
    "destroy_sessions_of",
    "get_csrf_token",
    "get_session_data",
    "log_in",
    "pluck_session_property",
    "renew_session",
    "replace_session_data",
    "require_fresh",
    "scope_of",
    "sessions_of",
    "set_session_data",
    "update_session_data",
    "validate_csrf_token",
]

R = TypeVar("R")

Body: TypeAlias = Callable[..., Coroutine[Any, Any, R]]


class Verb(NamedTuple, Generic[R]):
    """One of the functions: what its positional arguments after the carrier are, and its body."""

    function: str
    body: Body[R]
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

    def split(self, given: tuple[object, ...]) -> tuple[Carrier, tuple[object, ...]]:
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
            return resolve(given), ()
        # No request and no response is text, so a name followed by data is found wherever it stands.
        if self.then and len(given) > 1 and isinstance(given[-2], str) and not is_carrier(given[-1]):
            return resolve(given[:-2]), given[-2:]
        if not given:
            raise CarrierError(f"{self.function} needs its {self.last} as the last argument")
        # A token may be any JSON value, one that looks like a scope too; a scope's query string is bytes.
        if is_carrier(given[-1]) and not (self.last == "token" and _is_json(given[-1])):
            raise CarrierError(
                f"{self.function} takes its {self.last} after the request; "
                f"the last argument is {type(given[-1]).__name__!r}, which is a request, a response or a context"
            )
        return resolve(given[:-1]), given[-1:]


_VALUES: Final = (str, bytes, int, float, list, tuple, set, type(None), UUID)


def _is_json(value: object) -> bool:
    return isinstance(value, dict) and all(isinstance(one, _JSON) for one in value.values())


_JSON: Final = (str, int, float, list, dict, type(None))


def verb(last: str | None = None, then: str | None = None) -> Callable[[Body[R]], Verb[R]]:
    """Make one of the functions of its body; `last` and `then` are as `Verb` has them."""
    return lambda body: Verb(body.__name__, body, last, then)


@verb()
async def get_session_data(session: StoredSession, as_type: Any = None) -> Any:
    data = await session.get()
    return data if as_type is None else convert(data, as_type)


@verb("data")
async def set_session_data(session: StoredSession, data: object) -> bool:
    return await session.merge(_mapping("set_session_data", data))


@verb("change")
async def update_session_data(session: StoredSession, change: Callable[[dict[str, Any]], object]) -> bool:
    if not callable(change):
        raise TypeError(f"update_session_data takes a function of the data, not {type(change).__name__!r}")
    return await session.update(change)


@verb("data")
async def replace_session_data(session: StoredSession, data: object, *, in_place: bool) -> bool:
    return await session.replace(_mapping("replace_session_data", data), in_place=in_place)


@verb("owner", "data")
async def log_in(session: StoredSession, owner: object, data: object = None) -> bool:
    return await session.replace(_mapping("log_in", data or {}), _owner("log_in", owner))


@verb("name")
async def pluck_session_property(session: StoredSession, name: str, as_type: Any = None) -> Any:
    if not isinstance(name, str):
        raise TypeError(f"pluck_session_property takes the name of a key, not {type(name).__name__!r}")
    value = await session.pluck(name)
    return value if as_type is None or value is None else convert(value, as_type, name)


@verb()
async def destroy_session(session: StoredSession) -> bool:
    return await session.destroy()


@verb()
async def renew_session(
    session: StoredSession,
    data: object,
    *,
    max_age: object = None,
    absolute_max_age: object = None,
    persistent: object = None,
    authenticated: object = False,
) -> bool:
    life = Life(
        idle=None if max_age is None else seconds_of("max_age", max_age),
        absolute=None if absolute_max_age is None else seconds_of("absolute_max_age", absolute_max_age),
        persistent=None if persistent is None else _flag("persistent", persistent),
    )
    given = _mapping("renew_session", data) if data else None
    return await session.renew(given, life, authenticated=_flag("authenticated", authenticated))


@verb("max_age")
async def require_fresh(session: StoredSession, max_age: object) -> None:
    await session.require_fresh(seconds_of("max_age", max_age))


@verb()
async def get_csrf_token(session: StoredSession, scope: tuple[str, str] | None) -> str:
    return await session.csrf_token(scope_of(scope))


@verb("token")
async def validate_csrf_token(session: StoredSession, token: object, scope: tuple[str, str] | None) -> bool:
    # Whatever a client may send as JSON is an answer, and the answer is no.
    return isinstance(token, str) and await session.has_csrf_token(token, scope_of(scope))


async def sessions_of(policy: Policy, owner: str, current: StoredSession | None) -> list[OwnedSession]:
    """`sessions_of`."""
    selector = None if current is None else await current.living_selector()
    return await policy.owners.sessions(_owner("sessions_of", owner), selector)


async def destroy_sessions_of(policy: Policy, owner: str, only: str | None, but: StoredSession | None) -> int:
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


def scope_of(scope: tuple[str, str] | None) -> str:
    if scope is None:
        return ""
    if not isinstance(scope, tuple) or list(map(type, scope)) != [str, str]:
        raise TypeError(f"a token's scope is a method and a path, as in ('POST', '/transfer'), not {scope!r}")
    # Late, for every import of the library would pay for it.
    from urllib.parse import unquote

    # As the guard will see it: a link's %20 is decoded there, and the method is on the wire in capitals.
    return f"{scope[0].upper()} {unquote(scope[1])}"

"""The functions, each written once: its forms, what it promises, and its body.

The positional arguments before the last are the *carrier*: nothing at all (the request that the middleware is serving
now), `request`, `request, response` (no middleware is needed), or a context object that bears `.req`/`.res` or
`.request`/`.response`. What is no carrier raises `CarrierError`, which is a `TypeError`. A store that does not answer
raises `StoreError`; nothing is ever taken for an empty session.

Nobody calls what stands here: `_functions` has it as methods, in both colours.
"""

from datetime import timedelta
from typing import Any, TypeAlias, TypeVar, overload

from server_session._convert import convert
from server_session._record import Life
from server_session._settings import seconds_of
from server_session._verbs import Change, Data, TokenScope, checked, flag_of, scope_of, verb
from server_session.kernel.stored import StoredSession

__all__ = [
    "destroy_session",
    "get_csrf_token",
    "get_session_data",
    "is_alive",
    "log_in",
    "pluck_session_property",
    "renew_session",
    "replace_session_data",
    "require_fresh",
    "set_session_data",
    "update_session_data",
    "validate_csrf_token",
]

T = TypeVar("T")
Duration: TypeAlias = float | timedelta


@overload
async def get_session_data(*carrier: object, touch: bool = True) -> dict[str, Any]: ...
@overload
async def get_session_data(*carrier: object, as_type: type[T], touch: bool = True) -> T: ...
@verb()
async def get_session_data(session: StoredSession, *carrier: object, as_type: Any = None, touch: bool = True) -> Any:
    """Return the session's current data; `{}` without a session.

    Never creates a session or sets a cookie; restarts the idle clock, unless `touch` is False: for a page that asks by
    itself, so that it keeps no session alive (OWASP ASVS 5.0, 7.3.1). With `as_type` (a TypedDict, dataclass, msgspec
    Struct, attrs class or pydantic model) the data is checked and returned as that type; what does not fit raises
    `DataTypeError`, which names the field.
    """
    data = await session.get(touch=flag_of("get_session_data", "touch", touch))
    return data if as_type is None else convert(data, as_type)


@verb()
async def is_alive(session: StoredSession, *carrier: object) -> bool:
    """Tell whether the session lives: there is one, and it was not destroyed, renewed elsewhere or expired.

    The question asks the store each time, and does not restart the idle clock.
    """
    return await session.is_alive()


@overload
async def set_session_data(data: Data, /) -> bool: ...
@overload
async def set_session_data(request: object, data: Data, /) -> bool: ...
@overload
async def set_session_data(request: object, response: object, data: Data, /) -> bool: ...
@verb("data")
async def set_session_data(session: StoredSession, *arguments: Any) -> bool:
    """Merge top-level keys into the session, atomically; make a session and its cookie if there is none.

    Overlapping calls never undo each other's keys. Returns False, and writes nothing, if the session ended
    meanwhile. Raises `SerializationError` for a value that would not come out as it went in, `LimitError` where
    the session would grow beyond its bounds, `NoResponseError` or `ResponseStartedError` where a cookie is needed
    and cannot be set.
    """
    return await session.merge(checked("set_session_data", "data", *arguments))


@overload
async def update_session_data(change: Change, /) -> bool: ...
@overload
async def update_session_data(request: object, change: Change, /) -> bool: ...
@overload
async def update_session_data(request: object, response: object, change: Change, /) -> bool: ...
@verb("change")
async def update_session_data(session: StoredSession, *arguments: Any) -> bool:
    """Change the data by a function of the data: a cart, a counter.

    `change(data)` alters the dict that it is given and returns `None`. The keys that it changed are stored only if
    what it read is still so; else it is called again on fresh data, for at most 2 seconds, then `ConflictError`.
    So it may run several times and must have no other effect. Returns False if the session ended meanwhile.
    """
    (change,) = arguments
    return await session.update(checked("update_session_data", "change", change))


@overload
async def replace_session_data(data: Data, /, *, in_place: bool = False) -> bool: ...
@overload
async def replace_session_data(request: object, data: Data, /, *, in_place: bool = False) -> bool: ...
@overload
async def replace_session_data(request: object, response: object, data: Data, /, *, in_place: bool = False) -> bool: ...
@verb("data")
async def replace_session_data(session: StoredSession, *arguments: Any, in_place: bool = False) -> bool:
    """Replace all data, for a log-in: found a session under a new cookie, and end the old one.

    Nothing of before is kept, no owner and no age (OWASP ASVS 5.0, 7.2.4). `in_place=True` resets a form instead:
    cookie, age, owner and the tokens of other tabs stay.
    """
    return await session.replace(checked("replace_session_data", "data", *arguments), in_place=in_place)


@overload
async def log_in(owner: str, data: Data = ..., /) -> bool: ...
@overload
async def log_in(request: object, owner: str, data: Data = ..., /) -> bool: ...
@overload
async def log_in(request: object, response: object, owner: str, data: Data = ..., /) -> bool: ...
@verb("owner", "data")
async def log_in(session: StoredSession, *arguments: Any) -> bool:
    """Replace all data as `replace_session_data` does, and record whose session it is and that they logged in.

    `owner` is the user's id as text; the data may follow it. With `max_sessions`, the owner's oldest sessions end to
    make room (OWASP ASVS 5.0, 7.1.2); the session that this log-in replaces does not count. Returns False if all
    sessions of the owner were ended meanwhile.
    """
    owner, data, *_ = *arguments, None
    return await session.replace(checked("log_in", "data", data or {}), checked("log_in", "owner", owner))


@overload
async def pluck_session_property(name: str, /) -> Any: ...
@overload
async def pluck_session_property(request: object, name: str, /) -> Any: ...
@overload
async def pluck_session_property(request: object, response: object, name: str, /) -> Any: ...
@overload
async def pluck_session_property(name: str, /, *, as_type: type[T]) -> T | None: ...
@overload
async def pluck_session_property(request: object, name: str, /, *, as_type: type[T]) -> T | None: ...
@overload
async def pluck_session_property(request: object, response: object, name: str, /, *, as_type: type[T]) -> T | None: ...
@verb("name")
async def pluck_session_property(session: StoredSession, *arguments: Any, as_type: Any = None) -> Any:
    """Remove one key and return its value, or `None`. Of several concurrent calls exactly one gets it."""
    (name,) = arguments
    value = await session.pluck(checked("pluck_session_property", "name", name))
    return value if as_type is None or value is None else convert(value, as_type, name)


@verb()
async def destroy_session(session: StoredSession, *carrier: object) -> bool:
    """End the session and expire its cookie: log-out. Return whether there was one to end.

    Requests of it that are still under way cannot bring it back.
    """
    return await session.destroy()


@verb()
async def renew_session(  # noqa: D417 - the session is the carrier's
    session: StoredSession,
    *carrier: object,
    data: Data | None = None,
    max_age: Duration | None = None,
    absolute_max_age: Duration | None = None,
    persistent: bool | None = None,
    authenticated: bool = False,
) -> bool:
    """Give the session a new cookie; call it on any change of privilege (OWASP ASVS 5.0, 7.2.4).

    The old cookie is dead at once, and all else stays. "Remember me" is `log_in`, and in the same request
    `renew_session(request, max_age=timedelta(days=30), persistent=True)`. What is given here of the session's
    life holds through later renewals, and ends with the session: a log-in founds another.

    Args:
        *carrier: the request, as said above.
        data: merged in the same step.
        max_age: this session's idle time-out, in seconds or as a timedelta. The deadline stays where it was.
        absolute_max_age: the age, counted from its founding, at which it ends; a session that is older ends now.
        persistent: whether the browser keeps the cookie after it closes, until the session's deadline (or for its
            idle time, where it has none); `None` leaves it as it is.
        authenticated: whether the user has just proved who they are, for `require_fresh`.

    Returns:
        False if the session ended meanwhile, or if there is none and no data to found one with.

    """
    life = Life(
        idle=None if max_age is None else seconds_of("max_age", max_age),
        absolute=None if absolute_max_age is None else seconds_of("absolute_max_age", absolute_max_age),
        persistent=None if persistent is None else flag_of("renew_session", "persistent", persistent),
    )
    given = checked("renew_session", "data", data) if data else None
    return await session.renew(given, life, authenticated=flag_of("renew_session", "authenticated", authenticated))


@overload
async def require_fresh(max_age: Duration, /) -> None: ...
@overload
async def require_fresh(request: object, max_age: Duration, /) -> None: ...
@overload
async def require_fresh(request: object, response: object, max_age: Duration, /) -> None: ...
@verb("max_age")
async def require_fresh(session: StoredSession, *arguments: Any) -> None:
    """Raise `NotFreshError` unless the user logged in within `max_age`, in seconds or as a timedelta.

    For what needs the password again: to change it, or the address, or to pay (OWASP ASVS 5.0, 7.5.1 to 7.5.3).
    The time is that of the last `log_in`, of a `replace_session_data` or a write of the mapping that sets a key of
    `renew_on`, or of `renew_session(authenticated=True)`, which is what to call when the password was given again:
    the same user written once more is no change, and no log-in. A write of another user, or of none, by whichever
    function, takes the time out. Makes no session.
    """
    await session.require_fresh(seconds_of("max_age", *arguments))


@verb()
async def get_csrf_token(session: StoredSession, *carrier: object, scope: TokenScope | None = None) -> str:
    """Return a fresh CSRF token for a form; make a session if there is none.

    A token holds until the session ends or its cookie is renewed, in every tab. `scope` is the method and path of
    the one form that it is for. Over an ended session it is text that will not validate.
    """
    return await session.csrf_token(scope_of(scope))


@overload
async def validate_csrf_token(token: object, /, *, scope: TokenScope | None = None) -> bool: ...
@overload
async def validate_csrf_token(request: object, token: object, /, *, scope: TokenScope | None = None) -> bool: ...
@overload
async def validate_csrf_token(
    request: object, response: object, token: object, /, *, scope: TokenScope | None = None
) -> bool: ...
@verb("token")
async def validate_csrf_token(session: StoredSession, *arguments: Any, scope: TokenScope | None = None) -> bool:
    """Tell whether a CSRF token was issued to this session, for this scope, and the session lives.

    A missing, empty, `None` or foreign token, and any JSON value, is False, never an error. Makes no session.
    """
    (token,) = arguments
    return isinstance(token, str) and await session.has_csrf_token(token, scope_of(scope))

"""The functions about a request's session, each written once: its forms, what it promises, and its body.

The positional arguments before the last are the *carrier*: nothing at all (the request that the middleware is serving
now), `request`, `request, response` (no middleware is needed), or a context object that bears `.req`/`.res` or
`.request`/`.response`. What is no carrier raises `CarrierError`, which is a `TypeError`. A store that does not answer
raises `StoreError`; nothing is ever taken for an empty session.
"""

from typing import Any, TypeVar, overload

from server_session._arguments import Change, Data, Duration, TokenScope, checked, checked_flag, parted, scope_of
from server_session._calls import Calls
from server_session._convert import convert
from server_session._record import Life
from server_session._settings import seconds_if_given, seconds_of
from server_session.kernel.stored import StoredSession

T = TypeVar("T")


class RequestFunctions(Calls):
    """The awaitable functions about a request's session."""

    @overload
    async def get_session_data(self, *carrier: object, touch: bool = True) -> dict[str, Any]: ...
    @overload
    async def get_session_data(self, *carrier: object, as_type: type[T], touch: bool = True) -> T: ...
    async def get_session_data(self, *carrier: object, as_type: Any = None, touch: bool = True) -> Any:
        """Return the session's current data; `{}` without a session.

        Never creates a session or sets a cookie; restarts the idle clock, unless `touch` is False: for a page that asks
        by itself, so that it keeps no session alive (OWASP ASVS 5.0, 7.3.1). With `as_type` (a TypedDict, dataclass,
        msgspec Struct, attrs class or pydantic model) the data is checked and returned as that type; what does not fit
        raises `DataTypeError`, which names the field.
        """
        resolved, _ = parted("get_session_data", carrier)
        checked_flag("get_session_data", "touch", touch)
        data = await self._call(resolved, StoredSession.get, touch=touch)
        return data if as_type is None else convert(data, as_type)

    async def is_alive(self, *carrier: object) -> bool:
        """Tell whether the session lives: there is one, and it was not destroyed, renewed elsewhere or expired.

        The question asks the store each time, and does not restart the idle clock.
        """
        resolved, _ = parted("is_alive", carrier)
        return await self._call(resolved, StoredSession.is_alive)

    @overload
    async def set_session_data(self, data: Data, /) -> bool: ...
    @overload
    async def set_session_data(self, request: object, data: Data, /) -> bool: ...
    @overload
    async def set_session_data(self, request: object, response: object, data: Data, /) -> bool: ...
    async def set_session_data(self, *arguments: Any) -> bool:
        """Merge top-level keys into the session, atomically; make a session and its cookie if there is none.

        Overlapping calls never undo each other's keys. Returns False, and writes nothing, if the session ended
        meanwhile. Raises `SerializationError` for a value that would not come out as it went in, `LimitError` where
        the session would grow beyond its bounds, `NoResponseError` or `ResponseStartedError` where a cookie is needed
        and cannot be set.
        """
        carrier, (data,) = parted("set_session_data", arguments, "data")
        return await self._call(carrier, StoredSession.merge, data)

    @overload
    async def update_session_data(self, change: Change, /) -> bool: ...
    @overload
    async def update_session_data(self, request: object, change: Change, /) -> bool: ...
    @overload
    async def update_session_data(self, request: object, response: object, change: Change, /) -> bool: ...
    async def update_session_data(self, *arguments: Any) -> bool:
        """Change the data by a function of the data: a cart, a counter.

        `change(data)` alters the dict that it is given and returns `None`. The keys that it changed are stored only if
        what it read is still so; else it is called again on fresh data, for at most 2 seconds, then `ConflictError`.
        So it may run several times and must have no other effect. Returns False if the session ended meanwhile.
        """
        carrier, (change,) = parted("update_session_data", arguments, "change")
        return await self._call(carrier, StoredSession.update, change)

    @overload
    async def replace_session_data(self, data: Data, /, *, in_place: bool = False) -> bool: ...
    @overload
    async def replace_session_data(self, request: object, data: Data, /, *, in_place: bool = False) -> bool: ...
    @overload
    async def replace_session_data(
        self, request: object, response: object, data: Data, /, *, in_place: bool = False
    ) -> bool: ...
    async def replace_session_data(self, *arguments: Any, in_place: bool = False) -> bool:
        """Replace all data, for a log-in: found a session under a new cookie, and end the old one.

        Nothing of before is kept, no owner and no age (OWASP ASVS 5.0, 7.2.4). `in_place=True` resets a form instead:
        cookie, age, owner and the tokens of other tabs stay.
        """
        carrier, (data,) = parted("replace_session_data", arguments, "data")
        checked_flag("replace_session_data", "in_place", in_place)
        return await self._call(carrier, StoredSession.replace, data, in_place=in_place)

    @overload
    async def log_in(self, owner: str, data: Data = ..., /) -> bool: ...
    @overload
    async def log_in(self, request: object, owner: str, data: Data = ..., /) -> bool: ...
    @overload
    async def log_in(self, request: object, response: object, owner: str, data: Data = ..., /) -> bool: ...
    async def log_in(self, *arguments: Any) -> bool:
        """Replace all data as `replace_session_data` does, and record whose session it is and that they logged in.

        `owner` is the user's id as text; the data may follow it. With `max_sessions`, the owner's oldest sessions end
        to make room (OWASP ASVS 5.0, 7.1.2); the session that this log-in replaces does not count. Returns False if
        it was ended meanwhile: with all sessions of the owner, or by another log-in that needed its place.
        """
        carrier, (owner, *then) = parted("log_in", arguments, "owner", "data")
        data = {} if not then or then[0] is None else checked("log_in", "data", then[0])
        return await self._call(carrier, StoredSession.replace, data, owner)

    @overload
    async def pluck_session_property(self, name: str, /) -> Any: ...
    @overload
    async def pluck_session_property(self, request: object, name: str, /) -> Any: ...
    @overload
    async def pluck_session_property(self, request: object, response: object, name: str, /) -> Any: ...
    @overload
    async def pluck_session_property(self, name: str, /, *, as_type: type[T]) -> T | None: ...
    @overload
    async def pluck_session_property(self, request: object, name: str, /, *, as_type: type[T]) -> T | None: ...
    @overload
    async def pluck_session_property(
        self, request: object, response: object, name: str, /, *, as_type: type[T]
    ) -> T | None: ...
    async def pluck_session_property(self, *arguments: Any, as_type: Any = None) -> Any:
        """Remove one key and return its value, or `None`. Of several concurrent calls exactly one gets it."""
        carrier, (name,) = parted("pluck_session_property", arguments, "name")
        value = await self._call(carrier, StoredSession.pluck, name)
        return value if as_type is None or value is None else convert(value, as_type, name)

    async def destroy_session(self, *carrier: object) -> bool:
        """End the session and expire its cookie: log-out. Return whether there was one to end.

        Requests of it that are still under way cannot bring it back.
        """
        resolved, _ = parted("destroy_session", carrier)
        return await self._call(resolved, StoredSession.destroy)

    async def renew_session(
        self,
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
        resolved, _ = parted("renew_session", carrier)
        life = Life(
            idle=seconds_if_given("max_age", max_age),
            absolute=seconds_if_given("absolute_max_age", absolute_max_age),
            persistent=None if persistent is None else checked_flag("renew_session", "persistent", persistent),
        )
        given = None if data is None else checked("renew_session", "data", data) or None
        checked_flag("renew_session", "authenticated", authenticated)
        return await self._call(resolved, StoredSession.renew, given, life, authenticated=authenticated)

    @overload
    async def require_fresh(self, max_age: Duration, /) -> None: ...
    @overload
    async def require_fresh(self, request: object, max_age: Duration, /) -> None: ...
    @overload
    async def require_fresh(self, request: object, response: object, max_age: Duration, /) -> None: ...
    async def require_fresh(self, *arguments: Any) -> None:
        """Raise `NotFreshError` unless the user logged in within `max_age`, in seconds or as a timedelta.

        For what needs the password again: to change it, or the address, or to pay (OWASP ASVS 5.0, 7.5.1 to 7.5.3).
        The time is that of the last `log_in`, of a `replace_session_data` or a write of the mapping that sets a key of
        `renew_on`, or of `renew_session(authenticated=True)`, which is what to call when the password was given again:
        the same user written once more is no change, and no log-in. A write of another user, or of none, by whichever
        function, takes the time out. Makes no session.
        """
        carrier, (max_age,) = parted("require_fresh", arguments, "max_age")
        await self._call(carrier, StoredSession.require_fresh, seconds_of("max_age", max_age))

    async def get_csrf_token(self, *carrier: object, scope: TokenScope | None = None) -> str:
        """Return a fresh CSRF token for a form; make a session if there is none.

        A token holds until the session ends or its cookie is renewed, in every tab. `scope` is the method and path of
        the one form that it is for. Over an ended session it is text that will not validate.
        """
        resolved, _ = parted("get_csrf_token", carrier)
        return await self._call(resolved, StoredSession.csrf_token, scope_of(scope))

    @overload
    async def validate_csrf_token(self, token: object, /, *, scope: TokenScope | None = None) -> bool: ...
    @overload
    async def validate_csrf_token(
        self, request: object, token: object, /, *, scope: TokenScope | None = None
    ) -> bool: ...
    @overload
    async def validate_csrf_token(
        self, request: object, response: object, token: object, /, *, scope: TokenScope | None = None
    ) -> bool: ...
    async def validate_csrf_token(self, *arguments: Any, scope: TokenScope | None = None) -> bool:
        """Tell whether a CSRF token was issued to this session, for this scope, and the session lives.

        A missing, empty, `None` or foreign token, and any JSON value, is False, never an error. Makes no session.
        """
        carrier, (token,) = parted("validate_csrf_token", arguments, "token")
        return await self._call(carrier, StoredSession.has_csrf_token, token, scope_of(scope))

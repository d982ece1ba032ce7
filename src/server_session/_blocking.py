"""The functions, blocking, for Flask, Django's `def` views and every other WSGI application.

They are those of `server_session`, name for name; what each promises is said there. They refuse to stall an event
loop: over a store that awaits, `ColourError` says what to call instead.
"""

from collections.abc import Callable, Coroutine, Mapping
from datetime import timedelta
from typing import Any, TypeAlias, TypeVar, overload

from server_session import _verbs as verbs
from server_session._owners import OwnedSession
from server_session._policy import Policy
from server_session._verbs import Verb
from server_session.kernel.stored import StoredSession

__all__ = [
    "BlockingFunctions",
]

R = TypeVar("R")
T = TypeVar("T")
Change = Callable[[dict[str, Any]], None]
Data = Mapping[str, object]
Duration: TypeAlias = float | timedelta
TokenScope = tuple[str, str]
Question: TypeAlias = Callable[[Policy, StoredSession | None], Coroutine[Any, Any, R]]


class BlockingFunctions:
    """The blocking functions."""

    def call(self, verb: Verb[R], arguments: tuple[object, ...], **options: object) -> R:
        """Run one of the functions over the sessions that this object serves."""
        raise NotImplementedError

    def ask(self, start: Question[R], current: object = None) -> R:
        """Ask something of the store that is about no request, but may spare that of `current`."""
        raise NotImplementedError

    @overload
    def get_session_data(self, *carrier: object) -> dict[str, Any]: ...
    @overload
    def get_session_data(self, *carrier: object, as_type: type[T]) -> T: ...
    def get_session_data(self, *carrier: object, as_type: Any = None) -> Any:
        """Do what `server_session.get_session_data` does, and block until it is done."""
        return self.call(verbs.get_session_data, carrier, as_type=as_type)

    @overload
    def set_session_data(self, data: Data, /) -> bool: ...
    @overload
    def set_session_data(self, request: object, data: Data, /) -> bool: ...
    @overload
    def set_session_data(self, request: object, response: object, data: Data, /) -> bool: ...
    def set_session_data(self, *arguments: Any) -> bool:
        """Do what `server_session.set_session_data` does, and block until it is done."""
        return self.call(verbs.set_session_data, arguments)

    @overload
    def update_session_data(self, change: Change, /) -> bool: ...
    @overload
    def update_session_data(self, request: object, change: Change, /) -> bool: ...
    @overload
    def update_session_data(self, request: object, response: object, change: Change, /) -> bool: ...
    def update_session_data(self, *arguments: Any) -> bool:
        """Do what `server_session.update_session_data` does, and block until it is done."""
        return self.call(verbs.update_session_data, arguments)

    @overload
    def replace_session_data(self, data: Data, /, *, in_place: bool = False) -> bool: ...
    @overload
    def replace_session_data(self, request: object, data: Data, /, *, in_place: bool = False) -> bool: ...
    @overload
    def replace_session_data(
        self, request: object, response: object, data: Data, /, *, in_place: bool = False
    ) -> bool: ...
    def replace_session_data(self, *arguments: Any, in_place: bool = False) -> bool:
        """Do what `server_session.replace_session_data` does, and block until it is done."""
        return self.call(verbs.replace_session_data, arguments, in_place=in_place)

    @overload
    def log_in(self, owner: str, data: Data = ..., /) -> bool: ...
    @overload
    def log_in(self, request: object, owner: str, data: Data = ..., /) -> bool: ...
    @overload
    def log_in(self, request: object, response: object, owner: str, data: Data = ..., /) -> bool: ...
    def log_in(self, *arguments: Any) -> bool:
        """Do what `server_session.log_in` does, and block until it is done."""
        return self.call(verbs.log_in, arguments)

    @overload
    def pluck_session_property(self, name: str, /) -> Any: ...
    @overload
    def pluck_session_property(self, request: object, name: str, /) -> Any: ...
    @overload
    def pluck_session_property(self, request: object, response: object, name: str, /) -> Any: ...
    @overload
    def pluck_session_property(self, name: str, /, *, as_type: type[T]) -> T | None: ...
    @overload
    def pluck_session_property(self, request: object, name: str, /, *, as_type: type[T]) -> T | None: ...
    @overload
    def pluck_session_property(
        self, request: object, response: object, name: str, /, *, as_type: type[T]
    ) -> T | None: ...
    def pluck_session_property(self, *arguments: Any, as_type: Any = None) -> Any:
        """Do what `server_session.pluck_session_property` does, and block until it is done."""
        return self.call(verbs.pluck_session_property, arguments, as_type=as_type)

    def destroy_session(self, *carrier: object) -> bool:
        """Do what `server_session.destroy_session` does, and block until it is done."""
        return self.call(verbs.destroy_session, carrier)

    def renew_session(
        self,
        *carrier: object,
        data: Data | None = None,
        max_age: Duration | None = None,
        absolute_max_age: Duration | None = None,
        persistent: bool | None = None,
        authenticated: bool = False,
    ) -> bool:
        """Do what `server_session.renew_session` does, and block until it is done."""
        return self.call(
            verbs.renew_session,
            carrier,
            data=data,
            max_age=max_age,
            absolute_max_age=absolute_max_age,
            persistent=persistent,
            authenticated=authenticated,
        )

    @overload
    def require_fresh(self, max_age: Duration, /) -> None: ...
    @overload
    def require_fresh(self, request: object, max_age: Duration, /) -> None: ...
    @overload
    def require_fresh(self, request: object, response: object, max_age: Duration, /) -> None: ...
    def require_fresh(self, *arguments: Any) -> None:
        """Do what `server_session.require_fresh` does, and block until it is done."""
        self.call(verbs.require_fresh, arguments)

    def get_csrf_token(self, *carrier: object, scope: TokenScope | None = None) -> str:
        """Do what `server_session.get_csrf_token` does, and block until it is done."""
        return self.call(verbs.get_csrf_token, carrier, scope=scope)

    @overload
    def validate_csrf_token(self, token: object, /, *, scope: TokenScope | None = None) -> bool: ...
    @overload
    def validate_csrf_token(self, request: object, token: object, /, *, scope: TokenScope | None = None) -> bool: ...
    @overload
    def validate_csrf_token(
        self, request: object, response: object, token: object, /, *, scope: TokenScope | None = None
    ) -> bool: ...
    def validate_csrf_token(self, *arguments: Any, scope: TokenScope | None = None) -> bool:
        """Do what `server_session.validate_csrf_token` does, and block until it is done."""
        return self.call(verbs.validate_csrf_token, arguments, scope=scope)

    def sessions_of(self, owner: str, *, current: object = None) -> list[OwnedSession]:
        """Do what `server_session.sessions_of` does, and block until it is done."""
        return self.ask(lambda policy, current: verbs.sessions_of(policy, owner, current), current)

    def destroy_sessions_of(self, owner: str, *, except_current: object = None, only: str | None = None) -> int:
        """Do what `server_session.destroy_sessions_of` does, and block until it is done."""
        return self.ask(lambda policy, current: verbs.destroy_sessions_of(policy, owner, only, current), except_current)

"""The functions in their two colours, made of what `_api` says of each once."""

from collections.abc import Callable, Coroutine
from functools import partial, wraps
from types import MethodType
from typing import Any, Generic, ParamSpec, TypeAlias, TypeVar, cast

from server_session import _api as api
from server_session._colour import run_awaiting, run_blocking
from server_session._tokens import short_digest
from server_session._verbs import Asked, Verb, id_of
from server_session.exchange.colours import Served
from server_session.http.carrier import Carrier, resolve, serving
from server_session.kernel.by_id import SessionById

F = TypeVar("F")
F_co = TypeVar("F_co", covariant=True)
P = ParamSpec("P")
R = TypeVar("R")

_Running: TypeAlias = Coroutine[Any, Any, Any]


class _Method(Generic[F_co]):
    """What a type checker sees of a function that stands in a class."""

    def __get__(self, instance: object, owner: type | None = None) -> F_co:
        raise NotImplementedError


def _method(function: F) -> _Method[F]:
    """Make the awaitable method of one of the functions."""
    verb = cast("Verb", function)

    @wraps(verb.body)
    async def call(functions: "_Holder", /, *arguments: Any, **options: Any) -> Any:
        if verb.current is None:
            carrier, rest = verb.split(arguments)
            exchange = functions.sessions_for(carrier).exchange(carrier.request)
            stored = exchange.begin_call(carrier.response)
            try:
                return await exchange.run(verb.body(stored, *rest, **options))
            finally:
                exchange.end_call(carrier.response)
        sessions = functions.sessions_for(None)
        return await run_awaiting(sessions.store.colour, functions.answer(verb, sessions, arguments, options))

    vars(call)["verb"] = verb
    return cast("_Method[F]", call)


def blocking(function: Callable[P, Coroutine[Any, Any, R]]) -> Callable[P, R]:
    """Make the blocking twin of an awaitable function of some `Functions`."""
    method = cast("MethodType", function)
    verb: Verb = vars(method.__func__)["verb"]

    @wraps(verb.body)
    def call(functions: "_Holder", /, *arguments: Any, **options: Any) -> Any:
        if verb.current is None:
            carrier, rest = verb.split(arguments)
            exchange = functions.sessions_for(carrier).exchange(carrier.request)
            stored = exchange.begin_call(carrier.response)
            try:
                return exchange.blocking.run(partial(verb.body, stored, *rest, **options))
            finally:
                exchange.end_call(carrier.response)
        sessions, request = functions.sessions_for(None), serving()
        home = None if request is None else request.home
        return run_blocking(sessions.store.colour, home, partial(functions.answer, verb, sessions, arguments, options))

    call.__doc__ = f"Do what `server_session.{method.__qualname__}` does, and block until it is done."
    return cast("Callable[P, R]", MethodType(call, method.__self__))


class _Holder:
    """What the functions are methods of: over which sessions, and about what where there is no carrier."""

    def sessions_for(self, carrier: Carrier | None) -> Served:
        """Return the sessions that serve this carrier, or no request in particular."""
        raise NotImplementedError

    def answer(self, verb: Verb, sessions: Served, arguments: tuple[Any, ...], options: dict[str, Any]) -> _Running:
        """Call a body that has no carrier."""
        raise NotImplementedError


class OpenedSession(_Holder):
    """A stored session, opened by its id: what background jobs, administrators' pages and sockets need.

    Its methods promise what the functions do: a write is atomic, is held to the bounds, and never brings an ended
    session back, of which it returns False. No read restarts the idle clock, and each write does. The cookie stays as
    it is, for no browser is there to be given another: a write of a key that means log-in takes the time of the log-in
    out where it names another user, as everywhere, and no more. Where the old cookie must not have what is new,
    `destroy` the session and let its user log in.
    """

    def __init__(self, functions: _Holder, session_id: str) -> None:
        self._functions = functions
        self._id = session_id

    def __repr__(self) -> str:
        return f"<session {short_digest(self._id)}>"

    def sessions_for(self, carrier: Carrier | None) -> Served:
        """Return the sessions that it is one of."""
        return self._functions.sessions_for(carrier)

    def answer(self, verb: Verb, sessions: Served, arguments: tuple[Any, ...], options: dict[str, Any]) -> _Running:
        """Call a body with the session."""
        # As it is now: whoever opened it may hold it for long.
        return verb.body(SessionById(sessions.policy.with_one_limit(), self._id), *arguments, **options)

    destroy = _method(api.destroy_by_id)
    get = _method(api.get_by_id)
    pluck = _method(api.pluck_by_id)
    set = _method(api.set_by_id)
    update = _method(api.update_by_id)


class BlockingOpenedSession:
    """The blocking twin of an `OpenedSession`."""

    def __init__(self, opened: OpenedSession) -> None:
        self.destroy = blocking(opened.destroy)
        self.get = blocking(opened.get)
        self.pluck = blocking(opened.pluck)
        self.set = blocking(opened.set)
        self.update = blocking(opened.update)


class Functions(_Holder):
    """The awaitable functions, over the sessions that a subclass finds."""

    def answer(self, verb: Verb, sessions: Served, arguments: tuple[Any, ...], options: dict[str, Any]) -> _Running:
        """Call a body with the session of a request or, for True, of the one being served."""
        current, stored = options.get(verb.current or ""), None
        if current is not None and current is not False:
            stored = sessions.exchange(resolve(() if current is True else (current,)).request).stored
        return verb.body(Asked(sessions.policy.with_one_limit(), stored), *arguments, **options)

    def open(self, session_id: str) -> OpenedSession:
        """Return the session of this id, as `sessions_of` tells it, without a request. Asks the store nothing.

        An id opens it without its cookie's secret: take it from `sessions_of`, and keep it where no visitor reads or
        writes. Of one that a form sends, look first whether it is among `sessions_of` that visitor. What names no
        session that lives (made up, malformed, a cookie's value) opens one that has ended.
        """
        return OpenedSession(self, id_of("open", session_id))

    destroy_session = _method(api.destroy_session)
    destroy_sessions_of = _method(api.destroy_sessions_of)
    get_csrf_token = _method(api.get_csrf_token)
    get_session_data = _method(api.get_session_data)
    health = _method(api.health)
    is_alive = _method(api.is_alive)
    log_in = _method(api.log_in)
    pluck_session_property = _method(api.pluck_session_property)
    renew_session = _method(api.renew_session)
    replace_session_data = _method(api.replace_session_data)
    require_fresh = _method(api.require_fresh)
    sessions_of = _method(api.sessions_of)
    set_session_data = _method(api.set_session_data)
    update_session_data = _method(api.update_session_data)
    update_sessions_of = _method(api.update_sessions_of)
    validate_csrf_token = _method(api.validate_csrf_token)


class BlockingFunctions:
    """The blocking twins of awaitable functions, name for name."""

    def __init__(self, functions: Functions) -> None:
        self._functions = functions
        self.destroy_session = blocking(functions.destroy_session)
        self.destroy_sessions_of = blocking(functions.destroy_sessions_of)
        self.get_csrf_token = blocking(functions.get_csrf_token)
        self.get_session_data = blocking(functions.get_session_data)
        self.health = blocking(functions.health)
        self.is_alive = blocking(functions.is_alive)
        self.log_in = blocking(functions.log_in)
        self.pluck_session_property = blocking(functions.pluck_session_property)
        self.renew_session = blocking(functions.renew_session)
        self.replace_session_data = blocking(functions.replace_session_data)
        self.require_fresh = blocking(functions.require_fresh)
        self.sessions_of = blocking(functions.sessions_of)
        self.set_session_data = blocking(functions.set_session_data)
        self.update_session_data = blocking(functions.update_session_data)
        self.update_sessions_of = blocking(functions.update_sessions_of)
        self.validate_csrf_token = blocking(functions.validate_csrf_token)

    def open(self, session_id: str) -> BlockingOpenedSession:
        """Do what the awaitable `open` does, for calls that block."""
        return BlockingOpenedSession(self._functions.open(session_id))

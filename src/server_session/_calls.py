"""How a call of a public function reaches a session: awaited, or blocking."""

from collections.abc import Callable, Coroutine
from functools import partial, wraps
from typing import Any, Concatenate, ParamSpec, TypeVar, cast

from server_session._colour import drive, run
from server_session._policy import Policy
from server_session.exchange.colours import Served
from server_session.http.carrier import Carrier, resolve, serving
from server_session.kernel.stored import StoredSession

P = ParamSpec("P")
R = TypeVar("R")


class Calls:
    """Brings calls to the sessions that a subclass finds."""

    # Whether the callers block, and drive the coroutines themselves.
    blocks = False

    def sessions_for(self, carrier: Carrier | None) -> Served:
        """Return the sessions that serve this carrier, or no request in particular."""
        raise NotImplementedError

    async def _call(
        self,
        carrier: Carrier,
        method: Callable[Concatenate[StoredSession, P], Coroutine[Any, Any, R]],
        *arguments: P.args,
        **options: P.kwargs,
    ) -> R:
        """Call a method of the session of a request."""
        sessions = self.sessions_for(carrier)
        exchange = sessions.exchange(carrier.request)
        stored = exchange.begin_call(carrier.response)
        try:
            start = partial(method, stored, *arguments, **options)
            return await run(sessions.store.colour, carrier.request.home, start, blocks=self.blocks)
        finally:
            exchange.end_call(carrier.response)

    async def _ask(self, ask: Callable[[Policy], Coroutine[Any, Any, R]]) -> R:
        """Call a function that is about no request."""
        # No limit of time for the whole call, as a request has one: an owner may have any number of sessions.
        sessions, request = self.sessions_for(None), serving()
        home = None if request is None else request.home
        return await run(sessions.store.colour, home, lambda: ask(sessions.policy), blocks=self.blocks)

    def _caller(self, current: object) -> StoredSession:
        """Return the session of a request or, for True, of the one that is being served; for None one that is empty."""
        sessions = self.sessions_for(None)
        if current is None or current is False:
            return StoredSession(sessions.policy, ())
        carrier = resolve(() if current is True else (current,))
        return sessions.exchange(carrier.request).stored


def blocking(method: Callable[Concatenate[Any, P], Coroutine[Any, Any, R]]) -> Callable[Concatenate[Any, P], R]:
    """Make the blocking twin of an awaitable method, for a class whose `blocks` is True."""

    @wraps(method)
    def call(calls: Any, /, *arguments: P.args, **options: P.kwargs) -> R:
        return drive(method(calls, *arguments, **options))

    name = method.__qualname__.rpartition("Functions.")[2]
    call.__doc__ = f"Do what `server_session.{name}` does, and block until it is done."
    return cast("Callable[Concatenate[Any, P], R]", call)

"""A session without a request, opened by its id."""

from collections.abc import Callable, Coroutine
from typing import Any, Protocol, TypeVar, TypeVarTuple

from server_session._arguments import Change, Data, checked
from server_session._calls import blocking
from server_session._policy import Policy
from server_session.kernel.by_id import SessionById

R = TypeVar("R")
Arguments = TypeVarTuple("Arguments")


class _Ask(Protocol):
    async def __call__(self, ask: Callable[[Policy], Coroutine[Any, Any, R]], /) -> R: ...


class _Opened:
    def __init__(self, ask: _Ask, session_id: str) -> None:
        self._ask = ask
        self._id = session_id

    async def _call(self, method: Callable[[SessionById, *Arguments], Coroutine[Any, Any, R]], *given: *Arguments) -> R:
        # The policy as it is now: this object may be held for long, and `configure` be called again.
        return await self._ask(lambda policy: method(SessionById(policy.with_one_limit(), self._id), *given))


class OpenedSession(_Opened):
    """A stored session, opened by its id: what background jobs, administrators' pages and sockets need.

    Its methods promise what the functions do: a write is atomic, is held to the bounds, and never brings an ended
    session back, of which it returns False. No read restarts the idle clock, and each write does. The cookie is never
    renewed, for there is no browser to give another to: a write of a key that means log-in only removes the time of the
    log-in, where it names another user, as everywhere. If the old cookie must not give access to what is new, `destroy`
    the session and let its user log in.
    """

    async def get(self) -> dict[str, Any]:
        """Return the session's data; `{}` if it has ended. Does not restart the idle clock."""
        return await self._call(SessionById.get)

    async def set(self, data: Data, /) -> bool:
        """Merge top-level keys into the session, atomically, as `set_session_data` does."""
        checked("set", "data", data)
        return await self._call(SessionById.merge, data)

    async def update(self, change: Change, /) -> bool:
        """Change the data by a function of the data, as `update_session_data` does.

        A function that changes nothing writes nothing, and so restarts no idle clock.
        """
        checked("update", "change", change)
        return await self._call(SessionById.update, change)

    async def pluck(self, name: str, /) -> Any:
        """Remove one key and return its value, or `None`. Of several concurrent calls exactly one gets it."""
        checked("pluck", "name", name)
        return await self._call(SessionById.pluck, name)

    async def destroy(self) -> bool:
        """End the session; return whether there was one to end. Requests under way cannot bring it back."""
        return await self._call(SessionById.destroy)


class BlockingOpenedSession(_Opened):
    """The blocking twin of an `OpenedSession`."""

    destroy = blocking(OpenedSession.destroy)
    get = blocking(OpenedSession.get)
    pluck = blocking(OpenedSession.pluck)
    set = blocking(OpenedSession.set)
    update = blocking(OpenedSession.update)

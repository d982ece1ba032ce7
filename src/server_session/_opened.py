"""A session without a request, opened by its id."""

from collections.abc import Callable, Coroutine
from typing import Any, Protocol, TypeVar

from server_session._policy import Policy
from server_session._verbs import Change, Data, blocking, checked
from server_session.kernel.by_id import SessionById

R = TypeVar("R")


class _Ask(Protocol):
    async def __call__(self, ask: Callable[[Policy], Coroutine[Any, Any, R]], /) -> R: ...


class OpenedSession:
    """A stored session, opened by its id: what background jobs, administrators' pages and sockets need.

    Its methods promise what the functions do: a write is atomic, is held to the bounds, and never brings an ended
    session back, of which it returns False. No read restarts the idle clock, and each write does. The cookie stays as
    it is, for no browser is there to be given another: a write of a key that means log-in takes the time of the log-in
    out where it names another user, as everywhere, and no more. Where the old cookie must not have what is new,
    `destroy` the session and let its user log in.
    """

    def __init__(self, ask: _Ask, session_id: str) -> None:
        self._ask = ask
        self._id = session_id

    async def get(self) -> dict[str, Any]:
        """Return the session's data; `{}` if it has ended. Does not restart the idle clock."""
        return await self._ask(lambda policy: self._session(policy).get())

    async def set(self, data: Data, /) -> bool:
        """Merge top-level keys into the session, atomically, as `set_session_data` does."""
        checked("set", "data", data)
        return await self._ask(lambda policy: self._session(policy).merge(data))

    async def update(self, change: Change, /) -> bool:
        """Change the data by a function of the data, as `update_session_data` does.

        One that changes nothing writes nothing, and so restarts no idle clock.
        """
        checked("update", "change", change)
        return await self._ask(lambda policy: self._session(policy).update(change))

    async def pluck(self, name: str, /) -> Any:
        """Remove one key and return its value, or `None`. Of several concurrent calls exactly one gets it."""
        checked("pluck", "name", name)
        return await self._ask(lambda policy: self._session(policy).pluck(name))

    async def destroy(self) -> bool:
        """End the session; return whether there was one to end. Requests under way cannot bring it back."""
        return await self._ask(lambda policy: self._session(policy).destroy())

    def _session(self, policy: Policy) -> SessionById:
        # As it is now: whoever opened it may hold it for long.
        return SessionById(policy.with_one_limit(), self._id)


class BlockingOpenedSession:
    """The blocking twin of an `OpenedSession`."""

    def __init__(self, opened: OpenedSession) -> None:
        self.destroy = blocking(opened.destroy)
        self.get = blocking(opened.get)
        self.pluck = blocking(opened.pluck)
        self.set = blocking(opened.set)
        self.update = blocking(opened.update)

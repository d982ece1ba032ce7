"""All functions: those about a request's session, those about no request, and the blocking twins of both."""

import time
from typing import NamedTuple

from server_session._api import RequestFunctions
from server_session._arguments import Change, checked, checked_flag
from server_session._calls import Calls, blocking
from server_session._opened import BlockingOpenedSession, OpenedSession
from server_session._owners import OwnedSession, OwnerIndex
from server_session._policy import Policy
from server_session.exceptions import ConflictError, LimitError, RecordError, SessionError, StoreError
from server_session.exchange.colours import Served
from server_session.http.carrier import Carrier
from server_session.kernel.by_id import SessionById


class Health(NamedTuple):
    """What `health` found; true where the store answers."""

    answers: bool
    """Whether the store answers."""
    seconds: float
    """How long it took to answer, or to fail."""
    why: str
    """Why it did not answer, in this library's words, which name no host; empty where it answers."""

    def __bool__(self) -> bool:
        return self.answers


class Functions(RequestFunctions):
    """The awaitable functions, over the sessions that a subclass finds."""

    async def sessions_of(self, owner: str, *, current: object = None, data: bool = False) -> list[OwnedSession]:
        """Return the sessions of an owner that live, as `log_in` recorded them, the oldest first.

        Each says when it was founded and, to about a minute, last seen: a read renews that once a minute, by a further
        call. `current` is a request, or True for the one that is being served: its session has `is_current`. With
        `data` each brings its data too, such as the device that its log-in noted. No idle clock is restarted.
        """
        checked("sessions_of", "owner", owner)
        checked_flag("sessions_of", "data", data)
        caller = self._caller(current)

        async def ask(policy: Policy) -> list[OwnedSession]:
            return await OwnerIndex(policy, owner).sessions(await caller.living_selector(), data=data)

        return await self._ask(ask)

    async def update_sessions_of(self, owner: str, change: Change) -> int:
        """Change the data of all sessions of an owner that live ("role changed"); return of how many.

        Each is changed by itself, as by `update_session_data`. The first `ConflictError`, `LimitError` or `RecordError`
        is raised after all sessions were tried. A log-in that is under way is not changed: write first to where log-ins
        read it from.
        """
        checked("update_sessions_of", "owner", owner)
        checked("update_sessions_of", "change", change)

        async def ask(policy: Policy) -> int:
            failed: list[SessionError] = []
            changed = 0
            for one in await OwnerIndex(policy, owner).sessions():
                try:
                    changed += await SessionById(policy.with_one_limit(), one.id).update(change)
                except (ConflictError, LimitError, RecordError) as error:
                    # A role that is taken away must go from the others all the same.
                    failed.append(error)
            if failed:
                raise failed[0]
            return changed

        return await self._ask(ask)

    async def destroy_sessions_of(self, owner: str, *, except_current: object = None, only: str | None = None) -> int:
        """End the sessions of an owner, "log out everywhere"; return how many were ended.

        `except_current` spares the session of a request: the request, or True for the one that is being served.
        `only` ends just the session of this id. A log-in under way meanwhile is ended too, or listed afterwards.
        """
        checked("destroy_sessions_of", "owner", owner)
        if only is not None:
            checked("destroy_sessions_of", "id", only)
        caller = self._caller(except_current)

        async def ask(policy: Policy) -> int:
            return await OwnerIndex(policy, owner).destroy(only=only, but=await caller.living_selector())

        return await self._ask(ask)

    def open(self, session_id: str) -> OpenedSession:
        """Return the session of this id, as `sessions_of` tells it, without a request. Asks the store nothing.

        An id opens a session without the cookie's secret: take ids from `sessions_of`, and keep them where no visitor
        reads or writes. If a form sends one, look for it among `sessions_of` that visitor first. Text that names no
        living session (made up, malformed, a cookie's value) opens one that has ended.
        """
        return OpenedSession(self._ask, checked("open", "id", session_id))

    async def health(self) -> Health:
        """Return whether the store answers, and in how many seconds, for a load balancer's probe.

        It reads one record that is not there, and needs no request. A store that is down raises nothing: `answers` is
        False, and `why` says what failed. While requests fail at once because the store has been down for some time, so
        does this, or it is the one call that tries the store again. A full store answers: it may still be read.
        """

        async def ask(policy: Policy) -> Health:
            store, start, why = policy.store, time.perf_counter(), ""
            try:
                await store.get(store.id(), {}, False)
            except StoreError as error:
                # What the server said may name hosts, users and databases: that is for the log.
                why = str(error).partition(" (it said: ")[0] or type(error).__name__
            return Health(not why, time.perf_counter() - start, why)

        return await self._ask(ask)


class BlockingFunctions(Calls):
    """The blocking twins of awaitable functions, name for name."""

    blocks = True

    def __init__(self, awaitable: Calls) -> None:
        self._awaitable = awaitable

    def sessions_for(self, carrier: Carrier | None) -> Served:
        """Return the sessions that serve the awaitable functions."""
        return self._awaitable.sessions_for(carrier)

    destroy_session = blocking(Functions.destroy_session)
    destroy_sessions_of = blocking(Functions.destroy_sessions_of)
    get_csrf_token = blocking(Functions.get_csrf_token)
    get_session_data = blocking(Functions.get_session_data)
    health = blocking(Functions.health)
    is_alive = blocking(Functions.is_alive)
    log_in = blocking(Functions.log_in)
    pluck_session_property = blocking(Functions.pluck_session_property)
    renew_session = blocking(Functions.renew_session)
    replace_session_data = blocking(Functions.replace_session_data)
    require_fresh = blocking(Functions.require_fresh)
    sessions_of = blocking(Functions.sessions_of)
    set_session_data = blocking(Functions.set_session_data)
    update_session_data = blocking(Functions.update_session_data)
    update_sessions_of = blocking(Functions.update_sessions_of)
    validate_csrf_token = blocking(Functions.validate_csrf_token)

    def open(self, session_id: str) -> BlockingOpenedSession:
        """Do what the awaitable `open` does, for calls that block."""
        return BlockingOpenedSession(self._ask, checked("open", "id", session_id))

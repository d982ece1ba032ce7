"""The functions as methods, over the sessions that a subclass finds, and their blocking twins."""

import time
from collections.abc import Callable, Coroutine
from typing import Any, Generic, NamedTuple, TypeVar, cast

from server_session import _api as api
from server_session._colour import run
from server_session._opened import BlockingOpenedSession, OpenedSession
from server_session._owners import OwnedSession, OwnerIndex
from server_session._policy import Policy
from server_session._verbs import Change, blocking, checked, flag_of
from server_session.exceptions import ConflictError, LimitError, RecordError, SessionError, StoreError
from server_session.exchange.colours import Served
from server_session.http.carrier import Carrier, resolve, serving
from server_session.kernel.by_id import SessionById
from server_session.kernel.stored import StoredSession

F = TypeVar("F")
F_co = TypeVar("F_co", covariant=True)
R = TypeVar("R")


class Health(NamedTuple):
    """What `health` found; true where the store answers."""

    answers: bool
    """Whether the store answers."""
    seconds: float
    """How long it took to answer, or to fail."""
    why: str
    """What it failed by, in words of ours, that name no host; empty where it answers."""

    def __bool__(self) -> bool:
        return self.answers


class _Method(Generic[F_co]):
    """What a type checker sees of a function that stands in a class."""

    def __get__(self, instance: object, owner: type | None = None) -> F_co:
        raise NotImplementedError


def _method(function: F) -> _Method[F]:
    return cast("_Method[F]", function)


class Functions:
    """The awaitable functions, over the sessions that a subclass finds."""

    # Whether who calls them blocks, and drives them.
    blocks = False

    def sessions_for(self, carrier: Carrier | None) -> Served:
        """Return the sessions that serve this carrier, or no request in particular."""
        raise NotImplementedError

    destroy_session = _method(api.destroy_session)
    get_csrf_token = _method(api.get_csrf_token)
    get_session_data = _method(api.get_session_data)
    is_alive = _method(api.is_alive)
    log_in = _method(api.log_in)
    pluck_session_property = _method(api.pluck_session_property)
    renew_session = _method(api.renew_session)
    replace_session_data = _method(api.replace_session_data)
    require_fresh = _method(api.require_fresh)
    set_session_data = _method(api.set_session_data)
    update_session_data = _method(api.update_session_data)
    validate_csrf_token = _method(api.validate_csrf_token)

    # --- what is about no request

    async def sessions_of(self, owner: str, *, current: object = None, data: bool = False) -> list[OwnedSession]:
        """Return the sessions of an owner that live, as `log_in` recorded them, the oldest first.

        Each says when it was founded and last seen (true to about a minute: a read tells of itself once a minute, with
        a call more). `current` is a request, or True for the one that is being served; its session has `is_current`.
        With `data` each brings its data too: what the log-in was given to tell a device by, say. None of this restarts
        an idle clock.
        """
        checked("sessions_of", "owner", owner)
        flag_of("sessions_of", "data", data)
        caller = self._caller(current)

        async def ask(policy: Policy) -> list[OwnedSession]:
            return await OwnerIndex(policy, owner).sessions(await _selector_of(caller), data=data)

        return await self._ask(ask)

    async def update_sessions_of(self, owner: str, change: Change) -> int:
        """Change the data of all sessions of an owner that live ("role changed"); return of how many.

        Each is changed as `update_session_data` changes one, by itself: where one cannot be (`ConflictError`,
        `LimitError`, `RecordError`) that is raised when all the others are. A log-in that is under way is not changed:
        write first to where log-ins read it from.
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
        `only` ends just the session of this id. A log-in that is under way meanwhile is ended too, or listed after.
        """
        checked("destroy_sessions_of", "owner", owner)
        caller = self._caller(except_current)

        async def ask(policy: Policy) -> int:
            return await OwnerIndex(policy, owner).destroy(only=only, but=await _selector_of(caller))

        return await self._ask(ask)

    def open(self, session_id: str) -> OpenedSession:
        """Return the session of this id, as `sessions_of` tells it, without a request. Asks the store nothing.

        An id opens it without its cookie's secret: take it from `sessions_of`, and keep it where no visitor reads or
        writes. Of one that a form sends, look first whether it is among `sessions_of` that visitor. What names no
        session that lives (made up, malformed, a cookie's value) opens one that has ended.
        """
        return OpenedSession(self._ask, checked("open", "id", session_id))

    async def health(self) -> Health:
        """Return whether the store answers, and in how many seconds, for a load balancer's probe.

        It reads one record that is not there, and needs no request and no session. A store that is down is told of,
        not raised: `health.answers` is False, and `why` says what failed. While requests fail at once because the store
        has been down for a while, this does too, or is the one call that asks it again. Whether the store takes writes
        it does not say: a full one may still be read.
        """

        async def ask(policy: Policy) -> Health:
            store, start, why = policy.store, time.perf_counter(), ""
            try:
                await store.get(store.id(), {}, False)
            except StoreError as error:
                # What the server said may name hosts, users and databases: that is for the log.
                why = str(error).partition(" (it said: ")[0]
            return Health(not why, time.perf_counter() - start, why)

        return await self._ask(ask)

    def _caller(self, current: object) -> StoredSession | None:
        """Return the session of a request or, for True, of the one that is being served."""
        if current is None or current is False:
            return None
        carrier = resolve(() if current is True else (current,))
        return self.sessions_for(None).exchange(carrier.request).stored

    async def _ask(self, ask: Callable[[Policy], Coroutine[Any, Any, R]]) -> R:
        # No limit for them all: how many sessions an owner has nobody knows.
        sessions, request = self.sessions_for(None), serving()
        home = None if request is None else request.home
        return await run(sessions.store.colour, home, lambda: ask(sessions.policy), blocks=self.blocks)


async def _selector_of(caller: StoredSession | None) -> str | None:
    return None if caller is None else await caller.living_selector()


class _Driven(Functions):
    """The functions as their blocking twins drive them."""

    blocks = True

    def __init__(self, functions: Functions) -> None:
        self._functions = functions

    def sessions_for(self, carrier: Carrier | None) -> Served:
        return self._functions.sessions_for(carrier)


class BlockingFunctions:
    """The blocking twins of awaitable functions, name for name."""

    def __init__(self, awaitable: Functions) -> None:
        functions = self._functions = _Driven(awaitable)
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

"""One request and its one response: the sequence that every adapter drives, in both colours.

    exchange = sessions.exchange(request)       the same one at each call
    exchange.serve()                            an adapter will answer it
    refusal = await exchange.check(body)        another site may have forged it: 403; the store fails: 503
    session = await exchange.load()             the mapping, where it is wanted
    refusal = await exchange.commit()           before the response starts
    exchange.answer(response)                   the cookie, and what caches must know
    await exchange.commit_late()                what came after the start
    exchange.leave()                            it is over

Each step may be taken again (`leave` as often as `serve`), and any but `answer` left out. `exchange.blocking` has the
same steps for callers that block. What is refused is returned as a whole response, a `Refusal`.
"""

from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from server_session._colour import Colour, drive, run_awaiting, run_blocking
from server_session.csrf.refusals import Refusal
from server_session.exceptions import ColourError, SessionError
from server_session.exchange.checked import Body, Checked, Endpoint
from server_session.exchange.steps import Configured
from server_session.http.requests import Request
from server_session.kernel.mapping import Session
from server_session.kernel.states import NONE

__all__ = ["BlockingExchange", "Exchange", "Served"]

T = TypeVar("T")


class Exchange(Checked):
    """One request and its one response, as far as they concern its session, for callers that await."""

    @property
    def blocking(self) -> "BlockingExchange":
        """The same exchange, for callers that block."""
        return BlockingExchange(self)

    async def check(
        self,
        body: Body | None = None,
        *,
        endpoint: Endpoint | None = None,
        method: str | None = None,
        find: Callable[[], Coroutine[Any, Any, str | None]] | None = None,
    ) -> Refusal | None:
        """Return the answer to a request that another site may have forged, `None` where it may pass.

        What it has passed is not asked again: a second endpoint that will serve it may ask for more.

        Args:
            body: where a token may be, if it is in no header.
            endpoint: finds the view that will serve the request; nothing is exempt where it is not known.
            method: the method as the view sees it, by default as the request has it.
            find: returns the token from where the framework has it, such as a form that it has parsed, if it is in no
                header.

        """
        return await self.checked(lambda start: self.run(start()), body, endpoint, method, find)

    async def load(self) -> Session:
        """Return the request's mapping, loaded once."""
        stored = self.stored
        if stored.session is not None or stored.state is NONE:
            return stored.mapping()
        return await self.run(stored.load())

    async def commit(self) -> Refusal | None:
        """Store what the mapping has not stored yet; return the answer where the session cannot be had.

        What could not be stored is then given up, so that the answer is not refused for it as well. Raises what is the
        application's fault: `SerializationError`, `LimitError`.
        """
        try:
            await self.commit_late()
        except SessionError as error:
            refusal = self.refuse(error)
            # A write that was not answered may have swapped the cookie all the same: what it did is looked up, once.
            return await self.commit() or refusal
        return None

    async def commit_late(self) -> None:
        """Store what a streamed body, a background task or a socket has changed since the response started.

        Raises `StoreError`, and `ResponseStartedError` where it would need another cookie.
        """
        if self.is_pending:
            await self.run(self.stored.commit())

    def run(self, coroutine: Coroutine[Any, Any, T]) -> Coroutine[Any, Any, T]:
        """Return a coroutine of the core as one to be awaited on an event loop."""
        colour = self.sessions.store.colour
        return coroutine if colour is not Colour.BLOCKS else run_awaiting(colour, coroutine)


class BlockingExchange:
    """The steps of an exchange for callers that block; what each does is said at `Exchange`."""

    def __init__(self, exchange: Checked) -> None:
        self.exchange = exchange
        self.sessions = exchange.sessions

    def check(
        self,
        body: Body | None = None,
        *,
        endpoint: Endpoint | None = None,
        method: str | None = None,
        find: Callable[[], str | None] | None = None,
    ) -> Refusal | None:
        """Return the answer to a request that another site may have forged, `None` where it may pass."""
        return drive(self.exchange.checked(self.run, body, endpoint, method, find))

    def load(self) -> Session:
        """Return the request's mapping, loaded once."""
        stored = self.exchange.stored
        return self.run(stored.load) if stored.session is None else stored.session

    def commit(self) -> Refusal | None:
        """Store what the mapping has not stored yet; return the answer where that fails."""
        try:
            self.commit_late()
        except SessionError as error:
            refusal = self.exchange.refuse(error)
            return self.commit() or refusal
        return None

    def commit_late(self) -> None:
        """Store what has changed since the response started."""
        if self.exchange.is_pending:
            self.run(self.exchange.stored.commit)

    def csrf_token(self, scope: str = "") -> str:
        """Return a fresh token for a form; the store is asked where it has to be."""
        exchange = self.exchange
        try:
            return exchange.csrf_token(scope)
        except ColourError:
            return self.run(lambda: exchange.stored.csrf_token(scope))

    def run(self, start: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Run a coroutine of the core to its end."""
        return run_blocking(self.exchange.sessions.store.colour, self.exchange.request.home, start)


class Served(Configured):
    """What is configured, and has an exchange with each request that it serves."""

    def exchange(self, request: Request) -> Exchange:
        """Return this request's exchange: the same one for the mapping and for every function."""
        return request.exchanges[self.base] if self.base in request.exchanges else Exchange(self, request)

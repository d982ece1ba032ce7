"""One request and its one response: the sequence that every adapter drives, in both colours.

    exchange = sessions.exchange(request)       the same one at each call
    exchange.serve()                            an adapter will answer it
    refusal = await exchange.check(body)        another site may have forged it: 403; the store fails: 503
    session = await exchange.load()             the mapping, where it is wanted
    refusal = await exchange.commit()           before the response starts
    exchange.answer(headers)                    the cookie, and what caches must know
    await exchange.commit_late()                what came after the start

Each step may be taken again, and any but `answer` left out. `exchange.blocking` has the same steps for callers that
block. What is refused is returned as a whole response, a `Refusal`.
"""

from collections.abc import Callable, Coroutine, Mapping
from typing import Any, Protocol, TypeVar

from server_session._colour import Colour, run_awaiting
from server_session.csrf.guard import Endpoint, unknown
from server_session.csrf.refusals import Refusal
from server_session.exceptions import CookieWithheldError, StoreError
from server_session.exchange.blocking import BlockingExchange
from server_session.exchange.steps import Steps
from server_session.http.body import can_bear_token
from server_session.http.responses import ResponseHeaders
from server_session.kernel.mapping import Session

__all__ = ["AwaitedBody", "Exchange"]

T = TypeVar("T")


class AwaitedBody(Protocol):
    """A request's body that is read by awaiting."""

    async def read(self, limit: int) -> tuple[bytes, bool]:
        """Return up to about so many bytes of the body, and whether that is all; the application gets them again."""
        ...


class Exchange(Steps):
    """One request and its one response, as far as they concern its session.

    `refusal` is what was answered in the application's place, if the request was refused, and `asked` what the
    endpoint asked of the check, if there was anything to check.
    """

    @property
    def blocking(self) -> "BlockingExchange":
        """The same exchange, for callers that block."""
        return BlockingExchange(self)

    async def check(
        self,
        body: AwaitedBody | None = None,
        *,
        endpoint: Endpoint = unknown,
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
        guard = self._guard(endpoint, method)
        if guard is None:
            return None
        if guard.needs_token:
            token = guard.token_in_header()
            if token is None and find is not None:
                token = await find()
            if token is None and body is not None and can_bear_token(guard.content_type):
                token = self._token_in(guard, *await body.read(self._csrf_limit))
            try:
                await self.run(guard.admit(self.stored, token))
            except StoreError as error:
                return self.refuse(error)
        return self._concluded(guard)

    async def load(self) -> Session:
        """Return the request's mapping, loaded once."""
        stored = self.stored
        if stored.session is not None or not stored.has_cookie:
            return stored.mapping()
        return await self.run(stored.load())

    async def commit(self) -> Refusal | None:
        """Store what the mapping has not stored yet; return the answer where that fails.

        What could not be stored is then given up, so that the answer is not refused for it as well.
        """
        try:
            if self.is_pending:
                await self.commit_late()
        except (StoreError, CookieWithheldError) as error:
            return self.refuse(error)
        return None

    async def commit_late(self) -> None:
        """Store what a streamed body, a background task or a socket has changed since the response started.

        Raises `StoreError`, and `ResponseStartedError` where it would need another cookie.
        """
        await self.run(self.stored.commit())

    def run(self, coroutine: Coroutine[Any, Any, T]) -> Coroutine[Any, Any, T]:
        """Return a coroutine of the core as one to be awaited on an event loop."""
        colour = self.sessions.store.colour
        return coroutine if colour is not Colour.BLOCKS else run_awaiting(colour, coroutine)

    async def call(
        self,
        body: Callable[..., Coroutine[Any, Any, T]],
        response: ResponseHeaders | None,
        arguments: tuple[object, ...],
        options: Mapping[str, object],
    ) -> T:
        """Call one of the functions."""
        result = await self.run(body(self.begin_call(response), *arguments, **options))
        self.end_call(response)
        return result

"""The steps of an exchange for callers that block."""

from collections.abc import Callable, Coroutine, Mapping
from typing import Any, Protocol, TypeVar

from server_session._colour import run_blocking
from server_session.csrf.guard import Endpoint, unknown
from server_session.csrf.refusals import Refusal
from server_session.exceptions import ColourError, CookieWithheldError, StoreError
from server_session.exchange.steps import Served, Steps
from server_session.http.body import can_bear_token
from server_session.http.responses import ResponseHeaders
from server_session.kernel.mapping import Session

__all__ = ["BlockingExchange", "Body"]

T = TypeVar("T")


class Body(Protocol):
    """A request's body that is read by blocking, or has been read already."""

    def read(self, limit: int) -> tuple[bytes, bool]:
        """Return up to about so many bytes of the body, and whether that is all; the application gets them again."""
        ...


class BlockingExchange:
    """The steps of an exchange for callers that block; what each does is said at `Exchange`."""

    def __init__(self, exchange: Steps) -> None:
        self.exchange = exchange

    @property
    def sessions(self) -> Served:
        """The sessions that it is of."""
        return self.exchange.sessions

    def check(
        self,
        body: Body | None = None,
        *,
        endpoint: Endpoint = unknown,
        method: str | None = None,
        find: Callable[[], str | None] | None = None,
    ) -> Refusal | None:
        """Return the answer to a request that another site may have forged, `None` where it may pass."""
        exchange = self.exchange
        guard = exchange._guard(endpoint, method)
        if guard is None:
            return None
        if guard.needs_token:
            token = guard.token_in_header()
            if token is None and find is not None:
                token = find()
            if token is None and body is not None and can_bear_token(guard.content_type):
                token = exchange._token_in(guard, *body.read(exchange._csrf_limit))
            try:
                self.run(lambda: guard.admit(exchange.stored, token))
            except StoreError as error:
                return exchange.refuse(error)
        return exchange._concluded(guard)

    def load(self) -> Session:
        """Return the request's mapping, loaded once."""
        stored = self.exchange.stored
        return self.run(stored.load) if stored.session is None else stored.session

    def commit(self) -> Refusal | None:
        """Store what the mapping has not stored yet; return the answer where that fails."""
        try:
            self.commit_late()
        except (StoreError, CookieWithheldError) as error:
            return self.exchange.refuse(error)
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

    def call(
        self,
        body: Callable[..., Coroutine[Any, Any, T]],
        response: ResponseHeaders | None,
        arguments: tuple[object, ...],
        options: Mapping[str, object],
    ) -> T:
        """Call one of the functions."""
        stored = self.exchange.begin_call(response)
        result = self.run(lambda: body(stored, *arguments, **options))
        self.exchange.end_call(response)
        return result

"""A body that is sent in pieces, after the response has started."""

from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator
from typing import Any

from server_session._colour import settled
from server_session.exchange import BlockingExchange, Exchange

__all__ = ["StreamedBody", "aclose_body", "astreamed", "close_body", "has_body"]


def has_body(method: str, status: int) -> bool:
    """Tell whether a response has a body at all (RFC 9110, 6.4.1): without one, no server reads or closes it."""
    return method != "HEAD" and status not in (204, 304)


def close_body(body: object) -> None:
    """Close a body that has anything to close (PEP 3333, `close`)."""
    if callable(close := getattr(body, "close", None)):
        close()


async def aclose_body(body: object) -> None:
    """Close a body of either colour, as `close_body` does."""
    close: Any = getattr(body, "aclose", None) or getattr(body, "close", None)
    if close is not None:
        await settled(close())


class StreamedBody(Iterator[Any]):
    """A streamed body, in which the functions know their request, and whose changes are stored at its end."""

    def __init__(self, body: Iterable[Any], blocking: BlockingExchange) -> None:
        self._body = body
        self._chunks = iter(body)
        self._blocking = blocking
        self._has_left = False
        blocking.exchange.serve()

    def __next__(self) -> Any:
        with self._blocking.exchange.serving():
            try:
                return next(self._chunks)
            except StopIteration:
                self._end()
                raise

    def close(self) -> None:
        """End it, be it whole or not."""
        with self._blocking.exchange.serving():
            try:
                close_body(self._body)
            finally:
                self._end()

    def _end(self) -> None:
        try:
            self._blocking.commit_late()
        finally:
            if not self._has_left:
                self._has_left = True
                self._blocking.exchange.leave()


def astreamed(body: AsyncIterable[Any], exchange: Exchange, *, closes: bool = False) -> AsyncIterator[Any]:
    """Return a streamed body that is awaited, as `StreamedBody` is one that blocks.

    With `closes` the framework closes what it is given to send: then `body`, which it does not see, is closed here.
    """
    exchange.serve()
    return _astreamed(body, exchange, closes=closes)


async def _astreamed(body: AsyncIterable[Any], exchange: Exchange, *, closes: bool) -> AsyncIterator[Any]:
    chunks: Any = body
    try:
        chunks = aiter(body)
        while True:
            with exchange.serving():
                try:
                    chunk = await anext(chunks)
                except StopAsyncIteration:
                    break
            yield chunk
    finally:
        try:
            # A generator that is closed in the middle runs its own `finally`, which may write to the session.
            with exchange.serving():
                close: Any = getattr(chunks, "aclose", None)
                if close is not None:
                    await close()
                if closes and (close is None or chunks is not body):
                    await aclose_body(body)
        finally:
            try:
                await exchange.commit_late()
            finally:
                exchange.leave()

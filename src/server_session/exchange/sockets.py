"""A WebSocket that stays open for longer than its session lives."""

import logging
from collections.abc import Callable, Coroutine
from datetime import timedelta
from typing import Any, Final, TypeVar

from server_session._colour import beside, pause
from server_session._durations import seconds_of
from server_session.exchange import Exchange
from server_session.kernel.states import State

__all__ = ["CLOSE_CODES", "accompany", "code_at_end", "watched"]

T = TypeVar("T")

_LOG: Final = logging.getLogger("server_session")

# RFC 6455, 7.4.1, and the registry: "policy violation" and "try again later".
CLOSE_CODES: Final = {403: 1008, 503: 1013}
_FAILURES: Final = 2


async def code_at_end(exchange: Exchange, seconds: float) -> int | None:
    """Wait until an open WebSocket's session has been ended or renewed (OWASP ASVS 5.0, 7.4.1).

    Return the code with which the socket is then to be closed, `None` where the visitor has no session that could end.
    So often, in seconds, the store is asked; twice in a row without an answer is an end too.
    """
    failures = 0
    was_live = False
    while True:
        if exchange.is_started:
            was_live |= exchange.stored.state is State.LIVE
            try:
                alive = await exchange.run(exchange.stored.is_alive())
                failures = 0
            except Exception:  # noqa: BLE001 - a driver's own error closes the socket too
                # Whatever it is, a socket that nobody watches any more must not stay open.
                _LOG.exception("whether a WebSocket's session lives could not be asked")
                failures += 1
                alive = failures < _FAILURES
            was_live |= alive and not failures
            if not was_live:
                return None
            if not alive:
                return CLOSE_CODES[503 if failures else 403]
        await pause(seconds)


async def watched(
    main: Coroutine[Any, Any, T],
    exchange: Exchange,
    seconds: float | timedelta | None,
    close: Callable[[int, str], Any],
) -> T:
    """Await what serves an open WebSocket, which is closed when its session has ended.

    So often, in seconds, the store is asked; with `None` it is not.
    """

    async def watch(seconds: float) -> None:
        code = await code_at_end(exchange, seconds)
        if code is not None and (closing := close(code, "session ended")) is not None:
            await closing

    return await (main if seconds is None else beside(main, watch(seconds_of("watch", seconds))))


async def accompany(
    main: Coroutine[Any, Any, Any],
    exchange: Exchange,
    seconds: float | timedelta | None,
    close: Callable[[int, str], Any],
) -> None:
    """Do what `watched` does, store at the socket's end what it has changed, and leave."""
    exchange.started()
    try:
        await watched(main, exchange, seconds, close)
    finally:
        try:
            await exchange.commit_late()
        finally:
            exchange.leave()

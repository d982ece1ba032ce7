"""A WebSocket that stays open for longer than its session lives."""

import logging
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Final

from server_session._colour import beside, pause, settled
from server_session.exchange import Exchange
from server_session.kernel.states import State

__all__ = ["CLOSE_CODES", "accompany", "close_at_end"]

_LOG: Final = logging.getLogger("server_session")

# RFC 6455, 7.4.1, and the registry: "policy violation" and "try again later".
CLOSE_CODES: Final = {403: 1008, 503: 1013}
_FAILURES: Final = 2


async def close_at_end(exchange: Exchange, seconds: float, close: Callable[[int], Awaitable[Any] | None]) -> None:
    """Close an open WebSocket when its session has been ended or renewed (OWASP ASVS 5.0, 7.4.1).

    The store is asked every so many `seconds`; two failures in a row close it too. Where the store answers that there
    is no session that could end, nobody watches on. `close` is called with the code.
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
            if not was_live and not failures:
                return
            if not alive:
                break
        await pause(seconds)
    try:
        await settled(close(CLOSE_CODES[503 if failures else 403]))
    except Exception:  # noqa: BLE001 - Daphne's has no type of its own
        # Of the codes below 3000 Daphne takes this one alone.
        await settled(close(1000))


async def accompany(
    main: Coroutine[Any, Any, Any],
    exchange: Exchange,
    seconds: float | None = None,
    close: Callable[[int], Awaitable[Any]] | None = None,
) -> None:
    """Await what serves an open WebSocket, or sends a stream, store at its end what it has changed, and leave.

    With `seconds` the store is asked so often whether the session lives, and a socket is closed when it has ended.
    """
    exchange.started()
    try:
        watch = None if seconds is None or close is None else close_at_end(exchange, seconds, close)
        await (main if watch is None else beside(main, watch))
    finally:
        try:
            await exchange.commit_late()
        finally:
            exchange.leave()

"""The two colours of a call: awaiting and blocking.

The core is written once, as coroutines, and knows no colour. A whole coroutine is brought to its end here:
driven in place, handed to a worker thread, or sent to the loop that its application runs on.
"""

import enum
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from typing import Any, Final, TypeAlias, TypeVar, cast

from server_session.exceptions import ColourError, StoreDownError

T = TypeVar("T")

# Seconds until a thread that waits for a loop looks whether that still runs.
_UNTIL_A_LOOK: Final = 1.0
_LOOP_ENDED: Final = "no answer: the application's event loop has ended"


class Colour(enum.Enum):
    """How a store's client waits for its server."""

    INSTANT = "instant"
    """It never waits: all is in this process's memory."""
    BLOCKS = "blocks"
    """It holds its thread until the answer is there."""
    AWAITS = "awaits"
    """It suspends: it needs a running event loop."""
    EITHER = "either"
    """It has a client of each kind, and asks `is_driven` at each call which one to use."""


Home: TypeAlias = Callable[[Coroutine[Any, Any, Any]], Any]
"""Runs a coroutine on the event loop of an application, blocks this worker thread until it ends, and returns or raises
what it does.
"""


class _Driven(threading.local):
    depth = 0


_driven = _Driven()


async def settled(value: T | Awaitable[T]) -> T:
    """Return a value that a client, a framework or a test's hook gave, awaited if it is awaitable."""
    # Not isinstance(value, Awaitable): a proxy's class, such as Flask's, has the method, whatever the proxy stands for.
    given: Any = value
    return cast("T", await given if hasattr(given, "__await__") else given)


def drive(coroutine: Coroutine[Any, Any, T]) -> T:
    """Bring a coroutine that never suspends to its end, in place, and return its result."""
    _driven.depth += 1
    try:
        coroutine.send(None)
    except StopIteration as end:
        result: T = end.value
        return result
    finally:
        _driven.depth -= 1
        coroutine.close()
    raise ColourError(
        "the store suspended in a blocking call: its class says that it never waits or that it blocks; "
        "set `colour = Colour.AWAITS` on it and call it from an event loop"
    )


def is_driven() -> bool:
    """Tell whether the running coroutine is driven in place, by a caller that blocks."""
    return _driven.depth > 0


def running_library() -> str | None:
    """Return `"asyncio"` or `"trio"` if this thread is inside such a loop, else `None`."""
    # Neither is imported here: a loop that runs has been imported by who runs it.
    asyncio = sys.modules.get("asyncio")
    if asyncio is not None and asyncio._get_running_loop() is not None:
        return "asyncio"
    trio = sys.modules.get("trio")
    if trio is not None and trio.lowlevel.in_trio_run():
        return "trio"
    return None


async def pause(seconds: float) -> None:
    """Wait, in the colour of whoever drives this coroutine."""
    if is_driven():
        time.sleep(seconds)
    else:
        await sys.modules[running_library() or "asyncio"].sleep(seconds)


async def beside(main: Coroutine[Any, Any, T], background: Coroutine[Any, Any, None]) -> T:
    """Run a coroutine with another beside it, which is cancelled when the first ends; return or raise what it does."""
    if running_library() == "trio":
        # Captured, because an error that leaves a nursery comes out in an exception group.
        async with sys.modules["trio"].open_nursery() as nursery:
            nursery.start_soon(_awaited, background)
            outcome = await sys.modules["outcome"].acapture(_awaited, main)
            nursery.cancel_scope.cancel()
        result: T = outcome.unwrap()
        return result
    asyncio = sys.modules["asyncio"]
    task = asyncio.ensure_future(background)
    try:
        return await main
    finally:
        task.cancel()
        await asyncio.wait([task])


async def _awaited(coroutine: Coroutine[Any, Any, T]) -> T:
    """Await a coroutine for trio, which takes functions."""
    return await coroutine


async def to_its_end(coroutine: Coroutine[Any, Any, T]) -> T:
    """Await a coroutine on a loop of asyncio to its end, though its caller is cancelled meanwhile."""
    asyncio = sys.modules["asyncio"]
    call = asyncio.ensure_future(coroutine)
    # Its error is retrieved: asyncio would report one that nobody awaits, as `shield` does from 3.14 on.
    call.add_done_callback(lambda call: call.cancelled() or call.exception())
    try:
        await asyncio.wait([call])
    except asyncio.CancelledError as first:
        error: BaseException = first
        # A loop, because a cancel scope of anyio cancels again at each turn of the event loop.
        while not call.done():
            try:
                await asyncio.wait([call])
            except asyncio.CancelledError as further:
                error = telling(error, further)
        raise error from None
    result: T = call.result()
    return result


def telling(error: BaseException, further: BaseException) -> BaseException:
    """Return which of two cancellations of a task is to be raised for both.

    A scope of anyio knows its own by their text. Those of `asyncio.timeout` have none, and it counts them.
    """
    return error if error.args else further


async def run_awaiting(colour: Colour, coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine of the core over a store of this colour, from an event loop."""
    if colour is not Colour.BLOCKS:
        return await coroutine
    result: T
    try:
        if running_library() == "trio":
            result = await sys.modules["trio"].to_thread.run_sync(drive, coroutine)
        else:
            # A thread cannot be stopped: as under trio, what it writes is written before the canceller goes on.
            result = await to_its_end(sys.modules["asyncio"].to_thread(drive, coroutine))
    finally:
        # Closed, if no thread began it before the call was cancelled; one that runs raises ValueError, and runs on.
        with suppress(ValueError):
            coroutine.close()
    return result


def home() -> Home | None:
    """Return the way to the loop that runs in this thread, for its worker threads."""
    match running_library():
        case "trio":
            trio = sys.modules["trio"]
            token = trio.lowlevel.current_trio_token()
            return lambda coroutine: trio.from_thread.run(_awaited, coroutine, trio_token=token)
        case "asyncio":
            loop = sys.modules["asyncio"]._get_running_loop()
            return lambda coroutine: _run_on(loop, coroutine)
        case _:
            return None


def _run_on(loop: Any, coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine on a loop of asyncio that runs in another thread, and wait until it ends."""
    try:
        call = sys.modules["asyncio"].run_coroutine_threadsafe(coroutine, loop)
    except RuntimeError:
        coroutine.close()
        raise StoreDownError(_LOOP_ENDED) from None
    # Not imported here: asyncio has done so.
    while not sys.modules["concurrent.futures"].wait([call], _UNTIL_A_LOOK).done:
        # A loop that has ended never answers the calls it did not begin; to wait on would keep the process alive.
        if not loop.is_running():
            raise StoreDownError(_LOOP_ENDED)
    result: T = call.result()
    return result


def run_blocking(colour: Colour, home: Home | None, start: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run a coroutine of the core over a store of this colour, from a function that blocks.

    `start` makes the coroutine; it is not called where the call is refused.
    """
    if colour is Colour.INSTANT:
        return drive(start())
    library = running_library()
    if library is not None:
        raise ColourError(
            f"a blocking function was called on a running {library} loop over a store that would stall it: "
            "await the function of the same name in `server_session` instead"
        )
    if colour is not Colour.AWAITS:
        return drive(start())
    if home is None:
        raise ColourError(
            "the store's client awaits, and there is no event loop here: give the store a blocking client (in a URL "
            "a driver that blocks, postgresql+psycopg or mysql+pymysql), or call this in a worker thread of an "
            "application under server_session.asgi.SessionMiddleware"
        )
    result: T = home(start())
    return result


async def run(colour: Colour, home: Home | None, start: Callable[[], Coroutine[Any, Any, T]], *, blocks: bool) -> T:
    """Run a coroutine over a store of this colour, for a caller that awaits, or `blocks` and drives this."""
    if colour is Colour.INSTANT:
        return await start()
    return run_blocking(colour, home, start) if blocks else await run_awaiting(colour, start())

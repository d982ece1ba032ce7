"""Clients that belong to one process, or to one event loop, and are made there."""

import os
import select
import sys
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import suppress
from socket import socket
from typing import Any, Generic, TypeVar

from server_session._colour import drive
from server_session.exceptions import ColourError

__all__ = ["ClientOfEachLoop", "ClientOfProcess", "Places", "has_ended"]

C = TypeVar("C")


class ClientOfProcess(Generic[C]):
    """A client of this process. One that forked makes its own: over connections that two use, answers go astray.

    Args:
        make: Makes a client; called at once, and in each process that comes of a fork.
        leave: Parts with the parent's client, in the child, without a word over its connections.
    """

    def __init__(self, make: Callable[[], C], leave: Callable[[C], None]) -> None:
        self._make = make
        self._leave = leave
        self._lock = threading.Lock()
        self._client = make()
        self._process = os.getpid()

    def get(self) -> C:
        """Return this process's client."""
        if self._process != os.getpid():
            with self._lock:
                if self._process != os.getpid():
                    self._leave(self._client)
                    self._client = self._make()
                    self._process = os.getpid()
        return self._client


class ClientOfEachLoop(Generic[C]):
    """A client of each event loop of asyncio, made at the first call on it and closed when the loop ends.

    Args:
        make: Makes a client, on the loop that it is for.
        close: Closes it, there; `None` where that is its owner's to do.
        elsewhere: The error's text for a call on no such loop.
        on_another: For a client that serves one loop, the error's text for a call on one while another runs.
    """

    def __init__(
        self,
        make: Callable[[], C],
        close: Callable[[C], Awaitable[None]] | None,
        elsewhere: str,
        on_another: str | None = None,
    ) -> None:
        self._make = make
        self._close = close
        self._elsewhere = elsewhere
        self._on_another = on_another
        self._kept: dict[Any, tuple[C, AsyncGenerator[C, None]]] = {}

    def get(self) -> C:
        """Return the client of the running loop."""
        try:
            loop = sys.modules["asyncio"].get_running_loop()
        except RuntimeError:
            raise ColourError(self._elsewhere) from None
        # The client itself may raise nothing, and two threads would then read its answers.
        if self._on_another is not None and any(other is not loop and other.is_running() for other in list(self._kept)):
            raise ColourError(self._on_another)
        kept = self._kept.get(loop)
        if kept is None:
            # Loops that were closed by hand end no generators.
            for closed in [other for other in list(self._kept) if other.is_closed()]:
                self._kept.pop(closed, None)
            lasting = self._last(loop)
            kept = self._kept[loop] = drive(lasting.asend(None)), lasting
        return kept[0]

    async def close(self) -> None:
        """Close the client of the running loop, if there is one. The next call makes another."""
        kept = self._kept.get(sys.modules["asyncio"].get_running_loop())
        if kept is not None:
            await kept[1].aclose()

    # A generator: a loop that is ended as `asyncio.run` does it closes those that began on it.
    async def _last(self, loop: object) -> AsyncGenerator[C, None]:
        client = self._make()
        try:
            yield client
        finally:
            self._kept.pop(loop, None)
            if self._close is not None:
                await self._close(client)


class Places(Generic[C]):
    """So many places for callers that block, each with the connection that was used there.

    It costs next to nothing while a place is free. (To wait at a `SimpleQueue` may last past every limit: Python before
    3.13 counts wrongly where several wait.)
    """

    def __init__(self, number: int) -> None:
        # Those with a connection stand at the end, the one used last behind them all: so the others may rest.
        self._free: list[C | None] = [None] * number
        self._waiting = 0
        self._one_is_free = threading.Condition()

    def take(self, seconds: float) -> C | None:
        """Return the connection of a place, `None` where it is still to be made.

        Raises `TimeoutError` where no place came free.
        """
        try:
            return self._free.pop()
        except IndexError:
            return self._wait(seconds)

    def give_back(self, connection: C | None) -> None:
        """Give a place back, with its connection or without."""
        if connection is None:
            self._free.insert(0, None)
        else:
            self._free.append(connection)
        # A thread that waits has counted itself before its last look for a free place.
        if self._waiting:
            with self._one_is_free:
                self._one_is_free.notify()

    def clear(self) -> list[C]:
        """Take the connections out of the places that are free, and return them."""
        kept: list[C] = []
        with suppress(IndexError):
            while (connection := self._free.pop()) is not None:
                kept.append(connection)
                self.give_back(None)
            self.give_back(None)
        return kept

    def _wait(self, seconds: float) -> C | None:
        taken: list[C | None] = []

        def has_taken() -> bool:
            with suppress(IndexError):
                taken.append(self._free.pop())
            return bool(taken)

        with self._one_is_free:
            self._waiting += 1
            try:
                if not self._one_is_free.wait_for(has_taken, seconds):
                    raise TimeoutError
            finally:
                self._waiting -= 1
        return taken[0]


def has_ended(connection: socket) -> bool:
    """Tell whether the server has hung up, or has said what nobody asked for."""
    if not hasattr(select, "poll"):
        # Windows has none, and no bound to a socket's number.
        return bool(select.select([connection], [], [], 0)[0])
    poll = select.poll()
    poll.register(connection, select.POLLIN)
    return bool(poll.poll(0))

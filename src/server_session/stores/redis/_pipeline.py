"""One connection to Redis that all calls of an event loop share."""

import asyncio
from collections import deque
from typing import Any, Final, TypeAlias

import hiredis
import redis.asyncio
from redis.exceptions import ConnectionError, RedisError, ResponseError  # noqa: A004

__all__ = ["Pipeline", "packed"]

_Answer: TypeAlias = asyncio.Future[Any]

# A tuple of bytes as the command that is sent: where redis-py ends too, 16 calls later.
packed: Final[Any] = hiredis.pack_command

_LOST: Final = (RedisError, OSError, RuntimeError)

# Tells that a connection has ended, or that something came which nobody asked for.
_LOOK: Final = "can_read" if hasattr(redis.asyncio.Connection, "can_read") else "can_read_destructive"


class Pipeline:
    """Sends what is called in one turn of the loop in one piece, and gives each call its own answer.

    Redis answers in the order in which it was asked. So one at a time works at the connection, a caller who finds
    nobody there or a task: makes it where it is not whole, and reads. What is called meanwhile is sent by the loop.
    Who is cancelled leaves the work to a task, and a call that is cancelled its place: its answer is read and dropped.
    A connection that fails is given up with all that it owes, and what was not sent yet goes over the next.

    Args:
        connection: One of redis-py's asynchronous ones, for this pipeline alone.
        limit: Seconds for an answer, from the sending of its call on, the making of a connection for it included.
    """

    def __init__(self, connection: Any, limit: float) -> None:
        self._connection = connection
        self._limit = min(limit, connection.socket_timeout or limit)
        # redis-py would set a timer for each answer to keep this limit.
        connection.socket_timeout = None
        self._loop = asyncio.get_running_loop()
        self._unsent: list[tuple[bytes, _Answer]] = []
        # The answers to what was sent, in its order, and when each is due.
        self._owed: deque[tuple[float, _Answer]] = deque()
        self._watcher: asyncio.Handle | None = None
        # The task that is at work, or the answer that a caller is at work for.
        self._worker: asyncio.Future[Any] | None = None

    async def call(self, words: tuple[bytes, ...]) -> Any:
        """Send a command, once, and return its answer.

        Raises:
            ResponseError: It is the answer.
            RedisError, OSError: The answer is lost, or the call was not sent.
        """
        answer = self._loop.create_future()
        self._unsent.append((packed(words), answer))
        # A task that was cancelled before it began has not said so itself. (One whose answer is given up still reads.)
        if self._worker is None or self._worker.cancelled():
            self._worker = answer
            try:
                await self._work(answer)
            finally:
                answer.cancel()
        elif len(self._unsent) == 1:
            self._loop.call_soon(self._send_after)
        return await answer

    async def close(self) -> None:
        """End the connection; calls that wait fail."""
        self._gather(self._loop.time())
        self._fail(ConnectionError("the event loop ends"))
        if self._worker is not None:
            self._worker.cancel()
            await asyncio.wait([self._worker])
        await self._connection.disconnect()

    async def _work(self, until: _Answer | None = None) -> None:
        """Make the connection, send and read while there is anything to do, or until this answer is there."""
        try:
            while (self._owed or self._unsent) and not (until and until.done()):
                try:
                    if self._owed:
                        self._give(await self._connection.read_response(disconnect_on_error=False))
                    else:
                        begun = self._loop.time()
                        if self._connection.health_check_interval or await self._has_ended():
                            await self._connect()
                        self._send(begun)
                except ResponseError as error:
                    self._give(error)
                except _LOST as error:
                    await self._connection.disconnect(nowait=True)
                    self._fail(error)
        finally:
            self._worker = self._loop.create_task(self._work()) if self._owed or self._unsent else None

    async def _connect(self) -> None:
        try:
            async with asyncio.timeout(self._limit):
                if await self._has_ended():
                    await self._connection.disconnect(nowait=True)
                    await self._connection.connect()
                await self._connection.check_health()
        except BaseException as error:
            await self._connection.disconnect(nowait=True)
            if not isinstance(error, asyncio.CancelledError):
                self._gather(self._loop.time())
                self._fail(error)
            raise

    async def _has_ended(self) -> bool:
        if self._writer() is None:
            return True
        try:
            return bool(await getattr(self._connection, _LOOK)())
        except (RedisError, OSError):
            return True

    def _writer(self) -> asyncio.StreamWriter | None:
        """Return what writes to the connection, if that is open."""
        # redis-py has no public word for it, and its own sending waits. Written to while it closes, a transport of
        # asyncio, from Python 3.12 on, leaves its socket's number with the selector, and the next socket of that number
        # is never woken.
        writer: asyncio.StreamWriter | None = self._connection._writer  # noqa: SLF001
        return None if writer is None or writer.is_closing() else writer

    def _send_after(self) -> None:
        # Where no answer is out, who is at work looks at the connection first.
        if self._owed and self._unsent:
            self._send(self._loop.time())

    def _send(self, begun: float) -> None:
        # Without a wait, so that the order of the places is that of the calls; each caller waits for its answer anyway.
        writer = self._writer()
        if writer is not None:
            writer.write(self._gather(begun))

    def _gather(self, begun: float) -> bytes:
        """Count the calls that were not sent as begun then, and return what is to be sent of them."""
        calls = [call for call in self._unsent if not call[1].done()]
        self._unsent.clear()
        if calls:
            due = begun + self._limit
            self._owed.extend([(due, answer) for _, answer in calls])
            if self._watcher is None:
                self._watcher = self._loop.call_at(due, self._watch)
        return b"".join([command for command, _ in calls])

    def _give(self, said: Any) -> None:
        # Nothing is owed any more where the connection was given up while this came.
        answer = self._owed.popleft()[1] if self._owed else None
        if answer is None or answer.done():
            return
        if isinstance(said, ResponseError):
            answer.set_exception(said)
        else:
            answer.set_result(said)

    def _watch(self, is_late: bool = False) -> None:
        """Give the connection up where an answer is overdue. One timer does for many calls."""
        self._watcher = None
        if not self._owed:
            return
        due, _ = self._owed[0]
        if due > self._loop.time():
            self._watcher = self._loop.call_at(due, self._watch)
        elif not is_late:
            # A loop that was busy looks late: what has come by now is taken.
            self._watcher = self._loop.call_soon(self._watch, True)
        else:
            self._fail(TimeoutError())
            writer = self._writer()
            if writer is not None:
                writer.transport.abort()

    def _fail(self, error: BaseException) -> None:
        for _, answer in self._owed:
            if not answer.done():
                answer.set_exception(error)
        self._owed.clear()

"""One connection to Redis that all calls of an event loop share."""

import asyncio
from collections import deque
from collections.abc import Iterable, Sequence
from typing import Any, Final, TypeAlias

import redis.asyncio
from redis.exceptions import ConnectionError, RedisError, ResponseError  # noqa: A004

__all__ = ["Pipeline"]

_Answer: TypeAlias = "asyncio.Future[Any]"

_LOST: Final = (RedisError, OSError, RuntimeError)

# What a transport that has nothing else to send takes without a wait. (asyncio's own bound is 64 KiB.)
_AT_ONCE: Final = 32_768

# Tells that a connection has ended, or that something came which nobody asked for.
_LOOK: Final = "can_read" if hasattr(redis.asyncio.Connection, "can_read") else "can_read_destructive"


class Pipeline:
    """Sends what is called in one turn of the loop in one piece, and gives each call its own answer.

    Redis answers in the order in which it was asked. So one coroutine at a time reads: a call that finds nobody at
    work, or a task. A call that is cancelled leaves its place, and its answer is read and dropped. A connection that
    fails is given up by who reads, with all that it owes; it is made anew by who sends, and only when nobody reads.

    Args:
        pool: redis-py's asynchronous pool. One of its connections is taken and kept.
        limit: Seconds for an answer, from the sending of its call on, and for the making of a connection.
    """

    def __init__(self, pool: Any, limit: float) -> None:
        self._pool = pool
        self._limit = limit
        self._loop = asyncio.get_running_loop()
        self._connection: Any = None
        self._unsent: list[tuple[bytes, _Answer]] = []
        # A trip: when the answers are due to what was sent in one piece, and who still waits for one.
        self._trips: deque[tuple[float, deque[_Answer]]] = deque()
        self._sender: asyncio.Task[None] | None = None
        self._reader: asyncio.Task[None] | None = None
        self._is_reading = False

    async def call(self, words: Sequence[bytes]) -> Any:
        """Send a command, once, and return its answer.

        Raises:
            ResponseError: It is the answer.
            RedisError, OSError: The answer is lost, or the call was not sent.
        """
        command = b"*%d\r\n%b" % (len(words), b"".join([b"$%d\r\n%b\r\n" % (len(word), word) for word in words]))
        answer = self._loop.create_future()
        if self._connection is None or self._is_reading or self._sender is not None or len(command) > _AT_ONCE:
            self._unsent.append((command, answer))
            self._go_on()
            return await answer
        self._is_reading = True
        try:
            if self._connection.health_check_interval or await self._has_ended():
                self._unsent.append((command, answer))
            else:
                self._trips.append((self._loop.time() + self._limit, deque([answer])))
                await self._connection.send_packed_command([command], check_health=False)
                await self._end_trip()
        except _LOST as error:
            await self._give_up(error)
            # It may be in no trip yet.
            self._fail([answer], error)
        except BaseException:
            answer.cancel()
            raise
        finally:
            self._is_reading = False
            self._go_on()
        return await answer

    async def close(self) -> None:
        """Give the connection back, ended; calls that wait fail."""
        self._fail((answer for _, answer in self._unsent), asyncio.CancelledError())
        self._unsent.clear()
        for task in (self._sender, self._reader):
            if task is not None:
                task.cancel()
                await asyncio.wait([task])
        if self._connection is not None:
            connection, self._connection = self._connection, None
            await connection.disconnect()
            await self._pool.release(connection)

    def _go_on(self) -> None:
        if self._trips and not self._is_reading:
            self._is_reading = True
            self._reader = self._loop.create_task(self._read())
        if self._unsent and self._sender is None:
            self._sender = self._loop.create_task(self._send())

    async def _send(self) -> None:
        try:
            while self._unsent:
                if not self._is_reading:
                    await self._connect()
                elif not self._is_open():
                    return
                # Until it is written nothing waits: the order of the places is that of the calls.
                calls = [call for call in self._unsent if not call[1].done()]
                self._unsent.clear()
                if calls:
                    self._trips.append((self._loop.time() + self._limit, deque(answer for _, answer in calls)))
                    self._go_on()
                    await self._connection.send_packed_command([command for command, _ in calls], check_health=False)
        except _LOST:
            # Who reads hears of it as well.
            return
        finally:
            self._sender = None
            if not self._is_reading:
                self._go_on()

    async def _connect(self) -> None:
        try:
            async with asyncio.timeout(self._limit):
                if self._connection is None:
                    self._connection = await self._pool.get_connection()
                    # redis-py would make a task of each sending to keep this limit.
                    self._limit = min(self._limit, self._connection.socket_timeout or self._limit)
                    self._connection.socket_timeout = None
                if await self._has_ended():
                    await self._connection.disconnect(nowait=True)
                    await self._connection.connect()
                await self._connection.check_health()
        except BaseException as error:
            if self._connection is not None:
                await self._connection.disconnect(nowait=True)
            self._fail((answer for _, answer in self._unsent), error)
            self._unsent.clear()
            raise

    def _is_open(self) -> bool:
        # Written to while it closes, a transport of asyncio, from Python 3.12 on, leaves its socket's number with the
        # selector, and the next socket of that number is never woken. redis-py has no public word for it.
        writer: asyncio.StreamWriter | None = getattr(self._connection, "_writer", None)
        return self._connection.is_connected and not (writer is not None and writer.is_closing())

    async def _has_ended(self) -> bool:
        if not self._is_open():
            return True
        try:
            return bool(await getattr(self._connection, _LOOK)())
        except (RedisError, OSError):
            return True

    async def _read(self) -> None:
        try:
            while self._trips:
                await self._end_trip()
        except (*_LOST, asyncio.CancelledError) as error:
            await self._give_up(error)
        finally:
            self._reader = None
            self._is_reading = False
            self._go_on()

    async def _end_trip(self) -> None:
        due, answers = self._trips[0]
        try:
            async with asyncio.timeout_at(due):
                await self._fill(answers)
        except TimeoutError:
            # A loop that was busy looks late: what has come by now is taken.
            async with asyncio.timeout(0):
                await self._fill(answers)
        self._trips.popleft()

    async def _fill(self, answers: deque[_Answer]) -> None:
        while answers:
            try:
                answer = await self._connection.read_response(disconnect_on_error=False)
            except ResponseError as error:
                self._fail([answers.popleft()], error)
            else:
                asked = answers.popleft()
                if not asked.done():
                    asked.set_result(answer)

    async def _give_up(self, error: BaseException) -> None:
        await self._connection.disconnect(nowait=True)
        for _, answers in self._trips:
            self._fail(answers, error)
        self._trips.clear()

    def _fail(self, answers: Iterable[_Answer], error: BaseException) -> None:
        if isinstance(error, asyncio.CancelledError):
            # The loop ends its tasks, and among them those of this pipeline: nobody who waits was cancelled.
            error = ConnectionError("the event loop ends")
        for answer in answers:
            if not answer.done():
                answer.set_exception(error)

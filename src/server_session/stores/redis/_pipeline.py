"""One connection to Redis that all calls of an event loop share."""

import asyncio
import math
from collections import deque
from functools import partial
from typing import Any, Final, TypeAlias

from redis.exceptions import ConnectionError, ReadOnlyError, RedisError  # noqa: A004

from server_session.stores._waits import clock_here, in_time
from server_session.stores.redis._resp import NOT_YET, Answers, Notice, packed

__all__ = ["Pipeline"]

_Answer: TypeAlias = asyncio.Future[Any]
_Call: TypeAlias = tuple[bytes, _Answer]

_ENDED: Final = "the server ended the connection"


class Pipeline:
    """Sends what is called in one turn of the loop in one piece, and gives each call its own answer.

    What is called while no answer is out is sent at once. Where a connection fails, what was not sent yet goes over the
    next one.

    Args:
        connection: One of redis-py's asynchronous ones, for this pipeline alone, that connects and does no more.
        limit: Seconds for an answer, from the sending of its call on, the making of a connection for it included.
    """

    def __init__(self, connection: Any, limit: float) -> None:
        self._connection = connection
        self._limit = min(limit, connection.socket_timeout or limit)
        self._loop = asyncio.get_running_loop()
        self._unsent: list[_Call] = []
        self._line: _Line | None = None
        self._connecting: asyncio.Task[_Line] | None = None

    def call(self, words: tuple[bytes, ...]) -> _Answer:
        """Send a command, once, and return what will be its answer.

        Raises, where that is awaited:
            ResponseError: It is the answer.
            RedisError, OSError: The answer is lost, or the call was not sent.
        """
        answer = self._loop.create_future()
        self._unsent.append((packed(words), answer))
        if self._line is None or not self._line.owed:
            self._send()
        elif len(self._unsent) == 1:
            self._loop.call_soon(self._send)
        return answer

    async def close(self) -> None:
        """End the connection; calls that wait fail."""
        ended = ConnectionError("the event loop ends")
        _fail([answer for _, answer in self._taken()], ended)
        if self._connecting is not None:
            self._connecting.cancel()
            await asyncio.wait([self._connecting])
        if self._line is not None:
            self._line.end(ended)
        await self._connection.disconnect()

    def _send(self) -> None:
        if self._connecting is not None or not self._unsent:
            return
        now = clock_here().now()
        if self._line is None or self._line.has_ended():
            self._connecting = self._loop.create_task(self._connect())
            self._connecting.add_done_callback(partial(self._go_on, now))
        else:
            self._line.send(self._taken(), now)

    def _taken(self) -> list[_Call]:
        calls = [call for call in self._unsent if not call[1].done()]
        self._unsent.clear()
        return calls

    async def _connect(self) -> "_Line":
        try:
            async with in_time(self._limit):
                await self._connection.disconnect(nowait=True)
                await self._connection.connect()
            # At once: a connection that ends while it has redis-py's own protocol tells no `_Line`.
            return _Line(self._connection, self._limit)
        except BaseException:
            await self._connection.disconnect(nowait=True)
            raise

    # A callback of the task, for a task that is cancelled before it begins runs none of its own code.
    def _go_on(self, begun: float, connecting: "asyncio.Task[_Line]") -> None:
        self._connecting = None
        calls = self._taken()
        if connecting.cancelled():
            # By a loop that ends; what is called by its last tasks goes over another.
            self._unsent = calls
            self._send()
        elif (error := connecting.exception()) is not None:
            _fail([answer for _, answer in calls], error)
        else:
            self._line = connecting.result()
            self._line.send(calls, begun)


class _Line(asyncio.Protocol):
    """A connection that is open, and the answers that it owes, in the order of their calls: Redis keeps to it.

    A call that is cancelled keeps its place: its answer is read and dropped.
    """

    def __init__(self, connection: Any, limit: float) -> None:
        self.owed: deque[tuple[float, _Answer]] = deque()
        """When each is due, and whose it is."""
        self._limit = limit
        # redis-py would ask a connection that has rested for so long whether it is well.
        self._rest = connection.health_check_interval or math.inf
        self._sent_at = math.inf
        self._loop = asyncio.get_running_loop()
        self._answers = Answers()
        self._watcher: asyncio.Handle | None = None
        # Referred to from here, and so from the loop, it is not collected before it is closed, even if its store is.
        self._connection = connection
        # redis-py has no public word for it, and its own sending and reading take a coroutine each.
        self._transport: asyncio.Transport = connection._writer.transport  # noqa: SLF001
        self._beneath = self._transport.get_protocol()
        self._transport.set_protocol(self)
        if connection._reader.at_eof():  # noqa: SLF001 - as the other
            self._transport.abort()

    def has_ended(self) -> bool:
        """Tell whether nothing more is to be sent over it."""
        # Written to while it closes, a transport of asyncio, from Python 3.12 on, leaves its socket's number with the
        # selector, and the next socket of that number is never woken.
        # A part of an answer that nobody is owed: its rest would be taken for the next call's answer.
        has_rested = self._loop.time() - self._sent_at > self._rest or self._answers.has_data()
        return self._transport.is_closing() or (not self.owed and has_rested)

    def send(self, calls: list[_Call], begun: float) -> None:
        """Send calls, begun then, without a wait: each caller waits for its answer anyway."""
        if self._transport.is_closing():
            # It ended as soon as it was made.
            _fail([answer for _, answer in calls], ConnectionError(_ENDED))
            return
        self._sent_at = self._loop.time()
        due = begun + self._limit
        self.owed.extend([(due, answer) for _, answer in calls])
        if self._watcher is None:
            self._watch_until(due)
        self._transport.write(b"".join([command for command, _ in calls]))

    def end(self, error: Exception) -> None:
        """End it; what it owes fails."""
        self._transport.abort()
        _fail([answer for _, answer in self.owed], error)
        self.owed.clear()

    def data_received(self, data: bytes) -> None:
        """Give what has come to those whose it is."""
        self._answers.feed(data)
        try:
            while (said := self._answers.gets()) is not NOT_YET:
                if type(said) is not Notice:
                    self._give(said)
        except (RedisError, IndexError) as error:
            self.end(ConnectionError(f"it said what is no answer: {error}"))

    def connection_lost(self, exc: Exception | None) -> None:
        """Fail what is owed."""
        # Whoever waits for the connection to be closed waits there.
        self._beneath.connection_lost(exc)
        self.end(ConnectionError(_ENDED))

    def _give(self, said: Any) -> None:
        answer = self.owed.popleft()[1]
        if isinstance(said, RedisError):
            _fail([answer], said)
            # It was the master: the next connection is made to whom the Sentinel names by then.
            if isinstance(said, ReadOnlyError):
                self.end(ConnectionError("the server is a replica now"))
        elif not answer.done():
            answer.set_result(said)

    def _watch_until(self, due: float) -> None:
        self._watcher = self._loop.call_later(due - clock_here().now(), self._watch)

    def _watch(self) -> None:
        """Give the connection up where an answer is overdue. One timer does for many calls."""
        self._watcher = None
        if not self.owed:
            return
        due, _ = self.owed[0]
        if due > clock_here().now():
            self._watch_until(due)
        else:
            self.end(TimeoutError())


def _fail(answers: list[_Answer], error: BaseException) -> None:
    for answer in answers:
        if not answer.done():
            # To each its own: raised, it bears the frames of its caller, and in them what a visitor would have stored.
            # (Not by `copy`, which calls what an error's class may have made of its arguments.)
            own = type(error).__new__(type(error), *error.args)
            own.__dict__.update(error.__dict__)
            answer.set_exception(own)
            # Who is cancelled meanwhile never looks at it, which asyncio would log.
            answer.exception()

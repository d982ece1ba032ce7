"""A TCP proxy before a server, that does to its connections what networks do."""

import asyncio
import contextlib
import enum
import random
import socket
import struct
import threading
from collections.abc import Callable
from typing import Any, Self

from tests.patience import PATIENCE

__all__ = ["Proxy", "Weather"]

# Closed so, a socket sends a reset.
_RESET = struct.pack("ii", 1, 0)


class Weather(enum.Enum):
    """What the proxy does."""

    FAIR = "passes all on"
    RESET = "resets connections in the middle of what is asked or answered"
    CUT = "passes on what is asked and ends the connection before the answer"
    SILENT = "passes nothing on, either way"
    TRICKLE = "passes answers on byte by byte"


class Proxy:
    """Listens on a port of loopback, before a server; `weather` may be changed at any time.

    What was silence is not made up for: who was not heard then is hung up on when the weather changes.
    """

    def __init__(self, target: int) -> None:
        self._target = target
        self.pause = 0.0
        """Seconds from byte to byte of what trickles."""
        self._weather = Weather.FAIR
        self._loop = asyncio.new_event_loop()
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._server = self._call(lambda: asyncio.start_server(self._serve, "127.0.0.1", 0))
        self.port: int = self._server.sockets[0].getsockname()[1]

    @property
    def weather(self) -> Weather:
        return self._weather

    @weather.setter
    def weather(self, weather: Weather) -> None:
        was_silent = self._weather is Weather.SILENT
        self._weather = weather
        if was_silent:
            self.hang_up()

    @property
    def connections(self) -> int:
        """How many connections clients have open."""
        return len(self._tasks)

    def hang_up(self) -> None:
        """End all connections, whatever is under way on them."""
        self._call(self._hang_up)

    def _call(self, start: Callable[[], Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(start(), self._loop).result(PATIENCE)

    async def _hang_up(self) -> None:
        for writer in self._writers:
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self._writers.add(writer)
        beyond: asyncio.StreamWriter | None = None
        try:
            answers, beyond = await asyncio.open_connection("127.0.0.1", self._target)
            self._writers.add(beyond)
            ways = [
                asyncio.ensure_future(self._ask(reader, beyond)),
                asyncio.ensure_future(self._answer(answers, writer)),
            ]
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
        except OSError:
            # Nobody listens there: the client learns of it by the end of its connection.
            pass
        finally:
            for end in (writer, beyond):
                if end is not None:
                    self._writers.discard(end)
                    if self._weather is Weather.RESET and not end.is_closing():
                        end.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                    end.transport.abort()
            self._tasks.discard(task)

    async def _ask(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while asked := await reader.read(65536):
            if self._weather is Weather.SILENT:
                continue
            if self._weather is Weather.RESET and random.random() < 0.2:
                writer.write(asked[: random.randrange(len(asked))])
                await writer.drain()
                return
            writer.write(asked)
            await writer.drain()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while answered := await reader.read(65536):
            match self._weather:
                case Weather.SILENT:
                    continue
                case Weather.CUT if random.random() < 0.2:
                    return
                case Weather.RESET if random.random() < 0.2:
                    writer.write(answered[: random.randrange(len(answered))])
                    await writer.drain()
                    return
                case Weather.TRICKLE:
                    for place in range(len(answered)):
                        writer.write(answered[place : place + 1])
                        await writer.drain()
                        await asyncio.sleep(self.pause)
                case _:
                    writer.write(answered)
                    await writer.drain()

    async def _end(self) -> None:
        self._server.close()
        await self._hang_up()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE):
                await asyncio.gather(*self._tasks, return_exceptions=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._call(self._end)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(PATIENCE)
        self._loop.close()

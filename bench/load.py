"""A browser of 32 connections, each with a session of its own and one request under way at a time.

`python -m bench.load PORT KIND SECONDS`; with `--bare` nobody has a session. It prints, as JSON, how many requests
there were and what they took, in milliseconds. Every response must be 200 and as long as a key's value is.
"""

import argparse
import asyncio
import json
import statistics
import time
from typing import Any

from bench.asking import HOST, KEY, VALUES, Answer, Ask, Kind, Visitor, ask_of
from bench.driving import WrongAnswerError

CONNECTIONS = 32
ANSWER_SECONDS = 20
MOST_REQUESTS = 40_000


class Connection(asyncio.Protocol):
    """One connection, which is kept alive."""

    def __init__(self) -> None:
        self._transport: Any = None
        self._bytes = b""
        self._waiting: asyncio.Future[Answer] | None = None

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._bytes += data
        head, found, body = self._bytes.partition(b"\r\n\r\n")
        if not found or self._waiting is None or self._waiting.done():
            return
        first, *lines = head.decode("latin-1").split("\r\n")
        headers = tuple((name, value.strip()) for name, _, value in (line.partition(":") for line in lines))
        length = next(int(value) for name, value in headers if name.lower() == "content-length")
        if len(body) >= length:
            self._bytes = b""
            self._waiting.set_result(Answer(int(first.split(" ")[1]), headers, body.decode()))

    def connection_lost(self, exc: Exception | None) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_exception(WrongAnswerError(f"the server closed the connection: {exc}"))

    async def ask(self, request: bytes) -> Answer:
        """Send a request, and return the response."""
        self._waiting = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return await self._waiting

    def close(self) -> None:
        """End it."""
        self._transport.close()


def spelled(ask: Ask) -> bytes:
    """Return a request as it is sent."""
    lines = [f"{ask.method} {ask.path} HTTP/1.1", f"Host: {HOST}", *(f"{name}: {value}" for name, value in ask.headers)]
    if ask.cookie:
        lines.append(f"Cookie: {ask.cookie}")
    return "\r\n".join([*lines, "", ""]).encode()


class Load:
    """The load of one measurement."""

    def __init__(self, port: int, kind: Kind, *, is_bare: bool) -> None:
        self._port = port
        self._kind = kind
        self._is_bare = is_bare
        self._milliseconds: list[float] = []

    async def run(self, seconds: float) -> dict[str, float]:
        """Make requests for so long, and return the figures."""
        loop = asyncio.get_running_loop()
        pairs = [await loop.create_connection(Connection, "127.0.0.1", self._port) for _ in range(CONNECTIONS)]
        connections = [connection for _, connection in pairs]
        requests = [await self._request(connection) for connection in connections]
        async with asyncio.timeout(seconds + ANSWER_SECONDS):
            begun = time.perf_counter()
            browsing = [
                self._browse(connection, request, begun + seconds)
                for connection, request in zip(connections, requests, strict=True)
            ]
            await asyncio.gather(*browsing)
            taken = time.perf_counter() - begun
        for connection in connections:
            connection.close()
        hundredths = statistics.quantiles(self._milliseconds, n=100)
        return {
            "requests": len(self._milliseconds),
            "rate": round(len(self._milliseconds) / taken),
            "p50": round(hundredths[49], 2),
            "p99": round(hundredths[98], 2),
        }

    async def _request(self, connection: Connection) -> bytes:
        visitor = Visitor()
        if not self._is_bare:
            answer = await connection.ask(spelled(ask_of(Kind.FIRST, visitor)))
            if answer.status != 200 or not answer.cookies():
                raise WrongAnswerError(f"a first write is answered with {answer.status}: {answer.body[:200]}")
            visitor = visitor.after(answer)
        return spelled(ask_of(self._kind, visitor))

    async def _browse(self, connection: Connection, request: bytes, end: float) -> None:
        length = 2 if self._is_bare else len(VALUES[KEY])
        while (begun := time.perf_counter()) < end and len(self._milliseconds) < MOST_REQUESTS:
            answer = await connection.ask(request)
            self._milliseconds.append((time.perf_counter() - begun) * 1e3)
            if answer.status != 200 or len(answer.body) != length:
                raise WrongAnswerError(f"{self._kind} is answered with {answer.status}: {answer.body[:200]}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("port", type=int)
    parser.add_argument("kind", choices=[Kind.READ, Kind.WRITE], type=Kind)
    parser.add_argument("seconds", type=float)
    parser.add_argument("--bare", action="store_true")
    options = parser.parse_args()
    load = Load(options.port, options.kind, is_bare=options.bare)
    try:
        figures: dict[str, Any] = asyncio.run(load.run(options.seconds))
    except WrongAnswerError as error:
        figures = {"error": str(error)}
    print(json.dumps(figures))


if __name__ == "__main__":
    main()

"""How requests are made of an application without a server between: one by one, several at once, and counted.

A response that is not 200 is a `WrongAnswerError`: a figure is worth nothing if what it measures went wrong.
"""

import asyncio
import cProfile
import pstats
import re
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from bench.asking import Answer, Ask

Function = tuple[str, int, str]
"""A function: its file, the line it begins at, and its name, as `pstats` has them."""
Edge = tuple[Function, Function]
"""A caller, and what it calls."""
NOBODY: Function = ("~", 0, "(the event loop)")


class WrongAnswerError(Exception):
    """A request that is measured was not answered as it should be."""


@dataclass(frozen=True)
class Count:
    """What a request calls: the calls of each function by each of its callers."""

    edges: Mapping[Edge, float]

    @property
    def calls(self) -> float:
        """All of them."""
        return sum(self.edges.values())

    def __sub__(self, other: "Count") -> "Count":
        """Return what this calls beyond the other."""
        edges = Counter(self.edges)
        edges.subtract(other.edges)
        return Count(edges)

    def functions(self) -> dict[Function, dict[Function, float]]:
        """Return each function with its callers, the most called first."""
        functions: dict[Function, dict[Function, float]] = {}
        for (caller, function), calls in self.edges.items():
            if round(calls, 2):
                functions.setdefault(function, {})[caller] = calls
        return dict(sorted(functions.items(), key=lambda item: (-sum(item[1].values()), item[0])))


def count_of(profile: cProfile.Profile, requests: int) -> Count:
    """Return what one of the requests called that were made under a profile."""
    edges: Counter[Edge] = Counter()
    for function, (_, calls, _, _, callers) in pstats.Stats(profile).stats.items():  # type: ignore[attr-defined]
        known = {caller: figures[0] for caller, figures in callers.items()}
        known[NOBODY] = calls - sum(known.values())
        edges.update({(caller, function): made / requests for caller, made in known.items()})
    return Count(edges)


class Driver(ABC):
    """Makes requests of one application."""

    @abstractmethod
    def ask(self, request: Ask) -> Answer:
        """Make one request, and return whatever is answered."""

    @abstractmethod
    def time(self, requests: Sequence[Ask], at_once: int = 1) -> float:
        """Make requests, so many at once, and return the seconds that they took together."""

    @abstractmethod
    def count(self, requests: Sequence[Ask]) -> Count:
        """Make requests one by one, and return what one of them calls, on the average."""


class AwaitingDriver(Driver):
    """Makes requests of an application that awaits, on one event loop."""

    def __init__(self) -> None:
        self._runner = asyncio.Runner()

    @abstractmethod
    def prepared(self, request: Ask) -> Any:
        """Return a request as the application takes it."""

    @abstractmethod
    async def made(self, prepared: Any) -> Any:
        """Make a request, and return the response as the application gives it."""

    @abstractmethod
    def answer(self, response: Any) -> Answer:
        """Return a response as what it is."""

    @abstractmethod
    def status(self, response: Any) -> int:
        """Return a response's status."""

    def ask(self, request: Ask) -> Answer:
        return self.answer(self._runner.run(self.made(self.prepared(request))))

    def time(self, requests: Sequence[Ask], at_once: int = 1) -> float:
        shares = [[self.prepared(request) for request in requests[n::at_once]] for n in range(at_once)]
        seconds, statuses = self._runner.run(self._timed(shares))
        check(statuses, requests)
        return seconds

    def count(self, requests: Sequence[Ask]) -> Count:
        prepared = [self.prepared(request) for request in requests]
        profile = cProfile.Profile()
        responses = self._runner.run(self._profiled(prepared, profile))
        check({self.status(response) for response in responses}, requests)
        return count_of(profile, len(requests))

    async def _timed(self, shares: Sequence[Sequence[Any]]) -> tuple[float, set[int]]:
        begun = time.perf_counter()
        if len(shares) == 1:
            statuses = await self._each(shares[0])
        else:
            statuses = set[int]().union(*await asyncio.gather(*map(self._each, shares)))
        return time.perf_counter() - begun, statuses

    async def _each(self, prepared: Sequence[Any]) -> set[int]:
        # No server keeps the responses.
        return {self.status(await self.made(request)) for request in prepared}

    async def _profiled(self, prepared: Sequence[Any], profile: cProfile.Profile) -> list[Any]:
        profile.enable()
        responses = [await self.made(request) for request in prepared]
        profile.disable()
        return responses


_NO_BODY = {"type": "http.request", "body": b"", "more_body": False}


class AsgiDriver(AwaitingDriver):
    """Makes requests of an ASGI application; some paths may have one each, lest the place of a route count."""

    def __init__(self, app: Any, apart: Mapping[str, Any] | None = None) -> None:
        super().__init__()
        self.app = app
        self.apart = dict(apart or {})

    def prepared(self, request: Ask) -> Any:
        return self.apart.get(request.path, self.app), request.scope()

    async def made(self, prepared: Any) -> Any:
        app, scope = prepared
        messages: list[Any] = []
        unread = [_NO_BODY]

        async def receive() -> Any:
            # After the body there is nothing but the end of the connection, which some wait for.
            return unread.pop() if unread else await asyncio.get_running_loop().create_future()

        async def send(message: Any) -> None:
            messages.append(message)

        # As a server makes it: what is kept with a request goes with it.
        await app({**scope}, receive, send)
        return messages

    def answer(self, response: Any) -> Answer:
        start, *rest = response
        headers = tuple((name.decode("latin-1"), value.decode("latin-1")) for name, value in start["headers"])
        return Answer(start["status"], headers, b"".join(message.get("body", b"") for message in rest).decode())

    def status(self, response: Any) -> int:
        status: int = response[0]["status"]
        return status


_LENGTH = re.compile(rb"(?i)\r\ncontent-length: *(\d+)")


class Connection(asyncio.Transport):
    """A connection of a server's own, over no socket: a request goes in, and the whole response comes out."""

    def __init__(self, protocol: asyncio.Protocol) -> None:
        super().__init__()
        self._protocol = protocol
        protocol.connection_made(self)

    async def ask(self, request: bytes) -> bytes:
        """Make a request, and return the response."""
        self._received = b""
        self._answered = asyncio.get_running_loop().create_future()
        self._protocol.data_received(request)
        response: bytes = await self._answered
        return response

    def write(self, data: Any) -> None:
        self._received += data
        head, _, body = self._received.partition(b"\r\n\r\n")
        length = _LENGTH.search(head)
        if length and len(body) == int(length[1]):
            self._answered.set_result(self._received)

    def close(self) -> None:
        if not self._answered.done():
            self._answered.set_exception(WrongAnswerError("the connection was closed"))

    def is_closing(self) -> bool:
        return False

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Bound nothing: what is written is there."""

    def get_write_buffer_size(self) -> int:
        return 0

    def pause_reading(self) -> None:
        """Go on: there is one request at a time."""

    def resume_reading(self) -> None:
        """Go on."""


class ServerDriver(AwaitingDriver):
    """Makes requests of an application that has no ASGI, over connections of its own server."""

    def __init__(self) -> None:
        super().__init__()
        self._connect = self._runner.run(self.connect())
        self._idle: list[Connection] = []

    @abstractmethod
    async def connect(self) -> Callable[[], asyncio.Protocol]:
        """Start what serves, and return what makes a connection."""

    def prepared(self, request: Ask) -> Any:
        return request.written()

    async def made(self, prepared: Any) -> Any:
        connection = self._idle.pop() if self._idle else Connection(self._connect())
        response = await connection.ask(prepared)
        self._idle.append(connection)
        return response

    def answer(self, response: Any) -> Answer:
        head, _, body = response.decode("latin-1").partition("\r\n\r\n")
        pairs = (line.partition(": ") for line in head.split("\r\n")[1:])
        return Answer(self.status(response), tuple((name, value) for name, _, value in pairs), body)

    def status(self, response: Any) -> int:
        return int(response.split(b" ", 2)[1])


class WsgiDriver(Driver):
    """Makes requests of a WSGI application, several at once in threads."""

    def __init__(self, app: Any) -> None:
        self.app = app
        self._pool: ThreadPoolExecutor | None = None

    def ask(self, request: Ask) -> Answer:
        status, headers, body = ask_wsgi(self.app, request.environ())
        return Answer(status_of([status]), tuple(headers), body.decode())

    def time(self, requests: Sequence[Ask], at_once: int = 1) -> float:
        shares = [[request.environ() for request in requests[n::at_once]] for n in range(at_once)]
        each: Any = map
        if at_once > 1:
            self._pool = self._pool or ThreadPoolExecutor(at_once)
            each = self._pool.map
        begun = time.perf_counter()
        statuses = set[int]().union(*each(self._each, shares))
        seconds = time.perf_counter() - begun
        check(statuses, requests)
        return seconds

    def count(self, requests: Sequence[Ask]) -> Count:
        environs = [request.environ() for request in requests]
        profile = cProfile.Profile()
        profile.enable()
        responses = [ask_wsgi(self.app, environ) for environ in environs]
        profile.disable()
        check(set(map(status_of, responses)), requests)
        return count_of(profile, len(requests))

    def _each(self, environs: Sequence[dict[str, Any]]) -> set[int]:
        return {status_of(ask_wsgi(self.app, environ)) for environ in environs}


def status_of(response: Sequence[Any]) -> int:
    """Return the status of a response of WSGI."""
    return int(response[0].partition(" ")[0])


def ask_wsgi(app: Any, environ: dict[str, Any]) -> list[Any]:
    """Make a request, and return the status line, the headers and the whole body of the response."""
    response: list[Any] = []
    written: list[bytes] = []

    def start_response(status: str, headers: Any, exc_info: Any = None) -> Any:  # noqa: ARG001 - WSGI's signature
        response[:] = status, headers
        return written.append

    # As a server makes it: what is kept with a request goes with it.
    body: Any = app({**environ}, start_response)
    try:
        response.append(b"".join((*written, *body)))
    finally:
        if close := getattr(body, "close", None):
            close()
    return response


def check(statuses: set[int], requests: Sequence[Ask]) -> None:
    """Raise a `WrongAnswerError` unless all were answered with 200."""
    if statuses != {200}:
        request = requests[0]
        raise WrongAnswerError(f"{request.method} {request.path} was answered with {sorted(statuses)}")

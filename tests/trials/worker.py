"""One process of a crew: it makes requests, many at once, and tells what became of them.

As a program it reads jobs and writes answers, a line of JSON each. A job has requests, each with a cookie and with
parts that are lists of steps; between two parts a request waits at a gate, where all requests of all processes meet.
"""

import asyncio
import faulthandler
import inspect
import io
import json
import logging
import random
import sys
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from functools import partial
from typing import Any

from server_session import Sessions, asgi, wsgi
from server_session._colour import drive, pause
from server_session.exceptions import ConflictError, SessionError
from tests.trials.drivers import BROKEN, DRIVERS

JOB_SECONDS = 150
"""After which a job that does not end is given up, with the places where its threads stand."""

COOKIE = "session"

Body = Callable[[Any], Awaitable[None]]


def add_one(name: str, data: dict[str, Any]) -> None:
    data[name] = data.get(name, 0) + 1


async def add(front: Any, request: Any, name: str) -> bool:
    while True:
        try:
            return await settled(front.call.update_session_data(request, partial(add_one, name)))
        except ConflictError:
            # It met other writers for 2 seconds, has written nothing, and says that calling again is safe.
            front.conflicts += 1


async def wait(front: Any, request: Any, seconds: float) -> None:
    await pause(random.uniform(0, seconds))


STEPS: dict[str, Callable[..., Any]] = {
    "get": lambda front, request: front.call.get_session_data(request),
    "set": lambda front, request, data: front.call.set_session_data(request, data),
    "add": add,
    "pluck": lambda front, request, name: front.call.pluck_session_property(request, name),
    "replace": lambda front, request, data: front.call.replace_session_data(request, data),
    "log_in": lambda front, request, owner, data: front.call.log_in(request, owner, data),
    "renew": lambda front, request: front.call.renew_session(request),
    "destroy": lambda front, request: front.call.destroy_session(request),
    "destroy_sessions_of": lambda front, _, owner: front.call.destroy_sessions_of(owner),
    "sessions_of": lambda front, _, owner: front.call.sessions_of(owner),
    "load": lambda front, request: front.load(request),
    "assign": lambda front, request, data: front.mapping(request).update(data),
    "wait": wait,
}


async def settled(value: Any) -> Any:
    return await value if inspect.isawaitable(value) else value


class Awaiting:
    """Requests of one event loop, under the ASGI middleware."""

    def __init__(self, sessions: Sessions, *, autoload: bool = False) -> None:
        self.sessions = self.call = sessions
        self.autoload = autoload
        self.conflicts = 0

    async def serve(self, cookie: str | None, body: Body) -> tuple[int, list[str]]:
        starts: list[Any] = []

        async def app(scope: Any, receive: Any, send: Any) -> None:
            await body(scope)
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b""})

        async def send(message: Any) -> None:
            starts.extend([message] if message["type"] == "http.response.start" else [])

        # As a page of the application's own sends it.
        own = [(b"host", b"shop.example"), (b"sec-fetch-site", b"same-origin")]
        headers = [*own, *([(b"cookie", f"{COOKIE}={cookie}".encode())] if cookie else [])]
        scope = {"type": "http", "method": "POST", "scheme": "http", "path": "/", "headers": headers}
        await asgi.SessionMiddleware(app, self.sessions, autoload=self.autoload)(scope, None, send)
        set_cookies = [value.decode() for name, value in starts[0]["headers"] if name.lower() == b"set-cookie"]
        return starts[0]["status"], set_cookies

    async def load(self, scope: Any) -> None:
        await scope["session"].load()

    def mapping(self, scope: Any) -> Any:
        return scope["session"]

    async def make_all(self, requests: list[Any], gates: int) -> list[Any]:
        barrier = asyncio.Barrier(len(requests) + 1)

        async def gate() -> None:
            await barrier.wait()
            await barrier.wait()

        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(make(self, request, gates, gate, barrier)) for request in requests]
            for _ in range(gates):
                await barrier.wait()
                meet()
                await barrier.wait()
        return [task.result() for task in tasks]


class Blocking:
    """Requests of as many threads, under the WSGI middleware."""

    def __init__(self, sessions: Sessions) -> None:
        self.sessions = sessions
        self.call = sessions.sync
        self.conflicts = 0

    async def serve(self, cookie: str | None, body: Body) -> tuple[int, list[str]]:
        starts: list[Any] = []

        def app(environ: Any, start_response: Any) -> list[bytes]:
            drive(body(environ))  # type: ignore[arg-type]
            start_response("200 OK", [])
            return [b""]

        environ = {"REQUEST_METHOD": "POST", "PATH_INFO": "/", "wsgi.input": io.BytesIO(), "wsgi.url_scheme": "http"}
        environ["HTTP_SEC_FETCH_SITE"] = "same-origin"
        environ |= {"HTTP_HOST": "shop.example"} | ({"HTTP_COOKIE": f"{COOKIE}={cookie}"} if cookie else {})

        def start_response(*head: Any) -> Callable[[bytes], None]:
            starts.append(head)
            return lambda _: None

        response = wsgi.SessionMiddleware(app, self.sessions)(environ, start_response)
        list(response)
        response.close()  # type: ignore[attr-defined]
        status, headers, *_ = starts[0]
        return int(status.partition(" ")[0]), [value for name, value in headers if name.lower() == "set-cookie"]

    def load(self, environ: Any) -> None:
        environ[wsgi.SESSION].loaded()

    def mapping(self, environ: Any) -> Any:
        return environ[wsgi.SESSION]

    async def make_all(self, requests: list[Any], gates: int) -> list[Any]:
        barrier = threading.Barrier(len(requests) + 1)

        def gate() -> None:
            barrier.wait(JOB_SECONDS)
            barrier.wait(JOB_SECONDS)

        with ThreadPoolExecutor(max(1, len(requests))) as pool:
            futures = [pool.submit(drive, make(self, request, gates, gate, barrier)) for request in requests]
            for _ in range(gates):
                barrier.wait(JOB_SECONDS)
                meet()
                barrier.wait(JOB_SECONDS)
            return [future.result() for future in futures]


FRONTS: dict[str, type[Awaiting | Blocking]] = {"gather": Awaiting, "threads": Blocking}


async def make(front: Any, request: Any, gates: int, gate: Callable[[], Any], barrier: Any) -> dict[str, Any]:
    """Make one request: its parts with a gate between them, and then the gates that are left for others."""
    answers: list[list[Any]] = []

    async def body(carrier: Any) -> None:
        for number, part in enumerate(request["parts"]):
            if number:
                await settled(gate())
            answers.append([await take(front, carrier, *step) for step in part])

    try:
        status, cookies = await front.serve(request["cookie"], body)
        for _ in range(gates - (len(answers) - 1)):
            await settled(gate())
    except BaseException:
        # Nobody waits for one that will not come.
        await settled(barrier.abort())
        raise
    values = [cookie.partition(";")[0].partition("=")[2] for cookie in cookies]
    return {"status": status, "answers": answers, "cookie": values[0] if values else None}


async def take(front: Any, request: Any, step: str, *arguments: Any) -> Any:
    try:
        return await settled(STEPS[step](front, request, *arguments))
    except SessionError as error:
        return {"error": f"{step}: {type(error).__name__}: {error}"}


def meet() -> None:
    """Tell that all requests of this process are at the gate, and wait for those of the others."""
    tell("at the gate")
    hear()


def tell(answer: Any) -> None:
    sys.stdout.write(json.dumps(answer, default=str) + "\n")
    sys.stdout.flush()


def hear() -> Any:
    line = sys.stdin.readline()
    if not line:
        raise SystemExit("the crew has left")
    return json.loads(line)


def serve(driver: str, place: str) -> None:
    """Open a store and do jobs over it, until told to close it."""
    row = {**DRIVERS, str(BROKEN): BROKEN}[driver]
    with asyncio.Runner() as runner:
        finish: Callable[[Any], Any] = runner.run if row.calls == "gather" else drive
        stack = AsyncExitStack()
        front = FRONTS[row.calls](Sessions(session_store=finish(stack.enter_async_context(row.open(place)))))
        tell("open")
        while (job := hear()) != "close":
            faulthandler.dump_traceback_later(JOB_SECONDS, exit=True)
            results = finish(front.make_all(job["requests"], job["gates"]))
            faulthandler.cancel_dump_traceback_later()
            tell({"results": results, "conflicts": front.conflicts})
            front.conflicts = 0
        finish(stack.aclose())
    tell("closed")


def main() -> None:
    """Serve one driver after another, as the crew says."""
    # Of each write that is dropped it says so, and here that is the rule.
    logging.getLogger("server_session").setLevel(logging.ERROR)
    while (told := hear()) != "end":
        serve(told["driver"], told["place"])


if __name__ == "__main__":
    main()

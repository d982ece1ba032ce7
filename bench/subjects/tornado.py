"""Applications of Tornado: without sessions, and with those of this project.

Tornado has no ASGI: its application is asked by what its own server calls once a request is read.
"""

import asyncio
from collections.abc import Mapping
from typing import Any

from tornado.httputil import HTTPConnection, HTTPHeaders, HTTPServerRequest
from tornado.web import Application, RequestHandler

from bench.asking import HOST, KEY, VALUES, Answer, Ask, next_value
from bench.driving import AwaitingDriver
from server_session import Sessions, get_csrf_token
from server_session.tornado import SessionHandler, csrf_protect


class Connection(HTTPConnection):
    """Takes a response in a socket's place."""

    def __init__(self) -> None:
        self.status = 0
        self.headers = HTTPHeaders()
        self.body = b""

    def set_close_callback(self, callback: Any) -> None:
        """Never close."""

    def write_headers(
        self, start_line: Any, headers: HTTPHeaders, chunk: bytes | None = None
    ) -> "asyncio.Future[None]":
        self.status, self.headers = start_line.code, headers
        return self.write(chunk or b"")

    def write(self, chunk: bytes) -> "asyncio.Future[None]":
        self.body += chunk
        written: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        written.set_result(None)
        return written

    def finish(self) -> None:
        """End the response, which is here."""


class TornadoDriver(AwaitingDriver):
    """Makes requests of a Tornado application."""

    def __init__(self, app: Application) -> None:
        super().__init__()
        self._app = app

    def prepared(self, request: Ask) -> Any:
        headers = HTTPHeaders({"Host": HOST, **dict(request.headers)})
        if request.cookie:
            headers["Cookie"] = request.cookie
        return request.method, request.path, headers

    async def made(self, prepared: Any) -> Any:
        method, path, headers = prepared
        connection = Connection()
        request = HTTPServerRequest(method, path, headers=headers, body=b"", connection=connection)
        found = self._app.find_handler(request)
        handler = found.handler_class(self._app, request, **found.handler_kwargs)
        # A task, as the server makes one.
        await asyncio.ensure_future(handler._execute([], *found.path_args))  # noqa: SLF001
        return connection

    def answer(self, response: Any) -> Answer:
        return Answer(response.status, tuple(response.headers.get_all()), response.body.decode())

    def status(self, response: Any) -> int:
        status: int = response.status
        return status


class Untouched(RequestHandler):
    def get(self) -> None:
        self.write("ok")

    post = get


class Ours(SessionHandler):
    get = post = Untouched.get


class Read(SessionHandler):
    def get(self) -> None:
        self.write(self.session[KEY])


class Write(SessionHandler):
    def get(self) -> None:
        value = self.session[KEY] = next_value()
        self.write(value)


class First(SessionHandler):
    def get(self) -> None:
        self.session.update(VALUES)
        self.write("ok")


class Token(SessionHandler):
    async def get(self) -> None:
        self.write(await get_csrf_token(self))


@csrf_protect(strict=True)
class Check(Ours):
    pass


OURS: Mapping[str, type[RequestHandler]] = {
    "/untouched": Ours,
    "/read": Read,
    "/write": Write,
    "/first": First,
    "/token": Token,
    "/check": Check,
}


def bare(_: str = "") -> TornadoDriver:
    """Return the application without sessions."""
    return TornadoDriver(Application([(path, Untouched) for path in OURS]))


def ours(place: str) -> TornadoDriver:
    """Return the application with the sessions of this project."""
    return TornadoDriver(Application([*OURS.items()], sessions=Sessions(session_store=place)))

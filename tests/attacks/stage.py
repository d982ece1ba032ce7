"""The stage of the attacks: one application, served over ASGI and over WSGI, and who sends it requests.

What it does is written once; over WSGI the blocking functions do it.
"""

import asyncio
import io
import json
import threading
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote_to_bytes

from server_session import Sessions, asgi, wsgi
from server_session._colour import drive
from server_session._signals import Signal
from server_session.stores._base import SessionStore
from tests.asgi_client import call
from tests.patience import PATIENCE
from tests.visitors import Clock, make_store

HOST = "shop.example"
INTERFACES = ("asgi", "wsgi")

Header = tuple[str, str]


class Awaited:
    """The blocking functions, to be awaited."""

    def __init__(self, blocking: Any) -> None:
        self._blocking = blocking

    def __getattr__(self, name: str) -> Any:
        function = getattr(self._blocking, name)

        async def awaited(*arguments: Any, **options: Any) -> Any:
            return function(*arguments, **options)

        return awaited


@dataclass
class Request:
    """What an endpoint gets: the carrier, the mapping, the functions, and the body as the application reads it."""

    carrier: Any
    functions: Any
    session: Any
    method: str
    body: bytes


Endpoint = Callable[[Request], Awaitable[Any]]


async def whoami(request: Request) -> Any:
    return await request.functions.get_session_data(request.carrier)


async def token(request: Request) -> Any:
    return await request.functions.get_csrf_token(request.carrier)


async def write(request: Request) -> Any:
    return await request.functions.set_session_data(request.carrier, {"note": request.body.decode("latin-1")})


async def count(request: Request) -> Any:
    def add(data: dict[str, Any]) -> None:
        data["n"] = data.get("n", 0) + 1

    return await request.functions.update_session_data(request.carrier, add)


async def pluck(request: Request) -> Any:
    return await request.functions.pluck_session_property(request.carrier, "note")


async def log_in(request: Request) -> Any:
    user = request.body.decode("latin-1") or "victim"
    return await request.functions.log_in(request.carrier, user, {"user": user})


async def replace(request: Request) -> Any:
    return await request.functions.replace_session_data(request.carrier, {"user": request.body.decode() or "victim"})


async def renew(request: Request) -> Any:
    return await request.functions.renew_session(
        request.carrier, data={"user": request.body.decode()} if request.body else None
    )


async def assign(request: Request) -> Any:
    request.session["user"] = request.body.decode() or "victim"


async def clear(request: Request) -> Any:
    request.session.clear()
    request.session["user"] = request.body.decode() or "victim"


async def log_out(request: Request) -> Any:
    return await request.functions.destroy_session(request.carrier)


async def echo(request: Request) -> Any:
    return request.body.decode("latin-1")


async def validate(request: Request) -> Any:
    given = json.loads(request.body) if request.body else None
    return await request.functions.validate_csrf_token(request.carrier, given)


ENDPOINTS: dict[str, Endpoint] = {
    f"/{endpoint.__name__}": endpoint
    for endpoint in (
        whoami,
        token,
        write,
        count,
        pluck,
        log_in,
        replace,
        renew,
        assign,
        clear,
        log_out,
        echo,
        validate,
    )
}


@dataclass
class Reply:
    status: int
    headers: list[Header]
    body: bytes

    def all(self, name: str) -> list[str]:
        return [value for key, value in self.headers if key.lower() == name.lower()]

    @property
    def rejection(self) -> str | None:
        """Why the request was refused."""
        values = self.all("csrf-rejection")
        return values[0] if values else None

    @property
    def cookie(self) -> str | None:
        """The session's cookie that the browser now has, `name=value`; `""` where it was told to forget it."""
        for value in reversed(self.all("set-cookie")):
            pair, _, attributes = value.partition(";")
            if "session" in pair:
                return "" if "Max-Age=0" in attributes else pair
        return None

    @property
    def said(self) -> Any:
        """What the endpoint returned."""
        return json.loads(self.body)


class Site:
    """The application over one of the interfaces.

    `headers` of an answer may be given by `response_headers`; everything else by the keywords of `Sessions`.
    """

    def __init__(
        self,
        interface: str,
        endpoints: dict[str, Endpoint] | None = None,
        response_headers: Sequence[Header] = (),
        **settings: Any,
    ) -> None:
        self.interface = interface
        self.endpoints = ENDPOINTS | (endpoints or {})
        self.response_headers = list(response_headers)
        self.signals: list[Signal] = []
        self.clock = Clock()
        # A store of the caller's has the caller's clock.
        settings.setdefault("clock", self.clock)
        self.sessions = Sessions(on_signal=self.signals.append, **settings)
        self.seen: list[str] = []
        """The paths that the application was asked for: what was refused never got here."""
        middleware = asgi.SessionMiddleware if interface == "asgi" else wsgi.SessionMiddleware
        self.app: Any = middleware(self._asgi if interface == "asgi" else self._wsgi, self.sessions)

    @property
    def events(self) -> list[str]:
        return [signal.event for signal in self.signals]

    # --- sending

    def send(
        self,
        method: str = "GET",
        path: str = "/whoami",
        *headers: Header,
        cookie: str | None = None,
        body: bytes = b"",
        host: str = HOST,
        scheme: str = "http",
    ) -> Reply:
        """Send one request, byte for byte as it is given; a cookie of several pairs is one header."""
        query = path.partition("?")[2]
        lines = [("host", host), *((name.lower(), value) for name, value in headers)]
        if cookie is not None:
            lines.append(("cookie", cookie))
        if body and not any(name == "content-length" for name, _ in lines):
            lines.append(("content-length", str(len(body))))
        over = self._over_asgi if self.interface == "asgi" else self._over_wsgi
        return over(method, path.partition("?")[0], query, lines, body, scheme)

    def post(self, path: str, *headers: Header, **more: Any) -> Reply:
        """Send a POST as a page of the site itself does."""
        return self.send("POST", path, ("sec-fetch-site", "same-origin"), *headers, **more)

    def _over_asgi(self, method: str, path: str, query: str, headers: list[Header], body: bytes, scheme: str) -> Reply:
        scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.4"},
            "http_version": "1.1",
            "method": method,
            "scheme": scheme,
            "path": unquote_to_bytes(path).decode("utf-8", "replace"),
            "raw_path": path.encode("latin-1"),
            "query_string": query.encode("latin-1"),
            "root_path": "",
            "server": (HOST, 80),
            "client": ("203.0.113.7", 40000),
            "headers": [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers],
        }
        answer = asyncio.run(call(self.app, scope, body))
        lines = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in answer.headers]
        return Reply(answer.status, lines, answer.body)

    def _over_wsgi(self, method: str, path: str, query: str, headers: list[Header], body: bytes, scheme: str) -> Reply:
        environ: dict[str, Any] = {
            "REQUEST_METHOD": method,
            "SCRIPT_NAME": "",
            "PATH_INFO": unquote_to_bytes(path).decode("latin-1"),
            "QUERY_STRING": query,
            "SERVER_NAME": HOST,
            "SERVER_PORT": "80",
            "SERVER_PROTOCOL": "HTTP/1.1",
            "REMOTE_ADDR": "203.0.113.7",
            "wsgi.url_scheme": scheme,
            "wsgi.input": io.BytesIO(body),
            "wsgi.errors": io.StringIO(),
        }
        for name, value in headers:
            key = name.upper().replace("-", "_")
            key = key if key in ("CONTENT_TYPE", "CONTENT_LENGTH") else f"HTTP_{key}"
            # Two lines of one name are one value to a WSGI application; cookies are joined by their own sign.
            joint = "; " if key == "HTTP_COOKIE" else ","
            environ[key] = f"{environ[key]}{joint}{value}" if key in environ else value
        started: list[Any] = []

        def start_response(status: str, lines: list[Header], exc_info: Any = None) -> Any:
            started[:] = [int(status.split(maxsplit=1)[0]), lines]
            return io.BytesIO().write

        result = self.app(environ, start_response)
        try:
            content = b"".join(result)
        finally:
            result.close()
        return Reply(started[0], started[1], content)

    # --- the application

    def _answer(self, result: Any) -> tuple[list[Header], bytes]:
        content = json.dumps(result).encode()
        headers = [("Content-Type", "application/json"), ("Content-Length", str(len(content)))]
        return [*headers, *self.response_headers], content

    async def _asgi(self, scope: Any, receive: Any, send: Any) -> None:
        body = b""
        more = True
        while more:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
        request = Request(scope, self.sessions, scope["session"], scope["method"], body)
        headers, content = self._answer(await self._run(scope["path"], request))
        raw = [(name.lower().encode(), value.encode("latin-1")) for name, value in headers]
        await send({"type": "http.response.start", "status": 200, "headers": raw})
        await send({"type": "http.response.body", "body": content})

    def _wsgi(self, environ: Any, start_response: Any) -> list[bytes]:
        body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        session = environ[wsgi.SESSION]
        request = Request(environ, Awaited(self.sessions.sync), session, environ["REQUEST_METHOD"], body)
        headers, content = self._answer(drive(self._run(environ["PATH_INFO"], request)))
        start_response("200 OK", headers)
        return [content]

    async def _run(self, path: str, request: Request) -> Any:
        self.seen.append(path)
        return await self.endpoints.get(path, whoami)(request)


@dataclass
class Browser:
    """A visitor's browser at the site: it keeps the cookie, and says of its requests what browsers say."""

    site: Site
    cookie: str | None = None
    received: list[str] = field(default_factory=list)

    def get(self, path: str = "/whoami", *headers: Header, **more: Any) -> Reply:
        return self._keep(self.site.send("GET", path, *headers, cookie=self.cookie, **more))

    def post(self, path: str, *headers: Header, **more: Any) -> Reply:
        """Send what a page of the site itself sends."""
        return self._keep(self.site.post(path, *headers, cookie=self.cookie, **more))

    def forged(self, path: str, *headers: Header, method: str = "POST", **more: Any) -> Reply:
        """Send what another site's page makes the browser send; the cookie comes (an old browser, a sibling)."""
        return self._keep(self.site.send(method, path, *headers, cookie=self.cookie, **more))

    def _keep(self, reply: Reply) -> Reply:
        if reply.cookie is not None:
            self.cookie = reply.cookie or None
            self.received.append(reply.cookie)
        return reply

    @property
    def credential(self) -> str:
        """The cookie's value."""
        assert self.cookie is not None
        return self.cookie.partition("=")[2]


def victim_at(site: Site) -> Browser:
    """Return somebody who is logged in."""
    browser = Browser(site)
    browser.post("/log_in")
    assert browser.get().said == {"user": "victim"}
    return browser


def timed_site(
    interface: str,
    kind: str = "memory",
    directory: Path = Path(),
    wrap: Callable[[SessionStore], SessionStore] = lambda store: store,
    **settings: Any,
) -> Site:
    """Return a site whose store (see `make_store`) goes by the site's own clock; `wrap` puts another around it."""
    clock = Clock()
    site = Site(interface, session_store=wrap(make_store(kind, directory, clock)), clock=clock, **settings)
    site.clock = clock
    return site


class Gate:
    """Where an endpoint waits, in the middle of its request, until the test lets it go on."""

    def __init__(self) -> None:
        self._reached = threading.Event()
        self._opened = threading.Event()

    def wait(self) -> None:
        """Wait; for endpoints."""
        self._reached.set()
        assert self._opened.wait(PATIENCE), "nobody opened the gate"

    @contextmanager
    def holding(self, send: Callable[[], Reply]) -> Iterator[Future[Reply]]:
        """Send a request that comes to the gate; it is held there until the block ends, and then answered."""
        with ThreadPoolExecutor(1) as thread:
            slow = thread.submit(send)
            try:
                assert self._reached.wait(PATIENCE), slow.result(1)
                yield slow
            finally:
                self._opened.set()


def meanwhile(send: Callable[[], Any]) -> None:
    """Send other requests from within a request that is under way, whose thread's loop is taken."""
    with ThreadPoolExecutor(1) as thread:
        thread.submit(send).result(PATIENCE)

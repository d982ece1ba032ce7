"""The requests that are measured, in the words of ASGI, of WSGI, of HTTP, and of none.

Every application that is measured serves the same paths:

- `/untouched` has nothing to do with the session, `/unloaded` neither, and there the middleware knows it beforehand;
- `/read` answers with the value of one key of ten;
- `/write` gives that key a new value, and answers with it;
- `/first` puts ten keys of 100 bytes into the session;
- `/token` answers with a CSRF token;
- `/check` is a POST that passes with a token alone.
"""

import io
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from itertools import count
from typing import Any

HOST = "shop.example"
KEY = "key5"
VALUES = {f"key{n}": f"{n}" * 100 for n in range(10)}
"""What is in a session: ten keys of 100 bytes."""
_numbers = count(1)


def next_value() -> str:
    """Return 100 bytes that were not written before."""
    return f"{next(_numbers):0100}"


class Kind(StrEnum):
    """A request that is measured."""

    NO_COOKIE = "no-cookie"
    UNTOUCHED = "untouched"
    UNLOADED = "unloaded"
    READ = "read"
    WRITE = "write"
    FIRST = "first"
    TOKEN = "token"  # noqa: S105 - a name
    CHECK = "check"


TITLES = {
    Kind.NO_COOKIE: "no cookie",
    Kind.UNTOUCHED: "untouched",
    Kind.UNLOADED: "untouched, `autoload=False`",
    Kind.READ: "read",
    Kind.WRITE: "one of ten keys changed",
    Kind.FIRST: "first write",
    Kind.TOKEN: "CSRF token",
    Kind.CHECK: "CSRF check",
}
PATHS = {
    Kind.NO_COOKIE: "/untouched",
    Kind.UNTOUCHED: "/untouched",
    Kind.UNLOADED: "/unloaded",
    Kind.READ: "/read",
    Kind.WRITE: "/write",
    Kind.FIRST: "/first",
    Kind.TOKEN: "/token",
    Kind.CHECK: "/check",
}
WITHOUT_COOKIE = frozenset({Kind.NO_COOKIE, Kind.FIRST})


@dataclass(frozen=True)
class Visitor:
    """Who asks: the cookies that a browser holds, and a token of a page that it shows."""

    cookies: Mapping[str, str] = field(default_factory=dict)
    token: str = ""

    def after(self, answer: "Answer") -> "Visitor":
        """Return the visitor with the cookies that an answer sets."""
        return replace(self, cookies={**self.cookies, **answer.cookies()})


@dataclass(frozen=True)
class Ask:
    """A request."""

    path: str
    method: str = "GET"
    cookie: str = ""
    headers: tuple[tuple[str, str], ...] = ()

    def scope(self) -> dict[str, Any]:
        """Return it as an ASGI scope."""
        headers = [(b"host", HOST.encode())]
        headers += [(name.encode(), value.encode()) for name, value in self.headers]
        if self.cookie:
            headers.append((b"cookie", self.cookie.encode()))
        return {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.4"},
            "http_version": "1.1",
            "method": self.method,
            "scheme": "http",
            "path": self.path,
            "raw_path": self.path.encode(),
            "query_string": b"",
            "root_path": "",
            "server": (HOST, 80),
            "client": ("127.0.0.1", 1),
            "headers": headers,
        }

    def written(self) -> bytes:
        """Return it as a connection of HTTP bears it."""
        headers = [("host", HOST), *self.headers, ("content-length", "0")]
        if self.cookie:
            headers.append(("cookie", self.cookie))
        lines = [f"{self.method} {self.path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers), "", ""]
        return "\r\n".join(lines).encode()

    def environ(self) -> dict[str, Any]:
        """Return it as a WSGI environ."""
        environ = {
            "REQUEST_METHOD": self.method,
            "SCRIPT_NAME": "",
            "PATH_INFO": self.path,
            "QUERY_STRING": "",
            "CONTENT_LENGTH": "0",
            "SERVER_NAME": HOST,
            "SERVER_PORT": "80",
            "SERVER_PROTOCOL": "HTTP/1.1",
            "REMOTE_ADDR": "127.0.0.1",
            "HTTP_HOST": HOST,
            "wsgi.version": (1, 0),
            "wsgi.url_scheme": "http",
            "wsgi.input": io.BytesIO(),
            "wsgi.errors": io.StringIO(),
            "wsgi.multithread": True,
            "wsgi.multiprocess": False,
            "wsgi.run_once": False,
        }
        environ |= {f"HTTP_{name.upper().replace('-', '_')}": value for name, value in self.headers}
        if self.cookie:
            environ["HTTP_COOKIE"] = self.cookie
        return environ


def ask_of(kind: Kind, visitor: Visitor) -> Ask:
    """Return the request of a kind, as a visitor makes it."""
    held = {} if kind in WITHOUT_COOKIE else visitor.cookies
    ask = Ask(PATHS[kind], cookie="; ".join(f"{name}={value}" for name, value in held.items()))
    if kind is Kind.CHECK:
        # Django has a name of its own for the header.
        headers = tuple((name, visitor.token) for name in ("x-csrf-token", "x-csrftoken"))
        return replace(ask, method="POST", headers=headers)
    return ask


@dataclass(frozen=True)
class Answer:
    """A response."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: str

    def cookies(self) -> dict[str, str]:
        """Return the cookies that it sets."""
        set_cookies = [value for name, value in self.headers if name.lower() == "set-cookie"]
        pairs = [line.partition(";")[0].partition("=") for line in set_cookies]
        return {name: value for name, _, value in pairs}

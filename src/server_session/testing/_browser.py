"""A browser, as far as the tests of an adapter need one: cookies, forms, WebSockets, and whose page it is on."""

import base64
import http.client
import os
import socket
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Final, Self
from urllib.parse import urlencode

__all__ = ["Answered", "Browser", "Socket"]

# What hangs ends so; no load of a machine makes a server as slow.
_ANSWER_SECONDS: Final = 120.0


@dataclass
class Answered:
    """A response. One that `is_cut` ended before its time."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes
    is_cut: bool = False

    @property
    def text(self) -> str:
        """The body as text."""
        return self.body.decode("utf-8", "replace")

    def all(self, name: str) -> list[str]:
        """Return the values of a header."""
        return [value for key, value in self.headers if key.lower() == name]

    def listed(self, name: str) -> set[str]:
        """Return the members of a header that is a list, in lower case."""
        return {one.strip().lower() for value in self.all(name) for one in value.split(",")}


@dataclass
class Browser:
    """Keeps the cookies of one site, and says of each request whose page it came from, as browsers do.

    `page` is that: `"same-origin"`, `"cross-site"`, or `None` for a client that says nothing of the kind.
    """

    port: int
    cookies: dict[str, str] = field(default_factory=dict)
    patience: float = _ANSWER_SECONDS
    """Seconds for which its sockets wait for a message."""

    @property
    def cookie(self) -> str:
        """The `Cookie` header that it sends."""
        return "; ".join(f"{name}={value}" for name, value in self.cookies.items())

    def copy(self) -> "Browser":
        """Return another with the same cookies: a thief's."""
        return Browser(self.port, {**self.cookies}, self.patience)

    def get(self, path: str, *, page: str | None = "same-origin", **headers: str) -> Answered:
        """Open a page."""
        return self.ask("GET", path, page=page, headers=headers)

    def post(
        self, path: str, form: Mapping[str, str] | None = None, *, page: str | None = "same-origin", **headers: str
    ) -> Answered:
        """Send a form."""
        body = urlencode(form or {}).encode()
        return self.ask("POST", path, body, "application/x-www-form-urlencoded", page=page, headers=headers)

    def ask(
        self,
        method: str,
        path: str,
        body: bytes = b"",
        kind: str | None = None,
        *,
        page: str | None = "same-origin",
        headers: Mapping[str, str] | None = None,
    ) -> Answered:
        """Send a request; redirects are not followed. An underscore in a header's name is a hyphen."""
        sent = [(name.replace("_", "-"), value) for name, value in (headers or {}).items()]
        if kind is not None:
            sent.append(("Content-Type", kind))
        sent += self._of(page)
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=_ANSWER_SECONDS)
        try:
            connection.request(method, path, body or None, dict(sent))
            response = connection.getresponse()
            try:
                content, is_cut = response.read(), False
            except (http.client.IncompleteRead, OSError) as error:
                content, is_cut = getattr(error, "partial", b""), True
        finally:
            connection.close()
        answered = Answered(response.status, response.getheaders(), content, is_cut)
        self._keep(answered.all("set-cookie"))
        return answered

    def hang_up_on(self, path: str) -> None:
        """Ask for a page, read its beginning, and go."""
        with socket.create_connection(("127.0.0.1", self.port), _ANSWER_SECONDS) as connection:
            lines = [f"GET {path} HTTP/1.1", f"Host: 127.0.0.1:{self.port}", f"Cookie: {self.cookie}", "", ""]
            connection.sendall("\r\n".join(lines).encode())
            connection.recv(1024)

    def open_socket(self, path: str, *, origin: str | None = "own") -> "Socket":
        """Open a WebSocket, from a page of this origin: `"own"` is the site's, `None` says none."""
        own = f"http://127.0.0.1:{self.port}"
        return Socket(self.port, path, self.cookie, own if origin == "own" else origin, self.patience)

    def _of(self, page: str | None) -> list[tuple[str, str]]:
        sent = [("Cookie", self.cookie)] if self.cookies else []
        if page is not None:
            own = f"http://127.0.0.1:{self.port}"
            sent += [("Sec-Fetch-Site", page), ("Origin", own if page == "same-origin" else "http://evil.example")]
        return sent

    def _keep(self, headers: Iterable[str]) -> None:
        for header in headers:
            pair, _, attributes = header.partition(";")
            name, _, value = pair.partition("=")
            if "max-age=0" in attributes.replace(" ", "").lower():
                self.cookies.pop(name, None)
            else:
                self.cookies[name] = value


class Socket:
    """A WebSocket (RFC 6455) from a browser's side; `status` tells how the handshake was answered."""

    def __init__(self, port: int, path: str, cookie: str, origin: str | None, patience: float) -> None:
        self._connection = socket.create_connection(("127.0.0.1", port), _ANSWER_SECONDS)
        lines = [
            f"GET {path} HTTP/1.1",
            f"Host: 127.0.0.1:{port}",
            "Upgrade: websocket",
            "Connection: Upgrade",
            f"Sec-WebSocket-Key: {base64.b64encode(os.urandom(16)).decode()}",
            "Sec-WebSocket-Version: 13",
        ]
        lines += [f"Cookie: {cookie}"] if cookie else []
        lines += [f"Origin: {origin}"] if origin else []
        self._connection.sendall(("\r\n".join(lines) + "\r\n\r\n").encode())
        self._left = b""
        head = b""
        while b"\r\n\r\n" not in head and (piece := self._connection.recv(4096)):
            head += piece
        head, _, self._left = head.partition(b"\r\n\r\n")
        self.status = int(head.split(b" ", 2)[1]) if head else 0
        self._connection.settimeout(patience)

    def receive(self) -> str | int | None:
        """Return the next message's text, the code with which the socket was closed, or `None` where it just ended."""
        while True:
            try:
                first, second = self._read(2)
                length = second & 0x7F
                if length == 126:
                    (length,) = struct.unpack("!H", self._read(2))
                payload = self._read(length)
            except OSError:
                return None
            match first & 0x0F:
                case 0x1:
                    return payload.decode()
                case 0x8:
                    return int.from_bytes(payload[:2], "big") if payload else 1005
                case _:
                    continue

    def _read(self, length: int) -> bytes:
        while len(self._left) < length:
            piece = self._connection.recv(4096)
            if not piece:
                raise ConnectionError("the WebSocket ended")
            self._left += piece
        read, self._left = self._left[:length], self._left[length:]
        return read

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._connection.close()

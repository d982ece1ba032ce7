"""A client of ASGI applications that keeps a session's cookie, under any event loop."""

from dataclasses import dataclass, field
from typing import Any

import anyio


@dataclass
class Answer:
    status: int = 0
    headers: list[tuple[bytes, bytes]] = field(default_factory=list)
    body: bytes = b""
    starts: int = 0

    def all(self, name: str) -> list[str]:
        return [value.decode() for key, value in self.headers if key.decode().lower() == name]

    def one(self, name: str) -> str | None:
        values = self.all(name)
        assert len(values) <= 1, values
        return values[0] if values else None


def scope_of(path: str = "/", cookie: str | None = None, **more: Any) -> dict[str, Any]:
    headers = [(b"host", b"shop.example")]
    if cookie is not None:
        headers.append((b"cookie", cookie.encode("latin-1")))
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "server": ("shop.example", 80),
        "client": ("127.0.0.1", 1),
        "headers": headers,
    } | more


async def call(app: Any, scope: dict[str, Any], body: bytes = b"") -> Answer:
    """Make one request and take the whole answer."""
    answer = Answer()
    to_come = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> dict[str, Any]:
        # The client does not hang up.
        return to_come.pop() if to_come else await anyio.sleep_forever()

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            answer.status = message["status"]
            answer.headers = list(message["headers"])
            answer.starts += 1
        elif message["type"] == "http.response.body":
            answer.body += message.get("body", b"")

    await app(scope, receive, send)
    return answer


@dataclass
class Client:
    """A browser with one cookie."""

    app: Any
    cookie: str | None = None
    name: str = "session"

    async def get(self, path: str = "/", body: bytes = b"", **more: Any) -> Answer:
        """Make a request with the cookie of now, and keep the cookie that the answer sets."""
        answer = await call(self.app, scope_of(path, self.cookie, **more), body)
        self.keep(answer)
        return answer

    def keep(self, answer: Answer) -> None:
        for header in answer.all("set-cookie"):
            pair = header.partition(";")[0]
            if pair.startswith(f"{self.name}="):
                self.cookie = None if pair == f"{self.name}=" else pair


@dataclass
class WebSocket:
    """A client of a WebSocket: the messages it sends, and what it got."""

    sent: list[dict[str, Any]] = field(default_factory=lambda: [{"type": "websocket.connect"}])
    got: list[dict[str, Any]] = field(default_factory=list)

    async def connect(self, app: Any, cookie: str | None = None, path: str = "/") -> None:
        async def receive() -> dict[str, Any]:
            return self.sent.pop(0) if self.sent else {"type": "websocket.disconnect", "code": 1000}

        async def send(message: Any) -> None:
            self.got.append(dict(message))

        scope = scope_of(path, cookie, type="websocket", scheme="ws")
        scope["headers"].append((b"origin", b"http://shop.example"))
        await app(scope, receive, send)

"""Servers of applications, each as its documentation starts it, and visitors who speak HTTP to them."""

import asyncio
import contextlib
import http.client
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final, NamedTuple, Self
from urllib.parse import urlencode

import httpx2

from tests import servers
from tests.patience import PATIENCE, wait_until

__all__ = ["SERVERS", "Front", "MultiplexingVisitor", "Visitor", "served"]

ROOT = Path(__file__).resolve().parents[2]
SITE = "tests.deployment.site"
# Of bodies that are refused unread.
SIZES: Final = (0, 1000, 100_000, 1_000_000)


class Front(NamedTuple):
    """A server: its command, with a place for the port, and how it runs an application."""

    command: Sequence[str]
    form: str
    has_several: bool = False
    is_used_before: bool = False


def gunicorn(*options: str, form: str = "wsgi") -> Sequence[str]:
    return ("gunicorn", "--bind", "127.0.0.1:{port}", "--no-control-socket", *options, f"{SITE}:{form}")


def granian(form: str) -> Sequence[str]:
    return ("granian", "--interface", form, "--port", "{port}", "--workers", "2", f"{SITE}:{form}")


SERVERS = {
    "gunicorn, threads": Front(gunicorn("-k", "gthread", "--workers", "2", "--threads", "8"), "wsgi", True),
    "gunicorn, threads, --preload": Front(
        gunicorn("-k", "gthread", "--workers", "2", "--threads", "8", "--preload"), "wsgi", True, True
    ),
    "gunicorn, gevent": Front(gunicorn("-k", "gevent", "--workers", "2"), "wsgi", True),
    "gunicorn, gevent, --preload": Front(gunicorn("-k", "gevent", "--workers", "2", "--preload"), "wsgi", True, True),
    "gunicorn, ASGI": Front(gunicorn("-k", "asgi", "--workers", "2", form="asgi"), "asgi", True),
    "uvicorn": Front(("uvicorn", "--port", "{port}", f"{SITE}:asgi"), "asgi"),
    "uvicorn, --workers": Front(("uvicorn", "--port", "{port}", "--workers", "2", f"{SITE}:asgi"), "asgi", True),
    "waitress": Front(("waitress", "--listen=127.0.0.1:{port}", "--threads=8", f"{SITE}:wsgi"), "wsgi"),
    "granian, ASGI": Front(granian("asgi"), "asgi", True),
    "granian, WSGI": Front((*granian("wsgi"), "--blocking-threads", "8"), "wsgi", True),
    "hypercorn": Front(("hypercorn", "--bind", "127.0.0.1:{port}", "--workers", "2", f"{SITE}:asgi"), "asgi", True),
}


@contextlib.contextmanager
def served(front: Front, store: str, folder: Path, *more: str, **environment: str) -> Iterator[int]:
    """Serve the site over a store; give the port."""
    port = servers.free_port()
    place = {"STORE": store, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    if front.is_used_before:
        place["IS_USED_AT_ONCE"] = "1"
    command = [word.format(port=port) for word in front.command]
    log = folder / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", *command, *more],
            cwd=folder,
            env={**os.environ, **place, **environment},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            # Its workers are its group's.
            start_new_session=True,
        )
    try:
        wait_until(lambda: answers(port) or process.poll() is not None)
        assert process.poll() is None, log.read_text()
        yield port
    finally:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(PATIENCE)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(PATIENCE)
    said = log.read_text()
    assert "Traceback" not in said, said


def answers(port: int) -> bool:
    with contextlib.suppress(OSError, http.client.HTTPException):
        return Visitor(port).get().status == 200
    return False


class Answer(NamedTuple):
    status: int
    told: dict[str, Any]


class Visitor:
    """A browser's cookie and its token; each request comes over a connection of its own."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.cookie = ""
        self.token = ""

    def ask(self, method: str, path: str, fields: dict[str, str] | None = None, **headers: str) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        with contextlib.closing(connection):
            connection.request(method, path, *self.written(fields, headers))
            response = connection.getresponse()
            return self.told(response.status, response.getheader("Set-Cookie"), response.read())

    def written(self, fields: dict[str, str] | None, headers: dict[str, str]) -> tuple[bytes | None, dict[str, str]]:
        """Return a request's body and headers."""
        written = {name.replace("_", "-"): value for name, value in headers.items()}
        if self.cookie:
            written["Cookie"] = self.cookie
        if fields is None:
            return None, written
        return urlencode(fields).encode(), {**written, "Content-Type": "application/x-www-form-urlencoded"}

    def told(self, status: int, cookie: str | None, text: bytes) -> Answer:
        if status != 200:
            return Answer(status, {})
        if cookie:
            self.cookie = cookie.partition(";")[0]
        return Answer(status, json.loads(text))

    def get(self) -> Answer:
        answer = self.ask("GET", "/")
        self.token = answer.told.get("token", "")
        return answer

    def post(self, path: str, **headers: str) -> Answer:
        return self.ask("POST", path, {"csrf_token": self.token}, **headers)

    def with_cookie(self, cookie: str) -> Self:
        other = type(self)(self.port)
        other.cookie, other.token = cookie, self.token
        return other

    def post_at_once(self, path: str, times: int) -> list[int]:
        with ThreadPoolExecutor(times) as pool:
            return [answer.status for answer in pool.map(lambda _: self.post(path), range(times))]


class MultiplexingVisitor(Visitor):
    """Speaks HTTP/2; what it asks at once is over one connection."""

    settings: Final[dict[str, Any]] = {"http1": False, "http2": True, "timeout": PATIENCE}

    def ask(self, method: str, path: str, fields: dict[str, str] | None = None, **headers: str) -> Answer:
        body, written = self.written(fields, headers)
        with httpx2.Client(**self.settings) as client:
            response = client.request(method, f"http://127.0.0.1:{self.port}{path}", content=body, headers=written)
            assert response.http_version == "HTTP/2"
            again = client.get(f"http://127.0.0.1:{self.port}/", headers=self.written(None, {})[1])
            assert again.status_code == 200, "the connection is as good after a refusal"
        return self.told(response.status_code, response.headers.get("Set-Cookie"), response.content)

    def post_at_once(self, path: str, times: int) -> list[int]:
        body, written = self.written({"csrf_token": self.token}, {})

        async def whole() -> list[int]:
            async with httpx2.AsyncClient(**self.settings, limits=httpx2.Limits(max_connections=1)) as client:
                url = f"http://127.0.0.1:{self.port}{path}"
                answers = await asyncio.gather(
                    *(client.post(url, content=body, headers=written) for _ in range(times)),
                    # What is refused on the way harms none of them.
                    *(
                        client.post(url, content=bytes(size), headers={"Sec-Fetch-Site": "cross-site"})
                        for size in SIZES
                    ),
                )
            refused = [answer.status_code for answer in answers[times:]]
            assert refused == [403] * len(SIZES)
            return [answer.status_code for answer in answers[:times]]

        return asyncio.run(whole())

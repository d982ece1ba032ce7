"""A shop under attack: an application behind the middleware, pages around it, and a record of what requests bore."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, PlainTextResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket

from server_session import csrf_exempt, get_csrf_token, get_session_data, log_in, set_session_data
from server_session.starlette import SessionMiddleware

__all__ = ["Seen", "Town"]

HERE = Path(__file__).parent
PAGE = f"<!doctype html><link rel=icon href=data:,><script>{(HERE / 'page.js').read_text()}</script><body>a page"


class Seen(NamedTuple):
    """What a request bore, and what became of it."""

    path: str
    origin: str | None
    site: str | None
    mode: str | None
    dest: str | None
    cookie: str
    status: int
    rejection: str | None


class Town:
    """The shop at the host `shop.…`, and pages of others at every other host; `seen` is what came to the shop."""

    def __init__(self, **settings: Any) -> None:
        self.seen: list[Seen] = []
        self._shop = SessionMiddleware(shop, session_store="memory:", **settings)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await elsewhere(scope, receive, send)
            return
        headers = {name.decode(): value.decode("latin-1") for name, value in scope["headers"]}
        if not headers["host"].startswith("shop."):
            await elsewhere(scope, receive, send)
            return

        async def watch(message: Any) -> None:
            # Before the browser hears of it, for then the test may look.
            if (status := _status(message)) is not None:
                self.seen.append(_seen(scope, headers, status, dict(message.get("headers", ()))))
            await send(message)

        await self._shop(scope, receive, watch)

    def last(self, path: str) -> Seen:
        """What came last to a path."""
        return next(seen for seen in reversed(self.seen) if seen.path == path)


def _status(message: Mapping[str, Any]) -> int | None:
    """Return the status by which a message starts the response, a WebSocket's too."""
    return {"websocket.accept": 101, "websocket.close": 403}.get(message["type"], message.get("status"))


def _seen(scope: Any, headers: Mapping[str, str], status: int, answered: Mapping[bytes, bytes]) -> Seen:
    return Seen(
        scope["path"],
        headers.get("origin"),
        headers.get("sec-fetch-site"),
        headers.get("sec-fetch-mode"),
        headers.get("sec-fetch-dest"),
        headers.get("cookie", ""),
        status,
        answered.get(b"csrf-rejection", b"").decode() or None,
    )


async def page(request: Request) -> Response:
    return HTMLResponse(PAGE)


async def quiet_page(request: Request) -> Response:
    return HTMLResponse(PAGE, headers={"Referrer-Policy": "no-referrer"})


async def worker(request: Request) -> Response:
    return FileResponse(HERE / "worker.js", media_type="text/javascript")


async def state(request: Request) -> Response:
    return PlainTextResponse(msgspec.json.encode(await get_session_data(request)))


async def token(request: Request) -> Response:
    return PlainTextResponse(await get_csrf_token(request))


async def enter(request: Request) -> Response:
    async with request.form() as form:
        name = str(form["name"])
    await log_in(request, name, {"user": name})
    return PlainTextResponse("welcome")


async def write(request: Request) -> Response:
    async with request.form() as form:
        await set_session_data(request, {"written": str(form["text"])})
    return PlainTextResponse("written")


@csrf_exempt
async def exempt_write(request: Request) -> Response:
    return await write(request)


async def talk(socket: WebSocket) -> None:
    await socket.accept()
    await socket.send_text(f"hello {(await get_session_data(socket)).get('user')}")
    await socket.close()


PAGES = [Route("/", page), Route("/quiet", quiet_page)]
elsewhere = Starlette(routes=PAGES)
shop = Starlette(
    routes=[
        *PAGES,
        Route("/worker.js", worker),
        Route("/state", state),
        Route("/token", token),
        Route("/log-in", enter, methods=["POST"]),
        Route("/write", write, methods=["POST"]),
        Route("/exempt", exempt_write, methods=["POST"]),
        WebSocketRoute("/talk", talk),
    ]
)

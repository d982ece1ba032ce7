"""Sessions for Sanic, on its own server and under ASGI: `ServerSession(app)` serves `request.ctx.session`."""

import asyncio
from functools import partial
from types import SimpleNamespace
from typing import Any, cast

from sanic import Request
from sanic.exceptions import Forbidden, ServiceUnavailable
from sanic.http import Stage
from sanic.response import BaseHTTPResponse, JSONResponse

from server_session import adapters
from server_session._colour import settled
from server_session._sessions import ApplicationExtension
from server_session.adapters import BytesBody, Exchange, Refusal, csrf_exempt, csrf_protect
from server_session.exceptions import UnavailableError
from server_session.exchange.sockets import accompany
from server_session.http.frameworks import MultiDictRequest
from server_session.http.responses import own_copy
from server_session.kernel.mapping import Session

__all__ = ["ServerSession", "csrf_exempt", "csrf_protect"]


class ServerSession(ApplicationExtension[Any]):
    """Serves these sessions to an application, by default what `configure` made, or one of the keywords given here.

    With `watch`, seconds or a timedelta, Sanic's own server asks so often whether the session of an open WebSocket
    lives, and closes it if not.
    """

    def init_app(self, app: Any) -> None:
        """Serve this application too."""
        app.ctx.server_session = self
        app.request_class = type("SessionRequest", (_Request, app.request_class), {})
        app.register_middleware(self._begin, "request", priority=1_000_000)
        app.add_signal(self._attend, "websocket.handler.before")
        app.exception(UnavailableError)(self._refuse)

    async def _begin(self, request: Request) -> Any:
        exchange, route = _exchange_of(request), request.route
        exchange.serve(found=True)
        request.ctx.session = adapters.UnloadedSession(exchange.load)
        handler: Any = route.handler if route else None
        if route and route.extra.websocket:
            # Sanic answers the handshake before it calls the handler, and without a header of ours.
            handler, exchange.request.is_http = handler.args[0], False
            exchange.started()
        if exchange.may_be_forged(request.method):
            refusal = await exchange.check(BytesBody(request.body), endpoint=lambda: handler)
            if refusal is not None:
                return await _page(request, refusal)
        request.ctx.session = await exchange.load()
        return None

    def _attend(self, request: Request, websocket: Any) -> None:
        connection: Any = asyncio.current_task()
        attending = accompany(asyncio.wait({connection}), _exchange_of(request), self.watch, websocket.close)
        request.ctx.session_attended = attended = asyncio.ensure_future(attending)
        # Nobody awaits it: what fails is logged, here when it does.
        attended.add_done_callback(lambda attended: attended.cancelled() or attended.result())

    async def _refuse(self, request: Request, error: UnavailableError) -> Any:
        return await _page(request, _exchange_of(request).refuse(error))


class _Request(Request):
    async def respond(self, response: BaseHTTPResponse | None = None, **options: Any) -> Any:
        answer, connection = await super().respond(response, **options), cast("Any", self.stream)
        exchange = _exchange_of(self)
        if exchange.is_served and isinstance(answer, BaseHTTPResponse):
            answer = connection.respond(own_copy(answer))
            answer._cookies = None  # noqa: SLF001 - they are of the other
            # No middleware of responses: Sanic swallows what one raises, and a stream's are over before it begins.
            answer.stream = SimpleNamespace(send=partial(self._send, exchange))
        return answer

    async def _send(self, exchange: Exchange, data: bytes, *, end_stream: bool) -> None:
        """Send a piece of the response: the session is stored before the first one, the exchange left with the last."""
        connection: Any = self.stream
        response = connection.response
        if connection.stage is Stage.HANDLER:
            exchange.answer_anew()
            given = self.ctx.session
            # A `Session` that is not its mapping was given up, with what had not been stored of it.
            if not isinstance(given, Session | adapters.UnloadedSession):
                (await exchange.load()).become(given)
            if refusal := await exchange.commit():
                response = connection.respond(own_copy(await _page(self, refusal)))
                data, end_stream = b"", True
            # What makes Sanic's JSON looks past the mapping's methods, and what sends a stream can look at any time.
            varies = isinstance(response, JSONResponse) or not (end_stream or "content-length" in response.headers)
            exchange.answer(response, varies=varies)
            if end_stream:
                exchange.leave()
            else:
                # A client that hangs up ends its connection's task, and then no last piece is sent.
                self.ctx.session_sent = sent = asyncio.get_running_loop().create_future()
                ends: Any = {sent, asyncio.current_task()}
                sending = asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
                self.ctx.session_attended = asyncio.ensure_future(accompany(sending, exchange))
        elif end_stream:
            self.ctx.session_sent.set_result(None)
            await self.ctx.session_attended
        if end_stream:
            response.stream = connection
        await connection.send(data, end_stream=end_stream)


async def _page(request: Any, refusal: Refusal) -> Any:
    said = refusal.rejection and {"code": refusal.rejection.code}
    error = Forbidden(refusal.said, context=said) if said else ServiceUnavailable()
    return await settled(request.app.error_handler.response(request, error))


def _exchange_of(request: Request) -> Exchange:
    extension: ServerSession = request.app.ctx.server_session
    return extension.sessions.exchange(MultiDictRequest.of(request))


adapters.find_request_by(lambda: Request._current.get(None))  # noqa: SLF001 - `get_current` raises outside of any

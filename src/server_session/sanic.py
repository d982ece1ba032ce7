"""Sessions for Sanic, on its own server and under ASGI: `ServerSession(app)` serves `request.ctx.session`."""

import asyncio
from copy import copy
from datetime import timedelta
from typing import Any, Unpack, cast

from sanic import HTTPResponse, Request
from sanic.exceptions import Forbidden, ServiceUnavailable
from sanic.response import BaseHTTPResponse, JSONResponse

from server_session import adapters
from server_session._colour import settled
from server_session._sessions import Extension, Sessions, Settings, chosen
from server_session._settings import seconds_if_given
from server_session.adapters import BytesBody, Exchange, Refusal, csrf_exempt, csrf_protect, headers_of
from server_session.exceptions import UnavailableError
from server_session.exchange.sockets import accompany
from server_session.http.frameworks import MultiDictRequest

__all__ = ["ServerSession", "csrf_exempt", "csrf_protect"]


class ServerSession(Extension):
    """Serves these sessions to an application, by default what `configure` made, or one of the keywords given here.

    With `watch`, seconds or a timedelta, Sanic's own server asks so often whether the session of an open WebSocket
    lives, and closes it if not.
    """

    def __init__(
        self,
        app: Any,
        sessions: Sessions | None = None,
        watch: float | timedelta | None = None,
        **settings: Unpack[Settings],
    ) -> None:
        self._sessions, self._watch = chosen(sessions, settings), seconds_if_given("watch", watch)
        app.ctx.server_session = self
        app.request_class = type("SessionRequest", (_Request, app.request_class or Request), {})
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
        attending = accompany(asyncio.wait({connection}), _exchange_of(request), self._watch, websocket.close)
        request.ctx.session_attended = asyncio.ensure_future(attending)

    async def _refuse(self, request: Request, error: UnavailableError) -> Any:
        return await _page(request, _exchange_of(request).refuse(error))


class _Request(Request):
    # No middleware of responses: Sanic swallows what one raises.
    async def respond(self, response: BaseHTTPResponse | None = None, **options: Any) -> Any:
        exchange, stream = _exchange_of(self), None if response else _Streamed(self, **options)
        answer = await self._connected(stream or response)
        if not exchange.is_served or not isinstance(answer, BaseHTTPResponse):
            return answer
        exchange.answer_anew()
        given = self.ctx.session
        if given is not exchange.stored.session and not isinstance(given, adapters.UnloadedSession):
            (await exchange.load()).become(given)
        if stream is not None:
            await exchange.commit_late()
        elif refusal := await exchange.commit():
            self.reset_response()
            answer = await self._connected(await _page(self, refusal))
        # What makes Sanic's JSON looks past the mapping's methods.
        varies = isinstance(answer, JSONResponse) or (stream and "content-length" not in stream.headers)
        exchange.answer(headers_of(answer), varies=bool(varies))
        if stream is None:
            exchange.leave()
        return answer

    async def _connected(self, response: Any) -> Any:
        answer, connection = await super().respond(response), cast("Any", self.stream)
        if isinstance(answer, BaseHTTPResponse) and not isinstance(answer, _Streamed):
            # Another: whoever made it may answer others with it, at the same time too.
            answer = connection.respond(copy(answer))
            answer.headers, answer._cookies = answer.headers.copy(), None  # noqa: SLF001 - they are of the other
        return answer


class _Streamed(HTTPResponse):
    def __init__(self, request: Request, **options: Any) -> None:
        super().__init__(**options)
        self.exchange = _exchange_of(request)

    async def send(self, data: Any = None, end_stream: bool | None = None) -> None:
        if self.exchange.is_served and (end_stream or (data is None and end_stream is None)):
            await self.exchange.commit_late()
            self.exchange.leave()
        await super().send(data, end_stream)


async def _page(request: Request, refusal: Refusal) -> Any:
    said = refusal.rejection and {"code": refusal.rejection.code}
    error = Forbidden(refusal.said, context=said, quiet=True) if said else ServiceUnavailable(quiet=True)
    pages: Any = request.app.error_handler
    page = pages.response(request, error)
    return await settled(page)


def _exchange_of(request: Request) -> Exchange:
    extension: ServerSession = request.app.ctx.server_session
    return extension.sessions.exchange(MultiDictRequest.of(request))


adapters.find_request_by(lambda: Request._current.get(None))  # noqa: SLF001 - `get_current` raises outside of any

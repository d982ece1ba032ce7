"""Sessions for Falcon, its WSGI and its ASGI applications: `ServerSession(app)` serves `req.context.session`."""

# ruff: noqa: SLF001 - Falcon shows neither its look-up, nor its pages, nor the pieces of a body

from collections.abc import Callable
from datetime import timedelta
from typing import Any, Unpack

from falcon import HTTPForbidden, HTTPServiceUnavailable, asgi

from server_session import adapters
from server_session._colour import drive
from server_session._sessions import Extension, Sessions, Settings, chosen
from server_session._settings import seconds_if_given
from server_session.adapters import Exchange, LazySession, Refusal, UnloadedSession, csrf_exempt, csrf_protect
from server_session.exceptions import UnavailableError
from server_session.exchange.sockets import accompany
from server_session.exchange.streams import astreamed
from server_session.http.carrier import current
from server_session.kernel.mapping import Session

__all__ = ["ServerSession", "csrf_exempt", "csrf_protect"]

_VIEW = "server_session.falcon.view"


class ServerSession(Extension):
    """Serves these sessions to an application, by default what `configure` made, or one of the keywords given here.

    With `watch`, seconds or a timedelta, so often it is asked whether the session of an open WebSocket lives; if not
    the socket is closed.
    """

    def __init__(
        self,
        app: Any,
        sessions: Sessions | None = None,
        watch: float | timedelta | None = None,
        **settings: Unpack[Settings],
    ) -> None:
        self._sessions = chosen(sessions, settings)
        middleware = _Middleware(self, app, seconds_if_given("watch", watch))
        app.add_middleware(middleware)
        refuse: Any = middleware.refuse_async if isinstance(app, asgi.App) else middleware.refuse
        app.add_error_handler(UnavailableError, refuse)


class _Middleware:
    def __init__(self, extension: ServerSession, app: Any, watch: float | None) -> None:
        self._extension, self._app, self._watch = extension, app, watch
        self._is_asgi = isinstance(app, asgi.App)
        # Of several on one application each has its own.
        self._token = f"server_session.falcon.{id(self)}"
        # Falcon asks its router once: a second look-up could find another view.
        self._find, app._router_search = app._router_search, self._search

    def _search(self, uri: str, req: Any) -> Any:
        found, exchange = self._find(uri, req=req), self._exchange_of(req)
        if found is None or found[0] is None:
            # A sink, or nothing: no middleware comes between, and what waits cannot be asked. So no body is read.
            if refusal := drive(exchange.checked(None, method=req.method)):
                raise _error_of(refusal)
            return found
        resource, responders, *rest = found
        responder = responders.get("WEBSOCKET" if req.is_websocket else req.method)
        exchange.request.slots[_VIEW] = (responder, resource)
        if not req.is_websocket or responder is None:
            return found

        async def serve(req: Any, ws: Any, **params: Any) -> None:
            await accompany(responder(req, ws, **params), exchange, self._watch, ws.close)

        return resource, {"WEBSOCKET": serve}, *rest

    def _exchange_of(self, req: Any) -> Exchange:
        request = adapters.AsgiRequest.of(req.scope) if self._is_asgi else adapters.WsgiRequest.of(req.env)
        return self._extension.sessions.exchange(request)

    def _begin(self, req: Any) -> Exchange:
        exchange = self._exchange_of(req)
        exchange.serve()
        exchange.request.slots[self._token] = current.set(exchange.request)
        return exchange

    def process_request(self, req: Any, _resp: Any) -> None:
        req.context.session = LazySession(self._begin(req).blocking.load)

    async def process_request_async(self, req: Any, _resp: Any) -> None:
        if not isinstance(req.scope["headers"], list | tuple):
            # An iterator, as Falcon's test client gives one: Falcon has read it to its end.
            req.scope["headers"] = [(name.lower().encode(), one.encode()) for name, one in req.headers.items()]
        exchange = self._begin(req)
        req.context.session = UnloadedSession(exchange.load)

    process_request_ws = process_request_async

    def process_resource(self, req: Any, _resp: Any, _resource: object, _params: Any) -> None:
        exchange = self._exchange_of(req)
        if exchange.may_be_forged(req.method):
            body, endpoint = adapters.WsgiBody(req.env), lambda: exchange.request.slots[_VIEW]
            refusal = exchange.blocking.check(body, endpoint=endpoint, method=req.method)
            req.stream = req.env["wsgi.input"]
            if refusal:
                raise _error_of(refusal)

    async def process_resource_async(self, req: Any, _resp: Any, _resource: object, _params: Any) -> None:
        exchange = self._exchange_of(req)
        if exchange.may_be_forged(req.method):
            # Falcon has received the first piece of the body already.
            first, receive = [req._first_event], req._receive

            async def again() -> Any:
                return (first.pop() if first else None) or await receive()

            body, endpoint = adapters.AsgiBody(again), lambda: exchange.request.slots[_VIEW]
            refusal = await exchange.check(body, endpoint=endpoint, method=req.method)
            req._first_event, req._receive = None, body.receive
            if refusal:
                raise _error_of(refusal)
        req.context.session = await exchange.load()

    process_resource_ws = process_resource_async

    def process_response(self, req: Any, resp: Any, _resource: object, _succeeded: bool) -> None:
        exchange = self._exchange_of(req)
        if not exchange.is_served:
            return
        given = req.context.session
        try:
            if not isinstance(given, LazySession):
                exchange.blocking.load().become(given)
            if isinstance(resp.media, LazySession):
                resp.media = resp.media.loaded()
                resp.media.mark_accessed()
            if refusal := exchange.blocking.commit():
                self._show(req, resp, refusal, {})
        finally:
            self._answer(exchange, req, resp, lambda body: adapters.StreamedBody(body, exchange.blocking))

    async def process_response_async(self, req: Any, resp: Any, _resource: object, _succeeded: bool) -> None:
        exchange = self._exchange_of(req)
        if not exchange.is_served:
            return
        given = req.context.session
        try:
            if not isinstance(given, Session | UnloadedSession):
                (await exchange.load()).become(given)
            if refusal := await exchange.commit():
                await self._show(req, resp, refusal, {})
        finally:
            self._answer(exchange, req, resp, lambda body: astreamed(body, exchange))

    def _answer(self, exchange: Exchange, req: Any, resp: Any, streamed: Callable[[Any], Any]) -> None:
        is_whole = resp.text is not None or resp.data is not None or resp.media is not None
        # A file is read by blocks, and has nothing to do with the session.
        is_streamed = not is_whole and resp.stream is not None and not hasattr(resp.stream, "read")
        events = getattr(resp, "sse", None)
        # What encodes media may look past the mapping's methods.
        is_seen = resp.media is not None and isinstance(req.context.session, Session)
        exchange.answer(adapters.headers_of(resp), varies=is_streamed or is_seen or events is not None)
        if events is not None:
            resp.sse = streamed(events)
        elif is_streamed and req.method != "HEAD":
            resp.stream = streamed(resp.stream)
        exchange.leave()
        current.reset(exchange.request.slots[self._token])

    def _show(self, req: Any, resp: Any, refusal: Refusal, params: Any) -> Any:
        """Show the application's own page; of what an error's handler raises Falcon makes its own."""
        error = _error_of(refusal)
        resp.text = resp.data = resp.media = resp.stream = None
        return self._app._find_error_handler(error)(req, resp, error, params)

    def refuse(self, req: Any, resp: Any, error: UnavailableError, params: Any) -> None:
        self._show(req, resp, self._exchange_of(req).refuse(error), params)

    async def refuse_async(self, req: Any, resp: Any, error: UnavailableError, params: Any, ws: Any = None) -> None:
        refusal = self._exchange_of(req).refuse(error)
        if ws is not None:
            raise _error_of(refusal)
        await self._show(req, resp, refusal, params)


def _error_of(refusal: Refusal) -> HTTPForbidden | HTTPServiceUnavailable:
    if refusal.rejection is None:
        return HTTPServiceUnavailable(description=refusal.said)
    code: Any = refusal.rejection.code
    return HTTPForbidden(description=refusal.said, code=code)

"""Sessions for Falcon, its WSGI and its ASGI applications: `ServerSession(app)` serves `req.context.session`."""

# ruff: noqa: SLF001 - Falcon shows neither its look-up, nor its pages, nor the pieces of a body

from functools import partial, wraps
from typing import Any, cast

from falcon import HTTPForbidden, HTTPServiceUnavailable, asgi

from server_session import adapters
from server_session._colour import drive, settled
from server_session._sessions import ApplicationExtension, Sessions, configured
from server_session.adapters import Exchange, LazySession, Refusal, UnloadedSession, csrf_exempt, csrf_protect
from server_session.exceptions import UnavailableError
from server_session.exchange.sockets import accompany
from server_session.exchange.streams import StreamedBody, aclose_body, astreamed, has_body
from server_session.http.carrier import current
from server_session.kernel.mapping import Session

__all__ = ["ServerSession", "csrf_exempt", "csrf_protect"]

_VIEW = "server_session.falcon.view"


class ServerSession(ApplicationExtension[Any]):
    """Serves these sessions to an application, by default what `configure` made, or one of the keywords given here.

    With `watch`, seconds or a timedelta between two questions to the store, a WebSocket closes when its session ends.
    """

    def init_app(self, app: Any) -> None:
        """Serve this application too."""
        middleware = _Middleware(app, self._sessions, self.watch)
        app.add_middleware(middleware)
        app.add_error_handler(UnavailableError, middleware.refuse_async if middleware.is_asgi else middleware.refuse)


class _Middleware:
    def __init__(self, app: Any, sessions: Sessions | None, watch: float | None) -> None:
        self._app, self._sessions, self._watch = app, sessions, watch
        self.is_asgi = isinstance(app, asgi.App)
        # Of several on one application each has its own.
        self._token = f"server_session.falcon.{id(self)}"
        # Falcon asks its router once: a second look-up could find another view.
        self._find, app._router_search = app._router_search, self._search

    def _exchange_of(self, req: Any) -> Exchange:
        request = adapters.AsgiRequest.of(req.scope) if self.is_asgi else adapters.WsgiRequest.of(req.env)
        return (self._sessions or configured()).exchange(request)

    def process_request(self, req: Any, _resp: Any) -> None:
        exchange = self._exchange_of(req)
        exchange.serve()
        exchange.request.slots[self._token] = current.set(exchange.request)
        req.context.session = UnloadedSession(exchange.load) if self.is_asgi else LazySession(exchange.blocking.load)

    async def process_request_async(self, req: Any, resp: Any) -> None:
        if not isinstance(req.scope["headers"], list | tuple):
            # An iterator, as Falcon's test client gives one: Falcon has read it to its end.
            req.scope["headers"] = [(name.lower().encode(), one.encode()) for name, one in req.headers.items()]
        self.process_request(req, resp)

    process_request_ws = process_request_async

    def _search(self, uri: str, req: Any) -> Any:
        found: Any = self._find(uri, req=req) or (None, {}, {}, None)
        resource, responders, *rest = found
        responder: Any = responders.get("WEBSOCKET" if req.is_websocket else req.method)
        exchange = self._exchange_of(req)
        view = exchange.request.slots[_VIEW] = (responder, resource)
        refusal = None
        if not self.is_asgi and exchange.may_be_forged(req.method):
            refusal = exchange.blocking.check(adapters.WsgiBody(req.env), endpoint=lambda: view, method=req.method)
            req.stream = req.env["wsgi.input"]
        elif resource is None:
            # A sink, or nothing: no middleware comes between, and what waits cannot be asked. So no body is read.
            refusal = drive(exchange.checked(None, method=req.method))
        if refusal:
            raise _error_of(refusal)
        if not req.is_websocket:
            return found

        @wraps(responder)  # Its marks go along, for the check of a ServerSession around this one.
        async def serve(req: Any, ws: Any, **params: Any) -> None:
            await accompany(responder(req, ws, **params), exchange, self._watch, ws.close)

        return resource, {"WEBSOCKET": serve}, *rest

    async def process_resource_async(self, req: Any, _resp: Any, _resource: object, _params: Any) -> None:
        exchange = self._exchange_of(req)
        if exchange.may_be_forged(req.method):
            # Falcon has received the first piece of the body already. Of a WebSocket, which has none, none is read.
            first, receive = [req._first_event], req._receive

            async def again() -> Any:
                return first.pop() if first else await receive()

            body, endpoint = adapters.AsgiBody(again), lambda: exchange.request.slots[_VIEW]
            refusal = await exchange.check(body, endpoint=endpoint, method=req.method)
            req._first_event, req._receive = None, body.receive
            if refusal:
                raise _error_of(refusal)
        req.context.session = await exchange.load()

    async def process_resource_ws(self, req: Any, ws: Any, resource: object, params: Any) -> None:
        try:
            await self.process_resource_async(req, ws, resource, params)
        except BaseException:
            # A handshake that is refused comes by no `process_response`.
            self._exchange_of(req).leave()
            raise

    async def process_response_async(self, req: Any, resp: Any, _resource: object, _succeeded: bool) -> None:
        exchange = self._exchange_of(req)
        if not exchange.is_served:
            return
        steps = exchange if self.is_asgi else exchange.blocking
        given = req.context.session
        try:
            if not isinstance(given, Session | UnloadedSession | LazySession):
                (await settled(steps.load())).become(given)
            elif resp.media is given:
                resp.media = await settled(steps.load())
                resp.media.mark_accessed()
            if refusal := await settled(steps.commit()):
                await self.refuse_async(req, resp, refusal.error, {})
        except UnavailableError as error:
            await self.refuse_async(req, resp, error, {})
        finally:
            # Falcon sends events rather than a whole body, and that rather than a stream.
            name = "sse" if getattr(resp, "sse", None) is not None else "stream"
            body: Any = getattr(resp, name)
            is_whole = name == "stream" and (resp.text is not None or resp.data is not None or resp.media is not None)
            # A file is read by blocks, and has nothing to do with the session.
            is_streamed = body is not None and not is_whole and not hasattr(body, "read")
            # What encodes media may look past the mapping's methods.
            is_seen = resp.media is not None and isinstance(req.context.session, Session)
            exchange.answer(resp, varies=is_streamed or is_seen)
            if is_streamed and has_body(req.method, resp.status_code):
                # Falcon closes a stream, and no events.
                stream: Any = partial(astreamed, closes=name == "stream") if self.is_asgi else StreamedBody
                setattr(resp, name, stream(body, steps))
            exchange.leave()
            current.reset(exchange.request.slots[self._token])

    def process_response(self, req: Any, resp: Any, resource: object, succeeded: bool) -> None:
        drive(self.process_response_async(req, resp, resource, succeeded))

    async def refuse_async(self, req: Any, resp: Any, error: Any, params: Any, ws: Any = None) -> None:
        """Show the application's own page; of what an error's handler raises Falcon makes its own."""
        refused = _error_of(self._exchange_of(req).refuse(error))
        if ws is not None:
            raise refused
        await aclose_body(resp.stream)
        resp.stream = resp.sse = None
        await settled(self._app._handle_exception(req, resp, refused, params))

    def refuse(self, req: Any, resp: Any, error: UnavailableError, params: Any) -> None:
        drive(self.refuse_async(req, resp, error, params))


def _error_of(refusal: Refusal) -> HTTPForbidden | HTTPServiceUnavailable:
    if refusal.rejection is None:
        return HTTPServiceUnavailable(description=refusal.said)
    return HTTPForbidden(description=refusal.said, code=cast("Any", refusal.rejection.code))

"""Sessions for any ASGI application (HTTP and WebSocket), under asyncio and trio."""

import logging
import sys
from collections.abc import Awaitable, Callable, Iterable, Mapping, MutableMapping
from contextlib import suppress
from datetime import timedelta
from typing import Any, Final, TypeAlias, Unpack

from server_session._colour import beside
from server_session._sessions import Sessions, Settings, chosen, configured
from server_session._settings import require, seconds_if_given
from server_session.csrf.decorators import note_unheard
from server_session.csrf.refusals import Refusal
from server_session.exceptions import ResponseStartedError, StoreError, UnavailableError
from server_session.exchange import Exchange
from server_session.exchange.sockets import CLOSE_CODES, close_at_end
from server_session.http.body import AsgiBody
from server_session.http.carrier import current
from server_session.http.kinds import Kinds
from server_session.http.requests import AsgiRequest
from server_session.http.responses import AsgiHeaders
from server_session.kernel.mapping import Session
from server_session.kernel.unloaded import UnloadedSession

__all__ = ["SessionMiddleware"]

Scope: TypeAlias = MutableMapping[str, Any]
Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
Application: TypeAlias = Callable[[Any, Any, Any], Awaitable[None]]

_LOG: Final = logging.getLogger("server_session")

# What starts a response, or lets a WebSocket in: the last moment at which a cookie can be set.
_STARTS: Final = frozenset({"http.response.start", "websocket.accept", "websocket.http.response.start"})
_LENGTH: Final = frozenset({b"content-length", b"Content-Length"})
# Applications that tell by the mapping itself who asked for it; of all others C code may have looked past its methods.
_TELLING: Final = Kinds[bool]({"starlette.applications.Starlette": True})
# The types of what an application puts in the session's place to end it.
_NOTHING: Final = frozenset({"builtins.NoneType", "litestar.types.empty._EmptyEnum", "litestar.types.empty.Empty"})
# How many middlewares may stand around a router.
_DEEPEST: Final = 100
# The modules of other middlewares' mappings.
_OTHERS: Final = ("starlette.middleware.", "starsessions.", "litestar.middleware.")


class SessionMiddleware:
    """Serves `scope["session"]` and the functions to an ASGI application.

    Args:
        app: the application.
        sessions: a `Sessions`; by default what `configure` made, or one of the keywords given here.
        autoload: whether `scope["session"]` is loaded before the application is called, where a cookie is present:
            True, False, or a function of the scope. Not loaded it is an object with `await session.load()`. The
            functions are always lazy.
        watch: seconds or a timedelta between two questions to the store whether the session of an open WebSocket
            still lives. One that was ended or renewed is closed with 1008; so is, with 1013, one whose store fails
            twice in a row. By default nobody asks.
        endpoint: returns the function or class that will serve a scope, `None` where it is not known. By default it is
            asked of the routers of Starlette and FastAPI.
        settings: the keywords of `configure`, for sessions of this application's own.

    A request that another site may have forged is a response 403 (see `CSRF`). Which endpoint will serve it is known
    under Starlette and FastAPI, in mounted applications too; where it is not known nothing is exempt. A middleware
    that changes a request's path or method belongs before this one, so that what is checked is what is served.
    A store that does not answer is a 503, if no other response has started.

    """

    checks = True
    """Whether it checks each request: an adapter may do so where its framework knows the endpoint."""
    tells = False
    """Whether the mapping hears itself of whoever asks the framework's request for it."""

    def __init__(
        self,
        app: Application,
        sessions: Sessions | None = None,
        autoload: bool | Callable[[Scope], bool] = True,
        watch: float | timedelta | None = None,
        endpoint: Callable[[Scope], object] | None = None,
        **settings: Unpack[Settings],
    ) -> None:
        require(isinstance(autoload, bool) or callable(autoload), "autoload", "True, False or a function", autoload)
        self.app = app
        self._endpoint = endpoint
        self._sessions = chosen(sessions, settings)
        self.autoload = autoload
        # Whether each warning that is logged once has been.
        self._warned_of_marks = self._warned_of_other = False
        self._watch = seconds_if_given("watch", watch)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if scope["type"] != "http" and scope["type"] != "websocket":
            await self.app(scope, receive, send)
            return
        sessions = self._sessions or configured()
        request = AsgiRequest.of(scope)
        if request.slots is not scope:
            request.see(scope)
        exchange = sessions.exchange(request)
        exchange.serve()
        connection = _Connection(self, exchange, scope, send)
        token = current.set(request)
        try:
            if self._watch is not None and scope["type"] == "websocket":
                await beside(connection.serve(receive), close_at_end(exchange, self._watch, connection.close))
            else:
                await connection.serve(receive)
        finally:
            exchange.leave()
            current.reset(token)

    def endpoint_of(self, scope: Scope) -> object:
        """Return the endpoint that will serve a request, `None` where it is not known."""
        if self._endpoint is not None:
            return self._endpoint(scope)
        if (routes := _routes_of(self.app)) is not None:
            return _endpoint_in(routes, scope)
        # Around a single route: its router has found it. Of what is mounted that names an application.
        endpoint = scope.get("endpoint")
        if endpoint is None or hasattr(endpoint, "app"):
            self._warned_of_marks = self._warned_of_marks or note_unheard()
            return None
        return endpoint

    def page(self, refusal: Refusal) -> Application | None:  # noqa: ARG002 - for adapters, whose frameworks have pages
        """Return the application that answers a request that is refused; by default it is answered as it is."""
        return None

    def note_other(self) -> None:
        """Warn once that another middleware beneath this one has a session of its own."""
        if not self._warned_of_other:
            self._warned_of_other = True
            _LOG.warning(
                'another middleware has put a session of its own in the place of scope["session"], and nothing of it '
                "is kept on the server: leave it out (Starlette's SessionMiddleware, NiceGUI's storage_secret, "
                "FastHTML's sess_cls=None), or give it another name of the cookie and use the functions"
            )


class _Connection:
    """One connection of ASGI's: its exchange, and the messages that start and end the response."""

    _started = _closed = _cut_off = False
    _session: object = None
    # Why the session could not be stored when the response was to start.
    _failure: UnavailableError | None = None

    def __init__(self, middleware: SessionMiddleware, exchange: Exchange, scope: Scope, send: Send) -> None:
        self._middleware = middleware
        self._exchange = exchange
        self._scope = scope
        self._send = send

    async def serve(self, receive: Receive) -> None:
        exchange, middleware, scope = self._exchange, self._middleware, self._scope
        method = scope["method"] if "method" in scope else "GET"  # noqa: SIM401 - each request comes by here
        if middleware.checks and exchange.may_be_forged(method):
            body = AsgiBody(receive)
            refusal = await exchange.check(body, endpoint=lambda: middleware.endpoint_of(scope))
            receive = body.receive
            if refusal is not None:
                await self._refuse(refusal, receive)
                return
        try:
            wanted = middleware.autoload
            if wanted is True or not exchange.stored.has_cookie or (wanted and wanted(scope)):
                scope["session"] = self._session = await exchange.load()
            else:
                scope["session"] = self._session = UnloadedSession(self._load)
            try:
                await middleware.app(scope, receive, self._start)
            finally:
                if self._failure is not None:
                    # Raised whatever the application has made of it: frameworks wrap it, or hide it.
                    raise self._failure
                if "session" not in scope or scope["session"] is not self._session:
                    await self._take()
                if self._started and exchange.is_pending:
                    # What a streamed body, a background task or a WebSocket has changed since the start.
                    await exchange.commit_late()
        except UnavailableError as error:
            if self._started:
                raise
            refusal = exchange.refuse(error)
            # A write that was not answered may have swapped the cookie all the same.
            await self._refuse(await exchange.commit() or refusal, receive)

    async def _load(self) -> Session:
        session = self._scope["session"] = self._session = await self._exchange.load()
        return session

    async def _take(self) -> None:
        """Take what the application has put in the mapping's place as what is to be stored; `None` ends the session."""
        given = self._scope.get("session")
        if isinstance(given, Session | UnloadedSession):
            # A middleware of ours further in serves other sessions.
            return
        kind = given if isinstance(given, type) else type(given)
        if f"{kind.__module__}.{kind.__qualname__}" in _NOTHING:
            (await self._load()).clear()
        elif isinstance(given, Mapping) and not _is_others(kind):
            (await self._load()).become(given)
        else:
            self._middleware.note_other()

    async def close(self, code: int) -> None:
        """Close an open WebSocket."""
        if not self._closed:
            self._cut_off = True
            # The connection may have gone meanwhile, and then the server says so.
            with suppress(OSError, RuntimeError):
                await self._send({"type": "websocket.close", "code": code, "reason": "session ended"})

    async def _start(self, message: Message) -> None:
        if self._cut_off or self._failure is not None:
            # The application may not know yet. What it sends goes nowhere, as with a visitor who has left.
            return
        kind, exchange, scope = message["type"], self._exchange, self._scope
        if kind in _STARTS and not self._started:
            if "session" not in scope or scope["session"] is not self._session:
                await self._take()
            has_answer = exchange.has_answer
            if has_answer and exchange.is_pending:
                # Saved before the browser can hear of it, and whatever the status.
                try:
                    await exchange.commit_late()
                except UnavailableError as error:
                    self._failure = error
                    raise
            # The response depends on the session where the application asked for it, or may have unseen: a body of
            # unknown length is still to be made, and C code reads a mapping past its methods.
            # The headers may be iterated only once: Sanic's are a generator.
            raw = [*message["headers"]] if "headers" in message else []
            is_streamed = kind == "http.response.start"
            for name, _ in raw:
                if name in _LENGTH:
                    is_streamed = False
            tells = self._middleware.tells or ("app" in scope and _TELLING[scope["app"].__class__])
            if has_answer or is_streamed or not (tells or self._session.__class__ is UnloadedSession):
                headers = AsgiHeaders(raw)
                exchange.write_headers(headers)
                raw = headers.raw
            # A new message: the sender may keep its own, as a cache does, and must not keep the visitor's cookie.
            message = {**message, "headers": raw}
            self._started = True
            exchange.started()
        elif kind == "websocket.close":
            self._closed = True
            if not self._started:
                # Turned away: no header of ours can reach the browser, and what would need one is logged as lost.
                exchange.started()
                with suppress(ResponseStartedError):
                    await exchange.commit_late()
            elif exchange.is_pending:
                await exchange.commit_late()
        await self._send(message)

    async def _refuse(self, refusal: Refusal, receive: Receive) -> None:
        page = self._middleware.page(refusal) if self._scope["type"] == "http" else None
        if page is not None:
            self._failure = None
            self._scope["session"] = self._session = UnloadedSession(self._load)
            if refusal.error is None:
                # A page may say who is logged in.
                with suppress(StoreError):
                    await self._load()
            await page(self._scope, receive, self._start)
            return
        self._started = True
        if self._scope["type"] == "websocket":
            # Before the handshake is answered this is a 403 to the browser.
            code = CLOSE_CODES[refusal.status]
            await self._send({"type": "websocket.close", "code": code, "reason": refusal.phrase})
            return
        headers = AsgiHeaders(
            (name.lower().encode("ascii"), value.encode("latin-1")) for name, value in refusal.headers
        )
        if self._exchange.stored.changes_cookie:
            # What was done before the store failed is done: the cookie that the browser has may hold no more.
            self._exchange.write_headers(headers)
        await self._send({"type": "http.response.start", "status": refusal.status, "headers": headers.raw})
        await self._send({"type": "http.response.body", "body": refusal.body})


def _is_others(kind: type) -> bool:
    """Tell whether a mapping of this type is another middleware's."""
    signed = sys.modules.get("starlette.middleware.sessions")
    # Starlette's was a plain dict once.
    was_plain = signed is not None and not hasattr(signed, "Session")
    return kind.__module__.startswith(_OTHERS) or (kind is dict and was_plain)


# --- which endpoint will serve a request, as the routers of Starlette and FastAPI find it, without importing them


def _routes_of(application: object) -> Iterable[Any] | None:
    """Return the routes of an application of Starlette's or FastAPI's, `None` where it is none.

    `application` may be what a middleware wraps: the router is looked for behind as many as keep theirs as `.app`.
    """
    # Not scope["app"]: for a middleware around a mounted application it is the outer one.
    for _ in range(_DEEPEST):
        routes: Iterable[Any] | None = getattr(application, "routes", None)
        if routes is not None and all(hasattr(route, "matches") for route in routes):
            return routes
        # A router's own middlewares stand around a method of it.
        application = getattr(application, "app", None) or getattr(application, "__self__", None)
    return None


def _endpoint_in(routes: Iterable[Any], scope: Mapping[str, Any]) -> object:
    """Return the endpoint that a router of these routes will choose, `None` where it finds none."""
    # FastAPI keeps an included router as one route that does not tell which endpoint it chooses.
    flatten: Any = getattr(sys.modules.get("fastapi.routing"), "iter_route_contexts", iter)
    for route in flatten(routes):
        match, child = route.matches(scope)
        if match.name == "FULL":
            inner = getattr(route, "routes", None)
            # What is mounted, and is no application of Starlette's, is an endpoint itself.
            return _endpoint_in(inner, {**scope, **child}) if inner else child.get("endpoint")
    return None

"""Sessions for any ASGI application (HTTP and WebSocket), under asyncio and trio."""

import logging
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import suppress
from datetime import timedelta
from typing import Any, Final, TypeAlias, Unpack

from server_session._body import read_asgi_token
from server_session._carrier import current, state_of
from server_session._colour import beside, home, pause
from server_session._durations import seconds_of
from server_session._guard import guard_of
from server_session._lifecycle import Answer, State, Visit
from server_session._refusal import Refusal, unavailable, withheld
from server_session._request import AsgiRequest
from server_session._response import AsgiHeaders
from server_session._routes import endpoint_in
from server_session._session import Session, UnloadedSession
from server_session._sessions import Sessions, Settings, chosen, configured
from server_session.exceptions import CookieWithheldError, StoreError

__all__ = ["SessionMiddleware"]

Scope: TypeAlias = MutableMapping[str, Any]
Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
Application: TypeAlias = Callable[[Any, Any, Any], Awaitable[None]]

_LOG: Final = logging.getLogger("server_session")

# What starts a response, or lets a WebSocket in: the last moment at which a cookie can be set.
_STARTS: Final = frozenset({"http.response.start", "websocket.accept", "websocket.http.response.start"})
# RFC 6455, 7.4.1, and the registry: "policy violation" and "try again later".
_CLOSE_CODES: Final = {403: 1008, 503: 1013}
_FAILURES: Final = 2


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
        settings: the keywords of `configure`, for sessions of this application's own.

    A request that another site may have forged is a response 403 (see `CSRF`). Which endpoint will serve it is known
    under Starlette and FastAPI, in mounted applications too; where it is not known nothing is exempt. A middleware
    that changes a request's path or method belongs before this one, so that what is checked is what is served.
    A store that does not answer is a 503, if no other response has started.

    """

    def __init__(
        self,
        app: Application,
        sessions: Sessions | None = None,
        autoload: bool | Callable[[Scope], bool] = True,
        watch: float | timedelta | None = None,
        **settings: Unpack[Settings],
    ) -> None:
        self.app = app
        self._sessions = chosen(sessions, settings)
        self._autoload = autoload
        self._watch = None if watch is None else seconds_of("watch", watch)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        connection = _Connection(self._sessions or configured(), scope, send)
        token = current.set(connection.request)
        try:
            served = connection.serve(
                self.app,
                receive,
                autoload=self._autoload,
                endpoint=lambda: endpoint_in(self.app, scope),
            )
            if self._watch is not None and scope["type"] == "websocket":
                served = beside(served, connection.watch(self._watch))
            await served
        finally:
            current.reset(token)


class _Connection:
    def __init__(self, sessions: Sessions, scope: Scope, send: Send) -> None:
        self._sessions = sessions
        self._scope = scope
        self._send = send
        self._started = False
        self._closed = False
        self._cut_off = False
        self._is_mapped = False
        self.request = AsgiRequest(scope)
        state = state_of(self.request)
        state.home = home()
        state.served.append(sessions)
        self._visit: Visit = sessions.visit(self.request)
        self._visit.answer = Answer.OPEN

    async def serve(
        self,
        app: Application,
        receive: Receive,
        *,
        autoload: bool | Callable[[Scope], bool],
        endpoint: Callable[[], object],
    ) -> None:
        try:
            receive, refusal = await self._check(receive, endpoint)
            if refusal is not None:
                await self._refuse(refusal)
                return
            wanted = autoload(self._scope) if callable(autoload) else autoload
            if wanted or not self._visit.has_cookie:
                await self._load()
            else:
                self._scope["session"] = UnloadedSession(self._load)
            try:
                await app(self._scope, receive, self._start)
            finally:
                if self._started:
                    # What a streamed body, a background task or a WebSocket has changed since the start.
                    await self._sessions.run_awaiting(self._visit.commit())
        except StoreError as error:
            if self._started:
                raise
            _LOG.error("a request was answered with 503, for the session store failed: %s", error)
            await self._refuse(unavailable())
        except CookieWithheldError as error:
            if self._started:
                raise
            _LOG.warning("a request was answered with 403: %s", error)
            await self._refuse(withheld(self.request.header_values(b"accept")))

    async def _check(self, receive: Receive, endpoint: Callable[[], object]) -> tuple[Receive, Refusal | None]:
        """Return the receive to go on with, and the answer to a request that another site may have forged."""
        guard = guard_of(self._sessions, self.request, endpoint)
        if guard is None:
            return receive, None
        if guard.needs_token:
            token = guard.token_in_header()
            if token is None:
                token, receive = await read_asgi_token(receive, guard.content_type, guard.field)
            await self._sessions.run_awaiting(guard.weigh(self._visit, token))
        rejection = guard.conclude(self._visit)
        return receive, None if rejection is None else guard.refusal(rejection)

    async def _load(self) -> Session:
        session = await self._sessions.run_awaiting(self._visit.load())
        self._scope["session"] = session
        self._is_mapped = True
        return session

    async def watch(self, seconds: float) -> None:
        """Close an open WebSocket when its session has been ended or renewed (OWASP ASVS 5.0, 7.4.1)."""
        failures = 0
        was_live = False
        while not self._closed:
            await pause(seconds)
            if not self._started:
                continue
            was_live |= self._visit.state is State.LIVE
            try:
                alive = await self._sessions.run_awaiting(self._visit.is_alive())
                failures = 0
            except Exception:  # noqa: BLE001 - a driver's own error closes the socket too
                # Whatever it is, a socket that nobody watches any more must not stay open.
                _LOG.exception("whether a WebSocket's session lives could not be asked")
                failures += 1
                alive = failures < _FAILURES
            was_live |= alive and not failures
            if not was_live:
                # A visitor without a session has none that could be ended.
                return
            if not alive:
                code = _CLOSE_CODES[503 if failures else 403]
                self._closed = self._cut_off = True
                # The connection may have gone meanwhile, and then the server says so.
                with suppress(OSError, RuntimeError):
                    await self._send({"type": "websocket.close", "code": code, "reason": "session ended"})

    async def _start(self, message: Message) -> None:
        if self._cut_off:
            # The application may not know yet. What it sends goes nowhere, as with a visitor who has left.
            return
        if message["type"] in _STARTS and not self._started:
            # Saved before the browser can hear of it, and whatever the status.
            await self._sessions.run_awaiting(self._visit.commit())
            headers = AsgiHeaders(message.get("headers", ()))
            # C code can look at a mapping past its methods; where the framework does not say who asked for it, any did.
            self._visit.accessed |= self._is_mapped and "app" not in self._scope
            self._sessions.answer(self.request, self._visit, headers)
            message["headers"] = headers.raw
            self._started = True
            self._visit.answer = Answer.STARTED
        elif message["type"] == "websocket.close":
            self._closed = True
            if not self._started:
                # Turned away: no header of ours can reach the browser.
                self._visit.answer = Answer.STARTED
            await self._sessions.run_awaiting(self._visit.commit())
        await self._send(message)

    async def _refuse(self, refusal: Refusal) -> None:
        self._started = True
        if self._scope["type"] == "websocket":
            # Before the handshake is answered this is a 403 to the browser.
            await self._send(
                {"type": "websocket.close", "code": _CLOSE_CODES[refusal.status], "reason": refusal.phrase}
            )
            return
        headers = [(name.lower().encode("ascii"), value.encode("latin-1")) for name, value in refusal.headers]
        await self._send({"type": "http.response.start", "status": refusal.status, "headers": headers})
        await self._send({"type": "http.response.body", "body": refusal.body})

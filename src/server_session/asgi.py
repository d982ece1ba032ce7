"""Sessions for any ASGI application (HTTP and WebSocket), under asyncio and trio."""

import logging
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final, TypeAlias, Unpack

from server_session._carrier import current, state_of
from server_session._colour import home
from server_session._lifecycle import Answer, Visit
from server_session._request import AsgiRequest
from server_session._response import AsgiHeaders
from server_session._session import Session, UnloadedSession
from server_session._sessions import Sessions, Settings, chosen, configured
from server_session.exceptions import StoreError

__all__ = ["SessionMiddleware"]

Scope: TypeAlias = MutableMapping[str, Any]
Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
Application: TypeAlias = Callable[[Any, Any, Any], Awaitable[None]]

_LOG: Final = logging.getLogger("server_session")

# What starts a response, or lets a WebSocket in: the last moment at which a cookie can be set.
_STARTS: Final = frozenset({"http.response.start", "websocket.accept", "websocket.http.response.start"})
_TRY_AGAIN_LATER: Final = 1013


class SessionMiddleware:
    """Serves `scope["session"]` and the functions to an ASGI application.

    Args:
        app: the application.
        sessions: a `Sessions`; by default what `configure` made, or one of the keywords given here.
        autoload: whether `scope["session"]` is loaded before the application is called, where a cookie is present:
            True, False, or a function of the scope. Not loaded it is an object with `await session.load()`. The
            functions are always lazy.
        settings: the keywords of `configure`, for sessions of this application's own.

    A store that does not answer is a response 503, if no other has started.

    """

    def __init__(
        self,
        app: Application,
        sessions: Sessions | None = None,
        autoload: bool | Callable[[Scope], bool] = True,
        **settings: Unpack[Settings],
    ) -> None:
        self.app = app
        self._sessions = chosen(sessions, settings)
        self._autoload = autoload

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        connection = _Connection(self._sessions or configured(), scope, send)
        token = current.set(connection.request)
        try:
            await connection.serve(self.app, receive, autoload=self._autoload)
        finally:
            current.reset(token)


class _Connection:
    def __init__(self, sessions: Sessions, scope: Scope, send: Send) -> None:
        self._sessions = sessions
        self._scope = scope
        self._send = send
        self._started = False
        self.request = AsgiRequest(scope)
        state = state_of(self.request)
        state.home = home()
        state.served.append(sessions)
        self._visit: Visit = sessions.visit(self.request)
        self._visit.answer = Answer.OPEN

    async def serve(self, app: Application, receive: Receive, *, autoload: bool | Callable[[Scope], bool]) -> None:
        try:
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
            await self._refuse()

    async def _load(self) -> Session:
        session = await self._sessions.run_awaiting(self._visit.load())
        self._scope["session"] = session
        return session

    async def _start(self, message: Message) -> None:
        if message["type"] in _STARTS and not self._started:
            # Saved before the browser can hear of it, and whatever the status.
            await self._sessions.run_awaiting(self._visit.commit())
            headers = AsgiHeaders(message.get("headers", ()))
            self._sessions.answer(self.request, self._visit, headers)
            message["headers"] = headers.raw
            self._started = True
            self._visit.answer = Answer.STARTED
        elif message["type"] == "websocket.close":
            if not self._started:
                # Turned away: no header of ours can reach the browser.
                self._visit.answer = Answer.STARTED
            await self._sessions.run_awaiting(self._visit.commit())
        await self._send(message)

    async def _refuse(self) -> None:
        self._started = True
        if self._scope["type"] == "websocket":
            await self._send({"type": "websocket.close", "code": _TRY_AGAIN_LATER, "reason": "sessions unavailable"})
            return
        headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"cache-control", b"no-store")]
        await self._send({"type": "http.response.start", "status": 503, "headers": headers})
        await self._send({"type": "http.response.body", "body": b"Sessions are unavailable now. Try again later.\n"})

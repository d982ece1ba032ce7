"""Sessions for Tornado: `self.session` in handlers, the functions, and the check for forged requests."""

from asyncio import Future, ensure_future
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from typing import Any

from tornado.httputil import HTTPServerRequest
from tornado.iostream import StreamClosedError
from tornado.web import Application, RequestHandler
from tornado.websocket import WebSocketHandler

from server_session._colour import beside, settled
from server_session._sessions import configured
from server_session._settings import seconds_if_given
from server_session.adapters import BytesBody, Exchange, Refusal, close_at_end, csrf_exempt, csrf_protect
from server_session.exceptions import SessionError, SessionNotLoadedError, UnavailableError
from server_session.exchange.templates import template_functions
from server_session.http.frameworks import TornadoRequest
from server_session.kernel.mapping import Session

__all__ = ["SessionHandler", "SessionWebSocketHandler", "csrf_exempt", "csrf_protect"]


class SessionHandler(RequestHandler):
    """A handler with `self.session`; it may be mixed in before another.

    The application's setting `sessions` is a `Sessions`; without it they are what `configure` made. What is refused, a
    forged request (403) or one for which the store does not answer (503), goes to `write_error`. The functions take
    `self`, as the request and as the response. Templates have `csrf_token()`, and `{% raw csrf_input() %}`; Tornado's
    own `xsrf_form_html()` and `xsrf_token` are the session's too, unless that checks nothing (`csrf=None`).
    """

    _session: Session | None = None
    _finishing: "Future[None] | None" = None
    _is_stored = False

    @property
    def session(self) -> Session:
        """The request's session, a whole `dict`; raises `SessionNotLoadedError` before it was loaded."""
        if self._session is None:
            raise SessionNotLoadedError("there is no session before `prepare`, nor where its store does not answer")
        self._session.mark_accessed()
        return self._session

    def __init__(self, application: Application, request: HTTPServerRequest, **kwargs: Any) -> None:
        super().__init__(application, request, **kwargs)
        sessions = application.settings.get("sessions") or configured()
        self._exchange: Exchange = sessions.exchange(TornadoRequest.of(request))
        # It is called when the route is known, and before anything of the handler's own.
        self.prepare = partial(self._begin, self.prepare)  # type: ignore[method-assign]

    async def _execute(self, transforms: list[Any], *args: bytes, **kwargs: bytes) -> None:
        exchange = self._exchange
        exchange.serve()
        try:
            with exchange.serving():
                # Before anything is refused: a page of an error may say who is logged in. What fails `_begin` tells.
                with suppress(Exception):
                    self._session = await exchange.load()
                await super()._execute(transforms, *args, **kwargs)
                if self._finishing is not None:
                    # Of a visitor who has gone Tornado tells the handler that waits for it, and nobody else.
                    with suppress(StreamClosedError):
                        await self._finishing
                await exchange.commit_late()
        finally:
            exchange.leave()
            if not self._finished or (self._finishing is not None and not self._is_stored):
                self._cut()

    async def _begin(self, prepare: Callable[[], Awaitable[None] | None]) -> None:
        if (refusal := await self._check()) is None:
            self._session = await self._exchange.load()
            await settled(prepare())
            # It may have changed the method, by which the one that serves is chosen.
            refusal = None if self._finished else await self._check()
        if refusal is not None:
            self.send_error(refusal.status)

    async def _check(self) -> Refusal | None:
        exchange, method = self._exchange, self.request.method or ""
        if not exchange.may_be_forged(method):
            return None
        return await exchange.check(BytesBody(self.request.body), endpoint=lambda: type(self), method=method)

    def _cut(self) -> None:
        """End the response so that its client sees that it is not whole."""
        self._finished = True
        self.request.connection.close()  # type: ignore[union-attr]

    def flush(self, include_footers: bool = False, *, is_stored: bool = False) -> "Future[None]":
        """Send what was written; before the first of it the session is stored, unless it is just then."""
        # With footers it is the end, before which it was stored. What the handler still holds can differ again at once.
        if not (include_footers or is_stored or self._headers_written) and self._exchange.is_pending:
            flushing = ensure_future(self._store_and_flush())
            # Nobody need wait for it: what is still to be stored is then stored, or fails, at the end.
            flushing.add_done_callback(lambda flushed: flushed.cancelled() or flushed.exception())
            return flushing
        if not self._headers_written:
            self._exchange.answer(self, varies=not include_footers)
        return super().flush(include_footers)

    async def _store_and_flush(self) -> None:
        await self._exchange.commit_late()
        if not self._finished:
            await SessionHandler.flush(self, is_stored=True)

    def finish(self, chunk: str | bytes | dict[Any, Any] | None = None) -> "Future[None]":
        """End the response; before that the session is stored."""
        if self._finished or self._is_stored or not self._exchange.is_pending:
            return super().finish(chunk)
        self.write(b"" if chunk is None else chunk)
        # Finished for the handler already: it may not write, or finish, while the store is awaited.
        self._finished, self._finishing = True, ensure_future(self._store_and_finish())
        return self._finishing

    async def _store_and_finish(self) -> None:
        exchange = self._exchange
        try:
            await exchange.commit_late()
        except SessionError as error:
            exchange.stored.abandon()
            # A write that was not answered may have swapped the cookie all the same.
            await exchange.commit()
            self._is_stored, self._finished = True, False
            self._handle_request_exception(error)
        else:
            self._is_stored, self._finished = True, False
            await super().finish()

    def send_error(self, status_code: int = 500, **kwargs: Any) -> None:
        """Send an error's page; that of a session that cannot be had is of 503, or 403."""
        _, error, _ = kwargs.get("exc_info", (None, None, None))
        if isinstance(error, SessionError) and self._headers_written:
            self._cut()
            return
        if isinstance(error, UnavailableError):
            status_code = self._exchange.refuse(error).status
        super().send_error(status_code, **kwargs)

    def get_template_namespace(self) -> dict[str, Any]:
        """Return what Tornado gives to templates, and `csrf_token()` and its like."""
        return {**template_functions(lambda: self._exchange), **super().get_template_namespace()}

    @property
    def xsrf_token(self) -> bytes:
        """A token, of the session."""
        return super().xsrf_token if self._exchange.sessions.csrf is None else self._exchange.csrf_token().encode()

    def xsrf_form_html(self) -> str:
        """Return the hidden input with a token, of the session."""
        if self._exchange.sessions.csrf is None:
            return super().xsrf_form_html()
        return template_functions(lambda: self._exchange)["csrf_input"]()

    def check_xsrf_cookie(self) -> None:
        """Leave the check to the session's, which has passed."""
        if self._exchange.sessions.csrf is None:
            super().check_xsrf_cookie()


class SessionWebSocketHandler(SessionHandler, WebSocketHandler):
    """A WebSocket with `self.session`, which is stored when it closes, and at `await self.session.save()`.

    With the application's setting `session_watch`, seconds or a timedelta between two questions to the store, a socket
    whose session has ended is closed (1008), and one whose store fails twice (1013).
    """

    async def get(self, *args: Any, **kwargs: Any) -> None:
        """Open the socket; what `prepare` wrote is stored before, for the handshake bears its cookie."""
        if refusal := await self._exchange.commit():
            self.send_error(refusal.status)
            return
        # The handshake is sent by a `finish` that is not waited for; what is written from now on is stored at the end.
        self._is_stored = True
        seconds = seconds_if_given("session_watch", self.settings.get("session_watch"))
        opened, close = super().get(*args, **kwargs), partial(self.close, reason="session ended")
        await (opened if seconds is None else beside(opened, close_at_end(self._exchange, seconds, close)))

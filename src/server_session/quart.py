"""Sessions for Quart: `quart.session` on the server, the functions, and the check for CSRF.

```python
app = Quart(__name__)
ServerSession(app, max_age=timedelta(minutes=30))
```
"""

from collections.abc import Awaitable, Callable
from typing import Any, cast

import quart
from werkzeug.exceptions import ServiceUnavailable

from server_session import adapters, flask
from server_session._sessions import ApplicationExtension
from server_session.adapters import AsgiRequest, csrf_exempt, csrf_protect
from server_session.asgi import Receive, Scope, Send, SessionMiddleware
from server_session.exceptions import SessionError, StoreError, UnavailableError
from server_session.exchange.streams import aclose_body
from server_session.flask import CsrfRejected
from server_session.http.carrier import current
from server_session.kernel.mapping import Session

__all__ = ["CsrfRejected", "QuartSession", "ServerSession", "csrf_exempt", "csrf_protect"]


class ServerSession(ApplicationExtension[quart.Quart]):
    """Puts `quart.session` on the server, serves the functions, and keeps forged requests out.

    All is as with `server_session.flask.ServerSession`, save that what waits is awaited; `watch` is that of
    `server_session.asgi.SessionMiddleware`.
    """

    def init_app(self, app: Any) -> None:
        """Serve this application too, a `Quart`."""
        app.session_interface = _Interface(self)
        app.extensions["server_session"] = self
        app.register_error_handler(UnavailableError, _answer_refused)
        if _check not in app.before_request_funcs[None]:
            app.asgi_app = _Middleware(app)
            for functions in (app.before_request_funcs, app.before_websocket_funcs):
                # First of all, whatever was registered before this extension.
                functions[None].insert(0, _check)
            # What is registered after this comes first.
            app.after_request_funcs[None].insert(0, _store)
        for name, function in adapters.template_functions().items():
            app.jinja_env.globals.setdefault(name, function)


class QuartSession(flask.FlaskSession):
    """`quart.session`, which is loaded when its request is opened."""

    async def load(self) -> None:
        """Load it; where the store fails, whoever looks at it is told."""
        try:
            self._session = await self.exchange.load()
        except StoreError as error:
            failure = error

            def fail() -> Session:
                raise failure

            self._load = fail

    async def is_alive(self) -> bool:  # type: ignore[override] # pyright: ignore[reportIncompatibleMethodOverride]
        """Ask the store whether the session still lives; the question does not restart the idle clock."""
        return await self.exchange.run(self.exchange.stored.is_alive())

    async def save(self, *, refresh: bool = False) -> None:  # type: ignore[override] # pyright: ignore[reportIncompatibleMethodOverride]
        """Store what has changed, now; a WebSocket or a background task does so."""
        seconds, again = self._cookie_age(refresh=refresh)
        await self.exchange.commit_late()
        self.exchange.stored.keep_cookie(seconds, again=again)


class _Interface(flask.ServerSessionInterface):
    async def open_session(self, app: Any, request: Any) -> QuartSession:  # type: ignore[override] # pyright: ignore[reportIncompatibleMethodOverride]
        exchange = self.sessions_of(app).exchange(AsgiRequest.of(request.scope))
        if not exchange.is_served:
            # A test's own context, which no server has opened.
            exchange.serve()
        session = QuartSession(exchange, request)
        await session.load()
        return session

    async def save_session(self, app: Any, session: Any, response: Any) -> None:  # type: ignore[override] # noqa: ARG002 # pyright: ignore[reportIncompatibleMethodOverride]
        # Where a server asked all is stored by then, and the cookie is set when the response starts.
        if current.get() is not session.exchange.request:
            await session.save()
            session.exchange.answer(response)


class _Middleware(SessionMiddleware):
    checks, tells = False, True

    def __init__(self, app: Any) -> None:
        super().__init__(app.asgi_app, autoload=False)
        self._quart = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "lifespan":
            self._sessions = self._quart.session_interface.sessions_of(self._quart)
            self._watch = self._quart.extensions["server_session"].watch  # the last of several counts
        await super().__call__(scope, receive, send)


class _Body:
    async def read(self, limit: int) -> tuple[bytes, bool]:
        request: Any = quart.request
        body = await request.get_data()
        # Quart 0.23 gives what was awaited to no form that is parsed afterwards.
        request.body = request.body_class(len(body), None)
        request.body.set_result(body)
        return body[:limit], len(body) <= limit


_session: Callable[[], QuartSession] = cast("Any", quart.session)._get_current_object  # noqa: SLF001 - by Werkzeug


async def _check() -> None:
    """Refuse a request that another site may have forged."""
    session, app = _session(), quart.current_app
    if refusal := await session.exchange.check(_Body(), endpoint=lambda: flask.endpoint_of(app, session.request)):
        raise refusal.error or CsrfRejected(refusal)


async def _store(response: Any) -> Any:
    """Store what has changed, or answer why that fails."""
    session = _session()
    exchange = session.exchange
    if exchange.has_answer:
        try:
            await session.save(refresh=quart.current_app.config["SESSION_REFRESH_EACH_REQUEST"])
        except SessionError as error:
            # Given up, or the response to the error would be refused for it as well.
            exchange.stored.abandon()
            # An iterable of the view's is held by what Quart has made of it.
            await aclose_body(getattr(response.response, "iter", response.response))
            response = await _page(quart.current_app.handle_user_exception, error)
            # A write that was not answered may have swapped the cookie all the same.
            await exchange.commit()
    return response


async def _answer_refused(error: UnavailableError) -> Any:
    """Return the answer where the session cannot be had, as the application makes its pages of 403 and 503."""
    refusal = _session().exchange.refuse(error)
    page = CsrfRejected(refusal) if refusal.rejection else ServiceUnavailable(refusal.said)
    return await _page(quart.current_app.handle_http_exception, page)


async def _page(method: Callable[..., Awaitable[Any]], error: Exception) -> Any:
    return await quart.current_app.make_response(await flask.handled(quart.Quart, method, quart.globals.app_ctx, error))


_request: Callable[[], object] = cast("Any", quart.request)._get_current_object  # noqa: SLF001 - by Werkzeug
adapters.find_request_by(lambda: _request() if quart.has_request_context() else None)

"""Sessions for Flask: `flask.session` on the server, the functions of `server_session.sync`, and the check for CSRF.

```python
configure(max_age=timedelta(minutes=30))
app = Flask(__name__)
ServerSession(app)
```
"""

from collections.abc import Callable, Coroutine, Mapping
from datetime import timedelta
from inspect import signature
from operator import itemgetter
from typing import Any, Final, TypeVar, Unpack

import flask
from flask import Flask, Request, Response, current_app, has_request_context
from flask.sessions import SessionInterface, SessionMixin
from markupsafe import Markup
from werkzeug.exceptions import Forbidden, ServiceUnavailable

from server_session import adapters
from server_session._colour import Colour, drive, running_library
from server_session._sessions import ApplicationExtension, Extension, Sessions, Settings
from server_session._settings import seconds_of
from server_session.adapters import BlockingExchange, Exchange, LazySession, WsgiRequest, csrf_exempt, csrf_protect
from server_session.csrf.refusals import UNVERIFIED
from server_session.exceptions import ConfigurationError, SessionError, UnavailableError
from server_session.http.responses import own_copy
from server_session.kernel.mapping import Session

__all__ = ["CsrfRejected", "FlaskSession", "ServerSession", "ServerSessionInterface", "csrf_exempt", "csrf_protect"]

T = TypeVar("T")

_COOKIE_SETTINGS: Final = {
    # The first of two that mean one thing is the weaker one: Flask's path is the application's unless it is set.
    "APPLICATION_ROOT": "path",
    "SESSION_COOKIE_PATH": "path",
    "SESSION_COOKIE_NAME": "name",
    "SESSION_COOKIE_DOMAIN": "domain",
    "SESSION_COOKIE_HTTPONLY": "http_only",
    "SESSION_COOKIE_SECURE": "secure",
    "SESSION_COOKIE_SAMESITE": "same_site",
    "SESSION_COOKIE_PARTITIONED": "partitioned",
}
_LIFETIME: Final = "PERMANENT_SESSION_LIFETIME"
# The environ's key for the request contexts that opened a session, each with its exchange.
_OPENED_BY: Final = "server_session.flask"
# The proxy of the request's context: Flask has one for it up to 3.1, and from 3.2 on that of the application's context.
_CONTEXT: Final[Any] = vars(flask.globals).get("request_ctx", flask.globals.app_ctx)
_context: Final[Callable[[], Any]] = _CONTEXT._get_current_object  # noqa: SLF001 - by Werkzeug
# Flask 3.0 has not all of them.
_SETTINGS: Final = tuple(name for name in (*_COOKIE_SETTINGS, _LIFETIME) if name in Flask.default_config)
_values_in: Final[Callable[[Mapping[str, Any]], tuple[Any, ...]]] = itemgetter(*_SETTINGS)


class ServerSession(ApplicationExtension[Flask]):
    """Puts `flask.session` on the server, serves the functions of `server_session.sync`, and keeps forged requests out.

    Args:
        app: the application; without it call `init_app`.
        sessions: a `Sessions`; by default what `configure` made, or one of the keywords given here.
        settings: the keywords of `configure`, for sessions of this application's own; the functions that serve these
            are the methods of `extension.sessions.sync`.

    The application's `SESSION_COOKIE_*`, `APPLICATION_ROOT` and `PERMANENT_SESSION_LIFETIME` (the idle time-out) win
    where they differ from Flask's defaults. The session is stored, as Flask does it, with every response that Flask
    makes, that to an unhandled error too, and again when a streamed body ends. A store that does not answer is a
    response 503, made by the application's own error handler for 503 if it has one.

    Every request that another site may have forged (see `CSRF`) is a `CsrfRejected`, before any function of the
    application's sees it: for each view, those added later too, and where there is none. What other servers call is
    marked with `csrf_exempt`, a view or a whole blueprint; what needs more with `csrf_protect(...)`. Templates have
    `csrf_token()`, `csrf_input()`, `csrf_meta()` and `csrf_script(nonce)`, save where the application has put such a
    name itself.

    The test client is no browser, and sends neither `Origin` nor `Sec-Fetch-Site`: with the session's cookie its POST
    needs a token, or the header that a browser on the application's own pages sends:
    `client.environ_base["HTTP_SEC_FETCH_SITE"] = "same-origin"`.

    No setting of Flask's switches the check off, `TESTING` does not either; `configure(csrf=None)` does.

    """

    def __init__(
        self, app: Flask | None = None, sessions: Sessions | None = None, **settings: Unpack[Settings]
    ) -> None:
        super().__init__(app, sessions, **settings)

    def init_app(self, app: Flask) -> None:
        """Serve this application too."""
        app.session_interface = ServerSessionInterface(self)
        app.register_error_handler(UnavailableError, _answer_refused)
        app.extensions["server_session"] = self
        # Before all else: a form that was read before is one whose token is gone.
        first = app.url_value_preprocessors.setdefault(None, [])
        if _check not in first:
            first.insert(0, _check)
            # Last of all: what is registered after this comes first.
            app.teardown_request_funcs.setdefault(None, []).insert(0, _leave)
            app.after_request_funcs.setdefault(None, []).insert(0, _own)
        for name, function in adapters.template_functions(lambda: _Blocking(_session().exchange)).items():
            app.jinja_env.globals.setdefault(name, function)


class CsrfRejected(Forbidden):
    """A request that another site may have forged, or that came without its cookie for another site had sent it: 403.

    The application's `errorhandler(CsrfRejected)`, or its `errorhandler(403)`, may make the page; `rejection.code` is
    stable and safe to show, `rejection.reason` is for the log. No cache keeps it, whoever makes it, and its header
    `CSRF-Rejection` has the code; `code`, as with each exception of Werkzeug's, is the status.
    """

    # For whoever shows the description of each error.
    description = UNVERIFIED

    def __init__(self, refusal: adapters.Refusal) -> None:
        super().__init__(response=Response(refusal.body, refusal.status, [*refusal.headers]))
        assert refusal.rejection is not None  # noqa: S101 - what is refused with 403 says why
        self.rejection: adapters.Rejection = refusal.rejection


class FlaskSession(LazySession, SessionMixin):
    """`flask.session`: it asks the store when it is first touched. Changes inside values are seen by themselves."""

    def __init__(self, exchange: Exchange, request: Request) -> None:
        super().__init__(_Blocking(exchange).load)
        self.exchange = exchange
        self.request = request

    @property
    def new(self) -> bool:  # type: ignore[override] # pyright: ignore[reportIncompatibleVariableOverride]
        """Whether the request brought no session that lives, or founded another."""
        self.loaded().mark_accessed()
        return self.exchange.is_new

    def __setitem__(self, key: str, value: Any) -> None:
        if key == "_flashes" and isinstance(value, list):
            value = [_storable(flash) for flash in value]
        super().__setitem__(key, value)

    def is_alive(self) -> bool:
        """Ask the store whether the session still lives; the question does not restart the idle clock."""
        return _Blocking(self.exchange).run(self.exchange.stored.is_alive)

    def save(self, *, refresh: bool) -> None:
        """Store what has changed; with `refresh` the browser gets a permanent session's cookie again if it did not."""
        seconds, again = self._cookie_age(refresh=refresh)
        _Blocking(self.exchange).commit_late()
        self.exchange.stored.keep_cookie(seconds, again=again)

    def _cookie_age(self, *, refresh: bool) -> tuple[float | None, bool]:
        """Return the cookie's age in seconds, `None` until the browser closes, and whether it is sent unchanged too."""
        exchange, session = self.exchange, self._session
        # Asked so, this is no look at the session.
        is_permanent = session is not None and bool(dict.get(session, "_permanent"))
        was_permanent = session is not None and bool(exchange.stored.seen_value("_permanent"))
        again = is_permanent != was_permanent or (is_permanent and (refresh or self.modified))
        return exchange.sessions.policy.idle if is_permanent else None, again


def _storable(flash: Any) -> Any:
    """Return a flashed message that can be stored: of a lazy translation, say, what it shows."""
    if isinstance(flash, tuple) and flash and hasattr(flash[-1], "__html__"):
        return (*flash[:-1], Markup(flash[-1].__html__()))  # noqa: S704 - it says itself that it is markup
    return flash


class _Blocking(BlockingExchange):
    """The steps of an exchange as Flask takes them.

    An async view runs on a loop that Flask made for this request alone: nobody else waits for it. An application of a
    store that awaits has such views, and waits for a step as it does for them; but `session["a"]` is then an error.
    """

    def load(self) -> Session:
        return BlockingExchange(self.exchange).load() if self._awaits else super().load()

    def run(self, start: Callable[[], Coroutine[Any, Any, T]]) -> T:
        if not self._awaits:
            return drive(start())
        if running_library() is not None:
            return super().run(start)

        async def run() -> T:
            return await start()

        return current_app.async_to_sync(run)()  # type: ignore[no-any-return]

    @property
    def _awaits(self) -> bool:
        return self.exchange.sessions.store.colour is Colour.AWAITS


class ServerSessionInterface(SessionInterface):
    """Opens and saves `flask.session`; `ServerSession` installs it."""

    def __init__(self, extension: Extension) -> None:
        self._extension = extension
        self._adapted: tuple[Sessions, tuple[Any, ...], Sessions] | None = None

    def open_session(self, app: Flask, request: Request) -> FlaskSession:
        """Return the request's session, without a call to the store."""
        exchange = self.sessions_of(app).exchange(WsgiRequest.of(request.environ))
        exchange.serve(found=True)
        request.environ.setdefault(_OPENED_BY, []).append((_context(), exchange))
        return FlaskSession(exchange, request)

    def save_session(self, app: Flask, session: SessionMixin, response: Response) -> None:
        """Store what has changed, and put the cookie into the response."""
        if not isinstance(session, FlaskSession):
            # It could not be opened, and this is the response to that error.
            return
        exchange = session.exchange
        exchange.answer_anew()
        if exchange.is_asked:
            try:
                session.save(refresh=app.config["SESSION_REFRESH_EACH_REQUEST"])
            except SessionError as error:
                # Given up, or the response to the error would be refused for it as well.
                exchange.stored.abandon()
                _become(response, app.make_response(handled(Flask, app.handle_user_exception, _context(), error)))
                # A write that was not answered may have swapped the cookie all the same.
                _Blocking(exchange).commit()
        is_streamed = response.is_streamed and not response.direct_passthrough
        # What a streamed body looks at comes too late for the headers. (Error pages, streams too, have a length.)
        exchange.answer(response, varies=is_streamed and response.content_length is None)
        if is_streamed:
            response.response = adapters.StreamedBody(response.response, _Blocking(exchange))

    def sessions_of(self, app: Flask) -> Sessions:
        """Return the sessions by the application's own settings, which may change between two requests."""
        base, values = self._extension.sessions, _values_in(app.config)
        if self._adapted is None or self._adapted[0] is not base or self._adapted[1] != values:
            self._adapted = (base, values, _adapted(base, values))
        return self._adapted[2]


def _adapted(base: Sessions, values: tuple[Any, ...]) -> Sessions:
    """Return these sessions with what the application has set itself: what differs from Flask's defaults."""
    defaults = _values_in(Flask.default_config)
    given = {name: one for name, one, default in zip(_SETTINGS, values, defaults, strict=True) if one != default}
    cookie = {keyword: given[name] for name, keyword in _COOKIE_SETTINGS.items() if name in given}
    if "domain" in cookie:
        # Older applications write False for "this host alone".
        cookie["domain"] = cookie["domain"] or None
    idle = seconds_of(f"Flask's {_LIFETIME}", given.pop(_LIFETIME)) if _LIFETIME in given else None
    absolute = base.policy.absolute
    if idle is not None and absolute is not None and idle > absolute:
        raise ConfigurationError(
            f"Flask's {_LIFETIME} is longer than absolute_max_age, at which a session ends however busy it is "
            f"({timedelta(seconds=absolute)}): give a longer absolute_max_age too, or None for no such end"
        )
    try:
        return base.adapted(idle, cookie)
    except ConfigurationError as error:
        raise ConfigurationError(f"Flask's {', '.join(given)}: {error}") from None


def _session() -> FlaskSession:
    """Return the request's session; where the application opened one of another kind, the one that is ours."""
    session: Any = flask.session._get_current_object()  # type: ignore[attr-defined]  # noqa: SLF001 - by Werkzeug
    if isinstance(session, FlaskSession):
        return session
    extension: ServerSession = current_app.extensions["server_session"]
    sessions = ServerSessionInterface(extension).sessions_of(current_app)
    exchange = sessions.exchange(WsgiRequest.of(flask.request.environ))
    return FlaskSession(exchange, flask.request)


def _leave(_error: BaseException | None) -> None:
    """Leave the request with the context that opened it, not with a copy: another of its environ is another visit."""
    context = _context()
    if (opened := context.request.environ.get(_OPENED_BY)) and opened[-1][0] is context:
        opened.pop()[1].leave()


def _own(response: Response) -> Response:
    """Return a response that is this request's alone, where the session may change it."""
    opened = _context().request.environ.get(_OPENED_BY)
    return own_copy(response) if opened and (opened[-1][1].is_asked or response.is_streamed) else response


def _check(_endpoint: str | None, _arguments: dict[str, Any] | None) -> None:
    """Refuse the request if another site may have forged it."""
    session = _session()
    exchange, request = session.exchange, session.request
    if exchange.may_be_forged(request.method):
        body, endpoint = adapters.WsgiBody(request.environ), lambda: endpoint_of(current_app, request)
        if refusal := _Blocking(exchange).check(body, endpoint=endpoint, method=request.method):
            raise refusal.error or CsrfRejected(refusal)


def endpoint_of(app: Any, request: Any) -> object:
    """Return the view that will serve a request, with the blueprints that it is in; `None` where there is none."""
    view = app.view_functions.get(request.endpoint)
    return (view, *map(app.blueprints.get, request.blueprints))


def _answer_refused(error: UnavailableError) -> Response:
    """Return the answer where the session cannot be had, as the application makes its pages of 403 and 503."""
    refusal = _session().exchange.refuse(error)
    page = CsrfRejected(refusal) if refusal.rejection else ServiceUnavailable(refusal.said)
    return current_app.make_response(handled(Flask, current_app.handle_http_exception, _context(), page))


def handled(framework: Any, method: Callable[..., T], context: object, error: Exception) -> T:
    """Return what a method of the application makes of an error."""
    # From Flask 3.2 and Quart 0.23 on it is given the context too. The framework's own class says which: a wrapper that
    # another extension put around the method may take anything.
    takes_context = len(signature(framework.handle_user_exception).parameters) > len(("self", "error"))
    return method(context, error) if takes_context else method(error)


def _become(response: Response, other: Response) -> None:
    """Make another response of one that Flask already holds."""
    if callable(close := getattr(response.response, "close", None)):
        response.call_on_close(close)
    response.direct_passthrough = False
    response.headers = other.headers
    response.status = other.status
    response.response = other.response


_request: Any = flask.request
adapters.find_request_by(lambda: _request._get_current_object() if has_request_context() else None)  # noqa: SLF001 - by Werkzeug

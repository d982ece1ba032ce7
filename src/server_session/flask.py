"""Sessions for Flask: `flask.session` on the server, the functions of `server_session.sync`, and the check for CSRF.

```python
configure(max_age=timedelta(minutes=30))
app = Flask(__name__)
ServerSession(app)
```
"""

import logging
import operator
from collections.abc import Callable, Coroutine, Iterable, Iterator
from contextlib import suppress
from contextvars import Token
from datetime import timedelta
from functools import partial
from typing import Any, Final, TypeAlias, TypeVar, Unpack

from flask import Flask, current_app
from flask import request as flask_request
from flask import session as flask_session
from flask.sessions import SessionInterface, SessionMixin
from flask.wrappers import Request, Response
from markupsafe import Markup
from werkzeug.exceptions import Forbidden, ServiceUnavailable

from server_session._body import read_wsgi_token
from server_session._carrier import current, state_of
from server_session._colour import Colour, drive
from server_session._csrf import CSRF, NOTHING_MORE, Demand, Rejection
from server_session._demands import csrf_exempt, csrf_protect, demand_of
from server_session._guard import Guard, guard_of
from server_session._html import Html, csrf_input, csrf_meta, csrf_script
from server_session._lazy import LazySession
from server_session._lifecycle import Answer, State, Visit
from server_session._refusal import REJECTION_HEADER, Refusal, withheld
from server_session._request import WsgiRequest
from server_session._response import headers_of, never_store
from server_session._session import Session
from server_session._sessions import Sessions, Settings, chosen, configured
from server_session._steps import GET_TOKEN
from server_session._tokens import junk_token
from server_session.exceptions import ConfigurationError, CookieWithheldError, SessionError, StoreError

__all__ = [
    "CsrfRejected",
    "FlaskSession",
    "ServerSession",
    "ServerSessionInterface",
    "csrf_exempt",
    "csrf_protect",
]

T = TypeVar("T")

TokenScope: TypeAlias = tuple[str, str]

_LOG: Final = logging.getLogger("server_session")

# What is kept in the environ beside the visit: how to leave the request again.
_UNDO: Final = "server_session.flask.undo"

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
_LIFETIME_SETTING: Final = "PERMANENT_SESSION_LIFETIME"
_FLASHES: Final = "_flashes"


class ServerSession:
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

    Every request that another site may have forged (see `CSRF`) is a `CsrfRejected`, before any `before_request`
    function sees it: for each view, those added later too, and where there is none. What other servers call is marked
    with `csrf_exempt`, a view or a whole blueprint; what needs more is marked with `csrf_protect(...)`. Templates have
    `csrf_token()`, `csrf_input()`, `csrf_meta()` and `csrf_script(nonce)`, save where the application has put such a
    name itself.

    The test client is no browser, and sends neither `Origin` nor `Sec-Fetch-Site`: with the session's cookie its POST
    needs a token. To be a browser on a page of the application's own it sends the header, once or with each request:

    ```python
    client.post("/cart", data={"item": 1}, headers={"Sec-Fetch-Site": "same-origin"})
    client.environ_base["HTTP_SEC_FETCH_SITE"] = "same-origin"
    ```

    No setting of Flask's switches the check off, `TESTING` does not either; `configure(csrf=None)` does.

    """

    def __init__(
        self, app: Flask | None = None, sessions: Sessions | None = None, **settings: Unpack[Settings]
    ) -> None:
        self._sessions = chosen(sessions, settings)
        if app is not None:
            self.init_app(app)

    @property
    def sessions(self) -> Sessions:
        """The sessions that are served; raises `NotConfiguredError` if they are the default and there is none."""
        return self._sessions or configured()

    def init_app(self, app: Flask) -> None:
        """Serve this application too."""
        app.session_interface = ServerSessionInterface(self)
        app.register_error_handler(StoreError, _unavailable)
        app.register_error_handler(CookieWithheldError, _withheld)
        app.teardown_request(_leave)
        app.extensions["server_session"] = self
        before = app.before_request_funcs.setdefault(None, [])
        # First of all, whatever was registered before this extension.
        if _check not in before:
            before.insert(0, _check)
        for name, function in _TEMPLATE_FUNCTIONS.items():
            app.jinja_env.globals.setdefault(name, function)


class CsrfRejected(Forbidden):
    """A request that another site may have forged, or that came without its cookie for another site had sent it: 403.

    The application's `errorhandler(CsrfRejected)`, or its `errorhandler(403)`, may make the page; `rejection.code` is
    stable and safe to show, `rejection.reason` is for the log. No cache keeps it, whoever makes it, and its header
    `CSRF-Rejection` has the code.

    It is no `CsrfError`, for the `code` of an exception of Werkzeug's is the status.
    """

    # True of every code, and for whoever shows the description of each error.
    description = "The request could not be verified to come from this site. Load the page again, and try once more."

    def __init__(self, rejection: Rejection, refusal: Refusal) -> None:
        super().__init__()
        self.rejection = rejection
        self._refusal = refusal

    def get_body(self, environ: Any = None, scope: Any = None) -> str:  # noqa: ARG002 - Werkzeug's signature
        """Return the page, in HTML or JSON as the request's `Accept` would have it."""
        return self._refusal.body.decode()

    def get_headers(self, environ: Any = None, scope: Any = None) -> list[tuple[str, str]]:  # noqa: ARG002 - likewise
        """Return the page's headers."""
        return [(name, value) for name, value in self._refusal.headers if name != "Content-Length"]


class FlaskSession(LazySession, SessionMixin):
    """`flask.session`: it asks the store when it is first touched. Changes inside values are seen by themselves."""

    def __init__(self, sessions: Sessions, request: WsgiRequest, visit: Visit) -> None:
        super().__init__(self._loaded_now)
        self.sessions = sessions
        self.request = request
        self.visit = visit
        self.rejection: Rejection | None = None
        self.is_unavailable = False
        self._is_new = False
        self._was_permanent = False

    @property
    def new(self) -> bool:  # type: ignore[override] # pyright: ignore[reportIncompatibleVariableOverride]
        """Whether the request brought no session that lives."""
        self.loaded()
        return self._is_new

    @property
    def accessed(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Whether anything was read or written."""
        return super().accessed

    @accessed.setter
    def accessed(self, value: bool) -> None:
        # Flask sets it where somebody names `flask.session`, which need not be a look at it; a look is seen here.
        pass

    @property
    def modified(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Whether there is anything to store. Setting it has no effect: changes are seen, inside values too."""
        return super().modified

    @modified.setter
    def modified(self, value: bool) -> None:
        self.loaded().modified = value

    def __getitem__(self, key: str) -> Any:
        value = super().__getitem__(key)
        return _each_flash(value, _unmark) if key == _FLASHES else value

    def __setitem__(self, key: str, value: Any) -> None:
        super().__setitem__(key, _each_flash(value, _mark) if key == _FLASHES else value)

    def run(self, start: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Run a coroutine of the core for this request, blocking."""
        if self.sessions.store.colour is Colour.AWAITS:
            return self.sessions.run_blocking(self.request, start)
        # An async view runs on a loop that Flask made for this request alone: nobody else waits for it.
        return drive(start())

    def check(self, guard: Guard) -> Rejection | None:
        """Return why the request is refused, or `None` where it may pass."""
        if guard.needs_token:
            token = guard.token_in_header()
            if token is None:
                token = read_wsgi_token(self.request.slots, guard.field)
            if self.sessions.store.colour is Colour.AWAITS:
                # An application of such a store has async views: it waits for the check as it does for them.
                current_app.async_to_sync(guard.weigh)(self.visit, token)
            else:
                self.run(partial(guard.weigh, self.visit, token))
        self.rejection = guard.conclude(self.visit)
        return self.rejection

    def commit(self) -> None:
        """Store what has changed."""
        # Functions write at once: over a client that awaits there is nothing to do without the mapping.
        if self._session is not None or self.sessions.store.colour is not Colour.AWAITS:
            self.run(self.visit.commit)

    def abandon(self) -> None:
        """Give up what could not be stored, so that the response to the error is not refused for it as well."""
        self.visit.session = None

    def choose_lifetime(self, *, refresh: bool) -> bool:
        """Choose how long the browser keeps the cookie; return whether it is to be told so again."""
        if self._session is None:
            return False
        is_permanent = self.permanent
        self.visit.cookie_seconds = self.sessions.policy.idle if is_permanent else None
        return is_permanent != self._was_permanent or (is_permanent and (refresh or self.modified))

    def _loaded_now(self) -> Session:
        session = self.run(self.visit.load)
        self._is_new = not self.visit.has_cookie or self.visit.state is not State.LIVE
        self._was_permanent = bool(dict.get(session, "_permanent"))
        return session


class ServerSessionInterface(SessionInterface):
    """Opens and saves `flask.session`; `ServerSession` installs it."""

    def __init__(self, extension: ServerSession) -> None:
        self._extension = extension
        self._served: tuple[Sessions, dict[str, Any], Sessions] | None = None

    def open_session(self, app: Flask, request: Request) -> FlaskSession:
        """Return the request's session, without a call to the store."""
        base = self._extension.sessions
        sessions = self._of(app, base)
        carried = WsgiRequest(request.environ)
        state = state_of(carried)
        state.served.append(base)
        visits = state.visits
        # One request is one visit: that of the functions too, which know only what was configured.
        visit = visits.get(base) or sessions.visit(carried)
        visits[base] = visits[sessions] = visit
        if visit.answer is Answer.ABSENT:
            visit.answer = Answer.OPEN
        if _UNDO not in request.environ:
            request.environ[_UNDO] = current.set(carried)
        return FlaskSession(sessions, carried, visit)

    def save_session(self, app: Flask, session: SessionMixin, response: Response) -> None:
        """Store what has changed, and put the cookie into the response."""
        if not isinstance(session, FlaskSession):
            # It could not be opened, and this is the response to that error.
            return
        visit = session.visit
        visit.answer = Answer.OPEN
        try:
            again = session.choose_lifetime(refresh=app.config["SESSION_REFRESH_EACH_REQUEST"])
            session.commit()
            if again:
                visit.send_cookie_again(visit.cookie_seconds)
        except (StoreError, CookieWithheldError) as error:
            session.abandon()
            _become(response, app.make_response(app.handle_user_exception(error)))
        except SessionError:
            session.abandon()
            raise
        if session.rejection is not None:
            _mark_refused(response, session.rejection)
        is_streamed = response.is_streamed and not response.direct_passthrough
        # What a streamed body looks at comes too late for the headers. (Werkzeug's error pages look like streams, and
        # know their length.)
        visit.accessed |= session.accessed or (is_streamed and response.content_length is None)
        session.sessions.answer(session.request, visit, headers_of(response))
        visit.answer = Answer.STARTED
        if is_streamed:
            response.response = _Body(response.response, session)

    def _of(self, app: Flask, base: Sessions) -> Sessions:
        explicit = _explicit(app)
        if self._served is None or self._served[0] is not base or self._served[1] != explicit:
            self._served = (base, explicit, _adapted(base, explicit))
        return self._served[2]


class _Body(Iterator[Any]):
    """A streamed body, in which the functions know their request, and whose changes are stored at its end."""

    def __init__(self, body: Iterable[Any], session: FlaskSession) -> None:
        self._body = body
        self._chunks: Iterator[Any] = iter(body)
        self._session = session

    def __next__(self) -> Any:
        try:
            return self._in_request(lambda: next(self._chunks))
        except StopIteration:
            self._session.commit()
            raise

    def close(self) -> None:
        """End it, be it whole or not."""
        try:
            if callable(close := getattr(self._body, "close", None)):
                self._in_request(close)
        finally:
            self._session.commit()

    def _in_request(self, call: Callable[[], T]) -> T:
        # The request may be left within this call: set once more it would be served for ever after.
        if current.get() is self._session.request:
            return call()
        token = current.set(self._session.request)
        try:
            return call()
        finally:
            current.reset(token)


def _explicit(app: Flask) -> dict[str, Any]:
    """Return the settings that the application has chosen itself: those that are not Flask's defaults."""
    return {
        name: app.config[name]
        for name in (*_COOKIE_SETTINGS, _LIFETIME_SETTING)
        if name in app.config and app.config[name] != Flask.default_config.get(name)
    }


def _adapted(base: Sessions, explicit: dict[str, Any]) -> Sessions:
    """Return these sessions with the settings that the application has chosen in place of their own."""
    cookie = {keyword: explicit[name] for name, keyword in _COOKIE_SETTINGS.items() if name in explicit}
    if "domain" in cookie:
        # Older applications write False for "this host alone".
        cookie["domain"] = cookie["domain"] or None
    idle = _idle(explicit[_LIFETIME_SETTING], base.policy.absolute) if _LIFETIME_SETTING in explicit else None
    try:
        return base.adapted(idle, cookie)
    except ConfigurationError as error:
        named = ", ".join(name for name in explicit if name in _COOKIE_SETTINGS)
        raise ConfigurationError(f"Flask's {named}: {error}") from None


def _idle(lifetime: timedelta | float, absolute: float | None) -> float:
    seconds = lifetime.total_seconds() if isinstance(lifetime, timedelta) else float(lifetime)
    if seconds <= 0:
        raise ConfigurationError(f"Flask's {_LIFETIME_SETTING} must be more than 0 seconds, not {lifetime!r}")
    if absolute is not None and seconds > absolute:
        raise ConfigurationError(
            f"Flask's {_LIFETIME_SETTING} is longer than absolute_max_age, at which a session ends however busy it "
            f"is ({timedelta(seconds=absolute)}): give a longer absolute_max_age too, or None for no such end"
        )
    return seconds


def _check() -> None:
    """Refuse the request if another site may have forged it."""
    session = _of_request()
    guard = guard_of(session.sessions, session.request, partial(_endpoint, session.sessions), flask_request.method)
    if guard is None:
        return
    rejection = session.check(guard)
    if rejection is not None:
        raise CsrfRejected(rejection, guard.refusal(rejection))


def _endpoint(sessions: Sessions) -> object:
    """Return the view that will serve the request, marked as its blueprints are; `None` where there is none."""
    view: Any = current_app.view_functions.get(flask_request.endpoint or "")
    for name in flask_request.blueprints:
        demand = demand_of(current_app.blueprints.get(name), flask_request.method, sessions.csrf or _NO_POLICY)
        if demand != NOTHING_MORE:
            view = _marked(partial(view), demand)
    return view


def _marked(view: Callable[..., Any], demand: Demand) -> Callable[..., Any]:
    if demand.exempt:
        return csrf_exempt(view)
    return csrf_protect(
        strict=demand.strict, every_method=demand.every_method, anonymous=demand.anonymous, scoped=demand.scoped
    )(view)


def _of_request() -> FlaskSession:
    """Return the request's session; where the application opened one of another kind, the one that is ours."""
    if isinstance(flask_session, FlaskSession):
        return flask_session
    extension: ServerSession = current_app.extensions["server_session"]
    return ServerSessionInterface(extension).open_session(current_app, flask_request)


def _csrf_token(scope: TokenScope | None = None) -> str:
    session = _of_request()
    if session.rejection is not None or session.is_unavailable:
        # The page that says so may have a form: it gets no session, and its token will not pass.
        return junk_token()
    return session.run(partial(GET_TOKEN.body, session.visit, scope))


def _csrf_input(scope: TokenScope | None = None) -> Html:
    return csrf_input(_csrf_token(scope), _policy().field)


def _csrf_meta(scope: TokenScope | None = None) -> Html:
    policy = _policy()
    return csrf_meta(_csrf_token(scope), policy.header, policy.field, single_use=policy.single_use)


def _policy() -> CSRF:
    return _of_request().sessions.csrf or _NO_POLICY


_NO_POLICY: Final = CSRF()

# A token founds a session, so none is made before a template asks for it.
_TEMPLATE_FUNCTIONS: Final[dict[str, Callable[..., str]]] = {
    "csrf_token": _csrf_token,
    "csrf_input": _csrf_input,
    "csrf_meta": _csrf_meta,
    "csrf_script": csrf_script,
}


def _withheld(error: CookieWithheldError) -> Response:
    _LOG.warning("a request was answered with 403: %s", error)
    session = _of_request()
    session.rejection = Rejection("cookie_withheld", str(error))
    refusal = withheld(session.request.header_values(b"accept"))
    return current_app.make_response(current_app.handle_http_exception(CsrfRejected(session.rejection, refusal)))


def _mark_refused(response: Response, rejection: Rejection) -> None:
    """Give the application's own page the headers that ours has."""
    response.headers[REJECTION_HEADER] = rejection.code
    response.vary.update(["Origin", "Sec-Fetch-Site"])
    never_store(headers_of(response))


def _leave(_: BaseException | None = None) -> None:
    token: Token[Any] | None = flask_request.environ.get(_UNDO)
    if token is None:
        return
    # A copy of the request's context, in another thread, ends by itself: there is nothing to leave there.
    with suppress(ValueError):
        current.reset(token)
        del flask_request.environ[_UNDO]


def _unavailable(error: StoreError) -> Response:
    session = _of_request()
    session.is_unavailable = True
    _LOG.error("a request was answered with 503, for the session store failed: %s", error)
    refusal = ServiceUnavailable("Sessions are unavailable now. Try again later.")
    response = current_app.make_response(current_app.handle_http_exception(refusal))
    response.headers["Cache-Control"] = "no-store"
    return response


def _become(response: Response, other: Response) -> None:
    """Make another response of one that Flask already holds."""
    if callable(close := getattr(response.response, "close", None)):
        response.call_on_close(close)
    response.direct_passthrough = False
    response.headers = other.headers
    response.status = other.status
    response.response = other.response


def _each_flash(flashes: Any, change: Callable[[Any], Any]) -> Any:
    """Return flashed messages, changed one by one; the very list that it was if none of them changes."""
    if not isinstance(flashes, list):
        return flashes
    changed = [change(flash) for flash in flashes]
    return flashes if all(map(operator.is_, flashes, changed)) else changed


def _mark(flash: Any) -> Any:
    if not (isinstance(flash, tuple) and flash and hasattr(flash[-1], "__html__")):
        return flash
    *category, message = flash
    return (*category, {"markup": str.__str__(message.__html__())})


def _unmark(flash: Any) -> Any:
    match flash:
        case (category, {"markup": str(text), **rest}) if not rest:
            return category, Markup(text)  # noqa: S704 - it was markup when it was flashed
        case _:
            return flash

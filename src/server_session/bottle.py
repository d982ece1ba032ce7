"""Sessions for Bottle: `request.session`, the functions of `server_session.sync`, and the check for CSRF.

`app.install(ServerSession())` serves every route of the application, those too that skip plugins, and what is mounted.
What is refused is an `HTTPError` for `app.error(403)` and `app.error(503)`, whose `rejection.code` tells why.
"""

from collections.abc import Callable, Iterable
from typing import Any, Unpack

from bottle import BaseTemplate, Bottle, HTTPError, HTTPResponse, request  # type: ignore[import-untyped]

from server_session._sessions import Sessions, Settings, chosen, configured
from server_session.adapters import FileBody, LazySession, Refusal, WsgiBody, WsgiRequest, csrf_exempt, csrf_protect
from server_session.exceptions import SessionError, UnavailableError
from server_session.exchange.streams import close_body
from server_session.exchange.templates import served, template_functions
from server_session.wsgi import SESSION, ServedResponse

__all__ = ["ServerSession", "csrf_exempt", "csrf_protect"]


class ServerSession:
    """A plugin that puts `request.session` on the server; give `sessions`, or the keywords of `configure`."""

    def __init__(self, sessions: Sessions | None = None, **settings: Unpack[Settings]) -> None:
        self.sessions = chosen(sessions, settings) or configured()

    def setup(self, app: Bottle) -> None:
        """Serve this application: around it, where it has found a route, and where a result becomes a response."""
        call, find, cast = app.wsgi, app.router.match, app._cast  # noqa: SLF001 - Bottle catches errors further in

        def serve(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
            # Who mounts this application answers, and for that Bottle needs a response that starts at once.
            exchange = self.sessions.exchange(_Request.of(environ))
            response = None if exchange.is_served else ServedResponse(self.sessions, environ, start_response)
            if SESSION not in environ:
                # Another framework's adapter serves it, and has its mapping elsewhere.
                environ[SESSION] = LazySession(exchange.blocking.load)
            environ["bottle.request.ext.session"] = environ[SESSION]
            return call(environ, start_response) if response is None else response.call(call)

        def match(environ: dict[str, Any]) -> Any:
            found: Any = (None, {})
            try:
                found = find(environ)
            finally:
                # A path without a route is checked too.
                self._check(app, environ, found[0])
            return found

        def answer(out: Any, peek: object = None) -> Any:
            exchange = self.sessions.exchange(WsgiRequest.of(request.environ))
            try:
                if isinstance(out, HTTPError) and isinstance(out.exception, UnavailableError):
                    raise out.exception
                exchange.blocking.commit_late()
                return cast(out, peek)
            except SessionError as error:
                close_body(out)
                return cast(_page(app, exchange.refuse(error)))

        app.wsgi, app.router.match, app._cast = serve, match, answer  # noqa: SLF001
        for name, function in template_functions(lambda: served().blocking).items():
            BaseTemplate.defaults.setdefault(name, function)

    def apply(self, callback: Callable[..., Any], _route: object) -> Callable[..., Any]:
        """Leave the routes as they are: of some no plugin is told."""
        return callback

    def _check(self, app: Bottle, environ: dict[str, Any], route: Any) -> None:
        exchange = self.sessions.exchange(WsgiRequest.of(environ))
        method = environ["REQUEST_METHOD"].upper()
        if not exchange.is_served or not exchange.may_be_forged(method):
            return
        mounted = () if route is None else getattr(route.config.get("mountpoint.target"), "plugins", ())
        if any(isinstance(one, ServerSession) and one.sessions is self.sessions for one in mounted):
            # Which view will serve the request is known within.
            return
        # A hook may have read it.
        body = FileBody(request.body) if "bottle.request.body" in environ else WsgiBody(environ)
        if refusal := exchange.blocking.check(body, endpoint=lambda: getattr(route, "callback", None), method=method):
            raise refusal.error or _page(app, refusal)


class _Request(WsgiRequest):
    @property
    def path(self) -> str:
        # Bottle decodes it where it stands.
        path, is_decoded = self.slots.get("PATH_INFO", ""), "bottle.app" in self.slots
        return self.slots.get("SCRIPT_NAME", "") + (path.encode().decode("latin-1") if is_decoded else path) or "/"


def _page(app: Bottle, refusal: Refusal) -> HTTPResponse:
    """Return the answer to what is refused: the application's own if it has one."""
    if refusal.status not in app.error_handler:
        return HTTPResponse(refusal.body.decode(), refusal.status, refusal.headers)
    page = HTTPError(refusal.status, refusal.said, refusal.error)
    page.rejection = refusal.rejection  # pyright: ignore[reportAttributeAccessIssue]
    return page

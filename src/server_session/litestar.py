"""Sessions for Litestar: `request.session` on the server, the functions, and the check for CSRF.

```python
app = Litestar(route_handlers=[...], plugins=[ServerSession(max_age=timedelta(minutes=30))])
```
"""

from collections.abc import Callable
from copy import copy
from datetime import timedelta
from typing import Any, NoReturn, TypeAlias, Unpack, cast

from litestar import Litestar, Request
from litestar.config.app import AppConfig
from litestar.config.response_cache import ResponseCacheConfig
from litestar.exceptions import HTTPException, PermissionDeniedException, ServiceUnavailableException
from litestar.handlers import HTTPRouteHandler
from litestar.middleware import DefineMiddleware
from litestar.middleware._internal.exceptions import ExceptionHandlerMiddleware
from litestar.middleware.session import SessionMiddleware as OwnSessions
from litestar.plugins import InitPlugin, ReceiveRoutePlugin
from litestar.security.session_auth.middleware import MiddlewareWrapper as OwnLogIn
from litestar.serialization import decode_json, encode_json
from litestar.stores.base import Store
from litestar.types import Empty

from server_session._sessions import Extension, Sessions, Settings, chosen
from server_session.adapters import Refusal, csrf_exempt, csrf_protect, template_functions
from server_session.asgi import Application, Scope, SessionMiddleware
from server_session.exceptions import ConfigurationError, UnavailableError
from server_session.http.carrier import current
from server_session.http.frameworks import LitestarHeaders
from server_session.kernel.mapping import Session

__all__ = ["CsrfRejected", "LitestarHeaders", "ServerSession", "csrf_exempt", "csrf_protect"]

AnyRequest: TypeAlias = Request[Any, Any, Any]


class CsrfRejected(PermissionDeniedException):
    """A request that another site may have forged: 403. `extra["code"]` is stable and safe to show."""


class ServerSession(Extension, InitPlugin, ReceiveRoutePlugin):
    """Puts `request.session` on the server, serves the functions, and keeps forged requests out.

    Args:
        sessions: a `Sessions`; by default what `configure` made, or one of the keywords given here.
        autoload: as `server_session.asgi.SessionMiddleware` has it; the scope that it is given has a `route_handler`.
        watch: as it has it.
        settings: the keywords of `configure`, for sessions of this application's own; the functions that serve these
            are the methods of `plugin.sessions`.

    What another site may have forged is a `CsrfRejected`, and a store that does not answer a
    `ServiceUnavailableException`: the application's `exception_handlers` for these, or for 403 and 503, make the pages.
    Templates have `csrf_token()`, `csrf_field()`, `csrf_meta()` and `csrf_script(nonce)`; `csrf_input` is a variable of
    Litestar's own, which is empty.

    """

    def __init__(
        self,
        sessions: Sessions | None = None,
        autoload: bool | Callable[[Scope], bool] = True,
        watch: float | timedelta | None = None,
        **settings: Unpack[Settings],
    ) -> None:
        self._sessions = chosen(sessions, settings)
        middleware: Any = _Middleware
        self._middleware = DefineMiddleware(middleware, sessions=self._sessions, autoload=autoload, watch=watch)

    def on_app_init(self, app_config: AppConfig) -> AppConfig:
        """Serve an application; Litestar calls it."""
        if app_config.csrf_config and self.sessions.csrf:
            raise ConfigurationError("Litestar's csrf_config wants tokens of its own: leave it out, or give csrf=None")
        app_config.middleware = [self._middleware, *app_config.middleware]
        app_config.request_class = _telling(app_config.request_class or Request)
        app_config.exception_handlers = {UnavailableError: _pass_on, **app_config.exception_handlers}
        app_config.response_cache_config = self._without_sessions(app_config.response_cache_config)
        if app_config.template_config and not app_config.csrf_config:
            engine = app_config.template_config.engine_instance
            for name, function in template_functions().items():
                field = name.replace("csrf_input", "csrf_field")
                engine.register_template_callable(field, lambda _, *given, call=function: call(*given))
        return app_config

    def receive_route(self, route: Any) -> None:
        """Look at a route; Litestar calls it."""
        for handler in getattr(route, "route_handlers", None) or [route.route_handler]:
            kinds = [getattr(one, "middleware", one) for one in handler.resolve_middleware()]
            own = [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, OwnSessions | OwnLogIn)]
            if any(kind is not _Middleware for kind in own):
                raise ConfigurationError(f"{handler} has a session of Litestar's own too: leave out its middleware")
            if isinstance(handler, HTTPRouteHandler):
                layers = reversed(handler.ownership_layers)
                handler.request_class = _telling(next(one.request_class for one in layers if one.request_class))

    def _without_sessions(self, caching: ResponseCacheConfig) -> ResponseCacheConfig:
        """Keep what depends on the session out of Litestar's cache, whose keys know no cookie."""

        def store_of(app: Litestar) -> Store:
            store, request = caching.get_store_from_app(app), current.get()
            exchange = None if request is None else self.sessions.exchange(request)
            # Litestar keeps a response when all was sent: a stream may look at the session until then.
            is_ones_own = exchange is not None and exchange.is_started and exchange.has_answer
            return cast("Store", _Closed(store)) if is_ones_own else store

        kept = copy(caching)
        vars(kept)["get_store_from_app"] = store_of
        return kept


# By its second class Litestar's flash messages know that there is a session; nothing else is taken from it.
class _Middleware(SessionMiddleware, OwnLogIn):  # type: ignore[misc]
    """Serves one route, which Litestar has found before."""

    tells = True

    def __init__(self, app: Any, **given: Any) -> None:
        # What a middleware within raises, such as a log-in's, has its page where the session is still stored.
        super().__init__(ExceptionHandlerMiddleware(app, debug=None), **given)

    def endpoint_of(self, scope: Scope) -> object:
        """Return the handler's function, its controller, and the handler."""
        handler = scope["route_handler"]
        # Of a function for a thread Litestar has made another.
        function = getattr(handler.fn, "func", handler.fn)
        return (function, getattr(function, "__self__", None), handler)

    def page(self, refusal: Refusal) -> Application:
        """Return the application's page for 403 or 503."""
        error: HTTPException = ServiceUnavailableException(detail=refusal.said)
        if refusal.rejection:
            error = CsrfRejected(detail=refusal.said, extra={"code": refusal.rejection.code})
        handler: Any = self.app
        return lambda scope, *ways: handler.handle_request_exception(scope["litestar_app"], scope, *ways, error)


def _pass_on(_: AnyRequest, error: Exception) -> NoReturn:
    """Leave an error to the middleware, which knows what was stored before it."""
    raise error


class _Telling(AnyRequest):
    @property
    def session(self) -> dict[str, Any]:
        session = super().session
        if isinstance(session, Session):
            # C code, such as Litestar's encoder, looks at a mapping past its methods.
            session.mark_accessed()
        return session

    def set_session(self, value: Any) -> None:
        # It may be an object of a class, as of a dataclass.
        super().set_session(value if value is Empty else decode_json(encode_json(value)))


def _telling(kind: type[AnyRequest]) -> type[AnyRequest]:
    """Return this class of requests as one that notes who asks for the session."""
    return kind if issubclass(kind, _Telling) else type(kind.__name__, (_Telling, kind), {})


class _Closed:
    """A store of responses in which nothing more is put."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def set(self, *_: object, **__: object) -> None:
        """Keep nothing."""

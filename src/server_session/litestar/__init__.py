"""Sessions for Litestar: `request.session` on the server, the functions, and the check for CSRF.

```python
app = Litestar(route_handlers=[...], plugins=[ServerSession(max_age=timedelta(minutes=30))])
```
"""

from collections.abc import Callable
from copy import copy
from datetime import timedelta
from typing import Any, Unpack

from litestar import Request
from litestar.config.app import AppConfig
from litestar.config.response_cache import ResponseCacheConfig
from litestar.middleware import DefineMiddleware
from litestar.middleware.session import SessionMiddleware as OwnSessions
from litestar.plugins import InitPlugin, ReceiveRoutePlugin
from litestar.routes import BaseRoute
from litestar.security.session_auth.middleware import MiddlewareWrapper as OwnLogIn
from litestar.stores.base import Store

from server_session._sessions import Extension, Sessions, Settings, chosen
from server_session.adapters import csrf_exempt, csrf_protect, template_functions
from server_session.asgi import Scope
from server_session.exceptions import ConfigurationError, CookieWithheldError, StoreError
from server_session.http.carrier import current
from server_session.litestar._objects import telling
from server_session.litestar._pages import CsrfRejected, Middleware, pass_on

__all__ = ["CsrfRejected", "ServerSession", "csrf_exempt", "csrf_protect"]


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
        middleware: Any = Middleware
        self._middleware = DefineMiddleware(middleware, sessions=self._sessions, autoload=autoload, watch=watch)

    def on_app_init(self, app_config: AppConfig) -> AppConfig:
        """Serve an application; Litestar calls it."""
        if app_config.csrf_config and self.sessions.csrf:
            raise ConfigurationError("Litestar's csrf_config wants tokens of its own: leave it out, or give csrf=None")
        app_config.middleware = [self._middleware, *app_config.middleware]
        app_config.request_class = telling(app_config.request_class or Request)
        pages = app_config.exception_handlers
        app_config.exception_handlers = {StoreError: pass_on, CookieWithheldError: pass_on, **pages}
        app_config.response_cache_config = self._without_sessions(app_config.response_cache_config)
        if app_config.template_config and not app_config.csrf_config:
            engine = app_config.template_config.engine_instance
            for name, function in template_functions().items():
                field = name.replace("csrf_input", "csrf_field")
                engine.register_template_callable(field, lambda _, *given, call=function: call(*given))
        return app_config

    def receive_route(self, route: BaseRoute) -> None:
        """Look at a route; Litestar calls it."""
        for handler in getattr(route, "route_handlers", ()):
            kinds = [getattr(one, "middleware", one) for one in handler.resolve_middleware()]
            if any(isinstance(kind, type) and issubclass(kind, OwnSessions | OwnLogIn) for kind in kinds):
                raise ConfigurationError(f"{handler} has a session of Litestar's own too: leave out its middleware")
            layers = reversed(handler.ownership_layers)
            handler.request_class = telling(next(one.request_class for one in layers if one.request_class))

    def _without_sessions(self, caching: ResponseCacheConfig) -> ResponseCacheConfig:
        """Keep what depends on the session out of Litestar's cache, whose keys know no cookie."""
        kept = copy(caching)
        # Asked for when all was sent: a stream may look at the session until then.
        vars(kept)["get_store_from_app"] = lambda app: _Shared(caching.get_store_from_app(app), self)
        return kept


class _Shared:
    """A store of responses in which nothing is put that depends on the session."""

    def __init__(self, store: Store, plugin: ServerSession) -> None:
        self._store, self._plugin = store, plugin

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def set(self, key: str, value: bytes, expires_in: int | timedelta | None = None) -> None:
        request = current.get()
        if request is not None and not self._plugin.sessions.exchange(request).has_answer:
            await self._store.set(key, value, expires_in)

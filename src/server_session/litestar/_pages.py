"""Litestar's middleware of the session, which answers what it refuses by the application's own pages."""

from typing import Any, NoReturn

from litestar import Request
from litestar.exceptions import HTTPException, PermissionDeniedException, ServiceUnavailableException
from litestar.exceptions.responses import create_exception_response

from server_session.asgi import Application, Scope, SessionMiddleware
from server_session.csrf.refusals import Refusal

__all__ = ["CsrfRejected", "Middleware", "pass_on"]


class CsrfRejected(PermissionDeniedException):
    """A request that another site may have forged: 403. `extra["code"]` is stable and safe to show."""


class Middleware(SessionMiddleware):
    """Serves one route, which Litestar has found before."""

    tells = True

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

        async def page(scope: Any, receive: Any, send: Any) -> None:
            handlers = scope["route_handler"].resolve_exception_handlers()
            kinds = (error.status_code, *type(error).__mro__)
            make = next((handlers[kind] for kind in kinds if kind in handlers), create_exception_response)
            request = scope["litestar_app"].request_class(scope, receive, send)
            await make(request, error).to_asgi_response(None, request)(scope, receive, send)

        return page


def pass_on(_: Request[Any, Any, Any], error: Exception) -> NoReturn:
    """Leave an error to the middleware, which knows what was stored before it."""
    raise error

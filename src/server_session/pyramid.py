"""Sessions for Pyramid, by `config.include("server_session.pyramid")`: `request.session`, and the check for CSRF.

The settings after `server_session.` are the keywords of `configure`, read as JSON where they are text, or `sessions`;
without any, those of `configure` are served. Views that are committed before it is included are not checked.
"""

from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

import msgspec
from pyramid import csrf, events, exceptions, httpexceptions, interfaces  # type: ignore[import-untyped]
from pyramid.threadlocal import get_current_request  # type: ignore[import-untyped]
from zope.interface import implementer  # type: ignore[import-untyped]

from server_session import adapters
from server_session._sessions import chosen, configured
from server_session.adapters import Exchange, LazySession, Refusal, WsgiBody, WsgiRequest, csrf_exempt, csrf_protect
from server_session.csrf.refusals import UNVERIFIED
from server_session.exceptions import UnavailableError
from server_session.exchange.streams import close_body
from server_session.exchange.templates import served
from server_session.http.carrier import find_request_by

__all__ = ["CsrfRejected", "csrf_exempt", "csrf_protect", "includeme"]

_FUNCTIONS: Final = adapters.template_functions(lambda: served().blocking)
_EXEMPT: Final = csrf_exempt(lambda: None)
find_request_by(get_current_request)


def includeme(config: Any) -> None:
    """Serve the application that is configured."""
    settings: Any = {}
    for name, value in config.registry.settings.items():
        if name.startswith("server_session."):
            settings[name[15:]] = value
            with suppress(msgspec.DecodeError, TypeError):
                settings[name[15:]] = msgspec.json.decode(value)
    config.registry.server_session = chosen(settings.pop("sessions", None), settings) or configured()
    config.set_session_factory(_Session)
    config.set_csrf_storage_policy(_CsrfTokens())
    config.add_view_deriver(_checked, "server_session", under="secured_view", over="csrf_view")
    config.add_tween("server_session.pyramid.sessions_tween")
    config.add_subscriber(lambda event: event.update({**_FUNCTIONS, **event}), events.BeforeRender)
    config.add_exception_view(_refused, context=UnavailableError)


class CsrfRejected(exceptions.BadCSRFToken, httpexceptions.HTTPForbidden):  # type: ignore[misc]
    """A request that another site may have forged: 403. A view of `BadCSRFToken` or `HTTPForbidden` may show it."""

    code, title, explanation = 403, "Forbidden", UNVERIFIED

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(headerlist=[*refusal.headers], app_iter=[refusal.body])
        self.rejection = refusal.rejection


@implementer(interfaces.ISession)  # pyright: ignore[reportUntypedClassDecorator]
class _Session(LazySession):
    def __init__(self, request: Any) -> None:
        self._request, self._exchange = request, _exchange_of(request)
        super().__init__(self._exchange.blocking.load)

    @property
    def created(self) -> int:
        self.loaded().mark_accessed()
        return int(self._exchange.stored.founded)

    @property
    def new(self) -> bool:
        self.loaded().mark_accessed()
        return self._exchange.is_new

    def changed(self) -> None:
        """Do nothing: changes are seen."""

    def flash(self, msg: Any, queue: str = "", allow_duplicate: bool = True) -> None:
        shown = self._request.localizer.translate(msg) if hasattr(msg, "interpolate") else msg
        if allow_duplicate or shown not in self.peek_flash(queue):
            self.setdefault("_f_" + queue, []).append(shown)

    def pop_flash(self, queue: str = "") -> Any:
        return self.pop("_f_" + queue, [])

    def peek_flash(self, queue: str = "") -> Any:
        return self.get("_f_" + queue, [])

    def get_csrf_token(self) -> str:
        return self._exchange.blocking.csrf_token()

    new_csrf_token = get_csrf_token
    invalidate = LazySession.clear

    def __json__(self, _request: object) -> dict[str, Any]:
        return self.copy()


class _CsrfTokens(csrf.LegacySessionCSRFStoragePolicy):  # type: ignore[misc]
    def check_csrf_token(self, request: Any, supplied_token: str) -> bool:
        validate = request.registry.server_session.sync.validate_csrf_token
        own = (request.method, request.script_name + request.path_info)
        return any(validate(request, supplied_token, scope=scope) for scope in (None, own))


def sessions_tween(handler: Callable[[Any], Any], _registry: object) -> Callable[[Any], Any]:
    """Make the tween that stores the session when there is a response, while another may still take its place."""

    def tween(request: Any) -> Any:
        blocking, body = _exchange_of(request).blocking, None
        try:
            response = _own(handler(request), request)
            body = response.app_iter
            blocking.commit_late()
        except (UnavailableError, CsrfRejected):
            close_body(body)
            response = _own(request.invoke_exception_view(), request)
            # A write that was not answered may have swapped the cookie all the same.
            blocking.commit()
        return response

    return tween


def _own(response: Any, request: Any) -> Any:
    """Return a response that is this request's alone: whoever made it may answer others with it, at the same time."""
    if response is vars(request).get("response"):
        return response
    kind: Any = type(response)
    own = kind.__new__(kind)
    vars(own).update(vars(response))
    own.headerlist = [*response.headerlist]
    return own


def _checked(view: Callable[[Any, Any], Any], info: Any) -> Callable[[Any, Any], Any]:
    """Make a view that is not called for a request that another site may have forged."""
    given, is_exempt = info.original_view, info.options.get("require_csrf") is False and not info.exception_only
    # Of a class it is this method that is called, and the class is what it is grouped in.
    endpoint = (getattr(given, info.options.get("attr") or "__call__", None), given, _EXEMPT if is_exempt else None)

    def checked(context: Any, request: Any) -> Any:
        exchange, method = _exchange_of(request), request.method
        # A view of exceptions comes first where no other was found.
        is_asked = info.exception_only and (exchange.asked or exchange.refusal) is not None
        if exchange.may_be_forged(method) and not is_asked:
            body = adapters.FileBody(request.body_file_raw) if request.is_body_seekable else WsgiBody(request.environ)
            if refusal := exchange.blocking.check(body, endpoint=lambda: endpoint, method=method):
                raise refusal.error or CsrfRejected(refusal)
        return view(context, request)

    return checked


def _refused(error: UnavailableError, request: Any) -> Any:
    refusal = _exchange_of(request).refuse(error)
    page = CsrfRejected(refusal) if refusal.rejection else httpexceptions.HTTPServiceUnavailable(refusal.said)
    return request.invoke_exception_view((type(page), page, None))


def _exchange_of(request: Any) -> Exchange:
    exchange: Exchange = request.registry.server_session.exchange(WsgiRequest.of(request.environ))
    if not exchange.is_served:
        exchange.serve(found=True)
        request.add_response_callback(_answer)
        request.add_finished_callback(lambda _: exchange.leave())
    return exchange


def _answer(request: Any, response: Any) -> None:
    if request.response_callbacks:  # Others are still to run, and may write to the session: this one runs last.
        request.add_response_callback(_answer)
        return
    exchange, body = _exchange_of(request), response.app_iter
    if exchange.refusal is None:
        exchange.blocking.commit_late()
    is_streamed = not isinstance(body, list) and response.content_length is None
    exchange.answer(response, varies=is_streamed)
    if is_streamed:
        response.app_iter = adapters.StreamedBody(body, exchange.blocking)

"""The check for forged requests in the place of Django's own, and its token in Django's templates."""

import logging
from collections.abc import Callable, Coroutine
from contextlib import suppress
from functools import partial, wraps
from typing import Any, Final, TypeAlias, TypeVar, overload

from asgiref.sync import async_to_sync, iscoroutinefunction, sync_to_async
from django.conf import global_settings, settings
from django.http import HttpRequest, HttpResponse, UnreadablePostError
from django.http.request import RawPostDataException
from django.http.response import HttpResponseBase
from django.middleware.csrf import CsrfViewMiddleware as DjangoCsrfViewMiddleware
from django.template import engines
from django.template.context_processors import csrf as djangos_context
from django.template.response import SimpleTemplateResponse
from django.urls import get_callable
from django.utils.decorators import method_decorator
from django.utils.deprecation import MiddlewareMixin
from django.utils.log import log_response
from django.utils.module_loading import import_string

from server_session._arguments import TokenScope, scope_of
from server_session._colour import drive, is_driven
from server_session.csrf import decorators
from server_session.csrf.html import csrf_input, csrf_meta, csrf_script
from server_session.csrf.policy import CSRF
from server_session.csrf.refusals import Refusal
from server_session.csrf.verdict import Protection
from server_session.django._headers import DjangoHeaders
from server_session.django._project import PROJECT, required
from server_session.django._session import answer_of, exchange_of, found_session, session_of
from server_session.exceptions import ColourError, ConfigurationError, StoreError, UnavailableError
from server_session.exchange import Exchange
from server_session.http.body import can_bear_token, token_in
from server_session.http.responses import never_store

__all__ = ["CsrfViewMiddleware", "aget_token", "csrf", "csrf_protect", "ensure_csrf_cookie", "get_token"]

V = TypeVar("V", bound=Callable[..., Any])
Waits: TypeAlias = Coroutine[Any, Any, Any]

_LOG: Final = logging.getLogger("django.security.csrf")

# Where Django's own log-in rotates what is its check's, and what its csrf_protect then sets as the cookie.
_ROTATED: Final = "CSRF_COOKIE"
# What `{% csrf_token %}` calls its field.
_DJANGOS_FIELD: Final = "csrfmiddlewaretoken"
_FORMS: Final = ("application/x-www-form-urlencoded", "multipart/form-data")


class CsrfViewMiddleware(MiddlewareMixin):
    """Refuses requests that another site may have forged; it stands where Django's CsrfViewMiddleware stands.

    Every view is checked that is not exempt, by the policy that `SERVER_SESSION["csrf"]` has; what no view serves is
    not. Django's own `csrf_exempt` is honoured, and its `csrf_protect`, which wraps the admin and the log-in, takes
    this check for its own. `CSRF_TRUSTED_ORIGINS`, `CSRF_HEADER_NAME` and `CSRF_FAILURE_VIEW` count here too. The token
    may be in a field called `csrfmiddlewaretoken`; where Django parses forms (POST) the form is read by its upload
    handlers, and only if the headers leave it to a token and none is in a header.

    Raises:
        ConfigurationError: a setting that cannot work.

    """

    def __init__(self, get_response: Any) -> None:
        super().__init__(get_response)
        _require_settings()
        # On a loop the other colour would cost each request a change of threads; what a subclass has is left to it.
        if self.async_mode and type(self).process_view is CsrfViewMiddleware.process_view:
            self.process_view = _check  # type: ignore[assignment]

    def __call__(self, request: HttpRequest) -> Any:
        """Serve one request."""
        if self.async_mode:
            return self.__acall__(request)
        response: Any = self.get_response(request)
        return drive(_with_token_anew(request, response)) if _ROTATED in request.META else response

    async def __acall__(self, request: HttpRequest) -> HttpResponseBase:
        """Serve one request, on the event loop."""
        response: HttpResponseBase = await self.get_response(request)  # type: ignore[misc]
        return await _with_token_anew(request, response) if _ROTATED in request.META else response

    def process_view(self, request: HttpRequest, view: Callable[..., Any], *_: object) -> HttpResponseBase | None:
        """Return the answer to a request that is refused; `None` where the view may serve it."""
        return drive(_check(request, view))


async def _check(request: Any, view: Callable[..., Any], *_: object) -> HttpResponseBase | None:
    """Return the answer to a request that is refused; `None` where the view may serve it."""
    exchange = exchange_of(request)
    policy = required(exchange.sessions.csrf)
    # Django's test client has it so, unless it is told `enforce_csrf_checks=True`.
    if getattr(request, "_dont_enforce_csrf_checks", False) or not exchange.may_be_forged(request.method):
        request.csrf_processing_done = True
        return None
    if is_driven():
        return _check_unsafe(request, exchange, policy, view)
    # To parse a form may be to write an upload to a disk, and a page of the project's may ask a database.
    return await sync_to_async(_check_unsafe)(request, exchange, policy, view)


def _check_unsafe(request: Any, exchange: Exchange, policy: CSRF, view: Callable[..., Any]) -> HttpResponse | None:
    refusal = exchange.blocking.check(
        endpoint=partial(_endpoint, view),
        method=request.method,
        find=lambda: request.META.get(settings.CSRF_HEADER_NAME) or _token_in_body(request, policy),
    )
    if refusal is not None:
        return _answer(request, refusal)
    is_exempt = exchange.asked is not None and exchange.asked.exempt
    try:
        # Django's own csrf_protect, and whatever asks its check, takes this for an answer.
        request.csrf_processing_done = not is_exempt or _would_pass(request, exchange, policy)
    except StoreError as error:
        return answer_of(exchange.refuse(error))
    return None


def _would_pass(request: Any, exchange: Exchange, policy: CSRF) -> bool:
    """Tell whether a request to an exempt view would pass the check; without a cookie it would not.

    It is not refused here. An exempt view that checks by itself, as Django REST framework's do for a user who logged in
    by a session, asks Django's check, which knows nothing of our token: that lets the request pass where it is told
    that the check has been done, and else refuses it. The body is the view's own and is not read.
    """
    if not exchange.stored.has_cookie:
        return False
    find = partial(request.META.get, settings.CSRF_HEADER_NAME)
    return drive(exchange.judged(exchange.blocking.run, policy, Protection(), request.method, find=find)) is None


def _endpoint(view: Callable[..., Any]) -> Callable[..., Any]:
    # Django's csrf_exempt counts as ours does: less than a mark that asks for more.
    return decorators.csrf_exempt(partial(view)) if getattr(view, "csrf_exempt", False) else view


def _is_awaited(view: Any) -> bool:
    """Tell whether what the view returns is awaited; so is what a class with async methods dispatches, by a `def`."""
    bound = view.func if isinstance(view, partial) else view
    # Django's own marks are seen by this one alone, in Python 3.11.
    is_coroutine_function: bool = iscoroutinefunction(view)  # pyright: ignore[reportDeprecated]
    return is_coroutine_function or getattr(getattr(bound, "__self__", None), "view_is_async", False)


def _token_in_body(request: HttpRequest, policy: CSRF) -> str | None:
    find: Callable[[str], str | None]
    try:
        if request.method == "POST" and request.content_type in _FORMS:
            # What is too much for Django, or malformed, is a 400 as ever.
            find = request.POST.get
        else:
            kind = str(request.META.get("CONTENT_TYPE", "")).encode("latin-1", "replace")
            find = partial(token_in, kind, _short_body(request, policy.body_limit) if can_bear_token(kind) else b"")
        return next((token for name in (policy.field, _DJANGOS_FIELD) if (token := find(name))), None)
    except (UnreadablePostError, RawPostDataException):
        # Whoever hung up gets no answer; whoever has read the body before it is the middleware's concern.
        return None


def _short_body(request: HttpRequest, most: int) -> bytes:
    length = str(request.META.get("CONTENT_LENGTH", ""))
    if settings.DATA_UPLOAD_MAX_MEMORY_SIZE is not None:
        most = min(most, settings.DATA_UPLOAD_MAX_MEMORY_SIZE)
    # One of unknown length is not read, for it would be read whole. A float is made of however many digits.
    is_known = length.isascii() and length.isdigit()
    return request.body if is_known and float(length) <= most else b""


def _answer(request: HttpRequest, refusal: Refusal) -> HttpResponse:
    response = answer_of(refusal)
    if refusal.rejection is None:
        return response
    code = refusal.rejection.code
    if settings.CSRF_FAILURE_VIEW != global_settings.CSRF_FAILURE_VIEW:
        view: Any = get_callable(settings.CSRF_FAILURE_VIEW)
        # A page with a form of its own, whose token cannot be had, gives way to ours.
        with suppress(UnavailableError):
            response = (async_to_sync(view) if _is_awaited(view) else view)(request, reason=code)
    log_response("Forbidden (%s): %s", code, request.path, response=response, request=request, logger=_LOG)
    return response


# --- the token in a response: for views, for templates, and for scripts in a cookie


def get_token(request: HttpRequest, scope: TokenScope | None = None) -> str:
    """Return a fresh CSRF token; found a session if there is none.

    It is what `django.middleware.csrf.get_token` is under Django's own middleware, whose token does not pass here. Of
    `rotate_token` there is no twin: at every log-in the session is renewed, and its tokens with it.

    Args:
        request: the request.
        scope: a method and path for which alone it is good, `("POST", "/transfer")`; by default it is for the session.

    """
    session = session_of(request)
    try:
        return session.run(lambda: session.stored.csrf_token(scope_of(scope)))
    except ColourError as error:
        raise ColourError(f"{error}; for a token `await aget_token(request)`, and give that to a template") from error


async def aget_token(request: HttpRequest, scope: TokenScope | None = None) -> str:
    """Do what `get_token` does, in an async view.

    A template cannot await. Where the store has to be asked first (the request brought a cookie, and nothing has
    looked at the session yet), an async view gives it the token,
    `render(request, "cart.html", {"csrf_token": await aget_token(request)})`.
    """
    session = session_of(request)
    return await session.arun(session.stored.csrf_token(scope_of(scope)))


def csrf(request: HttpRequest) -> dict[str, Any]:
    """Give templates `csrf_token`, which `{% csrf_token %}` inserts too, `csrf_input`, `csrf_meta` and `csrf_script`.

    It is a context processor, for each engine in `TEMPLATES`. A session is founded only where one of them is used. The
    field is called `csrfmiddlewaretoken`, as Django has it, beside which that of the policy passes too.
    """
    # No middleware has served it: a page of an error in one further out, or a test's.
    if found_session(request) is None:
        return {"csrf_token": "", "csrf_input": "", "csrf_meta": "", "csrf_script": csrf_script}
    # Where nothing is checked its elements have the usual names.
    policy = PROJECT.sessions().csrf or CSRF()
    meta = partial(csrf_meta, header=policy.header, field=_DJANGOS_FIELD, single_use=policy.single_use)
    return {
        "csrf_token": _WithToken(request, str),
        "csrf_input": _WithToken(request, partial(csrf_input, field=_DJANGOS_FIELD)),
        "csrf_meta": _WithToken(request, meta),
        "csrf_script": csrf_script,
    }


class _WithToken:
    """What templates get anew at each place: a token may pass once, and each form of a page needs its own."""

    def __init__(self, request: HttpRequest, element: Callable[[str], str]) -> None:
        self._request = request
        self._element = element

    def __str__(self) -> str:
        try:
            return self._element(session_of(self._request).stored.csrf_token_now(""))
        except ColourError:
            # On a loop that the store would stall it is an error too, which says what to do.
            return self._element(get_token(self._request))

    __html__ = __str__


async def _give_token(request: HttpRequest, response: HttpResponseBase) -> HttpResponseBase:
    """Return the response with the cookie in which scripts find a token, as Django's settings have it."""
    if settings.CSRF_USE_SESSIONS:
        return response
    token = get_token(request) if is_driven() else await aget_token(request)
    never_store(DjangoHeaders(response))
    origins = PROJECT.sessions().origins
    response.set_cookie(
        settings.CSRF_COOKIE_NAME,
        token,
        max_age=settings.CSRF_COOKIE_AGE,
        domain=settings.CSRF_COOKIE_DOMAIN,
        path=settings.CSRF_COOKIE_PATH,
        secure=settings.CSRF_COOKIE_SECURE or (bool(origins) and origins[0].startswith("https:")),
        httponly=settings.CSRF_COOKIE_HTTPONLY,
        samesite=settings.CSRF_COOKIE_SAMESITE,
    )
    return response


async def _with_token_anew(request: HttpRequest, response: HttpResponseBase) -> HttpResponseBase:
    """Give the browser another token where it has one of before a log-in, in the place of what Django's check set."""
    name = settings.CSRF_COOKIE_NAME
    morsel = response.cookies.get(name)
    if morsel is not None:
        if morsel.value != request.META[_ROTATED]:
            return response
        del response.cookies[name]
    session = found_session(request)
    has_session = session is not None and session.session_key is not None
    return await _give_token(request, response) if has_session and name in request.COOKIES else response


@overload
def csrf_protect(view: V, /) -> V: ...
@overload
def csrf_protect(
    *, strict: bool = False, every_method: bool = False, anonymous: bool = False, scoped: bool = False
) -> Callable[[V], V]: ...
def csrf_protect(view: Any = None, /, **asks: bool) -> Any:  # noqa: D417 - each is told by its name
    """Check a view's requests where no middleware does, or ask for more than the application's policy.

    Bare it is what Django's is: it checks when the view is called, unless that has been done, and lets no `cache_page`
    around it keep a page with a token. Put it on a view, or on a class of views.

    Args:
        view: the view, where no option is given.
        strict: it needs a valid token, whatever the browser's headers say.
        every_method: GET and its like are checked as a POST is: they have effects here.
        anonymous: a request without the session's cookie is checked like one with it: a log-in.
        scoped: it needs a token issued for this very method and path,
            `get_token(request, scope=("POST", "/transfer"))`.

    """
    mark: Callable[[Any], Any] = decorators.csrf_protect(**asks) if any(asks.values()) else lambda view: view

    def decorate(view: Any) -> Any:
        if isinstance(view, type):
            return mark(method_decorator(decorate, name="dispatch")(view))
        # What is put around the view exempts it from the middleware's check, and not from this one.
        endpoint = mark(partial(view))
        return mark(_around(view, _keep_private, endpoint))

    return decorate if view is None else decorate(view)


def ensure_csrf_cookie(view: V) -> V:
    """Give the response of a view a fresh token in a cookie, for scripts that send it back as `X-CSRFToken`.

    The cookie is Django's: `CSRF_COOKIE_NAME` and its like say how it is, and Secure follows from an https origin. It
    is of use to such scripts alone, and no request is let pass for having it; nothing is set with `CSRF_USE_SESSIONS`.
    """
    return _around(view, _give_token)


def _around(view: V, complete: Callable[[Any, Any], Waits], endpoint: Callable[..., Any] | None = None) -> V:
    """Return a view, in its own colour, of whose response `complete` makes another; checked as `endpoint`, if given."""

    def serve(request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
        refused = None if endpoint is None else drive(_check(request, endpoint))
        return drive(complete(request, view(request, *args, **kwargs))) if refused is None else refused

    async def aserve(request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
        refused = None if endpoint is None else await _check(request, endpoint)
        return await complete(request, await view(request, *args, **kwargs)) if refused is None else refused

    return wraps(view)(aserve if _is_awaited(view) else serve)  # type: ignore[return-value]


async def _keep_private(request: HttpRequest, response: Any) -> Any:
    """Let no `cache_page` around the view keep a page with a token: what the middleware says of it comes too late."""

    def say(rendered: HttpResponseBase) -> None:
        if session_of(request).stored.token_given:
            never_store(DjangoHeaders(rendered))

    if isinstance(response, SimpleTemplateResponse):
        response.add_post_render_callback(say)
    else:
        say(response)
    return response


# --- what cannot work


def _require_settings() -> None:
    for name in settings.MIDDLEWARE:
        middleware = import_string(name)
        if isinstance(middleware, type) and issubclass(middleware, DjangoCsrfViewMiddleware):
            raise ConfigurationError(
                f"MIDDLEWARE has both {name!r} and server_session's CsrfViewMiddleware, and each refuses the other's "
                "tokens: leave either out"
            )
    required(PROJECT.sessions().csrf)
    for alias in engines:
        engine: Any = engines[alias]
        processors = getattr(getattr(engine, "engine", engine), "template_context_processors", ())
        given = [processor for processor in processors if processor in (csrf, djangos_context)]
        # An engine of another kind has none that could be looked for.
        if processors != () and given[-1:] != [csrf]:
            raise ConfigurationError(
                f"the forms of the templates of TEMPLATES' engine {alias!r} would have a token of Django's own check, "
                f"which does not pass here: add 'server_session.django.csrf' as the last of "
                'its OPTIONS["context_processors"]'
            )

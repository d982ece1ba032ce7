"""The check for forged requests in the place of Django's own, and its token in Django's templates."""

import logging
import re
from collections.abc import Callable
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
from django.utils.cache import patch_vary_headers
from django.utils.decorators import method_decorator
from django.utils.deprecation import MiddlewareMixin
from django.utils.functional import SimpleLazyObject
from django.utils.log import log_response
from django.utils.module_loading import import_string
from django.utils.safestring import SafeString

from server_session import _demands
from server_session._body import TokenField, TokenSearch
from server_session._carrier import facts_of, resolve, state_of
from server_session._colour import running_library
from server_session._csrf import CSRF, NOTHING_MORE, Demand, check
from server_session._demands import csrf_exempt, demand_of
from server_session._guard import Guard, guard_of
from server_session._html import csrf_input, csrf_meta
from server_session._lifecycle import Visit
from server_session._refusal import REJECTION_HEADER, Refusal
from server_session._response import headers_of, never_store
from server_session._steps import GET_TOKEN
from server_session._tokens import TokenState
from server_session.django._project import PROJECT
from server_session.django._session import SessionStore, answer_of, instead_of, session_of
from server_session.exceptions import ColourError, ConfigurationError, CookieWithheldError, StoreError

__all__ = [
    "CsrfViewMiddleware",
    "aget_token",
    "csrf",
    "csrf_exempt",
    "csrf_protect",
    "ensure_csrf_cookie",
    "get_token",
]

V = TypeVar("V", bound=Callable[..., Any])
TokenScope: TypeAlias = tuple[str, str]
Around: TypeAlias = Callable[[HttpRequest, Callable[[], Any]], Any]

_LOG: Final = logging.getLogger("django.security.csrf")

# What `{% csrf_token %}` calls its field.
_DJANGOS_FIELD: Final = "csrfmiddlewaretoken"
_FORMS: Final = ("application/x-www-form-urlencoded", "multipart/form-data")
_LENGTH: Final = re.compile(r"[0-9]{1,18}", re.ASCII)
_PROCESSOR: Final = "server_session.django.csrf"

_MET: Final = "_server_session_demand_met"
"""The attribute of a request that has been checked: the demand that was held against it."""


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
            self.process_view = self._aprocess_view  # type: ignore[assignment]

    def __call__(self, request: HttpRequest) -> Any:
        """Serve one request."""
        if self.async_mode:
            return self.__acall__(request)
        response: Any = self.get_response(request)
        if _is_rotated(request, response):
            _give(response, get_token(request))
        return response

    async def __acall__(self, request: HttpRequest) -> HttpResponseBase:
        """Serve one request, on the event loop."""
        answered: Any = self.get_response(request)
        response: HttpResponseBase = await answered
        if _is_rotated(request, response):
            _give(response, await aget_token(request))
        return response

    def process_view(self, request: HttpRequest, view: Callable[..., Any], *_: object) -> HttpResponseBase | None:
        """Return the answer to a request that is refused; `None` where the view may serve it."""
        try:
            return _Check(request, view).run()
        except StoreError as error:
            return instead_of(error, request)

    async def _aprocess_view(
        self, request: HttpRequest, view: Callable[..., Any], *_: object
    ) -> HttpResponseBase | None:
        try:
            return await _Check(request, view).arun()
        except StoreError as error:
            return instead_of(error, request)


class _Check:
    """The check of one request, for the view that will serve it."""

    def __init__(self, request: HttpRequest, view: Callable[..., Any]) -> None:
        self._request = request
        self._session = session_of(request)
        self._sessions = PROJECT.sessions()
        self._policy = _policy()
        self._carried = resolve((request,)).request
        self._seen_method = request.method or ""
        # Django's csrf_exempt counts as ours does: less than a mark that asks for more.
        self._view = csrf_exempt(partial(view)) if getattr(view, "csrf_exempt", False) else view
        self._guard = self._guard_of()
        self._demand = NOTHING_MORE if self._guard is None else demand_of(self._view, self._seen_method, self._policy)

    def _guard_of(self) -> Guard | None:
        # As Django's test client has it, unless it is told `enforce_csrf_checks=True`.
        if getattr(self._request, "_dont_enforce_csrf_checks", False):
            return None
        return guard_of(self._sessions, self._carried, lambda: self._view, self._seen_method)

    def run(self) -> HttpResponseBase | None:
        """Return the answer to a request that is refused; `None` where it may pass."""
        guard = self._guard
        if guard is None or self._demand.exempt:
            if guard is None or self._session.ask(self._is_own):
                self._accept()
            return None
        if guard.needs_token:
            token = self._token_in_header() or _token_in_body(self._request, guard.field)
            self._session.ask(partial(guard.weigh, token=token))
        refusal = self._refusal_by(guard)
        return None if refusal is None else self._answer(refusal)

    async def arun(self) -> HttpResponseBase | None:
        """Do what `run` does."""
        guard = self._guard
        if guard is None or self._demand.exempt:
            if guard is None or await self._session.aask(self._is_own):
                self._accept()
            return None
        if guard.needs_token:
            # To parse a form may be to write an upload to a disk.
            token = self._token_in_header() or await sync_to_async(_token_in_body)(self._request, guard.field)
            await self._session.aask(partial(guard.weigh, token=token))
        refusal = self._refusal_by(guard)
        return None if refusal is None else await sync_to_async(self._answer)(refusal)

    def _accept(self) -> None:
        setattr(self._request, _MET, self._demand)
        # Django's own csrf_protect, and whatever asks its check, takes this for an answer.
        self._request.csrf_processing_done = True  # type: ignore[attr-defined]

    async def _is_own(self, visit: Visit) -> bool:
        """Tell whether a request to an exempt view would pass.

        It is not refused here if not. Who checks by itself, as Django REST framework does for whoever logged in by a
        session, asks Django's check, which knows nothing of our token: where it is told that this has been done it
        lets the request pass, and else it refuses. The body is the view's own and is not read.
        """
        if not self._sessions.cookie.is_present(self._carried):
            return False
        method = state_of(self._carried).wire_method or self._seen_method
        verdict = partial(
            check,
            facts_of(self._carried, method, self._seen_method, has_cookie=True),
            self._policy,
            self._sessions.origins,
            NOTHING_MORE,
        )
        rejection = verdict(TokenState.UNREAD)
        token = self._token_in_header() if rejection is not None and rejection.needs_token else None
        if token is not None:
            rejection = verdict(await visit.admit(token, ("",)))
        return rejection is None

    def _token_in_header(self) -> str | None:
        names = ("HTTP_" + self._policy.header.upper().replace("-", "_"), settings.CSRF_HEADER_NAME)
        return next((value for name in names if (value := self._request.META.get(name))), None)

    def _refusal_by(self, guard: Guard) -> Refusal | None:
        rejection = guard.conclude(self._session.visit)
        if rejection is None:
            self._accept()
            return None
        return guard.refusal(rejection)

    def _answer(self, refusal: Refusal) -> HttpResponse:
        code = dict(refusal.headers)[REJECTION_HEADER]
        response = self._projects_page(code) or answer_of(refusal)
        response.headers[REJECTION_HEADER] = code
        never_store(headers_of(response))
        patch_vary_headers(response, ("Origin", "Sec-Fetch-Site"))
        log_response(
            "Forbidden (%s): %s", code, self._request.path, response=response, request=self._request, logger=_LOG
        )
        return response

    def _projects_page(self, code: str) -> HttpResponse | None:
        if settings.CSRF_FAILURE_VIEW == global_settings.CSRF_FAILURE_VIEW:
            return None
        view: Callable[..., Any] = get_callable(settings.CSRF_FAILURE_VIEW)
        answer = async_to_sync(view) if _is_awaited(view) else view
        try:
            response: HttpResponse = answer(self._request, reason=code)
        except (StoreError, CookieWithheldError):
            # The page has a form of its own, whose token cannot be had.
            return None
        return response


def _token_in_body(request: HttpRequest, field: TokenField) -> str | None:
    names = (field.name, _DJANGOS_FIELD)
    try:
        if request.method == "POST" and request.content_type in _FORMS:
            # What is too much for Django, or malformed, is a 400 as ever.
            form = request.POST
            return next((token for name in names if (token := form.get(name))), None)
        return _token_in_bytes(request, names, field.limit)
    except (UnreadablePostError, RawPostDataException):
        # Whoever hung up gets no answer; whoever has read the body before it is the middleware's concern.
        return None


def _token_in_bytes(request: HttpRequest, names: tuple[str, ...], limit: int) -> str | None:
    length = str(request.META.get("CONTENT_LENGTH", ""))
    most = limit if settings.DATA_UPLOAD_MAX_MEMORY_SIZE is None else min(limit, settings.DATA_UPLOAD_MAX_MEMORY_SIZE)
    # A body of unknown length is not read, for it would be read whole.
    if not _LENGTH.fullmatch(length) or int(length) > most:
        return None
    for name in names:
        search = TokenSearch(request.META.get("CONTENT_TYPE"), TokenField(name, limit))
        if not search.done:
            search.feed(request.body)
            search.end()
        if search.token:
            return search.token
    return None


# --- the token


def get_token(request: HttpRequest, scope: TokenScope | None = None) -> str:
    """Return a fresh CSRF token; found a session if there is none.

    It is what `django.middleware.csrf.get_token` is under Django's own middleware, whose token does not pass here. Of
    `rotate_token` there is no twin: at every log-in the session is renewed, and its tokens with it.

    Args:
        request: the request.
        scope: a method and path for which alone it is good, `("POST", "/transfer")`; by default it is for the session.

    """
    return session_of(request).ask(lambda visit: GET_TOKEN.body(visit, scope))


async def aget_token(request: HttpRequest, scope: TokenScope | None = None) -> str:
    """Do what `get_token` does, in an async view.

    A template cannot await: over a store that does not answer at once, an async view gives it the token,
    `render(request, "cart.html", {"csrf_token": await aget_token(request)})`.
    """
    return await session_of(request).aask(lambda visit: GET_TOKEN.body(visit, scope))


def csrf(request: HttpRequest) -> dict[str, Any]:
    """Give templates `csrf_token`, which `{% csrf_token %}` inserts too, `csrf_input` and `csrf_meta`.

    It is a context processor, for each engine in `TEMPLATES`. A session is founded only where one of them is used. The
    field is called `csrfmiddlewaretoken`, as Django has it, beside which that of the policy passes too.
    """
    # No middleware has served it: a page of an error in one further out, or a test's.
    if not isinstance(getattr(request, "session", None), SessionStore):
        return {"csrf_token": "", "csrf_input": "", "csrf_meta": ""}
    policy = PROJECT.sessions().csrf or _NO_POLICY
    lazy: Callable[[Callable[[], str]], Any] = _Each if policy.single_use else SimpleLazyObject
    token = lazy(partial(_token_for_template, request))

    def html(element: Callable[[str], str]) -> Any:
        return lazy(lambda: SafeString(element(str(token))))

    return {
        "csrf_token": token,
        "csrf_input": html(partial(csrf_input, field=_DJANGOS_FIELD)),
        "csrf_meta": html(partial(csrf_meta, header=policy.header, field=_DJANGOS_FIELD, single_use=policy.single_use)),
    }


class _Each:
    """What a template gets anew at each place: a token passes once, and each form of the page needs its own."""

    def __init__(self, make: Callable[[], str]) -> None:
        self._make = make

    def __str__(self) -> str:
        return self._make()

    def __html__(self) -> str:
        return self._make()


def _token_for_template(request: HttpRequest) -> str:
    try:
        return get_token(request)
    except ColourError as error:
        if running_library() is None:
            raise
        raise ColourError(
            "a template that an async view renders cannot wait for the session store: give it the token, "
            'render(request, …, {"csrf_token": await aget_token(request)})'
        ) from error


# --- decorators


@overload
def csrf_protect(view: V, /) -> V: ...
@overload
def csrf_protect(
    *, strict: bool = False, every_method: bool = False, anonymous: bool = False, scoped: bool = False
) -> Callable[[V], V]: ...
def csrf_protect(
    view: Any = None,
    /,
    *,
    strict: bool = False,
    every_method: bool = False,
    anonymous: bool = False,
    scoped: bool = False,
) -> Any:
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
    asks = strict or every_method or anonymous or scoped
    mark: Callable[[Any], Any] = (
        _demands.csrf_protect(strict=strict, every_method=every_method, anonymous=anonymous, scoped=scoped)
        if asks
        else _as_it_is
    )

    def decorate(view: Any) -> Any:
        if isinstance(view, type):
            return mark(method_decorator(decorate, name="dispatch")(view))
        # What is put around the view exempts it from the middleware's check, and not from this one.
        endpoint = mark(partial(view))

        def serve(request: HttpRequest, call: Callable[[], Any]) -> Any:
            refused = None if _is_met(request, endpoint) else _Check(request, endpoint).run()
            return _kept_private(request, call()) if refused is None else refused

        async def aserve(request: HttpRequest, call: Callable[[], Any]) -> Any:
            refused = None if _is_met(request, endpoint) else await _Check(request, endpoint).arun()
            return _kept_private(request, await call()) if refused is None else refused

        return mark(_around(view, serve, aserve))

    return decorate if view is None else decorate(view)


def ensure_csrf_cookie(view: V) -> V:
    """Give the response of a view a fresh token in a cookie, for scripts that send it back as `X-CSRFToken`.

    The cookie is Django's: `CSRF_COOKIE_NAME` and its like say how it is, and Secure follows from an https origin. It
    is of use to such scripts alone, and no request is let pass for having it; nothing is set with `CSRF_USE_SESSIONS`.
    """

    def serve(request: HttpRequest, call: Callable[[], Any]) -> Any:
        response = call()
        if not settings.CSRF_USE_SESSIONS:
            _give(response, get_token(request))
        return response

    async def aserve(request: HttpRequest, call: Callable[[], Any]) -> Any:
        response = await call()
        if not settings.CSRF_USE_SESSIONS:
            _give(response, await aget_token(request))
        return response

    around: V = _around(view, serve, aserve)
    return around


def _as_it_is(view: Any) -> Any:
    return view


def _around(view: Any, serve: Around, aserve: Around) -> Any:
    if _is_awaited(view):

        @wraps(view)
        async def awaiting(request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
            return await aserve(request, partial(view, request, *args, **kwargs))

        return awaiting

    @wraps(view)
    def blocking(request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
        return serve(request, partial(view, request, *args, **kwargs))

    return blocking


def _is_awaited(view: Any) -> bool:
    """Tell whether what the view returns is awaited; so is what a class with async methods dispatches, by a `def`."""
    bound = view.func if isinstance(view, partial) else view
    # Django's own marks are seen by this one alone, in Python 3.11.
    is_coroutine_function: bool = iscoroutinefunction(view)  # pyright: ignore[reportDeprecated]
    return is_coroutine_function or getattr(getattr(bound, "__self__", None), "view_is_async", False)


def _is_met(request: HttpRequest, view: Any) -> bool:
    """Tell whether the request has been checked for all that this view asks."""
    met: Demand | None = getattr(request, _MET, None)
    if met is None:
        return False
    asked = demand_of(view, request.method or "", _policy())
    return all(getattr(met, name) or not getattr(asked, name) for name in Demand._fields)


def _kept_private(request: HttpRequest, response: Any) -> Any:
    """Let no `cache_page` around the view keep a page with a token: what the middleware says of it comes too late."""

    def say(rendered: HttpResponseBase) -> None:
        if session_of(request).visit.token_given:
            never_store(headers_of(rendered))

    if isinstance(response, SimpleTemplateResponse) and not response.is_rendered:
        response.add_post_render_callback(say)
    else:
        say(response)
    return response


def _give(response: HttpResponseBase, token: str) -> None:
    never_store(headers_of(response))
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


def _is_rotated(request: HttpRequest, response: HttpResponseBase) -> bool:
    """Tell whether the browser's token is one of before a log-in, and take out the one that Django's own check set."""
    # Where Django's own log-in rotates what is its check's, and what its csrf_protect then sets as the cookie.
    secret = request.META.get("CSRF_COOKIE")
    if secret is None:
        return False
    name = settings.CSRF_COOKIE_NAME
    morsel = response.cookies.get(name)
    if morsel is not None:
        if morsel.value != secret:
            return False
        del response.cookies[name]
    session = getattr(request, "session", None)
    return (
        name in request.COOKIES
        and not settings.CSRF_USE_SESSIONS
        and isinstance(session, SessionStore)
        and session.session_key is not None
    )


# --- what cannot work


def _policy() -> CSRF:
    policy = PROJECT.sessions().csrf
    # No policy is no check, and here one is asked for.
    if policy is None:
        raise ConfigurationError(
            "SERVER_SESSION has csrf=None, and server_session's CsrfViewMiddleware or csrf_protect is there to check: "
            "leave either out"
        )
    return policy


def _require_settings() -> None:
    for name in settings.MIDDLEWARE:
        middleware = import_string(name)
        if isinstance(middleware, type) and issubclass(middleware, DjangoCsrfViewMiddleware):
            raise ConfigurationError(
                f"MIDDLEWARE has both {name!r} and server_session's CsrfViewMiddleware, and each refuses the other's "
                "tokens: leave either out"
            )
    for origin in settings.CSRF_TRUSTED_ORIGINS:
        if "*" in origin:
            raise ConfigurationError(
                f"CSRF_TRUSTED_ORIGINS has {origin!r}: a wildcard trusts whoever gets hold of a subdomain; name each "
                'origin, there or as SERVER_SESSION = {"csrf": CSRF(trusted_origins=[…])}'
            )
    _policy()
    for alias in engines:
        engine: Any = engines[alias]
        processors = getattr(getattr(engine, "engine", engine), "template_context_processors", ())
        given = [processor for processor in processors if processor in (csrf, djangos_context)]
        # An engine of another kind has none that could be looked for.
        if processors != () and given[-1:] != [csrf]:
            raise ConfigurationError(
                f"the forms of the templates of TEMPLATES' engine {alias!r} would have a token of Django's own check, "
                f"which does not pass here: add {_PROCESSOR!r} as the last of "
                'its OPTIONS["context_processors"]'
            )


_NO_POLICY: Final = CSRF()

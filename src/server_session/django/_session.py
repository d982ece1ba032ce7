"""`request.session`: Django's session engine, and the middleware that serves it."""

from collections.abc import Callable, Coroutine
from copy import copy
from functools import cached_property, partial, wraps
from typing import Any, Concatenate, Final, ParamSpec, TypeVar

from django.conf import settings
from django.contrib.sessions.backends.base import CreateError, SessionBase, UpdateError
from django.contrib.sessions.middleware import SessionMiddleware as DjangoSessionMiddleware
from django.http import FileResponse, HttpRequest, HttpResponse, StreamingHttpResponse
from django.http.response import HttpResponseBase, ResponseHeaders
from django.utils.module_loading import import_string

from server_session._colour import Colour, drive, home, is_driven, run_awaiting, run_blocking
from server_session._tokens import Credential
from server_session.csrf.refusals import Refusal
from server_session.django._headers import DjangoHeaders
from server_session.django._project import EXPIRY, PROJECT
from server_session.exceptions import ConfigurationError, UnavailableError
from server_session.exchange import Exchange
from server_session.exchange.streams import StreamedBody, astreamed
from server_session.http.carrier import current, resolve
from server_session.http.requests import Request, request_of
from server_session.kernel.mapping import Session
from server_session.kernel.presence import ResponseState
from server_session.kernel.states import State
from server_session.kernel.stored import StoredSession

__all__ = ["SessionMiddleware", "SessionStore", "answer_of", "exchange_of", "found_session", "session_of"]

T = TypeVar("T")
P = ParamSpec("P")

_SERVER_ERROR: Final = 500


def _in_both_colours(body: Callable[Concatenate[Any, P], Coroutine[Any, Any, T]]) -> tuple[Any, Any]:
    """Return the engine's method that has this body, blocking, and its twin that awaits."""

    @wraps(body)
    def blocking(self: "SessionStore", *args: P.args, **kwargs: P.kwargs) -> T:
        return self.run(partial(body, self, *args, **kwargs))

    @wraps(body)
    async def awaiting(self: "SessionStore", *args: P.args, **kwargs: P.kwargs) -> T:
        return await self.arun(body(self, *args, **kwargs))

    return blocking, awaiting


class SessionStore(SessionBase):
    """Django's session engine: `request.session`, or a session by its key, in a command or a test.

    It has all that Django's engines have, with the `a` twins. Only changed keys are stored, and changes inside values
    are seen without `modified = True`. Once every field is gone by `clear()` the session is destroyed; to start anew
    in place delete its keys.

    Args:
        session_key: the cookie's value, 64 characters of base64url; anything else is no session, and a write founds
            one under a key of its own. That of the request that is served now is this request's session.

    """

    accessed = modified = False
    exchange: Exchange | None = None
    failure: UnavailableError | None = None

    def __init__(self, session_key: str | None = None) -> None:
        # Not Django's own, which would look for a serializer at each request.
        self._sessions = PROJECT.sessions()
        self._home = home() if self._sessions.store.colour is Colour.AWAITS else None
        self._key = session_key
        request = None if session_key is None else current.get()
        if request is not None:
            exchange = self._sessions.exchange(request)
            credential = exchange.stored.credential
            # Packages put such a one in the place of request.session.
            if credential is not None and credential.value == session_key:
                self.exchange = exchange

    def bind(self, request: Request) -> None:
        """Be the session of this request, that of the functions too."""
        request.home = request.home or self._home
        self.exchange = self._sessions.exchange(request)
        self.exchange.serve()

    @cached_property
    def stored(self) -> StoredSession:
        """The session as the store has it."""
        return self._stored_of(self._key) if self.exchange is None else self.exchange.stored

    # What Django's `encode` and `decode` write with: the sessions here have a codec of their own.
    serializer = property(lambda _: import_string(settings.SESSION_SERIALIZER))

    # --- what Django keeps in attributes

    def _get_session_key(self) -> str | None:
        """Return the cookie's value, or `None` where there is no session."""
        if self.stored.state is State.UNASKED and self.stored.credential is None:
            # Another engine's cookie came: an application that finds no key would found a session, and lose that one.
            self._get_session()
        credential = self.stored.credential
        return None if credential is None else credential.value

    session_key = _session_key = property(_get_session_key)  # pyright: ignore[reportIncompatibleMethodOverride]

    def _get_session(self, no_load: bool = False) -> Session:  # noqa: ARG002 - nothing here is saved unseen
        session = self.run(self.stored.load) if self.stored.session is None else self.stored.session
        self.accessed = session.accessed = True
        return session

    async def _aget_session(self, no_load: bool = False) -> Session:  # noqa: ARG002 - likewise
        session = await self.arun(self.stored.load()) if self.stored.session is None else self.stored.session
        self.accessed = session.accessed = True
        return session

    _session = property(_get_session)

    def is_empty(self) -> bool:
        """Tell whether there is neither a key nor any data."""
        return not self.session_key and not self.stored.session

    def clear(self) -> None:
        """Drop every field, seen or not. Left empty the session is destroyed, written to again it is founded anew."""
        # Not worth a call to the store: nothing of it stays.
        self.stored.mapping().clear()
        self.accessed = self.modified = True

    # --- what an engine must do

    async def _load(self) -> dict[str, Any]:
        """Return the session's data; `{}` if there is none."""
        # What the store has, without what this request has not stored yet.
        return await self._stored_of(self.session_key).get()

    async def _exists(self, session_key: str | None) -> bool:
        """Tell whether the session of this key lives."""
        return await self._stored_of(session_key).is_alive()

    async def _create(self) -> None:
        """Found a session, with the data at hand."""
        session = self.stored.session
        await self.stored.replace({} if session is None else session.copy())
        self.modified = True

    async def _save(self, must_create: bool = False) -> None:
        """Store what has changed; found the session if there is none.

        Raises `UpdateError` if it ended meanwhile, `CreateError` if it must be created and is there.
        """
        stored = self.stored
        if must_create and await stored.is_alive():
            raise CreateError
        was_loaded = stored.session is not None
        changes = (await stored.load()).changes()
        if not await stored.commit(changes):
            raise UpdateError
        if changes is None and was_loaded and not await stored.is_alive() and stored.state is State.OVER:
            raise UpdateError
        is_ended = changes is not None and changes.cleared and not changes.changed
        if stored.state in (State.NONE, State.REFUSED) and not is_ended:
            await self._create()

    async def _delete(self, session_key: str | None = None) -> None:
        """End the session of this key, by default this one."""
        await (self.stored if session_key is None else self._stored_of(session_key)).destroy()

    async def _flush(self) -> None:
        """End the session, and forget its data and its key."""
        await self.stored.destroy()
        self.accessed = self.modified = True

    async def _cycle_key(self) -> None:
        """Give the session a new key, and keep its data."""
        await self.stored.load()
        # With data, if only none: it founds a session where there is none.
        await self.stored.renew({})
        self.accessed = self.modified = True

    load, aload = _in_both_colours(_load)
    exists, aexists = _in_both_colours(_exists)
    create, acreate = _in_both_colours(_create)
    save, asave = _in_both_colours(_save)
    delete, adelete = _in_both_colours(_delete)
    flush, aflush = _in_both_colours(_flush)
    cycle_key, acycle_key = _in_both_colours(_cycle_key)

    @classmethod
    def clear_expired(cls) -> None:
        """Delete expired sessions, where the store does not do so by itself."""
        session = cls()
        session.run(session._delete_expired)

    @classmethod
    async def aclear_expired(cls) -> None:
        """Do what `clear_expired` does."""
        session = cls()
        await session.arun(session._delete_expired())

    async def _delete_expired(self) -> None:
        delete: Callable[[], Coroutine[Any, Any, int]] | None = getattr(self._sessions.store, "delete_expired", None)
        while delete is not None and await delete():
            pass

    # --- at the end of a request

    async def conclude(self, exchange: Exchange, *, keep: bool) -> None:
        """Store what the request changed (with `keep`), then choose the cookie's age, and whether it is sent again."""
        again = False
        if keep and self.exchange is None:
            # The application has put this one in the place of the request's.
            exchange.go_on_with(self.stored)
        # What changed inside a value is seen without `modified = True`.
        if keep and (self.modified or PROJECT.saves_every_request or exchange.is_pending):
            again = self.run(self._store_changes) if is_driven() else await self.arun(self._store_changes())
        if not exchange.is_asked:
            return
        stored = self.stored
        if again or (stored.changes_cookie and stored.cookie_value is not None):
            expiry = stored.seen_value(EXPIRY)
            at_close = settings.SESSION_EXPIRE_AT_BROWSER_CLOSE if expiry is None else expiry == 0
            stored.keep_cookie(0 if at_close else self.get_expiry_age(expiry=expiry), again=again)

    async def _store_changes(self) -> bool:
        """Store what changed; return whether the cookie's age starts anew in the browser, as Django has it."""
        stored, session = self.stored, self.stored.session
        changes = None if session is None else session.changes()
        if not await stored.commit(changes):
            # It ended meanwhile: the write is dropped, a signal was given, and the browser keeps what it has.
            return False
        if changes is None and (self.modified or PROJECT.saves_every_request):
            # Only a cookie that the store has just said holds is sent again. A load restarts its idle clock too.
            await (stored.load() if session is None else stored.is_alive())
            return True
        return changes is not None

    def run(self, start: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Run a coroutine of the core to its end."""
        request = current.get() if self.exchange is None else self.exchange.request
        try:
            return run_blocking(self._sessions.store.colour, self._home if request is None else request.home, start)
        except UnavailableError as error:
            self.failure = error
            raise

    async def arun(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Do what `run` does, on an event loop."""
        try:
            return await run_awaiting(self._sessions.store.colour, coroutine)
        except UnavailableError as error:
            self.failure = error
            raise

    def _stored_of(self, session_key: str | None) -> StoredSession:
        credential = Credential.parse(session_key) if isinstance(session_key, str) else None
        return StoredSession(self._sessions.policy, [] if credential is None else [credential], ResponseState.OPEN)


def found_session(request: HttpRequest) -> SessionStore | None:
    """Return `request.session` as what it is, `None` where it is another's or none."""
    session = getattr(request, "session", None)
    return session if isinstance(session, SessionStore) else None


def session_of(request: HttpRequest) -> SessionStore:
    """Return `request.session` as what it is.

    Raises `ConfigurationError` where this package's `SessionMiddleware` does not serve the request.
    """
    if (session := found_session(request)) is None:
        raise ConfigurationError(
            "request.session is not server_session's: 'server_session.django.SessionMiddleware' belongs into "
            "MIDDLEWARE, before whatever needs the session"
        )
    return session


class SessionMiddleware(DjangoSessionMiddleware):
    """Serves `request.session` and the functions; it stands where Django's SessionMiddleware stands.

    As Django does it saves what was modified, and every session with `SESSION_SAVE_EVERY_REQUEST`, unless the status
    is 500 or above. Other than Django it deletes no cookie because the session was not found, and answers as usual
    when the session has ended meanwhile: the late write is dropped. A store that does not answer is a response 503,
    a session that a request of another site's would have founded a 403 (see `CookieWithheldError`).
    With a session that the application has put in the place of `request.session` the browser goes on, as Django has it.

    Raises:
        ConfigurationError: a setting that cannot work.

    """

    def __init__(self, get_response: Any) -> None:
        super().__init__(get_response)
        if not issubclass(self.SessionStore, SessionStore):
            raise ConfigurationError(
                f"SESSION_ENGINE is {settings.SESSION_ENGINE!r}: server_session's middleware serves "
                "'server_session.django', or a module whose SessionStore is a subclass of its"
            )
        # What cannot work is said when the server starts.
        PROJECT.sessions()

    def __call__(self, request: HttpRequest) -> Any:
        """Serve one request."""
        if self.async_mode:
            return self.__acall__(request)
        self.process_request(request)
        with exchange_of(request).serving():
            return self.process_response(request, self.get_response(request))  # type: ignore[arg-type]

    async def __acall__(self, request: HttpRequest) -> HttpResponseBase:
        """Serve one request, on the event loop."""
        self.process_request(request)
        with exchange_of(request).serving():
            return await _answered(request, await self.get_response(request))  # type: ignore[misc]

    def process_request(self, request: HttpRequest) -> None:
        """Give the request its session, without a call to the store."""
        # What came is noted here: a middleware further in may let a field of the form override the method.
        session: Any = self.SessionStore()
        session.bind(request_of(request))
        request.session = session

    def process_response(self, request: HttpRequest, response: HttpResponseBase) -> Any:
        """Store the session, and put its cookie into the response."""
        return drive(_answered(request, response))

    def process_exception(self, request: HttpRequest, exception: Exception) -> HttpResponseBase | None:
        """Answer for a view whose store failed, or that would have founded a session in another site's request."""
        if not isinstance(exception, UnavailableError):
            return None
        return answer_of(PROJECT.sessions().exchange(resolve((request,)).request).refuse(exception))


def exchange_of(request: HttpRequest) -> Exchange:
    """Return the exchange that this request is; raises what `session_of` does."""
    return session_of(request).exchange or PROJECT.sessions().exchange(resolve((request,)).request)


def answer_of(refusal: Refusal) -> HttpResponse:
    """Return a refusal as a response of Django's."""
    return HttpResponse(refusal.body, status=refusal.status, headers=dict(refusal.headers))


def _own(response: HttpResponseBase) -> HttpResponseBase:
    """Return a response that is this request's alone: who made it may answer others with it, and they get no cookie."""
    # Not copy.copy: a TemplateResponse leaves out what it was made of.
    own = object.__new__(type(response))
    vars(own).update(vars(response), cookies=copy(response.cookies), headers=ResponseHeaders(dict(response.items())))
    return own


async def _answered(request: HttpRequest, response: HttpResponseBase) -> HttpResponseBase:
    """Return the response with the session stored, the cookie in it, and what caches must know."""
    if (session := found_session(request)) is None:
        return response
    exchange, given = session.exchange or exchange_of(request), response
    try:
        await session.conclude(exchange, keep=response.status_code < _SERVER_ERROR)
    except UnavailableError as error:
        response = answer_of(exchange.refuse(error))
    if session.failure is not None and response.status_code == _SERVER_ERROR:
        # Raised where Django asks nobody what to answer: in a middleware further in.
        response = answer_of(exchange.refuse(session.failure))
    if response is not given:
        # Closed by the server with the one that it is given. Django's own `close` would also say that all is over.
        vars(response)["_resource_closers"] += vars(given)["_resource_closers"]
    if exchange.refusal is not None:
        # A write that was not answered may have swapped the cookie all the same.
        _ = exchange.blocking.commit() if is_driven() else await exchange.commit()
    is_streamed = isinstance(response, StreamingHttpResponse) and not isinstance(response, FileResponse)
    # What a streamed body looks at comes too late for the headers.
    if exchange.has_answer or is_streamed:
        if exchange.stored.changes_cookie:
            response = _own(response)
        exchange.write_headers(DjangoHeaders(response))
    if response.streaming:
        exchange.started()
    if isinstance(response, StreamingHttpResponse) and is_streamed:
        body: Any = response.streaming_content
        streamed: Any = astreamed(body, exchange) if response.is_async else StreamedBody(body, exchange.blocking)
        response.streaming_content = streamed
    # Who still has the response in hand (a middleware further out) can give it to the functions.
    exchange.leave(is_at_hand=not response.streaming)
    return response

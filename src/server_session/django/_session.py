"""`request.session`: Django's session engine, and the middleware that serves it."""

import logging
from collections.abc import AsyncIterable, AsyncIterator, Callable, Coroutine, Generator, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Final, TypeVar

from django.conf import settings
from django.contrib.sessions.backends.base import CreateError, SessionBase, UpdateError
from django.contrib.sessions.middleware import SessionMiddleware as DjangoSessionMiddleware
from django.http import FileResponse, HttpRequest, HttpResponse
from django.http.response import HttpResponseBase, StreamingHttpResponse

from server_session._carrier import Request, current, resolve, serving, state_of
from server_session._colour import home, run_awaiting, run_blocking
from server_session._lifecycle import Answer, State, Visit
from server_session._refusal import Refusal, unavailable, withheld
from server_session._response import headers_of
from server_session._session import Session
from server_session._sessions import Sessions
from server_session._tokens import Credential
from server_session.django._project import EXPIRY, PROJECT
from server_session.exceptions import ConfigurationError, CookieWithheldError, StoreError

__all__ = ["CreateError", "SessionMiddleware", "SessionStore", "UpdateError", "answer_of", "instead_of", "session_of"]

T = TypeVar("T")

_LOG: Final = logging.getLogger("server_session")

_SERVER_ERROR: Final = 500


class SessionStore(SessionBase):
    """Django's session engine: `request.session`, or a session by its key, in a command or a test.

    It has all that Django's engines have, with the `a` twins. Only changed keys are stored, and changes inside values
    are seen without `modified = True`. Once every field is gone by `clear()` the session is destroyed; to start anew
    in place delete its keys.

    Args:
        session_key: the cookie's value, 64 characters of base64url; anything else is no session, and a write founds
            one under a key of its own.

    """

    def __init__(self, session_key: str | None = None) -> None:
        self._sessions: Sessions = PROJECT.sessions()
        self._request: Request | None = None
        self.failure: StoreError | CookieWithheldError | None = None
        super().__init__(session_key)

    def bind(self, request: Request) -> None:
        """Be the session of this request, that of the functions too."""
        self._request = request
        self._visit = self._sessions.visit(request)
        self._visit.answer = Answer.OPEN

    # --- what Django keeps in attributes

    @property
    def session_key(self) -> str | None:
        """The cookie's value, or `None` where there is no session."""
        credential = self._visit.credential
        return None if credential is None else credential.value

    @property
    def _session_key(self) -> str | None:
        return self.session_key

    @_session_key.setter
    def _session_key(self, value: str | None) -> None:
        self._visit = self._visit_of(value)

    def _get_session(self, no_load: bool = False) -> Session:  # noqa: ARG002 - nothing here is saved unseen
        self.accessed = True
        session = self._visit.session
        return self._run(self._visit.load) if session is None else session

    async def _aget_session(self, no_load: bool = False) -> Session:  # noqa: ARG002 - likewise
        self.accessed = True
        session = self._visit.session
        return await self._await(self._visit.load()) if session is None else session

    _session = property(_get_session)

    def is_empty(self) -> bool:
        """Tell whether there is neither a key nor any data."""
        return not self.session_key and not self._visit.session

    def clear(self) -> None:
        """Drop every field, seen or not. Left empty the session is destroyed, written to again it is founded anew."""
        visit = self._visit
        if visit.session is None:
            # Not worth a call to the store: nothing of it stays.
            visit.session = Session()
            visit.session.bind(visit.commit, visit.is_alive)
        visit.session.clear()
        self.accessed = True
        self.modified = True

    # --- what an engine must do, in both colours

    def load(self) -> dict[str, Any]:
        """Return the session's data; `{}` if there is none."""
        # What the store has, without what this request has not stored yet.
        return self._run(self._visit_of(self.session_key).get)

    async def aload(self) -> dict[str, Any]:
        """Do what `load` does."""
        return await self._await(self._visit_of(self.session_key).get())

    def exists(self, session_key: str | None) -> bool:
        """Tell whether the session of this key lives."""
        return self._run(self._visit_of(session_key).is_alive)

    async def aexists(self, session_key: str | None) -> bool:
        """Do what `exists` does."""
        return await self._await(self._visit_of(session_key).is_alive())

    def create(self) -> None:
        """Found a session, with the data at hand."""
        self._run(self._create)

    async def acreate(self) -> None:
        """Do what `create` does."""
        await self._await(self._create())

    def save(self, must_create: bool = False) -> None:
        """Store what has changed; found the session if there is none.

        Raises `UpdateError` if it ended meanwhile, `CreateError` if it must be created and is there.
        """
        self._run(partial(self._save, must_create=must_create))

    async def asave(self, must_create: bool = False) -> None:
        """Do what `save` does."""
        await self._await(self._save(must_create=must_create))

    def delete(self, session_key: str | None = None) -> None:
        """End the session of this key, by default this one."""
        self._run(partial(self._delete, session_key))

    async def adelete(self, session_key: str | None = None) -> None:
        """Do what `delete` does."""
        await self._await(self._delete(session_key))

    def flush(self) -> None:
        """End the session, and forget its data and its key."""
        self._run(self._flush)

    async def aflush(self) -> None:
        """Do what `flush` does."""
        await self._await(self._flush())

    def cycle_key(self) -> None:
        """Give the session a new key, and keep its data."""
        self._run(self._cycle_key)

    async def acycle_key(self) -> None:
        """Do what `cycle_key` does."""
        await self._await(self._cycle_key())

    @classmethod
    def clear_expired(cls) -> None:
        """Delete expired sessions, where the store does not do so by itself."""
        run_blocking(PROJECT.sessions().store.colour, _home(None), _delete_expired)

    @classmethod
    async def aclear_expired(cls) -> None:
        """Do what `clear_expired` does."""
        await run_awaiting(PROJECT.sessions().store.colour, _delete_expired())

    # --- their bodies

    async def _create(self) -> None:
        session = self._visit.session
        await self._visit.replace({} if session is None else session.copy())
        self.modified = True

    async def _save(self, *, must_create: bool) -> None:
        visit = self._visit
        if must_create and await visit.is_alive():
            raise CreateError
        was_loaded = visit.session is not None
        session = await visit.load()
        changes = session.changes()
        if not await visit.commit():
            raise UpdateError
        if changes is None and was_loaded and not await visit.is_alive() and visit.state is State.OVER:
            raise UpdateError
        is_ended = changes is not None and changes.cleared and not changes.changed
        if visit.state in (State.NONE, State.REFUSED) and not is_ended:
            await visit.replace({})

    async def _delete(self, session_key: str | None) -> None:
        await (self._visit if session_key is None else self._visit_of(session_key)).destroy()

    async def _flush(self) -> None:
        await self._visit.destroy()
        self.accessed = True
        self.modified = True

    async def _cycle_key(self) -> None:
        await self._visit.load()
        # With data, if only none: it founds a session where there is none.
        await self._visit.renew({})
        self.accessed = True
        self.modified = True

    async def _conclude(self, *, keep: bool) -> None:
        visit = self._visit
        # What changed inside a value is seen without `modified = True`.
        changed = visit.session is not None and visit.session.modified
        if keep and (changed or self.modified or settings.SESSION_SAVE_EVERY_REQUEST):
            await self._keep()
        visit.accessed |= self.accessed
        if visit.cookie is not None and visit.cookie.value is not None:
            expiry = dict.get(await visit.load(), EXPIRY)
            at_close = settings.SESSION_EXPIRE_AT_BROWSER_CLOSE if expiry is None else expiry == 0
            visit.cookie_seconds = 0 if at_close else self.get_expiry_age(expiry=expiry)

    async def _keep(self) -> None:
        visit = self._visit
        if visit.session is None:
            await visit.load()
        if self.is_empty():
            return
        try:
            await self._save(must_create=False)
        except UpdateError:
            # It ended meanwhile: the write is dropped, a signal was given, and the browser keeps what it has.
            return
        # The browser's clock starts anew, as Django has it; only for a cookie that the store has just said holds.
        visit.send_cookie_again(visit.cookie_seconds)

    # --- what the middlewares do

    @property
    def visit(self) -> Visit:
        """The request's dealings with its session."""
        return self._visit

    def ask(self, question: Callable[[Visit], Coroutine[Any, Any, T]]) -> T:
        """Return what a coroutine of the core finds out about this session."""
        return self._run(partial(question, self._visit))

    async def aask(self, question: Callable[[Visit], Coroutine[Any, Any, T]]) -> T:
        """Do what `ask` does."""
        return await self._await(question(self._visit))

    def conclude(self, *, keep: bool) -> None:
        """Store what the request changed (if it is to be kept), and choose how long the browser keeps the cookie."""
        self._run(partial(self._conclude, keep=keep))

    async def aconclude(self, *, keep: bool) -> None:
        """Do what `conclude` does."""
        await self._await(self._conclude(keep=keep))

    def answer(self, response: HttpResponseBase) -> None:
        """Put the cookie, and what caches must know, into the response to the request."""
        if self._request is not None:
            self._sessions.answer(self._request, self._visit, headers_of(response))
        # Who still has the response in hand (a middleware further out) can give it to the functions.
        self._visit.answer = Answer.STARTED if response.streaming else Answer.ABSENT

    def stream(self, chunks: Iterator[bytes]) -> Iterator[bytes]:
        """Return a body in which the functions know their request, and whose changes are stored at its end."""
        while True:
            with self.serving():
                chunk = next(chunks, None)
            if chunk is None:
                break
            yield chunk
        self._run(self._visit.commit)

    async def astream(self, chunks: AsyncIterable[bytes]) -> AsyncIterator[bytes]:
        """Do what `stream` does."""
        ahead = aiter(chunks)
        while True:
            with self.serving():
                chunk = await anext(ahead, None)
            if chunk is None:
                break
            yield chunk
        await self._await(self._visit.commit())

    @contextmanager
    def serving(self) -> Generator[None]:
        """Let the functions know the request."""
        token = current.set(self._request)
        try:
            yield
        finally:
            current.reset(token)

    def _visit_of(self, session_key: str | None) -> Visit:
        credential = Credential.parse(session_key) if isinstance(session_key, str) else None
        return Visit(self._sessions.policy, [] if credential is None else [credential], Answer.OPEN)

    def _run(self, start: Callable[[], Coroutine[Any, Any, T]]) -> T:
        try:
            return run_blocking(self._sessions.store.colour, _home(self._request), start)
        except (StoreError, CookieWithheldError) as error:
            self.failure = error
            raise

    async def _await(self, coroutine: Coroutine[Any, Any, T]) -> T:
        try:
            return await run_awaiting(self._sessions.store.colour, coroutine)
        except (StoreError, CookieWithheldError) as error:
            self.failure = error
            raise


class SessionMiddleware(DjangoSessionMiddleware):
    """Serves `request.session` and the functions; it stands where Django's SessionMiddleware stands.

    As Django does it saves what was modified, and every session with `SESSION_SAVE_EVERY_REQUEST`, unless the status
    is 500 or above. Other than Django it deletes no cookie because the session was not found, and answers as usual
    when the session has ended meanwhile: the late write is dropped. A store that does not answer is a response 503,
    a session that a request of another site's would have founded a 403 (see `CookieWithheldError`).

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
        with session_of(request).serving():
            response: Any = self.get_response(request)
            return self.process_response(request, response)

    async def __acall__(self, request: HttpRequest) -> HttpResponseBase:
        """Serve one request, on the event loop."""
        self.process_request(request)
        with session_of(request).serving():
            answered: Any = self.get_response(request)
            response: HttpResponseBase = await answered
            session = getattr(request, "session", None)
            if not isinstance(session, SessionStore):
                return response
            try:
                await session.aconclude(keep=_is_to_be_kept(response))
            except (StoreError, CookieWithheldError) as error:
                response = instead_of(error, request)
            return _answered(session, request, response)

    def process_request(self, request: HttpRequest) -> None:
        """Give the request its session, without a call to the store."""
        carried = resolve((request,)).request
        state = state_of(carried)
        state.home = state.home or home()
        # What came: a middleware further in may let a field of the form override it.
        state.wire_method = state.wire_method or carried.method
        session: Any = self.SessionStore()
        session.bind(carried)
        request.session = session

    def process_response(self, request: HttpRequest, response: HttpResponseBase) -> Any:
        """Store the session, and put its cookie into the response."""
        session = getattr(request, "session", None)
        if not isinstance(session, SessionStore):
            return response
        try:
            session.conclude(keep=_is_to_be_kept(response))
        except (StoreError, CookieWithheldError) as error:
            response = instead_of(error, request)
        return _answered(session, request, response)

    def process_exception(self, request: HttpRequest, exception: Exception) -> HttpResponseBase | None:
        """Answer for a view whose store failed, or that would have founded a session in another site's request."""
        return instead_of(exception, request) if isinstance(exception, StoreError | CookieWithheldError) else None


def session_of(request: HttpRequest) -> SessionStore:
    """Return `request.session` as what it is.

    Raises `ConfigurationError` where this package's `SessionMiddleware` does not serve the request.
    """
    session = getattr(request, "session", None)
    if not isinstance(session, SessionStore):
        raise ConfigurationError(
            "request.session is not server_session's: 'server_session.django.SessionMiddleware' belongs into "
            "MIDDLEWARE, before whatever needs the session"
        )
    return session


def answer_of(refusal: Refusal) -> HttpResponse:
    """Return a refusal as a response of Django's."""
    return HttpResponse(refusal.body, status=refusal.status, headers=dict(refusal.headers))


def instead_of(error: StoreError | CookieWithheldError, request: HttpRequest) -> HttpResponse:
    """Return what is answered where the session cannot be had, and log why."""
    if isinstance(error, CookieWithheldError):
        _LOG.warning("a request was answered with 403: %s", error)
        return answer_of(withheld(resolve((request,)).request.header_values(b"accept")))
    _LOG.error("a request was answered with 503, for the session store failed: %s", error)
    return answer_of(unavailable())


def _is_to_be_kept(response: HttpResponseBase) -> bool:
    return response.status_code < _SERVER_ERROR


def _answered(session: SessionStore, request: HttpRequest, response: HttpResponseBase) -> HttpResponseBase:
    if session.failure is not None and response.status_code == _SERVER_ERROR:
        # Raised where Django asks nobody what to answer: in a middleware further in.
        response = instead_of(session.failure, request)
    session.answer(response)
    if isinstance(response, StreamingHttpResponse) and not isinstance(response, FileResponse):
        chunks: Any = response.streaming_content
        response.streaming_content = session.astream(chunks) if response.is_async else session.stream(chunks)
    return response


def _home(request: Request | None) -> Any:
    carried = serving() if request is None else request
    return None if carried is None else state_of(carried).home


async def _delete_expired() -> None:
    delete: Callable[[], Coroutine[Any, Any, int]] | None = getattr(PROJECT.sessions().store, "delete_expired", None)
    if delete is not None:
        while await delete():
            pass

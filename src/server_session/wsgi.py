"""Sessions for any WSGI application (PEP 3333)."""

import logging
import sys
from collections.abc import Callable, Coroutine, Iterable, Iterator
from functools import partial
from typing import Any, Final, TypeAlias, TypeVar, Unpack

from server_session._body import read_wsgi_token
from server_session._carrier import current, state_of
from server_session._guard import guard_of
from server_session._lazy import LazySession
from server_session._lifecycle import Answer
from server_session._refusal import Refusal, unavailable, withheld
from server_session._request import WsgiRequest
from server_session._response import WsgiHeaders
from server_session._sessions import Sessions, Settings, chosen, configured
from server_session.exceptions import CookieWithheldError, StoreError

__all__ = ["SESSION", "SessionMiddleware"]

T = TypeVar("T")

Environ: TypeAlias = dict[str, Any]
Write: TypeAlias = Callable[[bytes], object]
StartResponse: TypeAlias = Callable[..., Write]
Application: TypeAlias = Callable[[Any, Any], Iterable[bytes]]


_LOG: Final = logging.getLogger("server_session")

SESSION: Final = "server_session.session"
"""The key of the mapping in the environ."""


class SessionMiddleware:
    """Serves the functions of `server_session.sync`, and a mapping, to a WSGI application.

    The mapping is `environ["server_session.session"]`; it asks the store when it is first touched.

    Args:
        app: the application.
        sessions: a `Sessions`; by default what `configure` made, or one of the keywords given here.
        settings: the keywords of `configure`, for sessions of this application's own.

    A request that another site may have forged is a response 403 (see `CSRF`): nothing is exempt here, for which
    view will serve it is not known yet. A store that does not answer is a 503, if no other response has started.

    """

    def __init__(self, app: Application, sessions: Sessions | None = None, **settings: Unpack[Settings]) -> None:
        self.app = app
        self._sessions = chosen(sessions, settings)

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        """Serve one request."""
        response = _Response(self._sessions or configured(), environ, start_response)
        response.call(self.app)
        return response


class _Response:
    """The response of one request, and its session: stored before the first byte, and again at the end."""

    def __init__(self, sessions: Sessions, environ: Environ, start_response: StartResponse) -> None:
        self._sessions = sessions
        self._environ = environ
        self._request = WsgiRequest(environ)
        self._visit = sessions.visit(self._request)
        self._visit.answer = Answer.OPEN
        state_of(self._request).served.append(sessions)
        environ[SESSION] = LazySession(lambda: self._run(self._visit.load))
        self._start_response = start_response
        self._head: tuple[str, list[tuple[str, str]], Any] | None = None
        self._write: Write | None = None
        self._refused = False
        self._body: Iterable[bytes] = ()
        self._chunks: Iterator[bytes] = iter(())

    def call(self, app: Application) -> None:
        try:
            rejection = self._check()
            if rejection is not None:
                self._refuse(rejection)
                return
            self._body = self._in_context(lambda: app(self._environ, self._note))
            self._chunks = iter(self._body)
        except (StoreError, CookieWithheldError) as error:
            self._refuse(self._instead_of(error))

    def _check(self) -> Refusal | None:
        """Return the answer to a request that another site may have forged; `None` where it may pass."""
        guard = guard_of(self._sessions, self._request)
        if guard is None:
            return None
        if guard.needs_token:
            token = guard.token_in_header()
            if token is None:
                token = read_wsgi_token(self._environ, guard.field)
            self._run(partial(guard.weigh, self._visit, token))
        rejection = guard.conclude(self._visit)
        return None if rejection is None else guard.refusal(rejection)

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        try:
            try:
                chunk = self._in_context(lambda: next(self._chunks))
            except StopIteration:
                self._start()
                self._commit()
                raise
            self._start()
        except (StoreError, CookieWithheldError) as error:
            if self._write is not None:
                raise
            self._refuse(self._instead_of(error))
            return next(self._chunks)
        return chunk

    def close(self) -> None:
        try:
            if callable(close := getattr(self._body, "close", None)):
                self._in_context(close)
        finally:
            # Only what a response that has started changed since: one that failed before saves nothing.
            if self._write is not None:
                self._commit()

    def _note(self, status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Write:
        """Stand in for `start_response`: the head is held back until the first chunk, when the session is stored."""
        if self._write is not None:
            # Too late for another head: the server raises what the application was caught by (PEP 3333); unless
            # all chunks so far were empty.
            return self._start_response(status, self._answered(headers), exc_info)
        if self._head is not None and exc_info is None:
            raise AssertionError("start_response was called twice without exc_info (PEP 3333)")
        self._head = (status, list(headers), exc_info)
        return self._write_now

    def _write_now(self, data: bytes) -> object:
        self._start()
        assert self._write is not None  # noqa: S101 - _start has set it
        return self._write(data)

    def _start(self) -> None:
        if self._write is not None:
            return
        if self._head is None:
            raise AssertionError("the application began its body before it called start_response (PEP 3333)")
        self._commit()
        status, raw, exc_info = self._head
        headers = self._answered(raw)
        self._visit.answer = Answer.STARTED
        given = (status, headers) if exc_info is None else (status, headers, exc_info)
        self._write = self._start_response(*given)

    def _answered(self, raw: list[tuple[str, str]]) -> list[tuple[str, str]]:
        headers = WsgiHeaders(raw)
        self._sessions.answer(self._request, self._visit, headers)
        return headers.raw

    def _commit(self) -> None:
        # What was answered with 503 is not stored after all, should the store be back by now.
        if not self._refused:
            self._run(self._visit.commit)

    def _instead_of(self, error: StoreError | CookieWithheldError) -> Refusal:
        if isinstance(error, CookieWithheldError):
            _LOG.warning("a request was answered with 403: %s", error)
            return withheld(self._request.header_values(b"accept"))
        _LOG.error("a request was answered with 503, for the session store failed: %s", error)
        return unavailable()

    def _refuse(self, refusal: Refusal) -> None:
        self._refused = True
        status = f"{refusal.status} {refusal.phrase}"
        # An error that is at hand replaces a head that the application may have given (PEP 3333).
        given = (status, refusal.headers) if sys.exception() is None else (status, refusal.headers, sys.exc_info())
        self._write = self._start_response(*given)
        self._chunks = iter([refusal.body])

    def _run(self, start: Callable[[], Coroutine[Any, Any, T]]) -> T:
        return self._sessions.run_blocking(self._request, start)

    def _in_context(self, call: Callable[[], T]) -> T:
        token = current.set(self._request)
        try:
            return call()
        finally:
            current.reset(token)

"""Sessions for any WSGI application (PEP 3333)."""

import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final, Self, TypeAlias, Unpack

from server_session._sessions import Sessions, Settings, chosen, configured
from server_session.csrf.decorators import note_unheard
from server_session.csrf.refusals import Refusal
from server_session.exceptions import UnavailableError
from server_session.http.body import WsgiBody
from server_session.http.requests import WsgiRequest
from server_session.http.responses import WsgiHeaders
from server_session.kernel.unloaded import LazySession

__all__ = ["SESSION", "SessionMiddleware"]

Environ: TypeAlias = dict[str, Any]
Write: TypeAlias = Callable[[bytes], object]
StartResponse: TypeAlias = Callable[..., Write]
Application: TypeAlias = Callable[[Any, Any], Iterable[bytes]]

SESSION: Final = "server_session.session"
"""The key of the mapping in the environ."""

_END: Final[Any] = object()
# The types of a body that is made already.
_MADE: Final = (list, tuple)


class SessionMiddleware:
    """Serves the functions of `server_session.sync`, and a mapping, to a WSGI application.

    The mapping is `environ["server_session.session"]`; it asks the store when it is first touched.

    Args:
        app: the application.
        sessions: a `Sessions`; by default what `configure` made, or one of the keywords given here.
        endpoint: returns the function or class that will serve an environ, `None` where it is not known; without it
            nothing is exempt from the check.
        settings: the keywords of `configure`, for sessions of this application's own.

    A request that another site may have forged is a response 403 (see `CSRF`). A store that does not answer is a 503,
    if no other response has started.

    """

    def __init__(
        self,
        app: Application,
        sessions: Sessions | None = None,
        endpoint: Callable[[Environ], object] | None = None,
        **settings: Unpack[Settings],
    ) -> None:
        self.app = app
        self._endpoint = endpoint
        self._sessions = chosen(sessions, settings)
        # Whether the warning that is logged once has been.
        self._warned_of_marks = False

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        """Serve one request."""
        response = ServedResponse(self._sessions or configured(), environ, start_response)
        return response.call(self.app, lambda: self.endpoint_of(environ))

    def endpoint_of(self, environ: Environ) -> object:
        """Return the endpoint that will serve a request, `None` where it is not known."""
        if self._endpoint is None:
            self._warned_of_marks = self._warned_of_marks or note_unheard()
            return None
        return self._endpoint(environ)


class ServedResponse:
    """The response of one request, and its session: stored before the first byte, and again at the end."""

    def __init__(self, sessions: Sessions, environ: Environ, start_response: StartResponse) -> None:
        request = WsgiRequest.of(environ)
        # A layer between two middlewares of ours may have changed what the application is asked.
        request.slots = environ
        self._exchange = sessions.exchange(request)
        self._exchange.serve()
        self._blocking = self._exchange.blocking
        self._serving = self._exchange.serving()
        self._environ = environ
        environ[SESSION] = LazySession(self._blocking.load)
        self._start_response = start_response
        self._head: tuple[str, list[tuple[str, str]], Any] | None = None
        self._is_started = False
        # None from Granian, Hypercorn and the bridges of asgiref and Starlette: there the body is the only way.
        self._write: Any = None
        self._chunks: Iterator[bytes] = iter(())
        # Of an application that writes it is not known yet.
        self._body: Iterable[bytes] = self._chunks
        self._first: Any = None

    def call(self, app: Application, endpoint: Callable[[], object] | None = None) -> Self:
        """Call the application; the request is checked before, if not by the application, which knows its endpoint."""
        try:
            if endpoint is not None and self._exchange.may_be_forged(self._environ["REQUEST_METHOD"]):
                refusal = self._blocking.check(WsgiBody(self._environ), endpoint=endpoint)
                if refusal is not None:
                    self._refuse(refusal)
                    return self
            try:
                with self._serving:
                    self._body = app(self._environ, self._note)
                self._chunks = iter(self._body)
                if self._head is not None:
                    # Granian takes status and headers as soon as it is given a body, and not with the first chunk.
                    self._first = self._pull()
            except UnavailableError as error:
                self._fail(error)
        except BaseException:
            self.close()
            raise
        return self

    def __iter__(self) -> Iterator[bytes]:
        try:
            while True:
                chunk, self._first = self._first, None
                if chunk is None:
                    chunk = self._pull()
                if chunk is _END:
                    break
                yield chunk
            self._blocking.commit_late()
        except UnavailableError as error:
            if self._is_started:
                raise
            self._fail(error)
            yield from self._chunks

    def _pull(self) -> Any:
        """Return the next chunk, or `_END`; before the first the session is stored, and the response starts."""
        with self._serving:
            chunk = next(self._chunks, _END)
        if not self._is_started:
            self._start()
        return chunk

    def close(self) -> None:
        try:
            if callable(close := getattr(self._body, "close", None)):
                with self._serving:
                    close()
        finally:
            try:
                # Only what a response that has started changed since: one that failed before saves nothing.
                if self._is_started:
                    self._blocking.commit_late()
            finally:
                self._exchange.leave()

    def _note(self, status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Write:
        """Stand in for `start_response`: the head is held back until the first chunk, when the session is stored."""
        if self._is_started:
            # Too late for another head: the server raises what the application was caught by (PEP 3333); unless
            # all chunks so far were empty.
            late = WsgiHeaders(headers)
            self._exchange.answer(late)
            return self._start_response(status, late.raw, exc_info)
        if self._head is not None and exc_info is None:
            raise AssertionError("start_response was called twice without exc_info (PEP 3333)")
        self._head = (status, list(headers), exc_info)
        return self._write_now

    def _write_now(self, data: bytes) -> object:
        return self._start()(data)

    def _start(self) -> Any:
        if not self._is_started:
            if self._head is None:
                raise AssertionError("the application began its body before it called start_response (PEP 3333)")
            self._blocking.commit_late()
            status, raw, exc_info = self._head
            headers = WsgiHeaders(raw)
            # What a body looks at that is still to be made comes too late for the headers.
            is_streamed = self._body.__class__ not in _MADE and "content-length" not in headers.names()
            self._exchange.answer(headers, varies=is_streamed)
            given = (status, headers.raw) if exc_info is None else (status, headers.raw, exc_info)
            self._write, self._is_started = self._start_response(*given), True
        return self._write

    def _fail(self, error: UnavailableError) -> None:
        refusal = self._exchange.refuse(error)
        # A write that was not answered may have swapped the cookie all the same.
        self._refuse(self._blocking.commit() or refusal)

    def _refuse(self, refusal: Refusal) -> None:
        status, headers = f"{refusal.status} {refusal.phrase}", WsgiHeaders(refusal.headers)
        if self._exchange.stored.changes_cookie:
            # What was done before the store failed is done: the cookie that the browser has may hold no more.
            self._exchange.write_headers(headers)
        # An error that is at hand replaces a head that the application may have given (PEP 3333).
        given = (status, headers.raw) if sys.exception() is None else (status, headers.raw, sys.exc_info())
        self._write, self._is_started = self._start_response(*given), True
        self._chunks = iter([refusal.body])

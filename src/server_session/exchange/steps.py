"""What an exchange does at once, in whichever colour: its request, the headers of its response, its refusals."""

import logging
import threading
from collections.abc import Sequence
from typing import Any, Final

from server_session._colour import Colour, home
from server_session._cookies import CookieTransport, Header
from server_session._policy import Policy
from server_session._tokens import Credential, junk_token
from server_session.csrf.policy import CSRF
from server_session.csrf.refusals import REJECTION_HEADER, Refusal, unavailable, withheld
from server_session.csrf.verdict import Protection, is_cross_site
from server_session.exceptions import CookieWithheldError, SessionError, StoreError
from server_session.http.carrier import THREADS_INHERIT, Serving, current
from server_session.http.requests import Request
from server_session.http.responses import ResponseHeaders, headers_of, write_answer
from server_session.kernel.presence import ResponseState
from server_session.kernel.states import State
from server_session.kernel.stored import StoredSession
from server_session.stores._base import SessionStore

__all__ = ["Configured", "Steps"]

_LOG: Final = logging.getLogger("server_session")


class Configured:
    """What is configured, as far as a request's exchange asks for it."""

    base: Any
    """The sessions that it was adapted from, or itself: these have one exchange with each request."""
    policy: Policy
    store: SessionStore
    cookie: CookieTransport
    origins: tuple[str, ...]
    csrf: CSRF | None
    # Whether each of the two warnings has been logged.
    _proxy_noted = _rival_noted = False

    def look_for_proxy(self, request: Request) -> None:
        """Warn once where a proxy seems to end TLS and nobody has said so."""
        # Forwarded headers are never believed, for anyone can send them; that there is one is worth a word.
        if self._proxy_noted or self.origins or not (said := request.header_values(b"x-forwarded-proto")):
            return
        if request.scheme not in ("https", "wss") and any(b"https" in value.lower() for value in said):
            self._proxy_noted = True
            _LOG.warning(
                "a proxy seems to end TLS in front of this application, whose own requests are http: session cookies "
                "are set without Secure. Configure origin='https://…', or let the server believe the proxy"
            )

    def note_rival(self) -> None:
        """Warn once that somebody else sets a cookie of the session's name."""
        if not self._rival_noted:
            self._rival_noted = True
            _LOG.warning(
                "something else in this application sets a cookie that is named %s too, and browsers keep one of the "
                "two: visitors will seem to be logged out. Rename either, ours by cookie_handler=CookieHandler(name)",
                self.cookie.name,
            )


class Steps:
    """The steps of an exchange that are the same in both colours, and what is known of it.

    `refusal` is what was answered in the application's place, if the request was refused, and `asked` what the
    endpoint asked of the check, if there was anything to check.
    """

    refusal: Refusal | None = None
    asked: Protection | None = None
    # The method as which it has passed the check.
    _passed_as: str | None = None
    _stored: StoredSession | None = None
    _response = ResponseState.ABSENT
    # How many adapters serve it now, one within the other.
    _serving = 0
    # How many functions that were given a response are under way, where no adapter serves.
    _given = 0
    _is_over = False
    # The `Set-Cookie` headers that this exchange has put into the response.
    _cookies: Sequence[Header] = ()

    def __init__(self, sessions: Configured, request: Request) -> None:
        self.sessions = sessions
        self.request = request
        request.exchanges[sessions.base] = self

    @property
    def stored(self) -> StoredSession:
        """The session as the store has it, made when it is first asked for."""
        if self._stored is None:
            sessions, request = self.sessions, self.request
            presented: tuple[Credential, ...] = ()
            for value in sessions.cookie.read(request):
                if (credential := Credential.parse(value)) is not None:
                    presented += (credential,)
            # A store in this process's memory never waits: it needs no limit.
            policy = sessions.policy if sessions.store.colour is Colour.INSTANT else sessions.policy.with_one_limit()
            self._stored = StoredSession(policy, presented, self._response, request, self._is_withheld)
            self._stored.is_left = self._is_over
        return self._stored

    @property
    def is_asked(self) -> bool:
        """Whether anything was asked of the session; else there is nothing to store, and nothing to answer."""
        return self._stored is not None

    @property
    def is_served(self) -> bool:
        """Whether an adapter serves the request now."""
        return self._serving > 0

    @property
    def is_started(self) -> bool:
        """Whether the response's headers have been sent."""
        return self._response is ResponseState.STARTED

    @property
    def is_new(self) -> bool:
        """Whether the session is not one that the request brought; true to what was asked of the store so far."""
        stored = self.stored
        return stored.created or not stored.has_cookie or stored.state is not State.LIVE

    # --- the beginning

    def serve(self, *, found: bool = False) -> None:
        """Say that an adapter serves this request: a cookie can be set until it answers. `leave` is the end of it.

        A body that is sent yet when its adapter leaves is served beside it. A request that is served again, after
        everybody has left, is another visit, which knows nothing of the one before. With `found` it is the framework
        that tells which request it serves, by `find_request_by`; without, `serving` does.
        """
        if self._is_over:
            self.refusal = self.asked = self._stored = None
            self._is_over = False
        if not self._serving:
            self.request.served = [*self.request.served, self.sessions.base]
            self.request.serving += 1
            self._response = ResponseState.OPEN
            if self._stored is not None:
                self._stored.response = ResponseState.OPEN
        self._serving += 1
        if self.sessions.store.colour is Colour.AWAITS:
            # A blocking call in a worker thread runs on the application's loop, and finds it here.
            self.request.home = home() or self.request.home
        if THREADS_INHERIT:
            self.request.thread = threading.get_ident()
        if found and (outer := current.get()) is not self.request:
            self.request.within = outer

    def answer_anew(self) -> None:
        """Say that a response will be made, in the place of the one that was answered if there was one."""
        self._response = ResponseState.OPEN
        if self._stored is not None:
            self._stored.response = ResponseState.OPEN

    def leave(self, *, is_at_hand: bool = False) -> None:
        """Say that an adapter is done with the request: no cookie can be set any more.

        With `is_at_hand` its response is not sent yet: a function that is given the response can still change it.
        """
        self._serving -= 1
        if self._serving:
            return
        self.request.serving -= 1
        is_answered = self._response is ResponseState.STARTED or is_at_hand
        self._is_over = True
        self._response = ResponseState.ABSENT if is_at_hand else ResponseState.STARTED
        if (stored := self._stored) is not None:
            stored.response, stored.is_left = self._response, True
            if stored.session is not None:
                stored.session.leave(is_answered=is_answered)

    def serving(self) -> Serving:
        """Let the functions know the request without being given it, within `with`."""
        return Serving(self.request)

    def _is_withheld(self) -> bool:
        """Tell whether the browser may have a session's cookie that it did not send with this request."""
        cookie, request = self.sessions.cookie, self.request
        is_foreign = cookie.withheld_cross_site and is_cross_site(request, self.sessions.origins)
        return is_foreign and not cookie.is_present(request)

    # --- the session

    @property
    def is_pending(self) -> bool:
        """Whether there is anything to store, as far as can be told without a look into what was handed out."""
        stored = self._stored
        if stored is None:
            return False
        session = stored.session
        return (
            (session is not None and session.accessed and session.may_differ)
            or stored.owes_session
            or stored.was_interrupted
        )

    def go_on_with(self, stored: StoredSession) -> None:
        """Answer with another session, which the application has put in the place of the one that the request has.

        The browser is to keep no cookie where that has none. Raises `CookieWithheldError` where its cookie would
        replace the one that the browser has withheld.
        """
        if stored.cookie_value is not None or stored.session:
            self.stored.require_new_cookie()
        elif self.stored.has_cookie:
            stored.accessed = stored.changes_cookie = True
        self._stored = stored

    # --- the answer

    def refuse(self, error: SessionError) -> Refusal:
        """Return what is answered where the session cannot be had: 503, or 403; and log why.

        What the mapping has not stored is given up: what was answered so is not stored after all. What is the
        application's own fault is raised again.
        """
        if self.refusal is not None and self.refusal.error is error:
            return self.refusal
        self.stored.abandon()
        if isinstance(error, CookieWithheldError):
            _LOG.warning("a request was answered with 403: %s", error)
            self.refusal = withheld(error)
        elif isinstance(error, StoreError):
            _LOG.error("a request was answered with 503, for the session store failed: %s", error)
            self.refusal = unavailable(error)
        else:
            raise error
        return self.refusal

    @property
    def has_answer(self) -> bool:
        """Whether the response's headers are to be changed. What has nothing to answer has nothing to store either."""
        stored = self._stored
        if stored is None or self.refusal is not None:
            return self.refusal is not None
        return stored.accessed or (stored.session is not None and stored.session.accessed)

    def answer(self, response: object, *, varies: bool = False) -> None:
        """Put the cookie, and what caches must know, into a response, or into its headers, which are then sent.

        With `varies` the response depends on the session, whatever was asked of it so far. Where the request was
        refused, the response is the application's own page that says so: it gets the headers that ours has.
        """
        if varies or self.has_answer:
            self.write_headers(headers_of(response))
        self.started()

    def write_headers(self, headers: ResponseHeaders) -> None:
        """Put the cookie, and what caches must know, into a response that depends on the session."""
        stored, refusal, sessions, request = self._stored or self.stored, self.refusal, self.sessions, self.request
        cookie, cookies, vary = sessions.cookie, list[Header](), b"Cookie"
        if stored.changes_cookie:
            sessions.look_for_proxy(request)
            value, seconds = stored.cookie_value, stored.cookie_seconds
            new = cookie.destroy(request) if value is None else cookie.write(request, value, seconds)
            cookies = [*cookie.expire_elsewhere(request), *new]
            # Who logs out does not come back by another library's cookie, either.
            for reader in sessions.policy.adopt if value is None else filter(None, [stored.adopted]):
                if reader.cookie.is_present(request) and reader.cookie.place != cookie.place:
                    cookies = [*reader.cookie.destroy(request), *cookies]
        if refusal is not None and refusal.rejection is not None:
            headers.drop(REJECTION_HEADER.lower())
            headers.add(REJECTION_HEADER.lower(), refusal.rejection.code)
            vary = b"Cookie, Origin, Sec-Fetch-Site"
        is_private = bool(cookies) or stored.token_given or refusal is not None
        has_rival = write_answer(headers, cookies, self._cookies, name=cookie.name, vary=vary, is_private=is_private)
        # Who logs out may end every cookie that they know of, ours too.
        if has_rival and not (stored.changes_cookie and stored.cookie_value is None):
            sessions.note_rival()
        self._cookies = cookies

    def started(self) -> None:
        """Say that the response's headers have been sent: a new cookie is an error from now on."""
        self._response = ResponseState.STARTED
        if self._stored is not None:
            self._stored.response = ResponseState.STARTED

    # --- tokens and functions

    def csrf_token(self, scope: str = "") -> str:
        """Return a fresh token for a form, without asking the store; on the page of a refusal, text that is no token.

        Without a session the commit founds one, but not for that page. Raises `ColourError` if the store must be asked.
        """
        return junk_token() if self.refusal is not None else self.stored.csrf_token_now(scope)

    def begin_call(self, response: ResponseHeaders | None) -> StoredSession:
        """Return the session for one of the functions, called with this response or none."""
        # Outside a middleware each call needs the response for itself: nobody else would set the cookie.
        if not self._serving:
            self._given += response is not None
            self.stored.response = ResponseState.OPEN if self._given else self._response
        return self.stored

    def end_call(self, response: ResponseHeaders | None) -> None:
        """Put what a function asks of the response onto the one that was given."""
        # Under a middleware the cookie is set when the response starts, on whatever response that is.
        if response is not None and self._given:
            if self.has_answer:
                self.write_headers(response)
            self._given -= 1
            self.stored.response = ResponseState.OPEN if self._given else self._response

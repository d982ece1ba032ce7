"""The check of one request for one that another site may have forged, in whichever colour."""

from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Protocol, TypeAlias

from server_session._colour import settled
from server_session._tokens import TokenState, short_digest
from server_session.csrf.decorators import marked_every_method, protection_of
from server_session.csrf.policy import CSRF
from server_session.csrf.refusals import Refusal, forbidden
from server_session.csrf.verdict import Protection, Rejection, check, check_token
from server_session.exceptions import StoreError
from server_session.exchange.steps import Steps
from server_session.http.body import can_bear_token, token_in

__all__ = ["Body", "Checked", "Endpoint"]

Endpoint: TypeAlias = Callable[[], object]
"""Finds the view function or class that will serve a request, `None` where that is not known."""
Run: TypeAlias = Callable[[Callable[[], Coroutine[Any, Any, TokenState]]], TokenState | Awaitable[TokenState]]
Find: TypeAlias = Callable[[], str | Awaitable[str | None] | None]


class Body(Protocol):
    """A request's body, which is read by awaiting or by blocking, or has been read already."""

    def read(self, limit: int) -> tuple[bytes, bool] | Awaitable[tuple[bytes, bool]]:
        """Return up to `limit` bytes of the body, and whether that is all; the application gets them again.

        It is not all if there are more, or if the client has hung up.
        """
        ...


class Checked(Steps):
    """The step that checks the request, the same in both colours."""

    def may_be_forged(self, method: str) -> bool:
        """Tell whether a request of this method, as the view sees it, has to be checked."""
        policy, request = self.sessions.csrf, self.request
        # Most requests by far are plain GETs: nothing is looked up for them.
        is_plain = method == "GET" == request.wire_method and not request.is_websocket and not marked_every_method
        return policy is not None and not is_plain

    async def checked(
        self,
        run: Run | None,
        body: Body | None = None,
        endpoint: Endpoint | None = None,
        method: str | None = None,
        find: Find | None = None,
    ) -> Refusal | None:
        """Return the answer to a request that may be forged, `None` where it may pass.

        `run`, `body` and `find` block or return an awaitable, as the caller does. Without `run` no token is looked at.
        """
        request, policy = self.request, self.sessions.csrf
        seen = request.method if method is None else method
        if policy is None or not self.may_be_forged(seen):
            return None
        asked = protection_of(None if endpoint is None else endpoint(), seen, policy)
        if self.asked is not None and seen == self._passed_as and asked.is_met_by(self.asked):
            return None
        self.asked, self._passed_as = asked, None
        try:
            rejection = await self.judged(run, policy, asked, seen, body, find)
        except StoreError as error:
            return self.refuse(error)
        if rejection is not None:
            is_reported = policy.mode == "report"
            credential = self.stored.credential
            session = "" if credential is None else short_digest(credential.selector)
            detail = rejection.reason
            if is_reported:
                # The answer does not show it, so the log names the request. A stranger may make the path long.
                named = f"{request.wire_method} {request.path}"[:200]
                detail += f", reported and not refused: {named!a}"
            self.sessions.policy.signals.send("csrf_rejected", session, rejection.code, detail)
            if not is_reported:
                self.refusal = forbidden(rejection, policy.page)
                return self.refusal
        self._passed_as = seen
        return self.refusal

    async def judged(
        self,
        run: Run | None,
        policy: CSRF,
        asked: Protection,
        method: str,
        body: Body | None = None,
        find: Find | None = None,
    ) -> Rejection | None:
        """Return why the request is refused: by its headers, and where these do not decide by its token.

        A store that fails raises `StoreError`, which is no pass.
        """
        request, sessions = self.request, self.sessions
        has_cookie = sessions.cookie.is_present(request)
        if sessions.policy.adopt and not has_cookie:
            # Another library's cookie lets a request act as the visitor, as ours does: its session is taken over.
            has_cookie = any(reader.cookie.is_present(request) for reader in sessions.policy.adopt)
        rejection = check(request, method, policy, sessions.origins, asked, has_cookie=has_cookie)
        if rejection is None or not rejection.needs_token or run is None:
            return rejection
        values = request.header_values(policy.header.lower().encode("ascii"))
        # Several are no token: which of them was meant nobody can say.
        token = b",".join(values).decode("latin-1") if values else None
        # No token is valid without a credential, so none is searched for: neither form nor body is read.
        is_worth_search = self.stored.has_cookie
        if token is None and is_worth_search and find is not None:
            token = await settled(find())
        if token is None and is_worth_search and body is not None:
            kinds = request.header_values(b"content-type")
            # Of several none counts.
            kind = kinds[0] if len(kinds) == 1 else None
            if policy.body_limit and can_bear_token(kind):
                read, is_whole = await settled(body.read(policy.body_limit))
                token = token_in(kind, read, policy.field, is_whole=is_whole)
        own = f"{method} {request.decoded_path}"
        scopes = (own,) if asked.scoped else ("", own)
        return check_token(rejection, await settled(run(lambda: self.stored.admit(token, scopes))), policy)

"""The check of one request for having been forged by another site, in the steps in which it can be asked."""

from collections.abc import Callable
from typing import TypeAlias

from server_session._body import TokenField
from server_session._carrier import Request, facts_of, state_of
from server_session._csrf import CSRF, Demand, Rejection, check
from server_session._demands import asks_for_safe_methods, demand_of
from server_session._lifecycle import Visit
from server_session._refusal import Refusal, forbidden
from server_session._sessions import Sessions
from server_session._tokens import short_digest

__all__ = ["Guard", "guard_of"]

Endpoint: TypeAlias = Callable[[], object]


def guard_of(
    sessions: Sessions, request: Request, endpoint: Endpoint = lambda: None, method: str | None = None
) -> "Guard | None":
    """Return the check that a request needs, or `None` where it needs none.

    `endpoint` finds the view function or class that will serve it, `None` where that is not known and nothing is
    exempt; `method` is the method as the endpoint sees it, by default as the request has it.
    """
    policy = sessions.csrf
    if policy is None:
        return None
    state = state_of(request)
    if state.wire_method is None:
        state.wire_method = request.method
    seen = request.method if method is None else method
    # Most requests by far: nothing is looked up for them.
    is_plain_get = seen == state.wire_method == "GET" and "GET" in policy.safe_methods
    if is_plain_get and not asks_for_safe_methods() and not request.is_websocket:
        return None
    return Guard(sessions, policy, request, demand_of(endpoint(), seen, policy), state.wire_method, seen)


class Guard:
    """Checks one request: by its headers, and where these do not decide by its token.

    Make it, `weigh` the token if it `needs_token`, and `conclude`.

    Args:
        sessions: whose policy it is, and whose session the token must be of.
        request: the request, as it came.
        demand: what the endpoint asks.
        wire_method: the method as it came.
        method: the method as the endpoint sees it.

    """

    def __init__(
        self, sessions: Sessions, policy: CSRF, request: Request, demand: Demand, wire_method: str, method: str
    ) -> None:
        self._sessions = sessions
        self._policy = policy
        self._request = request
        self._demand = demand
        self._facts = facts_of(request, wire_method, method, has_cookie=sessions.cookie.is_present(request))
        self._rejection = check(self._facts, policy, sessions.origins, demand)

    @property
    def needs_token(self) -> bool:
        """Whether the token decides."""
        return self._rejection is not None and self._rejection.needs_token

    @property
    def field(self) -> TokenField:
        """The field of the body that may bear the token."""
        return TokenField(self._policy.field, self._policy.body_limit)

    @property
    def content_type(self) -> bytes | None:
        """The `Content-Type` of the body; `None` where there is none, or several."""
        values = self._request.header_values(b"content-type")
        return values[0] if len(values) == 1 else None

    def token_in_header(self) -> str | None:
        """Return the token that came in the header, or `None`: it may then be in the body."""
        values = self._request.header_values(self._policy.header.lower().encode("ascii"))
        # Several are no token: which of them was meant nobody can say.
        return b",".join(values).decode("latin-1") if values else None

    async def weigh(self, visit: Visit, token: str | None) -> None:
        """Let the token decide. A store that fails raises `StoreError`, which is no pass."""
        own = f"{self._facts.seen_method} {self._request.decoded_path}"
        state = await visit.admit(token, (own,) if self._demand.scoped else ("", own))
        self._rejection = check(self._facts, self._policy, self._sessions.origins, self._demand, state)

    def conclude(self, visit: Visit) -> Rejection | None:
        """Return the rejection to answer with, having logged and signalled it; `None` where the request may pass."""
        rejection = self._rejection
        if rejection is None:
            return None
        credential = visit.credential
        self._sessions.policy.signals.send(
            "csrf_rejected",
            "" if credential is None else short_digest(credential.selector),
            rejection.code,
            rejection.reason + (", reported and not refused" if self._policy.mode == "report" else ""),
        )
        return None if self._policy.mode == "report" else rejection

    def refusal(self, rejection: Rejection) -> Refusal:
        """Return the answer to the rejected request."""
        return forbidden(rejection.code, self._request.header_values(b"accept"), self._policy.page)

"""The check of one request: by its headers, and where these do not decide by its token."""

from collections.abc import Callable
from typing import TypeAlias

from server_session._signals import Signals
from server_session._tokens import short_digest
from server_session.csrf.policy import CSRF
from server_session.csrf.verdict import Demand, Facts, Rejection, check
from server_session.http.requests import Request
from server_session.kernel.stored import StoredSession

__all__ = ["Endpoint", "Guard", "facts_of", "unknown"]

Endpoint: TypeAlias = Callable[[], object]
"""Finds the view function or class that will serve a request, `None` where that is not known."""


def unknown() -> None:
    """Say that it is not known which endpoint will serve the request: then nothing is exempt."""


def facts_of(request: Request, method: str, seen_method: str, *, has_cookie: bool) -> Facts:
    """Return what a request says of itself to whoever asks whether it was forged."""
    values = request.header_values
    return Facts(
        method=method,
        seen_method=seen_method,
        origin=values(b"origin"),
        site=values(b"sec-fetch-site"),
        fetch_mode=values(b"sec-fetch-mode"),
        fetch_dest=values(b"sec-fetch-dest"),
        referer=values(b"referer"),
        host=request.host,
        is_secure=request.scheme.lower() in ("https", "wss"),
        authorization=values(b"authorization"),
        has_cookie=has_cookie,
        is_handshake=request.is_websocket,
    )


class Guard:
    """Checks one request. Make it, let the token decide by `admit` if it `needs_token`, and ask for the `rejection`.

    Args:
        policy: by which it is checked.
        origins: the application's own.
        request: the request, as it came.
        demand: what the endpoint asks.
        method: the method as the endpoint sees it.
        has_cookie: whether the session's cookie is there, whatever its value.

    """

    def __init__(
        self,
        policy: CSRF,
        origins: tuple[str, ...],
        request: Request,
        demand: Demand,
        method: str,
        *,
        has_cookie: bool,
    ) -> None:
        self._policy = policy
        self._origins = origins
        self._request = request
        self._demand = demand
        self.method = method
        self._facts = facts_of(request, request.wire_method, method, has_cookie=has_cookie)
        self._rejection = check(self._facts, policy, origins, demand)

    @property
    def passes(self) -> bool:
        """Whether the request may pass, as far as was looked."""
        return self._rejection is None

    @property
    def needs_token(self) -> bool:
        """Whether the token decides."""
        return self._rejection is not None and self._rejection.needs_token

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

    async def admit(self, stored: StoredSession, token: str | None) -> None:
        """Let the token decide. A store that fails raises `StoreError`, which is no pass."""
        own = f"{self._facts.seen_method} {self._request.decoded_path}"
        state = await stored.admit(token, (own,) if self._demand.scoped else ("", own))
        self._rejection = check(self._facts, self._policy, self._origins, self._demand, state)

    def rejection(self, stored: StoredSession, signals: Signals) -> Rejection | None:
        """Return why the request is refused, having logged and signalled it; `None` where it may pass."""
        rejection = self._rejection
        if rejection is None:
            return None
        is_reported = self._policy.mode == "report"
        credential = stored.credential
        signals.send(
            "csrf_rejected",
            "" if credential is None else short_digest(credential.selector),
            rejection.code,
            rejection.reason + (", reported and not refused" if is_reported else ""),
        )
        return None if is_reported else rejection

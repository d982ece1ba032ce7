"""The check of one request: by its headers, and where these do not decide by its token."""

from collections.abc import Callable
from functools import partial
from typing import TypeAlias

from server_session._signals import Signals
from server_session._tokens import short_digest
from server_session.csrf.policy import CSRF
from server_session.csrf.verdict import Protection, Rejection, check
from server_session.http.requests import Request
from server_session.kernel.stored import StoredSession

__all__ = ["Endpoint", "Guard", "unknown"]

Endpoint: TypeAlias = Callable[[], object]
"""Finds the view function or class that will serve a request, `None` where that is not known."""


def unknown() -> None:
    """Say that it is not known which endpoint will serve the request: then nothing is exempt."""


class Guard:
    """Checks one request. Make it, let the token decide by `admit` if it `needs_token`, and ask for the `rejection`."""

    def __init__(
        self, policy: CSRF, origins: tuple[str, ...], request: Request, asked: Protection, method: str, has_cookie: bool
    ) -> None:
        self.policy = policy
        self._request = request
        self._asked = asked
        self.method = method
        self._check = partial(check, request, method, policy, origins, asked, has_cookie=has_cookie)
        self._rejection = self._check()

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
        values = self._request.header_values(self.policy.header.lower().encode("ascii"))
        # Several are no token: which of them was meant nobody can say.
        return b",".join(values).decode("latin-1") if values else None

    async def admit(self, stored: StoredSession, token: str | None) -> None:
        """Let the token decide. A store that fails raises `StoreError`, which is no pass."""
        own = f"{self.method} {self._request.decoded_path}"
        self._rejection = self._check(await stored.admit(token, (own,) if self._asked.scoped else ("", own)))

    def rejection(self, stored: StoredSession, signals: Signals) -> Rejection | None:
        """Return why the request is refused, having logged and signalled it; `None` where it may pass."""
        rejection = self._rejection
        if rejection is None:
            return None
        is_reported = self.policy.mode == "report"
        session = "" if stored.credential is None else short_digest(stored.credential.selector)
        detail = rejection.reason + (", reported and not refused" if is_reported else "")
        signals.send("csrf_rejected", session, rejection.code, detail)
        return None if is_reported else rejection

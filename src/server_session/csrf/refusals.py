"""The answers that a middleware gives in the application's place."""

from collections.abc import Callable
from typing import Final, NamedTuple

from server_session.csrf.verdict import Rejection
from server_session.exceptions import CookieWithheldError, SessionError, StoreError

__all__ = ["REJECTION_HEADER", "UNVERIFIED", "Refusal", "forbidden", "unavailable", "withheld"]

REJECTION_HEADER: Final = "CSRF-Rejection"
"""The header that tells a script why its request was refused."""

UNVERIFIED: Final = "The request could not be verified to come from this site. Load the page again, and try once more."
"""What is true of every rejection."""

_SAID: Final = {
    "csrf_stale": "The form is from before you logged in, or too old. Load the page again, and send it once more.",
    "csrf_token_used": "The form was sent before. Load the page again if it should be sent once more.",
    "cookie_withheld": "The request came from another site, without your cookie. Open the page here, and try again.",
}

_PAGE: Final = (
    '<!doctype html><html lang="en"><meta charset="utf-8"><title>403 Forbidden</title>'
    "<h1>Forbidden</h1><p>{said}</p><p><small>{code}</small></p></html>\n"
)


class Refusal(NamedTuple):
    """A whole response."""

    status: int
    phrase: str
    headers: list[tuple[str, str]]
    body: bytes
    rejection: Rejection | None = None
    """Why the request is refused with 403; `code` is stable and safe to show, `reason` is for the log."""
    error: SessionError | None = None
    """What the session could not be had for."""

    @property
    def said(self) -> str:
        """What a framework's own page may say of it."""
        return UNVERIFIED if self.rejection else self.body.decode()


def unavailable(error: StoreError) -> Refusal:
    """Return the answer of an application whose store fails."""
    text = "Sessions are unavailable now. Try again later.\n"
    return _refusal(503, "Service Unavailable", "text/plain", text)._replace(error=error)


def forbidden(rejection: Rejection, page: Callable[[str], str] | None = None) -> Refusal:
    """Return the answer to a request that another site may have forged; `page` makes its HTML, from the code."""
    code = rejection.code
    text = _PAGE.format(said=_SAID.get(code, UNVERIFIED), code=code) if page is None else page(code)
    more = (("Vary", "Origin, Sec-Fetch-Site"), (REJECTION_HEADER, code))
    return _refusal(403, "Forbidden", "text/html", text, *more)._replace(rejection=rejection)


def withheld(error: CookieWithheldError) -> Refusal:
    """Return the answer to a request of another site's that would have founded a session."""
    return forbidden(Rejection("cookie_withheld", str(error)))._replace(error=error)


def _refusal(status: int, phrase: str, kind: str, text: str, *more: tuple[str, str]) -> Refusal:
    body = text.encode()
    headers = [
        ("Content-Type", f"{kind}; charset=utf-8"),
        ("Content-Length", str(len(body))),
        ("Cache-Control", "no-store"),
        ("X-Content-Type-Options", "nosniff"),
        *more,
    ]
    return Refusal(status, phrase, headers, body)

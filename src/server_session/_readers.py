"""What a reader of another library's sessions is. `adopt` has those of the libraries that people come from."""

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any, Final

from server_session._cookies import CookieHandler, RequestFacts, cookie_values
from server_session._settings import require, seconds_of

__all__ = ["Reader"]

# Browsers keep no longer ones (RFC 6265bis, 5.6), and whoever sends more of a name is no browser of ours.
_MOST_BYTES: Final = 4096
_READ_AT_MOST: Final = 4


class Reader:
    """Reads the sessions that another library gave to visitors. Subclass it, and define `key`, `read` and `end`.

    Args:
        cookie: the name of the library's cookie; or a `CookieHandler`, where it has a domain, another path than `/`, or
            is partitioned.
        max_age: for how long, in seconds or as a timedelta, such a cookie can be valid. For so long it is remembered
            that a session was taken over.

    """

    is_unique: bool = True
    """Whether no two visitors have the same key. Where a cookie is nothing but data and the second in which it was
    signed, many may have the same one: then only a session with a log-in is taken over once, and of the others each
    request that brings one is given a session of its own."""

    def __init__(self, cookie: str | CookieHandler, max_age: float | timedelta) -> None:
        require(cookie is not None, "cookie", "the name of the library's cookie, or a CookieHandler(...)", cookie)
        self.cookie = cookie if isinstance(cookie, CookieHandler) else CookieHandler(cookie)
        self.max_age = seconds_of("max_age", max_age)

    def key(self, value: str) -> str | None:
        """Return what names the session in a cookie of this value, `None` where it names none. Asks nobody.

        Whatever is signed is verified here. A key is as secret as the cookie, and a session has one: where the library
        takes several values for the same cookie they have the same key.
        """
        raise NotImplementedError

    async def read(self, key: str) -> Mapping[str, Any] | None:
        """Return the data of the session, `None` where there is none. Raises `StoreError` where it cannot be asked."""
        raise NotImplementedError

    async def end(self, key: str) -> None:
        """Delete the session where the library keeps it; nothing is to be done for what only the cookie holds."""

    def keys_in(self, request: RequestFacts) -> Sequence[str]:
        """Return the keys of the cookies that came with a request."""
        values = cookie_values(request.cookie_headers, self.cookie.name.encode("ascii"))[:_READ_AT_MOST]
        texts = [value.decode("ascii") for value in values if value.isascii() and len(value) <= _MOST_BYTES]
        return list(dict.fromkeys(key for text in texts if text and (key := self.key(text)) is not None))

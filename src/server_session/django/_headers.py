"""The headers of Django's responses, whose cookies stand apart in the form of Python's own `http.cookies`."""

from http.cookies import Morsel
from typing import Any

from server_session.http.frameworks import HeadersApart

__all__ = ["DjangoHeaders"]


class DjangoHeaders(HeadersApart):
    """The headers and the cookies of a response of Django's."""

    def __init__(self, response: Any) -> None:
        super().__init__(response.headers)
        self._cookies = response.cookies

    def cookies(self) -> list[str]:
        """Return the cookies as they are sent."""
        return [morsel.OutputString() for morsel in self._cookies.values()]

    def add_cookie(self, header: str) -> None:
        """Add a cookie."""
        morsel = _WrittenMorsel(header)
        # Several cookies of one name, on other domains and paths, need keys of their own.
        key = morsel.key
        while key in self._cookies:
            key += ";"
        dict.__setitem__(self._cookies, key, morsel)

    def drop_cookies(self) -> None:
        """Remove all cookies."""
        self._cookies.clear()


class _WrittenMorsel(Morsel[str]):
    """A cookie whose header is already written, until a middleware further out changes an attribute."""

    def __init__(self, header: str) -> None:
        super().__init__()
        name, _, rest = header.partition("=")
        value, *attributes = rest.split("; ")
        self.set(name, value, value)
        # Those that this Python does not know, as Partitioned.
        self._others: list[str] = []
        for attribute in attributes:
            key, _, given = attribute.partition("=")
            if self.isReservedKey(key):
                self[key] = int(given) if given.isdecimal() else given or True
            else:
                self._others.append(attribute)
        self._header, self._written = header, dict(self)

    def OutputString(self, attrs: Any = None) -> str:  # noqa: N802 - http.cookies' own name
        """Return the header's value."""
        if dict(self) == self._written:
            return self._header
        return "; ".join([super().OutputString(attrs), *self._others])

    def __reduce__(self) -> Any:
        return type(self), (self.OutputString(),)

"""The headers of Django's responses, whose cookies stand apart in the form of Python's own `http.cookies`."""

from collections.abc import Collection
from http.cookies import Morsel
from typing import Any

from server_session.http.responses import ResponseHeaders

__all__ = ["DjangoHeaders"]


class DjangoHeaders(ResponseHeaders):
    """The headers and the cookies of a response of Django's."""

    def __init__(self, response: Any) -> None:
        self._headers = response.headers
        self._cookies = response.cookies

    def names(self) -> Collection[str]:
        """Return the names of the headers that are there."""
        names = [name.lower() for name in self._headers]
        return [*names, "set-cookie"] if self._cookies else names

    def all(self, name: str) -> list[str]:
        """Return the values of a header."""
        if name == "set-cookie":
            return [morsel.OutputString() for morsel in self._cookies.values()]
        value = self._headers.get(name)
        return [] if value is None else [str(value)]

    def add(self, name: str, value: str) -> None:
        """Add a header."""
        if name != "set-cookie":
            self._headers[name] = value
            return
        morsel = _WrittenMorsel(value)
        # Several cookies of one name, on other domains and paths, need keys of their own.
        key = morsel.key
        while key in self._cookies:
            key += ";"
        dict.__setitem__(self._cookies, key, morsel)

    def drop(self, name: str) -> None:
        """Remove every header of this name."""
        if name == "set-cookie":
            self._cookies.clear()
        elif name in self._headers:
            del self._headers[name]


class _WrittenMorsel(Morsel[str]):
    """A cookie whose header is already written."""

    def __init__(self, header: str) -> None:
        super().__init__()
        name, _, rest = header.partition("=")
        value, *attributes = rest.split("; ")
        self.set(name, value, value)
        for key, _, given in (attribute.partition("=") for attribute in attributes):
            if self.isReservedKey(key):
                self[key] = given or True
        self._header = header

    def OutputString(self, attrs: Any = None) -> str:  # noqa: N802, ARG002 - http.cookies' own name
        """Return the header's value."""
        return self._header

    def __reduce__(self) -> Any:
        return type(self), (self._header,)

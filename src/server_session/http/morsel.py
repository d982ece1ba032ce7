"""A cookie as Django's responses hold it, in the form of Python's own `http.cookies`."""

from http.cookies import Morsel
from typing import Any

__all__ = ["RawMorsel"]


class RawMorsel(Morsel[str]):
    """A cookie of Django's `response.cookies` whose header is already written."""

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

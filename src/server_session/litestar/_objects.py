"""Requests and responses of Litestar, as a session needs them."""

from collections.abc import Collection
from typing import Any

from litestar import Request, Response
from litestar.datastructures import Cookie
from litestar.serialization import decode_json, encode_json
from litestar.types import Empty

from server_session.http.responses import ResponseHeaders
from server_session.kernel.mapping import Session

__all__ = ["LitestarHeaders", "telling"]

AnyRequest = Request[Any, Any, Any]


class _Telling(AnyRequest):
    @property
    def session(self) -> dict[str, Any]:
        session = super().session
        if isinstance(session, Session):
            # C code, such as Litestar's encoder, looks at a mapping past its methods.
            session.mark_accessed()
        return session

    def set_session(self, value: Any) -> None:
        # It may be an object of a class, as of a dataclass.
        super().set_session(value if value is Empty else decode_json(encode_json(value)))


def telling(kind: type[AnyRequest]) -> type[AnyRequest]:
    """Return this class of requests as one that notes who asks for the session."""
    return kind if issubclass(kind, _Telling) else type(kind.__name__, (_Telling, kind), {})


class _WrittenCookie(Cookie):
    """A cookie whose header is its `key`."""

    def to_encoded_header(self) -> tuple[bytes, bytes]:
        return b"set-cookie", self.key.encode("latin-1")


class LitestarHeaders(ResponseHeaders):
    """The headers of a response, which keeps cookies apart from them and each of the others once."""

    def __init__(self, response: Response[Any]) -> None:
        self._response = response

    def names(self) -> Collection[str]:
        """Return the names of the headers that are there."""
        names = [name.lower() for name in self._response.headers]
        return [*names, "set-cookie"] if self._response.cookies else names

    def all(self, name: str) -> list[str]:
        """Return the values of a header."""
        if name == "set-cookie":
            return [cookie.to_encoded_header()[1].decode("latin-1") for cookie in self._response.cookies]
        return [value for key, value in self._response.headers.items() if key.lower() == name]

    def add(self, name: str, value: str) -> None:
        """Add a value."""
        if name == "set-cookie":
            self._response.cookies.append(_WrittenCookie(value))
        else:
            self._response.headers[name] = value

    def drop(self, name: str) -> None:
        """Remove a header."""
        if name == "set-cookie":
            self._response.cookies.clear()
        self._response.headers = {key: value for key, value in self._response.headers.items() if key.lower() != name}

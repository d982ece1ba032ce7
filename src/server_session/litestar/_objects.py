"""Requests and responses of Litestar, as a session needs them."""

from typing import Any

from litestar import Request, Response
from litestar.datastructures import Cookie
from litestar.serialization import decode_json, encode_json
from litestar.types import Empty

from server_session.http.frameworks import HeadersApart
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


class LitestarHeaders(HeadersApart):
    """The headers of a response of Litestar's."""

    def __init__(self, response: Response[Any]) -> None:
        super().__init__(response.headers)
        self._cookies = response.cookies

    def cookies(self) -> list[str]:
        """Return the cookies as they are sent."""
        return [cookie.to_encoded_header()[1].decode("latin-1") for cookie in self._cookies]

    def add_cookie(self, header: str) -> None:
        """Add a cookie."""
        self._cookies.append(_WrittenCookie(header))

    def drop_cookies(self) -> None:
        """Remove all cookies."""
        self._cookies.clear()

"""What is read of a request, in the three forms in which Python frameworks bring one."""

from collections.abc import MutableMapping, Sequence
from typing import Any, Final

from server_session._cookies import RequestFacts

__all__ = ["AsgiRequest", "HeadersRequest", "WsgiRequest", "is_environ", "is_scope"]

_DEFAULT_PORTS: Final = {"http": "80", "https": "443"}


def is_scope(value: object) -> bool:
    """Tell whether this is an ASGI scope of a request."""
    return isinstance(value, MutableMapping) and value.get("type") in ("http", "websocket") and "headers" in value


def is_environ(value: object) -> bool:
    """Tell whether this is a WSGI environ (PEP 3333)."""
    return isinstance(value, MutableMapping) and "REQUEST_METHOD" in value and "wsgi.url_scheme" in value


class AsgiRequest(RequestFacts):
    """An ASGI scope."""

    def __init__(self, scope: MutableMapping[str, Any]) -> None:
        self.slots: MutableMapping[Any, Any] = scope

    def header_values(self, name: bytes) -> Sequence[bytes]:
        """Return the raw values of a header, in order."""
        return [value for key, value in self.slots["headers"] if key == name]

    @property
    def cookie_headers(self) -> Sequence[bytes]:
        """The raw values of the `Cookie` headers, in order."""
        return self.header_values(b"cookie")

    @property
    def scheme(self) -> str:
        """The request's scheme."""
        scheme: str = self.slots.get("scheme", "http")
        return scheme

    @property
    def host(self) -> str | None:
        """The `Host` header."""
        values = self.header_values(b"host")
        return values[0].decode("latin-1") if values else None

    @property
    def path(self) -> str:
        """The path, without the query."""
        # As the browser spelt it, for it is the browser's idea of the path that its cookies follow.
        raw: bytes | None = self.slots.get("raw_path")
        path: str = self.slots.get("path", "/")
        return path if raw is None else raw.partition(b"?")[0].decode("latin-1")


class WsgiRequest(RequestFacts):
    """A WSGI environ."""

    def __init__(self, environ: MutableMapping[str, Any]) -> None:
        self.slots: MutableMapping[Any, Any] = environ

    def header_values(self, name: bytes) -> Sequence[bytes]:
        """Return the raw value of a header; WSGI servers join several."""
        key = "HTTP_" + name.decode("ascii").upper().replace("-", "_")
        value = self.slots.get(key)
        return [] if value is None else [value.encode("latin-1", "replace")]

    @property
    def cookie_headers(self) -> Sequence[bytes]:
        """The raw values of the `Cookie` headers."""
        return self.header_values(b"cookie")

    @property
    def scheme(self) -> str:
        """The request's scheme."""
        scheme: str = self.slots.get("wsgi.url_scheme", "http")
        return scheme

    @property
    def host(self) -> str | None:
        """The `Host` header, or the server's name where an HTTP/1.0 client sent none."""
        if host := self.slots.get("HTTP_HOST"):
            return str(host)
        name, port = self.slots.get("SERVER_NAME"), self.slots.get("SERVER_PORT")
        if not name or not port or port == _DEFAULT_PORTS.get(self.scheme):
            return name or None
        return f"{name}:{port}"

    @property
    def path(self) -> str:
        """The path, without the query."""
        raw: str = self.slots.get("SCRIPT_NAME", "") + self.slots.get("PATH_INFO", "")
        return raw or "/"


class HeadersRequest(RequestFacts):
    """A request object with `headers`, of a framework that shows neither scope nor environ."""

    def __init__(self, request: Any, slots: MutableMapping[Any, Any]) -> None:
        self._request = request
        self.slots = slots

    def header_values(self, name: bytes) -> Sequence[bytes]:
        """Return the raw values of a header, in order."""
        headers = self._request.headers
        text = name.decode("ascii")
        for several in ("getall", "getlist", "get_list", "get_all"):
            if callable(method := getattr(headers, several, None)):
                try:
                    found: Any = method(text)
                except KeyError:
                    found = ()
                return [_raw(value) for value in found or ()]
        found_one = headers.get(text)
        if found_one is None:
            found_one = headers.get(text.title())
        return [] if found_one is None else [_raw(found_one)]

    @property
    def cookie_headers(self) -> Sequence[bytes]:
        """The raw values of the `Cookie` headers, in order."""
        return self.header_values(b"cookie")

    @property
    def scheme(self) -> str:
        """The request's scheme."""
        return str(getattr(self._request, "scheme", None) or getattr(self._request, "protocol", None) or "http")

    @property
    def host(self) -> str | None:
        """The `Host` header."""
        values = self.header_values(b"host")
        return values[0].decode("latin-1") if values else None

    @property
    def path(self) -> str:
        """The path, without the query."""
        return str(getattr(self._request, "path", "/"))


def _raw(value: str | bytes) -> bytes:
    return value if isinstance(value, bytes) else value.encode("utf-8", "surrogatepass")

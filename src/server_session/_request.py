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

    @property
    def method(self) -> str:
        """The method, in its case; that of a WebSocket's handshake is GET."""
        method: str = self.slots.get("method", "GET")
        return method

    @property
    def is_websocket(self) -> bool:
        """Whether this is the opening of a WebSocket."""
        return self.slots["type"] == "websocket" or (self.method == "GET" and _is_upgrade(self))

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

    @property
    def client_address(self) -> str | None:
        """The address of the client, as the server knows it."""
        client: Sequence[Any] | None = self.slots.get("client")
        return str(client[0]) or None if client else None

    @property
    def decoded_path(self) -> str:
        """The path that the application is asked for."""
        path: str = self.slots.get("path", "/")
        return path


class WsgiRequest(RequestFacts):
    """A WSGI environ."""

    def __init__(self, environ: MutableMapping[str, Any]) -> None:
        self.slots: MutableMapping[Any, Any] = environ

    @property
    def method(self) -> str:
        """The method, in its case."""
        method: str = self.slots["REQUEST_METHOD"]
        return method

    @property
    def is_websocket(self) -> bool:
        """Whether this is the opening of a WebSocket, which a WSGI application gets as a GET."""
        return self.method == "GET" and _is_upgrade(self)

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

    @property
    def client_address(self) -> str | None:
        """The address of the client, as the server knows it."""
        return self.slots.get("REMOTE_ADDR") or None

    @property
    def decoded_path(self) -> str:
        """The path that the application is asked for."""
        # PEP 3333 shows bytes as Latin-1.
        return self.path.encode("latin-1", "replace").decode("utf-8", "replace")


class HeadersRequest(RequestFacts):
    """A request object with `headers`, of a framework that shows neither scope nor environ."""

    def __init__(self, request: Any, slots: MutableMapping[Any, Any]) -> None:
        self._request = request
        self.slots = slots

    @property
    def method(self) -> str:
        """The method, in its case."""
        return str(getattr(self._request, "method", "") or "")

    @property
    def is_websocket(self) -> bool:
        """Whether this is the opening of a WebSocket."""
        return self.method == "GET" and _is_upgrade(self)

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

    @property
    def client_address(self) -> str | None:
        """The address of the client, as the server knows it."""
        # The names in aiohttp, Tornado, Sanic and Werkzeug's kin.
        names = ("remote", "remote_ip", "ip", "remote_addr")
        found = (getattr(self._request, name, None) for name in names)
        return next((one for one in found if isinstance(one, str) and one), None)

    @property
    def decoded_path(self) -> str:
        """The path that the application is asked for."""
        return self.path


def _is_upgrade(request: RequestFacts) -> bool:
    return any(b"websocket" in value.lower() for value in request.header_values(b"upgrade"))


def _raw(value: str | bytes) -> bytes:
    return value if isinstance(value, bytes) else value.encode("utf-8", "surrogatepass")

"""What is read of a request, in the three forms in which Python frameworks bring one, and what is kept with it."""

import weakref
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from typing import Any, Final, TypeAlias

from server_session._colour import Home
from server_session._cookies import RequestFacts
from server_session.exceptions import CarrierError

__all__ = [
    "AsgiRequest",
    "HeadersRequest",
    "Reader",
    "Request",
    "WsgiRequest",
    "is_environ",
    "is_request",
    "is_scope",
    "register_request",
    "request_of",
]

Reader: TypeAlias = Callable[[Any], "Request"]

# With a dot: what a WSGI environ holds under a name without one must be text (PEP 3333).
_SLOT: Final = "server_session.request"
_DEFAULT_PORTS: Final = {"http": "80", "https": "443"}


def is_scope(value: object) -> bool:
    """Tell whether this is an ASGI scope of a request."""
    return isinstance(value, MutableMapping) and value.get("type") in ("http", "websocket") and "headers" in value


def is_environ(value: object) -> bool:
    """Tell whether this is a WSGI environ (PEP 3333)."""
    return isinstance(value, MutableMapping) and "REQUEST_METHOD" in value and "wsgi.url_scheme" in value


class Request(RequestFacts):
    """A request, and what this library keeps with it. There is one for each request: `of` returns it.

    `exchanges` has the exchange of each `Sessions` that deals with it, `served` the `Sessions` of the middlewares that
    serve it, `home` the event loop of the application, and `wire_method` the method as it came, which an override
    further in has not changed. `within` is what another framework served when this one's began to serve it.
    """

    slots: MutableMapping[Any, Any]
    exchanges: dict[Any, Any]
    served: list[Any]
    home: Home | None = None
    wire_method: str
    within: "Request | None" = None

    @property
    def method(self) -> str:
        """The method, in its case."""
        raise NotImplementedError

    @property
    def is_websocket(self) -> bool:
        """Whether this is the opening of a WebSocket."""
        return self.method == "GET" and _is_upgrade(self)

    @property
    def decoded_path(self) -> str:
        """The path that the application is asked for."""
        raise NotImplementedError

    @property
    def host(self) -> str | None:
        """The `Host` header."""
        values = self.header_values(b"host")
        return values[0].decode("latin-1") if values else None

    @property
    def cookie_headers(self) -> Sequence[bytes]:
        """The raw values of the `Cookie` headers, in order."""
        return self.header_values(b"cookie")

    def _keep(self, slots: MutableMapping[Any, Any]) -> None:
        self.exchanges = {}
        self.served = []
        slots[_SLOT] = self


class AsgiRequest(Request):
    """An ASGI scope."""

    # Read at once, for each request comes by here.
    cookie_headers: Sequence[bytes] = ()
    is_websocket: bool = False

    def __init__(self, scope: MutableMapping[str, Any]) -> None:
        self.slots = scope
        self.exchanges = {}
        self.served = []
        self.wire_method = scope["method"] if "method" in scope else "GET"  # noqa: SIM401 - each request comes by here
        cookies: list[bytes] = []
        is_upgrade = False
        for name, value in scope["headers"]:
            if name == b"cookie":
                cookies += [value]
            elif name == b"upgrade":
                is_upgrade |= b"websocket" in value.lower()
        self.cookie_headers = cookies  # pyright: ignore[reportIncompatibleMethodOverride]
        is_handshake = is_upgrade and self.wire_method == "GET"
        self.is_websocket = scope["type"] == "websocket" or is_handshake  # pyright: ignore[reportIncompatibleMethodOverride]
        scope[_SLOT] = self

    @classmethod
    def of(cls, scope: MutableMapping[str, Any]) -> "AsgiRequest":
        """Return the request of this scope, the same one at each call."""
        return scope[_SLOT] if _SLOT in scope else cls(scope)

    def see(self, scope: MutableMapping[str, Any]) -> None:
        """Read on from this scope, which a layer between two middlewares of ours has put in the other's place."""
        other = AsgiRequest({**scope})
        vars(self).update(slots=scope, cookie_headers=other.cookie_headers, is_websocket=other.is_websocket)

    @property
    def method(self) -> str:
        """The method, in its case; that of a WebSocket's handshake is GET."""
        method: str = self.slots.get("method", "GET")
        return method

    def header_values(self, name: bytes) -> Sequence[bytes]:
        """Return the raw values of a header, in order."""
        return [value for key, value in self.slots["headers"] if key == name]

    @property
    def scheme(self) -> str:
        """The request's scheme."""
        scheme: str = self.slots.get("scheme", "http")
        return scheme

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


class WsgiRequest(Request):
    """A WSGI environ."""

    def __init__(self, environ: MutableMapping[str, Any]) -> None:
        self.slots = environ
        self.wire_method = environ["REQUEST_METHOD"]
        self._keep(environ)

    @classmethod
    def of(cls, environ: MutableMapping[str, Any]) -> "WsgiRequest":
        """Return the request of this environ, the same one at each call."""
        return environ[_SLOT] if _SLOT in environ else cls(environ)

    @property
    def method(self) -> str:
        """The method, in its case."""
        method: str = self.slots["REQUEST_METHOD"]
        return method

    def header_values(self, name: bytes) -> Sequence[bytes]:
        """Return the raw value of a header; WSGI servers join several."""
        # This one has a name of its own (PEP 3333).
        key = "CONTENT_TYPE" if name == b"content-type" else "HTTP_" + name.decode("ascii").upper().replace("-", "_")
        value = self.slots.get(key)
        return [] if value is None else [value.encode("latin-1", "replace")]

    @property
    def is_websocket(self) -> bool:
        """Whether this is the opening of a WebSocket."""
        return "HTTP_UPGRADE" in self.slots and super().is_websocket

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


class HeadersRequest(Request):
    """A request object with `headers`, of a framework that shows neither scope nor environ."""

    def __init__(self, request: Any, slots: MutableMapping[Any, Any]) -> None:
        self._request = request
        self.slots = slots
        self.wire_method = self.method
        self._keep(slots)

    @classmethod
    def of(cls, request: Any) -> "Request":
        """Return the request of this object, the same one at each call."""
        if isinstance(request, MutableMapping):
            slots: MutableMapping[Any, Any] | None = request
        else:
            slots = getattr(request, "__dict__", None)
        if slots is None:
            slots = _slots_beside(request)
            # Kept for as long as the request, it must not keep the request.
            request = weakref.proxy(request)
        found: Request | None = slots.get(_SLOT)
        return found or cls(request, slots)

    @property
    def method(self) -> str:
        """The method, in its case."""
        return str(getattr(self._request, "method", "") or "")

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
    def scheme(self) -> str:
        """The request's scheme."""
        return str(getattr(self._request, "scheme", None) or getattr(self._request, "protocol", None) or "http")

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


def _slots_beside(request: Any) -> MutableMapping[Any, Any]:
    try:
        return _apart.setdefault(request, {})
    except TypeError:
        raise CarrierError(
            f"nothing can be kept with a {type(request).__name__!r}: it takes neither attributes nor weak references"
        ) from None


_apart: weakref.WeakKeyDictionary[Any, MutableMapping[Any, Any]] = weakref.WeakKeyDictionary()


# --- the request objects of frameworks


def _of_scope(given: Any) -> Request:
    return AsgiRequest.of(given.scope)


def _of_environ(given: Any) -> Request:
    return WsgiRequest.of(given.environ)


def _of_env(given: Any) -> Request:
    return WsgiRequest.of(given.env)


def _of_meta(given: Any) -> Request:
    return WsgiRequest.of(given.META)


# By name, for none of these is imported before its framework is; a subclass is known by its base.
_KNOWN: Final[Mapping[str, Reader]] = {
    "starlette.requests.HTTPConnection": _of_scope,
    "litestar.connection.base.ASGIConnection": _of_scope,
    "quart.wrappers.base.BaseRequestWebsocket": _of_scope,
    "falcon.asgi.request.Request": _of_scope,
    "blacksheep.messages.Request": _of_scope,
    "django.core.handlers.asgi.ASGIRequest": _of_scope,
    "django.http.request.HttpRequest": _of_meta,
    "werkzeug.wrappers.request.Request": _of_environ,
    "webob.request.BaseRequest": _of_environ,
    "bottle.BaseRequest": _of_environ,
    "falcon.request.Request": _of_env,
    "aiohttp.web_request.BaseRequest": HeadersRequest.of,
    "sanic.request.types.Request": HeadersRequest.of,
    "tornado.httputil.HTTPServerRequest": HeadersRequest.of,
    "http.server.BaseHTTPRequestHandler": HeadersRequest.of,
}

_readers: dict[type, Reader | None] = {}


def register_request(kind: type, read: Reader) -> None:
    """Say how a framework's request objects of this type, and of its subclasses, are read.

    Args:
        kind: the type.
        read: returns the request, by `AsgiRequest.of(scope)`, `WsgiRequest.of(environ)` or, where the framework shows
            neither, `HeadersRequest.of(object)`, which reads `headers`, `method`, `path` and `scheme`.

    """
    for known in [one for one in _readers if issubclass(one, kind)]:
        del _readers[known]
    _registered[kind] = read


_registered: dict[type, Reader] = {}


def _reader_of(kind: type) -> Reader | None:
    if kind not in _readers:
        found = (_registered.get(base) or _KNOWN.get(f"{base.__module__}.{base.__qualname__}") for base in kind.__mro__)
        _readers[kind] = next((one for one in found if one is not None), None)
    return _readers[kind]


def is_request(given: Any) -> bool:
    """Tell whether this is a request that can be read."""
    # A proxy, such as Flask's `request`, is of the class that it says.
    return is_scope(given) or is_environ(given) or _reader_of(given.__class__) is not None


def request_of(given: Any) -> Request | None:
    """Return the request that this object is, the same one at each call; `None` if it is none."""
    if (known := _readers.get(given.__class__)) is not None:
        return known(given)
    if is_scope(given):
        return AsgiRequest.of(given)
    if is_environ(given):
        return WsgiRequest.of(given)
    read = _reader_of(given.__class__)
    return None if read is None else read(given)

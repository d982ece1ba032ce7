"""What is read of a request, an ASGI scope or a WSGI environ, and what is kept with it."""

from collections.abc import Callable, MutableMapping, Sequence
from functools import lru_cache
from typing import Any, Final, Self, TypeAlias

from server_session._colour import Home
from server_session._cookies import RequestFacts
from server_session.http.kinds import Kinds

__all__ = [
    "REQUESTS",
    "SLOT",
    "AsgiRequest",
    "Request",
    "WsgiRequest",
    "reader_of",
    "register_request",
    "request_of",
]

Reader: TypeAlias = Callable[[Any], "Request"]

# With a dot: what a WSGI environ holds under a name without one must be text (PEP 3333).
SLOT: Final = "server_session.request"
_DEFAULT_PORTS: Final = {"http": "80", "https": "443"}


class Request(RequestFacts):
    """A request, and what this library keeps with it. There is one for each request: `of` returns it.

    `slots` is where it is kept, `exchanges` has the exchange of each `Sessions` that deals with it, `served` the
    `Sessions` of the middlewares that serve it, or have, `serving` how many of them do now, `home` the event loop of
    the application, and `wire_method` the method as it came, which an override further in has not changed. `within` is
    what another framework served when this one's began to serve it. `is_http` tells whether an endpoint of HTTP will
    serve it, whatever its headers ask for. `thread` is the one in which serving it began.
    """

    home: Home | None = None
    serving: int = 0
    is_http: bool = True
    within: "Request | None" = None
    thread: int | None = None

    def __init__(self, slots: MutableMapping[Any, Any]) -> None:
        self.slots = slots
        self.exchanges: dict[Any, Any] = {}
        self.served: list[Any] = []
        self.wire_method = self.method
        slots[SLOT] = self

    @classmethod
    def of(cls, slots: MutableMapping[Any, Any], /) -> Self:
        """Return the request of this scope or environ, the same one at each call."""
        return slots[SLOT] if SLOT in slots else cls(slots)

    @property
    def method(self) -> str:
        """The method, in its case."""
        raise NotImplementedError

    @property
    def is_websocket(self) -> bool:
        """Whether this is the opening of a WebSocket."""
        return self.wire_method == "GET" and b"websocket" in b",".join(self.header_values(b"upgrade")).lower()

    @property
    def decoded_path(self) -> str:
        """The path that the application is asked for."""
        return self.path

    @property
    def host(self) -> str | None:
        values = self.header_values(b"host")
        return values[0].decode("latin-1") if values else None

    @property
    def cookie_headers(self) -> Sequence[bytes]:
        return self.header_values(b"cookie")


class AsgiRequest(Request):
    """An ASGI scope."""

    # Read at once, for each request comes by here.
    cookie_headers: Sequence[bytes] = ()
    is_websocket: bool = False

    def __init__(self, scope: MutableMapping[str, Any]) -> None:
        self.slots = scope
        self.exchanges = {}
        self.served = []
        # The scope of a WebSocket has no method: its handshake is a GET.
        self.wire_method = scope["method"] if "method" in scope else "GET"  # noqa: SIM401 - each request comes by here
        cookies: list[bytes] = []
        is_upgrade = False
        if scope["headers"].__class__ is not list:
            # Whatever can be iterated, once at least: Falcon's test client gives an iterator of iterators.
            scope["headers"] = [(name, value) for name, value in scope["headers"]]
        for name, value in scope["headers"]:
            if name == b"cookie":
                cookies += [value]
            elif name == b"upgrade":
                is_upgrade |= b"websocket" in value.lower()
        self.cookie_headers = cookies  # pyright: ignore[reportIncompatibleMethodOverride]
        self.is_http = scope["type"] != "websocket"
        is_handshake = is_upgrade and self.wire_method == "GET"
        self.is_websocket = is_handshake or not self.is_http  # pyright: ignore[reportIncompatibleMethodOverride]
        scope[SLOT] = self

    def see(self, scope: MutableMapping[str, Any]) -> None:
        """Read on from this scope, which a layer between two middlewares of ours has put in the other's place."""
        other = AsgiRequest({**scope})
        scope["headers"] = other.slots["headers"]  # what was an iterator has been read to its end
        vars(self).update(slots=scope, cookie_headers=other.cookie_headers, is_websocket=other.is_websocket)

    @property
    def method(self) -> str:
        return str(self.slots.get("method", "GET"))

    @property
    def scheme(self) -> str:
        return str(self.slots.get("scheme", "http"))

    def header_values(self, name: bytes) -> Sequence[bytes]:
        return [value for key, value in self.slots["headers"] if key == name]

    @property
    def path(self) -> str:
        # As the browser spelt it, for it is the browser's idea of the path that its cookies follow.
        raw: bytes | None = self.slots.get("raw_path")
        return self.decoded_path if raw is None else raw.partition(b"?")[0].decode("latin-1")

    @property
    def decoded_path(self) -> str:
        return str(self.slots.get("path", "/"))


@lru_cache(maxsize=64)
def _key_of(name: bytes) -> str:
    # Of the headers that are asked for this one alone has no prefix.
    return "CONTENT_TYPE" if name == b"content-type" else "HTTP_" + name.decode("ascii").upper().replace("-", "_")


class WsgiRequest(Request):
    """A WSGI environ (PEP 3333)."""

    @property
    def method(self) -> str:
        return str(self.slots["REQUEST_METHOD"])

    @property
    def scheme(self) -> str:
        return str(self.slots.get("wsgi.url_scheme", "http"))

    def header_values(self, name: bytes) -> Sequence[bytes]:
        # Servers join several headers of a name into one.
        value = self.slots.get(_key_of(name))
        return [] if value is None else [value.encode("latin-1", "replace")]

    @property
    def is_websocket(self) -> bool:
        return "HTTP_UPGRADE" in self.slots and super().is_websocket

    @property
    def host(self) -> str | None:
        if host := self.slots.get("HTTP_HOST"):
            return str(host)
        # A client of HTTP/1.0 sends none.
        name, port = self.slots.get("SERVER_NAME"), self.slots.get("SERVER_PORT")
        if not name or not port or port == _DEFAULT_PORTS.get(self.scheme):
            return name or None
        return f"{name}:{port}"

    @property
    def path(self) -> str:
        raw: str = self.slots.get("SCRIPT_NAME", "") + self.slots.get("PATH_INFO", "")
        return raw or "/"

    @property
    def decoded_path(self) -> str:
        # An environ shows the path's bytes as Latin-1 (PEP 3333).
        return self.path.encode("latin-1", "replace").decode("utf-8", "replace")


# --- which objects are requests

REQUESTS: Final = Kinds[Reader]()
register_request: Final = REQUESTS.register
register_request(Request, lambda request: request)


def reader_of(given: Any) -> Reader | None:
    """Return what reads an ASGI scope, a WSGI environ, or a framework's request object; `None` for all else."""
    # A proxy, such as Flask's `request`, is of the class that it says.
    if (read := REQUESTS[given.__class__]) is not None or not isinstance(given, MutableMapping):
        return read
    if given.get("type") in ("http", "websocket") and "headers" in given:
        return AsgiRequest.of
    return WsgiRequest.of if "REQUEST_METHOD" in given and "wsgi.url_scheme" in given else None


def request_of(given: Any) -> Request | None:
    """Return the request that this object is, the same one at each call; `None` if it is none."""
    read = reader_of(given)
    return None if read is None else read(given)

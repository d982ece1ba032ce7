"""The requests and responses of frameworks that are no scope, no environ and no plain headers, and whose are which."""

import warnings
import weakref
from collections.abc import Callable, Collection, Iterable, MutableMapping, Sequence
from importlib import import_module
from typing import Any, Final, Protocol, Self
from urllib.parse import unquote

from server_session.exceptions import CarrierError
from server_session.http.requests import REQUESTS, SLOT, AsgiRequest, Request, WsgiRequest
from server_session.http.responses import RESPONSES, ResponseHeaders

__all__ = [
    "AiohttpBody",
    "AiohttpRequest",
    "HeadersApart",
    "HeadersRequest",
    "MultiDictHeaders",
    "MultiDictRequest",
    "TornadoRequest",
]


class HeadersRequest(Request):
    """A request object with `headers`, of a framework that shows neither scope nor environ."""

    def __init__(self, request: Any, slots: MutableMapping[Any, Any]) -> None:
        self._request = request
        super().__init__(slots)

    @classmethod
    def of(cls, request: Any, /) -> Self:
        """Return the request of this object, the same one at each call. The object is of one request alone."""
        slots: Any = getattr(request, "__dict__", None)
        if slots is None:
            try:
                slots = _APART.setdefault(request, {})
            except TypeError:
                raise CarrierError(
                    f"nothing can be kept with a {type(request).__name__!r}: "
                    "it takes neither attributes nor weak references"
                ) from None
            # Kept for as long as the request, it must not keep the request.
            request = weakref.proxy(request)
        return slots[SLOT] if SLOT in slots else cls(request, slots)

    def _text(self, *names: str) -> str:
        """Return the text that is in the first of these attributes that has any."""
        for name in names:
            found = getattr(self._request, name, None)
            if isinstance(found, str) and found:
                return found
        return ""

    @property
    def method(self) -> str:
        # `command` is what `http.server` calls it.
        return self._text("method", "command")

    @property
    def scheme(self) -> str:
        return self._text("scheme", "protocol") or "http"

    @property
    def path(self) -> str:
        # That of `http.server` has the query too.
        return self._text("path").partition("?")[0] or "/"

    @property
    def decoded_path(self) -> str:
        # Some frameworks' `path` is as the browser spelt it. A token's scope is decoded likewise (`scope_of`).
        return unquote(self.path)

    def header_values(self, name: bytes) -> Sequence[bytes]:
        headers, text = self._request.headers, name.decode("ascii")
        methods = (getattr(headers, one, None) for one in ("getall", "getlist", "get_list", "get_all"))
        try:
            if (read_all := next(filter(callable, methods), None)) is not None:
                values: Any = read_all(text) or ()
            else:
                found = (headers.get(spelt) for spelt in (text, text.title()))
                values = [one for one in found if one is not None][:1]
        except KeyError:
            values = ()
        return [one if isinstance(one, bytes) else one.encode("utf-8", "surrogatepass") for one in values]


_APART: Final[weakref.WeakKeyDictionary[Any, MutableMapping[Any, Any]]] = weakref.WeakKeyDictionary()


class HandlerRequest(HeadersRequest):
    """A request of `http.server`, whose handler serves every request of a connection, each with headers of its own."""

    @classmethod
    def of(cls, request: Any, /) -> Self:
        """Return the request that the handler has now. A proxy's connection brings those of many visitors."""
        slots: Any = vars(request.headers)
        return slots[SLOT] if SLOT in slots else cls(request, slots)


class MultiDictRequest(HeadersRequest):
    """A request of Sanic or aiohttp, whose headers are a multidict of text that was bytes."""

    def header_values(self, name: bytes) -> Sequence[bytes]:
        return [
            one.encode("utf-8", "surrogateescape") for one in self._request.headers.getall(name.decode("ascii"), ())
        ]


class AiohttpRequest(MultiDictRequest):
    """A request of aiohttp, or a clone of one."""

    @classmethod
    def of(cls, request: Any, /) -> Self:
        # Its mapping warns of keys that are not of aiohttp's own kind. What is beneath goes along to each clone.
        slots: Any = request._state  # noqa: SLF001 - nothing else goes along
        return slots[SLOT] if SLOT in slots else cls(request, slots)

    @property
    def path(self) -> str:
        return str(self._request.rel_url.raw_path)

    @property
    def decoded_path(self) -> str:
        return str(self._request.path)


class TornadoRequest(HeadersRequest):
    """A request of Tornado, whose headers are text that was bytes, in Latin-1."""

    def header_values(self, name: bytes) -> Sequence[bytes]:
        return [one.encode("latin-1", "replace") for one in self._request.headers.get_list(name.decode("ascii"))]


class AiohttpBody:
    """The body of a request of aiohttp. Its `content` then gives what was read, and after it the server's."""

    def __init__(self, request: Any) -> None:
        self._request = request

    async def read(self, limit: int) -> tuple[bytes, bool]:
        content = self._request.content
        if content.at_eof():
            # A middleware has read it before, and aiohttp keeps it.
            kept: bytes = await self._request.read()
            return kept[:limit], len(kept) <= limit
        body = bytearray()
        while len(body) <= limit and not content.at_eof():
            body += await content.readany()
        with warnings.catch_warnings():
            # aiohttp's own parser of multipart forms puts back by this what it has read too much.
            warnings.simplefilter("ignore", DeprecationWarning)
            content.unread_data(bytes(body))
        return bytes(body[:limit]), len(body) <= limit


class MultiDictHeaders(ResponseHeaders):
    """The `headers` of a response object that can hold a name several times.

    Args:
        headers: the mapping.
        several: the name of its method that returns all values of a name.
        add: the name of its method that adds a value beside others.

    """

    def __init__(self, headers: Any, several: str, add: str) -> None:
        self._headers = headers
        self._several: Callable[[str], Iterable[str] | None] = getattr(headers, several)
        self._add: Callable[[str, str], object] = getattr(headers, add)

    def names(self) -> Collection[str]:
        return [name.lower() for name in self._headers.keys()]  # noqa: SIM118 - not all of them are mappings

    def all(self, name: str) -> list[str]:
        try:
            # Sanic has cookies of its own class among them.
            return [*map(str, self._several(name) or ())]
        except KeyError:
            return []

    def add(self, name: str, value: str) -> None:
        self._add(name, value)

    def drop(self, name: str) -> None:
        if name in self._headers:
            del self._headers[name]


class HeadersApart(ResponseHeaders, Protocol):
    """The headers of a response that keeps its cookies apart from them, and each of the others once.

    A subclass defines `cookies`, which returns each as its header has it, `add_cookie` and `drop_cookies`.
    """

    _headers: MutableMapping[str, Any]

    def __init__(self, headers: MutableMapping[str, Any]) -> None:
        self._headers = headers

    def cookies(self) -> list[str]: ...
    def add_cookie(self, header: str) -> None: ...
    def drop_cookies(self) -> None: ...

    def names(self) -> Collection[str]:
        names = [name.lower() for name in self._headers]
        return [*names, "set-cookie"] if self.cookies() else names

    def all(self, name: str) -> list[str]:
        if name == "set-cookie":
            return self.cookies()
        return [str(value) for key, value in self._headers.items() if key.lower() == name]

    def add(self, name: str, value: str) -> None:
        if name == "set-cookie":
            self.add_cookie(value)
        else:
            self._headers[name] = value

    def drop(self, name: str) -> None:
        if name == "set-cookie":
            self.drop_cookies()
        for key in [key for key in self._headers if key.lower() == name]:
            del self._headers[key]


class FalconHeaders(HeadersApart):
    """The headers of a response of Falcon's, which shows no cookies."""

    def __init__(self, response: Any) -> None:
        super().__init__(response._headers)  # noqa: SLF001 - nothing else can be changed
        self._response = response

    def cookies(self) -> list[str]:
        response = self._response
        apart = [value for name, value in response._extra_headers or () if name == "set-cookie"]  # noqa: SLF001
        return [*apart, *(cookie.OutputString() for cookie in (response._cookies or {}).values())]  # noqa: SLF001

    def add_cookie(self, header: str) -> None:
        self._response.append_header("set-cookie", header)

    def drop_cookies(self) -> None:
        response = self._response
        others = [header for header in response._extra_headers or () if header[0] != "set-cookie"]  # noqa: SLF001
        response._extra_headers, response._cookies = others, None  # noqa: SLF001


class LitestarHeaders(HeadersApart):
    """The headers of a response of Litestar's."""

    def __init__(self, response: Any) -> None:
        super().__init__(response.headers)
        self._cookies = response.cookies

    def cookies(self) -> list[str]:
        return [cookie.to_encoded_header()[1].decode("latin-1") for cookie in self._cookies]

    def add_cookie(self, header: str) -> None:
        cookie = import_module("litestar.datastructures").Cookie(header)
        # Sent as it is written.
        cookie.to_encoded_header = lambda: (b"set-cookie", header.encode("latin-1"))
        self._cookies.append(cookie)

    def drop_cookies(self) -> None:
        self._cookies.clear()


class BytesHeaders(ResponseHeaders):
    """The headers of a response of BlackSheep's, whose names and values are bytes."""

    def __init__(self, response: Any) -> None:
        self._headers = response.headers

    def names(self) -> Collection[str]:
        return [name.decode("latin-1").lower() for name in self._headers.keys()]  # noqa: SIM118 - it is no mapping

    def all(self, name: str) -> list[str]:
        return [value.decode("latin-1") for value in self._headers.get(name.encode("latin-1"))]

    def add(self, name: str, value: str) -> None:
        self._headers.add(name.encode("latin-1"), value.encode("latin-1"))

    def drop(self, name: str) -> None:
        if name in self.names():
            self._headers.remove(name.encode("latin-1"))


class TornadoHeaders(MultiDictHeaders):
    """The headers of a response of Tornado, which its handler holds; cookies become headers when they are sent."""

    def __init__(self, handler: Any) -> None:
        super().__init__(handler._headers, "get_list", "add")  # noqa: SLF001 - nothing else tells them
        self._new: dict[str, Any] = getattr(handler, "_new_cookie", {})

    def names(self) -> Collection[str]:
        return [*super().names(), "set-cookie"] if self._new else super().names()

    def all(self, name: str) -> list[str]:
        more = self._new.values() if name == "set-cookie" else ()
        return [*super().all(name), *(cookie.OutputString() for cookie in more)]

    def drop(self, name: str) -> None:
        super().drop(name)
        if name == "set-cookie":
            self._new.clear()


def _scope(given: Any) -> Request:
    if given.scope is None:
        raise CarrierError("this request is over, and its framework has taken its scope: give that, kept from before")
    return AsgiRequest.of(given.scope)


def _environ(given: Any) -> Request:
    return WsgiRequest.of(given.environ)


def _multi_dict(several: str, add: str) -> Callable[[Any], ResponseHeaders]:
    return lambda response: MultiDictHeaders(response.headers, several, add)


def _django_headers(response: Any) -> Any:
    return import_module("server_session.django._headers").DjangoHeaders(response)


# By name, for none of these is imported before its framework is.
REQUESTS.known |= {
    "starlette.requests.HTTPConnection": _scope,
    "litestar.connection.base.ASGIConnection": _scope,
    "quart.wrappers.base.BaseRequestWebsocket": _scope,
    "falcon.asgi.request.Request": _scope,
    "blacksheep.messages.Request": _scope,
    "gradio.route_utils.Request": lambda given: _scope(given.request),
    "django.core.handlers.asgi.ASGIRequest": _scope,
    "django.http.request.HttpRequest": lambda given: WsgiRequest.of(given.META),
    "werkzeug.wrappers.request.Request": _environ,
    "webob.request.BaseRequest": _environ,
    "bottle.BaseRequest": _environ,
    "falcon.request.Request": lambda given: WsgiRequest.of(given.env),
    "cherrypy._ThreadLocalProxy": lambda given: WsgiRequest.of(given.wsgi_environ),
    "aiohttp.web_request.BaseRequest": AiohttpRequest.of,
    "sanic.request.types.Request": MultiDictRequest.of,
    "tornado.httputil.HTTPServerRequest": TornadoRequest.of,
    "tornado.web.RequestHandler": lambda given: TornadoRequest.of(given.request),
    "http.server.BaseHTTPRequestHandler": HandlerRequest.of,
}
RESPONSES.known |= {
    "starlette.responses.Response": _multi_dict("getlist", "append"),
    "werkzeug.sansio.response.Response": _multi_dict("getlist", "add"),
    "django.http.response.HttpResponseBase": _django_headers,
    "litestar.response.base.Response": LitestarHeaders,
    "blacksheep.messages.Response": BytesHeaders,
    "aiohttp.web_response.StreamResponse": _multi_dict("getall", "add"),
    "tornado.web.RequestHandler": TornadoHeaders,
    "sanic.response.types.BaseHTTPResponse": _multi_dict("getall", "add"),
    "falcon.response.Response": FalconHeaders,
    "webob.response.Response": _multi_dict("getall", "add"),
    "bottle.BaseResponse": _multi_dict("getall", "append"),
}

import asyncio
import http.client
import http.server
import io
import os
import subprocess
import sys
import threading
from collections import UserDict
from contextvars import copy_context
from email.message import Message
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from wsgiref.util import setup_testing_defaults

import pytest
from django.http import HttpResponse
from flask import Flask
from flask import request as flask_request
from starlette.requests import HTTPConnection, Request
from starlette.responses import Response
from starlette.websockets import WebSocket
from werkzeug.wrappers import Request as WerkzeugRequest
from werkzeug.wrappers import Response as WerkzeugResponse

from server_session import CarrierError, Sessions
from server_session.http.carrier import Carrier, current, is_carrier, resolve
from server_session.http.frameworks import HeadersRequest, MultiDictHeaders
from server_session.http.requests import AsgiRequest, WsgiRequest, register_request, request_of
from server_session.http.responses import register_response
from tests.asgi_client import scope_of
from tests.patience import PATIENCE

ROOT = Path(__file__).resolve().parents[1]
COOKIE = "session=" + "A" * 64


def environ_of(cookie: str | None = COOKIE) -> dict[str, Any]:
    environ: dict[str, Any] = {"HTTP_HOST": "shop.example"}
    setup_testing_defaults(environ)
    return environ | ({} if cookie is None else {"HTTP_COOKIE": cookie})


def message_of(cookie: str = COOKIE) -> Message:
    headers = Message()
    headers["Cookie"] = cookie
    headers["Host"] = "shop.example"
    return headers


class Bearer:
    """A request that bears an environ under a name of its framework's, and headers of its own."""

    def __init__(self, name: str) -> None:
        setattr(self, name, environ_of())
        self.headers = {"Cookie": "session=another"}


class Webs(Bearer):
    """As Django's requests bear it."""


class Enved(Bearer):
    """As Falcon's requests bear it."""


class Plain:
    """A request with headers in a plain dict."""

    def __init__(self) -> None:
        self.headers = {"Cookie": COOKIE, "Host": "shop.example"}


class Answer:
    """A response with the standard library's headers."""

    def __init__(self) -> None:
        self.headers = Message()


class Handler(http.server.BaseHTTPRequestHandler):
    """The standard library's own handler of requests, without its socket."""

    def __init__(self) -> None:
        self.headers = message_of()
        self.path = "/basket"


class Mapped(UserDict[str, Any]):
    """A request that is a mapping itself, as aiohttp's is."""

    def __init__(self) -> None:
        super().__init__()
        self.headers = message_of()


class Slotted:
    __slots__ = ("__weakref__", "headers")

    def __init__(self) -> None:
        self.headers = {"cookie": COOKIE}


class Closed:
    __slots__ = ("headers",)

    def __init__(self) -> None:
        self.headers = {"cookie": COOKIE}


register_request(Bearer, lambda given: WsgiRequest.of(given.environ))
register_request(Enved, lambda given: WsgiRequest.of(given.env))
register_request(Webs, lambda given: WsgiRequest.of(given.META))
for kind in (Plain, Mapped, Slotted, Closed):
    register_request(kind, HeadersRequest.of)
register_response(Answer, lambda response: MultiDictHeaders(response.headers, "get_all", "add_header"))

REQUESTS: dict[str, Any] = {
    "an ASGI scope": lambda: scope_of(cookie=COOKIE),
    "a WebSocket's scope": lambda: scope_of(cookie=COOKIE, type="websocket", scheme="ws"),
    "a WSGI environ": environ_of,
    "a Starlette request": lambda: Request(scope_of(cookie=COOKIE)),
    "a Starlette connection": lambda: HTTPConnection(scope_of(cookie=COOKIE)),
    "a Starlette WebSocket": lambda: WebSocket(scope_of(cookie=COOKIE, type="websocket"), None, None),  # type: ignore[arg-type]
    "a Werkzeug request": lambda: WerkzeugRequest(environ_of()),
    "what bears META, as Django's": lambda: Webs("META"),
    "what bears env, as Falcon's": lambda: Enved("env"),
    "what bears environ, as WebOb's": lambda: Bearer("environ"),
    "what bears headers": Handler,
    "what bears headers in a plain dict": Plain,
    "what is a mapping and bears headers": Mapped,
}


@pytest.fixture(params=REQUESTS)
def request_object(request: pytest.FixtureRequest) -> Any:
    return REQUESTS[request.param]()


@pytest.fixture(params=["Starlette", "Werkzeug", "Django", "headers"])
def response_object(request: pytest.FixtureRequest) -> Any:
    return {
        "Starlette": Response,
        "Werkzeug": WerkzeugResponse,
        "Django": lambda: HttpResponse(b"", content_type="text/plain; charset=utf-8"),
        "headers": Answer,
    }[request.param]()


# --- what a carrier can be


def test_the_cookie_and_the_host_are_read_from_every_kind_of_request(request_object):
    request = resolve((request_object,)).request
    assert list(request.cookie_headers) == [COOKIE.encode()]
    assert request.host == "shop.example"


def test_a_request_alone_has_no_response(request_object):
    assert resolve((request_object,)).response is None


def test_every_kind_of_request_goes_with_every_kind_of_response(request_object, response_object):
    carrier = resolve((request_object, response_object))
    assert list(carrier.request.cookie_headers) == [COOKIE.encode()]
    assert carrier.response is not None
    carrier.response.add("set-cookie", "a=1; Path=/")
    carrier.response.add("set-cookie", "a=2; Path=/b")
    # Of the response that was given, and not of a copy.
    again = resolve((request_object, response_object)).response
    assert again is not None
    assert again.all("set-cookie") == ["a=1; Path=/", "a=2; Path=/b"]


@pytest.mark.parametrize("names", [("req", "res"), ("request", "response")])
def test_a_context_bears_a_request_and_a_response(request_object, response_object, names):
    context = SimpleNamespace(**dict(zip(names, (request_object, response_object), strict=True)))
    carrier = resolve((context,))
    assert list(carrier.request.cookie_headers) == [COOKIE.encode()]
    assert carrier.response is not None
    assert is_carrier(context)


def test_a_context_of_a_request_alone_is_none():
    with pytest.raises(CarrierError, match="SimpleNamespace"):
        resolve((SimpleNamespace(req=scope_of()),))


def test_flask_s_own_request_of_now_is_a_request():
    with Flask(__name__).test_request_context(headers={"Cookie": COOKIE}):
        carrier = resolve((flask_request,))
        assert list(carrier.request.cookie_headers) == [COOKIE.encode()]
        assert carrier.request is resolve((flask_request._get_current_object(),)).request


class Shop(http.server.BaseHTTPRequestHandler):
    """A handler that says whose session it is, and keeps the connection."""

    protocol_version = "HTTP/1.1"
    sessions: Sessions

    def do_GET(self) -> None:
        body = repr(self.sessions.sync.get_session_data(self)).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


def test_visitors_whose_proxy_shares_a_connection_to_the_standard_library_s_server_share_no_session():
    Shop.sessions = sessions = Sessions(session_store="memory:")
    cookies = []
    for user in ("ada", "bob"):
        response = Response()
        sessions.sync.set_session_data(scope_of(), response, {"user": user})
        cookies.append(response.headers["set-cookie"].partition(";")[0])
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Shop) as server:
        serving = threading.Thread(target=server.serve_forever)
        serving.start()
        connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=PATIENCE)
        said = []
        for cookie in (*cookies, ""):
            connection.request("GET", "/", headers={"Cookie": cookie})
            said.append(connection.getresponse().read())
        connection.close()
        server.shutdown()
        serving.join()
    assert said == [b"{'user': 'ada'}", b"{'user': 'bob'}", b"{}"]


# --- what is none


class Nothing:
    pass


@pytest.mark.parametrize(
    "given,named",
    [
        (None, "'NoneType'"),
        (5, "'int'"),
        ("session", "'str'"),
        (b"session", "'bytes'"),
        ([], "'list'"),
        ({}, "'dict'"),
        ({"type": "lifespan"}, "'dict'"),
        ({"type": "lifespan", "headers": []}, "'dict'"),
        ({"type": "http"}, "'dict'"),
        ({"REQUEST_METHOD": "GET"}, "'dict'"),
        (Nothing(), "'Nothing'"),
        (Nothing, "'type'"),
        (SimpleNamespace(scope={"type": "lifespan"}), "'SimpleNamespace'"),
        (SimpleNamespace(headers=None), "'SimpleNamespace'"),
        (Response(), "'Response'"),
        (WerkzeugResponse(), "'Response'"),
        (HttpResponse(b"", content_type="text/plain; charset=utf-8"), "'HttpResponse'"),
    ],
)
def test_what_is_no_request_is_a_type_error_that_says_what_was_given_and_what_can_be(given, named):
    for arguments in ((given,), (given, Response())):
        with pytest.raises(CarrierError) as caught:
            resolve(arguments)
        assert isinstance(caught.value, TypeError)
        said = str(caught.value)
        assert said.startswith(named)
        assert "a request, a request and a response, or a context with .req/.res or .request/.response" in said
        assert "an ASGI scope, a WSGI environ, or a framework's request object" in said


@pytest.mark.parametrize(
    "given,named",
    [(None, "NoneType"), ({}, "dict"), ("x", "str"), (Nothing(), "Nothing"), (SimpleNamespace(headers={}), "Simple")],
)
def test_what_is_no_response_is_a_type_error_that_says_what_was_given_and_what_to_give(given, named):
    with pytest.raises(CarrierError, match=f"^{named}.*give the framework's response object after the request"):
        resolve((scope_of(), given))


def test_the_response_first_is_an_error_that_names_it():
    with pytest.raises(CarrierError, match=r"^'Response' is no request"):
        resolve((Response(), scope_of()))


def test_three_arguments_are_no_carrier():
    with pytest.raises(CarrierError, match=r"^3 arguments for a request: give nothing"):
        resolve((scope_of(), Response(), Response()))


def test_nothing_is_a_carrier_only_where_a_request_is_being_served():
    with pytest.raises(CarrierError, match="no request is being served here: give the request"):
        resolve(())
    assert current.get() is None


def test_the_request_being_served_is_the_context_s_own_and_reaches_its_threads_and_tasks():
    request = AsgiRequest(scope_of(cookie=COOKIE))
    request.serving = 1

    async def scenario() -> None:
        current.set(request)
        assert resolve(()) == Carrier(request)
        assert await asyncio.create_task(later()) == Carrier(request)
        assert await asyncio.to_thread(resolve, ()) == Carrier(request)

    async def later() -> Carrier:
        return resolve(())

    copy_context().run(asyncio.run, scenario())
    assert current.get() is None


# In a process of its own, for Python says at its start whether threads inherit; before 3.14 none does.
POOLED = """
import asyncio
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar, copy_context
from threading import Thread
from starlette.requests import HTTPConnection
from server_session import CarrierError, MemorySessionStore, Sessions
from server_session.http.carrier import current, find_request_by, resolve
from server_session.http.requests import AsgiRequest
from tests.asgi_client import scope_of

sessions = Sessions(session_store=MemorySessionStore())
framework = ContextVar("framework", default=None)
find_request_by(framework.get)

def found():
    try:
        return resolve(()).request
    except CarrierError:
        return None

def serve(by_framework, call):
    request = AsgiRequest(scope_of())
    exchange = sessions.exchange(request)
    exchange.serve(found=by_framework)
    framework.set(HTTPConnection(request.slots)) if by_framework else current.set(request)
    call(request)
    exchange.leave()

async def ask(request):
    pool = ThreadPoolExecutor(1)
    assert await asyncio.get_running_loop().run_in_executor(pool, found) is None
    assert await asyncio.to_thread(found) is request
    asked = []
    thread = Thread(target=serve, args=[False, lambda other: asked.append(found() is other)])
    thread.start()
    thread.join()
    assert asked == [True]

for by_framework in (False, True):
    copy_context().run(serve, by_framework, lambda request: asyncio.run(ask(request)))
"""


def test_a_thread_of_a_pool_does_not_take_the_request_in_which_it_was_started_for_the_one_that_asks() -> None:
    command = [sys.executable, "-X", "thread_inherit_context=1", "-c", POOLED]
    subprocess.run(
        command, cwd=ROOT, env={**os.environ, "PYTHONPATH": f"src{os.pathsep}."}, timeout=PATIENCE, check=True
    )


@pytest.mark.parametrize(
    "value", [None, True, 5, 1.5, "text", b"", [], (), {}, {"a": 1}, {"headers": 1}, {"type": "http"}, len, Nothing()]
)
def test_data_names_tokens_and_functions_are_no_carrier(value):
    assert not is_carrier(value)


def test_requests_and_responses_are_carriers_and_not_data(request_object, response_object):
    assert is_carrier(request_object)
    assert is_carrier(response_object)


# --- what is kept with a request


def test_what_is_kept_with_a_request_is_the_same_at_each_call(request_object):
    state = resolve((request_object,)).request
    assert resolve((request_object,)).request is state


def test_what_is_kept_with_a_request_is_no_other_request_s():
    states = [resolve((make(),)).request for make in REQUESTS.values() for _ in range(2)]
    assert len({id(state) for state in states}) == len(states)


def test_a_copy_of_a_scope_and_every_object_over_it_share_what_is_kept():
    scope = scope_of(cookie=COOKIE)
    state = resolve((scope,)).request
    for one in (dict(scope), Request(scope), Request(dict(scope)), HTTPConnection({**scope, "path": "/mounted"})):
        assert resolve((one,)).request is state


def test_an_environ_and_every_object_over_it_share_what_is_kept():
    environ = environ_of()
    state = resolve((WerkzeugRequest(environ),)).request
    for one in (environ, dict(environ), WerkzeugRequest(environ)):
        assert resolve((one,)).request is state


def test_a_request_without_attributes_keeps_its_state_by_a_weak_reference():
    one, other = Slotted(), Slotted()
    state = resolve((one,)).request
    assert resolve((one,)).request is state
    assert resolve((other,)).request is not state


def test_a_request_with_which_nothing_can_be_kept_is_an_error_that_says_so():
    with pytest.raises(CarrierError, match="'Closed': it takes neither attributes nor weak references"):
        resolve((Closed(),))


# --- the three forms of a request


class Multi:
    """Headers that can hold a name several times, under one of the names that frameworks give that method."""

    def __init__(self, method: str, values: list[str] | None) -> None:
        self._values = values
        setattr(self, method, self._several)

    def _several(self, name: str) -> list[str]:
        if self._values is None:
            raise KeyError(name)
        return self._values

    def get(self, name: str) -> str | None:
        raise AssertionError("it gives one of several")


@pytest.mark.parametrize("method", ["getall", "getlist", "get_list", "get_all"])
def test_every_value_of_a_header_is_read_whatever_the_framework_calls_it(method):
    request = HeadersRequest(SimpleNamespace(headers=Multi(method, ["a=1", "b=2"])), {})
    assert list(request.cookie_headers) == [b"a=1", b"b=2"]
    absent = HeadersRequest(SimpleNamespace(headers=Multi(method, None)), {})
    assert list(absent.cookie_headers) == []
    assert absent.host is None


@pytest.mark.parametrize("name", ["origin", "Origin"])
def test_a_header_that_is_empty_is_there_in_whichever_case_its_name_is(name):
    request = HeadersRequest(SimpleNamespace(headers={name: ""}), {})
    assert list(request.header_values(b"origin")) == [b""]
    assert list(request.header_values(b"referer")) == []


def test_two_cookie_headers_of_a_scope_are_read_in_order_and_as_bytes():
    scope = scope_of()
    scope["headers"] += [(b"cookie", b"a=\xff"), (b"x-cookie", b"b=1"), (b"cookie", b"c=\xc3\xa9")]
    assert list(AsgiRequest(scope).cookie_headers) == [b"a=\xff", b"c=\xc3\xa9"]


def test_a_header_of_an_environ_comes_back_as_the_bytes_that_were_sent():
    assert list(WsgiRequest(environ_of("a=\xff; b=\xc3\xa9")).cookie_headers) == [b"a=\xff; b=\xc3\xa9"]
    assert list(WsgiRequest(environ_of("a=\N{EURO SIGN}")).cookie_headers) == [b"a=?"]
    assert list(WsgiRequest(environ_of(None)).cookie_headers) == []


def test_a_header_that_a_framework_decoded_is_never_an_error():
    for text in ("a=é", "a=\udcff", "a=\ud800", "a=\N{EURO SIGN}"):
        request = HeadersRequest(SimpleNamespace(headers={"cookie": text}), {})
        assert request.cookie_headers[0].startswith(b"a=")


PATHS: list[tuple[Any, str]] = [
    (AsgiRequest(scope_of("/a b", raw_path=b"/a%20b?q=1")), "/a%20b"),
    (AsgiRequest(scope_of("/a b", raw_path=None)), "/a b"),
    (WsgiRequest({**environ_of(), "SCRIPT_NAME": "/app", "PATH_INFO": "/basket"}), "/app/basket"),
    (WsgiRequest({**environ_of(), "SCRIPT_NAME": "", "PATH_INFO": ""}), "/"),
    (HeadersRequest(SimpleNamespace(headers={}, path="/basket"), {}), "/basket"),
    (HeadersRequest(SimpleNamespace(headers={}), {}), "/"),
]


@pytest.mark.parametrize("request_form,path", PATHS)
def test_the_path_is_the_browser_s_idea_of_it(request_form, path):
    assert request_form.path == path


HOSTS: list[tuple[dict[str, str], str | None]] = [
    ({"HTTP_HOST": "shop.example:8443"}, "shop.example:8443"),
    ({"HTTP_HOST": "", "SERVER_NAME": "shop.example", "SERVER_PORT": "80"}, "shop.example"),
    ({"HTTP_HOST": "", "SERVER_NAME": "shop.example", "SERVER_PORT": "8080"}, "shop.example:8080"),
    (
        {"HTTP_HOST": "", "SERVER_NAME": "shop.example", "SERVER_PORT": "443", "wsgi.url_scheme": "https"},
        "shop.example",
    ),
    ({"HTTP_HOST": "", "SERVER_NAME": "shop.example", "SERVER_PORT": ""}, "shop.example"),
    ({"HTTP_HOST": "", "SERVER_NAME": "", "SERVER_PORT": "8080"}, None),
]


@pytest.mark.parametrize("said,host", HOSTS)
def test_the_host_of_an_environ_is_the_header_s_or_else_the_server_s(said, host):
    assert WsgiRequest({**environ_of(), **said}).host == host


@pytest.mark.parametrize(
    "request_form,scheme",
    [
        (AsgiRequest(scope_of(scheme="https")), "https"),
        (AsgiRequest({"type": "http", "headers": []}), "http"),
        (WsgiRequest({**environ_of(), "wsgi.url_scheme": "https"}), "https"),
        (HeadersRequest(SimpleNamespace(headers={}, scheme="https"), {}), "https"),
        (HeadersRequest(SimpleNamespace(headers={}, protocol="https"), {}), "https"),
        (HeadersRequest(SimpleNamespace(headers={}), {}), "http"),
    ],
)
def test_the_scheme_is_the_request_s_own(request_form, scheme):
    assert request_form.scheme == scheme


@pytest.mark.parametrize(
    "method,headers,is_one",
    [
        ("GET", {"upgrade": "websocket"}, True),
        ("GET", {"upgrade": "WebSocket"}, True),
        ("GET", {"upgrade": "h2c, websocket"}, True),
        ("GET", {"upgrade": "h2c"}, False),
        ("GET", {"x-upgrade": "websocket"}, False),
        ("GET", {}, False),
        ("POST", {"upgrade": "websocket"}, False),
    ],
)
def test_a_get_that_asks_for_a_websocket_is_the_opening_of_one(method, headers, is_one):
    raw = [(name.encode(), value.encode()) for name, value in headers.items()]
    assert AsgiRequest(scope_of(method=method) | {"headers": raw}).is_websocket is is_one
    own = {"HTTP_" + name.upper().replace("-", "_"): value for name, value in headers.items()}
    assert WsgiRequest({**environ_of(), "REQUEST_METHOD": method, **own}).is_websocket is is_one


def test_reading_a_request_takes_nothing_of_its_body():
    environ = environ_of()
    environ["wsgi.input"] = io.BytesIO(b"name=ada")
    list(resolve((WerkzeugRequest(environ),)).request.cookie_headers)
    assert environ["wsgi.input"].read() == b"name=ada"


def test_a_handler_of_the_standard_library_tells_its_method_and_its_path_without_the_query():
    handler = Handler()
    handler.command, handler.path = "GET", "/basket%20a?x=1"
    request = request_of(handler)
    assert request is not None
    assert (request.method, request.path, request.decoded_path) == ("GET", "/basket%20a", "/basket a")

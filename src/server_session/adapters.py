"""What an adapter of another framework is made of: the exchange of one request for its one response.

An adapter finds a request's `Exchange` by `sessions.exchange(request)` and takes its steps, each at the framework's own
point; `exchange.blocking` has them for frameworks that block. The steps are in order at `Exchange`. No rule of a
session's life belongs into an adapter, and whatever refuses a request comes back as a `Refusal`: a whole response.
"""

from server_session.csrf.decorators import csrf_exempt, csrf_protect
from server_session.csrf.refusals import REJECTION_HEADER, Refusal
from server_session.csrf.verdict import Rejection
from server_session.exchange import BlockingExchange, Body, Exchange
from server_session.exchange.sockets import close_at_end
from server_session.exchange.streams import StreamedBody
from server_session.exchange.templates import template_functions
from server_session.http.body import AsgiBody, BytesBody, FileBody, WsgiBody
from server_session.http.carrier import find_request_by
from server_session.http.frameworks import HeadersRequest, MultiDictHeaders
from server_session.http.requests import AsgiRequest, Request, WsgiRequest, register_request
from server_session.http.responses import (
    AsgiHeaders,
    ResponseHeaders,
    WsgiHeaders,
    headers_of,
    register_response,
)
from server_session.kernel.unloaded import LazySession, UnloadedSession

__all__ = [
    "REJECTION_HEADER",
    "AsgiBody",
    "AsgiHeaders",
    "AsgiRequest",
    "BlockingExchange",
    "Body",
    "BytesBody",
    "Exchange",
    "FileBody",
    "HeadersRequest",
    "LazySession",
    "MultiDictHeaders",
    "Refusal",
    "Rejection",
    "Request",
    "ResponseHeaders",
    "StreamedBody",
    "UnloadedSession",
    "WsgiBody",
    "WsgiHeaders",
    "WsgiRequest",
    "close_at_end",
    "csrf_exempt",
    "csrf_protect",
    "find_request_by",
    "headers_of",
    "register_request",
    "register_response",
    "template_functions",
]

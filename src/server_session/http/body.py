"""The CSRF token in a request's body, and the body read up to a limit and left whole for the application."""

import functools
import io
import re
import sys
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from itertools import islice
from typing import Any, Final, TypeAlias
from urllib.parse import unquote_to_bytes

import msgspec

from server_session._codec import UNREADABLE

__all__ = ["AsgiBody", "BytesBody", "FileBody", "WsgiBody", "can_bear_token", "token_in"]

Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
# Given a body, a field's name, and whether the body is whole, finds the field's value.
Find: TypeAlias = Callable[[bytes, str, bool], bytes | None]

# A token is 70 characters. What is much longer is none.
_LONGEST_TOKEN: Final = 256
# A body is looked through on the event loop: whatever its bytes, so much of it is looked at, and no more. Other parsers
# take no more fields either (Django, Starlette, Werkzeug).
_MOST_FIELDS: Final = 1000
_MOST_HEADERS: Final = 8
_LONGEST_HEAD: Final = 8 * 1024

# What HTTP calls a token (RFC 9110, 5.6.2); every other token here is for CSRF.
_TCHARS: Final = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_JSON = re.compile(rb"application/json|%b/%b\+json" % (_TCHARS, _TCHARS))
# RFC 2046, 5.1.1: within quotes it may have what no token has.
_BOUNDARY: Final = rb"(?:([0-9A-Za-z'+_\-.]{1,70})|\"([0-9A-Za-z'()+_,\-./:=? ]{0,69}[0-9A-Za-z'()+_,\-./:=?])\")"
# RFC 9110, 5.6.6. No two of its ways to go on begin alike: it takes linear time.
_OTHERS: Final = rb"(?:;[ \t]*(?:(?!boundary)%b=(?:%b|\"[^\"\\]*\")[ \t]*)?)*" % (_TCHARS, _TCHARS)
_MULTIPART = re.compile(
    rb"multipart/form-data[ \t]*%b;[ \t]*boundary=%b[ \t]*%b" % (_OTHERS, _BOUNDARY, _OTHERS), re.IGNORECASE
)
_HEADER = re.compile(rb"(%b):([^\r\n\0]*)" % _TCHARS)
# Browsers escape nothing by a backslash (WHATWG HTML, 4.10.21.8), and parsers differ about one.
_DISPOSITION = re.compile(rb"form-data[ \t]*;[ \t]*name=(?:(%b)|\"([^\"\\]*)\")(?:[ \t]*;)?" % _TCHARS, re.IGNORECASE)
_LENGTH = re.compile(r"[0-9]{1,18}", re.ASCII)

_TEXT: Final = msgspec.json.Decoder(str)


def can_bear_token(content_type: bytes | None) -> bool:
    """Tell whether a body of this `Content-Type` is looked into: forms (urlencoded, `multipart/form-data`) and JSON."""
    return _find_for(content_type) is not None


def token_in(content_type: bytes | None, body: bytes, field: str, *, is_whole: bool = True) -> str | None:
    """Return the token in a body that has been read. Without I/O; no bytes make it raise.

    Of several fields with the name the first counts (in JSON the last, as every decoder has it). Nothing is looked for
    beyond the first 1,000 fields of a form. The `Content-Type`'s charset does not count: the body is UTF-8. Of a body
    that is not whole those fields of a form count that end before, and of JSON none.
    """
    find = _find_for(content_type)
    value = None if find is None else find(body, field, is_whole)
    return None if value is None or len(value) > _LONGEST_TOKEN else value.decode("utf-8", "replace")


class AsgiBody:
    """The body of an ASGI request. `receive` is the application's: it gives what was read, and then the server's."""

    def __init__(self, receive: Receive) -> None:
        self.receive = receive

    async def read(self, limit: int) -> tuple[bytes, bool]:
        """Read until it ends, or a message brings more than the limit."""
        receive = self.receive
        # One buffer, not the messages: a body that trickles in by single bytes costs no more than another.
        buffer = io.BytesIO()
        more = True
        left: list[Message] = []
        while more and buffer.tell() <= limit:
            message = await receive()
            if message["type"] != "http.request":
                left.append(message)
                break
            buffer.write(message.get("body", b""))
            more = message.get("more_body", False)
        body = buffer.getvalue()
        if body or not left:
            left.append({"type": "http.request", "body": body, "more_body": more})

        async def replay() -> Message:
            return left.pop() if left else await receive()

        self.receive = replay
        return body[:limit], not more and len(body) <= limit


class WsgiBody:
    """The body of a WSGI request (PEP 3333). Its `wsgi.input` then gives what was read, and after it the server's."""

    def __init__(self, environ: MutableMapping[str, Any]) -> None:
        self._environ = environ

    def read(self, limit: int) -> tuple[bytes, bool]:
        environ = self._environ
        length = _length(environ)
        if length == 0:
            return b"", True
        stream = environ["wsgi.input"]
        end = sys.maxsize if length is None or environ.get("wsgi.input_terminated") else length
        # The byte after the limit shows that there are more.
        wanted = min(end, limit + 1)
        body = bytearray()
        try:
            while len(body) < wanted and (piece := stream.read(wanted - len(body))):
                body += piece
        finally:
            environ["wsgi.input"] = io.BufferedReader(_Input(bytes(body), stream, end - len(body)))
        # A body that ends before its length was cut off.
        return bytes(body[:limit]), len(body) <= limit and length in (None, len(body))


class FileBody:
    """A body that the framework has read into a file, which stands at its beginning again afterwards."""

    def __init__(self, file: Any) -> None:
        self._file = file

    def read(self, limit: int) -> tuple[bytes, bool]:
        self._file.seek(0)
        body = self._file.read(limit + 1)
        self._file.seek(0)
        return body[:limit], len(body) <= limit


class BytesBody(FileBody):
    """A body that has been read already."""

    def __init__(self, body: bytes) -> None:
        super().__init__(io.BytesIO(body))


# Asked twice of each request, and an application's requests have few content types.
@functools.lru_cache(maxsize=16)
def _find_for(content_type: bytes | None) -> Find | None:
    """Return how the field is found in a body of this `Content-Type`; `None` where it is not looked for."""
    content_type = content_type or b""
    kind = _without_parameters(content_type)
    if kind == b"application/x-www-form-urlencoded":
        return _in_pairs
    if match := _MULTIPART.fullmatch(content_type):
        return functools.partial(_in_parts, match[1] or match[2])
    return _in_json if _JSON.fullmatch(kind) else None


def _without_parameters(value: bytes) -> bytes:
    """Return a header's value without its parameters."""
    return value.partition(b";")[0].strip(b" \t").lower()


def _in_pairs(body: bytes, field: str, is_whole: bool) -> bytes | None:
    """Find the first pair of the name (WHATWG URL, 5.1): `;` separates nothing, `+` is a space."""
    name = field.encode()
    pairs = body.split(b"&", _MOST_FIELDS)
    if not is_whole or len(pairs) > _MOST_FIELDS:
        # The last is cut off, or it is all that is beyond the limit.
        del pairs[-1]
    for pair in pairs:
        key, _, value = pair.partition(b"=")
        # Percent-encoded, a byte is three.
        if len(name) <= len(key) <= 3 * len(name) and _unquoted(key) == name:
            return _unquoted(value[: 3 * _LONGEST_TOKEN + 1])
    return None


def _unquoted(text: bytes) -> bytes:
    return unquote_to_bytes(text.replace(b"+", b" "))


def _in_json(body: bytes, field: str, is_whole: bool) -> bytes | None:
    """Find the text at the top object's key. JSON can be read only whole."""
    if not is_whole:
        return None
    try:
        text: str = _TEXT.decode(_json_decoder(field).decode(body).value)
    except UNREADABLE:
        return None
    return text.encode()


@functools.lru_cache(maxsize=8)
def _json_decoder(field: str) -> "msgspec.json.Decoder[Any]":
    """Return a decoder of objects that makes nothing of their other keys and values, for these may be many."""
    member = ("value", msgspec.Raw, msgspec.field(name=field, default=msgspec.Raw()))
    return msgspec.json.Decoder(msgspec.defstruct("Body", [member]))


def _in_parts(boundary: bytes, body: bytes, field: str, _is_whole: bool) -> bytes | None:
    """Find the first part that is a plain field of the name (RFC 7578)."""
    name = field.encode()
    for head, value in islice(_parts(body, b"--" + boundary), _MOST_FIELDS):
        if name in head and _is_field(head, name):
            return value
    return None


def _parts(body: bytes, delimiter: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Give each whole part's head and value, until the form ends or parsers differ about what a part is.

    They differ about other preambles than an empty line (which test clients send), a delimiter that does not stand
    alone in its line, and a part that has no empty line after its head. No browser's form has them.
    """
    body = body.removeprefix(b"\r\n")
    if not body.startswith(delimiter):
        return
    start = len(delimiter)
    while body.startswith(b"\r\n", start):
        blank = body.find(b"\r\n\r\n", start, start + _LONGEST_HEAD)
        end = body.find(delimiter, start)
        after = end + len(delimiter)
        is_part = 0 <= blank <= end - 6 and body.startswith(b"\r\n", end - 2)
        if not is_part or not body.startswith((b"\r\n", b"--"), after):
            return
        yield body[start + 2 : blank], body[blank + 4 : end - 2]
        start = after


def _is_field(head: bytes, name: bytes) -> bool:
    """Tell whether a part is a plain field of this name, by its headers."""
    # A header twice, another parameter than the name, an escaped name, an encoding, a multipart in the part: parsers
    # differ about them, and no browser's form has them. Such a part is no field, nor is a file.
    headers: dict[bytes, bytes] = {}
    for line in head.split(b"\r\n", _MOST_HEADERS - 1):
        match = _HEADER.fullmatch(line)
        if match is None or match[1].lower() in headers:
            return False
        headers[match[1].lower()] = match[2].strip(b" \t")
    disposition = _DISPOSITION.fullmatch(headers.get(b"content-disposition", b""))
    return (
        disposition is not None
        and name in disposition.groups()
        and _without_parameters(headers.get(b"content-type", b"text/plain")) == b"text/plain"
        and _without_parameters(headers.get(b"content-transfer-encoding", b"binary")) in {b"7bit", b"8bit", b"binary"}
    )


def _length(environ: MutableMapping[str, Any]) -> int | None:
    """Return the body's length in bytes, or `None` where it lasts until the server's stream ends."""
    text = environ.get("CONTENT_LENGTH")
    if not text:
        return None if environ.get("wsgi.input_terminated") else 0
    return int(text) if _LENGTH.fullmatch(text) else 0


class _Input(io.RawIOBase):
    """What was read of the server's stream, and after it the stream itself."""

    def __init__(self, body: bytes, stream: Any, left: int) -> None:
        super().__init__()
        self._body = io.BytesIO(body)
        self._stream = stream
        self._left = left

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        with memoryview(buffer).cast("B") as view:
            count = self._body.readinto(view)
            # Past the length a server's stream may wait for ever (PEP 3333).
            if count == 0 and self._left:
                piece = self._stream.read(min(len(view), self._left))
                count = len(piece)
                view[:count] = piece
                self._left -= count
            return count

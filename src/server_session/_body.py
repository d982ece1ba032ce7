"""The CSRF token in a request's body, read no further than it must be, and the body left whole for the application."""

import functools
import io
import logging
import re
from collections import deque
from collections.abc import Awaitable, Callable, MutableMapping
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol, TypeAlias
from urllib.parse import unquote_to_bytes

import msgspec

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer
    from python_multipart import MultipartParser

__all__ = ["TokenField", "TokenSearch", "read_asgi_token", "read_wsgi_token"]

Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]

_LOG: Final = logging.getLogger("server_session")

# A token is 70 characters. What is much longer is none, and is not kept.
_LONGEST_TOKEN: Final = 256
# What is asked of a WSGI server at once.
_PIECE: Final = 64 * 1024

_TOKEN: Final = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
# RFC 9110, 5.6.6. No two of its ways to go on begin alike: it takes linear time.
_PARAMETER = re.compile(rb";[ \t]*(?:(%b)=(?:(%b)|\"((?:[^\"\\]|\\.)*)\"))?[ \t]*" % (_TOKEN, _TOKEN))
# RFC 2046, 5.1.1.
_BOUNDARY = re.compile(rb"[0-9A-Za-z'()+_,\-./:=? ]{0,69}[0-9A-Za-z'()+_,\-./:=?]")
_JSON = re.compile(rb"application/json|%b/%b\+json" % (_TOKEN, _TOKEN))
_LENGTH = re.compile(r"[0-9]{1,18}", re.ASCII)

_OBJECT: Final = msgspec.json.Decoder(dict[str, msgspec.Raw])
_TEXT: Final = msgspec.json.Decoder(str)
# MsgspecError is a ValueError in newer msgspec only. RecursionError is the decoder's own bound on depth.
_UNREADABLE: Final = (ValueError, msgspec.MsgspecError, RecursionError)


class TokenField(NamedTuple):
    """What to look for in a body.

    Args:
        name: the field's name, such as `"csrf_token"`.
        limit: in so many bytes, from the body's beginning, is it looked for.

    """

    name: str
    limit: int


class TokenSearch:
    """Looks for the token in a body that comes in chunks. Without I/O; no bytes make it raise.

    Where a body is cut into chunks does not matter. A field counts when it is whole, within the limit; of several with
    the name, the first (in JSON the last, as every decoder has it).

    Args:
        content_type: the request's; forms (urlencoded, `multipart/form-data`) and JSON are searched, no other type.
            Its charset does not count: the body is UTF-8.
        field: what to look for, and how far.

    """

    def __init__(self, content_type: bytes | str | None, field: TokenField) -> None:
        self._search = _search(content_type, field.name)
        self._left = field.limit
        if field.limit <= 0:
            self._search.settle()

    @property
    def done(self) -> bool:
        """Whether it has been found, or cannot be found any more."""
        return self._search.done

    @property
    def token(self) -> str | None:
        """The token, as it was sent, or `None` if none was found."""
        return self._search.token

    def feed(self, chunk: bytes) -> None:
        """Take the next bytes of the body."""
        if self.done:
            return
        self._search.feed(chunk[: self._left])
        self._left -= len(chunk)
        # A body of just the limit is searched whole: only the next byte shows that it is longer.
        if self._left < 0 and not self.done:
            self._search.settle()

    def end(self) -> None:
        """Take note that the body has ended."""
        if not self.done:
            self._search.end()


async def read_asgi_token(
    receive: Receive, content_type: bytes | str | None, field: TokenField
) -> tuple[str | None, Receive]:
    """Read the token out of an ASGI request's body.

    Returns the token, or `None`, and the `receive` that the application gets: it gives what has been read here, and
    then goes on with the one given. A client that hangs up meanwhile has sent no token.
    """
    search = TokenSearch(content_type, field)
    if search.done:
        return None, receive
    # One buffer, not the messages: a body that trickles in by single bytes costs no more than another.
    body = io.BytesIO()
    read: deque[Message] = deque()
    more = True
    while more and not search.done:
        message = await receive()
        if message["type"] != "http.request":
            read.append(message)
            break
        chunk = message.get("body", b"")
        body.write(chunk)
        more = message.get("more_body", False)
        search.feed(chunk)
    if not more:
        search.end()
    if body.tell() or not read:
        read.appendleft({"type": "http.request", "body": body.getvalue(), "more_body": more})

    async def replay() -> Message:
        return read.popleft() if read else await receive()

    return search.token, replay


def read_wsgi_token(environ: MutableMapping[str, Any], field: TokenField) -> str | None:
    """Read the token out of a WSGI request's body (PEP 3333).

    Returns the token, or `None`. Where something had to be read, `environ["wsgi.input"]` is then a stream that gives it
    again, and goes on with the server's. A client that hangs up meanwhile has sent no token.
    """
    search = TokenSearch(environ.get("CONTENT_TYPE"), field)
    length = _length(environ)
    if search.done or length == 0:
        return None
    body = _Input(environ["wsgi.input"], None if environ.get("wsgi.input_terminated") else length)
    environ["wsgi.input"] = io.BufferedReader(body)
    read = 0
    while not search.done:
        chunk = body.keep(field.limit + 1 - read)
        if not chunk:
            break
        read += len(chunk)
        search.feed(chunk)
    # A body that ends before its length was cut off.
    if length is None or read == length:
        search.end()
    return search.token


class _Search:
    """A search that finds nothing: what the searches of each kind of body have in common."""

    def __init__(self) -> None:
        self.done = False
        self.token: str | None = None

    def feed(self, chunk: bytes) -> None:
        raise NotImplementedError

    def end(self) -> None:
        self.settle()

    def settle(self, value: bytes | None = None) -> None:
        """End the search, with the field's value or without."""
        self.done = True
        if value is not None and len(value) <= _LONGEST_TOKEN:
            self.token = value.decode("utf-8", "replace")


class _UrlencodedSearch(_Search):
    """The first pair of the name (WHATWG URL, 5.1): `;` separates nothing, `+` is a space."""

    def __init__(self, name: bytes) -> None:
        super().__init__()
        self._name = name
        self._pair = bytearray()
        # Percent-encoded, a byte is three. What is longer is cut, and still too long.
        self._longest = 3 * len(name) + 1 + 3 * _LONGEST_TOKEN + 1

    def feed(self, chunk: bytes) -> None:
        start = 0
        while (end := chunk.find(b"&", start)) >= 0:
            if end > start or self._pair:
                self._take(chunk, start, end)
                self._close()
            if self.done:
                return
            start = end + 1
        self._take(chunk, start, len(chunk))

    def end(self) -> None:
        self._close()
        self.done = True

    def _take(self, chunk: bytes, start: int, end: int) -> None:
        self._pair += chunk[start : min(end, start + self._longest - len(self._pair))]

    def _close(self) -> None:
        # Decoding makes nothing longer: what is shorter than the name is not it.
        if len(self._pair) >= len(self._name):
            name, _, value = bytes(self._pair).replace(b"+", b" ").partition(b"=")
            if unquote_to_bytes(name) == self._name:
                self.settle(unquote_to_bytes(value))
        self._pair.clear()


class _JsonSearch(_Search):
    """The text at the top object's key. JSON can be read only whole."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self._name = name
        self._body = bytearray()

    def feed(self, chunk: bytes) -> None:
        self._body += chunk if self._body else chunk.lstrip(b" \t\r\n")
        if self._body and not self._body.startswith(b"{"):
            self.settle()

    def end(self) -> None:
        self.settle(self._value())

    def settle(self, value: bytes | None = None) -> None:
        super().settle(value)
        self._body = bytearray()

    def _value(self) -> bytes | None:
        try:
            raw = _OBJECT.decode(self._body).get(self._name)
            return None if raw is None else _TEXT.decode(raw).encode()
        except _UNREADABLE:
            return None


class _MultipartSearch(_Search):
    """The first part that is a plain field of the name (RFC 7578)."""

    def __init__(self, parser: "type[MultipartParser]", boundary: bytes, name: bytes) -> None:
        super().__init__()
        self._name = name
        self._opening = b"--" + boundary
        self._blank = b"\r\n"
        self._header = bytearray(), bytearray()
        self._headers: list[tuple[bytes, bytes]] = []
        self._value: bytearray | None = None
        self._parser = parser(
            boundary,
            {
                "on_part_begin": self._begin,
                "on_header_field": self._take_header_name,
                "on_header_value": self._take_header_value,
                "on_header_end": self._end_header,
                "on_headers_finished": self._end_headers,
                "on_part_data": self._take_value,
                "on_part_end": self._end_part,
                "on_end": self._end_form,
            },
        )

    def feed(self, chunk: bytes) -> None:
        # An empty line may come first, as test clients send it. No other preamble is searched: no browser sends one,
        # and the parser takes it differently by its chunks.
        while chunk and self._blank and chunk[:1] == self._blank[:1]:
            chunk, self._blank = chunk[1:], self._blank[1:]
        if not chunk:
            return
        if self._blank == b"\n":
            self.settle()
            return
        self._blank = b""
        expected = self._opening[: len(chunk)]
        if not chunk.startswith(expected):
            self.settle()
            return
        self._opening = self._opening[len(expected) :]
        try:
            self._parser.write(chunk)
        except ValueError:
            # Malformed, of which the library's errors are. A token that was whole before that stands, for had it come
            # in a chunk of its own, nothing after it would have been looked at.
            self.done = True

    def _begin(self) -> None:
        self._headers.clear()

    def _take_header_name(self, data: bytes, start: int, end: int) -> None:
        self._header[0].extend(data[start:end])

    def _take_header_value(self, data: bytes, start: int, end: int) -> None:
        self._header[1].extend(data[start:end])

    def _end_header(self) -> None:
        name, value = self._header
        self._headers.append((bytes(name).lower(), bytes(value)))
        name.clear()
        value.clear()

    def _end_headers(self) -> None:
        self._value = bytearray() if not self.done and _is_field(self._headers, self._name) else None

    def _take_value(self, data: bytes, start: int, end: int) -> None:
        if self._value is not None:
            self._value += data[start : min(end, start + _LONGEST_TOKEN + 1 - len(self._value))]

    def _end_part(self) -> None:
        if self._value is not None:
            self.settle(bytes(self._value))
            self._value = None

    def _end_form(self) -> None:
        self.done = True


def _is_field(headers: list[tuple[bytes, bytes]], name: bytes) -> bool:
    """Tell whether a part is a plain field of this name, by its headers."""
    found = dict(headers)
    # A header twice, a parameter twice, `name*`, an escaped name, an encoding, a multipart in the part: parsers differ
    # about them, and no browser's form has them. Such a part is no field, nor is a file.
    if len(found) != len(headers):
        return False
    disposition, parameters = _parse(found.get(b"content-disposition", b""))
    kind, _ = _parse(found.get(b"content-type", b"text/plain"))
    encoding, _ = _parse(found.get(b"content-transfer-encoding", b"binary"))
    return (
        (disposition, parameters) == (b"form-data", {b"name": name})
        and kind == b"text/plain"
        and encoding in {b"7bit", b"8bit", b"binary"}
    )


def _search(content_type: bytes | str | None, name: str) -> _Search:
    """Return the search that the content type asks for."""
    raw = content_type.encode("latin-1", "replace") if isinstance(content_type, str) else content_type or b""
    kind, parameters = _parse(raw)
    if kind == b"application/x-www-form-urlencoded":
        return _UrlencodedSearch(name.encode())
    if _JSON.fullmatch(kind):
        return _JsonSearch(name)
    boundary = (parameters or {}).get(b"boundary", b"")
    if kind == b"multipart/form-data" and _BOUNDARY.fullmatch(boundary) and (parser := _multipart_parser()) is not None:
        return _MultipartSearch(parser, boundary, name.encode())
    nothing = _Search()
    nothing.settle()
    return nothing


def _parse(header: bytes) -> tuple[bytes, dict[bytes, bytes] | None]:
    """Return a header's first word in lower case, and its parameters: `None` if malformed, or one is there twice."""
    kind = header.partition(b";")[0]
    position = len(kind)
    parameters: dict[bytes, bytes] = {}
    while position < len(header):
        match = _PARAMETER.match(header, position)
        if match is None:
            return kind.strip(b" \t").lower(), None
        position = match.end()
        name, word, quoted = match.groups()
        if name is not None:
            name = name.lower()
            if name in parameters:
                return kind.strip(b" \t").lower(), None
            # What is quoted stays as it was sent: browsers escape nothing by a backslash (WHATWG HTML, 4.10.21.8).
            parameters[name] = quoted if word is None else word
    return kind.strip(b" \t").lower(), parameters


@functools.cache
def _multipart_parser() -> "type[MultipartParser] | None":
    try:
        from python_multipart import MultipartParser
    except ImportError:
        _LOG.warning(
            "no CSRF token is read from multipart forms, for python-multipart is not installed: "
            "pip install server-session[forms]"
        )
        return None
    return MultipartParser


def _length(environ: MutableMapping[str, Any]) -> int | None:
    """Return the body's length in bytes, or `None` where it lasts until the server's stream ends."""
    text = environ.get("CONTENT_LENGTH")
    if not text:
        return None if environ.get("wsgi.input_terminated") else 0
    return int(text) if _LENGTH.fullmatch(text) else 0


class _Readable(Protocol):
    def read(self, size: int, /) -> bytes: ...


class _Input(io.RawIOBase):
    """The server's stream, after what was kept of it."""

    def __init__(self, stream: _Readable, left: int | None) -> None:
        super().__init__()
        self._stream = stream
        self._left = left
        self._kept = bytearray()

    def keep(self, size: int) -> bytes:
        """Read on, and keep it to be read again."""
        piece = self._take(size)
        self._kept += piece
        return piece

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: "WriteableBuffer", /) -> int:
        with memoryview(buffer).cast("B") as view:
            piece = bytes(self._kept[: len(view)]) or self._take(len(view))
            del self._kept[: len(piece)]
            view[: len(piece)] = piece
            return len(piece)

    def _take(self, size: int) -> bytes:
        size = min(size, _PIECE)
        if self._left is None:
            return self._stream.read(size)
        # Past the length a server's stream may wait for ever (PEP 3333).
        if self._left == 0:
            return b""
        piece = self._stream.read(min(size, self._left))
        self._left -= len(piece)
        return piece

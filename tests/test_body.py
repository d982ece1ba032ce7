"""The token is found where a browser puts it, nothing else is taken for one, and the body stays whole."""

import asyncio
import io
import itertools
import json
import logging
import os
import subprocess
import sys
import tracemalloc
from collections.abc import Callable, Iterable, Iterator
from typing import Any
from urllib.parse import parse_qsl, urlencode
from wsgiref.util import setup_testing_defaults
from wsgiref.validate import validator

import pytest
import trio
from hypothesis import example, given, settings
from hypothesis import strategies as st
from starlette.requests import ClientDisconnect
from starlette.requests import Request as StarletteRequest
from werkzeug.wrappers import Request as WerkzeugRequest

from server_session import _body
from server_session._body import TokenField, TokenSearch, read_asgi_token, read_wsgi_token
from server_session._colour import drive

TOKEN = "aZ09-_" + "k" * 64
FIELD = TokenField("csrf_token", 64 * 1024)
PIECE = 64 * 1024
GIBIBYTE = 1024**3
# The long form draws more.
MANY = 5000 if os.environ.get("SERVER_SESSION_ALL") == "1" else 100

URLENCODED = "application/x-www-form-urlencoded"
JSON = "application/json"
MULTIPART = "multipart/form-data; boundary=B"

NAME = b'Content-Disposition: form-data; name="csrf_token"'
FILE = b'Content-Disposition: form-data; name="photo"; filename="a.jpg"\r\nContent-Type: image/jpeg'

LOOPS = {"asyncio": asyncio.run, "trio": lambda coroutine: trio.run(lambda: coroutine)}


def search(content_type: bytes | str | None, chunks: bytes | Iterable[bytes], field: TokenField = FIELD) -> str | None:
    looking = TokenSearch(content_type, field)
    for chunk in [chunks] if isinstance(chunks, bytes) else chunks:
        looking.feed(chunk)
    looking.end()
    assert looking.done
    return looking.token


def form(*parts: tuple[bytes, bytes], boundary: bytes = b"B") -> bytes:
    """Return a form's body: each part's headers and its value."""
    body = b"".join(b"--%b\r\n%b\r\n\r\n%b\r\n" % (boundary, headers, value) for headers, value in parts)
    return body + b"--%b--\r\n" % boundary


def field(headers: bytes = NAME, value: bytes = TOKEN.encode()) -> tuple[bytes, bytes]:
    return headers, value


def cut(body: bytes, size: int) -> list[bytes]:
    return [body[start : start + size] for start in range(0, len(body), size)] or [b""]


# --- what is looked into


@pytest.mark.parametrize(
    "content_type, body",
    [
        (URLENCODED, f"csrf_token={TOKEN}".encode()),
        ("Application/X-WWW-Form-URLencoded ; charset=latin-1", f"a=1&csrf_token={TOKEN}&b=2".encode()),
        (JSON, json.dumps({"a": [1], "csrf_token": TOKEN}).encode()),
        ("application/json; charset=utf-16; ;=", json.dumps({"csrf_token": TOKEN}).encode()),
        ("application/vnd.api+json", b' \r\n\t{"csrf\\u005ftoken": "%b"}' % TOKEN.encode()),
        (MULTIPART, form(field())),
        ('MULTIPART/form-data; charset=x; Boundary="B"', form(field())),
        ("multipart/form-data; boundary=B;", form(field())),
    ],
)
@pytest.mark.parametrize("as_bytes", [True, False])
def test_forms_and_json_are_looked_into(content_type: str, body: bytes, as_bytes: bool) -> None:
    assert search(content_type.encode() if as_bytes else content_type, body) == TOKEN


@pytest.mark.parametrize(
    "content_type",
    [
        *(None, "", ";", "text/plain", "text/html", "application/octet-stream", "application/xml", "text/json"),
        *("application/jsonp", "json", "+json", "application/+json", "application/json, text/plain", "multipart/mixed"),
        *("multipart/mixed; boundary=B", "application/x-www-form-urlencoded, application/json", "\u20ac/json"),
        *(b"\xff\x00", "application/json\0", "multipart/form-data", "multipart/form-data, text/plain; boundary=B"),
    ],
)
def test_of_any_other_type_nothing_is_read(content_type: bytes | str | None) -> None:
    looking = TokenSearch(content_type, FIELD)
    assert looking.done

    async def receive() -> Any:
        raise AssertionError

    token, given_on = drive(read_asgi_token(receive, content_type, FIELD))
    assert (token, given_on) == (None, receive)
    stream = object()
    environ = {"CONTENT_TYPE": content_type, "CONTENT_LENGTH": "9", "wsgi.input": stream}
    assert read_wsgi_token(environ, FIELD) is None
    assert environ["wsgi.input"] is stream


def test_json_that_is_sent_as_plain_text_is_not_looked_into() -> None:
    assert search("text/plain", json.dumps({"csrf_token": TOKEN}).encode()) is None


# --- urlencoded


@pytest.mark.parametrize(
    "body, token",
    [
        (b"csrf_token=x", "x"),
        (b"a&&=&b=csrf_token&csrf_token=x&csrf_token=y", "x"),
        (b"csrf_token=x&csrf_token=y&", "x"),
        (b"csrf_token=&csrf_token=y", ""),
        (b"csrf_token&csrf_token=y", ""),
        (b"csrf_token=a=b", "a=b"),
        (b"csrf_token=a+b%2B%2b%C3%A9", "a b++\u00e9"),
        (b"csrf_token=%zz%", "%zz%"),
        (b"csrf_token=%ff", "\ufffd"),
        (b"%63srf_token=x", "x"),
        (b"csrf+token=x&csrf%20token=x", None),
        (b"a=1;csrf_token=x", None),
        (b"a=1;b&csrf_token=x;y", "x;y"),
        (b"csrf_token%00=x&Csrf_token=x&csrf_token[]=x& csrf_token=x&?csrf_token=x", None),
        (b"csrf_token=" + b"x" * 256, "x" * 256),
        (b"csrf_token=" + b"%78" * 256, "x" * 256),
        (b"csrf_token=" + b"x" * 257 + b"&csrf_token=y", None),
        (b"csrf_token=" + b"%78" * 257 + b"&csrf_token=y", None),
        (b"%63%73%72%66%5f%74%6f%6b%65%6e=" + b"%78" * 257, None),
        (b"%63%73%72%66%5f%74%6f%6b%65%6e=" + b"%78" * 256, "x" * 256),
        (b"a=" + b"x" * 5000 + b"&csrf_token=y", "y"),
        (b"", None),
    ],
)
def test_the_first_pair_of_the_name_counts(body: bytes, token: str | None) -> None:
    assert search(URLENCODED, body) == token


def test_a_pair_is_whole_at_the_next_ampersand_and_no_sooner() -> None:
    looking = TokenSearch(URLENCODED, FIELD)
    looking.feed(b"csrf_token=abc")
    assert (looking.done, looking.token) == (False, None)
    looking.feed(b"d&")
    assert (looking.done, looking.token) == (True, "abcd")
    looking.feed(b"csrf_token=late&")
    looking.end()
    assert looking.token == "abcd"


@settings(deadline=None, max_examples=MANY)
@given(st.lists(st.sampled_from(["csrf_token", "=", "&", ";", "+", "%", "%63", "%C3%A9", "%ff", "a", "\u007f"])))
def test_pairs_are_told_apart_as_the_standard_library_does(pieces: list[str]) -> None:
    body = "".join(pieces)
    pairs = parse_qsl(body, keep_blank_values=True, errors="replace")
    expected = next((value for name, value in pairs if name == "csrf_token"), None)
    assert search(URLENCODED, body.encode()) == expected


# --- JSON


@pytest.mark.parametrize(
    "body, token",
    [
        (b'{"csrf_token":""}', ""),
        (b'{"csrf_token":"\\u00e9"}', "\u00e9"),
        (b'{"csrf_token":"x","csrf_token":"y"}', "y"),
        (b'{"csrf_token":1}', None),
        (b'{"csrf_token":true}', None),
        (b'{"csrf_token":null}', None),
        (b'{"csrf_token":["x"]}', None),
        (b'{"csrf_token":{"csrf_token":"x"}}', None),
        (b'{"a":{"csrf_token":"x"}}', None),
        (b'[{"csrf_token":"x"}]', None),
        (b'"csrf_token"', None),
        (b"null", None),
        (b"", None),
        (b"{", None),
        (b'{"csrf_token":"x"', None),
        (b'{"csrf_token":"x"}{}', None),
        (b'{"csrf_token":"x",}', None),
        (b"{'csrf_token':'x'}", None),
        (b'{"csrf_token":"\\ud800"}', None),
        (b'{"csrf_token":"\xff"}', None),
        (b'{"\xff":1,"csrf_token":"x"}', None),
        (b'\xef\xbb\xbf{"csrf_token":"x"}', None),
        (b'{"csrf_token":NaN}', None),
        (b'{"csrf_token":"%b"}' % (b"x" * 257), None),
        (b'{"a":%b,"csrf_token":"x"}' % (b"1" * 5000), "x"),
        (b'{"csrf_token":"x","a":%b' % (b"[" * 60_000), None),
        (b'{"csrf_token":"x","a":%b}' % (b'{"a":' * 10_000 + b"1" + b"}" * 10_000), None),
    ],
)
def test_in_json_the_text_at_the_top_objects_key_counts(body: bytes, token: str | None) -> None:
    assert search(JSON, body) == token


def test_what_is_no_object_is_not_gathered() -> None:
    looking = TokenSearch(JSON, FIELD)
    looking.feed(b" \n")
    assert not looking.done
    looking.feed(b"[")
    assert looking.done


def test_json_of_utf_16_is_none() -> None:
    assert search("application/json; charset=utf-16", '{"csrf_token":"x"}'.encode("utf-16")) is None


# --- multipart


@pytest.mark.parametrize(
    "headers",
    [
        NAME,
        b"content-disposition:form-data;name=csrf_token",
        b'CONTENT-DISPOSITION: Form-Data ; NAME="csrf_token"',
        b'Content-Disposition: form-data; name="csrf_token";',
        NAME + b"\r\nContent-Type: text/plain; charset=utf-8",
        NAME + b"\r\nContent-Transfer-Encoding: 8bit\r\nContent-Length: 70",
    ],
)
def test_a_plain_field_of_the_name_is_the_token(headers: bytes) -> None:
    assert search(MULTIPART, form((FILE, b"\r\n--\r\n"), field(headers))) == TOKEN


@pytest.mark.parametrize(
    "headers",
    [
        pytest.param(NAME + b'; filename="a.txt"', id="a file"),
        pytest.param(NAME + b'; filename=""', id="a file that was not chosen"),
        pytest.param(NAME + b"; filename*=utf-8''a.txt", id="a file by an extended name"),
        pytest.param(b"Content-Disposition: form-data; name*=utf-8''csrf_token", id="an extended name"),
        pytest.param(NAME + b"; name*=utf-8''csrf_token", id="an extended name beside the name"),
        pytest.param(b"Content-Disposition: form-data; name*0=csrf_; name*1=token", id="a name in pieces"),
        pytest.param(NAME + b"; name=csrf_token", id="a name twice"),
        pytest.param(b"Content-Disposition: form-data; name=other; name=csrf_token", id="two names"),
        pytest.param(b'Content-Disposition: form-data; name="csrf\\_token"', id="an escaped name"),
        pytest.param(b'Content-Disposition: form-data; name="csrf_token\\"; a="', id="an escaped quote"),
        pytest.param(b'Content-Disposition: form-data; name="csrf_token', id="a quote that does not end"),
        pytest.param(b'Content-Disposition: form-data; name="csrf_token"x', id="text after the quote"),
        pytest.param(b"Content-Disposition: form-data; name=csrf_token x", id="text after the name"),
        pytest.param(b'Content-Disposition: form-data; name = "csrf_token"', id="space about the sign"),
        pytest.param(b'Content-Disposition: form-data, name="csrf_token"', id="a comma"),
        pytest.param(b'Content-Disposition: form-data name="csrf_token"', id="no semicolon"),
        pytest.param(b"Content-Disposition: form-data; name=csrf_token; odd", id="a parameter with no value"),
        pytest.param(b"Content-Disposition: form-data; name=csrf_token; x=y", id="a parameter that forms do not have"),
        pytest.param(b"Content-Disposition: form-data; name=Csrf_Token", id="another case"),
        pytest.param(b'Content-Disposition: form-data; name="csrf_token "', id="a space in the name"),
        pytest.param(b'Content-Disposition: form-data; name="csrf_token\0"', id="a control character"),
        pytest.param(b"Content-Disposition: form-data; name=%63srf_token", id="a name by percents"),
        pytest.param(b"Content-Disposition: form-data", id="no name"),
        pytest.param(b"Content-Disposition: attachment; name=csrf_token", id="an attachment"),
        pytest.param(b"Content-Disposition: ; name=csrf_token", id="no disposition"),
        pytest.param(b"Content-Type: text/plain; name=csrf_token", id="no disposition's header"),
        pytest.param(NAME + b"\r\n" + NAME, id="a disposition twice"),
        pytest.param(NAME + b"\r\ncontent-disposition: form-data; name=a", id="two dispositions"),
        pytest.param(NAME + b"\r\nContent-Type: text/plain\r\nContent-Type: text/plain", id="another header twice"),
        pytest.param(NAME + b"\r\nContent-Transfer-Encoding: base64", id="base64"),
        pytest.param(NAME + b"\r\nContent-Transfer-Encoding: quoted-printable", id="quoted-printable"),
        pytest.param(NAME + b"\r\nContent-Type: multipart/mixed; boundary=C", id="a multipart in the part"),
        pytest.param(NAME + b"\r\nContent-Type: application/octet-stream", id="bytes"),
    ],
)
def test_a_part_that_is_not_plainly_the_field_is_passed_over(headers: bytes) -> None:
    assert search(MULTIPART, form(field(headers))) is None
    assert search(MULTIPART, form(field(headers), field(value=b"x"))) == "x"


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"preamble\r\n" + form(field()), id="a preamble"),
        pytest.param(b"\r\n\r\n" + form(field()), id="two empty lines before"),
        pytest.param(b"\r" + form(field()), id="half an empty line before"),
        pytest.param(b"\n" + form(field()), id="a bare line feed before"),
        pytest.param(b"", id="nothing"),
        pytest.param(b"--B--\r\n", id="no part"),
        pytest.param(b"--B--\r\n" + form(field()), id="a part after the end"),
        pytest.param(form(field()).replace(b"\r\n", b"\n"), id="bare line feeds"),
        pytest.param(form(field()).removesuffix(b"\r\n--B--\r\n"), id="no boundary after the part"),
        pytest.param(form(field()).removesuffix(b"--\r\n"), id="a boundary cut off"),
        pytest.param(form(field()).removesuffix(b"-\r\n"), id="a boundary cut off by a byte"),
        pytest.param(form(field(), boundary=b"C"), id="another boundary"),
        pytest.param(form(field(), boundary=b"BB"), id="a longer boundary"),
        pytest.param(form(field(), boundary=b"b"), id="a boundary of another case"),
        pytest.param(form(field(b" " + NAME)), id="a space before a header"),
        pytest.param(form(field(b'Content-Disposition: form-data;\r\n name="csrf_token"')), id="a folded header"),
        pytest.param(form(field(NAME.replace(b":", b" :"))), id="a space before the colon"),
        pytest.param(form(field(b"X-A: b\r\n" * 8 + NAME)), id="many headers"),
        pytest.param(form(field(b"X-A: " + b"b" * 5000 + b"\r\n" + NAME)), id="a long header"),
        pytest.param(form(field(value=b"x" * 257)), id="a value that is too long"),
        pytest.param(form(field(value=b"x" * 257), field()), id="a value that is too long, and another after it"),
        pytest.param(
            form((NAME[:-11] + b'a"\r\nContent-Type: multipart/mixed; boundary=C', form(field(), boundary=b"C"))),
            id="a field in a multipart in a part",
        ),
        pytest.param(form((FILE, b"\r\n" + NAME + b"\r\n\r\n" + TOKEN.encode())), id="in a file"),
        pytest.param(form((FILE, b"\n--B\n" + NAME + b"\r\n\r\nx")), id="in a file, with bare line feeds"),
    ],
)
def test_no_token_is_in_a_form_that_is_malformed_or_has_no_such_field(body: bytes) -> None:
    assert search(MULTIPART, body) is None
    assert search(MULTIPART, cut(body, 1)) is None


@pytest.mark.parametrize(
    "parameters, boundary",
    [
        ("boundary=B", b"B"),
        ('boundary="B"', b"B"),
        ('boundary="a b:c=d/e?f"', b"a b:c=d/e?f"),
        ("boundary=----WebKitFormBoundaryAb09", b"----WebKitFormBoundaryAb09"),
        ("boundary=" + "B" * 70, b"B" * 70),
    ],
)
def test_a_boundary_is_as_rfc_2046_has_it(parameters: str, boundary: bytes) -> None:
    assert search("multipart/form-data; " + parameters, form(field(), boundary=boundary)) == TOKEN


@pytest.mark.parametrize(
    "parameters, boundary",
    [
        ("", b"B"),
        ("boundary", b"B"),
        ("boundary=", b""),
        ('boundary=""', b""),
        ("boundary=" + "B" * 71, b"B" * 71),
        ('boundary="B "', b"B "),
        ('boundary=" "', b" "),
        ("boundary=B; boundary=B", b"B"),
        ("boundary=B; BOUNDARY=C", b"B"),
        ("boundary=C; boundary=B", b"B"),
        ("boundary*=utf-8''B", b"B"),
        ("boundary*0=B", b"B"),
        ('boundary="B', b"B"),
        ('boundary="\\B"', b"B"),
        ("boundary='B'x y", b"'B'x"),
        ("boundary=a/b", b"a/b"),
        ('boundary="a;b"', b"a;b"),
        ('boundary="\xe9"', b"\xe9"),
        ("boundary=B, text/plain; boundary=C", b"B"),
        ('boundary="a\r\nb"', b"a\r\nb"),
    ],
)
def test_of_a_boundary_that_is_not_plain_nothing_is_read(parameters: str, boundary: bytes) -> None:
    content_type = "multipart/form-data; " + parameters
    assert TokenSearch(content_type, FIELD).done
    assert search(content_type, form(field(), boundary=boundary)) is None


def test_a_part_is_whole_at_the_next_boundary_and_no_sooner() -> None:
    looking = TokenSearch(MULTIPART, FIELD)
    looking.feed(form(field()).removesuffix(b"--\r\n"))
    assert (looking.done, looking.token) == (False, None)
    looking.feed(b"\r\n")
    assert (looking.done, looking.token) == (True, TOKEN)


def test_a_form_without_the_field_has_ended_at_its_last_boundary() -> None:
    looking = TokenSearch(MULTIPART, FIELD)
    looking.feed(form((FILE, b"x")) + b"epilogue")
    assert (looking.done, looking.token) == (True, None)


def test_what_comes_after_the_field_does_not_count_however_it_was_cut() -> None:
    body = form(field(), field(value=b"y")).removesuffix(b"--\r\n") + b"\r\n:\r\n"
    for size in range(1, len(body) + 1):
        assert search(MULTIPART, cut(body, size)) == TOKEN


def test_a_value_may_hold_what_looks_like_a_boundary() -> None:
    value = b"\r\n--Bx\r\n--B-\r\n--\r\n\r\n--B\r--B--"
    body = form(field(value=value))
    for size in range(1, len(body) + 1):
        assert search(MULTIPART, cut(body, size)) == value.decode()


def test_a_name_that_is_not_ascii_is_utf_8() -> None:
    name = TokenField("jet\u00f6n", 1000)
    headers = 'Content-Disposition: form-data; name="jet\u00f6n"'.encode()
    assert search(MULTIPART, form((headers, b"x")), name) == "x"
    assert search(URLENCODED, urlencode({"jet\u00f6n": "x"}).encode(), name) == "x"
    assert search(JSON, json.dumps({"jet\u00f6n": "x"}).encode(), name) == "x"


PLAIN = st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters='"\\'), max_size=20)


@settings(deadline=None, max_examples=MANY)
@given(st.lists(st.tuples(PLAIN | st.just("csrf_token"), st.text(max_size=40).map(str.encode))))
def test_fields_are_told_apart_as_werkzeug_does(fields: list[tuple[str, bytes]]) -> None:
    body = form(*[(f'Content-Disposition: form-data; name="{name}"'.encode(), value) for name, value in fields])
    request = WerkzeugRequest(environ_of(MULTIPART, body))
    assert search(MULTIPART, body) == request.form.get("csrf_token")


@pytest.fixture
def library_not_looked_for() -> Iterator[None]:
    _body._multipart_parser.cache_clear()
    yield
    _body._multipart_parser.cache_clear()


def test_without_the_library_multipart_gives_none_and_says_once_what_to_install(
    library_not_looked_for: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "python_multipart", None)
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            assert TokenSearch(MULTIPART, FIELD).done
            assert search(MULTIPART, form(field())) is None
            assert search(URLENCODED, b"csrf_token=x") == "x"
            assert search(JSON, b'{"csrf_token":"x"}') == "x"
    assert len(caplog.records) == 1
    assert "pip install server-session[forms]" in caplog.records[0].getMessage()


@pytest.mark.once
def test_importing_loads_no_multipart_library_and_searching_other_bodies_neither() -> None:
    program = f"""
import sys
from server_session._body import TokenField, TokenSearch
for content_type in ({URLENCODED!r}, {JSON!r}, "multipart/form-data"):
    TokenSearch(content_type, TokenField("t", 10)).feed(b"t=x&")
print("python_multipart" in sys.modules, "asyncio" in sys.modules)
"""
    output = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout
    assert output == "False False\n"


# --- limits, chunks, and any bytes at all


@pytest.mark.parametrize(
    "content_type, body",
    [
        (URLENCODED, b"csrf_token=x"),
        (JSON, b'{"csrf_token":"x"}'),
        (MULTIPART, form(field(value=b"x")).removesuffix(b"\r\n")),
    ],
)
def test_a_body_of_just_the_limit_is_searched_whole_and_a_longer_one_is_not(content_type: str, body: bytes) -> None:
    size = len(body)
    for chunks in ([body], cut(body, 1)):
        assert search(content_type, chunks, TokenField("csrf_token", size)) == "x"
        assert search(content_type, chunks, TokenField("csrf_token", size - 1)) is None
    padded = b" " + body if content_type != MULTIPART else body
    assert search(content_type, padded, TokenField("csrf_token", size - 1)) is None


@pytest.mark.parametrize("content_type", [URLENCODED, JSON, MULTIPART])
@pytest.mark.parametrize("limit", [0, -1])
def test_with_no_limit_to_spend_nothing_is_read(content_type: str, limit: int) -> None:
    assert TokenSearch(content_type, TokenField("csrf_token", limit)).done


FRAGMENTS = [
    *(b"--B", b"\r\n--B", b"\r\n--B\r\n", b"\r\n--B--", b"--", b"-", b"\r\n", b"\r", b"\n", b"\r\n\r\n", b" ", b"\t"),
    *(NAME, b'; filename="a"', b"X: ", b":", b"; ", b'"', b"\\", b"\0", b"\xff", b"\xc3\xa9", b"B", b"x"),
    *(b"csrf_token", b"=", b"&", b";", b"%63", b"%", b"+"),
    *(b"{", b"}", b"[", b"]", b'"csrf_token"', b'"x"', b"1", b",", b"\\u0041", b"\\ud800"),
    *(b"csrf_token=x&", form(field()), b"--B\r\n" + NAME + b"\r\n\r\n", b'{"csrf_token":"x"', b"y" * 300),
]
BODIES = st.lists(st.sampled_from(FRAGMENTS) | st.binary(max_size=3), max_size=12).map(b"".join)
OPENED = st.tuples(st.sampled_from([b"", b"--B\r\n", b"--B\r\n" + NAME + b"\r\n\r\n", b"{"]), BODIES).map(b"".join)
TYPES = (
    st.sampled_from([URLENCODED, JSON, MULTIPART, 'multipart/form-data; boundary="-"', "application/a+json", None])
    | st.text(max_size=40)
    | st.binary(max_size=40)
    | st.lists(st.sampled_from(["multipart/form-data", ";", " ", "boundary", "=", '"', "B", "\\", "*", "/"])).map(
        "".join
    )
)
LIMITS = st.sampled_from([10**6, 100, 20, 5, 1])


@settings(deadline=None, max_examples=MANY)
@given(TYPES, st.binary(max_size=200) | OPENED, LIMITS)
def test_no_body_and_no_content_type_make_it_raise(content_type: bytes | str | None, body: bytes, limit: int) -> None:
    token = search(content_type, body, TokenField("csrf_token", limit))
    assert token is None or len(token.encode()) <= 3 * 256


@settings(deadline=None, max_examples=MANY)
@given(
    st.sampled_from([URLENCODED, JSON, MULTIPART, 'multipart/form-data; boundary="-"']),
    OPENED,
    st.lists(st.integers(0, 600), max_size=6),
    LIMITS,
)
@example(MULTIPART, b"\r\nx--B\r\n" + form(field()), [2], 10**6)
def test_where_a_body_is_cut_does_not_matter(content_type: str, body: bytes, cuts: list[int], limit: int) -> None:
    field = TokenField("csrf_token", limit)
    whole = search(content_type, body, field)
    places = [0, *sorted(cuts), len(body)]
    assert search(content_type, [body[a:b] for a, b in itertools.pairwise(places)], field) == whole
    assert search(content_type, cut(body, 1), field) == whole


# --- ASGI


class Messages:
    """A server's `receive`: it counts what was asked, and refuses to be asked for more than it has."""

    def __init__(self, chunks: Iterable[bytes], *after: dict[str, Any], more: bool = False) -> None:
        self.chunks = iter([*chunks] if isinstance(chunks, list) else chunks)
        self.after = list(after)
        self.more = more
        self.given = 0
        self.next: bytes | None = next(self.chunks, None)

    async def __call__(self) -> dict[str, Any]:
        await checkpoint()
        if self.next is None:
            assert self.after, "the server was asked for more than the body: it would wait for ever"
            return self.after.pop(0)
        chunk, self.next = self.next, next(self.chunks, None)
        self.given += len(chunk)
        return {"type": "http.request", "body": chunk, "more_body": self.more or self.next is not None}


async def checkpoint() -> None:
    """Let others run, on whichever loop this is."""
    try:
        await trio.lowlevel.checkpoint()
    except RuntimeError:
        await asyncio.sleep(0)


UPLOAD = bytes(range(256)) * 1200

REQUESTS = {
    "urlencoded": (URLENCODED, urlencode({"a": "\u00e9 &", "csrf_token": TOKEN, "b": "x" * 200_000}).encode()),
    "multipart": (MULTIPART, form(field(), (NAME[:-11] + b'a"', b"\xc3\xa9"), (FILE, UPLOAD))),
    "multipart, token last": (MULTIPART, form((NAME[:-11] + b'a"', b"\xc3\xa9"), (FILE, UPLOAD), field())),
    "json": (JSON, json.dumps({"a": "\u00e9", "csrf_token": TOKEN, "b": [1] * 1000}).encode()),
    "malformed json": (JSON, b'{"csrf_token": "x"'),
    "malformed multipart": (MULTIPART, b"--B\r\n" + b"x" * 100_000),
    "empty": (URLENCODED, b""),
}
REQUEST = pytest.mark.parametrize("content_type, body", REQUESTS.values(), ids=REQUESTS)
LIMIT = pytest.mark.parametrize("limit", [10**6, 70_000, 1])


@pytest.fixture(params=LOOPS)
def run(request: pytest.FixtureRequest) -> Callable[..., Any]:
    return LOOPS[request.param]


@REQUEST
@LIMIT
@pytest.mark.parametrize("size", [1000, PIECE, 10**6])
def test_an_asgi_application_reads_the_body_whole(content_type: str, body: bytes, limit: int, size: int) -> None:
    async def read() -> bytes:
        messages = Messages(cut(body, size))
        field = TokenField("csrf_token", limit)
        token, receive = await read_asgi_token(messages, content_type, field)
        assert token == search(content_type, body, field)
        return b"".join([chunk async for chunk in StarletteRequest(scope(content_type), receive).stream()])

    assert asyncio.run(read()) == body


def scope(content_type: str) -> dict[str, Any]:
    return {"type": "http", "method": "POST", "headers": [(b"content-type", content_type.encode())]}


@pytest.mark.parametrize("size", [100, PIECE, 10**6])
def test_starlettes_forms_and_json_are_as_they_were_sent(run: Callable[..., Any], size: int) -> None:
    async def read(kind: str) -> StarletteRequest:
        content_type, body = REQUESTS[kind]
        token, receive = await read_asgi_token(Messages(cut(body, size)), content_type, TokenField("csrf_token", 10**6))
        assert token == TOKEN
        return StarletteRequest(scope(content_type), receive)

    async def main() -> None:
        async with (await read("urlencoded")).form() as sent:
            assert dict(sent) == {"a": "\u00e9 &", "csrf_token": TOKEN, "b": "x" * 200_000}
        for kind in ("multipart", "multipart, token last"):
            async with (await read(kind)).form() as sent:
                assert (sent["csrf_token"], sent["a"]) == (TOKEN, "\u00e9")
                assert await sent["photo"].read() == UPLOAD
        assert await (await read("json")).json() == json.loads(REQUESTS["json"][1])
        assert await (await read("json")).body() == REQUESTS["json"][1]

    run(main())


def gibibyte(first: bytes) -> Iterator[bytes]:
    rest = bytes(PIECE)
    yield first + rest[len(first) :]
    yield from itertools.repeat(rest, GIBIBYTE // PIECE - 1)


BEGINNINGS = {
    URLENCODED: b"csrf_token=" + TOKEN.encode() + b"&file=",
    MULTIPART: form(field()).removesuffix(b"--\r\n") + b"\r\n" + FILE + b"\r\n\r\n",
}


@pytest.mark.parametrize("content_type", BEGINNINGS)
def test_of_a_gibibyte_whose_token_comes_first_one_chunk_is_read(content_type: str) -> None:
    messages = Messages(gibibyte(BEGINNINGS[content_type]))
    token, receive = asyncio.run(read_asgi_token(messages, content_type, FIELD))
    assert (token, messages.given) == (TOKEN, PIECE)
    first, second = asyncio.run(receive()), asyncio.run(receive())
    assert first["body"] == next(gibibyte(BEGINNINGS[content_type]))
    assert (first["more_body"], second["body"], messages.given) == (True, bytes(PIECE), 2 * PIECE)
    environ = environ_of(content_type, gibibyte(BEGINNINGS[content_type]), GIBIBYTE)
    wire = environ["wsgi.input"]
    assert (read_wsgi_token(environ, FIELD), wire.given) == (TOKEN, PIECE)
    assert environ["wsgi.input"].read(PIECE + 1) == first["body"] + b"\0"


@pytest.mark.parametrize(
    "content_type, first",
    [(URLENCODED, b"file="), (JSON, b'{"csrf_token":"x","file":"'), (MULTIPART, b"--B\r\n" + FILE + b"\r\n\r\n")],
)
@pytest.mark.parametrize("limit", [1000, PIECE, 3 * PIECE, 3 * PIECE + 1])
def test_of_a_gibibyte_without_a_token_no_more_than_the_limit_and_a_chunk_is_read(
    content_type: str, first: bytes, limit: int
) -> None:
    field = TokenField("csrf_token", limit)
    messages = Messages(gibibyte(first))
    token, _ = asyncio.run(read_asgi_token(messages, content_type, field))
    assert token is None
    assert limit < messages.given <= limit + PIECE
    for length in (GIBIBYTE, None):
        environ = environ_of(content_type, gibibyte(first), length)
        wire = environ["wsgi.input"]
        assert read_wsgi_token(environ, field) is None
        assert wire.given == limit + 1


def test_a_body_that_trickles_in_by_single_bytes_costs_no_more_memory_than_another() -> None:
    async def read() -> int:
        messages = Messages(itertools.repeat(b"x", 10**9))
        tracemalloc.start()
        try:
            await read_asgi_token(messages, URLENCODED, TokenField("csrf_token", 4000))
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    assert asyncio.run(read()) < 100_000


@pytest.mark.parametrize(
    "content_type, first", [(URLENCODED, b"csrf_token="), (MULTIPART, b"--B\r\n" + NAME + b"\r\n\r\n"), (JSON, b"[")]
)
def test_what_is_too_long_for_a_token_is_not_kept_by_the_search(content_type: str, first: bytes) -> None:
    looking = TokenSearch(content_type, TokenField("csrf_token", 10**9))
    piece = b"x" * 10_000
    looking.feed(first)
    tracemalloc.start()
    try:
        for _ in range(100):
            looking.feed(piece)
        assert tracemalloc.get_traced_memory()[0] < 20_000
    finally:
        tracemalloc.stop()


async def test_the_body_that_has_been_read_is_one_message_and_the_rest_are_the_servers() -> None:
    messages = Messages([b"a=1&", b"", b"csrf_token=x&", b"b=2", b"&c=3"], {"type": "http.disconnect"})
    token, receive = await read_asgi_token(messages, URLENCODED, FIELD)
    assert token == "x"
    assert [await receive() for _ in range(4)] == [
        {"type": "http.request", "body": b"a=1&csrf_token=x&", "more_body": True},
        {"type": "http.request", "body": b"b=2", "more_body": True},
        {"type": "http.request", "body": b"&c=3", "more_body": False},
        {"type": "http.disconnect"},
    ]


def test_a_message_need_not_say_all() -> None:
    async def receive() -> Any:
        return {"type": "http.request"}

    token, given_on = drive(read_asgi_token(receive, URLENCODED, FIELD))
    assert token is None
    assert drive(given_on()) == {"type": "http.request", "body": b"", "more_body": False}


@pytest.mark.parametrize("chunks", [[], [b""], [b"a=1&csrf_token=x"], [b"a=1&csrf_", b"token=x"]])
def test_a_client_that_hangs_up_has_sent_no_token_and_the_application_hears_of_it(
    run: Callable[..., Any], chunks: list[bytes]
) -> None:
    async def main() -> None:
        messages = Messages(chunks, {"type": "http.disconnect"}, more=True)
        token, receive = await read_asgi_token(messages, URLENCODED, FIELD)
        assert token is None
        heard = bytearray()

        async def hear() -> None:
            async for chunk in StarletteRequest(scope(URLENCODED), receive).stream():
                heard.extend(chunk)

        with pytest.raises(ClientDisconnect):
            await hear()
        assert heard == b"".join(chunks)

    run(main())


def test_a_client_that_hangs_up_at_once_has_sent_no_body() -> None:
    messages = Messages([], {"type": "http.disconnect"})
    token, receive = asyncio.run(read_asgi_token(messages, URLENCODED, FIELD))
    assert (token, asyncio.run(receive())) == (None, {"type": "http.disconnect"})


def test_a_token_that_came_whole_before_the_client_hung_up_counts() -> None:
    messages = Messages([b"csrf_token=x&"], {"type": "http.disconnect"}, more=True)
    token, receive = asyncio.run(read_asgi_token(messages, URLENCODED, FIELD))
    assert token == "x"
    assert asyncio.run(receive())["more_body"] is True
    assert asyncio.run(receive()) == {"type": "http.disconnect"}


# --- WSGI


class Wire:
    """A server's stream that is a socket: asked for more than the body it would wait for ever.

    It gives `size` bytes at a time, at most.
    """

    def __init__(self, chunks: Iterable[bytes], length: int, size: int = GIBIBYTE) -> None:
        self.chunks = iter(chunks)
        self.left = length
        self.size = size
        self.held = b""
        self.given = 0
        self.asked = 0

    def read(self, size: int) -> bytes:
        assert 0 < size <= self.left, "the server was asked for more than the body: it would wait for ever"
        self.asked = max(self.asked, size)
        size = min(size, self.size)
        while len(self.held) < size:
            chunk = next(self.chunks, None)
            if chunk is None:
                break
            self.held += chunk
        piece, self.held = self.held[:size], self.held[size:]
        self.left -= len(piece)
        self.given += len(piece)
        return piece

    def readline(self, size: int = -1) -> bytes:
        raise AssertionError

    readlines = __iter__ = readline


def environ_of(
    content_type: str, body: bytes | Iterable[bytes], length: int | None = -1, size: int = GIBIBYTE
) -> dict[str, Any]:
    """Return the environ of a request, by its length or, if that is `None`, by a server that ends its stream."""
    environ: dict[str, Any] = {"REQUEST_METHOD": "POST", "PATH_INFO": "/", "SCRIPT_NAME": "", "QUERY_STRING": ""}
    setup_testing_defaults(environ)
    environ["CONTENT_TYPE"] = content_type
    chunks = [body] if isinstance(body, bytes) else body
    if length is None:
        environ["wsgi.input_terminated"] = True
        environ["wsgi.input"] = Wire(chunks, sys.maxsize, size)
    else:
        length = len(body) if isinstance(body, bytes) and length == -1 else length
        environ["CONTENT_LENGTH"] = str(length)
        environ["wsgi.input"] = Wire(chunks, length, size)
    return environ


def read_all(stream: Any) -> bytes:
    return stream.read()


def read_pieces(stream: Any) -> bytes:
    return b"".join(iter(lambda: stream.read(7919), b""))


def read_pieces_at_once(stream: Any) -> bytes:
    return b"".join(iter(lambda: stream.read1(7919), b""))


def read_lines(stream: Any) -> bytes:
    first, some, rest = stream.readline(5), stream.readline(), stream.readlines(100)
    return b"".join([first, some, *rest, *stream])


def read_into(stream: Any) -> bytes:
    buffer = bytearray(PIECE)
    return b"".join(bytes(buffer[:count]) for count in iter(lambda: stream.readinto(buffer), 0))


@REQUEST
@LIMIT
@pytest.mark.parametrize("length", [-1, None])
@pytest.mark.parametrize("size", [1000, GIBIBYTE])
@pytest.mark.parametrize("read", [read_all, read_pieces, read_pieces_at_once, read_lines, read_into])
def test_a_wsgi_application_reads_the_body_whole(
    content_type: str, body: bytes, limit: int, length: int | None, size: int, read: Callable[[Any], bytes]
) -> None:
    environ = environ_of(content_type, body, length, size)
    wire = environ["wsgi.input"]
    field = TokenField("csrf_token", limit)
    assert read_wsgi_token(environ, field) == search(content_type, body, field)
    assert wire.asked <= PIECE
    if body:
        assert read(environ["wsgi.input"]) == body
        assert read(environ["wsgi.input"]) == b""
        assert wire.asked <= PIECE


@pytest.mark.parametrize("length", [-1, None])
@pytest.mark.parametrize("size", [100, PIECE, GIBIBYTE])
def test_werkzeugs_forms_files_and_data_are_as_they_were_sent(length: int | None, size: int) -> None:
    def read(kind: str) -> WerkzeugRequest:
        environ = environ_of(*REQUESTS[kind], length, size)
        assert read_wsgi_token(environ, TokenField("csrf_token", 10**6)) == TOKEN
        return WerkzeugRequest(environ)

    assert read("urlencoded").form.to_dict() == {"a": "\u00e9 &", "csrf_token": TOKEN, "b": "x" * 200_000}
    for kind in ("multipart", "multipart, token last"):
        with read(kind) as request:
            assert request.form.to_dict() == {"a": "\u00e9", "csrf_token": TOKEN}
            assert request.files["photo"].read() == UPLOAD
        assert read(kind).get_data() == REQUESTS[kind][1]
    assert read("json").get_json() == json.loads(REQUESTS["json"][1])


@pytest.fixture
def django_settings() -> Iterator[None]:
    """Django's own settings, for this test alone."""
    from django.conf import UserSettingsHolder, global_settings
    from django.conf import settings as lazy

    before = vars(lazy)["_wrapped"]
    lazy._wrapped = UserSettingsHolder(global_settings)
    yield
    lazy._wrapped = before


@pytest.mark.parametrize("size", [1000, PIECE, GIBIBYTE])
def test_djangos_forms_files_and_body_are_as_they_were_sent(django_settings: None, size: int) -> None:
    from django.core.handlers.wsgi import WSGIRequest

    def read(kind: str) -> Any:
        environ = environ_of(*REQUESTS[kind], size=size)
        assert read_wsgi_token(environ, TokenField("csrf_token", 10**6)) == TOKEN
        return WSGIRequest(environ)

    assert read("urlencoded").POST.dict() == {"a": "\u00e9 &", "csrf_token": TOKEN, "b": "x" * 200_000}
    for kind in ("multipart", "multipart, token last"):
        request = read(kind)
        assert request.POST.dict() == {"a": "\u00e9", "csrf_token": TOKEN}
        assert request.FILES["photo"].read() == UPLOAD
        request.close()
        assert read(kind).body == REQUESTS[kind][1]
    assert read("json").body == REQUESTS["json"][1]


def test_the_stream_is_as_pep_3333_asks_on_both_sides() -> None:
    content_type, body = REQUESTS["multipart"]

    def application(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        stream = environ["wsgi.input"]
        read = [stream.read(10), stream.readline(), stream.readline(3), *stream.readlines(100), *stream]
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [b"".join(read)]

    def middleware(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        assert read_wsgi_token(environ, FIELD) == TOKEN
        return validator(application)(environ, start_response)

    environ = environ_of(content_type, body)
    environ["wsgi.errors"] = io.StringIO()
    response = validator(middleware)(environ, lambda *_: lambda _: None)
    assert b"".join(response) == body
    response.close()


@pytest.mark.parametrize("length", ["-1", "+5", "5.0", "1_0", " 5", "5, 5", "x", "\u0665", "9" * 5000])
@pytest.mark.parametrize("terminated", [True, False])
def test_a_length_that_is_malformed_is_no_body(length: str, terminated: bool) -> None:
    stream = object()
    environ = {"CONTENT_TYPE": URLENCODED, "CONTENT_LENGTH": length, "wsgi.input": stream}
    environ["wsgi.input_terminated"] = terminated
    assert read_wsgi_token(environ, FIELD) is None
    assert environ["wsgi.input"] is stream


@pytest.mark.parametrize("environ", [{}, {"CONTENT_LENGTH": ""}, {"CONTENT_LENGTH": "0"}])
def test_without_a_length_there_is_no_body(environ: dict[str, Any]) -> None:
    stream = object()
    environ = environ | {"CONTENT_TYPE": URLENCODED, "wsgi.input": stream}
    assert read_wsgi_token(environ, FIELD) is None
    assert environ["wsgi.input"] is stream


def test_nothing_beyond_the_length_is_read_for_it_is_the_next_request() -> None:
    server = io.BytesIO(b"csrf_token=x&csrf_token=y")
    environ = {"CONTENT_TYPE": URLENCODED, "CONTENT_LENGTH": "12", "wsgi.input": server}
    assert read_wsgi_token(environ, FIELD) == "x"
    assert environ["wsgi.input"].read() == b"csrf_token=x"
    assert server.read() == b"&csrf_token=y"


@pytest.mark.parametrize(
    "length, token", [("12", "x"), ("5", None), ("100", None)], ids=["as long", "longer", "cut off"]
)
def test_a_stream_that_the_server_ends_is_given_on_whatever_its_length(length: str, token: str | None) -> None:
    environ = environ_of(URLENCODED, b"csrf_token=x", None) | {"CONTENT_LENGTH": length}
    assert read_wsgi_token(environ, FIELD) == token
    assert environ["wsgi.input"].read() == b"csrf_token=x"


@pytest.mark.parametrize("content_type, body", [(URLENCODED, b"a=1&csrf_token=x"), (JSON, b'{"csrf_token":"x"}')])
def test_a_wsgi_client_that_hangs_up_has_sent_no_token(content_type: str, body: bytes) -> None:
    environ = environ_of(content_type, body, len(body) + 5)
    assert read_wsgi_token(environ, FIELD) is None
    assert environ["wsgi.input"].read() == body


def test_a_server_that_fails_is_heard_and_what_it_gave_before_is_kept() -> None:
    class Failing(Wire):
        def read(self, size: int) -> bytes:
            if self.given:
                raise ConnectionResetError
            return super().read(size)

    environ = environ_of(URLENCODED, b"a=1&", 100)
    environ["wsgi.input"] = Failing([b"a=1&"], 100)
    with pytest.raises(ConnectionResetError):
        read_wsgi_token(environ, FIELD)
    assert environ["wsgi.input"].read(4) == b"a=1&"
    with pytest.raises(ConnectionResetError):
        environ["wsgi.input"].read(4)


def test_to_drop_the_stream_does_not_close_the_servers() -> None:
    server = io.BytesIO(b"csrf_token=x")
    environ: dict[str, Any] = {"CONTENT_TYPE": URLENCODED, "CONTENT_LENGTH": "12", "wsgi.input": server}
    read_wsgi_token(environ, FIELD)
    environ.pop("wsgi.input").close()
    assert not server.closed

"""Whatever is read from outside, any bytes get an answer: a value, none, or an error of the library's own.

Parsers that a file of their own tests are fuzzed there: origins, cookies, bodies. Here are the others, and the whole
check of a request over both interfaces.
"""

import base64
import io
import json
import re
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from starlette.datastructures import Headers
from werkzeug.datastructures import Headers as WerkzeugHeaders

from server_session import CSRF, MemorySessionStore, NotFreshError, Sessions, StoreError, asgi, wsgi
from server_session._colour import drive
from server_session._cookies import CookieHandler
from server_session._owners import OwnerIndex, _key_of
from server_session._policy import Policy
from server_session._record import (
    AUTHENTICATED,
    CLAIM,
    CREATED,
    FORMER,
    LIFE,
    LONGEST,
    OUTSTANDING,
    OWNER,
    STAMP,
    Life,
    claim_of,
)
from server_session._tokens import Credential, TokenState, issue_token, read_token
from server_session.exceptions import RecordError
from server_session.http.frameworks import HeadersRequest
from server_session.http.requests import AsgiRequest, WsgiRequest
from server_session.kernel.presence import ResponseState
from server_session.kernel.stored import StoredSession
from server_session.stores._base import Outcome
from tests.parts import ALL, QUICK
from tests.visitors import Clock

# The long form draws more, the quick one fewer.
MANY = 5000 if ALL else 30 if QUICK else 100
ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"

many = settings(max_examples=MANY, deadline=None)


# --- cookies, as each form of request shows them

GOOD = "Ab0-_" * 12 + "good"
PIECES = st.sampled_from(
    [b"session", b"=", b";", b"; ", b" ", b"\t", b"\xa0", b"\xe2\x80\x80", b'"', b"%3D", b",", GOOD.encode(), b"B" * 64]
)
COOKIES = st.lists(PIECES | st.binary(max_size=3), max_size=12).map(b"".join)


class Several:
    """Headers as aiohttp and its kin show them."""

    def __init__(self, values: list[str]) -> None:
        self._values = values

    def getall(self, name: str) -> list[str]:
        if name.lower() != "cookie" or not self._values:
            raise KeyError(name)
        return self._values


class One:
    def __init__(self, headers: Any) -> None:
        self.headers = headers


@many
@given(st.lists(COOKIES, max_size=3))
def test_a_cookie_is_the_same_whatever_shows_the_request_and_none_is_an_error(headers: list[bytes]) -> None:
    handler = CookieHandler()
    found = handler.read(AsgiRequest({"type": "http", "headers": [(b"cookie", one) for one in headers]}))
    assert all(Credential.parse(one) for one in found)
    assert len(found) <= 4
    texts = [one.decode("latin-1") for one in headers]
    starlette = Headers(raw=[(b"cookie", one) for one in headers])
    # A server joins several lines so (RFC 9113, 8.2.3).
    joined = {"HTTP_COOKIE": "; ".join(texts)} if texts else {}
    requests = [
        WsgiRequest({"REQUEST_METHOD": "GET", **joined}),
        HeadersRequest(One(Several(texts)), {}),
        HeadersRequest(One(starlette), {}),
        HeadersRequest(One({"Cookie": joined["HTTP_COOKIE"]} if joined else {}), {}),
    ]
    if not any(set(one) & set(b"\r\n") for one in headers):
        requests.append(HeadersRequest(One(WerkzeugHeaders([("Cookie", one) for one in texts])), {}))
    for request in requests:
        assert handler.read(request) == found


@many
@given(st.lists(st.text(st.characters(), max_size=80), max_size=3))
def test_text_that_no_header_can_be_is_read_without_an_error(texts: list[str]) -> None:
    handler = CookieHandler()
    for request in (
        WsgiRequest({"REQUEST_METHOD": "GET", "HTTP_COOKIE": "; ".join(texts)}),
        HeadersRequest(One(Several(texts)), {}),
    ):
        assert all(Credential.parse(one) for one in handler.read(request))
        assert isinstance(handler.is_present(request), bool)
        assert isinstance(handler.expire_elsewhere(request), list)


# --- tokens

TOKEN = issue_token(Credential("A" * 24, "B" * 40), "", 1_000_000_000)


@many
@given(
    st.text(ALPHABET + "+/= \n\xe9\ud800", min_size=68, max_size=72)
    | st.text()
    | st.tuples(st.integers(0, 69), st.characters()).map(lambda at: TOKEN[: at[0]] + at[1] + TOKEN[at[0] + 1 :])
)
@example("\N{FULLWIDTH LATIN CAPITAL LETTER A}" * 70)
@example("A" * 69 + "B")
def test_a_token_is_read_where_it_is_spelt_as_its_parts_are_and_nowhere_else(text: str) -> None:
    token = read_token(text)
    if token is not None:
        assert (len(token.nonce), len(token.tag)) == (20, 32)
        assert base64.urlsafe_b64encode(token.nonce + token.tag).rstrip(b"=") == text.encode()
    else:
        # The last character has two bits of the tag: the others must be 0.
        assert not re.fullmatch(r"[A-Za-z0-9_-]{69}[AQgw]", text, re.ASCII)


# --- the whole check of a request

NAMES = st.sampled_from(
    [
        *("x-csrf-token", "origin", "sec-fetch-site", "sec-fetch-mode", "sec-fetch-dest", "referer", "host", "cookie"),
        *("authorization", "content-type", "accept", "upgrade", "connection", "user-agent", "x-forwarded-proto"),
    ]
)
LIKELY = st.sampled_from(
    [
        *(
            b"same-origin",
            b"cross-site",
            b"none",
            b"null",
            b"navigate",
            b"https://shop.example",
            b"http://[::1",
            b"*/*",
        ),
        *(b"application/json", b"multipart/form-data; boundary=B", b"application/x-www-form-urlencoded", b"Basic x"),
        *(b"websocket", b"https://shop.example:99999999999/", b"//", b"", b"session=", b"csrf_token=a", b"text/html"),
        *(TOKEN.encode(), b"session=" + b"A" * 24 + b"B" * 40),
    ]
)
HEADERS = st.lists(st.tuples(NAMES, LIKELY | st.binary(max_size=30)), max_size=8)
METHODS = st.sampled_from(["GET", "HEAD", "POST", "post", "PURGE", "OPTIONS", "QUERY", "", "G\xe9T"])
BODIES = st.sampled_from(
    [b"", b"csrf_token=%ff", b'{"csrf_token": [1', b'--B\r\nContent-Disposition: form-data; name="c']
)
POLICIES = st.sampled_from(
    [CSRF(), CSRF("strict"), CSRF(single_use=True), CSRF(protect_anonymous=True), CSRF("report")]
)
ORIGINS = st.sampled_from([None, "https://shop.example", "http://localhost:8000"])


def application(policy: CSRF, origin: str | None) -> tuple[Sessions, str]:
    """Return an application's sessions, and the cookie of one that lives."""
    sessions = Sessions(csrf=policy, origin=origin, session_store=MemorySessionStore())
    visit = StoredSession(sessions.policy, [], ResponseState.OPEN)
    assert drive(visit.merge({"a": 1}))
    assert visit.cookie_value is not None
    return sessions, f"{sessions.cookie.name}={visit.cookie_value}"


def served_over_asgi(
    sessions: Sessions, method: str, headers: list[tuple[str, bytes]], body: bytes, kind: str = "http"
) -> list[Any]:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await sessions.get_csrf_token(scope)
        if scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.accept"})
            return
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"welcome"})

    sent: list[Any] = []

    async def receive() -> Any:
        if kind == "websocket":
            return {"type": "websocket.connect"}
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": kind, "path": "/é", "scheme": "http" if kind == "http" else "ws", "query_string": b"\xff"}
    lines = [(name.encode(), value) for name, value in headers]
    if kind == "http":
        scope["method"] = method
    drive(asgi.SessionMiddleware(app, sessions)({**scope, "headers": lines}, receive, send))
    return sent


@many
@given(POLICIES, ORIGINS, METHODS, HEADERS, BODIES | st.binary(max_size=40), st.booleans())
def test_any_bytes_in_any_header_are_answered_with_200_or_403_over_asgi(
    policy: CSRF, origin: str | None, method: str, headers: list[tuple[str, bytes]], body: bytes, has_cookie: bool
) -> None:
    sessions, cookie = application(policy, origin)
    if has_cookie:
        headers = [*headers, ("cookie", cookie.encode())]
    start, *rest = served_over_asgi(sessions, method, headers, body)
    assert start["status"] in (200, 403)
    assert all(message["type"] == "http.response.body" for message in rest)
    for name, value in start["headers"]:
        assert not set(name + value) & set(b"\r\n\0")


@many
@given(POLICIES, ORIGINS, HEADERS, st.booleans())
def test_any_bytes_in_any_header_of_a_handshake_are_accepted_or_turned_away(
    policy: CSRF, origin: str | None, headers: list[tuple[str, bytes]], has_cookie: bool
) -> None:
    sessions, cookie = application(policy, origin)
    if has_cookie:
        headers = [*headers, ("cookie", cookie.encode())]
    first = served_over_asgi(sessions, "GET", headers, b"", "websocket")[0]
    assert first["type"] in ("websocket.accept", "websocket.close")


@many
@given(
    POLICIES,
    ORIGINS,
    METHODS,
    HEADERS,
    BODIES | st.binary(max_size=40),
    st.booleans(),
    st.sampled_from([None, "", "0", "40", "-1", "4 0", "\xb2", "9" * 5000]),
)
def test_any_bytes_in_any_header_are_answered_with_200_or_403_over_wsgi(
    policy: CSRF,
    origin: str | None,
    method: str,
    headers: list[tuple[str, bytes]],
    body: bytes,
    has_cookie: bool,
    length: str | None,
) -> None:
    sessions, cookie = application(policy, origin)
    environ: dict[str, Any] = {
        "REQUEST_METHOD": method,
        "SCRIPT_NAME": "",
        "PATH_INFO": "/\xc3\xa9\xff",
        "SERVER_NAME": "shop.example",
        "SERVER_PORT": "80",
        "wsgi.url_scheme": "http",
        "wsgi.input": io.BytesIO(body),
        "wsgi.errors": io.StringIO(),
    }
    if length is not None:
        environ["CONTENT_LENGTH"] = length
    for name, value in headers:
        key = name.upper().replace("-", "_")
        environ["CONTENT_TYPE" if key == "CONTENT_TYPE" else f"HTTP_{key}"] = value.decode("latin-1")
    if has_cookie:
        environ["HTTP_COOKIE"] = "; ".join(filter(None, (environ.get("HTTP_COOKIE"), cookie)))
    started: list[Any] = []

    def app(environ: Any, start_response: Any) -> list[bytes]:
        sessions.sync.get_csrf_token(environ)
        start_response("200 OK", [])
        return [b"welcome"]

    def start_response(status: str, lines: list[tuple[str, str]], exc_info: Any = None) -> Any:
        started.append((status, lines))
        return io.BytesIO().write

    result: Any = wsgi.SessionMiddleware(app, sessions)(environ, start_response)
    assert b"".join(result)
    result.close()
    ((status, lines),) = started
    assert status in ("200 OK", "403 Forbidden")
    for name, value in lines:
        assert not set(name + value) & set("\r\n\0")


# --- records whose own fields are damaged

OWNERS_NAME = "ada"
DATA = {"user": "ada", "cart": [1]}
DAMAGES = st.one_of(
    st.none(),
    st.binary(max_size=30),
    st.sampled_from(
        [
            *(b"null", b"true", b"0", b"-1", b"1e999", b"1e300", b"NaN", b'"x"', b"[]", b"{}", b"[1]", b"[null]", b"["),
            *(
                b'["x","y","z"]',
                b"[1,2,3,4]",
                b"[null,null,null,null]",
                b'[["x"],["y"]]',
                b'{"$tuple":[1]}',
                b"9" * 5000,
            ),
            *(b'["x"]', b'["x",null]', b'["x","y"]', b"[{},{}]", b"[" * 200, b'{"$datetime":"x"}', b'"\xff"', b'""'),
        ]
    ),
    st.recursive(
        st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
        max_leaves=5,
    ).map(lambda value: json.dumps(value).encode()),
)


class TidiedStore(MemorySessionStore):
    """A store with whose ids every log-in looks after the owner's list, and not one in sixteen."""

    def id(self) -> str:
        return super().id()[:-1] + "A"


@dataclass
class Scene:
    """A session that has every field of the core's, and another of the same owner."""

    policy: Policy
    store: MemorySessionStore
    clock: Clock
    cookie: str
    token: str

    def visit(self) -> StoredSession:
        credential = Credential.parse(self.cookie)
        assert credential is not None
        return StoredSession(self.policy, [credential], ResponseState.OPEN)


def scene(**more: Any) -> Scene:
    clock = Clock()
    store = TidiedStore(clock=clock)
    settings_of: dict[str, Any] = {"renew_on": frozenset({"user"}), "now": clock, "single_use": True, **more}
    policy = Policy(store, 1800.0, 86400.0, **settings_of)
    for _ in range(2):
        visit = StoredSession(policy, [], ResponseState.OPEN)
        assert drive(visit.replace(DATA, OWNERS_NAME))
    assert drive(visit.renew(None, Life(idle=900.0, absolute=100_000.0, persistent=True)))
    assert visit.cookie_value is not None
    later = Scene(policy, store, clock, visit.cookie_value, "")
    visit = later.visit()
    # So that there is a former one: it was heard of.
    assert drive(visit.renew())
    assert visit.cookie_value is not None
    later.cookie = visit.cookie_value
    later.token = drive(later.visit().csrf_token(""))
    return later


def damage(store: MemorySessionStore, key: str, name: str, junk: bytes | None) -> None:
    changed, removed = ({}, [name]) if junk is None else ({name: junk}, [])
    drive(store.merge(key, changed, removed, {}))


async def renew_and_answer(scene: Scene) -> object:
    visit = scene.visit()
    await visit.renew(None, Life(absolute=90_000.0))
    seconds = visit.cookie_seconds
    assert seconds is None or isinstance(seconds, int | float)
    return None


async def assign(scene: Scene) -> object:
    session = await scene.visit().load()
    session["user"] = "bob"
    return await session.save()


async def log_in(scene: Scene) -> object:
    return await scene.visit().replace(DATA, OWNERS_NAME)


async def list_sessions(scene: Scene) -> object:
    own = scene.cookie[:24]
    return [
        one for one in await OwnerIndex(scene.policy, OWNERS_NAME).sessions(own) if one.id == own and not one.is_current
    ]


Call = Callable[[Scene], Coroutine[Any, Any, object]]

CALLS: dict[str, tuple[Call, tuple[object, ...]]] = {
    "get": (lambda scene: scene.visit().get(), (DATA, {})),
    "set": (lambda scene: scene.visit().merge({"a": 1}), (True, False)),
    "update": (lambda scene: scene.visit().update(lambda data: data.update(a=1)), (True, False)),
    "pluck": (lambda scene: scene.visit().pluck("cart"), ([1], None)),
    "replace": (lambda scene: scene.visit().replace({}), (True,)),
    "replace in place": (lambda scene: scene.visit().replace({}, in_place=True), (True, False)),
    "log in": (log_in, (True,)),
    "renew": (lambda scene: scene.visit().renew(), (True, False)),
    "renew with data": (lambda scene: scene.visit().renew({"a": 1}, authenticated=True), (True, False)),
    "renew and answer": (renew_and_answer, (None,)),
    "assign": (assign, (True, False)),
    "destroy": (lambda scene: scene.visit().destroy(), (True, False)),
    "token": (lambda scene: scene.visit().csrf_token("POST /a"), ()),
    "validate": (lambda scene: scene.visit().has_csrf_token(scene.token, ""), (True, False)),
    "validate another's": (lambda scene: scene.visit().has_csrf_token(TOKEN, ""), (False,)),
    "admit": (lambda scene: scene.visit().admit(scene.token, [""]), tuple(TokenState)),
    "require fresh": (lambda scene: scene.visit().require_fresh(60), (None,)),
    "is alive": (lambda scene: scene.visit().is_alive(), (True, False)),
    "sessions of": (list_sessions, ([],)),
    "destroy sessions of": (lambda scene: OwnerIndex(scene.policy, OWNERS_NAME).destroy(), (0, 1, 2, 3)),
}


def answers(call: str, scene: Scene, *, own_error: type[Exception] | tuple[type[Exception], ...] = StoreError) -> None:
    """See that a call returns what it may, or says that the record cannot be read."""
    make, allowed = CALLS[call]
    try:
        result = drive(make(scene))
    except own_error:
        return
    except NotFreshError:
        assert call == "require fresh"
        return
    assert not allowed or result in allowed


@pytest.mark.once
@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize(
    "name", [LIFE, FORMER, OUTSTANDING, CREATED, AUTHENTICATED, STAMP, OWNER], ids=lambda name: name[1:]
)
@settings(max_examples=MANY // 30, deadline=None)
@given(junk=DAMAGES)
@example(junk=b"[1]")
@example(junk=b'"x"')
@example(junk=b'["\\u0080"]')
@example(junk=b"null")
@example(junk=None)
def test_a_damaged_field_of_the_core_s_is_a_record_error_or_no_matter(name: str, call: str, junk: bytes | None) -> None:
    stage = scene()
    damage(stage.store, stage.cookie[:24], name, junk)
    answers(call, stage)


@pytest.mark.once
@pytest.mark.parametrize("call", ["log in", "sessions of", "destroy sessions of", "renew and answer"])
@pytest.mark.parametrize("name", [LONGEST, OWNER, STAMP, "entry"], ids=lambda name: name.lstrip("\0"))
@pytest.mark.parametrize("most", [None, 2])
@settings(max_examples=MANY // 30, deadline=None)
@given(junk=DAMAGES)
@example(junk=b'"x"')
@example(junk=b"null")
@example(junk=None)
def test_a_damaged_field_of_an_owner_s_list_is_a_record_error_or_no_matter(
    call: str, name: str, most: int | None, junk: bytes | None
) -> None:
    stage = scene(max_sessions=most)
    selector = stage.cookie[:24]
    damage(stage.store, _key_of(OWNERS_NAME), selector if name == "entry" else name, junk)
    answers(call, stage)


@many
@given(DAMAGES, st.sampled_from([LIFE, FORMER, OUTSTANDING, CREATED, AUTHENTICATED, STAMP, OWNER]))
def test_a_session_with_a_damaged_field_can_be_ended(junk: bytes | None, name: str) -> None:
    stage = scene()
    damage(stage.store, stage.cookie[:24], name, junk)
    assert drive(stage.visit().destroy()) is True
    record = drive(stage.store.get(stage.cookie[:24], {}, False))
    assert not isinstance(record, Outcome)
    assert len(record) == 1


@many
@given(st.binary(max_size=60))
def test_a_damaged_digest_opens_the_session_to_nobody(junk: bytes) -> None:
    stage = scene()
    damage(stage.store, stage.cookie[:24], "\0digest", junk)
    assert drive(stage.visit().get()) == {}
    assert drive(stage.visit().has_csrf_token(stage.token, "")) is False


@pytest.mark.parametrize("junk", [b'["\\u0080",""]', b'["","a\\"b"]', b'["a"]', b"null"])
def test_a_claim_names_a_session_in_base64url_or_cannot_be_read(junk):
    with pytest.raises(RecordError, match="claim"):
        claim_of({CLAIM: junk})

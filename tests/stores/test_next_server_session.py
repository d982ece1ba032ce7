"""The layout of next-server-session; in tests/scenarios the package itself shares sessions with us."""

import asyncio
import json
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
import redis

from server_session import (
    CSRF,
    ConfigurationError,
    CookieHandler,
    RecordError,
    SerializationError,
    Sessions,
    _sessions,
)
from server_session import _record as record
from server_session._urls import open_store
from server_session.stores import next_server_session
from server_session.stores._sealed import EncryptedCodec
from server_session.stores.next_server_session import NextServerSessionCookie, NextServerSessionRedisStore
from tests.asgi_client import call, scope_of
from tests.documents import DOCS, run

ID = "0f9b2c1e-7d1a-4c3e-9a55-3f0e8d7c6b5a"


def everything(client: "redis.Redis") -> dict[bytes, bytes]:
    names = client.keys()
    return dict(zip(names, client.mget(names), strict=True)) if names else {}


class Page:
    """What the functions take for a request and its response."""

    def __init__(self, cookie: str | None = None) -> None:
        from starlette.requests import Request
        from starlette.responses import Response

        self.request, self.response = Request(scope_of("/", cookie)), Response()

    @property
    def cookies(self) -> list[str]:
        return self.response.headers.getlist("set-cookie")


@pytest.fixture
def client(redis_server) -> Iterator["redis.Redis"]:
    client = redis.Redis.from_url(redis_server.url)
    yield client
    client.flushdb()
    client.close()


@pytest.fixture
def sessions(redis_server, client) -> Sessions:
    return Sessions(session_store=NextServerSessionRedisStore(redis_server.url))


def kept(client: "redis.Redis", of: str = ID) -> Any:
    return json.loads(client.get(f"sess_{of}"))


def put(client: "redis.Redis", data: Any, of: str = ID, seconds: int = 1800) -> str:
    """Write as the package does; return the cookie."""
    client.set(f"sess_{of}", json.dumps(data, separators=(",", ":"), ensure_ascii=False), ex=seconds)
    return f"nextSession={of}"


def test_a_session_of_the_package_is_read_written_and_touched(sessions, client):
    page = Page(put(client, {"user": "ada", "n": 1.5, "list": [{}]}, seconds=100))
    assert sessions.sync.get_session_data(page) == {"user": "ada", "n": 1.5, "list": [{}]}
    assert client.ttl(f"sess_{ID}") > 1700
    assert sessions.sync.set_session_data(page, {"cart": ["ä"]}) is True
    assert kept(client) == {"user": "ada", "n": 1.5, "list": [{}], "cart": ["ä"]}
    assert sessions.sync.pluck_session_property(page, "user") == "ada"
    assert "user" not in kept(client)
    assert page.cookies == []


def test_a_read_that_does_not_touch_leaves_the_expiry(sessions, client):
    page = Page(put(client, {}, seconds=100))
    assert sessions.sync.get_session_data(page, touch=False) == {}
    assert client.ttl(f"sess_{ID}") <= 100


def test_a_session_founded_here_is_what_the_package_would_have_written(sessions, client):
    page = Page()
    assert sessions.sync.set_session_data(page, {"user": "ada"})
    (cookie,) = page.cookies
    name, _, rest = cookie.partition("=")
    value, _, attributes = rest.partition("; ")
    assert (name, attributes) == ("nextSession", "Path=/; HttpOnly; SameSite=Strict")
    assert uuid.UUID(value).version == 4
    assert str(uuid.UUID(value)) == value
    assert client.get(f"sess_{value}") == b'{"user":"ada"}'
    assert 1790 <= client.ttl(f"sess_{value}") <= 1800
    assert sessions.sync.get_session_data(Page(f"nextSession={value}")) == {"user": "ada"}


def test_replace_logs_in_under_a_new_id_and_the_old_one_is_none_to_the_package(sessions, client):
    page = Page(put(client, {"cart": [1]}))
    assert sessions.sync.replace_session_data(page, {"user": "ada"})
    (cookie,) = page.cookies
    new = cookie[len("nextSession=") :].partition(";")[0]
    assert new != ID
    assert kept(client, new) == {"user": "ada"}
    # What the package takes for no session; and it goes by itself.
    assert kept(client) is None
    assert client.ttl(f"sess_{ID}") <= 60


def test_a_log_out_here_is_one_there_and_late_writes_of_here_are_dropped(sessions, client):
    cookie = put(client, {"user": "ada"})
    late = Page(cookie)
    assert sessions.sync.get_session_data(late) == {"user": "ada"}
    page = Page(cookie)
    assert sessions.sync.destroy_session(page) is True
    assert kept(client) is None
    assert "Max-Age=0" in page.cookies[0]
    assert sessions.sync.set_session_data(late, {"cart": 1}) is False
    assert sessions.sync.set_session_data(Page(cookie), {"cart": 1}) is False
    assert sessions.sync.get_session_data(Page(cookie)) == {}
    assert kept(client) is None


def test_a_log_out_there_is_one_here(sessions, client):
    cookie = put(client, {"user": "ada"})
    page = Page(cookie)
    assert sessions.sync.is_alive(page)
    client.delete(f"sess_{ID}")
    assert sessions.sync.get_session_data(page) == {}
    assert sessions.sync.set_session_data(page, {"cart": 1}) is False
    assert client.keys() == []


def test_what_is_written_between_read_and_write_is_not_undone(sessions, client):
    cookie = put(client, {"n": 1})
    tries = 0

    def change(data: dict[str, Any]) -> None:
        nonlocal tries
        tries += 1
        if tries == 1:
            put(client, {"n": 10, "other": 2})
        data["n"] += 1

    assert sessions.sync.update_session_data(Page(cookie), change)
    assert (tries, kept(client)) == (2, {"n": 11, "other": 2})


def test_an_update_that_iterates_sees_what_came_meanwhile(sessions, client):
    cookie = put(client, {"a": 1})
    seen = []

    def change(data: dict[str, Any]) -> None:
        seen.append(sorted(data))
        if len(seen) == 1:
            put(client, {"a": 1, "b": 2})
        data["names"] = len(data)

    assert sessions.sync.update_session_data(Page(cookie), change)
    assert seen == [["a"], ["a", "b"]]


async def test_of_many_writes_at_once_none_is_lost_and_of_many_plucks_one_has_it(sessions, client):
    cookie = put(client, {"voucher": "x"})
    pages = [Page(cookie) for _ in range(50)]
    plucked, *_ = await asyncio.gather(
        asyncio.gather(*(sessions.pluck_session_property(page, "voucher") for page in pages)),
        *(sessions.set_session_data(page, {f"key{number}": number}) for number, page in enumerate(pages)),
    )
    assert [one for one in plucked if one] == ["x"]
    assert kept(client) == {f"key{number}": number for number in range(50)}


def test_tokens_of_here_hold_for_the_session_and_those_of_the_package_are_taken_once(sessions, client):
    cookie = put(client, {"user": "ada", "csrfToken": "t0ken"})
    token = sessions.sync.get_csrf_token(Page(cookie))
    assert sessions.sync.validate_csrf_token(Page(cookie), token)
    assert not sessions.sync.validate_csrf_token(Page(cookie), "t0ken")
    other = put(client, {}, str(uuid.uuid4()))
    assert not sessions.sync.validate_csrf_token(Page(other), token)
    taken = [sessions.sync.pluck_session_property(Page(cookie), "csrfToken") == "t0ken" for _ in range(2)]
    assert taken == [True, False]


@pytest.mark.parametrize(
    "value", [datetime.now(UTC), b"x", {1}, (1,), 2**53, -(2**53), {"$a": 1}, [{"n": [2**63]}]], ids=repr
)
def test_what_javascript_would_take_for_something_else_is_refused(sessions, client, value):
    cookie = put(client, {"big": 2**60})
    with pytest.raises(SerializationError, match="'x'"):
        sessions.sync.set_session_data(Page(cookie), {"x": value})
    with pytest.raises(SerializationError, match="'x'"):
        sessions.sync.set_session_data(Page(), {"x": value})
    # What stands there already is none of this write's.
    assert sessions.sync.set_session_data(Page(cookie), {"x": [2**53 - 1, "2" * 30, '{"$a":1}', 1e300]})
    assert client.dbsize() == 1


@pytest.mark.parametrize(
    "text",
    [
        "[]",
        "1",
        '"a"',
        "{",
        '{"\\u0000ended":1}',
        '{"a":{"$date":"?"}}',
        '{"a":"\\ud800"}',
        f'{{"a":{"[" * 2000}1{"]" * 2000}}}',
    ],
    ids=lambda text: text[:20],
)
def test_what_the_package_would_not_write_is_an_error_and_no_empty_session(sessions, client, text):
    client.set(f"sess_{ID}", text, ex=100)
    with pytest.raises(RecordError):
        sessions.sync.get_session_data(Page(f"nextSession={ID}"))
    assert client.get(f"sess_{ID}") == text.encode()


@pytest.mark.parametrize(
    "cookie", ["", "undefined", ID.upper(), ID[:-1], ID + "0", ID.replace("-", ""), f'"{ID}"', "A" * 64, "{" + ID + "}"]
)
def test_what_is_no_id_is_no_cookie(sessions, client, cookie):
    put(client, {"user": "ada"})
    page = Page(f"nextSession={cookie}")
    assert sessions.sync.get_session_data(page) == {}
    assert page.cookies == []


# --- what cannot hold is raised


@pytest.mark.parametrize(
    "settings",
    [
        {"cookie_handler": CookieHandler("nextSession")},
        {"max_age": 60},
        {"absolute_max_age": 86400},
        {"renew_on": ("user",)},
        {"codec": EncryptedCodec([bytes(32)])},
    ],
    ids=lambda settings: next(iter(settings)),
)
def test_a_setting_that_cannot_hold_is_refused(redis_server, settings):
    store = NextServerSessionRedisStore(redis_server.url)
    with pytest.raises(ConfigurationError, match="no place for"):
        Sessions(session_store=store, **settings)
    same = Sessions(session_store=store, max_age=1800, cookie_handler=NextServerSessionCookie("sId", same_site="lax"))
    assert same.cookie.name == "sId"


def deeds() -> dict[str, Callable[[Any, Page], object]]:
    return {
        "renew": lambda functions, page: functions.renew_session(page),
        "renew with data": lambda functions, page: functions.renew_session(page, data={"a": 1}),
        "renew, its life": lambda functions, page: functions.renew_session(page, data={"a": 1}, max_age=60),
        "log in": lambda functions, page: functions.log_in(page, "ada"),
        "sessions of": lambda functions, _: functions.sessions_of("ada"),
        "end all": lambda functions, _: functions.destroy_sessions_of("ada"),
    }


@pytest.mark.parametrize("deed", deeds())
@pytest.mark.parametrize("is_new", [False, True])
def test_a_deed_that_cannot_hold_is_refused_and_nothing_written(sessions, client, deed, is_new):
    page = Page(put(client, {"user": "ada"}))
    if is_new:
        # In the request that founds, a renewal swaps what no browser has yet.
        sessions.sync.replace_session_data(page, {"user": "ada"})
    before = everything(client)
    with pytest.raises(ConfigurationError, match="no place for"):
        deeds()[deed](sessions.sync, page)
    assert everything(client) == before


def test_tokens_that_pass_once_are_refused(redis_server, client):
    sessions = Sessions(session_store=NextServerSessionRedisStore(redis_server.url), csrf=CSRF(single_use=True))
    with pytest.raises(ConfigurationError, match="no place for"):
        sessions.sync.get_csrf_token(Page(put(client, {})))


# --- how it is made


def test_a_url_names_it(redis_server, client):
    store = open_store(redis_server.url_for("next-server-session+redis"))
    assert isinstance(store, NextServerSessionRedisStore)
    put(client, {"user": "ada"})
    sessions = Sessions(session_store=redis_server.url_for("next-server-session+redis"))
    assert sessions.sync.get_session_data(Page(f"nextSession={ID}")) == {"user": "ada"}
    assert sessions.sync.health()
    for url in ("next-server-session:", "next-server-session://x", "next-server-session+http://x"):
        with pytest.raises(ConfigurationError):
            open_store(url)


def test_the_line_that_the_page_prints_names_it_and_its_cookie():
    run(DOCS / "nextjs.md", "next-server-session")
    made = _sessions.configured()
    assert isinstance(made.store, NextServerSessionRedisStore)
    assert isinstance(made.cookie, NextServerSessionCookie)
    assert made.origins == ("https://shop.example",)


async def test_the_awaitable_functions_and_the_mapping_serve_it_too(redis_server, client):
    from server_session.asgi import SessionMiddleware

    async def app(scope: Any, receive: Any, send: Any) -> None:
        scope["session"]["user"] = "ada"
        scope["session"]["cart"] = [*scope["session"].get("cart", ()), 1]
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    served = SessionMiddleware(app, session_store=redis_server.url_for("next-server-session+redis"))
    cookie = put(client, {})
    for _ in range(2):
        answer = await call(served, scope_of("/", cookie))
        assert answer.status == 200
    assert kept(client) == {"user": "ada", "cart": [1, 1]}


def test_the_names_are_those_of_the_core():
    module = next_server_session
    names = (module._DIGEST, module._CREATED, module._STAMP, module._ENDED)
    assert names == (record.DIGEST, record.CREATED, record.STAMP, record.ENDED)

"""Moving in: a visitor who brings another library's cookie is given a session with its data, once."""

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import redis
from itsdangerous import TimestampSigner
from starlette.responses import Response

from server_session import CookieHandler, EncryptedCodec, Sessions, StoreError
from server_session._colour import drive
from server_session.adopt import (
    DjangoSessions,
    FlaskCookie,
    FlaskSessionRedis,
    NextServerSessionRedis,
    Reader,
    StarletteCookie,
    StarsessionsRedis,
)
from server_session.exceptions import ConfigurationError, NoResponseError
from server_session.stores.redis import RedisSessionStore
from tests.adopt.old import EVERY_FORM, LIBRARIES, SECRET, SIGNED, Old, by_flask_session, by_starlette
from tests.adopt.stage import (
    AT_ONCE,
    ENDPOINTS,
    KINDS,
    MINUTE,
    at_once,
    is_credential,
    over_both,
    shown,
    site_maker,
    site_of,
)
from tests.asgi_client import scope_of
from tests.attacks.stage import Browser, Request, Site, timed_site
from tests.visitors import Watched

pytestmark = pytest.mark.once


@pytest.fixture(params=LIBRARIES)
def old(request: pytest.FixtureRequest, redis_server: Any) -> Old:
    return LIBRARIES[request.param](redis_server.url)


@pytest.fixture(params=SIGNED)
def signed(request: pytest.FixtureRequest) -> Old:
    return LIBRARIES[request.param]("")


@pytest.fixture(params=KINDS)
def make_site(request: pytest.FixtureRequest, redis_server: Any, tmp_path: Path) -> Callable[..., Site]:
    return site_maker(request.param, redis_server.url, f"{tmp_path}:")


@pytest.fixture(params=["memory", "redis"])
def make_any_site(request: pytest.FixtureRequest, redis_server: Any, tmp_path: Path) -> Callable[..., Site]:
    return site_maker(request.param, redis_server.url, f"{tmp_path}:")


# --- once, and to one


@pytest.mark.parametrize("form", EVERY_FORM)
@over_both
def test_the_data_comes_along_once_with_a_fresh_cookie(
    form: str, make_site: Any, interface: str, redis_server: Any
) -> None:
    old = EVERY_FORM[form](redis_server.url)
    site = make_site(interface, old.reader)
    browser = Browser(site, old.cookie)
    assert browser.get("/whole").said == shown(old.data)
    assert is_credential(browser.cookie)
    assert old.keeps is None or not old.keeps()
    assert browser.get("/whole").said == shown(old.data)
    assert len(browser.received) == 1
    site.clock.advance(MINUTE)
    reply = site.send(path="/whole", cookie=old.cookie)
    assert reply.said == shown({})
    assert not reply.all("set-cookie")
    assert site.events.count("adopted") == 1
    assert "created" not in site.events


@over_both
def test_of_fifty_at_once_each_has_the_one_session(old: Old, make_any_site: Any, interface: str) -> None:
    site = make_any_site(interface, old.reader)
    replies = at_once(site, "/whole", old.cookie)
    assert {reply.said for reply in replies} == {shown(old.data)}
    cookies = {reply.cookie for reply in replies}
    assert len(cookies) == 1
    assert site.events.count("adopted") == 1
    assert old.keeps is None or not old.keeps()
    assert site.send(path="/whole", cookie=cookies.pop()).said == shown(old.data)


@over_both
def test_of_fifty_writes_at_once_none_is_lost(make_any_site: Any, interface: str) -> None:
    old = by_starlette("")
    site = make_any_site(interface, old.reader)
    replies = at_once(site, "/number", old.cookie, "POST")
    assert {reply.status for reply in replies} == {200}
    (cookie,) = {reply.cookie for reply in replies}
    data = site.send(cookie=cookie).said
    assert data == {**old.data, **{str(number): number for number in range(AT_ONCE)}}


def test_two_functions_at_once_in_one_request_have_the_one_session(redis_server: Any, tmp_path: Path) -> None:
    old = by_starlette("")
    store = RedisSessionStore(redis_server.url, prefix=f"{tmp_path}:")

    async def both(request: Request) -> list[Any]:
        get = request.functions.get_session_data
        set_data = request.functions.set_session_data
        found = await asyncio.gather(
            get(request.carrier), set_data(request.carrier, {"a": 1}), set_data(request.carrier, {"b": 2})
        )
        return [found[0]["user"], await get(request.carrier)]

    site = Site("asgi", {"/both": both}, session_store=store, adopt=[old.reader])
    # Nothing is looked up before the functions are called.
    from server_session.asgi import SessionMiddleware

    site.app = SessionMiddleware(site._asgi, site.sessions, autoload=False)
    assert site.send(path="/both", cookie=old.cookie).said == ["ada", {**old.data, "a": 1, "b": 2}]
    assert site.events == ["adopted"]


# --- ended is ended


@over_both
def test_a_log_out_with_the_old_cookie_ends_the_old_session(old: Old, make_site: Any, interface: str) -> None:
    site = make_site(interface, old.reader)
    reply = site.post("/log_out", cookie=old.cookie)
    assert reply.said is True
    assert old.keeps is None or not old.keeps()
    assert not is_credential(reply.cookie)
    site.clock.advance(MINUTE)
    assert site.send(path="/whole", cookie=old.cookie).said == shown({})


def test_a_log_in_over_a_dead_cookie_of_ours_ends_the_old_session_too() -> None:
    old = by_starlette("")
    site = site_of(old.reader, cookie_handler=CookieHandler("sid-session"))
    dead = f"sid-session={'a' * 64}"
    assert site.post("/log_in", cookie=f"{dead}; {old.cookie}", body=b"bob").said is True
    site.clock.advance(MINUTE)
    assert site.send(cookie=old.cookie).said == {}


def test_a_dead_cookie_of_ours_does_not_keep_the_old_one_from_its_session() -> None:
    old = by_starlette("")
    site = site_of(old.reader, cookie_handler=CookieHandler("sid-session"))
    assert site.send(cookie=f"sid-session={'a' * 64}; {old.cookie}").said == old.data


# --- what is no session


def junk_of(old: Old) -> list[str]:
    name, _, value = old.cookie.partition("=")
    tampered = value[:5] + ("A" if value[5] != "A" else "B") + value[6:]
    return [f"{name}={one}" for one in ("", tampered, value[:-9], "x" * 5000, "é", "a b", '"', f'"{value}"', "../../x")]


@over_both
def test_what_is_no_session_of_the_library_is_as_if_absent(old: Old, interface: str, redis_server: Any) -> None:
    site = timed_site(interface, endpoints=ENDPOINTS, adopt=[old.reader])
    for cookie in junk_of(old):
        reply = site.send(path="/whole", cookie=cookie)
        assert (reply.status, reply.said, reply.all("set-cookie")) == (200, shown({}), []), cookie
    assert site.events == []
    assert site.send(path="/whole", cookie=old.cookie).said == shown(old.data)


def test_what_was_never_signed_asks_no_store(signed: Old) -> None:
    store = Watched()
    site = site_of(signed.reader, store=store)
    for cookie in junk_of(signed):
        site.send(path="/whole", cookie=cookie)
    assert store.calls == []


def test_a_signature_that_is_too_old_is_as_if_absent(signed: Old, monkeypatch: pytest.MonkeyPatch) -> None:
    later = TimestampSigner("").get_timestamp() + int(signed.reader.max_age)
    site = site_of(signed.reader)
    monkeypatch.setattr(TimestampSigner, "get_timestamp", lambda _: later + 1000)
    assert site.send(path="/whole", cookie=signed.cookie).said == shown({})


@pytest.mark.parametrize("raw", [b"[1]", b"\x93\x01\x02\x03", b"nonsense", b"{}", b"7", b"[" * 100_000, b"\xff\xfe"])
@pytest.mark.parametrize("reader", [FlaskSessionRedis, StarsessionsRedis, NextServerSessionRedis])
def test_what_cannot_be_read_is_as_if_absent(redis_server: Any, reader: Any, raw: bytes) -> None:
    made = reader(redis_server.url)
    redis.Redis.from_url(redis_server.url).set(made._store._begin("u" * 32), raw)
    site = site_of(made)
    reply = site.send(cookie=f"{made.cookie.name}={'u' * 32}")
    assert (reply.status, reply.said, reply.all("set-cookie")) == (200, {}, [])


def test_a_value_that_cannot_be_kept_stays_behind_and_is_named(caplog: Any) -> None:
    old = by_starlette("", {"user": "ada", "rate": float("nan"), "": 1})
    site = site_of(old.reader)
    assert site.send(cookie=old.cookie).said == {"user": "ada"}
    (said,) = [text for record in caplog.records if "came along" in (text := record.getMessage())]
    assert "'rate'" in said
    assert "''" in said


def test_what_is_beyond_the_bounds_is_left_where_it_is(redis_server: Any, caplog: Any) -> None:
    old = by_flask_session(redis_server.url, {"user": "ada", "much": "x" * 5000})
    site = site_of(old.reader, max_bytes=4096)
    assert site.send(cookie=old.cookie).said == {}
    assert old.keeps is not None
    assert old.keeps()
    assert "max_bytes" in caplog.text


def test_of_two_good_ones_none_is_meant_and_junk_beside_one_hides_nothing() -> None:
    one, other = by_starlette("", {"user": "ada"}), by_starlette("", {"user": "eve"})
    site = site_of(one.reader)
    assert site.send(cookie=f"{one.cookie}; {other.cookie}").said == {}
    assert site.send(cookie=f"session=junk; {one.cookie}; session=junk").said == {"user": "ada"}


def test_each_reader_is_asked_for_its_own() -> None:
    first, second = by_starlette("", {"user": "ada"}), LIBRARIES["flask"]("")
    site = site_of(first.reader, second.reader)
    assert site.send(cookie=first.cookie).said == {"user": "ada"}
    assert site.send(path="/whole", cookie=second.cookie).said == shown(second.data)


# --- a log-in goes on, and is not a fresh one


@over_both
def test_when_the_user_logged_in_is_not_known(old: Old, interface: str) -> None:
    site = timed_site(interface, endpoints=ENDPOINTS, adopt=[old.reader])
    assert site.send(path="/fresh", cookie=old.cookie).said == "not fresh"


# --- forged requests


def test_where_our_cookie_may_be_withheld_nothing_is_taken_over() -> None:
    # The old one was SameSite=None, ours is Lax, and there may be one.
    old = by_starlette("")
    site = site_of(old.reader, cookie_handler=CookieHandler("ours"), csrf=None)
    reply = site.send("POST", "/whole", ("sec-fetch-site", "cross-site"), cookie=old.cookie)
    assert (reply.said, reply.all("set-cookie")) == (shown({}), [])
    assert site.send("POST", "/write", ("sec-fetch-site", "cross-site"), cookie=old.cookie).status == 403
    assert site.send(path="/whole", cookie=old.cookie).said == shown(old.data)


# --- stores that fail, and requests that die


@over_both
def test_an_old_store_that_is_down_is_no_anonymous_visitor(interface: str, free_port: int) -> None:
    reader = StarsessionsRedis(f"redis://127.0.0.1:{free_port}")
    site = timed_site(interface, adopt=[reader])
    assert site.send(cookie=f"session={'a' * 32}").status == 503
    assert site.send().status == 200


STEPS = ("look 1", "set 1", "set 2", "end 1", "merge 1", "look 2", "get 1")
MOMENTS = [(step, is_made) for step in STEPS for is_made in (False, True)]
# The old session was taken over, and no answer told the browser of it.
TAKEN_UNHEARD = [("merge 1", True), ("look 2", False), ("look 2", True)]


@pytest.mark.parametrize("later", [0.0, 7200.0])
@pytest.mark.parametrize("moment", MOMENTS, ids=str)
def test_who_dies_between_two_steps_leaves_nothing_undone(moment: tuple[str, bool], later: float) -> None:
    steps: list[str] = []
    sessions = {"12345678": {"user": "ada"}}

    def step(name: str) -> Iterator[None]:
        steps.append(name)
        count = steps.count(name)
        if (f"{name} {count}", False) == moment:
            raise StoreError("the process died")
        yield
        if (f"{name} {count}", True) == moment:
            raise StoreError("the process died")

    class Mortal(Watched):
        async def _ask(self, call: Any, key: str, *rest: Any, **options: Any) -> Any:
            with contextmanager(step)(self.calls[-1]):
                return await super()._ask(call, key, *rest, **options)

    class Kept(Reader):
        def key(self, value: str) -> str:
            return value

        async def read(self, key: str) -> Any:
            return sessions.get(key)

        async def end(self, key: str) -> None:
            with contextmanager(step)("end"):
                sessions.pop(key, None)

    site = timed_site("wsgi", wrap=Mortal, adopt=[Kept("old", 1_000_000)], max_age=100_000)
    browser = Browser(site, "old=12345678")
    assert browser.get().status == 503
    site.clock.advance(later)
    assert browser.get().said == ({} if later and moment in TAKEN_UNHEARD else {"user": "ada"})
    assert sessions == {}
    # Once, if the answer that it was done was heard.
    assert site.events.count("adopted") == (moment != ("merge 1", True))


# --- the cookie, and what it costs


def test_the_old_cookie_goes_where_it_has_another_name(redis_server: Any) -> None:
    data = {"user": "ada"}
    old = by_starlette("", data)
    reader = StarletteCookie(SECRET, CookieHandler("old", path="/shop", domain="shop.example"))
    site = site_of(reader)
    reply = site.send(cookie=f"old={old.cookie.partition('=')[2]}")
    assert reply.said == data
    gone, ours = reply.all("set-cookie")
    assert gone.startswith("old=; Domain=shop.example; Path=/shop; Max-Age=0")
    assert ours.startswith("session=")


def test_one_of_the_same_name_is_written_over_and_goes_where_it_lies_elsewhere() -> None:
    old = by_starlette("")
    (header,) = site_of(old.reader).send(cookie=old.cookie).all("set-cookie")
    assert is_credential(header.partition(";")[0])
    elsewhere = StarletteCookie(SECRET, CookieHandler("session", domain="shop.example"))
    gone, ours = site_of(elsewhere).send(cookie=old.cookie).all("set-cookie")
    assert gone.startswith("session=; Domain=shop.example; Path=/; Max-Age=0")
    assert is_credential(ours.partition(";")[0])


def test_who_brings_no_old_cookie_or_a_living_one_of_ours_pays_nothing() -> None:
    old = by_starlette("")
    store = Watched()
    site = site_of(old.reader, store=store, cookie_handler=CookieHandler("our-session"))
    site.send(path="/whole")
    assert store.calls == []
    browser = Browser(site)
    browser.post("/write", body=b"x")
    store.calls.clear()
    browser.get("/whole")
    mine = list(store.calls)
    store.calls.clear()
    assert site.send(path="/whole", cookie=f"{old.cookie}; {browser.cookie}").said == shown({"note": "x"})
    assert store.calls == mine


def test_where_no_cookie_can_be_set_it_is_an_error_and_nothing_is_taken() -> None:
    old = by_starlette("")
    sessions = Sessions(adopt=[old.reader])

    async def read() -> Any:
        with pytest.raises(NoResponseError):
            await sessions.get_session_data(scope_of(cookie=old.cookie))
        response = Response()
        data = await sessions.get_session_data(scope_of(cookie=old.cookie), response)
        assert is_credential(response.headers["set-cookie"].partition(";")[0])
        return data

    assert asyncio.run(read()) == old.data


def test_a_socket_that_is_watched_is_no_place_to_take_over() -> None:
    old = by_starlette("")
    sessions = Sessions(adopt=[old.reader])

    async def ask(cookie: str) -> bool:
        return await sessions.is_alive(scope_of(cookie=cookie))

    assert asyncio.run(ask(old.cookie)) is False
    # Nor with a cookie of ours that is dead beside it; one that lives does.
    assert asyncio.run(ask(f"session={'a' * 64}; {old.cookie}")) is False
    browser = Browser(Site("asgi", session_store=sessions.store, csrf=None))
    browser.post("/write", body=b"x")
    assert asyncio.run(ask(f"{browser.cookie}; {old.cookie}")) is True


def test_a_client_that_blocks_is_asked_in_a_thread(redis_server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    old = by_flask_session(redis_server.url)
    client = redis.Redis.from_url(redis_server.url)
    threads = set()
    get_connection = type(client.connection_pool).get_connection

    def noted(pool: Any, *arguments: Any) -> Any:
        if pool is client.connection_pool:
            threads.add(threading.get_ident())
        return get_connection(pool, *arguments)

    monkeypatch.setattr(type(client.connection_pool), "get_connection", noted)
    site = timed_site("asgi", endpoints=ENDPOINTS, adopt=[FlaskSessionRedis(client)])
    assert site.send(path="/whole", cookie=old.cookie).said == shown(old.data)
    # On the loop it would have kept everybody else waiting.
    assert threads
    assert threading.get_ident() not in threads
    client.close()


def test_over_a_store_that_is_sealed(redis_server: Any) -> None:
    for library in LIBRARIES.values():
        old = library(redis_server.url)
        site = site_of(old.reader, codec=EncryptedCodec([bytes(range(32))]))
        assert {site.send(path="/whole", cookie=old.cookie).said for _ in range(3)} == {shown(old.data)}
        assert site.events == ["adopted"]


@pytest.mark.parametrize("given", [StarletteCookie, "flask", object()])
def test_what_is_no_reader_is_refused(given: Any) -> None:
    with pytest.raises(ConfigurationError, match="adopt is a list of readers"):
        Sessions(adopt=[given])


def test_a_store_that_evicts_would_forget_what_was_taken() -> None:
    store = Watched()
    store.evicts = True
    with pytest.raises(ConfigurationError, match="evicts"):
        Sessions(session_store=store, adopt=[by_starlette("").reader])


# --- a reader of one's own


def test_a_reader_of_ones_own_is_a_few_lines() -> None:
    class Headerless(Reader):
        def key(self, value: str) -> str | None:
            return value if len(value) == 8 else None

        async def read(self, key: str) -> Any:
            return json.loads('{"user": "ada"}') if key == "12345678" else None

    reader = Headerless("old", 3600)
    site = site_of(reader)
    assert site.send(cookie="old=12345678").said == {"user": "ada"}
    assert site.send(cookie="old=87654321").said == {}
    assert drive(reader.end("12345678")) is None


def test_bearers_of_a_key_that_is_one_visitor_s_get_one_session_without_a_log_in_too() -> None:
    class Kept(Reader):
        def key(self, value: str) -> str:
            return value

        async def read(self, key: str) -> Any:
            return {"cart": [1]}

    site = site_of(Kept("old", 3600))
    first, second = Browser(site, "old=12345678"), Browser(site, "old=12345678")
    assert first.get().said == second.get().said == {"cart": [1]}
    assert is_credential(first.cookie)
    assert first.cookie == second.cookie


def _of_flask_session(key: Any) -> Reader:
    return FlaskSessionRedis(redis.Redis(), key)


@pytest.mark.parametrize("read", [StarletteCookie, FlaskCookie, lambda key: FlaskCookie(["k", key]), _of_flask_session])
def test_a_key_that_is_empty_is_refused_for_with_it_anybody_could_sign(read: Callable[[Any], object]) -> None:
    with pytest.raises(ConfigurationError, match=r"^secret_key .* not empty"):
        read("")


@pytest.mark.parametrize("read", [StarletteCookie, FlaskCookie])
def test_a_key_that_is_not_set_is_refused_and_not_taken_for_the_text_none(read: Callable[[Any], object]) -> None:
    with pytest.raises(ConfigurationError, match=r"^secret_key "):
        read(None)


@pytest.mark.parametrize("key", [[], [None], [5], 5, {}])
def test_what_is_no_key_is_refused(key: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"^secret_key "):
        FlaskCookie(key)


def test_a_cookie_that_is_not_named_is_refused() -> None:
    nothing: Any = None
    with pytest.raises(ConfigurationError, match=r"^cookie is the name of the library's cookie"):
        DjangoSessions(cookie=nothing)

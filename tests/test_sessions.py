import asyncio
import logging
import math
import re
import sys
import traceback
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.responses import Response

import server_session
from server_session import (
    CSRF,
    ConfigurationError,
    CookieHandler,
    CookieTransport,
    FileSessionStore,
    MemorySessionStore,
    NotConfiguredError,
    SerializationError,
    Sessions,
    SessionStore,
    Signal,
    _sessions,
    configure,
    sync,
)
from server_session._sessions import RENEW_ON, chosen, configured
from server_session._tokens import Credential
from server_session._urls import open_store
from server_session.adopt import StarletteCookie
from server_session.asgi import SessionMiddleware
from server_session.csrf.decorators import csrf_protect
from server_session.http.requests import AsgiRequest
from server_session.kernel.presence import ResponseState
from server_session.stores.memcached import MemcachedSessionStore
from server_session.stores.next_server_session import NextServerSessionRedisStore
from server_session.stores.redis import RedisSessionStore
from server_session.stores.sql import SQLSessionStore
from tests.asgi_client import scope_of
from tests.visitors import Clock

MINUTES = 60.0
DAYS = 24 * 60 * MINUTES
STORE = MemorySessionStore()


@pytest.fixture(autouse=True)
def unconfigured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_sessions, "_configured", None)


class Stranger:
    """A store that somebody wrote without our base class, with the parts that the contract names."""

    colour = MemorySessionStore.colour
    max_age = None
    evicts = False

    def __init__(self) -> None:
        store = MemorySessionStore()
        self.id, self.get, self.set = store.id, store.get, store.set
        self.merge, self.destroy = store.merge, store.destroy


# --- lifetimes


@pytest.mark.parametrize(
    "configured_age,store_age,idle",
    [
        (None, None, 30 * MINUTES),
        (None, 600, 600.0),
        (None, timedelta(days=2), 2 * DAYS),
        (60, None, 60.0),
        (60, 600, 60.0),
        (7200, 600, 7200.0),
        (0.5, 600, 0.5),
        (timedelta(minutes=10), 7200, 600.0),
        # timedelta.seconds is 0 for whole days.
        (timedelta(days=1), 600, DAYS),
        (timedelta(days=1, milliseconds=500), None, DAYS + 0.5),
    ],
)
def test_what_configure_says_of_the_idle_time_wins_over_the_store_and_that_over_30_minutes(
    configured_age, store_age, idle
):
    sessions = configure(session_store=MemorySessionStore(max_age=store_age), max_age=configured_age)
    assert sessions.policy.lifetime_of().idle == idle


@pytest.mark.parametrize("given_age", [600, timedelta(minutes=10)])
async def test_a_session_expires_by_the_idle_time_that_won(given_age):
    clock = Clock()
    sessions = Sessions(session_store=MemorySessionStore(max_age=7200, clock=clock), max_age=given_age, clock=clock)
    response = Response()

    await sessions.set_session_data(scope_of(), response, {"a": 1})
    cookie = response.headers["set-cookie"].partition(";")[0]
    for _ in range(3):
        clock.advance(599)
        assert await sessions.get_session_data(scope_of(cookie=cookie)) == {"a": 1}
    clock.advance(601)
    assert await sessions.get_session_data(scope_of(cookie=cookie)) == {}


@pytest.mark.parametrize(
    "said,remaining",
    [
        ({}, 30 * DAYS),
        ({"absolute_max_age": None}, None),
        ({"absolute_max_age": 3600}, 3600.0),
        ({"absolute_max_age": timedelta(days=7)}, 7 * DAYS),
    ],
)
def test_the_deadline_is_30_days_unless_another_or_none_is_set(said, remaining):
    assert Sessions(**said).policy.lifetime_of().remaining == remaining


@pytest.mark.parametrize("setting", ["max_age", "absolute_max_age"])
@pytest.mark.parametrize(
    "value",
    [
        *(0, -1, -0.5, math.nan, math.inf, -math.inf, True, False, timedelta(0), timedelta(seconds=-1)),
        *("600", b"600", [600], Decimal(600), 1j, 10**99),
    ],
)
def test_a_lifetime_that_is_no_positive_number_of_seconds_is_refused_by_its_name(setting, value):
    with pytest.raises(ConfigurationError) as caught:
        Sessions(**{setting: value})
    assert str(caught.value).startswith(f"{setting} must be a positive number of seconds or a timedelta")
    assert repr(value) in str(caught.value)
    assert isinstance(caught.value, ValueError)


async def application(*_: object) -> None:
    """Serve nothing."""


@pytest.mark.parametrize("value", ["false", 5, [], math.nan])
@pytest.mark.parametrize(
    "make,setting",
    [
        (lambda **given: FileSessionStore("sessions", **given), "durable"),
        (lambda **given: RedisSessionStore("redis://127.0.0.1", **given), "blocking"),
        (lambda **given: SQLSessionStore("sqlite:///sessions.db", **given), "create_table"),
        (csrf_protect, "strict"),
        (csrf_protect, "every_method"),
        (lambda **given: SessionMiddleware(application, **given), "autoload"),
    ],
)
def test_what_is_neither_true_nor_false_nor_a_function_is_refused_where_it_is_given(
    make, setting, value, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigurationError, match=rf"\b{setting}\b") as caught:
        make(**{setting: value})
    assert repr(value) in str(caught.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("value", [None, 5, b"shop", ["shop"], "\ud800", "sh\0p"])
@pytest.mark.parametrize(
    "make,setting",
    [
        (lambda **given: RedisSessionStore("redis://127.0.0.1", **given), "prefix"),
        (lambda **given: MemcachedSessionStore("memcached://127.0.0.1", **given), "prefix"),
    ],
)
def test_a_prefix_that_is_no_text_is_refused(make, setting, value):
    with pytest.raises(ConfigurationError, match=rf"\b{setting}\b"):
        make(**{setting: value})


HUGE = 10**5000
LONG = "x" * 100_000


@pytest.mark.parametrize("value", [HUGE, LONG, [[LONG]]], ids=["huge", "long", "list"])
@pytest.mark.parametrize(
    "make,setting,named",
    [
        *((Sessions, name, name) for name in ("max_age", "origin", "renew_on", "csrf", "cookie_handler", "clock")),
        *((CookieHandler, name, name) for name in ("path", "domain", "secure", "same_site", "max_age")),
        *((CSRF, name, name) for name in ("mode", "token_age", "single_use", "page")),
        (CookieHandler, "name", "a cookie cannot be named"),
        (CSRF, "trusted_origins", "trusted origin"),
    ],
)
def test_however_long_what_was_given_is_the_error_names_the_setting_and_is_short(make, setting, named, value):
    with pytest.raises(ConfigurationError, match=named) as caught:
        make(**{setting: value})
    assert len(str(caught.value)) < 500


async def test_a_key_that_is_a_number_too_long_to_write_is_refused():
    with pytest.raises(SerializationError, match="session key a number of thousands of digits: the key is of type int"):
        await Sessions().set_session_data(scope_of(), Response(), {HUGE: 1})


def test_an_origin_of_any_length_shows_no_password():
    for filler in ("", "x" * 200):
        with pytest.raises(ConfigurationError, match="origin with a password in it") as caught:
            Sessions(origin=f"https://ada:secret{filler}@shop.example")
        assert "secret" not in str(caught.value)


@given(st.floats(min_value=1e-3, max_value=1e9) | st.integers(1, 10**9) | st.timedeltas(timedelta(milliseconds=1)))
def test_any_positive_duration_is_a_lifetime(duration):
    seconds = duration.total_seconds() if isinstance(duration, timedelta) else duration
    sessions = Sessions(session_store=STORE, max_age=duration, absolute_max_age=duration)
    assert sessions.policy.lifetime_of() == (seconds, seconds)


async def test_the_age_of_the_cookie_is_the_cookie_handler_s_alone():
    for handler, age in ((None, ""), (CookieHandler(max_age=timedelta(days=1)), "Max-Age=86400")):
        response = Response()
        await Sessions(cookie_handler=handler, max_age=60).set_session_data(scope_of(), response, {"a": 1})
        cookie = response.headers["set-cookie"]
        assert age in cookie
        assert ("Max-Age" in cookie) == bool(age)


# --- the store


def test_by_default_the_store_is_this_process_s_memory_and_each_has_its_own():
    one, other = Sessions(), Sessions()
    assert type(one.store) is type(other.store) is MemorySessionStore
    assert one.store is not other.store


def test_a_store_is_given_as_it_is_or_by_its_url(tmp_path):
    store = MemorySessionStore()
    assert Sessions(session_store=store).store is store
    assert type(Sessions(session_store="memory:").store) is MemorySessionStore
    by_url = Sessions(session_store=f"file:{tmp_path}").store
    assert type(by_url) is FileSessionStore


@pytest.mark.parametrize(
    "url",
    [
        "REDIS://127.0.0.1/0",
        "Rediss://127.0.0.1/0",
        "UNIX:///run/redis.sock",
        "Next-Server-Session+REDIS://127.0.0.1/0",
        "MEMCACHED://127.0.0.1",
        "SQLITE:///sessions.db",
        "PostgreSQL+Psycopg://shop@db/shop",
    ],
)
def test_a_scheme_may_be_written_in_capitals(url):
    assert type(open_store(url)) is type(open_store(url.lower()))


@pytest.mark.parametrize(
    "make,url",
    [
        (RedisSessionStore, "REDIS://127.0.0.1/0"),
        (RedisSessionStore, "Unix:///run/redis.sock"),
        (NextServerSessionRedisStore, "REDISS://127.0.0.1/0"),
        (SQLSessionStore, "PostgreSQL+Psycopg://shop@db/shop"),
        (MemcachedSessionStore, "MEMCACHED://127.0.0.1"),
    ],
)
def test_a_store_that_is_made_directly_takes_a_scheme_in_capitals_too(make, url):
    assert make(url).colour is make(url.lower()).colour


@pytest.mark.parametrize("character", ["\0", "\n", "\r", "\x1b", "\ud800"])
@pytest.mark.parametrize(
    "url",
    [
        "redis://ada:secret@127.0.0.1{}/0",
        "redis://ada:secret{}@127.0.0.1/0",
        "sqlite:///sessions.db{}",
        "postgresql+psycopg://ada:secret{}@db/shop",
        "memcached://127.0.0.1{}",
        "file:sessions{}",
    ],
)
def test_a_url_with_a_character_that_cannot_be_seen_is_refused_and_not_shown(url, character):
    with pytest.raises(ConfigurationError, match="a character that cannot be seen") as caught:
        open_store(url.format(character))
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("url", ["memory:shop", "memory:///shop", "memory://ada:secret@db", "memory:#shop"])
def test_the_url_of_a_store_in_memory_that_says_more_is_refused(url):
    with pytest.raises(ConfigurationError, match="memory: and no more") as caught:
        open_store(url)
    assert "secret" not in str(caught.value)


async def test_the_directory_of_a_file_store_is_in_its_url_however_it_is_written(tmp_path: Path):
    strange = tmp_path / "with blank"
    for url in (f"file:{strange}", f"file://{strange}", f"FILE:{str(strange).replace(' ', '%20')}"):
        response = Response()
        await Sessions(session_store=url).set_session_data(scope_of(), response, {"a": 1})
    assert strange.is_dir()
    assert [entry.name for entry in tmp_path.iterdir()] == ["with blank"]


@pytest.mark.parametrize(
    "url,says",
    [
        ("", "known for what was given: a URL begins with one of"),
        ("redis", "known for what was given: a URL begins with one of"),
        ("postgres://db/shop", "scheme 'postgres': .*, postgresql, "),
        ("/var/lib/sessions", "write 'file:/var/lib/sessions'"),
        ("gopher://shop.example", "scheme 'gopher'"),
        ("file:", "needs a directory"),
        ("file://", "needs a directory"),
    ],
)
def test_a_url_that_names_no_store_is_refused_and_says_which_there_are(url, says):
    with pytest.raises(ConfigurationError, match=says) as caught:
        configure(session_store=url)
    assert "file:" in says or "needs a directory" in says or "file, mariadb, memcached, memory" in str(caught.value)


@pytest.mark.parametrize(
    "url", ["memory:?max_sessions=5", "file:/var/lib/sessions?max_sessions=5", "memory:?max_sessions"]
)
def test_a_parameter_that_a_url_cannot_have_is_refused_by_name(url):
    with pytest.raises(ConfigurationError, match="'max_sessions'"):
        configure(session_store=url)


@pytest.mark.parametrize("scheme", ["_base", "_packed", "sql", "", "..file", "os"])
def test_a_scheme_that_is_no_stores_imports_nothing(scheme):
    with pytest.raises(ConfigurationError, match="no store is known"):
        configure(session_store=f"{scheme}:anything")


@pytest.mark.parametrize(
    "url", ["postgresql+psycopg://shop:p@ss:w0rd@db/shop", "POSTGRESQL+psycopg://shop:p@ss:w0rd@db/shop"]
)
def test_a_url_with_a_password_that_cannot_be_read_is_refused_and_shows_nothing_of_it(url):
    with pytest.raises(ConfigurationError, match="cannot be read") as caught:
        configure(session_store=url)
    assert "w0rd" not in "".join(traceback.format_exception(caught.value))


def test_a_url_is_not_repeated_for_it_may_hold_a_password():
    with pytest.raises(ConfigurationError) as caught:
        configure(session_store="gopher://ada:secret@shop.example/0")
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("store", [5, {}, [], object(), MemorySessionStore, SessionStore, b"memory:", lambda: None])
def test_what_is_no_store_is_refused_and_says_what_a_store_has(store):
    with pytest.raises(ConfigurationError, match=r"a store has id, get, .*RedisSessionStore\(client\)"):
        Sessions(session_store=store)


@pytest.mark.parametrize("part,wrong", [("colour", None), ("colour", "blocks"), ("max_age", None)])
def test_a_store_that_lacks_its_colour_or_its_max_age_is_refused(part, wrong):
    parts = {name: getattr(Stranger(), name) for name in ("id", "get", "set", "merge", "destroy", "colour", "max_age")}
    del parts[part]
    store = SimpleNamespace(**parts, **({part: wrong} if wrong else {}))
    with pytest.raises(ConfigurationError, match="a Colour as colour, and max_age"):
        Sessions(session_store=store)  # type: ignore[arg-type]


async def test_a_store_needs_none_of_our_classes_only_the_parts_of_the_contract():
    response = Response()
    sessions = Sessions(session_store=Stranger())  # type: ignore[arg-type]
    assert await sessions.set_session_data(scope_of(), response, {"a": 1}) is True


# --- the origin


@pytest.mark.parametrize(
    "origin,name,secure",
    [
        (None, "session", None),
        ("https://shop.example", "__Host-session", True),
        ("https://shop.example:8443", "__Host-session", True),
        ("https://[::1]:8443", "__Host-session", True),
        (["https://shop.example", "https://shop.example.org"], "__Host-session", True),
        (("https://shop.example",), "__Host-session", True),
        ({"https://shop.example"}, "__Host-session", True),
        ("http://localhost:8000", "session", False),
        (["http://localhost", "http://127.0.0.1:8000"], "session", False),
    ],
)
def test_the_cookie_s_name_and_secure_follow_from_the_origin(origin, name, secure):
    cookie = Sessions(origin=origin).cookie
    assert isinstance(cookie, CookieHandler)
    assert (cookie.name, cookie.secure) == (name, secure)


@pytest.mark.parametrize(
    "origin,says",
    [
        ("shop.example", "write a scheme and a host"),
        ("//shop.example", "write a scheme and a host"),
        ("", "write a scheme and a host"),
        ("null", "write a scheme and a host"),
        ("ftp://shop.example", "write a scheme and a host"),
        ("https://", "write a scheme and a host"),
        ("https:shop.example", "write a scheme and a host"),
        ("https://:443", "write it as browsers do"),
        ("https://shop.example/", "no slash at its end"),
        ("https://shop.example/basket", "no path"),
        ("https://shop.example?a=1", "query"),
        ("https://shop.example#top", "path, query or user"),
        ("https://ada@shop.example", "user"),
        ("https://ada:secret@shop.example", "user"),
        ("https://shop.example,https://shop.example.org/", "no path"),
        (["https://shop.example", "shop.example.org"], "'shop.example.org': write a scheme"),
        (["https://shop.example", "http://shop.example"], "all https or all http"),
    ],
)
def test_an_origin_that_is_none_is_refused_and_says_how_to_write_it(origin, says):
    with pytest.raises(ConfigurationError, match=says):
        configure(origin=origin)


def test_an_origin_that_the_cookie_cannot_go_with_is_refused():
    with pytest.raises(ConfigurationError, match="secure=False and the origin is https"):
        Sessions(origin="https://shop.example", cookie_handler=CookieHandler(secure=False))
    with pytest.raises(ConfigurationError, match="the origin is http"):
        Sessions(origin="http://shop.example", cookie_handler=CookieHandler("__Host-session"))


async def test_with_an_https_origin_the_cookie_is_secure_even_where_the_request_is_http():
    response = Response()
    await Sessions(origin="https://shop.example").set_session_data(scope_of(), response, {"a": 1})
    assert response.headers["set-cookie"].startswith("__Host-session=")
    assert "; Secure" in response.headers["set-cookie"]


@pytest.mark.parametrize("scheme,secure", [("http", False), ("https", True)])
async def test_without_an_origin_the_request_s_own_scheme_decides(scheme, secure):
    response = Response()
    await Sessions().set_session_data(scope_of(scheme=scheme), response, {"a": 1})
    assert ("; Secure" in response.headers["set-cookie"]) == secure


@pytest.mark.parametrize("settings", [{"origin": "http://shop.example"}, {}])
async def test_a_proxy_that_ends_tls_is_warned_of_only_where_no_origin_says_how_it_is(settings, caplog):
    scope = scope_of()
    scope["headers"].append((b"x-forwarded-proto", b"HTTPS, http"))
    with caplog.at_level(logging.WARNING):
        await Sessions(**settings).set_session_data(scope, Response(), {"a": 1})
    assert ("end TLS" in caplog.text) == (not settings)


@pytest.mark.parametrize(
    "scheme,said,times", [("http", b"https", 1), ("http", b"http", 0), ("https", b"https", 0), ("wss", b"https", 0)]
)
async def test_a_proxy_is_warned_of_once_where_it_says_https_of_a_request_that_is_not(scheme, said, times, caplog):
    sessions = Sessions()
    for _ in range(2):
        scope = scope_of(scheme=scheme)
        scope["headers"].append((b"x-forwarded-proto", said))
        await sessions.set_session_data(scope, Response(), {"a": 1})
    assert caplog.text.count("end TLS") == times


# --- the other settings


class ByHeader(CookieTransport):
    """A transport of one's own, as an application for phones would bring it."""

    def read(self, request):
        return [value.decode("latin-1") for value in request.header_values(b"x-session")]

    def write(self, request, value, lifetime):
        return [(b"x-session", value.encode())]

    def destroy(self, request):
        return [(b"x-session", b"")]


async def test_a_transport_of_one_s_own_carries_the_credential_as_it_will():
    sessions = Sessions(cookie_handler=ByHeader())

    response = Response()
    await sessions.set_session_data(scope_of(), response, {"a": 1})
    assert "set-cookie" not in response.headers
    scope = scope_of()
    scope["headers"].append((b"x-session", response.headers["x-session"].encode()))
    assert await sessions.get_session_data(scope) == {"a": 1}
    farewell = Response()
    await sessions.destroy_session(scope, farewell)
    assert farewell.headers["x-session"] == ""


def test_what_a_transport_reads_that_is_no_credential_is_no_session():
    scope = scope_of()
    scope["headers"] += [(b"x-session", b"short"), (b"x-session", b"\xff" * 64)]
    sessions = Sessions(cookie_handler=ByHeader())
    assert sessions.exchange(AsgiRequest.of(scope)).stored.has_cookie is False


@pytest.mark.parametrize("handler", ["sid", 5, {}, object(), MemorySessionStore(), CookieHandler])
def test_what_is_no_cookie_handler_is_refused(handler):
    with pytest.raises(ConfigurationError, match=re.escape(f"subclass of CookieTransport, not {handler!r}")):
        Sessions(cookie_handler=handler)


def test_the_keys_that_mean_log_in_are_those_of_the_frameworks_unless_others_are_set():
    of_packages = {"_user_id", "_auth_user_id", "auth.userid", "identity.id", "AIOHTTP_SECURITY"}
    assert Sessions().policy.renew_on == set(RENEW_ON) == {"user", "user_id", *of_packages}
    assert Sessions(renew_on=["account"]).policy.renew_on == {"account"}
    assert Sessions(renew_on=()).policy.renew_on == set()


def test_one_key_alone_as_renew_on_is_refused_for_its_letters_would_be_the_keys():
    for keys in ("user", b"user", [5]):
        with pytest.raises(ConfigurationError, match=r"as in \('user',\)"):
            Sessions(renew_on=keys)


def test_keys_or_readers_that_can_be_gone_through_once_are_refused_for_a_look_would_leave_none():
    # Without a key that means log-in, whoever planted the cookie before it would share what follows.
    for keys in (iter(["user"]), 5, None):
        with pytest.raises(ConfigurationError, match=r"^renew_on is a collection of keys"):
            Sessions(renew_on=keys)  # type: ignore[arg-type]
    for readers in (iter([StarletteCookie("secret")]), StarletteCookie("secret"), None):
        with pytest.raises(ConfigurationError, match=r"^adopt is a list of readers"):
            Sessions(adopt=readers)  # type: ignore[arg-type]


@pytest.mark.parametrize("setting,given", [("clock", None), ("clock", 5), ("on_signal", "note"), ("on_signal", 5)])
def test_what_is_no_function_is_refused_by_its_setting(setting, given):
    with pytest.raises(ConfigurationError, match=f"^{setting} is a function, not {given!r}$"):
        Sessions(**{setting: given})


def test_an_unknown_setting_is_an_error_that_names_it():
    with pytest.raises(ConfigurationError, match="'maxage': it is spelt `max_age`"):
        configure(maxage=600)  # type: ignore[call-arg]


async def test_signals_of_a_session_s_life_come_to_the_callback_and_name_no_selector():
    seen: list[Signal] = []
    sessions = Sessions(on_signal=seen.append)
    response = Response()

    await sessions.set_session_data(scope_of(), response, {"a": 1})
    cookie = response.headers["set-cookie"].partition(";")[0]
    scope = scope_of(cookie=cookie)
    await sessions.renew_session(scope, response)
    await sessions.destroy_session(scope, response)
    assert [signal.event for signal in seen] == ["created", "renewed", "destroyed"]
    credential = Credential.parse(cookie.partition("=")[2])
    assert credential is not None
    assert all(credential.selector[:6] not in signal.session for signal in seen)
    assert len({signal.session for signal in seen}) == 1


# --- the default, and sessions of one's own


def test_a_function_before_configure_is_an_error_that_says_what_to_call():
    async def awaiting() -> None:
        await server_session.get_session_data(scope_of())

    for call in (lambda: asyncio.run(awaiting()), lambda: sync.get_session_data(scope_of()), configured):
        with pytest.raises(NotConfiguredError, match=r"`server_session\.configure\(\)`"):
            call()


async def test_both_modules_serve_what_was_configured_last():
    first = configure()
    assert sync.configure is configure
    second = configure(max_age=60)
    assert configured() is second is not first
    scope, response = scope_of(), Response()
    assert sync.set_session_data(scope, response, {"a": 1}) is True
    assert await server_session.get_session_data(scope) == {"a": 1}
    assert await second.get_session_data(scope) == {"a": 1}
    assert await first.get_session_data(scope) == {}


def test_a_setting_that_is_refused_leaves_the_default_as_it_was():
    before = configure()
    with pytest.raises(ConfigurationError):
        configure(max_age=0)
    assert configured() is before


def test_sessions_of_one_s_own_are_nothing_to_the_default():
    mine = Sessions()
    with pytest.raises(NotConfiguredError):
        configured()
    response = Response()
    assert mine.sync.set_session_data(scope_of(), response, {"a": 1}) is True
    cookie = response.headers["set-cookie"].partition(";")[0]
    assert mine.sync.get_session_data(scope_of(cookie=cookie)) == {"a": 1}
    assert Sessions().sync.get_session_data(scope_of(cookie=cookie)) == {}


def test_one_request_has_one_exchange_of_each_sessions():
    one, other = Sessions(), Sessions()
    request = AsgiRequest.of(scope_of())
    assert one.exchange(request) is one.exchange(AsgiRequest.of(request.slots)) is not other.exchange(request)
    assert one.exchange(request).stored.response is ResponseState.ABSENT


def test_a_middleware_takes_sessions_or_settings_or_neither():
    sessions = Sessions()
    assert chosen(sessions, {}) is sessions
    assert chosen(None, {}) is None
    own = chosen(None, {"max_age": 60})
    assert own is not None
    assert own.policy.idle == 60
    with pytest.raises(ConfigurationError, match=r"\(max_age\), not both"):
        chosen(sessions, {"max_age": 60})
    with pytest.raises(ConfigurationError, match="not 'MemorySessionStore'"):
        chosen(MemorySessionStore(), {})  # type: ignore[arg-type]


@pytest.mark.parametrize("secure_handler", [CookieHandler("sid"), CookieHandler("sid", secure=True)])
def test_a_handler_given_to_two_applications_is_changed_by_neither(secure_handler):
    before = (secure_handler.name, secure_handler.secure)
    Sessions(cookie_handler=secure_handler, origin="https://shop.example")
    assert (secure_handler.name, secure_handler.secure) == before


@pytest.mark.parametrize(
    "origin",
    [
        "HTTPS://shop.example",
        " https://shop.example",
        "https://shop.example\n",
        "https://Shop.Example",
        "https://shöp.example",
        "https://shop example",
        "https://shop.example:99999",
        "https://shop.example:0443",
        "https://shop.example?",
        "https://shop.example#",
        "https://[::1",
        5,
        ["https://shop.example", 5],
        b"https://shop.example",
    ],
)
def test_an_origin_that_no_browser_sends_so_is_refused_and_never_makes_a_cookie_without_secure(origin):
    with pytest.raises(ConfigurationError, match="origin"):
        Sessions(origin=origin)


@pytest.mark.parametrize(
    "keyword,says",
    [
        ("maxAge", "it is spelt `max_age`"),
        ("sessionStore", "it is spelt `session_store`"),
        ("secret_key", "leave it out"),
        ("https_only", "give origin"),
        ("session_cookie", "CookieHandler"),
        ("colour", "it takes absolute_max_age, adopt, clock, codec"),
    ],
)
def test_an_unknown_setting_is_refused_with_what_to_write_instead(keyword, says):
    for make in (Sessions, configure, lambda **settings: SessionMiddleware(None, **settings)):
        with pytest.raises(ConfigurationError, match=f"{keyword}.*{says}"):
            make(**{keyword: 1})


def test_a_missing_driver_is_named_with_the_extra_that_brings_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "redis", None)
    for name in [name for name in sys.modules if name.startswith("server_session.stores.redis")]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(ConfigurationError, match=r"not installed.*\[redis\]"):
        configure(session_store="redis://127.0.0.1/0")

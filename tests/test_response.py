import asyncio
import logging
import pickle
from collections import UserDict
from collections.abc import Awaitable, Callable
from email.message import Message
from typing import Any

import pytest
from django.http import HttpResponse
from hypothesis import given
from hypothesis import strategies as st
from starlette.responses import Response
from werkzeug.wrappers import Response as WerkzeugResponse

from server_session import CookieHandler, Sessions
from server_session.http.frameworks import MultiDictHeaders
from server_session.http.requests import AsgiRequest
from server_session.http.responses import (
    AsgiHeaders,
    ResponseHeaders,
    WsgiHeaders,
    headers_of,
    never_store,
    register_response,
    vary_on,
    write_answer,
)
from tests.asgi_client import scope_of

Pairs = list[tuple[str, str]]


class Bearer:
    """A response that bears the standard library's headers."""

    def __init__(self) -> None:
        self.headers = Message()


register_response(Bearer, lambda response: MultiDictHeaders(response.headers, "get_all", "add_header"))


def asgi(pairs: Pairs) -> ResponseHeaders:
    return AsgiHeaders([(name.encode("latin-1"), value.encode("latin-1")) for name, value in pairs])


def starlette(pairs: Pairs) -> ResponseHeaders:
    response = Response()
    for name, value in pairs:
        response.headers.append(name, value)
    return headers_of(response)


def werkzeug(pairs: Pairs) -> ResponseHeaders:
    response = WerkzeugResponse()
    for name, value in pairs:
        response.headers.add(name, value)
    return headers_of(response)


def message(pairs: Pairs) -> ResponseHeaders:
    response = Bearer()
    for name, value in pairs:
        response.headers[name] = value
    return headers_of(response)


def django_response() -> HttpResponse:
    return HttpResponse(b"", content_type="text/plain; charset=utf-8")


def django(pairs: Pairs) -> ResponseHeaders:
    response = django_response()
    for name, value in pairs:
        response.headers[name] = value
    return headers_of(response)


SEVERAL: dict[str, Callable[[Pairs], ResponseHeaders]] = {
    "ASGI": asgi,
    "WSGI": WsgiHeaders,
    "Starlette": starlette,
    "Werkzeug": werkzeug,
    "email": message,
}
"""Headers that can hold a name several times."""

ALL = SEVERAL | {"Django": django}


@pytest.fixture(params=ALL)
def make(request: pytest.FixtureRequest) -> Callable[[Pairs], ResponseHeaders]:
    return ALL[request.param]


@pytest.fixture(params=SEVERAL)
def make_several(request: pytest.FixtureRequest) -> Callable[[Pairs], ResponseHeaders]:
    return SEVERAL[request.param]


def sent(response: HttpResponse) -> list[str]:
    """The Set-Cookie headers that Django's handlers send."""
    return [cookie.OutputString() for cookie in response.cookies.values()]


# --- headers


def test_a_header_is_found_and_dropped_whatever_the_case_of_its_name(make):
    headers = make([("X-Shop", "1"), ("Vary", "Accept")])
    assert headers.all("x-shop") == ["1"]
    headers.drop("x-shop")
    headers.drop("x-absent")
    assert headers.all("x-shop") == headers.all("x-absent") == []
    assert headers.all("vary") == ["Accept"]


def test_every_value_of_a_header_is_found_in_order_and_one_is_added_beside_them(make_several):
    headers = make_several([("Link", "</a>"), ("X-Shop", "1"), ("link", "</b>")])
    headers.add("link", "</c>")
    assert headers.all("link") == ["</a>", "</b>", "</c>"]
    headers.drop("link")
    assert headers.all("link") == []
    assert headers.all("x-shop") == ["1"]


def test_a_cookie_is_added_beside_others_and_never_over_them(make):
    headers = make([])
    for value in ("theme=dark; Path=/", "session=1; Path=/", "session=; Path=/b; Max-Age=0"):
        headers.add("set-cookie", value)
    assert headers.all("set-cookie") == ["theme=dark; Path=/", "session=1; Path=/", "session=; Path=/b; Max-Age=0"]


def test_the_application_s_own_headers_are_not_changed_in_place():
    given, raw = [("Vary", "Accept")], [(b"Vary", b"Accept")]
    headers = WsgiHeaders(given), AsgiHeaders(raw)
    for one in headers:
        one.add("set-cookie", "a=1")
        vary_on(one, "Cookie")
    assert headers[0].raw == [("Set-Cookie", "a=1"), ("Vary", "Accept, Cookie")]
    assert given == [("Vary", "Accept")]
    assert raw == [(b"Vary", b"Accept")]


def test_a_wsgi_header_is_written_as_is_usual_and_an_asgi_header_in_lower_case():
    wsgi, asgi = WsgiHeaders([]), AsgiHeaders([])
    wsgi.add("set-cookie", "a=1")
    asgi.add("set-cookie", "a=1")
    assert wsgi.raw == [("Set-Cookie", "a=1")]
    assert asgi.raw == [(b"set-cookie", b"a=1")]


def test_headers_that_raise_for_what_is_absent_are_read_as_well():
    class Multi(UserDict[str, list[str]]):
        """As aiohttp's headers do it."""

        def getall(self, name: str) -> list[str]:
            return self.data[name]

        def add(self, name: str, value: str) -> None:
            self.data.setdefault(name, []).append(value)

    response = Bearer()
    response.headers = Multi()  # type: ignore[assignment]
    headers = MultiDictHeaders(response.headers, "getall", "add")
    assert headers.all("vary") == []
    vary_on(headers, "Cookie")
    assert headers.all("vary") == ["Cookie"]


# --- Django's response, whose cookies stand apart


def test_django_sends_our_cookies_as_they_were_written_beside_its_own():
    response = django_response()
    response.set_cookie("theme", "dark", httponly=True)
    ours = ["session=" + "A" * 64 + "; Path=/; Secure; HttpOnly; SameSite=Lax; Partitioned", "session=; Path=/b"]
    for value in ours:
        headers_of(response).add("set-cookie", value)
    assert sent(response) == ["theme=dark; HttpOnly; Path=/", *ours]
    assert response.cookies["session"].value == "A" * 64


def test_a_django_response_with_our_cookie_can_be_pickled_and_copied_as_a_cache_does():
    response = django_response()
    headers_of(response).add("set-cookie", "session=1; Path=/; SameSite=Lax")
    again = pickle.loads(pickle.dumps(response))  # noqa: S301 - what Django's cache middleware does
    assert sent(again) == ["session=1; Path=/; SameSite=Lax"]


def test_of_a_django_response_all_cookies_can_be_dropped():
    response = django_response()
    response.set_cookie("theme", "dark")
    headers_of(response).drop("set-cookie")
    assert sent(response) == []


# --- a cookie in the place of one that was added before


def cookies_of(*values: str) -> list[tuple[bytes, bytes]]:
    return [(b"set-cookie", value.encode()) for value in values]


def test_a_later_cookie_takes_the_place_of_the_one_that_this_session_added_before(make):
    headers = make([])
    headers.add("set-cookie", "theme=dark")
    write_answer(headers, cookies_of("session=1; Path=/"))
    write_answer(headers, cookies_of("session=2; Path=/"), cookies_of("session=1; Path=/"))
    assert headers.all("set-cookie") == ["theme=dark", "session=2; Path=/"]


def test_what_others_set_under_our_name_stays(make):
    headers = make([])
    headers.add("set-cookie", "session=theirs; Path=/")
    write_answer(headers, cookies_of("session=1; Path=/"))
    write_answer(headers, cookies_of("session=2; Path=/"), cookies_of("session=1; Path=/"))
    assert headers.all("set-cookie") == ["session=theirs; Path=/", "session=2; Path=/"]


def test_the_same_cookie_again_is_still_one_and_none_takes_it_back(make):
    headers = make([])
    once = cookies_of("session=1; Path=/", "session=; Path=/b; Max-Age=0")
    write_answer(headers, once)
    write_answer(headers, once, once)
    assert headers.all("set-cookie") == [value.decode() for _, value in once]
    write_answer(headers, [], once)
    assert headers.all("set-cookie") == []


def test_what_is_to_be_taken_back_from_another_response_is_looked_for_in_vain(make):
    headers = make([])
    headers.add("set-cookie", "theme=dark")
    write_answer(headers, cookies_of("session=2"), cookies_of("session=1"))
    assert headers.all("set-cookie") == ["theme=dark", "session=2"]


def test_a_header_of_a_transport_s_own_is_replaced_too(make):
    headers = make([])
    write_answer(headers, [(b"x-session", b"1")])
    write_answer(headers, [(b"x-session", b"2")], [(b"x-session", b"1")])
    assert headers.all("x-session") == ["2"]


# --- the whole answer


def test_an_answer_joins_what_the_application_said_of_its_response(make):
    headers = make([("Vary", "Accept"), ("Cache-Control", "public, no-transform"), ("X-Shop", "1")])
    write_answer(headers, cookies_of("session=1", "session=; Path=/b"), vary=b"Cookie, Origin", is_private=True)
    assert headers.all("set-cookie") == ["session=1", "session=; Path=/b"]
    assert headers.all("vary") == ["Accept, Cookie, Origin"]
    assert headers.all("cache-control") == ["private, no-store, no-transform"]
    assert headers.all("x-shop") == ["1"]


def test_an_answer_that_bears_no_cookie_and_no_token_leaves_caching_to_the_application(make):
    headers = make([("Cache-Control", "max-age=60")])
    write_answer(headers)
    assert headers.all("cache-control") == ["max-age=60"]
    assert headers.all("vary") == ["Cookie"]


def test_a_response_of_a_subclass_is_set_as_its_nearest_base_was_registered_last():
    class First(Bearer):
        pass

    class Second(First):
        pass

    seen = []
    assert headers_of(Second()).all("vary") == []
    register_response(First, lambda response: seen.append(response) or WsgiHeaders([("Vary", "Accept")]))
    assert headers_of(Second()).all("vary") == ["Accept"]
    assert headers_of(Bearer()).all("vary") == []
    assert len(seen) == 1


# --- Vary


@pytest.mark.parametrize(
    "given_value,result",
    [
        (None, "Cookie"),
        ("", "Cookie"),
        ("Accept", "Accept, Cookie"),
        ("Accept, Accept-Language", "Accept, Accept-Language, Cookie"),
        ("Accept ,,Origin,", "Accept, Origin, Cookie"),
        ("Cookie", "Cookie"),
        ("cookie", "cookie"),
        ("Accept, COOKIE", "Accept, COOKIE"),
        ("X-Cookie", "X-Cookie, Cookie"),
        ("*", "*"),
        ("Accept, *", "Accept, *"),
        ("Accept, , Origin", "Accept, Origin, Cookie"),
    ],
)
def test_the_cookie_joins_what_the_response_varies_on(make, given_value, result):
    headers = make([] if given_value is None else [("Vary", given_value)])
    for _ in range(2):
        vary_on(headers, "Cookie")
        assert headers.all("vary") == [result]


def test_several_vary_headers_become_one(make_several):
    headers = make_several([("Vary", "Accept"), ("vary", "Origin, Accept-Language")])
    vary_on(headers, "Cookie")
    assert headers.all("vary") == ["Accept, Origin, Accept-Language, Cookie"]


def test_several_vary_headers_of_which_one_has_the_cookie_stay(make_several):
    headers = make_several([("Vary", "Accept"), ("Vary", "Cookie")])
    vary_on(headers, "Cookie")
    assert headers.all("vary") == ["Accept", "Cookie"]


# --- Cache-Control


@pytest.mark.parametrize(
    "given_value,result,warned",
    [
        (None, "private, no-store", None),
        ("", "private, no-store", None),
        ("no-store", "private, no-store", None),
        ("private, no-store", "private, no-store", None),
        ("PRIVATE", "private, no-store", None),
        ("max-age=60", "private, no-store", None),
        ("max-age=60, immutable", "private, no-store", None),
        ("no-cache", "private, no-store, no-cache", None),
        ('no-cache="Set-Cookie, X-Token", max-age=60', "private, no-store, no-cache", None),
        ("no-transform, must-revalidate", "private, no-store, no-transform, must-revalidate", None),
        ("public", "private, no-store", "public"),
        ("Public, max-age=60", "private, no-store", "public"),
        ("s-maxage=60", "private, no-store", "s-maxage"),
        ("S-MaxAge = 60, no-transform", "private, no-store, no-transform", "s-maxage"),
        ("max-age=1, stale-while-revalidate=60", "private, no-store", "stale-while-revalidate"),
        ("stale-if-error=60, proxy-revalidate", "private, no-store", "proxy-revalidate, stale-if-error"),
    ],
)
def test_what_bears_a_cookie_or_a_token_is_kept_by_no_cache(make, given_value, result, warned, caplog):
    headers = make([] if given_value is None else [("Cache-Control", given_value)])
    with caplog.at_level(logging.WARNING, "server_session"):
        never_store(headers)
        assert headers.all("cache-control") == [result]
        never_store(headers)
    assert headers.all("cache-control") == [result]
    assert [record.getMessage() for record in caplog.records] == (
        [] if warned is None else [CACHE_WARNING.format(warned)]
    )


CACHE_WARNING = "a response that carries a session's cookie or token was marked for shared caches ({}): taken out"


@pytest.mark.parametrize(
    "name", ["CDN-Cache-Control", "Surrogate-Control", "Cloudflare-CDN-Cache-Control", "Vercel-CDN-Cache-Control"]
)
def test_what_is_said_to_one_cdn_alone_is_taken_out_with_a_warning(make, name, caplog):
    headers = make([(name, "max-age=60"), ("X-Shop", "1")])
    with caplog.at_level(logging.WARNING, "server_session"):
        never_store(headers)
    assert headers.all(name.lower()) == []
    assert headers.all("x-shop") == ["1"]
    assert headers.all("cache-control") == ["private, no-store"]
    assert [record.getMessage() for record in caplog.records] == [CACHE_WARNING.format(name.lower())]


def test_several_cache_control_headers_become_one(make_several):
    headers = make_several([("Cache-Control", "no-cache"), ("cache-control", "public, no-transform")])
    never_store(headers)
    assert headers.all("cache-control") == ["private, no-store, no-cache, no-transform"]


@given(
    st.lists(st.text("pubrivate no-scme=\"60',", max_size=20) | st.sampled_from(["public", "s-maxage=1", "private"]))
)
def test_whatever_the_application_said_no_shared_cache_may_keep_it(values):
    headers = asgi([("cache-control", value) for value in values])
    never_store(headers)
    (value,) = headers.all("cache-control")
    names = [directive.partition("=")[0].strip().lower() for directive in value.split(",")]
    assert names[:2] == ["private", "no-store"]
    assert not {"public", "s-maxage", "max-age"} & set(names)


# --- when which of them is said


def answered(step: Callable[[Sessions, Any], Awaitable[Any]], cookie: bool = True) -> AsgiHeaders:
    """The headers of a response to a request that takes this step, with a cookie of a live session or without."""
    sessions = Sessions()
    headers = AsgiHeaders([(b"cache-control", b"max-age=60")])

    async def scenario() -> None:
        scope, first = scope_of(), Response()
        if cookie:
            await sessions.set_session_data(scope, first, {"a": 1})
            scope = scope_of(cookie=first.headers["set-cookie"].partition(";")[0])
        await step(sessions, scope)
        sessions.exchange(AsgiRequest.of(scope)).answer(headers)

    asyncio.run(scenario())
    return headers


@pytest.mark.parametrize("cookie", [True, False])
def test_a_request_that_leaves_its_session_alone_changes_no_header(cookie):
    async def nothing(_: Sessions, scope: Any) -> None:
        pass

    assert answered(nothing, cookie).raw == [(b"cache-control", b"max-age=60")]


@pytest.mark.parametrize("cookie", [True, False])
@pytest.mark.parametrize(
    "step",
    [
        lambda sessions, scope: sessions.get_session_data(scope),
        lambda sessions, scope: sessions.pluck_session_property(scope, "absent"),
        lambda sessions, scope: sessions.update_session_data(scope, lambda _: None),
        lambda sessions, scope: sessions.validate_csrf_token(scope, "A" * 70),
    ],
)
def test_what_only_reads_varies_on_the_cookie_and_may_be_kept_by_the_browser(step, cookie):
    headers = answered(step, cookie)
    assert headers.all("vary") == ["Cookie"]
    assert headers.all("cache-control") == ["max-age=60"]
    assert headers.all("set-cookie") == []


@pytest.mark.parametrize(
    "step",
    [
        lambda sessions, scope: sessions.set_session_data(scope, Response(), {"b": 2}),
        lambda sessions, scope: sessions.replace_session_data(scope, Response(), {"b": 2}),
        lambda sessions, scope: sessions.log_in(scope, Response(), "ada"),
        lambda sessions, scope: sessions.renew_session(scope, Response(), data={"b": 2}),
    ],
)
def test_what_sets_a_cookie_varies_on_it_and_is_kept_by_no_cache(step):
    headers = answered(step, cookie=False)
    assert headers.all("vary") == ["Cookie"]
    assert headers.all("cache-control") == ["private, no-store"]
    assert len(headers.all("set-cookie")) == 1


def test_what_expires_the_cookie_varies_on_it_and_is_kept_by_no_cache():
    headers = answered(lambda sessions, scope: sessions.destroy_session(scope))
    assert headers.all("vary") == ["Cookie"]
    assert headers.all("cache-control") == ["private, no-store"]
    assert "Max-Age=0" in headers.all("set-cookie")[0]


def test_what_bears_a_token_varies_on_the_cookie_and_is_kept_by_no_cache_though_no_cookie_is_set():
    headers = answered(lambda sessions, scope: sessions.get_csrf_token(scope))
    assert headers.all("vary") == ["Cookie"]
    assert headers.all("cache-control") == ["private, no-store"]
    assert headers.all("set-cookie") == []


def test_where_several_cookies_came_the_rivals_are_expired_before_ours_is_set():
    sessions = Sessions(cookie_handler=CookieHandler("sid"))
    scope = scope_of("/basket", cookie="sid=" + "A" * 64 + "; sid=" + "B" * 64)
    response = Response()
    asyncio.run(sessions.set_session_data(scope, response, {"a": 1}))
    *rivals, ours = response.headers.getlist("set-cookie")
    assert ours.startswith("sid=")
    assert "Max-Age" not in ours
    assert rivals
    assert all(rival.startswith("sid=;") and "; Max-Age=0" in rival for rival in rivals)
    assert any("; Domain=shop.example;" in rival for rival in rivals)
    assert any("; Path=/basket;" in rival for rival in rivals)


def test_an_application_that_ends_our_cookie_as_it_ends_the_session_is_no_rival(caplog):
    sessions = Sessions()
    scope = scope_of("/leave", cookie="session=" + "A" * 64)
    response = Response()
    response.delete_cookie("session")
    asyncio.run(sessions.destroy_session(scope, response))
    assert len(response.headers.getlist("set-cookie")) == 2
    assert "something else" not in caplog.text
    response.delete_cookie("session")
    asyncio.run(sessions.get_session_data(scope, response))
    assert "something else" not in caplog.text


def test_an_application_that_ends_our_cookie_while_the_session_lives_is_a_rival_and_is_told_of_once(caplog):
    sessions = Sessions()
    response = Response()
    asyncio.run(sessions.set_session_data(scope_of("/"), response, {"a": 1}))
    cookie = response.headers["set-cookie"].partition(";")[0]
    for _ in range(2):
        response = Response()
        response.set_cookie("theme", "dark")
        response.delete_cookie("session")
        assert asyncio.run(sessions.get_session_data(scope_of("/read", cookie=cookie), response)) == {"a": 1}
    # Once, not at each request.
    assert caplog.text.count("something else in this application sets a cookie that is named session too") == 1

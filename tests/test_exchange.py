"""The steps of one request, each by itself."""

import asyncio
import logging
import threading
from typing import Any

import pytest
from werkzeug.test import create_environ
from werkzeug.wrappers import Response

from server_session import CSRF, CookieHandler, MemorySessionStore, Sessions
from server_session._colour import Colour
from server_session._record import ENDED
from server_session.adapters import (
    BytesBody,
    Exchange,
    StreamedBody,
    WsgiBody,
    WsgiHeaders,
    WsgiRequest,
    csrf_exempt,
    csrf_protect,
)
from server_session.adopt import StarletteCookie
from server_session.exceptions import (
    CookieWithheldError,
    NoResponseError,
    ResponseStartedError,
    SerializationError,
    StoreError,
)
from server_session.exchange import checked
from server_session.exchange.streams import astreamed
from server_session.http.carrier import current
from server_session.stores._base import Outcome
from server_session.testing import YieldingStore
from tests.visitors import Watched


class Reading(CookieHandler):
    """A cookie that counts how often it is read."""

    reads = 0

    def read(self, request: Any) -> list[str]:
        Reading.reads += 1
        return super().read(request)


@pytest.fixture
def store() -> Watched:
    return Watched()


@pytest.fixture
def sessions(store: Watched) -> Sessions:
    return Sessions(session_store=store)


def exchange_of(sessions: Sessions, **headers: str) -> Exchange:
    exchange = sessions.exchange(WsgiRequest.of(create_environ(headers=headers)))
    exchange.serve()
    return exchange


def answer(exchange: Exchange, *given: tuple[str, str], **options: Any) -> dict[str, str]:
    """Return the headers of the response."""
    headers = WsgiHeaders(given)
    exchange.answer(headers, **options)
    return dict(headers.raw)


def test_what_a_request_does_not_ask_for_is_not_made(store: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    # Other tests may have marked endpoints whose GET is checked.
    monkeypatch.setattr(checked, "marked_every_method", [])
    exchange = exchange_of(Sessions(session_store=store, cookie_handler=Reading()), Cookie="session=x")
    Reading.reads = 0
    assert not exchange.may_be_forged("GET")
    assert exchange.blocking.check() is None
    assert exchange.blocking.commit() is None
    assert answer(exchange) == {}
    assert (exchange.is_asked, Reading.reads, store.calls) == (False, 0, [])
    exchange.blocking.load()
    exchange.blocking.load()
    assert (exchange.is_asked, Reading.reads) == (True, 1)


def test_a_session_that_is_first_asked_for_after_the_start_gets_no_cookie(sessions: Sessions) -> None:
    exchange = exchange_of(sessions)
    answer(exchange)
    exchange.blocking.load()["a"] = 1
    with pytest.raises(ResponseStartedError):
        exchange.blocking.commit_late()


def test_who_serves_a_request_whose_response_has_started_sets_no_cookie_either(sessions: Sessions) -> None:
    exchange = exchange_of(sessions)
    answer(exchange)
    exchange.serve()
    with pytest.raises(ResponseStartedError):
        sessions.sync.set_session_data(exchange.request.slots, {"a": 1})


async def test_a_mapping_that_is_loaded_after_the_session_was_founded_has_what_it_was_founded_with(
    sessions: Sessions,
) -> None:
    exchange = exchange_of(sessions)
    assert await sessions.set_session_data(exchange.request.slots, {"a": 1})
    assert dict(await exchange.load()) == {"a": 1}


def test_another_response_may_take_the_place_of_one_that_was_answered(sessions: Sessions) -> None:
    exchange = exchange_of(sessions)
    exchange.blocking.load()["a"] = 1
    assert exchange.blocking.commit() is None
    (cookie,) = (value for name, value in answer(exchange).items() if name == "Set-Cookie")
    exchange.serve()
    assert answer(exchange)["Set-Cookie"] == cookie
    assert exchange.request.served == [sessions]


@pytest.mark.parametrize("is_asked", [False, True])
def test_a_response_in_the_place_of_one_that_was_answered_can_bear_a_new_cookie(
    sessions: Sessions, is_asked: bool
) -> None:
    exchange = exchange_of(sessions)
    if is_asked:
        exchange.blocking.load()
    answer(exchange)
    exchange.answer_anew()
    sessions.sync.set_session_data(exchange.request.slots, {"a": 1})
    assert "Set-Cookie" in answer(exchange)


async def test_a_store_that_blocks_never_does_so_on_the_loop_of_one_that_awaits() -> None:
    class Blocking(MemorySessionStore):
        colour = Colour.BLOCKS

        async def get(self, *given: Any) -> Any:
            threads.add(threading.get_ident())
            return await super().get(*given)

        async def set(self, *given: Any) -> Outcome:
            threads.add(threading.get_ident())
            return await super().set(*given)

    threads: set[int] = set()
    sessions = Sessions(session_store=Blocking())
    exchange = exchange_of(sessions, Cookie=COOKIE)
    (await exchange.load())["a"] = 1
    assert await exchange.commit() is None
    assert threads
    assert threading.get_ident() not in threads


def test_the_same_error_is_answered_once_however_often_it_is_given(
    sessions: Sessions, caplog: pytest.LogCaptureFixture
) -> None:
    exchange = exchange_of(sessions)
    error = StoreError("down")
    with caplog.at_level(logging.ERROR):
        assert exchange.refuse(error) is exchange.refuse(error)
    assert len(caplog.records) == 1
    assert exchange.refuse(StoreError("down again")) is exchange.refusal
    assert len(caplog.records) == 2


def test_an_application_s_page_for_a_refusal_gets_the_headers_of_ours(sessions: Sessions) -> None:
    exchange = exchange_of(sessions)
    exchange.refuse(StoreError("down"))
    assert answer(exchange, ("Cache-Control", "public"))["Cache-Control"] == "private, no-store"
    forged = sessions.exchange(WsgiRequest.of(create_environ(method="POST", headers={"Sec-Fetch-Site": "cross-site"})))
    assert forged.blocking.check() is not None
    headers = answer(forged, ("Vary", "Accept"), ("CSRF-Rejection", "csrf_other"), ("CDN-Cache-Control", "max-age=9"))
    assert headers == {
        "Vary": "Accept, Cookie, Origin, Sec-Fetch-Site",
        "Csrf-Rejection": "csrf_site",
        "Cache-Control": "private, no-store",
    }


async def test_what_is_written_to_a_mapping_that_was_given_up_is_logged_as_lost(
    sessions: Sessions, caplog: pytest.LogCaptureFixture
) -> None:
    exchange = exchange_of(sessions)
    session = await exchange.load()
    session["a"] = 1
    exchange.refuse(StoreError("down"))
    assert "is not stored" not in caplog.text
    session["b"] = 2
    assert "what was written to a session is not stored" in caplog.text


def test_a_method_that_an_override_makes_safe_brings_no_cookie_that_was_withheld() -> None:
    environ = create_environ(method="POST", headers={"Sec-Fetch-Site": "cross-site"})
    exchange = Sessions(csrf=None).exchange(WsgiRequest.of(environ))
    exchange.serve()
    environ["REQUEST_METHOD"] = "GET"
    exchange.blocking.load()["a"] = 1
    refusal = exchange.blocking.commit()
    assert refusal is not None
    assert (refusal.status, type(refusal.error)) == (403, CookieWithheldError)


def test_a_token_that_another_sites_request_could_not_have_owes_it_no_session() -> None:
    environ = create_environ(method="POST", headers={"Sec-Fetch-Site": "cross-site"})
    exchange = Sessions(csrf=None).exchange(WsgiRequest.of(environ))
    exchange.serve()
    with pytest.raises(CookieWithheldError):
        exchange.csrf_token()
    assert exchange.blocking.commit() is None


COOKIE = f"session={'A' * 64}"


def posted(sessions: Sessions, **headers: str) -> Exchange:
    exchange = sessions.exchange(WsgiRequest.of(create_environ(method="POST", headers=headers)))
    exchange.serve()
    return exchange


def test_a_request_that_has_passed_is_asked_again_only_by_who_asks_more(sessions: Sessions) -> None:
    exchange = posted(sessions, Cookie=COOKIE, **{"Sec-Fetch-Site": "same-origin"})
    sought: list[None] = []
    assert exchange.blocking.check() is None
    assert exchange.blocking.check(find=lambda: sought.append(None)) is None
    asked = exchange.blocking.check(endpoint=lambda: strict, find=lambda: sought.append(None))
    assert asked is not None
    assert sought == [None]


def test_what_was_refused_or_not_decided_has_not_passed(sessions: Sessions) -> None:
    def fail() -> None:
        raise ValueError("too many fields")

    refused = posted(sessions, **{"Sec-Fetch-Site": "cross-site"})
    assert refused.blocking.check() is not None
    assert refused.blocking.check() is not None
    undecided = posted(sessions, Cookie=COOKIE, **{"Sec-Fetch-Site": "same-origin"})
    for _ in range(2):
        with pytest.raises(ValueError, match="too many"):
            undecided.blocking.check(endpoint=lambda: strict, find=fail)
    asked_more = posted(sessions, Cookie=COOKIE, **{"Sec-Fetch-Site": "same-origin"})
    assert asked_more.blocking.check() is None
    for _ in range(2):
        assert asked_more.blocking.check(endpoint=lambda: strict) is not None
    exempt = posted(sessions, **{"Sec-Fetch-Site": "cross-site"})
    assert exempt.blocking.check(endpoint=lambda: hook) is None
    assert exempt.blocking.check() is not None


@csrf_protect(strict=True)
def strict() -> None: ...


@csrf_exempt
def hook() -> None: ...


def test_what_is_written_after_a_refusal_is_stored_as_ever(sessions: Sessions, store: Watched) -> None:
    first = exchange_of(sessions)
    first.blocking.load()["a"] = 1
    assert first.blocking.commit() is None
    cookie = answer(first)["Set-Cookie"].partition(";")[0]
    exchange = exchange_of(sessions, Cookie=cookie)
    exchange.refuse(StoreError("down"))
    store.calls.clear()
    exchange.blocking.load()["a"] = 2
    assert exchange.blocking.commit() is None
    assert exchange_of(sessions, Cookie=cookie).blocking.load() == {"a": 2}


def test_a_response_may_vary_on_a_session_that_was_not_asked_yet(sessions: Sessions) -> None:
    assert answer(exchange_of(sessions), varies=True) == {"Vary": "Cookie"}


def test_how_long_the_browser_keeps_the_cookie_is_the_adapter_s_to_say(sessions: Sessions) -> None:
    exchange = exchange_of(sessions)
    exchange.blocking.load()["a"] = 1
    assert exchange.blocking.commit() is None
    exchange.stored.keep_cookie(60, again=False)
    cookie = answer(exchange)["Set-Cookie"]
    assert "Max-Age=60" in cookie
    later = exchange_of(sessions, Cookie=cookie.partition(";")[0])
    later.blocking.load()
    later.stored.keep_cookie(90, again=False)
    assert "Set-Cookie" not in answer(later)
    later.stored.keep_cookie(90, again=True)
    assert "Max-Age=90" in answer(later)["Set-Cookie"]


def test_sessions_with_a_framework_s_settings_are_the_same_session(sessions: Sessions) -> None:
    adapted = sessions.adapted(60, {"name": "shop"})
    request = WsgiRequest.of(create_environ())
    exchange = adapted.exchange(request)
    exchange.serve()
    assert sessions.exchange(request) is exchange
    assert request.served == [sessions]
    assert sessions.sync.set_session_data(request.slots, {"a": 1})
    assert answer(exchange)["Set-Cookie"].startswith("shop=")


def test_a_streamed_body_knows_its_request_and_stores_what_it_changes(sessions: Sessions) -> None:
    exchange = exchange_of(sessions)
    session = exchange.blocking.load()
    session["n"] = 0
    assert exchange.blocking.commit() is None
    cookie = answer(exchange)["Set-Cookie"].partition(";")[0]

    def chunks() -> Any:
        try:
            for _ in range(3):
                assert current.get() is exchange.request
                session["n"] += 1
                yield b"x"
        finally:
            session["ended"] = current.get() is exchange.request

    whole = StreamedBody(chunks(), exchange.blocking)
    assert next(whole) == b"x"
    assert current.get() is None
    assert list(whole) == [b"x"] * 2
    assert exchange_of(sessions, Cookie=cookie).blocking.load() == {"n": 3, "ended": True}
    cut = StreamedBody(chunks(), exchange.blocking)
    next(cut)
    cut.close()
    assert exchange_of(sessions, Cookie=cookie).blocking.load() == {"n": 4, "ended": True}


async def test_a_streamed_body_that_is_awaited_does_so_too_be_it_whole_or_cut(sessions: Sessions) -> None:
    exchange = exchange_of(sessions)
    session = await exchange.load()
    session["n"] = 0
    assert await exchange.commit() is None
    cookie = answer(exchange)["Set-Cookie"].partition(";")[0]

    async def chunks() -> Any:
        try:
            for _ in range(3):
                assert current.get() is exchange.request
                session["n"] += 1
                yield b"x"
        finally:
            session["ended"] = current.get() is exchange.request

    whole = astreamed(chunks(), exchange)
    assert await anext(whole) == b"x"
    assert current.get() is None
    assert [chunk async for chunk in whole] == [b"x"] * 2
    assert await exchange_of(sessions, Cookie=cookie).load() == {"n": 3, "ended": True}
    cut: Any = astreamed(chunks(), exchange)
    session["ended"] = False
    await anext(cut)
    await cut.aclose()
    assert await exchange_of(sessions, Cookie=cookie).load() == {"n": 4, "ended": True}


def test_a_request_that_is_served_again_is_another_visit(sessions: Sessions) -> None:
    first = exchange_of(sessions)
    environ = first.request.slots
    sessions.sync.set_session_data(environ, {"a": 1})
    first.blocking.load()["b"] = 2
    assert first.blocking.commit() is None
    cookie = answer(first)["Set-Cookie"].partition(";")[0]
    first.leave()
    environ["HTTP_COOKIE"] = cookie
    again = sessions.exchange(WsgiRequest.of(environ))
    again.serve()
    assert dict(again.blocking.load()) == {"a": 1, "b": 2}
    again.leave()
    sessions.sync.set_session_data(environ, {"a": 3})
    again.serve()
    assert dict(again.blocking.load()) == {"a": 3, "b": 2}


def test_another_visit_knows_nothing_of_a_refusal(sessions: Sessions) -> None:
    exchange = posted(sessions, Cookie=COOKIE, **{"Sec-Fetch-Site": "cross-site"})
    assert exchange.blocking.check() is not None
    exchange.leave()
    exchange.serve()
    assert exchange.refusal is exchange.asked is None
    assert "csrf-rejection" not in {name.lower() for name in answer(exchange)}


def test_another_visit_is_within_no_other_that_is_over(sessions: Sessions, caplog: pytest.LogCaptureFixture) -> None:
    exchange = exchange_of(sessions)
    exchange.leave()
    exchange.serve()
    mapping = exchange.blocking.load()
    exchange.serve()
    assert exchange.blocking.load() is mapping
    mapping["a"] = 1
    assert "not stored" not in caplog.text


def test_a_session_is_new_unless_the_request_brought_it(sessions: Sessions) -> None:
    cookie = cookie_of(sessions)
    exchange = exchange_of(sessions, Cookie=cookie)
    exchange.blocking.load()
    assert not exchange.is_new
    sessions.sync.renew_session(exchange.request.slots)
    assert not exchange.is_new
    sessions.sync.log_in(exchange.request.slots, "ann")
    assert exchange.is_new
    stranger = exchange_of(sessions)
    sessions.sync.set_session_data(stranger.request.slots, {"a": 1})
    sessions.sync.renew_session(stranger.request.slots)
    assert stranger.is_new


async def test_a_session_that_a_cancelled_call_has_founded_is_new_too() -> None:
    sessions = Sessions(session_store=YieldingStore(MemorySessionStore()))
    exchange = exchange_of(sessions)
    call = asyncio.create_task(sessions.set_session_data(exchange.request.slots, {"a": 1}))
    # Until the store has it, and has not answered.
    for _ in range(2):
        await asyncio.sleep(0)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert await exchange.commit() is None
    assert await sessions.get_session_data(exchange.request.slots) == {"a": 1}
    assert exchange.is_new


def test_to_go_on_with_another_session_is_refused_where_it_would_push_out_a_cookie_that_was_withheld() -> None:
    sessions = Sessions(csrf=None)
    chosen = exchange_of(sessions, Cookie=cookie_of(sessions)).stored
    exchange = posted(sessions, **{"Sec-Fetch-Site": "cross-site"})
    with pytest.raises(CookieWithheldError):
        exchange.go_on_with(chosen)


def test_who_logs_out_ends_no_cookie_of_another_library_that_did_not_come() -> None:
    sessions = Sessions(adopt=[StarletteCookie("k" * 32, cookie="old")])
    exchange = exchange_of(sessions, Cookie=cookie_of(sessions))
    sessions.sync.destroy_session(exchange.request.slots)
    headers = WsgiHeaders(())
    exchange.answer(headers)
    assert [value.partition("=")[0] for name, value in headers.raw if name == "Set-Cookie"] == ["session"]


def test_who_serves_within_another_of_the_same_sessions_leaves_the_request_to_the_other(sessions: Sessions) -> None:
    exchange = exchange_of(sessions)
    exchange.serve()
    mapping = exchange.blocking.load()
    exchange.leave()
    mapping["a"] = 1
    assert exchange.blocking.commit() is None
    assert "Set-Cookie" in answer(exchange)
    assert exchange.blocking.load() is mapping


def test_after_the_last_has_left_a_new_cookie_is_an_error_unless_a_response_is_given(sessions: Sessions) -> None:
    exchange = exchange_of(sessions)
    exchange.leave()
    for write in (sessions.sync.set_session_data, lambda *given: sessions.sync.log_in(*given[:-1], "ann", given[-1])):
        with pytest.raises(ResponseStartedError):
            write(exchange.request.slots, {"a": 1})
    with pytest.raises(ResponseStartedError):
        sessions.sync.get_csrf_token(exchange.request.slots)
    response = Response()
    assert sessions.sync.set_session_data(exchange.request.slots, response, {"a": 1})
    assert "session=" in response.headers["Set-Cookie"]


def test_a_response_that_was_given_to_one_function_is_no_other_s(sessions: Sessions) -> None:
    cookie = cookie_of(sessions)
    exchange = exchange_of(sessions, Cookie=cookie)
    mapping = exchange.blocking.load()
    exchange.leave(is_at_hand=True)
    assert sessions.sync.set_session_data(exchange.request.slots, Response(), {"b": 2})
    mapping["user"] = "ann"
    with pytest.raises(NoResponseError):
        exchange.blocking.run(mapping.save)
    assert dict(exchange_of(sessions, Cookie=cookie).blocking.load()) == {"a": 1, "b": 2}


async def test_a_response_holds_for_its_function_whatever_is_asked_meanwhile() -> None:
    sessions, response = Sessions(session_store=YieldingStore(MemorySessionStore())), Response()
    environ = create_environ(headers={"Cookie": f"session={'A' * 64}"})
    calls = sessions.set_session_data(environ, response, {"a": 1}), sessions.get_session_data(environ)
    assert (await asyncio.gather(*calls))[0]
    assert "session=" in response.headers["Set-Cookie"]


async def test_a_response_given_to_a_function_that_outlasts_its_adapter_is_no_other_s() -> None:
    store = MemorySessionStore()
    sessions, cookie = Sessions(session_store=YieldingStore(store)), cookie_of(Sessions(session_store=store))
    exchange = exchange_of(sessions, Cookie=cookie)
    call = asyncio.create_task(sessions.set_session_data(exchange.request.slots, Response(), {"b": 2}))
    await asyncio.sleep(0)
    exchange.leave()
    assert await call
    with pytest.raises(ResponseStartedError):
        await sessions.renew_session(exchange.request.slots)
    assert await sessions.get_session_data(create_environ(headers={"Cookie": cookie})) == {"a": 1, "b": 2}


def test_a_response_gets_the_cookie_of_what_a_function_did_before_it_failed() -> None:
    class EndsNothing(MemorySessionStore):
        async def set(self, key: str, fields: Any, *rest: Any) -> Outcome:
            if ENDED in fields:
                raise StoreError("the store is down")
            return await super().set(key, fields, *rest)

    sessions = Sessions(session_store=EndsNothing())
    environ, response = create_environ(headers={"Cookie": cookie_of(sessions)}), Response()
    with pytest.raises(StoreError):
        sessions.sync.log_in(environ, response, "ann")
    cookie = response.headers["Set-Cookie"].partition(";")[0]
    assert sessions.sync.is_alive(create_environ(headers={"Cookie": cookie}))


def cookie_of(sessions: Sessions) -> str:
    """Return the cookie of a new session."""
    response = Response()
    assert sessions.sync.set_session_data(create_environ(), response, {"a": 1})
    return response.headers["Set-Cookie"].partition(";")[0]


def test_what_a_mapping_has_not_stored_at_the_end_is_said_once_and_so_is_what_comes_later(
    sessions: Sessions, caplog: pytest.LogCaptureFixture
) -> None:
    def lost() -> int:
        return sum("not stored" in record.message for record in caplog.records)

    exchange = exchange_of(sessions)
    mapping = exchange.blocking.load()
    mapping["items"] = []
    assert exchange.blocking.commit() is None
    answer(exchange)
    exchange.leave()
    assert lost() == 0
    mapping["late"] = 1
    mapping["later"] = 2
    assert lost() == 1
    # Nor does a mapping that is first looked at now hide it.
    for is_asked in (False, True):
        exchange = exchange_of(sessions)
        if is_asked:
            sessions.sync.get_session_data(exchange.request.slots)
        answer(exchange)
        exchange.leave()
        exchange.blocking.load()["late"] = 1
    assert lost() == 3
    # Nobody asked a request that failed what changed inside its values.
    failed = exchange_of(sessions)
    failed.blocking.load()["a"] = 1
    failed.leave()
    assert lost() == 4


async def test_one_that_awaits_finds_a_token_in_a_body_that_is_at_hand(sessions: Sessions) -> None:
    first = exchange_of(sessions)
    token = await sessions.get_csrf_token(first.request.slots)
    cookie = answer(first)["Set-Cookie"].partition(";")[0]
    for sent, status in ((token, None), ("forged", 403)):
        form = f"csrf_token={sent}".encode()
        environ = create_environ(method="POST", data=form, headers={"Cookie": cookie})
        environ["CONTENT_TYPE"] = "application/x-www-form-urlencoded"
        exchange = sessions.exchange(WsgiRequest.of(environ))
        exchange.serve()
        refusal = await exchange.check(BytesBody(form))
        assert (refusal and refusal.status) == status


@pytest.mark.parametrize("cookie", ["", "session=", f"session={'A' * 63}"])
def test_where_no_well_formed_credential_came_no_token_is_searched_for(sessions: Sessions, cookie: str) -> None:
    headers = {"Cookie": cookie, "Authorization": "Basic eDp5"}
    environ = create_environ(method="POST", data=b"csrf_token=any", headers=headers)
    environ["CONTENT_TYPE"] = "application/x-www-form-urlencoded"
    stream, sought = environ["wsgi.input"], list[None]()
    exchange = sessions.exchange(WsgiRequest.of(environ))
    exchange.serve()
    refusal = exchange.blocking.check(WsgiBody(environ), find=lambda: sought.append(None))
    assert refusal is not None
    assert refusal.rejection is not None
    assert refusal.rejection.code == "csrf_token_missing"
    assert sought == []
    assert environ["wsgi.input"] is stream
    assert stream.tell() == 0


def test_with_no_limit_to_spend_no_body_is_read(store: Watched) -> None:
    sessions = Sessions(session_store=store, csrf=CSRF(body_limit=0))
    first = exchange_of(sessions)
    form = f"csrf_token={sessions.sync.get_csrf_token(first.request.slots)}".encode()
    cookie = answer(first)["Set-Cookie"].partition(";")[0]
    environ = create_environ(method="POST", data=form, headers={"Cookie": cookie})
    environ["CONTENT_TYPE"] = "application/x-www-form-urlencoded"
    stream = environ["wsgi.input"]
    exchange = sessions.exchange(WsgiRequest.of(environ))
    exchange.serve()
    refusal = exchange.blocking.check(WsgiBody(environ))
    assert refusal is not None
    assert refusal.rejection is not None
    assert refusal.rejection.code == "csrf_token_missing"
    assert environ["wsgi.input"] is stream
    assert stream.tell() == 0


def test_a_body_that_can_bear_no_token_is_not_read(sessions: Sessions) -> None:
    environ = create_environ(method="POST", data=b"an upload", headers={"Cookie": COOKIE})
    environ["CONTENT_TYPE"] = "application/octet-stream"
    stream = environ["wsgi.input"]
    exchange = sessions.exchange(WsgiRequest.of(environ))
    exchange.serve()
    assert exchange.blocking.check(WsgiBody(environ)) is not None
    assert environ["wsgi.input"] is stream
    assert stream.tell() == 0


def test_where_sessions_of_another_library_are_taken_over_its_cookie_is_no_excuse_for_a_missing_token() -> None:
    sessions = Sessions(adopt=[StarletteCookie("secret", "old")])
    assert posted(sessions, Cookie="another=any").blocking.check() is None
    refusal = posted(sessions, Cookie="old=any").blocking.check()
    assert refusal is not None
    assert refusal.rejection is not None
    assert refusal.rejection.code == "csrf_token_missing"


def test_what_is_reported_and_not_refused_names_no_more_than_the_beginning_of_a_path(
    caplog: pytest.LogCaptureFixture,
) -> None:
    sessions = Sessions(csrf=CSRF(mode="report"))
    headers = {"Cookie": COOKIE, "Sec-Fetch-Site": "cross-site"}
    environ = create_environ(f"/{'a' * 5000}", method="POST", headers=headers)
    exchange = sessions.exchange(WsgiRequest.of(environ))
    exchange.serve()
    assert exchange.blocking.check() is None
    assert "'POST /aaa" in caplog.text
    assert len(caplog.messages[-1]) < 500


@pytest.mark.parametrize("blocks", [True, False])
def test_what_cannot_be_stored_is_given_up_once_it_was_said(sessions: Sessions, blocks: bool) -> None:
    exchange = exchange_of(sessions)
    exchange.blocking.load().update(a=1, b=object())
    with pytest.raises(SerializationError):
        _ = exchange.blocking.commit() if blocks else asyncio.run(exchange.commit())
    assert exchange.blocking.commit() is None
    assert "Set-Cookie" not in answer(exchange)


async def test_a_worker_thread_of_an_application_that_is_served_finds_the_way_back_to_its_loop() -> None:
    sessions = Sessions(session_store=YieldingStore(MemorySessionStore()))
    exchange = exchange_of(sessions)
    with exchange.serving():
        assert await asyncio.to_thread(lambda: sessions.sync.set_session_data({"a": 1}))
    assert await sessions.get_session_data(exchange.request.slots) == {"a": 1}

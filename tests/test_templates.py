"""What templates call, for callers that await and for those that block."""

import re
from collections.abc import Callable
from typing import Any

import pytest
from werkzeug.test import create_environ

from server_session import CSRF, Sessions
from server_session.adapters import BlockingExchange, Exchange, WsgiHeaders, WsgiRequest, template_functions
from server_session.exceptions import ColourError
from tests.visitors import Watched

EITHER_COLOUR = pytest.mark.parametrize("colour", [lambda exchange: exchange, lambda exchange: exchange.blocking])


@pytest.fixture
def store() -> Watched:
    return Watched()


@pytest.fixture
def sessions(store: Watched) -> Sessions:
    return Sessions(session_store=store)


def visited(sessions: Sessions, cookie: str = "") -> Exchange:
    """Return the exchange of a request with this cookie."""
    exchange = sessions.exchange(WsgiRequest.of(create_environ(headers={"Cookie": cookie} if cookie else None)))
    exchange.serve()
    return exchange


def answered(exchange: Exchange) -> str:
    """End a request, and return the cookie that it sets."""
    assert exchange.blocking.commit() is None
    headers = WsgiHeaders([])
    exchange.answer(headers)
    return "".join(header.partition(";")[0] for header in headers.all("set-cookie"))


def holds(sessions: Sessions, cookie: str, token: str, **scope: Any) -> bool:
    return sessions.sync.validate_csrf_token(visited(sessions, cookie).request.slots, token, **scope)


@EITHER_COLOUR
def test_a_token_of_a_visitor_without_a_session_founds_one_at_the_commit(
    sessions: Sessions, store: Watched, colour: Callable[[Exchange], Exchange | BlockingExchange]
) -> None:
    exchange = visited(sessions)
    functions = template_functions(lambda: colour(exchange))
    assert store.calls == []
    tokens = [functions["csrf_token"](), functions["csrf_token"](("POST", "/a b"))]
    assert store.calls == []
    cookie = answered(exchange)
    assert store.calls == ["set"]
    assert holds(sessions, cookie, tokens[0])
    assert holds(sessions, cookie, tokens[1], scope=("POST", "/a%20b"))
    assert not holds(sessions, cookie, tokens[1])


@EITHER_COLOUR
def test_a_token_of_a_session_that_was_loaded_asks_no_store(
    sessions: Sessions, store: Watched, colour: Callable[[Exchange], Exchange | BlockingExchange]
) -> None:
    first = visited(sessions)
    first.blocking.load()["a"] = 1
    cookie = answered(first)
    exchange = visited(sessions, cookie)
    exchange.blocking.load()
    store.calls.clear()
    token = template_functions(lambda: colour(exchange))["csrf_token"]()
    assert answered(exchange) == ""
    assert store.calls == []
    assert holds(sessions, cookie, token)


def test_where_the_store_has_to_be_asked_only_who_blocks_gets_a_token(sessions: Sessions, store: Watched) -> None:
    first = visited(sessions)
    first.blocking.load()["a"] = 1
    cookie = answered(first)
    store.calls.clear()
    exchange = visited(sessions, cookie)
    with pytest.raises(ColourError, match="await get_csrf_token"):
        template_functions(lambda: exchange)["csrf_token"]()
    assert store.calls == []
    assert holds(sessions, cookie, template_functions(lambda: exchange.blocking)["csrf_token"]())


def test_the_elements_bear_the_names_of_the_policy(store: Watched) -> None:
    exchange = visited(Sessions(session_store=store, csrf=CSRF(field="_token", header="X-Token")))
    functions = template_functions(lambda: exchange)
    assert 'name="_token"' in functions["csrf_input"]()
    assert 'data-header="X-Token" data-field="_token">' in functions["csrf_meta"]()
    assert functions["csrf_script"]("abc").startswith('<script nonce="abc">')


def test_without_a_policy_the_names_are_the_usual_ones(store: Watched) -> None:
    functions = template_functions(lambda: exchange)
    exchange = visited(Sessions(session_store=store, csrf=None))
    assert re.fullmatch(r'<input type="hidden" name="csrf_token" value="[\w-]{70}">', functions["csrf_input"]())

"""A lifetime for each session: "remember me", and how long the browser keeps the cookie."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from datetime import timedelta
from http.cookies import SimpleCookie
from pathlib import Path
from typing import Any

import flask
import pytest
from starlette.responses import Response

from server_session import ConfigurationError, CookieHandler, MemorySessionStore, NotFreshError, Sessions
from server_session._owners import OwnerIndex
from server_session._record import LIFE, Life
from server_session._tokens import Credential
from server_session.asgi import SessionMiddleware
from server_session.flask import ServerSession
from server_session.kernel.presence import ResponseState
from server_session.kernel.states import State
from server_session.kernel.stored import StoredSession
from server_session.stores._base import Outcome
from server_session.testing import YieldingStore
from tests.asgi_client import call, scope_of
from tests.visitors import STORES, Browser, Clock, Site, Watched, data_of, make_store, over_every_store, send

HOUR = 3600.0
DAY = 24 * HOUR


@pytest.fixture(params=STORES)
def site(request: pytest.FixtureRequest, tmp_path: Path) -> Site:
    clock = Clock()
    return Site(make_store(request.param, tmp_path, clock), clock, absolute=30 * DAY)


@pytest.fixture
def browser(site: Site) -> Browser:
    return Browser(site)


async def kept_for(browser: Browser, step: Callable[[StoredSession], Awaitable[Any]]) -> float | None:
    """Make a request that changes the cookie, and tell for how long the browser is to keep it."""
    visit = browser.request()
    await step(visit)
    await visit.commit()
    assert visit.changes_cookie
    browser.receive(visit)
    return visit.cookie_seconds


async def found(browser: Browser) -> None:
    await send(browser, lambda visit: visit.merge({"a": 1}))


def renewing(**asked: Any) -> Callable[[StoredSession], Awaitable[bool]]:
    return lambda visit: visit.renew(None, Life(**asked))


async def writes_to_user(visit: StoredSession) -> None:
    (await visit.load())["user"] = "ada"


async def clears_and_writes(visit: StoredSession) -> None:
    session = await visit.load()
    session.clear()
    session["user"] = "ada"


LATER_COOKIES: dict[str, Callable[[StoredSession], Awaitable[Any]]] = {
    "renewal": lambda visit: visit.renew(),
    "renewal with data": lambda visit: visit.renew({"b": 2}),
    "cycle_key": lambda visit: visit.renew({}),
    "renew_on": writes_to_user,
}
FOUNDED_ANEW: dict[str, Callable[[StoredSession], Awaitable[Any]]] = {
    "log_in": lambda visit: visit.replace({"user": "ada"}, "ada"),
    "replace": lambda visit: visit.replace({"a": 1}),
    "clear": clears_and_writes,
}


# --- the idle time


@pytest.mark.parametrize("idle", [600.0, 2 * HOUR, 10 * DAY])
async def test_a_session_lives_for_the_idle_time_that_its_renewal_asked_for(browser, idle):
    await found(browser)
    assert await send(browser, renewing(idle=idle)) is True
    for _ in range(2):
        browser.site.clock.advance(idle - 1)
        assert await data_of(browser) == {"a": 1}
    browser.site.clock.advance(idle + 1)
    assert await data_of(browser) == {}


@pytest.mark.parametrize("later", LATER_COOKIES)
async def test_the_idle_time_that_was_asked_for_holds_through_later_renewals(browser, later):
    await found(browser)
    await send(browser, renewing(idle=5 * DAY))
    await send(browser, LATER_COOKIES[later])
    browser.site.clock.advance(4 * DAY)
    assert await data_of(browser) != {}
    # To make the cookie last says nothing of the idle time.
    await send(browser, renewing(persistent=True))
    browser.site.clock.advance(4 * DAY)
    assert await data_of(browser) != {}


@pytest.mark.parametrize("anew", FOUNDED_ANEW)
async def test_what_is_founded_anew_keeps_nothing_of_what_was_asked_for_before(browser, anew):
    await found(browser)
    await send(browser, renewing(idle=5 * DAY, persistent=True))
    assert await kept_for(browser, FOUNDED_ANEW[anew]) is None
    browser.site.clock.advance(1801)
    assert await data_of(browser) == {}


# --- the deadline


@pytest.mark.parametrize("asked", [{"idle": 20 * DAY}, {"persistent": True}, {}])
async def test_no_renewal_moves_the_deadline_unless_it_says_so(browser, asked):
    browser.site.idle = 20 * DAY

    await found(browser)
    for _ in range(2):
        browser.site.clock.advance(12 * DAY)
        assert await send(browser, renewing(**asked)) is True
        assert await send(browser, lambda visit: visit.merge({"b": 1})) is True
    browser.site.clock.advance(6 * DAY - 1)
    # Written blind, and not brought beyond it.
    assert await send(browser, lambda visit: visit.merge({"b": 2})) is True
    browser.site.clock.advance(2)
    assert await data_of(browser) == {}


@pytest.mark.parametrize("absolute", [2 * DAY, 90 * DAY])
async def test_an_absolute_age_is_counted_from_the_founding(browser, absolute):
    browser.site.idle = 100 * DAY

    await found(browser)
    browser.site.clock.advance(DAY)
    assert await send(browser, renewing(absolute=absolute)) is True
    await send(browser, renewing(idle=99 * DAY))
    browser.site.clock.advance(absolute - DAY - 1)
    assert await send(browser, lambda visit: visit.merge({"b": 1})) is True
    browser.site.clock.advance(2)
    assert await data_of(browser) == {}


async def test_a_session_that_is_older_than_the_age_asked_for_ends_now(browser):
    browser.site.idle = 20 * DAY

    await found(browser)
    thief = browser.copy()
    browser.site.clock.advance(2 * DAY)
    assert await send(browser, renewing(absolute=DAY)) is False
    assert browser.received[-1] is None
    assert await data_of(thief) == {}


async def test_a_shorter_deadline_of_the_settings_ends_no_session_at_a_plain_renewal(browser):
    browser.site.idle = 20 * DAY

    await found(browser)
    browser.site.clock.advance(2 * DAY)
    browser.site.absolute = DAY
    assert await send(browser, renewing()) is True
    assert await data_of(browser) == {"a": 1}


# --- the browser


@pytest.mark.parametrize("later", [None, *LATER_COOKIES])
async def test_a_browser_keeps_a_persistent_cookie_for_what_is_left_to_the_deadline(browser, later):
    await found(browser)
    browser.site.clock.advance(1000)
    assert await kept_for(browser, renewing(idle=20 * DAY, persistent=True)) == 30 * DAY - 1000
    if later is not None:
        browser.site.clock.advance(10 * DAY)
        assert await kept_for(browser, LATER_COOKIES[later]) == 20 * DAY - 1000


async def test_without_a_deadline_a_browser_keeps_a_persistent_cookie_for_the_idle_time(browser):
    browser.site.absolute = None

    await found(browser)
    assert await kept_for(browser, renewing(persistent=True)) == 1800
    assert await kept_for(browser, renewing(idle=DAY)) == DAY
    assert await kept_for(browser, renewing(absolute=5 * DAY)) == 5 * DAY


async def test_a_cookie_that_persisted_can_go_back_to_one_that_ends_with_the_browser(browser):
    await found(browser)
    await send(browser, renewing(persistent=True))
    assert await kept_for(browser, renewing(persistent=False)) == 0
    assert await kept_for(browser, renewing()) == 0


async def test_a_session_that_was_asked_nothing_has_the_cookie_s_own_age(browser):
    await found(browser)
    assert await kept_for(browser, renewing()) is None
    assert await kept_for(browser, renewing(idle=DAY)) is None


async def test_what_was_asked_for_a_session_comes_before_what_its_framework_has_for_all(browser):
    await found(browser)
    visit = browser.request()
    await visit.renew(None, Life(persistent=True))
    visit.keep_cookie(0, again=False)
    assert visit.cookie_seconds == 30 * DAY
    browser.receive(visit)
    # It is sent again, as a framework does that restarts the browser's clock at each request.
    visit = browser.request()
    await visit.load()
    visit.keep_cookie(60, again=True)
    assert visit.cookie_seconds == 30 * DAY
    await visit.destroy()
    assert visit.cookie_seconds == 60


async def test_a_reset_in_place_keeps_what_was_asked_for(browser):
    await found(browser)
    await send(browser, renewing(idle=DAY, persistent=True))
    await send(browser, lambda visit: visit.replace({"form": 1}, in_place=True))
    browser.site.clock.advance(DAY - 1)
    assert await kept_for(browser, renewing()) == 29 * DAY + 1


# --- where there is no session


async def test_without_a_session_and_without_data_nothing_is_founded(browser):
    assert await send(browser, renewing(idle=DAY, persistent=True)) is False
    assert browser.received == []


async def test_a_session_founded_by_a_renewal_has_the_life_that_was_asked_for(browser):
    life = Life(DAY, 3 * DAY, persistent=True)
    assert await kept_for(browser, lambda visit: visit.renew({"a": 1}, life)) == 3 * DAY
    for _ in range(3):
        browser.site.clock.advance(DAY - 1)
        assert await data_of(browser) == {"a": 1}
    browser.site.clock.advance(4)
    assert await data_of(browser) == {}


async def test_a_renewal_asks_nothing_of_a_session_that_has_ended(browser):
    await found(browser)
    late = browser.copy()
    await send(browser, lambda visit: visit.destroy())
    assert await send(late, renewing(idle=DAY, persistent=True)) is False
    assert late.received == []


# --- what it costs


async def test_a_renewal_looks_only_where_this_request_has_not_seen_the_session(browser):
    store = Watched(browser.site.store)
    watched = Browser(browser.site.with_store(store))

    await found(watched)
    store.calls.clear()
    await send(watched, renewing(persistent=True))
    assert store.calls == ["look", "merge"]
    store.calls.clear()
    visit = watched.request()
    await visit.get()
    await visit.renew()
    await visit.renew(None, Life(DAY))
    watched.receive(visit)
    assert store.calls == ["get", "merge", "merge"]
    store.calls.clear()
    visit = watched.request()
    await visit.replace({"user": "ada"})
    await visit.renew(None, Life(DAY, persistent=True))
    assert store.calls == ["set", "set", "merge"]


# --- against others


@over_every_store
@pytest.mark.parametrize("first", [0, 1])
async def test_of_two_renewals_gathered_in_one_request_each_gets_what_it_asks_for(browser, first):
    await found(browser)
    visit = browser.request()
    both = [visit.renew(None, Life(idle=DAY)), visit.renew(None, Life(persistent=True))]
    assert await asyncio.gather(*(both[first], both[1 - first])) == [True, True]
    assert visit.cookie_seconds == 30 * DAY
    browser.receive(visit)
    browser.site.clock.advance(DAY - 1)
    assert await data_of(browser) == {"a": 1}


@over_every_store
async def test_a_renewal_among_first_writes_of_one_request_keeps_what_it_asks_for(browser):
    visit = browser.request()
    life = Life(DAY, persistent=True)
    assert all(await asyncio.gather(visit.merge({"a": 1}), visit.renew({"b": 2}, life), visit.merge({"c": 3})))
    assert visit.cookie_seconds == 30 * DAY
    browser.receive(visit)
    browser.site.clock.advance(DAY - 1)
    assert await data_of(browser) == {"a": 1, "b": 2, "c": 3}


@pytest.mark.parametrize("seed", range(30))
async def test_in_whatever_order_first_writes_are_heard_of_the_cookie_is_kept_for_as_long_as_was_asked(seed):
    clock = Clock()
    order = random.Random(seed).choices([0, 1, 2, 5, 12], k=200)
    browser = Browser(Site(YieldingStore(MemorySessionStore(clock=clock), order), clock))

    visit = browser.request()
    await asyncio.gather(visit.merge({"a": 1}), visit.renew({"b": 2}, Life(persistent=True)))
    assert visit.cookie_seconds == DAY
    browser.receive(visit)
    assert await data_of(browser) == {"a": 1, "b": 2}


async def test_a_renewal_that_was_overtaken_asks_nothing(browser):
    await found(browser)
    slow = browser.copy()
    visit = slow.request()
    await visit.load()
    await send(browser, renewing())
    assert await visit.renew(None, Life(DAY, persistent=True)) is False
    assert visit.state is State.OVER
    browser.site.clock.advance(1801)
    assert await data_of(browser) == {}


async def test_a_cancelled_renewal_leaves_the_browser_a_cookie_for_as_long_as_it_asked():
    class Slow(Watched):
        async def merge(self, key, changed, removed, expect, lifetime=None):
            outcome = await self.store.merge(key, changed, removed, expect, lifetime)
            await asyncio.sleep(0)
            return outcome

    browser = Browser(Site(Slow(), Clock()))
    await found(browser)
    visit = browser.request()
    task = asyncio.ensure_future(visit.renew(None, Life(persistent=True)))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await visit.commit()
    assert visit.cookie_seconds == DAY
    browser.receive(visit)
    assert await data_of(browser) == {"a": 1}


# --- an owner's list


@pytest.mark.parametrize("others", [0, 1])
async def test_a_session_that_was_given_a_later_deadline_does_not_outlive_its_owner_s_list(browser, others):
    site = browser.site
    site.idle = 200 * DAY

    await send(browser, FOUNDED_ANEW["log_in"])
    await send(browser, renewing(absolute=100 * DAY))
    for _ in range(others):
        site.clock.advance(DAY)
        await send(Browser(site), FOUNDED_ANEW["log_in"])
    site.clock.advance((100 - others) * DAY - 1)
    assert await data_of(browser) == {"user": "ada"}
    assert await OwnerIndex(site.policy, "ada").destroy() == 1
    assert await data_of(browser) == {}


async def test_nor_where_another_session_of_the_owner_is_given_an_earlier_one_after_it(browser):
    site = browser.site
    site.idle = 200 * DAY
    for one, days in ((browser, 100), (Browser(site), 50)):
        await send(one, FOUNDED_ANEW["log_in"])
        await send(one, renewing(absolute=days * DAY))
    site.clock.advance(100 * DAY - 1)
    assert await OwnerIndex(site.policy, "ada").destroy() == 1
    assert await data_of(browser) == {}


# --- the functions


def cookie_of(response: Response) -> Any:
    given = response.headers.getlist("set-cookie")
    assert len(given) == 1, given
    return SimpleCookie(given[0])["session"]


@pytest.mark.parametrize("blocking", [False, True])
def test_remember_me_is_a_log_in_and_a_renewal_and_one_cookie(blocking):
    clock = Clock()
    sessions = Sessions(session_store=MemorySessionStore(clock=clock), clock=clock)

    def function(name: str, *arguments: Any, **options: Any) -> Any:
        if blocking:
            return getattr(sessions.sync, name)(*arguments, **options)
        return asyncio.run(getattr(sessions, name)(*arguments, **options))

    scope, response = scope_of(), Response()
    assert function("log_in", scope, response, "ada", {"n": 1}) is True
    assert cookie_of(response)["max-age"] == ""
    asked = {"max_age": timedelta(days=20), "persistent": True}
    assert function("renew_session", scope, response, **asked) is True
    cookie = cookie_of(response)
    assert cookie["max-age"] == str(30 * 24 * 60 * 60)
    clock.advance(19 * DAY)
    returning = scope_of(cookie=f"session={cookie.value}")
    assert function("get_session_data", returning) == {"n": 1}
    response = Response()
    assert function("renew_session", returning, response, absolute_max_age=timedelta(days=25)) is True
    assert cookie_of(response)["max-age"] == str(6 * 24 * 60 * 60)


async def test_under_the_middleware_remember_me_is_one_cookie_too():
    sessions = Sessions(session_store=MemorySessionStore())

    async def application(scope: Any, receive: Any, send: Any) -> None:
        scope["session"]["user"] = "ada"
        await scope["session"].save()
        await sessions.renew_session(scope, max_age=20 * DAY, persistent=True)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body"})

    answer = await call(SessionMiddleware(application, sessions=sessions), scope_of())
    assert "; Max-Age=2592000;" in (answer.one("set-cookie") or "")


@pytest.mark.parametrize("permanent", [False, True])
def test_in_flask_remember_me_lasts_whatever_the_application_has_for_all(permanent):
    app = flask.Flask("remembering")
    app.config["PERMANENT_SESSION_LIFETIME"] = timedelta(minutes=10)
    sessions = Sessions(session_store=MemorySessionStore())
    ServerSession(app, sessions)

    @app.get("/log-in")
    def log_in() -> str:
        sessions.sync.log_in(flask.request, "ada")
        sessions.sync.renew_session(flask.request, max_age=20 * DAY, persistent=True)
        flask.session.permanent = permanent
        return "in"

    @app.get("/")
    def page() -> str:
        flask.session["seen"] = True
        return "page"

    client = app.test_client()
    (cookie,) = client.get("/log-in").headers.getlist("set-cookie")
    assert "; Max-Age=2592000;" in cookie
    for cookie in client.get("/").headers.getlist("set-cookie"):
        assert "; Max-Age=2592000;" in cookie


async def test_a_clock_that_is_set_back_moves_no_deadline_further_off_than_it_was_at_the_founding(browser):
    await found(browser)
    browser.site.clock.advance(-1000)
    assert await kept_for(browser, renewing(persistent=True)) == 30 * DAY


def test_a_cookie_with_an_age_of_its_own_keeps_it_where_nothing_is_asked():
    sessions = Sessions(session_store=MemorySessionStore(), cookie_handler=CookieHandler(max_age=77))
    scope, response = scope_of(), Response()
    assert sessions.sync.set_session_data(scope, response, {"a": 1}) is True
    assert sessions.sync.renew_session(scope, response, max_age=500) is True
    assert cookie_of(response)["max-age"] == "77"
    assert sessions.sync.renew_session(scope, response, persistent=False) is True
    assert cookie_of(response)["max-age"] == ""


@pytest.mark.parametrize("name", ["max_age", "absolute_max_age"])
@pytest.mark.parametrize("given", [0, -1, float("nan"), float("inf"), "600", True, timedelta(0)])
def test_a_lifetime_that_is_none_is_refused_by_name_before_anything_is_asked(name, given):
    store = Watched()
    sessions = Sessions(session_store=store)
    scope = scope_of(cookie=f"session={'A' * 64}")
    with pytest.raises(ConfigurationError, match=rf"^{name} must be a positive number of seconds"):
        sessions.sync.renew_session(scope, Response(), **{name: given})
    assert store.calls == []


@pytest.mark.parametrize("name", ["persistent", "authenticated"])
@pytest.mark.parametrize("given", [1, "yes", 0.0])
def test_what_is_neither_true_nor_false_is_a_type_error(name, given):
    sessions = Sessions(session_store=MemorySessionStore())
    with pytest.raises(TypeError, match=rf"^renew_session takes {name} as True or False"):
        sessions.sync.renew_session(scope_of(), Response(), **{name: given})


async def test_what_is_asked_stands_in_the_record_as_json(browser):
    await found(browser)
    await send(browser, renewing(idle=DAY, persistent=True))
    await send(browser, renewing(absolute=2 * DAY))
    credential = Credential.parse(browser.cookie or "")
    assert credential is not None
    fields = await browser.site.store.get(credential.selector, {}, False)
    assert not isinstance(fields, Outcome)
    assert fields[LIFE] == b"[86400.0,172800.0,true]"


async def test_a_renewal_after_the_response_started_is_refused_before_the_store_is_asked(browser):
    store = Watched(browser.site.store)
    watched = Browser(browser.site.with_store(store))

    await found(watched)
    store.calls.clear()
    with pytest.raises(Exception, match="response has started"):
        await watched.request(ResponseState.STARTED).renew(None, Life(persistent=True))
    assert store.calls == []


# --- the log-in mark goes with the user


@pytest.mark.parametrize(
    "taken_out",
    [
        lambda visit: visit.pluck("user"),
        lambda visit: visit.update(lambda data: data.clear()),
        lambda visit: visit.replace({"theme": "dark"}, in_place=True),
    ],
    ids=["pluck", "update", "in place"],
)
async def test_who_was_taken_out_by_a_function_has_proved_nothing(taken_out):
    site = Site(MemorySessionStore(), Clock())
    browser = Browser(site)

    visit = browser.request()
    await visit.replace({"user": "ada"}, "ada")
    browser.receive(visit)
    await browser.request().require_fresh(60)
    await taken_out(browser.request())
    with pytest.raises(NotFreshError):
        await browser.request().require_fresh(60)

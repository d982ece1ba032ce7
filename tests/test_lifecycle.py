import asyncio
import gc
import itertools
import random
from collections.abc import Awaitable, Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from starlette.responses import Response

from server_session import (
    CarrierError,
    ConfigurationError,
    ConflictError,
    NoResponseError,
    NotFreshError,
    ResponseStartedError,
    SerializationError,
    Sessions,
    StoreError,
)
from server_session._record import AUTHENTICATED, DIGEST, MARK_SECONDS
from server_session._tokens import Credential, TokenState
from server_session.kernel.presence import ResponseState
from server_session.kernel.states import State
from server_session.kernel.stored import StoredSession
from server_session.stores._base import APPLIED, CONFLICT, Lifetime, Outcome
from server_session.stores.memory import MemorySessionStore
from server_session.testing import YieldingStore
from tests.asgi_client import scope_of
from tests.visitors import STORES, Browser, Clock, Site, Watched, data_of, make_store, over_every_store, send


@pytest.fixture(params=STORES)
def site(request: pytest.FixtureRequest, tmp_path: Path) -> Site:
    clock = Clock()
    return Site(make_store(request.param, tmp_path, clock), clock)


@pytest.fixture
def browser(site: Site) -> Browser:
    return Browser(site)


async def logged_in(browser: Browser, **data: Any) -> None:
    await send(browser, lambda visit: visit.replace({"user": "ada", **data}, "ada"))


# --- what costs what


@pytest.mark.parametrize(
    "step,calls",
    [
        (lambda visit: visit.get(), []),
        (lambda visit: visit.load(), []),
        (lambda visit: visit.pluck("a"), []),
        (lambda visit: visit.destroy(), []),
        (lambda visit: visit.renew(), []),
        (lambda visit: visit.merge({}), []),
        (lambda visit: visit.has_csrf_token("x" * 70, ""), []),
        (lambda visit: visit.merge({"a": 1}), ["set"]),
        (lambda visit: visit.csrf_token(""), ["set"]),
        (lambda visit: visit.replace({"user": 1}), ["set"]),
    ],
)
async def test_without_a_cookie_only_a_write_reaches_the_store(site, step, calls):
    store = Watched(site.store)

    await send(Browser(site.with_store(store)), step)
    assert store.calls == calls


@pytest.mark.parametrize(
    "step,calls",
    [
        (lambda visit: visit.get(), ["get"]),
        (lambda visit: visit.load(), ["get"]),
        (lambda visit: visit.merge({"a": 2}), ["merge"]),
        (lambda visit: visit.update(lambda data: data.update(a=data["a"] + 1)), ["get", "merge"]),
        (lambda visit: visit.update(lambda _: None), ["get"]),
        (lambda visit: visit.pluck("a"), ["get", "merge"]),
        (lambda visit: visit.pluck("absent"), ["get"]),
        (lambda visit: visit.renew({"a": 3}), ["look", "merge"]),
        (lambda visit: visit.replace({"user": 1}), ["set", "set"]),
        (lambda visit: visit.replace({"user": 1}, in_place=True), ["get", "merge"]),
        (lambda visit: visit.destroy(), ["set"]),
        (lambda visit: visit.csrf_token(""), ["get"]),
        (lambda visit: visit.has_csrf_token("x" * 70, ""), []),
        (lambda visit: visit.is_alive(), ["look"]),
    ],
)
async def test_a_live_session_costs_as_few_calls_as_the_design_says(site, step, calls):
    store = Watched(site.store)
    browser = Browser(site.with_store(store))

    await send(browser, lambda visit: visit.merge({"a": 1}))
    store.calls.clear()
    await send(browser, step)
    assert store.calls == calls


async def test_a_mapping_that_was_only_read_writes_nothing(site):
    store = Watched(site.store)
    browser = Browser(site.with_store(store))

    await send(browser, lambda visit: visit.merge({"a": [1, 2]}))
    store.calls.clear()
    visit = browser.request()
    session = await visit.load()
    assert dict(session) == {"a": [1, 2]}
    await visit.commit()
    assert store.calls == ["get"]


async def test_a_mapping_read_and_written_costs_two_calls(site):
    store = Watched(site.store)
    browser = Browser(site.with_store(store))

    await send(browser, lambda visit: visit.merge({"a": 1}))
    store.calls.clear()
    visit = browser.request()
    session = await visit.load()
    session["b"] = session["a"]
    await visit.commit()
    assert store.calls == ["get", "merge"]


# --- founding


async def test_a_first_write_founds_a_session_with_a_cookie_of_64_characters(browser):
    assert await send(browser, lambda visit: visit.merge({"a": 1})) is True
    assert await data_of(browser) == {"a": 1}
    assert browser.cookie is not None
    assert len(browser.cookie) == 64


async def test_reading_founds_nothing_and_sets_no_cookie(browser):
    assert await send(browser, lambda visit: visit.get()) == {}
    assert await send(browser, lambda visit: visit.pluck("a")) is None
    assert await send(browser, lambda visit: visit.has_csrf_token("x" * 70, "")) is False
    assert browser.received == []


async def test_an_id_from_outside_is_never_adopted(browser):
    browser.cookie = "A" * 64

    await send(browser, lambda visit: visit.merge({"a": 1}))
    assert browser.cookie is not None
    assert browser.cookie[:24] != "A" * 24


@over_every_store
async def test_two_first_writes_gathered_in_one_request_found_one_session(browser):
    visit = browser.request()
    await asyncio.gather(visit.merge({"a": 1}), visit.merge({"b": 2}), visit.update(lambda data: data.update(c=3)))
    browser.receive(visit)
    assert await data_of(browser) == {"a": 1, "b": 2, "c": 3}
    assert browser.site.events == ["created"]


async def test_a_write_over_a_junk_verifier_founds_another_session_and_leaves_the_first_alone(browser):
    await send(browser, lambda visit: visit.merge({"a": 1}))
    attacker = browser.copy()
    attacker.cookie = browser.cookie[:24] + "A" * 40
    assert await send(attacker, lambda visit: visit.get()) == {}
    await send(attacker, lambda visit: visit.merge({"evil": 1}))
    assert attacker.cookie[:24] != browser.cookie[:24]
    assert await data_of(browser) == {"a": 1}


async def test_a_junk_verifier_does_not_keep_a_session_alive(browser):
    await send(browser, lambda visit: visit.merge({"a": 1}))
    attacker = browser.copy()
    attacker.cookie = browser.cookie[:24] + "A" * 40
    for _ in range(4):
        browser.site.clock.advance(600)
        await send(attacker, lambda visit: visit.get())
    assert await data_of(browser) == {}


async def test_a_junk_verifier_ends_no_session_and_expires_no_cookie(browser):
    await send(browser, lambda visit: visit.merge({"a": 1}))
    attacker = browser.copy()
    attacker.cookie = browser.cookie[:24] + "A" * 40
    assert await send(attacker, lambda visit: visit.destroy()) is False
    assert attacker.received == []
    assert await data_of(browser) == {"a": 1}


async def test_a_store_whose_ids_repeat_is_an_error_and_crosses_no_sessions(tmp_path):
    class Repeating(MemorySessionStore):
        def id(self) -> str:
            return "R" * 24

    site = Site(Repeating(), Clock())
    first, second = Browser(site), Browser(site)

    await send(first, lambda visit: visit.merge({"a": 1}))
    with pytest.raises(StoreError, match="fresh"):
        await send(second, lambda visit: visit.merge({"b": 1}))
    with pytest.raises(StoreError, match="fresh"):
        await send(second, lambda visit: visit.replace({"b": 1}))
    assert await data_of(first) == {"a": 1}


async def test_a_store_whose_ids_are_malformed_is_an_error(tmp_path):
    class Malformed(MemorySessionStore):
        def id(self) -> str:
            return "../../etc/passwd"

    with pytest.raises(StoreError, match="24 characters"):
        await send(Browser(Site(Malformed(), Clock())), lambda visit: visit.merge({"a": 1}))


# --- where the cookie cannot be set


@pytest.mark.parametrize(
    "answer,error", [(ResponseState.ABSENT, NoResponseError), (ResponseState.STARTED, ResponseStartedError)]
)
async def test_what_needs_a_cookie_that_cannot_be_set_is_refused_before_anything_is_written(site, answer, error):
    store = Watched(site.store)
    browser = Browser(site.with_store(store))
    steps: list[Callable[[StoredSession], Awaitable[Any]]] = [
        lambda visit: visit.merge({"b": 1}),
        lambda visit: visit.csrf_token(""),
        lambda visit: visit.replace({"b": 1}),
        lambda visit: visit.update(lambda data: data.update(b=1)),
        lambda visit: visit.renew({"b": 1}),
    ]

    for step in steps:
        with pytest.raises(error):
            await step(browser.request(answer))
    assert store.calls == []
    await send(browser, lambda visit: visit.merge({"a": 1}))
    for step in (steps[2], steps[4]):
        with pytest.raises(error):
            await step(browser.request(answer))
    assert await data_of(browser) == {"a": 1}


async def test_a_live_session_is_written_without_a_response(browser):
    await send(browser, lambda visit: visit.merge({"a": 1}))
    assert await browser.request(ResponseState.ABSENT).merge({"b": 2}) is True
    assert await browser.request(ResponseState.STARTED).merge({"c": 3}) is True
    assert await data_of(browser) == {"a": 1, "b": 2, "c": 3}


# --- overlapping requests


@over_every_store
async def test_overlapping_merges_of_own_keys_all_survive(browser):
    await send(browser, lambda visit: visit.merge({"a": 1}))
    visits = [browser.request() for _ in range(50)]
    await asyncio.gather(*(visit.merge({f"k{n}": n}) for n, visit in enumerate(visits)))
    assert await data_of(browser) == {"a": 1} | {f"k{n}": n for n in range(50)}


@over_every_store
async def test_overlapping_mappings_of_own_keys_all_survive(browser):
    async def one(number: int) -> None:
        visit = browser.request()
        session = await visit.load()
        session[f"k{number}"] = number
        await asyncio.sleep(0)
        await visit.commit()

    await send(browser, lambda visit: visit.merge({"a": 1}))
    await asyncio.gather(*(one(number) for number in range(50)))
    assert await data_of(browser) == {"a": 1} | {f"k{n}": n for n in range(50)}


@pytest.mark.parametrize("write", ["merge", "pluck"])
async def test_a_change_inside_a_value_is_stored_though_others_wrote_there_before_this_request_looked_again(
    browser, write
):
    await send(browser, lambda visit: visit.merge({"cart": ["a"], "b": 1}))
    visit = browser.request()
    (await visit.load())["cart"].append("b")
    await send(browser, lambda visit: visit.merge({"cart": None}) if write == "merge" else visit.pluck("cart"))
    assert await visit.get() == {"cart": ["a", "b"], "b": 1}
    assert await visit.commit() is True
    assert await data_of(browser) == {"cart": ["a", "b"], "b": 1}


@over_every_store
async def test_overlapping_updates_of_one_counter_all_count(browser):
    def increment(data: dict[str, Any]) -> None:
        data["n"] = data.get("n", 0) + 1

    await send(browser, lambda visit: visit.merge({"a": 1}))
    await asyncio.gather(*(browser.request().update(increment) for _ in range(50)))
    assert await data_of(browser) == {"a": 1, "n": 50}


@over_every_store
async def test_an_update_that_reads_all_keys_sees_each_of_them(browser):
    def total(data: dict[str, Any]) -> None:
        data["total"] = sum(value for key, value in data.items() if key != "total")

    async def add(number: int) -> None:
        await browser.request().merge({f"k{number}": 1})
        await browser.request().update(total)

    await send(browser, lambda visit: visit.merge({"k": 1}))
    await asyncio.gather(*(add(number) for number in range(10)))
    assert (await data_of(browser))["total"] == 11


@over_every_store
async def test_an_update_of_one_key_is_not_disturbed_by_writes_to_others(browser):
    runs = []

    def change(data: dict[str, Any]) -> None:
        runs.append(1)
        data["n"] = data.get("n", 0) + 1

    await send(browser, lambda visit: visit.merge({"n": 0}))
    await asyncio.gather(browser.request().update(change), *(browser.request().merge({f"k{n}": n}) for n in range(20)))
    assert (await data_of(browser))["n"] == 1
    assert len(runs) == 1


async def test_an_update_that_never_gets_through_is_a_conflict_error_and_writes_nothing(browser, monkeypatch):
    monkeypatch.setattr("server_session._tries.UPDATE_SECONDS", 0.05)

    class Contended(Watched):
        async def merge(self, key, changed, *rest):
            if "n" in changed:
                await self.store.merge(key, {"n": b"%d" % len(self.calls)}, (), {})
            return await super().merge(key, changed, *rest)

    await send(browser, lambda visit: visit.merge({"n": 0}))
    rival = Browser(browser.site.with_store(Contended(browser.site.store)), browser.cookie)
    with pytest.raises(ConflictError, match="'n'"):
        await rival.request().update(lambda data: data.update(n=-1 if data["n"] >= 0 else 0))
    assert (await data_of(browser))["n"] >= 0


async def test_a_change_that_returns_something_is_refused_for_it_would_be_lost(browser):
    with pytest.raises(TypeError, match="returns None"):
        await browser.request().update(lambda data: {**data, "a": 1})


async def test_a_change_that_is_a_coroutine_is_refused_without_a_warning_of_another_s(browser, recwarn):
    async def change(data: dict[str, Any]) -> None:
        data["a"] = 1

    with pytest.raises(TypeError, match="not async"):
        await browser.request().update(change)
    gc.collect()
    assert not recwarn.list


async def test_a_change_that_clears_and_writes_again_leaves_in_the_mapping_what_it_wrote(browser):
    await send(browser, lambda visit: visit.merge({"a": 1, "b": 1}))
    visit = browser.request()
    session = await visit.load()
    assert await visit.update(lambda data: (data.clear(), data.update(a=2))[1]) is True
    assert session == {"a": 2}
    assert await data_of(browser) == {"a": 2}


async def test_a_change_that_removes_what_was_never_stored_founds_no_session(browser):
    visit = browser.request()
    session = await visit.load()
    session["a"] = 1
    assert await visit.update(lambda data: data.pop("a") and None) is True
    await visit.commit()
    assert session == {}
    assert not visit.changes_cookie


async def test_an_update_expects_nothing_of_keys_that_no_session_can_have(browser):
    class Noting(Watched):
        async def merge(self, key, changed, removed, expect, *rest):
            expected.append(set(expect))
            return await super().merge(key, changed, removed, expect, *rest)

    expected: list[set[Any]] = []
    await send(browser, lambda visit: visit.merge({"a": 1}))
    noted = Browser(browser.site.with_store(Noting(browser.site.store)), browser.cookie)
    await noted.request().update(lambda data: data.update(found=[key in data for key in ("a", "", 1, None)]))
    assert expected == [{"a", DIGEST}]


@over_every_store
async def test_of_many_plucks_exactly_one_gets_the_value(browser):
    await send(browser, lambda visit: visit.merge({"once": "x", "a": 1}))
    got = await asyncio.gather(*(browser.request().pluck("once") for _ in range(20)))
    assert sorted(got, key=str) == [None] * 19 + ["x"]
    assert await data_of(browser) == {"a": 1}


async def test_a_pluck_meets_a_new_value_and_takes_that(browser):
    class Racing(Watched):
        async def merge(self, key, changed, removed, *rest):
            if removed and len(self.calls) == 1:
                await self.store.merge(key, {"once": b'"new"'}, (), {})
            return await super().merge(key, changed, removed, *rest)

    await send(browser, lambda visit: visit.merge({"once": "old"}))
    rival = Browser(browser.site.with_store(Racing(browser.site.store)), browser.cookie)
    assert await rival.request().pluck("once") == "new"
    assert await data_of(browser) == {}


# --- log-out


async def test_destroying_drops_the_data_and_expires_the_cookie(browser):
    await send(browser, lambda visit: visit.merge({"a": 1}))
    thief = browser.copy()
    assert await send(browser, lambda visit: visit.destroy()) is True
    assert await data_of(thief) == {}
    assert browser.received[-1] is None


async def test_a_second_log_out_expires_no_cookie_while_the_mark_stands(browser):
    # Between the two, the browser may have got the cookie of a new log-in.
    await send(browser, lambda visit: visit.merge({"a": 1}))
    late = browser.copy()
    await send(browser, lambda visit: visit.destroy())
    assert await send(late, lambda visit: visit.destroy()) is False
    assert late.received == []


async def test_a_log_out_that_finds_nothing_expires_the_cookie(browser):
    browser.cookie = "A" * 64
    assert await send(browser, lambda visit: visit.destroy()) is False
    assert browser.received == [None]


@pytest.mark.parametrize("seen", [True, False])
async def test_a_late_write_does_not_bring_an_ended_session_back(browser, seen):
    await send(browser, lambda visit: visit.merge({"a": 1}))
    late = browser.copy()
    visit = late.request()
    if seen:
        await visit.load()
    await send(browser, lambda visit: visit.destroy())
    assert await visit.merge({"late": 1}) is False
    assert await visit.update(lambda data: data.update(late=1)) is False
    assert await visit.renew() is False
    assert await visit.replace({"late": 1}, in_place=True) is False
    late.receive(visit)
    assert late.received == []
    assert await data_of(late) == {}
    assert browser.site.events.count("write_dropped") == 1


async def test_a_late_mapping_does_not_bring_an_ended_session_back(browser):
    await send(browser, lambda visit: visit.merge({"a": 1}))
    late = browser.copy()
    visit = late.request()
    session = await visit.load()
    await send(browser, lambda visit: visit.destroy())
    session["late"] = 1
    assert await visit.commit() is False
    late.receive(visit)
    assert late.received == []
    assert await data_of(late) == {}


@pytest.mark.parametrize(
    "see", [lambda visit: visit.load(), lambda visit: visit.merge({"b": 2})], ids=["read", "write"]
)
async def test_a_late_write_after_the_mark_is_gone_is_still_dropped_where_this_request_saw_the_session_alive(
    browser, see
):
    await send(browser, lambda visit: visit.merge({"a": 1}))
    visit = browser.copy().request()
    await see(visit)
    await send(browser, lambda visit: visit.destroy())
    browser.site.clock.advance(MARK_SECONDS + 1)
    assert await visit.merge({"late": 1}) is False
    assert visit.state is State.OVER


async def test_a_log_in_in_the_mapping_is_dropped_where_this_request_saw_the_session_alive_that_ended(browser):
    await send(browser, lambda visit: visit.merge({"a": 1}))
    visit = browser.copy().request()
    session = await visit.load()
    await send(browser, lambda visit: visit.destroy())
    session["user"] = "ada"
    assert await visit.commit() is False
    assert visit.changes_cookie is False


async def test_the_mark_is_gone_after_a_minute_and_a_write_founds_anew(browser):
    await send(browser, lambda visit: visit.merge({"a": 1}))
    stale = browser.copy()
    await send(browser, lambda visit: visit.destroy())
    browser.site.clock.advance(MARK_SECONDS + 1)
    assert await send(stale, lambda visit: visit.merge({"b": 1})) is True
    assert await data_of(stale) == {"b": 1}


async def test_after_its_own_log_out_a_request_can_write_a_flash_that_says_good_bye(browser):
    await send(browser, lambda visit: visit.merge({"a": 1}))
    old = browser.cookie
    visit = browser.request()
    session = await visit.load()
    await visit.destroy()
    assert session == {}
    session["flash"] = "good-bye"
    await visit.commit()
    browser.receive(visit)
    assert browser.cookie not in (None, old)
    assert await data_of(browser) == {"flash": "good-bye"}


async def test_a_log_out_overtaken_by_a_renewal_still_logs_out(browser):
    await logged_in(browser)
    slow = browser.copy()
    for seen in (True, False):
        visit = slow.request()
        if seen:
            await visit.load()
        await send(browser, lambda visit: visit.renew())
        assert await visit.destroy() is True
        slow.receive(visit)
        assert slow.received[-1] is None
        assert await data_of(browser) == {}
        await logged_in(browser)
        slow.cookie = browser.cookie


async def test_a_former_cookie_ends_nothing_after_the_minute(browser):
    await logged_in(browser)
    stale = browser.copy()
    await send(browser, lambda visit: visit.renew())
    browser.site.clock.advance(MARK_SECONDS + 1)
    assert await send(stale, lambda visit: visit.destroy()) is False
    assert stale.received == []
    assert await data_of(browser) == {"user": "ada"}


async def test_a_cookie_that_is_swapped_out_again_while_it_logs_out_ends_nothing(browser):
    class Overtaken(Watched):
        async def set(self, key: str, *rest: Any) -> Outcome:
            if "set" in self.calls:
                await send(browser, lambda visit: visit.renew())
            return await super().set(key, *rest)

    await logged_in(browser)
    slow = Browser(browser.site.with_store(Overtaken(browser.site.store)), browser.cookie)
    await send(browser, lambda visit: visit.renew())
    assert await send(slow, lambda visit: visit.destroy()) is False
    assert slow.received == []
    assert await data_of(browser) == {"user": "ada"}


# --- renewal


async def test_renewal_keeps_the_data_and_kills_the_old_cookie_at_once(browser):
    await send(browser, lambda visit: visit.merge({"a": 1}))
    thief = browser.copy()
    assert await send(browser, lambda visit: visit.renew({"b": 2})) is True
    assert browser.cookie != thief.cookie
    assert browser.cookie[:24] == thief.cookie[:24]
    assert await data_of(browser) == {"a": 1, "b": 2}
    assert await data_of(thief) == {}


async def test_a_former_cookie_does_not_keep_the_session_alive(browser):
    await send(browser, lambda visit: visit.merge({"a": 1}))
    thief = browser.copy()
    await send(browser, lambda visit: visit.renew())
    for _ in range(4):
        browser.site.clock.advance(600)
        await send(thief, lambda visit: visit.get())
    assert await data_of(browser) == {}


@pytest.mark.parametrize("seen", [True, False])
async def test_a_request_in_flight_with_the_former_cookie_writes_nothing_and_pushes_no_cookie_out(browser, seen):
    await send(browser, lambda visit: visit.merge({"a": 1}))
    slow = browser.copy()
    visit = slow.request()
    if seen:
        await visit.load()
    await send(browser, lambda visit: visit.renew())
    assert await visit.merge({"late": 1}) is False
    slow.receive(visit)
    assert slow.received == []
    assert await data_of(browser) == {"a": 1}


async def test_renewal_without_a_session_and_without_data_does_nothing(browser):
    assert await send(browser, lambda visit: visit.renew()) is False
    assert browser.received == []


@over_every_store
async def test_two_renewals_gathered_in_one_request_leave_the_browser_a_cookie_that_lives(browser):
    await send(browser, lambda visit: visit.merge({"a": 1}))
    visit = browser.request()
    assert await asyncio.gather(visit.renew(), visit.renew(), visit.merge({"b": 2})) == [True, True, True]
    browser.receive(visit)
    assert await data_of(browser) == {"a": 1, "b": 2}


@pytest.mark.parametrize("seen", [True, False])
async def test_however_often_one_request_renews_the_browser_s_own_cookie_is_known_as_swapped_out(browser, seen):
    await send(browser, lambda visit: visit.merge({"a": 1}))
    slow = browser.copy()
    late = slow.request()
    if seen:
        await late.load()
    visit = browser.request()
    session = await visit.load()
    await visit.renew()
    await visit.renew({"b": 2})
    session["user"] = "ada"
    await visit.commit()
    browser.receive(visit)
    assert await late.merge({"late": 1}) is False
    slow.receive(late)
    assert slow.received == []
    assert await data_of(browser) == {"a": 1, "b": 2, "user": "ada"}


class Slow(Watched):
    """Suspends after it has read or written."""

    async def get(self, key, expect, touch=True):
        found = await self.store.get(key, expect, touch)
        await asyncio.sleep(0)
        return found

    async def merge(self, key, changed, removed, expect, lifetime=None):
        outcome = await self.store.merge(key, changed, removed, expect, lifetime)
        await asyncio.sleep(0)
        return outcome


async def cancelled(call):
    """Cancel a call where it suspends first."""
    task = asyncio.ensure_future(call)
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@pytest.mark.parametrize("then", [None, StoredSession.get, StoredSession.commit])
async def test_a_cancelled_renewal_leaves_the_browser_a_cookie_that_lives_though_what_follows_is_cancelled_too(then):
    browser = Browser(Site(Slow(MemorySessionStore()), Clock()))
    await send(browser, lambda visit: visit.merge({"a": 1}))
    visit = browser.request()
    await visit.get()
    await cancelled(visit.renew())
    if then is not None:
        await cancelled(then(visit))
    await visit.commit()
    browser.receive(visit)
    assert await data_of(browser) == {"a": 1}


@pytest.mark.parametrize("was", [{}, {"step": 1}, {"step": 2}])
@pytest.mark.parametrize("back", [{}, {"step": 1}, {"step": 2}])
async def test_what_a_cancelled_save_has_stored_the_mapping_can_take_back(was, back):
    browser = Browser(Site(Slow(MemorySessionStore()), Clock()))
    await send(browser, lambda visit: visit.merge({"a": 1, **was}))
    visit = browser.request()
    session = await visit.load()
    session.pop("step", None) if was == {"step": 2} else session.update(step=2)
    await cancelled(session.save())
    session.become({"a": 1, **back})
    await visit.commit()
    assert await data_of(browser) == {"a": 1, **back}


# --- log-in


async def test_log_in_founds_a_session_under_a_new_selector_and_ends_the_old_one(browser):
    await send(browser, lambda visit: visit.merge({"cart": [1]}))
    attacker = browser.copy()
    await logged_in(browser)
    assert browser.cookie[:24] != attacker.cookie[:24]
    assert await data_of(browser) == {"user": "ada"}
    assert await data_of(attacker) == {}


async def test_a_log_in_that_overlaps_slow_requests_keeps_its_cookie(browser):
    await send(browser, lambda visit: visit.merge({"a": 1}))
    slow = browser.copy()
    reader, writer, mapped = slow.request(), slow.request(), slow.request()
    session = await mapped.load()
    await logged_in(browser)
    assert await reader.get() == {}
    assert await writer.merge({"late": 1}) is False
    session["late"] = 1
    assert await mapped.commit() is False
    for visit in (reader, writer, mapped):
        slow.receive(visit)
    assert slow.received == []
    assert await data_of(browser) == {"user": "ada"}


@pytest.mark.parametrize("by", ["log_in", "clear", "renew_on", "renew"])
async def test_a_browser_that_never_got_the_answer_of_its_first_log_in_logs_in_again_with_the_old_cookie(browser, by):
    async def log_in(visit: StoredSession) -> Any:
        if by == "log_in":
            return await visit.replace({"user": "ada"}, "ada")
        if by == "renew":
            return await visit.renew({"user": "ada"})
        session = await visit.load()
        if by == "clear":
            session.clear()
        session["user"] = "ada"
        return await visit.commit()

    await send(browser, lambda visit: visit.merge({"a": 1}))
    lost = browser.copy()
    await send(lost, log_in)
    assert await send(browser, log_in) is True
    assert (await data_of(browser))["user"] == "ada"


async def test_a_write_to_a_key_that_means_log_in_renews_in_the_same_step(browser):
    await send(browser, lambda visit: visit.merge({"cart": [1]}))
    attacker = browser.copy()
    visit = browser.request()
    session = await visit.load()
    session["user"] = "ada"
    await visit.commit()
    browser.receive(visit)
    assert browser.cookie != attacker.cookie
    assert await data_of(browser) == {"cart": [1], "user": "ada"}
    assert await data_of(attacker) == {}


async def test_the_same_value_again_or_a_change_inside_it_renews_nothing(browser):
    await send(browser, lambda visit: visit.replace({"user": {"id": 1, "seen": 0}}))
    cookie = browser.cookie
    visit = browser.request()
    session = await visit.load()
    session["user"] = {"id": 1, "seen": 0}
    await visit.commit()
    session["user"]["seen"] = 1
    await visit.commit()
    browser.receive(visit)
    assert browser.cookie == cookie
    assert await data_of(browser) == {"user": {"id": 1, "seen": 1}}
    visit = browser.request()
    (await visit.load())["user"] = {"id": 2, "seen": 0}
    await visit.commit()
    browser.receive(visit)
    assert browser.cookie != cookie


# --- how long ago the user logged in


async def mapping_sets(visit: StoredSession, **data: Any) -> None:
    (await visit.load()).update(data)


async def mapping_starts_over(visit: StoredSession) -> None:
    session = await visit.load()
    session.clear()
    session["user"] = "ada"


LOG_INS: dict[str, Callable[[StoredSession], Awaitable[Any]]] = {
    "log_in": lambda visit: visit.replace({"a": 1}, "ada"),
    "replace": lambda visit: visit.replace({"user": "ada"}),
    "mapping": lambda visit: mapping_sets(visit, user="ada"),
    "clear": mapping_starts_over,
    "password": lambda visit: visit.renew(authenticated=True),
    "password and data": lambda visit: visit.renew({"b": 1}, authenticated=True),
}
NO_LOG_INS: dict[str, Callable[[StoredSession], Awaitable[Any]]] = {
    "set": lambda visit: visit.merge({"user": "ada"}),
    "update": lambda visit: visit.update(lambda data: data.update(user="ada")),
    "reset": lambda visit: visit.replace({"user": "ada"}, in_place=True),
    "renew": lambda visit: visit.renew({"user": "ada"}),
    "mapping of another key": lambda visit: mapping_sets(visit, b=1),
    "read": lambda visit: visit.get(),
}


@pytest.mark.parametrize("by", LOG_INS)
@pytest.mark.parametrize("has_session", [False, True])
async def test_each_way_to_log_in_makes_the_session_fresh_for_as_long_as_is_asked(browser, by, has_session):
    if has_session or by == "password":
        await send(browser, lambda visit: visit.merge({"c": 1}))
        browser.site.clock.advance(1000)
    await send(browser, LOG_INS[by])
    browser.site.clock.advance(300)
    assert await browser.request(ResponseState.ABSENT).require_fresh(300) is None
    browser.site.clock.advance(1)
    with pytest.raises(NotFreshError, match=r"logged in 301 seconds ago, .* allows 300: .* authenticated=True"):
        await browser.request().require_fresh(300)
    await browser.request().require_fresh(302)


@pytest.mark.parametrize("step", NO_LOG_INS)
async def test_what_is_no_log_in_makes_no_session_fresh(browser, step):
    await send(browser, lambda visit: visit.merge({"a": 1}))
    await send(browser, NO_LOG_INS[step])
    with pytest.raises(NotFreshError, match="nobody has logged in with this session: "):
        await browser.request().require_fresh(1e9)


@pytest.mark.parametrize("step", NO_LOG_INS)
async def test_what_is_no_log_in_keeps_the_time_of_the_last_one(browser, step):
    await logged_in(browser)
    browser.site.clock.advance(100)
    await send(browser, NO_LOG_INS[step])
    await browser.request().require_fresh(100)
    with pytest.raises(NotFreshError, match="100 seconds ago"):
        await browser.request().require_fresh(99)


async def test_the_same_user_written_once_more_is_no_log_in(browser):
    await logged_in(browser)
    browser.site.clock.advance(100)
    await send(browser, LOG_INS["mapping"])
    with pytest.raises(NotFreshError):
        await browser.request().require_fresh(99)
    await send(browser, lambda visit: mapping_sets(visit, user="bob"))
    await browser.request().require_fresh(1)


@pytest.mark.parametrize("how", ["del", "None"])
async def test_a_mapping_that_takes_the_user_out_leaves_nobody_logged_in(browser, how):
    async def take_out(visit: StoredSession) -> None:
        session = await visit.load()
        if how == "del":
            del session["user"]
        else:
            session["user"] = None

    await logged_in(browser)
    await send(browser, take_out)
    with pytest.raises(NotFreshError, match="nobody has logged in"):
        await browser.request().require_fresh(1000)


USERS: list[tuple[Callable[[dict[str, Any]], None], bool]] = [
    (lambda data: data.update(user={"id": 2}), True),
    (lambda data: data.update(user={"id": 1, "seen": 2}), True),
    (lambda data: data["user"].update(seen=2), False),
    (lambda data: data.update(user={"id": 1}), False),
    (lambda data: data.clear(), True),
]


@pytest.mark.parametrize("change,is_another", USERS)
async def test_an_update_that_writes_another_user_leaves_nobody_logged_in(browser, change, is_another):
    await send(browser, lambda visit: visit.replace({"user": {"id": 1}}))
    await send(browser, lambda visit: visit.update(change))
    if is_another:
        with pytest.raises(NotFreshError, match="nobody has logged in"):
            await browser.request().require_fresh(1000)
    else:
        await browser.request().require_fresh(1000)


async def test_a_log_in_by_the_mapping_of_a_request_that_founded_or_renewed_already_is_one_too(browser):
    await send(browser, lambda visit: visit.merge({"a": 1}))
    visit = browser.request()
    session = await visit.load()
    await visit.renew()
    session["user"] = "ada"
    await visit.commit()
    browser.receive(visit)
    await browser.request().require_fresh(1)


async def test_what_is_replaced_by_data_of_no_user_is_not_logged_in(browser):
    await logged_in(browser)
    await send(browser, lambda visit: visit.replace({"a": 1}))
    with pytest.raises(NotFreshError):
        await browser.request().require_fresh(1000)


@pytest.mark.parametrize("cookie", [None, "A" * 64])
async def test_to_ask_whether_the_log_in_is_fresh_founds_nothing(browser, cookie):
    browser.cookie = cookie

    visit = browser.request()
    with pytest.raises(NotFreshError, match=r"there is none.*call log_in"):
        await visit.require_fresh(1000)
    assert not visit.changes_cookie
    assert visit.accessed


@pytest.mark.parametrize("end", ["destroy", "renew"])
async def test_a_cookie_that_was_ended_or_swapped_is_not_fresh(browser, end):
    await logged_in(browser)
    thief = browser.copy()
    await send(browser, lambda visit: visit.destroy() if end == "destroy" else visit.renew())
    with pytest.raises(NotFreshError):
        await thief.request().require_fresh(1000)


async def test_a_session_from_before_log_ins_were_timed_is_not_fresh(browser):
    await logged_in(browser)
    credential = Credential.parse(browser.cookie)
    await browser.site.store.merge(credential.selector, {}, {AUTHENTICATED}, {})
    with pytest.raises(NotFreshError):
        await browser.request().require_fresh(1e9)
    assert await data_of(browser) == {"user": "ada"}


async def test_a_renewal_that_was_dropped_makes_nothing_fresh(browser):
    await logged_in(browser)
    browser.site.clock.advance(100)
    late = browser.copy().request()
    await late.load()
    await send(browser, lambda visit: visit.renew())
    assert await late.renew(authenticated=True) is False
    with pytest.raises(NotFreshError):
        await browser.request().require_fresh(99)


@pytest.mark.parametrize("blocking", [False, True])
def test_the_function_takes_its_age_last_in_seconds_or_as_a_timedelta(blocking):
    clock = Clock()
    sessions = Sessions(session_store=MemorySessionStore(clock=clock), clock=clock)
    scope, response = scope_of(), Response()
    assert sessions.sync.log_in(scope, response, "ada") is True
    scope = scope_of(cookie=response.headers["set-cookie"].partition(";")[0])
    clock.advance(300)

    def require_fresh(*arguments: Any) -> Any:
        return sessions.sync.require_fresh(*arguments) if blocking else asyncio.run(sessions.require_fresh(*arguments))

    for fresh in (300, timedelta(minutes=5)):
        assert require_fresh(scope, fresh) is None
        assert require_fresh(scope, Response(), fresh) is None
    for stale in (299.5, timedelta(minutes=4)):
        with pytest.raises(NotFreshError, match="300 seconds ago"):
            require_fresh(scope, stale)
    for wrong in (0, -1, "300", timedelta(0), True, None):
        with pytest.raises(ConfigurationError, match=r"^max_age must be a positive number of seconds"):
            require_fresh(scope, wrong)
    for missing in ((), (scope,), (scope, response)):
        with pytest.raises(CarrierError, match="max_age"):
            require_fresh(*missing)


# --- in place


async def test_replacing_in_place_keeps_cookie_age_and_owner(browser):
    await logged_in(browser, step=1)
    cookie = browser.cookie
    credential = Credential.parse(cookie)
    before = await browser.site.store.get(credential.selector, {}, False)
    assert await send(browser, lambda visit: visit.replace({"form": {}}, in_place=True)) is True
    after = await browser.site.store.get(credential.selector, {}, False)
    assert browser.cookie == cookie
    assert await data_of(browser) == {"form": {}}
    for name in ("\0digest", "\0created", "\0owner"):
        assert after[name] == before[name]


async def test_what_is_replaced_in_place_is_all_that_the_mapping_holds_and_stores(browser):
    await send(browser, lambda visit: visit.merge({"a": 1, "b": 1}))
    visit = browser.request()
    session = await visit.load()
    session["unsaved"] = 1
    assert await visit.replace({"a": 2}, in_place=True) is True
    assert session == {"a": 2}
    await visit.commit()
    assert await data_of(browser) == {"a": 2}


async def test_a_field_that_comes_while_the_data_is_replaced_in_place_does_not_outlive_it(browser):
    class Racing(Watched):
        async def merge(self, key, changed, *rest):
            if "b" in changed and "merge" not in self.calls:
                await Browser(browser.site, browser.cookie).request().merge({"late": 1})
            return await super().merge(key, changed, *rest)

    await send(browser, lambda visit: visit.merge({"a": 1}))
    rival = Browser(browser.site.with_store(Racing(browser.site.store)), browser.cookie)
    assert await rival.request().replace({"b": 2}, in_place=True) is True
    assert await data_of(browser) == {"b": 2}


# --- expiry


async def test_reads_and_writes_restart_the_idle_clock(browser):
    await send(browser, lambda visit: visit.merge({"a": 1}))
    for step in (lambda visit: visit.get(), lambda visit: visit.merge({"b": 1})) * 3:
        browser.site.clock.advance(1700)
        await send(browser, step)
    assert await data_of(browser) == {"a": 1, "b": 1}
    browser.site.clock.advance(1801)
    assert await data_of(browser) == {}


@pytest.mark.parametrize("step", ["get", "set", "update", "renew", "is_alive", "commit"])
async def test_a_session_that_a_request_saw_alive_and_finds_gone_has_expired_and_a_signal_says_so_once(browser, step):
    await send(browser, lambda visit: visit.merge({"a": 1}))
    visit = browser.request()
    session = await visit.load()
    browser.site.clock.advance(1801)
    session["b"] = 1
    steps: dict[str, Callable[[], Awaitable[Any]]] = {
        "get": visit.get,
        "set": lambda: visit.merge({"b": 2}),
        "update": lambda: visit.update(lambda data: data.update(b=2)),
        "renew": visit.renew,
        "is_alive": session.is_alive,
        "commit": visit.commit,
    }
    await steps[step]()
    assert visit.state is State.OVER
    await visit.is_alive()
    await visit.get()
    assert not visit.changes_cookie
    assert browser.site.events.count("expired") == 1
    assert "unknown" not in browser.site.events


@pytest.mark.parametrize("end", ["destroy", "renew", "unseen"])
async def test_what_was_ended_or_renewed_or_never_seen_alive_is_not_told_as_expired(browser, end):
    await send(browser, lambda visit: visit.merge({"a": 1}))
    visit = browser.copy().request()
    if end == "unseen":
        browser.site.clock.advance(1801)
    else:
        await visit.load()
        await send(browser, lambda visit: visit.destroy() if end == "destroy" else visit.renew())
    assert await visit.is_alive() is False
    assert "expired" not in browser.site.events


async def test_the_deadline_ends_a_busy_session_even_one_that_was_renewed_and_written_blind(browser):
    await send(browser, lambda visit: visit.merge({"a": 1}))
    for _ in range(86400 // 1200 - 1):
        browser.site.clock.advance(1200)
        assert await send(browser, lambda visit: visit.merge({"b": 1})) is True
        assert await send(browser, lambda visit: visit.renew()) is True
    browser.site.clock.advance(1201)
    assert await data_of(browser) == {}


async def test_asking_whether_a_session_lives_does_not_restart_the_idle_clock(browser):
    await send(browser, lambda visit: visit.merge({"a": 1}))
    visit = browser.request()
    session = await visit.load()
    for _ in range(3):
        browser.site.clock.advance(590)
        assert await session.is_alive() is True
    browser.site.clock.advance(590)
    assert await session.is_alive() is False


@pytest.mark.parametrize("end", ["destroy", "renew", "replace"])
async def test_a_long_lived_reader_notices_that_its_session_was_ended_or_renewed(browser, end):
    steps: dict[str, Callable[[StoredSession], Awaitable[Any]]] = {
        "destroy": lambda visit: visit.destroy(),
        "renew": lambda visit: visit.renew(),
        "replace": lambda visit: visit.replace({}),
    }

    await send(browser, lambda visit: visit.merge({"a": 1}))
    session = await browser.request().load()
    assert await session.is_alive() is True
    await send(browser, steps[end])
    assert await session.is_alive() is False


# --- the mapping and the functions of one request are one session


async def test_functions_see_the_uncommitted_writes_of_the_mapping(browser):
    await send(browser, lambda visit: visit.merge({"a": 1, "gone": 1, "list": [1]}))
    visit = browser.request()
    session = await visit.load()
    session["b"] = 2
    del session["gone"]
    session["list"].append(2)
    assert await visit.get() == {"a": 1, "b": 2, "list": [1, 2]}
    await visit.update(lambda data: data.update(b=data["b"] + 1))
    assert session["b"] == 3
    assert await visit.pluck("list") == [1, 2]
    assert "list" not in session
    assert await data_of(browser) == {"a": 1, "gone": 1, "b": 3}
    await visit.commit()
    assert await data_of(browser) == {"a": 1, "b": 3}


async def test_setting_does_not_flush_the_mapping(browser):
    await send(browser, lambda visit: visit.merge({"a": 1}))
    visit = browser.request()
    session = await visit.load()
    session["mine"] = 1
    await visit.merge({"b": 2})
    assert session == {"a": 1, "b": 2, "mine": 1}
    assert await data_of(browser) == {"a": 1, "b": 2}
    await visit.commit()
    assert await data_of(browser) == {"a": 1, "b": 2, "mine": 1}


async def test_a_function_puts_back_into_the_mapping_what_that_had_taken_out(browser):
    await send(browser, lambda visit: visit.merge({"a": 1, "b": 2}))
    visit = browser.request()
    session = await visit.load()
    del session["a"]
    await visit.merge({"a": 1})
    assert session == {"a": 1, "b": 2}
    await visit.commit()
    assert await data_of(browser) == {"a": 1, "b": 2}


async def test_a_log_in_leaves_the_mapping_nothing_of_the_session_before_it(browser):
    await send(browser, lambda visit: visit.merge({"cart": [1]}))
    visit = browser.request()
    session = await visit.load()
    session["coupon"] = 1
    await visit.replace({"user": "ada"}, "ada")
    assert session == {"user": "ada"}
    await visit.commit()
    browser.receive(visit)
    assert await data_of(browser) == {"user": "ada"}


async def test_what_a_function_brings_in_leaves_a_nested_object_in_place(browser):
    await send(browser, lambda visit: visit.merge({"cart": [0]}))
    visit = browser.request()
    session = await visit.load()
    cart = session["cart"]
    await visit.merge({"other": 1})
    await visit.get()
    cart.append(1)
    await visit.commit()
    assert await data_of(browser) == {"cart": [0, 1], "other": 1}


async def test_every_get_asks_the_store_and_the_mapping_follows(browser):
    await send(browser, lambda visit: visit.merge({"a": 1, "gone": 1}))
    visit = browser.request()
    session = await visit.load()
    await browser.copy().request().update(lambda data: (data.update(a=2), data.pop("gone"), None)[2])
    assert session["a"] == 1
    assert await visit.get() == {"a": 2}
    assert session == {"a": 2}


async def test_a_mapping_that_is_cleared_and_left_empty_destroys_the_session(browser):
    await send(browser, lambda visit: visit.merge({"a": 1}))
    thief = browser.copy()
    visit = browser.request()
    (await visit.load()).clear()
    await visit.commit()
    browser.receive(visit)
    assert browser.cookie is None
    assert await data_of(thief) == {}


async def test_to_clear_a_mapping_whose_session_has_ended_meanwhile_is_no_lost_write(browser):
    await send(browser, lambda visit: visit.merge({"a": 1}))
    visit = browser.request()
    (await visit.load()).clear()
    await send(browser.copy(), lambda other: other.destroy())
    assert await visit.commit() is True
    assert "write_dropped" not in browser.site.events


async def test_a_mapping_that_is_cleared_and_written_to_founds_anew_without_fields_it_never_saw(browser):
    await send(browser, lambda visit: visit.merge({"a": 1}))
    old = browser.copy()
    visit = browser.request()
    session = await visit.load()
    await old.request().merge({"unseen": 1})
    session.clear()
    session["b"] = 2
    await visit.commit()
    browser.receive(visit)
    assert browser.cookie[:24] != old.cookie[:24]
    assert await data_of(browser) == {"b": 2}
    assert await data_of(old) == {}


async def test_a_value_that_cannot_be_stored_is_refused_and_nothing_is_written(browser):
    await send(browser, lambda visit: visit.merge({"a": 1}))
    visit = browser.request()
    session = await visit.load()
    session["fine"] = 1
    session["bad"] = object()
    with pytest.raises(SerializationError, match="'bad'"):
        await visit.commit()
    with pytest.raises(SerializationError, match="'bad'"):
        await browser.request().merge({"fine": 1, "bad": object()})
    assert await data_of(browser) == {"a": 1}


async def test_a_key_with_the_core_s_own_prefix_is_refused(browser):
    with pytest.raises(SerializationError):
        await browser.request().merge({DIGEST: "mine"})


# --- several cookies of the name


async def test_of_several_cookies_the_one_that_lives_is_used_and_a_signal_given(site):
    browser = Browser(site)
    await send(browser, lambda visit: visit.merge({"a": 1}))
    good = Credential.parse(browser.cookie)
    junk = Credential.parse("A" * 64)
    for presented in ([junk, good], [good, junk]):
        visit = StoredSession(site.policy, presented, ResponseState.OPEN)
        assert (await visit.get())["a"] == 1
        assert await visit.merge({"b": 1}) is True
    assert await data_of(browser) == {"a": 1, "b": 1}
    assert site.events.count("several_cookies") == 2


async def test_of_several_cookies_the_one_that_lives_tells_which_token_is_good(site):
    browser = Browser(site)
    token = await send(browser, lambda visit: visit.csrf_token(""))
    presented = [Credential.parse("A" * 64), Credential.parse(browser.cookie)]
    visit = StoredSession(site.policy, presented, ResponseState.OPEN)
    assert await visit.has_csrf_token(token, "") is True


async def test_of_several_cookies_that_live_none_is_used(site):
    first, second = Browser(site), Browser(site)
    await send(first, lambda visit: visit.merge({"a": 1}))
    await send(second, lambda visit: visit.merge({"b": 1}))
    presented = [Credential.parse(first.cookie), Credential.parse(second.cookie)]
    visit = StoredSession(site.policy, presented, ResponseState.OPEN)
    assert await visit.get() == {}
    assert await visit.merge({"c": 1}) is True
    assert await data_of(first) == {"a": 1}
    assert await data_of(second) == {"b": 1}


async def test_the_one_of_several_that_lives_is_not_sent_again(site):
    browser = Browser(site)
    await send(browser, lambda visit: visit.merge({"a": 1}))
    presented = [Credential.parse(browser.cookie), Credential.found("A" * 24)]
    visit = StoredSession(site.policy, presented, ResponseState.OPEN)
    assert await visit.get() == {"a": 1}
    visit.keep_cookie(60, again=True)
    assert visit.changes_cookie is False


# --- CSRF tokens


async def test_a_token_is_fresh_at_each_call_and_each_of_them_validates(browser):
    tokens = {await send(browser, lambda visit: visit.csrf_token("")) for _ in range(5)}
    assert len(tokens) == 5
    for token in tokens:
        assert await send(browser, lambda visit, token=token: visit.has_csrf_token(token, "")) is True


@pytest.mark.parametrize("end", ["destroy", "renew", "replace", "expire"])
async def test_a_token_dies_with_its_session_and_with_every_renewal(browser, end):
    steps: dict[str, Callable[[StoredSession], Awaitable[Any]]] = {
        "destroy": lambda visit: visit.destroy(),
        "renew": lambda visit: visit.renew(),
        "replace": lambda visit: visit.replace({}),
        "expire": lambda _: asyncio.sleep(0, browser.site.clock.advance(1801)),
    }

    token = await send(browser, lambda visit: visit.csrf_token(""))
    before = browser.copy()
    await send(browser, steps[end])
    for one in (before, browser):
        assert await send(one, lambda visit: visit.has_csrf_token(token, "")) is False


@pytest.mark.parametrize("write", ["user", "clear"])
async def test_a_token_given_while_the_mapping_holds_a_log_in_is_good_on_the_page_that_bears_it(browser, write):
    await send(browser, lambda visit: visit.merge({"a": 1}))
    visit = browser.request()
    session = await visit.load()
    if write == "clear":
        session.clear()
    session["user"] = "ada"
    token = await visit.csrf_token("")
    await visit.commit()
    browser.receive(visit)
    assert await send(browser, lambda visit: visit.has_csrf_token(token, "")) is True


async def test_what_is_plucked_or_replaced_in_place_against_endless_writers_ends_in_a_conflict(browser, monkeypatch):
    monkeypatch.setattr("server_session._tries.UPDATE_SECONDS", 0.05)

    class Contended(Watched):
        async def merge(self, key, *rest):
            await self.store.merge(key, {"n": b"%d" % len(self.calls), "\0stamp": b"%d" % len(self.calls)}, (), {})
            return await super().merge(key, *rest)

    await send(browser, lambda visit: visit.merge({"n": -1}))
    rival = Browser(browser.site.with_store(Contended(browser.site.store)), browser.cookie)
    with pytest.raises(ConflictError, match="'n'"):
        await rival.request().pluck("n")
    with pytest.raises(ConflictError, match="in_place"):
        await rival.request().replace({"m": 1}, in_place=True)
    assert "n" in await data_of(browser)


async def test_a_token_survives_a_reset_in_place(browser):
    token = await send(browser, lambda visit: visit.csrf_token(""))
    await send(browser, lambda visit: visit.replace({"a": 1}, in_place=True))
    assert await send(browser, lambda visit: visit.has_csrf_token(token, "")) is True


async def test_a_token_of_another_session_or_scope_does_not_validate(browser):
    other = Browser(browser.site)
    foreign = await send(other, lambda visit: visit.csrf_token(""))
    whole = await send(browser, lambda visit: visit.csrf_token(""))
    form = await send(browser, lambda visit: visit.csrf_token("POST /transfer"))
    for token, scope in ((foreign, ""), (whole, "POST /transfer"), (form, ""), (form, "POST /other")):
        assert await send(browser, lambda visit, t=token, s=scope: visit.has_csrf_token(t, s)) is False
    assert await send(browser, lambda visit: visit.has_csrf_token(form, "POST /transfer")) is True


async def test_a_session_s_token_where_an_endpoint_asks_for_its_own_is_not_stale_for_a_fresh_one_is_no_better(browser):
    token = await send(browser, lambda visit: visit.csrf_token(""))
    assert await browser.request().admit(token, ("POST /transfer",)) is TokenState.INVALID


async def test_over_an_ended_session_a_token_is_text_that_will_not_validate(browser):
    await send(browser, lambda visit: visit.merge({"a": 1}))
    late = browser.copy().request()
    await send(browser, lambda visit: visit.destroy())
    token = await late.csrf_token("")
    assert len(token) == 70
    assert not late.changes_cookie
    assert await late.has_csrf_token(token, "") is False


# --- a store that fails


async def test_a_store_that_contradicts_itself_is_an_error_and_no_endless_loop(tmp_path):
    class Contradicting(MemorySessionStore):
        async def merge(self, key, changed, removed, expect, lifetime=None):
            return CONFLICT

    browser = Browser(Site(Contradicting(), Clock()))
    await send(browser, lambda visit: visit.merge({"a": 1}))
    with pytest.raises(StoreError, match="CONFLICT"):
        await browser.request().merge({"b": 1})


async def test_a_founding_that_failed_can_be_tried_again_by_the_same_request(tmp_path):
    class Failing(MemorySessionStore):
        fail = True

        async def set(self, key, *rest):
            if self.fail:
                self.fail = False
                raise StoreError("down")
            return await super().set(key, *rest)

    browser = Browser(Site(Failing(), Clock()))
    visit = browser.request()
    with pytest.raises(StoreError, match="down"):
        await visit.merge({"a": 1})
    assert not visit.changes_cookie
    assert await visit.merge({"a": 1}) is True


async def test_what_a_founding_without_an_answer_stored_is_in_no_session_after_a_log_out():
    class Unanswered(MemorySessionStore):
        answers = False

        async def set(self, key, *rest):
            outcome = await super().set(key, *rest)
            if not self.answers:
                self.answers = True
                raise StoreError("no answer")
            return outcome

    browser = Browser(Site(Unanswered(), Clock()))
    visit = browser.request()
    with pytest.raises(StoreError, match="no answer"):
        await visit.merge({"of the one before": 1})
    await visit.destroy()
    await visit.merge({"a": 1})
    browser.receive(visit)
    assert await data_of(browser) == {"a": 1}


async def test_the_mark_of_an_ended_session_holds_no_digest(browser):
    await send(browser, lambda visit: visit.merge({"a": 1}))
    selector = Credential.parse(browser.cookie).selector
    await send(browser, lambda visit: visit.destroy())
    mark = await browser.site.store.get(selector, {}, False)
    assert set(mark) == {"\0ended"}
    assert await browser.site.store.set(selector, mark, Lifetime(1, 1), {DIGEST: None}) is APPLIED


# --- calls gathered in one request, and calls cut short


def site_of(seed: int) -> Site:
    clock = Clock()
    order = random.Random(seed).choices([0, 0, 1, 2, 3, 12], k=400)
    return Site(YieldingStore(MemorySessionStore(clock=clock), order), clock)


async def opened(browser: Browser) -> None:
    visit = browser.request()
    await visit.merge({"a": 1})
    browser.receive(visit)


Step = Callable[[StoredSession], Awaitable[Any]]
STEPS: dict[str, Step] = {
    "set": lambda visit: visit.merge({"s": 1}),
    "update": lambda visit: visit.update(lambda data: data.update(n=data.get("n", 0) + 1)),
    "renew": lambda visit: visit.renew(),
    "renew with data": lambda visit: visit.renew({"r": 1}),
    "token": lambda visit: visit.csrf_token(""),
    "commit": lambda visit: visit.commit(),
}


@pytest.mark.drawn
@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("has_session", [True, False])
def test_a_log_in_gathered_with_anything_else_in_one_request_stands(step, has_session):
    async def scenario(seed: int) -> None:
        browser = Browser(site_of(seed))
        if has_session:
            await opened(browser)
        visit = browser.request()
        (await visit.load())["m"] = 1
        await asyncio.gather(STEPS[step](visit), visit.replace({"user": "ada"}, "ada"))
        await visit.commit()
        browser.receive(visit)
        assert (await data_of(browser)).get("user") == "ada", seed

    for seed in range(60):
        asyncio.run(scenario(seed))


@pytest.mark.drawn
@pytest.mark.parametrize("names", list(itertools.combinations_with_replacement(STEPS, 2)))
@pytest.mark.parametrize("has_session", [True, False])
def test_what_is_gathered_in_one_request_and_said_to_be_written_is_and_the_cookie_lives(names, has_session):
    async def scenario(seed: int) -> None:
        browser = Browser(site_of(seed))
        if has_session:
            await opened(browser)
        visit = browser.request()
        (await visit.load())["m"] = 1
        await asyncio.gather(*(STEPS[name](visit) for name in names))
        await visit.commit()
        browser.receive(visit)
        data = await data_of(browser)
        wanted = {"m": 1} | ({"a": 1} if has_session else {})
        wanted |= {"s": 1} if "set" in names else {}
        wanted |= {"n": names.count("update")} if "update" in names else {}
        wanted |= {"r": 1} if "renew with data" in names else {}
        assert data == wanted, seed

    for seed in range(60):
        asyncio.run(scenario(seed))


GATHERED_WITH_A_READ: dict[str, Step] = {
    "set": lambda visit: visit.merge({"a": 2}),
    "update": lambda visit: visit.update(lambda data: data.update(a=2)),
    "pluck": lambda visit: visit.pluck("a"),
    "commit": lambda visit: visit.commit(),
    "renew with data": lambda visit: visit.renew({"a": 2}),
    "log in": lambda visit: visit.replace({"user": "ada"}, "ada"),
}


@pytest.mark.parametrize("step", GATHERED_WITH_A_READ)
@pytest.mark.parametrize("is_loaded", [True, False])
def test_an_answer_from_before_a_write_of_the_same_request_does_not_hide_it_in_the_mapping(step, is_loaded):
    async def scenario(seed: int) -> None:
        browser = Browser(site_of(seed))
        await opened(browser)
        visit = browser.request()
        if is_loaded:
            (await visit.load())["m"] = 1
        await asyncio.gather(visit.get(), visit.load(), GATHERED_WITH_A_READ[step](visit))
        await visit.commit()
        browser.receive(visit)
        assert dict(await visit.load()) == await data_of(browser), seed

    for seed in range(30):
        asyncio.run(scenario(seed))


@pytest.mark.parametrize("last", [2, None])
def test_of_commits_that_overlap_in_one_request_none_undoes_what_another_has_stored(last):
    async def scenario(seed: int) -> None:
        browser = Browser(site_of(seed))
        await opened(browser)
        visit = browser.request()
        session = await visit.load()

        async def write_twice() -> None:
            session["a"] = 1.5
            assert await session.save()
            session.update({"a": last} if last else {})
            if last is None:
                del session["a"]
            assert await session.save()

        async def write(name: str) -> None:
            session[name] = 1
            assert await session.save()

        await asyncio.gather(write_twice(), write("b"), write("c"))
        browser.receive(visit)
        assert await data_of(browser) == {"b": 1, "c": 1} | ({"a": last} if last else {}), seed

    for seed in range(30):
        asyncio.run(scenario(seed))


def test_two_first_writes_gathered_with_a_renewal_make_one_session():
    async def scenario(seed: int) -> None:
        browser = Browser(site_of(seed))
        visit = browser.request()
        await asyncio.gather(visit.merge({"a": 1}), visit.merge({"b": 2}), visit.renew({"c": 3}))
        browser.receive(visit)
        assert await data_of(browser) == {"a": 1, "b": 2, "c": 3}, seed

    for seed in range(300):
        asyncio.run(scenario(seed))


def test_tasks_of_one_request_that_save_again_and_again_leave_what_the_mapping_shows():
    async def scenario(seed: int) -> None:
        browser = Browser(site_of(seed))
        await opened(browser)
        visit = browser.request()
        session = await visit.load()
        drawn = random.Random(seed)

        async def work(number: int) -> None:
            for turn in range(4):
                session[drawn.choice("abc")] = [number, turn]
                if drawn.random() < 0.3:
                    session.pop(drawn.choice("abc"), None)
                assert await session.save()

        await asyncio.gather(*(work(number) for number in range(5)))
        browser.receive(visit)
        assert await data_of(browser) == dict(session), seed

    for seed in range(30):
        asyncio.run(scenario(seed))


async def test_changes_told_to_a_commit_that_waits_for_another_are_not_stored_twice():
    class Meeting(MemorySessionStore):
        async def merge(self, *args):
            outcome = await super().merge(*args)
            if not late:
                late.append(asyncio.create_task(visit.commit(known)))
                await asyncio.sleep(0)
                await send(browser.copy(), lambda other: other.merge({"a": "another request's"}))
            return outcome

    late: list[asyncio.Task[bool]] = []
    browser = Browser(Site(Meeting(), Clock()))
    await opened(browser)
    visit = browser.request()
    session = await visit.load()
    session["a"] = "this one's"
    known = session.changes()
    await visit.commit()
    await late[0]
    assert await data_of(browser) == {"a": "another request's"}


def test_a_renewal_gathered_with_a_log_out_leaves_no_cookie():
    async def scenario(seed: int) -> None:
        browser = Browser(site_of(seed))
        await opened(browser)
        visit = browser.request()
        await asyncio.gather(visit.renew(), visit.destroy())
        browser.receive(visit)
        assert browser.cookie is None, seed

    for seed in range(100):
        asyncio.run(scenario(seed))


async def cancelled_after_its_first_write() -> tuple[Browser, StoredSession]:
    """Return a browser, and a request of it whose first write was cancelled when the store had made it."""

    class Slow(MemorySessionStore):
        async def set(self, key, *rest):
            outcome = await super().set(key, *rest)
            await asyncio.sleep(0)
            return outcome

    browser = Browser(Site(Slow(), Clock()))
    visit = browser.request()
    task = asyncio.ensure_future(visit.merge({"a": 1}))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    return browser, visit


async def test_a_cancelled_first_write_leaves_the_browser_the_session_that_it_founded():
    browser, visit = await cancelled_after_its_first_write()
    await visit.commit()
    browser.receive(visit)
    assert await data_of(browser) == {"a": 1}


async def test_a_read_after_a_cancelled_first_write_sees_what_it_wrote():
    _, visit = await cancelled_after_its_first_write()
    assert await visit.get() == {"a": 1}


@pytest.mark.parametrize("then", ["log in", "log out"])
async def test_a_first_write_that_was_cancelled_does_not_come_back_over_what_follows_it(then):
    browser, visit = await cancelled_after_its_first_write()
    await (visit.replace({"user": "ada"}, "ada") if then == "log in" else visit.destroy())
    await visit.commit()
    browser.receive(visit)
    assert await data_of(browser) == ({"user": "ada"} if then == "log in" else {})


async def test_of_two_first_writes_the_one_that_the_store_took_is_kept_where_it_refused_the_other():
    class Failing(MemorySessionStore):
        calls = 0

        async def set(self, key, *rest):
            self.calls += 1
            is_first = self.calls == 1
            await asyncio.sleep(0)
            if is_first:
                raise StoreError("down")
            return await super().set(key, *rest)

    browser = Browser(Site(Failing(), Clock()))
    visit = browser.request()
    said = await asyncio.gather(visit.merge({"a": 1}), visit.merge({"b": 2}), return_exceptions=True)
    browser.receive(visit)
    assert isinstance(said[0], StoreError)
    assert said[1] is True
    assert await data_of(browser) == {"b": 2}


@pytest.mark.parametrize("then", ["renew", "destroy"])
async def test_a_first_write_that_comes_late_is_kept_where_another_has_founded_the_session_and_gone_on(then):
    class Late(MemorySessionStore):
        calls = 0

        async def set(self, key, fields, *rest):
            self.calls += 1
            await (gone_on.wait() if "b" in fields and self.calls == 2 else asyncio.sleep(0))
            return await super().set(key, fields, *rest)

    async def write_and_go_on() -> None:
        await visit.merge({"a": 1})
        assert await (visit.renew() if then == "renew" else visit.destroy())
        gone_on.set()

    gone_on = asyncio.Event()
    browser = Browser(Site(Late(), Clock()))
    visit = browser.request()
    _, is_written = await asyncio.gather(write_and_go_on(), visit.merge({"b": 2}))
    browser.receive(visit)
    assert is_written
    assert await data_of(browser) == ({"a": 1, "b": 2} if then == "renew" else {"b": 2})


async def test_what_is_written_to_the_mapping_while_it_is_being_saved_is_saved_next():
    browser = Browser(Site(YieldingStore(MemorySessionStore()), Clock()))
    await opened(browser)
    visit = browser.request()
    session = await visit.load()
    session["changed"], session["removed"] = 1, 1
    saving = asyncio.ensure_future(visit.commit())
    await asyncio.sleep(0)
    session["changed"] = 2
    del session["removed"]
    await saving
    await visit.commit()
    assert await data_of(browser) == {"a": 1, "changed": 2}


async def test_what_is_written_to_a_cleared_mapping_while_it_is_being_saved_is_saved_next():
    browser = Browser(Site(YieldingStore(MemorySessionStore()), Clock()))
    await opened(browser)
    visit = browser.request()
    session = await visit.load()
    session.clear()
    session["first"] = 1
    saving = asyncio.ensure_future(visit.commit())
    await asyncio.sleep(0)
    session["next"] = 2
    await saving
    await visit.commit()
    browser.receive(visit)
    assert await data_of(browser) == {"first": 1, "next": 2}

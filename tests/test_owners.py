import asyncio
import random
from collections.abc import Awaitable, Callable, Coroutine
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.responses import Response

from server_session import ConfigurationError, MemorySessionStore, Sessions
from server_session._lifecycle import Visit
from server_session._owners import _key_of
from server_session._record import MARK_SECONDS, user_fields
from server_session._tokens import Credential
from server_session.stores._base import Outcome
from server_session.testing import YieldingStore
from tests.asgi_client import scope_of
from tests.visitors import STORES, Browser, Clock, Site, make_store


@pytest.fixture(params=STORES)
def site(request: pytest.FixtureRequest, tmp_path: Path) -> Site:
    clock = Clock()
    return Site(make_store(request.param, tmp_path, clock), clock)


def run(coroutine: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(coroutine)


async def send(browser: Browser, step: Callable[[Visit], Awaitable[Any]]) -> Any:
    visit = browser.request()
    result = await step(visit)
    await visit.commit()
    browser.receive(visit)
    return result


async def logged_in(site: Site, owner: str = "ada") -> Browser:
    browser = Browser(site)
    assert await send(browser, lambda visit: visit.replace({"user": owner}, owner)) is True
    return browser


async def data_of(browser: Browser) -> dict[str, Any]:
    return await browser.copy().request().get()


async def ids(site: Site, owner: str = "ada") -> list[str]:
    return [session.id for session in await site.policy.owners.sessions(owner)]


def id_of(browser: Browser) -> str:
    credential = Credential.parse(browser.cookie or "")
    assert credential is not None
    return credential.selector


async def listed(site: Site, owner: str = "ada") -> set[str]:
    """What stands in the owner's index, be it alive or not."""
    index = await site.store.get(_key_of(owner), {}, False)
    return set() if isinstance(index, Outcome) else set(user_fields(index))


class Tidying(MemorySessionStore):
    """A store under whose keys every log-in looks after the index."""

    def id(self) -> str:
        return super().id()[:-1] + "A"


# --- whose sessions are which


def test_an_owner_s_sessions_are_listed_the_oldest_first_with_the_time_they_were_founded(site):
    async def scenario() -> None:
        founded = []
        for _ in range(3):
            founded.append((id_of(await logged_in(site)), datetime.fromtimestamp(site.clock(), UTC)))
            site.clock.advance(7)
        await logged_in(site, "bob")
        sessions = await site.policy.owners.sessions("ada")
        assert [(one.id, one.created) for one in sessions] == founded
        assert all(one.created.tzinfo is UTC and not one.is_current for one in sessions)

    run(scenario())


def test_the_oldest_comes_first_in_whatever_order_a_store_keeps_the_fields():
    class Backwards(YieldingStore):
        async def get(self, key, expect, touch=True):
            fields = await super().get(key, expect, touch)
            return fields if isinstance(fields, Outcome) else dict(reversed(fields.items()))

    clock = Clock()
    site = Site(Backwards(MemorySessionStore(clock=clock)), clock)

    async def scenario() -> None:
        founded = []
        for _ in range(5):
            founded.append(id_of(await logged_in(site)))
            clock.advance(7)
        assert await ids(site) == founded

    run(scenario())


def test_one_who_never_logged_in_has_no_sessions_and_asking_makes_no_record(site):
    async def scenario() -> None:
        assert await site.policy.owners.sessions("ada") == []
        assert await site.policy.owners.destroy("ada") == 0
        assert await site.store.get(_key_of("ada"), {}, False) is Outcome.MISSING

    run(scenario())


@pytest.mark.parametrize("end", ["destroy", "replace", "expire"])
def test_a_session_that_ended_is_no_longer_listed(site, end):
    async def scenario() -> None:
        browser, other = await logged_in(site), await logged_in(site)
        if end == "expire":
            site.clock.advance(1000)
            await data_of(other)
            site.clock.advance(1000)
        elif end == "destroy":
            await send(browser, lambda visit: visit.destroy())
        else:
            await send(browser, lambda visit: visit.replace({}))
        assert await ids(site) == [id_of(other)]

    run(scenario())


@pytest.mark.parametrize("step", ["renew", "reset in place"])
def test_a_session_that_was_renewed_or_reset_stays_its_owner_s(site, step):
    async def scenario() -> None:
        browser = await logged_in(site)
        before = id_of(browser)
        if step == "renew":
            await send(browser, lambda visit: visit.renew())
        else:
            await send(browser, lambda visit: visit.replace({"form": 1}, in_place=True))
        assert await ids(site) == [before]
        assert await site.policy.owners.destroy("ada") == 1
        assert await data_of(browser) == {}

    run(scenario())


def test_who_logs_in_as_another_takes_the_session_from_the_first_owner(site):
    async def scenario() -> None:
        browser = await logged_in(site)
        await send(browser, lambda visit: visit.replace({"user": "bob"}, "bob"))
        assert await ids(site) == []
        assert await ids(site, "bob") == [id_of(browser)]
        assert await site.policy.owners.destroy("ada") == 0
        assert await data_of(browser) == {"user": "bob"}

    run(scenario())


def test_what_is_asked_of_an_owner_restarts_no_idle_clock(site):
    async def scenario() -> None:
        browser = await logged_in(site)
        for _ in range(3):
            site.clock.advance(700)
            await ids(site)
        assert await data_of(browser) == {}

    run(scenario())


@given(st.text(), st.text())
def test_owners_never_meet_whatever_they_are_called(one, other):
    assert (_key_of(one) == _key_of(other)) == (one == other)
    assert len(_key_of(one)) == 24


@pytest.mark.parametrize("owner", ["ada", "é" * 5000, "\0", "owner", "a/../b", " "])
def test_any_text_is_an_owner_and_its_name_is_in_no_key(site, owner):
    async def scenario() -> None:
        browser = await logged_in(site, owner)
        assert await ids(site, owner) == [id_of(browser)]
        assert await site.policy.owners.destroy(owner) == 1
        assert await data_of(browser) == {}

    run(scenario())


# --- log out everywhere


def test_all_sessions_of_an_owner_end_and_no_other_s(site):
    async def scenario() -> None:
        browsers = [await logged_in(site) for _ in range(5)]
        bob = await logged_in(site, "bob")
        visitor = Browser(site)
        await send(visitor, lambda visit: visit.merge({"a": 1}))
        assert await site.policy.owners.destroy("ada") == 5
        assert [await data_of(browser) for browser in browsers] == [{}] * 5
        assert await data_of(bob) == {"user": "bob"}
        assert await data_of(visitor) == {"a": 1}
        assert await ids(site) == []
        assert await site.policy.owners.destroy("ada") == 0

    run(scenario())


def test_one_session_can_be_spared_and_one_alone_can_be_ended(site):
    async def scenario() -> None:
        spared, second, third = [await logged_in(site) for _ in range(3)]
        assert await site.policy.owners.destroy("ada", only=id_of(second), but=id_of(spared)) == 1
        assert set(await ids(site)) == {id_of(spared), id_of(third)}
        assert await site.policy.owners.destroy("ada", only=id_of(spared), but=id_of(spared)) == 0
        assert await site.policy.owners.destroy("ada", but=id_of(spared)) == 1
        assert await ids(site) == [id_of(spared)]
        assert await data_of(spared) == {"user": "ada"}

    run(scenario())


def test_by_an_owner_nobody_ends_a_session_of_someone_else(site):
    async def scenario() -> None:
        bob = await logged_in(site, "bob")
        visitor = Browser(site)
        await send(visitor, lambda visit: visit.merge({"a": 1}))
        await logged_in(site)
        for foreign in (id_of(bob), id_of(visitor), "x" * 24, "", _key_of("bob")):
            assert await site.policy.owners.destroy("ada", only=foreign) == 0
        assert await data_of(bob) == {"user": "bob"}
        assert await data_of(visitor) == {"a": 1}

    run(scenario())


@pytest.mark.parametrize("seen", [True, False])
def test_a_request_under_way_cannot_bring_back_what_was_ended_everywhere(site, seen):
    async def scenario() -> None:
        browser = await logged_in(site)
        blind, mapped = browser.request(), browser.request()
        if seen:
            await blind.get()
        session = await mapped.load()
        await site.policy.owners.destroy("ada")
        session["late"] = 1
        assert await blind.merge({"late": 1}) is False
        assert await mapped.commit() is False
        assert (blind.cookie, mapped.cookie) == (None, None)
        assert await data_of(browser) == {}

    run(scenario())


# --- a log-in among it


def test_two_first_log_ins_of_an_owner_at_once_are_both_listed(site):
    async def scenario() -> None:
        browsers = await asyncio.gather(*(logged_in(site) for _ in range(5)))
        assert sorted(await ids(site)) == sorted(map(id_of, browsers))

    run(scenario())


def test_a_log_in_that_meets_the_end_of_all_is_refused_and_leaves_what_was_before_it(site):
    class Late(YieldingStore):
        """Ends all sessions of the owner between the listing of a session and its founding."""

        async def set(self, key, fields, lifetime, expect=None):
            if "user" in fields:
                assert await site.policy.owners.destroy("ada") == 0
            return await super().set(key, fields, lifetime, expect)

    async def scenario() -> None:
        browser = Browser(site)
        await send(browser, lambda visit: visit.merge({"a": 1}))
        slow = Browser(site.with_store(Late(site.store)), browser.cookie)
        assert await send(slow, lambda visit: visit.replace({"user": "ada"}, "ada")) is False
        assert slow.received == []
        assert await data_of(browser) == {"a": 1}
        assert await ids(site) == []
        # The refusal was of that moment: who logs in after it is logged in.
        assert await send(browser, lambda visit: visit.replace({"user": "ada"}, "ada")) is True
        assert await ids(site) == [id_of(browser)]

    run(scenario())


@pytest.mark.parametrize("seed", range(40))
def test_a_log_in_that_overlaps_the_end_of_all_is_ended_or_listed(seed):
    clock = Clock()
    order = random.Random(seed).choices([0, 0, 1, 2, 3, 12], k=300)
    site = Site(YieldingStore(MemorySessionStore(clock=clock), order), clock)

    async def scenario() -> None:
        browsers = [await logged_in(site), await logged_in(site), Browser(site)]
        before = [browser.copy() for browser in browsers]
        said = await asyncio.gather(
            site.policy.owners.destroy("ada"),
            *(send(browser, lambda visit: visit.replace({"user": "ada"}, "ada")) for browser in browsers),
            site.policy.owners.sessions("ada"),
        )
        living = set(await ids(site))
        for one, old, answer in zip(browsers, before, said[1:4], strict=True):
            data = await data_of(one)
            assert (data == {"user": "ada"}) == (one.cookie is not None and id_of(one) in living)
            # What the log-in replaced has ended with it.
            assert answer is False or await data_of(old) == {}
        assert await site.policy.owners.destroy("ada") == len(living)
        assert [await data_of(browser) for browser in browsers] == [{}] * 3
        assert await listed(site) == set()

    run(scenario())


# --- the index


def test_the_index_outlives_every_session_that_it_lists(site):
    async def scenario() -> None:
        browser = await logged_in(site)
        # The site's deadline is a day; nothing but the session is touched until then.
        for _ in range(86400 // 1200 - 1):
            site.clock.advance(1200)
            assert await data_of(browser) == {"user": "ada"}
        assert await ids(site) == [id_of(browser)]
        assert await site.policy.owners.destroy("ada") == 1

    run(scenario())


def test_without_a_deadline_the_index_lives_for_as_long_as_a_browser_keeps_a_cookie(site):
    site.absolute = None

    async def scenario() -> None:
        await logged_in(site)
        site.clock.advance(399 * 86400)
        assert len(await listed(site)) == 1
        site.clock.advance(2 * 86400)
        assert await site.store.get(_key_of("ada"), {}, False) is Outcome.MISSING

    run(scenario())


def test_the_index_of_one_who_logs_in_again_and_again_does_not_grow():
    clock = Clock()
    site = Site(Tidying(clock=clock), clock)

    async def scenario() -> None:
        browser = Browser(site)
        for _ in range(200):
            await send(browser, lambda visit: visit.replace({"user": "ada"}, "ada"))
            clock.advance(MARK_SECONDS + 1)
        assert len(await listed(site)) <= 2
        assert await ids(site) == [id_of(browser)]

    run(scenario())


def test_about_one_log_in_in_sixteen_looks_after_the_index():
    clock = Clock()
    store = MemorySessionStore(clock=clock)
    site = Site(store, clock)

    async def scenario() -> None:
        browser = Browser(site)
        for _ in range(300):
            await send(browser, lambda visit: visit.replace({"user": "ada"}, "ada"))
            clock.advance(MARK_SECONDS + 1)
        # 300 log-ins without one of them have odds of 1 to 10^8.
        assert len(await listed(site)) < 300

    run(scenario())


def test_an_entry_listed_within_the_minute_is_left_for_it_may_be_about_to_live():
    clock = Clock()
    site = Site(Tidying(clock=clock), clock)

    async def scenario() -> None:
        await site.policy.owners.enter("ada", "n" * 24)
        clock.advance(MARK_SECONDS - 1)
        browser = await logged_in(site)
        await ids(site)
        assert await listed(site) == {"n" * 24, id_of(browser)}
        clock.advance(2)
        assert await ids(site) == [id_of(browser)]
        assert await listed(site) == {id_of(browser)}

    run(scenario())


def test_an_index_of_nothing_goes_within_a_minute_and_a_later_log_in_is_listed(site):
    async def scenario() -> None:
        await logged_in(site)
        await site.policy.owners.destroy("ada")
        assert await listed(site) == set()
        site.clock.advance(MARK_SECONDS - 1)
        browser = await logged_in(site)
        site.clock.advance(MARK_SECONDS + 1)
        assert await ids(site) == [id_of(browser)]
        await site.policy.owners.destroy("ada")
        site.clock.advance(MARK_SECONDS + 1)
        assert await site.store.get(_key_of("ada"), {}, False) is Outcome.MISSING
        assert await site.store.get(id_of(browser), {}, False) is Outcome.MISSING

    run(scenario())


def test_a_log_in_while_an_empty_index_is_let_go_keeps_the_index():
    clock = Clock()
    store = MemorySessionStore(clock=clock)
    site = Site(store, clock)
    entered: list[Browser] = []

    class Between(YieldingStore):
        """Lets a log-in through just before the empty index is given its minute."""

        async def set(self, key, fields, lifetime, expect=None):
            if key == _key_of("ada") and not user_fields(fields):
                entered.append(await logged_in(site))
            return await super().set(key, fields, lifetime, expect)

    async def scenario() -> None:
        await logged_in(site)
        assert await site.with_store(Between(store)).policy.owners.destroy("ada") == 1
        clock.advance(MARK_SECONDS + 1)
        assert await ids(site) == [id_of(entered[0])]

    run(scenario())


# --- a store that may drop what it holds


def test_a_store_that_evicts_serves_no_owners_and_says_so_before_anything_is_written():
    store = MemorySessionStore()
    store.evicts = True
    sessions = Sessions(session_store=store)

    async def scenario() -> None:
        response = Response()
        refused: list[Callable[[], Awaitable[Any]]] = [
            lambda: sessions.log_in(scope_of(), response, "ada"),
            lambda: sessions.sessions_of("ada"),
            lambda: sessions.destroy_sessions_of("ada"),
        ]
        for call in refused:
            with pytest.raises(
                ConfigurationError, match=r"MemorySessionStore may drop what it holds.*log_in and destroy"
            ):
                await call()
        assert store.stats().sessions == 0
        assert "set-cookie" not in response.headers
        assert await sessions.replace_session_data(scope_of(), response, {"user": "ada"}) is True

    run(scenario())


# --- the functions


@pytest.mark.parametrize("blocking", [False, True])
def test_the_functions_know_the_current_session_by_its_request(blocking, tmp_path):
    store = make_store("memory", tmp_path, Clock())
    sessions = Sessions(session_store=store, clock=Clock())

    def call(name: str, *arguments: Any, **options: Any) -> Any:
        if blocking:
            return getattr(sessions.sync, name)(*arguments, **options)
        return run(getattr(sessions, name)(*arguments, **options))

    cookies = []
    for _ in range(3):
        response = Response()
        assert call("log_in", scope_of(), response, "ada", {"n": 1}) is True
        cookies.append(response.headers["set-cookie"].partition(";")[0])
    mine = scope_of(cookie=cookies[1])
    assert [one.is_current for one in call("sessions_of", "ada")] == [False] * 3
    there = call("sessions_of", "ada", current=mine)
    assert sum(one.is_current for one in there) == 1
    other = next(one for one in there if not one.is_current)
    assert call("destroy_sessions_of", "ada", only=other.id) == 1
    assert call("destroy_sessions_of", "ada", except_current=mine) == 1
    assert call("get_session_data", scope_of(cookie=cookies[1])) == {"n": 1}
    # A request without a session spares none.
    assert call("destroy_sessions_of", "ada", except_current=scope_of()) == 1
    assert call("sessions_of", "ada") == []


@pytest.mark.parametrize("owner", [None, "", 7, b"ada", ["ada"], {"id": 7}])
def test_what_is_no_owner_s_name_is_a_type_error_that_names_the_function(owner):
    sessions = Sessions(session_store=MemorySessionStore())
    calls: dict[str, Callable[[], Awaitable[Any]]] = {
        "log_in": lambda: sessions.log_in(scope_of(), Response(), owner),
        "sessions_of": lambda: sessions.sessions_of(owner),
        "destroy_sessions_of": lambda: sessions.destroy_sessions_of(owner),
    }
    for name, call in calls.items():
        with pytest.raises(TypeError, match=f"^{name} takes the owner's name or id as text"):
            run(call())  # type: ignore[arg-type]


def test_the_memory_store_serves_no_owners_where_it_was_told_to_evict():
    assert MemorySessionStore(max_sessions=5, when_full="evict").evicts is True
    assert MemorySessionStore(max_sessions=5).evicts is False

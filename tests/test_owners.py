import asyncio
import random
from collections.abc import Awaitable, Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.responses import Response

from server_session import (
    ConfigurationError,
    ConflictError,
    MemorySessionStore,
    RecordError,
    SessionError,
    Sessions,
    SessionStore,
    StoreError,
)
from server_session import _record as record
from server_session._colour import Colour
from server_session._owners import OwnerIndex, _key_of
from server_session._policy import Policy
from server_session._record import MARK_SECONDS, STAMP, user_fields
from server_session._tokens import Credential, short_digest
from server_session._tries import Tries
from server_session.http.requests import AsgiRequest
from server_session.kernel.stored import StoredSession
from server_session.stores._base import Outcome
from server_session.stores._over import StoreOver
from server_session.testing import YieldingStore
from tests.asgi_client import scope_of
from tests.visitors import (
    EVERY_STORE,
    STORES,
    Browser,
    Clock,
    Site,
    Watched,
    data_of,
    make_store,
    over_every_store,
    send,
)


@pytest.fixture(params=STORES)
def site(request: pytest.FixtureRequest, tmp_path: Path) -> Site:
    clock = Clock()
    return Site(make_store(request.param, tmp_path, clock), clock)


async def logged_in(site: Site, owner: str = "ada") -> Browser:
    browser = Browser(site)
    assert await send(browser, lambda visit: visit.replace({"user": owner}, owner)) is True
    return browser


async def ids(site: Site, owner: str = "ada") -> list[str]:
    return [session.id for session in await OwnerIndex(site.policy, owner).sessions()]


def id_of(browser: Browser) -> str:
    credential = Credential.parse(browser.cookie or "")
    assert credential is not None
    return credential.selector


async def listed(site: Site, owner: str = "ada") -> set[str]:
    """What stands in the owner's index, be it alive or not."""
    index = await site.store.get(_key_of(owner), {}, False)
    return set() if isinstance(index, Outcome) else set(user_fields(index))


async def refuse_to_wait(_: Tries, names: Collection[str]) -> None:
    raise AssertionError(f"nobody else writes {names}")


class NotTidying(Watched):
    """A store under whose keys no log-in looks after the index."""

    def id(self) -> str:
        return super().id()[:-1] + "B"


class Tidying(MemorySessionStore):
    """A store under whose keys every log-in looks after the index."""

    def id(self) -> str:
        return super().id()[:-1] + "A"


# --- whose sessions are which


async def test_an_owner_s_sessions_are_listed_the_oldest_first_with_the_time_they_were_founded(site):
    founded = []
    for _ in range(3):
        founded.append((id_of(await logged_in(site)), datetime.fromtimestamp(site.clock(), UTC)))
        site.clock.advance(7)
    await logged_in(site, "bob")
    sessions = await OwnerIndex(site.policy, "ada").sessions()
    assert [(one.id, one.created) for one in sessions] == founded
    assert all(one.created.tzinfo is UTC and not one.is_current for one in sessions)


async def test_the_oldest_comes_first_in_whatever_order_a_store_keeps_the_fields():
    class Backwards(YieldingStore):
        async def get(self, key, *rest):
            fields = await super().get(key, *rest)
            return fields if isinstance(fields, Outcome) else dict(reversed(fields.items()))

    clock = Clock()
    site = Site(Backwards(MemorySessionStore(clock=clock)), clock)

    founded = []
    for _ in range(5):
        founded.append(id_of(await logged_in(site)))
        clock.advance(7)
    assert await ids(site) == founded


async def test_one_who_never_logged_in_has_no_sessions_and_asking_makes_no_record(site):
    assert await OwnerIndex(site.policy, "ada").sessions() == []
    assert await OwnerIndex(site.policy, "ada").destroy() == 0
    assert await site.store.get(_key_of("ada"), {}, False) is Outcome.MISSING


@pytest.mark.parametrize("end", ["destroy", "replace", "expire"])
async def test_a_session_that_ended_is_no_longer_listed(site, end):
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


@pytest.mark.parametrize("step", ["renew", "reset in place"])
async def test_a_session_that_was_renewed_or_reset_stays_its_owner_s(site, step):
    browser = await logged_in(site)
    before = id_of(browser)
    if step == "renew":
        await send(browser, lambda visit: visit.renew())
    else:
        await send(browser, lambda visit: visit.replace({"form": 1}, in_place=True))
    assert await ids(site) == [before]
    assert await OwnerIndex(site.policy, "ada").destroy() == 1
    assert await data_of(browser) == {}


async def test_who_logs_in_as_another_takes_the_session_from_the_first_owner(site):
    browser = await logged_in(site)
    await send(browser, lambda visit: visit.replace({"user": "bob"}, "bob"))
    assert await ids(site) == []
    assert await ids(site, "bob") == [id_of(browser)]
    assert await OwnerIndex(site.policy, "ada").destroy() == 0
    assert await data_of(browser) == {"user": "bob"}


async def test_what_is_asked_of_an_owner_restarts_no_idle_clock(site):
    browser = await logged_in(site)
    for _ in range(3):
        site.clock.advance(700)
        await ids(site)
    assert await data_of(browser) == {}


@given(st.text(), st.text())
def test_owners_never_meet_whatever_they_are_called(one, other):
    assert (_key_of(one) == _key_of(other)) == (one == other)
    assert len(_key_of(one)) == 24


@pytest.mark.parametrize("owner", ["ada", "é" * 5000, "\0", "owner", "a/../b", " "])
async def test_any_text_is_an_owner_and_its_name_is_in_no_key(site, owner):
    browser = await logged_in(site, owner)
    assert await ids(site, owner) == [id_of(browser)]
    assert await OwnerIndex(site.policy, owner).destroy() == 1
    assert await data_of(browser) == {}


# --- log out everywhere


async def test_all_sessions_of_an_owner_end_and_no_other_s(site):
    browsers = [await logged_in(site) for _ in range(5)]
    bob = await logged_in(site, "bob")
    visitor = Browser(site)
    await send(visitor, lambda visit: visit.merge({"a": 1}))
    assert await OwnerIndex(site.policy, "ada").destroy() == 5
    assert [await data_of(browser) for browser in browsers] == [{}] * 5
    assert await data_of(bob) == {"user": "bob"}
    assert await data_of(visitor) == {"a": 1}
    assert await ids(site) == []
    assert await OwnerIndex(site.policy, "ada").destroy() == 0


async def test_one_session_can_be_spared_and_one_alone_can_be_ended(site):
    spared, second, third = [await logged_in(site) for _ in range(3)]
    assert await OwnerIndex(site.policy, "ada").destroy(only=id_of(second), but=id_of(spared)) == 1
    assert set(await ids(site)) == {id_of(spared), id_of(third)}
    assert await OwnerIndex(site.policy, "ada").destroy(only=id_of(spared), but=id_of(spared)) == 0
    assert await OwnerIndex(site.policy, "ada").destroy(but=id_of(spared)) == 1
    assert await ids(site) == [id_of(spared)]
    assert await data_of(spared) == {"user": "ada"}


async def test_by_an_owner_nobody_ends_a_session_of_someone_else(site):
    bob = await logged_in(site, "bob")
    visitor = Browser(site)
    await send(visitor, lambda visit: visit.merge({"a": 1}))
    await logged_in(site)
    for foreign in (id_of(bob), id_of(visitor), "x" * 24, "", _key_of("bob")):
        assert await OwnerIndex(site.policy, "ada").destroy(only=foreign) == 0
    assert await data_of(bob) == {"user": "bob"}
    assert await data_of(visitor) == {"a": 1}


async def test_each_session_that_is_ended_everywhere_is_told_of_once(site):
    browsers = [await logged_in(site) for _ in range(3)]
    await OwnerIndex(site.policy, "ada").destroy(only=id_of(browsers[0]))
    assert site.signals[-1] == ("destroyed", short_digest(id_of(browsers[0])), "")
    await OwnerIndex(site.policy, "ada").destroy()
    await OwnerIndex(site.policy, "ada").destroy()
    ended = [signal.session for signal in site.signals if signal.event == "destroyed"]
    assert sorted(ended) == sorted(short_digest(id_of(browser)) for browser in browsers)


@pytest.mark.parametrize("seen", [True, False])
async def test_a_request_under_way_cannot_bring_back_what_was_ended_everywhere(site, seen):
    browser = await logged_in(site)
    blind, mapped = browser.request(), browser.request()
    if seen:
        await blind.get()
    session = await mapped.load()
    await OwnerIndex(site.policy, "ada").destroy()
    session["late"] = 1
    assert await blind.merge({"late": 1}) is False
    assert await mapped.commit() is False
    assert (blind.changes_cookie, mapped.changes_cookie) == (False, False)
    assert await data_of(browser) == {}


# --- a log-in among it


@over_every_store
async def test_two_first_log_ins_of_an_owner_at_once_are_both_listed(site):
    browsers = await asyncio.gather(*(logged_in(site) for _ in range(5)))
    assert sorted(await ids(site)) == sorted(map(id_of, browsers))


async def test_a_log_in_that_meets_the_end_of_all_is_refused_and_leaves_what_was_before_it(site):
    class Late(YieldingStore):
        """Ends all sessions of the owner between the listing of a session and its founding."""

        async def set(self, key, fields, *rest):
            if "user" in fields:
                assert await OwnerIndex(site.policy, "ada").destroy() == 0
            return await super().set(key, fields, *rest)

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


@pytest.mark.parametrize("seed", range(40))
async def test_a_log_in_that_overlaps_the_end_of_all_is_ended_or_listed(seed):
    clock = Clock()
    order = random.Random(seed).choices([0, 0, 1, 2, 3, 12], k=300)
    site = Site(YieldingStore(MemorySessionStore(clock=clock), order), clock)

    browsers = [await logged_in(site), await logged_in(site), Browser(site)]
    before = [browser.copy() for browser in browsers]
    said = await asyncio.gather(
        OwnerIndex(site.policy, "ada").destroy(),
        *(send(browser, lambda visit: visit.replace({"user": "ada"}, "ada")) for browser in browsers),
        OwnerIndex(site.policy, "ada").sessions(),
    )
    living = set(await ids(site))
    for one, old, answer in zip(browsers, before, said[1:4], strict=True):
        data = await data_of(one)
        assert (data == {"user": "ada"}) == (one.cookie is not None and id_of(one) in living)
        # What the log-in replaced has ended with it.
        assert answer is False or await data_of(old) == {}
    assert await OwnerIndex(site.policy, "ada").destroy() == len(living)
    assert [await data_of(browser) for browser in browsers] == [{}] * 3
    assert await listed(site) == set()


# --- the index


async def test_the_index_outlives_every_session_that_it_lists(site):
    browser = await logged_in(site)
    # The site's deadline is a day; nothing but the session is touched until then.
    for _ in range(86400 // 1200 - 1):
        site.clock.advance(1200)
        assert await data_of(browser) == {"user": "ada"}
    assert await ids(site) == [id_of(browser)]
    assert await OwnerIndex(site.policy, "ada").destroy() == 1


async def test_without_a_deadline_the_index_lives_for_as_long_as_a_browser_keeps_a_cookie(site):
    site.absolute = None

    await logged_in(site)
    site.clock.advance(399 * 86400)
    assert len(await listed(site)) == 1
    site.clock.advance(2 * 86400)
    assert await site.store.get(_key_of("ada"), {}, False) is Outcome.MISSING


async def test_the_index_of_one_who_logs_in_again_and_again_does_not_grow():
    clock = Clock()
    site = Site(Tidying(clock=clock), clock)

    browser = Browser(site)
    for _ in range(200):
        await send(browser, lambda visit: visit.replace({"user": "ada"}, "ada"))
        clock.advance(MARK_SECONDS + 1)
    assert len(await listed(site)) <= 2
    assert await ids(site) == [id_of(browser)]


async def test_about_one_log_in_in_sixteen_looks_after_the_index():
    clock = Clock()
    store = MemorySessionStore(clock=clock)
    site = Site(store, clock)

    browser = Browser(site)
    for _ in range(300):
        await send(browser, lambda visit: visit.replace({"user": "ada"}, "ada"))
        clock.advance(MARK_SECONDS + 1)
    # 300 log-ins without one of them have odds of 1 to 10^8.
    assert len(await listed(site)) < 300


async def test_an_entry_listed_within_the_minute_is_left_for_it_may_be_about_to_live(monkeypatch):
    monkeypatch.setattr(Tries, "next", refuse_to_wait)
    clock = Clock()
    site = Site(Tidying(clock=clock), clock)

    await OwnerIndex(site.policy, "ada").enter("n" * 24)
    clock.advance(MARK_SECONDS - 1)
    browser = await logged_in(site)
    await ids(site)
    assert await listed(site) == {"n" * 24, id_of(browser)}
    clock.advance(2)
    assert await ids(site) == [id_of(browser)]
    assert await listed(site) == {id_of(browser)}


async def test_an_index_of_nothing_goes_within_a_minute_and_a_later_log_in_is_listed(site):
    await logged_in(site)
    await OwnerIndex(site.policy, "ada").destroy()
    assert await listed(site) == set()
    site.clock.advance(MARK_SECONDS - 1)
    browser = await logged_in(site)
    site.clock.advance(MARK_SECONDS + 1)
    assert await ids(site) == [id_of(browser)]
    await OwnerIndex(site.policy, "ada").destroy()
    site.clock.advance(MARK_SECONDS + 1)
    assert await site.store.get(_key_of("ada"), {}, False) is Outcome.MISSING
    assert await site.store.get(id_of(browser), {}, False) is Outcome.MISSING


async def test_a_log_in_while_an_empty_index_is_let_go_keeps_the_index():
    clock = Clock()
    store = MemorySessionStore(clock=clock)
    site = Site(store, clock)
    entered: list[Browser] = []

    class Between(YieldingStore):
        """Lets a log-in through just before the empty index is given its minute."""

        async def set(self, key, fields, *rest):
            if key == _key_of("ada") and not user_fields(fields):
                entered.append(await logged_in(site))
            return await super().set(key, fields, *rest)

    await logged_in(site)
    assert await OwnerIndex(site.with_store(Between(store)).policy, "ada").destroy() == 1
    clock.advance(MARK_SECONDS + 1)
    assert await ids(site) == [id_of(entered[0])]


# --- when a session was last seen


def seen_at(site: Site) -> datetime:
    """The present, in whole seconds, as a stamp tells it."""
    return datetime.fromtimestamp(int(site.clock()), UTC)


async def last_seen(site: Site) -> datetime:
    (one,) = await OwnerIndex(site.policy, "ada").sessions()
    return one.last_seen


WRITES: dict[str, Callable[[StoredSession], Awaitable[Any]]] = {
    "set": lambda visit: visit.merge({"a": 1}),
    "update": lambda visit: visit.update(lambda data: data.update(a=2)),
    "pluck": lambda visit: visit.pluck("user"),
    "reset": lambda visit: visit.replace({"a": 3}, in_place=True),
    "renew": lambda visit: visit.renew(),
}
READS: dict[str, Callable[[StoredSession], Awaitable[Any]]] = {
    "get": lambda visit: visit.get(),
    "load": lambda visit: visit.load(),
    "token": lambda visit: visit.csrf_token(""),
    "fresh": lambda visit: visit.require_fresh(1000),
}


@pytest.mark.parametrize("write", WRITES)
async def test_each_write_tells_when_a_session_was_last_seen(site, write):
    browser = await logged_in(site)
    founded = seen_at(site)
    site.clock.advance(10)
    assert await last_seen(site) == founded
    await send(browser, WRITES[write])
    assert await last_seen(site) == seen_at(site)


@pytest.mark.parametrize("read", READS)
async def test_a_read_tells_once_a_minute_with_one_call_more(site, read):
    store = Watched(site.store)
    watched = site.with_store(store)

    browser = await logged_in(watched)
    founded = seen_at(site)
    store.calls.clear()
    for seconds, calls in ((60, ["get"]), (1, ["get", "merge"]), (60, ["get"]), (1, ["get", "merge"])):
        site.clock.advance(seconds)
        store.calls.clear()
        await send(browser, READS[read])
        assert store.calls == calls
        if calls == ["get"]:
            assert await last_seen(site) < seen_at(site)
        else:
            assert await last_seen(site) == seen_at(site)
    assert founded < await last_seen(site)


@pytest.mark.parametrize("write", ["set", "update", "reset", "renew"])
async def test_a_write_needs_no_call_more_to_tell(site, write):
    store = Watched(site.store)
    watched = site.with_store(store)

    browser = await logged_in(watched)
    site.clock.advance(100)
    store.calls.clear()
    await send(browser, WRITES[write])
    assert len(store.calls) == (1 if write == "set" else 2)


async def test_what_only_asks_whether_a_session_lives_is_no_sight_of_it(site):
    browser = await logged_in(site)
    founded = seen_at(site)
    site.clock.advance(100)
    assert await browser.request().is_alive() is True
    await ids(site)
    assert await last_seen(site) == founded


async def test_a_session_of_nobody_costs_one_call_to_read_however_old_its_last_write_is(site):
    store = Watched(site.store)
    browser = Browser(site.with_store(store))

    await send(browser, lambda visit: visit.merge({"a": 1}))
    site.clock.advance(1000)
    store.calls.clear()
    await send(browser, lambda visit: visit.get())
    assert store.calls == ["get"]


async def test_a_read_of_a_session_that_cannot_tell_is_a_read_all_the_same(site):
    store = Watched(site.store)
    watched = site.with_store(store)

    browser = await logged_in(watched)
    site.clock.advance(100)
    store.fails = {"merge"}
    assert await browser.request().get() == {"user": "ada"}
    assert store.calls[-2:] == ["get", "merge"]


async def test_a_sight_that_meets_a_write_gives_way_to_it(site):
    class Racing(Watched):
        async def merge(self, key, changed, *rest):
            if set(changed) == {STAMP}:
                await Browser(site, browser.cookie).request().merge({"b": 2})
                written.append(await stamp())
            return await super().merge(key, changed, *rest)

    async def stamp() -> object:
        fields = await site.store.get(id_of(browser), {}, False)
        return None if isinstance(fields, Outcome) else fields[STAMP]

    written: list[object] = []
    browser = Browser(site)

    browser.cookie = (await logged_in(site)).cookie
    site.clock.advance(100)
    visit = Browser(site.with_store(Racing(site.store)), browser.cookie).request()
    assert await visit.get() == {"user": "ada"}
    assert [await stamp()] == written
    assert await visit.get() == {"user": "ada", "b": 2}
    assert await data_of(browser) == {"user": "ada", "b": 2}


async def test_a_sight_makes_an_update_of_everything_start_again_and_no_more(site):
    class Racing(Watched):
        async def merge(self, key, changed, *rest):
            if "total" in changed and self.calls.count("merge") == 0:
                await data_of(browser)
            return await super().merge(key, changed, *rest)

    browser = Browser(site)
    runs: list[int] = []

    def count(data: dict[str, Any]) -> None:
        runs.append(len(data))
        data["total"] = len(data)

    browser.cookie = (await logged_in(site)).cookie
    site.clock.advance(100)
    rival = Browser(site.with_store(Racing(site.store)), browser.cookie)
    assert await rival.request().update(count) is True
    assert await data_of(browser) == {"user": "ada", "total": 1}
    assert runs == [1, 1]


@pytest.mark.parametrize("stamp", [b'"AAAAAAAA"', b'""', b"7", b"\xff" * 14, b'"' + b"=" * 12 + b'"', None])
async def test_a_stamp_of_another_form_tells_the_founding_until_the_next_write(site, stamp):
    browser = await logged_in(site)
    (one,) = await OwnerIndex(site.policy, "ada").sessions()
    changed, removed = ({}, {STAMP}) if stamp is None else ({STAMP: stamp}, set())
    await site.store.merge(id_of(browser), changed, removed, {})
    site.clock.advance(30)
    assert await last_seen(site) == one.created
    assert await data_of(browser) == {"user": "ada"}
    assert await last_seen(site) == seen_at(site)
    assert await send(browser, WRITES["update"]) is True


def test_a_record_that_is_found_by_a_name_has_a_key_as_any_other_which_tells_its_kind():
    keys = {record.key_of(kind, "ada") for kind in (b"owner\0", b"claim\0", b"")}
    assert len(keys) == 3
    assert {len(key) for key in keys} == {len(MemorySessionStore().id())}


async def test_no_session_was_seen_before_it_was_founded(site):
    site.clock.advance(0.75)

    await logged_in(site)
    (one,) = await OwnerIndex(site.policy, "ada").sessions()
    assert one.last_seen == one.created


# --- what a device is told by


async def test_a_field_of_the_core_of_earlier_releases_is_ignored_and_left_alone(site):
    # Log-ins noted the browser and its address there.
    former = {"\0device": b'["Firefox","203.0.113.7"]'}
    browser = await logged_in(site)
    await site.store.merge(id_of(browser), former, (), {})
    visits: list[Callable[[StoredSession], Awaitable[Any]]] = [
        lambda visit: visit.merge({"cart": 1}),
        lambda visit: visit.renew(),
        lambda visit: visit.replace({"user": "ada", "form": 1}, in_place=True),
    ]
    for change in visits:
        assert await send(browser, change) is True
    (one,) = await OwnerIndex(site.policy, "ada").sessions(data=True)
    assert one.data == await data_of(browser) == {"user": "ada", "form": 1}
    fields = await site.store.get(id_of(browser), {}, False)
    assert not isinstance(fields, Outcome)
    assert former.items() <= fields.items()


# --- how many may live at a time


@dataclass
class Limited(Site):
    most: int = 3

    @property
    def policy(self) -> Policy:
        return super().policy._replace(max_sessions=self.most)


@pytest.fixture(params=STORES)
def limited(request: pytest.FixtureRequest, tmp_path: Path) -> Limited:
    clock = Clock()
    return Limited(make_store(request.param, tmp_path, clock), clock)


async def log_in(browser: Browser, owner: str = "ada") -> Any:
    return await send(browser, lambda visit: visit.replace({"user": owner}, owner))


async def test_a_log_in_beyond_the_bound_ends_the_oldest_and_says_so(limited):
    browsers = []
    for _ in range(5):
        browsers.append(await logged_in(limited))
        limited.clock.advance(1)
    bob = await logged_in(limited, "bob")
    assert [await data_of(one) for one in browsers] == [{}, {}] + [{"user": "ada"}] * 3
    assert await ids(limited) == [id_of(one) for one in browsers[2:]]
    # Those that were ended are in the list no longer.
    assert await listed(limited) == set(await ids(limited))
    assert await data_of(bob) == {"user": "bob"}
    assert limited.events.count("destroyed") == 2


async def test_a_request_of_the_session_that_was_ended_cannot_bring_it_back(limited):
    oldest = await logged_in(limited)
    late = oldest.request()
    await late.load()
    for _ in range(3):
        limited.clock.advance(1)
        await logged_in(limited)
    assert await late.merge({"late": 1}) is False
    assert await data_of(oldest) == {}
    assert len(await ids(limited)) == 3


async def test_who_logs_out_makes_room_without_a_minute_s_wait(limited):
    browsers = [await logged_in(limited) for _ in range(3)]
    await send(browsers[1], lambda visit: visit.destroy())
    visitor = await logged_in(limited)
    assert set(await ids(limited)) == {id_of(browsers[0]), id_of(browsers[2]), id_of(visitor)}


async def test_nobody_is_logged_in_where_others_change_the_list_all_the_time(limited, monkeypatch):
    monkeypatch.setattr("server_session._tries.UPDATE_SECONDS", 0.05)

    class Contended(StoreOver):
        tries = 0

        async def merge(self, key: str, *given: Any) -> Outcome:
            self.tries += 1
            assert self.tries < 1000, "it tries without end"
            await super().merge(key, {STAMP: b"%d" % self.tries}, (), {})
            return await super().merge(key, *given)

    await logged_in(limited)
    browser = Browser(limited.with_store(Contended(limited.store)))
    with pytest.raises(ConflictError, match="nobody was logged in"):
        await log_in(browser)
    assert browser.cookie is None
    assert len(await ids(limited)) == 1


async def test_the_session_that_a_log_in_replaces_does_not_count(limited):
    browsers = []
    for _ in range(3):
        browsers.append(await logged_in(limited))
        limited.clock.advance(1)
    for _ in range(4):
        assert await log_in(browsers[1]) is True
        assert set(await ids(limited)) == set(map(id_of, browsers))


async def test_nor_does_one_whose_cookie_was_swapped_within_the_minute_for_the_log_in_ends_it_too(limited):
    limited.most = 2

    other = await logged_in(limited)
    limited.clock.advance(1)
    browser = await logged_in(limited)
    lost = browser.copy()
    await send(lost, lambda visit: visit.renew())
    assert await log_in(browser) is True
    assert await data_of(lost) == {}
    assert set(await ids(limited)) == {id_of(other), id_of(browser)}


async def test_it_makes_room_even_if_it_is_renewed_while_that_log_in_is_under_way(limited):
    limited.most = 1
    browser = await logged_in(limited)
    other = browser.copy()
    await send(other, lambda visit: visit.renew())

    renewals = []

    class Meanwhile(StoreOver):
        async def set(self, *given: Any) -> Outcome:
            if not renewals:
                renewals.append(await send(other, lambda visit: visit.renew()))
            return await super().set(*given)

    browser.site = limited.with_store(Meanwhile(limited.store))
    assert await log_in(browser) is True
    assert await data_of(other) == {}
    assert (await ids(limited), renewals) == ([id_of(browser)], [True])


async def test_a_session_that_a_cookie_only_names_counts(limited):
    browsers = []
    for _ in range(3):
        browsers.append(await logged_in(limited))
        limited.clock.advance(1)
    # A selector is no secret: the owner's own pages show it.
    for one in browsers:
        assert await log_in(Browser(limited, id_of(one) + "A" * 40)) is True
        assert len(await ids(limited)) == 3


async def test_nor_does_a_session_that_a_cookie_only_names_make_room_in_the_oldest_s_place(limited):
    browsers = []
    for _ in range(3):
        browsers.append(await logged_in(limited))
        limited.clock.advance(1)
    assert await log_in(Browser(limited, id_of(browsers[2]) + "A" * 40)) is True
    assert [await data_of(one) for one in browsers] == [{}, {"user": "ada"}, {"user": "ada"}]


async def test_what_has_expired_does_not_count_and_leaves_the_list(limited):
    for _ in range(3):
        await logged_in(limited)
    limited.clock.advance(1801)
    browser = await logged_in(limited)
    assert await listed(limited) == {id_of(browser)}
    assert limited.events.count("destroyed") == 0


@pytest.mark.parametrize("seconds", [MARK_SECONDS - 1, MARK_SECONDS + 1])
async def test_one_that_is_about_to_live_counts_for_a_minute(limited, seconds, monkeypatch):
    monkeypatch.setattr(Tries, "next", refuse_to_wait)
    limited.most = 2

    await OwnerIndex(limited.policy, "ada").enter("n" * 24)
    limited.clock.advance(1)
    other = await logged_in(limited)
    limited.clock.advance(seconds - 1)
    browser = await logged_in(limited)
    assert set(await ids(limited)) == {id_of(other), id_of(browser)}
    # The mark is what its founding would meet now.
    outcome = await limited.store.set("n" * 24, {"user": b"1"}, limited.policy.lifetime_of(), None)
    assert outcome is (Outcome.CONFLICT if seconds < MARK_SECONDS else Outcome.APPLIED)


async def test_a_log_in_that_dies_after_it_ended_the_oldest_leaves_none_that_lives_and_is_not_listed(limited):
    store = Watched(limited.store)

    for _ in range(3):
        await logged_in(limited)
        limited.clock.advance(1)
    store.fails = {"merge"}
    visitor = Browser(limited.with_store(store))
    with pytest.raises(StoreError):
        await log_in(visitor)
    assert visitor.received == []
    left = await listed(limited)
    living = await ids(limited)
    assert len(living) == 2
    assert set(living) < left
    await logged_in(limited)
    assert len(await ids(limited)) == 3


async def test_a_smaller_bound_takes_hold_at_the_next_log_in(limited):
    for _ in range(3):
        await logged_in(limited)
        limited.clock.advance(1)
    limited.most = 1
    browser = await logged_in(limited)
    assert await ids(limited) == [id_of(browser)]


async def test_without_a_bound_a_log_in_costs_an_owner_one_call_and_the_first_one_two():
    clock = Clock()
    store = NotTidying()
    site = Site(store, clock)

    await logged_in(site)
    assert store.calls == ["merge", "set", "set"]
    store.calls.clear()
    await logged_in(site)
    assert store.calls == ["merge", "set"]


async def test_within_a_bound_a_log_in_looks_at_no_other_session(limited):
    store = NotTidying(limited.store)
    watched = limited.with_store(store)

    await logged_in(watched)
    await logged_in(watched)
    store.calls.clear()
    await logged_in(watched)
    assert store.calls == ["look", "merge", "set"]


# --- where no bound is set


async def test_without_a_bound_an_owner_s_list_does_not_grow_for_ever_and_the_oldest_end(monkeypatch):
    monkeypatch.setattr("server_session._owners._MOST_LISTED", 20)
    clock = Clock()
    site = Site(Tidying(clock=clock), clock)

    browsers = []
    for _ in range(50):
        browsers.append(await logged_in(site))
        clock.advance(1)
    assert await ids(site) == [id_of(one) for one in browsers[30:]]
    assert await listed(site) == {id_of(one) for one in browsers[30:]}
    assert [await data_of(one) for one in browsers[:30]] == [{}] * 30
    assert site.events.count("destroyed") == 30


async def test_about_one_log_in_in_sixteen_finds_that_the_list_is_too_long(monkeypatch):
    monkeypatch.setattr("server_session._owners._MOST_LISTED", 20)
    clock = Clock()
    site = Site(MemorySessionStore(clock=clock), clock)

    for _ in range(400):
        await logged_in(site)
    # 200 log-ins in a row without one of them have odds of 1 to 10^5.
    assert 20 <= len(await ids(site)) < 220


async def test_the_number_of_an_owner_s_sessions_makes_no_log_in_dearer():
    clock = Clock()
    store = Watched(Tidying(clock=clock))
    site = Site(store, clock)

    for _ in range(200):
        await logged_in(site)
    store.calls.clear()
    await logged_in(site)
    assert len(store.calls) <= 64 + 3


async def test_a_list_that_grew_too_long_is_cut_in_steps(monkeypatch):
    clock = Clock()
    site = Site(Tidying(clock=clock), clock)

    for _ in range(150):
        await logged_in(site)
    monkeypatch.setattr("server_session._owners._MOST_LISTED", 20)
    assert [len(await ids(site)) for _ in range(4) if await logged_in(site)] == [87, 24, 20, 20]


async def test_the_entries_of_sessions_that_are_gone_leave_the_list_though_older_ones_live_on():
    clock = Clock()
    site = Site(Tidying(clock=clock), clock)

    for _ in range(100):
        await logged_in(site)
    clock.advance(1)
    browser = Browser(site)
    for _ in range(200):
        await send(browser, lambda visit: visit.replace({"user": "ada"}, "ada"))
    assert len(await listed(site)) < 150
    assert len(await ids(site)) == 101


# --- and held against each other


async def living_at_each_step(site: Limited, done: asyncio.Event, owner: str = "ada") -> int:
    """Count the owner's sessions again and again, by their records, and return the most that lived."""
    most = 0
    while not done.is_set():
        most = max(most, len(await OwnerIndex(site.policy, owner).sessions()))
        await asyncio.sleep(0)
    return most


@pytest.mark.parametrize("limited", EVERY_STORE, indirect=True)
@pytest.mark.parametrize("most", [1, 3])
async def test_of_twenty_log_ins_at_once_never_more_live_than_are_allowed(limited, most):
    limited.most = most

    async def one() -> Browser | None:
        browser = Browser(limited)
        try:
            return browser if await log_in(browser) else None
        except ConflictError:
            return None

    done = asyncio.Event()
    watch = asyncio.create_task(living_at_each_step(limited, done))
    browsers = await asyncio.gather(*(one() for _ in range(20)))
    done.set()
    assert await watch <= most
    alive = [browser for browser in browsers if browser is not None and await data_of(browser)]
    assert 1 <= len(alive) <= most
    assert {id_of(browser) for browser in alive} == set(await ids(limited))
    assert await OwnerIndex(limited.policy, "ada").destroy() == len(alive)


@pytest.mark.parametrize("kind", ["memory", "file"])
def test_of_twenty_blocking_log_ins_at_once_never_more_live_than_are_allowed(kind, tmp_path):
    sessions = Sessions(session_store=make_store(kind, tmp_path, Clock()), max_sessions=3, clock=Clock())

    def one(_: int) -> str | None:
        response = Response()
        try:
            done = sessions.sync.log_in(scope_of(), response, "ada", {"n": 1})
        except ConflictError:
            return None
        return response.headers["set-cookie"].partition(";")[0] if done else None

    with ThreadPoolExecutor(20) as pool:
        cookies = [cookie for cookie in pool.map(one, range(20)) if cookie]
    alive = [cookie for cookie in cookies if sessions.sync.get_session_data(scope_of(cookie=cookie))]
    assert 1 <= len(alive) <= 3
    assert len(sessions.sync.sessions_of("ada")) == len(alive)


@pytest.mark.parametrize("seed", range(20))
async def test_log_ins_of_browsers_that_are_logged_in_leave_as_many_as_are_allowed(seed):
    clock = Clock()
    order = random.Random(seed).choices([0, 0, 1, 2, 3, 12], k=400)
    site = Limited(YieldingStore(MemorySessionStore(clock=clock), order), clock, most=2)

    browsers = [await logged_in(site), await logged_in(site), Browser(site), Browser(site)]
    await asyncio.gather(*(log_in(browser) for browser in browsers))
    alive = [browser for browser in browsers if await data_of(browser)]
    assert {id_of(browser) for browser in alive} == set(await ids(site))
    assert len(alive) <= 2
    await log_in(browsers[0])
    assert await data_of(browsers[0]) == {"user": "ada"}


# --- a store that may drop what it holds


@pytest.mark.parametrize("colour", [Colour.INSTANT, Colour.AWAITS])
async def test_a_store_that_evicts_serves_no_owners_and_says_so_before_anything_is_written(colour):
    store = MemorySessionStore()
    store.colour = colour
    store.evicts = True
    sessions = Sessions(session_store=store)

    response = Response()
    refused: list[Callable[[], Awaitable[Any]]] = [
        lambda: sessions.log_in(scope_of(), response, "ada"),
        lambda: sessions.sessions_of("ada"),
        lambda: sessions.destroy_sessions_of("ada"),
    ]
    for call in refused:
        with pytest.raises(ConfigurationError, match=r"MemorySessionStore may drop what it holds.*log_in and destroy"):
            await call()
    assert store.stats().sessions == 0
    assert "set-cookie" not in response.headers
    assert await sessions.replace_session_data(scope_of(), response, {"user": "ada"}) is True


# --- the functions


@pytest.mark.parametrize("blocking", [False, True])
def test_the_functions_know_the_current_session_by_its_request(blocking, tmp_path):
    store = make_store("memory", tmp_path, Clock())
    sessions = Sessions(session_store=store, clock=Clock())

    def call(name: str, *arguments: Any, **options: Any) -> Any:
        if blocking:
            return getattr(sessions.sync, name)(*arguments, **options)
        return asyncio.run(getattr(sessions, name)(*arguments, **options))

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
async def test_what_is_no_owner_s_name_is_a_type_error_that_names_the_function(owner):
    sessions = Sessions(session_store=MemorySessionStore())
    calls: dict[str, Callable[[], Awaitable[Any]]] = {
        "log_in": lambda: sessions.log_in(scope_of(), Response(), owner),
        "sessions_of": lambda: sessions.sessions_of(owner),
        "destroy_sessions_of": lambda: sessions.destroy_sessions_of(owner),
    }
    for name, call in calls.items():
        with pytest.raises(TypeError, match=f"^{name} takes the owner's name or id as text") as caught:
            await call()  # type: ignore[arg-type]
        assert isinstance(caught.value, SessionError)
        assert ("not empty text" in str(caught.value)) == (owner == "")


@pytest.mark.parametrize("only", [7, 0, b"", ["id"]])
async def test_what_is_no_session_s_id_ends_nothing_and_is_a_type_error(only):
    with pytest.raises(TypeError, match=r"^destroy_sessions_of takes a session's id as sessions_of tells it, not "):
        await Sessions().destroy_sessions_of("ada", only=only)


def test_the_memory_store_serves_no_owners_where_it_was_told_to_evict():
    assert MemorySessionStore(max_sessions=5, when_full="evict").evicts is True
    assert MemorySessionStore(max_sessions=5).evicts is False


# --- records that cannot be read


class Damaged(Watched):
    """A store one of whose records cannot be read any more."""

    def __init__(self, store: SessionStore) -> None:
        super().__init__(store)
        self.damaged: str | None = None

    def _read(self, key: str) -> None:
        if key == self.damaged:
            raise RecordError("damaged")

    async def get(self, key: str, *rest: Any) -> Any:
        self._read(key)
        return await super().get(key, *rest)

    async def set(self, key: str, *rest: Any) -> Outcome:
        self._read(key)
        return await super().set(key, *rest)

    async def destroy(self, key: str) -> bool:
        ended = await super().destroy(key)
        if key == self.damaged:
            self.damaged = None
        return ended


def test_a_record_that_cannot_be_read_keeps_no_other_alive_and_nobody_out():
    store = Damaged(MemorySessionStore())
    sessions = Sessions(session_store=store, max_sessions=3)
    browsers = [log_in_at(sessions) for _ in range(3)]
    store.damaged = browsers[1][:24]
    assert {one.id for one in sessions.sync.sessions_of("ada")} == {browsers[0][:24], browsers[2][:24]}
    fourth = log_in_at(sessions)
    assert sessions.sync.destroy_sessions_of("ada") == 4
    assert sessions.sync.sessions_of("ada") == []
    for cookie in (*browsers, fourth):
        assert sessions.sync.get_session_data(scope_of(cookie=f"session={cookie}")) == {}


@pytest.mark.parametrize("most", [None, 3])
def test_a_cookie_whose_record_cannot_be_read_stands_in_no_log_in_s_way(most):
    store = Damaged(MemorySessionStore())
    sessions = Sessions(session_store=store, **({} if most is None else {"max_sessions": most}))
    store.damaged = log_in_at(sessions)[:24]
    log_in_at(sessions, f"session={store.damaged}{'A' * 40}")
    assert len(sessions.sync.sessions_of("ada")) == 1


def log_in_at(sessions: Sessions, cookie: str | None = None) -> str:
    request = scope_of(cookie=cookie)
    exchange = sessions.exchange(AsgiRequest.of(request))
    exchange.serve()
    visit = exchange.stored
    assert sessions.sync.log_in(request, "ada", {"user": "ada"})
    assert visit.cookie_value is not None
    return visit.cookie_value

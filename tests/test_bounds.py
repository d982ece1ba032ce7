"""How large a session may be: bytes and keys, and what a write that would exceed them comes to."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from starlette.responses import Response

from server_session import LimitError, MemorySessionStore, Sessions
from server_session._policy import MAX_BYTES, MAX_FIELDS, Policy
from server_session.kernel.stored import StoredSession
from tests.asgi_client import scope_of
from tests.visitors import STORES, Browser, Clock, Site, Watched, data_of, make_store, send


@dataclass
class Bounded(Site):
    max_bytes: int = 1600
    max_fields: int = 32

    @property
    def policy(self) -> Policy:
        return super().policy._replace(max_bytes=self.max_bytes, max_fields=self.max_fields)


@pytest.fixture(params=STORES)
def site(request: pytest.FixtureRequest, tmp_path: Path) -> Bounded:
    clock = Clock()
    return Bounded(make_store(request.param, tmp_path, clock), clock)


@pytest.fixture
def browser(site: Bounded) -> Browser:
    return Browser(site)


def watched(browser: Browser) -> tuple[Browser, Watched]:
    store = Watched(browser.site.store)
    return Browser(browser.site.with_store(store), browser.cookie), store


def through_mapping(data: dict[str, Any]) -> Callable[[StoredSession], Awaitable[Any]]:
    async def step(visit: StoredSession) -> None:
        (await visit.load()).update(data)

    return step


def anew_through_mapping(data: dict[str, Any]) -> Callable[[StoredSession], Awaitable[Any]]:
    async def step(visit: StoredSession) -> None:
        session = await visit.load()
        session.clear()
        session.update(data)

    return step


WRITES: dict[str, Callable[[dict[str, Any]], Callable[[StoredSession], Awaitable[Any]]]] = {
    "set": lambda data: lambda visit: visit.merge(data),
    "update": lambda data: lambda visit: visit.update(lambda own: own.update(data)),
    "replace": lambda data: lambda visit: visit.replace(data),
    "log_in": lambda data: lambda visit: visit.replace(data, "ada"),
    "reset": lambda data: lambda visit: visit.replace(data, in_place=True),
    "renew": lambda data: lambda visit: visit.renew(data),
    "mapping": through_mapping,
    "clear": anew_through_mapping,
}
GROWING = ("set", "update", "renew", "mapping")


def of_bytes(size: int, name: str = "k") -> dict[str, Any]:
    """Data that takes so many bytes: its name, two quotes, and the rest."""
    return {name: "x" * (size - len(name) - 2)}


# --- the whole


@pytest.mark.parametrize("write", WRITES)
@pytest.mark.parametrize("has_session", [False, True])
async def test_a_write_of_just_as_many_bytes_passes_and_of_one_more_is_refused(browser, write, has_session):
    if has_session:
        await send(browser, lambda visit: visit.merge({"k": 0}))
    before, cookie = await data_of(browser), browser.cookie
    with pytest.raises(LimitError, match=r"'k' \(1601 bytes\): .* 1601 bytes, above max_bytes=1600"):
        await send(browser, WRITES[write](of_bytes(1601)))
    assert (await data_of(browser), browser.cookie) == (before, cookie)
    await send(browser, WRITES[write](of_bytes(1600)))
    assert await data_of(browser) == of_bytes(1600)


@pytest.mark.parametrize("write", WRITES)
async def test_a_write_of_just_as_many_keys_passes_and_of_one_more_is_refused(browser, write):
    with pytest.raises(LimitError, match=r"session keys .* and 28 more: .* 33 keys, above max_fields=32"):
        await send(browser, WRITES[write](dict.fromkeys(map(str, range(33)), 1)))
    assert browser.received == []
    await send(browser, WRITES[write](dict.fromkeys(map(str, range(32)), 1)))
    assert len(await data_of(browser)) == 32


@pytest.mark.parametrize("write", GROWING)
async def test_what_a_session_has_already_counts(browser, write):
    await send(browser, lambda visit: visit.merge(of_bytes(1000, "a")))
    with pytest.raises(LimitError, match=r"'b' \(601 bytes\): .* 1601 bytes"):
        await send(browser, WRITES[write](of_bytes(601, "b")))
    # What is written over does not count.
    await send(browser, WRITES[write]({**of_bytes(600, "a"), **of_bytes(1000, "b")}))
    assert await data_of(browser) == {**of_bytes(600, "a"), **of_bytes(1000, "b")}


async def test_bytes_are_counted_as_they_are_stored(browser):
    # Each sharp s takes two bytes, in the name and in the value.
    await send(browser, lambda visit: visit.merge({"ß": "ß" * 798}))
    with pytest.raises(LimitError, match="1602 bytes"):
        await send(browser, lambda visit: visit.merge({"ß": "ß" * 799}))


async def test_the_core_s_own_fields_do_not_count(browser):
    browser.site.max_fields = 1
    await send(browser, lambda visit: visit.replace(of_bytes(1600, "user"), "ada"))
    await send(browser, lambda visit: visit.renew({}))
    assert await data_of(browser) == of_bytes(1600, "user")


# --- what is made smaller


@pytest.mark.parametrize("write", GROWING)
async def test_a_session_that_is_too_large_can_be_made_smaller_step_by_step(browser, write):
    await send(browser, lambda visit: visit.merge({**of_bytes(700, "a"), **of_bytes(800, "b")}))
    browser.site.max_bytes = 100
    browser.site.max_fields = 1
    with pytest.raises(LimitError):
        await send(browser, WRITES[write](of_bytes(801, "b")))
    await send(browser, WRITES[write](of_bytes(400, "b")))
    assert await send(browser, lambda visit: visit.pluck("a")) == "x" * 697
    with pytest.raises(LimitError, match=r"'c' .* 2 keys, above max_fields=1"):
        await send(browser, WRITES[write]({"c": 1}))
    assert await data_of(browser) == of_bytes(400, "b")


async def test_a_mapping_may_take_out_and_put_in_within_the_bound(browser):
    async def swap(visit: StoredSession) -> None:
        session = await visit.load()
        del session["a"]
        session.update(of_bytes(1600, "b"))

    await send(browser, lambda visit: visit.merge(of_bytes(1500, "a")))
    await send(browser, swap)
    assert await data_of(browser) == of_bytes(1600, "b")


# --- a write that does not know the rest


async def test_a_small_blind_write_costs_one_call_and_a_large_one_a_look_first(browser):
    await send(browser, lambda visit: visit.merge({"a": 1}))
    rival, store = watched(browser)
    for data, calls in (
        (of_bytes(100, "b"), ["merge"]),
        (of_bytes(101, "b"), ["look", "merge"]),
        ({"a": 1, "b": 2}, ["merge"]),
        ({"a": 1, "b": 2, "c": 3}, ["look", "merge"]),
    ):
        store.calls.clear()
        await send(rival, lambda visit, data=data: visit.merge(data))
        assert store.calls == calls


async def test_many_small_blind_writes_may_exceed_the_bound_and_the_first_write_that_knows_the_whole_says_so(browser):
    await send(browser, lambda visit: visit.merge({"a": 1}))
    for number in range(40):
        await send(browser, lambda visit, n=number: visit.merge(of_bytes(90, f"k{n:02}")))
    assert len(await data_of(browser)) == 41
    with pytest.raises(LimitError, match="42 keys"):
        await send(browser, lambda visit: visit.update(lambda data: data.update(b=1)))
    with pytest.raises(LimitError, match="bytes, above max_bytes=1600"):
        await send(browser, lambda visit: visit.merge(of_bytes(200, "k01")))


async def test_a_request_that_has_seen_the_session_is_held_to_the_whole_without_another_call(browser):
    await send(browser, lambda visit: visit.merge(of_bytes(1500, "a")))
    rival, store = watched(browser)
    visit = rival.request()
    await visit.load()
    assert await visit.merge(of_bytes(60, "b")) is True
    assert store.calls == ["get", "merge"]
    with pytest.raises(LimitError, match="1620 bytes"):
        await visit.merge(of_bytes(60, "c"))


async def test_what_others_have_taken_out_since_makes_room(browser):
    await send(browser, lambda visit: visit.merge(of_bytes(1500, "a")))
    visit = browser.copy().request()
    session = await visit.load()
    await send(browser, lambda visit: visit.pluck("a"))
    session.update(of_bytes(1000, "b"))
    assert await visit.commit() is True
    assert await data_of(browser) == of_bytes(1000, "b")


async def test_a_large_blind_write_to_a_session_that_ended_is_dropped_as_any_other(browser):
    await send(browser, lambda visit: visit.merge({"a": 1}))
    late = browser.copy()
    await send(browser, lambda visit: visit.destroy())
    assert await send(late, lambda visit: visit.merge(of_bytes(1500))) is False
    assert late.received == []


async def test_a_large_blind_write_does_not_know_another_s_session(browser):
    await send(browser, lambda visit: visit.merge(of_bytes(1500, "a")))
    attacker = browser.copy()
    attacker.cookie = (browser.cookie or "")[:24] + "A" * 40
    assert await send(attacker, lambda visit: visit.merge(of_bytes(1500, "b"))) is True
    assert await data_of(attacker) == of_bytes(1500, "b")
    assert await data_of(browser) == of_bytes(1500, "a")


async def test_a_mapping_that_was_refused_can_be_mended_and_committed(browser):
    await send(browser, lambda visit: visit.merge({"a": 1}))
    visit = browser.request()
    session = await visit.load()
    session["big"] = "x" * 2000
    session["b"] = 2
    with pytest.raises(LimitError, match="'big'"):
        await visit.commit()
    del session["big"]
    assert await visit.commit() is True
    assert await data_of(browser) == {"a": 1, "b": 2}


# --- what the error says, and the settings


async def test_the_error_names_the_largest_keys_first_and_not_endless_names(browser):
    data = {"n" * 200: 1, **of_bytes(900, "big"), **of_bytes(901, "bigger")}
    with pytest.raises(LimitError) as caught:
        await send(browser, lambda visit: visit.merge(data))
    assert str(caught.value).startswith("session keys 'bigger' (901 bytes), 'big' (900 bytes), 'nnn")
    assert "n" * 101 not in str(caught.value)
    assert "nothing was written" in str(caught.value)


async def test_the_error_of_too_many_keys_names_five_of_those_that_come_new(browser):
    await send(browser, lambda visit: visit.merge(dict.fromkeys(map(str, range(30)), 1)))
    with pytest.raises(LimitError) as caught:
        await send(browser, lambda visit: visit.update(lambda data: data.update(dict.fromkeys("0abcdef", 22))))
    names = ", ".join(f"'{name}' (3 bytes)" for name in "fedcb")
    assert str(caught.value).startswith(f"session keys {names} and 1 more: the session would have 36 keys")


@pytest.mark.parametrize("blocking", [False, True])
def test_the_settings_hold_the_functions_to_the_bounds(blocking):
    store = MemorySessionStore()
    sessions = Sessions(session_store=store, max_bytes=100, max_fields=3)

    def write(data: dict[str, Any]) -> Any:
        arguments = (scope_of(), Response(), data)
        return (
            sessions.sync.set_session_data(*arguments)
            if blocking
            else asyncio.run(sessions.set_session_data(*arguments))
        )

    with pytest.raises(LimitError, match="max_bytes=100"):
        write(of_bytes(101))
    with pytest.raises(LimitError, match="max_fields=3"):
        write(dict.fromkeys("abcd", 1))
    assert store.stats().sessions == 0
    assert write(of_bytes(100)) is True


def test_the_bounds_are_a_mebibyte_and_a_thousand_keys_where_nothing_is_said():
    assert (MAX_BYTES, MAX_FIELDS) == (1 << 20, 1000)
    sessions = Sessions(session_store=MemorySessionStore())
    assert (sessions.policy.max_bytes, sessions.policy.max_fields) == (MAX_BYTES, MAX_FIELDS)

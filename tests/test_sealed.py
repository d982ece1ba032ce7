"""A store that seals what it holds is a store like any other, and beneath it nothing can be read, moved or forged."""

import base64
import hmac
import re
import sys
from collections.abc import Awaitable, Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESSIV
from hypothesis import given
from hypothesis import strategies as st

from server_session._codec import encode_value
from server_session._colour import drive
from server_session._owners import OwnerIndex
from server_session._record import CREATED, DIGEST, MARK_LIFETIME, OWNER, mark_of
from server_session._sessions import Sessions, configured
from server_session._signals import Signal, Signals
from server_session._tokens import Credential, short_digest
from server_session.exceptions import ConfigurationError, RecordError, StoreError
from server_session.kernel.stored import StoredSession
from server_session.stores._base import (
    APPLIED,
    CONFLICT,
    MISSING,
    Expect,
    Fields,
    Lifetime,
    Outcome,
    SessionStore,
)
from server_session.stores._sealed import HEAD, EncryptedCodec, SealedStore
from server_session.stores.file import FileSessionStore
from server_session.stores.memory import MemorySessionStore
from server_session.testing import StoreContract, YieldingStore
from tests.documents import code_of
from tests.visitors import Browser, Clock, Site, Watched

OLD, NEW = "old-" * 10 + "old", "new_" * 10 + "new"
PAGE = Path(__file__).parents[1] / "docs" / "encryption.md"
HOUR = Lifetime(3600.0)
FIELDS: Fields = {"a": b"1", "b": b"two", "empty": b"", DIGEST: b'"d"', CREATED: b"17.5", OWNER: b'"ada"'}


def seal(store: SessionStore, *keys: str, signals: Signals | None = None) -> SealedStore:
    return SealedStore(store, EncryptedCodec(keys or (NEW,)), (signals or Signals()).unreadable)


def stored_in(store: SessionStore, key: str) -> Fields:
    fields = drive(store.get(key, {}, False))
    assert not isinstance(fields, Outcome)
    return fields


def founded(store: SessionStore, fields: Fields = FIELDS) -> str:
    key = store.id()
    assert drive(store.set(key, fields, HOUR)) is APPLIED
    return key


def overwrite(store: SessionStore, key: str, fields: Fields) -> None:
    """Write as somebody does who has the store and no key."""
    drive(store.destroy(key))
    assert drive(store.set(key, fields, HOUR)) is APPLIED


def keys_that_sealed(fields: Fields) -> set[str]:
    return {key for key in (OLD, NEW) for value in fields.values() if not EncryptedCodec([key]).is_stale(value)}


# ---------------------------------------------------------------------------------------------------- the contract


class TestSealedMemoryStoreContract(StoreContract):
    clock_steps_back = True

    def make_store(self):
        self.clock = Clock()
        return self.over(MemorySessionStore(clock=self.clock))

    def over(self, store):
        return seal(store, NEW)

    def advance(self, seconds):
        self.clock.advance(seconds)


@pytest.fixture(scope="module")
def shared_directory(tmp_path_factory):
    # To make and remove 256 folders for each test of the contract would take longer than the tests.
    return tmp_path_factory.mktemp("contract")


class TestSealedFileStoreContract(TestSealedMemoryStoreContract):
    # Sealed, a value is 22 bytes longer, and the file store's limit is for what is stored.
    max_value = (1 << 20) - 22

    @pytest.fixture(autouse=True)
    def _place(self, shared_directory):
        self.directory = shared_directory

    def make_store(self):
        self.clock = Clock()
        return self.second_client(None)

    def second_client(self, store):
        return self.over(FileSessionStore(self.directory, clock=self.clock))


class FoundedUnderTheOldKey(SealedStore):
    """A store whose every record was founded before the key was changed."""

    async def set(self, key: str, fields: Fields, lifetime: Lifetime, expect: Expect | None = None) -> Outcome:
        if expect is None:
            return await seal(self._store, OLD).set(key, fields, lifetime)
        return await super().set(key, fields, lifetime, expect)


@pytest.mark.once
class TestStoreContractMidRotation(TestSealedMemoryStoreContract):
    def over(self, store):
        return FoundedUnderTheOldKey(store, EncryptedCodec([OLD, NEW]), Signals().unreadable)


@pytest.mark.again
class TestFileStoreContractMidRotation(TestSealedFileStoreContract):
    def over(self, store):
        return FoundedUnderTheOldKey(store, EncryptedCodec([OLD, NEW]), Signals().unreadable)


@pytest.mark.once
class TestStoreContractAmongProcessesOfWhichHalfHaveRotated(TestSealedMemoryStoreContract):
    def over(self, store):
        self.beneath = store
        return seal(store, OLD, NEW)

    def second_client(self, store):
        return seal(self.beneath, NEW, OLD)


@pytest.mark.again
class TestAwaitingStoreContractAmongProcessesOfWhichHalfHaveRotated(
    TestStoreContractAmongProcessesOfWhichHalfHaveRotated
):
    def over(self, store):
        return super().over(YieldingStore(store))


def test_it_is_of_the_colour_and_the_age_of_the_store_beneath_and_offers_what_that_has(tmp_path):
    beneath = FileSessionStore(tmp_path, max_age=600)
    store = seal(beneath)
    assert (store.colour, store.max_age, store.evicts) == (beneath.colour, 600, False)
    assert seal(MemorySessionStore(max_sessions=9, when_full="evict")).evicts
    assert store.directory_of == beneath.directory_of
    with pytest.raises(AttributeError):
        _ = store.no_such_thing


def test_ids_are_those_of_the_store_beneath():
    class Own(MemorySessionStore):
        def id(self) -> str:
            return "own".ljust(24, "-")

    assert seal(Own()).id() == Own().id()


@given(st.dictionaries(st.sampled_from([CREATED, OWNER, DIGEST, "a", "\0head", "é"]), st.binary(), min_size=1))
def test_what_goes_in_comes_out(fields):
    store = seal(MemorySessionStore())
    assert stored_in(store, founded(store, fields)) == fields


# -------------------------------------------------------------------------------------------------- what is stored


def test_what_is_stored_stays_of_the_form_that_it_has():
    # Written by hand from the form's description: records of today must open tomorrow.
    secret, selector, name = bytes(range(32)), "A" * 24, "naïve"
    session_key = hmac.digest(secret, b"server-session key of a session\0" + selector.encode(), "sha512")
    key_id = hmac.digest(secret, b"server-session key id", "sha256")[:4]
    want = b"\x01" + key_id + AESSIV(session_key).encrypt(b"\0value", [name.encode()])
    codec = EncryptedCodec([secret])
    assert codec.seal(selector, name, b"value") == want
    assert want.hex() == "01edf05e0e056d98a643980c1dd5f5e2a4ed990f490b42f4b18b74"
    assert codec.open(selector, name, want) == b"value"


def test_nothing_of_a_value_is_in_the_bytes_of_a_store(tmp_path):
    store = seal(FileSessionStore(tmp_path))
    key = founded(store, {"user": b'"ada@shop.example"', OWNER: b'"owner-of-it"', CREATED: b"1234567890.125"})
    assert drive(store.merge(key, {"cart": b'"a book on gardens"'}, [], {})) is APPLIED
    written = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert b"cart" in written
    for value in (b"ada@shop", b"owner-of", b"1234567890", b"gardens"):
        assert value not in written


def test_created_and_owner_are_one_field_in_the_store():
    beneath = MemorySessionStore()
    assert stored_in(beneath, founded(seal(beneath))).keys() == FIELDS.keys() - {CREATED, OWNER} | {HEAD}


# ----------------------------------------------------------------------------------------------------- the attacks


@pytest.fixture
def beneath() -> MemorySessionStore:
    return MemorySessionStore()


@pytest.fixture
def heard() -> list[Signal]:
    return []


@pytest.fixture
def store(beneath: MemorySessionStore, heard: list[Signal]) -> SealedStore:
    return seal(beneath, signals=Signals(heard.append))


@pytest.fixture
def does_not_open(store: SealedStore, heard: list[Signal]) -> Callable[..., None]:
    def check(key: str, reason: str, match: str = "does not open") -> None:
        with pytest.raises(RecordError, match=match):
            drive(store.get(key, {}))
        assert heard == [Signal("unreadable", short_digest(key), reason)]
        with pytest.raises(RecordError, match=match):
            drive(store.get(key, {OWNER: b'"ada"'}, False))

    return check


def test_a_field_moved_to_another_name_does_not_open(beneath, store, does_not_open):
    key = founded(store)
    fields = stored_in(beneath, key)
    overwrite(beneath, key, {**fields, "a": fields["b"], "b": fields["a"]})
    does_not_open(key, "damaged", "'a' was not sealed for this place")


def test_a_field_moved_to_another_session_does_not_open(beneath, store, does_not_open):
    victim, other = founded(store), founded(store, {**FIELDS, "a": b"admin"})
    overwrite(beneath, victim, {**stored_in(beneath, victim), "a": stored_in(beneath, other)["a"]})
    does_not_open(victim, "damaged", "'a' was not sealed for this place")


def test_a_record_copied_under_another_selector_does_not_open(beneath, store, does_not_open):
    key = store.id()
    overwrite(beneath, key, stored_in(beneath, founded(store)))
    does_not_open(key, "damaged")


@pytest.mark.parametrize("moved", ["a", DIGEST])
def test_the_head_cannot_be_another_field(beneath, store, does_not_open, moved):
    key = founded(store)
    fields = stored_in(beneath, key)
    overwrite(beneath, key, {**fields, HEAD: fields[moved]})
    does_not_open(key, "damaged")


def test_the_head_of_another_session_does_not_open(beneath, store, does_not_open):
    victim, other = founded(store), founded(store, {**FIELDS, OWNER: b'"eve"'})
    overwrite(beneath, victim, {**stored_in(beneath, victim), HEAD: stored_in(beneath, other)[HEAD]})
    does_not_open(victim, "damaged")


def test_a_record_without_its_head_does_not_open(beneath, store, does_not_open):
    key = founded(store)
    drive(beneath.merge(key, {}, [HEAD], {}))
    does_not_open(key, "no_head", "taken out")


def test_a_field_that_is_put_in_without_a_key_does_not_open(beneath, store, does_not_open):
    key = founded(store)
    drive(beneath.merge(key, {"admin": b"true"}, [], {}))
    does_not_open(key, "not_sealed", "'admin' was written without EncryptedCodec")


def test_a_record_of_before_the_encryption_does_not_open_and_says_so(beneath, does_not_open):
    does_not_open(founded(beneath), "not_sealed", "without EncryptedCodec")


def test_a_record_sealed_with_a_key_that_is_not_configured_does_not_open_and_names_the_key(beneath, does_not_open):
    does_not_open(founded(seal(beneath, OLD)), "unknown_key", r"sealed with the key [0-9a-f]{8}, and <Enc.* has it not")


@pytest.mark.parametrize("length", range(6))
def test_a_value_that_was_cut_does_not_open(beneath, store, does_not_open, length):
    key = founded(store)
    drive(beneath.merge(key, {"a": stored_in(beneath, key)["a"][:length]}, [], {}))
    does_not_open(key, "damaged" if length == 5 else "unknown_key" if length else "not_sealed")


@given(st.sampled_from(sorted(FIELDS.keys() - {OWNER})), st.data())
def test_a_bit_flipped_anywhere_is_noticed(name, data):
    beneath = MemorySessionStore()
    store = seal(beneath)
    key = founded(store)
    value = bytearray(stored_in(beneath, key)[name])
    bit = data.draw(st.integers(0, 8 * len(value) - 1))
    value[bit // 8] ^= 1 << bit % 8
    drive(beneath.merge(key, {name: bytes(value)}, [], {}))
    with pytest.raises(RecordError):
        drive(store.get(key, {}))


def test_a_key_does_not_open_what_another_sealed_under_its_id(beneath, store, does_not_open):
    key = founded(store)
    other = stored_in(beneath, founded(seal(beneath, OLD)))["a"]
    drive(beneath.merge(key, {"a": stored_in(beneath, key)["a"][:5] + other[5:]}, [], {}))
    does_not_open(key, "damaged")


# ------------------------------------------------------------------------------------------- the life of a session


@pytest.fixture
def site(beneath: MemorySessionStore, heard: list[Signal]) -> Site:
    site = Site(beneath, Clock(), signals=heard)
    return site.with_store(seal(beneath, signals=Signals(heard.append)))


@pytest.fixture
def browser(site: Site) -> Browser:
    return Browser(site)


async def send(browser: Browser, step: Callable[[StoredSession], Awaitable[Any]]) -> Any:
    visit = browser.request()
    result = await step(visit)
    await visit.commit()
    browser.receive(visit)
    return result


def request(browser: Browser, step: Callable[[StoredSession], Awaitable[Any]]) -> Any:
    return drive(send(browser, step))


def logged_in(site: Site, owner: str = "ada", **data: object) -> Browser:
    browser = Browser(site)
    assert request(browser, lambda visit: visit.replace({"user": owner, **data}, owner)) is True
    return browser


def data_of(browser: Browser) -> dict[str, Any]:
    return request(browser.copy(), lambda visit: visit.get())


def selector_of(browser: Browser) -> str:
    credential = Credential.parse(browser.cookie or "")
    assert credential is not None
    return credential.selector


def sessions_of(site: Site, owner: str = "ada") -> list[str]:
    return [one.id for one in drive(OwnerIndex(site.policy, owner).sessions())]


def add_one(data: dict[str, Any]) -> None:
    data["count"] = data.get("count", 0) + 1


def test_a_session_lives_its_whole_life_sealed(site, browser):
    assert request(browser, lambda visit: visit.merge({"flash": "hello"}))
    assert request(browser, lambda visit: visit.update(add_one))
    assert request(browser, lambda visit: visit.pluck("flash")) == "hello"
    before = browser.copy()
    assert request(browser, lambda visit: visit.renew({"step": 2}))
    assert data_of(browser) == {"count": 1, "step": 2}
    assert data_of(before) == {}
    assert request(browser, lambda visit: visit.destroy())
    assert browser.cookie is None
    assert "unreadable" not in site.events


def test_owners_find_and_end_their_sessions_sealed(site):
    one, other, of_eve = logged_in(site), logged_in(site), logged_in(site, "eve")
    assert set(sessions_of(site)) == {selector_of(one), selector_of(other)}
    assert drive(OwnerIndex(site.policy, "ada").destroy(but=selector_of(one))) == 1
    assert [data_of(one), data_of(other), data_of(of_eve)] == [{"user": "ada"}, {}, {"user": "eve"}]
    assert sessions_of(site) == [selector_of(one)]
    assert "unreadable" not in site.events


def test_a_late_write_meets_the_sealed_mark_of_an_ended_session(site):
    browser = logged_in(site)
    late = browser.copy().request()
    request(browser, lambda visit: visit.destroy())
    assert drive(late.merge({"a": 1})) is False
    assert "write_dropped" in site.events


def test_the_mark_of_an_ended_session_is_a_record_like_any_other(store, beneath):
    key = founded(store)
    assert drive(store.set(key, mark_of(5.0), MARK_LIFETIME, {DIGEST: FIELDS[DIGEST]})) is APPLIED
    assert stored_in(store, key) == mark_of(5.0)


def forge(beneath: SessionStore, victim: str, how: str, mine: str, cookie: Credential) -> None:
    """Put a digest of the attacker's cookie into the victim's record, with the store and no key."""
    digest = {
        "plain": cookie.digest(),
        "sealed with a key of the attacker's": EncryptedCodec([OLD]).seal(victim, DIGEST, cookie.digest()),
        "taken from a session of the attacker's": stored_in(beneath, mine)[DIGEST],
    }
    drive(beneath.merge(victim, {DIGEST: digest[how]}, [], {}))


@pytest.mark.parametrize(
    "how", ["plain", "sealed with a key of the attacker's", "taken from a session of the attacker's"]
)
def test_who_can_write_to_the_store_cannot_mint_a_cookie(site, beneath, how):
    victim, attacker = logged_in(site, secret="of ada"), logged_in(site, "eve")
    assert attacker.cookie is not None
    cookie = Credential.found(selector_of(victim))
    if how.startswith("taken"):
        cookie = Credential(selector_of(victim), attacker.cookie[24:])
    forge(beneath, selector_of(victim), how, selector_of(attacker), cookie)
    with pytest.raises(RecordError):
        data_of(Browser(site, cookie.value))
    with pytest.raises(RecordError):
        request(Browser(site, cookie.value), lambda visit: visit.merge({"user": "eve"}))


def test_who_can_write_to_the_store_cannot_drop_the_owner_alone(site, beneath):
    browser = logged_in(site)
    drive(beneath.merge(selector_of(browser), {}, [HEAD], {}))
    with pytest.raises(RecordError):
        data_of(browser)


def test_a_record_that_does_not_open_is_an_error_to_every_function_and_never_no_session(site, beneath):
    browser = logged_in(site)
    drive(beneath.merge(selector_of(browser), {DIGEST: b"junk"}, [], {}))
    for step in (
        lambda visit: visit.get(),
        lambda visit: visit.load(),
        lambda visit: visit.merge({"a": 1}),
        lambda visit: visit.update(add_one),
        lambda visit: visit.pluck("user"),
        lambda visit: visit.renew(),
        lambda visit: visit.destroy(),
    ):
        with pytest.raises(RecordError):
            request(browser, step)
    assert browser.received == [browser.cookie]
    assert set(site.events) == {"created", "unreadable"}


# ------------------------------------------------------------------------------------------------------- the head


def test_an_expected_owner_is_read_and_compared(store):
    key = founded(store)
    for expect in ({OWNER: b'"ada"'}, {OWNER: b'"ada"', CREATED: b"17.5", "a": b"1", "z": None}):
        for touch in (True, False):
            assert drive(store.get(key, expect, touch)) == FIELDS
        assert drive(store.merge(key, {"b": b"3"}, [], expect)) is APPLIED
        assert drive(store.set(key, FIELDS, HOUR, expect)) is APPLIED
    for expect in ({OWNER: b'"eve"'}, {OWNER: None}, {CREATED: None, "a": b"1"}, {OWNER: b'"ada"', "a": b"2"}):
        assert drive(store.get(key, expect)) is CONFLICT
        assert drive(store.merge(key, {"b": b"3"}, [], expect)) is CONFLICT
        assert drive(store.set(key, FIELDS, HOUR, expect)) is CONFLICT
    assert drive(store.get(store.id(), {OWNER: b'"ada"'})) is MISSING


def test_a_merge_may_change_owner_and_time(store):
    key = founded(store)
    assert drive(store.merge(key, {OWNER: b'"eve"', "n": b"5"}, ["a"], {"a": b"1"})) is APPLIED
    want = {**FIELDS, OWNER: b'"eve"', "n": b"5"}
    del want["a"]
    assert stored_in(store, key) == want
    assert drive(store.merge(key, {CREATED: b"18"}, [OWNER], {OWNER: b'"eve"'})) is APPLIED
    del want[OWNER]
    assert stored_in(store, key) == {**want, CREATED: b"18"}
    assert drive(store.merge(key, {}, [CREATED], {})) is APPLIED
    del want[CREATED]
    assert stored_in(store, key) == want


class Interrupted(Watched):
    """A store in which somebody else writes just before one of its writes."""

    def __init__(self) -> None:
        super().__init__()
        self.before: list[Callable[[], object]] = []

    def _note(self, name: str) -> None:
        super()._note(name)
        if name in ("set", "merge", "get") and self.before:
            self.before.pop()()


@pytest.mark.parametrize(
    "write",
    [
        lambda store, key: store.merge(key, {OWNER: b'"eve"'}, [], {OWNER: b'"ada"'}),
        lambda store, key: store.set(key, {"a": b"2", OWNER: b'"eve"'}, HOUR, {OWNER: b'"ada"'}),
    ],
)
def test_of_two_who_change_the_owner_at_once_one_does(write):
    beneath = Interrupted()
    store, rival = seal(beneath), seal(beneath.store)
    key = founded(store)
    beneath.before.append(lambda: drive(rival.merge(key, {OWNER: b'"bob"'}, [], {OWNER: b'"ada"'})))
    assert drive(write(store, key)) is CONFLICT
    assert stored_in(store, key)[OWNER] == b'"bob"'


def test_a_field_that_is_expected_to_be_absent_may_not_come_meanwhile():
    beneath = Interrupted()
    store = seal(beneath, OLD, NEW)
    key = founded(store)
    beneath.before.append(lambda: drive(seal(beneath.store).merge(key, {"once": b"1"}, [], {})))
    assert drive(store.merge(key, {"once": b"2"}, [], {"once": None})) is CONFLICT
    assert stored_in(store, key)["once"] == b"1"


def test_a_merge_that_changes_the_owner_undoes_no_change_of_the_time():
    beneath = Interrupted()
    store, rival = seal(beneath), seal(beneath.store)
    key = founded(store)
    beneath.before.append(lambda: drive(rival.merge(key, {CREATED: b"18"}, [], {})))
    assert drive(store.merge(key, {OWNER: b'"eve"'}, [], {})) is APPLIED
    assert stored_in(store, key) == {**FIELDS, CREATED: b"18", OWNER: b'"eve"'}


def test_a_store_that_never_meets_its_own_record_is_an_error():
    class Stubborn(MemorySessionStore):
        async def set(self, key: str, fields: Fields, lifetime: Lifetime, expect: Expect | None = None) -> Outcome:
            return CONFLICT if expect else await super().set(key, fields, lifetime, expect)

    store = seal(Stubborn())
    with pytest.raises(StoreError, match="in a row"):
        drive(store.set(founded(store), FIELDS, HOUR, {OWNER: FIELDS[OWNER]}))


# -------------------------------------------------------------------------------------------------- what it costs


class Counted(Watched):
    """A store under whose keys no log-in looks after the owner's index, which one in sixteen does."""

    def id(self) -> str:
        return super().id()[:-1] + "B"


def set_all(data: dict[str, Any]) -> None:
    data.update(dict.fromkeys(data, 0))


STEPS: dict[str, Callable[[StoredSession], Awaitable[Any]]] = {
    "get": lambda visit: visit.get(),
    "load": lambda visit: visit.load(),
    "is_alive": lambda visit: visit.is_alive(),
    "set": lambda visit: visit.merge({"n": 1}),
    "update of what is there": lambda visit: visit.update(lambda data: data.update(user=data.get("user", "") + "!")),
    "update of what is not there": lambda visit: visit.update(add_one),
    "update of everything": lambda visit: visit.update(set_all),
    "pluck": lambda visit: visit.pluck("user"),
    "pluck of nothing": lambda visit: visit.pluck("nothing"),
    "renew": lambda visit: visit.renew(),
    "renew with data": lambda visit: visit.renew({"n": 1}),
    "replace": lambda visit: visit.replace({"n": 1}),
    "replace in place": lambda visit: visit.replace({"n": 1}, in_place=True),
    "log in": lambda visit: visit.replace({"user": "eve"}, "eve"),
    "log in again": lambda visit: visit.replace({"user": "ada"}, "ada"),
    "destroy": lambda visit: visit.destroy(),
    "a token": lambda visit: visit.csrf_token(""),
}


@pytest.mark.parametrize("name", STEPS)
@pytest.mark.parametrize("cookie", ["of a session", "with another secret", "of before the renewal", "of nothing", None])
def test_with_one_key_each_function_makes_the_calls_that_it_makes_without(name, cookie):
    calls = []
    for over in (lambda store: store, seal):
        beneath = Counted()
        site = Site(over(beneath), Clock())
        browser = logged_in(site)
        if cookie == "with another secret":
            browser.cookie = Credential.found(selector_of(browser)).value
        elif cookie == "of before the renewal":
            request(browser.copy(), lambda visit: visit.renew())
        elif cookie == "of nothing":
            browser.cookie = Credential.found(beneath.id()).value
        elif cookie is None:
            browser.cookie = None
        beneath.calls.clear()
        request(browser, STEPS[name])
        calls.append(list(beneath.calls))
    assert calls[0] == calls[1]


def test_the_devices_of_an_owner_cost_what_they_cost_without():
    beneath = Counted()
    site = Site(seal(beneath), Clock())
    browsers = [logged_in(site), logged_in(site)]
    beneath.calls.clear()
    assert len(sessions_of(site)) == len(browsers)
    assert beneath.calls == ["look", "look", "look"]


def test_to_end_an_owners_session_costs_one_look_more():
    calls = []
    for over in (lambda store: store, seal):
        beneath = Counted()
        site = Site(over(beneath), Clock())
        logged_in(site)
        beneath.calls.clear()
        assert drive(OwnerIndex(site.policy, "ada").destroy()) == 1
        calls.append(list(beneath.calls))
    plain, dear = calls
    assert dear == [plain[0], "look", *plain[1:]]


# ---------------------------------------------------------------------------------------------- keys that change


@pytest.fixture
def rotated(site: Site, beneath: MemorySessionStore) -> Callable[..., Site]:
    return lambda *keys, over=None: site.with_store(seal(over or beneath, *keys, signals=Signals(site.signals.append)))


def move(browser: Browser, site: Site) -> Browser:
    return Browser(site, browser.cookie)


@pytest.mark.parametrize("name", STEPS)
def test_nobody_is_logged_out_when_the_key_changes(rotated, name):
    want = logged_in(rotated(OLD))
    got = move(logged_in(rotated(OLD)), rotated(OLD, NEW))
    request(want, STEPS[name])
    request(got, STEPS[name])
    assert data_of(got) == data_of(want)
    assert (got.cookie is None) == (want.cookie is None)


@pytest.mark.parametrize(
    "name", ["get", "load", "set", "update of what is there", "renew", "replace in place", "pluck of nothing"]
)
def test_the_first_request_after_a_change_seals_the_session_with_the_newest_key(rotated, beneath, name):
    browser = move(logged_in(rotated(OLD), more="data"), rotated(OLD, NEW))
    request(browser, STEPS[name])
    assert keys_that_sealed(stored_in(beneath, selector_of(browser))) == {NEW}
    assert data_of(move(browser, rotated(NEW)))["more" if "place" not in name else "n"]


def test_a_look_without_a_touch_writes_nothing(rotated, beneath):
    browser = move(logged_in(rotated(OLD)), rotated(OLD, NEW))
    before = stored_in(beneath, selector_of(browser))
    assert request(browser, STEPS["is_alive"]) is True
    assert stored_in(beneath, selector_of(browser)) == before


def test_the_request_after_that_one_costs_one_call_again(rotated, beneath):
    counted = Counted(beneath)
    browser = move(logged_in(rotated(OLD)), rotated(OLD, NEW, over=counted))
    for want in (["get", "look", "merge"], ["get"]):
        counted.calls.clear()
        assert data_of(browser) == {"user": "ada"}
        assert counted.calls == want
    counted.calls.clear()
    assert request(browser, STEPS["set"])
    assert counted.calls == ["merge"]


def test_processes_of_which_half_have_changed_the_key_share_their_sessions(rotated):
    early, late = rotated(NEW, OLD), rotated(OLD, NEW)
    browser = logged_in(early)
    for n, site in enumerate((late, early, late, late, early, early, late), 1):
        here = move(browser, site)
        request(here, STEPS["update of what is not there"])
        request(here, STEPS["renew"])
        browser = move(here, early)
        assert data_of(browser) == {"user": "ada", "count": n}
    assert sessions_of(late) == sessions_of(early) == [selector_of(browser)]


def test_a_process_without_the_new_key_can_neither_read_nor_harm_what_it_seals(rotated):
    browser = logged_in(rotated(OLD, NEW))
    behind = move(browser, rotated(OLD))
    for name in ("get", "set", "destroy", "renew"):
        with pytest.raises(RecordError, match="sealed with the key"):
            request(behind, STEPS[name])
    assert data_of(browser) == {"user": "ada"}


def test_the_next_log_in_seals_the_owners_index_with_the_newest_key(rotated):
    first = logged_in(rotated(OLD))
    data_of(move(first, rotated(OLD, NEW)))
    second = logged_in(rotated(OLD, NEW))
    after = rotated(NEW)
    assert set(sessions_of(after)) == {selector_of(first), selector_of(second)}
    assert drive(OwnerIndex(after.policy, "ada").destroy()) == 2
    assert data_of(move(first, after)) == {}


@pytest.mark.parametrize("expect", [{}, {"nothing": None}, {"a": b"1"}, {OWNER: b'"ada"'}])
def test_a_merge_seals_the_whole_record_anew_whatever_it_expects(beneath, expect):
    key = founded(seal(beneath, OLD))
    assert drive(seal(beneath, OLD, NEW).merge(key, {"b": b"3"}, ["empty"], expect)) is APPLIED
    assert keys_that_sealed(stored_in(beneath, key)) == {NEW}
    want = {**FIELDS, "b": b"3"}
    del want["empty"]
    assert stored_in(seal(beneath, NEW), key) == want


def test_a_conflict_is_looked_into_only_where_another_key_may_have_sealed(beneath):
    for keys, want in (((NEW,), ["merge"]), ((OLD, NEW), ["merge", "look"])):
        counted = Counted(beneath)
        store = seal(counted, *keys)
        key = founded(store)
        counted.calls.clear()
        assert drive(store.merge(key, {}, [], {"a": b"2"})) is CONFLICT
        assert counted.calls == want


def test_a_read_that_seals_anew_loses_no_write_that_comes_between():
    beneath = Interrupted()
    store, rival = seal(beneath, OLD, NEW), seal(beneath.store, OLD)
    key = founded(rival)

    def write() -> None:
        assert drive(rival.merge(key, {"a": b"written between"}, [], {})) is APPLIED

    beneath.before += [write, lambda: None]
    assert drive(store.get(key, {DIGEST: FIELDS[DIGEST]})) == {**FIELDS, "a": b"written between"}
    assert stored_in(store, key) == {**FIELDS, "a": b"written between"}
    assert keys_that_sealed(stored_in(beneath, key)) == {NEW}


def test_a_read_that_seals_anew_does_so_only_where_it_is_still_as_expected():
    beneath = Interrupted()
    store, rival = seal(beneath, OLD, NEW), seal(beneath.store, OLD)
    key = founded(rival)
    beneath.before += [lambda: drive(rival.merge(key, {"once": b"1"}, [], {})), lambda: None]
    assert drive(store.get(key, {DIGEST: FIELDS[DIGEST], "once": None})) is CONFLICT
    assert keys_that_sealed(stored_in(beneath, key)) == {OLD}


# -------------------------------------------------------------------------------------------------------- settings


def test_a_generated_key_is_32_fresh_bytes_as_text():
    keys = {EncryptedCodec.generate_key() for _ in range(100)}
    assert len(keys) == 100
    assert {len(base64.urlsafe_b64decode(key)) for key in keys} == {32}
    EncryptedCodec(list(keys))


def test_a_key_may_be_bytes_or_any_spelling_of_their_base64_text():
    secret = b"\xfb\xff" * 16
    want = EncryptedCodec([secret]).seal("k", "a", b"1")
    text = base64.urlsafe_b64encode(secret).decode()
    for key in (text, text.rstrip("="), text + "\n", base64.b64encode(secret).decode(), bytearray(secret)):
        assert EncryptedCodec([key]).seal("k", "a", b"1") == want


@pytest.mark.parametrize(
    "keys,message",
    [
        ([], r"at least one key: .*generate_key"),
        ([b"k" * 31], r"keys\[0\].* 31 bytes, fewer than 32.*generate_key"),
        ([b"k" * 32, ""], r"keys\[1\].* 0 bytes"),
        (["A" * 42], r"keys\[0\].* 31 bytes"),
        (["correct horse battery staple, and so on and on"], r"keys\[0\].* no base64url text.*generate_key"),
        (["correct horse! " * 4], r"no base64url text"),
        (["é" * 44], r"no base64url text"),
        (["A" * 45], r"no base64url text"),
        ([b"k" * 32, b"l" * 32, b"k" * 32], r"keys\[2\].* twice"),
        ([b"\0" * 32, "A" * 43], r"keys\[1\].* twice"),
        ([7], r"keys\[0\].* 'int', not bytes or text"),
        ("A" * 43, r"list, the newest last.* not 'str'"),
        (b"k" * 32, r"list, the newest last.* not 'bytes'"),
        (None, r"list, the newest last.* not 'NoneType'"),
    ],
)
def test_a_key_that_cannot_be_one_is_refused_with_the_mend(keys, message):
    with pytest.raises(ConfigurationError, match=message) as refused:
        EncryptedCodec(keys)
    assert "kkk" not in str(refused.value)
    assert "correct horse" not in str(refused.value)


def test_the_codec_shows_no_key():
    codec = EncryptedCodec([OLD, NEW])
    assert repr(codec).startswith("<EncryptedCodec of the keys ")
    for secret in (OLD, NEW):
        raw = base64.urlsafe_b64decode(secret + "=")
        shown = repr(codec) + str(codec) + repr(vars(codec)) + repr(seal(MemorySessionStore()))
        assert secret not in shown
        assert raw.hex() not in shown
        assert repr(raw) not in shown


@pytest.mark.parametrize("missing", ["cryptography.exceptions", "cryptography.hazmat.primitives.ciphers.aead"])
def test_without_cryptography_the_error_names_the_extra(monkeypatch, missing):
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(ConfigurationError, match=r"pip install 'server-session\[encryption\]'"):
        EncryptedCodec([NEW])


def test_an_openssl_without_the_cipher_is_an_error_that_says_what_to_install(monkeypatch):
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.ciphers import aead

    def refuse(key: bytes) -> None:
        raise UnsupportedAlgorithm("AES-SIV is not supported by this version of OpenSSL")

    monkeypatch.setattr(aead, "AESSIV", refuse)
    with pytest.raises(ConfigurationError, match="own wheel, or one built on OpenSSL 3"):
        EncryptedCodec([NEW])


def test_a_codec_that_is_none_is_refused():
    with pytest.raises(ConfigurationError, match=r"codec is an EncryptedCodec\(\[key\]\), not 'str'"):
        SealedStore(MemorySessionStore(), NEW, Signals().unreadable)  # type: ignore[arg-type]


@pytest.mark.parametrize("store", [MemorySessionStore, lambda: YieldingStore(MemorySessionStore())])
async def test_sessions_are_sealed_where_a_codec_is_configured(store):
    beneath = store()
    sessions = Sessions(session_store=beneath, codec=EncryptedCodec([NEW]))

    visit = Browser(Site(sessions.policy.store, Clock())).request()
    assert await visit.merge({"user": "ada"})
    assert visit.credential is not None
    stored = await beneath.get(visit.credential.selector, {}, False)
    assert not isinstance(stored, Outcome)
    assert encode_value("user", "ada") not in stored.values()
    assert keys_that_sealed(stored) == {NEW}


def test_the_documented_configuration_works(monkeypatch):
    monkeypatch.setenv("SESSION_KEY", EncryptedCodec.generate_key())
    exec(compile(code_of(PAGE, "encryption"), str(PAGE), "exec"), {})  # noqa: S102 - our own
    assert isinstance(configured().policy.store, SealedStore)


def test_the_documented_steps_of_a_rotation_carry_every_session_through(rotated):
    steps = re.findall(r"^\d\. `EncryptedCodec\(\[(.*?)\]\)`", PAGE.read_text(), re.MULTILINE)
    names = {"OLD": OLD, "NEW": NEW}
    sites = [rotated(OLD), *(rotated(*(names[name] for name in step.split(", "))) for step in steps)]
    assert len(sites) == 4
    browsers = [logged_in(sites[0])]
    for before, after in pairwise(sites):
        for site in (after, before, after):
            assert [data_of(move(browser, site)) for browser in browsers] == [{"user": "ada"}] * len(browsers)
        browsers.append(logged_in(after))
    assert set(sessions_of(sites[-1])) == set(map(selector_of, browsers))

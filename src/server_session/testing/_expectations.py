"""Expectations: a call takes place only over the record that it expects."""

from server_session.stores._base import APPLIED, CONFLICT, MISSING, Expect, Lifetime, SessionStore
from server_session.testing._checks import check_equal
from server_session.testing._scenarios import scenario
from server_session.testing._stage import LONG, Stage

__all__ = ["Expectations"]


class Expectations(Stage):
    """A call holds the record to what it expects."""

    @scenario
    async def test_get_holds_the_record_to_what_is_expected(self, store: SessionStore) -> None:
        fields = {"a": b"1", "b": b"2"}
        key = await self._new(store, fields)
        for expect in self._that_hold():
            for touch in (True, False):
                check_equal(await store.get(key, expect, touch=touch), fields, f"get, expect={expect}")
        for expect in self._that_fail():
            for touch in (True, False):
                check_equal(await store.get(key, expect, touch=touch), CONFLICT, f"get, expect={expect}")

    @staticmethod
    def _that_hold() -> list[Expect]:
        """Return expectations that hold for the fields a=1, b=2."""
        return [{}, {"a": b"1"}, {"a": b"1", "b": b"2"}, {"c": None}, {"b": b"2", "c": None, "d": None}]

    @staticmethod
    def _that_fail() -> list[Expect]:
        """Return expectations that do not hold for the fields a=1, b=2."""
        return [
            {"a": b"2"},
            {"a": None},
            {"c": b"1"},
            {"c": b""},
            {"a": b""},
            {"a": b"1", "b": b"1"},
            {"a": b"2", "b": b"2"},
            {"a": b"1", "c": b"3"},
            {"a": b"1", "b": None},
            {"c": None, "b": b"1"},
            {"a": b"1", "b": b"2", "c": b"3"},
        ]

    @scenario
    async def test_set_with_no_expectation_makes_a_record_where_there_is_none(self, store: SessionStore) -> None:
        key = store.id()
        check_equal(await store.set(key, {"a": b"1"}, LONG), APPLIED, "set of a fresh key")
        await self._check_record(store, key, {"a": b"1"}, "the new record")
        key = store.id()
        made = await store.set(key, {"a": b"1"}, Lifetime(3600.0), expect=None)
        check_equal(made, APPLIED, "set of a fresh key, expect=None, no deadline")
        await self._check_record(store, key, {"a": b"1"}, "the new record")

    @scenario
    async def test_set_with_no_expectation_never_writes_over_a_record(self, store: SessionStore) -> None:
        key = await self._new(store, {"a": b"1"})
        check_equal(await store.set(key, {"a": b"2", "b": b"2"}, LONG), CONFLICT, "set over a record, expect=None")
        check_equal(await store.set(key, {"a": b"1"}, LONG), CONFLICT, "set of the same again, expect=None")
        await self._check_record(store, key, {"a": b"1"}, "the record, after a set that was refused")

    @scenario
    async def test_set_with_an_expectation_never_makes_a_record(self, store: SessionStore) -> None:
        for expect in ({}, {"a": b"1"}, {"a": None}):
            key = store.id()
            check_equal(await store.set(key, {"a": b"1"}, LONG, expect), MISSING, f"set of no record, expect={expect}")
            await self._check_record(store, key, MISSING, f"the record, after a set with expect={expect}")

    @scenario
    async def test_set_holds_the_record_to_what_is_expected(self, store: SessionStore) -> None:
        for expect in self._that_hold():
            key = await self._new(store, {"a": b"1", "b": b"2"})
            check_equal(await store.set(key, {"n": b"new"}, LONG, expect), APPLIED, f"set, expect={expect}")
            await self._check_record(store, key, {"n": b"new"}, f"the record, after a set with expect={expect}")
        for expect in self._that_fail():
            key = await self._new(store, {"a": b"1", "b": b"2"})
            check_equal(await store.set(key, {"n": b"new"}, LONG, expect), CONFLICT, f"set, expect={expect}")
            await self._check_record(store, key, {"a": b"1", "b": b"2"}, f"the record, after expect={expect} failed")

    @scenario
    async def test_merge_holds_the_record_to_what_is_expected(self, store: SessionStore) -> None:
        for expect in self._that_hold():
            key = await self._new(store, {"a": b"1", "b": b"2"})
            check_equal(await store.merge(key, {"n": b"new"}, ["a"], expect), APPLIED, f"merge, expect={expect}")
            await self._check_record(store, key, {"b": b"2", "n": b"new"}, f"the record, after expect={expect}")
        for expect in self._that_fail():
            for lifetime in (None, LONG):
                key = await self._new(store, {"a": b"1", "b": b"2"})
                got = await store.merge(key, {"n": b"new", "a": b"9"}, ["b"], expect, lifetime)
                check_equal(got, CONFLICT, f"merge, expect={expect}, lifetime={lifetime}")
                await self._check_record(
                    store, key, {"a": b"1", "b": b"2"}, f"the record, after expect={expect} failed"
                )

    @scenario
    async def test_merge_checks_the_record_as_it_was_before_the_merge(self, store: SessionStore) -> None:
        key = await self._new(store, {"secret": b"old", "once": b"1"})
        check_equal(
            await store.merge(key, {"secret": b"new"}, [], {"secret": b"new"}), CONFLICT, "swap, expects its own"
        )
        check_equal(await store.merge(key, {"secret": b"new"}, [], {"secret": b"old"}), APPLIED, "swap")
        check_equal(await store.merge(key, {}, ["once"], {"once": None}), CONFLICT, "removal that expects it gone")
        check_equal(await store.merge(key, {}, ["once"], {"once": b"1"}), APPLIED, "removal that expects the value")
        await self._check_record(store, key, {"secret": b"new"}, "the record, after a swap and a removal")

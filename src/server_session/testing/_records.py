"""Records: what a store says of itself, and what its calls read and write."""

import string
import types
from typing import cast

from server_session._colour import Colour
from server_session.stores._base import APPLIED, CONFLICT, MISSING, Fields, SessionStore
from server_session.testing._checks import check, check_equal, shown
from server_session.testing._scenarios import scenario
from server_session.testing._stage import LONG, Stage

__all__ = ["Records"]


class Records(Stage):
    """A record is made, read, changed and destroyed, whole and alone."""

    # ------------------------------------------------------------------------------------------- what a store says

    @scenario
    async def test_colour_and_max_age_are_what_the_core_can_read(self, store: SessionStore) -> None:
        check(isinstance(store.colour, Colour), f"colour is {shown(store.colour)}, want a Colour")
        good = store.max_age is None or store.max_age > 0
        check(good, f"max_age is {shown(store.max_age)}, want idle seconds or None")

    @scenario
    async def test_ids_are_24_characters_of_base64url(self, store: SessionStore) -> None:
        alphabet = frozenset(string.ascii_letters + string.digits + "-_")
        for _ in range(100):
            key = store.id()
            check(type(key) is str and len(key) == 24 and alphabet.issuperset(key), f"id() gave {shown(key)}")

    @scenario
    async def test_ids_are_distinct(self, store: SessionStore) -> None:
        check_equal(len({store.id() for _ in range(1000)}), 1000, "different ids among 1,000")

    # ------------------------------------------------------------------------------------------------------- get

    @scenario
    async def test_get_gives_missing_where_there_is_no_record(self, store: SessionStore) -> None:
        for expect in ({}, {"a": b"1"}, {"a": None}):
            check_equal(await store.get(store.id(), expect), MISSING, f"get of no record, expect={expect}")

    @scenario
    async def test_get_gives_all_fields_as_text_and_bytes(self, store: SessionStore) -> None:
        key = await self._new(store, {"a": b"1", "b": b"", "c": b"\xff"})
        got = await store.get(key, {})
        check_equal(got, {"a": b"1", "b": b"", "c": b"\xff"}, "get")
        fields = cast("Fields", got)
        check(type(fields) is dict, f"get gave a {type(fields).__name__}, want a dict")
        for name, value in fields.items():
            check(type(name) is str and type(value) is bytes, f"field {name!r} is a {type(value).__name__}")

    @scenario
    async def test_get_gives_a_dict_that_is_the_callers_own(self, store: SessionStore) -> None:
        key = await self._new(store, {"a": b"1", "b": b"2"})
        mine = cast("Fields", await store.get(key, {}))
        mine["a"] = b"changed"
        mine["c"] = b"new"
        del mine["b"]
        await self._check_record(store, key, {"a": b"1", "b": b"2"}, "the record, after a dict that get gave changed")

    # ------------------------------------------------------------------------------------------------------- set

    @scenario
    async def test_set_replaces_all_fields(self, store: SessionStore) -> None:
        key = await self._new(store, {"a": b"1", "b": b"2", "c": b"3"})
        check_equal(await store.set(key, {"b": b"new", "d": b"4"}, LONG, {}), APPLIED, "set over a record, expect={}")
        await self._check_record(store, key, {"b": b"new", "d": b"4"}, "the record, written anew")

    @scenario
    async def test_what_the_caller_gave_remains_the_callers_own(self, store: SessionStore) -> None:
        given = {"a": b"1"}
        key = await self._new(store, given)
        given["a"] = b"changed"
        await self._check_record(store, key, {"a": b"1"}, "the record, after the dict given to set changed")
        changed, expect, removed = {"b": b"2"}, {"a": b"1"}, ["a"]
        check_equal(await store.merge(key, changed, removed, expect), APPLIED, "merge")
        check_equal((changed, expect, removed), ({"b": b"2"}, {"a": b"1"}, ["a"]), "what was given to merge")
        changed["b"] = b"changed"
        await self._check_record(store, key, {"b": b"2"}, "the record, after the dict given to merge changed")

    # ----------------------------------------------------------------------------------------------------- merge

    @scenario
    async def test_merge_writes_changed_drops_removed_and_leaves_the_rest(self, store: SessionStore) -> None:
        key = await self._new(store, {"a": b"1", "b": b"2", "c": b"3", "d": b"4"})
        check_equal(await store.merge(key, {"a": b"new", "e": b"5"}, ["c"], {}), APPLIED, "merge")
        await self._check_record(store, key, {"a": b"new", "b": b"2", "d": b"4", "e": b"5"}, "the merged record")
        check_equal(await store.merge(key, {"f": b""}, (), {}), APPLIED, "merge of a change alone")
        check_equal(await store.merge(key, {}, ("b", "d"), {}), APPLIED, "merge of removals alone")
        await self._check_record(store, key, {"a": b"new", "e": b"5", "f": b""}, "the record, merged three times")

    @scenario
    async def test_merge_of_nothing_applies_and_changes_nothing(self, store: SessionStore) -> None:
        key = await self._new(store, {"a": b"1"})
        check_equal(await store.merge(key, {}, (), {}), APPLIED, "merge of nothing")
        check_equal(
            await store.merge(key, {}, (), {"a": b"2"}), CONFLICT, "merge of nothing that expects another value"
        )
        check_equal(await store.merge(store.id(), {}, (), {}), MISSING, "merge of nothing into no record")
        await self._check_record(store, key, {"a": b"1"}, "the record, after merges of nothing")

    @scenario
    async def test_merge_may_remove_what_is_not_there(self, store: SessionStore) -> None:
        key = await self._new(store, {"a": b"1"})
        check_equal(
            await store.merge(key, {"b": b"2"}, ["x", "y"], {}), APPLIED, "removal of fields that are not there"
        )
        check_equal(await store.merge(key, {}, ["x"], {"x": None}), APPLIED, "removal of a field expected to be absent")
        await self._check_record(store, key, {"a": b"1", "b": b"2"}, "the record, after removals of nothing")

    @scenario
    async def test_a_removed_field_can_be_written_again(self, store: SessionStore) -> None:
        key = await self._new(store, {"a": b"1", "b": b"2"})
        for value in (b"3", b"4"):
            check_equal(await store.merge(key, {}, ["b"], {}), APPLIED, "merge that removes")
            check_equal(await store.merge(key, {"b": value}, [], {"b": None}), APPLIED, "merge that writes it again")
            await self._check_record(store, key, {"a": b"1", "b": value}, "the record")

    @scenario
    async def test_merge_never_makes_a_record(self, store: SessionStore) -> None:
        for expect in ({}, {"a": b"1"}, {"a": None}):
            for lifetime in (None, LONG):
                key = store.id()
                got = await store.merge(key, {"a": b"1"}, ["b"], expect, lifetime)
                check_equal(got, MISSING, f"merge into no record, expect={expect}, lifetime={lifetime}")
                await self._check_record(store, key, MISSING, "the record, after a merge into none")

    @scenario
    async def test_any_mapping_and_any_collection_will_do(self, store: SessionStore) -> None:
        key = await self._new(store, {"keep": b"k", "a": b"1", "b": b"2", "c": b"3", "d": b"4", "e": b"5"})
        changed, expect = types.MappingProxyType({"n": b"new"}), types.MappingProxyType({"keep": b"k", "x": None})
        for removed in (["a"], ("b",), {"c"}, frozenset({"d"}), {"e": None}.keys()):
            check_equal(await store.merge(key, changed, removed, expect), APPLIED, f"merge, removed={removed!r}")
        want = {"keep": b"k", "n": b"new"}
        check_equal(await store.get(key, expect), want, "get that expects a read-only mapping")
        check_equal(await store.set(key, want, LONG, expect), APPLIED, "set that expects a read-only mapping")

    @scenario
    async def test_arguments_go_by_their_names(self, store: SessionStore) -> None:
        key = store.id()
        made = await store.set(key=key, fields={"a": b"1"}, lifetime=LONG, expect=None)
        check_equal(made, APPLIED, "set by names")
        merged = await store.merge(key=key, changed={"b": b"2"}, removed=(), expect={"a": b"1"}, lifetime=LONG)
        check_equal(merged, APPLIED, "merge by names")
        check_equal(await store.get(key=key, expect={}, touch=True), {"a": b"1", "b": b"2"}, "get by names")
        check_equal(await store.destroy(key=key), True, "destroy by name")

    # --------------------------------------------------------------------------------------------------- destroy

    @scenario
    async def test_destroy_says_whether_there_was_a_record(self, store: SessionStore) -> None:
        key = await self._new(store, {"a": b"1"})
        check(await store.destroy(key) is True, "destroy of a record must return True")
        check(await store.destroy(key) is False, "destroy of a record destroyed before must return False")
        check(await store.destroy(store.id()) is False, "destroy of no record must return False")

    @scenario
    async def test_a_destroyed_record_is_no_record(self, store: SessionStore) -> None:
        key = await self._new(store, {"a": b"1", "b": b"2"})
        await store.destroy(key)
        check_equal(await store.get(key, {}), MISSING, "get after destroy")
        check_equal(await store.merge(key, {"a": b"2"}, [], {}), MISSING, "merge after destroy")
        check_equal(await store.set(key, {"a": b"2"}, LONG, {}), MISSING, "set with expect={} after destroy")
        check_equal(await store.set(key, {"c": b"3"}, LONG), APPLIED, "set with expect=None after destroy")
        await self._check_record(store, key, {"c": b"3"}, "the record made after destroy")

    @scenario
    async def test_records_do_not_meet(self, store: SessionStore) -> None:
        records = {store.id(): {"a": str(n).encode()} for n in range(20)}
        key = next(key for key in iter(store.id, "") if key.swapcase() != key)
        # Keys that a file system, a collation or a pattern takes for one.
        records |= {
            k: {"a": k.encode()} for k in (key, key.swapcase(), "-" * 24, "_" * 24, "-" + key[1:], "_" + key[1:])
        }
        for k in records:
            await store.destroy(k)
        for k, fields in records.items():
            check_equal(await store.set(k, dict(fields), LONG), APPLIED, f"set of {k!r}, different from all others")
        for k in records:
            check_equal(await store.merge(k, {"b": k.encode()}, [], {}), APPLIED, f"merge of {k!r}")
        for k, fields in records.items():
            await self._check_record(store, k, {**fields, "b": k.encode()}, f"the record {k!r}")
            check_equal(await store.destroy(k), True, f"destroy of {k!r}")

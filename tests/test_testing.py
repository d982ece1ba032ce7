import asyncio
import base64
import secrets
import threading
import unicodedata
from collections.abc import Callable, Collection, Coroutine, Mapping
from contextlib import AbstractContextManager, nullcontext
from copy import copy, deepcopy
from typing import Any, ClassVar, Literal, NamedTuple, TypeAlias, TypeVar, cast

import pytest

from server_session._colour import pause
from server_session.exceptions import ColourError
from server_session.stores._base import (
    APPLIED,
    CONFLICT,
    MISSING,
    Colour,
    Expect,
    Fields,
    Lifetime,
    Outcome,
    SessionStore,
)
from server_session.testing import StoreContract, YieldingStore, check_equal

T = TypeVar("T")
Got: TypeAlias = Fields | Literal[Outcome.MISSING, Outcome.CONFLICT]


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


class Record:
    def __init__(self, fields: Fields, lifetime: Lifetime, now: float) -> None:
        self.fields = fields
        self.expiry = 0.0
        self.live(lifetime, now)

    def live(self, lifetime: Lifetime, now: float) -> None:
        self.idle = lifetime.idle
        self.deadline = float("inf") if lifetime.remaining is None else now + lifetime.remaining
        self.expiry = min(now + self.idle, self.deadline)

    def touch(self, now: float) -> None:
        self.expiry = max(self.expiry, min(now + self.idle, self.deadline))


class Change(NamedTuple):
    """What a merge is told, but for the key."""

    changed: Mapping[str, bytes]
    removed: Collection[str]
    expect: Expect
    lifetime: Lifetime | None = None


class ReferenceStore(SessionStore):
    """The contract in its plainest form; the planted faults each change one step of it."""

    colour = Colour.INSTANT

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.records: dict[str, Record] = {}
        self.lock: AbstractContextManager[Any] = threading.Lock()

    def twin(self) -> "ReferenceStore":
        """Another client of the same records."""
        return copy(self)

    def find(self, key: str) -> Record | None:
        record = self.records.get(key)
        return record if record is not None and self.clock() < record.expiry else None

    def holds(self, fields: Fields, expect: Expect) -> bool:
        return all(fields.get(name) == value for name, value in expect.items())

    def touch(self, record: Record) -> None:
        record.touch(self.clock())

    async def get(self, key: str, expect: Expect, touch: bool = True) -> Got:
        with self.lock:
            record = self.find(key)
            if record is None:
                return MISSING
            if not self.holds(record.fields, expect):
                return CONFLICT
            if touch:
                self.touch(record)
            return dict(record.fields)

    async def set(self, key: str, fields: Fields, lifetime: Lifetime, expect: Expect | None = None) -> Outcome:
        with self.lock:
            record = self.find(key)
            if expect is None:
                if record is not None:
                    return CONFLICT
            elif record is None:
                return MISSING
            elif not self.holds(record.fields, expect):
                return CONFLICT
            written: Fields = {}
            self.write(written, fields, ())
            self.records[key] = Record(written, lifetime, self.clock())
            return APPLIED

    async def merge(
        self,
        key: str,
        changed: Mapping[str, bytes],
        removed: Collection[str],
        expect: Expect,
        lifetime: Lifetime | None = None,
    ) -> Outcome:
        return await self.apply(key, Change(changed, removed, expect, lifetime))

    async def apply(self, key: str, change: Change) -> Outcome:
        with self.lock:
            record = self.find(key)
            if record is None:
                return MISSING
            if not self.holds(record.fields, change.expect):
                return CONFLICT
            self.write(record.fields, change.changed, change.removed)
            if change.lifetime is None:
                self.touch(record)
            else:
                record.live(change.lifetime, self.clock())
            return APPLIED

    def write(self, fields: Fields, changed: Mapping[str, bytes], removed: Collection[str]) -> None:
        fields.update(changed)
        for name in removed:
            fields.pop(name, None)

    async def destroy(self, key: str) -> bool:
        with self.lock:
            return self.records.pop(key, None) is not None if self.find(key) else False


class ReferenceContract(StoreContract):
    clock_steps_back = True
    kind: ClassVar[type[ReferenceStore]] = ReferenceStore

    def make_store(self) -> SessionStore:
        self.clock = Clock()
        return self.kind(self.clock)

    def second_client(self, store: Any) -> SessionStore:
        return cast("ReferenceStore", store).twin()

    def advance(self, seconds: float) -> None:
        self.clock.now += seconds


class TestInstant(ReferenceContract):
    """A right store that never waits passes."""


class TestBlocking(ReferenceContract):
    """A right store that blocks passes."""

    class Blocking(ReferenceStore):
        colour = Colour.BLOCKS

    kind = Blocking


class TestAwaiting(ReferenceContract):
    """A right store that awaits passes."""

    def make_store(self) -> SessionStore:
        return YieldingStore(super().make_store())

    def second_client(self, store: Any) -> SessionStore:
        return YieldingStore(store.store.twin())


class TestAwaitingUnderTrio(TestAwaiting):
    library = "trio"


class Faulty(ReferenceStore):
    """A planted fault. `fails` names tests of the suite that must find it."""

    fails: ClassVar[tuple[str, ...]] = ()


class NamesNoColour(Faulty):
    colour = cast("Colour", "instant")
    fails = ("colour_and_max_age_are_what_the_core_can_read",)


class SuspendsThoughItSaysThatItDoesNot(Faulty):
    fails = ("get_gives_missing_where_there_is_no_record",)

    async def get(self, key: str, expect: Expect, touch: bool = True) -> Got:
        await asyncio.sleep(0)
        return await super().get(key, expect, touch)


class GivesHexadecimalIds(Faulty):
    fails = ("ids_are_24_characters_of_base64url",)

    def id(self) -> str:
        return secrets.token_hex(12) + "="


class GivesIdsOfOneByte(Faulty):
    fails = ("ids_are_distinct",)

    def id(self) -> str:
        return base64.urlsafe_b64encode(secrets.token_bytes(1) + bytes(17)).decode()


class ReadsNothingAsAnEmptyRecord(Faulty):
    fails = (
        "get_gives_missing_where_there_is_no_record",
        "a_destroyed_record_is_no_record",
        "no_late_write_brings_a_destroyed_record_back",
        "of_all_who_destroy_a_record_exactly_one_did",
        "set_with_an_expectation_never_makes_a_record",
    )

    async def get(self, key: str, expect: Expect, touch: bool = True) -> Got:
        got = await super().get(key, expect, touch)
        return {} if got is MISSING else got


class GivesMemoryViews(Faulty):
    fails = ("get_gives_all_fields_as_text_and_bytes",)

    async def get(self, key: str, expect: Expect, touch: bool = True) -> Got:
        got = await super().get(key, expect, touch)
        return cast("Fields", {n: memoryview(v) for n, v in got.items()}) if isinstance(got, dict) else got


class HandsOutItsOwnDict(Faulty):
    fails = ("get_gives_a_dict_that_is_the_callers_own",)

    async def get(self, key: str, expect: Expect, touch: bool = True) -> Got:
        got = await super().get(key, expect, touch)
        return self.records[key].fields if isinstance(got, dict) else got


class ReadsWithoutChecking(Faulty):
    fails = (
        "get_holds_the_record_to_what_is_expected",
        "values_are_compared_as_bytes",
        "an_empty_value_is_not_an_absent_field",
    )

    async def get(self, key: str, expect: Expect, touch: bool = True) -> Got:
        return await super().get(key, {}, touch)


class TakesAbsentForAnything(Faulty):
    fails = (
        "get_holds_the_record_to_what_is_expected",
        "set_holds_the_record_to_what_is_expected",
        "merge_holds_the_record_to_what_is_expected",
        "merge_checks_the_record_as_it_was_before_the_merge",
    )

    def holds(self, fields: Fields, expect: Expect) -> bool:
        return super().holds(fields, {name: value for name, value in expect.items() if value is not None})


class ChecksOneFieldOnly(Faulty):
    fails = ("get_holds_the_record_to_what_is_expected", "merge_holds_the_record_to_what_is_expected")

    def holds(self, fields: Fields, expect: Expect) -> bool:
        return super().holds(fields, dict(list(expect.items())[:1]))


class TakesEmptyForAbsent(Faulty):
    fails = ("an_empty_value_is_not_an_absent_field", "get_holds_the_record_to_what_is_expected")

    def holds(self, fields: Fields, expect: Expect) -> bool:
        return all((fields.get(name) or None) == (value or None) for name, value in expect.items())


class ComparesPrefixes(Faulty):
    fails = ("values_are_compared_as_bytes", "a_value_of_the_greatest_length_is_kept_whole")

    def holds(self, fields: Fields, expect: Expect) -> bool:
        return all(
            name not in fields if value is None else name in fields and fields[name].startswith(value)
            for name, value in expect.items()
        )


class ComparesWithoutCase(Faulty):
    fails = ("values_are_compared_as_bytes",)

    def holds(self, fields: Fields, expect: Expect) -> bool:
        return super().holds(
            {name: value.lower() for name, value in fields.items()},
            {name: value and value.lower() for name, value in expect.items()},
        )


class NeedsARecordToSet(Faulty):
    fails = ("set_with_no_expectation_makes_a_record_where_there_is_none",)

    async def set(self, key: str, fields: Fields, lifetime: Lifetime, expect: Expect | None = None) -> Outcome:
        return await super().set(key, fields, lifetime, {} if expect is None else expect)


class WritesOverARecordUnasked(Faulty):
    fails = ("set_with_no_expectation_never_writes_over_a_record", "what_does_not_hold_touches_nothing")

    async def set(self, key: str, fields: Fields, lifetime: Lifetime, expect: Expect | None = None) -> Outcome:
        if expect is None:
            self.records.pop(key, None)
        return await super().set(key, fields, lifetime, expect)


class SetMakesWhatItExpected(Faulty):
    fails = (
        "set_with_an_expectation_never_makes_a_record",
        "a_destroyed_record_is_no_record",
        "an_expired_record_is_no_record",
        "no_late_write_brings_a_destroyed_record_back",
    )

    async def set(self, key: str, fields: Fields, lifetime: Lifetime, expect: Expect | None = None) -> Outcome:
        return await super().set(key, fields, lifetime, expect if self.find(key) else None)


class SetsWithoutChecking(Faulty):
    fails = ("set_holds_the_record_to_what_is_expected", "values_are_compared_as_bytes")

    async def set(self, key: str, fields: Fields, lifetime: Lifetime, expect: Expect | None = None) -> Outcome:
        return await super().set(key, fields, lifetime, None if expect is None else {})


class SetKeepsFormerFields(Faulty):
    fails = (
        "set_replaces_all_fields",
        "set_holds_the_record_to_what_is_expected",
        "nothing_of_an_expired_record_passes_to_the_next",
        "no_late_write_undoes_the_mark_of_an_end",
    )

    async def set(self, key: str, fields: Fields, lifetime: Lifetime, expect: Expect | None = None) -> Outcome:
        former = self.records[key].fields if key in self.records else {}
        return await super().set(key, {**former, **fields}, lifetime, expect)


class SetKeepsTheFormerLifetime(Faulty):
    fails = ("a_lifetime_given_to_a_set_replaces_the_records", "no_touch_undoes_a_shorter_lifetime")

    async def set(self, key: str, fields: Fields, lifetime: Lifetime, expect: Expect | None = None) -> Outcome:
        former = self.find(key)
        outcome = await super().set(key, fields, lifetime, expect)
        if former is not None and outcome is APPLIED:
            former.fields = dict(fields)
            self.records[key] = former
        return outcome


class SetKeepsAnExpiredDeadline(Faulty):
    fails = ("nothing_of_an_expired_record_passes_to_the_next",)

    async def set(self, key: str, fields: Fields, lifetime: Lifetime, expect: Expect | None = None) -> Outcome:
        former = self.records.get(key)
        outcome = await super().set(key, fields, lifetime, expect)
        if former is not None and expect is None and outcome is APPLIED:
            self.records[key].expiry = former.expiry
        return outcome


class KeepsTheCallersDict(Faulty):
    fails = ("what_the_caller_gave_remains_the_callers_own",)

    async def set(self, key: str, fields: Fields, lifetime: Lifetime, expect: Expect | None = None) -> Outcome:
        outcome = await super().set(key, fields, lifetime, expect)
        if outcome is APPLIED:
            self.records[key].fields = fields
        return outcome


class MergesWithoutChecking(Faulty):
    fails = (
        "merge_holds_the_record_to_what_is_expected",
        "of_all_who_pluck_a_field_exactly_one_gets_it",
        "of_all_who_renew_exactly_one_does",
        "a_counter_kept_by_expectation_loses_no_step",
        "no_late_write_undoes_the_mark_of_an_end",
        "a_write_meets_a_renewal_before_it_or_not_at_all",
    )

    async def apply(self, key: str, change: Change) -> Outcome:
        return await super().apply(key, change._replace(expect={}))


class ChecksAfterTheMerge(Faulty):
    fails = ("merge_checks_the_record_as_it_was_before_the_merge", "merge_holds_the_record_to_what_is_expected")

    async def apply(self, key: str, change: Change) -> Outcome:
        outcome = await super().apply(key, change._replace(expect={}))
        if outcome is APPLIED and not self.holds(self.records[key].fields, change.expect):
            return CONFLICT
        return outcome


class WritesAPartOnConflict(Faulty):
    fails = ("merge_holds_the_record_to_what_is_expected",)

    async def apply(self, key: str, change: Change) -> Outcome:
        outcome = await super().apply(key, change)
        if outcome is CONFLICT:
            self.write(self.records[key].fields, {}, change.removed)
        return outcome


class RevivesOnMerge(Faulty):
    fails = (
        "merge_never_makes_a_record",
        "a_destroyed_record_is_no_record",
        "an_expired_record_is_no_record",
        "no_late_write_brings_a_destroyed_record_back",
        "no_touch_revives_what_has_expired",
    )

    async def apply(self, key: str, change: Change) -> Outcome:
        outcome = await super().apply(key, change)
        if outcome is MISSING:
            return await self.set(key, dict(change.changed), Lifetime(3600))
        return outcome


class MergeReplacesAllFields(Faulty):
    fails = (
        "merge_writes_changed_drops_removed_and_leaves_the_rest",
        "overlapping_merges_of_different_fields_all_hold",
        "overlapping_reads_undo_no_merge",
        "merge_may_remove_what_is_not_there",
        "any_mapping_and_any_collection_will_do",
    )

    def write(self, fields: Fields, changed: Mapping[str, bytes], removed: Collection[str]) -> None:
        fields.clear()
        super().write(fields, changed, removed)


class LosesRemovals(Faulty):
    fails = ("merge_writes_changed_drops_removed_and_leaves_the_rest", "of_all_who_pluck_a_field_exactly_one_gets_it")

    def write(self, fields: Fields, changed: Mapping[str, bytes], removed: Collection[str]) -> None:
        super().write(fields, changed, ())


class CannotRemoveWhatIsNotThere(Faulty):
    fails = ("merge_may_remove_what_is_not_there",)

    async def apply(self, key: str, change: Change) -> Outcome:
        record = self.find(key)
        if record is not None and not record.fields.keys() >= set(change.removed):
            return CONFLICT
        return await super().apply(key, change)


class RemembersRemovals(Faulty):
    fails = ("a_removed_field_can_be_written_again",)

    def write(self, fields: Fields, changed: Mapping[str, bytes], removed: Collection[str]) -> None:
        super().write(fields, changed, removed)
        self.gone: set[str] = {*getattr(self, "gone", ()), *removed}
        super().write(fields, {}, self.gone)


class SkipsAMergeOfNothing(Faulty):
    fails = ("merge_of_nothing_applies_and_changes_nothing", "a_merge_restarts_the_idle_clock")

    async def apply(self, key: str, change: Change) -> Outcome:
        if not change.changed and not change.removed:
            return APPLIED
        return await super().apply(key, change)


class TakesListsOnly(Faulty):
    fails = ("any_mapping_and_any_collection_will_do",)

    def write(self, fields: Fields, changed: Mapping[str, bytes], removed: Collection[str]) -> None:
        super().write(fields, changed, removed if isinstance(removed, list) else [])


class NamesItsArgumentsOtherwise(Faulty):
    fails = ("arguments_go_by_their_names",)

    async def destroy(self, session_id: str) -> bool:  # pyright: ignore[reportIncompatibleMethodOverride]
        return await super().destroy(session_id)


class AlwaysSaysThatItDestroyed(Faulty):
    fails = (
        "destroy_says_whether_there_was_a_record",
        "an_expired_record_is_no_record",
        "of_all_who_destroy_a_record_exactly_one_did",
    )

    async def destroy(self, key: str) -> bool:
        await super().destroy(key)
        return True


class CannotDestroyTwice(Faulty):
    fails = ("destroy_says_whether_there_was_a_record",)

    async def destroy(self, key: str) -> bool:
        with self.lock:
            if key not in self.records:
                raise AssertionError("no such session")
            del self.records[key]
            return True


class DestroysForShow(Faulty):
    fails = ("a_destroyed_record_is_no_record", "two_clients_see_one_record")

    async def destroy(self, key: str) -> bool:
        return self.find(key) is not None


class TakesKeysWithoutCase(Faulty):
    fails = ("records_do_not_meet",)

    def find(self, key: str) -> Record | None:
        return super().find(key) or next(
            (record for other, record in list(self.records.items()) if other.lower() == key.lower()), None
        )


class KeepsText(Faulty):
    fails = ("values_of_all_bytes_come_back_as_they_were",)

    async def get(self, key: str, expect: Expect, touch: bool = True) -> Got:
        got = await super().get(key, expect, touch)
        if not isinstance(got, dict):
            return got
        return {name: value.decode(errors="replace").encode() for name, value in got.items()}


class CutsLongValues(Faulty):
    fails = ("a_value_of_the_greatest_length_is_kept_whole",)

    def write(self, fields: Fields, changed: Mapping[str, bytes], removed: Collection[str]) -> None:
        super().write(fields, {name: value[:65535] for name, value in changed.items()}, removed)


class ChangesNames(Faulty):
    """One whose back end keeps field names in a form of its own."""

    def form(self, name: str) -> str:
        raise NotImplementedError

    def holds(self, fields: Fields, expect: Expect) -> bool:
        return super().holds(
            {self.form(name): value for name, value in fields.items()},
            {self.form(name): value for name, value in expect.items()},
        )

    def write(self, fields: Fields, changed: Mapping[str, bytes], removed: Collection[str]) -> None:
        super().write(
            fields, {self.form(name): value for name, value in changed.items()}, {self.form(name) for name in removed}
        )


class TakesNamesWithoutCase(ChangesNames):
    fails = ("names_are_compared_as_bytes", "names_of_all_kinds_come_back_as_they_were", "each_name_works_alone")

    def form(self, name: str) -> str:
        return name.casefold()


class NormalisesNames(ChangesNames):
    fails = ("names_are_compared_as_bytes", "names_of_all_kinds_come_back_as_they_were")

    def form(self, name: str) -> str:
        return unicodedata.normalize("NFC", name)


class PadsNames(ChangesNames):
    fails = ("names_are_compared_as_bytes", "each_name_works_alone")

    def form(self, name: str) -> str:
        return name.rstrip(" ")


class EndsNamesAtNul(ChangesNames):
    fails = ("names_are_compared_as_bytes", "each_name_works_alone")

    def form(self, name: str) -> str:
        return name.split("\0", 1)[0]


class CutsLongNames(ChangesNames):
    fails = ("names_of_all_kinds_come_back_as_they_were", "each_name_works_alone")

    def form(self, name: str) -> str:
        return name[:250]


class KeepsItsTimesAmongTheFields(Faulty):
    fails = ("names_of_all_kinds_come_back_as_they_were", "each_name_works_alone")

    async def get(self, key: str, expect: Expect, touch: bool = True) -> Got:
        got = await super().get(key, expect, touch)
        if isinstance(got, dict):
            got.pop("deadline", None)
        return got


class NeverExpires(Faulty):
    fails = (
        "a_record_expires_at_its_idle_time_and_not_before",
        "an_expired_record_is_no_record",
        "no_touch_revives_what_has_expired",
        "no_touch_moves_the_deadline",
        "no_touch_at_once_with_others_passes_the_deadline",
        "no_touch_undoes_a_shorter_lifetime",
    )

    def find(self, key: str) -> Record | None:
        return self.records.get(key)


class TouchesUnasked(Faulty):
    fails = ("a_record_expires_at_its_idle_time_and_not_before",)

    async def get(self, key: str, expect: Expect, touch: bool = True) -> Got:
        return await super().get(key, expect, True)


class TouchesByNoRead(Faulty):
    fails = ("a_read_restarts_the_idle_clock",)

    async def get(self, key: str, expect: Expect, touch: bool = True) -> Got:
        return await super().get(key, expect, False)


class TouchesByNoMerge(Faulty):
    fails = ("a_merge_restarts_the_idle_clock",)

    async def apply(self, key: str, change: Change) -> Outcome:
        record = self.records.get(key)
        expiry = record.expiry if record is not None else 0.0
        outcome = await super().apply(key, change)
        if record is not None and outcome is APPLIED:
            record.expiry = expiry
        return outcome


class TouchesWhatDoesNotHold(Faulty):
    fails = ("what_does_not_hold_touches_nothing",)

    async def get(self, key: str, expect: Expect, touch: bool = True) -> Got:
        await super().get(key, {}, touch)
        return await super().get(key, expect, touch)


class MergeTouchesWhatDoesNotHold(Faulty):
    fails = ("what_does_not_hold_touches_nothing",)

    async def apply(self, key: str, change: Change) -> Outcome:
        await super().apply(key, Change({}, (), {}))
        return await super().apply(key, change)


class TouchesPastTheDeadline(Faulty):
    fails = ("no_touch_moves_the_deadline", "no_touch_at_once_with_others_passes_the_deadline")

    def touch(self, record: Record) -> None:
        record.expiry = self.clock() + record.idle


class TouchMovesTheDeadline(Faulty):
    fails = ("no_touch_moves_the_deadline", "no_touch_at_once_with_others_passes_the_deadline")

    def touch(self, record: Record) -> None:
        record.deadline += 2 * record.idle
        super().touch(record)


class TouchesEveryRecord(Faulty):
    fails = ("a_read_restarts_the_idle_clock", "a_merge_restarts_the_idle_clock")

    def touch(self, record: Record) -> None:
        for one in self.records.values():
            super().touch(one)


class TouchesBackwards(Faulty):
    fails = ("no_touch_moves_the_expiry_back", "a_read_restarts_the_idle_clock")

    def touch(self, record: Record) -> None:
        record.expiry = min(self.clock() + record.idle / 2, record.deadline)


class FollowsAClockThatStepsBack(Faulty):
    fails = ("no_touch_moves_the_expiry_back_when_the_clock_steps_back",)

    def touch(self, record: Record) -> None:
        record.expiry = min(self.clock() + record.idle, record.deadline)


class MergeBringsALifetimeOfItsOwn(Faulty):
    fails = ("a_merge_without_a_lifetime_keeps_idle_time_and_deadline", "no_touch_moves_the_deadline")

    async def apply(self, key: str, change: Change) -> Outcome:
        return await super().apply(key, change._replace(lifetime=change.lifetime or Lifetime(1800)))


class IgnoresALifetimeInMerge(Faulty):
    fails = ("a_lifetime_given_to_a_merge_replaces_the_records", "no_touch_undoes_a_shorter_lifetime")

    async def apply(self, key: str, change: Change) -> Outcome:
        return await super().apply(key, change._replace(lifetime=None))


class TakesOnlyLongerLifetimes(Faulty):
    fails = ("a_lifetime_given_to_a_merge_replaces_the_records",)

    async def apply(self, key: str, change: Change) -> Outcome:
        record = self.find(key)
        expiry = record.expiry if record else 0.0
        outcome = await super().apply(key, change)
        if record is not None:
            record.expiry = max(record.expiry, expiry)
        return outcome


class ChangesTheExpiryButNotTheIdleTime(Faulty):
    fails = ("a_lifetime_given_to_a_merge_replaces_the_records",)

    async def apply(self, key: str, change: Change) -> Outcome:
        record = self.find(key)
        idle = record.idle if record else 0.0
        outcome = await super().apply(key, change)
        if record is not None:
            record.idle = idle
        return outcome


class KeepsTheShorterIdleTime(Faulty):
    fails = ("a_lifetime_given_to_a_merge_replaces_the_records",)

    async def apply(self, key: str, change: Change) -> Outcome:
        record = self.find(key)
        idle = record.idle if record else 0.0
        outcome = await super().apply(key, change)
        if record is not None:
            record.idle = min(record.idle, idle)
        return outcome


class TakesLongLifetimesForDates(Faulty):
    fails = ("lifetimes_may_be_long_and_fractional",)

    async def set(self, key: str, fields: Fields, lifetime: Lifetime, expect: Expect | None = None) -> Outcome:
        if lifetime.idle > 30 * 86400:
            lifetime = Lifetime(lifetime.idle - 1_700_000_000)
        return await super().set(key, fields, lifetime, expect)


class CachesInEachClient(Faulty):
    fails = ("two_clients_see_one_record",)

    def __init__(self, clock: Clock) -> None:
        super().__init__(clock)
        self.cache: dict[str, Fields] = {}

    def twin(self) -> ReferenceStore:
        other = copy(self)
        other.cache = {}
        return other

    async def get(self, key: str, expect: Expect, touch: bool = True) -> Got:
        if key not in self.cache:
            got = await super().get(key, expect, touch)
            if not isinstance(got, dict):
                return got
            self.cache[key] = got
        return dict(self.cache[key])


class TakesNoLock(Faulty):
    """It waits for nobody between its check and its write: found by threads."""

    fails = (
        "of_all_who_pluck_a_field_exactly_one_gets_it",
        "of_all_who_renew_exactly_one_does",
        "a_counter_kept_by_expectation_loses_no_step",
    )

    def __init__(self, clock: Clock) -> None:
        super().__init__(clock)
        self.lock = nullcontext()


class ReadsThenWrites(Faulty):
    """It changes a copy of the record that it read, and writes it back a little later: found by threads."""

    fails: ClassVar[tuple[str, ...]] = (
        "overlapping_merges_of_different_fields_all_hold",
        "overlapping_reads_undo_no_merge",
        "of_all_who_set_a_fresh_key_exactly_one_does",
        "of_all_who_pluck_a_field_exactly_one_gets_it",
        "of_all_who_renew_exactly_one_does",
        "a_counter_kept_by_expectation_loses_no_step",
        "no_late_write_brings_a_destroyed_record_back",
        "no_late_write_undoes_the_mark_of_an_end",
        "a_write_meets_a_renewal_before_it_or_not_at_all",
        "no_touch_undoes_a_shorter_lifetime",
    )

    async def apart(self, key: str, call: Callable[[ReferenceStore], Coroutine[Any, Any, T]]) -> T:
        own = ReferenceStore(self.clock)
        if key in self.records:
            own.records[key] = deepcopy(self.records[key])
        await pause(0)
        result = await call(own)
        await pause(0)
        if not any(result is refusal for refusal in (MISSING, CONFLICT, False)):
            self.records.update(own.records)
            if key not in own.records:
                self.records.pop(key, None)
        return result

    async def get(self, key: str, expect: Expect, touch: bool = True) -> Got:
        if not touch:
            return await super().get(key, expect, touch)
        return await self.apart(key, lambda own: own.get(key, expect, touch))

    async def set(self, key: str, fields: Fields, lifetime: Lifetime, expect: Expect | None = None) -> Outcome:
        return await self.apart(key, lambda own: own.set(key, fields, lifetime, expect))

    async def apply(self, key: str, change: Change) -> Outcome:
        return await self.apart(key, lambda own: own.apply(key, change))

    async def destroy(self, key: str) -> bool:
        return await self.apart(key, lambda own: own.destroy(key))


class AwaitsThenWrites(ReadsThenWrites):
    """The same over a client that awaits: found by tasks."""

    colour = Colour.AWAITS
    fails = (*ReadsThenWrites.fails, "of_all_who_destroy_a_record_exactly_one_did")


class WritesFieldByField(Faulty):
    """It awaits between two fields."""

    colour = Colour.AWAITS
    fails = ("a_record_is_never_seen_half_written", "a_cancelled_call_was_made_or_not_made")

    async def apply(self, key: str, change: Change) -> Outcome:
        outcome = await super().apply(key, change._replace(changed={}, removed=()))
        for name in [*change.changed, *change.removed]:
            await pause(0)
            if outcome is APPLIED:
                field = {name: change.changed[name]} if name in change.changed else {}
                outcome = await super().apply(key, Change(field, () if field else (name,), {}))
        return outcome


class LosesAConnectionAtEachCancellation(Faulty):
    colour = Colour.AWAITS
    fails = ("after_cancelled_calls_the_store_works_on",)

    def __init__(self, clock: Clock) -> None:
        super().__init__(clock)
        self.free = 10

    async def get(self, key: str, expect: Expect, touch: bool = True) -> Got:
        while not self.free:
            await pause(0)
        self.free -= 1
        await pause(0)
        got = await super().get(key, expect, touch)
        self.free += 1
        return got


class TakesTheAnswerOfACancelledCall(Faulty):
    """Its one connection gives the answers in the order of the questions, wanted or not."""

    colour = Colour.AWAITS
    fails = ("after_cancelled_calls_the_store_works_on",)

    def __init__(self, clock: Clock) -> None:
        super().__init__(clock)
        self.answers: list[Got] = []

    async def get(self, key: str, expect: Expect, touch: bool = True) -> Got:
        self.answers.append(await super().get(key, expect, touch))
        await pause(0)
        return self.answers.pop(0)


def leaves(kind: type[Faulty]) -> list[type[Faulty]]:
    return [leaf for sub in kind.__subclasses__() for leaf in (sub, *leaves(sub)) if leaf.fails]


FAULTS = leaves(Faulty)
SUITE = [name for name in dir(StoreContract) if name.startswith("test_")]


@pytest.mark.parametrize(
    "fault, test", [pytest.param(kind, name, id=f"{kind.__name__}-{name}") for kind in FAULTS for name in kind.fails]
)
def test_the_suite_finds_a_planted_fault(fault: type[Faulty], test: str) -> None:
    class Suite(ReferenceContract):
        kind = fault
        second = 0.02
        patience = 0.5

    with pytest.raises((AssertionError, ColourError, TypeError)):
        getattr(Suite(), f"test_{test}")()


def test_every_test_of_the_suite_finds_some_fault() -> None:
    assert {f"test_{name}" for kind in FAULTS for name in kind.fails} == set(SUITE)


def test_a_suite_without_make_store_says_what_to_define() -> None:
    class Suite(StoreContract):
        pass

    with pytest.raises(NotImplementedError, match=r"define make_store\(\) on Suite"):
        Suite().test_ids_are_distinct()


def test_a_failure_names_the_field_and_shortens_what_is_long() -> None:
    with pytest.raises(AssertionError) as failure:
        check_equal({"a": b"x" * 5000, "b": b"2"}, {"a": b"1", "c": b"3"}, "the record")
    message = str(failure.value)
    assert message.startswith("the record: no field 'c'; field 'b' should not be there; field 'a' is b'xxx")
    assert "(5003 characters), want b'1'" in message
    assert len(message) < 300


def test_a_failure_names_the_outcome() -> None:
    with pytest.raises(AssertionError, match=r"^merge: got MISSING, want APPLIED$"):
        check_equal(MISSING, APPLIED, "merge")


class Stalling(ReferenceContract):
    """A machine that stops for three units, in the first of the runs or in each of them."""

    runs = 0
    stalls = 1
    pause = 3.0

    def make_store(self) -> SessionStore:
        self.runs += 1
        return super().make_store()

    def advance(self, seconds: float) -> None:
        super().advance(seconds)
        self.time.now += seconds
        if self.runs <= self.stalls:
            self.clock.now += self.pause
            self.time.now += self.pause

    def begin(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.time = Clock()
        monkeypatch.setattr("time.monotonic", self.time)


def test_a_test_of_lifetimes_runs_again_if_the_machine_stalled(monkeypatch: pytest.MonkeyPatch) -> None:
    suite = Stalling()
    suite.begin(monkeypatch)
    suite.test_a_read_restarts_the_idle_clock()
    assert suite.runs == 2


def test_where_the_machine_stalls_again_and_again_the_unit_grows_beyond_what_it_stalls_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    suite = Stalling()
    suite.stalls, suite.pause = 100, 100.0
    suite.begin(monkeypatch)
    suite.test_a_read_restarts_the_idle_clock()
    assert (suite.runs, suite.second) == (2, 200.0)


def test_a_store_is_not_excused_by_a_stall_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    class Suite(Stalling):
        stalls = 100

        def advance(self, seconds: float) -> None:
            self.pause = 3 * seconds
            super().advance(seconds)

    suite = Suite()
    suite.begin(monkeypatch)
    with pytest.raises(AssertionError):
        suite.test_a_read_restarts_the_idle_clock()
    assert suite.runs == 5


def test_a_store_is_not_excused_where_nothing_stalled() -> None:
    class Suite(Stalling):
        kind = TouchesByNoRead
        pause = 0.0

    suite = Suite()
    suite.time = Clock()
    with pytest.raises(AssertionError):
        suite.test_a_read_restarts_the_idle_clock()
    assert suite.runs == 1


def test_every_client_is_closed_and_every_hook_may_await() -> None:
    opened: list[SessionStore] = []
    closed: list[SessionStore] = []

    class Suite(TestAwaiting):
        async def make_store(self) -> SessionStore:  # type: ignore[override]
            await pause(0)
            opened.append(super().make_store())
            return opened[-1]

        async def second_client(self, store: Any) -> SessionStore:  # type: ignore[override]
            await pause(0)
            opened.append(super().second_client(store))
            return opened[-1]

        async def close_store(self, store: Any) -> None:
            await pause(0)
            closed.append(store)

        async def advance(self, seconds: float) -> None:  # type: ignore[override]
            await pause(0)
            super().advance(seconds)

    Suite().test_two_clients_see_one_record()
    Suite().test_a_read_restarts_the_idle_clock()
    assert len(opened) == 3
    assert set(opened) == set(closed)
    assert len(closed) == 3


def test_a_store_that_fails_is_closed_too() -> None:
    closed: list[SessionStore] = []

    class Suite(ReferenceContract):
        kind = DestroysForShow

        async def close_store(self, store: Any) -> None:
            closed.append(store)

    with pytest.raises(AssertionError):
        Suite().test_two_clients_see_one_record()
    assert len(closed) == 2


class Diary(ReferenceStore):
    """It writes down who called."""

    def __init__(self) -> None:
        super().__init__(Clock())
        self.lines: list[str] = []

    async def destroy(self, key: str) -> bool:
        self.lines.append(key)
        return await super().destroy(key)


async def destroyed_by_two(order: list[int] | None) -> list[str]:
    diary = Diary()
    store = YieldingStore(diary, order)

    async def twice(who: str) -> None:
        await store.destroy(f"{who}1")
        await store.destroy(f"{who}2")

    await asyncio.gather(twice("a"), twice("b"))
    return diary.lines


def test_tasks_over_a_yielding_store_take_turns() -> None:
    assert asyncio.run(destroyed_by_two(None)) == ["a1", "b1", "a2", "b2"]


def test_the_order_of_a_yielding_store_chooses_who_goes_first() -> None:
    assert asyncio.run(destroyed_by_two([0, 3, 0, 0])) == ["a1", "b1", "b2", "a2"]
    assert asyncio.run(destroyed_by_two([5, 0, 0, 0, 0, 0])) == ["b1", "b2", "a1", "a2"]


def test_a_yielding_store_calls_one_that_blocks_in_a_worker_thread() -> None:
    threads: list[int] = []

    class Blocking(Diary):
        colour = Colour.BLOCKS

        async def destroy(self, key: str) -> bool:
            threads.append(threading.get_ident())
            return await super().destroy(key)

    store = YieldingStore(Blocking())
    assert asyncio.run(store.destroy("a")) is False
    assert threads
    assert threads[0] != threading.get_ident()


def test_a_yielding_store_has_the_inner_stores_ids_and_max_age_and_says_whether_it_evicts() -> None:
    inner = GivesIdsOfOneByte(Clock())
    inner.max_age = 60.0
    inner.evicts = True
    store = YieldingStore(inner)
    assert store.evicts
    assert store.id().endswith("AAAA")
    assert store.max_age == 60.0
    assert store.colour is Colour.AWAITS

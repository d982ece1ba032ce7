"""Lifetimes: when a record expires, and what moves that."""

from collections.abc import Awaitable, Callable

from server_session.stores._base import APPLIED, CONFLICT, MISSING, Lifetime, Outcome, SessionStore
from server_session.testing._checks import check, check_equal
from server_session.testing._scenarios import scenario, timed
from server_session.testing._stage import LONG, Stage

__all__ = ["Lifetimes"]


class Lifetimes(Stage):
    """A record lives by its idle time and its deadline, by the store's clock."""

    @timed
    async def test_a_record_expires_at_its_idle_time_and_not_before(self, store: SessionStore) -> None:
        key = await self._new(store, {"a": b"1"}, self._life(3))
        soon = await self._new(store, {"a": b"1"}, self._life(9, 3))
        await self._advance(2)
        for k in (key, soon):
            check_equal(await store.get(k, {}, touch=False), {"a": b"1"}, "get before the expiry")
        await self._advance(2)
        check_equal(await store.get(key, {}), MISSING, "get after the idle time; the reads had touch=False")
        check_equal(await store.get(soon, {}), MISSING, "get after a deadline that comes before the idle time")

    @timed
    async def test_a_read_restarts_the_idle_clock(self, store: SessionStore) -> None:
        key = await self._new(store, {"a": b"1"}, self._life(3))
        expected = await self._new(store, {"a": b"1"}, self._life(3, 90))
        other = await self._new(store, {"a": b"1"}, self._life(3))
        for _ in range(3):
            await self._advance(2)
            check_equal(await store.get(key, {}), {"a": b"1"}, "get of a record touched before its idle time was over")
            check_equal(await store.get(expected, {"a": b"1"}), {"a": b"1"}, "the same with expect and a deadline")
        await self._check_record(store, other, MISSING, "a record that nobody touched, while others were read")
        await self._advance(4)
        check_equal(await store.get(key, {}), MISSING, "get after the idle time since the last touch")
        check_equal(await store.get(expected, {}), MISSING, "the same with expect and a deadline")

    @timed
    async def test_a_merge_restarts_the_idle_clock(self, store: SessionStore) -> None:
        keys = [await self._new(store, {"a": b"1", "x": b"0"}, self._life(3)) for _ in range(3)]
        other = await self._new(store, {"a": b"1"}, self._life(3))
        for n in range(3):
            await self._advance(2)
            check_equal(await store.merge(keys[0], {"a": b"%d" % n}, [], {}), APPLIED, "merge of a change, in time")
            check_equal(await store.merge(keys[1], {}, ["x"], {}), APPLIED, "merge of a removal, in time")
            check_equal(await store.merge(keys[2], {}, [], {}), APPLIED, "merge of nothing, in time")
            for key in keys:
                alive = await store.get(key, {}, touch=False) is not MISSING
                check(alive, "a record was gone within the idle time since the last merge")
        await self._check_record(store, other, MISSING, "a record that nobody touched, while others were merged")
        await self._advance(4)
        for key in keys:
            check_equal(await store.get(key, {}), MISSING, "get after the idle time since the last merge")

    @timed
    async def test_what_does_not_hold_touches_nothing(self, store: SessionStore) -> None:
        fields = {"a": b"1"}
        keys = [await self._new(store, dict(fields), self._life(3)) for _ in range(5)]
        await self._advance(2)
        wrong = {"a": b"2"}
        check_equal(await store.get(keys[0], wrong), CONFLICT, "get that expects another value")
        check_equal(await store.merge(keys[1], {"b": b"2"}, [], wrong), CONFLICT, "merge that expects another value")
        check_equal(
            await store.merge(keys[2], {"b": b"2"}, [], wrong, self._life(9)),
            CONFLICT,
            "merge with a lifetime, the same",
        )
        check_equal(await store.set(keys[3], {"b": b"2"}, self._life(9), wrong), CONFLICT, "set, the same")
        check_equal(
            await store.set(keys[4], {"b": b"2"}, self._life(9)), CONFLICT, "set with expect=None over a record"
        )
        await self._advance(2)
        for key, call in zip(keys, ("get", "merge", "merge with a lifetime", "set", "set, expect=None"), strict=True):
            await self._check_record(store, key, MISSING, f"the record, not touched by a {call} that met CONFLICT")

    @timed
    async def test_no_touch_moves_the_deadline(self, store: SessionStore) -> None:
        read = await self._new(store, {"a": b"1"}, self._life(3, 5))
        merged = await self._new(store, {"a": b"1"}, self._life(3, 5))
        for _ in range(2):
            await self._advance(2)
            check_equal(await store.get(read, {}), {"a": b"1"}, "get before the deadline")
            check_equal(await store.merge(merged, {"a": b"1"}, [], {}), APPLIED, "merge before the deadline")
        await self._advance(2)
        check_equal(await store.get(read, {}), MISSING, "get after the deadline of a record that was read")
        check_equal(await store.merge(merged, {}, [], {}), MISSING, "merge after the deadline of one that was merged")

    @timed
    async def test_no_touch_moves_the_expiry_back(self, store: SessionStore) -> None:
        read = await self._new(store, {"a": b"1"}, self._life(3, 90))
        merged = await self._new(store, {"a": b"1"}, self._life(3))
        for _ in range(3):
            check_equal(await store.get(read, {}), {"a": b"1"}, "get")
            check_equal(await store.merge(merged, {"a": b"1"}, [], {}), APPLIED, "merge")
        await self._advance(2)
        await self._check_record(store, read, {"a": b"1"}, "a record read several times, before its idle time is over")
        await self._check_record(store, merged, {"a": b"1"}, "one merged several times, before its idle time is over")

    @timed
    async def test_no_touch_moves_the_expiry_back_when_the_clock_steps_back(self, store: SessionStore) -> None:
        if not self.clock_steps_back:
            return
        await self._advance(10)
        read = await self._new(store, {"a": b"1"}, self._life(3))
        merged = await self._new(store, {"a": b"1"}, self._life(3, 90))
        await self._advance(-2)
        check_equal(await store.get(read, {}), {"a": b"1"}, "get after the clock was set back")
        check_equal(await store.merge(merged, {"a": b"1"}, [], {}), APPLIED, "merge after the clock was set back")
        await self._advance(4)
        await self._check_record(store, read, {"a": b"1"}, "a record read while the clock was back")
        await self._check_record(store, merged, {"a": b"1"}, "a record merged while the clock was back")

    @timed
    async def test_a_merge_without_a_lifetime_keeps_idle_time_and_deadline(self, store: SessionStore) -> None:
        short = await self._new(store, {"a": b"1"}, self._life(3, 90))
        bound = await self._new(store, {"a": b"1"}, self._life(90, 3))
        for key in (short, bound):
            check_equal(await store.merge(key, {"b": b"2"}, [], {}, None), APPLIED, "merge, lifetime=None")
        await self._advance(2)
        check_equal(await store.get(short, {}), {"a": b"1", "b": b"2"}, "get before the idle time is over")
        await self._advance(2)
        check_equal(await store.get(short, {}), {"a": b"1", "b": b"2"}, "get after a touch, within the idle time")
        check_equal(await store.get(bound, {}), MISSING, "get after the deadline")
        await self._advance(4)
        check_equal(await store.get(short, {}), MISSING, "get after the idle time")

    @timed
    async def test_a_lifetime_given_to_a_merge_replaces_the_records(self, store: SessionStore) -> None:
        await self._replaced(store, lambda key, lifetime: store.merge(key, {"a": b"1"}, [], {"a": b"1"}, lifetime))

    @timed
    async def test_a_lifetime_given_to_a_set_replaces_the_records(self, store: SessionStore) -> None:
        await self._replaced(store, lambda key, lifetime: store.set(key, {"a": b"1"}, lifetime, {"a": b"1"}))

    async def _replaced(self, store: SessionStore, give: Callable[[str, Lifetime], Awaitable[Outcome]]) -> None:
        # former lifetime, the one given, and whether the record lives 4 units later; a touch stands in between.
        table: list[tuple[str, Lifetime, Lifetime, bool]] = [
            ("a shorter idle time", self._life(90), self._life(1), False),
            ("a longer idle time", self._life(3), self._life(90), True),
            ("a nearer deadline", self._life(90, 90), self._life(90, 3), False),
            ("a first deadline", self._life(90), self._life(90, 3), False),
            ("a later deadline", self._life(90, 3), self._life(90, 90), True),
            ("no deadline", self._life(90, 3), self._life(90), True),
        ]
        keys = []
        for what, former, given, _ in table:
            key = await self._new(store, {"a": b"1"}, former)
            check_equal(await give(key, given), APPLIED, f"{what} given")
            keys.append(key)
        later = await self._new(store, {"a": b"1"}, self._life(90))
        check_equal(await give(later, self._life(3)), APPLIED, "a shorter idle time given")
        longer = await self._new(store, {"a": b"1"}, self._life(3))
        check_equal(await give(longer, self._life(5)), APPLIED, "a longer idle time given")
        await self._advance(2)
        for key in (*keys[1:], later, longer):
            check_equal(await store.get(key, {}), {"a": b"1"}, "get before any expiry")
        await self._advance(2)
        for key, (what, _, _, lives) in zip(keys, table, strict=True):
            await self._check_record(store, key, {"a": b"1"} if lives else MISSING, f"the record that was given {what}")
        await self._check_record(store, later, {"a": b"1"}, "the record touched within the idle time it was given")
        await self._advance(2)
        await self._check_record(store, later, MISSING, "the same record, touched, after the idle time it was given")
        await self._check_record(store, longer, {"a": b"1"}, "a record touched, within the longer time it was given")

    @timed
    async def test_an_expired_record_is_no_record(self, store: SessionStore) -> None:
        keys = [await self._new(store, {"a": b"1", "b": b"2"}, self._life(*life)) for life in ((1,), (9, 1)) * 2]
        await self._advance(2)
        for key in keys[:2]:
            check_equal(await store.get(key, {}), MISSING, "get of an expired record")
            check_equal(await store.get(key, {"a": b"2"}), MISSING, "get of an expired record, other values expected")
            for lifetime in (None, LONG):
                check_equal(
                    await store.merge(key, {"c": b"3"}, [], {}, lifetime), MISSING, "merge into an expired record"
                )
                check_equal(
                    await store.merge(key, {}, [], {"a": b"1"}, lifetime), MISSING, "merge, the former values expected"
                )
            check_equal(await store.set(key, {"c": b"3"}, LONG, {}), MISSING, "set over an expired record, expect={}")
            check_equal(
                await store.set(key, {"c": b"3"}, LONG, {"a": b"1"}), MISSING, "the same, former values expected"
            )
            check_equal(await store.get(key, {}), MISSING, "get after all that")
        for key in keys[2:]:
            check(await store.destroy(key) is False, "destroy of an expired record must return False")

    @timed
    async def test_nothing_of_an_expired_record_passes_to_the_next(self, store: SessionStore) -> None:
        keys = [await self._new(store, {"a": b"1", "b": b"2"}, self._life(*life)) for life in ((1,), (9, 1))]
        await self._advance(2)
        for key in keys:
            check_equal(await store.set(key, {"c": b"3"}, self._life(3)), APPLIED, "set after the expiry, expect=None")
        for _ in range(2):
            await self._advance(2)
            for key in keys:
                check_equal(await store.get(key, {}), {"c": b"3"}, "the next record, with a lifetime of its own")
        await self._advance(4)
        for key in keys:
            check_equal(await store.get(key, {}), MISSING, "the next record, after its idle time")

    @scenario
    async def test_lifetimes_may_be_long_and_fractional(self, store: SessionStore) -> None:
        day = 86400.0
        for lifetime in (
            Lifetime(31 * day),
            Lifetime(31 * day, 365 * day),
            Lifetime(3650 * day, 3650 * day),
            Lifetime(1800.25, 86400.123456789),
            Lifetime(3600, 7200),
        ):
            key = await self._new(store, {"a": b"1"}, lifetime)
            check_equal(await store.get(key, {}), {"a": b"1"}, f"get of a record with {lifetime}")
            check_equal(await store.merge(key, {"b": b"2"}, [], {}), APPLIED, f"merge into a record with {lifetime}")
            check_equal(await store.merge(key, {}, ["b"], {}, lifetime), APPLIED, f"merge that gives {lifetime}")
            await self._check_record(store, key, {"a": b"1"}, f"a record with {lifetime}")

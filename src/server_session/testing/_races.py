"""Races: each call takes place at one moment, among those of all clients."""

from collections.abc import Coroutine
from functools import partial
from typing import Any, cast

from server_session.stores._base import APPLIED, CONFLICT, MISSING, Fields, Lifetime, Outcome, SessionStore
from server_session.testing._checks import check, check_equal, shown
from server_session.testing._contest import Contest, Unhurried
from server_session.testing._scenarios import scenario, timed
from server_session.testing._stage import LONG, Call

__all__ = ["Races"]


class Races(Contest):
    """Calls at once come out as if one had followed the other."""

    @scenario
    async def test_two_clients_see_one_record(self, store: SessionStore) -> None:
        one, other = store, await self._another(store)
        key = await self._new(one, {"a": b"1"})
        check_equal(await other.get(key, {}), {"a": b"1"}, "get by the second client of what the first wrote")
        check_equal(await other.merge(key, {"b": b"2"}, [], {"a": b"1"}), APPLIED, "merge by the second client")
        check_equal(await one.get(key, {"b": b"2"}), {"a": b"1", "b": b"2"}, "get by the first client")
        check_equal(await other.set(key, {"c": b"3"}, LONG), CONFLICT, "set with expect=None by the second client")
        check_equal(await other.destroy(key), True, "destroy by the second client")
        check_equal(await one.get(key, {}), MISSING, "get by the first client of what the second destroyed")
        check_equal(await one.merge(key, {"a": b"1"}, [], {}), MISSING, "merge by the first client")

    @scenario
    async def test_overlapping_merges_of_different_fields_all_hold(self, store: SessionStore) -> None:
        clients = await self._clients(store)
        for stagger in range(self.rounds):
            old = {f"old {n}": b"0" for n in range(len(clients))}
            key = await self._new(store, {"keep": b"k", **old})

            def add(client: SessionStore, n: int, key: str = key) -> Coroutine[Any, Any, Outcome]:
                expect = Unhurried({f"old {n}": b"0"})
                return client.merge(key, Unhurried({f"new {n}": b"%d" % n}), [f"old {n}"], expect)

            got = await self._together([partial(add, client, n) for n, client in enumerate(clients)], stagger)
            check_equal(got, [APPLIED] * len(clients), "what merges of different fields returned")
            want = {"keep": b"k", **{f"new {n}": b"%d" % n for n in range(len(clients))}}
            await self._check_record(store, key, want, "the record, after overlapping merges")

    @scenario
    async def test_overlapping_reads_undo_no_merge(self, store: SessionStore) -> None:
        clients = await self._clients(store)
        for stagger in range(self.rounds):
            key = await self._new(store, {"keep": b"k"})

            async def act(client: SessionStore, n: int, key: str = key) -> bool:
                if n % 2:
                    return isinstance(await client.get(key, Unhurried({"keep": b"k"})), dict)
                return await client.merge(key, Unhurried({f"new {n}": b"1"}), [], {}) is APPLIED

            got = await self._together([partial(act, client, n // 2) for n, client in enumerate(clients)], stagger)
            check(all(got), f"of {len(got)} touches and merges at once {got.count(False)} failed")
            places = {n // 2 for n in range(len(clients))}
            want = {"keep": b"k", **{f"new {n}": b"1" for n in places if n % 2 == 0}}
            await self._check_record(store, key, want, "the record, after merges among touches")

    @scenario
    async def test_a_record_is_never_seen_half_written(self, store: SessionStore) -> None:
        clients = await self._clients(store)
        key = await self._new(store, {"a": b"0", "b": b"0", "c": b"0"})
        torn: list[object] = []

        async def act(client: SessionStore, n: int) -> None:
            for turn in range(10):
                value = b"%d.%d" % (n, turn)
                if n % 4 == 0:
                    await client.merge(key, Unhurried({"a": value, "b": value, "c": value}), [], {})
                elif n % 4 == 1:
                    await client.set(key, {"a": value, "b": value, "c": value}, LONG, {})
                else:
                    seen = await client.get(key, {}, touch=turn % 2 == 0)
                    if not isinstance(seen, dict) or sorted(seen) != ["a", "b", "c"] or len(set(seen.values())) != 1:
                        torn.append(seen)

        await self._together([partial(act, client, n) for n, client in enumerate(clients)], 1)
        check(not torn, f"a reader saw a record that nobody wrote: {shown(torn[:1])}")

    @scenario
    async def test_of_all_who_set_a_fresh_key_exactly_one_does(self, store: SessionStore) -> None:
        clients = await self._clients(store)
        for stagger in range(self.rounds):
            key = store.id()

            def make(client: SessionStore, n: int, key: str = key) -> Coroutine[Any, Any, Outcome]:
                return client.set(key, Unhurried({"by": b"%d" % n, f"field {n}": b"1"}), LONG)

            got = await self._together([partial(make, client, n) for n, client in enumerate(clients)], stagger)
            winner = self._the_one(got, CONFLICT, "set with expect=None of one key")
            await self._check_record(store, key, {"by": b"%d" % winner, f"field {winner}": b"1"}, "the winner's record")

    @scenario
    async def test_of_all_who_pluck_a_field_exactly_one_gets_it(self, store: SessionStore) -> None:
        clients = await self._clients(store)
        for stagger in range(self.rounds):
            key = await self._new(store, {"keep": b"k", "flash": b"once"})

            async def pluck(client: SessionStore, key: str = key) -> Outcome:
                await client.get(key, {})
                return await client.merge(key, {}, ["flash"], Unhurried({"flash": b"once"}))

            got = await self._together([partial(pluck, client) for client in clients], stagger)
            self._the_one(got, CONFLICT, "removal that expects the value")
            await self._check_record(store, key, {"keep": b"k"}, "the record, after the pluck")

    @scenario
    async def test_of_all_who_renew_exactly_one_does(self, store: SessionStore) -> None:
        clients = await self._clients(store)
        for stagger in range(self.rounds):
            key = await self._new(store, {"digest": b"old", "keep": b"k"})

            def swap(client: SessionStore, n: int, key: str = key) -> Coroutine[Any, Any, Outcome]:
                changed = Unhurried({"digest": b"new %d" % n, "former": b"old"})
                return client.merge(key, changed, [], Unhurried({"digest": b"old"}), LONG)

            got = await self._together([partial(swap, client, n) for n, client in enumerate(clients)], stagger)
            winner = self._the_one(got, CONFLICT, "swap of a field that expects the old value")
            want = {"digest": b"new %d" % winner, "former": b"old", "keep": b"k"}
            await self._check_record(store, key, want, "the record, after the swap")

    @scenario
    async def test_of_all_who_destroy_a_record_exactly_one_did(self, store: SessionStore) -> None:
        clients = await self._clients(store)
        for stagger in range(self.rounds):
            key = await self._new(store, {"a": b"1"})
            got = await self._together([partial(client.destroy, key) for client in clients], stagger)
            check_equal(got.count(True), 1, f"how many of {len(got)} calls of destroy at once returned True")
            await self._check_record(store, key, MISSING, "the record, destroyed")

    @scenario
    async def test_a_counter_kept_by_expectation_loses_no_step(self, store: SessionStore) -> None:
        clients = await self._clients(store)
        key = await self._new(store, {"n": b"0", "keep": b"k"})
        steps = 5

        async def count(client: SessionStore) -> int:
            done = 0
            for _ in range(200 * self.contenders):
                seen = await client.get(key, {})
                check(isinstance(seen, dict), f"get of the counter: got {shown(seen)}")
                value = cast("Fields", seen)["n"]
                changed = Unhurried({"n": b"%d" % (int(value) + 1)})
                done += await client.merge(key, changed, [], Unhurried({"n": value})) is APPLIED
                if done == steps:
                    break
            return done

        done = await self._together([partial(count, client) for client in clients], 1)
        check_equal(done, [steps] * len(clients), "steps that each contender made")
        await self._check_record(store, key, {"n": b"%d" % (steps * len(clients)), "keep": b"k"}, "the counter")

    @scenario
    async def test_no_late_write_brings_a_destroyed_record_back(self, store: SessionStore) -> None:
        clients = await self._clients(store)
        for turn in range(self.rounds):
            key = await self._new(store, {"digest": b"d"})
            expect = Unhurried({"digest": b"d"})
            calls: list[Call[object]] = [
                (
                    partial(client.get, key, expect),
                    partial(client.set, key, {"digest": b"d", "late": b"1"}, LONG, expect),
                    partial(client.merge, key, Unhurried({f"late {n}": b"1"}), [], expect),
                )[n % 3]
                for n, client in enumerate(clients)
            ]
            ended, got = await self._end_among(calls, partial(store.destroy, key), turn)
            check(ended is True, "destroy among late calls must return True")
            check_equal({refusal for _, refusal in got}, {MISSING}, "what late calls came to after destroy")
            await self._check_record(store, key, MISSING, "the record, destroyed among late calls")

    @scenario
    async def test_no_late_write_undoes_the_mark_of_an_end(self, store: SessionStore) -> None:
        clients = await self._clients(store)
        for turn in range(self.rounds):
            key = await self._new(store, {"digest": b"d", "cart": b"[]"})
            expect = Unhurried({"digest": b"d"})
            calls: list[Call[object]] = [
                (
                    partial(client.get, key, expect),
                    partial(client.merge, key, {}, ["cart"], expect, LONG),
                    partial(client.merge, key, Unhurried({f"late {n}": b"1"}), [], expect),
                )[n % 3]
                for n, client in enumerate(clients)
            ]
            mark = partial(store.set, key, {"ended": b"1"}, Lifetime(60.0, 60.0), expect)
            ended, got = await self._end_among(calls, mark, turn)
            check_equal(ended, APPLIED, "set of the end's mark among late calls")
            check_equal({refusal for _, refusal in got}, {CONFLICT}, "what late calls came to after the end")
            await self._check_record(store, key, {"ended": b"1"}, "the mark of an end, after late calls")

    @scenario
    async def test_a_write_meets_a_renewal_before_it_or_not_at_all(self, store: SessionStore) -> None:
        clients = await self._clients(store)
        for turn in range(self.rounds):
            key = await self._new(store, {"digest": b"old"})
            expect = Unhurried({"digest": b"old"})
            calls: list[Call[object]] = [
                partial(client.merge, key, Unhurried({f"field {n}": b"1"}), [], expect)
                for n, client in enumerate(clients)
            ]
            swap = partial(store.merge, key, {"digest": b"new"}, [], expect, LONG)
            swapped, got = await self._end_among(calls, swap, turn)
            check_equal(swapped, APPLIED, "the renewal")
            check_equal({refusal for _, refusal in got}, {CONFLICT}, "what writes came to after the renewal")
            want = {f"field {n}": b"1" for n, (times, _) in enumerate(got) if times}
            await self._check_record(
                store, key, {"digest": b"new", **want}, "the record, with just the writes that held"
            )

    @timed
    async def test_no_touch_revives_what_has_expired(self, store: SessionStore) -> None:
        clients = await self._clients(store)
        key = await self._new(store, {"a": b"1"}, self._life(1))
        await self._advance(2)

        async def act(client: SessionStore, n: int) -> object:
            if n % 2:
                return await client.get(key, {})
            return await client.merge(key, Unhurried({"a": b"2"}), [], {}, LONG if n % 4 else None)

        got = await self._together([partial(act, client, n) for n, client in enumerate(clients)], 1)
        check_equal(got, [MISSING] * len(clients), "touches and merges at once of an expired record")
        await self._check_record(store, key, MISSING, "the expired record")

    @timed
    async def test_no_touch_at_once_with_others_passes_the_deadline(self, store: SessionStore) -> None:
        clients = await self._clients(store)
        key = await self._new(store, {"a": b"1"}, self._life(9, 3))

        async def act(client: SessionStore, n: int) -> object:
            if n % 2:
                return await client.get(key, {}) != MISSING
            return await client.merge(key, Unhurried({f"field {n}": b"1"}), [], {}) is APPLIED

        for _ in range(2):
            got = await self._together([partial(act, client, n) for n, client in enumerate(clients)], 1)
            check(all(got), "a touch or a merge before the deadline failed")
        await self._advance(4)
        await self._check_record(store, key, MISSING, "the record, after its deadline")

    @timed
    async def test_no_touch_undoes_a_shorter_lifetime(self, store: SessionStore) -> None:
        clients = await self._clients(store)
        keys = [await self._new(store, {"a": b"1"}, self._life(90)) for _ in range(2 * self.rounds)]
        for turn, key in enumerate(keys):

            async def act(client: SessionStore, n: int, key: str = key, turn: int = turn) -> object:
                if n == (turn * 3) % self.contenders:
                    if turn % 2:
                        return await client.set(key, {"a": b"1"}, self._life(1), Unhurried({"a": b"1"}))
                    return await client.merge(key, {}, [], Unhurried({"a": b"1"}), self._life(1))
                if n % 2:
                    return await client.get(key, Unhurried({"a": b"1"}))
                return await client.merge(key, {"a": b"1"}, [], Unhurried({"a": b"1"}))

            await self._together([partial(act, client, n) for n, client in enumerate(clients)], turn)
        await self._advance(2)
        for turn, key in enumerate(keys):
            what = "set" if turn % 2 else "merge"
            await self._check_record(store, key, MISSING, f"a record shortened by a {what}, touched at the same time")

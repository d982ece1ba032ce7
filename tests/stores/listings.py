"""Listings: the records of a store that can show them, each with its lifetime, and none touched."""

from typing import Any

from server_session.stores._base import MISSING, Kept, Lifetime
from server_session.testing._checks import check, check_equal, shown
from server_session.testing._scenarios import scenario, timed
from server_session.testing._stage import LONG, Stage

__all__ = ["Listings"]


class Listings(Stage):
    """What `Listing` says: mixed into the contract's suite of a store that has it."""

    async def _listed(self, store: Any, most: int) -> dict[str, Kept]:
        """Return the records of a store by their keys, listed a few at a time."""
        listed: dict[str, Kept] = {}
        after: str | None = ""
        while after is not None:
            batch = await store.list_records(after, most)
            listed |= {kept.key: kept for kept in batch.records}
            after = batch.after
        return listed

    def _check_kept(self, kept: Kept, want: Lifetime, left: float) -> None:
        """Check a record's times: those that run down as far as a test may be late over a real clock."""
        told = f"the lifetime of a record, {shown((kept.lifetime, kept.left))}"
        idle, remaining = kept.lifetime
        check(abs(idle - want.idle) < 0.01, f"{told}, want idle {want.idle}")
        check((remaining is None) == (want.remaining is None), f"{told}, want {want.remaining} to its deadline")
        for have, full in ((remaining or 0.0, want.remaining or 0.0), (kept.left, left)):
            check(full - self.patience <= have <= full + 0.01, f"{told}, want {want} and {left}")

    @scenario
    async def test_read_record_gives_fields_and_lifetime(self, store: Any) -> None:
        key = await self._new(store, {"a": b"1", "\0b": b"\xff"}, LONG)
        without = await self._new(store, {"a": b"1"}, Lifetime(3600))
        near = await self._new(store, {"a": b"1"}, Lifetime(3600, 600))
        kept = await store.read_record(key)
        check_equal(kept.key, key, "the key of a record")
        check_equal(kept.fields, {"a": b"1", "\0b": b"\xff"}, "the fields of a record")
        self._check_kept(kept, LONG, 3600)
        self._check_kept(await store.read_record(without), Lifetime(3600), 3600)
        self._check_kept(await store.read_record(near), Lifetime(3600, 600), 600)
        check_equal(await store.read_record(store.id()), MISSING, "read_record of no record")

    @scenario
    async def test_list_records_gives_each_record_that_lives(self, store: Any) -> None:
        keys = {await self._new(store, {"a": b"%d" % number}, LONG): b"%d" % number for number in range(40)}
        gone = await self._new(store, {"a": b"1"})
        await store.destroy(gone)
        for most in (7, 1000):
            listed = await self._listed(store, most)
            check_equal({key: listed[key].fields["a"] for key in keys}, keys, f"list_records, {most} at a time")
            check(gone not in listed, "list_records gave one that was destroyed")
            for key in keys:
                self._check_kept(listed[key], LONG, 3600)

    @timed
    async def test_a_record_that_expired_is_not_listed_and_none_is_touched(self, store: Any) -> None:
        key = await self._new(store, {"a": b"1"}, self._life(8))
        await self._advance(2)
        check(key in await self._listed(store, 10_000), "list_records left out one that lives")
        check(await store.read_record(key) is not MISSING, "read_record found nothing where one lives")
        await self._advance(7)
        check(key not in await self._listed(store, 10_000), "list_records gave one that expired, or touched it before")
        check_equal(await store.read_record(key), MISSING, "read_record of one that expired")

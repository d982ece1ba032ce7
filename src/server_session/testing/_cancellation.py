"""Cancellation: a call that is broken off was made or not made, and the store works on."""

import asyncio
from functools import partial

from server_session._colour import pause, running_library
from server_session.stores._base import APPLIED, MISSING, SessionStore
from server_session.testing._checks import check, check_equal, shown
from server_session.testing._scenarios import scenario
from server_session.testing._stage import LONG, Call, Stage

__all__ = ["Cancellation"]


class Cancellation(Stage):
    """Calls that are cancelled tear nothing; where nothing awaits none can be."""

    @scenario
    async def test_a_cancelled_call_was_made_or_not_made(self, store: SessionStore) -> None:
        if running_library() is None:
            return
        old, new = {"a": b"old", "b": b"old", "gone": b"old"}, {"a": b"new", "b": b"new"}
        for steps, seconds in [*((n, 0.0) for n in range(12)), *((0, n * 0.0003) for n in range(1, 9))]:
            when = f"cancelled after {steps} steps of the loop and {seconds * 1000:.1f} ms"
            key = await self._new(store, dict(old))
            await self._cancelled(partial(store.merge, key, new, ["gone"], {"a": b"old"}), steps, seconds)
            got = await store.get(key, {})
            check(got in (old, new), f"a merge {when} left {shown(got)}")
            key = await self._new(store, dict(old))
            await self._cancelled(partial(store.set, key, dict(new), LONG, {"a": b"old"}), steps, seconds)
            got = await store.get(key, {})
            check(got in (old, new), f"a set {when} left {shown(got)}")
            key = store.id()
            await self._cancelled(partial(store.set, key, dict(new), LONG), steps, seconds)
            got = await store.get(key, {})
            check(got in (MISSING, new), f"a set with expect=None {when} left {shown(got)}")
            key = await self._new(store, dict(old))
            await self._cancelled(partial(store.destroy, key), steps, seconds)
            got = await store.get(key, {})
            check(got in (MISSING, old), f"a destroy {when} left {shown(got)}")

    @scenario
    async def test_after_cancelled_calls_the_store_works_on(self, store: SessionStore) -> None:
        if running_library() is None:
            return
        key = await self._new(store, {"a": b"1"})
        others = [await self._new(store, {"n": b"%d" % n}) for n in range(8)]
        # More than the connections of a usual pool, at each of the steps that a call may be at.
        for n in range(144):
            steps, seconds = (n % 6, 0.0) if n < 72 else (0, 0.0001 * (n % 6))
            await self._cancelled(partial(store.get, key, {}), steps, seconds)
            await self._cancelled(partial(store.merge, key, {"a": b"1"}, [], {}), steps, seconds)
            # An answer that a cancelled call left unread must not reach the next one.
            await self._check_record(
                store, others[n % 8], {"n": b"%d" % (n % 8)}, "another record, after a cancelled call"
            )
        for n in range(self.contenders):
            check_equal(
                await store.merge(key, {f"b{n}": b"2"}, [], {"a": b"1"}), APPLIED, "merge after cancelled calls"
            )
        want = {"a": b"1", **{f"b{n}": b"2" for n in range(self.contenders)}}
        await self._check_record(store, key, want, "the record, after cancelled calls")

    async def _cancelled(self, call: Call[object], steps: int, seconds: float) -> None:
        """Start the call, cancel it after so many steps of the loop and so many seconds, and await its end."""
        if running_library() == "trio":
            import trio

            async def run() -> None:
                await call()

            async with trio.open_nursery() as nursery:
                nursery.start_soon(run)
                for _ in range(steps):
                    await pause(0)
                if seconds:
                    await pause(seconds)
                nursery.cancel_scope.cancel()
            return
        task = asyncio.ensure_future(call())
        for _ in range(steps):
            await pause(0)
        if seconds:
            await pause(seconds)
        task.cancel()
        await asyncio.wait({task})
        if not task.cancelled():
            task.result()

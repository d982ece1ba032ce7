"""Calls that meet: how a race is run."""

import asyncio
import sys
import threading
import time
from collections.abc import ItemsView, Iterator, KeysView, Sequence, ValuesView
from concurrent.futures import ThreadPoolExecutor, wait
from functools import partial
from typing import Any, Final, TypeVar

from server_session._colour import drive, pause, running_library
from server_session.stores._base import APPLIED, CONFLICT, MISSING, Outcome, SessionStore
from server_session.testing._checks import check, check_equal, shown
from server_session.testing._stage import Call, Stage

__all__ = ["Contest", "Unhurried"]

T = TypeVar("T")

_START: Final = 60.0
"""Seconds in which threads begin, on whatever machine."""


class Unhurried(dict[str, Any]):
    """A mapping that lets other threads run whenever it is read, between a store's check and its write too."""

    def _wait(self) -> None:
        if running_library() is None:
            time.sleep(0.0002)

    def __iter__(self) -> Iterator[str]:
        for name in super().__iter__():
            self._wait()
            yield name
        self._wait()

    def __getitem__(self, name: str) -> Any:
        self._wait()
        return super().__getitem__(name)

    def get(self, name: str, default: Any = None) -> Any:
        self._wait()
        return super().get(name, default)

    def keys(self) -> Any:
        return KeysView(self)

    def items(self) -> Any:
        return ItemsView(self)

    def values(self) -> Any:
        return ValuesView(self)


class Contest(Stage):
    """A stage for several calls at once, in threads or as tasks."""

    async def _clients(self, store: SessionStore) -> list[SessionStore]:
        """Return a client for each contender, half of them the second client."""
        both = (store, await self._another(store))
        return [both[n % 2] for n in range(self.contenders)]

    async def _together(self, calls: Sequence[Call[T]], stagger: int = 0) -> list[T]:
        """Run the calls at once, in threads or as tasks, and return what each returned."""
        library = running_library()
        if library is None:
            return self._in_threads(calls)
        results: dict[int, T] = {}

        async def run(place: int, call: Call[T]) -> None:
            for _ in range(place * stagger % 7):
                await pause(0)
            results[place] = await call()

        if library == "trio":
            import trio

            async with trio.open_nursery() as nursery:
                for place, call in enumerate(calls):
                    nursery.start_soon(run, place, call)
        else:
            async with asyncio.TaskGroup() as group:
                for place, call in enumerate(calls):
                    group.create_task(run(place, call))
        return [results[place] for place in range(len(calls))]

    def _in_threads(self, calls: Sequence[Call[T]]) -> list[T]:
        # However late a busy machine lets them begin: from then on the store is waited for.
        start = threading.Barrier(len(calls) + 1, timeout=_START)

        def run(call: Call[T]) -> T:
            start.wait()
            return drive(call())

        interval = sys.getswitchinterval()
        sys.setswitchinterval(1e-6)
        pool = ThreadPoolExecutor(len(calls))
        try:
            futures = [pool.submit(run, call) for call in calls]
            start.wait()
            late = wait(futures, self.patience).not_done
            check(not late, f"{len(late)} of {len(calls)} calls at once did not return within {self.patience} s")
            return [future.result() for future in futures]
        finally:
            sys.setswitchinterval(interval)
            pool.shutdown(wait=False, cancel_futures=True)

    @staticmethod
    def _the_one(outcomes: Sequence[Outcome], others: Outcome, what: str) -> int:
        """Return the place of the only call that applied."""
        __tracebackhide__ = True
        applied = [place for place, outcome in enumerate(outcomes) if outcome is APPLIED]
        check_equal(len(applied), 1, f"how many of {len(outcomes)} calls at once applied ({what})")
        check_equal(outcomes.count(others), len(outcomes) - 1, f"how many of the others met {others.name} ({what})")
        return applied[0]

    async def _end_among(
        self, calls: Sequence[Call[object]], end: Call[object], turn: int
    ) -> tuple[object, list[tuple[int, object]]]:
        """Repeat the calls until one other call among them, the end, has returned, and then once more.

        Returned are what the end returned and, for each call, how many times it succeeded and what refused it at last.
        """
        over = threading.Event()
        give_up = time.monotonic() + self.patience

        async def finish() -> tuple[int, object]:
            try:
                return 1, await end()
            finally:
                over.set()

        async def repeat(call: Call[object]) -> tuple[int, object]:
            times = 0
            refusal: object = None
            while time.monotonic() < give_up:
                # A store may await nothing: the others have their turn all the same.
                await pause(0)
                late = over.is_set()
                outcome = await call()
                if outcome is MISSING or outcome is CONFLICT:
                    refusal = outcome
                elif late or refusal is not None:
                    return times, f"a success after {'the end' if late else shown(refusal)}"
                else:
                    times += 1
                if late:
                    return times, refusal
            return times, "no end"

        contenders: list[Call[tuple[int, object]]] = [partial(repeat, call) for call in calls]
        place = turn * 3 % len(calls)
        contenders.insert(place, finish)
        got = await self._together(contenders, turn)
        return got.pop(place)[1], got

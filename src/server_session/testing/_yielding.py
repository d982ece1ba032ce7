"""A store that suspends, for tests of what uses a store."""

from collections.abc import Collection, Coroutine, Iterable, Mapping
from typing import Any, TypeVar

from server_session._colour import Colour, pause, run_awaiting
from server_session.stores._base import Expect, Fields, Lifetime, Outcome, Refusal, SessionStore

__all__ = ["YieldingStore"]

T = TypeVar("T")


class YieldingStore(SessionStore):
    """A tool for tests: a store that awaits, made of any other, suspending before and after each of its calls.

    Over a memory store nothing ever overlaps, for none of its calls suspends. Over this one every task that shares
    the store runs between any two calls of another, as over a network.

    Args:
        store: the store that does the work, of any colour; one that blocks is called in a worker thread.
        order: how many times to suspend, at each such place in turn, so that a schedule can be chosen and repeated
            (`random.Random(7).choices(range(4), k=1000)`); once everywhere by default and after its end.
    """

    colour = Colour.AWAITS

    def __init__(self, store: SessionStore, order: Iterable[int] | None = None) -> None:
        self.store = store
        self.max_age = store.max_age
        self.evicts = store.evicts
        self._order = iter(() if order is None else order)

    async def _suspend(self) -> None:
        for _ in range(next(self._order, 1)):
            await pause(0)

    async def _call(self, call: Coroutine[Any, Any, T]) -> T:
        try:
            await self._suspend()
        except BaseException:
            call.close()
            raise
        result = await run_awaiting(self.store.colour, call)
        await self._suspend()
        return result

    def id(self) -> str:
        """Return a fresh key, of the inner store's making."""
        return self.store.id()

    async def get(self, key: str, expect: Expect, touch: bool = True) -> Fields | Refusal:
        """Suspend, call the inner store's `get`, suspend."""
        return await self._call(self.store.get(key, expect, touch))

    async def set(self, key: str, fields: Fields, lifetime: Lifetime, expect: Expect | None = None) -> Outcome:
        """Suspend, call the inner store's `set`, suspend."""
        return await self._call(self.store.set(key, fields, lifetime, expect))

    async def merge(
        self,
        key: str,
        changed: Mapping[str, bytes],
        removed: Collection[str],
        expect: Expect,
        lifetime: Lifetime | None = None,
    ) -> Outcome:
        """Suspend, call the inner store's `merge`, suspend."""
        return await self._call(self.store.merge(key, changed, removed, expect, lifetime))

    async def destroy(self, key: str) -> bool:
        """Suspend, call the inner store's `destroy`, suspend."""
        return await self._call(self.store.destroy(key))

"""A store over another: what it does not change it leaves to the one beneath."""

from collections.abc import Callable, Collection, Coroutine, Mapping
from typing import Any, Concatenate, ParamSpec, TypeAlias, TypeVar

from server_session.stores._base import Expect, Fields, Lifetime, Outcome, Refusal, SessionStore

__all__ = ["Call", "P", "R", "StoreOver"]

P = ParamSpec("P")
R = TypeVar("R")

Call: TypeAlias = Callable[Concatenate[str, P], Coroutine[Any, Any, R]]
"""A method of the contract, given a key and what else it takes."""


class StoreOver(SessionStore):
    """Calls the store beneath. Subclass it and define what is to differ: a method, or `_ask` for all of them."""

    def __init__(self, store: SessionStore) -> None:
        self._store = store
        self.colour = store.colour
        self.max_age = store.max_age
        self.evicts = getattr(store, "evicts", False)
        self.named: str = getattr(store, "named", type(store).__name__)
        """The name of the lowest store's class."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def id(self) -> str:
        return self._store.id()

    async def get(self, key: str, expect: Expect, touch: bool = True) -> Fields | Refusal:
        return await self._ask(self._store.get, key, expect, touch)

    async def set(self, key: str, fields: Fields, lifetime: Lifetime, expect: Expect | None = None) -> Outcome:
        return await self._ask(self._store.set, key, fields, lifetime, expect)

    async def merge(
        self,
        key: str,
        changed: Mapping[str, bytes],
        removed: Collection[str],
        expect: Expect,
        lifetime: Lifetime | None = None,
    ) -> Outcome:
        return await self._ask(self._store.merge, key, changed, removed, expect, lifetime)

    async def destroy(self, key: str) -> bool:
        return await self._ask(self._store.destroy, key)

    async def _ask(self, call: Call[P, R], key: str, *arguments: P.args, **options: P.kwargs) -> R:
        """Make one call to the store beneath."""
        return await call(key, *arguments, **options)

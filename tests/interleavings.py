"""Every order in which the calls of several actors to their stores can come; each state that they reach is seen once.

An actor is a coroutine that waits at its calls to stores alone, so it is where the answers to these have brought it.
"""

import random
from collections.abc import Callable, Coroutine, Generator, Hashable
from functools import partial
from typing import Any, ClassVar

from server_session._colour import Colour
from server_session.stores._base import Lifetime, SessionStore
from server_session.stores._packed import PackedStore, Record

# The clock stands still while the actors act; what would go within a second has gone.
_SOON = 1.0


class Shelf(PackedStore):
    """A store that can be copied and compared, with a clock that is moved by hand."""

    colour = Colour.INSTANT

    def __init__(self, kept: dict[str, Record] | None = None, now: float = 0.0) -> None:
        self.kept = dict(kept or {})
        self.now = now

    async def swap(self, key: str, change: Any, likely: Any) -> Any:
        changed = change(self.living().get(key), self.now)
        if changed is None:
            del self.kept[key]
        elif isinstance(changed, Record):
            self.kept[key] = changed
        return changed

    def living(self) -> dict[str, Record]:
        return {key: record for key, record in self.kept.items() if record.expires > self.now + _SOON}

    def copy(self) -> "Shelf":
        return Shelf(self.kept, self.now)

    def state(self) -> Hashable:
        return self.now, tuple((key, tuple(sorted(kept.fields.items()))) for key, kept in sorted(self.living().items()))


class _Turn:
    def __await__(self) -> Generator[None, None, None]:
        yield


class Stepped(SessionStore):
    """A store as one actor sees it: the actor waits for its turn before each call, and what it was answered is kept."""

    colour = Colour.INSTANT

    def __init__(self, store: Shelf, hear: Callable[[object], None]) -> None:
        self._store = store
        self._hear = hear

    def __getattribute__(self, name: str) -> Any:
        if name not in ("get", "set", "merge", "destroy", "read_record"):
            return super().__getattribute__(name)
        call = getattr(self._store, name)

        async def taken(*arguments: Any) -> Any:
            await _Turn()
            answer = await call(*arguments)
            self._hear(answer)
            return answer

        return taken


Play = Callable[[Stepped, Stepped], Coroutine[Any, Any, Any]]
"""An actor, given the old store and the new one."""


class Stage:
    """Two stores, and actors that have come so far."""

    acting: ClassVar[tuple["Stage", str]]

    def __init__(self, old: Shelf, new: Shelf, plays: dict[str, Play]) -> None:
        self.old, self.new = old.copy(), new.copy()
        # Of each actor all that it was answered, in one number.
        self.heard = dict.fromkeys(plays, 0)
        self.results: dict[str, Any] = {}
        self.tokens = dict.fromkeys(plays, 0)
        self.running = {
            name: play(*(Stepped(store, partial(self._hear, name)) for store in (self.old, self.new)))
            for name, play in plays.items()
        }
        for name in plays:
            self.step(name)

    def step(self, name: str) -> None:
        """Let an actor make the call that it waits at, and go on to its next one."""
        Stage.acting = self, name
        try:
            self.running[name].send(None)
        except StopIteration as end:
            self.results[name] = end.value
            del self.running[name]

    def _hear(self, name: str, answer: object) -> None:
        self.heard[name] = hash((self.heard[name], repr(answer)))

    def state(self) -> Hashable:
        return hash((self.old.state(), self.new.state(), *self.heard.values(), *self.results))

    def shown(self) -> Hashable:
        """Return what others than the actors can know."""
        results = tuple(sorted((name, repr(result)) for name, result in self.results.items()))
        return hash(
            (self.old.state(), self.new.state(), results, tuple(name for name in self.heard if self.heard[name]))
        )

    @staticmethod
    def token() -> bytes:
        """Return a token that nobody has had, and that is the same whenever the actor has come as far as this."""
        stage, name = Stage.acting
        stage.tokens[name] += 1
        return f"{name} {stage.tokens[name]}".encode()

    def close(self) -> None:
        for actor in self.running.values():
            actor.close()


def explore(old: Shelf, new: Shelf, plays: dict[str, Play], check: Callable[[Stage], None]) -> int:
    """Check each state that the actors can reach, whatever the order of their calls; return how many there are."""
    seen, checked = set[Hashable](), set[Hashable]()
    paths: list[tuple[str, ...]] = [()]
    while paths:
        path = paths.pop()
        stage = Stage(old, new, plays)
        for name in path:
            stage.step(name)
        # On from here as far as it goes, for the way back costs all the steps again.
        while (state := stage.state()) not in seen:
            seen.add(state)
            if (shown := stage.shown()) not in checked:
                checked.add(shown)
                check(stage)
            first, *others = [*stage.running] or [None]
            paths.extend((*path, name) for name in others if name is not None)
            if first is None:
                break
            stage.step(first)
            path = (*path, first)
        stage.close()
    return len(seen)


def stroll(old: Shelf, new: Shelf, plays: dict[str, Play], check: Callable[[Stage], None], seed: int) -> None:
    """Check the states of one order of calls, taken by chance."""
    chance = random.Random(seed)
    stage = Stage(old, new, plays)
    while stage.running:
        stage.step(chance.choice([*stage.running]))
        check(stage)


HOUR = Lifetime(3600.0, 86400.0)

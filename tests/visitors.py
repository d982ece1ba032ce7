"""A visitor's browser, as far as the core is concerned: it keeps one cookie and makes requests with it."""

from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from server_session import StoreError
from server_session._policy import Policy
from server_session._signals import Signal, Signals
from server_session._tokens import Credential
from server_session.kernel.presence import ResponseState
from server_session.kernel.stored import StoredSession
from server_session.stores._base import Expect, Outcome, SessionStore
from server_session.stores._over import StoreOver
from server_session.stores._sealed import EncryptedCodec, SealedStore
from server_session.stores.file import FileSessionStore
from server_session.stores.memory import MemorySessionStore
from server_session.testing import YieldingStore

# What each rule is held over. The contract shows that a file and a seal keep what they are given: over them go
# requests that overlap, those of `test_asgi`, and the state machine.
STORES = ("memory", "yielding memory")
EVERY_STORE = (*STORES, "file", "sealed memory")
over_every_store = pytest.mark.parametrize("site", EVERY_STORE, indirect=True)


class Clock:
    def __init__(self) -> None:
        self.time = 1_000_000_000.0

    def __call__(self) -> float:
        return self.time

    def advance(self, seconds: float) -> None:
        self.time += seconds


def make_store(kind: str, directory: Path, clock: Clock) -> SessionStore:
    make = {
        "memory": lambda: MemorySessionStore(clock=clock),
        "yielding memory": lambda: YieldingStore(MemorySessionStore(clock=clock)),
        "file": lambda: FileSessionStore(directory, clock=clock),
        "sealed memory": lambda: SealedStore(
            MemorySessionStore(clock=clock), EncryptedCodec([bytes(range(32))]), Signals().unreadable
        ),
    }
    return make[kind]()


class Watched(StoreOver):
    """A store that keeps a list of its calls, and fails when it is told to."""

    def __init__(self, store: SessionStore | None = None) -> None:
        self.store = store or MemorySessionStore()
        super().__init__(self.store)
        self.calls: list[str] = []
        self.fails: Collection[str] = ()

    def _note(self, name: str) -> None:
        self.calls.append(name)
        if name in self.fails:
            raise StoreError("the store is down")

    async def get(self, key: str, expect: Expect, touch: bool = True) -> Any:
        self._note("get" if touch else "look")
        return await super().get(key, expect, touch)

    async def set(self, key: str, *rest: Any) -> Outcome:
        self._note("set")
        return await super().set(key, *rest)

    async def merge(self, key: str, *rest: Any) -> Outcome:
        self._note("merge")
        return await super().merge(key, *rest)

    async def destroy(self, key: str) -> bool:
        self._note("destroy")
        return await super().destroy(key)


class Unanswered(Watched):
    """A store that does what it is told, and once does not answer."""

    def __init__(self) -> None:
        super().__init__()
        self.unanswered: set[str] = set()

    async def merge(self, key: str, *rest: Any) -> Outcome:
        outcome = await super().merge(key, *rest)
        if "merge" in self.unanswered:
            self.unanswered.remove("merge")
            raise StoreError("the store did not answer")
        return outcome


@dataclass
class Site:
    """An application's sessions, and what they have signalled."""

    store: SessionStore
    clock: Clock
    idle: float = 1800.0
    absolute: float | None = 86400.0
    renew_on: tuple[str, ...] = ("user",)
    signals: list[Signal] = field(default_factory=list)

    @property
    def policy(self) -> Policy:
        return Policy(
            store=self.store,
            idle=self.idle,
            absolute=self.absolute,
            renew_on=frozenset(self.renew_on),
            signals=Signals(self.signals.append),
            now=self.clock,
        )

    @property
    def events(self) -> list[str]:
        return [signal.event for signal in self.signals]

    def with_store(self, store: SessionStore) -> "Site":
        return replace(self, store=store)


@dataclass
class Browser:
    site: Site
    cookie: str | None = None
    received: list[str | None] = field(default_factory=list)

    def request(self, answer: ResponseState = ResponseState.OPEN) -> StoredSession:
        """Begin a request, with the cookie that the browser has now."""
        parsed = None if self.cookie is None else Credential.parse(self.cookie)
        return StoredSession(self.site.policy, [] if parsed is None else [parsed], answer)

    def receive(self, visit: StoredSession) -> None:
        """Take the answer to a request."""
        if visit.changes_cookie:
            self.cookie = visit.cookie_value
            self.received.append(visit.cookie_value)

    def copy(self) -> "Browser":
        """Return someone else who has the cookie of now: an attacker, or a request that is still under way."""
        return Browser(self.site, self.cookie)


async def send(browser: Browser, step: Callable[[StoredSession], Awaitable[Any]]) -> Any:
    """Make one whole request: the step, the commit, the answer."""
    visit = browser.request()
    result = await step(visit)
    await visit.commit()
    browser.receive(visit)
    return result


async def data_of(browser: Browser) -> dict[str, Any]:
    """Return what the browser's session holds, as another request of its sees it."""
    return await browser.copy().request().get()

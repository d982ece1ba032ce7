"""The suite, joined."""

from server_session.testing._bytes import HostileBytes
from server_session.testing._cancellation import Cancellation
from server_session.testing._expectations import Expectations
from server_session.testing._lifetimes import Lifetimes
from server_session.testing._races import Races
from server_session.testing._records import Records

__all__ = ["StoreContract"]


# pytest runs the tests of the last base first: what is plain comes before what is rare.
class StoreContract(Cancellation, Races, Lifetimes, HostileBytes, Expectations, Records):
    """The store contract. A store whose subclass of this passes can carry sessions.

    ```python
    from server_session.testing import StoreContract
    from shop.sessions import ShopStore


    class TestShopStore(StoreContract):
        second = 0.2

        def make_store(self) -> ShopStore:
            return ShopStore("shop://127.0.0.1:7000")

        def second_client(self, store: ShopStore) -> ShopStore:
            return ShopStore("shop://127.0.0.1:7000")

        async def close_store(self, store: ShopStore) -> None:
            await store.close()
    ```

    A store whose clock can be given runs in no time at all:

    ```python
    class TestShopStoreInNoTime(StoreContract):
        def make_store(self) -> ShopStore:
            self.now = 0.0
            return ShopStore("shop:", clock=lambda: self.now)

        def advance(self, seconds: float) -> None:
            self.now += seconds
    ```

    Each test makes a store of its own and writes under fresh keys alone, so the data behind it need not be empty.
    A store whose `colour` is `AWAITS` is made and used on an event loop. One that is `INSTANT` or `BLOCKS` must never
    suspend, and its races are run by threads. The hooks, `make_store`, `second_client`, `close_store` and `advance`,
    may each be `async def`.

    The tests are plain methods that raise `AssertionError`. No test runner is needed, and pytest finds them. What a
    store need not bear passes without a word: cancellation where nothing awaits, a clock that steps back unless
    `clock_steps_back`.
    """

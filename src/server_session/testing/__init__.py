"""The store contract as a suite of tests, for whoever writes a store.

Subclass `StoreContract`, say how a store is made, and let pytest (or any runner of plain methods) collect it.
`server_session.stores._base` is the contract; each test of the suite holds one of its sentences.
"""

from server_session.testing._checks import check_equal as check_equal
from server_session.testing._contract import StoreContract
from server_session.testing._yielding import YieldingStore

__all__ = ["StoreContract", "YieldingStore"]

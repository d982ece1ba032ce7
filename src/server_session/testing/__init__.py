"""Suites of tests for whoever writes a store, or an adapter for a framework.

Subclass `StoreContract`, say how a store is made, and let pytest (or any runner of plain methods) collect it.
`server_session.stores._base` is the contract; each test of the suite holds one of its sentences. Subclass
`AdapterContract` likewise, and say how its site is made of the framework and served.
"""

from server_session.testing._adapters import AdapterContract
from server_session.testing._checks import check_equal as check_equal
from server_session.testing._contract import StoreContract
from server_session.testing._site import Encoded, Failed, Headed, Here, Page, Redirected, Site, Streamed
from server_session.testing._yielding import YieldingStore

__all__ = [
    "AdapterContract",
    "Encoded",
    "Failed",
    "Headed",
    "Here",
    "Page",
    "Redirected",
    "Site",
    "StoreContract",
    "Streamed",
    "YieldingStore",
]

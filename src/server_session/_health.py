"""Whether a store answers, for load balancers."""

import time
from typing import NamedTuple

from server_session.exceptions import StoreError
from server_session.stores._base import SessionStore

__all__ = ["Health", "probe"]


class Health(NamedTuple):
    """What `health` found; true where the store answers."""

    answers: bool
    """Whether the store answers."""
    seconds: float
    """How long it took to answer, or to fail."""
    why: str
    """What it failed by, in words of ours, that name no host; empty where it answers."""

    def __bool__(self) -> bool:
        return self.answers


async def probe(store: SessionStore) -> Health:
    """Ask for a record that is not there."""
    start, why = time.perf_counter(), ""
    try:
        await store.get(store.id(), {}, False)
    except StoreError as error:
        # What the server said may name hosts, users and databases: that is for the log.
        why = str(error).partition(" (it said: ")[0]
    return Health(not why, time.perf_counter() - start, why)

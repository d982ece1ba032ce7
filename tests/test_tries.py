"""For how long a write is tried again, where other writers were faster."""

import pytest

from server_session import ConflictError, _tries
from server_session._tries import Tries
from server_session.stores import _waits
from server_session.stores._waits import AT_ONCE, clock_here
from tests.visitors import Clock


async def test_it_is_tried_until_the_time_is_over_and_what_keeps_the_loop_from_looking_is_none_of_it(monkeypatch):
    moment = Clock()
    monkeypatch.setattr(_waits, "monotonic", moment)
    monkeypatch.setattr(_tries, "UPDATE_SECONDS", 2.0)
    tries, clock = Tries("update_session_data"), clock_here()
    await tries.next({"n"})
    moment.advance(60)
    clock._tick()
    await tries.next({"n"})
    while clock.now() < tries._over_at:
        await tries.next({"n"})
        moment.advance(AT_ONCE)
        clock._tick()
    moment.advance(AT_ONCE)
    with pytest.raises(ConflictError, match=r"met other writers of \['n'\] for 2 s; nothing was written"):
        await tries.next({"n"})

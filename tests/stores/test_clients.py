import asyncio
import select
import socket
import threading
import time
from typing import Any

import pytest

from server_session.exceptions import ColourError
from server_session.stores._clients import ClientOfEachLoop, Places, has_ended
from tests.patience import LIMIT, PATIENCE, wait_until


def is_taken(places: Places[str]) -> bool:
    """Take a place, if one is free."""
    try:
        places.take(0)
    except TimeoutError:
        return False
    return True


def test_of_so_many_places_no_more_are_taken_and_each_that_comes_back_is_taken_again():
    places = Places[str](2)
    assert [is_taken(places) for _ in range(3)] == [True, True, False]
    places.give_back(None)
    assert [is_taken(places) for _ in range(2)] == [True, False]


def test_the_connection_that_was_used_last_is_used_first_and_none_is_made_while_one_is_free():
    places = Places[str](4)
    assert [places.take(0) for _ in range(3)] == [None] * 3
    for connection in ("first", "second", None):
        places.give_back(connection)
    assert [places.take(0) for _ in range(4)] == ["second", "first", None, None]


def test_who_clears_the_places_gets_the_connections_of_those_that_are_free():
    places = Places[str](3)
    for _ in range(3):
        places.take(0)
    assert not places.clear()
    places.give_back("first")
    places.give_back("second")
    assert places.clear() == ["second", "first"]
    assert [places.take(0) for _ in range(2)] == [None, None]
    assert not is_taken(places)


def test_who_comes_while_the_places_are_cleared_gets_the_one_that_was_just_looked_at():
    places: Any = Places[int](1)
    took = []
    thread = threading.Thread(target=lambda: took.append(places.take(PATIENCE)), daemon=True)

    class Free(list[int | None]):
        def pop(self) -> int | None:  # type: ignore[override]
            place = super().pop()
            if not thread.ident:
                thread.start()
                wait_until(lambda: places._waiting)
                # It waits by now, and not only says that it will.
                wait_until(lambda: places._one_is_free._waiters)
            return place

    places._free = Free(places._free)
    assert places.clear() == []
    thread.join(LIMIT)
    assert took == [None]


def test_who_waits_for_a_place_gets_the_next_that_is_given_back():
    places = Places[str](1)
    places.take(0)
    got: list[str | None] = []
    waiting = threading.Thread(target=lambda: got.append(places.take(PATIENCE)))
    waiting.start()
    places.give_back("used")
    waiting.join(PATIENCE)
    assert got == ["used"]
    assert not is_taken(places)


def test_nobody_waits_past_the_limit_while_others_take_every_place_that_comes_free():
    places, is_over = Places[str](4), threading.Event()
    answers = []

    def churn() -> None:
        while not is_over.is_set():
            connection = places.take(PATIENCE)
            time.sleep(0)
            places.give_back(connection)

    def wait() -> None:
        for _ in range(20):
            try:
                places.give_back(places.take(0.002))
                answers.append(True)
            except TimeoutError:
                answers.append(False)

    others = [threading.Thread(target=churn) for _ in range(8)]
    patient = [threading.Thread(target=wait) for _ in range(4)]
    for thread in (*others, *patient):
        thread.start()
    for thread in patient:
        thread.join(PATIENCE)
    told = len(answers)
    is_over.set()
    for thread in others:
        thread.join(PATIENCE)
    assert told == 80
    assert [is_taken(places) for _ in range(5)] == [True] * 4 + [False]


@pytest.mark.parametrize("number", [1, 50])
def test_no_place_is_lost_among_threads(number):
    places = Places[str](number)
    at_work: list[None] = []
    most = []

    def work() -> None:
        for _ in range(200):
            connection = places.take(PATIENCE)
            at_work.append(None)
            most.append(len(at_work))
            at_work.pop()
            places.give_back(connection or "made")

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert len(most) == 1600
    assert max(most) <= number
    assert len(places.clear()) <= 8
    assert [is_taken(places) for _ in range(number + 1)] == [True] * number + [False]


@pytest.mark.parametrize("system", ["has poll", "has none"])
def test_a_connection_has_ended_when_the_server_hangs_up_or_says_what_nobody_asked_for(system, monkeypatch):
    if system == "has none":
        monkeypatch.delattr(select, "poll")
    for end in (socket.socket.close, lambda server: server.sendall(b"moved")):
        ours, server = socket.socketpair()
        with ours, server:
            assert not has_ended(ours)
            end(server)
            assert has_ended(ours)


def test_a_client_of_one_loop_serves_no_two_that_run_whichever_was_first():
    clients = ClientOfEachLoop(object, None, "elsewhere", "on another")

    async def ask() -> object:
        return clients.get()

    async def ask_while_another_runs() -> None:
        clients.get()
        await asyncio.to_thread(first.run_until_complete, ask())

    first = asyncio.new_event_loop()
    try:
        first.run_until_complete(ask())
        with pytest.raises(ColourError, match="on another"):
            asyncio.run(ask_while_another_runs())
        first.run_until_complete(ask())
    finally:
        first.close()

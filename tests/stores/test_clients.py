import threading
import time

import pytest

from server_session.stores._clients import Places
from tests.patience import PATIENCE


def test_of_so_many_places_no_more_are_taken_and_each_that_comes_back_is_taken_again():
    places = Places(2)
    assert places.take(0)
    assert places.take(0)
    assert not places.take(0.01)
    places.give_back()
    assert places.take(0)


def test_who_waits_for_a_place_gets_the_next_that_is_given_back():
    places = Places(1)
    assert places.take(0)
    got = []
    waiting = threading.Thread(target=lambda: got.append(places.take(PATIENCE)))
    waiting.start()
    places.give_back()
    waiting.join(PATIENCE)
    assert got == [True]
    assert not places.take(0)


def test_nobody_waits_past_the_limit_while_others_take_every_place_that_comes_free():
    places, is_over = Places(4), threading.Event()
    answers = []

    def churn() -> None:
        while not is_over.is_set():
            if places.take(PATIENCE):
                time.sleep(0)
                places.give_back()

    def wait() -> None:
        for _ in range(20):
            taken = places.take(0.002)
            answers.append(taken)
            if taken:
                places.give_back()

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
    assert [places.take(0) for _ in range(5)] == [True] * 4 + [False]


@pytest.mark.parametrize("number", [1, 50])
def test_no_place_is_lost_among_threads(number):
    places = Places(number)
    at_work, most = [], []

    def work() -> None:
        for _ in range(200):
            assert places.take(PATIENCE)
            at_work.append(None)
            most.append(len(at_work))
            at_work.pop()
            places.give_back()

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert len(most) == 1600
    assert max(most) <= number
    assert [places.take(0) for _ in range(number)] == [True] * number
    assert not places.take(0)

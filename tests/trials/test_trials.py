"""The trials of the stores, in a short form; with SERVER_SESSION_ALL in the environment, in the full one."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from tests.parts import ALL
from tests.trials.crew import ENDINGS, PLUCKERS, Crew, Tally, end, overlap, pluck
from tests.trials.drivers import BROKEN, DRIVERS, STARTS, Driver

pytestmark = pytest.mark.once

OVERLAPS = 20 if ALL else 1
PLUCKS = 200 if ALL else 20
ROUNDS_OF_ENDINGS = 50 if ALL else 2

# Each store by one driver: some in threads, and some on a loop.
SHORT = (
    "memory, blocking",
    "file, awaiting",
    "Redis, redis-py asyncio, RESP3",
    "Redis Cluster, redis-py",
    "SQLite, sqlite3",
    "PostgreSQL, asyncpg",
    "MariaDB, asyncmy",
    "memcached, pymemcache",
)

SERVED = {name: f"{name}_server" for name in ("redis", "memcached", "postgresql", "mariadb")}


@pytest.fixture(scope="module")
def crew() -> Iterator[Crew]:
    crew = Crew(PLUCKERS)
    yield crew
    crew.end()


@pytest.fixture(scope="module")
def find_place(request: pytest.FixtureRequest) -> Iterator[Callable[[str], str]]:
    started: dict[str, str] = {}
    with ExitStack() as stack:

        def find(place: str) -> str:
            if place in SERVED:
                return request.getfixturevalue(SERVED[place]).url
            if place not in started:
                started[place] = stack.enter_context(STARTS[place]())
            return started[place]

        yield find


@pytest.fixture(scope="module", params=DRIVERS if ALL else SHORT)
def driver(request: pytest.FixtureRequest) -> Driver:
    return DRIVERS[request.param]


@pytest.fixture(scope="module")
def opened(driver: Driver, crew: Crew, find_place: Callable[[str], str]) -> Iterator[Crew]:
    """The crew over a store, which each of its processes opens once for all trials."""
    with crew.over(driver, find_place(driver.place)):
        yield crew


def test_50_overlapping_requests_of_one_session_lose_no_write(driver, opened):
    for _ in range(OVERLAPS):
        tally = overlap(opened, driver.processes)
        assert not tally.complaints
        assert tally.lost == 0


def test_of_8_processes_that_pluck_one_value_exactly_one_gets_it(opened):
    for _ in range(PLUCKS):
        tally = pluck(opened)
        assert not tally.complaints
        assert tally.doubles == 0


@pytest.mark.parametrize("ending", ENDINGS)
def test_nothing_that_comes_late_brings_an_ended_session_back_or_undoes_its_end(ending, driver, opened):
    if ending == "destroy_sessions_of" and not driver.has_owners:
        pytest.skip("it serves no owners")
    for number in range(ROUNDS_OF_ENDINGS):
        tally = end(opened, driver.processes, ending, number, has_owners=driver.has_owners)
        assert not tally.complaints
        assert (tally.resurrected, tally.undone) == (0, 0)


class TestTheTrialsThemselves:
    @pytest.fixture(scope="class")
    @classmethod
    def opened(cls) -> Iterator[Crew]:
        crew = Crew(BROKEN.processes)
        with crew.over(BROKEN, ""):
            yield crew
        crew.end()

    def test_they_find_the_writes_that_a_store_of_two_steps_loses(self, opened):
        assert self.until(lambda: overlap(opened, 1), lambda tally: tally.lost > 0)

    def test_they_find_a_value_that_two_pluck(self, opened):
        assert self.until(lambda: pluck(opened), lambda tally: tally.doubles > 0)

    @pytest.mark.parametrize("ending", ["destroy", "replace", "destroy_sessions_of"])
    def test_they_find_a_session_that_is_brought_back(self, ending, opened):
        trial = lambda: end(opened, 1, ending, 0, has_owners=True)
        assert self.until(trial, lambda tally: tally.resurrected > 0)

    def until(self, trial: Callable[[], Tally], holds: Callable[[Tally], bool]) -> bool:
        return any(holds(trial()) for _ in range(50))

"""What requests cost on Redis, by the commands that reach the server. None of these is sent in a batch with others."""

import asyncio
import secrets
from collections.abc import Callable, Iterator
from typing import Any, Self

import pytest
import redis

from server_session import Sessions
from server_session._colour import drive
from server_session.stores.redis import RedisSessionStore
from tests.servers import Server
from tests.trials.worker import Awaiting, Blocking, settled

Step = Callable[[Any, Any], Any]


class Monitor:
    """Lists what clients send to a Redis server."""

    def __init__(self, port: int) -> None:
        self._watch = redis.Redis(port=port, protocol=2)
        self._speak = redis.Redis(port=port, protocol=2)
        self._monitor = self._watch.monitor()

    def __enter__(self) -> Self:
        self._monitor.__enter__()
        self.news()
        return self

    def __exit__(self, *error: object) -> None:
        self._monitor.__exit__(*error)
        self._watch.close()
        self._speak.close()

    def news(self) -> list[str]:
        """Return the names of the commands that came since the last call, without those within scripts."""
        end = secrets.token_hex(8)
        self._speak.echo(end)
        names: list[str] = []
        while (heard := self._monitor.next_command())["command"] != f"ECHO {end}":
            if heard["client_type"] != "lua":
                names.append(heard["command"].split()[0])
        return names


@pytest.fixture
def monitor(redis_server: Server) -> Iterator[Monitor]:
    with Monitor(redis_server.port) as monitor:
        yield monitor


@pytest.fixture
def sessions(redis_server: Server) -> Sessions:
    return Sessions(session_store=RedisSessionStore(redis_server.url))


def cost(front: Any, monitor: Monitor, step: Step, *, has_cookie: bool = True) -> list[str]:
    """Make a request that takes this step, over a connection that stands; return the commands that it sent."""

    async def whole() -> list[str]:
        cookies: list[str] = []
        for _ in range(2):
            # The first has the script loaded, if the server had not heard of it.
            cookies = (await front.serve(None, lambda request: found(front, request)))[1]
        cookie = cookies[0].partition(";")[0].partition("=")[2]
        monitor.news()
        status, _ = await front.serve(cookie if has_cookie else None, lambda request: take(front, request, step))
        assert status == 200
        return monitor.news()

    return asyncio.run(whole()) if isinstance(front, Awaiting) else drive(whole())


async def found(front: Any, request: Any) -> None:
    assert await settled(front.call.set_session_data(request, {"count": 1}))


async def take(front: Any, request: Any, step: Step) -> None:
    await settled(step(front, request))


def get(front: Any, request: Any) -> Any:
    return front.call.get_session_data(request)


def write(front: Any, request: Any) -> Any:
    return front.call.set_session_data(request, {"theme": "dark"})


def log_in(front: Any, request: Any) -> Any:
    return front.call.replace_session_data(request, {"user": "ada"})


def log_in_as_somebody(front: Any, request: Any) -> Any:
    return front.call.log_in(request, secrets.token_hex(8), {"user": "ada"})


def renew(front: Any, request: Any) -> Any:
    return front.call.renew_session(request)


def destroy(front: Any, request: Any) -> Any:
    return front.call.destroy_session(request)


def pluck(front: Any, request: Any) -> Any:
    return front.call.pluck_session_property(request, "count")


def update(front: Any, request: Any) -> Any:
    return front.call.update_session_data(request, lambda data: data.update(count=data["count"] + 1))


def nothing(front: Any, request: Any) -> None:
    pass


def read_mapping(front: Any, request: Any) -> None:
    assert front.mapping(request)["count"] == 1


def read_and_write_mapping(front: Any, request: Any) -> None:
    front.mapping(request)["count"] += 1


@pytest.mark.parametrize("front", [Awaiting, Blocking])
class TestByFunctions:
    def test_a_visitor_without_a_cookie_who_reads_costs_nothing(self, front, sessions, monitor):
        assert cost(front(sessions), monitor, get, has_cookie=False) == []

    def test_who_calls_nothing_costs_nothing(self, front, sessions, monitor):
        assert cost(front(sessions), monitor, nothing) == []

    @pytest.mark.parametrize("step", [get, write, destroy])
    def test_a_read_a_blind_write_and_a_log_out_cost_one_round_trip(self, step, front, sessions, monitor):
        assert cost(front(sessions), monitor, step) == ["EVALSHA"]

    @pytest.mark.parametrize("step", [pluck, update, renew])
    def test_a_write_that_rests_on_a_read_costs_two(self, step, front, sessions, monitor):
        assert cost(front(sessions), monitor, step) == ["EVALSHA"] * 2

    def test_a_log_in_costs_two_and_one_without_a_session_before_it(self, front, sessions, monitor):
        assert cost(front(sessions), monitor, log_in) == ["EVALSHA"] * 2
        assert cost(front(sessions), monitor, log_in, has_cookie=False) == ["EVALSHA"]

    def test_a_log_in_by_owner_costs_one_more_and_his_first_two(self, front, sessions, monitor):
        owner = secrets.token_hex(8)
        step = lambda front, request: front.call.log_in(request, owner, {"user": "ada"})
        cost(front(sessions), monitor, step)
        # One log-in in sixteen looks after the entries of sessions that are gone.
        assert min(len(cost(front(sessions), monitor, step)) for _ in range(8)) == 3
        assert min(len(cost(front(sessions), monitor, log_in_as_somebody)) for _ in range(8)) == 4


class TestByMapping:
    def test_with_autoload_a_session_not_touched_costs_one_round_trip(self, sessions, monitor):
        assert cost(Awaiting(sessions, autoload=True), monitor, nothing) == ["EVALSHA"]

    def test_with_autoload_a_read_costs_one(self, sessions, monitor):
        assert cost(Awaiting(sessions, autoload=True), monitor, read_mapping) == ["EVALSHA"]

    def test_with_autoload_a_read_and_a_write_cost_two(self, sessions, monitor):
        assert cost(Awaiting(sessions, autoload=True), monitor, read_and_write_mapping) == ["EVALSHA"] * 2

    def test_with_autoload_a_visitor_without_a_cookie_costs_nothing(self, sessions, monitor):
        assert cost(Awaiting(sessions, autoload=True), monitor, nothing, has_cookie=False) == []

    def test_blocking_a_session_not_touched_costs_nothing(self, sessions, monitor):
        assert cost(Blocking(sessions), monitor, nothing) == []

    def test_blocking_a_read_costs_one_and_a_write_one_more(self, sessions, monitor):
        assert cost(Blocking(sessions), monitor, read_mapping) == ["EVALSHA"]
        assert cost(Blocking(sessions), monitor, read_and_write_mapping) == ["EVALSHA"] * 2

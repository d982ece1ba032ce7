import asyncio
import contextvars
import gc
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import anyio
import pytest
import trio

from server_session import ColourError, _colour
from server_session._colour import (
    Colour,
    drive,
    home,
    is_driven,
    pause,
    run_awaiting,
    run_blocking,
    running_library,
    settled,
)
from server_session.exceptions import StoreDownError
from tests.patience import PATIENCE

Scenario = Callable[[], Coroutine[Any, Any, Any]]
LOOPS: dict[str, Callable[[Scenario], Any]] = {
    "asyncio": lambda scenario: asyncio.run(scenario()),
    "trio": trio.run,
}
IN_THREAD: dict[str, Callable[..., Coroutine[Any, Any, Any]]] = {
    "asyncio": asyncio.to_thread,
    "trio": trio.to_thread.run_sync,
}


@pytest.fixture(params=LOOPS)
def library(request: pytest.FixtureRequest) -> str:
    return request.param


async def give(value: Any) -> Any:
    return value


async def fail() -> None:
    raise LookupError("from within")


async def where() -> tuple[int, bool]:
    return threading.get_ident(), is_driven()


class Startable:
    """Starts coroutines, and knows whether it was asked to."""

    def __init__(self, make: Scenario = where) -> None:
        self.started = 0
        self._make = make

    def __call__(self) -> Coroutine[Any, Any, Any]:
        self.started += 1
        return self._make()


class StandIn:
    """A home that runs what it is given in place."""

    def __init__(self) -> None:
        self.ran = 0

    def __call__(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        self.ran += 1
        return drive(coroutine)


# --- a coroutine that never suspends


def test_driving_returns_what_the_coroutine_returns_and_raises_what_it_raises():
    assert drive(give(5)) == 5
    assert drive(give(None)) is None
    with pytest.raises(LookupError, match="from within"):
        drive(fail())


def test_a_coroutine_that_suspends_while_it_is_driven_is_an_error_that_says_what_to_set_and_is_closed():
    ended = []

    async def suspends() -> None:
        try:
            await asyncio.sleep(0)
        finally:
            ended.append(True)

    held = suspends()
    with pytest.raises(ColourError, match=r"suspended in a blocking call.*`colour = Colour\.AWAITS`"):
        drive(held)
    assert ended == [True]
    assert not is_driven()


def test_only_what_is_driven_sees_that_it_is_and_only_in_its_own_thread():
    async def nested() -> list[bool]:
        there: list[bool] = []
        thread = threading.Thread(target=lambda: there.append(is_driven()))
        thread.start()
        thread.join()
        return [is_driven(), drive(where())[1], is_driven(), *there]

    assert not is_driven()
    assert drive(nested()) == [True, True, True, False]
    with pytest.raises(LookupError):
        drive(fail())
    assert not is_driven()


# --- awaitable functions


@pytest.mark.parametrize("colour", [Colour.INSTANT, Colour.AWAITS, Colour.EITHER])
def test_on_a_loop_what_does_not_block_runs_in_place_and_undriven(library, colour):
    async def scenario() -> Any:
        return await run_awaiting(colour, where())

    assert LOOPS[library](scenario) == (threading.get_ident(), False)


def test_on_a_loop_what_blocks_runs_driven_in_a_worker_thread_with_the_caller_s_context(library):
    name = contextvars.ContextVar[str]("name")

    async def there() -> tuple[int, bool, str]:
        return *(await where()), name.get()

    async def scenario() -> Any:
        name.set("ada")
        return await run_awaiting(Colour.BLOCKS, there())

    thread, driven, seen = LOOPS[library](scenario)
    assert thread != threading.get_ident()
    assert (driven, seen) == (True, "ada")


@pytest.mark.parametrize("colour", Colour)
def test_on_a_loop_errors_come_through(library, colour):
    async def scenario() -> None:
        await run_awaiting(colour, fail())

    with pytest.raises(LookupError, match="from within"):
        LOOPS[library](scenario)


def test_what_fails_in_its_thread_after_its_caller_was_cancelled_is_no_error_in_the_log():
    begun, cancelled = threading.Event(), threading.Event()

    async def fail_late() -> None:
        begun.set()
        cancelled.wait(PATIENCE)
        raise LookupError("nobody waits for it")

    async def scenario() -> list[str]:
        logged: list[str] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: logged.append(context["message"]))
        caller = asyncio.ensure_future(run_awaiting(Colour.BLOCKS, fail_late()))
        await asyncio.to_thread(begun.wait, PATIENCE)
        caller.cancel()
        await asyncio.sleep(0)
        cancelled.set()
        with pytest.raises(asyncio.CancelledError):
            await caller
        del caller
        gc.collect()
        await asyncio.sleep(0)
        return logged

    assert asyncio.run(scenario()) == []


def cancel_again(scope: anyio.CancelScope, caller: "asyncio.Task[Any]") -> None:
    scope.cancel()


def cancel_twice(scope: anyio.CancelScope, caller: "asyncio.Task[Any]") -> None:
    caller.cancel()
    asyncio.get_running_loop().call_later(0.05, caller.cancel)


@pytest.mark.parametrize("cancel", [cancel_again, cancel_twice])
def test_what_a_thread_writes_is_written_before_who_is_cancelled_goes_on_however_often_that_is(cancel):
    begun, goes_on = threading.Event(), threading.Event()
    done: list[str] = []

    async def write() -> None:
        begun.set()
        goes_on.wait(PATIENCE)
        done.append("written")

    async def scenario() -> None:
        scope = anyio.CancelScope()

        async def call() -> None:
            try:
                with scope:
                    await run_awaiting(Colour.BLOCKS, write())
            finally:
                done.append("went on")

        caller = asyncio.ensure_future(call())
        await asyncio.to_thread(begun.wait, PATIENCE)
        cancel(scope, caller)
        await asyncio.sleep(0.2)
        goes_on.set()
        await asyncio.wait([caller])

    asyncio.run(scenario())
    assert done == ["written", "went on"]


def test_a_scope_knows_its_own_cancellation_though_a_limit_within_it_ended_first():
    begun, goes_on = threading.Event(), threading.Event()

    async def write() -> None:
        begun.set()
        goes_on.wait(PATIENCE)

    async def scenario() -> str:
        scope = anyio.CancelScope()
        limits: list[asyncio.Timeout] = []

        async def call() -> str:
            with scope:
                async with asyncio.timeout(None) as limit:
                    limits.append(limit)
                    await run_awaiting(Colour.BLOCKS, write())
            return "went on"

        caller = asyncio.ensure_future(call())
        await asyncio.to_thread(begun.wait, PATIENCE)
        limits[0].reschedule(0)
        await asyncio.sleep(0)
        assert limits[0].expired()
        scope.cancel()
        await asyncio.sleep(0)
        goes_on.set()
        return await caller

    assert asyncio.run(scenario()) == "went on"


# --- blocking functions


@pytest.mark.parametrize("colour", [Colour.INSTANT, Colour.BLOCKS, Colour.EITHER])
@pytest.mark.parametrize("at_home", [StandIn(), None])
def test_without_a_loop_a_blocking_call_is_driven_in_place(colour, at_home):
    assert run_blocking(colour, at_home, where) == (threading.get_ident(), True)
    assert at_home is None or at_home.ran == 0


def test_without_a_loop_and_a_home_a_store_that_awaits_is_refused_before_the_first_step():
    start = Startable()
    with pytest.raises(ColourError) as caught:
        run_blocking(Colour.AWAITS, None, start)
    assert start.started == 0
    assert "there is no event loop here" in str(caught.value)
    assert "give the store a blocking client (in a URL a driver that blocks, postgresql+psycopg" in str(caught.value)
    assert "server_session.asgi.SessionMiddleware" in str(caught.value)


def test_a_store_that_awaits_runs_at_the_home_of_the_application():
    at_home = StandIn()
    assert run_blocking(Colour.AWAITS, at_home, Startable()) == (threading.get_ident(), True)
    assert at_home.ran == 1


@pytest.mark.parametrize("colour", [Colour.BLOCKS, Colour.AWAITS, Colour.EITHER])
@pytest.mark.parametrize("at_home", [StandIn(), None])
def test_on_a_loop_a_blocking_call_that_would_stall_it_is_refused_before_the_first_step(library, colour, at_home):
    start = Startable()

    async def scenario() -> None:
        run_blocking(colour, at_home, start)

    with pytest.raises(ColourError) as caught:
        LOOPS[library](scenario)
    assert start.started == 0
    assert f"on a running {library} loop" in str(caught.value)
    assert "await the function of the same name in `server_session`" in str(caught.value)


def test_on_a_loop_a_store_that_never_waits_stalls_nothing_and_is_called(library):
    async def scenario() -> Any:
        return run_blocking(Colour.INSTANT, None, where)

    assert LOOPS[library](scenario) == (threading.get_ident(), True)


# --- the application's loop


def test_where_no_loop_runs_there_is_no_home():
    assert running_library() is None
    assert home() is None


def test_a_running_loop_is_known_by_its_name_and_only_in_its_own_thread(library):
    async def scenario() -> Any:
        return running_library(), await IN_THREAD[library](running_library), await IN_THREAD[library](home)

    assert LOOPS[library](scenario) == (library, None, None)


def test_a_worker_thread_runs_a_coroutine_at_home_and_gets_its_result_or_its_error(library):
    async def at_home() -> tuple[int, bool, str | None]:
        # What a store that awaits needs: a loop that runs.
        await pause(0)
        return *(await where()), running_library()

    async def scenario() -> Any:
        place = home()
        assert place is not None
        result = await IN_THREAD[library](run_blocking, Colour.AWAITS, place, at_home)
        with pytest.raises(LookupError, match="from within"):
            await IN_THREAD[library](run_blocking, Colour.AWAITS, place, fail)
        return result

    assert LOOPS[library](scenario) == (threading.get_ident(), False, library)


@pytest.mark.parametrize("is_closed", [False, True])
def test_a_worker_thread_whose_loop_ends_hears_of_it(is_closed, monkeypatch):
    monkeypatch.setattr(_colour, "_UNTIL_A_LOOK", 0.02)
    loop = asyncio.new_event_loop()
    failures: list[StoreDownError] = []
    began, goes_on = asyncio.Event(), threading.Event()

    async def wait_for_ever() -> None:
        began.set()
        await asyncio.Event().wait()

    async def scenario() -> threading.Thread:
        place = home()

        def call() -> None:
            if is_closed:
                goes_on.wait(PATIENCE)
            try:
                run_blocking(Colour.AWAITS, place, wait_for_ever)
            except StoreDownError as error:
                failures.append(error)

        thread = threading.Thread(target=call, daemon=True)
        thread.start()
        if not is_closed:
            await began.wait()
        return thread

    thread = loop.run_until_complete(scenario())
    if is_closed:
        loop.close()
        goes_on.set()
    thread.join(PATIENCE)
    assert [str(error) for error in failures] == ["no answer: the application's event loop has ended"]
    if not is_closed:
        for task in asyncio.all_tasks(loop):
            task.cancel()
        loop.run_until_complete(asyncio.sleep(0))
        loop.close()


# --- waiting


def test_who_is_driven_waits_in_its_thread(monkeypatch):
    slept: list[float] = []
    monkeypatch.setattr(time, "sleep", slept.append)
    drive(pause(0.25))
    assert slept == [0.25]


def test_who_runs_on_a_loop_waits_by_that_loop(library, monkeypatch):
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    def never(_: float) -> None:
        raise AssertionError("it stalls the loop")

    monkeypatch.setattr(time, "sleep", never)
    monkeypatch.setattr({"asyncio": asyncio, "trio": trio}[library], "sleep", sleep)

    async def scenario() -> None:
        await pause(0.25)

    LOOPS[library](scenario)
    assert slept == [0.25]


def test_a_proxy_of_what_is_at_hand_is_not_awaited():
    class Proxy:
        """As Werkzeug's: the class has the method, and asks what it stands for, which has none."""

        @property
        def __await__(self) -> Any:
            raise AttributeError

    proxy = Proxy()
    assert isinstance(proxy, Awaitable)
    assert drive(settled(proxy)) is proxy

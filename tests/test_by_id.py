"""Sessions without a request: opened by their id, changed for an owner as a whole, listed with their data."""

import asyncio
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import redis
import redis.asyncio
from starlette.responses import Response

import server_session
from server_session import (
    EncryptedCodec,
    FileSessionStore,
    LimitError,
    MemorySessionStore,
    NotFreshError,
    RecordError,
    SerializationError,
    Sessions,
    SessionStore,
    Signal,
    configure,
    sync,
)
from server_session._colour import drive
from server_session._owners import _key_of
from server_session.stores.redis import RedisSessionStore
from server_session.testing import YieldingStore
from tests.asgi_client import scope_of
from tests.visitors import Clock, Watched

METHODS = ("destroy", "get", "pluck", "set", "update")


class Place:
    """Sessions over a watched store, and both colours of their functions, blocked on."""

    def __init__(self, colour: str, **settings: Any) -> None:
        self.clock = Clock()
        self.signals: list[Signal] = []
        self.store = Watched(MemorySessionStore(clock=self.clock))
        self.sessions = Sessions(session_store=self.store, clock=self.clock, on_signal=self.signals.append, **settings)
        self.is_blocking = colour == "blocking"

    def _run(self, start: Callable[[], Any]) -> Any:
        async def run() -> Any:
            return await start()

        return start() if self.is_blocking else asyncio.run(run())

    def call(self, name: str, *arguments: Any, **options: Any) -> Any:
        functions = self.sessions.sync if self.is_blocking else self.sessions
        return self._run(partial(getattr(functions, name), *arguments, **options))

    def opened(self, session_id: str) -> Any:
        """The session of this id, each of whose methods is run to its end."""
        of: Any = self.sessions.sync.open(session_id) if self.is_blocking else self.sessions.open(session_id)
        return SimpleNamespace(
            **{name: lambda *given, name=name: self._run(partial(getattr(of, name), *given)) for name in METHODS}
        )

    def log_in(self, owner: str = "ada", **data: Any) -> str:
        """Log in, later than all before, and return the cookie."""
        self.clock.advance(1)
        response = Response()
        assert self.call("log_in", scope_of(), response, owner, {"user": owner, **data}) is True
        return cookie_in(response)

    def data_of(self, cookie: str) -> Any:
        return self.call("get_session_data", scope_of(cookie=cookie), touch=False)

    def ids(self, owner: str = "ada") -> list[str]:
        return [one.id for one in self.call("sessions_of", owner)]


def cookie_in(response: Response) -> str:
    return response.headers["set-cookie"].partition(";")[0]


@pytest.fixture(params=["awaiting", "blocking"])
def colour(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=[None, EncryptedCodec([bytes(range(32))]), EncryptedCodec([bytes(32), bytes(range(32))])])
def place(request: pytest.FixtureRequest, colour: str) -> Place:
    return Place(colour, codec=request.param)


# --- what an opened session does


def test_what_is_written_by_id_the_visitor_reads_and_the_other_way_round(place: Place) -> None:
    cookie = place.log_in(cart=[1])
    opened = place.opened(*place.ids())
    assert opened.get() == {"user": "ada", "cart": [1]}
    assert opened.set({"export": "ready", "n": 1}) is True
    assert opened.update(lambda data: data["cart"].append(2)) is True
    assert place.data_of(cookie) == {"user": "ada", "cart": [1, 2], "export": "ready", "n": 1}
    assert opened.pluck("export") == "ready"
    assert opened.pluck("export") is None
    place.call("set_session_data", scope_of(cookie=cookie), {"n": 2})
    assert opened.get() == {"user": "ada", "cart": [1, 2], "n": 2}


def test_an_end_by_id_is_an_end_and_no_write_by_id_or_by_cookie_undoes_it(place: Place) -> None:
    cookie = place.log_in()
    (session_id,) = place.ids()
    opened, other = place.opened(session_id), place.opened(session_id)
    assert opened.destroy() is True
    place.signals.clear()
    for one in (opened, other):
        assert one.set({"late": 1}) is False
        assert one.update(lambda data: data.update(late=1)) is False
        assert one.pluck("user") is None
        assert one.get() == {}
        assert one.destroy() is False
    assert {signal.event for signal in place.signals} == {"write_dropped"}
    assert place.call("set_session_data", scope_of(cookie=cookie), {"late": 1}) is False
    assert place.data_of(cookie) == {}
    assert place.ids() == []
    # And after the minute of its mark, when nothing of it is left.
    place.clock.advance(61)
    assert opened.set({"late": 1}) is False
    assert opened.update(lambda data: data.update(late=1)) is False
    assert place.data_of(cookie) == {}


@pytest.mark.parametrize("end", ["log out", "log in anew", "all of the owner", "idle"])
def test_what_ended_otherwise_has_ended_by_id_too(place: Place, end: str) -> None:
    cookie = place.log_in()
    opened = place.opened(*place.ids())
    if end == "log out":
        place.call("destroy_session", scope_of(cookie=cookie), Response())
    elif end == "log in anew":
        place.call("log_in", scope_of(cookie=cookie), Response(), "ada", {"user": "ada"})
    elif end == "all of the owner":
        place.call("destroy_sessions_of", "ada")
    else:
        place.clock.advance(1801)
    assert (opened.set({"late": 1}), opened.update(lambda data: data.update(late=1))) == (False, False)
    assert (opened.get(), opened.pluck("user"), opened.destroy()) == ({}, None, False)
    assert place.data_of(cookie) == {}


def test_a_session_whose_cookie_was_renewed_stays_open_and_lives(place: Place) -> None:
    cookie = place.log_in()
    opened = place.opened(*place.ids())
    for _ in range(2):
        response = Response()
        assert place.call("renew_session", scope_of(cookie=cookie), response) is True
        cookie = cookie_in(response)
        assert opened.update(lambda data: data.update(n=data.get("n", 0) + 1)) is True
    assert place.data_of(cookie) == {"user": "ada", "n": 2}
    assert opened.destroy() is True
    assert place.data_of(cookie) == {}


def test_what_is_no_id_of_a_session_is_no_session_and_nothing_is_written(place: Place) -> None:
    cookie = place.log_in()
    (session_id,) = place.ids()
    before = place.call("sessions_of", "ada", data=True)
    value = cookie.partition("=")[2]
    # An owner's list, under a key that anybody can make of the name; and what the store is not even asked of.
    foreign = [_key_of("ada"), _key_of("bob"), "A" * 24]
    malformed = ["", "x", session_id[:-1], session_id + "A", session_id + "\n", value, "\0" * 24, "é" * 24]
    for one in (*foreign, *malformed):
        opened = place.opened(one)
        place.store.calls.clear()
        assert (opened.set({"late": 1}), opened.update(lambda data: data.update(late=1))) == (False, False)
        assert (opened.get(), opened.pluck("user"), opened.destroy()) == ({}, None, False)
        assert bool(place.store.calls) is (one in foreign)
    assert place.call("sessions_of", "ada", data=True) == before
    assert place.data_of(cookie) == {"user": "ada"}


@pytest.mark.parametrize("given", [None, 7, b"A" * 24, ["A" * 24]])
def test_an_id_that_is_no_text_is_a_type_error(given: Any) -> None:
    sessions = Sessions()
    for functions in (sessions, sessions.sync):
        with pytest.raises(TypeError, match=r"^open takes a session's id as sessions_of tells it, not "):
            functions.open(given)  # type: ignore[attr-defined]


def test_to_open_a_session_asks_the_store_nothing_and_shows_no_id(place: Place) -> None:
    place.log_in()
    (session_id,) = place.ids()
    place.store.calls.clear()
    assert session_id not in repr(place.sessions.open(session_id))
    assert place.store.calls == []


# --- alive


def test_no_read_keeps_a_session_alive_nor_counts_as_seen_and_a_write_does(place: Place) -> None:
    cookie = place.log_in()
    opened = place.opened(*place.ids())
    (before,) = place.call("sessions_of", "ada")
    for _ in range(3):
        place.clock.advance(500)
        assert opened.get() == {"user": "ada"}
        assert opened.pluck("flash") is None
        assert opened.update(lambda data: data.get("user") and None) is True
        assert place.call("update_sessions_of", "ada", lambda data: data.update(user="ada")) == 1
        (now,) = place.call("sessions_of", "ada", data=True)
        assert (now.last_seen, now.data) == (before.last_seen, {"user": "ada"})
    place.clock.advance(301)
    assert place.data_of(cookie) == {}

    cookie = place.log_in()
    opened = place.opened(*place.ids())
    for n in range(3):
        place.clock.advance(1000)
        assert opened.set({"n": n}) is True
    assert place.data_of(cookie) == {"user": "ada", "n": 2}


def test_no_write_by_id_moves_the_deadline(colour: str) -> None:
    place = Place(colour, absolute_max_age=3600)
    cookie = place.log_in()
    opened = place.opened(*place.ids())
    for _ in range(3):
        place.clock.advance(1000)
        assert opened.set({"n": 1}) is True
    place.clock.advance(601)
    assert opened.set({"n": 1}) is False
    assert place.data_of(cookie) == {}


# --- the same promises


def test_a_write_by_id_is_held_to_the_bounds_and_to_the_codec(colour: str) -> None:
    place = Place(colour, max_bytes=2000, max_fields=50)
    cookie = place.log_in()
    opened = place.opened(*place.ids())
    with pytest.raises(LimitError, match="max_bytes=2000"):
        opened.set({"large": "x" * 3000})
    with pytest.raises(LimitError, match="max_fields=50"):
        opened.update(lambda data: data.update({str(n): n for n in range(50)}))
    with pytest.raises(SerializationError, match="'odd'"):
        opened.set({"odd": object()})
    with pytest.raises(SerializationError, match=r"reserved|NUL"):
        opened.set({"\0digest": "x"})
    assert place.data_of(cookie) == {"user": "ada"}


def test_what_is_given_wrong_is_a_type_error_that_says_what_is_taken(place: Place) -> None:
    place.log_in()
    opened = place.opened(*place.ids())
    for call, said in (
        (lambda: opened.set([1]), "^set takes the data as a dict, not 'list'$"),
        (lambda: opened.update({"a": 1}), "^update takes a function of the data, not 'dict'$"),
        (lambda: opened.pluck(1), "^pluck takes the name of a key, not 'int'$"),
        (lambda: place.call("update_sessions_of", "ada", {}), "^update_sessions_of takes a function of the data"),
        (lambda: place.call("update_sessions_of", "", {}), "^update_sessions_of takes the owner's name or id"),
        (lambda: place.call("sessions_of", "ada", data=1), "^sessions_of takes data as True or False"),
    ):
        with pytest.raises(TypeError, match=said):
            call()


@pytest.mark.parametrize("by", ["set", "update", "owner"])
@pytest.mark.parametrize("user", ["ada", "bob", None])
def test_who_writes_another_user_by_id_proves_nothing_and_swaps_no_cookie(colour: str, by: str, user: Any) -> None:
    place = Place(colour)
    cookie = place.log_in()
    opened = place.opened(*place.ids())
    change: dict[str, Callable[[], Any]] = {
        "set": lambda: opened.set({"user": user}),
        "update": lambda: opened.update(lambda data: data.update(user=user)),
        "owner": lambda: place.call("update_sessions_of", "ada", lambda data: data.update(user=user)),
    }
    assert change[by]() in (True, 1)
    assert place.data_of(cookie) == {"user": user}
    if user == "ada":
        place.call("require_fresh", scope_of(cookie=cookie), 60)
    else:
        with pytest.raises(NotFreshError):
            place.call("require_fresh", scope_of(cookie=cookie), 60)


# --- all sessions of an owner


def test_a_change_of_an_owner_reaches_all_that_live_and_nobody_elses(place: Place) -> None:
    cookies = [place.log_in(role="guest", n=n) for n in range(4)]
    place.call("destroy_session", scope_of(cookie=cookies[1]), Response())
    bob = place.log_in("bob", role="guest")
    assert place.call("update_sessions_of", "ada", lambda data: data.update(role="editor")) == 3
    assert [place.data_of(cookie) for cookie in cookies] == [
        {} if n == 1 else {"user": "ada", "role": "editor", "n": n} for n in range(4)
    ]
    assert place.data_of(bob) == {"user": "bob", "role": "guest"}
    assert place.call("update_sessions_of", "nobody", lambda data: data.clear()) == 0


def test_one_that_ends_while_its_owners_are_changed_is_not_counted_and_stays_ended(colour: str) -> None:
    place = Place(colour)
    cookies = [place.log_in() for _ in range(3)]
    first = place.sessions.sync.open(place.ids()[0])

    def change(data: dict[str, Any]) -> None:
        first.destroy()
        data["role"] = "editor"

    assert place.call("update_sessions_of", "ada", change) == 2
    assert [place.data_of(cookie).get("role") for cookie in cookies] == [None, "editor", "editor"]


def test_sessions_are_listed_with_their_data_where_it_is_asked_for(place: Place) -> None:
    place.log_in(cart=[1])
    place.log_in(cart=[2])
    assert [one.data for one in place.call("sessions_of", "ada")] == [None, None]
    listed = place.call("sessions_of", "ada", data=True)
    assert [one.data for one in listed] == [{"user": "ada", "cart": [1]}, {"user": "ada", "cart": [2]}]


def test_one_that_cannot_be_changed_keeps_no_change_from_the_others_and_is_raised(colour: str) -> None:
    place = Place(colour, max_bytes=2000)
    cookies = [place.log_in(note="x" * (1900 if n == 1 else 1)) for n in range(3)]
    with pytest.raises(LimitError, match="max_bytes=2000"):
        place.call("update_sessions_of", "ada", lambda data: data.update(role="guest" * 20))
    assert [place.data_of(cookie).get("role") for cookie in cookies] == ["guest" * 20, None, "guest" * 20]


def test_one_whose_data_cannot_be_read_is_listed_without_and_keeps_no_change_from_the_others(colour: str) -> None:
    place = Place(colour)
    cookies = [place.log_in() for _ in range(3)]
    ids = place.ids()
    drive(place.store.merge(ids[1], {"odd": b"{"}, (), {}))
    listed = place.call("sessions_of", "ada", data=True)
    assert [(one.id, one.data) for one in listed] == [
        (ids[0], {"user": "ada"}),
        (ids[1], None),
        (ids[2], {"user": "ada"}),
    ]
    with pytest.raises(RecordError, match="'odd'"):
        place.call("update_sessions_of", "ada", lambda data: data.update(role="guest"))
    assert [place.data_of(cookies[n])["role"] for n in (0, 2)] == ["guest"] * 2
    assert place.opened(ids[1]).destroy() is True


# --- the functions' names


def test_the_modules_open_sessions_too_and_both_colours_have_the_same_methods() -> None:
    configure()
    response = Response()
    sync.log_in(scope_of(), response, "ada", {"n": 1})
    (one,) = sync.sessions_of("ada")
    awaiting, blocking = server_session.open_session(one.id), sync.open_session(one.id)
    assert isinstance(awaiting, server_session.OpenedSession)
    assert isinstance(blocking, sync.OpenedSession)
    assert blocking.get() == asyncio.run(awaiting.get()) == {"n": 1}
    for name in METHODS:
        method, twin = getattr(awaiting, name), getattr(blocking, name)
        assert inspect.iscoroutinefunction(method)
        assert inspect.signature(method).parameters == inspect.signature(twin).parameters
        assert f"`server_session.OpenedSession.{name}`" in (inspect.getdoc(twin) or "")
        assert inspect.getdoc(method)


# --- a background job and an administrator, by id, while 50 requests write

REQUESTS = 50
JOBS = 10


@pytest.fixture
def stores(tmp_path: Path, request: pytest.FixtureRequest) -> Callable[[str, bool], Any]:
    @asynccontextmanager
    async def open_store(kind: str, is_blocking: bool) -> AsyncIterator[SessionStore]:
        if kind == "memory":
            yield MemorySessionStore() if is_blocking else YieldingStore(MemorySessionStore())
        elif kind == "file":
            yield FileSessionStore(tmp_path)
        else:
            port = request.getfixturevalue("redis_server").port
            client: Any = (redis if is_blocking else redis.asyncio).Redis(port=port, max_connections=200)
            yield RedisSessionStore(client, prefix=f"{tmp_path.name}:")
            _ = client.close() if is_blocking else await client.aclose()

    return open_store


class Crowd:
    """Many who call at once, in either colour: as tasks, or each in a thread."""

    def __init__(self, sessions: Sessions, pool: ThreadPoolExecutor | None) -> None:
        self.sessions = sessions
        self._pool = pool

    async def call(self, name: str, *arguments: Any) -> Any:
        return await self._run(self.sessions if self._pool is None else self.sessions.sync, name, arguments)

    async def by_id(self, session_id: str, name: str, *arguments: Any) -> Any:
        functions: Any = self.sessions if self._pool is None else self.sessions.sync
        return await self._run(functions.open(session_id), name, arguments)

    async def _run(self, of: Any, name: str, arguments: tuple[Any, ...]) -> Any:
        call = partial(getattr(of, name), *arguments)
        if self._pool is None:
            return await call()
        return await asyncio.get_running_loop().run_in_executor(self._pool, call)

    async def log_in(self) -> tuple[str, str]:
        """Log in; return the cookie and the id."""
        response = Response()
        assert await self.call("log_in", scope_of(), response, "ada", {"count": 0, "ticket": 1}) is True
        (one,) = await self.call("sessions_of", "ada")
        return cookie_in(response), one.id


def count(name: str) -> Callable[[dict[str, Any]], None]:
    def change(data: dict[str, Any]) -> None:
        data["count"] += 1
        data[name] = 1

    return change


def race(stores: Any, kind: str, colour: str, body: Callable[[Crowd], Awaitable[None]]) -> None:
    async def run() -> None:
        async with stores(kind, colour == "blocking") as store:
            if colour == "awaiting":
                await body(Crowd(Sessions(session_store=store), None))
                return
            with ThreadPoolExecutor(REQUESTS + 3 * JOBS) as pool:
                await body(Crowd(Sessions(session_store=store), pool))

    asyncio.run(run())


over_each_store = pytest.mark.parametrize("kind", ["memory", "file", "redis"])


@over_each_store
def test_of_what_a_job_and_50_requests_write_at_once_nothing_is_lost(stores: Any, kind: str, colour: str) -> None:
    async def body(crowd: Crowd) -> None:
        cookie, session_id = await crowd.log_in()
        plucked, *written = await asyncio.gather(
            asyncio.gather(*(crowd.by_id(session_id, "pluck", "ticket") for _ in range(JOBS))),
            *(crowd.call("update_session_data", scope_of(cookie=cookie), count(f"own{n}")) for n in range(REQUESTS)),
            *(crowd.by_id(session_id, "update", count(f"job{n}")) for n in range(JOBS)),
            *(crowd.by_id(session_id, "set", {f"blind{n}": 1}) for n in range(JOBS)),
            crowd.call("update_sessions_of", "ada", count("owner")),
        )
        assert sorted(plucked, key=str) == [1] + [None] * (JOBS - 1)
        assert set(written) == {True}
        data = await crowd.by_id(session_id, "get")
        assert data == await crowd.call("get_session_data", scope_of(cookie=cookie))
        assert data.pop("count") == REQUESTS + JOBS + 1
        names = {f"own{n}" for n in range(REQUESTS)} | {f"{by}{n}" for by in ("job", "blind") for n in range(JOBS)}
        assert data == dict.fromkeys(names | {"owner"}, 1)

    race(stores, kind, colour, body)


@over_each_store
def test_a_session_that_is_ended_by_id_among_50_requests_and_a_job_stays_ended(
    stores: Any, kind: str, colour: str
) -> None:
    async def body(crowd: Crowd) -> None:
        cookie, session_id = await crowd.log_in()
        begun, ended = asyncio.Event(), asyncio.Event()
        told: list[bool] = []

        async def write(step: Callable[[], Awaitable[bool]]) -> None:
            is_late = False
            while not is_late:
                is_late = ended.is_set()
                is_written = await step()
                assert not (is_late and is_written)
                told.append(is_written)
                begun.set()

        async def end() -> None:
            await begun.wait()
            assert await crowd.by_id(session_id, "destroy") is True
            ended.set()

        def request(n: int) -> Callable[[], Awaitable[bool]]:
            return lambda: crowd.call("set_session_data", scope_of(cookie=cookie), {f"own{n}": 1})

        def job(n: int) -> Callable[[], Awaitable[bool]]:
            return lambda: crowd.by_id(session_id, ("set", "update")[n % 2], ({"job": n}, count("job"))[n % 2])

        await asyncio.gather(*map(write, [*map(request, range(REQUESTS)), *map(job, range(JOBS))]), end())
        assert {True, False} == set(told)
        assert await crowd.call("get_session_data", scope_of(cookie=cookie)) == {}
        assert await crowd.by_id(session_id, "get") == {}
        assert await crowd.by_id(session_id, "set", {"late": 1}) is False
        assert await crowd.call("sessions_of", "ada") == []

    race(stores, kind, colour, body)

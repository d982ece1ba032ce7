"""Metrics and spans: what is told of calls to the store and of sessions, through Starlette and Flask, and what not."""

import asyncio
import json
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple, get_args

import pytest
from flask import Flask
from flask import session as flask_session
from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.trace import NoOpTracerProvider, StatusCode
from prometheus_client import CollectorRegistry
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from server_session import (
    ConfigurationError,
    EncryptedCodec,
    MemorySessionStore,
    Outcome,
    Sessions,
    SessionStore,
    Signal,
    StoreDownError,
)
from server_session._colour import Colour, drive
from server_session._record import DIGEST
from server_session._signals import Event
from server_session.flask import ServerSession
from server_session.otel import OpenTelemetry
from server_session.starlette import SessionMiddleware
from server_session.stores._base import CONFLICT, Lifetime
from server_session.stores._circuit import CircuitStore
from server_session.stores._over import StoreOver
from server_session.testing import YieldingStore
from tests.documents import code_of
from tests.telemetry import Told

ROOT = Path(__file__).resolve().parents[1]
VALUE, OWNER, FIELD = "a-value-that-is-the-visitors", "an-owner-by-name", "a-key-that-tells"
OWN, CROSS = {"Sec-Fetch-Site": "same-origin"}, {"Sec-Fetch-Site": "cross-site"}
EVENTS = frozenset(get_args(Event))
DOCUMENT = ROOT / "docs" / "watching.md"
BOARD = json.loads((ROOT / "examples" / "grafana" / "sessions.json").read_text())
LIFE = Lifetime(1800, 86400)
STORES = ("memory", "file", "redis")


class Site(NamedTuple):
    """An application, and the browser of its one visitor."""

    ask: Callable[..., str]
    cookies: Callable[[], set[str]]


@pytest.fixture
def told() -> Told:
    return Told()


@pytest.fixture
def store(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Return the URL of a store of this kind."""
    if request.param == "redis":
        return request.getfixturevalue("redis_server").url_for("redis")
    return "memory:" if request.param == "memory" else f"file:{tmp_path}/sessions"


@contextmanager
def starlette(told: Told, sessions: Sessions) -> Iterator[Site]:
    async def put(request: Request) -> PlainTextResponse:
        request.session[FIELD] = VALUE
        return PlainTextResponse("True")

    async def log_in(request: Request) -> PlainTextResponse:
        return PlainTextResponse(str(await sessions.log_in(request, OWNER, {FIELD: VALUE})))

    async def renew(request: Request) -> PlainTextResponse:
        return PlainTextResponse(str(await sessions.renew_session(request)))

    async def late(request: Request) -> PlainTextResponse:
        ended = await sessions.destroy_sessions_of(OWNER)
        return PlainTextResponse(f"{ended} {await sessions.set_session_data(request, {FIELD: VALUE})}")

    async def leave(request: Request) -> PlainTextResponse:
        return PlainTextResponse(str(await sessions.destroy_session(request)))

    app = Starlette(routes=[Route(f"/{view.__name__}", view) for view in (log_in, renew, late, leave)])
    app.router.routes.append(Route("/put", put, methods=["GET", "POST"]))
    app.add_middleware(SessionMiddleware, sessions=sessions)

    async def traced(scope: Any, receive: Any, send: Any) -> None:
        with told.tracer.start_as_current_span(scope["path"] if scope["type"] == "http" else "lifespan"):
            await app(scope, receive, send)

    with TestClient(traced) as client:

        def ask(path: str, method: str = "GET", headers: Mapping[str, str] | None = None) -> str:
            answer = client.request(method, path, headers=headers)
            return f"{answer.status_code} {answer.text}"

        yield Site(ask, lambda: set(client.cookies.values()))


@contextmanager
def flask(told: Told, sessions: Sessions) -> Iterator[Site]:
    app = Flask(__name__)
    ServerSession(app, sessions=sessions)
    sync = sessions.sync

    @app.route("/put", methods=["GET", "POST"])
    def put() -> str:
        flask_session[FIELD] = VALUE
        return "True"

    @app.get("/log_in")
    def log_in() -> str:
        return str(sync.log_in(OWNER, {FIELD: VALUE}))

    @app.get("/renew")
    def renew() -> str:
        return str(sync.renew_session())

    @app.get("/late")
    def late() -> str:
        # Loaded before, as Starlette's middleware does with each.
        len(flask_session)
        ended = sync.destroy_sessions_of(OWNER)
        return f"{ended} {sync.set_session_data({FIELD: VALUE})}"

    @app.get("/leave")
    def leave() -> str:
        return str(sync.destroy_session())

    serve = app.wsgi_app

    def traced(environ: Any, start_response: Any) -> Any:
        with told.tracer.start_as_current_span(environ["PATH_INFO"]):
            return serve(environ, start_response)

    app.wsgi_app = traced  # type: ignore[method-assign]
    client = app.test_client()

    def ask(path: str, method: str = "GET", headers: Mapping[str, str] | None = None) -> str:
        answer = client.open(path, method=method, headers=headers)
        return f"{answer.status_code} {answer.text}"

    yield Site(ask, lambda: {cookie.value for cookie in client._cookies.values()})


@pytest.mark.parametrize("framework", [starlette, flask])
@pytest.mark.parametrize("store", STORES, indirect=True)
def test_the_calls_and_the_events_are_told_and_nothing_of_whose_they_are(told, store, framework):
    sessions = Sessions(session_store=store, telemetry=told.telemetry)
    cookies: set[str] = set()
    with framework(told, sessions) as site:
        for path in ("/put", "/renew", "/log_in", "/late", "/log_in"):
            assert site.ask(path) == ("200 1 False" if path == "/late" else "200 True")
            cookies |= site.cookies()
        assert site.ask("/put", "POST", CROSS).startswith("403")
        assert site.ask("/put", "POST").startswith("403")
        assert site.ask("/put", "POST", OWN) == "200 True"
        assert site.ask("/leave") == "200 True"
    assert told.events == {
        "created": 3,
        "renewed": 1,
        "destroyed": 3,
        "write_dropped": 1,
        "csrf_rejected csrf_site": 1,
        "csrf_rejected csrf_token_missing": 1,
    }
    assert told.calls.keys() >= {("get", "found"), ("set", "applied"), ("merge", "applied"), ("set", "conflict")}
    assert not told.errors
    assert Counter((span.name, span.attributes["server_session.outcome"]) for span in told.spans) == {
        (f"session {call}", outcome): count for (call, outcome), count in told.calls.items()
    }
    requests = {span.context.span_id for span in told.requests}
    assert {span.parent.span_id for span in told.spans} <= requests
    assert {frozenset(span.attributes) for span in told.spans} == {
        frozenset({"db.operation.name", "server_session.store", "server_session.outcome"})
    }
    assert len(cookies) == 4
    for secret in (*cookies, *(cookie[:24] for cookie in cookies), VALUE, OWNER, FIELD, "127.0.0.1", "shop"):
        assert secret not in told.text


def site_of(told: Told, store: SessionStore | str | None = None, **settings: Any) -> Any:
    return starlette(told, Sessions(session_store=store, telemetry=told.telemetry, **settings))


def test_each_call_is_told_once_with_its_outcome_and_how_long_it_took(told):
    with site_of(told) as site:
        site.ask("/put")
        assert told.calls == {("set", "applied"): 1}
        site.ask("/put")
    assert told.calls == {("set", "applied"): 1, ("get", "found"): 1}
    (point, _) = told.points("server_session.store.call.duration")
    assert point.attributes["server_session.store"] == "MemorySessionStore"
    assert 0 < point.min <= point.sum
    assert point.explicit_bounds[0] == 0.0001


def test_what_is_lost_to_another_write_is_told_as_a_conflict(told):
    sessions = Sessions(telemetry=told.telemetry)

    async def count(request: Request) -> PlainTextResponse:
        tries = []

        def add_one(data: dict[str, Any]) -> None:
            tries.append(data.get("n", 0))
            data["n"] = tries[-1] + 1
            if len(tries) == 1:
                drive(sessions.store.merge(request.cookies["session"][:24], {"n": b"10"}, (), {}))

        await sessions.update_session_data(request, add_one)
        return PlainTextResponse(str(tries))

    async def put(request: Request) -> PlainTextResponse:
        return PlainTextResponse(str(await sessions.set_session_data(request, {"n": 1})))

    app = Starlette(routes=[Route("/put", put), Route("/count", count)])
    app.add_middleware(SessionMiddleware, sessions=sessions)
    client = TestClient(app)
    client.get("/put")
    before = told.calls.get(("merge", "conflict"), 0)
    assert client.get("/count").text == "[1, 10]"
    assert told.calls["merge", "conflict"] == before + 1


def test_a_cookie_of_another_secret_is_told_as_a_conflict_and_as_refused(told):
    with site_of(told) as site:
        site.ask("/put")
        (cookie,) = site.cookies()
        site.ask("/renew", headers={"Cookie": f"session={cookie[:24]}{'a' * 40}"})
        site.ask("/renew", headers={"Cookie": f"session={'a' * 64}"})
    assert told.events == {"created": 1, "refused": 1, "unknown": 1}
    assert told.calls == {("set", "applied"): 1, ("get", "conflict"): 1, ("get", "found"): 1, ("get", "missing"): 1}


class Down(StoreOver):
    """A store that is down, and says more than anybody may hear."""

    def __init__(self) -> None:
        super().__init__(YieldingStore(MemorySessionStore()))

    async def get(self, key: str, expect: Any, touch: bool = True) -> Any:
        raise StoreDownError(f"no answer from ada@10.1.2.3 to {key}: {VALUE}")


async def test_a_store_that_is_down_is_told_by_the_type_of_its_error_alone_and_so_is_one_that_is_not_asked(told):
    sessions = Sessions(session_store=Down(), telemetry=told.telemetry)
    assert not await sessions.health()
    assert told.errors == {"StoreDownError": 1}
    circuit: Any = sessions.policy.store._store
    assert isinstance(circuit, CircuitStore)
    circuit.failed = (circuit._clock() - 3, circuit._clock(), "no answer from 10.1.2.3", None)
    circuit._next_probe = circuit._clock() + 60
    assert (await sessions.health()).why.startswith("not asked")
    assert told.errors == {"StoreDownError": 1, "CircuitOpenError": 1}
    assert told.calls == {("get", "error"): 2}
    assert [span.status.status_code for span in told.spans] == [StatusCode.ERROR] * 2
    assert not any(span.events or span.status.description for span in told.spans)
    assert "10.1.2.3" not in told.text
    assert VALUE not in told.text


def test_a_redis_that_is_not_there_is_told_and_not_where(told, free_port):
    # No word of these is a number in base 16, as the spans' own names are.
    with site_of(told, f"redis://mallory:teatime@127.0.0.1:{free_port}") as site:
        assert site.ask("/put", headers={"Cookie": f"session={'a' * 64}"}).startswith("503")
    assert told.errors == {"StoreDownError": 1}
    assert not any(secret in told.text for secret in ("127.0.0.1", f":{free_port}", "teatime", "mallory", "a" * 24))


async def test_a_client_that_hung_up_is_no_error(told):
    class Silent(StoreOver):
        async def get(self, key: str, expect: Any, touch: bool = True) -> Any:
            await asyncio.sleep(3600)

    call = asyncio.ensure_future(told.telemetry.over(Silent(MemorySessionStore())).get("a" * 24, {}))
    await asyncio.sleep(0)
    call.cancel()
    await asyncio.wait([call])
    assert call.cancelled()
    assert told.calls == {("get", "cancelled"): 1}
    assert told.spans[0].status.status_code is StatusCode.UNSET


@pytest.mark.parametrize("answer", [True, False])
async def test_a_record_that_is_dropped_was_there_or_was_not(told, answer):
    store = MemorySessionStore()
    measured = told.telemetry.over(store)
    if answer:
        await store.set("a" * 24, {"a": b"1"}, LIFE)
        assert await measured.set("a" * 24, {"a": b"1"}, LIFE) is CONFLICT
    assert await measured.destroy("a" * 24) is answer
    assert told.calls["destroy", "applied" if answer else "missing"] == 1


def test_a_worker_threads_calls_over_the_applications_loop_are_children_of_its_request(told):
    sessions = Sessions(session_store=YieldingStore(MemorySessionStore()), telemetry=told.telemetry)
    assert sessions.store.colour is Colour.AWAITS

    def put(request: Request) -> PlainTextResponse:
        with told.tracer.start_as_current_span("view"):
            return PlainTextResponse(str(sessions.sync.set_session_data(request, {FIELD: VALUE})))

    app = Starlette(routes=[Route("/put", put)])
    app.add_middleware(SessionMiddleware, sessions=sessions)
    assert TestClient(app).get("/put").text == "True"
    (view,), (span,) = told.requests, told.spans
    assert span.parent.span_id == view.context.span_id


def test_an_application_hears_the_signals_as_well_and_encryption_is_measured_beneath(told):
    heard: list[Signal] = []
    codec = EncryptedCodec([bytes(range(32))])
    sessions = Sessions(telemetry=told.telemetry, on_signal=heard.append, codec=codec)
    with starlette(told, sessions) as site:
        site.ask("/put")
        (cookie,) = site.cookies()
        site.ask("/put")
        assert told.calls == {("set", "applied"): 1, ("get", "found"): 1}
        drive(sessions.store.merge(cookie[:24], {DIGEST: b"damaged"}, (), {}))
        site.ask("/put")
    assert told.events == {"created": 1, "unreadable not_sealed": 1}
    assert told.events == Counter(" ".join(filter(None, (signal.event, signal.reason))) for signal in heard)
    assert all(signal.session not in told.text for signal in heard)


def test_the_board_asks_for_what_prometheus_is_given_and_for_all_of_it():
    registry = CollectorRegistry()
    meters = MeterProvider([PrometheusMetricReader(registry=registry)])
    telemetry = OpenTelemetry(meter_provider=meters, tracer_provider=NoOpTracerProvider())
    for event in EVENTS:
        telemetry.on_signal(Signal(event, "", "a-code"))
    with suppress(StoreDownError):
        drive(telemetry.over(Down()).get("a" * 24, {}))
    given: dict[str, set[str]] = {}
    for sample in [sample for family in registry.collect() for sample in family.samples]:
        if sample.name.startswith("server_session") and not sample.name.endswith("_created"):
            given.setdefault(sample.name, {"job"}).update(sample.labels)
    asked: set[str] = set()
    events: set[str] = set()
    for expression in [target["expr"] for panel in BOARD["panels"] for target in panel["targets"]]:
        found = dict(re.findall(r"(server_session_\w+)\{(.*?)\}", expression))
        grouped = {label for labels in re.findall(r"by \((.*?)\)", expression) for label in labels.split(", ")}
        for name, matchers in found.items():
            assert grouped | set(re.findall(r"(\w+)[=!]", matchers)) <= given[name]
            events.update(event for value in re.findall(r'event=~?"(.*?)"', matchers) for event in value.split("|"))
        asked |= found.keys()
    assert asked == given.keys()
    assert events == EVENTS


def test_the_page_says_what_each_event_is():
    words = set(re.findall(r"`(\w+)`", DOCUMENT.read_text()))
    assert words >= EVENTS
    assert words >= {outcome.value for outcome in Outcome}


def test_prometheus_is_told_as_documented(monkeypatch):
    module = ModuleType("watched_application")
    # FastAPI reads an endpoint's annotations there.
    monkeypatch.setitem(sys.modules, module.__name__, module)
    exec(compile(code_of(DOCUMENT, "prometheus"), "docs/watching.md", "exec"), module.__dict__)  # noqa: S102 - our own
    client = TestClient(module.app)
    assert [client.get("/").json() for _ in range(2)] == ["visit 1", "visit 2"]
    page = TestClient(module.app).get("/metrics").text
    assert re.search(r'server_session_events_total\{.*server_session_event="created"\} 1.0', page)
    assert re.search(r'_duration_seconds_count\{.*db_operation_name="get",.*_outcome="found".*\} 1.0', page)


def test_where_it_is_not_set_nothing_stands_over_the_store_and_nobody_hears():
    store = MemorySessionStore()
    policy = Sessions(session_store=store).policy
    assert policy.store is store
    assert not policy.signals.wants("created")


@pytest.mark.parametrize("given", [OpenTelemetry, "otel", object()])
def test_what_cannot_measure_is_refused(given):
    with pytest.raises(ConfigurationError, match="telemetry is an OpenTelemetry"):
        Sessions(telemetry=given)

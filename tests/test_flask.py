import asyncio
import io
import re
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import flask
import pytest
from flask import Flask, flash, get_flashed_messages, stream_with_context
from flask.testing import FlaskClient
from markupsafe import Markup
from werkzeug.datastructures import Headers
from werkzeug.test import Client, TestResponse, create_environ
from werkzeug.wsgi import FileWrapper

import server_session
from server_session import (
    CookieHandler,
    FileSessionStore,
    MemorySessionStore,
    Sessions,
    configure,
    sync,
)
from server_session._colour import Colour
from server_session.exceptions import (
    CarrierError,
    ColourError,
    ConfigurationError,
    NotConfiguredError,
    ResponseStartedError,
    SerializationError,
)
from server_session.flask import FlaskSession, ServerSession
from server_session.http.carrier import current
from server_session.stores._base import Outcome
from server_session.wsgi import SessionMiddleware
from tests.patience import PATIENCE
from tests.visitors import Unanswered, Watched


@pytest.fixture
def store() -> Watched:
    return Watched()


@pytest.fixture
def app(store: Watched) -> Flask:
    """An application on the configured default, as most are."""
    configure(session_store=store)
    app = Flask("shop")
    app.testing = True
    ServerSession(app)
    return app


def view(app: Flask, path: str = "/") -> Callable[[Callable[[], Any]], Callable[[], Any]]:
    """Add a view that may return any value: what it returns goes to the client as text."""

    def add(function: Callable[[], Any]) -> Callable[[], Any]:
        def body() -> Any:
            result = app.ensure_sync(function)()
            return result if isinstance(result, str | flask.Response) else repr(result)

        app.add_url_rule(path, path, body, methods=["GET", "POST"])
        return function

    return add


def cookies(response: TestResponse) -> list[str]:
    return response.headers.getlist("Set-Cookie")


def cookie(client: FlaskClient, name: str = "session") -> str | None:
    found = client.get_cookie(name)
    return None if found is None else found.value


# --- the mapping


def test_the_session_is_kept_from_one_request_to_the_next(app: Flask) -> None:
    @view(app, "/put")
    def put() -> str:
        flask.session["cart"] = ["apple"]
        return "put"

    @view(app, "/more")
    def more() -> str:
        flask.session["cart"].append("pear")
        return "more"

    @view(app, "/read")
    def read() -> Any:
        return dict(flask.session)

    client = app.test_client()
    client.get("/put")
    client.get("/more")
    assert client.get("/read").text == "{'cart': ['apple', 'pear']}"
    assert app.test_client().get("/read").text == "{}"


def test_the_store_is_not_asked_before_the_session_is_touched(app: Flask, store: Watched) -> None:
    @view(app, "/put")
    def put() -> str:
        flask.session["name"] = "Ada"
        return "put"

    @view(app, "/untouched")
    def untouched() -> str:
        # To name it is not to touch it.
        assert "not loaded" in repr(flask.session)
        return "untouched"

    @view(app, "/read")
    def read() -> Any:
        return [flask.session["name"], flask.session.get("name")]

    client = app.test_client()
    client.get("/put")
    store.calls.clear()
    client.get("/untouched")
    assert store.calls == []
    client.get("/read")
    assert store.calls == ["get"]


def test_a_visitor_who_writes_nothing_leaves_no_row_and_gets_no_cookie(app: Flask, store: Watched) -> None:
    @view(app)
    def read() -> Any:
        return [flask.session.get("name"), "name" in flask.session, get_flashed_messages(), flask.session.pop("x", 1)]

    response = app.test_client().get("/")
    assert response.text == "[None, False, [], 1]"
    assert (cookies(response), store.calls) == ([], [])


def test_the_cookie_is_flask_s_own_name_with_the_attributes_of_the_design(app: Flask) -> None:
    @view(app)
    def put() -> str:
        flask.session["a"] = 1
        return ""

    (plain,) = cookies(app.test_client().get("/"))
    assert re.fullmatch(r"session=[A-Za-z0-9_-]{64}; Path=/; HttpOnly; SameSite=Lax", plain)
    (over_tls,) = cookies(app.test_client().get("/", base_url="https://localhost"))
    assert "; Secure;" in over_tls


def test_new_tells_whether_the_request_brought_a_session_that_lives(app: Flask, store: Watched) -> None:
    @view(app)
    def read() -> Any:
        first = flask.session.new
        flask.session["seen"] = True
        return first

    client = app.test_client()
    assert client.get("/").text == "True"
    assert client.get("/").text == "False"
    client.set_cookie("session", "A" * 64)
    assert client.get("/").text == "True"


def test_a_page_that_tells_whether_the_session_is_new_varies_on_the_cookie(app: Flask) -> None:
    view(app)(lambda: str(flask.session.new))
    assert app.test_client().get("/").headers["Vary"] == "Cookie"


def test_modified_and_accessed_tell_what_was_done(app: Flask) -> None:
    seen: list[tuple[bool, bool]] = []

    @view(app)
    def put() -> str:
        session = flask.globals.request_ctx._session
        assert isinstance(session, FlaskSession)
        assert (session.accessed, session.modified) == (False, False)
        assert session.get("items") == flask.session.get("items")
        seen.append((session.accessed, session.modified))
        session.setdefault("items", []).append(1)
        seen.append((session.accessed, session.modified))
        # What Flask's own session needs is allowed here.
        flask.session.modified = True
        return ""

    client = app.test_client()
    client.get("/")
    client.get("/")
    assert seen == [(True, False), (True, True)] * 2


def test_a_session_that_is_cleared_ends_and_its_cookie_goes(app: Flask) -> None:
    @view(app, "/put")
    def put() -> str:
        flask.session["a"] = 1
        return ""

    @view(app, "/clear")
    def clear() -> str:
        flask.session.clear()
        return ""

    @view(app, "/read")
    def read() -> Any:
        return dict(flask.session)

    client = app.test_client()
    client.get("/put")
    before = cookie(client)
    client.get("/clear")
    assert cookie(client) is None
    client.set_cookie("session", str(before))
    assert client.get("/read").text == "{}"


def test_values_of_flask_s_own_session_come_back_of_the_same_type(app: Flask) -> None:
    values = {
        "tuple": ("a", 1),
        "bytes": b"\x00\xff",
        "uuid": UUID(int=7),
        "when": datetime(2024, 2, 29, 12, tzinfo=UTC),
        "nested": {"deep": [(1,), {"x": None}]},
        "price": Decimal("9.90"),
    }

    @view(app, "/put")
    def put() -> str:
        flask.session.update(values)
        return ""

    @view(app, "/read")
    def read() -> str:
        found = dict(flask.session)
        assert found == values
        assert {name: type(value) for name, value in found.items()} == {k: type(v) for k, v in values.items()}
        return "equal"

    client = app.test_client()
    client.get("/put")
    assert client.get("/read").text == "equal"


def test_a_key_that_means_log_in_renews_the_cookie_in_the_same_step(app: Flask) -> None:
    @view(app, "/put")
    def put() -> str:
        flask.session["cart"] = 1
        return ""

    @view(app, "/log-in")
    def log_in() -> str:
        flask.session["user_id"] = "ada"
        return ""

    @view(app, "/read")
    def read() -> Any:
        return dict(flask.session)

    client = app.test_client()
    client.get("/put")
    before = cookie(client)
    client.get("/log-in")
    assert cookie(client) not in (None, before)
    assert client.get("/read").text == "{'cart': 1, 'user_id': 'ada'}"
    client.set_cookie("session", str(before))
    assert client.get("/read").text == "{}"


def test_an_application_of_signed_cookies_needs_one_more_line(store: Watched) -> None:
    def shop(extend: Callable[[Flask], object]) -> list[str]:
        app = Flask("shop")
        app.secret_key = "needed by signed cookies alone"
        extend(app)

        @view(app, "/put")
        def put() -> str:
            flask.session["n"] = flask.session.get("n", 0) + 1
            flash("saved", "info")
            return "ok"

        @view(app, "/read")
        def read() -> Any:
            return flask.session["n"], get_flashed_messages(with_categories=True), "_flashes" in flask.session

        client = app.test_client()
        return [client.get(path).text for path in ("/put", "/put", "/read", "/read")]

    assert shop(lambda app: ServerSession(app, session_store=store)) == shop(lambda _: None)


# --- flashes


def test_flashes_come_once_as_tuples_and_markup_as_markup(app: Flask, store: Watched) -> None:
    @view(app, "/flash")
    def put() -> str:
        flash("plain")
        flash(Markup("<b>bold</b>"), "html")
        flash("<i>", "text")
        return ""

    @view(app, "/read")
    def read() -> str:
        messages = get_flashed_messages(with_categories=True)
        assert [type(message) for _, message in messages] == [str, Markup, str]
        return repr([(category, str(message)) for category, message in messages])

    client = app.test_client()
    client.get("/flash")
    expected = [("message", "plain"), ("html", "<b>bold</b>"), ("text", "<i>")]
    assert client.get("/read").text == repr(expected)
    with client.session_transaction() as session:
        assert "_flashes" not in session


def test_flashes_of_several_requests_add_up_whatever_they_are(app: Flask) -> None:
    class Lazy:
        """A translation that is looked up when it is shown."""

        def __html__(self) -> str:
            return "später"

    @view(app, "/flash")
    def put() -> str:
        flash(Markup("<b>"))
        flash(Lazy())
        return ""

    @view(app, "/read")
    def read() -> str:
        return "|".join(get_flashed_messages())

    client = app.test_client()
    client.get("/flash")
    client.get("/flash")
    assert client.get("/read").text == "<b>|später|<b>|später"


def test_flashes_that_are_no_markup_are_left_as_they_are(app: Flask) -> None:
    @view(app, "/flash")
    def put() -> str:
        flash({"markup": "no", "other": 1})
        flask.session["_flashes"].append(("by hand", "x"))
        return ""

    @view(app, "/more")
    def more() -> str:
        flask.session["_flashes"].append(("by hand", "y"))
        return ""

    view(app, "/read")(lambda: get_flashed_messages(with_categories=True))
    client = app.test_client()
    client.get("/flash")
    client.get("/more")
    expected = [("message", {"markup": "no", "other": 1}), ("by hand", "x"), ("by hand", "y")]
    assert client.get("/read").text == repr(expected)


def test_markup_comes_back_as_markup_wherever_it_is_in_the_session(app: Flask) -> None:
    @view(app, "/put")
    def put() -> str:
        flask.session["parts"] = {"title": Markup("<b>"), "text": "<b>"}
        return ""

    view(app, "/read")(lambda: flask.render_template_string("{{ session.parts.title }}{{ session.parts.text }}"))
    client = app.test_client()
    client.get("/put")
    assert client.get("/read").text == "<b>&lt;b&gt;"


@pytest.mark.parametrize("sent", [{"markup": "<script>"}, {"$markup": "<script>"}, {"$dict": {"$markup": "<script>"}}])
def test_what_a_visitor_sends_never_becomes_markup_by_being_flashed(app: Flask, sent: dict[str, Any]) -> None:
    @view(app, "/flash")
    def put() -> str:
        flash(flask.request.get_json())
        flask.session["sent"] = flask.request.get_json()
        return ""

    @view(app, "/read")
    def read() -> str:
        ((_, message),) = get_flashed_messages(with_categories=True)
        assert message == flask.session["sent"] == sent
        return flask.render_template_string("{{ message }}{{ session.sent }}", message=message)

    client = app.test_client()
    client.post("/flash", json=sent, headers={"Sec-Fetch-Site": "same-origin"})
    page = client.get("/read")
    assert page.status_code == 200
    assert "<script>" not in page.text


def test_the_flash_that_says_good_bye_survives_the_log_out(app: Flask) -> None:
    @view(app, "/in")
    def log_in() -> str:
        sync.log_in("ada", {"user": "ada"})
        return ""

    @view(app, "/out")
    def log_out() -> str:
        sync.destroy_session()
        flash("Good-bye")
        return ""

    @view(app, "/read")
    def read() -> Any:
        return get_flashed_messages(), dict(flask.session)

    client = app.test_client()
    client.get("/in")
    client.get("/out")
    assert client.get("/read").text == "(['Good-bye'], {})"


# --- caches


@pytest.mark.parametrize(
    "touch",
    [
        lambda: flask.session.get("a"),
        lambda: "a" in flask.session,
        lambda: len(flask.session),
        lambda: list(flask.session),
        lambda: bool(flask.session),
        lambda: flask.session.permanent,
        lambda: dict(flask.session),
        get_flashed_messages,
        lambda: flask.render_template_string("{{ 'a' in session }}"),
        sync.get_session_data,
        lambda: sync.validate_csrf_token("x"),
    ],
    ids=["get", "in", "len", "iter", "bool", "permanent", "dict", "flashes", "template", "function", "token"],
)
def test_a_response_varies_on_the_cookie_whatever_the_look_at_the_session_was(
    app: Flask, touch: Callable[[], object]
) -> None:
    @view(app)
    def look() -> flask.Response:
        touch()
        response = flask.make_response("ok")
        response.headers["Vary"] = "Accept"
        return response

    response = app.test_client().get("/")
    assert response.headers["Vary"] == "Accept, Cookie"
    assert "Cache-Control" not in response.headers


def test_a_response_that_did_not_look_at_the_session_does_not_vary(app: Flask) -> None:
    view(app)(lambda: flask.render_template_string("{{ 1 }}"))
    assert "Vary" not in app.test_client().get("/").headers
    error = app.test_client().get("/gone")
    assert error.status_code == 404
    assert "Vary" not in error.headers


def test_a_streamed_body_may_yet_look_so_its_response_varies(app: Flask) -> None:
    @view(app)
    def stream() -> flask.Response:
        return flask.Response(stream_with_context(flask.session.get("name", "?") for _ in range(1)))

    assert app.test_client().get("/").headers["Vary"] == "Cookie"


def test_a_response_that_the_application_keeps_is_another_for_each_visitor(app: Flask) -> None:
    kept = flask.Response("kept")

    @view(app, "/write")
    def write() -> flask.Response:
        flask.session["a"] = 1
        return kept

    @view(app, "/read")
    def read() -> flask.Response:
        return kept

    assert "Set-Cookie" in app.test_client().get("/write").headers
    assert "Set-Cookie" not in app.test_client().get("/read").headers


def test_a_response_that_sets_the_cookie_is_for_no_cache(app: Flask, caplog: pytest.LogCaptureFixture) -> None:
    @view(app)
    def put() -> flask.Response:
        flask.session["a"] = 1
        response = flask.make_response("ok")
        response.headers["Cache-Control"] = "public, max-age=60"
        response.set_cookie("other", "kept")
        return response

    response = app.test_client().get("/")
    assert response.headers["Cache-Control"] == "private, no-store"
    assert [header.partition("=")[0] for header in cookies(response)] == ["other", "session"]


# --- Flask's settings


def cookie_of(app: Flask, base_url: str = "https://shop.example") -> str:
    @view(app)
    def put() -> str:
        flask.session["a"] = 1
        return ""

    (header,) = cookies(app.test_client().get("/", base_url=base_url))
    return re.sub(r"=[A-Za-z0-9_-]{64}", "=…", header, count=1)


def test_flask_s_cookie_settings_win_where_they_are_set(store: Watched) -> None:
    app = Flask("shop")
    ServerSession(app, session_store=store, cookie_handler=CookieHandler("own", same_site="lax"))
    app.config.update(
        SESSION_COOKIE_NAME="shop",
        SESSION_COOKIE_DOMAIN="shop.example",
        SESSION_COOKIE_PATH="/basket",
        SESSION_COOKIE_HTTPONLY=False,
        SESSION_COOKIE_SECURE=True,
        SESSION_COOKIE_SAMESITE="None",
        SESSION_COOKIE_PARTITIONED=True,
    )
    expected = "shop=…; Domain=shop.example; Path=/basket; Secure; SameSite=None; Partitioned"
    assert cookie_of(app, "http://shop.example") == expected


def test_what_flask_sets_by_itself_does_not_win_over_what_was_configured(store: Watched) -> None:
    configure(
        session_store=store,
        cookie_handler=CookieHandler("own", path="/x", http_only=False, secure=True, same_site="strict"),
    )
    app = Flask("shop")
    ServerSession(app)
    assert cookie_of(app, "http://shop.example") == "own=…; Path=/x; Secure; SameSite=Strict"


def test_what_flask_does_not_set_stays_as_it_was_configured(store: Watched) -> None:
    handler = CookieHandler("own", path="/x", domain="example", http_only=False, secure=True, max_age=60)
    configure(session_store=store, cookie_handler=handler)
    app = Flask("shop")
    ServerSession(app)
    app.config["SESSION_COOKIE_SAMESITE"] = "Strict"
    header = cookie_of(app, "http://shop.example")
    assert header == "own=…; Domain=example; Path=/x; Max-Age=60; Secure; SameSite=Strict"


@pytest.mark.parametrize(
    "settings, expected",
    [
        ({}, "__Host-session=…; Path=/; Secure; HttpOnly; SameSite=Lax"),
        ({"SESSION_COOKIE_SAMESITE": "Strict"}, "__Host-session=…; Path=/; Secure; HttpOnly; SameSite=Strict"),
        ({"SESSION_COOKIE_SECURE": True}, "__Host-session=…; Path=/; Secure; HttpOnly; SameSite=Lax"),
        ({"APPLICATION_ROOT": "/app"}, "__Secure-session=…; Path=/app; Secure; HttpOnly; SameSite=Lax"),
        (
            {"APPLICATION_ROOT": "/app", "SESSION_COOKIE_PATH": "/"},
            "__Host-session=…; Path=/; Secure; HttpOnly; SameSite=Lax",
        ),
        ({"SESSION_COOKIE_DOMAIN": False}, "__Host-session=…; Path=/; Secure; HttpOnly; SameSite=Lax"),
    ],
)
def test_with_an_https_origin_the_cookie_is_prefixed_as_its_path_allows(
    store: Watched, settings: dict[str, object], expected: str
) -> None:
    configure(session_store=store, origin="https://shop.example")
    app = Flask("shop")
    ServerSession(app)
    app.config.update(settings)
    assert cookie_of(app) == expected


def test_a_setting_of_flask_that_cannot_work_is_an_error_that_names_it(store: Watched) -> None:
    app = Flask("shop")
    app.testing = True
    ServerSession(app, session_store=store)
    app.config.update(SESSION_COOKIE_SECURE="false")
    with pytest.raises(ConfigurationError, match=r"SESSION_COOKIE_SECURE.*`secure` is True or False"):
        app.test_client().get("/")


def test_flask_s_settings_and_a_cookie_of_one_s_own_kind_are_an_error(store: Watched) -> None:
    class Header(server_session.CookieTransport):
        def read(self, request: Any) -> list[str]:
            return [value.decode() for value in request.header_values(b"x-session")]

        def write(self, request: Any, value: str, lifetime: float | None) -> list[tuple[bytes, bytes]]:
            return [(b"x-session", value.encode())]

        def destroy(self, request: Any) -> list[tuple[bytes, bytes]]:
            return [(b"x-session", b"")]

    app = Flask("shop")
    app.testing = True
    ServerSession(app, session_store=store, cookie_handler=Header())

    @view(app)
    def count() -> Any:
        flask.session["n"] = flask.session.get("n", 0) + 1
        return flask.session["n"]

    client = app.test_client()
    value = client.get("/").headers["X-Session"]
    assert client.get("/", headers={"X-Session": value}).text == "2"
    app.config["SESSION_COOKIE_NAME"] = "shop"
    with pytest.raises(ConfigurationError, match=r"SESSION_COOKIE_NAME.*'Header'"):
        client.get("/")


def test_a_setting_of_flask_that_changes_between_two_requests_is_noticed(app: Flask) -> None:
    view(app)(lambda: flask.session.update(a=1))
    names = []
    for name in ("session", "one", "one", "two"):
        app.config["SESSION_COOKIE_NAME"] = name
        (header,) = cookies(app.test_client().get("/"))
        names.append(header.partition("=")[0])
    assert names == ["session", "one", "one", "two"]


def test_an_extension_of_no_sessions_that_were_configured_says_so(caplog: pytest.LogCaptureFixture) -> None:
    app = Flask("shop")
    app.testing = True
    ServerSession(app)
    with pytest.raises(NotConfiguredError, match="configure"):
        app.test_client().get("/")
    app.testing = False
    assert app.test_client().get("/").status_code == 500
    assert [record.levelname for record in caplog.records] == ["ERROR"]


def test_several_applications_share_an_extension(store: Watched) -> None:
    extension = ServerSession(session_store=store)
    names = []
    for name in ("one", "two"):
        app = Flask(name)
        app.config["SESSION_COOKIE_NAME"] = name
        extension.init_app(app)
        assert app.extensions["server_session"] is extension
        names.append(cookie_of(app).partition("=")[0])
    assert names == ["one", "two"]


def test_sessions_and_settings_together_are_an_error(store: Watched) -> None:
    with pytest.raises(ConfigurationError, match="not both"):
        ServerSession(Flask("shop"), Sessions(session_store=store), max_age=5)


# --- permanence


class Clock:
    def __init__(self) -> None:
        self.time = 1_000_000_000.0

    def __call__(self) -> float:
        return self.time


@pytest.fixture
def clock() -> Clock:
    return Clock()


def lasting(clock: Clock, deadline: timedelta | None = timedelta(days=30), **settings: Any) -> Flask:
    app = Flask("shop")
    app.testing = True
    store = MemorySessionStore(clock=clock)
    ServerSession(app, session_store=store, max_age=600, absolute_max_age=deadline, clock=clock)
    app.config.update(settings)

    @view(app, "/keep")
    def keep() -> str:
        flask.session.permanent = True
        flask.session["a"] = 1
        return ""

    @view(app, "/forget")
    def forget() -> str:
        flask.session.permanent = False
        return ""

    @view(app, "/read")
    def read() -> Any:
        return flask.session.get("a")

    @view(app, "/write")
    def write() -> Any:
        flask.session["a"] += 1
        return ""

    @view(app, "/untouched")
    def untouched() -> str:
        return ""

    return app


def test_a_permanent_session_outlives_the_browser_and_others_do_not(clock: Clock) -> None:
    client = lasting(clock).test_client()
    (header,) = cookies(client.get("/keep"))
    assert "; Max-Age=600; " in header
    (header,) = cookies(client.get("/forget"))
    assert "Max-Age" not in header
    assert cookies(client.get("/read")) == []
    assert client.get("/read").text == "1"


def test_a_permanent_session_s_cookie_is_sent_again_with_each_response_that_touched_it(clock: Clock) -> None:
    client = lasting(clock).test_client()
    client.get("/keep")
    value = cookie(client)
    (header,) = cookies(client.get("/read"))
    assert header.startswith(f"session={value}; Path=/; Max-Age=600;")
    assert cookies(client.get("/untouched")) == []


def test_without_refreshing_it_is_sent_again_when_something_changed(clock: Clock) -> None:
    client = lasting(clock, SESSION_REFRESH_EACH_REQUEST=False).test_client()
    client.get("/keep")
    assert cookies(client.get("/read")) == []
    (header,) = cookies(client.get("/write"))
    assert "; Max-Age=600;" in header


@pytest.mark.parametrize("given", [timedelta(days=2), 2 * 86400])
def test_flask_s_lifetime_is_the_idle_time_out_where_it_is_set(clock: Clock, given: object) -> None:
    client = lasting(clock, PERMANENT_SESSION_LIFETIME=given).test_client()
    (header,) = cookies(client.get("/keep"))
    assert "; Max-Age=172800;" in header
    clock.time += 2 * 86400 - 1
    assert client.get("/read").text == "1"
    clock.time += 2 * 86400 + 1
    assert client.get("/read").text == "None"


def test_where_flask_s_lifetime_is_not_set_what_was_configured_holds(clock: Clock) -> None:
    client = lasting(clock).test_client()
    client.get("/keep")
    clock.time += 601
    assert client.get("/read").text == "None"


def test_flask_s_lifetime_may_be_of_any_length_where_no_deadline_is_wanted(clock: Clock) -> None:
    client = lasting(clock, None, PERMANENT_SESSION_LIFETIME=timedelta(days=365)).test_client()
    client.get("/keep")
    clock.time += 364 * 86400
    assert client.get("/read").text == "1"


@pytest.mark.parametrize(
    "lifetime, reason", [(timedelta(days=90), "longer than absolute_max_age"), (0, "a positive number of seconds")]
)
def test_a_lifetime_that_cannot_hold_is_an_error(clock: Clock, lifetime: object, reason: str) -> None:
    app = lasting(clock, PERMANENT_SESSION_LIFETIME=lifetime)
    with pytest.raises(ConfigurationError, match=f"PERMANENT_SESSION_LIFETIME.*{reason}"):
        app.test_client().get("/read")


# --- the functions


def test_what_is_configured_anew_serves_from_the_next_request_on(app: Flask, store: Watched) -> None:
    @view(app)
    def put() -> str:
        flask.session["a"] = 1
        return ""

    client = app.test_client()
    client.get("/")
    store.calls.clear()
    other = Watched()
    configure(session_store=other)
    client.get("/")
    assert (store.calls, other.calls != []) == ([], True)


def test_an_application_within_another_s_request_serves_its_own(app: Flask) -> None:
    @view(app)
    def inner() -> Any:
        sync.set_session_data({"of": "inner"})
        return sync.get_session_data()

    def outside(environ: Any, start: Any) -> list[bytes]:
        sync.set_session_data({"of": "outer"})
        body = [app.test_client().get("/").data, b" in ", repr(sync.get_session_data()).encode()]
        start("200 OK", [("Content-Type", "text/plain")])
        return body

    answer = Client(SessionMiddleware(outside)).get("/")
    assert answer.text == "{'of': 'inner'} in {'of': 'outer'}"


def test_the_functions_and_the_mapping_of_a_request_are_one_session(app: Flask, store: Watched) -> None:
    @view(app)
    def both() -> str:
        flask.session["mapping"] = 1
        assert sync.get_session_data() == {"mapping": 1}
        assert sync.set_session_data({"function": 2})
        assert flask.session["function"] == 2
        assert sync.pluck_session_property("function") == 2
        assert "function" not in flask.session
        return "one"

    client = app.test_client()
    response = client.get("/")
    assert (response.text, len(cookies(response))) == ("one", 1)
    assert store.calls.count("set") == 1
    with client.session_transaction() as session:
        assert dict(session) == {"mapping": 1}


@pytest.mark.parametrize("name", ["SESSION_COOKIE_NAME", None])
def test_every_form_of_the_carrier_is_the_same_request(app: Flask, name: str | None) -> None:
    if name:
        app.config[name] = "renamed"

    @view(app)
    def forms() -> flask.Response:
        response = flask.make_response("")
        sync.set_session_data({"a": 1})
        sync.set_session_data(flask.request, {"b": 2})
        sync.set_session_data(flask.request, response, {"c": 3})
        sync.update_session_data(flask.request.environ, lambda data: data.update(d=data["a"] + data["c"]))
        response.set_data(repr((sync.get_session_data(), flask.session == sync.get_session_data(flask.request))))
        return response

    response = app.test_client().get("/")
    assert response.text == "({'a': 1, 'b': 2, 'c': 3, 'd': 4}, True)"
    (header,) = cookies(response)
    assert header.startswith("renamed=" if name else "session=")


def test_the_methods_of_sessions_of_one_s_own_serve_it_too(store: Watched) -> None:
    sessions = Sessions(session_store=store)
    app = Flask("shop")
    app.config["SESSION_COOKIE_NAME"] = "renamed"
    ServerSession(app, sessions)

    @view(app)
    def both() -> Any:
        sessions.sync.set_session_data({"a": 1})
        return dict(flask.session)

    response = app.test_client().get("/")
    assert response.text == "{'a': 1}"
    (header,) = cookies(response)
    assert header.startswith("renamed=")


def test_a_token_given_by_one_request_is_valid_in_the_next(app: Flask) -> None:
    view(app, "/form")(sync.get_csrf_token)
    view(app, "/post")(lambda: sync.validate_csrf_token(flask.request.form.get("token")))
    client = app.test_client()
    token = client.get("/form").text
    own = {"Sec-Fetch-Site": "same-origin"}
    assert client.post("/post", data={"token": token}, headers=own).text == "True"
    assert client.post("/post", headers=own).text == "False"
    assert app.test_client().post("/post", data={"token": token}, headers=own).text == "False"


@pytest.mark.parametrize("kind", ["memory", "file"])
def test_async_views_await_the_functions_and_use_the_mapping(kind: str, tmp_path: Path) -> None:
    configure(session_store=MemorySessionStore() if kind == "memory" else FileSessionStore(tmp_path))
    app = Flask("shop")
    app.testing = True
    ServerSession(app)

    @view(app, "/put")
    async def put() -> str:
        await server_session.set_session_data({"a": 1})
        await asyncio.sleep(0)
        flask.session["b"] = 2
        await server_session.set_session_data(flask.request, {"c": 3})
        assert await server_session.get_session_data() == {"a": 1, "b": 2, "c": 3}
        return ""

    @view(app, "/read")
    async def read() -> Any:
        return dict(flask.session) == await server_session.get_session_data()

    @view(app, "/sync")
    def blocking() -> Any:
        return sorted(sync.get_session_data().items())

    client = app.test_client()
    assert len(cookies(client.get("/put"))) == 1
    assert client.get("/read").text == "True"
    assert client.get("/sync").text == "[('a', 1), ('b', 2), ('c', 3)]"


def test_over_a_client_that_awaits_async_views_have_the_functions_and_the_mapping_says_why_not() -> None:
    class Awaiting(Watched):
        async def get(self, *arguments: Any, **keywords: Any) -> Any:
            await asyncio.sleep(0)
            return await super().get(*arguments, **keywords)

        async def set(self, *arguments: Any, **keywords: Any) -> Outcome:
            await asyncio.sleep(0)
            return await super().set(*arguments, **keywords)

    awaiting = Awaiting()
    awaiting.colour = Colour.AWAITS
    configure(session_store=awaiting)
    app = Flask("shop")
    app.testing = True
    ServerSession(app)

    @view(app, "/put")
    async def put() -> str:
        await server_session.set_session_data({"a": 1})
        return ""

    @view(app, "/read")
    async def read() -> Any:
        return await server_session.get_session_data()

    view(app, "/mapping")(lambda: flask.session["a"])
    client = app.test_client()
    client.get("/put")
    assert client.get("/read").text == "{'a': 1}"
    with pytest.raises(ColourError, match="blocking client"):
        client.get("/mapping")


# --- whose request it is


def test_no_request_is_served_before_and_after(app: Flask) -> None:
    view(app)(sync.get_session_data)
    with pytest.raises(CarrierError):
        sync.get_session_data()
    app.test_client().get("/")
    assert current.get() is None


def test_after_an_error_no_request_is_served(app: Flask) -> None:
    view(app)(lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        app.test_client().get("/")
    assert current.get() is None


def test_an_environ_that_is_opened_again_shows_the_session_as_it_is_then(app: Flask) -> None:
    # As Flask-SocketIO does it: each event opens the handshake's environ anew.
    view(app, "/in")(lambda: str(sync.log_in("ann", {"user": "ann"})))
    view(app, "/out")(lambda: str(sync.destroy_session()))
    client = app.test_client()
    client.get("/in")
    cookie = client.get_cookie("session")
    assert cookie is not None
    environ = create_environ(headers={"Cookie": f"session={cookie.value}"})
    seen = []
    for step in (None, None, "/out"):
        with app.request_context(environ):
            assert flask.session.is_alive() is (step is None or len(seen) < 2)  # type: ignore[attr-defined]
            seen.append((dict(flask.session), sync.get_session_data()))
        if len(seen) == 2:
            client.get("/out")
    mine = {"user": "ann"}
    assert seen == [(mine, mine), (mine, mine), ({}, {})]


def test_what_a_context_of_an_environ_has_not_saved_the_next_one_does_not_see(app: Flask, caplog: Any) -> None:
    environ = create_environ()
    with app.request_context(environ):
        flask.session["a"] = 1
    assert "not stored" in caplog.text
    with app.request_context(environ):
        assert dict(flask.session) == {}


def test_a_request_context_within_another_has_a_session_of_its_own(app: Flask) -> None:
    @view(app)
    def outer() -> Any:
        sync.set_session_data({"whose": "outer"})
        with app.test_request_context("/inner"):
            assert sync.get_session_data() == dict(flask.session) == {}
            flask.session["whose"] = "inner"
            sync.set_session_data({"is": "inner"})
        return sync.get_session_data()

    assert app.test_client().get("/").text == "{'whose': 'outer'}"


def test_an_application_that_is_called_within_a_view_has_a_session_of_its_own(app: Flask) -> None:
    def inner(_: Any, start_response: Any) -> list[bytes]:
        start_response("200 OK", [])
        sync.set_session_data({"whose": "inner"})
        return [repr(sync.get_session_data()).encode()]

    @view(app)
    def outer() -> Any:
        sync.set_session_data({"whose": "outer"})
        return Client(SessionMiddleware(inner)).get("/").text, sync.get_session_data()

    assert app.test_client().get("/").text == repr(("{'whose': 'inner'}", {"whose": "outer"}))
    assert Client(SessionMiddleware(app)).get("/").text == repr(("{'whose': 'inner'}", {"whose": "outer"}))


def test_a_thread_with_a_copy_of_the_request_s_context_knows_the_request(app: Flask) -> None:
    @view(app)
    def read() -> Any:
        sync.set_session_data({"a": 1})
        seen: list[dict[str, Any]] = []
        work = flask.copy_current_request_context(lambda: seen.append(sync.get_session_data()))
        thread = threading.Thread(target=work)
        thread.start()
        thread.join(PATIENCE)
        return seen, sync.get_session_data()

    assert app.test_client().get("/").text == "([{'a': 1}], {'a': 1})"


@pytest.mark.parametrize("apart", [True, False])
def test_a_copy_of_the_request_s_context_that_ends_does_not_end_the_request(
    app: Flask, apart: bool, caplog: pytest.LogCaptureFixture
) -> None:
    @view(app)
    def put() -> str:
        work = flask.copy_current_request_context(lambda: dict(flask.session))
        if apart:
            thread = threading.Thread(target=work)
            thread.start()
            thread.join(PATIENCE)
        else:
            work()
        sync.set_session_data({"a": 1})
        flask.session["b"] = 2
        return ""

    client = app.test_client()
    client.get("/")
    with client.session_transaction() as session:
        assert dict(session) == {"a": 1, "b": 2}
    assert "not stored" not in caplog.text


@pytest.mark.parametrize("enter", [sync.renew_session, lambda: flask.session.update(user="ann")])
def test_a_503_bears_the_cookie_that_a_renewal_which_nobody_answered_has_swapped(enter: Callable[[], Any]) -> None:
    store = Unanswered()
    app = Flask("shop")
    ServerSession(app, configure(session_store=store))
    view(app, "/enter")(enter)
    client = app.test_client()
    with client.session_transaction() as session:
        session["a"] = 1
    store.unanswered = {"merge"}
    assert client.get("/enter").status_code == 503
    with client.session_transaction() as session:
        assert session["a"] == 1


def test_a_request_that_no_sessions_serve_is_none_that_the_functions_find() -> None:
    app = Flask("other")
    app.testing = True
    view(app)(sync.get_session_data)
    with pytest.raises(CarrierError, match="no request is being served"):
        app.test_client().get("/")


def test_a_session_transaction_of_the_test_client_is_seen_by_the_views(app: Flask) -> None:
    view(app)(sync.get_session_data)
    client = app.test_client()
    with client.session_transaction() as session:
        session["a"] = 1
    with client.session_transaction() as session:
        assert session["a"] == 1
        session["b"] = [2]
    assert client.get("/").text == "{'a': 1, 'b': [2]}"
    assert current.get() is None


def test_a_client_that_preserves_its_context_shows_the_session_of_the_last_request(app: Flask) -> None:
    @view(app)
    def put() -> str:
        flask.session["a"] = 1
        return ""

    with app.test_client() as client:
        client.get("/")
        assert flask.session["a"] == 1
        assert sync.get_session_data(flask.request) == {"a": 1}
    assert current.get() is None


def test_teardown_functions_still_know_the_request(app: Flask) -> None:
    seen = []

    @app.teardown_request
    def note(_: object) -> None:
        seen.append(sync.get_session_data())

    @view(app)
    def put() -> str:
        sync.set_session_data({"a": 1})
        return ""

    app.test_client().get("/")
    assert seen == [{"a": 1}]


# --- when it is stored


def test_before_and_after_request_functions_write_too(app: Flask) -> None:
    @app.before_request
    def before() -> None:
        flask.session["before"] = 1

    @app.after_request
    def after(response: flask.Response) -> flask.Response:
        flask.session["after"] = 2
        return response

    view(app)(lambda: "")
    client = app.test_client()
    assert len(cookies(client.get("/"))) == 1
    with client.session_transaction() as session:
        assert dict(session) == {"before": 1, "after": 2}


@pytest.mark.parametrize("path, status", [("/gone", 404), ("/boom", 500), ("/teapot", 418)])
def test_it_is_stored_whatever_the_status_as_flask_does(app: Flask, path: str, status: int) -> None:
    app.testing = False

    @app.before_request
    def write() -> None:
        flask.session["path"] = flask.request.path

    view(app, "/boom")(lambda: 1 / 0)
    view(app, "/teapot")(lambda: flask.abort(418))
    client = app.test_client()
    assert client.get(path).status_code == status
    with client.session_transaction() as session:
        assert session["path"] == path


def test_the_page_for_an_error_that_came_after_the_first_answer_has_a_session_s_cookie(app: Flask) -> None:
    app.testing = False

    def fail(_app: Flask, **_: object) -> None:
        raise ValueError

    @app.errorhandler(500)
    def page(_error: Exception) -> tuple[str, int]:
        flask.session["failed"] = True
        return "sorry", 500

    view(app)(lambda: "")
    client = app.test_client()
    with flask.request_finished.connected_to(fail, app):
        answered = client.get("/")
    assert (answered.text, len(cookies(answered))) == ("sorry", 1)
    with client.session_transaction() as session:
        assert session["failed"]


def test_where_a_session_of_another_kind_is_opened_no_write_is_lost_in_silence(app: Flask, store: Watched) -> None:
    app.session_interface = flask.sessions.SecureCookieSessionInterface()
    view(app)(lambda: sync.set_session_data({"a": 1}))
    with pytest.raises(CarrierError):
        app.test_client().get("/")
    assert store.calls == []


def test_an_error_that_reaches_the_server_saves_nothing(app: Flask, store: Watched) -> None:
    @view(app)
    def put() -> str:
        flask.session["a"] = 1
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        app.test_client().get("/")
    assert store.calls == []


def test_what_a_stream_changes_is_stored_at_its_end(app: Flask) -> None:
    @view(app)
    def stream() -> flask.Response:
        flask.session["chunks"] = 0

        def chunks() -> Iterator[str]:
            for number in range(3):
                flask.session["chunks"] += 1
                sync.set_session_data({"function": number})
                yield str(flask.session["chunks"])

        return flask.Response(stream_with_context(chunks()))

    client = app.test_client()
    assert client.get("/").text == "123"
    with client.session_transaction() as session:
        assert dict(session) == {"chunks": 3, "function": 2}
    assert current.get() is None


def test_what_a_stream_changed_before_the_client_hung_up_is_stored(app: Flask) -> None:
    closed = []

    @view(app)
    def stream() -> flask.Response:
        flask.session["chunks"] = 0

        def chunks() -> Iterator[str]:
            try:
                for _ in range(100):
                    flask.session["chunks"] += 1
                    yield "x"
            finally:
                closed.append(flask.session["chunks"])

        return flask.Response(stream_with_context(chunks()))

    client = app.test_client()
    response = client.get("/", buffered=False)
    assert next(response.iter_encoded()) == b"x"
    response.close()
    with client.session_transaction() as session:
        assert [session["chunks"]] == closed


def test_a_stream_that_needs_a_new_cookie_comes_too_late(app: Flask, store: Watched) -> None:
    @view(app)
    def stream() -> flask.Response:
        def chunks() -> Iterator[str]:
            yield "x"
            sync.set_session_data({"a": 1})

        return flask.Response(stream_with_context(chunks()))

    with pytest.raises(ResponseStartedError):
        app.test_client().get("/", buffered=True)
    assert store.calls == []


def test_a_file_is_sent_as_it_is(app: Flask, tmp_path: Path) -> None:
    (tmp_path / "file.txt").write_text("content")

    @view(app)
    def send() -> flask.Response:
        flask.session["a"] = 1
        response = flask.send_file(tmp_path / "file.txt")
        assert response.direct_passthrough
        return response

    class Wrapper(FileWrapper):
        """The server's own, by which it sends a file without reading it."""

    environ = create_environ()
    environ["wsgi.file_wrapper"] = Wrapper
    heads: list[Headers] = []
    body = app(environ, lambda _, headers: heads.append(Headers(headers)))
    assert type(body) is Wrapper
    assert b"".join(body) == b"content"
    body.close()
    assert heads[0]["Set-Cookie"].startswith("session=")


def test_head_of_a_stream_stores_and_closes_it(app: Flask) -> None:
    @view(app)
    def stream() -> flask.Response:
        flask.session["a"] = 1
        return flask.Response(stream_with_context(str(number) for number in range(3)))

    client = app.test_client()
    assert client.head("/").text == ""
    with client.session_transaction() as session:
        assert session["a"] == 1


# --- what cannot be stored


def test_a_value_that_cannot_be_stored_is_an_error_and_nothing_is_written(app: Flask, store: Watched) -> None:
    @view(app)
    def put() -> str:
        flask.session["good"] = 1
        flask.session["bad"] = object()
        return ""

    with pytest.raises(SerializationError, match="'bad'"):
        app.test_client().get("/")
    app.testing = False
    response = app.test_client().get("/")
    assert (response.status_code, response.headers["Vary"]) == (500, "Cookie")
    assert (cookies(response), store.calls) == ([], [])


@pytest.mark.parametrize("testing", [True, False])
@pytest.mark.parametrize("fails", ["get", "set"])
def test_a_store_that_is_down_is_a_503(
    app: Flask, store: Watched, fails: str, testing: bool, caplog: pytest.LogCaptureFixture
) -> None:
    app.testing = testing

    @view(app)
    def put() -> flask.Response:
        flask.session["a"] = flask.session.get("a", 0) + 1
        response = flask.make_response("it was stored")
        response.headers["X-Own"] = "own"
        return response

    client = app.test_client()
    if fails == "get":
        client.get("/")
    store.fails = [fails]
    response = client.get("/")
    assert response.status == "503 SERVICE UNAVAILABLE"
    assert response.headers["Content-Type"] == "text/html; charset=utf-8"
    assert response.headers["Cache-Control"] == "private, no-store"
    assert "X-Own" not in response.headers
    assert cookies(response) == []
    assert "try again later" in response.text.lower()
    assert "stored" not in response.text
    assert "the store is down" in caplog.text
    store.fails = ()
    assert client.get("/").text == "it was stored"


def test_the_application_s_own_page_for_503_is_shown(app: Flask, store: Watched) -> None:
    app.register_error_handler(503, lambda _: ("own page", 503))
    view(app)(lambda: sync.set_session_data({"a": 1}))
    store.fails = ["set"]
    response = app.test_client().get("/")
    assert (response.status_code, response.text) == (503, "own page")


def test_a_503_is_made_whatever_an_extension_put_around_the_application_s_methods(app: Flask, store: Watched) -> None:
    def around(method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            return method(*args, **kwargs)

        return call

    for name in ("handle_user_exception", "handle_http_exception"):
        setattr(app, name, around(getattr(app, name)))
    view(app)(lambda: sync.set_session_data({"a": 1}))
    store.fails = ["set"]
    assert app.test_client().get("/").status_code == 503


def test_a_stream_that_becomes_a_503_is_closed(app: Flask, store: Watched) -> None:
    closed = []

    class Body:
        def __iter__(self) -> Iterator[bytes]:
            yield b"never sent"

        def close(self) -> None:
            closed.append(True)

    @view(app)
    def stream() -> flask.Response:
        flask.session["a"] = 1
        return flask.Response(Body())

    store.fails = ["set"]
    response = app.test_client().get("/", buffered=True)
    assert response.status_code == 503
    assert b"never sent" not in response.data
    assert closed == [True]


def test_a_response_whose_parts_are_at_hand_keeps_its_length_and_varies_on_nothing(app: Flask) -> None:
    view(app, "/untouched")(lambda: flask.Response(["a", "b"]))

    @view(app, "/put")
    def put() -> flask.Response:
        flask.session["a"] = 1
        return flask.Response(["a", "b"])

    client = app.test_client()
    for path, varies in (("/untouched", None), ("/put", "Cookie")):
        environ = create_environ(path)
        heads: list[Headers] = []
        app(environ, lambda _, headers, heads=heads: heads.append(Headers(headers)))
        assert (heads[0]["Content-Length"], heads[0].get("Vary")) == ("2", varies)
    assert client.get("/put").text == "ab"


def test_a_stream_that_answers_several_requests_is_left_as_it_is(app: Flask) -> None:
    class Body:
        def __iter__(self) -> Iterator[bytes]:
            yield b"body"

    shared = flask.Response(Body())
    view(app)(lambda: shared)
    for _ in range(2):
        assert app.test_client().get("/").text == "body"
    assert type(shared.response) is Body


def test_a_file_that_becomes_a_503_is_closed(app: Flask, store: Watched) -> None:
    with io.BytesIO(b"never sent") as file:

        @view(app)
        def send() -> flask.Response:
            flask.session["a"] = 1
            return flask.send_file(file, "text/plain")

        store.fails = ["set"]
        response = app.test_client().get("/", buffered=True)
        assert response.status_code == 503
        assert b"never sent" not in response.data
        assert file.closed


def test_a_session_that_ended_meanwhile_takes_no_write_and_founds_no_other(app: Flask) -> None:
    client = app.test_client()
    other = app.test_client()

    @view(app, "/put")
    def put() -> str:
        flask.session["a"] = 1
        return ""

    @view(app, "/slow")
    def slow() -> str:
        flask.session["a"] += 1
        # The same visitor logs out in another tab, while this one is under way.
        thread = threading.Thread(target=other.get, args=("/out",))
        thread.start()
        thread.join(PATIENCE)
        return ""

    @view(app, "/out")
    def out() -> str:
        flask.session.clear()
        return ""

    client.get("/put")
    other.set_cookie("session", str(cookie(client)))
    response = client.get("/slow")
    assert cookies(response) == []
    with client.session_transaction() as session:
        assert dict(session) == {}


# --- Flask-Login


def test_flask_login_works_and_its_log_in_renews_the_cookie(app: Flask) -> None:
    flask_login = pytest.importorskip("flask_login")

    class User(flask_login.UserMixin):
        id = "ada"

    # Its remember-me cookie is signed.
    app.secret_key = "of Flask-Login"
    manager = flask_login.LoginManager(app)
    manager.session_protection = "strong"
    manager.user_loader(lambda user_id: User() if user_id == "ada" else None)

    @view(app, "/cart")
    def cart() -> str:
        flask.session["cart"] = 1
        return ""

    @view(app, "/in")
    def log_in() -> Any:
        return flask_login.login_user(User())

    @view(app, "/out")
    def log_out() -> Any:
        return flask_login.logout_user()

    @view(app, "/me")
    def me() -> Any:
        return flask_login.current_user.get_id(), flask.session.get("cart")

    client = app.test_client()
    client.get("/cart")
    before = cookie(client)
    assert client.get("/me").text == "(None, 1)"
    assert client.get("/in").text == "True"
    assert cookie(client) != before
    assert client.get("/me").text == "('ada', 1)"
    with app.test_client() as thief:
        thief.set_cookie("session", str(before))
        assert thief.get("/me").text == "(None, None)"
    client.get("/out")
    assert client.get("/me").text == "(None, 1)"

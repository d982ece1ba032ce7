"""Django: its session contract, its log-in, messages and admin, the functions in both kinds of views, its servers."""

import asyncio
import http.client
import json
import re
import socketserver
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from copy import copy
from datetime import timedelta
from pathlib import Path
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import pytest
from django.conf import settings
from django.core.management import call_command
from django.http import FileResponse, HttpResponse
from django.test import AsyncClient, Client, RequestFactory, override_settings

import server_session
from server_session import (
    Colour,
    CookieHandler,
    CookieTransport,
    EncryptedCodec,
    FileSessionStore,
    MemorySessionStore,
    Outcome,
    _sessions,
    sync,
)
from server_session._colour import drive
from server_session._record import Life
from server_session.exceptions import (
    ColourError,
    ConfigurationError,
    NoResponseError,
    ResponseStartedError,
    SerializationError,
    StoreError,
)
from server_session.testing import YieldingStore
from tests.django_site.project import set_up
from tests.patience import PATIENCE
from tests.visitors import Clock, Unanswered, Watched

PASSWORD = "correct horse"
CREDENTIAL = re.compile(r"[A-Za-z0-9_-]{64}")


@pytest.fixture(scope="module", autouse=True)
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    set_up(tmp_path_factory.mktemp("django"))
    call_command("migrate", verbosity=0)
    from django.contrib.auth.models import User

    User.objects.create_superuser("ada", "ada@shop.example", PASSWORD)
    yield
    from django.db import connections

    connections.close_all()


@pytest.fixture(autouse=True)
def fresh(project: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The default that another test configured is nothing to this project, and each test has sessions of its own."""
    monkeypatch.setattr(_sessions, "_configured", None)
    with override_settings(SERVER_SESSION={"session_store": MemorySessionStore()}):
        yield


def make_store(kind: str, folder: Path, clock: Callable[[], float] | None = None) -> Any:
    keywords = {} if clock is None else {"clock": clock}
    return {
        "memory": lambda: MemorySessionStore(**keywords),
        "file": lambda: FileSessionStore(folder, **keywords),
        "awaiting": lambda: YieldingStore(MemorySessionStore(**keywords)),
    }[kind]()


@pytest.fixture(params=["memory", "file"])
def any_store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Any]:
    store = make_store(request.param, tmp_path)
    with override_settings(SERVER_SESSION={"session_store": store}):
        yield store


@pytest.fixture(params=["memory", "file", "awaiting"])
def any_async_store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Any]:
    store = make_store(request.param, tmp_path)
    with override_settings(SERVER_SESSION={"session_store": store}):
        yield store


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[..., Any]], None]:
    """Say what the view `call` or `acall` is to do."""
    from tests.django_site import views

    return lambda body: monkeypatch.setattr(views, "script", body)


def engine(key: str | None = None) -> Any:
    from server_session.django import SessionStore

    return SessionStore(key)


def cookie_of(client: Client) -> str:
    return client.cookies[settings.SESSION_COOKIE_NAME].value


def set_cookie(response: Any) -> str | None:
    morsel = response.cookies.get(settings.SESSION_COOKIE_NAME)
    return None if morsel is None else morsel.OutputString()


def data_of(client: Client) -> dict[str, Any]:
    data: dict[str, Any] = client.get("/data").json()
    return data


def copy_of(client: Client) -> Client:
    """Another request of the same browser, still under way."""
    other = Client(raise_request_exception=client.raise_request_exception)
    other.cookies.load({settings.SESSION_COOKIE_NAME: cookie_of(client)})
    return other


def log_in(client: Client, password: str = PASSWORD) -> Any:
    return client.post("/log-in", {"username": "ada", "password": password})


# --- request.session


def test_what_a_view_sets_the_next_request_reads(any_store: Any) -> None:
    client = Client()
    assert client.get("/set/color/green").content == b"set"
    assert CREDENTIAL.fullmatch(cookie_of(client))
    assert data_of(client) == {"color": "green"}


async def test_what_an_async_view_sets_the_next_request_reads(any_async_store: Any) -> None:
    client = AsyncClient()
    await client.get("/aset/color/green")
    assert (await client.get("/adata")).json() == {"color": "green"}


async def test_sync_views_and_async_ones_share_a_session_under_asgi(any_async_store: Any) -> None:
    client = AsyncClient()
    await client.get("/set/a/1")
    await client.get("/aset/b/2")
    assert (await client.get("/data")).json() == {"a": "1", "b": "2"}


def test_a_visitor_who_writes_nothing_costs_no_call_no_cookie_and_no_vary() -> None:
    with failing_store():
        response = Client().get("/nothing")
        assert response.status_code == 200
        assert not response.cookies
        assert "Vary" not in response.headers


def test_a_response_that_read_the_session_varies_on_the_cookie() -> None:
    response = Client().get("/data")
    assert "Cookie" in response.headers["Vary"]
    assert not response.cookies


def test_a_response_that_would_have_ended_a_session_varies_on_the_cookie(script: Any) -> None:
    script(lambda request: request.session.flush())
    assert "Cookie" in Client().get("/call").headers["Vary"]


def test_a_session_that_another_put_in_its_place_is_left_alone(script: Any) -> None:
    script(lambda request: setattr(request, "session", {"own": 1}) or request.session)

    async def view(request: Any) -> Any:
        request.session = {"own": 1}
        return request.session

    assert Client().get("/call").json() == {"own": 1}
    script(view)
    assert asyncio.run(AsyncClient().get("/acall")).json() == {"own": 1}


@pytest.mark.parametrize("is_new", [True, False])
def test_a_session_made_by_the_requests_own_key_is_the_requests(is_new: bool, script: Any) -> None:
    def view(request: Any) -> None:
        # As django-allauth does it around its log-in by another site.
        request.session["a"] = 1
        request.session.save()
        request.session = type(request.session)(request.session.session_key)
        request.session["b"] = 2
        request.session.cycle_key()

    client = Client()
    if not is_new:
        client.get("/set/c/3")
    script(view)
    client.get("/call")
    assert data_of(client) == {"a": 1, "b": 2} | ({} if is_new else {"c": "3"})


@pytest.mark.parametrize("was_there", [True, False])
def test_the_browser_goes_on_with_a_new_session_that_a_view_put_in_its_place(
    was_there: bool, any_store: Any, script: Any
) -> None:
    def view(request: Any) -> None:
        request.session = type(request.session)()
        request.session["a"] = 1

    client = Client()
    if was_there:
        client.get("/set/old/1")
    script(view)
    client.get("/call")
    assert data_of(client) == {"a": 1}


async def test_the_browser_goes_on_with_a_new_session_that_an_async_view_logged_in_to(
    any_async_store: Any, script: Any
) -> None:
    from django.contrib.auth import alogin
    from django.contrib.auth.models import User

    async def view(request: Any) -> None:
        request.session = engine()
        await alogin(request, ada)

    ada = await User.objects.aget(username="ada")
    client = AsyncClient()
    await client.get("/aset/old/1")
    script(view)
    await client.get("/acall")
    assert (await client.get("/who")).content == b"ada"
    assert "old" not in (await client.get("/adata")).json()


def test_the_browser_goes_on_with_the_session_of_the_key_that_a_view_chose(script: Any) -> None:
    other = engine()
    other["whose"] = "another's"
    other.save()

    def view(request: Any) -> None:
        request.session = engine(other.session_key)
        request.session["b"] = 2

    script(view)
    client = Client()
    client.get("/call")
    assert cookie_of(client) == other.session_key
    assert data_of(client) == {"whose": "another's", "b": 2}


def test_the_browser_goes_on_without_a_session_where_a_view_put_an_empty_one(script: Any) -> None:
    script(lambda request: setattr(request, "session", engine()))
    assert set_cookie(Client().get("/call")) is None
    client = Client()
    client.get("/set/a/1")
    client.get("/call")
    assert not cookie_of(client)


@pytest.mark.parametrize("is_saved", [True, False])
def test_a_session_put_in_its_place_is_refused_where_another_sites_request_withheld_the_cookie(
    is_saved: bool, script: Any, caplog: pytest.LogCaptureFixture
) -> None:
    def view(request: Any) -> None:
        request.session = engine()
        request.session["a"] = 1
        if is_saved:
            request.session.save()

    script(view)
    response = Client(headers={"Sec-Fetch-Site": "cross-site"}).post("/call")
    assert response.status_code == 403
    assert response.headers["CSRF-Rejection"] == "cookie_withheld"
    assert set_cookie(response) is None
    assert "withheld the session's cookie" in caplog.text


def test_an_empty_session_put_in_its_place_changes_nothing_where_the_cookie_was_withheld(script: Any) -> None:
    script(lambda request: setattr(request, "session", engine()))
    response = Client(headers={"Sec-Fetch-Site": "cross-site"}).post("/call")
    assert response.status_code == 200
    assert set_cookie(response) is None


def test_a_session_put_in_its_place_is_given_to_no_browser_with_a_response_of_500(script: Any) -> None:
    def view(request: Any) -> HttpResponse:
        request.session = engine()
        return HttpResponse(status=500)

    client = Client()
    client.get("/set/a/1")
    script(view)
    assert set_cookie(client.get("/call")) is None
    assert data_of(client) == {"a": "1"}


def test_a_response_that_sets_the_cookie_is_kept_by_no_cache() -> None:
    response = Client().get("/set/a/1")
    assert response.headers["Cache-Control"] == "private, no-store"
    assert "Cookie" in response.headers["Vary"]


def test_a_response_that_the_project_keeps_is_another_for_who_gets_a_cookie() -> None:
    from server_session.django import SessionMiddleware

    kept = HttpResponse("kept", headers={"X-Kept": "yes"})
    kept.set_cookie("other", "kept", path="/shop")

    def view(request: Any) -> HttpResponse:
        if request.path == "/write":
            request.session["a"] = 1
        return kept

    serve = SessionMiddleware(view)
    written = serve(RequestFactory().get("/write"))
    assert (written.content, written["X-Kept"], set(written.cookies)) == (b"kept", "yes", {"other", "sessionid"})
    assert written.cookies["other"]["path"] == "/shop"
    assert set(serve(RequestFactory().get("/read")).cookies) == {"other"}


def test_no_cookie_is_deleted_for_a_session_that_is_not_found() -> None:
    client = Client()
    client.cookies[settings.SESSION_COOKIE_NAME] = "x" * 64
    response = client.get("/data")
    assert response.json() == {}
    assert not response.cookies


def test_a_key_from_outside_is_not_adopted() -> None:
    client = Client()
    client.cookies[settings.SESSION_COOKIE_NAME] = "x" * 64
    client.get("/set/a/1")
    assert not cookie_of(client).startswith("x" * 24)
    assert data_of(client) == {"a": "1"}


def test_a_change_inside_a_value_is_stored_without_saying_so(script: Any) -> None:
    client = Client()
    script(lambda request: request.session.setdefault("cart", ["apple"]))
    client.get("/call")
    script(lambda request: request.session["cart"].append("pear"))
    client.get("/call")
    assert data_of(client) == {"cart": ["apple", "pear"]}


def test_a_value_that_would_not_come_out_as_it_went_in_is_refused_by_its_key(script: Any) -> None:
    script(lambda request: request.session.__setitem__("when", {"far": object()}))
    with pytest.raises(SerializationError, match="'when'"):
        Client().get("/call")


def test_types_come_out_as_they_went_in(script: Any) -> None:
    value = {"pair": (1, 2), "span": timedelta(seconds=3), "raw": b"\x00"}
    client = Client()
    script(lambda request: request.session.__setitem__("value", value))
    client.get("/call")
    script(lambda request: request.session["value"] == value and type(request.session["value"]["pair"]) is tuple)
    assert client.get("/call").json() is True


def test_a_response_of_500_saves_nothing_and_one_of_404_does(script: Any) -> None:
    from django.http import HttpResponse

    def write(status: int) -> Callable[[Any], Any]:
        def view(request: Any) -> Any:
            request.session["status"] = status
            return HttpResponse(status=status)

        return view

    client = Client()
    script(write(500))
    assert set_cookie(client.get("/call")) is None
    script(write(404))
    client.get("/call")
    assert data_of(client) == {"status": 404}
    script(write(503))
    client.get("/call")
    assert data_of(client) == {"status": 404}


def test_a_cookie_that_a_function_changed_reaches_the_browser_even_with_a_500(script: Any) -> None:
    from django.http import HttpResponse

    def view(_: Any) -> Any:
        sync.log_in("ada", {"user": "ada"})
        return HttpResponse(status=500)

    client = Client()
    script(view)
    client.get("/call")
    assert data_of(client) == {"user": "ada"}


def test_a_modified_session_sends_the_cookie_again_with_its_age() -> None:
    client = Client()
    client.get("/set/a/1")
    again = set_cookie(client.get("/set/a/2"))
    assert again is not None
    assert "Max-Age=1209600" in again
    assert set_cookie(client.get("/data")) is None


def test_every_request_sends_the_cookie_again_if_the_project_says_so() -> None:
    with override_settings(SESSION_SAVE_EVERY_REQUEST=True):
        client = Client()
        assert set_cookie(client.get("/nothing")) is None
        client.get("/set/a/1")
        before = cookie_of(client)
        assert "Max-Age=1209600" in (set_cookie(client.get("/nothing")) or "")
        assert cookie_of(client) == before
        assert set_cookie(copy_with("x" * 64).get("/nothing")) is None


def test_a_slow_reader_sends_no_cookie_that_a_log_in_has_replaced_meanwhile(script: Any) -> None:
    with override_settings(SESSION_SAVE_EVERY_REQUEST=True):
        client = Client()
        client.get("/set/a/1")
        slow = copy_of(client)

        def view(request: Any) -> Any:
            before = dict(request.session.items())
            log_in(client)
            return before

        script(view)
        assert set_cookie(slow.get("/call")) is None
    assert client.get("/who").content == b"ada"


def test_clear_ends_the_session_and_what_is_written_after_it_founds_another(script: Any) -> None:
    client = Client()
    client.get("/set/a/1")
    before = cookie_of(client)

    def start_anew(request: Any) -> None:
        request.session.clear()
        request.session["b"] = 2

    script(start_anew)
    client.get("/call")
    assert data_of(client) == {"b": 2}
    assert cookie_of(client)[:24] != before[:24]
    script(lambda request: request.session.clear())
    assert "Max-Age=0" in (set_cookie(client.get("/call")) or "")
    assert data_of(client) == {}


def test_flush_drops_the_data_and_the_cookie_and_a_later_write_founds_another(script: Any) -> None:
    client = Client()
    client.get("/set/a/1")
    before = cookie_of(client)

    def view(request: Any) -> list[Any]:
        request.session.flush()
        empty = [request.session.session_key, dict(request.session.items())]
        request.session["bye"] = "see you"
        return empty

    script(view)
    assert client.get("/call").json() == [None, {}]
    assert data_of(client) == {"bye": "see you"}
    assert cookie_of(client)[:24] != before[:24]
    assert not engine(before).exists(before)


def test_cycle_key_changes_the_key_at_once_and_keeps_the_data(script: Any) -> None:
    client = Client()
    client.get("/set/a/1")
    before = cookie_of(client)

    def view(request: Any) -> str:
        request.session.cycle_key()
        return str(request.session.session_key)

    script(view)
    assert client.get("/call").json() == cookie_of(client) != before
    assert data_of(client) == {"a": "1"}
    assert not engine().exists(before)


# --- overlapping requests


@contextmanager
def threaded_server(application: Any) -> Iterator[int]:
    class Server(socketserver.ThreadingMixIn, WSGIServer):
        daemon_threads = True
        request_queue_size = 100

    class Quiet(WSGIRequestHandler):
        def log_message(self, *_: Any) -> None: ...

    server = make_server("127.0.0.1", 0, application, Server, Quiet)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        thread.join(PATIENCE)
        server.server_close()


def get(port: int, path: str, cookie: str | None = None) -> tuple[int, str, str | None]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    try:
        connection.request("GET", path, headers={} if cookie is None else {"Cookie": f"sessionid={cookie}"})
        response = connection.getresponse()
        body = response.read().decode()
        found = re.search(r"sessionid=([^;]*)", response.headers.get("Set-Cookie") or "")
        return response.status, body, found.group(1) if found else None
    finally:
        connection.close()


def overlap(port: int, path: str, parties: int, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Send that many requests of one session, each of which writes before any of them ends; return what is left."""
    from tests.django_site import views

    monkeypatch.setattr(views, "gate", threading.Barrier(parties))
    monkeypatch.setattr(views, "awaiting_gate", asyncio.Barrier(parties))
    _, _, cookie = get(port, "/set/first/1")
    with ThreadPoolExecutor(parties) as pool:
        answers = list(pool.map(lambda number: get(port, f"{path}/k{number}", cookie), range(parties)))
    assert {(status, body) for status, body, _ in answers} == {(200, "met")}
    data: dict[str, str] = json.loads(get(port, "/data", cookie)[1])
    return data


def test_fifty_overlapping_requests_through_wsgi_threads_lose_no_key(
    any_store: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from django.core.wsgi import get_wsgi_application

    with threaded_server(get_wsgi_application()) as port:
        data = overlap(port, "/meet", 50, monkeypatch)
    assert data.keys() == {"first", *(f"k{number}" for number in range(50))}


def test_fifty_overlapping_requests_through_asgi_lose_no_key(
    any_async_store: Any, serve: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from django.core.asgi import get_asgi_application

    served = serve(get_asgi_application(), lifespan="off")
    data = overlap(served.port, "/ameet", 50, monkeypatch)
    assert data.keys() == {"first", *(f"k{number}" for number in range(50))}


def test_two_overlapping_sync_views_under_asgi_lose_no_key(
    any_async_store: Any, serve: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from django.core.asgi import get_asgi_application

    served = serve(get_asgi_application(), lifespan="off")
    assert overlap(served.port, "/meet", 2, monkeypatch) == {"first": "1", "k0": "k0", "k1": "k1"}


def test_a_write_that_overlaps_a_log_out_is_dropped_and_answered_as_usual(
    any_store: Any, script: Any, caplog: pytest.LogCaptureFixture
) -> None:
    client = Client()
    log_in(client)
    slow = copy_of(client)

    def view(request: Any) -> str:
        request.session["late"] = True
        client.post("/log-out")
        return "answered"

    script(view)
    response = slow.get("/call")
    assert response.status_code == 200
    assert response.json() == "answered"
    assert set_cookie(response) is None
    assert "a write was dropped" in caplog.text
    assert data_of(client) == {}


def test_a_write_that_overlaps_a_log_in_keeps_the_new_cookie_in_the_browser(any_store: Any, script: Any) -> None:
    client = Client()
    client.get("/set/a/1")
    slow = copy_of(client)

    def view(request: Any) -> None:
        request.session["late"] = True
        log_in(client)

    script(view)
    response = slow.get("/call")
    assert response.status_code == 200
    assert set_cookie(response) is None
    assert client.get("/who").content == b"ada"


def test_a_write_that_begins_after_the_log_in_with_the_cookie_of_before_is_dropped_too() -> None:
    client = Client()
    client.get("/set/a/1")
    late = copy_of(client)
    log_in(client)
    assert set_cookie(late.get("/set/late/1")) is None
    assert "late" not in data_of(client)


def test_a_browser_that_lost_the_answer_of_its_log_in_logs_in_again_with_the_old_cookie() -> None:
    client = Client()
    client.get("/set/a/1")
    lost = copy_of(client)
    log_in(lost)
    log_in(client)
    assert client.get("/who").content == b"ada"


# --- Django's own


def test_the_log_in_changes_the_key_and_keeps_the_data(any_store: Any) -> None:
    client = Client()
    client.get("/set/a/1")
    before = cookie_of(client)
    assert log_in(client).status_code == 302
    assert cookie_of(client) != before
    assert client.get("/who").content == b"ada"
    assert data_of(client)["a"] == "1"
    assert data_of(copy_with(before)) == {}


def copy_with(cookie: str) -> Client:
    client = Client()
    client.cookies[settings.SESSION_COOKIE_NAME] = cookie
    return client


def test_the_log_out_ends_the_session_everywhere(any_store: Any) -> None:
    client = Client()
    log_in(client)
    stolen = copy_of(client)
    client.post("/log-out")
    assert client.get("/who").content == b"AnonymousUser"
    assert stolen.get("/who").content == b"AnonymousUser"


def test_who_changes_his_password_stays_logged_in_and_his_other_sessions_do_not() -> None:
    from django.contrib.auth.models import User

    User.objects.create_user("eve", password=PASSWORD)
    here, there = Client(), Client()
    for client in (here, there):
        client.post("/log-in", {"username": "eve", "password": PASSWORD})
    before = cookie_of(here)
    form = {"old_password": PASSWORD, "new_password1": "battery staple 9", "new_password2": "battery staple 9"}
    assert here.post("/password", form).status_code == 302
    assert cookie_of(here) != before
    assert here.get("/who").content == b"eve"
    response = there.get("/who")
    assert response.content == b"AnonymousUser"
    assert "Max-Age=0" in (set_cookie(response) or "")


def test_messages_are_shown_once() -> None:
    for storage in ("session.SessionStorage", "fallback.FallbackStorage"):
        with override_settings(MESSAGE_STORAGE=f"django.contrib.messages.storage.{storage}"):
            client = Client()
            assert client.get("/message/one").json() == []
            assert client.get("/message/two").json() == ["one"]
            assert client.get("/message/" + 200 * "three").json() == ["two"]
            # Longer than the cookie that the fallback tries first.
            for _ in range(4):
                client.get("/message/" + 200 * "three")
            assert client.get("/message/last").json() == [200 * "three"]


def test_the_csrf_token_of_django_can_live_in_the_session() -> None:
    with override_settings(CSRF_USE_SESSIONS=True):
        client = Client(enforce_csrf_checks=True)
        form = client.get("/log-in").content.decode()
        found = re.search(r'name="csrfmiddlewaretoken" value="([^"]+)"', form)
        assert found
        body = {"username": "ada", "password": PASSWORD}
        assert client.post("/log-in", body).status_code == 403
        assert client.post("/log-in", {**body, "csrfmiddlewaretoken": found.group(1)}).status_code == 302
        assert client.get("/who").content == b"ada"


def test_the_admin_logs_in_and_changes_a_record(any_store: Any) -> None:
    from django.contrib.auth.models import Group

    group = Group.objects.create(name="before")
    client = Client()
    page = f"/admin/auth/group/{group.pk}/change/"
    assert client.get(page).status_code == 302
    assert client.post("/admin/login/", {"username": "ada", "password": PASSWORD, "next": page}).status_code == 302
    response = client.post(page, {"name": "after"}, follow=True)
    assert "was changed successfully" in response.content.decode()
    group.refresh_from_db()
    assert group.name == "after"
    group.delete()


def test_the_test_clients_own_log_in_works(any_store: Any) -> None:
    from django.contrib.auth.models import User

    client = Client()
    client.force_login(User.objects.get(username="ada"))
    assert client.get("/who").content == b"ada"
    session = client.session
    session["planted"] = 1
    session.save()
    assert data_of(client)["planted"] == 1
    client.logout()
    assert client.get("/who").content == b"AnonymousUser"
    assert Client().session.session_key


def test_the_async_test_clients_own_log_in_works(any_async_store: Any) -> None:
    from django.contrib.auth.models import User

    ada = User.objects.get(username="ada")

    async def visit() -> None:
        client = AsyncClient()
        await client.aforce_login(ada)
        assert (await (await client.asession()).aget("_auth_user_id")) == str(ada.pk)
        assert (await client.get("/who")).content == b"ada"
        await client.alogout()
        assert (await client.get("/adata")).json() == {}

    asyncio.run(visit())


# --- the functions


def test_the_blocking_functions_and_the_mapping_are_one_session(any_store: Any, script: Any) -> None:
    client = Client()

    def view(request: Any) -> Any:
        request.session["mapping"] = 1
        assert sync.get_session_data() == {"mapping": 1}
        sync.set_session_data(request, {"function": 2})
        assert request.session["function"] == 2
        sync.update_session_data(lambda data: data.update(count=3))
        assert sync.pluck_session_property("function") == 2
        token = sync.get_csrf_token()
        assert sync.validate_csrf_token(token)
        return sync.get_session_data(request)

    script(view)
    expected = {"mapping": 1, "count": 3}
    assert client.get("/call").json() == expected
    assert data_of(client) == expected


async def test_the_awaitable_functions_and_the_mapping_are_one_session(any_async_store: Any, script: Any) -> None:
    async def view(request: Any) -> Any:
        await request.session.aset("mapping", 1)
        assert await server_session.get_session_data() == {"mapping": 1}
        await server_session.set_session_data(request, {"function": 2})
        assert await request.session.aget("function") == 2
        assert await server_session.renew_session()
        return await server_session.get_session_data(request)

    script(view)

    client = AsyncClient()
    expected = {"mapping": 1, "function": 2}
    assert (await client.get("/acall")).json() == expected
    assert (await client.get("/adata")).json() == expected


async def test_blocking_functions_work_in_sync_views_under_asgi(any_async_store: Any, script: Any) -> None:
    script(lambda request: [sync.set_session_data({"a": 1}), sync.get_session_data(), request.session["a"]])

    client = AsyncClient()
    assert (await client.get("/call")).json() == [True, {"a": 1}, 1]
    assert (await client.get("/data")).json() == {"a": 1}


def test_awaitable_functions_work_in_async_views_under_wsgi(any_store: Any, script: Any) -> None:
    async def view(request: Any) -> Any:
        await server_session.set_session_data({"a": 1})
        await request.session.aset("b", 2)
        return await server_session.get_session_data()

    script(view)
    client = Client()
    assert client.get("/acall").json() == {"a": 1, "b": 2}
    assert data_of(client) == {"a": 1, "b": 2}


def test_a_blocking_read_in_an_async_view_over_a_store_that_would_stall_it_is_refused(
    script: Any, tmp_path: Path
) -> None:
    async def view(request: Any) -> Any:
        with pytest.raises(ColourError):
            request.session.get("a")
        await request.session.aget("a")
        return request.session.get("a", "loaded by now")

    script(view)

    async def visit() -> None:
        client = AsyncClient()
        client.cookies[settings.SESSION_COOKIE_NAME] = "x" * 64
        assert (await client.get("/acall")).json() == "loaded by now"

    with override_settings(SERVER_SESSION={"session_store": FileSessionStore(tmp_path)}):
        asyncio.run(visit())


@pytest.mark.parametrize("at_close", [False, True])
def test_a_request_and_a_response_are_a_carrier_without_the_middleware(at_close: bool) -> None:
    from django.http import HttpResponse

    with override_settings(MIDDLEWARE=[], SESSION_EXPIRE_AT_BROWSER_CLOSE=at_close):
        engine()  # whatever asks first makes the project's sessions
        request = RequestFactory().get("/")
        response = HttpResponse()
        sync.set_session_data(request, response, {"a": 1})
        written = set_cookie(response)
        assert written is not None
        value = written.partition("=")[2].partition(";")[0]
        assert engine(value).load() == {"a": 1}
        assert ("Max-Age=1209600" in written) is not at_close


def test_a_middleware_further_out_gives_the_response_to_the_functions() -> None:
    from server_session.django import SessionMiddleware
    from tests.django_site import views

    request = RequestFactory().get("/")
    response = SessionMiddleware(views.nothing)(request)
    with pytest.raises(NoResponseError):
        sync.set_session_data(request, {"a": 1})
    assert sync.set_session_data(request, response, {"a": 1})
    assert set_cookie(response) is not None


def test_what_a_streamed_body_writes_is_stored_and_a_new_cookie_is_refused(script: Any) -> None:
    from django.http import StreamingHttpResponse

    def body(request: Any) -> Iterator[bytes]:
        yield b"a"
        sync.set_session_data({"function": 1})
        request.session["mapping"] = 2
        yield b"b"

    client = Client()
    client.get("/set/a/1")
    script(lambda request: StreamingHttpResponse(body(request)))
    assert b"".join(client.get("/call").streaming_content) == b"ab"
    assert data_of(client) == {"a": "1", "function": 1, "mapping": 2}
    with pytest.raises(ResponseStartedError):
        b"".join(Client().get("/call").streaming_content)


async def test_what_an_async_streamed_body_writes_is_stored(any_async_store: Any, script: Any) -> None:
    from django.http import StreamingHttpResponse

    async def body(request: Any) -> Any:
        yield b"a"
        await server_session.set_session_data({"function": 1})
        await request.session.aset("mapping", 2)
        yield b"b"

    async def view(request: Any) -> Any:
        return StreamingHttpResponse(body(request))

    script(view)

    client = AsyncClient()
    await client.get("/aset/a/1")
    response = await client.get("/acall")
    assert b"".join([chunk async for chunk in response.streaming_content]) == b"ab"
    assert (await client.get("/adata")).json() == {"a": "1", "function": 1, "mapping": 2}


# --- the engine by itself


def test_a_session_can_be_made_read_and_ended_by_its_key(any_store: Any) -> None:
    from server_session.django import CreateError, UpdateError

    session = engine()
    session["a"] = [1]
    session.save(must_create=True)
    with pytest.raises(CreateError):
        engine(session.session_key).save(must_create=True)
    other = engine(session.session_key)
    assert other["a"] == [1]
    other.delete()
    assert not session.exists(session.session_key)
    session["a"] = [2]
    with pytest.raises(UpdateError):
        session.save()
    assert engine(session.session_key).load() == {}


async def test_the_awaitable_engine_does_the_same(any_async_store: Any) -> None:
    from server_session.django import UpdateError

    session = engine()
    await session.aset("a", 1)
    await session.asave()
    key = session.session_key
    await session.acycle_key()
    assert session.session_key != key
    assert not await session.aexists(key)
    assert await engine(session.session_key).aload() == {"a": 1}
    await engine(session.session_key).adelete()
    await session.aset("a", 2)
    with pytest.raises(UpdateError):
        await session.asave()
    await session.aflush()
    await session.acreate()
    assert session.session_key
    await type(session).aclear_expired()


async def test_a_save_that_founds_a_session_says_that_it_is_modified_for_who_sets_the_cookie() -> None:
    # A middleware that is not this package's, as that of Channels.
    session, awaited = engine(), engine()
    session.save()
    await awaited.asave()
    assert session.session_key
    assert session.modified
    assert awaited.modified


def test_a_save_with_nothing_to_store_finds_out_that_the_session_has_ended() -> None:
    from server_session.django import UpdateError

    session = engine()
    session["a"] = 1
    session.save()
    engine(session.session_key).delete()
    with pytest.raises(UpdateError):
        session.save()


def test_two_holders_of_one_session_keep_each_others_keys() -> None:
    one = engine()
    one["a"] = 1
    one.save()
    two = engine(one.session_key)
    two["b"] = 2
    one["c"] = 3
    two.save()
    one.save()
    assert engine(one.session_key).load() == {"a": 1, "b": 2, "c": 3}


def test_load_shows_what_is_stored_and_not_what_is_not_yet() -> None:
    session = engine()
    session["a"] = 1
    session.save()
    session["b"] = 2
    assert session.load() == {"a": 1}
    assert session["b"] == 2


def test_clearsessions_deletes_what_has_expired_where_the_store_does_not_do_it_itself() -> None:
    calls = []

    class Sweeping(MemorySessionStore):
        async def delete_expired(self) -> int:
            calls.append(len(calls))
            return 2 - len(calls)

    for store in (Sweeping(), MemorySessionStore()):
        with override_settings(SERVER_SESSION={"session_store": store}):
            call_command("clearsessions")
    assert calls == [0, 1]


# --- how long


class Ages:
    """A project over a clock of its own."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, kind: str, folder: Path) -> None:
        from django.utils import timezone

        self.clock = Clock()
        self.store = make_store(kind, folder, self.clock)
        moment = timezone.datetime.fromtimestamp(0, timezone.get_default_timezone())  # type: ignore[attr-defined]
        monkeypatch.setattr(timezone, "now", lambda: moment + timedelta(seconds=self.clock()))

    def settings(self, **others: Any) -> Any:
        return override_settings(
            SERVER_SESSION={"session_store": self.store, "clock": self.clock, **others.pop("more", {})}, **others
        )


@pytest.fixture(params=["memory", "file"])
def ages(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Ages:
    return Ages(monkeypatch, request.param, tmp_path)


def saved(**data: Any) -> Any:
    session = engine()
    session.update(data)
    session.save()
    return session


def test_a_session_lives_for_session_cookie_age(ages: Ages) -> None:
    with ages.settings(SESSION_COOKIE_AGE=100):
        key = saved(a=1).session_key
        ages.clock.advance(99)
        assert engine(key).exists(key)
        ages.clock.advance(2)
        assert not engine(key).exists(key)


def test_an_expiry_in_seconds_is_the_sessions_own_idle_time(ages: Ages) -> None:
    with ages.settings(SESSION_COOKIE_AGE=100):
        session = saved(a=1)
        session.set_expiry(10)
        session.save()
        for _ in range(3):
            ages.clock.advance(8)
            assert engine(session.session_key).load()["a"] == 1
        ages.clock.advance(11)
        assert engine(session.session_key).load() == {}


def test_an_expiry_goes_with_the_write_that_brings_it(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []

    class Counted(MemorySessionStore):
        async def get(self, *given: Any) -> Any:
            calls.append("get")
            return await super().get(*given)

        async def merge(self, *given: Any) -> Any:
            calls.append("merge")
            return await super().merge(*given)

    with override_settings(SERVER_SESSION={"session_store": Counted()}):
        session = engine(saved(a=1).session_key)
        session.set_expiry(60)
        session.save()
    assert calls == ["get", "merge"]


def test_an_expiry_at_a_moment_is_moved_by_nothing(ages: Ages) -> None:
    with ages.settings(SESSION_COOKIE_AGE=100):
        session = saved(a=1)
        session.set_expiry(timedelta(seconds=20))
        session.save()
        ages.clock.advance(15)
        session["a"] = 2
        session.save()
        ages.clock.advance(6)
        assert engine(session.session_key).load() == {}


def test_an_expiry_longer_than_the_usual_one_holds_and_can_be_taken_back(ages: Ages) -> None:
    with ages.settings(SESSION_COOKIE_AGE=100):
        session = saved(a=1)
        session.set_expiry(1000)
        session.save()
        ages.clock.advance(900)
        session = engine(session.session_key)
        assert session["a"] == 1
        session.set_expiry(None)
        session.save()
        ages.clock.advance(101)
        assert engine(session.session_key).load() == {}


def test_a_function_can_set_the_expiry_too(ages: Ages, script: Any) -> None:
    with ages.settings(SESSION_COOKIE_AGE=100):
        client = Client()
        script(lambda _: sync.set_session_data({"_session_expiry": 10, "a": 1}))
        assert "Max-Age=10;" in (set_cookie(client.get("/call")) or "")
        ages.clock.advance(11)
        assert data_of(client) == {}


@pytest.mark.parametrize("expiry", [1000, timedelta(seconds=1000)])
def test_no_expiry_outlives_the_absolute_age(ages: Ages, expiry: Any) -> None:
    with ages.settings(SESSION_COOKIE_AGE=100, more={"absolute_max_age": 50}):
        session = saved(a=1)
        ages.clock.advance(40)
        session.set_expiry(expiry)
        session.save()
        ages.clock.advance(9)
        assert engine(session.session_key).load()["a"] == 1
        ages.clock.advance(2)
        assert engine(session.session_key).load() == {}


def test_there_is_no_absolute_age_unless_it_is_set(ages: Ages) -> None:
    with ages.settings(SESSION_COOKIE_AGE=40 * 86400):
        key = saved(a=1).session_key
        for _ in range(3):
            ages.clock.advance(39 * 86400)
            assert engine(key).load() == {"a": 1}


@pytest.mark.parametrize(
    "expiry, attribute", [(0, None), (60, "Max-Age=60"), (timedelta(seconds=90), "Max-Age=90"), (None, "Max-Age=100")]
)
def test_the_cookie_lasts_as_the_sessions_expiry_says(
    expiry: Any, attribute: str | None, script: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    ages = Ages(monkeypatch, "memory", tmp_path)
    client = Client()
    script(lambda request: request.session.set_expiry(expiry) or request.session.update({"a": 1}))
    with ages.settings(SESSION_COOKIE_AGE=100):
        sent = set_cookie(client.get("/call")) or ""
        assert (attribute in sent) if attribute else ("Max-Age" not in sent)
        # So does one that a function renews, which has not looked at the mapping.
        script(lambda _: sync.renew_session())
        renewed = set_cookie(client.get("/call")) or ""
        assert (attribute in renewed) if attribute else ("Max-Age" not in renewed)


def test_the_cookie_ends_with_the_browser_if_the_project_says_so() -> None:
    with override_settings(SESSION_EXPIRE_AT_BROWSER_CLOSE=True):
        assert "Max-Age" not in (set_cookie(Client().get("/set/a/1")) or "Max-Age")


# --- settings


def sent(**changed: Any) -> str:
    with override_settings(**changed):
        response = Client().get("/set/a/1")
        (morsel,) = response.cookies.values()
        return str(morsel.OutputString())


def test_the_cookie_has_djangos_name_and_attributes() -> None:
    assert re.fullmatch(r"sessionid=[\w-]{64}; Path=/; Max-Age=1209600; HttpOnly; SameSite=Lax", sent())


def test_the_cookie_follows_djangos_settings() -> None:
    header = sent(
        SESSION_COOKIE_NAME="sId",
        SESSION_COOKIE_DOMAIN="shop.example",
        SESSION_COOKIE_PATH="/basedir",
        SESSION_COOKIE_HTTPONLY=False,
        SESSION_COOKIE_SECURE=True,
        SESSION_COOKIE_SAMESITE="Strict",
        SESSION_COOKIE_AGE=60,
    )
    pattern = r"sId=[\w-]{64}; Domain=shop.example; Path=/basedir; Max-Age=60; Secure; SameSite=Strict"
    assert re.fullmatch(pattern, header)


def test_with_an_https_origin_the_cookie_is_host_locked_and_django_knows_its_name() -> None:
    with override_settings(SERVER_SESSION={"origin": "https://shop.example"}):
        client = Client()
        assert "; Secure" in (client.get("/set/a/1").cookies["__Host-session"].OutputString())
        assert settings.SESSION_COOKIE_NAME == "__Host-session"
        assert data_of(client) == {"a": "1"}
        assert client.session["a"] == "1"
        log_in(client)
        assert client.get("/who").content == b"ada"
        assert sent(SERVER_SESSION={"origin": "http://127.0.0.1:8000"}).startswith("sessionid=")
    assert settings.SESSION_COOKIE_NAME == "sessionid"
    assert sent().startswith("sessionid=")


def test_the_cookie_s_name_outlives_a_change_of_another_setting_within_which_it_was_chosen() -> None:
    with override_settings(SERVER_SESSION={"origin": "https://shop.example"}):
        with override_settings(LANGUAGE_CODE="de"):
            Client().get("/set/a/1")
        Client().get("/set/a/1")
        assert settings.SESSION_COOKIE_NAME == "__Host-session"


def test_a_name_that_the_project_chose_wins_over_the_origins() -> None:
    header = sent(SERVER_SESSION={"origin": "https://shop.example"}, SESSION_COOKIE_NAME="sId")
    assert header.startswith("sId=")
    assert "; Secure" in header


def test_secure_is_not_switched_off_by_a_setting() -> None:
    header = sent(SERVER_SESSION={"origin": "https://shop.example"}, SESSION_COOKIE_SECURE=False)
    assert "; Secure" in header


def test_a_cookie_handler_is_followed_where_no_setting_says_otherwise() -> None:
    handler = CookieHandler("sId", path="/basedir", same_site="strict")
    header = sent(SERVER_SESSION={"cookie_handler": handler}, SESSION_COOKIE_PATH="/shop")
    assert header.startswith("sId=")
    assert "; Path=/shop;" in header
    assert "; SameSite=Strict" in header


def test_a_middleware_further_out_can_change_the_attributes_of_the_cookie() -> None:
    from server_session.django import SessionMiddleware

    def view(request: Any) -> HttpResponse:
        request.session["a"] = 1
        return HttpResponse("set")

    handler = CookieHandler(partitioned=True, secure=True)
    with override_settings(SERVER_SESSION={"cookie_handler": handler}):
        response = SessionMiddleware(view)(RequestFactory().get("/"))
    morsel = response.cookies["sessionid"]
    assert morsel["max-age"] == settings.SESSION_COOKIE_AGE
    morsel["domain"] = "shop.example"
    morsel["samesite"] = "None"
    name, *attributes = morsel.OutputString().split("; ")
    assert re.fullmatch(r"sessionid=[\w-]{64}", name)
    changed = {"Domain=shop.example", "SameSite=None"}
    assert set(attributes) == {"HttpOnly", "Max-Age=1209600", "Partitioned", "Path=/", "Secure", *changed}
    # As a cache does it that keeps the response.
    assert copy(morsel).OutputString() == morsel.OutputString()


class Header(CookieTransport):
    """A credential that travels in a header of its own."""

    def read(self, request: Any) -> list[str]:
        return [value.decode() for value in request.header_values(b"x-session")]

    def write(self, request: Any, value: str, lifetime: float | None) -> Any:
        return [(b"x-session", f"{value};{lifetime:g}".encode())]

    def destroy(self, request: Any) -> Any:
        return [(b"x-session", b"")]


def test_a_transport_of_the_projects_own_carries_the_session_with_its_age() -> None:
    with override_settings(SERVER_SESSION={"cookie_handler": Header()}):
        client = Client()
        response = client.get("/set/a/1")
        value, _, lifetime = response.headers["X-Session"].partition(";")
        assert lifetime == "1.2096e+06"
        assert client.get("/data", headers={"X-Session": value}).json() == {"a": "1"}
        assert data_of(client) == {}


@pytest.mark.parametrize(
    "changed, named",
    [
        ({"SERVER_SESSION": {"max_age": 600}}, "max_age.*SESSION_COOKIE_AGE"),
        ({"SERVER_SESSION": {"session_stor": None}}, "session_stor"),
        ({"SERVER_SESSION": "memory:"}, "SERVER_SESSION is a dict"),
        ({"SERVER_SESSION": {"cookie_handler": CookieHandler(max_age=9)}}, "SESSION_COOKIE_AGE"),
        ({"SERVER_SESSION": {"cookie_handler": "sId"}}, "cookie_handler"),
        ({"SERVER_SESSION": {"session_store": dict}}, "session_store"),
        ({"SERVER_SESSION": {"cookie_handler": Header()}, "SESSION_COOKIE_NAME": "sId"}, "SESSION_COOKIE_NAME.*Header"),
        ({"SESSION_COOKIE_AGE": 0}, "SESSION_COOKIE_AGE"),
        ({"SESSION_COOKIE_AGE": timedelta(days=1)}, "SESSION_COOKIE_AGE"),
        ({"SESSION_COOKIE_SAMESITE": False}, "SESSION_COOKIE_SAMESITE"),
        ({"SESSION_ENGINE": "django.contrib.sessions.backends.file"}, "SESSION_ENGINE"),
    ],
)
def test_a_setting_that_cannot_work_is_named_when_the_server_starts(changed: dict[str, Any], named: str) -> None:
    from django.core.wsgi import get_wsgi_application

    with override_settings(**changed), pytest.raises(ConfigurationError, match=named):
        get_wsgi_application()


def test_a_configure_beside_the_settings_is_refused() -> None:
    engine()
    server_session.configure()
    with pytest.raises(ConfigurationError, match="SERVER_SESSION"):
        engine()


def test_a_change_of_another_setting_keeps_the_sessions() -> None:
    with override_settings(SERVER_SESSION={}):
        client = Client()
        client.get("/set/a/1")
        with override_settings(SESSION_COOKIE_AGE=60):
            assert data_of(client) == {"a": "1"}
        with override_settings(SERVER_SESSION={"session_store": "memory:"}):
            assert data_of(client) == {}


def test_another_engine_can_subclass_this_one_and_djangos_own_middleware_serves_it() -> None:
    middleware = [
        name.replace("server_session.django", "django.contrib.sessions.middleware") for name in settings.MIDDLEWARE
    ]
    with override_settings(MIDDLEWARE=middleware):
        client = Client()
        client.get("/set/a/1")
        log_in(client)
        assert client.get("/who").content == b"ada"
        assert data_of(client)["a"] == "1"


# --- a store that is down


class FailingStore(MemorySessionStore):
    async def get(self, *_: Any, **__: Any) -> Any:
        raise StoreError("the server did not answer")

    set = merge = destroy = get  # type: ignore[assignment]


class BlockingFailingStore(FailingStore):
    colour = Colour.BLOCKS


@contextmanager
def failing_store(kind: type[FailingStore] = FailingStore) -> Iterator[None]:
    with override_settings(SERVER_SESSION={"session_store": kind()}):
        yield


@pytest.mark.parametrize("path", ["/data", "/set/a/1", "/who", "/adata", "/aset/a/1"])
@pytest.mark.parametrize("cookie", [True, False])
@pytest.mark.parametrize("kind", [FailingStore, BlockingFailingStore])
def test_a_store_that_is_down_is_a_503_in_every_view(path: str, cookie: bool, kind: Any) -> None:
    is_asked = cookie or "set" in path

    async def ask() -> int:
        client = AsyncClient()
        if cookie:
            client.cookies[settings.SESSION_COOKIE_NAME] = "x" * 64
        return (await client.get(path)).status_code

    with failing_store(kind):
        client = Client()
        if cookie:
            client.cookies[settings.SESSION_COOKIE_NAME] = "x" * 64
        response = client.get(path)
        assert response.status_code == (503 if is_asked else 200)
        if is_asked:
            assert "no-store" in response.headers["Cache-Control"]
        assert asyncio.run(ask()) == response.status_code


@pytest.mark.parametrize("enter", [lambda session: session.cycle_key(), lambda session: session.update({"user": 1})])
def test_a_503_bears_the_cookie_that_a_renewal_which_nobody_answered_has_swapped(enter: Any, script: Any) -> None:
    from django.http import HttpResponse

    def view(request: Any) -> Any:
        store.unanswered = {"merge"}
        enter(request.session)
        return HttpResponse()

    store = Unanswered()
    script(view)
    with override_settings(SERVER_SESSION={"session_store": store}):
        client = Client()
        client.get("/set/a/1")
        assert client.get("/call").status_code == 503
        assert data_of(client)["a"] == "1"


def test_a_file_that_gives_way_to_a_503_is_closed_with_it(script: Any, tmp_path: Path) -> None:
    def send(request: Any) -> FileResponse:
        request.session["a"] = 1
        return FileResponse(file)

    (tmp_path / "file").write_bytes(b"x")
    file = (tmp_path / "file").open("rb")
    script(send)
    with failing_store():
        response = Client().get("/call")
        response.close()
    assert (response.status_code, file.closed) == (503, True)


def test_a_store_that_is_down_is_a_503_where_a_middleware_asked_it() -> None:
    middleware = [*settings.MIDDLEWARE, "django.contrib.auth.middleware.LoginRequiredMiddleware"]
    with failing_store(), override_settings(MIDDLEWARE=middleware):
        client = Client(raise_request_exception=False)
        client.cookies[settings.SESSION_COOKIE_NAME] = "x" * 64
        assert client.get("/nothing").status_code == 503


def test_what_the_store_holds_can_be_sealed_and_an_expiry_of_its_own_holds_all_the_same():
    key = EncryptedCodec.generate_key()
    store = MemorySessionStore()
    with override_settings(SERVER_SESSION={"session_store": store, "codec": EncryptedCodec([key])}):
        session = server_session.django.SessionStore()
        session["user"] = "a name that nobody reads"
        session.set_expiry(60)
        session.save()
        assert server_session.django.SessionStore(session.session_key)["user"] == "a name that nobody reads"
        stored = drive(store.get(session.session_key[:24], {}, False))
        assert not isinstance(stored, Outcome)
        assert b"a name" not in b"".join(stored.values())


def test_an_expiry_of_django_s_lifts_no_deadline_that_a_renewal_has_set():
    clock = Clock()
    store = MemorySessionStore(clock=clock)
    with override_settings(SERVER_SESSION={"session_store": store, "clock": clock}):
        session = server_session.django.SessionStore()
        session["user"] = "ada"
        session.save()
        assert drive(session.stored.renew(life=Life(absolute=600.0)))
        session.set_expiry(3600)
        session.save()
        for _ in range(5):
            clock.advance(119)
            assert server_session.django.SessionStore(session.session_key).get("user") == "ada"
        clock.advance(119)
        assert server_session.django.SessionStore(session.session_key).get("user") is None


def test_a_view_that_asks_the_functions_without_a_touch_touches_nothing(script):
    store = Watched()
    with override_settings(SERVER_SESSION={"session_store": store}):
        client = Client()
        log_in(client)
        script(lambda request: sync.get_session_data(request, touch=False)["_auth_user_id"])
        store.calls.clear()
        assert client.get("/call").status_code == 200
        assert store.calls == ["look"]

"""Django: requests that another site may have forged, and the token in templates, in the admin and for scripts."""

import asyncio
import json
import logging
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
from django.conf import settings
from django.core.files.uploadedfile import SimpleUploadedFile
from django.core.files.uploadhandler import TemporaryFileUploadHandler
from django.core.management import call_command
from django.http import HttpResponse
from django.test import AsyncClient, Client, RequestFactory, override_settings

from server_session import CSRF, FileSessionStore, MemorySessionStore, Signal, _sessions, csrf_script, sync
from server_session.csrf import decorators
from server_session.exceptions import ConfigurationError, StoreError
from server_session.exchange import checked
from server_session.testing import YieldingStore
from tests.django_site.project import set_up

OURS = "server_session.django.CsrfViewMiddleware"
DJANGOS = "django.middleware.csrf.CsrfViewMiddleware"
PROCESSOR = "server_session.django.csrf"
MIDDLEWARE = [
    "server_session.django.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    OURS,
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
]
DJANGO_TEMPLATES = {
    "BACKEND": "django.template.backends.django.DjangoTemplates",
    "APP_DIRS": True,
    "OPTIONS": {
        "context_processors": [
            "django.template.context_processors.request",
            "django.contrib.auth.context_processors.auth",
            "django.contrib.messages.context_processors.messages",
            PROCESSOR,
        ]
    },
}
JINJA2 = {
    "BACKEND": "django.template.backends.jinja2.Jinja2",
    "OPTIONS": {"context_processors": [PROCESSOR]},
}

ORIGIN = "https://shop.example"
OWN = {"Sec-Fetch-Site": "same-origin"}
CROSS_SITE = {"Sec-Fetch-Site": "cross-site", "Origin": "https://evil.example"}
FORM = "application/x-www-form-urlencoded"
TOKEN = re.compile(r'name="([a-z_]+)" value="([A-Za-z0-9_-]{70})"')
# Which it is depends on whether the session was founded in the same second.
FOREIGN = {"csrf_token_invalid", "csrf_stale"}
PASSWORD = "correct horse"


@pytest.fixture(scope="module", autouse=True)
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    set_up(tmp_path_factory.mktemp("django"))
    call_command("migrate", verbosity=0)
    from django.contrib.auth.models import User

    User.objects.create_superuser("grace", "grace@shop.example", PASSWORD)
    yield
    from django.db import connections

    connections.close_all()


@pytest.fixture(autouse=True)
def fresh(project: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(_sessions, "_configured", None)
    with (
        override_settings(MIDDLEWARE=MIDDLEWARE, TEMPLATES=[DJANGO_TEMPLATES, JINJA2]),
        serving(MemorySessionStore()),
    ):
        yield


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[..., Any]], None]:
    """Say what the view `call` or `acall` is to do."""
    from tests.django_site import views

    return lambda body: monkeypatch.setattr(views, "script", body)


def serving(store: Any = None, **given: Any) -> override_settings:
    return override_settings(SERVER_SESSION={"session_store": store or MemorySessionStore(), **given})


def strict_client(**headers: str) -> Client:
    return Client(enforce_csrf_checks=True, headers=headers)


def visitor(**headers: str) -> Client:
    """A browser that has a session, and says nothing of where its requests come from."""
    client = strict_client(**headers)
    client.get("/set/color/green")
    return client


def token_of(client: Any) -> str:
    """A token of the client's session, as any page would have it."""
    session = client.session
    from server_session.django import get_token

    request = RequestFactory().get("/")
    request.session = session
    return get_token(request)


def rejection(response: Any) -> str | None:
    code: str | None = response.headers.get("CSRF-Rejection")
    assert (response.status_code == 403) == (code is not None)
    return code


def renders(engine: str, body: str) -> Callable[[Any], Any]:
    def view(request: Any) -> Any:
        from django.template import engines

        return HttpResponse(engines[engine].from_string(body).render({}, request))

    return view


def page_of(client: Client, script: Any, engine: str, body: str) -> str:
    script(renders(engine, body))
    text: str = client.get("/call").content.decode()
    return text


# --- what is let through, and what is not


def test_a_form_of_the_own_pages_passes_by_the_headers_of_the_browser_alone() -> None:
    client = visitor()
    assert client.post("/send", headers=OWN).content == b"sent"
    with serving(origin=ORIGIN):
        assert strict_client().post("/send", headers={"Origin": ORIGIN}, secure=True).content == b"sent"


@pytest.mark.parametrize("path", ["/send", "/asend", "/class", "/data", "/log-in", "/admin/login/"])
def test_a_post_of_another_site_is_refused_whichever_view_it_goes_to(path: str) -> None:
    assert rejection(visitor().post(path, headers=CROSS_SITE)) == "csrf_site"


def test_a_request_whose_headers_say_nothing_needs_a_token() -> None:
    client = visitor()
    assert rejection(client.post("/send")) == "csrf_token_missing"
    assert rejection(client.post("/send", {"csrf_token": "x" * 70})) in FOREIGN
    assert rejection(client.post("/send", {"csrf_token": token_of(visitor())})) in FOREIGN
    assert client.post("/send", {"csrf_token": token_of(client)}).content == b"sent"


def test_who_has_no_session_has_nothing_to_be_forged_save_in_strict_mode() -> None:
    assert strict_client().post("/send").content == b"sent"
    with serving(csrf=CSRF(mode="strict")):
        assert rejection(strict_client().post("/send", headers=OWN)) == "csrf_token_missing"


@pytest.mark.parametrize("method", ["post", "put", "patch", "delete", "PURGE", "trace"])
def test_every_method_that_is_not_known_to_be_safe_is_checked(method: str) -> None:
    client = visitor()
    assert rejection(client.generic(method.upper(), "/send")) == "csrf_token_missing"
    assert client.generic(method.upper(), "/send", headers={"X-CSRF-Token": token_of(client)}).content == b"sent"


def test_a_method_is_safe_only_if_it_came_so_in_the_case_in_which_it_came() -> None:
    client = visitor()
    assert rejection(client.generic("get", "/send")) == "csrf_token_missing"


def overriding(get_response: Any) -> Any:
    def serve(request: Any) -> Any:
        request.method = request.GET.get("_method", request.method)
        return get_response(request)

    return serve


def overriding_what_came(get_response: Any) -> Any:
    def serve(request: Any) -> Any:
        request.method = request.META["REQUEST_METHOD"] = request.GET.get("_method", request.method)
        return get_response(request)

    return serve


@pytest.mark.parametrize("place, middleware", [(0, "overriding"), (1, "overriding"), (1, "overriding_what_came")])
def test_a_method_that_a_middleware_overrides_is_checked_in_either_direction(place: int, middleware: str) -> None:
    listed = [*MIDDLEWARE[:place], f"{__name__}.{middleware}", *MIDDLEWARE[place:]]
    with override_settings(MIDDLEWARE=listed):
        client = visitor()
        assert rejection(client.post("/send?_method=GET")) == "csrf_token_missing"
        assert rejection(client.get("/send?_method=DELETE")) == "csrf_token_missing"


def test_the_policy_of_the_setting_is_the_one_that_is_asked() -> None:
    with serving(csrf=CSRF(mode="report")):
        assert visitor().post("/send", headers=CROSS_SITE).content == b"sent"
    with serving(csrf=CSRF(trusted_origins="https://pay.example")):
        assert visitor().post("/send", headers={"Origin": "https://pay.example"}).content == b"sent"


def test_djangos_own_trusted_origins_count_beside_those_of_the_policy() -> None:
    with serving(csrf=CSRF(trusted_origins="https://pay.example", field="proof")):
        client = visitor()
        assert rejection(client.post("/send", headers={"Origin": "https://mail.example"})) == "csrf_origin"
        with override_settings(CSRF_TRUSTED_ORIGINS=["https://mail.example"]):
            for origin in ("https://mail.example", "https://pay.example"):
                assert client.post("/send", headers={"Origin": origin}).content == b"sent"
            assert client.post("/send", {"proof": token_of(client)}).content == b"sent"
            assert rejection(client.post("/send", headers={"Origin": "https://evil.example"})) == "csrf_origin"


def test_a_rejection_is_signalled_and_logged_also_where_django_logs_its_own(caplog: pytest.LogCaptureFixture) -> None:
    signals: list[Signal] = []
    with serving(on_signal=signals.append), caplog.at_level(logging.WARNING):
        visitor().post("/send", headers=CROSS_SITE)
    assert [signal.event for signal in signals].count("csrf_rejected") == 1
    logged = [record.getMessage() for record in caplog.records if record.name == "django.security.csrf"]
    assert logged == ["Forbidden (csrf_site): /send"]
    assert not [record for record in caplog.records if record.name == "django.request"]


@pytest.fixture
def subclass(monkeypatch: pytest.MonkeyPatch) -> str:
    from server_session.django import CsrfViewMiddleware

    class Lenient(CsrfViewMiddleware):
        def process_view(self, request: Any, view: Any, *rest: object) -> Any:
            return None if request.path == "/asend" else super().process_view(request, view, *rest)

    monkeypatch.setitem(globals(), "Lenient", Lenient)
    return f"{__name__}.Lenient"


def test_a_subclass_may_decide_in_either_kind_of_server(subclass: str, tmp_path: Path) -> None:
    async def post_on_a_loop(path: str) -> Any:
        return await AsyncClient(enforce_csrf_checks=True).post(path, headers=CROSS_SITE)

    listed = [subclass if name == OURS else name for name in MIDDLEWARE]
    with override_settings(MIDDLEWARE=listed), serving(FileSessionStore(tmp_path)):
        for post in (
            lambda path: visitor().post(path, headers=CROSS_SITE),
            lambda path: asyncio.run(post_on_a_loop(path)),
        ):
            assert post("/asend").content == b"sent"
            assert rejection(post("/send")) == "csrf_site"


def test_what_no_view_serves_is_what_it_was() -> None:
    assert visitor().post("/no-such-page", headers=CROSS_SITE).status_code == 404


def test_djangos_test_client_is_no_forger_unless_it_is_told_to_be_checked() -> None:
    client = Client()
    client.get("/set/color/green")
    for path in ("/send", "/strict", "/scoped", "/class-strict", "/checked-late"):
        assert client.post(path, headers=CROSS_SITE).content == b"sent", path


def test_a_store_that_is_down_is_a_503_and_no_pass(caplog: pytest.LogCaptureFixture) -> None:
    class Broken(MemorySessionStore):
        async def get(self, *_: Any) -> Any:
            raise StoreError("the store is down")

    client = visitor()
    cookie = client.cookies[settings.SESSION_COOKIE_NAME].value
    headers = {"X-CSRF-Token": token_of(client)}

    async def post_on_a_loop(path: str) -> int:
        client = AsyncClient(enforce_csrf_checks=True)
        client.cookies.load({settings.SESSION_COOKIE_NAME: cookie})
        status: int = (await client.post(path, headers=headers)).status_code
        return status

    with serving(Broken()):
        for path in ("/send", "/strict", "/checked-late", "/hook"):
            assert client.post(path, headers=headers).status_code == 503, path
            assert asyncio.run(post_on_a_loop(path)) == 503, path
    assert "503" in caplog.text


# --- the answer


def test_the_answer_is_a_page_and_nobody_keeps_it() -> None:
    page = visitor().post("/send", headers=CROSS_SITE)
    assert page.headers["Content-Type"] == "text/html; charset=utf-8"
    assert "no-store" in page.headers["Cache-Control"]
    assert {"Origin", "Sec-Fetch-Site"} <= {name.strip() for name in page.headers["Vary"].split(",")}


@pytest.mark.parametrize("view", ["failure", "afailure", "failure_with_form"])
def test_the_projects_own_page_is_shown_with_the_headers_of_ours(view: str) -> None:
    with override_settings(CSRF_FAILURE_VIEW=f"tests.django_site.views.{view}"):
        response = visitor().post("/send", headers=CROSS_SITE)
    assert rejection(response) == "csrf_site"
    assert response.content.startswith(b"our own page: csrf_site")
    assert response.headers["Cache-Control"] == "private, no-store"
    assert "Sec-Fetch-Site" in response.headers["Vary"]


def test_a_page_of_the_projects_that_would_found_a_session_for_another_site_gives_way_to_ours() -> None:
    with override_settings(CSRF_FAILURE_VIEW="tests.django_site.views.failure_with_form"):
        response = strict_client().post("/send", headers=CROSS_SITE)
    assert rejection(response) == "csrf_site"
    assert not response.cookies


@pytest.mark.parametrize(
    "write",
    [
        lambda request: sync.set_session_data(request, {"a": 1}),
        lambda request: request.session.update({"a": 1}),
        renders("django", "{% csrf_token %}"),
    ],
    ids=["function", "mapping", "token"],
)
def test_a_session_that_another_sites_request_would_found_is_a_403(script: Any, write: Callable[[Any], Any]) -> None:
    script(write)
    response = strict_client().post("/own-hook", headers=CROSS_SITE)
    assert rejection(response) == "cookie_withheld"
    assert not response.cookies
    assert strict_client().post("/own-hook").status_code == 200


# --- the token, in


@pytest.mark.parametrize("field", ["csrf_token", "csrfmiddlewaretoken"])
@pytest.mark.parametrize("path", ["/send", "/asend"])
def test_the_token_is_found_in_each_form_that_django_reads_and_in_json(path: str, field: str) -> None:
    client = visitor()
    token = token_of(client)
    assert client.post(path, {field: token}).content == b"sent"
    assert client.post(path, urlencode({field: token}), content_type=FORM).content == b"sent"
    assert client.post(path, {field: token}, content_type="application/json").content == b"sent"
    assert client.put(path, urlencode({field: token}), content_type=FORM).content == b"sent"


@pytest.mark.parametrize("header", ["X-CSRF-Token", "X-CSRFToken"])
def test_the_token_is_found_in_the_header_of_either(header: str) -> None:
    client = visitor()
    assert client.post("/send", headers={header: token_of(client)}).content == b"sent"
    with override_settings(CSRF_HEADER_NAME="HTTP_X_PROOF"):
        assert client.post("/send", headers={"X-Proof": token_of(client)}).content == b"sent"


def test_no_token_is_taken_from_the_query_or_a_cookie() -> None:
    client = visitor()
    token = token_of(client)
    client.cookies["csrftoken"] = token
    assert rejection(client.post(f"/send?csrf_token={token}&csrfmiddlewaretoken={token}")) == "csrf_token_missing"


@pytest.mark.parametrize("token", ["", None, 1, [], {}])
def test_a_token_of_another_type_is_none(token: Any) -> None:
    client = visitor()
    body = json.dumps({"csrf_token": token})
    assert rejection(client.post("/send", body, content_type="application/json")) in {
        "csrf_token_missing",
        "csrf_token_invalid",
    }


def test_a_body_in_which_the_token_was_looked_for_is_whole_for_the_view(script: Any) -> None:
    client = visitor()
    body = json.dumps({"csrf_token": token_of(client), "a": 1})
    script(lambda request: [request.body.decode(), request.read().decode()])
    assert client.post("/call", body, content_type="application/json").json() == [body, body]


def test_no_body_is_read_where_the_headers_decide_or_bear_the_token(script: Any) -> None:
    client = visitor()
    script(lambda request: request.read().decode())
    for headers in (OWN, {"X-CSRF-Token": token_of(client)}):
        assert client.post("/call", "a=1", content_type=FORM, headers=headers).json() == "a=1"


def test_a_body_larger_than_the_bounds_is_not_read_for_a_token() -> None:
    def send(client: Client) -> Any:
        body = json.dumps({"csrf_token": token_of(client), "filling": "x" * 1000})
        return client.post("/send", body, content_type="application/json")

    with serving(csrf=CSRF(body_limit=500)):
        assert rejection(send(visitor())) == "csrf_token_missing"
    with override_settings(DATA_UPLOAD_MAX_MEMORY_SIZE=500):
        assert rejection(send(visitor())) == "csrf_token_missing"
    with override_settings(DATA_UPLOAD_MAX_MEMORY_SIZE=None):
        assert send(visitor()).content == b"sent"


def test_a_form_that_is_too_much_for_django_is_a_400_as_ever(caplog: pytest.LogCaptureFixture) -> None:
    client = visitor()
    form = {"csrf_token": token_of(client), "a": "1", "b": "2"}
    with override_settings(DATA_UPLOAD_MAX_NUMBER_FIELDS=2):
        assert client.post("/send", form).status_code == 400
    with override_settings(DATA_UPLOAD_MAX_MEMORY_SIZE=20):
        assert client.post("/send", form).status_code == 400
    assert client.post("/send", b"--x", content_type="multipart/form-data; boundary=").status_code == 400
    assert "django.security" in caplog.text or caplog.records


def test_an_upload_that_bears_the_token_reaches_the_view(script: Any) -> None:
    client = visitor()
    script(lambda request: [request.FILES["photo"].read().decode(), request.POST["a"]])
    upload = {"photo": SimpleUploadedFile("photo.txt", b"a photo"), "a": "1", "csrf_token": token_of(client)}
    assert client.post("/call", upload).json() == ["a photo", "1"]


def test_a_view_that_chooses_its_upload_handlers_is_checked_after_it_has(script: Any) -> None:
    from server_session.django import csrf_protect

    def choose(request: Any) -> Any:
        request.upload_handlers.insert(0, TemporaryFileUploadHandler(request))
        return receive(request)

    @csrf_protect
    def receive(request: Any) -> Any:
        return type(request.FILES["photo"]).__name__

    client = visitor()
    script(choose)
    for token, outcome in ((token_of(client), "TemporaryUploadedFile"), ("", None)):
        upload = {"photo": SimpleUploadedFile("photo.txt", b"a photo"), "csrf_token": token}
        response = client.post("/own-hook", upload)
        assert response.json() == outcome if outcome else rejection(response) == "csrf_token_missing"


def test_a_connection_that_breaks_while_the_form_is_read_is_a_request_without_a_token(
    script: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from django.core.handlers.wsgi import WSGIRequest
    from django.http import UnreadablePostError

    def broken(_: Any) -> Any:
        raise UnreadablePostError("connection reset")

    client = visitor()
    monkeypatch.setattr(WSGIRequest, "POST", property(broken))
    assert rejection(client.post("/send", {"csrf_token": token_of(client)})) == "csrf_token_missing"


# --- the token, out


@pytest.mark.parametrize(
    "engine, body, field",
    [
        ("django", "{% csrf_token %}", "csrfmiddlewaretoken"),
        ("django", "{{ csrf_input }}", "csrfmiddlewaretoken"),
        ("django", '<input name="csrf_token" value="{{ csrf_token }}">', "csrf_token"),
        ("jinja2", "{{ csrf_input }}", "csrfmiddlewaretoken"),
        ("jinja2", '<input name="csrf_token" value="{{ csrf_token }}">', "csrf_token"),
    ],
)
@pytest.mark.parametrize("mode", ["layered", "strict"])
def test_the_form_of_a_template_bears_a_token_that_passes(
    script: Any, mode: Any, engine: str, body: str, field: str
) -> None:
    with serving(csrf=CSRF(mode=mode)):
        client = strict_client()
        found = TOKEN.search(page_of(client, script, engine, body))
        assert found is not None
        assert found[1] == field
        assert client.post("/send", {found[1]: found[2]}).content == b"sent"


def test_a_page_with_a_token_is_kept_by_no_cache_and_one_without_founds_no_session(script: Any) -> None:
    client = strict_client()
    script(renders("django", "nothing"))
    response = client.get("/call")
    assert not response.cookies
    assert "Cache-Control" not in response.headers
    script(renders("django", "{% csrf_token %}"))
    response = client.get("/call")
    assert settings.SESSION_COOKIE_NAME in response.cookies
    assert response.headers["Cache-Control"] == "private, no-store"


@pytest.mark.parametrize("body, kept", [("{% csrf_token %}", False), ("a page {% now 'u' %}", True)])
@pytest.mark.parametrize("is_rendered", [True, False])
def test_a_page_with_a_token_is_not_kept_by_a_cache_page_around_csrf_protect(
    script: Any, is_rendered: bool, body: str, kept: bool
) -> None:
    from django.template import engines
    from django.template.response import SimpleTemplateResponse
    from django.views.decorators.cache import cache_page

    from server_session.django import csrf, csrf_protect

    def later(request: Any) -> Any:
        template: Any = engines["django"].from_string(body)
        return SimpleTemplateResponse(template, csrf(request))

    view = csrf_protect(renders("django", body) if is_rendered else later)
    script(cache_page(60, key_prefix=f"{is_rendered}{kept}")(view))
    first, second = (strict_client().get("/call").content for _ in range(2))
    assert (first == second) == kept


@pytest.mark.parametrize("engine, called", [("django", ""), ("jinja2", "()")])
def test_a_meta_element_bears_the_token_for_scripts(script: Any, engine: str, called: str) -> None:
    client = strict_client()
    page = page_of(client, script, engine, f"{{{{ csrf_meta }}}}{{{{ csrf_script{called} }}}}")
    assert page.endswith(csrf_script())
    found = re.match(r'<meta name="csrf-token" content="([\w-]{70})" data-header="X-CSRF-Token"', page)
    assert found is not None
    assert client.post("/send", headers={"X-CSRF-Token": found[1]}).content == b"sent"


@pytest.mark.parametrize(
    "engine, body",
    [
        ("django", "{% csrf_token %}{% csrf_token %}"),
        ("django", "{{ csrf_input }}{{ csrf_input }}"),
        ("jinja2", "{{ csrf_input }}{{ csrf_input }}"),
        ("jinja2", 2 * '<input name="csrf_token" value="{{ csrf_token }}">'),
    ],
)
def test_where_a_token_passes_once_each_form_of_a_page_has_its_own(script: Any, engine: str, body: str) -> None:
    with serving(csrf=CSRF(single_use=True)):
        client = strict_client()
        (_, one), (_, other) = TOKEN.findall(page_of(client, script, engine, body))
        assert client.post("/send", {"csrf_token": one}).content == b"sent"
        assert rejection(client.post("/send", {"csrf_token": one})) == "csrf_token_used"
        assert client.post("/send", {"csrf_token": other}).content == b"sent"


def test_a_template_outside_any_session_has_no_token() -> None:
    from django.template import engines

    request = RequestFactory().get("/")
    assert engines["django"].from_string("{% csrf_token %}").render({}, request) == ""


async def page_with_token(request: Any) -> Any:
    from django.template import engines

    from server_session.django import aget_token

    page = engines["django"].from_string("{% csrf_token %}")
    return HttpResponse(page.render({"csrf_token": await aget_token(request)}, request))


async def send_on_a_loop() -> None:
    client = AsyncClient(enforce_csrf_checks=True)
    found = TOKEN.search((await client.get("/acall")).content.decode())
    assert found is not None
    for path in ("/asend", "/send", "/acheck", "/class-astrict", "/class-strict", "/checked-late"):
        assert (await client.post(path, {found[1]: found[2]})).content == b"sent", path
        assert rejection(await client.post(path)) == "csrf_token_missing", path


@pytest.mark.parametrize("kind", ["memory", "file", "awaiting"])
def test_an_async_view_gives_its_template_the_token(script: Any, kind: str, tmp_path: Path) -> None:
    stores: dict[str, Callable[[], Any]] = {
        "memory": MemorySessionStore,
        "file": lambda: FileSessionStore(tmp_path),
        "awaiting": lambda: YieldingStore(MemorySessionStore()),
    }
    store = stores[kind]()
    script(page_with_token)
    with serving(store, csrf=CSRF(mode="strict")):
        asyncio.run(send_on_a_loop())


@pytest.mark.parametrize("place", [2, 3])
def test_beside_a_middleware_that_blocks_requests_of_a_loop_are_checked_too(
    script: Any, place: int, tmp_path: Path
) -> None:
    listed = [*MIDDLEWARE[:place], f"{__name__}.overriding", *MIDDLEWARE[place:]]
    script(page_with_token)
    with override_settings(MIDDLEWARE=listed), serving(FileSessionStore(tmp_path), csrf=CSRF(mode="strict")):
        asyncio.run(send_on_a_loop())


@pytest.mark.parametrize("kind", ["file", "awaiting"])
def test_a_template_of_an_async_view_has_a_token_where_the_store_need_not_be_asked(
    script: Any, kind: str, tmp_path: Path
) -> None:
    async def view(request: Any) -> Any:
        # Whoever comes without a cookie has no session to ask for, and who was asked for is known.
        await request.session.aget("color")
        return renders("django", "{% csrf_token %}")(request)

    async def send_twice() -> None:
        client = AsyncClient(enforce_csrf_checks=True)
        for _ in range(2):
            found = TOKEN.search((await client.get("/acall")).content.decode())
            assert found is not None
            assert (await client.post("/asend", {found[1]: found[2]})).content == b"sent"

    script(view)
    store = FileSessionStore(tmp_path) if kind == "file" else YieldingStore(MemorySessionStore())
    with serving(store, csrf=CSRF(mode="strict")):
        asyncio.run(send_twice())


def test_a_template_that_would_stall_the_loop_says_what_to_do(script: Any, tmp_path: Path) -> None:
    async def view(request: Any) -> Any:
        return renders("django", "{% csrf_token %}")(request)

    async def visit() -> None:
        client = AsyncClient()
        await client.get("/aset/color/green")
        with pytest.raises(Exception, match="await aget_token"):
            await client.get("/acall")

    script(view)
    with serving(FileSessionStore(tmp_path)):
        asyncio.run(visit())


# --- exempt, and more


@pytest.mark.parametrize("path", ["/hook", "/own-hook", "/class-hook"])
def test_a_view_that_is_exempt_is_not_checked(path: str, script: Any) -> None:
    script(lambda _: "sent")
    assert visitor().post(path, headers=CROSS_SITE).status_code == 200
    with serving(csrf=CSRF(mode="strict")):
        assert visitor().post(path, headers=CROSS_SITE).status_code == 200


@pytest.mark.parametrize("path", ["/strict", "/class-strict", "/exempt-and-strict"])
def test_a_view_that_asks_for_a_token_gets_no_request_without_one(path: str) -> None:
    client = visitor()
    assert rejection(client.post(path, headers=OWN)) == "csrf_token_missing"
    assert client.post(path, headers={**OWN, "X-CSRF-Token": token_of(client)}).content == b"sent"


def test_a_view_may_ask_for_a_token_of_its_own_path(script: Any) -> None:
    from server_session.django import get_token

    client = visitor()
    script(lambda request: get_token(request, scope=("POST", "/scoped")))
    own = client.get("/call").json()
    assert rejection(client.post("/scoped", {"csrf_token": token_of(client)}, headers=OWN)) in FOREIGN
    assert client.post("/scoped", {"csrf_token": own}, headers=OWN).content == b"sent"
    assert rejection(client.post("/send", {"csrf_token": own})) in FOREIGN


def test_a_view_exempt_from_the_middleware_may_be_checked_when_it_is_called() -> None:
    client = visitor()
    assert rejection(client.post("/checked-late", headers=CROSS_SITE)) == "csrf_site"
    assert client.post("/checked-late", headers=OWN).content == b"sent"
    assert client.post("/checked-late", {"csrf_token": token_of(client)}).content == b"sent"


@pytest.mark.parametrize("path", ["/checked-late", "/strict", "/class-strict"])
def test_csrf_protect_checks_where_no_middleware_does(path: str) -> None:
    with override_settings(MIDDLEWARE=[name for name in MIDDLEWARE if name != OURS]):
        client = visitor()
        assert client.post("/send", headers=CROSS_SITE).content == b"sent"
        assert rejection(client.post(path, headers=CROSS_SITE)) == "csrf_site"
        assert rejection(client.post(path)) == "csrf_token_missing"
        assert client.post(path, {"csrf_token": token_of(client)}).content == b"sent"


@pytest.mark.parametrize("path", ["/acheck", "/class-astrict"])
def test_csrf_protect_checks_an_async_view_where_no_middleware_does(path: str) -> None:
    async def visit() -> None:
        client = AsyncClient(enforce_csrf_checks=True)
        token = (await client.get("/apage")).cookies["csrftoken"].value
        assert rejection(await client.post(path, headers=CROSS_SITE)) == "csrf_site"
        assert rejection(await client.post(path)) == "csrf_token_missing"
        assert (await client.post(path, headers={"X-CSRFToken": token})).content == b"sent"

    store = YieldingStore(MemorySessionStore())
    with override_settings(MIDDLEWARE=[name for name in MIDDLEWARE if name != OURS]), serving(store):
        asyncio.run(visit())


def test_a_method_of_a_class_may_be_marked_as_django_does_it() -> None:
    from django.utils.decorators import method_decorator
    from django.views import View

    from server_session.django import csrf_protect

    @method_decorator(csrf_protect(strict=True), name="dispatch")
    class Sending(View):
        async def post(self, _: Any) -> Any:
            raise NotImplementedError

    view: Any = Sending.as_view()
    request = RequestFactory().post("/", headers=OWN)
    request.session = visitor().session
    request._dont_enforce_csrf_checks = False  # type: ignore[attr-defined]
    assert rejection(asyncio.run(view(request))) == "csrf_token_missing"


def test_a_get_that_has_effects_may_ask_to_be_checked(script: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from server_session.django import csrf_protect

    marked: list[object] = []
    for module in (decorators, checked):
        monkeypatch.setattr(module, "marked_every_method", marked)
    script(csrf_protect(every_method=True)(lambda _: "done"))
    client = visitor()
    assert rejection(client.get("/call", headers=CROSS_SITE)) == "csrf_site"
    assert client.get("/call", headers=OWN).json() == "done"


def test_the_header_of_a_websocket_takes_no_get_past_what_its_view_asks(
    script: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from server_session.django import csrf_protect

    marked: list[object] = []
    for module in (decorators, checked):
        monkeypatch.setattr(module, "marked_every_method", marked)
    script(csrf_protect(every_method=True, strict=True)(lambda _: "done"))
    upgrade = {"Connection": "Upgrade", "Upgrade": "websocket"}
    for client in (visitor(), Client(enforce_csrf_checks=True)):
        assert rejection(client.get("/call", headers={**upgrade, "Origin": "https://evil.example"})) == "csrf_origin"
        own = {**upgrade, **OWN, "Origin": "http://testserver"}
        assert rejection(client.get("/call", headers=own)) == "csrf_token_missing"


def test_what_the_middleware_did_not_see_that_a_view_asks_is_asked_when_it_is_called(script: Any) -> None:
    from tests.django_site import views

    client = visitor()
    script(views.strict)
    assert rejection(client.post("/call", headers=OWN)) == "csrf_token_missing"
    assert client.post("/call", headers={**OWN, "X-CSRF-Token": token_of(client)}).content == b"sent"


def test_a_token_that_passes_once_is_asked_for_once_by_middleware_and_view() -> None:
    with serving(csrf=CSRF(single_use=True)):
        client = visitor()
        for path in ("/strict", "/checked-late", "/class-strict"):
            assert client.post(path, {"csrf_token": token_of(client)}).content == b"sent"


# --- for scripts


@pytest.mark.parametrize("path", ["/page", "/apage"])
def test_a_script_reads_the_token_from_the_cookie_and_sends_it_back(path: str) -> None:
    with serving(csrf=CSRF(mode="strict")):
        client = strict_client()
        morsel = client.get(path).cookies["csrftoken"]
        assert not morsel["httponly"]
        assert morsel["samesite"] == "Lax"
        assert client.post("/send", headers={"X-CSRFToken": morsel.value}).content == b"sent"


def test_the_cookie_of_the_token_is_as_djangos_settings_have_it_and_secure_by_the_origin() -> None:
    with override_settings(CSRF_COOKIE_NAME="proof", CSRF_COOKIE_PATH="/app", CSRF_COOKIE_SAMESITE="Strict"):
        morsel = strict_client().get("/page").cookies["proof"]
        assert (morsel["path"], morsel["samesite"], morsel["secure"]) == ("/app", "Strict", "")
    with serving(origin=ORIGIN):
        assert strict_client().get("/page", secure=True).cookies["csrftoken"]["secure"]
    with override_settings(CSRF_USE_SESSIONS=True):
        assert not strict_client().get("/page").cookies


def test_no_cache_page_around_the_view_gives_one_visitors_cookie_to_another(script: Any) -> None:
    from django.views.decorators.cache import cache_page

    from server_session.django import ensure_csrf_cookie

    script(cache_page(60, key_prefix="cookie")(ensure_csrf_cookie(lambda _: HttpResponse("page"))))
    first, second = (strict_client().get("/call").cookies["csrftoken"].value for _ in range(2))
    assert first != second


def test_a_log_in_replaces_the_token_in_the_cookie_where_there_is_one() -> None:
    with serving(csrf=CSRF(mode="strict")):
        client = strict_client()
        before = client.get("/page").cookies["csrftoken"].value
        form = {"username": "grace", "password": PASSWORD}
        response = client.post("/log-in", form, headers={"X-CSRFToken": before})
        assert response.status_code == 302
        after = response.cookies["csrftoken"].value
        assert rejection(client.post("/send", headers={"X-CSRFToken": before})) == "csrf_stale"
        assert client.post("/send", headers={"X-CSRFToken": after}).content == b"sent"


def test_a_log_in_of_the_projects_own_replaces_it_too_unless_it_has_given_one(script: Any) -> None:
    from django.middleware.csrf import rotate_token

    from server_session.django import ensure_csrf_cookie

    # What Django's log-in does of this.
    def log_in(request: Any) -> Any:
        rotate_token(request)
        request.session.cycle_key()
        return HttpResponse("logged in")

    async def alog_in(request: Any) -> Any:
        rotate_token(request)
        await request.session.acycle_key()
        return HttpResponse("logged in")

    async def log_in_on_a_loop() -> None:
        client = AsyncClient(enforce_csrf_checks=True)
        token = (await client.get("/apage")).cookies["csrftoken"].value
        token = (await client.post("/acall", headers={"X-CSRFToken": token})).cookies["csrftoken"].value
        assert (await client.post("/asend", headers={"X-CSRFToken": token})).content == b"sent"

    with serving(csrf=CSRF(mode="strict")):
        for view in (log_in, ensure_csrf_cookie(log_in)):
            script(view)
            client = strict_client()
            token = client.get("/page").cookies["csrftoken"].value
            token = client.post("/call", headers={"X-CSRFToken": token}).cookies["csrftoken"].value
            assert client.post("/send", headers={"X-CSRFToken": token}).content == b"sent"
        script(alog_in)
        asyncio.run(log_in_on_a_loop())
        script(log_in)
        client = strict_client()
        assert "csrftoken" not in client.post("/own-hook").cookies
        script(ensure_csrf_cookie(log_in))
        assert "csrftoken" in client.post("/own-hook").cookies


# --- Django's own views


@pytest.mark.parametrize("mode", ["layered", "strict"])
def test_the_admin_logs_in_adds_and_deletes_with_the_tokens_of_its_forms(mode: Any) -> None:
    from django.contrib.auth.models import Group

    with serving(csrf=CSRF(mode=mode)):
        client = strict_client()

        def send(path: str, **form: str) -> Any:
            found = TOKEN.search(client.get(path).content.decode())
            assert found is not None
            assert found[1] == "csrfmiddlewaretoken"
            return client.post(path, {found[1]: found[2], **form})

        client.get("/admin/login/")
        anonymous = client.cookies[settings.SESSION_COOKIE_NAME].value
        logged_in = send("/admin/login/", username="grace", password=PASSWORD, next="/admin/")
        assert logged_in.status_code == 302
        assert client.cookies[settings.SESSION_COOKIE_NAME].value != anonymous
        assert "csrftoken" not in logged_in.cookies
        assert rejection(client.post("/admin/auth/group/add/", {"name": "buyers"})) == "csrf_token_missing"
        assert send("/admin/auth/group/add/", name="buyers").status_code == 302
        group = Group.objects.get(name="buyers")
        assert send(f"/admin/auth/group/{group.pk}/delete/", post="yes").status_code == 302
        assert not Group.objects.exists()
        assert "grace" in client.get("/admin/").content.decode()
        assert send("/admin/password_change/").status_code == 200


def test_the_log_in_of_django_is_refused_to_another_site_even_without_a_session() -> None:
    form = {"username": "grace", "password": PASSWORD}
    response = strict_client().post("/log-in", form, headers=CROSS_SITE)
    assert rejection(response) == "csrf_site"
    assert not response.cookies


def test_a_check_of_djangos_within_an_exempt_view_is_told_of_a_request_that_is_no_forgery() -> None:
    client = visitor()
    known = b"known to be no forgery"
    assert client.post("/hook", headers=OWN).content == known
    assert client.post("/hook", headers={"X-CSRFToken": token_of(client)}).content == known
    for headers in (CROSS_SITE, {}, {"X-CSRFToken": token_of(visitor())}):
        assert client.post("/hook", headers=headers).content == b"unknown"
    # Its body is the view's own.
    assert client.post("/hook", {"csrf_token": token_of(client)}).content == b"unknown"
    assert strict_client().post("/hook", headers=OWN).content == b"unknown"


# --- what cannot work


def started(**changed: Any) -> None:
    with override_settings(**changed):
        Client().get("/nothing")


def without_processor(templates: dict[str, Any]) -> dict[str, Any]:
    return {**templates, "OPTIONS": {}}


@pytest.mark.parametrize(
    "changed, told",
    [
        ({"MIDDLEWARE": [*MIDDLEWARE, DJANGOS]}, "both 'django.middleware.csrf.CsrfViewMiddleware'"),
        ({"CSRF_TRUSTED_ORIGINS": ["https://*.shop.example"]}, "CSRF_TRUSTED_ORIGINS: .* name each"),
        ({"CSRF_TRUSTED_ORIGINS": ["https://*.shop.example"], "MIDDLEWARE": MIDDLEWARE[:1]}, '"csrf": None'),
        ({"CSRF_TRUSTED_ORIGINS": ["https://shop.example/path"]}, "CSRF_TRUSTED_ORIGINS"),
        ({"SERVER_SESSION": {"csrf": None}}, "csrf=None"),
        ({"TEMPLATES": [without_processor(DJANGO_TEMPLATES)]}, f"'django' .*'{PROCESSOR}'"),
        ({"TEMPLATES": [DJANGO_TEMPLATES, without_processor(JINJA2)]}, f"'jinja2' .*'{PROCESSOR}'"),
        (
            {
                "TEMPLATES": [
                    {
                        **DJANGO_TEMPLATES,
                        "OPTIONS": {"context_processors": [PROCESSOR, "django.template.context_processors.csrf"]},
                    }
                ]
            },
            "as the last",
        ),
        ({"MIDDLEWARE": [OURS]}, "'server_session.django.SessionMiddleware' belongs into MIDDLEWARE"),
    ],
)
def test_what_cannot_work_is_said_when_the_server_starts(changed: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigurationError, match=told):
        started(**changed)


def test_a_view_that_is_to_be_checked_needs_a_policy() -> None:
    listed = [name for name in MIDDLEWARE if name != OURS]
    with override_settings(MIDDLEWARE=listed), serving(csrf=None), pytest.raises(ConfigurationError, match="csrf=None"):
        Client().post("/checked-late")


def test_django_keeps_its_own_check_where_the_project_keeps_its_middleware() -> None:
    listed = [DJANGOS if name == OURS else name for name in MIDDLEWARE]
    origins = ["https://*.shop.example", "https://a.example/b"]
    templates = [without_processor(DJANGO_TEMPLATES)]
    with override_settings(MIDDLEWARE=listed, TEMPLATES=templates, CSRF_TRUSTED_ORIGINS=origins):
        client = visitor()
        assert client.post("/send", headers=OWN).status_code == 403
        assert client.get("/data").json() == {"color": "green"}


def test_djangos_own_check_alone_is_told_from_ours_where_templates_have_our_tokens() -> None:
    listed = [DJANGOS if name == OURS else name for name in MIDDLEWARE]
    with pytest.raises(ConfigurationError, match=f"put '{OURS}' in its place"):
        started(SERVER_SESSION={}, MIDDLEWARE=listed, TEMPLATES=[JINJA2])

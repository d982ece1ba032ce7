"""Django's app: `login()` names the owner, and a page of the admin lists an owner's sessions and ends them."""

import importlib
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from django.apps import apps
from django.conf import settings
from django.core.management import call_command
from django.test import AsyncClient, Client, override_settings

from server_session import (
    ConfigurationError,
    FileSessionStore,
    MemorySessionStore,
    StoreError,
    sync,
)
from server_session._owners import _key_of
from server_session._tokens import short_digest
from server_session.stores._over import StoreOver
from server_session.testing import YieldingStore
from tests.django_site.project import set_up

PASSWORD = "correct horse"
PAGE = "/admin/server_session/session/"
OURS = "server_session.django.CsrfViewMiddleware"
DJANGOS = "django.middleware.csrf.CsrfViewMiddleware"


@pytest.fixture(scope="module", autouse=True)
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    set_up(tmp_path_factory.mktemp("django"))
    call_command("migrate", verbosity=0)
    from django.contrib.auth.models import Permission, User

    User.objects.create_user("joan", password=PASSWORD)
    User.objects.create_superuser("alan", password=PASSWORD)
    for name, may in (("staff", ()), ("looker", ("view",)), ("ender", ("view", "delete"))):
        user = User.objects.create_user(name, password=PASSWORD, is_staff=True)
        for each in may:
            user.user_permissions.add(Permission.objects.get(codename=f"{each}_session", content_type__app_label=APP))
    yield
    from django.db import connections

    connections.close_all()


APP = "server_session"


def serving(store: Any, **given: Any) -> Any:
    return override_settings(SERVER_SESSION={"session_store": store, **given})


@pytest.fixture(autouse=True)
def fresh(project: None) -> Iterator[None]:
    with serving(MemorySessionStore()):
        yield


@pytest.fixture(params=["memory", "file"])
def any_store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[None]:
    with serving(MemorySessionStore() if request.param == "memory" else FileSessionStore(tmp_path)):
        yield


@pytest.fixture(params=["memory", "file", "awaiting"])
def any_async_store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[None]:
    stores: dict[str, Callable[[], Any]] = {
        "memory": MemorySessionStore,
        "file": lambda: FileSessionStore(tmp_path),
        "awaiting": lambda: YieldingStore(MemorySessionStore()),
    }
    with serving(stores[request.param]()):
        yield


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[..., Any]], None]:
    """Say what the view `call` or `acall` is to do."""
    from tests.django_site import views

    return lambda body: monkeypatch.setattr(views, "script", body)


def user_named(name: str) -> Any:
    from django.contrib.auth.models import User

    return User.objects.get(username=name)


def owner(name: str = "joan") -> str:
    return str(user_named(name).pk)


def cookie_of(client: Client) -> str:
    return client.cookies[settings.SESSION_COOKIE_NAME].value


def logged_in(name: str = "joan", **headers: str) -> Client:
    client = Client(headers=headers)
    assert client.post("/log-in", {"username": name, "password": PASSWORD}).status_code == 302
    return client


def who(client: Client) -> str:
    return client.get("/who").content.decode()


# --- whose session it is


def test_djangos_own_log_in_names_the_owner_and_log_out_everywhere_covers_it(any_store: None) -> None:
    clients, other = [logged_in() for _ in range(3)], logged_in("alan")
    listed = sync.sessions_of(owner())
    assert {one.id for one in listed} == {cookie_of(client)[:24] for client in clients}
    assert sync.destroy_sessions_of(owner()) == 3
    assert [who(client) for client in clients] == ["AnonymousUser"] * 3
    assert who(other) == "alan"


def test_djangos_own_log_out_ends_the_session(any_store: None) -> None:
    client = logged_in()
    cookie = cookie_of(client)
    (listed,) = sync.sessions_of(owner())
    client.post("/log-out")
    assert sync.sessions_of(owner()) == []
    assert sync.open_session(listed.id).set({"late": 1}) is False
    client.cookies.load({settings.SESSION_COOKIE_NAME: cookie})
    assert who(client) == "AnonymousUser"


def test_a_log_in_keeps_what_the_session_held_under_a_new_cookie_and_ends_the_one_before(
    any_store: None, script: Any
) -> None:
    client = Client()
    client.get("/set/color/green")
    before = cookie_of(client)

    def view(request: Any) -> list[Any]:
        from django.contrib.auth import login

        request.session["cart"] = [1]
        request.session.set_expiry(1000)
        login(request, user_named("joan"))
        request.session["after"] = 1
        return [request.user.username, sorted(request.session.keys())]

    script(view)
    name, keys = client.get("/call").json()
    assert name == "joan"
    assert {"color", "cart", "after", "_auth_user_id", "_session_expiry"} <= set(keys)
    assert cookie_of(client)[:24] != before[:24]
    data = client.get("/data").json()
    assert (data["color"], data["cart"], data["after"], data["_session_expiry"]) == ("green", [1], 1, 1000)
    (listed,) = sync.sessions_of(owner(), data=True)
    assert (listed.id, listed.data) == (cookie_of(client)[:24], data)
    client.cookies.load({settings.SESSION_COOKIE_NAME: before})
    assert client.get("/data").json() == {}


def test_who_logs_in_over_another_takes_the_session_from_nobody_and_leaves_none(any_store: None) -> None:
    client = logged_in()
    client.post("/log-in", {"username": "alan", "password": PASSWORD})
    assert who(client) == "alan"
    assert sync.sessions_of(owner()) == []
    assert [one.id for one in sync.sessions_of(owner("alan"))] == [cookie_of(client)[:24]]


def test_a_log_in_of_the_test_client_names_the_owner(any_store: None) -> None:
    client = Client()
    client.force_login(user_named("joan"))
    assert [one.id for one in sync.sessions_of(owner())] == [cookie_of(client)[:24]]
    assert who(client) == "joan"


async def test_an_awaited_log_in_names_the_owner_and_an_awaited_log_out_ends_it(
    any_async_store: None, script: Any
) -> None:
    from asgiref.sync import sync_to_async
    from django.contrib.auth import alogin, alogout

    from server_session import sessions_of

    joan = await sync_to_async(user_named)("joan")

    async def enter(request: Any) -> str:
        await alogin(request, joan)
        return str(joan.pk)

    async def leave(request: Any) -> str:
        await alogout(request)
        return "left"

    client = AsyncClient()
    script(enter)
    name = (await client.get("/acall")).json()
    assert [one.id for one in await sessions_of(name)] == [cookie_of(client)[:24]]
    assert (await client.get("/who")).content == b"joan"
    script(leave)
    await client.get("/acall")
    assert await sessions_of(name) == []


def test_an_owner_has_no_more_sessions_than_are_allowed() -> None:
    with serving(MemorySessionStore(), max_sessions=2):
        first, second, third = (logged_in() for _ in range(3))
        assert [who(one) for one in (first, second, third)] == ["AnonymousUser", "joan", "joan"]


class Failing(StoreOver):
    """A store whose list of an owner cannot be written."""

    def __init__(self, owner_name: str) -> None:
        super().__init__(MemorySessionStore())
        self._key = _key_of(owner_name)

    async def merge(self, key: str, *rest: Any) -> Any:
        if key == self._key:
            raise StoreError("the store is full")
        return await super().merge(key, *rest)

    async def set(self, key: str, *rest: Any) -> Any:
        if key == self._key:
            raise StoreError("the store is full")
        return await super().set(key, *rest)


def test_a_log_in_whose_owner_cannot_be_written_logs_nobody_in(script: Any) -> None:
    from django.contrib.auth import login

    def view(request: Any) -> str:
        request.session["cart"] = [1]
        with pytest.raises(StoreError):
            login(request, user_named("joan"))
        return str(request.user)

    script(view)
    with serving(Failing(owner())):
        client = Client()
        client.get("/set/color/green")
        # The view answers as usual, with what the visitor had.
        assert client.get("/call").json() == who(client) == "AnonymousUser"
        assert client.get("/data").json() == {"color": "green", "cart": [1]}


async def test_an_awaited_log_in_whose_owner_cannot_be_written_logs_nobody_in(script: Any) -> None:
    from asgiref.sync import sync_to_async
    from django.contrib.auth.signals import user_logged_in

    joan = await sync_to_async(user_named)("joan")

    async def refused(request: Any) -> list[str]:
        async def auser() -> Any:
            return joan

        # As the awaited log-in of Django 6.0 does it.
        request.user, request.auser = joan, auser
        await request.session.aset("_auth_user_id", str(joan.pk))
        with pytest.raises(StoreError):
            await user_logged_in.asend(sender=type(joan), request=request, user=joan)
        return [str(request.user), str(await request.auser())]

    with serving(Failing(str(joan.pk))):
        client = AsyncClient()
        script(refused)
        assert (await client.get("/acall")).json() == ["AnonymousUser"] * 2
        assert (await client.get("/who")).content == b"AnonymousUser"


def test_a_log_in_that_meets_the_end_of_all_logs_nobody_in(script: Any) -> None:
    from django.contrib.auth import login

    class Ending(StoreOver):
        """All of the owner's end between the log-in's entry into the list and its founding."""

        async def set(self, key: str, *rest: Any) -> Any:
            outcome = await super().set(key, *rest)
            if key == _key_of(owner_name):
                sync.destroy_sessions_of(owner_name)
            return outcome

    owner_name = owner()

    def view(request: Any) -> str:
        login(request, user_named("joan"))
        return str(request.user)

    script(view)
    with serving(Ending(MemorySessionStore())):
        client = Client()
        assert client.get("/call").json() == "AnonymousUser"
        assert who(client) == "AnonymousUser"
        assert sync.sessions_of(owner_name) == []


def test_who_logs_in_by_a_token_is_given_no_session(script: Any) -> None:
    from django.contrib.auth.signals import user_logged_in

    def view(request: Any) -> str:
        joan = user_named("joan")
        request.session.get("color")
        user_logged_in.send(sender=type(joan), request=request, user=joan)
        return "in"

    script(view)
    client = Client()
    assert client.get("/call").json() == "in"
    assert not client.cookies
    client = logged_in("alan")
    before = cookie_of(client)
    client.get("/call")
    assert (cookie_of(client), who(client)) == (before, "alan")
    assert sync.sessions_of(owner()) == []
    joan = user_named("joan")
    user_logged_in.send(sender=type(joan), request=None, user=joan)


def test_an_app_before_this_one_hears_of_a_log_in_with_the_key_that_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.django_site import apps as earlier

    keys: list[str] = []
    monkeypatch.setattr(earlier, "script", lambda request: keys.append(request.session.session_key))
    client = logged_in()
    assert keys == [cookie_of(client)]


def test_an_owners_role_changes_in_all_the_sessions_that_django_founded(any_store: None) -> None:
    clients = [logged_in() for _ in range(2)]
    assert sync.update_sessions_of(owner(), lambda data: data.update(role="editor")) == 2
    assert [client.get("/data").json()["role"] for client in clients] == ["editor"] * 2
    assert [who(client) for client in clients] == ["joan"] * 2


def test_a_command_has_the_functions_without_a_request_and_a_store_that_evicts_is_refused_at_the_start() -> None:
    app = apps.get_app_config(APP)
    app.ready()
    assert sync.sessions_of(owner()) == []
    with (
        serving(MemorySessionStore(max_sessions=5, when_full="evict")),
        pytest.raises(ConfigurationError, match="may drop what it holds"),
    ):
        app.ready()


def test_the_app_makes_no_table_no_migration_and_no_dump(capsys: pytest.CaptureFixture[str]) -> None:
    call_command("dumpdata", APP)
    assert capsys.readouterr().out.strip() == "[]"
    call_command("makemigrations", "--check", "--dry-run")
    call_command("check")
    from django.db import connection

    assert not [name for name in connection.introspection.table_names() if name.startswith(APP)]


@pytest.mark.parametrize("name", ["admin", "apps", "models"])
def test_all_that_is_public_in_the_app_exists_and_is_explained(name: str) -> None:
    module = importlib.import_module(f"server_session.django.{name}")
    assert module.__doc__
    assert all(getattr(module, one).__doc__ for one in module.__all__)


# --- the page of the admin


def page(client: Client, name: str = "joan") -> str:
    response = client.get(PAGE, {"owner": owner(name)})
    assert response.status_code == 200
    return response.content.decode()


def named(client: Client) -> str:
    """What the page calls this client's session."""
    return short_digest(cookie_of(client)[:24])


def end(client: Client, what: str | None, name: str = "joan") -> Any:
    return client.post(PAGE, {"owner": owner(name)} | ({} if what is None else {"end": what}))


def test_the_page_lists_an_owners_sessions_and_ends_one_and_all(any_store: None) -> None:
    first, second, third = (logged_in() for _ in range(3))
    admin, alan = logged_in("ender"), logged_in("alan")
    text = page(admin)
    assert all(named(one) in text for one in (first, second, third))
    assert named(alan) not in text
    assert 'value="&lt;b&gt;"' in admin.get(PAGE, {"owner": "<b>"}).content.decode()
    response = end(admin, named(second))
    assert (response.status_code, response["Location"]) == (302, f"{PAGE}?owner={owner()}")
    assert "1 session ended." in page(admin)
    assert [who(one) for one in (first, second, third)] == ["joan", "AnonymousUser", "joan"]
    end(admin, "all")
    text = page(admin)
    assert "2 sessions ended." in text
    assert "No sessions." in text
    assert [who(one) for one in (first, third, alan, admin)] == ["AnonymousUser"] * 2 + ["alan", "ender"]


def test_no_id_of_a_session_leaves_the_server(any_store: None) -> None:
    client, admin = logged_in(), logged_in("ender")
    text = page(admin)
    assert cookie_of(client)[:24] not in text
    assert cookie_of(client)[:24] not in end(admin, named(client))["Location"]
    # And what is sent in one's place names nothing.
    other = logged_in()
    end(admin, cookie_of(other)[:24])
    assert who(other) == "joan"


def test_the_page_marks_the_session_that_looks_and_can_end_it() -> None:
    admin, elsewhere = logged_in("ender"), logged_in("ender")
    text = page(admin, "ender")
    assert f"{named(admin)} (this one)" in text
    assert f"{named(elsewhere)} (this one)" not in text
    end(admin, named(admin), "ender")
    assert (who(admin), who(elsewhere)) == ("AnonymousUser", "ender")


@pytest.mark.parametrize("what", [None, "", "0123456789", "All", "\0", "é"])
def test_what_names_no_session_of_the_owner_ends_none(what: str | None) -> None:
    client, alan, admin = logged_in(), logged_in("alan"), logged_in("ender")
    end(admin, what)
    # Another owner's session is none of this one's.
    end(admin, named(alan))
    admin.post(PAGE, {"end": "all"})
    admin.post(PAGE, {"end": "all", "owner": ""})
    assert (who(client), who(alan)) == ("joan", "alan")


def test_a_get_ends_nothing_and_without_an_owner_the_page_asks_for_one() -> None:
    client, admin = logged_in(), logged_in("ender")
    for query in ({"owner": owner(), "end": "all"}, {"owner": owner(), "end": named(client)}, {}):
        assert admin.get(PAGE, query).status_code == 200
    assert "Founded" not in admin.get(PAGE).content.decode()
    assert who(client) == "joan"


def test_to_look_and_to_end_take_a_permission_each() -> None:
    client = logged_in()
    staff, looker, nobody = logged_in("staff"), logged_in("looker"), Client()
    for one in (client, nobody):
        assert "/admin/login/" in one.get(PAGE)["Location"]
        assert "/admin/login/" in end(one, "all")["Location"]
    assert staff.get(PAGE).status_code == 403
    text = page(looker)
    assert named(client) in text
    assert 'name="end"' not in text
    for one in (staff, looker):
        assert end(one, "all").status_code == 403
        assert end(one, named(client)).status_code == 403
    assert who(client) == "joan"


def test_the_admins_index_shows_the_page_to_those_who_may_look_and_nothing_else_is_there() -> None:
    looker, alan = logged_in("looker"), logged_in("alan")
    assert PAGE in looker.get("/admin/").content.decode()
    assert PAGE not in logged_in("staff").get("/admin/").content.decode()
    assert alan.get("/admin/server_session/").status_code == 200
    for rest in ("add/", "1/change/", "1/delete/", "1/history/"):
        assert alan.get(PAGE + rest).status_code == 404


@pytest.mark.parametrize("middleware", [OURS, DJANGOS])
def test_a_forged_end_is_refused_and_the_pages_own_form_works(middleware: str) -> None:
    processors = [*settings.TEMPLATES[0]["OPTIONS"]["context_processors"], "server_session.django.csrf"]
    ours = {**settings.TEMPLATES[0], "OPTIONS": {"context_processors": processors}}
    templates = [ours] if middleware == OURS else settings.TEMPLATES
    served = [middleware if one == DJANGOS else one for one in settings.MIDDLEWARE]
    with override_settings(MIDDLEWARE=served, TEMPLATES=templates):
        client, admin = logged_in(), logged_in("ender")
        admin.handler.enforce_csrf_checks = True
        forged = {"owner": owner(), "end": "all"}
        assert admin.post(PAGE, forged).status_code == 403
        assert admin.post(PAGE, forged, headers={"Sec-Fetch-Site": "cross-site"}).status_code == 403
        assert who(client) == "joan"
        found = re.search(r'name="csrfmiddlewaretoken" value="([^"]+)".*name="owner"', page(admin), re.DOTALL)
        assert found
        assert admin.post(PAGE, {**forged, "csrfmiddlewaretoken": found.group(1)}).status_code == 302
        assert who(client) == "AnonymousUser"


async def test_the_page_is_served_under_asgi_over_a_store_that_awaits() -> None:
    from asgiref.sync import sync_to_async

    with serving(YieldingStore(MemorySessionStore())):
        joan, alan = await sync_to_async(user_named)("joan"), await sync_to_async(user_named)("alan")
        client, admin = AsyncClient(), AsyncClient()
        await client.aforce_login(joan)
        await admin.aforce_login(alan)
        response = await admin.get(PAGE, {"owner": str(joan.pk)})
        assert named(client) in response.content.decode()
        await admin.post(PAGE, {"owner": str(joan.pk), "end": "all"})
        assert (await client.get("/who")).content == b"AnonymousUser"

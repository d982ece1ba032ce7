"""The pages of docs/how-to keep what they promise."""

import sys
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from server_session import MemorySessionStore, _sessions, configure
from tests.documents import DOCS, application_of, code_of, hidden_in, run, write_files
from tests.visitors import Clock

HOW_TO = DOCS / "how-to"


@pytest.fixture(autouse=True)
def unconfigured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_sessions, "_configured", None)


def app_of(page: str, name: str) -> FastAPI:
    app: FastAPI = run(HOW_TO / f"{page}.md", name)["app"]
    return app


def client_of(app: FastAPI, base_url: str = "https://shop.example", **headers: str) -> TestClient:
    return TestClient(app, base_url=base_url, headers={"Sec-Fetch-Site": "same-origin", **headers})


def attributes_in(header: str) -> set[str]:
    _, *attributes = header.split("; ")
    return set(attributes)


def test_behind_a_proxy_the_cookie_is_secure_and_the_own_origin_passes() -> None:
    client = TestClient(app_of("proxy", "proxy"), base_url="http://10.0.0.7:8000")
    reply = client.post("/log-in", headers={"Origin": "https://shop.example"})
    assert reply.status_code == 200
    cookie = reply.headers["set-cookie"]
    assert cookie.startswith("__Host-session=")
    assert "Secure" in attributes_in(cookie)
    for foreign in ("http://shop.example", "https://evil.example", "http://10.0.0.7:8000"):
        assert client.post("/log-in", headers={"Origin": foreign}).status_code == 403


@pytest.mark.parametrize("scheme, remembered", [("http", None), ("https", "ada")])
def test_a_test_client_keeps_the_cookie_of_an_https_origin_only_on_https(scheme: str, remembered: str | None) -> None:
    app = app_of("htmx", "another origin")
    client = client_of(app, f"{scheme}://api.shop.example")
    client.post("/api/log-in?user=ada")
    assert client.get("/api/me").json() == remembered


def test_litestars_client_is_a_page_of_the_applications_own_by_a_header_of_its_own() -> None:
    from litestar.testing import TestClient

    with TestClient(application_of("litestar")) as client:
        assert "nobody: 0" in client.get("/").text
        assert client.post("/add").status_code == 403
        client.headers["Sec-Fetch-Site"] = "same-origin"
        assert "nobody: 1" in client.post("/add").text


def test_several_workers_serve_the_sessions_of_one_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SESSION_STORE", f"file:{tmp_path}")
    one = client_of(app_of("workers", "workers"))
    one.post("/name?name=Ada")
    # Another worker is the same module once more.
    other = client_of(app_of("workers", "workers"))
    other.cookies = one.cookies
    assert other.get("/name").json() == "Ada"


@pytest.mark.parametrize("remember", [True, False])
def test_who_is_remembered_is_so_for_sixty_idle_days_and_ninety_in_all(remember: bool) -> None:
    app = app_of("remember-me", "remember me")
    clock = Clock()
    configure(session_store=MemorySessionStore(clock=clock), clock=clock)
    client = client_of(app)
    cookie = client.post(f"/log-in?remember={remember}").headers["set-cookie"]
    assert (f"Max-Age={90 * 86400}" in attributes_in(cookie)) == remember
    # What the test's own clock says is no concern of the client's.
    credential = cookie.partition(";")[0]
    seen = []
    for days in (59, 30, 2):
        clock.advance(days * 86400)
        seen.append(client.get("/", headers={"Cookie": credential}).json())
    assert seen == (["Ada", "Ada", "nobody"] if remember else ["nobody"] * 3)


class TestLogOutEverywhere:
    @pytest.fixture
    def clients(self) -> list[TestClient]:
        app = app_of("log-out-everywhere", "log out everywhere")
        clients = [client_of(app, **{"User-Agent": name}) for name in ("phone", "laptop", "desk")]
        for client in clients:
            client.post("/log-in?user=ada")
        return clients

    def statuses(self, clients: list[TestClient]) -> list[int]:
        return [client.get("/devices").status_code for client in clients]

    def test_one_device_can_be_ended_by_its_id(self, clients: list[TestClient]) -> None:
        listed: list[dict[str, Any]] = clients[1].get("/devices").json()
        assert {(one["device"], one["this"]) for one in listed} == {
            ("phone", False),
            ("laptop", True),
            ("desk", False),
        }
        (phone,) = (one["id"] for one in listed if one["device"] == "phone")
        clients[1].post("/devices/end", params={"id": phone})
        assert self.statuses(clients) == [401, 200, 200]

    def test_a_change_of_password_ends_all_others(self, clients: list[TestClient]) -> None:
        assert clients[0].post("/password").status_code == 200
        assert self.statuses(clients) == [200, 401, 401]

    def test_log_out_everywhere_ends_all_and_clears_the_cookie(self, clients: list[TestClient]) -> None:
        clients[2].post("/log-out-everywhere")
        assert not clients[2].cookies
        assert self.statuses(clients) == [401, 401, 401]

    def test_a_log_in_of_long_ago_asks_for_the_password_again(self) -> None:
        app = app_of("log-out-everywhere", "log out everywhere")
        clock = Clock()
        configure(session_store=MemorySessionStore(clock=clock), clock=clock)
        client = client_of(app)
        client.post("/log-in?user=ada")
        clock.advance(301)
        assert client.post("/password").status_code == 403
        client.post("/confirm")
        assert client.post("/password").status_code == 200


def test_the_cookie_of_an_iframe_is_partitioned_and_the_check_keeps_the_embedding_page_out() -> None:
    client = client_of(app_of("iframe", "iframe"), "https://widget.example")
    page = client.get("/", headers={"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Dest": "iframe"})
    cookie = page.headers["set-cookie"]
    assert cookie.startswith("__Host-session=")
    assert {"SameSite=None", "Partitioned", "Secure", "HttpOnly"} <= attributes_in(cookie)
    assert "partner.example" in page.headers["content-security-policy"]
    form = {"csrf_token": hidden_in(page.text)}
    assert client.post("/vote", data=form, headers={"Sec-Fetch-Site": "cross-site"}).status_code == 403
    assert "<p>1</p>" in client.post("/vote", data=form).text


def test_a_client_that_keeps_cookies_sends_the_token_that_its_log_in_gave() -> None:
    client = TestClient(app_of("api-clients", "token for a client"), base_url="https://shop.example")
    token = client.post("/api/log-in?user=ada").json()["csrf_token"]
    assert client.post("/api/name?name=Ada").status_code == 403
    assert client.post("/api/name?name=Ada", headers={"X-CSRF-Token": token}).status_code == 200
    assert client.get("/api/name").json() == "Ada"
    client.post("/api/log-in?user=ada", headers={"X-CSRF-Token": token})
    stale = client.post("/api/name?name=Ada", headers={"X-CSRF-Token": token})
    assert (stale.status_code, stale.headers["CSRF-Rejection"]) == (403, "csrf_stale")


def test_a_credential_in_a_header_is_a_session_that_no_cookie_opens() -> None:
    client = TestClient(app_of("api-clients", "credential in a header"), base_url="https://shop.example")
    credential = client.post("/log-in?user=ada").headers["session"]
    bearer = {"Authorization": f"Bearer {credential}"}
    assert client.get("/me", headers=bearer).json() == "ada"
    assert client.get("/me").json() is None
    assert client.get("/me", headers={"Cookie": f"session={credential}"}).json() is None
    renewed = client.post("/log-in?user=ada", headers=bearer).headers["session"]
    assert client.get("/me", headers=bearer).json() is None
    bearer = {"Authorization": f"Bearer {renewed}"}
    assert client.post("/log-out", headers=bearer).headers["session"] == ""
    assert client.get("/me", headers=bearer).json() is None


def test_a_page_on_another_origin_logs_in_if_it_is_trusted_and_a_sibling_does_not() -> None:
    page, sibling = (
        {"Origin": f"https://{name}.shop.example", "Sec-Fetch-Site": "same-site"} for name in ("app", "blog")
    )
    client = TestClient(app_of("htmx", "another origin"), base_url="https://api.shop.example")
    asked = {**page, "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "X-CSRF-Token"}
    assert client.options("/api/log-in", headers=asked).headers["access-control-allow-credentials"] == "true"
    assert client.post("/api/log-in?user=ada", headers=sibling).status_code == 403
    assert client.post("/api/log-in?user=ada", headers=page).status_code == 200
    assert client.get("/api/me", headers=page).json() == "ada"
    token = client.get("/api/token", headers=page).json()["token"]
    bare = client.post("/api/log-in?user=eve")
    assert (bare.status_code, bare.headers["CSRF-Rejection"]) == (403, "csrf_token_missing")
    assert client.post("/api/log-in?user=eve", headers={"X-CSRF-Token": token}).status_code == 200


def test_a_page_with_the_script_has_a_token_for_what_it_sends() -> None:
    client = TestClient(app_of("htmx", "htmx"), base_url="https://shop.example")
    page = client.get("/").text
    token = page.partition('name="csrf-token" content="')[2].partition('"')[0]
    assert page.index("<script>") < page.index("htmx.js")
    assert client.post("/add").status_code == 403
    assert client.post("/add", headers={"X-CSRF-Token": token}).text == "1"


def test_the_tests_of_the_page_on_testing_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_files(DOCS / "tutorial" / "fastapi.md", tmp_path)
    (tmp_path / "test_shop.py").write_text(code_of(HOW_TO / "testing.md", "tests"))
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    counted = Counted()
    # Within this process, where the framework is loaded already.
    ended = pytest.main(["-q", "-p", "no:cacheprovider", "-p", "no:faulthandler", str(tmp_path)], [counted])
    del sys.modules["shop"], sys.modules["test_shop"]
    assert (ended, counted.passed) == (pytest.ExitCode.OK, 3)


class Counted:
    passed = 0

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.passed += report.when == "call" and report.passed

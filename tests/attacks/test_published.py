"""Flaws that were published of other libraries: for each a test, that ours is not one of them.

Where the flaw was a framework's, the test is over that framework too.
"""

import asyncio
import http.client
import json
import string
import threading
import types
import unicodedata
from collections.abc import Callable, Iterator, MutableMapping
from contextlib import contextmanager
from itertools import product
from typing import Any
from urllib.parse import quote
from wsgiref.simple_server import WSGIRequestHandler, make_server

import flask
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request as StarletteRequest
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route

from server_session import CSRF, CookieHandler, EncryptedCodec, MemorySessionStore, _sessions, csrf_exempt
from server_session._codec import encode_value
from server_session._colour import drive
from server_session._owners import _key_of
from server_session._tokens import Credential, Token, issue_token, read_token
from server_session.django import csrf_exempt as django_exempt
from server_session.flask import ServerSession
from server_session.starlette import SessionMiddleware
from server_session.stores._base import Fields, Lifetime, Outcome, SessionStore
from server_session.stores.file import FileSessionStore
from tests.asgi_client import call, scope_of
from tests.attacks.stage import (
    HOST,
    INTERFACES,
    Browser,
    Endpoint,
    Gate,
    Reply,
    Request,
    Site,
    meanwhile,
    timed_site,
    victim_at,
)
from tests.django_site.project import set_up
from tests.parts import ALL
from tests.patience import PATIENCE
from tests.visitors import Watched

ORIGIN = f"https://{HOST}"
EVIL = "https://evil.example"
PLACES = [("asgi", "memory"), ("wsgi", "memory"), ("wsgi", "file"), ("asgi", "sealed memory")]


def record_of(store: SessionStore, cookie: str) -> Fields | Outcome:
    return drive(store.get(cookie.partition("=")[2][:24], {}, False))


# --- ids


async def revoke(request: Request) -> Any:
    return await request.functions.destroy_sessions_of("victim")


async def clear_alone(request: Request) -> Any:
    request.session.clear()


EXTRA: dict[str, Endpoint] = {"/revoke": revoke, "/clear_alone": clear_alone}
ENDS: dict[str, Callable[[Site, Browser], Any]] = {
    "log-out": lambda _, browser: browser.post("/log_out"),
    "an empty mapping": lambda _, browser: browser.post("/clear_alone"),
    "another log-in": lambda site, browser: Browser(site, browser.cookie).post("/replace"),
    "revocation": lambda site, _: Browser(site).post("/revoke"),
    "idleness": lambda site, _: site.clock.advance(1801),
    "the deadline": lambda site, _: site.clock.advance(31 * 86400),
}


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("interface, kind", PLACES)
def test_cve_2018_1000519_an_id_that_was_ended_is_not_taken_up_again(interface, kind, end, tmp_path):
    """plants an id that was issued to him, and has ended, in the victim's browser — log-in gives quite another."""
    site = timed_site(interface, kind, tmp_path, endpoints=EXTRA)
    attacker = victim_at(site)
    ended = attacker.cookie
    assert ended is not None
    ENDS[end](site, attacker)
    planted = ended.partition("=")[2]
    victim = Browser(site, ended)
    assert victim.get().said == {}
    for way in ("/log_in", "/assign", "/clear"):
        victim.cookie = ended
        victim.post(way, body=b"victim")
        if way == "/assign" and victim.cookie == ended:
            # Within the minute a plain write with an ended cookie is a late one: it is dropped, and logs nobody in.
            assert victim.get().said == {}
            continue
        assert victim.get().said == {"user": "victim"}
        assert (victim.credential[:24], victim.credential[24:]) != (planted[:24], planted[24:])
        assert victim.credential[:24] != planted[:24]
        assert victim.credential[24:] != planted[24:]
        assert Browser(site, ended).get().said == {}
    held = record_of(site.sessions.policy.store, ended)
    assert held is Outcome.MISSING or set(held) == {"\0ended"}


class Spy(Watched):
    """Keeps the keys under which anything is written."""

    def __init__(self) -> None:
        super().__init__()
        self.keys: list[str] = []

    async def set(self, key: str, *rest: Any) -> Outcome:
        outcome = await super().set(key, *rest)
        if outcome is Outcome.APPLIED:
            self.keys.append(key)
        return outcome

    async def merge(self, key: str, *arguments: Any) -> Outcome:
        outcome = await super().merge(key, *arguments)
        if outcome is Outcome.APPLIED:
            self.keys.append(key)
        return outcome


async def write_twice(request: Request) -> Any:
    """Write from two places of one request, as a middleware and a view do."""
    request.session["first"] = 1
    await request.functions.set_session_data(request.carrier, {"second": 2})
    await request.functions.update_session_data(request.carrier, lambda data: data.update(third=3))
    return await request.functions.get_csrf_token(request.carrier)


CHOSEN = [
    "A" * 64,
    "-" * 64,
    "A" * 24 + "B" * 40,
    "chosen",
    "",
    "A" * 63,
    "A" * 65,
    "x" * 4000,
    "../../" * 10,
    "%41" * 21,
]


@pytest.mark.parametrize("chosen", [*CHOSEN, "the selector of another"])
@pytest.mark.parametrize("interface", INTERFACES)
def test_cve_2024_38513_an_id_of_the_client_s_choice_founds_nothing_under_it(interface, chosen):
    """sends a session cookie of his own making — read, it founds nothing; written, the id is the server's own."""
    store = Spy()
    site = Site(interface, {"/twice": write_twice}, session_store=store)
    other = victim_at(site)
    if chosen == "the selector of another":
        chosen = other.credential[:24] + "B" * 40
    store.keys.clear()
    rows = store.store.stats().sessions
    for path in ("/whoami", "/validate", "/pluck"):
        reply = Browser(site, f"session={chosen}").get(path)
        assert (reply.said in ({}, False, None), reply.all("set-cookie"), store.keys) == (True, [], [])
    for path in ("/write", "/log_in", "/assign", "/clear", "/token", "/count", "/twice"):
        browser = Browser(site, f"session={chosen}")
        store.keys.clear()
        reply = browser.post(path, body=b"x")
        assert len(reply.all("set-cookie")) == 1
        assert browser.credential[:24] != chosen[:24]
        assert not any(key in chosen or chosen[:24] == key for key in store.keys)
        if path == "/twice":
            assert browser.get().said == {"first": 1, "second": 2, "third": 3}
            assert len(set(store.keys)) == 1
    assert store.store.stats().sessions == rows + 7 + 1  # the list of the one owner's sessions
    assert other.get().said == {"user": "victim"}


# --- racing saves


async def merely_read(request: Request) -> Any:
    return await request.functions.get_session_data(request.carrier)


async def write_another(request: Request) -> Any:
    return await request.functions.set_session_data(request.carrier, {"late": 1})


async def update_another(request: Request) -> Any:
    return await request.functions.update_session_data(request.carrier, lambda data: data.update(late=1))


async def write_mapping(request: Request) -> None:
    request.session["late"] = 1


async def ignore(request: Request) -> None:
    return None


LATE: dict[str, Endpoint] = {
    "reads": merely_read,
    "writes": write_another,
    "updates": update_another,
    "writes the mapping": write_mapping,
    "ignores it": ignore,
}


@pytest.mark.parametrize("late", LATE)
@pytest.mark.parametrize("end", ["log-out", "an empty mapping", "another log-in", "revocation", "the deadline"])
@pytest.mark.parametrize("interface, kind", PLACES)
def test_cve_2025_32441_a_slow_request_does_not_bring_an_ended_session_back(interface, kind, end, late, tmp_path):
    """keeps a request open over the victim's log-out and lets it end then — the session stays ended."""
    gate = Gate()
    first = LATE[late]

    async def slow(request: Request) -> Any:
        before = await request.functions.get_session_data(request.carrier)
        dict(request.session)
        gate.wait()
        await first(request)
        return before

    site = timed_site(interface, kind, tmp_path, endpoints={**EXTRA, "/slow": slow})
    victim = victim_at(site)
    old = victim.cookie
    assert old is not None
    with gate.holding(lambda: site.post("/slow", cookie=old)) as running:
        ENDS[end](site, victim)
        rows = len(drive(site.sessions.store.list_records()).records)
    reply = running.result(PATIENCE)
    assert (reply.status, reply.said) == (200, {"user": "victim"})
    assert reply.all("set-cookie") == []
    assert len(drive(site.sessions.store.list_records()).records) <= rows
    assert Browser(site, old).get().said == {}
    assert Browser(site, old).post("/write", body=b"x").status == 200
    assert Browser(site, old).get().said == {}


@pytest.mark.parametrize("late", LATE)
@pytest.mark.parametrize("interface, kind", PLACES)
def test_cve_2025_46336_a_slow_request_does_not_revive_the_cookie_of_before_a_renewal(interface, kind, late, tmp_path):
    """keeps a request with the old cookie open over a renewal — that cookie stays dead, the new one in place."""
    step = LATE[late]

    async def slow(request: Request) -> Any:
        await request.functions.get_session_data(request.carrier)
        meanwhile(lambda: victim.post("/renew"))
        return await step(request)

    site = timed_site(interface, kind, tmp_path, endpoints={"/slow": slow})
    victim = victim_at(site)
    old = victim.cookie
    reply = site.post("/slow", cookie=old)
    assert (reply.status, reply.all("set-cookie")) == (200, [])
    assert victim.cookie != old
    assert victim.get().said == {"user": "victim"}
    assert Browser(site, old).get().said == {}
    # The same without the renewal is saved.
    if late in ("writes", "updates", "writes the mapping"):
        site.endpoints["/slow"] = step
        victim.post("/slow")
        assert victim.get().said == {"user": "victim", "late": 1}


# --- caches


def is_private(headers: list[tuple[str, str]]) -> bool:
    found = {name.lower(): value.lower() for name, value in headers if name.lower() != "set-cookie"}
    directives = {one.strip() for one in found.get("cache-control", "").split(",")}
    vary = {one.strip() for one in found.get("vary", "").split(",")}
    shared = [name for name in found if name.endswith("cdn-cache-control") or name == "surrogate-control"]
    return (
        {"private", "no-store"} <= directives
        and "cookie" in vary
        and not shared
        and not [one for one in directives if one.startswith(("public", "s-maxage"))]
    )


CACHEABLE = [
    ("Cache-Control", "public, max-age=600, s-maxage=600"),
    ("CDN-Cache-Control", "max-age=600"),
    ("Surrogate-Control", "max-age=600"),
    ("Vary", "Accept-Language"),
]


@pytest.mark.filterwarnings("ignore:.*")
@pytest.mark.parametrize("method", ["GET", "HEAD", "POST"])
@pytest.mark.parametrize("interface", INTERFACES)
def test_cve_2023_30861_no_cache_keeps_a_response_that_sets_the_cookie(interface, method):
    """asks a shared cache for a page whose response set another's cookie — none may be kept: no-store, Vary: Cookie."""
    site = Site(interface, EXTRA, CACHEABLE)
    own = ("sec-fetch-site", "same-origin")
    for path in ("/write", "/log_in", "/renew", "/assign", "/clear", "/token", "/log_out", "/clear_alone", "/replace"):
        cookie = victim_at(site).cookie if path not in ("/write", "/token") else None
        reply = site.send(method, path, own, cookie=cookie, body=b"somebody")
        assert reply.status == 200
        assert len(reply.all("set-cookie")) == 1, path
        assert is_private(reply.headers), path
        assert "Accept-Language" in ",".join(reply.all("vary"))
    # A page without any session stays a cache's; in plain ASGI nobody can tell who looks at the mapping.
    reply = site.send("GET", "/echo", cookie=victim_at(site).cookie)
    assert reply.all("cache-control") == ["public, max-age=600, s-maxage=600"]
    assert reply.all("vary") == ["Accept-Language" + (", Cookie" if interface == "asgi" else "")]


# --- the frameworks of which these flaws were


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> None:
    set_up(tmp_path_factory.mktemp("django"))


DJANGO_MIDDLEWARE = [
    "server_session.django.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "server_session.django.CsrfViewMiddleware",
]


class Framework:
    """An application of one view function, of GET and POST, in one of the frameworks.

    `view` gets the framework's session and returns text, `None` never looks at it; `methods` are those that it served.
    """

    def __init__(self, name: str, view: Callable[[Any], str] | None, **more: Any) -> None:
        self.view = view
        self.more = more
        self.cookie: str | None = None
        self.methods: list[str] = []
        self._send = getattr(self, f"_{name}")

    def send(self, method: str = "GET", *headers: tuple[str, str], path: str = "/page", body: bytes = b"") -> Reply:
        reply: Reply = self._send(method, path, [("Host", HOST), *headers], body)
        if reply.cookie is not None:
            self.cookie = reply.cookie or None
        return reply

    def founds(self) -> "Framework":
        """Give this browser a session, by a page of the site's own."""
        view, self.view = self.view, put_user
        self.send("POST", ("Sec-Fetch-Site", "same-origin"))
        self.view = view
        assert self.cookie is not None
        return self

    def _serve(self, request: Any, session: Callable[[], Any]) -> str:
        self.methods.append(request.method)
        return "nothing" if self.view is None else self.view(session())

    def _lines(self, headers: list[tuple[str, str]]) -> list[tuple[str, str]]:
        return [*headers, *([("Cookie", self.cookie)] if self.cookie else [])]

    def _flask(self, method: str, path: str, headers: list[tuple[str, str]], body: bytes) -> Reply:
        if not hasattr(self, "app"):
            self.app = flask.Flask("shop")
            self.app.config.update(self.more.get("config", {}))
            ServerSession(self.app, csrf=CSRF(), session_store=MemorySessionStore())

            def page() -> str:
                return self._serve(flask.request, lambda: flask.session)

            self.app.add_url_rule("/page", view_func=page, methods=["GET", "POST"])
        client = self.app.test_client(use_cookies=False)
        answer = client.open(path, method=method, headers=self._lines(headers), data=body)
        return Reply(answer.status_code, list(answer.headers), answer.data)

    def _starlette(self, method: str, path: str, headers: list[tuple[str, str]], body: bytes) -> Reply:
        if not hasattr(self, "app"):

            async def page(request: StarletteRequest) -> PlainTextResponse:
                return PlainTextResponse(self._serve(request, lambda: request.session))

            self.app = Starlette(
                routes=[Route("/page", page, methods=["GET", "POST"])],
                middleware=[Middleware(SessionMiddleware, session_store=MemorySessionStore())],
            )
        lines = [(name.lower().encode(), value.encode("latin-1")) for name, value in self._lines(headers)]
        answer = asyncio.run(call(self.app, scope_of(path, method=method, headers=lines), body))
        decoded = [(name.decode(), value.decode("latin-1")) for name, value in answer.headers]
        return Reply(answer.status, decoded, answer.body)

    def _django(self, method: str, path: str, headers: list[tuple[str, str]], body: bytes) -> Reply:
        from django.http import HttpResponse
        from django.test import RequestFactory, override_settings
        from django.test.client import ClientHandler
        from django.urls import path as route

        if not hasattr(self, "urls"):

            def page(request: Any) -> Any:
                return HttpResponse(self._serve(request, lambda: request.session))

            self.urls = types.SimpleNamespace(urlpatterns=[route("page", page)])
            self.store = MemorySessionStore()
        environ = {f"HTTP_{name.upper().replace('-', '_')}": value for name, value in self._lines(headers)}
        configured = self.more.get("django", {})
        urlconf = types.ModuleType("tests.attacks.urls")
        urlconf.urlpatterns = self.urls.urlpatterns  # type: ignore[attr-defined]
        given = {"session_store": self.store}
        with override_settings(
            MIDDLEWARE=DJANGO_MIDDLEWARE, TEMPLATES=[], ROOT_URLCONF=urlconf, SERVER_SESSION=given, **configured
        ):
            handler = ClientHandler(enforce_csrf_checks=True)
            answer = handler(RequestFactory().generic(method, path, body, **environ).environ)
        cookies = [("Set-Cookie", morsel.OutputString()) for morsel in answer.cookies.values()]
        return Reply(answer.status_code, [*answer.headers.items(), *cookies], answer.content)


def put_user(session: Any) -> str:
    session["user"] = "victim"
    return "put"


FRAMEWORKS = ["flask", "starlette", "django"]


@pytest.fixture
def _frameworks(project: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_sessions, "_configured", None)


@pytest.mark.usefixtures("_frameworks")
@pytest.mark.parametrize("name", ["flask", "django"])
def test_cve_2023_30861_a_cookie_that_is_sent_again_untouched_is_kept_by_no_cache(name):
    """asks a cache for a page whose response sent an unchanged cookie again — no-store and Vary: Cookie with it."""

    def permanent(session: Any) -> str:
        session["user"] = "victim"
        if name == "flask":
            session.permanent = True
        return "in"

    app = Framework(
        name,
        permanent,
        config={"SESSION_REFRESH_EACH_REQUEST": True},
        django={"SESSION_SAVE_EVERY_REQUEST": True},
    )
    app.send("POST", ("Sec-Fetch-Site", "same-origin"))
    app.view = None
    untouched = app.send()
    assert untouched.body == b"nothing"
    # Flask's extension sends it again only where the session was looked at.
    assert len(untouched.all("set-cookie")) == (name == "django")
    assert is_private(untouched.headers) == (name == "django")
    app.view = lambda session: str(session.get("user"))
    looked = app.send()
    assert (looked.body, len(looked.all("set-cookie")), is_private(looked.headers)) == (b"victim", 1, True)
    app.view, app.cookie = None, None
    assert app.send().all("set-cookie") == []


READS: dict[str, Callable[[Any], Any]] = {
    "in": lambda session: "user" in session,
    "[]": lambda session: session["user"],
    "get": lambda session: session.get("user"),
    "len": len,
    "bool": bool,
    "iteration": list,
    "reversed": lambda session: list(reversed(session)),
    "keys": lambda session: list(session.keys()),
    "values": lambda session: list(session.values()),
    "items": lambda session: list(session.items()),
    "==": lambda session: session == {"user": "victim"},
    "!=": lambda session: session != {},
    "|": lambda session: session | {},
    "reversed |": lambda session: {} | session,
    "copy": lambda session: session.copy(),
    "dict": dict,
    "**": lambda session: {**session},
    "repr": repr,
    "str": str,
    "pop of what is absent": lambda session: session.pop("absent", None),
    "setdefault of what is there": lambda session: session.setdefault("user", "x"),
}
# What Django's session has not, in any backend.
NOT_DJANGO = {
    "len",
    "bool",
    "iteration",
    "reversed",
    "==",
    "!=",
    "|",
    "reversed |",
    "copy",
    "dict",
    "**",
    "repr",
    "str",
}
# One that is not loaded says so, and so the same to everybody.
SAYS_NOTHING = {"repr", "str"}


def test_cve_2026_27205_the_list_of_reads_has_every_method_of_a_dict():
    """finds a way to look at the session that nobody thought of — every method of a mapping is in these tests' list."""
    readers = {name for name in {*dir(MutableMapping), *dir(dict)} if callable(getattr(dict, name, None))}
    writers = {"__setitem__", "__delitem__", "clear", "popitem", "update", "fromkeys", "__ior__"}
    plain = set(dir(object)) - {"__eq__", "__ne__", "__repr__", "__str__"}
    listed = {
        *("__contains__", "__getitem__", "get", "__len__", "__iter__", "__reversed__", "keys", "values", "items"),
        *(
            "__eq__",
            "__ne__",
            "__or__",
            "__ror__",
            "copy",
            "__repr__",
            "__str__",
            "pop",
            "setdefault",
            "__class_getitem__",
        ),
    }
    assert readers - writers - plain == listed


@pytest.mark.usefixtures("_frameworks")
@pytest.mark.parametrize("read", READS)
@pytest.mark.parametrize("name", FRAMEWORKS)
def test_cve_2026_27205_a_page_that_only_looks_at_the_session_varies_on_the_cookie(name, read):
    """asks a cache for a page that only looks whether there is a log-in — Vary: Cookie for each way to look."""
    if name == "django" and read in NOT_DJANGO:
        return
    app = Framework(name, lambda session: str(READS[read](session))).founds()
    reply = app.send()
    assert reply.status == 200
    assert varies(reply) or (read in SAYS_NOTHING and b"not loaded" in reply.body)
    app.cookie = None
    app.view = lambda session: str(session.get("user"))
    assert varies(app.send())
    app.view = None
    assert app.send().all("vary") == []


def varies(reply: Reply) -> bool:
    return "cookie" in ",".join(reply.all("vary")).lower()


@pytest.mark.usefixtures("_frameworks")
@pytest.mark.parametrize(
    "template", ["{% if session.user %}a{% endif %}", "{{ session|length }}", "{{ 'user' in session }}"]
)
def test_cve_2026_27205_a_template_that_names_the_session_varies_on_the_cookie(template):
    """asks a cache for a page whose template alone looks at the session — Vary: Cookie (Flask)."""
    app = Framework("flask", lambda _: flask.render_template_string(template)).founds()
    assert "Cookie" in ",".join(app.send().all("vary"))
    app.view = lambda _: flask.render_template_string("none")
    assert app.send().all("vary") == []


@pytest.mark.parametrize("read", READS)
@pytest.mark.parametrize("interface", INTERFACES)
def test_cve_2026_27205_the_mapping_of_each_interface_varies_on_the_cookie(interface, read):
    """does the same over the bare interfaces — Vary: Cookie for each way to look, and for the functions."""

    def tells(request: Request) -> None:
        # Starlette says itself that the mapping was asked for; plain ASGI does not, and so always varies.
        if interface == "asgi":
            request.carrier["app"] = Starlette()

    async def look(request: Request) -> Any:
        tells(request)
        return str(READS[read](request.session))

    async def ignores(request: Request) -> None:
        tells(request)

    site = Site(interface, {"/look": look, "/ignores": ignores})
    victim = victim_at(site)
    looked = victim.get("/look")
    assert varies(looked) or (read in SAYS_NOTHING and b"not loaded" in looked.body)
    assert victim.get("/whoami").all("vary") == ["Cookie"]
    assert victim.get("/ignores").all("vary") == []


# --- an origin check that never ran


class Quiet(WSGIRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def wsgiref(app: Any) -> Iterator[int]:
    server = make_server("127.0.0.1", 0, app, handler_class=Quiet)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        thread.join(PATIENCE)
        server.server_close()


def over_socket(port: int, method: str, path: str, *headers: tuple[str, str | bytes], body: bytes = b"") -> Reply:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
    for name, value in [("Host", HOST), *headers, ("Content-Length", str(len(body)))]:
        connection.putheader(name, value)
    connection.endheaders(body)
    response = connection.getresponse()
    reply = Reply(response.status, response.getheaders(), response.read())
    connection.close()
    return reply


def only_the_origin_stops_them(port: int, site: Site, own: str) -> None:
    """Send over a socket what has a valid cookie and a valid token, and another origin."""
    entered = over_socket(port, "POST", "/log_in", ("Sec-Fetch-Site", "same-origin"))
    cookie = entered.cookie
    assert cookie is not None
    token = over_socket(port, "GET", "/token", ("Cookie", cookie)).said
    proof = (("Cookie", cookie), ("X-CSRF-Token", token))
    forged = [
        [("Origin", EVIL)],
        [("Origin", f"{EVIL}:443"), ("Referer", f"{own}/")],
        [("Referer", f"{EVIL}/page")],
        [("Origin", EVIL), ("Sec-Fetch-Site", "cross-site")],
        [("Origin", f"http://sibling.{HOST}"), ("Sec-Fetch-Site", "same-site")],
        [("Sec-Fetch-Site", "same-site")],
    ]
    site.seen.clear()
    for headers in forged:
        reply = over_socket(port, "POST", "/write", *proof, *headers, body=b"forged")
        assert (reply.status, reply.rejection) in ((403, "csrf_origin"), (403, "csrf_site")), headers
    assert site.seen == []
    for headers in (
        [("Origin", own)],
        [("Referer", f"{own}/page")],
        [("Sec-Fetch-Site", "same-origin"), ("Origin", own)],
        [],
    ):
        reply = over_socket(port, "POST", "/write", *proof, *headers, body=b"own")
        assert (reply.status, reply.said) == (200, True), headers
    assert over_socket(port, "GET", "/whoami", ("Cookie", cookie)).said == {"user": "victim", "note": "own"}


@pytest.mark.parametrize("origin", [None, ORIGIN])
def test_cve_2025_24358_the_origin_is_checked_on_what_comes_from_a_socket(serve, origin):
    """forges with a cookie and a token of the session, as an ASGI server hands it over — 403 by the Origin alone."""
    site = Site("asgi", origin=origin)
    # Whether TLS ended at a proxy, or there is none, what comes over the wire is plain.
    only_the_origin_stops_them(serve(site.app).port, site, origin or f"http://{HOST}")


@pytest.mark.parametrize("origin", [None, ORIGIN])
def test_cve_2025_46721_the_origin_is_checked_on_what_comes_from_a_socket(origin):
    """forges with a cookie and a token of the session, as a WSGI server hands it over — 403 by the Origin alone."""
    site = Site("wsgi", origin=origin)
    with wsgiref(site.app) as port:
        only_the_origin_stops_them(port, site, origin or f"http://{HOST}")


@pytest.mark.parametrize("interface", INTERFACES)
def test_cve_2025_24358_behind_a_proxy_the_plain_origin_of_the_own_name_is_foreign(interface):
    """forges from http://shop.example, which he can answer for, to the https site — 403; the https origin passes."""
    site = Site(interface, origin=ORIGIN)
    victim = victim_at(site)
    site.seen.clear()
    for own in (("X-CSRF-Token", "A" * 70), ("Sec-Fetch-Site", "same-origin"), ("Sec-Fetch-Site", "none")):
        assert victim.forged("/write", ("Origin", f"http://{HOST}"), own).rejection == "csrf_origin"
    assert site.seen == []
    assert victim.forged("/write", ("Origin", ORIGIN), body=b"own").said is True


@pytest.mark.parametrize("interface", INTERFACES)
def test_cve_2025_47909_a_trusted_origin_is_trusted_with_its_scheme_and_port(interface):
    """forges from the trusted name over http or another port, or a name like it — 403; the very origin passes."""
    site = Site(interface, origin=ORIGIN, csrf=CSRF(trusted_origins=["https://pay.example"]))
    victim = victim_at(site)
    site.seen.clear()
    like = ["http://pay.example", "https://pay.example:8443", "https://pay.example.evil", "https://x@pay.example"]
    like += [
        "https://pay.example/",
        "https://evil.example#pay.example",
        "https://xpay.example",
        "https://pay.example.",
        "pay.example",
    ]
    like += ["https://pay.example https://pay.example", "https://PAY.example%00", "wss://pay.example", "//pay.example"]
    for origin in like:
        for site_said in ([], [("Sec-Fetch-Site", "cross-site")], [("Sec-Fetch-Site", "same-site")]):
            reply = victim.forged("/write", ("Origin", origin), *site_said, body=b"forged")
            assert (reply.status, site.seen) == (403, []), origin
    assert victim.forged("/write", ("Origin", "https://pay.example"), ("Sec-Fetch-Site", "cross-site"), body=b"x").said
    assert victim.get().said == {"user": "victim", "note": "x"}


# --- names and parsers

COLLIDING = [
    "k-",
    "k45",
    "K-",
    "K",
    "\u212a",
    "k",
    "s",
    "\u017f",
    "a/b",
    "a\\b",
    "..",
    ".",
    "a\0",
    "a",
    "a.",
    "a ",
    " a",
]
COLLIDING += [
    "CON",
    "con",
    "x" * 300,
    "x" * 299,
    "\u00e9",
    "e\u0301",
    "ﬁ",
    "fi",
    "²",
    "2",
    "İ",
    "i̇",
    "ß",
    "ss",
    "a:b",
    "~",
    "%2e",
]


def spellings(name: str) -> set[str]:
    """Return the ways in which a file system or a collation may take a name."""
    return {unicodedata.normalize(form, name).casefold() for form in ("NFC", "NFD", "NFKC", "NFKD")}


@settings(max_examples=1000 if ALL else 20)
@given(st.text(min_size=1), st.text(min_size=1))
def test_cve_2026_25480_two_names_of_users_are_never_one_key(one, other):
    """takes a user name that another's could be turned into on its way to a key — their keys differ (core)."""
    if one != other:
        first, second = (spellings(_key_of(name)) for name in (one, other))
        # Letter case counts in a key, and stores that fold it write keys otherwise.
        assert _key_of(one) != _key_of(other)
        assert len(first) == len(second) == 1


@pytest.mark.parametrize("interface", INTERFACES)
def test_cve_2026_25480_names_that_look_alike_to_a_file_system_are_two_users(interface, tmp_path):
    """logs in under a name like the victim's and logs out everywhere — the victim stays, and files are named apart."""

    async def enter(request: Request) -> Any:
        owner = request.body.decode()
        return await request.functions.log_in(request.carrier, owner, {"user": owner})

    async def leave(request: Request) -> Any:
        owner = request.body.decode()
        listed = len(await request.functions.sessions_of(owner))
        return [listed, await request.functions.destroy_sessions_of(owner)]

    site = Site(interface, {"/enter": enter, "/leave": leave}, session_store=FileSessionStore(tmp_path))
    browsers = {name: Browser(site) for name in COLLIDING}
    for name, browser in browsers.items():
        assert browser.post("/enter", body=name.encode()).status == 200
    for name, browser in browsers.items():
        assert browser.get().said == {"user": name}
        assert browser.post("/leave", body=name.encode()).said == [1, 1]
        assert browser.get().said == {}
    names = [file.name for file in tmp_path.glob("*/*.session")]
    assert len({name.casefold() for name in names}) == len(names) == 2 * len(COLLIDING)
    assert all(set(name.removesuffix(".session")) <= set("0123456789abcdef") and len(name) < 50 for name in names)


@pytest.mark.parametrize("interface", INTERFACES)
def test_cve_2016_7401_a_part_of_another_cookie_s_value_is_no_cookie(interface):
    """puts a separator and a cookie into a text that a script copies into one — the one real cookie counts."""
    site = Site(interface)
    victim, attacker = victim_at(site), Browser(site)
    attacker.post("/log_in", body=b"mallory")
    for byte in set(range(256)) - {ord(";")}:
        text = chr(byte)
        for cookie in (
            f"utm=x{text}{attacker.cookie}; {victim.cookie}",
            f"{victim.cookie}; utm=x{text}{attacker.cookie}",
            f'utm="x{text}{attacker.cookie}"; {victim.cookie}',
        ):
            assert site.send(cookie=cookie).said == {"user": "victim"}, (byte, cookie)
        # Alone it is nobody: not the attacker's session either.
        assert site.send(cookie=f"utm=x{text}{attacker.cookie}").said == {}, byte
    for neighbour in (
        "bad[]=1",
        'a="',
        "a=\\",
        "=",
        "a",
        "a=b=c",
        "\xff=\xfe",
        "{}=1",
        "a b=c",
        '"',
        "expires=x, y",
        "$Path=/",
    ):
        assert site.send(cookie=f"{neighbour}; {victim.cookie}").said == {"user": "victim"}
    # To a browser a semicolon ends a value, whatever the quotes: then there are two, and none is chosen in silence.
    assert site.send(cookie=f'a="x; {attacker.cookie}"; {victim.cookie}').said == {"user": "victim"}
    assert site.send(cookie=f"a=x; {attacker.cookie}; {victim.cookie}").said == {}
    assert site.events[-1] == "several_cookies"


@pytest.mark.parametrize("interface", INTERFACES)
def test_cve_2023_23934_a_nameless_cookie_is_not_read_as_ours(interface):
    """sets a nameless cookie whose value looks like ours, from a sibling — it is none; the real one counts."""
    site = Site(interface, origin=ORIGIN)
    victim, attacker = victim_at(site), Browser(site)
    attacker.post("/log_in", body=b"mallory")
    assert victim.cookie is not None
    assert victim.cookie.startswith("__Host-session=")
    for nameless in ("=", "==", " =", "\t=", "; =", "= ", "=;=", "\x0b=", "\xa0="):
        toss = f"{nameless}{attacker.cookie}"
        for cookie in (f"{toss}; {victim.cookie}", f"{victim.cookie}; {toss}"):
            assert site.send(cookie=cookie).said == {"user": "victim"}, cookie
        assert site.send(cookie=toss).said == {}
    for bare in (
        "__Host-session",
        "__Host-session;",
        f"__Host-session{attacker.credential}",
        "__Host-session=;",
        "=__Host-session",
    ):
        for cookie in (f"{bare}; {victim.cookie}", f"{victim.cookie}; {bare}"):
            assert site.send(cookie=cookie).said == {"user": "victim"}, cookie
    # As the bare value that an old browser sends it is not to be told from a real one: two that live are nobody.
    assert site.send(cookie=f"{attacker.cookie}; {victim.cookie}").said == {}
    assert site.send(cookie=f"__Host-session={'A' * 64}; {victim.cookie}").said == {"user": "victim"}
    assert site.events[-1] == "several_cookies"


LOOK_ALIKES = [
    *(
        "%5f%5fHost-session",
        "__Host%2dsession",
        "__Host-sessio%6e",
        "__host-session",
        "__HOST-SESSION",
        "__Host-Session",
    ),
    *("__Host-session%00", "__Host-session\xa0", "\xa0__Host-session", "__Host-session\x0b", "\x0c__Host-session"),
    *(
        "__Host-session\x85",
        "__Host-session%20",
        "__Host-session+",
        "\\137_Host-session",
        "__Host-session.x",
        "x.__Host-session",
    ),
    *(
        text.encode().decode("latin-1")
        for text in ("\u2000__Host-session", "__Host-session\u2000", "__Host-\uff53ession", "\uff3f_Host-session")
    ),
]


@pytest.mark.parametrize("interface", INTERFACES)
def test_cve_2020_8184_a_cookie_whose_name_is_spelt_otherwise_is_not_ours(interface, serve):
    """sets a cookie whose name decodes, folds or trims to ours, over a socket — it is none; the real one counts."""
    site = Site(interface, origin=ORIGIN)
    victim, attacker = victim_at(site), Browser(site)
    attacker.post("/log_in", body=b"mallory")
    evil = [f"{name}={attacker.credential}" for name in LOOK_ALIKES]
    for one in evil:
        assert site.send(cookie=one).said == {}, one
        for cookie in (f"{one}; {victim.cookie}", f"{victim.cookie}; {one}"):
            assert site.send(cookie=cookie).said == {"user": "victim"}, one
    if interface == "asgi":
        over_the_wire(serve(site.app).port, evil, victim)
    else:
        with wsgiref(site.app) as port:
            over_the_wire(port, evil, victim)


def over_the_wire(port: int, evil: list[str], victim: Browser) -> None:
    taken = 0
    for one in evil:
        replies = [
            # Not at the header's very end: some servers trim that of more than blank and tab.
            over_socket(port, "GET", "/whoami", ("Cookie", cookie.encode("latin-1")))
            for cookie in (f"theme=dark; {one}", f"theme=dark; {one}; {victim.cookie}")
        ]
        # A server may refuse control characters itself.
        if replies[0].status == 200:
            taken += 1
            assert [reply.said for reply in replies] == [{}, {"user": "victim"}], one
    assert taken > 10


@pytest.mark.usefixtures("_frameworks")
@pytest.mark.parametrize("name", FRAMEWORKS)
def test_cve_2020_8184_no_framework_s_own_reading_of_cookies_is_asked(name):
    """does the same in frameworks, whose own parsers decode and fold — none is ours; the real one counts."""
    app = Framework(name, lambda session: str(session.get("user"))).founds()
    own = app.cookie
    assert own is not None
    value = own.partition("=")[2]
    names = ["%73ession", "sessio%6e", "Session", "SESSION", "session\xa0", '"session"', "\xa0session", "=session"]
    for like in names:
        app.cookie = f"{like}={value}"
        assert app.send().body == b"None", like
        app.cookie = f"{like}={'A' * 64}; bad[]=1; {own}"
        assert app.send().body == b"victim", like


# --- rules of CSRF

TWINS = [
    "/hook",
    "/hook/",
    "//hook",
    "/./hook",
    "/x/../hook",
    "/%68ook",
    "/hook%2f",
    "/hook%2F",
    "/hook;x",
    "/hook%3bx",
]
TWINS += [
    "/HOOK",
    "/Hook/",
    "/hook//",
    "/hook/.",
    "/hook/../hook",
    "/hook%00",
    "/hook?x",
    "/hook%20",
    "/hoo%6b/",
    "/.//hook",
    "/mount/hook",
]
TWINS += ["/mount/hook/", "/mount//hook", "/mount/../hook", "/%2e/hook", "/hook/%2e%2e/hook", "/hook\\", "/hook%5c"]


class Twins:
    """An exempt view at one path, and guarded ones everywhere around it; who ran is noted."""

    def __init__(self) -> None:
        self.ran: list[str] = []

    def flask(self) -> Callable[[str, list[tuple[str, str]]], int]:
        app = flask.Flask("shop")
        ServerSession(app, session_store=MemorySessionStore())

        def hook() -> str:
            self.ran.append("exempt")
            return "exempt"

        def guarded(rest: str = "") -> str:
            self.ran.append("guarded")
            return "guarded"

        app.add_url_rule("/hook/", "hook", csrf_exempt(hook), methods=["POST"])
        app.add_url_rule("/mount/hook", "mounted", guarded, methods=["POST"])
        app.add_url_rule("/<path:rest>", "guarded", guarded, methods=["POST"], strict_slashes=True)

        def send(path: str, headers: list[tuple[str, str]]) -> int:
            return app.test_client(use_cookies=False).post(path, headers=headers).status_code

        return send

    def starlette(self) -> Callable[[str, list[tuple[str, str]]], int]:
        @csrf_exempt
        async def hook(request: StarletteRequest) -> PlainTextResponse:
            self.ran.append("exempt")
            return PlainTextResponse("exempt")

        async def guarded(request: StarletteRequest) -> PlainTextResponse:
            self.ran.append("guarded")
            return PlainTextResponse("guarded")

        app = Starlette(
            routes=[
                Route("/hook/", hook, methods=["POST"]),
                Mount(
                    "/mount",
                    routes=[Route("/hook", guarded, methods=["POST"]), Route("/hook/", hook, methods=["POST"])],
                ),
                Route("/{rest:path}", guarded, methods=["POST"]),
            ],
            middleware=[Middleware(SessionMiddleware, session_store=MemorySessionStore())],
        )

        def send(path: str, headers: list[tuple[str, str]]) -> int:
            lines = [(name.lower().encode(), value.encode()) for name, value in [("Host", HOST), *headers]]
            bare = path.partition("?")[0]
            decoded = quote(bare, safe="%/;\\")
            from urllib.parse import unquote

            scope = scope_of(unquote(decoded), method="POST", headers=lines, raw_path=decoded.encode())
            return asyncio.run(call(app, scope)).status

        return send

    def django(self) -> Callable[[str, list[tuple[str, str]]], int]:
        from django.http import HttpResponse
        from django.test import Client, override_settings
        from django.urls import path as route
        from django.urls import re_path

        def hook(request: Any) -> Any:
            self.ran.append("exempt")
            return HttpResponse("exempt")

        def guarded(request: Any, **rest: str) -> Any:
            self.ran.append("guarded")
            return HttpResponse("guarded")

        urls = types.ModuleType("tests.attacks.twins")
        urls.urlpatterns = [  # type: ignore[attr-defined]
            route("hook/", django_exempt(hook)),
            route("mount/hook", guarded),
            re_path(r"^(?P<rest>(?s:.*))$", guarded),
        ]
        store = MemorySessionStore()

        def send(path: str, headers: list[tuple[str, str]]) -> int:
            with override_settings(
                MIDDLEWARE=DJANGO_MIDDLEWARE,
                TEMPLATES=[],
                ROOT_URLCONF=urls,
                SERVER_SESSION={"session_store": store},
                APPEND_SLASH=True,
            ):
                return Client(enforce_csrf_checks=True).post(path, headers=dict(headers)).status_code

        return send


@pytest.mark.usefixtures("_frameworks")
@pytest.mark.parametrize("name", FRAMEWORKS)
def test_cve_2025_47910_no_spelling_of_an_exempt_path_exempts_another_view(name):
    """spells the path of an exempt view so that it leads to another view — no guarded view runs."""
    twins = Twins()
    send = getattr(twins, name)()
    forged = [("Sec-Fetch-Site", "cross-site"), ("Origin", EVIL)]
    own = [("Sec-Fetch-Site", "same-origin")]
    for path in TWINS:
        twins.ran.clear()
        status = send(path, forged)
        assert "guarded" not in twins.ran, path
        assert (status == 200) == (twins.ran == ["exempt"]), path
    twins.ran.clear()
    assert send("/hook/", forged) == 200
    assert twins.ran == ["exempt"]
    served = [send(path, own) for path in TWINS]
    assert twins.ran.count("guarded") > 5
    assert 403 not in served


CREDENTIAL = Credential("S" * 24, "V" * 40)
PATHS = st.tuples(st.sampled_from(["POST", "PUT", "GET", "post", "POST/a", ""]), st.text(string.printable, max_size=8))


@given(PATHS, PATHS)
def test_cve_2020_8166_two_scopes_never_share_a_token(one, other):
    """finds a method and a path that run together into those of another form — no token is good for both (core)."""
    first, second = (f"{method} {path}" for method, path in (one, other))
    token = read_token(issue_token(CREDENTIAL, first, 1.0))
    assert token is not None
    assert token.is_of(CREDENTIAL, first)
    assert token.is_of(CREDENTIAL, second) == (first == second)


@pytest.mark.parametrize("interface", INTERFACES)
def test_cve_2020_8166_a_token_is_good_for_its_own_scope_and_makes_no_other(interface):
    """computes other forms' tokens from one that he read, or uses it elsewhere — each is refused."""

    async def tokens(request: Request) -> Any:
        scopes = json.loads(request.body)
        given = request.functions.get_csrf_token
        return [await given(request.carrier, scope=scope and tuple(scope)) for scope in scopes]

    async def valid(request: Request) -> Any:
        token, scope = json.loads(request.body)
        return await request.functions.validate_csrf_token(request.carrier, token, scope=scope and tuple(scope))

    site = Site(interface, {"/tokens": tokens, "/valid": valid}, csrf=CSRF("strict"))
    browser = Browser(site)
    scopes = [
        None,
        ["POST", "/a"],
        ["PUT", "/a"],
        ["POST", "/a/"],
        ["POST", "/a?x"],
        ["POST", "/A"],
        ["POST", "/"],
        ["GET", "/a"],
    ]
    scopes += [["POST/a", "b"], ["POST", "/ab"], ["POST", "a"], ["P", "OST /a"], ["POST", " /a"]]
    given = browser.get("/tokens", body=json.dumps(scopes).encode()).said

    def is_valid(token: str, scope: Any) -> bool:
        return browser.get("/valid", body=json.dumps([token, scope]).encode()).said is True

    for (number, token), (other, scope) in product(enumerate(given), enumerate(scopes)):
        assert is_valid(token, scope) == (number == other), (scopes[number], scope)
    # The token's own bytes are no secret from which another could be made.
    whole = read_token(given[0])
    assert whole is not None
    raw = whole.nonce + whole.tag
    for secret in (raw, whole.tag, whole.nonce, given[0].encode(), raw[:32], raw[20:]):
        made = issue_token(
            Credential("S" * 24, secret.decode("latin-1").encode("ascii", "replace").decode()), "POST /a", 1.0
        )
        assert not is_valid(made, ["POST", "/a"])
    # Over the wire, too: the form's token is refused at another path.
    site.seen.clear()
    assert browser.forged("/write", ("X-CSRF-Token", given[1]), ("Sec-Fetch-Site", "same-origin")).status == 403
    assert site.seen == []
    own = browser.get("/tokens", body=b'[["POST", "/write"]]').said[0]
    assert browser.forged("/write", ("X-CSRF-Token", own), ("Sec-Fetch-Site", "same-origin")).said is True


EMPTY_HEADERS = [
    "",
    " ",
    "null",
    "undefined",
    "None",
    "0",
    "false",
    "[]",
    "{}",
    '""',
    ",",
    "-",
    "-x",
    "x-x",
    "x-",
    "A" * 70,
    "\0",
]
EMPTY_BODIES = [
    ("application/json", json.dumps({"csrf_token": value}).encode())
    for value in (None, "", " ", [], {}, 0, False, True, [None], [""], "null", {"$dict": {}})
] + [
    ("application/json", b"null"),
    ("application/json", b"{}"),
    ("application/json", b"[]"),
    ("application/x-www-form-urlencoded", b"csrf_token="),
    ("application/x-www-form-urlencoded", b"csrf_token"),
    ("application/x-www-form-urlencoded", b"csrf_token[]="),
    ("application/x-www-form-urlencoded", b"csrf_token=&csrf_token="),
    ("application/x-www-form-urlencoded", b""),
    ("text/plain", b"csrf_token="),
]
VISITORS: dict[str, Callable[[Site], str | None]] = {
    "without a cookie": lambda _: None,
    "with a cookie of junk": lambda _: "session=junk",
    "with an empty cookie": lambda _: "session=",
    "with a cookie never issued": lambda _: f"session={'A' * 64}",
    "with a session": lambda site: victim_strict(site).cookie,
    "whose session ended": lambda site: ended_at(site),  # noqa: PLW0108 - it stands below
    "whose session expired": lambda site: expired_at(site),  # noqa: PLW0108 - likewise
}


def victim_strict(site: Site) -> Browser:
    browser = Browser(site)
    token = browser.get("/token").said
    assert browser.post("/log_in", ("X-CSRF-Token", token)).status == 200
    return browser


def ended_at(site: Site) -> str | None:
    browser = victim_strict(site)
    cookie = browser.cookie
    browser.post("/log_out", ("X-CSRF-Token", browser.get("/token").said))
    return cookie


def expired_at(site: Site) -> str | None:
    cookie = victim_strict(site).cookie
    site.clock.advance(3600)
    return cookie


@pytest.mark.parametrize("visitor", VISITORS)
@pytest.mark.parametrize("interface", INTERFACES)
def test_cve_2015_1786_no_empty_token_equals_a_secret_that_is_not_there(interface, visitor):
    """sends an empty, null or malformed token where there is no secret to compare with — 403 in every place."""
    site = timed_site(interface, csrf=CSRF("strict"))
    cookie = VISITORS[visitor](site)
    rows = site.sessions.store.stats().sessions
    site.seen.clear()
    same = ("Sec-Fetch-Site", "same-origin")
    sent = [[], *([("X-CSRF-Token", value)] for value in EMPTY_HEADERS)]
    for headers in sent:
        reply = site.send("POST", "/write", same, *headers, cookie=cookie)
        assert (reply.status, reply.all("set-cookie")) == (403, []), headers
    for kind, body in EMPTY_BODIES:
        for headers in ([], [("X-CSRF-Token", "")]):
            reply = site.send("POST", "/write", same, ("Content-Type", kind), *headers, cookie=cookie, body=body)
            assert reply.status == 403, body
    assert site.seen == []
    assert site.sessions.store.stats().sessions <= rows
    # Asked for the token alone, the answer is no, and a genuine one of a living session is the only yes.
    for value in (None, "", " ", 0, False, True, [], {}, "null", "undefined", "A" * 70, "A" * 71):
        assert site.send("GET", "/validate", cookie=cookie, body=json.dumps(value).encode()).said is False
    if visitor == "with a session":
        token = site.send("GET", "/token", cookie=cookie).said
        assert site.send("POST", "/write", same, ("X-CSRF-Token", token), cookie=cookie).said is True


def test_cve_2015_1786_the_comparison_itself_takes_no_emptiness():
    """gives the comparison nothing to compare with nothing — two empties are not equal (core)."""
    assert [read_token(text) for text in ("", " ", "null", "A" * 69, "A" * 71, "=" * 70, "é" * 70)] == [None] * 7
    empty = Token(b"\0" * 20, b"")
    assert not empty.is_of(CREDENTIAL, "")
    assert not empty.is_of(Credential("", ""), "")
    assert not Token(b"\0" * 20, b"\0" * 32).is_of(Credential("", ""), "")
    assert Credential.parse("") is None


@pytest.mark.usefixtures("_frameworks")
@pytest.mark.parametrize("name", FRAMEWORKS)
def test_cve_2026_45075_a_head_of_another_site_does_not_reach_a_handler_that_writes(name):
    """sends a cross-site HEAD to a view that takes for a write what is no GET (GitHub, 2019) — 403, and nothing ran."""

    def view(session: Any) -> str:
        # As many views have it: whatever is no GET is taken for a write.
        if app.methods[-1] == "GET":
            return "form"
        session["granted"] = "yes"
        return "granted"

    app = Framework(name, view).founds()
    app.methods.clear()
    for forged in (
        [("Sec-Fetch-Site", "cross-site")],
        [("Sec-Fetch-Site", "same-site")],
        [("Origin", EVIL)],
        [("Referer", f"{EVIL}/x")],
        [("Sec-Fetch-Site", "cross-site"), ("Origin", f"http://{HOST}")],
    ):
        reply = app.send("HEAD", *forged)
        assert (reply.status, reply.all("csrf-rejection") != []) == (403, True), forged
        assert app.send("POST", *forged).status == 403
    assert app.methods == []
    # The flaw is there to be had: an own HEAD runs the same handler, and it writes.
    assert app.send("HEAD", ("Sec-Fetch-Site", "same-origin")).status == 200
    assert app.methods == ["HEAD"]
    app.view = lambda session: str(session.get("granted"))
    assert app.send().body == b"yes"


@pytest.mark.parametrize("interface", INTERFACES)
def test_cve_2026_45075_a_head_founds_and_renews_nothing_by_itself(interface):
    """sends a HEAD with a cookie of junk, or the victim's — no cookie is set, no row made, nobody logged out."""
    store = MemorySessionStore()
    site = Site(interface, session_store=store)
    victim = victim_at(site)
    rows = store.stats().sessions
    for cookie in (None, f"session={'A' * 64}", "session=", victim.cookie):
        for path in ("/whoami", "/echo", "/validate"):
            reply = site.send("HEAD", path, cookie=cookie)
            assert (reply.status, reply.all("set-cookie")) == (200, [])
    for forged in ("cross-site", "same-site"):
        assert victim.forged("/log_out", ("Sec-Fetch-Site", forged), method="HEAD").status == 403
    assert store.stats().sessions == rows
    assert victim.get().said == {"user": "victim"}


# --- and more of the kind


@pytest.mark.parametrize("interface", INTERFACES)
def test_cve_2026_39324_a_record_that_is_not_sealed_is_not_read_in_the_clear(interface):
    """writes a plain record where sealed ones are expected — an error; nothing is read as it was before encryption."""
    beneath = MemorySessionStore()
    site = Site(interface, session_store=beneath, codec=EncryptedCodec([bytes(range(32))]))
    credential = Credential("A" * 24, "B" * 40)
    plain = {
        "user": encode_value("user", "admin"),
        "\0digest": credential.digest(),
        "\0created": b"1000000000.0",
        "\0stamp": b'"AAAAAAAAAAAA"',
    }
    assert drive(beneath.set(credential.selector, plain, Lifetime(3600.0, None), None)) is Outcome.APPLIED
    minted = Browser(site, f"session={credential.value}")
    for path in ("/whoami", "/write", "/token"):
        reply = minted.post(path, body=b"x")
        assert (reply.status, b"admin" in reply.body) == (503, False), path
    assert site.signals[-1].reason == "not_sealed"
    open_site = Site(interface, session_store=beneath)
    assert Browser(open_site, minted.cookie).get().said == {"user": "admin"}


@pytest.mark.parametrize("way", ["/log_in", "/replace", "/renew", "/assign", "/clear"])
@pytest.mark.parametrize("interface", INTERFACES)
def test_cve_2018_6009_a_token_of_before_the_log_in_is_dead_after_it(interface, way):
    """has a token of the visitor from before the log-in — after it that token is refused, and as stale."""
    site = Site(interface)
    victim = Browser(site)
    token = victim.get("/token").said
    undecided = ("Origin", "null")
    assert victim.forged("/write", undecided, ("X-CSRF-Token", token)).said is True
    victim.post(way, body=b"victim")
    reply = victim.forged("/write", undecided, ("X-CSRF-Token", token), body=b"forged")
    assert (reply.status, reply.rejection) == (403, "csrf_stale")
    assert victim.get().said.get("note") != "forged"
    fresh = victim.get("/token").said
    assert victim.forged("/write", undecided, ("X-CSRF-Token", fresh)).said is True


@pytest.mark.parametrize("interface, kind", PLACES)
def test_cve_2018_1000814_a_cookie_kept_beyond_its_age_is_dead_on_the_server(interface, kind, tmp_path):
    """keeps the cookie beyond the Max-Age that the browser was told — the server's own clock has ended the session."""
    site = timed_site(interface, kind, tmp_path, cookie_handler=CookieHandler(max_age=600), max_age=600)
    victim = victim_at(site)
    site.clock.advance(599)
    assert victim.get().said == {"user": "victim"}
    site.clock.advance(601)
    assert victim.get().said == {}


@pytest.mark.parametrize("interface", INTERFACES)
def test_cve_2025_69230_many_bad_cookies_are_one_line_of_the_log(interface, caplog):
    """sends a header of hundreds of bad cookies, to flood the log — at most one line and one signal a request."""
    site = Site(interface)
    victim = victim_at(site)
    junk = "; ".join(f"session={'A' * 20}{number:044}" for number in range(300))
    broken = "; ".join(f"session=[{number}]" for number in range(300))
    for cookie in (junk, broken, f"{broken}; {junk}", f"{junk}; {victim.cookie}"):
        caplog.clear()
        site.signals.clear()
        assert site.send(cookie=cookie).said == {}
        assert len(caplog.records) <= 1
        assert len(site.signals) <= 1
    assert site.send(cookie=f"{broken}; {victim.cookie}").said == {"user": "victim"}


@pytest.mark.parametrize("interface", INTERFACES)
def test_go_78563_an_origin_with_user_info_is_no_origin(interface):
    """forges from an Origin that has the own name behind an @ — 403, whatever token comes with it."""
    for origin in (None, ORIGIN):
        site = Site(interface, origin=origin)
        victim = victim_at(site)
        token = victim.get("/token").said
        site.seen.clear()
        for forged in (
            f"http://evil@{HOST}",
            f"https://evil@{HOST}",
            f"https://{HOST}@evil.example",
            f"https://@{HOST}",
        ):
            for headers in (
                [],
                [("X-CSRF-Token", token)],
                [("Sec-Fetch-Site", "same-origin"), ("X-CSRF-Token", token)],
            ):
                assert victim.forged("/write", ("Origin", forged), *headers).status == 403
        assert site.seen == []
        assert victim.forged("/write", ("Origin", origin or f"http://{HOST}"), ("X-CSRF-Token", token)).said is True


@pytest.mark.parametrize("interface", INTERFACES)
def test_cve_2026_49215_a_header_that_any_page_may_set_is_no_proof(interface):
    """sends the token in a header that any page may set (Accept and its like) — it is none there."""
    from server_session import ConfigurationError

    for name in (
        "Accept",
        "accept-language",
        "Content-Language",
        "CONTENT-TYPE",
        "Range",
        "Cookie",
        "Origin",
        "Referer",
        "Host",
    ):
        with pytest.raises(ConfigurationError):
            CSRF(header=name)
    site = Site(interface)
    victim = victim_at(site)
    token = victim.get("/token").said
    site.seen.clear()
    for name in ("Accept", "Accept-Language", "Content-Language", "X-Requested-With", "X-CSRFToken", "X-XSRF-TOKEN"):
        assert victim.forged("/write", ("Origin", "null"), (name, token)).status == 403
    assert site.seen == []
    assert victim.forged("/write", ("Origin", "null"), ("X-CSRF-Token", token)).said is True

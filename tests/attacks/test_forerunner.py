"""The real flaws of next-server-session, from which this library comes, each as an attack that fails here."""

import asyncio
import json
import threading
from collections import Counter
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from starlette.responses import Response

from server_session import CSRF, MemorySessionStore, Sessions
from server_session._colour import drive
from server_session.stores._base import Fields, Outcome, SessionStore
from server_session.stores.redis import RedisSessionStore
from tests.asgi_client import call, scope_of
from tests.attacks.stage import INTERFACES, Browser, Gate, Reply, Request, Site, timed_site, victim_at
from tests.patience import PATIENCE
from tests.visitors import Clock, Watched, make_store

OVERLAPPING = 50
SAME_ORIGIN = ("sec-fetch-site", "same-origin")

# Over a store that awaits there are no blocking functions.
PLACES = [
    ("asgi", "yielding memory"),
    *((one, kind) for one in INTERFACES for kind in ("memory", "file", "sealed memory", "redis")),
]


@pytest.fixture
def store(kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> SessionStore:
    if kind != "redis":
        return make_store(kind, tmp_path, Clock())
    server = request.getfixturevalue("redis_server")
    return RedisSessionStore(server.url, prefix=f"{tmp_path.name}:")


def at_once(site: Site, requests: list[tuple[str, list[tuple[str, str]], bytes]], cookie: str) -> list[Reply]:
    """Send POSTs so that they overlap: as tasks of one loop, or as threads."""
    if site.interface == "wsgi":
        together = threading.Barrier(len(requests))

        def post(path: str, headers: list[tuple[str, str]], body: bytes) -> Reply:
            together.wait(PATIENCE)
            return site.send("POST", path, *headers, cookie=cookie, body=body)

        with ThreadPoolExecutor(len(requests)) as threads:
            return [one.result() for one in [threads.submit(post, *request) for request in requests]]

    async def ask(path: str, headers: list[tuple[str, str]], body: bytes) -> Reply:
        scope = scope_of(path, cookie, method="POST")
        scope["headers"] += [(name.lower().encode(), value.encode()) for name, value in headers]
        answer = await call(site.app, scope, body)
        lines = [(name.decode(), value.decode()) for name, value in answer.headers]
        return Reply(answer.status, lines, answer.body)

    async def all_of_them() -> list[Reply]:
        return await asyncio.gather(*(ask(*request) for request in requests))

    return asyncio.run(all_of_them())


async def nothing_yet(request: Request) -> None:
    # Other tasks come in between; the blocking functions have threads, which take their turns by themselves.
    if "asgi" in request.carrier:
        await asyncio.sleep(0)


# --- tokens

UNDEFINED = [None, "", " ", "undefined", "null", "None", 0, False, True, [], [None], {}, {"token": None}, 1.5, "A" * 70]


@pytest.mark.parametrize("cookie", [None, "session=", "session=undefined", f"session={'A' * 64}"])
@pytest.mark.parametrize("interface", INTERFACES)
def test_an_undefined_token_is_not_accepted_for_a_fresh_visitor(interface, cookie):
    """sends no token, or an undefined one, as a visitor who has no session — it is refused, whatever it is called."""
    site = Site(interface, csrf=CSRF("strict"))
    for token in UNDEFINED:
        assert site.send("GET", "/validate", cookie=cookie, body=json.dumps(token).encode()).said is False
    assert site.send("GET", "/validate", cookie=cookie).said is False
    site.seen.clear()
    for headers in ([], *([("X-CSRF-Token", str(token))] for token in UNDEFINED)):
        assert site.send("POST", "/write", SAME_ORIGIN, *headers, cookie=cookie).status == 403
    assert site.seen == []
    assert site.sessions.store.stats().sessions == 0
    visitor = Browser(site)
    token = visitor.get("/token").said
    assert visitor.get("/validate", body=json.dumps(token).encode()).said is True
    assert visitor.post("/write", ("X-CSRF-Token", token)).said is True


@pytest.mark.parametrize("interface, kind", PLACES)
def test_a_token_that_passes_once_does_not_pass_twice(interface, kind, store):
    """submits a form many times at once, with one token that passes once — one submission of them is served."""
    site = Site(interface, session_store=store, csrf=CSRF(single_use=True))
    browser = Browser(site)
    token, other = browser.get("/token").said, browser.get("/token").said
    assert browser.cookie is not None
    site.seen.clear()
    submission = ("/count", [SAME_ORIGIN, ("X-CSRF-Token", token)], b"")
    replies = at_once(site, [submission] * 12, browser.cookie)
    assert Counter((reply.status, reply.rejection) for reply in replies) == {
        (200, None): 1,
        (403, "csrf_token_used"): 11,
    }
    assert site.seen == ["/count"]
    assert browser.forged(*submission[:1], *submission[1]).rejection == "csrf_token_used"
    assert browser.get().said == {"n": 1}
    # Those of other forms are not used up with it.
    assert browser.post("/count", ("X-CSRF-Token", other)).said is True
    assert browser.get().said == {"n": 2}


@pytest.mark.parametrize("interface, kind", PLACES)
def test_a_token_asked_about_many_times_at_once_is_valid_once(interface, kind, store):
    """has the application ask about one token in many requests at once — one of them is told that it is good."""
    site = Site(interface, session_store=store, csrf=CSRF(single_use=True))
    browser = Browser(site)
    tokens = [browser.get("/token").said for _ in range(9)]
    assert browser.cookie is not None
    asking = [("/validate", [SAME_ORIGIN, ("X-CSRF-Token", own)], json.dumps(tokens[0]).encode()) for own in tokens[1:]]
    assert sorted(reply.said for reply in at_once(site, asking, browser.cookie)) == [False] * 7 + [True]


# --- writes


async def set_own(request: Request) -> Any:
    name = request.body.decode()
    await request.functions.get_session_data(request.carrier)
    await nothing_yet(request)
    return await request.functions.set_session_data(request.carrier, {name: name})


async def assign_own(request: Request) -> None:
    name = request.body.decode()
    len(request.session)
    await nothing_yet(request)
    request.session[name] = name


async def update_own(request: Request) -> Any:
    name = request.body.decode()
    return await request.functions.update_session_data(request.carrier, lambda data: data.update({name: name}))


MERGES = {"/set": set_own, "/assign_own": assign_own, "/update": update_own}


@pytest.mark.parametrize("path", MERGES)
@pytest.mark.parametrize("interface, kind", PLACES)
def test_no_merge_is_lost_among_overlapping_ones(interface, kind, store, path):
    """has 50 requests of one session write a key each, all at once — all 50 are there, and what was before."""
    site = Site(interface, MERGES, session_store=store)
    victim = victim_at(site)
    assert victim.cookie is not None
    names = [f"key{number}" for number in range(OVERLAPPING)]
    replies = at_once(site, [(path, [SAME_ORIGIN], name.encode()) for name in names], victim.cookie)
    assert [reply.status for reply in replies] == [200] * OVERLAPPING
    assert victim.get().said == {"user": "victim", **{name: name for name in names}}


async def pluck_a(request: Request) -> Any:
    return await request.functions.pluck_session_property(request.carrier, "a")


async def delete_a(request: Request) -> None:
    len(request.session)
    await nothing_yet(request)
    del request.session["a"]


async def update_without_a(request: Request) -> Any:
    return await request.functions.update_session_data(request.carrier, lambda data: data.pop("a") and None)


async def replace_without_a(request: Request) -> Any:
    return await request.functions.replace_session_data(request.carrier, {"user": "victim"}, in_place=True)


async def put_a(request: Request) -> Any:
    return await request.functions.set_session_data(request.carrier, {"a": "secret", "b": 1})


REMOVALS = {"/pluck_a": pluck_a, "/delete": delete_a, "/update": update_without_a, "/reset": replace_without_a}


@pytest.mark.parametrize("path", REMOVALS)
@pytest.mark.parametrize("interface, kind", PLACES)
def test_a_key_that_was_taken_out_is_gone(interface, kind, store, path):
    """waits for a key to be taken out of a session and looks for it — it is gone from the store, and stays so."""
    site = Site(interface, {**REMOVALS, "/put": put_a, "/own": set_own}, session_store=store)
    victim = victim_at(site)
    victim.post("/put")
    assert victim.get().said == {"user": "victim", "a": "secret", "b": 1}
    assert victim.cookie is not None
    others = [("/own", [SAME_ORIGIN], f"key{number}".encode()) for number in range(4)]
    # Not so the reset, which takes out whatever it meets.
    others = others if path != "/reset" else []
    replies = at_once(site, [(path, [SAME_ORIGIN], b""), *others], victim.cookie)
    assert [reply.status for reply in replies] == [200] * len(replies)
    said = victim.get().said
    assert "a" not in said
    assert said["user"] == "victim"
    assert {f"key{number}" for number in range(len(others))} <= said.keys()
    if kind != "redis":
        held = drive(store.get(victim.credential[:24], {}, False)) if kind != "yielding memory" else {}
        assert not isinstance(held, Outcome)
        assert "a" not in held


# --- cookies


@pytest.mark.parametrize("path", ["/write", "/log_in", "/renew", "/assign", "/log_out", "/clear", "/token"])
@pytest.mark.parametrize("interface", INTERFACES)
def test_cookies_of_others_are_not_overwritten(interface, path):
    """has a response set other cookies than the session's (a second factor's, a consent's) — all of them arrive."""
    theirs = ["consent=no; Path=/", "factor=due; Path=/; HttpOnly", "sid=x; Path=/"]
    site = Site(interface, response_headers=[("Set-Cookie", one) for one in theirs])
    visitor = Browser(site) if path in ("/write", "/token") else victim_at(site)
    set_cookies = visitor.post(path, body=b"somebody").all("set-cookie")
    assert set_cookies[:3] == theirs
    assert len(set_cookies) == 4
    assert set_cookies[3].startswith("session=")


async def test_cookies_of_others_on_a_response_that_is_given_are_not_overwritten():
    """sets other cookies before and after the session's on one response object — all of them arrive (Starlette)."""
    sessions = Sessions()
    response = Response()
    response.set_cookie("consent", "no")

    scope = scope_of()
    await sessions.set_session_data(scope, response, {"a": 1})
    await sessions.renew_session(scope, response)
    response.set_cookie("factor", "due")
    names = [value.decode().partition("=")[0] for name, value in response.raw_headers if name == b"set-cookie"]
    assert sorted(names) == ["consent", "factor", "session"]


@pytest.mark.parametrize("way", ["/log_in", "/replace", "/renew", "/assign", "/clear"])
@pytest.mark.parametrize("interface", INTERFACES)
def test_no_way_to_log_in_keeps_the_id(interface, way):
    """plants the cookie of a session of his own before the victim logs in — he is not logged in with it."""
    site = Site(interface)
    attacker = Browser(site)
    attacker.post("/write", body=b"planted")
    victim = Browser(site, attacker.cookie)
    victim.post(way, body=b"victim")
    assert victim.get().said["user"] == "victim"
    assert victim.cookie != attacker.cookie
    assert attacker.get().said == {}
    assert attacker.post("/write", body=b"more").all("set-cookie") == []
    assert victim.get().said.get("note") in (None, "planted")


@pytest.mark.parametrize("cookie", [None, "session=junk", f"session={'A' * 64}"])
@pytest.mark.parametrize("interface", INTERFACES)
def test_to_validate_a_token_founds_no_session(interface, cookie):
    """sends tokens to be validated, as a visitor without a session, again and again — no row, and no cookie."""
    store = Watched()
    site = Site(interface, session_store=store)
    for _ in range(5):
        for token in ("A" * 70, "", None):
            reply = site.send("GET", "/validate", cookie=cookie, body=json.dumps(token).encode())
            assert (reply.said, reply.all("set-cookie")) == (False, [])
        refused = site.send("POST", "/write", ("Origin", "null"), ("X-CSRF-Token", "A" * 70), cookie=cookie)
        assert (refused.status, refused.all("set-cookie")) == (403, [])
    assert store.store.stats().sessions == 0
    assert not {"set", "merge", "destroy"} & set(store.calls)
    assert site.send("GET", "/token", cookie=cookie).cookie
    assert store.store.stats().sessions == 1


@pytest.mark.parametrize("interface", INTERFACES)
def test_an_unknown_cookie_is_not_deleted_by_a_reader(interface):
    """has the victim's browser ask while the store has not got the session (a replica behind) — the cookie is kept."""
    site = Site(interface)
    victim = victim_at(site)
    elsewhere = Site(interface)
    for path in ("/whoami", "/validate", "/pluck", "/echo"):
        reply = elsewhere.send("GET", path, cookie=victim.cookie)
        assert (reply.status, reply.all("set-cookie")) == (200, [])
    assert victim.get().said == {"user": "victim"}
    # Only who ends a session says so to the browser.
    assert elsewhere.post("/log_out", cookie=victim.cookie).cookie == ""


WRITES: dict[str, Callable[[Request], Awaitable[Any]]] = {
    "set": lambda request: request.functions.set_session_data(request.carrier, {"late": 1}),
    "update": lambda request: request.functions.update_session_data(request.carrier, lambda data: data.update(late=1)),
    "renew": lambda request: request.functions.renew_session(request.carrier),
    "in place": lambda request: request.functions.replace_session_data(request.carrier, {"late": 1}, in_place=True),
    "token": lambda request: request.functions.get_csrf_token(request.carrier),
}


@pytest.mark.parametrize("write", WRITES)
@pytest.mark.parametrize("interface, kind", [("asgi", "memory"), ("wsgi", "file"), ("wsgi", "sealed memory")])
def test_a_write_after_the_log_out_does_not_bring_the_session_back(interface, kind, write, tmp_path):
    """has a write of the session arrive after its log-out — it is dropped, and the session stays ended."""
    gate = Gate()

    async def slow(request: Request) -> Any:
        await request.functions.get_session_data(request.carrier)
        gate.wait()
        return await WRITES[write](request)

    async def blind(request: Request) -> Any:
        return await WRITES[write](request)

    site = timed_site(interface, kind, tmp_path, endpoints={"/slow": slow, "/blind": blind})
    victim = victim_at(site)
    old = victim.cookie
    with gate.holding(lambda: site.post("/slow", cookie=old)) as late:
        assert victim.post("/log_out").said is True
    for reply in (late.result(PATIENCE), site.post("/blind", cookie=old)):
        # A token of no session is text that will not validate.
        assert reply.said is False or write == "token"
        assert reply.all("set-cookie") == []
    assert Browser(site, old).get().said == {}
    selector = (old or "").partition("=")[2][:24]
    held: Fields | Outcome = drive(site.sessions.policy.store.get(selector, {}, False))
    assert held is Outcome.MISSING or set(held) == {"\0ended"}
    other = victim_at(site)
    assert other.post("/blind").status == 200


MALFORMED = [
    *(
        "",
        "x",
        "undefined",
        "null",
        "[object Object]",
        "../../../etc/passwd",
        "..\\..\\boot.ini",
        "*",
        "session:*",
        "A" * 63,
    ),
    *(
        "A" * 65,
        "A" * 5000,
        "A" * 63 + "=",
        "A" * 63 + "+",
        "A" * 63 + "/",
        "A" * 63 + ".",
        "A" * 63 + " ",
        "A" * 62 + "\xe9A",
    ),
    *(
        '"' + "A" * 64 + '"',
        "A" * 63 + "%41",
        "A" * 60 + "\r\nX:",
        "A" * 63 + "\0",
        "'; DROP TABLE sessions;--",
        "{$ne: 1}",
    ),
    *(
        "__proto__",
        "constructor",
        "\xef\xbc\xa1" * 21 + "A",
        "\n" + "A" * 64,
        "A" * 64 + "\n",
        "A" * 64 + ",",
    ),
]


@pytest.mark.parametrize("interface", INTERFACES)
def test_an_id_of_another_form_never_reaches_the_store(interface):
    """sends paths, patterns and code for an id — the store is not asked at all, and a write founds under its own id."""
    store = Watched(MemorySessionStore())
    site = Site(interface, session_store=store)
    victim = victim_at(site)
    for value in MALFORMED:
        store.calls.clear()
        for path in ("/whoami", "/validate", "/pluck"):
            reply = site.send("GET", path, cookie=f"session={value}")
            assert (reply.status, reply.all("set-cookie")) == (200, [])
        assert store.calls == [], value
        visitor = Browser(site, f"session={value}")
        assert visitor.post("/write", body=b"x").said is True
        assert store.calls == ["set"], value
        assert len(visitor.credential) == 64
        assert visitor.get().said == {"note": "x"}
    store.calls.clear()
    assert victim.get().said == {"user": "victim"}
    assert store.calls

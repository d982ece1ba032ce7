"""What gets out: by caches, by compression, by the log, by error pages, by a WebSocket of another site's page."""

import asyncio
import base64
import collections
import copy
import json
import pickle
import traceback
import types
from collections.abc import Callable, Iterator, MappingView
from pathlib import Path
from typing import Any

import orjson
import pytest
from flask import Flask, render_template_string
from flask import session as flask_session
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request as StarletteRequest
from starlette.responses import Response
from starlette.routing import Route

from server_session import CSRF, ConfigurationError, Sessions
from server_session.flask import ServerSession
from server_session.kernel.mapping import Session
from server_session.kernel.unloaded import LazySession
from server_session.starlette import SessionMiddleware
from tests.asgi_client import WebSocket, call, scope_of
from tests.attacks.stage import HOST, INTERFACES, Browser, Endpoint, Header, Reply, Request, Site, timed_site, victim_at
from tests.telemetry import Told
from tests.visitors import Watched

both = pytest.mark.parametrize("interface", INTERFACES)

PLAIN = f"http://{HOST}"
OWN = ("sec-fetch-site", "same-origin")
CROSS = ("sec-fetch-site", "cross-site")
EVIL = ("origin", "http://evil.example")
PUBLIC = "public, max-age=3600, s-maxage=86400, stale-while-revalidate=60, stale-if-error=60, immutable"


def varies(reply: Reply) -> bool:
    """Tell whether a cache is told that the answer depends on the cookie."""
    names = [name.strip().lower() for value in reply.all("vary") for name in value.split(",")]
    return "cookie" in names


def is_private(reply: Reply) -> bool:
    """Tell whether no cache may keep the answer."""
    lines = [value.lower() for value in reply.all("cache-control")]
    directives = {directive.strip() for line in lines for directive in line.split(",")}
    shared = {"public", "immutable"} | {one for one in directives if "max" in one or "stale" in one}
    return len(lines) == 1 and {"private", "no-store"} <= directives and not directives & shared


# --- compression


@both
def test_no_two_tokens_of_a_session_share_what_compression_would_show(interface):
    """has a thousand pages made that bear the victim's token and text of the attacker's, and guesses the token from their compressed length (BREACH) — of 1,000 tokens of one session, made in one second, no eight characters in a row behind the first six, which are the time, are in another token, at whatever place, nor twice in one."""  # noqa: E501
    site = Site(interface)
    victim = victim_at(site)
    tokens = [victim.get("/token").said for _ in range(5)]
    # The rest by the function itself: a thousand requests would show no more.
    scope = scope_of(cookie=victim.cookie)
    tokens += [site.sessions.sync.get_csrf_token(dict(scope)) for _ in range(995)]
    assert {len(token) for token in tokens} == {70}
    assert len({token[:5] for token in tokens}) == 1
    parts = collections.Counter(token[at : at + 8] for token in tokens for at in range(6, 70 - 8 + 1))
    assert parts.most_common(1)[0][1] == 1
    assert len(parts) == 1000 * 57
    for token in (tokens[0], tokens[-1]):
        assert victim.forged("/whoami", ("x-csrf-token", token)).status == 200


@both
def test_a_token_tells_nothing_of_the_cookie_nor_of_the_stores_record(interface):
    """reads the token out of a page and looks for the cookie's value in it, or compares it with the store's digest — they share no eight characters, and the token is no cookie."""  # noqa: E501
    site = Site(interface)
    victim = victim_at(site)
    token = victim.get("/token").said
    fields = asyncio.run(site.sessions.store.get(victim.credential[:24], {}, touch=False))
    held = victim.credential + "".join(value.decode() for value in fields.values())
    pieces = {held[at : at + 8] for at in range(len(held) - 7)}
    assert not pieces & {token[at : at + 8] for at in range(63)}
    assert site.send("GET", "/whoami", cookie=f"session={token[:64]}").said == {}


# --- caches

CDN = ("CDN-Cache-Control", "Surrogate-Control", "Cloudflare-CDN-Cache-Control", "Vercel-CDN-Cache-Control")
OTHER_CACHES = (
    ("X-Accel-Expires", "3600"),
    ("Netlify-CDN-Cache-Control", "public, max-age=3600"),
    ("Akamai-Cache-Control", "max-age=3600"),
    ("Edge-Control", "max-age=3600"),
)
SETTING = ("/write", "/log_in", "/replace", "/assign", "/clear", "/token", "/count")


@both
@pytest.mark.parametrize("path", SETTING)
@pytest.mark.parametrize("name", CDN)
def test_an_answer_that_sets_the_cookie_is_kept_by_no_cache(interface, path, name):
    """shares a cache with the victim, at an application that marks each answer as public for an hour, for a CDN as well — an answer that sets the cookie is private and not stored, varies on the cookie, and says nothing to a CDN."""  # noqa: E501
    site = Site(interface, response_headers=[("Cache-Control", PUBLIC), (name, "public, max-age=3600")])
    reply = Browser(site).post(path, body=b"x")
    assert reply.cookie
    assert (is_private(reply), varies(reply), reply.all(name)) == (True, True, [])
    # What bears nothing of a visitor's stays as the application has it.
    control = site.send("GET", "/echo")
    assert (control.all("cache-control"), control.all(name)) == ([PUBLIC], ["public, max-age=3600"])


@both
@pytest.mark.parametrize("path", ["/renew", "/log_in", "/log_out"])
def test_an_answer_that_changes_or_expires_the_cookie_is_kept_by_no_cache(interface, path):
    """shares a cache with the victim, who renews, logs in again or logs out, at an application that marks each answer as public — the answer is private and not stored, and varies on the cookie."""  # noqa: E501
    site = Site(interface, response_headers=[("Cache-Control", PUBLIC), ("CDN-Cache-Control", "max-age=3600")])
    reply = victim_at(site).post(path)
    assert reply.cookie is not None
    assert (is_private(reply), varies(reply), reply.all("cdn-cache-control")) == (True, True, [])


def test_a_cache_within_the_application_gets_no_cookie_to_keep():
    """asks for a page after the victim whose first visit it was, at an application that keeps its answers itself, further in than the sessions (ASGI) — what is kept is what the application said, and no cookie is in it."""  # noqa: E501
    kept: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if not kept:
            scope["session"]["cart"] = ["tea"]
            kept.append({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
        await send(kept[0])
        await send({"type": "http.response.body"})

    site = SessionMiddleware(app, session_store="memory:")
    victim, attacker = (asyncio.run(call(site, scope_of())) for _ in range(2))
    assert len(victim.all("set-cookie")) == 1
    assert attacker.all("set-cookie") == []


@both
@pytest.mark.parametrize("name", CDN)
def test_an_answer_that_bears_a_token_is_kept_by_no_cache(interface, name):
    """fetches the page with the form from a shared cache after the victim, whose cookie stands, so that none is set, at an application that marks each answer as public, for a CDN as well — the answer is private and not stored, and varies on the cookie."""  # noqa: E501
    site = Site(interface, response_headers=[("Cache-Control", PUBLIC), (name, "max-age=3600")])
    reply = victim_at(site).get("/token")
    assert not reply.all("set-cookie")
    assert (is_private(reply), varies(reply), reply.all(name)) == (True, True, [])


@both
@pytest.mark.parametrize("name, value", OTHER_CACHES)
def test_no_header_of_one_caches_own_keeps_what_bears_a_token_or_a_cookie(interface, name, value):
    """shares a cache that obeys a header of its own before Cache-Control (nginx, Netlify, Akamai) with the victim, at an application that sends it — it is taken out of an answer that bears a token or sets the cookie."""  # noqa: E501
    site = Site(interface, response_headers=[(name, value)])
    assert site.send("GET", "/echo").all(name) == [value]
    victim = victim_at(site)
    for reply in (victim.get("/token"), victim.post("/renew")):
        assert is_private(reply)
        assert reply.all(name) == []


@both
@pytest.mark.parametrize(
    "cached",
    ["Public", "S-MaxAge=60", "max-age=60", "no-cache, public", 'private="x", public', "no-store, max-age=60", ""],
)
def test_no_spelling_of_cache_control_keeps_a_token(interface, cached):
    """counts on Cache-Control in another case, twice, quoted or contradicting itself — whatever the application says, a page with a token is private and not stored, by one header."""  # noqa: E501
    site = Site(interface, response_headers=[("Cache-Control", cached), ("cache-control", "public, max-age=60")])
    assert is_private(victim_at(site).get("/token"))


@both
@pytest.mark.parametrize("vary", ["Accept-Encoding", "accept-encoding, Origin", "*", "COOKIE", "Cookies", "X-Cookie"])
def test_an_applications_own_vary_is_kept_and_takes_no_place_of_the_cookies(interface, vary):
    """counts on an application's own Vary, which a careless library overwrites or takes for its own — all its names stay, and Cookie is among them, once."""  # noqa: E501
    site = Site(interface, response_headers=[("Vary", vary)])
    reply = victim_at(site).get("/whoami")
    names = [name.strip().lower() for value in reply.all("vary") for name in value.split(",")]
    assert {name.strip().lower() for name in vary.split(",")} <= set(names)
    assert names.count("cookie") + names.count("*") == 1


# --- Vary

# What every object has, how much memory it takes, and how it is copied (which `LOOKS` tries).
NO_LOOK = frozenset(dir(object)) - {"__eq__", "__ne__", "__repr__", "__str__", "__format__"}
NO_LOOK |= {"__class_getitem__", "fromkeys"}
METHODS = tuple(name for name in dir(dict) if name not in NO_LOOK and callable(getattr(dict, name)))
ARGUMENTS: dict[str, tuple[Any, ...]] = {
    **dict.fromkeys(("__getitem__", "__contains__", "get", "__delitem__", "setdefault"), ("user",)),
    "pop": ("user", None),
    "__setitem__": ("user", "another"),
    **dict.fromkeys(
        ("__eq__", "__ne__", "__or__", "__ror__", "__ior__", "__lt__", "__le__", "__gt__", "__ge__"), ({},)
    ),
    "update": ({"a": 1},),
    "__format__": ("",),
}


def _matched(session: Any) -> Any:
    match session:
        case {"user": user}:
            return user
        case _:
            return None


def _called(**session: Any) -> Any:
    return session


def _updated(session: Any) -> Any:
    other: dict[str, Any] = {}
    other.update(session)
    return other


# Not methods: what Python itself makes of a mapping.
LOOKS: dict[str, Callable[[Any], Any]] = {
    "in": lambda session: "user" in session,
    "not in": lambda session: "admin" not in session and "user" not in session,
    "len": len,
    "bool": bool,
    "not": lambda session: not session,
    "if": lambda session: "in" if session else "out",
    "iter": lambda session: next(iter(session), None),
    "list": list,
    "set": lambda session: sorted(set(session)),
    "sorted": sorted,
    "any": any,
    "==": lambda session: session == {},
    "== from the left": lambda session: {} == session,  # noqa: SIM300
    "!=": lambda session: session != {},
    "|": lambda session: session | {"a": 1},
    "| from the left": lambda session: {"a": 1} | session,
    "dict": dict,
    "**": lambda session: {**session},
    "a call": lambda session: _called(**session),
    "update": _updated,
    "fromkeys": dict.fromkeys,
    "an ordered dict": collections.OrderedDict,
    "json": json.dumps,
    "indented json": lambda session: json.dumps(session, indent=1),
    "pickle": lambda session: pickle.loads(pickle.dumps(session)),  # noqa: S301
    "%": lambda session: "%(user)s" % collections.defaultdict(str, session),  # noqa: UP031
    "an f-string": lambda session: f"{session}",
    "format_map": lambda session: "{user}".format_map(collections.defaultdict(str, session)),
    "str": str,
    "copy": copy.copy,
    "deepcopy": lambda session: copy.deepcopy(session).get("user"),
    "match": _matched,
    "in keys": lambda session: "user" in session.keys(),  # noqa: SIM118
    "a chain": lambda session: collections.ChainMap({}, session).get("user"),
    "a proxy": lambda session: types.MappingProxyType(session).get("user"),
    "reversed": lambda session: list(reversed(session)),
    "enumerate": lambda session: list(enumerate(session)),
}


def looking(look: Callable[[Any], Any]) -> Endpoint:
    """Return an endpoint that shows what a look at the mapping gives, an error too."""

    async def endpoint(request: Request) -> Any:
        try:
            seen = look(request.session)
            return repr(list(seen) if isinstance(seen, Iterator | MappingView) else seen)
        except Exception as error:  # noqa: BLE001 - whichever it is, it shows whether there is a user
            return type(error).__name__

    return endpoint


def calling(name: str) -> Callable[[Any], Any]:
    return lambda session: getattr(session, name)(*ARGUMENTS.get(name, ()))


def seen_by(interface: str, look: Callable[[Any], Any]) -> tuple[Reply, Reply]:
    """Return what a visitor gets who is logged in, and one who is nobody."""
    site = Site(interface, {"/page": looking(look)})
    victim = victim_at(site)
    return victim.get("/page"), site.send("GET", "/page")


@both
@pytest.mark.parametrize("name", METHODS)
def test_an_answer_that_a_method_of_the_mapping_made_differ_varies_on_the_cookie(interface, name):
    """fetches from a shared cache a page that looks at the session by any method that a dict has (the list is made from dict) — wherever the answer to the victim differs from that to a stranger, both have Vary: Cookie."""  # noqa: E501
    own, strangers = seen_by(interface, calling(name))
    if own.body != strangers.body:
        assert (varies(own), varies(strangers)) == (True, True)
    # Over WSGI the mapping is no dict, and says in text only what it is.
    if interface == "asgi" or name in vars(LazySession):
        assert varies(own) or name in ("__ror__", "__repr__", "__init__") or own.body == b'"NotImplemented"'


@both
@pytest.mark.parametrize("name", LOOKS)
def test_an_answer_that_python_itself_made_of_the_mapping_varies_on_the_cookie(interface, name):
    """fetches from a shared cache a page that looks at the session by `in`, len, bool, ==, iteration, a pattern, a copy or JSON — wherever the answer to the victim differs from that to a stranger, both have Vary: Cookie."""  # noqa: E501
    own, strangers = seen_by(interface, LOOKS[name])
    if own.body != strangers.body:
        assert (varies(own), varies(strangers)) == (True, True)
    # Over WSGI the mapping is no dict, and says in text only what it is.
    if interface == "asgi" or name not in ("json", "indented json", "pickle", "str", "an f-string"):
        assert varies(own)


def test_the_methods_that_read_are_among_those_that_were_tried():
    """waits for a method of dict that nobody thought of — the list is dict's own, so that none can be forgotten."""
    assert {"get", "keys", "items", "values", "copy", "__contains__", "__iter__", "__len__", "__eq__"} <= set(METHODS)
    assert {"__reversed__", "__or__", "__ror__", "pop", "popitem", "setdefault", "__getitem__"} <= set(METHODS)
    by_dict_alone = {
        name for name in METHODS if name not in vars(Session) and getattr(Session, name) is getattr(dict, name)
    }
    assert by_dict_alone <= {"__lt__", "__le__", "__gt__", "__ge__", "__str__", "__format__"}


def _look_at(data: dict[str, Any]) -> None:
    assert data.get("user") in ("victim", None)


FUNCTIONS: dict[str, Callable[[Request], Any]] = {
    "get_session_data": lambda request: request.functions.get_session_data(request.carrier),
    "pluck": lambda request: request.functions.pluck_session_property(request.carrier, "nothing"),
    "update": lambda request: request.functions.update_session_data(request.carrier, _look_at),
    "validate": lambda request: request.functions.validate_csrf_token(request.carrier, "x"),
    "renew": lambda request: request.functions.renew_session(request.carrier),
    "destroy": lambda request: request.functions.destroy_session(request.carrier),
    "require_fresh": lambda request: request.functions.require_fresh(request.carrier, 300),
    "sessions_of": lambda request: request.functions.sessions_of("victim", current=request.carrier),
}


@both
@pytest.mark.parametrize("name", FUNCTIONS)
def test_an_answer_that_a_function_made_differ_varies_on_the_cookie(interface, name):
    """fetches from a shared cache a page that asks one of the functions, and not the mapping — wherever the answer to the victim differs from that to a stranger, both have Vary: Cookie."""  # noqa: E501

    async def page(request: Request) -> Any:
        try:
            return repr(await FUNCTIONS[name](request))
        except Exception as error:  # noqa: BLE001 - whichever it is, it shows whether there is a user
            return type(error).__name__

    site = Site(interface, {"/page": page})
    victim = victim_at(site)
    strangers, own = site.send("GET", "/page"), victim.get("/page")
    assert own.status == strangers.status == 200
    if own.body != strangers.body:
        assert (varies(own), varies(strangers)) == (True, True)


@both
def test_whether_a_session_lives_varies_on_the_cookie(interface):
    """fetches from a shared cache a page that only asks whether the session is alive — the answers to the victim and to a stranger have Vary: Cookie."""  # noqa: E501

    async def page(request: Request) -> Any:
        session = request.session if interface == "asgi" else request.session.loaded()
        return await session.is_alive()

    site = Site(interface, {"/page": page})
    victim = victim_at(site)
    own, strangers = victim.get("/page"), site.send("GET", "/page")
    assert (own.said, strangers.said) == (True, False)
    assert (varies(own), varies(strangers)) == (True, True)


@both
@pytest.mark.parametrize("path", ["/echo", "/nothing"])
def test_an_answer_that_no_session_was_looked_at_for_does_not_vary(interface, path):
    """fills a shared cache with one copy for each visitor, at pages that look at no session — they have no cookie, the application's own Cache-Control, and over WSGI no Vary; raw ASGI cannot see C code look at the mapping, and always varies."""  # noqa: E501

    async def nothing(request: Request) -> Any:
        return isinstance(request.session, dict)

    site = Site(interface, {"/nothing": nothing}, [("Cache-Control", PUBLIC)])
    victim = victim_at(site)
    for reply in (victim.get(path), site.send("GET", path), victim.post(path)):
        assert (reply.all("set-cookie"), reply.all("cache-control")) == ([], [PUBLIC])
        assert reply.all("vary") == (["Cookie"] if interface == "asgi" else [])
    assert varies(victim.get("/whoami"))


def test_a_mapping_that_c_code_reads_varies_on_the_cookie_as_frameworks_hand_it_out():
    """fetches from a shared cache a page that gives the session to orjson, which looks past a dict's methods (over Starlette's request.session) — the answer has Vary: Cookie."""  # noqa: E501

    async def page(request: StarletteRequest) -> Response:
        return Response(orjson.dumps(request.session))

    sessions = Sessions()
    stage = Site("asgi")
    victim = Browser(stage)
    stage.app = Starlette(routes=[Route("/page", page)], middleware=[Middleware(SessionMiddleware, sessions=sessions)])
    founding = Site("asgi")
    founding.sessions, founding.app = sessions, SessionMiddleware(founding._asgi, sessions)
    victim.cookie = victim_at(founding).cookie
    reply = victim.get("/page")
    assert reply.said == {"user": "victim"}
    assert varies(reply)


def test_a_raw_mapping_that_c_code_reads_varies_on_the_cookie():
    """fetches from a shared cache a page that gives scope["session"] of plain ASGI to orjson, which looks past a dict's methods — the answer has Vary: Cookie."""  # noqa: E501
    own, strangers = seen_by("asgi", lambda session: orjson.dumps(session).decode())
    assert own.body != strangers.body
    assert (varies(own), varies(strangers)) == (True, True)


TEMPLATES = (
    "{% if session.user %}in{% endif %}",
    "{% if session %}in{% endif %}",
    "{% if 'user' in session %}in{% endif %}",
    "{{ session|length }}",
    "{% for key in session %}{{ key }}{% endfor %}",
    "{{ session['user'] }}",
    "{{ session.get('user') }}",
    "{% if session == {} %}out{% endif %}",
    "{{ session.items()|list }}",
)


@pytest.mark.parametrize("template", TEMPLATES)
def test_a_template_that_names_the_session_varies_on_the_cookie(template):
    """fetches from a shared cache a page of Flask's whose template alone looks at the session — the answers to the victim and to a stranger have Vary: Cookie."""  # noqa: E501
    app = Flask("shop")
    ServerSession(app, Sessions())

    @app.get("/in")
    def log_in() -> str:
        flask_session["user"] = "victim"
        return "in"

    @app.get("/page")
    def page() -> str:
        return render_template_string(template)

    app.add_url_rule("/plain", "plain", lambda: "plain")
    victim, stranger = app.test_client(), app.test_client()
    victim.get("/in")
    answers = victim.get("/page"), stranger.get("/page")
    assert answers[0].text != answers[1].text
    assert ["Cookie" in answer.vary for answer in answers] == [True, True]
    assert "Cookie" not in victim.get("/plain").vary


# --- refusals

REFUSALS: dict[str, tuple[str, tuple[Header, ...], bytes]] = {
    "site": ("POST", (CROSS, EVIL), b""),
    "origin": ("POST", (EVIL,), b""),
    "no token": ("POST", (), b""),
    "two origins": ("POST", (("origin", "http://a.example, http://b.example"),), b""),
    "a bad origin": ("POST", (("origin", "http://a@b\x00"),), b""),
    "null": ("POST", (("origin", "null"),), b""),
    "a referer": ("POST", (("referer", "http://evil.example/?TOKEN"),), b""),
    "an own referer": ("POST", (("referer", f"{PLAIN}/?TOKEN"),), b""),
    "a token of another session": ("POST", (("x-csrf-token", "OTHER"),), b""),
    "a token that leaked": ("POST", (CROSS, ("x-csrf-token", "TOKEN")), b""),
    "a token with a bit more": ("POST", (("x-csrf-token", "TOKEN="),), b""),
    "a token in the query": ("POST", (), b"query"),
    "a token in the form": (
        "POST",
        (CROSS, ("content-type", "application/x-www-form-urlencoded")),
        b"csrf_token=TOKEN",
    ),
    "a broken form": ("POST", (("content-type", "multipart/form-data; boundary=b"),), b"--b\r\nTOKEN\r\n\r\n--bTOKEN"),
    "broken JSON": ("POST", (("content-type", "application/json"),), b'{"csrf_token": ["TOKEN"], "x": COOKIE'),
    "a cookie as referer": ("POST", (("referer", "http://evil.example/COOKIE"),), b""),
    "authorization": ("POST", (("authorization", "Basic COOKIE"),), b""),
    "a head": ("HEAD", (CROSS,), b""),
    "a method": ("COOKIE", (CROSS,), b""),
    "a handshake": ("GET", (("upgrade", "websocket"), EVIL), b""),
}


def refused_one(victim: Browser, case: str, token: str, other: str) -> Reply:
    """Send a request that is refused; what it holds of tokens and cookies is put into its places."""
    method, headers, body = REFUSALS[case]

    def filled(text: str) -> str:
        return text.replace("TOKEN", token).replace("OTHER", other).replace("COOKIE", victim.credential)

    path = f"/write?csrf_token={token}" if body == b"query" else "/write"
    sent = [(name, filled(value)) for name, value in headers]
    return victim.forged(path, *sent, method=filled(method), body=filled(body.decode()).encode())


def assert_hidden(text: str, *secrets: str) -> None:
    """Assert that a text holds no eight characters in a row of any of the secrets."""
    lowered = text.lower()
    for secret in secrets:
        for at in range(len(secret) - 7):
            assert secret[at : at + 8].lower() not in lowered, text


def logged(caplog: pytest.LogCaptureFixture) -> str:
    """Return all that was logged, with what each record bears beside its text."""
    return "\n".join(f"{record.getMessage()} {vars(record)}" for record in caplog.records)


@both
@pytest.mark.parametrize("case", REFUSALS)
def test_what_is_refused_leaves_no_token_and_no_cookie_in_the_log(interface, case, caplog):
    """reads the log, at its most talkative, after forged requests that bore cookies and tokens in each place — no eight characters of a cookie, selector, verifier or token are in any line, argument or field, nor in the signals."""  # noqa: E501
    site = Site(interface)
    victim = victim_at(site)
    attacker = Browser(site)
    token, other = victim.get("/token").said, attacker.get("/token").said
    caplog.set_level(1)
    caplog.set_level(1, "server_session")
    reply = refused_one(victim, case, token, other)
    assert reply.status == 403
    assert "csrf_rejected" in site.events
    assert any(record.name == "server_session" for record in caplog.records)
    said = logged(caplog) + repr(site.signals)
    assert_hidden(said, victim.credential, token, other, attacker.credential)


@both
@pytest.mark.parametrize("case", REFUSALS)
def test_what_is_refused_leaves_no_token_and_no_cookie_in_metrics_and_traces(interface, case):
    """reads the metrics and the traces after forged requests that bore cookies and tokens in each place — no eight characters of a cookie, selector, verifier or token are in any name, attribute or event."""  # noqa: E501
    told = Told()
    site = Site(interface, telemetry=told.telemetry)
    victim = victim_at(site)
    attacker = Browser(site)
    token, other = victim.get("/token").said, attacker.get("/token").said
    assert refused_one(victim, case, token, other).status == 403
    assert any(event.startswith("csrf_rejected csrf_") for event in told.events)
    assert told.spans
    assert_hidden(told.text, victim.credential, token, other, attacker.credential)


@both
@pytest.mark.parametrize("case", REFUSALS)
def test_the_page_of_a_refusal_shows_nothing_of_the_request_and_is_kept_by_no_cache(interface, case):
    """has the application refuse a request, and reads the page, or has a cache keep it for others — it shows nothing that came with the request, sets no cookie, and is not stored."""  # noqa: E501
    site = Site(interface)
    victim = victim_at(site)
    token = victim.get("/token").said
    reply = refused_one(victim, case, token, "x" * 70)
    shown = reply.body.decode() + repr(reply.headers)
    assert_hidden(shown, victim.credential, token)
    assert "evil" not in shown
    assert (reply.all("cache-control"), reply.all("set-cookie")) == (["no-store"], [])
    assert "Origin, Sec-Fetch-Site" in reply.all("vary")


@both
def test_no_header_of_a_forgery_writes_a_line_of_its_own_into_the_log(interface, caplog):
    """puts line ends, escapes and a forged entry into Origin, Referer, Sec-Fetch-Site, the method and the cookie — each record is one line, and none holds the forged entry."""  # noqa: E501
    site = Site(interface)
    victim = victim_at(site)
    caplog.set_level(1)
    entry = "x\r\nINFO admin logged in\x1b[2J\u2028"
    for name in ("origin", "referer", "sec-fetch-site", "sec-fetch-mode", "authorization", "content-type"):
        raw = entry.encode().decode("latin-1")
        for value in (raw, f"http://evil.example{raw}", f"http://evil.example/{raw}"):
            assert victim.forged("/write", (name, value)).status == 403
    site.send("P\r\nX", "/write", cookie=victim.cookie)
    site.send("GET", "/whoami", cookie=f"session=x\r\nINFO admin{'A' * 50}")
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) > 10
    assert all(line.isprintable() for line in lines), lines
    assert not any("admin" in line for line in lines)


@both
def test_a_flood_of_cookies_is_one_line_in_the_log(interface, caplog):
    """sends hundreds of cookies of the session's name in one request, to fill the log — one line at most a request says so, without any of their values."""  # noqa: E501
    site = Site(interface)
    victim = victim_at(site)
    caplog.set_level(1, "server_session")
    junk = "; ".join(f"session={number:064}" for number in range(400))
    for cookie in (f"{junk}; {victim.cookie}", junk, "; ".join(["session=x"] * 400)):
        caplog.clear()
        site.send("GET", "/whoami", cookie=cookie)
        events = [vars(record).get("event") for record in caplog.records if record.name == "server_session"]
        assert len(events) == len(set(events))
        assert_hidden(logged(caplog), victim.credential, f"{399:064}"[-12:])


@both
def test_a_store_that_fails_puts_no_key_in_the_log_nor_on_the_page(interface, caplog, tmp_path: Path):
    """makes the store fail, by a directory that is gone or a record that is damaged, and reads the log and the answer — 503, and no eight characters of the selector, which a file's name or a driver's error may hold, are in either."""  # noqa: E501
    site = timed_site(interface, "file", tmp_path / "sessions")
    victim = victim_at(site)
    token = victim.get("/token").said
    in_a_file_s_name = base64.urlsafe_b64decode(victim.credential[:24]).hex()
    caplog.set_level(1)
    (file,) = (tmp_path / "sessions").rglob(f"{in_a_file_s_name}.session")
    victim_at(site)
    another, *_ = {*(tmp_path / "sessions").rglob("*.session")} - {file}

    def is_a_folder() -> None:
        file.unlink()
        file.mkdir()

    def is_another_s() -> None:
        file.rmdir()
        file.write_bytes(another.read_bytes())

    for spoil in (
        lambda: file.write_bytes(b"damaged"),
        is_a_folder,
        is_another_s,
        (tmp_path / "sessions/store").unlink,
    ):
        spoil()
        replies = [victim.get(), victim.forged("/write", ("x-csrf-token", token)), victim.post("/write", body=b"x")]
        assert 503 in [reply.status for reply in replies]
        for reply in replies:
            assert_hidden(reply.body.decode() + repr(reply.headers), victim.credential, token, str(tmp_path))
    assert caplog.records
    assert_hidden(logged(caplog), victim.credential, token, in_a_file_s_name)


@both
def test_a_503_tells_nothing_and_is_kept_by_no_cache(interface):
    """asks while the store is down, and has a shared cache keep the answer — it is not stored, sets and expires no cookie, and tells nothing of the store."""  # noqa: E501
    store = Watched()
    site = Site(interface, session_store=store, response_headers=[("Cache-Control", PUBLIC)])
    victim = victim_at(site)
    store.fails = {"get", "look"}
    reply = victim.get()
    assert (reply.status, reply.all("cache-control"), reply.all("set-cookie")) == (503, ["no-store"], [])
    assert b"the store is down" not in reply.body
    store.fails = ()
    assert victim.get().said == {"user": "victim"}


@both
def test_no_answer_opens_itself_to_other_origins(interface):
    """reads the victim's page and token by a script of another site's — no answer of the library's, refused or served, has Access-Control-Allow-Origin, so that a browser shows the script nothing."""  # noqa: E501
    site = Site(interface)
    victim = victim_at(site)
    replies = [victim.forged(path, CROSS, EVIL, method="GET") for path in ("/token", "/whoami")]
    replies += [victim.forged("/write", CROSS, EVIL), victim.forged("/write", CROSS, EVIL, method="OPTIONS")]
    assert [reply.status for reply in replies] == [200, 200, 403, 200]
    for reply in replies:
        assert not [name for name, _ in reply.headers if name.lower().startswith(("access-control", "timing-allow"))]


# --- WebSockets

ORIGINS: dict[str, tuple[str, ...]] = {
    "none": (),
    "null": ("null",),
    "foreign": ("http://evil.example",),
    "a sibling": (f"http://evil.{HOST}",),
    "a sibling's sibling": ("http://evil.example",),
    "below a foreign one": (f"http://{HOST}.evil.test",),
    "another port": (f"http://{HOST}:8080",),
    "two, the own first": (PLAIN, "http://evil.example"),
    "two, the own last": ("http://evil.example", PLAIN),
    "twice the own": (PLAIN, PLAIN),
    "joined": (f"{PLAIN}, http://evil.example",),
    "user info": (f"http://{HOST}@evil.example",),
    "a path": (f"{PLAIN}/",),
    "empty": ("",),
    "of a WebSocket": (f"wss://{HOST}.evil.test",),
    "not ASCII": ("http://sh\xcf\xbfp.example",),
}


class Feed:
    """An application that says over a WebSocket whose session it is."""

    def __init__(self, **settings: Any) -> None:
        self.site = Site("asgi", **settings)
        self.opened = 0
        self.app = SessionMiddleware(self._feed, self.site.sessions)

    async def _feed(self, scope: Any, receive: Any, send: Any) -> None:
        self.opened += 1
        await send({"type": "websocket.accept"})
        await send({"type": "websocket.send", "text": json.dumps(await self.site.sessions.get_session_data(scope))})
        await send({"type": "websocket.close"})

    def connect(self, origins: tuple[str, ...], cookie: str | None, *more: Header, query: str = "") -> list[Any]:
        """Open a WebSocket; return the messages that the client got."""
        socket = WebSocket()

        async def app(scope: Any, receive: Any, send: Any) -> None:
            kept = [(name, value) for name, value in scope["headers"] if name != b"origin"]
            added = [("origin", origin) for origin in origins] + list(more)
            raw = [(name.encode(), value.encode("latin-1")) for name, value in added]
            await self.app({**scope, "headers": [*kept, *raw], "query_string": query.encode()}, receive, send)

        asyncio.run(socket.connect(app, cookie))
        return [message.get("text") or message.get("code") or message["type"] for message in socket.got]


SEEN = ["websocket.accept", '{"user": "victim"}', "websocket.close"]


@pytest.mark.parametrize("case", ORIGINS)
@pytest.mark.parametrize("origin", [None, PLAIN])
def test_a_websocket_of_another_sites_page_is_not_opened(case, origin):
    """opens a WebSocket with the victim's cookie from another site's page: with no Origin, null, a foreign one, a sibling's, one with another port, or two (over ASGI) — closed with 1008 before the application sees it; from the own page it opens."""  # noqa: E501
    feed = Feed(origin=origin)
    victim = victim_at(feed.site)
    assert feed.connect(ORIGINS[case], victim.cookie) == [1008]
    # No word of the browser's, and no token, stands for the Origin.
    token = victim.get("/token").said
    assert feed.connect(ORIGINS[case], victim.cookie, OWN, ("x-csrf-token", token), query=f"csrf_token={token}") == [
        1008
    ]
    assert feed.opened == 0
    assert feed.connect((PLAIN,), victim.cookie) == SEEN


@pytest.mark.parametrize("origin", [f"https://{HOST}", f"http://{HOST}:443", f"ws://{HOST}", f"http://www.{HOST}"])
def test_a_websocket_from_another_scheme_is_not_opened_where_the_own_is_configured(origin):
    """opens a WebSocket with the victim's cookie from a page of the application's name, by another scheme (over ASGI) — with a configured origin closed with 1008; a trusted origin opens it, by its exact name."""  # noqa: E501
    feed = Feed(origin=PLAIN, csrf=CSRF(trusted_origins="https://pay.example"))
    victim = victim_at(feed.site)
    assert feed.connect((origin,), victim.cookie) == [1008]
    for sibling in ("http://pay.example", "https://pay.example:8443", "https://x.pay.example"):
        assert feed.connect((sibling,), victim.cookie) == [1008]
    assert feed.opened == 0
    assert feed.connect(("https://pay.example",), victim.cookie) == SEEN


@pytest.mark.parametrize("spoof", [("x-forwarded-host", "evil.example"), ("forwarded", "host=evil.example")])
def test_no_forwarded_header_opens_a_websocket(spoof):
    """spoofs X-Forwarded-Host or Forwarded beside a foreign Origin (over ASGI) — closed with 1008."""
    feed = Feed()
    victim = victim_at(feed.site)
    assert feed.connect(("http://evil.example",), victim.cookie, spoof) == [1008]
    assert feed.opened == 0
    assert feed.connect((PLAIN,), victim.cookie, spoof) == SEEN


@pytest.mark.parametrize("scheme", ["Basic dmljdGltOng=", "Digest x=1", "Negotiate x"])
def test_a_websocket_that_the_browser_authorizes_by_itself_is_not_opened(scheme):
    """opens a WebSocket from another site's page without a cookie, where the browser adds Basic, Digest or Negotiate authorization by itself (over ASGI) — closed with 1008."""  # noqa: E501
    feed = Feed()
    for origins in ((), ("http://evil.example",), ("null",)):
        assert feed.connect(origins, None, ("authorization", scheme)) == [1008]
    assert feed.opened == 0
    assert feed.connect((PLAIN,), None, ("authorization", scheme))[0] == "websocket.accept"


def test_a_websocket_without_the_cookie_shows_nobodys_data():
    """opens a WebSocket from another site's page, where Lax withheld the cookie (over ASGI) — it opens as a stranger's, shows no data, and a cookie that is spoilt is one all the same: closed with 1008."""  # noqa: E501
    feed = Feed()
    victim = victim_at(feed.site)
    assert feed.connect(("http://evil.example",), None) == ["websocket.accept", "{}", "websocket.close"]
    for cookie in (
        "session=",
        "session=x",
        f"{victim.cookie}x",
        f"a[]=1; {victim.cookie}",
        f"{victim.cookie}; session=x",
    ):
        assert feed.connect(("http://evil.example",), cookie) == [1008]
    assert feed.connect((PLAIN,), f"a[]=1; {victim.cookie}") == SEEN


# --- the settings


MANGLED = (
    *("{}://shop:p4@w0rd@db/shop", "{}://shop:p4:w0rd@db/shop", "{}://shop:p4@ss:w0rd@db/shop"),
    *("{}://shop:p4/w0rd@db/shop", "{}://shop:p4#w0rd@db:x/shop", "{}://shop:12?p4=w0rd@db:x/shop"),
    *("{}//shop:p4w0rd@db/shop", "{}//p4w0rd@db/shop", "{}://shop:p4w0rd@[db/shop"),
    *(
        "{}://shop:12@p4/w0rd@db/shop",
        "p4@w0rd@db/{}",
        "p4:w0rd@db/{}",
        "shop:p4w0rd@db/{}",
        "{}://shop:p4w0rd@db:port/shop",
    ),
)
DATABASES = ("postgresql+psycopg", "postgresql+asyncpg", "mysql+pymysql", "redis", "memcached", "gopher")


@pytest.mark.parametrize("scheme", [*DATABASES, "sqlite", "sqlite+aiosqlite"])
def test_no_error_of_a_mangled_url_shows_a_part_of_its_password(scheme):
    """reads the log of an operator who has left a reserved character in the password of a store's URL, or mangled the
    URL otherwise — where it cannot work that is a ConfigurationError, and no part of the password is in it."""
    refused: list[ConfigurationError] = []
    for mangled in MANGLED:
        try:
            Sessions(session_store=mangled.format(scheme))
        except ConfigurationError as error:
            refused.append(error)
    assert len(refused) > len(MANGLED) / 2
    for error in refused:
        said = "".join(traceback.format_exception(error)).rpartition("ConfigurationError")[2]
        assert error.__suppress_context__ or error.__context__ is None
        assert "p4" not in said
        assert "w0rd" not in said


@pytest.mark.parametrize("scheme", DATABASES)
def test_no_part_of_a_mangled_password_is_taken_for_a_host(scheme):
    """reads the log of an operator whose store's URL has a password with both a / and an @ — no name is looked up of
    which a part of it was made, and that an error would show."""
    with pytest.raises(ConfigurationError):
        Sessions(session_store=f"{scheme}://shop:12@p4/w0rd@db/shop")


@pytest.mark.parametrize(
    "settings",
    [
        {"session_store": b"redis://:p4w0rd@db"},
        {"session_store": {"url": "redis://:p4w0rd@db"}},
        {"session_store": ["redis://:p4w0rd@db"]},
        {"origin": "https://shop:p4w0rd@shop.example"},
        {"origin": b"https://shop:p4w0rd@shop.example"},
        {"origin": ["shop:p4w0rd@shop.example"]},
        {"codec": "p4w0rd"},
    ],
    ids=str,
)
def test_no_error_of_a_setting_shows_a_password_that_is_in_it(settings):
    """reads the log of an operator who has given a store's URL as bytes, a public address with a password in it, a key
    in the codec's place — a ConfigurationError, and no part of it."""
    with pytest.raises(ConfigurationError) as refused:
        Sessions(**settings)
    assert "p4w0rd" not in str(refused.value)

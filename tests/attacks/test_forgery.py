"""Requests that another site makes the victim's browser send (CSRF): none of them may do anything."""

import asyncio
import base64
import io
import json
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from flask import Flask
from flask.views import MethodView
from starlette.applications import Starlette
from starlette.endpoints import HTTPEndpoint
from starlette.middleware import Middleware
from starlette.requests import Request as StarletteRequest
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route
from werkzeug.test import EnvironBuilder, run_wsgi_app

from server_session import CSRF, Sessions, asgi, csrf_exempt, csrf_protect, wsgi
from server_session._tokens import Credential, issue_token
from server_session.flask import ServerSession
from server_session.starlette import SessionMiddleware
from tests.asgi_client import call, scope_of
from tests.attacks.stage import HOST, INTERFACES, Browser, Header, Reply, Request, Site, timed_site, victim_at
from tests.patience import PATIENCE
from tests.visitors import STORES, Watched

both = pytest.mark.parametrize("interface", INTERFACES)
# In every run: two lines of a header are one under WSGI.
over_both = pytest.mark.parametrize("front", INTERFACES)

SECURE = f"https://{HOST}"
PLAIN = f"http://{HOST}"
SITE = "sec-fetch-site"
OWN = (SITE, "same-origin")
CROSS = (SITE, "cross-site")
SIBLING = (SITE, "same-site")
EVIL = ("origin", "http://evil.example")
FORM = ("content-type", "application/x-www-form-urlencoded")
JSON = ("content-type", "application/json")
TEXT = ("content-type", "text/plain")
MULTIPART = ("content-type", "multipart/form-data; boundary=limit")
WRITES = ("/write", "/count", "/pluck", "/log_in", "/replace", "/renew", "/assign", "/clear", "/log_out")
LOG_INS = ("/log_in", "/replace", "/assign", "/clear")


async def method(request: Request) -> Any:
    return request.method


async def else_writes(request: Request) -> Any:
    if request.method == "GET":
        return "a form"
    return await request.functions.set_session_data(request.carrier, {"granted": True})


async def hook(request: Request) -> Any:
    return "hooked"


ENDPOINTS = {f"/{one.__name__}": one for one in (method, else_writes, hook)}


def site_of(interface: str, **settings: Any) -> Site:
    return Site(interface, endpoints=ENDPOINTS, **settings)


def forge(victim: Browser, *headers: Header, path: str = "/write", body: bytes = b"forged", **more: Any) -> Reply:
    """Send what another site's page, or what a browser that says little of its requests, sends with the cookie."""
    victim.site.seen.clear()
    return victim.forged(path, *headers, body=body, **more)


def assert_refused(victim: Browser, reply: Reply, *codes: str) -> None:
    """Assert that the application never saw the request, and that the victim's session and browser are as before."""
    assert victim.site.seen == []
    assert reply.status == 403
    assert not codes or reply.rejection in codes, reply.rejection
    assert not reply.all("set-cookie")
    assert reply.all("cache-control") == ["no-store"]
    assert victim.get().said == {"user": "victim"}


def assert_served(victim: Browser, reply: Reply) -> None:
    assert (reply.status, victim.get().said["note"]) == (200, "forged")


def part(name: str, value: str, more: str = "", headers: str = "") -> str:
    return f'--limit\r\nContent-Disposition: form-data; name="{name}"{more}\r\n{headers}\r\n{value}\r\n'


END = "--limit--\r\n"


def in_place(place: str, value: str) -> tuple[list[Header], bytes]:
    """Return headers and body of a request with a token in one of its places."""
    match place:
        case "header":
            return [("x-csrf-token", value)], b"forged"
        case "form":
            # As a script of another site's would write it, byte for byte.
            escaped = quote(value, safe="").encode()
            return [FORM], b"a=1&csrf_token=" + escaped
        case "multipart":
            return [MULTIPART], f"{part('csrf_token', value)}{END}".encode()
        case _:
            return [JSON], json.dumps({"csrf_token": value}).encode()


PLACES = ("header", "form", "multipart", "JSON")


# --- what the browser says of a forged request


@both
@pytest.mark.parametrize("path", WRITES)
@pytest.mark.parametrize("said", [CROSS, SIBLING], ids=["cross-site", "same-site"])
def test_another_sites_post_that_bears_the_cookie_changes_nothing(interface, path, said):
    """lets a page of another site, or of a sibling domain, post to each endpoint that writes, with the victim's cookie — 403, and neither data nor log-in nor cookie change."""  # noqa: E501
    site = site_of(interface)
    victim = victim_at(site)
    before = victim.cookie
    assert_refused(victim, forge(victim, said, EVIL, path=path), "csrf_site")
    assert_refused(victim, forge(victim, said, path=path), "csrf_site")
    assert victim.cookie == before
    assert forge(victim, OWN, ("origin", PLAIN), path=path).status == 200


@both
@pytest.mark.parametrize("path", LOG_INS)
def test_a_log_in_that_another_site_forges_does_not_replace_the_victims(interface, path):
    """logs the victim in as the attacker, by a cross-site POST from which Lax strips the cookie — 403, no session is founded, and the browser keeps the victim's."""  # noqa: E501
    site = site_of(interface)
    victim = victim_at(site)
    rows = site.sessions.store.stats()
    site.seen.clear()
    for headers in ((CROSS, EVIL), (CROSS,), (EVIL,)):
        reply = site.send("POST", path, *headers, body=b"attacker")
        assert_refused(victim, reply)
        site.seen.clear()
    assert site.sessions.store.stats() == rows
    control = site.post(path, body=b"attacker")
    assert control.cookie not in (None, "", victim.cookie)


@both
@pytest.mark.parametrize("path", LOG_INS)
def test_where_nothing_is_checked_a_forged_log_in_still_does_not_replace_the_victims(interface, path):
    """logs the victim in as the attacker at an application that has switched the check off, by a cross-site POST that Lax strips of its cookie — nothing is founded, no cookie is set, and the answer is 403."""  # noqa: E501
    site = site_of(interface, csrf=None)
    victim = victim_at(site)
    rows = site.sessions.store.stats()
    for headers in ((CROSS, EVIL), (CROSS,), (EVIL,)):
        reply = site.send("POST", path, *headers, body=b"attacker")
        assert (reply.status, reply.rejection, reply.all("set-cookie")) == (403, "cookie_withheld", [])
    assert site.sessions.store.stats() == rows
    assert victim.get().said == {"user": "victim"}
    assert site.post(path, body=b"attacker").cookie


@both
def test_a_log_in_forged_in_an_old_browser_needs_the_token_where_the_log_in_is_protected(interface):
    """logs the victim in as the attacker from a browser that sends neither Origin nor Sec-Fetch-Site, without a cookie — with protect_anonymous, or where the log-in asks for it, a missing cookie is no excuse: 403."""  # noqa: E501
    site = site_of(interface, csrf=CSRF(protect_anonymous=True))
    victim = victim_at(site)
    site.seen.clear()
    reply = site.send("POST", "/log_in", body=b"attacker")
    assert_refused(victim, reply, "csrf_token_missing")
    assert site.post("/log_in", body=b"other").cookie


@both
@pytest.mark.parametrize("csrf", [CSRF(), None], ids=["checked", "unchecked"])
def test_a_forced_log_out_without_the_cookie_does_not_expire_it(interface, csrf):
    """posts to the log-out across sites, where Lax strips the cookie — no answer expires the browser's cookie, with the check and without it, and the victim stays logged in."""  # noqa: E501
    site = site_of(interface, csrf=csrf)
    victim = victim_at(site)
    reply = site.send("POST", "/log_out", CROSS, EVIL)
    assert not reply.all("set-cookie")
    assert (reply.status == 403) == (csrf is not None)
    assert victim.get().said == {"user": "victim"}
    assert victim.post("/log_out").said is True
    assert victim.get().said == {}


@both
@pytest.mark.parametrize("origin", [None, PLAIN])
def test_a_conviction_by_the_headers_is_outweighed_by_no_token(interface, origin):
    """has got hold of a token of the victim's and posts it across sites — the headers convict, a valid token notwithstanding."""  # noqa: E501
    site = site_of(interface, origin=origin)
    victim = victim_at(site)
    token = ("x-csrf-token", victim.get("/token").said)
    assert_refused(victim, forge(victim, CROSS, token), "csrf_site")
    assert_refused(victim, forge(victim, SIBLING, token), "csrf_site")
    assert_refused(victim, forge(victim, EVIL, token), "csrf_origin")
    assert_served(victim, forge(victim, token))


WORKER = {
    "Firefox": (("sec-fetch-mode", "navigate"), ("sec-fetch-dest", "empty")),
    "WebKit": (("sec-fetch-mode", "same-origin"), ("sec-fetch-dest", "empty")),
    "no Dest": (("sec-fetch-mode", "navigate"),),
    "an empty Dest": (("sec-fetch-mode", "navigate"), ("sec-fetch-dest", "")),
    "no Dest, same-origin": (("sec-fetch-mode", "same-origin"),),
    "two Modes": (("sec-fetch-mode", "navigate"), ("sec-fetch-mode", "cors"), ("sec-fetch-dest", "document")),
    "two Dests": (("sec-fetch-mode", "navigate"), ("sec-fetch-dest", "document"), ("sec-fetch-dest", "empty")),
}


@both
@pytest.mark.parametrize("laundered", WORKER)
@pytest.mark.parametrize("origin", [None, PLAIN])
def test_a_form_that_a_service_worker_launders_needs_the_token(interface, laundered, origin):
    """posts a sibling's form through the application's own pass-through service worker, so that it comes as same-origin with the own Origin — no pass without a token, with the cookie or without."""  # noqa: E501
    site = site_of(interface, origin=origin)
    victim = victim_at(site)
    headers = (OWN, ("origin", PLAIN), *WORKER[laundered])
    assert_refused(victim, forge(victim, *headers), "csrf_token_missing")
    site.seen.clear()
    assert_refused(victim, site.send("POST", "/log_in", *headers, body=b"attacker"), "csrf_token_missing")
    form = (("sec-fetch-mode", "navigate"), ("sec-fetch-dest", "document"))
    assert forge(victim, OWN, ("origin", PLAIN), *form).status == 200
    assert_served(victim, forge(victim, *headers, ("x-csrf-token", victim.get("/token").said)))


@both
@pytest.mark.parametrize("scheme", ["Basic dmljdGltOng=", "basic dmljdGltOng=", "Digest x=1", "Negotiate x", "NTLM x"])
def test_authorization_that_the_browser_sends_by_itself_excuses_no_missing_cookie(interface, scheme):
    """posts without a cookie where the browser adds the victim's Basic, Digest or Negotiate authorization by itself — the missing cookie is no excuse; a Bearer token, which a page must add, is one."""  # noqa: E501
    site = site_of(interface)
    for headers in ((), ((SITE, "none"),), (("origin", PLAIN),)):
        reply = site.send("POST", "/write", *headers, ("authorization", scheme), body=b"forged")
        assert (reply.status, reply.rejection, site.seen) == (403, "csrf_token_missing", [])
    twice = (("authorization", "Bearer x"), ("authorization", scheme))
    if interface == "asgi":
        assert site.send("POST", "/write", *twice).status == 403
    assert site.send("POST", "/write", ("authorization", "Bearer x"), body=b"honest").said is True


@both
@pytest.mark.parametrize("origin", ["http://evil.example", None, "null", f"{PLAIN}, http://evil.example"])
def test_a_handshake_that_comes_as_a_get_shows_another_site_nothing(interface, origin):
    """opens a WebSocket from another site's page, which an application behind a gateway gets as a GET with Upgrade — 403 before the application sees it."""  # noqa: E501
    site = site_of(interface)
    victim = victim_at(site)
    upgrade = (("upgrade", "websocket"), ("connection", "Upgrade"), ("sec-websocket-version", "13"))
    given = [] if origin is None else [("origin", origin)]
    reply = forge(victim, *upgrade, *given, method="GET", path="/whoami", body=b"")
    assert b"victim" not in reply.body
    assert_refused(victim, reply, "csrf_origin")
    own = forge(victim, *upgrade, ("origin", PLAIN), method="GET", path="/whoami", body=b"")
    assert own.said == {"user": "victim"}


@both
@pytest.mark.parametrize("origin", [None, PLAIN])
@pytest.mark.parametrize("first_own", [True, False])
def test_two_headers_of_which_one_is_good_are_no_good(interface, origin, first_own):
    """gets a second Origin or Sec-Fetch-Site into the request, before or behind the true one, as two lines or joined by a comma — 403: whichever was meant."""  # noqa: E501
    site = site_of(interface, origin=origin)
    victim = victim_at(site)
    sites, origins = ["same-origin", "cross-site"], [PLAIN, "http://evil.example"]
    if not first_own:
        sites, origins = sites[::-1], origins[::-1]
    for joint in (",", ", "):
        assert_refused(victim, forge(victim, (SITE, joint.join(sites))), "csrf_header")
        assert_refused(victim, forge(victim, OWN, ("origin", joint.join(origins))), "csrf_header")
        assert_refused(victim, forge(victim, ("origin", joint.join(origins))), "csrf_header")
    assert_refused(victim, forge(victim, *[(SITE, one) for one in sites]), "csrf_header")
    assert_refused(victim, forge(victim, OWN, *[("origin", one) for one in origins]), "csrf_header")
    assert_refused(victim, forge(victim, ("origin", PLAIN), ("origin", PLAIN), OWN), "csrf_header")
    assert_served(victim, forge(victim, OWN, ("origin", PLAIN)))


@both
@pytest.mark.parametrize("said", [(), (OWN,), ((SITE, "none"),)], ids=["no site", "same-origin", "none"])
@pytest.mark.parametrize("origin", [None, PLAIN])
def test_a_null_origin_passes_nowhere_without_the_token(interface, said, origin):
    """posts from a sandboxed frame or a data: page, whose Origin is null — no pass without a token, with the cookie or without; across sites none at all."""  # noqa: E501
    site = site_of(interface, origin=origin)
    victim = victim_at(site)
    null = ("origin", "null")
    assert_refused(victim, forge(victim, null, *said), "csrf_token_missing")
    site.seen.clear()
    assert_refused(victim, site.send("POST", "/log_in", null, *said, body=b"attacker"), "csrf_token_missing")
    token = ("x-csrf-token", victim.get("/token").said)
    assert_refused(victim, forge(victim, null, CROSS, token), "csrf_site")
    # A page of the own site under `Referrer-Policy: no-referrer` sends the same, and has a token.
    assert_served(victim, forge(victim, null, *said, token))


@both
@pytest.mark.parametrize(
    "value", ["SAME-ORIGIN", "same-origin;x", '"same-origin"', "same-origin\x00", "?1", "", "\xa0"]
)
def test_a_site_header_of_another_spelling_is_no_word_of_the_browsers(interface, value):
    """gets a Sec-Fetch-Site that no browser sends into the request — it counts as absent: a foreign Origin is refused, and what says nothing else needs the token."""  # noqa: E501
    site = site_of(interface)
    victim = victim_at(site)
    assert_refused(victim, forge(victim, (SITE, value), EVIL), "csrf_origin")
    assert_refused(victim, forge(victim, (SITE, value)), "csrf_token_missing")
    assert_served(victim, forge(victim, (SITE, "same-origin")))


# --- origins

STRANGERS = {
    "foreign": "http://evil.example",
    "below a foreign one": f"http://{HOST}.evil.test",
    "with a longer name": f"http://evil{HOST}",
    "with a shorter name": "http://hop.example",
    "with a longer top domain": f"http://{HOST}s",
    "a subdomain": f"http://www.{HOST}",
    "the parent": "http://example",
    "another port": f"http://{HOST}:8080",
    "another port, with zeros": f"http://{HOST}:08080",
    "another scheme": f"https://{HOST}",
    "another scheme's port": f"http://{HOST}:443",
    "a browser's extension": f"chrome-extension://{HOST}",
    "a file": "file://",
    "a trailing dot": f"http://{HOST}.",
    "user info": f"http://{HOST}@evil.example",
    "user info of a stranger": f"http://evil@{HOST}",
    "a path": f"http://{HOST}/",
    "a query": f"http://evil.example?{HOST}",
    "a fragment": f"http://evil.example#{HOST}",
    "an encoded NUL": f"http://{HOST}%00",
    "an encoded NUL, and more": f"http://{HOST}%00.evil.example",
    "a NUL": f"http://{HOST}\x00",
    "a backslash": f"http://{HOST}\\.evil.example",
    "a blank": f"http://{HOST} evil.example",
    "a Greek omicron": "http://sh\xcf\xbfp.example",
    "a full-width letter": "http://\xef\xbd\x93hop.example",
    "its ASCII form": "http://xn--shp-yjc.example",
    "a Kelvin sign": "http://shop.example\xe2\x84\xaa",
    "no scheme": HOST,
    "scheme-relative": f"//{HOST}",
    "three slashes": f"http:///{HOST}",
    "one slash": f"http:/{HOST}",
    "quoted": f'"http://{HOST}"',
    "a list": f"http://evil.example http://{HOST}",
    "null in capitals": "NULL",
    "a star": "*",
    "an address": "http://203.0.113.7",
    "a port that is none": f"http://{HOST}:99999",
    "IPv6": "http://[::1]",
}


@both
@pytest.mark.parametrize("case", STRANGERS)
@pytest.mark.parametrize("origin", [None, PLAIN])
def test_an_origin_that_is_not_the_own_does_not_pass_however_much_it_looks_so(interface, case, origin):
    """posts from an origin that looks like the application's: below it, above it, with another port, scheme, user, NUL, letter or spelling, in a browser without Sec-Fetch-Site — 403."""  # noqa: E501
    site = site_of(interface, origin=origin)
    victim = victim_at(site)
    foreign = ("origin", STRANGERS[case])
    reply = forge(victim, foreign)
    # Without a configured origin the scheme is not known, behind a proxy that ends TLS: there the token decides.
    unknown_scheme = origin is None and case in ("another scheme", "a browser's extension")
    assert_refused(victim, reply, *(["csrf_token_missing"] if unknown_scheme else ["csrf_origin", "csrf_header"]))
    if origin is not None:
        token = ("x-csrf-token", victim.get("/token").said)
        assert_refused(victim, forge(victim, foreign, token), "csrf_origin", "csrf_header")
        assert_refused(victim, forge(victim, foreign, OWN), "csrf_origin", "csrf_header")
        assert_served(victim, forge(victim, ("origin", f"HTTP://{HOST.upper()}:80")))


@both
@pytest.mark.parametrize(
    "origin", ["http://pay.example", "https://pay.example:8443", "https://api.pay.example", "https://pay.example.test"]
)
def test_a_trusted_origins_sibling_is_not_trusted(interface, origin):
    """posts from a sibling of a trusted origin, or from its host by another scheme or port — 403; the trusted origin alone passes."""  # noqa: E501
    for own in (None, SECURE):
        site = site_of(interface, origin=own, csrf=CSRF(trusted_origins="https://pay.example"))
        victim = victim_at(site)
        assert_refused(victim, forge(victim, ("origin", origin)), "csrf_origin")
        assert_refused(victim, forge(victim, ("origin", origin), CROSS), "csrf_site")
        assert_refused(victim, forge(victim, ("referer", f"{origin}/https://pay.example/")), "csrf_origin")
        assert_served(victim, forge(victim, ("origin", "https://pay.example"), CROSS))


REFERERS = (
    "http://evil.example/",
    f"http://evil.example/{PLAIN}/",
    f"http://evil.example?{PLAIN}/",
    f"http://evil.example#{PLAIN}/",
    f"http://{HOST}.evil.test/",
    f"http://{HOST}@evil.example/",
    f"http://{HOST}%00.evil.example/",
    f"http://{HOST}:8080/",
    f"http://{HOST}\\@evil.example/",
    f"http:\\\\{HOST}\\",
    f"//{HOST}/",
    HOST,
    f"/{HOST}",
    "data:text/html,x",
    f"javascript:'{PLAIN}/'",
    f"blob:{PLAIN}/x",
    "http://evil.example\r\n",
    "\xff",
)


@both
@pytest.mark.parametrize("referer", REFERERS)
@pytest.mark.parametrize("origin", [None, PLAIN])
def test_a_referer_that_only_looks_own_does_not_pass(interface, referer, origin):
    """hides the own address in a foreign Referer, in a browser that sends neither Origin nor Sec-Fetch-Site — 403, and no token helps."""  # noqa: E501
    site = site_of(interface, origin=origin)
    victim = victim_at(site)
    assert_refused(victim, forge(victim, ("referer", referer)), "csrf_origin")
    token = ("x-csrf-token", victim.get("/token").said)
    assert_refused(victim, forge(victim, ("referer", referer), token), "csrf_origin")
    assert_served(victim, forge(victim, ("referer", f"{PLAIN}/cart"), token))


@both
def test_an_own_referer_is_no_pass_by_itself(interface):
    """sends the request without Origin and with a Referer that an open redirect or an old flaw made the own — that alone does not pass; the token decides."""  # noqa: E501
    for origin in (None, PLAIN):
        site = site_of(interface, origin=origin)
        victim = victim_at(site)
        assert_refused(victim, forge(victim, ("referer", f"{PLAIN}/cart")), "csrf_token_missing")
        for none in ("", "about:blank"):
            assert_refused(victim, forge(victim, ("referer", none)), "csrf_token_missing")
        two = (("referer", f"{PLAIN}/cart"), ("referer", "http://evil.example/"))
        assert_refused(victim, forge(victim, *two))
        token = ("x-csrf-token", victim.get("/token").said)
        assert_served(victim, forge(victim, ("referer", f"{PLAIN}/cart"), token))


FORWARDED = (
    ("x-forwarded-host", "evil.example"),
    ("x-forwarded-server", "evil.example"),
    ("x-original-host", "evil.example"),
    ("x-host", "evil.example"),
    ("forwarded", "for=203.0.113.7;host=evil.example;proto=http"),
    ("x-forwarded-proto", "https"),
    ("x-forwarded-scheme", "https"),
    ("x-forwarded-port", "8080"),
    ("x-original-url", "/hook"),
    ("x-rewrite-url", "/hook"),
)


@both
@pytest.mark.parametrize("name, value", FORWARDED)
@pytest.mark.parametrize("origin", [None, PLAIN])
def test_forwarded_headers_that_anyone_can_send_decide_nothing(interface, name, value, origin):
    """spoofs X-Forwarded-Host, X-Forwarded-Proto, Forwarded or X-Original-URL, so that a foreign Origin, scheme, port or path would be the own — they are not read: 403."""  # noqa: E501
    site = site_of(interface, origin=origin)
    victim = victim_at(site)
    assert_refused(victim, forge(victim, (name, value), EVIL), "csrf_origin")
    assert_refused(victim, forge(victim, (name, value), CROSS), "csrf_site")
    assert_refused(victim, forge(victim, (name, value), ("origin", f"http://{HOST}:8080")), "csrf_origin")
    other = forge(victim, (name, value), ("origin", SECURE))
    assert_refused(victim, other, "csrf_token_missing" if origin is None else "csrf_origin")
    assert_served(victim, forge(victim, (name, value), OWN, ("origin", PLAIN)))


HOSTS = ("evil.example", "evil.example:80", f"{HOST}.evil.test", f"evil.example, {HOST}", f"{HOST}@evil.example", "")


@both
@pytest.mark.parametrize("host", HOSTS)
def test_a_foreign_host_that_matches_a_foreign_origin_is_refused_where_the_own_is_configured(interface, host):
    """points a name of the attacker's at the server, or rebinds it, so that Host and Origin are both foreign and agree — with a configured origin 403, whatever the browser says of the site."""  # noqa: E501
    site = site_of(interface, origin=PLAIN)
    victim = victim_at(site)
    foreign = ("origin", "http://evil.example")
    for headers in ((foreign,), (foreign, OWN)):
        assert_refused(victim, forge(victim, *headers, host=host), "csrf_origin")
    assert_served(victim, forge(victim, ("origin", PLAIN), host="10.0.0.7:8000"))


@both
def test_a_rebound_name_without_a_configured_origin_reaches_nobodys_session(interface):
    """rebinds a name of the attacker's to a server that has no origin configured, so that Host and Origin agree — the browser has no cookie for that name: it is served as a stranger, no data shows, and a cookie pinned to another host is never set."""  # noqa: E501
    site = site_of(interface)
    victim = victim_at(site)
    rebound = (("origin", "http://evil.example"), OWN)
    reply = site.send("POST", "/whoami", *rebound, host="evil.example")
    assert (reply.status, reply.said, reply.all("set-cookie")) == (200, {}, [])
    founded = site.send("POST", "/write", *rebound, host="evil.example", body=b"forged").all("set-cookie")
    assert len(founded) == 1
    assert "domain" not in founded[0].lower()
    assert victim.get().said == {"user": "victim"}
    # A name that only Host and Origin share is no proof in a browser that says no more.
    assert_refused(victim, forge(victim, rebound[0], host="evil.example"), "csrf_token_missing")


# --- methods


METHODS = ("post", "Post", "get", "Get", "head", "PURGE", "QUERY", "PUT", "PATCH", "DELETE", "TRACE", "CONNECT", "LINK")
METHODS += ("PROPFIND", "SEARCH", "GETT", "GE", "OPTIONS ", " GET", "GET\x00", "X", "", "G\xcbT")


@both
@pytest.mark.parametrize("name", METHODS)
def test_a_method_that_is_not_exactly_a_safe_one_is_checked(interface, name):
    """forges a request with a lower-case, unknown or rare method, which a framework may take for GET or POST — checked like a POST: 403."""  # noqa: E501
    site = site_of(interface)
    victim = victim_at(site)
    assert_refused(victim, forge(victim, CROSS, method=name), "csrf_site")
    assert_refused(victim, forge(victim, EVIL, method=name), "csrf_origin")
    assert_refused(victim, forge(victim, method=name), "csrf_token_missing")
    assert_served(victim, forge(victim, OWN, method=name))


@both
@pytest.mark.parametrize("name", ["QUERY", "SEARCH", "PROPFIND"])
def test_a_query_is_checked_like_a_post(interface, name):
    """forges a QUERY, which is safe by its definition, at a handler that writes — checked like a POST: 403."""
    site = site_of(interface)
    victim = victim_at(site)
    assert_refused(victim, forge(victim, CROSS, method=name), "csrf_site")


OVERRIDES = ("x-http-method-override", "x-http-method", "x-method-override", "x-original-method")


@both
@pytest.mark.parametrize("name", OVERRIDES)
def test_no_override_makes_a_forged_post_safe(interface, name):
    """says by an override header, a query or a form field that the forged POST is a GET — what counts is the method on the wire: 403; and a GET that says it is a DELETE stays a GET."""  # noqa: E501
    site = site_of(interface)
    victim = victim_at(site)
    for path in ("/write", "/write?_method=GET"):
        for said in ("GET", "HEAD", "OPTIONS"):
            reply = forge(victim, CROSS, FORM, (name, said), path=path, body=f"_method={said}".encode())
            assert_refused(victim, reply, "csrf_site")
    got = forge(victim, CROSS, (name, "DELETE"), method="GET", path="/method?_method=DELETE", body=b"")
    assert got.said == "GET"
    assert_served(victim, forge(victim, OWN, (name, "GET")))


@both
@pytest.mark.parametrize("wire, seen", [("GET", "POST"), ("POST", "GET"), ("HEAD", "DELETE"), ("OPTIONS", "post")])
def test_a_method_is_safe_only_if_it_is_so_on_the_wire_and_inside(interface, wire, seen):
    """forges a request whose method a layer further in changes, from safe to unsafe or back — it is safe only if it is so in both: 403 before the application."""  # noqa: E501
    site = site_of(interface)
    victim = victim_at(site)
    inner = site.app

    def overriding_wsgi(environ: Any, start_response: Any) -> Any:
        return inner({**environ, "REQUEST_METHOD": environ["HTTP_X_METHOD"]}, start_response)

    async def overriding_asgi(scope: Any, receive: Any, send: Any) -> None:
        said = next(value for name, value in scope["headers"] if name == b"x-method")
        await inner({**scope, "method": said.decode()}, receive, send)

    if interface == "asgi":
        site.app = asgi.SessionMiddleware(overriding_asgi, site.sessions)
    else:
        site.app = wsgi.SessionMiddleware(overriding_wsgi, site.sessions)
    site.seen.clear()
    for headers, code in (((CROSS,), "csrf_site"), ((), "csrf_token_missing")):
        reply = site.send(wire, "/write", *headers, ("x-method", seen), cookie=victim.cookie, body=b"forged")
        assert (reply.status, reply.rejection, site.seen) == (403, code, [])
    control = site.send(wire, "/write", OWN, ("x-method", seen), cookie=victim.cookie, body=b"forged")
    assert (control.status, site.seen) == (200, ["/write"])


@both
@pytest.mark.parametrize(
    "convict", [CROSS, SIBLING, EVIL, ("referer", "http://evil.example/")], ids=["cross", "same", "Origin", "Referer"]
)
def test_a_head_from_another_site_does_not_reach_a_handler_that_writes(interface, convict):
    """sends a HEAD across sites to a handler that writes whatever is not a GET — 403, and nothing is written; an own HEAD is served."""  # noqa: E501
    site = site_of(interface)
    victim = victim_at(site)
    assert_refused(victim, forge(victim, convict, method="HEAD", path="/else_writes", body=b""))
    assert forge(victim, OWN, method="HEAD", path="/else_writes", body=b"").status == 200
    assert victim.get().said == {"user": "victim", "granted": True}


# --- the token, where it decides: in a browser that says nothing else


def spare_bits(token: str) -> str:
    # 52 bytes are 69 characters and a third: the last has four bits that say nothing.
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    return token[:-1] + alphabet[alphabet.index(token[-1]) ^ 1]


def masked(start: int, end: int) -> Callable[[str], str]:
    def mask(token: str) -> str:
        raw = bytearray(base64.urlsafe_b64decode(token + "=="))
        for position in range(start, end):
            raw[position] ^= 0x5A
        return base64.urlsafe_b64encode(raw).decode().rstrip("=")

    return mask


def without_tag(token: str) -> str:
    return base64.urlsafe_b64encode(base64.urlsafe_b64decode(token + "==")[:20]).decode().rstrip("=")


TRICKS: dict[str, Callable[[str], str]] = {
    "empty": lambda _: "",
    "None": lambda _: "None",
    "undefined": lambda _: "undefined",
    "null": lambda _: "null",
    "false": lambda _: "false",
    "zero": lambda _: "0",
    "a blank": lambda _: " ",
    "a star": lambda _: "*",
    "70 zeros": lambda _: "A" * 70,
    "70 of the last": lambda _: "_" * 70,
    "truncated": lambda token: token[:-1],
    "cut in front": lambda token: token[1:],
    "half of it": lambda token: token[:35],
    "its nonce alone": without_tag,
    "extended": lambda token: token + "A",
    "twice": lambda token: token + token,
    "padded": lambda token: token + "==",
    "padded once": lambda token: token + "=",
    "other bits at the end": spare_bits,
    "the standard alphabet": lambda token: token.replace("-", "+").replace("_", "/"),
    "the other case": str.swapcase,
    "reversed": lambda token: token[::-1],
    "its nonce masked": masked(0, 20),
    "its tag masked": masked(20, 52),
    "both masked alike": masked(0, 52),
    "its time changed": masked(0, 4),
    "halves exchanged": lambda token: token[35:] + token[:35],
    "a blank before": lambda token: f" {token}"[:70],
    "a NUL after": lambda token: token + "\x00",
    "a NUL within": lambda token: token[:-1] + "\x00",
    "a line's end after": lambda token: token + "\n",
    "an e with an accent": lambda token: token[:-1] + "\xe9",
    "a full-width letter": lambda token: token[:-1] + "\uff21",
    "a digit of another script": lambda token: token[:-1] + "\u0663",
    "quoted": lambda token: f'"{token}"',
    "hexadecimal": lambda token: base64.urlsafe_b64decode(token + "==").hex(),
    "huge": lambda token: token * 2000,
}


def telling_token(victim: Browser) -> str:
    """Return a token that is spelt otherwise in the standard alphabet."""
    while not {"-", "_"} & set(token := victim.get("/token").said):
        pass
    return str(token)


@both
@pytest.mark.parametrize("trick", TRICKS)
def test_only_the_token_as_it_was_given_out_is_the_token(interface, trick):
    """sends, as header, form field, multipart field and JSON, no token, a word for none, or the genuine one truncated, extended, padded, re-masked, re-coded or in another alphabet — 403, never an error."""  # noqa: E501
    site = site_of(interface)
    victim = victim_at(site)
    token = telling_token(victim)
    given = TRICKS[trick](token)
    assert given != token
    for place in PLACES:
        if place == "header" and not all(character <= "\xff" for character in given):
            continue
        headers, body = in_place(place, given)
        assert_refused(
            victim, forge(victim, *headers, body=body), "csrf_token_missing", "csrf_token_invalid", "csrf_stale"
        )
    for place in PLACES:
        headers, body = in_place(place, token)
        assert forge(victim, *headers, body=body).status == 200


@both
@pytest.mark.parametrize("given", ["", "None", "undefined", "null", "A" * 70, " "])
@pytest.mark.parametrize("cookie", [None, "session=", f"session={'A' * 64}", "session=x"])
def test_an_empty_token_equals_no_visitors_empty_secret(interface, given, cookie):
    """sends an empty or undefined token as a visitor who has no session, an empty one or a junk one, where each request needs a token — 403: there is no secret that it could equal."""  # noqa: E501
    site = site_of(interface, csrf=CSRF("strict"))
    for place in PLACES:
        headers, body = in_place(place, given)
        reply = site.send("POST", "/write", OWN, *headers, cookie=cookie, body=body)
        assert (reply.status, site.seen) == (403, [])
        asked = site.send("GET", "/whoami", cookie=cookie)
        assert asked.said == {}
        site.seen.clear()
    visitor = Browser(site)
    token = visitor.get("/token").said
    assert visitor.post("/write", ("x-csrf-token", token), body=b"x").status == 200


@both
def test_a_token_is_not_looked_for_where_links_and_siblings_can_write(interface):
    """puts a genuine token where another site can write or read it: in the query, a cookie, another header, a body that is plain text — 403: it is looked for in its header, and in its field."""  # noqa: E501
    site = site_of(interface)
    victim = victim_at(site)
    token = victim.get("/token").said
    fields = f"csrf_token={token}".encode()
    for path in (f"/write?csrf_token={token}", f"/write?x-csrf-token={token}", f"/write;csrf_token={token}"):
        assert_refused(victim, forge(victim, path=path), "csrf_token_missing")
        assert_refused(victim, forge(victim, FORM, path=path, body=b"a=1"), "csrf_token_missing")
    own = victim.cookie
    for name in ("csrf_token", "csrftoken", "XSRF-TOKEN", "X-CSRF-Token", "__Host-csrf_token"):
        reply = site.send("POST", "/write", cookie=f"{own}; {name}={token}", body=b"forged")
        assert (reply.status, reply.rejection) == (403, "csrf_token_missing")
    for name in ("x-xsrf-token", "x-csrftoken", "authorization", "csrf-token", "csrf_token", "referer"):
        assert_refused(victim, forge(victim, (name, token)))
    assert_refused(victim, forge(victim, TEXT, body=fields), "csrf_token_missing")
    assert_refused(victim, forge(victim, body=fields), "csrf_token_missing")
    assert_served(victim, forge(victim, ("x-csrf-token", token)))


@both
def test_a_pair_of_cookie_and_field_that_agree_proves_nothing(interface):
    """tosses a cookie of the token's name from a sibling domain, and sends the same value as header and as field (double submit) — 403: no cookie is compared with anything."""  # noqa: E501
    site = site_of(interface)
    victim = victim_at(site)
    attacker = victim_at(site)
    for value in (attacker.get("/token").said, "x", ""):
        for name in ("csrf_token", "X-CSRF-Token"):
            for place in PLACES:
                headers, body = in_place(place, value)
                site.seen.clear()
                reply = site.send("POST", "/write", *headers, cookie=f"{victim.cookie}; {name}={value}", body=body)
                assert_refused(victim, reply)
    assert_served(victim, forge(victim, ("x-csrf-token", victim.get("/token").said)))


@both
@pytest.mark.parametrize("place", PLACES)
def test_a_token_of_another_session_is_none(interface, place):
    """fetches a genuine token in a session of the attacker's own, and has the victim's browser send it — 403 in each place where a token may be."""  # noqa: E501
    site = site_of(interface)
    victim = victim_at(site)
    attacker = Browser(site)
    site.clock.advance(1)
    headers, body = in_place(place, attacker.get("/token").said)
    assert_refused(victim, forge(victim, *headers, body=body), "csrf_token_invalid")
    assert attacker.forged("/write", *headers, body=body).status == 200


@both
def test_a_tossed_session_and_its_own_token_do_not_act_for_the_victim(interface):
    """tosses a cookie of a session of the attacker's own beside the victim's, and sends that session's token — two that live are none: 403, and neither session changes."""  # noqa: E501
    site = site_of(interface)
    victim = victim_at(site)
    attacker = Browser(site)
    token = ("x-csrf-token", attacker.get("/token").said)
    for cookie in (f"{attacker.cookie}; {victim.cookie}", f"{victim.cookie}; {attacker.cookie}"):
        site.seen.clear()
        reply = site.send("POST", "/write", token, cookie=cookie, body=b"forged")
        assert_refused(victim, reply)
    assert attacker.get().said == {}
    assert attacker.forged("/write", token, body=b"own").status == 200


@both
@pytest.mark.parametrize("way", ["/log_in", "/replace", "/renew", "/assign", "/clear"])
def test_a_token_of_before_the_log_in_is_stale(interface, way):
    """plants a session, fetches its token, and uses it after the victim has logged in over it, by every way to log in — 403 with the code csrf_stale."""  # noqa: E501
    site = site_of(interface)
    planted = Browser(site)
    planted.post("/pluck")
    token = planted.get("/token").said
    victim = Browser(site, planted.cookie)
    control = victim.forged("/whoami", ("x-csrf-token", token))
    assert control.status == 200
    assert victim.post(way, body=b"victim").status == 200
    for wait in (0, 61):
        site.clock.advance(wait)
        assert_refused(victim, forge(victim, ("x-csrf-token", token)), "csrf_stale")
    assert_served(victim, forge(victim, ("x-csrf-token", victim.get("/token").said)))


@both
def test_a_token_of_a_session_that_ended_opens_nothing(interface):
    """keeps the token and the cookie of a session that was logged out, or has expired, and uses both, or the token in the next session — 403, and nothing comes back to life."""  # noqa: E501
    for end in (lambda browser: browser.post("/log_out"), lambda browser: browser.site.clock.advance(3600)):
        site = timed_site(interface)
        gone = victim_at(site)
        cookie, token = gone.cookie, ("x-csrf-token", gone.get("/token").said)
        assert gone.forged("/whoami", token).said == {"user": "victim"}
        end(gone)
        victim = victim_at(site)
        site.seen.clear()
        reply = site.send("POST", "/write", token, cookie=cookie, body=b"forged")
        assert_refused(victim, reply, "csrf_stale")
        assert site.send("GET", "/whoami", cookie=cookie).said == {}
        assert_refused(victim, forge(victim, token), "csrf_stale")


@both
def test_a_token_that_leaked_long_ago_is_stale_where_the_policy_says_how_long_it_is_good(interface):
    """uses a token that leaked an hour ago, with its session still alive — where the policy has a token_age: 403 with the code csrf_stale."""  # noqa: E501
    site = timed_site(interface, csrf=CSRF(token_age=timedelta(minutes=20)))
    victim = victim_at(site)
    token = ("x-csrf-token", victim.get("/token").said)
    assert victim.forged("/whoami", token).status == 200
    for _ in range(3):
        site.clock.advance(600)
        victim.get()
    assert_refused(victim, forge(victim, token), "csrf_stale")
    assert_served(victim, forge(victim, ("x-csrf-token", victim.get("/token").said)))


# --- bodies

NO_TEXT: dict[str, Any] = {
    "a number": 0,
    "a large number": 2**70,
    "one and a half": 1.5,
    "true": True,
    "false": False,
    "null": None,
    "a list": [],
    "an object": {},
}


@both
@pytest.mark.parametrize("case", NO_TEXT)
def test_a_json_token_that_is_no_text_is_none(interface, case):
    """sends JSON whose token is a number, a list, an object, true or null — 403, never an error; validate_csrf_token says no."""  # noqa: E501
    site = site_of(interface)
    victim = victim_at(site)
    token = victim.get("/token").said
    value = NO_TEXT[case]
    for one in (value, [value], {"csrf_token": value}):
        body = json.dumps({"csrf_token": one}).encode()
        assert_refused(victim, forge(victim, JSON, body=body), "csrf_token_missing")
        assert victim.post("/validate", body=json.dumps(one).encode()).said is False
    assert victim.post("/validate", body=json.dumps(token).encode()).said is True


def json_tricks(token: str) -> Iterator[tuple[str, bytes]]:
    """Yield bodies that have a token where, or as, it does not count."""
    field = json.dumps({"csrf_token": token})
    yield "in a list", f"[{field}]".encode()
    yield "one deeper", json.dumps({"data": {"csrf_token": token}}).encode()
    yield "in a list of its own", json.dumps({"csrf_token": [token]}).encode()
    yield "by __proto__", json.dumps({"__proto__": {"csrf_token": token}}).encode()
    yield "by constructor", json.dumps({"constructor": {"prototype": {"csrf_token": token}}}).encode()
    yield "in another case", json.dumps({"CSRF_TOKEN": token}).encode()
    yield "with a blank", json.dumps({"csrf_token ": token}).encode()
    yield "with a NUL", json.dumps({"csrf_token\x00": token}).encode()
    yield "the last of two is another", f'{{"csrf_token": "{token}", "csrf_token": "x"}}'.encode()
    yield "the last of two is null", f'{{"csrf_token": "{token}", "csrf_token": null}}'.encode()
    yield "the last of two is escaped", f'{{"csrf_token": "{token}", "csrf\\u005ftoken": "x"}}'.encode()
    yield "a text", json.dumps(token).encode()
    yield "after the end", b"{}" + field.encode()
    yield "cut off", field[:-1].encode()
    yield "a byte too many", field.encode() + b"}"
    yield "single quotes", f"{{'csrf_token': '{token}'}}".encode()
    yield "a comment", f'{{/**/"csrf_token": "{token}"}}'.encode()
    yield "a comma too many", f'{{"csrf_token": "{token}",}}'.encode()
    yield "NaN beside it", f'{{"a": NaN, "csrf_token": "{token}"}}'.encode()
    yield "a byte order mark", b"\xef\xbb\xbf" + field.encode()
    yield "utf-16", field.encode("utf-16")
    yield "utf-16-le", field.encode("utf-16-le")
    yield "utf-32", field.encode("utf-32")
    yield "deep nesting instead", b'{"csrf_token":' + b"[" * 100_000 + b"]" * 100_000 + b"}"
    yield "beyond the limit", json.dumps({"a": "x" * (1 << 20), "csrf_token": token}).encode()
    yield "lines", b"\n".join([b"{}", field.encode()])


@both
@pytest.mark.parametrize("case", [case for case, _ in json_tricks("")])
def test_a_token_that_json_has_in_another_place_or_form_does_not_count(interface, case):
    """sends JSON with a genuine token nested, twice, in __proto__, behind the end, in another charset or beyond the limit, or 100,000 brackets in its place — 403, never an error, and what counts is what the application's decoder would read."""  # noqa: E501
    site = site_of(interface)
    victim = victim_at(site)
    token = victim.get("/token").said
    body = dict(json_tricks(token))[case]
    assert_refused(victim, forge(victim, JSON, body=body), "csrf_token_missing", "csrf_token_invalid", "csrf_stale")
    control = json.dumps({"a": [[1]], "csrf_token": token}).encode()
    assert forge(victim, JSON, body=control).status == 200
    assert forge(victim, ("content-type", "application/vnd.api+json; charset=utf-8"), body=control).status == 200
    # How deep a decoder looks is the interpreter's to say; this token is genuine, and where it belongs.
    deep = b'{"a":%b, "csrf_token": "%b"}' % (b"[" * 100_000 + b"]" * 100_000, token.encode())
    assert forge(victim, JSON, body=deep).status in (200, 403)


def form_tricks(token: str) -> Iterator[tuple[str, str, bytes]]:
    """Yield content types and bodies that have a token where, or as, it does not count."""
    kind = FORM[1]
    field = f"csrf_token={token}"
    yield "JSON as plain text", "text/plain", json.dumps({"csrf_token": token, "a": "="}).encode()
    yield "JSON as a form", kind, json.dumps({"csrf_token": token, "a": "="}).encode()
    yield "a form as JSON", "application/json", field.encode()
    yield "a form as plain text", "text/plain", field.encode()
    yield "a form of no type", "", field.encode()
    yield "two types joined", f"{kind}, application/json", field.encode()
    yield "two types joined, the other way", f"application/json, {kind}", field.encode()
    yield "two types with a semicolon", f"text/plain; {kind}", field.encode()
    yield "a type with a prefix", f"x{kind}", field.encode()
    yield "the first of two is another", kind, f"csrf_token=x&{field}".encode()
    yield "the first of two is empty", kind, f"csrf_token=&{field}".encode()
    yield "in a list", kind, f"csrf_token[]={token}".encode()
    yield "with an index", kind, f"csrf_token[0]={token}".encode()
    yield "after a semicolon", kind, f"a=1;{field}".encode()
    yield "in the value of another", kind, f"a={field}".encode()
    yield "in another case", kind, f"CSRF_TOKEN={token}".encode()
    yield "with a blank", kind, f"csrf_token+={token}".encode()
    yield "with a blank before", kind, f"+{field}".encode()
    yield "with a NUL", kind, f"csrf_token%00={token}".encode()
    yield "encoded twice", kind, f"csrf%255Ftoken={token}".encode()
    yield "utf-16", f"{kind}; charset=utf-16", field.encode("utf-16")
    yield "utf-7", f"{kind}; charset=utf-7", f"csrf+AF8-token={token}".encode()
    yield "beyond the limit", kind, b"a=" + b"x" * (1 << 20) + b"&" + field.encode()


@both
@pytest.mark.parametrize("case", [case for case, _, _ in form_tricks("")])
def test_a_token_that_a_form_has_in_another_place_or_type_does_not_count(interface, case):
    """sends a form with a genuine token under another type, as JSON in plain text, twice, in a list, after a semicolon, in another charset or beyond the limit — 403, never an error."""  # noqa: E501
    site = site_of(interface)
    victim = victim_at(site)
    token = victim.get("/token").said
    kind, body = {case: (kind, body) for case, kind, body in form_tricks(token)}[case]
    refused = forge(victim, ("content-type", kind), body=body)
    assert_refused(victim, refused, "csrf_token_missing", "csrf_token_invalid", "csrf_stale")
    # Others say a charset that does not matter; its bytes are read as they are.
    assert forge(victim, (FORM[0], f"{FORM[1]}; charset=utf-7"), body=f"csrf_token={token}".encode()).status == 200


def multipart_tricks(token: str) -> Iterator[tuple[str, str, str]]:
    """Yield content types and bodies that have a token where, or as, it does not count."""
    kind = MULTIPART[1]
    good = part("csrf_token", token)
    nested = f"--in\r\nContent-Disposition: form-data; name=csrf_token\r\n\r\n{token}\r\n--in--\r\n"
    yield "a file", kind, part("csrf_token", token, '; filename="f"') + END
    yield "a file without a name", kind, part("csrf_token", token, '; filename=""') + END
    yield "a file by filename*", kind, part("csrf_token", token, "; filename*=utf-8''f") + END
    yield "name*", kind, part("x", token).replace('name="x"', "name*=utf-8''csrf_token") + END
    yield "name and name*", kind, part("x", token, "; name*=utf-8''csrf_token") + END
    yield "two names", kind, part("x", token, '; name="csrf_token"') + END
    yield "two names, the other way", kind, part("csrf_token", token, '; name="x"') + END
    yield "an escaped name", kind, part("csrf\\_token", token) + END
    yield "an encoded name", kind, part("csrf%5Ftoken", token) + END
    yield "a name with a NUL", kind, part("csrf_token\x00", token) + END
    yield "no form-data", kind, good.replace("form-data", "attachment") + END
    yield "two dispositions", kind, part("csrf_token", token, "", 'Content-Disposition: form-data; name="x"\r\n') + END
    yield (
        "base64",
        kind,
        part("csrf_token", base64.b64encode(token.encode()).decode(), "", "Content-Transfer-Encoding: base64\r\n")
        + END,
    )
    yield "an encoding that it is not", kind, part("csrf_token", token, "", "Content-Transfer-Encoding: x\r\n") + END
    yield "HTML", kind, part("csrf_token", token, "", "Content-Type: text/html\r\n") + END
    yield (
        "a multipart within",
        kind,
        part("csrf_token", nested, "", "Content-Type: multipart/mixed; boundary=in\r\n") + END,
    )
    yield (
        "a multipart within, of another name",
        kind,
        part("x", nested, "", "Content-Type: multipart/form-data; boundary=in\r\n") + END,
    )
    yield "two boundaries", f"{kind}; boundary=other", good + END
    yield "two boundaries, the other way", "multipart/form-data; boundary=other; boundary=limit", good + END
    yield "no boundary", "multipart/form-data", good + END
    yield "another boundary", "multipart/form-data; boundary=limi", good + END
    yield "an empty boundary", 'multipart/form-data; boundary=""', good + END
    yield "boundary*", "multipart/form-data; boundary*=utf-8''limit", good + END
    yield "mixed", "multipart/mixed; boundary=limit", good + END
    yield "two types joined", f"{kind}, text/plain", good + END
    yield "behind the end", kind, part("a", "1") + END + good + END
    yield "before the beginning", kind, f"preamble\r\n{good}{END}"
    yield "never ended", kind, good.removesuffix("\r\n")
    yield "the first of two is another", kind, part("csrf_token", "x") + good + END
    yield "in lines of another kind", kind, (good + END).replace("\r\n", "\n")
    yield "in lines of carriage returns", kind, (good + END).replace("\r\n", "\r")
    yield "beyond the limit", kind, part("a", "x" * (1 << 20)) + good + END
    yield "a folded header", kind, good.replace("; name", ";\r\n name") + END


@both
@pytest.mark.parametrize("case", [case for case, _, _ in multipart_tricks("")])
def test_a_token_that_a_multipart_form_has_in_another_way_does_not_count(interface, case):
    """sends a multipart form whose genuine token is a file, under name*, in a multipart of its own, between two boundaries, encoded, behind the end or beyond the limit — 403, never an error: parsers differ about these, and no browser sends them."""  # noqa: E501
    site = site_of(interface)
    victim = victim_at(site)
    token = victim.get("/token").said
    kind, body = {case: (kind, body) for case, kind, body in multipart_tricks(token)}[case]
    refused = forge(victim, ("content-type", kind), body=body.encode("latin-1"))
    assert_refused(victim, refused, "csrf_token_missing", "csrf_token_invalid", "csrf_stale")
    control = part("a", "1") + part("csrf_token", token) + part("f", "x" * 5000, '; filename="f"') + END
    assert forge(victim, MULTIPART, body=control.encode()).status == 200


@over_both
def test_two_content_types_are_none(front):
    """sends two Content-Type headers, so that the check and the application read the body in two ways — no body is searched: 403."""  # noqa: E501
    site = site_of(front)
    victim = victim_at(site)
    token = victim.get("/token").said
    body = f"csrf_token={token}".encode()
    for headers in ((FORM, JSON), (JSON, FORM), (FORM, TEXT), (FORM, FORM)):
        assert_refused(victim, forge(victim, *headers, body=body), "csrf_token_missing")
    assert forge(victim, FORM, body=body).status == 200


@over_both
def test_a_second_token_saves_no_first_that_is_wrong(front):
    """sends a wrong token in one place and counts on another place, or on the other of two headers — the header that is there is the token, two are none: 403."""  # noqa: E501
    site = site_of(front)
    victim = victim_at(site)
    token = victim.get("/token").said
    form = f"csrf_token={token}".encode()
    for wrong in ("", "x", "undefined"):
        assert_refused(victim, forge(victim, FORM, ("x-csrf-token", wrong), body=form))
        for pair in ((wrong, token), (token, wrong), (token, token)):
            two = [("x-csrf-token", one) for one in pair]
            assert_refused(victim, forge(victim, *two))
    assert forge(victim, FORM, body=form).status == 200


@pytest.mark.parametrize("length", ["-1", "+70", "0x50", "1e3", "", "x", "\u0663", "0", "5", "9" * 30, "1_00"])
def test_a_length_that_lies_makes_no_token_and_no_error(length):
    """says a wrong, a negative or a huge Content-Length to a WSGI application, with a genuine token in the body — 403, and never an error or an endless wait."""  # noqa: E501
    site = site_of("wsgi")
    victim = victim_at(site)
    body = f"csrf_token={victim.get('/token').said}".encode()
    assert_refused(victim, forge(victim, FORM, ("content-length", length), body=body), "csrf_token_missing")
    assert forge(victim, FORM, ("content-length", str(len(body))), body=body).status == 200


# --- scope, single use, report, stores that fail


@csrf_protect(scoped=True)
async def transfer(request: StarletteRequest) -> PlainTextResponse:
    return PlainTextResponse("transferred")


@csrf_exempt
async def receive_hook(request: StarletteRequest) -> PlainTextResponse:
    return PlainTextResponse("hook")


async def pay(request: StarletteRequest) -> PlainTextResponse:
    return PlainTextResponse("paid")


class Account(HTTPEndpoint):
    @csrf_protect(every_method=True)
    async def get(self, request: StarletteRequest) -> PlainTextResponse:
        return PlainTextResponse("closed")


def routed(sessions: Sessions) -> Any:
    """Return an application of Starlette's with one exempt endpoint; whatever is no path of its own is paid."""
    routes: list[Any] = [
        Route("/hook", receive_hook, methods=["POST"]),
        Route("/transfer/{id}", transfer, methods=["POST", "PUT"]),
        Route("/account", Account),
        Mount("/in", routes=[Route("/hook", receive_hook, methods=["POST"]), Route("/{rest:path}", pay)]),
        Route("/{rest:path}", pay, methods=["GET", "POST", "PUT"]),
    ]
    return Starlette(routes=routes, middleware=[Middleware(SessionMiddleware, sessions=sessions)])


def flasked(sessions: Sessions) -> Flask:
    """Return an application of Flask's with one exempt view; whatever is no path of its own is paid."""
    app = Flask("shop")
    ServerSession(app, sessions)

    @csrf_exempt
    def hooked() -> str:
        return "hook"

    def paid(rest: str = "") -> str:
        return "paid"

    class Closing(MethodView):
        @csrf_protect(every_method=True)
        def get(self) -> str:
            return "closed"

    app.add_url_rule("/hook", view_func=hooked, methods=["POST"])
    app.add_url_rule("/in/hook", "in", hooked, methods=["POST"])
    app.add_url_rule("/account", view_func=Closing.as_view("account"))
    for rule in ("/", "/<path:rest>", "/in/<path:rest>"):
        app.add_url_rule(rule, f"pay {rule}", paid, methods=["GET", "POST", "PUT"])
    return app


Sender = Callable[..., tuple[int, str]]


def over_starlette(sessions: Sessions) -> Sender:
    app = routed(sessions)

    def send(verb: str, path: str, *headers: Header, cookie: str | None = None) -> tuple[int, str]:
        stage = Site("asgi")
        stage.app = app
        reply = stage.send(verb, path, *headers, cookie=cookie)
        return reply.status, reply.body.decode()

    return send


def over_flask(sessions: Sessions) -> Sender:
    app = flasked(sessions)

    def send(verb: str, path: str, *headers: Header, cookie: str | None = None) -> tuple[int, str]:
        stage = Site("wsgi")
        stage.app = lambda environ, start: _closing(
            run_wsgi_app(app, {**EnvironBuilder().get_environ(), **environ}), start
        )
        reply = stage.send(verb, path, *headers, cookie=cookie)
        return reply.status, reply.body.decode()

    return send


class _Chunks(list[bytes]):
    def close(self) -> None:
        pass


def _closing(answer: Any, start_response: Any) -> _Chunks:
    chunks, status, headers = answer
    start_response(status, list(headers))
    return _Chunks(chunks)


def founded(sessions: Sessions) -> str:
    """Return the cookie of a session that lives."""
    site = Site("wsgi")
    site.app = wsgi.SessionMiddleware(site._wsgi, sessions)
    site.sessions = sessions
    return str(victim_at(site).cookie)


frameworks = pytest.mark.parametrize("over", [over_starlette, over_flask], ids=["starlette", "flask"])

SPELLINGS = (
    *("//hook", "/hook/", "/hook//", "///hook", "/./hook", "/x/../hook", "/hook/..", "/hook/../pay", "/HOOK", "/Hook"),
    *("/hook;x", "/hook;/pay", "/pay;/hook", "/hook%3b", "/%2fhook", "/hook%2f", "/hook%2f..%2fpay", "/x%2f..%2fhook"),
    *(
        "/%2e/hook",
        "/x/%2e%2e/hook",
        "/hook%00",
        "/hook%20",
        "/hook%09",
        "/hook%0a",
        "/hook%3fx",
        "/hook%23x",
        "/pay%23/hook",
    ),
    *("/hook\\..\\pay", "\\hook", "/hook.json", "/hook/pay", "/pay/hook", "/pay?/hook", "/pay?path=/hook", "/hoo%256b"),
    *(
        "/h%C3%B6ok",
        "/\xef\xbd\x88ook",
        "/hook\xe2\x80\x8b",
        "/in//hook",
        "/in/HOOK",
        "/in/hook/",
        "/in/../hook",
        "/in%2fhook/",
    ),
    *("/%69n/./hook", "http://shop.example/hook", "//evil.example/hook", "/hook&", "/hook:80", "*", ""),
)


@frameworks
@pytest.mark.parametrize("path", SPELLINGS)
def test_another_spelling_of_an_exempt_path_exempts_no_other_endpoint(over, path):
    """spells an exempt path by //, ., .., %2f, ;, case, NUL and the like, across sites, where a catch-all endpoint is guarded (over Starlette and Flask) — the guarded endpoint never runs: 403."""  # noqa: E501
    send = over(Sessions())
    status, body = send("POST", path, CROSS, EVIL)
    assert "paid" not in body
    assert (status == 403) == (body != "hook")
    for exempt in ("/hook", "/%68ook", "/hook?x=/pay", "/in/hook"):
        assert send("POST", exempt, CROSS, EVIL) == (200, "hook")
    assert send("POST", "/pay", OWN) == (200, "paid")


@frameworks
@pytest.mark.parametrize("verb", ["PUT", "post", "DELETE", "PURGE", "HEAD"])
def test_an_exempt_endpoint_exempts_no_method_that_it_does_not_take(over, verb):
    """sends another method to an exempt path, which the next endpoint that fits the path would take (over Starlette and Flask) — the guarded endpoint never runs: 403."""  # noqa: E501
    send = over(Sessions())
    status, body = send(verb, "/hook", CROSS, EVIL)
    assert "paid" not in body
    # Flask takes `post` for POST.
    assert (status == 403) == (body != "hook")
    assert send("POST", "/hook", CROSS, EVIL) == (200, "hook")


@frameworks
@pytest.mark.parametrize("verb", ["GET", "HEAD"])
def test_a_head_is_checked_as_the_get_that_serves_it(over, verb):
    """sends a HEAD, from a browser that says nothing of it, to a class whose GET has effects and asks to be checked (over Starlette and Flask) — the HEAD, which that GET serves, needs the token as well: 403."""  # noqa: E501
    sessions = Sessions()
    send = over(sessions)
    cookie = founded(sessions)
    assert send(verb, "/account", cookie=cookie)[0] == 403
    assert send(verb, "/account", CROSS, cookie=cookie)[0] == 403
    assert send(verb, "/account", OWN, cookie=cookie)[0] == 200


def tokens_of(sessions: Sessions, cookie: str) -> Callable[[tuple[str, str] | None], Header]:
    def token(scope: tuple[str, str] | None) -> Header:
        return "x-csrf-token", sessions.sync.get_csrf_token(scope_of(cookie=cookie), scope=scope)

    return token


def test_a_token_of_one_form_is_good_at_no_other():
    """takes the session's token, or that of another form, to a form that asks for one of its own (over Starlette) — 403 for another path, method, spelling or the whole session; it is good where it belongs."""  # noqa: E501
    sessions = Sessions()
    cookie = founded(sessions)
    token = tokens_of(sessions, cookie)
    send = over_starlette(sessions)
    others = [None, ("POST", "/transfer/8"), ("PUT", "/transfer/7"), ("POST", "/transfer/7/"), ("POST", "/transfer")]
    others += [("POST", "/pay"), ("POST", "/transfer/7?x"), ("POST", "//transfer/7"), ("POST", "/TRANSFER/7")]
    others += [("POST", "/transfer/7 "), ("POS", "T/transfer/7"), ("", "POST /transfer/7"), ("POST ", "/transfer/7")]
    for scope in others:
        status, body = send("POST", "/transfer/7", OWN, token(scope), cookie=cookie)
        assert (status, "transferred" in body) == (403, False), scope
    own = token(("POST", "/transfer/7"))
    assert send("POST", "/transfer/7", OWN, own, cookie=cookie) == (200, "transferred")
    assert send("PUT", "/transfer/7", OWN, own, cookie=cookie)[0] == 403
    assert send("POST", "/transfer/8", OWN, own, cookie=cookie)[0] == 403
    assert send("POST", "/pay", own, cookie=cookie)[0] == 403
    assert send("POST", "/pay", token(None), cookie=cookie) == (200, "paid")


def test_from_the_sessions_token_no_other_can_be_computed():
    """reads the session's token out of a page, and computes a form's token from each part of it taken for the secret (over Starlette) — 403: the token is no key."""  # noqa: E501
    sessions = Sessions()
    cookie = founded(sessions)
    send = over_starlette(sessions)
    raw = base64.urlsafe_b64decode(tokens_of(sessions, cookie)(None)[1] + "==")
    now = sessions.policy.now()
    for secret in (raw, raw[:20], raw[20:], raw[4:20], b""):
        for spelt in (secret.hex(), base64.urlsafe_b64encode(secret).decode(), base64.b64encode(secret).decode()):
            guessed = issue_token(Credential(cookie[8:32], spelt), "POST /transfer/7", now)
            assert send("POST", "/transfer/7", OWN, ("x-csrf-token", guessed), cookie=cookie)[0] == 403
    genuine = issue_token(Credential(cookie[8:32], cookie[32:]), "POST /transfer/7", now)
    assert send("POST", "/transfer/7", OWN, ("x-csrf-token", genuine), cookie=cookie) == (200, "transferred")


@both
@pytest.mark.parametrize("place", PLACES)
def test_a_token_that_passes_once_is_not_replayed(interface, place):
    """replays a form that was sent, where tokens pass once, also in another place, and after its session was renewed — 403 with the code csrf_token_used, or csrf_stale after the renewal, and nothing is done twice."""  # noqa: E501
    site = site_of(interface, csrf=CSRF(single_use=True))
    victim = Browser(site)
    first, second, other = (victim.get("/token").said for _ in range(3))
    headers, body = in_place(place, first)
    assert victim.post("/count", *headers, body=body).said is True
    for again in PLACES:
        more, text = in_place(again, first)
        reply = victim.post("/count", *more, body=text)
        assert (reply.status, reply.rejection) == (403, "csrf_token_used")
    assert victim.get().said == {"n": 1}
    assert victim.post("/count", ("x-csrf-token", second)).said is True
    assert victim.post("/renew", ("x-csrf-token", other)).said is True
    assert victim.post("/count", ("x-csrf-token", first)).rejection == "csrf_stale"
    assert victim.get().said == {"n": 2}


def at_once(site: Site, cookie: str, token: str, times: int) -> list[int]:
    """Send one POST many times at once; return the statuses."""
    if site.interface == "wsgi":
        with ThreadPoolExecutor(times) as threads:
            sent = [threads.submit(site.post, "/count", ("x-csrf-token", token), cookie=cookie) for _ in range(times)]
            return [one.result(PATIENCE).status for one in sent]

    async def send_all() -> list[int]:
        scopes = [scope_of("/count", cookie, method="POST") for _ in range(times)]
        for scope in scopes:
            scope["headers"] += [(b"sec-fetch-site", b"same-origin"), (b"x-csrf-token", token.encode())]
        answers = await asyncio.gather(*[call(site.app, scope) for scope in scopes])
        return [answer.status for answer in answers]

    return asyncio.run(send_all())


def assert_one_passes(site: Site) -> None:
    victim = Browser(site)
    token = victim.get("/token").said
    assert sorted(at_once(site, str(victim.cookie), token, 8)) == [200, *[403] * 7]
    assert victim.get().said == {"n": 1}


# Blocking functions cannot be over a client that awaits.
RACES = [
    (interface, kind) for interface in INTERFACES for kind in STORES if (interface, kind[:8]) != ("wsgi", "yielding")
]


@pytest.mark.parametrize("interface, kind", RACES)
def test_of_many_that_race_with_one_token_one_passes(interface, kind, tmp_path: Path):
    """sends one form eight times at once, where tokens pass once, over memory, a memory that suspends, and files — one passes, seven are 403, and it is done once."""  # noqa: E501
    assert_one_passes(timed_site(interface, kind, tmp_path, csrf=CSRF(single_use=True)))


@pytest.mark.once
@both
def test_of_many_that_race_over_redis_with_one_token_one_passes(interface, redis_server):
    """sends one form eight times at once, where tokens pass once, over Redis — one passes, seven are 403, and it is done once."""  # noqa: E501
    assert_one_passes(Site(interface, session_store=redis_server.url, csrf=CSRF(single_use=True)))


@both
@pytest.mark.parametrize("mode", ["layered", "strict", "report"])
def test_a_store_that_fails_while_the_token_is_looked_at_is_no_pass(interface, mode):
    """takes the store down, so that no token can be looked at — 503 and never a pass, also where the policy only reports."""  # noqa: E501
    store = Watched()
    site = site_of(interface, session_store=store, csrf=CSRF(mode))
    victim = victim_at_any(site)
    token = ("x-csrf-token", victim.get("/token").said)
    store.fails = {"get", "look"}
    reply = forge(victim, token)
    assert (reply.status, site.seen, reply.all("set-cookie")) == (503, [], [])
    store.fails = ()
    assert_served(victim, forge(victim, token))


def victim_at_any(site: Site) -> Browser:
    """Return somebody who is logged in, where each request may need a token."""
    browser = Browser(site)
    token = browser.get("/token").said
    assert browser.post("/log_in", ("x-csrf-token", token)).said is True
    return browser


@both
def test_a_policy_that_reports_refuses_nothing_and_tells_of_each_forgery(interface):
    """forges requests while the operator tries the policy out in the mode report — each is served as before, and each is in the signals with its code."""  # noqa: E501
    site = site_of(interface, csrf=CSRF("report"))
    victim = victim_at(site)
    before = len(site.signals)
    for headers in ((CROSS,), (EVIL,), (), (("origin", "null"),), (("origin", "http://a, http://b"),)):
        assert_served(victim, forge(victim, *headers))
    reasons = [signal.reason for signal in site.signals[before:] if signal.event == "csrf_rejected"]
    assert reasons == ["csrf_site", "csrf_origin", "csrf_token_missing", "csrf_token_missing", "csrf_header"]


@both
def test_a_cookie_of_any_value_and_number_counts_as_one(interface):
    """spoils the victim's cookie from a sibling domain, so that the request seems to have none and a missing cookie would excuse it — a cookie of the name is one, be it empty, malformed or one of many: 403."""  # noqa: E501
    site = site_of(interface)
    victim = victim_at(site)
    for cookie in ("session=", "session=x", f"session={'A' * 64}", f"{victim.cookie}x", "; ".join(["session=x"] * 9)):
        site.seen.clear()
        reply = site.send("POST", "/log_in", cookie=cookie, body=b"attacker")
        assert_refused(victim, reply, "csrf_token_missing")
    assert site.send("POST", "/log_in", body=b"other").said is True


@both
def test_a_flood_of_forgeries_costs_no_call_to_the_store(interface):
    """floods the application with forged requests that bear cookies and tokens — those that the headers convict cost no call to the store."""  # noqa: E501
    store = Watched()
    site = site_of(interface, session_store=store)
    victim = victim_at(site)
    store.calls.clear()
    for _ in range(20):
        assert forge(victim, CROSS, ("x-csrf-token", "A" * 70)).status == 403
    assert store.calls == []
    assert_served(victim, forge(victim, OWN))


# --- the cost of a search


UNSEARCHED = {
    "pairs": (FORM, b"&a" * 500_000),
    "encoded names": (FORM, b"%63srf_toke%6d&" * 65_000),
    "parts": (MULTIPART, b"--limit\r\na:\r\n\r\n\r\n" * 60_000),
    "parts of the name": (MULTIPART, part("csrf_token", "x", more=";a").encode() * 12_000),
    "keys": (JSON, b"{" + b'"a":1,' * 170_000 + b'"b":1}'),
}


@both
@pytest.mark.parametrize("kind", UNSEARCHED)
def test_a_body_of_very_many_fields_costs_no_more_than_one_of_some(interface, kind):
    """sends a MiB of half a million pairs, or 60,000 empty parts, with a cookie of a session's form, to keep the
    processor from the others — 403, and no more is looked at than the first 1,000."""
    site = site_of(interface)
    content_type, body = UNSEARCHED[kind]
    calls = 0

    def count(_frame: Any, event: str, _called: Any) -> None:
        nonlocal calls
        calls += event in ("call", "c_call")

    def send() -> Reply:
        return site.send("POST", "/write", content_type, cookie=f"session={'A' * 64}", body=body)

    assert send().status == 403
    sys.setprofile(count)
    try:
        assert send().status == 403
    finally:
        sys.setprofile(None)
    assert site.seen == []
    assert calls < 30 * 1000


@both
@pytest.mark.parametrize("mode", ["layered", "strict"])
@pytest.mark.parametrize("cookie", [None, "session=x", "session=", f"session={'A' * 63}", f"session={'A' * 65}", "a=1"])
def test_no_body_is_read_for_whoever_has_no_credential(interface, mode, cookie):
    """sends large bodies to be searched for a token, with no cookie, or one that no session can have — what needs a
    token is refused, and nothing of the body is read."""
    site = site_of(interface, csrf=CSRF(mode))
    given = [("host", HOST), FORM, ("origin", "null"), ("content-length", "1000000")]
    given += [("cookie", cookie)] if cookie else []
    answered: list[Any] = []

    async def receive() -> Any:
        raise AssertionError("the body was read")

    async def send(message: Any) -> None:
        answered.append(message.get("status"))

    def start_response(status: str, *_: Any) -> Any:
        answered.append(int(status[:3]))

    class Unread(io.RawIOBase):
        def readable(self) -> bool:
            raise AssertionError("the body was read")

        read = readinto = readable  # type: ignore[assignment]

    if interface == "asgi":
        raw = [(name.encode(), value.encode()) for name, value in given]
        asyncio.run(site.app(scope_of("/write", method="POST", headers=raw), receive, send))
    else:
        environ = EnvironBuilder("/write", method="POST", headers=dict(given)).get_environ()
        site.app(environ | {"wsgi.input": Unread(), "CONTENT_LENGTH": "1000000"}, start_response).close()
    assert answered[0] == 403
    assert site.seen == []

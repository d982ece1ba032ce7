"""The guard of a whole application, over ASGI and WSGI: what it asks, where it finds the token, what it answers."""

import json
import logging
import threading
from datetime import timedelta
from typing import Any

import pytest

from server_session import CSRF, ConfigurationError, CookieHandler, Sessions, csrf_exempt
from server_session.csrf.refusals import forbidden
from server_session.csrf.verdict import Rejection
from tests.attacks.stage import INTERFACES, Browser, Header, Reply, Site, victim_at
from tests.visitors import Watched

OWN = ("sec-fetch-site", "same-origin")
FORGED = ("sec-fetch-site", "cross-site")
FORM = ("content-type", "application/x-www-form-urlencoded")
JSON = ("content-type", "application/json")
MULTIPART = ("content-type", "multipart/form-data; boundary=limit")


@pytest.fixture(params=INTERFACES)
def interface(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def part(name: str, value: str, more: str = "") -> str:
    return f'--limit\r\nContent-Disposition: form-data; name="{name}"{more}\r\n\r\n{value}\r\n'


def with_token(place: str, token: str, field: str = "csrf_token", header: str = "x-csrf-token") -> dict[str, Any]:
    """A POST's headers and body with the token in one of its places."""
    headers: list[Header] = []
    body = ""
    match place:
        case "header":
            headers = [(header, token)]
            body = "anything"
        case "form":
            headers, body = [FORM], f"a=1&{field}={token}&b=2"
        case "multipart":
            file = part("file", "x" * 100_000, '; filename="f"')
            headers, body = [MULTIPART], f"{part(field, token)}{file}--limit--\r\n"
        case "JSON":
            headers, body = [JSON], json.dumps({"a": 1, field: token})
    return {"headers": headers, "body": body.encode()}


def send(browser: Browser, path: str, given: dict[str, Any], *headers: Header) -> Reply:
    return browser.forged(path, *headers, *given["headers"], body=given["body"])


PLACES = ("header", "form", "multipart", "JSON")


def test_behind_a_proxy_that_changes_the_host_the_log_says_what_to_configure(interface, caplog):
    proxied: dict[str, Any] = {"host": "app:8000", "body": b"x"}
    site = Site(interface)
    browser = victim_at(site)
    token = ("x-csrf-token", browser.get("/token").said)
    plain = ("origin", "http://shop.example")
    reply = browser.forged("/write", plain, token, **proxied)
    assert (reply.status, reply.rejection) == (403, "csrf_origin")
    assert "as far as the Host tells: where a proxy changes that, configure origin=" in caplog.messages[-1]
    # Where the browser says more, which it does on https and on localhost, the token decides.
    assert browser.forged("/write", OWN, plain, **proxied).rejection == "csrf_token_missing"
    assert "configure origin=" in caplog.messages[-1]
    assert browser.forged("/write", OWN, plain, token, **proxied).status == 200
    # A first write without a cookie seems to come from another site too.
    site = Site(interface, csrf=None)
    assert Browser(site).forged("/write", plain, **proxied).rejection == "cookie_withheld"
    assert "configure origin=" in caplog.messages[-1]
    site = Site(interface, origin="http://shop.example")
    assert Browser(site).forged("/write", plain, **proxied).status == 200
    assert Browser(site).forged("/write", ("origin", "http://app:8000"), **proxied).rejection == "csrf_origin"
    assert "configure" not in caplog.messages[-1]


@pytest.mark.parametrize("place", PLACES)
def test_a_token_is_found_in_its_place_and_the_body_comes_whole_to_the_application(interface, place):
    site = Site(interface)
    victim = victim_at(site)
    given = with_token(place, victim.get("/token").said)
    reply = send(victim, "/echo", given)
    assert reply.status == 200
    assert reply.said == given["body"].decode()


@pytest.mark.parametrize("place", PLACES)
def test_field_and_header_have_the_names_that_the_policy_gives(interface, place):
    site = Site(interface, csrf=CSRF(field="_t", header="X-My-Token"))
    victim = victim_at(site)
    token = victim.get("/token").said
    assert send(victim, "/echo", with_token(place, token, "_t", "x-my-token")).status == 200
    assert send(victim, "/echo", with_token(place, token)).rejection == "csrf_token_missing"


def test_a_header_that_is_there_is_the_token_whatever_the_body_has(interface):
    victim = victim_at(Site(interface))
    token = victim.get("/token").said
    reply = send(victim, "/echo", with_token("form", token), ("x-csrf-token", "junk"))
    assert reply.rejection == "csrf_token_invalid"


def test_a_refused_request_never_reaches_the_application(interface):
    site = Site(interface)
    victim = victim_at(site)
    site.seen.clear()
    assert victim.forged("/write", FORGED, body=b"x").status == 403
    assert site.seen == []


def test_a_refusal_by_the_headers_asks_no_store(interface):
    store = Watched()
    site = Site(interface, session_store=store)
    victim = victim_at(site)
    store.calls.clear()
    victim.forged("/write", FORGED)
    assert victim.forged("/write", ("x-csrf-token", "junk")).status == 403
    assert store.calls == []


def test_a_refusal_is_a_page_that_no_cache_keeps_and_scripts_have_its_code_in_a_header(interface):
    reply = victim_at(Site(interface)).forged("/write", FORGED)
    assert reply.status == 403
    assert reply.all("content-type") == ["text/html; charset=utf-8"]
    assert reply.all("cache-control") == ["no-store"]
    assert reply.all("vary") == ["Origin, Sec-Fetch-Site"]
    assert reply.all("csrf-rejection") == ["csrf_site"]
    assert reply.all("content-length") == [str(len(reply.body))]
    assert b"csrf_site" in reply.body


def test_an_application_may_have_a_page_of_its_own_for_refusals(interface):
    site = Site(interface, csrf=CSRF(page=lambda code: f"<h1>Sorry: {code}</h1>"))
    victim = victim_at(site)
    reply = victim.forged("/write", FORGED)
    assert (reply.status, reply.body) == (403, b"<h1>Sorry: csrf_site</h1>")
    with pytest.raises(ConfigurationError, match="page"):
        CSRF(page="page.html")  # type: ignore[arg-type]


def test_a_page_of_refusal_shows_nothing_of_the_request():
    assert b"<script>" not in forbidden(Rejection("csrf_origin", "<script>")).body


def test_a_refusal_is_signalled_and_logged_with_its_reason_and_no_secret(interface, caplog):
    site = Site(interface)
    victim = victim_at(site)
    token = victim.get("/token").said
    with caplog.at_level(logging.DEBUG, "server_session"):
        victim.forged("/write", ("origin", "https://evil.example"), ("x-csrf-token", token))
    assert [(one.event, one.reason) for one in site.signals[-1:]] == [("csrf_rejected", "csrf_origin")]
    record = caplog.records[-1]
    assert (record.event, record.reason, record.session) == ("csrf_rejected", "csrf_origin", site.signals[-1].session)
    assert "https://evil.example" in record.getMessage()
    for secret in (victim.credential, victim.credential[:24], victim.credential[24:], token):
        assert secret not in caplog.text


def test_report_refuses_nothing_and_tells_of_all(interface, caplog):
    site = Site(interface, csrf=CSRF(mode="report"))
    victim = victim_at(site)
    assert victim.forged("/write", FORGED, body=b"x").status == 200
    assert site.events[-1] == "csrf_rejected"
    assert "not refused: 'POST /write' (csrf_site, " in caplog.text


def test_no_check_is_made_where_none_is_wanted(interface):
    victim = victim_at(Site(interface, csrf=None))
    assert victim.forged("/write", ("origin", "https://evil.example"), body=b"x").status == 200


def test_strict_wants_a_token_of_everybody(interface):
    site = Site(interface, csrf=CSRF(mode="strict"))
    assert Browser(site).post("/write").rejection == "csrf_token_missing"
    visitor = Browser(site)
    token = visitor.get("/token").said
    assert visitor.post("/write", ("x-csrf-token", token), body=b"x").said is True


def test_a_store_that_is_down_while_the_token_is_looked_at_is_a_503_and_no_pass(interface):
    store = Watched()
    site = Site(interface, session_store=store)
    victim = victim_at(site)
    token = victim.get("/token").said
    site.seen.clear()
    store.fails = {"get", "look"}
    assert victim.forged("/write", ("x-csrf-token", token)).status == 503
    assert site.seen == []


def test_a_request_with_a_token_costs_no_more_calls_than_one_without(interface):
    store = Watched()
    site = Site(interface, {"/mapping": mapping}, session_store=store)
    victim = victim_at(site)
    token = victim.get("/token").said
    counted = []
    for headers in ((OWN,), (("x-csrf-token", token),)):
        store.calls.clear()
        assert victim.forged("/mapping", *headers).status == 200
        counted.append(list(store.calls))
    assert counted[0] == counted[1] == ["get"]


def test_a_token_for_a_single_use_costs_one_call_to_read_it_and_one_to_use_it_up(interface):
    store = Watched()
    site = Site(interface, session_store=store, csrf=CSRF(single_use=True))
    visitor = Browser(site)
    token = visitor.get("/token").said
    store.calls.clear()
    assert visitor.forged("/echo", ("x-csrf-token", token)).status == 200
    assert store.calls == ["get", "merge"]


async def mapping(request: Any) -> Any:
    return dict(request.session)


# --- stale and used tokens


def test_a_token_from_before_the_log_in_is_stale_and_has_a_code_of_its_own(interface):
    site = Site(interface)
    visitor = Browser(site)
    token = visitor.get("/token").said
    site.clock.advance(5)
    visitor.post("/log_in")
    site.clock.advance(5)
    assert visitor.forged("/write", ("x-csrf-token", token)).rejection == "csrf_stale"
    fresh = visitor.get("/token").said
    visitor.post("/renew")
    assert visitor.forged("/write", ("x-csrf-token", fresh)).rejection == "csrf_stale"
    site.clock.advance(5)
    again = visitor.get("/token").said
    assert visitor.forged("/write", ("x-csrf-token", again)).status == 200
    forged = again[:40] + ("A" if again[40] != "A" else "B") + again[41:]
    assert visitor.forged("/write", ("x-csrf-token", forged)).rejection == "csrf_token_invalid"


def test_a_token_of_a_session_that_ended_is_stale(interface):
    site = Site(interface)
    visitor = Browser(site)
    token = visitor.get("/token").said
    old = Browser(site, visitor.cookie)
    visitor.post("/log_out")
    assert old.forged("/write", ("x-csrf-token", token)).rejection == "csrf_stale"


def test_a_token_is_stale_when_it_is_too_old(interface):
    site = Site(interface, csrf=CSRF(token_age=timedelta(minutes=10)))
    visitor = Browser(site)
    token = visitor.get("/token").said
    site.clock.advance(599)
    assert visitor.forged("/write", ("x-csrf-token", token)).status == 200
    site.clock.advance(2)
    assert visitor.forged("/write", ("x-csrf-token", token)).rejection == "csrf_stale"
    assert visitor.forged("/write", ("x-csrf-token", visitor.get("/token").said)).status == 200


@pytest.mark.parametrize("submissions", [2, 12])
def test_of_many_equal_submissions_one_passes_where_tokens_are_for_a_single_use(interface, submissions):
    site = Site(interface, csrf=CSRF(single_use=True))
    visitor = Browser(site)
    token, other = visitor.get("/token").said, visitor.get("/token").said
    replies: list[Reply] = []

    def submit() -> None:
        replies.append(visitor.post("/count", ("x-csrf-token", token)))

    threads = [threading.Thread(target=submit) for _ in range(submissions)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(reply.status for reply in replies) == [200, *[403] * (submissions - 1)]
    assert {reply.rejection for reply in replies} == {None, "csrf_token_used"}
    assert visitor.get().said == {"n": 1}
    assert visitor.post("/count", ("x-csrf-token", other)).status == 200


def test_the_oldest_of_64_outstanding_tokens_is_dropped_and_the_others_stay(interface):
    site = Site(interface, csrf=CSRF(single_use=True))
    visitor = Browser(site)
    tokens = [visitor.get("/token").said for _ in range(65)]
    assert visitor.post("/write", ("x-csrf-token", tokens[0])).rejection == "csrf_token_used"
    for token in (tokens[64], tokens[1], tokens[32]):
        assert visitor.post("/write", ("x-csrf-token", token)).status == 200


def test_a_token_for_a_single_use_that_let_the_request_pass_is_good_throughout_that_request(interface):
    site = Site(interface, csrf=CSRF(single_use=True))
    visitor = Browser(site)
    token = visitor.get("/token").said
    reply = visitor.post("/validate", ("x-csrf-token", token), body=json.dumps(token).encode())
    assert reply.said is True
    fresh = visitor.get("/token").said
    reply = visitor.post("/validate", ("x-csrf-token", fresh), body=json.dumps(token).encode())
    assert reply.said is False


# --- the cookie that did not come


@pytest.mark.parametrize("path", ["/write", "/token", "/log_in", "/assign", "/replace"])
def test_another_sites_post_founds_no_session_where_nothing_is_checked(interface, path):
    site = Site(interface, csrf=None)
    victim = victim_at(site)
    # Lax: the browser leaves the cookie out of a POST of another site's.
    reply = site.send("POST", path, FORGED, body=b"attacker")
    assert reply.status == 403
    assert reply.rejection == "cookie_withheld"
    assert reply.cookie is None
    assert victim.get().said == {"user": "victim"}


@pytest.mark.parametrize(
    "headers,founds",
    [
        ([("sec-fetch-site", "same-site")], True),
        ([("sec-fetch-site", "none")], True),
        ([OWN], True),
        ([], True),
        ([("origin", "null")], False),
        ([("origin", "http://shop.example")], True),
        ([("origin", "https://evil.example")], False),
        ([FORGED], False),
    ],
)
def test_only_what_another_site_sends_is_taken_for_a_cookie_withheld(interface, headers, founds):
    site = Site(interface, csrf=None)
    assert (site.send("POST", "/write", *headers).cookie is not None) == founds


def test_a_cookie_that_came_with_another_sites_post_was_not_withheld(interface):
    site = Site(interface, csrf=None)
    assert site.send("POST", "/write", FORGED, ("cookie", f"session={'A' * 64}")).cookie is not None


def test_a_cookie_that_other_sites_may_send_is_not_withheld(interface):
    handler = CookieHandler(same_site="none")
    site = Site(interface, csrf=None, cookie_handler=handler)
    assert site.send("POST", "/write", FORGED).cookie is not None


def test_a_get_from_another_site_may_found_a_session(interface):
    site = Site(interface)
    assert site.send("GET", "/write", FORGED).cookie is not None


# --- settings


def test_what_is_no_policy_is_refused():
    with pytest.raises(ConfigurationError, match=r"csrf is a CSRF\("):
        Sessions(csrf=True)  # type: ignore[arg-type]


def test_an_endpoint_that_cannot_be_marked_is_refused():
    with pytest.raises(ConfigurationError, match="cannot be marked"):
        csrf_exempt("".join)

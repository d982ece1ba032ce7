"""The script that signs requests, in Chromium: at a shop in strict mode, beside an origin that would take anything."""

import json
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
from playwright.sync_api import Page
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route

from server_session import CSRF, Sessions, get_csrf_token
from server_session.asgi import SessionMiddleware
from server_session.csrf.html import csrf_input, csrf_meta, csrf_script
from tests import servers
from tests.documents import DOCS, code_of

NONCE = "r4nd0m"
HEADER = "x-csrf-token"
LOADED = csrf_script(nonce=NONCE)
# Chromium keeps no page of `no-store` in its back/forward cache when a cookie has changed, so the event is made.
BACK = "dispatchEvent(new PageTransitionEvent('pageshow', {persisted: true}))"


class Seen(NamedTuple):
    method: str
    path: str
    token: str | None
    body: bytes


class Shop:
    """Pages that bear the script, and what came to them; `passed` are the bodies that were let in."""

    def __init__(self, port: int, policy: CSRF) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.seen: list[Seen] = []
        self.passed: list[bytes] = []
        self.script: str = LOADED
        self.single_use = policy.single_use
        self.sessions = Sessions(origin=self.url, csrf=policy)
        writes = ["POST", "PUT", "PATCH", "DELETE", "PURGE"]
        routes = [
            Route("/", self.page),
            Route("/csrf.js", self.file),
            Route("/log-in", self.log_in),
            Route("/write", self.write, methods=writes),
            Route("/away", self.away, methods=writes),
            Route("/read", self.read, methods=["GET", "HEAD", "OPTIONS"]),
        ]
        self.app = self.watch(SessionMiddleware(Starlette(routes=routes), self.sessions))

    def watch(self, app: Any) -> Callable[..., Any]:
        async def watched(scope: Any, receive: Any, send: Any) -> None:
            if scope["type"] != "http":
                await app(scope, receive, send)
                return
            token = dict(scope["headers"]).get(HEADER.encode())
            body = b""

            async def note() -> Any:
                nonlocal body
                message = await receive()
                body += message.get("body", b"")
                return message

            async def answer(message: Any) -> None:
                if message["type"] == "http.response.start":
                    self.seen.append(Seen(scope["method"], scope["path"], token and token.decode(), body))
                await send(message)

            assert b"csrf" not in scope["query_string"]
            await app(scope, note, answer)

        return watched

    async def page(self, request: Request) -> Response:
        forms = [
            f'<form method="post" action="/write" id="{name}">{csrf_input(await self.sessions.get_csrf_token(request))}'
            '<input name="action" value="clobbers"><button>Send</button></form>'
            for name in ("first", "second")
        ]
        payment = '<form method="post" action="http://pay.invalid/"><input type="hidden" name="csrf_token"></form>'
        search = '<form action="/read"><input type="hidden" name="csrf_token"></form>'
        meta = csrf_meta(await self.sessions.get_csrf_token(request), single_use=self.single_use)
        return HTMLResponse(
            f'<!doctype html><link rel="icon" href="data:,">{meta}{self.script}<body>{"".join(forms)}{payment}{search}',
            headers={"Content-Security-Policy": f"default-src 'none'; script-src 'nonce-{NONCE}'; connect-src *"},
        )

    async def file(self, request: Request) -> Response:
        source = LOADED.partition(">")[2].removesuffix("</script>")
        return Response(source, media_type="text/javascript")

    async def log_in(self, request: Request) -> Response:
        await self.sessions.log_in(request, "ada")
        return PlainTextResponse("logged in")

    async def write(self, request: Request) -> Response:
        self.passed.append(await request.body())
        return PlainTextResponse("written")

    async def read(self, request: Request) -> Response:
        return PlainTextResponse("read")

    async def away(self, request: Request) -> Response:
        return RedirectResponse(request.query_params["to"], 307)

    def tokens(self, path: str = "/write") -> list[str | None]:
        return [seen.token for seen in self.seen if seen.path == path]

    def page_loads(self) -> int:
        return sum((seen.method, seen.path) == ("GET", "/") for seen in self.seen)


class Elsewhere:
    """Another origin, which allows every header to everybody, and notes what it is asked."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.seen: list[tuple[str, dict[str, str]]] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            request = Request(scope, receive)
            self.seen.append((request.method, dict(request.headers)))
            allowed = {f"Access-Control-Allow-{what}": "*" for what in ("Origin", "Headers", "Methods")}
            await Response("taken", headers=allowed)(scope, receive, send)

    def methods(self) -> list[str]:
        return [method for method, _ in self.seen]


@pytest.fixture
def visitor(page) -> Callable[[Shop], Page]:
    pages = [page]

    def visitor(shop: Shop) -> Page:
        visited = pages.pop() if pages else page.context.new_page()
        visited.goto(shop.url)
        return visited

    return visitor


@pytest.fixture
def open_shop(serve) -> Callable[..., Shop]:
    def open_shop(**policy: Any) -> Shop:
        port = servers.free_port()
        shop = Shop(port, CSRF(**policy or {"mode": "strict"}))
        serve(shop.app, port=port, lifespan="off")
        return shop

    return open_shop


@pytest.fixture
def shop(open_shop) -> Shop:
    return open_shop()


@pytest.fixture
def single(open_shop) -> Shop:
    return open_shop(single_use=True)


@pytest.fixture
def elsewhere(serve) -> Elsewhere:
    port = servers.free_port()
    elsewhere = Elsewhere(port)
    serve(elsewhere, port=port, lifespan="off")
    return elsewhere


def statuses(page: Page, *calls: str) -> list[int | str]:
    """Make calls of `fetch` one after the other, and return what each ended with."""
    listed = ", ".join(f"() => {call}" for call in calls)
    return page.evaluate(
        f"""async () => {{
            const ended = [];
            for (const call of [{listed}]) ended.push(await call().then((r) => r.status, (e) => e.name));
            return ended;
        }}"""
    )


def sent(page: Page, method: str, url: str, more: str = "", body: str = "null", is_async: bool = True) -> int:
    """Send an XMLHttpRequest and return its status, 0 if it failed."""
    return page.evaluate(
        f"""() => new Promise((resolve) => {{
            const xhr = new XMLHttpRequest();
            xhr.open({json.dumps(method)}, {json.dumps(url)}, {json.dumps(is_async)});
            {more};
            xhr.onloadend = () => resolve(xhr.status);
            xhr.send({body});
        }})"""
    )


def log_in_elsewhere(page: Page, shop: Shop) -> None:
    """Log in as another tab would, which renews the cookie that they share."""
    assert page.context.request.get(f"{shop.url}/log-in").ok


class TestFetch:
    def test_it_signs_every_form_of_call(self, shop, visitor):
        page = visitor(shop)
        own = f'"{shop.url}/write"'
        calls = [
            'fetch("/write", {method: "POST", body: "1"})',
            'fetch("write", {method: "post", body: "2"})',
            f'fetch({own}, {{method: "PUT", body: "3", headers: {{"X-Own": "1"}}}})',
            f'fetch(new URL({own}), {{method: "PATCH", body: "4", headers: [["X-Own", "1"]]}})',
            f'fetch({own}, {{method: "PATCH", body: "5", headers: new Headers({{"X-Own": "1"}})}})',
            f'fetch(new Request({own}, {{method: "DELETE", body: "6"}}))',
            f'fetch(new Request({own}, {{method: "POST", body: "no"}}), {{body: "7", headers: {{"X-Own": "1"}}}})',
            f'fetch({own}, new Request({own}, {{method: "PURGE"}}))',
            'fetch("/write", {method: "POST", mode: "no-cors", body: "9"})',
            'fetch("/write", {method: "POST", body: new URLSearchParams({ten: 10})})',
        ]

        assert statuses(page, *calls) == [200] * 10
        assert shop.passed == [b"1", b"2", b"3", b"4", b"5", b"6", b"7", b"", b"9", b"ten=10"]
        assert set(shop.tokens()) == {page.get_attribute("meta", "content")}

    def test_what_changes_nothing_is_not_signed(self, shop, visitor):
        page = visitor(shop)
        calls = [f'fetch("/read", {{method: "{method}"}})' for method in ("GET", "get", "HEAD", "OPTIONS")]

        assert statuses(page, 'fetch("/read")', *calls) == [200] * 5
        assert set(shop.tokens("/read")) == {None}

    def test_a_method_that_the_browser_leaves_in_lower_case_is_signed(self, shop, visitor):
        page = visitor(shop)

        # Let in, and then unknown to the application.
        assert statuses(page, 'fetch("/write", {method: "patch"})') == [405]
        assert shop.tokens() == [page.get_attribute("meta", "content")]

    def test_a_header_that_the_caller_set_is_left_alone(self, shop, visitor):
        page = visitor(shop)
        calls = [
            'fetch("/write", {method: "POST", headers: {"x-CSRF-token": "mine"}})',
            'fetch(new Request("/write", {method: "POST", headers: [["X-CSRF-TOKEN", "mine"]]}))',
        ]

        assert statuses(page, *calls) == [403, 403]
        assert shop.tokens() == ["mine", "mine"]

    def test_a_call_without_cookies_is_not_signed(self, shop, visitor):
        page = visitor(shop)

        statuses(page, 'fetch("/write", {method: "POST", credentials: "omit"})')

        assert shop.tokens() == [None]

    def test_bad_calls_fail_as_the_browser_has_it(self, shop, visitor):
        page = visitor(shop)

        calls = ('fetch("http://[", {method: "POST"})', 'fetch("/write", {method: "a b"})')
        assert statuses(page, *calls) == ["TypeError", "TypeError"]
        stopped = 'fetch("/write", {method: "POST", signal: AbortSignal.abort()})'
        assert statuses(page, stopped) == ["AbortError"]
        assert shop.tokens() == []

    def test_the_referrer_that_the_caller_chose_stays(self, shop, visitor):
        page = visitor(shop)

        with page.expect_request("**/write") as noted:
            statuses(page, 'fetch("/write", {method: "POST", referrer: "/chosen"})')
        assert noted.value.all_headers()["referer"] == f"{shop.url}/chosen"
        with page.expect_request("**/write") as noted:
            statuses(page, 'fetch("/write", {method: "POST", referrerPolicy: "no-referrer"})')
        assert "referer" not in noted.value.all_headers()


class TestOtherOrigins:
    def test_they_get_no_token_and_no_preflight_of_ours(self, shop, elsewhere, visitor):
        page = visitor(shop)
        url = json.dumps(elsewhere.url)

        calls = (f'fetch({url}, {{method: "POST"}})', f'fetch(new Request({url}, {{method: "POST"}}))')
        assert statuses(page, *calls) == [200, 200]
        assert sent(page, "POST", elsewhere.url) == 200
        # The same host by its other name, and the same address with a user in it, are others too.
        local = elsewhere.url.replace("127.0.0.1", "localhost")
        assert statuses(page, f'fetch("{local}", {{method: "POST"}})') == [200]
        assert elsewhere.methods() == ["POST"] * 4
        assert not any(HEADER in headers for _, headers in elsewhere.seen)

    def test_a_signed_fetch_is_not_redirected_to_them(self, shop, elsewhere, visitor):
        page = visitor(shop)

        assert statuses(page, f'fetch("/away?to={elsewhere.url}", {{method: "POST"}})') == ["TypeError"]
        assert shop.tokens("/away") == [page.get_attribute("meta", "content")]
        assert elsewhere.seen == []

    def test_a_redirect_to_the_own_origin_is_followed(self, shop, visitor):
        page = visitor(shop)

        assert statuses(page, 'fetch("/away?to=/write", {method: "POST", body: "kept"})') == [200]
        assert shop.passed == [b"kept"]

    def test_an_xhr_takes_its_header_to_them_only_if_they_allow_it(self, shop, elsewhere, visitor):
        page = visitor(shop)

        assert sent(page, "POST", f"/away?to={elsewhere.url}") == 200
        # No script can stop it: the browser asks that origin first, by the header's name.
        assert elsewhere.methods() == ["OPTIONS", "POST"]
        assert elsewhere.seen[0][1]["access-control-request-headers"] == HEADER


class TestXhr:
    def test_it_is_signed(self, shop, visitor):
        page = visitor(shop)

        assert sent(page, "POST", "/write", body='"1"') == 200
        assert sent(page, "delete", f"{shop.url}/write", 'xhr.setRequestHeader("X-Own", "1")') == 200
        assert sent(page, "POST", "/write", "xhr.open('PUT', '/write', false)") == 200
        assert shop.passed == [b"1", b"", b""]

    def test_what_changes_nothing_is_not_signed(self, shop, visitor):
        assert sent(visitor(shop), "get", "/read") == 200
        assert shop.tokens("/read") == [None]

    def test_a_header_that_the_caller_set_is_left_alone(self, shop, visitor):
        assert sent(visitor(shop), "POST", "/write", 'xhr.setRequestHeader("x-csrf-TOKEN", "mine")') == 403
        assert shop.tokens() == ["mine"]

    def test_a_stale_one_has_failed_and_the_next_passes(self, shop, visitor):
        page = visitor(shop)
        log_in_elsewhere(page, shop)

        assert sent(page, "POST", "/write") == 403
        assert sent(page, "POST", "/write") == 200
        assert shop.page_loads() == 2


class TestStale:
    def test_a_fetch_is_tried_once_more_with_a_fresh_token(self, shop, visitor):
        page, other_tab = visitor(shop), visitor(shop)
        other_tab.goto(f"{shop.url}/log-in")

        assert statuses(page, 'fetch("/write", {method: "POST", body: "1"})') == [200]
        assert shop.passed == [b"1"]
        assert len(shop.tokens()) == 2
        # And the page has it from now on.
        assert statuses(page, 'fetch(new Request("/write", {method: "POST", body: "2"}))') == [200]
        assert len(shop.tokens()) == 3
        assert shop.tokens()[1] == shop.tokens()[2] == page.get_attribute("meta", "content")

    def test_its_body_is_sent_again_whole(self, shop, visitor):
        page = visitor(shop)
        bodies = (
            "new Blob(['1'])",
            "new Uint8Array([49])",
            "new URLSearchParams({a: 1})",
            "new FormData(document.forms[0])",
        )

        for body in bodies:
            log_in_elsewhere(page, shop)
            assert statuses(page, f'fetch("/write", {{method: "POST", body: {body}}})') == [200]
        assert shop.passed[:3] == [b"1", b"1", b"a=1"]
        assert b"clobbers" in shop.passed[3]
        assert len(shop.tokens()) == 8

    def test_it_is_tried_no_third_time(self, shop, visitor):
        page = visitor(shop)
        page.context.route(
            "**/write", lambda route: route.fulfill(status=403, headers={"CSRF-Rejection": "csrf_stale"})
        )
        tries = []
        page.on("request", lambda request: tries.append(request.url) if request.method == "POST" else None)

        assert statuses(page, 'fetch("/write", {method: "POST"})') == [403]
        assert len(tries) == 2

    def test_no_other_answer_is_tried_again(self, shop, visitor):
        page = visitor(shop)
        answers = [
            (403, "csrf_token_invalid"),
            (403, "csrf_token_used"),
            (403, "csrf_site"),
            (403, ""),
            (200, "csrf_stale"),
        ]
        left = list(reversed(answers))

        def answer(route):
            status, code = left.pop() if left else (500, "")
            route.fulfill(status=status, headers={"CSRF-Rejection": code})

        page.context.route("**/write", answer)
        assert statuses(page, *['fetch("/write", {method: "POST"})'] * 5) == [status for status, _ in answers]
        assert shop.page_loads() == 1

    def test_all_that_fail_at_once_share_one_fresh_token(self, shop, visitor):
        page = visitor(shop)
        log_in_elsewhere(page, shop)

        all_at_once = (
            'Promise.all(Array.from({length: 8}, (_, i) => fetch("/write", {method: "POST", body: String(i)})))'
        )
        assert page.evaluate(f"async () => (await {all_at_once}).map((response) => response.status)") == [200] * 8
        assert sorted(shop.passed) == [str(number).encode() for number in range(8)]
        assert shop.page_loads() == 2

    def test_the_forms_get_fresh_tokens_too_but_not_those_of_others(self, shop, visitor):
        page = visitor(shop)
        log_in_elsewhere(page, shop)
        inputs = "() => [...document.querySelectorAll('[name=csrf_token]')].map((input) => input.value)"
        # Forms that the fresh page does not have: of this origin, of another, and one that would show it in an address.
        page.evaluate(
            """() => ["/new", "http://pay.invalid/new", "/find"].forEach((action, at) => {
                const form = document.forms[at + 1].cloneNode(true);
                form.setAttribute("action", action);
                document.body.append(form);
            })"""
        )
        before = page.evaluate(inputs)
        statuses(page, 'fetch("/write", {method: "POST"})')

        first, second, *others, new, foreign, search = page.evaluate(inputs)
        assert len({first, second, new, *before}) == 3 + len(set(before))
        assert new == page.get_attribute("meta", "content")
        assert [*others, foreign, search] == [""] * 4
        page.click("#second button >> nth=0")
        assert page.inner_text("body") == "written"

    def test_a_page_that_has_no_token_any_more_leaves_the_answer_as_it_is(self, shop, visitor):
        page = visitor(shop)
        log_in_elsewhere(page, shop)
        page.context.route(f"{shop.url}/", lambda route: route.fulfill(body="<p>Log in"))

        assert page.evaluate(
            """async () => {
                const response = await fetch("/write", {method: "POST"});
                return [response.status, (await response.text()).includes("csrf_stale")];
            }"""
        ) == [403, True]
        assert len(shop.tokens()) == 1

    def test_a_stream_is_not_tried_again(self, shop, visitor):
        # Chromium streams over HTTP/2 alone, so the network is a stub here.
        shop.script = f"""<script nonce="{NONCE}">
            self.calls = [];
            self.fetch = async (request) => {{
                calls.push(request.method ?? "page");
                return new Response("", {{status: 403, headers: {{"CSRF-Rejection": "csrf_stale"}}}});
            }};
        </script>{LOADED}"""
        page = visitor(shop)

        stream = 'fetch("/write", {method: "POST", duplex: "half", body: new Blob(["1"]).stream()})'
        assert statuses(page, stream) == [403]
        assert page.evaluate("calls") == ["POST"]


class TestSingleUse:
    def test_every_call_has_a_token_of_its_own(self, single, visitor):
        page = visitor(single)
        call = 'fetch("/write", {method: "POST"})'

        assert statuses(page, call, call) == [200, 200]
        assert [sent(page, "POST", "/write") for _ in range(2)] == [200, 200]
        assert (
            page.evaluate(f"async () => (await Promise.all([{call}, {call}, {call}])).map((r) => r.status)")
            == [200] * 3
        )
        assert len(set(single.tokens())) == len(single.tokens()) == 7

    def test_the_forms_tokens_are_theirs(self, single, visitor):
        page = visitor(single)
        statuses(page, *['fetch("/write", {method: "POST"})'] * 2)

        page.click("#first button")
        assert page.inner_text("body") == "written"

    def test_a_stale_one_is_tried_once_more(self, single, visitor):
        page = visitor(single)
        log_in_elsewhere(page, single)

        assert statuses(page, 'fetch("/write", {method: "POST", body: "1"})') == [200]
        assert single.passed == [b"1"]
        assert len(single.tokens()) == 2

    def test_a_synchronous_xhr_cannot_wait_for_one(self, single, visitor):
        page = visitor(single)

        assert sent(page, "POST", "/write") == 200
        assert (
            page.evaluate(
                """() => {
                const xhr = new XMLHttpRequest();
                xhr.open("POST", "/write", false);
                xhr.send();
                return xhr.status;
            }"""
            )
            == 403
        )
        assert single.tokens()[1:] == [None]

    def test_an_xhr_that_waits_for_its_token_can_be_aborted(self, single, visitor):
        page = visitor(single)
        statuses(page, 'fetch("/write", {method: "POST"})')

        ended = page.evaluate(
            """async () => {
                const ended = [], xhr = new XMLHttpRequest();
                for (const type of ["load", "error", "abort", "loadend"])
                    xhr.addEventListener(type, () => ended.push(type));
                xhr.open("POST", "/write");
                xhr.send();
                xhr.abort();
                await fetch("/write", {method: "POST"});
                await new Promise((resolve) => setTimeout(resolve));
                return ended;
            }"""
        )
        assert ended == ["abort", "loadend"]
        assert len(single.passed) == 2


class TestPage:
    def test_it_works_as_a_file(self, shop, visitor):
        shop.script = f'<script nonce="{NONCE}" src="/csrf.js"></script>'

        assert statuses(visitor(shop), 'fetch("/write", {method: "POST"})') == [200]

    def test_included_twice_it_signs_once(self, shop, visitor):
        patched = "[fetch, XMLHttpRequest.prototype.open, XMLHttpRequest.prototype.send]"
        shop.script = f'{LOADED}<script nonce="{NONCE}">self.once = {patched}</script>{LOADED}'
        page = visitor(shop)
        log_in_elsewhere(page, shop)

        assert page.evaluate(f"{patched}.every((now, at) => now === once[at])")
        assert statuses(page, 'fetch("/write", {method: "POST"})') == [200]
        assert len(shop.tokens()) == 2
        assert sent(page, "POST", "/write") == 200

    def test_it_leaves_no_global_names(self, shop, visitor):
        names = "() => Object.getOwnPropertyNames(self).sort()"
        with_it = visitor(shop).evaluate(names)
        shop.script = ""

        assert visitor(shop).evaluate(names) == with_it

    def test_without_the_meta_element_nothing_is_changed(self, shop, visitor):
        page = visitor(shop)
        page.evaluate("document.querySelector('meta').remove()")

        assert statuses(page, 'fetch("/write", {method: "POST"})') == [403]
        assert sent(page, "POST", "/write") == 403
        assert shop.tokens() == [None, None]
        assert shop.page_loads() == 1

    def test_back_from_the_back_forward_cache_its_tokens_are_fresh(self, shop, visitor):
        page = visitor(shop)
        log_in_elsewhere(page, shop)
        left = page.get_attribute("meta", "content")

        with page.expect_response(shop.url + "/"):
            page.evaluate(BACK)

        page.wait_for_function("left => document.querySelector('meta').content !== left", arg=left)
        page.click("#first button")
        assert page.inner_text("body") == "written"

    def test_back_from_the_cache_a_call_waits_for_the_fresh_token(self, shop, visitor):
        page = visitor(shop)
        log_in_elsewhere(page, shop)
        page.evaluate(f"{BACK}, fetch('/write', {{method: 'POST'}})")

        assert shop.tokens() == [page.get_attribute("meta", "content")]
        assert shop.page_loads() == 2

    def test_back_from_the_cache_an_old_token_is_better_than_none(self, shop, visitor):
        page = visitor(shop)
        page.context.route(f"{shop.url}/", lambda route: route.fulfill(body="<p>gone"))
        page.evaluate(BACK)

        assert statuses(page, 'fetch("/write", {method: "POST"})') == [200]
        assert shop.tokens() == [page.get_attribute("meta", "content")]

    def test_nothing_is_logged(self, shop, visitor):
        page = visitor(shop)
        logged = []
        page.on("console", lambda message: logged.append(message.text))
        page.on("pageerror", lambda error: logged.append(str(error)))
        log_in_elsewhere(page, shop)
        statuses(page, 'fetch("/write", {method: "POST"})')
        sent(page, "POST", "/write")

        # The browser itself tells of each 403.
        assert [text for text in logged if "403" not in text] == []
        assert not any(token in text for token in shop.tokens() for text in logged)


def test_a_page_built_as_files_asks_for_its_token(serve: Callable[..., Any], page: Page) -> None:
    async def index(_: Request) -> Response:
        return HTMLResponse("<!doctype html>")

    async def token(request: Request) -> Response:
        return JSONResponse({"token": await get_csrf_token(request)})

    async def cart(_: Request) -> Response:
        return PlainTextResponse("written")

    routes = [Route("/", index), Route("/api/token", token), Route("/api/cart", cart, methods=["POST"])]
    app = SessionMiddleware(Starlette(routes=routes), Sessions(csrf=CSRF(mode="strict")))
    page.goto(serve(app).url)
    code = code_of(DOCS / "how-to" / "htmx.md", "token for a page")
    assert statuses(page, 'fetch("/api/cart", {method: "POST"})') == [403]
    with page.expect_response("**/api/cart") as answer:
        page.evaluate(f"async () => {{ {code} }}")
    assert answer.value.status == 200

"""The suite for adapters of web frameworks: what each of them promises, asked over its real server."""

import json
import logging
import re
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from tempfile import TemporaryDirectory
from typing import Any, ClassVar, Final, Protocol, Self, TypeAlias

from server_session._urls import open_store
from server_session.stores._base import SessionStore
from server_session.testing._browser import Answered, Browser
from server_session.testing._checks import check, check_equal
from server_session.testing._site import CARRIERS, Site
from server_session.testing._yielding import YieldingStore

__all__ = ["AdapterContract", "Client"]

AT_ONCE: Final = 50
_HIDDEN: Final = re.compile(r'<input type="hidden" name="([^"]+)" value="([^"]+)">')


class Client(Protocol):
    """A framework's own test client, which keeps cookies: it returns the status and the text of the response."""

    def __call__(self, method: str, path: str, headers: dict[str, str]) -> tuple[int, str]: ...


@dataclass
class Served:
    """The site over one store, while it is served."""

    site: Site
    app: Any
    port: int
    patience: float
    rival_told: bool = False

    def browser(self) -> Browser:
        """Return the browser of somebody who comes for the first time."""
        return Browser(self.port, patience=self.patience)

    def visitor(self) -> Browser:
        """Return the browser of somebody who has a session, with `kept` in it."""
        browser = self.browser()
        check_equal(browser.post("/write?kept=yes").status, 200, "a first write")
        check(browser.cookies, "a first write set no cookie")
        return browser


Test: TypeAlias = Callable[["AdapterContract", Served], None]


def _served(*needs: str) -> Callable[[Test], Callable[["AdapterContract"], None]]:
    """Make a plain test method of one that is given the site, served over each store in turn.

    It holds for adapters of which what it needs is true; for others it passes without a word.
    """

    def decorate(test: Test) -> Callable[["AdapterContract"], None]:
        def over_each_store(self: "AdapterContract") -> None:
            __tracebackhide__ = True
            for kind in self.stores if all(getattr(self, need) for need in needs) else ():
                served = self._serve(kind)
                try:
                    test(self, served)
                    self._check_left(served)
                except BaseException as error:
                    error.add_note(f"over the {kind} store")
                    raise
                finally:
                    served.site.store.is_down = False

        # Not functools.wraps: pytest would follow `__wrapped__` and look for a fixture called `served`.
        over_each_store.__name__, over_each_store.__qualname__ = test.__name__, test.__qualname__
        over_each_store.__doc__ = test.__doc__
        vars(over_each_store)["needs"] = needs
        return over_each_store

    return decorate


class AdapterContract:
    """What an adapter promises. Subclass it, say how the site is made of the framework, and let pytest collect it.

    ```python
    class TestCrumb(AdapterContract):
        blocks = True

        def make_app(self, site):
            app = crumb.App()
            add_sessions(app, site.sessions)
            for page in site.pages:
                app.route(page.path, *page.methods)(page.mark(view_of(page)))
            return app

        @contextmanager
        def serve(self, app):
            with make_server("127.0.0.1", 0, app) as server:
                threading.Thread(target=server.serve_forever).start()
                yield server.server_port
                server.shutdown()
    ```

    A view makes a `Here` of what it has in hand, awaits `page.body(here)` or calls `page.run(here)`, and answers what
    it is told: text, or a `Redirected`, `Failed`, `Streamed`, `Encoded` or `Headed`. The application answers 403 and
    503 with pages of its own that begin with `own page`, if `has_own_pages`, and serves a WebSocket at `/socket` that
    sends `await site.greeting(session)` and then waits for its end, if `has_websockets`.

    The tests are plain methods that raise `AssertionError`, and `teardown_class` ends the servers. Each speaks HTTP to
    the application's real server.
    """

    blocks: bool = False
    """Whether the framework's views block; else they await."""
    stores: ClassVar[tuple[str, ...]] = ("memory",)
    """Over which stores: `"memory"`, `"file"`, and for views that await `"yielding"`, which suspends in each call."""
    has_websockets: bool = True
    has_templates: bool = True
    has_streams: bool = True
    has_own_pages: bool = True
    has_client: bool = True
    can_replace: bool = False
    """Whether the whole mapping can be replaced: `here.replace`."""
    knows_endpoints: bool = True
    """Whether `csrf_exempt` and `csrf_protect` are honoured."""
    saves_errors: bool = True
    """Whether what the mapping wrote is stored with the answer to an error that a view raised."""
    can_be_several: bool = True
    """Whether a process can have several applications of the framework, each with settings of its own."""
    watches: bool = True
    """Whether a WebSocket whose session has ended is closed."""

    patience: float = 20.0
    """Seconds after which a socket's message, or what a stream should have stored, is taken as missing."""

    _running: ClassVar[dict[tuple[type, str], Served]] = {}
    _open: ClassVar[dict[type, ExitStack]] = {}

    # ------------------------------------------------------------------------------------------------ the hooks

    def make_app(self, site: Site) -> Any:
        """Return an application that has the site's pages, with sessions by `site.sessions`."""
        raise NotImplementedError

    def serve(self, app: Any) -> AbstractContextManager[int]:
        """Serve the application on a free port of 127.0.0.1, by a real server in this process, until it is left."""
        raise NotImplementedError

    def client(self, app: Any) -> AbstractContextManager[Client]:
        """Return the framework's own test client, if it `has_client`."""
        raise NotImplementedError

    # ------------------------------------------------------------------------------------------------ the stage

    @classmethod
    def teardown_class(cls) -> None:
        """End the servers of this suite."""
        for key in [key for key in cls._running if key[0] is cls]:
            del cls._running[key]
        if (stack := cls._open.pop(cls, None)) is not None:
            stack.close()

    def _serve(self, kind: str) -> Served:
        key = (type(self), kind)
        if key not in self._running:
            stack = self._open.setdefault(type(self), ExitStack())
            site = Site.over(self._store(kind, stack), blocks=self.blocks)
            app = self.make_app(site)
            self._running[key] = Served(site, app, stack.enter_context(self.serve(app)), self.patience)
        self._running[key].site.forget()
        return self._running[key]

    def _store(self, kind: str, stack: ExitStack) -> SessionStore:
        match kind:
            case "file":
                return open_store(f"file:{stack.enter_context(TemporaryDirectory())}")
            case "yielding":
                return YieldingStore(open_store("memory:"))
            case _:
                return open_store("memory:")

    def _check_left(self, served: Served) -> None:
        check_equal(self._eventually(lambda: served.site.served, 0), 0, "requests that nobody left when they were over")

    def _eventually(self, ask: Callable[[], Any], want: Any) -> Any:
        """Ask until the answer is what is wanted: a stream is stored when its end was sent."""
        end = time.monotonic() + self.patience
        while (got := ask()) != want and time.monotonic() < end:
            time.sleep(0.01)
        return got

    # ------------------------------------------------------------------------------------------------ the mapping

    @_served()
    def test_mapping_of_a_stranger_is_empty_and_sets_no_cookie(self, served: Served) -> None:
        answered = served.browser().get("/read")
        check_equal((answered.status, _data(answered)), (200, {}), "the mapping of a stranger")
        check_equal(answered.all("set-cookie"), [], "Set-Cookie to a stranger who only read")
        check("cookie" in answered.listed("vary"), "a page that read the session has no Vary: Cookie")

    @_served()
    def test_mapping_that_nobody_touched_leaves_the_response_alone(self, served: Served) -> None:
        for browser in (served.browser(), served.visitor()):
            answered = browser.get("/nothing")
            check_equal(answered.text, "nothing", "a page without a session")
            for name in ("set-cookie", "cache-control"):
                check_equal(answered.all(name), [], f"{name} of a page that did not ask for the session")
            check("cookie" not in answered.listed("vary"), "a page that did not ask for the session varies on it")

    @_served()
    def test_mapping_keeps_what_is_written_under_one_cookie(self, served: Served) -> None:
        browser = served.browser()
        answered = browser.post("/write?a=1")
        check_equal(len(answered.all("set-cookie")), 1, "Set-Cookie headers of a first write")
        check({"private", "no-store"} <= answered.listed("cache-control"), "a response with a cookie may be cached")
        check_equal(_data(browser.get("/read")), {"a": "1"}, "what was written")
        before = {**browser.cookies}
        browser.post("/write?b=2")
        check_equal(browser.cookies, before, "the cookie after a second write")
        check_equal(_data(browser.get("/read")), {"a": "1", "b": "2"}, "what was written in two requests")

    @_served()
    def test_mapping_sees_a_change_inside_a_value(self, served: Served) -> None:
        browser = served.visitor()
        for item in ("tea", "cake"):
            browser.post(f"/append?item={item}")
        check_equal(_data(browser.get("/read"))["list"], ["tea", "cake"], "what was appended to a list in the session")

    @_served()
    def test_mapping_loses_nothing_of_overlapping_requests(self, served: Served) -> None:
        browser = served.visitor()
        _at_once(lambda number: browser.copy().post(f"/write?k{number}=v"))
        want = {"kept": "yes", **{f"k{number}": "v" for number in range(AT_ONCE)}}
        check_equal(_data(browser.get("/read")), want, f"what {AT_ONCE} overlapping requests wrote to the mapping")

    @_served()
    def test_mapping_of_each_of_many_visitors_at_once_is_their_own(self, served: Served) -> None:
        self._check_apart(served, "/write", "/read")
        self._check_apart(served, "/set/none", "/data/none")

    def _check_apart(self, served: Served, write: str, read: str) -> None:
        browsers = [served.browser() for _ in range(AT_ONCE)]
        _at_once(lambda number: browsers[number].post(f"{write}?who={number}"))
        got = [_data(answered) for answered in _at_once(lambda number: browsers[number].get(read))]
        want = [{"who": str(number)} for number in range(AT_ONCE)]
        check_equal(got, want, f"what {AT_ONCE} visitors at once wrote by {write}")

    @_served()
    def test_mapping_leaves_the_application_s_own_cookie_beside_the_session_s(self, served: Served) -> None:
        browser = served.browser()
        answered = browser.get("/foreign-cookie?name=theirs")
        check_equal(browser.cookies.get("theirs"), "another", "the application's own cookie on a first write")
        check("public" not in answered.listed("cache-control"), "a response with the session's cookie may be cached")
        check_equal(_data(browser.get("/read")), {"name": "theirs"}, "the session of a response with two cookies")

    @_served()
    def test_mapping_in_which_the_user_is_set_gets_a_fresh_cookie(self, served: Served) -> None:
        browser = served.visitor()
        thief = browser.copy()
        browser.post("/user?user=ada")
        check(browser.cookies != thief.cookies, "the cookie of before the log-in holds after it")
        check_equal(_data(browser.get("/read")), {"kept": "yes", "user": "ada"}, "the session after the log-in")
        check_equal(_data(thief.get("/read")), {}, "what the cookie of before the log-in shows")

    @_served()
    def test_mapping_that_is_cleared_ends_the_session(self, served: Served) -> None:
        browser = served.visitor()
        thief = browser.copy()
        browser.post("/clear")
        check_equal(browser.cookies, {}, "the cookies after the mapping was cleared")
        check_equal(_data(thief.get("/read")), {}, "what the cookie of a session that was cleared shows")

    @_served("can_replace")
    def test_mapping_that_is_replaced_is_what_is_stored(self, served: Served) -> None:
        browser = served.visitor()
        browser.post("/replace")
        check_equal(_data(browser.get("/read")), {"whole": "new"}, "the session after its mapping was replaced")
        thief = browser.copy()
        browser.post("/replace-none")
        check_equal(_data(thief.get("/read")), {}, "the session after None took its mapping's place")
        check_equal(_data(browser.get("/read")), {}, "the session after None took its mapping's place")

    @_served()
    def test_mapping_given_to_an_encoder_makes_the_response_vary(self, served: Served) -> None:
        browser = served.visitor()
        answered = browser.get("/encoded")
        check_equal(_data(answered), {"kept": "yes"}, "the session as the framework encodes it")
        check("cookie" in answered.listed("vary"), "a response made of the mapping has no Vary: Cookie")

    # ------------------------------------------------------------------------------------------------ the functions

    @_served()
    def test_functions_and_mapping_are_one_session(self, served: Served) -> None:
        browser = served.visitor()
        want = {"kept": "yes", "mapping": "m", "function": "f"}
        check_equal(_data(browser.post("/both")), want, "what a function reads within the request")
        check_equal(_data(browser.get("/read")), want, "what both have stored")

    @_served()
    def test_functions_take_the_request_the_response_or_nothing(self, served: Served) -> None:
        for how in CARRIERS:
            browser = served.browser()
            check_equal(browser.post(f"/set/{how}?a=1").text, "True", f"set_session_data with the carrier {how}")
            answered = browser.get(f"/data/{how}")
            check_equal(_data(answered), {"a": "1"}, f"get_session_data with the carrier {how}")
            check("cookie" in answered.listed("vary"), f"a read with the carrier {how} has no Vary: Cookie")

    @_served()
    def test_functions_lose_nothing_of_overlapping_requests(self, served: Served) -> None:
        browser = served.visitor()
        _at_once(lambda number: browser.copy().post(f"/set/none?k{number}=v"))
        counted = [answered.text for answered in _at_once(lambda _: browser.copy().post("/count"), 10)]
        want = {"kept": "yes", "count": counted.count("True"), **{f"k{number}": "v" for number in range(AT_ONCE)}}
        check_equal(_data(browser.get("/read")), want, f"what {AT_ONCE} overlapping requests wrote by functions")

    @_served()
    def test_functions_log_in_under_a_fresh_cookie(self, served: Served) -> None:
        browser = served.visitor()
        thief = browser.copy()
        check_equal(browser.post("/log-in?user=ada").text, "True", "log_in")
        check(browser.cookies != thief.cookies, "the cookie of before the log-in holds after it")
        check_equal(_data(browser.get("/read")), {"user": "ada"}, "the session after log_in")
        check_equal(_data(thief.get("/read")), {}, "what the cookie of before the log-in shows")

    @_served()
    def test_functions_log_out_for_good(self, served: Served) -> None:
        browser = served.visitor()
        thief = browser.copy()
        check_equal(thief.get("/alive").text, "True", "is_alive of a session that lives")
        check_equal(browser.post("/destroy").text, "True", "destroy_session")
        check_equal(browser.cookies, {}, "the cookies after destroy_session")
        check_equal(_data(thief.get("/read")), {}, "what the cookie of an ended session shows")
        check_equal(thief.get("/alive").text, "False", "is_alive of a session that has ended")

    @_served()
    def test_functions_know_no_request_when_it_is_over(self, served: Served) -> None:
        browser = served.visitor()
        for path in ("/read", "/data/none", "/nowhere", "/stream" if self.has_streams else "/read"):
            browser.get(path)
        browser.post("/exception")
        check_equal(served.site.left_behind, 0, "requests that began where another was still said to be served")

    # ------------------------------------------------------------------------------------------------ CSRF

    @_served()
    def test_csrf_refuses_another_site_s_form(self, served: Served) -> None:
        browser = served.visitor()
        for path in ("/write?forged=yes", "/set/none?forged=yes", "/count"):
            answered = browser.post(path, page="cross-site")
            _check_refused(answered, "csrf_site", f"another site's POST to {path}")
        for method in ("PUT", "PATCH"):
            answered = browser.ask(method, "/change?forged=yes", page="cross-site")
            _check_refused(answered, "csrf_site", f"another site's {method}")
            check_equal(browser.ask(method, "/change?kept=yes").status, 200, f"an own {method}")
        override = browser.post("/write?forged=yes", page="cross-site", X_HTTP_Method_Override="GET")
        check_equal(override.status, 403, "another site's POST that says it is a GET")
        check_equal(_data(browser.get("/read")), {"kept": "yes"}, "the session after another site's requests")

    @_served()
    def test_csrf_refuses_a_form_of_nobody_knows_where_without_a_token(self, served: Served) -> None:
        browser = served.visitor()
        answered = browser.post("/write?bare=yes", page=None)
        check_equal(answered.status, 403, "a POST with the cookie, of a client that says nothing, without a token")
        check_equal(_data(browser.get("/read")), {"kept": "yes"}, "the session after it")

    @_served()
    def test_csrf_takes_a_token_from_header_form_multipart_and_json(self, served: Served) -> None:
        browser = served.visitor()
        token = browser.get("/token").text
        check_equal(browser.post("/write?a=1", page=None, X_CSRF_Token=token).status, 200, "a token in the header")
        check_equal(browser.post("/write?b=1", {"csrf_token": token}, page=None).status, 200, "a token in the form")
        body, kind = _multipart({"csrf_token": token})
        check_equal(browser.ask("POST", "/write?c=1", body, kind, page=None).status, 200, "a token in a multipart form")
        body = json.dumps({"csrf_token": token}).encode()
        answered = browser.ask("POST", "/write?d=1", body, "application/json", page=None)
        check_equal(answered.status, 200, "a token in JSON")
        want = {"kept": "yes", **dict.fromkeys("abcd", "1")}
        check_equal(_data(browser.get("/read")), want, "the session after four writes with a token")
        wrong = token[:-1] + ("A" if token[-1] != "A" else "B")
        check_equal(browser.post("/write?e=1", page=None, X_CSRF_Token=wrong).status, 403, "another token")

    @_served()
    def test_csrf_leaves_the_body_whole(self, served: Served) -> None:
        browser = served.visitor()
        token = browser.get("/token").text
        fields = {"csrf_token": token, "word": "grün", "more": "x" * 5000}
        answered = browser.post("/form?sent=1", fields, page=None)
        check_equal(_data(answered), fields, "the form that the view gets, after the token was found in it")
        body, kind = _multipart(fields)
        answered = browser.ask("POST", "/form?sent=1", body, kind, page=None)
        check_equal(_data(answered), fields, "the multipart form that the view gets")
        body = json.dumps({"csrf_token": token, "more": "y" * 100_000}).encode()
        answered = browser.ask("POST", "/body", body, "application/json", page=None)
        check_equal(answered.body, body, "the bytes that the view reads")
        body = json.dumps({"csrf_token": token, "more": "z" * 3_000_000}).encode()
        answered = browser.ask("POST", "/body", body, "application/json", page=None, headers={"X-CSRF-Token": token})
        check_equal(answered.body, body, "the bytes of a large body")

    @_served("knows_endpoints")
    def test_csrf_lets_an_exempt_view_be_called_by_others(self, served: Served) -> None:
        browser = served.visitor()
        for path in ("/exempt", "/inner/exempt"):
            answered = browser.post(f"{path}?hook=called", page="cross-site")
            check_equal(answered.status, 200, f"another site's POST to {path}")
            answered = browser.post(f"{path}/?hook=called", page="cross-site")
            # Frameworks that serve it by the same view exempt it too.
            check(answered.status // 100 in (3, 4) or answered.text == "written", f"{path}/: {answered.status}")
        check_equal(_data(browser.get("/read")), {"kept": "yes", "hook": "called"}, "what the exempt view wrote")

    @_served("knows_endpoints")
    def test_csrf_asks_a_token_where_a_view_is_strict(self, served: Served) -> None:
        for browser in (served.visitor(), served.browser()):
            check_equal(browser.post("/strict?a=1").status, 403, "an own POST to a strict view, without a token")
        browser = served.visitor()
        token = browser.get("/token").text
        check_equal(browser.post("/strict?a=1", X_CSRF_Token=token).status, 200, "a POST to it with a token")
        check_equal(browser.get("/every?b=1").status, 403, "a GET of a view that asks for a token at every method")
        check_equal(browser.get("/every?b=1", X_CSRF_Token=token).status, 200, "a GET of it with a token")

    @_served("knows_endpoints")
    def test_csrf_asks_a_token_of_its_own_where_a_view_is_scoped(self, served: Served) -> None:
        browser = served.visitor()
        wide, own = browser.get("/token").text, browser.get("/token?for=/scoped").text
        check_equal(browser.post("/scoped?a=1", X_CSRF_Token=wide).status, 403, "the session's token, where scoped")
        check_equal(browser.post("/strict?a=1", X_CSRF_Token=own).status, 403, "another view's token")
        check_equal(browser.post("/scoped?a=1", X_CSRF_Token=own).status, 200, "a scoped view's own token")

    @_served()
    def test_csrf_checks_paths_without_a_view(self, served: Served) -> None:
        browser = served.visitor()
        answered = browser.post("/nowhere", page="cross-site")
        check(answered.status in (403, 404, 405), f"another site's POST to no view: {answered.status}")
        check_equal(_data(browser.get("/read")), {"kept": "yes"}, "the session after it")

    @_served()
    def test_csrf_lets_safe_methods_pass_and_no_forged_head(self, served: Served) -> None:
        browser = served.visitor()
        check_equal(browser.get("/read", page="cross-site").status, 200, "a link from another site")
        answered = browser.ask("HEAD", "/read")
        check(answered.status in (200, 405), f"an own HEAD: {answered.status}")
        check_equal(answered.body, b"", "the body of a HEAD")
        answered = browser.ask("HEAD", "/write?forged=yes", page="cross-site")
        check(answered.status in (403, 405), f"another site's HEAD: {answered.status}")
        check_equal(_data(browser.get("/read")), {"kept": "yes"}, "the session after another site's HEAD")

    @_served("knows_endpoints")
    def test_csrf_founds_no_session_for_another_site(self, served: Served) -> None:
        # The browser withheld its cookie: a session founded now would take the place of the one that it has.
        browser = served.browser()
        answered = browser.post("/exempt?a=1", page="cross-site")
        check_equal(answered.status, 403, "a write of another site's, whose cookie was withheld")
        check_equal(browser.cookies, {}, "the cookies after it")

    # ------------------------------------------------------------------------------------------------ templates

    @_served("has_templates")
    def test_template_bears_a_token_that_is_good(self, served: Served) -> None:
        for browser in (served.visitor(), served.browser()):
            answered = browser.get("/form")
            check_equal(answered.status, 200, "a page with a form")
            check({"private", "no-store"} <= answered.listed("cache-control"), "a page with a token may be cached")
            field = _HIDDEN.search(answered.text)
            check(field, f"no hidden input: {answered.text[:200]}")
            sent = browser.post("/write?form=sent", {field[1]: field[2]} if field else {}, page=None)
            check_equal(sent.status, 200, "a form with the token of its template")
            check_equal(_data(browser.get("/read"))["form"], "sent", "what the form wrote")

    # ------------------------------------------------------------------------------------------------ WebSockets

    @_served("has_websockets")
    def test_websocket_of_an_own_page_has_the_session(self, served: Served) -> None:
        with served.visitor().open_socket("/socket") as socket:
            check_equal(socket.status, 101, "the handshake of an own page")
            check_equal(socket.receive(), '{"kept": "yes"}', "what a WebSocket finds in the session")

    @_served("has_websockets")
    def test_websocket_writes_to_the_session(self, served: Served) -> None:
        browser = served.visitor()
        with browser.open_socket("/socket") as socket:
            socket.receive()
        want = {"kept": "yes", "greeted": True}
        check_equal(self._eventually(lambda: _data(browser.get("/read")), want), want, "what a WebSocket wrote")

    @_served("has_websockets")
    def test_websocket_of_another_site_or_of_none_is_turned_away(self, served: Served) -> None:
        browser = served.visitor()
        for origin in ("http://evil.example", None):
            with browser.open_socket("/socket", origin=origin) as socket:
                check_equal(socket.status, 403, f"the handshake of the origin {origin}")

    @_served("has_websockets", "watches")
    def test_websocket_is_closed_when_its_session_ends(self, served: Served) -> None:
        browser = served.visitor()
        with browser.open_socket("/socket") as socket:
            check_equal(socket.receive(), '{"kept": "yes"}', "what a WebSocket finds in the session")
            browser.post("/destroy")
            check_equal(socket.receive(), 1008, "the code with which the socket of an ended session is closed")

    # ------------------------------------------------------------------------------------------------ streams

    @_served("has_streams")
    def test_stream_writes_to_the_session(self, served: Served) -> None:
        browser = served.visitor()
        answered = browser.get("/stream")
        check_equal((answered.status, answered.body, answered.is_cut), (200, b"xxx", False), "a stream")
        check("cookie" in answered.listed("vary"), "a stream has no Vary: Cookie")
        written = {"begun": True, "sent": [0, 1, 2], "last": 2, "function": "too"}
        want = {"kept": "yes", **written}
        check_equal(self._eventually(lambda: _data(browser.get("/read")), want), want, "what a stream wrote")
        answered = browser.get("/stream/token")
        check_equal(_data(answered), want, "what a function reads in a stream")
        check("cookie" in answered.listed("vary"), "a stream in which a function reads has no Vary: Cookie")
        stranger = served.browser()
        stranger.get("/stream")
        got = self._eventually(lambda: _data(stranger.get("/read")), written)
        check_equal(got, written, "what a stranger's stream wrote")

    @_served("has_streams")
    def test_stream_whose_client_hangs_up_leaves_the_site_well(self, served: Served) -> None:
        browser = served.visitor()
        for _ in range(3):
            browser.hang_up_on("/stream/endless")
        check_equal(_data(browser.get("/read"))["kept"], "yes", "the session after its client hung up on streams")
        browser.post("/write?after=1")
        check_equal(_data(browser.get("/read"))["after"], "1", "a write after it")

    @_served("has_streams")
    def test_stream_whose_store_fails_is_no_whole_answer(self, served: Served) -> None:
        browser = served.visitor()
        served.site.store.is_down = True
        answered = browser.get("/stream/token")
        served.site.store.is_down = False
        check(answered.status >= 500 or answered.is_cut or not answered.body, "a stream without its store was whole")
        check_equal(_data(browser.get("/read")), {"kept": "yes"}, "the session after it")

    @_served("has_streams")
    def test_stream_that_cannot_be_stored_before_it_starts_is_503(self, served: Served) -> None:
        for browser in (served.visitor(), served.browser()):
            before = {**browser.cookies}
            self._check_unavailable(browser.get("/stream/lost"), "/stream/lost")
            served.site.store.is_down = False
            check_equal(browser.cookies, before, "the cookies after a stream that could not be stored")

    # ------------------------------------------------------------------------------------------------ errors

    @_served()
    def test_errors_of_a_view_leave_no_session_without_its_cookie(self, served: Served) -> None:
        browser = served.browser()
        answered = browser.post("/exception?a=1")
        check_equal(answered.status, 500, "a view that raises")
        if browser.cookies:
            check_equal(_data(browser.get("/read")), {"a": "1"}, "what a view wrote that raised, with a cookie set")
        other = served.visitor()
        other.post("/exception?a=1")
        check_equal(_data(other.get("/read"))["kept"], "yes", "a session after a view that raised")

    @_served()
    def test_errors_that_a_view_raises_bear_the_cookie(self, served: Served) -> None:
        browser = served.browser()
        answered = browser.post("/failed?a=1")
        check_equal(answered.status, 409, "a view that raises an error of the framework's")
        if self.saves_errors:
            check_equal(_data(browser.get("/read")), {"a": "1"}, "what it wrote")
        else:
            check_equal(browser.cookies, {}, "the cookies after an error with which nothing is saved")

    @_served()
    def test_errors_without_a_view_are_the_framework_s_own(self, served: Served) -> None:
        for browser in (served.browser(), served.visitor()):
            answered = browser.get("/nowhere")
            check_equal((answered.status, answered.all("set-cookie")), (404, []), "a path without a view")

    @_served()
    def test_errors_that_redirect_bear_the_cookie(self, served: Served) -> None:
        browser = served.browser()
        answered = browser.post("/redirected?a=1")
        check(answered.status in (302, 303), f"a redirect: {answered.status}")
        check_equal(_data(browser.get("/read")), {"a": "1"}, "what a view wrote that redirected")

    @_served()
    def test_errors_of_the_store_are_503(self, served: Served) -> None:
        browser = served.visitor()
        for path in ("/read", "/data/none", "/data/request", "/token"):
            served.site.store.is_down = True
            self._check_unavailable(browser.get(path), path)
        for path in ("/write?a=1", "/set/none?a=1", "/append?item=a", "/log-in?user=ada", "/destroy"):
            for one in (browser, served.browser()):
                if path == "/destroy" and one is not browser:
                    continue
                before = {**one.cookies}
                served.site.store.is_down = True
                self._check_unavailable(one.post(path), path)
                check_equal(one.cookies, before, f"the cookies after {path} without a store")
        served.site.store.is_down = False
        check_equal(_data(browser.get("/read")), {"kept": "yes"}, "the session when its store is back")
        if self.has_own_pages and self.knows_endpoints:
            answered = browser.post("/write?a=1", page="cross-site")
            check(answered.text.startswith("own page"), f"a 403 is not the application's page: {answered.text[:100]}")

    @_served()
    def test_errors_of_a_renewal_that_nobody_answered_bear_its_cookie(self, served: Served) -> None:
        browser = served.visitor()
        (cookie,) = browser.cookies.values()
        # Of this one: what was served before may write yet.
        served.site.store.loses_answer = cookie[:24]
        self._check_unavailable(browser.post("/user?user=ada"), "/user")
        check_equal(_data(browser.get("/read")), {"kept": "yes", "user": "ada"}, "the session that was renewed")

    def _check_unavailable(self, answered: Answered, path: str) -> None:
        check_equal(answered.status, 503, f"{path} while the store is down")
        check("no-store" in answered.listed("cache-control"), f"the 503 of {path} may be cached")
        if self.has_own_pages:
            check(answered.text.startswith("own page"), f"the 503 of {path} is not its own page: {answered.text[:100]}")

    @_served()
    def test_errors_of_two_cookies_with_one_name_are_told(self, served: Served) -> None:
        browser = served.visitor()
        (name,) = browser.cookies
        with _Told() as told:
            answered = browser.get(f"/foreign-cookie?name={name}")
        check(answered.all("set-cookie")[0].startswith(f"{name}=another;"), "a cookie of the application's own is lost")
        served.rival_told = served.rival_told or f"sets a cookie that is named {name} too" in told.text
        check(served.rival_told, "nothing was logged of another cookie of the session's name")

    # ------------------------------------------------------------------------------------------------ applications

    @_served()
    def test_applications_within_one_share_its_session(self, served: Served) -> None:
        browser = served.visitor()
        check_equal(_data(browser.get("/inner/read")), {"kept": "yes"}, "the session in a sub-application")
        browser.post("/inner/write?inner=1")
        check_equal(_data(browser.get("/read")), {"kept": "yes", "inner": "1"}, "what a sub-application wrote")
        answered = browser.post("/inner/write?forged=1", page="cross-site")
        check_equal(answered.status, 403, "another site's POST to a sub-application")

    @_served("can_be_several")
    def test_applications_side_by_side_keep_apart(self, served: Served) -> None:
        with ExitStack() as stack:
            site = Site.over(open_store("memory:"), blocks=self.blocks)
            port = stack.enter_context(self.serve(self.make_app(site)))
            browser = served.visitor()
            other = Browser(port, {**browser.cookies})
            check_equal(_data(other.get("/read")), {}, "another application's session, by this one's cookie")
            other.post("/write?other=1")
            check_equal(_data(browser.get("/read")), {"kept": "yes"}, "the session of the first application")

    # ------------------------------------------------------------------------------------------------ test client

    @_served("has_client")
    def test_client_of_the_framework_keeps_the_session(self, served: Served) -> None:
        own = {"Sec-Fetch-Site": "same-origin"}
        with self.client(self.make_app(Site.over(open_store("memory:"), blocks=self.blocks))) as ask:
            check_equal(ask("POST", "/write?a=1", own), (200, "written"), "a write by the framework's test client")
            check_equal(ask("GET", "/read", {}), (200, '{"a": "1"}'), "a read by it")
            check_equal(ask("POST", "/write?b=1", {})[0], 403, "a POST by it that says nothing of its page")


class _Told(logging.Handler):
    """What this library logs meanwhile."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.text = ""

    def emit(self, record: logging.LogRecord) -> None:
        self.text += record.getMessage() + "\n"

    def __enter__(self) -> Self:
        logging.getLogger("server_session").addHandler(self)
        return self

    def __exit__(self, *_: object) -> None:
        logging.getLogger("server_session").removeHandler(self)


def _data(answered: Answered) -> Any:
    try:
        return json.loads(answered.body)
    except ValueError:
        raise AssertionError(f"a page was answered with {answered.status}: {answered.text[:300]}") from None


def _check_refused(answered: Answered, code: str, what: str) -> None:
    check_equal(answered.status, 403, what)
    check_equal(answered.all("csrf-rejection"), [code], f"CSRF-Rejection of {what}")
    check("no-store" in answered.listed("cache-control"), f"the answer to {what} may be cached")
    check({"origin", "sec-fetch-site"} <= answered.listed("vary"), f"the answer to {what} has no Vary of its cause")


def _at_once(ask: Callable[[int], Answered], count: int = AT_ONCE) -> list[Answered]:
    with ThreadPoolExecutor(count) as pool:
        answers = list(pool.map(ask, range(count)))
    check_equal({answered.status for answered in answers}, {200}, f"the answers to {count} overlapping requests")
    return answers


def _multipart(fields: dict[str, str]) -> tuple[bytes, str]:
    boundary = "----WebKitFormBoundary7MA4YWxkTrZu0gW"
    lines: list[str] = []
    for name, value in fields.items():
        lines += [f"--{boundary}", f'Content-Disposition: form-data; name="{name}"', "", value]
    lines += [f"--{boundary}--", ""]
    return "\r\n".join(lines).encode(), f"multipart/form-data; boundary={boundary}"

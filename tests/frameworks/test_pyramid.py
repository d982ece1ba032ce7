"""The adapter for Pyramid keeps the contract of adapters."""

import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from importlib import import_module
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pyramid_jinja2
import pytest
from jinja2 import DictLoader
from pyramid import testing
from pyramid.authentication import SessionAuthenticationHelper
from pyramid.config import Configurator
from pyramid.csrf import check_csrf_token, get_csrf_token
from pyramid.exceptions import BadCSRFToken
from pyramid.httpexceptions import (
    HTTPException,
    HTTPForbidden,
    HTTPFound,
    HTTPNotFound,
    HTTPSeeOther,
    HTTPServiceUnavailable,
    exception_response,
)
from pyramid.i18n import TranslationString
from pyramid.interfaces import ICSRFStoragePolicy, ISession
from pyramid.renderers import render, render_to_response
from pyramid.response import Response
from pyramid_jinja2 import add_jinja2_renderer, get_jinja2_environment
from webtest import TestApp
from zope.interface.verify import verifyObject

from server_session import CSRF, MemorySessionStore, sync
from server_session.exceptions import CarrierError, ConfigurationError, StoreError
from server_session.pyramid import CsrfRejected, csrf_exempt, csrf_protect
from server_session.testing import AdapterContract, Encoded, Failed, Headed, Here, Page, Redirected, Site, Streamed
from server_session.testing._site import FailingStore
from tests.documents import code_of
from tests.frameworks.serving import BLOCKING, OverRedis, asked_by_webtest, waitress_serves

DOCUMENT = Path(__file__).parents[2] / "docs" / "frameworks" / "pyramid.md"


def view_of(page: Page) -> Any:
    def view(request: Any) -> Response:
        response = request.response
        response.content_type = "text/plain"
        here = Here(
            lambda: request.session,
            request,
            request.GET,
            lambda: dict(request.POST),
            request.body_file.read,
            response,
            lambda: render("form.jinja2", {}, request),
        )
        match page.run(here):
            case Redirected(path):
                raise HTTPSeeOther(path)
            case Failed(status):
                raise exception_response(status)
            case Streamed(chunks):
                response.app_iter = chunks
            case Encoded(value):
                return render_to_response("json", value, request)
            case Headed(text, headers):
                response.text = text
                response.headerlist.extend(headers)
            case text:
                response.text = text
        return response

    return page.mark(view)


def own_page(error: HTTPException, request: Any) -> Response:
    return Response(f"own page of {error.code}", error.code)


class TestPyramid(OverRedis, AdapterContract):
    blocks = True
    stores = BLOCKING
    # Pyramid serves none.
    has_websockets = False

    def make_app(self, site: Site) -> Any:
        config = Configurator(settings={"server_session.sessions": site.sessions})
        config.include("server_session.pyramid")
        # Its includeme looks for templates beside this module, which is in no package.
        add_jinja2_renderer(config, ".jinja2", package=pyramid_jinja2)
        config.commit()
        templates = get_jinja2_environment(config, ".jinja2")
        templates.loader = DictLoader({"form.jinja2": "<form>{{ csrf_input() }}</form>"})

        def add_pages(config: Configurator, is_inner: bool) -> None:
            for page in site.pages:
                if page.is_inner == is_inner:
                    config.add_route(page.name, page.path.removeprefix("/inner"), request_method=tuple(page.methods))
                    config.add_view(view_of(page), route_name=page.name)

        add_pages(config, False)
        config.include(lambda config: add_pages(config, True), route_prefix="/inner")
        for error in (HTTPForbidden, HTTPServiceUnavailable):
            config.add_exception_view(own_page, context=error)
        return config.make_wsgi_app()

    def serve(self, app: Any) -> AbstractContextManager[int]:
        return waitress_serves(app)

    def client(self, app: Any) -> AbstractContextManager[Any]:
        return asked_by_webtest(app)


# --- what is Pyramid's own


class Shop:
    """An application, whose views are added by name, and a visitor who has a session in it."""

    def __init__(self, **settings: Any) -> None:
        self.store = FailingStore(MemorySessionStore())
        given = {"session_store": self.store, **settings}
        self.config = Configurator(settings={f"server_session.{name}": value for name, value in given.items()})
        self.config.include("server_session.pyramid")
        self.add("write", lambda request: request.session.update(kept="yes"))
        self.add("read", lambda request: request.session, renderer="json")
        self.add("token", get_csrf_token)

    def add(self, name: str, view: Any, renderer: str = "string", **options: Any) -> None:
        self.config.add_view(view, name=name, renderer=renderer, **options)

    def open(self) -> "Shop":
        self.client = TestApp(self.config.make_wsgi_app())
        assert self.post("/write").status_int == 200
        return self

    def get(self, path: str, **headers: str) -> Any:
        return self.client.get(path, headers=headers, expect_errors=True)

    def post(self, path: str, site: str = "", form: Any = (), **headers: str) -> Any:
        headers = {**headers, **({"Sec-Fetch-Site": site} if site else {})}
        return self.client.post(path, urlencode(dict(form)), headers=headers, expect_errors=True)

    @property
    def data(self) -> dict[str, Any]:
        data: dict[str, Any] = self.get("/read").json
        return data


def test_require_csrf_exempts_where_it_is_false_and_nowhere_else() -> None:
    shop = Shop()
    for required in (None, False, True):
        shop.add(f"required-{required}", lambda _: "called", require_csrf=required)
    shop.add("unsaid", lambda _: "called")
    shop.open()
    assert shop.post("/required-False", "cross-site").text == "called"
    for path in ("/required-None", "/required-True", "/unsaid"):
        assert shop.post(path, "cross-site").status_int == 403


@pytest.mark.parametrize("kept", [Response("kept"), HTTPFound("/")])
def test_a_response_that_the_application_keeps_is_another_for_each_visitor(kept: Any) -> None:
    shop = Shop()

    def write(request: Any) -> Any:
        request.session["a"] = 1
        return kept

    shop.config.add_view(write, name="write-and-answer")
    shop.config.add_view(lambda _: kept, name="answer")
    shop.open()
    assert "Set-Cookie" in TestApp(shop.client.app).post("/write-and-answer").headers
    assert TestApp(shop.client.app).get("/answer").headers.getall("Set-Cookie") == []


@pytest.mark.parametrize("single_use", [False, True])
def test_pyramid_s_own_check_takes_the_same_token_and_two_do_not_fight(single_use: bool) -> None:
    shop = Shop(csrf=CSRF(single_use=single_use))
    shop.config.set_default_csrf_options(require_csrf=True)
    shop.add("form", lambda request: str(check_csrf_token(request)))
    shop.add("scoped", csrf_protect(scoped=True, strict=True)(lambda _: "scoped"))
    shop.add("scoped-token", lambda _: shop.config.registry.server_session.sync.get_csrf_token(scope=SCOPE))
    shop.add("hook", csrf_exempt(lambda _: "called"), require_csrf=False)
    shop.client = TestApp(shop.config.make_wsgi_app())
    token = shop.get("/token").text
    assert shop.post("/form", "same-origin", {"csrf_token": token}).text == "True"
    assert shop.post("/form", "same-origin").status_int == (403 if single_use else 400)
    assert shop.post("/form", "cross-site", {"csrf_token": shop.get("/token").text}).status_int == 403
    assert shop.post("/scoped", "same-origin", {"csrf_token": shop.get("/scoped-token").text}).text == "scoped"
    assert shop.post("/hook", "cross-site").text == "called"


SCOPE = ("POST", "/scoped")


def test_a_view_is_checked_as_the_one_that_pyramid_chose() -> None:
    # One path, and the view that serves it is chosen by a predicate and a method of a class.
    shop = Shop()

    class Views:
        def __init__(self, request: Any) -> None:
            pass

        @csrf_exempt
        def post(self) -> str:
            return "hook"

        def save(self) -> str:
            return "saved"

    shop.add("both", Views, attr="post", request_param="hook")
    shop.add("both", Views, attr="save")
    shop.open()
    assert shop.post("/both?hook=1", "cross-site").text == "hook"
    assert shop.post("/both", "cross-site").status_int == 403
    assert shop.post("/both", "same-origin").text == "saved"


def test_a_predicate_that_reads_the_form_leaves_its_token_to_be_found() -> None:
    shop = Shop()
    shop.add("form", lambda request: request.POST["name"], request_param="name")
    token = shop.open().get("/token").text
    assert shop.post("/form", form={"name": "Ada", "csrf_token": token}).text == "Ada"
    assert shop.post("/form", form={"name": "Ada"}).status_int == 403


def test_a_request_that_no_view_was_found_for_is_checked_before_the_application_s_page() -> None:
    shop = Shop()

    @shop.config.add_notfound_view
    def missing(request: Any) -> Response:
        request.session["missed"] = request.path
        return Response("nothing here", 404)

    shop.config.add_exception_view(own_page, context=BadCSRFToken)
    answered = shop.open().post("/nowhere", "cross-site")
    assert (answered.status_int, answered.text) == (403, "own page of 403")
    assert shop.data == {"kept": "yes"}
    assert shop.get("/nowhere").status_int == 404
    assert shop.data == {"kept": "yes", "missed": "/nowhere"}


def test_a_refusal_is_the_application_s_page_of_a_bad_token_or_else_of_what_is_forbidden() -> None:
    def page(error: CsrfRejected) -> Response:
        return Response(error.rejection.code, 403)

    for contexts in ((), (HTTPForbidden,), (HTTPForbidden, BadCSRFToken), (CsrfRejected, HTTPForbidden)):
        shop = Shop()
        for context in contexts:
            view = own_page if context is HTTPForbidden and len(contexts) > 1 else lambda error, _: page(error)
            shop.config.add_exception_view(view, context=context)
        answered = shop.open().post("/write", "cross-site", Accept="text/html")
        assert (answered.status_int, answered.headers["CSRF-Rejection"]) == (403, "csrf_site")
        assert answered.text == "csrf_site" if contexts else "<h1>Forbidden</h1>" in answered.text
    assert shop.post("/write", "cross-site", Accept="application/json").status_int == 403


def test_a_page_of_a_refusal_may_flash_and_redirect() -> None:
    shop = Shop()

    def again(error: CsrfRejected, request: Any) -> HTTPSeeOther:
        request.session.flash("please send it again")
        return HTTPSeeOther("/read")

    shop.config.add_exception_view(again, context=CsrfRejected)
    assert shop.open().post("/write", "cross-site").status_int == 303
    assert shop.data == {"kept": "yes", "_f_": ["please send it again"]}


def test_the_session_is_what_its_interface_asks() -> None:
    shop, seen = Shop(), {}

    def look(request: Any) -> str:
        session = request.session
        seen.update(session=session, policy=request.registry.getUtility(ICSRFStoragePolicy))
        return f"{session.new} {session.created}"

    def flash(request: Any) -> str:
        flash = request.session.flash
        flash("once", allow_duplicate=False)
        flash("once", allow_duplicate=False)
        flash(TranslationString("Saved ${what}", mapping={"what": "tea"}), "later")
        return f"{request.session.peek_flash()} {request.session.pop_flash('later')} {request.session.pop_flash()}"

    def invalidate(request: Any) -> None:
        request.session.invalidate()
        request.session["after"] = "new"

    shop.add("look", look)
    shop.add("flash", flash)
    shop.add("invalidate", invalidate)
    shop.add("tokens", lambda request: request.session.new_csrf_token())
    shop.open()
    new, created = shop.get("/look").text.split()
    assert (new, 0 <= time.time() - int(created) < 60) == ("False", True)
    assert verifyObject(ISession, seen["session"])
    assert verifyObject(ICSRFStoragePolicy, seen["policy"])
    seen["session"].changed()
    assert shop.get("/flash").text == "['once'] ['Saved tea'] ['once']"
    assert shop.post("/write", form={"csrf_token": shop.get("/tokens").text}).status_int == 200
    before = {**shop.client.cookies}
    shop.get("/invalidate")
    assert shop.client.cookies != before
    assert shop.data == {"after": "new"}
    shop.client.reset()
    assert shop.get("/look").text.startswith("True")


@pytest.mark.parametrize("name", ["new", "created"])
def test_a_page_that_tells_whether_or_since_when_there_is_a_session_varies_on_the_cookie(name: str) -> None:
    shop = Shop()
    shop.add("look", lambda request: str(getattr(request.session, name)))
    assert shop.open().get("/look").headers["Vary"] == "Cookie"


def test_a_log_in_by_pyramid_s_own_helper_renews_the_cookie_and_keeps_the_data() -> None:
    shop, helper = Shop(), SessionAuthenticationHelper()
    shop.add("enter", lambda request: helper.remember(request, "ada"))
    shop.add("who", helper.authenticated_userid)
    before = {**shop.open().client.cookies}
    shop.get("/enter")
    assert shop.client.cookies != before
    assert shop.get("/who").text == "ada"
    assert shop.data == {"kept": "yes", "auth.userid": "ada"}


def test_callbacks_of_the_response_come_before_the_session_is_stored() -> None:
    shop = Shop()

    def view(request: Any) -> str:
        request.add_response_callback(lambda request, _: request.session.update(late="too"))
        return "view"

    shop.add("late", view)
    shop.open()
    shop.client.reset()
    assert shop.get("/late").headers["Vary"] == "Cookie"
    assert shop.data == {"late": "too"}


@pytest.mark.parametrize("use_tweens", [False, True])
def test_a_subrequest_has_the_session_whose_cookie_it_bears_and_is_stored(use_tweens: bool) -> None:
    shop = Shop()
    shop.add("write-inner", lambda request: request.session.update(inner=str(sync.get_session_data(request)["kept"])))

    def outer(request: Any) -> str:
        inner = request.copy_get() if request.params.get("copy") else request.blank("/", headers=request.headers)
        inner.path_info = "/write-inner"
        request.invoke_subrequest(inner, use_tweens=use_tweens)
        request.session["outer"] = "yes"
        return "outer"

    sessions = shop.config.registry.server_session
    shop.add("outer", outer)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("server_session._sessions._configured", sessions)
        shop.open()
        for query in ("", "?copy=1"):
            assert shop.get("/outer" + query).text == "outer"
            assert shop.data == {"kept": "yes", "inner": "yes", "outer": "yes"}


def test_functions_in_a_test_without_a_request_of_pyramid_s_say_what_is_missing() -> None:
    with (
        testing.testConfig(request=testing.DummyRequest()),
        pytest.raises(CarrierError, match="no request is being served"),
    ):
        sync.get_session_data()


@pytest.mark.parametrize("where", ["view", "commit", "error", "error page"])
def test_a_store_that_is_down_is_503_on_the_application_s_page(where: str) -> None:
    shop = Shop()

    def fails(request: Any) -> str:
        if where == "error page":
            raise HTTPNotFound
        request.session["a"] = 1
        if where != "view":
            shop.store.is_down = True
        if where == "error":
            raise HTTPSeeOther("/read")
        return "written"

    shop.add("fails", fails)
    shop.config.add_notfound_view(lambda request: Response(str(request.session.get("kept"))))
    shop.config.add_exception_view(own_page, context=HTTPServiceUnavailable)
    shop.open().store.is_down = where in ("view", "error page")
    answered = shop.get("/fails")
    assert (answered.status_int, answered.text) == (503, "own page of 503")
    assert "no-store" in answered.headers["Cache-Control"]
    shop.store.is_down = False
    assert shop.data == {"kept": "yes"}


class Held(list[bytes]):
    """A body that notes that it was closed."""

    closed = 0

    def close(self) -> None:
        self.closed += 1


def test_a_body_that_gives_way_to_a_refusal_is_closed() -> None:
    shop, held = Shop(), Held([b"piece"])

    def fails(request: Any) -> Response:
        request.session["a"] = 1
        shop.store.is_down = True
        return Response(app_iter=held)

    shop.add("fails", fails)
    assert shop.open().get("/fails").status_int == 503
    assert held.closed == 1


def test_an_application_s_view_of_the_store_s_error_takes_the_place_of_ours() -> None:
    shop = Shop()
    shop.config.add_exception_view(lambda _: Response("my own", 503), context=StoreError)
    shop.open().store.is_down = True
    assert shop.get("/read").text == "my own"


def test_each_attempt_of_a_request_begins_anew() -> None:
    shop, attempts = Shop(), []

    def view(request: Any) -> str:
        attempts.append({**request.session})
        request.session["attempt"] = len(attempts)
        if len(attempts) == 1:
            raise TimeoutError
        return "done"

    def try_again(environ: Any, router: Any) -> Any:
        try:
            with router.request_context(environ) as request:
                return router.invoke_request(request)
        except TimeoutError:
            with router.request_context(environ) as request:
                return router.invoke_request(request)

    shop.add("view", view)
    shop.config.set_execution_policy(try_again)
    assert shop.open().get("/view").text == "done"
    assert attempts == [{"kept": "yes"}, {"kept": "yes"}]
    assert shop.data == {"kept": "yes", "attempt": 2}


def test_settings_are_read_as_an_ini_file_has_them() -> None:
    shop = Shop(session_store="memory:", max_age="600", absolute_max_age="null", renew_on='["who"]', origin="https://a")
    sessions = shop.config.registry.server_session
    assert (sessions.policy.idle, sessions.policy.absolute, sessions.policy.renew_on) == (600, None, {"who"})
    assert sessions.origins == ("https://a",)
    with pytest.raises(ConfigurationError, match="max_bytes"):
        Shop(max_bytes="many")
    with pytest.raises(ConfigurationError, match="no option 'timeout'"):
        Shop(timeout="1")


def test_a_stream_that_pyramid_sends_writes_to_the_session_and_a_file_is_left_to_the_server() -> None:
    shop = Shop()

    def stream(request: Any) -> Response:
        def chunks() -> Iterator[bytes]:
            yield b"x"
            request.session["streamed"] = True

        return Response(app_iter=chunks())

    shop.add("stream", stream)
    shop.config.add_static_view("files", str(Path(__file__).parent))
    shop.open()
    assert shop.get("/stream").headers["Vary"] == "Cookie"
    assert shop.data == {"kept": "yes", "streamed": True}
    answered = shop.get(f"/files/{Path(__file__).name}")
    assert answered.status_int == 200
    assert "Vary" not in answered.headers


def test_the_application_of_the_documentation_runs_as_printed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text(code_of(DOCUMENT, "pyramid"))
    monkeypatch.syspath_prepend(tmp_path)
    shop = import_module("shop")
    (tmp_path / "home.jinja2").write_text(shop.PAGE)
    client = TestApp(shop.main({}))
    before = client.get("/").forms[0]
    cookie = {**client.cookies}
    before["user"] = "Ada"
    page = before.submit().follow()
    assert "Hello Ada. Welcome." in page.text
    assert client.cookies != cookie
    assert "csrf_token_missing" in client.post("/log-out", status=403).text
    assert "Log in" in page.forms[0].submit().follow().text
    del sys.modules["shop"]

import asyncio
import io
import logging
import re
import threading
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import flask
import pytest
from flask import Blueprint, Flask, flash, render_template_string, stream_with_context
from flask.testing import FlaskClient
from flask.views import MethodView, View
from jinja2 import DictLoader
from werkzeug.exceptions import HTTPException
from werkzeug.middleware.dispatcher import DispatcherMiddleware
from werkzeug.test import Client, EnvironBuilder, TestResponse

import server_session
from server_session import CSRF, CookieTransport, Sessions, configure, sync
from server_session._colour import Colour
from server_session._signals import Signal
from server_session.exceptions import CookieWithheldError
from server_session.flask import CsrfRejected, ServerSession, csrf_exempt, csrf_protect
from server_session.http.carrier import current
from server_session.stores._base import Outcome
from server_session.wsgi import SessionMiddleware
from tests.patience import PATIENCE
from tests.visitors import Watched

OWN = {"Sec-Fetch-Site": "same-origin"}
FOREIGN = {"Sec-Fetch-Site": "cross-site", "Origin": "https://evil.example"}


@pytest.fixture
def store() -> Watched:
    return Watched()


def shop(store: Watched | None = None, csrf: CSRF | None = CSRF(), **settings: Any) -> Flask:  # noqa: B008
    """Return an application of one view that gives out a token, and keeps a session."""
    configure(session_store=store or Watched(), csrf=csrf, **settings)
    app = Flask("shop")
    app.testing = True
    ServerSession(app)
    app.add_url_rule("/token", view_func=give_token)
    app.add_url_rule("/page", view_func=show_page)
    return app


@pytest.fixture
def app(store: Watched) -> Flask:
    return shop(store)


def give_token() -> str:
    return sync.get_csrf_token()


def show_page() -> str:
    return render_template_string(**flask.request.args.to_dict())


def served() -> str:
    return "served"


def post(app: Flask, path: str = "/", view: Callable[..., Any] = served) -> None:
    app.add_url_rule(path, path, view, methods=["GET", "POST"])


def visitor(app: Flask) -> FlaskClient:
    """Return a client with a session's cookie, that sends no headers by which a browser would be known."""
    client = app.test_client()
    client.get("/token")
    return client


def code(response: TestResponse) -> str | None:
    """Return why the request was refused, or `None` where it was served."""
    rejection = response.headers.get("CSRF-Rejection")
    assert (rejection is not None) == (response.status_code == 403)
    return rejection


# --- what is guarded


def test_a_post_of_another_site_is_refused_and_one_of_the_own_is_served(app: Flask) -> None:
    post(app)
    client = visitor(app)
    assert code(client.post("/", headers=FOREIGN)) == "csrf_site"
    assert code(client.post("/", headers={"Sec-Fetch-Site": "same-site"})) == "csrf_site"
    assert client.post("/", headers=OWN).text == "served"
    assert client.get("/", headers=FOREIGN).text == "served"


def test_a_view_without_any_mark_is_guarded_whenever_it_was_added(app: Flask) -> None:
    page = Blueprint("page", __name__, url_prefix="/page")
    inner = Blueprint("inner", __name__, url_prefix="/inner")

    class Old(View):
        methods = ("POST",)

        def dispatch_request(self) -> str:
            raise AssertionError("another site's request was served")

    class Resource(MethodView):
        def put(self) -> str:
            raise AssertionError("another site's request was served")

    def never() -> str:
        raise AssertionError("another site's request was served")

    post(app, "/late", never)
    page.add_url_rule("/in", view_func=never, methods=["POST"])
    inner.add_url_rule("/in", view_func=never, methods=["POST"])
    page.register_blueprint(inner)
    app.register_blueprint(page)
    app.add_url_rule("/old", view_func=Old.as_view("old"))
    app.add_url_rule("/resource", view_func=Resource.as_view("resource"))
    app.add_url_rule("/dotted", "page.of.no.blueprint", never, methods=["POST"])
    client = visitor(app)
    for path in ("/late", "/page/in", "/page/inner/in", "/old", "/dotted"):
        assert code(client.post(path, headers=FOREIGN)) == "csrf_site", path
    assert code(client.put("/resource", headers=FOREIGN)) == "csrf_site"


@pytest.mark.parametrize("path, status", [("/gone", 404), ("/token", 405), ("/slash", 308), ("/static/x", 405)])
def test_a_request_that_no_view_would_serve_is_refused_as_well(app: Flask, path: str, status: int) -> None:
    app.static_folder = "static"
    post(app, "/slash/")
    client = visitor(app)
    assert code(client.post(path, headers=FOREIGN)) == "csrf_site"
    assert client.post(path, headers=OWN).status_code == status


def test_no_before_request_function_sees_what_is_refused(store: Watched) -> None:
    configure(session_store=store)
    app = Flask("shop")
    page = Blueprint("page", __name__)
    seen: list[str] = []
    app.before_request(lambda: seen.append("before the extension"))
    app.url_value_preprocessor(lambda *_: seen.append("before all views"))
    ServerSession(app)
    app.before_request(lambda: seen.append("after it"))
    page.before_request(lambda: seen.append("of the blueprint"))
    page.add_url_rule("/", view_func=served, methods=["POST"])
    app.register_blueprint(page)
    client = app.test_client()
    assert code(client.post("/", headers=FOREIGN)) == "csrf_site"
    assert seen == []
    client.post("/", headers=OWN)
    assert seen == ["before all views", "before the extension", "after it", "of the blueprint"]


def test_a_function_that_reads_the_form_before_all_views_leaves_it_its_token(app: Flask) -> None:
    @app.url_value_preprocessor
    def read_form(_endpoint: str | None, _arguments: object) -> None:
        flask.g.item = flask.request.form.get("item")

    post(app, "/", lambda: flask.g.item)
    client = app.test_client()
    assert client.post("/", data={"csrf_token": client.get("/token").text, "item": "1"}).text == "1"


def test_an_application_that_opens_a_session_of_another_kind_is_guarded_too(app: Flask) -> None:
    post(app)
    client = visitor(app)
    app.session_interface = flask.sessions.SecureCookieSessionInterface()
    assert client.post("/", headers=FOREIGN).status_code == 403
    assert client.post("/").status_code == 403
    assert client.post("/", headers=OWN).text == "served"


def test_several_extensions_of_one_application_check_once(app: Flask, store: Watched) -> None:
    ServerSession(app)
    post(app)
    client = app.test_client()
    token = client.get("/token").text
    store.calls.clear()
    assert client.post("/", headers={"X-CSRF-Token": token}).text == "served"
    assert store.calls == ["get"]


@pytest.mark.parametrize("debug, testing", [(True, False), (False, True), (False, False)])
def test_no_setting_of_flask_s_switches_the_check_off(app: Flask, *, debug: bool, testing: bool) -> None:
    app.debug, app.testing = debug, testing
    app.config["WTF_CSRF_ENABLED"] = False
    post(app)
    assert code(visitor(app).post("/", headers=FOREIGN)) == "csrf_site"
    assert code(visitor(app).post("/")) == "csrf_token_missing"


def test_the_test_client_can_be_a_browser_for_all_its_requests(app: Flask) -> None:
    post(app)
    client = visitor(app)
    client.environ_base["HTTP_SEC_FETCH_SITE"] = "same-origin"
    assert client.post("/").text == "served"


def test_without_a_policy_nothing_is_checked() -> None:
    app = shop(csrf=None)
    post(app)
    assert visitor(app).post("/", headers=FOREIGN).text == "served"


def test_a_policy_that_reports_serves_what_it_logs(caplog: pytest.LogCaptureFixture) -> None:
    signals: list[Signal] = []
    app = shop(csrf=CSRF("report"), on_signal=signals.append)
    post(app)
    assert visitor(app).post("/", headers=FOREIGN).text == "served"
    assert [signal.reason for signal in signals if signal.event == "csrf_rejected"] == ["csrf_site"]


def test_a_trusted_origin_may_post(store: Watched) -> None:
    app = shop(store, CSRF(trusted_origins=["https://pay.example"]), origin="https://shop.example")
    post(app)
    headers = {"Sec-Fetch-Site": "cross-site", "Origin": "https://pay.example"}
    assert app.test_client().post("/", headers=headers, base_url="https://shop.example").text == "served"


def test_a_post_without_cookie_and_headers_is_no_browser_s(app: Flask) -> None:
    post(app)
    assert app.test_client().post("/").text == "served"
    assert app.test_client().post("/", headers={"Authorization": "Basic YTpi"}).status_code == 403


def test_what_is_refused_is_logged_and_signalled_with_no_id_in_it(caplog: pytest.LogCaptureFixture) -> None:
    signals: list[Signal] = []
    app = shop(on_signal=signals.append)
    post(app)
    client = visitor(app)
    cookie = client.get_cookie("session")
    client.post("/", headers=FOREIGN)
    (signal,) = [signal for signal in signals if signal.event == "csrf_rejected"]
    assert (signal.reason, len(signal.session)) == ("csrf_site", 10)
    assert cookie is not None
    assert not any(cookie.value[:24] in record.getMessage() for record in caplog.records)
    assert "cross-site" in caplog.text


# --- the token, wherever it comes


def echo() -> dict[str, Any]:
    """Tell what the view sees of its request."""
    return {
        "form": flask.request.form.to_dict(flat=False),
        "files": {name: file.read().decode() for name, file in flask.request.files.items()},
        "json": flask.request.get_json(silent=True),
        "valid": sync.validate_csrf_token(TOKEN_OF[flask.request.args["by"]]() or ""),
    }


TOKEN_OF: dict[str, Callable[[], Any]] = {
    "form": lambda: flask.request.form.get("csrf_token"),
    "multipart": lambda: flask.request.form.get("csrf_token"),
    "json": lambda: flask.request.get_json()["csrf_token"],
    "header": lambda: flask.request.headers["X-CSRF-Token"],
}


def multipart(token: str) -> bytes:
    """Return a form with a file after the token, as browsers send it."""
    start = '------Form\r\nContent-Disposition: form-data; name="'
    fields = f'{start}csrf_token"\r\n\r\n{token}\r\n{start}item"\r\n\r\n1\r\n'
    file = f'{start}file"; filename="big.txt"\r\nContent-Type: text/plain\r\n\r\n{"x" * 3_000_000}\r\n'
    return f"{fields}{file}------Form--\r\n".encode()


def sent_by(kind: str, token: str) -> dict[str, Any]:
    """Return what a client sends that bears the token in this way."""
    return {
        "form": {"data": {"csrf_token": token, "item": ["1", "2"], "text": "é" * 1000}},
        "multipart": {"data": multipart(token), "content_type": "multipart/form-data; boundary=----Form"},
        "json": {"json": {"csrf_token": token, "item": [1]}},
        "header": {"headers": {"X-CSRF-Token": token}, "json": {"item": [1]}},
    }[kind]


def seen_by_the_view(kind: str, token: str) -> dict[str, Any]:
    nothing: dict[str, Any] = {"form": {}, "files": {}, "json": None, "valid": True}
    return (
        nothing
        | {
            "form": {"form": {"csrf_token": [token], "item": ["1", "2"], "text": ["é" * 1000]}},
            "multipart": {"form": {"csrf_token": [token], "item": ["1"]}, "files": {"file": "x" * 3_000_000}},
            "json": {"json": {"csrf_token": token, "item": [1]}},
            "header": {"json": {"item": [1]}},
        }[kind]
    )


@pytest.mark.parametrize("single_use", [False, True])
@pytest.mark.parametrize("kind", ["form", "multipart", "json", "header"])
def test_a_valid_token_lets_in_wherever_it_is_and_the_view_sees_its_request_whole(
    kind: str, *, single_use: bool
) -> None:
    app = shop(csrf=CSRF(single_use=single_use))
    post(app, "/", echo)
    client = app.test_client()
    token = client.get("/token").text
    response = client.post("/", query_string={"by": kind}, **sent_by(kind, token))
    assert response.json == seen_by_the_view(kind, token)
    again = client.post("/", query_string={"by": kind}, **sent_by(kind, token))
    assert code(again) == ("csrf_token_used" if single_use else None)


@pytest.mark.parametrize("kind", ["form", "multipart", "json", "header"])
def test_a_token_that_is_not_the_session_s_is_refused_wherever_it_is(app: Flask, kind: str) -> None:
    post(app)
    client = visitor(app)
    foreign = app.test_client().get("/token").text
    for token in (foreign, "", "x", "é", "A" * 70, "A" * 100_000):
        found = code(client.post("/", **sent_by(kind, token)))
        assert found in ("csrf_token_missing", "csrf_token_invalid", "csrf_stale"), token


def test_a_token_in_the_query_or_in_a_cookie_is_none(app: Flask) -> None:
    post(app)
    client = app.test_client()
    token = client.get("/token").text
    client.set_cookie("csrf_token", token)
    client.set_cookie("X-CSRF-Token", token)
    assert code(client.post("/", query_string={"csrf_token": token, "X-CSRF-Token": token})) == "csrf_token_missing"


def test_a_token_of_before_the_log_in_has_a_code_of_its_own(app: Flask) -> None:
    post(app)
    post(app, "/in", lambda: str(sync.log_in("ada", {"user": "ada"})))
    client = app.test_client()
    token = client.get("/token").text
    client.post("/in", headers=OWN)
    response = client.post("/", data={"csrf_token": token})
    assert code(response) == "csrf_stale"
    assert "before you logged in" in response.text


@pytest.mark.parametrize("kind", ["form", "multipart", "json"])
def test_the_view_reads_the_body_as_bytes_as_it_was_sent(app: Flask, kind: str) -> None:
    def read(way: str) -> bytes:
        request = flask.request
        match way:
            case "whole":
                return request.get_data()
            case "stream":
                return request.stream.read()
            case "piecemeal":
                return b"".join(iter(lambda: request.stream.read(1000), b""))
            case _:
                return b"".join(request.environ["wsgi.input"])

    app.add_url_rule("/<way>", "read", read, methods=["POST"])
    client = app.test_client()
    token = client.get("/token").text
    builder = EnvironBuilder(method="POST", **sent_by(kind, token))
    body = builder.get_environ()["wsgi.input"].read()
    assert token.encode() in body
    for way in ("whole", "stream", "piecemeal", "input"):
        assert client.post(f"/{way}", data=body, content_type=builder.content_type).data == body


def test_a_body_is_not_read_where_the_headers_decide(app: Flask) -> None:
    class Untouched(io.RawIOBase):
        def readable(self) -> bool:
            return True

        def readinto(self, _: Any) -> int:
            raise AssertionError("the body was read")

    post(app)
    client = visitor(app)
    for headers in (OWN, FOREIGN, {"X-CSRF-Token": "x"}):
        untouched = {"wsgi.input": Untouched(), "CONTENT_LENGTH": "9"}
        client.post("/", headers=headers, content_type="application/json", environ_overrides=untouched)


def test_a_body_is_searched_within_the_policy_s_limit() -> None:
    app = shop(csrf=CSRF(field="_token", body_limit=200))
    post(app, "/", lambda: flask.request.form["_token"])
    client = app.test_client()
    token = client.get("/token").text
    assert client.post("/", data={"_token": token, "a": "x" * 1000}).text == token
    assert code(client.post("/", data={"a": "x" * 1000, "_token": token})) == "csrf_token_missing"


def test_the_check_of_a_token_loads_the_session_for_the_view_too(app: Flask, store: Watched) -> None:
    post(app, "/", lambda: str(dict(flask.session)))
    client = visitor(app)
    with client.session_transaction() as session:
        session["a"] = 1
    token = client.get("/token").text
    store.calls.clear()
    assert client.post("/", data={"csrf_token": token}).text == "{'a': 1}"
    assert store.calls == ["get"]


def test_a_permanent_session_s_cookie_is_not_sent_again_by_the_check_alone(app: Flask) -> None:
    post(app)
    post(app, "/read", lambda: str(flask.session["a"]))
    client = visitor(app)
    with client.session_transaction() as session:
        session.permanent = True
        session["a"] = 1
    token = client.get("/token").text
    assert "Set-Cookie" not in client.post("/", data={"csrf_token": token}).headers
    assert "Max-Age" in client.post("/read", data={"csrf_token": token}).headers["Set-Cookie"]


# --- less and more


def test_a_view_that_is_exempt_is_not_checked(app: Flask) -> None:
    @csrf_exempt
    @app.post("/above")
    def above() -> str:
        return "served"

    @app.post("/below")
    @csrf_exempt
    def below() -> str:
        return "served"

    client = visitor(app)
    for path in ("/above", "/below"):
        assert client.post(path, headers=FOREIGN).text == "served"
    # Paths do not count: what another spelling leads to is another endpoint.
    assert client.post("//above", headers=FOREIGN).status_code in (308, 403)
    assert code(client.post("/ABOVE", headers=FOREIGN)) == "csrf_site"
    assert code(client.get("/above", headers={})) is None


def test_a_class_is_exempt_whole_or_by_one_of_its_methods(app: Flask) -> None:
    @csrf_exempt
    class Whole(MethodView):
        def post(self) -> str:
            return "served"

    class Part(MethodView):
        init_every_request = False

        @csrf_exempt
        def post(self) -> str:
            return "served"

        def put(self) -> str:
            return "served"

    class Decorated(MethodView):
        decorators = (csrf_exempt,)

        def post(self) -> str:
            return "served"

    for kind in (Whole, Part, Decorated):
        app.add_url_rule(f"/{kind.__name__}", view_func=kind.as_view(kind.__name__))
    client = visitor(app)
    for kind in (Whole, Part, Decorated):
        assert client.post(f"/{kind.__name__}", headers=FOREIGN).text == "served"
    assert code(client.put("/Part", headers=FOREIGN)) == "csrf_site"
    assert code(client.patch("/Whole", headers=FOREIGN)) == "csrf_site"


def test_a_blueprint_is_exempt_with_what_is_in_it_but_for_what_asks_for_more(app: Flask) -> None:
    hooks = csrf_exempt(Blueprint("hooks", __name__, url_prefix="/hooks"))  # type: ignore[type-var]
    inner = Blueprint("inner", __name__, url_prefix="/inner")
    other = Blueprint("other", __name__, url_prefix="/other")
    for blueprint in (hooks, inner, other):
        blueprint.add_url_rule("/", view_func=served, methods=["POST"])
    strict = csrf_protect(strict=True)(lambda: "served")
    hooks.add_url_rule("/strict", "strict", strict, methods=["POST"])
    hooks.register_blueprint(inner)
    app.register_blueprint(hooks)
    app.register_blueprint(other)
    client = visitor(app)
    assert client.post("/hooks/", headers=FOREIGN).text == "served"
    assert client.post("/hooks/inner/", headers=FOREIGN).text == "served"
    assert code(client.post("/hooks/strict", headers=OWN)) == "csrf_token_missing"
    assert code(client.post("/other/", headers=FOREIGN)) == "csrf_site"
    assert code(client.post("/hooks/gone", headers=FOREIGN)) == "csrf_site"


@pytest.mark.parametrize(
    "asked, method, with_cookie, refused",
    [
        ("strict", "POST", True, "csrf_token_missing"),
        ("scoped", "POST", True, "csrf_token_missing"),
        ("every_method", "GET", True, None),
        ("anonymous", "POST", False, None),
    ],
)
def test_a_blueprint_may_ask_for_more(
    app: Flask, asked: str, method: str, refused: str | None, *, with_cookie: bool
) -> None:
    page = Blueprint("page", __name__, url_prefix="/page")
    csrf_protect(**{asked: True})(page)  # type: ignore[type-var]
    page.add_url_rule("/", view_func=served, methods=["GET", "POST"])
    app.register_blueprint(page)
    post(app, "/other")
    client = visitor(app) if with_cookie else app.test_client()
    assert code(client.open("/page/", method=method)) == "csrf_token_missing"
    assert code(client.open("/page/", method=method, headers=OWN)) == refused
    assert client.open("/other", method=method, headers=OWN).text == "served"


def test_a_get_that_has_effects_may_ask_to_be_checked(app: Flask) -> None:
    class Out(MethodView):
        @csrf_protect(every_method=True)
        def get(self) -> str:
            return "served"

    post(app, "/out", csrf_protect(every_method=True)(lambda: "served"))
    app.add_url_rule("/class", view_func=Out.as_view("class"))
    client = visitor(app)
    for path in ("/out", "/class"):
        assert code(client.get(path, headers=FOREIGN)) == "csrf_site"
        assert code(client.get(path)) == "csrf_token_missing"
        assert client.get(path, headers=OWN).text == "served"
    assert client.get("/token", headers=FOREIGN).status_code == 200


def test_what_the_get_of_a_class_asks_is_asked_of_a_head_that_it_serves(app: Flask) -> None:
    class Out(MethodView):
        @csrf_protect(every_method=True, strict=True)
        def get(self) -> str:
            return "served"

    app.add_url_rule("/class", view_func=Out.as_view("class"))
    client = visitor(app)
    assert code(client.head("/class", headers=OWN)) == "csrf_token_missing"
    assert client.head("/class", headers={"X-CSRF-Token": client.get("/token").text}).status_code == 200


def test_what_a_view_asks_is_asked_of_it_within_a_partial(app: Flask) -> None:
    strict = csrf_protect(strict=True)(lambda said: said)
    app.add_url_rule("/strict", "strict", partial(strict, said="served"), methods=["POST"])
    client = visitor(app)
    assert code(client.post("/strict", headers=OWN)) == "csrf_token_missing"
    assert client.post("/strict", data={"csrf_token": client.get("/token").text}).text == "served"


def test_the_header_of_a_websocket_takes_no_get_past_what_its_view_asks(app: Flask) -> None:
    post(app, "/out", csrf_protect(every_method=True, strict=True)(lambda: "served"))
    # Without "Connection: Upgrade" Werkzeug takes it for a GET like any other.
    upgrade = {"Upgrade": "websocket"}
    own = {**upgrade, **OWN, "Origin": "http://localhost"}
    for one in (visitor(app), app.test_client()):
        assert code(one.get("/out", headers={**upgrade, "Origin": "https://evil.example"})) == "csrf_origin"
        assert code(one.get("/out", headers=own)) == "csrf_token_missing"


def test_a_log_in_may_ask_to_be_checked_without_a_cookie() -> None:
    app = shop()
    post(app, "/marked", csrf_protect(anonymous=True)(lambda: "served"))
    post(app, "/other")
    assert code(app.test_client().post("/marked")) == "csrf_token_missing"
    assert app.test_client().post("/marked", headers=OWN).text == "served"
    assert app.test_client().post("/other").text == "served"


def test_the_policy_may_ask_that_of_every_view() -> None:
    app = shop(csrf=CSRF(protect_anonymous=True))
    post(app)
    assert code(app.test_client().post("/")) == "csrf_token_missing"
    assert app.test_client().post("/", headers=OWN).text == "served"


def test_a_view_may_ask_for_a_token_of_its_own_path(app: Flask) -> None:
    transfer = csrf_protect(scoped=True)(lambda to: f"to {to}")
    app.add_url_rule("/transfer/<to>", "transfer", transfer, methods=["POST"])
    post(app)
    app.add_url_rule(
        "/form", "form", lambda: render_template_string("{{ csrf_token(scope=('POST', '/transfer/ada')) }}")
    )
    client = app.test_client()
    of_session = client.get("/token").text
    of_path = client.get("/form").text
    assert client.post("/transfer/ada", data={"csrf_token": of_path}).text == "to ada"
    # In the second in which the session was founded a token that does not verify may be from before.
    for path, token in (("/transfer/eve", of_path), ("/transfer/ada", of_session), ("/", of_path)):
        refused = code(client.post(path, data={"csrf_token": token}, headers=OWN if path != "/" else None))
        assert refused in ("csrf_token_invalid", "csrf_stale")


# --- the method


def test_a_method_in_another_case_is_not_safe(app: Flask) -> None:
    post(app)
    assert code(visitor(app).open("/", method="get", headers=FOREIGN)) == "csrf_site"


def test_an_override_further_out_is_checked_as_what_it_makes_of_the_request(app: Flask) -> None:
    app.add_url_rule("/", view_func=served, methods=["DELETE"])
    app.add_url_rule("/read", view_func=served, methods=["GET"], endpoint="read")

    def override(environ: dict[str, Any], start_response: Any, inner: Any = app.wsgi_app) -> Any:
        environ["REQUEST_METHOD"] = environ.get("HTTP_X_HTTP_METHOD_OVERRIDE", environ["REQUEST_METHOD"])
        return inner(environ, start_response)

    client = visitor(app)
    app.wsgi_app = override  # type: ignore[method-assign]
    headers = {"X-HTTP-Method-Override": "DELETE"}
    assert code(client.post("/", headers=headers | FOREIGN)) == "csrf_site"
    assert code(client.get("/", headers=headers | FOREIGN)) == "csrf_site"
    assert client.post("/", headers=headers | OWN).text == "served"
    # Made safe further out than it is first seen, it is checked as it came.
    app.wsgi_app = SessionMiddleware(override)  # type: ignore[method-assign]
    assert code(client.post("/read", headers={"X-HTTP-Method-Override": "GET"})) == "csrf_token_missing"


def test_an_override_further_in_is_checked_as_the_view_sees_it(app: Flask) -> None:
    class Request(flask.Request):
        @property
        def method(self) -> str:  # type: ignore[override]
            return self.args.get("_method") or str(self.environ["REQUEST_METHOD"])

        @method.setter
        def method(self, _: str) -> None:
            pass

    class Resource(MethodView):
        def get(self) -> str:
            return "read"

        def delete(self) -> str:
            return "deleted"

    app.request_class = Request
    app.add_url_rule("/", view_func=Resource.as_view("resource"))
    client = visitor(app)
    assert code(client.get("/", query_string={"_method": "DELETE"}, headers=FOREIGN)) == "csrf_site"
    assert code(client.get("/", query_string={"_method": "DELETE"})) == "csrf_token_missing"
    assert client.get("/", query_string={"_method": "DELETE"}, headers=OWN).text == "deleted"
    assert client.get("/", headers=FOREIGN).text == "read"


def test_head_of_another_site_is_refused(app: Flask) -> None:
    post(app)
    assert visitor(app).head("/", headers=FOREIGN).status_code == 403
    assert visitor(app).options("/", headers=FOREIGN).status_code == 200


# --- WebSockets


@pytest.mark.parametrize(
    "origin, status", [("https://evil.example", 403), (None, 403), ("null", 403), ("http://localhost", 200)]
)
def test_a_handshake_with_the_cookie_needs_an_own_origin(app: Flask, origin: str | None, status: int) -> None:
    app.add_url_rule("/socket", view_func=served, websocket=True)
    headers = {"Connection": "Upgrade", "Upgrade": "websocket"} | ({} if origin is None else {"Origin": origin})
    assert visitor(app).get("/socket", headers=headers).status_code == status
    # Flask itself turns away a handshake that no route of WebSockets is for; ours comes first.
    assert visitor(app).get("/token", headers=headers).status_code == (400 if status == 200 else 403)
    assert app.test_client().get("/socket", headers=headers).status_code == 200


# --- the answer


def test_a_refusal_is_a_page_that_no_cache_keeps(app: Flask) -> None:
    post(app)
    client = visitor(app)
    page = client.post("/", headers=FOREIGN)
    assert (page.status, page.content_type) == ("403 FORBIDDEN", "text/html; charset=utf-8")
    assert "csrf_site" in page.text
    assert_uncacheable(page)
    assert page.headers["X-Content-Type-Options"] == "nosniff"
    assert page.headers.getlist("Content-Length") == [str(len(page.data))]
    assert "evil.example" not in page.text


def assert_uncacheable(response: TestResponse) -> None:
    assert response.headers.getlist("Cache-Control") == ["private, no-store"]
    assert {"Origin", "Sec-Fetch-Site"} <= set(response.vary)
    assert response.headers.getlist("CSRF-Rejection") == ["csrf_site"]
    assert "Cdn-Cache-Control" not in response.headers


@pytest.mark.parametrize("caught", [403, CsrfRejected, HTTPException, Exception])
def test_the_application_may_make_the_page_and_no_cache_keeps_it(app: Flask, caught: Any) -> None:
    def own_page(error: CsrfRejected) -> Any:
        assert error.code == 403
        return f"own page: {error.rejection.code}, {flask.session.get('name')}", 403, {"Vary": "Accept"}

    @app.after_request
    def cache(response: flask.Response) -> flask.Response:
        response.headers["Cache-Control"] = "public, max-age=600"
        response.headers["CDN-Cache-Control"] = "max-age=600"
        return response

    app.register_error_handler(caught, own_page)
    post(app)
    client = visitor(app)
    with client.session_transaction() as session:
        session["name"] = "Ada"
    response = client.post("/", headers=FOREIGN)
    assert response.text == "own page: csrf_site, Ada"
    assert_uncacheable(response)
    assert set(response.vary) == {"Accept", "Origin", "Sec-Fetch-Site", "Cookie"}
    assert client.get("/").headers["Cache-Control"] == "public, max-age=600"


def test_a_handler_that_makes_json_of_every_error_makes_it_of_this_too(app: Flask) -> None:
    @app.errorhandler(HTTPException)
    def as_json(error: HTTPException) -> Any:
        response = error.get_response()
        response.data = flask.json.dumps({"code": error.code, "name": error.name, "text": error.description})
        response.content_type = "application/json"
        return response

    post(app)
    response = visitor(app).post("/", headers=FOREIGN)
    assert response.json is not None
    assert (response.json["code"], response.json["name"]) == (403, "Forbidden")
    assert "could not be verified" in response.json["text"]
    assert_uncacheable(response)


def test_a_handler_may_give_its_page_the_headers_of_ours(app: Flask) -> None:
    app.register_error_handler(403, lambda error: flask.Response(iter(["own page"]), 403, error.get_headers()))
    post(app)
    response = visitor(app).post("/", headers=FOREIGN)
    assert response.text == "own page"
    assert "Content-Length" not in response.headers
    assert_uncacheable(response)


def test_a_page_of_another_status_has_the_headers_too(app: Flask) -> None:
    app.register_error_handler(CsrfRejected, lambda _: flask.redirect("/again"))
    post(app)
    response = visitor(app).post("/", headers=FOREIGN)
    assert response.status_code == 302
    assert_uncacheable(response)


def test_what_the_application_s_page_for_a_refusal_writes_is_stored(app: Flask) -> None:
    def own_page(_: CsrfRejected) -> Any:
        flash("Your form was too old.")
        return flask.redirect("/again")

    app.register_error_handler(CsrfRejected, own_page)
    post(app)
    client = visitor(app)
    assert client.post("/", headers=FOREIGN).status_code == 302
    with client.session_transaction() as session:
        assert session["_flashes"] == [("message", "Your form was too old.")]


def test_a_handler_that_fails_lets_nothing_in(app: Flask) -> None:
    app.testing = False
    app.register_error_handler(403, lambda _: 1 / 0)
    post(app)
    response = visitor(app).post("/", headers=FOREIGN)
    assert response.status_code == 500
    assert "served" not in response.text
    assert_uncacheable(response)


def test_a_403_of_the_application_s_own_is_left_as_it_is(app: Flask) -> None:
    post(app, "/", lambda: flask.abort(403))
    response = visitor(app).post("/", headers=OWN)
    assert response.status_code == 403
    assert "CSRF-Rejection" not in response.headers
    assert "Cache-Control" not in response.headers


# --- a cookie that another site's request lacks


@pytest.mark.parametrize("write", ["mapping", "flash", "function", "clear and write"])
def test_a_session_is_not_founded_for_another_site_even_by_a_view_that_is_exempt(
    app: Flask, store: Watched, write: str, caplog: pytest.LogCaptureFixture
) -> None:
    @csrf_exempt
    def hook() -> str:
        match write:
            case "mapping":
                flask.session["a"] = 1
            case "flash":
                flash("saved")
            case "function":
                sync.set_session_data({"a": 1})
            case _:
                flask.session.clear()
                flask.session["a"] = 1
        return "served"

    post(app, "/", hook)
    response = app.test_client().post("/", headers=FOREIGN)
    assert code(response) == "cookie_withheld"
    assert "without your cookie" in response.text
    assert "served" not in response.text
    assert {"Origin", "Sec-Fetch-Site"} <= set(response.vary)
    assert response.headers["Cache-Control"] == "private, no-store"
    assert "Set-Cookie" not in response.headers
    assert store.calls == []
    assert "answered with 403" in caplog.text
    assert app.test_client().post("/", headers=OWN).text == "served"


@pytest.mark.parametrize("by_function", [True, False])
def test_the_application_makes_the_page_for_a_withheld_cookie_too(app: Flask, *, by_function: bool) -> None:
    @csrf_exempt
    def hook() -> str:
        if by_function:
            sync.set_session_data({"a": 1})
        else:
            flask.session["a"] = 1
        return "served"

    post(app, "/", hook)
    app.register_error_handler(403, lambda error: (f"own page: {error.rejection.code}", 403))
    response = app.test_client().post("/", headers=FOREIGN)
    assert response.text == "own page: cookie_withheld"
    assert code(response) == "cookie_withheld"
    # Its own answer to the error itself, as the error advises, is left as it is.
    app.error_handler_spec[None][None][CookieWithheldError] = lambda _: flask.redirect("/own", 303)
    response = app.test_client().post("/", headers=FOREIGN)
    assert (response.status_code, response.location) == (303, "/own")
    assert "CSRF-Rejection" not in response.headers


# --- templates


def page(app: Flask, template: str, client: FlaskClient | None = None, **context: str) -> TestResponse:
    return (client or app.test_client()).get("/page", query_string={"source": template, **context})


def test_a_template_has_the_token_its_input_and_its_meta_element(app: Flask) -> None:
    post(app)
    client = app.test_client()
    token = page(app, "{{ csrf_token() }}", client).text
    assert client.post("/", data={"csrf_token": token}).text == "served"
    field = re.fullmatch(
        r'<input type="hidden" name="csrf_token" value="([\w-]{70})">', page(app, "{{ csrf_input() }}", client).text
    )
    assert field is not None
    assert client.post("/", data={"csrf_token": field[1]}).text == "served"
    meta = re.fullmatch(
        r'<meta name="csrf-token" content="([\w-]{70})" data-header="X-CSRF-Token" data-field="csrf_token">',
        page(app, "{{ csrf_meta() }}", client).text,
    )
    assert meta is not None
    assert client.post("/", headers={"X-CSRF-Token": meta[1]}).text == "served"


def test_a_template_has_the_script(app: Flask) -> None:
    response = page(app, "{{ csrf_script(nonce) }}", nonce='"r4nd0m"')
    assert response.text.startswith('<script nonce="&quot;r4nd0m&quot;">')
    assert response.text.endswith("</script>")
    assert "Set-Cookie" not in response.headers


def test_the_names_of_field_and_header_are_the_policy_s() -> None:
    app = shop(csrf=CSRF(field="_token", header="X-Token", single_use=True))
    assert 'name="_token"' in page(app, "{{ csrf_input() }}").text
    assert 'data-header="X-Token" data-field="_token" data-single-use>' in page(app, "{{ csrf_meta() }}").text


def test_templates_of_an_application_without_the_check_have_them_too() -> None:
    app = shop(csrf=None)
    assert 'name="csrf_token"' in page(app, "{{ csrf_input() }}{{ csrf_meta() }}").text


def test_a_session_is_founded_only_where_a_template_asks_for_the_token(app: Flask, store: Watched) -> None:
    template = "{% if wanted %}{{ csrf_input() }}{% endif %}"
    response = page(app, template)
    assert ("Set-Cookie" in response.headers, store.calls) == (False, [])
    assert "Vary" not in response.headers
    response = page(app, template, wanted="yes")
    assert ("Set-Cookie" in response.headers, store.calls) == (True, ["set"])
    assert response.headers["Cache-Control"] == "private, no-store"


def test_a_token_costs_no_call_to_the_store_beside_that_which_loads_the_session(app: Flask, store: Watched) -> None:
    post(app)
    client = visitor(app)
    with client.session_transaction() as session:
        session["name"] = "Ada"
    store.calls.clear()
    token = page(app, "{{ session.name }} {{ csrf_token() }} {{ csrf_token() }}", client).text.split()[1]
    assert store.calls == ["get"]
    assert client.post("/", data={"csrf_token": token}).text == "served"


def test_a_macro_that_is_imported_without_context_has_them(app: Flask) -> None:
    app.jinja_loader = DictLoader({"forms.html": "{% macro form() %}<form>{{ csrf_input() }}</form>{% endmacro %}"})
    assert 'name="csrf_token"' in page(app, "{% from 'forms.html' import form %}{{ form() }}").text


def test_names_that_the_application_gave_itself_stay(store: Watched) -> None:
    configure(session_store=store)
    app = Flask("shop")
    app.add_url_rule("/page", view_func=show_page)
    app.jinja_env.globals["csrf_token"] = lambda: "of the application"
    ServerSession(app)
    app.jinja_env.globals["csrf_meta"] = lambda: "of later"
    app.context_processor(lambda: {"csrf_input": lambda: "of its context"})
    expected = "of the application, of its context, of later, of the view"
    template = "{{ csrf_token() }}, {{ csrf_input() }}, {{ csrf_meta() }}, {{ csrf_script }}"
    assert page(app, template, csrf_script="of the view").text == expected


def test_outside_of_a_request_a_token_is_an_error_that_says_so(app: Flask) -> None:
    with app.app_context(), pytest.raises(RuntimeError, match="request context"):
        render_template_string("{{ csrf_token() }}")


def test_an_async_view_s_template_has_the_token(app: Flask) -> None:
    @app.get("/async")
    async def form() -> str:
        await asyncio.sleep(0)
        return render_template_string("{{ csrf_token() }}")

    post(app)
    client = app.test_client()
    assert client.post("/", data={"csrf_token": client.get("/async").text}).text == "served"


def test_a_streamed_template_has_the_token_of_a_session_that_is_there(app: Flask) -> None:
    app.add_url_rule("/form", "form", lambda: flask.stream_template_string("{{ csrf_token() }}"))
    post(app)
    client = visitor(app)
    response = client.get("/form")
    assert client.post("/", data={"csrf_token": response.text}).text == "served"
    assert response.headers["Vary"] == "Cookie"


# --- within Flask


def test_async_views_and_streams_follow_a_token_that_passed(app: Flask) -> None:
    async def awaiting() -> str:
        await asyncio.sleep(0)
        flask.session["n"] = flask.session.get("n", 0) + 1
        return flask.request.form["item"]

    def streaming() -> flask.Response:
        def chunks() -> Iterator[str]:
            flask.session["n"] += 1
            yield flask.request.form["item"]

        return flask.Response(stream_with_context(chunks()))

    @app.before_request
    async def note() -> None:
        await asyncio.sleep(0)

    post(app, "/async", awaiting)
    post(app, "/stream", streaming)
    client = app.test_client()
    data = {"csrf_token": client.get("/token").text, "item": "1"}
    for path in ("/async", "/stream"):
        assert client.post(path, data=data).text == "1"
    with client.session_transaction() as session:
        assert session["n"] == 2
    assert current.get() is None


def test_a_copied_request_context_sees_the_session_of_a_request_that_passed(app: Flask) -> None:
    def view() -> str:
        seen: list[Any] = []

        @flask.copy_current_request_context
        def work() -> None:
            seen.append((flask.request.form["item"], dict(flask.session), sync.get_session_data(flask.request)))

        assert flask.request.form["item"] == "1"
        thread = threading.Thread(target=work)
        thread.start()
        thread.join(PATIENCE)
        return repr(seen)

    post(app, "/", view)
    client = app.test_client()
    token = client.get("/token").text
    assert client.post("/", data={"csrf_token": token, "item": "1"}).text == "[('1', {}, {})]"


def test_a_request_context_within_another_is_checked_for_itself(app: Flask) -> None:
    def view() -> str:
        with app.test_request_context("/", method="POST", headers=FOREIGN), pytest.raises(CsrfRejected) as caught:
            app.preprocess_request()
        with app.test_request_context("/", method="POST", headers=OWN):
            assert app.preprocess_request() is None
        return f"{caught.value.rejection.code}, {sync.validate_csrf_token(flask.request.form['csrf_token'])}"

    post(app, "/", view)
    client = app.test_client()
    response = client.post("/", data={"csrf_token": client.get("/token").text})
    assert (response.text, response.status_code) == ("csrf_site, True", 200)
    assert "CSRF-Rejection" not in response.headers


@pytest.mark.parametrize("headers, status", [(OWN, 200), (FOREIGN, 403)])
def test_after_the_request_nothing_of_it_is_left(app: Flask, headers: dict[str, str], status: int) -> None:
    torn_down: list[Any] = []

    @app.teardown_request
    def note(_: object) -> None:
        torn_down.append(sync.get_session_data())

    post(app)
    client = visitor(app)
    assert client.post("/", headers=headers).status_code == status
    assert torn_down == [{}, {}]
    assert current.get() is None


def test_flask_login_guards_what_the_check_let_in(app: Flask) -> None:
    flask_login = pytest.importorskip("flask_login")

    class User(flask_login.UserMixin):
        id = "ada"

    app.secret_key = "of Flask-Login"
    manager = flask_login.LoginManager(app)
    manager.user_loader(lambda _: User())
    post(app, "/in", lambda: str(flask_login.login_user(User())))
    post(app, "/me", flask_login.login_required(lambda: f"I am {flask_login.current_user.get_id()}"))
    client = visitor(app)
    assert code(client.post("/in", headers=FOREIGN)) == "csrf_site"
    assert client.post("/me", headers=OWN).status_code == 401
    assert client.post("/in", headers=OWN).text == "True"
    assert client.post("/me", data={"csrf_token": client.get("/token").text}).text == "I am ada"


# --- stores


def test_a_store_that_is_down_while_a_token_is_checked_is_a_503_and_no_pass(app: Flask, store: Watched) -> None:
    post(app)
    client = app.test_client()
    token = client.get("/token").text
    store.fails = ["get"]
    response = client.post("/", data={"csrf_token": token})
    assert response.status_code == 503
    assert "served" not in response.text
    # What the headers decide needs no store.
    assert client.post("/", headers=OWN).text == "served"
    assert code(client.post("/", headers=FOREIGN)) == "csrf_site"


class Awaiting(Watched):
    """A store whose client awaits."""

    async def get(self, *arguments: Any, **keywords: Any) -> Any:
        await asyncio.sleep(0)
        return await super().get(*arguments, **keywords)

    async def merge(self, *arguments: Any, **keywords: Any) -> Outcome:
        await asyncio.sleep(0)
        return await super().merge(*arguments, **keywords)


def test_over_a_client_that_awaits_the_token_is_checked_as_async_views_are() -> None:
    store = Awaiting()
    store.colour = Colour.AWAITS
    app = shop(store, CSRF("strict"))

    @app.get("/form")
    async def form() -> str:
        return await server_session.get_csrf_token()

    @app.post("/write")
    async def write() -> str:
        await server_session.set_session_data({"a": flask.request.form["item"]})
        return str(await server_session.get_session_data())

    client = app.test_client()
    token = client.get("/form").text
    assert client.post("/write", data={"csrf_token": token, "item": "1"}).text == "{'a': '1'}"
    assert code(client.post("/write", data={"csrf_token": "x"})) == "csrf_token_invalid"
    assert code(client.post("/write", data={})) == "csrf_token_missing"
    store.fails = ["get"]
    assert client.post("/write", data={"csrf_token": token, "item": "1"}).status_code == 503


# --- several guards


@pytest.mark.parametrize("kind", ["form", "multipart", "json", "header"])
@pytest.mark.parametrize("single_use", [False, True])
def test_two_guards_of_the_same_sessions_ask_for_one_token(kind: str, *, single_use: bool) -> None:
    signals: list[Signal] = []
    app = shop(csrf=CSRF(single_use=single_use), on_signal=signals.append)
    post(app, "/", echo)
    whole = SessionMiddleware(DispatcherMiddleware(Flask("other"), {"/shop": app}))
    client = Client(whole)
    token = client.get("/shop/token").text
    response = client.post("/shop/", query_string={"by": kind}, **sent_by(kind, token))
    assert response.json == seen_by_the_view(kind, token)
    assert [signal.event for signal in signals] == ["created"]
    again = client.post("/shop/", query_string={"by": kind}, **sent_by(kind, token))
    assert code(again) == ("csrf_token_used" if single_use else None)


def test_the_inner_guard_asks_for_what_its_endpoint_needs_beyond_the_outer_one(app: Flask) -> None:
    post(app, "/", csrf_protect(scoped=True)(lambda: "served"))
    post(app, "/other")
    client = Client(SessionMiddleware(app))
    token = client.get("/token").text
    assert client.post("/other", data={"csrf_token": token}).text == "served"
    assert code(client.post("/", data={"csrf_token": token})) in ("csrf_token_invalid", "csrf_stale")
    of_path = client.get("/page", query_string={"source": "{{ csrf_token(('POST', '/')) }}"}).text
    assert client.post("/", data={"csrf_token": of_path}).text == "served"


def test_an_application_in_another_s_path_is_guarded_by_its_own_policy(store: Watched) -> None:
    whole = Flask("whole")
    part = Flask("part")
    ServerSession(whole, Sessions(session_store=store))
    ServerSession(part, Sessions(session_store=store, csrf=None))
    for app in (whole, part):
        post(app)
    client = Client(DispatcherMiddleware(whole, {"/part": part}))
    assert client.post("/", headers=FOREIGN).status_code == 403
    assert client.post("/part/", headers=FOREIGN).text == "served"


def test_a_credential_of_another_kind_is_checked_by_its_own_rules(store: Watched) -> None:
    class Header(CookieTransport):
        def read(self, request: Any) -> list[str]:
            return [value.decode() for value in request.header_values(b"x-session")]

        def write(self, request: Any, value: str, lifetime: float | None) -> list[tuple[bytes, bytes]]:
            return [(b"x-session", value.encode())]

        def destroy(self, request: Any) -> list[tuple[bytes, bytes]]:
            return [(b"x-session", b"")]

    app = shop(store, cookie_handler=Header())
    post(app)
    value = app.test_client().get("/token").headers["X-Session"]
    assert code(app.test_client().post("/", headers={"X-Session": value})) == "csrf_token_missing"


def test_a_get_is_not_looked_into(app: Flask, store: Watched, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "server_session")
    app.add_url_rule("/", view_func=served)
    client = visitor(app)
    store.calls.clear()
    caplog.clear()
    assert client.get("/", headers=FOREIGN).text == "served"
    assert (store.calls, caplog.records) == ([], [])


@pytest.mark.parametrize("status,breaks", [(403, False), (503, True)])
def test_a_page_of_the_application_s_own_for_a_refusal_may_have_a_form(status, breaks):
    store = Watched()
    app = shop(store)
    app.add_url_rule("/write", view_func=lambda: sync.set_session_data({"a": 1}) and "written", methods=["POST"])
    app.register_error_handler(status, lambda _: (render_template_string("<form>{{ csrf_input() }}"), status))
    client = app.test_client()
    client.get("/token")
    store.fails = {"get", "look", "set", "merge"} if breaks else ()
    answer = client.post("/write", headers=OWN if breaks else FOREIGN)
    assert answer.status_code == status
    assert 'name="csrf_token"' in answer.text
    stranger = app.test_client()
    assert stranger.post("/write", headers=OWN if breaks else FOREIGN).status_code == status

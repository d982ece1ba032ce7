"""The adapter for Quart keeps the contract of adapters, and what else Quart's users count on."""

import asyncio
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import timedelta
from typing import Any

import pytest
from markupsafe import Markup
from quart import (
    Blueprint,
    Quart,
    Response,
    abort,
    flash,
    jsonify,
    redirect,
    render_template_string,
    request,
    session,
    stream_with_context,
    websocket,
)
from quart.views import MethodView

from server_session import _sessions, configure, get_session_data
from server_session._urls import open_store
from server_session.exceptions import CarrierError
from server_session.quart import CsrfRejected, ServerSession, csrf_exempt, csrf_protect
from server_session.testing import (
    AdapterContract,
    Encoded,
    Failed,
    Headed,
    Here,
    Page,
    Redirected,
    Site,
    Streamed,
    YieldingStore,
)
from tests.documents import application_of, hidden_in
from tests.frameworks.serving import AWAITED, OverRedis, hypercorn_serves
from tests.visitors import Watched


def view_of(page: Page) -> Any:
    async def view() -> Any:  # noqa: RET503 - to abort is to raise
        async def body() -> bytes:
            return b"".join([chunk async for chunk in request.body])

        async def form() -> dict[str, Any]:
            return {**(await request.form)}

        def mapping() -> Any:
            # Beyond the view there is no proxy.
            return session._get_current_object()

        given = Response("")
        here = Here(mapping, request, request.args, form, body, given)
        here.render = lambda: render_template_string("<form>{{ csrf_input() }}</form>")
        match await page.body(here):
            case Redirected(path):
                abort(redirect(path, 303))
            case Failed(status):
                abort(status)
            case Streamed(chunks):
                return Response(chunks)
            case Encoded(value):
                # As with cookies of its own: nobody can encode a proxy.
                return jsonify(dict(value))
            case Headed(text, headers):
                return text, headers
            case text:
                given.set_data(text)
                return given

    view.__name__ = page.name
    return page.mark(view)


async def own_page(error: Any) -> tuple[str, int]:
    return f"own page: {error.description}", error.code


class TestQuart(OverRedis, AdapterContract):
    stores = AWAITED

    def make_app(self, site: Site) -> Quart:
        app = Quart(__name__)
        app.register_error_handler(403, own_page)
        app.register_error_handler(503, own_page)
        ServerSession(app, site.sessions, watch=site.watch)
        inner = Blueprint("inner", __name__, url_prefix="/inner")
        for page in site.pages:
            where, path = (inner, page.path.removeprefix("/inner")) if page.is_inner else (app, page.path)
            where.add_url_rule(path, page.name, view_of(page), methods=[*page.methods])
        app.register_blueprint(inner)

        @app.websocket("/socket")
        async def socket() -> None:
            await websocket.accept()
            await websocket.send(await site.greeting(session._get_current_object()))
            await websocket.receive()

        return app

    def serve(self, app: Quart) -> AbstractContextManager[int]:
        return hypercorn_serves(app)

    @contextmanager
    def client(self, app: Quart) -> Iterator[Any]:
        with asyncio.Runner() as runner:
            client = app.test_client()

            def ask(method: str, path: str, headers: dict[str, str]) -> tuple[int, str]:
                async def answered() -> tuple[int, str]:
                    response = await client.open(path, method=method, headers=headers)
                    return response.status_code, await response.get_data(as_text=True)

                return runner.run(answered())

            yield ask


# --- what else Quart's users count on


OWN = {"Sec-Fetch-Site": "same-origin"}
FOREIGN = {"Sec-Fetch-Site": "cross-site"}


def shop(store: Any = "memory:", **settings: Any) -> Quart:
    app = Quart(__name__)
    ServerSession(app, session_store=store, **settings)

    @app.post("/write")
    async def write() -> str:
        session.update(request.args)
        return "written"

    @app.get("/read")
    async def read() -> dict[str, Any]:
        return dict(session)

    return app


async def test_a_session_transaction_of_the_test_client_reads_and_writes_the_store() -> None:
    for store in ("memory:", YieldingStore(open_store("memory:"))):
        app = shop(store)
        client = app.test_client()
        async with client.session_transaction() as opened:
            opened["user"] = "ada"
        assert await (await client.get("/read")).get_json() == {"user": "ada"}
        await client.post("/write?item=tea", headers=OWN)
        async with client.session_transaction() as opened:
            assert dict(opened) == {"user": "ada", "item": "tea"}
            del opened["item"]
        assert await (await client.get("/read")).get_json() == {"user": "ada"}


async def test_the_functions_know_the_request_of_a_test_s_context() -> None:
    app = shop()
    sessions = app.extensions["server_session"].sessions
    async with app.test_request_context("/read"):
        session["a"] = 1
        assert await sessions.get_session_data() == {"a": 1}
    with pytest.raises(CarrierError):
        await sessions.get_session_data()


async def test_a_stream_with_context_has_the_session_and_stores_what_it_writes() -> None:
    app = shop(YieldingStore(open_store("memory:")))

    @app.get("/stream")
    async def stream() -> Any:
        @stream_with_context
        async def chunks() -> Any:
            for number in range(3):
                session["sent"] = number
                yield f"{session['a']}"

        return chunks()

    client = app.test_client()
    await client.post("/write?a=x", headers=OWN)
    assert await (await client.get("/stream")).get_data() == b"xxx"
    assert await (await client.get("/read")).get_json() == {"a": "x", "sent": 2}


async def test_a_view_that_blocks_has_the_mapping_and_the_blocking_functions_in_its_thread() -> None:
    app = shop(YieldingStore(open_store("memory:")))
    functions = app.extensions["server_session"].sessions.sync

    @app.post("/blocking")
    def blocking() -> dict[str, Any]:
        session["mapping"] = 1
        functions.set_session_data({"function": 2})
        return dict(session)

    client = app.test_client()
    answered = await client.post("/blocking", headers=OWN)
    assert await answered.get_json() == {"mapping": 1, "function": 2}
    assert await (await client.get("/read")).get_json() == {"mapping": 1, "function": 2}


async def test_quart_s_settings_of_the_cookie_are_kept_and_a_permanent_session_has_a_lifetime() -> None:
    app = shop()
    app.config.update(SESSION_COOKIE_NAME="shop", SESSION_COOKIE_SAMESITE="Strict")
    app.permanent_session_lifetime = timedelta(minutes=5)

    @app.post("/stay")
    async def stay() -> str:
        session.permanent = True
        return "stays"

    client = app.test_client()
    cookie = (await client.post("/write?a=1", headers=OWN)).headers["set-cookie"]
    assert cookie.startswith("shop=")
    assert "SameSite=Strict" in cookie
    assert "Max-Age" not in cookie
    assert "Max-Age=300" in (await client.post("/stay", headers=OWN)).headers["set-cookie"]
    assert "Max-Age=300" in (await client.get("/read")).headers["set-cookie"]


async def test_marks_are_heard_on_views_that_block_on_classes_and_on_blueprints() -> None:
    app = shop()
    hooks = csrf_exempt(Blueprint("hooks", __name__))

    @hooks.post("/hook/<name>")
    async def hook(name: str) -> str:
        return name

    @app.post("/blocking")
    @csrf_protect(strict=True)
    def blocking() -> str:
        return "done"

    class Careful(MethodView):
        @csrf_protect(strict=True)
        async def post(self) -> str:
            return "done"

    app.register_blueprint(hooks)
    app.add_url_rule("/class", view_func=Careful.as_view("class"))
    client = app.test_client()
    await client.post("/write?a=1", headers=OWN)
    assert (await client.post("/hook/pay", headers=FOREIGN)).status_code == 200
    for path in ("/blocking", "/class"):
        answered = await client.post(path, headers=OWN)
        assert (answered.status_code, answered.headers["csrf-rejection"]) == (403, "csrf_token_missing")
    # By the application's own paths alone, and before a redirect to another.
    for path in ("/hook", "/hook/pay/", "/hook//", "/write"):
        assert (await client.post(path, headers=FOREIGN)).status_code == 403


async def test_a_forged_request_is_seen_by_no_function_before_requests() -> None:
    app = Quart(__name__)
    seen: list[str] = []

    @app.before_request
    async def before() -> None:
        seen.append(request.path)

    ServerSession(app, session_store="memory:")
    client = app.test_client()
    async with client.session_transaction() as opened:
        opened["a"] = 1
    assert (await client.post("/nowhere", headers=FOREIGN)).status_code == 403
    assert (await client.post("/nowhere", headers=OWN)).status_code == 404
    assert seen == ["/nowhere"]


async def test_several_extensions_of_one_application_serve_and_check_once() -> None:
    app = Quart(__name__)
    ServerSession(app, session_store="memory:")

    def installed() -> list[Any]:
        functions = (app.before_request_funcs, app.before_websocket_funcs, app.after_request_funcs)
        return [app.asgi_app, *([*one[None]] for one in functions)]

    once = installed()
    last = ServerSession(app, session_store="memory:")
    last.init_app(app)
    assert installed() == once

    @app.get("/")
    async def write() -> str:
        session["a"] = 1
        return str(await last.sessions.get_session_data())

    client = app.test_client()
    await client.get("/")
    assert await (await client.get("/")).get_data(as_text=True) == "{'a': 1}"


async def test_a_store_that_fails_is_told_to_whoever_looks_at_the_session_and_to_nobody_else() -> None:
    store = Watched()
    app = shop(store)

    @app.get("/nothing")
    async def nothing() -> str:
        return "nothing"

    @app.after_request
    async def mark(response: Response) -> Response:
        response.headers["X-Seen"] = "yes"
        return response

    client = app.test_client()
    await client.post("/write?a=1", headers=OWN)
    store.fails = ["get"]
    assert (await client.get("/nothing")).status_code == 200
    assert (await client.get("/read")).status_code == 503
    store.fails = ["merge"]
    answered = await client.post("/write?a=2", headers=OWN)
    assert (answered.status_code, answered.headers["cache-control"]) == (503, "private, no-store")
    store.fails = []
    assert await (await client.get("/read")).get_json() == {"a": "1"}


async def test_a_token_that_the_store_cannot_be_asked_for_is_503_by_the_application_s_page() -> None:
    store = Watched()
    app = shop(store)
    app.register_error_handler(503, own_page)

    @app.get("/token")
    async def token() -> str:
        return await app.extensions["server_session"].sessions.get_csrf_token()

    client = app.test_client()
    own = await (await client.get("/token")).get_data(as_text=True)
    store.fails = ["get"]
    answered = await client.post("/write", headers={"X-CSRF-Token": own})
    assert (answered.status_code, (await answered.get_data())[:8]) == (503, b"own page")


async def test_a_log_in_of_which_the_store_says_nothing_is_503_by_the_application_s_page() -> None:
    store = Watched()
    app = shop(store)
    app.register_error_handler(503, own_page)

    @app.post("/log-in")
    async def log_in() -> str:
        session["user"] = "ada"
        store.fails = ["get", "look", "merge"]
        return "logged in"

    client = app.test_client()
    await client.post("/write?a=1", headers=OWN)
    answered = await client.post("/log-in", headers=OWN)
    assert (answered.status_code, (await answered.get_data())[:8]) == (503, b"own page")


class Held:
    """The pieces of a body, which note that they were closed."""

    closed = 0

    def __aiter__(self) -> "Held":
        return self

    async def __anext__(self) -> bytes:
        raise StopAsyncIteration

    async def aclose(self) -> None:
        self.closed += 1


async def test_a_stream_that_gives_way_to_a_refusal_is_closed() -> None:
    store, held = Watched(), Held()
    app = Quart(__name__)
    ServerSession(app, session_store=store)

    @app.get("/")
    async def index() -> Response:
        session["a"] = 1
        return Response(held)

    store.fails = ["set"]
    assert (await app.test_client().get("/")).status_code == 503
    assert held.closed == 1


async def test_what_cannot_be_stored_is_the_application_s_own_error_page() -> None:
    app = Quart(__name__)
    ServerSession(session_store="memory:").init_app(app)
    app.register_error_handler(500, own_page)

    @app.post("/bad")
    async def bad() -> str:
        session["bad"] = object()
        return "written"

    answered = await app.test_client().post("/bad", headers=OWN)
    assert (answered.status_code, (await answered.get_data())[:8]) == (500, b"own page")
    assert "set-cookie" not in answered.headers


async def test_a_response_that_has_nothing_of_a_permanent_session_bears_no_cookie() -> None:
    app = shop()

    @app.post("/stay")
    async def stay() -> str:
        session.permanent = True
        return "stays"

    @app.get("/nothing")
    async def nothing() -> str:
        return "nothing"

    client = app.test_client()
    await client.post("/stay", headers=OWN)
    answered = await client.get("/nothing")
    assert {"set-cookie", "vary"}.isdisjoint(name.lower() for name in answered.headers.keys())  # noqa: SIM118 - of pairs


async def test_a_page_of_a_refusal_can_say_who_is_logged_in() -> None:
    app = shop(YieldingStore(open_store("memory:")))

    @app.errorhandler(CsrfRejected)
    async def page(error: CsrfRejected) -> tuple[str, int]:
        return f"not so, {session['user']}: {error.rejection.code}", 403

    client = app.test_client()
    await client.post("/write?user=ada", headers=OWN)
    assert await (await client.post("/write", headers=FOREIGN)).get_data() == b"not so, ada: csrf_site"


async def test_a_websocket_sets_the_cookie_with_its_handshake_and_stores_what_it_writes_later(
    caplog: pytest.LogCaptureFixture,
) -> None:
    app = shop(YieldingStore(open_store("memory:")))

    @app.websocket("/socket")
    async def socket() -> None:
        session["begun"] = True
        await websocket.accept()
        session["then"] = await websocket.receive()
        await session.save()
        await websocket.send(str(await session.is_alive()))

    sent: list[Any] = []
    arriving: asyncio.Queue[Any] = asyncio.Queue()
    for message in ({"type": "websocket.connect"}, {"type": "websocket.receive", "text": "later"}):
        arriving.put_nowait(message)

    async def send(message: Any) -> None:
        sent.append(message)
        if message["type"] == "websocket.close":
            arriving.put_nowait({"type": "websocket.disconnect"})

    headers = [(b"host", b"localhost"), (b"origin", b"http://localhost")]
    scope = {"type": "websocket", "path": "/socket", "query_string": b"", "scheme": "ws", "headers": headers}
    await app({**scope, "asgi": {"spec_version": "2.3"}}, arriving.get, send)
    assert [message["type"] for message in sent] == ["websocket.accept", "websocket.send", "websocket.close"]
    assert sent[1]["text"] == "True"
    assert not caplog.records
    cookie = dict(sent[0]["headers"])[b"set-cookie"].partition(b";")[0].decode()
    answered = await app.test_client(use_cookies=False).get("/read", headers={"Cookie": cookie})
    assert await answered.get_json() == {"begun": True, "then": "later"}


async def test_a_background_task_saves_what_it_writes_itself_or_it_is_said_to_be_lost(
    caplog: pytest.LogCaptureFixture,
) -> None:
    app = shop(YieldingStore(open_store("memory:")))
    answered = asyncio.Event()

    @app.post("/work")
    async def work() -> str:
        visit = session._get_current_object()

        async def later() -> None:
            await answered.wait()
            visit["forgotten"] = True
            assert "is not stored" in caplog.text
            del visit["forgotten"]
            visit["worked"] = True
            await visit.save()

        app.add_background_task(later)
        return "begun"

    client = app.test_client()
    await client.post("/write?a=1", headers=OWN)
    await client.post("/work", headers=OWN)
    answered.set()
    await asyncio.gather(*app.background_tasks)
    assert await (await client.get("/read")).get_json() == {"a": "1", "worked": True}


async def test_flashed_messages_are_shown_once() -> None:
    app = shop()

    @app.post("/flash")
    async def say() -> str:
        await flash(Markup("<b>saved</b>"))
        return "said"

    @app.get("/said")
    async def said() -> str:
        return await render_template_string("{% for one in get_flashed_messages() %}{{ one }}{% endfor %}")

    client = app.test_client()
    await client.post("/flash", headers=OWN)
    assert await (await client.get("/said")).get_data() == b"<b>saved</b>"
    assert await (await client.get("/said")).get_data() == b""


async def test_an_application_that_is_configured_before_it_serves_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_sessions, "_configured", None)
    app = Quart(__name__)
    ServerSession(app)

    @app.before_serving
    async def configure_late() -> None:
        configure()

    @app.get("/")
    async def index() -> dict[str, Any]:
        session["a"] = 1
        return await get_session_data()

    async with app.test_app() as served:
        assert await (await served.test_client().get("/")).get_json() == {"a": 1}


async def test_the_document_s_application_counts_logs_in_and_refuses_what_is_forged(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_sessions, "_configured", None)
    client = application_of("quart").test_client()

    async def send(path: str, **form: str) -> tuple[int, str]:
        answered = await client.post(path, form=form, follow_redirects=True)
        return answered.status_code, await answered.get_data(as_text=True)

    page = await (await client.get("/")).get_data(as_text=True)
    token = hidden_in(page)
    assert (await send("/add", csrf_token="forged"))[0] == 403
    assert "nobody: 1" in (await send("/add", csrf_token=token))[1]
    page = (await send("/log-in", csrf_token=token, user="ada"))[1]
    assert "ada: 1" in page
    assert (await send("/log-out", csrf_token=token))[0] == 403
    assert "nobody: 0" in (await send("/log-out", csrf_token=hidden_in(page)))[1]

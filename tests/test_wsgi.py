import http.client
import io
import socketserver
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer
from wsgiref.util import setup_testing_defaults
from wsgiref.validate import validator

import pytest

from server_session import FileSessionStore, MemorySessionStore, Sessions, configure, sync
from server_session.csrf.decorators import csrf_exempt, csrf_protect
from server_session.exceptions import (
    CarrierError,
    ConfigurationError,
    NotConfiguredError,
    ResponseStartedError,
    SerializationError,
    StoreError,
)
from server_session.http.carrier import current
from server_session.http.requests import WsgiRequest
from server_session.wsgi import SESSION, SessionMiddleware
from tests.patience import PATIENCE
from tests.visitors import Unanswered, Watched

Environ = dict[str, Any]


@pytest.fixture
def store() -> Watched:
    """The store of the configured default."""
    store = Watched()
    configure(session_store=store)
    return store


@pytest.fixture(params=["memory", "file"])
def sessions(request: pytest.FixtureRequest, tmp_path: Path) -> Sessions:
    """The configured default, over each store that needs nothing else."""
    return configure(session_store=MemorySessionStore() if request.param == "memory" else FileSessionStore(tmp_path))


@dataclass
class Answer:
    """A response, as a server got it."""

    status: str = ""
    headers: list[tuple[str, str]] = field(default_factory=list)
    chunks: list[bytes] = field(default_factory=list)
    starts: int = 0

    @property
    def body(self) -> bytes:
        return b"".join(self.chunks)

    def all(self, name: str) -> list[str]:
        return [value for key, value in self.headers if key.lower() == name]

    @property
    def cookie(self) -> str | None:
        """The session's cookie that the response sets; `""` if it expires it, `None` if it leaves it alone."""
        values = [value.partition(";")[0].partition("=")[2] for value in self.all("set-cookie")]
        return values[-1] if values else None


@dataclass
class Browser:
    """It keeps the cookie, and asks an application for pages."""

    app: Callable[..., Iterable[bytes]]
    cookie: str | None = None

    def environ(self, path: str = "/", method: str = "GET") -> Environ:
        environ: Environ = {"SCRIPT_NAME": "", "PATH_INFO": path, "REQUEST_METHOD": method, "QUERY_STRING": ""}
        setup_testing_defaults(environ)
        environ["wsgi.errors"] = io.StringIO()
        if self.cookie is not None:
            environ["HTTP_COOKIE"] = f"session={self.cookie}"
        return environ

    def begin(self, answer: Answer, path: str = "/", method: str = "GET") -> Iterable[bytes]:
        """Call the application as a server does that has not sent any headers yet."""

        def start_response(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Callable[..., None]:
            answer.starts += 1
            if exc_info is not None and answer.chunks:
                raise exc_info[1].with_traceback(exc_info[2])
            answer.status, answer.headers = status, headers
            return answer.chunks.append

        return self.app(self.environ(path, method), start_response)

    def get(self, path: str = "/", method: str = "GET") -> Answer:
        """Ask for a page, whole."""
        answer = self.lose(path, method)
        if answer.cookie is not None:
            self.cookie = answer.cookie or None
        return answer

    def lose(self, path: str = "/", method: str = "GET") -> Answer:
        """Ask for a page, and never hear of the answer."""
        answer = Answer()
        body = self.begin(answer, path, method)
        try:
            for chunk in body:
                answer.chunks.append(chunk)
        finally:
            if callable(close := getattr(body, "close", None)):
                close()
        return answer


def respond(start_response: Any, body: object = "", *headers: tuple[str, str]) -> list[bytes]:
    start_response("200 OK", [("Content-Type", "text/plain"), *headers])
    return [str(body).encode()]


def served(app: Callable[..., Iterable[bytes]], **settings: Any) -> Browser:
    return Browser(validator(SessionMiddleware(validator(app), **settings)))


def returning_nothing(app: Callable[..., Any]) -> Callable[..., Any]:
    """Call an application as some servers do: Hypercorn, and the bridges of asgiref and Starlette."""

    def call(environ: Environ, start_response: Callable[..., object]) -> Any:
        def start(*given: Any) -> None:
            start_response(*given)

        return app(environ, start)

    return call


def saved(browser: Browser) -> dict[str, Any]:
    """What the session holds, asked by another request of the same browser."""
    found: list[dict[str, Any]] = []

    def read(environ: Environ, start_response: Any) -> list[bytes]:
        found.append(sync.get_session_data())
        return respond(start_response)

    Browser(SessionMiddleware(read), browser.cookie).get()
    return found[0]


# --- one request


def test_the_mapping_is_in_the_environ_and_the_functions_know_the_request(store: Watched) -> None:
    def count(environ: Environ, start_response: Any) -> list[bytes]:
        session = environ[SESSION]
        session["n"] = session.get("n", 0) + 1
        sync.update_session_data(lambda data: data.update(twice=2 * data["n"]))
        sync.set_session_data(environ, {"seen": True})
        return respond(start_response, (session["n"], session["twice"], session["seen"]))

    browser = served(count)
    first = browser.get()
    assert (first.status, first.body) == ("200 OK", b"(1, 2, True)")
    assert len(browser.cookie or "") == 64
    second = browser.get()
    assert (second.body, second.cookie) == (b"(2, 4, True)", None)


def test_what_does_not_touch_the_session_costs_nothing(store: Watched) -> None:
    # The application itself without a validator, which wraps the list.
    browser = Browser(validator(SessionMiddleware(lambda _, start_response: respond(start_response, "x"))))
    browser.cookie = "A" * 64
    answer = browser.get()
    assert answer.headers == [("Content-Type", "text/plain")]
    assert store.calls == []


def test_a_response_that_looked_varies_and_one_that_sets_the_cookie_is_not_kept(store: Watched) -> None:
    def app(environ: Environ, start_response: Any) -> list[bytes]:
        assert "a" not in environ[SESSION]
        if environ["PATH_INFO"] == "/write":
            environ[SESSION]["a"] = 1
        return respond(start_response, "", ("Vary", "Accept"), ("Cache-Control", "no-transform"))

    looked = served(app).get("/look")
    assert (looked.all("vary"), looked.all("cache-control")) == (["Accept, Cookie"], ["no-transform"])
    assert looked.cookie is None
    wrote = served(app).get("/write")
    assert wrote.all("vary") == ["Accept, Cookie"]
    assert wrote.all("cache-control") == ["private, no-store, no-transform"]


def test_a_body_of_unknown_length_varies_for_it_may_look_at_the_session_yet(store: Watched) -> None:
    def app(environ: Environ, start_response: Any) -> Iterable[bytes]:
        path = environ["PATH_INFO"]
        known = [("Content-Length", "9")] if path == "/known" else []
        write = start_response("200 OK", [("Content-Type", "text/plain"), *known])
        if path == "/written":
            write(b"x")
            sync.get_session_data()
        return [b"late: {}\n"] if path == "/whole" else late()

    def late() -> Iterator[bytes]:
        yield b"late: "
        yield f"{sync.get_session_data()}\n".encode()

    for path, vary in (("/streamed", ["Cookie"]), ("/written", ["Cookie"]), ("/known", []), ("/whole", [])):
        assert (path, Browser(SessionMiddleware(app)).get(path).all("vary")) == (path, vary)


def test_its_set_cookie_stands_beside_others(store: Watched) -> None:
    def app(environ: Environ, start_response: Any) -> list[bytes]:
        sync.set_session_data({"a": 1})
        return respond(start_response, "", ("Set-Cookie", "one=1"), ("Set-Cookie", "two=2; Path=/"))

    names = [value.partition("=")[0] for value in served(app).get().all("set-cookie")]
    assert names == ["one", "two", "session"]


def test_the_list_of_headers_that_the_application_gave_is_left_alone(store: Watched) -> None:
    own = [("Content-Type", "text/plain")]

    def app(environ: Environ, start_response: Any) -> list[bytes]:
        sync.set_session_data({"a": 1})
        start_response("200 OK", own)
        return [b""]

    browser = served(app)
    browser.get()
    browser.cookie = None
    browser.get()
    assert own == [("Content-Type", "text/plain")]


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST"])
@pytest.mark.parametrize("body", [[], [b""], [b"", b"x"], (b"x",), [b"x", b"", b"y"]])
def test_it_is_stored_and_its_cookie_set_whatever_the_method_and_the_body(
    store: Watched, method: str, body: Iterable[bytes]
) -> None:
    def app(environ: Environ, start_response: Any) -> Iterable[bytes]:
        environ[SESSION]["a"] = 1
        start_response("200 OK", [("Content-Type", "text/plain")])
        return () if method == "HEAD" else body

    browser = served(app)
    answer = browser.get(method=method)
    assert answer.body == (b"" if method == "HEAD" else b"".join(body))
    assert saved(browser) == {"a": 1}


@pytest.mark.parametrize("status", ["204 No Content", "302 Found", "404 Not Found", "500 Internal Server Error"])
def test_it_is_stored_whatever_the_status(store: Watched, status: str) -> None:
    def app(environ: Environ, start_response: Any) -> list[bytes]:
        environ[SESSION]["a"] = 1
        headers = [] if status.startswith("204") else [("Content-Type", "text/plain")]
        start_response(status, headers)
        return []

    browser = served(app)
    assert browser.get().status == status
    assert saved(browser) == {"a": 1}


# --- start_response


def test_a_generator_may_write_before_and_after_its_first_chunk(store: Watched) -> None:
    def app(environ: Environ, start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", [("Content-Type", "text/plain")])
        environ[SESSION]["before"] = 1
        sync.set_session_data({"function": 1})
        yield b"one"
        environ[SESSION]["after"] = [2]
        yield b"two"
        environ[SESSION]["after"].append(3)
        sync.set_session_data({"function": 2})

    browser = served(app)
    answer = browser.get()
    assert (answer.chunks, answer.starts) == ([b"one", b"two"], 1)
    assert saved(browser) == {"before": 1, "after": [2, 3], "function": 2}


@pytest.mark.parametrize("hangs_up", [False, True])
def test_a_server_whose_start_response_returns_nothing_loses_no_late_write(store: Watched, hangs_up: bool) -> None:
    def app(environ: Environ, start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", [("Content-Type", "text/plain")])
        try:
            environ[SESSION]["before"] = 1
            yield b"one"
            yield b"two"
        finally:
            environ[SESSION]["after"] = 2

    browser = Browser(returning_nothing(SessionMiddleware(app)))
    answer = Answer()
    body = browser.begin(answer)
    chunks = [next(iter(body))] if hangs_up else [*body]
    body.close()
    browser.cookie = answer.cookie
    assert (chunks, answer.starts) == ([b"one", b"two"][: len(chunks)], 1)
    assert saved(browser) == {"before": 1, "after": 2}


def test_a_server_whose_start_response_returns_nothing_gets_what_is_refused_whole(store: Watched) -> None:
    def app(environ: Environ, start_response: Any) -> list[bytes]:
        sync.set_session_data({"a": 1})
        return respond(start_response)

    browser = Browser(returning_nothing(SessionMiddleware(app)))
    browser.get()
    refused = browser.lose(method="POST")
    assert (refused.status, refused.starts, len(refused.chunks)) == ("403 Forbidden", 1, 1)
    store.fails = ["merge"]
    failed = browser.lose()
    assert (failed.status, failed.starts, len(failed.chunks)) == ("503 Service Unavailable", 1, 1)


def test_a_server_that_takes_the_head_as_soon_as_it_has_the_body_is_given_it(store: Watched) -> None:
    def app(environ: Environ, start_response: Any) -> list[bytes]:
        environ[SESSION]["a"] = 1
        return respond(start_response, "whole")

    def ask_as_granian_does(browser: Browser, site: str) -> tuple[str, Answer]:
        answer = Answer()

        def start_response(status: str, headers: list[tuple[str, str]], _: Any = None) -> None:
            answer.status, answer.headers = status, headers

        body = browser.app({**browser.environ("/", "POST"), "HTTP_SEC_FETCH_SITE": site}, start_response)
        taken = answer.status
        answer.chunks += body
        return taken, answer

    browser = Browser(SessionMiddleware(app))
    taken, answer = ask_as_granian_does(browser, "same-origin")
    assert (taken, answer.chunks) == ("200 OK", [b"whole"])
    browser.cookie = answer.cookie
    assert saved(browser) == {"a": 1}
    taken, answer = ask_as_granian_does(browser, "cross-site")
    assert taken == answer.status == "403 Forbidden"
    assert b"Forbidden" in b"".join(answer.chunks)


def test_what_changed_before_the_first_chunk_is_stored_when_that_is_sent(store: Watched) -> None:
    def app(environ: Environ, start_response: Any) -> Iterator[bytes]:
        environ[SESSION]["a"] = 1
        start_response("200 OK", [("Content-Type", "text/plain")])
        yield b"one"
        yield b"two"

    browser = served(app)
    answer = Answer()
    body = iter(browser.begin(answer))
    assert store.calls == []
    next(body)
    browser.cookie = answer.cookie
    assert saved(browser) == {"a": 1}
    body.close()


def test_what_changed_after_it_is_stored_before_the_server_hears_of_the_end(store: Watched) -> None:
    def app(environ: Environ, start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", [("Content-Type", "text/plain")])
        environ[SESSION]["a"] = 1
        yield b"one"
        environ[SESSION]["a"] = 2

    browser = served(app)
    answer = Answer()
    body = iter(browser.begin(answer))
    assert next(body) == b"one"
    with pytest.raises(StopIteration):
        next(body)
    browser.cookie = answer.cookie
    assert saved(browser) == {"a": 2}
    body.close()


def test_a_new_cookie_after_the_first_chunk_is_an_error_and_founds_nothing(store: Watched) -> None:
    def app(environ: Environ, start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", [("Content-Type", "text/plain")])
        yield b"one"
        with pytest.raises(ResponseStartedError):
            sync.set_session_data({"a": 1})
        environ[SESSION]["a"] = 1

    with pytest.raises(ResponseStartedError):
        served(app).get()
    assert "set" not in store.calls


def test_start_response_may_be_called_as_late_as_in_the_first_step_of_the_body(store: Watched) -> None:
    class Body:
        def __init__(self, environ: Environ, start_response: Any) -> None:
            self.environ, self.start_response, self.left = environ, start_response, 2

        def __iter__(self) -> Iterator[bytes]:
            return self

        def __next__(self) -> bytes:
            if self.left == 2:
                self.environ[SESSION]["a"] = 1
                self.start_response("200 OK", [("Content-Type", "text/plain")])
            self.left -= 1
            if self.left < 0:
                raise StopIteration
            return b"x"

        def close(self) -> None:
            pass

    browser = served(Body)
    assert browser.get().body == b"xx"
    assert saved(browser) == {"a": 1}


def test_a_response_to_an_error_takes_the_place_of_one_that_has_not_started(store: Watched) -> None:
    def app(environ: Environ, start_response: Any) -> list[bytes]:
        start_response("200 OK", [("Content-Type", "text/html"), ("X-Page", "whole")])
        sync.set_session_data({"a": 1})
        try:
            1 / 0  # noqa: B018 - it raises
        except ZeroDivisionError:
            start_response("500 Oops", [("Content-Type", "text/plain")], sys.exc_info())
        return [b"error"]

    browser = served(app)
    answer = browser.get()
    assert (answer.status, answer.body, answer.all("x-page"), answer.starts) == ("500 Oops", b"error", [], 1)
    assert saved(browser) == {"a": 1}


def test_the_server_hears_of_the_error_to_which_a_response_is_the_answer(store: Watched) -> None:
    def app(environ: Environ, start_response: Any) -> list[bytes]:
        try:
            1 / 0  # noqa: B018 - it raises
        except ZeroDivisionError:
            start_response("500 Oops", [("Content-Type", "text/plain")], sys.exc_info())
        return [b"error"]

    heard: list[Any] = []

    def start_response(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Callable[..., None]:
        heard.append(exc_info)
        return heard.append

    assert [*SessionMiddleware(app)(Browser(app).environ(), start_response)] == [b"error"]
    assert heard[0][0] is ZeroDivisionError


def test_a_response_to_an_error_after_an_empty_chunk_bears_the_cookie_too(store: Watched) -> None:
    # A server sends the headers with the first chunk that is not empty; until then they may be replaced (PEP 3333).
    def app(environ: Environ, start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", [("Content-Type", "text/plain")])
        sync.set_session_data({"a": 1})
        yield b""
        try:
            1 / 0  # noqa: B018 - it raises
        except ZeroDivisionError:
            start_response("500 Oops", [("Content-Type", "text/plain")], sys.exc_info())
        yield b"error"

    browser = Browser(SessionMiddleware(app))
    answer = Answer()
    body = iter(browser.begin(answer))
    assert next(body) == b""
    assert next(body) == b"error"
    assert answer.status == "500 Oops"
    browser.cookie = answer.cookie
    assert saved(browser) == {"a": 1}
    assert len(answer.all("set-cookie")) == 1


def test_an_error_after_the_start_is_raised_by_the_server(store: Watched) -> None:
    def app(environ: Environ, start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", [("Content-Type", "text/plain")])
        environ[SESSION]["a"] = 1
        yield b"one"
        environ[SESSION]["b"] = 2
        try:
            1 / 0  # noqa: B018 - it raises
        except ZeroDivisionError:
            start_response("500 Oops", [("Content-Type", "text/plain")], sys.exc_info())
        yield b"never"

    browser = Browser(SessionMiddleware(app))
    answer = Answer()
    body = browser.begin(answer)
    answer.chunks.append(next(iter(body)))
    with pytest.raises(ZeroDivisionError):
        next(iter(body))
    body.close()
    assert answer.status == "200 OK"
    browser.cookie = answer.cookie
    assert saved(browser) == {"a": 1, "b": 2}


def test_start_response_twice_without_an_error_is_a_mistake_of_the_application(store: Watched) -> None:
    def app(environ: Environ, start_response: Any) -> list[bytes]:
        respond(start_response)
        return respond(start_response)

    with pytest.raises(AssertionError, match="twice without exc_info"):
        Browser(SessionMiddleware(app)).get()


def test_a_body_without_start_response_is_a_mistake_of_the_application(store: Watched) -> None:
    def app(environ: Environ, start_response: Any) -> list[bytes]:
        return [b"x"]

    with pytest.raises(AssertionError, match="before it called start_response"):
        Browser(SessionMiddleware(app)).get()


def test_the_write_callable_sends_the_head_with_the_cookie_first(store: Watched) -> None:
    def app(environ: Environ, start_response: Any) -> list[bytes]:
        write = start_response("200 OK", [("Content-Type", "text/plain")])
        environ[SESSION]["before"] = 1
        write(b"one")
        environ[SESSION]["after"] = 2
        write(b"two")
        return [b"three"]

    browser = served(app)
    answer = browser.get()
    assert (answer.chunks, answer.starts) == ([b"one", b"two", b"three"], 1)
    assert saved(browser) == {"before": 1, "after": 2}


def test_a_store_that_fails_after_write_was_called_is_an_error_for_the_server(store: Watched) -> None:
    def app(environ: Environ, start_response: Any) -> list[bytes]:
        write = start_response("200 OK", [("Content-Type", "text/plain")])
        environ[SESSION]["a"] = 1
        write(b"one")
        store.fails = ["merge"]
        sync.set_session_data({"a": 2})
        return [b"never"]

    answer = Answer()
    with pytest.raises(StoreError):
        Browser(SessionMiddleware(app)).begin(answer)
    assert (answer.status, answer.chunks) == ("200 OK", [b"one"])


# --- close


class Closing:
    """A body that counts how often it is closed."""

    def __init__(self, environ: Environ, start_response: Any) -> None:
        self.environ = environ
        self.closed = 0
        environ[SESSION]["chunks"] = 0
        start_response("200 OK", [("Content-Type", "text/plain")])

    def __iter__(self) -> Iterator[bytes]:
        for _ in range(3):
            self.environ[SESSION]["chunks"] += 1
            yield b"x"

    def close(self) -> None:
        self.closed += 1
        assert sync.get_session_data()["chunks"] == self.environ[SESSION]["chunks"]
        self.environ[SESSION]["closed"] = True


@pytest.mark.parametrize("chunks", [3, 1])
def test_close_is_called_once_be_the_body_read_to_its_end_or_not(store: Watched, chunks: int) -> None:
    bodies: list[Closing] = []

    def app(environ: Environ, start_response: Any) -> Closing:
        bodies.append(Closing(environ, start_response))
        return bodies[-1]

    browser = Browser(SessionMiddleware(app))
    answer = Answer()
    body = browser.begin(answer)
    steps = iter(body)
    for _ in range(chunks):
        next(steps)
    if chunks == 3:
        with pytest.raises(StopIteration):
            next(steps)
    body.close()
    assert bodies[0].closed == 1
    browser.cookie = answer.cookie
    # What a visitor who hung up had changed until then is stored.
    assert saved(browser) == {"chunks": chunks, "closed": True}


@pytest.mark.parametrize("raises", ["nothing", "the application", "close"])
def test_what_is_written_once_the_request_is_over_is_logged_as_lost(
    store: Watched, raises: str, caplog: pytest.LogCaptureFixture
) -> None:
    sessions: list[Any] = []

    class Body(list[bytes]):
        def close(self) -> None:
            if raises == "close":
                raise ZeroDivisionError

    def app(environ: Environ, start_response: Any) -> Body:
        sessions.append(environ[SESSION])
        if raises == "the application":
            raise ZeroDivisionError
        respond(start_response)
        return Body([b"x"])

    with nullcontext() if raises == "nothing" else pytest.raises(ZeroDivisionError):
        Browser(SessionMiddleware(app)).get()
    assert "not stored" not in caplog.text
    sessions[0]["late"] = 1
    assert "not stored" in caplog.text


def test_a_server_that_hangs_up_before_the_first_chunk_stores_nothing(store: Watched) -> None:
    def app(environ: Environ, start_response: Any) -> Iterator[bytes]:
        environ[SESSION]["a"] = 1
        start_response("200 OK", [("Content-Type", "text/plain")])
        yield b"x"

    body = Browser(SessionMiddleware(app)).begin(Answer())
    body.close()
    assert store.calls == []


def test_no_request_is_served_between_the_chunks_and_after_them(store: Watched) -> None:
    def app(environ: Environ, start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", [("Content-Type", "text/plain")])
        for _ in range(2):
            sync.get_session_data()
            yield b"x"

    def other(environ: Environ, start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", [("Content-Type", "text/plain")])
        assert sync.get_session_data() == {}
        yield b"x"

    # One thread may well serve two bodies by turns.
    bodies = [iter(Browser(SessionMiddleware(one)).begin(Answer())) for one in (app, other)]
    for body in bodies:
        next(body)
        assert current.get() is None
    with pytest.raises(CarrierError):
        sync.get_session_data()
    for body in bodies:
        body.close()


# --- what fails


@pytest.mark.parametrize("after_start_response", [True, False])
def test_an_application_that_raises_before_the_start_saves_nothing(store: Watched, after_start_response: bool) -> None:
    def app(environ: Environ, start_response: Any) -> list[bytes]:
        environ[SESSION]["a"] = 1
        if after_start_response:
            respond(start_response)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        Browser(SessionMiddleware(app)).get()
    assert store.calls == []
    assert current.get() is None


def test_a_generator_that_raises_before_its_first_chunk_saves_nothing(store: Watched) -> None:
    def app(environ: Environ, start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", [("Content-Type", "text/plain")])
        environ[SESSION]["a"] = 1
        raise ZeroDivisionError
        yield b"never"

    with pytest.raises(ZeroDivisionError):
        Browser(SessionMiddleware(app)).get()
    assert store.calls == []


def test_a_value_that_cannot_be_stored_is_an_error_before_the_start(store: Watched) -> None:
    def app(environ: Environ, start_response: Any) -> list[bytes]:
        environ[SESSION]["bad"] = object()
        return respond(start_response)

    answer = Answer()
    with pytest.raises(SerializationError, match="'bad'"):
        Browser(SessionMiddleware(app)).begin(answer)
    assert (answer.starts, store.calls) == (0, [])


@pytest.mark.parametrize(
    "fails, where",
    [
        ("get", "load"),
        ("set", "commit"),
        ("set", "generator"),
        ("set", "function"),
        ("merge", "renew"),
        ("set", "write"),
    ],
)
def test_a_store_that_is_down_is_a_503(store: Watched, fails: str, where: str) -> None:
    closed: list[str] = []

    def put(environ: Environ, start_response: Any) -> list[bytes]:
        sync.set_session_data({"kept": 1})
        return respond(start_response)

    class Body:
        def __init__(self, environ: Environ) -> None:
            self.environ = environ

        def __iter__(self) -> Iterator[bytes]:
            self.environ[SESSION]["a"] = 1
            yield b"stored"

        def close(self) -> None:
            closed.append(where)

    def app(environ: Environ, start_response: Any) -> Iterable[bytes]:
        write = start_response("200 OK", [("Content-Type", "text/plain"), ("X-Page", "whole")])
        if where == "generator":
            return Body(environ)
        if where == "function":
            sync.set_session_data({"a": 1})
        elif where == "renew":
            sync.renew_session()
        else:
            environ[SESSION]["a"] = environ[SESSION].get("a", 0) + 1
        if where == "write":
            write(b"stored")
        return [b"stored"]

    browser = served(put)
    if where in ("load", "renew"):
        browser.get()
    cookie = browser.cookie
    browser.app = served(app).app
    store.fails = ["get", "set", "merge"] if where == "renew" else [fails]
    answer = browser.get()
    assert answer.status == "503 Service Unavailable"
    assert b"try again later" in answer.body.lower()
    assert b"stored" not in answer.body
    assert (answer.all("x-page"), answer.all("cache-control"), answer.cookie) == ([], ["no-store"], None)
    assert closed == (["generator"] if where == "generator" else [])
    store.fails = ()
    browser.cookie = cookie
    assert saved(browser) == ({"kept": 1} if cookie else {})


def test_what_was_answered_with_503_is_not_stored_later(store: Watched) -> None:
    def app(environ: Environ, start_response: Any) -> list[bytes]:
        environ[SESSION]["a"] = 1
        return respond(start_response)

    store.fails = ["set"]
    body = Browser(SessionMiddleware(app)).begin(Answer())
    steps = iter(body)
    next(steps)
    store.fails = ()
    with pytest.raises(StopIteration):
        next(steps)
    body.close()
    assert store.calls == ["set"]


@pytest.mark.parametrize("call", [sync.renew_session, lambda: sync.replace_session_data({"a": 1})])
def test_a_503_is_whole_whatever_became_of_the_write_that_nobody_answered(
    call: Callable[[], object], store: Watched
) -> None:
    def app(environ: Environ, start_response: Any) -> list[bytes]:
        sync.get_session_data()
        store.fails = ["get", "look", "set", "merge"]
        call()
        return respond(start_response)

    def put(environ: Environ, start_response: Any) -> list[bytes]:
        sync.set_session_data({"kept": 1})
        return respond(start_response)

    browser = served(put)
    browser.get()
    browser.app = served(app).app
    assert browser.get().status == "503 Service Unavailable"


def test_a_503_bears_the_cookie_of_what_was_done_before_the_store_failed(store: Watched) -> None:
    def app(environ: Environ, start_response: Any) -> list[bytes]:
        sync.renew_session(data={"kept": 1})
        store.fails = ["get"]
        sync.get_session_data()
        return respond(start_response)

    browser = served(lambda _, start_response: respond(start_response, sync.set_session_data({"a": 1})))
    browser.get()
    browser.app = served(app).app
    answer = browser.get()
    assert (answer.status, answer.all("cache-control")) == ("503 Service Unavailable", ["private, no-store"])
    store.fails = ()
    assert saved(browser) == {"a": 1, "kept": 1}


def test_a_503_bears_the_cookie_that_a_renewal_which_nobody_answered_has_swapped() -> None:
    store = Unanswered()
    configure(session_store=store)
    browser = served(lambda _, start_response: respond(start_response, sync.set_session_data({"a": 1})))
    browser.get()
    store.unanswered = {"merge"}
    browser.app = served(lambda _, start_response: respond(start_response, sync.renew_session())).app
    assert browser.get().status == "503 Service Unavailable"
    assert saved(browser) == {"a": 1}


def test_a_store_that_fails_after_the_start_is_an_error_for_the_server(store: Watched) -> None:
    def app(environ: Environ, start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", [("Content-Type", "text/plain")])
        environ[SESSION]["a"] = 1
        yield b"one"
        environ[SESSION]["a"] = 2
        store.fails = ["merge"]

    answer = Answer()
    body = Browser(SessionMiddleware(app)).begin(answer)
    answer.chunks.append(next(iter(body)))
    with pytest.raises(StoreError):
        next(iter(body))
    assert (answer.status, answer.starts) == ("200 OK", 1)
    with pytest.raises(StoreError):
        body.close()


# --- which endpoint will serve


def test_the_check_hears_what_the_endpoint_asks_that_the_application_names(
    store: Watched, caplog: pytest.LogCaptureFixture
) -> None:
    @csrf_exempt
    def hook() -> None: ...

    @csrf_protect(strict=True)
    def leave() -> None: ...

    def app(environ: Environ, start_response: Any) -> list[bytes]:
        return respond(start_response, "served")

    endpoints = {"/hook": hook, "/leave": leave}
    browser = Browser(SessionMiddleware(app, endpoint=lambda environ: endpoints[environ["PATH_INFO"]]), "A" * 64)
    assert browser.get("/hook", "POST").status == "200 OK"
    assert browser.get("/leave", "POST").status == "403 Forbidden"
    assert "is not heard" not in caplog.text
    browser.app = SessionMiddleware(app)
    for _ in range(2):
        assert browser.get("/hook", "POST").status == "403 Forbidden"
    assert caplog.text.count("is not heard") == 1


def test_what_a_layer_between_two_middlewares_puts_in_the_environ_s_place_is_what_the_inner_one_serves(
    store: Watched,
) -> None:
    paths: list[str] = []

    def app(environ: Environ, start_response: Any) -> list[bytes]:
        paths.append(WsgiRequest.of(environ).path)
        return respond(start_response)

    inner = SessionMiddleware(app)

    def layer(environ: Environ, start_response: Any) -> Iterable[bytes]:
        return inner({**environ, "PATH_INFO": "/inner"}, start_response)

    Browser(SessionMiddleware(layer)).get("/outer")
    assert paths == ["/inner"]


# --- settings


def test_without_configure_it_says_so() -> None:
    with pytest.raises(NotConfiguredError):
        Browser(SessionMiddleware(lambda _, start_response: respond(start_response))).get()


def test_an_application_can_have_sessions_of_its_own(store: Watched) -> None:
    own = Sessions(session_store=MemorySessionStore())

    def app(environ: Environ, start_response: Any) -> list[bytes]:
        environ[SESSION]["a"] = 1
        return respond(start_response, own.sync.get_session_data())

    assert served(app, sessions=own).get().body == b"{'a': 1}"
    assert served(app, session_store=MemorySessionStore()).get().body == b"{}"
    assert store.calls == []
    with pytest.raises(ConfigurationError, match="not both"):
        SessionMiddleware(app, own, max_age=5)


# --- requests that overlap


def test_50_overlapping_requests_that_each_set_a_key_keep_50_keys(sessions: Sessions) -> None:
    meet = threading.Barrier(50)

    def app(environ: Environ, start_response: Any) -> list[bytes]:
        name = environ["PATH_INFO"]
        if name == "/":
            environ[SESSION]["first"] = True
        else:
            # All have read before any has written.
            assert len(environ[SESSION]) == 1
            meet.wait(PATIENCE)
            environ[SESSION][name] = name
        return respond(start_response)

    browser = Browser(SessionMiddleware(app))
    browser.get()
    with ThreadPoolExecutor(50) as pool:
        answers = list(pool.map(lambda number: browser.get(f"/{number}"), range(50)))
    assert {answer.status for answer in answers} == {"200 OK"}
    assert saved(browser) == {"first": True, **{f"/{number}": f"/{number}" for number in range(50)}}


def test_50_overlapping_requests_that_each_add_one_make_50(sessions: Sessions) -> None:
    meet = threading.Barrier(50)

    def add(data: dict[str, Any]) -> None:
        data["n"] = data.get("n", 0) + 1

    def app(environ: Environ, start_response: Any) -> list[bytes]:
        if environ["PATH_INFO"] == "/":
            sync.set_session_data({"other": 0})
        else:
            meet.wait(PATIENCE)
            assert sync.update_session_data(add)
        return respond(start_response)

    browser = Browser(SessionMiddleware(app))
    browser.get()
    with ThreadPoolExecutor(50) as pool:
        answers = list(pool.map(lambda number: browser.get(f"/{number}"), range(1, 51)))
    assert {answer.status for answer in answers} == {"200 OK"}
    assert saved(browser) == {"other": 0, "n": 50}


class ThreadingServer(socketserver.ThreadingMixIn, WSGIServer):
    request_queue_size = 64
    daemon_threads = True


class QuietHandler(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - its own name
        pass


def test_a_threading_server_keeps_all_that_50_connections_write(sessions: Sessions) -> None:
    def add(data: dict[str, Any]) -> None:
        data["n"] = data.get("n", 0) + 1

    meet = threading.Barrier(50)

    def app(environ: Environ, start_response: Any) -> list[bytes]:
        name = environ["PATH_INFO"]
        if name != "/":
            meet.wait(PATIENCE)
            assert sync.update_session_data(add)
        environ[SESSION][name] = True
        return respond(start_response)

    server = ThreadingServer(("127.0.0.1", 0), QuietHandler)
    server.set_app(SessionMiddleware(app))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()

    def ask(path: str, cookie: str = "") -> tuple[int, str]:
        connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=PATIENCE)
        try:
            connection.request("GET", path, headers={"Cookie": cookie} if cookie else {})
            response = connection.getresponse()
            response.read()
            return response.status, (response.getheader("Set-Cookie") or "").partition(";")[0]
        finally:
            connection.close()

    try:
        _, cookie = ask("/")
        with ThreadPoolExecutor(50) as pool:
            answers = list(pool.map(lambda number: ask(f"/{number}", cookie), range(50)))
    finally:
        server.shutdown()
        thread.join(PATIENCE)
        server.server_close()
    assert answers == [(200, "")] * 50
    found = saved(Browser(server.get_app(), cookie.partition("=")[2]))
    assert found == {"/": True, "n": 50, **{f"/{number}": True for number in range(50)}}


@dataclass
class Slow:
    """Requests that saw the session, and go on when the test says so."""

    seen: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    go_on: threading.Event = field(default_factory=threading.Event)

    def wait(self) -> None:
        self.seen.release()
        assert self.go_on.wait(PATIENCE)


SLOW = ("/read", "/write", "/read-function", "/write-function", "/append")


def shop(slow: Slow) -> Callable[..., Iterable[bytes]]:
    def app(environ: Environ, start_response: Any) -> list[bytes]:
        session = environ[SESSION]
        path = environ["PATH_INFO"]
        if path == "/put":
            session["items"] = []
        elif path == "/read":
            assert session["items"] == []
            slow.wait()
        elif path == "/write":
            assert session["items"] == []
            slow.wait()
            session["late"] = True
        elif path == "/append":
            items = session["items"]
            slow.wait()
            items.append("late")
        elif path == "/read-function":
            assert sync.get_session_data() == {"items": []}
            slow.wait()
            sync.get_session_data()
        elif path == "/write-function":
            assert sync.get_session_data() == {"items": []}
            slow.wait()
            assert sync.set_session_data({"late": True}) is False
        elif path == "/log-out":
            assert sync.destroy_session()
        elif path == "/clear":
            session.clear()
        elif path == "/log-in":
            assert sync.log_in("ada", {"user": "ada"})
        elif path == "/log-in-by-key":
            session["user"] = "ada"
        elif path == "/renew":
            assert sync.renew_session(data={"user": "ada"})
        return respond(start_response, sync.get_session_data())

    return SessionMiddleware(app)


def overlap(browser: Browser, slow: Slow, path: str) -> list[Answer]:
    """Ask for `path` while the slow requests have seen the session and have not yet written; they end after it."""
    with ThreadPoolExecutor(len(SLOW)) as pool:
        cookie = browser.cookie
        pending = [pool.submit(Browser(browser.app, cookie).lose, one) for one in SLOW]
        try:
            for _ in SLOW:
                assert slow.seen.acquire(timeout=PATIENCE)
            browser.get(path)
        finally:
            slow.go_on.set()
        answers = [one.result(PATIENCE) for one in pending]
    for answer in answers:
        # They come last: what they set is what the browser has from then on.
        if answer.cookie is not None:
            browser.cookie = answer.cookie or None
    return answers


@pytest.mark.parametrize("path", ["/log-out", "/clear"])
def test_a_log_out_that_overlaps_slow_readers_and_writers_stays_logged_out(sessions: Sessions, path: str) -> None:
    slow = Slow()
    browser = Browser(shop(slow))
    browser.get("/put")
    before = browser.cookie
    answers = overlap(browser, slow, path)
    assert browser.cookie is None
    assert [answer.cookie for answer in answers] == [None] * len(SLOW)
    browser.cookie = before
    assert browser.get("/").body == b"{}"


@pytest.mark.parametrize("path", ["/log-in", "/log-in-by-key", "/renew"])
def test_a_log_in_that_overlaps_slow_readers_and_writers_keeps_its_cookie(sessions: Sessions, path: str) -> None:
    slow = Slow()
    browser = Browser(shop(slow))
    browser.get("/put")
    before = browser.cookie
    answers = overlap(browser, slow, path)
    assert browser.cookie not in (None, before)
    assert [answer.cookie for answer in answers] == [None] * len(SLOW)
    found = saved(browser)
    assert found["user"] == "ada"
    assert "late" not in found
    assert found.get("items", []) == []


@pytest.mark.parametrize("path", ["/log-in", "/log-in-by-key", "/renew"])
def test_a_browser_that_never_got_the_answer_of_its_log_in_logs_in_again(sessions: Sessions, path: str) -> None:
    browser = Browser(shop(Slow()))
    browser.get("/put")
    before = browser.cookie
    browser.lose(path)
    browser.get(path)
    assert browser.cookie not in (None, before)
    assert saved(browser)["user"] == "ada"

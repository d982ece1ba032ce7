"""The site that the tests of an adapter visit: its pages, written once for views of either colour."""

import json
from collections.abc import AsyncIterator, Callable, Collection, Coroutine, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Concatenate, Final, ParamSpec, TypeAlias, TypeVar

from server_session._colour import drive, settled
from server_session._sessions import Sessions
from server_session.csrf.decorators import csrf_exempt, csrf_protect
from server_session.exceptions import StoreError
from server_session.exchange import Exchange
from server_session.http.carrier import current
from server_session.http.requests import Request
from server_session.stores._base import SessionStore
from server_session.stores._over import StoreOver
from server_session.testing._checks import check, check_equal

__all__ = ["Encoded", "Failed", "FailingStore", "Headed", "Here", "Page", "Redirected", "Site", "Streamed"]

P = ParamSpec("P")
R = TypeVar("R")


class FailingStore(StoreOver):
    """A tool for tests: a store over another, that raises `StoreError` while it `is_down`.

    It does the next change to the record of which it `loses_answer`, its key, and raises it nevertheless.
    """

    is_down = False
    loses_answer: str | None = None

    async def _ask(
        self,
        call: Callable[Concatenate[str, P], Coroutine[Any, Any, R]],
        key: str,
        *arguments: P.args,
        **options: P.kwargs,
    ) -> R:
        if self.is_down:
            raise StoreError("the store of this test is down")
        answer = await call(key, *arguments, **options)
        if key == self.loses_answer and call == self._store.merge:
            self.loses_answer = None
            raise StoreError("the answer of this test's store is lost")
        return answer


# --- what a view has in hand, and what it answers


@dataclass
class Here:
    """What a page's view has in hand, each as the framework has it.

    What is called may return an awaitable. `response` is one that the functions can be given, `None` where the
    framework has none yet; `form` returns the fields of the request's form, `body` its bytes, read as a stream where
    the framework has one; `render` makes a page of a template of the framework's own that calls `csrf_input()`, and
    `replace` puts another mapping, or `None`, in the session's place; both are `None` where there is no such thing.
    """

    session: Callable[[], Any]
    request: Any
    query: Mapping[str, str]
    form: Callable[[], Any]
    body: Callable[[], Any]
    response: Any = None
    render: Callable[[], Any] | None = None
    replace: Callable[[Any], Any] | None = None


@dataclass
class Redirected:
    """A redirect (303) to this path, raised where the framework has an exception for it."""

    path: str


@dataclass
class Failed:
    """An error of this status, raised as the framework's views raise theirs."""

    status: int


@dataclass
class Streamed:
    """A streamed body: an asynchronous iterator, in a site that blocks a plain one."""

    chunks: Any


@dataclass
class Encoded:
    """JSON, made by the framework's own encoder."""

    value: Any


@dataclass
class Headed:
    """Text, with these headers of the application's own."""

    text: str
    headers: list[tuple[str, str]]


Answer: TypeAlias = str | Redirected | Failed | Streamed | Encoded | Headed
Body: TypeAlias = Callable[[Here], Coroutine[Any, Any, Answer]]
Mark: TypeAlias = Callable[[Any], Any]


def _unmarked(endpoint: Any) -> Any:
    return endpoint


@dataclass(frozen=True)
class Page:
    """One page. Its view makes a `Here`, awaits `body` or calls `run`, and makes the framework's response of that.

    `mark` is given the view, before it is routed. A page that `is_inner` belongs into a sub-application, a blueprint,
    or what else the framework mounts beneath `/inner`; its `path` tells that too.
    """

    path: str
    methods: Collection[str]
    body: Body
    mark: Mark = _unmarked

    @property
    def name(self) -> str:
        """The path as an identifier."""
        return self.path.strip("/").replace("/", "_").replace("-", "_")

    @property
    def is_inner(self) -> bool:
        """Whether it lies beneath `/inner`."""
        return self.path.startswith("/inner/")

    def run(self, here: Here) -> Answer:
        """Return what `body` does, to a view that blocks."""
        return drive(self.body(here))


class _Watched(Sessions):
    """Sessions that note which requests came, and whether one began where another was still said to be served."""

    left_behind = 0

    def __init__(self, store: SessionStore) -> None:
        super().__init__(session_store=store)
        self.exchanges: list[Exchange] = []

    def exchange(self, request: Request) -> Exchange:
        is_new = self.base not in request.exchanges
        exchange = super().exchange(request)
        if is_new:
            self.exchanges.append(exchange)
            self.left_behind += current.get() not in (None, request)
        return exchange


@dataclass
class Site:
    """The site: its `pages`, its `sessions`, and the `store` beneath them, which can be told to fail.

    `watch` is for adapters that close WebSockets whose session has ended, and `greeting` what a socket sends first.
    """

    store: FailingStore
    blocks: bool
    watch: float = 0.05
    sessions: _Watched = field(init=False)
    pages: list[Page] = field(init=False)

    def __post_init__(self) -> None:
        self.sessions = _Watched(self.store)
        self.functions: Any = self.sessions.sync if self.blocks else self.sessions
        self.pages = [
            Page(path, methods, body, mark) for path, methods, body, mark in (_described(one) for one in self._bodies())
        ]

    @classmethod
    def over(cls, store: SessionStore, *, blocks: bool) -> "Site":
        """Return the site over this store, for views that block or await."""
        return cls(FailingStore(store), blocks)

    @property
    def left_behind(self) -> int:
        """How many requests began in a context in which another was still said to be served."""
        return self.sessions.left_behind

    @property
    def served(self) -> int:
        """How many requests are still said to be served."""
        return sum(exchange.is_served for exchange in self.sessions.exchanges)

    def forget(self) -> None:
        """Forget which requests came."""
        self.sessions.exchanges.clear()

    async def greeting(self, session: Any) -> str:
        """Return what a WebSocket sends first: what the session holds. It writes to the session too."""
        loaded = await settled(session)
        text = _text(loaded)
        loaded["greeted"] = True
        return text

    # --- the pages

    def _bodies(self) -> list[Any]:
        get, post, both = ("GET",), ("POST",), ("GET", "POST")
        return [
            ("/nothing", get, self._nothing),
            ("/read", get, self._read),
            ("/write", both, self._write),
            ("/change", ("PUT", "PATCH"), self._write),
            ("/append", post, self._append),
            ("/user", post, self._user),
            ("/clear", post, self._clear),
            ("/replace", post, self._replace),
            ("/replace-none", post, self._replace_none),
            ("/encoded", get, self._encoded),
            ("/both", post, self._both),
            *(("/set/" + how, post, self._set(how)) for how in CARRIERS),
            *(("/data/" + how, get, self._data(how)) for how in CARRIERS),
            ("/count", post, self._count),
            ("/log-in", post, self._log_in),
            ("/destroy", post, self._destroy),
            ("/alive", get, self._alive),
            ("/exempt", post, self._write, csrf_exempt),
            ("/strict", post, self._write, csrf_protect(strict=True)),
            ("/scoped", post, self._write, csrf_protect(scoped=True, strict=True)),
            ("/every", get, self._write, csrf_protect(every_method=True, strict=True)),
            ("/token", get, self._token),
            ("/form", both, self._form),
            ("/body", post, self._body),
            ("/stream", get, self._stream),
            ("/stream/endless", get, self._endless),
            ("/stream/token", get, self._stream_of_token),
            ("/stream/lost", get, self._stream_without_a_store),
            ("/exception", both, self._exception),
            ("/failed", post, self._failed),
            ("/redirected", post, self._redirected),
            ("/foreign-cookie", get, self._foreign_cookie),
            ("/inner/read", get, self._read),
            ("/inner/write", post, self._write),
            ("/inner/exempt", post, self._write, csrf_exempt),
        ]

    async def _nothing(self, here: Here) -> Answer:
        return "nothing"

    async def _read(self, here: Here) -> Answer:
        return _text(await settled(here.session()))

    async def _write(self, here: Here) -> Answer:
        session = await settled(here.session())
        for name, value in here.query.items():
            session[name] = value
        return "written"

    async def _append(self, here: Here) -> Answer:
        session = await settled(here.session())
        session.setdefault("list", [])
        session["list"].append(here.query["item"])
        return _text(session)

    async def _user(self, here: Here) -> Answer:
        session = await settled(here.session())
        session["user"] = here.query["user"]
        return "in"

    async def _clear(self, here: Here) -> Answer:
        session = await settled(here.session())
        session.clear()
        return "cleared"

    async def _replace(self, here: Here) -> Answer:
        if here.replace is not None:
            await settled(here.replace({"whole": "new"}))
        return "replaced"

    async def _replace_none(self, here: Here) -> Answer:
        if here.replace is not None:
            await settled(here.replace(None))
        return "replaced"

    async def _encoded(self, here: Here) -> Answer:
        return Encoded(await settled(here.session()))

    async def _both(self, here: Here) -> Answer:
        session = await settled(here.session())
        session["mapping"] = "m"
        check(await settled(self.functions.set_session_data({"function": "f"})), "set_session_data said False")
        check_equal(session["function"], "f", "what a function wrote, in the mapping")
        return json.dumps(await settled(self.functions.get_session_data()), sort_keys=True)

    def _set(self, how: str) -> Body:
        async def set_data(here: Here) -> Answer:
            return str(await settled(self.functions.set_session_data(*CARRIERS[how](here), {**here.query})))

        return set_data

    def _data(self, how: str) -> Body:
        async def data(here: Here) -> Answer:
            return json.dumps(await settled(self.functions.get_session_data(*CARRIERS[how](here))), sort_keys=True)

        return data

    async def _count(self, here: Here) -> Answer:
        def more(data: dict[str, Any]) -> None:
            data["count"] = data.get("count", 0) + 1

        return str(await settled(self.functions.update_session_data(more)))

    async def _log_in(self, here: Here) -> Answer:
        return str(await settled(self.functions.log_in(here.query["user"], {**here.query})))

    async def _destroy(self, here: Here) -> Answer:
        return str(await settled(self.functions.destroy_session()))

    async def _alive(self, here: Here) -> Answer:
        return str(await settled(self.functions.is_alive(here.request)))

    async def _token(self, here: Here) -> Answer:
        scope = ("POST", here.query["for"]) if "for" in here.query else None
        token: str = await settled(self.functions.get_csrf_token(scope=scope))
        return token

    async def _form(self, here: Here) -> Answer:
        if here.query.get("sent"):
            return json.dumps(await settled(here.form()), sort_keys=True)
        if here.render is None:
            return ""
        page: str = await settled(here.render())
        return page

    async def _body(self, here: Here) -> Answer:
        body: bytes = await settled(here.body())
        return body.decode("latin-1")

    async def _stream(self, here: Here) -> Answer:
        session = await settled(here.session())
        session["begun"], session["sent"] = True, []

        def write(number: int) -> bytes:
            session["last"] = number
            session["sent"].append(number)
            return b"x"

        return Streamed(self._chunks(write, 3))

    def _chunks(self, write: Callable[[int], bytes], count: int) -> Any:
        def chunks() -> Iterator[bytes]:
            for number in range(count):
                yield write(number)
            self.functions.set_session_data({"function": "too"})

        async def achunks() -> AsyncIterator[bytes]:
            for number in range(count):
                yield write(number)
            await self.functions.set_session_data({"function": "too"})

        return chunks() if self.blocks else achunks()

    async def _endless(self, here: Here) -> Answer:
        return Streamed(self._chunks(lambda _: b"x" * 65536, 200))

    async def _stream_of_token(self, here: Here) -> Answer:
        def chunks() -> Iterator[bytes]:
            yield json.dumps(self.functions.get_session_data()).encode()

        async def achunks() -> AsyncIterator[bytes]:
            yield json.dumps(await self.functions.get_session_data()).encode()

        return Streamed(chunks() if self.blocks else achunks())

    async def _stream_without_a_store(self, here: Here) -> Answer:
        stream = await self._stream(here)
        self.store.is_down = True
        return stream

    async def _exception(self, here: Here) -> Answer:
        await self._write(here)
        raise RuntimeError("this page always fails")

    async def _failed(self, here: Here) -> Answer:
        await self._write(here)
        return Failed(409)

    async def _redirected(self, here: Here) -> Answer:
        await self._write(here)
        return Redirected("/read")

    async def _foreign_cookie(self, here: Here) -> Answer:
        await self._write(here)
        return Headed(
            "another's", [("Set-Cookie", f"{here.query['name']}=another; Path=/"), ("Cache-Control", "public")]
        )


CARRIERS: Final[Mapping[str, Callable[[Here], tuple[Any, ...]]]] = {
    "none": lambda _: (),
    "request": lambda here: (here.request,),
    "response": lambda here: (here.request,) if here.response is None else (here.request, here.response),
}


def _text(session: Any) -> str:
    # Django's is not iterable.
    return json.dumps({name: session[name] for name in session.keys()}, sort_keys=True)  # noqa: SIM118


def _described(one: Any) -> tuple[str, Collection[str], Body, Mark]:
    path, methods, body, *marks = one
    return path, methods, body, marks[0] if marks else _unmarked

"""The servers that applications run on, over Redis and SQL: in a short form; with SERVER_SESSION_ALL each over each."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests import servers
from tests.deployment.front import ROOT, SERVERS, SITE, Front, MultiplexingVisitor, Visitor, served
from tests.documents import code_of
from tests.parts import ALL
from tests.patience import wait_until

# What a server does is the same on every Python, and one Python has the servers.
pytestmark = [pytest.mark.once, pytest.mark.long]
long = pytest.mark.skipif(not ALL, reason="a long form: scripts/test --all")

STORES = {
    "wsgi": ("redis", "postgresql+psycopg"),
    "asgi": ("redis", "postgresql+psycopg_async", "postgresql+asyncpg"),
}
SHORT = ("gunicorn, threads, --preload", "redis")

Open = Callable[[str], str]


@pytest.fixture
def open_url(request: pytest.FixtureRequest) -> Open:
    def url(scheme: str) -> str:
        kinds = {"redis": "redis_server", "mysql": "mariadb_server"}
        server: servers.Server = request.getfixturevalue(kinds.get(scheme.partition("+")[0], "postgresql_server"))
        return server.url_for(scheme)

    return url


def use(visitor: Visitor, has_several: bool) -> None:
    """Log in, count by many requests at once, be refused, log out, and stay so; every process has taken part."""
    visitor.get()
    before = visitor.cookie
    assert visitor.post("/log-in").status == 200
    assert visitor.cookie not in ("", before)
    logged_in = visitor.cookie
    assert visitor.get().told["user"] == "ada"

    assert set(visitor.post_at_once("/add", 50)) == {200}
    assert visitor.get().told["count"] == 50

    assert visitor.post("/add", Origin=f"http://127.0.0.1:{visitor.port}").status == 200
    for status, token, headers in (
        (403, "", {"Origin": "null"}),
        (403, "wrong", {}),
        (403, visitor.token, {"Sec_Fetch_Site": "cross-site"}),
    ):
        stranger = visitor.with_cookie(logged_in)
        stranger.token = token
        assert stranger.post("/add", **headers).status == status
    told = visitor.get().told
    assert (told["user"], told["count"]) == ("ada", 51)

    processes = set[int]()

    def are_all_there() -> bool:
        told = visitor.with_cookie(logged_in).get().told
        assert told["count"] == 51
        processes.add(told["process"])
        return len(processes) > has_several

    wait_until(are_all_there)

    assert visitor.post("/log-out").told == {"was": True}
    for _ in range(8):
        late = visitor.with_cookie(logged_in)
        assert "user" not in late.get().told
        assert visitor.with_cookie(logged_in).post("/add").status == 403


def each_over_each() -> list[object]:
    return [
        pytest.param(name, store, marks=() if (name, store) == SHORT else long)
        for name, front in SERVERS.items()
        for store in STORES[front.form]
    ]


@pytest.mark.parametrize("name, store", each_over_each())
def test_sessions_live_and_end_on_each_server(name: str, store: str, open_url: Open, tmp_path: Path) -> None:
    front = SERVERS[name]
    with served(front, open_url(store), tmp_path) as port:
        use(Visitor(port), front.has_several)


@long
@pytest.mark.parametrize("store", STORES["asgi"])
def test_sessions_live_and_end_over_http_2(store: str, open_url: Open, tmp_path: Path) -> None:
    code = code_of(ROOT / "docs/deployment.md", "read the rest")
    (tmp_path / "shop.py").write_text(f"{code}\n\nfrom {SITE} import asgi\n\napp = ReadTheRest(asgi)\n")
    front = Front(("hypercorn", "--bind", "127.0.0.1:{port}", "--workers", "2", "shop:app"), "asgi", True)
    with served(front, open_url(store), tmp_path) as port:
        use(MultiplexingVisitor(port), front.has_several)


@long
@pytest.mark.parametrize("preload", [False, True])
def test_pymysql_yields_under_gevent(preload: bool, open_url: Open, tmp_path: Path) -> None:
    front = SERVERS["gunicorn, gevent, --preload" if preload else "gunicorn, gevent"]
    with served(front, open_url("mysql+pymysql"), tmp_path) as port:
        use(Visitor(port), front.has_several)


@long
@pytest.mark.parametrize("store", STORES["asgi"])
def test_a_session_lives_on_when_uvicorn_reloads(store: str, open_url: Open, tmp_path: Path) -> None:
    module = tmp_path / "shop.py"
    module.write_text(f"from {SITE} import asgi\n")
    front = Front(("uvicorn", "--port", "{port}", "--reload", "--reload-dir", ".", "shop:asgi"), "asgi")
    with served(front, open_url(store), tmp_path) as port:
        visitor = Visitor(port)
        visitor.get()
        assert visitor.post("/log-in").status == 200
        told = visitor.get().told
        module.write_text(f"from {SITE} import asgi\n\n")
        wait_until(lambda: _process_of(visitor) not in (None, told["process"]))
        assert visitor.get().told["user"] == "ada"
        assert visitor.post("/add").status == 200
        assert visitor.get().told["count"] == 1


def _process_of(visitor: Visitor) -> int | None:
    try:
        process: int = visitor.get().told["process"]
    except OSError:
        # Between the one and the other nobody listens.
        return None
    return process

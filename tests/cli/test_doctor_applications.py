"""Applications that are set up wrongly, for real: the doctor names what is wrong, and what mends it."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import server_session
from server_session import _sessions
from server_session.cli.doctor import _application
from tests.cli.conftest import Ran, Run
from tests.cli.test_doctor_stores import assert_found, found
from tests.parts import ALL

Examine = Callable[[str], Ran]

SOUND = "from server_session import *\nfrom server_session import Sessions, CookieHandler, CSRF, EncryptedCodec\n"
ORIGIN = "origin='https://shop.example'"


@pytest.fixture
def examine(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Examine]:
    """Look at the `app` of a module with this text."""
    monkeypatch.setattr(_sessions, "_configured", None)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", ["", *sys.path])

    def examine(text: str, name: str = "shop:app") -> Ran:
        sys.modules.pop("shop", None)
        Path("shop.py").write_text(SOUND + text)
        # Written twice within a second, it would be taken for what was compiled.
        sys.dont_write_bytecode = True
        return run("doctor", name, "--json")

    before = sys.dont_write_bytecode
    yield examine
    sys.dont_write_bytecode = before
    sys.modules.pop("shop", None)


def sessions(settings: str) -> str:
    return f"app = Sessions(session_store='file:' + __import__('os').path.abspath('kept'), {settings})\n"


def test_sessions_as_they_should_be(examine: Examine) -> None:
    ran = examine(sessions(ORIGIN))
    assert not found(ran)
    assert ran.code == 0


@pytest.mark.parametrize(
    "settings, code, mend, severity",
    [
        ("", "no_origin", "origin=", "note"),
        ("origin='http://shop.example'", "http_origin", "origin='https://", "error"),
        (f"{ORIGIN}, csrf=None", "no_csrf", "leave csrf out", "warning"),
        (f"{ORIGIN}, csrf=None, cookie_handler=CookieHandler(same_site='none')", "no_csrf", "leave csrf out", "error"),
        (f"{ORIGIN}, csrf=CSRF('report')", "csrf_reports", 'mode="layered"', "warning"),
        (f"{ORIGIN}, cookie_handler=CookieHandler(same_site='none')", "same_site_none", "partitioned=True", "warning"),
        (f"{ORIGIN}, cookie_handler=CookieHandler(same_site='strict')", "same_site_strict", "lax", "warning"),
        (f"{ORIGIN}, cookie_handler=CookieHandler(http_only=False)", "script_reads_cookie", "http_only", "error"),
        ("cookie_handler=CookieHandler(secure=False)", "not_secure", "leave secure out", "error"),
        (
            "origin='http://shop.example', cookie_handler=CookieHandler(secure=True)",
            "secure_over_http",
            "https origin",
            "error",
        ),
        (f"{ORIGIN}, cookie_handler=CookieHandler(domain='shop.example')", "shared_cookie", "leave domain out", "note"),
        (f"{ORIGIN}, absolute_max_age=None", "no_absolute_age", "timedelta(days=30)", "note"),
        (f"{ORIGIN}, renew_on=()", "no_renewal", "log_in", "warning"),
        (f"{ORIGIN}, codec=EncryptedCodec([b'changeme' * 4])", "debug_key", "generate_key()", "error"),
        (
            f"{ORIGIN}, codec=EncryptedCodec([EncryptedCodec.generate_key(), bytes(32)])",
            "debug_key",
            "generate",
            "error",
        ),
        # What does not even start says itself what mends it.
        (
            "cookie_handler=CookieHandler(same_site='none', secure=False)",
            "configuration",
            "leave `secure` out",
            "error",
        ),
    ],
)
def test_a_setting_that_is_wrong(examine: Examine, settings: str, code: str, mend: str, severity: str) -> None:
    assert_found(examine(sessions(settings)), code, mend, severity, int(severity != "note"))


def test_a_good_key_is_no_finding(examine: Examine) -> None:
    assert not found(examine(sessions(f"{ORIGIN}, codec=EncryptedCodec([EncryptedCodec.generate_key()])")))


@pytest.mark.parametrize(
    "variable, value",
    [
        ("WEB_CONCURRENCY", "4"),
        ("GUNICORN_CMD_ARGS", "--bind=:80 -w 3"),
        ("GUNICORN_CMD_ARGS", "-w4"),
        ("", "workers = 2\n"),
        ("", "workers: int = 2\n"),
        ("", "# Gar\u00e7on\nworkers: int\nworkers = threads = 2\n"),
    ],
)
def test_several_workers_each_with_a_memory_of_its_own(
    examine: Examine, monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    text = f"app = Sessions({ORIGIN})\n"
    assert_found(examine(text), "memory_store", "file:DIR", "note", 0)
    if variable:
        monkeypatch.setenv(variable, value)
    else:
        Path("gunicorn.conf.py").write_text(f"# coding: latin-1\n{value}", "latin-1")
    assert_found(examine(text), "memory_store", "file:DIR")


def test_memcached_and_what_it_cannot_do(examine: Examine, memcached_server: object) -> None:
    url = getattr(memcached_server, "url", "")
    text = (
        f"app = Sessions(session_store={url!r}, {ORIGIN}, max_age=86400 * 40, absolute_max_age=None, max_sessions=3)\n"
    )
    ran = examine(text)
    assert_found(ran, "long_for_memcached", "shorter max_age", "warning")
    assert_found(ran, "no_owners", "leave max_sessions out")


def test_starlette_whose_own_sessions_have_a_cookie_of_the_same_name(examine: Examine) -> None:
    text = """
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.sessions import SessionMiddleware as Theirs
from server_session.starlette import SessionMiddleware

app = Starlette(middleware=[Middleware(SessionMiddleware), Middleware(Theirs, secret_key="tea" SETTING)])
configure()
"""
    assert_found(examine(text.replace("SETTING", "")), "cookie_collision", "CookieHandler(")
    assert_found(
        examine(text.replace("SETTING", ", session_cookie='theirs'")), "two_sessions", "leave it out", "warning"
    )


def test_flask_whose_own_session_has_a_cookie_of_the_same_name(examine: Examine) -> None:
    text = """
from flask import Flask
from server_session.wsgi import SessionMiddleware

flask = Flask(__name__)
flask.secret_key = "tea"
app = SessionMiddleware(flask, session_store="memory:")
"""
    assert_found(examine(text), "cookie_collision", "CookieHandler(")


def test_flask_with_this_library_has_one_session(examine: Examine) -> None:
    text = """
from flask import Flask
from server_session.flask import ServerSession

app = Flask(__name__)
app.secret_key = "tea"
app.config["SESSION_COOKIE_NAME"] = "shop"
ServerSession(app, origin="https://shop.example")
"""
    ran = examine(text)
    assert set(found(ran)) == {"memory_store"}
    # As the framework's own settings have it.
    assert ran.data["reports"][0]["facts"]["cookie"] == "shop"


@pytest.mark.parametrize(
    "made, served",
    [
        (
            "fastapi import FastAPI; app = FastAPI()",
            "fastapi import SessionMiddleware; app.add_middleware(SessionMiddleware)",
        ),
        ("flask import Flask; app = Flask(__name__)", "flask import ServerSession; ServerSession(app)"),
        (
            "flask import Flask; app = Flask(__name__)",
            "wsgi import SessionMiddleware; app.wsgi_app = SessionMiddleware(app.wsgi_app)",
        ),
    ],
)
def test_an_application_that_nothing_serves_sessions_to(examine: Examine, made: str, served: str) -> None:
    text = f"configure()\nfrom {made}\n"
    assert_found(examine(text), "not_served", "SessionMiddleware", "warning")
    assert "not_served" not in found(examine(f"{text}from server_session.{served}\n"))


def test_an_application_that_blocks_over_a_store_that_awaits(examine: Examine) -> None:
    text = """
from flask import Flask
from server_session.{} import {}

configure(session_store="sqlite+{}:///sessions.db")
app = Flask(__name__)
{}
"""
    asgi = "app = SessionMiddleware(app)"
    ran = examine(text.format("flask", "ServerSession", "aiosqlite", "ServerSession(app)"))
    assert_found(ran, "awaiting_driver", "postgresql+psycopg")
    assert "awaiting_driver" not in found(examine(text.format("asgi", "SessionMiddleware", "aiosqlite", asgi)))
    assert "awaiting_driver" not in found(
        examine(text.format("flask", "ServerSession", "pysqlite", "ServerSession(app)"))
    )


def test_an_application_behind_a_proxy_that_says_no_origin(examine: Examine) -> None:
    text = """
from flask import Flask
from werkzeug.middleware.proxy_fix import ProxyFix
from server_session.flask import ServerSession

flask = Flask(__name__)
ServerSession(flask, session_store="memory:")
app = ProxyFix(flask)
"""
    ran = examine(text)
    assert_found(ran, "no_origin", "origin='https://", "warning")
    assert "ProxyFix" in found(ran)["no_origin"]["what"]


# An application that has sessions without a renewal, by how it comes by them.
APPLICATIONS = {
    "fastapi": """
from fastapi import FastAPI
from server_session.fastapi import SessionMiddleware
app = FastAPI()
app.add_middleware(SessionMiddleware, renew_on=())
""",
    "asgi": """
from server_session.asgi import SessionMiddleware
app = SessionMiddleware(print, renew_on=())
""",
    "falcon": """
from falcon import App
from server_session.falcon import ServerSession
app = ServerSession(App(), renew_on=())
""",
    "aiohttp": """
from aiohttp.web import Application
configure(renew_on=())
app = Application()
""",
}
# Their imports take long.
HEAVY = {
    "quart": """
from quart import Quart
from server_session.quart import ServerSession
app = Quart("shop")
ServerSession(app, renew_on=())
""",
    "sanic": """
from sanic import Sanic
from server_session.sanic import ServerSession
Sanic.test_mode = True
app = Sanic("doctored")
ServerSession(app, renew_on=())
""",
    "litestar": """
from litestar import Litestar
from server_session.litestar import ServerSession
app = Litestar([], plugins=[ServerSession(renew_on=())])
""",
    "pyramid": """
from pyramid.config import Configurator
config = Configurator(settings={"server_session.renew_on": "[]"})
config.include("server_session.pyramid")
app = config.make_wsgi_app()
""",
}


@pytest.mark.parametrize("text", (found_by := APPLICATIONS | (HEAVY if ALL else {})).values(), ids=found_by)
def test_the_sessions_of_an_application_are_found(examine: Examine, text: str) -> None:
    assert "no_renewal" in found(examine(text))


def test_a_store_of_an_application_is_looked_at_too(examine: Examine, redis_server: object) -> None:
    url = getattr(redis_server, "url", "")
    text = f"""
import redis.asyncio
from server_session.stores.redis import RedisSessionStore
app = RedisSessionStore(redis.asyncio.Redis.from_url({url!r}))
"""
    assert_found(examine(text), "not_persistent", "appendonly yes", "warning")


def test_a_store_of_another_layout_is_read_and_not_written_to(examine: Examine, redis_server: object) -> None:
    url = getattr(redis_server, "url", "")
    ran = examine(f"app = Sessions(session_store='next-server-session+{url}', csrf=None)\n")
    assert "no_csrf" in found(ran)
    assert "answer_milliseconds" in ran.data["reports"][0]["facts"]


def test_a_store_of_one_s_own_is_asked_and_written_to(examine: Examine) -> None:
    text = """
from server_session import MemorySessionStore

class Forgetful(MemorySessionStore):
    async def merge(self, key, changed, removed, expect, lifetime=None):
        return APPLIED

app = Forgetful()
"""
    assert_found(examine(text), "wrong_answers", "server_session.testing")


@pytest.mark.parametrize(
    "name, said",
    [
        ("shop", "module:attribute"),
        ("nowhere:app", "no module"),
        ("shop:nothing", "has no 'nothing'"),
        ("shop:SOUND", "no sessions were found"),
    ],
)
def test_what_names_no_sessions_cannot_be_asked_for(examine: Examine, run: Run, name: str, said: str) -> None:
    ran = examine("SOUND = 1\n", name)
    assert ran.code == 2
    assert said in ran.data["error"]["what"]


def test_the_sessions_of_a_django_project_are_found(tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text(
        """
from django.conf import settings
settings.configure(
    SECRET_KEY="tea", ROOT_URLCONF=__name__, SESSION_ENGINE="server_session.django",
    SERVER_SESSION={"renew_on": ()}, MIDDLEWARE=["server_session.django.SessionMiddleware"],
)
from django.core.wsgi import get_wsgi_application
urlpatterns = []
app = get_wsgi_application()
"""
    )
    code = "from server_session.cli import main; main()"
    ended = subprocess.run(
        [sys.executable, "-c", code, "doctor", "shop:app", "--json"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(server_session.__file__).parents[1])},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ended.returncode == 1, ended.stderr
    assert '"no_renewal"' in ended.stdout
    assert '"sessionid"' in ended.stdout


def test_a_module_that_the_application_lacks_is_not_taken_for_the_application(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "absent_shop.py").write_text("import absent\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="'absent'"):
        _application._imported("absent_shop:app")

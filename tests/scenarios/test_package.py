"""The package's own tests, by Node.js."""

import os
import subprocess

import pytest

from tests.node import NODE, PACKAGE, build
from tests.patience import PATIENCE
from tests.servers import Server

pytestmark = [pytest.mark.once, pytest.mark.long]


def test_the_package_for_node_passes_its_own_tests(redis_server: Server) -> None:
    build()
    tests = sorted((PACKAGE / "test").glob("*.test.js"))
    around = {**os.environ, "REDIS": redis_server.url}
    told = [NODE, "--test", *tests]
    ran = subprocess.run(told, env=around, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert not ran.returncode, ran.stdout + ran.stderr

"""What tests of stores share."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    # Servers that are no root's have to pass through it.
    with tempfile.TemporaryDirectory(prefix="session-") as name:
        Path(name).chmod(0o755)
        yield Path(name)

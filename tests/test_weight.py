"""What a request costs, in calls: exact where a time is not, so that weight cannot creep back."""

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from bench.asking import Kind
from tests.patience import PATIENCE

ROOT = Path(__file__).resolve().parents[1]

# Through Starlette's middleware on the memory store with default settings, the application's own 52 to 68 among them.
LIMITS = {
    Kind.UNLOADED: 90,
    Kind.UNTOUCHED: 120,
    Kind.READ: 130,
    Kind.WRITE: 190,
    Kind.FIRST: 220,
}


@pytest.fixture(scope="module")
def calls() -> Mapping[Kind, int]:
    # In a process of its own: what a test runner puts around a program would count too.
    script = "from bench.asking import Kind; from bench.calls import calls_of; print(*map(calls_of, map(Kind, {})))"
    command = [sys.executable, "-c", script.format([kind.value for kind in LIMITS])]
    paths = os.pathsep.join([str(ROOT / "src"), str(ROOT)])
    env = {**os.environ, "PYTHONPATH": paths}
    run = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=PATIENCE, check=True)
    return dict(zip(LIMITS, map(int, run.stdout.split()), strict=True))


@pytest.mark.once
@pytest.mark.parametrize("kind", LIMITS)
def test_a_request_costs_no_more_calls_than(calls, kind):
    assert calls[kind] <= LIMITS[kind], f"`python -m bench.calls {kind}` tells where they go"

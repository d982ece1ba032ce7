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
# A read through each other adapter, with what its framework calls by itself: 9 (wsgi) to 644 (Quart).
READS = {
    "aiohttp": 300,
    "bottle": 235,
    "django": 545,
    "falcon": 145,
    "falcon_asgi": 135,
    "flask": 540,
    "litestar": 250,
    "pyramid": 290,
    "quart": 820,
    "sanic": 350,
    "tornado": 405,
    "wsgi": 140,
}


def counted(program: str) -> list[int]:
    """Return the figures that a program of a process of its own prints: a test runner's own calls would count too."""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)])}
    command = [sys.executable, "-W", "ignore", "-c", f"from bench.calls import *; {program}"]
    run = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=PATIENCE, check=True)
    return [int(figure) for figure in run.stdout.split()]


@pytest.fixture(scope="module")
def calls() -> Mapping[Kind, int]:
    kinds = [kind.value for kind in LIMITS]
    return dict(zip(LIMITS, counted(f"print(*map(calls_of, map(Kind, {kinds})))"), strict=True))


@pytest.mark.once
@pytest.mark.parametrize("kind", LIMITS)
def test_a_request_costs_no_more_calls_than(calls, kind):
    assert calls[kind] <= LIMITS[kind], f"`python -m bench.calls {kind}` tells where they go"


@pytest.mark.once
@pytest.mark.parametrize("framework", READS)
def test_a_read_through_an_adapter_costs_no_more_calls_than(framework):
    (made,) = counted(f"print(round(count_kind('{framework}:ours', PLACE, Kind.READ).calls))")
    assert made <= READS[framework], f"`python -m bench.calls read --through {framework}` tells where they go"

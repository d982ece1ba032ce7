"""How much is measured: for the page, in a hurry, or only to see that nothing goes wrong."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Scale:
    """How much is measured."""

    name: str
    rounds: int
    """How often each figure is taken, at most; the median counts."""
    least_rounds: int
    batch_seconds: float
    """How long the requests take about that are timed together."""
    figure_seconds: float
    """How long all rounds of a figure take about, unless that makes too few."""
    least_requests: int
    http_rounds: int
    http_seconds: float
    memory_sizes: tuple[int, ...]
    memory_seconds: float
    """A size of the memory store that would take longer is left out."""


_SIZES = (1_000, 10_000, 100_000, 1_000_000, 10_000_000)
FULL = Scale("full", 101, 11, 0.01, 1.5, 16, 7, 2.0, _SIZES, 3600)
NORMAL = Scale("normal", 41, 5, 0.008, 0.35, 16, 3, 1.0, _SIZES, 150)
QUICK = Scale("quick", 9, 3, 0.006, 0.05, 16, 1, 0.5, _SIZES[:3], 20)
SMOKE = Scale("smoke", 1, 1, 0.0, 0.0, 8, 1, 0.05, _SIZES[:1], 5)

"""The benchmark: measures, and writes docs/performance.md, its picture and its figures.

`scripts/bench` makes an environment and runs it; `python -m bench --smoke` runs in the tests' own, writes nothing, and
fails if a request that is measured goes wrong. `--only WORD` measures the parts whose name has the word, and keeps the
other figures as they were.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench import machine, memory, over_http
from bench.field import GROUPS, Group
from bench.over_http import HttpRun
from bench.processes import ROOT, Places
from bench.report import PICTURE, Report
from bench.scale import FULL, NORMAL, QUICK, SMOKE, Scale
from bench.times import GroupRun

Figures = dict[str, Any]
SCALES = {scale.name: scale for scale in (FULL, NORMAL, QUICK, SMOKE)}
MEMORY = "memory-store"
SMOKED = {
    "asgi-memory": 1,
    "asgi-redis": 32,
    "asgi-stores": 1,
    "wsgi-memory": 1,
    "django-memory": 1,
    "frameworks-memory": 1,
}
"""What the smoke size asks, and how many at once: ours, where nothing takes long to start, and a peer."""
SMOKED_PEER = "Starlette's signed cookie"
SMOKED_HTTP = "server-session, Redis"
SLOW_TO_START = {"postgresql", "aiosqlite", "litestar", "quart", "sanic", "pyramid"}


def smoked(group: Group, at_once: int) -> Group:
    """Return a group in the smoke size."""
    sessions = [
        subject
        for subject in group.subjects
        if subject.bare
        and (not subject.against or subject.name == SMOKED_PEER)
        and SLOW_TO_START.isdisjoint((subject.place, subject.application.partition(":")[0]))
    ]
    alone = [subject for subject in group.subjects if subject.name in {other.bare for other in sessions}]
    return replace(group, subjects=[*sessions, *alone], at_once=(at_once,), counted=False)


class Bench:
    """One run: what it measured, and what went wrong."""

    def __init__(self, scale: Scale, figures: Figures) -> None:
        self._scale = scale
        self._begun = time.monotonic()
        self.figures = figures
        self.wrong: list[str] = []

    def say(self, text: str) -> None:
        """Show that it goes on."""
        print(f"{time.monotonic() - self._begun:5.0f} s  {text}", flush=True)

    def run(self, parts: Mapping[str, Callable[[Places], None]]) -> None:
        """Measure these parts."""
        with Places() as places:
            for number, (name, measure) in enumerate(parts.items(), 1):
                self.say(f"[{number} of {len(parts)}] {name}")
                measure(places)

    def measure_group(self, group: Group, places: Places) -> None:
        """Measure requests to the applications themselves."""
        run = GroupRun(group, self._scale, self.say)
        subjects = run.measure(places)
        self._keep("groups", group.key, {"subjects": subjects}, run)

    def measure_http(self, group: Group, places: Places) -> None:
        """Measure requests over HTTP."""
        run = HttpRun(group, self._scale, self.say)
        subjects = run.measure(places)
        self._keep("http", group.key, {"subjects": subjects}, run)

    def measure_memory(self, _: Places) -> None:
        """Measure the memory store."""
        sizes = memory.measure(self._scale.memory_sizes, self._scale.memory_seconds, self.say)
        self.figures.setdefault("memory", {})["sizes"] = {"made": self._made(), "figures": sizes}

    def _keep(self, part: str, key: str, entry: Figures, run: GroupRun | HttpRun) -> None:
        told = {"made": self._made(), "unmeasured": run.unmeasured, "failures": run.failures}
        self.figures.setdefault(part, {})[key] = entry | told
        self.wrong += [f"{name}: {reason}" for name, reason in run.failures.items()]
        for name, reason in run.unmeasured.items():
            self.say(f"    not measured: {name}: {reason}")

    def _made(self) -> Figures:
        return {**machine.describe(), "scale": self._scale.name}


def parts_of(bench: Bench, scale: Scale) -> dict[str, Callable[[Places], None]]:
    """Return what there is to measure, by name."""
    groups, http = list(GROUPS), list(over_http.GROUPS)
    if scale is SMOKE:
        groups = [smoked(group, SMOKED[group.key]) for group in GROUPS if group.key in SMOKED]
        http = [replace(group, subjects=[group.subject(SMOKED_HTTP)]) for group in http[:1]]
    parts: dict[str, Callable[[Places], None]] = {}
    for group in groups:
        parts[group.key] = lambda places, group=group: bench.measure_group(group, places)  # type: ignore[misc]
    for group in http:
        parts[group.key] = lambda places, group=group: bench.measure_http(group, places)  # type: ignore[misc]
    parts[MEMORY] = bench.measure_memory
    return parts


def write(figures: Figures, folder: Path) -> None:
    """Write the page, its picture and its figures."""
    report = Report(figures)
    (folder / "performance.json").write_text(f"{json.dumps(figures, indent=1)}\n")
    (folder / "performance.md").write_text(report.page())
    (folder / PICTURE).write_text(report.picture())


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="scripts/bench", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    sizes = parser.add_mutually_exclusive_group()
    for scale in (FULL, QUICK, SMOKE):
        sizes.add_argument(f"--{scale.name}", dest="scale", action="store_const", const=scale, default=NORMAL)
    parser.add_argument("--only", action="append", default=[], metavar="WORD", help="measure the parts that have it")
    parser.add_argument("--list", action="store_true", help="name the parts")
    parser.add_argument("--write-only", action="store_true", help="measure nothing, write the page anew")
    parser.add_argument("--out", type=Path, help="where to write; docs, but nothing with --quick and --smoke")
    options = parser.parse_args()

    out = options.out or (ROOT / "docs" if options.scale in (FULL, NORMAL) else None)
    known = (out or ROOT / "docs") / "performance.json"
    keeps = out is not None and (options.only or options.write_only) and known.exists()
    bench = Bench(options.scale, json.loads(known.read_text()) if keeps else {})
    parts = parts_of(bench, options.scale)
    if options.list:
        print("\n".join(parts))
        return 0
    if options.only:
        parts = {name: part for name, part in parts.items() if any(word in name for word in options.only)}
    if not options.write_only:
        bench.run(parts)
    if out is not None:
        write(bench.figures, out)
        bench.say(f"written: {out}/performance.md, .json, {PICTURE}")
    for wrong in bench.wrong:
        print(f"WRONG  {wrong}", file=sys.stderr)
    bench.say("done")
    return 1 if bench.wrong else 0


if __name__ == "__main__":
    sys.exit(main())

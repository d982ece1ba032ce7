"""The trials of every store and driver, in the full form, as the table of docs/trials.md.

Run `python -m bench.trials`; `--only Redis` takes the rows whose name has the word, and the counts can be set. Servers
are started for it and ended. Each row: the store contract by pytest, then overlapping requests, plucks and endings from
eight processes (of a store in memory: one).
"""

import argparse
import os
import re
import subprocess
import sys
import time
from functools import cache

from tests.trials.crew import ENDINGS, PLUCKERS, ROOT, Crew, Tally, end, overlap, pluck
from tests.trials.drivers import DRIVERS, STARTS, Driver

COLUMNS = {
    "overlaps": "overlap trials",
    "updates": "writes",
    "conflicts": "gave up, called again",
    "lost": "updates lost",
    "endings": "ending trials",
    "late": "late requests",
    "resurrected": "sessions resurrected",
    "undone": "log-outs undone",
    "plucks": "plucks",
    "doubles": "not exactly one",
}
"""A tally's figures, and what the table calls them."""
HEAD = ("store", "driver", "calls", "contract tests passed", *COLUMNS.values())


@cache
def contract(tests: str) -> str:
    """Run the tests of the store contract over a driver; return how many passed, of how many."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", tests]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=900, check=False)
    counts = {word: int(count) for count, word in re.findall(r"(\d+) (passed|failed|errors?|skipped)", run.stdout)}
    if run.returncode:
        print(run.stdout, file=sys.stderr)
    return f"{counts.get('passed', 0)} of {sum(counts.values())}"


def try_out(crew: Crew, driver: Driver, place: str, counts: argparse.Namespace) -> Tally:
    total = Tally()
    with crew.over(driver, place):
        for _ in range(counts.overlaps):
            total += overlap(crew, driver.processes)
        for _ in range(counts.plucks):
            total += pluck(crew)
        for number in range(counts.endings):
            for ending in ENDINGS[: None if driver.has_owners else -1]:
                total += end(crew, driver.processes, ending, number, has_owners=driver.has_owners)
    return total


def row(driver: Driver, passed: str, tally: Tally) -> str:
    where = "1 process" if driver.processes == 1 else f"{driver.processes} processes"
    how = "threads" if driver.calls == "threads" else "event loop" + ("s" if driver.processes > 1 else "")
    figures = [f"{getattr(tally, name):,}" for name in COLUMNS]
    return f"| {' | '.join([driver.store, driver.name, f'{where}, {how}', passed, *figures])} |"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="rows whose name has this text")
    parser.add_argument("--overlaps", type=int, default=20)
    parser.add_argument("--plucks", type=int, default=200)
    parser.add_argument("--endings", type=int, default=50, help="rounds of the four endings")
    parser.add_argument("--no-contract", action="store_true")
    counts = parser.parse_args()
    print(f"Python {sys.version.split()[0]}, {os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f}", file=sys.stderr)
    rows: list[str] = []
    failed = False
    crew = Crew(PLUCKERS)
    try:
        for name, driver in DRIVERS.items():
            if counts.only not in name:
                continue
            begun = time.monotonic()
            passed = "not run" if counts.no_contract else contract(driver.contract)
            with STARTS[driver.place]() as place:
                tally = try_out(crew, driver, place, counts)
            rows.append(row(driver, passed, tally))
            failed |= bool(tally.complaints)
            print(f"{name}: {time.monotonic() - begun:.0f} s", *tally.complaints, sep="\n  ", file=sys.stderr)
    finally:
        crew.end()
    print("| " + " | ".join(HEAD) + " |")
    print("|" + "|".join(" --- " if number < 4 else " ---: " for number, _ in enumerate(HEAD)) + "|")
    print(*rows, sep="\n")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())

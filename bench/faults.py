"""Failing servers, in the long form: the table of docs/failures.md.

Run `python -m bench.faults`; `--only Redis` takes the stores whose name has the word, and prints the table instead.
Servers are started for it and ended. Each trial: four processes of ASGI and WSGI applications use a store while each
fault befalls it in turn, and at the end a reader of its own looks with every cookie that was ever given.
"""

import argparse
import importlib
import logging
import os
import signal
import sys
from pathlib import Path

from tests.faults.model import Answers
from tests.faults.trial import LIMIT, STORES, Cell, try_out

PAGE = Path(__file__).resolve().parents[1] / "docs/failures.md"
MARK = "<!-- what follows is written by python -m bench.faults -->"
COUNTS = ("requests", "ok", "unavailable", "other", "left", "forgotten", "lost", "mixed", "back")
HEAD = (
    *("store", "fault", "trials", "requests", "200", "503", "other", "hung up or killed", "forgotten by the server"),
    *(
        "acknowledged writes lost",
        "sessions mixed",
        "destroyed sessions back",
        "503 over the limit, s",
        "recovered after, s",
    ),
)

# The long run meets its last store after a quarter of an hour: what is not installed is missed at once.
DRIVERS = ("redis", "pymemcache", "asyncpg", "psycopg", "asyncmy", "pymysql", "aiosqlite")

# On a machine whose processors 24 visitors share; a second limit is more.
MOST_OVER = 0.45


def row(cells: list[Cell]) -> str:
    first, total = cells[0], Answers()
    for cell in cells:
        for name in COUNTS:
            setattr(total, name, getattr(total, name) + getattr(cell.answers, name))
    over, recovered = max(map(over_the_limit, cells)), max(cell.seconds for cell in cells)
    figures = [f"{getattr(total, name):,}" for name in COUNTS]
    return f"| {' | '.join([first.store, first.fault, str(len(cells)), *figures, f'{over:.2f}', f'{recovered:.2f}'])} |"


def over_the_limit(cell: Cell) -> float:
    """Return by how many seconds the slowest 503 was later than the limit of a request's calls to the store."""
    return max(0.0, cell.answers.slowest - LIMIT)


def main() -> int:
    # Told to end, it ends its servers first; and a cookie that has ended is looked up on purpose.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    logging.getLogger("server_session").setLevel(logging.CRITICAL)
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="stores whose name has this text; the page is left as it is")
    parser.add_argument("--trials", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=2.0, help="how long a fault lasts")
    asked = parser.parse_args()
    for driver in DRIVERS:
        importlib.import_module(driver)
    lines = [f"| {' | '.join(HEAD)} |", f"|{'|'.join(' --- ' if n < 2 else ' ---: ' for n, _ in enumerate(HEAD))}|"]
    failed = False
    for name, store in STORES.items():
        if asked.only not in name:
            continue
        trials = [
            try_out(store, list(store.faults), processes=4, visitors=6, seconds=asked.seconds, after=2.5)
            for _ in range(asked.trials)
        ]
        for cells in zip(*trials, strict=True):
            lines.append(row(list(cells)))
            late = max(map(over_the_limit, cells))
            words = [word for cell in cells for word in cell.answers.words]
            words += [f"a 503 was {late:.2f} s over the limit"] if late > MOST_OVER else []
            for word in words:
                failed = True
                print(f"{name}, {cells[0].fault}: {word}", file=sys.stderr)
        print(f"{name} done, load {os.getloadavg()[0]:.1f}", file=sys.stderr)
    table = "\n".join(lines)
    if asked.only:
        print(table)
    else:
        above = PAGE.read_text().partition(MARK)[0]
        limit = f"limit of a request's calls to the store {LIMIT:g} s"
        machine = f"Python {sys.version.split()[0]}, {os.cpu_count()} CPUs, {limit}."
        PAGE.write_text(f"{above}{MARK}\n\n{machine}\n\n{table}\n")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())

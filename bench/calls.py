"""The calls that a request costs, Python's and C's, as cProfile counts them: exact, on a noisy machine too.

Run `python -m bench.calls` for each kind of request through Starlette's middleware on the memory store, and
`python -m bench.calls read` for where those of one kind go: the functions by their calls a request, net of what the
same application without sessions calls. `--through flask` (or another module of bench/subjects) asks through another
framework.
"""

import argparse
import multiprocessing
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path

from bench import field
from bench.asking import TITLES, Kind, Visitor, ask_of
from bench.driving import Count, Driver, Function
from bench.subjects import opened

FRAMEWORKS = (
    "starlette",
    "flask",
    "django",
    "wsgi",
    *(alone.application.partition(":")[0] for alone in field.FRAMEWORKS.values()),
)
PLACE = "memory:"
REQUESTS = 300
# What is made once, and kept, is not counted.
WARM_UP = 20


def count_kind(application: str, place: str, kind: Kind) -> Count:
    """Return what a request of a kind calls, on the average of many; each must be answered with 200."""
    driver = opened(application, place)
    request = ask_of(kind, visitor_of(driver, kind))
    driver.time([request] * WARM_UP)
    return driver.count([request] * REQUESTS)


def visitor_of(driver: Driver, kind: Kind) -> Visitor:
    """Return a visitor with what a request of this kind brings: a session with ten keys, and a token."""
    visitor = Visitor()
    if kind not in (Kind.NO_COOKIE, Kind.FIRST):
        visitor = visitor.after(driver.ask(ask_of(Kind.FIRST, visitor)))
    if kind is Kind.CHECK:
        answer = driver.ask(ask_of(Kind.TOKEN, visitor))
        visitor = replace(visitor.after(answer), token=answer.body)
    return visitor


def calls_of(kind: Kind) -> int:
    """Return the calls of a request through Starlette's middleware on the memory store, with the application's."""
    return round(count_kind("starlette:ours", PLACE, kind).calls)


def count_bare(application: str, place: str, kind: Kind) -> Count:
    """Return what such a request calls of an application without sessions."""
    driver = opened(application, place)
    request = ask_of(kind, Visitor())
    driver.time([request] * WARM_UP)
    return driver.count([request] * REQUESTS)


def place_of(function: Function) -> str:
    """Return a function as a reader looks for it."""
    file, line, name = function
    if file == "~":
        return name
    path = Path(file)
    parts = path.parts
    for root in ("server_session", "site-packages"):
        if root in parts:
            begin = len(parts) - 1 - parts[::-1].index(root)
            path = Path(*parts[begin + (root == "site-packages") :])
            break
    else:
        path = Path(*parts[-2:])
    return f"{path}:{line} {name}"


def kinds_of(framework: str) -> list[Kind]:
    """Return the kinds of request that there are through a framework."""
    return [kind for kind in Kind if kind is not Kind.UNLOADED or framework == "starlette"]


def apart(count: Callable[[str, str, Kind], Count], application: str, kind: Kind) -> Count:
    """Count in a process of its own: Django's settings are global."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(count, application, PLACE, kind).result()


def print_where(framework: str, kind: Kind, lines: int) -> None:
    """Print the functions of a kind of request by their calls, net of the application's."""
    bare = apart(count_bare, f"{framework}:bare", kind)
    whole = apart(count_kind, f"{framework}:ours", kind)
    print(f"{kind}: {whole.calls:.1f} calls a request, {bare.calls:.1f} of them the application's")
    print("   calls      sum  function ← its callers")
    running = 0.0
    for function, callers in list((whole - bare).functions().items())[:lines]:
        calls = sum(callers.values())
        running += calls
        whence = sorted(callers.items(), key=lambda item: -item[1])
        told = ", ".join(f"{place_of(caller)} ({figure:g})" for caller, figure in whence)
        print(f"{calls:8.2f} {running:8.1f}  {place_of(function)} ← {told}")


def print_all(framework: str) -> None:
    """Print the calls of each kind of request."""
    print(f"calls a request on Python {sys.version.split()[0]}, and those of the application without sessions")
    for kind in kinds_of(framework):
        whole, bare = apart(count_kind, f"{framework}:ours", kind), apart(count_bare, f"{framework}:bare", kind)
        print(f"{whole.calls:6.0f} {bare.calls:6.0f}  {kind:10} {TITLES[kind]}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", nargs="?", choices=[*Kind], help="where the calls of this kind of request go")
    parser.add_argument("--through", choices=FRAMEWORKS, default="starlette", help="Starlette's unless another's")
    parser.add_argument("--lines", type=int, default=1000, help="so many functions at most")
    options = parser.parse_args()
    if options.kind:
        print_where(options.through, Kind(options.kind), options.lines)
    else:
        print_all(options.through)


if __name__ == "__main__":
    main()

"""The table of docs/frameworks/README.md, made of the suites: `python -m tests.frameworks.table` writes it."""

import re
from importlib import import_module
from pathlib import Path
from typing import Final

from server_session.testing import AdapterContract

ROOT: Final = Path(__file__).resolve().parents[2]
CONSTRAINTS: Final = ROOT / "constraints.txt"
PAGE: Final = ROOT / "docs/frameworks/README.md"
MARK: Final = "<!-- what follows is written by python -m tests.frameworks.table -->"
TITLES: Final = {
    "TestAiohttp": "aiohttp",
    "TestFalcon": "Falcon (WSGI)",
    "TestFalconAsgi": "Falcon (ASGI)",
    "TestSanicUnderAsgi": "Sanic (ASGI)",
}
COLUMNS: Final = {
    "mapping": "mapping",
    "functions": "functions",
    "csrf": "CSRF",
    "template": "templates",
    "websocket": "WebSocket",
    "stream": "streams",
    "errors": "errors",
    "applications": "applications",
    "client": "test client",
}


def suites() -> list[type[AdapterContract]]:
    """Return the suites of tests/frameworks, by the names of their files."""
    found: list[type[AdapterContract]] = []
    for path in sorted(Path(__file__).parent.glob("test_*.py")):
        module = import_module(f"tests.frameworks.{path.stem}")
        found += [
            one
            for one in vars(module).values()
            # Not isinstance: a proxy is asked for what it stands for.
            if issubclass(type(one), type) and issubclass(one, AdapterContract) and one.__module__ == module.__name__
        ]
    return found


def row(suite: type[AdapterContract]) -> str:
    """Return the row of one framework: in each cell how many tests of that name hold it."""
    name = suite.__module__.rpartition("test_")[2]
    tests = [
        (one.split("_")[1], getattr(getattr(suite, one), "needs", ())) for one in dir(suite) if _is_of_the_contract(one)
    ]
    held = [column for column, needs in tests if all(getattr(suite, need) for need in needs)]
    cells = [str(held.count(column) or "—") for column in COLUMNS]
    source = ROOT / f"src/server_session/{name}"
    files = [source.with_suffix(".py")] if source.with_suffix(".py").exists() else [*source.glob("*.py")]
    lines = sum(len(file.read_text().splitlines()) for file in files)
    page = ROOT / f"docs/frameworks/{name}.md"
    title = TITLES.get(suite.__name__, suite.__name__.removeprefix("Test"))
    shown = f"[{title}]({page.name})" if page.exists() else title
    return f"| {shown} {_version_of(name)} | {' | '.join(cells)} | {lines:,} |"


def _is_of_the_contract(name: str) -> bool:
    return name.startswith("test_") and hasattr(AdapterContract, name)


def _version_of(framework: str) -> str:
    found = re.search(rf"^{framework}==([0-9.]+)", CONSTRAINTS.read_text(), re.IGNORECASE | re.MULTILINE)
    return found[1] if found else ""


def table() -> str:
    """Return the table."""
    head = f"| framework | {' | '.join(COLUMNS.values())} | lines of the adapter |"
    rule = f"| --- |{' ---: |' * (len(COLUMNS) + 1)}"
    return "\n".join([head, rule, *map(row, suites())]) + "\n"


if __name__ == "__main__":
    PAGE.write_text(f"{PAGE.read_text().partition(MARK)[0]}{MARK}\n\n{table()}")

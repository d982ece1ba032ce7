"""The table of docs/frameworks/README.md, made of the suites: `python -m tests.frameworks.table` writes it."""

from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Final

from server_session.testing import AdapterContract

ROOT: Final = Path(__file__).resolve().parents[2]
PAGE: Final = ROOT / "docs/frameworks/README.md"
MARK: Final = "<!-- what follows is written by python -m tests.frameworks.table -->"
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
# What a suite says that its framework has not, and the column which then is empty.
WITHOUT: Final = {"has_websockets": "websocket", "has_templates": "template", "has_streams": "stream"}


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
    tests = [one.split("_")[1] for one in dir(suite) if one.startswith("test_")]
    absent = {column for flag, column in WITHOUT.items() if not getattr(suite, flag)}
    if suite.client is AdapterContract.client:
        absent.add("client")
    cells = ["—" if column in absent else str(tests.count(column)) for column in COLUMNS]
    source = ROOT / f"src/server_session/{name}"
    files = [source.with_suffix(".py")] if source.with_suffix(".py").exists() else [*source.glob("*.py")]
    lines = sum(len(file.read_text().splitlines()) for file in files)
    page = ROOT / f"docs/frameworks/{name}.md"
    title = suite.__name__.removeprefix("Test")
    shown = f"[{title}]({page.name})" if page.exists() else title
    return f"| {shown} {version(name)} | {' | '.join(cells)} | {lines:,} |"


def table() -> str:
    """Return the table."""
    head = f"| framework | {' | '.join(COLUMNS.values())} | lines of the adapter |"
    rule = f"| --- |{' ---: |' * (len(COLUMNS) + 1)}"
    return "\n".join([head, rule, *map(row, suites())]) + "\n"


if __name__ == "__main__":
    PAGE.write_text(f"{PAGE.read_text().partition(MARK)[0]}{MARK}\n\n{table()}")

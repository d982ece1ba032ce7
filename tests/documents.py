"""The code in the documents, which runs as printed."""

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

DOCS = Path(__file__).parents[1] / "docs"
FRAMEWORKS = DOCS / "frameworks"


class Command(NamedTuple):
    """A command that a page has its reader type, and what the page says that it prints."""

    line: str
    printed: str


def code_of(document: Path, name: str) -> str:
    """Return the code block that a document marks with this name."""
    found = re.search(rf"<!-- tested: {re.escape(name)} -->\n *```\w+\n(.*?) *```", document.read_text(), re.DOTALL)
    assert found is not None, f"{document.name} has no code marked {name}"
    return found[1]


def application_of(framework: str) -> Any:
    """Return the application that a framework's page prints."""
    module = ModuleType(f"documented_{framework}")
    sys.modules[module.__name__] = module
    page = FRAMEWORKS / f"{framework}.md"
    exec(compile(code_of(page, framework), f"{page.name} ({framework})", "exec"), module.__dict__)  # noqa: S102 - our own
    return module.app


def run(document: Path, name: str) -> dict[str, Any]:
    """Run a code block, as the module of an application is run, and return its names."""
    module = ModuleType(f"documented_{document.stem}_{name}".replace(" ", "_").replace("-", "_"))
    # FastAPI reads an endpoint's annotations there.
    sys.modules[module.__name__] = module
    exec(compile(code_of(document, name), f"{document.name} ({name})", "exec"), module.__dict__)  # noqa: S102 - our own
    return module.__dict__


def write_files(document: Path, folder: Path) -> None:
    """Write the files that a page has its reader write, or add to the end of."""
    marked = re.compile(r"<!-- (file|end of): (\S+) -->\n```\w+\n(.*?)```", re.DOTALL)
    for mark, name, text in marked.findall(document.read_text()):
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("a" if mark == "end of" else "w") as written:
            written.write(text)


def commands_in(text: str) -> Iterator[Command]:
    """Give the commands of a page, or of a part of it."""
    for block in re.findall(r"```console\n(.*?)```", text, re.DOTALL):
        for command in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            line, _, printed = command.partition("\n")
            yield Command(line, printed)


def hidden_in(page: str) -> str:
    """Return the token in the first form of a page."""
    found = re.search(r'name="csrf_token" value="([^"]+)"', page)
    assert found is not None
    return found[1]

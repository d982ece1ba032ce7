"""The code in the documents, which runs as printed."""

import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

FRAMEWORKS = Path(__file__).parents[1] / "docs" / "frameworks"


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


def hidden_in(page: str) -> str:
    """Return the token in the first form of a page."""
    found = re.search(r'name="csrf_token" value="([^"]+)"', page)
    assert found is not None
    return found[1]

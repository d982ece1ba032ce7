"""Which attack is held by which test: writes docs/attacks.md from the tests' docstrings.

An attack's test says in the first line of its docstring what the attacker does, and after a dash what must follow.
"""

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).parent
PAGE = HERE.parents[1] / "docs" / "attacks.md"

HEAD = """# Attacks, and the tests that hold them

Each row is a request, or a few, as an attacker would send it, over ASGI and over WSGI unless its test says otherwise,
and what must follow. The tests are in `tests/attacks/`; they run in every check of the project, which takes each case
over one of the two, and half of them over either; `scripts/test --all` takes each over both. Written by
`python -m tests.attacks.table`.
"""


class Attack(NamedTuple):
    """One attack, as its test says it."""

    room: str
    test: str
    does: str
    follows: str


def attacks() -> Iterator[Attack]:
    """Yield every attack, in the order of the files; raises `ValueError` for a test that says nothing of the kind."""
    for path in sorted(HERE.glob("test_*.py")):
        if path.name == "test_table.py":
            continue
        for node in ast.parse(path.read_text("utf-8")).body:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_"):
                said = " ".join((ast.get_docstring(node) or "").split("\n\n")[0].split())
                does, dash, follows = said.partition(" — ")
                if not dash:
                    raise ValueError(f"{path.name}: {node.name} does not say what the attacker does — what must follow")
                yield Attack(path.stem.removeprefix("test_"), node.name, does, follows.rstrip("."))


def page() -> str:
    """Return the page as it should be."""
    known = list(attacks())
    parts = [HEAD, f"{len(known)} attacks.\n"]
    for room in dict.fromkeys(attack.room for attack in known):
        parts.append(f"## {room.replace('_', ' ').capitalize()}\n\n`tests/attacks/test_{room}.py`\n")
        rows = [
            f"| {attack.does} | {attack.follows} | `{attack.test}` |".replace("\n", " ")
            for attack in known
            if attack.room == room
        ]
        parts.append("\n".join(["| the attacker | what follows | test |", "|---|---|---|", *rows]) + "\n")
    return "\n".join(parts)


if __name__ == "__main__":
    PAGE.write_text(page(), "utf-8")

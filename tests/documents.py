"""The code in the documents, which runs as printed."""

import re
from pathlib import Path


def code_of(document: Path, name: str) -> str:
    """Return the code block that a document marks with this name."""
    found = re.search(rf"<!-- tested: {re.escape(name)} -->\n```python\n(.*?)```", document.read_text(), re.DOTALL)
    assert found is not None, f"{document.name} has no code marked {name}"
    return found[1]

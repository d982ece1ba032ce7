"""How Sphinx builds the site: `scripts/docs`."""

import re
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sphinx.ext.napoleon import Config, GoogleDocstring

ROOT = Path(__file__).parents[1]
NAPOLEON = Config()

project = "server-session"
author = "server-session contributors"
release = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]

extensions = ["myst_parser", "sphinx.ext.autodoc"]
myst_heading_anchors = 3
html_theme = "furo"
html_title = f"{project} {release}"
html_copy_source = False

# Docstrings are Markdown: what stands between backticks is code.
default_role = "code"
add_module_names = False
autodoc_default_options = {"members": True, "show-inheritance": True}
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"


def read_docstring(_app: Any, what: str, _name: str, _object: Any, _options: Any, lines: list[str]) -> None:
    """Turn a docstring's sections, which are Google's, and its blocks of code, Markdown's, into reStructuredText."""
    text = re.sub(
        r"^( *)```(\w+)\n(.*?)^ *```$",
        lambda block: f"{block[1]}.. code-block:: {block[2]}\n\n" + re.sub(r"^", "   ", block[3], flags=re.MULTILINE),
        "\n".join(lines),
        flags=re.DOTALL | re.MULTILINE,
    )
    # An attribute's has no sections, and what stands in it before a colon is no type.
    is_sentence = what in ("attribute", "data", "property")
    lines[:] = text.split("\n") if is_sentence else GoogleDocstring(text, NAPOLEON, what=what).lines()


def place_the_rest(app: Any, page: str, source: list[str]) -> None:
    """Put the pages that the navigation does not name where it says `(the rest)`: a new one is found at once."""
    if page == "index":
        pages = sorted(file.stem for file in Path(app.srcdir).glob("*.md"))
        rest = [name for name in pages if not re.search(rf"^{name}$", source[0], re.MULTILINE) and name != page]
        source[0] = source[0].replace("(the rest)", "\n".join(rest))


def setup(app: Any) -> None:
    """Tell Sphinx what it does not know."""
    connect: Callable[..., Any] = app.connect
    connect("autodoc-process-docstring", read_docstring)
    connect("source-read", place_the_rest)

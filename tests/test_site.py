"""The documents as a site: what `scripts/docs` finds too, which builds it whole."""

import re

import pytest

from server_session import sync
from server_session._sessions import Settings
from tests.documents import DOCS
from tests.test_public_names import MODULES

# The rooms' own modules, which nobody imports.
ROOMS = re.compile(r"server_session\.(csrf|exchange|http|kernel)\b")
# The first has the functions of `server_session`, name for name; two are told with their stores, the command on a page.
TOLD_ELSEWHERE = tuple(f"server_session.{name}" for name in ("sync", "stores.memory", "stores.file", "cli"))
PAGES = sorted(page for page in DOCS.rglob("*.md") if "```{include}" not in page.read_text())


def test_the_reference_has_each_public_module() -> None:
    reference = "".join(page.read_text() for page in (DOCS / "reference").iterdir())
    named = set(re.findall(r"automodule:: (\S+)", reference))
    expected = {name for name in MODULES if not ROOMS.match(name) and name not in TOLD_ELSEWHERE}
    assert {name for name in expected if name.count(".") < 2 or ".stores." in name} <= named


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(DOCS)))
def test_what_a_page_links_to_is_there(page) -> None:
    links = re.findall(r"\]\((?!https?:|#)([^)#]+)[^)]*\)", page.read_text())
    assert not [link for link in links if not (page.parent / link).exists()]


def test_the_page_of_functions_and_settings_names_each() -> None:
    named = set(re.findall(r"`(\w+)", (DOCS / "overview.md").read_text()))
    assert {*Settings.__annotations__, *sync.__all__} - {"OpenedSession"} <= named


def test_the_code_of_each_page_is_marked_as_run_by_a_test() -> None:
    unmarked = [
        f"{page.relative_to(DOCS)}: {code}"
        for page in PAGES
        for mark, code in re.findall(r"^(.*)\n *```(?:python|jsx?|sql|html)\n *(.+)$", page.read_text(), re.MULTILINE)
        if not mark.lstrip().startswith(("<!-- tested: ", "<!-- file: ", "<!-- end of: "))
    ]
    # An outline, and what another library's users have.
    assert [one.partition(": ")[0] for one in unmarked] == ["design.md", "moving.md"]

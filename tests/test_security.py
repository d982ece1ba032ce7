"""docs/security.md names tests as proof: they must be there."""

import re
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
ROOT = TESTS.parent
PAGE = (ROOT / "docs" / "security.md").read_text("utf-8")
PROOFS = sorted(set(re.findall(r"`([\w/]+\.py)(?:::(test_\w+))?`", PAGE)))

# OWASP ASVS 5.0.0: how many requirements each section has.
SECTIONS = {"7.1": 3, "7.2": 4, "7.3": 2, "7.4": 5, "7.5": 3, "7.6": 2, "3.3": 5, "3.5": 8}

pytestmark = pytest.mark.once


@pytest.mark.parametrize("file,test", PROOFS)
def test_each_proof_that_the_page_names_exists(file, test):
    places = [place for place in (TESTS / file, ROOT / "src" / "server_session" / file) if place.exists()]
    assert places, file
    assert f"def {test}(" in places[0].read_text("utf-8") if test else True


def test_each_requirement_has_its_row():
    rows = re.findall(r"^\| (\d\.\d\.\d+)(?: \u2013 (\d\.\d\.\d+))? \|", PAGE, re.MULTILINE)
    numbers = set()
    for first, last in rows:
        section, start = first.rsplit(".", 1)
        end = last.rsplit(".", 1)[1] if last else start
        numbers |= {f"{section}.{number}" for number in range(int(start), int(end) + 1)}
    expected = {f"{section}.{number}" for section, count in SECTIONS.items() for number in range(1, count + 1)}
    assert numbers == expected | {"4.4.2"}

"""The versions that environments are made of: `constraints.txt`, and what a group adds in a file of its own."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def names_in(file: str) -> set[str]:
    names = re.findall(r"^([\w.-]+)==", (ROOT / file).read_text(), re.MULTILINE)
    return {re.sub(r"[-_.]+", "-", name).lower() for name in names}


@pytest.mark.once
@pytest.mark.parametrize("of_a_group", [file.name for file in sorted(ROOT.glob("constraints-*.txt"))])
def test_no_package_has_two_versions_that_could_differ(of_a_group):
    assert not names_in("constraints.txt") & names_in(of_a_group)

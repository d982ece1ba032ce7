"""The versions that environments are made of: `constraints.txt`, and what a group adds in a file of its own."""

import re
import sys
from importlib.metadata import distributions
from pathlib import Path

import pytest
from packaging.specifiers import SpecifierSet

ROOT = Path(__file__).parents[1]


def names_in(file: str) -> set[str]:
    names = re.findall(r"^([\w.-]+)==", (ROOT / file).read_text(), re.MULTILINE)
    return {re.sub(r"[-_.]+", "-", name).lower() for name in names}


@pytest.mark.once
@pytest.mark.parametrize("of_a_group", [file.name for file in sorted(ROOT.glob("constraints-*.txt"))])
def test_no_package_has_two_versions_that_could_differ(of_a_group):
    assert not names_in("constraints.txt") & names_in(of_a_group)


def test_none_asks_for_a_later_python_than_the_first_of_its_minor_version():
    # Debian 12 stays with 3.11.2.
    first = f"{sys.version_info.major}.{sys.version_info.minor}.0"
    asked = {one.metadata["Name"]: one.metadata.get("Requires-Python") for one in distributions()}
    assert not {name: python for name, python in asked.items() if python and first not in SpecifierSet(python)}

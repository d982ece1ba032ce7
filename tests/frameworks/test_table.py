"""The table of frameworks says what the suites hold."""

import pytest

from tests.frameworks.table import MARK, PAGE, table


@pytest.mark.once
def test_the_page_of_frameworks_is_what_the_suites_say() -> None:
    written = PAGE.read_text().partition(MARK)[2].strip()
    assert written == table().strip(), "python -m tests.frameworks.table"

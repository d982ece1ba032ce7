import pytest

from tests.attacks.table import PAGE, attacks, page

pytestmark = pytest.mark.once


def test_there_are_at_least_eighty_attacks_and_no_two_of_one_name():
    names = [attack.test for attack in attacks()]
    assert len(names) >= 80
    assert len(set(names)) == len(names)


def test_the_table_of_attacks_is_what_the_tests_say():
    assert PAGE.read_text("utf-8") == page(), "run: python -m tests.attacks.table"

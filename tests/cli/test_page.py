"""docs/command.md names all that there is."""

import re
from pathlib import Path

import click
import pytest

from server_session import cli
from server_session.cli._commands import Commands
from server_session.cli.doctor import file
from server_session.stores.redis._errors import MENDS as REDIS_MENDS
from server_session.stores.sql._errors import MENDS as SQL_MENDS
from tests.cli.page import PAGE

COMMANDS = Commands()
CONTEXT = click.Context(COMMANDS)
NAMES = COMMANDS.list_commands(CONTEXT)


@pytest.mark.parametrize("name", NAMES)
def test_each_command_and_each_of_its_options_is_in_the_page(name: str) -> None:
    text = PAGE.read_text()
    command = COMMANDS.get_command(CONTEXT, name)
    assert command is not None
    assert f"`{name}`" in text
    options = [option for parameter in command.params for option in parameter.opts if option.startswith("--")]
    assert "--json" in options
    assert [option for option in options if f"{option}" not in text] == []
    assert command.help


def test_each_code_of_a_finding_is_in_the_page_and_each_in_the_page_is_one() -> None:
    sources = Path(cli.__file__).parent / "doctor"
    written = {
        code for source in sources.glob("*.py") for code in re.findall(r"find\(\s*\"(\w+)\"", source.read_text())
    }
    codes = written | REDIS_MENDS.keys() | SQL_MENDS.keys() | {"refused", "unreachable", file.OTHERWISE[0]}
    rows = re.findall(r"^\| (`[^|]+) \|", PAGE.read_text().partition("| code | what is wrong |")[2], re.MULTILINE)
    assert {code for row in rows for code in re.findall(r"`(\w+)`", row)} == codes

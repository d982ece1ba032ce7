"""What who runs an application is shown of its sessions: visitors wrote some of it, and others may read it."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from server_session.cli._commands import Commands
from tests.cli.shop import Shop


def printed(*arguments: str) -> str:
    """Return all that the command prints, errors too."""
    return CliRunner(env={"COLUMNS": "200"}).invoke(Commands(), arguments, prog_name="server-session").output


@pytest.mark.parametrize("as_json", [[], ["--json"]], ids=["text", "json"])
@pytest.mark.parametrize(
    "name",
    ["\x1b[2J\x1b[31mmallory", "\x9b31mmallory", "mallory\x1b]52;c;aGVsbG8=\x07", "mallory\x08\x7f", "[red]mallory"],
)
def test_a_visitor_commands_no_terminal(tmp_path: Path, name: str, as_json: list[str]) -> None:
    """Gives a name that is a terminal's commands, for whoever looks at a session's values — it is printed as text."""
    Shop(f"file:{tmp_path}/kept").visit("ada", secret=name)
    out = printed("sessions", "ada", "--values", "--store", f"file:{tmp_path}/kept", *as_json)
    assert "mallory" in out
    assert all(one.isprintable() or one == "\n" for one in out)


def test_the_screen_of_who_runs_it_opens_no_session(tmp_path: Path) -> None:
    """Reads what the command has printed, in a log of builds say — no cookie and no value is there to be used."""
    shop = Shop(f"file:{tmp_path}/kept")
    cookies = shop.visit("ada", "ada")
    asked = (["stats"], ["sessions", "ada"], ["sessions", "ada", "--json"], ["end", "ada"], ["stats", "--json"])
    said = "".join(printed(*words, "--store", shop.url) for words in asked) + printed("doctor", shop.url)
    assert "of-the-shop" not in said
    assert not any(cookie[24:] in said for cookie in cookies)


@pytest.mark.parametrize("words", [["doctor"], ["stats", "--store"], ["sweep", "--json", "--store"]])
def test_the_password_of_a_store_is_not_printed(words: list[str]) -> None:
    """Reads what the command says of a store that it cannot reach — its URL's password is not there."""
    # Nothing listens on the first port, as everywhere but on purpose.
    for url in ("redis://shop:teatime@127.0.0.1:1/0", "redis://shop:tea/teatime@127.0.0.1:1/0", "teatime@127.0.0.1"):
        assert "teatime" not in printed(*words, url)

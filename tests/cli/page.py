"""Writes the outputs in docs/command.md anew: `python -m tests.cli.page`."""

import asyncio
import os
import re
import tempfile
import time
from pathlib import Path

from click.testing import CliRunner

from server_session import FileSessionStore, Lifetime
from server_session.cli._commands import Commands
from tests import servers
from tests.cli.shop import Shop

PAGE = Path(__file__).parents[2] / "docs" / "command.md"


def main() -> None:
    os.environ["COLUMNS"] = "100"
    full = ("--maxmemory-policy", "allkeys-lru", "--maxmemory", "100mb")
    with servers.start_redis(*full) as server, tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        for count, age in ((7, 20), (12, 300), (16, 2400), (5, 9000), (2, 200_000)):
            old = Shop("file:kept", clock=lambda age=age: time.time() - age)
            old.visit(*["ada", "grace"][: count % 5], *[None] * count)
        asyncio.run(_expire())
        Path("shop.py").write_text(
            "from server_session import Sessions\n"
            "sessions = Sessions(session_store='file:kept', origin='http://shop.example', csrf=None)\n"
        )
        url = server.url.replace(str(server.port), "6379")
        shown = {
            "doctor": [(f"doctor {url} shop:sessions", {url: server.url})],
            "stats": [("stats --store file:kept", {})],
            "sessions": [
                ("sessions ada --store file:kept", {}),
                ("end ada --store file:kept", {}),
            ],
            "sweep": [("sweep --store file:kept", {})],
            "ddl": [("ddl --dialect postgresql", {})],
        }
        text = PAGE.read_text()
        for name, commands in shown.items():
            said = "\n".join(f"$ server-session {line}\n{_run(line, meant)}" for line, meant in commands)
            block = f"<!-- run: {name} -->\n```console\n{said.rstrip()}\n```"
            marked = rf"<!-- run: {name} -->\n```console\n.*?```"
            text = re.sub(marked, lambda _, block=block: block, text, flags=re.DOTALL)
        PAGE.write_text(text)


async def _expire() -> None:
    store = FileSessionStore("kept", clock=lambda: 0.0)
    for _ in range(40):
        await store.set(store.id(), {"name": b"1"}, Lifetime(1.0))


def _run(line: str, meant: dict[str, str]) -> str:
    words = [meant.get(word, word) for word in line.split()]
    said = CliRunner().invoke(Commands(), words, prog_name="server-session").stdout
    for shown, real in meant.items():
        said = said.replace(real, shown)
    return "\n".join(part.rstrip() for part in said.splitlines()) + "\n"


if __name__ == "__main__":
    main()

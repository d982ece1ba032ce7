"""All sessions of a store move to another and back, while four processes use them."""

import asyncio
import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from server_session.migration import Migrated, migrate
from tests.migration.worker import store_at

ROOT = Path(__file__).resolve().parents[2]
PROCESSES = 4
# A smaller number tries the test itself.
SESSIONS = int(os.environ.get("SERVER_SESSION_MOVED", "100000"))


class Crew:
    """Processes that are told the same, and answer one after the other."""

    def __init__(self) -> None:
        paths = os.pathsep.join([str(ROOT / "src"), str(ROOT)])
        self.processes = [
            subprocess.Popen(
                [sys.executable, "-m", "tests.migration.worker", str(number), str(SESSIONS // PROCESSES)],
                cwd=ROOT,
                env={**os.environ, "PYTHONPATH": paths},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for number in range(PROCESSES)
        ]

    def tell(self, *words: str) -> list[dict[str, Any]]:
        for process in self.processes:
            assert process.stdin is not None
            process.stdin.write(" ".join(words) + "\n")
            process.stdin.flush()
        answers = []
        for process in self.processes:
            assert process.stdout is not None
            answers.append(json.loads(process.stdout.readline()))
        return answers


@pytest.fixture
def crew() -> Iterator[Crew]:
    crew = Crew()
    yield crew
    for process in crew.processes:
        process.kill()
        process.communicate()


def move(old: str, new: str) -> Migrated:
    async def whole() -> Migrated:
        # The driver that blocks takes the least of the processor, which all here share.
        stores: list[Any] = [store_at(url.replace("+asyncpg", "+psycopg")) for url in (old, new)]
        try:
            return await migrate(*stores)
        finally:
            for store in stores:
                if hasattr(store, "close"):
                    await store.close()

    return asyncio.run(whole())


async def left_in(url: str) -> int:
    store: Any = store_at(url)
    after, count = "", 0
    while after is not None:
        batch = await store.list_records(after)
        count += len(batch.records)
        after = batch.after
    if hasattr(store, "close"):
        await store.close()
    return count


@pytest.mark.once
@pytest.mark.skipif(os.environ.get("SERVER_SESSION_ALL") != "1", reason="takes long: SERVER_SESSION_ALL=1 runs it")
def test_all_sessions_move_there_and_back_while_four_processes_use_them(
    crew: Crew, redis_server: Any, postgresql_server: Any, capsys: Any
) -> None:
    redis = redis_server.url.removesuffix("/0") + "/7"
    postgresql = postgresql_server.url_for("postgresql+asyncpg")
    begin = time.monotonic()
    crew.tell("found", redis)
    lines = [f"{SESSIONS} sessions founded in {time.monotonic() - begin:.0f} s"]
    for old, new in ((redis, postgresql), (postgresql, redis)):
        crew.tell("run", old, new)
        begin = time.monotonic()
        moved = move(old, new)
        seconds = time.monotonic() - begin
        answers = crew.tell("stop")
        crew_counts = sum((Counter(answer["counts"]) for answer in answers), Counter[str]())
        lines.append(
            f"{old.partition(':')[0]} -> {new.partition(':')[0]}: {moved} in {seconds:.1f} s; {dict(crew_counts)}"
        )
        assert [wrong for answer in answers for wrong in answer["wrong"]] == []
        assert asyncio.run(left_in(old)) == 0
        begin = time.monotonic()
        answers = crew.tell("check", new)
        assert [wrong for answer in answers for wrong in answer["wrong"]] == []
        living, ended = (sum(answer[name] for answer in answers) for name in ("living", "ended"))
        lines.append(f"{living} live, {ended} ended: 0 lost, 0 back (looked at in {time.monotonic() - begin:.0f} s)")
    with capsys.disabled():
        sys.stdout.write("\n".join(["", *lines, ""]))

"""Faults, and the applications that meet them: one store at a time, under load, through what happens to its server."""

import contextlib
import json
import math
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

from server_session import Sessions
from server_session._colour import drive
from tests import servers
from tests.faults.model import Answers, Loss, Model, read_diaries
from tests.faults.proxy import Proxy, Weather
from tests.faults.worker import close_store, open_store
from tests.patience import PATIENCE, wait_until
from tests.redis_sets import (
    SERVICE,
    is_master,
    is_up,
    look_at,
    replication_of,
    start_cluster,
    start_watched,
)
from tests.trials.worker import STEPS, Blocking, settled

__all__ = ["LIMIT", "STORES", "Cell", "Row", "Stage", "try_out"]

ROOT: Final = Path(__file__).resolve().parents[2]

LIMIT: Final = 0.5
"""Seconds that the stores wait for their servers."""

LAG: Final = 0.5
"""Seconds by which a replica may be behind its master, at most."""

DEADLOCK: Final = 1213
"""MariaDB's number for it."""
# asyncpg asks first whether the server takes TLS; broken off before the answer, it leaves a future to nobody.
_OF_ASYNCPG: Final = re.compile(
    r"Future exception was never retrieved\nfuture: <Future finished exception=ConnectionError\('unexpected "
    r"connection_lost\(\) call'\)>\nConnectionError: unexpected connection_lost\(\) call\n"
)

Calls = Literal["gather", "threads"]


@dataclass
class Stage:
    """Where a store is, what stands before it, and who uses it."""

    place: str
    server: servers.Server | None = None
    proxy: Proxy | None = None
    folder: Path | None = None
    load: "Load | None" = None
    seconds: float = 1.0
    """How long a fault lasts that does not end by itself."""
    nodes: list[servers.Server] = field(default_factory=list)
    """Of servers that belong together."""
    sentinels: list[servers.Server] = field(default_factory=list)
    over: float | None = None
    """When the store was whole again, where the fault's own end is later."""


Fault = Callable[[Stage], None]
"""Brings a fault about, and returns when it is over."""


@dataclass(frozen=True)
class Row:
    """A store, and what may befall it."""

    name: str
    open: Callable[[], AbstractContextManager[Stage]]
    faults: dict[str, Fault]
    schemes: dict[Calls, str] = field(default_factory=dict)
    """The scheme of the URL in each colour, where it is not the server's own."""
    options: dict[Calls, str] = field(default_factory=dict)
    """What the URL ends with in each colour."""
    has_owners: bool = True
    losses: dict[str, Loss] = field(default_factory=dict)
    """What faults may cost, by the server's own word."""

    def place(self, place: str, calls: Calls) -> str:
        scheme = self.schemes.get(calls)
        whole = place if scheme is None else f"{scheme}:{place.partition(':')[2]}"
        return whole + self.options.get(calls, "")


@dataclass
class Cell:
    """A store and a fault: what came of the requests from its beginning to the next one's."""

    store: str
    fault: str
    answers: Answers
    seconds: float
    """From the end of the fault to the last answer that was 503."""


class Load:
    """The processes of applications that use a store."""

    def __init__(self, row: Row, stage: Stage, processes: int, visitors: int, folder: Path) -> None:
        self._row, self._stage, self._visitors, self.folder = row, stage, visitors, folder
        self._started = 0
        self.running: list[subprocess.Popen[bytes]] = []
        for _ in range(processes):
            self.start()

    @property
    def diaries(self) -> list[Path]:
        return sorted(self.folder.glob("*.diary"))

    @property
    def complaints(self) -> str:
        """What the applications logged."""
        said = "".join(path.read_text(errors="replace") for path in sorted(self.folder.glob("*.log")))
        return _OF_ASYNCPG.sub("", said)

    def start(self) -> None:
        calls: Calls = "threads" if self._started % 2 else "gather"
        name = f"{calls} {self._started}"
        self._started += 1
        told = {
            "name": name,
            "place": self._row.place(self._stage.place, calls),
            "calls": calls,
            "limit": LIMIT,
            "visitors": self._visitors,
            "has_owners": self._row.has_owners,
            "diary": str(self.folder / f"{name}.diary"),
        }
        with (self.folder / f"{name}.log").open("wb") as log:
            command = [sys.executable, "-c", "from tests.faults import clock, worker; worker.main()"]
            process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=log, stderr=log)
        self.running.append(process)
        self._tell(process, told)

    def wait_until_served(self) -> None:
        """Wait until each process has answered somebody."""
        end = time.monotonic() + PATIENCE
        while len(self.diaries) < self._started or any(b'"status"' not in one.read_bytes() for one in self.diaries):
            assert time.monotonic() < end, f"an application does not start:\n{self.complaints}"
            time.sleep(0.05)

    def hang_up(self, part: float) -> None:
        """Let so many of the visitors leave before they are answered, from 0 to 1."""
        for process in self.running:
            self._tell(process, {"hangs_up": part})

    def set_clock(self, number: int, ahead: float) -> None:
        """Set the clock of one process so many seconds ahead."""
        self._tell(self.running[number], {"ahead": ahead})

    def kill_one(self) -> None:
        """Kill a process in the middle of what it does, and start another."""
        process = self.running.pop(0)
        process.kill()
        process.communicate()
        self.start()

    def stop(self) -> None:
        """End them, once each visitor has the answer that they wait for."""
        running, self.running = self.running, []
        for process in running:
            with contextlib.suppress(BrokenPipeError):
                self._tell(process, "stop")
        for process in running:
            try:
                process.communicate(timeout=PATIENCE)
            finally:
                process.kill()

    def _tell(self, process: "subprocess.Popen[bytes]", what: Any) -> None:
        assert process.stdin is not None
        process.stdin.write(json.dumps(what).encode() + b"\n")
        process.stdin.flush()


# --- faults


def under(weather: Weather) -> Fault:
    def fault(stage: Stage) -> None:
        assert stage.proxy is not None
        stage.proxy.weather = weather
        time.sleep(stage.seconds)
        stage.proxy.weather = Weather.FAIR

    return fault


def killed(stage: Stage) -> None:
    server(stage).kill()
    time.sleep(stage.seconds / 2)
    server(stage).start()


def restarted(stage: Stage) -> None:
    server(stage).restart(signal.SIGINT)


def frozen(stage: Stage) -> None:
    os.kill(server(stage).pid, signal.SIGSTOP)
    try:
        time.sleep(stage.seconds)
    finally:
        os.kill(server(stage).pid, signal.SIGCONT)


def process_killed(stage: Stage) -> None:
    assert stage.load is not None
    stage.load.kill_one()
    stage.load.wait_until_served()


def clients_hang_up(stage: Stage) -> None:
    assert stage.load is not None
    stage.load.hang_up(0.5)
    time.sleep(stage.seconds)
    stage.load.hang_up(0)


def clock_set(stage: Stage) -> None:
    assert stage.load is not None
    for number in range(2):
        for hours in (1, -1, 0):
            stage.load.set_clock(number, hours * 3600)
            time.sleep(stage.seconds / 2)


def server(stage: Stage) -> servers.Server:
    assert stage.server is not None
    return stage.server


def script_flushed(stage: Stage) -> None:
    with look_at(server(stage)) as client:
        for _ in range(5):
            client.script_flush()
            time.sleep(stage.seconds / 10)


def connections_killed(stage: Stage) -> None:
    with look_at(server(stage)) as client:
        for _ in range(5):
            client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
            time.sleep(stage.seconds / 10)


def memory_full(stage: Stage) -> None:
    with look_at(server(stage)) as client:
        client.config_set("maxmemory", "1")
        time.sleep(stage.seconds)
        client.config_set("maxmemory", "0")


def sentinel_failed_over(stage: Stage) -> None:
    master, replica = in_order(stage.nodes)
    with look_at(stage.sentinels[0]) as sentinel:
        sentinel.execute_command("SENTINEL", "FAILOVER", SERVICE)
    wait_until(lambda: is_master(replica))
    # Until Sentinel makes a replica of it the old master serves those who are connected to it.
    wait_until(lambda: is_up(master))


def master_killed(stage: Stage) -> None:
    master, replica = in_order(stage.nodes)
    master.kill()
    wait_until(lambda: is_master(replica))
    stage.over = time.monotonic()
    time.sleep(stage.seconds)
    master.start()
    wait_until(lambda: is_up(master))


def in_order(nodes: list[servers.Server]) -> tuple[servers.Server, servers.Server]:
    """Return a master and a replica of its."""
    replica, state = next((node, state) for node in nodes if (state := replication_of(node))["role"] == "slave")
    return next(node for node in nodes if node.port == state["master_port"]), replica


def cluster_failed_over(stage: Stage) -> None:
    _, replica = in_order(stage.nodes)
    with look_at(replica) as client:
        client.execute_command("CLUSTER", "FAILOVER")
    wait_until(lambda: is_master(replica))


def slots_moved(stage: Stage) -> None:
    with ExitStack() as stack:
        source, target, *others = [stack.enter_context(look_at(node)) for node in stage.nodes if is_master(node)]
        slots = {source.cluster("KEYSLOT", key) for key in source.scan_iter()}
        for slot in slots:
            move_slot(slot, source, target, others)
            time.sleep(stage.seconds / len(slots))
        wait_until(lambda: len({repr(owners_of_slots(client)) for client in (source, target, *others)}) == 1)


def owners_of_slots(client: Any) -> list[Any]:
    return sorted((first, last, master[1]) for first, last, master, *_ in client.cluster("SLOTS"))


def move_slot(slot: int, source: Any, target: Any, others: list[Any]) -> None:
    names = [client.cluster("MYID") for client in (source, target)]
    target.cluster("SETSLOT", slot, "IMPORTING", names[0])
    source.cluster("SETSLOT", slot, "MIGRATING", names[1])
    port = target.connection_pool.connection_kwargs["port"]
    while keys := source.cluster("GETKEYSINSLOT", slot, 10):
        source.migrate("127.0.0.1", port, keys, 0, 5000)
    # First where it is now, or for a moment nobody would have it.
    for client in (target, source, *others):
        client.cluster("SETSLOT", slot, "NODE", names[1])


def postgresql(stage: Stage, *statements: str) -> None:
    import psycopg

    with psycopg.connect(f"postgresql://session@127.0.0.1:{server(stage).port}/session") as connection:
        for statement in statements:
            connection.execute(statement.encode())
        if len(statements) > 1:
            time.sleep(stage.seconds)


def connections_terminated(stage: Stage) -> None:
    others = (
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'session' AND pid <> pg_backend_pid()"
    )
    for _ in range(3):
        postgresql(stage, others)
        time.sleep(stage.seconds / 10)


def pool_exhausted(stage: Stage) -> None:
    # Each connection of each pool waits for the lock.
    postgresql(stage, "BEGIN", "LOCK TABLE server_sessions IN ACCESS EXCLUSIVE MODE")


def mariadb(stage: Stage) -> Any:
    import pymysql

    place = {"host": "127.0.0.1", "port": server(stage).port, "user": "session", "password": "session"}
    return pymysql.connect(**place, database="session")


def tables_locked(stage: Stage) -> None:
    with mariadb(stage) as connection, connection.cursor() as cursor:
        cursor.execute("LOCK TABLES server_sessions WRITE")
        time.sleep(stage.seconds)


def deadlocked(stage: Stage) -> None:
    """Lock the expiries, the last first, and then the rows, while writes lock a row first and then its new expiry."""
    import pymysql

    def deadlocks() -> int:
        cursor.execute("SHOW GLOBAL STATUS LIKE 'Innodb_deadlocks'")
        return int(cursor.fetchone()[1])

    with mariadb(stage) as connection, connection.cursor() as cursor:
        before, own, end = deadlocks(), 0, time.monotonic() + stage.seconds
        while time.monotonic() < end or deadlocks() - before - own < 3:
            try:
                connection.begin()
                # Of two that are in each other's way the one that has written less is ended.
                cursor.executemany(
                    "INSERT INTO server_sessions VALUES (%s, '', 0, 0, NULL, 0)", [(number,) for number in range(50)]
                )
                cursor.execute(
                    "SELECT id, sleep(0.002) FROM server_sessions FORCE INDEX (server_sessions_expires) "
                    "WHERE expires > 0 ORDER BY expires DESC FOR UPDATE"
                )
            except pymysql.OperationalError as error:
                if error.args[0] != DEADLOCK:
                    raise
                own += 1
            finally:
                connection.rollback()


def sqlite_locked(stage: Stage) -> None:
    connection = sqlite3.connect(stage.place.removeprefix("sqlite:///"), isolation_level=None, timeout=PATIENCE)
    connection.execute("BEGIN EXCLUSIVE")
    time.sleep(stage.seconds)
    connection.execute("ROLLBACK")
    connection.close()


def disk_full(stage: Stage) -> None:
    assert stage.folder is not None
    hog = stage.folder / "hog"
    with hog.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))
    time.sleep(stage.seconds)
    hog.unlink()


def read_only(stage: Stage) -> None:
    remount(stage, "ro")
    time.sleep(stage.seconds)
    remount(stage, "rw")


def remount(stage: Stage, how: str) -> None:
    end = time.monotonic() + PATIENCE
    # Busy while anybody has a file of it open for writing.
    while subprocess.run(["mount", "-o", f"remount,{how}", str(stage.folder)], capture_output=True).returncode:  # noqa: PLW1510
        assert time.monotonic() < end, "the file system cannot be mounted again"
        time.sleep(0.002)


def can_mount() -> bool:
    """Whether a file system of the tests' own can be mounted here."""
    folder = tempfile.mkdtemp()
    try:
        if subprocess.run(["mount", "-t", "tmpfs", "tmpfs", folder], capture_output=True, check=False).returncode:
            return False
        subprocess.run(["umount", folder], check=True)
    except OSError:
        return False
    finally:
        shutil.rmtree(folder)
    return True


# --- stores


@contextmanager
def behind_proxy(start: Callable[[], servers.Server]) -> Iterator[Stage]:
    with start() as started, Proxy(started.port) as proxy:
        place = started.url.replace(f":{started.port}", f":{proxy.port}")
        yield Stage(place, started, proxy)


@contextmanager
def by_sentinels() -> Iterator[Stage]:
    with start_watched() as (nodes, sentinels):
        yield Stage(f"sentinel:{','.join(str(one.port) for one in sentinels)}", nodes=nodes, sentinels=sentinels)


@contextmanager
def in_cluster() -> Iterator[Stage]:
    with start_cluster(replicas=3) as nodes:
        yield Stage(f"cluster:{','.join(str(node.port) for node in nodes)}", nodes=nodes)


@contextmanager
def in_folder(url: str) -> Iterator[Stage]:
    folder = Path(tempfile.mkdtemp())
    is_mounted = can_mount()
    if is_mounted:
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(folder)], check=True)
    try:
        (folder / "sessions").mkdir()
        if url.startswith("sqlite"):
            connection = sqlite3.connect(folder / "sessions/db")
            connection.execute("PRAGMA journal_mode=WAL")
            connection.close()
        yield Stage(url.format(folder=folder / "sessions"), folder=folder if is_mounted else None)
    finally:
        if is_mounted:
            subprocess.run(["umount", "-l", str(folder)], check=True)
        shutil.rmtree(folder)


def start_redis() -> servers.Server:
    return servers.start_redis()


def start_redis_with_log() -> servers.Server:
    return servers.start_redis("--appendonly", "yes", "--appendfsync", "everysec")


def start_postgresql() -> servers.Server:
    return servers.start_postgresql("synchronous_commit=on")


def start_mariadb() -> servers.Server:
    return servers.start_mariadb("--innodb-flush-log-at-trx-commit=2")


APPLICATION: Final[dict[str, Fault]] = {
    "clients hang up": clients_hang_up,
    "a process killed": process_killed,
    "a clock set forth and back": clock_set,
}
NETWORK: Final[dict[str, Fault]] = {
    "connections reset": under(Weather.RESET),
    "cut before the answer": under(Weather.CUT),
    "silence": under(Weather.SILENT),
    "byte by byte": under(Weather.TRICKLE),
    "killed and started again": killed,
    "frozen": frozen,
}
REDIS: Final[dict[str, Fault]] = {
    "SCRIPT FLUSH": script_flushed,
    "CLIENT KILL": connections_killed,
    "maxmemory refuses writes": memory_full,
}
DISK: Final[dict[str, Fault]] = {"disk full": disk_full, "read-only": read_only}

STORES: Final[dict[str, Row]] = {
    row.name: row
    for row in (
        Row(
            "Redis",
            lambda: behind_proxy(start_redis),
            {**REDIS, **NETWORK, **APPLICATION},
            losses={"killed and started again": Loss.ALL},
        ),
        Row("Redis with AOF", lambda: behind_proxy(start_redis_with_log), {**REDIS, **NETWORK, **APPLICATION}),
        Row(
            "Redis by a Sentinel",
            by_sentinels,
            {"fail-over": sentinel_failed_over, "the master killed": master_killed, **APPLICATION},
            {"gather": "sentinel+asyncio"},
            losses={"fail-over": Loss.LAST, "the master killed": Loss.LAST},
        ),
        Row(
            "Redis Cluster",
            in_cluster,
            {
                "slots moved": slots_moved,
                "fail-over": cluster_failed_over,
                "a master killed": master_killed,
                **APPLICATION,
            },
            {"gather": "cluster+asyncio"},
            losses={"a master killed": Loss.LAST},
        ),
        Row(
            "PostgreSQL",
            lambda: behind_proxy(start_postgresql),
            {
                "connections terminated": connections_terminated,
                "restarted": restarted,
                "table locked, pool exhausted": pool_exhausted,
                # A postmaster that is stopped stops none of those that answer.
                **{name: fault for name, fault in NETWORK.items() if fault is not frozen},
                **APPLICATION,
            },
            {"gather": "postgresql+asyncpg", "threads": "postgresql+psycopg"},
        ),
        Row(
            "MariaDB",
            lambda: behind_proxy(start_mariadb),
            {"table locked, pool exhausted": tables_locked, "deadlocks": deadlocked, **NETWORK, **APPLICATION},
            {"gather": "mysql+asyncmy", "threads": "mysql+pymysql"},
            # Each connection of PyMySQL reads all certificate authorities of the machine.
            {"threads": "?ssl_disabled=true"},
        ),
        Row(
            "memcached",
            lambda: behind_proxy(servers.start_memcached),
            {**NETWORK, **APPLICATION},
            has_owners=False,
            losses={"killed and started again": Loss.ALL, "a clock set forth and back": Loss.SIGHT},
        ),
        Row(
            "SQLite",
            lambda: in_folder("sqlite:///{folder}/db"),
            {"locked by another process": sqlite_locked, "disk full": disk_full, **APPLICATION},
            {"gather": "sqlite+aiosqlite", "threads": "sqlite+pysqlite"},
        ),
        Row(
            "file",
            lambda: in_folder("file:{folder}"),
            {**DISK, **APPLICATION},
            losses={"a clock set forth and back": Loss.SIGHT},
        ),
    )
}


# --- the trial


def try_out(
    row: Row, faults: list[str], *, processes: int = 2, visitors: int = 4, seconds: float = 1.0, after: float = 1.5
) -> list[Cell]:
    """Let applications use the store while each of these faults befalls it in turn; return what came of it.

    The last cell is what is found at the end, by a reader of its own, with every cookie that was ever given.
    """
    with ExitStack() as stack:
        stage = stack.enter_context(row.open())
        stage.seconds = seconds
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        load = stage.load = Load(row, stage, processes, visitors, folder)
        stack.callback(load.stop)
        load.wait_until_served()
        times: list[tuple[str, float, float]] = []
        for fault in faults:
            if row.faults[fault] in DISK.values() and stage.folder is None:
                continue
            begun = time.monotonic()
            stage.over = None
            row.faults[fault](stage)
            times.append((fault, begun, stage.over or time.monotonic()))
            time.sleep(after)
        load.stop()
        model, cells = Model(), [Cell(row.name, fault, Answers(), 0.0) for fault, *_ in times]
        before = Answers()
        for begun, ended in read_diaries(load.diaries):
            number = sum(began <= begun["at"] for _, began, _ in times)
            heard = math.inf if ended is None else ended["at"]
            losses = (
                row.losses.get(fault) for fault, began, over in times if began - LAG <= heard and begun["at"] <= over
            )
            loss = next((loss for loss in losses if loss is not None), None)
            model.follow(begun, ended, cells[number - 1].answers if number else before, loss)
        for cell, (_, _, over), (_, following, _) in zip(cells, times, [*times, ("", math.inf, 0.0)][1:], strict=True):
            cell.seconds = max([0.0, *(at - over for at in cell.answers.unavailable_at if at < following)])
        cells.append(Cell(row.name, "afterwards", look_at_all(row, stage, model), 0.0))
        cells[-1].answers.words += [f"before: {word}" for word in before.words]
        if load.complaints:
            cells[-1].answers.words.append(load.complaints)
        return cells


def look_at_all(row: Row, stage: Stage, model: Model) -> Answers:
    """Read with every cookie: those that live, and those that have ended."""
    answers = Answers()
    store = open_store(row.place(stage.place, "threads"), PATIENCE)
    front = Blocking(Sessions(session_store=store))

    def follow(name: str, cookie: str) -> None:
        found: list[Any] = []

        async def body(request: Any) -> None:
            found.append(await settled(STEPS["get"](front, request)))

        status, _ = drive(front.serve(cookie, body))
        ended = {"status": status, "answer": found[0] if found else None, "given": None, "seconds": 0, "at": 0}
        model.follow({"who": name, "step": ["get"], "cookie": cookie}, ended, answers)

    for visitor in list(model.visitors.values()):
        for cookie in [*visitor.ended, *([visitor.cookie] if visitor.cookie else [])]:
            follow(visitor.name, cookie)
    close_store(store)
    return answers

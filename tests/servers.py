"""Private servers for tests and benches: on free loopback ports, in temporary folders, ended by process id."""

import atexit
import contextlib
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Self, TypedDict

from tests.parts import PARTS, need
from tests.patience import PATIENCE

__all__ = [
    "Server",
    "ServerError",
    "free_port",
    "start_mariadb",
    "start_memcached",
    "start_pgbouncer",
    "start_postgresql",
    "start_redis",
    "start_sentinel",
    "version_of_pgbouncer",
]


class ServerError(Exception):
    """A server did not start; the message ends with what it logged."""


class Server:
    """A running server. `url` says where, `stop()` ends it and removes its folder; leaving a `with` block does too."""

    def __init__(
        self, url: str, port: int, process: "subprocess.Popen[bytes]", folder: Path, farewell: signal.Signals
    ) -> None:
        self.url = url
        self.port = port
        self.process = process
        self.folder = folder
        self._farewell = farewell
        self._launch: Callable[[], subprocess.Popen[bytes]] | None = None
        self._is_ready: Callable[[int], bool] | None = None
        atexit.register(self.stop)

    @property
    def pid(self) -> int:
        """The process id of the server itself."""
        return self.process.pid

    @property
    def log(self) -> str:
        """What the server has logged so far."""
        return (self.folder / "log").read_text(errors="replace")

    def url_for(self, scheme: str) -> str:
        """Return the URL under another scheme: `server.url_for("postgresql+asyncpg")`."""
        return f"{scheme}:{self.url.partition(':')[2]}"

    def kill(self) -> None:
        """End it at once, as a crash would; its folder stays until `stop()`."""
        self.process.kill()
        self.process.wait(PATIENCE)

    def restart(self, farewell: signal.Signals = signal.SIGKILL) -> None:
        """End it by this signal, and start it again in its folder, on its port."""
        self.process.send_signal(farewell)
        self.process.wait(PATIENCE)
        self.start()

    def start(self) -> None:
        """Start it again once it has ended."""
        assert self._launch is not None
        assert self._is_ready is not None
        # PostgreSQL does not start while children of the one before still end.
        for _ in range(20):
            self.process = self._launch()
            if _wait(self, self._is_ready):
                return
            self.kill()
            time.sleep(0.1)
        raise ServerError(f"it did not start again; it logged:\n{self.log}")

    def stop(self) -> None:
        """End it: politely, then not. Once it has ended this does nothing."""
        atexit.unregister(self.stop)
        for number in (self._farewell, signal.SIGKILL):
            if self.process.poll() is not None:
                break
            self.process.send_signal(number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(PATIENCE)
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def free_port() -> int:
    """Return a TCP port of 127.0.0.1 that nobody listens on.

    It is none of those that a client is given for a connection, of which one may be taken before a server takes it.
    """
    while True:
        port = 11_000 + secrets.randbelow(11_000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def start_redis(*options: str) -> Server:
    """Start Redis, with nothing written to disk. `options` are further arguments of redis-server."""
    program = _program("redis-server")

    def command(folder: Path, port: int) -> list[str]:
        fixed = ["--bind", "127.0.0.1", "--port", str(port), "--dir", str(folder), "--save", "", "--appendonly", "no"]
        return [str(program), *fixed, *options]

    def is_ready(port: int) -> bool:
        return _ask(port, b"PING\r\n").startswith(b"+PONG")

    return _start("redis", "redis://127.0.0.1:{port}/0", command, is_ready)


def start_sentinel(*settings: str) -> Server:
    """Start a Sentinel of Redis. `settings` are lines of its file, without the first word."""
    program = _program("redis-server")

    def command(folder: Path, port: int) -> list[str]:
        file = folder / "sentinel.conf"
        lines = ["bind 127.0.0.1", f"port {port}", f"dir {folder}", *(f"sentinel {setting}" for setting in settings)]
        file.write_text("\n".join(lines) + "\n")
        return [str(program), str(file), "--sentinel"]

    def is_ready(port: int) -> bool:
        return _ask(port, b"PING\r\n").startswith(b"+PONG")

    return _start("sentinel", "redis://127.0.0.1:{port}/0", command, is_ready)


def start_memcached(*options: str) -> Server:
    """Start memcached, with items of up to 4 MiB. `options` are further arguments of memcached."""
    program = _program("memcached")
    user = _user("memcache")

    def command(folder: Path, port: int) -> list[str]:
        as_user = ["-u", user.pw_name] if user else []
        return [str(program), "-l", "127.0.0.1", "-p", str(port), "-U", "0", "-I", "4m", *as_user, *options]

    def is_ready(port: int) -> bool:
        return _ask(port, b"version\r\n").startswith(b"VERSION")

    return _start("memcached", "memcached://127.0.0.1:{port}", command, is_ready)


def start_postgresql(*options: str) -> Server:
    """Start PostgreSQL with an empty database `session`. `options` are settings: `"fsync=on"`.

    Unless told so it does not wait for the disk.
    """
    # Where it is itself, and not a link to it: its own tools are beside it.
    program = _program("postgresql").resolve()
    user = _user("postgres")
    settings = ("fsync=off", "synchronous_commit=off", "full_page_writes=off", "max_connections=300", *options)

    def command(folder: Path, port: int) -> list[str]:
        data = folder / "data"
        if not data.exists():
            initdb = [program.with_name("initdb"), "--no-sync", "-A", "trust", "-E", "UTF8", "--locale=C.UTF-8"]
            _prepare([*map(str, initdb), "-U", "session", "-D", str(data)], folder, user)
            # A database named as the user is what clients ask for; the single-user mode makes it before anybody asks.
            _prepare(
                [str(program), "--single", "-D", str(data), "postgres"], folder, user, b"CREATE DATABASE session\n"
            )
        addresses = ["-h", "127.0.0.1", "-p", str(port), "-k", str(folder)]
        return [str(program), "-D", str(data), *addresses, *(word for setting in settings for word in ("-c", setting))]

    def is_ready(port: int) -> bool:
        asked = [str(program.with_name("pg_isready")), "-q", "-h", "127.0.0.1", "-p", str(port)]
        return subprocess.run(asked, check=False, timeout=PATIENCE).returncode == 0

    # To it SIGTERM means "when all clients have left", and SIGINT means "now".
    return _start(
        "postgresql",
        "postgresql://session@127.0.0.1:{port}/session",
        command,
        is_ready,
        user=user,
        farewell=signal.SIGINT,
    )


def start_pgbouncer(postgresql: Server, *options: str) -> Server:
    """Start PgBouncer before a PostgreSQL, in transaction mode with three connections. `options` are settings."""
    program = _program("pgbouncer")
    settings = ("auth_type=trust", "pool_mode=transaction", "default_pool_size=3", "max_client_conn=300", *options)

    def command(folder: Path, port: int) -> list[str]:
        users, file = folder / "users", folder / "settings.ini"
        users.write_text('"session" ""\n')
        addresses = (f"listen_port={port}", "listen_addr=127.0.0.1", "unix_socket_dir=", f"auth_file={users}")
        behind = f"session = host=127.0.0.1 port={postgresql.port}"
        file.write_text("\n".join(["[databases]", behind, "[pgbouncer]", *addresses, *settings]) + "\n")
        return [str(program), str(file)]

    def is_ready(port: int) -> bool:
        # Asked for TLS, it says no.
        return _ask(port, b"\x00\x00\x00\x08\x04\xd2\x16\x2f") == b"N"

    url = "postgresql://session@127.0.0.1:{port}/session"
    return _start("pgbouncer", url, command, is_ready, user=_user("postgres"), farewell=signal.SIGINT)


def version_of_pgbouncer() -> tuple[int, int]:
    """Return the first two numbers of its version."""
    said = subprocess.run([_program("pgbouncer"), "--version"], capture_output=True, text=True, check=True).stdout
    first, second, _ = said.split()[1].split(".")
    return int(first), int(second)


def start_mariadb(*options: str) -> Server:
    """Start MariaDB with an empty database `session`. `options` are further arguments of mariadbd."""
    program = _program("mariadb-server")
    user = _user("mysql")

    def command(folder: Path, port: int) -> list[str]:
        data, first = folder / "data", folder / "first.sql"
        if not data.exists():
            first.write_text(
                "CREATE DATABASE IF NOT EXISTS session CHARACTER SET utf8mb4;\n"
                + "".join(
                    f"CREATE USER IF NOT EXISTS session@'{host}' IDENTIFIED BY 'session';\n"
                    f"GRANT ALL ON session.* TO session@'{host}';\n"
                    # Who comes by the socket comes from localhost.
                    for host in ("127.0.0.1", "localhost")
                )
            )
            installer = shutil.which("mariadb-install-db") or "/usr/bin/mariadb-install-db"
            fixed = ["--no-defaults", "--auth-root-authentication-method=normal", "--skip-test-db"]
            _prepare([installer, *fixed, f"--datadir={data}"], folder, user)
        addresses = ["--bind-address=127.0.0.1", f"--port={port}", f"--socket={folder}/socket"]
        files = [f"--datadir={data}", f"--pid-file={folder}/pid", f"--init-file={first}"]
        limits = ["--skip-name-resolve", "--max-connections=300", "--innodb-flush-log-at-trx-commit=0"]
        return [str(program), "--no-defaults", *addresses, *files, *limits, *options]

    def is_ready(port: int) -> bool:
        # It speaks first, with a greeting that bears its version.
        return b"MariaDB" in _ask(port, b"")

    return _start("mariadb", "mysql://session:session@127.0.0.1:{port}/session", command, is_ready, user=user)


def _start(
    name: str,
    url: str,
    command: Callable[[Path, int], Sequence[str]],
    is_ready: Callable[[int], bool],
    *,
    user: pwd.struct_passwd | None = None,
    farewell: signal.Signals = signal.SIGTERM,
) -> Server:
    # Short, and not under pytest's folders: a socket's path has 107 bytes, and a server's user must reach it.
    folder = Path(tempfile.mkdtemp(prefix=f"session-{name}-"))
    if user:
        os.chown(folder, user.pw_uid, user.pw_gid)
    with contextlib.ExitStack() as undo:
        undo.callback(shutil.rmtree, folder, ignore_errors=True)
        # A port that was free may be taken before the server has it.
        for _ in range(3):
            port = free_port()

            def launch(port: int = port) -> "subprocess.Popen[bytes]":
                with (folder / "log").open("ab") as log:
                    return subprocess.Popen(
                        command(folder, port), stdin=subprocess.DEVNULL, stdout=log, stderr=log, **_in(folder, user)
                    )

            server = Server(url.format(port=port), port, launch(), folder, farewell)
            server._launch, server._is_ready = launch, is_ready
            undo.callback(server.kill)
            if _wait(server, is_ready):
                undo.pop_all()
                return server
            server.kill()
        raise ServerError(f"{name} did not start; it logged:\n{(folder / 'log').read_text(errors='replace')}")


def _wait(server: Server, is_ready: Callable[[int], bool]) -> bool:
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end and server.process.poll() is None:
        if is_ready(server.port):
            return True
        time.sleep(0.02)
    return False


def _ask(port: int, question: bytes) -> bytes:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1) as connection:
        connection.sendall(question)
        return connection.recv(256)
    return b""


def _program(package: str) -> Path:
    """Return the path of a package's program; a test that runs is skipped where it is to do without."""
    if "PYTEST_CURRENT_TEST" in os.environ:
        need(package)
    program = PARTS[package].find()
    if program is None:
        raise ServerError(f"{PARTS[package].program} is not on this machine: apt-get install {package}")
    return program


def _user(name: str) -> pwd.struct_passwd | None:
    """Return whom a server runs as: root's servers go to a user of their own, for some refuse to be root's."""
    if os.geteuid() != 0:
        return None
    try:
        return pwd.getpwnam(name)
    except KeyError:
        return pwd.getpwnam("nobody")


class _Place(TypedDict, total=False):
    cwd: Path
    env: dict[str, str]
    user: int
    group: int
    extra_groups: list[int]


def _in(folder: Path, user: pwd.struct_passwd | None) -> _Place:
    # The folder is the server's own; where others keep their temporary files it may not write.
    place: _Place = {"cwd": folder, "env": {**os.environ, "TMPDIR": str(folder)}}
    if user:
        place |= {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
    return place


def _prepare(command: Sequence[str], folder: Path, user: pwd.struct_passwd | None, told: bytes = b"") -> None:
    done = subprocess.run(command, input=told, capture_output=True, timeout=PATIENCE, check=False, **_in(folder, user))
    if done.returncode:
        raise ServerError(f"{command[0]} failed:\n{done.stdout.decode()}{done.stderr.decode()}")

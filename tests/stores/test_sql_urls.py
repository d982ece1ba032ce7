"""Ways to a database: TLS by a private authority, and sockets."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from server_session._colour import Colour, drive
from server_session.exceptions import StoreDownError
from server_session.stores._base import APPLIED, Lifetime
from server_session.stores.sql import SQLSessionStore
from tests import servers
from tests.certificates import make_certificates

# What a server does is the same on every Python.
pytestmark = pytest.mark.once

POSTGRESQL = ("postgresql+psycopg", "postgresql+psycopg_async", "postgresql+asyncpg")
MARIADB = ("mysql+pymysql", "mysql+asyncmy")


@pytest.fixture(scope="module")
def postgresql(folder: Path) -> Iterator[servers.Server]:
    made = make_certificates(within(folder, "postgresql"), servers._user("postgres"))
    with servers.start_postgresql("ssl=on", f"ssl_cert_file={made.certificate}", f"ssl_key_file={made.key}") as server:
        yield server


@pytest.fixture(scope="module")
def mariadb(folder: Path) -> Iterator[servers.Server]:
    made = make_certificates(within(folder, "mysql"), servers._user("mysql"))
    with servers.start_mariadb(f"--ssl-cert={made.certificate}", f"--ssl-key={made.key}") as server:
        yield server


def within(folder: Path, name: str) -> Path:
    (folder / name).mkdir()
    return folder / name


def use(url: str) -> None:
    store = SQLSessionStore(url, create_table=True)

    async def body() -> None:
        try:
            key = store.id()
            assert await store.set(key, {"a": b"1"}, Lifetime(1000.0)) is APPLIED
            assert await store.get(key, {}) == {"a": b"1"}
        finally:
            await store.close()

    if store.colour is Colour.AWAITS:
        asyncio.run(body())
    else:
        drive(body())


def trust(driver: str, authority: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return the parameters by which a driver asks for TLS, and for a certificate by this authority."""
    if driver in MARIADB:
        return f"?ssl_ca={authority}"
    if driver == "postgresql+asyncpg":
        monkeypatch.setenv("PGSSLROOTCERT", str(authority))
        return "?ssl=verify-full"
    return f"?sslmode=verify-full&sslrootcert={authority}"


@pytest.mark.parametrize("driver", [*POSTGRESQL, *MARIADB])
def test_tls_with_a_private_authority(
    driver: str, folder: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = request.getfixturevalue("mariadb" if driver in MARIADB else "postgresql")
    url = server.url_for(driver)
    use(url + trust(driver, folder / driver.partition("+")[0] / "authority.pem", monkeypatch))
    # Of another authority the server's certificate is not.
    another = make_certificates(within(folder, driver.replace("+", "-"))).authority
    with pytest.raises(StoreDownError, match=r"(?i)certificate.*verify.failed"):
        use(url + trust(driver, another, monkeypatch))


@pytest.mark.parametrize("driver", POSTGRESQL)
def test_a_socket_of_postgresql(driver: str, postgresql: servers.Server) -> None:
    use(f"{driver}://session@:{postgresql.port}/session?host={postgresql.folder}")


@pytest.mark.parametrize("driver", MARIADB)
def test_a_socket_of_mariadb(driver: str, mariadb: servers.Server) -> None:
    use(f"{driver}://session:session@localhost/session?unix_socket={mariadb.folder}/socket")


@pytest.mark.parametrize("driver", POSTGRESQL)
def test_a_socket_that_is_not_there_is_told(driver: str, folder: Path) -> None:
    with pytest.raises(StoreDownError, match="a file that the URL names"):
        use(f"{driver}://session@/session?host={folder}/nowhere")

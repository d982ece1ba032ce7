from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, create_engine, event
from sqlalchemy.ext.asyncio import create_async_engine

from server_session.stores.sql import SQLSessionStore
from server_session.testing import StoreContract
from tests.servers import Server


class SQLContract(StoreContract):
    """The contract over a URL, with a clock of the test's own."""

    clock_steps_back = True
    contenders = 6
    driver = ""
    now = 0.0

    def make_store(self) -> SQLSessionStore:
        self.now = 1_700_000_000.0
        return self.second_client()

    def second_client(self, store: object = None) -> SQLSessionStore:
        return SQLSessionStore(self.url, create_table=True, clock=lambda: self.now, timeout=20)

    async def close_store(self, store: SQLSessionStore) -> None:
        await store.close()

    def advance(self, seconds: float) -> None:
        self.now += seconds


class OnPostgreSQL:
    driver: str

    @pytest.fixture(autouse=True)
    def _at_the_server(self, postgresql_server: Server) -> None:
        self.url = postgresql_server.url_for(f"postgresql+{self.driver}")


class OnMariaDB:
    driver: str

    @pytest.fixture(autouse=True)
    def _at_the_server(self, mariadb_server: Server) -> None:
        self.url = mariadb_server.url_for(f"mysql+{self.driver}")


class OnSQLite:
    driver: str

    @pytest.fixture(autouse=True)
    def _in_a_file(self, tmp_path: Path) -> None:
        self.url = f"sqlite+{self.driver}:///{tmp_path}/sessions.db"


class TestSQLiteContract(OnSQLite, SQLContract):
    driver = "pysqlite"


class TestAiosqliteContract(OnSQLite, SQLContract):
    driver = "aiosqlite"


class TestPsycopgContract(OnPostgreSQL, SQLContract):
    driver = "psycopg"


class TestPsycopgAsyncContract(OnPostgreSQL, SQLContract):
    driver = "psycopg_async"


class TestAsyncpgContract(OnPostgreSQL, SQLContract):
    driver = "asyncpg"


class TestPyMySQLContract(OnMariaDB, SQLContract):
    driver = "pymysql"


class TestAsyncmyContract(OnMariaDB, SQLContract):
    driver = "asyncmy"

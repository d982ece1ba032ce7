"""The store of docs/stores.md, which a user writes with the contract's methods alone, passes the whole contract."""

import re
from pathlib import Path
from typing import Any

from server_session.stores.sql import ddl
from tests.documents import code_of

STORES = Path(__file__).parents[2] / "docs" / "stores.md"

_namespace: dict[str, Any] = {}
for _name in ("own store", "own store's test"):
    exec(compile(code_of(STORES, _name), f"docs/stores.md ({_name})", "exec"), _namespace)  # noqa: S102 - our own

TestDictSessionStore = _namespace["TestDictSessionStore"]


def test_the_ddl_in_the_documents_is_what_the_store_makes():
    printed = re.search(r"```sql\n(.*?)```", STORES.read_text(), re.DOTALL)
    assert printed is not None
    assert printed[1].split() == ddl("postgresql").split()

"""Imports run down only, and importing the library loads nothing that its user did not ask for."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.patience import PATIENCE

SOURCE = Path(__file__).resolve().parents[1] / "src"
PACKAGE = "server_session"

# Each with a public module of its name.
FRAMEWORKS = {
    *("aiohttp", "bottle", "django", "falcon", "fastapi", "flask"),
    *("litestar", "pyramid", "quart", "sanic", "starlette", "tornado"),
}
# Top first. A folder is a room, and so is what stands here together; a module may import from its own room and from
# those below it.
ROOMS = (
    {"", "testing", "cli"},
    FRAMEWORKS,
    {"adapters", "adopt", "asgi", "wsgi", "otel", "sync"},
    {"_sessions", "migration"},
    {"_functions", "_api", "_opened", "_urls"},
    {"_calls", "_convert"},
    {"exchange"},
    {"_arguments"},
    {"csrf"},
    {"http"},
    {"kernel"},
    {"_policy", "_owners", "_record", "_codec", "_tokens", "_tries", "_signals", "_readers"},
    {"_tags"},
    {"stores"},
    {"_cookies"},
    {"_cookie_attributes"},
    {"_colour", "_settings", "_origins", "_base64url"},
    {"exceptions"},
)
DEPTH = {room: depth for depth, rooms in enumerate(ROOMS) for room in rooms}


def depth_of(module: str) -> int:
    return DEPTH[module.partition(".")[0]]


# What a store may import beside Python's own library and what the library itself depends on.
DRIVERS = {
    "file": set[str](),
    "memcached": {"pymemcache"},
    "memory": set[str](),
    "next_server_session": set[str](),
    "redis": {"redis", "hiredis"},
    "sql": {"sqlalchemy", "psycopg", "pymysql"},
}
DEPENDENCIES = {"msgspec"}
FOR_STORES = {
    "stores._base",
    "stores._clients",
    "stores._files",
    "stores._packed",
    "stores._parameters",
    "stores._untracked",
    "stores._waits",
    "_base64url",
    "_colour",
    "_settings",
    "exceptions",
}
# What one may besides that shares a layout of somebody else's: what a cookie is there, and where it is kept.
FOR_ONE_STORE = {"next_server_session": {"_cookies", "stores.redis"}}

# asyncio costs half of what an import of the library may take, and the rest is not everybody's.
UNASKED = {
    *("asyncio", "trio", "anyio"),
    *FRAMEWORKS,
    "werkzeug",
    *(
        "aiomcache",
        "aiomysql",
        "aiosqlite",
        "asyncmy",
        "asyncpg",
        "hiredis",
        "psycopg",
        "pymemcache",
        "pymysql",
        "redis",
        "sqlalchemy",
    ),
    *(
        "attrs",
        "click",
        "cryptography",
        "hypothesis",
        "opentelemetry",
        "pydantic",
        "pytest",
        "python_multipart",
        "rich",
    ),
}


def is_store(module: str) -> bool:
    return module.startswith("stores.") and not module.startswith("stores._")


def name_of(path: Path) -> str:
    """`""` for the package itself, else the dotted path below it."""
    parts = path.relative_to(SOURCE / PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {name_of(path): path for path in sorted((SOURCE / PACKAGE).rglob("*.py"))}


def imported_names(tree: ast.AST, package: str) -> set[str]:
    """Every module that is imported anywhere in the tree, also late and for types only, by its full name."""
    names = set[str]()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*above, *filter(None, [node.module])])
            for alias in node.names:
                # `from server_session import _record` names a module, `from … import Session` what is in one.
                inner = f"{base}.{alias.name}"
                names.add(inner if inner.removeprefix(f"{PACKAGE}.") in FILES else base)
    return names


def imports_of(module: str) -> tuple[set[str], set[str]]:
    """What a module imports of this package, and of others (their top names)."""
    path = FILES[module]
    folder = ".".join(path.relative_to(SOURCE).parent.parts)
    names = imported_names(ast.parse(path.read_text(encoding="utf-8")), folder)
    own = {name for name in names if name.partition(".")[0] == PACKAGE}
    return {name.removeprefix(PACKAGE).removeprefix(".") for name in own}, {
        name.partition(".")[0] for name in names - own
    }


@pytest.mark.parametrize("module", [module for module in FILES if not is_store(module)])
def test_a_module_imports_only_from_its_own_room_and_those_below(module: str) -> None:
    assert module.partition(".")[0] in DEPTH, f"{module} has no room: add it to ROOMS"
    own, _ = imports_of(module)
    # Sessions are configured with the memory store where nothing is said; the package offers it by name.
    stores = {name for name in own if is_store(name)}
    # The command looks into each kind of store.
    assert not stores or module in {"", "_sessions", "_urls", "adopt"} or module.startswith("cli.")
    upward = {name for name in own - stores if depth_of(name) < depth_of(module)}
    assert not upward


def test_no_modules_import_each_other_in_a_circle() -> None:
    ahead = {module: imports_of(module)[0] for module in FILES}
    while ahead:
        free = {module for module, own in ahead.items() if not own & ahead.keys()}
        assert free, f"a circle among {sorted(ahead)}"
        ahead = {module: own for module, own in ahead.items() if module not in free}


@pytest.mark.parametrize("module", [module for module in FILES if is_store(module)])
def test_a_store_imports_only_the_contract_and_its_driver(module: str) -> None:
    name = module.split(".")[1]
    assert name in DRIVERS, f"{module} has no driver: add it to DRIVERS"
    own, others = imports_of(module)
    # A store that is a package has its own modules too.
    assert {inner for inner in own if not inner.startswith(f"stores.{name}.")} <= FOR_STORES | FOR_ONE_STORE.get(
        name, set()
    )
    assert others - sys.stdlib_module_names - DEPENDENCIES <= DRIVERS[name]


def test_importing_the_library_loads_no_framework_no_driver_and_not_asyncio() -> None:
    program = f"""
import json, sys
before = set(sys.modules)
import {PACKAGE}
print(json.dumps(sorted(set(sys.modules) - before)))
"""
    # A fresh interpreter, without what coverage and other tools put into one by their variables.
    ran = subprocess.run(
        [sys.executable, "-c", program], env={}, capture_output=True, text=True, timeout=PATIENCE, check=True
    )
    loaded = {name.partition(".")[0] for name in json.loads(ran.stdout)}
    assert PACKAGE in loaded
    assert not loaded & UNASKED

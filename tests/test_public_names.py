"""`__all__` is the public surface: all of it exists, and all of it is explained."""

import copy
import importlib
import inspect
import pickle
import pkgutil
from types import ModuleType

import pytest

import server_session
from server_session import exceptions

FUNCTIONS = {
    "destroy_session",
    "get_csrf_token",
    "get_session_data",
    "is_alive",
    "log_in",
    "pluck_session_property",
    "renew_session",
    "replace_session_data",
    "set_session_data",
    "update_session_data",
    "validate_csrf_token",
}

NAMES = ["server_session"] + [
    found.name
    for found in pkgutil.walk_packages(server_session.__path__, "server_session.")
    if not any(part.startswith("_") for part in found.name.split("."))
]
# A package that only holds modules has no names of its own.
ROOMS = {"csrf", "http", "kernel", "stores"}
# What Django imports of an app, once it has its settings: tests/test_django_app.py.
OF_APPS = {"django.admin", "django.apps", "django.models"}
MODULES = [name for name in NAMES if name.removeprefix("server_session.") not in ROOMS | OF_APPS]


@pytest.fixture(params=MODULES)
def module(request: pytest.FixtureRequest) -> ModuleType:
    return importlib.import_module(request.param)


def test_a_public_module_says_what_is_public_once(module: ModuleType) -> None:
    assert module.__doc__
    assert len(module.__all__) == len(set(module.__all__))


def test_all_that_is_public_exists(module: ModuleType) -> None:
    missing = [name for name in module.__all__ if not hasattr(module, name)]
    assert not missing


def test_all_that_is_public_is_explained(module: ModuleType) -> None:
    public = {name: getattr(module, name) for name in module.__all__}
    silent = [
        name
        for name, value in public.items()
        if (inspect.isclass(value) or inspect.isroutine(value)) and not inspect.getdoc(value)
    ]
    assert not silent


def test_the_package_offers_every_function_and_the_ways_to_configure_them() -> None:
    others = {"CookieHandler", "FileSessionStore", "MemorySessionStore", "Session", "Sessions", "configure"}
    assert set(server_session.__all__) >= FUNCTIONS | others


def test_the_blocking_functions_have_the_names_of_the_awaitable_ones() -> None:
    assert set(importlib.import_module("server_session.sync").__all__) >= FUNCTIONS


def test_every_function_is_offered_in_both_colours_by_the_modules_and_by_sessions() -> None:
    sync, sessions = importlib.import_module("server_session.sync"), server_session.Sessions()
    members = {name: getattr(sessions, name) for name in dir(sessions) if not name.startswith("_")}
    functions = {name for name, member in members.items() if inspect.iscoroutinefunction(member)}
    assert functions >= FUNCTIONS
    assert functions == set(sync.__all__) - {"OpenedSession", "configure", "open_session"}
    assert functions < set(server_session.__all__)
    assert all(inspect.isroutine(getattr(sessions.sync, name)) for name in functions)


@pytest.mark.parametrize("name", exceptions.__all__)
def test_an_error_can_be_copied_and_sent_to_another_process(name: str) -> None:
    kind = getattr(exceptions, name)
    error = kind("cart", "[1]", "a set") if kind is exceptions.SerializationError else kind("it failed")
    error.add_note("at the till")
    for other in (copy.copy(error), pickle.loads(pickle.dumps(error))):  # noqa: S301 - our own
        assert (type(other), str(other), vars(other)) == (kind, str(error), vars(error))

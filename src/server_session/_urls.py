"""Stores by URL. Each store's module, and so its driver, is imported when its URL is asked for."""

import importlib
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final, NamedTuple

from server_session.exceptions import ConfigurationError
from server_session.stores._base import SessionStore

__all__ = ["open_store"]


class _Place(NamedTuple):
    module: str
    store: str
    arguments: Callable[[str], tuple[str, ...]]
    settings: Mapping[str, bool] = MappingProxyType({})


def _nothing(url: str) -> tuple[str, ...]:  # noqa: ARG001 - as the others take it
    return ()


def _directory(url: str) -> tuple[str, ...]:
    # Late, for every import of the library would pay for it.
    from urllib.parse import unquote

    directory = unquote(url.partition(":")[2].removeprefix("//"))
    if not directory:
        raise ConfigurationError("the URL file: needs a directory, as in file:/var/lib/shop/sessions")
    return (directory,)


def _whole(url: str) -> tuple[str, ...]:
    return (url,)


_REDIS: Final = _Place("redis", "RedisSessionStore", _whole)
# Who gives a URL has asked for a store in one line, and gets its table with it.
_SQL: Final = _Place("sql", "SQLSessionStore", _whole, MappingProxyType({"create_table": True}))
_STORES: Final[dict[str, _Place]] = {
    "memory": _Place("memory", "MemorySessionStore", _nothing),
    "file": _Place("file", "FileSessionStore", _directory),
    "redis": _REDIS,
    "rediss": _REDIS,
    "unix": _REDIS,
    "memcached": _Place("memcached", "MemcachedSessionStore", _whole),
    "sqlite": _SQL,
    "postgresql": _SQL,
    "postgres": _SQL,
    "mysql": _SQL,
    "mariadb": _SQL,
}


_EXTRAS: Final = {"postgresql": "postgresql", "postgres": "postgresql", "mysql": "mysql", "mariadb": "mysql"}


def open_store(url: str) -> SessionStore:
    """Return the store that a URL names: `memory:`, `file:DIR`, `redis://…`, `postgresql+asyncpg://…` and so on.

    Raises `ConfigurationError` for a URL that names none, or whose driver is not installed.
    """
    scheme, colon, _ = url.partition(":")
    kind = scheme.partition("+")[0].lower()
    place = _STORES.get(kind)
    if not colon and "/" in url:
        raise ConfigurationError(f"session_store={url!r} is no URL: for a directory write 'file:{url}'")
    if not colon or place is None:
        # A URL may hold a password, so only its scheme is repeated.
        raise ConfigurationError(
            f"no store is known for the URL scheme {scheme if colon else '(none)'!r}: "
            f"use one of {', '.join(sorted(_STORES))}, or give a store object"
        )
    if kind == "postgres":
        url = "postgresql" + url[len(kind) :]
    try:
        module = importlib.import_module(f"server_session.stores.{place.module}")
        make: Callable[..., SessionStore] = getattr(module, place.store)
        return make(*place.arguments(url), **place.settings)
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            f"the store for {scheme}: needs {error.name!r}, which is not installed: it comes with the extra "
            f"[{_EXTRAS.get(kind, place.module)}] of server-session"
        ) from error

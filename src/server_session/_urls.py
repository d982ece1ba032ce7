"""Stores by URL: the scheme names the module in `server_session.stores`, which is imported when it is asked for."""

import importlib
import pkgutil
import re
from typing import Any, Final

from server_session import stores
from server_session.exceptions import ConfigurationError
from server_session.stores._base import SessionStore

__all__ = ["kind_of", "open_store"]

# Modules of stores whose names are no schemes.
_NO_SCHEME: Final = {"sql", "next_server_session"}
# Schemes that are not the name of their module: that name, and the extra of this distribution with the driver.
_OTHER_SCHEMES: Final = {
    "rediss": ("redis", "redis"),
    "unix": ("redis", "redis"),
    "next-server-session": ("next_server_session", "redis"),
    "sqlite": ("sql", "sql"),
    "postgresql": ("sql", "postgresql"),
    "mysql": ("sql", "mysql"),
    "mariadb": ("sql", "mysql"),
}

# An unknown URL's scheme (RFC 3986, 3.1), which may be shown in an error; only "://" makes sure that it is one.
_SCHEME: Final = re.compile(r"([a-z][a-z0-9+.-]*)://", re.IGNORECASE)


def kind_of(url: str) -> tuple[str, str]:
    """Return the name of the module of a URL's store, and of the extra of this distribution with its driver.

    Raises `ConfigurationError` for a URL that names none.
    """
    scheme, colon, _ = url.partition(":")
    kind = scheme.partition("+")[0].lower()
    if not colon and "/" in url and "@" not in url:
        raise ConfigurationError(f"session_store={url!r} is no URL: for a directory write 'file:{url}'")
    modules = {found.name for found in pkgutil.iter_modules(stores.__path__) if not found.name.startswith("_")}
    schemes = sorted((modules - _NO_SCHEME) | _OTHER_SCHEMES.keys())
    if not colon or kind not in schemes:
        # A URL may hold a password, and a malformed one may have it in any place.
        shown = _SCHEME.match(url)
        what = f"the URL scheme {shown[1]!r}" if shown else "what was given"
        raise ConfigurationError(
            f"no store is known for {what}: a URL begins with one of {', '.join(schemes)}; or give a store object"
        )
    return _OTHER_SCHEMES.get(kind, (kind, kind))


def open_store(url: str, **settings: Any) -> SessionStore:
    """Return the store that a URL names: `memory:`, `file:DIR`, `redis://…`, `postgresql+asyncpg://…` and so on.

    `settings` are keywords of its class. Raises `ConfigurationError` for a URL that names none, or whose driver is not
    installed.
    """
    name, extra = kind_of(url)
    try:
        module = importlib.import_module(f"{stores.__name__}.{name}")
        named = [getattr(module, public) for public in module.__all__]
        (kept,) = (each for each in named if isinstance(each, type) and issubclass(each, SessionStore))
        # Some classes take the URL itself, and have no `from_url`.
        make: Any = getattr(kept, "from_url", kept)
        store: SessionStore = make(url, **settings)
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            f"the store for {url.partition(':')[0]}: needs {error.name!r}, which is not installed: it comes with the "
            f"extra [{extra}] of server-session"
        ) from error
    return store

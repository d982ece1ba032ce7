"""Stores by URL, as the command opens them: nothing is made that is not there."""

import os
from collections.abc import Collection
from pathlib import Path
from typing import Any, Final, NamedTuple

from server_session._sessions import Sessions
from server_session._urls import kind_of, open_store
from server_session.exceptions import ConfigurationError, StoreDownError
from server_session.stores._base import Expect, Fields, Refusal, SessionStore
from server_session.stores._over import StoreOver
from server_session.stores._parameters import with_plain_scheme
from server_session.stores._sealed import HEAD, VERSION, EncryptedCodec, SealedStore

__all__ = ["KEYS", "Place", "open_bare", "open_place", "opened", "places_of", "require_owner"]

KEYS: Final = "SERVER_SESSION_KEYS"
"""The environment variable with the keys of encrypted sessions."""

_SETTINGS: Final[dict[str, Collection[str]]] = {
    "file": ("timeout",),
    "memcached": ("prefix", "timeout"),
    "redis": ("prefix", "timeout"),
    "sql": ("table", "timeout"),
}


class Place(NamedTuple):
    """Where sessions are: a URL, and what it does not say."""

    url: str
    prefix: str | None = None
    table: str | None = None
    timeout: float = 10.0


def places_of(urls: Collection[str], prefix: str | None, table: str | None, timeout: float) -> list[Place]:
    """Return the places of several stores, each with those of the options that its kind has.

    Raises `ConfigurationError` for a URL that names no store, and for an option that none of the stores has.
    """
    known = [_SETTINGS.get(kind_of(url)[0], ()) for url in urls]
    for name, value in (("prefix", prefix), ("table", table)):
        if value is not None and not any(name in settings for settings in known):
            raise ConfigurationError(f"--{name} is nothing that a store named here has")
    return [
        Place(url, prefix if "prefix" in settings else None, table if "table" in settings else None, timeout)
        for url, settings in zip(urls, known, strict=True)
    ]


def open_bare(place: Place) -> SessionStore:
    """Return the store at a place, as it holds its records. Raises `ConfigurationError`, `StoreDownError`."""
    kind, _ = kind_of(place.url)
    if kind not in _SETTINGS:
        raise ConfigurationError(
            f"a store of {kind} cannot be looked at from here: it belongs to its process alone, or its layout is not "
            "ours. An application that has it can: server-session doctor module:attribute"
        )
    given = place._asdict()
    settings: dict[str, Any] = {name: given[name] for name in _SETTINGS[kind] if given[name] is not None}
    if kind == "file":
        from server_session.stores.file import FileSessionStore

        directory = FileSessionStore.directory_of(place.url)
        _require(f"{directory}/store", "no sessions are kept in that directory")
        require_owner(directory)
    elif kind == "sql":
        settings["create_table"] = False
    store = open_store(place.url, **settings)
    # The store has connected to nothing yet, and has refused a URL that cannot be read.
    _require_database(place.url)
    return store


def require_owner(directory: str) -> None:
    """Refuse a directory of sessions that another user's processes keep: of what is made here they can read nothing."""
    owner = Path(directory, "store").stat().st_uid
    if owner != os.geteuid():
        raise ConfigurationError(
            f"the sessions in {directory} are another user's, who could not read what this one makes there: "
            f"run it as that user, by sudo -u '#{owner}'"
        )


def open_place(place: Place, key_file: str | None) -> Sessions:
    """Return the sessions at a place, decrypted with the keys of the file, or of the environment, if any."""
    store, keys = open_bare(place), _keys(key_file)
    # A file without a key in it is an error.
    if keys or key_file:
        return Sessions(session_store=store, codec=EncryptedCodec(keys))
    return Sessions(session_store=_Plain(store))


def opened(store: SessionStore, key: str, fields: Fields) -> Fields:
    """Return the decrypted fields of a listed record. Raises `RecordError` where they cannot be decrypted."""
    if isinstance(store, SealedStore):
        return store._open(key, fields)
    _refuse_sealed(fields)
    return fields


class _Plain(StoreOver):
    """A store opened without a key: it refuses encrypted records."""

    async def get(self, key: str, expect: Expect, touch: bool = True) -> Fields | Refusal:
        answer = await super().get(key, expect, touch)
        if isinstance(answer, dict):
            _refuse_sealed(answer)
        return answer


def _refuse_sealed(fields: Fields) -> None:
    # A field that is not encrypted is JSON text, which never begins with the version byte.
    if fields.get(HEAD, b"").startswith(VERSION):
        raise ConfigurationError(f"these sessions are encrypted: give --key-file FILE, or their keys in {KEYS}")


def _keys(file: str | None) -> list[str]:
    # Never from the command line, which every user of the machine can read.
    # A file that is not UTF-8 text is read all the same: EncryptedCodec then says that its words are no keys.
    return (Path(file).read_text("utf-8", "replace") if file else os.environ.get(KEYS, "")).split()


def _require_database(url: str) -> None:
    """Refuse a file of SQLite that is not there; to connect would make it."""
    if url.lower().startswith("sqlite"):
        from sqlalchemy import make_url

        # As the store reads it: %20 is a blank there, or not, as SQLAlchemy's version has it.
        path = make_url(with_plain_scheme(url)).database
        _require((path or "").removeprefix("file:"), "there is no such database")


def _require(path: str, otherwise: str) -> None:
    if not Path(path).exists():
        raise StoreDownError(
            f"{otherwise}: {path} is not there. Look at the URL; or is its disk not mounted? The application makes it"
        )

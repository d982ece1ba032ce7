"""Readers of the sessions that other libraries gave to visitors, so that nobody is logged out when you move here.

```python
configure(adopt=[FlaskCookie(SECRET_KEY)])
```

docs/moving.md says for each library what comes along, and what holds on the way. For another library subclass
`Reader`, or here `SignedCookieReader` or `RedisReader`.
"""

import base64
import importlib
import json
import logging
import re
import sys
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import msgspec

from server_session._codec import UNREADABLE
from server_session._colour import is_driven, run_awaiting
from server_session._cookies import CookieHandler
from server_session._readers import Reader
from server_session.exceptions import ConfigurationError, RecordError, StoreDownError

if TYPE_CHECKING:
    import itsdangerous

    from server_session.stores.redis import Client

__all__ = [
    "DjangoSessions",
    "FlaskCookie",
    "FlaskSessionRedis",
    "NextServerSessionRedis",
    "Reader",
    "RedisReader",
    "SignedCookieReader",
    "StarletteCookie",
    "StarsessionsRedis",
]

Cookie: TypeAlias = str | CookieHandler
Duration: TypeAlias = float | timedelta
Secret: TypeAlias = str | bytes

_LOG: Final = logging.getLogger("server_session")

# An id goes into a key of Redis: it is of bounded length, and has no character that could mean anything there.
_is_id = re.compile(r"[A-Za-z0-9_-]{16,256}").fullmatch
_PICKLE: Final = (
    "it is a pickle, as Flask-Session wrote before 0.7, which is never loaded here: to load one is to run whatever is "
    "in it. Let Flask-Session 0.8 serve for a while before you move: it writes each session that is used anew"
)


class _Decoding(Reader):
    """A reader of sessions that are encoded; it logs the first one that cannot be decoded."""

    _has_warned = False

    def data(self, raw: bytes) -> Any:
        """Return the data that a session was written as. Raises `ValueError` where it cannot be read."""
        return json.loads(raw)

    def _decoded(self, raw: bytes) -> Mapping[str, Any] | None:
        try:
            data = self.data(raw)
            if isinstance(data, Mapping):
                return data
            why: object = f"it is of type {type(data).__name__!r}"
        except UNREADABLE as error:
            why = error
        if not self._has_warned:
            self._has_warned = True
            _LOG.warning("a session of another library cannot be taken over (%s): %s", type(self).__name__, why)
        return None


class SignedCookieReader(_Decoding):
    """Sessions that a cookie holds, signed by itsdangerous with the time. Define `data`, for what is not JSON.

    Args:
        signer: what the library verifies with.
        cookie: as for `Reader`.
        max_age: likewise; an older signature does not count.

    """

    is_unique = False

    def __init__(self, signer: "itsdangerous.TimestampSigner", cookie: Cookie, max_age: Duration) -> None:
        super().__init__(cookie, max_age)
        self._signer = signer

    def key(self, value: str) -> str | None:
        """Return the cookie's value, if its signature holds and is not too old."""
        try:
            self._signer.unsign(value, max_age=int(self.max_age))
        except _bad_data():
            return None
        return _canonical(value)

    async def read(self, key: str) -> Mapping[str, Any] | None:
        """Return the data that the cookie holds."""
        return self._decoded(key.rsplit(".", 2)[0].encode("ascii"))


class StarletteCookie(SignedCookieReader):
    """Sessions of Starlette's `SessionMiddleware`, FastAPI's too. Needs itsdangerous, as that does.

    Args:
        secret_key: the middleware's.
        cookie: the middleware's `session_cookie`.
        max_age: the middleware's. Where that is None, cookies counted for ever; here they count for this long.

    """

    def __init__(self, secret_key: object, cookie: Cookie = "session", max_age: Duration = timedelta(days=14)) -> None:
        # Starlette also takes its `Secret` as the key; `str` gives the text in it.
        keys = _keys_in("" if secret_key is None else str(secret_key))
        super().__init__(_itsdangerous().TimestampSigner(keys), cookie, max_age)

    def data(self, raw: bytes) -> Any:
        """Return the decoded JSON."""
        return json.loads(base64.b64decode(raw))


class FlaskCookie(SignedCookieReader):
    """Sessions of Flask, as it has them by default. Needs Flask, whose tagged JSON they are.

    Args:
        secret_key: the application's `SECRET_KEY`; or a list: its `SECRET_KEY_FALLBACKS`, and the key at the end.
        cookie: its `SESSION_COOKIE_NAME`.
        max_age: its `PERMANENT_SESSION_LIFETIME`; Flask applies it to every session, permanent or not.

    """

    def __init__(
        self,
        secret_key: Secret | Sequence[Secret],
        cookie: Cookie = "session",
        max_age: Duration = timedelta(days=31),
    ) -> None:
        flask: Any = _module("flask.sessions", "FlaskCookie")
        self._serializer: Any = _itsdangerous().URLSafeTimedSerializer(
            _keys_in(secret_key),
            salt=flask.SecureCookieSessionInterface.salt,
            serializer=flask.session_json_serializer,
            signer_kwargs={"key_derivation": "hmac", "digest_method": flask.SecureCookieSessionInterface.digest_method},
        )
        super().__init__(self._serializer.make_signer(self._serializer.salt), cookie, max_age)

    def data(self, raw: bytes) -> Any:
        """Return what Flask decodes."""
        try:
            return self._serializer.load_payload(raw)
        except _bad_data() as error:
            raise ValueError(str(error)) from error


class RedisReader(_Decoding):
    """Sessions that are values in Redis under an id, which is the cookie. Define `data`, for what is not JSON.

    The user in Redis needs `+get +del` on the prefix.

    Args:
        client: the URL of the library's Redis, or a client of redis-py: what a `RedisSessionStore` takes.
        prefix: what the name of each key begins with.
        cookie: as for `Reader`.
        max_age: likewise; no shorter than Redis keeps a session that nobody uses.

    """

    def __init__(self, client: "Client | str", prefix: str, cookie: Cookie, max_age: Duration) -> None:
        super().__init__(cookie, max_age)
        self._store: Any = _module("server_session.stores.redis", "a reader of Redis").RedisSessionStore(
            client, prefix=prefix
        )

    def key(self, value: str) -> str | None:
        """Return the id, if the cookie looks like one."""
        return value if _is_id(value) else None

    async def read(self, key: str) -> Mapping[str, Any] | None:
        """Ask Redis for the session."""
        try:
            raw: bytes | None = await self._call(b"GET", key)
        except RecordError:
            # A value of another type is no session of that library: it is one of ours, under the same prefix.
            return None
        return self._decoded(raw) if raw else None

    async def end(self, key: str) -> None:
        """Delete the session."""
        await self._call(b"DEL", key)

    async def _call(self, command: bytes, key: str) -> Any:
        # The store's own way to Redis, for its limit of time and its errors; driven if blocking, else awaited.
        name = self._store._begin(key)  # noqa: SLF001
        call = self._store._send(name, command, name)  # noqa: SLF001
        return await (call if is_driven() else run_awaiting(self._store.colour, call))


class FlaskSessionRedis(RedisReader):
    """Sessions of Flask-Session in Redis, from 0.7 on. Pickles, which it wrote before, are never loaded.

    Args:
        client: what `SESSION_REDIS` is; as for `RedisReader`.
        secret_key: the application's `SECRET_KEY` where it has `SESSION_USE_SIGNER`, else None.
        prefix: its `SESSION_KEY_PREFIX`.
        cookie: its `SESSION_COOKIE_NAME`.
        max_age: its `PERMANENT_SESSION_LIFETIME`.

    """

    def __init__(
        self,
        client: "Client | str",
        secret_key: Secret | None = None,
        prefix: str = "session:",
        cookie: Cookie = "session",
        max_age: Duration = timedelta(days=31),
    ) -> None:
        super().__init__(client, prefix, cookie, max_age)
        self._signer: Any = None
        if secret_key is not None:
            self._signer = _itsdangerous().Signer(_keys_in(secret_key), salt="flask-session", key_derivation="hmac")

    def key(self, value: str) -> str | None:
        """Return the id, if it looks like one and, where `secret_key` was given, its signature holds."""
        if self._signer is not None:
            try:
                value = self._signer.unsign(value).decode("ascii")
            except _bad_data():
                return None
        return super().key(value)

    def data(self, raw: bytes) -> Any:
        """Return the decoded MessagePack, or JSON."""
        try:
            return msgspec.msgpack.decode(raw)
        except UNREADABLE:
            if raw.startswith(b"\x80"):
                raise ValueError(_PICKLE) from None
            return msgspec.json.decode(raw)


class StarsessionsRedis(RedisReader):
    """Sessions of starsessions in Redis, by its `JsonSerializer`.

    Args:
        client: its store's `connection`; as for `RedisReader`.
        prefix: its store's.
        cookie: its middleware's `cookie_name`.
        max_age: its middleware's `lifetime`; for 0, its store's `gc_ttl`.

    """

    def __init__(
        self,
        client: "Client | str",
        prefix: str = "starsessions.",
        cookie: Cookie = "session",
        max_age: Duration = timedelta(days=30),
    ) -> None:
        super().__init__(client, prefix, cookie, max_age)

    def data(self, raw: bytes) -> Any:
        """Return the decoded JSON, without the library's own `__metadata__`."""
        data = json.loads(raw)
        return {key: data[key] for key in data if key != "__metadata__"} if isinstance(data, dict) else data


class NextServerSessionRedis(RedisReader):
    """Sessions of the npm package next-server-session (1.2) in Redis.

    Args:
        client: its store's Redis; as for `RedisReader`.
        prefix: `sess_`; the package has no other.
        cookie: the name that its cookie handler has.
        max_age: its store's `maxSessionAgeMS`, in seconds.

    """

    def __init__(
        self,
        client: "Client | str",
        prefix: str = "sess_",
        cookie: Cookie = "nextSession",
        max_age: Duration = timedelta(minutes=30),
    ) -> None:
        super().__init__(client, prefix, cookie, max_age)


class DjangoSessions(Reader):
    """Sessions of one of Django's engines, in the project whose sessions they are.

    Args:
        engine: what `SESSION_ENGINE` was: `"django.contrib.sessions.backends.db"`, `….cache`, `….cached_db` or
            `….signed_cookies`; or one with the same interface.
        cookie: what `SESSION_COOKIE_NAME` was.
        max_age: what `SESSION_COOKIE_AGE` was.

    """

    _is_id = staticmethod(re.compile("[a-z0-9]{8,64}").fullmatch)
    _is_signed = staticmethod(re.compile("[A-Za-z0-9_.-]+:[A-Za-z0-9]+:[A-Za-z0-9_-]+").fullmatch)

    def __init__(
        self,
        engine: str = "django.contrib.sessions.backends.db",
        cookie: Cookie = "sessionid",
        max_age: Duration = timedelta(days=14),
    ) -> None:
        # The engine is imported later: this is called in the project's settings, before Django is set up.
        super().__init__(cookie, max_age)
        self._engine = engine
        self.is_unique = not engine.endswith(".signed_cookies")

    def key(self, value: str) -> str | None:
        """Return the cookie's value, if it looks like a key; the engine verifies a signed one when it is read."""
        is_key = self._is_id if self.is_unique else self._is_signed
        return value if is_key(value) else None

    async def read(self, key: str) -> Mapping[str, Any] | None:
        """Ask the engine for the session."""
        session = self._session(key)
        with _as_store_errors():
            if self._engine.endswith(".cache"):
                # The engine treats a cache that fails like one without the session; the cache itself raises.
                cache, name = session._cache, session.cache_key_prefix + key  # noqa: SLF001 - of Django's own
                held: Mapping[str, Any] | None = cache.get(name) if is_driven() else await cache.aget(name)
            else:
                held = session.load() if is_driven() else await session.aload()
        return held

    async def end(self, key: str) -> None:
        """Delete the session, where the engine keeps it."""
        session = self._session(key)
        with _as_store_errors():
            # With every engine it is no error if the session is not there.
            _ = session.delete(key) if is_driven() else await session.adelete(key)

    def _session(self, key: str) -> Any:
        session: Any = importlib.import_module(self._engine).SessionStore(key)
        # The age that a signed cookie may have; SESSION_COOKIE_AGE is this library's idle time-out by now.
        session.get_session_cookie_age = lambda: self.max_age
        return session


_FAILURES: Final = (("django.db", "Error"), ("redis", "RedisError"), ("pymemcache.exceptions", "MemcacheError"))


@contextmanager
def _as_store_errors() -> Generator[None, None, None]:
    """Raise `StoreDownError` for an error of Django's database or cache."""
    failures = [getattr(sys.modules[module], name) for module, name in _FAILURES if module in sys.modules]
    try:
        yield
    except (OSError, *failures) as error:
        raise StoreDownError(f"no answer from where Django's sessions are: {type(error).__name__}") from error


def _keys_in(given: object) -> list[Secret]:
    """Return the keys, the newest last. With an empty one anybody could sign; and no error shows any."""
    keys: list[Any] = [*given] if isinstance(given, Sequence) and not isinstance(given, str | bytes) else [given]
    if not keys or not all(isinstance(key, str | bytes) and key for key in keys):
        raise ConfigurationError("secret_key is the other library's key, text or bytes that are not empty: is it set?")
    return keys


def _canonical(value: str) -> str:
    """Return a signed value with its signature in the one spelling that the library writes.

    itsdangerous compares the bytes that a signature decodes to, which base64 can spell in several ways: a cookie that
    was taken over once could be spelt anew, and be taken over again.
    """
    signed, _, signature = value.rpartition(".")
    its = _itsdangerous()
    return f"{signed}.{its.encoding.base64_encode(its.encoding.base64_decode(signature)).decode('ascii')}"


def _itsdangerous() -> Any:
    return _module("itsdangerous", "a reader of signed cookies")


def _bad_data() -> Any:
    return _itsdangerous().BadData


def _module(name: str, who: str) -> Any:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise ConfigurationError(f"{who} needs {error.name}, which is not installed") from error

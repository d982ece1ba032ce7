"""Sessions in memcached: one packed value a session, and compare-and-swap for every write."""

import contextlib
import math
import socket
import time
from collections.abc import Callable, Generator
from datetime import timedelta
from functools import partial
from types import SimpleNamespace
from typing import Any, Final
from urllib.parse import unquote, urlsplit

from pymemcache import MemcacheError, MemcacheUnexpectedCloseError, PooledClient, exceptions

from server_session._settings import seconds_if_given, seconds_of
from server_session.exceptions import (
    ConfigurationError,
    LimitError,
    RecordError,
    StoreDownError,
    StoreError,
    StoreFullError,
    shown,
)
from server_session.stores._base import Colour
from server_session.stores._clients import ClientOfProcess, has_ended
from server_session.stores._packed import TENTH, Change, Likely, PackedStore, Record, T, is_write, next_try
from server_session.stores._parameters import refuse_parameters
from server_session.stores._waits import begin_call, next_wait

__all__ = ["MemcachedSessionStore"]

# A longer expiry memcached takes for a moment of unix time.
_LONGEST_DURATION: Final = 60 * 60 * 24 * 30
# It reads expiries as signed numbers of 32 bits.
_LAST_MOMENT: Final = 2**31 - 1
# Its clock ticks once a second, or later on a busy machine: an expiry in n seconds may come well before.
_TICK: Final = 2

_READABLE: Final = (
    "give memcached://host:port or memcached:///path/of/socket and no more; for TLS and all else make a PooledClient "
    "of pymemcache"
)

# By what it says when it refuses: the error, and what mends it.
_MENDS: Final = {
    "too large": (LimitError, "; the session stays as it was: keep less in it, or start memcached with a larger -I"),
    "out of memory": (StoreFullError, "; the session stays as it was: give it more by -m, or start it without -M"),
    "unauthenticated": (StoreError, ": it asks for a password, and this store has none to give: start it without -Y"),
    "ERROR": (StoreError, ": it takes no more connections (start it with a larger -c), or knows no such command"),
}


class MemcachedSessionStore(PackedStore):
    """Keeps sessions in one memcached server (1.4.2 or newer).

    **memcached is a cache.** When its memory is full it evicts what was used least, sessions that have not expired
    among them, and a restart loses all: such a visitor has no session any more. So this store serves no owners.

    A session is one value, packed; a write reads it and swaps it if nobody wrote meanwhile, else reads it again. A read
    is one round trip, a new session one, another write two. A read restarts the idle clock by a write of its own, but
    not for a tenth of the idle time or less: a session that is only read may expire so much earlier. It blocks;
    awaitable functions call it in a worker thread.

    Expiries are exact, by the web servers' clocks: where there are several keep these in step. A session larger than
    memcached's items is a `LimitError`. A write is sent once: where its answer is lost, `StoreError` is raised and it
    was made or not made. A connection that ended while nobody used it is made anew.

    Args:
        client: A `pymemcache.client.base.PooledClient`, or a URL: `memcached://host:port`, `memcached:///path/of/socket`.
            Of a host's addresses pymemcache tries the first alone, so name `127.0.0.1` rather than `localhost`.
            A client must have limits of time, and an unlimited pool or one of as many connections as threads call.
        prefix: What each key begins with: up to 226 visible characters of ASCII.
        max_age: Idle seconds, or a timedelta, for sessions of this store, where `configure` says nothing.
        timeout: Seconds that a write tries while others write the same session; for the client of a URL these are for
            all its waits for the server too. A client that is given has its own for each.
        clock: Returns the present as unix time in seconds.

    Raises:
        ConfigurationError: A setting that cannot work, or a client that would hide errors or wait forever.
    """

    colour = Colour.BLOCKS
    least_touch = TENTH
    evicts = True

    def __init__(
        self,
        client: PooledClient | str,
        *,
        prefix: str = "session:",
        max_age: float | timedelta | None = None,
        timeout: float = 2.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._timeout = seconds_of("timeout", timeout)
        pooled: Any = _client(client, self._timeout) if isinstance(client, str) else client
        _check_client(pooled)
        self.max_age = seconds_if_given("max_age", max_age)
        self._prefix = _checked_prefix(prefix, pooled)
        self._clock = clock
        self._pool = ClientOfProcess[Any](lambda: pooled.client_pool, lambda parents: parents.clear())

    async def swap(self, key: str, change: Change[T], likely: Likely) -> T:
        """Let `change` say what becomes of the record; see `PackedStore.swap`."""
        name = self._prefix + key.encode()
        begin_call(self._timeout)
        with self._connection() as connection:
            tries = 0
            while True:
                # A new session needs no look first: to add it fails where there is one.
                is_new = likely is Likely.FOUNDS and tries == 0
                found, token = (None, None) if is_new else self._ask(connection.gets, name)
                now = self._clock()
                record = _live(found, now)
                decision = change(record, now)
                if not is_write(decision, record) or self._write(connection, name, decision, now, token):
                    return decision
                await next_try(tries, self._timeout)
                tries += 1

    def close(self) -> None:
        """Close all connections. The store can be used on, and then makes new ones."""
        self._pool.get().clear()

    @contextlib.contextmanager
    def _connection(self) -> Generator[Any, None, None]:
        """Take a connection for all commands of a call."""
        pool = self._pool.get()
        try:
            connection = pool.get()
        except RuntimeError as error:
            raise StoreError("no free connection to memcached: give the client a larger max_pool_size") from error
        try:
            if connection.sock is not None and has_ended(connection.sock):
                connection.close()
            yield connection
        except BaseException:
            # An answer that nobody read must not reach the next caller, who connects anew.
            connection.close()
            raise
        finally:
            if connection not in pool.used:
                # The pool was closed meanwhile, and will not have it back.
                connection.close()
            pool.release(connection)

    def _write(self, connection: Any, name: bytes, record: Record | None, now: float, token: bytes | None) -> bool:
        if record is None:
            # What somebody wrote meanwhile is dropped with it.
            return bool(self._ask(connection.delete, name, noreply=False))
        packed, expiry = record.pack(), _expiry(record.expires, now)
        if token is None:
            return bool(self._ask(connection.add, name, packed, expiry, noreply=False))
        if token == b"0":
            raise StoreError("memcached runs without compare-and-swap, and would lose writes: start it without -C")
        return bool(self._ask(connection.cas, name, packed, token, expiry, noreply=False))

    def _ask(self, command: Callable[..., Any], *arguments: object, **options: object) -> Any:
        try:
            return command(*arguments, **options)
        except (MemcacheUnexpectedCloseError, OSError) as error:
            said = f" ({error.strerror})" if isinstance(error, OSError) and error.strerror else ""
            raise StoreDownError(f"no answer from memcached: {type(error).__name__}{said}") from error
        except (exceptions.MemcacheIllegalInputError, exceptions.MemcacheUnknownError, ValueError, KeyError) as error:
            # The last two: so pymemcache shows what it cannot parse.
            raise StoreError("an answer that is not memcached's: something else listens there") from error
        except MemcacheError as error:
            # Of an error without a text it drops the word, with which memcached also says that no connection is free.
            is_bare = isinstance(error, exceptions.MemcacheUnknownCommandError)
            text = "ERROR" if is_bare else b"".join(error.args).decode(errors="replace")
            kind, mend = next((_MENDS[mark] for mark in _MENDS if mark in text), (StoreError, ""))
            raise kind(f"memcached refused the call: {text}{mend}") from error


class _Socket(socket.socket):
    """Waits no longer than what the call under way has left. pymemcache counts anew at each piece of an answer."""

    def connect(self, address: Any) -> None:
        self.settimeout(next_wait())
        super().connect(address)

    def sendall(self, *data: Any) -> None:
        self.settimeout(next_wait())
        super().sendall(*data)

    def recv(self, *size: int) -> bytes:
        self.settimeout(next_wait())
        return super().recv(*size)


def _live(found: Any, now: float) -> Record | None:
    try:
        record = None if found is None else Record.unpack(found)
    except (RecordError, TypeError) as error:
        # What a client's own serde returns may be anything.
        raise RecordError("the key holds no session: another program wrote it, or the client's serde") from error
    return record if record is not None and record.expires > now else None


def _expiry(expires: float, now: float) -> int:
    """Return when memcached may drop a value, in its terms: never before the record expires."""
    if expires + _TICK > _LAST_MOMENT:
        # Never; the record knows its end itself.
        return 0
    duration = max(math.ceil(expires - now), 0) + _TICK
    return duration if duration <= _LONGEST_DURATION else math.ceil(expires) + _TICK


def _client(url: str, timeout: float) -> Any:
    refuse_parameters(url, _READABLE)
    sockets: Any = SimpleNamespace(**vars(socket) | {"socket": _Socket})
    make = partial(PooledClient, connect_timeout=timeout, timeout=timeout, no_delay=True, socket_module=sockets)
    # What Python says of a URL quotes it.
    with contextlib.suppress(ValueError):
        parts = urlsplit(url)
        if parts.scheme == "memcached" and "@" not in parts.netloc and not parts.query and not parts.fragment:
            if not parts.netloc and parts.path.startswith("/") and len(parts.path) > 1:
                return make(unquote(parts.path))
            if parts.hostname and parts.path in ("", "/"):
                return make((parts.hostname, 11211 if parts.port is None else parts.port))
    raise ConfigurationError(f"the URL cannot be read: {_READABLE}")


def _check_client(client: Any) -> None:
    if not isinstance(client, PooledClient):
        # A Client is one connection, for one thread. A HashClient moves sessions away from a server that is down, and
        # back with it those that have ended meanwhile.
        raise ConfigurationError(
            f"{type(client).__name__} cannot carry sessions: give a PooledClient of pymemcache, or a memcached:// URL"
        )
    if client.ignore_exc:
        raise ConfigurationError(
            "the client takes a server that is down for one without the session: make it without ignore_exc=True"
        )
    if client.timeout is None or client.connect_timeout is None:
        raise ConfigurationError(
            "the client would wait forever for a server that is silent: make it with timeout=2 and connect_timeout=2"
        )


def _checked_prefix(prefix: str, client: Any) -> bytes:
    longest = 250 - 24 - len(client.key_prefix)
    if not isinstance(prefix, str) or len(prefix) > longest or not all("!" <= character <= "~" for character in prefix):
        raise ConfigurationError(
            f"prefix={shown(prefix)} cannot begin a key of memcached: give up to {longest} visible characters of ASCII"
        )
    return prefix.encode("ascii")

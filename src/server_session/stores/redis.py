"""Sessions in Redis or Valkey: a hash a session, one key and one command a call."""

import asyncio
import contextlib
import hashlib
import importlib.resources
import inspect
import math
from collections.abc import AsyncGenerator, Collection, Mapping
from contextlib import AbstractAsyncContextManager
from datetime import timedelta
from typing import Any, Final, Literal, Protocol, TypeAlias

import redis
import redis.asyncio
import redis.asyncio.retry
import redis.retry
from redis.backoff import NoBackoff
from redis.exceptions import NoScriptError, RedisClusterException, RedisError, ResponseError, SlotNotCoveredError

from server_session._colour import is_driven, running_library
from server_session._durations import seconds_of
from server_session.exceptions import ColourError, ConfigurationError, RecordError, StoreError
from server_session.stores._base import (
    APPLIED,
    CONFLICT,
    MISSING,
    Colour,
    Expect,
    Fields,
    Lifetime,
    Outcome,
    SessionStore,
)

__all__ = ["Client", "RedisSessionStore"]

Client: TypeAlias = redis.Redis | redis.RedisCluster | redis.asyncio.Redis | redis.asyncio.RedisCluster
"""The clients that a store can be given. What a Sentinel's `master_for` returns is a `Redis`."""

_Argument: TypeAlias = bytes | str | int

_OUTCOMES: Final = {0: MISSING, 1: APPLIED, 2: CONFLICT}

_SCRIPT: Final = importlib.resources.files("server_session.stores").joinpath("redis.lua").read_bytes()
# The name that Redis gives a script; nothing is kept secret by it.
_SCRIPT_NAME: Final = hashlib.sha1(_SCRIPT, usedforsecurity=False).hexdigest()

# The asynchronous pool of redis-py 8.1.0 gives out connections that have ended, if they speak RESP3. One that is
# disconnected connects anew when it sends.
_LOOKS_AGAIN: Final = hasattr(redis.asyncio.Connection, "can_read")

# Connections of a store made from a URL, for each loop and for all threads; `?max_connections=` in the URL wins.
_CONNECTIONS: Final = 50


class RedisSessionStore(SessionStore):
    """Keeps sessions in Redis (5 or newer) or in Valkey: one server, one behind Sentinel, or a Cluster.

    A session is a hash of its fields, readable with `redis-cli HGETALL`. Under the empty name it has its idle time and
    its deadline in milliseconds, and the key's own expiry is the session's. Each call is one command on one key.

    A write is sent once. Where its answer is lost, `StoreError` is raised and it was made or not made; to send it again
    could make it twice, so redis-py's own retries of commands are passed by. Only what is known not to have run (the
    server had lost the script, the slot had moved) is sent again, and a read. A connection that ended while nobody used
    it is noticed beforehand and made anew; by redis-py's asynchronous client of a Cluster alone it is not, so there a
    write that meets one is a `StoreError`.

    Made from a URL it serves both colours: callers that block share a client, and each event loop has one of its own,
    closed with the loop. Calls wait for a free connection.

    Redis evicts sessions when its memory is full, unless its `maxmemory-policy` is `noeviction`: then it refuses
    writes, which is a `StoreError`. A user under access control needs these commands on the prefix: `+eval +evalsha
    +time +hget +hgetall +hset +hdel +hexists +exists +del +unlink +pttl +pexpireat`.

    Args:
        client: A client of redis-py, blocking or asynchronous, for one server, a Cluster or by a Sentinel's
            `master_for`; or a URL (`redis://`, `rediss://`, `unix://`) with redis-py's options in its query.
        prefix: What each key begins with.
        max_age: Idle seconds, or a timedelta, for sessions of this store, where `configure` says nothing.
        timeout: Seconds after which a call that awaits is given up, its wait for a free connection included; of the
            blocking client of a URL, the limit of each wait (for a free connection, to connect, for the answer).
            A blocking client that is given has limits of its own: its pool's, its `socket_timeout`, and its `retry`
            while it connects.
        blocking: With a URL, do without redis-py's asyncio client: calls that await take a worker thread each. trio
            needs this.

    Raises:
        ConfigurationError: The client is none of these, or decodes its answers; or the URL cannot be read.
    """

    def __init__(
        self,
        client: Client | str,
        *,
        prefix: str = "session:",
        max_age: float | timedelta | None = None,
        timeout: float = 2.0,
        blocking: bool = False,
    ) -> None:
        if not timeout > 0:
            raise ConfigurationError(f"timeout={timeout!r}: give the seconds after which a call is given up")
        if blocking and not isinstance(client, str):
            raise ConfigurationError("blocking=True belongs to a URL: a client blocks or awaits by its class")
        self.max_age = None if max_age is None else seconds_of("max_age", max_age)
        self._prefix = prefix.encode()
        self._blocking: _Route | None = None
        self._awaiting: _Route | None = None
        match client:
            case str():
                self.colour = Colour.BLOCKS if blocking else Colour.EITHER
                self._blocking = _PoolRoute(_blocking_pool(client, timeout))
                self._awaiting = None if blocking else _RouteOfEachLoop(client, timeout)
            case redis.Redis():
                self.colour, self._blocking = Colour.BLOCKS, _PoolRoute(client.connection_pool)
            case redis.RedisCluster():
                self.colour, self._blocking = Colour.BLOCKS, _ClusterRoute(client)
            case redis.asyncio.Redis():
                self.colour, self._awaiting = Colour.AWAITS, _PoolRoute(client.connection_pool, timeout)
            case redis.asyncio.RedisCluster():
                self.colour, self._awaiting = Colour.AWAITS, _ClusterRoute(client, timeout)
            case _:
                raise ConfigurationError(
                    f"{type(client).__name__} is no client of redis-py: give a URL, or a Redis or RedisCluster "
                    "of `redis` or `redis.asyncio`"
                )

    async def get(
        self, key: str, expect: Expect, touch: bool = True
    ) -> Fields | Literal[Outcome.MISSING, Outcome.CONFLICT]:
        """Return all fields of the record, and restart its idle clock; see `SessionStore.get`."""
        call = ("get", *_expected(expect), int(touch))
        try:
            answer = await self._run(key, *call)
        except StoreError as error:
            if type(error.__cause__) is not redis.ConnectionError:
                raise
            # A read does no harm twice, and is mostly the first to find that an idle connection has ended.
            answer = await self._run(key, *call)
        if not isinstance(answer, list):
            return MISSING if _outcome(answer) is MISSING else CONFLICT
        try:
            return {name.decode(): value for name, value in zip(answer[::2], answer[1::2], strict=True) if name}
        except UnicodeDecodeError as error:
            raise RecordError("the record has a field whose name is not UTF-8: another program wrote it") from error

    async def set(self, key: str, fields: Fields, lifetime: Lifetime, expect: Expect | None = None) -> Outcome:
        """Write the whole record anew; see `SessionStore.set`."""
        record = (*_milliseconds(lifetime), *_pairs(fields))
        if expect is None:
            return _outcome(await self._run(key, "create", *record))
        return _outcome(await self._run(key, "replace", *_expected(expect), *record))

    async def merge(
        self,
        key: str,
        changed: Mapping[str, bytes],
        removed: Collection[str],
        expect: Expect,
        lifetime: Lifetime | None = None,
    ) -> Outcome:
        """Write some fields and drop others, and touch the record; see `SessionStore.merge`."""
        writes = (*_milliseconds(lifetime), *_pairs(changed), *_names(removed))
        return _outcome(await self._run(key, "merge", *_expected(expect), *writes))

    async def destroy(self, key: str) -> bool:
        """Drop the record; return whether there was one. See `SessionStore.destroy`."""
        name = self._prefix + key.encode()
        return bool(await self._send(name, "UNLINK", name))

    async def _run(self, key: str, *call: _Argument) -> Any:
        name = self._prefix + key.encode()
        try:
            return await self._send(name, "EVALSHA", _SCRIPT_NAME, 1, name, *call)
        except NoScriptError:
            # Nothing ran. The server never had the script or has lost it: SCRIPT FLUSH, a restart, a fail-over.
            return await self._send(name, "EVAL", _SCRIPT, 1, name, *call)

    async def _send(self, name: bytes, *command: _Argument) -> Any:
        route = self._route()
        try:
            return await route.send(name, *command)
        except NoScriptError:
            raise
        except ResponseError as error:
            raise _refusal(error) from error
        except (RedisError, RedisClusterException, OSError) as error:
            # What redis-py says names hosts.
            raise StoreError(f"no answer from Redis: {type(error).__name__}") from error
        except RuntimeError as error:
            if self.colour is not Colour.AWAITS:
                raise
            raise ColourError(
                "redis-py's asynchronous client serves one event loop, and this one was used on another: make the "
                "store of a URL, which has a client for each loop"
            ) from error

    def _route(self) -> "_Route":
        if self._blocking is not None and (self._awaiting is None or is_driven()):
            return self._blocking
        if self._awaiting is None or running_library() != "asyncio":
            raise ColourError(
                "redis-py's asynchronous client runs on asyncio's event loop alone: under trio make the store of a URL "
                "with `blocking=True`, or of a blocking client, which is then called in worker threads"
            )
        return self._awaiting


class _Route(Protocol):
    """A way to the server: one command, one answer. Nothing is sent twice."""

    async def send(self, name: bytes, /, *command: _Argument) -> Any: ...


class _PoolRoute:
    """Through a pool of connections: to one server, or to the one that a Sentinel names.

    With a `timeout` the pool is an asynchronous one.
    """

    def __init__(self, pool: Any, timeout: float | None = None) -> None:
        _refuse_decoding(pool.get_encoder())
        self._pool = pool
        self._timeout = timeout
        # redis.asyncio's own pool raises at once where no connection is left. Whoever waits here finds one.
        self._gate = _limit(None) if timeout is None else asyncio.Semaphore(pool.max_connections)

    async def send(self, _name: bytes, /, *command: _Argument) -> Any:
        # Not the client's `execute_command`, which sends a command again when its answer was lost.
        async with _limit(self._timeout), self._gate:
            connection = await _settled(self._pool.get_connection())
            try:
                if _LOOKS_AGAIN and self._timeout is not None and await connection.can_read():
                    await connection.disconnect(nowait=True)
                await _settled(connection.send_command(*command))
                return await _settled(connection.read_response())
            finally:
                await _settled(self._pool.release(connection))


class _ClusterRoute:
    """Through a client of a Cluster: to the node that has the key.

    With a `timeout` the client is an asynchronous one.
    """

    def __init__(self, client: Any, timeout: float | None = None) -> None:
        _refuse_decoding(client.get_encoder())
        self._client = client
        self._timeout = timeout

    async def send(self, name: bytes, /, *command: _Argument) -> Any:
        async with _limit(self._timeout):
            if self._timeout is not None:
                await self._client.initialize()
            # Where it is told the node the client follows a slot that has moved, but sends nothing again whose answer
            # was lost.
            try:
                node = self._client.get_node_from_key(name)
            except SlotNotCoveredError:
                # The client itself looks anew only when a node has answered, and here there is none to ask.
                await _settled(self._client.nodes_manager.initialize())
                node = self._client.get_node_from_key(name)
            return await _settled(self._client.execute_command(*command, target_nodes=node))


class _RouteOfEachLoop:
    """Through a pool of the event loop's own, made at the first call on it and closed when it ends."""

    def __init__(self, url: str, timeout: float) -> None:
        self._url = url
        self._timeout = timeout
        self._kept: dict[asyncio.AbstractEventLoop, tuple[_PoolRoute, AsyncGenerator[_PoolRoute, None]]] = {}

    async def send(self, name: bytes, /, *command: _Argument) -> Any:
        loop = asyncio.get_running_loop()
        kept = self._kept.get(loop)
        if kept is None:
            # Loops that were closed by hand end no generators.
            for closed in [other for other in list(self._kept) if other.is_closed()]:
                self._kept.pop(closed, None)
            lasting = self._last(loop)
            kept = self._kept[loop] = await anext(lasting), lasting
        return await kept[0].send(name, *command)

    # A generator: a loop that is ended as `asyncio.run` does it closes those that began on it.
    async def _last(self, loop: asyncio.AbstractEventLoop) -> AsyncGenerator[_PoolRoute, None]:
        pool = _awaiting_pool(self._url, self._timeout)
        try:
            yield _PoolRoute(pool, self._timeout)
        finally:
            self._kept.pop(loop, None)
            await pool.disconnect()


def _blocking_pool(url: str, timeout: float) -> Any:
    return _pool(redis.BlockingConnectionPool, url, timeout, retry=redis.retry.Retry(NoBackoff(), 0), timeout=timeout)


def _awaiting_pool(url: str, timeout: float) -> Any:
    return _pool(redis.asyncio.ConnectionPool, url, timeout, retry=redis.asyncio.retry.Retry(NoBackoff(), 0))


def _pool(kind: Any, url: str, limit: float, **options: Any) -> Any:
    try:
        # RESP2 says all that is said here.
        pool = kind.from_url(
            url,
            protocol=2,
            max_connections=_CONNECTIONS,
            socket_timeout=limit,
            socket_connect_timeout=limit,
            **options,
        )
        # Made, but not connected: what else the URL asks for is only looked at here.
        pool.connection_class(**pool.connection_kwargs)
    except TypeError as error:
        raise ConfigurationError(f"an option in the URL that redis-py does not know: {error}") from error
    except (ValueError, RedisError):
        # What Python and redis-py say of it may quote the password.
        raise ConfigurationError(
            "the URL cannot be read: give redis://[user:password@]host[:port][/number][?option=value], the same with "
            "rediss:// for TLS, or unix://path; in a user and password write reserved characters as %XX"
        ) from None
    return pool


def _refuse_decoding(encoder: Any) -> None:
    if encoder.decode_responses:
        raise ConfigurationError(
            "the client decodes its answers, and a session's fields are bytes: make it without decode_responses=True"
        )


def _limit(seconds: float | None) -> AbstractAsyncContextManager[object]:
    return contextlib.nullcontext() if seconds is None else asyncio.timeout(seconds)


async def _settled(answer: Any) -> Any:
    return await answer if inspect.isawaitable(answer) else answer


def _refusal(error: ResponseError) -> StoreError:
    text = str(error)
    if "WRONGTYPE" in text:
        return RecordError("the key holds no hash: another program wrote it")
    code = text.partition(" ")[0]
    return StoreError(f"Redis refused the call: {code if code.isupper() else type(error).__name__}")


def _outcome(answer: int) -> Outcome:
    try:
        return _OUTCOMES[answer]
    except KeyError:
        raise RecordError("the key holds a hash that is no session: another program wrote it") from None


def _expected(expect: Expect) -> list[_Argument]:
    return [
        *_pairs({name: value for name, value in expect.items() if value is not None}),
        *_names([name for name, value in expect.items() if value is None]),
    ]


def _pairs(fields: Mapping[str, bytes]) -> list[_Argument]:
    return [2 * len(fields), *(part for name, value in fields.items() for part in (name.encode(), value))]


def _names(names: Collection[str]) -> list[_Argument]:
    return [len(names), *(name.encode() for name in names)]


def _milliseconds(lifetime: Lifetime | None) -> tuple[_Argument, _Argument]:
    if lifetime is None:
        return "", ""
    return _whole(lifetime.idle), "" if lifetime.remaining is None else _whole(lifetime.remaining)


def _whole(seconds: float) -> int:
    # Within what Redis takes for an expiry: a script that failed there would have written the fields before.
    return math.ceil(min(max(seconds, 0.0), 1e12) * 1000)

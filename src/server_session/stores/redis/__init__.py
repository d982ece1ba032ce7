"""Sessions in Redis or Valkey: a hash a session, one key and one command a call."""

import asyncio
import hashlib
import importlib.resources
import math
import re
from collections.abc import Awaitable, Callable, Collection, Mapping
from datetime import timedelta
from functools import partial
from typing import Any, Final, TypeAlias

import redis
import redis.asyncio
import redis.asyncio.retry
import redis.retry
from redis.backoff import NoBackoff
from redis.exceptions import NoScriptError, RedisClusterException, RedisError, ResponseError, SlotNotCoveredError

from server_session._colour import is_driven, running_library
from server_session._durations import seconds_of
from server_session.exceptions import ColourError, ConfigurationError, RecordError, StoreDownError, StoreError
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
from server_session.stores._clients import ClientOfEachLoop
from server_session.stores._packed import Refusal
from server_session.stores.redis._pipeline import Pipeline

__all__ = ["Client", "RedisSessionStore"]

Client: TypeAlias = redis.Redis | redis.RedisCluster | redis.asyncio.Redis | redis.asyncio.RedisCluster
"""The clients that a store can be given. What a Sentinel's `master_for` returns is a `Redis`."""

_OUTCOMES: Final = {0: MISSING, 1: APPLIED, 2: CONFLICT}

# A password with a reserved character in it, the first part of which redis-py takes for a port.
_SPILT: Final = re.compile(r"[^:]*://[^/?#@]*:[^/?#@]*[/?#].*@", re.DOTALL)

_SCRIPT: Final = importlib.resources.files("server_session.stores.redis").joinpath("redis.lua").read_bytes()
# The name that Redis gives a script; nothing is kept secret by it.
_SCRIPT_NAME: Final = hashlib.sha1(_SCRIPT, usedforsecurity=False).hexdigest().encode()

# What an access control list is to allow, and which of it that list denies: a script that is stopped half-way would
# leave half a write. Redis before 7 cannot tell.
_RIGHTS: Final = "time hget hgetall hset hdel hexists exists del unlink pttl pexpireat"
_CHECK: Final = b"""local denied = {}
for _, command in ipairs(redis.acl_check_cmd and ARGV or {}) do
  if not redis.acl_check_cmd(command, KEYS[1]) then denied[#denied + 1] = command end
end
return denied"""
_NEEDS: Final = f"its user needs +eval +evalsha +{_RIGHTS.replace(' ', ' +')} on the store's prefix (docs/stores.md)"

# By the name of redis-py's error and what Redis says.
_MENDS: Final = {
    r"NoPermissionError|can't run this command": _NEEDS,
    r"ReadOnlyError": "this is a replica: name the master, or ask a Sentinel for it",
    r"AuthenticationError|NOAUTH|WRONGPASS|unauthenticated": "look at user and password in the URL",
    r"MovedError|AskError": "this is a node of a Cluster: give the store a RedisCluster of redis-py",
    r"OutOfMemoryError": "its memory is full: raise maxmemory",
    r"MISCONF": "it cannot write to its disk: is that full?",
    r"(unknown|Invalid) command|non deterministic": "it is older than Redis 5, or the command was renamed",
    r"ClusterDownError|BusyLoadingError|MasterDownError": "it is starting, or a fail-over is under way",
    r"MaxConnections|No connection available|max number of clients": "more calls at once than connections",
}

# Connections of a store made from a URL, for all threads that block; `?max_connections=` in the URL wins.
_CONNECTIONS: Final = 50

# How many limits a caller that blocks waits for one of them to be free.
_PATIENCE: Final = 10


class RedisSessionStore(SessionStore):
    """Keeps sessions in Redis (5 or newer) or in Valkey: one server, one behind Sentinel, or a Cluster.

    A session is a hash of its fields, readable with `redis-cli HGETALL`. Under the empty name it has its idle time and
    its deadline in milliseconds, and the key's own expiry is the session's. Each call is one command on one key.

    A write is sent once, redis-py's own retries notwithstanding: where its answer is lost, `StoreError` is raised and
    it was made or not made. Only what is known not to have run (the script was lost, the slot had moved) is sent again,
    and a read. A connection that ended while nobody used it is noticed beforehand and made anew, but not by redis-py's
    asynchronous client of a Cluster: there a write that meets one is a `StoreError`.

    Made from a URL it serves both colours. Callers that block share 50 connections (`max_connections`). The calls of an
    event loop share one, closed with the loop; those of one turn of the loop are sent in one piece. A given
    asynchronous client gives one of its connections up for that; by that of a Cluster each call takes one.

    Redis evicts sessions when its memory is full, unless its `maxmemory-policy` is `noeviction`: then it refuses
    writes, which is a `StoreError`. A user under access control needs these commands on the prefix: `+eval +evalsha
    +time +hget +hgetall +hset +hdel +hexists +exists +del +unlink +pttl +pexpireat`.

    Args:
        client: A client of redis-py, blocking or asynchronous, for one server, a Cluster or by a Sentinel's
            `master_for`; or a URL (`redis://`, `rediss://`, `unix://`) with redis-py's options in its query.
        prefix: What each key begins with.
        max_age: Idle seconds, or a timedelta, for sessions of this store, where `configure` says nothing.
        timeout: Seconds for the server to answer, from the moment that a call is sent, and again to connect where that
            is needed. Callers that block wait ten times as long for a free connection. A blocking client that is given
            has limits of its own: its pool's, its `socket_timeout`, and its `retry` while it connects.
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
        limit = seconds_of("timeout", timeout)
        if blocking and not isinstance(client, str):
            raise ConfigurationError("blocking=True belongs to a URL: a client blocks or awaits by its class")
        self.max_age = None if max_age is None else seconds_of("max_age", max_age)
        self._prefix = prefix.encode()
        self._is_checked = False
        self._blocking: Callable[[bytes, tuple[bytes, ...]], Any] | None = None
        self._awaiting: Callable[[bytes, tuple[bytes, ...]], Awaitable[Any]] | None = None
        encoding: Any = client
        match client:
            case str():
                waits = {"max_connections": _CONNECTIONS, "timeout": _PATIENCE * limit}
                encoding = _pool(redis.BlockingConnectionPool, redis.retry.Retry, client, limit, **waits)
                self._blocking = partial(_ask, encoding)
                if not blocking:
                    make = partial(_pool, redis.asyncio.ConnectionPool, redis.asyncio.retry.Retry, client, limit)
                    self._awaiting = partial(_ask_awaiting, _pipelines(make, limit))
            case redis.Redis():
                self._blocking = partial(_ask, client.connection_pool)
            case redis.RedisCluster():
                self._blocking = partial(_ask_cluster, client)
            case redis.asyncio.Redis():
                self._awaiting = partial(_ask_awaiting, _pipelines(lambda: client.connection_pool, limit))
            case redis.asyncio.RedisCluster():
                self._awaiting = partial(_ask_cluster_awaiting, client, limit)
            case _:
                raise ConfigurationError(
                    f"{type(client).__name__} is no client of redis-py: give a URL, or a Redis or RedisCluster "
                    "of `redis` or `redis.asyncio`"
                )
        self.colour = Colour.AWAITS if self._blocking is None else Colour.EITHER if self._awaiting else Colour.BLOCKS
        if encoding.get_encoder().decode_responses:
            raise ConfigurationError(
                "the client decodes its answers, and a session's fields are bytes: make it without "
                "decode_responses=True"
            )

    async def get(self, key: str, expect: Expect, touch: bool = True) -> Fields | Refusal:
        """Return all fields of the record, and restart its idle clock; see `SessionStore.get`."""
        call = (b"get", *_expected(expect), b"1" if touch else b"0")
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
            return _outcome(await self._run(key, b"create", *record))
        return _outcome(await self._run(key, b"replace", *_expected(expect), *record))

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
        return _outcome(await self._run(key, b"merge", *_expected(expect), *writes))

    async def destroy(self, key: str) -> bool:
        """Drop the record; return whether there was one. See `SessionStore.destroy`."""
        name = self._prefix + key.encode()
        await self._check(name)
        return bool(await self._send(name, b"UNLINK", name))

    async def _run(self, key: str, *call: bytes) -> Any:
        name = self._prefix + key.encode()
        await self._check(name)
        try:
            return await self._send(name, b"EVALSHA", _SCRIPT_NAME, b"1", name, *call)
        except NoScriptError:
            # Nothing ran. The server never had the script or has lost it: SCRIPT FLUSH, a restart, a fail-over.
            return await self._send(name, b"EVAL", _SCRIPT, b"1", name, *call)

    async def _check(self, name: bytes) -> None:
        if not self._is_checked:
            denied = await self._send(name, b"EVAL", _CHECK, b"1", name, *_RIGHTS.encode().split())
            if denied:
                raise StoreError(f"Redis would refuse {b', '.join(denied).decode()}: {_NEEDS}")
            self._is_checked = True

    async def _send(self, name: bytes, *command: bytes) -> Any:
        try:
            if self._blocking is not None and (self._awaiting is None or is_driven()):
                return self._blocking(name, command)
            if self._awaiting is not None and running_library() == "asyncio":
                return await self._awaiting(name, command)
        except NoScriptError:
            raise
        except ResponseError as error:
            # An unknown command's arguments are quoted by the server.
            raise _refusal(error) from (None if "unknown command" in str(error) else error)
        except (RedisError, RedisClusterException, OSError) as error:
            raise StoreDownError(f"no answer from Redis: {_explained(error)}") from error
        except RuntimeError as error:
            if self.colour is not Colour.AWAITS:
                raise
            raise ColourError(
                "redis-py's asynchronous client serves one event loop, and this one was used on another: make the "
                "store of a URL, which has a client for each loop"
            ) from error
        raise ColourError(
            "redis-py's asynchronous client runs on asyncio's event loop alone: under trio make the store of a URL "
            "with `blocking=True`, or of a blocking client, which is then called in worker threads"
        )


# Ways to a server, by the name of a key. None of them sends a command twice whose answer was lost, as the clients' own
# `execute_command` does.


def _ask(pool: Any, _name: bytes, command: tuple[bytes, ...]) -> Any:
    connection = pool.get_connection()
    try:
        connection.send_command(*command)
        return connection.read_response()
    finally:
        pool.release(connection)


async def _ask_awaiting(pipelines: ClientOfEachLoop[Pipeline], _name: bytes, command: tuple[bytes, ...]) -> Any:
    return await (await pipelines.get()).call(command)


def _ask_cluster(client: Any, name: bytes, command: tuple[bytes, ...]) -> Any:
    # Where it is told the node it follows a slot that has moved, but sends nothing again whose answer was lost.
    try:
        node = client.get_node_from_key(name)
    except SlotNotCoveredError:
        # The client itself looks anew only when a node has answered, and here there is none to ask.
        client.nodes_manager.initialize()
        node = client.get_node_from_key(name)
    try:
        return client.execute_command(command[0].decode(), *command[1:], target_nodes=node)
    except RuntimeError as error:
        # Other threads change the client's nodes while it goes through them, after a connection that was lost.
        raise redis.ConnectionError("the nodes changed meanwhile") from error


async def _ask_cluster_awaiting(client: Any, limit: float, name: bytes, command: tuple[bytes, ...]) -> Any:
    async with asyncio.timeout(limit):
        await client.initialize()
        try:
            node = client.get_node_from_key(name)
        except SlotNotCoveredError:
            await client.nodes_manager.initialize()
            node = client.get_node_from_key(name)
        try:
            return await client.execute_command(command[0].decode(), *command[1:], target_nodes=node)
        except AttributeError as error:
            # The client ends all its connections at every fifth slot that has moved, and others write to them.
            raise redis.ConnectionError("the connection was ended while it was in use") from error


def _pipelines(pool: Callable[[], Any], limit: float) -> ClientOfEachLoop[Pipeline]:
    return ClientOfEachLoop(lambda: Pipeline(pool(), limit), Pipeline.close)


def _pool(kind: Any, retry: Any, url: str, limit: float, **options: Any) -> Any:
    once = retry(NoBackoff(), 0)
    try:
        if _SPILT.match(url):
            raise ValueError  # noqa: TRY301 - it cannot be read, as what redis-py refuses
        # RESP2 says all that is said here.
        pool = kind.from_url(url, protocol=2, socket_timeout=limit, socket_connect_timeout=limit, retry=once, **options)
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


def _refusal(error: ResponseError) -> StoreError:
    if "WRONGTYPE" in str(error):
        return RecordError("the key holds no hash: another program wrote it")
    return StoreError(f"Redis refused the call: {_explained(error)}")


def _explained(error: Exception) -> str:
    """Say what kind of error it is, what mends it and what was said, without hosts, and without values."""
    kind, said = type(error).__name__, str(error)
    mend = next((mend for marks, mend in _MENDS.items() if re.search(marks, f"{kind} {said}")), "")
    hidden = r"\S+:\d+\S*|, with args.*" if mend and isinstance(error, ResponseError) else r"\S+:\d+\S*|['\"`].*"
    said = re.sub(hidden, "…", said, flags=re.DOTALL)
    return kind + (f": {mend}" if mend else "") + (f" (it said: {said})" if said else "")


def _outcome(answer: int) -> Outcome:
    try:
        return _OUTCOMES[answer]
    except KeyError:
        raise RecordError("the key holds a hash that is no session: another program wrote it") from None


def _expected(expect: Expect) -> list[bytes]:
    present = {name: value for name, value in expect.items() if value is not None}
    return [*_pairs(present), *_names([name for name in expect if name not in present])]


def _pairs(fields: Mapping[str, bytes]) -> list[bytes]:
    return [b"%d" % (2 * len(fields)), *[part for name, value in fields.items() for part in (name.encode(), value)]]


def _names(names: Collection[str]) -> list[bytes]:
    return [b"%d" % len(names), *[name.encode() for name in names]]


def _milliseconds(lifetime: Lifetime | None) -> list[bytes]:
    # Within what Redis takes for an expiry: a script that failed there would have written the fields before.
    return [
        b"" if seconds is None else b"%d" % math.ceil(min(max(seconds, 0.0), 1e12) * 1000)
        for seconds in lifetime or (None, None)
    ]

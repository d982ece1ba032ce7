"""Sessions in Redis or Valkey: a hash a session, one key and one command a call."""

import asyncio
import hashlib
import importlib.resources
import math
import re
from collections.abc import Awaitable, Collection, Mapping
from datetime import timedelta
from functools import partial
from typing import Any, Final, Literal, TypeAlias
from urllib.parse import urlencode

import redis
import redis.asyncio
from redis.exceptions import (
    NoScriptError,
    ReadOnlyError,
    RedisClusterException,
    RedisError,
    ResponseError,
    SlotNotCoveredError,
)

from server_session._colour import is_driven, settled
from server_session._settings import seconds_of
from server_session.exceptions import ColourError, ConfigurationError, RecordError, StoreDownError, StoreError
from server_session.stores._base import Batch, Colour, Expect, Fields, Kept, Lifetime, Outcome, SessionStore
from server_session.stores._clients import ClientOfEachLoop, ClientOfProcess
from server_session.stores._packed import Refusal
from server_session.stores._parameters import parameters_of, refusal_of
from server_session.stores._waits import AT_ONCE, begin_call, left
from server_session.stores.redis._connections import Connections
from server_session.stores.redis._pipeline import Pipeline
from server_session.stores.redis._resp import packed

__all__ = ["Client", "RedisSessionStore"]

Client: TypeAlias = redis.Redis | redis.RedisCluster | redis.asyncio.Redis | redis.asyncio.RedisCluster
"""The clients that a store can be given. What a Sentinel's `master_for` returns is a `Redis`."""

# What is not of this form redis-py reads in part, without a word: a password with a reserved character in it, a path
# that is no number, a socket whose path is not absolute.
_WHOLE: Final = re.compile(r"(rediss?://[^/?#]*(/\d*)?|unix://([^/?#]*@)?/[^?#]*)(\?[^#@]*)?")

_SCRIPT: Final = importlib.resources.files("server_session.stores.redis").joinpath("redis.lua").read_bytes()
# The name that Redis gives a script; nothing is kept secret by it.
_SCRIPT_NAME: Final = hashlib.sha1(_SCRIPT, usedforsecurity=False).hexdigest().encode()

# What the script answers to writes, and to a hash that is no record.
_OUTCOMES: Final = (Outcome.MISSING, Outcome.APPLIED, Outcome.CONFLICT)
_FOREIGN: Final = 3
_FOREIGN_HASH: Final = "the key holds a hash that is no session: another program wrote it"

# What a record has under the empty name: its idle time and its deadline.
_TIMES: Final = re.compile(rb"(\d+) ?(\d*)")

# What an access control list is to allow.
_RIGHTS: Final = "time hget hgetall hset hdel hexists exists del unlink pttl pexpireat"
_KEY: Final = re.compile(rb"[A-Za-z0-9_-]{24}")
_NODES: Final = ""
"""In the place of a key or of a node's name: asks for the names of a Cluster's nodes."""
_NEEDS: Final = f"its user needs +eval +evalsha +{_RIGHTS.replace(' ', ' +')} on the store's prefix (docs/stores.md)"

# What is wrong, in a word, by the name of redis-py's error and what Redis says; and what mends it.
_MARKS: Final = {
    "rights": r"NoPermissionError|can't run this command",
    "replica": r"ReadOnlyError",
    "password": r"AuthenticationError|NOAUTH|WRONGPASS|unauthenticated",
    "cluster": r"MovedError|AskError",
    "memory_full": r"OutOfMemoryError",
    "disk_full": r"MISCONF",
    "old_server": r"(unknown|Invalid) command|non deterministic",
    "certificate": r"CERTIFICATE_VERIFY_FAILED",
    "no_file": r"No such file",
    "starting": r"ClusterDownError|BusyLoadingError|MasterDownError",
    "connections": r"MaxConnections|No connection available|max number of clients",
}
MENDS: Final = {
    "rights": _NEEDS,
    "replica": "this is a replica: name the master, or ask a Sentinel for it",
    "password": "look at user and password in the URL",
    "cluster": "this is a node of a Cluster: give the store a RedisCluster of redis-py",
    "memory_full": "its memory is full: raise maxmemory",
    "disk_full": "it cannot write to its disk: is that full?",
    "old_server": "it is older than Redis 5, or the command was renamed",
    "certificate": "name the authority that signed its certificate by ?ssl_ca_certs=/path/of/its.pem",
    "no_file": "a file that the URL names is not there: the socket, or what ssl_ca_certs and its like name",
    "starting": "it is starting, or a fail-over is under way",
    "connections": "more calls at once than connections",
}

# redis-py takes these as objects, and looks at them when it connects.
_OBJECTS: Final = ("retry", "credential_provider", "redis_connect_func", "socket_keepalive_options", "socket_type")

# Connections of a store made from a URL, for all threads that block; `?max_connections=` in the URL wins.
_CONNECTIONS: Final = 50

_ELSEWHERE: Final = (
    "redis-py's asynchronous client runs on asyncio's event loop alone: under trio make the store of a URL with "
    "`blocking=True`, or of a blocking client, which is then called in worker threads"
)


class RedisSessionStore(SessionStore):
    """Keeps sessions in Redis (5 or newer) or in Valkey: one server, one behind Sentinel, or a Cluster.

    A session is a hash of its fields, readable with `redis-cli HGETALL`. Under the empty name it has its idle time and
    its deadline in milliseconds, and the key's own expiry is the session's. Each call is one command on one key.

    A write is sent once, redis-py's own retries notwithstanding: where its answer is lost, `StoreError` is raised and
    it was made or not made. Only what is known not to have run (the script was lost, the slot had moved) is sent again,
    and a read. A connection that ended while nobody used it is noticed beforehand and made anew, but not by redis-py's
    asynchronous client of a Cluster: there a write that meets one is a `StoreError`.

    Made from a URL it serves both colours. Callers that block share 50 connections (`max_connections`). The calls of an
    event loop share one, closed with the loop; those of one turn of the loop are sent in one piece. For a
    given asynchronous client that is one beside its pool's; by that of a Cluster each call takes one.

    Redis evicts sessions when its memory is full, unless its `maxmemory-policy` is `noeviction`: then it refuses
    writes, which is a `StoreError`. A user under access control needs these commands on the prefix: `+eval +evalsha
    +time +hget +hgetall +hset +hdel +hexists +exists +del +unlink +pttl +pexpireat`.

    Args:
        client: A client of redis-py, blocking or asynchronous, for one server, a Cluster or by a Sentinel's
            `master_for`; or a URL (`redis://`, `rediss://`, `unix://`) with redis-py's options in its query.
        prefix: What each key begins with.
        max_age: Idle seconds, or a timedelta, for sessions of this store, where `configure` says nothing.
        timeout: Seconds for the server to answer, from the moment that a call is sent, or that a connection is begun to
            be made for it. For callers that block it counts the wait for a free connection too. A blocking client that
            is given has limits of its own: its pool's, its `socket_timeout`, and its `retry` while it connects.
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
        self._timeout = limit = seconds_of("timeout", timeout)
        if blocking and not isinstance(client, str):
            raise ConfigurationError("blocking=True belongs to a URL: a client blocks or awaits by its class")
        self.max_age = None if max_age is None else seconds_of("max_age", max_age)
        self._prefix = prefix.encode()
        self._is_checked = False
        self._is_cluster = isinstance(client, redis.RedisCluster | redis.asyncio.RedisCluster)
        self._blocking: Any = None
        self._awaiting: Any = None
        encoding: Any = client
        match client:
            case str():
                encoding = _pool(redis.ConnectionPool, client, limit, max_connections=_CONNECTIONS)
                connections = ClientOfProcess(lambda: Connections(encoding), lambda _: None)
                self._blocking = partial(_ask_in_turn, connections)
                if not blocking:
                    pool = _pool(redis.asyncio.ConnectionPool, client, limit)
                    self._awaiting = partial(_ask_pipeline, _pipelines(pool, limit), limit)
            case redis.Redis():
                self._blocking = partial(_ask, client.connection_pool)
            case redis.RedisCluster():
                self._blocking = partial(_ask_cluster, client)
            case redis.asyncio.Redis():
                self._awaiting = partial(_ask_pipeline, _pipelines(client.connection_pool, limit), limit)
            case redis.asyncio.RedisCluster():
                clients = ClientOfEachLoop(lambda: client, None, _ELSEWHERE)
                self._awaiting = partial(_ask_cluster_awaiting, clients)
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
        name, call = self._begin(key), b"get" if touch else b"look"
        try:
            answer = await self._run(name, call, expect)
        except StoreError as error:
            # A read does no harm twice, and is mostly the first to find that an idle connection has ended, or that its
            # server is the master no more. Who found none free has waited long enough.
            lost = (redis.ConnectionError, ReadOnlyError)
            if type(error.__cause__) not in lost or "No connection available" in str(error):
                raise
            answer = await self._run(name, call, expect)
        if not isinstance(answer, list):
            return Outcome.CONFLICT if answer else Outcome.MISSING
        return _fields(answer)

    async def set(self, key: str, fields: Fields, lifetime: Lifetime, expect: Expect | None = None) -> Outcome:
        """Write the whole record anew; see `SessionStore.set`."""
        call = b"create" if expect is None else b"replace"
        return _OUTCOMES[await self._run(self._begin(key), call, expect or {}, *_writes(fields, (), lifetime))]

    async def merge(
        self,
        key: str,
        changed: Mapping[str, bytes],
        removed: Collection[str],
        expect: Expect,
        lifetime: Lifetime | None = None,
    ) -> Outcome:
        """Write some fields and drop others, and touch the record; see `SessionStore.merge`."""
        return _OUTCOMES[await self._run(self._begin(key), b"merge", expect, *_writes(changed, removed, lifetime))]

    async def destroy(self, key: str) -> bool:
        """Drop the record; return whether there was one. See `SessionStore.destroy`."""
        name = self._begin(key)
        if not self._is_checked:
            await self._check(name)
        return bool(await self._send(name, b"UNLINK", name))

    async def read_record(self, key: str) -> Kept | Literal[Outcome.MISSING]:
        """Return the record with its lifetime, without a touch; see `Listing.read_record`."""
        answer = await self._run(self._begin(key), b"record", {})
        if not isinstance(answer, list):
            return Outcome.MISSING
        now, (_, left_for, fields) = answer
        return _kept(key, fields, left_for, now)

    async def list_records(self, after: str = "", most: int = 500) -> Batch:
        """Return some of the records, of one node of a Cluster after the other; see `Listing.list_records`.

        It looks through all keys of the database, and needs the command `+scan` too. While slots move between the nodes
        of a Cluster it may miss records.
        """
        begin_call(self._timeout)
        node, _, cursor = after.rpartition(" ")
        nodes = sorted(await self._send(_NODES, b"")) if self._is_cluster else [_NODES]
        node = next((name for name in nodes if name >= node), "")
        pattern = re.sub(rb"([][*?\\])", rb"\\\1", self._prefix) + b"?" * 24
        cursor, now, *found = await self._send(
            node, b"EVALSHA", _SCRIPT_NAME, b"0", b"records", cursor.encode() or b"0", pattern, b"%d" % most
        )
        batch = Batch([], [], None)
        for name, left_for, fields in found:
            key = name.removeprefix(self._prefix)
            if not _KEY.fullmatch(key):
                continue
            try:
                batch.records.append(_kept(key.decode(), fields, left_for, now))
            except RecordError:
                batch.unreadable.append(key.decode())
        if cursor != b"0":
            return batch._replace(after=f"{node} {cursor.decode()}")
        beyond = next((name for name in nodes if name > node), None)
        return batch._replace(after=None if beyond is None else f"{beyond} 0")

    def _begin(self, key: str) -> bytes:
        begin_call(self._timeout)
        return self._prefix + key.encode()

    async def _run(self, name: bytes, call: bytes, expect: Expect, *writes: bytes) -> Any:
        if not self._is_checked:
            await self._check(name)
        expected = [
            part for field, value in expect.items() for part in (field.encode(), b"" if value is None else b"=" + value)
        ]
        answer = await self._send(
            name, b"EVALSHA", _SCRIPT_NAME, b"1", name, call, b"%d" % len(expected), *expected, *writes
        )
        if answer == _FOREIGN:
            raise RecordError(_FOREIGN_HASH)
        return answer

    async def _check(self, name: bytes) -> None:
        denied = await self._send(name, b"EVALSHA", _SCRIPT_NAME, b"1", name, b"rights", *_RIGHTS.encode().split())
        if denied:
            raise StoreError(f"Redis would refuse {b', '.join(denied).decode()}: {_NEEDS}")
        self._is_checked = True

    async def _send(self, name: bytes | str, *command: bytes) -> Any:
        try:
            way = self._blocking if not self._awaiting or (self._blocking and is_driven()) else self._awaiting
            return await way(name, command)
        except NoScriptError:
            # Nothing ran. The server never had the script or has lost it: SCRIPT FLUSH, a restart, a fail-over.
            return await self._send(name, b"EVAL", _SCRIPT, *command[2:])
        except ResponseError as error:
            if "WRONGTYPE" in str(error):
                raise RecordError("the key holds a value of another kind: another program wrote it") from error
            # An unknown command's arguments are quoted by the server.
            cause = None if "unknown command" in str(error) else error
            raise StoreError(f"Redis refused the call: {_explained(error)}") from cause
        except (RedisError, RedisClusterException, OSError) as error:
            raise StoreDownError(f"no answer from Redis: {_explained(error)}") from error
        except RuntimeError as error:
            if self.colour is not Colour.AWAITS or isinstance(error, ColourError):
                raise
            raise ColourError(
                "redis-py's asynchronous client of a Cluster serves one event loop, and this one was used on another: "
                "give each loop a store and a client of its own, or take a blocking client"
            ) from error


# Ways to a server, by the name of a key, or by that of a Cluster's node, which is text. None of them sends a command
# twice whose answer was lost, as the clients' own `execute_command` does.


async def _ask_in_turn(
    connections: ClientOfProcess[Connections], _name: bytes | str, command: tuple[bytes, ...]
) -> Any:
    return connections.get().call(command)


async def _ask(pool: Any, _name: bytes | str, command: tuple[bytes, ...]) -> Any:
    connection = pool.get_connection()
    try:
        connection.send_packed_command([packed(command)])
        return connection.read_response()
    finally:
        pool.release(connection)


async def _ask_cluster(client: Any, name: bytes | str, command: tuple[bytes, ...]) -> Any:
    if name == _NODES:
        return [node.name for node in client.get_primaries()]
    try:
        node = client.get_node(node_name=name) if isinstance(name, str) else client.get_node_from_key(name)
    except SlotNotCoveredError:
        # The client itself looks anew only when a node has answered, and here there is none to ask.
        await settled(client.nodes_manager.initialize())
        node = client.get_node_from_key(name)
    try:
        # Where it is told the node it follows a slot that has moved, but sends nothing again whose answer was lost.
        return await settled(client.execute_command(command[0].decode(), *command[1:], target_nodes=node))
    except (AttributeError, RuntimeError) as error:
        if "loop" in str(error):
            raise
        # Others change the client's nodes while it goes through them, and end connections that are in use.
        raise redis.ConnectionError("the nodes changed meanwhile") from error


async def _ask_cluster_awaiting(clients: Any, name: bytes | str, command: tuple[bytes, ...]) -> Any:
    client = clients.get()
    async with asyncio.timeout(left()):
        return await _ask_cluster(await client.initialize(), name, command)


def _ask_pipeline(
    pipelines: ClientOfEachLoop[Pipeline], limit: float, _name: bytes | str, command: tuple[bytes, ...]
) -> Awaitable[Any]:
    call, seconds = pipelines.get().call(command), left()
    # Most calls have their whole limit, which the connection keeps with one timer for many.
    return call if seconds > limit - AT_ONCE else _within(seconds, call)


async def _within(seconds: float, call: Awaitable[Any]) -> Any:
    async with asyncio.timeout(seconds):
        return await call


def _pipelines(pool: Any, limit: float) -> ClientOfEachLoop[Pipeline]:
    return ClientOfEachLoop(lambda: Pipeline(pool.make_connection(), limit), Pipeline.close, _ELSEWHERE)


def _pool(kind: Any, url: str, limit: float, **options: Any) -> Any:
    # RESP2 says all that is said here.
    limits = {"protocol": 2, "socket_timeout": limit, "socket_connect_timeout": limit}
    parameters = parameters_of(url)
    whole = _WHOLE.fullmatch(url)
    names = [*(("db",) if whole and whole[2] and whole[2] != "/" else ()), *(name for name, _ in parameters)]
    for name in names:
        if names.count(name) > 1:
            raise refusal_of(name, "is given twice")
        if name in _OBJECTS:
            raise refusal_of(name, "cannot be given as text: make a client of redis-py with it")
    try:
        if not whole:
            raise ValueError  # noqa: TRY301 - it cannot be read, as what redis-py refuses
        pool = _made(kind, url, **limits, **options)
    except TypeError as error:
        raise ConfigurationError(f"an option in the URL that redis-py does not know: {error}") from error
    except (ValueError, RedisError):
        # What Python and redis-py say of it may quote the password.
        for name, value in parameters:
            try:
                _made(kind, f"{url.partition(':')[0]}:///?{urlencode({name: value})}")
            except (ValueError, RedisError):
                raise refusal_of(name, "has a value that redis-py does not take") from None
        raise ConfigurationError(
            "the URL cannot be read: give redis://[user:password@]host[:port][/number][?option=value], the same with "
            "rediss:// for TLS, or unix:///path; in a user and password write reserved characters as %XX"
        ) from None
    for name in ("socket_timeout", "socket_connect_timeout"):
        seconds_of(name, pool.connection_kwargs[name])
    return pool


def _made(kind: Any, url: str, **options: Any) -> Any:
    pool = kind.from_url(url, **options)
    # Made, but not connected: what else the URL asks for is only looked at here.
    pool.connection_class(**pool.connection_kwargs)
    return pool


def _explained(error: Exception) -> str:
    """Say what kind of error it is, what mends it and what was said, without hosts, and without values."""
    kind, said = type(error).__name__, str(error)
    mend = next((MENDS[code] for code, marks in _MARKS.items() if re.search(marks, f"{kind} {said}")), "")
    hidden = r"\S+:\d+\S*|, with args.*" if mend and isinstance(error, ResponseError) else r"\S+:\d+\S*|['\"`].*"
    said = re.sub(hidden, "…", said, flags=re.DOTALL)
    return kind + (f": {mend}" if mend else "") + (f" (it said: {said})" if said else "")


def _fields(answer: list[bytes]) -> Fields:
    try:
        return {name.decode(): value for name, value in zip(answer[::2], answer[1::2], strict=True) if name}
    except UnicodeDecodeError as error:
        raise RecordError("the record has a field whose name is not UTF-8: another program wrote it") from error


def _kept(key: str, answer: list[bytes], left_for: int, now: list[bytes]) -> Kept:
    """Return a record as the script describes it: its hash, its time to live in milliseconds, the server's time."""
    times = _TIMES.fullmatch(dict(zip(answer[::2], answer[1::2], strict=True)).get(b"", b""))
    if not times:
        raise RecordError(_FOREIGN_HASH)
    moment = int(now[0]) + int(now[1]) / 1e6
    remaining = int(times[2]) / 1000 - moment if times[2] else None
    return Kept(key, _fields(answer), Lifetime(int(times[1]) / 1000, remaining), left_for / 1000)


def _writes(changed: Mapping[str, bytes], removed: Collection[str], lifetime: Lifetime | None) -> list[bytes]:
    # Within what Redis takes for an expiry: a script that failed there would have written the fields before.
    times = [
        b"" if seconds is None else b"%d" % math.ceil(min(max(seconds, 0.0), 1e12) * 1000)
        for seconds in lifetime or (None, None)
    ]
    pairs = [part for name, value in changed.items() for part in (name.encode(), value)]
    return [*times, b"%d" % len(pairs), *pairs, *[name.encode() for name in removed]]

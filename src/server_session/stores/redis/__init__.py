"""Sessions in Redis or Valkey: a hash a session, one key and one command a call."""

import hashlib
import importlib.resources
import math
import re
from collections.abc import Collection, Mapping
from datetime import timedelta
from typing import Any, Final, Literal

import redis
import redis.asyncio
from redis.exceptions import NoScriptError, ReadOnlyError, RedisClusterException, RedisError, ResponseError

from server_session._colour import is_driven
from server_session._settings import flag_of, require, seconds_if_given, seconds_of
from server_session.exceptions import ColourError, ConfigurationError, RecordError, StoreDownError, StoreError
from server_session.stores._base import Batch, Colour, Expect, Fields, Kept, Lifetime, Outcome, Refusal, SessionStore
from server_session.stores._waits import begin_call
from server_session.stores.redis._errors import NEEDS, RIGHTS, explain
from server_session.stores.redis._ways import NODES, ON_ANOTHER_LOOP, Client, ways_of

__all__ = ["Client", "RedisSessionStore"]

_SCRIPT: Final = importlib.resources.files("server_session.stores.redis").joinpath("redis.lua").read_bytes()
# The name that Redis gives a script; nothing is kept secret by it.
_SCRIPT_NAME: Final = hashlib.sha1(_SCRIPT, usedforsecurity=False).hexdigest().encode()

# What the script answers to writes, and to a hash that is no record.
_OUTCOMES: Final = (Outcome.MISSING, Outcome.APPLIED, Outcome.CONFLICT)
_FOREIGN: Final = 3
_FOREIGN_HASH: Final = "the key holds a hash that is no session: another program wrote it"

# What a record has under the empty name: its idle time and its deadline.
_TIMES: Final = re.compile(rb"(\d+) ?(\d*)")

_KEY: Final = re.compile(rb"[A-Za-z0-9_-]{24}")


class RedisSessionStore(SessionStore):
    """Keeps sessions in Redis (5 or newer) or in Valkey: one server, one behind Sentinel, or a Cluster.

    A session is a hash of its fields, readable with `redis-cli HGETALL`. Under the empty name it has its idle time and
    its deadline in milliseconds, and the key's own expiry is the session's. Each call is one command on one key.

    A write is sent once, redis-py's own retries notwithstanding: where its answer is lost, `StoreError` is raised and
    it was made or not made. Only what is known not to have run (the script was lost, the slot had moved) is sent again,
    and a read. A connection that ended while nobody used it is noticed beforehand and made anew, as is one that rested
    for longer than `health_check_interval`; but not by redis-py's asynchronous client of a Cluster: there a write that
    meets one is a `StoreError`.

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
        self._timeout = seconds_of("timeout", timeout)
        if flag_of("blocking", blocking) and not isinstance(client, str):
            raise ConfigurationError("blocking=True belongs to a URL: a client blocks or awaits by its class")
        self.max_age = seconds_if_given("max_age", max_age)
        is_text = isinstance(prefix, str) and prefix.isprintable()
        require(is_text, "prefix", "text of characters that can be seen", prefix)
        self._prefix = prefix.encode()
        self._is_checked = False
        self._is_cluster = isinstance(client, redis.RedisCluster | redis.asyncio.RedisCluster)
        self._blocking, self._awaiting = ways_of(client, self._timeout, blocking)
        self.colour = Colour.AWAITS if not self._blocking else Colour.EITHER if self._awaiting else Colour.BLOCKS

    async def get(self, key: str, expect: Expect, touch: bool = True) -> Fields | Refusal:
        """Return all fields of the record, and restart its idle clock; see `SessionStore.get`."""
        name, call = self._begin(key), b"get" if touch else b"look"
        try:
            answer = await self._run(name, call, expect)
        except StoreError as error:
            # A read does no harm twice, and is mostly the first to find that an idle connection has ended, or that its
            # server is the master no more. A call that found no free connection has waited long enough.
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
        nodes = sorted(await self._send(NODES, b"")) if self._is_cluster else [NODES]
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
        denied = await self._send(name, b"EVALSHA", _SCRIPT_NAME, b"1", name, b"rights", *RIGHTS.encode().split())
        if denied:
            raise StoreError(f"Redis would refuse {b', '.join(denied).decode()}: {NEEDS}")
        self._is_checked = True

    async def _send(self, name: bytes | str, *command: bytes) -> Any:
        try:
            way: Any = self._blocking if not self._awaiting or (self._blocking and is_driven()) else self._awaiting
            return await way(name, command)
        except NoScriptError:
            # Nothing ran. The server never had the script or has lost it: SCRIPT FLUSH, a restart, a fail-over.
            return await self._send(name, b"EVAL", _SCRIPT, *command[2:])
        except ResponseError as error:
            if "WRONGTYPE" in str(error):
                raise RecordError("the key holds a value of another kind: another program wrote it") from error
            # An unknown command's arguments are quoted by the server.
            cause = None if "unknown command" in str(error) else error
            raise StoreError(f"Redis refused the call: {explain(error)}") from cause
        except (RedisError, RedisClusterException, OSError) as error:
            raise StoreDownError(f"no answer from Redis: {explain(error)}") from error
        except RuntimeError as error:
            if self.colour is not Colour.AWAITS or isinstance(error, ColourError):
                raise
            raise ColourError(ON_ANOTHER_LOOP) from error


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

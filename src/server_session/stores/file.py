"""A store in a directory: one file a session, for all the processes of one machine.

    directory/
      00/ … ff/            256 shards, by the key's first byte
        lock               held (flock) by whoever changes the shard; never removed
        4f….session        a record; the name is the key in lower-case hexadecimal, so letter case never matters
        4f….session.….new  a record while it is written; one that nobody locks was left by a process that died

A file is, in big-endian numbers:

    magic and version · the moment it expires · a checksum of that moment · a checksum of all that follows ·
    the key · idle time · deadline · number of fields · for each field: two lengths, name, value

Times are in nanoseconds of the store's clock. A touch overwrites the moment in place; all else changes only by
putting a new file in the old one's place.
"""

import os
import secrets
import struct
import sys
import time
from base64 import urlsafe_b64decode
from binascii import crc32
from collections import deque
from collections.abc import Callable, Collection, Generator, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from re import compile as pattern
from typing import Final, Literal, NamedTuple

from server_session._colour import Colour
from server_session._durations import seconds_of
from server_session.exceptions import ConfigurationError, LimitError, RecordError, StoreError
from server_session.stores._base import (
    APPLIED,
    CONFLICT,
    MISSING,
    Expect,
    Fields,
    Lifetime,
    Outcome,
    SessionStore,
)

if sys.platform != "win32":
    import fcntl

__all__ = ["FileSessionStore", "FileStats"]

_KEY: Final = pattern(r"[A-Za-z0-9_-]{24}")
_SHARDS: Final = 256

_MAGIC: Final = b"session\x01"
_EXPIRES: Final = struct.Struct(">8sQI")
_SUM: Final = struct.Struct(">I")
_REST: Final = struct.Struct(">18sQQI")
_FIELD: Final = struct.Struct(">BI")
_NEVER: Final = 2**64 - 1

_NAME_BYTES: Final = 255
_VALUE_BYTES: Final = 2**20

# A touch worth less than this part of the idle time is left out: most reads then need no lock and write nothing.
_TOUCH_PART: Final = 10

# Each call looks at so many files, so while every call adds one session at most, what has expired and is not yet
# removed stays a small part of the whole.
_SWEPT: Final = 4

_FIRST_WAIT: Final = 0.0002
_LONGEST_WAIT: Final = 0.005


class FileStats(NamedTuple):
    """What a directory holds at the moment."""

    sessions: int
    """Live records."""
    bytes: int
    """The length of their files, in bytes."""


class _Place(NamedTuple):
    key: bytes
    shard: Path
    file: Path


class _Record(NamedTuple):
    expires: int
    idle: int
    deadline: int
    fields: Fields

    def touched(self, now: int) -> "_Record":
        # A touch never moves the expiry back.
        return self._replace(expires=max(self.expires, min(now + self.idle, self.deadline)))


class FileSessionStore(SessionStore):
    """Sessions in a directory, shared by all the threads and processes of one machine.

    Each session is a file of its own, replaced whole: a process that is killed at any moment leaves the old record or
    the new one. With `durable=True` that holds for a loss of power too, and a write that has returned stands. (Not so
    a touch: a loss of power may take the latest ones back.) Without, it can lose the last seconds' writes, and leave
    a new record that cannot be read.

    A record that is damaged is `RecordError`, never an absent one; it stays until it is removed, by `destroy` or by
    hand. Session files may be removed at any time, the folders and lock files only while nothing uses the store.

    A touch worth less than a tenth of the idle time is left out. Each call removes what has expired among a few files,
    and what killed processes left unfinished; there is no thread for it.

    For Linux, macOS and the BSDs, on a local file system. Windows lacks the locks, network file systems do not keep
    them dependably.

    Args:
        directory: Where the files are. It is made if absent, for its owner alone.
        max_age: Idle seconds, or a timedelta, for sessions of this store; `None` for no opinion.
        durable: Wait for the disk at each write (fsync), so that it survives a loss of power.
        timeout: Seconds to wait for other threads and processes that change the same session.
        clock: The seconds now. All processes that share the directory need the same, and one that a restart of the
            machine does not set back.

    Raises:
        ConfigurationError: A setting that cannot work, a directory that cannot be used, or a system without the locks.
    """

    colour = Colour.BLOCKS

    def __init__(
        self,
        directory: str | os.PathLike[str],
        *,
        max_age: float | timedelta | None = None,
        durable: bool = False,
        timeout: float = 2.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        if sys.platform == "win32":
            raise ConfigurationError(
                "FileSessionStore needs the file locks of Linux, macOS or a BSD (flock), which Windows lacks: "
                "use SQLSessionStore with an SQLite file instead"
            )
        self.max_age = None if max_age is None else seconds_of("max_age", max_age)
        self._timeout = seconds_of("timeout", timeout)
        self._durable = durable
        self._clock = clock
        self._directory = Path(os.path.abspath(directory))  # noqa: PTH100  (`resolve` would follow a link that may be re-pointed)
        self._shards = tuple(self._directory / f"{number:02x}" for number in range(_SHARDS))
        # Where the sweep goes on. Two threads in it at once look at different files, or at one twice: both are well.
        self._unseen: deque[str] = deque()
        # A process that lives for few calls must not begin where the one before it began.
        self._swept_shard = secrets.randbelow(_SHARDS)
        try:
            self._directory.mkdir(0o700, parents=True, exist_ok=True)
            for shard in self._shards:
                shard.mkdir(0o700, exist_ok=True)
            if durable:
                _sync(self._directory)
                _sync(self._directory.parent)
        except OSError as error:
            raise ConfigurationError(f"the session directory {directory!s} cannot be used: {error}") from error

    async def get(
        self, key: str, expect: Expect, touch: bool = True
    ) -> Fields | Literal[Outcome.MISSING, Outcome.CONFLICT]:
        """Return all fields of the record, and restart its idle clock; see `SessionStore.get`."""
        with self._call(key) as place:
            now = self._now()
            try:
                # A file comes into its place whole, so to look at it needs no lock …
                found = self._find(place, expect, now)
            except RecordError:
                # … but for the moment that a touch overwrites: under the lock it is whole, or the file is damaged.
                with self._locked(place.shard):
                    found = self._find(place, expect, now)
            if not isinstance(found, _Record):
                return found
            gain = found.touched(now).expires - found.expires
            if not touch or gain == 0 or gain * _TOUCH_PART < found.idle:
                return found.fields
            with self._locked(place.shard):
                now = self._now()
                found = self._find(place, expect, now)
                if not isinstance(found, _Record):
                    return found
                _touch(place, found.touched(now))
                return found.fields

    async def set(self, key: str, fields: Fields, lifetime: Lifetime, expect: Expect | None = None) -> Outcome:
        """Write the whole record anew; see `SessionStore.set`."""
        with self._call(key) as place, self._locked(place.shard):
            now = self._now()
            found = self._find(place, expect or {}, now)
            if expect is None:
                if found is not MISSING:
                    return CONFLICT
            elif not isinstance(found, _Record):
                return found
            self._write(place, _record(now, lifetime, fields))
            return APPLIED

    async def merge(
        self,
        key: str,
        changed: Mapping[str, bytes],
        removed: Collection[str],
        expect: Expect,
        lifetime: Lifetime | None = None,
    ) -> Outcome:
        """Write and remove some fields, and touch the record; see `SessionStore.merge`."""
        with self._call(key) as place, self._locked(place.shard):
            now = self._now()
            found = self._find(place, expect, now)
            if not isinstance(found, _Record):
                return found
            fields = {name: value for name, value in found.fields.items() if name not in removed} | dict(changed)
            if lifetime is not None:
                self._write(place, _record(now, lifetime, fields))
            elif fields != found.fields:
                self._write(place, found.touched(now)._replace(fields=fields))
            else:
                _touch(place, found.touched(now))
            return APPLIED

    async def destroy(self, key: str) -> bool:
        """Drop the record, a damaged one too; return whether there was one."""
        with self._call(key) as place, self._locked(place.shard):
            try:
                present = self._find(place, {}, self._now()) is not MISSING
            except RecordError:
                present = True
            place.file.unlink(missing_ok=True)
            if self._durable:
                _sync(place.shard)
            return present

    def stats(self) -> FileStats:
        """Count what the directory holds. It looks at every file, so its time grows with the number of sessions.

        Raises:
            StoreError: A folder or a file cannot be read.
        """
        now = self._now()
        sessions = size = 0
        with self._failing_clear():
            for shard in self._shards:
                for file in shard.glob("*.session"):
                    with suppress(FileNotFoundError):
                        expires = _expiry(file)
                        if expires is None or expires > now:
                            sessions += 1
                            size += file.stat().st_size
        return FileStats(sessions, size)

    def _now(self) -> int:
        return _nanoseconds(self._clock())

    @contextmanager
    def _call(self, key: str) -> Generator[_Place]:
        place = self._place(key)
        # What fails here fails no call: the files are other sessions'. And it comes first, while no lock is held.
        with suppress(OSError):
            self._sweep()
        with self._failing_clear():
            yield place

    @contextmanager
    def _failing_clear(self) -> Generator[None]:
        try:
            yield
        except OSError as error:
            raise StoreError(f"the session directory {self._directory}: {error}") from error

    def _place(self, key: str) -> _Place:
        # Only a key that is one reaches the file system; so none leads out of the directory.
        if not _KEY.fullmatch(key):
            raise StoreError(f"a session key is 24 characters of base64url, not {key!r:.60}")
        raw = urlsafe_b64decode(key)
        shard = self._shards[raw[0]]
        return _Place(raw, shard, shard / f"{raw.hex()}.session")

    def _find(self, place: _Place, expect: Expect, now: int) -> _Record | Literal[Outcome.MISSING, Outcome.CONFLICT]:
        try:
            record = _unpack(_read(place.file), place)
        except FileNotFoundError:
            # A folder that has gone (a disk not mounted, a careless hand) is a failure and no absent record.
            place.shard.stat()
            return MISSING
        if record.expires <= now:
            return MISSING
        if any(record.fields.get(name) != value for name, value in expect.items()):
            return CONFLICT
        return record

    def _write(self, place: _Place, record: _Record) -> None:
        """Put a new file in the place of the old one; under the shard's lock."""
        new = place.file.with_name(f"{place.file.name}.{secrets.token_hex(4)}.new")
        content = _pack(record, place)
        try:
            file = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
            try:
                while content:
                    content = content[os.write(file, content) :]
                if self._durable:
                    # First the content, then the name: else a loss of power could leave the name without content.
                    _flush(file)
            finally:
                os.close(file)
            new.replace(place.file)
        except OSError:
            with suppress(OSError):
                new.unlink()
            raise
        if self._durable:
            _sync(place.shard)

    @contextmanager
    def _locked(self, shard: Path) -> Generator[None]:
        """Hold the shard, against other threads and other processes alike."""
        give_up = time.monotonic() + self._timeout
        wait = _FIRST_WAIT
        file = _open_lock(shard)
        try:
            # The system has no flock with a limit of time, so it is asked again and again.
            while not _try_lock(file):
                left = give_up - time.monotonic()
                if left <= 0:
                    raise StoreError(
                        f"{shard / 'lock'} was held by others for {self._timeout:g} seconds: nothing was written"
                    )
                time.sleep(min(wait, left))
                wait = min(wait * 2, _LONGEST_WAIT)
            try:
                yield
            finally:
                # Unlocked in so many words: a child forked meanwhile has the file open too, and closes it at its end.
                fcntl.flock(file, fcntl.LOCK_UN)
        finally:
            os.close(file)

    def _sweep(self) -> None:
        """Remove what has expired and what was left unfinished, among the next few files."""
        now = self._now()
        for _ in range(_SWEPT):
            try:
                file = self._unseen.popleft()
            except IndexError:
                self._swept_shard = (self._swept_shard + 1) % _SHARDS
                self._unseen.extend(_files(self._shards[self._swept_shard]))
                continue
            with suppress(FileNotFoundError):
                if _is_waste(file, now):
                    self._remove_waste(Path(file))

    def _remove_waste(self, file: Path) -> None:
        lock = _open_lock(file.parent)
        try:
            # Where another changes the shard the file waits for the next round; no call waits for the sweep.
            if not _try_lock(lock):
                return
            try:
                # Who writes holds the lock: what is unfinished now was left by a process that died.
                if _is_waste(file, self._now()):
                    file.unlink()
            finally:
                fcntl.flock(lock, fcntl.LOCK_UN)
        finally:
            os.close(lock)


def _nanoseconds(seconds: float) -> int:
    # Within what the format holds: 0 to 272 years.
    return round(min(max(seconds, 0.0), 2.0**33) * 1e9)


def _record(now: int, lifetime: Lifetime, fields: Fields) -> _Record:
    idle = _nanoseconds(lifetime.idle)
    deadline = _NEVER if lifetime.remaining is None else now + _nanoseconds(lifetime.remaining)
    return _Record(min(now + idle, deadline), idle, deadline, fields)


def _pack_expiry(expires: int) -> bytes:
    moment = _EXPIRES.pack(_MAGIC, expires, 0)
    return moment[: -_SUM.size] + _SUM.pack(crc32(moment))


def _unpack_expiry(content: bytes) -> int | None:
    """Return the moment a file's content expires, `None` if it is damaged."""
    if len(content) < _EXPIRES.size:
        return None
    expires: int
    _, expires, _ = _EXPIRES.unpack_from(content)
    return expires if content[: _EXPIRES.size] == _pack_expiry(expires) else None


def _pack(record: _Record, place: _Place) -> memoryview:
    parts = [_REST.pack(place.key, record.idle, record.deadline, len(record.fields))]
    for name, value in record.fields.items():
        encoded = name.encode()
        if len(encoded) > _NAME_BYTES:
            raise LimitError(f"the field name {name!r:.60} is longer than {_NAME_BYTES} bytes: nothing was written")
        if len(value) > _VALUE_BYTES:
            raise LimitError(f"the field {name!r} is longer than {_VALUE_BYTES} bytes: nothing was written")
        parts += _FIELD.pack(len(encoded), len(value)), encoded, value
    rest = b"".join(parts)
    return memoryview(b"".join((_pack_expiry(record.expires), _SUM.pack(crc32(rest)), rest)))


def _unpack(content: bytes, place: _Place) -> _Record:
    expires = _unpack_expiry(content)
    if expires is None:
        raise RecordError(f"{place.file} is damaged, or not a session file of this version: its beginning is wrong")
    rest = content[_EXPIRES.size + _SUM.size :]
    if len(rest) < _REST.size or content[_EXPIRES.size :][: _SUM.size] != _SUM.pack(crc32(rest)):
        raise RecordError(f"{place.file} is damaged: its checksum is wrong")
    key, idle, deadline, count = _REST.unpack_from(rest)
    if key != place.key:
        raise RecordError(f"{place.file} is the file of another session")
    try:
        return _Record(expires, idle, deadline, dict(_unpack_fields(rest, count)))
    except ValueError as error:
        raise RecordError(f"{place.file} holds what this store does not write: {error}") from error


def _unpack_fields(rest: bytes, count: int) -> Iterator[tuple[str, bytes]]:
    at = _REST.size
    for _ in range(count):
        if len(rest) < at + _FIELD.size:
            raise ValueError(f"fewer than {count} fields")
        name_length, value_length = _FIELD.unpack_from(rest, at)
        value_at = at + _FIELD.size + name_length
        name = rest[at + _FIELD.size : value_at].decode()
        at = value_at + value_length
        yield name, rest[value_at:at]
    if at != len(rest):
        raise ValueError(f"{len(rest)} bytes where {at} are promised")


def _read(path: str | Path, most: int | None = None) -> bytes:
    file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    try:
        left = os.fstat(file).st_size if most is None else most
        parts = []
        while left and (part := os.read(file, left)):
            parts.append(part)
            left -= len(part)
        return b"".join(parts)
    finally:
        os.close(file)


def _touch(place: _Place, record: _Record) -> None:
    """Write the moment that the record expires into its file; under the shard's lock."""
    moment = _pack_expiry(record.expires)
    file = os.open(place.file, os.O_WRONLY | os.O_NOFOLLOW)
    try:
        # So few bytes in the file's first sector are written together or not at all.
        if os.pwrite(file, moment, 0) != len(moment):
            raise StoreError(f"{place.file} could not be touched: the disk may be full")
    finally:
        os.close(file)


def _files(shard: Path) -> deque[str]:
    with os.scandir(shard) as entries:
        files = deque(entry.path for entry in entries if entry.name.endswith((".session", ".new")))
    if files:
        files.rotate(secrets.randbelow(len(files)))
    return files


def _expiry(file: str | Path) -> int | None:
    return _unpack_expiry(_read(file, _EXPIRES.size))


def _is_waste(file: str | Path, now: int) -> bool:
    """Tell whether a file is unfinished or has expired. A damaged one is not: its user must hear of it."""
    if str(file).endswith(".new"):
        return True
    expires = _expiry(file)
    return expires is not None and expires <= now


def _open_lock(shard: Path) -> int:
    return os.open(shard / "lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)


def _try_lock(file: int) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _flush(file: int) -> None:
    # On macOS fsync stops at the drive, which may keep it in a memory of its own.
    if sys.platform == "darwin":
        fcntl.fcntl(file, fcntl.F_FULLFSYNC)
    else:
        os.fsync(file)


def _sync(directory: Path) -> None:
    file = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        _flush(file)
    finally:
        os.close(file)

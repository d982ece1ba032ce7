"""A store in a directory: one file a session, for all the processes of one machine.

    directory/
      store                   made with the directory; where it has gone, the directory has, and no session is absent
      00/ … ff/               by the key's first byte, made when first needed
        4f….session           a record; the name is the key in hexadecimal, so letter case never matters
        4f….session.….new     a record while it is written; an old one was left by a process that died

A file is: magic and version · a checksum of the rest · the key · the packed record. It changes only by a new one in
its place.
"""

import os
import secrets
import sys
import time
from base64 import urlsafe_b64decode
from binascii import crc32
from collections import deque
from collections.abc import Callable, Generator
from contextlib import contextmanager, nullcontext, suppress
from datetime import timedelta
from re import compile as pattern
from typing import Final, NamedTuple
from urllib.parse import unquote

from server_session._colour import Colour
from server_session._durations import seconds_of
from server_session.exceptions import ConfigurationError, RecordError, StoreError
from server_session.stores._base import Outcome
from server_session.stores._files import Files
from server_session.stores._packed import TENTH, Change, Likely, PackedStore, Record, T

__all__ = ["FileSessionStore", "FileStats"]

_KEY: Final = pattern(r"[A-Za-z0-9_-]{24}")
_MAGIC: Final = b"session\x02"
_HEAD_BYTES: Final = len(_MAGIC) + 4
_KEY_BYTES: Final = 18

# A call that founds a session looks at so many files, and one in sixteen of the others: while a call adds one session
# at most, what has expired and is not yet removed stays a small part of the whole.
_SWEPT: Final = 4
_CALLS_A_SWEEP: Final = 16


class FileStats(NamedTuple):
    """What a directory holds at the moment."""

    sessions: int
    """Live records."""
    bytes: int
    """The length of their files, in bytes."""


class FileSessionStore(PackedStore):
    """Sessions in a directory, shared by all the threads and processes of one machine.

    Each session is a file of its own, replaced whole: a process that is killed at any moment leaves the old record or
    the new one. With `durable=True` that holds for a loss of power too, and a write that has returned stands. Without,
    a loss of power can take back the last seconds' writes, and leave a new record that cannot be read.

    A record that is damaged is `RecordError`, never an absent one; it stays until it is removed, by `destroy` or by
    hand. Session files may be removed at any time, the folders and `store` only while nothing uses the store.

    A touch worth less than a tenth of the idle time is left out. Each call that founds a session, and now and then
    another, removes what has expired among a few files, and what killed processes left; there is no thread for it.

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
    least_touch = TENTH

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
        self._clock = clock
        self._files = Files(directory, durable)
        # Where the sweep goes on. Two threads in it at once look at different files, or at one twice: both are well.
        self._unseen: deque[str] = deque()
        # A process that lives for few calls must not begin where the one before it began.
        self._calls = secrets.randbelow(_CALLS_A_SWEEP)
        try:
            self._files.make_directory()
        except OSError as error:
            raise ConfigurationError(f"the session directory {directory!s} cannot be used: {error}") from error

    @classmethod
    def from_url(cls, url: str) -> "FileSessionStore":
        """Return the store of a URL like `file:/var/lib/shop/sessions`; raises `ConfigurationError`."""
        directory = unquote(url.partition(":")[2].removeprefix("//"))
        if not directory:
            raise ConfigurationError("the URL file: needs a directory, as in file:/var/lib/shop/sessions")
        return cls(directory)

    async def swap(self, key: str, change: Change[T], likely: Likely) -> T:
        """Let `change` say what becomes of the record; see `PackedStore.swap`."""
        file = self._file(key)
        self._calls += 1
        if likely is Likely.FOUNDS or self._calls % _CALLS_A_SWEEP == 0:
            # What fails here fails no call: the files are other sessions'. And it comes first, while no lock is held.
            with suppress(OSError):
                self._sweep()
        with self._failing_clear():
            # A file comes into its place whole, so to look at it needs no lock.
            if likely is Likely.LOOKS:
                now = self._clock()
                record, decision = _decide(file, self._files.read(file), change, now)
                if decision is record or type(decision) is Outcome:
                    return decision
            while True:
                # Nor does it need one to put a file where there is none.
                with nullcontext() if likely is Likely.FOUNDS else self._files.held(file, self._timeout) as content:
                    record, decision = _decide(file, content, change, self._clock())
                    if decision is record or type(decision) is Outcome:
                        return decision
                    if not isinstance(decision, Record):
                        self._files.drop(file)
                        return decision
                    if self._files.put(file, _pack(key, decision), is_new=content is None):
                        return decision
                likely = Likely.WRITES

    async def destroy(self, key: str) -> bool:
        """Drop the record, a damaged one too; return whether there was one."""
        try:
            return await super().destroy(key)
        except RecordError:
            file = self._file(key)
            with self._failing_clear(), self._files.held(file, self._timeout) as content:
                if content is not None:
                    self._files.drop(file)
                return content is not None

    def stats(self) -> FileStats:
        """Count what the directory holds. It looks at every file, so its time grows with the number of sessions.

        Raises:
            StoreError: A folder or a file cannot be read.
        """
        sizes = []
        with self._failing_clear():
            for file in [file for folder in self._files.folders() for file in self._files.inside(folder)]:
                content = self._files.read(file)
                if file.endswith(".session") and content is not None and not self._is_over(file, content):
                    sizes.append(len(content))
        return FileStats(len(sizes), sum(sizes))

    @contextmanager
    def _failing_clear(self) -> Generator[None]:
        try:
            yield
        except OSError as error:
            raise StoreError(f"the session directory {self._files.directory}: {error}") from error

    def _file(self, key: str) -> str:
        # Only a key that is one reaches the file system; so none leads out of the directory.
        if not _KEY.fullmatch(key):
            raise StoreError(f"a session key is 24 characters of base64url, not {key!r:.60}")
        name = urlsafe_b64decode(key).hex()
        return f"{self._files.directory}/{name[:2]}/{name}.session"

    def _sweep(self) -> None:
        """Remove what has expired and what was left unfinished, among the next few files."""
        for _ in range(_SWEPT):
            if not self._unseen and (folders := self._files.folders()):
                self._unseen.extend(self._files.inside(secrets.choice(folders)))
            with suppress(IndexError, StoreError):
                file = self._unseen.popleft()
                if not file.endswith(".session"):
                    self._files.drop_unfinished(file)
                elif self._is_over(file, self._files.read(file)):
                    # Where another holds it, it waits for the next round; no call waits for the sweep.
                    with self._files.held(file, 0.0) as content:
                        if self._is_over(file, content):
                            self._files.drop(file)

    def _is_over(self, file: str, content: bytes | None) -> bool:
        return content is not None and _unpack(file, content).expires <= self._clock()


def _decide(file: str, content: bytes | None, change: Change[T], now: float) -> tuple[Record | None, T]:
    record = None if content is None else _unpack(file, content)
    if record is not None and record.expires <= now:
        record = None
    return record, change(record, now)


def _pack(key: str, record: Record) -> bytes:
    rest = urlsafe_b64decode(key) + record.pack()
    return _MAGIC + crc32(rest).to_bytes(4, "big") + rest


def _unpack(file: str, content: bytes) -> Record:
    rest = content[_HEAD_BYTES:]
    if not content.startswith(_MAGIC):
        raise RecordError(f"{file} is damaged, or not a session file of this version: its beginning is wrong")
    if content[len(_MAGIC) : _HEAD_BYTES] != crc32(rest).to_bytes(4, "big"):
        raise RecordError(f"{file} is damaged: its checksum is wrong")
    if not file.endswith(f"/{rest[:_KEY_BYTES].hex()}.session"):
        raise RecordError(f"{file} is the file of another session")
    try:
        return Record.unpack(rest[_KEY_BYTES:])
    except RecordError as error:
        raise RecordError(f"{file} holds what this store does not write: {error}") from error

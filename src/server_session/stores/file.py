"""A store in a directory: one file a session, for all the processes of one machine.

directory/
  store                   made with the directory; where it has gone, the directory has, and no session is absent
  00/ … ff/               by the key's first byte, made when first needed
    4f….session           a packed record; the name is the key in hexadecimal, so letter case never matters
    4f….session.….new     a file while it is first written; an old one was left by a process that died
"""

import os
import random
import sys
import time
from binascii import a2b_base64
from collections.abc import Callable
from contextlib import nullcontext, suppress
from datetime import timedelta
from itertools import islice
from re import compile as pattern
from typing import Any, Final
from urllib.parse import unquote

from server_session._base64url import base64url
from server_session._colour import Colour
from server_session._settings import flag_of, require, seconds_if_given, seconds_of
from server_session.exceptions import ConfigurationError, RecordError, StoreError, shown
from server_session.stores._base import Batch, Kept
from server_session.stores._files import Files, Found, look, told
from server_session.stores._packed import TENTH, Change, Likely, PackedStore, Record, T, is_write
from server_session.stores._parameters import refuse_parameters
from server_session.stores._waits import begin_call, left

__all__ = ["FileSessionStore"]

_KEY: Final = pattern(r"[A-Za-z0-9_-]{24}")
_FROM_URL: Final = str.maketrans("-_", "+/")

# A call that founds a session looks at so many files, and one in sixteen of the others: while a call adds one session
# at most, what has expired and is not yet removed stays a small part of the whole.
_SWEPT: Final = 4
_CALLS_A_SWEEP: Final = 16


class FileSessionStore(PackedStore):
    """Sessions in a directory, shared by all the threads and processes of one machine.

    Each session is a file of its own: a process that is killed at any moment leaves the old record or the new one. A
    loss of power can take back the last seconds' writes, and leave a record that cannot be read, but not with
    `durable=True`. A damaged record is `RecordError`, never an absent one, until it is removed by `destroy` or by hand.

    A touch worth less than a tenth of the idle time is left out. Calls that found a session, and now and then another,
    remove what has expired among a few files, and what killed processes left.

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
        self.max_age = seconds_if_given("max_age", max_age)
        self._timeout = seconds_of("timeout", timeout)
        self._clock = clock
        # Where the sweep goes on. Two threads in it at once look at different files, or at one twice: both are well.
        self._folders: list[str] = []
        self._unseen: list[str] = []
        self._calls = random.randrange(_CALLS_A_SWEEP)  # noqa: S311 - no secret
        require(directory != "", "directory", "the path of a directory", directory)
        try:
            self._files = Files(directory, flag_of("durable", durable))
            self._files.make_directory()
        except (OSError, TypeError, ValueError) as error:
            raise ConfigurationError(f"the session directory {shown(directory)} cannot be used: {error}") from error

    @classmethod
    def from_url(cls, url: str, **settings: Any) -> "FileSessionStore":
        """Return the store of a URL like `file:/var/lib/shop/sessions`; raises `ConfigurationError`."""
        return cls(cls.directory_of(url), **settings)

    @staticmethod
    def directory_of(url: str) -> str:
        """Return the directory that a URL names; raises `ConfigurationError`."""
        refuse_parameters(url, "a ? in a directory's name is written %3F, and settings go to FileSessionStore(…)")
        directory = unquote(url.partition(":")[2].removeprefix("//"))
        if not directory:
            raise ConfigurationError("the URL file: needs a directory, as in file:/var/lib/shop/sessions")
        return directory

    async def swap(self, key: str, change: Change[T], likely: Likely) -> T:
        """Let `change` say what becomes of the record; see `PackedStore.swap`."""
        begin_call(self._timeout)
        file = self._file(key)
        self._calls += 1
        if likely is Likely.FOUNDS or self._calls % _CALLS_A_SWEEP == 0:
            # What fails here fails no call: the files are other sessions'. And it comes first, while no lock is held.
            with suppress(OSError, IndexError):
                self._sweep()
        try:
            if likely is Likely.LOOKS:
                now = self._clock()
                record, decision = _decide(file, self._files.read(file, left()), change, now)
                if not is_write(decision, record):
                    return decision
            while True:
                # A file that is put where there is none needs no lock.
                with nullcontext() if likely is Likely.FOUNDS else self._files.held(file, left()) as held:
                    found = None if held is None else look(held, file)
                    record, decision = _decide(file, found, change, self._clock())
                    if not is_write(decision, record):
                        return decision
                    if not isinstance(decision, Record):
                        self._files.drop(file)
                        return decision
                    if held is None or found is None:
                        if self._files.add(file, decision.pack()):
                            return decision
                    else:
                        self._files.change(held, file, found, decision.pack())
                        return decision
                likely = Likely.WRITES
        except OSError as error:
            raise self._failure(error) from error

    async def destroy(self, key: str) -> bool:
        """Drop the record, a damaged one too; return whether there was one."""
        try:
            return await super().destroy(key)
        except RecordError:
            file = self._file(key)
            try:
                with self._files.held(file, left()) as held:
                    if held is not None:
                        self._files.drop(file)
                    return held is not None
            except OSError as error:
                raise self._failure(error) from error

    async def delete_expired(self, limit: int = 1000) -> int:
        """Remove what has expired, at most so many, and return how many there were; it may look at every file."""
        try:
            # In any order: a further call must not look first at what this one has left.
            files = (file for folder in _shuffled(self._files.folders()) for file in self._files.inside(folder))
            return sum(1 for _ in islice(filter(self._drop_if_over, files), limit))
        except OSError as error:
            raise self._failure(error) from error

    async def list_records(self, after: str = "", most: int = 500) -> Batch:
        """Return some of the records that live, by the names of their files; see `Listing.list_records`."""
        begin_call(self._timeout)
        found: list[Kept] = []
        unreadable: list[str] = []
        try:
            begin = f"{self._files.directory}/{after[: len('00')]}"
            for folder in sorted(folder for folder in self._files.folders() if folder >= begin):
                for file in sorted(self._files.inside(folder)):
                    name, _, ending = os.path.basename(file).partition(".")  # noqa: PTH119 - paths are text here
                    if ending != "session" or name <= after:
                        continue
                    if len(found) + len(unreadable) >= most:
                        return Batch(found, unreadable, after)
                    after = name
                    key = base64url(bytes.fromhex(name)).decode("ascii")
                    try:
                        kept = await self.read_record(key)
                    except RecordError:
                        unreadable.append(key)
                    else:
                        if isinstance(kept, Kept):
                            found.append(kept)
        except OSError as error:
            raise self._failure(error) from error
        return Batch(found, unreadable, None)

    def _failure(self, error: OSError) -> StoreError:
        return StoreError(f"the file store, {told(error.filename or self._files.directory)}: {error.strerror or error}")

    def _file(self, key: str) -> str:
        # Only a key that is one reaches the file system; so none leads out of the directory.
        if not _KEY.fullmatch(key):
            raise StoreError(f"a session key is 24 characters of base64url, not {key!r:.60}")
        name = a2b_base64(key.translate(_FROM_URL)).hex()
        return f"{self._files.directory}/{name[:2]}/{name}.session"

    def _sweep(self) -> None:
        """Remove what has expired and what was left unfinished, among the next few files."""
        if not self._unseen:
            # In any order: a process that lives for few calls must not begin where the one before it began.
            self._folders = self._folders or _shuffled(self._files.folders())
            self._unseen.extend(_shuffled(self._files.inside(self._folders.pop())) if self._folders else ())
        for _ in range(min(_SWEPT, len(self._unseen))):
            self._drop_if_over(self._unseen.pop())

    def _drop_if_over(self, file: str) -> bool:
        """Remove a file that has expired, or was left unfinished; return whether a session went."""
        with suppress(StoreError):
            if not file.endswith(".session"):
                self._files.drop_unfinished(file)
            elif self._is_over(file, self._files.read(file, 0.0)):
                # Where another holds it, it waits for the next round; no call waits for the sweep.
                with self._files.held(file, 0.0) as held:
                    if held is not None and self._is_over(file, look(held, file)):
                        self._files.drop(file)
                        return True
        return False

    def _is_over(self, file: str, found: Found | None) -> bool:
        return found is not None and _unpack(file, found).expires <= self._clock()


def _shuffled(paths: list[str]) -> list[str]:
    return random.sample(paths, len(paths))


def _decide(file: str, found: Found | None, change: Change[T], now: float) -> tuple[Record | None, T]:
    record = None if found is None else _unpack(file, found)
    if record is not None and record.expires <= now:
        record = None
    return record, change(record, now)


def _unpack(file: str, found: Found) -> Record:
    try:
        return Record.unpack(found.content)
    except RecordError as error:
        raise RecordError(f"{told(file)} holds what this store does not write: {error}") from error

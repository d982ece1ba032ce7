"""Files in the folders of a directory, each with one content, which one thread of one process at a time changes.

A file is a head and, somewhere after it, the content. The head is: magic and version · the file's name · where the
content begins, how long it is, and its checksum · a checksum of all this. A new content is written where the present
one is not, and then the head over the present head: who is killed in between leaves the present one. A disk may take
the head first; where a loss of power must do no harm, the file is replaced whole.
"""

# ruff: noqa: PTH100, PTH102, PTH103, PTH105, PTH108, PTH116, PTH120 - paths as text: objects cost as much as the calls
import itertools
import os
import sys
import time
from binascii import crc32
from collections.abc import Generator
from contextlib import contextmanager, suppress
from re import compile as pattern
from struct import Struct
from typing import Final, NamedTuple

from server_session.exceptions import RecordError, StoreError

if sys.platform != "win32":
    import fcntl

__all__ = ["Files", "Found", "look", "told"]

_FOLDER_NAME: Final = len("00")
_UNFINISHED: Final = ".new"
# Whoever takes longer to write a file finds it gone, and fails.
_UNFINISHED_SECONDS: Final = 60.0

_MAGIC: Final = b"session\x03"
_NAME_BYTES: Final = 18
_NAME_END: Final = len(".session")
_OURS: Final = pattern(rf"[0-9a-f]{{{2 * _NAME_BYTES}}}\.session(\..+\{_UNFINISHED})?")
_HEAD: Final = Struct(f"!8s{_NAME_BYTES}sIII")
_HEAD_BYTES: Final = _HEAD.size + 4
_TOLD: Final = 7
# Most files are read in one call.
_MOST_AT_ONCE: Final = 16_384

_STEP_BACK: Final = 0.0002
_LONGEST_STEP_BACK: Final = 0.005


class Found(NamedTuple):
    """What a file holds."""

    content: bytes
    begin: int
    size: int
    """The length of the whole file."""


class Files:
    """Files by their paths in the folders of a directory. What the system refuses is `OSError`.

    Args:
        directory: Where they are.
        durable: Whether what has returned survives a loss of power.
    """

    def __init__(self, directory: str | os.PathLike[str], durable: bool) -> None:
        # Not resolved, for a link may be pointed elsewhere later; but not relative to where the process moves.
        self.directory = os.path.abspath(os.fspath(directory))
        self._durable = durable
        # A directory without it has gone: a disk is not mounted, or a careless hand emptied it.
        self._sign = f"{self.directory}/store"

    def make_directory(self) -> None:
        """Make the directory if it is absent, for its owner alone."""
        os.makedirs(self.directory, 0o700, exist_ok=True)
        os.close(os.open(self._sign, os.O_WRONLY | os.O_CREAT, 0o600))
        self._sync(self.directory)
        self._sync(os.path.dirname(self.directory))

    def folders(self) -> list[str]:
        """Return the paths of the directory's folders."""
        with os.scandir(self.directory) as entries:
            return [entry.path for entry in entries if len(entry.name) == _FOLDER_NAME]

    def inside(self, folder: str) -> list[str]:
        """Return the paths of a folder's files, unfinished ones too, and of no copies made by hand."""
        with os.scandir(folder) as entries:
            return [entry.path for entry in entries if _OURS.fullmatch(entry.name)]

    def read(self, file: str, seconds: float) -> Found | None:
        """Return what a file holds, `None` if there is none; where it is just being written, wait so long for that."""
        opened = self._open(file, os.O_RDONLY)
        if opened is None:
            return None
        with suppress(RecordError):
            try:
                return look(opened, file)
            finally:
                os.close(opened)
        with self.held(file, seconds) as held:
            return None if held is None else look(held, file)

    @contextmanager
    def held(self, file: str, seconds: float) -> Generator[int | None]:
        """Hold a file open, against other threads and processes alike; `None` if there is none.

        Raises:
            StoreError: Others held it for so many seconds.
        """
        give_up = time.monotonic() + seconds
        for tries in itertools.count():
            opened = self._open(file, os.O_RDWR)
            if opened is None:
                yield None
                return
            try:
                # Whoever held it until now may have put another in its place, or none.
                if _lock(opened) and _is_at(opened, file):
                    yield opened
                    return
            finally:
                # To close it does not unlock it where a child was forked meanwhile, which has it open too.
                fcntl.flock(opened, fcntl.LOCK_UN)
                os.close(opened)
            # The system has no flock with a limit of time, so it is asked again and again.
            left = give_up - time.monotonic()
            if left <= 0:
                raise StoreError(f"{told(file)} was held by others for {seconds:.2g} seconds: nothing was written")
            time.sleep(min(tries * _STEP_BACK, _LONGEST_STEP_BACK, left))

    def change(self, held: int, file: str, found: Found, content: bytes) -> None:
        """Put this content in the place of what was found in a file that is held."""
        # A file in which less than a quarter lives is made anew, unless it is small.
        if self._durable or found.size > 4 * len(content) + 8192:
            with self._written(file, content) as unfinished:
                os.replace(unfinished, file)
            return
        fits_before = _HEAD_BYTES + len(content) <= found.begin
        begin = _HEAD_BYTES if fits_before else found.begin + len(found.content)
        done = 0
        while done < len(content):
            done += os.pwrite(held, content[done:], begin + done)
        os.pwrite(held, _head(file, content, begin), 0)

    def add(self, file: str, content: bytes) -> bool:
        """Make a file of this content; return `False` if there is one, however many try at once."""
        os.stat(self._sign)
        try:
            with self._written(file, content) as unfinished:
                try:
                    os.link(unfinished, file)
                finally:
                    os.unlink(unfinished)
        except FileExistsError:
            return False
        return True

    def drop(self, file: str) -> None:
        """Remove a file that is held."""
        os.unlink(file)
        self._sync(os.path.dirname(file))

    def drop_unfinished(self, file: str) -> None:
        """Remove a file that was begun and not finished, if it is old enough to be a dead process's."""
        with suppress(FileNotFoundError):
            if os.stat(file).st_mtime < time.time() - _UNFINISHED_SECONDS:
                os.unlink(file)

    def _open(self, file: str, how: int) -> int | None:
        try:
            return os.open(file, how | os.O_NOFOLLOW)
        except FileNotFoundError:
            os.stat(self._sign)
            return None

    @contextmanager
    def _written(self, file: str, content: bytes) -> Generator[str]:
        """Give the path of a file with this content, to be put in its place; what fails leaves none."""
        folder = os.path.dirname(file)
        unfinished = f"{file}.{os.urandom(4).hex()}{_UNFINISHED}"
        how = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
        try:
            opened = os.open(unfinished, how, 0o600)
        except FileNotFoundError:
            with suppress(FileExistsError):
                os.mkdir(folder, 0o700)
                self._sync(self.directory)
            opened = os.open(unfinished, how, 0o600)
        try:
            try:
                left = _head(file, content, _HEAD_BYTES) + content
                while left:
                    left = left[os.write(opened, left) :]
                if self._durable:
                    # First the content, then the name: else a loss of power could leave the name without content.
                    _flush(opened)
            finally:
                os.close(opened)
            yield unfinished
        except OSError:
            with suppress(OSError):
                os.unlink(unfinished)
            raise
        self._sync(folder)

    def _sync(self, directory: str) -> None:
        if self._durable:
            opened = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
            try:
                _flush(opened)
            finally:
                os.close(opened)


def look(opened: int, file: str) -> Found:
    """Return what an open file holds. Raises `RecordError` where that is damaged, or just being written."""
    whole = os.read(opened, _MOST_AT_ONCE)
    while len(whole) >= _MOST_AT_ONCE and (more := os.read(opened, len(whole))):
        whole += more
    head = whole[: _HEAD.size]
    if head.startswith(_MAGIC) and whole[_HEAD.size : _HEAD_BYTES] == crc32(head).to_bytes(4, "big"):
        _, name, begin, length, checksum = _HEAD.unpack(head)
        content = whole[begin : begin + length]
        if name != _name(file):
            raise RecordError(f"{told(file)} is the file of another session")
        if crc32(content) == checksum:
            return Found(content, begin, len(whole))
    raise RecordError(f"{told(file)} is damaged, or not a session file of this version")


def told(path: str) -> str:
    """Return what errors say of a path: a file's whole name is a session's id, which no log is to hold."""
    folder, name = os.path.split(path)
    return f"{folder}/{name[:_TOLD]}…" if _OURS.fullmatch(name) else path


def _head(file: str, content: bytes, begin: int) -> bytes:
    head = _HEAD.pack(_MAGIC, _name(file), begin, len(content), crc32(content))
    return head + crc32(head).to_bytes(4, "big")


def _name(file: str) -> bytes:
    return bytes.fromhex(file[-_NAME_END - 2 * _NAME_BYTES : -_NAME_END])


def _lock(opened: int) -> bool:
    try:
        fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_at(opened: int, file: str) -> bool:
    # The number of its links does not tell: it has one more while it is founded, and after a founder that was killed.
    with suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(opened), os.stat(file))
    return False


def _flush(opened: int) -> None:
    # On macOS fsync stops at the drive, which may keep it in a memory of its own.
    if sys.platform == "darwin":
        fcntl.fcntl(opened, fcntl.F_FULLFSYNC)
    else:
        os.fsync(opened)

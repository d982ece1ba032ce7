"""Files in the folders of a directory: each replaced whole, by one thread of one process at a time."""

# ruff: noqa: PTH100, PTH102, PTH103, PTH105, PTH108, PTH116, PTH120 - paths as text: objects cost as much as the calls
import itertools
import os
import secrets
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from typing import Final

from server_session.exceptions import StoreError

if sys.platform != "win32":
    import fcntl

__all__ = ["Files"]

_FOLDER_NAME: Final = len("00")
_UNFINISHED: Final = ".new"
# Whoever takes longer to write a file finds it gone, and fails.
_UNFINISHED_SECONDS: Final = 60.0

_STEP_BACK: Final = 0.0002
_LONGEST_STEP_BACK: Final = 0.005


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
        """Return the paths of a folder's files, unfinished ones too, beginning anywhere."""
        with os.scandir(folder) as entries:
            paths = [entry.path for entry in entries if entry.name.endswith((".session", _UNFINISHED))]
        begin = secrets.randbelow(len(paths) + 1)
        return paths[begin:] + paths[:begin]

    def read(self, file: str) -> bytes | None:
        """Return the content of a file, `None` if there is none."""
        with self._opened(file) as opened:
            return None if opened is None else _content(opened)

    @contextmanager
    def held(self, file: str, seconds: float) -> Generator[bytes | None]:
        """Hold a file, against other threads and processes alike, and give its content; `None` if there is none.

        Raises:
            StoreError: Others held it for so many seconds.
        """
        give_up = time.monotonic() + seconds
        for tries in itertools.count():
            with self._opened(file) as opened:
                if opened is None:
                    yield None
                    return
                if _lock(opened):
                    try:
                        # Whoever held it until now may have put another in its place, or none.
                        if _is_at(opened, file):
                            yield _content(opened)
                            return
                    finally:
                        # In so many words: a child forked meanwhile has the file open too, and closes it at its end.
                        fcntl.flock(opened, fcntl.LOCK_UN)
            # The system has no flock with a limit of time, so it is asked again and again.
            left = give_up - time.monotonic()
            if left <= 0:
                raise StoreError(f"{file} was held by others for {seconds:g} seconds: nothing was written")
            time.sleep(min(tries * _STEP_BACK, _LONGEST_STEP_BACK, left))

    def put(self, file: str, content: bytes, is_new: bool) -> bool:
        """Put this content into a file that is held, or that is new: then return `False` if there is one."""
        unfinished = f"{file}.{secrets.token_hex(4)}{_UNFINISHED}"
        try:
            if is_new:
                self._make_folder(os.path.dirname(file))
            self._write(unfinished, content)
            if is_new:
                # Once, however many try at once.
                os.link(unfinished, file)
                os.unlink(unfinished)
            else:
                os.replace(unfinished, file)
        except OSError as error:
            with suppress(OSError):
                os.unlink(unfinished)
            if is_new and isinstance(error, FileExistsError):
                return False
            raise
        self._sync(os.path.dirname(file))
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

    @contextmanager
    def _opened(self, file: str) -> Generator[int | None]:
        try:
            opened = os.open(file, os.O_RDONLY | os.O_NOFOLLOW)
        except FileNotFoundError:
            os.stat(self._sign)
            yield None
            return
        try:
            yield opened
        finally:
            os.close(opened)

    def _make_folder(self, folder: str) -> None:
        os.stat(self._sign)
        with suppress(FileExistsError):
            os.mkdir(folder, 0o700)
            self._sync(self.directory)

    def _write(self, file: str, content: bytes) -> None:
        opened = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        try:
            while content:
                content = content[os.write(opened, content) :]
            if self._durable:
                # First the content, then the name: else a loss of power could leave the name without content.
                _flush(opened)
        finally:
            os.close(opened)

    def _sync(self, directory: str) -> None:
        if self._durable:
            opened = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
            try:
                _flush(opened)
            finally:
                os.close(opened)


def _content(opened: int) -> bytes:
    return os.read(opened, os.fstat(opened).st_size)


def _is_at(opened: int, file: str) -> bool:
    try:
        return os.path.samestat(os.fstat(opened), os.stat(file))
    except FileNotFoundError:
        return False


def _lock(opened: int) -> bool:
    try:
        fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _flush(opened: int) -> None:
    # On macOS fsync stops at the drive, which may keep it in a memory of its own.
    if sys.platform == "darwin":
        fcntl.fcntl(opened, fcntl.F_FULLFSYNC)
    else:
        os.fsync(opened)

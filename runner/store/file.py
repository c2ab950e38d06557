"""A directory as an object store: `file:///path`. For one machine, or several that mount one POSIX file system.

A body is written and synced under `.incoming`, then renamed into place while the
store's lock is held; conditions are compared under the same lock. Names that
begin with a dot are no keys, so what a crash leaves behind is no object.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import io
import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

from configs.errors import StoreError
from configs.files import fsync_directory
from runner.store.objects import (
    KeyMissingError,
    PreconditionFailedError,
    Stat,
    StoreDeniedError,
    StoreUnreachableError,
    check_key,
    check_prefix,
)

LOCK = ".lock"
INCOMING = ".incoming"
ABANDONED_S = 86_400
"""An unfinished body of this age is what a crash left; the next writer removes it."""
COPY_BYTES = 1 << 20
LOCK_WAIT_S = 10.0
LOCK_POLL_S = 0.002


class FileStore:
    """Objects as files below one directory."""

    def __init__(self, root: Path, url: str = "") -> None:
        """Wrap the absolute directory `root`, which is created by the first write."""
        self.url = url or f"file://{root}"
        self._root = root
        self._swept = False

    def put(self, key: str, body: bytes | Path) -> str:
        """Write or overwrite an object and return its tag."""
        return self._write(key, body, lambda found: True)

    def put_if_absent(self, key: str, body: bytes) -> str:
        """Write a new object and return its tag; see `ObjectStore`."""
        return self._write(key, body, lambda found: not found)

    def replace_if_match(self, key: str, body: bytes, tag: str) -> str:
        """Replace the version named by `tag` and return the new tag; see `ObjectStore`."""
        return self._write(key, body, lambda found: found == tag != "")

    def get(self, key: str) -> tuple[bytes, Stat]:
        """Read a whole small object."""
        with self._reading(key), self._path(key).open("rb") as file:
            status, body = os.fstat(file.fileno()), file.read()
        return body, _stat(key, status)

    def get_to(self, key: str, path: Path) -> None:
        """Copy an object into a file."""
        with contextlib.ExitStack() as stack:
            with self._reading(key):
                source = stack.enter_context(self._path(key).open("rb"))
            target = stack.enter_context(path.open("wb"))
            shutil.copyfileobj(source, target, COPY_BYTES)

    def list(self, prefix: str = "") -> Iterator[Stat]:
        """Every object whose key begins with `prefix`, by key."""
        parent, slash, start = check_prefix(prefix).rpartition("/")
        with self._reading(prefix):
            found = list(_walk(self._root / parent, parent + slash, start))
        return iter(sorted(found, key=lambda stat: stat.key))

    def delete(self, key: str) -> None:
        """Remove an object; one that is gone already is fine."""
        path = self._path(key)
        with contextlib.suppress(KeyMissingError), self._reading(key):
            path.stat()  # where nothing is, nothing is made: no directory, no lock
            with self._locked():
                path.unlink()
                self._remove_empty(path.parent)

    def _path(self, key: str) -> Path:
        return self._root / check_key(key)

    def _write(self, key: str, body: bytes | Path, accepts: Callable[[str], bool]) -> str:
        """Put a body in place if `accepts`, asked about the present version's tag ('' for none), agrees."""
        path = self._path(key)
        with body.open("rb") if isinstance(body, Path) else io.BytesIO(body) as source:
            with self._writing(key), self._complete(source) as temporary:
                with self._locked():
                    found = _tag_at(path)
                    if not accepts(found):
                        raise PreconditionFailedError(
                            f"{self.url}/{key} is there already, as version {found or '(none)'}"
                        )
                    _make_directory(path.parent)
                    temporary.replace(path)
                    written = _tag_at(path)
                with contextlib.suppress(FileNotFoundError):  # deleted at once, with its directory
                    fsync_directory(path.parent)
                return written

    @contextlib.contextmanager
    def _complete(self, source: io.BufferedIOBase) -> Iterator[Path]:
        """What `source` holds in a synced file under `.incoming`; removed unless it was renamed."""
        incoming = self._root / INCOMING
        incoming.mkdir(parents=True, exist_ok=True)
        temporary = incoming / uuid.uuid4().hex
        try:
            with temporary.open("xb") as file:
                shutil.copyfileobj(source, file, COPY_BYTES)
                file.flush()
                os.fsync(file.fileno())
            if not self._swept:
                self._swept = True
                _sweep(incoming, temporary.stat().st_mtime - ABANDONED_S)
            yield temporary
        finally:
            temporary.unlink(missing_ok=True)

    def _remove_empty(self, folder: Path) -> None:
        """Directories are no objects: the last one to leave removes them."""
        with contextlib.suppress(OSError):
            while folder != self._root:
                folder.rmdir()
                folder = folder.parent
        fsync_directory(folder)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        descriptor = os.open(self._root / LOCK, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o644)
        try:
            self._wait_for(descriptor)
            yield
        finally:
            os.close(descriptor)

    def _wait_for(self, descriptor: int) -> None:
        """The lock is held for the instant of a rename; a holder that was stopped in it must not stop us for ever."""
        give_up_s = time.monotonic() + LOCK_WAIT_S
        while True:
            try:
                return fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                if time.monotonic() >= give_up_s:
                    raise StoreUnreachableError(
                        f"{self._root / LOCK} has been held for {LOCK_WAIT_S:g} s by a process that does not move; "
                        "end it, or let it go on"
                    ) from error
                time.sleep(LOCK_POLL_S)

    @contextlib.contextmanager
    def _reading(self, key: str) -> Iterator[None]:
        with self._writing(key):
            try:
                yield
            except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
                raise KeyMissingError(f"{self.url}/{key} does not exist") from error

    @contextlib.contextmanager
    def _writing(self, key: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            where = f"{self.url}/{key}: {error.strerror or error}"
            if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
                raise StoreDeniedError(f"{where}; make the directory writable, or name another --store") from error
            if error.errno in (errno.EISDIR, errno.ENOTDIR, errno.EEXIST, errno.ENOTEMPTY):
                raise StoreError(f"{where}; the store's directory holds something else under that name") from error
            raise StoreUnreachableError(f"{where}; free space or mount the volume again") from error


def _tag_at(path: Path) -> str:
    """Tag of the version at `path`, '' where there is none; opened, since network file systems cache names."""
    try:
        with path.open("rb") as file:
            return _stat("", os.fstat(file.fileno())).tag
    except FileNotFoundError:
        return ""


def _stat(key: str, status: os.stat_result) -> Stat:
    """A version is told by its inode and time of writing: its replacement existed beside it, so the inode differs."""
    tag = f"{status.st_ino:x}-{status.st_mtime_ns:x}-{status.st_size:x}"
    return Stat(key, status.st_size, tag, status.st_mtime)


def _walk(folder: Path, prefix: str, start: str = "") -> Iterator[Stat]:
    """Objects below `folder` whose name in it begins with `start`; what vanishes meanwhile is left out."""
    try:
        entries = list(os.scandir(folder))
    except (FileNotFoundError, NotADirectoryError):
        return
    for entry in entries:
        if entry.name.startswith(".") or not entry.name.startswith(start):
            continue
        if entry.is_dir():
            yield from _walk(folder / entry.name, f"{prefix}{entry.name}/")
        elif entry.is_file():
            with contextlib.suppress(FileNotFoundError):
                yield _stat(prefix + entry.name, os.stat(folder / entry.name))


def _make_directory(path: Path) -> None:
    """Create a directory and its parents so that they outlast a power cut."""
    if not path.is_dir():
        _make_directory(path.parent)
        path.mkdir(exist_ok=True)
        fsync_directory(path.parent)


def _sweep(incoming: Path, older_than_t: float) -> None:
    for left in incoming.iterdir():
        with contextlib.suppress(FileNotFoundError):
            if left.stat().st_mtime < older_than_t:
                left.unlink()

"""A directory as an object store: `file:///path`. For one machine, or several that mount one POSIX file system.

A new object is linked into place, which fails where one exists. A replacement holds
the directory's lock while it compares and renames. What a crash leaves behind has a
hidden name and is no object.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import shutil
import uuid
from collections.abc import Iterator
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
)

LOCK = ".lock"
SMALL_BYTES = 1_000_000
"""Tags of objects up to this size are digests of their content; only such are replaced conditionally."""


class FileStore:
    """Objects as files below one directory."""

    def __init__(self, root: Path) -> None:
        """Wrap the directory `root`, which is created by the first write."""
        self.url = f"file://{root}"
        self._root = root

    def put(self, key: str, body: bytes | Path) -> str:
        """Write or overwrite an object and return its tag."""
        path = self._path(key)
        with self._errors(key), self._beside(path, body) as temporary:
            temporary.replace(path)
            fsync_directory(path.parent)
            return _tag(path)

    def put_if_absent(self, key: str, body: bytes) -> str:
        """Write a new object and return its tag; see `ObjectStore`."""
        path = self._path(key)
        with self._errors(key), self._beside(path, body) as temporary:
            try:
                os.link(temporary, path)
            except FileExistsError:
                raise PreconditionFailedError(f"{self.url}/{key} exists already") from None
            fsync_directory(path.parent)
            return _tag(path)

    def replace_if_match(self, key: str, body: bytes, tag: str) -> str:
        """Replace the version named by `tag` and return the new tag; see `ObjectStore`."""
        path = self._path(key)
        with self._errors(key), self._locked(), self._beside(path, body) as temporary:
            found = _tag(path) if path.is_file() else ""
            if found != tag:
                raise PreconditionFailedError(f"{self.url}/{key} is version {found or 'none'}, not {tag}")
            temporary.replace(path)
            fsync_directory(path.parent)
            return _tag(path)

    def get(self, key: str) -> tuple[bytes, Stat]:
        """Read a whole small object."""
        with self._errors(key), self._path(key).open("rb") as file:
            status, body = os.fstat(file.fileno()), file.read()
        return body, Stat(key, len(body), _tag_of(body), status.st_mtime)

    def get_to(self, key: str, path: Path) -> None:
        """Copy an object into a file."""
        with self._errors(key):
            shutil.copyfile(self._path(key), path)

    def list(self, prefix: str = "") -> Iterator[Stat]:
        """Every object whose key begins with `prefix`, by key."""
        folder = self._root / prefix.rpartition("/")[0]
        with self._errors(prefix):
            found = sorted(
                path.relative_to(self._root).as_posix()
                for path in (folder.rglob("*") if folder.is_dir() else ())
                if path.is_file() and not path.name.startswith(".")
            )
        for key in found:
            if key.startswith(prefix):
                path = self._root / key
                with self._errors(key), contextlib.suppress(FileNotFoundError):
                    status = path.stat()
                    yield Stat(key, status.st_size, _tag(path), status.st_mtime)

    def delete(self, key: str) -> None:
        """Remove an object; one that is gone already is fine."""
        with self._errors(key):
            self._path(key).unlink(missing_ok=True)

    def _path(self, key: str) -> Path:
        return self._root / check_key(key)

    @contextlib.contextmanager
    def _beside(self, path: Path, body: bytes | Path) -> Iterator[Path]:
        """The body in a synced hidden file beside `path`; removed unless it was renamed."""
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.parent / f".{path.name}.{uuid.uuid4().hex}"
        try:
            if isinstance(body, Path):
                shutil.copyfile(body, temporary)
            else:
                temporary.write_bytes(body)
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
            yield temporary
        finally:
            temporary.unlink(missing_ok=True)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        self._root.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self._root / LOCK, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    @contextlib.contextmanager
    def _errors(self, key: str) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError as error:
            raise KeyMissingError(f"{self.url}/{key} does not exist") from error
        except OSError as error:
            where = f"{self.url}/{key}: {error.strerror or error}"
            if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
                raise StoreDeniedError(f"{where}; make the directory writable, or name another --store") from error
            if error.errno in (errno.EISDIR, errno.ENOTDIR):
                raise StoreError(f"{where}; the store's directory holds something else") from error
            raise StoreUnreachableError(f"{where}; free space or mount the volume again") from error


def _tag(path: Path) -> str:
    status = path.stat()
    if status.st_size > SMALL_BYTES:
        return f"{status.st_ino}-{status.st_mtime_ns}-{status.st_size}"
    return _tag_of(path.read_bytes())


def _tag_of(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()[:32]

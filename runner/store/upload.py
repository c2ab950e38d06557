"""From a cut to blobs: only contents that the store does not have are sent.

A file that grows is sent as its new tail. Contents are compressed with zstd where
a sample of their beginning says that it pays. Left by level 3, at 0.1-0.3 GB/s on
one core (`python -m benchmarks.compression RUN_DIR`): events and JSON 25-31 %, report
27 %, CSV 37 %, parquet 73 %, small nets 82 %; the 20 MB checkpoint of the reference
nets 92 %, which is not worth it; level 9 saves 1-3 points more at a tenth of the speed.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from configs.errors import CannotWriteError, StoreError
from runner.store.cut import Cut, CutFile
from runner.store.layout import Blob, File, Snapshot, blob_key, split_id
from runner.store.lease import Lease

LEVEL = 3
SAMPLE_BYTES = 1 << 20
CHUNK_BYTES = 1 << 20
WORTH_FRAC = 0.9
"""Compressed when the sample shrinks to this share or less."""
MAX_BLOBS = 64
"""A file of this many blobs is sent anew as one."""
PARALLEL = 4


class UploadCancelledError(StoreError):
    """The upload was told to stop; what it sent stays useful for the next."""


@dataclass(frozen=True)
class Uploaded:
    """A cut whose contents are all in the store."""

    files: dict[str, File]
    sent_bytes: int
    """As stored, after compression."""
    sent_blobs: int


@dataclass(frozen=True)
class _Range:
    """Bytes of a file that are to become a blob."""

    path: Path
    start: int
    stop: int
    sha256: str
    is_whole: bool
    """The file is exactly these bytes and does not change."""


class Uploader:
    """Sends the contents of cuts under one lease; one upload at a time."""

    def __init__(self, lease: Lease, staging: Path) -> None:
        """Send to the lease's store; `staging` is for compressed contents on their way."""
        self._lease, self._staging = lease, staging
        self._prefix = f"{lease.run_id}/"
        self._sent: dict[str, Blob] = {}
        """Since the last commit: not named by any snapshot yet."""
        self._parent_id: str | None = None
        self._present: dict[str, int] = {}
        """Blob key -> stored size, of what was there when the lease began."""
        self._listed = False
        self._digests: dict[tuple[int, ...], str] = {}

    def upload(self, cut: Cut, parent: Snapshot | None, cancel: threading.Event | None = None) -> Uploaded:
        """Send what is missing of `cut`.

        Args:
            cut: what is to be stored.
            parent: the newest committed snapshot, as it was restored or made; only contents that it names, or that
                were sent since, count as stored.
            cancel: set to give up between two contents.

        Raises:
            UploadCancelledError: `cancel` was set.
            StoreError: the store cannot be used, or a file changed meanwhile.
            CannotWriteError: the staging directory cannot be written.
        """
        cancel = cancel or threading.Event()
        parent = parent if parent and self._is_ours(parent) else None
        known = self._known(parent)
        planned: dict[str, tuple[str, int, list[Blob | _Range]]] = {}
        digests: dict[tuple[int, ...], str] = {}
        for name, file in cut.files.items():
            _check_cancel(cancel)
            before = parent.files.get(name) if parent else None
            planned[name] = self._plan(file, before, known, digests)
        self._digests = digests
        wanted = {part.sha256: part for _, _, parts in planned.values() for part in parts if isinstance(part, _Range)}
        sent = self._send_all(list(wanted.values()), cancel)
        files = {
            name: File(
                sha256=sha256,
                size_bytes=size_bytes,
                blobs=tuple(part if isinstance(part, Blob) else sent[part.sha256] for part in parts),
            )
            for name, (sha256, size_bytes, parts) in planned.items()
        }
        return Uploaded(files, sum(blob.stored_bytes for blob in sent.values()), len(sent))

    def _is_ours(self, parent: Snapshot) -> bool:
        """Its blobs are safe from every former owner: it is the one we began from, or we made it."""
        return parent.id == self._lease.begun_from or split_id(parent.id)[1] == self._lease.epoch

    def _known(self, parent: Snapshot | None) -> dict[str, Blob]:
        if (parent.id if parent else "") != self._parent_id:
            self._parent_id = parent.id if parent else ""
            self._sent = {}
        if parent and not self._listed:
            blobs = self._lease.store.list(f"{self._prefix}blobs/")
            self._present = {stat.key.removeprefix(self._prefix): stat.size_bytes for stat in blobs}
            self._listed = True
        named = [blob for file in parent.files.values() for blob in file.blobs] if parent else []
        kept = {blob.sha256: blob for blob in named if self._is_present(blob)}
        return kept | self._sent

    def _is_present(self, blob: Blob) -> bool:
        """Of our own epoch, or seen in the store with its size: what is lost there is sent again."""
        own = blob.key.startswith(blob_key("", self._lease.epoch, False))
        return own or self._present.get(blob.key) == blob.stored_bytes

    def _plan(
        self, file: CutFile, before: File | None, known: dict[str, Blob], digests: dict[tuple[int, ...], str]
    ) -> tuple[str, int, list[Blob | _Range]]:
        """Digest, size and parts of a file."""
        if file.size_bytes == 0:
            return hashlib.sha256().hexdigest(), 0, []
        if file.sha256 in known:
            return file.sha256, file.size_bytes, [known[file.sha256]]
        if file.grows and before and before.size_bytes <= file.size_bytes and len(before.blobs) < MAX_BLOBS:
            stored = [known[blob.sha256] for blob in before.blobs if blob.sha256 in known]
            if len(stored) == len(before.blobs) and (grown := _grown(file, before, stored)):
                return grown
        sha256 = self._digest(file, digests)
        whole = _Range(file.path, 0, file.size_bytes, sha256, is_whole=not file.grows)
        return sha256, file.size_bytes, [known.get(sha256, whole)]

    def _digest(self, file: CutFile, digests: dict[tuple[int, ...], str]) -> str:
        """A linked file that was digested for the last cut is not read again."""
        status = file.path.stat()
        identity = (status.st_dev, status.st_ino, status.st_mtime_ns, file.size_bytes)
        found = self._digests.get(identity) or _digest_of(file.path, 0, file.size_bytes).hexdigest()
        digests[identity] = found
        return found

    def _send_all(self, ranges: list[_Range], cancel: threading.Event) -> dict[str, Blob]:
        with ThreadPoolExecutor(PARALLEL) as pool:
            futures = [pool.submit(self._send, part, cancel) for part in ranges]
            try:
                return {future.result().sha256: future.result() for future in futures}
            except BaseException:
                for future in futures:
                    future.cancel()
                raise

    def _send(self, part: _Range, cancel: threading.Event) -> Blob:
        _check_cancel(cancel)
        self._sent[part.sha256] = blob = self._send_one(part, cancel)
        return blob

    def _send_one(self, part: _Range, cancel: threading.Event) -> Blob:
        packed = _pays(part)
        key = blob_key(part.sha256, self._lease.epoch, packed)
        if part.is_whole and not packed:
            self._lease.store.put(self._prefix + key, part.path)
            return Blob(key=key, sha256=part.sha256, size_bytes=part.stop, stored_bytes=part.stop)
        staged = self._staging / f"blob-{part.sha256}"
        try:
            self._staging.mkdir(parents=True, exist_ok=True)
            _stage(part, staged, packed, cancel)
            stored_bytes = staged.stat().st_size
            self._lease.store.put(self._prefix + key, staged)
        except OSError as error:
            raise CannotWriteError(f"cannot write {staged}: {error.strerror or error}; free space") from error
        finally:
            staged.unlink(missing_ok=True)
        return Blob(key=key, sha256=part.sha256, size_bytes=part.stop - part.start, stored_bytes=stored_bytes)


def _grown(file: CutFile, before: File, stored: list[Blob]) -> tuple[str, int, list[Blob | _Range]] | None:
    """A file as what it was and its new tail; None where its beginning is another."""
    running = _digest_of(file.path, 0, before.size_bytes)
    if running.hexdigest() != before.sha256:
        return None
    parts: list[Blob | _Range] = [*stored]
    if file.size_bytes > before.size_bytes:
        tail = _digest_of(file.path, before.size_bytes, file.size_bytes, running).hexdigest()
        parts.append(_Range(file.path, before.size_bytes, file.size_bytes, tail, is_whole=False))
    return running.hexdigest(), file.size_bytes, parts


def _digest_of(path: Path, start: int, stop: int, running: hashlib._Hash | None = None) -> hashlib._Hash:
    """Digest of some bytes of a file; `running`, a digest of what lies before them, goes on over them too."""
    found = hashlib.sha256()
    with path.open("rb") as source:
        for chunk in _chunks(source, start, stop):
            found.update(chunk)
            if running:
                running.update(chunk)
    return found


def _chunks(source: IO[bytes], start: int, stop: int) -> Iterator[bytes]:
    source.seek(start)
    while start < stop:
        chunk = source.read(min(CHUNK_BYTES, stop - start))
        if not chunk:
            raise StoreError(f"{source.name} became shorter while it was being stored; it is taken again next time")
        start += len(chunk)
        yield chunk


def _pays(part: _Range) -> bool:
    import zstandard

    with part.path.open("rb") as source:
        source.seek(part.start)
        sample = source.read(min(SAMPLE_BYTES, part.stop - part.start))
    return len(zstandard.ZstdCompressor(LEVEL).compress(sample)) <= WORTH_FRAC * len(sample)


def _stage(part: _Range, staged: Path, packed: bool, cancel: threading.Event) -> None:
    """Write the range to `staged`, compressed or as it is."""
    import zstandard

    digest = hashlib.sha256()
    with part.path.open("rb") as source, staged.open("wb") as target:
        writer = zstandard.ZstdCompressor(LEVEL).stream_writer(target, closefd=False) if packed else target
        for chunk in _chunks(source, part.start, part.stop):
            _check_cancel(cancel)
            digest.update(chunk)
            writer.write(chunk)
        if packed:
            writer.close()
    if digest.hexdigest() != part.sha256:
        raise StoreError(f"{part.path} changed while it was being stored; it is taken again next time")


def _check_cancel(cancel: threading.Event) -> None:
    if cancel.is_set():
        raise UploadCancelledError("the upload was stopped before its end")

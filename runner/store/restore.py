"""From a snapshot back to a run directory, every byte verified on its way.

All contents are fetched and checked in a hidden directory first; only when the whole snapshot is there are files
renamed into place, a unit's result last. Nothing is written through a symbolic link.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import stat
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO

from configs.errors import CannotWriteError, StoreError
from configs.files import fsync_directory, sha256_file
from runner.heartbeat import beat
from runner.store.layout import Blob, File, Snapshot
from runner.store.lease import DamagedHeadError, Lease
from runner.store.objects import KeyMissingError, ObjectStore
from runner.store.records import LEDGER, DamagedError, committed_ids, snapshot_ids
from runner.store.snapshots import read_snapshot, require_run

CHUNK_BYTES = 1 << 20
MAX_WINDOW_BYTES = 1 << 27
PARALLEL = 4
FETCH_ATTEMPTS = 2
"""A content that does not fit may have been damaged on its way."""
STAGING = ".restore"
IDENTITY = {"run.json", "config.yaml"}
"""Without these a directory is no run."""

Chosen = Callable[[str], bool]


def restore(
    store: ObjectStore, run_id: str, snapshot: Snapshot, root: Path, only: Chosen | None = None, ledger: bool = True
) -> None:
    """Write a snapshot's files below `root`; what is there and equal is not fetched, what is there besides stays.

    Args:
        store: where the snapshot is.
        run_id: whose it is.
        snapshot: as `read_snapshot` gives it.
        root: the run directory.
        only: which paths are wanted; all by default.
        ledger: enter the snapshot's `trials.jsonl` into the one beside `root`.

    Raises:
        DamagedError: a content is missing or damaged; nothing below `root` was changed.
        StoreError: `root` holds a symbolic link or a directory where a file is to be.
        CannotWriteError: the disk refuses.
    """
    wanted = {path: file for path, file in snapshot.files.items() if (only is None or only(path))}
    if not ledger:
        wanted.pop(LEDGER, None)
    places = {path: root.parent / LEDGER if path == LEDGER else root / path for path in wanted}
    try:
        for path in wanted:
            _refuse_unsafe(root.parent if path == LEDGER else root, path)
        missing = {path: file for path, file in wanted.items() if not _is_there(places[path], file)}
        root.mkdir(mode=0o755, parents=True, exist_ok=True)
        with _staging(root) as staging:
            _fetch_all(store, run_id, list(missing.values()), staging)
            _place_all(missing, places, staging)
    except OSError as error:
        raise CannotWriteError(
            f"cannot restore {root}: {error.strerror or error}; free space or choose another directory"
        ) from error


def restore_newest(
    store: ObjectStore,
    run_id: str,
    root: Path,
    lease: Lease | None = None,
    only: Chosen | None = None,
    ledger: bool = True,
) -> tuple[Snapshot | None, list[str]]:
    """Restore the newest snapshot that is whole; None where the run has none yet.

    A content that all snapshots share is stored once, so its loss spoils them all. Whoever owns the run then gets the
    newest without the files that are lost: units that miss a file are run again.

    Args:
        store: where the run is.
        run_id: which run.
        root: its directory.
        lease: ours, if we own the run; what is damaged is then put into quarantine, and what is lost done without.
        only: which paths are wanted.
        ledger: as `restore`.

    Returns:
        The snapshot, and what was found damaged, as sentences for the user.

    Raises:
        ConfigError: the store has no such run.
        StoreError: there are snapshots, and none of them is whole.
    """
    candidates, digests, notices = _candidates(store, run_id)
    partial: list[tuple[Snapshot, set[str]]] = []
    for name in candidates:
        snapshot = None
        try:
            snapshot = read_snapshot(store, run_id, name, digests.get(name, ""))
            restore(store, run_id, snapshot, root, only, ledger)
        except DamagedError as error:
            notices.append(f"snapshot {name} cannot be used: {error}")
            if lease:
                notices += [said for key in error.keys if (said := move_to_quarantine(lease, key))]
            if lease and snapshot:
                partial.append((snapshot, _lost_files(snapshot, error.keys)))
            continue
        if notices:
            made = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(snapshot.created_t))
            notices.append(f"snapshot {name} of {made} ({snapshot.reason}) is used")
        return snapshot, notices
    for snapshot, lost in partial:
        if not lost & IDENTITY:
            files = {path: file for path, file in snapshot.files.items() if path not in lost}
            rest = snapshot.model_copy(update={"files": files})
            with contextlib.suppress(DamagedError):
                restore(store, run_id, rest, root, only, ledger)
                notices.append(f"no snapshot is whole: {snapshot.id} is used without {', '.join(sorted(lost))}")
                return rest, notices
    if candidates or notices:
        raise StoreError(
            f"no snapshot of run {run_id!r} in {store.url} is whole; put back what is named here, or begin anew with "
            "--fresh:\n  " + "\n  ".join(notices)
        )
    return None, []


def _lost_files(snapshot: Snapshot, keys: Collection[str]) -> set[str]:
    """Paths of the files that need an object of `keys`."""
    return {path for path, file in snapshot.files.items() if any(blob.key in keys for blob in file.blobs)}


def move_to_quarantine(lease: Lease, key: str) -> str:
    """Move a damaged object of our run below `quarantine/`; what was done as a sentence, empty if it is gone."""
    source, target = f"{lease.run_id}/{key}", f"{lease.run_id}/quarantine/{key}"
    try:
        with tempfile.TemporaryDirectory() as folder, _fetched(lease.store, source, Path(folder)) as path:
            lease.store.put(target, path)
    except KeyMissingError:
        return ""
    lease.store.delete(source)
    return f"{lease.store.url}/{source} was moved to {target}"


def fetch_blob(store: ObjectStore, run_id: str, blob: Blob, target: IO[bytes], staging: Path) -> None:
    """Append a blob's plain content to `target`.

    Raises:
        DamagedError: it is missing, or not what was stored.
    """
    where = f"{store.url}/{run_id}/{blob.key}"
    begin = target.tell()
    for attempt in range(1, FETCH_ATTEMPTS + 1):
        try:
            with _fetched(store, f"{run_id}/{blob.key}", staging) as path:
                found = _unpack(path, blob, target)
        except KeyMissingError as error:
            raise DamagedError(f"{where} is missing", blob.key) from error
        if not found:
            beat()
            return
        if attempt == FETCH_ATTEMPTS:
            raise DamagedError(f"{where} is damaged: {found}", blob.key)
        target.seek(begin)
        target.truncate()


def _candidates(store: ObjectStore, run_id: str) -> tuple[list[str], dict[str, str], list[str]]:
    """Names of the snapshots to try, HEAD's first; the digests that HEAD knows; what is wrong with HEAD."""
    notices: list[str] = []
    head = None
    try:
        head = require_run(store, run_id)
        if head is None:
            notices.append(f"HEAD of run {run_id!r} in {store.url} is missing")
    except DamagedHeadError as error:
        notices.append(str(error))
    names = committed_ids(snapshot_ids(store, run_id), head)
    if head and head.snapshot:
        older = [name for name in names if name != head.snapshot]
        return [head.snapshot, *older], {head.snapshot: head.snapshot_sha256}, notices
    return names, {}, notices


def _fetch_all(store: ObjectStore, run_id: str, files: list[File], staging: Path) -> None:
    """Each content once into `staging/<sha256>`; what is damaged is told all at once."""
    contents = {file.sha256: file for file in files}

    def fetch(file: File) -> DamagedError | None:
        try:
            _fetch_file(store, run_id, file, staging)
        except DamagedError as error:
            return error
        return None

    with ThreadPoolExecutor(PARALLEL) as pool:
        damages = [damage for damage in pool.map(fetch, contents.values()) if damage]
    if damages:
        keys = dict.fromkeys(key for damage in damages for key in damage.keys)
        raise DamagedError("; ".join(dict.fromkeys(map(str, damages))), *keys)


def _fetch_file(store: ObjectStore, run_id: str, file: File, staging: Path) -> None:
    target = staging / file.sha256
    if target.is_file() and sha256_file(target) == file.sha256:
        return  # of an attempt that was cut off
    with target.open("w+b") as output:
        for blob in file.blobs:
            fetch_blob(store, run_id, blob, output, staging)
        os.fchmod(output.fileno(), 0o644)
        os.fsync(output.fileno())
    if sha256_file(target) != file.sha256:
        raise DamagedError(f"a file of {len(file.blobs)} blobs in {store.url}/{run_id} does not fit its digest")


def _unpack(path: Path, blob: Blob, target: IO[bytes]) -> str:
    """Append what a fetched object holds to `target`; what is wrong with it, empty if nothing."""
    import zstandard

    digest, size_bytes = hashlib.sha256(), 0
    with path.open("rb") as packed:
        reader = _reader(packed, blob)
        try:
            while chunk := reader.read(CHUNK_BYTES):
                size_bytes += len(chunk)
                if size_bytes > blob.size_bytes:
                    return f"more than its {blob.size_bytes} bytes"
                digest.update(chunk)
                target.write(chunk)
        except zstandard.ZstdError as error:
            return str(error)
    if size_bytes != blob.size_bytes:
        return f"{size_bytes} bytes, expected {blob.size_bytes}"
    return "" if digest.hexdigest() == blob.sha256 else "its content does not fit its digest"


def _reader(packed: IO[bytes], blob: Blob) -> IO[bytes]:
    import zstandard

    if not blob.key.endswith(".zst"):
        return packed
    plain: IO[bytes] = zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW_BYTES).stream_reader(packed)
    return plain


@contextlib.contextmanager
def _fetched(store: ObjectStore, key: str, staging: Path) -> Iterator[Path]:
    path = staging / f"blob-{uuid.uuid4().hex}"
    try:
        store.get_to(key, path)
        yield path
    finally:
        path.unlink(missing_ok=True)


@contextlib.contextmanager
def _staging(root: Path) -> Iterator[Path]:
    folder = root / STAGING
    if folder.is_symlink():
        raise StoreError(f"{folder} is a symbolic link; remove it")
    folder.mkdir(mode=0o700, exist_ok=True)
    yield folder
    shutil.rmtree(folder)


def _refuse_unsafe(root: Path, path: str) -> None:
    """Refuse a path that leads through a symbolic link, or through or onto something that is in its way."""
    parts = path.split("/")
    for length in range(1, len(parts) + 1):
        here = root.joinpath(*parts[:length])
        is_last = length == len(parts)
        try:
            mode = here.lstat().st_mode
        except FileNotFoundError:
            return
        if stat.S_ISLNK(mode) or not (stat.S_ISREG(mode) if is_last else stat.S_ISDIR(mode)):
            kind = "a symbolic link" if stat.S_ISLNK(mode) else "in the way"
            raise StoreError(f"{here} is {kind}; nothing is restored through or over it: move it away")


def _is_there(place: Path, file: File) -> bool:
    if not place.is_file() or place.stat().st_size != file.size_bytes:
        return False
    return sha256_file(place) == file.sha256


def _place_all(files: dict[str, File], places: dict[str, Path], staging: Path) -> None:
    """Rename contents into place, results of units last."""
    uses = Counter(file.sha256 for file in files.values())
    directories = set()
    for path in sorted(files, key=lambda path: (path.endswith("/result.json"), path)):
        sha256, place = files[path].sha256, places[path]
        source = staging / sha256
        if path == LEDGER:
            _join_lines(place, source)
            continue
        place.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        uses[sha256] -= 1
        if uses[sha256]:  # needed once more; a link would let one file's changes show in the other
            source = Path(shutil.copy(source, f"{source}.copy"))
        source.replace(place)
        directories.add(place.parent)
    for directory in directories:
        fsync_directory(directory)


def _join_lines(ledger: Path, source: Path) -> None:
    """Append the lines of `source` that `ledger` lacks, under the lock that its writers take."""
    with ledger.open("a+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        present = file.read()
        known = set(present.splitlines())
        lines = [line for line in dict.fromkeys(source.read_bytes().splitlines()) if line not in known]
        gap = b"\n" if present and not present.endswith(b"\n") else b""
        file.write(gap + b"".join(line + b"\n" for line in lines))
        file.flush()
        os.fsync(file.fileno())

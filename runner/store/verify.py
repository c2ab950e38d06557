"""Is everything that a run has in its store whole? Every record, and every content once."""

from __future__ import annotations

import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from runner.store.layout import Blob, Head, Snapshot
from runner.store.lease import DamagedHeadError
from runner.store.objects import ObjectStore
from runner.store.records import DamagedError, committed_ids, snapshot_ids
from runner.store.restore import PARALLEL, fetch_blob
from runner.store.snapshots import read_snapshot, require_run


@dataclass(frozen=True)
class Verification:
    """What was found."""

    head: Head | None
    snapshots: dict[str, Snapshot | None]
    """Committed ones, newest first; None where the record is damaged."""
    faults: dict[str, list[str]]
    """Snapshot id -> what is wrong with it, `HEAD` -> what is wrong with HEAD; empty where all is well."""
    blobs: int
    stored_bytes: int


def verify(store: ObjectStore, run_id: str) -> Verification:
    """Fetch and check all of a run; writes nothing.

    Raises:
        ConfigError: the store has no such run.
        StoreError: the store cannot be used, or a newer version of this program wrote to it.
    """
    head, faults = None, {}
    try:
        head = require_run(store, run_id)
        if head is None:
            faults["HEAD"] = [f"HEAD of run {run_id!r} in {store.url} is missing"]
    except DamagedHeadError as error:
        faults["HEAD"] = [str(error)]
    names = committed_ids(snapshot_ids(store, run_id), head)
    if head and head.snapshot and head.snapshot not in names:
        names.insert(0, head.snapshot)
    snapshots: dict[str, Snapshot | None] = {}
    for name in names:
        is_newest = head is not None and name == head.snapshot
        try:
            snapshots[name] = read_snapshot(store, run_id, name, head.snapshot_sha256 if head and is_newest else "")
        except DamagedError as error:
            snapshots[name] = None
            faults[name] = [str(error)]
    blobs = {blob.key: blob for one in snapshots.values() if one for blob in _blobs(one)}
    damaged = _check_all(store, run_id, list(blobs.values()))
    for name, snapshot in snapshots.items():
        wrong = [damaged[key] for key in dict.fromkeys(blob.key for blob in _blobs(snapshot)) if key in damaged]
        if wrong:
            faults[name] = wrong
    return Verification(head, snapshots, faults, len(blobs), sum(blob.stored_bytes for blob in blobs.values()))


def _check_all(store: ObjectStore, run_id: str, blobs: list[Blob]) -> dict[str, str]:
    """Key -> what is wrong, of the damaged ones."""

    def check(blob: Blob) -> str:
        with tempfile.TemporaryFile(dir=folder) as plain:
            try:
                fetch_blob(store, run_id, blob, plain, Path(folder))
            except DamagedError as error:
                return str(error)
        return ""

    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(PARALLEL) as pool:
        found = list(pool.map(check, blobs))
    return {blob.key: fault for blob, fault in zip(blobs, found, strict=True) if fault}


def _blobs(snapshot: Snapshot | None) -> list[Blob]:
    return [blob for file in snapshot.files.values() for blob in file.blobs] if snapshot else []

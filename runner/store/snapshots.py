"""The snapshots of a run: which there are, which were committed, what each holds."""

from __future__ import annotations

import hashlib

from configs.errors import ConfigError
from runner.store.layout import SNAPSHOT_FORMAT, Head, Snapshot, snapshot_key
from runner.store.lease import read_head
from runner.store.objects import KeyMissingError, ObjectStore
from runner.store.records import DamagedError, check_blob, check_paths, fault_of, parse, snapshot_ids


def read_snapshot(store: ObjectStore, run_id: str, snapshot_id: str, sha256: str = "") -> Snapshot:
    """Read and check one snapshot's record.

    Args:
        store: where it is.
        run_id: whose it is.
        snapshot_id: its name.
        sha256: of the record as stored, where HEAD says it.

    Raises:
        DamagedError: it is missing or damaged, or names what does not belong to a run.
        StoreError: a newer version of this program wrote it.
    """
    key = snapshot_key(run_id, snapshot_id)
    where, below = f"{store.url}/{key}", key.removeprefix(f"{run_id}/")
    try:
        body = store.get(key)[0]
        if sha256 and hashlib.sha256(body).hexdigest() != sha256:
            raise ValueError("it is not the record that HEAD names")
        snapshot = Snapshot.model_validate(parse(body, SNAPSHOT_FORMAT, where))
        _check(snapshot, run_id, snapshot_id)
    except KeyMissingError as error:
        raise DamagedError(f"{where} is missing", below) from error
    except ValueError as error:
        raise DamagedError(f"{where} is damaged: {fault_of(error)}", below) from error
    return snapshot


def newest_snapshot(store: ObjectStore, run_id: str) -> Snapshot | None:
    """The snapshot that HEAD names; None where there is none yet, or no such run.

    Raises:
        StoreError: HEAD or the record is damaged.
    """
    head = read_head(store, run_id)
    return read_snapshot(store, run_id, head.snapshot, head.snapshot_sha256) if head and head.snapshot else None


def require_run(store: ObjectStore, run_id: str) -> Head | None:
    """The run's HEAD, None where only it is missing.

    Raises:
        ConfigError: the store has no such run.
        StoreError: HEAD is damaged.
    """
    head = read_head(store, run_id)
    if head is None and not snapshot_ids(store, run_id):
        known = sorted({stat.key.partition("/")[0] for stat in store.list() if stat.key.endswith("/HEAD.json")})
        raise ConfigError(f"there is no run {run_id!r} in {store.url}; it has {', '.join(known) or 'none at all'}")
    return head


def _check(snapshot: Snapshot, run_id: str, snapshot_id: str) -> None:
    if (snapshot.run_id, snapshot.id) != (run_id, snapshot_id):
        raise ValueError(f"it is snapshot {snapshot.id!r} of run {snapshot.run_id!r}")
    check_paths(snapshot.files)
    for path, file in snapshot.files.items():
        for blob in file.blobs:
            check_blob(blob)
        if sum(blob.size_bytes for blob in file.blobs) != file.size_bytes:
            raise ValueError(f"the blobs of {path!r} do not add up to its size")

"""Which snapshots are kept, how the others are removed, and how a run goes back to an earlier one.

Only the owner of a run removes anything, and only blobs of its own epoch or earlier ones that no kept snapshot names.
So a runner that stops in the middle of this while another takes the run over can do no harm when it goes on: the
other began from a snapshot that is kept, and all it has added since is of a later epoch.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from configs.errors import ConfigError, StoreError
from runner.store.cut import Cut, CutFile
from runner.store.layout import File, Snapshot, snapshot_key, split_id
from runner.store.lease import Lease
from runner.store.objects import ObjectStore
from runner.store.records import LEDGER, DamagedError, committed_ids, snapshot_ids
from runner.store.restore import move_to_quarantine, restore
from runner.store.snapshots import read_snapshot
from runner.store.upload import Uploader

PARALLEL = 4
LEAST = 2
"""So many newest snapshots are always kept: the newest may turn out to be damaged."""


@dataclass(frozen=True)
class Collected:
    """What was removed, or would be."""

    kept: tuple[str, ...]
    removed: tuple[str, ...]
    removed_blobs: int
    freed_bytes: int
    notices: tuple[str, ...] = ()


class Retention:
    """Removes what need not be kept of a run that is ours; remembers the records it has read."""

    def __init__(self, lease: Lease, keep_last: int, keep_every: int) -> None:
        """Keep the `keep_last` newest snapshots, those whose number `keep_every` divides, and the best one."""
        self._lease, self._keep_last, self._keep_every = lease, keep_last, keep_every
        self._known: dict[str, Snapshot] = {}

    def collect(self, dry_run: bool = False) -> Collected:
        """Remove records that are not kept, then blobs that no kept record names; to be called between two uploads.

        Raises:
            FencedError: the run is another's by now; nothing was removed.
            StoreError: the newest snapshot's record is damaged; nothing was removed.
        """
        lease, store, prefix = self._lease, self._lease.store, f"{self._lease.run_id}/"
        lease.renew(lease.head.spent)
        names = snapshot_ids(store, lease.run_id)
        if lease.head.snapshot and lease.head.snapshot not in names:
            raise DamagedError(f"{store.url}/{snapshot_key(lease.run_id, lease.head.snapshot)} is missing")
        snapshots, notices = self._read(committed_ids(names, lease.head), dry_run)
        kept = kept_ids(snapshots, self._keep_last, self._keep_every)
        self._known = {one.id: one for one in snapshots if one.id in kept}
        needed = {blob.key for one in self._known.values() for file in one.files.values() for blob in file.blobs}
        removed = [name for name in names if name not in kept and split_id(name)[1] <= lease.epoch]
        spare = [
            stat
            for stat in store.list(f"{prefix}blobs/")
            if stat.key.removeprefix(prefix) not in needed and _epoch_of(stat.key) <= lease.epoch
        ]
        if not dry_run:
            _delete(store, [snapshot_key(lease.run_id, name) for name in removed])
            _delete(store, [stat.key for stat in spare])
        freed_bytes = sum(stat.size_bytes for stat in spare)
        return Collected(tuple(sorted(kept)), tuple(removed), len(spare), freed_bytes, tuple(notices))

    def _read(self, names: Sequence[str], dry_run: bool) -> tuple[list[Snapshot], list[str]]:
        """The records, newest first; one that is damaged goes into quarantine, unless it is the newest."""
        lease = self._lease
        snapshots: list[Snapshot] = []
        notices: list[str] = []
        for name in names:
            try:
                snapshots.append(self._known.get(name) or read_snapshot(lease.store, lease.run_id, name))
            except DamagedError as error:
                if name == lease.head.snapshot:
                    raise
                notices.append(str(error))
                if not dry_run:
                    notices += [said for key in error.keys if (said := move_to_quarantine(lease, key))]
        return snapshots, notices


def kept_ids(snapshots: Sequence[Snapshot], keep_last: int, keep_every: int) -> set[str]:
    """Which of a run's committed snapshots, newest first, are kept."""
    kept = {snapshot.id for snapshot in snapshots[: max(keep_last, LEAST)]}
    kept |= {snapshot.id for snapshot in snapshots if split_id(snapshot.id)[0] % keep_every == 0}
    scores = [snapshot.score for snapshot in snapshots if snapshot.score is not None]
    if scores:
        kept.add(next(one.id for one in reversed(snapshots) if one.score == max(scores)))
    return kept


def roll_back(lease: Lease, snapshot_id: str) -> Snapshot:
    """Make the content of an earlier snapshot the newest of the run; returns the new snapshot.

    Everything is fetched and verified. What the present snapshot does not name is stored again under our epoch: a
    former owner that still lives might be about to remove the old blobs.

    Raises:
        ConfigError: the run has no such snapshot.
        DamagedError: it is damaged; the run is as it was.
    """
    names = committed_ids(snapshot_ids(lease.store, lease.run_id), lease.head)
    if snapshot_id not in names:
        raise ConfigError(f"run {lease.run_id!r} has no snapshot {snapshot_id!r}; it has {', '.join(names) or 'none'}")
    target = read_snapshot(lease.store, lease.run_id, snapshot_id)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / lease.run_id
        restore(lease.store, lease.run_id, target, root)
        cut = Cut(root, {path: _cut_file(root, path, file) for path, file in target.files.items()})
        uploaded = Uploader(lease, Path(folder)).upload(cut, _present(lease))
    spent = lease.head.spent
    snapshot = lease.new_snapshot(uploaded.files, f"rolled back to {snapshot_id}", spent, target.score)
    lease.commit(snapshot, spent)
    return snapshot


def _present(lease: Lease) -> Snapshot | None:
    """The snapshot that the lease began from, where it can be read."""
    try:
        return read_snapshot(lease.store, lease.run_id, lease.begun_from) if lease.begun_from else None
    except DamagedError:
        return None


def _cut_file(root: Path, path: str, file: File) -> CutFile:
    return CutFile(root.parent / LEDGER if path == LEDGER else root / path, file.size_bytes, file.sha256)


def _delete(store: ObjectStore, keys: Sequence[str]) -> None:
    with ThreadPoolExecutor(PARALLEL) as pool:
        list(pool.map(store.delete, keys))


def _epoch_of(key: str) -> int:
    """Epoch of a blob by its key.

    Raises:
        StoreError: the object is no blob; somebody else put it there.
    """
    found = re.search(r"/blobs/([0-9]{8})/", key)
    if not found:
        raise StoreError(f"object {key!r} is no blob of this program; move it away")
    return int(found[1])

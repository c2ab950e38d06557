"""Where a run directory stands beside its store, and how it is brought to where the store is.

`store.json`, which is local and part of no snapshot, says what this directory knows: the snapshot it last committed,
and before each commit the one it is about to. So a directory that is at or ahead of the store is told from one that
another machine, or a rollback, has left behind. What is left behind is moved aside, never deleted.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from configs.errors import CannotWriteError, ConfigError, StoreError
from configs.files import read_json, write_json
from configs.run_dir import RunDir
from runner.store.layout import Head, Snapshot
from runner.store.lease import Lease
from runner.store.restore import restore_newest
from runner.store.snapshots import read_snapshot

NAME = "store.json"
OWNERS = ".owners"
"""Who has asked the store for the run from this directory."""
NOT_MOVED = {"lock", OWNERS}
"""Of the owner, who stays."""
SUPERSEDED = ".superseded"


class Place(BaseModel):
    """`store.json`."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    url: str = ""
    committed: str = ""
    """Id of the snapshot that this directory last committed, or that was the newest when it was restored."""
    pending: tuple[str, ...] = ()
    """Ids of those that it has tried to commit since; whether one of them succeeded is in HEAD."""
    restoring: bool = False
    """Only a part of the run was fetched, or a restore was cut off: what is here is no one's work."""
    complete: bool = False
    """Everything that is here is in `committed`."""

    def covers(self, url: str, head: Head) -> bool:
        """This directory is at the store's newest snapshot, or ahead of it."""
        return not self.restoring and self.is_of(url) and head.snapshot in (self.committed, *self.pending)

    def is_kept(self, url: str, head: Head) -> bool:
        """Everything that is here is in the store's newest snapshot."""
        return self.complete and bool(head.snapshot) and self.covers(url, head)

    def is_of(self, url: str) -> bool:
        """It speaks of that store."""
        return self.url.rstrip("/") == url.rstrip("/")


def read_place(run: RunDir) -> Place:
    """What the directory knows; nothing where it says nothing that can be read."""
    try:
        return Place.model_validate(read_json(run.root / NAME))
    except (OSError, ValueError):
        return Place()


def write_place(run: RunDir, place: Place) -> None:
    """Write `store.json`."""
    write_json(run.root / NAME, place.model_dump(mode="json"))


def is_here(run: RunDir, url: str, head: Head | None) -> bool:
    """Whether the run directory, rather than the store, is what the run goes on from."""
    if not has_content(run) or read_place(run).restoring:
        return head is None
    return head is None or not head.snapshot or read_place(run).covers(url, head)


def bring_here(run: RunDir, lease: Lease, url: str, tell: Callable[[str], None]) -> Snapshot | None:
    """Make the run directory the newest state of the run; returns the snapshot that the store already has of it.

    Raises:
        StoreError: no snapshot of the store is whole, or the store cannot be used.
        CannotWriteError: the disk refuses.
    """
    if is_here(run, url, lease.head):
        return _known_snapshot(lease, tell)
    _make_way(run, url, tell)
    write_place(run, Place(url=url, restoring=True))
    snapshot, notices = restore_newest(lease.store, lease.run_id, run.root, lease)
    for notice in notices:
        tell(notice)
    newest = lease.head.snapshot
    write_place(run, Place(url=url, committed=newest, complete=snapshot is not None and snapshot.id == newest))
    if snapshot:
        tell(f"restored snapshot {snapshot.id} of run {lease.run_id} from {url}: {len(snapshot.files)} files, verified")
    return snapshot


def go_on_without(run: RunDir) -> None:
    """Note that the run goes on here without its store, which from now on lacks something.

    Raises:
        ConfigError: what is here is only a part of what a store has.
    """
    place = read_place(run)
    if place.restoring:
        raise ConfigError(
            f"{run.root} holds only a part of what {place.url} has of the run; complete it with --store {place.url}, "
            "or remove the directory to start anew"
        )
    if place.complete:
        write_place(run, place.model_copy(update={"complete": False}))


def _known_snapshot(lease: Lease, tell: Callable[[str], None]) -> Snapshot | None:
    head = lease.head
    if not head.snapshot:
        return None
    try:
        return read_snapshot(lease.store, lease.run_id, head.snapshot, head.snapshot_sha256)
    except StoreError as error:
        if error.retryable:
            raise
        tell(f"{error}; everything is sent again from here")
        return None


def _make_way(run: RunDir, url: str, tell: Callable[[str], None]) -> None:
    """Move what is in the way to `<runs-dir>/.superseded/<run-id>-<n>`; half a restore is completed instead."""
    place = read_place(run)
    if not has_content(run) or (place.restoring and place.is_of(url)):
        return
    folder = run.root.parent / SUPERSEDED
    number = 1
    while (folder / f"{run.run_id}-{number}").exists():
        number += 1
    aside = folder / f"{run.run_id}-{number}"
    try:
        aside.mkdir(parents=True)
        # the record goes last: a crash in between leaves the rest to be moved by the next start
        for path in sorted(_content(run), key=lambda path: path.name == NAME):
            path.rename(aside / path.name)
    except OSError as error:
        raise CannotWriteError(f"cannot move {run.root} aside to {aside}: {error.strerror}") from error
    tell(f"the store has another state of run {run.run_id}; what was here lies in {aside}")


def has_content(run: RunDir) -> bool:
    """Whether the directory holds anything of a run."""
    return bool(_content(run))


def _content(run: RunDir) -> list[Path]:
    return [path for path in run.root.iterdir() if path.name not in NOT_MOVED] if run.root.is_dir() else []

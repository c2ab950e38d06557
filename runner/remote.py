"""A run as its store tells it, where the machine is gone: parts of the newest snapshot in a temporary directory."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from configs.errors import ConfigError, StoreError
from configs.run_dir import RunDir, check_run_id
from runner.budget import HOUR_S
from runner.say import say
from runner.store.layout import HEAD, Head, Snapshot, head_key
from runner.store.lease import DamagedHeadError, read_head
from runner.store.live import read_live, view_in
from runner.store.objects import ObjectStore
from runner.store.open import open_store
from runner.store.place import Place, has_content, is_here, read_place, write_place
from runner.store.restore import IDENTITY, restore_newest
from runner.store.snapshots import require_run
from runner.view import RunView

Wanted = Callable[[str], bool]
"""Which files of a run, by their path below its directory."""
HEAVY_SUFFIXES = (".parquet", ".safetensors", ".zip", ".pt", ".npz")
REPORT_TABLES = ("equity.parquet", "gallery.parquet", "tags.parquet")
MENDS_HEAD = "start the run again by the command that began it, which writes it anew"


@dataclass(frozen=True)
class Remote:
    """A run in its store."""

    run: RunDir
    """Temporary, with the files that were asked for."""
    head: Head
    snapshot: Snapshot | None
    renewed_t: float
    """Unix seconds by the store's clock."""
    live: RunView | None = None
    """What its owner told last, where that is newer than the snapshot."""

    def state(self) -> str:
        """`running (...)` while somebody owns the run, as far as the store knows; a silent owner may be gone."""
        if self.head.released:
            return ""
        if self.is_silent:
            silent_s = time.time() - self.renewed_t
            return f"its owner has been silent for {silent_s:.0f} s; the same command takes it over and goes on"
        return f"running ({self.head.owner.place})"

    @property
    def is_silent(self) -> bool:
        """Its owner did not let it go, and has not renewed the lease in time either."""
        return not self.head.released and time.time() - self.renewed_t > self.head.lease_s

    def to_json(self) -> dict[str, Any]:
        """Who owns the run, and what the store has of it."""
        owner, spent, snapshot = self.head.owner, self.head.spent, self.snapshot
        ago_s = time.time() - self.renewed_t
        who = f"pid {owner.pid} on {owner.host} ({owner.place}), epoch {self.head.epoch}"
        verb = "released by" if self.head.released else "held by"
        says = [
            f"owner    {verb} {who}",
            f"renewed  {_utc(self.renewed_t)} UTC by the store's clock, {ago_s:.0f} s ago by this machine's",
        ]
        if snapshot:
            made = f"{_utc(snapshot.created_t)} UTC, {len(snapshot.files)} files"
            says.append(f"snapshot {snapshot.id}, {made}: {snapshot.reason}")
        says.append(f"spent    {spent.wall_s / HOUR_S:.2f} h, {spent.cost_usd:.2f} USD")
        return {
            "owner": owner.model_dump(mode="json", exclude={"token"}),
            "epoch": self.head.epoch,
            "released": self.head.released,
            "silent": self.is_silent,
            "renewed_t": self.renewed_t,
            "snapshot": snapshot.id if snapshot else None,
            "snapshot_t": snapshot.created_t if snapshot else None,
            "snapshot_reason": snapshot.reason if snapshot else None,
            "spent": spent.model_dump(mode="json"),
            "says": says,
        }


def identity_files(path: str) -> bool:
    """What says which run it is."""
    return path in IDENTITY


def log_files(path: str) -> bool:
    """What it said."""
    return identity_files(path) or path.startswith("logs/")


def light_files(path: str) -> bool:
    """All that `status` and `report` read: no checkpoints, weights or tables but the report's."""
    if path.rpartition("/")[2] in REPORT_TABLES:
        return True
    return working_files(path) and not path.endswith(HEAVY_SUFFIXES)


def working_files(path: str) -> bool:
    """All that decides which units are done."""
    return not {"checkpoints", "tensorboard"} & set(path.split("/"))


@contextmanager
def fetched(url: str, run_id: str, wanted: Wanted) -> Iterator[Remote]:
    """Some files of the newest snapshot that has them whole, while inside; takes no lease and writes nothing there.

    Raises:
        ConfigError: the store has no such run, or more than one where none was named.
        StoreError: the store cannot be used, or what was asked for is damaged everywhere.
    """
    store = open_store(url)
    run_id = check_run_id(run_id or only_run(store))
    try:
        head = require_run(store, run_id)
    except DamagedHeadError as error:
        raise StoreError(f"{error}; {MENDS_HEAD}") from error
    if head is None:
        raise StoreError(f"{store.url}/{head_key(run_id)} is missing though the run has snapshots; {MENDS_HEAD}")
    with _restored(store, run_id, wanted) as (run, snapshot):
        renewed_t = store.get(head_key(run_id))[1].modified_t
        yield Remote(run, head, snapshot, renewed_t, _live(store, head, snapshot))


def _live(store: ObjectStore, head: Head, snapshot: Snapshot | None) -> RunView | None:
    live = None if head.released else read_live(store, head.run_id, head.epoch)
    return view_in(live) if live and (snapshot is None or live.updated_t > snapshot.created_t) else None


@contextmanager
def identity(store: ObjectStore, run_id: str) -> Iterator[RunDir]:
    """`run.json` and `config.yaml` of a run while inside; enough to start it, which mends a HEAD that is lost.

    Raises:
        ConfigError: the store has no such run, or nothing of it yet.
        StoreError: the store cannot be used, or has these files whole in no snapshot.
    """
    with _restored(store, check_run_id(run_id), identity_files) as (run, snapshot):
        if snapshot is None:
            raise ConfigError(
                f"run {run_id!r} in {store.url} ended before anything of it was kept; start it by the command that "
                "began it"
            )
        yield run


@contextmanager
def _restored(store: ObjectStore, run_id: str, wanted: Wanted) -> Iterator[tuple[RunDir, Snapshot | None]]:
    with tempfile.TemporaryDirectory(prefix="sequence-runner-") as folder:
        run = RunDir(Path(folder) / run_id)
        snapshot, notices = restore_newest(store, run_id, run.root, only=wanted)
        for notice in notices:
            say(notice)
        yield run, snapshot


def bring_light(url: str, run_id: str, runs_dir: Path) -> RunDir | None:
    """A run directory with all that `status`, `report` and `compare` read, marked as a part of what the store has.

    None where the directory holds another state of the run, which is left as it is.

    Raises:
        ConfigError: the store has nothing of the run.
        StoreError: the store cannot be used, or nothing there is whole.
        CannotWriteError: the disk refuses.
    """
    run = RunDir(runs_dir / check_run_id(run_id))
    place = read_place(run)
    if has_content(run) and not (place.restoring and place.is_of(url)):
        say(f"{run.root} holds the run already and is left as it is")
        return None
    store = open_store(url)
    head = require_run(store, run_id)
    if head and not head.snapshot:
        raise ConfigError(f"run {run_id!r} in {url} ended before anything of it was kept")
    write_place(run, Place(url=url, restoring=True))
    snapshot, notices = restore_newest(store, run_id, run.root, only=light_files)
    for notice in notices:
        say(notice)
    if snapshot:
        say(f"{run.root} has the run without its weights, from snapshot {snapshot.id}; --resume {run_id} gets the rest")
    return run


@contextmanager
def as_kept(run: RunDir, url: str) -> Iterator[RunDir]:
    """The newest state of a run without its checkpoints, to look at: the run directory, or what its store has."""
    if not url:
        yield run
        return
    head = read_head(open_store(url), run.run_id)
    if is_here(run, url, head):
        yield run
        return
    with fetched(url, run.run_id, working_files) as remote:
        yield remote.run


def is_kept_at(url: str, run_id: str) -> bool:
    """Whether the store has that run."""
    return read_head(open_store(url), run_id) is not None


def _utc(t: float) -> str:
    return datetime.fromtimestamp(t, UTC).strftime("%Y-%m-%d %H:%M:%S")


def only_run(store: ObjectStore) -> str:
    """The run of a store that has one.

    Raises:
        ConfigError: it has none, or several; the message names them.
    """
    found = sorted(stat.key.partition("/")[0] for stat in store.list() if stat.key.endswith(f"/{HEAD}"))
    if len(found) != 1:
        raise ConfigError(f"{store.url} has {len(found)} runs; name one of: {', '.join(found) or '(none)'}")
    return found[0]

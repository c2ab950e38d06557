"""What lies where in a store, and the records that are kept there.

    <url>/<run-id>/HEAD.json                     who owns the run, and its newest snapshot; replaced conditionally
    <url>/<run-id>/snapshots/<number>-<epoch>.json   immutable: every file of the run at one moment
    <url>/<run-id>/blobs/<epoch>/<sha256>[.zst]  immutable: contents, shared by all snapshots
    <url>/<run-id>/live/<epoch>.json             what the run looks like right now, as its owner tells every few seconds
    <url>/<run-id>/ends/<machine>.json           how the run ended on a machine that was rented for it
    <url>/<run-id>/quarantine/...                what was found damaged, under the key it had
    <url>/<run-id>/clock/<token>                 written and removed at once: its date is the store's time
    <url>/datasets/<12 hex>/...                  datasets that were sent for a rented machine; see `runner.dataset_url`

A blob's key carries the epoch of the owner that wrote it. So a runner that was
paused while another took over can only ever delete or overwrite blobs of its own
epoch, which the new owner uses only where the snapshot it began from names them.
"""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

SNAPSHOT_FORMAT = 1
HEAD_FORMAT = 2
LIVE_FORMAT = 1
END_FORMAT = 1
HEAD = "HEAD.json"
ID_PATTERN = re.compile(r"[0-9]{8}-[0-9]{8}")


Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Record(BaseModel):
    """Base of what is kept in a store; what is not known is refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Blob(Record):
    """One stored content."""

    key: str
    """Below the run's prefix: `blobs/<epoch>/<sha256>`, with `.zst` where it is compressed."""
    sha256: Digest
    """Of the plain content."""
    size_bytes: int = Field(ge=0)
    """Of the plain content."""
    stored_bytes: int = Field(ge=0)


class File(Record):
    """One regular file of the run directory: its blobs joined. A log that grows gains blobs at its end."""

    sha256: Digest
    size_bytes: int = Field(ge=0)
    blobs: tuple[Blob, ...]


class Spent(Record):
    """What a run has used so far, over all its starts."""

    wall_s: float = 0.0
    cost_usd: float = 0.0


class Snapshot(Record):
    """Every file of a run at one moment."""

    format: int = SNAPSHOT_FORMAT
    run_id: str
    id: str
    """`<number>-<epoch>`, both of 8 digits; grows with time."""
    parent: str = ""
    created_t: float
    reason: str
    """What it was made for, for example `checkpoint of ppo/seed-0` or `the end: done`."""
    spent: Spent = Spent()
    score: float | None = None
    """Best validation score so far of any agent; the first snapshot with the highest is kept."""
    files: dict[str, File]
    """Path below the run directory, POSIX -> content."""


class OwnerFacts(Record):
    """Who owns a run."""

    token: str
    """Random, of this one process."""
    place: str
    """Pod, container or machine: what comes back under the same name after a restart."""
    host: str
    pid: int
    started_s: float
    """Start of the process, in seconds since its machine's."""


class Head(Record):
    """The one object that is replaced: ownership and the newest snapshot, so that no commit outlives its owner."""

    format: int = HEAD_FORMAT
    run_id: str
    epoch: int = Field(ge=1)
    """Grows by one with every change of owner."""
    owner: OwnerFacts
    lease_s: float = Field(gt=0)
    """The owner renews more often than this; later than this after the last version anyone may take the run."""
    released: bool = False
    """The owner has ended in order; anyone may take the run."""
    renewals: int = 0
    """Makes every version's bytes differ."""
    snapshot: str = ""
    """Id of the newest committed snapshot; empty before the first."""
    snapshot_sha256: str = ""
    """Of that snapshot's record, as stored."""
    spent: Spent = Spent()
    """As of the last renewal."""
    unkept_starts: int = Field(default=0, ge=0)
    """Starts since a snapshot was last committed, the owner's among them; one that ended in order is taken off again.
    Format 1 had no such count."""


class Live(Record):
    """What a run looks like right now, as its owner tells it."""

    format: int = LIVE_FORMAT
    run_id: str
    epoch: int = Field(ge=1)
    updated_t: float
    """Unix seconds by the owner's clock, as all times of `view`."""
    view: dict[str, Any]
    """A `RunView` as JSON, without what has its default."""


class End(Record):
    """How a run ended on a machine that was rented for it: the one object that needs no lease, for only that machine
    writes it."""

    format: int = END_FORMAT
    machine: str
    """Its id, as the launcher or the provider names it."""
    exit_code: int
    reason: str = ""
    """As the exit record's."""
    ended_t: float
    """Unix seconds by the machine's clock."""
    console_tail: str = ""
    """The last lines that the runner printed, without secrets."""


def head_key(run_id: str) -> str:
    """Key of the run's HEAD."""
    return f"{run_id}/{HEAD}"


def snapshot_key(run_id: str, snapshot_id: str) -> str:
    """Key of a snapshot's record."""
    return f"{run_id}/snapshots/{snapshot_id}.json"


def live_key(run_id: str, epoch: int) -> str:
    """Key of what the owner of that epoch tells of the run."""
    return f"{run_id}/live/{epoch:08d}.json"


def end_key(run_id: str, machine: str) -> str:
    """Key of the end of a run on a machine; characters that no key may have become `-`."""
    name = re.sub(r"[^A-Za-z0-9_.+=-]", "-", machine).lstrip(".+=-")
    return f"{run_id}/ends/{name}.json"


def snapshot_id(number: int, epoch: int) -> str:
    """Name of the run's `number`-th snapshot, made under `epoch`."""
    return f"{number:08d}-{epoch:08d}"


def split_id(snapshot_id: str) -> tuple[int, int]:
    """Number and epoch of a snapshot, by its name.

    Raises:
        ValueError: it is no such name.
    """
    if not ID_PATTERN.fullmatch(snapshot_id):
        raise ValueError(f"snapshot id {snapshot_id!r} is not <number>-<epoch> with 8 digits each")
    return int(snapshot_id[:8]), int(snapshot_id[9:])


def blob_key(sha256: str, epoch: int, compressed: bool) -> str:
    """Key of a blob below the run's prefix."""
    return f"blobs/{epoch:08d}/{sha256}{'.zst' if compressed else ''}"

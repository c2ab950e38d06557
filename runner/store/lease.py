"""Who may commit to a run: a lease with an epoch, kept in the run's HEAD.

Every write of HEAD names the version it replaces, so of two runners that believe
they own a run only the one whose version is in the store can commit; time plays
no part in that. Time, by the store's clock alone, only decides when a runner that
has fallen silent may be replaced. HEAD is also read before each write: a server
that ignores conditions is then fooled only in the instant between the two.
"""

from __future__ import annotations

import hashlib
import os
import re
import threading
import time
import uuid
from collections.abc import Collection
from dataclasses import dataclass

from configs.errors import FencedError, StoreError
from runner.guard import OwnedByAnotherError, started_s
from runner.host.where import this_host
from runner.store.layout import (
    HEAD_FORMAT,
    File,
    Head,
    OwnerFacts,
    Snapshot,
    Spent,
    head_key,
    snapshot_id,
    snapshot_key,
    split_id,
)
from runner.store.objects import KeyMissingError, ObjectStore, PreconditionFailedError, Stat
from runner.store.records import committed_ids, encode, fault_of, parse, quarantine, snapshot_ids

ACQUIRE_ATTEMPTS = 5
CLOCK_GRAIN_S = 1.0
"""Some servers date objects in whole seconds."""
LOST_HEAD_STEP = 1_000
"""Where HEAD is lost, the new epoch lies this far above all that is seen: above what the lost one may have said."""
_EPOCH_IN_KEY = re.compile(r"/(?:blobs/|live/|snapshots/[0-9]{8}-)([0-9]{8})")


class DamagedHeadError(StoreError):
    """HEAD is there, but is not what any version of this program writes."""


class LeasedError(OwnedByAnotherError):
    """The owner has renewed its lease not long ago: it may be alive, or gone."""

    def __init__(self, message: str, left_s: float, tag: str) -> None:
        """Say who it is; `left_s` are the seconds left of its lease if HEAD stays as it is, which is `tag`."""
        super().__init__(message)
        self.left_s = left_s
        self.tag = tag


def owner_facts() -> OwnerFacts:
    """Who this process is."""
    return OwnerFacts(
        token=uuid.uuid4().hex,
        place=this_host().place,
        host=os.uname().nodename,
        pid=os.getpid(),
        started_s=started_s(os.getpid()) or 0.0,
    )


def read_head(store: ObjectStore, run_id: str) -> Head | None:
    """The run's HEAD; None where the store has no such run.

    Raises:
        DamagedHeadError: HEAD cannot be understood.
        StoreError: a newer version of this program wrote it.
    """
    try:
        return _parse_head(store, run_id, store.get(head_key(run_id))[0])
    except KeyMissingError:
        return None


def store_time(store: ObjectStore, run_id: str) -> float:
    """Unix seconds by the store's own clock, from the date of an object that is written and removed."""
    key = f"{run_id}/clock/{uuid.uuid4().hex}"
    store.put(key, b"what time is it")
    try:
        return store.get(key)[1].modified_t
    finally:
        store.delete(key)


def acquire(
    store: ObjectStore,
    run_id: str,
    me: OwnerFacts,
    lease_s: float,
    take_over: bool = False,
    dead: Collection[str] = (),
) -> Lease:
    """Become the owner of a run, new or known.

    A known run is free when its owner released it, has not renewed for its `lease_s` by the store's clock, was a
    process of this same place that is dead, or is one whose token is among the `dead`; with `take_over` it is taken
    whoever owns it.

    Raises:
        OwnedByAnotherError: somebody else owns it; the message says who and until when, a `LeasedError` how long.
        StoreError: a newer version of this program wrote it, or the store cannot be used.
    """
    present: str | None = None
    for _ in range(ACQUIRE_ATTEMPTS):
        found = _find(store, run_id)
        owner = found.owner if found else ""
        if present is None:
            present = owner
        try:
            # the take-over is meant for the owner that was there, not for one that was faster than us
            return _take(store, run_id, me, lease_s, found, owner in dead or (take_over and owner == present))
        except PreconditionFailedError:
            continue
    raise OwnedByAnotherError(f"run {run_id!r} in {store.url} changes owners all the time; look who starts it")


class Lease:
    """Ownership of a run in a store, from `acquire` on. Thread-safe."""

    def __init__(self, store: ObjectStore, run_id: str, head: Head, tag: str, notices: tuple[str, ...] = ()) -> None:
        """Wrap what `acquire` wrote."""
        self.store = store
        self.run_id = run_id
        self.epoch = head.epoch
        self.begun_from = "" if notices else head.snapshot
        """The snapshot that HEAD named when the run was taken: no former owner ever deletes its blobs."""
        self.notices = notices
        """What was wrong with HEAD, as sentences for the user."""
        self._head, self._tag = head, tag
        self._number = split_id(head.snapshot)[0] if head.snapshot else 0
        self._lock = threading.Lock()
        self._fenced: FencedError | None = None

    @property
    def head(self) -> Head:
        """HEAD as last written or seen by us."""
        return self._head

    def renew(self, spent: Spent) -> None:
        """Say that we are alive.

        Raises:
            FencedError: another runner has taken the run; the same from every call from then on.
        """
        self._write(spent=spent)

    def new_snapshot(self, files: dict[str, File], reason: str, spent: Spent, score: float | None = None) -> Snapshot:
        """A record for `commit`, with the next number and HEAD's snapshot for a parent."""
        with self._lock:
            self._number += 1
            name = snapshot_id(self._number, self.epoch)
        return Snapshot(
            run_id=self.run_id,
            id=name,
            parent=self._head.snapshot,
            created_t=time.time(),
            reason=reason,
            spent=spent,
            score=score,
            files=files,
        )

    def commit(self, snapshot: Snapshot, spent: Spent) -> None:
        """Make a snapshot, all of whose blobs are in the store, the newest one of the run.

        Raises:
            FencedError: another runner has taken the run; HEAD is as it was.
        """
        if self._fenced:
            raise self._fenced
        body = encode(snapshot)
        self.store.put_if_absent(snapshot_key(self.run_id, snapshot.id), body)
        digest = hashlib.sha256(body).hexdigest()
        self._write(spent=spent, snapshot=snapshot.id, snapshot_sha256=digest, unkept_starts=0)

    def release(self, spent: Spent) -> None:
        """Let the run go; anyone may take it at once.

        Raises:
            FencedError: another runner has taken it already.
        """
        self._write(spent=spent, released=True, unkept_starts=max(0, self._head.unkept_starts - 1))

    def _write(self, **changes: object) -> None:
        with self._lock:
            if self._fenced:
                raise self._fenced
            for last in (False, True):
                self._look()
                head = self._head.model_copy(update=changes | {"renewals": self._head.renewals + 1})
                try:
                    self._tag = self.store.replace_if_match(head_key(self.run_id), encode(head), self._tag)
                except PreconditionFailedError:
                    if last:
                        raise
                else:
                    self._head = head
                    return

    def _look(self) -> None:
        """Read HEAD: adopt a write of ours whose answer was lost, or learn that the run is another's."""
        where = f"{self.store.url}/{head_key(self.run_id)}"
        try:
            body, stat = self.store.get(head_key(self.run_id))
        except KeyMissingError as error:
            raise StoreError(f"{where} was removed while this runner owned the run; nothing more is stored") from error
        head = _parse_head(self.store, self.run_id, body)
        if head.owner.token != self._head.owner.token or head.epoch != self.epoch:
            self._fenced = FencedError(
                f"run {self.run_id!r} in {self.store.url} was taken over by {_who(head.owner)}, epoch {head.epoch} "
                f"(ours was {self.epoch}); this runner commits nothing more, and what it had committed is intact; "
                f"look at the run with `sequence-runner status {self.run_id} --store {self.store.url}`"
            )
            raise self._fenced
        self._head, self._tag = head, stat.tag


@dataclass(frozen=True)
class _Found:
    """HEAD as somebody who wants the run finds it."""

    stat: Stat
    head: Head | None
    """None where it says nothing."""
    damage: DamagedHeadError | None = None

    @property
    def owner(self) -> str:
        """Token of the owner; empty where nothing says it."""
        return self.head.owner.token if self.head else ""


def _find(store: ObjectStore, run_id: str) -> _Found | None:
    try:
        body, stat = store.get(head_key(run_id))
    except KeyMissingError:
        return None
    try:
        return _Found(stat, _parse_head(store, run_id, body))
    except DamagedHeadError as error:
        return _Found(stat, None, error)


def _take(
    store: ObjectStore, run_id: str, me: OwnerFacts, lease_s: float, found: _Found | None, take_over: bool
) -> Lease:
    if found is None:
        return _begin(store, run_id, me, lease_s)
    head, stat = found.head, found.stat
    if head is None:
        return _begin_over_damage(store, run_id, me, lease_s, found, take_over)
    if not (take_over or head.released or _is_dead_neighbour(head.owner, me)):
        _require_expired(store, head, stat)
    ours = {"format": HEAD_FORMAT, "epoch": head.epoch + 1, "owner": me, "released": False, "lease_s": lease_s}
    taken = head.model_copy(update=ours | {"renewals": 0, "unkept_starts": head.unkept_starts + 1})
    return Lease(store, run_id, taken, store.replace_if_match(head_key(run_id), encode(taken), stat.tag))


def _begin(store: ObjectStore, run_id: str, me: OwnerFacts, lease_s: float) -> Lease:
    """A run without HEAD: a new one, or one that has lost it."""
    head = _first_head(store, run_id, me, lease_s)
    tag = store.put_if_absent(head_key(run_id), encode(head))
    if head.epoch == 1:
        return Lease(store, run_id, head, tag)
    return Lease(store, run_id, head, tag, (f"{store.url}/{head_key(run_id)} is missing; it was written anew",))


def _begin_over_damage(
    store: ObjectStore, run_id: str, me: OwnerFacts, lease_s: float, found: _Found, take_over: bool
) -> Lease:
    """A HEAD that says nothing: it is replaced once it is old enough that no owner can be alive."""
    age_s = store_time(store, run_id) - found.stat.modified_t
    left_s = lease_s + CLOCK_GRAIN_S - age_s
    if not take_over and left_s >= 0:
        raise LeasedError(
            f"{found.damage}; it was written {age_s:.0f} s ago, so its owner may be alive: try again in "
            f"{left_s:.0f} s, or use --take-over",
            left_s,
            found.stat.tag,
        )
    quarantine(store, run_id, head_key(run_id))
    head = _first_head(store, run_id, me, lease_s)
    tag = store.replace_if_match(head_key(run_id), encode(head), found.stat.tag)
    return Lease(store, run_id, head, tag, (f"{found.damage}; it was put into quarantine and written anew",))


def _first_head(store: ObjectStore, run_id: str, me: OwnerFacts, lease_s: float) -> Head:
    """HEAD of a new run; of one that has lost it, by what its snapshots and blobs say."""
    found = (_EPOCH_IN_KEY.search(stat.key) for stat in store.list(f"{run_id}/"))
    seen = max((int(match[1]) for match in found if match), default=0)
    newest = next(iter(committed_ids(snapshot_ids(store, run_id), None)), "")
    epoch = seen + LOST_HEAD_STEP if seen else 1
    return Head(run_id=run_id, epoch=epoch, owner=me, lease_s=lease_s, snapshot=newest, unkept_starts=1)


def _require_expired(store: ObjectStore, head: Head, stat: Stat) -> None:
    age_s = store_time(store, head.run_id) - stat.modified_t
    left_s = head.lease_s + CLOCK_GRAIN_S - age_s
    if left_s >= 0:
        raise LeasedError(
            f"run {head.run_id!r} in {store.url} is owned by {_who(head.owner)}, which renewed {max(age_s, 0):.0f} s "
            f"ago; it may be taken over in {left_s:.0f} s if it stays silent, or at once with --take-over",
            left_s,
            stat.tag,
        )


def _parse_head(store: ObjectStore, run_id: str, body: bytes) -> Head:
    where = f"{store.url}/{head_key(run_id)}"
    try:
        head = Head.model_validate(parse(body, HEAD_FORMAT, where))
        if head.run_id != run_id:
            raise ValueError(f"it is of run {head.run_id!r}")
        if head.snapshot:
            split_id(head.snapshot)
    except ValueError as error:
        raise DamagedHeadError(f"{where} is damaged: {fault_of(error)}") from error
    return head


def _is_dead_neighbour(owner: OwnerFacts, me: OwnerFacts) -> bool:
    """The owner was a process of our own place, and that process does not exist any more."""
    return owner.place == me.place and started_s(owner.pid) != owner.started_s


def _who(owner: OwnerFacts) -> str:
    return f"pid {owner.pid} on {owner.host} ({owner.place})"

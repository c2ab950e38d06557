"""Holding a run in its store: owned, renewed, and brought here while inside; let go at the end."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from configs.errors import FencedError, ProjectError
from configs.files import read_json, write_json
from configs.run_dir import RunDir
from configs.schema import StoreConfig
from runner.heartbeat import beat
from runner.host.where import this_host
from runner.store.layout import Head, Snapshot, Spent, head_key
from runner.store.lease import CLOCK_GRAIN_S, DamagedHeadError, Lease, LeasedError, acquire, owner_facts, read_head
from runner.store.objects import KeyMissingError, ObjectStore
from runner.store.open import open_store
from runner.store.place import OWNERS, bring_here, go_on_without

CONTACT_S = 15.0
"""A store that does not answer for so long at the start is unreachable; later it is waited for."""
RENEWALS_PER_LEASE = 3
LONGEST_WAIT_S = 90.0
"""For the lease of an owner that may be gone; a machine that was launched for the run has nothing else to do."""
LOOK_EVERY_S = 1.0
FIRST_WORD_S, LAST_WORD_S = 5.0, 600.0
"""Spacing of what is told about a trouble that lasts."""

MOST_FORMER = 20
"""Former owners that are remembered; those that were refused are among them."""


class Trouble:
    """What is wrong with the store, told with increasing spacing. Thread-safe."""

    def __init__(self) -> None:
        """Begin without trouble, and with nobody to tell."""
        self.tell: Callable[[str], None] = lambda _says: None
        """What it raises of a full disk is ignored: the threads that are in trouble go on."""
        self.last = ""
        """The newest error; empty while all is well."""
        self.meanwhile = ""
        """What goes on all the same, said with it."""
        self._lock = threading.Lock()
        self._since_s, self._next_s, self._spacing_s = 0.0, 0.0, FIRST_WORD_S

    def note(self, error: Exception) -> None:
        """A call failed."""
        now_s = time.monotonic()
        with self._lock:
            if not self.last:
                self._since_s, self._next_s, self._spacing_s = now_s, now_s, FIRST_WORD_S
            self.last = str(error) or type(error).__name__
            if now_s < self._next_s:
                return
            self._next_s, self._spacing_s = now_s + self._spacing_s, min(2 * self._spacing_s, LAST_WORD_S)
            lasted_s = now_s - self._since_s
        self._say(f"store: trouble for {lasted_s:.0f} s{self.meanwhile}: {self.last}")

    def over(self) -> None:
        """A call succeeded."""
        with self._lock:
            if not self.last:
                return
            self.last = ""
            lasted_s = time.monotonic() - self._since_s
        self._say(f"store: well again after {lasted_s:.0f} s")

    def _say(self, says: str) -> None:
        with contextlib.suppress(OSError):
            self.tell(says)


class Renewals:
    """Renews the lease while inside, from before the run is brought here until it is let go."""

    def __init__(self, lease: Lease, lease_s: float, spent: Callable[[], Spent], trouble: Trouble) -> None:
        """Wrap a lease that was just acquired."""
        self._lease, self._every_s, self._spent, self._trouble = lease, lease_s / RENEWALS_PER_LEASE, spent, trouble
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._renew, name="lease", daemon=True)
        self.fenced: FencedError | None = None

    def __enter__(self) -> Renewals:
        """Start."""
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        """Stop; a renewal under way is left to end by itself."""
        self._ended.set()

    def _renew(self) -> None:
        while not self._ended.wait(self._every_s):
            try:
                self._lease.renew(self._spent())
            except FencedError as error:
                self.fenced = error
                return
            except Exception as error:  # noqa: BLE001 -- a fault here must neither end the run nor the renewals
                self._trouble.note(error)
            else:
                self._trouble.over()


class Hold:
    """A run that is ours."""

    def __init__(self, lease: Lease, lease_s: float, trouble: Trouble, cancel: threading.Event) -> None:
        """Wrap a lease that was just acquired."""
        self.lease, self.trouble = lease, trouble
        self.cancel = cancel
        """Once set, a call to the store that fails is not tried again."""
        self.spent: Callable[[], Spent] = lambda: lease.head.spent
        """What the run has used, as HEAD is told with each renewal."""
        self.known: Snapshot | None = None
        """What the store had of the run directory when it was brought here."""
        self.abandoned = False
        """A call to the store was left to itself; it may hold the lease's lock for long."""
        self.renewals = Renewals(lease, lease_s, lambda: self.spent(), trouble)

    def let_go(self) -> None:
        """Release the lease, by one attempt; one that is not released expires."""
        self.cancel.set()
        if not self.abandoned and not self.trouble.last and not self.renewals.fenced:
            with contextlib.suppress(ProjectError):
                self.lease.release(self.spent())


def contact(url: str, run_id: str) -> Head | None:
    """The run's HEAD, read in a way that fails soon where the store cannot be used at all.

    None where there is none, or a damaged one, which `acquire` mends.

    Raises:
        StoreError: it is unreachable, denies access, or is of a newer version; the message says what to do.
    """
    with contextlib.suppress(DamagedHeadError):
        return read_head(open_store(url, deadline_s=CONTACT_S), run_id)
    return None


@contextlib.contextmanager
def held(run: RunDir, config: StoreConfig, take_over: bool, tell: Callable[[str], None]) -> Iterator[Hold | None]:
    """Own the run in its store while inside, with its newest state in the run directory; None where it has no store.

    Raises:
        OwnedByAnotherError: another runner owns it.
        StoreError: the store cannot be used, or nothing in it is whole.
        ConfigError: it has no store, and what is here is half of what one has.
    """
    if not config.url:
        go_on_without(run)
        yield None
        return
    contact(config.url, run.run_id)
    trouble, cancel = Trouble(), threading.Event()
    trouble.tell = tell
    store = open_store(config.url, cancel=cancel, on_retry=lambda _call, error, _wait_s: trouble.note(error))
    lease = _acquire(store, run, config.lease_s, take_over, tell)
    hold = Hold(lease, config.lease_s, trouble, cancel)
    for notice in lease.notices:
        tell(notice)
    with hold.renewals:
        try:
            hold.known = bring_here(run, lease, config.url, tell)
            yield hold
        finally:
            hold.let_go()


def _acquire(store: ObjectStore, run: RunDir, lease_s: float, take_over: bool, tell: Callable[[str], None]) -> Lease:
    """Own the run in its store. A former owner that worked in this very directory is known to be dead, for its kernel
    lock is ours now; a lock counts only among the processes of one kernel, so its boot is noted beside the token."""
    path, boot, me = run.root / OWNERS, _boot(), owner_facts()
    try:
        former = [entry for entry in read_json(path) if entry["boot"] == boot]
        dead = {str(entry["token"]) for entry in former}
    except (OSError, ValueError, TypeError, KeyError):
        former, dead = [], set()
    ours = {"token": me.token, "boot": boot}
    write_json(path, [*former[-MOST_FORMER:], ours])
    try:
        lease = acquire(store, run.run_id, me, lease_s, take_over, dead)
    except LeasedError as error:
        if error.left_s > LONGEST_WAIT_S and not this_host().launched:
            raise
        tell(f"{error}; waiting until it renews or that time is over")
        _while_silent(store, run.run_id, error)
        lease = acquire(store, run.run_id, me, lease_s, take_over, dead)
    write_json(path, [ours])
    return lease


def _while_silent(store: ObjectStore, run_id: str, leased: LeasedError) -> None:
    """Wait until HEAD changes, as a living owner has it do three times a lease, or the lease must have run out."""
    end_s = time.monotonic() + leased.left_s + CLOCK_GRAIN_S
    while (left_s := end_s - time.monotonic()) > 0:
        beat()
        time.sleep(min(LOOK_EVERY_S, left_s))
        try:
            if store.get(head_key(run_id))[1].tag != leased.tag:
                return
        except KeyMissingError:
            return


def _boot() -> str:
    """One start of this machine's kernel, which all its containers share."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()

"""The keeper: brings a run's newest state to its store beside training, which never waits for it.

One thread, at low priority, makes snapshots: one at a time, of the state at that moment. So however many checkpoints
come while one is under way, the next has them all, and nothing queues up. What goes wrong is told in the event log and
tried again for as long as the run lasts; only one thing ends the run: that another runner owns it.
"""

from __future__ import annotations

import math
import os
import shutil
import threading
import time
from collections.abc import Callable
from typing import Any

from configs.errors import CannotWriteError, ExitCode, FencedError, ProjectError
from configs.events import EventLog
from configs.run_dir import RunDir
from configs.schema import StoreConfig
from runner.heartbeat import beat
from runner.store.cut import take_cut
from runner.store.hold import Hold
from runner.store.place import Place, write_place
from runner.store.retention import Retention
from runner.store.upload import Uploader
from runner.view import RUN
from runner.watch import Ending

STAGING = ".cut"
"""Below the run directory, on its volume: a cut is made of hard links."""
THREAD = "keeper"
UPLOAD_NICENESS = 10
FIRST_RETRY_S, LAST_RETRY_S = 0.5, 60.0
POLL_S = 0.05
KEPT_STATES = {"done", "reused"}


class Keeper:
    """Makes snapshots of one run while inside; a `Watcher`."""

    def __init__(self, run: RunDir, hold: Hold, config: StoreConfig, events: EventLog) -> None:
        """Prepare; nothing is started.

        Args:
            run: the run directory, owned by the caller.
            hold: the run in its store.
            config: the store's settings.
            events: the supervisor's log; troubles of the store are told there from here on.
        """
        self._run, self._hold, self._config, self._events = run, hold, config, events
        self._staging = run.root / STAGING
        self._uploader = Uploader(hold.lease, self._staging)
        self._retention = Retention(hold.lease, config.keep_last, config.keep_every)
        self._newest, self._score = hold.known, hold.known.score if hold.known else None
        self._committed = hold.lease.head.snapshot
        self._pending: tuple[str, ...] = ()
        self._changed = threading.Condition()
        self._wanted, self._last_words, self._finished, self._ended = "", "", False, False
        self._failed = ""
        """Why the newest snapshot could not be made; a renewal that succeeds says nothing about that."""
        self._fenced: FencedError | None = None
        self._thread = threading.Thread(target=self._work, name=THREAD, daemon=True)
        hold.trouble.meanwhile = ", training goes on"
        hold.trouble.tell = lambda says: events.emit("retry", RUN, says=says)

    def __enter__(self) -> Keeper:
        """Start the thread."""
        write_place(self._run, self._place())
        shutil.rmtree(self._staging, ignore_errors=True)  # of a start that was killed
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        """Stop it; what it is sending just then is not waited for."""
        self._hold.trouble.tell = lambda _says: None
        self._hold.cancel.set()
        self._end()

    @property
    def committed(self) -> str:
        """Id of the newest snapshot that is known to be in the store; empty before the first."""
        return self._committed

    @property
    def trouble(self) -> str:
        """What is wrong with the store just now; empty while all is well."""
        return self._failed or self._hold.trouble.last

    # -- what the supervisor calls

    def on_event(self, event: dict[str, Any]) -> None:
        """Ask for a snapshot when there is something worth keeping."""
        if event["unit"] == RUN:
            return
        if event["kind"] == "checkpoint":
            self.request(f"checkpoint of {event['unit']}")
        elif event["kind"] == "unit_finished" and event.get("state") in KEPT_STATES:
            self.request(f"{event['unit']} is {event['state']}")
        elif event["kind"] == "metric" and event.get("name") == "validation":
            score = event.get("score")
            if isinstance(score, int | float) and math.isfinite(score):
                self._score = max(score, self._score if self._score is not None else -math.inf)

    def verdict(self) -> Ending | None:
        """The run ends when another runner owns it."""
        fenced = self._fenced or self._hold.renewals.fenced
        return Ending(ExitCode.OWNED_BY_ANOTHER, str(fenced)) if fenced else None

    # -- what the main job calls

    def request(self, reason: str) -> None:
        """Ask for a snapshot; it will hold whatever is there when it is made."""
        with self._changed:
            self._wanted = reason
            self._changed.notify_all()

    def finish(self, reason: str, deadline_s: float, hurried: Callable[[], bool] = lambda: False) -> bool:
        """Commit a last snapshot with everything; whether that succeeded in time.

        Args:
            reason: of the snapshot.
            deadline_s: `time.monotonic` value after which it is given up.
            hurried: asked again and again; true gives it up at once.
        """
        with self._changed:
            self._last_words = reason
            self._changed.notify_all()
            while not (self._finished or self._ended or self.verdict() or time.monotonic() >= deadline_s or hurried()):
                beat()
                self._changed.wait(POLL_S)
            self._hold.abandoned = not self._finished
            return self._finished

    # -- the thread

    def _work(self) -> None:
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), UPLOAD_NICENESS)
        not_before_s, retry_s = 0.0, FIRST_RETRY_S
        while (reason := self._next_request(not_before_s)) is not None:
            not_before_s = time.monotonic() + self._config.min_interval_s
            try:
                self._make_snapshot(reason)
            except FencedError as error:
                self._fenced = error
                return
            except Exception as error:  # noqa: BLE001 -- whatever fails here is told and tried again, training goes on
                self._failed = str(error) or type(error).__name__
                self._hold.trouble.note(error)
                if isinstance(error, CannotWriteError) and reason == self._last_words:
                    self._end()  # the disk is full here, and nobody is left who could make room
                    return
                self._ask_again(reason)
                not_before_s, retry_s = time.monotonic() + retry_s, min(2 * retry_s, LAST_RETRY_S)
            else:
                retry_s = FIRST_RETRY_S

    def _next_request(self, not_before_s: float) -> str | None:
        """The reason of the next snapshot once its time has come; None at the end. A last one does not wait long."""
        with self._changed:
            while not self._ended and not self._finished:
                wait_s = not_before_s - time.monotonic()
                if self._last_words:
                    wait_s = min(wait_s, FIRST_RETRY_S) if self._failed else 0.0
                    not_before_s = min(not_before_s, time.monotonic() + wait_s)
                reason = self._last_words or self._wanted
                if reason and wait_s <= 0:
                    self._wanted = ""
                    return reason
                self._changed.wait(wait_s if reason else None)
            return None

    def _end(self) -> None:
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def _ask_again(self, reason: str) -> None:
        with self._changed:
            self._wanted = self._wanted or reason

    def _make_snapshot(self, reason: str) -> None:
        started_s, is_last = time.monotonic(), reason == self._last_words
        try:
            with take_cut(self._run, self._staging) as cut:
                sent = self._uploader.upload(cut, self._newest, self._hold.cancel)
        finally:
            shutil.rmtree(self._staging, ignore_errors=True)
        snapshot = self._hold.lease.new_snapshot(sent.files, reason, self._hold.spent(), self._score)
        self._pending += (snapshot.id,)
        write_place(self._run, self._place())
        self._hold.lease.commit(snapshot, self._hold.spent())
        self._newest, self._committed, self._pending = snapshot, snapshot.id, ()
        self._failed = ""  # before anybody is told that this was the last one
        self._hold.trouble.over()
        write_place(self._run, self._place(complete=is_last))
        self._events.emit(
            "checkpoint",
            RUN,
            snapshot=snapshot.id,
            files=len(snapshot.files),
            sent_bytes=sent.sent_bytes,
            wall_s=round(time.monotonic() - started_s, 3),
        )
        if is_last:
            with self._changed:
                self._finished = True
                self._changed.notify_all()
        else:
            self._remove_old()

    def _remove_old(self) -> None:
        """Apply the retention; what cannot be removed now is found again after the next snapshot."""
        try:
            self._retention.collect()
        except FencedError:
            raise
        except ProjectError as error:
            self._hold.trouble.note(error)

    def _place(self, complete: bool = False) -> Place:
        return Place(url=self._config.url, committed=self._committed, pending=self._pending, complete=complete)

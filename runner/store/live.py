"""What a run looks like right now, told to its store by its owner and read by whoever follows it from afar.

A thread of its own folds the event log and replaces one small object. Nothing waits for it: where the store cannot be
used, which the lease and the snapshots tell of, the next object is simply a later one. A unit takes 60 bytes while it
waits and about 400 afterwards: 2 to 30 kB for a plan of 80 units, at most 7 MB an hour in 240 requests.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Iterable
from dataclasses import replace

from pydantic import TypeAdapter

from configs.errors import ProjectError
from configs.run_dir import RunDir
from configs.schema import StoreConfig
from runner.say import say
from runner.store.layout import LIVE_FORMAT, Live, live_key
from runner.store.objects import KeyMissingError, ObjectStore
from runner.store.open import open_store
from runner.store.records import encode, parse
from runner.view import EventTail, RunView

ANSWER_S = 10.0
"""An object that takes longer is given up for the next."""
LAST_WORD_S = 1.0
"""Longest wait for the last object at the end."""
NICENESS = 10
NOTABLE = ("warn", "fail")
_VIEWS = TypeAdapter(RunView)


def broadcasting(
    run: RunDir, epoch: int, config: StoreConfig, unit_ids: Iterable[str]
) -> contextlib.AbstractContextManager[object]:
    """A `Broadcast` as often as the configuration says."""
    if not config.live_every_s:
        return contextlib.nullcontext()
    store = open_store(config.url, answer_s=ANSWER_S, deadline_s=ANSWER_S)
    return Broadcast(run, epoch, store, config.live_every_s, unit_ids)


class Broadcast:
    """Tells a store what a run looks like while inside, and once more at the end."""

    def __init__(self, run: RunDir, epoch: int, store: ObjectStore, every_s: float, unit_ids: Iterable[str]) -> None:
        """Prepare; nothing is started.

        Args:
            run: the run directory; what its log says from here on is told.
            epoch: of its owner.
            store: where to.
            every_s: time between two objects.
            unit_ids: units that are shown from the start, in this order.
        """
        self._run, self._epoch, self._store, self._every_s = run, epoch, store, every_s
        self._tail, self._view = EventTail(run.events), RunView(started_t=time.time())
        self._tail.skip()
        self._view.expect(unit_ids)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._work, name="live", daemon=True)

    def __enter__(self) -> Broadcast:
        """Start the thread."""
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        """Tell how it ended, unless that takes long."""
        self._ended.set()
        self._thread.join(LAST_WORD_S)

    def _work(self) -> None:
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)
        try:
            self._tell()
            self._remove_former()
            while not self._ended.wait(self._every_s):
                self._tell()
            self._tell()
        except Exception as error:  # noqa: BLE001 -- a fault here must not end the run
            say(f"nobody can follow this run from afar any more: {type(error).__name__}: {error}")

    def _tell(self) -> None:
        with contextlib.suppress(ProjectError, OSError):
            for event in self._tail.poll():
                self._view.apply(event)
            notable = [check for check in self._view.checks if check.get("verdict") in NOTABLE]
            view = _VIEWS.dump_python(
                replace(self._view, checks=notable, expected=[]), mode="json", exclude_defaults=True
            )
            live = Live(run_id=self._run.run_id, epoch=self._epoch, updated_t=time.time(), view=view)
            self._store.put(live_key(self._run.run_id, self._epoch), encode(live))

    def _remove_former(self) -> None:
        """What earlier owners told is of no use any more."""
        with contextlib.suppress(ProjectError, OSError):
            for stat in self._store.list(f"{self._run.run_id}/live/"):
                if stat.key < live_key(self._run.run_id, self._epoch):
                    self._store.delete(stat.key)


def read_live(store: ObjectStore, run_id: str, epoch: int) -> Live | None:
    """What the owner of that epoch told last; None where it told nothing that can be understood.

    Raises:
        StoreError: the store cannot be used, or a newer version of this program wrote it.
    """
    key = live_key(run_id, epoch)
    try:
        live = Live.model_validate(parse(store.get(key)[0], LIVE_FORMAT, f"{store.url}/{key}"))
        view_in(live)
    except (KeyMissingError, ValueError):
        return None
    return live


def view_in(live: Live) -> RunView:
    """The view that it tells, its times by its owner's clock."""
    return _VIEWS.validate_python(live.view)

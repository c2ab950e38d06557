"""The keeper beside a run that changes, on a directory store that can be taken away."""

from __future__ import annotations

import contextlib
import errno
import math
import os
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from configs.errors import ConfigError, ExitCode
from configs.events import EventLog, read_events
from configs.run_dir import RunDir
from configs.schema import StoreConfig
from runner.store.file import FileStore
from runner.store.hold import FIRST_WORD_S, Hold, Trouble, held
from runner.store.keeper import Keeper
from runner.store.lease import acquire, owner_facts, read_head
from runner.store.objects import Stat, StoreUnreachableError
from runner.store.place import Place, bring_here, go_on_without, read_place
from runner.store.records import snapshot_ids
from runner.store.restore import restore_newest
from runner.store.snapshots import newest_snapshot
from tests.runner.fixture_stages.world import wait_for
from tests.runner.store.runs import RUN, commit, make_run, owner, tree, write

FOREVER_S = 1e9
LOCAL = {"store.json"}


class Fickle(FileStore):
    """A store that can be taken away, and whose uploads can be held back."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.is_down = False
        self.uploads = threading.Event()
        self.uploads.set()
        self.uploading = threading.Event()

    def put(self, key: str, body: bytes | Path) -> str:
        self._look()
        self.uploading.set()
        assert self.uploads.wait(120)
        return super().put(key, body)

    def put_if_absent(self, key: str, body: bytes) -> str:
        self._look()
        return super().put_if_absent(key, body)

    def replace_if_match(self, key: str, body: bytes, tag: str) -> str:
        self._look()
        return super().replace_if_match(key, body, tag)

    def get(self, key: str) -> tuple[bytes, Stat]:
        self._look()
        return super().get(key)

    def _look(self) -> None:
        if self.is_down:
            raise StoreUnreachableError(f"{self.url} does not answer")


class Kept:
    """A run, its store and its keeper."""

    def __init__(self, folder: Path, **config: float) -> None:
        self.run = make_run(folder / "runs")
        self.store = Fickle(folder / "store")
        self.config = StoreConfig(url=self.store.url, min_interval_s=config.pop("min_interval_s", 0), **config)
        self.lease = acquire(self.store, RUN, owner_facts(), self.config.lease_s)
        self.hold = Hold(self.lease, self.config.lease_s, Trouble(), threading.Event())
        self.hold.known = bring_here(self.run, self.lease, self.store.url, print)
        self.events = EventLog(self.run.events, "supervisor")
        self.keeper = Keeper(self.run, self.hold, self.config, self.events)

    def snapshots(self) -> list[str]:
        return snapshot_ids(self.store, RUN)

    def said(self, kind: str) -> list[dict]:
        return [event for event in read_events(self.run.events) if (event["unit"], event["kind"]) == ("run", kind)]

    def finish(self, wait_s: float = 120) -> bool:
        return self.keeper.finish("the end: done", time.monotonic() + wait_s)


@pytest.fixture
def kept(tmp_path) -> Iterator[Kept]:
    with running(Kept(tmp_path)) as kept:
        yield kept


@contextlib.contextmanager
def running(kept: Kept) -> Iterator[Kept]:
    with kept.hold.renewals, kept.keeper, contextlib.closing(kept.events):
        yield kept
        kept.store.is_down = False
        kept.store.uploads.set()
        kept.keeper.__exit__()
        kept.keeper._thread.join(120)


def event(kind: str, unit: str = "ppo/seed-0", **fields) -> dict:
    return {"t": 1.0, "unit": unit, "kind": kind} | fields


@pytest.mark.parametrize(
    ("heard", "reason"),
    [
        (event("checkpoint"), "checkpoint of ppo/seed-0"),
        (event("unit_finished", "prepare", state="done"), "prepare is done"),
        (event("unit_finished", "prepare", state="reused"), "prepare is reused"),
    ],
)
def test_what_is_worth_keeping_is_kept(kept, heard, reason):
    kept.keeper.on_event(heard)
    wait_for(lambda: kept.keeper.committed)
    snapshot = newest_snapshot(kept.store, RUN)
    assert snapshot is not None and (snapshot.id, snapshot.reason) == (kept.keeper.committed, reason)
    wait_for(lambda: kept.said("checkpoint"))
    assert kept.said("checkpoint")[0]["snapshot"] == snapshot.id


def test_what_is_not_worth_keeping_asks_for_nothing(kept):
    for heard in (
        event("progress"),
        event("unit_finished", state="skipped"),
        event("unit_finished", state="failed"),
        event("checkpoint", "run"),
        event("metric", name="validation", score=0.5),
    ):
        kept.keeper.on_event(heard)
    assert kept.finish()
    assert len(kept.snapshots()) == 1


def test_the_last_snapshot_restores_to_the_same_bytes_elsewhere(kept, tmp_path):
    kept.keeper.on_event(event("checkpoint"))
    write(kept.run.log_path("ppo/seed-0"), "started\nsaid more\n")
    assert kept.finish()
    elsewhere = tmp_path / "elsewhere" / RUN
    restore_newest(kept.store, RUN, elsewhere)
    found, here = tree(elsewhere), tree(kept.run.root)
    # the log of the supervisor has grown since by the word of the snapshot itself
    grown = "events/supervisor.jsonl"
    assert here.pop(grown).startswith(found.pop(grown))
    half_written = "stages/ppo/seed-0/history.json"
    assert found == {path: body for path, body in here.items() if path not in {*LOCAL, half_written}}
    assert read_place(kept.run) == Place(url=kept.store.url, committed=kept.keeper.committed, complete=True)


def test_however_many_checkpoints_come_during_an_upload_one_snapshot_follows(kept):
    kept.store.uploads.clear()
    kept.keeper.on_event(event("checkpoint"))
    assert kept.store.uploading.wait(120)
    for number in range(50):
        write(kept.run.log_path("prepare"), f"{number}\n")
        kept.keeper.on_event(event("checkpoint", "prepare"))
    kept.store.uploads.set()
    wait_for(lambda: len(kept.said("checkpoint")) == 2)
    assert kept.finish()
    assert len(kept.said("checkpoint")) == 3


def test_snapshots_keep_their_distance_but_the_last_one_waits_for_nothing(tmp_path):
    with running(Kept(tmp_path, min_interval_s=FOREVER_S)) as kept:
        kept.keeper.request("one")
        wait_for(lambda: kept.keeper.committed)
        kept.keeper.request("two")
        assert kept.finish()
        assert len(kept.snapshots()) == 2
        assert newest_snapshot(kept.store, RUN).reason == "the end: done"


def test_a_store_that_goes_and_comes_back_gets_everything(kept):
    kept.store.is_down = True
    kept.keeper.on_event(event("checkpoint"))
    wait_for(lambda: kept.said("retry"))
    assert "does not answer" in kept.said("retry")[0]["says"] and kept.keeper.trouble
    assert kept.keeper.verdict() is None
    kept.store.is_down = False
    write(kept.run.unit_dir("ppo/seed-0") / "checkpoints" / "300" / "manifest.json", "later\n")
    assert kept.finish()
    assert "stages/ppo/seed-0/checkpoints/300/manifest.json" in newest_snapshot(kept.store, RUN).files
    assert "well again" in kept.said("retry")[-1]["says"] and not kept.keeper.trouble


def test_a_store_that_stays_away_is_given_up_in_time_and_nothing_here_is_lost(kept):
    before = tree(kept.run.root)
    kept.store.is_down = True
    kept.keeper.request("a checkpoint")
    wait_for(lambda: kept.keeper.trouble)
    assert not kept.finish(wait_s=0.3)
    assert kept.keeper.verdict() is None and kept.keeper.trouble
    after = tree(kept.run.root)
    assert {path: after[path] for path in before if path not in {*LOCAL, "events/supervisor.jsonl"}} == {
        path: body for path, body in before.items() if path not in {*LOCAL, "events/supervisor.jsonl"}
    }
    assert not read_place(kept.run).complete


def test_renewals_that_succeed_do_not_hide_why_no_snapshot_can_be_made(tmp_path):
    kept = Kept(tmp_path, lease_s=0.3)
    write(kept.run.root / ".cut", "in the way")
    with running(kept):
        kept.keeper.on_event(event("checkpoint"))
        wait_for(lambda: "cannot write" in kept.keeper.trouble)
        renewals = kept.lease.head.renewals
        wait_for(lambda: kept.lease.head.renewals > renewals + 2)
        assert "cannot write" in kept.keeper.trouble
        (kept.run.root / ".cut").unlink()
        assert kept.finish() and not kept.keeper.trouble


def test_a_disk_that_is_full_at_the_end_is_not_waited_for(tmp_path):
    kept = Kept(tmp_path)
    write(kept.run.root / ".cut", "in the way")
    with running(kept):
        assert not kept.finish(wait_s=math.inf)
        assert "cannot write" in kept.keeper.trouble


def test_a_full_disk_silences_the_threads_and_ends_neither(tmp_path):
    """The log is on the disk that is full; what is said in it about the store cannot be said then."""

    def refuse(*_event: object, **_fields: object) -> None:
        asked.append(1)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    asked: list[int] = []
    with running(Kept(tmp_path, lease_s=0.3)) as kept:
        emit, kept.events.emit = kept.events.emit, refuse
        kept.store.is_down = True
        kept.hold.trouble.note(StoreUnreachableError("first"))
        kept.keeper.on_event(event("checkpoint"))
        wait_for(lambda: "first" not in kept.keeper.trouble)
        kept.store.is_down, kept.events.emit = False, emit
        renewals = kept.lease.head.renewals
        assert kept.finish() and asked
        wait_for(lambda: kept.lease.head.renewals > renewals + 3)


def test_a_second_stop_signal_gives_the_last_upload_up_at_once(kept):
    kept.store.is_down = True
    asked = []
    assert not kept.keeper.finish("the end", time.monotonic() + FOREVER_S, lambda: bool(asked.append(1)) or True)
    assert len(asked) == 1


def test_a_runner_that_was_replaced_ends_with_76_and_commits_nothing(kept):
    kept.keeper.on_event(event("checkpoint"))
    wait_for(lambda: kept.keeper.committed)
    other = acquire(FileStore(kept.store._root), RUN, owner("other"), 60, take_over=True)
    commit(other, kept.run, kept.run.root.parent / "staging")
    head, objects = read_head(kept.store, RUN), tree(kept.store._root)
    kept.keeper.on_event(event("checkpoint"))
    wait_for(lambda: kept.keeper.verdict())
    ending = kept.keeper.verdict()
    assert ending is not None and ending.exit_code == ExitCode.OWNED_BY_ANOTHER and "host-other" in ending.message
    assert not kept.finish()
    assert read_head(kept.store, RUN) == head
    assert objects.items() <= tree(kept.store._root).items()


def test_a_replaced_runner_learns_it_even_while_it_has_nothing_to_store(tmp_path):
    with running(Kept(tmp_path, lease_s=0.3)) as kept:
        acquire(FileStore(kept.store._root), RUN, owner("other"), 60, take_over=True)
        wait_for(lambda: kept.keeper.verdict())


def test_the_best_validation_score_is_kept_across_starts(kept, tmp_path):
    for score in (0.5, 0.75, float("nan"), None, 0.25):
        kept.keeper.on_event(event("metric", name="validation", score=score))
    kept.keeper.on_event(event("metric", name="train", score=99.0))
    assert kept.finish()
    assert newest_snapshot(kept.store, RUN).score == 0.75
    kept.lease.release(kept.hold.spent())
    lease = acquire(kept.store, RUN, owner_facts(), 60)
    hold = Hold(lease, 60, Trouble(), threading.Event())
    hold.known = bring_here(kept.run, lease, kept.store.url, print)
    with Keeper(kept.run, hold, kept.config, kept.events) as keeper:
        keeper.on_event(event("metric", name="validation", score=0.1))
        assert keeper.finish("the end", time.monotonic() + 120)
        keeper._thread.join(120)
    assert newest_snapshot(kept.store, RUN).score == 0.75


def test_old_snapshots_are_removed_while_the_run_goes_on(tmp_path):
    with running(Kept(tmp_path, keep_last=2, keep_every=1_000)) as kept:
        for number in range(5):
            write(kept.run.log_path("prepare"), f"{number}\n")
            kept.keeper.request(f"number {number}")
            wait_for(lambda expected=number + 1: len(kept.said("checkpoint")) == expected)
        wait_for(lambda: len(kept.snapshots()) == 2)


def test_trouble_is_told_with_growing_distance():
    said, trouble = [], Trouble()
    trouble.tell = said.append
    for _ in range(100):
        trouble.note(StoreUnreachableError("no route"))
    assert len(said) == 1 and "no route" in said[0] and FIRST_WORD_S > 1
    trouble.over()
    trouble.over()
    assert len(said) == 2
    trouble.note(StoreUnreachableError("again"))
    assert len(said) == 3


# -- which state a start goes on from


class Elsewhere:
    """Another machine that owns the same run."""

    def __init__(self, store: FileStore, folder: Path) -> None:
        self.run, self.lease = RunDir(folder / RUN), acquire(store, RUN, owner(folder.name), 60, take_over=True)
        self.told: list[str] = []
        self.known = bring_here(self.run, self.lease, store.url, self.told.append)

    def goes_on(self, text: str) -> None:
        write(self.run.log_path("prepare"), text)
        commit(self.lease, self.run, self.run.root / ".cut")


def test_an_empty_machine_gets_the_newest_state(kept, tmp_path):
    assert kept.finish()
    other = Elsewhere(kept.store, tmp_path / "there")
    assert tree(other.run.root).keys() == (tree(kept.run.root).keys() - {"stages/ppo/seed-0/history.json"})
    assert other.known is not None and "restored snapshot" in other.told[-1]


def test_a_directory_that_is_ahead_of_the_store_is_kept(kept):
    assert kept.finish()
    write(kept.run.log_path("prepare"), "newer than the store\n")
    lease = acquire(kept.store, RUN, owner("me again"), 60, take_over=True)
    known = bring_here(kept.run, lease, kept.store.url, pytest.fail)
    assert known is not None and known.id == kept.keeper.committed
    assert kept.run.log_path("prepare").read_text() == "newer than the store\n"


def test_a_commit_whose_success_was_never_heard_of_is_recognised(kept):
    """The process is gone between the commit and its note of it."""
    assert kept.finish()
    done = read_place(kept.run)
    assert Place(url=done.url, committed="", pending=(done.committed,)).covers(done.url, kept.lease.head)
    assert not Place(url=done.url, committed="", pending=("00000009-00000001",)).covers(done.url, kept.lease.head)
    assert not Place(url="file:///elsewhere", committed=done.committed).covers(done.url, kept.lease.head)


def test_a_commit_whose_answer_was_lost_is_recognised_after_the_next_one_was_tried_too(kept):
    replace, answers = kept.store.replace_if_match, iter([True, False])

    def lose_answers(key: str, body: bytes, tag: str) -> str:
        if b'"snapshot": "0' in body and (arrives := next(answers, None)) is not None:
            if arrives:
                replace(key, body, tag)
            kept.store.is_down = not arrives
            raise StoreUnreachableError("no answer")
        return replace(key, body, tag)

    kept.store.replace_if_match = lose_answers
    kept.keeper.request("a checkpoint")
    wait_for(lambda: kept.store.is_down)
    place, head = read_place(kept.run), read_head(FileStore(kept.store._root), RUN)
    assert head is not None and head.snapshot != kept.keeper.committed and place.covers(kept.store.url, head)


def test_only_what_this_very_store_has_counts_as_kept(kept, tmp_path):
    assert kept.finish()
    place, url, head = read_place(kept.run), kept.store.url, kept.lease.head
    assert place.is_kept(url, head) and place.is_kept(f"{url}/", head)
    emptied = acquire(FileStore(tmp_path / "another"), RUN, owner("me"), 60)
    assert not place.is_kept(emptied.store.url, emptied.head) and not place.is_kept(url, emptied.head)
    with held(kept.run, StoreConfig(), False, print) as hold:
        assert hold is None
    assert not read_place(kept.run).is_kept(url, head) and read_place(kept.run).covers(url, head)


def test_half_a_restore_is_only_completed_by_the_store_it_came_from(kept, tmp_path):
    there = RunDir(tmp_path / "there" / RUN)
    write(there.config_yaml, "half a restore")
    write(there.root / "store.json", Place(url=kept.store.url, restoring=True).model_dump_json())
    with pytest.raises(ConfigError, match=f"--store {kept.store.url}"):
        go_on_without(there)
    lease = acquire(FileStore(tmp_path / "another"), RUN, owner("me"), 60)
    assert bring_here(there, lease, lease.store.url, print) is None
    assert not there.config_yaml.exists() and not read_place(there).restoring


def test_a_damaged_head_does_not_keep_a_run_from_its_next_start(kept, tmp_path):
    assert kept.finish()
    copy = FileStore(Path(shutil.copytree(kept.store._root, tmp_path / "copy")))
    copy.put(f"{RUN}/HEAD.json", b"no record")
    there = RunDir(tmp_path / "there" / RUN)
    with held(there, StoreConfig(url=copy.url), True, print) as hold:
        assert hold is not None and hold.known is not None and hold.known.id == kept.keeper.committed
    assert read_head(copy, RUN).snapshot == kept.keeper.committed


def test_a_directory_that_was_left_behind_is_moved_aside_whole(kept, tmp_path):
    assert kept.finish()
    Elsewhere(kept.store, tmp_path / "there").goes_on("from another machine\n")
    stale = tree(kept.run.root)
    told: list[str] = []
    lease = acquire(kept.store, RUN, owner("back here"), 60, take_over=True)
    bring_here(kept.run, lease, kept.store.url, told.append)
    assert kept.run.log_path("prepare").read_text() == "from another machine\n"
    aside = kept.run.root.parent / ".superseded" / f"{RUN}-1"
    assert tree(aside) == stale
    assert str(aside) in told[0]


def test_a_restore_that_was_cut_off_is_completed_and_leaves_nothing_aside(kept, tmp_path):
    assert kept.finish()
    there = RunDir(tmp_path / "there" / RUN)
    write(there.config_yaml, "half a restore")
    write(there.root / "store.json", Place(url=kept.store.url, restoring=True).model_dump_json())
    assert Elsewhere(kept.store, there.root.parent).known is not None
    assert there.config_yaml.read_bytes() == kept.run.config_yaml.read_bytes()
    assert not (tmp_path / "there" / ".superseded").exists()


def test_a_run_begun_without_a_store_is_taken_into_one(tmp_path):
    """The directory has no word of a store, and the store none of the run."""
    kept = Kept(tmp_path)
    assert kept.hold.known is None and not (tmp_path / "runs" / ".superseded").exists()
    with running(kept):
        assert kept.finish()
    assert len(kept.snapshots()) == 1

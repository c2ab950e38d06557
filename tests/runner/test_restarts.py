"""Which starts of a run count as fruitless, and when it is given up."""

import time

import pytest

from configs.events import EventLog
from runner.restarts import CUT_OFF, GivenUpError, fruitless_starts, refuse_fruitless, unseen_starts
from runner.store.layout import Head, Snapshot
from tests.runner.store.runs import owner


class History:
    """The event logs of a run with several starts."""

    def __init__(self, directory) -> None:
        self.directory = directory
        self.log, self.unit_log = EventLog(directory, "supervisor"), EventLog(directory, "ppo/seed-0")

    def start(
        self, exit_code: int | None = None, says: str = "", unit: str = "", checkpoint: str = "", **fields
    ) -> None:
        self.log.emit("run_started", "run")
        if unit:
            self.log.emit("unit_finished", "prepare", state=unit, says="crashed: no such column")
        if checkpoint:
            (self.log if checkpoint == "run" else self.unit_log).emit("checkpoint", checkpoint)
        if exit_code is not None:
            self.log.emit("run_finished", "run", exit_code=exit_code, says=says, **fields)

    def fruitless(self) -> int:
        return len(fruitless_starts(self.directory))


@pytest.fixture
def history(tmp_path):
    history = History(tmp_path)
    yield history
    history.log.close()
    history.unit_log.close()


def test_a_run_without_a_start_may_start(tmp_path):
    refuse_fruitless(tmp_path / "none", 1)


@pytest.mark.parametrize("exit_code", [None, 69, 70, 73, 74, 75, 77, 78, 143])
def test_failed_and_cut_off_starts_count(history, exit_code):
    for _ in range(3):
        history.start(exit_code)
    assert history.fruitless() == 3


@pytest.mark.parametrize(("exit_code", "fields"), [(0, {}), (130, {}), (79, {}), (76, {}), (75, {"signal": "SIGINT"})])
def test_what_is_no_failure_does_not_count_and_does_not_wipe_the_slate(history, exit_code, fields):
    history.start(70)
    history.start(exit_code, **fields)
    history.start(70)
    assert history.fruitless() == 2


def test_a_pre_emption_counts_where_ctrl_c_does_not(history):
    history.start(75, signal="SIGTERM")
    assert history.fruitless() == 1


@pytest.mark.parametrize("progress", [{"unit": "done"}, {"unit": "reused"}, {"checkpoint": "ppo/seed-0"}])
def test_progress_wipes_the_slate_even_in_a_start_that_failed(history, progress):
    history.start(70)
    history.start(70, **progress)
    history.start(70)
    assert history.fruitless() == 1


@pytest.mark.parametrize("other", [{"unit": "failed"}, {"unit": "skipped"}, {"unit": "stopped"}, {"checkpoint": "run"}])
def test_what_was_there_before_is_no_progress(history, other):
    history.start(70)
    history.start(70, **other)
    assert history.fruitless() == 2


def test_the_last_allowed_start_is_allowed_and_the_next_refused_with_reasons_and_the_way_out(history):
    history.start(69, "pre-flight failed\n  memory: found 1 GB")
    history.start(70, unit="failed")
    refuse_fruitless(history.directory, 3)
    history.start()
    with pytest.raises(GivenUpError) as refused:
        refuse_fruitless(history.directory, 3)
    assert refused.value.exit_code == 77
    for part in (
        "exit code 69: pre-flight failed memory: found 1 GB",
        "unit 'prepare' crashed: no such column",
        CUT_OFF,
    ):
        assert part in str(refused.value)
    refuse_fruitless(history.directory, 6)
    assert "runtime.max_fruitless_starts=6" in str(refused.value)


def test_starts_that_left_no_event_are_counted_by_the_store_and_no_start_twice(history):
    kept = Snapshot(run_id="r", id="00000001-00000001", created_t=time.time(), reason="a test", files={})
    head = Head(run_id="r", epoch=9, owner=owner(), lease_s=1, unkept_starts=4)
    assert unseen_starts(history.directory, head, None) == 3, "all before this one"
    history.start()
    assert unseen_starts(history.directory, head, kept) == 2, "the disk was not wiped after one of them"
    later = kept.model_copy(update={"created_t": time.time() + 1})
    assert unseen_starts(history.directory, head, later) == 3, "one that the snapshot has is not counted by HEAD"
    assert unseen_starts(history.directory, head.model_copy(update={"unkept_starts": 1}), kept) == 0


def test_a_container_that_is_killed_again_and_again_before_anything_is_kept_is_given_up(history):
    history.start(70, unit="done")
    history.start(70, "no luck")
    refuse_fruitless(history.directory, 3, unseen=1)
    with pytest.raises(GivenUpError, match=f"3 starts in a row.*\n.*no luck\n.*{CUT_OFF}\n.*{CUT_OFF}"):
        refuse_fruitless(history.directory, 3, unseen=2)

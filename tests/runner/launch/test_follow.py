"""Following runs whose machines are elsewhere: a directory as their store, which a test writes as they would."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from configs.errors import ConfigError, ExitCode, StoreError
from configs.events import EventLog
from configs.files import write_json
from configs.load import resolve
from configs.run_dir import RunDir
from runner import heartbeat
from runner.launch.follow import follow, until_end, until_word
from runner.launch.following import Pace, Rented
from runner.launch.provider import LaunchError
from runner.remote import fetched, light_files
from runner.store.ends import write_end
from runner.store.file import FileStore
from runner.store.layout import End, Spent
from runner.store.lease import Lease, acquire, owner_facts, read_head
from runner.store.live import Broadcast, read_live, view_in
from runner.store.place import read_place
from runner.store.upload import Uploader
from runner.view import RUN as OF_THE_RUN
from tests.runner.fixture_stages.world import wait_for
from tests.runner.store.runs import RUN, commit, make_run

pytestmark = pytest.mark.slow
FAST = Pace(poll_s=0.02, last_poll_s=0.1, silent_s=0.2, ask_s=0.02, gone_s=0.2)
GONE = Rented(lambda: "ended", "pod-1")
RUNNING = Rented(lambda: "running", "pod-1")


class Machine:
    """A machine elsewhere: a run directory, and the store that it is kept in."""

    def __init__(self, folder: Path) -> None:
        self.run = make_run(folder / "machine")
        self.run.run_json.unlink()
        self.run.save_config(resolve("DEMO-USD_1H", "quick").config)
        self.store = FileStore(folder / "store")
        self.url = self.store.url
        self.staging = folder / "staging"

    def take(self) -> Lease:
        return acquire(self.store, RUN, owner_facts(), 60, take_over=True)

    def leave(self, lease: Lease, exit_code: int = 0, reason: str = "") -> None:
        """What a runner does last."""
        write_json(self.run.root / "exit.json", {"exit_code": exit_code, "reason": reason})
        commit(lease, self.run, self.staging, Uploader(lease, self.staging))
        lease.release(Spent())

    def end(self, exit_code: int, reason: str = "", tail: str = "", name: str = "pod-1") -> None:
        end = End(machine=name, exit_code=exit_code, reason=reason, ended_t=time.time(), console_tail=tail)
        write_end(self.store, RUN, end)


@pytest.fixture
def machine(tmp_path) -> Machine:
    return Machine(tmp_path)


class Follower:
    """`follow` in a thread of its own."""

    def __init__(self, machine: Machine, /, **how) -> None:
        self._code: ExitCode | None = None
        self._machine, self._how = machine, {"pace": FAST} | how
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self._thread.start()

    def _follow(self) -> None:
        self._code = follow(self._machine.url, RUN, **self._how)

    def goes_on(self, for_s: float) -> bool:
        self._thread.join(for_s)
        return self._thread.is_alive()

    def ended(self) -> ExitCode | None:
        assert not self.goes_on(120)
        return self._code


class Said(io.StringIO):
    """All that is said; unlike pytest's own it may be read while another thread speaks."""

    _heard = 0

    def until(self, *words: str) -> None:
        """Wait for these words, in this order, in what was said after the last of those waited for before."""
        for each in words:
            wait_for(lambda each=each: each in self.getvalue()[self._heard :])
            self._heard = self.getvalue().index(each, self._heard) + len(each)


@pytest.fixture
def hear(monkeypatch) -> Callable[[], Said]:
    """To be called within a test, for pytest puts its own stream in place before that."""

    def begin() -> Said:
        said = Said()
        monkeypatch.setattr(sys, "stderr", said)
        return said

    return begin


def is_told(machine: Machine) -> bool:
    """The store has a word of the run's owner."""
    return bool(list(machine.store.list(f"{RUN}/live/")))


def at_work(machine: Machine, lease: Lease) -> Broadcast:
    """Tells the store, once entered, what the run's log says from here on: that a unit has begun."""
    broadcast = Broadcast(machine.run, lease.epoch, machine.store, 0.02, ["prepare"])
    EventLog(machine.run.events, "prepare").emit("unit_started", "prepare", attempt=1)
    return broadcast


def test_a_refusal_before_there_is_a_run_is_its_exit_code_with_reason_and_last_lines(machine, capsys):
    machine.end(66, "dataset not found: NONE-USD_1H", "one\ntwo")
    assert follow(machine.url, RUN, pace=FAST) == ExitCode.DATASET_NOT_FOUND
    said = capsys.readouterr()
    assert "error: dataset not found: NONE-USD_1H\n  | one\n  | two\n" in said.err and said.out == ""


def test_only_the_machines_own_end_counts_whatever_others_tell_and_whenever(machine):
    machine.end(70, "an old crash", name="pod-0")
    follower = Follower(machine, machine=RUNNING)
    assert follower.goes_on(5 * FAST.poll_s)
    machine.end(76, "another runner owns this run", name="pod-of-another-computer")
    assert follower.goes_on(5 * FAST.poll_s)
    machine.end(79, "over budget")
    assert follower.ended() == ExitCode.BUDGET


def test_a_machine_that_has_told_its_end_and_is_still_there_is_not_waited_for(machine):
    machine.end(70, "a crash")
    assert follow(machine.url, RUN, machine=RUNNING, pace=FAST) == ExitCode.UNIT_FAILED


def test_of_a_machine_whose_name_inside_is_not_known_the_next_end_counts(machine):
    machine.end(70, "an old crash")
    follower = Follower(machine, machine=Rented(lambda: "running", since_t=time.time()))
    assert follower.goes_on(5 * FAST.poll_s)
    machine.end(79, "over budget", name="whatever")
    assert follower.ended() == ExitCode.BUDGET


def test_a_run_that_was_let_go_before_the_machine_was_asked_for_is_not_taken_for_its_end(machine, capsys):
    machine.leave(machine.take(), 65, "bad data: row 7")
    gone = Rented(lambda: "ended", "pod-1", since_t=time.time())
    assert follow(machine.url, RUN, machine=gone, pace=FAST) == ExitCode.INTERRUPTED
    assert "machine lost" in capsys.readouterr().err


def test_a_machine_that_is_there_too_long_without_a_word_is_79(machine, capsys):
    orphan = Rented(lambda: "running", "pod-1", end_by_t=time.time() + 0.2)
    assert follow(machine.url, RUN, machine=orphan, pace=FAST) == ExitCode.BUDGET
    assert "should have been gone by now" in capsys.readouterr().err


def test_a_run_that_is_heard_is_followed_beyond_its_machines_time(machine):
    lease = machine.take()
    with at_work(machine, lease):
        wait_for(lambda: is_told(machine))
        late = Rented(lambda: "running", "pod-1", end_by_t=time.time())
        follower = Follower(machine, machine=late, pace=Pace(poll_s=0.02, silent_s=300))
        assert follower.goes_on(0.2)
        machine.leave(lease)
        machine.end(0)
    assert follower.ended() == ExitCode.DONE


SHORT = Pace(poll_s=0.02, last_poll_s=0.1, silent_s=0.1, ask_s=0.02, gone_s=0.2, word_s=0.3)


@pytest.mark.parametrize("look", [until_end, until_word])
def test_a_machine_that_runs_and_never_says_a_word_is_69_with_what_it_prints(machine, look):
    mute = Rented(lambda: "running", "pod-1", printed=lambda: ["exec format error"] * 99)
    ending = look(machine.url, RUN, mute, SHORT)
    assert ending.exit_code == ExitCode.MACHINE_UNFIT
    assert "without a word of the run" in ending.message and ending.message.count("\n  | exec format error") == 12


def test_a_run_whose_runner_has_begun_is_not_without_a_word(machine):
    machine.take()
    assert until_word(machine.url, RUN, RUNNING, SHORT) is None
    follower = Follower(machine, machine=RUNNING, pace=SHORT)
    assert follower.goes_on(2 * SHORT.word_s)
    machine.leave(machine.take())
    machine.end(0)
    assert follower.ended() == ExitCode.DONE


def test_the_first_word_may_be_that_the_run_is_refused(machine):
    machine.end(66, "dataset not found")
    ending = until_word(machine.url, RUN, RUNNING, SHORT)
    assert ending.exit_code == ExitCode.DATASET_NOT_FOUND and "dataset not found" in ending.message


def test_a_run_that_is_over_is_told_as_its_exit_record_has_it(machine, capsys):
    machine.leave(machine.take(), 79, "budget: 3 USD")
    assert follow(machine.url, RUN, pace=FAST) == ExitCode.BUDGET
    assert "error: budget: 3 USD" in capsys.readouterr().err


def test_a_machine_that_is_gone_without_a_word_is_75_and_says_what_to_do(machine, capsys):
    machine.take()
    assert follow(machine.url, RUN, machine=GONE, pace=FAST) == ExitCode.INTERRUPTED
    assert "machine lost (ended); the same launch command goes on from the last snapshot" in capsys.readouterr().err


def test_a_machine_that_is_gone_has_time_for_its_last_word(machine):
    follower = Follower(machine, machine=GONE, pace=Pace(poll_s=0.02, gone_s=60))
    assert follower.goes_on(0.1)
    machine.end(78, "bad configuration")
    assert follower.ended() == ExitCode.BAD_CONFIG


def test_the_provider_of_a_run_that_is_heard_is_not_asked(machine):
    asked = []
    lease = machine.take()
    with at_work(machine, lease):
        wait_for(lambda: is_told(machine))
        pace = Pace(poll_s=0.02, silent_s=300, ask_s=0)
        follower = Follower(machine, machine=Rented(lambda: asked.append(1) or "ended", "pod-1"), pace=pace)
        assert follower.goes_on(0.2)
        machine.leave(lease)
        machine.end(0)
        assert follower.ended() == ExitCode.DONE
    assert asked == []


def test_a_provider_that_cannot_be_asked_says_nothing_about_the_machine(machine, hear):
    said = hear()

    def refuse() -> str:
        raise LaunchError("401 for this key")

    follower = Follower(machine, machine=Rented(refuse, "pod-1"))
    said.until("its provider cannot be asked: 401 for this key")
    assert follower.goes_on(2 * FAST.gone_s)
    machine.end(66)
    assert follower.ended() == ExitCode.DATASET_NOT_FOUND


def test_a_stop_with_a_machine_that_goes_on_is_no_end(machine):
    lease = machine.take()
    follower = Follower(machine, machine=RUNNING)
    machine.leave(lease, 75, "interrupted")
    assert follower.goes_on(2 * FAST.gone_s), "its provider starts the container anew"
    machine.leave(machine.take(), 0)
    machine.end(0)
    assert follower.ended() == ExitCode.DONE


def test_a_stopped_run_whose_machine_is_gone_ends_as_it_was_recorded(machine):
    machine.leave(machine.take(), 79, "budget")
    assert follow(machine.url, RUN, machine=GONE, pace=FAST) == ExitCode.BUDGET


def test_what_the_next_owner_does_is_shown_after_what_the_former_did(machine, hear):
    said = hear()
    first = machine.take()
    with at_work(machine, first):
        follower = Follower(machine)
        said.until("prepare: running")
    second = machine.take()
    with at_work(machine, second):
        EventLog(machine.run.events, "prepare").emit("unit_finished", "prepare", state="done")
        said.until("lost or stopped; another goes on", "prepare: done")
    machine.leave(second)
    assert follower.ended() == ExitCode.DONE


def test_a_silence_is_told_and_so_is_its_end(machine, hear):
    said = hear()
    lease = machine.take()
    with at_work(machine, lease):
        follower = Follower(machine)
        said.until("the run is at work")
    said.until("no word from the run")
    with at_work(machine, lease):
        said.until("the run is at work")
    machine.leave(lease)
    assert follower.ended() == ExitCode.DONE


def test_following_is_progress_by_which_a_container_is_called_healthy(machine, tmp_path, monkeypatch):
    monkeypatch.setenv("SEQUENCE_HEARTBEAT", str(tmp_path / "heartbeat"))
    monkeypatch.setattr(heartbeat, "_beaten_s", -1e9)
    lease = machine.take()
    follower = Follower(machine)
    wait_for(lambda: list(tmp_path.glob("heartbeat.*")))
    machine.leave(lease)
    assert follower.ended() == ExitCode.DONE


def test_pre_flights_findings_and_the_estimate_are_told_before_the_table(machine, capsys):
    lease = machine.take()
    events = EventLog(machine.run.events, "supervisor")
    with at_work(machine, lease):
        time_s = {"low": 60.0, "expected": 90.0, "high": 150.0}
        cost = {"low": 0.1, "expected": 0.25, "high": 0.4}
        events.emit("check", OF_THE_RUN, name="disk", found="1 GB", verdict="warn", remedy="free space")
        events.emit("plan", OF_THE_RUN, wall_s=time_s, cost_usd=cost)
        wait_for(lambda: (live := read_live(machine.store, RUN, lease.epoch)) and view_in(live).plan)
    machine.leave(lease)
    assert follow(machine.url, RUN, pace=FAST) == ExitCode.DONE
    said = capsys.readouterr().err
    assert "pre-flight, warn: disk: 1 GB; free space" in said and "expected: 1:30 (1:00 to 2:30), 0.25 USD" in said


def test_an_unnamed_store_is_refused_and_so_is_one_that_says_what_no_version_writes(tmp_path):
    with pytest.raises(ConfigError):
        follow("bucket/prefix", RUN, pace=FAST)
    store = FileStore(tmp_path)
    store.put(f"{RUN}/HEAD.json", b"{")
    with pytest.raises(StoreError):
        follow(store.url, RUN, pace=FAST)


def test_what_is_fetched_is_light_and_marked_as_a_part(machine, tmp_path):
    machine.leave(machine.take())
    here = tmp_path / "here"
    assert follow(machine.url, RUN, to=here, pace=FAST) == ExitCode.DONE
    run = RunDir(here / RUN)
    assert run.report.read_bytes() == machine.run.report.read_bytes() and run.config_yaml.exists()
    assert read_place(run).restoring
    assert not [*run.root.rglob("*.safetensors"), *run.root.rglob("bars.parquet")]


def test_a_directory_with_another_state_of_the_run_is_left_alone_and_the_report_lies_beside(machine, tmp_path, capsys):
    machine.leave(machine.take())
    own = tmp_path / "here" / RUN / "config.yaml"
    own.parent.mkdir(parents=True)
    own.write_text("mine")
    assert follow(machine.url, RUN, to=tmp_path / "here", pace=FAST) == ExitCode.DONE
    assert [path.name for path in own.parent.iterdir()] == ["config.yaml"] and own.read_text() == "mine"
    beside = tmp_path / "here" / f"{RUN}-report.html"
    assert beside.read_bytes() == machine.run.report.read_bytes() and str(beside) in capsys.readouterr().out


def test_ctrl_c_ends_the_following_and_says_that_the_run_goes_on(machine):
    machine.take()
    command = [sys.executable, "-m", "runner.cli", "status", RUN, "--store", machine.url, "--follow"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=os.environ) as follower:
        assert "the runner has begun" in follower.stderr.readline()
        follower.send_signal(signal.SIGINT)
        said = follower.stderr.read()
    assert follower.returncode == ExitCode.CTRL_C
    assert f"the run goes on: `sequence-runner status {RUN} --store {machine.url} --follow` follows it again" in said
    assert not read_head(machine.store, RUN).released


def test_a_table_that_lives_is_no_json(machine):
    shown = subprocess.run(
        [sys.executable, "-m", "runner.cli", "status", RUN, "--store", machine.url, "--follow", "--json"],
        capture_output=True,
        text=True,
    )
    assert shown.returncode == 2 and "leave out --json" in shown.stderr


def test_status_is_what_the_owner_told_last_until_it_lets_the_run_go(machine):
    lease = machine.take()
    commit(lease, machine.run, machine.staging, Uploader(lease, machine.staging))
    with at_work(machine, lease):
        wait_for(lambda: is_told(machine))
        with fetched(machine.url, RUN, light_files) as remote:
            assert remote.live.units["prepare"].state == "running"
    machine.leave(lease)
    with fetched(machine.url, RUN, light_files) as remote:
        assert remote.live is None

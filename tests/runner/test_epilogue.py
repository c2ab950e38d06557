"""What follows the units, with each step made to fail or to be interrupted."""

from __future__ import annotations

import contextlib
import json
import math
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from configs.errors import ExitCode
from configs.events import EventLog, read_events
from configs.run_dir import Request, RunDir
from runner import epilogue
from runner.epilogue import Epilogue
from runner.exit_record import read_exit_record
from runner.guard import Terminated
from runner.stopping import StopSignals
from runner.store.layout import Spent
from runner.watch import Ending
from tests.runner.report_sample import make_run

DONE = Ending(ExitCode.DONE)
SECRET = "ghp_" + "a1B2" * 9


@dataclass
class StubKeeper:
    """Stands for a store that does as it is told."""

    succeeds: bool = True
    fenced: Ending | None = None
    trouble: str = ""
    committed: str = "00000007-00000001"
    during: Callable[[], object] = lambda: None
    reasons: list[str] = field(default_factory=list)

    def finish(self, reason: str, _deadline_s: float, hurried: Callable[[], bool]) -> bool:
        self.reasons.append(reason)
        self.during()
        return self.succeeds and not hurried()

    def verdict(self) -> Ending | None:
        return self.fenced


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> RunDir:
    return make_run(tmp_path_factory.mktemp("runs"))


@pytest.fixture(autouse=True)
def no_figures(monkeypatch, run):
    """The report has tests of its own."""

    def write(run: RunDir) -> Path:
        run.report.parent.mkdir(parents=True, exist_ok=True)
        run.report.write_text("report")
        return run.report

    run.report.unlink(missing_ok=True)
    monkeypatch.setattr(epilogue, "render_report", write)


@contextlib.contextmanager
def ready(run: RunDir, keeper: StubKeeper | None = None, grace_s: float = 60) -> Iterator[Epilogue]:
    with contextlib.closing(EventLog(run.events, "supervisor")) as events, StopSignals(grace_s) as signals:
        spent = Spent(wall_s=120.0, cost_usd=1.5)
        yield Epilogue(run, run.load_config(), events, signals, lambda: spent, keeper=keeper)


def last_finish(run: RunDir) -> dict:
    return [event for event in read_events(run.events) if event["kind"] == "run_finished"][-1]


def test_a_good_end_leaves_record_event_report_and_snapshot(run):
    keeper = StubKeeper()
    with ready(run, keeper) as end:
        assert end.wind_up(DONE) == DONE
    record = read_exit_record(run)
    assert (record["exit_code"], record["reason"], record["cost_usd"], record["wall_s"]) == (0, "done", 1.5, 120.0)
    assert record["last_snapshot"] == keeper.committed
    assert (last_finish(run)["exit_code"], last_finish(run)["signal"]) == (0, "")
    assert run.report.is_file() and keeper.reasons == ["the end: done"]


def test_a_verdict_on_agents_that_changed_since_is_not_told_again(run):
    run.save_request(Request(unit="evaluate", cache_key="key", inputs={"ppo/seed-0": "of other agents"}))
    told = run.save_result("evaluate", {"verdict": "edge"})
    with ready(run) as end:
        end.wind_up(DONE)
    assert last_finish(run)["verdict"] is None
    run.save_request(Request(unit="evaluate", cache_key="key", inputs={}))
    with ready(run) as end:
        end.wind_up(DONE)
    assert last_finish(run)["verdict"] == told.metrics["verdict"]


def test_the_record_names_the_failed_unit_and_the_end_of_its_log_without_secrets(run):
    log = run.log_path("ppo/seed-1")
    log.parent.mkdir(parents=True, exist_ok=True)
    log.write_text("".join(f"line {number}\n" for number in range(100)) + f"token {SECRET}\n")
    with contextlib.closing(EventLog(run.events, "supervisor")) as events:
        events.emit("unit_finished", "ppo/seed-1", state="failed", says="crashed")
    with ready(run) as end:
        end.wind_up(Ending(ExitCode.UNIT_FAILED, f"unit 'ppo/seed-1' crashed with {SECRET}"))
    record = read_exit_record(run)
    assert (record["stage"], record["exit_code"]) == ("ppo/seed-1", 70)
    assert record["reason"].startswith("a unit failed: unit 'ppo/seed-1' crashed")
    assert record["log_tail"].splitlines()[0] == "line 61" and len(record["log_tail"].splitlines()) == 40
    assert SECRET not in json.dumps(record)


def test_a_last_upload_that_is_impossible_makes_74_of_success_only(run):
    keeper = StubKeeper(succeeds=False, trouble="no route to host")
    with ready(run, keeper) as end:
        ending = end.wind_up(DONE)
        assert ending.exit_code == ExitCode.STORE_DAMAGED
        assert "no route to host" in ending.message and str(run.root) in ending.message
        assert read_exit_record(run)["exit_code"] == last_finish(run)["exit_code"] == 74
        for code in (ExitCode.INTERRUPTED, ExitCode.BUDGET, ExitCode.UNIT_FAILED):
            ending = end.wind_up(Ending(code, "why"))
            assert ending.exit_code == code and ending.message.startswith("why; ") and "no route" in ending.message


def test_a_replaced_runner_tells_nobody_but_its_own_directory(run):
    keeper = StubKeeper()
    with ready(run, keeper) as end:
        fenced = Ending(ExitCode.OWNED_BY_ANOTHER, "taken over")
        assert end.wind_up(fenced) == fenced
        assert not run.report.exists() and keeper.reasons == []
        assert read_exit_record(run)["exit_code"] == 76
        late = StubKeeper(succeeds=False, fenced=fenced)
        end.keeper = late
        assert end.wind_up(DONE) == fenced


def test_a_report_that_fails_is_said_and_the_upload_still_tried(run, monkeypatch, capsys):
    def fail(_run: RunDir) -> Path:
        raise ValueError("a broken figure")

    monkeypatch.setattr(epilogue, "render_report", fail)
    keeper = StubKeeper()
    with ready(run, keeper) as end:
        ending = end.wind_up(DONE)
        assert ending.exit_code == ExitCode.UNIT_FAILED and "a broken figure" in ending.message
        assert end.wind_up(Ending(ExitCode.BUDGET)) == Ending(ExitCode.BUDGET)
    assert len(keeper.reasons) == 2 and "a broken figure" in capsys.readouterr().err


def test_with_little_time_left_the_report_gives_way_to_the_upload(run):
    keeper = StubKeeper()
    with ready(run, keeper) as end:
        with end.signals.shield():
            kill_me(signal.SIGTERM)
        end.signals.limit(time.monotonic() + 5)
        assert end.wind_up(Ending(ExitCode.INTERRUPTED)).exit_code == ExitCode.INTERRUPTED
    assert not run.report.exists() and len(keeper.reasons) == 1
    assert last_finish(run)["signal"] == "SIGTERM"


@pytest.mark.parametrize("stopped", [True, False], ids=["stopped", "budget"])
def test_a_run_that_has_no_time_left_for_its_report_is_not_done(run, stopped):
    with ready(run) as end:
        if stopped:
            with end.signals.shield():
                kill_me(signal.SIGTERM)
        end.signals.limit(time.monotonic() + 5)
        assert end.wind_up(DONE).exit_code == ExitCode.INTERRUPTED
    assert read_exit_record(run)["exit_code"] == last_finish(run)["exit_code"] == 75


def kill_me(number: int) -> None:
    os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_during_the_report_ends_it_and_keeps_the_run(run, monkeypatch, number):
    def interrupted(_run: RunDir) -> Path:
        kill_me(number)
        assert not threading.Event().wait(10), "the signal comes first"
        raise AssertionError("not interrupted")

    monkeypatch.setattr(epilogue, "render_report", interrupted)
    keeper = StubKeeper()
    with ready(run, keeper) as end:
        ending = end.wind_up(DONE)
        assert end.signals.left_s() <= 60
    assert ending.exit_code == ExitCode.INTERRUPTED and len(keeper.reasons) == 1
    assert last_finish(run)["signal"] == number.name and read_exit_record(run)["exit_code"] == 75


def test_a_signal_during_the_last_upload_does_not_break_it(run):
    keeper = StubKeeper(during=lambda: kill_me(signal.SIGTERM))
    with ready(run, keeper) as end:
        assert end.wind_up(DONE) == DONE


def test_a_second_signal_gives_the_last_upload_up(run):
    keeper = StubKeeper(during=lambda: [kill_me(signal.SIGTERM), kill_me(signal.SIGTERM)])
    with ready(run, keeper) as end:
        assert end.wind_up(DONE).exit_code == ExitCode.INTERRUPTED


def test_outside_a_shield_a_signal_interrupts_and_sets_the_deadline():
    with StopSignals(30) as signals:
        assert signals.left_s() == math.inf and not signals.hurried
        with pytest.raises(Terminated):
            kill_me(signal.SIGTERM)
        assert 0 < signals.left_s() <= 30 and signals.name == "SIGTERM"
        kill_me(signal.SIGINT)
        assert signals.hurried and signals.name == "SIGTERM", "once interrupted, the next ones are only counted"

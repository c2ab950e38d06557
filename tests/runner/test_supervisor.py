"""The supervisor with real processes."""

import json
import os
import signal
import subprocess
from pathlib import Path

import pytest

from configs.errors import ExitCode
from configs.events import read_events
from configs.run_dir import RunDir
from runner.guard import NotRunningError, OwnedByAnotherError, Owner, owner_of, signal_owner
from tests.runner.fixture_stages.world import CHAIN, ONE, SOON, World, lives, wait_for

pytestmark = pytest.mark.slow


def kinds(run: RunDir, unit: str) -> list[str]:
    return [event["kind"] for event in read_events(run.events) if event["unit"] == unit]


def finished(run: RunDir) -> dict[str, dict]:
    return {event["unit"]: event for event in read_events(run.events) if event["kind"] == "unit_finished"}


def test_units_run_once_each_after_what_they_need(world):
    assert world.supervise().exit_code == ExitCode.DONE
    order = [event["unit"] for event in read_events(world.run.events) if event["kind"] == "unit_started"]
    assert sorted(order) == ["first", "last", "second", "third"]
    assert order[0] == "first" and order[-1] == "last"


def test_units_that_do_not_need_each_other_run_side_by_side(world):
    world.plans(second={"until": "third-1"}, third={"until": "second-1"})
    world.supervise()
    at = {(event["unit"], event["kind"]): event["t"] for event in read_events(world.run.events)}
    assert at["third", "unit_started"] < at["second", "unit_finished"]
    assert at["second", "unit_started"] < at["third", "unit_finished"]


def test_one_parallel_unit_never_overlaps_another(tmp_path):
    world = World(tmp_path / "one", "runtime.workers=1")
    world.plans()
    world.supervise()
    open_units, most = 0, 0
    for event in read_events(world.run.events):
        open_units += {"unit_started": 1, "unit_finished": -1}.get(event["kind"], 0)
        most = max(most, open_units)
    assert most == 1


def test_units_on_the_gpu_run_one_at_a_time(world):
    world.limits = {"uses_gpu": True}
    world.plans(second={"seconds": 0.2})
    world.supervise()
    events = [event for event in read_events(world.run.events) if event["unit"] in ("second", "third")]
    edges = [event["kind"] for event in events if event["kind"] in ("unit_started", "unit_finished")]
    assert edges == ["unit_started", "unit_finished"] * 2


def test_a_finished_run_starts_nothing_again(world):
    world.supervise()
    assert world.supervise().exit_code == ExitCode.DONE
    assert {event["state"] for event in finished(world.run).values()} == {"skipped"}
    assert world.starts("first") == 1


def test_a_damaged_output_is_made_again_and_its_dependants_are_not(world):
    world.supervise()
    (world.run.unit_dir("second") / "made.txt").write_text("damaged")
    assert world.supervise().exit_code == ExitCode.DONE
    assert (world.starts("second"), world.starts("last"), world.starts("first")) == (2, 1, 1)


def test_a_file_left_by_an_earlier_request_is_no_output(world):
    world.needs = ONE
    world.plans(first={"crash": "no"})
    world.supervise()
    stale = world.run.unit_dir("first") / "stale.txt"
    stale.write_text("left behind")
    world.plans()
    world.supervise()
    result = world.run.result("first")
    assert result is not None and set(result.outputs) == {"made.txt"}


def test_equal_units_of_a_sibling_run_are_linked_and_said_so(world, tmp_path):
    world.needs = CHAIN
    world.supervise()
    other = World(tmp_path / "runs" / "two")
    other.needs = CHAIN
    other.plans()
    assert other.supervise().exit_code == ExitCode.DONE
    assert finished(other.run)["second"]["state"] == "reused"
    assert "one" in finished(other.run)["second"]["says"]
    paths = [run.unit_dir("second") / "made.txt" for run in (world.run, other.run)]
    assert paths[0].samefile(paths[1])


def test_a_fresh_run_links_nothing(world, tmp_path):
    world.needs = ONE
    world.supervise()
    other = World(tmp_path / "runs" / "two")
    other.needs = ONE
    other.plans()
    other.supervise(reuse=False)
    assert {event["state"] for event in finished(other.run).values()} == {"done"}


def test_a_killed_unit_is_tried_again(world):
    world.needs = ONE
    world.plans(first={"killed_attempts": 1})
    assert world.supervise().exit_code == ExitCode.DONE
    assert kinds(world.run, "first").count("retry") == 1
    assert finished(world.run)["first"]["state"] == "done"


def test_a_unit_killed_at_every_attempt_is_given_up(world):
    world.needs = ONE
    world.plans(first={"killed_attempts": 9})
    ending = world.supervise()
    assert ending.exit_code == ExitCode.GIVEN_UP
    assert world.starts("first") == 2
    assert "first" in ending.message and "killed" in ending.message


def test_a_crash_is_not_tried_again_and_stops_the_others(world):
    world.plans(second={"crash": "the sum is wrong"}, third={"seconds": 30})
    ending = world.supervise()
    assert ending.exit_code == ExitCode.UNIT_FAILED
    assert "the sum is wrong" in ending.message and "Traceback" not in ending.message
    assert str(world.run.log_path("second")) in ending.message
    assert (world.starts("second"), world.starts("last")) == (1, 0)
    assert finished(world.run)["third"]["state"] == "stopped"


def test_the_exit_code_of_a_project_error_is_the_runs(world):
    world.plans(first={"fault": "row 7 has high 1.0 below close 2.0"})
    ending = world.supervise()
    assert ending.exit_code == ExitCode.BAD_DATA
    assert "row 7 has high 1.0 below close 2.0" in ending.message


def test_a_unit_that_ends_well_without_a_result_fails(world):
    world.plans(first={"exit": 0})
    ending = world.supervise()
    assert ending.exit_code == ExitCode.UNIT_FAILED
    assert "no valid result" in ending.message


def test_a_unit_past_its_time_limit_is_stopped_even_when_it_does_not_listen(tmp_path):
    world = World(tmp_path / "one", SOON)
    world.limits = {"timeout_s": 0.8}
    world.plans(first={"seconds": 60, "deaf": True})
    ending = world.supervise()
    assert finished(world.run)["first"]["reason"] == "timed_out"
    assert ending.exit_code == ExitCode.UNIT_FAILED and "unit_timeout_s" in ending.message


def test_a_silent_unit_is_stopped_and_tried_again(world):
    world.needs = ONE
    world.limits = {"stall_timeout_s": 1.0}
    world.plans(first={"seconds": 60, "silent": True})
    world.supervise()
    assert finished(world.run)["first"]["reason"] == "stalled"
    assert kinds(world.run, "first").count("unit_started") == 2


def test_a_unit_that_reports_is_left_alone_however_long_it_works(world):
    world.needs = ONE
    world.limits = {"stall_timeout_s": 8.0}
    world.plans(first={"seconds": 10})
    world.supervise()
    assert finished(world.run)["first"]["state"] == "done"
    assert world.starts("first") == 1


def test_what_a_unit_leaves_running_is_killed_with_it(world):
    world.needs = ONE
    world.plans(first={"child": True})
    world.supervise()
    assert not lives(world.pid("first-child"))


def test_sigterm_with_progress_is_75_and_the_next_start_goes_on(world):
    world.needs = CHAIN
    world.plans(second={"seconds": 60})
    process = world.in_own_process()
    wait_for(lambda: world.starts("second"))
    process.send_signal(signal.SIGTERM)
    assert process.wait(120) == ExitCode.INTERRUPTED
    assert finished(world.run)["second"]["state"] == "stopped"
    world.plans()
    assert world.supervise().exit_code == ExitCode.DONE
    assert world.starts("first") == 1


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stop_before_any_progress_keeps_the_signals_own_code(world, number, code):
    world.plans(first={"seconds": 60})
    process = world.in_own_process()
    wait_for(lambda: world.starts("first"))
    process.send_signal(number)
    assert process.wait(120) == code


def test_a_checkpoint_is_durable_progress(world):
    world.needs = ONE
    world.plans(first={"seconds": 60, "checkpoint": True})
    process = world.in_own_process()
    wait_for(lambda: (world.run.unit_dir("first") / "checkpoints/1/manifest.json").exists())
    process.send_signal(signal.SIGINT)
    assert process.wait(120) == ExitCode.INTERRUPTED
    world.plans()
    world.supervise()
    assert (world.run.unit_dir("first") / "checkpoints/1/manifest.json").exists(), "a checkpoint outlives a restart"


def test_a_second_ctrl_c_kills_at_once(tmp_path):
    world = World(tmp_path / "one", "runtime.stop_grace_s=600")
    world.needs = ONE
    world.plans(first={"seconds": 60, "deaf": True})
    process = world.in_own_process()
    wait_for(lambda: world.starts("first"))
    process.send_signal(signal.SIGINT)
    wait_for(lambda: (world.run.root / "starts" / "asked-to-stop").exists())
    process.send_signal(signal.SIGINT)
    assert process.wait(120) == ExitCode.CTRL_C
    assert not lives(world.pid("first-1"))


def test_no_process_outlives_a_killed_supervisor(world):
    world.plans(first={"seconds": 60, "child": True, "deaf": True})
    process = world.in_own_process()
    wait_for(lambda: (world.run.root / "starts" / "first-child").exists())
    unit, child = world.pid("first-1"), world.pid("first-child")
    process.kill()
    process.wait(120)
    wait_for(lambda: not lives(unit) and not lives(child))


def test_no_unit_outlives_a_supervisor_killed_together_with_its_reaper(world):
    world.plans(first={"seconds": 60, "deaf": True})
    process = world.in_own_process()
    wait_for(lambda: world.starts("first"))
    unit = world.pid("first-1")
    children = subprocess.run(["ps", "-o", "pid=", "--ppid", str(process.pid)], capture_output=True, text=True)
    reapers = [int(text) for text in children.stdout.split() if int(text) != unit]
    for pid in [*reapers, process.pid]:
        os.kill(pid, signal.SIGKILL)
    process.wait(120)
    wait_for(lambda: not lives(unit))


def test_a_second_runner_on_a_run_is_refused_and_names_the_first(world):
    with Owner(world.run.root), pytest.raises(OwnedByAnotherError, match=str(os.getpid())):
        Owner(world.run.root).__enter__()


def test_a_run_can_be_owned_again_at_once_after_its_runner_was_killed(world):
    world.needs = ONE
    world.plans(first={"seconds": 60})
    process = world.in_own_process()
    wait_for(lambda: world.starts("first"))
    process.kill()
    process.wait(120)
    world.plans()
    assert world.supervise().exit_code == ExitCode.DONE


def test_stop_signals_the_owner_and_refuses_a_stale_pid(world):
    world.plans(first={"seconds": 60})
    process = world.in_own_process()
    wait_for(lambda: world.starts("first"))
    owner = owner_of(world.run.root)
    assert owner and owner.pid == process.pid
    assert signal_owner(world.run.root) == process.pid
    process.wait(120)
    (world.run.root / "lock").write_text(json.dumps({"pid": os.getpid(), "host": os.uname().nodename, "started_t": 0}))
    with pytest.raises(NotRunningError, match="not running"):
        signal_owner(world.run.root)


class Sampled:
    """Lets a unit go on once a sample has shown its memory."""

    def __init__(self, mark: Path) -> None:
        self._mark = mark

    def on_event(self, event: dict) -> None:
        if event["kind"] == "resources" and event["units"].get("first", {}).get("rss_bytes", 0) > 1_000_000:
            self._mark.touch()

    def verdict(self) -> None:
        """It ends nothing."""


def test_resources_are_sampled_for_the_machine_and_each_unit(tmp_path):
    world = World(tmp_path / "one", "runtime.sample_resources_every_s=0.1")
    world.needs = ONE
    world.plans(first={"until": "sampled"})
    world.supervise(watchers=[Sampled(world.run.root / "starts" / "sampled")])
    samples = [event for event in read_events(world.run.events) if event["kind"] == "resources"]
    assert samples and samples[0]["ram_total_bytes"] > samples[0]["ram_used_bytes"] > 0
    assert any(sample["units"].get("first", {}).get("rss_bytes", 0) > 1_000_000 for sample in samples)

"""Runners in a pod that was rented for them, as processes against a server that plays RunPod."""

from __future__ import annotations

import os
import shutil
import signal
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from configs.events import read_events
from configs.run_dir import RunDir
from runner.host.ending import LONGEST_WAIT_S, waits
from runner.store.file import FileStore
from runner.store.layout import Head
from runner.store.lease import acquire, read_head
from tests.run_dirs import write_csv
from tests.runner.fixture_stages.world import wait_for
from tests.runner.host.pod import HOLDS, KEY, POD, Api, end_of, pod, serving
from tests.runner.store.runs import owner
from tests.test_end_to_end import NAME, market

pytestmark = pytest.mark.slow
EVERYTHING = os.environ.get("LAUNCH") == "all"
"""What takes minutes, or waits for a while; the gate leaves it out."""
RESTARTS = 100 if EVERYTHING else 3
BAD = "--no-such-flag"
RUN = "rented"
HANG = {"TEST_UNITS_HANG": "1"}
"""For who is to be stopped or killed in the midst of its work."""


@pytest.fixture
def api() -> Iterator[Api]:
    with serving() as server:
        yield server.accepts("rest")


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    write_csv(folder, NAME, market())
    return folder


def job(folder: Path, data: Path, *more: str) -> list[str | Path]:
    """What a launcher would have the container do; the disk is `folder / runs`."""
    return [
        *("--dataset", NAME, "--data-dir", data, "--run-id", RUN, "--until", "prepare", "--offline"),
        *("--skip-preflight", "--runs-dir", folder / "runs", "--store", f"file://{folder / 'store'}", *more),
    ]


def wipe(folder: Path) -> None:
    """What RunPod does to a container's disk before it starts it again."""
    shutil.rmtree(folder / "runs", ignore_errors=True)


def units_started(folder: Path) -> int:
    return sum(event["kind"] == "unit_started" for event in read_events(folder / "runs" / RUN / "events"))


def head_of(folder: Path) -> Head | None:
    return read_head(FileStore(folder / "store"), RUN)


def test_a_finished_run_that_is_restarted_works_never_and_asks_for_the_end_each_time(api, data, tmp_path):
    for number in range(1 + RESTARTS):
        wipe(tmp_path)
        with pod(tmp_path, *job(tmp_path, data), **api.environment()) as runner:
            said = runner.held()
        print(f"start {number}: exit code {runner.code}, {api.ends} requests for the end")
        assert (runner.code, api.ends) == (0, number + 1), said
        assert units_started(tmp_path) == 1, "the restored events have the first start's"
        assert KEY not in said and f"runpod machine {POD}, launched for this run" in said
    end = end_of(tmp_path / "store", RUN)
    assert end and (end.exit_code, end.machine) == (0, POD)
    assert "finished; nothing to do" in end.console_tail
    assert api.keys == {f"Bearer {KEY}"}


@pytest.mark.parametrize(
    ("arguments", "environment", "code", "reason"),
    [
        ([BAD, "3"], {}, 2, "No such option '--no-such-flag'"),
        (["--max-cost", "much"], {}, 2, "'much' is not a valid float"),
        (["--dataset", "BTC-EUR_1H"], {}, 66, "BTC-EUR_1H"),
        (["--set", "ppo.gama=1"], {}, 78, "unknown key"),
        ([], {"SEQUENCE_PPO__GAMA": "1"}, 78, "unknown key"),
        (["--max-hours", "0.0001"], {}, 79, "nothing is left of the budget"),
        (["--max-hours", "9"], {"SEQUENCE_END_AFTER_H": "0.2"}, 79, "nothing is left of the budget"),
    ],
)
def test_what_is_refused_before_there_is_a_run_ends_the_machine_too(
    api, data, tmp_path, arguments, environment, code, reason
):
    with pod(tmp_path, *job(tmp_path, data, *arguments), **api.environment(**environment)) as runner:
        said = runner.held()
    assert (runner.code, api.ends) == (code, 1), said
    end = end_of(tmp_path / "store", RUN)
    assert end and end.exit_code == code and reason in end.reason and reason in end.console_tail
    assert "Traceback" not in said


def test_where_every_way_is_refused_it_holds_says_so_and_ends_with_its_own_code_when_stopped(data, tmp_path):
    tool = tmp_path / "bin" / "runpodctl"
    tool.parent.mkdir()
    tool.write_text('#!/bin/sh\necho "$@" >> "$0.asked"\necho "no: $RUNPOD_API_KEY" >&2\nexit 1\n')
    tool.chmod(tool.stat().st_mode | stat.S_IXUSR)
    with serving() as api:
        path = f"{tool.parent}:{os.environ['PATH']}"
        environment = api.accepts().environment(PATH=path, TEST_FIRST_WAIT_S="0.1")
        with pod(tmp_path, *job(tmp_path, data, BAD), **environment) as runner:
            runner.until("STILL HERE AND BILLS")
            wait_for(lambda: api.ends >= 3)
            said = runner.held()
    ways = ["REST v2 DELETE: refused: 403", "GraphQL podTerminate: refused: 200", "runpodctl pod delete: refused"]
    places = [said.index(way) for way in ways]
    assert places == sorted(places)
    assert (tmp_path / "bin" / "runpodctl.asked").read_text().startswith(f"pod delete {POD}\n")
    assert api.asked[0] == f"DELETE /v2/pods/{POD}"
    assert api.asked[1] == f'POST /graphql mutation {{ podTerminate(input: {{podId: "{POD}"}}) }}'
    assert "launch stop rented" in said and KEY not in said and "[redacted]" in said
    assert runner.code == 2


def test_a_second_way_is_enough_and_who_holds_looks_alive(data, tmp_path):
    with serving() as api:
        environment = api.accepts("graphql").environment(SEQUENCE_HEARTBEAT=str(tmp_path / "beat"))
        with pod(tmp_path, *job(tmp_path, data, BAD), **environment) as runner:
            runner.until(*HOLDS)
            wait_for((tmp_path / f"beat.{os.uname().nodename}").exists)
            said = runner.held()
    assert "GraphQL podTerminate: accepted" in said and "runpodctl" not in said


def test_a_pod_is_ended_at_its_time_although_its_runner_hangs(api, data, tmp_path):
    with pod(
        tmp_path, *job(tmp_path, data, "--keep-alive", BAD), **api.environment(SEQUENCE_END_AFTER_H="1")
    ) as runner:
        runner.until("kept alive after")
        assert api.ends == 0
        runner.process.send_signal(signal.SIGSTOP)
        # the guard, which was told nothing so far, learns now that its time is long over
        api.replies[f"GET /v2/pods/{POD}"] = (200, {"id": POD, "createdAt": "2020-01-01T00:00:00Z"})
        wait_for(lambda: api.ends)
        runner.process.send_signal(signal.SIGCONT)
        said = runner.held()
    assert f"the time of runpod machine {POD}, launched for this run is over" in said and KEY not in said


def test_a_run_that_is_kept_alive_holds_and_asks_for_no_end(api, data, tmp_path):
    with pod(tmp_path, *job(tmp_path, data, "--keep-alive", BAD), **api.environment()) as runner:
        said = runner.held()
    end = end_of(tmp_path / "store", RUN)
    assert runner.code == 2 and not api.ends and "BILLS UNTIL YOU END IT" in said
    assert end and end.exit_code == 2


def test_a_stop_signal_ends_the_runner_and_not_the_machine(api, data, tmp_path):
    with pod(tmp_path, *job(tmp_path, data), **api.environment(**HANG)) as runner:
        wait_for((tmp_path / "runs" / RUN / "run.json").exists)
        runner.process.send_signal(signal.SIGTERM)
        said = runner.ended()
    assert runner.code in (75, 143), said
    assert not api.ends and end_of(tmp_path / "store", RUN) is None


def test_who_starts_another_runner_or_a_look_beside_it_ends_nothing(api, data, tmp_path):
    with pod(tmp_path, *job(tmp_path, data, BAD), **api.environment()) as first:
        first.until("holds until it is gone")
        (tmp_path / "second").mkdir()
        with pod(tmp_path / "second", *job(tmp_path, data, BAD), **api.environment()) as second:
            said = second.ended()
        with pod(tmp_path / "second", "status", "--runs-dir", tmp_path / "runs", **api.environment()) as look:
            look.ended()
        first.held()
    assert (second.code, look.code, first.code, api.ends) == (2, 78, 2, 1)
    assert "another runner answers for this machine" in said


@pytest.mark.parametrize("kind", ["lambda", "sky"])
def test_a_machine_that_others_end_is_left_with_the_runs_own_code_and_a_record(data, tmp_path, kind):
    name = f"{kind}-{POD}"
    environment = {"SEQUENCE_HOST": kind, "SEQUENCE_MACHINE": name, "SKYPILOT_TASK_ID": name}
    with pod(tmp_path, *job(tmp_path, data, BAD), **environment) as runner:
        runner.ended()
    end = end_of(tmp_path / "store", RUN, name)
    assert runner.code == 2 and end and end.exit_code == 2


def test_a_pod_that_somebody_started_by_hand_is_not_ended(api, data, tmp_path):
    with pod(tmp_path, *job(tmp_path, data, BAD), **api.environment(SEQUENCE_HOST="")) as runner:
        runner.ended()
    assert runner.code == 2 and not api.asked and not (tmp_path / "store").exists()


def test_a_container_that_is_killed_again_and_again_before_anything_is_kept_is_given_up_and_ended(api, data, tmp_path):
    arguments = job(tmp_path, data, "--set", "runtime.max_fruitless_starts=2")
    for epoch in (1, 2):
        wipe(tmp_path)
        with pod(tmp_path, *arguments, **api.environment(**HANG)) as runner:
            wait_for(lambda epoch=epoch: (head := head_of(tmp_path)) and head.epoch == epoch)
            os.killpg(runner.process.pid, signal.SIGKILL)
    wipe(tmp_path)
    with pod(tmp_path, *arguments, **api.environment()) as runner:
        said = runner.held()
    assert (runner.code, api.ends) == (77, 1), said
    assert said.count("cut off: killed, or its machine is gone") >= 2 and "max_fruitless_starts=4" in said
    assert not list((tmp_path / "runs" / RUN).glob("logs/*")), "nothing was started"


def test_what_restarts_cost_adds_up_in_the_store_until_the_ceiling_ends_the_machine(api, data, tmp_path):
    """36 000 USD/h are 10 USD/s."""
    api.replies[f"GET /v2/pods/{POD}"] = (200, {"id": POD, "cost": 36_000})
    arguments = job(tmp_path, data, "--max-cost", "4000", "--set", "store.lease_s=3", "--set", "runtime.stop_grace_s=1")
    environment = api.environment(SEQUENCE_BUDGET__PRICE_USD_PER_HOUR="0.5")
    spent = [0.0]
    for _ in range(2):
        wipe(tmp_path)
        with pod(tmp_path, *arguments, **environment | HANG) as runner:
            wait_for(lambda: (head := head_of(tmp_path)) and head.spent.cost_usd > spent[-1] + 1)
            os.killpg(runner.process.pid, signal.SIGKILL)
        head = head_of(tmp_path)
        assert head and head.spent.wall_s == pytest.approx(head.spent.cost_usd / 10)
        spent.append(head.spent.cost_usd)
    assert spent == sorted(set(spent))
    wipe(tmp_path)
    with pod(tmp_path, *arguments, "--max-cost", f"{spent[-1]:.2f}", **environment) as runner:
        said = runner.held()
    assert (runner.code, api.ends) == (79, 1), said
    assert said.count("this machine costs 36000 USD per hour; it was launched for 0.5") == 1


@pytest.mark.skipif(not EVERYTHING, reason="waits for a lease; LAUNCH=all")
def test_a_machine_that_comes_before_the_lease_of_the_lost_one_is_over_waits_for_it(api, data, tmp_path):
    acquire(FileStore(tmp_path / "store"), RUN, owner("a machine that is gone"), 2)
    with pod(tmp_path, *job(tmp_path, data, "--set", "store.lease_s=2"), **api.environment()) as runner:
        said = runner.held()
    assert (runner.code, api.ends) == (0, 1) and "waiting until it renews" in said


@pytest.mark.skipif(not EVERYTHING, reason="waits while the store is lost; LAUNCH=all")
def test_a_store_that_is_lost_at_the_end_is_tried_again_by_the_machine_that_has_the_only_copy(api, data, tmp_path):
    store = tmp_path / "store"
    arguments = job(tmp_path, data, "--set", "store.final_upload_s=0.5", "--set", "store.lease_s=1")
    with pod(tmp_path, *arguments, **api.environment(TEST_FIRST_WAIT_S="5")) as runner:
        wait_for(lambda: head_of(tmp_path))
        blobs = store / RUN / "blobs"
        shutil.rmtree(blobs, ignore_errors=True)
        blobs.parent.mkdir(exist_ok=True)
        blobs.write_text("in the way of every upload")
        runner.until("only this machine has all of run")
        assert not api.ends
        blobs.unlink()
        runner.held()
    assert (runner.code, api.ends) == (0, 1)
    wipe(tmp_path)
    with pod(tmp_path, *arguments, **api.environment()) as runner:
        assert "finished; nothing to do" in runner.held()
    assert RunDir(tmp_path / "runs" / RUN).report.is_file()


def test_the_waits_between_requests_grow_to_five_minutes():
    found = [wait_s for wait_s, _ in zip(waits(), range(9), strict=False)]
    assert found == [5, 10, 20, 40, 80, 160, 300, 300, 300] and LONGEST_WAIT_S == 300

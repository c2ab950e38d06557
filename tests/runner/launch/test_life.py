"""A launch against a RunPod on loopback, whatever goes wrong on the way: never two machines, none forgotten."""

import math
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from runner.launch import http, life, survey
from runner.launch.book import Book, Entry
from runner.launch.provider import Machine
from runner.launch.providers import end_by_t
from runner.launch.runpod.provider import RunPod
from tests.providers.base import Reply
from tests.providers.runpod import FakeRunPod, Fault, gpu_type, no_capacity, problem, too_many
from tests.runner.fixture_stages.world import wait_for
from tests.runner.launch.conftest import A40, ORDER, SECRETS, Launch, interrupted_at, only_entry

pytestmark = pytest.mark.slow
CREATE = "POST /pods"


def test_a_launch_makes_one_pod_and_waits_until_it_runs(runpod: FakeRunPod, launch: Launch, tmp_path, capsys):
    assert launch("runpod", "--max-cost", "5") == 0
    (pod,) = runpod.pods.values()
    assert pod.status == "RUNNING" and re.fullmatch(r"ADA-EUR_1H-quick-[0-9a-f]{8}", pod.name)
    entry = only_entry(tmp_path)
    assert (entry["machine_id"], entry["run_id"], entry["ended"]) == (pod.id, pod.name, False)
    said = capsys.readouterr().err
    assert (
        "0.44 USD per hour" in said
        and "the run may use 11.4 h, 5.00 USD; with starting and stopping the machine is ended after 12.9 h, 5.66 USD"
        in said
        and pod.id in said
    )


def test_the_pod_gets_the_run_its_ceiling_and_its_price(runpod: FakeRunPod, launch: Launch):
    order = ("--profile", "standard", "--set", "seed=7", "--stages", "prepare,ppo")
    assert launch("runpod", "--max-cost", "5", "--max-hours", "30", *order) == 0
    (call,) = runpod.made(CREATE)
    words = call.body["args"]
    name = call.body["name"]
    assert f"--profile standard --run-id {name} --store s3://runs/x --max-cost 5 --max-hours 30 --require-gpu" in words
    assert "--set seed=7" in words and words.endswith("--stages prepare,ppo")
    expected = {"SEQUENCE_HOST": "runpod", "SEQUENCE_BUDGET__PRICE_USD_PER_HOUR": "0.44"}
    expected |= {name: SECRETS[name] for name in SECRETS}
    assert {name: call.body["env"].get(name) for name in expected} == expected


def test_without_a_ceiling_it_is_twelve_hours_and_said(runpod: FakeRunPod, launch: Launch, capsys):
    assert launch("runpod") == 0
    assert "--max-hours 12 " in runpod.made(CREATE)[0].body["args"]
    assert "no ceiling was given" in capsys.readouterr().err


def test_the_same_command_again_finds_its_machine_and_makes_none(runpod: FakeRunPod, launch: Launch, capsys):
    assert launch("runpod") == launch("runpod") == launch("runpod", "--gpu", "NVIDIA RTX A5000") == 0
    assert len(runpod.pods) == 1 and len(runpod.made(CREATE)) == 1
    assert "already" in capsys.readouterr().err


@pytest.mark.parametrize(
    "fault", [Fault(CREATE, lost=True), Fault(CREATE, hang_s=600)], ids=["connection lost", "timed out"]
)
def test_a_create_without_an_answer_never_makes_a_second_pod(runpod, launch, tmp_path, monkeypatch, fault):
    monkeypatch.setattr(http, "ANSWER_S", 2.0 if fault.hang_s else http.ANSWER_S)
    runpod.faults.append(fault)
    assert launch("runpod") == 0
    assert len(runpod.pods) == 1 and len(runpod.made(CREATE)) == 1
    assert only_entry(tmp_path)["machine_id"] in runpod.pods


def test_a_create_that_failed_on_their_side_is_asked_again_once_it_is_sure_that_nothing_came_of_it(runpod, launch):
    runpod.faults.append(Fault(CREATE, problem(502, "Bad Gateway", "upstream"), times=2))
    assert launch("runpod") == 0
    assert len(runpod.pods) == 1
    calls = [call.what for call in runpod.calls]
    first, second, third = (at for at, what in enumerate(calls) if what == CREATE)
    assert "GET /pods" in calls[first:second] and "GET /pods" in calls[second:third]


def test_where_the_provider_does_not_say_what_came_of_a_create_none_is_asked_again(
    runpod, launch, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(http, "PATIENCE_S", 0.05)
    runpod.on_create = lambda pod: runpod.faults.append(Fault("GET /pods", problem(500, "Error", "down"), times=1000))
    runpod.faults.append(Fault(CREATE, lost=True))
    assert launch("runpod") == 69
    assert len(runpod.made(CREATE)) == 1
    entry = only_entry(tmp_path)
    assert entry["machine_id"] == "" and not entry["ended"]
    assert "launch list" in capsys.readouterr().err
    runpod.faults.clear()
    assert launch("runpod") == 0 and len(runpod.pods) == 1


def test_the_launch_is_noted_before_it_is_asked_for_and_the_id_before_anything_is_waited_for(runpod, launch, tmp_path):
    noted = []
    runpod.on_create = lambda pod: noted.append(only_entry(tmp_path))
    answer, looks = runpod.answer, []

    def watched(call):
        if call.what == "GET /pods" and runpod.pods:
            looks.append(only_entry(tmp_path)["machine_id"])
        return answer(call)

    runpod.answer = watched
    assert launch("runpod") == 0
    assert [entry["machine_id"] for entry in noted] == [""]
    assert looks and set(looks) == {"pod0000"}


def test_candidates_are_tried_by_gpu_then_by_availability(runpod: FakeRunPod, launch: Launch, capsys):
    runpod.faults.append(Fault(CREATE, no_capacity(), times=2))
    assert launch("runpod", "--gpu", "NVIDIA RTX A5000") == 0
    tried = [(call.body["gpu"]["id"], call.body["dataCenterIds"]) for call in runpod.made(CREATE)]
    assert tried == [(A40, ["EU-SE-1"]), (A40, ["CA-MTL-1"]), ("NVIDIA RTX A5000", ["EU-RO-1"])]
    assert runpod.made(CREATE)[2].body["env"]["SEQUENCE_BUDGET__PRICE_USD_PER_HOUR"] == "0.27"
    assert capsys.readouterr().err.count("no instances available") == 2


def test_the_book_has_the_ceiling_of_the_offer_that_was_taken(runpod: FakeRunPod, launch: Launch, tmp_path):
    runpod.gpus = [gpu_type(A40, "A40", 2.0, {"EU-SE-1": "HIGH"}), gpu_type("B", "B", 0.25, {"EU-SE-1": "HIGH"})]
    noted = []
    runpod.faults.append(Fault(CREATE, no_capacity()))
    runpod.on_create = lambda pod: noted.append(only_entry(tmp_path)["max_hours"])
    assert launch("runpod", "--gpu", "B", "--max-cost", "10") == 0
    entry = only_entry(tmp_path)
    assert noted == [41.5], "until it is known which is taken, the one that may be there longest"
    assert (entry["max_hours"], entry["price_usd_per_hour"]) == (41.5, 0.25)
    assert runpod.made(CREATE)[1].body["env"]["SEQUENCE_END_AFTER_H"] == "40.5000"


def test_the_price_of_a_machine_from_elsewhere_is_its_own_and_its_ceiling_a_guess(
    runpod, launch, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(survey, "PATIENCE_S", 0.1)  # the store of these tests does not answer
    pod = runpod.add("mine", created_t=time.time() - 50 * 3600)
    pod.cost = 0.25
    assert launch("runpod", "--run-id", "mine", "--max-cost", "10") == 0
    entry = Book(tmp_path).find("runpod", "mine")
    assert (entry.max_hours, entry.elsewhere, end_by_t(entry)) == (41.5, True, math.inf)
    launch("reap", "--yes")
    assert list(runpod.pods) == [pod.id] and "left, for that is not sure" in capsys.readouterr().out


def test_where_no_candidate_can_be_had_all_refusals_are_shown_and_nothing_is_left(runpod, launch, tmp_path, capsys):
    runpod.faults.append(Fault(CREATE, no_capacity(), times=2))
    assert launch("runpod") == 69
    said = capsys.readouterr().err
    assert "EU-SE-1" in said and "CA-MTL-1" in said and "request is at fault" in said
    assert not runpod.pods and only_entry(tmp_path)["ended"]


@pytest.mark.parametrize(
    ("reply", "code", "creates", "words"),
    [
        (problem(402, "Payment Required", "balance"), 69, 1, "balance is too low"),
        (problem(422, "Unprocessable Entity", "no", ["$: additional properties 'x' not allowed"]), 78, 1, "'x' not"),
        (problem(404, "Not Found", "no such template"), 78, 1, "no such template"),
        (problem(403, "Forbidden", "access denied"), 0, 2, "access denied"),
        (problem(409, "Conflict", "busy"), 0, 2, "busy"),
        (too_many(0), 0, 2, "rate limit"),
        (too_many(86_400), 69, 1, "rate limit"),
    ],
    ids=["402", "422", "404", "403", "409", "429", "429 for a day"],
)
def test_each_refusal_is_taken_as_the_published_table_says(runpod, launch, capsys, reply, code, creates, words):
    runpod.faults.append(Fault(CREATE, reply))
    assert launch("runpod") == code
    assert len(runpod.made(CREATE)) == creates and words in capsys.readouterr().err


def test_a_rate_limit_is_waited_out_as_long_as_the_provider_says(runpod: FakeRunPod, launch: Launch):
    runpod.faults.append(Fault(CREATE, too_many(1)))
    assert launch("runpod") == 0
    first, second = runpod.made(CREATE)
    assert second.t - first.t >= 1.0


def test_an_unknown_gpu_is_refused_with_near_names_before_anything_is_asked_for(runpod, launch, capsys):
    assert launch("runpod", "--gpu", "RTX 4080") == 78
    assert "NVIDIA GeForce RTX 4090" in capsys.readouterr().err
    assert not runpod.made(CREATE)


def test_only_the_regions_that_were_named_are_asked(runpod: FakeRunPod, launch: Launch):
    assert launch("runpod", "--region", "CA-MTL-1") == 0
    assert [call.body["dataCenterIds"] for call in runpod.made(CREATE)] == [["CA-MTL-1"]]


def test_a_pod_that_fails_to_start_is_ended(runpod: FakeRunPod, launch: Launch, tmp_path, capsys):
    runpod.on_create = lambda pod: setattr(pod, "status", "ERROR")
    assert launch("runpod") == 69
    assert not runpod.pods and len(runpod.gone) == 1 and only_entry(tmp_path)["ended"]
    assert "is ERROR" in capsys.readouterr().err


def test_a_pod_that_never_starts_is_ended_after_a_while(runpod: FakeRunPod, launch: Launch, monkeypatch, capsys):
    runpod.looks_to_run = 10**9
    monkeypatch.setattr(life, "IMAGE_S", 0.1)
    assert launch("runpod") == 69
    assert not runpod.pods and "did not run within" in capsys.readouterr().err


@pytest.mark.parametrize("status", ["EXITED", "ERROR"])
def test_a_pod_of_the_run_that_does_nothing_any_more_is_ended_and_another_goes_on(runpod, launch, capsys, status):
    assert launch("runpod") == 0
    (pod,) = runpod.pods.values()
    pod.status = status
    assert launch("runpod") == 0
    assert pod.id in runpod.gone and [other.status for other in runpod.pods.values()] == ["RUNNING"]
    assert f"is {status}, does nothing and may cost: ending it" in capsys.readouterr().err


def test_a_stopped_pod_of_the_name_that_nobody_here_created_is_left_alone(runpod: FakeRunPod, launch: Launch, capsys):
    pod = runpod.add("mine", "EXITED")
    assert launch("runpod", "--run-id", "mine") == 69
    assert list(runpod.pods) == [pod.id] and "launch stop mine" in capsys.readouterr().err


def test_a_pod_that_the_list_does_not_show_yet_is_waited_for(runpod: FakeRunPod, launch: Launch, tmp_path, capsys):
    answer, hidden = runpod.answer, [Reply(200, {"pods": []})] * 3
    runpod.answer = lambda call: hidden.pop() if call.what == "GET /pods" and runpod.pods and hidden else answer(call)
    assert launch("runpod") == 0
    (pod,) = runpod.pods.values()
    assert not hidden and not only_entry(tmp_path)["ended"] and "gone" not in capsys.readouterr().err
    hidden.append(Reply(200, {"pods": []}))
    assert launch("list") == 0 and not only_entry(tmp_path)["ended"]


def test_a_pod_that_goes_before_it_was_seen_to_run_is_gone_at_once(runpod, launch, monkeypatch, capsys):
    monkeypatch.setattr(survey, "PATIENCE_S", 0.1)  # the store of these tests does not answer
    monkeypatch.setattr(life, "IMAGE_S", life.UNLISTED_S / 2)
    answer, shown = runpod.answer, []
    runpod.looks_to_run = 10**9

    def once(call):
        shown.extend([call] if call.what == "GET /pods" and runpod.pods else [])
        return Reply(200, {"pods": []}) if len(shown) > 1 and call.method == "GET" else answer(call)

    runpod.answer = once
    assert launch("runpod") != 0
    assert "machine pod0000: gone" in capsys.readouterr().err and not runpod.made("DELETE")


def test_a_machine_is_gone_once_a_list_that_has_shown_it_shows_it_no_more_or_none_ever_does(runpod, monkeypatch):
    shown, hidden = runpod.add("mine"), Machine("pod-hidden", "mine", "starting")
    sight = life.Sight(RunPod(), Machine(shown.id, "mine", "starting"), is_listed=False)
    assert sight.look().status == "running"
    runpod._delete(shown)
    assert sight.look().status == "ended"
    assert life.Sight(RunPod(), hidden, is_listed=False).look().status == "starting"
    monkeypatch.setattr(life, "UNLISTED_S", -1.0)
    assert life.Sight(RunPod(), hidden, is_listed=False).look().status == "ended"


def test_a_price_of_nothing_leaves_no_open_record(runpod: FakeRunPod, launch: Launch, tmp_path):
    runpod.gpus = [gpu_type(A40, "A40", 0.0, {"EU-SE-1": "HIGH"})]
    assert launch("runpod", "--max-cost", "5") == 78
    assert not runpod.made(CREATE) and only_entry(tmp_path)["ended"]


def test_a_wrong_key_is_said_without_the_key(runpod: FakeRunPod, launch: Launch, monkeypatch, capsys):
    monkeypatch.setenv("RUNPOD_API_KEY", "rpa_another-key-0123456789")
    assert launch("runpod") == 78
    said = capsys.readouterr().err
    assert "RUNPOD_API_KEY" in said and "another-key" not in said


def test_while_a_run_is_being_launched_no_other_process_launches_it(runpod, launch, tmp_path, capsys):
    with Book(tmp_path).alone("runpod", "mine"):
        assert launch("runpod", "--run-id", "mine") == 78
    assert "another process" in capsys.readouterr().err and not runpod.pods
    assert launch("runpod", "--run-id", "mine") == 0


def test_a_gpu_that_no_data_centre_lists_is_left_to_the_scheduler(runpod: FakeRunPod, launch: Launch, capsys):
    runpod.gpus = [gpu_type(A40, "A40", 0.44, {})]
    assert launch("runpod") == 69
    (call,) = runpod.made(CREATE)
    assert "dataCenterIds" not in call.body


def test_ctrl_c_while_it_starts_leaves_the_machine_noted_and_says_how_to_end_it(runpod: FakeRunPod, tmp_path):
    runpod.looks_to_run = 10**9
    code, said = interrupted_at("PROVISIONING", tmp_path)
    (pod,) = runpod.pods.values()
    assert code == 130 and f"launch stop {pod.name}" in said and "Traceback" not in said
    assert only_entry(tmp_path)["machine_id"] == pod.id


def interrupted(runs_dir: Path, is_time: Callable[[], bool]) -> tuple[int, str]:
    """Exit code and words of a launch that gets Ctrl-C."""
    command = [sys.executable, "-m", "runner.cli", "launch", "runpod", *ORDER, "--gpu", A40, "--runs-dir", runs_dir]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        wait_for(is_time)
        process.send_signal(signal.SIGINT)
        said = process.stderr.read()
    return process.returncode, said


def test_ctrl_c_while_a_pod_is_asked_for_says_that_it_may_exist(runpod: FakeRunPod, tmp_path):
    runpod.faults.append(Fault(CREATE, hang_s=600))
    code, said = interrupted(tmp_path, lambda: bool(runpod.pods))
    (pod,) = runpod.pods.values()
    assert code == 130 and f"named {pod.name} may exist and cost" in said and f"launch stop {pod.name}" in said
    assert not only_entry(tmp_path)["ended"]


def test_a_provider_that_falls_silent_while_a_pod_starts_leaves_it_named(runpod, launch, monkeypatch, capsys):
    monkeypatch.setattr(http, "PATIENCE_S", 0.05)
    runpod.looks_to_run, answer = 10**9, runpod.answer
    down = problem(500, "Error", "down")
    runpod.answer = lambda call: (
        down if call.what == "GET /pods" and len(runpod.made("GET /pods")) > 3 else answer(call)
    )
    assert launch("runpod") == 69
    (pod,) = runpod.pods.values()
    assert (
        f"runpod machine {pod.id} goes on; `sequence-runner launch stop {pod.name}` ends it" in capsys.readouterr().err
    )


class OwnTime:
    """A clock that nothing but its sleeps moves."""

    def __init__(self) -> None:
        self._now_s = 0.0

    def monotonic(self) -> float:
        return self._now_s

    def sleep(self, pause_s: float) -> None:
        self._now_s += pause_s


def see_off(runpod: FakeRunPod, runs_dir: Path, status: str = "RUNNING", *faults: Fault) -> dict:
    """What `launch --wait` does last, about a pod that is there; the launcher's record afterwards."""
    pod = runpod.add("mine", status)
    Book(runs_dir).write(Entry(provider="runpod", run_id="mine", machine_id=pod.id, asked_t=pod.created_t, max_hours=1))
    runpod.faults += faults
    sight = life.Sight(RunPod(), Machine(pod.id, "mine", "running"), is_listed=True)
    life.see_off(sight, Book(runs_dir))
    return only_entry(runs_dir)


def test_a_machine_that_stays_when_its_run_is_over_is_ended_from_here(runpod, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(life, "LEAVE_LIMIT_S", 0.4)
    monkeypatch.setattr(life, "time", OwnTime())
    assert see_off(runpod, tmp_path)["ended"] and not runpod.pods
    assert len(runpod.made("GET /pods")) > 1 and "is still RUNNING: ending it" in capsys.readouterr().err


def test_a_machine_that_does_nothing_any_more_is_not_waited_for(runpod, tmp_path):
    assert see_off(runpod, tmp_path, "EXITED")["ended"] and not runpod.pods


def test_a_machine_that_is_gone_is_not_ended_again(runpod: FakeRunPod, tmp_path, capsys):
    nothing = Reply(200, {"pods": []})
    assert see_off(runpod, tmp_path, "RUNNING", Fault("GET /pods", nothing))["ended"]
    assert not runpod.made("DELETE") and "machine pod0000 is gone" in capsys.readouterr().err


def test_where_it_is_not_known_whether_a_machine_is_gone_that_is_said_and_its_record_stays(
    runpod, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(http, "PATIENCE_S", 0.05)
    down = Fault("GET /pods", problem(500, "Error", "down"), times=1000)
    assert not see_off(runpod, tmp_path, "RUNNING", down)["ended"]
    assert "is not known" in capsys.readouterr().err

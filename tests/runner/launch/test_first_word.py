"""`launch` without `--wait`: it stays until the run is heard of, and ends a machine on which none begins."""

import pytest

from runner.launch import life, results
from runner.launch.follow import until_end, until_word
from runner.launch.following import Pace
from tests.providers.runpod import FakeRunPod
from tests.runner.launch.conftest import Launch, interrupted_at, only_entry

pytestmark = pytest.mark.slow
CRASH = "exec /usr/bin/tini: exec format error"


@pytest.fixture
def mute(runpod: FakeRunPod, expiring, monkeypatch: pytest.MonkeyPatch) -> FakeRunPod:
    """An account whose pods run, print the same line for ever, and leave no word in the store."""
    runpod.on_create = lambda pod: pod.lines.extend([CRASH] * 40)
    pace = Pace(poll_s=0.02, silent_s=0.1, ask_s=0.02, gone_s=0.1, word_s=0.3)
    monkeypatch.setattr(until_word, "__defaults__", (pace,))
    monkeypatch.setattr(until_end, "__defaults__", (None, pace))
    monkeypatch.setattr(life, "LEAVE_LIMIT_S", 0.1)
    monkeypatch.setattr(results, "PATIENCE_S", 0.0)
    return runpod


@pytest.mark.parametrize("flags", [(), ("--wait",)], ids=["without --wait", "--wait"])
def test_a_pod_whose_container_never_reaches_the_runner_is_ended_with_what_it_printed(
    mute, launch: Launch, tmp_path, capsys, flags
):
    assert launch("runpod", *flags) == 69
    said = capsys.readouterr().err
    assert "without a word of the run" in said and said.count(f"  | {CRASH}") == 12
    assert not mute.pods and only_entry(tmp_path)["ended"]


def test_one_that_is_kept_alive_is_named_and_left_also_by_a_command_that_does_not_say_so(
    mute, launch: Launch, tmp_path, capsys
):
    assert launch("runpod", "--keep-alive", "--run-id", "mine") == launch("runpod", "--run-id", "mine") == 69
    said = capsys.readouterr().err
    assert list(mute.pods) == ["pod0000"] and said.count("is kept alive and COSTS MONEY") == 2


def test_one_of_another_computer_is_named_and_left(mute, launch: Launch, capsys):
    mute.add("mine")
    assert launch("runpod", "--run-id", "mine") == 69
    assert list(mute.pods) == ["pod0000"] and "launched elsewhere, it may be kept alive" in capsys.readouterr().err


def test_ctrl_c_ends_only_the_waiting(runpod, expiring, tmp_path):
    pod = runpod.add("mine")
    code, said = interrupted_at("it may be fetching the image", tmp_path, "--run-id", "mine")
    assert code == 130 and f"{pod.id} goes on" in said and f"launch stop {pod.name}" in said

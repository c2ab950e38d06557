"""Never two machines for one run, and never none where one works: what becomes of others of its name."""

import time

import pytest

from runner.launch.book import Book, Entry
from tests.providers.base import Reply
from tests.providers.runpod import FakeRunPod, Fault
from tests.runner.launch.conftest import Launch, only_entry

pytestmark = pytest.mark.slow
CREATE = "POST /pods"


def test_a_second_machine_of_the_name_is_ended_and_the_first_is_kept(runpod: FakeRunPod, launch: Launch, capsys):
    runpod.on_create = lambda pod: runpod.add(pod.name, created_t=pod.created_t + 5) if len(runpod.pods) == 1 else None
    assert launch("runpod") == 0
    assert list(runpod.pods) == ["pod0000"] and list(runpod.gone) == ["pod0001"]
    assert "second machine" in capsys.readouterr().err


def still_shown(runpod: FakeRunPod) -> None:
    """Let the list of pods go on showing those that were deleted, as they were."""
    answer, shown = runpod.answer, {}
    deleted = runpod._delete
    runpod._delete = lambda pod: shown.update({pod.id: pod.shown()}) or deleted(pod)

    def lagging(call):
        reply = answer(call)
        return Reply(200, {"pods": [*shown.values(), *reply.body["pods"]]}) if call.what == "GET /pods" else reply

    runpod.answer = lagging


@pytest.mark.parametrize("lost", [False, True], ids=["clear", "no answer"])
def test_a_new_machine_is_not_ended_for_a_dead_one_that_a_list_still_shows(runpod, launch, tmp_path, capsys, lost):
    runpod.add("mine", "EXITED", created_t=time.time() - 3600)
    Book(tmp_path).write(Entry(provider="runpod", run_id="mine", machine_id="pod0000", asked_t=0, max_hours=1))
    still_shown(runpod)
    runpod.faults += [Fault(CREATE, lost=True)] * lost
    assert launch("runpod", "--run-id", "mine") == 0
    assert list(runpod.gone) == ["pod0000"] and list(runpod.pods) == ["pod0001"]
    assert Book(tmp_path).find("runpod", "mine").machine_id == "pod0001"
    assert "second machine" not in capsys.readouterr().err


def test_only_a_machine_that_works_comes_before_the_one_that_was_just_created(runpod, launch, tmp_path):
    runpod.on_create = lambda pod: runpod.add(pod.name, "ERROR", created_t=1.0) if len(runpod.pods) == 1 else None
    assert launch("runpod") == 0
    assert not runpod.gone and only_entry(tmp_path)["machine_id"] == "pod0000"


def test_of_two_that_are_created_at_once_the_one_of_the_other_computer_is_joined(runpod, launch, tmp_path, capsys):
    runpod.on_create = lambda pod: runpod.add(pod.name, created_t=pod.created_t - 5) if len(runpod.pods) == 1 else None
    answer = runpod.answer  # the list shows only the other's, yet
    runpod.answer = lambda call: (
        Reply(200, {"pods": [pod.shown() for pod in runpod.pods.values() if pod.id == "pod0001"]})
        if call.what == "GET /pods"
        else answer(call)
    )
    assert launch("runpod") == 0
    assert list(runpod.pods) == ["pod0001"] and "nothing was created" in capsys.readouterr().err
    assert only_entry(tmp_path)["machine_id"] == "pod0001" and only_entry(tmp_path)["elsewhere"]

"""`launch list`, `logs`, `stop` and `reap`: what is at work stays, what nobody needs is found and ended."""

import json
import re
import time
from pathlib import Path

import pytest

from runner.launch.book import Book, Entry
from runner.store.ends import write_end
from runner.store.layout import End
from runner.store.open import open_store
from tests.providers.lambda_cloud import KEY, FakeLambda
from tests.providers.runpod import FakeRunPod, Fault, problem
from tests.runner.fixture_stages.world import wait_for
from tests.runner.launch.conftest import Launch

pytestmark = pytest.mark.slow
RUN = "ADA-EUR_1H-quick-0123abcd"
OTHER = "BTC-USDT_1H-full-89abcdef"


@pytest.fixture
def kept(tmp_path: Path) -> str:
    """URL of a store."""
    return f"file://{tmp_path}/store"


def noted(runs_dir: Path, machine_id: str, asked_s_ago: float = 60, **more) -> Entry:
    values = {"provider": "runpod", "run_id": RUN, "asked_t": time.time() - asked_s_ago, "max_hours": 12.5} | more
    return Book(runs_dir).write(Entry(machine_id=machine_id, **values))


def ended(store: str, machine: str, run_id: str = RUN, ended_t: float = 0.0, code: int = 0) -> None:
    end = End(machine=machine, exit_code=code, reason="done", ended_t=ended_t or time.time(), console_tail="the end")
    write_end(open_store(store), run_id, end)


def listed(launch: Launch, capsys, *arguments: str, code: int = 0) -> dict:
    capsys.readouterr()
    assert launch("list", "--json", *arguments) == code
    return json.loads(capsys.readouterr().out)


def answer(monkeypatch, text: str) -> None:
    import io

    monkeypatch.setattr("sys.stdin", io.StringIO(text))


def test_a_machine_at_work_is_no_orphan(runpod: FakeRunPod, launch: Launch, tmp_path, kept, capsys):
    pod = runpod.add(RUN)
    noted(tmp_path, pod.id, store=kept)
    (one,) = listed(launch, capsys)["machines"]
    assert one["orphan"] is None and one["launched_here"] and one["price_usd_per_hour"] == 0.44
    assert launch("reap", "--yes") == 0
    assert list(runpod.pods) == [pod.id]


def test_a_machine_whose_run_has_ended_is_an_orphan_and_is_reaped_after_asking(
    runpod, launch, tmp_path, kept, monkeypatch, capsys
):
    pod = runpod.add(RUN)
    noted(tmp_path, pod.id, store=kept)
    ended(kept, pod.id, code=70)
    (one,) = listed(launch, capsys)["machines"]
    assert "exit code 70" in one["orphan"]
    answer(monkeypatch, "n\n")
    assert launch("reap") == 0 and list(runpod.pods) == [pod.id]
    answer(monkeypatch, "y\n")
    assert launch("reap") == 0 and not runpod.pods
    assert f"{pod.id} ({RUN}, 0.44 USD/h)" in capsys.readouterr().out
    assert Book(tmp_path).find("runpod", RUN).ended


def test_the_end_of_an_earlier_machine_of_the_run_makes_no_orphan_of_this_one(runpod, launch, tmp_path, kept, capsys):
    pod = runpod.add(RUN)
    noted(tmp_path, pod.id, store=kept)
    ended(kept, "pod-before", ended_t=time.time())
    (one,) = listed(launch, capsys)["machines"]
    assert one["orphan"] is None


@pytest.mark.parametrize(
    ("entry", "status", "words"),
    [
        ({"ended": True}, "RUNNING", "told to end"),
        ({"asked_s_ago": 13 * 3600}, "RUNNING", r"ceiling of 12.5 h passed 3\d min ago"),
        ({}, "EXITED", "EXITED"),
        ({}, "ERROR", "ERROR"),
    ],
    ids=["noted as ended", "over its ceiling", "stopped", "failed"],
)
def test_what_can_only_cost_is_an_orphan_and_yes_ends_it(runpod, launch, tmp_path, capsys, entry, status, words):
    pod = runpod.add(RUN, status)
    noted(tmp_path, pod.id, **entry)
    (one,) = listed(launch, capsys)["machines"]
    assert re.search(words, one["orphan"])
    assert launch("reap", "--yes") == 0 and not runpod.pods


def test_what_was_launched_elsewhere_is_only_ended_where_somebody_says_so(runpod, launch, monkeypatch, capsys):
    runpod.add(OTHER).body["env"] = {"SEQUENCE_HOST": "runpod"}
    (one,) = listed(launch, capsys)["machines"]
    assert "nobody here" in one["orphan"] and not one["launched_here"]
    assert launch("reap", "--yes") == 0 and len(runpod.pods) == 1
    assert "left" in capsys.readouterr().out
    answer(monkeypatch, "y\n")
    assert launch("reap") == 0 and not runpod.pods


def test_machines_of_other_programs_are_counted_and_never_touched(runpod, launch, monkeypatch, capsys):
    runpod.add("my-notebook", "EXITED")
    found = listed(launch, capsys)
    assert found["machines"] == [] and found["others"] == 1
    answer(monkeypatch, "y\n" * 9)
    assert launch("reap") == 0 and len(runpod.pods) == 1


def test_a_store_that_is_named_tells_of_runs_that_were_launched_elsewhere(runpod, launch, kept, monkeypatch, capsys):
    pod = runpod.add(OTHER)
    pod.body["env"] = {"SEQUENCE_HOST": "runpod"}
    ended(kept, pod.id, OTHER)
    (one,) = listed(launch, capsys, "--store", kept)["machines"]
    assert "its run ended" in one["orphan"]
    assert launch("reap", "--yes", "--store", kept) == 0 and list(runpod.pods) == [pod.id]
    answer(monkeypatch, "y\n")
    assert launch("reap", "--store", kept) == 0 and not runpod.pods


def test_a_machine_that_is_gone_is_noted_as_ended(runpod: FakeRunPod, launch: Launch, tmp_path, capsys):
    noted(tmp_path, "pod-gone", asked_s_ago=3600)
    assert listed(launch, capsys)["machines"] == []
    assert Book(tmp_path).find("runpod", RUN).ended


def test_a_launch_that_has_only_begun_is_not_noted_as_ended(runpod: FakeRunPod, launch: Launch, tmp_path, capsys):
    noted(tmp_path, "")
    listed(launch, capsys)
    assert not Book(tmp_path).find("runpod", RUN).ended


def test_a_provider_that_cannot_be_asked_is_said_and_loses_no_record(runpod, launch, tmp_path, capsys):
    noted(tmp_path, "pod0000")
    runpod.faults.append(Fault("GET /pods", problem(403, "Forbidden", "access denied"), times=2))
    assert "access denied" in listed(launch, capsys, code=69)["troubles"]["runpod"]
    assert launch("reap", "--yes") == 69
    assert not Book(tmp_path).find("runpod", RUN).ended


def test_a_damaged_record_hides_no_machine(runpod: FakeRunPod, launch: Launch, tmp_path, capsys):
    runpod.add(RUN).body["env"] = {"SEQUENCE_HOST": "runpod"}
    noted(tmp_path, "pod0000")
    Book(tmp_path).path("runpod", RUN).write_text("{")
    (one,) = listed(launch, capsys)["machines"]
    assert one["machine_id"] == "pod0000"


def test_stop_ends_every_machine_of_the_run_and_may_be_said_twice(runpod, launch, tmp_path, capsys):
    noted(tmp_path, runpod.add(RUN).id)
    runpod.add(RUN, "EXITED")
    runpod.add(OTHER)
    assert launch("stop", RUN) == 0
    assert [pod.name for pod in runpod.pods.values()] == [OTHER]
    assert launch("stop", RUN) == launch("stop", RUN, "--provider", "runpod") == 0
    assert "nothing to end" in capsys.readouterr().out


def test_stop_and_logs_ask_every_provider_also_of_a_run_that_was_launched_elsewhere_once(
    runpod, launch, tmp_path, monkeypatch, capsys
):
    with FakeLambda() as fake:
        monkeypatch.setenv("SEQUENCE_LAMBDA_URL", fake.url)
        monkeypatch.setenv("LAMBDA_API_KEY", KEY)
        noted(tmp_path, "i-0", provider="lambda", ended=True)
        pod = runpod.add(RUN, lines=["at work"])
        assert launch("logs", RUN) == 0 and capsys.readouterr().out == "at work\n"
        assert launch("stop", RUN) == 0 and pod.id in runpod.gone
        assert f"ended runpod machine {pod.id}" in capsys.readouterr().out
        assert launch("stop", RUN) == 0 and "has no machine at runpod, lambda" in capsys.readouterr().out
        fake.key = "another"
        monkeypatch.setattr("runner.launch.http.PATIENCE_S", 0.0)
        runpod.add(RUN, lines=["at work"])
        assert launch("logs", RUN) == 0, "one that cannot be asked hides no machine of another"
        assert launch("stop", RUN) == 69 and not runpod.pods, "nor keeps it from being ended"


def test_stop_is_clear_about_a_machine_that_could_not_be_ended(runpod, launch, tmp_path, capsys):
    noted(tmp_path, runpod.add(RUN).id)
    runpod.faults.append(Fault("DELETE", problem(409, "Conflict", "pod belongs to a cluster")))
    assert launch("stop", RUN) == 69
    assert "belongs to a cluster" in capsys.readouterr().err
    assert not Book(tmp_path).find("runpod", RUN).ended


def locked(machine_id: str) -> Fault:
    return Fault(f"DELETE /pods/{machine_id}", problem(409, "Conflict", "pod is locked"), times=9)


def test_one_machine_that_is_not_ended_keeps_no_other_from_it(runpod: FakeRunPod, launch: Launch, tmp_path, capsys):
    first, *_ = (runpod.add(RUN) for _ in range(3))
    runpod.faults.append(locked(first.id))
    assert launch("stop", RUN, "--provider", "runpod") == 69
    assert list(runpod.pods) == [first.id] and f"{first.id} may still cost" in capsys.readouterr().err
    for pod in (orphans := [runpod.add(OTHER, "ERROR"), runpod.add("third-run", "ERROR")]):
        noted(tmp_path, pod.id, run_id=pod.name)
    runpod.faults[:] = [locked(orphans[0].id)]
    assert launch("reap", "--yes") == 69
    assert list(runpod.pods) == [first.id, orphans[0].id] and "pod is locked" in capsys.readouterr().err


def test_what_this_program_created_is_known_by_what_was_sent_whatever_its_name(runpod, launch, tmp_path, capsys):
    assert launch("runpod", "--run-id", "mine") == launch("runpod", "--spot", "--run-id", "my-spot") == 0
    for path in (tmp_path / ".launches").glob("*.json"):
        path.unlink()
    found = listed(launch, capsys)
    assert [one["run_id"] for one in found["machines"]] == ["mine", "my-spot"] and found["others"] == 0


def test_logs_show_what_the_container_printed(runpod: FakeRunPod, launch: Launch, tmp_path, capsys):
    pod = runpod.add(RUN, lines=[f"line {number}" for number in range(9)])
    noted(tmp_path, pod.id)
    assert launch("logs", RUN, "-n", "3") == 0
    assert capsys.readouterr().out.splitlines() == ["line 6", "line 7", "line 8"]


def test_logs_that_are_followed_go_on_to_the_end_of_the_machine(runpod: FakeRunPod, launch: Launch, tmp_path, capsys):
    import threading

    pod = runpod.add(RUN, lines=["begin"])
    noted(tmp_path, pod.id)

    def live() -> None:
        wait_for(lambda: runpod.made(f"GET /pods/{pod.id}/logs"), 120)
        for number in range(5):
            time.sleep(0.05)
            pod.lines.append(f"step {number}")
        with runpod.lock:
            runpod.gone[pod.id] = runpod.pods.pop(pod.id)

    thread = threading.Thread(target=live)
    thread.start()
    assert launch("logs", RUN, "--follow") == 0
    thread.join()
    assert capsys.readouterr().out.splitlines() == ["begin", *(f"step {number}" for number in range(5))]


def test_logs_of_a_machine_that_is_gone_are_its_last_words_in_the_store(runpod, launch, tmp_path, kept, capsys):
    noted(tmp_path, "pod-gone", store=kept, ended=True)
    ended(kept, "pod-gone", code=79)
    assert launch("logs", RUN) == 0
    said = capsys.readouterr()
    assert said.out == "the end\n" and "exit code 79" in said.err


def test_without_a_key_and_without_records_the_way_out_is_said(runpod, launch, monkeypatch, capsys):
    monkeypatch.delenv("RUNPOD_API_KEY")
    monkeypatch.setenv("PATH", "/nowhere")
    assert launch("list") == 78
    assert "RUNPOD_API_KEY" in capsys.readouterr().err

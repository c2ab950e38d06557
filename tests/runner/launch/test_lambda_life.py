"""A run on Lambda from the command line to the end of its machine, against a fake of Lambda's API on loopback."""

from __future__ import annotations

import io
import json
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from runner.cli import main
from runner.commands.launch import _gone
from runner.launch import creation, http, life, order, results
from runner.launch.book import Book, Entry
from runner.launch.follow import until_end
from runner.launch.following import Pace
from runner.launch.lambda_cloud import provider
from runner.launch.lambda_cloud.provider import LambdaCloud
from runner.launch.provider import Machine as Rented
from runner.store.ends import write_end
from runner.store.layout import End
from runner.store.open import open_store
from tests.providers.base import Fault
from tests.providers.lambda_cloud import KEY, LAUNCH, NO_CAPACITY, UNAVAILABLE, FakeLambda
from tests.providers.lambda_machine import Machine
from tests.runner.launch.conftest import ORDER, SECRETS

pytestmark = pytest.mark.slow
RUN = "a-run"
Launch = Callable[..., int]


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeLambda]:
    for variable in ("RUNPOD_API_KEY", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL", "SEQUENCE_IMAGE", "AWS_REGION"):
        monkeypatch.delenv(variable, raising=False)
    for name, value in (SECRETS | {"LAMBDA_API_KEY": KEY}).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(life, "POLL_S", 0.01)
    monkeypatch.setattr(creation, "LOOKS_S", (0.01, 0.02))
    monkeypatch.setattr(provider, "REQUEST_INTERVAL_S", 0.0)
    monkeypatch.setattr(provider, "LAUNCH_INTERVAL_S", 0.0)
    with FakeLambda() as server:
        monkeypatch.setenv("SEQUENCE_LAMBDA_URL", server.url)
        yield server


@pytest.fixture
def launch(fake: FakeLambda, tmp_path: Path) -> Launch:
    def run(command: str, *arguments: str) -> int:
        order = (*ORDER, "--run-id", RUN, "--gpu", "gpu_1x_a10") if command == "lambda" else ()
        return main(["launch", command, *order, "--runs-dir", str(tmp_path / "runs"), *arguments])

    return run


def test_from_the_command_to_the_machines_own_end(fake: FakeLambda, launch: Launch, tmp_path: Path, capsys):
    fake.boots_after = 4
    assert launch("lambda", "--max-hours", "2") == 0
    (text,) = fake.user_data.values()
    machine = Machine(tmp_path, fake)
    machine.boot(text)
    machine.finish()
    assert not fake.named(RUN)
    (call,) = machine.calls("run")
    image = call.index("registry.example.org/runner@sha256:0123")
    assert call[image + 1 : image + 3] == ["--dataset", "s3://runs/x/datasets/0123456789ab/ADA-EUR_1H.parquet"]
    environment = dict(line.split("=", 1) for line in (machine.home / "environment").read_text().splitlines())
    (entry,) = Book(tmp_path / "runs").entries()
    assert re.fullmatch(f"{RUN}-[0-9a-f]{{8}}", entry.inside)
    expected = {
        "SEQUENCE_HOST": "lambda",
        "SEQUENCE_MACHINE": entry.inside,
        "SEQUENCE_BUDGET__PRICE_USD_PER_HOUR": "0.75",
    }
    assert environment.items() >= (SECRETS | expected).items()
    capsys.readouterr()
    assert launch("list", "--json") == 0
    assert json.loads(capsys.readouterr().out)["machines"] == []


@pytest.mark.parametrize("boots_after", [1, 3])
def test_a_launch_without_an_answer_never_makes_a_second_instance(fake: FakeLambda, launch: Launch, boots_after: int):
    fake.boots_after = boots_after
    fake.faults = [Fault(LAUNCH, lost=True)]
    assert launch("lambda") == launch("lambda") == 0
    assert len(fake.made(LAUNCH)) == 1 and len(fake.named(RUN)) == 1


def test_the_next_region_is_asked_where_one_has_no_capacity_any_more(fake: FakeLambda, launch: Launch):
    fake.faults = [Fault(LAUNCH, reply=NO_CAPACITY)]
    assert launch("lambda", "--region", "us-east-1", "--region", "us-west-1") == 0
    assert [call.body["region_name"] for call in fake.made(LAUNCH)] == ["us-east-1", "us-west-1"]


@pytest.mark.parametrize("status", ["unhealthy", "preempted"])
def test_an_instance_that_comes_up_unfit_is_ended(fake: FakeLambda, launch: Launch, status: str, capsys):
    launched = fake._launch
    fake._launch = lambda body: (
        fake.instances[(answer := launched(body))["instance_ids"][0]].update(  # type: ignore[method-assign]
            status=status
        )
        or answer
    )
    assert launch("lambda") == 69
    assert not fake.named(RUN) and f"is {status}; it has been ended" in capsys.readouterr().err


def test_stop_ends_what_has_the_runs_name_whatever_its_state_and_nothing_else(fake: FakeLambda, launch: Launch):
    assert launch("lambda") == 0
    fake.add(RUN, "preempted")
    other = fake.add("somebody-elses")
    assert launch("stop", RUN) == launch("stop", RUN) == 0
    assert not fake.named(RUN) and fake.instances[other]["status"] == "active"


def test_without_the_key_on_the_machine_the_command_must_stay(fake: FakeLambda, launch: Launch, capsys):
    assert launch("lambda", "--no-self-terminate") == 2
    assert "add --wait" in capsys.readouterr().err and not fake.calls


def test_every_launch_of_a_run_has_another_name_inside_and_a_joined_one_keeps_its_own(fake, launch, tmp_path):
    def inside() -> str:
        assert launch("lambda") == 0
        (entry,) = Book(tmp_path / "runs").entries()
        return entry.inside

    first = inside()
    assert inside() == first
    assert launch("stop", RUN) == 0
    assert inside() != first


def test_of_a_machine_from_another_computer_no_name_is_invented(fake: FakeLambda, launch: Launch, tmp_path: Path):
    there = fake.add(RUN)
    assert launch("lambda") == 0
    (entry,) = Book(tmp_path / "runs").entries()
    assert (entry.machine_id, entry.inside) == (there, "")


def test_an_orphan_is_found_and_ended_after_asking_and_nobody_elses(fake, launch, tmp_path, monkeypatch, capsys):
    url, there = f"file://{tmp_path}/store", fake.add(RUN)
    at_work, notebook = fake.add("another-run"), fake.add("my-notebook")
    noted = {"provider": "lambda", "store": url, "asked_t": time.time() - 60, "max_hours": 12.0}
    book = Book(tmp_path / "runs")
    book.write(Entry(run_id=RUN, machine_id=there, inside=f"{RUN}-00000001", **noted))
    book.write(Entry(run_id="another-run", machine_id=at_work, **noted))
    done = End(machine=f"{RUN}-00000001", exit_code=70, reason="a bug", ended_t=time.time(), console_tail="")
    write_end(open_store(url), RUN, done)
    for text, left in (("n\n", {there, at_work, notebook}), ("y\n", {at_work, notebook})):
        monkeypatch.setattr("sys.stdin", io.StringIO(text))
        assert launch("reap") == 0
        said = capsys.readouterr().out
        assert f"{there} ({RUN}, 0.75 USD/h)" in said and at_work not in said and notebook not in said
        assert {one["id"] for one in fake.instances.values() if one["status"] == "active"} == left
    assert book.find("lambda", RUN).ended


def test_the_end_of_an_earlier_launch_makes_no_orphan_of_the_machine_at_work(fake, launch, tmp_path, capsys):
    url, book, there = f"file://{tmp_path}/store", Book(tmp_path / "runs"), fake.add(RUN)
    entry = Entry(provider="lambda", run_id=RUN, machine_id=there, store=url, asked_t=time.time() - 60, max_hours=12)
    earlier = {"exit_code": 79, "reason": "budget", "console_tail": ""}
    for name, ago_s in ((RUN, 30), (f"{RUN}-00000001", 240)):
        write_end(open_store(url), RUN, End(machine=name, ended_t=time.time() - ago_s, **earlier))
    book.write(entry.model_copy(update={"inside": f"{RUN}-00000002"}))
    assert launch("reap", "--yes") == 0 and fake.named(RUN)
    assert "no orphans" in capsys.readouterr().out
    book.write(entry)  # of an older version of this program: whose end that is, is not known
    assert launch("reap", "--yes") == 0 and fake.named(RUN)
    book.write(entry.model_copy(update={"inside": f"{RUN}-00000001"}))
    assert launch("reap", "--yes") == 0 and not fake.named(RUN)


def test_a_machine_that_is_gone_does_not_answer_with_the_end_of_an_earlier_one(fake, launch, tmp_path, capsys):
    url = f"file://{tmp_path}/store"
    done = End(machine=f"{RUN}-00000001", exit_code=0, reason="done", ended_t=time.time(), console_tail="")
    write_end(open_store(url), RUN, done)
    sight = life.Sight(LambdaCloud(), Rented("i-1", RUN, "ended"), is_listed=True)
    entry = Entry(provider="lambda", run_id=RUN, machine_id="i-1", asked_t=time.time() - 60, max_hours=12)
    with pytest.raises(life.NotStartedError, match="left no word"):
        _gone(url, life.Launched(sight, entry, True), f"{RUN}-00000002")
    assert _gone(url, life.Launched(sight, entry, True), done.machine) == 0


@pytest.mark.parametrize("answers", [True, False], ids=["can be ended", "cannot be asked"])
def test_a_machine_that_only_this_command_ends_is_ended_or_named_whatever_goes_wrong(
    fake, launch, monkeypatch, capsys, answers
):
    monkeypatch.setattr(http, "PATIENCE_S", 0.0)
    monkeypatch.setattr(life, "ENDING_LIMIT_S", 0.05)
    fake.boots_after, answer, looks = 10**9, fake.answer, []

    def down(call):
        looks.extend([1] if call.what == "GET /instances" and fake.instances else [])
        is_down = len(looks) == 3 if answers else len(looks) >= 3
        return UNAVAILABLE if is_down and call.what == "GET /instances" else answer(call)

    fake.answer = down
    assert launch("lambda", "--no-self-terminate", "--wait") == 69
    said = capsys.readouterr().err
    if answers:
        assert not fake.named(RUN) and "has been ended, for it does not end itself" in said
    else:
        assert fake.named(RUN) and "COSTS MONEY" in said and f"launch stop {RUN}" in said


def test_a_machine_that_only_this_command_ends_is_ended_when_its_time_is_over_whatever_the_store_does(
    fake, launch, expiring, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(until_end, "__defaults__", (None, Pace(0.02, 0.1, 0.1, 0.02, 0.1)))
    monkeypatch.setattr(results, "PATIENCE_S", 0.1)
    monkeypatch.setattr(results, "WAIT_S", 0.05)
    monkeypatch.setattr(order, "SLACK_HOURS", 0.0)
    monkeypatch.setattr(order, "IMAGE_S", 0.0)
    expiring.answers_before = 2  # those of the first look, at which the time may be over already
    asked = ("--no-self-terminate", "--wait", "--max-hours", "0.0006", "--store", expiring.url)
    assert launch("lambda", *asked) == 79
    said = capsys.readouterr().err
    assert not fake.named(RUN) and "ExpiredToken" in said and "nothing is fetched" in said
    assert not Book(tmp_path / "runs").find("lambda", RUN).ends_itself, "whatever a command says that joins it"


def test_a_dry_run_asks_for_nothing_and_shows_no_secret(fake: FakeLambda, launch: Launch, capsys):
    assert launch("lambda", "--dry-run") == 0
    said = "".join(capsys.readouterr())
    assert "#cloud-config" in said and not fake.calls
    assert not [value for value in (*SECRETS.values(), KEY) if value in said]

"""SkyPilot as a provider: what the program `sky` is asked, and what is made of its answers."""

import itertools
import json
import os
import shlex
import subprocess
import time
from pathlib import Path

import pytest
import yaml

from runner.launch import life
from runner.launch.book import Book, Entry
from runner.launch.life import end_run
from runner.launch.provider import BadRequestError, LaunchError, Machine, Offer, Order, UnclearError
from runner.launch.sky import program
from runner.launch.sky.provider import SkyPilot
from runner.launch.sky.task import RECOVERED, RUNNER, task
from runner.launch.survey import survey
from tests.cli import cli
from tests.providers.sky import FakeSky, install

pytestmark = pytest.mark.slow
SECRET = "s3cr3t-of-the-test"
RUN = "ADA-EUR_1H-quick-0123abcd"


def order(**changes) -> Order:
    asked = {
        "run_id": RUN,
        "image": "registry.example/sequence-runner:1",
        "arguments": ("--dataset", "ADA-EUR_1H", "--set", "x.y=['a b', \"$HOME\"]", "--store", "s3://bucket/it's"),
        "gpu": "A100:1",
        "environment": {"SEQUENCE_HOST": "sky", "AWS_REGION": "eu-west-1"},
        "secrets": ("AWS_SECRET_ACCESS_KEY",),
        "max_hours": 2.5,
        "disk_gb": 256,
    }
    return Order(**asked | changes)


@pytest.fixture
def sky(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeSky:
    fake = install(tmp_path)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.delenv("SEQUENCE_SKY", raising=False)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    return fake


def created(asked: Order) -> Machine:
    pilot = SkyPilot()
    return pilot.create(asked, pilot.offers(asked)[0])


def test_a_run_is_a_job_from_its_launch_to_its_end(sky):
    pilot = SkyPilot()
    assert pilot.machines() == []
    machine = created(order())
    assert (machine.id, machine.name, machine.status) == ("1", RUN, "starting")
    assert pilot.machines("another") == []
    sky.set_status(1, "RUNNING")
    (running,) = pilot.machines(RUN)
    assert (running.id, running.status, running.created_t, running.costs) == ("1", "running", 1790000000.5, True)
    pilot.end("1")
    assert sky.jobs[0]["status"] == "CANCELLED" and pilot.machines() == []
    pilot.end("1")  # gone already


def test_the_secret_reaches_the_job_by_its_name_alone(sky):
    created(order())
    assert sky.jobs[0]["secrets"] == {"AWS_SECRET_ACCESS_KEY": SECRET}
    assert SECRET not in sky.jobs[0]["task"] and SECRET not in str(sky.calls)
    (launch,) = [call for call in sky.calls if call[1] == "launch"]
    assert launch[launch.index("--secret") + 1] == "AWS_SECRET_ACCESS_KEY"
    assert not Path(launch[-1]).exists()


def test_what_a_dry_run_shows_is_what_is_sent(sky, monkeypatch):
    asked = order(spot=True, regions=("aws", "gcp/us-central1"), options={"max_price": 1.25})
    (offer,) = SkyPilot().offers(asked)
    shown = SkyPilot().request(asked, offer)
    created(asked)
    launch = sky.calls[-1]
    assert shown.body == sky.jobs[0]["task"]
    assert shlex.split(shown.url) == ["sky", *launch[:-1], "task.yaml"]
    assert SECRET not in shown.url + shown.body


def test_the_task_says_what_the_order_says(sky):
    asked = order(spot=True, regions=("aws", "gcp/us-central1"), gpu="L4", gpu_count=2, options={"max_price": 1.25})
    created(asked)
    made = yaml.safe_load(sky.jobs[0]["task"])
    assert made["name"] == RUN and made["envs"] == {"SEQUENCE_HOST": "sky", "AWS_REGION": "eu-west-1"}
    assert made["resources"] == {
        "accelerators": "L4:2",
        "use_spot": True,
        "image_id": "docker:registry.example/sequence-runner:1",
        "disk_size": 256,
        "job_recovery": {"max_restarts_on_errors": 0, "recover_on_exit_codes": [75, 143]},
        "max_hourly_cost": 1.25,
        "any_of": [{"infra": "aws"}, {"infra": "gcp/us-central1"}],
    }


def test_the_runner_is_where_the_image_has_it():
    image = (Path(__file__).parents[3] / "Dockerfile").read_text()
    assert f"ENV PATH={Path(RUNNER).parent}:" in image
    assert "WORKDIR /\n" in image.rpartition("FROM ")[2]  # below which are the run and the data


def test_without_a_store_there_is_nothing_to_go_on_from():
    bare = task(order(arguments=("--dataset", "ADA-EUR_1H")), Offer("A100:1", "", 0.0))
    assert bare["resources"]["job_recovery"] == {"max_restarts_on_errors": 0}
    assert not {"max_hourly_cost", "any_of"} & set(bare["resources"])


def script_of(asked: Order, folder: Path, runner: str) -> Path:
    """The job's script with another program in the runner's place, as the image is not here."""
    (folder / "runner").write_text(f"#!/bin/sh\n{runner}\n")
    (folder / "runner").chmod(0o755)
    script = task(asked, Offer("A100:1", "", 0.0))["run"]
    assert script.count(RUNNER) == 1
    (folder / "job").write_text(script.replace(RUNNER, str(folder / "runner")))
    return folder / "job"


def test_the_job_s_shell_hands_every_argument_over_as_it_is(tmp_path):
    job = script_of(order(), tmp_path, "pwd; printf '%s\\n' \"$@\"")
    said = subprocess.run(["bash", job], capture_output=True, text=True, check=True).stdout
    assert said.splitlines() == ["/", *order().arguments]


def test_a_start_that_goes_on_too_long_ends_with_a_code_that_is_not_recovered(tmp_path):
    job = script_of(order(max_hours=0.6 / 3600), tmp_path, "exec sleep 30")
    code = subprocess.run(["bash", job]).returncode
    assert code == 124 and code not in RECOVERED


def test_a_launch_that_names_no_job_is_looked_up(sky):
    sky.is_mute()
    assert created(order()).id == "1"


def test_a_launch_that_fails_says_why_and_no_secret(sky, monkeypatch):
    monkeypatch.setenv("PRINTED", SECRET)
    sky.has_trouble_with("launch")
    with pytest.raises(LaunchError, match="ended with exit code 1.*no cloud has it") as caught:
        created(order())
    assert caught.value.exit_code == 69 and not isinstance(caught.value, UnclearError)
    assert SECRET not in str(caught.value) and "\x1b" not in str(caught.value)
    assert [call[1] for call in sky.calls].count("launch") == 1


def test_a_job_that_a_failed_launch_has_left_is_found(sky):
    created(order())
    sky.has_trouble_with("launch")
    assert created(order()).id == "1" and len(sky.jobs) == 1


def test_where_nobody_can_tell_whether_there_is_a_job_that_is_said(sky):
    sky.has_trouble_with("launch", "queue")
    with pytest.raises(UnclearError, match="whether there is a job is not known"):
        created(order())


def test_a_call_without_an_end_is_given_up_and_unclear(sky):
    sky.has_trouble_with("slow-launch")
    with pytest.raises(UnclearError, match="did not end within"):
        program.run(["jobs", "launch"], 0.2)


def test_a_job_that_cannot_be_cancelled_is_no_silent_end(sky):
    created(order())
    sky.has_trouble_with("cancel")
    with pytest.raises(LaunchError, match="sky jobs cancel"):
        SkyPilot().end("1")


def test_another_program_named_sky_is_no_skypilot(sky):
    sky.path.write_text("#!/bin/sh\necho '[1] the weather is fine'\n")
    with pytest.raises(LaunchError, match=r"the weather is fine; SkyPilot 0\.14 is needed"):
        SkyPilot().machines()


def test_logs_come_as_they_are_printed_and_stop_when_nobody_reads(sky):
    assert list(SkyPilot().logs("1", 3, follow=False))[-3:] == ["line 7", "line 8", "line 9"]
    followed = SkyPilot().logs("1", 2, follow=True)
    assert list(itertools.islice(followed, 3))[-2:] == ["line 8", "line 9"]
    followed.close()  # waits for the program, which would go on for minutes


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"run_id": "1INCH-EUR_1H"}, "another --run-id"),
        ({"run_id": "ADA-EUR_"}, "another --run-id"),
        ({"regions": ("aws", "RunPod/CA")}, "launch runpod"),
    ],
)
def test_what_skypilot_cannot_do_is_refused_before_it_is_asked(sky, changes, says):
    with pytest.raises(BadRequestError, match=says):
        SkyPilot().offers(order(**changes))
    assert sky.calls == []


def test_without_the_program_it_is_said_how_to_get_it(tmp_path, monkeypatch):
    asked = ("launch", "sky", "--dataset", "DEMO-USD_1H", "--gpu", "A100:1", "--image", "registry.example/i:1")
    gone = cli(*asked, cwd=tmp_path, PATH="/nowhere", SEQUENCE_SKY="")
    assert gone.returncode == 69, gone.stderr
    assert "there is no program sky on PATH" in gone.stderr and "pipx install" in gone.stderr
    monkeypatch.setenv("SEQUENCE_SKY", str(tmp_path / "sky"))
    with pytest.raises(LaunchError, match="SEQUENCE_SKY=.*/sky is no program.*pipx install"):
        program.require()
    monkeypatch.setenv("SEQUENCE_SKY", str(install(tmp_path).path))
    assert program.require() == str(tmp_path / "sky")


def test_one_command_launches_a_job_with_the_price_as_its_ceiling(sky, tmp_path):
    asked = (
        "launch",
        "sky",
        "--dataset",
        "DEMO-USD_1H",
        "--gpu",
        "A100:4",
        "--spot",
        "--max-cost",
        "6",
        "--price",
        "2",
    )
    dry = cli(*asked, "--image", "registry.example/i:1", "--dry-run", cwd=tmp_path)
    assert dry.returncode == 0 and sky.jobs == [], dry.stderr
    command, text = dry.stdout.split("\n", 1)
    made = yaml.safe_load(text)
    assert command.startswith("run sky jobs launch --name DEMO-USD_1H-quick-")
    assert made["resources"]["max_hourly_cost"] == 2 and made["resources"]["accelerators"] == "A100:4"
    assert "--max-cost 6" in made["run"] and "timeout --kill-after=120 12600 " in made["run"]  # 3 h, and half an hour


def test_a_launched_run_is_listed_heard_and_stopped_by_its_name(sky, tmp_path):
    asked = ("launch", "sky", "--dataset", "DEMO-USD_1H", "--gpu", "A100:1", "--image", "registry.example/i:1")
    first, again = (cli(*asked, "--run-id", RUN, cwd=tmp_path) for _ in range(2))
    assert first.returncode == again.returncode == 0, first.stderr + again.stderr
    assert f"run {RUN} is on sky machine 1" in first.stderr and "nothing was created" in again.stderr
    assert len(sky.jobs) == 1
    limits = "may use 12.0 h, at each of its starts, for it has no store; SkyPilot ends each start after 12.5 h"
    assert limits in first.stderr and "at the latest" not in first.stderr
    (seen,) = json.loads(cli("launch", "list", "--json", cwd=tmp_path).stdout)["machines"]
    assert (seen["run_id"], seen["machine_id"], seen["status"]) == (RUN, "1", "running")
    assert "line 9" in cli("launch", "logs", RUN, "--lines", "3", cwd=tmp_path).stdout
    assert "sky machine 1" in cli("launch", "stop", RUN, cwd=tmp_path).stdout
    assert sky.jobs[0]["status"] == "CANCELLED"


def noted(runs_dir: Path, name: str, **more) -> Book:
    values = {"machine_id": "1", "asked_t": time.time() - 3600, "max_hours": 12.0} | more
    book = Book(runs_dir)
    book.write(Entry(provider="sky", run_id=name, **values))
    return book


def test_a_job_that_has_the_number_of_an_earlier_one_is_another_job(sky, tmp_path):
    book = noted(tmp_path, "a-run", ended=True)
    noted(tmp_path, "b-run")  # of both the controller is gone, and its count with it
    created(order(run_id="somebody-elses"))
    found = survey([SkyPilot()], book)
    assert (found.seen, found.others) == ([], 1) and book.find("sky", "b-run").ended
    noted(tmp_path, "b-run")
    for run in ("a-run", "b-run"):
        assert end_run(SkyPilot(), book, run) == ([], [])
    assert not [call for call in sky.calls if call[1] == "cancel"]


def test_of_a_job_no_end_and_no_ceiling_of_its_name_is_sure(sky, tmp_path):
    book = noted(tmp_path, RUN, ended=True)
    created(order())
    (again,) = survey([SkyPilot()], book).seen
    assert again.orphan and not again.is_sure, "its name and number may be another computer's"
    noted(tmp_path, RUN, asked_t=time.time() - 20 * 3600)
    (late,) = survey([SkyPilot()], book).seen
    assert "its ceiling of 12 h passed" in late.orphan and not late.is_sure, "it may have waited for a machine"


def test_a_job_that_waits_for_a_machine_is_waited_for_and_not_cancelled(sky, tmp_path, monkeypatch):
    monkeypatch.setattr(life, "POLL_S", 0.01)
    machine = created(order())
    entry = Entry(provider="sky", run_id=RUN, machine_id="1", asked_t=time.time(), max_hours=12.0)
    launched = life.Launched(life.Sight(SkyPilot(), machine, is_listed=True), entry, False)
    monkeypatch.setattr(life, "IMAGE_S", -1.0)
    assert life.wait_until_running(launched, Book(tmp_path)).status == "running"


REAL = """
import json, os, sys
import sky
from sky.client.cli import command
asked = json.load(sys.stdin)
task = sky.Task.from_yaml(asked["task"])
resources = [resource.to_yaml_config() for resource in task.resources]
for words in asked["commands"]:
    command.jobs.commands[words[1]].make_context(words[1], words[2:])
recovery = [resource.job_recovery for resource in task.resources]
container = [resource.cluster_config_overrides for resource in task.resources]
answer = {"name": task.name, "run": task.run, "envs": task.envs, "resources": resources}
print(json.dumps(answer | {"recovery": recovery, "container": container}))
"""


@pytest.mark.skipif("SKY_PYTHON" not in os.environ, reason="needs SkyPilot's own environment: make sky-check")
def test_the_real_skypilot_reads_the_task_and_takes_every_command_line(tmp_path, sky):
    asked = order(spot=True, regions=("aws", "gcp"), options={"max_price": 1.25})
    created(asked)
    pilot = SkyPilot()
    pilot.machines()
    next(pilot.logs("1", 3, follow=True))
    list(pilot.logs("1", 3, follow=False))
    pilot.end("1")
    text = tmp_path / "task.yaml"
    text.write_text(sky.jobs[0]["task"])
    question = {"task": str(text), "commands": sky.calls}
    answer = subprocess.run(
        [os.environ["SKY_PYTHON"], "-c", REAL],
        input=json.dumps(question),
        capture_output=True,
        text=True,
        env=os.environ | {"HOME": str(tmp_path), "SKYPILOT_DISABLE_USAGE_COLLECTION": "1"},
    )
    assert answer.returncode == 0, answer.stderr
    read = json.loads(answer.stdout.splitlines()[-1])
    assert read["container"] == [{"docker": {"run_options": ["-e HOME=/root"]}}] * 2
    assert read["name"] == RUN and read["envs"] == dict(asked.environment)
    assert {resource["infra"] for resource in read["resources"]} == {"aws", "gcp"}
    for resource, recovery in zip(read["resources"], read["recovery"], strict=True):
        assert resource["accelerators"] == {"A100": 1} and resource["use_spot"] is True
        assert list(resource["image_id"].values()) == ["docker:registry.example/sequence-runner:1"]
        assert resource["max_hourly_cost"] == 1.25
        assert recovery["recover_on_exit_codes"] == [75, 143] and recovery["max_restarts_on_errors"] == 0
    assert shlex.split(read["run"].splitlines()[1])[5:] == list(asked.arguments)

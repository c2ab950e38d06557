"""`scripts/lambda.sh`: with curl against the fake of Lambda's API, with docker played by a program that notes its call.

Its pauses are real ones; here a `sleep` that does nothing stands before the system's.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from runner.launch.lambda_cloud.user_data import user_data
from runner.launch.provider import Order
from tests.providers.base import Call, Fault, Reply
from tests.providers.computer import Computer, Secrets
from tests.providers.lambda_cloud import KEY, LAUNCH, NO_CAPACITY, QUOTA, TOO_EARLY, UNAVAILABLE, FakeLambda, error
from tests.runner.fixture_stages.world import wait_for

pytestmark = pytest.mark.slow
SCRIPT = Path(__file__).parents[3] / "scripts/lambda.sh"
SECRET = 's3cret "of" the \\store: #'
RUN = "some-run"
ARGUMENTS = ["--gpu", "gpu_1x_a10", "--dataset", "DEMO-USD_1H", "--store", "s3://b/p", "--run-id", RUN]


@pytest.fixture
def computer(tmp_path: Path) -> Iterator[Computer[FakeLambda]]:
    with FakeLambda() as fake:
        yield Computer(tmp_path, fake, [str(SCRIPT)], "LAMBDA", Secrets(KEY, SECRET))


def read(text: str) -> dict:
    """User data with the texts in it parsed, so that it can be compared."""
    told = yaml.safe_load(text)
    files = {file["path"]: (file["permissions"], file["content"]) for file in told["write_files"]}
    mode, settings = files.pop("/opt/sequence-runner/settings.json")
    return {"runcmd": told["runcmd"], "files": files, "settings": (mode, json.loads(settings))}


def test_an_instance_is_told_the_same_by_the_script_as_by_the_launcher(computer: Computer[FakeLambda]):
    odd = 'a.b="it\'s odd" $(x) \\'
    computer.environment["SEQUENCE_GIT_USER"] = "me"
    said = computer.run(*ARGUMENTS, "--max-hours", "1.5", "--", "--set", odd, "--until", "base_ppo")
    ((machine_id, text),) = computer.fake.user_data.items()
    assert machine_id in said and "0.75 USD per hour" in said
    arguments = ("--dataset", "DEMO-USD_1H", "--profile", "quick", "--store", "s3://b/p", "--max-hours", "1.5")
    arguments += ("--require-gpu", "--set", odd, "--until", "base_ppo", "--run-id", RUN)
    order = Order(run_id=RUN, image="registry/image:1", arguments=arguments, gpu="gpu_1x_a10", max_hours=2.0)
    environment = {"AWS_ACCESS_KEY_ID": "an-access-key", "AWS_SECRET_ACCESS_KEY": SECRET, "SEQUENCE_HOST": "lambda"}
    environment |= {"SEQUENCE_GIT_USER": "me"}
    (tag,) = computer.fake.instances[machine_id]["tags"]
    assert tag["key"] == "sequence-runner" and re.fullmatch(f"{RUN}-[0-9a-f]{{8}}", tag["value"])
    environment |= {"SEQUENCE_MACHINE": tag["value"], "SEQUENCE_BUDGET__PRICE_USD_PER_HOUR": "0.75"}
    by_launcher, by_script = read(user_data(order, environment, KEY, computer.fake.url, tag["value"])), read(text)
    in_both = "/opt/sequence-runner/environment"
    by_launcher["files"][in_both], by_script["files"][in_both] = (
        sorted(told["files"][in_both][1].splitlines()) for told in (by_launcher, by_script)
    )
    assert by_script == by_launcher


def test_no_secret_stands_in_a_list_of_processes(computer: Computer[FakeLambda]):
    computer.run(*ARGUMENTS)
    argv = (computer.root / "argv").read_text()
    assert "--config" in argv and KEY not in argv and SECRET not in argv


def test_a_run_that_has_an_instance_gets_no_second_one(computer: Computer[FakeLambda]):
    computer.run(*ARGUMENTS)
    assert "already" in computer.run(*ARGUMENTS)
    assert len(computer.fake.made(LAUNCH)) == 1


@pytest.mark.parametrize("status", ["unhealthy", "preempted"])
def test_an_instance_that_does_nothing_is_no_success_and_must_go_first(computer: Computer[FakeLambda], status: str):
    machine_id = computer.fake.add(RUN, status)
    assert f"{machine_id} of run {RUN} is {status}" in computer.run(*ARGUMENTS, exit_code=69)
    assert not computer.fake.made(LAUNCH)
    computer.run("stop", machine_id)
    computer.run(*ARGUMENTS)
    assert len(computer.fake.made(LAUNCH)) == 1


def test_an_instance_that_is_going_is_no_machine_of_the_run(computer: Computer[FakeLambda]):
    computer.fake.add(RUN, "terminating")
    computer.run(*ARGUMENTS)
    assert len(computer.fake.made(LAUNCH)) == 1


@pytest.mark.parametrize("fault", [Fault(LAUNCH, lost=True), Fault(LAUNCH, reply=UNAVAILABLE)])
def test_an_unclear_launch_is_looked_for_and_never_repeated(computer: Computer[FakeLambda], fault: Fault):
    computer.fake.faults = [replace(fault)]
    said = computer.run(*ARGUMENTS, exit_code=0 if fault.lost else 69)
    assert len(computer.fake.made(LAUNCH)) == 1
    assert ("an instance of that name" if fault.lost else "is unknown (503 ") in said


@pytest.mark.parametrize(("failing_looks", "code"), [(2, 0), (4, 69)])
def test_a_look_that_cannot_be_made_after_an_unclear_launch_ends_no_search(computer, failing_looks, code):
    answer = computer.fake.answer

    def goes_down(call: Call) -> Reply:
        if call.what == LAUNCH:
            computer.fake.faults.append(Fault("GET /instances", reply=UNAVAILABLE, times=failing_looks))
        return answer(call)

    computer.fake.answer = goes_down
    computer.fake.faults = [Fault(LAUNCH, lost=True)]
    said = computer.run(*ARGUMENTS, exit_code=code)
    assert ("is on an instance of that name" if code == 0 else f"one named {RUN} may exist and cost") in said
    assert len(computer.fake.made(LAUNCH)) == len(computer.fake.named(RUN)) == 1


def test_regions_are_asked_one_after_the_other(computer: Computer[FakeLambda]):
    computer.fake.faults = [Fault(LAUNCH, reply=NO_CAPACITY)]
    computer.run(*ARGUMENTS)
    assert [call.body["region_name"] for call in computer.fake.made(LAUNCH)] == ["us-west-1", "us-east-1"]


def test_what_lambda_refuses_is_said_in_its_words(computer: Computer[FakeLambda]):
    computer.fake.faults = [Fault(LAUNCH, reply=QUOTA)]
    assert "Quota exceeded" in computer.run(*ARGUMENTS, exit_code=78)
    computer.fake.faults = [Fault(LAUNCH, reply=TOO_EARLY)]
    assert "too many requests; wait a minute" in computer.run(*ARGUMENTS, exit_code=69)
    computer.fake.ssh_keys = ["laptop", "my desk"]
    assert "my desk" in computer.run(*ARGUMENTS, exit_code=78)
    computer.run(*ARGUMENTS, "--ssh-key", "my desk")


def test_an_instance_is_stopped_once_or_twice(computer: Computer[FakeLambda]):
    machine_id = computer.fake.add(RUN)
    computer.run("stop", machine_id)
    computer.run("stop", machine_id)
    assert not computer.fake.named(RUN)


@pytest.mark.parametrize(
    ("arguments", "exit_code", "says"),
    [
        (["--gpu", "gpu_1x_a10", "--dataset", "D"], 2, "needs --store"),
        ([*ARGUMENTS, "--max-hours", "1;id"], 2, "no number of hours"),
        ([*ARGUMENTS, "--max-hours", "0.0"], 2, "above 0"),
        ([*ARGUMENTS, "--run-id", "x" * 65], 2, "64 characters"),
        ([*ARGUMENTS, "--wait", "now"], 2, "--wait is no option without docker"),
        ([*ARGUMENTS, "--", "a\nb"], 78, "line breaks"),
        ([*ARGUMENTS, "--gpu", "gpu_9x"], 78, "no instance type gpu_9x"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_launched(
    computer: Computer[FakeLambda], arguments: list[str], exit_code: int, says: str
):
    assert says in computer.run(*arguments, exit_code=exit_code)
    assert not computer.fake.made(LAUNCH)


def test_with_the_image_at_hand_the_launcher_in_it_does_all(computer: Computer[FakeLambda]):
    computer.program("docker", '[ "$1" = image ] || printf "%s\\n" "$@"')
    (computer.root / "data").mkdir()
    said = computer.run(*ARGUMENTS, "--wait").splitlines()
    assert said[said.index("registry/image:1") :] == ["registry/image:1", "launch", "lambda", *ARGUMENTS, "--wait"]
    assert {"LAMBDA_API_KEY", "AWS_SECRET_ACCESS_KEY", f"{computer.root}/data:/data:ro"} <= set(said)


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGTERM, signal.SIGINT])
def test_who_is_stopped_while_asking_leaves_no_secret_behind(computer: Computer[FakeLambda], number: signal.Signals):
    computer.fake.faults = [Fault(LAUNCH, hang_s=600)]
    command = ["sh", str(SCRIPT), *ARGUMENTS]
    process = subprocess.Popen(command, env=computer.environment, stdout=subprocess.DEVNULL, start_new_session=True)
    wait_for(lambda: computer.fake.made(LAUNCH), 120)
    assert SECRET in json.loads(next(computer.root.glob("tmp.*/body")).read_text())["user_data"]
    os.killpg(process.pid, number)
    assert process.wait(120) in (129, 130) and not list(computer.root.glob("tmp.*"))


def test_a_refusal_that_repeats_what_was_handed_over_is_shown_without_it(computer: Computer[FakeLambda]):
    computer.environment |= {"AWS_REGION": "eu-1", "SEQUENCE_GIT_TOKEN": "the eu-1 token/with & <odd>"}
    values = [SECRET, KEY, "an-access-key", "the eu-1 token/with & <odd>"]
    said = f"wrong: {', '.join(values)}, and {json.dumps(values)}"
    computer.fake.faults = [Fault(LAUNCH, error(400, "global/invalid-parameters", said))]
    shown = computer.run(*ARGUMENTS, exit_code=78)
    assert "wrong: [redacted], [redacted], [redacted], [redacted], and" in shown
    assert not [word for word in ("an-access-key", "token/with", "s3cret") if word in shown]


@pytest.mark.parametrize(
    "url",
    [
        "http://api.example.org/v2",
        "http://127.0.0.1:80@api.example.org",
        "http://127.0.0.1.example.org/",
        "ftp://x/",
        "x",
    ],
)
def test_a_key_goes_nowhere_in_the_clear(computer: Computer[FakeLambda], url: str):
    computer.environment["SEQUENCE_LAMBDA_URL"] = url
    assert "SEQUENCE_LAMBDA_URL must begin with https://" in computer.run("stop", "abc", exit_code=78)
    assert not (computer.root / "argv").exists()


def test_a_key_that_is_not_accepted_is_named(computer: Computer[FakeLambda]):
    computer.environment["LAMBDA_API_KEY"] = "another-key-987654321"
    said = computer.run(*ARGUMENTS, exit_code=78)
    assert "LAMBDA_API_KEY is not accepted" in said and "987654321" not in said


@pytest.mark.parametrize("name", ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"])
def test_both_halves_of_the_stores_credentials_are_needed(computer: Computer[FakeLambda], name: str):
    del computer.environment[name]
    assert f"{name} is not set" in computer.run(*ARGUMENTS, exit_code=78)
    assert not computer.fake.calls


def test_a_secret_that_cannot_be_handed_over_is_refused_before_anything_is_rented(computer: Computer[FakeLambda]):
    computer.environment["AWS_SECRET_ACCESS_KEY"] = "s3cr\u00e9t"
    assert "AWS_SECRET_ACCESS_KEY has line breaks or letters" in computer.run(*ARGUMENTS, exit_code=78)
    assert not computer.fake.made(LAUNCH)

"""`scripts/runpod.sh`: with curl against a RunPod on loopback, with docker played by a program that notes its call."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.providers.computer import Computer, Secrets
from tests.providers.runpod import KEY, SCHEMAS, FakeRunPod, Fault, no_capacity, problem, too_many
from tests.providers.schema import faults
from tests.runner.fixture_stages.world import wait_for

pytestmark = pytest.mark.slow
SCRIPT = Path(__file__).parents[3] / "scripts/runpod.sh"
SECRET = "s3cret \"of\" the \\store: #{ 'x'"
RUN = "some-run"
ARGUMENTS = ("--gpu", "NVIDIA A40", "--dataset", "DEMO-USD_1H", "--store", "s3://b/p", "--run-id", RUN)
CREATE = "POST /pods"


@pytest.fixture
def computer(tmp_path: Path) -> Iterator[Computer[FakeRunPod]]:
    with FakeRunPod() as fake:
        yield Computer(tmp_path, fake, ["sh", str(SCRIPT)], "RUNPOD", Secrets(KEY, SECRET))


def test_a_pod_is_asked_for_as_the_schema_has_it_word_by_word(computer: Computer[FakeRunPod]):
    odd = 'a.b="it\'s odd" $(x) \\'
    said = computer.run(*ARGUMENTS, "--max-hours", "1.5", "--region", "EU-SE-1", "--", "--set", odd, "--until", "ppo")
    (pod,) = computer.fake.pods.values()
    assert pod.id in said and "0.44 USD per hour" in said
    body = computer.fake.made(CREATE)[0].body
    assert not faults(SCHEMAS, "CreatePodRequest", body)
    words = ["--dataset", "DEMO-USD_1H", "--profile", "quick", "--store", "s3://b/p", "--max-hours", "1.5"]
    assert shlex.split(body["args"]) == [*words, "--require-gpu", "--set", odd, "--until", "ppo", "--run-id", RUN]
    assert body["env"] == {
        "SEQUENCE_HOST": "runpod",
        "SEQUENCE_END_AFTER_H": "2",
        "AWS_ACCESS_KEY_ID": "an-access-key",
        "AWS_SECRET_ACCESS_KEY": SECRET,
    }
    assert (body["name"], body["image"], body["disk"]) == (RUN, "registry/image:1", 40)


def test_no_secret_stands_in_a_list_of_processes(computer: Computer[FakeRunPod]):
    computer.run(*ARGUMENTS)
    argv = (computer.root / "argv").read_text()
    assert "--config" in argv and KEY not in argv and SECRET not in argv


def test_a_run_that_has_a_pod_gets_no_second_one(computer: Computer[FakeRunPod]):
    computer.run(*ARGUMENTS)
    assert "of that name" in computer.run(*ARGUMENTS)
    assert len(computer.fake.made(CREATE)) == 1


@pytest.mark.parametrize("status", ["EXITED", "ERROR"])
def test_a_pod_that_does_nothing_is_no_success_and_must_go_first(computer: Computer[FakeRunPod], status: str):
    pod = computer.fake.add(RUN, status)
    computer.fake.add("another-run")
    assert f"{pod.id} of run {RUN} is {status}" in computer.run(*ARGUMENTS, exit_code=69)
    assert not computer.fake.made(CREATE)
    computer.run("stop", pod.id)
    computer.run(*ARGUMENTS)
    assert len(computer.fake.made(CREATE)) == 1


def test_what_the_environment_of_a_pod_says_is_no_name_and_no_status(computer: Computer[FakeRunPod]):
    pod = computer.fake.add("another-run")
    pod.body["env"] = {"name": RUN, "status": "RUNNING", "x": f'"}}, {{"name": "{RUN}"}}'}
    computer.run(*ARGUMENTS)
    assert len(computer.fake.made(CREATE)) == 1


@pytest.mark.parametrize(
    ("fault", "code"), [(Fault(CREATE, lost=True), 0), (Fault(CREATE, problem(502, "Bad Gateway", "x")), 69)]
)
def test_an_unclear_create_is_looked_for_and_never_repeated(computer: Computer[FakeRunPod], fault: Fault, code: int):
    computer.fake.faults = [Fault(fault.on, fault.reply, fault.lost)]
    said = computer.run(*ARGUMENTS, exit_code=code)
    assert len(computer.fake.made(CREATE)) == 1 and len(computer.fake.pods) == (code == 0)
    assert ("of that name" if code == 0 else f"one named {RUN} may exist and cost") in said


@pytest.mark.parametrize(("failing_looks", "code"), [(2, 0), (4, 69)])
def test_a_look_that_cannot_be_made_after_an_unclear_create_ends_no_search(computer, failing_looks, code):
    down = problem(503, "Unavailable", "down")
    computer.fake.on_create = lambda pod: computer.fake.faults.append(Fault("GET /pods", down, times=failing_looks))
    computer.fake.faults = [Fault(CREATE, lost=True)]
    said = computer.run(*ARGUMENTS, exit_code=code)
    assert ("is on a pod of that name" if code == 0 else f"one named {RUN} may exist and cost") in said
    assert len(computer.fake.made(CREATE)) == len(computer.fake.pods) == 1


@pytest.mark.parametrize(
    ("reply", "code", "words"),
    [
        (no_capacity(), 69, "no instances available"),
        (problem(402, "Payment Required", "add funds"), 69, "add funds"),
        (problem(422, "Unprocessable Entity", "no", ["$.disk: too small"]), 78, "too small"),
        (problem(401, "Unauthorized", "missing bearer token"), 78, "bearer"),
        (too_many(86_400), 69, "rate limit exceeded"),
    ],
)
def test_what_runpod_refuses_is_said_in_its_words(computer: Computer[FakeRunPod], reply, code, words):
    computer.fake.faults = [Fault(CREATE, reply)]
    assert words in computer.run(*ARGUMENTS, exit_code=code)


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("--gpu", "NVIDIA A40", "--dataset", "X", "--store", "file:///x"), 2, "end with the machine"),
        (("--dataset", "X", "--store", "s3://b/p"), 2, "--gpu"),
        ((*ARGUMENTS, "--max-hours", "a lot"), 2, "a lot"),
        ((*ARGUMENTS, "--max-hours", "0.0"), 2, "above 0"),
        ((*ARGUMENTS, "--spot", "1"), 2, "--spot"),
        ((*ARGUMENTS, "--disk-gb", "40G"), 2, "--disk-gb 40G is no number"),
        ((*ARGUMENTS, "--image", "a\nb"), 78, "line breaks"),
        (("stop", "../x"), 2, "no id"),
    ],
)
def test_what_is_wrong_is_found_before_anything_is_sent(computer: Computer[FakeRunPod], arguments, code, words):
    assert words in computer.run(*arguments, exit_code=code)
    assert not computer.fake.calls


def test_stop_ends_the_pod_and_may_be_said_twice(computer: Computer[FakeRunPod]):
    computer.run(*ARGUMENTS)
    (pod_id,) = computer.fake.pods
    computer.run("stop", pod_id)
    computer.run("stop", pod_id)
    assert not computer.fake.pods


def test_with_docker_the_launcher_of_the_image_is_started_and_gets_secrets_by_name(computer: Computer[FakeRunPod]):
    computer.program("docker", f'[ "$1" = image ] || printf "%s\\n" "$@" > {computer.root}/docker-argv')
    computer.run("--gpu", "NVIDIA A40", "--dataset", "X", "--spot")
    argv = (computer.root / "docker-argv").read_text().splitlines()
    at = argv.index("registry/image:1")
    assert argv[at + 1 :] == ["launch", "runpod", "--gpu", "NVIDIA A40", "--dataset", "X", "--spot"]
    assert {"RUNPOD_API_KEY", "AWS_SECRET_ACCESS_KEY", "SEQUENCE_RUNPOD_URL"} <= set(argv)
    assert KEY not in "".join(argv) and SECRET not in "".join(argv)


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGTERM, signal.SIGINT])
def test_who_is_stopped_while_asking_leaves_no_secret_behind(computer: Computer[FakeRunPod], number: signal.Signals):
    computer.fake.faults = [Fault(CREATE, hang_s=600)]
    command = ["sh", str(SCRIPT), *ARGUMENTS]
    process = subprocess.Popen(command, env=computer.environment, stdout=subprocess.DEVNULL, start_new_session=True)
    wait_for(lambda: computer.fake.made(CREATE), 120)
    assert SECRET in json.loads(next(computer.root.glob("tmp.*/body")).read_text())["env"].values()
    os.killpg(process.pid, number)
    assert process.wait(120) in (129, 130) and not list(computer.root.glob("tmp.*"))


def test_a_refusal_that_repeats_what_was_handed_over_is_shown_without_it(computer: Computer[FakeRunPod]):
    computer.environment |= {"AWS_REGION": "eu-1", "SEQUENCE_GIT_TOKEN": "the eu-1 token/with & <odd>"}
    values = [SECRET, KEY, "an-access-key", "the eu-1 token/with & <odd>"]
    said = f"wrong: {', '.join(values)}, and {json.dumps(values)}"
    computer.fake.faults = [Fault(CREATE, problem(422, "Unprocessable", said, values))]
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
def test_a_key_goes_nowhere_in_the_clear(computer: Computer[FakeRunPod], url: str):
    computer.environment["SEQUENCE_RUNPOD_URL"] = url
    assert "SEQUENCE_RUNPOD_URL must begin with https://" in computer.run("stop", "abc", exit_code=78)
    assert not (computer.root / "argv").exists()


@pytest.mark.parametrize("name", ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"])
def test_both_halves_of_the_stores_credentials_are_needed(computer: Computer[FakeRunPod], name: str):
    del computer.environment[name]
    assert f"{name} is not set" in computer.run(*ARGUMENTS, exit_code=78)
    assert not computer.fake.calls


def test_a_secret_that_cannot_be_handed_over_is_refused_before_anything_is_rented(computer: Computer[FakeRunPod]):
    computer.environment["AWS_SECRET_ACCESS_KEY"] = "s3cr\u00e9t"
    assert "AWS_SECRET_ACCESS_KEY has line breaks or letters" in computer.run(*ARGUMENTS, exit_code=78)
    assert not computer.fake.made(CREATE)

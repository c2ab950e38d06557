"""What the machine does with what it is told: its real program, against the fake of Lambda's API."""

from __future__ import annotations

import ast
import json
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from runner.launch.lambda_cloud.user_data import user_data
from runner.launch.provider import BadRequestError, Order
from tests.providers.base import Fault
from tests.providers.lambda_cloud import INTERNAL, KEY, TERMINATE, FakeLambda
from tests.providers.lambda_machine import Machine

pytestmark = pytest.mark.slow
RUN = "ADA-EUR_1H-standard-0123abcd"
HOME = "/opt/sequence-runner"
TAG = f"{RUN}-0011aabb-89abcdef"
PROGRAM = Path(__file__).parents[3] / "runner/launch/lambda_cloud/machine.py"
ODD = 'it\'s "odd"; $(touch nope) `id` \\ #'


class Box(Machine):
    """A machine that is listed already, told what to do in one line."""

    def __init__(self, root: Path, fake: FakeLambda) -> None:
        super().__init__(root, fake)
        self.machine_id = fake.add(RUN)

    def told(self, order: Order, key: str = KEY, environment: dict[str, str] | None = None) -> None:
        self.boot(user_data(order, environment or {}, key, self.fake.url, TAG))

    def tagged(self, machine_id: str, value: str) -> None:
        self.fake.instances[machine_id]["tags"] = [
            {"key": "sequence-runner", "value": value},
            {"key": "of", "value": TAG},
        ]

    @property
    def is_ended(self) -> bool:
        return not self.fake.named(RUN)


def order(**changed: object) -> Order:
    return Order(**{"run_id": RUN, "image": "registry/image:1", "arguments": ("--dataset", "A"), "gpu": "g"} | changed)  # type: ignore[arg-type]


@pytest.fixture
def box(tmp_path: Path) -> Iterator[Box]:
    with FakeLambda() as fake:
        yield Box(tmp_path, fake)


def test_docker_gets_the_order_word_by_word(box: Box):
    box.told(order(arguments=("--set", ODD, "a b")), environment={"ODD": ODD, "EMPTY": ""})
    box.finish()
    (call,) = box.calls("run")
    assert call[-4:] == ["registry/image:1", "--set", ODD, "a b"]
    assert (box.home / "environment").read_text() == f"EMPTY=\nODD={ODD}\n"
    assert call[call.index("--env-file") + 1] == str(box.home / "environment")
    assert call[call.index("--volume") + 1] == f"{box.home / 'runs'}:/runs"
    assert call[call.index("--gpus") + 1] == "all"
    assert not list(box.root.rglob("nope"))


def test_secrets_are_readable_by_root_alone_and_the_container_gets_no_lambda_key(box: Box):
    box.told(order(), environment={"AWS_SECRET_ACCESS_KEY": "s3cret-of-the-store"})
    modes = {path.name: path.stat().st_mode & 0o777 for path in box.home.iterdir()}
    assert modes["environment"] == modes["api-key"] == 0o600
    said = box.finish()
    assert KEY not in said + (box.root / "calls").read_text() + (box.home / "environment").read_text()
    assert "s3cret" not in said + (box.root / "calls").read_text()


@pytest.mark.parametrize("code", [0, 70])
def test_the_machine_ends_when_the_container_ended_whatever_the_code(box: Box, code: int):
    box.state["exits"] = f"{code}\n"
    box.told(order())
    assert f"exit code {code}" in box.finish()
    assert box.is_ended and len(box.calls("run")) == 1 and not box.calls("start")


def test_an_interrupted_or_killed_container_is_started_again_and_four_times_at_most(box: Box):
    box.state["exits"] = "137\n75\n139\n0\n"
    box.told(order())
    assert "exit code 0" in box.finish() and box.is_ended
    assert (len(box.calls("run")), len(box.calls("start"))) == (1, 3)


def test_a_container_that_is_always_killed_ends_the_machine(box: Box):
    box.state["exits"] = "137\n" * 9
    box.told(order())
    assert "exit code 137" in box.finish() and box.is_ended
    assert len(box.calls("run") + box.calls("start")) == 4


def test_an_image_that_cannot_be_pulled_ends_the_machine(box: Box):
    box.state["pulls"] = "1\n" * 9
    box.told(order())
    assert "registry/image:1 cannot be pulled" in box.finish()
    assert box.is_ended and len(box.calls("pull")) == 5 and not box.calls("run")


def test_a_pull_that_fails_at_first_is_tried_again(box: Box):
    box.state["pulls"] = "1\n1\n"
    box.told(order())
    box.finish()
    assert len(box.calls("pull")) == 3 and len(box.calls("run")) == 1


def test_a_container_that_cannot_be_started_ends_the_machine(box: Box):
    box.state["exits"] = "broken\n" * 9
    box.told(order())
    assert "cannot be started" in box.finish() and box.is_ended


@pytest.mark.parametrize(("program", "says"), [("docker", "docker does not answer"), ("nvidia-smi", "no GPU answers")])
def test_a_machine_whose_docker_or_gpu_never_answers_is_ended(box: Box, program: str, says: str):
    box.program(program, "#!/bin/sh\nexit 1\n")
    box.told(order())
    assert says in box.finish() and box.is_ended


def test_two_machines_of_the_name_end_none_where_no_tags_are_shown_and_say_so_again_and_again(box: Box):
    box.tagged(box.machine_id, TAG)
    box.tagged(box.fake.add(RUN), f"{RUN}-0011aabb-00000000")
    box.fake.shows_tags = False
    box.told(order())
    said = box.hold()
    assert said.count("THIS MACHINE COSTS MONEY: 2 instances") >= 5
    assert not box.fake.made(TERMINATE) and len(box.fake.named(RUN)) == 2


def test_of_two_machines_of_the_name_each_ends_itself_and_not_the_other(box: Box):
    other = box.fake.add(RUN)
    box.tagged(box.machine_id, TAG)
    box.tagged(other, f"{RUN}-0011aabb-00000000")
    box.told(order())
    box.finish()
    assert [one["id"] for one in box.fake.named(RUN)] == [other]
    box.hold()
    assert [one["id"] for one in box.fake.named(RUN)] == [other], "nor once it is gone itself"


def test_the_tag_of_an_instance_counts_and_not_the_name_it_has_by_now(box: Box):
    box.tagged(box.machine_id, TAG)
    box.fake.instances[box.machine_id]["name"] = "renamed by hand"
    box.told(order())
    box.finish()
    assert not box.fake.named("renamed by hand")


def test_an_instance_that_shows_anothers_tag_is_another_though_it_has_the_name(box: Box):
    box.tagged(box.machine_id, "what somebody else launched")
    box.told(order())
    assert "0 instances" in box.hold() and not box.fake.made(TERMINATE)


def test_a_name_that_is_not_listed_ends_nothing(box: Box):
    box.fake.instances[box.machine_id]["name"] = "renamed by hand"
    other = box.fake.add("another-run")
    box.told(order())
    assert "0 instances" in box.hold()
    assert box.fake.instances[other]["status"] == "active" and not box.fake.made(TERMINATE)


def test_ending_is_tried_until_it_is_done(box: Box):
    box.fake.faults = [
        Fault("GET /instances", reply=INTERNAL),
        Fault(TERMINATE, reply=INTERNAL),
        Fault(TERMINATE, lost=True),
        Fault("GET /instances", lost=True),
    ]
    box.fake.keeps_terminating = True
    box.told(order())
    said = box.finish()
    assert box.is_ended and "HTTP 500" in said and "global/internal-error" in said


def test_only_the_machine_itself_is_ended(box: Box):
    other = box.fake.add("another-run")
    box.told(order())
    box.finish()
    assert box.is_ended and box.fake.instances[other]["status"] == "active"


def test_a_machine_kept_alive_stays_until_its_time_is_over(box: Box):
    box.told(order(), environment={"SEQUENCE_KEEP_ALIVE": "1"})
    assert "KEPT ALIVE" in box.finish() and not box.is_ended
    box.finish("end")
    assert box.is_ended


def test_a_machine_without_the_key_says_who_must_end_it(box: Box):
    box.told(order(), key="")
    assert "has no API key" in box.finish() and not box.fake.calls


def test_when_its_time_is_over_the_container_is_stopped_first_and_never_started_again(box: Box):
    box.fake.keeps_terminating = True
    box.told(order())
    box.finish("end")
    assert box.calls("stop") == [["stop", "-t", "60", "sequence-runner"]] and box.is_ended
    box.finish("run")
    assert not box.calls("run") and not box.calls("start")


@pytest.mark.parametrize("what", ["run", "end"])
def test_a_disk_that_cannot_be_written_any_more_keeps_no_machine_alive(box: Box, what: str):
    box.told(order())
    for name in ("ending", "end-at", "end-at.new", "runs"):
        (box.home / name).symlink_to("/nonexistent/directory")  # root may write everywhere else
    subprocess.run(box.command(what), env=box.environment, cwd=box.root, timeout=300)
    assert box.is_ended


def test_a_reboot_moves_the_end_of_a_machines_time_by_nothing(box: Box):
    box.told(order(max_hours=2), environment={"SEQUENCE_KEEP_ALIVE": "1"})
    before_t = time.time()
    box.finish()
    end_t = float((box.home / "end-at").read_text())
    assert before_t + 7200 <= end_t <= time.time() + 7200
    (box.home / "end-at").write_text(str(end_t - 3600))
    assert "KEPT ALIVE" in box.finish() and not box.is_ended
    waits = [int(re.search(r"--on-active=(\d+)s", line)[1]) for line in (box.root / "timers").read_text().splitlines()]  # type: ignore[index]
    assert waits == pytest.approx([7200, 3600], abs=300)
    (box.home / "end-at").write_text(str(end_t - 7300))
    box.finish()
    assert box.is_ended and len(box.calls("run") + box.calls("start")) == 1


def test_a_clock_that_was_set_back_gives_no_more_than_the_whole_time(box: Box):
    box.told(order(max_hours=2))
    (box.home / "end-at").write_text(str(time.time() + 10**6))
    box.finish()
    assert (
        "--on-active=7200s systemctl start --no-block sequence-runner-end.service" in (box.root / "timers").read_text()
    )


def test_after_a_reboot_the_same_container_goes_on(box: Box):
    box.told(order())
    (box.root / "state").write_text("137\n")
    box.finish()
    assert not box.calls("pull") and not box.calls("run") and len(box.calls("start")) == 1 and box.is_ended


def test_after_a_reboot_a_finished_container_only_ends_the_machine(box: Box):
    box.told(order())
    (box.root / "state").write_text("0\n")
    box.finish()
    assert not box.calls("run") and not box.calls("start") and box.is_ended


def test_docker_leaves_the_systemd_driver_and_keeps_its_other_settings(box: Box):
    box.state["driver"] = "systemd\n"
    (box.root / "daemon.json").write_text('{"runtimes": {"nvidia": {"path": "n"}}, "exec-opts": ["a=b"]}')
    box.told(order())
    box.finish()
    written = json.loads((box.root / "daemon.json").read_text())
    assert written == {"runtimes": {"nvidia": {"path": "n"}}, "exec-opts": ["a=b", "native.cgroupdriver=cgroupfs"]}
    assert (box.root / "systemctl").read_text() == "restart docker\n"


def told(**changed: object) -> dict:
    return yaml.safe_load(user_data(order(**changed), {}, KEY, "https://cloud.lambda.ai/api/v1", TAG))


def files(told: dict) -> dict[str, str]:
    return {file["path"]: file["content"] for file in told["write_files"]}


def test_the_time_limit_is_set_before_anything_else_is_started():
    cloud = told(max_hours=1.5)
    assert [command[-1] for command in cloud["runcmd"]] == ["sequence-runner-end.timer", "sequence-runner.service"]
    assert "OnBootSec=5400s\n" in files(cloud)["/etc/systemd/system/sequence-runner-end.timer"]


def test_the_program_arrives_byte_for_byte():
    assert files(told())[f"{HOME}/machine.py"] == PROGRAM.read_text()


def test_the_program_is_python_3_8():
    ast.parse(PROGRAM.read_text(), feature_version=(3, 8))


@pytest.mark.skipif(not shutil.which("cloud-init"), reason="cloud-init is not installed")
def test_cloud_init_knows_every_word_of_it(tmp_path: Path):
    (tmp_path / "user-data").write_text(user_data(order(), {"ODD": ODD}, KEY, "https://cloud.lambda.ai/api/v1", TAG))
    subprocess.run(["cloud-init", "schema", "--config-file", str(tmp_path / "user-data")], check=True)


def test_json_is_put_on_one_line_and_other_lines_are_refused():
    account = '{\n "type": "service_account",\n "private_key": "-----BEGIN\\nx"\n}\n'
    text = user_data(order(), {"GOOGLE_CREDENTIALS_JSON": account}, "", "https://x", TAG)
    (line,) = files(yaml.safe_load(text))[f"{HOME}/environment"].splitlines()
    assert json.loads(line.partition("=")[2]) == json.loads(account)
    for value in ("a\nb", "a\rb", "a\x85b", "a\u2028b", "\x00"):
        with pytest.raises(BadRequestError, match="value of ODD"):
            user_data(order(), {"ODD": value}, "", "https://x", TAG)


def test_too_much_is_refused_before_it_is_sent():
    many = {f"V{number}": "x" * 59_000 for number in range(18)}
    with pytest.raises(BadRequestError, match="1000000"):
        user_data(order(), many, "", "https://x", TAG)
    with pytest.raises(BadRequestError, match="60001 bytes"):
        user_data(order(), {"V": "x" * 60_001}, "", "https://x", TAG)
    with pytest.raises(BadRequestError, match="no name of a variable"):
        user_data(order(), {"A=B\nC": "1"}, "", "https://x", TAG)

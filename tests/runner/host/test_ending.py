"""What can go wrong at the end of a pod's run, each in a process of its own: its end is asked for all the same."""

from __future__ import annotations

import math
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from typing import IO

import pytest

from runner.host import deadman
from runner.host.deadman import CLOSING_S, work_s
from runner.host.where import this_host
from runner.launch.order import SLACK_HOURS
from tests.providers.base import Fault, Reply
from tests.providers.runpod import FakeRunPod
from tests.runner.fixture_stages.world import wait_for
from tests.runner.host.pod import POD, Api, serving

TO_THE_END = """
import os, socket
from pathlib import Path
from types import SimpleNamespace
from configs.run_dir import RunDir
from runner.host import ending

ending.FIRST_WAIT_S = 0.05
command = ending.Command(["run"], True, {})
work = lambda: 70
"""
NO_SOCKET = """
def refused(self, address):
    raise PermissionError(1, "Operation not permitted")
socket.socket.bind = refused
"""
NO_PROCESS = """
def refused():
    raise BlockingIOError(11, "Resource temporarily unavailable")
os.fork = refused
os.environ["SEQUENCE_END_AFTER_H"] = "1"
"""
LONG_NAME = "command.plan = SimpleNamespace(run=RunDir(Path('x' * 300)))\n"
"""Looking for its report is an error of the file system."""


class Ending:
    """A process that carries a command out on a pod; it does not outlive the test."""

    def __init__(self, text: str, environment: dict[str, str], stderr: IO[bytes] | int = subprocess.PIPE) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", text], env=os.environ | environment, stdout=subprocess.DEVNULL, stderr=stderr
        )

    def until(self, condition: Callable[[], object]) -> None:
        """Wait for it, or for an end that should not have come."""
        try:
            wait_for(lambda: condition() or self.process.poll() is not None, 120)
        except AssertionError:
            self.process.kill()
            raise AssertionError(f"never: {(self.process.communicate()[1] or b'').decode()}") from None

    def said(self) -> str:
        """Once it is ended, which it must not be yet."""
        ended_by_itself = self.process.poll() is not None
        self.process.kill()
        said = (self.process.communicate()[1] or b"").decode()
        assert not ended_by_itself, said
        return said


def inside(fake: FakeRunPod) -> dict[str, str]:
    """The variables of a machine whose name no other test has: on a computer one runner answers for each."""
    pod = fake.add("rented")
    pod.id, made_as = uuid.uuid4().hex, pod.id
    fake.pods[pod.id] = fake.pods.pop(made_as)
    urls = {"SEQUENCE_RUNPOD_URL": fake.url, "SEQUENCE_RUNPOD_GRAPHQL_URL": fake.graphql_url}
    urls |= {"SEQUENCE_MACHINE": pod.id}
    return urls | {"SEQUENCE_HOST": "runpod", "RUNPOD_POD_ID": pod.id, "RUNPOD_API_KEY": fake.key}


@pytest.mark.parametrize(
    "trouble",
    [
        "work = lambda: 1 / 0\n",
        LONG_NAME + "work = lambda: 74\n",
        LONG_NAME + "work = lambda: 76\n",
        NO_SOCKET,
        NO_PROCESS,
    ],
    ids=["the work", "a lost store", "a lease", "no socket", "no process"],
)
def test_the_end_is_asked_for_and_the_program_stays_whatever_fails_on_the_way(fake, trouble):
    text = TO_THE_END + trouble + "ending.carried_out(command, work)"
    ending = Ending(text, inside(fake))
    ending.until(lambda: not fake.pods)
    said = ending.said()
    assert not fake.pods and "Traceback" not in said


def test_where_nothing_can_be_said_for_want_of_room_the_end_is_asked_for(fake):
    with open("/dev/full", "wb") as full:
        text = TO_THE_END + "ending.carried_out(command, work)"
        ending = Ending(text, inside(fake), full)
        ending.until(lambda: not fake.pods)
        ending.said()
    assert not fake.pods


def test_an_end_that_is_granted_and_does_not_come_is_asked_for_by_every_way(fake):
    fake.faults.append(Fault("DELETE", Reply(204), times=99))
    text = TO_THE_END + "ending.carried_out(command, work)"
    ending = Ending(text, inside(fake))
    ending.until(lambda: not fake.pods)
    ending.said()
    # it goes on asking until it is killed
    assert [call.method for call in fake.calls][:3] == ["DELETE", "DELETE", "POST"] and not fake.pods


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ({}, "BILLS UNTIL YOU END IT; said again"),
        ({"SEQUENCE_END_AFTER_H": "2.5"}, "or until the 2.5 h are over"),
        ({"SEQUENCE_HOST": "lambda"}, "or its own timer does"),
        ({"SEQUENCE_HOST": "sky"}, "or `timeout` does"),
        ({"SEQUENCE_HOST": ""}, "a stop signal ends this program"),
    ],
    ids=["nothing", "its time", "a timer", "a command", "no launch"],
)
def test_a_machine_that_is_kept_says_what_will_end_it(fake, tmp_path, how, words):
    text = TO_THE_END + "ending.carried_out(command, work)"
    with open(tmp_path / "said", "wb") as file:
        ending = Ending(text, inside(fake) | {"SEQUENCE_KEEP_ALIVE": "1"} | how, file)
        ending.until(lambda: words in (tmp_path / "said").read_text())
        ending.said()
    assert words in (tmp_path / "said").read_text() and fake.pods


WATCHED = """
import os, time
from runner.host.deadman import guarded
from runner.host.where import this_host
with guarded(this_host(), os.environ):
    time.sleep(600)
"""


def made(api: Api, ago_s: float) -> dict[str, object]:
    """The pod, by the clock of its provider."""
    return {"id": POD, "createdAt": datetime.fromtimestamp(time.time() + api.ahead_s - ago_s, UTC).isoformat()}


@pytest.mark.slow
@pytest.mark.parametrize("ahead_s", [-13 * 3600, 13 * 3600])
def test_a_pod_has_its_time_from_when_it_was_made_by_its_providers_clock_whenever_this_container_started(ahead_s):
    with serving() as api:
        api.accepts("rest").ahead_s = ahead_s
        api.replies[f"GET /v2/pods/{POD}"] = (200, made(api, 2 * 3600 - 1))  # an hour of its own, and one for the image
        ending = Ending(WATCHED, api.environment(SEQUENCE_END_AFTER_H="1"))
        ending.until(lambda: api.ends)
        assert "is over, and it should be gone" in ending.said()


@pytest.mark.slow
def test_a_pod_that_was_just_made_has_an_hour_more_for_its_image_than_where_nobody_tells_when():
    with serving() as told, serving() as untold:
        told.accepts("rest").replies[f"GET /v2/pods/{POD}"] = (200, made(told, 0))
        limits = {"SEQUENCE_END_AFTER_H": f"{1.5 / 3600}"}
        first = Ending(WATCHED, told.environment(**limits))
        first.until(lambda: f"GET /v2/pods/{POD}" in told.asked)
        second = Ending(WATCHED, untold.accepts("rest").environment(**limits))
        second.until(lambda: untold.ends)  # begun later, and ended
        for ending in (first, second):
            ending.said()
        assert not told.ends


@pytest.mark.parametrize(
    ("ago_s", "more", "left_s"),
    [
        (600.0, {}, 3 * 3600 - 900 + 3600 - 600),
        (3 * 3600.0, {}, 3600 - 900),
        (None, {}, 3 * 3600 - 900),
        (600.0, {"SEQUENCE_HOST": ""}, math.inf),
        (600.0, {"SEQUENCE_HOST": "lambda"}, math.inf),
        (600.0, {"SEQUENCE_END_AFTER_H": "long"}, math.inf),
    ],
    ids=["just made", "started again", "nobody tells", "no launch", "another guard", "no number"],
)
def test_a_run_works_no_longer_than_lets_it_end_before_its_pod_is_ended(ago_s, more, left_s, monkeypatch):
    monkeypatch.setattr(deadman, "ANSWER_S", 120.0)
    with serving() as api:
        api.ahead_s = 5000
        if ago_s is not None:
            api.replies[f"GET /v2/pods/{POD}"] = (200, made(api, ago_s))
        environment = api.environment(**{"SEQUENCE_END_AFTER_H": "3"} | more)
        assert work_s(this_host(environment), environment) == pytest.approx(left_s, abs=30)
    assert CLOSING_S < SLACK_HOURS * 3600, "a run at the price it was launched for is not cut short"

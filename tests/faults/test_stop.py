"""Stop requests: gone within the grace time, with whatever was done."""

from __future__ import annotations

import fcntl
import os
import select
import signal
import termios
import threading
import time

import pytest

from runner.exit_record import read_exit_record
from tests.faults.case import AGENT
from tests.stillness import standing_still

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("grace_s", [30, 5])
def test_sigterm_ends_within_the_grace_time_with_a_checkpoint(grace_s, agent_case, settle, request):
    if grace_s == 5:  # on a machine that is not loaded
        request.getfixturevalue("long_one")
    agent_case.settings = (f"runtime.stop_grace_s={grace_s}",)
    with agent_case.started() as running:
        running.wait_event("metric", AGENT)
        asked_s = time.monotonic()
        running.process.send_signal(signal.SIGTERM)
        code = running.ended()
        assert time.monotonic() - asked_s < grace_s
    assert code == 75, agent_case.said
    assert agent_case.events("checkpoint", AGENT)
    settle(agent_case, f"SIGTERM, grace {grace_s} s", "stopped at a rollout, checkpoint saved", code)


def test_a_lost_terminal_is_a_stop_request(agent_case, settle):
    ours, theirs = os.openpty()
    lost = threading.Event()

    def sit_at_it() -> None:
        fcntl.ioctl(theirs, termios.TIOCSCTTY, 0)
        os.dup2(theirs, 1)
        os.dup2(theirs, 2)

    def look_at_it() -> None:
        while not lost.is_set():
            if select.select([ours], [], [], 0.1)[0]:
                os.read(ours, 65_536)
        os.close(ours)

    looking = threading.Thread(target=look_at_it)
    looking.start()
    try:
        with agent_case.started(before_exec=sit_at_it) as running:
            os.close(theirs)
            running.wait_event("metric", AGENT)
            lost.set()
            code = running.ended()
    finally:
        lost.set()
        looking.join()
    assert code == 75 and read_exit_record(agent_case.run)["exit_code"] == 75
    assert agent_case.events("checkpoint", AGENT)
    settle(agent_case, "the terminal is gone", "stopped at a rollout, checkpoint saved", code)


def test_sigterm_before_anything_was_done_is_143(case, settle):
    with case.started() as running:
        with standing_still(running.process, "prepare"):
            running.process.send_signal(signal.SIGTERM)
            running.wait_until(lambda: "stopping" in case.said, "word of the stop")
        code = running.ended()
    assert code == 143, case.said
    settle(case, "SIGTERM before any progress", "stopped", code)


def test_a_second_ctrl_c_does_not_wait(agent_case, settle):
    agent_case.settings = ("runtime.stop_grace_s=120",)
    with agent_case.started() as running:
        running.wait_event("checkpoint", AGENT)
        stopped = running.pid_of(AGENT)
        os.kill(stopped, signal.SIGSTOP)  # it can reach no safe boundary
        running.process.send_signal(signal.SIGINT)
        running.wait_until(lambda: "stopping" in agent_case.said, "word of the first one")
        running.process.send_signal(signal.SIGINT)
        asked_s = time.monotonic()
        code = running.ended()
        assert time.monotonic() - asked_s < 60, "half of the grace time"
    assert code == 75, agent_case.said
    settle(agent_case, "second Ctrl-C", "units killed at once", code)

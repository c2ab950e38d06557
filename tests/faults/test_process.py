"""A stage that is killed, stopped for good, or runs out of memory."""

from __future__ import annotations

import os
import signal

import pytest

from tests.control_group import ControlGroup, control_group
from tests.faults.case import AGENT, Case

pytestmark = pytest.mark.slow

MEMBER = "classifiers/dlstm"
HUNGRY = (
    "classifiers.lookback_bars=60",
    "classifiers.units=64",
    "classifiers.batch_size=4096",
    "classifiers.window_stride=1",
    "classifiers.epochs=1",
    "classifiers.fold_epochs=1",
    "runtime.workers=1",
)
"""A fit whose memory is mostly that of its batch, which is all windows at once."""


def test_a_stage_that_is_killed_is_tried_again(agent_case, settle):
    with agent_case.started() as running:
        running.wait_event("checkpoint", AGENT)
        os.kill(running.pid_of(AGENT), signal.SIGKILL)
        code = running.ended()
    assert code == 0, agent_case.said
    assert [event["reason"] for event in agent_case.events("retry", AGENT)] == ["killed"]
    settle(agent_case, "SIGKILL of a stage", "tried again from its checkpoint", code, again=None)


def test_a_stage_that_hangs_is_ended_and_tried_again(long_one, agent_case, settle):
    agent_case.settings = ("runtime.stall_timeout_s=25", "runtime.stop_grace_s=5")
    with agent_case.started() as running:
        running.wait_event("checkpoint", AGENT)
        os.kill(running.pid_of(AGENT), signal.SIGSTOP)
        code = running.ended()
    assert code == 0, agent_case.said
    assert [event["reason"] for event in agent_case.events("retry", AGENT)] == ["stalled"]
    settle(agent_case, "a stage hangs (SIGSTOP)", "ended after its limit, tried again", code, again=None)


def run_inside(group: ControlGroup, case: Case) -> int:
    """Run the case with all its processes in the group."""
    with case.started(before_exec=group.enter) as running:
        return running.ended()


def test_a_stage_that_the_kernel_kills_for_its_memory_goes_on_with_half_the_batch(long_one, tmp_path, row):
    whole = Case(tmp_path / "whole", settings=HUNGRY, stages="prepare,classifiers")
    told = (*HUNGRY, f'runtime.batch_halvings={{"{MEMBER}": 1}}')
    halved = Case(tmp_path / "halved", settings=told, stages="prepare,classifiers")
    peaks_bytes = []
    for case in (whole, halved):
        with control_group(case.runs_dir.name) as group:
            assert run_inside(group, case) == 0, case.said
            peaks_bytes.append(group.peak_bytes())
    assert peaks_bytes[0] > 1.2 * peaks_bytes[1], "the batch decides what is needed"
    starved = Case(tmp_path / "starved", settings=HUNGRY, stages="prepare,classifiers")
    with control_group("starved") as group:
        group.limit(sum(peaks_bytes) // 2)
        code = run_inside(group, starved)
    assert code == 0, starved.said
    (retry,) = starved.events("retry", MEMBER)
    assert retry["reason"] == "out_of_memory" and "instead of 4096" in retry["says"]
    assert starved.run.load_config().runtime.batch_halvings == {MEMBER: 1}
    results = [case.run.result(MEMBER) for case in (halved, starved, whole)]
    assert results[0] == results[1] != results[2], "the bytes of a run that was told to halve from the start"
    row(
        "the kernel kills a stage for its memory",
        "begun anew with half its batch, recorded",
        code,
        "as told from the start",
    )

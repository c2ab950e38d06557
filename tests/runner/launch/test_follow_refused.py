"""Following a run whose store refuses: its machine and its time are looked at all the same."""

from __future__ import annotations

import time

import pytest

from configs.errors import ExitCode, StoreError
from runner.launch import results
from runner.launch.follow import until_end, until_word
from runner.launch.following import Pace, Rented
from runner.launch.results import conclude
from runner.watch import Ending
from tests.runner.launch.test_follow import FAST, RUNNING, SHORT
from tests.runner.store.runs import RUN

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("status", "code", "words"),
    [
        ("ended", ExitCode.INTERRUPTED, "how the run ended there is not known"),
        ("running", ExitCode.BUDGET, "should have"),
    ],
)
def test_while_the_store_refuses_the_machine_and_its_time_are_looked_at(expiring, status, code, words):
    expiring.answers_before = 4
    looks = []

    def ask() -> str:
        looks.append(1)
        if status == "running" and expiring.answers_before < -4:
            object.__setattr__(machine, "end_by_t", 0.0)  # its time is over while the store refuses
        return status if len(looks) > 3 else "running"

    machine = Rented(ask, "pod-1", end_by_t=time.time() + 900)
    pace = Pace(poll_s=0.02, last_poll_s=0.1, silent_s=0.1, ask_s=0.02, gone_s=0.1, store_s=0.5)
    ending = until_end(expiring.url, RUN, machine, pace)
    assert ending.exit_code == code and words in ending.message
    assert expiring.answers_before < -1


def test_a_store_that_refuses_at_the_first_look_is_an_error(expiring):
    expiring.answers_before = 0
    with pytest.raises(StoreError, match="ExpiredToken"):
        until_end(expiring.url, RUN, RUNNING, FAST)


def test_what_cannot_be_fetched_is_given_up_and_a_run_that_ended_well_is_said_to_have(expiring, monkeypatch, capsys):
    monkeypatch.setattr(results, "PATIENCE_S", 0.1)
    monkeypatch.setattr(results, "WAIT_S", 0.05)
    expiring.answers_before = 0
    assert conclude(expiring.url, RUN, Ending(ExitCode.BUDGET, "over budget"), None) == ExitCode.BUDGET
    said = capsys.readouterr().err
    assert "nothing is fetched" in said and "over budget" in said
    with pytest.raises(StoreError):
        conclude(expiring.url, RUN, Ending(ExitCode.DONE), None)
    assert f"run {RUN} is done" in capsys.readouterr().err


@pytest.mark.parametrize("looks", [0, 8])
def test_where_the_store_cannot_be_used_from_here_no_word_is_missed(expiring, capsys, looks):
    expiring.answers_before = looks
    # it is long without a word only after the store has begun to refuse
    machine = Rented(lambda: "running" if expiring.answers_before < 0 else "starting", "pod-1")
    assert until_word(expiring.url, RUN, machine, SHORT) is None
    said = capsys.readouterr().err
    assert "whether the run has begun is not known" in said and "ExpiredToken" in said

import signal

import pytest

from configs.errors import ExitCode
from runner.reasons import OUTCOMES, Reason, Status, reason_of


def test_every_reason_has_an_outcome():
    assert set(OUTCOMES) == set(Reason)


@pytest.mark.parametrize(
    ("return_code", "has_result", "stopped_for", "reason"),
    [
        (0, True, None, Reason.FINISHED),
        (0, True, Reason.STOPPED, Reason.FINISHED),
        (0, False, None, Reason.NO_RESULT),
        (65, False, None, Reason.BAD_DATA),
        (66, False, None, Reason.DATASET_NOT_FOUND),
        (69, False, None, Reason.MACHINE_UNFIT),
        (70, False, None, Reason.CRASHED),
        (73, False, None, Reason.CANNOT_WRITE),
        (75, False, None, Reason.INTERRUPTED),
        (75, False, Reason.STOPPED, Reason.STOPPED),
        (78, False, None, Reason.BAD_CONFIG),
        (1, False, None, Reason.CRASHED),
        (71, False, None, Reason.OUT_OF_MEMORY),
        (71, False, Reason.STOPPED, Reason.STOPPED),
        (99, False, None, Reason.CRASHED),
        (-signal.SIGKILL, False, None, Reason.KILLED),
        (-signal.SIGSEGV, False, None, Reason.KILLED),
        (-signal.SIGTERM, False, None, Reason.INTERRUPTED),
        (-signal.SIGKILL, False, Reason.TIMED_OUT, Reason.TIMED_OUT),
        (75, False, Reason.STALLED, Reason.STALLED),
    ],
)
def test_each_way_to_end_has_its_reason(return_code, has_result, stopped_for, reason):
    assert reason_of(return_code, has_result, stopped_for) is reason


@pytest.mark.parametrize(
    ("return_code", "stopped_for", "reason"),
    [
        (-signal.SIGKILL, None, Reason.OUT_OF_MEMORY),
        (-signal.SIGKILL, Reason.STALLED, Reason.STALLED),
        (-signal.SIGSEGV, None, Reason.KILLED),
        (-signal.SIGTERM, None, Reason.INTERRUPTED),
        (70, None, Reason.CRASHED),
    ],
)
def test_only_a_sigkill_that_is_not_ours_is_laid_to_the_kernels_want_of_memory(return_code, stopped_for, reason):
    assert reason_of(return_code, False, stopped_for, kernel_lacked_memory=True) is reason


def test_only_what_may_pass_is_tried_again():
    assert {reason for reason, outcome in OUTCOMES.items() if outcome.retry} == {
        Reason.OUT_OF_MEMORY,
        Reason.KILLED,
        Reason.STALLED,
        Reason.INTERRUPTED,
    }


def test_a_failed_unit_never_ends_a_run_with_success():
    failed = [outcome.exit_code for outcome in OUTCOMES.values() if outcome.status is Status.FAILED]
    assert set(failed) <= {ExitCode(code) for code in (65, 66, 69, 70, 73, 78)}

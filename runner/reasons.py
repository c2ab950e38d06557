"""Every way a unit can end, and what follows from it: final status, retry, exit code. One table."""

from __future__ import annotations

import signal
from dataclasses import dataclass
from enum import StrEnum

from configs.errors import ExitCode
from configs.unit import OUT_OF_MEMORY_STATUS


class Status(StrEnum):
    """How a unit stands at the end."""

    DONE = "done"
    FAILED = "failed"
    STOPPED = "stopped"


class Reason(StrEnum):
    """Why a unit's process ended."""

    FINISHED = "finished"
    NO_RESULT = "no_result"
    BAD_DATA = "bad_data"
    DATASET_NOT_FOUND = "dataset_not_found"
    MACHINE_UNFIT = "machine_unfit"
    CANNOT_WRITE = "cannot_write"
    BAD_CONFIG = "bad_config"
    CRASHED = "crashed"
    OUT_OF_MEMORY = "out_of_memory"
    KILLED = "killed"
    TIMED_OUT = "timed_out"
    STALLED = "stalled"
    INTERRUPTED = "interrupted"
    STOPPED = "stopped"


@dataclass(frozen=True)
class Outcome:
    """What follows from a reason."""

    status: Status
    retry: bool
    """True where the same process may well succeed when it is started again."""
    exit_code: ExitCode
    says: str
    remedy: str = ""
    """What to do where the unit's own words may not say it."""


OUTCOMES: dict[Reason, Outcome] = {
    Reason.FINISHED: Outcome(Status.DONE, False, ExitCode.DONE, "finished"),
    Reason.NO_RESULT: Outcome(Status.FAILED, False, ExitCode.UNIT_FAILED, "ended well but left no valid result"),
    Reason.BAD_DATA: Outcome(Status.FAILED, False, ExitCode.BAD_DATA, "found bad data"),
    Reason.DATASET_NOT_FOUND: Outcome(Status.FAILED, False, ExitCode.DATASET_NOT_FOUND, "did not find its data"),
    Reason.MACHINE_UNFIT: Outcome(Status.FAILED, False, ExitCode.MACHINE_UNFIT, "cannot run on this machine"),
    Reason.CANNOT_WRITE: Outcome(
        Status.FAILED,
        False,
        ExitCode.CANNOT_WRITE,
        "could not write",
        "free space or take another --runs-dir; the same command goes on from here",
    ),
    Reason.BAD_CONFIG: Outcome(Status.FAILED, False, ExitCode.BAD_CONFIG, "refused its configuration"),
    Reason.CRASHED: Outcome(Status.FAILED, False, ExitCode.UNIT_FAILED, "crashed"),
    Reason.OUT_OF_MEMORY: Outcome(
        Status.FAILED,
        True,
        ExitCode.MACHINE_UNFIT,
        "ran out of memory",
        "take a machine with more memory, --set runtime.workers=1, or a smaller batch",
    ),
    Reason.KILLED: Outcome(Status.FAILED, True, ExitCode.UNIT_FAILED, "was killed"),
    Reason.TIMED_OUT: Outcome(
        Status.FAILED,
        False,
        ExitCode.UNIT_FAILED,
        "ran past runtime.unit_timeout_s",
        "--set runtime.unit_timeout_s=SECONDS allows more; the same command goes on from the last checkpoint",
    ),
    Reason.STALLED: Outcome(Status.FAILED, True, ExitCode.UNIT_FAILED, "was silent past runtime.stall_timeout_s"),
    Reason.INTERRUPTED: Outcome(Status.FAILED, True, ExitCode.UNIT_FAILED, "was interrupted from outside"),
    Reason.STOPPED: Outcome(Status.STOPPED, False, ExitCode.INTERRUPTED, "was asked to stop"),
}

_REASON_OF_EXIT_CODE = {
    ExitCode.BAD_DATA: Reason.BAD_DATA,
    ExitCode.DATASET_NOT_FOUND: Reason.DATASET_NOT_FOUND,
    ExitCode.MACHINE_UNFIT: Reason.MACHINE_UNFIT,
    ExitCode.CANNOT_WRITE: Reason.CANNOT_WRITE,
    ExitCode.INTERRUPTED: Reason.INTERRUPTED,
    ExitCode.BAD_CONFIG: Reason.BAD_CONFIG,
}


def reason_of(
    return_code: int, has_result: bool, stopped_for: Reason | None = None, kernel_lacked_memory: bool = False
) -> Reason:
    """Why a process ended.

    Args:
        return_code: as `subprocess` gives it; negative is the signal that killed it.
        has_result: the unit left the result that was asked for, intact.
        stopped_for: why the supervisor asked the unit to stop, if it did.
        kernel_lacked_memory: meanwhile the kernel has killed for want of memory.
    """
    if return_code == 0:
        return Reason.FINISHED if has_result else Reason.NO_RESULT
    if stopped_for is not None:
        return stopped_for
    if return_code == OUT_OF_MEMORY_STATUS or (return_code == -signal.SIGKILL and kernel_lacked_memory):
        return Reason.OUT_OF_MEMORY
    if return_code < 0:
        return Reason.INTERRUPTED if -return_code in (signal.SIGINT, signal.SIGTERM) else Reason.KILLED
    try:
        return _REASON_OF_EXIT_CODE.get(ExitCode(return_code), Reason.CRASHED)
    except ValueError:
        return Reason.CRASHED

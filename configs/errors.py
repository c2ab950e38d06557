"""The base of every error raised on purpose, and the public exit codes.

An error says where, the value, what was expected and what to do; its class
carries the exit code. Leaf errors live next to what raises them.
"""

from enum import IntEnum
from typing import ClassVar


class ExitCode(IntEnum):
    """Exit status of every command; a public contract, listed in `--help` and the README."""

    DONE = 0
    USAGE = 2
    BAD_DATA = 65
    DATASET_NOT_FOUND = 66
    MACHINE_UNFIT = 69
    UNIT_FAILED = 70
    CANNOT_WRITE = 73
    STORE_DAMAGED = 74
    INTERRUPTED = 75
    OWNED_BY_ANOTHER = 76
    GIVEN_UP = 77
    BAD_CONFIG = 78
    BUDGET = 79
    CTRL_C = 130
    TERMINATED = 143


EXIT_CODE_MEANING: dict[ExitCode, str] = {
    ExitCode.DONE: "done",
    ExitCode.USAGE: "wrong usage of the command line",
    ExitCode.BAD_DATA: "bad data",
    ExitCode.DATASET_NOT_FOUND: "dataset not found",
    ExitCode.MACHINE_UNFIT: "this machine cannot (too small, no GPU, service unreachable)",
    ExitCode.UNIT_FAILED: "a unit failed",
    ExitCode.CANNOT_WRITE: "cannot write",
    ExitCode.STORE_DAMAGED: "store lost or damaged",
    ExitCode.INTERRUPTED: "interrupted with durable progress, run again to go on",
    ExitCode.OWNED_BY_ANOTHER: "another runner owns this run",
    ExitCode.GIVEN_UP: "given up after repeated failures",
    ExitCode.BAD_CONFIG: "bad configuration",
    ExitCode.BUDGET: "budget or deadline (also a refused estimate)",
    ExitCode.CTRL_C: "Ctrl-C before any durable progress",
    ExitCode.TERMINATED: "killed before any durable progress",
}


class ProjectError(Exception):
    """Base of every error this project raises on purpose."""

    exit_code: ClassVar[ExitCode] = ExitCode.UNIT_FAILED


class BadDataError(ProjectError):
    """A dataset breaks the market rules; the message names file, row and value."""

    exit_code = ExitCode.BAD_DATA


class DatasetNotFoundError(ProjectError):
    """No file and no source has the asked dataset."""

    exit_code = ExitCode.DATASET_NOT_FOUND


class MachineUnfitError(ProjectError):
    """This machine cannot do the job."""

    exit_code = ExitCode.MACHINE_UNFIT


class CannotWriteError(ProjectError):
    """An output directory cannot be written, or its disk is full."""

    exit_code = ExitCode.CANNOT_WRITE


class StoreError(ProjectError):
    """The object store is lost, damaged, or holds nothing usable."""

    exit_code = ExitCode.STORE_DAMAGED
    retryable: ClassVar[bool] = False
    """The same request may work later."""


class FencedError(ProjectError):
    """Another runner has taken this run over; nothing more may be committed."""

    exit_code = ExitCode.OWNED_BY_ANOTHER


class OutOfMemoryError(ProjectError):
    """The unit ran out of memory with the batch it has; a smaller one may fit."""

    exit_code = ExitCode.MACHINE_UNFIT


class ConfigError(ProjectError):
    """The configuration is wrong; the message lists every fault."""

    exit_code = ExitCode.BAD_CONFIG


class StopRequested(ProjectError):
    """The unit was asked to stop and reached a safe boundary."""

    exit_code = ExitCode.INTERRUPTED

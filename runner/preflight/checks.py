"""All checks, run side by side: none waits for another, none hides another."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from configs.errors import ExitCode
from configs.schema import Config
from runner.preflight.check import CheckResult, Context
from runner.preflight.dataset import check_dataset
from runner.preflight.environment import check_dependencies, check_writing
from runner.preflight.gpu import check_gpu, gpu_required
from runner.preflight.machine import check_cpu, check_disk, check_durability, check_memory, check_shared_memory
from runner.preflight.outside import check_clock, check_network
from runner.preflight.publishing import check_publishing
from runner.preflight.store import check_store

CHILD_GRACE_S = 5.0
"""A check that kills its child at the child's limit still gets to answer."""


@dataclass(frozen=True)
class Check:
    """One check: its function, and what an absent answer means."""

    name: str
    function: Callable[[Config, Context], CheckResult]
    timeout_s: Callable[[Config], float] = lambda config: config.preflight.check_timeout_s
    advisory: bool = False
    """An advisory check that crashes or hangs is a warning: the run can do without what it looks at."""
    exit_code: ExitCode = ExitCode.MACHINE_UNFIT


CHECKS: tuple[Check, ...] = (
    Check(
        "dataset",
        check_dataset,
        lambda config: config.preflight.dataset_timeout_s + CHILD_GRACE_S,
        exit_code=ExitCode.BAD_DATA,
    ),
    Check("disk", check_disk),
    Check("writing", check_writing, exit_code=ExitCode.CANNOT_WRITE),
    Check("durability", check_durability, advisory=True),
    Check("memory", check_memory),
    Check("cpu", check_cpu),
    Check("gpu", check_gpu, lambda config: config.preflight.gpu_timeout_s + CHILD_GRACE_S),
    Check("shared memory", check_shared_memory, advisory=True),
    Check("store", check_store),
    Check("dependencies", check_dependencies),
    Check("network", check_network, advisory=True),
    Check("clock", check_clock, advisory=True),
    Check("publishing", check_publishing, advisory=True),
)


def run_checks(
    config: Config, context: Context, checks: Sequence[Check] = CHECKS, limit_s: float = math.inf
) -> list[CheckResult]:
    """Run all checks at once and return their results in the order of `checks`, within `limit_s`.

    A check that raises or exceeds its limit becomes a result of its own. A hung
    one is left behind in a daemon thread, which does not keep the program alive.
    """
    running = [_start(check, config, context) for check in checks]
    return [attempt.result(config, context, limit_s) for attempt in running]


def exit_code(results: Sequence[CheckResult]) -> ExitCode:
    """`DONE`, or the exit code of the first failed check."""
    return next((result.exit_code for result in results if result.verdict == "fail"), ExitCode.DONE)


def to_json(results: Sequence[CheckResult]) -> dict[str, Any]:
    """All results and the exit code they lead to, as plain values."""
    return {"exit_code": int(exit_code(results)), "checks": [result.to_json() for result in results]}


@dataclass
class _Attempt:
    check: Check
    started_s: float
    answers: list[CheckResult] = field(default_factory=list)
    faults: list[Exception] = field(default_factory=list)
    thread: threading.Thread | None = None

    def run(self, config: Config, context: Context) -> None:
        try:
            self.answers.append(self.check.function(config, context))
        except Exception as error:  # noqa: BLE001 -- a crash of one check must not hide another
            self.faults.append(error)

    def result(self, config: Config, context: Context, limit_s: float) -> CheckResult:
        limit_s = min(limit_s, self.check.timeout_s(config))
        assert self.thread is not None
        self.thread.join(max(0.0, self.started_s + limit_s - time.monotonic()))
        if self.answers:
            return self.answers[0]
        fault = f"{type(self.faults[0]).__name__}: {self.faults[0]}" if self.faults else f"no answer in {limit_s:g} s"
        verdict: Literal["warn", "fail"] = "warn" if _is_advisory(self.check, config, context) else "fail"
        remedy = "look into the reason, or pass --skip-preflight if you know it to be harmless"
        return CheckResult(self.check.name, fault, "an answer", verdict, remedy, self.check.exit_code)


def _start(check: Check, config: Config, context: Context) -> _Attempt:
    attempt = _Attempt(check, time.monotonic())
    attempt.thread = threading.Thread(
        target=attempt.run, args=(config, context), name=f"preflight {check.name}", daemon=True
    )
    attempt.thread.start()
    return attempt


def _is_advisory(check: Check, config: Config, context: Context) -> bool:
    return check.advisory or (check.name == "gpu" and not gpu_required(config, context))

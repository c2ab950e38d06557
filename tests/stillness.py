"""Units of a running run that are made to stand still, so that nothing depends on how fast they are."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator

import psutil

from tests.runner.fixture_stages.world import wait_for


def pid_of(runner: subprocess.Popen, unit: str) -> int | None:
    """Process id of a unit's process; None where there is none."""
    with contextlib.suppress(psutil.Error):
        for child in psutil.Process(runner.pid).children():
            with contextlib.suppress(psutil.Error, IndexError):
                if child.cmdline()[-1] == unit:
                    return child.pid
    return None


def stop(pid: int) -> None:
    """Returns when each thread of a child of ours stands still."""
    os.kill(pid, signal.SIGSTOP)
    os.waitid(os.P_PID, pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)


@contextlib.contextmanager
def standing_still(runner: subprocess.Popen, unit: str) -> Iterator[None]:
    """The unit, which runs or is about to, stands still inside."""
    wait_for(lambda: pid_of(runner, unit) or runner.poll() is not None)
    pid = pid_of(runner, unit)
    assert pid, f"the run ended, with {runner.poll()}, before {unit} began"
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)

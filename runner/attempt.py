"""One running process of a unit: how it is asked to stop, when it is killed, what it says in the end."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from configs.run_dir import Request
from runner.executor import Slot
from runner.graph import Unit
from runner.guard import kill_group
from runner.process import last_words, log_tail
from runner.reasons import OUTCOMES, Reason

STACKS_S = 0.5
"""Time for a process that hangs to write its stacks into its log."""
_STACKS = "(most recent call first)"
"""What `faulthandler` heads each stack with."""
_STACKS_AHEAD = (Reason.STALLED, Reason.TIMED_OUT)


@dataclass
class Attempt:
    """One process; clocks are `time.monotonic`."""

    unit: Unit
    slot: Slot
    number: int
    process: subprocess.Popen
    request: Request
    log: Path
    log_offset: int
    """Where its part of the log begins."""
    started_s: float
    heard_s: float
    """When its last event came."""
    stopped_for: Reason | None = None
    terminate_at_s: float = math.inf
    kill_at_s: float = math.inf
    stacks_offset: int | None = None
    """Where the stacks in its log begin, if it was asked for them."""

    def wall_s(self) -> float:
        """Seconds since the start."""
        return round(time.monotonic() - self.started_s, 3)

    def has_exited(self) -> bool:
        """It has ended; its process id stays taken until it is waited for."""
        return os.waitid(os.P_PID, self.process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None

    def overstayed(self) -> Reason | None:
        """The limit that it has passed, while nobody has asked it to stop."""
        now_s = time.monotonic()
        if self.stopped_for is not None:
            return None
        if now_s - self.started_s > self.unit.timeout_s:
            return Reason.TIMED_OUT
        return Reason.STALLED if now_s - self.heard_s > self.unit.stall_timeout_s else None

    def ask_to_stop(self, reason: Reason, grace_s: float) -> None:
        """Have it end at a safe boundary, or be killed after `grace_s`; one that hangs first writes its stacks."""
        self.stopped_for = reason
        self.terminate_at_s = time.monotonic()
        # the signal would kill a process that does not expect it
        if reason in _STACKS_AHEAD and _catches(self.process.pid, signal.SIGUSR1):
            self.stacks_offset = self.log.stat().st_size
            self.process.send_signal(signal.SIGUSR1)
            self.terminate_at_s += STACKS_S
        self.kill_at_s = self.terminate_at_s + grace_s
        self.press()

    def press(self) -> None:
        """Do what is due by now."""
        now_s = time.monotonic()
        if now_s >= self.kill_at_s:
            kill_group(self.process.pid)
        elif now_s >= self.terminate_at_s:
            self.terminate_at_s = math.inf
            self.process.terminate()

    def says(self, reason: Reason) -> str:
        """Why it ended, with its last words, and whether its log shows where it stood."""
        says = OUTCOMES[reason].says
        if self.stacks_offset is not None and _STACKS in log_tail(self.log, self.stacks_offset):
            says += "; the stacks of its threads are in its log"
        words = last_words(log_tail(self.log, self.log_offset, self.stacks_offset))
        return f"{says}: {words}" if words else says


def _catches(pid: int, number: int) -> bool:
    """The process handles this signal by itself."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return False
    masks = [int(line.split()[1], 16) for line in lines if line.startswith("SigCgt:")]
    return bool(masks and masks[0] >> (number - 1) & 1)

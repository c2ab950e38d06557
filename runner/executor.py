"""Where a unit's process runs: the one seam between the supervisor and a machine, or a cluster of them.

The supervisor asks for a slot, starts a process in it, and watches that process: its end, its signals, its group.
An engine for a cluster starts a local client of a remote process and stays within the same protocol.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from configs.run_dir import RunDir
from configs.schema import Config
from runner.graph import Unit
from runner.guard import Reaper
from runner.identity import gpu_names
from runner.process import stage_command, stage_environment, start


@dataclass(frozen=True)
class Slot:
    """A place for one unit."""

    gpu: str | None = None
    """What `CUDA_VISIBLE_DEVICES` is set to; None for a unit that uses no GPU."""


class Executor(Protocol):
    """Places for units."""

    def slot_for(self, unit: Unit, running: Collection[Slot]) -> Slot | None:
        """A free place for the unit beside those that are taken; None where it has to wait."""

    def start(self, unit: Unit, slot: Slot, run: RunDir, log: Path) -> subprocess.Popen:
        """Start the unit's process as the leader of a process group, its words appended to `log`."""

    def forget(self, process: subprocess.Popen) -> None:
        """The process has ended, and its group with it."""


class LocalExecutor:
    """This machine: `runtime.workers` units at once, one on each GPU."""

    def __init__(self, config: Config, reaper: Reaper, gpus: Sequence[str] | None = None) -> None:
        """Count the places.

        Args:
            config: says how many units at once, with how many threads each.
            reaper: learns of every process.
            gpus: names of the GPUs as CUDA takes them; by default those that this process may see.
        """
        self._workers, self._threads, self._reaper = config.runtime.workers, config.compute.threads_per_unit, reaper
        found = visible_gpus() if gpus is None else gpus
        # without a driver there is nothing to count: one at a time, and the unit itself says what it lacks
        self._gpus = tuple(found) or ("",)

    def slot_for(self, unit: Unit, running: Collection[Slot]) -> Slot | None:
        """A worker, and with a unit that uses one a GPU of its own."""
        if len(running) >= self._workers:
            return None
        if not unit.uses_gpu:
            return Slot()
        taken = {slot.gpu for slot in running}
        return next((Slot(gpu) for gpu in self._gpus if gpu not in taken), None)

    def start(self, unit: Unit, slot: Slot, run: RunDir, log: Path) -> subprocess.Popen:
        """Start a stage process here."""
        environment = stage_environment(self._threads) | gpu_environment(slot)
        command = stage_command(unit.module, run.root, unit.id)
        return start(command, environment, log, self._reaper.before_exec())

    def forget(self, process: subprocess.Popen) -> None:
        """Nobody needs to kill it any more."""
        self._reaper.forget(process.pid)


def gpu_environment(slot: Slot) -> dict[str, str]:
    """Variables that show a process its GPU alone; the order is the driver's, in which they were counted."""
    return {"CUDA_VISIBLE_DEVICES": slot.gpu, "CUDA_DEVICE_ORDER": "PCI_BUS_ID"} if slot.gpu else {}


def visible_gpus() -> list[str]:
    """GPUs that units may use: those of `CUDA_VISIBLE_DEVICES` where it is set, else all that the driver shows."""
    set_by_user = os.environ.get("CUDA_VISIBLE_DEVICES")
    if set_by_user is not None:
        return [name.strip() for name in set_by_user.split(",") if name.strip()]
    return [str(index) for index in range(len(gpu_names()))]

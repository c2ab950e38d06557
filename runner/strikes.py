"""Kill a running `sequence-runner run` from outside, at moments seen in its files and processes.

What is killed knows nothing of it: no hook, no special build. A save or an upload
in progress shows itself by a hidden name; that the kill fell inside one is told
by the hidden name that is left behind.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import psutil

from configs.run_dir import RunDir
from runner.view import EventTail

Target = Literal["supervisor", "stage", "everything"]
Aim = Literal["time", "save", "upload", "restore"]

AIMS: tuple[Aim, ...] = ("time", "save", "upload", "restore")
LAUNCH = "launch"
"""In place of a unit: the point counts from the start of the process."""
REPORT = "report"
"""In place of a unit: the point counts from the end of the last unit."""
STAGING = {"upload": ".cut", "restore": ".restore"}
"""Below a run directory: what is just being sent, and what is just being fetched."""
LOOK_S = 0.0005
"""Pause between two looks at the files while a save or an upload is waited for; a small save takes some ms."""
POLL_S = 0.01
AIM_S = 10.0
"""A save or an upload that does not come for so long is waited for no more: the kill comes all the same."""
REFRESH_S = 0.1
"""Age at which the list of processes is made anew."""


@dataclass(frozen=True)
class Point:
    """A moment on the timeline of the undisturbed run, and what is done there."""

    unit: str
    """Counts from the start of this unit, LAUNCH or REPORT."""
    after_s: float
    aim: Aim
    target: Target
    let_pass: int = 0
    """Saves or uploads that are seen and let pass before one is struck."""


@dataclass(frozen=True)
class Hit:
    """A kill as it turned out."""

    target: Target
    units: tuple[str, ...]
    """Units whose processes ran."""
    inside: tuple[str, ...]
    """`save`, `upload`, `restore`: what was cut in two."""

    def __str__(self) -> str:
        """For example `ppo/seed-0, inside save`."""
        where = " + ".join(self.units) or "between units"
        return ", ".join([where, *(f"inside {what}" for what in self.inside)])


class Striker:
    """Waits for points in one launch of a run, and kills."""

    def __init__(self, process: subprocess.Popen, run: RunDir, store: Path | None) -> None:
        """Take a runner that has just been started.

        Args:
            process: the runner; its stages are found as its children.
            run: where it works.
            store: directory of its `file://` store, where single files of an upload can be seen; None without one.
        """
        self._process, self._run, self._store = process, run, store
        self._started_s = time.monotonic()
        self._tail = EventTail(run.events)
        self._tail.skip()
        self._began: dict[str, float] = {LAUNCH: self._started_s}
        self._finished: set[str] = set()
        self._children: list[tuple[psutil.Process, str]] = []
        self._refreshed_s = 0.0
        self._left_before = {aim: self._unfinished(aim) for aim in AIMS}

    def strike(self, point: Point) -> Hit | None:
        """Wait for the point and kill; None when the run ended before it."""
        if not self._reach(point) or not self._aim(point):
            return None
        units = self._kill(point)
        if point.target != "stage":
            self._process.wait()
        before, self._left_before = self._left_before, {aim: self._unfinished(aim) for aim in AIMS}
        return Hit(point.target, units, tuple(aim for aim in AIMS if self._left_before[aim] - before[aim]))

    def _reach(self, point: Point) -> bool:
        """Wait until the unit has run for so long, or has ended."""
        while self._runs():
            self._listen()
            begun_s = self._began.get(point.unit)
            if point.unit in self._finished or (begun_s and time.monotonic() >= begun_s + point.after_s):
                return True
            time.sleep(POLL_S)
        return False

    def _aim(self, point: Point) -> bool:
        """Wait for a save or an upload where one is aimed at, and for a stage where one is to be killed."""
        seen, passed, give_up_s = self._unfinished(point.aim), 0, time.monotonic() + AIM_S
        while self._runs():
            self._refresh()
            ready = point.target != "stage" or any(unit for _, unit in self._children)
            if ready and (point.aim == "time" or time.monotonic() > give_up_s):
                return True
            new = self._unfinished(point.aim) - seen
            if new:
                seen |= new
                passed += 1
                if ready and passed > point.let_pass:
                    return True
            time.sleep(LOOK_S)
        return False

    def _kill(self, point: Point) -> tuple[str, ...]:
        units = tuple(unit for _, unit in self._children if unit)
        stages = [child for child, unit in self._children if unit]
        victims: Sequence[psutil.Process | subprocess.Popen]
        match point.target:
            case "supervisor":
                victims = [self._process]
            case "stage":
                victims = [next((child for child, unit in self._children if unit == point.unit), stages[0])]
            case "everything":
                victims = [*(child for child, _ in self._children), self._process]
        for victim in victims:
            with contextlib.suppress(psutil.NoSuchProcess, ProcessLookupError):
                victim.kill()
        return units

    def _runs(self) -> bool:
        return self._process.poll() is None

    def _listen(self) -> None:
        for event in self._tail.poll():
            if event["kind"] == "unit_started":
                self._began[event["unit"]] = time.monotonic()
            elif event["kind"] == "unit_finished":
                self._finished.add(event["unit"])
            elif event["kind"] == "run_finished":
                self._began[REPORT] = time.monotonic()

    def _refresh(self) -> None:
        if time.monotonic() < self._refreshed_s + REFRESH_S:
            return
        self._refreshed_s = time.monotonic()
        with contextlib.suppress(psutil.NoSuchProcess):
            children = psutil.Process(self._process.pid).children()
            self._children = [(child, _unit_of(child)) for child in children]

    def _unfinished(self, aim: Aim) -> set[str]:
        """What is being written at this moment, or was when its writer died."""
        if aim == "save":
            return hidden_below(self._run.stages)
        staged: set[str] = set()
        if aim in STAGING:
            with contextlib.suppress(FileNotFoundError):  # it comes and goes
                staged = {str(path) for path in (self._run.root / STAGING[aim]).iterdir()}
        return staged | (hidden_below(self._store) if aim == "upload" and self._store else set())


def hidden_below(folder: Path) -> set[str]:
    """Paths of hidden files and directories, not what lies in them; locks are none."""
    found: set[str] = set()
    for parent, folders, files in os.walk(folder):
        hidden = [name for name in (*folders, *files) if name.startswith(".") and name != ".lock"]
        found.update(f"{parent}/{name}" for name in hidden)
        folders[:] = [name for name in folders if not name.startswith(".")]
    return found


def _unit_of(process: psutil.Process) -> str:
    """The unit that a process runs; empty when it is no stage."""
    with contextlib.suppress(psutil.Error, ValueError, IndexError):
        command = process.cmdline()
        return command[command.index("--unit") + 1]
    return ""

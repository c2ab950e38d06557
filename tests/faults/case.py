"""One run of the public command line that is made to suffer, and what must be true of it afterwards."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from configs.run_dir import RunDir
from runner.chaos import Outcome
from runner.guard import die_with_parent
from runner.identity import PROJECT_ROOT
from runner.view import EventTail
from tests.stillness import pid_of

DATASET = "DEMO-USD_1H_20230101-20230430"
SETTINGS = (
    "classifiers.members=[dlstm]",
    "ensemble.members=[dlstm]",
    "classifiers.lookback_bars=8",
    "classifiers.layers=2",
    "classifiers.units=8",
    "classifiers.dropout=0.25",
    "classifiers.folds=2",
    "classifiers.epochs=4",
    "classifiers.fold_epochs=2",
    "classifiers.window_stride=4",
    "ppo.timesteps=131072",
    "ppo.eval_every_steps=65536",
    "ppo.checkpoint_every_steps=16384",
    "agent.seeds=1",
    # operational: save often, start uploads at once
    "runtime.mean_time_between_failures_s=1",
    "store.min_interval_s=0.2",
)
"""Everything up to an agent, in seconds; judging it would add seconds and no fault of its own."""
AGENT = "ppo/seed-0"
LIMIT_S = 600.0
"""A process that takes longer is taken for hung."""


@dataclass
class Case:
    """One run in a runs directory of its own."""

    runs_dir: Path
    store: str = ""
    settings: tuple[str, ...] = ()
    """Beside SETTINGS."""
    environment: dict[str, str] = field(default_factory=dict)
    stages: str = "prepare,classifiers,ppo"
    log_to: Path | None = None
    """Where the newest start's words go: where the disk of the runs directory is to be full, another one."""

    def command(self, *extra: str) -> list[str]:
        """The command line; the same one begins and goes on."""
        settings = [part for setting in (*SETTINGS, *self.settings) for part in ("--set", setting)]
        return [
            *(sys.executable, "-m", "runner.cli", "run", "--skip-preflight", "--offline"),
            *("--dataset", DATASET, "--runs-dir", str(self.runs_dir), "--stages", self.stages, *settings),
            *(("--store", self.store) if self.store else ()),
            *extra,
        ]

    @contextlib.contextmanager
    def started(self, *extra: str, before_exec: Callable[[], object] = lambda: None) -> Iterator[Running]:
        """The command, running; it is dead afterwards.

        Args:
            extra: more options.
            before_exec: done in the new process before it becomes the program.
        """

        def prepare() -> None:
            die_with_parent(parent_pid)
            before_exec()

        self.runs_dir.mkdir(parents=True, exist_ok=True)
        parent_pid = os.getpid()
        tail = EventTail(self.run.events) if self.exists else None
        if tail:
            tail.skip()
        with self.log.open("wb") as log:
            process = subprocess.Popen(
                self.command(*extra),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=PROJECT_ROOT,
                env=os.environ | self.environment,
                start_new_session=True,
                preexec_fn=prepare,
            )
        try:
            yield Running(self, process, tail)
        finally:
            process.kill()
            process.wait()

    def finish(self, *extra: str) -> int:
        """Run the command to its end and return its exit code."""
        with self.started(*extra) as running:
            return running.ended()

    @property
    def log(self) -> Path:
        """What the newest start has said."""
        return self.log_to or self.runs_dir.parent / "said"

    @property
    def said(self) -> str:
        """The log as text."""
        return self.log.read_text(errors="replace")

    @property
    def exists(self) -> bool:
        """The run has been begun."""
        return any(self.runs_dir.glob("*-quick-*/run.json"))

    @property
    def run(self) -> RunDir:
        """The run's directory."""
        return RunDir(next(self.runs_dir.glob("*-quick-*/run.json")).parent)

    def events(self, kind: str, unit: str = "") -> list[dict]:
        """What the run has told so far of one kind."""
        events = EventTail(self.run.events).poll()
        return [event for event in events if event["kind"] == kind and unit in ("", event["unit"])]


@dataclass
class Running:
    """A start of a case."""

    case: Case
    process: subprocess.Popen
    _tail: EventTail | None
    _seen: list[dict] = field(default_factory=list)

    def ended(self) -> int:
        """Wait for the end and return the exit code."""
        try:
            return self.process.wait(LIMIT_S)
        except subprocess.TimeoutExpired:
            pytest.fail(f"still running after {LIMIT_S:.0f} s:\n{self.case.said[-2_000:]}")

    def wait_event(self, kind: str, unit: str, holds: Callable[[dict], bool] = lambda _event: True) -> dict:
        """The first such event of this start; the test fails when the run ends without it."""

        def found() -> dict | None:
            if self._tail is None and self.case.exists:
                self._tail = EventTail(self.case.run.events)
            self._seen += self._tail.poll() if self._tail else []
            matching = (event for event in self._seen if (event["kind"], event["unit"]) == (kind, unit))
            return next(filter(holds, matching), None)

        return self.wait_until(found, f"event {kind!r} of {unit!r}")

    def wait_until(self, condition: Callable[[], object], what: str):
        """What `condition` returns as soon as it is true; the test fails when the run ends before."""
        give_up_s = time.monotonic() + LIMIT_S
        while True:
            is_over = self.process.poll() is not None
            if found := condition():
                return found
            if is_over or time.monotonic() > give_up_s:
                pytest.fail(f"no {what} before the end ({self.process.poll()}):\n{self.case.said[-2_000:]}")
            time.sleep(0.005)

    def pid_of(self, unit: str) -> int:
        """Process id of a unit's process."""
        pid = pid_of(self.process, unit)
        assert pid, f"unit {unit} has no process"
        return pid


def lay_beside(reference: Case, runs_dir: Path, units: Sequence[str]) -> None:
    """Put finished units of the reference beside a new run, which takes them over: its own work begins later."""
    donor = RunDir(runs_dir / "donor")
    for unit in units:
        shutil.copytree(reference.run.unit_dir(unit), donor.unit_dir(unit))
    shutil.copy(reference.run.config_yaml, donor.config_yaml)


def make_reference(folder: Path) -> Case:
    """The undisturbed run, made once for all test processes of a session."""
    folder.mkdir(parents=True, exist_ok=True)
    case = Case(folder / "runs")
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "done").exists():
            assert case.finish() == 0, case.said[-3_000:]
            (folder / "done").touch()
    return case


def differences(reference: Case, case: Case) -> list[str]:
    """What the run has otherwise than the reference; units that it took over have told nothing of their own."""
    reused = {event["unit"] for event in case.events("unit_finished") if event["state"] == "reused"}
    kept = Outcome.of(reference.run)
    told = {unit: metrics for unit, metrics in kept.metrics.items() if unit not in reused}
    return Outcome(kept.results, told).differences(Outcome.of(case.run))

"""A run directory with a graph of real units, supervised in this process or in one of its own."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Collection
from pathlib import Path

from configs.events import EventLog
from configs.load import resolve
from configs.run_dir import RunDir
from runner.executor import LocalExecutor
from runner.graph import Unit
from runner.guard import Owner
from runner.identity import Keys
from runner.stopping import StopSignals
from runner.supervisor import Ending, Supervisor

UNIT = "tests.runner.fixture_stages.unit"
DIAMOND = {"first": (), "second": ("first",), "third": ("first",), "last": ("second", "third")}
CHAIN = {"first": (), "second": ("first",)}
ONE = {"first": ()}
SOON = "runtime.stop_grace_s=0.5"
"""For units that heed no stop; one that heeds it may be slow to do so."""


class World:
    """One run; `plans` says what each unit does."""

    def __init__(self, root: Path, *settings: str) -> None:
        self.run = RunDir(root)
        if not self.run.config_yaml.exists():
            settings = ("runtime.stop_grace_s=60", *settings)
            self.run.save_config(resolve("DEMO-USD_1H", "quick", settings=settings).config)
        self.config = self.run.load_config()
        self.limits: dict = {}
        self.needs: dict[str, tuple[str, ...]] = DIAMOND
        self.wants: dict[str, tuple[str, ...]] = {}

    def plans(self, **plans: dict) -> None:
        (self.run.root / "plan.json").write_text(json.dumps(plans))

    def units(self) -> list[Unit]:
        return [
            Unit(
                id=name,
                stage=name.partition("/")[0],
                module=UNIT,
                needs=needs,
                wants=self.wants.get(name, ()),
                packages=("configs",),
                max_attempts=2,
                **self.limits,
            )
            for name, needs in self.needs.items()
        ]

    def keys(self) -> Keys:
        return Keys(self.config, {}, {"configs": "code"}, "lock")

    def supervise(self, left_out: Collection[str] = (), **options) -> Ending:
        events = EventLog(self.run.events, "supervisor")
        try:
            with Owner(self.run.root) as owner:
                executor = LocalExecutor(self.config, owner.reaper)
                self.supervisor = Supervisor(
                    self.run, self.units(), self.keys(), executor=executor, events=events, **options
                )
                self.supervisor.leave_out(left_out)
                with StopSignals(self.config.runtime.stop_grace_s) as self.signals:
                    return self.supervisor.run(self.signals)
        finally:
            events.close()

    def starts(self, unit: str) -> int:
        return len(list((self.run.root / "starts").glob(f"{unit}-[0-9]*")))

    def pid(self, name: str) -> int:
        return int((self.run.root / "starts" / name).read_text())

    def in_own_process(self, *before: str, **options) -> subprocess.Popen:
        """Supervise in another process, which a test may signal; `before` is put before its command."""
        (self.run.root / "limits.json").write_text(json.dumps(self.limits))
        command = [*before, sys.executable, "-m", "tests.runner.fixture_stages.world", str(self.run.root)]
        return subprocess.Popen(command, **options)


def wait_for(condition: Callable[[], object], timeout_s: float = 120.0) -> None:
    """Return as soon as the condition holds; what must come is waited for longer than a loaded machine needs."""
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, "the condition never held"
        time.sleep(0.01)


def lives(pid: int) -> bool:
    """The process exists and is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def main() -> int:
    """Supervise the run directory of the first argument; the exit code is the run's."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.setpgid(0, 0)
    world = World(Path(sys.argv[1]))
    world.limits = json.loads((world.run.root / "limits.json").read_text())
    ending = world.supervise()
    print(ending.message)
    return ending.exit_code


if __name__ == "__main__":
    raise SystemExit(main())

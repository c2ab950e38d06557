"""How fast this machine does the work of the stages: measured by them, kept in `<runs dir>/calibration.json`.

A stage's rates are measured in as many processes at once as its units will run in, so they are those of a busy
machine. The file only saves time: an entry is found by everything its rates depend on, and it may be deleted.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import math
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from configs.errors import CannotWriteError, ProjectError
from configs.files import digest, read_json, write_atomic, write_json
from configs.run_dir import RunDir
from configs.schema import Config
from runner.executor import Slot, gpu_environment, visible_gpus
from runner.graph import Unit, settings_of
from runner.identity import Keys, machine_facts
from runner.preflight.check import existing_ancestor
from runner.process import ask_together
from runner.schedule import Places

FILE_NAME = "calibration.json"
MOST_S = 120.0
"""All measuring of one plan together."""
START_S = 3.0
"""What starting a unit takes where it was not measured: a process that loads torch."""
LEAST_SPREAD_FRAC = 0.1
"""Rates of a shared machine differ by this much from one minute to the next, whatever two processes say at once."""
KEPT_ENTRIES = 200
MACHINE = ("cpu_model", "cpu_cores", "gpus")
CHANGE_NO_RATE = ("seed", "dataset", "market", "costs", "splits")
"""Settings that units read without getting faster or slower by them."""
CHANGE_NO_RATE_OF = {"walk_forward": ("windows", "first_test_month")}
MEASURED_WITH = {"ppo.stages.evaluate": ("agent.seeds", "ppo.hidden", "classifiers")}
"""Settings that a module measures with beside those that its units read: it has no agents to load."""
LEAST_S = 0.1
"""Of measuring, per stage, however little time there is."""
SAVES = 2
"""A checkpoint's cost is the mean of so many."""

Entry = dict[str, Any]


@dataclass(frozen=True)
class Seconds:
    """How long to measure, per piece of work."""

    each: float
    """0 measures nothing."""
    anew: bool = False
    """Measure what is known, too."""
    most: float = MOST_S
    """All of it together."""


@dataclass(frozen=True)
class Measured:
    """A figure with its range."""

    low: float
    mean: float
    high: float

    @classmethod
    def of(cls, values: Iterable[float]) -> Measured:
        """The mean of what several processes found, and their extremes, widened."""
        found = list(values)
        low, high = min(found) * (1 - LEAST_SPREAD_FRAC), max(found) * (1 + LEAST_SPREAD_FRAC)
        return cls(low, sum(found) / len(found), high)


@dataclass(frozen=True)
class Speed:
    """How fast this machine is at one stage."""

    start_s: Measured = Measured.of([START_S])
    """From the start of a unit's process until its module is loaded."""
    rates: Mapping[str, Measured] = field(default_factory=dict)
    """Work name -> amount per second; what is not here was not measured."""

    def rate(self, item: Mapping[str, Any]) -> Measured:
        """Amount per second of a piece of work, as measured, else as its stage says."""
        return self.rates.get(item["name"]) or Measured.of([item["rate_per_s"]])


def speeds(
    keys: Keys,
    units: Sequence[Unit],
    items: Mapping[str, int],
    runs_dir: Path,
    *,
    places: Places,
    seconds: Seconds,
    tell: Callable[[str], None] = lambda _text: None,
) -> dict[str, Speed]:
    """Speed of every stage module of `units`; what `runs_dir` knows is not measured again unless it is to be.

    Args:
        keys: configuration, code and dependencies.
        units: the graph.
        items: pieces of work of each module.
        runs_dir: where the file lies.
        places: how many units run side by side.
        seconds: of measuring.
        tell: hears what is being measured.
    """
    path, groups = runs_dir / FILE_NAME, _by_module(units)
    side_by_side = {module: _side_by_side(group, places) for module, group in groups.items()}
    named = {module: _key(keys, group, side_by_side[module]) for module, group in groups.items()}
    known = _load(path)
    missing = [module for module in groups if seconds.anew or named[module] not in known] if seconds.each else []
    if missing:
        slots = {module: _environments(groups[module], side_by_side[module]) for module in missing}
        counts = {module: max(1, items[module]) for module in missing}
        found = dict(_measure(keys.config, counts, slots, seconds, tell))
        fresh = {named[module]: entry for module, entry in found.items()}
        known |= fresh
        with contextlib.suppress(CannotWriteError, OSError):  # then the next plan measures again
            _keep(path, fresh)
    return {module: _speed(known.get(named[module])) for module in groups}


def checkpoint_cost_s(runs_dir: Path, size_bytes: int) -> float | None:
    """Seconds to save a state of this size on the volume of the runs directory: written, hashed, made durable.

    None where it cannot be written.
    """
    state = os.urandom(min(size_bytes, 1 << 20)) * math.ceil(size_bytes / (1 << 20))
    path = existing_ancestor(runs_dir) / f".calibration-{os.getpid()}"
    begun_s = time.monotonic()
    try:
        for _ in range(SAVES):
            hashlib.sha256(state).hexdigest()
            write_atomic(path, state)
    except CannotWriteError:
        return None
    finally:
        path.unlink(missing_ok=True)
    return (time.monotonic() - begun_s) / SAVES


def _measure(
    config: Config,
    items: Mapping[str, int],
    environments: Mapping[str, Sequence[Mapping[str, str]]],
    seconds: Seconds,
    tell: Callable[[str], None],
) -> Iterator[tuple[str, Entry]]:
    begun_s, modules = time.monotonic(), list(items)
    with tempfile.TemporaryDirectory() as folder:
        run = RunDir(Path(folder))
        run.save_config(config)
        for number, module in enumerate(modules, start=1):
            left_s = seconds.most - (time.monotonic() - begun_s)
            if left_s <= 0:
                tell(f"measuring took {seconds.most:.0f} s; {len(modules) - number + 1} more keep their nominal rates")
                return
            tell(f"measuring how fast this machine is: {module.rpartition('.')[2]} ({number} of {len(modules)})")
            command = [sys.executable, "-m", "configs.describe", "--run-dir", folder, "--calibrate"]
            budget_s = _budget_s(seconds.each, list(items.values())[number - 1 :], left_s)
            command += ["--seconds", f"{budget_s:.3f}", "--since", f"{time.time():.3f}", module]
            try:
                threads = config.compute.threads_per_unit
                slots = environments[module]
                answers = ask_together([command] * len(slots), threads=threads, limit_s=left_s, environments=slots)
            except ProjectError as error:
                tell(f"{module} could not be measured ({error}); its nominal rates are taken")
                continue
            yield module, _entry([answer[module] for answer in answers])


def _entry(answers: Sequence[dict[str, Any]]) -> Entry:
    names = [name for name in answers[0]["rates"] if all(name in answer["rates"] for answer in answers)]
    rates = {name: [float(answer["rates"][name]) for answer in answers] for name in names}
    kept = {name: values for name, values in rates.items() if all(0 < value < math.inf for value in values)}
    return {"start_s": [float(answer["start_s"]) for answer in answers], "rates": kept, "t": int(time.time())}


def _budget_s(wanted_s: float, items: Sequence[int], left_s: float) -> float:
    """Seconds that the first of some modules may measure; less where all would take too long together."""
    fair_s = left_s * items[0] / sum(items) - START_S
    return max(LEAST_S, min(wanted_s * items[0], fair_s))


def _speed(entry: Entry | None) -> Speed:
    if entry is None:
        return Speed()
    rates = {name: Measured.of(values) for name, values in entry["rates"].items()}
    return Speed(Measured.of(entry["start_s"]), rates)


def _by_module(units: Sequence[Unit]) -> dict[str, list[Unit]]:
    groups: dict[str, list[Unit]] = {}
    for unit in units:
        groups.setdefault(unit.module, []).append(unit)
    return groups


def _side_by_side(units: Sequence[Unit], places: Places) -> int:
    """As many units of one stage as can run at once."""
    on_gpu = sum(unit.uses_gpu for unit in units)
    most = min(on_gpu, places.gpus) + len(units) - on_gpu
    return max(1, min(most, places.workers))


def _environments(units: Sequence[Unit], processes: int) -> list[dict[str, str]]:
    """Variables of each process that measures: on a GPU of its own, as its stage's units will be."""
    gpus = visible_gpus() if any(unit.uses_gpu for unit in units) else []
    return [gpu_environment(Slot(gpus[number % len(gpus)])) if gpus else {} for number in range(processes)]


def _key(keys: Keys, units: Sequence[Unit], processes: int) -> str:
    """Digest of all that the rates of one module depend on."""
    settings: dict[str, Any] = {}
    for unit in units:
        read = (*unit.settings, *MEASURED_WITH.get(unit.module, ()))
        settings |= settings_of(replace(unit, settings=read), keys.config)
    dotted = {f"{section}.{name}" for section, names in CHANGE_NO_RATE_OF.items() for name in names}
    kept = {
        name: value
        for name, value in settings.items()
        if name.partition(".")[0] not in CHANGE_NO_RATE and name not in dotted
    }
    for section, names in CHANGE_NO_RATE_OF.items():
        if isinstance(kept.get(section), dict):
            kept[section] = {name: value for name, value in kept[section].items() if name not in names}
    machine = machine_facts()
    return digest(
        {
            "module": units[0].module,
            "settings": kept,
            "code": {name: keys.code[name] for name in units[0].packages},
            "lock": keys.lock,
            "threads": keys.config.compute.threads_per_unit,
            "device": keys.config.compute.device,
            "machine": {name: machine[name] for name in MACHINE},
            "processes": processes,
        }
    )


def _load(path: Path) -> dict[str, Entry]:
    """The entries of the file that can be read; another program's, or a damaged one, is as good as none."""
    try:
        entries = read_json(path)
    except (OSError, ValueError):
        return {}
    return {key: entry for key, entry in entries.items() if _is_entry(entry)} if isinstance(entries, dict) else {}


def _is_entry(entry: Any) -> bool:
    try:
        _speed(entry)
        return isinstance(entry["t"], int)
    except (KeyError, TypeError, ValueError, AttributeError, ZeroDivisionError):
        return False


def _keep(path: Path, fresh: Mapping[str, Entry]) -> None:
    """Add entries to the file as it is now; the oldest of too many go."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with (path.parent / f".{FILE_NAME}.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        entries = sorted((_load(path) | dict(fresh)).items(), key=lambda item: item[1]["t"])
        write_json(path, dict(entries[-KEPT_ENTRIES:]))

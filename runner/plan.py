"""What a run would take, as its stages describe themselves: time, memory, bars, disk. Starts nothing else."""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from configs.run_dir import RunDir
from configs.schema import Config
from runner.budget import cost_of
from runner.graph import Unit
from runner.process import ask

ARTIFACT_BYTES_PER_BAR = 2_000
"""Tables and predictions of a run, rounded up: some 40 columns of 8 bytes in five files."""
ARTIFACT_BYTES = 50_000_000
"""Weights, logs, events and the report."""


@dataclass(frozen=True)
class StagePlan:
    """What one stage says it needs."""

    name: str
    units: tuple[str, ...]
    bars_needed: int
    memory_bytes: int
    """Of one unit."""
    work_s: float
    """Seconds of work of all units together, on the machine the rates were measured on."""
    wall_s: float
    """The same with units side by side."""
    work: tuple[dict[str, Any], ...]


@dataclass(frozen=True)
class RunPlan:
    """What the whole run needs."""

    stages: tuple[StagePlan, ...]
    bars_needed: int
    bars_found: int
    memory_bytes: int
    """Of the units that run side by side."""
    disk_bytes: int
    disk_free_bytes: int
    wall_s: float
    cost_usd: float
    """Of that time, at `budget.price_usd_per_hour`; 0 where no price is set."""

    def to_json(self) -> dict[str, Any]:
        """The plan as plain values."""
        return asdict(self)


def make_plan(config: Config, units: Sequence[Unit], bars: int, runs_dir: Path) -> RunPlan:
    """Ask every stage of `units` what it needs.

    Raises:
        ProjectError: a stage cannot answer.
    """
    by_stage: dict[str, list[Unit]] = {}
    for unit in units:
        by_stage.setdefault(unit.stage, []).append(unit)
    answers = describe(config, units)
    parallel = config.runtime.workers
    stages = tuple(_stage_plan(answers[group[0].module], group, parallel, bars) for group in by_stage.values())
    wall_s = sum(stage.wall_s for stage in stages)
    return RunPlan(
        stages=stages,
        bars_needed=max((stage.bars_needed for stage in stages), default=0),
        bars_found=bars,
        memory_bytes=max((stage.memory_bytes * min(parallel, len(stage.units)) for stage in stages), default=0),
        disk_bytes=ARTIFACT_BYTES + bars * ARTIFACT_BYTES_PER_BAR,
        disk_free_bytes=shutil.disk_usage(_existing(runs_dir)).free,
        wall_s=wall_s,
        cost_usd=cost_of(wall_s, config.budget.price_usd_per_hour),
    )


def bars_needed(config: Config, units: Sequence[Unit]) -> int:
    """Bars that the stages of `units` need."""
    return max((int(answer["bars_needed"]) for answer in describe(config, units).values()), default=0)


def describe(config: Config, units: Sequence[Unit]) -> dict[str, dict[str, Any]]:
    """What the stages of `units` say about themselves, by module.

    One process answers for all: loading their libraries is what takes time, some seconds.
    """
    modules = list(dict.fromkeys(unit.module for unit in units))
    with tempfile.TemporaryDirectory() as folder:
        run = RunDir(Path(folder))
        run.save_config(config)
        answers: dict[str, dict[str, Any]] = ask(
            [sys.executable, "-m", "configs.describe", "--run-dir", str(run.root), *modules]
        )
    return answers


def _stage_plan(answer: dict[str, Any], units: Sequence[Unit], parallel: int, bars: int) -> StagePlan:
    work_s = sum(_seconds(item, bars) * _times(item, units) for item in answer["work"])
    side_by_side = min(parallel, len(units)) if not units[0].uses_gpu else 1
    return StagePlan(
        name=units[0].stage,
        units=tuple(unit.id for unit in units),
        bars_needed=int(answer["bars_needed"]),
        memory_bytes=int(answer["memory_bytes"]),
        work_s=work_s,
        wall_s=work_s / side_by_side,
        work=tuple(answer["work"]),
    )


def _seconds(item: dict[str, Any], bars: int) -> float:
    """Seconds of one piece of work; an amount may be stated per bar of the dataset."""
    amount = item["amount"] * (bars if item.get("per") == "bar" else 1)
    return float(amount / item["rate_per_s"])


def _times(item: dict[str, Any], units: Sequence[Unit]) -> int:
    """A piece of work named after a unit is that unit's alone; any other is done by every unit of the stage."""
    return 1 if item["name"] in {unit.id for unit in units} else len(units)


def _existing(path: Path) -> Path:
    path = path.resolve()
    return next(parent for parent in (path, *path.parents) if parent.exists())

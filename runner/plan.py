"""What a run will take, predicted from what its stages say of their work and how fast this machine does it.

A unit's seconds are its start and amount / rate of each piece of its work; the run's are those of its graph,
scheduled like the supervisor does. Low, expected and high differ by the spread of the measured rates, by what early
stopping may leave out, and by gates that may close.
"""

from __future__ import annotations

import math
import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from configs.run_dir import RunDir
from configs.schema import Config
from runner.budget import cost_of
from runner.calibration import Seconds, Speed, checkpoint_cost_s, speeds
from runner.executor import visible_gpus
from runner.gates import gates_on, holds
from runner.graph import Unit
from runner.identity import Keys
from runner.preflight.check import existing_ancestor
from runner.process import ask
from runner.schedule import Places, Span, most_at_once, schedule, shares_s, wall_s

EARLY_STOPPING_USES = 0.15
"""Of the work that early stopping may leave out, the expected share that is done all the same. Measured on
ADA-EUR_1H: the first epoch of the last fit is the best in 7 of 8 fits, so that most stop as early as they can."""
KEPT_CHECKPOINTS = 2
ARTIFACT_BYTES_PER_BAR = 2_000
"""Tables and predictions of a run, rounded up: some 40 columns of 8 bytes in five files."""
ARTIFACT_BYTES = 50_000_000
"""Weights, logs, events and the report."""

Answers = dict[str, dict[str, Any]]
"""Module -> what its `describe` says."""


@dataclass(frozen=True)
class Range:
    """A figure with its range."""

    low: float
    expected: float
    high: float

    @classmethod
    def around(cls, low: float, expected: float, high: float) -> Range:
        """The range of three predictions, in whichever order a schedule made them."""
        return cls(min(low, expected, high), expected, max(low, expected, high))

    def __add__(self, other: Range) -> Range:
        """Both, one after the other."""
        return Range(self.low + other.low, self.expected + other.expected, self.high + other.high)


NOTHING = Range(0.0, 0.0, 0.0)
REPORT_S = Range(1.0, 4.0, 12.0)
"""What follows the last unit: the report; an upload or a publication is not counted."""


@dataclass(frozen=True)
class UnitPlan:
    """One unit's part of the wall time: each moment is divided among the units that run in it."""

    id: str
    stage: str
    share_s: Range
    """In the three schedules; the low one is the longest where a unit then shares its time with fewer."""


@dataclass(frozen=True)
class StagePlan:
    """What one stage takes."""

    name: str
    units: int
    span_s: Range
    """From the start of its first unit to the end of its last; other stages may run in it, too."""
    cost_usd: float
    """Of its expected part of the wall time, so that the stages' costs add up to the run's."""
    memory_bytes: int
    """Of one unit."""
    disk_bytes: int
    """Of what its units leave, and of their checkpoints."""
    checkpoint_every_s: float
    """Interval that follows from the measured cost of a checkpoint; 0 where there are none."""
    nominal: tuple[str, ...] = ()
    """Work whose rate was not measured here."""
    may_be_left_out: bool = False
    """A gate may close."""


@dataclass(frozen=True)
class RunPlan:
    """What the whole run takes."""

    stages: tuple[StagePlan, ...]
    units: tuple[UnitPlan, ...]
    wall_s: Range
    cost_usd: Range
    """Of that time, at `budget.price_usd_per_hour`; 0 where no price is set."""
    price_usd_per_hour: float
    bars_needed: int
    bars_found: int
    memory_bytes: int
    """Most of the units that run side by side."""
    disk_bytes: int
    disk_free_bytes: int
    workers: int
    windows: int
    """Test months of walk-forward; 0 where it is no part of this."""
    first_test_month: str
    assets: tuple[str, ...]
    measured: bool = False
    """Some rate of its work was measured on this machine."""

    def to_json(self) -> dict[str, Any]:
        """The plan as plain values."""
        return asdict(self)


@dataclass(frozen=True)
class Facts:
    """What a plan is made from."""

    config: Config
    units: tuple[Unit, ...]
    """Those that have work to do, in the graph's order."""
    answers: Answers
    bars: int
    speeds: Mapping[str, Speed] = field(default_factory=dict)
    places: Places = Places(1)
    checkpoint_every_s: Mapping[str, float] = field(default_factory=dict)
    """Module -> interval; see `StagePlan`."""
    disk_free_bytes: int = 0
    left_fracs: Mapping[str, float] = field(default_factory=dict)
    """Unit id -> share of its work that its checkpoint leaves; all of it where it has none."""


def measured(
    keys: Keys,
    units: Sequence[Unit],
    answers: Answers,
    bars: int,
    runs_dir: Path,
    *,
    seconds: Seconds,
    tell: Callable[[str], None] = lambda _text: None,
) -> Facts:
    """What a plan of `units` on this machine is made from.

    Args:
        keys: configuration, code and dependencies.
        units: those that have work to do, in the graph's order.
        answers: what their modules say about themselves.
        bars: of the dataset.
        runs_dir: where the run is to lie, and what is known of this machine's speed.
        seconds: of measuring.
        tell: hears what is being measured.
    """
    config = keys.config
    places = Places(config.runtime.workers, max(1, len(visible_gpus())))
    items = {module: len({item["name"] for item in answer["work"]}) for module, answer in answers.items()}
    found = speeds(keys, units, items, runs_dir, places=places, seconds=seconds, tell=tell)
    modules = {unit.module for unit in units}
    intervals = {module: _checkpoint_every_s(answers[module], config, runs_dir) for module in modules}
    free_bytes = shutil.disk_usage(existing_ancestor(runs_dir)).free
    return Facts(config, tuple(units), answers, bars, found, places, intervals, free_bytes)


def make_plan(facts: Facts) -> RunPlan:
    """Predict from facts alone."""
    config, units = facts.config, facts.units
    doubtful = stages_that_may_close(config, units)
    spans = [
        _schedule(facts, 0, [unit for unit in units if unit.stage not in doubtful]),
        _schedule(facts, 1, units),
        _schedule(facts, 2, units),
    ]
    shares = [shares_s(one) for one in spans]
    wall = Range.around(*(wall_s(one) for one in spans)) + (REPORT_S if units else NOTHING)
    planned = tuple(UnitPlan(unit.id, unit.stage, _range_of(unit.id, shares)) for unit in units)
    stages = tuple(_stage_plan(facts, name, spans, planned, name in doubtful) for name in _stages(units))
    memory = {unit.id: facts.answers[unit.module]["memory_bytes"] for unit in units}
    price = config.budget.price_usd_per_hour
    has = {stage.name for stage in stages}
    return RunPlan(
        stages=stages,
        units=planned,
        wall_s=wall,
        cost_usd=Range(*(cost_of(each, price) for each in (wall.low, wall.expected, wall.high))),
        price_usd_per_hour=price,
        bars_needed=most_bars(facts.answers),
        bars_found=facts.bars,
        memory_bytes=int(most_at_once(spans[1], memory)),
        disk_bytes=ARTIFACT_BYTES + facts.bars * ARTIFACT_BYTES_PER_BAR + sum(stage.disk_bytes for stage in stages),
        disk_free_bytes=facts.disk_free_bytes,
        workers=facts.places.workers,
        windows=config.walk_forward.windows if "walk_forward" in has else 0,
        first_test_month=config.walk_forward.first_test_month if "walk_forward" in has else "",
        assets=config.multi_asset.assets if "multi_asset" in has else (),
        measured=any(facts.speeds[unit.module].rates for unit in units if unit.module in facts.speeds),
    )


def stages_that_may_close(config: Config, units: Sequence[Unit]) -> set[str]:
    """Stages that a gate may leave out."""
    return {unit.stage for unit in units if _asked_for(unit, config, units)}


def waits_of(config: Config, units: Sequence[Unit]) -> dict[str, set[str]]:
    """Unit -> all that end before it starts: what it reads, and the stages that its gates ask."""
    asked = {unit.id: _asked_for(unit, config, units) for unit in units}
    return {
        unit.id: {*unit.needs, *unit.wants, *(other.id for other in units if other.stage in asked[unit.id])}
        for unit in units
    }


def _asked_for(unit: Unit, config: Config, units: Sequence[Unit]) -> set[str]:
    """Stages among those of `units` that are asked before the unit may start."""
    asked: set[str] = {gate.stage for stage, gate in gates_on(config, [unit]) if holds(stage, gate, unit)}
    return set() if config.parallel_models else asked & set(_stages(units))


def describe(config: Config, units: Sequence[Unit]) -> Answers:
    """What the stages of `units` say about themselves, by module.

    One process answers for all: loading their libraries is what takes time, some seconds.

    Raises:
        ProjectError: a stage cannot answer.
    """
    modules = list(dict.fromkeys(unit.module for unit in units))
    with tempfile.TemporaryDirectory() as folder:
        run = RunDir(Path(folder))
        run.save_config(config)
        answers: Answers = ask([sys.executable, "-m", "configs.describe", "--run-dir", str(run.root), *modules])
    return answers


def most_bars(answers: Answers) -> int:
    """Bars that the stages need."""
    return max((int(answer["bars_needed"]) for answer in answers.values()), default=0)


def _schedule(facts: Facts, which: int, units: Sequence[Unit]) -> dict[str, Span]:
    """The schedule of the low, expected or high prediction."""
    seconds = {unit.id: _seconds(facts, unit)[which] for unit in units}
    return schedule(units, seconds, waits_of(facts.config, facts.units), facts.places, facts.config.parallel_models)


def _seconds(facts: Facts, unit: Unit) -> tuple[float, float, float]:
    """Low, expected and high seconds of one unit that runs alone in its place."""
    speed = facts.speeds.get(unit.module, Speed())
    low_s, mean_s, high_s = speed.start_s.low, speed.start_s.mean, speed.start_s.high
    for item in facts.answers[unit.module]["work"]:
        if fnmatch(unit.id, item.get("units", "*")):
            amount = item["amount"] * (facts.bars if item.get("per") == "bar" else 1)
            amount *= facts.left_fracs.get(unit.id, 1.0)
            rate = speed.rate(item)
            least_frac = item.get("least_frac", 1.0)
            low_s += amount * least_frac / rate.high
            mean_s += amount * (least_frac + EARLY_STOPPING_USES * (1 - least_frac)) / rate.mean
            high_s += amount / rate.low
    return low_s, mean_s, high_s


def _stage_plan(
    facts: Facts, name: str, spans: Sequence[Mapping[str, Span]], planned: Sequence[UnitPlan], doubtful: bool
) -> StagePlan:
    own = [unit for unit in facts.units if unit.stage == name]
    module = own[0].module
    answer, speed = facts.answers[module], facts.speeds.get(module, Speed())
    share_s = sum(unit.share_s.expected for unit in planned if unit.stage == name)
    unit_bytes = answer.get("artifact_bytes", 0) + KEPT_CHECKPOINTS * answer.get("checkpoint_bytes", 0)
    return StagePlan(
        name=name,
        units=len(own),
        span_s=Range.around(*(_span_s(one, own) for one in spans)),
        cost_usd=cost_of(share_s, facts.config.budget.price_usd_per_hour),
        memory_bytes=int(answer["memory_bytes"]),
        disk_bytes=int(unit_bytes * len(own)),
        checkpoint_every_s=facts.checkpoint_every_s.get(module, 0.0),
        nominal=tuple(dict.fromkeys(item["name"] for item in answer["work"] if item["name"] not in speed.rates)),
        may_be_left_out=doubtful,
    )


def _span_s(spans: Mapping[str, Span], units: Sequence[Unit]) -> float:
    own = [spans[unit.id] for unit in units if unit.id in spans]
    return max(span.end_s for span in own) - min(span.begin_s for span in own) if own else 0.0


def _range_of(unit_id: str, shares: Sequence[Mapping[str, float]]) -> Range:
    low, expected, high = (one.get(unit_id, 0.0) for one in shares)
    return Range(low, expected, high)


def _stages(units: Sequence[Unit]) -> list[str]:
    return list(dict.fromkeys(unit.stage for unit in units))


def _checkpoint_every_s(answer: dict[str, Any], config: Config, runs_dir: Path) -> float:
    """Young's interval sqrt(2 C M), as `training.checkpoint.CheckpointClock` takes it from the same cost."""
    size_bytes = int(answer.get("checkpoint_bytes", 0))
    cost_s = checkpoint_cost_s(runs_dir, size_bytes) if size_bytes else None
    failures_s = config.runtime.mean_time_between_failures_s
    return min(math.sqrt(2 * cost_s * failures_s), failures_s) if cost_s else 0.0

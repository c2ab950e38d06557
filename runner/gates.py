"""Gates: what one stage must have shown before another starts, decided from results alone.

A gate closes only where the upper bound of the asked figure's interval is below its target: with the little
data of a validation part a standard error of the Sharpe ratio of 1 or more is normal, and a miss says little.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any, Literal

from configs.run_dir import Result
from configs.schema import Config, GateConfig
from runner.graph import STAGE_NAMES, STAGES, Unit

Z = 1.96
"""Normal quantile of a two-sided 95 % interval."""
JUDGE = "evaluate"
NEVER_STOPPED = (JUDGE, *(stage.name for stage in STAGES if stage.on_demand))
"""Stages that run whatever was left out before them."""


State = Literal["open", "closed", "continued"]


@dataclass(frozen=True)
class Verdict:
    """What became of one gate in one start."""

    stage: str
    """The stage that waits."""
    asked: str
    metric: str
    value: float | None
    """None where nothing was measured."""
    interval: tuple[float, float] | None
    target: float | None
    """None for the metric `done`."""
    on_fail: str
    verdict: State
    says: str

    def to_json(self) -> dict[str, Any]:
        """Plain values for the event log."""
        return asdict(self)


class Gates:
    """The gates of one start, decided one by one as the stages they ask come to their end."""

    def __init__(self, config: Config, units: Sequence[Unit]) -> None:
        """Take the gates that concern a unit of this start and ask a stage that is among its units, too."""
        self._units_of: dict[str, list[str]] = {}
        for unit in units:
            self._units_of.setdefault(unit.stage, []).append(unit.id)
        self._holds_nothing_back = config.parallel_models
        self._undecided = [(stage, gate) for stage, gate in gates_on(config, units) if gate.stage in self._units_of]
        self._closed: list[Verdict] = []

    def decide(self, results: Mapping[str, Result], gone: Collection[str]) -> list[Verdict]:
        """Verdicts that can be told by now and were not before.

        Args:
            results: of the units that are done.
            gone: units that a closed gate left out.
        """
        asked = {stage: self._units_of[stage] for _, gate in self._undecided for stage in [gate.stage]}
        ended = {stage for stage, units in asked.items() if all(unit in results or unit in gone for unit in units)}
        ready = [(stage, gate) for stage, gate in self._undecided if gate.stage in ended]
        self._undecided = [item for item in self._undecided if item not in ready]
        verdicts = [self._judge(stage, gate, results) for stage, gate in ready if asked[gate.stage]]
        self._closed += [verdict for verdict in verdicts if verdict.verdict == "closed"]
        return verdicts

    def forget(self, unit: Unit) -> None:
        """The unit is not there and will not be: nobody can ask its stage, and what waits for that is not held back."""
        self._undecided = [(stage, gate) for stage, gate in self._undecided if gate.stage != unit.stage]

    def lets_start(self, unit: Unit, results: Mapping[str, Result], gone: Collection[str]) -> bool:
        """Whether all that the unit waits for has ended: what it needs, what it wants, and verdicts on its stage."""
        is_held = not self._holds_nothing_back and any(holds(stage, gate, unit) for stage, gate in self._undecided)
        has_needs = all(need in results for need in unit.needs)
        return has_needs and not is_held and all(want in results or want in gone for want in unit.wants)

    def leaves_out(self, unit: Unit, gone: Collection[str]) -> str:
        """Why the unit is left out, if it is: its stage's gate is closed, or what it needs was left out."""
        for verdict in self._closed:
            if concerns(verdict.stage, verdict.on_fail, unit):
                return verdict.says
        return next((f"unit {need!r}, which it needs, was left out" for need in unit.needs if need in gone), "")

    def _judge(self, stage: str, gate: GateConfig, results: Mapping[str, Result]) -> Verdict:
        asked = [results[unit] for unit in self._units_of[gate.stage] if unit in results]
        is_met, value, interval, found = _is_done(gate, asked) if gate.metric == "done" else _sharpe(gate, asked)
        goes_on = gate.on_fail == "continue" or self._holds_nothing_back
        verdict: State = "open" if is_met else "continued" if goes_on else "closed"
        follows = {
            "open": f"{stage} may start",
            "continued": f"{stage} goes on all the same",
            "closed": f"{stage} is left out" + (" and all later training" if gate.on_fail == "stop" else ""),
        }
        return Verdict(
            stage=stage,
            asked=gate.stage,
            metric=gate.metric,
            value=value,
            interval=interval,
            target=gate.at_least if gate.metric != "done" else None,
            on_fail=gate.on_fail,
            verdict=verdict,
            says=f"{found}: {follows[verdict]}",
        )


def concerns(stage: str, on_fail: str, unit: Unit) -> bool:
    """Whether a gate of `stage` concerns a unit: its own stage's; one that stops, every later that it can.

    The stage of the gate need not be part of the start: what it stops in a whole run, it stops in a part of it.
    """
    if unit.stage == stage or on_fail != "stop" or unit.stage not in STAGE_NAMES:
        return unit.stage == stage
    return unit.stage not in NEVER_STOPPED and STAGE_NAMES.index(unit.stage) > STAGE_NAMES.index(stage)


def holds(stage: str, gate: GateConfig, unit: Unit) -> bool:
    """Whether a gate of `stage` that is not decided yet holds a unit back, and may leave it out."""
    return gate.on_fail != "continue" and concerns(stage, gate.on_fail, unit)


def gates_on(config: Config, units: Sequence[Unit]) -> list[tuple[str, GateConfig]]:
    """The gates that concern any of these units, each with the stage that waits."""
    every = [(stage, gate) for stage, gates in config.gates.items() for gate in gates]
    return [(stage, gate) for stage, gate in every if any(concerns(stage, gate.on_fail, unit) for unit in units)]


Finding = tuple[bool, float | None, tuple[float, float] | None, str]
"""Whether the gate's wish is met, the figure, its interval, and how it is told."""


def _is_done(gate: GateConfig, asked: Sequence[Result]) -> Finding:
    says = f"{gate.stage} is done" if asked else f"{gate.stage} was left out"
    return bool(asked), float(bool(asked)), None, says


def _sharpe(gate: GateConfig, asked: Sequence[Result]) -> Finding:
    """Mean over the seeds; they share the bars, so the interval has the mean of their standard errors."""
    parts = [result.metrics["validation"] for result in asked if "validation" in result.metrics]
    if not parts:
        return False, None, None, f"{gate.stage} was left out and has no validation Sharpe ratio"
    value = fmean(part["sharpe"] for part in parts)
    half = Z * fmean(part["standard_error"] for part in parts)
    low, high = value - half, value + half
    figure = f"validation Sharpe of {gate.stage} is {value:.2f} (95 %: {low:.2f} to {high:.2f})"
    if value >= gate.at_least:
        says = f"{figure}, at least {gate.at_least:g}"
    elif high >= gate.at_least:
        says = f"{figure}; whether it is at least {gate.at_least:g} cannot be decided with so little data"
    else:
        says = f"{figure}, even its upper bound is below {gate.at_least:g}"
    return high >= gate.at_least, value, (low, high), says

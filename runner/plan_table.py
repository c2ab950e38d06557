"""A plan as a person reads it: a row per stage, then what it all comes to."""

from __future__ import annotations

import sys

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text

from configs.calendar import shifted
from configs.schema import BudgetConfig
from runner.budget import amount_text, describe
from runner.console import WIDE, clock
from runner.plan import Range, RunPlan, StagePlan
from runner.preflight.check import human_bytes
from runner.store.layout import Spent


def render_plan(plan: RunPlan, run_id: str, limits: BudgetConfig, used: Spent, calibrated: str) -> RenderableType:
    """What a run would take.

    Args:
        plan: of the run.
        run_id: its name.
        limits: what it may cost; whether that will do, `check_budget` alone says.
        used: by the run so far.
        calibrated: where the measured rates are kept.
    """
    return Group(_StageTable(plan, f"plan of run {run_id}"), *map(Text, _totals(plan, limits, used, calibrated)))


def print_plan(
    plan: RunPlan, run_id: str, limits: BudgetConfig, used: Spent, calibrated: str, *, stderr: bool = False
) -> None:
    """`render_plan` on stdout or stderr, wide where nobody looks at it live."""
    is_live = (sys.stderr if stderr else sys.stdout).isatty()
    console = Console(stderr=stderr, highlight=False, width=None if is_live else 120)
    console.print(render_plan(plan, run_id, limits, used, calibrated))


class _StageTable:
    """A row per stage; on a narrow terminal without memory and checkpoints."""

    def __init__(self, plan: RunPlan, title: str) -> None:
        self._plan, self._title = plan, title

    def __rich_console__(self, _console: Console, options: ConsoleOptions) -> RenderResult:
        priced = bool(self._plan.price_usd_per_hour)
        titles = ("stage", "units", "time", "low to high", *(["USD"] if priced else []), "memory of one", "saves every")
        count = len(titles) - (2 if options.max_width < WIDE else 0)
        table = Table(title=self._title, title_justify="left", box=None, pad_edge=False)
        for title in titles[:count]:
            table.add_column(title, justify="left" if title == "stage" else "right", no_wrap=True)
        for stage in self._plan.stages:
            table.add_row(*_cells(stage, priced)[:count])
        yield table


def _cells(stage: StagePlan, priced: bool) -> tuple[str, ...]:
    mark = "*" * bool(stage.nominal) + "?" * stage.may_be_left_out
    return (
        f"{stage.name}{mark}",
        str(stage.units),
        clock(stage.span_s.expected),
        f"{clock(stage.span_s.low)} to {clock(stage.span_s.high)}",
        *([amount_text(stage.cost_usd)] if priced else []),
        human_bytes(stage.memory_bytes),
        clock(stage.checkpoint_every_s) if stage.checkpoint_every_s else "-",
    )


def _totals(plan: RunPlan, limits: BudgetConfig, used: Spent, calibrated: str) -> list[str]:
    free, bars = human_bytes(plan.disk_free_bytes), f"{plan.bars_found:,} found, {plan.bars_needed:,} needed"
    nominal = [stage.name for stage in plan.stages if stage.nominal]
    gated = [stage.name for stage in plan.stages if stage.may_be_left_out]
    lines = [
        f"in all:      {_times(plan.wall_s)} with {plan.workers} at once; stages may overlap",
        *([f"cost:        {_costs(plan)}"] if plan.price_usd_per_hour else []),
        *([f"budget:      {said} spent"] if (said := describe(limits, used)) else []),
        f"memory:      {human_bytes(plan.memory_bytes)} for the units that run side by side",
        f"disk:        {human_bytes(plan.disk_bytes)} of {free} free",
        f"bars:        {bars}",
        *([f"windows:     {_windows(plan)}"] if plan.windows else []),
        *([f"assets:      {', '.join(plan.assets)}"] if plan.assets else []),
        *([f"* nominal:   {', '.join(nominal)}: not all rates were measured here"] if nominal else []),
        *(
            [f"? gated:     {', '.join(gated)}: a gate may leave it out, which the low figures count on"]
            if gated
            else []
        ),
    ]
    return [*lines, f"rates:       measured on this machine, kept in {calibrated}"] if plan.measured else lines


def _windows(plan: RunPlan) -> str:
    if not plan.first_test_month:
        return str(plan.windows)
    last = shifted(plan.first_test_month, plan.windows - 1)
    return f"{plan.windows} test months, {plan.first_test_month} to {last}"


def _costs(plan: RunPlan) -> str:
    cost = plan.cost_usd
    return (
        f"{amount_text(cost.expected)} USD ({amount_text(cost.low)} to {amount_text(cost.high)}) "
        f"at {amount_text(plan.price_usd_per_hour)} USD an hour"
    )


def _times(wall: Range) -> str:
    return f"{clock(wall.expected)} ({clock(wall.low)} to {clock(wall.high)})"

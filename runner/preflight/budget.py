"""What is left of the budget against what is left to do: one rule for pre-flight and for the start of a run."""

from __future__ import annotations

from configs.errors import ExitCode
from configs.schema import BudgetConfig
from runner.budget import HOUR_S, amount_text, cost_of, describe, left_s
from runner.plan import RunPlan
from runner.preflight.check import CheckResult
from runner.store.layout import Spent

NAME = "budget"


def check_budget(limits: BudgetConfig, used: Spent, plan: RunPlan, accepted: bool = False) -> CheckResult:
    """Compare the expected time and cost of what is left to do with what the limits leave.

    Args:
        limits: the limits, and the price of this machine.
        used: by the run so far.
        plan: of what is left to do.
        accepted: go on all the same (`--yes`); the run then stops when a limit is reached.
    """
    price, remaining_s = limits.price_usd_per_hour, max(0.0, left_s(limits, used))
    wall = plan.wall_s
    found = (
        f"{describe(limits, used)} spent, about {_amount(wall.expected, price)} to go "
        f"({_amount(wall.low, price)} to {_amount(wall.high, price)})"
    )
    needed = f"at most {_amount(remaining_s, price)} to go"
    if wall.expected <= remaining_s:
        return CheckResult(NAME, found, needed, "ok")
    if accepted:
        return CheckResult(NAME, found, needed, "warn", "none: --yes accepts a run that stops unfinished")
    options = ["--max-cost"] * bool(limits.max_cost_usd) + ["--max-hours"] * bool(limits.max_hours)
    remedy = f"raise {' and '.join(options)}, or accept an unfinished run with --yes"
    return CheckResult(NAME, found, needed, "fail", remedy, ExitCode.BUDGET)


def _amount(wall_s: float, price_usd_per_hour: float) -> str:
    cost = f" ({amount_text(cost_of(wall_s, price_usd_per_hour))} USD)" if price_usd_per_hour else ""
    return f"{amount_text(wall_s / HOUR_S)} h{cost}"

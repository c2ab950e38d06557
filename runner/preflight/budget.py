"""Check: what is left of the budget pays for what is left to do."""

from __future__ import annotations

from configs.errors import ExitCode
from configs.schema import Config
from runner.budget import HOUR_S, cost_of, describe, figure, left_s
from runner.preflight.check import CheckResult, Context

NAME = "budget"


def check_budget(config: Config, context: Context) -> CheckResult:
    """Compare the upper estimate of the units to run with what the limits leave."""
    limits = config.budget
    if not limits.max_cost_usd and not limits.max_hours:
        return CheckResult(NAME, "no limit", "nothing", "skipped")
    used, work_s = context.spent(), context.work_left_s()
    remaining_s = max(0.0, left_s(limits, used))
    found = f"{describe(limits, used)} spent, up to {_amount(work_s, limits.price_usd_per_hour)} to go"
    needed = f"at most {_amount(remaining_s, limits.price_usd_per_hour)} to go"
    if work_s <= remaining_s:
        return CheckResult(NAME, found, needed, "ok")
    options = ["--max-cost"] * bool(limits.max_cost_usd) + ["--max-hours"] * bool(limits.max_hours)
    remedy = f"raise {' and '.join(options)}, or accept an unfinished run with --skip-preflight"
    return CheckResult(NAME, found, needed, "fail", remedy, ExitCode.BUDGET)


def _amount(wall_s: float, price_usd_per_hour: float) -> str:
    cost = f" ({figure(cost_of(wall_s, price_usd_per_hour))} USD)" if price_usd_per_hour else ""
    return f"{figure(wall_s / HOUR_S)} h{cost}"

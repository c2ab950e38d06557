"""What a run has cost over all its starts, and its end before it costs more than it may.

The ledger is the event log: a start lasts from its `run_started` to its last
event, at the price that its `run_started` says. So a start that was killed
counts up to its last sample of resources, and time with the machine off counts
nothing.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from configs.errors import ExitCode, ProjectError
from configs.events import parse_events
from configs.schema import BudgetConfig
from runner.store.layout import Spent
from runner.watch import Ending

HOUR_S = 3600.0
MARGIN_S = 1.0
"""Time for the supervisor to notice."""


class BudgetError(ProjectError):
    """The run has used up what it may cost."""

    exit_code = ExitCode.BUDGET


def spent(events_dir: Path) -> Spent:
    """What the event log of a run knows to be spent, over all starts."""
    wall_s = cost_usd = 0.0
    begun_t, start_s, price_usd_per_hour = math.inf, 0.0, 0.0
    for event in supervisor_events(events_dir):
        if event["kind"] == "run_started":
            wall_s += start_s + _number(event, "unseen_wall_s")
            cost_usd += cost_of(start_s, price_usd_per_hour) + _number(event, "unseen_cost_usd")
            begun_t, start_s, price_usd_per_hour = event["t"], 0.0, _number(event, "price_usd_per_hour")
        else:
            start_s = max(start_s, event["t"] - begun_t)
    return Spent(wall_s=wall_s + start_s, cost_usd=cost_usd + cost_of(start_s, price_usd_per_hour))


def cost_of(wall_s: float, price_usd_per_hour: float) -> float:
    """What so many seconds cost in USD."""
    return wall_s * price_usd_per_hour / HOUR_S


def opening(price_usd_per_hour: float, ledger: Spent, known: Spent) -> dict[str, float]:
    """The fields of `run_started` that keep the ledger.

    Args:
        price_usd_per_hour: what this machine costs.
        ledger: what the event log knows.
        known: what the store knows; it may have seen more, where the machine was lost with the end of its log.
    """
    return {
        "price_usd_per_hour": price_usd_per_hour,
        "unseen_wall_s": max(0.0, known.wall_s - ledger.wall_s),
        "unseen_cost_usd": max(0.0, known.cost_usd - ledger.cost_usd),
    }


def left_s(limits: BudgetConfig, used: Spent) -> float:
    """Seconds until the first limit is reached, at the price of this machine; infinite where there is no limit."""
    by_time_s = limits.max_hours * HOUR_S - used.wall_s if limits.max_hours else math.inf
    if not limits.max_cost_usd:
        return by_time_s
    return min(by_time_s, (limits.max_cost_usd - used.cost_usd) / limits.price_usd_per_hour * HOUR_S)


def within(limits: BudgetConfig, used: Spent, machine_s: float) -> BudgetConfig:
    """The limits, and where this machine leaves the run less time than they do, the hours that are over with it."""
    if machine_s >= left_s(limits, used):
        return limits
    return limits.model_copy(update={"max_hours": max(MARGIN_S, used.wall_s + machine_s) / HOUR_S})


class Budget:
    """Watches what this start adds to the ledger, and ends the run early enough to stay below every limit."""

    def __init__(
        self,
        limits: BudgetConfig,
        before: Spent,
        *,
        grace_s: float,
        warn: Callable[[str], None] = lambda _says: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Count from now on.

        Args:
            limits: the limits, and the price of this machine.
            before: spent by earlier starts.
            grace_s: from an ending to the end of the program.
            warn: called once in the life of a run, when `warn_frac` of a limit is spent.
            clock: seconds that never go back.
        """
        self.limits, self._before, self._warn, self._clock = limits, before, warn, clock
        self._needed_s = grace_s + MARGIN_S
        self._begun_s = clock()
        self._warned = self._share(before) >= limits.warn_frac

    def spent(self) -> Spent:
        """What all starts have used by now."""
        wall_s = self._clock() - self._begun_s
        cost_usd = cost_of(wall_s, self.limits.price_usd_per_hour)
        return Spent(wall_s=self._before.wall_s + wall_s, cost_usd=self._before.cost_usd + cost_usd)

    def left_s(self) -> float:
        """Seconds until the first limit; infinite where there is none."""
        return left_s(self.limits, self.spent())

    def work_s(self) -> float:
        """Seconds until the run must begin to stop; infinite where there is no limit."""
        return self.left_s() - self._needed_s

    def refuse_spent(self) -> None:
        """Refuse to start where nothing is left.

        Raises:
            BudgetError: less is left than it takes to stop.
        """
        if self.work_s() <= 0:
            raise BudgetError(
                f"nothing is left of the budget: {describe(self.limits, self.spent())}, and {self._needed_s:.0f} s "
                f"are kept for stopping (runtime.stop_grace_s); {_go_on(self.limits)}"
            )

    def on_event(self, event: dict[str, Any]) -> None:
        """The clock says it all."""

    def verdict(self) -> Ending | None:
        """The budget ending, early by the grace time; warns on the way there."""
        used = self.spent()
        if not self._warned and self._share(used) >= self.limits.warn_frac:
            self._warned = True
            self._warn(f"{self.limits.warn_frac:.0%} of the budget is spent: {describe(self.limits, used)}")
        if left_s(self.limits, used) > self._needed_s:
            return None
        says = f"stopped before the budget is exceeded: {describe(self.limits, used)}; {_go_on(self.limits)}"
        return Ending(ExitCode.BUDGET, says)

    def _share(self, used: Spent) -> float:
        pairs = ((used.wall_s, self.limits.max_hours * HOUR_S), (used.cost_usd, self.limits.max_cost_usd))
        return max((amount / limit for amount, limit in pairs if limit), default=0.0)


def describe(limits: BudgetConfig, used: Spent) -> str:
    """`1.20 of 1.50 USD and 2.00 of 3.00 h`: each limit with what is used of it."""
    pairs = ((used.cost_usd, limits.max_cost_usd, "USD"), (used.wall_s / HOUR_S, limits.max_hours, "h"))
    return " and ".join(
        f"{amount_text(amount)} of {amount_text(limit)} {unit}" for amount, limit, unit in pairs if limit
    )


def amount_text(amount: float) -> str:
    """`12.50`, `0.0163`, `0.000009`: cents of large sums, three digits of small ones, at most six decimals."""
    if amount >= 1:
        return f"{amount:.2f}"
    return f"{amount:.3g}" if amount >= 1e-4 else f"{amount:.6f}".rstrip("0").rstrip(".")


def _go_on(limits: BudgetConfig) -> str:
    options = ["--max-cost"] * bool(limits.max_cost_usd) + ["--max-hours"] * bool(limits.max_hours)
    return f"the same command with a larger {' or '.join(options)} goes on from here"


def supervisor_events(events_dir: Path) -> list[dict[str, Any]]:
    """What the supervisor wrote, over all starts."""
    path = events_dir / "supervisor.jsonl"
    if not path.exists():
        return []
    with path.open("rb") as file:
        return list(parse_events(file))


def _number(event: dict[str, Any], name: str) -> float:
    value = event.get(name)
    return float(value) if isinstance(value, int | float) else 0.0

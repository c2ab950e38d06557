"""The dataset: present, valid, and long enough for the plan."""

from __future__ import annotations

from typing import Any

from configs.calendar import day_of
from configs.errors import BadDataError, ConfigError, DatasetNotFoundError, ExitCode, ProjectError
from configs.schema import Config
from runner.preflight.check import CheckResult, Context

REMEDIES: dict[type[ProjectError], str] = {
    DatasetNotFoundError: "name its directory with --data-dir, or see `sequence-runner data list`",
    BadDataError: "see `sequence-runner data check`; dataset.repair=drop drops faulty rows",
    ConfigError: "correct the configuration",
}
"""What to do for each way the dataset can be refused; anything else is a crash of the check."""


def check_dataset(config: Config, context: Context) -> CheckResult:
    """Ask what the dataset is, and compare its length with the plan's need."""
    try:
        facts = context.dataset()
    except tuple(REMEDIES) as error:
        remedy = next(text for kind, text in REMEDIES.items() if isinstance(error, kind))
        found = f"{config.dataset.name}: {error}"
        return CheckResult("dataset", found, "present and valid", "fail", remedy, error.exit_code)
    return judge_dataset(facts, context.bars_needed())


def judge_dataset(facts: dict[str, Any], bars_needed: int) -> CheckResult:
    """Verdict on a dataset that could be read."""
    rows, needed = facts["rows"], f"valid, {bars_needed:,} bars or more" if bars_needed else "valid"
    found = f"{facts['name']}: {rows:,} bars, {day_of(facts['first_t'])} to {day_of(facts['last_t'])}"
    if facts.get("synthetic"):
        found += ", SYNTHETIC"
    if rows < bars_needed:
        remedy = "take a longer range of days or a lower timeframe"
        return CheckResult("dataset", found, needed, "fail", remedy, ExitCode.BAD_DATA)
    return CheckResult("dataset", found, needed, "ok")

"""Which walk-forward windows the data hold: resolved once, before anything runs, and stored."""

from __future__ import annotations

from typing import Any

from configs.calendar import full_months
from configs.errors import BadDataError
from configs.schema import Config


class TooFewMonthsError(BadDataError):
    """The data do not hold a single walk-forward window."""


def fitted(config: Config, facts: dict[str, Any]) -> Config:
    """The configuration with as many test months as fit of those asked for, the last ones, and the first of them.

    Args:
        config: as it was asked for; with `walk_forward.first_test_month` the windows begin there.
        facts: of the dataset: `first_t`, `last_t`, `timeframe_s`.

    Raises:
        TooFewMonthsError: not one fits; the message says what was found, what is needed and what to do.
    """
    asked = config.walk_forward
    if not asked.windows:
        return with_windows(config, [])
    months = full_months(facts["first_t"], facts["last_t"], facts["timeframe_s"], config.market.max_gap_s)
    months_before = 2 * asked.train_months
    possible = months[months_before:]
    if asked.first_test_month:
        fitting = [month for month in possible if month >= asked.first_test_month][: asked.windows]
        if fitting[:1] != [asked.first_test_month]:
            fitting = []
    else:
        fitting = possible[-asked.windows :]
    if not fitting:
        raise TooFewMonthsError(_refusal(config, months))
    return with_windows(config, fitting)


def with_windows(config: Config, months: list[str]) -> Config:
    """The configuration with these test months, which follow each other."""
    found = {"windows": len(months), "first_test_month": months[0] if months else ""}
    return config.model_copy(update={"walk_forward": config.walk_forward.model_copy(update=found)})


def _refusal(config: Config, months: list[str]) -> str:
    asked, name = config.walk_forward, config.dataset.name
    needed = 2 * asked.train_months + 1
    span = f" ({months[0]} to {months[-1]})" if months else ""
    where = f" with the test month {asked.first_test_month}" if asked.first_test_month else ""
    return (
        f"{name} has {len(months)} full calendar months{span}; walk-forward needs at least {needed} for one "
        f"window{where}: {asked.train_months} that the first classifier is fitted on, {asked.train_months} that the "
        f"agent trains on and 1 test month; use a longer series, --set walk_forward.train_months=N with a smaller N, "
        "--set walk_forward.windows=0, or leave walk_forward out by --stages"
    )

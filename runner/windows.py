"""Which walk-forward windows the data hold: resolved once, before anything runs, and stored."""

from __future__ import annotations

from typing import Any

from configs.calendar import full_months, month_start, shifted
from configs.errors import BadDataError
from configs.needs import STOP_HORIZONS, bars_before_window, first_rows
from configs.schema import Config


class NoWindowError(BadDataError):
    """The data do not hold a single walk-forward window."""


def fitted(config: Config, facts: dict[str, Any]) -> Config:
    """The configuration with as many test months as fit of those asked for, the last ones, and the first of them.

    Args:
        config: as it was asked for; with `walk_forward.first_test_month` the windows begin there.
        facts: of the dataset: `first_t`, `last_t`, `timeframe_s`, `rows`.

    Raises:
        NoWindowError: not one fits; the message says what was found, what is needed and what to do.
    """
    asked = config.walk_forward
    if not asked.windows:
        return with_windows(config, [])
    months = full_months(facts["first_t"], facts["last_t"], facts["timeframe_s"], config.market.max_gap_s)
    possible, enough = months[2 * asked.train_months :], first_rows(config)
    starved = [month for month in months[asked.train_months :] if _training_rows(config, facts, month) < enough]
    if starved:  # every month that a window's agents train on is predicted
        possible = [month for month in possible if month > shifted(starved[-1], asked.train_months)]
    if asked.first_test_month:
        fitting = [month for month in possible if month >= asked.first_test_month][: asked.windows]
        if fitting[:1] != [asked.first_test_month]:
            fitting = []
    else:
        fitting = possible[-asked.windows :]
    if not fitting:
        wanted = asked.first_test_month or "".join(months[-1:])
        if starved and wanted in months[2 * asked.train_months :]:
            raise NoWindowError(_too_few_rows(config, _training_rows(config, facts, starved[-1])))
        raise NoWindowError(_refusal(config, months))
    return with_windows(config, fitting)


def with_windows(config: Config, months: list[str]) -> Config:
    """The configuration with these test months, which follow each other."""
    found = {"windows": len(months), "first_test_month": months[0] if months else ""}
    return config.model_copy(update={"walk_forward": config.walk_forward.model_copy(update=found)})


def _training_rows(config: Config, facts: dict[str, Any], month: str) -> int:
    """About how many rows the classifiers that predict a month are fitted with, if bars lie evenly over the series."""
    per_s = facts["rows"] / (facts["last_t"] + facts["timeframe_s"] - facts["first_t"])
    start_t = max(month_start(shifted(month, -config.walk_forward.train_months)), facts["first_t"])
    before, own = (start_t - facts["first_t"]) * per_s, (month_start(month) - start_t) * per_s
    return int(own - max(0.0, bars_before_window(config) - before) - config.labels.horizon_bars)


def _too_few_rows(config: Config, found: int) -> str:
    asked, needed = config.walk_forward, first_rows(config)
    return (
        f"{config.dataset.name} has about {max(0, found):,} training rows in {asked.train_months} months; walk-forward "
        f"needs at least {needed:,} to fit a month's classifiers, whose last {config.classifiers.early_stop_frac:.0%} "
        f"span {STOP_HORIZONS} label horizons of {config.labels.horizon_bars} bars; use a shorter timeframe, "
        "--set walk_forward.train_months=N with a larger N, --set labels.horizon_bars=K with a smaller K, "
        "--set walk_forward.windows=0, or leave walk_forward out by --stages"
    )


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

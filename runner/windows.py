"""Which walk-forward windows the data hold: resolved once, before anything runs, and stored."""

from __future__ import annotations

from typing import Any

from configs.calendar import full_months, shifted
from configs.errors import BadDataError
from configs.needs import STOP_HORIZONS, bars_before_window, first_rows
from configs.schema import Config


class NoWindowError(BadDataError):
    """The data do not hold a single walk-forward window."""


def fitted(config: Config, facts: dict[str, Any]) -> Config:
    """The configuration with as many test months as fit of those asked for, and the first of them.

    Test months follow each other: where months that do not fit part them, the row with the most that are asked for is
    taken, of equal ones the later, and its last months.

    Args:
        config: as it was asked for; with `walk_forward.first_test_month` the windows begin there.
        facts: of the dataset: `first_t`, `last_t`, `timeframe_s`, `months`.

    Raises:
        NoWindowError: not one fits; the message says what was found, what is needed and what to do.
    """
    asked = config.walk_forward
    if not asked.windows:
        return with_windows(config, [])
    reasons, rows = _reasons(config, facts), list[list[str]]()
    for month in (month for month, why_not in reasons.items() if not why_not):
        if rows and rows[-1][-1] == shifted(month, -1):
            rows[-1].append(month)
        else:
            rows.append([month])
    if asked.first_test_month:
        rows = [row[row.index(asked.first_test_month) :] for row in rows if asked.first_test_month in row]
        fitting = [month for row in rows for month in row[: asked.windows]]
    else:
        fitting = max(rows, key=lambda row: (min(len(row), asked.windows), row[-1]), default=[])[-asked.windows :]
    if not fitting:
        wanted = asked.first_test_month or "".join([*reasons][-1:])
        raise NoWindowError(reasons.get(wanted) or _refusal(config, facts))
    return with_windows(config, fitting)


def shortfall(config: Config, fitting: Config, facts: dict[str, Any]) -> str:
    """What to say where the windows are fewer than those asked for, or not of the last months; empty where they are.

    Args:
        config: as it was asked for.
        fitting: what `fitted` made of it.
        facts: as for `fitted`.
    """
    asked, found = config.walk_forward, fitting.walk_forward
    left_out = [(month, why_not) for month, why_not in _reasons(config, facts).items() if why_not][-1:]
    passed_over = left_out and not asked.first_test_month and left_out[0][0] > found.first_test_month
    if not asked.windows or (found.windows == asked.windows and not passed_over):
        return ""
    return (
        f"walk-forward: {found.windows} of the {asked.windows} windows asked for fit the data of "
        f"{config.dataset.name}; the first test month is {found.first_test_month}"
    ) + "".join(f"; {month} has none: {why_not}" for month, why_not in left_out)


def with_windows(config: Config, months: list[str]) -> Config:
    """The configuration with these test months, which follow each other."""
    found = {"windows": len(months), "first_test_month": months[0] if months else ""}
    return config.model_copy(update={"walk_forward": config.walk_forward.model_copy(update=found)})


def _full(config: Config, facts: dict[str, Any]) -> list[str]:
    return full_months(facts["first_t"], facts["last_t"], facts["timeframe_s"], config.market.max_gap_s)


def _reasons(config: Config, facts: dict[str, Any]) -> dict[str, str]:
    """Test month that has enough months before it -> why there is no window of it; empty where there is one."""
    return {
        month: _why_not(config, facts, month) for month in _full(config, facts)[2 * config.walk_forward.train_months :]
    }


def _why_not(config: Config, facts: dict[str, Any], month: str) -> str:
    for predicted in (shifted(month, -number) for number in range(config.walk_forward.train_months + 1)):
        found = _training_rows(config, facts, predicted)
        if found < first_rows(config):  # every month that a window's agents train on is predicted
            return _too_few_rows(config, predicted, found)
    if not _count(facts, month, "steps"):
        return (
            f"{month} of {config.dataset.name} has no two bars in a row that an agent may decide on: a gap leaves "
            f"too few, and features and a classifier's window take {bars_before_window(config)} bars after it; use a "
            "series without that gap, choose other months by --set walk_forward.first_test_month=YYYY-MM and "
            "walk_forward.windows=N, or leave walk_forward out by --stages"
        )
    return ""


def _training_rows(config: Config, facts: dict[str, Any], month: str) -> int:
    """Rows that the classifiers of a month are fitted with; fewer by up to a horizon where it begins after a gap."""
    before = (shifted(month, -number) for number in range(1, config.walk_forward.train_months + 1))
    return sum(_count(facts, each, "samples") for each in before) - config.labels.horizon_bars


def _count(facts: dict[str, Any], month: str, of: str) -> int:
    return int(facts["months"].get(month, {}).get(of, 0))


def _too_few_rows(config: Config, month: str, found: int) -> str:
    asked, needed = config.walk_forward, first_rows(config)
    return (
        f"{config.dataset.name} has about {max(0, found):,} training rows in the {asked.train_months} months before "
        f"{month}; walk-forward needs at least {needed:,} to fit a month's classifiers, whose last "
        f"{config.classifiers.early_stop_frac:.0%} span {STOP_HORIZONS} label horizons of {config.labels.horizon_bars} "
        "bars; use a shorter timeframe, a series with fewer gaps, --set walk_forward.train_months=N with a larger N, "
        "--set labels.horizon_bars=K with a smaller K, --set walk_forward.windows=0, or leave walk_forward out by "
        "--stages"
    )


def _refusal(config: Config, facts: dict[str, Any]) -> str:
    asked, name, months = config.walk_forward, config.dataset.name, _full(config, facts)
    needed = 2 * asked.train_months + 1
    span = f" ({months[0]} to {months[-1]})" if months else ""
    where = f" with the test month {asked.first_test_month}" if asked.first_test_month else ""
    return (
        f"{name} has {len(months)} full calendar months{span}; walk-forward needs at least {needed} for one "
        f"window{where}: {asked.train_months} that the first classifier is fitted on, {asked.train_months} that the "
        f"agent trains on and 1 test month; use a longer series, --set walk_forward.train_months=N with a smaller N, "
        "--set walk_forward.windows=0, or leave walk_forward out by --stages"
    )

"""Walk-forward windows that the data hold."""

import numpy as np
import pytest

from configs.calendar import month_start, shifted
from configs.load import resolve
from configs.needs import bars_before_window, first_rows
from runner.windows import NoWindowError, fitted, shortfall
from training.market import assign_segments
from training.splits import month_counts

HOUR_S = 3_600


def facts(first: str, months: int, timeframe_s: int = HOUR_S, without: str = "") -> dict:
    """What `data check` says of bars that cover these months from end to end, without a gap but that month."""
    t = np.arange(month_start(first), month_start(shifted(first, months)), timeframe_s)
    if without:
        t = t[(t < month_start(without)) | (t >= month_start(shifted(without, 1)))]
    segment, config = assign_segments(t, 6 * timeframe_s), configured()
    return {
        "first_t": int(t[0]),
        "last_t": int(t[-1]),
        "timeframe_s": timeframe_s,
        "months": month_counts(t, segment, bars_before_window(config), config.labels.horizon_bars),
    }


def configured(*settings: str, dataset: str = "BTC-USDT_1H"):
    return resolve(dataset, "quick", settings=settings).config


@pytest.mark.parametrize(
    ("months", "asked", "windows", "first"),
    [
        (60, 48, 48, "2021-01"),
        (60, 12, 12, "2024-01"),
        (59, 48, 47, "2021-01"),
        (13, 12, 1, "2021-01"),
    ],
)
def test_as_many_windows_as_fit_the_last_ones(months, asked, windows, first):
    found = fitted(configured(f"walk_forward.windows={asked}"), facts("2020-01", months)).walk_forward
    assert (found.windows, found.first_test_month) == (windows, first)


def test_a_month_without_bars_is_passed_over_before_anything_runs_and_named():
    """The last months of the longest row are taken: after the gap, or before it where more of those asked for fit."""
    whole = facts("2020-01", 60, without="2022-05")
    for asked, windows, first in ((48, 31, "2022-06"), (31, 31, "2022-06"), (10, 10, "2024-03")):
        config = configured(f"walk_forward.windows={asked}")
        found = fitted(config, whole)
        assert (found.walk_forward.windows, found.walk_forward.first_test_month) == (windows, first)
        assert ("2022-05" in shortfall(config, found, whole)) == (asked == 48)
    late = facts("2020-01", 60, without="2024-10")
    config = configured("walk_forward.windows=12")
    found = fitted(config, late)
    assert (found.walk_forward.windows, found.walk_forward.first_test_month) == (12, "2023-10")
    said = shortfall(config, found, late)
    assert "12 of the 12 windows" in said and "2024-10 has none" in said and "no two bars in a row" in said


def test_windows_that_are_told_where_to_begin_end_before_a_month_without_bars():
    whole = facts("2020-01", 60, without="2022-05")
    found = fitted(configured("walk_forward.first_test_month=2022-01"), whole).walk_forward
    assert (found.windows, found.first_test_month) == (4, "2022-01")
    with pytest.raises(NoWindowError, match="no two bars in a row"):
        fitted(configured("walk_forward.first_test_month=2022-05"), whole)


def test_what_was_fitted_fits_unchanged():
    once = fitted(configured(), facts("2020-01", 30))
    assert fitted(once, facts("2020-01", 30)) == once


def test_a_first_test_month_that_was_asked_for_is_kept():
    asked = configured("walk_forward.first_test_month=2021-03", "walk_forward.windows=4")
    found = fitted(asked, facts("2020-01", 24)).walk_forward
    assert (found.windows, found.first_test_month) == (4, "2021-03")
    for too_early_or_late in ("2020-12", "2022-01"):
        with pytest.raises(NoWindowError, match=too_early_or_late):
            fitted(configured(f"walk_forward.first_test_month={too_early_or_late}"), facts("2020-01", 24))


def test_no_window_is_no_fault_where_none_was_asked_for():
    assert fitted(configured("walk_forward.windows=0"), facts("2020-01", 2)).walk_forward.windows == 0


def test_too_few_months_say_what_was_found_needed_and_what_to_do():
    with pytest.raises(NoWindowError, match=r"12 full calendar months \(2020-01 to 2020-12\).*at least 13") as said:
        fitted(configured(), facts("2020-01", 12))
    assert said.value.exit_code == 65
    for remedy in ("longer series", "walk_forward.train_months", "walk_forward.windows=0", "--stages"):
        assert remedy in str(said.value)


DAY_S = 24 * HOUR_S
DAILY = "BTC-USDT_1D"


def test_months_with_too_few_bars_say_what_was_found_needed_and_what_to_do():
    with pytest.raises(NoWindowError, match=r"about 163 training rows in the 6 months before.*at least 267") as said:
        fitted(configured(dataset=DAILY), facts("2018-01", 60, DAY_S))
    assert said.value.exit_code == 65
    for remedy in ("shorter timeframe", "train_months=N", "labels.horizon_bars=K", "windows=0", "--stages"):
        assert remedy in str(said.value)


def test_long_enough_training_ranges_of_daily_bars_have_windows():
    """365 days less a purge of 20 are enough, save in the first year, of which the first window's warm-up goes too."""
    asked = configured("walk_forward.train_months=12", "walk_forward.windows=99", dataset=DAILY)
    found = fitted(asked, facts("2018-01", 60, DAY_S)).walk_forward
    assert first_rows(asked) == 267
    assert 365 - 20 - bars_before_window(asked) < 267 <= 365 - 20 - (bars_before_window(asked) - 31)
    assert (found.windows, found.first_test_month) == (35, "2020-02")


def test_a_first_test_month_whose_classifiers_have_too_few_rows_is_refused():
    asked = configured("walk_forward.train_months=12", "walk_forward.first_test_month=2020-01", dataset=DAILY)
    with pytest.raises(NoWindowError, match="at least 267"):
        fitted(asked, facts("2018-01", 60, DAY_S))

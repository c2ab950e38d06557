"""Walk-forward windows that the data hold."""

import pytest

from configs.calendar import month_start, shifted
from configs.load import resolve
from configs.needs import bars_before_window, first_rows
from runner.windows import NoWindowError, fitted

HOUR_S = 3_600


def facts(first: str, months: int, timeframe_s: int = HOUR_S) -> dict:
    """Of bars that cover these months from end to end, without a gap."""
    start_t, stop_t = month_start(first), month_start(shifted(first, months))
    return {
        "first_t": start_t,
        "last_t": stop_t - timeframe_s,
        "timeframe_s": timeframe_s,
        "rows": (stop_t - start_t) // timeframe_s,
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
    with pytest.raises(NoWindowError, match=r"about 163 training rows in 6 months.*at least 267") as said:
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

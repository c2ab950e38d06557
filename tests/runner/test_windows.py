"""Walk-forward windows that the data hold."""

import pytest

from configs.calendar import month_start, shifted
from configs.load import resolve
from runner.windows import TooFewMonthsError, fitted

HOUR_S = 3_600


def facts(first: str, months: int) -> dict:
    """Of bars that cover these months from end to end."""
    return {
        "first_t": month_start(first),
        "last_t": month_start(shifted(first, months)) - HOUR_S,
        "timeframe_s": HOUR_S,
    }


def configured(*settings: str):
    return resolve("BTC-USDT_1H", "quick", settings=settings).config


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
        with pytest.raises(TooFewMonthsError, match=too_early_or_late):
            fitted(configured(f"walk_forward.first_test_month={too_early_or_late}"), facts("2020-01", 24))


def test_no_window_is_no_fault_where_none_was_asked_for():
    assert fitted(configured("walk_forward.windows=0"), facts("2020-01", 2)).walk_forward.windows == 0


def test_too_few_months_say_what_was_found_needed_and_what_to_do():
    with pytest.raises(TooFewMonthsError, match=r"12 full calendar months \(2020-01 to 2020-12\).*at least 13") as said:
        fitted(configured(), facts("2020-01", 12))
    assert said.value.exit_code == 65
    for remedy in ("longer series", "walk_forward.train_months", "walk_forward.windows=0", "--stages"):
        assert remedy in str(said.value)

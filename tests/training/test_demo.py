"""The demo series: the promised shape, the same bytes, and nothing to predict but volatility."""

import numpy as np
import pytest

from training.demo import FIRST_T, demo_bars
from training.market import Bars

MAX_GAP_S = 6 * 3_600


@pytest.fixture(scope="module")
def bars() -> Bars:
    return demo_bars(MAX_GAP_S)


def test_the_bytes_are_the_same_on_every_machine(bars):
    assert bars.digest() == "eff59e597eed50c7e4ddca6cb375f892be851ba0be25d28b86479036ce5eabd5"


def test_two_years_of_hours_from_2023_with_five_holes(bars):
    steps = np.diff(bars.t)
    assert len(bars) == 17_520
    assert bars.t[0] == FIRST_T == 1_672_531_200
    assert sorted((steps[steps != 3_600] // 3_600 - 1).tolist()) == [2, 3, 5, 9, 30]
    assert bars.segment[-1] == 2


def test_high_and_low_enclose_open_and_close(bars):
    assert (bars.high >= np.maximum(bars.open, bars.close)).all()
    assert (bars.low <= np.minimum(bars.open, bars.close)).all()
    assert (bars.low > 0).all()


def test_prices_have_five_decimals_and_volumes_three(bars):
    for column, decimals in [(bars.open, 5), (bars.high, 5), (bars.low, 5), (bars.close, 5), (bars.volume, 3)]:
        assert [float(f"{value:.{decimals}f}") for value in column[:500]] == column[:500].tolist()


def test_a_bar_opens_where_the_one_before_closed_unless_bars_are_missing(bars):
    adjacent = np.diff(bars.t) == 3_600
    assert (bars.open[1:][adjacent] == bars.close[:-1][adjacent]).all()


def test_returns_are_uncorrelated_but_their_size_is_not(bars):
    returns = np.diff(np.log(bars.close))
    whitened = np.sign(returns)  # signs have no heavy tails: the standard error is 1 / sqrt(n)
    for lag in (1, 2, 3, 24):
        assert abs(np.mean(whitened[lag:] * whitened[:-lag])) < 3 / np.sqrt(len(returns))
    assert np.corrcoef(np.abs(returns[1:]), np.abs(returns[:-1]))[0, 1] > 0.2


def test_the_price_has_no_drift(bars):
    returns = bars.close / bars.open - 1
    assert abs(returns.mean()) < 3 * returns.std() / np.sqrt(len(returns))

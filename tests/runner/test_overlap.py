"""What the ranges of assets say is what their bars say, by the rules that `multi_asset/data` counts with."""

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from configs.errors import BadDataError
from configs.load import resolve
from configs.needs import bars_before_window, test_bars, warmup_bars
from runner.overlap import most_decisions, require_overlap
from training.splits import folds, split, window_ready

HOUR, BARS = 3_600, 3_400
CONFIG = resolve("BTC-USDT_1H", "quick").config
NEEDED = test_bars(CONFIG)
test_bars.__test__ = False  # a function of the library, not a test
PARTS = split(BARS, CONFIG.splits)
CHAIN = folds(PARTS, CONFIG.classifiers.folds, CONFIG.labels.horizon_bars)
PREDICTED, STOP = CHAIN[0].predict_start, PARTS.train[1]
OWN = {"first_t": 0, "last_t": (BARS - 1) * HOUR, "timeframe_s": HOUR}
OWN |= {"predicted_t": PREDICTED * HOUR, "train_stop_t": STOP * HOUR}
LATEST = STOP - NEEDED - bars_before_window(CONFIG)
"""The last bar at which an asset may be listed."""


def asset(first: int, stop: int) -> dict:
    return {"first_t": first * HOUR, "last_t": (stop - 1) * HOUR, "timeframe_s": HOUR}


@given(first=st.integers(-BARS, BARS), bars=st.integers(1, 2 * BARS))
@example(first=LATEST, bars=BARS)
@example(first=0, bars=PREDICTED)
def test_an_asset_without_gaps_has_the_decisions_that_its_range_says(first, bars):
    t = np.arange(first, first + bars)
    ready = window_ready(np.zeros(bars), warmup_bars(CONFIG.features), CONFIG.classifiers.lookback_bars)
    decided = t[ready & (t >= PREDICTED) & (t < STOP)]
    assert most_decisions(OWN, asset(first, first + bars), CONFIG) == decided.size


@pytest.mark.parametrize(
    ("first", "stop", "found"),
    [(LATEST + 1, BARS, NEEDED - 1), (0, PREDICTED + NEEDED - 1, NEEDED - 1), (0, PREDICTED, 0), (STOP, BARS, 0)],
)
def test_an_asset_that_is_one_bar_short_is_refused_and_one_with_that_bar_is_not(first, stop, found):
    with pytest.raises(BadDataError) as refused:
        require_overlap({"BTC-USDT_1H": OWN, "ETH-USDT_1H": asset(first, stop)}, CONFIG)
    says = str(refused.value)
    assert says.startswith("ETH-USDT_1H (1970-") and "BTC-USDT_1H (1970-01-01 to 1970-05-22)" in says
    assert f"at most {found} bars" in says and f"at least {NEEDED} are needed" in says and "--assets" in says
    if found:
        enough = asset(first - 1, stop) if first else asset(first, stop + 1)
        require_overlap({"BTC-USDT_1H": OWN, "ETH-USDT_1H": enough}, CONFIG)

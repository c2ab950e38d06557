"""How many bars a configuration needs before there is anything to fit or to decide on; arithmetic of settings alone."""

from __future__ import annotations

import math

from configs.schema import Config, FeaturesConfig

STOP_HORIZONS = 2
"""Label horizons that the early-stopping rows of the first model must span at least."""
MIN_PART_HORIZONS = 4
"""Label horizons that the test part, and each slice of the validation part, must span at least."""


def first_rows(config: Config) -> int:
    """Fewest training rows of the first model: its early-stopping share spans `STOP_HORIZONS` label horizons."""
    return math.ceil(STOP_HORIZONS * config.labels.horizon_bars / config.classifiers.early_stop_frac)


def test_bars(config: Config) -> int:
    """Fewest bars of the test part, and fewest to decide on that an asset of a portfolio has in the training part."""
    return MIN_PART_HORIZONS * config.labels.horizon_bars


def bars_before_window(config: Config) -> int:
    """Bars of a segment before the first that a classifier's window ends on."""
    return warmup_bars(config.features) + config.classifiers.lookback_bars - 1


def warmup_bars(config: FeaturesConfig) -> int:
    """Bars of a segment before its first row of features: the longest warm-up of all columns."""
    return max(column_warmups(config))


def column_warmups(config: FeaturesConfig) -> list[int]:
    """Bars of a segment before the first value of each feature column, in their order."""
    fast, slow, signal = config.macd
    range_bars, smooth_k, smooth_d = config.stochastic
    stochastic = range_bars + smooth_k + smooth_d - 3
    return [
        *config.return_bars,
        *(window - 1 for window in config.sma_windows),
        *(window - 1 for window in config.ema_windows),
        config.rsi_period,
        *[max(fast, slow) + signal - 2] * 3,
        *[config.bollinger_period - 1] * 2,
        config.atr_period,
        2 * config.adx_period - 1,
        *[config.adx_period] * 2,
        config.cci_period - 1,
        *[stochastic] * 2,
        config.volume_window - 1,
        config.obv_window,
        config.volatility_window,
    ]

"""The 26 feature columns of a bar, by TA-Lib's definitions.

Every segment is computed on its own from its first bar, and only backwards: the
value at bar t is a function of the segment's bars up to t, bit for bit.
Prices are first divided by the power of two next to the segment's first close.
That is exact in floating point, and makes TA-Lib's absolute epsilons (1e-14)
mean the same at 60,000 and at 1e-8.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import talib
from talib import MA_Type

from configs.needs import warmup_bars
from configs.schema import FeaturesConfig
from training.indicators import commodity_channel_index, ratio, window_moments, window_sum
from training.market import Bars, segment_bounds

FEATURE_NAMES = (
    "log_return_a",
    "log_return_b",
    "log_return_c",
    "log_return_d",
    "sma_a",
    "sma_b",
    "sma_c",
    "ema_a",
    "ema_b",
    "ema_c",
    "rsi",
    "macd",
    "macd_signal",
    "macd_histogram",
    "bollinger_percent_b",
    "bollinger_width",
    "atr",
    "adx",
    "plus_di",
    "minus_di",
    "cci",
    "stochastic_k",
    "stochastic_d",
    "volume_zscore",
    "obv_change",
    "volatility",
)
"""Column order; the letters stand for the windows in the order of the configuration."""

MARKET_OBSERVATION = ("log_return_a", "volume_zscore", "rsi", "macd_histogram", "bollinger_percent_b")
"""Columns of the market block of an agent's observation; `log_return_a` is over one bar by default."""


def compute(bars: Bars, config: FeaturesConfig) -> np.ndarray:
    """All features of all bars.

    Values where a formula divides by zero: constant prices give 0 in every column but %b, which is 0.5; zero
    or constant volume gives a z-score of 0, zero volume an OBV change of 0. RSI is 0 without any change of
    price and the DIs are 0 without any range, as in TA-Lib; ADX then keeps its last value.

    Returns:
        (N, 26) float64, a column-major view; rows before the longest warm-up of their segment are NaN throughout.
    """
    columns = np.empty((len(FEATURE_NAMES), len(bars)))
    warmup = warmup_bars(config)
    for start, stop in segment_bounds(bars.segment):
        if stop - start > warmup:
            for column, values in zip(columns, segment_columns(bars.slice(start, stop), config), strict=True):
                column[start:stop] = values
        columns[:, start : min(start + warmup, stop)] = np.nan
    return columns.T


def segment_columns(bars: Bars, config: FeaturesConfig) -> Iterator[np.ndarray]:
    """The columns of one segment in order, each NaN in its own warm-up only; the segment must outlast them all."""
    _, exponent = np.frexp(bars.close[0])
    high, low, close = (np.ldexp(price, -exponent) for price in (bars.high, bars.low, bars.close))
    yield from (log_return(close, lag) for lag in config.return_bars)
    yield from (close / talib.SMA(close, window) - 1 for window in config.sma_windows)
    yield from (close / talib.EMA(close, window) - 1 for window in config.ema_windows)
    yield talib.RSI(close, config.rsi_period)
    yield from (line / close for line in talib.MACD(close, *config.macd))
    yield from _bollinger(close, config)
    yield talib.ATR(high, low, close, config.atr_period) / close
    for indicator in (talib.ADX, talib.PLUS_DI, talib.MINUS_DI):
        yield indicator(high, low, close, config.adx_period)
    yield commodity_channel_index((high + low + close) / 3, config.cci_period)
    range_bars, smooth_k, smooth_d = config.stochastic
    yield from talib.STOCH(high, low, close, range_bars, smooth_k, MA_Type.SMA, smooth_d, MA_Type.SMA)
    yield from _volume(close, bars.volume, config)
    yield _volatility(close, config.volatility_window)


def log_return(close: np.ndarray, lag: int) -> np.ndarray:
    """log(close_t / close_{t - lag}), NaN in the first `lag` places."""
    values = np.full(close.size, np.nan)
    np.log(close[lag:] / close[:-lag], out=values[lag:])
    return values


def _bollinger(close: np.ndarray, config: FeaturesConfig) -> Iterator[np.ndarray]:
    offset, deviation = window_moments(close, config.bollinger_period)
    half_width = config.bollinger_deviations * deviation
    yield 0.5 - ratio(offset, 2 * half_width)
    yield 2 * half_width / (close + offset)


def _volume(close: np.ndarray, volume: np.ndarray, config: FeaturesConfig) -> Iterator[np.ndarray]:
    offset, deviation = window_moments(volume, config.volume_window)
    yield -ratio(offset, deviation)
    signed = np.zeros(close.size)
    np.multiply(np.sign(np.diff(close)), volume[1:], out=signed[1:])
    change = ratio(window_sum(signed, config.obv_window), window_sum(volume, config.obv_window))
    change[: config.obv_window] = np.nan
    yield change


def _volatility(close: np.ndarray, window: int) -> np.ndarray:
    deviation = np.full(close.size, np.nan)
    _, deviation[1:] = window_moments(np.log(close[1:] / close[:-1]), window)
    return deviation

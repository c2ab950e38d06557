"""26 features of 1,000,000 bars: ours, the same columns in pandas, and the bare TA-Lib calls, in one run on one core.

pandas: rolling and ewm forms of the same definitions; its EMAs start at the first bar, so its
first bars differ. TA-Lib: each indicator called once on the whole series, nothing made of it.
Run: `python benchmarks/features.py [--bars N]`.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import numpy as np
import pandas as pd
import talib

from configs.load import resolve
from configs.needs import warmup_bars
from configs.schema import FeaturesConfig
from training.features import FEATURE_NAMES, compute
from training.market import Bars

REPEATS = 3
TARGET_S = 0.5


def main() -> int:
    """Time the three and check that ours and pandas agree."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bars", type=int, default=1_000_000)
    n = parser.parse_args().bars
    config = resolve("EUR-USD_1H", "quick").config.features
    bars = random_walk(n)
    ours_s, ours = best_of(lambda: compute(bars, config))
    pandas_s, theirs = best_of(lambda: in_pandas(bars, config))
    floor_s, _ = best_of(lambda: bare_talib(bars, config))
    print(f"26 features x {n:,} bars, one core, best of {REPEATS}")
    print(f"  ours          {ours_s:7.3f} s  (target {TARGET_S} s for 1,000,000)")
    print(f"  pandas        {pandas_s:7.3f} s  {pandas_s / ours_s:.1f} x ours")
    print(f"  bare TA-Lib   {floor_s:7.3f} s  {floor_s / ours_s:.2f} x ours: the floor, no ratios made of its lines")
    late = slice(max(warmup_bars(config), n - 1_000), n)  # the seeds of recursive filters are forgotten there
    worst = max(
        np.max(np.abs(ours[late, column] - theirs[name].to_numpy()[late]) / (1e-3 + np.abs(ours[late, column])))
        for column, name in enumerate(FEATURE_NAMES)
    )
    print(f"  largest relative difference between ours and pandas on the last 1,000 bars: {worst:.1e}")
    return 0


def best_of(work: Callable[[], object]) -> tuple[float, object]:
    """Shortest wall time of `REPEATS` calls, in seconds, and the last result."""
    times = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        result = work()
        times.append(time.perf_counter() - began)
    return min(times), result


def random_walk(n: int) -> Bars:
    """Hourly bars of a random walk near 60,000."""
    rng = np.random.default_rng(0)
    close = 60_000 * np.exp(np.cumsum(rng.normal(0, 0.002, n)))
    opened = np.concatenate([[60_000.0], close[:-1]])
    high = np.maximum(opened, close) * (1 + rng.exponential(0.001, n))
    low = np.minimum(opened, close) * (1 - rng.exponential(0.001, n))
    t = np.arange(n) * 3_600
    return Bars(t, opened, high, low, close, rng.lognormal(3, 1, n), np.zeros(n, np.int32), 3_600)


def in_pandas(bars: Bars, config: FeaturesConfig) -> pd.DataFrame:
    """The 26 columns with pandas' rolling and ewm."""
    high, low, close, volume = (pd.Series(getattr(bars, name)) for name in ("high", "low", "close", "volume"))
    log = np.log(close)
    columns = [
        *(log.diff(lag) for lag in config.return_bars),
        *(close / close.rolling(window).mean() - 1 for window in config.sma_windows),
        *(close / close.ewm(span=window, adjust=False).mean() - 1 for window in config.ema_windows),
        *momentum_in_pandas(close, config),
        *ranges_in_pandas(high, low, close, config),
    ]
    mean = volume.rolling(config.volume_window)
    columns.append((volume - mean.mean()) / mean.std(ddof=0))
    signed = np.sign(close.diff()).fillna(0) * volume
    columns.append(signed.rolling(config.obv_window).sum() / volume.rolling(config.obv_window).sum())
    columns.append(log.diff().rolling(config.volatility_window).std(ddof=0))
    return pd.DataFrame(dict(zip(FEATURE_NAMES, columns, strict=True)))


def momentum_in_pandas(close: pd.Series, config: FeaturesConfig) -> list[pd.Series]:
    """RSI, MACD (3) and Bollinger (2)."""
    change = close.diff()
    gain, loss = (wilder(side.clip(lower=0), config.rsi_period) for side in (change, -change))
    fast, slow, signal = config.macd
    line = close.ewm(span=fast, adjust=False).mean() - close.ewm(span=slow, adjust=False).mean()
    average = line.ewm(span=signal, adjust=False).mean()
    window = close.rolling(config.bollinger_period)
    middle, half_width = window.mean(), config.bollinger_deviations * window.std(ddof=0)
    return [
        100 * gain / (gain + loss),
        line / close,
        average / close,
        (line - average) / close,
        (close - middle + half_width) / (2 * half_width),
        2 * half_width / middle,
    ]


def ranges_in_pandas(high: pd.Series, low: pd.Series, close: pd.Series, config: FeaturesConfig) -> list[pd.Series]:
    """ATR, ADX, +DI, -DI, CCI and the stochastic (2)."""
    before = close.shift()
    true_range = np.maximum(high - low, np.maximum((high - before).abs(), (low - before).abs()))
    up, down = high.diff(), -low.diff()
    spread = wilder(true_range, config.adx_period)
    plus = 100 * wilder(up.where((up > down) & (up > 0), 0.0), config.adx_period) / spread
    minus = 100 * wilder(down.where((down > up) & (down > 0), 0.0), config.adx_period) / spread
    directional = 100 * (plus - minus).abs() / (plus + minus)
    typical = (high + low + close) / 3
    mean = typical.rolling(config.cci_period).mean()
    # pandas has no rolling mean deviation; `rolling.apply` would take minutes.
    windows = np.lib.stride_tricks.sliding_window_view(typical.to_numpy(), config.cci_period)
    deviation = np.full(len(typical), np.nan)
    deviation[config.cci_period - 1 :] = np.abs(windows - windows.mean(axis=1, keepdims=True)).mean(axis=1)
    range_bars, smooth_k, smooth_d = config.stochastic
    bottom, top = low.rolling(range_bars).min(), high.rolling(range_bars).max()
    slow_k = (100 * (close - bottom) / (top - bottom)).rolling(smooth_k).mean()
    return [
        wilder(true_range, config.atr_period) / close,
        wilder(directional, config.adx_period),
        plus,
        minus,
        (typical - mean) / (0.015 * deviation),
        slow_k,
        slow_k.rolling(smooth_d).mean(),
    ]


def wilder(values: pd.Series, period: int) -> pd.Series:
    """Wilder's smoothing."""
    return values.ewm(alpha=1 / period, adjust=False).mean()


def bare_talib(bars: Bars, config: FeaturesConfig) -> None:
    """Every indicator of the 26 columns called once."""
    high, low, close = bars.high, bars.low, bars.close
    for lag in config.return_bars:
        talib.ROCP(close, lag)
    for window in config.sma_windows:
        talib.SMA(close, window)
    for window in config.ema_windows:
        talib.EMA(close, window)
    talib.RSI(close, config.rsi_period)
    talib.MACD(close, *config.macd)
    talib.BBANDS(close, config.bollinger_period)
    talib.ATR(high, low, close, config.atr_period)
    for indicator in (talib.ADX, talib.PLUS_DI, talib.MINUS_DI):
        indicator(high, low, close, config.adx_period)
    talib.CCI(high, low, close, config.cci_period)
    talib.STOCH(high, low, close, *config.stochastic[:2], talib.MA_Type.SMA, config.stochastic[2], talib.MA_Type.SMA)
    talib.OBV(close, bars.volume)
    for series in (bars.volume, close):
        talib.STDDEV(series, config.volume_window)


if __name__ == "__main__":
    raise SystemExit(main())

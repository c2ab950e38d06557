"""The 26 features: TA-Lib's definitions by another road, and nothing from the future."""

import math
from dataclasses import replace

import numpy as np
import pytest
import talib
from hypothesis import given, settings
from hypothesis import strategies as st

from configs.needs import column_warmups, warmup_bars
from tests.training.feature_samples import bars_of, changed_after, config_of, flat, random_walk
from training.features import FEATURE_NAMES, MARKET_OBSERVATION, compute, segment_columns
from training.indicators import commodity_channel_index, window_moments, window_sum

CRYPTO, FX = config_of().features, config_of("EUR-USD_1H").features
ZERO_WHEN_FLAT = [name for name in FEATURE_NAMES if name != "bollinger_percent_b"]


def columns(bars, config):
    return dict(zip(FEATURE_NAMES, segment_columns(bars, config), strict=True))


# -- definitions, by direct loops ------------------------------------------------------------------------------


def wilder(values, period, start):
    """Mean of the first `period` values from `start` on, then S = (S (n - 1) + x) / n."""
    out = np.full(len(values), np.nan)
    out[start + period - 1] = sum(values[start : start + period]) / period
    for i in range(start + period, len(values)):
        out[i] = (out[i - 1] * (period - 1) + values[i]) / period
    return out


def ema(values, period, start=0):
    out = np.full(len(values), np.nan)
    out[start + period - 1] = sum(values[start : start + period]) / period
    for i in range(start + period, len(values)):
        out[i] = out[i - 1] + 2 / (period + 1) * (values[i] - out[i - 1])
    return out


def rolling(function, values, period):
    return np.array(
        [math.nan] * (period - 1) + [function(values[i - period + 1 : i + 1]) for i in range(period - 1, len(values))]
    )


def loop_rsi(close, period):
    change = np.diff(close, prepend=close[0])
    gain, loss = wilder(np.maximum(change, 0), period, 1), wilder(np.maximum(-change, 0), period, 1)
    return 100 * gain / (gain + loss)


def loop_macd(close, fast, slow, signal):
    line = ema(close, fast, slow - fast) - ema(close, slow)
    average = ema(line, signal, slow - 1)
    line = np.where(np.isnan(average), np.nan, line)
    return line / close, average / close, (line - average) / close


def true_range(high, low, close):
    before = np.concatenate([[np.nan], close[:-1]])
    return np.fmax(high - low, np.fmax(abs(high - before), abs(low - before)))


def loop_directional(high, low, close, period):
    up, down = np.diff(high, prepend=high[0]), -np.diff(low, prepend=low[0])
    plus = np.where((up > down) & (up > 0), up, 0.0)
    minus = np.where((down > up) & (down > 0), down, 0.0)
    ranges = true_range(high, low, close)

    def smoothed(values):
        out, total = np.full(len(values), np.nan), sum(values[1:period])
        for i in range(period, len(values)):
            total = total - total / period + values[i]
            out[i] = total
        return out

    plus_di, minus_di = (100 * smoothed(x) / smoothed(ranges) for x in (plus, minus))
    dx = 100 * abs(plus_di - minus_di) / (plus_di + minus_di)
    return wilder(dx, period, period), plus_di, minus_di


def loop_stochastic(high, low, close, range_bars, smooth_k, smooth_d):
    top, bottom = rolling(max, high, range_bars), rolling(min, low, range_bars)
    slow_k = rolling(np.mean, 100 * (close - bottom) / (top - bottom), smooth_k)
    slow_d = rolling(np.mean, slow_k, smooth_d)
    return np.where(np.isnan(slow_d), np.nan, slow_k), slow_d


def loop_features(bars, config):
    high, low, close, volume = bars.high, bars.low, bars.close, bars.volume
    log = np.log(close)
    yield from (np.concatenate([[np.nan] * lag, log[lag:] - log[:-lag]]) for lag in config.return_bars)
    yield from (close / rolling(np.mean, close, n) - 1 for n in config.sma_windows)
    yield from (close / ema(close, n) - 1 for n in config.ema_windows)
    yield loop_rsi(close, config.rsi_period)
    yield from loop_macd(close, *config.macd)
    n, k = config.bollinger_period, config.bollinger_deviations
    middle, deviation = rolling(np.mean, close, n), rolling(np.std, close, n)
    yield (close - middle + k * deviation) / (2 * k * deviation)
    yield 2 * k * deviation / middle
    yield wilder(true_range(high, low, close), config.atr_period, 1) / close
    yield from loop_directional(high, low, close, config.adx_period)
    typical = (high + low + close) / 3
    mean_deviation = rolling(lambda w: np.mean(abs(w - np.mean(w))), typical, config.cci_period)
    yield (typical - rolling(np.mean, typical, config.cci_period)) / (0.015 * mean_deviation)
    yield from loop_stochastic(high, low, close, *config.stochastic)
    n = config.volume_window
    yield (volume - rolling(np.mean, volume, n)) / rolling(np.std, volume, n)
    obv = np.cumsum(np.sign(np.diff(close, prepend=close[0])) * volume)
    n = config.obv_window
    change = np.concatenate([[np.nan] * n, obv[n:] - obv[:-n]])
    yield change / rolling(sum, volume, n)
    yield rolling(np.std, np.diff(log, prepend=np.nan), config.volatility_window)


@pytest.mark.parametrize("config", [CRYPTO, FX], ids=["crypto", "fx"])
@pytest.mark.parametrize("price", [60_000, 1.0, 1e-8])
def test_features_equal_their_definitions_in_direct_loops(config, price):
    bars = random_walk(300, seed=3, price=price)
    for name, got, wanted in zip(
        FEATURE_NAMES, segment_columns(bars, config), loop_features(bars, config), strict=True
    ):
        np.testing.assert_allclose(got, wanted, rtol=1e-9, atol=1e-12, err_msg=name)


def test_own_window_statistics_equal_talib_where_talib_is_exact():
    bars = random_walk(3_000, seed=4)
    offset, deviation = window_moments(bars.close, 20)
    upper, middle, lower = talib.BBANDS(bars.close, 20, 2.0, 2.0)
    np.testing.assert_allclose(bars.close + offset, middle, rtol=1e-12)
    np.testing.assert_allclose(4 * deviation, upper - lower, rtol=1e-6)
    typical = (bars.high + bars.low + bars.close) / 3
    wanted = talib.CCI(bars.high, bars.low, bars.close, 20)
    np.testing.assert_allclose(commodity_channel_index(typical, 20), wanted, rtol=1e-9, atol=1e-8)
    np.testing.assert_allclose(window_sum(bars.volume, 20), talib.SUM(bars.volume, 20), rtol=1e-9)


def test_obv_change_equals_the_difference_of_talib_obv():
    bars = random_walk(500, seed=5)
    obv = talib.OBV(bars.close, bars.volume)
    wanted = (obv[20:] - obv[:-20]) / talib.SUM(bars.volume, 20)[20:]
    np.testing.assert_allclose(columns(bars, CRYPTO)["obv_change"][20:], wanted, rtol=1e-9, atol=1e-12)


# -- vectors published with TA-Lib: the first 40 of the 252 daily bars of its regression suite (test_data.c) --------

HIGH = """93.25 94.94 96.375 96.19 96 94.72 95 93.72 92.47 92.75 96.25 99.625 99.125 92.75 91.315 93.25 93.405 90.655
91.97 92.25 90.345 88.5 88.25 85.5 84.44 84.75 84.44 89.405 88.125 89.125 87.155 87.25 87.375 88.97 90 89.845 86.97
85.94 84.75 85.47"""
LOW = """90.75 91.405 94.25 93.5 92.815 93.5 92 89.75 89.44 90.625 92.75 96.315 96.03 88.815 86.75 90.94 88.905 88.78
89.25 89.75 87.5 86.53 84.625 82.28 81.565 80.875 81.25 84.065 85.595 85.97 84.405 85.095 85.5 85.53 87.875 86.565
84.655 83.25 82.565 83.44"""
CLOSE = """91.5 94.815 94.375 95.095 93.78 94.625 92.53 92.75 90.315 92.47 96.125 97.25 98.5 89.875 91 92.815 89.155
89.345 91.625 89.875 88.375 87.625 84.78 83 83.5 81.375 84.44 89.25 86.375 86.25 85.25 87.125 85.815 88.97 88.47
86.875 86.815 84.875 84.19 83.875"""
PUBLISHED = [  # feature, bar, value of the indicator, its tolerance; test_{rsi,macd,bbands,per_hlc,adx,ma,stoch}.c
    ("rsi", 14, 49.14, 0.01),
    ("rsi", 15, 52.32, 0.01),
    ("rsi", 16, 46.07, 0.01),
    ("macd", 33, -1.9738, 1e-4),
    ("macd_signal", 33, -2.7071, 1e-4),
    ("macd_histogram", 33, -1.9738 + 2.7071, 1e-4),
    ("bollinger_width", 19, (98.0734 - 87.7086) / 92.8910, 2e-5),
    ("bollinger_percent_b", 19, (89.875 - 87.7086) / (98.0734 - 87.7086), 2e-5),
    ("atr", 14, 0.039321, 1e-6),
    ("atr", 15, 0.037576, 1e-6),
    ("plus_di", 14, 20, 0.51),
    ("minus_di", 14, 30, 0.51),
    ("adx", 27, 23, 0.51),
    ("adx", 28, 22, 0.51),
    ("cci", 10, 87.927, 0.001),
    ("cci", 11, 180.005, 0.001),
    ("cci", 12, 143.5190963, 1e-6),
    ("cci", 13, -113.8669783, 1e-6),
    ("cci", 30, -0.005587727, 1e-7),
    ("sma_a", 1, 93.15, 0.01),
    ("sma_b", 29, 90.42, 0.01),
    ("sma_b", 30, 90.21, 0.01),
    ("ema_a", 2, 93.96, 0.01),
    ("ema_b", 9, 93.22, 0.01),
    ("ema_b", 10, 93.75, 0.01),
    ("ema_b", 29, 86.46, 0.01),
    ("stochastic_k", 8, 24.0128, 1e-3),
    ("stochastic_d", 8, 36.254, 1e-3),
]


@pytest.mark.parametrize(("name", "bar", "value", "tolerance"), PUBLISHED)
def test_features_give_the_values_published_with_talib(name, bar, value, tolerance):
    high, low, close = (np.array([float(word) for word in text.split()]) for text in (HIGH, LOW, CLOSE))
    config = FX.model_copy(
        update={"sma_windows": (2, 30, 30), "ema_windows": (2, 10, 10), "cci_period": 11, "stochastic": (5, 3, 3)}
    )
    got = columns(bars_of(close, high, low, close, np.ones(close.size)), config)[name][bar]
    if name.startswith(("sma", "ema")):
        got = close[bar] / (1 + got)
    if name.startswith("macd"):
        got = got * close[bar]
    assert got == pytest.approx(value, abs=tolerance)


# -- the law: no value depends on a later bar ------------------------------------------------------------------


def test_no_feature_changes_when_all_later_bars_do_at_every_bar_of_a_small_series():
    bars = random_walk(150, seed=1)
    whole = compute(bars, CRYPTO)
    rng = np.random.default_rng(2)
    for t in range(len(bars) - 1):
        other = compute(changed_after(bars, t, rng), CRYPTO)
        assert whole[: t + 1].tobytes() == other[: t + 1].tobytes(), f"a feature at or before bar {t} changed"


@settings(max_examples=25)
@given(t=st.integers(60, 9_500), seed=st.integers(0, 2**32 - 1), scale=st.sampled_from([60_000, 1.0, 1e-8]))
def test_no_feature_changes_when_all_later_bars_do(t, seed, scale):
    bars = random_walk(9_700, seed=6, price=scale, segments=(4_000, 4_020, 8_193))
    whole, other = compute(bars, FX), compute(changed_after(bars, t, np.random.default_rng(seed)), FX)
    assert whole[: t + 1].tobytes() == other[: t + 1].tobytes()


@settings(max_examples=25)
@given(stop=st.integers(1, 9_700))
def test_features_of_a_prefix_are_a_prefix_of_the_features(stop):
    bars = random_walk(9_700, seed=6, segments=(4_000, 4_020, 8_193))
    whole, prefix = compute(bars, CRYPTO), compute(bars.slice(0, stop), CRYPTO)
    assert whole[:stop].tobytes() == prefix.tobytes()


@pytest.mark.parametrize("t", [60, 100, 149])
def test_every_feature_changes_when_its_own_bar_does(t):
    bars = random_walk(150, seed=1)
    own = {name: getattr(bars, name).copy() for name in ("open", "high", "low", "close", "volume")}
    for name, factor in (("close", 1.013), ("high", 1.05), ("low", 0.96), ("volume", 3.0)):
        own[name][t] *= factor
    before, after = compute(bars, CRYPTO), compute(replace(bars, **own), CRYPTO)
    same = [name for name, old, new in zip(FEATURE_NAMES, before[t], after[t], strict=True) if old == new]
    assert not same
    assert before[:t].tobytes() == after[:t].tobytes()


# -- segments and warm-up --------------------------------------------------------------------------------------


def test_each_segment_is_computed_as_if_it_were_alone():
    bars = random_walk(700, seed=8, segments=(200, 230, 500))
    whole = compute(bars, FX)
    for start, stop in ((0, 200), (200, 230), (230, 500), (500, 700)):
        assert compute(bars.slice(start, stop), FX).tobytes() == whole[start:stop].tobytes()


@pytest.mark.parametrize("config", [CRYPTO, FX], ids=["crypto", "fx"])
def test_each_column_starts_where_it_declares(config):
    found = columns(random_walk(120), config).items()
    for (name, values), warmup in zip(found, column_warmups(config), strict=True):
        assert np.flatnonzero(np.isfinite(values))[0] == warmup, name
        assert np.isfinite(values[warmup:]).all(), name


def test_rows_before_the_longest_warmup_are_missing_throughout():
    bars = random_walk(200, segments=(100, 120))
    ready = ~np.isnan(compute(bars, CRYPTO))
    wanted = np.zeros((200, 26), bool)
    wanted[warmup_bars(CRYPTO) : 100] = True
    wanted[120 + warmup_bars(CRYPTO) :] = True
    np.testing.assert_array_equal(ready, wanted)


def test_warmup_of_the_asset_classes():
    assert warmup_bars(CRYPTO) == 26 + 9 - 2
    assert warmup_bars(FX) == 49  # SMA 50


def test_a_segment_no_longer_than_its_warmup_has_no_row():
    assert np.isnan(compute(random_walk(warmup_bars(FX)), FX)).all()
    assert np.isfinite(compute(random_walk(warmup_bars(FX) + 1), FX)[-1]).all()


def test_there_are_26_features_and_the_market_observation_is_five_of_them():
    assert len(set(FEATURE_NAMES)) == 26
    assert len(set(MARKET_OBSERVATION) & set(FEATURE_NAMES)) == 5


# -- degenerate markets and scales -----------------------------------------------------------------------------


@pytest.mark.parametrize("price", [60_000, 0.1, 1.1, 1e-8])
@pytest.mark.parametrize("volume", [0.0, 0.1, 1e9])
def test_a_constant_market_has_defined_values(price, volume):
    row = dict(zip(FEATURE_NAMES, compute(flat(200, price, volume), CRYPTO)[-1], strict=True))
    assert row["bollinger_percent_b"] == 0.5
    for name in ZERO_WHEN_FLAT:
        assert abs(row[name]) < 1e-12, name


@settings(max_examples=50)
@given(seed=st.integers(0, 2**32 - 1), price=st.sampled_from([60_000, 1.0, 1e-8]))
def test_features_are_finite_in_markets_that_stand_still_for_a_while(seed, price):
    rng = np.random.default_rng(seed)
    moves = rng.normal(0, 0.02, 400) * np.repeat(rng.integers(0, 2, 8), 50)
    close = price * np.exp(np.cumsum(moves))
    volume = np.repeat(rng.integers(0, 2, 8), 50) * rng.lognormal(0, 3, 400)
    rows = compute(bars_of(close, close, close, close, volume), CRYPTO)[warmup_bars(CRYPTO) :]
    assert np.isfinite(rows).all()
    bounded = {"rsi": (0, 100), "stochastic_k": (0, 100), "adx": (0, 100), "obv_change": (-1, 1)}
    for name, (low, high) in bounded.items():
        values = rows[:, FEATURE_NAMES.index(name)]
        assert low - 1e-9 <= values.min() and values.max() <= high + 1e-9, name


def test_a_market_that_only_rises_is_at_the_top_of_every_oscillator():
    close = np.exp(np.arange(200) * 0.01)
    row = dict(zip(FEATURE_NAMES, compute(bars_of(close, close, close, close, np.ones(200)), CRYPTO)[-1], strict=True))
    wanted = {"rsi": 100, "stochastic_k": 100, "stochastic_d": 100, "adx": 100, "minus_di": 0, "obv_change": 1}
    assert row == row | {name: pytest.approx(value, abs=1e-9) for name, value in wanted.items()}
    assert row["log_return_b"] == pytest.approx(0.05) and row["volatility"] == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("factor", [2.0**40, 2.0**-40])
def test_a_power_of_two_in_the_price_changes_no_bit(factor):
    bars = random_walk(500, seed=9)
    scaled = {name: getattr(bars, name) * factor for name in ("open", "high", "low", "close")}
    assert compute(replace(bars, **scaled), FX).tobytes() == compute(bars, FX).tobytes()


@settings(max_examples=25)
@given(price=st.floats(1e-8, 1e6), volume=st.floats(1e-6, 1e9))
def test_features_do_not_depend_on_the_units_of_price_and_volume(price, volume):
    bars = random_walk(300, seed=10)
    scaled = {name: getattr(bars, name) * price for name in ("open", "high", "low", "close")}
    other = replace(bars, **scaled, volume=bars.volume * volume)
    np.testing.assert_allclose(compute(other, CRYPTO), compute(bars, CRYPTO), rtol=1e-9, atol=1e-9)


def test_rounding_does_not_grow_over_a_long_series():
    bars = random_walk(200_000, seed=11, price=60_000, sigma=0.002)
    late = compute(bars, CRYPTO)[-1_000:]
    fresh = compute(bars.slice(len(bars) - 6_000, len(bars)), CRYPTO)[-1_000:]
    np.testing.assert_allclose(late, fresh, rtol=1e-7, atol=1e-9)

"""DEMO-USD_1H: synthetic hourly bars for trying the program without any data.

Two years of a driftless price with GARCH(1,1) volatility (Bollerslev 1986), three
volatility regimes and a few missing stretches. Nothing in it can be predicted
but its volatility: an agent that finds an edge here has found a fault.

The bytes are equal on every machine and numpy version: random numbers are raw
Philox words, normal draws are sums of twelve uniform integers (Irwin-Hall),
and only + - * / and square roots touch floats, so no rounding depends on a
math library or on the order of a vectorised sum.
"""

from __future__ import annotations

import math

import numpy as np

from training.market import Bars, make_bars

SERIES = "DEMO-USD_1H"
ROWS = 17_520
"""Two years of hours."""
SEED = 3
"""The first from 1 on whose price stays within a factor of two of its start; nothing else was looked at."""
FIRST_T = 1_672_531_200
"""2023-01-01T00:00Z."""
TIMEFRAME_S = 3_600
MAX_GAP_S = 6 * TIMEFRAME_S
"""As for every hourly series of its asset class."""
MISSING_HOURS = ((1_711, 2), (5_003, 5), (9_118, 9), (12_640, 3), (15_777, 30))
"""(first hour, hours) without bars: three stay inside a segment, two start a new one."""

FIRST_PRICE = 100.0
PATH_STEPS = 12
"""Price moves inside one bar; high and low are the extremes of this path."""
HOURLY_SIGMA = 0.003
"""Standard deviation of an hourly return at relative variance 1 in the normal regime."""
ALPHA, BETA = 0.08, 0.90
REGIME_SIGMA = (0.6, 1.0, 2.0)
"""Volatility of the calm, normal and nervous regime, as multiples."""
REGIME_STAY = 0.995
"""Probability per hour to stay: 200 hours on average."""
SUMMANDS = 12
WORD_BITS = 32


def demo_bars(max_gap_s: int = MAX_GAP_S) -> Bars:
    """The 17,520 bars of DEMO-USD_1H, segments cut at gaps longer than `max_gap_s`."""
    hours = ROWS + sum(count for _, count in MISSING_HOURS)
    normals, uniforms = _draws(hours)
    sums = np.cumsum(normals, axis=1)  # integers: exact in any order
    regimes = _regimes(uniforms[:, 0].tolist())
    opens, sigmas = _hourly_path(sums[:, -1].tolist(), regimes)
    path = opens[:, None] * (1.0 + sigmas[:, None] * _standard(sums))
    low = np.minimum(opens, path.min(axis=1))
    high = np.maximum(opens, path.max(axis=1))
    volume = 1_000.0 * (0.5 + uniforms[:, 1]) * (0.5 + (high - low) / (opens * HOURLY_SIGMA))
    kept = np.ones(hours, dtype=bool)
    for first, count in MISSING_HOURS:
        kept[first : first + count] = False
    prices = [np.round(column[kept], 5) for column in (opens, high, low, path[:, -1])]
    t = FIRST_T + TIMEFRAME_S * np.flatnonzero(kept).astype(np.int64)
    return make_bars(t, [*prices, np.round(volume[kept], 3)], timeframe_s=TIMEFRAME_S, max_gap_s=max_gap_s)


def _draws(hours: int) -> tuple[np.ndarray, np.ndarray]:
    """(hours, PATH_STEPS) centred integer sums, nearly normal, and (hours, 2) uniforms in [0, 1)."""
    words = np.random.Philox(key=SEED).random_raw(hours * (PATH_STEPS * SUMMANDS // 2 + 2))
    uniforms = (words[: 2 * hours] >> np.uint64(11)) * 2.0**-53
    halves = np.stack([words[2 * hours :] >> np.uint64(WORD_BITS), words[2 * hours :] & np.uint64(2**WORD_BITS - 1)])
    # twice each word minus its largest value is centred on zero exactly
    centred = 2 * halves.astype(np.int64) - (2**WORD_BITS - 1)
    return centred.reshape(hours, PATH_STEPS, SUMMANDS).sum(axis=2), uniforms.reshape(hours, 2)


def _standard(sums: np.ndarray) -> np.ndarray:
    """Integer sums as draws of which PATH_STEPS together have variance one."""
    # twelve uniforms on +-1/2 have variance one; a centred word spans 2 * 2**WORD_BITS
    return sums / (2.0 * 2.0**WORD_BITS) / math.sqrt(PATH_STEPS)


def _regimes(uniforms: list[float]) -> list[float]:
    """Volatility multiple of each hour: a Markov chain that stays, or moves to one of the two others."""
    regime, multiples = 1, []
    for u in uniforms:
        if u >= REGIME_STAY:
            step = 1 if u < (1.0 + REGIME_STAY) / 2.0 else 2
            regime = (regime + step) % len(REGIME_SIGMA)
        multiples.append(REGIME_SIGMA[regime])
    return multiples


def _hourly_path(last_sums: list[int], multiples: list[float]) -> tuple[np.ndarray, np.ndarray]:
    """Open and volatility of each hour; the next hour opens where this one closed."""
    price, relative_variance = FIRST_PRICE, 1.0
    opens, sigmas = [], []
    scale = 2.0 * 2.0**WORD_BITS
    for last_sum, multiple in zip(last_sums, multiples, strict=True):
        opens.append(price)
        sigma = HOURLY_SIGMA * multiple * math.sqrt(relative_variance)
        sigmas.append(sigma)
        draw = last_sum / scale / math.sqrt(PATH_STEPS)
        price = price * (1.0 + sigma * draw)
        relative_variance = (1.0 - ALPHA - BETA) + (ALPHA * draw * draw + BETA) * relative_variance
    return np.array(opens), np.array(sigmas)

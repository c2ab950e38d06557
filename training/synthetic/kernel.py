"""The compiled part of the synthetic worlds; all of it is in this one file on purpose: numba's cache of a function
does not notice a change of a callee in another file.

Shapes: T = bars of a scenario, P = moves inside one bar, R = regimes, G = stages of a script.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from training.synthetic.parameters import BEAR, BULL, CRASH, RANGE, REGIMES, Parameters, stationary_shares

ALPHA, BETA, VOLUME, ELASTICITY, NOISE, TYPICAL_RANGE = range(6)
"""Numbers that hold in every regime."""
DRIFT, SCALE, INTENSITY, NO_JUMP, JUMP_MEAN, JUMP_DEVIATION = range(6)
"""Numbers of a regime, in log price per bar; DRIFT already less the jumps' mean effect."""
FIRST_BAR, END_BAR, GOAL, MULTIPLE, GAP = range(5)
"""Columns of a script's stages: bars [first, end); log price to reach at the end, relative to the stage's first
open (NaN: none); multiple of volatility; log jump before the first open."""
STAGE_FIELDS = 5
FIRST_LOG_PRICE = math.log(100.0)
VARIANCE_CAP = 50.0
"""h is held below this multiple of its mean: fitted GARCHs near integration would leave any price range."""
LOG_PRICE_LIMIT = 300.0
"""Far beyond any world that is meant, and well inside what a float holds."""
MOST_JUMPS = 20
"""Of one bar; the Poisson inversion ends there."""
RANGE_FLOOR = 0.02
"""A bar's range counts for its volume as at least this share of the typical one."""
UNIFORMS = 3
EXTRA_NORMALS = 2
"""Draws per bar beside its P normal moves, see `play`."""

compiled = njit(cache=True)


def world_tables(parameters: Parameters) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The process as the kernel reads it: (6,) numbers, (R, 6) numbers of each regime, (R + 1, R) arrivals."""
    p = parameters
    numbers = np.array([p.alpha, p.beta, p.volume, p.volume_elasticity, p.volume_noise, p.typical_range])
    return numbers, _regime_table(p), _arrival_table(p)


def _regime_table(parameters: Parameters) -> np.ndarray:
    rows = []
    for regime in parameters.regimes:
        mean, deviation = regime.jump_mean * parameters.volatility, regime.jump_deviation * parameters.volatility
        kappa = math.expm1(mean + deviation * deviation / 2)  # Merton's compensation
        drift = regime.drift * parameters.volatility - regime.jump_intensity * kappa
        scale = regime.volatility * parameters.volatility
        rows.append((drift, scale, regime.jump_intensity, math.exp(-regime.jump_intensity), mean, deviation))
    return np.array(rows)


def _arrival_table(parameters: Parameters) -> np.ndarray:
    """Cumulative probabilities of the next regime, row by row; the last row is that of the first bar."""
    transitions = np.array(parameters.transitions)
    table = np.cumsum(np.vstack([transitions, stationary_shares(transitions)]), axis=1)
    table[:, len(REGIMES) - 1] = 1.0  # rounding must not leave a draw without a regime
    return table


@compiled
def _first_above(cumulative, u):
    place = 0
    while u >= cumulative[place] and place < cumulative.shape[0] - 1:
        place += 1
    return place


@compiled
def _poisson(u, intensity, none):
    """Count whose cumulative probability first exceeds `u`, by inversion; `none` = exp(-intensity)."""
    count, probability, cumulative = 0, none, none
    while u >= cumulative and count < MOST_JUMPS:
        count += 1
        probability *= intensity / count
        cumulative += probability
    return count


@compiled
def _move(log_price, drift, scale, jump, jump_step, draws):
    """Walk through one bar: last, highest and lowest log price, and the sum of its standardised moves."""
    steps = draws.shape[0] - EXTRA_NORMALS
    per_step = 1.0 / math.sqrt(steps)
    top, bottom, total = log_price, log_price, 0.0
    for step in range(steps):
        draw = draws[step] * per_step
        total += draw
        log_price += drift / steps + scale * draw
        if step == jump_step:
            log_price += jump
        top, bottom = max(top, log_price), min(bottom, log_price)
    return log_price, top, bottom, total


@compiled
def _within(log_price):
    """A price that no float holds is none: the wildest worlds stay at the limit."""
    return min(max(log_price, -LOG_PRICE_LIMIT), LOG_PRICE_LIMIT)


@compiled
def _write_bar(numbers, opened, path, noise, bar):
    """Write open, high, low, close, volume; the extremes include both ends also where exp rounds."""
    last, top, bottom = path
    close = math.exp(last)
    bar[0] = opened
    bar[1] = max(math.exp(top), opened, close)
    bar[2] = min(math.exp(bottom), opened, close)
    bar[3] = close
    width = max((top - bottom) / numbers[TYPICAL_RANGE], RANGE_FLOOR)
    bar[4] = numbers[VOLUME] * math.exp(numbers[ELASTICITY] * math.log(width) + numbers[NOISE] * noise)
    return close


@compiled
def play(world, stages, normals, uniforms, prices, regimes):
    """Write one scenario.

    Args:
        world: from `world_tables`.
        stages: (G, 5) stages of the crash script, each beginning where the one before ends; (0, 5) for none.
        normals: (T, P + 2) standard normal draws: moves, jump size, volume.
        uniforms: (T, 3) draws in [0, 1): next regime, jump count, the jump's place inside the bar.
        prices: (5, T) receives open, high, low, close, volume.
        regimes: (T,) int8 receives the regime of each bar.

    Returns:
        Number of jumps.
    """
    numbers, table, arrivals = world
    alpha, beta = numbers[ALPHA], numbers[BETA]
    bars, steps = normals.shape[0], normals.shape[1] - EXTRA_NORMALS
    log_price, h, regime, jumps, stage, goal = FIRST_LOG_PRICE, 1.0, len(REGIMES), 0, 0, 0.0
    close = math.exp(log_price)
    for t in range(bars):
        regime = _first_above(arrivals[regime], uniforms[t, 0])
        regimes[t] = regime
        row = table[regime]
        scale, drift = row[SCALE] * math.sqrt(h), row[DRIFT]
        if stage < stages.shape[0] and t >= stages[stage, FIRST_BAR]:
            if t == stages[stage, FIRST_BAR]:
                log_price += stages[stage, GAP]
                close = math.exp(log_price)
                goal = log_price + stages[stage, GOAL]
            scale *= stages[stage, MULTIPLE]
            if not math.isnan(goal):
                # pulled so that the stage ends at its goal, but for the noise of its last bar
                drift = (goal - log_price) / (stages[stage, END_BAR] - t) + 0.5 * scale * scale
            if t == stages[stage, END_BAR] - 1:
                stage += 1
        count = _poisson(uniforms[t, 1], row[INTENSITY], row[NO_JUMP])
        jumps += count
        jump = count * row[JUMP_MEAN] + math.sqrt(count) * row[JUMP_DEVIATION] * normals[t, steps]
        jump_step = int(uniforms[t, 2] * steps)
        log_price, top, bottom, total = _move(
            log_price, drift - 0.5 * scale * scale, scale, jump, jump_step, normals[t]
        )
        log_price, top, bottom = _within(log_price), _within(top), _within(bottom)
        close = _write_bar(numbers, close, (log_price, top, bottom), normals[t, steps + 1], prices[:, t])
        h = min((1.0 - alpha - beta) + (alpha * total * total + beta) * h, VARIANCE_CAP)
    return jumps


@compiled
def local_deviation(returns, segment, window, out):
    """Write the deviation of each bar's return without jumps, from the `window` returns before it; NaN without them.

    Bipower variation, pi / 2 x mean |r_j| |r_{j-1}| (Barndorff-Nielsen & Shephard 2004), which one jump hardly moves.
    """
    total, known = 0.0, 0
    for t in range(returns.shape[0]):
        if t > 0 and segment[t] != segment[t - 1]:
            total, known = 0.0, 0
        out[t] = math.sqrt(0.5 * math.pi * total / (window - 1)) if known == window else math.nan
        if known > 0:
            total += abs(returns[t]) * abs(returns[t - 1])
        if known == window:
            oldest = t - window
            total = max(total - abs(returns[oldest]) * abs(returns[oldest + 1]), 0.0)
        else:
            known += 1


@compiled
def filtered_regimes(returns, segment, deviation, windows, thresholds, out):
    """Write the regime of each bar as known before it, from the returns that precede it in its segment; -1 unknown.

    Args:
        returns: (n,) log returns.
        segment: (n,) their segments.
        deviation: of a return; scores are sums of returns over deviation x sqrt(window).
        windows: bars of the trend's and of the crash's trailing window, the trend's being the longer.
        thresholds: scores at which a trend begins and ends, a crash begins and ends.
        out: (n,) int8.
    """
    trend_bars, crash_bars = windows
    trend_in, trend_out, crash_in, crash_out = thresholds
    trend, crash, known, state = 0.0, 0.0, 0, RANGE
    for t in range(returns.shape[0]):
        if t > 0 and segment[t] != segment[t - 1]:
            trend, crash, known, state = 0.0, 0.0, 0, RANGE
        out[t] = -1
        if known >= trend_bars:
            score = trend / (deviation * math.sqrt(trend_bars))
            fall = crash / (deviation * math.sqrt(crash_bars))
            if fall < (crash_out if state == CRASH else crash_in):
                state = CRASH
            elif score > (trend_out if state == BULL else trend_in):
                state = BULL
            elif score < -(trend_out if state == BEAR else trend_in):
                state = BEAR
            else:
                state = RANGE
            out[t] = state
        trend += returns[t]
        crash += returns[t]
        if known >= trend_bars:
            trend -= returns[t - trend_bars]
        if known >= crash_bars:
            crash -= returns[t - crash_bars]
        known += 1

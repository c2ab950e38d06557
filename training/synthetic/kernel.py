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
MOST_JUMPS = 20
"""Of one bar; the Poisson inversion ends there."""
RANGE_FLOOR = 0.02
"""A bar's range counts for its volume as at least this share of the typical one."""
UNIFORMS = 3
"""Per bar: next regime, jump count, jump's place inside the bar."""
EXTRA_NORMALS = 2
"""Per bar beside the P moves: jump size, volume."""

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
def play(world, stages, normals, uniforms, prices, regimes):
    """Write one scenario.

    Args:
        world: from `world_tables`.
        stages: (G, 5) stages of the crash script in time order, not overlapping; (0, 5) for none.
        normals: (T, P + 2) standard normal draws.
        uniforms: (T, 3) draws in [0, 1).
        prices: (5, T) receives open, high, low, close, volume.
        regimes: (T,) int8 receives the regime of each bar.

    Returns:
        Number of jumps.
    """
    numbers, table, arrivals = world
    bars, steps = normals.shape[0], normals.shape[1] - EXTRA_NORMALS
    per_step = 1.0 / math.sqrt(steps)
    alpha, beta = numbers[ALPHA], numbers[BETA]
    h, log_price, jumps, stage = 1.0, FIRST_LOG_PRICE, 0, 0
    close, goal = math.exp(log_price), 0.0
    regime = len(REGIMES)
    for t in range(bars):
        regime = _first_above(arrivals[regime], uniforms[t, 0])
        regimes[t] = regime
        row = table[regime]
        scale = row[SCALE] * math.sqrt(h)
        drift = row[DRIFT]
        if stage < stages.shape[0] and t >= stages[stage, END_BAR]:
            stage += 1
        if stage < stages.shape[0] and t >= stages[stage, FIRST_BAR]:
            if t == stages[stage, FIRST_BAR]:
                log_price += stages[stage, GAP]
                close = math.exp(log_price)
                goal = log_price + stages[stage, GOAL]
            scale *= stages[stage, MULTIPLE]
            if not math.isnan(goal):
                # pulled so that the stage ends at its goal, but for the noise of its last bar
                drift = (goal - log_price) / (stages[stage, END_BAR] - t) + 0.5 * scale * scale
        drift = (drift - 0.5 * scale * scale) / steps
        jump, jump_step, count = 0.0, -1, 0
        if uniforms[t, 1] >= row[NO_JUMP]:
            count = _poisson(uniforms[t, 1], row[INTENSITY], row[NO_JUMP])
            jump = count * row[JUMP_MEAN] + math.sqrt(count) * row[JUMP_DEVIATION] * normals[t, steps]
            jump_step = int(uniforms[t, 2] * steps)
            jumps += count
        top, bottom, total = log_price, log_price, 0.0
        for step in range(steps):
            draw = normals[t, step] * per_step
            total += draw
            log_price += drift + scale * draw
            if step == jump_step:
                log_price += jump
            top, bottom = max(top, log_price), min(bottom, log_price)
        prices[0, t] = close
        close = math.exp(log_price)
        # the extremes include both ends also where exp rounds
        prices[1, t] = max(math.exp(top), prices[0, t], close)
        prices[2, t] = min(math.exp(bottom), prices[0, t], close)
        prices[3, t] = close
        width = max((top - bottom) / numbers[TYPICAL_RANGE], RANGE_FLOOR)
        noise = numbers[NOISE] * normals[t, steps + 1]
        prices[4, t] = numbers[VOLUME] * math.exp(numbers[ELASTICITY] * math.log(width) + noise)
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

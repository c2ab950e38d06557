"""Rolling-window statistics whose value depends on the window's own numbers alone.

TA-Lib's Bollinger bands and CCI lose their meaning where a window is constant or a price is
far from 1 (E[x^2] - E[x]^2 and absolute epsilons). Here each window is summed relative to its newest value:
a constant window has deviation exactly 0, and no rounding is carried from bar to bar.
All functions take a float64 array and return arrays of its length, NaN in the first `window - 1` places.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

BLOCK = 4_096
"""Values worked on at a time, so that every temporary stays in the processor's cache."""


def window_sum(x: np.ndarray, window: int) -> np.ndarray:
    """Sum of the last `window` values."""
    total = np.full(x.size, np.nan)
    for start, stop in _blocks(x.size, window):
        block = x[start:stop].copy()
        for lag in range(1, window):
            block += x[start - lag : stop - lag]
        total[start:stop] = block
    return total


def window_moments(x: np.ndarray, window: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean minus newest value, and population standard deviation, of the last `window` values."""
    offset, deviation = np.full(x.size, np.nan), np.full(x.size, np.nan)
    for start, stop in _blocks(x.size, window):
        mean, square = np.zeros(stop - start), np.zeros(stop - start)
        for lag in range(1, window):
            difference = x[start - lag : stop - lag] - x[start:stop]
            mean += difference
            difference *= difference
            square += difference
        mean /= window
        square /= window
        square -= mean * mean
        offset[start:stop] = mean
        deviation[start:stop] = np.sqrt(np.maximum(square, 0.0, out=square), out=square)
    return offset, deviation


def commodity_channel_index(typical: np.ndarray, window: int) -> np.ndarray:
    """CCI: (x - mean) / (0.015 x mean absolute deviation about the same mean); 0 where the window is constant.

    Args:
        typical: (high + low + close) / 3.
        window: bars, at least 2.
    """
    index = np.full(typical.size, np.nan)
    for start, stop in _blocks(typical.size, window):
        newest = typical[start:stop]
        mean = np.zeros(stop - start)
        for lag in range(1, window):
            mean += typical[start - lag : stop - lag] - newest
        mean /= window
        absolute = np.abs(mean)
        for lag in range(1, window):
            difference = typical[start - lag : stop - lag] - newest
            difference -= mean
            absolute += np.abs(difference, out=difference)
        index[start:stop] = ratio(-mean, absolute * (0.015 / window))
    return index


def ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """`numerator / denominator`, and 0 where the denominator is 0."""
    return np.divide(numerator, denominator, out=np.zeros(numerator.shape), where=denominator != 0)


def _blocks(size: int, window: int) -> Iterator[tuple[int, int]]:
    for start in range(window - 1, size, BLOCK):
        yield start, min(start + BLOCK, size)

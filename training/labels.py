"""Fall / Stationary / Rise labels: where the mean of the next k closes lies.

Sources: FI-2010 (arXiv:1705.03233) and DeepLOB methods 1 and 2 (arXiv:1808.03668), with k terms in both means.
p_t is the close, m+ = mean(p_{t+1..t+k}), m- = mean(p_{t-k+1..t}).
"""

from __future__ import annotations

import numpy as np

from configs.errors import BadDataError
from configs.schema import LabelsConfig
from training.indicators import window_moments
from training.market import Bars, segment_bounds

FALL, STATIONARY, RISE = -1, 0, 1


def label_values(bars: Bars, config: LabelsConfig) -> np.ndarray:
    """l_t of every bar, a fraction of the price; NaN where its window leaves the segment.

    `forward`: (m+ - p_t) / p_t. `smoothed`: (m+ - m-) / m-; part of it is known at t (see `known_part`): on a
    pure random walk that part alone calls 57.4 % right at k = 20 and 58.9 % at long horizons, delta at 1/3.
    """
    horizon = config.horizon_bars
    past = _past_means(bars, horizon)
    base = bars.close if config.kind == "forward" else past
    values = np.full(len(bars), np.nan)
    for start, stop in segment_bounds(bars.segment):
        if stop - start > horizon:
            here, ahead = slice(start, stop - horizon), slice(start + horizon, stop)
            values[here] = past[ahead] / base[here] - 1
    return values


def known_part(bars: Bars, config: LabelsConfig) -> np.ndarray:
    """(p_t - m-) / m-: what is known at t of a `smoothed` label; NaN in the first k - 1 bars of a segment."""
    return bars.close / _past_means(bars, config.horizon_bars) - 1


def fit_delta(values: np.ndarray, rows: np.ndarray, config: LabelsConfig) -> float:
    """The threshold on |l_t|: the fixed one, or the quantile of |l_t| on `rows`, a model's own training rows.

    Raises:
        BadDataError: there is no row, or one has no label.
    """
    if config.delta != "auto":
        return float(config.delta)
    own = np.abs(values[rows])
    if own.size == 0 or np.isnan(own).any():
        raise BadDataError(
            f"the label threshold needs training rows with labels, got {own.size} rows, "
            f"{np.isnan(own).sum()} of them without a label; use more bars or a shorter labels.horizon_bars"
        )
    return float(np.quantile(own, config.auto_quantile))


def classes(values: np.ndarray, delta: float) -> np.ndarray:
    """Rise (1) where l_t > delta, Fall (-1) where l_t < -delta, else Stationary (0); int8.

    A row without a label (NaN) reads 0: mask such rows first.
    """
    return (values > delta).astype(np.int8) - (values < -delta).astype(np.int8)


def _past_means(bars: Bars, window: int) -> np.ndarray:
    means = np.full(len(bars), np.nan)
    for start, stop in segment_bounds(bars.segment):
        close = bars.close[start:stop]
        offset, _ = window_moments(close, window)
        means[start:stop] = close + offset
    return means

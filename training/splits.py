"""Chronological splits, out-of-fold parts and purging; positions of bars only, no data.

k = label horizon in bars. A model that predicts from bar f on trains on bars
i <= f - 1 - k, so every label it is fitted with is complete before f. No bar
after f is dropped: an embargo is needed only where training data follows test data.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from configs.calendar import month_start, shifted
from configs.needs import MIN_PART_HORIZONS, bars_before_window, first_rows, test_bars
from configs.schema import Config, SplitsConfig


@dataclass(frozen=True)
class Split:
    """Half-open ranges of bars that cover the whole series in time order."""

    train: tuple[int, int]
    validation: tuple[int, int]
    test: tuple[int, int]


@dataclass(frozen=True)
class Fold:
    """One model of a forward chain: which bars it may be fitted on and which it predicts."""

    fit_start: int
    """Training rows are not below this: 0 where the chain expands."""
    fit_stop: int
    """Training rows are below this: `predict_start - k`."""
    predict_start: int
    predict_stop: int


def split(n_bars: int, config: SplitsConfig) -> Split:
    """Cut `n_bars` into train, validation and test by the configured shares; test is the rest."""
    train_stop = round(n_bars * config.train_frac)
    validation_stop = round(n_bars * (config.train_frac + config.validation_frac))
    return Split((0, train_stop), (train_stop, validation_stop), (validation_stop, n_bars))


def folds(parts: Split, n_folds: int, horizon: int) -> list[Fold]:
    """The out-of-fold chain over the train part, then the final model for validation and test.

    The train part is cut into `n_folds + 1` equal pieces; piece 0 gets no prediction, each
    later piece is predicted by a model fitted on earlier bars only. The last
    fold of the list is the model fitted on the whole train part.
    """
    start, stop = parts.train
    edges = [start + (stop - start) * piece // (n_folds + 1) for piece in range(n_folds + 2)]
    edges.append(parts.test[1])
    pieces = zip(edges[1:-1], edges[2:], strict=True)
    return [Fold(start, max(start, first - horizon), first, last) for first, last in pieces]


def training_rows(
    first_predicted: int, horizon: int, usable: np.ndarray | None = None, first_fitted: int = 0
) -> np.ndarray:
    """Rows that a model predicting from bar `first_predicted` on may be fitted with.

    Args:
        first_predicted: f; rows i <= f - 1 - k are taken.
        horizon: k.
        usable: (N,) bool, rows that have a window and a label; all by default.
        first_fitted: rows before this are left out.

    Returns:
        int64 row numbers, rising.
    """
    stop = max(0, first_predicted - horizon)
    rows = np.arange(stop) if usable is None else np.flatnonzero(usable[:stop])
    return rows[rows >= first_fitted]


def month_rows(t: np.ndarray, first: str, last: str) -> tuple[int, int]:
    """Half-open range of the bars of months `first` to `last`, both included."""
    start, stop = np.searchsorted(t, [month_start(first), month_start(shifted(last, 1))])
    return int(start), int(stop)


def month_counts(t: np.ndarray, segment: np.ndarray, before: int, horizon: int) -> dict[str, dict[str, int]]:
    """What each calendar month with a bar has for models and agents.

    Args:
        t: (N,) opens of the bars.
        segment: (N,) of each bar.
        before: bars of its segment that stand before the first window's last bar.
        horizon: k.

    Returns:
        Month -> `samples`, bars that end a window and have a label; `steps`, bars that end a window and whose next bar
        lies in the same segment and month.
    """
    rows, month = np.arange(t.size), t.astype("datetime64[s]").astype("datetime64[M]")
    ready = window_ready(segment, before, 1)
    stop = np.searchsorted(segment, segment, side="right")  # segments are numbered in order
    month_stop = np.searchsorted(month, month, side="right")
    samples, steps = ready & (rows + horizon < stop), ready & (rows + 1 < np.minimum(stop, month_stop))
    return {
        str(name): {"samples": int(samples[month == name].sum()), "steps": int(steps[month == name].sum())}
        for name in np.unique(month)
    }


def tail_start(rows: tuple[int, int], config: Config) -> int:
    """First of the last bars of a window's training months; they select its agents, and measure the ablation's."""
    start, stop = rows
    return stop - math.ceil((stop - start) * config.walk_forward.early_stop_frac)


def early_stop_split(
    rows: np.ndarray, horizon: int, early_stop_frac: float, first_unseen: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Divide a model's own training rows into those that fit weights and the last share, that decides the epoch.

    Rows whose label reads a bar of the second group are left out of the first. Rows before `first_unseen`
    never decide: the weights that a model starts from were fitted on them.
    """
    stopping = rows[rows.size - math.ceil(rows.size * early_stop_frac) :]
    stopping = stopping[stopping >= first_unseen]
    fitting = rows[rows <= stopping[0] - 1 - horizon] if stopping.size else rows
    return fitting, stopping


def window_ready(segment: np.ndarray, warmup: int, lookback: int) -> np.ndarray:
    """(N,) bool: the `lookback` bars that end here lie in one segment, all past its warm-up of `warmup` bars."""
    position = np.arange(segment.size)
    first = np.zeros(segment.size, dtype=np.int64)
    starts = np.flatnonzero(np.diff(segment)) + 1
    first[starts] = starts
    return position - np.maximum.accumulate(first) >= warmup + lookback - 1


def bars_needed(config: Config) -> int:
    """Bars, in one segment, from which on every model and every part has enough to work with."""
    test_frac = 1 - config.splits.train_frac - config.splits.validation_frac
    return math.ceil(
        max(
            (first_piece_bars(config) * (config.classifiers.folds + 1) + 1) / config.splits.train_frac,
            (validation_bars(config) + 1) / config.splits.validation_frac,
            (test_bars(config) + 1) / test_frac,
        )
    )


def first_piece_bars(config: Config) -> int:
    """Fewest bars of the train part's first piece: warm-up, one window, a purge and the rows of the first model."""
    return bars_before_window(config) + config.labels.horizon_bars + first_rows(config)


def validation_bars(config: Config) -> int:
    """Fewest bars of the validation part."""
    return config.ppo.eval_slices * MIN_PART_HORIZONS * config.labels.horizon_bars

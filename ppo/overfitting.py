"""Probability of backtest overfitting: how often the best of several strategies so far is below their median later.

Source: Bailey, Borwein, Lopez de Prado & Zhu 2017, "The Probability of Backtest Overfitting", J. Computational
Finance 20(4): combinatorially symmetric cross-validation. The bars are cut into S blocks; each half of the blocks
chooses the strategy with the highest Sharpe ratio, and the other half ranks it.
T = bars, N = strategies, S = blocks, K = combinations.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations
from typing import Any

import numpy as np

BLOCKS = 16
LEAST_BLOCK_RETURNS = 10
"""A Sharpe ratio of fewer returns says nothing."""


def overfitting(returns: Mapping[str, np.ndarray], blocks: int = BLOCKS) -> dict[str, Any] | None:
    """Probability of backtest overfitting over a trial matrix.

    Args:
        returns: strategy -> (T,) returns of the same bars, simple, per bar.
        blocks: S, even; fewer, still even, where they would be shorter than `LEAST_BLOCK_RETURNS`.

    Returns:
        JSON values: probability (share of the combinations whose chosen strategy ranks below the median afterwards; one
        that is the median counts half, so that chance gives one half with any number of strategies),
        loss_probability (share whose chosen strategy loses afterwards), median_logit, blocks, combinations and
        chosen_frac (strategy -> share of the combinations that choose it); None with fewer than two strategies
        or too few returns.
    """
    matrix_TN = np.column_stack(list(returns.values()))
    count, strategies = matrix_TN.shape
    blocks = min(blocks, count // LEAST_BLOCK_RETURNS // 2 * 2)
    if blocks < 2 or strategies < 2:
        return None
    halves = [(chosen, tuple(set(range(blocks)) - set(chosen))) for chosen in combinations(range(blocks), blocks // 2)]
    table = _Blocks(matrix_TN, blocks)
    inside_KN, outside_KN = (table.sharpes(np.array(half)) for half in zip(*halves, strict=True))
    best_K = inside_KN.argmax(axis=1)
    of_best = np.arange(len(best_K)), best_K
    own_K1 = outside_KN[of_best][:, None]
    below_K, equal_K = (outside_KN < own_K1).sum(axis=1), (outside_KN == own_K1).sum(axis=1)
    rank_K = (below_K + (equal_K + 1) / 2) / (strategies + 1)  # of equals the mean of their ranks
    logit_K = np.log(rank_K / (1 - rank_K))
    chosen = np.bincount(best_K, minlength=strategies) / len(best_K)
    return {
        "probability": float(np.mean(logit_K < 0) + np.mean(logit_K == 0) / 2),
        "loss_probability": float(np.mean(outside_KN[of_best] < 0)),
        "median_logit": float(np.median(logit_K)),
        "blocks": blocks,
        "combinations": len(best_K),
        "chosen_frac": dict(zip(returns, chosen.tolist(), strict=True)),
    }


class _Blocks:
    """Sums over contiguous blocks of bars, from which the Sharpe ratio of any set of blocks follows."""

    def __init__(self, matrix_TN: np.ndarray, blocks: int) -> None:
        parts = np.array_split(matrix_TN, blocks)
        self._mean_N = matrix_TN.mean(axis=0)  # taken out: sums of squares of small numbers cancel less
        self._count_S = np.array([len(part) for part in parts])
        self._sum_SN = np.array([(part - self._mean_N).sum(axis=0) for part in parts])
        self._square_SN = np.array([((part - self._mean_N) ** 2).sum(axis=0) for part in parts])
        self._low_SN = np.array([part.min(axis=0) for part in parts])
        self._high_SN = np.array([part.max(axis=0) for part in parts])

    def sharpes(self, chosen_KH: np.ndarray) -> np.ndarray:
        """(K, N) ratio of mean to deviation (ddof 1) on each row's blocks; 0 where returns never vary."""
        count = self._count_S[chosen_KH].sum(axis=1)[:, None]
        total, square = self._sum_SN[chosen_KH].sum(axis=1), self._square_SN[chosen_KH].sum(axis=1)
        varies = self._high_SN[chosen_KH].max(axis=1) > self._low_SN[chosen_KH].min(axis=1)
        deviation = np.sqrt(np.maximum(square - total**2 / count, 0) / (count - 1))
        mean = self._mean_N + total / count
        return np.divide(mean, deviation, out=np.zeros_like(mean), where=varies & (deviation > 0))

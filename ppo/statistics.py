"""Statistics of one series of returns: Sharpe ratio with its uncertainty, drawdown, deflation.

Everything takes simple returns per bar, and ratios are per bar unless a name
says otherwise: multiply by sqrt(bars per year) to annualise. The risk-free rate
is 0. A series without any variation (an account that never traded) has ratio 0.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from training.metrics import stationary_bootstrap_indices

EULER_GAMMA = 0.5772156649015329
BOOTSTRAP_CELLS = 1_000_000
"""Resampled returns held at once; each takes about 40 bytes of work space."""
NORMAL = NormalDist()


@dataclass(frozen=True)
class Moments:
    """What the distribution theory of the Sharpe ratio needs of a series."""

    n: int
    sharpe: float
    """Mean over standard deviation (ddof 1)."""
    skew: float
    kurtosis: float
    """Raw: 3 for a normal."""


def moments(returns: np.ndarray) -> Moments:
    """Sharpe ratio, skew and kurtosis of a series (skew and kurtosis are the biased sample moments)."""
    n = len(returns)
    centred = returns - returns.mean() if n else returns
    variance = float(np.mean(centred**2)) if n else 0.0
    if n < 2 or variance == 0.0:
        return Moments(n, 0.0, 0.0, 3.0)
    skew = float(np.mean(centred**3)) / variance**1.5
    kurtosis = float(np.mean(centred**4)) / variance**2
    return Moments(n, float(returns.mean()) / math.sqrt(variance * n / (n - 1)), skew, kurtosis)


def sharpe_standard_error(series: Moments) -> float:
    """Standard error of a Sharpe ratio, for returns that are neither normal nor symmetric.

    Source: Mertens 2002; Bailey & Lopez de Prado 2012, eq. 8. Assumes independent returns;
    the bootstrap does not.
    """
    if series.n < 2:
        return math.inf
    at = series.sharpe
    return math.sqrt(max(0.0, 1 - series.skew * at + (series.kurtosis - 1) / 4 * at**2) / (series.n - 1))


def probabilistic_sharpe(series: Moments, benchmark: float = 0.0) -> float:
    """Probability that the true Sharpe ratio is above `benchmark` (PSR, Bailey & Lopez de Prado 2012, eq. 11)."""
    error = sharpe_standard_error(series)
    if error == 0.0 or math.isinf(error):
        return 0.5
    return NORMAL.cdf((series.sharpe - benchmark) / error)


def expected_max_sharpe(variance: float, trials: int) -> float:
    """Sharpe ratio expected of the best of `trials` without skill, whose ratios have this variance.

    Source: Bailey & Lopez de Prado 2014, "The Deflated Sharpe Ratio", eq. 1. One trial selects
    nothing, so it is 0.
    """
    if trials < 2:
        return 0.0
    first = NORMAL.inv_cdf(1 - 1 / trials)
    second = NORMAL.inv_cdf(1 - 1 / (trials * math.e))
    return math.sqrt(variance) * ((1 - EULER_GAMMA) * first + EULER_GAMMA * second)


def deflated_sharpe(series: Moments, trial_sharpes: list[float]) -> tuple[float, float]:
    """Deflated Sharpe ratio of `series`, the best of trials with these per-bar ratios, and its threshold SR0.

    Source: Bailey & Lopez de Prado 2014, eq. 2: DSR = PSR(SR0). One trial: PSR(0).
    """
    threshold = expected_max_sharpe(trial_variance(series.n, trial_sharpes), len(trial_sharpes))
    return probabilistic_sharpe(series, threshold), threshold


def trial_variance(n: int, trial_sharpes: list[float]) -> float:
    """Variance of the trials' per-bar ratios: of the distinct ones, at least that of no skill in `n` returns.

    Both are ours: equal agents scored again would otherwise shrink the variance and raise the deflated ratio.
    """
    if len(trial_sharpes) < 2:
        return 0.0
    distinct = sorted(set(trial_sharpes))
    variance = float(np.var(distinct, ddof=1)) if len(distinct) > 1 else 0.0
    return max(variance, 1 / max(n - 1, 1))


def optimal_block_bars(returns: np.ndarray) -> float:
    """Mean block of the stationary bootstrap, by Politis & White 2004 with the correction of Patton et al. 2009."""
    if len(returns) < 10 or np.ptp(returns) == 0.0:
        return 1.0
    from arch.bootstrap import optimal_block_length  # inner: 1 s of imports that most commands never need

    block = float(optimal_block_length(returns)["stationary"].iloc[0])
    return max(1.0, block) if math.isfinite(block) else 1.0


def bootstrap_sharpes(returns: np.ndarray, mean_block: float, samples: int, rng: np.random.Generator) -> np.ndarray:
    """Sharpe ratios (samples,) of stationary-bootstrap resamples (Politis & Romano 1994)."""
    if len(returns) < 2 or np.ptp(returns) == 0.0:
        return np.zeros(samples)
    return np.concatenate([_sharpes(returns[rows]) for rows in _resamples(len(returns), mean_block, samples, rng)])


def bootstrap_sharpe_differences(
    returns: np.ndarray, others: np.ndarray, mean_block: float, samples: int, rng: np.random.Generator
) -> np.ndarray:
    """Sharpe ratio of `returns` less that of `others`, (samples,), where the same bars of both are resampled."""
    if len(returns) < 2:
        return np.zeros(samples)
    drawn = _resamples(len(returns), mean_block, samples, rng)
    return np.concatenate([_sharpes(returns[rows]) - _sharpes(others[rows]) for rows in drawn])


def bootstrap_drawdowns(returns: np.ndarray, mean_block: float, samples: int, rng: np.random.Generator) -> np.ndarray:
    """Largest drawdowns (samples,) of stationary-bootstrap resamples."""
    if not len(returns):
        return np.zeros(samples)
    falls = []
    for rows in _resamples(len(returns), mean_block, samples, rng):
        equity = np.cumprod(1 + returns[rows], axis=1)
        peak = np.maximum(np.maximum.accumulate(equity, axis=1), 1.0)
        falls.append(np.max(1 - equity / peak, axis=1))
    return np.maximum(np.concatenate(falls), 0.0)


def _resamples(n: int, mean_block: float, samples: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Row numbers (some, n) of resamples, as many at once as memory should hold."""
    at_once = max(1, BOOTSTRAP_CELLS // n)
    for start in range(0, samples, at_once):
        yield stationary_bootstrap_indices(n, mean_block, min(at_once, samples - start), rng)


def _sharpes(drawn: np.ndarray) -> np.ndarray:
    """Sharpe ratio of each row; 0 where nothing varies."""
    deviation = drawn.std(axis=1, ddof=1)
    return np.divide(drawn.mean(axis=1), deviation, out=np.zeros(len(drawn)), where=deviation > 0)


def detectable_sharpe(n: int, confidence: float, power: float) -> float:
    """Smallest true Sharpe ratio that a one-sided test of "not above 0" finds with this power in `n` returns.

    To be found above a baseline of Sharpe b, about b more is needed.
    Source: Lo 2002 (independent normal returns): the estimate has variance (1 + SR^2 / 2) / n, so
    SR solves SR = z_confidence / sqrt(n) + z_power sqrt((1 + SR^2 / 2) / n). Infinite where no
    ratio, however high, would do.
    """
    a = NORMAL.inv_cdf(confidence) / math.sqrt(max(n, 1))
    b = NORMAL.inv_cdf(power) / math.sqrt(max(n, 1))
    quadratic = 1 - b**2 / 2
    if quadratic <= 0:
        return math.inf
    # (SR - a)^2 = b^2 (1 + SR^2 / 2), the root on b's side of a
    root = math.sqrt(a**2 - quadratic * (a**2 - b**2))
    return (a + math.copysign(root, b)) / quadratic


def sortino(returns: np.ndarray) -> float | None:
    """Mean over downside deviation about 0, per bar (all bars in the divisor); None without a losing bar."""
    if not len(returns):
        return None
    downside = math.sqrt(float(np.mean(np.minimum(returns, 0.0) ** 2)))
    return float(returns.mean()) / downside if downside > 0 else None


def max_drawdown(equity: np.ndarray) -> float:
    """Largest fall from a running peak, as a positive share of the peak."""
    return float(np.max(1 - equity / np.maximum.accumulate(equity))) if len(equity) else 0.0


def annual_return(total_return: float, years: float) -> float | None:
    """Compound return per year; None where it has no finite value."""
    if years <= 0 or total_return <= -1:
        return None
    try:
        return math.expm1(math.log1p(total_return) / years)
    except OverflowError:
        return None

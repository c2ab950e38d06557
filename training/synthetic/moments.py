"""What synthetic worlds look like in numbers: measured on any returns, and expected of parameters by theory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from training.market import Bars, segment_bounds
from training.synthetic.fit import sample_of
from training.synthetic.parameters import REGIMES, Parameters, stationary_shares
from training.synthetic.scripts import NONE
from training.synthetic.worlds import Worlds

LAGS = 50
PER_BARS = 10_000
JUMPS = "jumps_per_10000_bars"
SCENARIOS = 100
"""Enough for a picture; a million bars at 50 lags take half a second."""


def measured(series: Sequence[np.ndarray]) -> dict[str, Any]:
    """Volatility and kurtosis of a bar's log return, and autocorrelation of its square at lags 1 .. `LAGS`.

    Args:
        series: log returns of each scenario or segment; no product crosses from one to the next.
    """
    values = np.concatenate(series)
    variance = values.var()
    if not variance:
        return {"volatility": 0.0, "kurtosis": None, "acf_squared": None}
    mean, square_mean = values.mean(), np.mean(values**2)
    deviations = [part**2 - square_mean for part in series]
    total = sum(float(part @ part) for part in deviations)
    lagged = (sum(float(part[lag:] @ part[:-lag]) for part in deviations) for lag in range(1, LAGS + 1))
    return {
        "volatility": float(np.sqrt(variance)),
        "kurtosis": float(np.mean((values - mean) ** 4) / variance**2),
        "acf_squared": [product / total for product in lagged],
    }


def of_bars(bars: Bars) -> dict[str, Any]:
    """Moments of a real series; its jumps and regimes are those that the fit detects."""
    series = [np.diff(np.log(bars.close[start:stop])) for start, stop in segment_bounds(bars.segment)]
    sample = sample_of(bars)
    return measured(series) | {
        JUMPS: PER_BARS * float(sample.jump.mean()) if sample else None,
        "dwell_bars": _dwell(sample.regime[None]) if sample else None,
    }


def of_worlds(worlds: Worlds) -> dict[str, Any]:
    """Moments of the first `SCENARIOS` without a script; jumps and regimes are the true ones."""
    plain = [place for place, script in enumerate(worlds.script) if script == NONE][:SCENARIOS]
    if not plain:
        return measured([np.zeros(LAGS + 1)]) | {JUMPS: None, "dwell_bars": None}
    series = [np.diff(np.log(worlds.close[place])) for place in plain]
    bars = worlds.close.shape[1] * len(plain)
    jumps = int(worlds.tags["jumps"].to_numpy()[plain].sum())
    return measured(series) | {JUMPS: PER_BARS * jumps / bars, "dwell_bars": _dwell(worlds.regime[plain])}


def expected(parameters: Parameters) -> dict[str, Any]:
    """The same by theory, of an endless scenario; None for what has no finite value.

    Regimes multiply GARCH variance h of mean 1, jumps and drift add. With X = r - E[r | regime], kurtosis
    follows from the mixture's central moments; the covariance of squares at lag l from
    E[h_t eta_t^2 h_{t+l}] = 1 + (a + b)^(l - 1) (a (3 E[h^2] - 1) + b (E[h^2] - 1)) and E[h^2] of Bollerslev 1986.
    Drift is taken as constant within a regime: its part -s_t^2 / 2 is of the order of the variance.
    """
    rows, transitions = parameters.transitions, np.array(parameters.transitions)
    intensities = np.array([regime.jump_intensity for regime in parameters.regimes])
    shares = stationary_shares(transitions)
    dwell = [1 / (1 - row[place]) if shares[place] > 0 and row[place] < 1 else None for place, row in enumerate(rows)]
    kurtosis, acf, volatility = _fourth_moments(parameters, transitions, shares)
    return {
        "volatility": volatility,
        "kurtosis": kurtosis,
        "acf_squared": acf,
        JUMPS: PER_BARS * float(shares @ intensities),
        "dwell_bars": dict(zip(REGIMES, dwell, strict=True)),
    }


def _fourth_moments(
    parameters: Parameters, transitions: np.ndarray, shares: np.ndarray
) -> tuple[float | None, list[float] | None, float]:
    """Kurtosis, autocorrelation of squares, standard deviation of a bar's log return."""
    mean, diffusion, second, third, fourth = _regime_moments(parameters).T
    centred = mean - shares @ mean
    variance = float(shares @ (centred**2 + diffusion + second))
    alpha, persistence = parameters.alpha, parameters.persistence
    room = 1 - persistence**2 - 2 * alpha**2
    if room <= 0:
        return None, None, float(np.sqrt(variance))
    h_square = (1 - persistence**2) / room
    own = 3 * h_square * diffusion**2 + 6 * diffusion * second + fourth + 3 * second**2
    central = shares @ (centred**4 + 6 * centred**2 * (diffusion + second) + 4 * centred * third + own)
    raw_square = mean**2 + diffusion + second
    raw_fourth = mean**4 + 6 * mean**2 * (diffusion + second) + 4 * mean * third + own
    square_mean = shares @ raw_square
    spread = shares @ raw_fourth - square_mean**2
    step = alpha * (3 * h_square - 1) + (persistence - alpha) * (h_square - 1)
    acf, power = [], np.eye(len(shares))
    for lag in range(1, LAGS + 1):
        power = power @ transitions
        joint = shares[:, None] * power
        covariance = raw_square @ joint @ raw_square - square_mean**2
        covariance += (diffusion @ joint @ diffusion) * persistence ** (lag - 1) * step
        acf.append(float(covariance / spread))
    return float(central / variance**2), acf, float(np.sqrt(variance))


def _regime_moments(parameters: Parameters) -> np.ndarray:
    """(R, 5): mean of the log return, variance of its diffusion, and cumulants 2 to 4 of its jumps."""
    rows = []
    for regime in parameters.regimes:
        rate = regime.jump_intensity
        m, s = regime.jump_mean * parameters.volatility, regime.jump_deviation * parameters.volatility
        diffusion = (regime.volatility * parameters.volatility) ** 2
        drift = regime.drift * parameters.volatility - rate * np.expm1(m + s**2 / 2) - diffusion / 2
        cumulants = (m**2 + s**2, m**3 + 3 * m * s**2, m**4 + 6 * m**2 * s**2 + 3 * s**4)
        rows.append((drift + rate * m, diffusion, *(rate * cumulant for cumulant in cumulants)))
    return np.array(rows)


def _dwell(regimes: np.ndarray) -> dict[str, float | None]:
    """Mean bars of a stay, from the share of steps that leave; None where no stay was seen to end."""
    before, after = regimes[:, :-1], regimes[:, 1:]
    dwell: dict[str, float | None] = {}
    for place, name in enumerate(REGIMES):
        inside = before == place
        left = np.count_nonzero(inside & (after != place))
        dwell[name] = float(np.count_nonzero(inside) / left) if left else None
    return dwell

"""What a synthetic world is made of: the numbers of its process, and their preset values.

Process of a bar t with regime z_t (Markov chain over `REGIMES`), all in log price:

    h_t = (1 - a - b) + (a eta_{t-1}^2 + b) h_{t-1}                    GARCH(1,1), mean 1 (Bollerslev 1986)
    r_t = mu_z - s_t^2 / 2 - lambda_z kappa_z + s_t eta_t + J_t,       s_t = sigma v_z sqrt(h_t)

with eta_t standard normal, J_t the sum of Poisson(lambda_z) normal jumps and kappa_z = E[exp(jump)] - 1
(Merton 1976), so that E[close_t / close_{t-1}] = exp(mu_z). A regime's drift and jumps are kept in multiples of
sigma, so that they mean the same on every market and timeframe.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from configs.assets import DatasetName
from configs.schema import Config

REGIMES = ("bull", "bear", "range", "crash")
BULL, BEAR, RANGE, CRASH = range(4)


@dataclass(frozen=True)
class Regime:
    """One state of the market; drift and jump sizes in multiples of `Parameters.volatility`."""

    drift: float
    """Of the log of the expected price, per bar."""
    volatility: float
    """Multiple of the GARCH volatility."""
    jump_intensity: float
    """Expected jumps per bar."""
    jump_mean: float
    jump_deviation: float


@dataclass(frozen=True)
class Parameters:
    """Everything `generate` needs; plain numbers, each with where it came from."""

    volatility: float
    """sigma: unconditional standard deviation of a bar's log return without jumps, at volatility multiple 1."""
    alpha: float
    beta: float
    regimes: tuple[Regime, ...]
    """In the order of `REGIMES`."""
    transitions: tuple[tuple[float, ...], ...]
    """Row i: probabilities of the next bar's regime; the diagonal is the probability to stay."""
    volume: float
    """Median volume of a bar; 0 where the market reports none."""
    volume_elasticity: float
    """Growth of log volume with the log of the bar's range over `typical_range`."""
    volume_noise: float
    """Standard deviation of what is left of log volume."""
    typical_range: float
    """Median of log(high / low)."""
    source: dict[str, str] = field(default_factory=dict)
    """Name of a number (or of a group) -> `fitted` or `preset`, with the reason."""
    standard_errors: dict[str, float] = field(default_factory=dict)
    """Of the fitted numbers, where known."""

    def to_json(self) -> dict[str, Any]:
        """Plain values; floats survive the round trip exactly."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Parameters:
        """The parameters that `to_json` wrote."""
        regimes = tuple(Regime(**regime) for regime in value["regimes"])
        transitions = tuple(tuple(row) for row in value["transitions"])
        return cls(**value | {"regimes": regimes, "transitions": transitions})

    @property
    def persistence(self) -> float:
        """alpha + beta."""
        return self.alpha + self.beta


def stationary_shares(transitions: np.ndarray) -> np.ndarray:
    """(R,) long-run share of each regime: the left eigenvector of eigenvalue 1, by solving pi (P - I) = 0, sum 1."""
    size = len(transitions)
    equations = np.vstack([np.asarray(transitions).T - np.eye(size), np.ones(size)])
    shares = np.linalg.lstsq(equations, np.append(np.zeros(size), 1.0), rcond=None)[0]
    return np.clip(shares, 0.0, 1.0) / np.clip(shares, 0.0, 1.0).sum()


PRESET_REGIMES = (
    Regime(drift=0.02, volatility=0.9, jump_intensity=0.002, jump_mean=0.5, jump_deviation=4.0),
    Regime(drift=-0.02, volatility=1.1, jump_intensity=0.004, jump_mean=-0.5, jump_deviation=4.0),
    Regime(drift=0.0, volatility=0.8, jump_intensity=0.001, jump_mean=0.0, jump_deviation=3.0),
    Regime(drift=-0.15, volatility=2.5, jump_intensity=0.02, jump_mean=-2.0, jump_deviation=5.0),
)
"""A bull or bear market with an annual Sharpe ratio of about 2 on hourly bars, and a crash of a day and a half."""
PRESET_TRANSITIONS = (
    (0.9970, 0.0008, 0.0020, 0.0002),
    (0.0008, 0.9960, 0.0024, 0.0008),
    (0.0015, 0.0015, 0.9968, 0.0002),
    (0.0080, 0.0100, 0.0120, 0.9700),
)
PRESET = Parameters(
    volatility=0.005,
    alpha=0.08,
    beta=0.90,
    regimes=PRESET_REGIMES,
    transitions=PRESET_TRANSITIONS,
    volume=1_000.0,
    volume_elasticity=0.8,
    volume_noise=0.4,
    typical_range=0.006,
    source=dict.fromkeys(("volatility", "garch", *REGIMES, "transitions", "volume"), "preset"),
)
"""Of an hourly crypto market; `preset_parameters` sets the volatility of other markets."""
HOUR_S = 3_600


def preset_parameters(config: Config) -> Parameters:
    """`PRESET` at the volatility of the run's kind of market: its directional-change threshold, which is about one
    hour's standard deviation, scaled to the timeframe by the square root of time."""
    hours = DatasetName.parse(config.dataset.name).timeframe_s / HOUR_S
    volatility = config.market.directional_change_frac * math.sqrt(hours)
    scale = volatility / PRESET.volatility
    return replace(PRESET, volatility=volatility, typical_range=PRESET.typical_range * scale)

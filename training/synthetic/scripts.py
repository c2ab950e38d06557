"""Named crash scripts: stages that pull the price of a scenario along a known disaster.

A script is a list of stages (see `training.synthetic.kernel`); where it begins and how deep it goes
are drawn from the scenario's own stream.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from training.synthetic.kernel import STAGE_FIELDS

NONE = "none"
NO_GOAL = math.nan

Leg = tuple[float, float, float, float]
"""Bars, log price to reach relative to the leg's first open or NO_GOAL, volatility multiple, log gap before it."""


def flash_crash(bars: int, rng: np.random.Generator) -> list[Leg]:
    """25 to 50 % lost within a few bars, most of it won back within two days of hours."""
    fall = math.log(1 - rng.uniform(0.25, 0.5))
    back = -fall * rng.uniform(0.6, 0.9)
    return [(rng.uniform(2, 6), fall, 2.0, 0.0), (rng.uniform(12, 49), back, 2.0, 0.0)]


def slow_bleed(bars: int, rng: np.random.Generator) -> list[Leg]:
    """40 to 60 % lost over a fifth to a third of the scenario, in low volatility."""
    return [(bars * rng.uniform(0.2, 0.33), math.log(1 - rng.uniform(0.4, 0.6)), 0.7, 0.0)]


def gap_open(bars: int, rng: np.random.Generator) -> list[Leg]:
    """The next bar opens 10 to 25 % lower; volatility stays doubled for some days."""
    return [(rng.uniform(24, 97), NO_GOAL, 2.0, math.log(1 - rng.uniform(0.1, 0.25)))]


def volatility_spike(bars: int, rng: np.random.Generator) -> list[Leg]:
    """Volatility times 6 to 10 without a direction, fading in three steps."""
    peak = rng.uniform(6.0, 10.0)
    return [(rng.uniform(12, 49), NO_GOAL, peak * share, 0.0) for share in (1.0, 0.6, 0.3)]


def drawdown_80(bars: int, rng: np.random.Generator) -> list[Leg]:
    """More than 80 % lost in two falls with a rally between them."""
    first, rally, left = rng.uniform(0.4, 0.5), rng.uniform(1.2, 1.4), rng.uniform(0.12, 0.17)
    total = bars * rng.uniform(0.2, 0.33)
    return [
        (0.4 * total, math.log(first), 1.5, 0.0),
        (0.2 * total, math.log(rally), 1.5, 0.0),
        (0.4 * total, math.log(left / (first * rally)), 1.5, 0.0),
    ]


SCRIPTS: dict[str, Callable[[int, np.random.Generator], list[Leg]]] = {
    "flash_crash": flash_crash,
    "slow_bleed": slow_bleed,
    "gap_open": gap_open,
    "volatility_spike": volatility_spike,
    "drawdown_80": drawdown_80,
}


def script_of(index: int, scripted_frac: float) -> str:
    """Name of the script of scenario `index`, or `none`: evenly spaced, so that any run of scenarios holds its share.

    The k-th scripted scenario carries the k-th script, round and round.
    """
    before, upto = (math.floor(count * scripted_frac + 1e-9) for count in (index, index + 1))
    return list(SCRIPTS)[before % len(SCRIPTS)] if upto > before else NONE


def stages_of(script: str, bars: int, rng: np.random.Generator) -> np.ndarray:
    """(G, 5) stages of one scenario of `bars` bars; they begin in its middle half and end before its last bar."""
    if script == NONE:
        return np.empty((0, STAGE_FIELDS))
    first, rows = int(bars * rng.uniform(0.2, 0.6)), []
    for length, goal, multiple, gap in SCRIPTS[script](bars, rng):
        end = min(first + max(int(length), 1), bars)
        rows.append((first, end, goal, multiple, gap))
        first = end
    return np.array(rows)

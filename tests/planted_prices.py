"""Hourly bars of coins whose prices are known: driftless martingales, and coins that rise and fall by a law.

Such a coin has a sign that is drawn anew with probability 1 / `REGIME_BARS` a bar; the log return of a bar is
sign x drift + noise, and its volume is high while the sign is positive. So the sign is in the features, and who
follows it earns far more than the costs of the changes; moving averages are too slow for it. A martingale has
the same noise and no drift.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

FIRST_T = 1_672_531_200
"""2023-01-01T00:00Z."""
HOUR_S = 3_600
REGIME_BARS = 8
NOISE = 0.004
DRIFT = 0.003
PATH_STEPS = 4


def write_coin(directory: Path, symbol: str, hours: int, seed: int, drift: float) -> None:
    """Write `<symbol>_1H.csv`; coins of different seeds are independent."""
    rng = np.random.default_rng(seed)
    drawn = rng.random(hours) < 1 / REGIME_BARS
    drawn[0] = True
    sign = rng.choice([-1.0, 1.0], hours)[np.maximum.accumulate(np.where(drawn, np.arange(hours), 0))]
    moves = rng.normal(0, NOISE / PATH_STEPS**0.5, (hours, PATH_STEPS)) - NOISE**2 / 2 / PATH_STEPS
    moves += (sign * drift / PATH_STEPS)[:, None]
    path = 100 * np.exp(np.cumsum(moves.ravel()).reshape(hours, PATH_STEPS))
    opens = np.r_[100.0, path[:-1, -1]]
    frame = pd.DataFrame(
        {
            "timestamp": pd.to_datetime(FIRST_T + HOUR_S * np.arange(hours), unit="s", utc=True).strftime(
                "%Y-%m-%dT%H:%M:%SZ"
            ),
            "open": opens,
            "high": np.maximum(opens, path.max(axis=1)),
            "low": np.minimum(opens, path.min(axis=1)),
            "close": path[:, -1],
            "volume": np.exp(np.sign(drift) * 0.7 * sign + rng.normal(0, 0.3, hours)),
        }
    )
    directory.mkdir(parents=True, exist_ok=True)
    frame.to_csv(directory / f"{symbol}_1H.csv", index=False, float_format="%.8f")

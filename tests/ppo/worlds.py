"""Small synthetic tapes with known content, shared by the tests of the game and its agents."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from configs.schema import CostsConfig
from ppo.evaluate import Player
from ppo.tape import Tape

HOUR_S = 3_600
COSTS = CostsConfig(fee_frac=0.0025, slippage_frac=0.0005, borrow_frac_per_year=0.10)
FREE = CostsConfig(fee_frac=0.0, slippage_frac=0.0, borrow_frac_per_year=0.0)
BARS_PER_YEAR = 8_760.0


def make_tape(opens, highs, closes, observation=None, segment=None) -> Tape:
    """A tape of hourly bars from prices; rows are ready, observations zero where not given."""
    count = len(closes)
    opens, highs, closes = (np.asarray(prices, dtype=np.float64) for prices in (opens, highs, closes))
    return Tape(
        t=1_700_000_400 + HOUR_S * np.arange(count, dtype=np.int64),
        open=opens,
        high=highs,
        low=np.minimum(opens, closes),
        close=closes,
        segment=np.zeros(count, np.int32) if segment is None else np.asarray(segment, np.int32),
        timeframe_s=HOUR_S,
        observation=np.zeros((count, 1), np.float32) if observation is None else np.float32(observation),
        ready=np.ones(count, bool),
    )


def random_tape(count: int, seed: int, columns: int = 18, segments: int = 1, volatility: float = 0.01) -> Tape:
    """A random walk whose opens gap from the close before, with `columns` of noise, in equal segments."""
    rng = np.random.default_rng(seed)
    closes = 100 * np.exp(np.cumsum(rng.normal(0, volatility, count)))
    opens = np.r_[100.0, closes[:-1]] * np.exp(rng.normal(0, volatility / 10, count))
    highs = np.maximum(opens, closes) * np.exp(np.abs(rng.normal(0, volatility / 2, count)))
    return make_tape(
        opens,
        highs,
        closes,
        observation=rng.normal(0, 1, (count, columns)),
        segment=np.arange(count) * segments // count,
    )


def planted_tape(count: int, seed: int, regime_bars: int = 1, drift: float = 0.004, columns: int = 18) -> Tape:
    """A market with one informative column of noisy knowledge of the next bar's sign.

    Law: a sign s in {-1, +1}, drawn anew with probability 1 / regime_bars on each bar; the log return
    from open to close of bar t + 1 is s_t x drift + N(0, drift); column 0 of row t is s_t + N(0, 1/2), the
    other columns are N(0, 1); a bar opens at the close before.
    """
    rng = np.random.default_rng(seed)
    fresh = rng.choice([-1.0, 1.0], count)
    redrawn = rng.random(count) < 1 / regime_bars
    redrawn[0] = True
    sign = fresh[np.maximum.accumulate(np.where(redrawn, np.arange(count), 0))]
    moves = np.r_[0.0, sign[:-1] * drift] + rng.normal(0, drift, count)
    closes = 100 * np.exp(np.cumsum(moves))
    opens = np.r_[100.0, closes[:-1]]
    observation = rng.normal(0, 1, (count, columns))
    observation[:, 0] = sign + rng.normal(0, 0.5, count)
    highs = np.maximum(opens, closes)
    return make_tape(opens, highs, closes, observation=np.clip(observation, -10, 10))


@dataclass(frozen=True)
class Stateless:
    """A function (obs, mask) -> actions as an agent without memory."""

    decide: Callable[[np.ndarray, np.ndarray], np.ndarray]

    def player(self, count: int) -> Player:
        return lambda obs, mask, start: self.decide(obs, mask)

"""Small portfolio tapes with known content, shared by the tests of the portfolio."""

from functools import cache

import numpy as np

from configs.load import resolve
from ppo.portfolio.align import PortfolioTape, align
from ppo.tape import Tape
from tests.ppo.worlds import HOUR_S

MAX_GAP_S = 6 * HOUR_S
FEE, SLIP = 0.0025, 0.0005


@cache
def config_of(*settings: str):
    """`quick` with costs as in the market rules of crypto and free rebalancing, then `settings`."""
    base = ("costs.fee_frac=0.0025", "costs.slippage_frac=0.0005", "multi_asset.rebalance_threshold=0")
    return resolve("DEMO-USD_1H", "quick", settings=(*base, *settings)).config


def series(hours, opens, closes=None, highs=None, lows=None, observation=None, ready=None) -> Tape:
    """One asset's tape with bars at whole `hours`; segments as its own gaps say."""
    t = 1_700_000_000 // HOUR_S * HOUR_S + HOUR_S * np.asarray(hours, dtype=np.int64)
    opens = np.asarray(opens, float)
    closes = opens if closes is None else np.asarray(closes, float)
    return Tape(
        t=t,
        open=opens,
        high=np.maximum(opens, closes) if highs is None else np.asarray(highs, float),
        low=np.minimum(opens, closes) if lows is None else np.asarray(lows, float),
        close=closes,
        segment=np.cumsum(np.diff(t, prepend=t[0]) > MAX_GAP_S).astype(np.int32),
        timeframe_s=HOUR_S,
        observation=np.zeros((len(t), 1), np.float32) if observation is None else np.float32(observation),
        ready=np.ones(len(t), bool) if ready is None else np.asarray(ready, bool),
    )


def random_series(hours, seed: int, volatility: float = 0.01, columns: int = 3) -> Tape:
    """A random walk whose opens gap from the close before."""
    rng, count = np.random.default_rng(seed), len(hours)
    closes = 100 * np.exp(np.cumsum(rng.normal(0, volatility, count)))
    opens = np.r_[100.0, closes[:-1]] * np.exp(rng.normal(0, volatility / 3, count))
    highs = np.maximum(opens, closes) * np.exp(np.abs(rng.normal(0, volatility / 2, count)))
    lows = np.minimum(opens, closes) * np.exp(-np.abs(rng.normal(0, volatility / 2, count)))
    return series(hours, opens, closes, highs, lows, rng.normal(0, 1, (count, columns)))


def gappy_hours(count: int, seed: int, first: int = 0) -> np.ndarray:
    """`count` hours from `first` on, with short gaps and a few long ones."""
    rng = np.random.default_rng(seed)
    steps = rng.choice([1, 2, 9], count, p=[0.9, 0.08, 0.02])
    return first + np.cumsum(steps)


def random_portfolio(assets: int, count: int, seed: int, volatility: float = 0.01) -> PortfolioTape:
    """Assets with gaps and listing dates of their own on the main asset's clock."""
    hours = [gappy_hours(count, seed)] + [gappy_hours(count, seed + k, first=10 * k) for k in range(1, assets)]
    tapes = {f"A{k}-USD": random_series(own, seed + 100 * k, volatility) for k, own in enumerate(hours)}
    return align(tapes, MAX_GAP_S)

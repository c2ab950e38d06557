"""Small market series for the tests of features, labels and what is built on them."""

import numpy as np

from configs.load import resolve
from training.market import Bars

HOUR = 3_600


def config_of(dataset="ADA-EUR_1H", *settings):
    """The resolved quick configuration of a dataset name."""
    return resolve(dataset, "quick", settings=settings).config


def random_walk(n, seed=0, price=1.0, sigma=0.01, segments=()):
    """A random walk of `n` bars; a new segment starts at each position in `segments`."""
    rng = np.random.default_rng(seed)
    close = price * np.exp(np.cumsum(rng.normal(0, sigma, n)))
    opened = np.concatenate([[price], close[:-1]])
    high = np.maximum(opened, close) * (1 + rng.exponential(sigma / 3, n))
    low = np.minimum(opened, close) * (1 - rng.exponential(sigma / 3, n))
    return bars_of(opened, high, low, close, rng.lognormal(3, 1, n), segments)


def flat(n, price, volume):
    """`n` bars of one price and one volume."""
    prices = np.full(n, float(price))
    return bars_of(prices, prices, prices, prices, np.full(n, float(volume)))


def bars_of(opened, high, low, close, volume, segments=()):
    """Hourly bars with ten missing days before each segment start."""
    segment = np.zeros(close.size, np.int32)
    segment[list(segments)] = 1
    segment = np.cumsum(segment, dtype=np.int32)
    t = (np.arange(close.size) + 240 * segment) * HOUR
    return Bars(t, opened, high, low, close, volume, segment, HOUR)


def changed_after(bars, t, rng):
    """The same bars up to `t`, others after it: other levels, ranges and volumes, flat stretches too."""
    n = len(bars) - t - 1
    close = bars.close[t] * np.exp(np.cumsum(rng.normal(0, 0.1, n) * rng.integers(0, 2, n)) + rng.normal(0, 3))
    high, low = close * (1 + rng.random(n)), close * (1 - 0.9 * rng.random(n))
    volume = rng.lognormal(0, 4, n) * rng.integers(0, 2, n)
    new = {"open": close, "high": high, "low": low, "close": close, "volume": volume}
    joined = {name: np.concatenate([getattr(bars, name)[: t + 1], values]) for name, values in new.items()}
    return Bars(t=bars.t, segment=bars.segment, timeframe_s=bars.timeframe_s, **joined)

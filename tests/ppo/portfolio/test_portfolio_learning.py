"""A portfolio agent finds the edges planted in two assets, and needs both.

The law. Regimes of 20 bars on average; in each, one of two assets, drawn anew, is at work: its log return of bar
t + 1 is s x 0.004 + N(0, 0.004) with one sign s for the regime, the other's is N(0, 0.004) alone. Column 0 of an
asset is s (0 where it rests) + N(0, 1/2); two more columns mean nothing. Fee 5 bps. Who holds one asset alone, with
full knowledge of its regimes and signs and no costs, earns what it moves while at work: the bound that only an agent
of both can pass. 12,000 rows to train on, 3,000 to select on, 5,000 unseen.

The gate runs one short training; `make learning` three seeds of all of quick's steps.
"""

import os

import numpy as np
import pytest

from ppo.learner.train import train
from ppo.portfolio.align import PortfolioTape, align
from ppo.portfolio.evaluate import _terms
from ppo.portfolio.metrics import by_asset
from ppo.portfolio.play import Lane, rollouts
from ppo.stages.multi_asset import portfolio_job
from tests.ppo.portfolio.markets import MAX_GAP_S, config_of, series

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("torch_of_a_unit")]
IN_FULL = os.environ.get("LEARNING") == "all"
ASSETS = ("A-USD", "B-USD")
TRAIN, SELECT, UNSEEN = (0, 12_000), (12_000, 15_000), (15_000, 20_000)
COSTS = ("costs.fee_frac=0.0005", "costs.slippage_frac=0", "costs.borrow_frac_per_year=0")
SHORT = (
    "multi_asset.hidden=[32,32]", "multi_asset.num_envs=64", "multi_asset.minibatch_size=512",
    "multi_asset.timesteps=49152", "multi_asset.eval_every_steps=49152", "env.episode_bars=500",
    # few steps: larger ones
    "multi_asset.initial_deviation=0.6", "multi_asset.learning_rate=1e-3", "multi_asset.epochs=8",
)  # fmt: skip
DRIFT, REGIME_BARS = 0.004, 20


def planted(count: int, seed: int) -> tuple[PortfolioTape, np.ndarray]:
    """The market, and (count, 2) what full knowledge of each asset earns on each bar."""
    rng = np.random.default_rng(seed)
    regime = np.cumsum(rng.random(count) < 1 / REGIME_BARS)
    at_work, tapes, known = rng.integers(0, 2, regime[-1] + 1)[regime], {}, np.zeros((count, 2))
    for k, name in enumerate(ASSETS):
        sign = rng.choice([-1.0, 1.0], regime[-1] + 1)[regime] * (at_work == k)
        before = np.r_[0.0, sign[:-1]]
        moves = before * DRIFT + rng.normal(0, DRIFT, count)
        closes = 100 * np.exp(np.cumsum(moves))
        seen = rng.normal(0, 1, (count, 3))
        seen[:, 0] = sign + rng.normal(0, 0.5, count)
        tapes[name] = series(range(count), np.r_[100.0, closes[:-1]], closes, observation=np.clip(seen, -10, 10))
        known[:, k] = np.log1p(before * np.expm1(moves))
    return align(tapes, MAX_GAP_S), known


@pytest.mark.parametrize("seed", range(3 if IN_FULL else 1))
def test_an_agent_uses_both_planted_edges(seed):
    config = config_of(*COSTS, "multi_asset.rebalance_threshold=0.2", *(() if IN_FULL else SHORT))
    tape, known = planted(UNSEEN[1], seed)
    trained = train(portfolio_job(tape, [TRAIN], [SELECT], config, seed))
    (track,) = rollouts(tape, [Lane([UNSEEN], _terms(config))], trained.policy)
    earned = np.log(track.equity[-1] / track.equity[0])
    one_alone = known[slice(*UNSEEN)].sum(axis=0).max()
    own = by_asset(track, config, tape.assets)
    # bar by bar: of money earned most is earned at the end, when there is most
    returns = (np.diff(track.profit, axis=0) / track.equity[:-1, None]).sum(axis=0)
    shares = returns / returns.sum()
    print(f"\nseed {seed}: log growth {earned:.2f}, of one asset alone at most {one_alone:.2f}; shares {shares}")
    assert earned > (1.4 if IN_FULL else 1.2) * one_alone
    assert min(shares) > 0.2 and min(asset["mean_abs_weight"] for asset in own.values()) > 0.2
    assert trained.collapse == []

"""Where nothing can be known, no edge is found: driftless prices with GARCH volatility, judged as an agent is."""

import os
from collections import Counter

import numpy as np
import pytest

from ppo.judge import COLLAPSED, EDGE, judgement, score
from ppo.learner.train import single_asset_job, train
from ppo.metrics import mean_track
from ppo.statistics import moments
from ppo.tape import Tape, spans
from tests.ppo.worlds import FREE, Stateless, make_tape
from training.determinism import set_up_torch

WORLDS = 20
MOST_EDGES = 1
BURN_IN_BARS = 200
CHEAP = FREE.model_copy(update={"fee_frac": 0.0002, "slippage_frac": 0.0001})
"""Low costs, so that an agent that knows nothing still trades."""


def martingale(count: int, seed: int, columns: int = 18) -> Tape:
    """Log return r_t = e_t - h_t / 2 with e_t = sqrt(h_t) z_t, z normal, h_t = 2e-6 + 0.08 e_(t-1)^2 + 0.90 h_(t-1).

    So the expected price is always the last one. The observation holds the last 5 log returns over their
    usual size and noise: all that a past can tell.
    """
    rng = np.random.default_rng(seed)
    variance, returns = np.full(count + BURN_IN_BARS, 1e-4), np.zeros(count + BURN_IN_BARS)
    for bar in range(1, len(returns)):
        variance[bar] = 2e-6 + 0.08 * returns[bar - 1] ** 2 + 0.90 * variance[bar - 1]
        returns[bar] = np.sqrt(variance[bar]) * rng.normal()
    log_returns = (returns - variance / 2)[BURN_IN_BARS:]
    closes = 100 * np.exp(np.cumsum(log_returns))
    opens = np.r_[100.0, closes[:-1]]
    highs = np.maximum(opens, closes) * np.exp(np.abs(rng.normal(0, 0.003, count)))
    observation = rng.normal(0, 1, (count, columns))
    for lag in range(5):
        observation[lag:, lag] = log_returns[: count - lag] / 0.01
    return make_tape(opens, highs, closes, observation=np.clip(observation, -10, 10))


def config_for(config, costs, **ppo):
    fast = {"random_shifts": 200, "bootstrap_samples": 300, "cost_sweep_bps": ()}
    judging = config.judging.model_copy(update=fast)
    learner = config.ppo.model_copy(update=ppo)
    return config.model_copy(update={"costs": costs, "judging": judging, "ppo": learner})


def verdict_of(tape, config, played, agents):
    scored = score(tape, config, played, agents, None)
    return judgement(scored, config, [moments(mean_track(scored.agents)[0]).sharpe])["verdict"]


def persistent(seed: int):
    """Long or in cash by coin, kept for about 20 bars."""
    rng = np.random.default_rng(seed)

    def decide(obs, mask):
        change = rng.random() < 0.05
        return np.where(mask[:, 7], 7, 3) if change else np.zeros(len(mask), int)

    return decide


def momentum(obs, mask):
    """Long after rises, in cash after falls."""
    wanted = np.where(obs[:, :5].sum(axis=1) > 0, 3, 7)
    return np.where(mask[np.arange(len(mask)), wanted], wanted, 0)


@pytest.mark.slow
@pytest.mark.parametrize("costs", [FREE, CHEAP], ids=["free", "cheap"])
@pytest.mark.parametrize("kind", ["persistent", "momentum"])
def test_rules_that_know_nothing_have_no_edge(quick_config, costs, kind):
    config, verdicts = config_for(quick_config, costs), Counter()
    for seed in range(WORLDS):
        rules = [persistent(3 * seed + i) for i in range(3)] if kind == "persistent" else [momentum] * 3
        agents = [Stateless(rule) for rule in rules]
        verdicts[verdict_of(martingale(800, seed), config, [(0, 800)], agents)] += 1
    assert verdicts[EDGE] <= MOST_EDGES
    assert verdicts[COLLAPSED] == 0


@pytest.mark.slow
def test_trained_agents_have_no_edge(quick_config):
    # quick's learner at 40,960 steps: enough to fit noise, 20 worlds in about a minute (`make martingale` takes them
    # all); one seed is enough for an edge here
    steps = int(os.environ.get("MARTINGALE_TIMESTEPS", "40960"))
    config, verdicts = config_for(quick_config, CHEAP, timesteps=steps, eval_every_steps=steps // 5), Counter()
    config = config.model_copy(update={"judging": config.judging.model_copy(update={"min_seeds": 1})})
    set_up_torch(config.compute.threads_per_unit)
    for seed in range(WORLDS):
        tape = martingale(6_000, 1_000 + seed)
        job = single_asset_job(tape, spans(tape, 0, 3_600), spans(tape, 3_600, 4_800), config, seed)
        agent = train(job).policy
        verdicts[verdict_of(tape, config, spans(tape, 4_800, 6_000), [agent])] += 1
    print(f"\n{steps:,} steps in each of {WORLDS} worlds: {dict(verdicts)}")
    assert verdicts[EDGE] <= MOST_EDGES, verdicts
    assert verdicts[COLLAPSED] <= WORLDS // 2, "agents that do not trade show nothing"

"""LSTM-PPO earns what no memoryless player can, on a market that pays for memory (`tests.ppo.planted_memory`).

The gate runs one seed; `make learning` five, and the memoryless learner beside each.
"""

import os

import pytest

from configs.schema import CostsConfig, LstmPPOConfig, PPOConfig
from ppo.learner.train import single_asset_job, train
from ppo.learner.validate import Validator
from tests.ppo.planted_memory import FLAT, Delayed, Knowing

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("torch_of_a_unit")]

LAW = Delayed(delay=3, rise=0.03, fall=0.015, pulse_frac=0.4)
BARS_PER_YEAR = 500
TRAIN, SELECT, UNSEEN = (0, 4_000), (4_000, 5_000), (5_000, 7_000)
SETTINGS = {
    "hidden": (32,), "num_envs": 64, "rollout_steps": 32, "minibatch_size": 512, "epochs": 4, "timesteps": 61_440,
    "learning_rate": 2e-3, "learning_rate_final": 2e-4, "discount": 0.9, "gae_lambda": 0.8, "entropy_coef": 0.1,
    "eval_every_steps": 20_480, "eval_slices": 2,
}  # fmt: skip
SEEDS = range(5 if os.environ.get("LEARNING") == "all" else 1)


@pytest.fixture(scope="module")
def config(quick_config):
    borrow = LAW.borrow_frac * BARS_PER_YEAR
    costs = CostsConfig(fee_frac=LAW.fee_frac, slippage_frac=0, borrow_frac_per_year=borrow)
    market = quick_config.market.model_copy(update={"bars_per_year": BARS_PER_YEAR})
    return quick_config.model_copy(update={"costs": costs, "market": market})


@pytest.fixture(scope="module")
def bounds():
    """(rate, table) with memory and without."""
    return LAW.best(memory=True), LAW.best(memory=False)


@pytest.mark.parametrize("seed", SEEDS)
def test_an_agent_with_memory_passes_the_bound_of_all_without(config, bounds, seed):
    tape, phases = LAW.tape(UNSEEN[1], seed), LAW.phases(UNSEEN[1], seed)
    play = Validator(tape, [UNSEEN], config, 1)
    optimum, bound = (play(Knowing(table, phases, UNSEEN[0])).score for _, table in bounds)

    def learnt(ppo: PPOConfig) -> float:
        return play(train(single_asset_job(tape, [TRAIN], [SELECT], config, seed, ppo)).policy).score

    memory, memoryless = learnt(LstmPPOConfig(memory_units=32, **SETTINGS)), learnt(PPOConfig(**SETTINGS))
    print(
        f"\nseed {seed}, share of the optimum on unseen bars: LSTM-PPO {memory / optimum:.0%}, "
        f"bound without memory {bound / optimum:.0%}, PPO {memoryless / optimum:.0%}"
    )
    assert memory > 1.1 * bound
    assert memory > 0.9 * optimum
    assert memoryless < bound


def test_the_programs_know_what_their_players_earn(config, bounds):
    """Their rates per bar against accounts played for 20,000 bars; the optimum waits for the last bar."""
    (optimum, table), (bound, limited) = bounds
    tape, phases = LAW.tape(20_000, 9), LAW.phases(20_000, 9)
    play = Validator(tape, [(0, 20_000)], config, 1)
    assert play(Knowing(table, phases, 0)).score == pytest.approx(optimum, rel=0.05)
    assert play(Knowing(limited, phases, 0)).score == pytest.approx(bound, rel=0.05)
    assert table[:, FLAT].tolist() == [0, 0, 0, 3]
    assert len(set(limited[[0, 2, 3], FLAT])) == 1, "without memory and a position these phases look the same"
    assert bound < 0.85 * optimum

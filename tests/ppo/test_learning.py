"""Quick PPO learns two planted markets: at least 70 % of the optimum on unseen bars, in each of 5 seeds.

`tests.ppo.planted` states the law and the optimum. 12,000 bars to train on, 2,000
to select on, 6,000 unseen; fee 5 bps, no slippage, no borrow. On a regime market
half of the profit needs shorts, which only `reverse` opens.

The gate runs one of the seeds; `make learning` all of them and the comparison with MaskablePPO.
"""

import os
import statistics
import time
from dataclasses import replace

import numpy as np
import pytest

from configs.schema import Config, CostsConfig
from ppo import backend_sb3
from ppo.learner.policy import handed_over
from ppo.learner.train import Job, single_asset_job, train
from ppo.learner.validate import Validation, Validator
from ppo.pretrain import pretraining_job
from ppo.rules import HOLD, REVERSE
from ppo.tape import Tape
from tests.ppo.planted import BUY_ALL, LOG_ODDS, WEIGHTS, Law, Optimal, follow
from tests.ppo.worlds import Stateless
from training.synthetic import preset_parameters

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("torch_of_a_unit")]

LAWS = {
    "iid": Law(1, drift=0.002, volatility=0.004, noise=0.7),
    "regime": Law(24, drift=0.002, volatility=0.004, noise=1.0),
}
TRAIN, SELECT, UNSEEN = (0, 12_000), (12_000, 14_000), (14_000, 20_000)
LEAST_SHARE = 0.7
IN_FULL = os.environ.get("LEARNING") == "all"
SEEDS = range(5 if IN_FULL else 1)


def market(quick_config: Config, law: Law, seed: int) -> tuple[Job, Tape, Validator]:
    """The training job, its tape and the players' arena of unseen bars."""
    costs = CostsConfig(fee_frac=law.fee_frac, slippage_frac=0, borrow_frac_per_year=0)
    config = quick_config.model_copy(update={"costs": costs})
    tape = law.tape(UNSEEN[1], 100 + seed)
    job = single_asset_job(tape, [TRAIN], [SELECT], config, seed)
    return job, tape, Validator(tape, [UNSEEN], config, slices=1)


def total(validation: Validation) -> float:
    """Log return over the unseen bars."""
    return validation.score * (UNSEEN[1] - 1 - UNSEEN[0])


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("name", LAWS)
def test_quick_ppo_gets_most_of_the_optimum_on_unseen_bars(quick_config, name, seed):
    law = LAWS[name]
    job, tape, play = market(quick_config, law, seed)
    optimum = total(play(Optimal(law, tape, UNSEEN[0])))
    before_s = time.process_time()
    result = train(job)
    cpu_s = time.process_time() - before_s
    agent = play(result.policy)
    print(
        f"\n{name} seed {seed}: optimum {optimum:.2f}, agent {total(agent) / optimum:.0%} "
        f"({agent.position_changes} orders, {cpu_s:.0f} s CPU), "
        f"blindly following the feature {total(play(Stateless(follow))) / optimum:.0%}"
    )
    assert total(agent) >= LEAST_SHARE * optimum
    assert result.collapse == []


@pytest.mark.parametrize("name", LAWS)
def test_the_optimum_is_above_every_simple_rule(quick_config, name):
    """Following, waiting for a clearer sign, buying and holding do not beat the yardstick beyond luck."""
    law = LAWS[name]
    job, tape, play = market(quick_config, law, 0)
    optimum = total(play(Optimal(law, tape, UNSEEN[0])))
    rules = [
        follow,
        lambda obs, mask: follow(obs * (abs(obs[:, :1]) > 1), mask),
        lambda obs, mask: mask[:, BUY_ALL] * BUY_ALL,
    ]
    assert optimum > 0
    assert all(total(play(Stateless(rule))) < 1.02 * optimum for rule in rules)


def test_the_optimum_stays_out_where_no_move_pays_the_fee():
    actions = Law(1, drift=0.002, volatility=0.004, noise=0.7, fee_frac=0.05).best_actions()
    assert (actions[:, np.isclose(WEIGHTS, 0)] == HOLD).all()


def test_the_optimum_without_costs_is_on_the_likelier_side():
    actions = Law(1, drift=0.002, volatility=0.004, noise=0.7, fee_frac=0.0).best_actions()
    flat, long, short = (np.argmin(abs(WEIGHTS - weight)) for weight in (0, 1, -1))
    assert (actions[LOG_ODDS > 1, flat] == BUY_ALL).all()
    assert (actions[LOG_ODDS > 1, short] == REVERSE).all()
    assert (actions[LOG_ODDS < -1, long] == REVERSE).all()


@pytest.mark.skipif(not IN_FULL, reason="takes minutes; LEARNING=all (make learning) runs it")
@pytest.mark.parametrize("seed", range(3))
def test_pre_training_leaves_an_agent_able_to_learn(quick_config, seed):
    """Pre-training ends in a policy that hardly trades: what it hands over learns all the same."""
    config = quick_config.model_copy(
        update={"costs": CostsConfig(fee_frac=5e-4, slippage_frac=0, borrow_frac_per_year=0)}
    )
    taught = train(pretraining_job(preset_parameters(config), config, seed)[0]).policy.state_dict()
    for name, law in LAWS.items():
        job, tape, play = market(quick_config, law, seed)
        optimum = total(play(Optimal(law, tape, UNSEEN[0])))
        starts = {"scratch": None, "handed over": handed_over(taught), "as it is": taught}
        shares = {
            begun: total(play(train(replace(job, start=weights)).policy)) / optimum for begun, weights in starts.items()
        }
        print(f"\n{name} seed {seed}: " + ", ".join(f"{begun} {share:.1%}" for begun, share in shares.items()))
        assert shares["handed over"] >= LEAST_SHARE
        assert shares["handed over"] >= shares["scratch"] - 0.05


@pytest.mark.skipif(not IN_FULL, reason="takes minutes; LEARNING=all (make learning) runs it")
def test_learning_curves_agree_with_maskable_ppo_over_seeds(quick_config):
    """Three seeds each: the mean final validation scores differ by less than 10 %."""
    ours, theirs = [], []
    for seed in range(3):
        job, _, _ = market(quick_config, LAWS["iid"], seed)
        ours.append(curve(train(job)))
        theirs.append(curve(backend_sb3.train(job)))
    for point in (2, 5, 9):
        mean, other = (statistics.mean(curves[point] for curves in each) for each in (ours, theirs))
        print(f"\nevaluation {point}: ours {mean:.2e}, MaskablePPO {other:.2e} log return per bar")
    last_ours, last_theirs = (statistics.mean(curves[-1] for curves in each) for each in (ours, theirs))
    assert last_ours == pytest.approx(last_theirs, rel=0.1)


def curve(result) -> list[float]:
    """Validation scores in order."""
    return [row["validation"]["score"] for row in result.history if "validation" in row]

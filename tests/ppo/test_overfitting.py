"""Probability of backtest overfitting against purgedcv, by hand and at its limits."""

import numpy as np
import pytest
from purgedcv import probability_of_backtest_overfitting

from ppo.overfitting import overfitting


def named(matrix):
    return {f"s{i}": column for i, column in enumerate(matrix.T)}


@pytest.mark.parametrize(("bars", "strategies", "blocks", "seed"), [(203, 7, 8, 0), (500, 4, 10, 1), (90, 5, 8, 2)])
def test_it_is_purgedcv_s(bars, strategies, blocks, seed):
    rng = np.random.default_rng(seed)
    matrix = rng.normal(0.0005, 0.01, (bars, strategies))
    matrix[:, 0] = 0.0
    matrix[bars // 3 :, 1] = 0.0  # constant on many halves, but not on all
    oracle = probability_of_backtest_overfitting(matrix.T, blocks)
    found = overfitting(named(matrix), blocks)
    logits = np.array(oracle.logits)
    assert oracle.pbo == np.mean(logits < 0), "it counts the median itself as no overfitting"
    assert found["probability"] == pytest.approx(oracle.pbo + np.mean(logits == 0) / 2)
    assert found["combinations"] == oracle.n_combos
    assert found["median_logit"] == pytest.approx(np.median(oracle.logits))
    assert found["loss_probability"] == np.mean(oracle.is_oos_performance[:, 1] < 0)


def test_two_strategies_that_swap_their_luck_are_overfitted_by_hand():
    one = np.r_[np.tile([0.02, 0.01], 10), np.tile([-0.02, -0.01], 10)]
    found = overfitting({"one": one, "other": -one}, blocks=2)
    assert (found["probability"], found["loss_probability"], found["combinations"]) == (1, 1, 2)
    assert found["median_logit"] == pytest.approx(np.log(1 / 2))
    assert found["chosen_frac"] == {"one": 0.5, "other": 0.5}


def test_a_strategy_that_is_always_best_is_never_overfitted():
    noise = np.random.default_rng(3).normal(0, 0.001, (320, 5))
    noise[:, 2] += 0.01
    found = overfitting(named(noise))
    assert found["probability"] == found["loss_probability"] == 0
    assert found["chosen_frac"]["s2"] == 1
    assert (found["blocks"], found["combinations"]) == (16, 12_870)


@pytest.mark.parametrize("strategies", [2, 3, 9])
def test_without_skill_the_chosen_one_ranks_anywhere(strategies):
    rng = np.random.default_rng(4)
    found = [overfitting(named(rng.normal(0, 0.01, (400, strategies))), 8)["probability"] for _ in range(200)]
    assert np.mean(found) == pytest.approx(0.5, abs=0.06)


def test_strategies_that_are_all_alike_are_chosen_by_chance():
    assert overfitting(named(np.zeros((100, 3))))["probability"] == 0.5


@pytest.mark.parametrize(("bars", "blocks"), [(20, 2), (59, 4), (159, 14), (160, 16), (10_000, 16)])
def test_short_series_get_fewer_blocks(bars, blocks):
    assert overfitting(named(np.random.default_rng(0).normal(size=(bars, 3))))["blocks"] == blocks


def test_one_strategy_or_a_few_bars_have_no_answer():
    assert overfitting({"one": np.ones(100)}) is None
    assert overfitting({"one": np.ones(19), "other": np.ones(19)}) is None

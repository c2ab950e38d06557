"""The plan's targets: met, missed or undecided by hand, and what is measured for them."""

import math

import numpy as np
import pytest

from ppo.judge import judgement, score
from ppo.metrics import mean_track
from ppo.statistics import bootstrap_drawdowns, bootstrap_sharpe_differences, moments
from ppo.targets import TARGETS, Measured, Target, decided, targets
from tests.ppo.test_judge import blind, script, small
from tests.ppo.worlds import random_tape
from training.streams import stream

RATIO = Target("x", "ppo", "a ratio", 1.0)
DRAWDOWN = Target("y", "ppo", "a drawdown", 0.25, below=True, share=True)


@pytest.mark.parametrize(
    ("target", "value", "interval", "state"),
    [
        (RATIO, 2.0, (1.1, 2.9), "met"),
        (RATIO, 0.4, (-0.1, 0.9), "missed"),
        (RATIO, 2.0, (0.5, 3.5), "undecided"),
        (RATIO, 0.5, (-1.0, 2.0), "undecided"),
        (RATIO, 1.5, (1.0, 2.0), "undecided"),
        (DRAWDOWN, 0.1, (0.05, 0.2), "met"),
        (DRAWDOWN, 0.4, (0.3, 0.6), "missed"),
        (DRAWDOWN, 0.2, (0.1, 0.3), "undecided"),
        (DRAWDOWN, 0.2, (0.3, 0.6), "undecided"),  # resampled drawdowns need not reach down to the one there was
        (DRAWDOWN, 0.32, (0.059, 0.224), "undecided"),
        (RATIO, 0.9, (1.1, 2.0), "undecided"),
        (RATIO, 1.0, (1.1, 2.0), "undecided"),
    ],
)
def test_only_a_value_and_its_whole_interval_on_one_side_decide(target, value, interval, state):
    found = decided(target, Measured(value, 0.1, interval, "99 bars"))
    assert (found["state"], found["measured"], found["interval"]) == (state, value, list(interval))
    assert "99 bars" in found["says"]
    assert ("cannot be decided" in found["says"]) == (state == "undecided")


def test_what_the_run_has_no_agents_for_is_not_measured(quick_config):
    found = targets({}, {}, [], quick_config)
    assert [entry["name"] for entry in found] == [target.name for target in TARGETS]
    assert {entry["state"] for entry in found} == {"not measured"}


@pytest.fixture
def judged(quick_config):
    """Evaluations and returns of two kinds of agents that know nothing."""
    config, tape = small(quick_config, cost_sweep_bps=()), random_tape(900, 5)
    evaluations, returns = {}, {}
    for name, seed in (("ppo", 1), ("lstm_ppo", 4)):
        scored = score(tape, config, [(0, 900)], [blind(seed), blind(seed + 1)], None)
        returns[name] = mean_track(scored.agents)[0]
        evaluations[name] = judgement(scored, config, [moments(returns[name]).sharpe])
    return evaluations, returns, config


def test_each_target_shows_what_the_evaluation_measured(judged):
    evaluations, returns, config = judged
    found = {entry["name"]: entry for entry in targets(evaluations, returns, [], config)}
    mean = evaluations["ppo"]["mean"]
    assert found["base_sharpe"]["measured"] == mean["sharpe"]
    assert found["base_sharpe"]["standard_error"] == mean["sharpe_standard_error"]
    assert found["base_drawdown"]["measured"] == mean["max_drawdown"]
    assert found["base_win_rate"]["measured"] == mean["hit_rate"]
    difference = evaluations["lstm_ppo"]["mean"]["sharpe"] - mean["sharpe"]
    assert found["lstm_less_base"]["measured"] == difference
    assert {found[name]["state"] for name in ("pretrain_sharpe", "multi_asset_sharpe")} == {"not measured"}
    for name in ("base_sharpe", "base_win_rate", "lstm_sharpe", "lstm_less_base"):
        low, high = found[name]["interval"]
        assert low < found[name]["measured"] < high, name


def test_pretraining_is_the_mean_of_its_seeds_with_their_mean_error(quick_config):
    parts = [{"sharpe": 1.0, "standard_error": 0.2}, {"sharpe": 2.0, "standard_error": 0.4}]
    parts = [part | {"hit_rate": 0.5} for part in parts]
    found = targets({}, {}, parts, quick_config)[0]
    assert (found["name"], found["measured"], found["standard_error"]) == ("pretrain_sharpe", 1.5, pytest.approx(0.3))
    assert found["interval"] == pytest.approx([1.5 - 1.96 * 0.3, 1.5 + 1.96 * 0.3], abs=1e-4)
    assert found["state"] == "met"
    assert found["of"] == "worlds that selected nothing"
    found = targets({}, {}, [part | {"sharpe": 0.0, "hit_rate": None} for part in parts], quick_config)[0]
    assert (found["state"], found["says"]) == ("not measured", "nothing to measure: it did not trade")


def test_agents_that_never_trade_neither_meet_nor_miss_a_target(judged):
    evaluations, returns, config = judged
    scored = score(random_tape(900, 5), config, [(0, 900)], [script([]), script([])], None)
    flat = judgement(scored, config, [0.0])
    found = by_name(targets({"ppo": flat, "multi_asset": flat}, {"ppo": mean_track(scored.agents)[0]}, [], config))
    for name in ("base_sharpe", "base_drawdown", "base_win_rate", "multi_asset_sharpe"):
        assert found[name]["state"] == "not measured" and found[name]["measured"] is None
        assert found[name]["says"] == "nothing to measure: it did not trade"
    assert "no such result" in found["lstm_sharpe"]["says"]
    for idle, others in (("ppo", "base PPO did not trade"), ("lstm_ppo", "it did not trade")):
        found = by_name(targets(evaluations | {idle: flat}, returns | {idle: np.zeros(899)}, [], config))
        assert found["lstm_less_base"]["state"] == "not measured" and others in found["lstm_less_base"]["says"]
        assert (found["lstm_sharpe"]["state"] == "not measured") == (idle == "lstm_ppo")
    months = {"windows": [{"sharpe": 0.0}] * 3}
    found = by_name(targets({"walk_forward": flat | months}, {}, [], config))
    assert found["walk_forward_sharpe"]["says"] == "nothing to measure: it did not trade"


def by_name(found: list[dict]) -> dict[str, dict]:
    return {entry["name"]: entry for entry in found}


def test_the_walk_forward_target_is_about_the_mean_of_its_months(judged):
    evaluations, _, config = judged
    months = [{"sharpe": ratio} for ratio in (1.0, 3.0, -1.0, 2.0)]
    joined = {"walk_forward": evaluations["ppo"] | {"windows": months}}
    found = targets(joined, {}, [], config)[-1]
    assert (found["name"], found["measured"], found["of"]) == ("walk_forward_sharpe", 1.25, "4 test months")
    error = math.sqrt(((0.25**2 + 1.75**2 + 2.25**2 + 0.75**2) / 3) / 4)
    assert found["standard_error"] == pytest.approx(error)
    assert found["interval"] == pytest.approx([1.25 - 3.1824 * error, 1.25 + 3.1824 * error], abs=1e-3)
    joined["walk_forward"]["windows"] = months[:1]
    assert targets(joined, {}, [], config)[-1]["state"] == "not measured"


def test_wilsons_interval_of_the_win_rate_by_its_equation(judged):
    evaluations, returns, config = judged
    found = {entry["name"]: entry for entry in targets(evaluations, returns, [], config)}["base_win_rate"]
    trades = evaluations["ppo"]["mean"]["trades"]
    for bound in found["interval"]:
        # p is on the bound where |share - p| is z standard errors of p
        assert abs(found["measured"] - bound) == pytest.approx(1.959964 * math.sqrt(bound * (1 - bound) / trades))


def test_a_series_against_itself_has_no_difference():
    returns = stream(0, "test").normal(0, 0.01, 300)
    assert (bootstrap_sharpe_differences(returns, returns, 5.0, 50, stream(1, "test")) == 0).all()


def test_differences_of_series_that_move_together_are_surer_than_of_strangers():
    rng = stream(2, "test")
    returns, own = rng.normal(0, 0.01, (2, 500))
    twin = returns + 0.1 * own + 1e-4
    together = bootstrap_sharpe_differences(twin, returns, 1.0, 400, stream(3, "test"))
    apart = bootstrap_sharpe_differences(own, returns, 1.0, 400, stream(3, "test"))
    assert together.std() < 0.3 * apart.std()


def test_drawdowns_of_resamples_at_their_limits():
    rng = stream(4, "test")
    assert (bootstrap_drawdowns(np.full(50, 0.01), 5.0, 20, rng) == 0).all()
    fallen = bootstrap_drawdowns(np.full(50, -0.01), 5.0, 20, rng)
    assert fallen == pytest.approx(1 - 0.99**50)
    wild = bootstrap_drawdowns(rng.normal(0, 0.02, 200), 5.0, 200, rng)
    assert ((wild > 0) & (wild < 1)).all() and wild.std() > 0.01

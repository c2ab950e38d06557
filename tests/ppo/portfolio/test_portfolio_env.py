"""The union clock and the portfolio's environments: alignment, equality with the single-asset game, state."""

import dataclasses

import numpy as np
import pytest

from configs.errors import BadDataError
from ppo.portfolio import rules
from ppo.portfolio.align import align, closing_flags, portfolio_spans
from ppo.portfolio.env import PortfolioEnvs
from ppo.portfolio.rules import CLOSES, PRESENT, READY
from ppo.vec_env import EnvStateError, TradingVecEnv
from tests.ppo.portfolio.markets import MAX_GAP_S, config_of, random_portfolio, random_series, series
from tests.ppo.worlds import HOUR_S

BUY_ALL, CLOSE = 3, 7


def flag_text(flags: np.ndarray, bit: int) -> list[str]:
    return ["".join("x" if on else "." for on in column) for column in (flags & bit).T]


def test_the_clock_is_the_union_of_all_bars_within_the_main_asset():
    main = series([2, 3, 5, 6], [10, 11, 12, 13])
    other = series([0, 3, 4, 9], [1, 2, 3, 4], ready=[True, False, True, True])
    tape = align({"A-USD": main, "B-USD": other}, MAX_GAP_S)
    assert ((tape.t - main.t[0]) // HOUR_S).tolist() == [0, 1, 2, 3, 4]
    assert flag_text(tape.flags, PRESENT) == ["xx.xx", ".xx.."]
    assert flag_text(tape.flags, READY) == ["xx.xx", "..x.."]
    assert tape.prices[:, 0, 3].tolist() == [10, 11, 11, 12, 13]
    assert tape.prices[:, 1, 3].tolist() == [1, 2, 3, 3, 3]  # not listed yet, then its last close
    assert tape.segment[:, 1].tolist() == [-1, 0, 0, 0, 0]


def test_a_leg_is_closed_before_a_gap_and_at_a_delisting_but_only_marked_at_the_end_of_the_data():
    main = series(range(40), np.full(40, 10.0))
    gap = series([0, 1, 2, 12, 13, 39], np.full(6, 5.0))
    delisted = series(range(20), np.full(20, 5.0))
    late = series([0, 36], np.full(2, 5.0))
    tape = align({"A-USD": main, "B-USD": gap, "C-USD": delisted, "D-USD": late}, MAX_GAP_S)
    closing = [np.flatnonzero(column & CLOSES).tolist() for column in closing_flags(tape, 40).T]
    assert closing == [[], [2, 13], [19], [0]]  # the last bar of D is within the largest gap of the end
    assert [np.flatnonzero(column & CLOSES).tolist() for column in closing_flags(tape, 20).T] == [[], [2], [], [0]]


def test_spans_are_runs_on_which_some_asset_may_be_traded():
    main = series([*range(10), *range(20, 30)], np.ones(20), ready=[False] * 4 + [True] * 6 + [False] * 5 + [True] * 5)
    other = series(range(2, 8), np.ones(6))
    tape = align({"A-USD": main, "B-USD": other}, MAX_GAP_S)
    assert portfolio_spans(tape, 0, len(tape)) == [(2, 10), (15, 20)]
    assert portfolio_spans(tape, 0, 5) == [(2, 5)]


def test_assets_that_do_not_overlap_are_refused():
    with pytest.raises(BadDataError, match="B-USD has no bar between"):
        align({"A-USD": series(range(5), np.ones(5)), "B-USD": series(range(9, 12), np.ones(3))}, MAX_GAP_S)


@pytest.mark.slow
def test_with_one_asset_the_game_is_the_single_asset_game():
    """Same episodes, rewards, ends and columns where all in and all out are the only moves, over gaps and costs."""
    config = config_of("env.episode_bars=50", "multi_asset.rebalance_threshold=0.001")
    tape = random_series([*range(90), *range(120, 180), *range(200, 300)], 3, volatility=0.03)
    spans = [(0, 90), (90, 150), (150, 250)]
    portfolio = align({"A-USD": tape}, MAX_GAP_S)
    assert portfolio_spans(portfolio, 0, 250) == spans
    own = PortfolioEnvs(portfolio, spans, config, 8, seed=5)
    other = TradingVecEnv(tape, spans, config.env, config.costs, config.market.bars_per_year, 8, seed=5)
    rng, (obs, _), (other_obs, _) = np.random.default_rng(0), own.reset_arrays(), other.reset_arrays()
    columns, ends = [0, 1, 2, 3, 4, 6, 8], 0
    for _ in range(300):
        inside = rng.random(8) < 0.7
        mine, theirs = own.step_arrays(inside[:, None] * 1.0), other.step_arrays(np.where(inside, BUY_ALL, CLOSE))
        assert mine.log_return == pytest.approx(theirs.log_return, rel=1e-9, abs=1e-12)
        assert mine.reward == pytest.approx(theirs.reward, rel=1e-6, abs=1e-9)
        assert np.array_equal(mine.truncated, theirs.truncated) and np.array_equal(mine.terminated, theirs.terminated)
        assert mine.obs[:, columns] == pytest.approx(theirs.obs, abs=1e-6)
        assert mine.final_obs[mine.truncated][:, columns] == pytest.approx(theirs.final_obs[mine.truncated], abs=1e-6)
        ends += int(mine.truncated.sum())
    assert ends > 30 and obs is mine.obs and other_obs is theirs.obs


def test_what_an_environment_does_depends_neither_on_the_others_nor_on_later_bars():
    """Prefix invariance: bars from row 300 on are replaced; rows before play the same, to the bit."""
    config, tape = config_of("env.episode_bars=60"), random_portfolio(3, 400, 1)
    cut = 300
    changed = dataclasses.replace(
        tape,
        prices=np.where(np.arange(len(tape))[:, None, None] < cut, tape.prices, 2 * tape.prices[::-1]),
        market=np.where(np.arange(len(tape))[:, None] < cut, tape.market, -tape.market),
        flags=np.where(np.arange(len(tape))[:, None] < cut, tape.flags, np.uint8(PRESENT)),
    )
    actions = np.random.default_rng(0).normal(size=(200, 12, 3))
    played = []
    for market, envs in ((tape, 12), (changed, 12), (tape, 4)):
        env = PortfolioEnvs(market, [(0, cut)], config, envs, seed=3)
        env.reset_arrays()
        steps = [env.step_arrays(action[:envs]) for action in actions]
        played.append([env._arrays.obs[:4].copy(), steps[-1].log_return[:4].copy(), env._account[:4].copy()])
    for other in played[1:]:
        assert all(np.array_equal(a, b) for a, b in zip(played[0], other, strict=True))


def test_everything_an_agent_sees_is_finite_and_clipped_even_in_a_wild_market():
    config = config_of("multi_asset.gross_limit=3", "env.shaping=differential_sharpe")
    tape = random_portfolio(4, 300, 2, volatility=0.2)
    env = PortfolioEnvs(tape, portfolio_spans(tape, 0, len(tape)), config, 32, seed=0)
    obs, _ = env.reset_arrays()
    rng, ruined = np.random.default_rng(1), 0
    for _ in range(300):
        step = env.step_arrays(rng.normal(0, 2, (32, 4)))
        assert np.isfinite(step.obs).all() and np.abs(step.obs).max() <= 10
        assert np.isfinite(step.reward).all() and np.isfinite(step.log_return).all()
        ruined += int(step.terminated.sum())
    assert ruined > 10 and obs.shape[1] == rules.observation_size(config.env, 4, 3)


def test_the_observation_by_hand():
    main = series(range(3), [100, 100, 100], [100, 110, 110], observation=[[0.5], [0.6], [0.7]])
    other = series([0, 1], [50, 50], [50, 45], observation=[[-1], [-2]])
    config = config_of("costs.fee_frac=0", "costs.slippage_frac=0", "costs.borrow_frac_per_year=0")
    env = PortfolioEnvs(align({"A-USD": main, "B-USD": other}, MAX_GAP_S), [(0, 3)], config, 1)
    env.start_arrays([0])
    obs = env.step_arrays([[0.5, -0.25]]).obs[0]
    equity = 10_000 + 500 + 250  # 50 units gain 10, 50 short units of the other lose 5
    expected = [0.6, -2, 5_500 / equity, 0.1, 1, -2_250 / equity, 0.1, 1, 7_500 / equity, 7_750 / equity, 0.01]
    assert obs == pytest.approx(expected, rel=1e-6)
    step = env.step_arrays([[0.5, 0.25]])  # B has no bar: kept and marked at 45; A opens at 100 and is half of 10,250
    equity = 7_500 - 125 + 51.25 * 110 - 2_250
    assert step.truncated[0]
    assert step.final_obs[0, [1, 2, 5, 7]] == pytest.approx([0, 5_637.5 / equity, -2_250 / equity, 0], rel=1e-6)


def test_a_saved_state_goes_on_to_the_same_steps():
    config, tape = config_of("env.episode_bars=40"), random_portfolio(2, 300, 4)
    spans = portfolio_spans(tape, 0, len(tape))
    actions = np.random.default_rng(0).normal(size=(120, 6, 2))
    env, other = (PortfolioEnvs(tape, spans, config, 6, seed=seed) for seed in (1, 2))
    env.reset_arrays()
    for action in actions[:60]:
        env.step_arrays(action)
    other.load_state(env.state())
    for action in actions[60:]:
        a, b = env.step_arrays(action), other.step_arrays(action)
        assert np.array_equal(a.obs, b.obs) and np.array_equal(a.reward, b.reward)
    with pytest.raises(EnvStateError, match="'account' has shape"):
        PortfolioEnvs(tape, spans, config, 5).load_state(env.state())

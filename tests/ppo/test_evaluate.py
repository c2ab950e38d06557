"""One account through a tape: hand-worked cases, the rulebook's own numbers, and what a track promises."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from configs.errors import BadDataError
from ppo.evaluate import follow, rollout, rollouts
from ppo.learner.policy import Policy, PolicySizes
from ppo.rules import F_CASH, F_FEE, F_POSITION, F_PRICE, F_QUANTITY, F_REASON, LIQUIDATION, SEGMENT_END
from ppo.tape import spans
from ppo.vec_env import TradingVecEnv
from tests.ppo.worlds import BARS_PER_YEAR, COSTS, FREE, Stateless, make_tape, random_tape

HOLD, BUY_25, BUY_ALL, CLOSE, REVERSE = 0, 1, 3, 7, 8


def priced(config, costs, **env):
    market = config.market.model_copy(update={"bars_per_year": BARS_PER_YEAR})
    return config.model_copy(update={"costs": costs, "market": market, "env": config.env.model_copy(update=env)})


def script(actions):
    remaining = iter(actions)
    return Stateless(lambda obs, mask: np.array([next(remaining)]))


def at_random(seed, *, legal=True):
    rng = np.random.default_rng(seed)
    return Stateless(lambda obs, mask: np.array([rng.choice(np.flatnonzero(mask[0])) if legal else rng.integers(9)]))


def flat_prices(count):
    return make_tape([100.0] * count, [100.0] * count, [100.0] * count)


def test_a_round_trip_at_a_constant_price_costs_the_two_fees(quick_config):
    costs = COSTS.model_copy(update={"slippage_frac": 0.0})
    track = rollout(flat_prices(4), priced(quick_config, costs), [(0, 4)], script([BUY_ALL, CLOSE, HOLD]))
    assert track.equity[-1] == pytest.approx(9_950.12, abs=0.005)
    assert track.fills[:, F_FEE].sum() == pytest.approx(10_000 - track.equity[-1])


def test_an_order_decided_at_a_close_meets_the_next_open(quick_config):
    tape = make_tape([100.0, 110.0, 120.0], [125.0] * 3, [105.0, 115.0, 125.0])
    track = rollout(tape, priced(quick_config, FREE), [(0, 3)], script([BUY_ALL, HOLD]))
    assert track.fills[0, F_PRICE] == 110.0
    assert track.returns == pytest.approx([115 / 110 - 1, 125 / 115 - 1])
    assert track.action.tolist() == [BUY_ALL, HOLD, -1]
    assert track.held.tolist() == [0.0, 1.0, 1.0]


def test_an_open_position_is_closed_with_costs_at_the_end_of_each_span(quick_config):
    tape = random_tape(60, 0, segments=3)
    track = follow(tape, priced(quick_config, COSTS), [(0, 20), (20, 40), (40, 60)], np.ones(60, bool))
    closing = track.fills[track.fills[:, F_REASON] == SEGMENT_END]
    assert track.fill_row.tolist() == [1, 19, 21, 39, 41, 59]
    assert closing[:, F_PRICE] == pytest.approx(tape.close[[19, 39, 59]] * (1 - COSTS.slippage_frac))
    assert track.weight[[19, 39, 59]].tolist() == [0, 0, 0]


def test_equity_is_carried_from_span_to_span_without_a_return_between(quick_config):
    tape = random_tape(60, 1, segments=2)
    track = rollout(tape, priced(quick_config, COSTS), [(0, 30), (30, 60)], at_random(1))
    assert track.equity[30] == track.equity[29]
    assert len(track.returns) == 58
    assert np.prod(1 + track.returns) * 10_000 == pytest.approx(track.equity[-1])


def test_a_liquidated_account_stays_in_cash_to_the_end(quick_config):
    closes = np.r_[[100.0] * 3, [150.0] * 3, 400.0, [10.0] * 13]
    tape = make_tape(closes, closes, closes)
    config = priced(quick_config, FREE)
    track = rollout(tape, config, [(0, 10), (10, 20)], script([BUY_ALL, REVERSE, *[HOLD] * 3, HOLD]))
    assert track.liquidated
    assert (track.fills[:, F_REASON] == LIQUIDATION).sum() == 1
    at = int(np.searchsorted(track.row, track.fill_row[-1]))
    assert (track.equity[at:] == track.equity[at]).all()
    assert (track.action[at:] == -1).all()
    assert track.equity[at] > 0


def test_a_bar_whose_open_gaps_through_a_short_is_spent_flat(quick_config):
    prices = np.where(np.arange(20) < 10, 100.0, 260.0)
    tape = make_tape(prices, prices, prices)
    track = rollout(tape, priced(quick_config, FREE), [(0, 20)], script([3, 8, *[0] * 8]))
    assert track.liquidated and track.held[2:10] == pytest.approx([-1] * 8) and not track.held[10:].any()


def test_an_illegal_action_is_a_hold_and_counted(quick_config):
    track = rollout(flat_prices(5), priced(quick_config, COSTS), [(0, 5)], script([CLOSE, REVERSE, BUY_ALL, BUY_25]))
    assert track.illegal.tolist() == [True, True, False, True, False]
    assert len(track.fills) == 2


def test_the_observation_shown_is_the_one_agents_train_on(quick_config):
    tape, config = random_tape(80, 3), priced(quick_config, COSTS)
    shown, rng = [], np.random.default_rng(0)

    def decide(obs, mask):
        shown.append((obs[0].copy(), mask[0].copy()))
        return np.array([rng.choice(np.flatnonzero(mask[0]))])

    track = rollout(tape, config, [(0, 80)], Stateless(decide))
    env = TradingVecEnv(tape, [(0, 80)], config.env, config.costs, BARS_PER_YEAR, num_envs=1, seed=1)
    obs, mask = first_full_episode(env, tape)
    for bar in range(79):
        np.testing.assert_array_equal(shown[bar][0], obs[0])
        np.testing.assert_array_equal(shown[bar][1], mask[0])
        if bar < 78:
            step = env.step_arrays(track.action[bar : bar + 1].astype(np.int64))
            obs, mask = step.obs, step.mask
            assert np.expm1(step.log_return[0]) == pytest.approx(track.returns[bar], abs=1e-12)


def first_full_episode(env, tape):
    for _ in range(10_000):
        obs, mask = env.reset_arrays()
        if np.array_equal(obs[0, : tape.observation.shape[1]], tape.observation[0]):
            return obs, mask
    raise AssertionError("no episode began on the first bar")


@settings(max_examples=30)
@given(seed=st.integers(0, 10_000), legal=st.booleans())
def test_equity_is_what_the_fills_alone_account_for(quick_config, seed, legal):
    tape = random_tape(40, seed, segments=2, volatility=0.05)
    track = rollout(tape, priced(quick_config, COSTS), [(0, 20), (20, 40)], at_random(seed, legal=legal))
    cash, position = 10_000.0, 0.0
    for fill in track.fills:
        cash -= fill[F_QUANTITY] * fill[F_PRICE] + fill[F_FEE]
        position += fill[F_QUANTITY]
        borrowed = cash - fill[F_CASH]
        assert 0 <= borrowed < 10 or track.liquidated
        cash = fill[F_CASH]
        assert position == pytest.approx(fill[F_POSITION])
    assert track.equity[-1] == pytest.approx(cash)
    assert track.weight[-1] == 0


def test_spans_of_a_tape_can_be_played_as_they_come(quick_config):
    tape = random_tape(90, 5, segments=3)
    track = rollout(tape, priced(quick_config, COSTS), spans(tape, 10, 90), at_random(5))
    assert track.row.tolist() == list(range(10, 90))
    assert track.row[track.first].tolist() == [10, 30, 60]


def test_without_a_span_the_error_says_so(quick_config):
    with pytest.raises(BadDataError, match="no run of two bars"):
        rollout(flat_prices(3), quick_config, [], at_random(0))


class Forgetful:
    """Draws legal actions from what each account has seen since its span began."""

    def player(self, count):
        seen = np.zeros(count)

        def play(obs, mask, start):
            seen[:] = np.where(start, 0, seen) + obs.sum(axis=1, dtype=float)
            draws = (np.abs(seen) * 1e4).astype(int)
            return np.array(
                [np.flatnonzero(legal)[draw % legal.sum()] for legal, draw in zip(mask, draws, strict=True)]
            )

        return play


def test_accounts_side_by_side_are_what_each_is_alone(quick_config):
    tape, played = random_tape(90, 3, segments=3), [(0, 30), (30, 60), (60, 90)]
    levels = [priced(quick_config, COSTS.model_copy(update={"fee_frac": fee})) for fee in (0.0, 0.002, 0.09)]
    together = rollouts(tape, levels, played, Forgetful())
    assert len({track.action.tobytes() for track in together}) == 3, "costs changed what was seen"
    for level, track in zip(levels, together, strict=True):
        alone = rollout(tape, level, played, Forgetful())
        for name, value in vars(alone).items():
            np.testing.assert_array_equal(value, getattr(track, name), err_msg=name)


def test_a_policys_accounts_side_by_side_are_what_each_is_alone(quick_config):
    tape = random_tape(300, 4)
    sizes = PolicySizes(observation=tape.observation.shape[1] + 4, actions=9, hidden=(32, 32))
    policy = Policy(sizes, torch.Generator().manual_seed(1))
    levels = [priced(quick_config, COSTS.model_copy(update={"fee_frac": fee})) for fee in (0.0, 0.001, 0.01, 0.05)]
    for level, track in zip(levels, rollouts(tape, levels, [(0, 300)], policy), strict=True):
        alone = rollout(tape, level, [(0, 300)], policy)
        np.testing.assert_array_equal(alone.action, track.action)
        np.testing.assert_array_equal(alone.equity, track.equity)


def test_a_liquidated_account_does_not_stop_the_others(quick_config):
    tape = make_tape([100.0] * 4 + [300.0] * 6, [100.0] * 4 + [300.0] * 6, [100.0] * 4 + [300.0] * 6)
    levels = [priced(quick_config, FREE), priced(quick_config, COSTS)]
    shorter = Stateless(lambda obs, mask: np.array([REVERSE if weight > 0 else BUY_ALL for weight in obs[:, -4]]))
    dead, _ = rollouts(tape, levels, [(0, 10)], shorter)
    assert dead.liquidated and (dead.action[5:] == -1).all()
    longer = Stateless(lambda obs, mask: np.array([REVERSE if obs[0, -4] > 0 else BUY_ALL, BUY_ALL]))
    dead, alive = rollouts(tape, levels, [(0, 10)], longer)
    assert dead.liquidated and not alive.liquidated
    assert (alive.action[:9] == BUY_ALL).all() and alive.equity[-1] > 2.5 * alive.equity[0]

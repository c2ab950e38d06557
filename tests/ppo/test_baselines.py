"""The baselines: rules by hand, and circular shifts that keep what they must."""

import time

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from configs.errors import BadDataError
from ppo.baselines import classifier_long, moving_average_long, rule_tracks, shifted
from ppo.evaluate import follow, rollout
from ppo.metrics import mean_track, trading_metrics
from ppo.statistics import moments
from ppo.tape import spans
from tests.ppo.worlds import FREE, Stateless, make_tape, random_tape


def sparse_agent(seed, *, activity=0.2):
    rng = np.random.default_rng(seed)

    def decide(obs, mask):
        return np.array([rng.choice(np.flatnonzero(mask[0])) if rng.random() < activity else 0])

    return Stateless(decide)


def test_flat_never_trades_and_buy_and_hold_earns_the_price(quick_config):
    tape = random_tape(300, 0)
    config = quick_config.model_copy(update={"costs": FREE})
    tracks = rule_tracks(tape, config, [(0, 300)], None)
    assert (tracks["flat"].equity == 10_000).all()
    assert tracks["buy_and_hold"].equity[-1] == pytest.approx(10_000 * tape.close[-1] / tape.open[1])
    assert "follow_classifier" not in tracks


def test_buying_and_holding_pays_both_ways_in_every_segment(quick_config):
    tape = random_tape(300, 0, segments=3)
    track = rule_tracks(tape, quick_config, spans(tape, 0, 300), None)["buy_and_hold"]
    assert len(track.fills) == 6


def test_moving_average_rule_against_a_loop():
    tape = random_tape(200, 1, segments=2)
    found = moving_average_long(tape.close, tape.segment, 5, 20)
    for row in range(200):
        begin = 0 if row < 100 else 100
        seen = tape.close[begin : row + 1]
        assert found[row] == (len(seen) >= 20 and seen[-5:].mean() > seen[-20:].mean())


def test_moving_averages_that_are_equal_are_no_reason_to_buy():
    assert not moving_average_long(np.ones(60), np.zeros(60, np.int32), 5, 20).any()


def test_moving_average_rule_uses_no_later_bar():
    tape = random_tape(200, 1)
    whole = moving_average_long(tape.close, tape.segment, 5, 20)
    cut = make_tape(tape.open[:120], tape.high[:120], tape.close[:120])
    assert (moving_average_long(cut.close, cut.segment, 5, 20) == whole[:120]).all()


def test_the_classifier_is_followed_from_a_rise_to_a_fall():
    rise = [np.nan, 0.2, 0.5, 0.3, 0.4, 0.2, 0.1, 0.4]
    stationary = [np.nan, 0.5, 0.3, 0.5, 0.3, 0.3, 0.8, 0.3]
    fall = [np.nan, 0.3, 0.2, 0.2, 0.3, 0.5, 0.1, 0.3]
    long = classifier_long(pd.DataFrame({"fall": fall, "stationary": stationary, "rise": rise}))
    assert long.tolist() == [False, False, True, True, True, False, False, True]


@settings(max_examples=20)
@given(seed=st.integers(0, 10_000))
def test_a_shift_by_nothing_gives_the_tracks_own_returns(quick_config, seed):
    tape = random_tape(120, seed, segments=3, volatility=0.03)
    played = spans(tape, 0, 120)
    tracks = [rollout(tape, quick_config, played, sparse_agent(seed + i)) for i in range(3)]
    returns, equity = mean_track(tracks)
    found = shifted(tape, quick_config, played, tracks, np.array([0, len(returns)]))
    assert found.sharpe == pytest.approx([moments(returns).sharpe] * 2, abs=1e-9)
    assert found.total_return == pytest.approx([equity[-1] / equity[0] - 1] * 2, abs=1e-9)


@pytest.mark.parametrize("shift", [1, 37, 80, 116])
def test_a_shifted_replay_is_the_account_worked_by_hand(quick_config, shift):
    tape = random_tape(120, 7, segments=3)
    played, long = spans(tape, 0, 120), np.random.default_rng(1).random(120) < 0.5
    track = follow(tape, quick_config, played, long)
    wanted = np.roll(track.held[~track.first] > 0, -shift)
    fee, slip = quick_config.costs.fee_frac, quick_config.costs.slippage_frac
    cash, units, bars = 10_000.0, 0.0, iter(wanted)
    for start, stop in played:
        for bar in range(start + 1, stop):
            is_long = next(bars)
            if is_long and not units:
                cash, units = 0.0, cash / (tape.open[bar] * (1 + slip) * (1 + fee))
            elif units and not is_long:
                cash, units = units * tape.open[bar] * (1 - slip) * (1 - fee), 0.0
        cash, units = cash + units * tape.close[stop - 1] * (1 - slip) * (1 - fee), 0.0
    found = shifted(tape, quick_config, played, [track], np.array([shift]))
    assert found.total_return[0] == pytest.approx(cash / 10_000 - 1, abs=1e-12)


def test_a_replay_that_is_liquidated_stays_in_cash(quick_config):
    # short on bars 12..21, long on bars 32..41; 30 bars later the short meets a spike and the long a doubling
    opens = np.full(100, 100.0)
    closes, highs = opens.copy(), opens.copy()
    highs[45] = 400.0
    opens[66:], closes[65:], highs[65:] = 200.0, 200.0, 200.0
    tape, script = make_tape(opens, highs, closes), {10: 3, 11: 8, 21: 7, 31: 3, 41: 7}
    rows = iter(range(100))
    config = quick_config.model_copy(update={"costs": FREE})
    track = rollout(tape, config, [(0, 100)], Stateless(lambda obs, mask: np.array([script.get(next(rows), 0)])))
    before, after = shifted(tape, config, [(0, 100)], [track], np.array([0, 99 - 30])).total_return
    assert before == pytest.approx(track.equity[-1] / 10_000 - 1)
    # 10,000 short at 100: cash 20,000 and 100 units owed, bought back at p_liq = 20,000 / (100 x 1.05)
    assert after == pytest.approx((20_000 - 100 * 20_000 / 105) / 10_000 - 1, abs=1e-12)


def test_a_replay_whose_short_is_gapped_through_is_liquidated_before_its_next_order(quick_config):
    # short on bars 12..21, then flat; 30 bars later the bar of the closing order opens where the short owes all
    prices = np.where(np.arange(100) < 52, 100.0, 260.0)
    tape, script = make_tape(prices, prices, prices), {10: 3, 11: 8, 21: 7}
    rows = iter(range(100))
    config = quick_config.model_copy(update={"costs": FREE})
    track = rollout(tape, config, [(0, 100)], Stateless(lambda obs, mask: np.array([script.get(next(rows), 0)])))
    own, moved = shifted(tape, config, [(0, 100)], [track], np.array([0, 99 - 30])).total_return
    assert own == pytest.approx(0, abs=1e-12)
    assert moved == pytest.approx(config.env.equity_floor_frac - 1)


def test_a_shift_keeps_turnover(quick_config):
    # a constant price shows costs alone: every shift of long-or-cash positions pays what the track paid,
    # up to the position that the seam cuts in two
    tape = make_tape([100.0] * 400, [100.0] * 400, [100.0] * 400)
    long = np.random.default_rng(0).random(400) < 0.3
    track = follow(tape, quick_config, [(0, 400)], long)
    found = shifted(tape, quick_config, [(0, 400)], [track], np.arange(1, 399))
    paid = np.log1p(found.total_return)
    round_trip = np.log(track.equity[-1] / 10_000) / trading_metrics(track, quick_config)["trades"]
    assert np.ptp(paid) <= -1.01 * round_trip
    assert paid.mean() == pytest.approx(np.log(track.equity[-1] / 10_000), rel=0.03)


def test_a_shift_moves_positions_and_not_prices(quick_config):
    # long on every tenth bar of a saw-tooth that rises on exactly those bars
    closes = 100 * 1.01 ** np.cumsum(np.arange(200) % 10 == 0)
    opens = np.r_[100.0, closes[:-1]]
    tape = make_tape(opens, np.maximum(opens, closes), closes)
    config = quick_config.model_copy(update={"costs": FREE})
    track = follow(tape, config, [(0, 200)], np.arange(1, 201) % 10 == 0)
    found = shifted(tape, config, [(0, 200)], [track], np.array([0, 1, 5, 10]))
    assert found.total_return[0] == pytest.approx(1.01**19 - 1)
    assert found.total_return[1:3] == pytest.approx([0, 0], abs=1e-12)
    assert found.total_return[3] >= 1.01**17 - 1


def test_an_agent_that_knows_the_bars_beats_its_shifts(quick_config):
    tape = random_tape(1_000, 3)
    config = quick_config.model_copy(update={"costs": FREE})
    knows = np.r_[tape.close[1:] > tape.open[1:], False]
    track = follow(tape, config, [(0, 1_000)], knows)
    found = shifted(tape, config, [(0, 1_000)], [track], np.arange(1, 999))
    assert moments(track.returns).sharpe > found.sharpe.max()


def test_a_thousand_shifts_of_a_test_part_take_less_than_a_second(quick_config):
    tape = random_tape(3_500, 0)
    track = rollout(tape, quick_config, [(0, 3_500)], sparse_agent(0))
    shifted(tape, quick_config, [(0, 3_500)], [track], np.array([1]))  # compiles

    def cpu_s() -> float:
        began_s = time.process_time()
        shifted(tape, quick_config, [(0, 3_500)], [track], np.arange(1, 1_001))
        return time.process_time() - began_s

    assert any(cpu_s() < 1 for _ in range(10)), "others who use the machine make it slower, never faster"


def test_too_few_bars_to_shift_is_an_error(quick_config):
    tape = random_tape(10, 0)
    track = follow(tape, quick_config, [(0, 2)], np.ones(10, bool))
    with pytest.raises(BadDataError, match="fewer than two bars"):
        shifted(tape, quick_config, [(0, 2)], [track], np.array([1]))

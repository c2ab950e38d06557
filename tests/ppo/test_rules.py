"""The account rules against hand-worked cases, identities and limits."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from configs.schema import CostsConfig, EnvConfig
from ppo import rules
from ppo.rules import CASH, ENTRY, EQUITY, F_CASH, F_FEE, F_POSITION, F_PRICE, F_REASON, HELD, QUANTITY

HOLD, BUY_25, BUY_50, BUY_ALL, SELL_25, SELL_50, SELL_ALL, CLOSE, REVERSE = range(9)
FEE, SLIP = 0.0025, 0.0005
COSTS = CostsConfig(fee_frac=FEE, slippage_frac=SLIP, borrow_frac_per_year=0.10)
NO_SLIP = CostsConfig(fee_frac=FEE, slippage_frac=0.0, borrow_frac_per_year=0.0)
FREE = CostsConfig(fee_frac=0.0, slippage_frac=0.0, borrow_frac_per_year=0.0)
BARS_PER_YEAR = 1_000.0
ENV = EnvConfig()
SHORT = (BUY_ALL, REVERSE)


class Player:
    """One account that is driven bar by bar through the rules."""

    def __init__(self, costs=COSTS, env=ENV, equity=10_000.0):
        self.terms = rules.terms_of(env, costs, BARS_PER_YEAR)
        self.account = np.zeros(rules.ACCOUNT_FIELDS)
        rules.open_account(self.account, equity)
        self.fills = np.zeros(rules.FILL_SHAPE)

    def play(self, action, price, *, high=None, close=None, closes=False):
        """Play one bar that opens at `price`; returns (log return, terminated, its fills)."""
        close = price if close is None else close
        bar = np.array([price, max(price, close) if high is None else high, close])
        log_return, terminated, count = rules.advance(self.account, action, bar, closes, self.terms, self.fills)
        return log_return, terminated, self.fills[:count].copy()

    def flat_at(self, price, *actions):
        """Play `actions` on bars of one price."""
        for action in actions:
            self.play(action, price)
        return self

    def mask(self):
        mask = np.zeros(9, bool)
        rules.write_mask(self.account, self.terms, mask)
        return mask

    def observation(self, close):
        out = np.zeros(rules.observation_size(ENV, 0), np.float32)
        rules.observe(self.account, close, np.zeros(0, np.float32), self.terms, out)
        return out


def test_a_round_trip_at_a_constant_price_turns_10_000_into_9_950_12():
    player = Player(NO_SLIP).flat_at(123.0, BUY_ALL, CLOSE)
    assert round(player.account[EQUITY], 2) == 9_950.12
    assert player.account[EQUITY] == pytest.approx(10_000 * (1 - FEE) / (1 + FEE), rel=1e-14)


def test_a_round_trip_with_slippage_costs_both_sides_twice():
    player = Player().flat_at(50.0, BUY_ALL, SELL_ALL)
    assert player.account[CASH] == pytest.approx(10_000 * (1 - FEE) * (1 - SLIP) / (1 + FEE) / (1 + SLIP), rel=1e-14)


@pytest.mark.parametrize(("action", "share"), [(BUY_25, 0.25), (BUY_50, 0.5), (BUY_ALL, 1.0)])
def test_a_buy_spends_its_share_of_cash_fee_included(action, share):
    player = Player()
    _, _, fills = player.play(action, 80.0, close=100.0)
    assert fills[0, F_PRICE] == 80.0 * 1.0005
    assert player.account[CASH] == pytest.approx(10_000 * (1 - share), abs=1e-9)
    assert player.account[QUANTITY] == pytest.approx(10_000 * share / (80 * 1.0005 * 1.0025), rel=1e-14)
    assert player.account[EQUITY] == pytest.approx(player.account[CASH] + 100 * player.account[QUANTITY], rel=1e-14)


def test_buys_that_add_average_the_entry_and_keep_the_holding_time():
    player = Player(FREE)
    player.play(BUY_50, 100.0)  # 5,000 at 100: 50 units
    player.play(BUY_ALL, 50.0)  # 5,000 at 50: 100 units
    assert player.account[ENTRY] == pytest.approx((50 * 100 + 100 * 50) / 150)
    assert player.account[HELD] == 2


@pytest.mark.parametrize(("action", "share"), [(SELL_25, 0.25), (SELL_50, 0.5), (SELL_ALL, 1.0), (CLOSE, 1.0)])
def test_a_sell_trades_its_share_of_the_units_and_keeps_the_entry(action, share):
    player = Player().flat_at(100.0, BUY_ALL)
    units, cash = player.account[QUANTITY], player.account[CASH]
    _, _, fills = player.play(action, 110.0)
    assert player.account[QUANTITY] == pytest.approx((1 - share) * units, rel=1e-14)
    assert player.account[CASH] - cash == pytest.approx(share * units * 110 * (1 - SLIP) * (1 - FEE), rel=1e-12)
    assert fills[0, F_FEE] == pytest.approx(FEE * share * units * 110 * (1 - SLIP), rel=1e-14)
    assert player.account[ENTRY] == 100 * (1 + SLIP)


def test_selling_quarters_ends_where_less_than_a_thousandth_of_equity_would_be_left():
    player = Player(FREE).flat_at(100.0, BUY_ALL, *[SELL_25] * 24)
    assert player.account[QUANTITY] == pytest.approx(100 * 0.75**24)  # 10.03 of 10,000; a quarter less is 7.53
    _, _, fills = player.play(SELL_25, 100.0)
    assert fills[0, F_POSITION] == player.account[QUANTITY] == 0.0
    assert fills[0, rules.F_QUANTITY] == pytest.approx(-100 * 0.75**24)
    assert player.account[CASH] == pytest.approx(10_000) and player.account[HELD] == 0
    assert player.mask().tolist() == Player().mask().tolist()


def test_the_floor_of_selling_is_measured_at_the_price_of_the_fill():
    """Half of 0.2 % of equity: kept while the raw open has equal halves, sold where slippage takes a part of it."""
    for costs, kept in ((FREE, 10.0), (COSTS, 0.0)):
        player = Player(costs)
        player.account[[CASH, QUANTITY]] = 9_980.0, 20.0
        player.play(SELL_50, 1.0)
        assert player.account[QUANTITY] == kept


def test_a_reversal_that_would_open_less_than_a_thousandth_of_equity_ends_flat():
    player = Player(FREE).flat_at(100.0, BUY_25)  # 25 units, 7,500 cash
    _, _, fills = player.play(REVERSE, 0.1)
    assert [rules.REASONS[int(reason)] for reason in fills[:, F_REASON]] == ["reverse-close"]
    assert player.account[QUANTITY] == 0 and player.account[CASH] == pytest.approx(7_502.5)


@given(
    st.lists(st.tuples(st.integers(0, 8), st.floats(0.02, 3.0), st.floats(0.5, 1.5)), max_size=200),
    st.sampled_from([FREE, NO_SLIP, COSTS]),
    st.sampled_from([(), (BUY_ALL, *[SELL_25] * 24), (BUY_ALL, REVERSE)]),
)
def test_no_order_leaves_dust(steps, costs, history):
    """Flat, or worth a thousandth of the equity before the fill or more, at its price: buys, sales and reversals."""
    player, price = Player(costs).flat_at(100.0, *history), 100.0
    for action, gap, move in steps:
        cash, units, price = player.account[CASH], player.account[QUANTITY], price * gap
        _, terminated, fills = player.play(action, price, close=price * move)
        price *= move
        for fill in fills:
            if fill[F_REASON] != rules.LIQUIDATION:
                left, equity = abs(fill[F_POSITION]) * fill[F_PRICE], cash + units * fill[F_PRICE]
                assert left == 0 or left >= 0.001 * equity * (1 - 1e-12)
            cash, units = fill[F_CASH], fill[F_POSITION]
        if terminated:
            break


def test_reverse_of_a_full_long_is_a_short_of_the_same_weight():
    player = Player(NO_SLIP).flat_at(100.0, BUY_ALL)
    _, _, fills = player.play(REVERSE, 100.0)
    left = 10_000 * (1 - FEE) / (1 + FEE)
    assert [rules.REASONS[int(reason)] for reason in fills[:, F_REASON]] == ["reverse-close", "reverse-open"]
    assert fills[0, F_CASH] == pytest.approx(left, rel=1e-14)
    assert player.account[QUANTITY] == pytest.approx(-left / (1 + FEE) / 100, rel=1e-14)
    assert player.account[QUANTITY] * 100 / player.account[EQUITY] == pytest.approx(-1.0, rel=1e-14)


def test_reverse_of_a_part_long_keeps_the_weight_at_the_open():
    player = Player().flat_at(100.0, BUY_25)
    cash, units = player.account[CASH], player.account[QUANTITY]
    _, _, fills = player.play(REVERSE, 120.0)
    weight = units * 120 / (cash + units * 120)
    after = fills[1, F_CASH] + fills[1, F_POSITION] * fills[1, F_PRICE]
    assert fills[1, F_POSITION] * fills[1, F_PRICE] / after == pytest.approx(-weight, rel=1e-13)


def test_reverse_of_a_short_beyond_one_times_equity_is_a_long_of_all_cash():
    player = Player(FREE).flat_at(100.0, *SHORT)  # -100 units, 20,000 cash
    player.play(HOLD, 125.0)  # weight -12,500 / 7,500
    player.play(REVERSE, 125.0)
    assert player.account[QUANTITY] == pytest.approx(7_500 / 125, rel=1e-14)
    assert player.account[CASH] == pytest.approx(0.0, abs=1e-9)


def test_a_short_gains_what_the_price_loses():
    player = Player(FREE).flat_at(100.0, *SHORT)
    log_return, _, _ = player.play(HOLD, 100.0, close=90.0)
    assert log_return == pytest.approx(math.log(1.1), rel=1e-13)


def test_a_short_pays_borrow_on_its_notional_at_each_open_from_its_first_bar():
    costs = CostsConfig(fee_frac=0.0, slippage_frac=0.0, borrow_frac_per_year=0.5)
    player = Player(costs).flat_at(100.0, BUY_ALL)
    player.play(REVERSE, 100.0)  # 100 units short: 0.0005 x 10,000 = 5
    player.play(HOLD, 80.0, close=100.0)  # 0.0005 x 8,000 = 4
    assert player.account[EQUITY] == pytest.approx(10_000 - 5 - 4, rel=1e-14)
    _, _, fills = player.play(CLOSE, 100.0)
    assert fills[0, rules.F_BORROW] == pytest.approx(9.0, rel=1e-14)


def test_a_long_pays_no_borrow():
    player = Player(CostsConfig(fee_frac=0.0, slippage_frac=0.0, borrow_frac_per_year=10.0))
    player.flat_at(100.0, BUY_ALL, HOLD, HOLD)
    assert player.account[EQUITY] == 10_000


def test_a_short_is_liquidated_where_the_high_reaches_the_trigger():
    costs = CostsConfig(fee_frac=FEE, slippage_frac=SLIP, borrow_frac_per_year=0.0)
    player = Player(costs).flat_at(100.0, *SHORT)
    cash, units = player.account[CASH], -player.account[QUANTITY]
    trigger = cash / (units * 1.05)
    assert player.play(HOLD, 100.0, high=trigger * (1 - 1e-12))[1] is False
    log_return, terminated, fills = player.play(HOLD, 100.0, high=trigger, close=100.0)
    left = cash - units * trigger * (1 + SLIP) * (1 + FEE)
    assert terminated is True
    assert rules.REASONS[int(fills[0, F_REASON])] == "liquidation"
    assert fills[0, F_PRICE] == pytest.approx(trigger * (1 + SLIP), rel=1e-14)
    assert player.account[EQUITY] == pytest.approx(left, rel=1e-12)
    assert player.account[QUANTITY] == 0
    assert left > 1.0


def test_a_gap_over_the_trigger_liquidates_at_the_open_and_floors_equity():
    player = Player(FREE).flat_at(100.0, *SHORT)
    log_return, terminated, fills = player.play(HOLD, 250.0, close=10.0)
    assert terminated is True
    assert fills[0, F_PRICE] == 250.0
    assert player.account[EQUITY] == player.account[CASH] == fills[0, F_CASH] == 1.0  # 1e-4 x 10,000
    assert log_return == pytest.approx(math.log(1 / 10_000), rel=1e-14)


def test_a_closing_that_leaves_less_than_the_floor_leaves_the_floor():
    player = Player(FREE).flat_at(100.0, *SHORT)
    player.account[[CASH, QUANTITY]] = 100.5, -1.0
    _, terminated, fills = player.play(CLOSE, 100.0)
    assert terminated is True
    assert player.account[EQUITY] == player.account[CASH] == fills[0, F_CASH] == 1.0


@pytest.mark.parametrize("action", [CLOSE, REVERSE])
def test_an_order_that_closes_a_hopeless_short_ruins_the_account(action):
    player = Player(FREE).flat_at(100.0, *SHORT)
    _, terminated, fills = player.play(action, 250.0)
    assert terminated is True
    assert len(fills) == 1
    assert player.account[EQUITY] == 1.0


def test_the_last_bar_of_a_segment_closes_a_position_with_costs():
    player = Player().flat_at(100.0, BUY_ALL)
    cash, units = player.account[CASH], player.account[QUANTITY]
    before = player.account[EQUITY]
    log_return, terminated, fills = player.play(HOLD, 100.0, close=110.0, closes=True)
    assert rules.REASONS[int(fills[0, F_REASON])] == "segment-end"
    assert player.account[EQUITY] == pytest.approx(cash + units * 110 * (1 - SLIP) * (1 - FEE), rel=1e-14)
    assert log_return == pytest.approx(math.log(player.account[EQUITY] / before), rel=1e-14)
    assert terminated is False


def test_the_last_bar_of_a_segment_buys_a_short_back():
    player = Player().flat_at(100.0, *SHORT)
    _, _, fills = player.play(HOLD, 100.0, close=90.0, closes=True)
    assert fills[0, F_PRICE] == 90 * (1 + SLIP)
    assert player.account[QUANTITY] == 0


def test_an_order_is_filled_before_the_segment_closes_it():
    player = Player(FREE)
    log_return, _, fills = player.play(BUY_ALL, 100.0, close=110.0, closes=True)
    assert len(fills) == 2
    assert log_return == pytest.approx(math.log(1.1), rel=1e-14)


def test_the_mask_is_the_table_of_the_rules():
    long_with_cash, all_in, short = Player().flat_at(9.0, BUY_50), Player().flat_at(9.0, BUY_ALL), Player()
    short.flat_at(9.0, *SHORT)
    assert Player().mask().tolist() == [True, True, True, True, False, False, False, False, False]
    assert long_with_cash.mask().tolist() == [True] * 9
    assert all_in.mask().tolist() == [True, False, False, False, True, True, True, True, True]
    assert short.mask().tolist() == [True, False, False, False, False, False, False, True, True]


def test_buying_needs_a_thousandth_of_equity_in_cash():
    player = Player(FREE).flat_at(100.0, BUY_ALL)
    player.account[CASH] = 0.001 * player.account[EQUITY]
    assert player.mask()[BUY_25]
    player.account[CASH] *= 1 - 1e-12
    assert not player.mask()[BUY_25]


@pytest.mark.parametrize("history", [(), (BUY_25,), (BUY_ALL,), SHORT])
@pytest.mark.parametrize("action", [*range(9), -1, 9, 10_000])
def test_an_illegal_action_is_a_hold(history, action):
    tried, held = (Player().flat_at(100.0, *history) for _ in range(2))
    if 0 <= action < 9 and tried.mask()[action]:
        assert action == HOLD or len(tried.play(action, 101.0)[2]) > 0
    else:
        tried.play(action, 101.0, close=103.0)
        held.play(HOLD, 101.0, close=103.0)
        assert np.array_equal(tried.account, held.account)


def test_the_account_block_of_the_observation_by_hand():
    player = Player(FREE).flat_at(100.0, BUY_50, HOLD, HOLD)  # 50 units, 5,000 cash
    assert player.observation(120.0).tolist() == [np.float32(x) for x in (6_000 / 10_000, 0.2, 0.5, 0.03)]
    player.account[EQUITY] = 11_000
    assert player.observation(120.0)[0] == np.float32(6_000 / 11_000)


def test_the_account_block_of_a_short_and_its_limits():
    player = Player(FREE).flat_at(100.0, *SHORT)
    player.play(HOLD, 150.0)  # 20,000 cash, -15,000 position, equity 5,000
    assert player.observation(150.0).tolist() == [np.float32(x) for x in (-2, -0.5, 3, 0.02)]
    player.flat_at(150.0, *[HOLD] * 120)
    assert player.observation(150.0)[3] == 1.0
    assert player.flat_at(150.0, CLOSE).observation(150.0).tolist() == [0.0, 0.0, 1.0, 0.0]


@given(st.lists(st.tuples(st.integers(0, 8), st.floats(0.8, 1.25), st.floats(0.8, 1.25)), max_size=60))
def test_every_fill_is_self_financing_and_rewards_sum_to_the_log_of_equity(steps):
    player, price, total = Player(), 100.0, 0.0
    for action, gap, move in steps:
        cash, units, price = player.account[CASH], player.account[QUANTITY], price * gap
        log_return, terminated, fills = player.play(action, price, close=price * move)
        price *= move
        total += log_return
        for fill in fills:
            cash -= fill[rules.F_BORROW] if fill[F_REASON] == rules.LIQUIDATION else 0.0
            worth = cash + units * fill[F_PRICE] - fill[F_FEE]
            cash, units = fill[F_CASH], fill[F_POSITION]
            assert cash + units * fill[F_PRICE] == pytest.approx(max(worth, 1.0), rel=1e-9)
        if terminated:
            break
        player.account[rules.BORROW] = 0.0  # counted above per bar, so that each fill's own borrow is this bar's
    assert total == pytest.approx(math.log(player.account[EQUITY] / 10_000), abs=1e-9)
    assert player.account[EQUITY] > 0


@given(st.lists(st.integers(0, 8), max_size=40), st.integers(0, 2**32))
def test_no_gap_makes_equity_other_than_positive_and_finite(actions, seed):
    player, rng = Player(), np.random.default_rng(seed)
    for action in actions:
        price, close = np.exp(rng.normal(0, 3, 2))
        _, terminated, _ = player.play(action, price, close=close)
        assert np.isfinite(player.account).all()
        assert player.account[EQUITY] > 0
        if terminated:
            break


def shaped(kind, returns, scale=0.5):
    env = EnvConfig(shaping=kind, shaping_scale=scale)
    terms, account = rules.terms_of(env, FREE, BARS_PER_YEAR), np.zeros(rules.ACCOUNT_FIELDS)
    return [(rules.shape(account, value, terms), *account[-2:]) for value in returns]


def test_without_shaping_the_term_is_zero():
    assert shaped("none", [0.1, -0.1]) == [(0.0, 0.0, 0.0)] * 2


@given(st.lists(st.floats(-0.1, 0.1), min_size=1, max_size=30))
def test_the_drawdown_terms_add_up_to_the_falls_from_the_peak(returns):
    path = np.r_[0.0, np.cumsum(returns)]
    depth = np.maximum.accumulate(path) - path
    terms = [row[0] for row in shaped("drawdown", returns)]
    assert terms == pytest.approx((-0.5 * 100 * np.maximum(np.diff(depth), 0)).tolist(), abs=1e-9)


def test_the_differential_sharpe_term_is_the_derivative_of_the_sharpe_ratio():
    returns = [0.01, -0.02, 0.015, 0.003, -0.007]
    rows = shaped("differential_sharpe", returns, scale=1.0)
    for (_, mean, square), (term, *_), value in zip(rows[1:], rows[2:], returns[2:], strict=False):

        def sharpe(rate, mean=mean, square=square, value=value):
            a, b = mean + rate * (value - mean), square + rate * (value**2 - square)
            return a / math.sqrt(b - a * a)

        assert term == pytest.approx((sharpe(1e-6) - sharpe(-1e-6)) / 2e-6, rel=1e-5)
    assert rows[0][0] == 0.0

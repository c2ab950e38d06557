"""The portfolio's account against the single-asset rulebook, hand-worked cases, identities and limits."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from configs.errors import ConfigError
from configs.schema import MultiAssetConfig
from ppo import rules as single
from ppo.portfolio import rules
from ppo.portfolio.rules import CASH, EQUITY, F_CASH, F_FEE, F_PRICE, F_REASON, FLOW, PRESENT, QUANTITY, READY
from tests.ppo.portfolio.markets import FEE, SLIP, config_of

PER_YEAR = 8_760.0


def terms_for(*settings: str) -> np.ndarray:
    config = config_of(*settings)
    return rules.terms_of(config.env, config.costs, PER_YEAR, config.multi_asset)


FREE = ("costs.fee_frac=0", "costs.slippage_frac=0", "costs.borrow_frac_per_year=0")


class Player:
    """One portfolio account that is driven row by row through the rules."""

    def __init__(self, assets: int, *settings: str) -> None:
        self.terms, self.assets = terms_for(*settings), assets
        self.account, self.legs = np.zeros(rules.ACCOUNT_FIELDS), np.zeros((assets, rules.LEG_FIELDS))
        rules.open_account(self.account, self.legs, 10_000.0)
        self.order, self.fills = np.zeros((3, assets)), np.zeros((3 * assets, rules.FILL_FIELDS))
        self.last = None

    def play(self, action, opens, *, closes=None, highs=None, lows=None, ready=None, present=None, ends=False):
        """Play one row; returns (log return, terminated, its fills)."""
        opens = np.array(opens, float)
        closes = opens if closes is None else np.array(closes, float)
        highs = np.maximum(opens, closes) if highs is None else np.array(highs, float)
        lows = np.minimum(opens, closes) if lows is None else np.array(lows, float)
        now = np.stack([opens, highs, lows, closes], axis=-1)
        prices = np.stack([now if self.last is None else self.last, now])
        everywhere = np.ones(self.assets, bool)
        ready, present = (everywhere if given is None else np.array(given) for given in (ready, present))
        flags = np.stack([np.where(ready, READY | PRESENT, 0), np.where(present, PRESENT, 0)]).astype(np.uint8)
        rules.write_order(self.account, self.legs, np.float32(action), 0, prices, flags, self.terms, self.order)
        log_return, over, count = rules.advance(
            self.account, self.legs, self.order, now, flags[1], ends, self.terms, self.fills
        )
        self.last = now
        return log_return, over, self.fills[:count].copy()

    @property
    def weights(self) -> np.ndarray:
        """At the last closes."""
        return self.legs[:, QUANTITY] * self.last[:, rules.CLOSE] / self.account[EQUITY]


@settings(max_examples=60)
@given(st.integers(0, 2**32), st.sampled_from([0.01, 0.1, 0.3]), st.sampled_from([0.0, 0.02]))
def test_one_asset_is_the_single_asset_account(seed, volatility, maintenance_shift):
    """Cash, quantity, return and end of every bar: longs, shorts, borrow, liquidations, segment ends."""
    config = config_of(f"env.maintenance_frac={0.05 + maintenance_shift}", "costs.borrow_frac_per_year=2")
    rng, count = np.random.default_rng(seed), 80
    own = Player(1, f"env.maintenance_frac={0.05 + maintenance_shift}", "costs.borrow_frac_per_year=2")
    terms = single.terms_of(config.env, config.costs, PER_YEAR)
    account, fills = np.zeros(single.ACCOUNT_FIELDS), np.zeros(single.FILL_SHAPE)
    single.open_account(account, 10_000.0)
    close = 100.0
    for bar in range(count):
        opened = close * np.exp(rng.normal(0, volatility / 3))
        close = opened * np.exp(rng.normal(0, volatility))
        high, low = max(opened, close) * (1 + rng.exponential(volatility)), min(opened, close) * 0.97
        target, ends = np.float64(np.float32(rng.choice([-1, 1, 0, 0.3, -0.4, rng.uniform(-1, 1)]))), bar % 20 == 19
        log_return, over, _ = own.play([target], [opened], closes=[close], highs=[high], lows=[low], ends=ends)
        single.trade_to(account, target, opened, terms, fills)
        other, other_over, _ = single.advance(account, 0, np.array([opened, high, close]), ends, terms, fills)
        assert over == other_over
        assert log_return == pytest.approx(other, rel=1e-9, abs=1e-12)
        assert own.account[CASH] == pytest.approx(account[single.CASH], rel=1e-9, abs=1e-7)
        assert own.legs[0, QUANTITY] == pytest.approx(account[single.QUANTITY], rel=1e-9, abs=1e-12)
        if over:
            break


def test_two_assets_round_trip_by_hand():
    """Half each at 100 and 20, then all out at 110 and 19: costs of both sides of both legs, nothing else."""
    player = Player(2)
    buying, selling = (1 + SLIP) * (1 + FEE), (1 - SLIP) * (1 - FEE)
    _, _, bought = player.play([0.5, 0.5], [100.0, 20.0])
    after = 10_000 / buying  # E' + (buying - 1) E' = 10,000, for the legs add up to E'
    assert player.legs[:, QUANTITY] == pytest.approx([after / 2 / 100, after / 2 / 20], rel=1e-12)
    assert player.account[CASH] == pytest.approx(0, abs=1e-9)
    assert bought[:, F_PRICE] == pytest.approx([100 * (1 + SLIP), 20 * (1 + SLIP)])
    _, _, sold = player.play([0.0, 0.0], [110.0, 19.0])
    expected = (after / 2 * 1.1 + after / 2 * 0.95) * selling
    assert player.account[CASH] == pytest.approx(expected, rel=1e-12)
    assert sold[-1, F_CASH] == player.account[CASH] == player.account[EQUITY]
    assert (bought[:, F_FEE].sum() + sold[:, F_FEE].sum()) == pytest.approx(
        FEE * (after * (1 + SLIP) + (after / 2 * 1.1 + after / 2 * 0.95) * (1 - SLIP)), rel=1e-12
    )


@settings(max_examples=100)
@given(st.integers(0, 2**32), st.integers(1, 5))
def test_traded_legs_hit_their_targets_after_costs_and_cash_pays_for_all(seed, assets):
    """Self-financing: equity falls by exactly the fees and the slippage; weights at the raw opens are the targets."""
    rng, player = np.random.default_rng(seed), Player(assets, "costs.borrow_frac_per_year=0")
    opens = rng.uniform(1, 100, assets)
    for _ in range(8):
        before = player.account[EQUITY]
        action = rng.uniform(-1, 1, assets)
        _, over, fills = player.play(action, opens)
        targets = np.float64(np.float32(action))
        targets /= max(1, np.abs(targets).sum())
        targets[np.abs(targets) < 0.001] = 0  # dust
        assert not over
        assert player.weights == pytest.approx(targets, abs=1e-9)
        signed = np.sign(fills[:, rules.F_QUANTITY]) * SLIP
        slippage = (fills[:, rules.F_NOTIONAL] * np.abs(signed) / (1 + signed)).sum()
        assert before - player.account[EQUITY] == pytest.approx(fills[:, F_FEE].sum() + slippage, abs=1e-6)
        assert player.legs[:, FLOW].sum() == pytest.approx(player.account[CASH] - 10_000, abs=1e-6)


@pytest.mark.parametrize(
    ("settings_", "action", "expected"),
    [
        ((), [3.0, -3.0], [0.5, -0.5]),
        (("multi_asset.gross_limit=0.6",), [0.5, -0.25], [0.4, -0.2]),
        (("multi_asset.gross_limit=2",), [1.0, -1.0], [1.0, -1.0]),
        (("multi_asset.asset_cap=0.3",), [9.0, 0.5], [0.3, 0.15]),
        (("multi_asset.allow_short=false",), [0.4, -0.9], [0.4, 0.0]),
    ],
)
def test_targets_respect_cap_side_and_gross_limit(settings_, action, expected):
    player = Player(2, *FREE, *settings_)
    player.play(action, [50.0, 7.0])
    assert player.weights == pytest.approx(expected, abs=1e-7)


def test_small_changes_are_left_alone_but_not_an_exit_or_a_change_of_side():
    player = Player(2, *FREE, "multi_asset.rebalance_threshold=0.2")  # of half the equity
    player.play([0.5, 0.05], [100.0, 100.0])
    assert player.legs[1, QUANTITY] == 0  # 0.05 away from 0: not enough
    player.play([0.3, 0.5], [100.0, 100.0])
    _, _, fills = player.play([0.38, 0.42], [100.0, 100.0])
    assert len(fills) == 0 and player.weights == pytest.approx([0.3, 0.5])
    player.play([0.05, 0.5], [100.0, 100.0])
    player.play([-0.04, 0.5], [100.0, 100.0])
    assert player.weights[0] == pytest.approx(-0.04)
    player.play([0.0, 0.5], [100.0, 100.0])
    assert player.legs[0, QUANTITY] == 0


def test_a_target_below_a_thousandth_of_equity_is_none_whoever_wants_it():
    player = Player(2, *FREE, "multi_asset.rebalance_threshold=0")
    player.play([0.5, -0.001001], [100.0, 100.0])
    assert player.weights == pytest.approx([0.5, -0.001001], rel=1e-6)
    player.play([0.000999, 0.000999], [100.0, 100.0])
    assert not player.legs[:, QUANTITY].any()
    player = Player(2, *FREE, "multi_asset.rebalance_threshold=0.2")  # of half the equity
    player.play([0.11, 0.5], [100.0, 100.0])
    _, _, fills = player.play([1e-5, 1.0], [50.0, 100.0])  # 0.06 is left alone, but the limit has room for 1e-5 of it
    assert rules.REASONS[int(fills[0, F_REASON])] == "limit"
    assert player.legs[0, QUANTITY] == 0 and player.weights[1] == pytest.approx(1, rel=1e-4)


def test_legs_left_alone_give_way_in_one_proportion_to_what_is_opened():
    player = Player(3, *FREE, "multi_asset.rebalance_threshold=0.3")
    player.play([0.4, 0.2, 0.0], [100.0, 100.0, 100.0])
    _, _, fills = player.play([0.31, 0.2, 0.49], [100.0, 100.0, 100.0])  # 0.4 + 0.2 + 0.49 would be 1.09
    assert player.weights == pytest.approx([0.4 * 0.51 / 0.6, 0.2 * 0.51 / 0.6, 0.49], abs=1e-6)
    assert [rules.REASONS[int(reason)] for reason in fills[:, F_REASON]] == ["limit", "limit", "order"]


def test_limits_know_no_threshold():
    """A short that went against its holder is bought back to the cap; two are, in proportion, to the gross limit."""
    alone = Player(1, *FREE, "multi_asset.asset_cap=0.5")
    alone.terms[rules.THRESHOLD] = 0.2
    alone.play([-1.0], [100.0])
    _, _, fills = alone.play([-1.0], [105.0])
    assert alone.weights == pytest.approx([-0.5]) and fills[:, F_REASON] == [rules.TRIMMED]
    both = Player(2, *FREE, "multi_asset.rebalance_threshold=0.2")
    both.play([-0.6, -0.4], [100.0, 100.0])
    units = both.legs[:, QUANTITY].copy()
    both.play([-0.6, -0.4], [105.0, 105.0])
    assert np.abs(both.weights).sum() == pytest.approx(1) and both.legs[:, QUANTITY] / units == pytest.approx(
        0.95 / 1.05
    )


@settings(max_examples=100)
@given(st.integers(0, 2**32), st.integers(1, 5), st.sampled_from([0.0, 0.2, 1.0]), st.sampled_from([0.6, 1.0, 2.5]))
def test_no_order_leaves_more_than_the_limits_allow(seed, assets, threshold, limit):
    """At the raw opens, without costs: unless what cannot be traded is over the limits by itself."""
    rng = np.random.default_rng(seed)
    player = Player(
        assets, *FREE, f"multi_asset.rebalance_threshold={threshold}", f"multi_asset.gross_limit={limit}",
        "multi_asset.asset_cap=0.7",
    )  # fmt: skip
    opens = np.full(assets, 100.0)
    for _ in range(12):
        ready, present = rng.random((2, assets)) < 0.8
        opens = np.where(present, opens * np.exp(rng.normal(0, 0.02, assets)), opens)
        player.play(rng.uniform(-1, 1, assets), opens, ready=ready, present=present)
        weights, free = np.abs(player.weights), ready & present
        others = weights[~free].sum()
        assert weights[free].max(initial=0) <= 0.7 + 1e-6
        assert weights[free].sum() <= max(limit - others, 0) + 1e-6


def test_a_leg_whose_bar_is_missing_counts_with_what_it_is_and_not_with_what_was_wanted():
    player = Player(2, *FREE)
    player.play([1.0, 0.0], [100.0, 100.0])
    player.play([0.0, 1.0], [100.0, 100.0], present=[False, True])
    assert player.weights == pytest.approx([1.0, 0.0])
    player = Player(2, *FREE)
    player.play([0.5, 0.5], [100.0, 100.0], present=[False, True])
    assert player.weights == pytest.approx([0.0, 0.5]), "the order for the leg without a bar is dropped"


@pytest.mark.parametrize(("assets", "action"), [(1, 0.3), (5, 0.2), (8, 0.125), (8, 1.0)])
def test_at_the_default_threshold_all_assets_of_a_portfolio_can_be_bought(assets, action):
    default = MultiAssetConfig().rebalance_threshold
    player = Player(assets, *FREE, f"multi_asset.rebalance_threshold={default}")
    player.play(np.full(assets, action), np.full(assets, 100.0))
    assert player.weights == pytest.approx(np.full(assets, min(action, 1 / assets)), abs=1e-6)
    _, _, fills = player.play(np.full(assets, action * 0.95), np.full(assets, 100.0))
    assert not len(fills), "a small change is none"


def test_an_asset_that_may_not_be_traded_keeps_its_units_and_counts_in_the_gross_limit():
    player = Player(2, *FREE)
    player.play([0.6, 0.4], [100.0, 100.0])
    units = player.legs[0, QUANTITY]
    player.play([-1.0, 1.0], [100.0, 100.0], ready=[False, True])
    assert player.legs[0, QUANTITY] == units
    assert player.weights == pytest.approx([0.6, 0.4], abs=1e-6)
    player.play([0.0, 0.2], [100.0, 100.0], present=[False, True])  # no bar to be filled on
    assert player.legs[0, QUANTITY] == units and player.weights[1] == pytest.approx(0.2)


def test_borrow_is_paid_for_shorts_on_their_own_bars_only():
    player = Player(2, "costs.borrow_frac_per_year=0.876", "costs.fee_frac=0", "costs.slippage_frac=0")
    player.play([-0.5, 0.0], [100.0, 100.0])
    assert player.account[EQUITY] == pytest.approx(10_000 - 1e-4 * 5_000)
    player.play([-0.5, 0.0], [100.0, 100.0], ready=[False, True], present=[False, True])
    assert player.account[EQUITY] == pytest.approx(10_000 - 1e-4 * 5_000)


def test_negative_cash_pays_the_rate_of_shorts_booked_to_the_longs():
    """2 x 10,000 of longs, 10,000 of them lent: 1e-4 of that a row, shared as the longs are."""
    settings_ = ("costs.borrow_frac_per_year=0.876", "costs.fee_frac=0", "costs.slippage_frac=0")
    player = Player(2, *settings_, "multi_asset.gross_limit=2", "multi_asset.asset_cap=2")
    player.play([0.75, 0.25], [100.0, 100.0])
    assert player.account[EQUITY] == pytest.approx(10_000 - 1e-4 * 10_000)
    assert player.legs[:, FLOW] == pytest.approx([-15_000 - 0.75, -5_000 - 0.25])
    assert player.account[rules.BORROW] == pytest.approx(1)


def test_a_portfolio_is_liquidated_on_the_straight_path_to_its_worst_prices():
    """Long 1 x and short 1 x of 10,000: margin 9,500 at the opens, -1,850 where the long falls to 60 while the short
    rises to 170; both are closed at the zero between."""
    player = Player(2, *FREE, "multi_asset.gross_limit=2")
    player.play([1.0, -1.0], [100.0, 100.0])
    _, over, fills = player.play([1.0, -1.0], [100.0, 100.0], highs=[100.0, 170.0], lows=[60.0, 100.0])
    first = 10_000 + 100 * 100 - 1.05 * 100 * 100
    last = 10_000 + 100 * 60 - 1.05 * 100 * 170
    share = first / (first - last)
    assert over and fills[:, F_REASON].tolist() == [rules.LIQUIDATION] * 2
    assert fills[:, F_PRICE] == pytest.approx([100 - 40 * share, 100 + 70 * share], rel=1e-12)
    short = 100 + 70 * share
    assert player.account[CASH] == pytest.approx(0.05 * 100 * short, rel=1e-9)  # what maintenance held back


def test_ruin_leaves_the_floor():
    player = Player(1, *FREE)
    player.play([-1.0], [100.0])
    log_return, over, _ = player.play([-1.0], [350.0])
    assert over and player.account[EQUITY] == 1.0 and log_return == pytest.approx(np.log(1 / 10_000))


def test_the_end_of_a_segment_closes_its_leg_alone():
    player = Player(2)
    player.play([0.5, 0.5], [100.0, 100.0])
    flags = np.array([PRESENT | rules.CLOSES, PRESENT], np.uint8)
    player.order[rules.WANTED] = 0
    _, over, count = rules.advance(
        player.account, player.legs, player.order, player.last, flags, False, player.terms, player.fills
    )
    assert not over and count == 1 and player.fills[0, F_REASON] == rules.SEGMENT_END
    assert player.legs[0, QUANTITY] == 0 and player.legs[1, QUANTITY] > 0


@given(st.integers(0, 2**62), st.integers(0, 5_000), st.integers(0, 10_000), st.integers(1, 10**6))
def test_episodes_start_where_those_of_the_single_asset_game_do(seed, env, episode, starts):
    assert rules.draw_start(seed, env, episode, starts) == single.draw_start(seed, env, episode, starts)


@pytest.mark.parametrize("kind", ["none", "drawdown", "differential_sharpe"])
def test_shaping_is_that_of_the_single_asset_game(kind):
    config = config_of(f"env.shaping={kind}")
    own = rules.terms_of(config.env, config.costs, PER_YEAR, config.multi_asset)
    other = single.terms_of(config.env, config.costs, PER_YEAR)
    mine, theirs = np.zeros(rules.ACCOUNT_FIELDS), np.zeros(single.ACCOUNT_FIELDS)
    for step in np.random.default_rng(0).normal(0, 0.01, 50):
        assert rules.shape(mine, step, own) == single.shape(theirs, step, other)


def test_a_limit_at_which_costs_eat_the_account_is_refused():
    with pytest.raises(ConfigError, match="gross_limit=20"):
        config_of("multi_asset.gross_limit=20", "costs.fee_frac=0.05")
    with pytest.raises(ConfigError, match="cost_sweep_bps"):
        config_of("multi_asset.gross_limit=20", "judging.cost_sweep_bps=[0, 600]")

"""Tracks, baselines, statistics and the trade ledger of portfolios, checked by other roads."""

import csv
import json
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ppo.baselines import moving_average_long
from ppo.baselines import rule_tracks as single_rule_tracks
from ppo.evaluate import rollout
from ppo.judge import judgement
from ppo.learner.validate import slice_spans
from ppo.ledger import write_trades
from ppo.portfolio import rules
from ppo.portfolio.align import align, portfolio_spans
from ppo.portfolio.baselines import moving_averages_long, rule_tracks, shifted
from ppo.portfolio.evaluate import PlayedPortfolio, _terms, equity_table, score
from ppo.portfolio.ledger import portfolio_trades
from ppo.portfolio.metrics import by_asset, contributions, correlations, portfolio_metrics, trading_metrics
from ppo.portfolio.play import Lane, rollouts
from ppo.portfolio.validate import PortfolioValidator
from ppo.tape import spans as tape_spans
from tests.ppo.portfolio.markets import FEE, MAX_GAP_S, config_of, random_portfolio, random_series, series
from tests.ppo.worlds import Stateless

BUY_ALL, CLOSE = 3, 7


def noise(assets: int, seed: int):
    """An agent that asks for random weights."""
    rng = np.random.default_rng(seed)
    return Stateless(lambda obs, mask: rng.uniform(-1, 1, (len(obs), assets)))


def play(tape, config, agent, spans=None):
    (track,) = rollouts(tape, [Lane(spans or portfolio_spans(tape, 0, len(tape)), _terms(config))], agent)
    return track


def test_with_one_asset_a_track_is_the_single_asset_track():
    config = config_of("multi_asset.rebalance_threshold=0.001", "judging.moving_average_bars=[3,8]")
    tape = random_series([*range(90), *range(120, 180), *range(200, 300)], 3, volatility=0.03)
    portfolio, spans = align({"A-USD": tape}, MAX_GAP_S), tape_spans(tape, 0, 250)
    inside = Stateless(lambda obs, mask: (obs[:, :1] > 0) * 1.0)
    own = play(portfolio, config, inside)
    other = rollout(tape, config, spans, Stateless(lambda obs, mask: np.where(obs[:, 0] > 0, BUY_ALL, CLOSE)))
    for name in ("row", "first", "equity"):
        assert getattr(own, name) == pytest.approx(getattr(other, name), rel=1e-9)
    assert own.held[:, 0] == pytest.approx(other.held, abs=1e-9)
    assert own.weight[:, 0] == pytest.approx(other.weight, abs=1e-9)
    assert len(own.fills) == len(other.fills) > 50
    hold = rule_tracks(portfolio, config, spans)
    theirs = single_rule_tracks(tape, config, spans, None)
    assert set(hold) == {"flat", "buy_and_hold", "moving_average", "rebalanced_monthly"}
    for name in ("flat", "buy_and_hold", "moving_average"):
        assert hold[name].equity == pytest.approx(theirs[name].equity, rel=1e-9)
        assert hold[name].fill_row.tolist() == theirs[name].fill_row.tolist()
    assert len(hold["moving_average"].fills) > 20


def test_lanes_side_by_side_play_as_each_alone():
    config, tape, spans = config_of(), random_portfolio(3, 200, 5), [(0, 90), (95, 190)]
    lanes = [
        Lane(spans, _terms(config)),
        Lane(spans[1:], _terms(config_of("costs.fee_frac=0"))),
        Lane(spans[:1], _terms(config)),
    ]
    agent = Stateless(lambda obs, mask: obs[:, :3] * 5)
    for track, lane in zip(rollouts(tape, lanes, agent), lanes, strict=True):
        (alone,) = rollouts(tape, [lane], agent)
        assert np.array_equal(track.equity, alone.equity) and np.array_equal(track.fills, alone.fills)


@settings(max_examples=15)
@given(st.integers(0, 2**32), st.sampled_from([0.005, 0.05]))
def test_the_account_is_what_the_trades_say_in_exact_fractions(tmp_path_factory, seed, volatility):
    """Rebuilt from trades.csv alone: cash after every row, units of each leg, equity at the end."""
    tape, config = random_portfolio(3, 120, seed % 1_000, volatility), config_of("multi_asset.rebalance_threshold=0.2")
    track = play(tape, config, noise(3, seed))
    path = tmp_path_factory.mktemp("ledger") / "trades.csv"
    write_trades(path, portfolio_trades(tape, track))
    cash, units, fee = Fraction(10_000), dict.fromkeys(tape.assets, Fraction(0)), Fraction(str(FEE))
    worth = Fraction(0)
    with path.open() as file:
        for row in csv.DictReader(file):
            amount, price = Fraction(row["quantity"]), Fraction(row["price"])
            sign = {"buy": 1, "sell": -1, "": 0}[row["side"]]
            cash -= Fraction(row["borrow"]) + sign * amount * price + fee * amount * price
            units[row["asset"]] += sign * amount
            if all(abs(held) < Fraction("1e-9") for held in units.values()) and row["reason"] != "mark":
                cash = max(cash, Fraction(1))
            assert abs(cash - Fraction(row["cash_after"])) <= Fraction("1e-6")
            assert abs(units[row["asset"]] - Fraction(row["quantity_after"])) <= Fraction("1e-9")
            worth += units[row["asset"]] * price if row["reason"] == "mark" else 0
    assert float(cash + worth) == pytest.approx(track.equity[-1], rel=1e-9, abs=1e-6)


def test_every_fill_is_at_a_price_of_its_own_bar():
    tape, config = random_portfolio(3, 200, 7), config_of()
    frame = portfolio_trades(tape, play(tape, config, noise(3, 1)))
    for fill in frame[frame["reason"] != "mark"].itertuples():
        k = tape.assets.index(fill.asset)
        side = 1 if fill.side == "buy" else -1
        column = {"order": rules.OPEN, "segment-end": rules.CLOSE}[fill.reason]
        assert fill.price == pytest.approx(tape.prices[fill.bar, k, column] * (1 + side * 0.0005), rel=1e-12)
        if fill.reason == "order":
            assert tape.flags[fill.bar, k] & rules.PRESENT and tape.flags[fill.bar - 1, k] & rules.READY
    assert set(frame["reason"]) == {"order", "segment-end", "mark"}


def test_contributions_add_up_to_return_and_risk():
    tape, config = random_portfolio(3, 300, 2), config_of("multi_asset.rebalance_threshold=0.3")
    track = play(tape, config, noise(3, 2))
    metrics = portfolio_metrics(track, config, "x", tape.assets)
    own = metrics["assets"].values()
    assert sum(asset["return_contribution"] for asset in own) == pytest.approx(metrics["total_return"], rel=1e-9)
    assert sum(asset["risk_contribution"] for asset in own) == pytest.approx(metrics["annual_volatility"], rel=1e-9)
    for name in ("fees_paid", "turnover", "trades", "slippage_paid"):
        assert sum(asset[name] for asset in own) == pytest.approx(metrics[name], rel=1e-9)
    assert metrics["fees_paid"] > 0 and metrics["borrow_paid"] > 0
    assert json.loads(json.dumps(metrics, allow_nan=False)) == metrics


def test_statistics_of_two_legs_by_hand():
    """A doubles while held at a half, B halves: 2,500 each way round is not the same on each leg."""
    main, other = series(range(4), [100, 100, 200, 200]), series(range(4), [100, 100, 50, 50])
    config = config_of("costs.fee_frac=0", "costs.slippage_frac=0", "costs.borrow_frac_per_year=0")
    tape = align({"A-USD": main, "B-USD": other}, MAX_GAP_S)
    plan = iter([[0.5, 0.5], [0.0, 0.0], [0.0, 0.0]])
    track = play(tape, config, Stateless(lambda obs, mask: np.array([next(plan)])))
    assert track.equity.tolist() == pytest.approx([10_000, 10_000, 12_500, 12_500])
    metrics = by_asset(track, config, tape.assets)
    assert metrics["A-USD"]["return_contribution"] == pytest.approx(0.5)
    assert metrics["B-USD"]["return_contribution"] == pytest.approx(-0.25)
    assert metrics["A-USD"]["turnover"] == pytest.approx(0.5 + 1.0)
    assert sorted(track.trips()) == pytest.approx([-2_500, 5_000])
    trading = trading_metrics(track, config)
    assert trading["hit_rate"] == 0.5 and trading["profit_factor"] == pytest.approx(2)
    assert trading["mean_gross"] == pytest.approx(1 / 3) and trading["position_changes"] == 2
    annual = track.returns.std(ddof=1) * np.sqrt(config.market.bars_per_year)
    assert sum(asset["risk_contribution"] for asset in metrics.values()) == pytest.approx(annual)


def test_contributions_to_the_mean_of_two_unlike_seeds_add_up_to_its_return_and_risk():
    """One seed holds A all the time, the other is long or short of both at random: neither sum is a mean of sums."""
    tape = random_portfolio(2, 300, 4, volatility=0.03)
    config = config_of("judging.random_shifts=20", "judging.bootstrap_samples=50", "judging.cost_sweep_bps=[]")
    hold = Stateless(lambda obs, mask: np.tile([1.0, 0.0], (len(obs), 1)))
    played = score(tape, config, portfolio_spans(tape, 0, len(tape)), [hold, noise(2, 8)])
    found = PlayedPortfolio(tape, config, played, (0, len(tape)), {}, [], "").judge({"own": 0.0})
    mean = found["mean"]
    for key, whole in (("return_contribution", "total_return"), ("risk_contribution", "annual_volatility")):
        assert sum(asset[key] for asset in mean["assets"].values()) == pytest.approx(mean[whole], rel=1e-9)
        assert np.mean([agent["metrics"][whole] for agent in found["agents"]]) != pytest.approx(mean[whole], rel=0.02)


def test_contributions_to_a_mean_by_hand():
    """Seed 0 makes 50 % with A in the second row, seed 1 loses 50 % with B in the third: +25 %, then -25 % of 1.25."""
    config = config_of("costs.fee_frac=0", "costs.slippage_frac=0", "costs.borrow_frac_per_year=0")
    main, other = series(range(3), [100, 100, 150], [100, 150, 150]), series(range(3), [100] * 3, [100, 100, 50])
    tape = align({"A-USD": main, "B-USD": other}, MAX_GAP_S)
    plans = iter([[1.0, 0.0], [0.0, 0.0]]), iter([[0.0, 0.0], [0.0, 1.0]])
    tracks = [play(tape, config, Stateless(lambda obs, mask, plan=plan: np.array([next(plan)]))) for plan in plans]
    added = contributions(tracks, config, tape.assets)
    assert added["A-USD"]["return_contribution"] == pytest.approx(0.25)
    assert added["B-USD"]["return_contribution"] == pytest.approx(-0.3125)


def test_correlations_are_of_returns_that_both_assets_have():
    rng = np.random.default_rng(0)
    common, hours = rng.normal(0, 0.01, 300), np.arange(300)
    prices = [100 * np.exp(np.cumsum(sign * common + rng.normal(0, 1e-6, 300))) for sign in (1, 1, -1)]
    late = series(hours[298:], prices[0][298:])
    tape = align(
        {name: series(hours, own) for name, own in zip(("A-USD", "B-USD", "C-USD"), prices, strict=True)}
        | {"D-USD": late},
        MAX_GAP_S,
    )
    found = correlations(tape, np.arange(300))
    assert [round(x, 2) for x in found[0][:3]] == [1, 1, -1] and found[0][3] is None
    expected = np.corrcoef(np.diff(np.log(prices[0])), np.diff(np.log(prices[1])))[0, 1]
    assert found[0][1] == pytest.approx(expected, rel=1e-9)


def test_a_shift_by_nothing_is_the_agents_own_return_and_a_full_turn_too():
    tape, config = random_portfolio(3, 250, 9), config_of("multi_asset.rebalance_threshold=0.1")
    spans = portfolio_spans(tape, 0, len(tape))
    tracks = [play(tape, config, noise(3, seed), spans) for seed in (1, 2)]
    mean = np.mean([track.returns for track in tracks], axis=0)
    found = shifted(tape, config, spans, tracks, np.array([0, len(mean), 17]))
    assert found.total_return[:2] == pytest.approx(np.prod(1 + mean) - 1, rel=1e-9)
    assert found.sharpe[:2] == pytest.approx(mean.mean() / mean.std(ddof=1), rel=1e-9)
    assert found.sharpe[2] != found.sharpe[0]


def test_holdings_of_the_baselines_by_hand():
    """Two assets, the second listed on the third bar: half of equity goes in then, from the cash that is left."""
    config = config_of("costs.fee_frac=0", "costs.slippage_frac=0")
    t0 = 24 * 5  # 19 November 2023 and on
    main = series(t0 + np.arange(600), np.r_[np.full(2, 100.0), np.full(598, 200.0)])
    other = series(t0 + np.arange(2, 600), np.full(598, 50.0))
    tape = align({"A-USD": main, "B-USD": other}, MAX_GAP_S)
    tracks = rule_tracks(tape, config, [(0, 600)])
    assert tracks["flat"].equity[-1] == 10_000 and not len(tracks["flat"].fills)
    hold = tracks["buy_and_hold"]
    assert hold.equity[3] == pytest.approx(15_000)  # 5,000 in A doubled at the open of its second bar
    assert hold.held[4] == pytest.approx([2 / 3, 1 / 3])  # what cash was left: 5,000 of 15,000
    assert tracks["buy_and_hold_B-USD"].held[4] == pytest.approx([0, 1])
    months = np.flatnonzero(tracks["rebalanced_monthly"].ordered.any(axis=1))
    assert len(months) == 3 and tracks["rebalanced_monthly"].held[months[-1]] == pytest.approx([0.5, 0.5])
    assert np.datetime64(int(tape.t[months[-1] - 1]), "s").astype(str).startswith("2023-12-01T00")


@pytest.mark.parametrize(
    ("first", "held"),
    [
        # sold at the open at which the other is bought: each is held for a half
        ([100, 110, 120, 110, 110, 110], [[0, 0], [0, 0], [0.5, 0], [11 / 23, 0], [0, 0.5], [0, 0]]),
        # trebled while it was held: at the close the cash left for the other is a quarter of equity
        ([100, 110, 120, 360, 370, 380], [[0, 0], [0, 0], [0.5, 0], [0.75, 0], [37 / 49, 0.25], [0.76, 0]]),
    ],
)
def test_the_moving_average_rule_holds_equal_weights_of_what_rises(first, held):
    """Averages over one and two bars: long where the last close was above the one before."""
    free = ("costs.fee_frac=0", "costs.slippage_frac=0", "judging.moving_average_bars=[1,2]")
    other = series(range(6), [50, 50, 50, 60, 60, 60])
    tape = align({"A-USD": series(range(6), first), "B-USD": other}, MAX_GAP_S)
    track = rule_tracks(tape, config_of(*free), [(0, 6)])["moving_average"]
    assert track.held == pytest.approx(np.array(held), abs=1e-6)


def test_averages_are_of_an_assets_own_bars():
    hours = [*range(4), 6, 7, 8, *range(20, 40)]
    alone, main = random_series(hours, 1), random_series(range(40), 2)
    tape = align({"A-USD": main, "B-USD": alone}, MAX_GAP_S)
    found = moving_averages_long(tape, 2, 4)
    assert (found[hours, 1] == moving_average_long(alone.close, alone.segment, 2, 4)).all()
    assert found[hours, 1].any() and not np.delete(found[:, 1], hours).any()


def test_judgement_and_tables_have_the_keys_of_all_families():
    tape = random_portfolio(2, 200, 3)
    config = config_of("judging.random_shifts=20", "judging.bootstrap_samples=50", "judging.cost_sweep_bps=[0,25]")
    spans = portfolio_spans(tape, 0, len(tape))
    scored = score(tape, config, spans, [noise(2, seed) for seed in range(3)])
    table = equity_table(tape, scored)
    assert {"t", "span", "close_A0-USD", "equity_seed_2", "weight_seed_0_A1-USD", "equity_mean"} <= set(table.columns)
    assert (table["equity_flat"] == 10_000).all()
    found = judgement(
        scored, config, [0.0, 0.1], lambda track, level, name: portfolio_metrics(track, level, name, tape.assets)
    )
    assert found["verdict"] in ("edge", "no evidence of an edge", "collapsed")
    assert set(found["baselines"]) == {
        "flat", "buy_and_hold", "moving_average", "rebalanced_monthly", "buy_and_hold_A0-USD", "buy_and_hold_A1-USD",
        "random",
    }  # fmt: skip
    assert found["best_baseline"]["sharpe"] >= found["baselines"]["moving_average"]["sharpe"]
    assert set(found["mean"]["assets"]) == set(tape.assets)
    free, dear = found["cost_sweep"]
    assert free["mean"]["total_return"] > dear["mean"]["total_return"]
    assert json.dumps(found, allow_nan=False)


def test_the_validator_sums_up_its_slices():
    config, tape = config_of("multi_asset.eval_slices=4"), random_portfolio(2, 300, 6)
    spans = portfolio_spans(tape, 100, 280)
    agent = Stateless(lambda obs, mask: obs[:, :2])
    found = PortfolioValidator(tape, spans, config)(agent)
    tracks = [play(tape, config, agent, [piece]) for _, piece in slice_spans(spans, 4)]
    returns = np.concatenate([track.returns for track in tracks])
    assert found.performance["sharpe"] == pytest.approx(
        returns.mean() / returns.std(ddof=1) * np.sqrt(config.market.bars_per_year)
    )
    assert len(found.slice_scores) == 4 and found.score == pytest.approx(np.mean(found.slice_scores))
    assert found.position_changes == sum(track.ordered.any(axis=1).sum() for track in tracks)
    assert 0 < found.performance["hit_rate"] < 1

"""Judging: metrics worked by hand, the verdict by cases, and what a whole judgement must hold."""

import json

import numpy as np
import pytest

from ppo.evaluate import follow, rollout
from ppo.judge import COLLAPSED, EDGE, NO_EVIDENCE, best_baseline, decide, judgement, score, summary
from ppo.metrics import mean_track, track_metrics, trading_metrics
from ppo.statistics import moments, probabilistic_sharpe
from ppo.tracks import join_tracks
from tests.ppo.worlds import COSTS, FREE, Stateless, make_tape, planted_tape, random_tape

HOLD, BUY_25, BUY_50, BUY_ALL, SELL_25, _, SELL_ALL, CLOSE, REVERSE = range(9)
GOOD_MEAN = {"sharpe_lower_bound": 1.5, "dsr": 0.99}
BEST = {"name": "buy_and_hold", "sharpe": 1.0}


def script(actions):
    remaining = iter(actions)
    return Stateless(lambda obs, mask: np.full(len(mask), next(remaining, HOLD)))


def seeds(*collapsed):
    return [{"collapsed": one} for one in collapsed]


def small(config, **judging):
    fast = {"random_shifts": 50, "bootstrap_samples": 200} | judging
    return config.model_copy(update={"judging": config.judging.model_copy(update=fast)})


def test_an_edge_needs_three_seeds(quick_config):
    verdict, reasons = decide(seeds(False, False), GOOD_MEAN, BEST, quick_config)
    assert verdict == NO_EVIDENCE
    assert [reason["rule"] for reason in reasons if not reason["holds"]] == ["enough_seeds"]


def test_an_edge_needs_all_rules(quick_config):
    assert decide(seeds(False, False, False), GOOD_MEAN, BEST, quick_config)[0] == EDGE


@pytest.mark.parametrize(
    ("mean", "failed"),
    [
        ({"sharpe_lower_bound": 0.9, "dsr": 0.99}, "sharpe_above_baselines"),
        ({"sharpe_lower_bound": 1.0, "dsr": 0.99}, "sharpe_above_baselines"),
        ({"sharpe_lower_bound": 1.5, "dsr": 0.95}, "deflated_sharpe"),
    ],
)
def test_without_one_of_them_there_is_no_evidence(quick_config, mean, failed):
    verdict, reasons = decide(seeds(False, False, False), mean, BEST, quick_config)
    assert verdict == NO_EVIDENCE
    assert [reason["rule"] for reason in reasons if not reason["holds"]] == [failed]


@pytest.mark.parametrize(
    ("flags", "verdict"),
    [
        ((True, False, False), EDGE),
        ((True, True, False), COLLAPSED),
        ((True, True, False, False), EDGE),
        ((True,), COLLAPSED),
    ],
)
def test_most_seeds_must_collapse_before_the_agent_has(quick_config, flags, verdict):
    assert decide(seeds(*flags), GOOD_MEAN, BEST, quick_config)[0] == verdict


def test_the_mean_says_collapsed_when_the_verdict_does(quick_config):
    tape, always = random_tape(1_000, 0), script([BUY_ALL])
    for agents, collapsed in (([always, blind(0)], False), ([always, script([]), blind(0)], True)):
        found = judged(small(quick_config, cost_sweep_bps=()), tape, agents)
        assert found["mean"]["collapsed"] == (found["verdict"] == COLLAPSED) == collapsed


def test_the_best_baseline_is_the_highest_and_the_classifier_is_none():
    ratios = {"flat": {"sharpe": 0.0}, "buy_and_hold": {"sharpe": -1.0}, "moving_average": {"sharpe": 0.5}}
    ratios |= {"random": {"sharpe_p95": 0.7}, "follow_classifier": {"sharpe": 9.0}}
    assert best_baseline(ratios) == {"name": "random", "sharpe": 0.7}


def test_the_reasons_name_baselines_as_a_reader_would(quick_config):
    def text(name: str) -> str:
        return decide(seeds(False), GOOD_MEAN, {"name": name, "sharpe": 1.0}, quick_config)[1][1]["text"]

    assert "the best baseline (buy & hold) has" in text("buy_and_hold")
    assert "(buy & hold of BTC-USDT)" in text("buy_and_hold_BTC-USDT")
    assert "(equal weights every month)" in text("rebalanced_monthly")


def test_trading_metrics_by_hand(quick_config):
    opens = [100.0, 100.0, 110.0, 110.0, 100.0, 100.0]
    tape = make_tape(opens, opens, opens)
    costs = FREE.model_copy(update={"fee_frac": 0.01})
    config = quick_config.model_copy(update={"costs": costs})
    track = rollout(tape, config, [(0, 6)], script([BUY_ALL, SELL_ALL, BUY_ALL, CLOSE, CLOSE]))
    found = trading_metrics(track, config)
    first = 10_000 / 1.01 * 1.1 * 0.99  # bought at 100, sold at 110
    second = first / 1.01 / 1.1 * 0.99  # bought at 110, sold at 100
    assert track.equity[-1] == pytest.approx(second)
    assert (found["trades"], found["position_changes"], found["illegal_actions"]) == (2, 4, 1)
    assert found["hit_rate"] == 0.5
    assert found["profit_factor"] == pytest.approx((first - 10_000) / (first - second))
    fees = 100 / 1.01 + 10_000 / 1.01 * 1.1 * 0.01 + first / 1.01 * 0.01 + first / 1.01 / 1.1 * 0.01
    assert found["fees_paid"] == pytest.approx(fees)
    assert found["exposure"] == pytest.approx(2 / 5)
    assert found["actions"]["buy_100"] == pytest.approx(2 / 5)
    assert found["top_weight_share"] == pytest.approx(3 / 5)


def test_an_agent_that_only_ever_sells_parts_is_seen_to_have_left(quick_config):
    tape, config = make_tape(*[[100.0] * 230] * 3), quick_config.model_copy(update={"costs": FREE})
    track = rollout(tape, config, [(0, 230)], script([BUY_ALL, *[SELL_25] * 200]))
    found = trading_metrics(track, config)
    assert (found["position_changes"], found["trades"], found["illegal_actions"]) == (26, 1, 175)
    assert found["exposure"] == pytest.approx(25 / 229)


def test_what_the_price_leaves_of_a_position_is_no_exposure_below_a_thousandth(quick_config):
    opens = [100.0] * 3 + [0.29] * 2 + [0.31] * 3  # 25 units beside 7,500: 7.25 is less than a thousandth, 7.75 is not
    tape, config = make_tape(opens, opens, opens), quick_config.model_copy(update={"costs": FREE})
    found = trading_metrics(rollout(tape, config, [(0, 8)], script([BUY_25])), config)
    assert found["exposure"] == pytest.approx(5 / 7)


def test_what_was_paid_is_what_is_missing(quick_config):
    # at a constant price all that leaves the account is fees, slippage and borrow
    tape = make_tape([100.0] * 60, [100.0] * 60, [100.0] * 60)
    config = quick_config.model_copy(update={"costs": COSTS})
    rng = np.random.default_rng(0)
    anything = Stateless(lambda obs, mask: np.array([rng.choice(np.flatnonzero(mask[0]))]))
    track = rollout(tape, config, [(0, 60)], anything)
    found = trading_metrics(track, config)
    assert found["borrow_paid"] > 0
    paid = found["fees_paid"] + found["slippage_paid"] + found["borrow_paid"]
    assert paid == pytest.approx(10_000 - track.equity[-1], rel=1e-10)


def test_slippage_is_what_the_fills_lost_against_the_opens(quick_config):
    opens = [100.0, 100.0, 200.0]
    tape = make_tape(opens, opens, opens)
    config = quick_config.model_copy(update={"costs": FREE.model_copy(update={"slippage_frac": 0.01})})
    track = rollout(tape, config, [(0, 3)], script([BUY_ALL, CLOSE]))
    units = 10_000 / 101
    assert trading_metrics(track, config)["slippage_paid"] == pytest.approx(units * (1 + 2))


def test_holding_one_position_is_collapse_and_trading_is_not(quick_config):
    tape = random_tape(500, 0)
    always, alternating = np.ones(500, bool), np.arange(500) % 20 < 10
    assert trading_metrics(follow(tape, quick_config, [(0, 500)], always), quick_config)["collapsed"]
    assert not trading_metrics(follow(tape, quick_config, [(0, 500)], alternating), quick_config)["collapsed"]


def test_few_position_changes_are_collapse_and_ten_are_not(quick_config):
    tape = random_tape(500, 0)
    for blocks, collapsed in ((4, True), (5, False)):
        long = np.arange(500) // 50 < 2 * blocks - 1
        long &= np.arange(500) // 50 % 2 == 0
        found = trading_metrics(follow(tape, quick_config, [(0, 500)], long), quick_config)
        assert (found["position_changes"], found["collapsed"]) == (2 * blocks, collapsed)


SIDES = {
    "half long": lambda mask: BUY_50 if mask[CLOSE] == 0 else HOLD,
    "short": lambda mask: BUY_ALL if mask[CLOSE] == 0 else REVERSE if mask[SELL_ALL] else HOLD,
}


@pytest.mark.parametrize(("side", "orders"), [("half long", 1), ("short", 2)])
def test_one_position_through_twelve_months_is_collapse_as_in_one(quick_config, side, orders):
    tape, holder = random_tape(600, 0), Stateless(lambda obs, mask: np.array([SIDES[side](one) for one in mask]))
    months = [[(start, start + 50)] for start in range(0, 600, 50)]
    whole = rollout(tape, quick_config, [(0, 600)], holder)
    joined = join_tracks([rollout(tape, quick_config, month, holder) for month in months])
    assert joined.ordered.sum() == 12 * orders
    for track in (whole, joined):
        found = trading_metrics(track, quick_config)
        assert found["position_changes"] == orders and found["collapsed"] and found["top_weight_share"] < 0.9


def test_a_position_taken_up_later_or_on_the_other_side_is_a_change(quick_config):
    tape, played = random_tape(40, 0), [(0, 20), (20, 40)]
    last = [HOLD] * 18  # until a span's last but one bar, at whose close the last decision falls
    for then, changes in (([BUY_ALL], 1), ([HOLD, BUY_ALL], 2), ([BUY_ALL, REVERSE], 2), ([BUY_ALL, CLOSE], 2)):
        track = rollout(tape, quick_config, played, script([BUY_ALL, *last, *then]))
        assert trading_metrics(track, quick_config)["position_changes"] == changes
    track = rollout(tape, quick_config, played, script([BUY_ALL, REVERSE, *last[1:], BUY_ALL, HOLD, REVERSE]))
    assert trading_metrics(track, quick_config)["position_changes"] == 4


def test_a_short_is_exposure_with_a_negative_weight(quick_config):
    tape = make_tape([100.0] * 11, [100.0] * 11, [100.0] * 11)
    config = quick_config.model_copy(update={"costs": FREE})
    found = trading_metrics(rollout(tape, config, [(0, 11)], script([BUY_ALL, REVERSE, HOLD, CLOSE])), config)
    assert found["exposure"] == pytest.approx(3 / 10)
    assert found["mean_weight"] == pytest.approx((1 - 1 - 1) / 10)


def test_slow_buying_of_one_position_is_collapse(quick_config):
    # 25 % of the cash until none is left: many position changes, one weight
    tape = random_tape(4_000, 0)
    buyer = Stateless(lambda obs, mask: np.array([BUY_25 if mask[0, 1] else HOLD]))
    track = rollout(tape, quick_config, [(0, 4_000)], buyer)
    found = trading_metrics(track, quick_config)
    assert found["position_changes"] > 10
    assert found["collapsed"]


def test_the_mean_of_seeds_is_the_mean_of_their_returns(quick_config):
    tape = random_tape(50, 0, segments=2)
    played = [(0, 25), (25, 50)]
    tracks = [follow(tape, quick_config, played, np.random.default_rng(i).random(50) < 0.5) for i in range(2)]
    returns, equity = mean_track(tracks)
    assert returns == pytest.approx((tracks[0].returns + tracks[1].returns) / 2)
    assert equity[0] == equity[24] / np.prod(1 + returns[:24]) == pytest.approx(10_000)
    assert equity[25] == equity[24]


def judged(config, tape, agents, trials=()):
    scored = score(tape, config, [(0, len(tape))], agents, None)
    sharpe = moments(mean_track(scored.agents)[0]).sharpe
    return judgement(scored, config, [*trials, sharpe])


def informed(obs, mask):
    """Long while the planted column says up."""
    wanted = np.where(obs[:, 0] > 0, BUY_ALL, CLOSE)
    return np.where(mask[np.arange(len(mask)), wanted], wanted, HOLD)


def blind(seed):
    rng = np.random.default_rng(seed)

    def decide(obs, mask):
        change = rng.random() < 0.05
        return np.array([rng.choice(np.flatnonzero(legal)) if change else HOLD for legal in mask])

    return Stateless(decide)


def test_knowledge_of_the_market_is_an_edge(quick_config):
    config = small(quick_config).model_copy(update={"costs": FREE})
    found = judged(config, planted_tape(2_000, 0, regime_bars=24), [Stateless(informed)] * 3)
    assert found["verdict"] == EDGE
    assert found["mean"]["sharpe_lower_bound"] > found["best_baseline"]["sharpe"]
    assert found["baselines"]["random"]["share_at_least_agents"] == 0


def test_trading_blindly_is_no_edge(quick_config):
    found = judged(small(quick_config), random_tape(2_000, 0), [blind(0), blind(1), blind(2)])
    assert found["verdict"] == NO_EVIDENCE


def test_buying_and_holding_is_collapse_whatever_it_earned(quick_config):
    closes = 100 * 1.001 ** np.arange(500) * np.exp(np.random.default_rng(0).normal(0, 0.001, 500))
    tape = make_tape(np.r_[100.0, closes[:-1]], closes * 1.01, closes)
    found = judged(small(quick_config), tape, [script([BUY_ALL] * 10) for _ in range(8)])
    assert found["verdict"] == COLLAPSED
    assert found["mean"]["psr"] > 0.95


def test_a_judgement_is_finite_json_and_the_same_twice(quick_config):
    config, tape = small(quick_config), random_tape(600, 2)
    first, second = (judged(config, tape, [blind(0), blind(1), blind(2)]) for _ in range(2))
    assert json.dumps(first, allow_nan=False) == json.dumps(second, allow_nan=False)


def test_one_trial_leaves_the_probabilistic_ratio_and_more_deflate_it(quick_config):
    config, tape = small(quick_config).model_copy(update={"costs": FREE}), random_tape(1_000, 0)
    alone = judged(config, tape, [informed_by_time()])
    among = judged(config, tape, [informed_by_time()], trials=[-0.05, 0.0, 0.05])
    returns = rollout(tape, config, [(0, 1_000)], informed_by_time()).returns
    assert alone["mean"]["dsr"] == alone["mean"]["psr"] == pytest.approx(probabilistic_sharpe(moments(returns)))
    assert among["mean"]["dsr"] < alone["mean"]["dsr"]
    assert (alone["trials"]["count"], among["trials"]["count"]) == (1, 4)


def test_the_sweep_charges_the_named_cost_and_no_slippage(quick_config):
    config, tape = small(quick_config), random_tape(400, 1)
    found = judged(config, tape, [informed_by_time()])
    assert [level["cost_bps"] for level in found["cost_sweep"]] == [0, 5, 10, 25]
    returns = [level["mean"]["total_return"] for level in found["cost_sweep"]]
    assert returns == sorted(returns, reverse=True)
    costs = config.costs.model_copy(update={"fee_frac": 0.001, "slippage_frac": 0.0})
    alone = rollout(tape, config.model_copy(update={"costs": costs}), [(0, 400)], informed_by_time())
    assert returns[2] == pytest.approx(alone.equity[-1] / 10_000 - 1)


def informed_by_time():
    """Turns its position whenever the first observed number is high; the same at every cost."""

    def decide(obs, mask):
        return np.where(obs[:, 0] > 1.5, np.where(mask[:, CLOSE], CLOSE, BUY_ALL), HOLD)

    return Stateless(decide)


def test_metrics_name_everything_that_is_promised(quick_config):
    track = follow(random_tape(200, 0), small(quick_config), [(0, 200)], np.arange(200) % 8 < 4)
    found = track_metrics(track, small(quick_config), "one")
    low, high = found["sharpe_interval"]
    assert low < found["sharpe_lower_bound"] < found["sharpe"] < high
    assert found["calmar"] == pytest.approx(found["annual_return"] / found["max_drawdown"])
    assert found["turnover_per_year"] == pytest.approx(found["turnover"] / found["years"])


def test_a_summary_is_a_small_part_of_the_whole(quick_config):
    found = judged(small(quick_config), random_tape(300, 0), [blind(0), blind(1)])
    short = summary(found)
    assert short["agents"][1]["sharpe"] == found["agents"][1]["metrics"]["sharpe"]
    assert len(json.dumps(short)) < 2_500

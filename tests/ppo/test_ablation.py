"""The ablation of pre-training: its windows, its intervals, and its units from first training to summary."""

import numpy as np
import pandas as pd
import pytest

from configs.errors import ConfigError
from configs.load import resolve
from ppo.ablation import ARMS, COLUMNS, METRICS, ablation_windows, compare, interval, outcome, pigeonhole_means
from ppo.learner.validate import Played

CONFIG = resolve("DEMO-USD_1H", "quick").config


def with_windows(count, asked):
    walk_forward = CONFIG.walk_forward.model_copy(update={"windows": count, "first_test_month": "2021-01"})
    ablation = CONFIG.ablation.model_copy(update={"windows": asked})
    return CONFIG.model_copy(update={"walk_forward": walk_forward, "ablation": ablation})


def rows_of(value) -> pd.DataFrame:
    """Two crashes and the real bars of 3 seeds x 2 windows; `value(arm, seed, window, scenario)` is every metric."""
    rows = []
    for arm in ARMS:
        for seed in range(3):
            for window in ("2021-01", "2021-07"):
                for where, scenario, script in (("real", -1, ""), ("crash", 0, "gap_open"), ("crash", 1, "slow_bleed")):
                    figures = dict.fromkeys(METRICS, value(arm, seed, window, scenario))
                    row = {"seed": seed, "window": window, "arm": arm, "where": where, "scenario": scenario}
                    rows.append(row | {"script": script, "position_changes": 5} | figures)
    return pd.DataFrame(rows, columns=list(COLUMNS))


def found(rows, where, metric):
    return next(row for row in compare(rows, CONFIG)["differences"] if (row["where"], row["metric"]) == (where, metric))


def test_windows_are_spread_from_the_first_to_the_last():
    months = [f"2021-{number:02d}" for number in range(1, 13)]
    assert ablation_windows(with_windows(12, 4)) == [months[place] for place in (0, 4, 7, 11)]
    assert ablation_windows(with_windows(3, 4)) == months[:3]
    assert ablation_windows(with_windows(12, 1)) == months[:1]


def test_a_run_without_windows_cannot_be_ablated():
    with pytest.raises(ConfigError, match=r"walk_forward\.windows=0"):
        ablation_windows(with_windows(0, 4))


def test_differences_are_paired_by_seed_window_and_scenario():
    """The pre-trained arm gains 1 on real bars, 2 and 4 on the two crashes, whatever the seed and window bring."""
    gain = {-1: 1.0, 0: 2.0, 1: 4.0}

    def value(arm, seed, window, scenario):
        return 10 * seed + (5 if window == "2021-07" else 0) + (gain[scenario] if arm == "pretrained" else 0)

    rows = rows_of(value)
    for where, difference in (("real", 1.0), ("gap_open", 2.0), ("slow_bleed", 4.0)):
        got = found(rows, where, "sharpe")
        assert (got["difference"], got["lower"], got["upper"]) == pytest.approx((difference,) * 3)
        assert got["scratch"] == pytest.approx(12.5)
        assert got["says"] == "pre-training helps"
    assert found(rows, "real", "max_drawdown")["says"] == "pre-training harms"


def test_crashes_that_differ_widen_the_interval():
    """Two scenarios that gain 2 and 4, without other spread: t of 1 degree of freedom times 1 over the root of 2."""
    rows = rows_of(lambda arm, _seed, _window, scenario: (2.0 + 2 * (scenario == 1)) * (arm == "pretrained"))
    got, half = found(rows, "crash", "sharpe"), 12.706 / np.sqrt(2)
    assert (got["difference"], got["lower"], got["upper"]) == pytest.approx((3.0, 3 - half, 3 + half), rel=0.1)
    assert got["says"] == "no difference shown"


def test_no_difference_is_said_where_the_interval_holds_zero():
    rng = np.random.default_rng(0)
    rows = rows_of(lambda *_cell: rng.normal())
    got = found(rows, "real", "log_return")
    assert got["lower"] < 0 < got["upper"]
    assert got["says"] == "no difference shown"


def test_the_order_of_rows_does_not_matter():
    rng = np.random.default_rng(1)
    rows = rows_of(lambda *_cell: rng.normal())
    shuffled = rows.sample(frac=1, random_state=0)
    # sums in another order differ in the last bit
    assert str(compare(rows, CONFIG)["seeds"]) == str(compare(shuffled, CONFIG)["seeds"])
    for one, other in zip(*(compare(each, CONFIG)["differences"] for each in (rows, shuffled)), strict=True):
        assert {k: pytest.approx(v) if isinstance(v, float) else v for k, v in one.items()} == other


def test_the_pigeonhole_bootstrap_varies_as_the_effects_of_all_factors_do():
    """D = a_i + b_j + c_k: the mean of a resample has variance Var(a) / S + Var(b) / W + Var(c) / C (population)."""
    rng = np.random.default_rng(2)
    a, b, c = rng.normal(0, 1, 5), rng.normal(0, 2, 4), rng.normal(0, 3, 7)
    difference = a[:, None, None] + b[:, None] + c
    means = pigeonhole_means(difference, 40_000, np.random.default_rng(3))
    assert means.mean() == pytest.approx(difference.mean(), abs=0.04)
    assert means.var() == pytest.approx(a.var() / 5 + b.var() / 4 + c.var() / 7, rel=0.03)


@pytest.mark.parametrize(
    ("seed_effect", "window_effect", "scenario_effect", "noise"),
    [(1, 1, 0, 1), (1, 1, 0, 0), (0, 1, 0, 1), (1, 0, 0, 1), (0, 0, 2, 1), (1, 1, 4, 1)],
)
def test_an_interval_of_95_percent_holds_the_truth_at_least_so_often(
    seed_effect, window_effect, scenario_effect, noise
):
    """5 seeds x 4 windows with normal effects around 0; x 12 scenarios where these have an effect."""
    rng, held = np.random.default_rng(4), 0
    scenarios = 12 if scenario_effect else 1
    for _ in range(400):
        effects = seed_effect * rng.normal(size=(5, 1, 1)) + window_effect * rng.normal(size=(4, 1))
        effects = effects + scenario_effect * rng.normal(size=scenarios)
        lower, upper = interval(effects + noise * rng.normal(size=(5, 4, scenarios)), 0.95, 200, rng)
        held += lower <= 0 <= upper
    assert held / 400 >= 0.94


def test_with_one_window_the_seeds_alone_decide_the_interval():
    """t of 4 degrees of freedom times the population deviation over the root of 5."""
    difference = np.array([[1.0], [2.0], [4.0], [3.0], [5.0]])
    lower, upper = interval(difference, 0.95, 40_000, np.random.default_rng(5))
    half = 2.776 * difference.std() / np.sqrt(5)
    assert (lower, upper) == pytest.approx((3 - half, 3 + half), rel=0.02)


def test_an_outcome_by_hand():
    """Log returns of two pieces in a row: +10 %, -20 %, then +5 %."""
    pieces = [np.log([1.1, 0.8]), np.log([1.05])]
    got = outcome(Played(pieces, np.array([3, 1]), np.empty(0), None), CONFIG)
    simple = np.array([0.1, -0.2, 0.05])
    assert got["log_return"] == pytest.approx(np.log(1.1 * 0.8 * 1.05))
    assert got["max_drawdown"] == pytest.approx(0.2)
    assert got["sharpe"] == pytest.approx(simple.mean() / simple.std(ddof=1) * np.sqrt(CONFIG.market.bars_per_year))
    assert got["position_changes"] == 4

"""Statistics of returns, against formulas by hand, published examples, oracle libraries and simulation."""

import math

import numpy as np
import pytest

from ppo.statistics import (
    Moments,
    annual_return,
    bootstrap_sharpes,
    deflated_sharpe,
    detectable_sharpe,
    expected_max_sharpe,
    max_drawdown,
    moments,
    optimal_block_bars,
    probabilistic_sharpe,
    sharpe_standard_error,
    sortino,
)

PAPER = Moments(n=1250, sharpe=2.5 / math.sqrt(250), skew=-3.0, kurtosis=10.0)
"""Bailey & Lopez de Prado 2014, numerical example: five years of daily returns, annual Sharpe 2.5."""
PAPER_VARIANCE = 0.5 / 250


def normal_returns(n, sharpe=0.0, seed=0):
    return np.random.default_rng(seed).normal(sharpe, 1.0, n) * 0.01


def skewed_returns(samples, n):
    draws = np.random.default_rng(1).exponential(1.0, (samples, n))
    return 0.01 * (0.9 - draws) + 0.004


def test_the_papers_example_is_reproduced():
    threshold = expected_max_sharpe(PAPER_VARIANCE, 100)
    assert threshold == pytest.approx(0.1132, abs=5e-5)
    assert probabilistic_sharpe(PAPER, threshold) == pytest.approx(0.9004, abs=5e-5)


def test_the_papers_other_cases_are_reproduced():
    normal = Moments(PAPER.n, PAPER.sharpe, 0.0, 3.0)
    assert probabilistic_sharpe(PAPER, expected_max_sharpe(PAPER_VARIANCE, 46)) == pytest.approx(0.9505, abs=5e-5)
    assert probabilistic_sharpe(normal, expected_max_sharpe(PAPER_VARIANCE, 88)) == pytest.approx(0.9505, abs=5e-5)


def test_one_trial_is_not_deflated():
    assert deflated_sharpe(PAPER, [PAPER.sharpe]) == (probabilistic_sharpe(PAPER, 0.0), 0.0)


def test_more_trials_deflate_more():
    spread = [PAPER.sharpe, 0.0, 0.05]
    few, many = deflated_sharpe(PAPER, spread), deflated_sharpe(PAPER, spread * 10)
    assert probabilistic_sharpe(PAPER) > few[0] > many[0]


def test_expected_maximum_matches_simulated_trials():
    best = np.random.default_rng(3).normal(0.0, 0.2, (20_000, 50)).max(axis=1)
    assert expected_max_sharpe(0.2**2, 50) == pytest.approx(best.mean(), rel=0.02)


def test_moments_match_scipy():
    stats = pytest.importorskip("scipy.stats")
    returns = skewed_returns(1, 500)[0]
    found = moments(returns)
    assert found.skew == pytest.approx(stats.skew(returns))
    assert found.kurtosis == pytest.approx(stats.kurtosis(returns, fisher=False))


def test_ratios_match_quantstats():
    quantstats = pytest.importorskip("quantstats")
    pandas = pytest.importorskip("pandas")
    returns = normal_returns(750, sharpe=0.05)
    series = pandas.Series(returns, index=pandas.date_range("2020-01-01", periods=len(returns)))
    equity = np.concatenate([[1.0], np.cumprod(1 + returns)])
    stats = quantstats.stats
    assert moments(returns).sharpe * math.sqrt(252) == pytest.approx(stats.sharpe(series, periods=252))
    assert sortino(returns) * math.sqrt(252) == pytest.approx(stats.sortino(series, periods=252))
    assert max_drawdown(equity) == pytest.approx(-stats.max_drawdown(series))
    assert annual_return(equity[-1] - 1, len(returns) / 252) == pytest.approx(stats.cagr(series, periods=252), rel=1e-3)


@pytest.mark.parametrize("kind", ["normal", "skewed"])
def test_standard_error_matches_the_spread_over_simulated_histories(kind):
    if kind == "normal":
        histories = np.random.default_rng(2).normal(0.3, 1.0, (4_000, 400))
    else:
        histories = skewed_returns(4_000, 400)
    found = [moments(history) for history in histories]
    spread = np.std([one.sharpe for one in found])
    assert np.mean([sharpe_standard_error(one) for one in found]) == pytest.approx(spread, rel=0.05)


def test_a_series_without_variation_has_no_ratio_and_no_certainty():
    flat = np.zeros(100)
    assert moments(flat) == Moments(100, 0.0, 0.0, 3.0)
    assert probabilistic_sharpe(moments(flat)) == 0.5
    assert not bootstrap_sharpes(flat, 1.0, 10, np.random.default_rng(0)).any()
    assert optimal_block_bars(flat) == 1.0


def test_bootstrap_interval_covers_the_true_ratio_of_independent_returns():
    rng = np.random.default_rng(5)
    covered = 0
    for history in range(200):
        returns = normal_returns(300, sharpe=0.1, seed=1_000 + history)
        low, high = np.quantile(bootstrap_sharpes(returns, 1.0, 300, rng), [0.025, 0.975])
        covered += low <= 0.1 <= high
    assert 0.90 <= covered / 200 <= 0.985


def test_bootstrap_spread_matches_arch():
    bootstrap = pytest.importorskip("arch.bootstrap")
    returns = autocorrelated(500)
    ours = bootstrap_sharpes(returns, 8.0, 2_000, np.random.default_rng(0))
    theirs = bootstrap.StationaryBootstrap(8, returns, seed=0).apply(lambda x: x.mean() / x.std(ddof=1), 2_000)
    assert np.std(ours) == pytest.approx(np.std(theirs), rel=0.1)
    assert np.mean(ours) == pytest.approx(np.mean(theirs), abs=0.01)


def test_blocks_widen_the_interval_of_autocorrelated_returns():
    returns = autocorrelated(1_000)
    block = optimal_block_bars(returns)
    alone, blocks = (bootstrap_sharpes(returns, b, 1_000, np.random.default_rng(0)).std() for b in (1.0, block))
    assert block > 5
    assert blocks > 1.3 * alone


def autocorrelated(n):
    noise = np.random.default_rng(4).normal(0.0, 0.01, n)
    for i in range(1, n):
        noise[i] += 0.6 * noise[i - 1]
    return noise


def test_a_detectable_ratio_is_detected_as_often_as_promised():
    n, baseline = 250, 0.1
    true, noise = detectable_sharpe(n, 0.95, 0.8), np.random.default_rng(6).normal(0.0, 1.0, (4_000, n))

    def found(sharpe, above):
        ratios = (noise + sharpe).mean(axis=1) / noise.std(axis=1, ddof=1)
        return np.mean(ratios - 1.645 / math.sqrt(n) > above)

    assert found(true, 0) == pytest.approx(0.8, abs=0.03)
    assert found(true, baseline) < 0.3, "it is against 0"
    assert found(true + baseline, baseline) == pytest.approx(0.8, abs=0.03)


def test_a_year_of_hourly_bars_detects_about_two_and_a_half():
    # 1.645 + 0.842 standard errors of one year
    assert detectable_sharpe(8_760, 0.95, 0.8) * math.sqrt(8_760) == pytest.approx(2.486, abs=0.01)


def test_drawdown_by_hand():
    assert max_drawdown(np.array([100.0, 120.0, 90.0, 130.0, 117.0])) == pytest.approx(0.25)


def test_sortino_by_hand():
    # mean 0.01; downside sqrt((0.02^2) / 4) = 0.01
    assert sortino(np.array([0.03, -0.02, 0.01, 0.02])) == pytest.approx(1.0)
    assert sortino(np.array([0.01, 0.02])) is None


def test_a_return_that_compounds_beyond_numbers_is_undefined():
    assert annual_return(0.21, 2.0) == pytest.approx(0.1)
    assert annual_return(10.0, 1e-4) is None
    assert annual_return(-1.0, 1.0) is None


def test_scoring_equal_agents_again_never_raises_the_deflated_ratio():
    once = [deflated_sharpe(PAPER, [PAPER.sharpe, 0.0] + [PAPER.sharpe] * again)[0] for again in range(20)]
    assert all(later <= earlier for earlier, later in zip(once, once[1:], strict=False))

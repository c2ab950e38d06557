"""Classification metrics against sklearn; no-skill rules and the skill verdict on markets without skill."""

import json
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm
from sklearn import metrics as oracle

from configs.schema import LabelsConfig
from tests.training.feature_samples import bars_of
from training.indicators import window_moments
from training.labels import classes, fit_delta, known_part, label_values
from training.metrics import (
    Scoring,
    ThresholdRule,
    accuracy,
    area_under,
    bootstrap_means,
    calibration_error,
    classification_report,
    confusion_matrix,
    log_loss,
    matthews_correlation,
    most_likely,
    no_skill_calls,
    precision_recall_f1,
    roc,
    skill,
    skill_report,
    stationary_bootstrap_indices,
)
from training.streams import stream

LABELS = [-1, 0, 1]


def sample(seed, n=400, present=3, coarse=False):
    """Truth of `present` classes, and probabilities that know something of it."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, present, n).astype(np.int8) - 1
    score = rng.gumbel(size=(n, 3)) + np.eye(3)[truth + 1]
    probability = np.exp(score) / np.exp(score).sum(axis=1, keepdims=True)
    return truth, np.round(probability * 4) / 4 if coarse else probability


@pytest.mark.filterwarnings("ignore:A single label was found")
@settings(max_examples=60)
@given(seed=st.integers(0, 2**32 - 1), present=st.integers(1, 3), n=st.integers(3, 200))
def test_counts_and_scores_equal_sklearn(seed, present, n):
    truth, probability = sample(seed, n, present)
    calls = most_likely(probability)
    confusion = confusion_matrix(truth, calls)
    np.testing.assert_array_equal(confusion, oracle.confusion_matrix(truth, calls, labels=LABELS))
    assert accuracy(confusion) == pytest.approx(oracle.accuracy_score(truth, calls))
    wanted = oracle.precision_recall_fscore_support(truth, calls, labels=LABELS, zero_division=0)
    np.testing.assert_allclose(precision_recall_f1(confusion), wanted[:3])
    assert matthews_correlation(confusion) == pytest.approx(oracle.matthews_corrcoef(truth, calls), abs=1e-12)
    assert log_loss(truth, probability) == pytest.approx(oracle.log_loss(truth, probability, labels=LABELS))


@settings(max_examples=60)
@given(seed=st.integers(0, 2**32 - 1), coarse=st.booleans(), label=st.sampled_from(LABELS))
def test_roc_and_its_area_equal_sklearn_also_with_ties(seed, coarse, label):
    truth, probability = sample(seed, coarse=coarse)
    score = probability[:, label + 1]
    false_rate, true_rate, _ = oracle.roc_curve(truth == label, score, drop_intermediate=False)
    got = roc(truth, score, label)
    np.testing.assert_allclose(got[0], false_rate)
    np.testing.assert_allclose(got[1], true_rate)
    assert area_under(*got) == pytest.approx(oracle.roc_auc_score(truth == label, score))


def test_calibration_error_worked_by_hand():
    truth = np.array([1, 1, 0, -1], np.int8)
    probability = np.array([[0.1, 0.1, 0.8], [0.1, 0.1, 0.8], [0.1, 0.1, 0.8], [0.5, 0.25, 0.25]])
    # one bin holds three calls at 0.8, two right; another one call at 0.5, right
    assert calibration_error(truth, probability) == pytest.approx(3 / 4 * (0.8 - 2 / 3) + 1 / 4 * 0.5)


def test_calls_as_sure_as_they_are_right_have_no_calibration_error():
    rng = np.random.default_rng(0)
    probability = rng.dirichlet([1, 1, 1], 200_000)
    truth = (rng.random(200_000)[:, None] > probability.cumsum(axis=1)).sum(axis=1).astype(np.int8) - 1
    assert calibration_error(truth, probability) < 0.005
    assert calibration_error(truth, np.eye(3)[most_likely(probability) + 1]) > 0.3


def test_a_report_is_json_also_when_a_class_never_occurs():
    truth, probability = sample(1, present=2)
    report = json.loads(json.dumps(classification_report(truth, probability), allow_nan=False))
    assert report["classes"]["rise"]["auc"] is None and report["classes"]["rise"]["bars"] == 0
    assert report["classes"]["fall"]["auc"] > 0.5
    assert np.sum(report["confusion"]) == report["bars"] == truth.size


# -- no-skill rules --------------------------------------------------------------------------------------------


@settings(max_examples=40)
@given(seed=st.integers(0, 2**32 - 1), n=st.integers(1, 18), ties=st.booleans())
def test_a_threshold_rule_is_the_best_of_all_two_threshold_rules(seed, n, ties):
    rng = np.random.default_rng(seed)
    signal = rng.integers(0, 5, n).astype(float) if ties else rng.normal(size=n)
    truth = rng.integers(-1, 2, n).astype(np.int8)
    best = 0
    for low, high in product([*np.unique(signal), np.inf], repeat=2):
        parts = [signal < low, (signal >= low) & (signal < high), (signal >= low) & (signal >= high)]
        best = max(best, sum(max(np.sum(truth[part] == label) for label in LABELS) for part in parts))
    assert np.sum(ThresholdRule.fit(signal, truth).calls(signal) == truth) == best


def test_a_threshold_rule_calls_the_majority_where_its_signal_is_missing():
    rule = ThresholdRule.fit(np.array([np.nan, -1.0, 1.0, 2.0]), np.array([1, -1, 1, 1], np.int8))
    assert rule.calls(np.array([np.nan, -5.0, 5.0])).tolist() == [1, -1, 1]


def test_rules_see_their_training_rows_only():
    truth, probability = sample(2, 600)
    signals = {"known_part": probability[:, 2], "volatility": probability[:, 1]}
    fitted, scored = np.arange(300), np.arange(300, 600)
    before = no_skill_calls(truth, signals, fitted, scored)
    other = truth.copy()
    other[300:] = 1
    after = no_skill_calls(other, signals, fitted, scored)
    assert set(before) == {"majority", "known_part", "volatility"}
    for name, calls in before.items():
        np.testing.assert_array_equal(calls, after[name])
    assert len(set(before["majority"].tolist())) == 1


def walk_labels(returns, kind, fit_stop, k=20):
    """Truth, signals and rows of a return series: threshold and rules belong to the bars before `fit_stop`."""
    close = np.exp(np.cumsum(returns))
    bars, config = bars_of(close, close, close, close, close), LabelsConfig(kind=kind, horizon_bars=k)
    values = label_values(bars, config)
    fitted, scored = np.arange(100, fit_stop - k), np.arange(fit_stop, close.size - k)
    truth = classes(values, fit_delta(values, fitted, config))
    signals = {"known_part": known_part(bars, config), "volatility": window_moments(returns, k)[1]}
    return truth, signals, (fitted, scored)


def garch(n, rng, arch=0.08, persistence=0.9, sigma=0.01):
    """Returns of a driftless GARCH(1,1) martingale."""
    noise, returns, variance = rng.standard_normal(n), np.empty(n), sigma**2
    for i in range(n):
        returns[i] = np.sqrt(variance) * noise[i]
        variance = sigma**2 * (1 - arch - persistence) + arch * returns[i] ** 2 + persistence * variance
    return returns


def best_share_known(k):
    """Share of right calls of the best rule that knows p_t - m- of a `smoothed` label on a random walk, delta at 1/3.

    p_t - m- weighs the last k - 1 returns with i/k, m+ - p_t the next k with i/k: two independent
    normals, so the label and its known part correlate by rho; integrate the likeliest class over the latter.
    """
    weights = np.arange(1, k + 1) / k
    rho = np.sqrt(np.sum(weights[:-1] ** 2) / (np.sum(weights[:-1] ** 2) + np.sum(weights**2)))
    known, third = np.linspace(-8, 8, 20_001), norm.ppf(2 / 3)
    rise = norm.sf((third - rho * known) / np.sqrt(1 - rho**2))
    likeliest = np.max([rise, rise[::-1], 1 - rise - rise[::-1]], axis=0)
    return np.trapezoid(likeliest * norm.pdf(known), known)


def test_the_known_part_of_smoothed_labels_predicts_a_random_walk_ever_better_with_the_horizon():
    assert [round(best_share_known(k), 3) for k in (20, 50, 100, 10_000)] == [0.574, 0.583, 0.586, 0.589]


@pytest.mark.parametrize(("k", "tolerance"), [(20, 0.01), (100, 0.02)])
def test_a_pure_random_walk_is_predicted_by_the_known_part_of_smoothed_labels(k, tolerance):
    returns = np.random.default_rng(0).normal(0, 0.002, 600_000)
    truth, signals, (fitted, scored) = walk_labels(returns, "smoothed", 200_000, k)
    called = no_skill_calls(truth, signals, fitted, scored)
    assert np.mean(called["known_part"] == truth[scored]) == pytest.approx(best_share_known(k), abs=tolerance)


def test_a_pure_random_walk_is_not_predicted_under_forward_labels():
    truth, signals, (fitted, scored) = walk_labels(
        np.random.default_rng(0).normal(0, 0.002, 400_000), "forward", 200_000
    )
    for name, calls in no_skill_calls(truth, signals, fitted, scored).items():
        assert np.mean(calls == truth[scored]) == pytest.approx(1 / 3, abs=0.015), name


# -- skill -----------------------------------------------------------------------------------------------------


def persistent(n, rng, stay):
    """Calls that have nothing to do with the market and change with probability 1 - stay."""
    fresh = rng.random(n) > stay
    fresh[0] = True
    return rng.integers(-1, 2, n)[np.maximum.accumulate(np.where(fresh, np.arange(n), 0))]


def skill_of(truth, signals, rows, calls, rng):
    called = no_skill_calls(truth, signals, *rows)
    right = {name: rule == truth[rows[1]] for name, rule in called.items()}
    return skill(calls == truth[rows[1]], right, 20, rng, samples=200)


@pytest.mark.parametrize("kind", ["forward", "smoothed"])
def test_no_unskilled_classifier_shows_skill_on_martingales(kind):
    found = 0
    for world in range(12):
        rng = stream(world, "martingale")
        truth, signals, rows = walk_labels(garch(6_000, rng), kind, 4_500)
        momentum = np.sign(signals["known_part"][rows[1]])
        for calls in (momentum, -momentum, *(persistent(rows[1].size, rng, stay) for stay in (0, 0.9, 0.99))):
            found += skill_of(truth, signals, rows, calls, rng).skilled
    assert found <= 3  # 60 verdicts, of which 5 % may err


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["forward", "smoothed"])
def test_a_model_of_known_part_and_volatility_together_shows_skill_in_at_most_its_five_percent(kind):
    """The hardest unskilled rival of the rules: it may use jointly what they use one by one."""
    from sklearn.ensemble import HistGradientBoostingClassifier

    found = []
    for world in range(60):
        rng = stream(world, "martingale")
        truth, signals, rows = walk_labels(garch(14_000, rng), kind, 10_500)
        known = np.column_stack(list(signals.values()))
        joint = HistGradientBoostingClassifier(max_iter=40, max_leaf_nodes=8, min_samples_leaf=100)
        calls = joint.fit(known[rows[0]], truth[rows[0]]).predict(known[rows[1]])
        found.append(skill_of(truth, signals, rows, calls, rng).skilled)
    assert np.mean(found) <= 0.05 + 2 * np.sqrt(0.05 * 0.95 / 60)


def test_a_classifier_that_knows_something_shows_skill():
    for world in range(5):
        rng = stream(world, "skilled")
        truth, signals, rows = walk_labels(garch(6_000, rng), "forward", 4_500)
        told = rng.random(rows[1].size) < 0.35
        calls = np.where(told, truth[rows[1]], rng.integers(-1, 2, rows[1].size))
        found = skill_of(truth, signals, rows, calls, rng)
        assert found.skilled and found.lower < found.difference
        assert found.accuracy - found.best_rule_accuracy == pytest.approx(found.difference)


def test_the_rival_is_the_rule_that_is_best_on_the_scored_bars():
    right = np.ones(500, bool)
    rules = {"majority": np.arange(500) % 3 == 0, "known_part": np.arange(500) % 2 == 0, "volatility": ~right}
    found = skill(right, rules, 20, np.random.default_rng(0))
    assert found.best_rule == "known_part" and found.difference == 0.5 and found.bars == 500
    assert not skill(rules["known_part"], rules, 20, np.random.default_rng(0)).skilled


def test_a_skill_report_is_json_and_directional_skill_counts_rise_and_fall_bars_alone():
    rng = stream(0, "directional")
    truth, signals, rows = walk_labels(garch(6_000, rng), "forward", 4_500)
    probability = np.full((truth.size, 3), 0.2)
    probability[np.arange(truth.size), np.where(truth == 0, 1, truth + 1)] += 0.4
    probability[truth == 0] = [0.6, 0.2, 0.2]  # wrong on every Stationary bar, right on all others
    report = json.loads(
        json.dumps(skill_report([Scoring(truth, *rows)], probability, signals, 20, rng), allow_nan=False)
    )
    moved = np.sum(truth[rows[1]] != 0)
    assert report["directional"]["accuracy"] == 1 and report["directional"]["bars"] == moved
    assert report["skill"]["accuracy"] == pytest.approx(moved / rows[1].size)
    assert set(report["no_skill"]) == {"majority", "known_part", "volatility"}
    assert report["directional"]["skilled"] and report["skill"]["skilled"]


def test_each_model_is_scored_against_rules_fitted_on_its_own_rows_by_its_own_threshold():
    majority = np.array([1, 1, 1, 0, 1, 0, -1, -1, -1, -1, -1, 0], dtype=np.int8)
    other = -majority
    parts = [
        Scoring(majority, np.arange(4), np.arange(4, 6)),  # fitted on mostly Rise: Rise, then Stationary
        Scoring(other, np.arange(6, 10), np.arange(10, 12)),  # by the other truth these are mostly Rise too
    ]
    probability = np.zeros((12, 3))
    probability[:, 2] = 1
    report = skill_report(parts, probability, {}, 1, np.random.default_rng(0))
    assert report["no_skill"] == {"majority": 0.5}
    assert report["skill"]["accuracy"] == 0.5 and report["skill"]["bars"] == 4
    assert report["directional"]["accuracy"] == 1 and report["directional"]["bars"] == 2
    swapped = [Scoring(majority, np.arange(6, 10), np.arange(4, 6)), parts[1]]
    assert skill_report(swapped, probability, {}, 1, np.random.default_rng(0))["no_skill"] == {"majority": 0.25}


# -- stationary bootstrap --------------------------------------------------------------------------------------


def test_bootstrap_blocks_run_in_a_circle_and_have_their_mean_length():
    index = stationary_bootstrap_indices(1_000, 40, 400, np.random.default_rng(0))
    assert index.shape == (400, 1_000) and index.min() == 0 and index.max() == 999
    follows = (index[:, 1:] - index[:, :-1]) % 1_000 == 1
    assert 1 / np.mean(~follows) == pytest.approx(40, rel=0.05)
    assert np.bincount(index.ravel(), minlength=1_000).std() < 0.2 * 400  # no position is favoured


def test_the_variance_of_bootstrap_means_is_politis_and_romano_s():
    rng = np.random.default_rng(1)
    n, block = 400, 25
    x = np.convolve(rng.normal(size=n + 9), np.ones(10), "valid")
    centred = x - x.mean()
    lag = np.arange(n)
    circular = np.array([centred @ np.roll(centred, -i) for i in lag]) / n
    # variance of a mean whose samples i apart lie in one block with probability (1 - p)^i
    weight = (1 - lag / n) * (1 - 1 / block) ** lag
    wanted = (circular[0] + 2 * np.sum(weight[1:] * circular[1:])) / n
    means = bootstrap_means(x, block, 20_000, rng)
    assert means.size == 20_000
    assert means.var() == pytest.approx(wanted, rel=0.05)
    assert means.mean() == pytest.approx(x.mean(), abs=0.02)

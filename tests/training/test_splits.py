"""Who may be fitted on what: purging, folds and parts, by brute force."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from skfolio.model_selection import WalkForward

from configs.calendar import month_of
from configs.needs import test_bars, warmup_bars
from configs.schema import LabelsConfig, SplitsConfig
from tests.training.feature_samples import changed_after, config_of, random_walk
from training.features import compute
from training.labels import fit_delta, label_values
from training.splits import (
    bars_needed,
    early_stop_split,
    first_piece_bars,
    folds,
    month_counts,
    split,
    training_rows,
    validation_bars,
    window_ready,
)

test_bars.__test__ = False  # a function of the library, not a test


def test_parts_are_chronological_and_cover_every_bar():
    parts = split(17_491, SplitsConfig())
    assert (parts.train, parts.validation, parts.test) == ((0, 10_495), (10_495, 13_993), (13_993, 17_491))


@settings(max_examples=200)
@given(n=st.integers(10, 10**6), train=st.integers(10, 80), validation=st.integers(5, 15))
def test_parts_have_their_shares_to_one_bar(n, train, validation):
    parts = split(n, SplitsConfig(train_frac=train / 100, validation_frac=validation / 100))
    assert parts.train[0] == 0 and parts.test[1] == n
    assert parts.train[1] == parts.validation[0] and parts.validation[1] == parts.test[0]
    assert abs(parts.train[1] - n * train / 100) <= 1
    assert abs(parts.test[0] - n * (train + validation) / 100) <= 1


@settings(max_examples=200)
@given(n=st.integers(700, 5_000), n_folds=st.integers(1, 8), k=st.integers(1, 40))
def test_no_label_of_a_training_row_reads_a_bar_from_the_first_predicted_on(n, n_folds, k):
    for fold in folds(split(n, SplitsConfig()), n_folds, k):
        f = fold.predict_start
        rows = training_rows(f, k)
        assert rows.size == fold.fit_stop
        assert max(row + k for row in rows) == f - 1  # complete before f, and no bar is wasted


@pytest.mark.parametrize("kind", ["forward", "smoothed"])
def test_labels_and_threshold_of_a_model_do_not_change_when_every_bar_it_predicts_does(kind):
    config = LabelsConfig(kind=kind)
    bars, k = random_walk(1_500, seed=7, segments=(500, 640)), config.horizon_bars
    before = label_values(bars, config)
    for fold in folds(split(len(bars), SplitsConfig()), 4, k):
        f = fold.predict_start
        rows = training_rows(f, k, ~np.isnan(before))
        after = label_values(changed_after(bars, f - 1, np.random.default_rng(f)), config)
        assert before[rows].tobytes() == after[rows].tobytes()
        assert fit_delta(before, rows, config) == fit_delta(after, rows, config)
        assert before[f - k] != after[f - k]  # one row more would have read the future


@settings(max_examples=200)
@given(n=st.integers(400, 5_000), n_folds=st.integers(1, 8))
def test_every_bar_after_the_first_piece_is_predicted_once(n, n_folds):
    parts = split(n, SplitsConfig())
    chain = folds(parts, n_folds, 20)
    predicted = np.concatenate([np.arange(fold.predict_start, fold.predict_stop) for fold in chain])
    assert len(chain) == n_folds + 1
    assert predicted.tolist() == list(range(chain[0].predict_start, n))
    assert (chain[-1].predict_start, chain[-1].predict_stop) == (parts.train[1], n)
    sizes = [chain[0].predict_start, *(fold.predict_stop - fold.predict_start for fold in chain[:-1])]
    assert max(sizes) - min(sizes) <= 1


def test_the_folds_are_skfolio_s_purged_expanding_walk_forward():
    k, n_folds = 20, 4
    parts = split(5_000, SplitsConfig())  # train part: 3,000 bars, pieces of 600
    oracle = WalkForward(test_size=600, train_size=600 - k, purged_size=k, expand_train=True)
    wanted = list(oracle.split(np.zeros((parts.train[1], 1))))
    got = folds(parts, n_folds, k)[:-1]
    assert len(got) == len(wanted) == n_folds
    for fold, (train, test) in zip(got, wanted, strict=True):
        np.testing.assert_array_equal(training_rows(fold.predict_start, k), train)
        np.testing.assert_array_equal(np.arange(fold.predict_start, fold.predict_stop), test)


def test_training_rows_are_the_usable_ones():
    usable = np.zeros(100, bool)
    usable[[3, 50, 78, 79, 80, 99]] = True
    assert training_rows(100, 20, usable).tolist() == [3, 50, 78, 79]
    assert training_rows(5, 20, usable).size == 0


@settings(max_examples=200)
@given(rows=st.sets(st.integers(0, 3_000), min_size=60), k=st.integers(1, 40))
def test_no_fitted_label_reads_an_early_stopping_bar(rows, k):
    rows = np.array(sorted(rows))
    fitting, stopping = early_stop_split(rows, k, 0.15)
    assert stopping.tolist() == rows[-math.ceil(0.15 * rows.size) :].tolist()
    assert all(row + k < stopping[0] for row in fitting)
    left_out = rows[fitting.size : rows.size - stopping.size]
    assert all(row + k >= stopping[0] for row in left_out)


def test_rows_that_a_warm_start_was_fitted_on_never_decide_the_epoch():
    fitting, stopping = early_stop_split(np.arange(100), 5, 0.4, first_unseen=75)
    assert stopping.tolist() == list(range(75, 100))
    assert fitting.tolist() == list(range(70))
    assert early_stop_split(np.arange(100), 5, 0.4, first_unseen=50)[1].tolist() == list(range(60, 100))


def test_a_window_is_ready_when_all_its_bars_have_features_of_one_segment():
    config = config_of()
    bars = random_walk(600, segments=(150, 180, 400))
    ready, lookback = ~np.isnan(compute(bars, config.features)[:, 0]), 60
    wanted = [
        t >= lookback - 1
        and ready[t - lookback + 1 : t + 1].all()
        and len(set(bars.segment[t - lookback + 1 : t + 1])) == 1
        for t in range(len(bars))
    ]
    got = window_ready(bars.segment, warmup_bars(config.features), lookback)
    assert got.tolist() == wanted


@pytest.mark.parametrize(
    "changes",
    [
        (),
        ("classifiers.folds=1",),
        ("labels.horizon_bars=100",),
        ("splits.validation_frac=0.05",),
        ("splits.train_frac=0.75",),
        ("classifiers.lookback_bars=300", "features.macd=[50,200,9]"),
    ],
)
def test_from_bars_needed_on_every_model_and_part_has_enough(changes):
    config = config_of("ADA-EUR_1H", *changes)
    needed = bars_needed(config)
    for n in range(needed, needed + 300):
        parts = split(n, config.splits)
        chain = folds(parts, config.classifiers.folds, config.labels.horizon_bars)
        assert chain[0].predict_start >= first_piece_bars(config)
        assert parts.validation[1] - parts.validation[0] >= validation_bars(config)
        assert parts.test[1] - parts.test[0] >= test_bars(config)
    parts = split(int(0.98 * needed), config.splits)
    piece = folds(parts, config.classifiers.folds, config.labels.horizon_bars)[0].predict_start
    assert (
        piece < first_piece_bars(config)
        or parts.validation[1] - parts.validation[0] < validation_bars(config)
        or parts.test[1] - parts.test[0] < test_bars(config)
    ), "fewer bars would do"


def test_with_the_bars_needed_the_first_model_can_be_fitted_and_stopped():
    config = config_of()
    bars = random_walk(bars_needed(config), seed=1)
    k = config.labels.horizon_bars
    labelled = ~np.isnan(label_values(bars, LabelsConfig()))
    ready = window_ready(bars.segment, warmup_bars(config.features), config.classifiers.lookback_bars)
    first = folds(split(len(bars), config.splits), config.classifiers.folds, k)[0]
    rows = training_rows(first.predict_start, k, ready & labelled)
    fitting, stopping = early_stop_split(rows, k, config.classifiers.early_stop_frac)
    assert stopping.size >= 2 * k and fitting.size >= 5 * k


@pytest.mark.parametrize("segments", [(), (700, 705, 1_440), (40, 650)])
def test_month_counts_are_those_of_the_bars_that_have_a_window_and_a_label_or_a_next_bar(segments):
    bars, config = random_walk(2_000, segments=segments), config_of()
    ready = window_ready(bars.segment, 30, 16)
    labelled = ~np.isnan(label_values(bars, config.labels))
    expected: dict[str, dict[str, int]] = {}
    for row in range(len(bars)):
        of_month = expected.setdefault(month_of(bars.t[row]), {"samples": 0, "steps": 0})
        of_month["samples"] += int(ready[row] and labelled[row])
        followed = row + 1 < len(bars) and bars.segment[row + 1] == bars.segment[row]
        of_month["steps"] += int(ready[row] and followed and month_of(bars.t[row + 1]) == month_of(bars.t[row]))
    assert month_counts(bars.t, bars.segment, 45, config.labels.horizon_bars) == expected
    assert len(expected) >= 3

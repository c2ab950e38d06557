"""Labels against their definition, bar by bar."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from configs.errors import BadDataError
from configs.schema import LabelsConfig
from tests.training.feature_samples import bars_of, changed_after, random_walk
from training.labels import FALL, RISE, STATIONARY, classes, fit_delta, known_part, label_values
from training.market import segment_bounds


def by_definition(bars, kind, k):
    """l_t with both means written out; NaN where any price they read lies outside the segment."""
    values = np.full(len(bars), np.nan)
    for start, stop in segment_bounds(bars.segment):
        for t in range(start, stop):
            p = bars.close
            if t + k >= stop or (kind == "smoothed" and t - k + 1 < start):
                continue
            ahead = sum(p[t + i] for i in range(1, k + 1)) / k
            behind = sum(p[t - i] for i in range(k)) / k
            values[t] = (ahead - p[t]) / p[t] if kind == "forward" else (ahead - behind) / behind
    return values


@settings(max_examples=60)
@given(
    k=st.integers(1, 30),
    kind=st.sampled_from(["forward", "smoothed"]),
    price=st.sampled_from([60_000, 1.0, 1e-8]),
    cuts=st.sets(st.integers(1, 149), max_size=4),
)
def test_label_values_equal_their_definition(k, kind, price, cuts):
    bars = random_walk(150, seed=k, price=price, segments=sorted(cuts))
    got = label_values(bars, LabelsConfig(kind=kind, horizon_bars=k))
    np.testing.assert_allclose(got, by_definition(bars, kind, k), rtol=1e-9, atol=1e-13)


def test_labels_worked_by_hand():
    close = np.array([1.0, 2.0, 3.0, 5.0, 4.0])
    bars = bars_of(close, close, close, close, close)
    forward = label_values(bars, LabelsConfig(kind="forward", horizon_bars=2))
    np.testing.assert_allclose(forward, [1.5, 1.0, 0.5, np.nan, np.nan])
    smoothed = label_values(bars, LabelsConfig(kind="smoothed", horizon_bars=2))
    np.testing.assert_allclose(smoothed, [np.nan, 4 / 1.5 - 1, 4.5 / 2.5 - 1, np.nan, np.nan])
    known = known_part(bars, LabelsConfig(horizon_bars=2))
    np.testing.assert_allclose(known, [np.nan, 0.5 / 1.5, 0.5 / 2.5, 1 / 4, -0.5 / 4.5])


@pytest.mark.parametrize("kind", ["forward", "smoothed"])
def test_a_label_reads_its_next_k_bars_and_none_after_them(kind):
    bars, k = random_walk(200, seed=1), 7
    config = LabelsConfig(kind=kind, horizon_bars=k)
    before = label_values(bars, config)
    for t in range(20, 190):
        after = label_values(changed_after(bars, t, np.random.default_rng(t)), config)
        assert before[: t - k + 1].tobytes() == after[: t - k + 1].tobytes()
        assert before[t - k + 1] != after[t - k + 1]


def test_the_known_part_reads_no_later_bar():
    bars, config = random_walk(200, seed=2), LabelsConfig()
    before = known_part(bars, config)
    for t in range(30, 190):
        after = known_part(changed_after(bars, t, np.random.default_rng(t)), config)
        assert before[: t + 1].tobytes() == after[: t + 1].tobytes()


def test_a_smoothed_label_is_its_known_part_and_what_follows():
    bars = random_walk(300, seed=3)
    forward = label_values(bars, LabelsConfig(kind="forward"))
    smoothed = label_values(bars, LabelsConfig(kind="smoothed"))
    known = known_part(bars, LabelsConfig())
    np.testing.assert_allclose(1 + smoothed[19:-20], (1 + forward[19:-20]) * (1 + known[19:-20]), rtol=1e-12)


def test_auto_delta_makes_a_third_of_the_training_rows_stationary_and_sees_no_other():
    values = label_values(random_walk(5_000, seed=4), LabelsConfig())
    rows = np.arange(100, 3_100)
    delta = fit_delta(values, rows, LabelsConfig())
    assert np.mean(np.abs(values[rows]) <= delta) == pytest.approx(1 / 3, abs=1e-3)
    other = values.copy()
    other[3_100:], other[:100] = 9.0, -9.0
    assert fit_delta(other, rows, LabelsConfig()) == delta


def test_a_fixed_delta_is_taken_as_it_is():
    assert fit_delta(np.array([]), np.array([], int), LabelsConfig(delta=0.002)) == 0.002


@pytest.mark.parametrize("rows", [[], [0, 1]])
def test_auto_delta_without_labelled_rows_is_bad_data(rows):
    with pytest.raises(BadDataError, match="training rows with labels"):
        fit_delta(np.array([0.1, np.nan]), np.array(rows, int), LabelsConfig())


def test_classes_are_strict_at_the_threshold():
    values = np.array([-0.3, -0.2, 0.0, 0.2, 0.3])
    got = classes(values, 0.2)
    assert got.dtype == np.int8
    assert got.tolist() == [FALL, STATIONARY, STATIONARY, STATIONARY, RISE]


def test_a_constant_price_is_stationary():
    close = np.full(100, 60_000.1)
    values = label_values(bars_of(close, close, close, close, close), LabelsConfig())
    delta = fit_delta(values, np.arange(80), LabelsConfig())
    assert not classes(values, delta).any()

"""The scaler: what it sees, what it does with degenerate columns, and that it survives JSON."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.preprocessing import StandardScaler

from configs.errors import BadDataError
from configs.needs import warmup_bars
from tests.training.feature_samples import config_of, flat, random_walk
from training.features import compute
from training.scaling import Scaler


@settings(max_examples=50)
@given(seed=st.integers(0, 2**32 - 1), scale=st.floats(1e-6, 1e6), shift=st.floats(-1e3, 1e3))
def test_scaling_equals_sklearn_then_a_clip(seed, scale, shift):
    rng = np.random.default_rng(seed)
    x = rng.standard_t(2, (200, 4)) * scale + shift * scale
    wanted = np.clip(StandardScaler().fit(x[:150]).transform(x), -10, 10)
    got = Scaler.fit(x[:150]).transform(x)
    assert got.dtype == np.float32 and got.flags.c_contiguous
    np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-6)


def test_a_constant_column_scales_to_zero_also_outside_its_training_rows():
    x = np.column_stack([np.full(50, 0.1) + 1e-17 * np.arange(50), np.arange(50.0), np.full(50, 1e6)])
    scaler = Scaler.fit(x[:40])
    x[45] = [5.0, 1.0, 7.0]
    got = scaler.transform(x)
    assert not got[:, [0, 2]].any() and got[:, 1].any()


def test_rounding_noise_of_a_constant_market_is_not_blown_up():
    config = config_of().features
    rows = compute(flat(500, 0.1, 0.3), config)[warmup_bars(config) :]
    assert not Scaler.fit(rows).transform(rows).any()


def test_a_scaler_does_not_depend_on_how_the_rows_lie_in_memory():
    x = np.random.default_rng(0).lognormal(size=(3_000, 5))
    one, other = Scaler.fit(x), Scaler.fit(np.asfortranarray(x))
    assert one.mean.tobytes() == other.mean.tobytes() and one.std.tobytes() == other.std.tobytes()
    assert one.transform(x).tobytes() == one.transform(np.asfortranarray(x)).tobytes()


def test_values_are_clipped():
    scaler = Scaler.fit(np.array([[0.0], [2.0]]), clip=3.0)
    assert scaler.transform(np.array([[1.0], [1e9], [-1e9], [2.5]]))[:, 0].tolist() == [0, 3, -3, 1.5]


def test_a_scaler_survives_json_to_the_last_bit():
    x = compute(random_walk(300, seed=2, price=60_000), config_of().features)[60:]
    scaler = Scaler.fit(x, clip=7.0)
    again = Scaler.from_json(json.loads(json.dumps(scaler.to_json())))
    assert again.transform(x).tobytes() == scaler.transform(x).tobytes()
    assert again.mean.tobytes() == scaler.mean.tobytes() and again.clip == 7.0


def test_a_missing_row_stays_missing():
    scaler = Scaler.fit(np.arange(6.0).reshape(3, 2))
    assert np.isnan(scaler.transform(np.full((1, 2), np.nan))).all()


@pytest.mark.parametrize("x", [np.zeros((0, 3)), np.array([[1.0, np.nan]]), np.array([[np.inf, 0.0]])])
def test_a_scaler_without_finite_rows_is_bad_data(x):
    with pytest.raises(BadDataError, match="finite"):
        Scaler.fit(x)

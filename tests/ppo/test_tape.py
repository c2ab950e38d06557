"""What the environments read: prediction columns, readiness, spans; what is refused."""

import dataclasses

import numpy as np
import pandas as pd
import pytest

from configs.errors import BadDataError
from ppo.tape import build_tape, prediction_block, price_table, spans, start_table
from tests.ppo.worlds import HOUR_S, make_tape, random_tape
from training.features import FEATURE_NAMES, MARKET_OBSERVATION
from training.market import make_bars
from training.scaling import Scaler

MEMBERS = ("dlstm", "bilstm")


def bars_of(count, seed=0):
    tape = random_tape(count, seed)
    t = HOUR_S * np.arange(1, count + 1, dtype=np.int64)
    values = (tape.open, tape.high, tape.low, tape.close, np.ones(count))
    return make_bars(t, values, timeframe_s=HOUR_S, max_gap_s=6 * HOUR_S)


def predictions_of(bars, seed=0):
    """Random predictions on every bar, each of a model fitted until just before the bar's open."""
    rng = np.random.default_rng(seed)
    frame = pd.DataFrame({"t": bars.t, "fitted_until": bars.t - 1})
    for prefix in ("", *(f"{member}_" for member in MEMBERS)):
        chances = rng.dirichlet([1, 1, 1], len(bars))
        for name, column in zip(("fall", "stationary", "rise"), chances.T, strict=True):
            frame[prefix + name] = column
    return frame


@pytest.fixture
def world(quick_config):
    """Bars, features, predictions, scaler, configuration."""
    bars = bars_of(40)
    features = np.random.default_rng(1).normal(3, 2, (40, 26))
    return bars, features, predictions_of(bars), Scaler.fit(features[:20]), quick_config


def test_a_row_has_13_prediction_numbers_and_5_market_numbers(world):
    bars, features, predictions, scaler, config = world
    tape = build_tape(bars, features, predictions, scaler, config)
    columns = [FEATURE_NAMES.index(name) for name in MARKET_OBSERVATION]
    expected = (features[7, columns] - features[:20, columns].mean(0)) / features[:20, columns].std(0)
    assert tape.observation.shape == (40, 18)
    assert tape.observation[7, 13:] == pytest.approx(expected, rel=1e-5)
    assert tape.observation[:, :13].tolist() == prediction_block(predictions, MEMBERS).tolist()
    assert tape.ready.all()


@pytest.mark.parametrize("order", ["C", "F"])
def test_the_numbers_of_a_bar_lie_side_by_side_however_the_features_lie(world, order):
    bars, features, predictions, scaler, config = world
    tape = build_tape(bars, np.array(features, order=order), predictions, scaler, config)
    assert tape.observation.flags.c_contiguous


def test_the_prediction_block_by_hand():
    row = {"fall": 0.2, "stationary": 0.3, "rise": 0.5}
    row |= {"gru_fall": 0.6, "gru_stationary": 0.3, "gru_rise": 0.1}
    block = prediction_block(pd.DataFrame([row]), ["gru"])[0] + [0, *[1 / 3] * 8]
    assert block.tolist() == pytest.approx([1, 0.5, 0.2, 0.3, 0.5, 0.6, 0.6, 0.3, 0.1], rel=1e-6)


@pytest.mark.parametrize(
    ("chances", "call"),
    [((0.5, 0.3, 0.2), -1), ((0.3, 0.4, 0.3), 0), ((1 / 3, 1 / 3, 1 / 3), 0), ((0.4, 0.2, 0.4), 0), ((0, 0, 1), 1)],
)
def test_the_class_is_the_likeliest_and_a_tie_is_stationary(chances, call):
    frame = pd.DataFrame([dict(zip(("fall", "stationary", "rise"), chances, strict=True))])
    assert prediction_block(frame, [])[0, 0] == call


def test_no_prediction_is_the_zero_vector_and_not_ready(world):
    bars, features, predictions, scaler, config = world
    predictions.loc[:9, predictions.columns[2:]] = np.nan
    predictions.loc[:9, "fitted_until"] = -1
    tape = build_tape(bars, features, predictions, scaler, config)
    assert tape.ready.tolist() == [False] * 10 + [True] * 30
    assert not prediction_block(predictions, MEMBERS)[:10].any()


def test_a_row_without_fitted_until_is_not_ready_even_with_probabilities(world):
    bars, features, predictions, scaler, config = world
    predictions.loc[4, "fitted_until"] = -1
    assert np.flatnonzero(~build_tape(bars, features, predictions, scaler, config).ready).tolist() == [4]


@pytest.mark.parametrize("late_s", [0, 1, HOUR_S, 10 * HOUR_S])
def test_a_prediction_by_a_model_that_saw_the_bar_is_refused(world, late_s):
    bars, features, predictions, scaler, config = world
    predictions.loc[5, "fitted_until"] = bars.t[5] + late_s
    with pytest.raises(BadDataError, match=r"bar 5 .* in-sample"):
        build_tape(bars, features, predictions, scaler, config)


def test_predictions_of_other_bars_are_refused(world):
    bars, features, predictions, scaler, config = world
    with pytest.raises(BadDataError, match="39 rows that are not the 40 bars"):
        build_tape(bars, features, predictions.iloc[1:], scaler, config)
    predictions.loc[3, "t"] += 1
    with pytest.raises(BadDataError, match="not the 40 bars"):
        build_tape(bars, features, predictions, scaler, config)


def test_rows_in_warm_up_are_not_ready_and_hold_no_nan(world):
    bars, features, predictions, scaler, config = world
    features[:12] = np.nan
    tape = build_tape(bars, features, predictions, scaler, config)
    assert tape.ready.tolist() == [False] * 12 + [True] * 28
    assert np.isfinite(tape.observation).all()


def test_without_predictions_the_block_is_zero_and_the_width_the_same(world):
    bars, features, _, scaler, config = world
    tape = build_tape(bars, features, None, scaler, config)
    assert tape.observation.shape == (40, 18)
    assert not tape.observation[:, :13].any()
    assert tape.ready.all()


def test_every_number_is_clipped(world):
    bars, features, predictions, scaler, config = world
    features[30] = 1e9
    tape = build_tape(bars, features, predictions, scaler, config)
    assert tape.observation[30, 13:].tolist() == [10.0] * 5


def test_spans_are_maximal_runs_of_ready_rows_inside_a_segment():
    tape = make_tape(*[np.ones(12)] * 3, segment=[0] * 6 + [1] * 6)
    ready = np.array([0, 1, 1, 1, 1, 1, 1, 0, 1, 0, 1, 1], bool)
    tape = dataclasses.replace(tape, ready=ready)
    assert spans(tape, 0, 12) == [(1, 6), (10, 12)]
    assert spans(tape, 2, 5) == [(2, 5)]
    assert spans(tape, 7, 10) == spans(tape, 3, 3) == []


def test_a_segment_closes_where_the_next_bar_of_the_spans_is_in_another():
    tape = make_tape(*[np.ones(12)] * 3, segment=[0] * 4 + [1] * 4 + [2] * 4)
    assert start_table(tape, [(0, 4), (4, 6), (6, 8)]).tolist() == [
        [3, 0, 3, 3, 1], [4, 4, 1, 5, 0], [5, 6, 1, 7, 0],
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ([], "no bars to play on"),
        ([(0, 1)], "two bars"),
        ([(6, 9), (0, 3)], "two bars"),
        ([(0, 5), (4, 6)], "two bars"),
        ([(8, 13)], "two bars"),
        ([(2, 8)], "crosses the end of segment 0"),
        ([(9, 12)], "bar 10, which has no usable prediction"),
    ],
)
def test_spans_that_cannot_be_played_are_refused(bad, message):
    tape = make_tape(*[np.ones(12)] * 3, segment=[0] * 6 + [1] * 6)
    tape.ready[10] = False
    with pytest.raises(BadDataError, match=message):
        start_table(tape, bad)


def test_a_ready_row_that_is_not_finite_is_refused():
    with pytest.raises(BadDataError, match="row 1 is marked ready"):
        make_tape(*[np.ones(2)] * 3, observation=[[0.0], [np.nan]])


def test_prices_end_where_the_spans_end():
    assert price_table(random_tape(10, 0), 6).shape == (6, 3)

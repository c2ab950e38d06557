"""Out-of-fold predictions: what a model may know, where predictions are, how they are scored."""

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from configs.errors import BadDataError
from configs.files import read_json
from configs.needs import warmup_bars
from tests.training.feature_samples import HOUR, changed_after, config_of, random_walk
from training.artifacts import load_model, save_model
from training.chain import Inputs, ready_rows
from training.crossfit import crossfit, predictions_frame, score_predictions, soft_vote
from training.features import compute
from training.labels import label_values
from training.metrics import CLASS_NAMES
from training.predictors import Architecture, build_predictor
from training.splits import split
from training.streams import integer

LOOKBACK, HORIZON, FOLDS, N = 8, 5, 2, 600
TINY = (
    f"classifiers.lookback_bars={LOOKBACK}",
    f"classifiers.folds={FOLDS}",
    f"labels.horizon_bars={HORIZON}",
    "classifiers.units=4",
    "classifiers.epochs=2",
    "classifiers.fold_epochs=1",
    "classifiers.learning_rate=0.01",
    "classifiers.batch_size=64",
    "classifiers.window_stride=1",
    "classifiers.trend_kernel=3",
)
PARTS = split(N, config_of().splits)
EDGES = [120, 240, 360, N]
"""First predicted bar of each fold and of the final model, and the end: 360 training bars in three pieces."""


def tiny(*settings):
    return config_of("ADA-EUR_1H", *TINY, *settings)


def chain(bars, config, member="lstm"):
    features = compute(bars, config.features)
    models = list(crossfit(member, Inputs.of(bars, features, config), split(len(bars), config.splits)))
    return models, predictions_frame(models, features, bars, config)


@pytest.fixture(scope="module")
def config():
    return tiny()


@pytest.fixture(scope="module")
def bars():
    return random_walk(N, seed=3)


@pytest.fixture(scope="module")
def fitted(bars, config):
    return chain(bars, config)


def test_each_model_predicts_the_piece_after_the_bars_it_knows(fitted, bars):
    models, frame = fitted
    assert [model.name for model in models] == ["fold-0", "fold-1", "final"]
    for number, (start, stop) in enumerate(zip(EDGES[:-1], EDGES[1:], strict=True)):
        piece = frame[start:stop]
        assert (piece["fold"] == number).all()
        assert (piece["fitted_until"] == bars.t[start - 1] + HOUR - 1).all()
        assert (piece["fitted_until"] < piece["t"]).all()
        assert np.allclose(piece[list(CLASS_NAMES)].sum(axis=1), 1)


def test_bars_before_the_first_model_have_no_prediction(fitted):
    before = fitted[1][: EDGES[0]]
    assert before[list(CLASS_NAMES)].isna().all(axis=None)
    assert (before[["fitted_until", "fold"]] == -1).all(axis=None)
    assert list(fitted[1].dtypes.astype(str)) == ["int64", *["float64"] * 3, "int64", "int16"]


@pytest.mark.parametrize(
    ("member", "times"),
    [("lstm", (130, EDGES[1] - 1, EDGES[1], 400)), *((name, (239, 400)) for name in ("gru", "bilstm", "dlstm"))],
)
def test_predictions_do_not_change_when_any_later_bar_does(member, times, bars, config):
    _, frame = chain(bars, config, member)
    for t in times:
        _, changed = chain(changed_after(bars, t, np.random.default_rng(t)), config, member)
        pd.testing.assert_frame_equal(changed[: t + 1], frame[: t + 1], check_exact=True)
        assert (changed[t + 1 :][list(CLASS_NAMES)] != frame[t + 1 :][list(CLASS_NAMES)]).any(axis=None)


@pytest.mark.parametrize("t", [130, 300, 500])
def test_a_prediction_does_change_when_its_own_bar_does(t, fitted, bars, config):
    close = bars.close.copy()
    close[t] *= 1.03
    moved = replace(bars, close=close, high=np.maximum(bars.high, close))
    _, changed = chain(moved, config)
    names = list(CLASS_NAMES)
    assert (changed.loc[t, names] != fitted[1].loc[t, names]).all()
    pd.testing.assert_frame_equal(changed[:t], fitted[1][:t], check_exact=True)


def test_scaler_delta_and_class_weights_come_from_the_models_own_rows(fitted, bars, config):
    features, values = compute(bars, config.features), label_values(bars, config.labels)
    warmup = warmup_bars(config.features)
    for model, first in zip(fitted[0], EDGES[:-1], strict=True):
        own = values[warmup + LOOKBACK - 1 : first - HORIZON]
        delta = np.quantile(np.abs(own), 1 / 3)
        falls, rises = (own < -delta).sum(), (own > delta).sum()
        counts = np.array([falls, own.size - falls - rises, rises])
        assert model.metadata["delta"] == delta
        assert np.allclose(model.metadata["class_weights"], own.size / (3 * counts))
        assert np.array_equal(model.scaler.mean, features[warmup : first - HORIZON].mean(axis=0))
        assert model.metadata["last_row"] == first - 1 - HORIZON
        stop_rows = int(np.ceil(own.size * 0.15))
        assert model.metadata["stop_windows"] == stop_rows
        assert model.metadata["train_windows"] == own.size - stop_rows - HORIZON


def test_without_class_weights_every_class_weighs_one(bars):
    models, _ = chain(bars, tiny("classifiers.class_weights=false"))
    assert models[-1].metadata["class_weights"] == [1, 1, 1]


def test_each_model_starts_from_the_one_before(bars):
    config = tiny("classifiers.learning_rate=1e-12", "classifiers.weight_decay=0")
    models, _ = chain(bars, config)
    first, *later = [torch.cat([x.flatten() for x in model.model.state_dict().values()]) for model in models]
    fresh = build_predictor(
        Architecture.of("lstm", 26, config.classifiers), integer(0, "classifiers", "lstm", "final")
    ).state_dict()
    assert all(torch.allclose(first, other, atol=1e-9) for other in later)
    assert not torch.allclose(torch.cat([x.flatten() for x in fresh.values()]), later[-1], atol=1e-3)


def test_every_window_lies_in_one_segment_past_its_warm_up(config):
    bars = random_walk(900, seed=1, segments=(300, 500, 530))
    _, frame = chain(bars, config)
    span = warmup_bars(config.features) + LOOKBACK - 1
    predicted = np.flatnonzero(frame["fold"] >= 0)
    assert (bars.t[predicted] - bars.t[predicted - span] == span * HOUR).all()
    for start in (300, 500):
        assert frame["fold"][start : start + span].eq(-1).all()
        assert (frame["fold"][start + span] >= 0) == (start == 300)
    assert np.array_equal(np.flatnonzero(ready_rows(bars, config) & (np.arange(900) >= 180)), predicted)


def test_no_bar_decides_the_epoch_of_a_model_whose_warm_start_knew_it(bars):
    models, _ = chain(bars, tiny("classifiers.folds=4", "classifiers.early_stop_frac=0.45"))
    assert len(models) == 5
    for before, model in pairwise(models):
        usable = model.metadata["last_row"] + 1 - before.metadata["predict_start"]
        assert 0 < model.metadata["stop_windows"] <= usable
    share = 0.45 * (models[-1].metadata["last_row"] + 1 - models[-1].metadata["first_row"])
    assert models[-1].metadata["stop_windows"] < share - 1, "the share reaches back to what the warm start knew"


def test_the_stride_thins_the_training_windows_and_no_prediction(fitted, bars):
    models, frame = chain(bars, tiny("classifiers.window_stride=3"))
    for thinned, whole in zip(models, fitted[0], strict=True):
        assert thinned.metadata["train_windows"] == -(-whole.metadata["train_windows"] // 3)
        assert thinned.metadata["stop_windows"] == whole.metadata["stop_windows"]
    assert frame["fold"].equals(fitted[1]["fold"])


def test_the_same_seed_gives_the_same_bytes_and_another_does_not(fitted, bars, config):
    pd.testing.assert_frame_equal(chain(bars, config)[1], fitted[1], check_exact=True)
    other = chain(bars, tiny("seed=1"))[1]
    assert not other["rise"].equals(fitted[1]["rise"])


def test_a_stored_model_gives_the_same_predictions(fitted, bars, config, tmp_path):
    models, frame = fitted
    for model in models:
        save_model(model, tmp_path / model.name)
    loaded = [load_model(tmp_path / model.name) for model in models]
    again = predictions_frame(loaded, compute(bars, config.features), bars, config)
    pd.testing.assert_frame_equal(again, frame, check_exact=True)
    assert [model.metadata for model in loaded] == [model.metadata for model in models]


def damage(directory: Path, how: str):
    if how == "torn weights":
        weights = directory / "weights.safetensors"
        weights.write_bytes(weights.read_bytes()[:-10])
    elif how == "no weights":
        (directory / "weights.safetensors").unlink()
    elif how == "other net":
        text = (directory / "model.json").read_text()
        (directory / "model.json").write_text(text.replace('"units": 4', '"units": 5'))
    else:
        (directory / "model.json").write_text("{}")


@pytest.mark.parametrize("how", ["torn weights", "no weights", "other net", "no metadata"])
def test_a_damaged_model_is_refused(how, fitted, tmp_path):
    save_model(fitted[0][0], tmp_path / "model")
    assert read_json(tmp_path / "model" / "model.json")["architecture"]["units"] == 4
    damage(tmp_path / "model", how)
    with pytest.raises(BadDataError, match="run its unit again"):
        load_model(tmp_path / "model")


def test_too_few_bars_for_the_first_model_are_an_error(config):
    with pytest.raises(BadDataError):
        chain(random_walk(150), config)


def vote_frame(rows, until):
    values = np.array(rows, dtype=np.float64)
    columns = dict(zip(CLASS_NAMES, values.T, strict=True))
    return pd.DataFrame({"t": np.arange(len(rows)), **columns, "fitted_until": until, "fold": 0})


def test_the_soft_vote_by_hand():
    nothing = [np.nan] * 3
    one = vote_frame([nothing, [0.2, 0.3, 0.5], [1, 0, 0]], [-1, 10, 10])
    two = vote_frame([[0.1, 0.1, 0.8], [0.6, 0.3, 0.1], [0, 0.5, 0.5]], [5, 12, 9])
    vote = soft_vote({"lstm": one, "gru": two})
    assert list(vote)[:5] == ["t", "fitted_until", *CLASS_NAMES]
    assert list(vote)[5:] == [f"{member}_{name}" for member in ("lstm", "gru") for name in CLASS_NAMES]
    assert vote["fitted_until"].tolist() == [-1, 12, 10]
    assert np.allclose(vote[list(CLASS_NAMES)], [nothing, [0.4, 0.3, 0.3], [0.5, 0.25, 0.25]], equal_nan=True)
    assert np.allclose(vote.loc[1, ["gru_fall", "gru_stationary", "gru_rise"]].astype(float), [0.6, 0.3, 0.1])


def called(truth, confidence=0.8):
    """Predictions that call `truth` everywhere."""
    probability = np.full((truth.size, 3), (1 - confidence) / 2)
    probability[np.arange(truth.size), truth + 1] = confidence
    return pd.DataFrame(dict(zip(CLASS_NAMES, probability.T, strict=True)))


def test_perfect_predictions_score_as_perfect(fitted, bars, config):
    rows, values = np.arange(*PARTS.validation), label_values(bars, config.labels)
    delta = fitted[0][-1].metadata["delta"]
    truth = np.where(values > delta, 1, np.where(values < -delta, -1, 0))
    score = score_predictions(bars, called(truth), PARTS, config, rows)
    assert score["deltas"] == [delta]
    assert score["accuracy"] == 1
    assert score["log_loss"] == pytest.approx(-np.log(0.8))
    assert score["calibration_error"] == pytest.approx(0.2)
    assert score["skill"]["skilled"]
    assert score["directional"]["accuracy"] == 1
    assert [score["first_t"], score["last_t"]] == [bars.t[rows[0]], bars.t[rows[-1]]]
    assert score["roc"]["rise"]["true_rate"] == [0, 1, 1]
    assert sum(map(sum, score["confusion"])) == rows.size


def test_each_fold_is_scored_by_the_threshold_its_model_was_fitted_with(fitted, bars, config):
    models, frame = fitted
    deltas = np.array([model.metadata["delta"] for model in models])[frame["fold"].to_numpy()]
    values = label_values(bars, config.labels)
    truth = np.where(values > deltas, 1, np.where(values < -deltas, -1, 0))
    score = score_predictions(bars, called(truth), PARTS, config, np.arange(EDGES[0], PARTS.train[1] - HORIZON))
    assert len(set(deltas)) == 3
    assert score["deltas"] == [model.metadata["delta"] for model in models[:2]]
    assert score["accuracy"] == 1


def test_only_bars_with_a_prediction_and_a_label_are_scored(bars, config):
    predictions = called(np.ones(N, dtype=np.int64))
    predictions.loc[480:489, list(CLASS_NAMES)] = np.nan
    rows = np.arange(*PARTS.test)
    score = score_predictions(bars, predictions, PARTS, config, rows)
    assert score["bars"] == rows.size - 10 - HORIZON
    assert not score["skill"]["skilled"]
    with pytest.raises(BadDataError, match="none of the 5 bars"):
        score_predictions(bars, predictions, PARTS, config, np.arange(480, 485))


def test_scores_use_no_bar_after_the_scored_ones_and_their_labels(bars, config):
    predictions, rows = called(np.ones(N, dtype=np.int64)), np.arange(*PARTS.validation)
    before = score_predictions(bars, predictions, PARTS, config, rows)
    later = changed_after(bars, rows[-1] + HORIZON, np.random.default_rng(0))
    assert score_predictions(later, predictions, PARTS, config, rows) == before


def test_out_of_fold_scores_are_fitted_on_nothing_after_each_model_s_own_bars(bars, config):
    """The first fold's score alone: bars from its end on, labels included, do not matter."""
    predictions, rows = called(np.ones(N, dtype=np.int64)), np.arange(EDGES[0], EDGES[1] - HORIZON)
    before = score_predictions(bars, predictions, PARTS, config, rows)
    later = changed_after(bars, EDGES[1] - 1, np.random.default_rng(0))
    assert score_predictions(later, predictions, PARTS, config, rows) == before

"""Out-of-fold predictions as columns: a forward chain of models, each fitted on earlier bars only.

The chain expands and warm-starts: fold n begins with the weights of fold n - 1,
and the final model, fitted on the whole train part, predicts validation and test.
Everything a model is fitted with (weights, epochs, class weights, delta, scaler)
comes from its own training rows. Between two steps of any fit the whole chain can
be saved, and an equal chain goes on from there to the same bits.
N = bars, F = features, k = label horizon.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import torch

from configs.errors import BadDataError, StopRequested
from configs.schema import Config
from training.artifacts import FittedModel
from training.checkpoint import Arrays, Checkpoints, to_arrays, to_tensors
from training.features import FEATURE_NAMES, compute, warmup_bars
from training.fit import Fitted, Schedule, Task, Windows, class_weights, fit, predict
from training.labels import classes, fit_delta, known_part, label_values
from training.market import Bars
from training.meter import Meter, Report, Silent
from training.metrics import CLASS_NAMES, Scoring, classification_report, roc, skill_report
from training.predictors import Architecture, build_predictor
from training.predictors.base import CLASSES
from training.scaling import Scaler
from training.splits import Fold, Split, early_stop_split, folds, training_rows, window_ready
from training.streams import integer, stream

ROC_POINTS = 101
"""Most points kept of a ROC curve."""


@dataclass(frozen=True)
class Inputs:
    """A series with what the chain derives from it; every array has N rows."""

    bars: Bars
    features: np.ndarray
    """(N, F) float64, NaN in warm-up rows."""
    values: np.ndarray
    """l_t, NaN where unknown."""
    ready: np.ndarray
    """bool, a whole window ends here."""
    config: Config

    @classmethod
    def of(cls, bars: Bars, features: np.ndarray, config: Config) -> Inputs:
        """Derive labels and the rows that end a window."""
        return cls(bars, features, label_values(bars, config.labels), ready_rows(bars, config), config)


def ready_rows(bars: Bars, config: Config) -> np.ndarray:
    """(N,) bool: `lookback_bars` bars of one segment, all with features, end here."""
    return window_ready(bars.segment, warmup_bars(config.features), config.classifiers.lookback_bars)


def crossfit(
    member: str,
    inputs: Inputs,
    split: Split,
    report: Report | None = None,
    *,
    checkpoints: Checkpoints | None = None,
    batch_halvings: int = 0,
) -> Iterator[FittedModel]:
    """Fit the chain of one member, model by model: `fold-0` ... `fold-<n-1>`, then `final`.

    Args:
        member: name in `PREDICTORS`.
        inputs: the whole series; the sections classifiers, labels, features, compute and the seed of its
            configuration are read.
        split: its parts.
        report: where progress goes; it may raise StopRequested, and the chain is saved first.
        checkpoints: where the chain is saved, and gone on from.
        batch_halvings: how often the windows that go through a net at once are halved.

    Raises:
        BadDataError: a model of the chain has too few rows.
        TrainingDivergedError: a loss is not finite.
        OutOfMemoryError: the batch did not fit.
    """
    chain = folds(split, inputs.config.classifiers.folds, inputs.config.labels.horizon_bars)
    plans = [_plan(inputs, member, chain, number) for number in range(len(chain))]
    meter = Meter(report or Silent(), sum(plan.epochs * plan.train_rows.size for plan in plans))
    saving = _ChainSaving(meter, checkpoints)
    saving.resume()
    meter.tell()
    yield from saving.models
    for plan in plans[len(saving.models) :]:
        saving.models.append(_fit_one(inputs, plan, saving, batch_halvings))
        try:
            meter.tell()
        except StopRequested:
            saving.save({}, {})
            raise
        yield saving.models[-1]


def predict_with(fitted: FittedModel, features: np.ndarray, rows: np.ndarray, device: str) -> np.ndarray:
    """(n, 3) probabilities of fall, stationary, rise by one model for windows that end at `rows`."""
    windows = _windows(fitted.scaler, features, fitted.model.architecture.lookback_bars, device)
    return predict(fitted.model.to(device), windows, rows)


def predictions_frame(models: list[FittedModel], features: np.ndarray, bars: Bars, config: Config) -> pd.DataFrame:
    """Predictions of the whole chain, one row per bar.

    Returns:
        Columns t, fall, stationary, rise (float64, NaN where none), fitted_until (int64, -1 where none),
        fold (int16, -1 where none).
    """
    probability = np.full((len(bars), CLASSES), np.nan)
    fitted_until = np.full(len(bars), -1, dtype=np.int64)
    fold = np.full(len(bars), -1, dtype=np.int16)
    ready = ready_rows(bars, config)
    for fitted in models:
        rows = fitted.predicted_rows(ready)
        probability[rows] = predict_with(fitted, features, rows, config.compute.device)
        fitted_until[rows] = fitted.metadata["fitted_until"]
        fold[rows] = fitted.metadata["fold"]
    columns = {name: probability[:, column] for column, name in enumerate(CLASS_NAMES)}
    return pd.DataFrame({"t": bars.t, **columns, "fitted_until": fitted_until, "fold": fold})


def soft_vote(members: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """The mean of the members' probabilities, with the columns of each member beside it.

    Returns:
        Columns t, fitted_until (the latest of the members), fall, stationary, rise, then
        <member>_fall, <member>_stationary, <member>_rise; a bar that any member did not predict has none.
    """
    frames = list(members.values())
    stacked = np.stack([frame[list(CLASS_NAMES)].to_numpy() for frame in frames])
    until = np.stack([frame["fitted_until"].to_numpy() for frame in frames])
    known = np.all(until >= 0, axis=0)
    vote = np.where(known[:, None], stacked.mean(axis=0), np.nan)
    joined = {"t": frames[0]["t"].to_numpy(), "fitted_until": np.where(known, until.max(axis=0), -1)}
    joined |= {name: vote[:, column] for column, name in enumerate(CLASS_NAMES)}
    for member, own in zip(members, stacked, strict=True):
        joined |= {f"{member}_{name}": own[:, column] for column, name in enumerate(CLASS_NAMES)}
    return pd.DataFrame(joined)


def score_predictions(bars: Bars, predictions: pd.DataFrame, split: Split, config: Config, rows: np.ndarray) -> dict:
    """Every classification metric of stored predictions on some bars, beside the rules that need no skill.

    Each bar is scored as the model that predicted it was fitted: threshold and no-skill rules come from the
    training rows of that model of the chain.

    Args:
        bars: the whole series.
        predictions: columns fall, stationary, rise of every bar.
        split: its parts.
        config: sections classifiers, labels, features and the seed are read.
        rows: bars to score; those without a prediction or a known label are left out.

    Returns:
        JSON values: `classification_report` and `skill_report` of training.metrics, deltas (of each model that
        predicted some of the bars), first_t, last_t and roc (per class: false_rate, true_rate; null for a class
        that never or always occurs).

    Raises:
        BadDataError: no bar is left to score.
    """
    probability = predictions[list(CLASS_NAMES)].to_numpy()
    deltas, scorings = _scorings(bars, split, config, rows[~np.isnan(probability[rows, 0])])
    if not scorings:
        raise BadDataError(f"none of the {rows.size} bars to score has both a prediction and a known label")
    truth = np.concatenate([part.truth[part.scored] for part in scorings])
    scored = np.concatenate([part.scored for part in scorings])
    volatility = compute(bars, config.features)[:, FEATURE_NAMES.index("volatility")]
    signals = {"known_part": known_part(bars, config.labels), "volatility": volatility}
    rng = stream(config.seed, "classifiers", "skill")
    return (
        classification_report(truth, probability[scored])
        | skill_report(scorings, probability, signals, config.labels.horizon_bars, rng)
        | {
            "deltas": deltas,
            "first_t": int(bars.t[scored[0]]),
            "last_t": int(bars.t[scored[-1]]),
            "roc": {
                name: _curve(truth, probability[scored, column], column - 1) for column, name in enumerate(CLASS_NAMES)
            },
        }
    )


@dataclass
class _ChainSaving:
    """Saves a chain in the middle of a fit: the finished models as parts that never change, and the fit's state."""

    meter: Meter
    checkpoints: Checkpoints | None
    models: list[FittedModel] = field(default_factory=list)
    """Those that are finished."""
    _begun: tuple[Arrays, dict[str, Any]] | None = None

    def resume(self) -> None:
        """Go on from the newest checkpoint, if there is one."""
        saved = self.checkpoints.resume() if self.checkpoints else None
        if saved is not None:
            self.meter.resume(saved.step)
            self.models = [
                FittedModel.from_json(value["model"], to_tensors(saved.parts[name]), value["history"])
                for name, value in saved.scalars["models"].items()
            ]
            self._begun = (saved.arrays, saved.scalars["fit"]) if saved.arrays else None

    def begun(self) -> tuple[Arrays, dict[str, Any]] | None:
        """The fit that was cut short, once."""
        begun, self._begun = self._begun, None
        return begun

    def due(self) -> bool:
        """Whether it is time to save."""
        return self.checkpoints is not None and self.checkpoints.due()

    def save(self, arrays: Arrays, scalars: dict[str, Any]) -> None:
        """Save the chain with the state of the fit at work, or without one between two fits."""
        if self.checkpoints is not None:
            models = {fitted.name: {"model": fitted.to_json(), "history": fitted.history} for fitted in self.models}
            parts = {fitted.name: to_arrays(fitted.weights()) for fitted in self.models}
            self.checkpoints.save(self.meter.done, arrays, {"models": models, "fit": scalars}, parts)


@dataclass(frozen=True)
class _Plan:
    """One model before it is fitted."""

    name: str
    member: str
    number: int
    fold: Fold
    epochs: int
    own_rows: np.ndarray
    train_rows: np.ndarray
    stop_rows: np.ndarray


def _plan(inputs: Inputs, member: str, chain: list[Fold], number: int) -> _Plan:
    config, horizon = inputs.config.classifiers, inputs.config.labels.horizon_bars
    fold, final = chain[number], number == len(chain) - 1
    own = training_rows(fold.predict_start, horizon, inputs.ready & ~np.isnan(inputs.values))
    # With many folds the last share reaches back to bars that the warm start was fitted on.
    first_unseen = chain[number - 1].predict_start if number else 0
    train, stop = early_stop_split(own, horizon, config.early_stop_frac, first_unseen)
    return _Plan(
        name="final" if final else f"fold-{number}",
        member=member,
        number=number,
        fold=fold,
        epochs=config.epochs if final or number == 0 else config.fold_epochs,
        own_rows=own,
        train_rows=train[:: config.window_stride],
        stop_rows=stop,
    )


def _fit_one(inputs: Inputs, plan: _Plan, saving: _ChainSaving, batch_halvings: int) -> FittedModel:
    """Fit one model of the chain from its own rows, starting from the weights of the one before."""
    previous = saving.models[-1] if saving.models else None
    config, device = inputs.config, inputs.config.compute.device
    seed = integer(config.seed, "classifiers", plan.member, plan.name)
    seen = inputs.features[: plan.fold.fit_stop]
    scaler = Scaler.fit(seen[np.isfinite(seen).all(axis=1)], config.features.clip)
    delta = fit_delta(inputs.values, plan.own_rows, config.labels)
    targets = classes(inputs.values, delta).astype(np.int64) + 1
    balanced = config.classifiers.class_weights
    weights = class_weights(targets[plan.own_rows], CLASSES) if balanced else np.ones(CLASSES)
    model = build_predictor(Architecture.of(plan.member, inputs.features.shape[1], config.classifiers), seed)
    if previous is not None:
        model.load_state_dict(previous.model.state_dict())
    task = Task(
        name=plan.name,
        windows=_windows(scaler, inputs.features, config.classifiers.lookback_bars, device),
        targets=torch.as_tensor(targets, device=device),
        class_weights=torch.as_tensor(weights, dtype=torch.float32, device=device),
        train_rows=plan.train_rows,
        stop_rows=plan.stop_rows,
    )
    schedule = Schedule(plan.epochs, previous is not None, seed, batch_halvings)
    fitted = fit(model.to(device), task, config.classifiers, schedule, saving.meter, saving)
    return FittedModel(model, scaler, _metadata(inputs, plan, fitted, delta, weights), fitted.history)


def _metadata(inputs: Inputs, plan: _Plan, fitted: Fitted, delta: float, weights: np.ndarray) -> dict:
    fold, bars = plan.fold, inputs.bars
    return {
        "name": plan.name,
        "fold": plan.number,
        "predict_start": fold.predict_start,
        "predict_stop": fold.predict_stop,
        # The labels of the last training rows read up to bar f - 1: that bar's close is what the model knows.
        "fitted_until": int(bars.t[fold.predict_start - 1]) + bars.timeframe_s - 1,
        "delta": delta,
        "class_weights": weights.tolist(),
        "train_windows": int(plan.train_rows.size),
        "stop_windows": int(plan.stop_rows.size),
        "first_row": int(plan.own_rows[0]),
        "last_row": int(plan.own_rows[-1]),
        "best_epoch": fitted.best_epoch,
        "batch_size": inputs.config.classifiers.batch_size,
        "micro_batch": fitted.micro_batch,
    }


def _scorings(bars: Bars, split: Split, config: Config, rows: np.ndarray) -> tuple[list[float], list[Scoring]]:
    """Threshold and scoring of each model of the chain that predicts some of `rows`; rows without a label fall out."""
    values, horizon = label_values(bars, config.labels), config.labels.horizon_bars
    labelled = ~np.isnan(values)
    rows, usable = rows[labelled[rows]], labelled & ready_rows(bars, config)
    deltas, scorings = [], []
    for fold in folds(split, config.classifiers.folds, horizon):
        scored = rows[(fold.predict_start <= rows) & (rows < fold.predict_stop)]
        if scored.size:
            own = training_rows(fold.predict_start, horizon, usable)
            deltas.append(fit_delta(values, own, config.labels))
            scorings.append(Scoring(classes(values, deltas[-1]), own, scored))
    return deltas, scorings


def _windows(scaler: Scaler, features: np.ndarray, lookback_bars: int, device: str) -> Windows:
    return Windows(torch.as_tensor(scaler.transform(features), device=device), lookback_bars)


def _curve(truth: np.ndarray, score: np.ndarray, label: int) -> dict | None:
    false_rate, true_rate = roc(truth, score, label)
    if np.isnan(false_rate).any() or np.isnan(true_rate).any():
        return None
    kept = np.unique(np.linspace(0, false_rate.size - 1, ROC_POINTS).round().astype(np.int64))
    return {"false_rate": false_rate[kept].tolist(), "true_rate": true_rate[kept].tolist()}

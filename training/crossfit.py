"""Out-of-fold predictions as columns: a forward chain of models, each fitted on earlier bars only.

The chain expands and warm-starts: fold n begins with the weights of fold n - 1,
and the final model, fitted on the whole train part, predicts validation and test.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

import numpy as np
import pandas as pd

from configs.errors import BadDataError
from configs.schema import Config
from training.artifacts import FittedModel
from training.chain import Chain, Inputs, Plan, fit_chain, predict_with, ready_rows
from training.checkpoint import Checkpoints, to_arrays, to_tensors
from training.features import FEATURE_NAMES, compute
from training.labels import classes, fit_delta, known_part, label_values
from training.market import Bars
from training.meter import Report
from training.metrics import CLASS_NAMES, Scoring, classification_report, roc, skill_report
from training.predictors.base import CLASSES
from training.splits import Split, folds, training_rows
from training.streams import stream

ROC_POINTS = 101
"""Most points kept of a ROC curve."""


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
    settings, horizon = inputs.config.classifiers, inputs.config.labels.horizon_bars
    parts = folds(split, settings.folds, horizon)
    plans = [Plan.of(inputs, parts, number, f"fold-{number}", settings.fold_epochs) for number in range(len(parts))]
    plans[0] = replace(plans[0], epochs=settings.epochs)
    plans[-1] = replace(plans[-1], name="final", epochs=settings.epochs)
    chain = Chain(member, inputs, "classifiers", plans)
    links = fit_chain(
        chain,
        lambda fitted: to_arrays(fitted.weights()),
        report,
        checkpoints=checkpoints,
        batch_halvings=batch_halvings,
    )
    for link in links:
        yield FittedModel.from_json(link.facts, to_tensors(link.kept), link.history)


def predictions_frame(models: list[FittedModel], features: np.ndarray, bars: Bars, config: Config) -> pd.DataFrame:
    """Predictions of the whole chain, one row per bar, as `join_predictions` gives them."""
    ready, device = ready_rows(bars, config), config.compute.device
    rows = [fitted.predicted_rows(ready) for fitted in models]
    pieces = (
        (own, predict_with(fitted, features, own, device), fitted.metadata)
        for own, fitted in zip(rows, models, strict=True)
    )
    return join_predictions(bars, pieces)


def join_predictions(bars: Bars, pieces: Iterable[tuple[np.ndarray, np.ndarray, dict]]) -> pd.DataFrame:
    """One frame of what the models of a chain predict.

    Args:
        bars: the whole series.
        pieces: (rows, (n, 3) probabilities, metadata) of each model.

    Returns:
        Columns t, fall, stationary, rise (float64, NaN where none), fitted_until (int64, -1 where none),
        fold (int16: number of the model in the chain, -1 where none).
    """
    probability = np.full((len(bars), CLASSES), np.nan)
    fitted_until = np.full(len(bars), -1, dtype=np.int64)
    fold = np.full(len(bars), -1, dtype=np.int16)
    for rows, predicted, metadata in pieces:
        probability[rows], fitted_until[rows], fold[rows] = predicted, metadata["fitted_until"], metadata["fold"]
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


def _curve(truth: np.ndarray, score: np.ndarray, label: int) -> dict | None:
    false_rate, true_rate = roc(truth, score, label)
    if np.isnan(false_rate).any() or np.isnan(true_rate).any():
        return None
    kept = np.unique(np.linspace(0, false_rate.size - 1, ROC_POINTS).round().astype(np.int64))
    return {"false_rate": false_rate[kept].tolist(), "true_rate": true_rate[kept].tolist()}

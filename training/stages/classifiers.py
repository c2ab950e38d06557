"""Units `classifiers/<member>` and `classifiers/ensemble`: out-of-fold predictions as columns.

A member fits its chain and writes models, predictions and plots; stopped or killed, it goes on from its newest
checkpoint to the same bytes. The ensemble votes,
and proves in its own process that every stored model still gives the stored
predictions. The test part is predicted here, never scored.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from configs.errors import ProjectError
from configs.files import write_atomic, write_json
from configs.schema import Config
from configs.unit import Unit, run_stage
from training.artifacts import FittedModel, load_model, save_model
from training.chain import Inputs, predict_with, ready_rows
from training.checkpoint import Checkpoints
from training.crossfit import crossfit, predictions_frame, score_predictions, soft_vote
from training.determinism import set_up_torch
from training.features import FEATURE_NAMES
from training.metrics import CLASS_NAMES
from training.plots import confusion_plot, roc_plot, training_plot
from training.predictors import Architecture, build_predictor
from training.speed import WindowSpeed
from training.splits import bars_needed
from training.stages.prepare import Prepared, load_predictions, load_prepared, write_table

TOLERANCE = {"cpu": 0.0, "cuda": 1e-5}
"""Largest difference between stored and reproduced probabilities."""
BASE_MEMORY_BYTES = 900_000_000
"""A process with torch loaded."""
FLOPS_PER_S = {"cpu": 40e9, "cuda": 4e12}
"""Sustained training rate that `plan` assumes, for one CPU thread or one GPU."""
SCORED_PER_S = 6_000.0
FIRST_S = 4.0
PLOT_BYTES = 1_000_000


class NotReproducedError(ProjectError):
    """A stored model does not give the stored predictions."""


def main(argv: list[str] | None = None) -> int:
    """Run one unit of the stage."""
    return run_stage(argv, work, describe)


def work(unit: Unit) -> dict[str, Any]:
    """Fit a member, or vote and verify."""
    set_up_torch(unit.config.compute.threads_per_unit)
    prepared = load_prepared(unit.run)
    return vote(unit, prepared) if unit.name == "ensemble" else fit_member(unit, prepared)


def describe(config: Config) -> dict[str, Any]:
    """Facts for `plan`; `least_frac` is left where every fit stops as early as its patience lets it."""
    settings, device = config.classifiers, config.compute.device
    # A training step keeps about 10 numbers per unit, bar and layer; BiLSTM and DLSTM have two nets.
    activations = 2 * 10 * settings.batch_size * settings.lookback_bars * settings.layers * settings.units
    most, least = (chain_windows_per_bar(config, stopped_early) for stopped_early in (False, True))
    weights = max(_parameters(member, config) for member in settings.members)
    work = []
    for member in settings.members:
        rate = FLOPS_PER_S[device] / flops_per_window(member, config)
        own = {"per": "bar", "units": f"classifiers/{member}"}
        trained = {"name": f"{member} windows trained", "amount": most.trained, "rate_per_s": rate}
        asked = {"name": f"{member} windows predicted", "rate_per_s": 3 * rate}
        work += [
            trained | own | {"least_frac": least.trained / most.trained},
            asked | own | {"amount": most.predicted, "least_frac": least.predicted / most.predicted},
            asked | {"amount": most.stored, "per": "bar", "units": "classifiers/ensemble"},
        ]
    scored = config.splits.validation_frac + most.stored - (1 - config.splits.train_frac)
    return {
        "bars_needed": bars_needed(config),
        "memory_bytes": BASE_MEMORY_BYTES + 4 * activations,
        "artifact_bytes": 4 * (settings.folds + 1) * weights + PLOT_BYTES,
        # weights, the best ones and Adam's two moments, with the finished models of the chain
        "checkpoint_bytes": 4 * (4 + settings.folds) * weights,
        "work": [
            *work,
            {"name": "bars scored", "amount": scored, "per": "bar", "rate_per_s": SCORED_PER_S},
            {"name": "first step and plots", "amount": 1, "rate_per_s": 1 / FIRST_S},
        ],
    }


def calibrate(config: Config, budget_s: float) -> dict[str, float]:
    """Rates of the stage's work on this machine, on generated bars, in about `budget_s`."""
    set_up_torch(config.compute.threads_per_unit)
    members = config.classifiers.members
    speed = WindowSpeed(config)
    first_s = _plots_s(config.classifiers.folds + 1) + speed.first_step_s(members[0])
    rates = {"first step and plots": 1 / first_s, "bars scored": speed.scored_per_s()}
    for member in members:
        rates[f"{member} windows trained"] = speed.trained_per_s(member, 0.6 * budget_s / len(members))
        rates[f"{member} windows predicted"] = speed.predicted_per_s(member, 0.2 * budget_s / len(members))
    return rates


@dataclass(frozen=True)
class ChainWindows:
    """Windows of one member's chain, per bar of the dataset."""

    trained: float
    predicted: float
    """By fits that judge their epochs, and for the stored predictions."""
    stored: float


def chain_windows_per_bar(config: Config, stopped_early: bool) -> ChainWindows:
    """What the chain of fits of one member does; without early stopping, or with as much of it as there can be."""
    settings = config.classifiers
    piece = config.splits.train_frac / (settings.folds + 1)
    trained = judged = 0.0
    for number in range(settings.folds + 1):
        most = settings.epochs if number in (0, settings.folds) else settings.fold_epochs
        # the first fit cannot be best before its first epoch; a warm start can
        epochs = min(most, settings.patience_epochs + (number == 0)) if stopped_early else most
        own = piece * (number + 1)
        trained += own * (1 - settings.early_stop_frac) / settings.window_stride * epochs
        judged += own * settings.early_stop_frac * (epochs + 1)
    stored = 1 - piece
    return ChainWindows(trained, judged + stored, stored)


def _plots_s(models: int) -> float:
    """Seconds of one member's plots."""
    begun_s, parts = time.perf_counter(), ("out_of_fold", "validation")
    row = {"epoch": 0, "train_loss": None, "stop_loss": 1.0}
    names = [str(number) for number in range(models)]
    training_plot("fits", dict.fromkeys(names, [row]), dict.fromkeys(names, 0))
    confusion_plot("calls", dict.fromkeys(parts, [[1] * len(CLASS_NAMES)] * len(CLASS_NAMES)))
    curve = {"false_rate": [0.0, 1.0], "true_rate": [0.0, 1.0]}
    roc_plot("classes", dict.fromkeys(parts, dict.fromkeys(CLASS_NAMES, curve)))
    return time.perf_counter() - begun_s


def flops_per_window(member: str, config: Config) -> float:
    """Floating-point operations of training on one window once."""
    # forward costs 2 operations per weight and bar of the window, backward twice that
    return 6 * config.classifiers.lookback_bars * _parameters(member, config)


def _parameters(member: str, config: Config) -> int:
    model = build_predictor(Architecture.of(member, len(FEATURE_NAMES), config.classifiers), seed=0)
    return sum(parameter.numel() for parameter in model.parameters())


def fit_member(unit: Unit, prepared: Prepared) -> dict[str, Any]:
    """Fit one member's chain and write its models, predictions, metrics and plots."""
    member, config = unit.name, unit.config
    models: list[FittedModel] = []
    inputs = Inputs.of(prepared.bars, prepared.features, config)
    saved = Checkpoints.of(unit)
    chain = crossfit(member, inputs, prepared.split, unit, checkpoints=saved, batch_halvings=unit.batch_halvings)
    for fitted in chain:
        save_model(fitted, unit.dir / "models" / fitted.name)
        models.append(fitted)
    predictions = predictions_frame(models, prepared.features, prepared.bars, config)
    write_table(unit.dir / "predictions.parquet", predictions)
    scores = _write_scores(unit, prepared, predictions)
    histories = {fitted.name: fitted.history for fitted in models}
    write_json(unit.dir / "history.json", histories)
    best_epochs = {fitted.name: fitted.metadata["best_epoch"] for fitted in models}
    write_atomic(unit.dir / "training.png", training_plot(f"{member}: fits", histories, best_epochs))
    return scores | {
        "parameters": sum(parameter.numel() for parameter in models[-1].model.parameters()),
        "models": {fitted.name: _summary(fitted) for fitted in models},
    }


def vote(unit: Unit, prepared: Prepared) -> dict[str, Any]:
    """Verify every member's models in this process, then write the soft vote of the ensemble's members."""
    members = unit.config.classifiers.members
    frames = {name: load_predictions(unit.run, name) for name in members}
    reproduced = {}
    for done, name in enumerate(members):
        unit.progress(done, len(members))
        reproduced[name] = reproduce(unit, prepared, name, frames[name])
    predictions = soft_vote({name: frames[name] for name in unit.config.ensemble.members})
    write_table(unit.dir / "predictions.parquet", predictions)
    return _write_scores(unit, prepared, predictions) | {"reproduced": reproduced}


def reproduce(unit: Unit, prepared: Prepared, member: str, stored: pd.DataFrame) -> dict[str, Any]:
    """Load every model of `member` and predict its bars again.

    Raises:
        NotReproducedError: a probability differs from the stored one by more than the device's tolerance.
    """
    device = unit.config.compute.device
    ready = ready_rows(prepared.bars, unit.config)
    numbers = range(unit.config.classifiers.folds)
    names = [*(f"fold-{number}" for number in numbers), "final"]
    covered, largest = 0, 0.0
    for name in names:
        directory = unit.run.unit_dir(f"classifiers/{member}") / "models" / name
        fitted = load_model(directory)
        rows = fitted.predicted_rows(ready)
        again = predict_with(fitted, prepared.features, rows, device)
        difference = np.abs(again - stored[list(CLASS_NAMES)].to_numpy()[rows]).max(initial=0.0)
        if not difference <= TOLERANCE[device]:
            raise NotReproducedError(
                f"{directory} gives probabilities that differ by up to {difference:.3g} from the stored ones, "
                f"expected at most {TOLERANCE[device]:g}; run unit 'classifiers/{member}' again"
            )
        covered, largest = covered + rows.size, max(largest, float(difference))
    if covered != int((stored["fitted_until"] >= 0).sum()):
        raise NotReproducedError(
            f"the models of {member} cover {covered} bars, predictions.parquet has "
            f"{int((stored['fitted_until'] >= 0).sum())}; run unit 'classifiers/{member}' again"
        )
    return {"models": len(names), "bars": int(covered), "largest_difference": largest}


def _write_scores(unit: Unit, prepared: Prepared, predictions: pd.DataFrame) -> dict[str, Any]:
    """Score the out-of-fold and validation parts; `metrics.json` has ROC points too, the returned value does not.

    The last k bars of a part are left out: their labels read bars of the next part.
    """
    split, horizon = prepared.split, unit.config.labels.horizon_bars
    parts = {"out_of_fold": split.train, "validation": split.validation}
    scores = {
        part: score_predictions(prepared.bars, predictions, split, unit.config, np.arange(start, stop - horizon))
        for part, (start, stop) in parts.items()
    }
    write_json(unit.dir / "metrics.json", scores)
    confusions = {part: score["confusion"] for part, score in scores.items()}
    write_atomic(unit.dir / "confusion.png", confusion_plot(f"{unit.name}: calls", confusions))
    curves = {part: score["roc"] for part, score in scores.items()}
    write_atomic(unit.dir / "roc.png", roc_plot(f"{unit.name}: one class against the rest", curves))
    return {part: {key: value for key, value in score.items() if key != "roc"} for part, score in scores.items()}


def _summary(fitted: FittedModel) -> dict[str, Any]:
    kept = ("best_epoch", "delta", "micro_batch", "train_windows", "stop_windows")
    row = fitted.history[fitted.metadata["best_epoch"]]
    return {key: fitted.metadata[key] for key in kept} | {"stop_loss": row["stop_loss"]}


if __name__ == "__main__":
    raise SystemExit(main())

"""Units `classifiers/<member>` and `classifiers/ensemble`: out-of-fold predictions as columns.

A member fits its chain and writes models, predictions and plots; stopped or killed, it goes on from its newest
checkpoint to the same bytes. The ensemble votes,
and proves in its own process that every stored model still gives the stored
predictions. The test part is predicted here, never scored.
"""

from __future__ import annotations

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
from training.splits import bars_needed
from training.stages.prepare import Prepared, load_predictions, load_prepared, write_table

TOLERANCE = {"cpu": 0.0, "cuda": 1e-5}
"""Largest difference between stored and reproduced probabilities."""
BASE_MEMORY_BYTES = 900_000_000
"""A process with torch loaded."""
FLOPS_PER_S = {"cpu": 40e9, "cuda": 4e12}
"""Sustained training rate that `plan` assumes, for one CPU thread or one GPU."""


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
    """Facts for `plan`; the work is that of fits that never stop early."""
    settings = config.classifiers
    # A training step keeps about 10 numbers per unit, bar and layer; BiLSTM and DLSTM have two nets.
    activations = 2 * 10 * settings.batch_size * settings.lookback_bars * settings.layers * settings.units
    return {
        "bars_needed": bars_needed(config),
        "memory_bytes": BASE_MEMORY_BYTES + 4 * activations,
        "work": [
            {
                "name": f"{member} training operations",
                "amount": training_flops_per_bar(member, config),
                "per": "bar",
                "rate_per_s": FLOPS_PER_S[config.compute.device],
            }
            for member in settings.members
        ],
    }


def training_flops_per_bar(member: str, config: Config) -> float:
    """Most floating-point operations of the whole chain (no early stop) per bar of the dataset."""
    settings = config.classifiers
    pieces = settings.folds + 1
    middle = sum(range(2, pieces)) * settings.fold_epochs
    piece_epochs = settings.epochs * (1 + pieces) + middle
    windows = config.splits.train_frac / pieces * piece_epochs / settings.window_stride
    return flops_per_window(member, config) * windows


def flops_per_window(member: str, config: Config) -> float:
    """Floating-point operations of training on one window once."""
    settings = config.classifiers
    model = build_predictor(Architecture.of(member, len(FEATURE_NAMES), settings), seed=0)
    # Forward costs 2 operations per weight and bar of the window, backward twice that.
    return 6 * settings.lookback_bars * sum(parameter.numel() for parameter in model.parameters())


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

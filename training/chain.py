"""Models of one member fitted in order, each from the weights of the one before, each on earlier bars only.

Everything a model is fitted with (weights, epochs, class weights, delta, scaler)
comes from its own training rows. Between two steps of any fit the whole chain can
be saved, and an equal chain goes on from there to the same bits. Which rows a model
gets is decided elsewhere: `training.crossfit` (expanding), `training.rolling` (monthly).
N = bars, F = features, k = label horizon.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from configs.errors import StopRequested
from configs.needs import warmup_bars
from configs.schema import Config
from training.artifacts import FittedModel
from training.checkpoint import Arrays, Checkpoints, below, to_arrays, to_tensors
from training.fit import Fitted, Schedule, Task, Windows, class_weights, fit, predict
from training.labels import classes, fit_delta, label_values
from training.market import Bars
from training.meter import Meter, Report, Silent
from training.predictors import Architecture, build_predictor
from training.predictors.base import CLASSES
from training.scaling import Scaler
from training.splits import Fold, early_stop_split, training_rows, window_ready
from training.streams import integer

PREVIOUS = "previous/"


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


@dataclass(frozen=True)
class Plan:
    """One model of a chain before it is fitted."""

    name: str
    number: int
    """Of the model in its chain; all but number 0 start from the weights of the one before."""
    fold: Fold
    epochs: int
    """Most epochs."""
    own_rows: np.ndarray
    train_rows: np.ndarray
    stop_rows: np.ndarray
    patient_from: int = 1
    """The first epoch after which patience may end the fit."""

    @classmethod
    def of(cls, inputs: Inputs, chain: Sequence[Fold], number: int, name: str, epochs: int) -> Plan:
        """Divide the rows that model `number` of a chain may be fitted with."""
        settings, horizon, fold = inputs.config.classifiers, inputs.config.labels.horizon_bars, chain[number]
        usable = inputs.ready & ~np.isnan(inputs.values)
        own = training_rows(fold.predict_start, horizon, usable, fold.fit_start)
        # With many folds the last share reaches back to bars that the warm start was fitted on.
        first_unseen = chain[number - 1].predict_start if number else 0
        train, stop = early_stop_split(own, horizon, settings.early_stop_frac, first_unseen)
        return cls(name, number, fold, epochs, own, train[:: settings.window_stride], stop)


@dataclass(frozen=True)
class Chain:
    """Models of one member that are fitted in order, each from the weights of the one before."""

    member: str
    """Name in `PREDICTORS`."""
    inputs: Inputs
    streams: str
    """First name of its random streams; member and model follow."""
    plans: list[Plan]


@dataclass(frozen=True)
class Link:
    """What remains of a fitted model of a chain."""

    facts: dict
    """`FittedModel.to_json`."""
    history: list[dict]
    kept: Arrays

    @property
    def name(self) -> str:
        """Of the model."""
        return self.facts["name"]


def ready_rows(bars: Bars, config: Config) -> np.ndarray:
    """(N,) bool: `lookback_bars` bars of one segment, all with features, end here."""
    return window_ready(bars.segment, warmup_bars(config.features), config.classifiers.lookback_bars)


def fit_chain(
    chain: Chain,
    keep: Callable[[FittedModel], Arrays],
    report: Report | None = None,
    *,
    checkpoints: Checkpoints | None = None,
    batch_halvings: int = 0,
) -> Iterator[Link]:
    """Fit the models of a chain in order.

    Args:
        chain: what to fit.
        keep: what is to be kept of a fitted model; checkpoints hold it, and the weights of the newest model alone.
        report: where progress goes; it may raise StopRequested, and the chain is saved first.
        checkpoints: where the chain is saved, and gone on from.
        batch_halvings: how often the windows that go through a net at once are halved.

    Raises:
        BadDataError: a model of the chain has too few rows.
        TrainingDivergedError: a loss is not finite.
        OutOfMemoryError: the batch did not fit.
    """
    meter = Meter(report or Silent(), sum(plan.epochs * plan.train_rows.size for plan in chain.plans))
    saving = _ChainSaving(meter, checkpoints)
    saving.resume()
    meter.tell()
    yield from saving.links
    for plan in chain.plans[len(saving.links) :]:
        fitted = _fit_one(chain, plan, saving, batch_halvings)
        saving.finish(Link(fitted.to_json(), fitted.history, keep(fitted)), fitted.weights())
        try:
            meter.tell()
        except StopRequested:
            saving.save({}, {})
            raise
        yield saving.links[-1]


def predict_with(fitted: FittedModel, features: np.ndarray, rows: np.ndarray, device: str) -> np.ndarray:
    """(n, 3) probabilities of fall, stationary, rise by one model for windows that end at `rows`."""
    windows = _windows(fitted.scaler, features, fitted.model.architecture.lookback_bars, device)
    return predict(fitted.model.to(device), windows, rows)


@dataclass
class _ChainSaving:
    """Saves a chain in the middle of a fit: what is kept of the finished models as parts that never change, the
    fit's state, and between two fits the weights that the next one starts from."""

    meter: Meter
    checkpoints: Checkpoints | None
    links: list[Link] = field(default_factory=list)
    """Those that are finished."""
    previous: dict[str, Tensor] | None = None
    """Weights of the newest of them; not read, and so not there, where a fit that was cut short goes on."""
    _begun: tuple[Arrays, dict[str, Any]] | None = None

    def resume(self) -> None:
        """Go on from the newest checkpoint, if there is one."""
        saved = self.checkpoints.resume() if self.checkpoints else None
        if saved is None:
            return
        self.meter.resume(saved.step)
        self.links = [
            Link(value["model"], value["history"], saved.parts[name]) for name, value in saved.scalars["models"].items()
        ]
        if saved.scalars["fit"]:
            self._begun = saved.arrays, saved.scalars["fit"]
        else:
            self.previous = to_tensors(below(PREVIOUS, saved.arrays)) or None

    def finish(self, link: Link, weights: dict[str, Tensor]) -> None:
        """A model is fitted."""
        self.links.append(link)
        self.previous = weights

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
            models = {link.name: {"model": link.facts, "history": link.history} for link in self.links}
            if not scalars and self.previous is not None:
                arrays = {f"{PREVIOUS}{name}": value for name, value in to_arrays(self.previous).items()}
            parts = {link.name: link.kept for link in self.links}
            self.checkpoints.save(self.meter.done, arrays, {"models": models, "fit": scalars}, parts)


def _fit_one(chain: Chain, plan: Plan, saving: _ChainSaving, batch_halvings: int) -> FittedModel:
    """Fit one model of the chain from its own rows, starting from the weights of the one before."""
    inputs, config = chain.inputs, chain.inputs.config
    device, fold = config.compute.device, plan.fold
    seed = integer(config.seed, chain.streams, chain.member, plan.name)
    seen = inputs.features[fold.fit_start : fold.fit_stop]
    scaler = Scaler.fit(seen[np.isfinite(seen).all(axis=1)], config.features.clip)
    delta = fit_delta(inputs.values, plan.own_rows, config.labels)
    targets = classes(inputs.values, delta).astype(np.int64) + 1
    balanced = config.classifiers.class_weights
    weights = class_weights(targets[plan.own_rows], CLASSES) if balanced else np.ones(CLASSES)
    model = build_predictor(Architecture.of(chain.member, inputs.features.shape[1], config.classifiers), seed)
    if saving.previous is not None:
        model.load_state_dict(saving.previous)
    task = Task(
        name=plan.name,
        windows=_windows(scaler, inputs.features, config.classifiers.lookback_bars, device),
        targets=torch.as_tensor(targets, device=device),
        class_weights=torch.as_tensor(weights, dtype=torch.float32, device=device),
        train_rows=plan.train_rows,
        stop_rows=plan.stop_rows,
    )
    schedule = Schedule(plan.epochs, plan.number > 0, seed, batch_halvings, plan.patient_from)
    fitted = fit(model.to(device), task, config.classifiers, schedule, saving.meter, saving)
    return FittedModel(model, scaler, _metadata(inputs, plan, fitted, delta, weights), fitted.history)


def _metadata(inputs: Inputs, plan: Plan, fitted: Fitted, delta: float, weights: np.ndarray) -> dict:
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


def _windows(scaler: Scaler, features: np.ndarray, lookback_bars: int, device: str) -> Windows:
    return Windows(torch.as_tensor(scaler.transform(features), device=device), lookback_bars)

"""How fast this machine fits, asks and scores classifiers: measured on DEMO-USD_1H, for `plan`."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from typing import TypeVar

import numpy as np
import pandas as pd
import torch
from numba.core import event

from configs.errors import StopRequested
from configs.schema import Config
from training.crossfit import ready_rows, score_predictions
from training.demo import demo_bars
from training.features import FEATURE_NAMES, compute
from training.fit import PREDICT_BATCH, Schedule, Task, Windows, fit, predict
from training.meter import Meter, Silent
from training.metrics import CLASS_NAMES
from training.predictors import Architecture, Predictor, build_predictor
from training.predictors.base import CLASSES
from training.scaling import Scaler
from training.splits import split
from training.streams import stream

T = TypeVar("T")
LEAST_S = 1e-3


def without_compiling_s(work: Callable[[], T]) -> tuple[T, float]:
    """What `work` gives and how many seconds it takes, without those that numba compiles once on a machine."""
    compiled: list[float] = []
    began_s = time.perf_counter()
    with event.install_timer("numba:compile", compiled.append):
        result = work()
    return result, max(LEAST_S, time.perf_counter() - began_s - sum(compiled))


class WindowSpeed:
    """Measures members on one set of windows."""

    def __init__(self, config: Config) -> None:
        """Make bars, features and targets."""
        # cut at its own gaps: those of a run on 1m bars are shorter than an hour
        self.config, self.bars = config, demo_bars()
        features = compute(self.bars, config.features)
        scaler = Scaler.fit(features[np.isfinite(features).all(axis=1)], config.features.clip)
        self._device = config.compute.device
        table = torch.as_tensor(scaler.transform(features), device=self._device)
        self._windows = Windows(table, config.classifiers.lookback_bars)
        self._rows = np.flatnonzero(ready_rows(self.bars, config))
        self._rng = stream(config.seed, "speed")
        targets = self._rng.integers(0, CLASSES, len(self.bars))
        self._targets = torch.as_tensor(targets, device=self._device)

    def first_step_s(self, member: str) -> float:
        """Seconds of a fit of one step: what torch loads and sets up the first time."""
        begun_s = time.perf_counter()
        self._fit(member, _Limited(0.0))
        return time.perf_counter() - begun_s

    def trained_per_s(self, member: str, budget_s: float) -> float:
        """Windows per second through a fit of one member."""
        meter = _Limited(budget_s)
        self._fit(member, meter)
        return meter.per_s

    def predicted_per_s(self, member: str, budget_s: float) -> float:
        """Windows per second through a fitted member."""
        model, rows = self._model(member), self._rows[: 4 * PREDICT_BATCH]
        predict(model, self._windows, rows[:PREDICT_BATCH])
        asked, begun_s = 0, time.perf_counter()
        while not asked or time.perf_counter() - begun_s < budget_s:
            predict(model, self._windows, rows)
            asked += rows.size
        return asked / (time.perf_counter() - begun_s)

    def scored_per_s(self) -> float:
        """Bars per second of the judgement of predictions, on the validation part."""
        probability = self._rng.dirichlet(np.ones(CLASSES), len(self.bars))
        frame = pd.DataFrame(probability, columns=list(CLASS_NAMES))
        parts, horizon = split(len(self.bars), self.config.splits), self.config.labels.horizon_bars
        rows = np.arange(parts.validation[0], parts.validation[1] - horizon)
        begun_s = time.perf_counter()
        score_predictions(self.bars, frame, parts, self.config, rows)
        return rows.size / (time.perf_counter() - begun_s)

    def _fit(self, member: str, meter: _Limited) -> None:
        task = Task(
            name=member,
            windows=self._windows,
            targets=self._targets,
            class_weights=torch.ones(CLASSES, device=self._device),
            train_rows=self._rows,
            stop_rows=self._rows[:PREDICT_BATCH],
        )
        schedule = Schedule(epochs=10**6, warm=False, seed=self.config.seed)
        patient = self.config.classifiers.model_copy(update={"patience_epochs": 10**6})
        with contextlib.suppress(StopRequested):
            fit(self._model(member), task, patient, schedule, meter)

    def _model(self, member: str) -> Predictor:
        architecture = Architecture.of(member, len(FEATURE_NAMES), self.config.classifiers)
        return build_predictor(architecture, self.config.seed).to(self._device)


class _Limited(Meter):
    """Counts windows from the second block of steps on, and ends the fit when the time is up."""

    def __init__(self, budget_s: float) -> None:
        super().__init__(Silent(), 1)
        self._budget_s, self._first_s, self._windows = budget_s, 0.0, 0
        self.per_s = 0.0

    def advance(self, windows: int) -> None:
        """Count; the first block warms up."""
        now_s = time.perf_counter()
        if not windows:
            return
        if not self._first_s:
            self._first_s = now_s
        else:
            self._windows += windows
            self.per_s = self._windows / (now_s - self._first_s)
        if now_s - self._first_s >= self._budget_s and (self.per_s or not self._budget_s):
            raise StopRequested("enough was measured")

"""One fit loop for every classifier, and the windows it reads.

Windows are gathered on the device, batch by batch, from one resident (N, F)
table; no data set of windows is ever built. Nothing here knows a run directory:
progress goes to a `Report`, whose calls may raise to stop at a safe boundary.

Shapes: N = bars, F = features, L = lookback, B = windows of one micro-batch, C = classes.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from configs.errors import BadDataError, MachineUnfitError, ProjectError
from configs.schema import ClassifiersConfig
from training.streams import integer, stream

PREDICT_BATCH = 512
"""Windows of one inference batch; a fixed number, so that equal weights give equal bytes."""
REPORT_EVERY_S = 1.0


class TrainingDivergedError(ProjectError):
    """A loss or gradient stopped being finite."""


class Report(Protocol):
    """Where progress goes; `progress` is called at safe boundaries and may raise. A stage's `Unit` is one."""

    def progress(self, done: float, total: float, rate: float | None = None, **fields: Any) -> None:
        """`done` of `total` training windows are behind us, at `rate` per second."""

    def metric(self, name: str, **values: Any) -> None:
        """One row of a training curve."""


class Silent:
    """A report nobody reads."""

    def progress(self, done: float, total: float, rate: float | None = None, **fields: Any) -> None:
        """Ignore."""

    def metric(self, name: str, **values: Any) -> None:
        """Ignore."""


class Meter:
    """Counts the training windows of a whole job and reports them about once a second."""

    def __init__(self, report: Report, total: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.report, self.total, self.done = report, total, 0
        self._clock, self._worked = clock, 0
        self._started_s = self._reported_s = clock()

    def advance(self, windows: int) -> None:
        """`windows` more were trained on."""
        self.done += windows
        self._worked += windows
        if self._clock() - self._reported_s >= REPORT_EVERY_S:
            self.tell()

    def skip(self, windows: int) -> None:
        """`windows` need not be trained on: early stopping."""
        self.done += windows

    def tell(self) -> None:
        """Report now; the rate counts windows trained on, over all the time since the start."""
        self._reported_s = self._clock()
        if self._worked:
            rate = self._worked / (self._reported_s - self._started_s)
            self.report.progress(self.done, self.total, rate, eta_s=(self.total - self.done) / rate)
        else:
            self.report.progress(self.done, self.total)


@dataclass(frozen=True)
class Windows:
    """Every window of one series as rows of one resident table."""

    table: Tensor
    """(N, F) float32 on the device; rows without features may be NaN and are never gathered."""
    lookback_bars: int

    def gather(self, ends: Tensor) -> Tensor:
        """(B, L, F): the windows whose last rows are `ends` (B,) int64.

        The memory is time-major (L, B, F), the order that recurrent kernels want.
        """
        offsets = torch.arange(1 - self.lookback_bars, 1, device=ends.device)
        rows = (ends + offsets[:, None]).reshape(-1)
        gathered = self.table.index_select(0, rows).view(self.lookback_bars, ends.numel(), self.table.shape[1])
        return gathered.transpose(0, 1)


@dataclass(frozen=True)
class Task:
    """What one model is fitted on; rows are the last bars of windows."""

    name: str
    """Of the model, in messages and curves."""
    windows: Windows
    targets: Tensor
    """(N,) int64 on the device: 0 fall, 1 stationary, 2 rise; read at the task's rows only."""
    class_weights: Tensor
    """(C,) float32 on the device."""
    train_rows: np.ndarray
    stop_rows: np.ndarray
    """Rows whose weighted log-loss decides the epoch."""


@dataclass(frozen=True)
class Fitted:
    """How a fit went; the model itself holds the best epoch's weights."""

    best_epoch: int
    """0 is the warm start itself."""
    micro_batch: int
    """Windows that went through the net at once: the configured batch, halved until it fitted the memory."""
    history: list[dict]
    """Per epoch: epoch, train_loss (null for epoch 0), stop_loss, stop_accuracy."""


def class_weights(targets: np.ndarray, classes: int) -> np.ndarray:
    """(C,) weights n / (C n_c), so that every class weighs the same in sum; 0 for a class that never occurs."""
    counts = np.bincount(targets, minlength=classes).astype(np.float64)
    return np.divide(targets.size, classes * counts, out=np.zeros(classes), where=counts > 0)


def fit(
    model: nn.Module,
    task: Task,
    config: ClassifiersConfig,
    *,
    epochs: int,
    warm: bool,
    seed: int,
    meter: Meter,
) -> Fitted:
    """Fit `model` in place by Adam on the weighted log-loss and leave it with its best epoch's weights.

    Args:
        model: on the task's device.
        task: windows, targets and rows.
        config: batch, rate, clipping, patience.
        epochs: most epochs.
        warm: the model is already fitted on earlier bars; its state as it comes competes as epoch 0.
        seed: of shuffling and dropout.
        meter: counts the windows.

    Raises:
        BadDataError: no training or no early-stopping row.
        TrainingDivergedError: the loss is not finite.
    """
    _require_rows(task)
    trainer = _Trainer(model, task, config, seed, meter)
    history: list[dict] = [{"epoch": 0, "train_loss": None} | trainer.evaluate()]
    best_epoch, best_loss = (0, history[0]["stop_loss"]) if warm else (-1, np.inf)
    best_state = _copy_state(model)
    devices = [task.windows.table.device] if task.windows.table.is_cuda else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(integer(seed, "dropout"))
        for epoch in range(1, epochs + 1):
            row = {"epoch": epoch, "train_loss": trainer.epoch(epoch)} | trainer.evaluate()
            _require_finite(row, task.name)
            history.append(row)
            meter.report.metric("fit", model=task.name, **row)
            if row["stop_loss"] < best_loss:
                best_epoch, best_loss, best_state = epoch, row["stop_loss"], _copy_state(model)
            elif epoch - best_epoch >= config.patience_epochs:
                meter.skip((epochs - epoch) * task.train_rows.size)
                break
    model.load_state_dict(best_state)
    return Fitted(best_epoch, trainer.micro_batch, history)


@torch.no_grad()
def predict(model: nn.Module, windows: Windows, rows: np.ndarray, meter: Meter | None = None) -> np.ndarray:
    """(n, C) float64 probabilities of the windows that end at `rows`; always fp32 inside, in batches of fixed size."""
    model.eval()
    ends = torch.as_tensor(rows, dtype=torch.int64, device=windows.table.device)
    logits = []
    for part in ends.split(PREDICT_BATCH):
        logits.append(model(windows.gather(part)).double())
        if meter is not None:
            meter.advance(0)
    return torch.softmax(torch.cat(logits), dim=1).cpu().numpy()


def largest_batch(size: int, attempt: Callable[[int], None]) -> int:
    """`size`, halved until `attempt(size)` does not run out of GPU memory.

    Raises:
        MachineUnfitError: not even one window fits.
    """
    while True:
        try:
            attempt(size)
            return size
        except torch.cuda.OutOfMemoryError as error:
            if size == 1:
                raise MachineUnfitError(
                    "the GPU's memory does not hold one training window; choose fewer classifiers.units or layers"
                ) from error
        size //= 2


class _Trainer:
    """The mutable half of a fit: optimizer, precision, micro-batch."""

    def __init__(self, model: nn.Module, task: Task, config: ClassifiersConfig, seed: int, meter: Meter) -> None:
        self.model, self.task, self.config, self.seed, self.meter = model, task, config, seed, meter
        self.device = task.windows.table.device
        self.optimizer = torch.optim.Adam(model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)
        self.amp = config.amp and self.device.type == "cuda"
        self.amp_dtype = _amp_dtype(self.device)
        # fp16 gradients underflow without a loss scale. bf16 would need none, but autocast runs cuDNN's recurrent
        # kernels in fp16 under either type (ATen/cudnn/AutocastRNN.cpp).
        self.loss_scaler = torch.amp.GradScaler("cuda", enabled=self.amp)
        self.train_rows = torch.as_tensor(task.train_rows, device=self.device)
        # A halved micro-batch is made up by accumulation: the optimizer's steps stay the same.
        size = min(config.batch_size, task.train_rows.size)
        self.micro_batch = largest_batch(size, self._probe) if self.device.type == "cuda" else size

    def epoch(self, number: int) -> float:
        """Go once over the training rows in an order of this epoch's own; mean weighted log-loss."""
        self.model.train()
        order = stream(self.seed, "epoch", number).permutation(self.task.train_rows.size)
        shuffled = self.train_rows[torch.as_tensor(order, device=self.device)]
        loss_sum = torch.zeros((), dtype=torch.float64, device=self.device)
        weight_sum = torch.zeros((), dtype=torch.float64, device=self.device)
        for rows in shuffled.split(self.config.batch_size * self.config.accumulation_steps):
            weight = self.task.class_weights[self.task.targets[rows]].sum()
            loss_sum += self._step(rows, weight)
            weight_sum += weight
            self.meter.advance(rows.numel())
        return float(loss_sum / weight_sum)

    @torch.no_grad()
    def evaluate(self) -> dict[str, float]:
        """Weighted log-loss and accuracy on the early-stopping rows."""
        probability = predict(self.model, self.task.windows, self.task.stop_rows, self.meter)
        truth = self.task.targets[torch.as_tensor(self.task.stop_rows, device=self.device)].cpu().numpy()
        weight = self.task.class_weights.double().cpu().numpy()[truth]
        own = np.maximum(probability[np.arange(truth.size), truth], np.finfo(np.float64).tiny)
        return {
            "stop_loss": float(-(weight * np.log(own)).sum() / weight.sum()),
            "stop_accuracy": float((probability.argmax(axis=1) == truth).mean()),
        }

    def _step(self, rows: Tensor, weight: Tensor) -> Tensor:
        """One optimizer step on `rows`, in micro-batches whose gradients add up to those of the whole."""
        self.optimizer.zero_grad(set_to_none=True)
        total = torch.zeros((), dtype=torch.float64, device=self.device)
        for part in rows.split(self.micro_batch):
            loss = self._loss(part)
            self.loss_scaler.scale(loss / weight).backward()
            total += loss.detach()
        self.loss_scaler.unscale_(self.optimizer)
        nn.utils.clip_grad_norm_(self.model.parameters(), self.config.max_grad_norm)
        self.loss_scaler.step(self.optimizer)
        self.loss_scaler.update()
        return total

    def _loss(self, rows: Tensor) -> Tensor:
        """Sum of weighted log-losses."""
        with torch.autocast(self.device.type, dtype=self.amp_dtype, enabled=self.amp):
            logits = self.model(self.task.windows.gather(rows))
        weight = self.task.class_weights
        return cross_entropy(logits.float(), self.task.targets[rows], weight=weight, reduction="sum")

    def _probe(self, size: int) -> None:
        """One forward and backward pass of `size` windows, without an optimizer step."""
        self.model.train()
        try:
            self._loss(self.train_rows[:size]).backward()
        finally:
            self.optimizer.zero_grad(set_to_none=True)


def _amp_dtype(device: torch.device) -> torch.dtype:
    """bf16 from Ampere (compute capability 8) on, fp16 before; a CPU never uses it."""
    old_gpu = device.type == "cuda" and torch.cuda.get_device_capability(device)[0] < 8
    return torch.float16 if old_gpu else torch.bfloat16


def _copy_state(model: nn.Module) -> dict[str, Tensor]:
    return {key: value.detach().clone() for key, value in model.state_dict().items()}


def _require_rows(task: Task) -> None:
    if not task.train_rows.size or not task.stop_rows.size:
        raise BadDataError(
            f"{task.name} has {task.train_rows.size} training and {task.stop_rows.size} early-stopping windows; "
            "both need one at least: use more bars, fewer classifiers.folds or a shorter classifiers.lookback_bars"
        )


def _require_finite(row: dict, name: str) -> None:
    if not np.isfinite(row["train_loss"]) or not np.isfinite(row["stop_loss"]):
        raise TrainingDivergedError(
            f"{name} has train loss {row['train_loss']} and early-stopping loss {row['stop_loss']} "
            f"in epoch {row['epoch']}; choose a smaller classifiers.learning_rate"
        )

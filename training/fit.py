"""One fit loop for every classifier, and the windows it reads.

Windows are gathered on the device, batch by batch, from one resident (N, F)
table; no data set of windows is ever built. Nothing here knows a run directory:
progress goes to a `Report`, whose calls may raise to stop at a safe boundary, and
the state of a fit to a `Saving`, from which an equal fit goes on to the same bits.

Shapes: N = bars, F = features, L = lookback, B = windows of one micro-batch, C = classes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from configs.errors import BadDataError, MachineUnfitError, ProjectError, StopRequested
from configs.schema import ClassifiersConfig
from training.checkpoint import Arrays, below, load_optimizer, optimizer_tensors, to_arrays, to_tensors
from training.memory import naming_out_of_memory
from training.meter import Meter
from training.streams import integer, stream

PREDICT_BATCH = 512
"""Windows of one inference batch; a fixed number, so that equal weights give equal bytes."""
BLOCK_STEPS = {"cpu": 1, "cuda": 16}
"""Optimizer steps between two safe boundaries. Dropout is seeded anew after each boundary, by name, so that a fit may
go on from any of them: cuDNN's own dropout between layers keeps its state where nobody can read it, and takes it from
the seed only. On a GPU that costs some ms, so there it is done less often."""


class TrainingDivergedError(ProjectError):
    """A loss or gradient stopped being finite."""


class Saving(Protocol):
    """Where the state of a fit is kept; asked at safe boundaries."""

    def begun(self) -> tuple[Arrays, dict[str, Any]] | None:
        """The state to go on from, as `save` got it, or None for a fresh fit."""

    def due(self) -> bool:
        """Whether it is time to save."""

    def save(self, arrays: Arrays, scalars: dict[str, Any]) -> None:
        """Keep a state."""


class Unsaved:
    """Keeps nothing."""

    def begun(self) -> None:
        """Always a fresh fit."""

    def due(self) -> bool:
        """Never."""
        return False

    def save(self, arrays: Arrays, scalars: dict[str, Any]) -> None:
        """Forget."""


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
class Schedule:
    """How a model is fitted."""

    epochs: int
    """Most epochs."""
    warm: bool
    """The model is already fitted on earlier bars; its state as it comes competes as epoch 0."""
    seed: int
    """Of shuffling and dropout."""
    batch_halvings: int = 0
    """How often the windows that go through the net at once are halved; the optimizer's steps stay the same."""
    patient_from: int = 1
    """The first epoch after which patience may end the fit."""


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
    schedule: Schedule,
    meter: Meter,
    saving: Saving | None = None,
) -> Fitted:
    """Fit `model` in place by Adam on the weighted log-loss and leave it with its best epoch's weights.

    Args:
        model: on the task's device.
        task: windows, targets and rows.
        config: batch, rate, clipping, patience.
        schedule: how long, from where, with which seed.
        meter: counts the windows; when its report raises StopRequested, the state is saved first.
        saving: gives the state to go on from and takes new ones when they are due.

    Raises:
        BadDataError: no training or no early-stopping row.
        TrainingDivergedError: the loss is not finite.
        OutOfMemoryError: the batch did not fit.
    """
    _require_rows(task)
    saving = saving or Unsaved()
    batch = _micro_batch(task, config, schedule)
    devices = [task.windows.table.device] if task.windows.table.is_cuda else []
    what = f"fitting {task.name} with {batch} windows at once"
    with torch.random.fork_rng(devices=devices), naming_out_of_memory(what):
        trainer = _Trainer(model, task, config, schedule, meter)
        begun = saving.begun()
        if begun is None:
            trainer.find_micro_batch(batch)
        else:
            trainer.load_arrays(*begun)
        try:
            return trainer.run(saving)
        except StopRequested:
            saving.save(*trainer.to_arrays())
            raise


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
    """A fit at work: all that changes from step to step, saved and restored at safe boundaries."""

    def __init__(
        self, model: nn.Module, task: Task, config: ClassifiersConfig, schedule: Schedule, meter: Meter
    ) -> None:
        self.model, self.task, self.config, self.schedule, self.meter = model, task, config, schedule, meter
        self.device = task.windows.table.device
        self.optimizer = torch.optim.Adam(model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)
        self.amp = config.amp and self.device.type == "cuda"
        self.amp_dtype = _amp_dtype(self.device)
        # fp16 gradients underflow without a loss scale. bf16 would need none, but autocast runs cuDNN's recurrent
        # kernels in fp16 under either type (ATen/cudnn/AutocastRNN.cpp).
        self.loss_scaler = torch.amp.GradScaler("cuda", enabled=self.amp)
        self.train_rows = torch.as_tensor(task.train_rows, device=self.device)
        self.micro_batch = 0
        self.history: list[dict] = []
        self.best_epoch = -1
        self.best_state = _copy_state(model)
        self._begin_epoch()

    def run(self, saving: Saving) -> Fitted:
        """Train from here to the end."""
        if not self.history:
            self.history.append({"epoch": 0, "train_loss": None} | self.evaluate())
            self.best_epoch = 0 if self.schedule.warm else -1
        while len(self.history) <= self.schedule.epochs and not self._out_of_patience():
            self._finish_epoch(saving)
        self.meter.skip((self.schedule.epochs + 1 - len(self.history)) * self.task.train_rows.size)
        self.model.load_state_dict(self.best_state)
        return Fitted(self.best_epoch, self.micro_batch, self.history)

    def find_micro_batch(self, size: int) -> None:
        """Take `size` windows at once, or as many of them as the GPU's memory holds."""
        # A smaller micro-batch is made up by accumulation: the optimizer's steps stay the same.
        self.micro_batch = largest_batch(size, self._probe) if self.device.type == "cuda" else size

    def to_arrays(self) -> tuple[Arrays, dict[str, Any]]:
        """The state between two steps: named arrays and plain JSON values."""
        groups = {
            "model": self.model.state_dict(),
            "best": self.best_state,
            "optimizer": optimizer_tensors(self.model, self.optimizer),
            "sum": {"loss": self.loss_sum, "weight": self.weight_sum},
        }
        tensors = {f"{group}/{name}": value for group, named in groups.items() for name, value in named.items()}
        scalars = {
            "history": self.history,
            "best_epoch": self.best_epoch,
            "position": self.position,
            "micro_batch": self.micro_batch,
            "loss_scaler": self.loss_scaler.state_dict(),
        }
        return to_arrays(tensors), scalars

    def load_arrays(self, arrays: Arrays, scalars: dict[str, Any]) -> None:
        """Go on from what `to_arrays` gave."""
        tensors = to_tensors(arrays)
        self.model.load_state_dict(below("model/", tensors))
        load_optimizer(self.model, self.optimizer, below("optimizer/", tensors))
        self.loss_scaler.load_state_dict(scalars["loss_scaler"])
        self.best_state = {name: value.to(self.device) for name, value in below("best/", tensors).items()}
        self.loss_sum, self.weight_sum = (tensors[f"sum/{name}"].to(self.device) for name in ("loss", "weight"))
        self.history, self.best_epoch = list(scalars["history"]), scalars["best_epoch"]
        self.position, self.micro_batch = scalars["position"], scalars["micro_batch"]

    def _finish_epoch(self, saving: Saving) -> None:
        """Go over what is left of the training rows in this epoch's own order, then judge the epoch."""
        epoch = len(self.history)
        self.model.train()
        order = stream(self.schedule.seed, "epoch", epoch).permutation(self.task.train_rows.size)
        shuffled = self.train_rows[torch.as_tensor(order, device=self.device)]
        step = self.config.batch_size * self.config.accumulation_steps
        block = step * BLOCK_STEPS[self.device.type]
        while self.position < shuffled.numel():
            self._seed_dropout(epoch)
            rows = shuffled[self.position : self.position + block]
            for part in rows.split(step):
                self._step(part)
            self.position += rows.numel()
            self.meter.advance(rows.numel())
            if saving.due():
                saving.save(*self.to_arrays())
        self._judge(epoch)

    def _seed_dropout(self, epoch: int) -> None:
        seed = integer(self.schedule.seed, "dropout", epoch, self.position)
        # torch.manual_seed would look for every kind of device, which takes longer than all else between two steps
        if self.device.type == "cuda":
            torch.cuda.manual_seed(seed)
        else:
            torch.default_generator.manual_seed(seed)

    def _judge(self, epoch: int) -> None:
        row = {"epoch": epoch, "train_loss": float(self.loss_sum / self.weight_sum)} | self.evaluate()
        _require_finite(row, self.task.name)
        self.meter.report.metric("fit", model=self.task.name, **row)
        if self.best_epoch < 0 or row["stop_loss"] < self.history[self.best_epoch]["stop_loss"]:
            self.best_epoch, self.best_state = epoch, _copy_state(self.model)
        self.history.append(row)
        self._begin_epoch()

    def _begin_epoch(self) -> None:
        # rows of this epoch's order that are behind us
        self.position = 0
        self.loss_sum = torch.zeros((), dtype=torch.float64, device=self.device)
        self.weight_sum = torch.zeros((), dtype=torch.float64, device=self.device)

    def _out_of_patience(self) -> bool:
        last = len(self.history) - 1
        return last >= self.schedule.patient_from and last - self.best_epoch >= self.config.patience_epochs

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

    def _step(self, rows: Tensor) -> None:
        """One optimizer step on `rows`, in micro-batches whose gradients add up to those of the whole."""
        weight = self.task.class_weights[self.task.targets[rows]].sum()
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
        self.loss_sum += total
        self.weight_sum += weight

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


def _micro_batch(task: Task, config: ClassifiersConfig, schedule: Schedule) -> int:
    return max(1, min(config.batch_size, task.train_rows.size) >> schedule.batch_halvings)


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

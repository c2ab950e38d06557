"""What the stages that train an agent share: the market it plays, the training of one unit, the unit's files."""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from configs.errors import BadDataError, ConfigError, StopRequested
from configs.files import write_json
from configs.run_dir import RunDir
from configs.schema import Config
from configs.unit import Unit
from ppo.evaluate import Spans
from ppo.learner.policy import PolicySizes, read_policy, save_policy
from ppo.learner.state import LearnerState
from ppo.learner.train import Job, Row, TrainResult, start, train
from ppo.rules import ACTION_NAMES
from ppo.tape import Tape, build_tape, spans
from training.checkpoint import Checkpoints
from training.scaling import Scaler
from training.stages.prepare import load_predictions, load_prepared

ACTION_FIGURES = ("action_shares", "action_means")
"""What the action heads tell of actions, by name."""


@dataclass(frozen=True)
class Market:
    """The dataset as agents play it."""

    tape: Tape
    scaler: Scaler
    """Of the market columns, fitted on the training rows alone."""
    train: Spans
    validation: Spans


def load_market(run: RunDir, config: Config) -> Market:
    """The run's bars with the ensemble's predictions, cut by the run's split."""
    prepared = load_prepared(run)
    train_rows = prepared.features[slice(*prepared.split.train)]
    scaler = Scaler.fit(train_rows[np.isfinite(train_rows).all(axis=1)], clip=config.features.clip)
    tape = build_tape(prepared.bars, prepared.features, load_predictions(run, "ensemble"), scaler, config)
    return Market(tape, scaler, spans(tape, *prepared.split.train), spans(tape, *prepared.split.validation))


def pretrained_weights(unit: Unit, source: str, sizes: PolicySizes) -> dict[str, Tensor] | None:
    """Weights of the policy that unit `source` left, or None where it is no input of this unit.

    Raises:
        BadDataError: the policy cannot be read or has other sizes.
    """
    if source not in unit.run.request(unit.id).inputs:
        return None
    policy = read_policy(unit.run.unit_dir(source))
    if policy.sizes != sizes:
        raise BadDataError(f"the policy of {source} has {policy.sizes}, {unit.id} needs {sizes}; train {source} again")
    return policy.state_dict()


def seed_index(unit: Unit) -> int:
    """i of unit `<stage>/seed-<i>`.

    Raises:
        ConfigError: the unit has another name.
    """
    prefix, _, number = unit.name.partition("-")
    if prefix != "seed" or not number.isdigit():
        raise ConfigError(f"unit {unit.id} is unknown; expected {unit.id.partition('/')[0]}/seed-<number>")
    return int(number)


def train_agent(unit: Unit, job: Job, action_names: Sequence[str] = ACTION_NAMES) -> TrainResult:
    """Train a unit's agent from its newest checkpoint, if any; stopped or killed it goes on to the same bytes."""
    checkpoints, state, ppo = Checkpoints.of(unit), start(job), job.ppo
    saved = checkpoints.resume()
    if saved is not None:
        state.load_arrays(saved.arrays, saved.scalars)

    with Reporter(unit, state.steps, ppo.timesteps, action_names) as reporter:

        def save(state: LearnerState) -> None:
            reporter.flush()
            checkpoints.save(state.steps, *state.to_arrays())

        def on_rollout(state: LearnerState, row: Row) -> None:
            try:
                reporter.report(row)
            except StopRequested:
                save(state)
                raise
            # the next rollout may not fit before the limit any more
            next_steps = state.steps + ppo.num_envs * ppo.rollout_steps
            if checkpoints.due() or next_steps > checkpoints.step + ppo.checkpoint_every_steps:
                save(state)

        return train(job, state, on_rollout, unit.batch_halvings)


def write_agent(unit: Unit, trained: TrainResult, scaler: Scaler, began: str, backend: str = "builtin") -> dict:
    """Write the agent's files; returns the facts of `training.json`, which are the unit's metrics.

    Args:
        unit: whose agent it is.
        trained: the agent.
        scaler: of the market columns that its observations need.
        began: where its weights began: "scratch", "pretrained" or "chain".
        backend: who trained it.
    """
    facts: dict[str, Any] = {
        "backend": backend,
        "start": began,
        "best_steps": trained.best_steps,
        "best_score": trained.best_score,
        "steps": trained.history[-1]["step"],
        "collapse": trained.collapse,
        "validation": trained.validation.performance,
    }
    save_policy(unit.dir, trained.policy)
    write_json(unit.dir / "scaler.json", scaler.to_json())
    write_json(unit.dir / "history.json", trained.history)
    write_json(unit.dir / "training.json", facts)
    return facts


class Reporter:
    """Tells events and TensorBoard what each rollout brought."""

    def __init__(self, unit: Unit, first_step: int, timesteps: int, action_names: Sequence[str] = ACTION_NAMES) -> None:
        from torch.utils.tensorboard import SummaryWriter  # inner: `describe` needs no TensorBoard

        logs = unit.dir / "tensorboard"
        if first_step == 0:
            shutil.rmtree(logs, ignore_errors=True)
        self._unit, self._timesteps, self._names = unit, timesteps, action_names
        # rows that a killed process wrote after its last checkpoint are written again
        self._writer = SummaryWriter(str(logs), purge_step=first_step + 1)
        self._step, self._time_s = first_step, time.monotonic()

    def __enter__(self) -> Reporter:
        """Nothing to do: the files are open."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close TensorBoard's file."""
        self._writer.close()

    def flush(self) -> None:
        """Put TensorBoard's rows on disk: a checkpoint is never ahead of them."""
        self._writer.flush()

    def report(self, row: Row) -> None:
        """Log one row of the history; raises StopRequested when the unit was asked to stop."""
        unit, step = self._unit, row["step"]
        now_s = time.monotonic()
        rate = (step - self._step) / max(now_s - self._time_s, 1e-9)
        self._step, self._time_s = step, now_s
        figures = {name: value for name, value in row.items() if isinstance(value, float)}
        lists = {name: dict(zip(self._names, row[name], strict=True)) for name in ACTION_FIGURES if name in row}
        unit.metric("train", step=step, **lists, **figures)
        scalars = dict(figures)
        for named in lists.values():
            scalars |= {f"actions/{name}": value for name, value in named.items()}
        if "validation" in row:
            unit.metric("validation", step=step, **row["validation"])
            scalars["validation/score"] = row["validation"]["score"]
        if row.get("collapse"):
            unit.metric("collapse_alarm", step=step, reasons=row["collapse"])
        for name, value in scalars.items():
            self._writer.add_scalar(name, value, step)
        shown = {"score": row["validation"]["score"]} if "validation" in row else {}
        unit.progress(step, max(step, self._timesteps), rate, entropy=row["entropy"], **shown)

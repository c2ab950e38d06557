"""Stage `ppo`: one agent per unit `ppo/seed-<i>`, trained on the training part and selected on validation.

Writes policy.safetensors, policy.json, scaler.json (the market scaler that the
policy's observations need), history.json, training.json, and the policy for
Stable-Baselines3: export.zip for `PPO.load`, export_maskable.zip for
`MaskablePPO.load`. Checkpoints and TensorBoard logs lie beside and are no results.

Stopped or killed, the builtin learner goes on from its newest checkpoint to the same bytes. MaskablePPO
cannot: it starts anew, and ends with the same bytes too.
"""

from __future__ import annotations

import shutil
import time
from itertools import pairwise
from typing import Any

import numpy as np

from configs.errors import ConfigError, MachineUnfitError, OutOfMemoryError, StopRequested
from configs.files import write_json
from configs.run_dir import RunDir
from configs.schema import Config
from configs.unit import Unit, run_stage
from ppo.export import write_export
from ppo.learner.policy import save_policy
from ppo.learner.state import LearnerState
from ppo.learner.train import Job, Row, TrainResult, start, train
from ppo.rules import ACTION_NAMES, ACTIONS, observation_size
from ppo.tape import build_tape, spans
from training.checkpoint import Checkpoints
from training.determinism import set_up_torch
from training.features import MARKET_OBSERVATION
from training.memory import naming_out_of_memory
from training.scaling import Scaler
from training.splits import bars_needed
from training.stages.prepare import load_predictions, load_prepared
from training.streams import integer

BASE_BYTES = 600_000_000
"""A process with torch, the tape and its environments; measured."""
FLOP_PER_S = {"cpu": 28e9, "cuda": 2e12}
"""Useful floating-point operations per second of one core, or of a GPU, with minibatches of 1,024; measured on the
CPU with [64, 64]; larger nets reach up to twice as much. A guess for the GPU."""
SB3_SLOWDOWN = 2.0
"""MaskablePPO against the builtin learner; measured."""


def main(argv: list[str] | None = None) -> int:
    """Run one unit of the stage as a process."""
    return run_stage(argv, work, describe)


def work(unit: Unit) -> dict[str, Any]:
    """Train the unit's agent and write it; returns its metrics."""
    set_up_torch(unit.config.compute.threads_per_unit)
    job, scaler = load_job(unit.run, unit.config, _seed_index(unit.name))
    trained = _train_sb3(unit, job) if unit.config.agent.backend == "sb3" else _train(unit, job)
    facts = {
        "backend": unit.config.agent.backend,
        "best_steps": trained.best_steps,
        "best_score": trained.best_score,
        "steps": trained.history[-1]["step"],
        "collapse": trained.collapse,
    }
    save_policy(unit.dir, trained.policy)
    write_json(unit.dir / "scaler.json", scaler.to_json())
    write_json(unit.dir / "history.json", trained.history)
    write_json(unit.dir / "training.json", facts)
    write_export(unit.dir / "export.zip", trained.policy, unit.config.ppo, unit.config.env, "ppo")
    write_export(unit.dir / "export_maskable.zip", trained.policy, unit.config.ppo, unit.config.env, "maskable")
    return facts


def load_job(run: RunDir, config: Config, seed_index: int) -> tuple[Job, Scaler]:
    """The training job of one seed and the market scaler, fitted on the training rows alone."""
    prepared = load_prepared(run)
    predictions = load_predictions(run, "ensemble")
    train_rows = prepared.features[slice(*prepared.split.train)]
    scaler = Scaler.fit(train_rows[np.isfinite(train_rows).all(axis=1)], clip=config.features.clip)
    tape = build_tape(prepared.bars, prepared.features, predictions, scaler, config)
    train_spans, validation_spans = spans(tape, *prepared.split.train), spans(tape, *prepared.split.validation)
    return Job(tape, train_spans, validation_spans, config, integer(config.seed, "ppo", seed_index)), scaler


def describe(config: Config) -> dict[str, Any]:
    """Facts for `plan`: the bars needed, memory and time of one unit."""
    ppo = config.ppo
    columns = 5 + 4 * len(config.ensemble.members) + len(MARKET_OBSERVATION)
    observation = observation_size(config.env, columns)
    weights = sum(a * b for a, b in pairwise((observation, *ppo.hidden))) * 2 + ppo.hidden[-1] * (ACTIONS + 1)
    # forward and backward, two operations per weight each way and for the weights' gradient; once for the rollout
    flop_per_step = 2 * weights * (3 * ppo.epochs + 1)
    cores = config.compute.threads_per_unit if config.compute.device == "cpu" else 1
    rate = FLOP_PER_S[config.compute.device] * cores / flop_per_step
    rate /= SB3_SLOWDOWN if config.agent.backend == "sb3" else 1
    sample_bytes = 4 * (2 * observation + 4 * ACTIONS + 10)
    return {
        "bars_needed": bars_needed(config),
        "memory_bytes": BASE_BYTES + 24 * weights + ppo.num_envs * ppo.rollout_steps * sample_bytes,
        "work": [{"name": "steps", "amount": ppo.timesteps, "rate_per_s": rate}],
    }


def _train(unit: Unit, job: Job) -> TrainResult:
    checkpoints, state = Checkpoints.of(unit), start(job)
    saved = checkpoints.resume()
    if saved is not None:
        state.load_arrays(saved.arrays, saved.scalars)
    ppo = unit.config.ppo

    with _Reporter(unit, state.steps) as reporter:

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


def _train_sb3(unit: Unit, job: Job) -> TrainResult:
    from ppo import backend_sb3  # inner: 2 s of imports that the builtin learner never needs

    unit.log("MaskablePPO cannot be resumed: training starts from the first step")
    try:
        with _Reporter(unit, 0) as reporter, naming_out_of_memory("MaskablePPO"):
            return backend_sb3.train(job, reporter.report)
    except OutOfMemoryError as error:
        raise MachineUnfitError(
            f"{error}; MaskablePPO's batch cannot be halved: set a smaller ppo.minibatch_size or agent.backend=builtin"
        ) from error


class _Reporter:
    """Tells events and TensorBoard what each rollout brought."""

    def __init__(self, unit: Unit, first_step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter  # inner: `describe` needs no TensorBoard

        logs = unit.dir / "tensorboard"
        if first_step == 0:
            shutil.rmtree(logs, ignore_errors=True)
        self._unit = unit
        # rows that a killed process wrote after its last checkpoint are written again
        self._writer = SummaryWriter(str(logs), purge_step=first_step + 1)
        self._step, self._time_s = first_step, time.monotonic()

    def __enter__(self) -> _Reporter:
        return self

    def __exit__(self, *_: object) -> None:
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
        shares = dict(zip(ACTION_NAMES, row["action_shares"], strict=True))
        unit.metric("train", step=step, action_shares=shares, **figures)
        scalars = figures | {f"actions/{name}": share for name, share in shares.items()}
        if "validation" in row:
            unit.metric("validation", step=step, **row["validation"])
            scalars["validation/score"] = row["validation"]["score"]
        if row.get("collapse"):
            unit.metric("collapse_alarm", step=step, reasons=row["collapse"])
        for name, value in scalars.items():
            self._writer.add_scalar(name, value, step)
        shown = {"score": row["validation"]["score"]} if "validation" in row else {}
        unit.progress(step, max(step, unit.config.ppo.timesteps), rate, entropy=row["entropy"], **shown)


def _seed_index(name: str) -> int:
    prefix, _, number = name.partition("-")
    if prefix != "seed" or not number.isdigit():
        raise ConfigError(f"unit ppo/{name} is unknown; expected ppo/seed-<number>")
    return int(number)


if __name__ == "__main__":
    raise SystemExit(main())

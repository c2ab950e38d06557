"""What the stages that train an agent share: the market it plays, the training of one unit, the unit's files."""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from torch import Tensor

from configs.errors import BadDataError, ConfigError, StopRequested
from configs.files import write_json
from configs.run_dir import RunDir
from configs.schema import Config, PPOConfig
from configs.unit import Unit
from ppo.evaluate import Spans
from ppo.learner.policy import PolicySizes, read_policy, save_policy
from ppo.learner.state import LearnerState
from ppo.learner.train import Job, Row, TrainResult, advance, single_asset_job, single_asset_sizes, start, train
from ppo.learner.validate import Validation
from ppo.rules import ACTION_NAMES
from ppo.tape import Tape, build_tape, spans
from training.checkpoint import Checkpoints
from training.determinism import set_up_torch
from training.features import MARKET_OBSERVATION
from training.scaling import Scaler
from training.speed import without_compiling_s
from training.splits import bars_needed
from training.stages.prepare import load_predictions, load_prepared
from training.streams import stream

BASE_BYTES = 600_000_000
"""A process with torch, the tape and its environments; measured."""
FLOP_PER_S = {"cpu": 28e9, "cuda": 2e12}
"""Useful floating-point operations per second of one core, or of a GPU, with minibatches of 1,024; measured on the
CPU with [64, 64]; larger nets reach up to twice as much. A guess for the GPU."""
WEIGHT_BYTES, STATE_COPIES = 4, 4
"""A learner's state has its weights, the best ones and Adam's two moments."""
SETTING_UP, SETTING_UP_S = "setting up an agent", 4.0
VALIDATED_PER_S = 20_000.0
"""Greedy decisions, a few slices side by side; measured with a small net."""
CALIBRATION_BARS = 5_000
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


def pretrained_weights(unit: Unit, source: str, sizes: PolicySizes, folder: str = "") -> dict[str, Tensor] | None:
    """Weights of the policy that unit `source` left in its `folder`, or None where it is no input of this unit.

    Raises:
        BadDataError: the policy cannot be read or has other sizes.
    """
    if source not in unit.run.request(unit.id).inputs:
        return None
    policy = read_policy(unit.run.unit_dir(source) / folder)
    if policy.sizes != sizes:
        raise BadDataError(f"the policy of {source} has {policy.sizes}, {unit.id} needs {sizes}; train {source} again")
    return policy.state_dict()


def describe_agent(config: Config, ppo: PPOConfig, slowdown: float = 1.0) -> dict[str, Any]:
    """Facts for `plan` of a unit that trains one single-asset agent; `slowdown` is its backend's."""
    sizes = single_asset_sizes(config, observed_columns(config), ppo)
    width, memory = (sizes.observation + sizes.memory, *sizes.hidden), sizes.memory
    weights = sum(a * b for a, b in pairwise(width)) * 2 + width[-1] * (sizes.actions + 1)
    weights += 2 * 4 * memory * (sizes.observation + memory)
    sample_bytes = 4 * (2 * sizes.observation + 4 * sizes.actions + 10)
    in_nets_bytes = 4 * ppo.minibatch_size * 2 * (sum(width) + 10 * memory)
    return {
        "bars_needed": bars_needed(config),
        "memory_bytes": BASE_BYTES + 24 * weights + ppo.num_envs * ppo.rollout_steps * sample_bytes + in_nets_bytes,
        "artifact_bytes": 3 * WEIGHT_BYTES * weights,  # the policy and two exports
        "checkpoint_bytes": STATE_COPIES * WEIGHT_BYTES * weights,
        "work": [
            {
                "name": "steps",
                "amount": ppo.timesteps,
                "rate_per_s": nominal_steps_per_s(config, ppo, weights) / slowdown,
            },
            {
                "name": "validation decisions",
                "amount": evaluations(ppo) * config.splits.validation_frac,
                "per": "bar",
                "rate_per_s": VALIDATED_PER_S,
            },
            {"name": SETTING_UP, "amount": 1, "rate_per_s": 1 / SETTING_UP_S},
        ],
    }


def nominal_steps_per_s(config: Config, ppo: PPOConfig, weights: int) -> float:
    """Training steps per second of a policy of so many weights, where nothing was measured."""
    # forward and backward, two operations per weight each way and for the weights' gradient; once for the rollout
    flop_per_step = 2 * weights * (3 * ppo.epochs + 1)
    cores = config.compute.threads_per_unit if config.compute.device == "cpu" else 1
    return FLOP_PER_S[config.compute.device] * cores / flop_per_step


def evaluations(ppo: PPOConfig) -> int:
    """Validations of one training, that of its result included."""
    return math.ceil(ppo.timesteps / max(ppo.eval_every_steps, ppo.num_envs * ppo.rollout_steps)) + 1


def calibrate_agent(config: Config, ppo: PPOConfig, budget_s: float) -> dict[str, float]:
    """The rates of `describe_agent`'s work on this machine, of the builtin learner on generated bars."""
    set_up_torch(config.compute.threads_per_unit)
    tape = generated_tape(config, CALIBRATION_BARS)
    job = single_asset_job(tape, [(0, len(tape.t))], [(0, len(tape.t))], config, 0, ppo)
    state, setting_up_s = set_up(job)
    validate = job.validator()
    began_s = time.perf_counter()
    validate(state.policy)
    validated_per_s = CALIBRATION_BARS / (time.perf_counter() - began_s)
    return {
        "steps": steps_per_s(state, ppo, budget_s / 2),
        "validation decisions": validated_per_s,
        SETTING_UP: 1 / setting_up_s,
    }


def set_up(job: Job) -> tuple[LearnerState, float]:
    """A learner after its first rollout, and the seconds until then, in a process that had none before."""

    def work() -> LearnerState:
        from torch.utils.tensorboard import SummaryWriter  # noqa: F401 -- as a unit's reporter loads it

        state = start(job)
        advance(state, job.ppo.model_copy(update={"epochs": 1}))
        return state

    return without_compiling_s(work)


def generated_tape(config: Config, bars: int) -> Tape:
    """A random walk with columns that say nothing, for measuring."""
    rng = stream(config.seed, "calibration", "agent")
    close = 100 * np.exp(np.cumsum(rng.normal(0, 0.005, bars)))
    columns = rng.normal(size=(bars, observed_columns(config))).astype(np.float32)
    stamps = np.arange(bars, dtype=np.int64)
    return Tape(stamps, close, close, close, close, stamps * 0, 1, columns, np.ones(bars, bool))


def steps_per_s(state: LearnerState, ppo: PPOConfig, budget_s: float) -> float:
    """Rate of whole rollouts with their updates, at least one, in about `budget_s`."""
    began_s, first = time.perf_counter(), state.steps
    while state.steps == first or time.perf_counter() - began_s < budget_s:
        advance(state, ppo)
    return (state.steps - first) / (time.perf_counter() - began_s)


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


def write_agent(
    unit: Unit,
    trained: TrainResult,
    scaler: Scaler,
    began: str,
    backend: str = "builtin",
    tested: Validation | None = None,
) -> dict[str, Any]:
    """Write the agent's files; returns the facts of `training.json`, which are the unit's metrics.

    Args:
        unit: whose agent it is.
        trained: the agent.
        scaler: of the market columns that its observations need.
        began: where its weights began: "scratch", "pretrained" or "chain".
        backend: who trained it.
        tested: its play on what selected nothing; told as "test".
    """
    facts = {"backend": backend} | agent_facts(trained, began) | ({"test": tested.performance} if tested else {})
    save_policy(unit.dir, trained.policy)
    write_json(unit.dir / "scaler.json", scaler.to_json())
    write_json(unit.dir / "history.json", trained.history)
    write_json(unit.dir / "training.json", facts)
    return facts


def observed_columns(config: Config) -> int:
    """Of a tape: the prediction block and the market columns."""
    return 5 + 4 * len(config.ensemble.members) + len(MARKET_OBSERVATION)


def agent_facts(trained: TrainResult, began: str) -> dict[str, Any]:
    """What is told of an agent, plain values; `began` as in `write_agent`."""
    return {
        "start": began,
        "best_steps": trained.best_steps,
        "best_score": trained.best_score,
        "steps": trained.history[-1]["step"],
        "collapse": trained.collapse,
        "validation": trained.validation.performance,
    }


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

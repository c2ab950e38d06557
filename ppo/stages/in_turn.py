"""Several trainings one after the other in one unit, each of which may build on those before; resumed exactly."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from configs.errors import StopRequested
from configs.unit import Unit
from ppo.learner.policy import Policy, PolicySizes
from ppo.learner.state import LearnerState
from ppo.learner.train import Job, Row, TrainResult, start, train
from training.checkpoint import Checkpoints, Saved, to_arrays, to_tensors


@dataclass
class Done:
    """What the trainings so far left, by name."""

    weights: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    """Of the best policy."""
    sizes: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Of the policy, JSON values."""
    facts: dict[str, Any] = field(default_factory=dict)
    """What was to be kept, JSON values."""
    steps: int = 0
    """Played in all of them."""

    @classmethod
    def of(cls, saved: Saved | None) -> Done:
        """As it was at a checkpoint; empty where there is none."""
        if saved is None:
            return cls()
        weights = {name: to_tensors(part) for name, part in saved.parts.items()}
        return cls(weights, **saved.scalars["done"])

    def add(self, name: str, trained: TrainResult, facts: Any, steps: int) -> None:
        """One more is finished."""
        self.weights[name] = trained.policy.state_dict()
        self.sizes[name] = trained.policy.sizes.model_dump(mode="json")
        self.facts[name] = facts
        self.steps += steps

    def policy(self, name: str) -> Policy:
        """The best policy of a training."""
        policy = Policy(PolicySizes.model_validate(self.sizes[name]))
        policy.load_state_dict(self.weights[name])
        return policy.eval()


def train_in_turn(
    unit: Unit,
    names: Sequence[str],
    job_of: Callable[[str, Done], Job],
    kept: Callable[[str, Job, TrainResult], Any],
    total_steps: int,
) -> Done:
    """Do every training that the newest checkpoint does not hold yet, and go on inside one that was cut short.

    Args:
        unit: asked for a stop after each rollout; then it saves and ends.
        names: of the trainings in order, fit for file names.
        job_of: the job of a training, given what those before left.
        kept: what is to be kept of a training beside its best policy, JSON values.
        total_steps: of all trainings, for the progress.
    """
    checkpoints = Checkpoints.of(unit)
    saved = checkpoints.resume()
    done = Done.of(saved)
    for name in names:
        if name in done.facts:
            continue
        job = job_of(name, done)
        state = start(job)
        if saved is not None and saved.scalars["training"] == name:
            state.load_arrays(saved.arrays, saved.scalars["learner"])
        trained = train(job, state, _watch(unit, name, done, checkpoints, job, total_steps), unit.batch_halvings)
        done.add(name, trained, kept(name, job, trained), state.steps)
    return done


def _watch(
    unit: Unit, name: str, done: Done, checkpoints: Checkpoints, job: Job, total_steps: int
) -> Callable[[LearnerState, Row], None]:
    rollout_steps = job.ppo.num_envs * job.ppo.rollout_steps
    told_s = time.monotonic()
    parts = {other: to_arrays(weights) for other, weights in done.weights.items()}

    def save(state: LearnerState) -> None:
        arrays, learner = state.to_arrays()
        before = {"sizes": done.sizes, "facts": done.facts, "steps": done.steps}
        scalars = {"training": name, "learner": learner, "done": before}
        checkpoints.save(done.steps + state.steps, arrays, scalars, parts)

    def on_rollout(state: LearnerState, row: Row) -> None:
        nonlocal told_s
        before_s, told_s = told_s, time.monotonic()
        step, rate = done.steps + state.steps, rollout_steps / max(told_s - before_s, 1e-9)
        try:
            if "validation" in row:
                unit.metric("validation", training=name, step=state.steps, **row["validation"])
            unit.progress(step, max(step, total_steps), rate, training=name, entropy=row["entropy"])
        except StopRequested:
            save(state)
            raise
        # the next rollout may not fit before the limit any more
        if checkpoints.due() or step + rollout_steps > checkpoints.step + job.ppo.checkpoint_every_steps:
            save(state)

    return on_rollout

"""Train an agent on the training part and keep the policy that validates best.

Between two rollouts the whole learner is in its `LearnerState`; the caller may save it there, or stop.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from configs.schema import Config, LstmPPOConfig, PPOConfig
from ppo.evaluate import Agent, Spans
from ppo.learner.policy import Policy, PolicySizes
from ppo.learner.rollout import Environments, LevelEnvironments, collect
from ppo.learner.state import LearnerState
from ppo.learner.update import learning_rate, rollout_figures, samples_of, update
from ppo.learner.validate import Validation, Validator, collapse_reasons
from ppo.rules import ACTIONS, observation_size
from ppo.tape import Tape
from ppo.vec_env import TradingVecEnv
from training.fit import TrainingDivergedError
from training.memory import naming_out_of_memory
from training.streams import integer

Row = dict[str, Any]
"""One row of the history, plain JSON values: `step`, the update's figures and, when due, `validation` and
`collapse` (the reasons, empty when there are none)."""


Validate = Callable[[Agent], Validation]
"""Plays an agent on what it is selected by."""


@dataclass(frozen=True)
class Job:
    """What to train: the same for every kind of environment and every backend."""

    environments: Callable[[], Environments]
    """Makes the training environments."""
    validator: Callable[[], Validate]
    sizes: PolicySizes
    ppo: PPOConfig
    config: Config
    """Device and thresholds of the collapse alarm."""
    seed: int
    """Root of this agent's own streams."""
    start: dict[str, Tensor] | None = None
    """Weights to start from, of a policy of the same sizes; those that are not named, or all of None, are drawn."""


def single_asset_job(
    tape: Tape,
    train_spans: Spans,
    validation_spans: Spans,
    config: Config,
    seed: int,
    ppo: PPOConfig | None = None,
) -> Job:
    """One account on one tape with nine actions; `ppo` defaults to the section of that name."""
    ppo = ppo or config.ppo
    sizes = single_asset_sizes(config, tape.observation.shape[1], ppo)

    def environments() -> TradingVecEnv:
        bars_per_year, episodes = config.market.bars_per_year, integer(seed, "episodes")
        return TradingVecEnv(tape, train_spans, config.env, config.costs, bars_per_year, ppo.num_envs, episodes)

    def validator() -> Validator:
        return Validator(tape, validation_spans, config, ppo.eval_slices)

    return Job(environments, validator, sizes, ppo, config, seed)


def single_asset_sizes(config: Config, columns: int, ppo: PPOConfig) -> PolicySizes:
    """Sizes of the policy for a tape of `columns` columns; with memory where `ppo` is `LstmPPOConfig`."""
    return PolicySizes(
        observation=observation_size(config.env, columns),
        actions=ACTIONS,
        hidden=ppo.hidden,
        memory=ppo.memory_units if isinstance(ppo, LstmPPOConfig) else 0,
    )


@dataclass(frozen=True)
class TrainResult:
    """The best policy and how it came about."""

    policy: Policy
    best_score: float
    """Mean log return per bar over the validation slices."""
    best_steps: int
    history: list[Row]
    validation: Validation
    """Of the best policy."""

    @property
    def collapse(self) -> list[str]:
        """Why the best policy counts as collapsed; empty when it does not."""
        return next(row["collapse"] for row in self.history if row["step"] == self.best_steps)


def start(job: Job) -> LearnerState:
    """A learner for `job` before its first step."""
    device = job.config.compute.device
    return LearnerState.create(job.environments(), job.sizes, job.ppo, seed=job.seed, device=device, weights=job.start)


def train(
    job: Job,
    state: LearnerState | None = None,
    on_rollout: Callable[[LearnerState, Row], None] | None = None,
    batch_halvings: int = 0,
) -> TrainResult:
    """Train to `timesteps`, from `state` where one is given.

    Args:
        job: what to train.
        state: a learner of the same job, as `start` made it or as it was restored.
        on_rollout: called between two rollouts with the row of the last one; what it raises ends the training.
        batch_halvings: how often the samples that go through the nets at once are halved.

    Returns:
        The policy with the highest validation score; of equal ones the earliest.

    Raises:
        TrainingDivergedError: a weight stopped being finite.
        OutOfMemoryError: the minibatch did not fit.
    """
    state = state or start(job)
    ppo, validate = job.ppo, job.validator()
    what = f"an update of {ppo.minibatch_size >> batch_halvings} samples at once"
    while state.steps < ppo.timesteps:
        with naming_out_of_memory(what):
            row = advance(state, ppo, batch_halvings)
        _require_finite(state)
        if evaluation_due(ppo, state.steps):
            validation = validate(state.policy)
            state.consider(validation.score)
            row |= validated_row(job, validation, row["entropy"])
        state.history.append(row)
        if on_rollout is not None:
            on_rollout(state, row)
    return result(state, validate)


def advance(state: LearnerState, ppo: PPOConfig, batch_halvings: int = 0) -> Row:
    """Play one rollout and learn from it."""
    rollout, state.carry = collect(state.policy, state.envs, state.carry, ppo.rollout_steps, state.generator)
    state.steps += ppo.num_envs * ppo.rollout_steps
    state.rollouts += 1
    rate = learning_rate(ppo, state.steps)
    for group in state.optimizer.param_groups:
        group["lr"] = rate
    samples = samples_of(state.policy, rollout, ppo)
    if isinstance(state.envs, LevelEnvironments):
        state.envs.learned(samples.advantage_B.reshape(rollout.reward_TE.shape).cpu().numpy())
    figures = update(state.policy, state.optimizer, samples, ppo, state.generator, batch_halvings)
    return {"step": state.steps, "learning_rate": rate} | figures | rollout_figures(state.policy, rollout, samples)


def evaluation_due(ppo: PPOConfig, steps: int) -> bool:
    """Whether a rollout that ended at `steps` passed a multiple of `eval_every_steps`, or was the last."""
    before = steps - ppo.num_envs * ppo.rollout_steps
    return steps // ppo.eval_every_steps > before // ppo.eval_every_steps or steps >= ppo.timesteps


def validated_row(job: Job, validation: Validation, entropy: float) -> Row:
    """What a validation adds to a row of the history."""
    reasons = collapse_reasons(validation, entropy, job.sizes.head.least_entropy, job.config.judging)
    return {"validation": validation.to_json(), "collapse": reasons}


def result(state: LearnerState, validate: Validate) -> TrainResult:
    """The result of a finished learner."""
    assert state.best is not None, "the last rollout is always validated"
    policy = Policy(state.policy.sizes)
    policy.load_state_dict({name: value.cpu() for name, value in state.best.weights.items()})
    return TrainResult(policy.eval(), state.best.score, state.best.steps, state.history, validate(policy))


def _require_finite(state: LearnerState) -> None:
    """A policy of NaNs would hold for ever, and so validate better than any that loses."""
    if not all(bool(weight.isfinite().all()) for weight in state.policy.parameters()):
        raise TrainingDivergedError(
            f"the policy has weights that are not finite after {state.steps} steps; choose a smaller ppo.learning_rate"
        )

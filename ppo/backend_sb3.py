"""A single-asset job done by sb3-contrib's MaskablePPO, for people who want the implementation they know.

Same environments, settings, validation and result as `ppo.learner.train`. It
cannot be resumed exactly, because MaskablePPO keeps its state in too many places
(model, buffer, logger, the global generators): a unit that was cut short starts
anew, and since everything is drawn from the job's seed it ends with the same bytes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from sb3_contrib import MaskablePPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import configure

from ppo.export import from_sb3, hyperparameters, policy_kwargs, to_sb3
from ppo.learner.policy import Policy
from ppo.learner.state import better
from ppo.learner.train import Job, Row, TrainResult, evaluation_due, validated_row
from ppo.vec_env import TradingVecEnv
from training.streams import integer

FIGURES = {
    "policy_loss": "train/policy_gradient_loss",
    "value_loss": "train/value_loss",
    "approx_kl": "train/approx_kl",
    "clip_frac": "train/clip_fraction",
    "explained_variance": "train/explained_variance",
    "learning_rate": "train/learning_rate",
}
"""Our name of a figure -> Stable-Baselines3's."""
SB3_SEED_LIMIT = 2**32
"""Stable-Baselines3 seeds numpy's old generator, which takes 32 bits."""


def train(job: Job, on_rollout: Callable[[Row], None] | None = None) -> TrainResult:
    """Train `job` with MaskablePPO; `on_rollout(row)` is called after each update.

    Seeds the global random state of torch, numpy and python, as Stable-Baselines3 does.
    """
    ppo = job.ppo
    # the constructor seeds the environments too; their own seed, set by the job, is put back below
    envs = cast(TradingVecEnv, job.environments())
    model = MaskablePPO(
        "MlpPolicy",
        envs,
        n_steps=ppo.rollout_steps,
        policy_kwargs=policy_kwargs(ppo),
        device=job.config.compute.device,
        seed=integer(job.seed, "sb3") % SB3_SEED_LIMIT,
        **hyperparameters(ppo),
    )
    if job.start is not None:
        model.policy.load_state_dict(model.policy.state_dict() | to_sb3(job.start))
    model.set_logger(configure(None, []))
    envs.seed(integer(job.seed, "episodes"))
    watcher = _Watcher(job, on_rollout)
    model.learn(ppo.timesteps, callback=watcher, log_interval=None)  # type: ignore[arg-type]
    watcher.after_update()
    assert watcher.best is not None, "the last rollout is always validated"
    validation = job.validator()(watcher.best)
    return TrainResult(watcher.best, watcher.best_score, watcher.best_steps, watcher.history, validation)


class _Watcher(BaseCallback):
    """Validates after updates; SB3 says when a rollout starts, which is when the update before it is done."""

    def __init__(self, job: Job, on_rollout: Callable[[Row], None] | None) -> None:
        super().__init__()
        self.best: Policy | None = None
        self.best_score, self.best_steps = -float("inf"), 0
        self.history: list[Row] = []
        self._job, self._on_rollout, self._validate = job, on_rollout, job.validator()

    def _on_step(self) -> bool:
        return True

    def _on_rollout_start(self) -> None:
        if self.num_timesteps:
            self.after_update()

    def after_update(self) -> None:
        """Enter the figures of the update just done; validate when due."""
        row: Row = {"step": self.num_timesteps} | self._figures()
        if evaluation_due(self._job.ppo, self.num_timesteps):
            policy = from_sb3(self.model.policy.state_dict(), self._job.sizes)
            validation = self._validate(policy)
            if self.best is None or better(validation.score, self.best_score):
                self.best, self.best_score, self.best_steps = policy, validation.score, self.num_timesteps
            row |= validated_row(self._job, validation, row["entropy"])
        self.history.append(row)
        if self._on_rollout is not None:
            self._on_rollout(row)

    def _figures(self) -> dict[str, Any]:
        assert isinstance(self.model, MaskablePPO)
        logged, buffer = self.model.logger.name_to_value, self.model.rollout_buffer
        head, actions = self._job.sizes.head, torch.from_numpy(buffer.actions.flatten()).long()
        return (
            {ours: float(logged[theirs]) for ours, theirs in FIGURES.items()}
            | {
                "entropy": -float(logged["train/entropy_loss"]),
                "reward_mean": float(buffer.rewards.mean()),
            }
            | head.row(head.figures(actions).tolist())
        )

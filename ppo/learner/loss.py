"""PPO's clipped loss, as a pure function of tensors.

Shapes: B = samples; for a core with memory B = sequences, and their T steps come
first: (T, B, ...). D = observation, S = state of the core, A = actions, P =
parameters of the action head. A suffix names a tensor's axes.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from configs.schema import PPOConfig
from ppo.learner.actions import ActionHead

ADVANTAGE_EPS = 1e-8


class Samples(NamedTuple):
    """Samples of a rollout: what the policy is called with, and what the update holds fixed about each."""

    obs_BD: Tensor
    state_BS: Tensor
    """State of the core before the observation, or before the first of a sequence; it has no axis T."""
    start_B: Tensor
    """bool, true where an episode starts."""
    mask_BA: Tensor
    """bool, true where the action was legal."""
    action_B: Tensor
    """The action taken."""
    log_prob_B: Tensor
    """Log-probability of that action when it was taken."""
    advantage_B: Tensor
    """As GAE gives it; normalized over the minibatch when the loss is taken."""
    return_B: Tensor
    """Target of the critic: advantage + value."""

    @property
    def size(self) -> int:
        """B."""
        return len(self.state_BS)

    def drawn(self, order_B: Tensor) -> Samples:
        """Those of these numbers along B."""
        return Samples(*(column.index_select(axis, order_B) for column, axis in self._along()))

    def parts(self, size: int) -> list[Samples]:
        """Consecutive parts of `size` along B."""
        return [
            Samples(*part) for part in zip(*(column.split(size, axis) for column, axis in self._along()), strict=True)
        ]

    def _along(self) -> list[tuple[Tensor, int]]:
        sequences = self.start_B.dim() - 1
        return [(column, 0 if column is self.state_BS else sequences) for column in self]


class Loss(NamedTuple):
    """Loss of one minibatch and what to watch; every field is a scalar tensor."""

    total: Tensor
    policy: Tensor
    value: Tensor
    entropy: Tensor
    approx_kl: Tensor
    clip_frac: Tensor


def normalized(advantage_B: Tensor) -> Tensor:
    """Advantages of a minibatch with mean 0 and deviation 1."""
    return (advantage_B - advantage_B.mean()) / (advantage_B.std() + ADVANTAGE_EPS)


def ppo_loss(head: ActionHead, params_BP: Tensor, value_B: Tensor, samples: Samples, config: PPOConfig) -> Loss:
    """Clipped surrogate loss with value error and entropy bonus.

    Source: Schulman et al. 2017, arXiv:1707.06347, eq. 9; approx_kl is Schulman's
    estimator mean((r - 1) - log r). Every term is a mean over the samples, so that
    the losses of parts of a minibatch, weighted by their sizes, add up to its own.
    """
    log_prob_B, entropy_B = head.log_prob_and_entropy(params_BP, samples.mask_BA, samples.action_B)
    log_ratio_B = log_prob_B - samples.log_prob_B
    ratio_B = log_ratio_B.exp()
    clipped_B = ratio_B.clamp(1 - config.clip_range, 1 + config.clip_range)
    policy = -torch.min(samples.advantage_B * ratio_B, samples.advantage_B * clipped_B).mean()
    value = functional.mse_loss(value_B, samples.return_B)
    entropy = entropy_B.mean()
    with torch.no_grad():
        approx_kl = ((ratio_B - 1) - log_ratio_B).mean()
        clip_frac = ((ratio_B - 1).abs() > config.clip_range).float().mean()
    total = policy - config.entropy_coef * entropy + config.value_coef * value
    return Loss(total, policy.detach(), value.detach(), entropy.detach(), approx_kl, clip_frac)

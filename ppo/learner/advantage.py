"""Generalized advantage estimation and the critic's explained variance.

Shapes: T = rollout steps, E = parallel environments. A suffix names a tensor's axes.
"""

from __future__ import annotations

import torch
from torch import Tensor


def advantages(
    reward_TE: Tensor,
    value_TE: Tensor,
    bootstrap_value_TE: Tensor,
    ended_TE: Tensor,
    *,
    discount: float,
    gae_lambda: float,
) -> Tensor:
    """Advantage of each action taken, by GAE(lambda).

    Source: Schulman et al. 2016, arXiv:1506.02438. A truncated episode
    bootstraps from its last observation, a terminated one from 0; the caller
    puts that number in `bootstrap_value_TE`, so this function needs one flag.

    Args:
        reward_TE: reward of step t, float32.
        value_TE: critic's value of the observation before step t.
        bootstrap_value_TE: critic's value of the observation after step t.
        ended_TE: bool, true where the episode stopped after step t.
        discount: per-step discount, in [0, 1].
        gae_lambda: 0 gives one-step TD errors, 1 Monte-Carlo returns.

    Returns:
        (T, E) float32 advantages, not normalized.
    """
    error_TE = reward_TE + discount * bootstrap_value_TE - value_TE
    keep_TE = discount * gae_lambda * (~ended_TE).to(error_TE.dtype)
    advantage_TE = torch.empty_like(error_TE)
    following_E = torch.zeros_like(error_TE[0])
    for step in range(len(error_TE) - 1, -1, -1):
        following_E = error_TE[step] + keep_TE[step] * following_E
        advantage_TE[step] = following_E
    return advantage_TE


def explained_variance(value: Tensor, return_: Tensor) -> Tensor:
    """Share of the returns' variance that the critic explains: 1 - Var(R - V) / Var(R), 0 for constant returns."""
    variance = return_.var()
    return torch.where(variance > 0, 1 - (return_ - value).var() / variance, 0.0)

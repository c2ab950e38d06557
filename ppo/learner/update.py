"""One update: a rollout becomes gradient steps, and its diagnostics are read once.

No number leaves the device inside the loop, except for `target_kl`, which asks for one per minibatch.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from configs.schema import PPOConfig
from ppo.learner.advantage import advantages, explained_variance
from ppo.learner.loss import Loss, Samples, normalized, ppo_loss
from ppo.learner.policy import Policy
from ppo.learner.rollout import Rollout

ADAM_EPS = 1e-5
"""As Stable-Baselines3."""


def make_optimizer(policy: Policy, config: PPOConfig) -> torch.optim.Adam:
    """Adam in one fused kernel."""
    return torch.optim.Adam(policy.parameters(), lr=config.learning_rate, eps=ADAM_EPS, fused=True)


def learning_rate(config: PPOConfig, steps: int) -> float:
    """Linear from `learning_rate` to `learning_rate_final` over `timesteps`, then constant."""
    left_frac = max(0.0, 1 - steps / config.timesteps)
    return config.learning_rate_final + left_frac * (config.learning_rate - config.learning_rate_final)


@torch.no_grad()
def samples_of(policy: Policy, rollout: Rollout, config: PPOConfig) -> Samples:
    """What the update draws from: single samples, or whole sequences for a core with memory."""
    advantage_TE = advantages(
        rollout.reward_TE,
        rollout.value_TE,
        rollout.bootstrap_value_TE,
        rollout.ended_TE,
        discount=config.discount,
        gae_lambda=config.gae_lambda,
    )
    columns = {
        "obs_BD": rollout.obs_TED,
        "start_B": rollout.start_TE,
        "mask_BA": rollout.mask_TEA,
        "action_B": rollout.action_TE,
        "log_prob_B": policy.head.log_prob(rollout.params_TEP, rollout.mask_TEA, rollout.action_TE),
        "advantage_B": advantage_TE,
        "return_B": advantage_TE + rollout.value_TE,
    }
    if policy.sizes.memory:
        return Samples(**columns, state_BS=rollout.state_ES)
    columns["state_BS"] = rollout.state_ES.expand(config.rollout_steps, -1, -1)
    return Samples(**{name: column.flatten(0, 1) for name, column in columns.items()})


def update(
    policy: Policy,
    optimizer: torch.optim.Optimizer,
    samples: Samples,
    config: PPOConfig,
    generator: torch.Generator,
    batch_halvings: int = 0,
) -> dict[str, float]:
    """Take the gradient steps of `config.epochs` passes; return the mean of each figure over the minibatches.

    `batch_halvings` halves what goes through the nets at once; the steps stay the same, up to rounding.
    """
    parameters = list(policy.parameters())
    figures = []
    for batch in _minibatches(samples, config, generator):
        optimizer.zero_grad()
        loss = _backward(policy, batch, config, batch_halvings)
        if config.target_kl and loss.approx_kl.item() > 1.5 * config.target_kl:
            break
        norm = nn.utils.clip_grad_norm_(parameters, config.max_grad_norm)
        optimizer.step()
        figures.append(torch.stack([*loss[1:], norm]))
    names = [f"{name}_loss" if name in ("policy", "value") else name for name in Loss._fields[1:]] + ["grad_norm"]
    means = torch.stack(figures).mean(0).tolist()
    return dict(zip(names, means, strict=True)) | {"gradient_steps": len(figures)}


def batch_loss(policy: Policy, batch: Samples, config: PPOConfig) -> Loss:
    """Loss of the policy on one minibatch."""
    return _part_loss(policy, batch._replace(advantage_B=normalized(batch.advantage_B)), config)


def _backward(policy: Policy, batch: Samples, config: PPOConfig, halvings: int) -> Loss:
    """Loss of one minibatch, its gradients added up from 2^halvings parts."""
    if not halvings:
        loss = batch_loss(policy, batch, config)
        loss.total.backward()
        return loss
    batch, losses = batch._replace(advantage_B=normalized(batch.advantage_B)), []
    for part in batch.parts(max(1, batch.size >> halvings)):
        loss = Loss(*(term * (part.size / batch.size) for term in _part_loss(policy, part, config)))
        loss.total.backward()
        losses.append(torch.stack(loss).detach())
    return Loss(*torch.stack(losses).sum(0))


def _part_loss(policy: Policy, batch: Samples, config: PPOConfig) -> Loss:
    params, value, _ = policy(batch.obs_BD, batch.state_BS, batch.start_B)
    return ppo_loss(policy.head, params, value, batch, config)


def rollout_figures(policy: Policy, rollout: Rollout, samples: Samples) -> dict[str, Any]:
    """Explained variance, mean reward and what the actions were, of one rollout, in one transfer."""
    head = policy.head
    explained = explained_variance(rollout.value_TE.flatten(), samples.return_B.flatten())
    scalars = torch.stack([explained, rollout.reward_TE.mean()])
    explained_var, reward, *actions = torch.cat([scalars, head.figures(rollout.action_TE)]).tolist()
    return {"explained_variance": explained_var, "reward_mean": reward} | head.row(actions)


def _minibatches(samples: Samples, config: PPOConfig, generator: torch.Generator) -> Iterator[Samples]:
    size = config.minibatch_size * samples.size // samples.return_B.numel()
    for _ in range(config.epochs):
        order = torch.randperm(samples.size, generator=generator, device=samples.obs_BD.device)
        yield from map(samples.drawn, order.split(size))

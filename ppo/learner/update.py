"""One update: a rollout becomes gradient steps, and its diagnostics are read once.

No number leaves the device inside the loop, except for `target_kl`, which asks for one per minibatch.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn

from configs.schema import PPOConfig
from ppo.learner.advantage import advantages, explained_variance
from ppo.learner.loss import Loss, Samples, masked_log_probs, normalized, ppo_loss
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
def samples_of(rollout: Rollout, config: PPOConfig) -> Samples:
    """Flatten a rollout for a memoryless core; a core with memory would keep whole sequences instead."""
    advantage_TE = advantages(
        rollout.reward_TE,
        rollout.value_TE,
        rollout.bootstrap_value_TE,
        rollout.ended_TE,
        discount=config.discount,
        gae_lambda=config.gae_lambda,
    )
    log_probs_TEA = masked_log_probs(rollout.logits_TEA, rollout.mask_TEA)
    log_prob_TE = log_probs_TEA.gather(-1, rollout.action_TE.unsqueeze(-1)).squeeze(-1)
    columns = (
        rollout.obs_TED,
        rollout.state_ES.expand(len(log_prob_TE), -1, -1),
        rollout.start_TE,
        rollout.mask_TEA,
        rollout.action_TE,
        log_prob_TE,
        advantage_TE,
        advantage_TE + rollout.value_TE,
    )
    return Samples(*(column.flatten(0, 1) for column in columns))


def update(
    policy: Policy,
    optimizer: torch.optim.Optimizer,
    samples: Samples,
    config: PPOConfig,
    generator: torch.Generator,
    batch_halvings: int = 0,
) -> dict[str, float]:
    """Take the gradient steps of `config.epochs` passes; return the mean of each figure over the minibatches.

    `batch_halvings` halves the samples that go through the nets at once; the steps stay the same, up to rounding.
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
    count = len(batch.obs_BD)
    batch = batch._replace(advantage_B=normalized(batch.advantage_B))
    parts = zip(*(column.split(max(1, count >> halvings)) for column in batch), strict=True)
    losses = []
    for part in map(Samples._make, parts):
        loss = Loss(*(term * (len(part.obs_BD) / count) for term in _part_loss(policy, part, config)))
        loss.total.backward()
        losses.append(torch.stack(loss).detach())
    return Loss(*torch.stack(losses).sum(0))


def _part_loss(policy: Policy, batch: Samples, config: PPOConfig) -> Loss:
    logits, value, _ = policy(batch.obs_BD, batch.state_BS, batch.start_B)
    return ppo_loss(
        logits,
        value,
        batch,
        clip_range=config.clip_range,
        entropy_coef=config.entropy_coef,
        value_coef=config.value_coef,
    )


def rollout_figures(rollout: Rollout, samples: Samples) -> dict[str, float | list[float]]:
    """Explained variance, mean reward, action shares and position changes of one rollout, in one transfer."""
    actions = rollout.action_TE.flatten()
    shares = torch.bincount(actions, minlength=rollout.logits_TEA.shape[-1]) / len(actions)
    explained = explained_variance(rollout.value_TE.flatten(), samples.return_B)
    scalars = torch.stack([explained, rollout.reward_TE.mean()])
    explained_var, reward, *action_shares = torch.cat([scalars, shares]).tolist()
    return {
        "explained_variance": explained_var,
        "reward_mean": reward,
        "action_shares": action_shares,
        "position_change_frac": 1 - action_shares[0],
    }


def _minibatches(samples: Samples, config: PPOConfig, generator: torch.Generator) -> Iterator[Samples]:
    count, device = len(samples.obs_BD), samples.obs_BD.device
    for _ in range(config.epochs):
        order = torch.randperm(count, generator=generator, device=device)
        shuffled = [column.index_select(0, order) for column in samples]
        yield from (
            Samples(*columns) for columns in zip(*(c.split(config.minibatch_size) for c in shuffled), strict=True)
        )

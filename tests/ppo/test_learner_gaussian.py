"""Continuous actions against Stable-Baselines3's PPO on a Box space: same data, same losses and gradients."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from stable_baselines3.common.logger import configure

from configs.schema import PPOConfig
from ppo.export import sb3_model, to_sb3
from ppo.learner.actions import DiagonalGaussian
from ppo.learner.policy import PolicySizes
from ppo.learner.rollout import collect
from ppo.learner.state import LearnerState
from ppo.learner.train import advance
from ppo.learner.update import batch_loss, samples_of

STEPS, ENVS, LEGS, OBSERVED = 16, 8, 3, 4
PPO = PPOConfig(
    hidden=(12, 8), num_envs=ENVS, rollout_steps=STEPS, minibatch_size=STEPS * ENVS, epochs=2, timesteps=2_560,
    discount=0.5, learning_rate=1e-2, learning_rate_final=1e-2, max_grad_norm=1e6, entropy_coef=0.01,
)  # fmt: skip
SIZES = PolicySizes(observation=OBSERVED, actions=LEGS, hidden=PPO.hidden, continuous=True, initial_deviation=0.6)


class Follow:
    """Each leg is paid for being close to the first number seen; episodes of 7 steps; `closed` legs do not count."""

    num_envs = ENVS

    def __init__(self, closed=()):
        self.rng, self.steps = np.random.default_rng(0), 0
        self.mask = np.ones((ENVS, LEGS), bool)
        self.mask[:, list(closed)] = False

    def _look(self):
        self.obs = self.rng.normal(size=(ENVS, OBSERVED)).astype("f4")
        return self.obs

    def reset_arrays(self):
        return self._look(), self.mask

    def step_arrays(self, actions):
        misses = np.where(self.mask, actions - self.obs[:, :1], 0)
        self.steps += 1
        ends = np.full(ENVS, self.steps % 7 == 0)
        return SimpleNamespace(
            reward=-np.square(misses).mean(1, dtype="f4"), obs=self._look(), mask=self.mask, final_obs=self.obs,
            terminated=ends & (np.arange(ENVS) < 4), truncated=ends & (np.arange(ENVS) >= 4),
        )  # fmt: skip


def learner(envs=None) -> LearnerState:
    return LearnerState.create(envs or Follow(), SIZES, PPO, seed=1)


def played():
    state = learner()
    for _ in range(2):
        advance(state, PPO)
    rollout, state.carry = collect(state.policy, state.envs, state.carry, STEPS, state.generator)
    return state, rollout


def oracle(quick_config, state, rollout):
    """SB3's PPO with our weights and our rollout in its buffer."""
    model = sb3_model(state.policy, PPO, quick_config.env, "ppo")
    model.set_logger(configure(None, []))
    old = state.policy.head.log_prob(rollout.params_TEP, rollout.mask_TEA, rollout.action_TE)
    ended = rollout.ended_TE.numpy()
    for step in range(STEPS):
        after = rollout.bootstrap_value_TE[step].numpy() * ended[step]
        model.rollout_buffer.add(
            rollout.obs_TED[step].numpy(), rollout.action_TE[step].numpy(),
            rollout.reward_TE[step].numpy() + PPO.discount * after, rollout.start_TE[step].numpy(),
            rollout.value_TE[step], old[step],
        )  # fmt: skip
    model.rollout_buffer.compute_returns_and_advantage(rollout.bootstrap_value_TE[-1], ended[-1])
    return model


def test_full_batch_losses_and_gradients_equal_ppo(quick_config):
    state, rollout = played()
    model = oracle(quick_config, state, rollout)
    generator = torch.Generator().manual_seed(1)
    samples = samples_of(state.policy, rollout, PPO)
    with torch.no_grad():
        for parameter in state.policy.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    model.policy.load_state_dict(to_sb3(state.policy.state_dict()))
    model.n_epochs = 1
    state.optimizer.zero_grad()
    loss = batch_loss(state.policy, samples, PPO)
    loss.total.backward()
    model.train()

    logged = model.logger.name_to_value
    assert 0.05 < loss.clip_frac < 0.95
    assert loss.policy.item() == pytest.approx(logged["train/policy_gradient_loss"], abs=1e-6)
    assert loss.value.item() == pytest.approx(logged["train/value_loss"], rel=1e-6)
    assert -loss.entropy.item() == pytest.approx(logged["train/entropy_loss"], abs=1e-6)
    assert loss.approx_kl.item() == pytest.approx(logged["train/approx_kl"], abs=1e-6)
    gradients = to_sb3({name: parameter.grad for name, parameter in state.policy.named_parameters()})
    for name, parameter in model.policy.named_parameters():
        assert torch.allclose(gradients[name], parameter.grad, rtol=1e-5, atol=1e-6), name


def test_the_learner_finds_what_is_paid():
    state = learner()
    rewards = [advance(state, PPO)["reward_mean"] for _ in range(40)]
    assert np.mean(rewards[-5:]) > 0.5 * np.mean(rewards[:5])
    assert state.policy.log_deviation.mean() < math.log(SIZES.initial_deviation)


def test_a_leg_that_cannot_be_traded_has_no_say():
    """Its parameters get no gradient, and what stands in its place changes nothing."""
    head, mask = DiagonalGaussian(2), torch.tensor([[True, False]])
    params = torch.tensor([[0.3, 5.0, -0.2, 4.0]], requires_grad=True)
    results = [head.log_prob_and_entropy(params, mask, torch.tensor([[0.1, other]])) for other in (0.0, 9.0)]
    assert results[0] == results[1]
    torch.stack(results[0]).sum().backward()
    assert (params.grad[0, [1, 3]] == 0).all() and (params.grad[0, [0, 2]] != 0).all()
    normal = torch.distributions.Normal(0.3, math.exp(-0.2))
    assert results[0][0].item() == pytest.approx(normal.log_prob(torch.tensor(0.1)).item(), abs=1e-6)
    assert results[0][1].item() == pytest.approx(normal.entropy().item(), abs=1e-6)


def test_actions_are_drawn_from_the_normal_and_played_by_its_mean():
    head, mask = DiagonalGaussian(2), torch.tensor([True, False])
    params = torch.tensor([1.0, 2.0, math.log(0.5), 0.0]).expand(20_000, 4)
    drawn = head.sample(params, mask, head.noise((20_000,), torch.Generator().manual_seed(0)))
    assert drawn[:, 0].mean().item() == pytest.approx(1.0, abs=0.02)
    assert drawn[:, 0].std().item() == pytest.approx(0.5, abs=0.02)
    assert (drawn[:, 1] == 0).all()
    assert head.greedy(params, mask)[0].tolist() == [1.0, 0.0]


def test_rows_name_the_mean_of_each_leg():
    row = advance(learner(Follow(closed=[2])), PPO)
    assert len(row["action_means"]) == LEGS and row["action_means"][2] == 0
    assert "action_shares" not in row and np.isfinite(row["entropy"])

"""The loss and the update against sb3-contrib's MaskablePPO on the same data."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from stable_baselines3.common.logger import configure

from configs.schema import Config, PPOConfig
from ppo.export import sb3_model, to_sb3
from ppo.learner.actions import MaskedCategorical, masked_log_probs
from ppo.learner.rollout import collect
from ppo.learner.train import Job, single_asset_job, start
from ppo.learner.update import batch_loss, samples_of, update
from tests.ppo.worlds import COSTS, planted_tape

STEPS, ENVS = 32, 16
BATCH = STEPS * ENVS


@pytest.fixture(scope="module")
def job(quick_config) -> Job:
    """Whole-batch updates on short episodes, so that many end within one rollout."""
    ppo = PPOConfig(
        hidden=(16, 12), num_envs=ENVS, rollout_steps=STEPS, minibatch_size=BATCH, epochs=1, discount=0.9,
        learning_rate=1e-3, learning_rate_final=1e-3, max_grad_norm=1e6, entropy_coef=0.01,
    )  # fmt: skip
    env = quick_config.env.model_copy(update={"episode_bars": 11})
    config: Config = quick_config.model_copy(update={"ppo": ppo, "env": env, "costs": COSTS})
    return single_asset_job(planted_tape(600, 5), [(0, 400)], [(400, 600)], config, seed=3)


def played(job):
    """A learner two updates old, so that its ratios and masks are not trivial, with one more rollout."""
    state = start(job)
    for _ in range(2):
        rollout, state.carry = collect(state.policy, state.envs, state.carry, STEPS, state.generator)
        update(
            state.policy,
            state.optimizer,
            samples_of(state.policy, rollout, job.config.ppo),
            job.config.ppo,
            state.generator,
        )
    rollout, state.carry = collect(state.policy, state.envs, state.carry, STEPS, state.generator)
    return state, rollout


def oracle(job, state, rollout):
    """MaskablePPO with our weights and our rollout in its buffer."""
    model = sb3_model(state.policy, job.config.ppo, job.config.env, "maskable")
    model.set_logger(configure(None, []))
    old_log_probs = state.policy.head.log_prob(rollout.params_TEP, rollout.mask_TEA, rollout.action_TE)
    discount = job.config.ppo.discount
    ended, reward = rollout.ended_TE.numpy(), rollout.reward_TE.numpy()
    for step in range(STEPS):
        action = rollout.action_TE[step]
        # an episode's end adds the discounted value of what would have come
        rewards = reward[step] + discount * (rollout.bootstrap_value_TE[step].numpy() * ended[step])
        model.rollout_buffer.add(
            rollout.obs_TED[step].numpy(),
            action.numpy()[:, None],
            rewards,
            rollout.start_TE[step].numpy(),
            rollout.value_TE[step],
            old_log_probs[step],
            action_masks=rollout.mask_TEA[step].numpy(),
        )
    model.rollout_buffer.compute_returns_and_advantage(rollout.bootstrap_value_TE[-1], ended[-1])
    return model


def nudge(model, policy):
    """Move both to the same other weights, so that ratios differ from 1 and some are clipped."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    model.policy.load_state_dict(to_sb3(policy.state_dict()))


def test_full_batch_losses_and_gradients_equal_maskable_ppo(job):
    state, rollout = played(job)
    model = oracle(job, state, rollout)
    nudge(model, state.policy)
    state.optimizer.zero_grad()
    loss = batch_loss(state.policy, samples_of(state.policy, rollout, job.config.ppo), job.config.ppo)
    loss.total.backward()
    model.train()

    logged = model.logger.name_to_value
    assert 0.05 < loss.clip_frac < 0.95
    assert loss.policy.item() == pytest.approx(logged["train/policy_gradient_loss"], abs=1e-6)
    assert loss.value.item() == pytest.approx(logged["train/value_loss"], abs=1e-6)
    assert -loss.entropy.item() == pytest.approx(logged["train/entropy_loss"], abs=1e-6)
    assert loss.approx_kl.item() == pytest.approx(logged["train/approx_kl"], abs=1e-6)
    assert loss.clip_frac.item() == pytest.approx(logged["train/clip_fraction"], abs=1e-6)
    gradients = to_sb3({name: parameter.grad for name, parameter in state.policy.named_parameters()})
    for name, parameter in model.policy.named_parameters():
        assert torch.allclose(gradients[name], parameter.grad, rtol=0, atol=1e-6), name


def test_one_whole_batch_update_moves_the_weights_as_maskable_ppo(job):
    state, rollout = played(job)
    model = oracle(job, state, rollout)
    state.optimizer.state.clear()
    update(
        state.policy,
        state.optimizer,
        samples_of(state.policy, rollout, job.config.ppo),
        job.config.ppo,
        state.generator,
    )
    model.train()
    for name, value in to_sb3(state.policy.state_dict()).items():
        assert torch.allclose(value, model.policy.state_dict()[name], rtol=0, atol=1e-6), name


@pytest.mark.parametrize("halvings", [1, 2, 3])
@pytest.mark.parametrize("target_kl", [0.0, 0.05])
def test_a_halved_batch_takes_the_same_steps_up_to_rounding(job, halvings, target_kl):
    ppo = job.config.ppo.model_copy(update={"epochs": 3, "minibatch_size": BATCH // 4, "target_kl": target_kl})
    ends = []
    for count in (0, halvings):
        state, rollout = played(job)
        figures = update(
            state.policy, state.optimizer, samples_of(state.policy, rollout, ppo), ppo, state.generator, count
        )
        ends.append((figures, torch.cat([weight.detach().flatten() for weight in state.policy.parameters()])))
    (whole, expected), (parts, weights) = ends
    assert parts == pytest.approx(whole, rel=1e-3, abs=1e-5)
    assert torch.allclose(weights, expected, rtol=0, atol=1e-5)
    assert not torch.equal(weights, expected), "the sums were rounded elsewhere"


def test_gradients_are_clipped_to_the_norm_of_the_settings(job):
    state, rollout = played(job)
    ppo = job.config.ppo.model_copy(update={"max_grad_norm": 1e-3})
    update(state.policy, state.optimizer, samples_of(state.policy, rollout, ppo), ppo, state.generator)
    norm = torch.cat([parameter.grad.flatten() for parameter in state.policy.parameters()]).norm()
    assert norm.item() == pytest.approx(1e-3, rel=1e-3)


def test_a_target_kl_ends_the_epochs_early(job):
    state, rollout = played(job)
    ppo = job.config.ppo.model_copy(update={"epochs": 50, "target_kl": 1e-3})
    figures = update(state.policy, state.optimizer, samples_of(state.policy, rollout, ppo), ppo, state.generator)
    assert 1 <= figures["gradient_steps"] < 50


masks = st.lists(st.booleans(), min_size=8, max_size=8).map(lambda flags: torch.tensor([[True, *flags]]))
logits = st.lists(st.floats(-30, 30, width=32), min_size=9, max_size=9).map(lambda row: torch.tensor([row]))


@given(logits, masks)
def test_masking_is_the_softmax_over_the_legal_actions_alone(row, mask):
    log_probs = masked_log_probs(row, mask)
    legal = torch.log_softmax(row[mask], -1)
    assert torch.allclose(log_probs[mask], legal, atol=1e-5)
    assert (log_probs.exp()[~mask] == 0).all()
    entropy = MaskedCategorical(9).log_prob_and_entropy(row, mask, torch.tensor([0]))[1]
    assert torch.allclose(entropy, -(legal.exp() * legal).sum(), atol=1e-5)


@given(logits, masks)
def test_an_illegal_action_gets_no_gradient(row, mask):
    row = row.clone().requires_grad_()
    log_prob, entropy = MaskedCategorical(9).log_prob_and_entropy(row, mask, torch.tensor([0]))
    (log_prob.sum() + entropy.sum()).backward()
    assert (row.grad[~mask] == 0).all()

"""The core with memory against a plain loop over steps, against the MLP core, and against itself step by step."""

import numpy as np
import pytest
import torch

from configs.schema import Config, LstmPPOConfig
from ppo.learner.cores import LstmCore
from ppo.learner.loss import ppo_loss
from ppo.learner.policy import Policy, PolicySizes, read_policy, save_policy
from ppo.learner.rollout import collect, first_carry
from ppo.learner.train import Job, advance, single_asset_job, start, train
from ppo.learner.update import batch_loss, samples_of, update
from tests.ppo.test_learner_rollout import Scripted
from tests.ppo.worlds import COSTS, planted_tape

STEPS, ENVS, UNITS = 24, 8, 6
BATCH = STEPS * ENVS


@pytest.fixture(scope="module")
def job(quick_config) -> Job:
    """Whole-batch updates on episodes so short that several end within one sequence."""
    ppo = LstmPPOConfig(
        hidden=(10, 7), memory_units=UNITS, num_envs=ENVS, rollout_steps=STEPS, minibatch_size=BATCH, epochs=1,
        timesteps=4 * BATCH, eval_every_steps=2 * BATCH, eval_slices=2, discount=0.9, learning_rate=1e-2,
        learning_rate_final=1e-2, max_grad_norm=1e6, entropy_coef=0.01,
    )  # fmt: skip
    env = quick_config.env.model_copy(update={"episode_bars": 11})
    config: Config = quick_config.model_copy(update={"env": env, "costs": COSTS})
    return single_asset_job(planted_tape(600, 5), [(0, 400)], [(400, 600)], config, seed=3, ppo=ppo)


def played(job):
    """A learner two updates old with one more rollout, whose initial states are not zero."""
    state = start(job)
    for _ in range(2):
        advance(state, job.ppo)
    rollout, state.carry = collect(state.policy, state.envs, state.carry, STEPS, state.generator)
    return state, rollout


def nudged(policy: Policy, by: float = 0.1) -> Policy:
    """Move the weights, so that ratios differ from 1 and some are clipped."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter += by * torch.randn(parameter.shape, generator=generator)
    return policy


def one_lstm_step(weights: dict, name: str, obs, hidden, cell):
    """The textbook's cell, written out (Hochreiter & Schmidhuber 1997 with the forget gate of Gers et al. 2000)."""
    own = {key: weights[f"core.{name}_memory.{key}_l0"] for key in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")}
    gates = own["weight_ih"] @ obs + own["bias_ih"] + own["weight_hh"] @ hidden + own["bias_hh"]
    enter, forget, new, leave = gates.reshape(4, UNITS)
    cell = forget.sigmoid() * cell + enter.sigmoid() * new.tanh()
    return leave.sigmoid() * cell.tanh(), cell


def layers(weights: dict, name: str, row):
    for number in (0, 2):
        row = torch.tanh(weights[f"core.{name}.{number}.weight"] @ row + weights[f"core.{name}.{number}.bias"])
    return row


def by_hand(policy: Policy, rollout):
    """Logits and values (T, E, ...) of one environment after the other, one step after the other."""
    weights, rows = dict(policy.named_parameters()), []
    for env in range(ENVS):
        states = list(rollout.state_ES[env].split(UNITS))
        for step in range(STEPS):
            obs = rollout.obs_TED[step, env]
            if rollout.start_TE[step, env]:
                states = [torch.zeros(UNITS)] * 4
            states[:2] = one_lstm_step(weights, "actor", obs, *states[:2])
            states[2:] = one_lstm_step(weights, "critic", obs, *states[2:])
            actor, critic = (layers(weights, n, torch.cat([obs, states[i]])) for n, i in (("actor", 0), ("critic", 2)))
            logits = weights["logits_head.weight"] @ actor + weights["logits_head.bias"]
            rows.append((logits, weights["value_head.weight"] @ critic + weights["value_head.bias"]))
    logits, values = (
        torch.stack(column).unflatten(0, (ENVS, STEPS)).transpose(0, 1) for column in zip(*rows, strict=True)
    )
    return logits, values.squeeze(-1)


def gradients(policy: Policy, loss) -> dict[str, torch.Tensor]:
    policy.zero_grad()
    loss.total.backward()
    return {name: parameter.grad.clone() for name, parameter in policy.named_parameters()}


def test_losses_and_gradients_equal_a_plain_loop_over_steps(job):
    state, rollout = played(job)
    assert rollout.start_TE[1:].any(0).all() and rollout.state_ES.abs().max() > 0.1
    samples, policy = samples_of(state.policy, rollout, job.ppo), nudged(state.policy)
    loss = batch_loss(policy, samples, job.ppo)
    advantage = samples.advantage_B
    normal = samples._replace(advantage_B=(advantage - advantage.mean()) / (advantage.std() + 1e-8))
    expected = ppo_loss(policy.head, *by_hand(policy, rollout), normal, job.ppo)
    assert 0.05 < loss.clip_frac < 0.95
    assert torch.stack(loss).tolist() == pytest.approx(torch.stack(expected).tolist(), abs=1e-6)
    ours, theirs = gradients(policy, loss), gradients(policy, expected)
    for name, gradient in ours.items():
        assert gradient.abs().max() > 1e-5, name
        assert torch.allclose(gradient, theirs[name], rtol=0, atol=1e-6), name


def test_an_lstm_that_says_nothing_leaves_the_mlp_core(job):
    """One full-batch minibatch: the same losses, and the same gradients of every weight both have."""
    state, rollout = played(job)
    memory, width = nudged(state.policy), job.sizes.observation
    with torch.no_grad():
        for layer in (memory.core.actor[0], memory.core.critic[0]):
            layer.weight[:, width:] = 0
    plain = Policy(job.sizes.model_copy(update={"memory": 0}))
    for name, weight in plain.state_dict().items():
        weight.copy_(memory.state_dict()[name][..., :width] if weight.dim() == 2 and ".0." in name else
                     memory.state_dict()[name])  # fmt: skip
    ours = batch_loss(memory, samples_of(memory, rollout, job.ppo), job.ppo)
    theirs = batch_loss(plain, samples_of(plain, rollout, job.ppo), job.ppo)
    assert torch.stack(ours).tolist() == pytest.approx(torch.stack(theirs).tolist(), abs=1e-6)
    found = gradients(memory, ours)
    for name, gradient in gradients(plain, theirs).items():
        own = found[name][..., :width] if gradient.dim() == 2 and ".0." in name else found[name]
        assert torch.allclose(own, gradient, rtol=0, atol=1e-6), name
    assert all((found[name] == 0).all() for name in found if "memory" in name)


def test_the_update_sees_the_policy_that_played(job):
    """Before the first gradient step every ratio is 1: states, resets and masks are those of the rollout."""
    state, rollout = played(job)
    loss = batch_loss(state.policy, samples_of(state.policy, rollout, job.ppo), job.ppo)
    assert loss.approx_kl.abs() < 1e-6 and loss.clip_frac == 0


def test_minibatches_are_whole_sequences_with_their_own_states(job):
    """Small minibatches of one epoch, gradient steps of length 0: each sees ratios of 1."""
    state, rollout = played(job)
    ppo = job.ppo.model_copy(update={"minibatch_size": 2 * STEPS})
    for group in state.optimizer.param_groups:
        group["lr"] = 0.0
    figures = update(state.policy, state.optimizer, samples_of(state.policy, rollout, ppo), ppo, state.generator)
    assert figures["gradient_steps"] == ENVS // 2
    assert abs(figures["approx_kl"]) < 1e-6 and figures["clip_frac"] == 0


@pytest.mark.parametrize("halvings", [1, 3])
def test_a_halved_batch_of_sequences_takes_the_same_steps_up_to_rounding(job, halvings):
    ppo, ends = job.ppo.model_copy(update={"epochs": 2, "minibatch_size": 4 * STEPS}), []
    for count in (0, halvings):
        state, rollout = played(job)
        samples = samples_of(state.policy, rollout, ppo)
        figures = update(state.policy, state.optimizer, samples, ppo, state.generator, count)
        ends.append((figures, torch.cat([weight.detach().flatten() for weight in state.policy.parameters()])))
    (whole, expected), (parts, weights) = ends
    assert parts == pytest.approx(whole, rel=1e-3, abs=1e-5)
    assert torch.allclose(weights, expected, rtol=0, atol=1e-4)


def test_a_truncated_episode_bootstraps_its_last_observation_with_what_was_remembered():
    """The scripted environment truncates environment 1 at its second step."""
    policy = Policy(PolicySizes(observation=2, actions=4, hidden=(8,), memory=3), torch.Generator().manual_seed(1))
    envs = Scripted()
    carry = first_carry(policy, envs, torch.device("cpu"))
    rollout, after = collect(policy, envs, carry, 4, torch.Generator().manual_seed(0))
    again = torch.zeros(3, dtype=torch.bool)
    obs = [rollout.obs_TED[0], rollout.obs_TED[1], torch.tensor(envs._obs(-5))]
    _, values, _ = policy(torch.stack(obs), policy.initial_state(3), torch.stack([~again, again, again]))
    bootstrap = rollout.bootstrap_value_TE[1]
    assert bootstrap[1].item() == pytest.approx(values[2, 1].item(), abs=1e-6)
    assert bootstrap[2] == 0
    forgotten = policy(obs[2], policy.initial_state(3), ~again)[1]
    assert abs(bootstrap[1] - forgotten[1]) > 1e-4
    last = policy(after.obs_ED, after.state_ES, after.start_E)[1]
    assert torch.allclose(rollout.bootstrap_value_TE[-1], last, atol=1e-6)


def test_single_steps_remember_what_sequences_do_and_forget_where_an_episode_starts():
    core, generator = LstmCore(5, UNITS, (7,)), torch.Generator().manual_seed(2)
    for parameter in core.parameters():
        parameter.data.normal_(generator=generator)
    obs = torch.randn(12, 3, 5, generator=generator)
    begins = torch.rand(12, 3, generator=generator) < 0.2
    state = torch.randn(3, core.state_size, generator=generator)
    whole = core(obs, state, begins)
    steps, carried = [], state
    for row, begin in zip(obs, begins, strict=True):
        *units, carried = core(row, carried, begin)
        steps.append(units)
    for part, column in enumerate(zip(*steps, strict=True)):
        assert torch.allclose(whole[part], torch.stack(column), atol=1e-5)
    assert torch.allclose(whole[2], carried, atol=1e-5)
    assert begins[1:].any()


def test_a_player_remembers_within_an_episode_and_no_other_environment(tmp_path):
    policy = Policy(PolicySizes(observation=5, actions=9, hidden=(7,), memory=UNITS), torch.Generator().manual_seed(0))
    with torch.no_grad():
        policy.logits_head.weight.mul_(1e4)
        policy.core.actor_memory.weight_ih_l0.mul_(5)
    save_policy(tmp_path, policy)
    rng = np.random.default_rng(0)
    obs, mask = rng.normal(size=(60, 4, 5)).astype(np.float32), np.ones((4, 9), bool)
    start = rng.random((60, 4)) < 0.1
    start[0] = True
    play, alone = policy.player(4), read_policy(tmp_path).player(1)
    together = np.array([play(obs[t], mask, start[t]) for t in range(60)])
    assert together[:, 2].tolist() == [int(alone(obs[t, 2:3], mask[:1], start[t, 2:3])[0]) for t in range(60)]
    amnesiac = policy.player(4)
    assert not np.array_equal(together, [amnesiac(obs[t], mask, np.ones(4, bool)) for t in range(60)])


def test_a_learner_with_memory_goes_on_to_the_same_bits(job):
    whole, saved = start(job), {}

    def keep(state, row):
        if state.rollouts == 2:
            saved["state"] = state.to_arrays()

    train(job, whole, keep)
    restored = start(job)
    restored.load_arrays(*saved["state"])
    train(job, restored)
    (arrays, scalars), (expected, facts) = restored.to_arrays(), whole.to_arrays()
    assert scalars == facts
    assert [name for name in expected if expected[name].tobytes() != arrays[name].tobytes()] == []
    assert np.abs(saved["state"][0]["carry/state_ES"]).max() > 0.1

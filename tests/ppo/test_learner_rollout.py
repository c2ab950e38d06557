"""What a rollout keeps, on the real environments and on a scripted one."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy import stats

from ppo.learner.policy import Policy, PolicySizes
from ppo.learner.rollout import collect, first_carry
from ppo.learner.train import Job, single_asset_job, start
from tests.ppo.worlds import COSTS, random_tape

ENVS, ACTIONS = 3, 4
SIZES = PolicySizes(observation=2, actions=ACTIONS, hidden=(8,))


class Scripted:
    """Environments that count: observation (env, step); env 0 never ends, 1 is truncated, 2 terminated at step 2."""

    num_envs = ENVS

    def __init__(self):
        self.step = 0
        self.mask = np.ones((ENVS, ACTIONS), bool)
        self.mask[:, 1] = False
        self.played = []

    def _obs(self, step):
        return np.stack([np.arange(ENVS), np.full(ENVS, step)], axis=1).astype("f4") / 10

    def reset_arrays(self):
        return self._obs(0), self.mask

    def step_arrays(self, actions):
        self.played.append(actions.copy())
        self.step += 1
        ends = self.step == 2
        return SimpleNamespace(
            obs=self._obs(self.step),
            reward=np.full(ENVS, self.step, "f4"),
            terminated=np.array([False, False, ends]),
            truncated=np.array([False, ends, False]),
            final_obs=self._obs(-5),
            mask=self.mask,
        )


def play(steps=4, seed=0):
    envs, policy = Scripted(), Policy(SIZES, torch.Generator().manual_seed(1))
    carry = first_carry(policy, envs, torch.device("cpu"))
    rollout, carry = collect(policy, envs, carry, steps, torch.Generator().manual_seed(seed))
    return envs, policy, rollout, carry


def value_of(policy, rows):
    rows = torch.tensor(rows, dtype=torch.float32)
    return policy(rows, policy.initial_state(len(rows)), torch.zeros(len(rows), dtype=torch.bool))[1]


def test_a_truncated_episode_bootstraps_its_last_observation_and_a_terminated_one_nothing():
    _, policy, rollout, _ = play()
    after = rollout.bootstrap_value_TE[1].tolist()
    going_on, truncated = value_of(policy, [[0.0, 0.2], [0.1, -0.5]]).tolist()
    assert after == pytest.approx([going_on, truncated, 0.0], abs=1e-6)
    assert rollout.ended_TE[1].tolist() == [False, True, True]


def test_the_last_step_bootstraps_the_observation_that_is_carried_on():
    _, policy, rollout, carry = play()
    assert carry.obs_ED[:, 1].tolist() == pytest.approx([0.4] * ENVS)
    assert torch.allclose(rollout.bootstrap_value_TE[-1], value_of(policy, carry.obs_ED.tolist()), atol=1e-6)


def test_an_observation_after_an_end_is_marked_as_a_start():
    _, _, rollout, carry = play(steps=2)
    assert rollout.start_TE.tolist() == [[True] * 3, [False] * 3]
    assert carry.start_E.tolist() == [False, True, True]


def test_rewards_and_actions_lie_where_they_were_played():
    envs, _, rollout, _ = play()
    assert rollout.reward_TE[:, 0].tolist() == [1, 2, 3, 4]
    assert np.array_equal(rollout.action_TE.numpy(), envs.played)
    assert rollout.obs_TED[3, 2].tolist() == pytest.approx([0.2, 0.3])


def test_actions_are_drawn_from_the_softmax_over_the_legal_actions():
    """Chi-square over 6,000 draws of a policy with very unequal logits."""
    policy = Policy(SIZES, torch.Generator().manual_seed(1))
    with torch.no_grad():
        policy.logits_head.weight.zero_()
        policy.logits_head.bias.copy_(torch.tensor([0.0, 5.0, 1.0, 2.0]))
    envs = Scripted()
    carry = first_carry(policy, envs, torch.device("cpu"))
    rollout, _ = collect(policy, envs, carry, 2_000, torch.Generator().manual_seed(2))
    counts = torch.bincount(rollout.action_TE.flatten(), minlength=ACTIONS).numpy()
    expected = np.exp([0.0, 1.0, 2.0])
    assert counts[1] == 0
    assert stats.chisquare(counts[[0, 2, 3]], expected / expected.sum() * counts.sum()).pvalue > 0.001


@pytest.fixture(scope="module")
def job(quick_config) -> Job:
    ppo = quick_config.ppo.model_copy(update={"num_envs": 16, "rollout_steps": 64, "minibatch_size": 256})
    env = quick_config.env.model_copy(update={"episode_bars": 50})
    config = quick_config.model_copy(update={"ppo": ppo, "env": env, "costs": COSTS})
    return single_asset_job(random_tape(900, 4, segments=3), [(0, 300), (300, 600)], [(600, 900)], config, seed=1)


def test_an_agent_never_plays_an_illegal_action(job):
    state = start(job)
    rollout, _ = collect(state.policy, state.envs, state.carry, 64, state.generator)
    assert rollout.mask_TEA.gather(-1, rollout.action_TE.unsqueeze(-1)).all()
    assert not rollout.mask_TEA.all()
    assert job.environments().statistics()["illegal"] == 0
    assert state.envs.statistics()["illegal"] == 0
    assert rollout.ended_TE.any()


def test_a_rollout_cut_in_two_is_the_same_rollout(job):
    """The carry holds everything, shown with logits so far apart that chance has no say."""

    def played(*counts):
        state = start(job)
        with torch.no_grad():
            state.policy.logits_head.weight.mul_(1e6)
        parts = []
        for count in counts:
            part, state.carry = collect(state.policy, state.envs, state.carry, count, state.generator)
            parts.append(part)
        return parts

    (whole,) = played(60)
    first, second = played(25, 35)
    for name in ("obs_TED", "mask_TEA", "start_TE", "action_TE", "reward_TE", "ended_TE"):
        assert torch.equal(getattr(whole, name), torch.cat([getattr(first, name), getattr(second, name)])), name
    assert whole.action_TE.unique().numel() > 2
    assert torch.allclose(whole.bootstrap_value_TE[:25], first.bootstrap_value_TE, atol=1e-6)

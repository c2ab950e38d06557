import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3.common.buffers import RolloutBuffer

from ppo.learner.advantage import advantages, explained_variance

STEPS, ENVS = 40, 6


def column(*numbers):
    return torch.tensor(numbers, dtype=torch.float32).unsqueeze(1)


def random_game(seed):
    """Rewards, values, bootstraps and ends as a rollout makes them; (truncated, terminated) shares are large."""
    rng = np.random.default_rng(seed)
    reward, value, final_value = (rng.normal(size=(STEPS, ENVS)).astype("f4") for _ in range(3))
    last_value = rng.normal(size=ENVS).astype("f4")
    terminated = rng.random((STEPS, ENVS)) < 0.1
    truncated = (rng.random((STEPS, ENVS)) < 0.1) & ~terminated
    bootstrap = np.where(truncated, final_value, np.r_[value[1:], last_value[None]]) * ~terminated
    return reward, value, final_value, last_value, terminated, truncated, bootstrap


def test_three_steps_worked_by_hand():
    # discount 0.5, lambda 0.5: errors 1 + 0.5*4 - 2 = 1, 0 + 0.5*6 - 4 = -1, 2 + 0.5*8 - 6 = 0
    got = advantages(
        column(1, 0, 2), column(2, 4, 6), column(4, 6, 8), column(0, 0, 0).bool(), discount=0.5, gae_lambda=0.5
    )
    assert got.flatten().tolist() == [1 + 0.25 * -1, -1, 0]


@pytest.mark.parametrize("seed", range(3))
def test_equals_the_rollout_buffer_of_sb3(seed):
    reward, value, final_value, last_value, terminated, truncated, bootstrap = random_game(seed)
    buffer = RolloutBuffer(STEPS, spaces.Box(-1, 1, (1,)), spaces.Discrete(2), gae_lambda=0.8, gamma=0.9, n_envs=ENVS)
    starts = np.zeros(ENVS, bool)
    for step in range(STEPS):
        # SB3 adds the discounted value of a truncated episode's last observation to the reward
        rewards = reward[step] + 0.9 * final_value[step] * truncated[step]
        empty = np.zeros((ENVS, 1))
        buffer.add(empty, empty, rewards, starts, torch.from_numpy(value[step]), torch.zeros(ENVS))
        starts = terminated[step] | truncated[step]
    buffer.compute_returns_and_advantage(torch.from_numpy(last_value), starts)

    ended = torch.from_numpy(terminated | truncated)
    tensors = (torch.from_numpy(array.astype("f4")) for array in (reward, value, bootstrap))
    got = advantages(*tensors, ended, discount=0.9, gae_lambda=0.8)
    assert np.allclose(got.numpy(), buffer.advantages, atol=1e-5)


def test_lambda_one_is_the_discounted_return_minus_the_value():
    reward, value, _, _, terminated, truncated, bootstrap = (torch.from_numpy(part) for part in random_game(7))
    bootstrap = bootstrap.float()
    got = advantages(reward, value, bootstrap, terminated | truncated, discount=0.9, gae_lambda=1.0)
    total = bootstrap[-1].clone()
    for step in reversed(range(STEPS)):
        total = torch.where((terminated | truncated)[step], bootstrap[step], total)
        total = reward[step] + 0.9 * total
        assert torch.allclose(got[step], total - value[step], atol=1e-5)


def test_lambda_zero_is_the_one_step_error():
    reward, value, _, _, terminated, truncated, bootstrap = (torch.from_numpy(part) for part in random_game(8))
    got = advantages(reward, value, bootstrap.float(), terminated | truncated, discount=0.9, gae_lambda=0.0)
    assert torch.allclose(got, reward + 0.9 * bootstrap.float() - value)


def test_nothing_leaks_across_an_episode_end():
    kept = dict(discount=0.9, gae_lambda=0.8)
    ended = column(1, 0).bool()
    small = advantages(column(1, 0), column(0, 0), column(0, 0), ended, **kept)
    large = advantages(column(1, 99), column(0, 0), column(0, 0), ended, **kept)
    assert small[0] == large[0]


@pytest.mark.parametrize(
    ("guess", "explained"), [([1.0, 2.0, 3.0], 1.0), ([2.0, 2.0, 2.0], 0.0), ([3.0, 2.0, 1.0], -3.0)]
)
def test_explained_variance_is_one_for_a_perfect_critic_and_zero_for_a_constant(guess, explained):
    assert explained_variance(torch.tensor(guess), torch.tensor([1.0, 2.0, 3.0])).item() == pytest.approx(explained)


def test_constant_returns_leave_nothing_to_explain():
    assert explained_variance(torch.tensor([1.0, 2.0]), torch.ones(2)).item() == 0

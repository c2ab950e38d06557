"""The Gymnasium environment: checkers, episodes, and what it refuses."""

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env as gymnasium_check
from stable_baselines3.common.env_checker import check_env as sb3_check

import ppo.env
from configs.schema import EnvConfig
from ppo import rules
from ppo.env import EpisodeStartError, TradingEnv
from tests.ppo.worlds import BARS_PER_YEAR, COSTS, random_tape

SPANS = [(0, 150), (150, 300)]


def make_env(env=None):
    return TradingEnv(random_tape(300, 7, segments=2), SPANS, env or EnvConfig(), COSTS, BARS_PER_YEAR)


def make_registered(env=None):
    tape = random_tape(300, 7, segments=2)
    settings = dict(tape=tape, spans=SPANS, env=env or EnvConfig(), costs=COSTS, bars_per_year=BARS_PER_YEAR)
    return gymnasium.make("SequenceRunner/Trading-v0", **settings)


def run(env, actions):
    """Rewards, terminated, truncated, infos until the episode ends."""
    steps = []
    for action in actions:
        steps.append(env.step(action)[1:])
        if steps[-1][1] or steps[-1][2]:
            break
    return [list(column) for column in zip(*steps, strict=True)]


@pytest.mark.parametrize("shaping", rules.SHAPINGS)
@pytest.mark.parametrize("check", [gymnasium_check, sb3_check])
def test_both_checkers_accept_it(check, shaping):
    check(make_registered(EnvConfig(shaping=shaping)).unwrapped)


def test_it_is_registered():
    assert ppo.env.ENV_ID == "SequenceRunner/Trading-v0"
    env = make_registered()
    observation, _ = env.reset(seed=1)
    assert np.array_equal(observation, make_env().reset(seed=1)[0])
    assert env.unwrapped.action_masks().tolist() == [True] * 4 + [False] * 5


def test_rewards_sum_to_the_log_of_final_over_initial_equity():
    env = make_env()
    env.reset(seed=3)
    rewards, *_ = run(env, np.random.default_rng(3).integers(0, 9, 400))
    assert sum(rewards) == pytest.approx(np.log(env.equity / 10_000), rel=1e-12)


def test_an_episode_of_l_decisions_spans_l_plus_1_bars():
    env = make_env(EnvConfig(episode_bars=20))
    env.reset(options={"start": 10})
    rewards, terminated, truncated, _ = run(env, [0] * 100)
    assert (len(rewards), env.bar) == (20, 30)
    assert not any(terminated)
    assert truncated == [False] * 19 + [True]


def test_a_position_is_closed_at_a_segment_end_and_only_marked_at_the_end_of_the_data_or_episode():
    closed = {}
    for name, start, bars in (("segment", 140, 50), ("data", 290, 50), ("episode", 100, 9)):
        env = make_env(EnvConfig(episode_bars=bars))
        env.reset(options={"start": start})
        _, terminated, truncated, _ = run(env, [3] + [0] * 60)
        assert truncated[-1]
        assert not terminated[-1]
        closed[name] = not env.action_masks()[7]
    assert closed == {"segment": True, "data": False, "episode": False}


def test_an_episode_starts_flat_with_its_equity():
    env = make_env(EnvConfig(initial_equity=500.0))
    env.reset(seed=1)
    env.step(3)
    observation, _ = env.reset()
    assert env.equity == 500.0
    assert observation[-4:].tolist() == [0.0, 0.0, 1.0, 0.0]


def test_the_observation_is_the_row_of_its_bar():
    env, tape = make_env(), random_tape(300, 7, segments=2)
    env.reset(options={"start": 42})
    assert np.array_equal(env.step(0)[0][:-4], tape.observation[43])


def test_a_seed_repeats_the_series_of_episodes_and_another_gives_another():
    def starts(seed):
        env = make_env()
        env.reset(seed=seed)
        bars = [env.bar]
        for _ in range(5):
            env.reset()
            bars.append(env.bar)
        return bars

    assert starts(5) == starts(5)
    assert starts(5) != starts(6)
    assert len(set(starts(5))) > 3


def test_observations_are_copies():
    env = make_env()
    first, _ = env.reset(seed=0)
    kept = first.copy()
    env.step(3)
    assert np.array_equal(first, kept)


def test_infos_name_the_learners_reward_the_shaping_and_an_illegal_action():
    env = make_env(EnvConfig(shaping="drawdown"))
    env.reset(seed=0)
    assert env.step(4)[4]["illegal"] is True
    _, reward, _, _, info = env.step(3)
    assert info["illegal"] is False
    assert info["drawdown"] < 0
    assert info["learner_reward"] == pytest.approx(100 * reward + info["drawdown"], rel=1e-12)


@pytest.mark.parametrize("start", [-1, 149, 299, 300, 10**9])
def test_a_start_without_a_later_bar_in_its_span_is_refused(start):
    with pytest.raises(EpisodeStartError, match=f"start {start} is not a bar"):
        make_env().reset(options={"start": start})


def test_a_step_outside_an_episode_is_refused():
    env = make_env(EnvConfig(episode_bars=2))
    with pytest.raises(gymnasium.error.ResetNeeded):
        env.step(0)
    env.reset(seed=0)
    run(env, [0, 0])
    with pytest.raises(gymnasium.error.ResetNeeded):
        env.step(0)

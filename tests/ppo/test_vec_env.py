"""The batched environments: equal to the scalar rules and the single one, exact to resume, SB3's contract."""

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sb3_contrib import MaskablePPO
from sb3_contrib.common.maskable.utils import get_action_masks, is_masking_supported

from configs.errors import BadDataError
from configs.schema import EnvConfig
from ppo import rules
from ppo.env import TradingEnv
from ppo.tape import price_table, spans
from ppo.vec_env import EnvStateError, TradingVecEnv
from tests.ppo.worlds import BARS_PER_YEAR, COSTS, make_tape, random_tape

SHORT_EPISODES = EnvConfig(episode_bars=25)


def make_vec(num_envs, seed=0, env=SHORT_EPISODES, tape=None, parts=None):
    tape = tape or random_tape(200, 3, segments=3, volatility=0.05)
    return TradingVecEnv(tape, parts or spans(tape, 0, len(tape)), env, COSTS, BARS_PER_YEAR, num_envs, seed)


def random_actions(seed, steps, num_envs):
    return np.random.default_rng(seed).integers(0, 9, (steps, num_envs))


def record(vec, actions):
    """Everything `actions` (T, E) bring about, as one list of arrays."""
    kept = []
    for row in actions:
        step = vec.step_arrays(row)
        ended = step.terminated | step.truncated
        final = np.where(ended[:, None], step.final_obs, 0)
        kept += [
            x.copy()
            for x in (step.obs, step.reward, step.log_return, step.terminated, step.truncated, final, step.mask)
        ]
    return kept


def same(left, right):
    return all(np.array_equal(a, b) for a, b in zip(left, right, strict=True))


@settings(max_examples=20)
@given(st.integers(0, 2**63 - 1), st.integers(1, 5), st.sampled_from(rules.SHAPINGS))
def test_gymnasium_and_batched_trajectories_are_equal_under_random_actions(seed, num_envs, shaping):
    env = EnvConfig(episode_bars=25, shaping=shaping)
    tape = random_tape(200, 3, segments=3, volatility=0.05)
    parts = spans(tape, 0, 200)
    vec = make_vec(num_envs, seed, env, tape, parts)
    singles = [TradingEnv(tape, parts, env, COSTS, BARS_PER_YEAR) for _ in range(num_envs)]
    obs, mask = vec.reset_arrays()
    for k, single in enumerate(singles):
        first, _ = single.reset(options={"start": int(vec.state()["clock"][k, rules.BAR])})
        assert np.array_equal(first, obs[k])
    for row in random_actions(seed, 80, num_envs):
        step = vec.step_arrays(row)
        for k, single in enumerate(singles):
            seen, log_return, terminated, truncated, info = single.step(row[k])
            assert (log_return, terminated, truncated) == (step.log_return[k], step.terminated[k], step.truncated[k])
            assert np.float32(info["learner_reward"]) == step.reward[k]
            assert info.get(shaping, 0.0) == step.shaping[k]
            if terminated or truncated:
                assert np.array_equal(seen, step.final_obs[k])
                seen, _ = single.reset(options={"start": int(vec.state()["clock"][k, rules.BAR])})
            assert np.array_equal(seen, step.obs[k])
            assert np.array_equal(single.action_masks(), step.mask[k])


@settings(max_examples=20)
@given(st.integers(0, 2**63 - 1))
def test_scalar_rules_and_batched_trajectories_are_equal_under_random_actions(seed):
    tape = random_tape(200, 3, segments=3, volatility=0.05)
    vec, bars, terms = make_vec(2, seed, tape=tape), price_table(tape, 200), rules.terms_of(SHORT_EPISODES, COSTS, 8760)
    vec.reset_arrays()
    account, fills = np.zeros(rules.ACCOUNT_FIELDS), np.zeros(rules.FILL_SHAPE)
    rules.open_account(account, 10_000.0)
    bar = start = int(vec.state()["clock"][1, rules.BAR])
    for row in random_actions(seed, 80, 2):
        step = vec.step_arrays(row)
        bar += 1
        segment_ends = bar + 1 < 200 and tape.segment[bar + 1] != tape.segment[bar]
        log_return, terminated, _ = rules.advance(account, row[1], bars[bar], segment_ends, terms, fills)
        cut = segment_ends or bar == 199 or bar - start == 25
        assert log_return == step.log_return[1]
        assert step.reward[1] == np.float32(min(max(100 * log_return, -10), 10))
        assert (step.terminated[1], step.truncated[1]) == (terminated, cut and not terminated)
        if terminated or cut:
            assert step.final_obs[1, -1] == np.float32(min(account[rules.HELD] / 100, 1))
            rules.open_account(account, 10_000.0)
            bar = start = int(vec.state()["clock"][1, rules.BAR])
        assert np.array_equal(tape.observation[bar], step.obs[1, :-4])


@settings(max_examples=10)
@given(st.integers(0, 2**31), st.integers(1, 4), st.integers(5, 9))
def test_what_an_environment_does_is_independent_of_how_many_there_are(seed, few, many):
    actions = random_actions(seed, 60, many)
    left, right = make_vec(few, seed), make_vec(many, seed)
    left.reset_arrays(), right.reset_arrays()
    for a, b in zip(record(left, actions[:, :few]), record(right, actions), strict=True):
        assert np.array_equal(a, b[:few])


def test_environments_and_seeds_differ():
    vecs = [make_vec(64, seed) for seed in (0, 1)]
    for vec in vecs:
        vec.reset_arrays()
    first, second = (vec.state()["clock"][:, rules.BAR] for vec in vecs)
    assert len(set(first.tolist())) > 40
    assert (first != second).sum() > 50


def test_after_an_automatic_reset_environments_differ_too():
    vec = make_vec(64, env=EnvConfig(episode_bars=2))
    vec.reset_arrays()
    record(vec, np.zeros((2, 64), int))
    assert len(set(vec.state()["clock"][:, rules.BAR].tolist())) > 40


@settings(max_examples=10)
@given(st.integers(0, 2**31), st.integers(0, 60), st.sampled_from(rules.SHAPINGS))
def test_a_loaded_state_continues_bit_for_bit_in_mid_episode(seed, cut, shaping):
    env, actions = EnvConfig(episode_bars=25, shaping=shaping), random_actions(seed, 90, 4)
    vec, other = make_vec(4, seed, env), make_vec(4, seed + 1, env)
    vec.reset_arrays()
    record(vec, actions[:cut])
    other.load_state(vec.state())
    assert same(record(vec, actions[cut:]), record(other, actions[cut:]))
    assert same(vec.state().values(), other.state().values())


def test_a_state_is_a_copy():
    vec = make_vec(3)
    vec.reset_arrays()
    state = vec.state()
    kept = {name: array.copy() for name, array in state.items()}
    record(vec, random_actions(0, 30, 3))
    assert same(state.values(), kept.values())
    assert not same(vec.state().values(), kept.values())


@pytest.mark.parametrize("damage", [lambda s: s.pop("account"), lambda s: s.update(clock=np.zeros((4, 4), np.int64))])
def test_a_state_of_another_shape_is_refused_and_nothing_is_changed(damage):
    vec = make_vec(3)
    vec.reset_arrays()
    state, before = vec.state(), vec.state()
    damage(state)
    with pytest.raises(EnvStateError, match=r"'(account|clock)' has shape .* expected \(3, "):
        vec.load_state(state)
    assert same(vec.state().values(), before.values())


def test_episodes_start_on_every_bar_that_has_a_later_bar_in_its_span_equally_often():
    tape = random_tape(12, 0, segments=2)
    vec = make_vec(100, tape=tape, parts=[(0, 4), (4, 6), (6, 12)])
    counts = np.zeros(12, int)
    for _ in range(90):
        vec.reset_arrays()
        counts += np.bincount(vec.state()["clock"][:, rules.BAR], minlength=12)
    assert np.flatnonzero(counts).tolist() == [0, 1, 2, 4, 6, 7, 8, 9, 10]
    expected = 9_000 / 9
    assert ((counts[counts > 0] - expected) ** 2 / expected).sum() < 26.1  # chi-square, 8 degrees, p = 0.001


def test_the_nth_draw_is_the_nth_bar_that_an_episode_may_start_on():
    tape = random_tape(12, 0, segments=2)
    vec = make_vec(9, tape=tape, parts=[(0, 4), (4, 6), (6, 12)])
    vec.start_arrays(range(9))
    assert vec.state()["clock"][:, rules.BAR].tolist() == [0, 1, 2, 4, 6, 7, 8, 9, 10]


def test_no_episode_crosses_a_segment():
    tape = random_tape(200, 3, segments=7)
    vec = make_vec(16, tape=tape)
    vec.reset_arrays()
    clock = vec.state()["clock"]
    for row in random_actions(1, 300, 16):
        before, step = clock, vec.step_arrays(row)
        clock = vec.state()["clock"]
        ended = step.terminated | step.truncated
        assert (clock[~ended, rules.BAR] == before[~ended, rules.BAR] + 1).all()
        assert (tape.segment[before[:, rules.BAR]] == tape.segment[before[:, rules.BAR] + 1]).all()
        assert (step.truncated[before[:, rules.BAR] + 1 == before[:, rules.END]]).sum() == step.truncated.sum()


def changed_from(tape, first):
    """The tape with every number from bar `first` on replaced, and a segment that ends at bar 120."""
    other = random_tape(len(tape), 99, columns=tape.observation.shape[1])
    names = ("open", "high", "low", "close", "observation")
    mixed = {name: np.concatenate([getattr(tape, name)[:first], getattr(other, name)[first:]]) for name in names}
    segment = tape.segment + (np.arange(len(tape)) >= 120).astype(np.int32)
    return dataclasses.replace(tape, segment=segment, **mixed)


def test_no_step_reads_past_the_last_bar_of_the_spans():
    tape, actions = random_tape(200, 3), random_actions(0, 300, 8)
    tracks = []
    for other in (tape, changed_from(tape, 120), changed_from(tape, 119)):
        vec = make_vec(8, tape=other, parts=[(10, 60), (60, 120)])
        vec.reset_arrays()
        tracks.append(record(vec, actions))
    assert same(tracks[0], tracks[1])
    assert not same(tracks[0], tracks[2])  # the last bar itself does matter


def test_rows_without_a_usable_prediction_are_refused():
    tape = random_tape(50, 0)
    tape.ready[20] = False
    with pytest.raises(BadDataError, match="bar 20, which has no usable prediction"):
        make_vec(2, tape=tape, parts=[(0, 50)])
    assert spans(tape, 0, 50) == [(0, 20), (21, 50)]


@pytest.mark.parametrize("bars", [4, 8])
def test_a_liquidation_terminates_and_is_counted_on_the_last_bar_too(bars):
    prices = np.r_[np.full(3, 100.0), np.full(5, 300.0)]
    vec = make_vec(1, tape=make_tape(prices, prices, prices), parts=[(0, bars)])
    vec.reset_arrays()
    while vec.state()["clock"][0, rules.BAR] != 0:
        vec.reset_arrays()
    record(vec, [[3], [8]])
    step = vec.step_arrays(np.array([0]))
    assert (step.terminated[0], step.truncated[0], step.reward[0]) == (True, False, -10.0)
    assert step.log_return[0] == pytest.approx(math.log(1 / 10_000), abs=0.01)
    assert vec.statistics()["liquidations"] == 1


def test_statistics_count_what_happened_since_the_last_call():
    tape = random_tape(50, 0)
    vec = make_vec(2, tape=tape, env=EnvConfig(episode_bars=4), parts=[(0, 50)])
    vec.reset_arrays()
    record(vec, [[3, 0], [3, 4], [7, 0], [0, 0]])
    counts = vec.statistics()
    assert counts["actions"].tolist() == [4, 0, 0, 1, 0, 0, 0, 1, 0]
    assert {k: v for k, v in counts.items() if k != "actions"} == {
        "illegal": 2, "position_changes": 2, "episodes": 2, "liquidations": 0,
    }  # fmt: skip
    assert not any(np.any(value) for value in vec.statistics().values())


def test_sb3_gets_fresh_copies_and_the_infos_it_expects():
    vec, twin = make_vec(8), make_vec(8)
    obs = vec.reset()
    assert np.array_equal(obs, twin.reset_arrays()[0])
    for row in random_actions(2, 60, 8):
        kept, before = obs.copy(), obs
        obs, rewards, dones, infos = vec.step(row)
        step = twin.step_arrays(row)
        assert np.array_equal(obs, step.obs)
        assert np.array_equal(rewards, step.reward)
        assert np.array_equal(dones, step.terminated | step.truncated)
        assert np.array_equal(before, kept)
        assert len({id(info) for info in infos}) == 8
        for k, info in enumerate(infos):
            if dones[k]:
                assert np.array_equal(info["terminal_observation"], step.final_obs[k])
                assert info["TimeLimit.truncated"] is bool(step.truncated[k])
            else:
                assert info == {}
    assert vec.statistics()["episodes"] > 8


def test_sb3_infos_name_the_shaping_term():
    prices = np.full(9, 100.0)  # only the costs of the first account's purchase move equity
    vec = make_vec(2, env=EnvConfig(shaping="drawdown"), tape=make_tape(prices, prices, prices))
    vec.reset()
    infos = vec.step(np.array([3, 0]))[3]
    assert infos[0]["drawdown"] == pytest.approx(0.1 * 100 * math.log(1 / 1.0025 / 1.0005), rel=1e-12)
    assert infos[1]["drawdown"] == 0


def test_seed_decides_the_episodes_of_the_next_reset():
    vec = make_vec(4, seed=11)
    first = vec.reset()
    assert not np.array_equal(vec.reset(), first)
    vec.seed(11)
    assert np.array_equal(vec.reset(), first)


def test_masks_reach_sb3_contrib():
    vec = make_vec(5)
    vec.reset()
    vec.step(np.array([3, 0, 0, 2, 0]))
    assert is_masking_supported(vec)
    assert np.array_equal(get_action_masks(vec), vec.state()["mask"])
    assert len(vec.env_method("action_masks", indices=[0, 3])) == 2
    assert not vec.has_attr("no_such_thing")


def test_maskable_ppo_trains_on_it_unchanged_and_never_acts_illegally():
    vec = make_vec(8)
    settings = dict(n_steps=32, batch_size=64, n_epochs=1, seed=0, device="cpu", policy_kwargs={"net_arch": [8]})
    model = MaskablePPO("MlpPolicy", vec, **settings)
    before = [weights.detach().clone() for weights in model.policy.parameters()]
    model.learn(512)
    counts = vec.statistics()
    assert counts["illegal"] == 0
    assert counts["actions"].sum() == 512
    assert (counts["actions"] > 0).sum() > 5
    assert any(not np.array_equal(a, b.detach()) for a, b in zip(before, model.policy.parameters(), strict=True))

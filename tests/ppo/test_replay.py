"""Prioritised level replay: chances by hand and at their limits, draws by count, resume bit for bit."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from configs.load import resolve
from configs.schema import PretrainConfig
from ppo import rules
from ppo.replay import ReplayVecEnv, cut_windows, draw_chances, replay_chances
from ppo.tape import start_table
from tests.ppo.test_vec_env import random_actions, record, same
from tests.ppo.worlds import random_tape

CONFIG = resolve("ADA-EUR_1H", "quick").config
TAPE = random_tape(1_200, 3, columns=2, segments=3)
SPANS = [(0, 400), (400, 800), (800, 1_200)]
WINDOWS = 24
"""Of 50 bars each."""
FIRST = cut_windows(start_table(TAPE, SPANS), 50)[:, rules.FIRST]


def settings_of(**given) -> PretrainConfig:
    return PretrainConfig(**({"replay": "prioritised", "window_bars": 50, "score_temperature": 1.0} | given))


def make_replay(num_envs, seed=0, **given) -> ReplayVecEnv:
    return ReplayVecEnv(TAPE, SPANS, CONFIG.model_copy(update={"pretrain": settings_of(**given)}), num_envs, seed)


def play(vec, steps, seed):
    """Random play; each rollout ends with noise for advantages."""
    rng = np.random.default_rng(seed)
    kept = record(vec, rng.integers(0, 9, (steps, vec.num_envs)))
    vec.learned(rng.normal(0, 1, (steps, vec.num_envs)))
    return kept


def test_replay_chances_by_hand():
    """Ranks 2, 1, 3 at beta 1/2 weigh 1/4, 1, 1/9; ages 0, 3, 1 weigh 0, 3/4, 1/4."""
    by_rank = np.array([1 / 4, 1, 1 / 9]) / (1 / 4 + 1 + 1 / 9)
    by_age = np.array([0, 3 / 4, 1 / 4])
    got = replay_chances(
        np.array([2.0, 7.0, 1.0]), np.array([0, 3, 1]), settings_of(score_temperature=0.5, staleness_coef=0.2)
    )
    assert got == pytest.approx(0.8 * by_rank + 0.2 * by_age)


def test_a_staleness_of_1_forgets_the_scores():
    age = np.array([1, 2, 5])
    got = replay_chances(np.array([9.0, 1.0, 4.0]), age, settings_of(staleness_coef=1.0))
    assert got == pytest.approx(age / 8)


def test_an_infinite_temperature_draws_visited_windows_alike():
    got = replay_chances(np.arange(5.0), np.zeros(5), settings_of(staleness_coef=0.0, score_temperature=1e9))
    assert got == pytest.approx(np.full(5, 1 / 5))


def test_a_temperature_of_0_draws_the_highest_score_alone():
    got = replay_chances(
        np.array([1.0, 3.0, 2.0]), np.zeros(3), settings_of(staleness_coef=0.0, score_temperature=1e-4)
    )
    assert got.tolist() == [0, 1, 0]


def test_windows_of_one_age_are_equally_stale():
    got = replay_chances(np.array([1.0, 3.0]), np.zeros(2, int), settings_of(staleness_coef=1.0))
    assert got.tolist() == [0.5, 0.5]


def test_new_windows_share_what_is_not_replayed_by_hand():
    score, age = np.array([5.0, 0.0, 0.0, 1.0, 0.0]), np.array([0, -1, -1, 0, -1])
    got = draw_chances(score, age, settings_of(replay_frac=0.25, staleness_coef=0.0))
    assert got == pytest.approx([0.25 * 2 / 3, 0.25, 0.25, 0.25 / 3, 0.25])


@pytest.mark.parametrize("replay_frac", [0.0, 0.5, 1.0])
def test_before_the_first_visit_all_windows_are_new_and_after_the_last_none_is(replay_frac):
    given = settings_of(replay_frac=replay_frac, staleness_coef=0.0)
    assert draw_chances(np.zeros(4), np.full(4, -1), given) == pytest.approx(np.full(4, 1 / 4))
    assert draw_chances(np.array([2.0, 1.0]), np.zeros(2), given) == pytest.approx([2 / 3, 1 / 3])


numbers = arrays(np.float64, 12, elements=st.floats(0, 100))
ages = arrays(np.int64, 12, elements=st.integers(-1, 50))


@settings(max_examples=50)
@given(numbers, ages, st.floats(0.05, 10), st.floats(0, 1), st.floats(0, 1), st.randoms())
def test_chances_are_a_distribution_that_favours_higher_scores_and_knows_no_order(
    score, age, beta, rho, replay_frac, random
):
    given_settings = settings_of(score_temperature=beta, staleness_coef=rho, replay_frac=replay_frac)
    chance = draw_chances(score, age, given_settings)
    assert (chance >= 0).all() and chance.sum() == pytest.approx(1)
    equally_old = np.flatnonzero(age == age.max()) if age.max() >= 0 else []
    ranked = sorted(equally_old, key=lambda window: -score[window])
    assert all(chance[a] >= chance[b] * (1 - 1e-12) for a, b in zip(ranked, ranked[1:], strict=False))
    order = random.sample(range(12), 12)
    if len(set(score)) == 12:
        assert draw_chances(score[order], age[order], given_settings) == pytest.approx(chance[order])


@given(st.lists(st.integers(2, 500), min_size=1, max_size=5), st.integers(50, 200))
def test_windows_cover_every_start_once_and_keep_the_length_asked_for(lengths, window_bars):
    edges = np.cumsum([0, *lengths]).tolist()
    tape = random_tape(edges[-1] + 1, 0, columns=1)
    spans = list(zip(edges[:-1], edges[1:], strict=True))
    starts = start_table(tape, spans)
    windows = cut_windows(starts, window_bars)
    covered = [bar for _, first, count, *_ in windows.tolist() for bar in range(first, first + count)]
    assert covered == [bar for first, stop in spans for bar in range(first, stop - 1)]
    assert windows[-1, rules.DRAWS] == starts[-1, rules.DRAWS]
    long = [count for _, _, count, last, _ in windows.tolist() if count < window_bars / 2]
    assert len(long) <= sum(length - 1 < window_bars / 2 for length in lengths)


def starts_drawn(vec, resets) -> np.ndarray:
    """How often episodes began on each bar."""
    counts = np.zeros(len(TAPE), int)
    for _ in range(resets):
        vec.reset_arrays()
        counts += np.bincount(vec.state()["clock"][:, rules.BAR], minlength=len(TAPE))
    return counts


def test_windows_are_drawn_as_often_as_their_chances_say_and_starts_inside_alike():
    vec = make_replay(500, seed=7, staleness_coef=0.3)
    state = vec.state()
    rng = np.random.default_rng(0)
    score, visited = rng.random(WINDOWS), np.where(rng.random(WINDOWS) < 0.5, rng.integers(0, 9, WINDOWS), -1)
    vec.load_state(state | {"score": score, "visited": visited, "rollouts": np.array([9])})
    counts = starts_drawn(vec, 100)
    drawn = np.add.reduceat(counts, FIRST)
    expected = 50_000 * draw_chances(score, np.where(visited < 0, -1, 9 - visited), settings_of(staleness_coef=0.3))
    assert ((drawn - expected) ** 2 / expected).sum() < 49.7  # chi-square, 23 degrees, p = 0.001
    top = int(drawn.argmax())
    inside = counts[FIRST[top] : FIRST[top] + 50]
    assert ((inside - inside.mean()) ** 2 / inside.mean()).sum() < 85.4  # chi-square, 49 degrees, p = 0.001


def test_a_rollout_scores_the_windows_that_it_visited_and_no_other():
    vec = make_replay(1, seed=1)
    vec.reset_arrays()
    bars = []
    advantage = np.arange(1.0, 61.0)[:, None] * np.where(np.arange(60) % 2, 1, -1)[:, None]
    for _ in range(60):
        bars.append(int(vec.state()["clock"][0, rules.BAR]))
        vec.step_arrays(np.zeros(1, int))
    vec.learned(advantage)
    window = [max(number for number, first in enumerate(FIRST) if first <= bar) for bar in bars]
    state = vec.state()
    for number in range(WINDOWS):
        own = [abs(advantage[step, 0]) for step in range(60) if window[step] == number]
        assert state["score"][number] == (pytest.approx(sum(own) / len(own)) if own else 0)
        assert state["visited"][number] == (1 if own else -1)


def test_an_episode_is_as_long_as_a_window():
    vec = make_replay(4)
    vec.reset_arrays()
    clock = vec.state()["clock"]
    assert (clock[:, rules.END] - clock[:, rules.BAR] <= 50).all()
    assert (clock[:, rules.END] - clock[:, rules.BAR] == 50).any()


@settings(max_examples=10)
@given(st.integers(0, 2**31), st.integers(0, 4))
def test_a_state_loaded_between_rollouts_continues_bit_for_bit(seed, rollouts):
    vec, other = make_replay(5, seed), make_replay(5, seed + 1)
    vec.reset_arrays(), other.reset_arrays()
    for number in range(rollouts):
        play(vec, 40, number)
    record(other, random_actions(0, 7, 5))  # what it did before is forgotten
    other.load_state(vec.state())
    for number in range(3):
        assert same(play(vec, 40, 100 + number), play(other, 40, 100 + number))
    assert same(vec.state().values(), other.state().values())


@settings(max_examples=10)
@given(st.integers(0, 2**31), st.integers(1, 4), st.integers(5, 9))
def test_with_equal_scores_what_an_environment_does_is_independent_of_how_many_there_are(seed, few, many):
    actions = random_actions(seed, 120, many)
    left, right = make_replay(few, seed), make_replay(many, seed)
    left.reset_arrays(), right.reset_arrays()
    for a, b in zip(record(left, actions[:, :few]), record(right, actions), strict=True):
        assert np.array_equal(a, b[:few])


def test_draws_go_where_the_advantages_are_large():
    """Advantages of 1 in one window and 0 elsewhere: of the replays, more than half go there."""
    vec = make_replay(64, replay_frac=1.0, staleness_coef=0.1, score_temperature=0.1)
    first = 11 * 50
    vec.reset_arrays()
    for _ in range(30):
        bars = []
        for _ in range(25):
            bars.append(vec.state()["clock"][:, rules.BAR])
            vec.step_arrays(np.zeros(64, int))
        vec.learned(((np.array(bars) >= first) & (np.array(bars) < first + 49)).astype(float))
    counts = starts_drawn(vec, 20)
    assert counts[first : first + 50].sum() > counts.sum() / 2

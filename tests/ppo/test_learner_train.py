"""Training as a whole: schedule, validation slices, selection, collapse alarm."""

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from configs.errors import BadDataError
from configs.schema import JudgingConfig
from ppo.evaluate import rollout
from ppo.learner.train import Job, TrainResult, evaluation_due, single_asset_job, start, train
from ppo.learner.update import learning_rate
from ppo.learner.validate import Validation, Validator, collapse_reasons, slice_spans
from ppo.metrics import return_metrics, trading_metrics
from ppo.rules import HOLD
from tests.ppo.worlds import COSTS, FREE, Stateless, make_tape, planted_tape, random_tape
from training.fit import TrainingDivergedError


@pytest.fixture(scope="module")
def config(quick_config):
    ppo = quick_config.ppo.model_copy(
        update={
            "num_envs": 8, "rollout_steps": 16, "minibatch_size": 64, "epochs": 1, "hidden": (8,),
            "timesteps": 1_024, "eval_every_steps": 300, "eval_slices": 3,
        }
    )  # fmt: skip
    return quick_config.model_copy(update={"ppo": ppo, "costs": COSTS})


def always(action):
    """A decision-maker that takes `action` where it is legal."""
    return Stateless(lambda obs, mask: np.where(mask[:, action], action, HOLD))


def test_the_learning_rate_falls_linearly_to_its_final_value(quick_config):
    ppo = quick_config.ppo.model_copy(update={"learning_rate": 1e-3, "learning_rate_final": 2e-4, "timesteps": 1_000})
    rates = [learning_rate(ppo, steps) for steps in (0, 500, 1_000, 1_100)]
    assert rates == pytest.approx([1e-3, 6e-4, 2e-4, 2e-4])


def test_validation_happens_when_a_multiple_is_passed_and_at_the_end(config):
    rollout = 8 * 16
    due = [steps for steps in range(rollout, 1_024 + 1, rollout) if evaluation_due(config.ppo, steps)]
    assert due == [384, 640, 1_024]  # 300, 600 and 900; 896 comes before 900


def test_a_policy_that_stopped_being_finite_is_an_error_and_never_the_best(config):
    ppo = config.ppo.model_copy(update={"learning_rate": 1e38, "learning_rate_final": 1e38})
    job = single_asset_job(
        planted_tape(600, 0), [(0, 400)], [(400, 600)], config.model_copy(update={"ppo": ppo}), seed=0
    )
    with pytest.raises(TrainingDivergedError, match=r"after 128 steps; choose a smaller ppo\.learning_rate"):
        train(job)


spans_of = st.lists(st.integers(2, 40), min_size=1, max_size=6)


@given(spans_of, st.integers(1, 7))
def test_slices_are_disjoint_within_the_spans_and_lose_at_most_single_bars(lengths, count):
    assume(sum(lengths) >= 2 * count)
    starts = np.cumsum([0, *lengths]) + 3 * np.arange(len(lengths) + 1)
    spans = [(int(first), int(first) + length) for first, length in zip(starts, lengths, strict=False)]
    pieces = slice_spans(spans, count)
    bars = [bar for _, (first, stop) in pieces for bar in range(first, stop)]
    inside = {bar for first, stop in spans for bar in range(first, stop)}
    assert len(bars) == len(set(bars)) and set(bars) <= inside
    assert bars == sorted(bars) and [number for number, _ in pieces] == sorted(number for number, _ in pieces)
    assert len(inside) - len(bars) <= len(spans) + count
    assert all(any(a <= first and stop <= b for a, b in spans) for _, (first, stop) in pieces)


def test_slices_have_equal_numbers_of_bars():
    assert slice_spans([(10, 110)], 5) == [(n, (10 + 20 * n, 30 + 20 * n)) for n in range(5)]


def test_a_slice_may_reach_over_a_gap():
    assert slice_spans([(0, 10), (20, 40)], 2) == [(0, (0, 10)), (0, (20, 25)), (1, (25, 40))]


def test_fewer_than_two_bars_for_each_slice_are_refused():
    assert len(slice_spans([(0, 3), (5, 8)], 3)) == 2  # the middle slice has one bar on each side of the gap
    with pytest.raises(BadDataError, match="has 5 bars to decide on, at least 6 are needed for 3 slices"):
        slice_spans([(0, 3), (5, 7)], 3)
    with pytest.raises(BadDataError, match="has 0 bars to decide on"):
        slice_spans([], 3)


def test_a_slice_without_a_piece_does_not_count(config):
    tape = random_tape(6, 0, columns=1, segments=2)
    got = Validator(tape, [(0, 3), (3, 6)], config, 3)(always(3))
    assert len(got.slice_scores) == 2 and np.isfinite(got.score)
    assert got.score == pytest.approx(np.mean(got.slice_scores))


def test_a_score_that_is_no_number_never_wins(trained):
    state = start(trained[0])
    assert state.consider(float("nan")) and state.consider(-3.0)
    assert not state.consider(float("nan"))
    assert state.best.score == -3.0


def test_holding_scores_zero_and_buying_scores_the_price_change_less_costs(config):
    """Prices rise 1 % on every bar; each of three slices of 20 bars is bought at the second bar's open."""
    closes = 100 * 1.01 ** np.arange(60)
    opens = np.r_[100, closes[:-1]]
    tape = make_tape(opens, np.maximum(opens, closes), closes, observation=np.zeros((60, 1)))
    validate = Validator(tape, [(0, 60)], config, 3)
    held, bought = validate(always(HOLD)), validate(always(3))
    assert held.score == 0 and held.position_changes == 0 and held.commonest_weight_frac == 1
    per_slice = 19 * np.log(1.01) - np.log((1 + COSTS.slippage_frac) * (1 + COSTS.fee_frac))
    assert bought.slice_scores == pytest.approx([per_slice / 19] * 3)
    assert bought.position_changes == 3


def test_a_score_is_the_mean_over_slices_not_over_bars(config):
    """A slice with a gap loses a bar to it, and still counts as one slice."""
    rng = np.random.default_rng(0)
    closes = 100 * np.exp(np.cumsum(rng.normal(0, 0.01, 30)))
    tape = make_tape(closes, closes, closes, observation=np.zeros((30, 1)), segment=np.arange(30) >= 5)
    free = config.model_copy(update={"costs": FREE})
    got = Validator(tape, [(0, 5), (5, 30)], free, 3)(always(3))
    move = lambda first, last: np.log(closes[last] / closes[first])  # noqa: E731
    # filled at the next open, which here is the next close: the first bar of each piece earns nothing
    slices = [(move(1, 4) + move(6, 9)) / 8, move(11, 19) / 9, move(21, 29) / 9]
    assert got.slice_scores == pytest.approx(slices)
    assert got.score == pytest.approx(np.mean(slices))


def test_validation_equals_one_account_played_slice_by_slice(config):
    """The slices side by side against each slice in an environment of its own."""
    tape = random_tape(200, 3, columns=2)

    def decide(obs, mask):
        wish = np.where(obs[:, 0] > 0.5, 3, np.where(obs[:, 1] > 0.5, 8, HOLD))
        return np.where(mask[np.arange(len(obs)), wish], wish, HOLD)

    whole = Validator(tape, [(0, 200)], config, 3)(Stateless(decide))
    alone = [Validator(tape, [span], config, 1)(Stateless(decide)) for _, span in slice_spans([(0, 200)], 3)]
    assert whole.slice_scores == pytest.approx([each.score for each in alone])
    assert whole.position_changes == sum(each.position_changes for each in alone)


@pytest.mark.parametrize("seed", range(3))
def test_the_performance_of_one_slice_is_that_of_one_account_scored_as_agents_are(config, seed):
    """Buying and closing at random on two segments, against a track and its metrics."""
    tape, spans = random_tape(200, seed, columns=2, segments=2), [(0, 100), (100, 200)]
    tape.observation[190:, 0] = 2  # closed before the end of the data, where a track pays for closing and training not
    wish = lambda obs: np.where(obs[:, 0] > 1, 7, np.where(obs[:, 0] < -1, 3, HOLD))  # noqa: E731
    agent = Stateless(lambda obs, mask: np.where(mask[np.arange(len(obs)), wish(obs)], wish(obs), HOLD))
    validated, track = Validator(tape, spans, config, 1)(agent), rollout(tape, config, spans, agent)
    expected = return_metrics(track.returns, track.equity, config, "any") | trading_metrics(track, config)
    found = validated.performance
    assert found["sharpe"] == pytest.approx(expected["sharpe"], rel=1e-6)
    assert found["standard_error"] == pytest.approx(expected["sharpe_standard_error"], rel=1e-6)
    assert found["max_drawdown"] == pytest.approx(expected["max_drawdown"], rel=1e-6)
    assert found["hit_rate"] == pytest.approx(expected["hit_rate"])
    assert expected["trades"] > 5


def test_the_performance_of_an_account_that_never_traded_is_known_to_be_nothing(config):
    found = Validator(random_tape(100, 0, columns=1), [(0, 100)], config, 2)(always(HOLD)).performance
    assert (found["sharpe"], found["max_drawdown"], found["hit_rate"]) == (0, 0, None)
    assert found["upper"] == -found["lower"] > 0


@pytest.mark.parametrize(
    ("changes", "weight_frac", "entropy", "reasons"),
    [(10, 0.5, 1.0, 0), (9, 0.5, 1.0, 1), (50, 0.99, 1.0, 1), (50, 0.5, 0.0, 1), (0, 1.0, 0.0, 3)],
)
def test_the_collapse_alarm_names_each_reason(changes, weight_frac, entropy, reasons):
    validation = Validation(0.0, (0.0,), changes, weight_frac)
    assert len(collapse_reasons(validation, entropy, 0.01, JudgingConfig())) == reasons


@pytest.fixture(scope="module")
def trained(config) -> tuple[Job, TrainResult]:
    job = single_asset_job(planted_tape(500, 1), [(0, 300)], [(300, 500)], config, seed=2)
    return job, train(job)


def test_the_best_policy_is_the_earliest_of_the_highest_scores(trained):
    job, result = trained
    scores = {row["step"]: row["validation"]["score"] for row in result.history if "validation" in row}
    assert len(scores) == 3
    assert result.best_score == max(scores.values())
    assert result.best_steps == min(step for step, score in scores.items() if score == result.best_score)
    assert job.validator()(result.policy).score == result.best_score


def test_equal_scores_keep_the_earliest_policy(trained):
    state = start(trained[0])
    state.steps = 10
    assert state.consider(1.0)
    state.steps = 20
    assert not state.consider(1.0)
    assert state.best.steps == 10


def test_later_updates_do_not_touch_the_best_policy(trained):
    state = start(trained[0])
    state.consider(0.0)
    before = state.best.weights["value_head.weight"].clone()
    state.policy.value_head.weight.data.add_(1)
    assert np.array_equal(state.best.weights["value_head.weight"], before)


def test_each_row_tells_what_to_watch(trained):
    names = {"explained_variance", "approx_kl", "clip_frac", "entropy", "grad_norm", "position_change_frac"}
    for row in trained[1].history:
        assert names <= row.keys()
        assert sum(row["action_shares"]) == pytest.approx(1)
        assert np.isfinite([row[name] for name in names]).all()


def test_training_never_reads_a_bar_after_its_spans(config):
    """Bars after the training and validation parts are changed; not one bit of the result is."""
    ends = []
    for poison in (1.0, 7.0):
        tape = planted_tape(600, 1)
        for prices in (tape.open, tape.high, tape.low, tape.close):
            prices[500:] *= poison
        tape.observation[500:] *= poison
        result = train(single_asset_job(tape, [(0, 300)], [(300, 500)], config, seed=2))
        ends.append([value.numpy().tobytes() for value in result.policy.state_dict().values()])
    assert ends[0] == ends[1]
